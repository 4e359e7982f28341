//! What a transport says beside its protocol: to the loop's exception handler, to the log, in warnings and in its repr.
//!
//! Each kind of transport decides what is fatal to it. How that is told is the same for all: asyncio's words and keys.
//!
//! Must stay true
//! - `KeyboardInterrupt` and `SystemExit` are never told: they are raised again.

use std::os::fd::RawFd;

use driver::FlowChange;
use pyo3::exceptions::PyResourceWarning;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::interop::{errors, log};
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_raw};
use crate::runtime::RuntimeRef;

static CALL_EXCEPTION_HANDLER: Name = Name::new(c"call_exception_handler");
static PAUSE_WRITING: Name = Name::new(c"pause_writing");
static RESUME_WRITING: Name = Name::new(c"resume_writing");

/// asyncio's `constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES`.
const SILENT_WRITES_AFTER_LOSS: u32 = 5;

/// A transport of any kind, as far as it is told about.
pub(super) struct Reporter<'a, 'py> {
    pub(super) runtime: &'a RuntimeRef,
    pub(super) protocol: &'a ObjCell,
    pub(super) transport: &'a Bound<'py, PyAny>,
}

impl Reporter<'_, '_> {
    /// To the loop's exception handler.
    pub(super) fn report(&self, err: PyErr, message: &str) -> RawResult<()> {
        let py = self.transport.py();
        if errors::leaves_the_loop(py, &err) {
            return Err(Raised::from_err(py, err));
        }
        let told = (|| {
            let report = PyDict::new(py);
            report.set_item("message", message)?;
            report.set_item("exception", err.into_value(py))?;
            report.set_item("transport", self.transport)?;
            report.set_item("protocol", Obj::or_none(py, self.protocol.get()))?;
            call_exception_handler(py, self.runtime.object(), &report)
        })();
        to_raw(py, told)
    }

    /// What a callback of the protocol raised.
    pub(super) fn callback_failed(&self, protocol: &Obj, name: &str, raised: Raised) -> RawResult<()> {
        let py = self.transport.py();
        let err = raised.fetch(py);
        let message = failed_callback(&protocol.borrow(py), name);
        self.report(err, &message)
    }

    /// What ends the transport: errors that are usual in its trade are told in debug mode only, others reported.
    pub(super) fn fatal(&self, err: &PyErr, message: &str, is_usual: bool) -> RawResult<()> {
        let py = self.transport.py();
        if !is_usual {
            return self.report(err.clone_ref(py), message);
        }
        if !self.runtime.scheduler.debug.get() {
            return Ok(());
        }
        let told = (|| {
            let keywords = PyDict::new(py);
            keywords.set_item("exc_info", err.value(py))?;
            log::logger(py)?.call_method("debug", ("%r: %s", self.transport, message), Some(&keywords)).map(drop)
        })();
        to_raw(py, told)
    }

    /// In debug mode; `text` names the transport by "%r".
    pub(super) fn log_debug(&self, level: &str, text: &str) -> PyResult<()> {
        if self.runtime.scheduler.debug.get() {
            log::logger(self.transport.py())?.call_method1(level, (text, self.transport))?;
        }
        Ok(())
    }

    /// `pause_writing()` or `resume_writing()`. An exception there is reported, and the transport goes on.
    pub(super) fn flow_changed(&self, change: FlowChange) -> RawResult<()> {
        let py = self.transport.py();
        let Some(protocol) = self.protocol.get() else {
            return Ok(());
        };
        let (name, failure) = flow_callback(change);
        match call::method(py, &protocol, name, &[]) {
            Ok(_) => Ok(()),
            Err(raised) => self.report(raised.fetch(py), failure),
        }
    }
}

/// What the protocol is told, and what is reported if that fails.
pub(super) fn flow_callback(change: FlowChange) -> (&'static Name, &'static str) {
    match change {
        FlowChange::Pause => (&PAUSE_WRITING, "protocol.pause_writing() failed"),
        FlowChange::Resume => (&RESUME_WRITING, "protocol.resume_writing() failed"),
    }
}

/// What asyncio's handle says of a callback that failed.
pub(super) fn failed_callback(protocol: &Bound<'_, PyAny>, name: &str) -> String {
    match protocol.getattr(name).and_then(|callback| callback.repr()) {
        Ok(callback) => format!("Exception in callback {callback}"),
        Err(_) => format!("Exception in callback {name}"),
    }
}

/// Only what leaves the loop comes back as an error; a handler that fails otherwise is told to `sys.unraisablehook`.
pub(super) fn call_exception_handler(py: Python<'_>, event_loop: &Obj, report: &Bound<'_, PyDict>) -> PyResult<()> {
    let report = Obj::from_any(report.as_any());
    match call::method(py, event_loop, &CALL_EXCEPTION_HANDLER, &[&report]) {
        Ok(_) => Ok(()),
        Err(raised) => {
            let err = raised.fetch(py);
            if errors::leaves_the_loop(py, &err) {
                return Err(err);
            }
            err.write_unraisable(py, Some(&event_loop.borrow(py)));
            Ok(())
        }
    }
}

/// A write to a transport that is gone: it is counted, and from some number on the log is told.
pub(super) fn write_after_loss(py: Python<'_>, count: &GilValue<u32>, text: &str) -> RawResult<()> {
    let before = count.get();
    count.set(before.saturating_add(1));
    if before < SILENT_WRITES_AFTER_LOSS {
        return Ok(());
    }
    to_raw(py, log::logger(py).and_then(|logger| logger.call_method1("warning", (text,))).map(drop))
}

/// For a transport that dies, or whose loop does, while it is open.
pub(super) fn warn_unclosed(py: Python<'_>, description: &str) {
    if let Ok(text) = std::ffi::CString::new(format!("unclosed transport {description}"))
        && let Err(err) = PyErr::warn(py, &py.get_type::<PyResourceWarning>(), &text, 1)
    {
        err.write_unraisable(py, None);
    }
}

/// The warning, then `close`, in a destructor: whoever drops the transport may be handling an exception.
pub(super) fn died_open(py: Python<'_>, description: &str, close: impl FnOnce() -> PyResult<()>) {
    let pending = PyErr::take(py);
    warn_unclosed(py, description);
    if let Err(err) = close() {
        err.write_unraisable(py, None);
    }
    if let Some(err) = pending {
        err.restore(py);
    }
}

/// A transport over a socket as its repr shows it.
pub(super) struct Shown {
    pub(super) class: &'static str,
    pub(super) closed: bool,
    pub(super) closing: bool,
    pub(super) fd: RawFd,
    /// Reading, writing, bytes that wait; `None` when it has no protocol or no loop any more.
    pub(super) busy: Option<(bool, bool, usize)>,
}

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match (self.closed, self.closing) {
            (true, _) => " closed",
            (false, true) => " closing",
            (false, false) => "",
        };
        write!(f, "<{}{state} fd={}", self.class, self.fd)?;
        if let Some((reads, writes, waiting_bytes)) = self.busy {
            let word = |polling: bool| if polling { "polling" } else { "idle" };
            write!(f, " read={} write=<{}, bufsize={waiting_bytes}>", word(reads), word(writes))?;
        }
        f.write_str(">")
    }
}
