//! What only the kernel can show about the epoll driver. What every backend must do is in `tests/contract`.
#![cfg(not(miri))]

use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use driver::{Driver, Events, Interest, Token};

fn pair() -> (UnixStream, UnixStream) {
    UnixStream::pair().unwrap()
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
fn a_closed_driver_gives_its_descriptors_back_and_refuses_politely() {
    let driver = Driver::epoll().unwrap();
    let waker = driver.waker();
    driver.shut_down().unwrap();
    driver.shut_down().unwrap();
    waker.wake();
    let refused = driver.watch(0, Interest::READABLE, Token(1)).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(9));
    let refused = driver.wait(&mut Events::with_capacity(1), Some(Duration::ZERO)).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(9));
    assert!(driver.now() > driver::Time::from_nanos(0));
}
