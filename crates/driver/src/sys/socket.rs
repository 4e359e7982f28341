//! The system calls on sockets that the data path makes. None blocks when the descriptor is non-blocking; none raises SIGPIPE.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{OwnedFd, RawFd};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags};

use super::borrow;

#[inline]
pub(crate) fn recv(fd: RawFd, buf: &mut [u8]) -> io::Result<usize> {
    let (count, _) = rustix::net::recv(borrow(fd)?, buf, RecvFlags::empty())?;
    Ok(count)
}

#[inline]
pub(crate) fn recv_uninit(fd: RawFd, buf: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    let ((received, _), _) = rustix::net::recv(borrow(fd)?, buf, RecvFlags::empty())?;
    Ok(received.len())
}

/// Appends up to `max` bytes. The spare capacity, at least `max`, is the kernel's to write.
pub(crate) fn recv_appending(fd: RawFd, bytes: &mut Vec<u8>, max: usize) -> io::Result<usize> {
    let spare = bytes.spare_capacity_mut();
    let max = max.min(spare.len());
    let ((received, _), _) = rustix::net::recv(borrow(fd)?, &mut spare[..max], RecvFlags::empty())?;
    let (count, len) = (received.len(), bytes.len());
    // SAFETY: the kernel wrote the first `count` bytes of the spare capacity, which begins at the old length.
    unsafe { bytes.set_len(len + count) };
    Ok(count)
}

#[inline]
pub(crate) fn send(fd: RawFd, buf: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(borrow(fd)?, buf, SendFlags::NOSIGNAL)?)
}

#[inline]
pub(crate) fn send_vectored(fd: RawFd, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
    let mut no_ancillary = SendAncillaryBuffer::default();
    Ok(rustix::net::sendmsg(
        borrow(fd)?,
        bufs,
        &mut no_ancillary,
        SendFlags::NOSIGNAL,
    )?)
}

pub(crate) fn accept(fd: RawFd) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(
        borrow(fd)?,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
    )?)
}

pub(crate) fn shutdown_write(fd: RawFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(borrow(fd)?, Shutdown::Write)?)
}

/// What went wrong on the socket since this was last asked (SO_ERROR): the outcome of a `connect` that did not block.
pub(crate) fn take_error(fd: RawFd) -> io::Result<Option<io::Error>> {
    Ok(rustix::net::sockopt::socket_error(borrow(fd)?)?
        .err()
        .map(io::Error::from))
}

/// For what is no socket: pipes and terminals.
#[inline]
pub(crate) fn read(fd: RawFd, buf: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::read(borrow(fd)?, buf)?)
}

#[inline]
pub(crate) fn read_uninit(fd: RawFd, buf: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    let (received, _) = rustix::io::read(borrow(fd)?, buf)?;
    Ok(received.len())
}

/// For what is no socket; there is no flag against SIGPIPE here (Python ignores that signal).
#[inline]
pub(crate) fn write(fd: RawFd, buf: &[u8]) -> io::Result<usize> {
    Ok(rustix::io::write(borrow(fd)?, buf)?)
}

#[inline]
pub(crate) fn write_vectored(fd: RawFd, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(rustix::io::writev(borrow(fd)?, bufs)?)
}
