//! The native limit: an echo server on bare epoll. One read into one hot buffer, one write, no Python.
//!
//! It does what a loop at its best could do: level-triggered, a read that did not fill the buffer ends the turn of
//! that socket, and a write is tried at once. It says its address and serves until stdin closes.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
use rustls::ServerConfig;

use crate::address::Address;
use crate::channel::Channel;
use crate::poller::{Interest, Poller};
use crate::tls::{self, Session};

const LISTENER: usize = 0;
const STDIN: usize = 1;
const FIRST_CLIENT: usize = 2;
const BACKLOG: i32 = 4096;
const ACCEPTS_A_TURN_MAX: usize = 64;
const BUFFER_BYTES: usize = 256 * 1024;

struct Client {
    channel: Channel,
    session: Option<Box<Session>>,
    /// What the kernel did not take (with TLS, the session keeps it); while there is some, nothing is read.
    unsent: Vec<u8>,
    is_waiting: bool,
    interest: Interest,
}

struct Server {
    listener: Listener,
    tls: Option<Arc<ServerConfig>>,
    poller: Poller,
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    buffer: Vec<u8>,
    plain: Vec<u8>,
}

/// Serves what `kind` speaks, at a place that the kernel chooses.
pub(crate) fn run(kind: &Address) -> Result<(), String> {
    let tls = match kind {
        Address::Tls(_) => Some(tls::server_config()?),
        Address::Tcp(_) | Address::Unix(_) | Address::Udp(_) => None,
    };
    serve(kind, tls).map_err(|error| format!("echo-server: {error}"))
}

fn serve(kind: &Address, tls: Option<Arc<ServerConfig>>) -> io::Result<()> {
    let (listener, address) = Listener::open(kind)?;
    let poller = Poller::new()?;
    poller.add(&listener, LISTENER)?;
    // A file or /dev/null cannot be watched; then whoever started the server ends it.
    let _ = poller.add(io::stdin(), STDIN);
    println!(r#"{{"address":"{address}"}}"#);
    let (buffer, plain) = (vec![0; BUFFER_BYTES], Vec::new());
    let mut server = Server { listener, tls, poller, clients: Vec::new(), free: Vec::new(), buffer, plain };
    let mut ready = Vec::new();
    loop {
        server.poller.wait(None, &mut ready)?;
        for &token in &ready {
            match token {
                LISTENER => server.accept()?,
                STDIN => return Ok(()),
                _ => server.advance(token),
            }
        }
    }
}

impl Server {
    fn accept(&mut self) -> io::Result<()> {
        for _ in 0..ACCEPTS_A_TURN_MAX {
            let channel = match self.listener.accept() {
                Ok(channel) => channel,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            let session = self.tls.as_ref().map(Session::server).transpose().map_err(io::Error::other)?;
            let place = self.free.pop().unwrap_or_else(|| {
                self.clients.push(None);
                self.clients.len() - 1
            });
            self.poller.add(&channel, place + FIRST_CLIENT)?;
            self.clients[place] = Some(Client {
                channel,
                session: session.map(Box::new),
                unsent: Vec::new(),
                is_waiting: false,
                interest: Interest::Read,
            });
        }
        Ok(())
    }

    fn advance(&mut self, token: usize) {
        let place = token - FIRST_CLIENT;
        let Some(client) = self.clients[place].as_mut() else { return };
        if !client.advance(&mut self.buffer, &mut self.plain) || !client.settle(token, &self.poller) {
            self.clients[place] = None;
            self.free.push(place);
        }
    }
}

impl Client {
    /// False: the connection is over.
    fn advance(&mut self, buffer: &mut [u8], plain: &mut Vec<u8>) -> bool {
        if self.is_waiting {
            let unsent = std::mem::take(&mut self.unsent);
            return self.send(&unsent);
        }
        let length = match self.channel.receive(buffer) {
            Ok(0) => return false,
            Ok(length) => length,
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        };
        let Some(session) = self.session.as_mut() else {
            return self.send(&buffer[..length]);
        };
        let is_open = session.decrypt(&buffer[..length], plain);
        // Also if it failed: there may be an alert that says why.
        self.send(plain) && is_open == Ok(true)
    }

    fn send(&mut self, data: &[u8]) -> bool {
        if let Some(session) = self.session.as_mut() {
            return match session.write(data).and_then(|()| session.flush(&self.channel)) {
                Ok(is_done) => {
                    self.is_waiting = !is_done;
                    true
                }
                Err(_) => false,
            };
        }
        let written = match self.channel.send(data) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(_) => return false,
        };
        self.unsent.extend_from_slice(&data[written..]);
        self.is_waiting = !self.unsent.is_empty();
        true
    }

    /// Asks for what is waited for now. False: the connection is over.
    fn settle(&mut self, token: usize, poller: &Poller) -> bool {
        let interest = if self.is_waiting { Interest::ReadAndWrite } else { Interest::Read };
        if interest == self.interest {
            return true;
        }
        self.interest = interest;
        poller.change(&self.channel, token, interest).is_ok()
    }
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn open(kind: &Address) -> io::Result<(Self, Address)> {
        let name = format!("hayase-loadgen-{}", std::process::id());
        let socket = match kind {
            Address::Unix(_) => {
                let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
                bind(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
                socket
            }
            Address::Tcp(_) | Address::Tls(_) | Address::Udp(_) => {
                let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
                bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
                socket
            }
        };
        listen(&socket, BACKLOG)?;
        if let Address::Unix(_) = kind {
            let listener = UnixListener::from(socket);
            listener.set_nonblocking(true)?;
            return Ok((Self::Unix(listener), Address::Unix(name)));
        }
        let listener = TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        let place = listener.local_addr()?;
        let address = if let Address::Tls(_) = kind { Address::Tls(place) } else { Address::Tcp(place) };
        Ok((Self::Tcp(listener), address))
    }

    fn accept(&self) -> io::Result<Channel> {
        match self {
            Self::Tcp(listener) => Channel::tcp(listener.accept()?.0),
            Self::Unix(listener) => Channel::unix(listener.accept()?.0),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}
