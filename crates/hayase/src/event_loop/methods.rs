//! The methods of the loop as Python sees them: the list, each body a few lines.
//!
//! Those that run once per callback or task are in `schedule.rs`.

use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use super::watchers::{self, Side};
use super::{Arguments, Loop, debug, exceptions, executor, run, signals};
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;

/// asyncio's default for `loop.slow_callback_duration`, in seconds.
const SLOW_CALLBACK_SECONDS: f64 = 0.1;

#[pymethods]
impl Loop {
    #[new]
    #[classmethod]
    #[pyo3(signature = (*args, **kwargs))]
    fn __new__(
        class: &Bound<'_, PyType>,
        args: Arguments<'_, '_>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Loop> {
        let py = class.py();
        let takes_none = class
            .getattr("__init__")?
            .is(&py.get_type::<PyAny>().getattr("__init__")?);
        if takes_none && (!args.is_empty() || kwargs.is_some_and(|kwargs| !kwargs.is_empty())) {
            return Err(PyTypeError::new_err(format!(
                "{}() takes no arguments",
                class.name()?
            )));
        }
        let event_loop = Loop::make(super::overrides_call_soon(class)?)?;
        event_loop
            .runtime
            .scheduler
            .debug
            .set(debug_by_environment(py)?);
        Ok(event_loop)
    }

    // Running

    /// Run until stop() is called.
    fn run_forever(slf: &Bound<'_, Self>) -> PyResult<()> {
        run::run_forever(slf)
    }

    /// Run until the future (or the task made of a coroutine) is done; returns its result or raises its exception.
    fn run_until_complete<'py>(
        slf: &Bound<'py, Self>,
        future: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        run::run_until_complete(slf, future)
    }

    /// Stop after the turn that runs, or the first one if the loop does not run yet.
    fn stop(&self) {
        self.stopping.set(true);
    }

    /// Close the loop; what waits is dropped, the default executor is shut down without waiting.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        run::close(slf)
    }

    /// Whether close() was called.
    fn is_closed(&self) -> bool {
        self.runtime.scheduler.closed.get()
    }

    /// Whether the loop runs.
    fn is_running(&self) -> bool {
        self.runtime.scheduler.running_thread.get() != 0
    }

    /// Seconds on the loop's clock, which is time.monotonic()'s.
    fn time(&self) -> f64 {
        self.runtime.driver.now().as_secs_f64()
    }

    /// Close all asynchronous generators that are alive; a coroutine.
    fn shutdown_asyncgens(slf: &Bound<'_, Self>, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(run::shutdown_asyncgens(slf)?.into_bound(py).unbind())
    }

    fn _asyncgen_firstiter_hook(slf: &Bound<'_, Self>, agen: &Bound<'_, PyAny>) -> PyResult<()> {
        run::asyncgen_started(slf, agen)
    }

    fn _asyncgen_finalizer_hook(slf: &Bound<'_, Self>, agen: &Bound<'_, PyAny>) -> PyResult<()> {
        run::asyncgen_dropped(slf, agen)
    }

    // Tasks

    /// The function that makes tasks, or None.
    fn get_task_factory(&self, py: Python<'_>) -> Py<PyAny> {
        to_python(py, self.task_factory.get())
    }

    /// factory(loop, coro, **kwargs) makes the tasks of create_task(); None: the loop's own.
    fn set_task_factory(&self, factory: &Bound<'_, PyAny>) -> PyResult<()> {
        if !factory.is_none() && !factory.is_callable() {
            return Err(PyTypeError::new_err(
                "task factory must be a callable or None",
            ));
        }
        self.task_factory
            .set((!factory.is_none()).then(|| Obj::from_any(factory)));
        Ok(())
    }

    // Executor

    /// Call func(*args) in the executor (None: the default one); returns a future.
    #[pyo3(signature = (executor, func, *args))]
    fn run_in_executor<'py>(
        slf: &Bound<'py, Self>,
        executor: &Bound<'py, PyAny>,
        func: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        executor::run_in_executor(slf, executor, func, args)
    }

    /// Set the executor that run_in_executor(None, ...) uses: a ThreadPoolExecutor.
    fn set_default_executor(slf: &Bound<'_, Self>, executor: &Bound<'_, PyAny>) -> PyResult<()> {
        executor::set_default_executor(slf, executor)
    }

    /// Wait until the threads of the default executor have ended; a coroutine.
    ///
    /// timeout: seconds, None for no limit; after it a RuntimeWarning, and the threads are left behind.
    #[pyo3(signature = (timeout=None))]
    fn shutdown_default_executor(
        slf: &Bound<'_, Self>,
        py: Python<'_>,
        timeout: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        Ok(executor::shutdown_default_executor(slf, timeout)?
            .into_bound(py)
            .unbind())
    }

    // Readers, writers, signals

    /// Call callback(*args) whenever the descriptor is readable.
    #[pyo3(signature = (fd, callback, *args))]
    fn add_reader(
        slf: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        watchers::add(slf.py(), slf, Side::Reader, fd, callback, args)
    }

    /// Call callback(*args) whenever the descriptor is writable.
    #[pyo3(signature = (fd, callback, *args))]
    fn add_writer(
        slf: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        watchers::add(slf.py(), slf, Side::Writer, fd, callback, args)
    }

    /// Stop watching for readability; True if something was watched.
    fn remove_reader(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        watchers::remove(slf.py(), slf, Side::Reader, fd)
    }

    /// Stop watching for writability; True if something was watched.
    fn remove_writer(slf: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        watchers::remove(slf.py(), slf, Side::Writer, fd)
    }

    /// Call callback(*args) in the loop when the signal arrives. Only in the main thread.
    #[pyo3(signature = (sig, callback, *args))]
    fn add_signal_handler(
        slf: &Bound<'_, Self>,
        sig: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        signals::add(slf, sig, callback, args)
    }

    /// Put the default action back; True if there was a handler.
    fn remove_signal_handler(slf: &Bound<'_, Self>, sig: &Bound<'_, PyAny>) -> PyResult<bool> {
        signals::remove(slf, sig)
    }

    // Exceptions

    /// The handler set by set_exception_handler(), or None.
    fn get_exception_handler(&self, py: Python<'_>) -> Py<PyAny> {
        to_python(py, self.exception_handler.get())
    }

    /// handler(loop, context) gets what callbacks and tasks left unhandled; None: the default, which logs.
    fn set_exception_handler(slf: &Bound<'_, Self>, handler: &Bound<'_, PyAny>) -> PyResult<()> {
        exceptions::set_handler(slf, handler)
    }

    /// Log the context on the logger "asyncio".
    fn default_exception_handler(
        slf: &Bound<'_, Self>,
        context: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        exceptions::default_handler(slf, context)
    }

    /// Report a context (a dict with 'message', 'exception', ...) to the exception handler.
    fn call_exception_handler(slf: &Bound<'_, Self>, context: &Bound<'_, PyAny>) -> PyResult<()> {
        exceptions::call_handler(slf, context)
    }

    // Debug mode

    /// Whether debug mode is on.
    fn get_debug(&self) -> bool {
        self.runtime.scheduler.debug.get()
    }

    /// Switch debug mode; for a running loop, origins of coroutines are tracked from the next turn on.
    fn set_debug(slf: &Bound<'_, Self>, enabled: &Bound<'_, PyAny>) -> PyResult<()> {
        let enabled = enabled.is_truthy()?;
        let event_loop = slf.get();
        event_loop.runtime.scheduler.debug.set(enabled);
        if event_loop.is_running() {
            let track = slf.getattr("_set_coroutine_origin_tracking")?;
            slf.call_method1("call_soon_threadsafe", (track, enabled))?;
        }
        Ok(())
    }

    fn _set_coroutine_origin_tracking(&self, py: Python<'_>, enabled: bool) -> PyResult<()> {
        debug::track_origins(py, self, enabled)
    }

    /// Seconds that a callback may take before debug mode reports it.
    #[getter]
    fn slow_callback_duration(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.slow_callback_duration.get() {
            Some(value) => Ok(value.into_bound(py).unbind()),
            None => Ok(SLOW_CALLBACK_SECONDS.into_pyobject(py)?.into_any().unbind()),
        }
    }

    #[setter]
    fn set_slow_callback_duration(&self, value: &Bound<'_, PyAny>) {
        self.slow_callback_duration.set(Some(Obj::from_any(value)));
    }

    // Private names that programs read

    #[getter(_debug)]
    fn debug_attribute(&self) -> bool {
        self.get_debug()
    }

    #[getter]
    fn _closed(&self) -> bool {
        self.is_closed()
    }

    #[getter]
    fn _thread_id(&self) -> Option<u64> {
        Some(self.runtime.scheduler.running_thread.get()).filter(|&thread| thread != 0)
    }

    #[getter]
    fn _default_executor(&self, py: Python<'_>) -> Py<PyAny> {
        to_python(py, self.default_executor.get())
    }

    #[getter]
    fn _exception_handler(&self, py: Python<'_>) -> Py<PyAny> {
        to_python(py, self.exception_handler.get())
    }

    #[getter]
    fn _task_factory(&self, py: Python<'_>) -> Py<PyAny> {
        to_python(py, self.task_factory.get())
    }

    #[getter]
    fn _asyncgens<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        run::asyncgens(slf)
    }

    fn _check_closed(&self, py: Python<'_>) -> PyResult<()> {
        crate::raw::to_py(py, self.runtime.scheduler.check_open(py))
    }

    fn _check_running(slf: &Bound<'_, Self>) -> PyResult<()> {
        run::check_not_running(slf)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let word = |value: bool| if value { "True" } else { "False" };
        let answer = |name: &str| slf.call_method0(name)?.is_truthy();
        Ok(format!(
            "<{} running={} closed={} debug={}>",
            slf.get_type().name()?,
            word(answer("is_running")?),
            word(answer("is_closed")?),
            word(answer("get_debug")?),
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| {
            self.runtime.visit(visitor);
            self.signals.visit(visitor);
            self.cells().into_iter().for_each(|cell| visitor.cell(cell));
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.runtime.scheduler.drain(py));
        drop(self.runtime.close(py));
        self.signals.clear(py);
        self.cells().into_iter().for_each(|cell| cell.set(None));
    }
}

impl Loop {
    pub(super) fn slow_callback_seconds(&self, py: Python<'_>) -> PyResult<f64> {
        match self.slow_callback_duration.get() {
            Some(value) => value.borrow(py).extract(),
            None => Ok(SLOW_CALLBACK_SECONDS),
        }
    }
}

fn to_python(py: Python<'_>, value: Option<Obj>) -> Py<PyAny> {
    value.map_or_else(|| py.None(), |value| value.into_bound(py).unbind())
}

/// `PYTHONASYNCIODEBUG`, or `-X dev`.
fn debug_by_environment(py: Python<'_>) -> PyResult<bool> {
    py.import("asyncio.coroutines")?
        .call_method0("_is_debug_mode")?
        .is_truthy()
}
