//! Waiting for time and for others: `sleep`, timeouts, `wait_for`, `wait`, `as_completed`, `gather`,
//! `shield`, task groups.
//!
//! What is awaited often is an [`crate::runtime::operation::Operation`]; what needs a timer gets one from any loop that runs
//! (`timers.rs`).

pub(crate) mod as_completed;
pub(crate) mod ensure_future;
pub(crate) mod gather;
pub(crate) mod sleep;
pub(crate) mod task_group;
pub(crate) mod timeout;
mod timers;
pub(crate) mod wait;
pub(crate) mod wait_for;
mod watched;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyModule};

use crate::interop::imports;
use crate::raw::call::{self, Name};
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_raw};
use crate::tasks::{self, current, handle};

/// Makes the types and functions and puts them into the module.
pub(crate) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    as_completed::init(py, module)?;
    ensure_future::init(py, module)?;
    gather::init(py, module)?;
    sleep::init(py, module)?;
    task_group::init(py, module)?;
    timeout::init(py, module)?;
    wait::init(py, module)?;
    wait_for::init(py, module)
}

static CANCEL: Name = Name::new(c"cancel");

/// `asyncio.get_running_loop()`
fn get_running_loop(py: Python<'_>) -> RawResult<Obj> {
    let running = tasks::wait::running_loop(py)?;
    if running.is_none() {
        return Err(Raised::from_err(py, PyRuntimeError::new_err("no running event loop")));
    }
    Ok(running)
}

/// The running task. asyncio's Python tasks, put in the place of its C ones, are known only to the function that was put
/// in place with them.
fn current_task(py: Python<'_>) -> RawResult<Obj> {
    current_task_of(py, &get_running_loop(py)?)
}

/// The running task; `event_loop` is the loop that runs.
fn current_task_of(py: Python<'_>, event_loop: &Obj) -> RawResult<Obj> {
    if let Some(current) = current::standing_of(py, event_loop)? {
        return Ok(current);
    }
    let current = call::call0(py, &imports::raw(py, imports::current_task(py))?)?;
    if !current.is_none() {
        return Ok(current);
    }
    let asked = py.import("asyncio.tasks").and_then(|tasks| tasks.call_method0("current_task"));
    to_raw(py, asked).map(Obj::from_bound)
}

/// The number, if it is a plain one; anything else is left to Python's operators.
#[inline]
fn plain_number(py: Python<'_>, value: &Obj) -> Option<f64> {
    let value = value.borrow(py);
    if let Ok(value) = value.cast_exact::<PyFloat>() {
        return Some(value.value());
    }
    if value.is_exact_instance_of::<PyInt>() { value.extract().ok() } else { None }
}

/// `value <= 0`
#[inline]
fn is_over(py: Python<'_>, value: &Obj) -> RawResult<bool> {
    // Without the detour over a float: `sleep(0)`.
    if let Ok(number) = value.borrow(py).cast_exact::<PyInt>()
        && let Ok(number) = number.extract::<isize>()
    {
        return Ok(number <= 0);
    }
    match plain_number(py, value) {
        Some(number) => Ok(number <= 0.0),
        None => to_raw(py, value.borrow(py).le(0)),
    }
}

/// `handle.cancel()` of anybody's handle.
fn cancel_handle(py: Python<'_>, handle: &Obj) -> RawResult<()> {
    if handle::is_ours(handle) {
        return handle::cancel(py, handle);
    }
    call::method(py, handle, &CANCEL, &[]).map(drop)
}
