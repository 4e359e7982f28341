//! The clock and the timers of any loop, for who waits for time.
//!
//! On a loop of ours without names (`tasks/timers.rs`); any other loop is asked by name, also one of ours whose clock a program
//! replaced.

use pyo3::prelude::*;
use pyo3::types::PyFloat;

use super::{get_running_loop, plain_number};
use crate::raw::call::{self, Name};
use crate::raw::fastcall::Rest;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_raw};
use crate::tasks::handle::When;
use crate::tasks::native_call::Callback;
use crate::tasks::scheduler::LoopRef;
use crate::tasks::{timers, wait};

static CALL_AT: Name = Name::new(c"call_at");
static CALL_LATER: Name = Name::new(c"call_later");
static CALL_SOON: Name = Name::new(c"call_soon");
static TIME: Name = Name::new(c"time");

/// What a clock says; most say a float.
pub(super) enum Moment {
    Float(f64),
    Object(Obj),
}

impl Moment {
    /// `self + delay`
    pub(super) fn plus(&self, py: Python<'_>, delay: &Obj) -> RawResult<Obj> {
        match (self.number(py), plain_number(py, delay)) {
            (Some(now), Some(delay)) => Ok(Obj::from_bound(PyFloat::new(py, now + delay))),
            _ => to_raw(py, self.object(py).borrow(py).add(delay.borrow(py))).map(Obj::from_bound),
        }
    }

    /// `when <= self`
    pub(super) fn has_come(&self, py: Python<'_>, when: &Obj) -> RawResult<bool> {
        match (plain_number(py, when), self.number(py)) {
            (Some(when), Some(now)) => Ok(when <= now),
            _ => to_raw(py, when.borrow(py).le(self.object(py).borrow(py))),
        }
    }

    #[inline]
    fn number(&self, py: Python<'_>) -> Option<f64> {
        match self {
            Moment::Float(seconds) => Some(*seconds),
            Moment::Object(object) => plain_number(py, object),
        }
    }

    fn object(&self, py: Python<'_>) -> Obj {
        match self {
            Moment::Float(seconds) => Obj::from_bound(PyFloat::new(py, *seconds)),
            Moment::Object(object) => object.clone(),
        }
    }
}

pub(super) struct Timers(LoopRef);

impl Timers {
    /// Those of the loop that runs.
    #[inline]
    pub(super) fn of_running(py: Python<'_>) -> RawResult<Timers> {
        get_running_loop(py).map(Timers::of)
    }

    #[inline]
    pub(super) fn of(event_loop: Obj) -> Timers {
        Timers(LoopRef::new(event_loop))
    }

    pub(super) fn event_loop(&self, py: Python<'_>) -> Obj {
        self.0.object().unwrap_or_else(|| Obj::none(py))
    }

    /// `loop.create_future()`
    #[inline]
    pub(super) fn create_future(&self, py: Python<'_>) -> RawResult<Obj> {
        wait::create_future(py, &self.0)
    }

    /// `loop.time()`
    #[inline]
    pub(super) fn now(&self, py: Python<'_>) -> RawResult<Moment> {
        match timers::are_ours(&self.0) {
            Some((_, clock)) => Ok(Moment::Float(clock().as_secs_f64())),
            None => call::method(py, &self.event_loop(py), &TIME, &[]).map(Moment::Object),
        }
    }

    /// `loop.call_soon(callback)`
    pub(super) fn call_soon(&self, py: Python<'_>, callback: Callback) -> RawResult<Obj> {
        call::method(py, &self.event_loop(py), &CALL_SOON, &[&callback.into_callable(py)?])
    }

    /// `loop.call_at(when, callback)`
    #[inline]
    pub(super) fn call_at(&self, py: Python<'_>, when: &Obj, callback: Callback) -> RawResult<Obj> {
        if let (Some((scheduler, _)), Ok(when)) = (timers::are_ours(&self.0), when.borrow(py).cast_exact::<PyFloat>()) {
            let event_loop = LoopRef::with_scheduler(self.event_loop(py), scheduler);
            return timers::arm(py, scheduler, event_loop, When::Float(when.value()), callback, Rest::None, None);
        }
        call::method(py, &self.event_loop(py), &CALL_AT, &[when, &callback.into_callable(py)?])
    }

    /// `loop.call_later(delay, callback, *args)`
    #[inline]
    pub(super) fn call_later(&self, py: Python<'_>, delay: &Obj, callback: Callback, args: &[&Obj]) -> RawResult<Obj> {
        if let (Some((scheduler, clock)), Some(delay), [] | [_]) =
            (timers::are_ours(&self.0), plain_number(py, delay), args)
        {
            let event_loop = LoopRef::with_scheduler(self.event_loop(py), scheduler);
            let when = When::Float(clock().as_secs_f64() + delay);
            let args = args.first().map_or(Rest::None, |&arg| Rest::One(arg.clone()));
            return timers::arm(py, scheduler, event_loop, when, callback, args, None);
        }
        let callback = callback.into_callable(py)?;
        let mut all = vec![delay, &callback];
        all.extend(args);
        call::method(py, &self.event_loop(py), &CALL_LATER, &all)
    }
}
