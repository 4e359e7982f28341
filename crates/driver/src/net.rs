//! Setting up TCP sockets: made, bound, connected, asked for their addresses. Nothing here blocks.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};

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

/// `None` for what is no IP address.
pub fn local_address(fd: RawFd) -> io::Result<Option<SocketAddr>> {
    socket::local_address(fd)
}

/// `None` for what is no IP address.
pub fn peer_address(fd: RawFd) -> io::Result<Option<SocketAddr>> {
    socket::peer_address(fd)
}

/// Small writes leave at once (TCP_NODELAY).
pub fn set_nodelay(fd: RawFd) -> io::Result<()> {
    socket::set_nodelay(fd)
}
