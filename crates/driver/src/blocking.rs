//! What the kernel cannot do without blocking: a small pool of threads, and the resolver that needs it.
//!
//! Threads appear when there is work and none is idle, up to a bound, and end after a while without work. Beyond the bound, work
//! queues. They are never joined: a lookup that hangs for a minute holds neither the closing of the loop nor the end of the
//! process. Dropping the pool drops the work that has not begun; what runs, runs to its end and finds nobody.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_int};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

pub use crate::sys::resolve::{AddrInfo, GaiError};

use crate::sys::fork::ProcessMark;
use crate::sys::{resolve, thread::leave_signals_to_others};

/// Lookups wait for a network, they do not compute: so more threads than processors, and enough that a few dead name servers do
/// not stop the rest.
const THREADS_MAX: usize = 32;
const IDLE_SECS_MAX: u64 = 10;

pub struct BlockingPool {
    shared: Arc<Shared>,
    process: ProcessMark,
}

struct Shared {
    state: Mutex<State>,
    work_came: Condvar,
    threads_max: usize,
    idle_max: Duration,
}

struct State {
    queue: VecDeque<Job>,
    threads: usize,
    /// Threads that wait for work, or were just told of some.
    idle: usize,
    closed: bool,
}

type Job = Box<dyn FnOnce() + Send>;

impl Default for BlockingPool {
    fn default() -> Self {
        BlockingPool::new()
    }
}

impl BlockingPool {
    pub fn new() -> BlockingPool {
        BlockingPool::with_limits(THREADS_MAX, Duration::from_secs(IDLE_SECS_MAX))
    }

    /// At most `threads_max` threads (at least one), each of which ends after `idle_max` without work.
    pub fn with_limits(threads_max: usize, idle_max: Duration) -> BlockingPool {
        let state = State { queue: VecDeque::new(), threads: 0, idle: 0, closed: false };
        BlockingPool {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                work_came: Condvar::new(),
                threads_max: threads_max.max(1),
                idle_max,
            }),
            process: ProcessMark::here(),
        }
    }

    /// Runs `job` on a thread of the pool. It tells its result itself: puts it where the owner looks, then wakes the owner.
    ///
    /// A panic of the job ends the job only. The error is that of a system that gives us not even one thread, or of a forked child, to which
    /// the parent's threads did not come along.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.process.refuse_foreign()?;
        let mut state = self.shared.lock();
        let somebody_free = state.idle > state.queue.len();
        if !somebody_free && state.threads < self.shared.threads_max {
            let shared = Arc::clone(&self.shared);
            let spawned = thread::Builder::new().name("hayase-blocking".into()).spawn(move || shared.work());
            match spawned {
                Ok(_detached) => state.threads += 1,
                // The others will come to it.
                Err(_) if state.threads > 0 => {}
                Err(error) => return Err(error),
            }
        }
        state.queue.push_back(Box::new(job));
        drop(state);
        self.shared.work_came.notify_one();
        Ok(())
    }

    /// Threads that exist now.
    pub fn thread_count(&self) -> usize {
        if self.process.is_foreign() { 0 } else { self.shared.lock().threads }
    }
}

impl Drop for BlockingPool {
    fn drop(&mut self) {
        // In a forked child a thread that no longer exists may hold the lock for ever.
        if self.process.is_foreign() {
            return;
        }
        let mut state = self.shared.lock();
        state.closed = true;
        let never_begun = std::mem::take(&mut state.queue);
        drop(state);
        self.shared.work_came.notify_all();
        drop(never_begun);
    }
}

impl fmt::Debug for BlockingPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingPool").field("threads", &self.thread_count()).finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No job runs under the lock, so a panic cannot leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        leave_signals_to_others();
        while let Some(job) = self.next_job() {
            // The panic hook has reported it; the pool goes on.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    /// `None`: nothing came for a while, or the pool is gone; the thread is counted out already.
    fn next_job(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            if state.closed {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            let (woken, wait) =
                self.work_came.wait_timeout(state, self.idle_max).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if wait.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }
}

impl AddrInfo {
    /// The address in Rust's form, if it is an IP address. The flow label is in host order, as Python shows it.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        socket_addr_from_bytes(&self.sockaddr)
    }
}

/// Reads a `sockaddr_in` or `sockaddr_in6`; `None` for anything else.
pub fn socket_addr_from_bytes(sockaddr: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*sockaddr.first_chunk()?);
    let port = u16::from_be_bytes(*sockaddr.get(2..)?.first_chunk()?);
    match c_int::from(family) {
        libc::AF_INET => {
            let ip: [u8; 4] = *sockaddr.get(4..)?.first_chunk()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(ip), port).into())
        }
        libc::AF_INET6 => {
            let flow = u32::from_be_bytes(*sockaddr.get(4..)?.first_chunk()?);
            let ip: [u8; 16] = *sockaddr.get(8..)?.first_chunk()?;
            let scope = u32::from_ne_bytes(*sockaddr.get(24..)?.first_chunk()?);
            Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope).into())
        }
        _ => None,
    }
}

/// The reverse of [`socket_addr_from_bytes`].
pub fn socket_addr_to_bytes(address: &SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    match address {
        SocketAddr::V4(v4) => {
            bytes.extend((libc::AF_INET as u16).to_ne_bytes());
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            bytes.extend((libc::AF_INET6 as u16).to_ne_bytes());
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend(v6.flowinfo().to_be_bytes());
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
    }
    bytes
}

/// Asks the resolver, and blocks. On the loop's thread only with `AI_NUMERICHOST` and a numeric or absent service.
pub fn getaddrinfo(
    host: Option<&CStr>,
    service: Option<&CStr>,
    family: c_int,
    socktype: c_int,
    protocol: c_int,
    flags: c_int,
) -> Result<Vec<AddrInfo>, GaiError> {
    resolve::getaddrinfo(host, service, resolve::hints(flags, family, socktype, protocol))
}

/// Host and service of an address, and blocks unless `NI_NUMERICHOST | NI_NUMERICSERV`.
pub fn getnameinfo(sockaddr: &[u8], flags: c_int) -> Result<(CString, CString), GaiError> {
    resolve::getnameinfo(sockaddr, flags)
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn jobs_run_and_a_panic_ends_only_its_job() {
        let pool = BlockingPool::with_limits(1, Duration::from_secs(60));
        let (send, receive) = mpsc::channel();
        pool.spawn(|| panic!("this panic belongs to the test")).unwrap();
        pool.spawn(move || send.send(7).unwrap()).unwrap();
        assert_eq!(receive.recv(), Ok(7));
        assert_eq!(pool.thread_count(), 1);
    }

    #[test]
    fn a_waiting_job_does_not_hold_up_the_next_one() {
        let pool = BlockingPool::with_limits(2, Duration::from_secs(60));
        let (release, held) = mpsc::channel::<()>();
        let (send, receive) = mpsc::channel();
        pool.spawn(move || held.recv().unwrap()).unwrap();
        pool.spawn(move || send.send(()).unwrap()).unwrap();
        assert_eq!(receive.recv(), Ok(()));
        release.send(()).unwrap();
    }

    #[test]
    fn idle_threads_end() {
        let pool = BlockingPool::with_limits(4, Duration::ZERO);
        let (send, receive) = mpsc::channel();
        pool.spawn(move || send.send(()).unwrap()).unwrap();
        receive.recv().unwrap();
        while pool.thread_count() > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn dropping_the_pool_drops_what_has_not_begun_and_waits_for_nothing() {
        let pool = BlockingPool::with_limits(1, Duration::from_secs(60));
        let (release, held) = mpsc::channel::<()>();
        let (begun, has_begun) = mpsc::channel();
        pool.spawn(move || {
            begun.send(()).unwrap();
            let _ = held.recv();
        })
        .unwrap();
        has_begun.recv().unwrap();
        let (send, receive) = mpsc::channel();
        pool.spawn(move || send.send(()).unwrap()).unwrap();
        drop(pool);
        assert_eq!(receive.recv(), Err(mpsc::RecvError));
        drop(release);
    }

    #[test]
    fn a_numeric_address_resolves_to_itself() {
        let found = getaddrinfo(
            Some(c"::1"),
            Some(c"80"),
            libc::AF_UNSPEC,
            libc::SOCK_STREAM,
            0,
            libc::AI_NUMERICHOST | libc::AI_NUMERICSERV | libc::AI_CANONNAME,
        )
        .unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].family, libc::AF_INET6);
        assert_eq!(found[0].protocol, libc::IPPROTO_TCP);
        assert_eq!(found[0].canonname.as_deref(), Some(c"::1"));
        let address = found[0].socket_addr().unwrap();
        assert_eq!(address, "[::1]:80".parse().unwrap());
        assert_eq!(socket_addr_to_bytes(&address), found[0].sockaddr);
    }

    #[test]
    fn a_name_where_a_number_is_due_is_the_resolvers_own_error() {
        let error = getaddrinfo(Some(c"no number"), None, 0, 0, 0, libc::AI_NUMERICHOST).unwrap_err();
        assert_eq!((error.code, error.errno), (libc::EAI_NONAME, None));
        assert!(!error.message.is_empty());
    }

    #[test]
    fn an_address_gives_its_numbers_back() {
        let sockaddr = socket_addr_to_bytes(&"127.0.0.1:8080".parse().unwrap());
        let (host, service) = getnameinfo(&sockaddr, libc::NI_NUMERICHOST | libc::NI_NUMERICSERV).unwrap();
        assert_eq!((host.as_c_str(), service.as_c_str()), (c"127.0.0.1", c"8080"));
        assert_eq!(getnameinfo(&[], 0).unwrap_err().code, libc::EAI_FAMILY);
    }
}
