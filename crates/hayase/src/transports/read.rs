//! The receiving half of a stream transport.
//!
//! One `recv` per readiness event (a few, where a protocol's own buffer is too small): the driver is level-triggered, so
//! what is left comes up in the next turn, after the others had theirs. Small data passes through the loop's one scratch
//! buffer into an exact `bytes`; once that buffer was filled, the next reads go straight into a large object which is then
//! cut to size.

use std::io;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;

use super::receiver::{Context, Native, Receiver};
use super::stream::{self, StreamTransport};
use super::write;
use crate::interop::{errors, log};
use crate::raw::bytes::{self, Bytes};
use crate::raw::call::{self, Name};
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_raw};
use crate::runtime::{NATIVE_SCRATCH_BYTES, SCRATCH_BYTES};

static DATA_RECEIVED: Name = Name::new(c"data_received");
static EOF_RECEIVED: Name = Name::new(c"eof_received");
static GET_BUFFER: Name = Name::new(c"get_buffer");
static BUFFER_UPDATED: Name = Name::new(c"buffer_updated");

/// asyncio's and uvloop's size of one read.
const LARGE_READ_BYTES: usize = 256 * 1024;

/// Of a protocol with its own buffer; the usual 64 KiB make asyncio's size of one read.
const BUFFERS_PER_EVENT_MAX: usize = 4;

const READ_FAILED: &str = "Fatal read error on socket transport";

pub(super) fn read_ready(this: &Bound<'_, StreamTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    if transport.conn_lost.get() > 0 {
        return Ok(());
    }
    let Some(protocol) = transport.protocol.get() else {
        return Ok(());
    };
    match transport.receiver.get() {
        Receiver::Protocol => read_bytes(py, this, &protocol),
        Receiver::Buffered => read_buffers(this, protocol),
        Receiver::Native(native) => read_native(this, &protocol, native),
    }
}

#[inline]
fn read_bytes(py: Python<'_>, this: &Bound<'_, StreamTransport>, protocol: &Obj) -> RawResult<()> {
    let transport = this.get();
    let data = match receive(py, transport) {
        Ok(Ok(data)) => data,
        Ok(Err(error)) => return read_failed(this, &error),
        Err(raised) => return failed(this, raised, READ_FAILED),
    };
    if data.as_ref().is_empty() {
        return end_of_stream(this, protocol);
    }
    let called = transport.in_context(py, || call::method(py, protocol, &DATA_RECEIVED, &[data.as_obj()]));
    match called {
        Ok(_) => write::leave_while_hot(this),
        Err(raised) => failed(this, raised, "Fatal error: protocol.data_received() call failed."),
    }
}

#[inline]
fn receive(py: Python<'_>, transport: &StreamTransport) -> RawResult<io::Result<Bytes>> {
    let driver = &transport.runtime.driver;
    if transport.large_reads.get() {
        let received = match bytes::receive(py, driver, transport.fd, LARGE_READ_BYTES)? {
            Ok(received) => received,
            Err(error) => return Ok(Err(error)),
        };
        transport.large_reads.set(received.as_ref().len() > SCRATCH_BYTES / 2);
        return Ok(Ok(received));
    }
    transport.runtime.scratch.with(py, |scratch| match driver.recv(transport.fd, &mut scratch[..SCRATCH_BYTES]) {
        Ok(count) => {
            transport.large_reads.set(count == SCRATCH_BYTES);
            Bytes::copy(py, &scratch[..count]).map(Ok)
        }
        Err(error) => Ok(Err(error)),
    })
}

/// `BufferedProtocol`: straight into its own buffer. What did not fit is received at once, up to a limit: it is longer
/// in the cache than until the next turn, and whoever waits for the answer is woken once.
fn read_buffers(this: &Bound<'_, StreamTransport>, mut protocol: Obj) -> RawResult<()> {
    let transport = this.get();
    for _ in 0..BUFFERS_PER_EVENT_MAX {
        if !read_into(this, &protocol)? || !transport.wants_to_read() || transport.conn_lost.get() > 0 {
            break;
        }
        protocol = match (transport.receiver.get(), transport.protocol.get()) {
            (Receiver::Buffered, Some(protocol)) => protocol,
            (Receiver::Protocol | Receiver::Native(_) | Receiver::Buffered, _) => break,
        };
    }
    Ok(())
}

/// Whether the buffer was filled, so that more may be there.
fn read_into(this: &Bound<'_, StreamTransport>, protocol: &Obj) -> RawResult<bool> {
    const GET_BUFFER_FAILED: &str = "Fatal error: protocol.get_buffer() call failed.";
    let py = this.py();
    let transport = this.get();
    let hint = Obj::from_bound(pyo3::types::PyInt::new(py, -1));
    let buffer = transport.in_context(py, || {
        let buffer = call::method(py, protocol, &GET_BUFFER, &[&hint])?;
        if to_raw(py, buffer.borrow(py).len())? == 0 {
            let text = "get_buffer() returned an empty buffer";
            return Err(Raised::from_err(py, PyRuntimeError::new_err(text)));
        }
        Ok(buffer)
    });
    let buffer = match buffer {
        Ok(buffer) => buffer,
        Err(raised) => return failed(this, raised, GET_BUFFER_FAILED).map(|()| false),
    };
    // The protocol may have closed the connection in `get_buffer`.
    if transport.conn_lost.get() > 0 {
        return Ok(false);
    }
    let received = bytes::with_writable_buffer(py, &buffer, |memory| {
        transport.runtime.driver.recv(transport.fd, memory).map(|count| (count, memory.len()))
    });
    let (count, capacity) = match received {
        Ok(Ok(received)) => received,
        Ok(Err(error)) => return read_failed(this, &error).map(|()| false),
        Err(raised) => {
            drop(raised.fetch(py));
            let text = format!(
                "recv_into() argument 1 must be read-write bytes-like object, not {}",
                to_raw(py, buffer.borrow(py).get_type().name())?
            );
            return stream::fatal_error(this, PyTypeError::new_err(text), READ_FAILED).map(|()| false);
        }
    };
    drop(buffer);
    if count == 0 {
        return end_of_stream(this, protocol).map(|()| false);
    }
    let is_filled = count == capacity;
    let count = Obj::from_bound(pyo3::types::PyInt::new(py, count));
    match transport.in_context(py, || call::method(py, protocol, &BUFFER_UPDATED, &[&count])) {
        Ok(_) => write::leave_while_hot(this).map(|()| is_filled),
        Err(raised) => failed(this, raised, "Fatal error: protocol.buffer_updated() call failed.").map(|()| false),
    }
}

/// A receiver of ours: a slice of the receive buffer, which is out of its place meanwhile because anything may run.
fn read_native(this: &Bound<'_, StreamTransport>, protocol: &Obj, native: &Native) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    let runtime = &transport.runtime;
    let mut scratch = runtime.scratch.with(py, std::mem::take);
    if scratch.is_empty() {
        // Somebody runs the loop from inside a callback of the receiver.
        scratch = vec![0; NATIVE_SCRATCH_BYTES].into_boxed_slice();
    }
    let outcome = match runtime.driver.recv(transport.fd, &mut scratch) {
        Ok(0) => end_of_stream(this, protocol),
        Ok(count) => {
            (native.data_received)(py, protocol, &scratch[..count], Context(Some(transport))).or_else(|raised| {
                failed(this, raised, &format!("Fatal error: protocol.{}() call failed.", native.callback))
            })
        }
        Err(error) => read_failed(this, &error),
    };
    drop(runtime.scratch.with(py, |place| std::mem::replace(place, scratch)));
    outcome
}

fn end_of_stream(this: &Bound<'_, StreamTransport>, protocol: &Obj) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    if transport.runtime.scheduler.debug.get() {
        to_raw(py, log::logger(py).and_then(|logger| logger.call_method1("debug", ("%r received EOF", this))))?;
    }
    let keeps_open = transport.in_context(py, || {
        let answer = call::method(py, protocol, &EOF_RECEIVED, &[])?;
        to_raw(py, answer.borrow(py).is_truthy())
    });
    match keeps_open {
        Ok(true) => {
            // More than this cannot come; the protocol may go on writing.
            transport.eof_received.set(true);
            stream::update_interest(this)
        }
        Ok(false) => super::close(this),
        Err(raised) => failed(this, raised, "Fatal error: protocol.eof_received() call failed."),
    }
}

#[cold]
fn read_failed(this: &Bound<'_, StreamTransport>, error: &io::Error) -> RawResult<()> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
        _ => stream::fatal_error(this, errors::os_error(this.py(), error), READ_FAILED),
    }
}

#[cold]
fn failed(this: &Bound<'_, StreamTransport>, raised: Raised, message: &str) -> RawResult<()> {
    let err = raised.fetch(this.py());
    stream::fatal_error(this, err, message)
}
