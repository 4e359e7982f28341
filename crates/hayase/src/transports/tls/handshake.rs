//! The beginning and the end of TLS on a connection: handshake, close_notify, their timeouts.

use pyo3::exceptions::PyConnectionAbortedError;
use pyo3::prelude::*;

use super::engine::Progress;
use super::protocol::{self, State, TRANSPORT_FAILED, TlsProtocol, Told};
use super::{below, failure, incoming, outgoing};
use crate::interop::{errors, imports, log};
use crate::raw::call::{self, Name};
use crate::raw::cell::ObjCell;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_raw};

static CALL_LATER: Name = Name::new(c"call_later");
static CHECK_HANDSHAKE_TIMEOUT: Name = Name::new(c"_check_handshake_timeout");
static CHECK_SHUTDOWN_TIMEOUT: Name = Name::new(c"_check_shutdown_timeout");
static CONNECTION_MADE: Name = Name::new(c"connection_made");
static EOF_RECEIVED: Name = Name::new(c"eof_received");
static CLOSE: Name = Name::new(c"close");

// Handshake

pub(super) fn start(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    if layer.runtime.scheduler.debug.get() {
        to_raw(py, log::logger(py).and_then(|logger| logger.call_method1("debug", ("%r starts SSL handshake", this))))?;
    }
    layer.began_seconds.set(layer.runtime.driver.now().as_secs_f64());
    layer.state.set(State::Handshaking);
    start_timer(this, &layer.handshake_timeout, &CHECK_HANDSHAKE_TIMEOUT)?;
    proceed(this)
}

fn start_timer(this: &Bound<'_, TlsProtocol>, seconds: &ObjCell, check: &'static Name) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    let callback = call::getattr(py, &Obj::from_any(this.as_any()), check)?;
    let seconds = seconds.get().unwrap_or_else(|| Obj::none(py));
    let timer = call::method(py, layer.runtime.object(), &CALL_LATER, &[&seconds, &callback])?;
    layer.timer.set(Some(timer));
    Ok(())
}

pub(super) fn timed_out(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    if layer.state.get() != State::Handshaking {
        return Ok(());
    }
    let seconds = layer.handshake_timeout.get().unwrap_or_else(|| Obj::none(py));
    let seconds = to_raw(py, seconds.borrow(py).str())?;
    let text = format!("SSL handshake is taking longer than {seconds} seconds: aborting the connection");
    failure::fatal_error(this, &PyConnectionAbortedError::new_err(text), TRANSPORT_FAILED)
}

pub(super) fn proceed(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    let py = this.py();
    match this.get().engine.handshake(py) {
        Ok(Progress::WantMore) => outgoing::send_ciphertext(this),
        Ok(Progress::Done) => complete(this, Ok(())),
        Err(raised) => {
            let err = raised.fetch(py);
            if err.is_instance(py, to_raw(py, imports::ssl_error(py))?) {
                return complete(this, Err(err));
            }
            Err(Raised::from_err(py, err))
        }
    }
}

pub(super) fn complete(this: &Bound<'_, TlsProtocol>, outcome: Result<(), PyErr>) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    layer.cancel_timer(py)?;
    let outcome = match outcome {
        // A callback of the program has ended the connection meanwhile.
        Ok(()) if layer.state.get() != State::Handshaking => {
            Err(PyConnectionAbortedError::new_err("the connection was aborted in its handshake"))
        }
        outcome => outcome,
    };
    if let Err(err) = outcome {
        layer.state.set(State::Unwrapped);
        let of_certificate = err.is_instance(py, to_raw(py, imports::certificate_error(py))?);
        let message =
            if of_certificate { "SSL handshake failed on verifying the certificate" } else { "SSL handshake failed" };
        failure::fatal_error(this, &err, message)?;
        return failure::wake_waiter(this, Some(err.value(py).as_any()));
    }
    layer.state.set(State::Wrapped);
    layer.handshake_done.set(true);
    if layer.runtime.scheduler.debug.get() {
        let took_ms = (layer.runtime.driver.now().as_secs_f64() - layer.began_seconds.get()) * 1e3;
        let text = "%r: SSL handshake took %.1f ms";
        to_raw(py, log::logger(py).and_then(|logger| logger.call_method1("debug", (text, this, took_ms))))?;
    }
    if layer.told.get() == Told::Nothing
        && let (Some(protocol), Some(transport)) = (layer.app_protocol.get(), layer.app_transport.get())
    {
        layer.told.set(Told::Made);
        call::method(py, &protocol, &CONNECTION_MADE, &[&transport])?;
    }
    failure::wake_waiter(this, None)?;
    incoming::read(this)
}

// Shutdown

/// The program closes its transport.
pub(super) fn start_shutdown(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    match layer.state.get() {
        State::Flushing | State::Shutdown | State::Unwrapped => return Ok(()),
        State::Handshaking => {
            layer.mark_closed(py);
            return abort(this, None);
        }
        State::Wrapped => layer.mark_closed(py),
    }
    layer.state.set(State::Flushing);
    start_timer(this, &layer.shutdown_timeout, &CHECK_SHUTDOWN_TIMEOUT)?;
    flush(this)
}

pub(super) fn shutdown_timed_out(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    match this.get().state.get() {
        State::Flushing | State::Shutdown => {
            let late = pyo3::exceptions::PyTimeoutError::new_err("SSL shutdown timed out");
            below::force_close(this, Some(&late))
        }
        State::Unwrapped | State::Handshaking | State::Wrapped => Ok(()),
    }
}

/// Reads and writes what is left, then says close_notify.
pub(super) fn flush(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    incoming::read(this)?;
    let layer = this.get();
    if layer.state.get() != State::Flushing {
        return Ok(());
    }
    layer.state.set(State::Shutdown);
    shut_down(this)
}

pub(super) fn shut_down(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    let progress = if layer.eof_received.get() { Ok(Progress::Done) } else { layer.engine.unwrap(py) };
    match progress {
        Ok(Progress::WantMore) => outgoing::send_ciphertext(this),
        Ok(Progress::Done) => {
            outgoing::send_ciphertext(this)?;
            call_eof_received(this)?;
            shutdown_complete(this, None)
        }
        Err(raised) => {
            let err = raised.fetch(py);
            if err.is_instance(py, to_raw(py, imports::ssl_error(py))?) {
                return shutdown_complete(this, Some(err));
            }
            Err(Raised::from_err(py, err))
        }
    }
}

fn shutdown_complete(this: &Bound<'_, TlsProtocol>, error: Option<PyErr>) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    layer.cancel_timer(py)?;
    if let Some(err) = error {
        return failure::fatal_error(this, &err, TRANSPORT_FAILED);
    }
    match layer.below.get() {
        Some(below) => {
            let close = call::getattr(py, &below, &CLOSE)?;
            protocol::call_soon(this, &close, &[])
        }
        None => Ok(()),
    }
}

pub(super) fn abort(this: &Bound<'_, TlsProtocol>, error: Option<&PyErr>) -> RawResult<()> {
    this.get().state.set(State::Unwrapped);
    below::force_close(this, error)
}

/// Tells the program's protocol, once, that nothing more comes.
pub(super) fn call_eof_received(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    if layer.told.get() != Told::Made {
        return Ok(());
    }
    let Some(protocol) = layer.app_protocol.get() else {
        return Ok(());
    };
    layer.told.set(Told::Eof);
    let answered = call::method(py, &protocol, &EOF_RECEIVED, &[])
        .and_then(|answer| call::is_true(py, &answer))
        .and_then(|keep_open| {
            if keep_open {
                let text = "returning true from eof_received() has no effect when using ssl";
                to_raw(py, log::logger(py).and_then(|logger| logger.call_method1("warning", (text,))))?;
            }
            Ok(())
        });
    match answered {
        Ok(()) => Ok(()),
        Err(raised) => {
            let err = raised.fetch(py);
            if errors::leaves_the_loop(py, &err) {
                return Err(Raised::from_err(py, err));
            }
            failure::fatal_error(this, &err, "Error calling eof_received()")
        }
    }
}
