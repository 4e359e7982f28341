//! Contract 10, and that bytes arrive whole, in order and once.

use std::io::{ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use driver::{Interest, WriteQueue};

use crate::world::World;

even_in_trouble!(
    what_was_sent_arrives_and_then_the_end,
    a_queue_of_chunks_arrives_in_order_however_little_the_kernel_takes,
    both_directions_work_after_one_was_shut,
);

mod exactly {
    use super::*;

    on_every_world!(
        an_empty_socket_would_block,
        receiving_into_uninitialised_memory_takes_as_much_as_it_says,
        sending_to_a_gone_peer_is_an_error_and_no_signal,
        a_closed_number_is_refused,
    );

    fn an_empty_socket_would_block(world: &World) {
        let (a, _b) = world.pair();
        let error = world.driver.recv(a.as_raw_fd(), &mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }

    fn receiving_into_uninitialised_memory_takes_as_much_as_it_says(world: &World) {
        let (a, b) = world.pair();
        world.send_all(&b, b"abc").unwrap();
        world.driver.watch(a.as_raw_fd(), Interest::READABLE, driver::Token(0)).unwrap();
        world.events();
        // Reading what was received would take unsafe code; that the rest comes next shows that as much was taken as was said.
        let mut buffer = [MaybeUninit::uninit(); 2];
        assert_eq!(world.driver.recv_uninit(a.as_raw_fd(), &mut buffer).unwrap(), 2);
        let mut rest = [0; 5];
        assert_eq!(world.driver.recv(a.as_raw_fd(), &mut rest).unwrap(), 1);
        assert_eq!(rest[0], b'c');
    }

    fn sending_to_a_gone_peer_is_an_error_and_no_signal(world: &World) {
        let (a, b) = world.pair();
        world.driver.close(b).unwrap();
        // TCP learns of it with the answer to the first send.
        let error = loop {
            match world.driver.send(a.as_raw_fd(), b"x") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
    }

    fn a_closed_number_is_refused(world: &World) {
        for number in [-1, 100_000] {
            let error = world.driver.recv(number, &mut [0; 8]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::BADF.raw_os_error()));
        }
    }
}

/// Bytes that do not repeat in a small period, so that a lost or a doubled one shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn what_was_sent_arrives_and_then_the_end(world: &World) {
    let (a, b) = world.pair();
    let sent = pattern(5_000);
    world.send_all(&a, &sent).unwrap();
    world.shutdown_write(&a);
    assert_eq!(world.recv_to_end(&b).unwrap(), sent);
}

fn a_queue_of_chunks_arrives_in_order_however_little_the_kernel_takes(world: &World) {
    let (a, b) = world.pair();
    let sent = pattern(6_000);
    let mut queue = WriteQueue::new();
    for chunk in sent.chunks(61) {
        queue.push(chunk.to_vec());
    }
    while !queue.is_empty() {
        let taken = world
            .persist(a.as_raw_fd(), Interest::WRITABLE, || {
                let slices: &[IoSlice<'_>] = &queue.io_slices(7);
                world.driver.send_vectored(a.as_raw_fd(), slices)
            })
            .unwrap();
        queue.consume(taken);
    }
    world.shutdown_write(&a);
    assert_eq!(world.recv_to_end(&b).unwrap(), sent);
}

fn both_directions_work_after_one_was_shut(world: &World) {
    let (a, b) = world.pair();
    world.shutdown_write(&a);
    assert_eq!(world.recv_to_end(&b).unwrap(), b"");
    world.send_all(&b, b"still here").unwrap();
    world.shutdown_write(&b);
    assert_eq!(world.recv_to_end(&a).unwrap(), b"still here");
    let error = world.persist(a.as_raw_fd(), Interest::WRITABLE, || world.driver.send(a.as_raw_fd(), b"x"));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::BrokenPipe);
}
