//! What time it is to the program: a `time()` that a subclass brings, or that somebody put on the loop (tests do, to make
//! timers due), is asked in place of the system's clock, when asyncio asks it.
//!
//! Must stay true
//! - Timers are then looked at in every turn: only the program knows how its time passes.

use driver::Time;
use pyo3::prelude::*;

use super::Loop;
use crate::raw::call::{self, Name};
use crate::raw::obj::Obj;
use crate::raw::{RawResult, attributes, to_raw};
use crate::tasks::timers;

static TIME: Name = Name::new(c"time");

/// Whether `loop.time()` is the program's.
#[inline]
pub(super) fn is_replaced(this: &Obj, event_loop: &Loop) -> bool {
    event_loop.overrides.time || attributes::has_own_named(this, &TIME)
}

/// `loop.time()`
#[inline]
pub(super) fn seconds(py: Python<'_>, this: &Obj, event_loop: &Loop) -> RawResult<f64> {
    if is_replaced(this, event_loop) { ask(py, this) } else { Ok(event_loop.runtime.driver.now().as_secs_f64()) }
}

/// The program's time, as timers are compared with.
pub(super) fn replaced_now(py: Python<'_>, this: &Obj) -> RawResult<Time> {
    Ok(timers::deadline(ask(py, this)?))
}

fn ask(py: Python<'_>, this: &Obj) -> RawResult<f64> {
    let seconds = call::method(py, this, &TIME, &[])?;
    to_raw(py, seconds.borrow(py).extract())
}
