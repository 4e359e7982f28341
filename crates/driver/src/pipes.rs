//! Pipes, terminals and whatever else a program reads and writes through a descriptor.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use crate::sys::file;

pub use crate::sys::file::PipeKind;

/// `None`: a regular file, a directory, a block device; they are always ready and cannot be watched.
pub fn pipe_kind(fd: RawFd) -> io::Result<Option<PipeKind>> {
    file::pipe_kind(fd)
}

pub fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    file::set_nonblocking(fd)
}

/// Another number for the same open file, close-on-exec: epoll takes one registration for each number.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    file::duplicate(fd)
}
