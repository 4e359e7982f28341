//! The reading end of a pipe: `connect_read_pipe`.
//!
//! One `read` per readiness event, as for sockets: through the loop's scratch buffer into an exact `bytes`, or straight
//! into a large object while large data comes in.

use std::io;

use driver::Interest;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::{End, Parts};
use crate::interop::{errors, imports};
use crate::raw::bytes::{self, Bytes};
use crate::raw::call::Name;
use crate::raw::cell::GilValue;
use crate::raw::collector;
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_py, to_raw};
use crate::runtime::slots::SlotKind;
use crate::runtime::{RuntimeRef, SCRATCH_BYTES};
use crate::tasks::ready::Ready;
use crate::transports::{CONNECTION_LOST, CONNECTION_MADE, EOF_RECEIVED};

static DATA_RECEIVED_NAME: Name = Name::new(c"data_received");
static EOF_RECEIVED_NAME: Name = Name::new(c"eof_received");

/// asyncio's size of one read.
const LARGE_READ_BYTES: usize = 256 * 1024;

const EIO: i32 = 5;

/// An asyncio.ReadTransport over a pipe, a socket or a character device.
#[pyclass(module = "hayase._core", frozen, weakref, dict)]
pub(crate) struct ReadPipeTransport {
    pub(super) end: End,
    paused: GilValue<bool>,
    /// Large data comes in: read straight into the final object.
    large_reads: GilValue<bool>,
}

/// Makes a transport and schedules `connection_made`.
pub(crate) fn make<'py>(
    py: Python<'py>,
    runtime: &RuntimeRef,
    parts: Parts<'_, 'py>,
) -> PyResult<Bound<'py, ReadPipeTransport>> {
    let refusal = "Pipe transport is for pipes/sockets only.";
    let (end, _) = End::new(py, runtime, parts, SlotKind::ReadPipe, refusal)?;
    let transport = collector::instance_with_dict(
        py,
        ReadPipeTransport { end, paused: GilValue::new(false), large_reads: GilValue::new(false) },
    )?;
    transport.get().end.begin(transport.as_any());
    Ok(transport)
}

// What the event loop calls

pub(crate) fn on_ready(py: Python<'_>, object: &Obj, readable: bool) -> RawResult<()> {
    let object = object.borrow(py);
    let this = object.cast_exact::<ReadPipeTransport>().expect("slots of this kind hold reading pipes");
    if readable && this.get().is_reading() { read_ready(&this) } else { Ok(()) }
}

pub(super) fn on_native(this: &Bound<'_, ReadPipeTransport>, work: u32) -> RawResult<()> {
    let end = &this.get().end;
    match work {
        CONNECTION_MADE => end.connection_made(this.as_any(), || this.get().interest()),
        EOF_RECEIVED => end.call_protocol(this.as_any(), &EOF_RECEIVED_NAME, &[]),
        CONNECTION_LOST => end.connection_lost(this.as_any()),
        other => unreachable!("no reading pipe asks for work {other}"),
    }
}

#[inline]
fn read_ready(this: &Bound<'_, ReadPipeTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    let data = match transport.receive(py)? {
        Ok(data) => data,
        Err(error) => return read_failed(this, &error),
    };
    if data.as_ref().is_empty() {
        return end_of_stream(this);
    }
    transport.end.call_protocol(this.as_any(), &DATA_RECEIVED_NAME, &[data.as_obj()])
}

fn end_of_stream(this: &Bound<'_, ReadPipeTransport>) -> RawResult<()> {
    let py = this.py();
    let end = &this.get().end;
    to_raw(py, end.reporter(this.as_any()).log_debug("info", "%r was closed by peer"))?;
    end.runtime.scheduler.push(py, Ready::Native { object: Obj::from_any(this.as_any()), work: EOF_RECEIVED });
    end.schedule_connection_lost(this.as_any(), None)
}

#[cold]
fn read_failed(this: &Bound<'_, ReadPipeTransport>, error: &io::Error) -> RawResult<()> {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
        return Ok(());
    }
    let end = &this.get().end;
    let err = errors::os_error(this.py(), error);
    // A terminal whose other side is gone says EIO; that is its end of file.
    let is_usual = error.raw_os_error() == Some(EIO);
    let told = end.reporter(this.as_any()).fatal(&err, "Fatal read error on pipe transport", is_usual);
    told.and(end.schedule_connection_lost(this.as_any(), Some(err)))
}

impl ReadPipeTransport {
    #[inline]
    fn receive(&self, py: Python<'_>) -> RawResult<io::Result<Bytes>> {
        let driver = &self.end.runtime.driver;
        if self.large_reads.get() {
            let received = match bytes::read(py, driver, self.end.fd, LARGE_READ_BYTES)? {
                Ok(received) => received,
                Err(error) => return Ok(Err(error)),
            };
            self.large_reads.set(received.as_ref().len() > SCRATCH_BYTES / 2);
            return Ok(Ok(received));
        }
        self.end.runtime.scratch.with(py, |scratch| match driver.read(self.end.fd, &mut scratch[..SCRATCH_BYTES]) {
            Ok(count) => {
                self.large_reads.set(count == SCRATCH_BYTES);
                Bytes::copy(py, &scratch[..count]).map(Ok)
            }
            Err(error) => Ok(Err(error)),
        })
    }

    fn interest(&self) -> Interest {
        if self.is_reading() { Interest::READABLE } else { Interest::NONE }
    }

    /// Before `connection_made` nothing is watched; pausing and resuming count already.
    fn update(slf: &Bound<'_, Self>) -> PyResult<()> {
        let transport = slf.get();
        if !transport.end.started.get() {
            return Ok(());
        }
        transport.end.watch(slf.as_any(), transport.interest())
    }

    fn describe(&self) -> String {
        let mut text = self.end.describe("ReadPipeTransport", self.end.is_watched());
        text.push('>');
        text
    }
}

// What Python sees

#[pymethods]
impl ReadPipeTransport {
    /// isinstance(transport, asyncio.ReadTransport)
    #[getter(__class__)]
    fn class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Ok(imports::read_transport_class(slf.py())?.clone())
    }

    /// Stop reading; data that arrives waits in the pipe.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let transport = slf.get();
        if !transport.is_reading() {
            return Ok(());
        }
        transport.paused.set(true);
        Self::update(slf)?;
        transport.end.reporter(slf.as_any()).log_debug("debug", "%r pauses reading")
    }

    /// Read again after pause_reading().
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let transport = slf.get();
        if transport.end.closing.get() || !transport.paused.get() {
            return Ok(());
        }
        transport.paused.set(false);
        Self::update(slf)?;
        transport.end.reporter(slf.as_any()).log_debug("debug", "%r resumes reading")
    }

    /// Whether the transport receives.
    fn is_reading(&self) -> bool {
        !self.paused.get() && !self.end.closing.get()
    }

    /// Whether the transport is closing or closed.
    fn is_closing(&self) -> bool {
        self.end.closing.get()
    }

    /// Give the pipe to another protocol.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) {
        self.end.protocol.set(Some(Obj::from_any(protocol)));
    }

    /// The current protocol.
    fn get_protocol(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.end.protocol.get())
    }

    /// Stop reading and close the pipe; connection_lost(None) is called in the end.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let end = &slf.get().end;
        if end.closing.get() {
            return Ok(());
        }
        to_py(slf.py(), end.schedule_connection_lost(slf.as_any(), None))
    }

    /// 'pipe': the file object.
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        self.end.get_extra_info(py, name, default)
    }

    fn __repr__(&self) -> String {
        self.describe()
    }

    // Private names that programs read

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.end.event_loop(py)
    }

    #[getter]
    fn _protocol(&self, py: Python<'_>) -> Py<PyAny> {
        self.get_protocol(py)
    }

    #[getter]
    fn _pipe(&self, py: Python<'_>) -> Py<PyAny> {
        self.end.file(py)
    }

    #[setter(_pipe)]
    fn set_pipe(&self, file: &Bound<'_, PyAny>) {
        self.end.set_file(file);
    }

    #[getter]
    fn _fileno(&self) -> i32 {
        self.end.fd
    }

    #[getter]
    fn _extra(&self, py: Python<'_>) -> Py<PyAny> {
        self.end.extra(py)
    }

    #[getter]
    fn _closing(&self) -> bool {
        self.is_closing()
    }

    #[getter]
    fn _paused(&self) -> bool {
        self.paused.get()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| self.end.visit(visitor))
    }

    fn __clear__(&self) {
        self.end.clear();
    }
}

impl collector::Finalized for ReadPipeTransport {
    fn finalize(&self, py: Python<'_>) {
        self.end.finalize(py, || self.describe());
    }
}

impl Drop for ReadPipeTransport {
    fn drop(&mut self) {
        Python::try_attach(|py| collector::Finalized::finalize(self, py));
    }
}
