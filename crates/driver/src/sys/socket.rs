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
