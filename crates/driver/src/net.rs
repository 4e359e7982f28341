//! Setting up sockets: made, bound, connected, asked for their addresses. Nothing here blocks.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};

use crate::sys::address::Address;
use crate::sys::socket;

/// A non-blocking, close-on-exec stream socket for the family of `address`; protocol 0 is TCP.
pub fn stream_socket(address: &SocketAddr, protocol: i32) -> io::Result<OwnedFd> {
    socket::stream_socket(address, protocol)
}

pub fn bind(fd: RawFd, address: &SocketAddr) -> io::Result<()> {
    socket::bind(fd, address)
}

/// Begins to connect. "In progress" is an error of its own kind here: the outcome is there when the descriptor is writable, and
/// [`Driver::take_error`](crate::Driver::take_error) tells it.
pub fn connect(fd: RawFd, address: &SocketAddr) -> io::Result<()> {
    socket::connect(fd, address)
}

pub fn local_address(fd: RawFd) -> io::Result<Address> {
    socket::local_address(fd)
}

pub fn peer_address(fd: RawFd) -> io::Result<Address> {
    socket::peer_address(fd)
}

/// A non-blocking, close-on-exec Unix stream socket.
pub fn unix_stream_socket() -> io::Result<OwnedFd> {
    socket::unix_stream_socket()
}

/// Connects a Unix socket to a path, or to an abstract name with the zero byte that it begins with. `WouldBlock` means that the
/// listener's backlog is full: nothing is in progress then, and the socket never tells when there is room.
pub fn connect_unix(fd: RawFd, path: &[u8]) -> io::Result<()> {
    socket::connect_unix(fd, path)
}

/// (process, user, group) of the other end of a connected Unix socket.
pub fn peer_credentials(fd: RawFd) -> io::Result<(i32, u32, u32)> {
    socket::peer_credentials(fd)
}

/// Small writes leave at once (TCP_NODELAY).
pub fn set_nodelay(fd: RawFd) -> io::Result<()> {
    socket::set_nodelay(fd)
}
