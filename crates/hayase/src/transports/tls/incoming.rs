//! From ciphertext to the program's protocol.
//!
//! All records that are there are decrypted, then the protocol is called once. A buffered protocol gets them in its own
//! buffer. While the program's reading is paused, ciphertext waits; above the high-water mark the transport below pauses.

use pyo3::prelude::*;

use super::engine::Received;
use super::protocol::{self, PROTOCOL_FAILED, State, TlsProtocol};
use super::{below, failure, handshake, outgoing};
use crate::raw::bytes::Bytes;
use crate::raw::call::{self, Name};
use crate::raw::cell::GilCell;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_py, to_raw};
use crate::transports::receiver::{Context, Native, Receiver};

static DATA_RECEIVED: Name = Name::new(c"data_received");
static GET_BUFFER: Name = Name::new(c"get_buffer");
static BUFFER_UPDATED: Name = Name::new(c"buffer_updated");
static PAUSE_READING: Name = Name::new(c"pause_reading");
static RESUME_READING: Name = Name::new(c"resume_reading");
static DO_READ: Name = Name::new(c"_do_read");
static RESUME: Name = Name::new(c"_resume");

/// A buffer for plaintext that grew larger than this is not kept.
const KEPT_BYTES_MAX: usize = 512 * 1024;

/// From this much ciphertext on, it is decrypted into the `bytes` that the protocol gets: one copy less.
const LARGE_READ_BYTES: usize = 32 * 1024;

/// Plaintext on its way to a `bytes`; out of its place while the engine works, which lets others run.
static PLAINTEXT: GilCell<Vec<u8>> = GilCell::new(Vec::new());

/// Decrypts what is there and hands it to the protocol; then sends what became due meanwhile.
pub(super) fn read(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    if !matches!(this.get().state.get(), State::Wrapped | State::Flushing) {
        return Ok(());
    }
    read_lent(this, &[])
}

/// As [`read`] in state `Wrapped` or `Flushing`, with more ciphertext that is read where it lies.
pub(super) fn read_lent(this: &Bound<'_, TlsProtocol>, ciphertext: &[u8]) -> RawResult<()> {
    match read_and_answer(this, ciphertext) {
        Ok(()) => Ok(()),
        Err(raised) => failure::fatal_if_exception(this, raised, PROTOCOL_FAILED),
    }
}

fn read_and_answer(this: &Bound<'_, TlsProtocol>, ciphertext: &[u8]) -> RawResult<()> {
    let layer = this.get();
    if layer.reading_paused.get() {
        layer.engine.feed(this.py(), ciphertext)?;
    } else {
        match layer.app_receiver.get() {
            Receiver::Protocol => read_bytes(this, ciphertext, None)?,
            Receiver::Native(native) => read_bytes(this, ciphertext, Some(native))?,
            Receiver::Buffered => {
                layer.engine.feed(this.py(), ciphertext)?;
                read_into_protocol(this)?;
            }
        }
        outgoing::write_backlog(this)?;
    }
    control_reading_below(this)
}

fn read_bytes(this: &Bound<'_, TlsProtocol>, ciphertext: &[u8], native: Option<&Native>) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    let mut plaintext = PLAINTEXT.with(py, std::mem::take);
    plaintext.clear();
    let (large, end) = layer.engine.lend(py, ciphertext, || {
        if native.is_none()
            && ciphertext.len() >= LARGE_READ_BYTES
            && let Some((large, end)) = layer.engine.read_bytes(py)?
        {
            return Ok((large, end));
        }
        loop {
            match layer.engine.read(py, &mut plaintext) {
                Ok(Received::Plaintext(_)) => {}
                // An error is put by: the protocol is called first.
                other => break Ok((None, to_py(py, other))),
            }
        }
    })??;
    // What came whole before an error is the program's.
    let received = match (layer.app_protocol.get(), native, large) {
        (Some(protocol), _, Some(data)) => call::method(py, &protocol, &DATA_RECEIVED, &[data.as_obj()]).map(drop),
        (Some(_), _, None) if plaintext.is_empty() => Ok(()),
        (Some(protocol), Some(native), None) => (native.data_received)(py, &protocol, &plaintext, Context(None)),
        (Some(protocol), None, None) => Bytes::copy(py, &plaintext)
            .and_then(|data| call::method(py, &protocol, &DATA_RECEIVED, &[data.as_obj()]))
            .map(drop),
        (None, ..) => Ok(()),
    };
    if plaintext.capacity() <= KEPT_BYTES_MAX {
        drop(PLAINTEXT.with(py, |place| std::mem::replace(place, plaintext)));
    }
    received?;
    if to_raw(py, end)? == Received::CloseNotify {
        handshake::call_eof_received(this)?;
        handshake::start_shutdown(this)?;
    }
    Ok(())
}

fn read_into_protocol(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    let Some(protocol) = layer.app_protocol.get() else {
        return Ok(());
    };
    let hint = layer.engine.incoming_bytes(py)?;
    let hint = Obj::from_bound(pyo3::types::PyInt::new(py, hint));
    let buffer = call::method(py, &protocol, &GET_BUFFER, &[&hint])?;
    let size = to_raw(py, buffer.borrow(py).len())?;
    let mut filled = 0;
    let end = loop {
        match layer.engine.read_into(py, &buffer, filled, size - filled) {
            Ok(Received::Plaintext(count)) => filled += count,
            other => break to_py(py, other),
        }
        if filled >= size {
            let again = call::getattr(py, &Obj::from_any(this.as_any()), &DO_READ)?;
            protocol::call_soon(this, &again, &[])?;
            break Ok(Received::WantMore);
        }
    };
    drop(buffer);
    if filled > 0 {
        let count = Obj::from_bound(pyo3::types::PyInt::new(py, filled));
        call::method(py, &protocol, &BUFFER_UPDATED, &[&count])?;
    }
    if to_raw(py, end)? == Received::CloseNotify {
        handshake::call_eof_received(this)?;
        handshake::start_shutdown(this)?;
    }
    Ok(())
}

/// Keeps the ciphertext that waits bounded while the program does not read.
pub(super) fn control_reading_below(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    let layer = this.get();
    let drained = !layer.reading_paused.get() && !matches!(layer.app_receiver.get(), Receiver::Buffered);
    if drained && !layer.reading_paused_below.get() {
        // Everything was read just now, but for a part of a record.
        return Ok(());
    }
    let waiting = layer.engine.incoming_bytes(this.py())?;
    let (low, high) = layer.read_marks.get();
    if waiting >= high && !layer.reading_paused_below.get() {
        layer.reading_paused_below.set(true);
        below::tell_below(this, &PAUSE_READING)
    } else if waiting <= low && layer.reading_paused_below.get() {
        layer.reading_paused_below.set(false);
        below::tell_below(this, &RESUME_READING)
    } else {
        Ok(())
    }
}

/// The program reads again: what waits is read soon.
pub(super) fn resume_soon(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    if !this.get().reading_paused.replace(false) {
        return Ok(());
    }
    let callback = call::getattr(this.py(), &Obj::from_any(this.as_any()), &RESUME)?;
    protocol::call_soon(this, &callback, &[])
}

pub(super) fn resume(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    match this.get().state.get() {
        State::Wrapped => read(this),
        State::Flushing => handshake::flush(this),
        State::Shutdown => handshake::shut_down(this),
        State::Unwrapped | State::Handshaking => Ok(()),
    }
}
