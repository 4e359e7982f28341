//! `run_in_executor` and the default executor.

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::{Arguments, Loop, debug};
use crate::interop::imports;
use crate::raw::obj::Obj;
use crate::raw::to_py;

pub(super) fn run_in_executor<'py>(
    this: &Bound<'py, Loop>,
    executor: &Bound<'py, PyAny>,
    function: &Bound<'py, PyAny>,
    args: Arguments<'_, 'py>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    let event_loop = this.get();
    to_py(py, event_loop.runtime.scheduler.check_open(py))?;
    if event_loop.runtime.scheduler.debug.get() {
        to_py(
            py,
            debug::check_callback(py, &Obj::from_any(function), "run_in_executor"),
        )?;
    }
    let executor = if executor.is_none() {
        default_executor(this)?
    } else {
        executor.clone()
    };
    let mut submitted = vec![function.clone()];
    submitted.extend(args.iter());
    let future = executor
        .getattr("submit")?
        .call1(PyTuple::new(py, submitted)?)?;
    let keywords = PyDict::new(py);
    keywords.set_item("loop", this)?;
    imports::wrap_future(py)?.call((future,), Some(&keywords))
}

/// Made on first use.
fn default_executor<'py>(this: &Bound<'py, Loop>) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    let event_loop = this.get();
    // Only called when the default executor is wanted, so its end is checked here.
    if event_loop.executor_was_shut_down.get() {
        return Err(PyRuntimeError::new_err("Executor shutdown has been called"));
    }
    if let Some(known) = event_loop.default_executor.get() {
        return Ok(known.into_bound(py));
    }
    let keywords = PyDict::new(py);
    keywords.set_item("thread_name_prefix", "asyncio")?;
    let made = imports::thread_pool_executor(py)?.call((), Some(&keywords))?;
    event_loop.default_executor.set(Some(Obj::from_any(&made)));
    Ok(made)
}

pub(super) fn set_default_executor(
    this: &Bound<'_, Loop>,
    executor: &Bound<'_, PyAny>,
) -> PyResult<()> {
    if !executor.is_instance(imports::thread_pool_executor(this.py())?)? {
        return Err(PyTypeError::new_err(
            "executor must be ThreadPoolExecutor instance",
        ));
    }
    this.get()
        .default_executor
        .set(Some(Obj::from_any(executor)));
    Ok(())
}
