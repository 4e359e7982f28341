//! Waiting for a future from native code: making one on whatever loop runs, completing it, and awaiting it.
//!
//! On a loop of ours a future is ours, and all of this is a few moves. On any other loop it is that loop's, and the same
//! is said in Python. So what is written on top (locks, queues, timeouts) works on every loop, in asyncio's order.

use pyo3::prelude::*;

use super::future::{self, core_of};
use super::future_core::State;
use super::future_iterator;
use super::scheduler::LoopRef;
use crate::interop::imports;
use crate::raw::call::{self, Name};
use crate::raw::cell::ObjCell;
use crate::raw::instance::Visitor;
use crate::raw::iterate;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, compat, exception};

static CANCEL: Name = Name::new(c"cancel");
static CANCELLED: Name = Name::new(c"cancelled");
static CREATE_FUTURE: Name = Name::new(c"create_future");
static DONE: Name = Name::new(c"done");
static SET_RESULT: Name = Name::new(c"set_result");

/// The loop that runs in this thread, or None.
#[inline]
pub(crate) fn running_loop(py: Python<'_>) -> RawResult<Obj> {
    call::call0(py, &imports::raw(py, imports::running_loop(py))?)
}

/// Whether `event_loop` is one of ours that runs in this thread.
#[inline]
pub(crate) fn runs_here(event_loop: &LoopRef) -> bool {
    event_loop.scheduler().is_some_and(|scheduler| scheduler.running_thread.get() == compat::thread_id())
}

/// The loop of a future of ours.
pub(crate) fn loop_of(future: &Obj) -> Option<Obj> {
    core_of(future)?.event_loop.object()
}

/// `event_loop.create_future()`
#[inline]
pub(crate) fn create_future(py: Python<'_>, event_loop: &LoopRef) -> RawResult<Obj> {
    match (event_loop.object(), event_loop.scheduler()) {
        (Some(object), Some(scheduler)) => future::make(py, LoopRef::with_scheduler(object, scheduler)),
        (object, _) => call::method(py, &object.unwrap_or_else(|| Obj::none(py)), &CREATE_FUTURE, &[]),
    }
}

#[inline]
pub(crate) fn is_done(py: Python<'_>, future: &Obj) -> RawResult<bool> {
    match core_of(future) {
        Some(core) => Ok(!core.is_pending()),
        None => call::is_true(py, &call::method(py, future, &DONE, &[])?),
    }
}

/// Whether a future of ours is done and holds no exception.
#[inline]
pub(crate) fn is_done_without_error(future: &Obj) -> bool {
    core_of(future).is_some_and(|core| matches!(core.state(), State::Result | State::Cancelled))
}

#[inline]
pub(crate) fn is_cancelled(py: Python<'_>, future: &Obj) -> RawResult<bool> {
    match core_of(future) {
        Some(core) => Ok(core.state() == State::Cancelled),
        None => call::is_true(py, &call::method(py, future, &CANCELLED, &[])?),
    }
}

/// `future.set_result(value)`
#[inline]
pub(crate) fn set_result(py: Python<'_>, future: &Obj, value: Obj) -> RawResult<()> {
    match core_of(future) {
        Some(core) => core.set_result(py, future, value),
        None => call::method(py, future, &SET_RESULT, &[&value]).map(drop),
    }
}

/// `future.set_exception(error)`
pub(crate) fn set_exception(py: Python<'_>, future: &Obj, error: &Obj) -> RawResult<()> {
    static SET_EXCEPTION: Name = Name::new(c"set_exception");
    match core_of(future) {
        Some(core) => core.set_exception(py, future, error),
        None => call::method(py, future, &SET_EXCEPTION, &[error]).map(drop),
    }
}

/// Makes a future done, with a value or with an error (an exception instance), unless it is done already.
pub(crate) fn settle(py: Python<'_>, future: &Obj, outcome: Result<Obj, Obj>) -> RawResult<()> {
    if is_done(py, future)? {
        return Ok(());
    }
    match outcome {
        Ok(value) => set_result(py, future, value),
        Err(error) => set_exception(py, future, &error),
    }
}

/// `future.set_result(None)`, unless it is done already.
#[inline]
pub(crate) fn resolve(py: Python<'_>, future: &Obj) -> RawResult<()> {
    settle(py, future, Ok(Obj::none(py)))
}

/// `future.cancel()`
pub(crate) fn cancel(py: Python<'_>, future: &Obj) -> RawResult<bool> {
    match core_of(future) {
        Some(_) => super::task::cancel_object(py, future, None),
        None => call::is_true(py, &call::method(py, future, &CANCEL, &[])?),
    }
}

/// How a done future ended.
pub(crate) enum Ending {
    Value(Obj),
    Error(Obj),
    Cancelled,
}

/// How a done future ended; its exception counts as retrieved.
#[inline]
pub(crate) fn ending(py: Python<'_>, future: &Obj) -> RawResult<Ending> {
    static EXCEPTION: Name = Name::new(c"exception");
    static RESULT: Name = Name::new(c"result");
    if let Some(core) = core_of(future) {
        return Ok(match core.state() {
            State::Result | State::Pending => Ending::Value(core.stored(py)),
            State::Exception => {
                core.forget_unretrieved();
                Ending::Error(core.stored(py))
            }
            State::Cancelled => Ending::Cancelled,
        });
    }
    if is_cancelled(py, future)? {
        return Ok(Ending::Cancelled);
    }
    let error = call::method(py, future, &EXCEPTION, &[])?;
    if !error.is_none() {
        return Ok(Ending::Error(error));
    }
    call::method(py, future, &RESULT, &[]).map(Ending::Value)
}

/// What drives an awaitable puts in.
pub(crate) enum Input {
    Send(Obj),
    /// An exception instance.
    Throw(Obj),
}

/// What came of driving one.
pub(crate) enum Driven {
    /// It waits; this goes to whoever drives us.
    Yielded(Obj),
    /// It is over: a value, or the exception (an instance) that it raised.
    Over(Result<Obj, Obj>),
}

/// An awaitable that is being waited for.
pub(crate) struct Awaiting {
    /// A future of ours, which is driven without its iterator, or the iterator of anything else.
    what: ObjCell,
}

impl Awaiting {
    pub(crate) const fn nothing() -> Awaiting {
        Awaiting { what: ObjCell::empty() }
    }

    /// The future or iterator, for those who look.
    pub(crate) fn what(&self) -> Option<Obj> {
        self.what.get()
    }

    pub(crate) fn clear(&self) {
        self.what.set(None);
    }

    pub(crate) fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.cell(&self.what);
    }

    /// Begins to await `awaitable`.
    #[inline]
    pub(crate) fn begin(&self, py: Python<'_>, awaitable: &Obj) -> Driven {
        if let Some(core) = core_of(awaitable) {
            if core.is_pending() {
                core.blocking.set(true);
                self.what.set(Some(awaitable.clone()));
                return Driven::Yielded(awaitable.clone());
            }
            return Driven::Over(core.result(py).map_err(|raised| exception::fetch(py, raised)));
        }
        let iterator = match iterate::await_iterator(py, awaitable) {
            Ok(iterator) => iterator,
            Err(raised) => return Driven::Over(Err(exception::fetch(py, raised))),
        };
        self.what.set(Some(iterator.clone()));
        let none = Obj::none(py);
        self.stepped(py, iterate::send(py, &iterator, &none).map_err(|raised| exception::fetch(py, raised)))
    }

    /// Goes on with what was begun.
    #[inline]
    pub(crate) fn resume(&self, py: Python<'_>, input: Input) -> Driven {
        let Some(what) = self.what.get() else {
            // The collector cleared it.
            return Driven::Over(match input {
                Input::Send(_) => Ok(Obj::none(py)),
                Input::Throw(error) => Err(error),
            });
        };
        if let Some(core) = core_of(&what) {
            let over = match input {
                Input::Throw(error) => Err(error),
                Input::Send(_) if core.is_pending() => Err(future_iterator::not_awaited(py)),
                Input::Send(_) => core.result(py).map_err(|raised| exception::fetch(py, raised)),
            };
            self.what.set(None);
            return Driven::Over(over);
        }
        let stepped = match input {
            Input::Send(value) => iterate::send(py, &what, &value).map_err(|raised| exception::fetch(py, raised)),
            Input::Throw(error) => iterate::throw(py, &what, error),
        };
        self.stepped(py, stepped)
    }

    fn stepped(&self, _py: Python<'_>, step: Result<iterate::Step, Obj>) -> Driven {
        match step {
            Ok(iterate::Step::Yielded(value)) => Driven::Yielded(value),
            Ok(iterate::Step::Returned(value)) => {
                self.what.set(None);
                Driven::Over(Ok(value))
            }
            Err(error) => {
                self.what.set(None);
                Driven::Over(Err(error))
            }
        }
    }
}
