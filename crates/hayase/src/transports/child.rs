//! Waits for the end of a child process, through its pidfd.
//!
//! The child is collected here and nowhere else, by its pidfd: no other child can be meant, whatever happens to the
//! number. SIGCHLD stays the program's.
//!
//! Must stay true
//! - The callback is called once; the pidfd is closed then, or with the loop.

use std::os::fd::{AsRawFd, OwnedFd};

use driver::{Interest, Token};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyInt;

use super::reports;
use crate::interop::errors;
use crate::raw::call;
use crate::raw::cell::{GilCell, GilValue, ObjCell};
use crate::raw::instance::Visitor;
use crate::raw::kept_context::KeptContext;
use crate::raw::members::Membership;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_py, to_raw};
use crate::runtime::RuntimeRef;
use crate::runtime::slots::SlotKind;

/// What the slot holds.
#[pyclass(module = "hayase._core", frozen)]
pub(crate) struct Child {
    runtime: RuntimeRef,
    pid: i32,
    pidfd: GilCell<Option<OwnedFd>>,
    token: GilValue<Option<Token>>,
    callback: ObjCell,
    /// Of who watches.
    context: KeptContext,
    /// Of the runtime's list of what is open.
    membership: GilCell<Option<Membership>>,
}

/// Has `callback(returncode)` called when the child has ended, in the context of the caller.
pub(crate) fn watch(py: Python<'_>, runtime: &RuntimeRef, pid: i32, callback: &Bound<'_, PyAny>) -> PyResult<()> {
    to_py(py, runtime.scheduler.check_open(py))?;
    let context = to_py(py, KeptContext::of_current(py))?;
    let pidfd = driver::open_child(pid).map_err(|error| errors::os_error(py, &error))?;
    let fd = pidfd.as_raw_fd();
    let child = Child {
        runtime: runtime.clone(),
        pid,
        pidfd: GilCell::new(Some(pidfd)),
        token: GilValue::new(None),
        callback: ObjCell::new(Some(Obj::from_any(callback))),
        context,
        membership: GilCell::new(None),
    };
    let child = Bound::new(py, child)?;
    let object = Obj::from_any(child.as_any());
    let token = runtime
        .watch(py, fd, Interest::READABLE, SlotKind::Child, object.clone())
        .map_err(|error| errors::os_error(py, &error))?;
    child.get().token.set(Some(token));
    let membership = runtime.open.join(py, &object);
    child.get().membership.with(py, |place| *place = Some(membership));
    Ok(())
}

pub(crate) fn on_ready(py: Python<'_>, object: &Obj) -> RawResult<()> {
    let object = object.borrow(py);
    let child = object.cast_exact::<Child>().expect("slots of this kind hold children").get();
    let ended = child.pidfd.with(py, |pidfd| pidfd.as_ref().map(|pidfd| driver::reap_child(pidfd, child.pid)));
    let returncode = match ended {
        None | Some(Ok(None)) => return Ok(()),
        Some(Ok(Some(code))) => Obj::from_bound(PyInt::new(py, code)),
        // Somebody else collected it.
        Some(Err(_)) => Obj::none(py),
    };
    let callback = child.callback.take();
    child.close(py);
    match callback {
        Some(callback) => tell(py, child, &callback, &returncode),
        None => Ok(()),
    }
}

fn tell(py: Python<'_>, child: &Child, callback: &Obj, returncode: &Obj) -> RawResult<()> {
    match child.context.run_in(py, || call::call1(py, callback, returncode)) {
        // Without a context, the collector cleared it.
        None | Some(Ok(Ok(_))) => Ok(()),
        Some(Ok(Err(raised)) | Err(raised)) => {
            let err = raised.fetch(py);
            if errors::leaves_the_loop(py, &err) {
                return Err(Raised::from_err(py, err));
            }
            let told = (|| {
                let report = pyo3::types::PyDict::new(py);
                report.set_item("message", format!("Exception in callback {}", callback.borrow(py).repr()?))?;
                report.set_item("exception", err.into_value(py))?;
                reports::call_exception_handler(py, child.runtime.object(), &report)
            })();
            to_raw(py, told)
        }
    }
}

impl Child {
    pub(super) fn close(&self, py: Python<'_>) {
        if let Some(token) = self.token.replace(None) {
            drop(self.runtime.unwatch(py, token));
        }
        drop(self.membership.with(py, Option::take));
        drop(self.pidfd.with(py, Option::take));
        drop(self.callback.take());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // First of all: the runtime's list must not see a dying object.
        Python::try_attach(|py| drop(self.membership.with(py, Option::take)));
    }
}

#[pymethods]
impl Child {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| {
            self.runtime.visit(visitor);
            visitor.cell(&self.callback);
            self.context.visit(visitor);
        })
    }

    fn __clear__(&self) {
        self.callback.set(None);
        self.context.clear();
    }
}
