//! The buffers against a plain `Vec<u8>`: in order, whole, once.

use driver::{IO_SLICES_MAX, Progress, ReadBuffer, Scan, Separators, WriteQueue};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum WriteStep {
    Push(Vec<u8>),
    /// The kernel is offered this many chunks and takes this share of the bytes.
    Flush(usize, prop::sample::Index),
    Clear,
}

fn write_step() -> impl Strategy<Value = WriteStep> {
    prop_oneof![
        6 => vec(any::<u8>(), 0..20).prop_map(WriteStep::Push),
        4 => (1..100usize, any::<prop::sample::Index>()).prop_map(|(max, share)| WriteStep::Flush(max, share)),
        1 => Just(WriteStep::Clear),
    ]
}

fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { cases: if cfg!(miri) { 2 } else { count }, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn a_write_queue_sends_every_byte_once_and_in_order(steps in vec(write_step(), 1..60)) {
        let mut queue = WriteQueue::new();
        let mut model: Vec<u8> = Vec::new();
        let mut chunks_pushed = 0;
        let mut chunks_gone = 0;
        for step in steps {
            match step {
                WriteStep::Push(chunk) => {
                    model.extend(&chunk);
                    chunks_pushed += usize::from(!chunk.is_empty());
                    queue.push(chunk);
                }
                WriteStep::Flush(max, share) => {
                    let slices = queue.io_slices(max);
                    prop_assert!(slices.len() <= max.min(IO_SLICES_MAX));
                    let offered: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                    prop_assert!(model.starts_with(&offered));
                    prop_assert_eq!(offered.is_empty(), model.is_empty());
                    let taken = share.index(offered.len() + 1);
                    queue.consume_with(taken, |_| chunks_gone += 1);
                    model.drain(..taken);
                }
                WriteStep::Clear => {
                    chunks_gone += queue.clear().len();
                    model.clear();
                }
            }
            prop_assert_eq!(queue.len_bytes(), model.len());
            prop_assert_eq!(queue.is_empty(), model.is_empty());
            prop_assert_eq!(queue.chunk_count(), chunks_pushed - chunks_gone);
            prop_assert_eq!(queue.front().is_none(), model.is_empty());
            if let Some(front) = queue.front() {
                prop_assert!(!front.is_empty() && model.starts_with(front));
            }
        }
    }
}

#[test]
fn the_rest_of_a_write_that_was_taken_in_part_is_queued_without_its_beginning() {
    let mut queue = WriteQueue::new();
    queue.push_from(b"hello".to_vec(), 3);
    queue.push(b" world".to_vec());
    assert_eq!(queue.len_bytes(), 8);
    assert_eq!(queue.front(), Some(&b"lo"[..]));
    queue.push_from(Vec::new(), 0);
    assert_eq!(queue.chunk_count(), 2);
    queue.consume(8);
    assert!(queue.is_empty());
}

#[test]
#[should_panic = "took 2 bytes of 1"]
fn consuming_more_than_there_is_is_a_bug_that_shows() {
    let mut queue = WriteQueue::new();
    queue.push(b"x".to_vec());
    queue.consume(2);
}

#[derive(Clone, Debug)]
enum ReadStep {
    Arrive(Vec<u8>),
    Take(prop::sample::Index),
    /// One `readuntil`, fed in pieces of this size.
    Until(Vec<Vec<u8>>, usize, usize),
}

fn read_step() -> impl Strategy<Value = ReadStep> {
    // Few letters, so that separators occur and overlap.
    let text = || vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'c')], 0..200);
    let separator = vec(prop_oneof![Just(b'a'), Just(b'b'), Just(b'c')], 1..6);
    prop_oneof![
        3 => text().prop_map(ReadStep::Arrive),
        2 => any::<prop::sample::Index>().prop_map(ReadStep::Take),
        4 => (vec(separator, 1..4), 1..20usize, 0..40usize)
            .prop_map(|(separators, piece, limit)| ReadStep::Until(separators, piece, limit)),
    ]
}

/// The definition: the shortest beginning that ends with a separator; of the separators that end there, the shortest is measured.
fn first_match(bytes: &[u8], separators: &[Vec<u8>]) -> Option<(usize, usize)> {
    (1..=bytes.len()).find_map(|end| {
        let ending = separators.iter().filter(|separator| bytes[..end].ends_with(separator));
        ending.map(|separator| separator.len()).min().map(|len| (end - len, end))
    })
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn a_read_buffer_gives_every_byte_once_and_in_order(steps in vec(read_step(), 1..if cfg!(miri) { 5 } else { 30 })) {
        let mut buffer = ReadBuffer::new();
        let mut model: Vec<u8> = Vec::new();
        for step in steps {
            match step {
                ReadStep::Arrive(bytes) => {
                    buffer.extend(&bytes).unwrap();
                    model.extend(bytes);
                }
                ReadStep::Take(share) => {
                    let count = share.index(model.len() + 1);
                    prop_assert_eq!(buffer.exactly(count), Some(&model[..count]));
                    prop_assert_eq!(buffer.exactly(model.len() + 1), None);
                    buffer.consume(count);
                    model.drain(..count);
                }
                ReadStep::Until(list, piece, limit) => {
                    let separators = Separators::new(&list).unwrap();
                    let mut fed = ReadBuffer::new();
                    let mut progress = Progress::default();
                    let mut outcome = fed.scan(&separators, &mut progress, limit);
                    for bytes in model.chunks(piece) {
                        if outcome != Scan::NotYet {
                            break;
                        }
                        fed.extend(bytes).unwrap();
                        outcome = fed.scan(&separators, &mut progress, limit);
                    }
                    match outcome {
                        Scan::Found { end } => {
                            let (start, first_end) = first_match(&model, &list).unwrap();
                            prop_assert_eq!(end, first_end);
                            prop_assert!(start <= limit);
                            buffer.consume(end);
                            model.drain(..end);
                        }
                        Scan::TooFar { start } => {
                            prop_assert_eq!(Some(start), first_match(&model, &list).map(|found| found.0));
                            prop_assert!(start > limit);
                        }
                        Scan::TooLong { searched } => {
                            prop_assert!(searched > limit);
                            prop_assert_eq!(first_match(fed.as_slice(), &list), None);
                        }
                        Scan::NotYet => prop_assert_eq!(first_match(&model, &list), None),
                    }
                }
            }
            prop_assert_eq!(buffer.as_slice(), &model[..]);
            prop_assert_eq!(buffer.len(), model.len());
            prop_assert_eq!(buffer.is_empty(), model.is_empty());
        }
    }
}
