//! The scheduler of one loop: what is ready, what is due, and the flags that every `call_soon` looks at.
//!
//! It lives inside the loop object and is reached from handles, futures and tasks through a `LoopRef`. It starts
//! nothing by itself: `event_loop/turn.rs` takes entries out and runs them.
//!
//! Must stay true
//! - Entries run in the order they were pushed; a turn runs what was there when it began.
//! - No reference is dropped and no Python code runs while a cell is open.

use std::collections::VecDeque;

use driver::{Time, TimerKey, TimerQueue, Waker};
use pyo3::Python;
use pyo3::exceptions::PyRuntimeError;

use super::ready::Ready;
use crate::raw::cell::{GilCell, GilValue};
use crate::raw::instance::Visitor;
use crate::raw::kept_context::Standing;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult};
use crate::raw::{compat, growing, loop_ref, type_version};

pub(crate) type Clock = fn() -> Time;

pub(crate) type LoopRef = loop_ref::LoopRef<Scheduler>;

/// What asyncio has as the loop's current task; kept by `current.rs`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Current {
    None,
    /// A step of ours is on.
    Running,
    /// A step of ours is over and its task still stands there.
    LeftStanding,
}

pub(crate) struct Scheduler {
    ready: GilCell<VecDeque<Ready>>,
    /// Counts the entries that were taken out (wrapping): two looks at the same number are within one entry.
    pub(crate) entry: GilValue<u32>,
    timers: GilCell<TimerQueue<Obj>>,
    /// Since the loop last looked at its clock.
    pub(crate) timer_was_added: GilValue<bool>,
    waker: Waker,
    pub(super) clock: Option<Clock>,
    /// Which class the loop must still have for its clock and its timers to be ours; `None` if they never were.
    pub(crate) class_with_our_timers: GilValue<Option<type_version::Version>>,
    /// `loop.get_debug()`
    pub(crate) debug: GilValue<bool>,
    pub(crate) closed: GilValue<bool>,
    pub(crate) current: GilValue<Current>,
    /// The context that the last entry left entered.
    pub(crate) standing: Standing,
    /// `threading.get_ident()` of the thread that runs the loop; 0 when it does not run.
    pub(crate) running_thread: GilValue<u64>,
}

impl Scheduler {
    pub(crate) fn new(waker: Waker, clock: Option<Clock>) -> Scheduler {
        Scheduler {
            ready: GilCell::new(VecDeque::new()),
            entry: GilValue::new(0),
            timers: GilCell::new(TimerQueue::new()),
            timer_was_added: GilValue::new(false),
            waker,
            clock,
            class_with_our_timers: GilValue::new(None),
            debug: GilValue::new(false),
            closed: GilValue::new(false),
            current: GilValue::new(Current::None),
            standing: Standing::empty(),
            running_thread: GilValue::new(0),
        }
    }

    /// For what the loop has to do by itself.
    #[inline]
    pub(crate) fn push(&self, py: Python<'_>, entry: Ready) {
        self.ready.with(py, |ready| growing::push_back(ready, entry));
    }

    /// For what a program asks for: as [`Scheduler::push`], or `MemoryError`.
    #[inline]
    pub(crate) fn schedule(&self, py: Python<'_>, entry: Ready) -> RawResult<()> {
        self.ready.append(py, entry)
    }

    #[inline]
    pub(crate) fn pop(&self, py: Python<'_>) -> Option<Ready> {
        self.entry.set(self.entry.get().wrapping_add(1));
        self.ready.with(py, VecDeque::pop_front)
    }

    #[inline]
    pub(crate) fn ready_len(&self, py: Python<'_>) -> usize {
        self.ready.with(py, |ready| ready.len())
    }

    /// Everything that waits, taken out (to be dropped by the caller, with no cell open).
    pub(crate) fn drain(&self, py: Python<'_>) -> (VecDeque<Ready>, Vec<Obj>) {
        let ready = self.ready.with(py, std::mem::take);
        let timers = self.timers.with(py, |timers| timers.drain().collect());
        (ready, timers)
    }

    /// `handle` is an exact `TimerHandle`.
    #[inline]
    pub(crate) fn insert_timer(&self, py: Python<'_>, deadline: Time, handle: Obj) -> RawResult<TimerKey> {
        self.timer_was_added.set(true);
        let inserted = self.timers.with(py, |timers| match timers.try_reserve() {
            Ok(()) => Ok(timers.insert(deadline, handle)),
            // Dropped when the cell is closed again.
            Err(_) => Err(handle),
        });
        inserted.map_err(|_refused| Raised::no_memory(py))
    }

    /// The handle, if it was still waiting; dropped by the caller.
    #[inline]
    pub(crate) fn cancel_timer(&self, py: Python<'_>, key: TimerKey) -> Option<Obj> {
        self.timers.with(py, |timers| timers.cancel(key))
    }

    pub(crate) fn next_deadline(&self, py: Python<'_>) -> Option<Time> {
        self.timers.with(py, TimerQueue::next_deadline)
    }

    /// No timer is due before this.
    #[inline]
    pub(crate) fn earliest_possible_timer(&self, py: Python<'_>) -> Time {
        self.timers.with(py, |timers| timers.earliest_possible())
    }

    #[inline]
    pub(crate) fn pop_timer(&self, py: Python<'_>, now: Time) -> Option<Obj> {
        self.timers.with(py, |timers| timers.pop_expired(now))
    }

    /// Wakes the loop from another thread; coalesced.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    pub(crate) fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// `RuntimeError('Event loop is closed')` for a closed loop.
    #[inline]
    pub(crate) fn check_open(&self, py: Python<'_>) -> RawResult<()> {
        if self.closed.get() { Err(closed_error(py)) } else { Ok(()) }
    }

    /// What `call_soon` checks: the loop is open, and in debug mode that its own thread asks.
    #[inline]
    pub(crate) fn check_call_soon(&self, py: Python<'_>) -> RawResult<()> {
        self.check_open(py)?;
        if self.debug.get() { self.check_thread(py) } else { Ok(()) }
    }

    #[cold]
    fn check_thread(&self, py: Python<'_>) -> RawResult<()> {
        let running = self.running_thread.get();
        if running == 0 || running == compat::thread_id() {
            return Ok(());
        }
        let text = "Non-thread-safe operation invoked on an event loop other than the current one";
        Err(Raised::from_err(py, PyRuntimeError::new_err(text)))
    }

    pub(crate) fn visit(&self, visitor: &mut Visitor<'_>) {
        self.ready.peek(|ready| ready.iter().for_each(|entry| entry.visit(visitor)));
        self.timers.peek(|timers| timers.iter().for_each(|handle| visitor.obj(handle)));
    }
}

#[cold]
fn closed_error(py: Python<'_>) -> Raised {
    Raised::from_err(py, PyRuntimeError::new_err("Event loop is closed"))
}
