//! A descriptor that can be closed while others still hold references to its owner.
//!
//! A loop closes its epoll set and its eventfd when the program says `close()`, but the loop object, wakers in other
//! threads and signal handlers live on. After `close` every use answers EBADF instead of touching a number that
//! somebody else may have got meanwhile.

use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use rustix::io::Errno;

use super::fork::ProcessMark;

const CLOSED: RawFd = -1;

pub(crate) struct ClosableFd {
    fd: AtomicI32,
    /// Uses that began and have not ended: `close` waits for them. Uses are single system calls; the one that may
    /// block (a wait) excludes a close by its caller's contract.
    uses: AtomicU32,
    process: ProcessMark,
}

impl ClosableFd {
    pub(crate) fn new(fd: OwnedFd) -> ClosableFd {
        ClosableFd { fd: AtomicI32::new(fd.into_raw_fd()), uses: AtomicU32::new(0), process: ProcessMark::here() }
    }

    /// Async-signal-safe: two atomic accesses around the call.
    #[inline]
    pub(crate) fn with<R>(&self, call: impl FnOnce(BorrowedFd<'_>) -> Result<R, Errno>) -> Result<R, Errno> {
        // Announce, then read: `close` writes, then reads the announcements. SeqCst puts the four in one order, so
        // either we see CLOSED or `close` sees us.
        self.uses.fetch_add(1, Ordering::SeqCst);
        let fd = self.fd.load(Ordering::SeqCst);
        let result = if fd == CLOSED {
            Err(Errno::BADF)
        } else {
            // SAFETY: open: `close` waits for the announced use before it closes the number.
            call(unsafe { BorrowedFd::borrow_raw(fd) })
        };
        self.uses.fetch_sub(1, Ordering::SeqCst);
        result
    }

    pub(crate) fn close(&self) {
        let fd = self.fd.swap(CLOSED, Ordering::SeqCst);
        if fd == CLOSED {
            return;
        }
        // In a forked child, a use that another thread of the parent had begun never ends, and nobody is in it.
        while self.uses.load(Ordering::SeqCst) != 0 && !self.process.is_foreign() {
            std::thread::yield_now();
        }
        // SAFETY: the number came from an `OwnedFd` in `new`; the swap made us its only owner, and no use is left.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

impl Drop for ClosableFd {
    fn drop(&mut self) {
        self.close();
    }
}
