//! Contract 7 to 9.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use driver::{Events, Interest, Token};

use crate::world::World;

on_every_world!(
    a_timeout_is_never_early,
    many_wake_ups_before_a_wait_end_it_once,
    a_wake_up_can_be_taken_without_a_wait,
    another_thread_ends_a_wait_without_limit,
    a_wake_up_and_an_event_are_reported_together,
    an_old_wake_up_does_not_end_a_later_wait,
    only_one_thread_waits,
);

fn a_timeout_is_never_early(world: &World) {
    let mut events = Events::with_capacity(4);
    for nanos in [0, 1, 999, 30_000, 1_000_001, 2_500_000] {
        let timeout = Duration::from_nanos(nanos);
        let deadline = world.driver.now() + timeout;
        world.driver.wait(&mut events, Some(timeout)).unwrap();
        assert!(world.driver.now() >= deadline);
        assert!(events.is_empty() && !events.woken());
    }
}

fn many_wake_ups_before_a_wait_end_it_once(world: &World) {
    let mut events = Events::with_capacity(4);
    let waker = world.driver.waker();
    for _ in 0..1000 {
        waker.wake();
    }
    world.driver.wait(&mut events, None).unwrap();
    assert!(events.woken());
    world.driver.wait(&mut events, Some(Duration::ZERO)).unwrap();
    assert!(!events.woken());
}

fn a_wake_up_can_be_taken_without_a_wait(world: &World) {
    assert!(!world.driver.take_wake());
    world.driver.waker().wake();
    assert!(world.driver.take_wake());
    assert!(!world.driver.take_wake());
    let mut events = Events::with_capacity(4);
    world.driver.wait(&mut events, Some(Duration::ZERO)).unwrap();
    assert!(!events.woken());
}

fn another_thread_ends_a_wait_without_limit(world: &World) {
    let mut events = Events::with_capacity(4);
    let rounds = if cfg!(miri) { 3 } else { 200 };
    thread::scope(|scope| {
        let waker = world.driver.waker();
        let (report, reported) = std::sync::mpsc::channel();
        scope.spawn(move || {
            for _ in 0..rounds {
                waker.wake();
                // The next one only when this one arrived: each of them has to.
                reported.recv().unwrap();
            }
        });
        for _ in 0..rounds {
            loop {
                world.driver.wait(&mut events, None).unwrap();
                if events.woken() {
                    break;
                }
            }
            report.send(()).unwrap();
        }
    });
}

fn a_wake_up_and_an_event_are_reported_together(world: &World) {
    let (a, _b) = world.pair();
    world.driver.watch(a.as_raw_fd(), Interest::WRITABLE, Token(3)).unwrap();
    world.driver.waker().wake();
    let mut events = Events::with_capacity(4);
    world.driver.wait(&mut events, None).unwrap();
    assert!(events.woken());
    assert_eq!(events.len(), 1);
}

fn an_old_wake_up_does_not_end_a_later_wait(world: &World) {
    let mut events = Events::with_capacity(4);
    world.driver.waker().wake();
    world.driver.wait(&mut events, None).unwrap();
    // While awake: no call reaches the kernel, so nothing is left over there.
    world.driver.waker().wake();
    assert!(world.driver.take_wake());
    let timeout = Duration::from_millis(2);
    let deadline = world.driver.now() + timeout;
    world.driver.wait(&mut events, Some(timeout)).unwrap();
    assert!(!events.woken());
    assert!(world.driver.now() >= deadline);
}

fn only_one_thread_waits(world: &World) {
    let waker = world.driver.waker();
    let outcomes: Vec<_> = thread::scope(|scope| {
        let waiters = [0, 1].map(|_| {
            scope.spawn(|| {
                let mut events = Events::with_capacity(4);
                let outcome = world.driver.wait(&mut events, None).map_err(|error| error.kind());
                // Whoever is refused ends the other's sleep.
                waker.wake();
                outcome
            })
        });
        waiters.into_iter().map(|waiter| waiter.join().unwrap()).collect()
    });
    assert!(outcomes.contains(&Err(ErrorKind::ResourceBusy)), "{outcomes:?}");
    assert!(outcomes.contains(&Ok(())), "{outcomes:?}");
}
