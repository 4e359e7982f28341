//! A counter in the kernel whose only use is to make an epoll set ready.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    pub(crate) fn new() -> io::Result<EventFd> {
        Ok(EventFd(eventfd(
            0,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    /// One edge. Async-signal-safe; the raw system call leaves `errno` alone.
    pub(crate) fn signal(&self) {
        // The counter cannot overflow (EAGAIN) in this universe, and the descriptor is ours: nothing can fail here that
        // a caller, possibly a signal handler, could do anything about.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
