//! The clock and the timers of a loop of ours, for native code: `loop.time()` and `loop.call_at()` without their names.
//!
//! Must stay true
//! - Who replaced the clock or a timer method, in a subclass, on the class or on the loop itself, is asked by name
//!   ([`are_ours`]); so is a loop in debug mode, which looks at who calls.

use driver::Time;
use pyo3::prelude::*;

use super::handle::{self, When};
use super::native_call::Callback;
use super::scheduler::{Clock, LoopRef, Scheduler};
use crate::raw::fastcall::Rest;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, attributes, type_version};

/// The scheduler and the clock of `event_loop`, if both are what programs see by name.
#[inline]
pub(crate) fn are_ours(event_loop: &LoopRef) -> Option<(&Scheduler, Clock)> {
    let (scheduler, object) = (event_loop.scheduler()?, event_loop.object()?);
    let clock = scheduler.clock?;
    let class = scheduler.class_with_our_timers.get()?;
    let as_made = type_version::of_object(&object) == Some(class) && !attributes::may_have_own(&object);
    (as_made && !scheduler.debug.get() && !scheduler.closed.get()).then_some((scheduler, clock))
}

/// Makes a timer and lets it wait. The caller made sure that the loop is open.
#[inline]
pub(crate) fn arm(
    py: Python<'_>,
    scheduler: &Scheduler,
    event_loop: LoopRef,
    when: When,
    callback: Callback,
    args: Rest,
    context: Option<Obj>,
) -> RawResult<Obj> {
    let timer = handle::make_timer(py, event_loop, when, callback, args, context)?;
    let key = scheduler.insert_timer(py, deadline(when.seconds()), timer.as_obj().clone())?;
    handle::set_key(&timer, key);
    Ok(timer.into_obj())
}

/// The first nanosecond at which `loop.time() >= when` holds: a timer never fires early, not even by a rounding.
pub(crate) fn deadline(when: f64) -> Time {
    // NaN and negative become 0, infinity and beyond the end of time.
    let mut nanos = (when * 1e9).ceil() as u64;
    while nanos < u64::MAX && Time::from_nanos(nanos).as_secs_f64() < when {
        nanos += 1;
    }
    Time::from_nanos(nanos)
}
