//! Native coroutines: a Rust `async` block that Python awaits, and that awaits Python's awaitables.
//!
//! The async methods of the loop are such blocks. Inside, `co.wait_for(awaitable).await` hands the awaitable's yields to
//! whoever drives the coroutine (a task), and what is sent or thrown into the coroutine to the awaitable. So a
//! cancellation arrives as `Err(CancelledError)` at the point of waiting, as in Python.
//!
//! Must stay true
//! - The block is out of its cell while it runs: Python code may touch the coroutine object meanwhile.
//! - One point of waiting at a time (no `join`): the iterator in `Exchange::awaiting` is the only one.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use pyo3::exceptions::{
    PyGeneratorExit, PyRuntimeError, PyRuntimeWarning, PyStopIteration, PySystemError, PyTypeError, PyValueError,
};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use super::{Runtime, RuntimeRef};
use crate::raw::cell::{GilCell, ObjCell};
use crate::raw::instance::Visitor;
use crate::raw::iterate::{self, Step};
use crate::raw::obj::Obj;
use crate::raw::to_py;

type Body = Pin<Box<dyn Future<Output = PyResult<Obj>>>>;

/// What a running block knows of its coroutine. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Co(Rc<Exchange>);

struct Exchange {
    runtime: RuntimeRef,
    /// The iterator that is waited for.
    awaiting: ObjCell,
    /// What was sent or thrown in, for the point of waiting.
    input: GilCell<Option<Input>>,
    /// What the point of waiting yields.
    output: ObjCell,
}

enum Input {
    Send(Obj),
    Throw(PyErr),
}

impl Co {
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.0.runtime
    }

    pub(crate) fn runtime_ref(&self) -> RuntimeRef {
        self.0.runtime.clone()
    }

    pub(crate) fn event_loop(&self) -> &Obj {
        self.0.runtime.object()
    }

    /// `await awaitable`
    pub(crate) fn wait_for(&self, awaitable: Obj) -> WaitFor {
        WaitFor { exchange: Rc::clone(&self.0), awaitable: Some(awaitable) }
    }

    /// `await asyncio.sleep(0)`: everything that is ready runs first.
    pub(crate) fn yield_once(&self) -> YieldOnce {
        YieldOnce { exchange: Rc::clone(&self.0), yielded: false }
    }
}

pub(crate) struct WaitFor {
    exchange: Rc<Exchange>,
    /// Until it is polled first.
    awaitable: Option<Obj>,
}

impl Future for WaitFor {
    type Output = PyResult<Obj>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<PyResult<Obj>> {
        let this = &mut *self;
        Python::attach(|py| {
            let exchange = &this.exchange;
            let stepped = match this.awaitable.take() {
                Some(awaitable) => to_py(py, iterate::await_iterator(py, &awaitable)).and_then(|iterator| {
                    exchange.awaiting.set(Some(iterator.clone()));
                    to_py(py, iterate::send(py, &iterator, &Obj::none(py)))
                }),
                None => {
                    let iterator = exchange.awaiting.get();
                    match (iterator, exchange.input.with(py, Option::take)) {
                        (Some(iterator), Some(Input::Send(value))) => to_py(py, iterate::send(py, &iterator, &value)),
                        (Some(iterator), Some(Input::Throw(err))) => iterate::throw(py, &iterator, err),
                        (None, _) | (_, None) => Err(PyRuntimeError::new_err("coroutine was cleared")),
                    }
                }
            };
            match stepped {
                Ok(Step::Yielded(value)) => {
                    exchange.output.set(Some(value));
                    Poll::Pending
                }
                Ok(Step::Returned(value)) => {
                    exchange.awaiting.set(None);
                    Poll::Ready(Ok(value))
                }
                Err(err) => {
                    exchange.awaiting.set(None);
                    Poll::Ready(Err(err))
                }
            }
        })
    }
}

pub(crate) struct YieldOnce {
    exchange: Rc<Exchange>,
    yielded: bool,
}

impl Future for YieldOnce {
    type Output = PyResult<()>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<PyResult<()>> {
        let this = &mut *self;
        Python::attach(|py| {
            if !std::mem::replace(&mut this.yielded, true) {
                this.exchange.output.set(Some(Obj::none(py)));
                return Poll::Pending;
            }
            match this.exchange.input.with(py, Option::take) {
                Some(Input::Throw(err)) => Poll::Ready(Err(err)),
                Some(Input::Send(_)) | None => Poll::Ready(Ok(())),
            }
        })
    }
}

enum State {
    Created(Body),
    Suspended(Body),
    Running,
    Done,
}

/// A coroutine whose body is Rust.
#[pyclass(module = "hayase._core", frozen, weakref)]
pub(crate) struct NativeCoroutine {
    state: GilCell<State>,
    exchange: GilCell<Co>,
    name: &'static str,
}

/// Makes the coroutine object; `body` gets its [`Co`] and begins to run when the coroutine is awaited.
pub(crate) fn make<F>(
    py: Python<'_>,
    runtime: RuntimeRef,
    name: &'static str,
    body: impl FnOnce(Co) -> F,
) -> PyResult<Obj>
where
    F: Future<Output = PyResult<Obj>> + 'static,
{
    let co = Co(Rc::new(Exchange {
        runtime,
        awaiting: ObjCell::empty(),
        input: GilCell::new(None),
        output: ObjCell::empty(),
    }));
    let body: Body = Box::pin(body(co.clone()));
    let coroutine = NativeCoroutine { state: GilCell::new(State::Created(body)), exchange: GilCell::new(co), name };
    Ok(Obj::from_bound(Bound::new(py, coroutine)?))
}

#[pymethods]
impl NativeCoroutine {
    fn send(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        self.resume(py, Input::Send(Obj::from_any(value)))
    }

    #[pyo3(signature = (typ, val=None, tb=None, /))]
    fn throw(
        &self,
        py: Python<'_>,
        typ: &Bound<'_, PyAny>,
        val: Option<&Bound<'_, PyAny>>,
        tb: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        self.resume(py, Input::Throw(exception(typ, val, tb)?))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let unstarted = self.state.with(py, |state| match state {
            State::Created(_) => Some(std::mem::replace(state, State::Done)),
            State::Done => Some(State::Done),
            State::Suspended(_) | State::Running => None,
        });
        if unstarted.is_some() {
            return Ok(());
        }
        match self.resume(py, Input::Throw(PyGeneratorExit::new_err(()))) {
            Ok(_) => Err(PyRuntimeError::new_err("coroutine ignored GeneratorExit")),
            Err(err) if err.is_instance_of::<PyGeneratorExit>(py) || err.is_instance_of::<PyStopIteration>(py) => {
                Ok(())
            }
            Err(err) => Err(err),
        }
    }

    fn __await__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.resume(py, Input::Send(Obj::none(py)))
    }

    #[getter(__name__)]
    fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    #[getter(__qualname__)]
    fn qualified_name(&self) -> &'static str {
        self.name
    }

    #[getter]
    fn cr_running(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| matches!(state, State::Running))
    }

    fn __repr__(this: &Bound<'_, Self>) -> String {
        format!("<coroutine object {} at {:p}>", this.get().name, this.as_ptr())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| {
            self.exchange.peek(|co| {
                co.0.runtime.visit(visitor);
                visitor.cell(&co.0.awaiting);
                visitor.cell(&co.0.output);
            });
        })
    }

    fn __clear__(&self) {
        // Only what is out of reach of every running code is cleared, so the block does not run now.
        Python::attach(|py| {
            let awaiting = self.exchange.with(py, |co| co.0.awaiting.take());
            let body = self.state.with(py, |state| std::mem::replace(state, State::Done));
            drop(body);
            drop(awaiting);
        });
    }
}

impl NativeCoroutine {
    fn resume(&self, py: Python<'_>, input: Input) -> PyResult<Py<PyAny>> {
        let mut body = match self.state.with(py, |state| std::mem::replace(state, State::Running)) {
            State::Created(body) => match input {
                Input::Send(value) if value.is_none() => body,
                Input::Send(_) => {
                    self.state.with(py, |state| *state = State::Created(body));
                    return Err(PyTypeError::new_err("can't send non-None value to a just-started coroutine"));
                }
                Input::Throw(err) => {
                    self.state.with(py, |state| *state = State::Done);
                    drop(body);
                    return Err(err);
                }
            },
            State::Suspended(body) => {
                self.exchange.with(py, |co| co.clone()).0.input.with(py, |place| *place = Some(input));
                body
            }
            State::Running => return Err(PyValueError::new_err("coroutine already executing")),
            State::Done => {
                self.state.with(py, |state| *state = State::Done);
                return Err(PyRuntimeError::new_err("cannot reuse already awaited coroutine"));
            }
        };
        let polled = catch_unwind(AssertUnwindSafe(|| body.as_mut().poll(&mut Context::from_waker(Waker::noop()))));
        let outcome = match polled {
            Ok(Poll::Pending) => {
                self.state.with(py, |state| *state = State::Suspended(body));
                let yielded = self.exchange.with(py, |co| co.0.output.take());
                let yielded = yielded.unwrap_or_else(|| Obj::none(py));
                return Ok(yielded.into_bound(py).unbind());
            }
            Ok(Poll::Ready(outcome)) => outcome,
            Err(_) => {
                Err(PySystemError::new_err(format!("hayase has a bug, please report it: {} panicked", self.name)))
            }
        };
        self.state.with(py, |state| *state = State::Done);
        drop(body);
        let value = outcome?.into_bound(py);
        Err(PyStopIteration::new_err((value.unbind(),)))
    }
}

impl Drop for NativeCoroutine {
    fn drop(&mut self) {
        Python::try_attach(|py| {
            if !self.state.with(py, |state| matches!(state, State::Created(_))) {
                return;
            }
            // Whoever drops the coroutine may be handling an exception.
            let pending = PyErr::take(py);
            let text = std::ffi::CString::new(format!("coroutine '{}' was never awaited", self.name));
            if let Ok(text) = text
                && let Err(err) = PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &text, 1)
            {
                err.write_unraisable(py, None);
            }
            if let Some(err) = pending {
                err.restore(py);
            }
        });
    }
}

/// The exception that `throw(typ, val, tb)` means.
fn exception(typ: &Bound<'_, PyAny>, val: Option<&Bound<'_, PyAny>>, tb: Option<&Bound<'_, PyAny>>) -> PyResult<PyErr> {
    let value = match typ.cast::<PyType>() {
        Ok(class) => match val {
            Some(val) if val.is_instance(class)? => val.clone(),
            Some(val) if val.is_instance_of::<PyTuple>() => class.call1(val.cast::<PyTuple>()?)?,
            Some(val) if !val.is_none() => class.call1((val,))?,
            Some(_) | None => class.call0()?,
        },
        Err(_) => typ.clone(),
    };
    if let Some(tb) = tb
        && !tb.is_none()
    {
        value.setattr("__traceback__", tb)?;
    }
    Ok(PyErr::from_value(value))
}
