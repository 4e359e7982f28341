//! Errors of a TLS connection: what ends it, who is told, and what is reported.

use pyo3::exceptions::{PyException, PyOSError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::below::force_close;
use super::protocol::TlsProtocol;
use crate::interop::{imports, log};
use crate::raw::call::{self, Name};
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_raw};
use crate::transports::reports;

static CANCELLED: Name = Name::new(c"cancelled");
static SET_RESULT: Name = Name::new(c"set_result");
static SET_EXCEPTION: Name = Name::new(c"set_exception");

/// Closes at once; what is no fault of the network is reported.
pub(super) fn fatal_error(this: &Bound<'_, TlsProtocol>, err: &PyErr, message: &str) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    let below = layer.below.get();
    force_close(this, Some(err))?;
    if err.is_instance_of::<PyOSError>(py) {
        if layer.runtime.scheduler.debug.get() {
            let told = (|| {
                let keywords = PyDict::new(py);
                keywords.set_item("exc_info", err.value(py))?;
                log::logger(py)?.call_method("debug", ("%r: %s", this, message), Some(&keywords))
            })();
            to_raw(py, told)?;
        }
        return Ok(());
    }
    if err.is_instance(py, to_raw(py, imports::cancelled_error(py))?) {
        return Ok(());
    }
    let told = report(this, err, message, &[("transport", below), ("protocol", Some(Obj::from_any(this.as_any())))]);
    to_raw(py, told)
}

/// An error that asyncio handles with `except Exception`: fatal. All others go on.
pub(super) fn fatal_if_exception(this: &Bound<'_, TlsProtocol>, raised: Raised, message: &str) -> RawResult<()> {
    let py = this.py();
    let err = raised.fetch(py);
    if !err.is_instance_of::<PyException>(py) {
        return Err(Raised::from_err(py, err));
    }
    fatal_error(this, &err, message)
}

/// To the loop's exception handler.
pub(super) fn report(
    this: &Bound<'_, TlsProtocol>,
    err: &PyErr,
    message: &str,
    keys: &[(&str, Option<Obj>)],
) -> PyResult<()> {
    let py = this.py();
    let report = PyDict::new(py);
    report.set_item("message", message)?;
    report.set_item("exception", err.value(py))?;
    for (key, value) in keys {
        report.set_item(*key, value.as_ref().map(|value| value.borrow(py)))?;
    }
    reports::call_exception_handler(py, this.get().runtime.object(), &report)
}

/// Tells who waits for the handshake; `None`: it is done.
pub(super) fn wake_waiter(this: &Bound<'_, TlsProtocol>, error: Option<&Bound<'_, PyAny>>) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    if layer.accepted.replace(false) {
        return match error {
            Some(error) => to_raw(py, accepting_failed(this, error)),
            None => Ok(()),
        };
    }
    let Some(waiter) = layer.waiter.take() else {
        return Ok(());
    };
    if call::is_true(py, &call::method(py, &waiter, &CANCELLED, &[])?)? {
        return Ok(());
    }
    match error {
        Some(error) => call::method(py, &waiter, &SET_EXCEPTION, &[&Obj::from_any(error)]).map(drop),
        None => call::method(py, &waiter, &SET_RESULT, &[&Obj::none(py)]).map(drop),
    }
}

/// asyncio tells it in debug mode only: any port scan would fill the log.
fn accepting_failed(this: &Bound<'_, TlsProtocol>, error: &Bound<'_, PyAny>) -> PyResult<()> {
    let layer = this.get();
    if !layer.runtime.scheduler.debug.get() {
        return Ok(());
    }
    let message = "Error on transport creation for incoming connection";
    let keys = [("protocol", layer.app_protocol.get()), ("transport", layer.app_transport.get())];
    report(this, &PyErr::from_value(error.clone()), message, &keys)
}
