//! `ensure_future(coro_or_future)`: a future as it is, a task for anything else that can be awaited.

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyModule;

use crate::interop::imports;
use crate::raw::call::{self, Name};
use crate::raw::fastcall::Args;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, coroutine, function};
use crate::runtime::operation;
use crate::tasks::scheduler::LoopRef;
use crate::tasks::wait;

static CLOSE: Name = Name::new(c"close");
static CORO_OR_FUTURE: Name = Name::new(c"coro_or_future");
static CREATE_TASK: Name = Name::new(c"create_task");
static LOOP: Name = Name::new(c"loop");

/// The loop that runs, if it is one of ours.
pub(super) fn running_loop(py: Python<'_>) -> RawResult<Option<LoopRef>> {
    let running = wait::running_loop(py)?;
    if running.is_none() {
        return Ok(None);
    }
    let event_loop = LoopRef::new(running);
    Ok(event_loop.scheduler().is_some().then_some(event_loop))
}

/// The loop that runs; without one, the current loop, made on demand.
fn current_loop(py: Python<'_>) -> RawResult<Obj> {
    let running = wait::running_loop(py)?;
    if !running.is_none() {
        return Ok(running);
    }
    call::call0(py, &imports::raw(py, imports::get_event_loop(py))?)
}

/// What is surely a coroutine; others may be one, too.
#[inline]
fn is_plain_coroutine(object: &Obj) -> bool {
    coroutine::is_native(object) || operation::is_one(object)
}

/// `isfuture` of what is none of our futures.
pub(super) fn is_foreign_future(py: Python<'_>, object: &Obj) -> RawResult<bool> {
    if wait::loop_of(object).is_some() || is_plain_coroutine(object) {
        return Ok(false);
    }
    call::is_true(py, &call::call1(py, &imports::raw(py, imports::is_future(py))?, object)?)
}

/// `isfuture(object)`
pub(super) fn is_future(py: Python<'_>, object: &Obj) -> RawResult<bool> {
    Ok(wait::loop_of(object).is_some() || is_foreign_future(py, object)?)
}

/// `iscoroutine(object)`
pub(super) fn is_coroutine(py: Python<'_>, object: &Obj) -> RawResult<bool> {
    if is_plain_coroutine(object) {
        return Ok(true);
    }
    if wait::loop_of(object).is_some() {
        return Ok(false);
    }
    call::is_true(py, &call::call1(py, &imports::raw(py, imports::is_coroutine(py))?, object)?)
}

/// `inspect.isawaitable(object)`
pub(super) fn is_awaitable(py: Python<'_>, object: &Obj) -> RawResult<bool> {
    call::is_true(py, &call::call1(py, &imports::raw(py, imports::is_awaitable(py))?, object)?)
}

/// `ensure_future(awaitable, loop=event_loop)`
#[inline]
pub(super) fn on(py: Python<'_>, awaitable: &Obj, event_loop: &Obj) -> RawResult<Obj> {
    if let Some(owner) = wait::loop_of(awaitable) {
        return if owner.is(event_loop.as_ptr()) { Ok(awaitable.clone()) } else { Err(different_loop(py)) };
    }
    if is_plain_coroutine(awaitable) {
        return match call::method(py, event_loop, &CREATE_TASK, &[awaitable]) {
            Ok(task) => Ok(task),
            Err(raised) => Err(close(py, awaitable, raised)),
        };
    }
    let ensure_future = imports::raw(py, imports::stock_ensure_future(py))?;
    call::call_with_keyword(py, &ensure_future, &[awaitable], &LOOP, event_loop)
}

#[cold]
fn different_loop(py: Python<'_>) -> Raised {
    let text = "The future belongs to a different loop than the one specified as the loop argument";
    Raised::from_err(py, PyValueError::new_err(text))
}

/// No task could be made of a coroutine: after a RuntimeError it is closed, so that it does not warn.
#[cold]
fn close(py: Python<'_>, coroutine: &Obj, raised: Raised) -> Raised {
    let err = raised.fetch(py);
    if err.is_instance_of::<PyRuntimeError>(py)
        && let Err(raised) = call::method(py, coroutine, &CLOSE, &[])
    {
        return raised;
    }
    Raised::from_err(py, err)
}

fn ensure_future(py: Python<'_>, args: &Args<'_>) -> RawResult<Obj> {
    let [awaitable, event_loop] = args.bind_mixed(py, [&CORO_OR_FUTURE, &LOOP], 1, 1)?;
    let awaitable = awaitable.expect("required");
    if let Some(event_loop) = event_loop.filter(|event_loop| !event_loop.is_none()) {
        return on(py, &awaitable, &event_loop);
    }
    if is_future(py, &awaitable)? {
        return Ok(awaitable);
    }
    if !is_plain_coroutine(&awaitable) && !is_awaitable(py, &awaitable)? {
        // Says so, before it looks for a loop.
        return call::call1(py, &imports::raw(py, imports::stock_ensure_future(py))?, &awaitable);
    }
    on(py, &awaitable, &current_loop(py)?)
}

pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DOC: &str = "A future as it is; for a coroutine or another awaitable, a task that runs it.";
    const SIGNATURE: &str = "(coro_or_future, *, loop=None)";
    function::add(py, module, "hayase.tasks", "ensure_future", SIGNATURE, DOC, ensure_future)
}
