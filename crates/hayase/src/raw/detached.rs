//! Sleeping without the GIL, and never coming back to an interpreter that is ending.
//!
//! Before 3.14, a thread that asks for the GIL of an ending interpreter is ended by `pthread_exit`, which unwinds through
//! our frames and aborts the process ("Rust cannot catch foreign exceptions"). Only daemon threads get there. So a loop
//! looks before it asks, and sleeps for ever (the process is about to end) instead.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use driver::{Driver, Events};
use pyo3::Python;

use super::compat;

/// Set when the `atexit` functions run: see [`nap_if_exiting`].
static EXITING: AtomicBool = AtomicBool::new(false);

/// Loops that run outside the main thread, and how many of them are without the GIL in this file.
static ELSEWHERE: AtomicUsize = AtomicUsize::new(0);
static AWAY: AtomicUsize = AtomicUsize::new(0);

/// How long the exit waits at most for busy loops to reach their first nap.
const NAPS_BEGIN_WITHIN: Duration = Duration::from_millis(200);

/// How long a loop that is not in the main thread lets go of the GIL at every turn while the process exits, unless
/// another thread calls it. Much longer than an interpreter needs from its `atexit` functions to its end.
const NAP: Duration = Duration::from_millis(100);
static NAPPING: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());

/// `driver.wait` while other threads may run Python.
pub(crate) fn wait(py: Python<'_>, driver: &Driver, events: &mut Events, sleep: Option<Duration>) -> io::Result<()> {
    py.detach(|| {
        let _away = Away::begin();
        let result = driver.wait(events, sleep);
        park_if_finalizing();
        result
    })
}

/// Sleeps until this thread is unparked, at most for `limit`, while other threads may run Python; `before` runs first, without
/// the GIL.
pub(crate) fn park(py: Python<'_>, before: fn(), limit: Option<Duration>) {
    py.detach(|| {
        before();
        match limit {
            Some(limit) => std::thread::park_timeout(limit),
            None => std::thread::park(),
        }
        park_if_finalizing();
    });
}

/// While it lives, a loop runs outside the main thread.
pub(crate) struct Elsewhere(());

impl Elsewhere {
    pub(crate) fn begin() -> Elsewhere {
        ELSEWHERE.fetch_add(1, Ordering::SeqCst);
        Elsewhere(())
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        ELSEWHERE.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Away(());

impl Away {
    fn begin() -> Away {
        AWAY.fetch_add(1, Ordering::SeqCst);
        Away(())
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        AWAY.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The `atexit` functions run: loops in daemon threads now go slowly. Waits until they do, so that none of them is in
/// the middle of a callback when the interpreter ends.
pub(crate) fn process_exits(py: Python<'_>) {
    EXITING.store(true, Ordering::Relaxed);
    py.detach(|| {
        let start = std::time::Instant::now();
        while AWAY.load(Ordering::SeqCst) < ELSEWHERE.load(Ordering::SeqCst) && start.elapsed() < NAPS_BEGIN_WITHIN {
            std::thread::sleep(Duration::from_micros(100));
        }
    });
}

/// Whether the interpreter ends, or is about to.
#[inline]
pub(crate) fn is_exiting() -> bool {
    EXITING.load(Ordering::Relaxed)
}

/// A loop that is always busy would hold or want the GIL at the very moment the interpreter ends. While the process exits
/// it spends nearly all its time here, where that is harmless; `atexit` functions that need it are still served.
pub(crate) fn nap_if_exiting(py: Python<'_>) {
    if EXITING.load(Ordering::Relaxed) {
        py.detach(|| {
            let _away = Away::begin();
            let (lock, called) = &NAPPING;
            // Called or not, it is time to look again; a poisoned lock guards nothing.
            let guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
            drop(called.wait_timeout(guard, NAP));
            park_if_finalizing();
        });
    }
}

/// Another thread wants something of a loop: naps end.
pub(crate) fn call_nappers() {
    if EXITING.load(Ordering::Relaxed) {
        NAPPING.1.notify_all();
    }
}

fn park_if_finalizing() {
    while compat::is_finalizing() {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
