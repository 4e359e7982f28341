//! The buffers against a plain `Vec<u8>`: in order, whole, once.

use driver::{IO_SLICES_MAX, WriteQueue};
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
    ProptestConfig {
        cases: if cfg!(miri) { 5 } else { count },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
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
