//! A connected, non-blocking socket of any kind, and how one is made.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};

use crate::address::Address;

pub(crate) enum Channel {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// `receive` takes one datagram, `send` makes one.
    Udp(UdpSocket),
}

impl Channel {
    pub(crate) fn connect(address: &Address) -> io::Result<Self> {
        // On loopback the handshake is done when connect(2) returns, so blocking here costs nothing.
        match address {
            Address::Tcp(place) | Address::Tls(place) => Self::tcp(TcpStream::connect(place)?),
            Address::Unix(name) => Self::unix(UnixStream::connect_addr(&UnixAddress::from_abstract_name(name)?)?),
            Address::Udp(place) => {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
                socket.connect(place)?;
                socket.set_nonblocking(true)?;
                Ok(Self::Udp(socket))
            }
        }
    }

    pub(crate) fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self::Tcp(stream))
    }

    pub(crate) fn unix(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self::Unix(stream))
    }

    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*stream).read(buffer),
            Self::Unix(stream) => (&*stream).read(buffer),
            Self::Udp(socket) => socket.recv(buffer),
        }
    }

    pub(crate) fn send(&self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*stream).write(data),
            Self::Unix(stream) => (&*stream).write(data),
            Self::Udp(socket) => socket.send(data),
        }
    }
}

/// For TLS, which gives its records as a list.
impl Write for &Channel {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.send(data)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Channel::Tcp(stream) => (&*stream).write_vectored(pieces),
            Channel::Unix(stream) => (&*stream).write_vectored(pieces),
            Channel::Udp(_) => self.send(pieces.first().map_or(&[], |piece| piece)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}
