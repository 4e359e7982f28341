//! What a descriptor is, and two things that are done to it before it is watched.

use std::io;
use std::os::fd::{OwnedFd, RawFd};

use rustix::fs::FileType;

use super::borrow;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PipeKind {
    /// A pipe, with a name or without.
    Fifo,
    Socket,
    /// Terminals too.
    CharacterDevice,
}

pub(crate) fn pipe_kind(fd: RawFd) -> io::Result<Option<PipeKind>> {
    let stat = rustix::fs::fstat(borrow(fd)?)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => Some(PipeKind::Fifo),
        FileType::Socket => Some(PipeKind::Socket),
        FileType::CharacterDevice => Some(PipeKind::CharacterDevice),
        _ => None,
    })
}

pub(crate) fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(borrow(fd)?, true)?)
}

pub(crate) fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(borrow(fd)?, 0)?)
}

/// Sends a piece of a file from an offset of its own: the file's position is neither used nor moved.
pub(crate) fn send_file(to: RawFd, file: RawFd, offset: u64, count: usize) -> io::Result<usize> {
    let mut offset = offset;
    Ok(rustix::fs::sendfile(borrow(to)?, borrow(file)?, Some(&mut offset), count)?)
}

pub(crate) fn size(file: RawFd) -> io::Result<u64> {
    // A size is never negative.
    Ok(rustix::fs::fstat(borrow(file)?)?.st_size as u64)
}

pub(crate) fn seek(file: RawFd, position: u64) -> io::Result<()> {
    rustix::fs::seek(borrow(file)?, rustix::fs::SeekFrom::Start(position))?;
    Ok(())
}
