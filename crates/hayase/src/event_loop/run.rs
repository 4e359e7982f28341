//! `run_forever`, `run_until_complete`, `stop`, `close`; asynchronous generators of a running loop.

use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::{Loop, debug, exceptions, signals, turn};
use crate::interop::{errors, imports};
use crate::raw::obj::Obj;
use crate::raw::{no_panic, to_py};
use crate::runtime::coroutine::{self, Co};
use crate::transports;

pub(super) fn check_not_running(this: &Bound<'_, Loop>) -> PyResult<()> {
    let py = this.py();
    if this.get().runtime.scheduler.running_thread.get() != 0 {
        return Err(PyRuntimeError::new_err("This event loop is already running"));
    }
    if !asyncio_events(py)?.call_method0("_get_running_loop")?.is_none() {
        return Err(PyRuntimeError::new_err("Cannot run the event loop while another loop is running"));
    }
    Ok(())
}

pub(super) fn run_forever(this: &Bound<'_, Loop>) -> PyResult<()> {
    let py = this.py();
    let event_loop = this.get();
    let scheduler = &event_loop.runtime.scheduler;
    to_py(py, scheduler.check_open(py))?;
    check_not_running(this)?;
    if event_loop.runtime.driver.is_foreign_process() {
        return Err(PyRuntimeError::new_err(
            "this event loop belongs to the parent process; make a new one after fork()",
        ));
    }

    let sys = py.import("sys")?;
    let hooks_before = sys.call_method0("get_asyncgen_hooks")?;
    scheduler.running_thread.set(debug::thread_id(py)?);
    let outcome = no_panic(py, || {
        let listening = start(this)?;
        let object = Obj::from_any(this.as_any());
        // A loop that stays "running" after a bug of ours could never be closed.
        let ran = no_panic(py, || to_py(py, turn::run_turns(py, &object, event_loop)));
        let stopped = signals::stop_listening(this, listening);
        ran.and(stopped)
    });
    // All of it happens, whatever failed; the first error is the one to raise.
    event_loop.stopping.set(false);
    scheduler.running_thread.set(0);
    let running = put_back(py, || set_running_loop(py, py.None().bind(py)));
    let origins = put_back(py, || debug::track_origins(py, event_loop, false));
    let hooks = put_back(py, || sys.getattr("set_asyncgen_hooks")?.call1(hooks_before.cast()?).map(drop));
    outcome.and(running).and(origins).and(hooks)
}

/// What gives the thread back to others is tried twice: one allocation that fails may not cost the loop.
fn put_back(py: Python<'_>, step: impl Fn() -> PyResult<()>) -> PyResult<()> {
    no_panic(py, &step).or_else(|_| no_panic(py, &step))
}

fn start(this: &Bound<'_, Loop>) -> PyResult<signals::Listening> {
    let py = this.py();
    debug::track_origins(py, this.get(), this.get().runtime.scheduler.debug.get())?;
    let hooks = (this.getattr("_asyncgen_firstiter_hook")?, this.getattr("_asyncgen_finalizer_hook")?);
    py.import("sys")?.getattr("set_asyncgen_hooks")?.call1(hooks)?;
    set_running_loop(py, this.as_any())?;
    signals::listen(this)
}

/// Looked up at each run: programs put other functions there (the pure-Python ones, eventlet's, nest_asyncio's).
fn asyncio_events(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    Ok(py.import("asyncio.events")?.into_any())
}

fn set_running_loop(py: Python<'_>, event_loop: &Bound<'_, PyAny>) -> PyResult<()> {
    let set = asyncio_events(py)?.getattr("_set_running_loop")?;
    set.call1((event_loop,))?;
    // From 3.14 on entering a task asks the C one which loop runs: it is told too when another stands in its place.
    let native = py.import("_asyncio")?.getattr("_set_running_loop")?;
    if !set.is(&native) {
        native.call1((event_loop,))?;
    }
    Ok(())
}

pub(super) fn run_until_complete<'py>(
    this: &Bound<'py, Loop>,
    future: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    to_py(py, this.get().runtime.scheduler.check_open(py))?;
    check_not_running(this)?;
    let is_new_task = !imports::is_future(py)?.call1((future,))?.is_truthy()?;
    let keywords = pyo3::types::PyDict::new(py);
    keywords.set_item("loop", this)?;
    let future = imports::stock_ensure_future(py)?.call((future,), Some(&keywords))?;
    if is_new_task {
        // An interrupted main task is reported by the exception that interrupted it.
        future.setattr("_log_destroy_pending", false)?;
    }
    // asyncio's own, so that the repr of the main task is the same.
    let done = imports::base_events(py)?.getattr("_run_until_complete_cb")?;
    future.call_method1("add_done_callback", (&done,))?;
    // Through the attribute: subclasses may override it.
    let ran = this.call_method0("run_forever");
    if ran.is_err()
        && is_new_task
        && future.call_method0("done")?.is_truthy()?
        && !future.call_method0("cancelled")?.is_truthy()?
    {
        // The exception that is being raised is the task's: it counts as retrieved.
        future.call_method0("exception")?;
    }
    future.call_method1("remove_done_callback", (&done,))?;
    ran?;
    if !future.call_method0("done")?.is_truthy()? {
        return Err(PyRuntimeError::new_err("Event loop stopped before Future completed."));
    }
    future.call_method0("result")
}

pub(super) fn close(this: &Bound<'_, Loop>) -> PyResult<()> {
    let py = this.py();
    let event_loop = this.get();
    let scheduler = &event_loop.runtime.scheduler;
    if scheduler.running_thread.get() != 0 {
        return Err(PyRuntimeError::new_err("Cannot close a running event loop"));
    }
    if scheduler.closed.get() {
        return Ok(());
    }
    signals::close(this)?;
    scheduler.closed.set(true);
    event_loop.executor_was_shut_down.set(true);
    drop(scheduler.drain(py));
    drop(event_loop.runtime.close(py));
    transports::close_all(py, &event_loop.runtime);
    event_loop.runtime.driver.shut_down().map_err(|error| errors::os_error(py, &error))?;
    if let Some(executor) = event_loop.default_executor.take() {
        let keywords = pyo3::types::PyDict::new(py);
        keywords.set_item("wait", false)?;
        executor.borrow(py).call_method("shutdown", (), Some(&keywords))?;
    }
    Ok(())
}

/// An asynchronous generator started: it is remembered, to be closed with the loop.
pub(super) fn asyncgen_started(this: &Bound<'_, Loop>, generator: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = this.py();
    if this.get().asyncgens_were_shut_down.get() {
        let text =
            format!("asynchronous generator {} was scheduled after loop.shutdown_asyncgens() call", generator.repr()?);
        exceptions::resource_warning(py, &text, this)?;
    }
    asyncgens(this)?.call_method1("add", (generator,))?;
    Ok(())
}

/// An asynchronous generator dies unfinished: its `aclose()` runs as a task. Called by whatever thread collects it.
pub(super) fn asyncgen_dropped(this: &Bound<'_, Loop>, generator: &Bound<'_, PyAny>) -> PyResult<()> {
    asyncgens(this)?.call_method1("discard", (generator,))?;
    if !this.get().runtime.scheduler.closed.get() {
        let create_task = this.getattr("create_task")?;
        this.call_method1("call_soon_threadsafe", (create_task, generator.call_method0("aclose")?))?;
    }
    Ok(())
}

/// `loop.shutdown_asyncgens()`: closes the generators that live, all at once.
pub(super) fn shutdown_asyncgens(this: &Bound<'_, Loop>) -> PyResult<Obj> {
    let runtime = this.get().reference_to_runtime(this);
    coroutine::make(this.py(), runtime, "EventLoop.shutdown_asyncgens", |co| async move {
        let Some((generators, closing)) = Python::attach(|py| begin_closing(py, &co))? else {
            return Python::attach(|py| Ok(Obj::none(py)));
        };
        let results = co.wait_for(closing).await?;
        Python::attach(|py| report_failed_closes(py, &co, generators, results))
    })
}

/// The generators and the awaitable of their closing, if there are any.
fn begin_closing(py: Python<'_>, co: &Co) -> PyResult<Option<(Obj, Obj)>> {
    let this = co.event_loop().borrow(py).to_owned().cast_into::<Loop>()?;
    this.get().asyncgens_were_shut_down.set(true);
    let living = asyncgens(&this)?;
    if living.len()? == 0 {
        return Ok(None);
    }
    let generators = py.import("builtins")?.call_method1("list", (&living,))?;
    living.call_method0("clear")?;
    let closes =
        generators.try_iter()?.map(|generator| generator?.call_method0("aclose")).collect::<PyResult<Vec<_>>>()?;
    let keywords = PyDict::new(py);
    keywords.set_item("return_exceptions", true)?;
    let closing = py.import("asyncio.tasks")?.getattr("gather")?.call(PyTuple::new(py, closes)?, Some(&keywords))?;
    Ok(Some((Obj::from_bound(generators), Obj::from_bound(closing))))
}

fn report_failed_closes(py: Python<'_>, co: &Co, generators: Obj, results: Obj) -> PyResult<Obj> {
    let (generators, results) = (generators.into_bound(py), results.into_bound(py));
    for (generator, result) in generators.try_iter()?.zip(results.try_iter()?) {
        let (generator, result) = (generator?, result?);
        if result.is_instance_of::<PyException>() {
            let report = PyDict::new(py);
            let text = format!("an error occurred during closing of asynchronous generator {}", generator.repr()?);
            report.set_item("message", text)?;
            report.set_item("exception", result)?;
            report.set_item("asyncgen", generator)?;
            co.event_loop().borrow(py).call_method1("call_exception_handler", (report,))?;
        }
    }
    Ok(Obj::none(py))
}

/// The WeakSet of those that live.
pub(super) fn asyncgens<'py>(this: &Bound<'py, Loop>) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    let cell = &this.get().asyncgens;
    if let Some(known) = cell.get() {
        return Ok(known.into_bound(py));
    }
    let made = imports::weak_set(py)?.call0()?;
    cell.set(Some(Obj::from_any(&made)));
    Ok(made)
}
