//! One turn of the event loop: wait, collect, run.
//!
//! The order is asyncio's and programs rely on it: what was ready, then I/O, then timers. A batch runs what was there
//! when it began; callbacks added meanwhile wait for the next turn, so I/O cannot starve.
//! While it sleeps, the thread is detached from the interpreter: nothing there may touch Python.

use std::io;
use std::time::Duration;

use driver::{Driver, Events, Time};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;

use super::watchers::{self, DOUBT_MAX};
use super::{Loop, clock, debug, dispatch, resolve};
use crate::interop::errors;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, call, context, detached, kept_context, to_raw};
use crate::tasks::ready::Ready;
use crate::tasks::{asyncio_task, current, handle, linked, step};
use crate::transports;

/// While work is ready, the driver is asked at least this often; asking at every turn costs a system call each. It is asked
/// by the turn after one that sent, ended or watched something: programs that have both ends of a connection count on
/// hearing of it then, and beside the system call that made it so, one more is little. And it is asked when a timer is due:
/// I/O comes before timers.
const POLL_AT_LEAST_EVERY: Duration = Duration::from_micros(50);

/// While turns are this short, the clock is read only once in [`TURNS_PER_CLOCK`] turns: reading it is a tenth of a short
/// turn. When turns become longer, that many of them are the most that I/O waits in addition, once. Not while a timer is
/// new or may be due in that time: one that is due when it is made runs in the next turn, and programs count turns.
const SHORT_TURN: Duration = Duration::from_micros(2);
const TURNS_PER_CLOCK: u32 = 6;

/// How many events one wait may report; more are reported by the next turn.
const EVENTS_PER_WAIT: usize = 1024;

/// Turns until the loop is told to stop. Errors are those that leave `run_forever`.
pub(super) fn run_turns(py: Python<'_>, this: &Obj, event_loop: &Loop) -> RawResult<()> {
    let mut events = Events::with_capacity(EVENTS_PER_WAIT);
    let _runs = kept_context::LoopRuns::begin(py);
    let _elsewhere = (!event_loop.runs_in_main_thread.get()).then(detached::Elsewhere::begin);
    // The first turn asks the driver, whatever ran before.
    event_loop.last_poll.set(Time::from_nanos(0));
    event_loop.clock.set(TurnClock::due());
    let outcome = loop {
        let outcome = run_turn(py, this, event_loop, &mut events);
        if outcome.is_err() || event_loop.stopping.get() {
            break outcome;
        }
    };
    current::leave_last(py, &event_loop.runtime.scheduler, this)?;
    outcome
}

fn run_turn(py: Python<'_>, this: &Obj, event_loop: &Loop, events: &mut Events) -> RawResult<()> {
    if !event_loop.runs_in_main_thread.get() {
        detached::nap_if_exiting(py);
    }
    let (driver, scheduler) = (&event_loop.runtime.driver, &event_loop.runtime.scheduler);
    let mut turn_clock = event_loop.clock.get();
    let has_stirred = driver.has_stirred();
    let by_programs_time = clock::is_replaced(this, event_loop);
    let must_look = has_stirred || scheduler.timer_was_added.get() || by_programs_time;
    if scheduler.ready_len(py) > 0 && !must_look && turn_clock.may_wait() {
        event_loop.clock.set(turn_clock);
        return run_batch(py, this, event_loop);
    }
    let now = driver.now();
    let first_timer = scheduler.earliest_possible_timer(py);
    scheduler.timer_was_added.set(false);
    turn_clock.read(now, first_timer);
    event_loop.clock.set(turn_clock);
    let sleep = if by_programs_time && scheduler.ready_len(py) == 0 {
        current::leave_last(py, scheduler, this)?;
        event_loop.sleep(py, clock::replaced_now(py, this)?)
    } else {
        event_loop.sleep(py, now)
    };
    let idle = sleep != Some(Duration::ZERO);
    let is_time = first_timer <= now || now.saturating_since(event_loop.last_poll.get()) >= POLL_AT_LEAST_EVERY;
    if idle || has_stirred || is_time || by_programs_time {
        // Signal handlers may run, and others may look while this thread sleeps.
        kept_context::forget();
        current::leave_last(py, scheduler, this)?;
        let in_doubt = idle && watchers::has_doubts(py, event_loop);
        let sleep = if in_doubt { Some(sleep.map_or(DOUBT_MAX, |sleep| sleep.min(DOUBT_MAX))) } else { sleep };
        if let Err(raised) = wait(py, driver, events, sleep) {
            // What was found need not be reported again: it waits for whoever runs the loop next.
            collect_events(py, event_loop, events);
            return Err(raised);
        }
        if event_loop.runtime.lookups.has_answers() {
            resolve::deliver(py, event_loop);
        }
        if in_doubt && events.is_empty() {
            watchers::confirm(py, event_loop);
        }
        let now = if idle { driver.now() } else { now };
        event_loop.last_poll.set(now);
        event_loop.runtime.flushed_at.set(now);
        collect_events(py, event_loop, events);
        collect_timers(py, event_loop, if by_programs_time { clock::replaced_now(py, this)? } else { now });
    }
    run_batch(py, this, event_loop)
}

/// When the clock must be read again.
#[derive(Clone, Copy)]
pub(super) struct TurnClock {
    last_read: Time,
    /// Turns since then.
    turns: u32,
    turns_max: u32,
}

impl TurnClock {
    pub(super) fn due() -> TurnClock {
        TurnClock { last_read: Time::from_nanos(0), turns: 0, turns_max: 0 }
    }

    /// Counts a turn, if it can do without the clock.
    fn may_wait(&mut self) -> bool {
        self.turns += 1;
        self.turns < self.turns_max
    }

    fn read(&mut self, now: Time, first_timer: Time) {
        let short = now.saturating_since(self.last_read) < SHORT_TURN * self.turns.max(1)
            && first_timer.saturating_since(now) > SHORT_TURN * TURNS_PER_CLOCK;
        *self = TurnClock { last_read: now, turns: 0, turns_max: if short { TURNS_PER_CLOCK } else { 0 } };
    }
}

/// The next turn asks the driver, whatever is ready.
pub(super) fn poll_next(event_loop: &Loop) {
    event_loop.clock.set(TurnClock::due());
    event_loop.last_poll.set(Time::from_nanos(0));
}

/// Asks the driver; detached from the interpreter if this may sleep. Python's signal handlers run here.
fn wait(py: Python<'_>, driver: &Driver, events: &mut Events, sleep: Option<Duration>) -> RawResult<()> {
    let result = if sleep == Some(Duration::ZERO) {
        driver.wait(events, sleep)
    } else {
        detached::wait(py, driver, events, sleep)
    };
    match result {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
        Err(error) => {
            events.clear();
            return Err(Raised::from_err(py, errors::os_error(py, &error)));
        }
    }
    to_raw(py, py.check_signals())
}

fn collect_events(py: Python<'_>, event_loop: &Loop, events: &Events) {
    for event in events.iter() {
        let entry = Ready::Io { token: event.token, readable: event.readable, writable: event.writable };
        event_loop.push(py, entry);
    }
}

fn collect_timers(py: Python<'_>, event_loop: &Loop, now: Time) {
    let scheduler = &event_loop.runtime.scheduler;
    while let Some(timer) = scheduler.pop_timer(py, now) {
        handle::timer_expired(&timer);
        scheduler.push(py, Ready::Handle(timer));
    }
}

/// Runs what is ready now, and nothing that is added meanwhile.
fn run_batch(py: Python<'_>, this: &Obj, event_loop: &Loop) -> RawResult<()> {
    let runtime = &event_loop.runtime;
    let mut outcome = Ok(());
    for left in (0..runtime.scheduler.ready_len(py)).rev() {
        let Some(entry) = runtime.scheduler.pop(py) else {
            break;
        };
        outcome = if runtime.scheduler.debug.get() {
            debug::run_timed(py, this, event_loop, entry)
        } else {
            run_entry(py, this, event_loop, entry)
        };
        if outcome.is_ok() && left > 0 && transports::write::flush_is_due(py, runtime) {
            runtime.scheduler.standing.leave(py);
            outcome = flush(py, this, event_loop);
        }
        if outcome.is_err() {
            break;
        }
    }
    runtime.scheduler.standing.leave(py);
    match outcome {
        Ok(()) => flush(py, this, event_loop),
        Err(raised) => {
            // Kept aside, because flushing may call programs.
            let err = raised.fetch(py);
            if let Err(raised) = flush(py, this, event_loop) {
                raised.fetch(py).write_unraisable(py, Some(&this.borrow(py)));
            }
            Err(Raised::from_err(py, err))
        }
    }
}

/// What the entries wrote leaves. Whom that calls (a log handler that is told of a broken connection) sees no current task: the
/// last one that ran need not be the one that wrote.
#[inline]
fn flush(py: Python<'_>, this: &Obj, event_loop: &Loop) -> RawResult<()> {
    let runtime = &event_loop.runtime;
    if !transports::write::has_corked(py, runtime) {
        return Ok(());
    }
    current::leave_last(py, &runtime.scheduler, this)?;
    transports::write::flush_all(py, runtime)
}

#[inline]
pub(super) fn run_entry(py: Python<'_>, this: &Obj, event_loop: &Loop, entry: Ready) -> RawResult<()> {
    let scheduler = &event_loop.runtime.scheduler;
    match entry {
        Ready::Handle(handle) => {
            if !handle::only_sets_result(&handle) {
                current::leave_last(py, scheduler, this)?;
            }
            handle::run_entry(py, &scheduler.standing, &handle)
        }
        Ready::Step(task) => step::step(py, &scheduler.standing, &task),
        Ready::Wakeup { task, future } => step::wakeup(py, &scheduler.standing, &task, &future),
        entry => run_alone(py, this, event_loop, entry),
    }
}

/// What runs neither in a context of its own nor as a task. Not inlined: the loop around it is to stay small for the others.
#[inline(never)]
fn run_alone(py: Python<'_>, this: &Obj, event_loop: &Loop, entry: Ready) -> RawResult<()> {
    let scheduler = &event_loop.runtime.scheduler;
    scheduler.standing.leave(py);
    current::leave_last(py, scheduler, this)?;
    match entry {
        Ready::Linked { outer, inner } => match linked::inner_is_done(py, &outer, &inner) {
            Ok(()) => Ok(()),
            Err(raised) => report_linked(py, this, event_loop, &outer, &inner, raised),
        },
        Ready::DoneCallback { callback, future, context } => {
            run_done_callback(py, this, event_loop, &callback, &future, context)
        }
        Ready::Io { token, readable, writable } => dispatch::ready(py, event_loop, token, readable, writable),
        Ready::Native { object, work } => dispatch::native(py, &object, work),
        Ready::Handle(_) | Ready::Step(_) | Ready::Wakeup { .. } => unreachable!("run by run_entry"),
    }
}

/// `callback(future)`; a handle is made only to report an exception.
fn run_done_callback(
    py: Python<'_>,
    this: &Obj,
    event_loop: &Loop,
    callback: &Obj,
    future: &Obj,
    context: Obj,
) -> RawResult<()> {
    let call = || call::call1(py, callback, &asyncio_task::argument(py, callback, future)?);
    match context::run_in(py, &context, call) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(raised)) | Err(raised) => report(py, this, event_loop, callback, future, Some(context), raised),
    }
}

/// A done callback raised.
#[cold]
fn report(
    py: Python<'_>,
    this: &Obj,
    event_loop: &Loop,
    callback: &Obj,
    future: &Obj,
    context: Option<Obj>,
    raised: Raised,
) -> RawResult<()> {
    let err = raised.fetch(py);
    let rest = crate::raw::fastcall::Rest::One(future.clone());
    let handle = handle::make(py, event_loop.reference(this), callback.clone(), rest, context)?;
    handle::report(py, handle.as_obj(), Raised::from_err(py, err))
}

#[cold]
fn report_linked(
    py: Python<'_>,
    this: &Obj,
    event_loop: &Loop,
    outer: &Obj,
    inner: &Obj,
    raised: Raised,
) -> RawResult<()> {
    let err = raised.fetch(py);
    let callback = linked::callable(py, outer)?;
    report(py, this, event_loop, &callback, inner, None, Raised::from_err(py, err))
}

/// Whether an error must leave `run_forever` at once.
pub(super) fn leaves_the_loop(py: Python<'_>, err: &PyErr) -> bool {
    err.is_instance_of::<PyKeyboardInterrupt>(py) || err.is_instance_of::<pyo3::exceptions::PySystemExit>(py)
}
