//! Waits once for a descriptor to be ready: a future that is resolved by the event.

use std::os::fd::RawFd;

use driver::{Interest, Token};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::interop::errors;
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_py};
use crate::runtime::RuntimeRef;
use crate::runtime::slots::SlotKind;
use crate::tasks::wait;

static CREATE_FUTURE: Name = Name::new(c"create_future");

/// What the slot holds.
#[pyclass(module = "hayase._core", frozen)]
pub(crate) struct Waiter {
    future: ObjCell,
}

#[pymethods]
impl Waiter {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| visitor.cell(&self.future))
    }

    fn __clear__(&self) {
        self.future.set(None);
    }
}

/// The registration; ends when it is dropped, whether the event came or the wait was cancelled.
pub(crate) struct Watched {
    runtime: RuntimeRef,
    token: GilValue<Option<Token>>,
    future: Obj,
}

impl Watched {
    /// Watches `fd` until the value is dropped.
    pub(crate) fn new(py: Python<'_>, runtime: RuntimeRef, fd: RawFd, interest: Interest) -> PyResult<Watched> {
        let future = to_py(py, call::method(py, runtime.object(), &CREATE_FUTURE, &[]))?;
        let waiter = Bound::new(py, Waiter { future: ObjCell::new(Some(future.clone())) })?;
        let token = runtime
            .watch(py, fd, interest, SlotKind::Waiter, Obj::from_bound(waiter))
            .map_err(|error| errors::os_error(py, &error))?;
        Ok(Watched { runtime, token: GilValue::new(Some(token)), future })
    }

    /// Resolved by the first event.
    pub(crate) fn future(&self) -> Obj {
        self.future.clone()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(token) = self.token.replace(None) {
            Python::attach(|py| drop(self.runtime.unwatch(py, token)));
        }
    }
}

/// The event has come.
pub(crate) fn on_ready(py: Python<'_>, object: &Obj) -> RawResult<()> {
    let object = object.borrow(py);
    let waiter = object.cast::<Waiter>().expect("slots of this kind hold waiters").get();
    let Some(future) = waiter.future.take() else {
        return Ok(());
    };
    wait::resolve(py, &future)
}
