//! The driver: what an event loop asks of the operating system, through one of two backends.
//!
//! It never calls back, and it never sees Python. What callers may rely on is written in `backend/mod.rs`. Everything takes `&self`
//! and may be called from any thread, but one thread at a time waits. Nothing here allocates per call.

use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backend::epoll::Epoll;
use crate::backend::sim::{Simulation, World};
use crate::events::{Events, Interest, Token};
use crate::sys::address::Address;
use crate::sys::event_fd::EventFd;
use crate::sys::fork::ProcessMark;
use crate::sys::{clock, file, socket};
use crate::time::Time;
use crate::waker::{Alarm, Bell, Waker};
use std::time::Duration;

pub struct Driver {
    backend: Backend,
    waker: Waker,
    process: ProcessMark,
    /// See [`has_stirred`](Self::has_stirred).
    stirred: AtomicBool,
}

enum Backend {
    Epoll(Epoll),
    Sim(Arc<World>),
}

impl Driver {
    /// A driver on the kernel's epoll.
    pub fn epoll() -> io::Result<Driver> {
        let process = ProcessMark::here();
        let event_fd = EventFd::new()?;
        let epoll = Epoll::new(&event_fd)?;
        Ok(Driver {
            backend: Backend::Epoll(epoll),
            waker: Waker::new(Alarm::EventFd(event_fd), process),
            process,
            stirred: AtomicBool::new(false),
        })
    }

    /// A driver on a world in memory that repeats itself with the same seed. [`simulation`](Self::simulation) scripts that world.
    pub fn simulated(seed: u64) -> Driver {
        let process = ProcessMark::here();
        let world = Arc::new(World::new(seed));
        let waker = Waker::new(Alarm::Bell(Arc::clone(&world) as Arc<dyn Bell>), process);
        Driver { backend: Backend::Sim(world), waker, process, stirred: AtomicBool::new(false) }
    }

    /// The world of a simulated driver.
    pub fn simulation(&self) -> Option<Simulation> {
        match &self.backend {
            Backend::Epoll(_) => None,
            Backend::Sim(world) => Some(Simulation::new(Arc::clone(world))),
        }
    }

    /// The backend's name, for `repr` and error messages.
    pub fn backend_name(&self) -> &'static str {
        match &self.backend {
            Backend::Epoll(_) => "epoll",
            Backend::Sim(_) => "simulation",
        }
    }

    /// True in the child of a `fork` if the parent made this driver.
    #[inline]
    pub fn is_foreign_process(&self) -> bool {
        self.process.is_foreign()
    }

    #[inline]
    pub fn now(&self) -> Time {
        match &self.backend {
            Backend::Epoll(_) => monotonic(),
            Backend::Sim(world) => world.now(),
        }
    }

    /// The clock by itself, for who has no driver at hand; `None` if it is a simulation's.
    pub fn clock(&self) -> Option<fn() -> Time> {
        match &self.backend {
            Backend::Epoll(_) => Some(monotonic),
            Backend::Sim(_) => None,
        }
    }

    /// Starts watching `fd`. If the number is registered already, this registration replaces the old one.
    pub fn watch(&self, fd: RawFd, interest: Interest, token: Token) -> io::Result<()> {
        self.stir();
        self.process.refuse_foreign()?;
        match &self.backend {
            Backend::Epoll(epoll) => epoll.watch(fd, interest, token),
            Backend::Sim(world) => world.watch(fd, interest, token),
        }
    }

    /// Changes what `fd` is watched for. If it is not registered, it is now.
    pub fn rewatch(&self, fd: RawFd, interest: Interest, token: Token) -> io::Result<()> {
        self.stir();
        self.process.refuse_foreign()?;
        match &self.backend {
            Backend::Epoll(epoll) => epoll.rewatch(fd, interest, token),
            Backend::Sim(world) => world.watch(fd, interest, token),
        }
    }

    /// Stops watching `fd`, before it is closed. Not being registered is no error.
    pub fn unwatch(&self, fd: RawFd) -> io::Result<()> {
        if self.process.is_foreign() {
            return Ok(());
        }
        match &self.backend {
            Backend::Epoll(epoll) => epoll.unwatch(fd),
            Backend::Sim(world) => {
                world.unwatch(fd);
                Ok(())
            }
        }
    }

    /// Whether a `recv` from `fd` that did not fill its buffer leaves nothing behind, so that with [`Interest::CHANGES`] all that comes
    /// will be reported. True of TCP while nothing but data has come: the end of a stream may have been reported with the data before it,
    /// and a read stops short at urgent data.
    #[inline]
    pub fn short_read_empties(&self, fd: RawFd) -> bool {
        match &self.backend {
            Backend::Epoll(epoll) => epoll.short_read_empties(fd),
            Backend::Sim(_) => false,
        }
    }

    /// Waits until something is ready, somebody called [`Waker::wake`], the timeout is over (`None`: never), or a signal handler ran
    /// (`ErrorKind::Interrupted`). Read the inbox *after* this returned: see `waker.rs`.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.clear();
        self.stirred.store(false, Ordering::Relaxed);
        self.process.refuse_foreign()?;
        if timeout == Some(Duration::ZERO) {
            // Nobody has to interrupt what does not block.
            self.wait_backend(events, timeout)?;
            events.woken = self.waker.state().take();
            return Ok(());
        }
        let Ok(pending) = self.waker.state().fall_asleep() else {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "another thread waits on this driver"));
        };
        let timeout = if pending.0 { Some(Duration::ZERO) } else { timeout };
        match self.wait_backend(events, timeout) {
            Ok(()) => {
                events.woken = self.waker.state().get_up();
                Ok(())
            }
            Err(error) => {
                self.waker.state().get_up_unreported();
                Err(error)
            }
        }
    }

    fn wait_backend(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        match &self.backend {
            Backend::Epoll(epoll) => epoll.wait(events, timeout),
            Backend::Sim(world) => world.wait(events, timeout),
        }
    }

    /// Gives the kernel's objects back; may be repeated. The clock goes on, wakers do nothing, everything else answers
    /// EBADF. Refused while a thread sleeps in [`wait`](Self::wait). In a forked child it closes the child's copies.
    pub fn shut_down(&self) -> io::Result<()> {
        // A sleeper of the parent did not come along into a child.
        if self.waker.state().fall_asleep().is_err() && !self.is_foreign_process() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "a thread waits on this driver"));
        }
        match &self.backend {
            Backend::Epoll(epoll) => epoll.close(),
            Backend::Sim(_) => {}
        }
        self.waker.close();
        self.waker.state().get_up_unreported();
        Ok(())
    }

    /// Ends this driver's sleep from another thread or a signal handler.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// What [`Events::woken`] says, for a turn that does not wait because it has work: true once for any number of wake-ups. Costs one load
    /// when there was none. Read the inbox after it.
    #[inline]
    pub fn take_wake(&self) -> bool {
        self.waker.state().take()
    }

    #[inline]
    pub fn recv(&self, fd: RawFd, buf: &mut [u8]) -> io::Result<usize> {
        match &self.backend {
            Backend::Epoll(_) => socket::recv(fd, buf),
            Backend::Sim(world) => world.recv(fd, buf),
        }
    }

    /// Receives into memory that nobody has written yet; the first `n` bytes are initialised when `Ok(n)` returns.
    #[inline]
    pub fn recv_uninit(&self, fd: RawFd, buf: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        match &self.backend {
            Backend::Epoll(_) => socket::recv_uninit(fd, buf),
            Backend::Sim(world) => world.recv_uninit(fd, buf),
        }
    }

    /// Receives up to `max` bytes into the spare capacity of `bytes`, which must have so much.
    pub(crate) fn recv_appending(&self, fd: RawFd, bytes: &mut Vec<u8>, max: usize) -> io::Result<usize> {
        debug_assert!(bytes.capacity() - bytes.len() >= max);
        match &self.backend {
            Backend::Epoll(_) => socket::recv_appending(fd, bytes, max),
            Backend::Sim(world) => world.recv_appending(fd, bytes, max),
        }
    }

    /// Whether anything was done since the last [`wait`](Self::wait) that may have made a watched descriptor ready: one was
    /// watched anew, or something was sent or ended, and the other end may be in this process.
    ///
    /// Whoever asks the system beside the driver says so by [`stir`](Self::stir).
    #[inline]
    pub fn has_stirred(&self) -> bool {
        self.stirred.load(Ordering::Relaxed)
    }

    /// A socket was closed, or connected.
    #[inline]
    pub fn stir(&self) {
        self.stirred.store(true, Ordering::Relaxed);
    }

    #[inline]
    pub fn send(&self, fd: RawFd, buf: &[u8]) -> io::Result<usize> {
        self.stir();
        match &self.backend {
            Backend::Epoll(_) => socket::send(fd, buf),
            Backend::Sim(world) => world.send(fd, buf),
        }
    }

    /// Gather-writes; at most [`IO_SLICES_MAX`](crate::IO_SLICES_MAX) slices are certain to be accepted.
    #[inline]
    pub fn send_vectored(&self, fd: RawFd, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.stir();
        match &self.backend {
            Backend::Epoll(_) => socket::send_vectored(fd, bufs),
            Backend::Sim(world) => world.send_vectored(fd, bufs),
        }
    }

    /// Receives a datagram (its end is cut off if `buf` is too small) and tells who sent it; `None` if the sender has no name.
    #[inline]
    pub fn recv_from(&self, fd: RawFd, buf: &mut [u8]) -> io::Result<(usize, Option<Address>)> {
        match &self.backend {
            Backend::Epoll(_) => socket::recv_from(fd, buf),
            Backend::Sim(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Sends a datagram.
    #[inline]
    pub fn send_to(&self, fd: RawFd, buf: &[u8], receiver: &Address) -> io::Result<usize> {
        self.stir();
        match &self.backend {
            Backend::Epoll(_) => socket::send_to(fd, buf, receiver),
            Backend::Sim(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Sends `count` bytes of a file from `offset` on, which is not the file's own position; 0 is the end of the file.
    pub fn send_file(&self, fd: RawFd, file: RawFd, offset: u64, count: usize) -> io::Result<usize> {
        self.stir();
        match &self.backend {
            Backend::Epoll(_) => file::send_file(fd, file, offset, count),
            Backend::Sim(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The size of what `file` is at this moment.
    pub fn file_size(&self, file: RawFd) -> io::Result<u64> {
        file::size(file)
    }

    /// Sets a file's position, from its beginning.
    pub fn seek(&self, file: RawFd, position: u64) -> io::Result<()> {
        file::seek(file, position)
    }

    /// Takes a connection from the backlog; it is non-blocking and close-on-exec.
    pub fn accept(&self, fd: RawFd) -> io::Result<OwnedFd> {
        match &self.backend {
            Backend::Epoll(_) => socket::accept(fd),
            Backend::Sim(world) => world.accept(fd),
        }
    }

    /// As [`accept`](Self::accept), with the peer's address.
    pub fn accept_from(&self, fd: RawFd) -> io::Result<(OwnedFd, Address)> {
        match &self.backend {
            Backend::Epoll(_) => socket::accept_from(fd),
            Backend::Sim(world) => world.accept(fd).map(|connection| (connection, Address::Other)),
        }
    }

    /// Says "end of stream" to the peer; reading goes on.
    pub fn shutdown_write(&self, fd: RawFd) -> io::Result<()> {
        self.stir();
        match &self.backend {
            Backend::Epoll(_) => socket::shutdown_write(fd),
            Backend::Sim(world) => world.shutdown_write(fd),
        }
    }

    /// What went wrong on a socket since this was last asked: the outcome of a `connect` that did not block.
    pub fn take_error(&self, fd: RawFd) -> io::Result<Option<io::Error>> {
        match &self.backend {
            Backend::Epoll(_) => socket::take_error(fd),
            Backend::Sim(world) => world.take_error(fd),
        }
    }

    /// As [`recv`](Self::recv), for what is no socket: pipes and terminals.
    #[inline]
    pub fn read(&self, fd: RawFd, buf: &mut [u8]) -> io::Result<usize> {
        match &self.backend {
            Backend::Epoll(_) => socket::read(fd, buf),
            Backend::Sim(world) => world.recv(fd, buf),
        }
    }

    #[inline]
    pub fn read_uninit(&self, fd: RawFd, buf: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
        match &self.backend {
            Backend::Epoll(_) => socket::read_uninit(fd, buf),
            Backend::Sim(world) => world.recv_uninit(fd, buf),
        }
    }

    /// As [`send`](Self::send), for what is no socket. The kernel has no flag against SIGPIPE here; Python ignores that signal.
    #[inline]
    pub fn write(&self, fd: RawFd, buf: &[u8]) -> io::Result<usize> {
        self.stir();
        match &self.backend {
            Backend::Epoll(_) => socket::write(fd, buf),
            Backend::Sim(world) => world.send(fd, buf),
        }
    }

    #[inline]
    pub fn write_vectored(&self, fd: RawFd, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.stir();
        match &self.backend {
            Backend::Epoll(_) => socket::write_vectored(fd, bufs),
            Backend::Sim(world) => world.send_vectored(fd, bufs),
        }
    }

    /// Stops watching and closes, in this order, so that the number can be reused at once.
    pub fn close(&self, fd: OwnedFd) -> io::Result<()> {
        let unwatched = self.unwatch(fd.as_raw_fd());
        match &self.backend {
            Backend::Epoll(_) => {}
            Backend::Sim(world) => world.close(fd.as_raw_fd()),
        }
        drop(fd);
        unwatched
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("backend", &self.backend_name())
            .field("waker", &self.waker)
            .finish_non_exhaustive()
    }
}

fn monotonic() -> Time {
    Time::from_nanos(clock::monotonic_nanos())
}

const _: () = {
    const fn send_and_sync<T: Send + Sync>() {}
    send_and_sync::<Driver>();
    send_and_sync::<Events>();
    send_and_sync::<Waker>();
};

/// Contract 12.
#[cfg(all(test, not(miri), not(loom)))]
mod tests {
    use super::*;
    use crate::events::Event;
    use crate::sys::fork::in_child;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_forked_child_cannot_touch_the_parents_driver() {
        let driver = Driver::epoll().unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        let mut events = Events::with_capacity(4);
        driver.watch(a.as_raw_fd(), Interest::WRITABLE, Token(1)).unwrap();
        assert!(!driver.is_foreign_process());
        let kept = in_child(|| {
            driver.waker().wake();
            let mut events = Events::with_capacity(4);
            driver.is_foreign_process()
                && driver.watch(b.as_raw_fd(), Interest::WRITABLE, Token(2)).is_err()
                && driver.rewatch(a.as_raw_fd(), Interest::READABLE, Token(2)).is_err()
                && driver.unwatch(a.as_raw_fd()).is_ok()
                && driver.wait(&mut events, Some(Duration::ZERO)).is_err()
        });
        assert!(kept);
        driver.wait(&mut events, Some(Duration::ZERO)).unwrap();
        assert_eq!(events.get(0), Some(Event { token: Token(1), readable: false, writable: true }));
        assert_eq!((events.len(), events.woken()), (1, false));
    }

    #[test]
    fn a_forked_child_can_shut_down_a_driver_on_which_a_thread_of_the_parent_sleeps() {
        let driver = Driver::epoll().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut events = Events::with_capacity(4);
                driver.wait(&mut events, None).unwrap();
                assert!(events.woken());
            });
            while !driver.waker.state().is_asleep() {
                std::thread::yield_now();
            }
            assert!(driver.shut_down().is_err());
            assert!(in_child(|| driver.shut_down().is_ok()));
            driver.waker().wake();
        });
        driver.shut_down().unwrap();
        driver.shut_down().unwrap();
        assert!(driver.watch(0, Interest::READABLE, Token(0)).is_err());
    }

    #[test]
    fn a_forked_child_can_have_a_driver_of_its_own() {
        let _parents = Driver::epoll().unwrap();
        assert!(in_child(|| {
            let driver = Driver::epoll().unwrap();
            let (a, _b) = UnixStream::pair().unwrap();
            let mut events = Events::with_capacity(4);
            driver.watch(a.as_raw_fd(), Interest::WRITABLE, Token(1)).unwrap();
            driver.wait(&mut events, None).unwrap();
            driver.waker().wake();
            events.len() == 1 && driver.take_wake()
        }));
    }
}
