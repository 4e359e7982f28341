//! A counter in the kernel whose only use is to make an epoll set ready.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::closable::ClosableFd;

pub(crate) struct EventFd(ClosableFd);

impl EventFd {
    pub(crate) fn new() -> io::Result<EventFd> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(EventFd(ClosableFd::new(fd)))
    }

    /// One edge. Async-signal-safe; the raw system call leaves `errno` alone.
    pub(crate) fn signal(&self) {
        // The counter cannot overflow (EAGAIN) in this universe, and nobody sleeps on a closed one: nothing can fail
        // here that a caller, possibly a signal handler, could do anything about.
        let _ = self.0.with(|fd| rustix::io::write(fd, &1u64.to_ne_bytes()));
    }

    pub(crate) fn with_fd<R>(&self, call: impl FnOnce(BorrowedFd<'_>) -> Result<R, Errno>) -> Result<R, Errno> {
        self.0.with(call)
    }

    pub(crate) fn close(&self) {
        self.0.close();
    }
}
