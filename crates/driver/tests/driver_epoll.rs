//! The epoll driver against real sockets: what only the kernel can show. What every backend must do is in `tests/contract`.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use driver::{Driver, Event, Events, Interest, Token};

fn pair() -> (UnixStream, UnixStream) {
    let (a, b) = UnixStream::pair().unwrap();
    a.set_nonblocking(true).unwrap();
    b.set_nonblocking(true).unwrap();
    (a, b)
}

#[test]
fn a_watched_socket_is_reported_until_it_is_read() {
    let driver = Driver::epoll().unwrap();
    let mut events = Events::with_capacity(8);
    let (a, mut b) = pair();
    driver
        .watch(a.as_raw_fd(), Interest::READABLE, Token(u64::MAX))
        .unwrap();
    b.write_all(b"x").unwrap();
    for _ in 0..2 {
        driver.wait(&mut events, None).unwrap();
        assert_eq!(
            events.get(0),
            Some(Event {
                token: Token(u64::MAX),
                readable: true,
                writable: false
            })
        );
    }
    let mut byte = [0; 8];
    assert_eq!(driver.recv(a.as_raw_fd(), &mut byte).unwrap(), 1);
    driver.wait(&mut events, Some(Duration::ZERO)).unwrap();
    assert!(events.is_empty());
}

#[test]
fn a_wake_up_before_the_wait_ends_it_and_is_reported_once() {
    let driver = Driver::epoll().unwrap();
    let mut events = Events::with_capacity(8);
    let waker = driver.waker();
    waker.wake();
    waker.wake();
    driver.wait(&mut events, None).unwrap();
    assert!(events.woken());
    driver.wait(&mut events, Some(Duration::ZERO)).unwrap();
    assert!(!events.woken());
}

#[test]
fn a_wake_up_from_another_thread_ends_a_sleep_without_limit() {
    let driver = Driver::epoll().unwrap();
    let mut events = Events::with_capacity(8);
    for _ in 0..100 {
        let waker = driver.waker();
        let thread = std::thread::spawn(move || waker.wake());
        let mut woken = false;
        while !woken {
            driver.wait(&mut events, None).unwrap();
            woken = events.woken();
        }
        thread.join().unwrap();
    }
}

#[test]
fn a_timeout_is_never_early() {
    let driver = Driver::epoll().unwrap();
    let mut events = Events::with_capacity(1);
    for nanos in [1, 999, 30_000, 1_000_001] {
        let timeout = Duration::from_nanos(nanos);
        let deadline = driver.now() + timeout;
        driver.wait(&mut events, Some(timeout)).unwrap();
        assert!(driver.now() >= deadline);
    }
}

#[test]
fn a_reused_number_gets_no_event_of_its_predecessor() {
    let driver = Driver::epoll().unwrap();
    let mut events = Events::with_capacity(8);
    let (a, mut b) = pair();
    let number = a.as_raw_fd();
    driver.watch(number, Interest::READABLE, Token(1)).unwrap();
    // A duplicate keeps the old registration alive in the kernel, where nobody can reach it any more.
    let duplicate = a.try_clone().unwrap();
    b.write_all(b"x").unwrap();
    // Closes the number and gives it to `c`'s file, in one step that no other test can come between.
    let (c, _d) = pair();
    let mut reused = OwnedFd::from(a);
    rustix::io::dup2(&c, &mut reused).unwrap();
    driver.watch(number, Interest::READABLE, Token(2)).unwrap();
    driver.wait(&mut events, Some(Duration::ZERO)).unwrap();
    assert!(events.is_empty(), "{events:?}");
    drop((reused, duplicate));
}

#[test]
fn a_regular_file_is_refused_with_eperm() {
    let driver = Driver::epoll().unwrap();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let error = driver
        .watch(file.as_raw_fd(), Interest::READABLE, Token(0))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

#[test]
fn writing_to_a_closed_peer_is_an_error_and_not_a_signal() {
    let driver = Driver::epoll().unwrap();
    let (a, b) = pair();
    drop(b);
    let error = driver.send(a.as_raw_fd(), b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

#[test]
fn a_vectored_send_arrives_in_order() {
    let driver = Driver::epoll().unwrap();
    let (a, mut b) = pair();
    let slices = [
        std::io::IoSlice::new(b"one "),
        std::io::IoSlice::new(b"two"),
    ];
    assert_eq!(driver.send_vectored(a.as_raw_fd(), &slices).unwrap(), 7);
    driver.shutdown_write(a.as_raw_fd()).unwrap();
    let mut text = String::new();
    b.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one two");
}
