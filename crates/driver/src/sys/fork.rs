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
        if self.is_foreign() {
            Err(foreign())
        } else {
            Ok(())
        }
    }
}

#[cold]
fn foreign() -> io::Error {
    io::Error::other(
        "this event loop belongs to the parent process; after fork() the child needs a new one",
    )
}

extern "C" fn count_fork() {
    FORKS_SINCE_START.fetch_add(1, Ordering::Relaxed);
}
