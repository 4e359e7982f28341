//! Transports and servers: bytes between a socket and a protocol.
//!
//! `stream/` is the connection, `read.rs` and `write.rs` its two halves, `receiver.rs` says who gets what it reads;
//! `tls/` is the layer over any of them; `datagram/` is UDP and Unix datagrams; `server/` listens and accepts; `pipe/` has the
//! two ends of pipes, `child.rs` waits for a child process, `waiter.rs` once for a descriptor; `marks.rs` reads the marks of flow control, `reports.rs` is
//! what any of them says to handlers and logs. A transport knows its slot in the runtime; only the event loop's dispatch turns a slot back into an object and calls in here.

pub(crate) mod address;
pub(crate) mod child;
pub(crate) mod datagram;
mod marks;
pub(crate) mod pipe;
pub(crate) mod read;
pub(crate) mod receiver;
mod reports;
pub(crate) mod server;
pub(crate) mod stream;
pub(crate) mod tls;
pub(crate) mod waiter;
pub(crate) mod write;

use std::os::fd::RawFd;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyModule;

use crate::raw::call::{self, Name};
use crate::raw::obj::Obj;
use crate::raw::{RawResult, collector};
use crate::runtime::slots::SlotKind;
use crate::runtime::{Runtime, RuntimeRef};

/// The protocol has to be told that it is connected; then reading begins.
pub(crate) const CONNECTION_MADE: u32 = 1;
/// The protocol has to be told that the connection is gone; then the descriptor is closed.
pub(crate) const CONNECTION_LOST: u32 = 2;
/// A pipe's protocol has to be told of the end of the stream.
pub(crate) const EOF_RECEIVED: u32 = 3;

/// Work that a transport put into the ready queue for itself.
pub(crate) fn on_native(py: Python<'_>, object: &Obj, work: u32) -> RawResult<()> {
    let object = object.borrow(py);
    if let Some(outcome) = pipe::on_native(&object, work) {
        return outcome;
    }
    if let Ok(transport) = object.cast::<datagram::DatagramTransport>() {
        return datagram::on_native(&transport, work);
    }
    let Ok(transport) = object.cast::<stream::StreamTransport>() else {
        return Ok(());
    };
    match work {
        CONNECTION_MADE => stream::connection_made(&transport),
        CONNECTION_LOST => stream::connection_lost(&transport),
        other => unreachable!("no transport asks for work {other}"),
    }
}

/// Closes what a closed loop has left open: called when its registrations are gone.
pub(crate) fn close_all(py: Python<'_>, runtime: &Runtime) {
    for object in runtime.open.list(py) {
        let object = object.borrow(py);
        let closed = if let Ok(transport) = object.cast::<stream::StreamTransport>() {
            transport.get().close_with_the_loop(py)
        } else if let Ok(transport) = object.cast::<datagram::DatagramTransport>() {
            transport.get().close_with_the_loop(py)
        } else if let Ok(server) = object.cast::<server::Server>() {
            server.get().close_with_the_loop(py)
        } else {
            close_other_with_the_loop(&object);
            Ok(())
        };
        if let Err(err) = closed {
            err.write_unraisable(py, Some(&object));
        }
    }
}

/// For a loop that is closed: what is open besides connections and servers.
fn close_other_with_the_loop(object: &Bound<'_, PyAny>) {
    if let Ok(child) = object.cast_exact::<child::Child>() {
        child.get().close(object.py());
    }
    pipe::leave_the_loop(object);
}

/// `transport.write(data)` of any transport.
#[inline]
pub(crate) fn write(py: Python<'_>, transport: &Obj, data: Obj) -> RawResult<()> {
    static WRITE: Name = Name::new(c"write");
    match stream::without_own(&transport.borrow(py)) {
        Some(transport) => write::write(transport, data),
        None => call::method(py, transport, &WRITE, &[&data]).map(drop),
    }
}

/// `transport.close()` of a transport of ours.
fn close(transport: &Bound<'_, stream::StreamTransport>) -> RawResult<()> {
    static CLOSE: Name = Name::new(c"close");
    match stream::without_own(transport.as_any()) {
        Some(transport) => write::close(transport),
        None => call::method(transport.py(), &Obj::from_any(transport.as_any()), &CLOSE, &[]).map(drop),
    }
}

/// `transport.is_closing()` of any transport.
#[inline]
pub(crate) fn is_closing(py: Python<'_>, transport: &Obj) -> RawResult<bool> {
    static IS_CLOSING: Name = Name::new(c"is_closing");
    match stream::without_own(&transport.borrow(py)) {
        Some(transport) => Ok(transport.get().is_closing_or_closed()),
        None => call::is_true(py, &call::method(py, transport, &IS_CLOSING, &[])?),
    }
}

/// Whether what is written to a transport leaves encrypted: what `get_extra_info('sslcontext')` says.
pub(crate) fn is_over_ssl(transport: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = transport.py();
    if stream::without_own(transport).is_some_and(|transport| transport.get().knows_nothing_extra()) {
        return Ok(false);
    }
    let context = transport.call_method1(pyo3::intern!(py, "get_extra_info"), (pyo3::intern!(py, "sslcontext"),))?;
    Ok(!context.is_none())
}

/// Refuses a descriptor that a transport of this loop uses.
pub(crate) fn refuse_used(py: Python<'_>, runtime: &RuntimeRef, fd: RawFd) -> PyResult<()> {
    let user = runtime.slots.with(py, |slots| {
        let slot = slots.get(slots.token_of(fd)?)?;
        [SlotKind::Stream, SlotKind::Datagram].contains(&slot.kind).then(|| slot.object.clone())
    });
    let Some(user) = user else {
        return Ok(());
    };
    let user = user.into_bound(py);
    if user.call_method0("is_closing")?.is_truthy()? {
        return Ok(());
    }
    Err(PyRuntimeError::new_err(format!("File descriptor {fd} is used by transport {}", user.repr()?)))
}

pub(crate) fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<stream::StreamTransport>()?;
    module.add_class::<datagram::DatagramTransport>()?;
    module.add_class::<pipe::read::ReadPipeTransport>()?;
    module.add_class::<pipe::write::WritePipeTransport>()?;
    module.add_class::<child::Child>()?;
    module.add_class::<server::Server>()?;
    module.add_class::<server::listener::Listener>()?;
    module.add_class::<waiter::Waiter>()?;
    collector::add_finalizer::<stream::StreamTransport>(module.py());
    collector::add_finalizer::<datagram::DatagramTransport>(module.py());
    collector::add_finalizer::<pipe::read::ReadPipeTransport>(module.py());
    collector::add_finalizer::<pipe::write::WritePipeTransport>(module.py());
    pipe::write::add_methods(module.py())?;
    datagram::add_methods(module.py())?;
    stream::methods::add_methods(module.py())?;
    tls::init(module)
}
