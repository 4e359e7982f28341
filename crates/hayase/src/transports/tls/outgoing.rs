//! From what the program writes to ciphertext.
//!
//! What is written is encrypted at once when the handshake is done, else it waits in the backlog. Ciphertext goes to the
//! transport below unless that one is paused; the program is paused by what waits in the backlog and here.

use driver::FlowChange;
use pyo3::prelude::*;

use super::protocol::{PROTOCOL_FAILED, State, TlsProtocol};
use super::{below, failure};
use crate::interop::errors;
use crate::raw::bytes::Bytes;
use crate::raw::call;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_raw};
use crate::transports::reports;

/// Whether writing is over; then it is counted, and from some number on told.
pub(super) fn is_lost(this: &Bound<'_, TlsProtocol>) -> RawResult<bool> {
    let py = this.py();
    let layer = this.get();
    match layer.state.get() {
        State::Flushing | State::Shutdown | State::Unwrapped => {}
        State::Handshaking | State::Wrapped => return Ok(false),
    }
    reports::write_after_loss(py, &layer.conn_lost, "SSL connection is closed").map(|()| true)
}

/// One `write()`: encrypted from where it lies if it can be, else kept.
pub(super) fn write(this: &Bound<'_, TlsProtocol>, data: &Obj) -> RawResult<()> {
    if is_lost(this)? {
        return Ok(());
    }
    match write_one(this, data) {
        Ok(()) => Ok(()),
        Err(raised) => failure::fatal_if_exception(this, raised, PROTOCOL_FAILED),
    }
}

fn write_one(this: &Bound<'_, TlsProtocol>, data: &Obj) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    if layer.state.get() != State::Wrapped || layer.backlog_bytes.get() > 0 {
        keep(this, data, 0)?;
        return if layer.state.get() == State::Wrapped { write_backlog(this) } else { Ok(()) };
    }
    let taken = layer.engine.write(py, data)?.unwrap_or(0);
    if taken < to_raw(py, size_of(py, data))? {
        keep(this, data, taken)?;
        return write_backlog(this);
    }
    send_ciphertext(this)
}

fn size_of(py: Python<'_>, data: &Obj) -> PyResult<usize> {
    let data = data.borrow(py);
    if let Ok(bytes) = data.cast::<pyo3::types::PyBytes>() {
        return Ok(bytes.as_bytes().len());
    }
    match data.cast::<pyo3::types::PyMemoryView>() {
        Ok(view) => view.getattr("nbytes")?.extract(),
        Err(_) => data.len(),
    }
}

/// Adds data to the backlog, without its first `from` bytes; copied if it is mutable.
pub(super) fn keep(this: &Bound<'_, TlsProtocol>, data: &Obj, from: usize) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    let chunk = match Bytes::from_obj(data.clone()) {
        Ok(bytes) => bytes,
        Err(data) => Bytes::from_buffer(py, &data)?,
    };
    let chunk = if from == 0 { chunk } else { Bytes::copy(py, &chunk.as_ref()[from..])? };
    let size = chunk.as_ref().len();
    if size > 0 {
        layer.backlog.append(py, chunk)?;
        layer.backlog_bytes.set(layer.backlog_bytes.get() + size);
    }
    Ok(())
}

/// Several pieces of data, as one `writelines()` gives them.
pub(super) fn write_all(this: &Bound<'_, TlsProtocol>, pieces: Vec<Obj>) -> RawResult<()> {
    if is_lost(this)? {
        return Ok(());
    }
    let written = (|| {
        for data in &pieces {
            keep(this, data, 0)?;
        }
        if this.get().state.get() == State::Wrapped { write_backlog(this) } else { Ok(()) }
    })();
    match written {
        Ok(()) => Ok(()),
        Err(raised) => failure::fatal_if_exception(this, raised, PROTOCOL_FAILED),
    }
}

/// Offers the backlog to the engine, then sends what became ciphertext.
pub(super) fn write_backlog(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    while let Some(chunk) = layer.backlog.with(py, |backlog| backlog.pop_front()) {
        let size = chunk.as_ref().len();
        let taken = match layer.engine.write(py, chunk.as_obj()) {
            Ok(taken) => taken,
            Err(raised) => {
                layer.backlog.with(py, |backlog| backlog.push_front(chunk));
                return Err(raised);
            }
        };
        let count = taken.unwrap_or(0);
        layer.backlog_bytes.set(layer.backlog_bytes.get().saturating_sub(count));
        if count < size {
            let rest = if count == 0 { chunk } else { Bytes::copy(py, &chunk.as_ref()[count..])? };
            layer.backlog.with(py, |backlog| backlog.push_front(rest));
        }
        if taken.is_none() {
            break;
        }
    }
    send_ciphertext(this)
}

/// Hands down what is encrypted, unless the transport below is paused; then looks whether the program must pause.
pub(super) fn send_ciphertext(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    let layer = this.get();
    if !layer.writing_paused_below.get() {
        below::send(this)?;
    }
    control_writing(this)
}

pub(super) fn buffer_size(this: &Bound<'_, TlsProtocol>) -> RawResult<usize> {
    let layer = this.get();
    // Unless that one is paused, the transport below has the ciphertext, or asks for it when this entry ends.
    let here = if layer.writing_paused_below.get() { layer.engine.outgoing_bytes(this.py())? } else { 0 };
    Ok(here + layer.backlog_bytes.get())
}

/// Pauses or resumes the program's protocol. An exception there is reported, and the connection goes on.
pub(super) fn control_writing(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    let size = buffer_size(this)?;
    let (low, high) = layer.write_marks.get();
    let change = if size >= high && !layer.writing_paused.get() {
        FlowChange::Pause
    } else if size <= low && layer.writing_paused.get() {
        FlowChange::Resume
    } else {
        return Ok(());
    };
    layer.writing_paused.set(change == FlowChange::Pause);
    let (name, failure) = reports::flow_callback(change);
    let Some(protocol) = layer.app_protocol.get() else {
        return Ok(());
    };
    let Err(raised) = call::method(py, &protocol, name, &[]) else {
        return Ok(());
    };
    let err = raised.fetch(py);
    if errors::leaves_the_loop(py, &err) {
        return Err(Raised::from_err(py, err));
    }
    let keys = [("transport", layer.app_transport.get()), ("protocol", Some(Obj::from_any(this.as_any())))];
    to_raw(py, failure::report(this, &err, failure, &keys))
}
