//! What Python sees of a stream transport: the methods of `asyncio.Transport`, and the private names that programs read.

use std::os::fd::RawFd;

use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::{Socket, StreamTransport, force_close, reporter, stop_reading, update_interest};
use crate::interop::imports;
use crate::raw::call::{self, Name};
use crate::raw::cell::ObjCell;
use crate::raw::fastcall;
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_py};
use crate::tasks::wait;
use crate::transports::receiver::Receiver;
use crate::transports::{marks, write};

static CREATE_FUTURE: Name = Name::new(c"create_future");

#[pymethods]
impl StreamTransport {
    /// isinstance(transport, asyncio.Transport)
    #[getter(__class__)]
    fn class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Ok(imports::transport_class(slf.py())?.clone())
    }

    /// Stop reading; data that arrives waits in the kernel.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let transport = slf.get();
        if transport.closing.get() || transport.paused.get() {
            return Ok(());
        }
        transport.paused.set(true);
        to_py(slf.py(), stop_reading(slf))?;
        reporter(slf).log_debug("debug", "%r pauses reading")
    }

    /// Read again after pause_reading().
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let transport = slf.get();
        if transport.closing.get() || !transport.paused.get() {
            return Ok(());
        }
        transport.paused.set(false);
        to_py(slf.py(), update_interest(slf))?;
        reporter(slf).log_debug("debug", "%r resumes reading")
    }

    /// Whether the transport receives.
    fn is_reading(&self) -> bool {
        !self.closing.get() && !self.paused.get()
    }

    /// Whether the transport is closing or closed.
    fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Give the connection to another protocol.
    fn set_protocol(slf: &Bound<'_, Self>, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let transport = slf.get();
        let receiver = Receiver::of(protocol)?;
        if transport.layer_due.get() {
            // What the layer that goes has for this transport.
            to_py(slf.py(), write::flush(slf))?;
        }
        transport.receiver.set(receiver);
        transport.protocol.set(Some(Obj::from_any(protocol)));
        Ok(())
    }

    /// The current protocol.
    fn get_protocol(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.protocol.get())
    }

    /// Send what is buffered, then close; connection_lost(None) is called in the end.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        to_py(slf.py(), write::close(slf))
    }

    /// Close at once; what is buffered is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        to_py(slf.py(), write::abort(slf))
    }

    /// Send all items, as one.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        to_py(slf.py(), write::writelines(slf, list_of_data))
    }

    /// Say end of stream after what is buffered; receiving goes on.
    fn write_eof(slf: &Bound<'_, Self>) -> PyResult<()> {
        to_py(slf.py(), write::write_eof(slf))
    }

    /// True: write_eof() works.
    fn can_write_eof(&self) -> bool {
        true
    }

    /// Bytes that wait to be sent.
    fn get_write_buffer_size(&self) -> usize {
        self.queued_bytes.get()
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
        to_py(py, write::pause_if_above(slf))
    }

    /// What is known of the connection: 'socket', 'sockname', 'peername'; of a Unix socket also 'peercred', the process, user
    /// and group of the peer when it connected.
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        if self.extra.is_none()
            && let Ok(text) = name.extract::<&str>()
        {
            // The common questions need no socket object.
            match text {
                "peername" => return self.name(py, |names| &names.peer),
                "sockname" => return self.name(py, |names| &names.local),
                "socket" | "peercred" => {}
                _ => return Ok(default.unwrap_or_else(|| py.None())),
            }
        }
        match self.extra_dict(py)?.get_item(name)? {
            Some(value) => Ok(value.unbind()),
            None if name.eq("peercred")? => Ok(self.peer_credentials(py)?.or(default).unwrap_or_else(|| py.None())),
            None => Ok(default.unwrap_or_else(|| py.None())),
        }
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        self.describe(py)
    }

    // Private names that programs read

    #[classattr]
    #[pyo3(name = "_start_tls_compatible")]
    const START_TLS_COMPATIBLE: bool = true;

    fn _force_close(slf: &Bound<'_, Self>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        let err = (!exc.is_none()).then(|| PyErr::from_value(exc.clone()));
        to_py(slf.py(), write::flush(slf))?;
        force_close(slf, err);
        Ok(())
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Py<PyAny> {
        if self.protocol.is_none() && self.conn_lost.get() > 0 {
            return py.None();
        }
        self.runtime.object().clone().into_bound(py).unbind()
    }

    #[getter]
    fn _protocol(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.protocol.get())
    }

    #[getter]
    fn _sock(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if self.socket.with(py, |socket| matches!(socket, Socket::Closed)) {
            return Ok(py.None());
        }
        Ok(self.python_socket(py)?.unbind())
    }

    #[getter]
    fn _sock_fd(&self) -> RawFd {
        self.fd
    }

    #[getter]
    fn _extra<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.extra_dict(py)
    }

    #[getter]
    fn _server(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.server.get())
    }

    #[getter]
    fn _buffer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        let queued = self.queue.with_existing(py, |queue| queue.iter().map(|chunk| chunk.as_obj().clone()).collect());
        let mut chunks: Vec<Obj> = queued.unwrap_or_default();
        chunks.extend(self.corked.get());
        for chunk in chunks {
            list.append(chunk.into_bound(py))?;
        }
        Ok(list)
    }

    // For asyncio's `sendfile`

    #[getter]
    fn _sendfile_compatible<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let modes = py.import("asyncio.constants")?.getattr("_SendfileMode")?;
        modes.getattr("TRY_NATIVE")
    }

    fn _make_empty_waiter(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let transport = slf.get();
        if transport.empty_waiter.is_some() {
            return Err(PyRuntimeError::new_err("Empty waiter is already set"));
        }
        to_py(py, write::flush(slf))?;
        let event_loop = transport.runtime.object();
        let future = to_py(py, call::method(py, event_loop, &CREATE_FUTURE, &[]))?;
        if transport.queued_bytes.get() == 0 {
            to_py(py, wait::resolve(py, &future))?;
        }
        transport.empty_waiter.set(Some(future.clone()));
        Ok(future.into_bound(py).unbind())
    }

    fn _reset_empty_waiter(&self) {
        self.empty_waiter.set(None);
    }

    #[getter]
    fn _closing(&self) -> bool {
        self.closing.get()
    }

    #[getter]
    fn _paused(&self) -> bool {
        self.paused.get()
    }

    #[getter]
    fn _eof(&self) -> bool {
        self.eof_written.get()
    }

    #[getter]
    fn _conn_lost(&self) -> u32 {
        self.conn_lost.get()
    }

    #[getter]
    fn _protocol_paused(&self, py: Python<'_>) -> bool {
        self.flow.with(py, |flow| flow.is_paused())
    }

    #[getter]
    fn _high_water(&self, py: Python<'_>) -> usize {
        self.flow.with(py, |flow| flow.limits().1)
    }

    #[getter]
    fn _low_water(&self, py: Python<'_>) -> usize {
        self.flow.with(py, |flow| flow.limits().0)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| {
            self.runtime.visit(visitor);
            self.context.visit(visitor);
            self.cells().into_iter().for_each(|cell| visitor.cell(cell));
            self.socket.peek(|socket| match socket {
                Socket::Python(object) => visitor.obj(object),
                Socket::Native(_) | Socket::Closed => {}
            });
            self.names.peek(|names| names.peer.visit(visitor));
        })
    }

    fn __clear__(&self) {
        // The descriptor is closed by the destructor, which needs the runtime: the loop's own clear breaks that cycle.
        self.context.clear();
        for cell in [&self.empty_waiter, &self.protocol, &self.waiter, &self.lost_error, &self.extra] {
            cell.set(None);
        }
    }
}

impl StreamTransport {
    fn cells(&self) -> [&ObjCell; 6] {
        [&self.protocol, &self.server, &self.waiter, &self.lost_error, &self.extra, &self.empty_waiter]
    }
}

/// `transport.write(data)`, the one method that runs per packet.
struct Write;

impl fastcall::FastMethod<StreamTransport> for Write {
    const NAME: &'static std::ffi::CStr = c"write";
    const DOC: &'static std::ffi::CStr =
        c"write($self, data)\n--\n\nSend data; never blocks. What the kernel does not take is buffered.";

    fn call(py: Python<'_>, this: &Obj, _: &StreamTransport, args: &fastcall::Args<'_>) -> RawResult<Obj> {
        static DATA: Name = Name::new(c"data");
        let data = args.only(py, &DATA)?;
        let this = this.borrow(py);
        let this = this.cast::<StreamTransport>().expect("checked by the method descriptor");
        write::write(&this, data)?;
        Ok(Obj::none(py))
    }
}

pub(in crate::transports) fn add_methods(py: Python<'_>) -> PyResult<()> {
    fastcall::add_method::<StreamTransport, Write>(py)
}
