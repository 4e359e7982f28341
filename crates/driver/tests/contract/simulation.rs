//! What only the simulation can show: faults at will, and time that obeys.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::time::Duration;

use driver::{Call, Driver, Event, Events, Interest, Token};
use rustix::io::Errno;

const A: Token = Token(1);

#[test]
fn time_stands_still_until_the_driver_waits_and_then_jumps() {
    let driver = Driver::simulated(0);
    let mut events = Events::with_capacity(4);
    let start = driver.now();
    assert_eq!(driver.now(), start);
    let year = Duration::from_secs(365 * 24 * 3600);
    driver.wait(&mut events, Some(year)).unwrap();
    assert_eq!(driver.now(), start + year);
}

#[test]
fn a_scripted_peer_acts_at_its_time_and_ends_the_wait_then() {
    let driver = Driver::simulated(0);
    let world = driver.simulation().unwrap();
    let mut events = Events::with_capacity(4);
    let (a, b) = world.pair().unwrap();
    let peer = b.as_raw_fd();
    driver.watch(a.as_raw_fd(), Interest::READABLE, A).unwrap();
    let start = driver.now();
    world.after(Duration::from_secs(3), move |world| world.close(b));
    world.after(Duration::from_secs(2), move |world| {
        world.send(peer, b"x").unwrap();
    });
    driver.wait(&mut events, None).unwrap();
    assert_eq!(driver.now(), start + Duration::from_secs(2));
    assert_eq!(driver.recv(a.as_raw_fd(), &mut [0; 9]).unwrap(), 1);
    driver.wait(&mut events, Some(Duration::from_secs(100))).unwrap();
    assert_eq!(driver.now(), start + Duration::from_secs(3));
    assert_eq!(driver.recv(a.as_raw_fd(), &mut [0; 9]).unwrap(), 0);
}

#[test]
fn a_scripted_wake_up_ends_the_wait_at_its_time() {
    let driver = Driver::simulated(0);
    let world = driver.simulation().unwrap();
    let mut events = Events::with_capacity(4);
    let waker = driver.waker();
    let start = driver.now();
    world.after(Duration::from_millis(5), move |_| waker.wake());
    driver.wait(&mut events, None).unwrap();
    assert!(events.woken());
    assert_eq!(driver.now(), start + Duration::from_millis(5));
}

#[test]
fn no_descriptors_left_keeps_the_client_in_the_backlog() {
    let driver = Driver::simulated(0);
    let world = driver.simulation().unwrap();
    let listener = world.listener().unwrap();
    let _client = world.connect(listener.as_raw_fd()).unwrap();
    driver.watch(listener.as_raw_fd(), Interest::READABLE, A).unwrap();
    world.fail_next(listener.as_raw_fd(), Call::Accept, Errno::MFILE.raw_os_error());
    let error = driver.accept(listener.as_raw_fd()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::MFILE.raw_os_error()));
    let mut events = Events::with_capacity(4);
    driver.wait(&mut events, Some(Duration::ZERO)).unwrap();
    assert_eq!(events.get(0), Some(Event { token: A, readable: true, writable: false }));
    driver.accept(listener.as_raw_fd()).unwrap();
}

#[test]
fn a_reset_comes_after_the_data_and_only_once() {
    let driver = Driver::simulated(0);
    let world = driver.simulation().unwrap();
    let (a, b) = world.pair().unwrap();
    world.send(b.as_raw_fd(), b"last words").unwrap();
    world.reset_by_peer(a.as_raw_fd());
    let mut buffer = [0; 99];
    assert_eq!(driver.recv(a.as_raw_fd(), &mut buffer).unwrap(), 10);
    let error = driver.recv(a.as_raw_fd(), &mut buffer).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(driver.recv(a.as_raw_fd(), &mut buffer).unwrap(), 0);
    assert_eq!(driver.send(a.as_raw_fd(), b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

#[test]
fn an_interrupted_wait_loses_neither_wake_up_nor_event() {
    let driver = Driver::simulated(0);
    let world = driver.simulation().unwrap();
    let (a, _b) = world.pair().unwrap();
    driver.watch(a.as_raw_fd(), Interest::WRITABLE, A).unwrap();
    driver.waker().wake();
    let mut events = Events::with_capacity(4);
    for timeout in [None, Some(Duration::ZERO)] {
        world.interrupt_next_wait();
        assert_eq!(driver.wait(&mut events, timeout).unwrap_err().kind(), ErrorKind::Interrupted);
    }
    driver.wait(&mut events, None).unwrap();
    assert!(events.woken());
    assert_eq!(events.len(), 1);
}

#[test]
fn the_same_seed_makes_the_same_world() {
    let story = |seed| {
        let world = crate::world::World::in_trouble(seed);
        let (a, b) = world.pair();
        world.send_all(&a, &[7; 500]).unwrap();
        let mut pieces = Vec::new();
        let mut buffer = [0; 100];
        while pieces.iter().sum::<usize>() < 500 {
            match world.driver.recv(b.as_raw_fd(), &mut buffer) {
                Ok(count) => pieces.push(count),
                Err(_) => pieces.push(0),
            }
        }
        pieces
    };
    assert_eq!(story(5), story(5));
    assert_ne!(story(5), story(6));
}

#[test]
fn a_number_that_comes_again_is_another_socket() {
    let driver = Driver::simulated(0);
    let world = driver.simulation().unwrap();
    let (a, b) = world.pair().unwrap();
    driver.watch(a.as_raw_fd(), Interest::READABLE, A).unwrap();
    let (old_a, number) = (a.as_raw_fd(), b.as_raw_fd());
    driver.close(a).unwrap();
    let (c, _d) = world.pair().unwrap();
    if c.as_raw_fd() == old_a {
        world.send(number, b"x").unwrap_err();
        let mut events = Events::with_capacity(4);
        driver.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert!(events.is_empty());
    }
    assert_eq!(driver.recv(number, &mut [0; 9]).unwrap(), 0);
}
