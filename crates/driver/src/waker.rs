//! How another thread, or a signal handler, ends the driver's sleep. The only part of the crate that they touch.
//!
//! One word of state, two bits:
//!
//! * `NOTIFIED`: somebody called `wake` and the driver has not reported it yet;
//! * `SLEEPING`: the driver is in, or on its way into, a wait that may block.
//!
//! `wake` sets `NOTIFIED` and writes to the eventfd only if it was the first to set it *and* the driver sleeps: of a
//! thousand wake-ups during one turn none costs a system call, and of a thousand during one sleep one does.
//!
//! Why no wake-up is lost. The orders that matter:
//!
//! 1. The other thread: put the item into the inbox, **then** `wake`.
//! 2. The driver: set `SLEEPING`, **then** look at `NOTIFIED` (the same read-modify-write), then sleep. Both sides change one
//!    atomic word, so one of them comes first: either the driver sees `NOTIFIED` and does not block, or `wake` sees
//!    `SLEEPING` and writes.
//! 3. The driver: clear both bits (a read-modify-write that acquires), report `woken`, and only **then** does the caller
//!    read the inbox. A `wake` before the clearing is covered by that reading; a `wake` after it finds `NOTIFIED` clear
//!    and leaves it set for the next wait.
//!
//! The write to the eventfd may happen long after the bit was set. Then it ends a later sleep without a cause: harmless.
//! The eventfd is watched edge-triggered and never read: each write is an edge of its own, and a counter of 64 bits does not
//! run full. That saves the `read` that a level-triggered one would cost for each wake-up.
//!
//! The model at the end checks all this with loom: `RUSTFLAGS="--cfg loom" cargo test -p hayase-driver --lib --release waker`.
//!

use std::fmt;
use std::sync::Arc;

#[cfg(loom)]
use loom::sync::atomic::{AtomicU8, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU8, Ordering};

use crate::sys::event_fd::EventFd;
use crate::sys::fork::ProcessMark;

const NOTIFIED: u8 = 1;
const SLEEPING: u8 = 2;

/// Ends the sleep of one [`Driver`](crate::Driver), or prevents its next one. Cheap to clone; outlives the driver without harm.
#[derive(Clone)]
pub struct Waker(Arc<Shared>);

struct Shared {
    state: WakeState,
    alarm: Alarm,
    process: ProcessMark,
}

/// What reaches a thread that blocks.
pub(crate) enum Alarm {
    EventFd(EventFd),
    Bell(Arc<dyn Bell>),
}

/// An alarm that is no descriptor: what a backend without a kernel sleeps on.
pub(crate) trait Bell: Send + Sync {
    fn ring(&self);
}

impl Waker {
    pub(crate) fn new(alarm: Alarm, process: ProcessMark) -> Waker {
        Waker(Arc::new(Shared { state: WakeState::new(), alarm, process }))
    }

    /// Makes the current or the next [`Driver::wait`](crate::Driver::wait) return at once and say `woken`.
    ///
    /// Callable from any thread and, with the epoll backend, from a signal handler: two atomic accesses and at most one `write`,
    /// no lock, no allocation, `errno` untouched. In a forked child it does nothing: the sleeper is the parent's.
    pub fn wake(&self) {
        if self.0.process.is_foreign() {
            return;
        }
        if self.0.state.notify() {
            match &self.0.alarm {
                Alarm::EventFd(event_fd) => event_fd.signal(),
                Alarm::Bell(bell) => bell.ring(),
            }
        }
    }

    /// Gives the alarm's descriptor back; `wake` goes on to be harmless.
    pub(crate) fn close(&self) {
        match &self.0.alarm {
            Alarm::EventFd(event_fd) => event_fd.close(),
            Alarm::Bell(_) => {}
        }
    }

    pub(crate) fn state(&self) -> &WakeState {
        &self.0.state
    }
}

/// The word that the two sides share. Each method is one step of the protocol above.
pub(crate) struct WakeState(AtomicU8);

impl WakeState {
    fn new() -> WakeState {
        WakeState(AtomicU8::new(0))
    }

    /// True if the sleeper has to be called: it sleeps, and nobody else called it.
    fn notify(&self) -> bool {
        self.0.fetch_or(NOTIFIED, Ordering::AcqRel) == SLEEPING
    }

    /// Announces a sleep. `Err` if another thread announced one already.
    pub(crate) fn fall_asleep(&self) -> Result<WakePending, AlreadyAsleep> {
        let before = self.0.fetch_or(SLEEPING, Ordering::AcqRel);
        if before & SLEEPING != 0 {
            return Err(AlreadyAsleep);
        }
        Ok(WakePending(before & NOTIFIED != 0))
    }

    /// Ends an announced sleep; true if somebody called `wake` since this was last asked.
    pub(crate) fn get_up(&self) -> bool {
        self.0.swap(0, Ordering::AcqRel) & NOTIFIED != 0
    }

    /// Ends an announced sleep whose result nobody gets to see (it was interrupted): a wake-up stays pending.
    pub(crate) fn get_up_unreported(&self) {
        self.0.fetch_and(!SLEEPING, Ordering::AcqRel);
    }

    #[cfg(all(test, not(miri), not(loom)))]
    pub(crate) fn is_asleep(&self) -> bool {
        self.0.load(Ordering::Acquire) & SLEEPING != 0
    }

    /// True once for any number of `wake` calls since this was last asked. For the thread that owns the driver, while it is awake.
    pub(crate) fn take(&self) -> bool {
        // The plain load keeps a turn that nobody disturbs free of a locked instruction.
        self.0.load(Ordering::Relaxed) & NOTIFIED != 0 && self.0.fetch_and(!NOTIFIED, Ordering::AcqRel) & NOTIFIED != 0
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.state.0.load(Ordering::Relaxed);
        f.debug_struct("Waker")
            .field("notified", &(state & NOTIFIED != 0))
            .field("sleeping", &(state & SLEEPING != 0))
            .finish()
    }
}

/// Whether a wake-up came before the sleep, so that the sleep must not block.
pub(crate) struct WakePending(pub(crate) bool);

#[derive(Debug)]
pub(crate) struct AlreadyAsleep;

/// Two threads that wake and one that sleeps, in every interleaving that the memory model allows. A lost wake-up shows as a
/// deadlock, a missing ordering as an inbox without the item.
#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::sync::atomic::AtomicUsize;
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    struct World {
        state: WakeState,
        /// The inbox, without a lock of its own: only the protocol orders its accesses.
        inbox: [AtomicUsize; 2],
        /// The eventfd: how many writes there were.
        edges: Mutex<usize>,
        edge_came: Condvar,
    }

    impl World {
        fn deliver(&self, number: usize) {
            self.inbox[number].store(1, Ordering::Relaxed);
            if self.state.notify() {
                *self.edges.lock().unwrap() += 1;
                self.edge_came.notify_one();
            }
        }

        /// One `Driver::wait` without limit. The kernel reports each edge once.
        fn wait(&self, edges_seen: &mut usize) -> bool {
            let pending = self.state.fall_asleep().unwrap();
            if !pending.0 {
                let mut edges = self.edges.lock().unwrap();
                while *edges == *edges_seen {
                    edges = self.edge_came.wait(edges).unwrap();
                }
                *edges_seen = *edges;
            }
            self.state.get_up()
        }

        fn inbox_len(&self) -> usize {
            self.inbox.iter().map(|item| item.load(Ordering::Relaxed)).sum()
        }
    }

    #[test]
    fn no_wake_up_is_lost_and_what_was_delivered_before_it_is_seen() {
        loom::model(|| {
            let world = Arc::new(World {
                state: WakeState::new(),
                inbox: [AtomicUsize::new(0), AtomicUsize::new(0)],
                edges: Mutex::new(0),
                edge_came: Condvar::new(),
            });
            let threads = [0, 1].map(|number| {
                let world = Arc::clone(&world);
                thread::spawn(move || world.deliver(number))
            });
            let mut edges_seen = 0;
            // The inbox is read only after a wait that said `woken`, as the loop does.
            let mut received = 0;
            while received < 2 {
                if world.wait(&mut edges_seen) {
                    received = world.inbox_len();
                }
            }
            for thread in threads {
                thread.join().unwrap();
            }
        });
    }

    #[test]
    fn a_wake_up_survives_an_interrupted_sleep() {
        loom::model(|| {
            let world = Arc::new(World {
                state: WakeState::new(),
                inbox: [AtomicUsize::new(0), AtomicUsize::new(0)],
                edges: Mutex::new(0),
                edge_came: Condvar::new(),
            });
            let thread = {
                let world = Arc::clone(&world);
                thread::spawn(move || world.deliver(0))
            };
            // A signal ends the first sleep at once; whatever edge came is used up with it.
            world.state.fall_asleep().unwrap();
            let mut edges_seen = *world.edges.lock().unwrap();
            world.state.get_up_unreported();
            while !world.wait(&mut edges_seen) {}
            assert_eq!(world.inbox_len(), 1);
            thread.join().unwrap();
        });
    }
}
