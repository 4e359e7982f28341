//! The epoll system calls, with a wait that counts nanoseconds where the kernel can (Linux 5.11) and whole milliseconds, rounded up,
//! where it cannot.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::epoll as raw;
use rustix::event::epoll::EventData;
use rustix::io::Errno;
use rustix::time::Timespec;

use super::closable::ClosableFd;

pub(crate) use raw::EventFlags;

/// No kernel counts further than this, and nobody waits so long: 100 years.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Where the kernel writes what is ready.
pub(crate) struct RawEvents(Vec<raw::Event>);

// SAFETY: an event's data may be a number or a pointer, and only because of the pointer the type is neither `Send` nor `Sync`.
// Here it is always the number that `add` or `modify` was given.
unsafe impl Send for RawEvents {}
// SAFETY: as above.
unsafe impl Sync for RawEvents {}

impl RawEvents {
    pub(crate) fn with_capacity(capacity: usize) -> RawEvents {
        RawEvents(Vec::with_capacity(capacity))
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The numbers of the registrations that are ready, and what they are ready for.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (u64, EventFlags)> {
        self.0.drain(..).map(|event| (event.data.u64(), event.flags))
    }
}

pub(crate) struct EpollFd {
    fd: ClosableFd,
    /// False once the kernel (ENOSYS) or a seccomp filter of a container (EPERM) refused `epoll_pwait2`.
    counts_nanos: AtomicBool,
}

impl EpollFd {
    pub(crate) fn new() -> io::Result<EpollFd> {
        Ok(EpollFd {
            fd: ClosableFd::new(raw::create(raw::CreateFlags::CLOEXEC)?),
            counts_nanos: AtomicBool::new(true),
        })
    }

    pub(crate) fn add(&self, fd: BorrowedFd<'_>, data: u64, flags: EventFlags) -> Result<(), Errno> {
        self.fd.with(|epoll| raw::add(epoll, fd, EventData::new_u64(data), flags))
    }

    pub(crate) fn modify(&self, fd: BorrowedFd<'_>, data: u64, flags: EventFlags) -> Result<(), Errno> {
        self.fd.with(|epoll| raw::modify(epoll, fd, EventData::new_u64(data), flags))
    }

    pub(crate) fn delete(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        self.fd.with(|epoll| raw::delete(epoll, fd))
    }

    pub(crate) fn close(&self) {
        self.fd.close();
    }

    /// Fills the spare capacity of `events`, which must be empty and have some.
    pub(crate) fn wait(&self, RawEvents(events): &mut RawEvents, timeout: Option<Duration>) -> Result<(), Errno> {
        debug_assert!(events.is_empty() && events.capacity() > 0);
        match timeout.filter(|timeout| *timeout < LONGEST_TIMEOUT) {
            None => self.wait_millis(events, None),
            Some(Duration::ZERO) => self.wait_millis(events, Some(0)),
            Some(timeout) => {
                if self.counts_nanos.load(Ordering::Relaxed) {
                    match self.wait_nanos(events, timeout) {
                        Err(Errno::NOSYS | Errno::PERM) => self.counts_nanos.store(false, Ordering::Relaxed),
                        result => return result,
                    }
                }
                // Rounded up: a timer must never fire early.
                let millis = timeout.as_nanos().div_ceil(1_000_000);
                self.wait_millis(events, Some(i32::try_from(millis).unwrap_or(i32::MAX)))
            }
        }
    }

    fn wait_millis(&self, events: &mut Vec<raw::Event>, millis: Option<i32>) -> Result<(), Errno> {
        // rustix turns a Timespec of whole milliseconds within i32 into the plain old `epoll_wait`.
        let timespec = millis
            .map(|millis| Timespec { tv_sec: i64::from(millis / 1000), tv_nsec: i64::from(millis % 1000) * 1_000_000 });
        self.fd.with(|epoll| raw::wait(epoll, rustix::buffer::spare_capacity(events), timespec.as_ref()))?;
        Ok(())
    }

    fn wait_nanos(&self, events: &mut Vec<raw::Event>, timeout: Duration) -> Result<(), Errno> {
        let timespec = Timespec {
            // Below LONGEST_TIMEOUT, so it fits.
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let capacity = events.capacity().min(i32::MAX as usize);
        let count = self.fd.with(|epoll| {
            // SAFETY: `events` has room for `capacity` events from its start (it is empty) and rustix's `Event` is the
            // kernel's layout; `timespec` is the kernel's 64-bit timespec on the targets with 64-bit `c_long` (asserted
            // below) and lives through the call; no signal mask is passed, so its size is not looked at.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    epoll.as_raw_fd(),
                    events.as_mut_ptr(),
                    capacity as libc::c_int,
                    ptr::from_ref(&timespec),
                    ptr::null::<libc::sigset_t>(),
                    0usize,
                )
            };
            usize::try_from(count).map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
        })?;
        // SAFETY: the kernel wrote the first `count` events, and never more than `capacity`.
        unsafe { events.set_len(count) };
        Ok(())
    }
}

const _: () = assert!(size_of::<Timespec>() == 16, "epoll_pwait2 wants the 64-bit timespec");
