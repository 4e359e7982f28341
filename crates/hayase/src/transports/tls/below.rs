//! What the TLS layer does with the transport below it: natively with a `StreamTransport`, by name with any other and
//! with one that was given methods of its own.

use pyo3::prelude::*;

use super::protocol::TlsProtocol;
use crate::raw::call::{self, Name};
use crate::raw::obj::Obj;
use crate::raw::{RawResult, compat};
use crate::transports::stream;
use crate::transports::write;

static FORCE_CLOSE: Name = Name::new(c"_force_close");
static ABORT: Name = Name::new(c"abort");
static WRITE: Name = Name::new(c"write");

/// Has the ciphertext that is due sent. A `StreamTransport` asks for it when it is flushed.
pub(super) fn send(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    let Some(below) = layer.below.get() else {
        return Ok(());
    };
    if layer.below_is_native.get()
        && let Some(transport) = stream::without_own(&below.borrow(py))
    {
        return match layer.engine.outgoing_bytes(py)? {
            0 => Ok(()),
            count => write::layer_is_due(transport, count),
        };
    }
    match layer.engine.take_ciphertext(py)? {
        Some(ciphertext) => call::method(py, &below, &WRITE, &[ciphertext.as_obj()]).map(drop),
        None => Ok(()),
    }
}

/// Ends the connection at once; what was handed down before is still offered to the kernel.
pub(super) fn force_close(this: &Bound<'_, TlsProtocol>, error: Option<&PyErr>) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    let Some(below) = layer.below.get() else {
        return Ok(());
    };
    if layer.below_is_native.get()
        && let Some(transport) = stream::without_own(&below.borrow(py))
    {
        write::flush(transport)?;
        stream::force_close(transport, error.map(|err| err.clone_ref(py)));
        return Ok(());
    }
    let by_error = error.is_some() || compat::TLS_ABORTS_BY_FORCE_CLOSE;
    let method = if by_error { call::optional_attr(py, &below, &FORCE_CLOSE)? } else { None };
    match method {
        Some(method) => {
            let error = match error {
                Some(err) => Obj::from_any(err.value(py).as_any()),
                None => Obj::none(py),
            };
            call::call1(py, &method, &error).map(drop)
        }
        None => call::method(py, &below, &ABORT, &[]).map(drop),
    }
}

/// `below.name()`
pub(super) fn tell_below(this: &Bound<'_, TlsProtocol>, name: &'static Name) -> RawResult<()> {
    match this.get().below.get() {
        Some(below) => call::method(this.py(), &below, name, &[]).map(drop),
        None => Ok(()),
    }
}
