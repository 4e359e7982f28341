//! The native limit: an echo server on bare epoll. One read into one hot buffer, one write, no Python.
//!
//! It does what a loop at its best could do: level-triggered, a read that did not fill the buffer ends the turn of
//! that socket, and a write is tried at once. It says `{"port": P}` and serves until stdin closes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};

use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

use crate::poller::{Interest, Poller};

const LISTENER: usize = 0;
const STDIN: usize = 1;
const FIRST_CLIENT: usize = 2;
const BACKLOG: i32 = 4096;
const ACCEPTS_A_TURN_MAX: usize = 64;
const BUFFER_BYTES: usize = 256 * 1024;

struct Client {
    stream: TcpStream,
    /// What the kernel did not take; while there is some, nothing is read.
    unsent: Vec<u8>,
}

pub(crate) fn run() -> io::Result<()> {
    let listener = listen_on_loopback()?;
    let mut poller = Poller::new()?;
    poller.add(&listener, LISTENER)?;
    // A file or /dev/null cannot be watched; then whoever started the server ends it.
    let _ = poller.add(io::stdin(), STDIN);
    println!(r#"{{"port":{}}}"#, listener.local_addr()?.port());

    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut free = Vec::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut ready = Vec::new();
    loop {
        poller.wait(None, &mut ready)?;
        for &token in &ready {
            match token {
                LISTENER => accept(&listener, &poller, &mut clients, &mut free)?,
                STDIN => return Ok(()),
                _ => {
                    let place = &mut clients[token - FIRST_CLIENT];
                    let Some(client) = place else { continue };
                    if !serve(client, token, &poller, &mut buffer) {
                        *place = None;
                        free.push(token - FIRST_CLIENT);
                    }
                }
            }
        }
    }
}

fn listen_on_loopback() -> io::Result<TcpListener> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    listen(&socket, BACKLOG)?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn accept(
    listener: &TcpListener,
    poller: &Poller,
    clients: &mut Vec<Option<Client>>,
    free: &mut Vec<usize>,
) -> io::Result<()> {
    for _ in 0..ACCEPTS_A_TURN_MAX {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let place = free.pop().unwrap_or_else(|| {
            clients.push(None);
            clients.len() - 1
        });
        poller.add(&stream, place + FIRST_CLIENT)?;
        clients[place] = Some(Client { stream, unsent: Vec::new() });
    }
    Ok(())
}

/// False: the connection is over.
fn serve(client: &mut Client, token: usize, poller: &Poller, buffer: &mut [u8]) -> bool {
    if !client.unsent.is_empty() {
        let unsent = std::mem::take(&mut client.unsent);
        return send(client, token, poller, &unsent, true);
    }
    match client.stream.read(buffer) {
        Ok(0) => false,
        Ok(length) => send(client, token, poller, &buffer[..length], false),
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

fn send(client: &mut Client, token: usize, poller: &Poller, data: &[u8], was_waiting: bool) -> bool {
    let written = match client.stream.write(data) {
        Ok(length) => length,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(_) => return false,
    };
    client.unsent.extend_from_slice(&data[written..]);
    let is_waiting = !client.unsent.is_empty();
    if is_waiting == was_waiting {
        return true;
    }
    let interest = if is_waiting { Interest::ReadAndWrite } else { Interest::Read };
    poller.change(&client.stream, token, interest).is_ok()
}
