//! What only the kernel can show about the epoll driver. What every backend must do is in `tests/contract`.
#![cfg(not(miri))]

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
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
fn a_short_read_empties_plain_tcp_until_urgent_data_has_come() {
    let driver = Driver::epoll().unwrap();
    let mut events = Events::with_capacity(8);
    let changes = Interest::READABLE | Interest::CHANGES;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    let (number, mut buffer) = (socket.as_raw_fd(), [0; 9]);
    driver.watch(number, Interest::READABLE, Token(1)).unwrap();
    assert!(!driver.short_read_empties(number));
    driver.rewatch(number, changes, Token(1)).unwrap();
    assert!(driver.short_read_empties(number));
    peer.write_all(b"one").unwrap();
    rustix::net::send(&peer, b"!", rustix::net::SendFlags::OOB).unwrap();
    peer.write_all(b"two").unwrap();
    driver.wait(&mut events, None).unwrap();
    assert_eq!(driver.recv(number, &mut buffer).unwrap(), 3);
    assert!(!driver.short_read_empties(number));
    assert_eq!(driver.recv(number, &mut buffer).unwrap(), 3);
    let (unix, _other) = pair();
    driver.watch(unix.as_raw_fd(), changes, Token(2)).unwrap();
    assert!(!driver.short_read_empties(unix.as_raw_fd()));
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
