//! The system calls on sockets that the data path makes. None blocks when the descriptor is non-blocking; none raises SIGPIPE.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, SocketType,
};

use super::address::{self, Address};
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
    Ok(rustix::net::sendmsg(borrow(fd)?, bufs, &mut no_ancillary, SendFlags::NOSIGNAL)?)
}

/// A datagram (its end is cut off if `buf` is too small), and who sent it: nobody if the sender has no name.
#[inline]
pub(crate) fn recv_from(fd: RawFd, buf: &mut [u8]) -> io::Result<(usize, Option<Address>)> {
    let (count, _, sender) = rustix::net::recvfrom(borrow(fd)?, buf, RecvFlags::empty())?;
    Ok((count, sender.map(|sender| Address::from_kernel(Some(sender)))))
}

#[inline]
pub(crate) fn send_to(fd: RawFd, buf: &[u8], receiver: &Address) -> io::Result<usize> {
    let fd = borrow(fd)?;
    match receiver {
        Address::Inet(SocketAddr::V4(v4)) => Ok(rustix::net::sendto(fd, buf, SendFlags::NOSIGNAL, v4)?),
        Address::Inet(SocketAddr::V6(v6)) => Ok(rustix::net::sendto(fd, buf, SendFlags::NOSIGNAL, v6)?),
        Address::Unix(path) => Ok(rustix::net::sendto(fd, buf, SendFlags::NOSIGNAL, &address::unix(path)?)?),
        Address::Other => Err(rustix::io::Errno::AFNOSUPPORT.into()),
    }
}

/// Plain TCP: not what keeps the bounds of messages or of who sent them.
pub(crate) fn is_tcp(fd: BorrowedFd<'_>) -> bool {
    rustix::net::sockopt::socket_protocol(fd).is_ok_and(|protocol| protocol == Some(rustix::net::ipproto::TCP))
}

pub(crate) fn accept(fd: RawFd) -> io::Result<OwnedFd> {
    Ok(rustix::net::accept_with(borrow(fd)?, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?)
}

pub(crate) fn shutdown_write(fd: RawFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(borrow(fd)?, Shutdown::Write)?)
}

/// What went wrong on the socket since this was last asked (SO_ERROR): the outcome of a `connect` that did not block.
pub(crate) fn take_error(fd: RawFd) -> io::Result<Option<io::Error>> {
    Ok(rustix::net::sockopt::socket_error(borrow(fd)?)?.err().map(io::Error::from))
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

/// As [`accept`], with the peer's address.
pub(crate) fn accept_from(fd: RawFd) -> io::Result<(OwnedFd, Address)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (connection, peer) = rustix::net::acceptfrom_with(borrow(fd)?, flags)?;
    Ok((connection, Address::from_kernel(peer)))
}

/// A non-blocking, close-on-exec stream socket for the family of `address`; protocol 0 is TCP.
pub(crate) fn stream_socket(address: &SocketAddr, protocol: i32) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let protocol = u32::try_from(protocol).ok().and_then(NonZeroU32::new).map(Protocol::from_raw);
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, protocol)?)
}

pub(crate) fn bind(fd: RawFd, address: &SocketAddr) -> io::Result<()> {
    Ok(rustix::net::bind(borrow(fd)?, address)?)
}

pub(crate) fn connect(fd: RawFd, address: &SocketAddr) -> io::Result<()> {
    Ok(rustix::net::connect(borrow(fd)?, address)?)
}

pub(crate) fn local_address(fd: RawFd) -> io::Result<Address> {
    Ok(Address::from_kernel(Some(rustix::net::getsockname(borrow(fd)?)?)))
}

pub(crate) fn peer_address(fd: RawFd) -> io::Result<Address> {
    Ok(Address::from_kernel(rustix::net::getpeername(borrow(fd)?)?))
}

/// A non-blocking, close-on-exec Unix stream socket.
pub(crate) fn unix_stream_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

pub(crate) fn connect_unix(fd: RawFd, path: &[u8]) -> io::Result<()> {
    Ok(rustix::net::connect(borrow(fd)?, &address::unix(path)?)?)
}

/// Process, user and group of the other end of a Unix socket when it was connected.
pub(crate) fn peer_credentials(fd: RawFd) -> io::Result<(i32, u32, u32)> {
    // Not rustix: its process numbers cannot be 0, which is what a peer of another namespace has.
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    let place = (&raw mut peer).cast();
    // SAFETY: the kernel writes at most `size` bytes to `peer`, a C struct of integers, and the length to `size`.
    let outcome = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, place, &raw mut size) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((peer.pid, peer.uid, peer.gid))
}

pub(crate) fn set_nodelay(fd: RawFd) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_nodelay(borrow(fd)?, true)?)
}
