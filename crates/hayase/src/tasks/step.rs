//! One step of a task: continue the coroutine, and do what its answer asks for.
//!
//! A step runs in the task's context, as its loop's current task. Entries of our own ready queue enter the context
//! here; a foreign loop's handle has entered it before it calls ([`step_called`], [`wakeup_called`]).

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::current;
use super::future::core_of;
use super::future_core::invalid_state;
use super::task::{TaskData, cancel_object, schedule, wakeup_callable};
use crate::interop::imports;
use crate::raw::call::{self, Name};
use crate::raw::coroutine::{self, Sent};
use crate::raw::instance::Ref;
use crate::raw::kept_context::Standing;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, exception};

static ADD_DONE_CALLBACK: Name = Name::new(c"add_done_callback");
static BLOCKING: Name = Name::new(c"_asyncio_future_blocking");
static CONTEXT: Name = Name::new(c"context");
static GET_LOOP: Name = Name::new(c"get_loop");
static LOOP: Name = Name::new(c"_loop");
static RESULT: Name = Name::new(c"result");

/// `Ready::Step`. `Err` only for what must leave `run_forever`.
#[inline]
pub(crate) fn step(py: Python<'_>, standing: &Standing, task: &Obj) -> RawResult<()> {
    let Some(task) = Ref::<TaskData>::view_obj(task) else {
        return Ok(());
    };
    let thrown = task.throw_next.take();
    match in_context(py, standing, task, thrown) {
        Ok(()) => Ok(()),
        Err(raised) => failed(py, task, raised),
    }
}

/// `Ready::Wakeup`. `Err` only for what must leave `run_forever`.
#[inline]
pub(crate) fn wakeup(py: Python<'_>, standing: &Standing, task: &Obj, future: &Obj) -> RawResult<()> {
    let Some(task) = Ref::<TaskData>::view_obj(task) else {
        return Ok(());
    };
    if core_of(future).is_none() {
        standing.leave(py);
    }
    let outcome = failure_of(py, task, future).and_then(|thrown| in_context(py, standing, task, thrown));
    match outcome {
        Ok(()) => Ok(()),
        Err(raised) => failed(py, task, raised),
    }
}

/// The callable that a foreign loop steps a task with.
pub(super) fn step_called(py: Python<'_>, task: &Ref<TaskData>) -> RawResult<Obj> {
    let thrown = task.throw_next.take();
    run(py, task, thrown)?;
    Ok(Obj::none(py))
}

/// The callable that a foreign future wakes a task with.
pub(super) fn wakeup_called(py: Python<'_>, task: &Ref<TaskData>, future: &Obj) -> RawResult<Obj> {
    let thrown = failure_of(py, task, future)?;
    run(py, task, thrown)?;
    Ok(Obj::none(py))
}

/// What the awaited future throws into the task.
#[inline]
fn failure_of(py: Python<'_>, task: &Ref<TaskData>, future: &Obj) -> RawResult<Option<Obj>> {
    current::discard_from_awaited_by(py, future, task.as_obj())?;
    if let Some(core) = core_of(future) {
        return core.failure(py);
    }
    match call::method(py, future, &RESULT, &[]) {
        Ok(_) => Ok(None),
        Err(raised) => Ok(Some(exception::fetch(py, raised))),
    }
}

#[inline]
fn in_context(py: Python<'_>, standing: &Standing, task: &Ref<TaskData>, thrown: Option<Obj>) -> RawResult<()> {
    match task.context.run_entry_in(py, standing, || run(py, task, thrown)) {
        Some(outcome) => outcome?,
        None => Err(uninitialised(py)),
    }
}

/// One step, in the context that is current.
#[inline]
fn run(py: Python<'_>, task: &Ref<TaskData>, thrown: Option<Obj>) -> RawResult<()> {
    let thrown = before_step(py, task, thrown)?;
    let left = current::enter(py, task)?;
    let outcome = advance(py, task, thrown);
    current::leave(py, task, left, outcome)
}

#[inline]
fn before_step(py: Python<'_>, task: &Ref<TaskData>, thrown: Option<Obj>) -> RawResult<Option<Obj>> {
    if !task.core.is_pending() {
        return Err(already_done(py, task, thrown));
    }
    let thrown = if task.must_cancel.get() { Some(cancellation(py, task, thrown)?) } else { thrown };
    task.waiting.set(None);
    Ok(thrown)
}

#[cold]
fn already_done(py: Python<'_>, task: &Ref<TaskData>, thrown: Option<Obj>) -> Raised {
    let thrown = thrown.unwrap_or_else(|| Obj::none(py));
    match describe(py, &[task.as_obj(), &thrown]) {
        Ok(texts) => invalid_state(py, &format!("__step(): already done: {} {}", texts[0], texts[1])),
        Err(raised) => raised,
    }
}

/// The exception of a cancellation that was asked for while the task did not wait.
#[cold]
fn cancellation(py: Python<'_>, task: &Ref<TaskData>, thrown: Option<Obj>) -> RawResult<Obj> {
    let class = imports::raw(py, imports::cancelled_error(py))?;
    let error = match thrown.filter(|thrown| exception::matches(py, thrown, class.as_ptr())) {
        Some(thrown) => thrown,
        None => task.core.cancelled_error(py)?,
    };
    task.must_cancel.set(false);
    Ok(error)
}

#[cold]
fn uninitialised(py: Python<'_>) -> Raised {
    Raised::from_err(py, PyRuntimeError::new_err("uninitialized Task object"))
}

/// The first step of an eager task, inside whatever runs now.
#[cold]
pub(super) fn start_eagerly(py: Python<'_>, task: &Ref<TaskData>) -> RawResult<()> {
    current::register(py, task)?;
    let before = current::swap(py, task, Some(task.as_obj()))?;
    let outcome = task.context.run_in(py, || {
        let thrown = before_step(py, task, None)?;
        advance(py, task, thrown)
    });
    let outcome = match outcome.unwrap_or_else(|| Err(uninitialised(py))) {
        Ok(Ok(())) => Ok(()),
        // Kept aside while the task that ran before becomes the current one again.
        Ok(Err(raised)) | Err(raised) => Err(exception::fetch(py, raised)),
    };
    let swapped = current::swap(py, task, before.as_ref());
    if !task.core.is_pending() {
        task.coro.set(None);
    }
    match outcome {
        Ok(()) => swapped.map(drop),
        Err(error) => Err(exception::restore(py, error)),
    }
}

#[inline]
fn advance(py: Python<'_>, task: &Ref<TaskData>, thrown: Option<Obj>) -> RawResult<()> {
    let Some(coro) = task.coro.get() else {
        return Err(uninitialised(py));
    };
    let sent = match thrown {
        None => coroutine::send_none(py, &coro),
        Some(error) => coroutine::throw(py, &coro, &error),
    };
    match sent {
        Sent::Yielded(result) => wait_for(py, task, &result),
        Sent::Returned(value) => returned(py, task, value),
        Sent::Raised(raised) => ended(py, task, raised),
    }
}

#[inline]
fn returned(py: Python<'_>, task: &Ref<TaskData>, value: Obj) -> RawResult<()> {
    if task.must_cancel.replace(false) {
        // Cancelled by itself, just before it returned.
        let message = task.core.cancel_message(py);
        task.core.cancel(py, task.as_obj(), message)?;
    } else {
        task.core.set_result(py, task.as_obj(), value)?;
    }
    current::unregister(py, task);
    Ok(())
}

fn ended(py: Python<'_>, task: &Ref<TaskData>, raised: Raised) -> RawResult<()> {
    let error = exception::fetch(py, raised);
    let cancelled = imports::raw(py, imports::cancelled_error(py))?;
    if exception::matches(py, &error, cancelled.as_ptr()) {
        task.core.cancel_with(py, task.as_obj(), error)?;
        current::unregister(py, task);
        return Ok(());
    }
    task.core.set_exception(py, task.as_obj(), &error)?;
    current::unregister(py, task);
    if exception::is_interrupt(py, &error) {
        return Err(exception::restore(py, error));
    }
    Ok(())
}

/// The coroutine yielded: `result` is what it wants to wait for.
#[inline]
fn wait_for(py: Python<'_>, task: &Ref<TaskData>, result: &Obj) -> RawResult<()> {
    if let Some(core) = core_of(result) {
        if result.is(task.as_ptr()) {
            return awaits_itself(py, task);
        }
        if core.event_loop.as_ptr() != task.core.event_loop.as_ptr() {
            return different_loop(py, task, result);
        }
        if !core.blocking.replace(false) {
            return yield_instead_of_await(py, task, result);
        }
        current::add_to_awaited_by(py, result, task.as_obj())?;
        core.await_by(py, result, task.as_obj())?;
        return now_waiting(py, task, result);
    }
    if result.is_none() {
        return schedule(py, task);
    }
    wait_for_foreign(py, task, result)
}

#[inline]
fn now_waiting(py: Python<'_>, task: &Ref<TaskData>, result: &Obj) -> RawResult<()> {
    task.waiting.set(Some(result.clone()));
    if task.must_cancel.get() {
        let message = task.core.cancel_message(py);
        if cancel_object(py, result, message)? {
            task.must_cancel.set(false);
        }
    }
    Ok(())
}

/// Anybody's future: whatever has `_asyncio_future_blocking`.
fn wait_for_foreign(py: Python<'_>, task: &Ref<TaskData>, result: &Obj) -> RawResult<()> {
    let blocking = call::optional_attr(py, result, &BLOCKING)?;
    let Some(blocking) = blocking.filter(|blocking| !blocking.is_none()) else {
        return if coroutine::is_generator(result) {
            yield_of_generator(py, task, result)
        } else {
            throw_soon(py, task, "Task got bad yield: ", &[(result, "")])
        };
    };
    let blocking = call::is_true(py, &blocking)?;
    let event_loop = match call::optional_attr(py, result, &GET_LOOP)? {
        Some(get_loop) => call::call0(py, &get_loop)?,
        None => call::getattr(py, result, &LOOP)?,
    };
    if !event_loop.is(task.core.event_loop.as_ptr()) {
        return different_loop(py, task, result);
    }
    if !blocking {
        return yield_instead_of_await(py, task, result);
    }
    current::add_to_awaited_by(py, result, task.as_obj())?;
    call::setattr(py, result, &BLOCKING, &Obj::bool(py, false))?;
    let (callable, context) = wakeup_callable(py, task.as_obj())?;
    call::method_with_keyword(py, result, &ADD_DONE_CALLBACK, &[&callable], &CONTEXT, &context)?;
    now_waiting(py, task, result)
}

#[cold]
fn awaits_itself(py: Python<'_>, task: &Ref<TaskData>) -> RawResult<()> {
    throw_soon(py, task, "Task cannot await on itself: ", &[(task.as_obj(), "")])
}

#[cold]
fn different_loop(py: Python<'_>, task: &Ref<TaskData>, result: &Obj) -> RawResult<()> {
    let parts = [(task.as_obj(), " got Future "), (result, " attached to a different loop")];
    throw_soon(py, task, "Task ", &parts)
}

#[cold]
fn yield_instead_of_await(py: Python<'_>, task: &Ref<TaskData>, result: &Obj) -> RawResult<()> {
    let parts = [(task.as_obj(), " with "), (result, "")];
    throw_soon(py, task, "yield was used instead of yield from in task ", &parts)
}

#[cold]
fn yield_of_generator(py: Python<'_>, task: &Ref<TaskData>, result: &Obj) -> RawResult<()> {
    let parts = [(task.as_obj(), " with "), (result, "")];
    throw_soon(py, task, "yield was used instead of yield from for generator in task ", &parts)
}

/// Throws a RuntimeError into the task in a later turn: the text, then each object's repr and what follows it.
#[cold]
fn throw_soon(py: Python<'_>, task: &Ref<TaskData>, text: &str, parts: &[(&Obj, &str)]) -> RawResult<()> {
    let mut text = text.to_owned();
    for (object, after) in parts {
        text.push_str(&describe(py, &[object])?[0]);
        text.push_str(after);
    }
    let error = exception::instance(py, PyRuntimeError::new_err(text));
    task.throw_next.set(Some(error));
    schedule(py, task)
}

fn describe(py: Python<'_>, objects: &[&Obj]) -> RawResult<Vec<String>> {
    objects
        .iter()
        .map(|object| crate::raw::to_raw(py, object.borrow(py).repr().map(|repr| repr.to_string_lossy().into_owned())))
        .collect()
}

/// A step failed outside its coroutine (stepped twice, a closed loop, a future that raises in `get_loop`): reported to
/// the exception handler as asyncio reports a callback that raises.
#[cold]
fn failed(py: Python<'_>, task: &Ref<TaskData>, raised: Raised) -> RawResult<()> {
    let error = exception::fetch(py, raised);
    if exception::is_interrupt(py, &error) {
        return Err(exception::restore(py, error));
    }
    let Some(event_loop) = task.core.event_loop.object() else {
        return Ok(());
    };
    let report = || -> PyResult<()> {
        let (callable, _context) = crate::raw::to_py(py, wakeup_callable(py, task.as_obj()))?;
        let source = imports::format_callback_source(py)?.call1((callable.into_bound(py), PyTuple::empty(py)))?;
        let report = PyDict::new(py);
        report.set_item("message", format!("Exception in callback {source}"))?;
        report.set_item("exception", error.into_bound(py))?;
        report.set_item("task", task.as_obj().borrow(py))?;
        event_loop.borrow(py).call_method1("call_exception_handler", (report,))?;
        Ok(())
    };
    crate::raw::to_raw(py, report())
}
