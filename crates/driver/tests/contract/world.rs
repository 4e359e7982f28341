//! A driver and a way to get sockets for it.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use driver::{Driver, Event, Events, Interest, Simulation, Token, Trouble};

/// No test waits so long unless it is about to fail.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct World {
    pub(crate) driver: Driver,
    sockets: Sockets,
}

enum Sockets {
    Unix,
    Tcp,
    Simulated(Simulation),
}

impl World {
    pub(crate) fn epoll_unix() -> World {
        World { driver: Driver::epoll().unwrap(), sockets: Sockets::Unix }
    }

    pub(crate) fn epoll_tcp() -> World {
        World { driver: Driver::epoll().unwrap(), sockets: Sockets::Tcp }
    }

    pub(crate) fn simulated(seed: u64) -> World {
        let driver = Driver::simulated(seed);
        let simulation = driver.simulation().unwrap();
        World { driver, sockets: Sockets::Simulated(simulation) }
    }

    pub(crate) fn in_trouble(seed: u64) -> World {
        let world = World::simulated(seed);
        world.driver.simulation().unwrap().set_trouble(Trouble::PLENTY);
        world
    }

    /// Two connected sockets that do not block.
    pub(crate) fn pair(&self) -> (OwnedFd, OwnedFd) {
        match &self.sockets {
            Sockets::Unix => {
                let (a, b) = UnixStream::pair().unwrap();
                a.set_nonblocking(true).unwrap();
                b.set_nonblocking(true).unwrap();
                (a.into(), b.into())
            }
            Sockets::Tcp => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (b, _) = listener.accept().unwrap();
                a.set_nonblocking(true).unwrap();
                b.set_nonblocking(true).unwrap();
                (a.into(), b.into())
            }
            Sockets::Simulated(simulation) => simulation.pair().unwrap(),
        }
    }

    /// A listener; on every epoll world over TCP.
    pub(crate) fn listener(&self) -> OwnedFd {
        match &self.sockets {
            Sockets::Unix | Sockets::Tcp => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                listener.set_nonblocking(true).unwrap();
                listener.into()
            }
            Sockets::Simulated(simulation) => simulation.listener().unwrap(),
        }
    }

    pub(crate) fn connect(&self, listener: &OwnedFd) -> OwnedFd {
        match &self.sockets {
            Sockets::Unix | Sockets::Tcp => {
                let address = TcpListener::from(listener.try_clone().unwrap()).local_addr().unwrap();
                let client = TcpStream::connect(address).unwrap();
                client.set_nonblocking(true).unwrap();
                client.into()
            }
            Sockets::Simulated(simulation) => simulation.connect(listener.as_raw_fd()).unwrap(),
        }
    }

    pub(crate) fn regular_file(&self) -> OwnedFd {
        match &self.sockets {
            Sockets::Unix | Sockets::Tcp => std::fs::File::open("/proc/self/exe").unwrap().into(),
            Sockets::Simulated(simulation) => simulation.regular_file().unwrap(),
        }
    }

    /// Waits until there is an event; interruptions and empty returns are allowed and skipped.
    pub(crate) fn events(&self) -> Vec<Event> {
        let mut events = Events::with_capacity(64);
        let deadline = self.driver.now() + PATIENCE;
        while self.driver.now() < deadline {
            match self.driver.wait(&mut events, Some(PATIENCE)) {
                Ok(()) if events.is_empty() => {}
                Ok(()) => return events.iter().copied().collect(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("nothing became ready");
    }

    /// What is ready now.
    pub(crate) fn events_now(&self) -> Vec<Event> {
        let mut events = Events::with_capacity(64);
        self.driver.wait(&mut events, Some(Duration::ZERO)).unwrap();
        events.iter().copied().collect()
    }

    /// Does a call as often as it takes; between the tries it waits for readiness, as a loop would.
    pub(crate) fn persist<R>(&self, fd: RawFd, interest: Interest, call: impl Fn() -> io::Result<R>) -> io::Result<R> {
        let token = Token(0xFEED);
        loop {
            match call() {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.driver.rewatch(fd, interest, token).unwrap();
                    while !self.events().iter().any(|event| event.token == token) {}
                    self.driver.unwatch(fd).unwrap();
                }
                result => return result,
            }
        }
    }

    /// Receives until the end of the stream, or an error.
    pub(crate) fn recv_to_end(&self, fd: &OwnedFd) -> io::Result<Vec<u8>> {
        let fd = fd.as_raw_fd();
        let mut all = Vec::new();
        loop {
            let chunk = self.persist(fd, Interest::READABLE, || {
                let mut chunk = [0; 1000];
                self.driver.recv(fd, &mut chunk).map(|count| chunk[..count].to_vec())
            })?;
            if chunk.is_empty() {
                return Ok(all);
            }
            all.extend(chunk);
        }
    }

    pub(crate) fn send_all(&self, fd: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
        let fd = fd.as_raw_fd();
        while !bytes.is_empty() {
            let count = self.persist(fd, Interest::WRITABLE, || self.driver.send(fd, bytes))?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    pub(crate) fn shutdown_write(&self, fd: &OwnedFd) {
        self.driver.shutdown_write(fd.as_raw_fd()).unwrap();
    }
}
