//! The writing end of a pipe: `connect_write_pipe`.
//!
//! A write goes to the kernel at once. It is not corked as on sockets: a pipe is shared with other writers more often than not (a
//! program's stdout, its `print`), so what was written first has to be there first; and datagrams on a socket keep their
//! bounds. What the kernel did not take is queued, and what is written after it waits behind it.
//!
//! The writing end of a pipe or socket is also watched for "readable": that is how the kernel says that the reader is gone. On
//! terminals it would mean that somebody typed, so there nothing is watched until something is queued.
//!
//! Must stay true
//! - Bytes leave in the order of the writes, whole, once; mutable data is copied before `write` returns.

use std::io;

use driver::{FlowControl, IO_SLICES_MAX, Interest, PipeKind, WriteQueue};
use pyo3::exceptions::{PyAssertionError, PyBrokenPipeError, PyNotImplementedError, PyOSError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::{End, Parts};
use crate::interop::{errors, imports};
use crate::raw::bytes::{self, Bytes};
use crate::raw::call::Name;
use crate::raw::cell::{GilCell, GilValue};
use crate::raw::collector;
use crate::raw::fastcall;
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_py, to_raw};
use crate::runtime::RuntimeRef;
use crate::runtime::slots::SlotKind;
use crate::transports::{CONNECTION_LOST, CONNECTION_MADE, marks, reports};

const WRITE_FAILED: &str = "Fatal write error on pipe transport";

/// An asyncio.WriteTransport over a pipe, a socket or a character device.
#[pyclass(module = "hayase._core", frozen, weakref, dict)]
pub(crate) struct WritePipeTransport {
    pub(super) end: End,
    /// The kernel says when the reader is gone.
    watches_reader: bool,
    queue: GilCell<WriteQueue<Bytes>>,
    flow: GilCell<FlowControl>,
    /// Counts writes after the end, and the one that ended it.
    conn_lost: GilValue<u32>,
}

/// Makes a transport and schedules `connection_made`.
pub(crate) fn make<'py>(
    py: Python<'py>,
    runtime: &RuntimeRef,
    parts: Parts<'_, 'py>,
) -> PyResult<Bound<'py, WritePipeTransport>> {
    let refusal = "Pipe transport is only for pipes, sockets and character devices";
    let (end, kind) = End::new(py, runtime, parts, SlotKind::WritePipe, refusal)?;
    let transport = WritePipeTransport {
        end,
        watches_reader: kind != PipeKind::CharacterDevice,
        queue: GilCell::new(WriteQueue::new()),
        flow: GilCell::new(FlowControl::new()),
        conn_lost: GilValue::new(0),
    };
    let transport = collector::instance_with_dict(py, transport)?;
    transport.get().end.begin(transport.as_any());
    Ok(transport)
}

// What the event loop calls

pub(crate) fn on_ready(py: Python<'_>, object: &Obj, readable: bool, writable: bool) -> RawResult<()> {
    let object = object.borrow(py);
    let this = object.cast_exact::<WritePipeTransport>().expect("slots of this kind hold writing pipes");
    if readable && this.get().watches_reader && !this.get().end.lost.get() {
        reader_gone(&this)?;
    }
    if writable && !this.get().end.lost.get() && this.get().queued_bytes(py) > 0 {
        write_ready(&this)?;
    }
    Ok(())
}

pub(super) fn on_native(this: &Bound<'_, WritePipeTransport>, work: u32) -> RawResult<()> {
    let end = &this.get().end;
    match work {
        CONNECTION_MADE => end.connection_made(this.as_any(), || this.get().interest(this.py())),
        CONNECTION_LOST => end.connection_lost(this.as_any()),
        other => unreachable!("no writing pipe asks for work {other}"),
    }
}

fn reader_gone(this: &Bound<'_, WritePipeTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    to_raw(py, transport.end.reporter(this.as_any()).log_debug("info", "%r was closed by peer"))?;
    let loses_data = transport.queued_bytes(py) > 0;
    force_close(this, loses_data.then(|| PyBrokenPipeError::new_err(())))
}

fn write_ready(this: &Bound<'_, WritePipeTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    if let Err(error) = transport.send_queued(py) {
        transport.conn_lost.set(transport.conn_lost.get() + 1);
        return fatal_error(this, errors::os_error(py, &error));
    }
    if transport.queued_bytes(py) > 0 {
        return Ok(());
    }
    update(this)?;
    resume_if_below(this)?; // may write more
    if transport.end.closing.get() && !transport.end.lost.get() && transport.queued_bytes(py) == 0 {
        return transport.end.connection_lost(this.as_any());
    }
    Ok(())
}

// What the program calls

#[inline]
fn write(this: &Bound<'_, WritePipeTransport>, data: Obj) -> RawResult<()> {
    let py = this.py();
    match Bytes::from_obj(data) {
        Ok(bytes) => {
            if bytes.as_ref().is_empty() || refuses(this)? {
                return Ok(());
            }
            let taken = match send_first(this, bytes.as_ref()) {
                Ok(taken) => taken,
                Err(error) => return write_failed(this, errors::os_error(py, &error)),
            };
            if taken == bytes.as_ref().len() {
                return Ok(());
            }
            keep(this, bytes, taken)
        }
        Err(data) if bytes::is_mutable_buffer(&data) => write_borrowed(this, &data),
        Err(data) => {
            let text = to_raw(py, data.borrow(py).repr().map(|text| text.unbind()))?;
            Err(Raised::from_err(py, PyAssertionError::new_err(text)))
        }
    }
}

/// Mutable data: what is left over is copied.
fn write_borrowed(this: &Bound<'_, WritePipeTransport>, data: &Obj) -> RawResult<()> {
    let py = this.py();
    if to_raw(py, data.borrow(py).len())? == 0 || refuses(this)? {
        return Ok(());
    }
    let sent = bytes::with_buffer(py, data, |memory| match send_first(this, memory) {
        Ok(taken) if taken == memory.len() => Ok(Ok(None)),
        Ok(taken) => Bytes::copy(py, &memory[taken..]).map(|rest| Ok(Some(rest))),
        Err(error) => Ok(Err(error)),
    });
    match sent {
        Ok(outcome) => match outcome? {
            Ok(None) => Ok(()),
            Ok(Some(rest)) => keep(this, rest, 0),
            Err(error) => write_failed(this, errors::os_error(py, &error)),
        },
        // Not contiguous: the system call would refuse it, and asyncio closes the pipe then.
        Err(raised) => {
            let err = raised.fetch(py);
            write_failed(this, err)
        }
    }
}

/// Offers data to the kernel if nothing waits before it; says how much it took.
#[inline]
fn send_first(this: &Bound<'_, WritePipeTransport>, data: &[u8]) -> io::Result<usize> {
    let transport = this.get();
    if transport.queued_bytes(this.py()) > 0 {
        return Ok(0);
    }
    taken(transport.end.runtime.driver.write(transport.end.fd, data))
}

/// Queues what the kernel did not take.
fn keep(this: &Bound<'_, WritePipeTransport>, data: Bytes, taken: usize) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    let room = transport.queue.with(py, |queue| queue.try_reserve(1));
    room.map_err(|_| Raised::no_memory(py))?;
    let was_empty = transport.queue.with(py, |queue| {
        let was_empty = queue.is_empty();
        queue.push_from(data, taken);
        was_empty
    });
    if was_empty {
        update(this)?;
    }
    pause_if_above(this)
}

/// Whether it is too late to write; such writes are counted, and from some number on told.
fn refuses(this: &Bound<'_, WritePipeTransport>) -> RawResult<bool> {
    let py = this.py();
    let transport = this.get();
    if transport.conn_lost.get() == 0 && !transport.end.closing.get() {
        return Ok(false);
    }
    let text = "pipe closed by peer or os.write(pipe, data) raised exception.";
    reports::write_after_loss(py, &transport.conn_lost, text).map(|()| true)
}

fn close(this: &Bound<'_, WritePipeTransport>) -> RawResult<()> {
    let transport = this.get();
    if transport.end.closing.replace(true) || transport.queued_bytes(this.py()) > 0 {
        return Ok(());
    }
    transport.end.schedule_connection_lost(this.as_any(), None)
}

#[cold]
fn write_failed(this: &Bound<'_, WritePipeTransport>, err: PyErr) -> RawResult<()> {
    let py = this.py();
    if errors::leaves_the_loop(py, &err) {
        return Err(Raised::from_err(py, err));
    }
    this.get().conn_lost.set(this.get().conn_lost.get() + 1);
    fatal_error(this, err)
}

fn fatal_error(this: &Bound<'_, WritePipeTransport>, err: PyErr) -> RawResult<()> {
    let is_usual = err.is_instance_of::<PyOSError>(this.py());
    let told = this.get().end.reporter(this.as_any()).fatal(&err, WRITE_FAILED, is_usual);
    told.and(force_close(this, Some(err)))
}

/// Drops what is queued and schedules `connection_lost(err)`.
fn force_close(this: &Bound<'_, WritePipeTransport>, err: Option<PyErr>) -> RawResult<()> {
    this.get().forget_queue(this.py());
    this.get().end.schedule_connection_lost(this.as_any(), err)
}

/// Tells the driver what is waited for now.
fn update(this: &Bound<'_, WritePipeTransport>) -> RawResult<()> {
    let transport = this.get();
    if transport.end.lost.get() {
        return Ok(());
    }
    match transport.end.watch(this.as_any(), transport.interest(this.py())) {
        Ok(()) => Ok(()),
        Err(err) => write_failed(this, err),
    }
}

// Flow control

fn pause_if_above(this: &Bound<'_, WritePipeTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    let queued = transport.queued_bytes(py);
    match transport.flow.with(py, |flow| flow.grown(queued)) {
        Some(change) => transport.end.reporter(this.as_any()).flow_changed(change),
        None => Ok(()),
    }
}

fn resume_if_below(this: &Bound<'_, WritePipeTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    let queued = transport.queued_bytes(py);
    match transport.flow.with(py, |flow| flow.shrunk(queued)) {
        Some(change) => transport.end.reporter(this.as_any()).flow_changed(change),
        None => Ok(()),
    }
}

impl WritePipeTransport {
    #[inline]
    fn queued_bytes(&self, py: Python<'_>) -> usize {
        self.queue.with(py, |queue| queue.len_bytes())
    }

    fn interest(&self, py: Python<'_>) -> Interest {
        match (self.watches_reader && self.end.started.get() && !self.end.lost.get(), self.queued_bytes(py) > 0) {
            (true, true) => Interest::BOTH,
            (true, false) => Interest::READABLE,
            (false, true) => Interest::WRITABLE,
            (false, false) => Interest::NONE,
        }
    }

    /// Offers what waits to the kernel, until it takes no more or nothing is left.
    fn send_queued(&self, py: Python<'_>) -> io::Result<()> {
        let driver = &self.end.runtime.driver;
        loop {
            // Chunks that are gone are dropped when the cell is closed again.
            let mut gone = Vec::new();
            let (offered, taken) = self.queue.with(py, |queue| {
                let slices = queue.io_slices(IO_SLICES_MAX);
                let offered: usize = slices.iter().map(|slice| slice.len()).sum();
                let taken = taken(match &slices[..] {
                    [one] => driver.write(self.end.fd, one),
                    several => driver.write_vectored(self.end.fd, several),
                });
                if let Ok(count) = &taken {
                    queue.consume_with(*count, |chunk| gone.push(chunk));
                }
                (offered, taken)
            });
            drop(gone);
            if taken? < offered || self.queued_bytes(py) == 0 {
                return Ok(());
            }
        }
    }

    fn forget_queue(&self, py: Python<'_>) {
        let chunks = self.queue.with(py, WriteQueue::clear);
        drop(chunks);
    }

    fn describe(&self, py: Python<'_>) -> String {
        let queued = self.queued_bytes(py);
        let mut text = self.end.describe("WritePipeTransport", queued > 0);
        if !self.end.is_closed() && !self.end.runtime.scheduler.closed.get() {
            text.push_str(&format!(" bufsize={queued}"));
        }
        text.push('>');
        text
    }
}

/// "Not now" is nothing taken.
fn taken(sent: io::Result<usize>) -> io::Result<usize> {
    match sent {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
        other => other,
    }
}

// What Python sees

#[pymethods]
impl WritePipeTransport {
    /// isinstance(transport, asyncio.WriteTransport)
    #[getter(__class__)]
    fn class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Ok(imports::transport_class(slf.py())?.clone())
    }

    /// Write all items, as one.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let joined = PyBytes::new(py, b"").call_method1("join", (list_of_data,))?;
        to_py(py, write(slf, Obj::from_bound(joined)))
    }

    /// Close the pipe when everything is written.
    fn write_eof(slf: &Bound<'_, Self>) -> PyResult<()> {
        to_py(slf.py(), close(slf))
    }

    /// True: write_eof() works.
    fn can_write_eof(&self) -> bool {
        true
    }

    /// Close the pipe when everything is written; connection_lost(None) is called in the end.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        to_py(slf.py(), close(slf))
    }

    /// Close at once; what is buffered is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().end.lost.get() {
            return Ok(());
        }
        to_py(slf.py(), force_close(slf, None))
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

    /// asyncio's transport of a pipe's writing end has the names of both directions, and answers to these so.
    fn is_reading(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// Not for a pipe that is written.
    fn pause_reading(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// Not for a pipe that is written.
    fn resume_reading(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// Bytes that wait to be written.
    fn get_write_buffer_size(&self, py: Python<'_>) -> usize {
        self.queued_bytes(py)
    }

    /// The marks (low, high) at which the protocol's writing is resumed and paused.
    fn get_write_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        self.flow.with(py, |flow| flow.limits())
    }

    /// Set the marks at which the protocol's writing is paused and resumed.
    #[pyo3(signature = (high=None, low=None))]
    fn set_write_buffer_limits(
        slf: &Bound<'_, Self>,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        marks::set(&slf.get().flow, py, high, low)?;
        to_py(py, pause_if_above(slf))
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

    fn __repr__(&self, py: Python<'_>) -> String {
        self.describe(py)
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
    fn _buffer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let chunks: Vec<Obj> = self.queue.with(py, |queue| queue.iter().map(|chunk| chunk.as_obj().clone()).collect());
        PyList::new(py, chunks.into_iter().map(|chunk| chunk.into_bound(py)))
    }

    #[getter]
    fn _closing(&self) -> bool {
        self.is_closing()
    }

    #[getter]
    fn _conn_lost(&self) -> u32 {
        self.conn_lost.get()
    }

    #[getter]
    fn _protocol_paused(&self, py: Python<'_>) -> bool {
        self.flow.with(py, |flow| flow.is_paused())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| self.end.visit(visitor))
    }

    fn __clear__(&self) {
        self.end.clear();
    }
}

impl collector::Finalized for WritePipeTransport {
    fn finalize(&self, py: Python<'_>) {
        self.end.finalize(py, || self.describe(py));
    }
}

impl Drop for WritePipeTransport {
    fn drop(&mut self) {
        Python::try_attach(|py| collector::Finalized::finalize(self, py));
    }
}

/// `transport.write(data)`, the one method that runs per packet.
struct Write;

impl fastcall::FastMethod<WritePipeTransport> for Write {
    const NAME: &'static std::ffi::CStr = c"write";
    const DOC: &'static std::ffi::CStr =
        c"write($self, data)\n--\n\nWrite data; never blocks. What the kernel does not take is buffered.";

    fn call(py: Python<'_>, this: &Obj, _: &WritePipeTransport, args: &fastcall::Args<'_>) -> RawResult<Obj> {
        static DATA: Name = Name::new(c"data");
        let data = args.only(py, &DATA)?;
        let this = this.borrow(py);
        let this = this.cast_exact::<WritePipeTransport>().expect("checked by the method descriptor");
        write(&this, data)?;
        Ok(Obj::none(py))
    }
}

pub(crate) fn add_methods(py: Python<'_>) -> PyResult<()> {
    fastcall::add_method::<WritePipeTransport, Write>(py)
}
