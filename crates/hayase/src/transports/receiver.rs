//! Who receives what a transport reads: a protocol of the program's, or native code of ours.
//!
//! Decided once, when the protocol is set, by its type. A native receiver gets the data as a slice, without a `bytes`
//! and without a Python call; everything that is rare (`connection_made`, `eof_received`, `pause_writing`,
//! `connection_lost`) reaches it by name, as any protocol.

use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::types::PyCFunction;

use super::stream::StreamTransport;
use super::tls;
use crate::interop::imports;
use crate::raw::RawResult;
use crate::raw::call::{self, Name};
use crate::raw::obj::Obj;

#[derive(Clone, Copy)]
pub(crate) enum Receiver {
    /// `data_received`.
    Protocol,
    /// A `BufferedProtocol`: `get_buffer`, `buffer_updated`.
    Buffered,
    Native(&'static Native),
}

/// A protocol of ours that takes its data natively.
pub(crate) struct Native {
    /// Whether this is such a protocol, and nobody has put a `data_received` of their own in the way.
    pub(crate) recognises: fn(&Bound<'_, PyAny>) -> bool,
    pub(crate) data_received: fn(Python<'_>, &Obj, &[u8], Context<'_>) -> RawResult<()>,
    /// The callback that asyncio's report of an error names.
    pub(crate) callback: &'static str,
}

/// The context that code of the program's runs in when data arrives: that of the transport, unless it is entered already.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a>(pub(super) Option<&'a StreamTransport>);

impl Context<'_> {
    #[inline]
    pub(crate) fn run<R>(self, py: Python<'_>, body: impl FnOnce() -> RawResult<R>) -> RawResult<R> {
        match self.0 {
            Some(transport) => transport.in_context(py, body),
            None => body(),
        }
    }
}

/// The receiver above the transports: what streams are made of.
static STREAMS: OnceLock<&'static Native> = OnceLock::new();

/// Told once, at import, by the streams (which transports must not know).
pub(crate) fn set_streams(native: &'static Native) {
    let _ = STREAMS.set(native);
}

impl Receiver {
    pub(crate) fn of(protocol: &Bound<'_, PyAny>) -> PyResult<Receiver> {
        for native in STREAMS.get().copied().into_iter().chain([&tls::RECEIVER]) {
            if (native.recognises)(protocol) {
                return Ok(Receiver::Native(native));
            }
        }
        let buffered = protocol.is_instance(imports::buffered_protocol_class(protocol.py())?)?;
        Ok(if buffered { Receiver::Buffered } else { Receiver::Protocol })
    }
}

/// Whether a method of an object of ours is the extension's, replaced neither by a subclass nor on the instance. (Asked
/// so, and not through `__dict__`, which would be made by the question.)
pub(crate) fn is_native_method(object: &Bound<'_, PyAny>, name: &'static Name) -> bool {
    let py = object.py();
    match call::getattr(py, &Obj::from_any(object), name) {
        Ok(method) => method.borrow(py).is_instance_of::<PyCFunction>(),
        Err(raised) => {
            drop(raised.fetch(py));
            false
        }
    }
}
