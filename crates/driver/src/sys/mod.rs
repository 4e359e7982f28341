//! Safe wrappers around system calls: the only unsafe lines of the crate, and the only ones that know libc.
//!
//! **File descriptors here are numbers.** The loop is told numbers by programs (`add_reader(7, …)`) that may close them at any
//! time, so nothing can prove that a number is open. What the wrappers rely on instead: a system call on a number that is not
//! open fails with EBADF, and on one that was reused acts on what the program put there, exactly as for any program that
//! uses numbers. No memory is reachable through a number.
#![allow(unsafe_code)]

pub(crate) mod address;
pub(crate) mod clock;
pub(crate) mod closable;
pub(crate) mod epoll;
pub(crate) mod event_fd;
pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod process;
pub(crate) mod resolve;
pub(crate) mod socket;
pub(crate) mod thread;

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

/// A number as rustix wants it, for the length of one system call.
#[inline]
pub(crate) fn borrow<'a>(fd: RawFd) -> io::Result<BorrowedFd<'a>> {
    if fd < 0 {
        return Err(rustix::io::Errno::BADF.into());
    }
    // SAFETY: `fd` is not -1, which is the one value the type forbids. That it is open cannot be promised (see the head);
    // every caller hands the borrow to one system call, which checks the number itself, and drops it.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}
