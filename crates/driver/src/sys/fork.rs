//! Which process are we? A counter that `fork` advances in the child, so that asking costs one load instead of a `getpid`.
//!
//! A child made by `fork` shares the parent's epoll set and eventfd: whatever it did there would happen to the parent. Everything that holds
//! such a thing carries a [`ProcessMark`] and refuses when it is foreign. `vfork` and `posix_spawn` run no handlers and
//! need none: such a child runs nothing of ours before `exec`.

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

static FORKS_SINCE_START: AtomicU32 = AtomicU32::new(0);

/// Remembers the process in which it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessMark(u32);

impl ProcessMark {
    pub(crate) fn here() -> ProcessMark {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| {
            // SAFETY: the handler is a function without captures that lives as long as this library, and an extension
            // module is never unloaded. It runs in the child between fork and its return, where only async-signal-safe
            // things are allowed: it does one atomic addition.
            let refused = unsafe { libc::pthread_atfork(None, None, Some(count_fork)) };
            // ENOMEM is the one error. Without the handler the only loss is the protection of a forked child.
            debug_assert_eq!(refused, 0);
        });
        ProcessMark(FORKS_SINCE_START.load(Ordering::Relaxed))
    }

    #[inline]
    pub(crate) fn is_foreign(self) -> bool {
        self.0 != FORKS_SINCE_START.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn refuse_foreign(self) -> io::Result<()> {
        if self.is_foreign() { Err(foreign()) } else { Ok(()) }
    }
}

#[cold]
fn foreign() -> io::Error {
    io::Error::other("this event loop belongs to the parent process; after fork() the child needs a new one")
}

extern "C" fn count_fork() {
    FORKS_SINCE_START.fetch_add(1, Ordering::Relaxed);
}

/// Runs `story` in a forked child; true if it returned true there.
#[cfg(all(test, not(miri), not(loom)))]
pub(crate) fn in_child(story: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child of a process with threads may call what is safe after fork; glibc's allocator is (it has fork handlers of
    // its own), and the stories take no lock that another thread could have held. The child leaves through `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let kept = std::panic::catch_unwind(std::panic::AssertUnwindSafe(story)).unwrap_or(false);
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(if kept { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: waits for our own child; `status` is a place for the answer.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(waited, pid);
    status == 0
}
