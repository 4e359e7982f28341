//! The native limit for UDP: one receive, one send, until nothing is left or others must have their turn.
//!
//! It says its address and serves until stdin closes.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, UdpSocket};

use rustix::net::sockopt::set_socket_recv_buffer_size;

use crate::address::Address;
use crate::poller::Poller;

const SOCKET: usize = 0;
const STDIN: usize = 1;
const DATAGRAMS_A_TURN_MAX: usize = 64;
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;
/// As the Python servers ask for: a hundred peers at once shall not overflow it.
const RECEIVE_BUFFER_BYTES: usize = 1024 * 1024;

pub(crate) fn run() -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_nonblocking(true)?;
    set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER_BYTES)?;
    let mut poller = Poller::new()?;
    poller.add(&socket, SOCKET)?;
    // A file or /dev/null cannot be watched; then whoever started the server ends it.
    let _ = poller.add(io::stdin(), STDIN);
    println!(r#"{{"address":"{}"}}"#, Address::Udp(socket.local_addr()?));

    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    let mut ready = Vec::new();
    loop {
        poller.wait(None, &mut ready)?;
        for &token in &ready {
            match token {
                STDIN => return Ok(()),
                _ => serve(&socket, &mut buffer)?,
            }
        }
    }
}

fn serve(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<()> {
    for _ in 0..DATAGRAMS_A_TURN_MAX {
        match socket.recv_from(buffer) {
            // A datagram that cannot be sent is lost, as datagrams are.
            Ok((length, peer)) => drop(socket.send_to(&buffer[..length], peer)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // An earlier answer found nobody.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
