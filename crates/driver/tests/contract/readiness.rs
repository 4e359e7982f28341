//! Contract 1 to 6.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use driver::{Event, Events, Interest, Token};

use crate::world::World;

on_every_world!(
    a_socket_with_data_is_reported_until_the_data_is_read,
    an_idle_socket_is_writable_and_not_readable,
    a_full_socket_is_writable_again_when_its_peer_reads,
    only_the_directions_asked_for_are_reported,
    a_gone_peer_is_reported_in_every_direction_asked_for_and_in_no_other,
    interest_in_nothing_is_quiet_even_when_the_peer_is_gone,
    watching_again_replaces_token_and_interest,
    rewatching_what_is_not_watched_watches_it,
    unwatching_what_is_not_watched_does_nothing,
    an_unwatched_socket_is_not_reported,
    all_64_bits_of_a_token_come_back,
    a_regular_file_and_a_bad_number_are_refused,
    a_small_buffer_starves_nobody,
    who_asks_for_changes_hears_of_what_is_and_of_what_comes_after_would_block,
    where_a_short_read_empties_whatever_comes_after_it_is_reported,
    the_end_that_came_with_data_is_not_hidden_by_a_short_read,
);

const A: Token = Token(1);
const B: Token = Token(2);

fn readable(token: Token) -> Event {
    Event { token, readable: true, writable: false }
}

fn writable(token: Token) -> Event {
    Event { token, readable: false, writable: true }
}

fn a_socket_with_data_is_reported_until_the_data_is_read(world: &World) {
    let (a, b) = world.pair();
    world.driver.watch(a.as_raw_fd(), Interest::READABLE, A).unwrap();
    assert_eq!(world.events_now(), []);
    world.send_all(&b, b"two").unwrap();
    assert_eq!(world.events(), [readable(A)]);
    assert_eq!(world.driver.recv(a.as_raw_fd(), &mut [0; 2]).unwrap(), 2);
    assert_eq!(world.events(), [readable(A)]);
    assert_eq!(world.driver.recv(a.as_raw_fd(), &mut [0; 2]).unwrap(), 1);
    assert_eq!(world.events_now(), []);
}

fn who_asks_for_changes_hears_of_what_is_and_of_what_comes_after_would_block(world: &World) {
    let (a, b) = world.pair();
    let number = a.as_raw_fd();
    let changes = Interest::READABLE | Interest::CHANGES;
    world.send_all(&b, b"x").unwrap();
    world.driver.watch(number, changes, A).unwrap();
    assert_eq!(world.events(), [readable(A)]);
    world.driver.rewatch(number, changes, B).unwrap();
    assert_eq!(world.events(), [readable(B)]);
    for _ in 0..3 {
        assert_eq!(world.driver.recv(number, &mut [0; 2]).unwrap(), 1);
        assert_eq!(world.driver.recv(number, &mut [0; 2]).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(world.events_now(), []);
        world.send_all(&b, b"y").unwrap();
        assert_eq!(world.events(), [readable(B)]);
    }
}

fn an_idle_socket_is_writable_and_not_readable(world: &World) {
    let (a, _b) = world.pair();
    world.driver.watch(a.as_raw_fd(), Interest::BOTH, A).unwrap();
    assert_eq!(world.events(), [writable(A)]);
}

fn a_full_socket_is_writable_again_when_its_peer_reads(world: &World) {
    let (a, b) = world.pair();
    let chunk = [7; 1 << 16];
    let mut sent = 0;
    // TCP goes on moving bytes from our buffer to the peer's for a moment: full is what stays full.
    loop {
        match world.driver.send(a.as_raw_fd(), &chunk) {
            Ok(count) => sent += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                world.driver.rewatch(a.as_raw_fd(), Interest::WRITABLE, A).unwrap();
                if world.events_now().is_empty() {
                    break;
                }
            }
        }
    }
    let mut received = 0;
    while received < sent {
        let number = b.as_raw_fd();
        received +=
            world.persist(number, Interest::READABLE, || world.driver.recv(number, &mut vec![0; 1 << 16])).unwrap();
    }
    assert_eq!(received, sent);
    assert_eq!(world.events(), [writable(A)]);
}

fn only_the_directions_asked_for_are_reported(world: &World) {
    let (a, b) = world.pair();
    world.send_all(&b, b"x").unwrap();
    world.driver.watch(a.as_raw_fd(), Interest::WRITABLE, A).unwrap();
    assert_eq!(world.events(), [writable(A)]);
    world.driver.rewatch(a.as_raw_fd(), Interest::READABLE, A).unwrap();
    assert_eq!(world.events(), [readable(A)]);
    world.driver.rewatch(a.as_raw_fd(), Interest::BOTH, A).unwrap();
    assert_eq!(world.events(), [Event { token: A, readable: true, writable: true }]);
}

fn a_gone_peer_is_reported_in_every_direction_asked_for_and_in_no_other(world: &World) {
    for (interest, expected) in [
        (Interest::READABLE, readable(A)),
        (Interest::WRITABLE, writable(A)),
        (Interest::BOTH, Event { token: A, readable: true, writable: true }),
    ] {
        let (a, b) = world.pair();
        // Something unread makes it an error, not only an end.
        world.send_all(&a, b"x").unwrap();
        world.driver.close(b).unwrap();
        world.driver.watch(a.as_raw_fd(), interest, A).unwrap();
        assert_eq!(world.events(), [expected]);
        world.driver.close(a).unwrap();
    }
}

fn interest_in_nothing_is_quiet_even_when_the_peer_is_gone(world: &World) {
    let (a, b) = world.pair();
    world.driver.watch(a.as_raw_fd(), Interest::BOTH, A).unwrap();
    world.driver.rewatch(a.as_raw_fd(), Interest::NONE, A).unwrap();
    world.send_all(&a, b"x").unwrap();
    world.driver.close(b).unwrap();
    let before = world.driver.now();
    let mut events = Events::with_capacity(4);
    let timeout = Duration::from_millis(2);
    world.driver.wait(&mut events, Some(timeout)).unwrap();
    assert!(events.is_empty());
    assert!(world.driver.now() >= before + timeout);
    world.driver.rewatch(a.as_raw_fd(), Interest::READABLE, B).unwrap();
    assert_eq!(world.events(), [readable(B)]);
}

fn watching_again_replaces_token_and_interest(world: &World) {
    let (a, b) = world.pair();
    world.send_all(&b, b"x").unwrap();
    world.driver.watch(a.as_raw_fd(), Interest::READABLE, A).unwrap();
    world.driver.watch(a.as_raw_fd(), Interest::WRITABLE, B).unwrap();
    assert_eq!(world.events(), [writable(B)]);
}

fn rewatching_what_is_not_watched_watches_it(world: &World) {
    let (a, b) = world.pair();
    world.driver.rewatch(a.as_raw_fd(), Interest::READABLE, A).unwrap();
    world.send_all(&b, b"x").unwrap();
    assert_eq!(world.events(), [readable(A)]);
}

fn unwatching_what_is_not_watched_does_nothing(world: &World) {
    let (a, _b) = world.pair();
    world.driver.unwatch(a.as_raw_fd()).unwrap();
    world.driver.unwatch(-1).unwrap();
    world.driver.unwatch(100_000).unwrap();
}

fn an_unwatched_socket_is_not_reported(world: &World) {
    let (a, b) = world.pair();
    world.driver.watch(a.as_raw_fd(), Interest::READABLE, A).unwrap();
    world.send_all(&b, b"x").unwrap();
    assert_eq!(world.events(), [readable(A)]);
    world.driver.unwatch(a.as_raw_fd()).unwrap();
    assert_eq!(world.events_now(), []);
}

fn all_64_bits_of_a_token_come_back(world: &World) {
    let (a, _b) = world.pair();
    for token in [Token(u64::MAX), Token(0), Token(1 << 63)] {
        world.driver.rewatch(a.as_raw_fd(), Interest::WRITABLE, token).unwrap();
        assert_eq!(world.events(), [writable(token)]);
    }
}

fn a_regular_file_and_a_bad_number_are_refused(world: &World) {
    let file = world.regular_file();
    for interest in [Interest::READABLE, Interest::BOTH] {
        let refused = world.driver.watch(file.as_raw_fd(), interest, A).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::PERM.raw_os_error()));
    }
    for number in [-1, 100_000] {
        let refused = world.driver.watch(number, Interest::READABLE, A).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::BADF.raw_os_error()));
    }
}

fn a_small_buffer_starves_nobody(world: &World) {
    let pairs: Vec<(OwnedFd, OwnedFd)> = (0..10).map(|_| world.pair()).collect();
    for (number, (a, _)) in pairs.iter().enumerate() {
        world.driver.watch(a.as_raw_fd(), Interest::WRITABLE, Token(number as u64)).unwrap();
    }
    let mut events = Events::with_capacity(3);
    let mut seen = HashSet::new();
    // Ten are ready all the time; three fit into a wait: four waits show them all.
    for _ in 0..4 {
        world.driver.wait(&mut events, None).unwrap();
        assert_eq!(events.len(), 3);
        seen.extend(events.iter().map(|event| event.token));
    }
    assert_eq!(seen.len(), 10);
}

fn where_a_short_read_empties_whatever_comes_after_it_is_reported(world: &World) {
    let (a, b) = world.pair();
    let number = a.as_raw_fd();
    world.driver.watch(number, Interest::READABLE | Interest::CHANGES, A).unwrap();
    world.send_all(&b, b"one").unwrap();
    assert_eq!(world.events(), [readable(A)]);
    assert_eq!(world.driver.recv(number, &mut [0; 9]).unwrap(), 3);
    if !world.driver.short_read_empties(number) {
        return;
    }
    world.send_all(&b, b"two").unwrap();
    assert_eq!(world.events(), [readable(A)]);
    assert_eq!(world.driver.recv(number, &mut [0; 9]).unwrap(), 3);
    assert!(world.driver.short_read_empties(number));
    world.driver.close(b).unwrap();
    assert_eq!(world.events(), [readable(A)]);
    assert_eq!(world.driver.recv(number, &mut [0; 9]).unwrap(), 0);
}

fn the_end_that_came_with_data_is_not_hidden_by_a_short_read(world: &World) {
    let (a, b) = world.pair();
    let number = a.as_raw_fd();
    world.driver.watch(number, Interest::READABLE | Interest::CHANGES, A).unwrap();
    world.send_all(&b, b"last").unwrap();
    world.driver.close(b).unwrap();
    assert_eq!(world.events(), [readable(A)]);
    assert_eq!(world.driver.recv(number, &mut [0; 9]).unwrap(), 4);
    assert!(!world.driver.short_read_empties(number));
    assert_eq!(world.driver.recv(number, &mut [0; 9]).unwrap(), 0);
}
