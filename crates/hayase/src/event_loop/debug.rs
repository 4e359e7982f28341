//! Debug mode: wrong threads, coroutines given as callbacks, slow callbacks, origins of coroutines.

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;

use super::{Loop, turn};
use crate::interop::imports;
use crate::raw::fastcall::Rest;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_raw};
use crate::tasks::handle;
use crate::tasks::ready::Ready;

/// Frames of a coroutine's origin that debug mode keeps: asyncio's `constants.DEBUG_STACK_DEPTH`.
const ORIGIN_DEPTH: i32 = 10;

pub(super) fn thread_id(py: Python<'_>) -> PyResult<u64> {
    imports::get_ident(py)?.call0()?.extract()
}

pub(super) fn check_thread(py: Python<'_>, event_loop: &Loop) -> RawResult<()> {
    let running = event_loop.runtime.scheduler.running_thread.get();
    if running == 0 || to_raw(py, thread_id(py))? == running {
        return Ok(());
    }
    let text = "Non-thread-safe operation invoked on an event loop other than the current one";
    Err(Raised::from_err(py, PyRuntimeError::new_err(text)))
}

pub(super) fn check_callback(py: Python<'_>, callback: &Obj, method: &str) -> RawResult<()> {
    to_raw(py, refuse_coroutine(&callback.borrow(py), method))
}

fn refuse_coroutine(callback: &Bound<'_, PyAny>, method: &str) -> PyResult<()> {
    let py = callback.py();
    if imports::is_coroutine(py)?.call1((callback,))?.is_truthy()?
        || imports::is_coroutine_function(py)?.call1((callback,))?.is_truthy()?
    {
        return Err(PyTypeError::new_err(format!("coroutines cannot be used with {method}()")));
    }
    if !callback.is_callable() {
        let text = format!("a callable object was expected by {method}(), got {}", callback.repr()?);
        return Err(PyTypeError::new_err(text));
    }
    Ok(())
}

/// As `turn::run_entry`, and reports a callback that took longer than `loop.slow_callback_duration`.
pub(super) fn run_timed(py: Python<'_>, this: &Obj, event_loop: &Loop, entry: Ready) -> RawResult<()> {
    let subject = subject(py, this, event_loop, &entry)?;
    event_loop.current_handle.set(subject.clone().filter(|_| matches!(entry, Ready::Handle(_))));
    let start = event_loop.runtime.driver.now();
    let outcome = turn::run_entry(py, this, event_loop, entry);
    event_loop.runtime.scheduler.standing.leave(py);
    event_loop.current_handle.set(None);
    outcome?;
    let seconds = event_loop.runtime.driver.now().saturating_since(start).as_secs_f64();
    match subject {
        Some(subject) => to_raw(py, report_slow(py, event_loop, subject, seconds)),
        None => Ok(()),
    }
}

/// What a slow-callback report names: the handle, or the task of a step.
fn subject(py: Python<'_>, this: &Obj, event_loop: &Loop, entry: &Ready) -> RawResult<Option<Obj>> {
    Ok(match entry {
        Ready::Handle(handle) => (!handle::is_cancelled(handle)).then(|| handle.clone()),
        Ready::Step(task) | Ready::Wakeup { task, .. } | Ready::Linked { outer: task, .. } => Some(task.clone()),
        Ready::DoneCallback { callback, future, context } => {
            let rest = Rest::One(future.clone());
            let made = handle::make(py, event_loop.reference(this), callback.clone(), rest, Some(context.clone()))?;
            Some(made.into_obj())
        }
        Ready::Io { token, .. } => {
            event_loop.runtime.slots.with(py, |slots| slots.get(*token).map(|slot| slot.object.clone()))
        }
        Ready::Native { object, .. } => Some(object.clone()),
    })
}

fn report_slow(py: Python<'_>, event_loop: &Loop, subject: Obj, seconds: f64) -> PyResult<()> {
    let limit = event_loop.slow_callback_seconds(py)?;
    if seconds < limit {
        return Ok(());
    }
    let subject = subject.into_bound(py);
    let formatted = py.import("asyncio.base_events")?.getattr("_format_handle");
    let name = match formatted {
        Ok(format_handle) if subject.hasattr("_callback")? => format_handle.call1((subject,))?,
        _ => subject.repr()?.into_any(),
    };
    let logger = super::exceptions::logger(py)?;
    logger.call_method1("warning", ("Executing %s took %.3f seconds", name, seconds))?;
    Ok(())
}

/// Coroutine origins are tracked while a loop in debug mode runs.
pub(super) fn track_origins(py: Python<'_>, event_loop: &Loop, enabled: bool) -> PyResult<()> {
    let sys = py.import("sys")?;
    match (enabled, event_loop.origin_tracking.get()) {
        (true, None) => {
            let before = sys.call_method0("get_coroutine_origin_tracking_depth")?.extract()?;
            sys.call_method1("set_coroutine_origin_tracking_depth", (ORIGIN_DEPTH,))?;
            event_loop.origin_tracking.set(Some(before));
        }
        (false, Some(before)) => {
            sys.call_method1("set_coroutine_origin_tracking_depth", (before,))?;
            event_loop.origin_tracking.set(None);
        }
        (true, Some(_)) | (false, None) => {}
    }
    Ok(())
}
