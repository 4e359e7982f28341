//! `run_in_executor` and the default executor. `work_item.rs` is what its threads get.

use std::ffi::CString;

use pyo3::exceptions::{PyRuntimeError, PyRuntimeWarning, PyTimeoutError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple};

use super::{Arguments, Loop, debug, work_item, work_queue};
use crate::interop::imports;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, call, to_py, to_raw};
use crate::runtime::coroutine::{self, Co};
use crate::tasks;

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
        to_py(py, debug::check_callback(py, &Obj::from_any(function), "run_in_executor"))?;
    }
    let executor = if executor.is_none() { default_executor(this)? } else { executor.clone() };
    if let Some(future) = to_py(py, hand_to_thread(this, &executor, function, args))? {
        return Ok(future.into_bound(py));
    }
    let mut submitted = vec![function.clone()];
    submitted.extend(args.iter());
    let future = executor.getattr("submit")?.call1(PyTuple::new(py, submitted)?)?;
    let keywords = PyDict::new(py);
    keywords.set_item("loop", this)?;
    imports::wrap_future(py)?.call((future,), Some(&keywords))
}

/// The shorter way, for an executor of the standard library's threads; `None` if it is not open.
fn hand_to_thread<'py>(
    this: &Bound<'py, Loop>,
    executor: &Bound<'py, PyAny>,
    function: &Bound<'py, PyAny>,
    args: Arguments<'_, 'py>,
) -> RawResult<Option<Obj>> {
    let py = this.py();
    let event_loop = this.get();
    if event_loop.overrides.hand_over || !executor.get_type().is(to_raw(py, imports::thread_pool_executor(py))?) {
        return Ok(None);
    }
    let future = tasks::future::make(py, event_loop.reference(&Obj::from_any(this)))?;
    let item = work_item::make(this, function, args, &future)?;
    let submit = imports::raw(py, imports::submit_to_threads(py))?;
    let submitted = call::call_n(py, &submit, &[&Obj::from_any(executor), &item])?;
    Ok(call::is_true(py, &submitted)?.then_some(future))
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
    work_queue::give_to(&made)?;
    event_loop.default_executor.set(Some(Obj::from_any(&made)));
    Ok(made)
}

pub(super) fn set_default_executor(this: &Bound<'_, Loop>, executor: &Bound<'_, PyAny>) -> PyResult<()> {
    if !executor.is_instance(imports::thread_pool_executor(this.py())?)? {
        return Err(PyTypeError::new_err("executor must be ThreadPoolExecutor instance"));
    }
    this.get().default_executor.set(Some(Obj::from_any(executor)));
    Ok(())
}

/// `loop.shutdown_default_executor(timeout)`: the threads end without blocking the loop.
pub(super) fn shutdown_default_executor(this: &Bound<'_, Loop>, timeout: Option<Py<PyAny>>) -> PyResult<Obj> {
    let py = this.py();
    coroutine::make(py, this.get().reference_to_runtime(this), "EventLoop.shutdown_default_executor", |co| async move {
        let (waiting, thread) = match Python::attach(|py| begin_shutdown(py, &co, timeout.as_ref()))? {
            Some(begun) => begun,
            None => return Python::attach(|py| Ok(Obj::none(py))),
        };
        let waited = co.wait_for(waiting).await;
        Python::attach(|py| {
            match waited {
                Ok(_) => thread.borrow(py).call_method0("join").map(drop)?,
                Err(err) if err.is_instance_of::<PyTimeoutError>(py) => give_up(py, &co, timeout.as_ref())?,
                Err(err) => return Err(err),
            }
            Ok(Obj::none(py))
        })
    })
}

/// The awaitable for the end of the joining thread, and that thread; `None` if there is no executor.
fn begin_shutdown(py: Python<'_>, co: &Co, timeout: Option<&Py<PyAny>>) -> PyResult<Option<(Obj, Obj)>> {
    let this = co.event_loop().borrow(py).to_owned().cast_into::<Loop>()?;
    let event_loop = this.get();
    event_loop.executor_was_shut_down.set(true);
    let Some(executor) = event_loop.default_executor.get() else {
        return Ok(None);
    };
    let future = this.call_method0("create_future")?;
    let (report_to, answer, executor) =
        (this.clone().unbind(), future.clone().unbind(), executor.into_bound(py).unbind());
    let join = PyCFunction::new_closure(py, None, None, move |args: &Bound<'_, PyTuple>, _| -> PyResult<()> {
        let py = args.py();
        let keywords = PyDict::new(py);
        keywords.set_item("wait", true)?;
        let ended = executor.bind(py).call_method("shutdown", (), Some(&keywords));
        let report_to = report_to.bind(py);
        if report_to.get().runtime.scheduler.closed.get() {
            return Ok(());
        }
        match ended {
            Ok(_) => {
                let set = py.import("asyncio.futures")?.getattr("_set_result_unless_cancelled")?;
                report_to.call_method1("call_soon_threadsafe", (set, &answer, py.None()))?;
            }
            Err(err) => {
                let set = answer.bind(py).getattr("set_exception")?;
                report_to.call_method1("call_soon_threadsafe", (set, err.into_value(py)))?;
            }
        }
        Ok(())
    })?;
    let keywords = PyDict::new(py);
    keywords.set_item("target", join)?;
    let thread = py.import("threading")?.getattr("Thread")?.call((), Some(&keywords))?;
    thread.call_method0("start")?;
    let waiting = match timeout {
        Some(timeout) => py.import("asyncio.tasks")?.call_method1("wait_for", (future, timeout))?,
        None => future,
    };
    Ok(Some((Obj::from_bound(waiting), Obj::from_bound(thread))))
}

fn give_up(py: Python<'_>, co: &Co, timeout: Option<&Py<PyAny>>) -> PyResult<()> {
    let seconds =
        timeout.map_or_else(|| Ok(String::from("None")), |timeout| timeout.bind(py).str().map(|s| s.to_string()))?;
    let text = format!("The executor did not finishing joining its threads within {seconds} seconds.");
    PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &CString::new(text)?, 2)?;
    let this = co.event_loop().borrow(py).to_owned().cast_into::<Loop>()?;
    if let Some(executor) = this.get().default_executor.get() {
        let keywords = PyDict::new(py);
        keywords.set_item("wait", false)?;
        executor.borrow(py).call_method("shutdown", (), Some(&keywords))?;
    }
    Ok(())
}
