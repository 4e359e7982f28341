//! How the ends of children are told, by real children.
#![cfg(not(any(miri, loom)))]
#![expect(clippy::zombie_processes, reason = "reap_child collects them: that is what is tested")]

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use driver::{Driver, Events, Interest, Token, open_child, reap_child};

const ECHILD: i32 = 10;

fn ended(pidfd: &OwnedFd) {
    let driver = Driver::epoll().unwrap();
    driver.watch(pidfd.as_raw_fd(), Interest::READABLE, Token(1)).unwrap();
    let mut events = Events::with_capacity(1);
    while events.is_empty() {
        driver.wait(&mut events, None).unwrap();
    }
}

#[test]
fn a_child_is_collected_once_and_no_other_is_touched() {
    let mut other = Command::new("sh").args(["-c", "exit 4"]).spawn().unwrap();
    let other_pidfd = open_child(other.id() as i32).unwrap();
    let mut child = Command::new("sh").args(["-c", "read go; exit 3"]).stdin(Stdio::piped()).spawn().unwrap();
    let pid = child.id() as i32;
    let pidfd = open_child(pid).unwrap();
    ended(&other_pidfd);
    assert_eq!(reap_child(&pidfd, pid).unwrap(), None);
    drop(child.stdin.take());
    ended(&pidfd);
    assert_eq!(reap_child(&pidfd, pid).unwrap(), Some(3));
    assert_eq!(reap_child(&pidfd, pid).unwrap_err().raw_os_error(), Some(ECHILD));
    assert_eq!(other.wait().unwrap().code(), Some(4));
}

#[test]
fn a_signal_that_ends_a_child_is_a_negative_code() {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = child.id() as i32;
    let pidfd = open_child(pid).unwrap();
    child.kill().unwrap();
    ended(&pidfd);
    assert_eq!(reap_child(&pidfd, pid).unwrap(), Some(-9));
    assert!(child.wait().map_or(true, |status| status.signal() == Some(9)));
}

#[test]
fn no_child_has_the_number_zero_or_less() {
    for pid in [0, -1, i32::MIN] {
        assert!(open_child(pid).is_err());
    }
}
