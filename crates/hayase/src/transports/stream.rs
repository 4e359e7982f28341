//! The stream transport: one connected socket and its protocol.
//!
//! This file is the object: its life from `connection_made` to `connection_lost`, its attributes, its errors. The bytes
//! are in `read.rs` and `write.rs`. Everything follows asyncio's selector transport, except where it loses something.
//!
//! Must stay true
//! - `connection_lost` is called exactly once, through the ready queue, and nothing of the protocol after it.
//! - The slot exists exactly while something is waited for; it is what keeps a transport alive that nobody holds.
//! - The descriptor has one owner: `socket`. It is closed after `connection_lost`, or when the transport dies.
//! - No cell is open while Python code runs.

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use driver::{FlowControl, Interest, Token, WriteQueue};
use pyo3::exceptions::{PyConnectionError, PyOSError, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::address;
use super::datagram::DatagramTransport;
use super::receiver::Receiver;
use super::reports::{self, Reporter, Shown};
use super::server::Server;
use super::{CONNECTION_LOST, CONNECTION_MADE, marks, waiter, write};
use crate::interop::{errors, imports};
use crate::raw::bytes::Bytes;
use crate::raw::call::{self, Name};
use crate::raw::cell::{BoxCell, GilCell, GilValue, ObjCell};
use crate::raw::collector;
use crate::raw::fastcall;
use crate::raw::instance::Visitor;
use crate::raw::kept_context::KeptContext;
use crate::raw::members::Membership;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult};
use crate::runtime::slots::SlotKind;
use crate::runtime::{Runtime, RuntimeRef};
use crate::tasks::ready::Ready;

pub(crate) use super::write::{flush_all, flush_is_due};

static CREATE_FUTURE: Name = Name::new(c"create_future");
static CONNECTION_MADE_NAME: Name = Name::new(c"connection_made");
static CONNECTION_LOST_NAME: Name = Name::new(c"connection_lost");

/// Who closes the descriptor.
pub(crate) enum Socket {
    /// Nobody asked for a socket object yet.
    Native(OwnedFd),
    /// A `socket.socket`, given by the program or made when it asked for one.
    Python(Obj),
    Closed,
}

/// An asyncio.Transport over a connected stream socket.
#[pyclass(module = "hayase._core", frozen, weakref, dict)]
pub(crate) struct StreamTransport {
    pub(super) runtime: RuntimeRef,
    pub(super) fd: RawFd,
    socket: GilCell<Socket>,
    token: GilValue<Option<Token>>,
    pub(super) protocol: ObjCell,
    /// A copy of the context in which the transport was made; its callbacks run in it.
    context: KeptContext,
    server: ObjCell,
    /// Of the runtime's list of what is open.
    membership: GilCell<Option<Membership>>,
    /// A future that is resolved when `connection_made` was called.
    waiter: ObjCell,
    /// A future that `loop.sendfile` waits for: nothing is queued any more. Writing is refused while it is there.
    pub(super) empty_waiter: ObjCell,
    /// For `connection_lost`.
    lost_error: ObjCell,
    /// The dict behind `get_extra_info`, once something needs to be kept in it.
    extra: ObjCell,
    names: GilCell<Names>,

    /// One corked chunk: the usual case needs no queue.
    pub(super) corked: ObjCell,
    /// More corked chunks, and what the kernel did not take yet. Made when it is needed first.
    pub(super) queue: BoxCell<WriteQueue<Bytes>>,
    /// Bytes in `corked` and `queue`.
    pub(super) queued_bytes: GilValue<usize>,
    pub(super) flow: GilCell<FlowControl>,
    /// Whether the runtime's list of corked transports has it.
    pub(super) in_corked_list: GilValue<bool>,
    /// The TLS layer above has ciphertext for this transport; it is asked for it when the transport is flushed.
    pub(super) layer_due: GilValue<bool>,
    /// The kernel took less than there was: the rest leaves when the descriptor is writable.
    pub(super) waits_for_writable: GilValue<bool>,

    /// More than 0 from the moment in which `connection_lost` was scheduled; counts writes after it.
    pub(super) conn_lost: GilValue<u32>,
    /// `connection_made` was called, so reading may happen.
    pub(super) started: GilValue<bool>,
    pub(super) closing: GilValue<bool>,
    pub(super) paused: GilValue<bool>,
    /// `write_eof()` was called.
    pub(super) eof_written: GilValue<bool>,
    /// The peer said end of stream and the protocol wants to go on writing.
    pub(super) eof_received: GilValue<bool>,
    /// How the protocol wants its data.
    pub(super) receiver: GilValue<Receiver>,
    /// Large data comes in: receive straight into the final object.
    pub(super) large_reads: GilValue<bool>,
}

pub(crate) struct Names {
    pub(crate) peer: address::Name,
    /// The connections of one listening socket have it in common, so the collector is not told of it.
    pub(crate) local: Rc<address::Name>,
}

impl Names {
    /// What a `socket.socket` says.
    pub(crate) fn of_socket(socket: &Bound<'_, PyAny>) -> PyResult<Names> {
        let peer = address::of_socket(socket, "getpeername")?;
        Ok(Names { peer, local: Rc::new(address::of_socket(socket, "getsockname")?) })
    }
}

/// What a transport is made of.
pub(crate) struct Parts<'a, 'py> {
    pub(crate) socket: Socket,
    pub(crate) fd: RawFd,
    pub(crate) names: Names,
    pub(crate) protocol: &'a Bound<'py, PyAny>,
    pub(crate) context: KeptContext,
    pub(crate) server: Option<&'a Bound<'py, Server>>,
    pub(crate) waiter: Option<Obj>,
}

/// Makes a transport and schedules `connection_made`. Refuses a descriptor that another transport of this loop uses.
pub(crate) fn make<'py>(
    py: Python<'py>,
    runtime: &RuntimeRef,
    parts: Parts<'_, 'py>,
) -> PyResult<Bound<'py, StreamTransport>> {
    crate::raw::to_py(py, runtime.scheduler.check_open(py))?;
    super::refuse_used(py, runtime, parts.fd)?;
    let receiver = Receiver::of(parts.protocol)?;
    let transport = collector::instance_with_dict(
        py,
        StreamTransport {
            runtime: runtime.clone(),
            fd: parts.fd,
            socket: GilCell::new(parts.socket),
            token: GilValue::new(None),
            protocol: ObjCell::new(Some(Obj::from_any(parts.protocol))),
            context: parts.context,
            server: ObjCell::new(parts.server.map(|server| Obj::from_any(server.as_any()))),
            membership: GilCell::new(None),
            waiter: ObjCell::new(parts.waiter),
            empty_waiter: ObjCell::empty(),
            lost_error: ObjCell::empty(),
            extra: ObjCell::empty(),
            names: GilCell::new(parts.names),
            corked: ObjCell::empty(),
            queue: BoxCell::empty(),
            queued_bytes: GilValue::new(0),
            flow: GilCell::new(FlowControl::new()),
            in_corked_list: GilValue::new(false),
            layer_due: GilValue::new(false),
            waits_for_writable: GilValue::new(false),
            conn_lost: GilValue::new(0),
            started: GilValue::new(false),
            closing: GilValue::new(false),
            paused: GilValue::new(false),
            eof_written: GilValue::new(false),
            eof_received: GilValue::new(false),
            receiver: GilValue::new(receiver),
            large_reads: GilValue::new(false),
        },
    )?;
    let object = Obj::from_any(transport.as_any());
    let membership = runtime.open.join(py, &object);
    transport.get().membership.with(py, |place| *place = Some(membership));
    if let Some(server) = parts.server {
        server.get().client_came();
    }
    runtime.scheduler.push(py, Ready::Native { object, work: CONNECTION_MADE });
    Ok(transport)
}

// What the event loop calls

/// The descriptor is ready. asyncio's order: reading first.
pub(crate) fn on_ready(py: Python<'_>, object: &Obj, readable: bool, writable: bool) -> RawResult<()> {
    let object = object.borrow(py);
    let transport = object.cast::<StreamTransport>().expect("slots of this kind hold stream transports");
    if readable && transport.get().wants_to_read() {
        super::read::read_ready(&transport)?;
    }
    if writable && transport.get().waits_for_writable.get() {
        write::write_ready(&transport)?;
    }
    Ok(())
}

pub(super) fn connection_made(this: &Bound<'_, StreamTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    if let Some(protocol) = transport.protocol.get() {
        let object = Obj::from_any(this.as_any());
        let called = transport.in_context(py, || call::method(py, &protocol, &CONNECTION_MADE_NAME, &[&object]));
        if let Err(raised) = called {
            reporter(this).callback_failed(&protocol, "connection_made", raised)?;
        }
    }
    transport.started.set(true);
    update_interest(this)?;
    match transport.waiter.take() {
        Some(future) => match waiter::resolve(py, &future) {
            Ok(()) => Ok(()),
            Err(raised) => {
                let err = raised.fetch(py);
                reporter(this).report(err, "Fatal error: the waiter of a connection failed.")
            }
        },
        None => Ok(()),
    }
}

pub(super) fn connection_lost(this: &Bound<'_, StreamTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    let error = transport.lost_error.take().unwrap_or_else(|| Obj::none(py));
    let outcome = match transport.protocol.get() {
        Some(protocol) => {
            let called = transport.in_context(py, || call::method(py, &protocol, &CONNECTION_LOST_NAME, &[&error]));
            match called {
                Ok(_) => Ok(()),
                Err(raised) => reporter(this).callback_failed(&protocol, "connection_lost", raised),
            }
        }
        None => Ok(()),
    };
    let released = match transport.release(py) {
        Ok(()) => Ok(()),
        Err(err) => reporter(this).report(err, "Fatal error while closing a transport"),
    };
    outcome.and(released)
}

impl StreamTransport {
    #[inline]
    pub(super) fn is_closing_or_closed(&self) -> bool {
        self.closing.get()
    }

    /// Nobody asked for `_extra`, so it answers only what is asked of every transport.
    pub(super) fn knows_nothing_extra(&self) -> bool {
        self.extra.is_none()
    }

    #[inline]
    pub(super) fn wants_to_read(&self) -> bool {
        self.started.get() && !self.paused.get() && !self.closing.get() && !self.eof_received.get()
    }

    /// Runs a callback of the protocol in the transport's context.
    #[inline]
    pub(super) fn in_context<R>(&self, py: Python<'_>, body: impl FnOnce() -> RawResult<R>) -> RawResult<R> {
        if self.context.is_empty() {
            return body();
        }
        self.context.run_in(py, body).expect("there is one")?
    }

    /// Closes the descriptor and lets go of everybody.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        let closed = self.close_socket(py);
        drop(self.protocol.take());
        self.context.clear();
        self.fail_empty_waiter(py)?;
        self.leave_server(py)?;
        closed
    }

    fn close_socket(&self, py: Python<'_>) -> PyResult<()> {
        // Who has the other end hears of it.
        self.runtime.driver.stir();
        match self.socket.with(py, |socket| std::mem::replace(socket, Socket::Closed)) {
            // Not watched any more: the slot was given up when `connection_lost` was scheduled.
            Socket::Native(fd) => drop(fd),
            Socket::Python(socket) => drop(socket.borrow(py).call_method0("close")?),
            Socket::Closed => {}
        }
        Ok(())
    }

    pub(super) fn is_client_of(&self, server: &Obj) -> bool {
        self.server.as_ptr() == server.as_ptr()
    }

    fn fail_empty_waiter(&self, py: Python<'_>) -> PyResult<()> {
        let Some(future) = self.empty_waiter.get() else {
            return Ok(());
        };
        let future = future.into_bound(py);
        if !future.call_method0("done")?.is_truthy()? {
            let gone = PyConnectionError::new_err("Connection is closed by peer");
            future.call_method1("set_exception", (gone.into_value(py),))?;
        }
        Ok(())
    }

    /// For a loop that is closed: nobody is told, but the descriptor does not stay open.
    fn close_with_the_loop(&self, py: Python<'_>) -> PyResult<()> {
        if self.socket.with(py, |socket| matches!(socket, Socket::Closed)) {
            return Ok(());
        }
        let description = self.describe(py);
        self.closing.set(true);
        self.conn_lost.set(self.conn_lost.get().max(1));
        self.discard_queue();
        self.waits_for_writable.set(false);
        self.token.set(None);
        let released = self.release(py);
        reports::warn_unclosed(py, &description);
        released
    }

    fn leave_server(&self, py: Python<'_>) -> PyResult<()> {
        drop(self.membership.with(py, Option::take));
        if let Some(server) = self.server.take()
            && let Ok(server) = server.borrow(py).cast::<Server>()
        {
            return server.get().client_left(py);
        }
        Ok(())
    }

    /// The `socket.socket`, made now if the descriptor had none; it owns the descriptor from now on.
    fn python_socket<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        enum Known {
            Fd(RawFd),
            Object(Obj),
            Closed,
        }
        let known = self.socket.with(py, |socket| match socket {
            Socket::Native(fd) => Known::Fd(fd.as_raw_fd()),
            Socket::Python(object) => Known::Object(object.clone()),
            Socket::Closed => Known::Closed,
        });
        let module = py.import("socket")?;
        let fd = match known {
            Known::Object(object) => return Ok(object.into_bound(py)),
            Known::Fd(fd) => fd,
            Known::Closed => {
                let socket = module.getattr("socket")?.call0()?;
                socket.call_method0("close")?;
                return Ok(socket);
            }
        };
        let keywords = PyDict::new(py);
        keywords.set_item("fileno", fd)?;
        let socket = module.getattr("socket")?.call((), Some(&keywords))?;
        socket.call_method1("settimeout", (0,))?;
        let before = self.socket.with(py, |place| std::mem::replace(place, Socket::Python(Obj::from_any(&socket))));
        match before {
            // The socket object closes it.
            Socket::Native(fd) => drop(fd.into_raw_fd()),
            Socket::Python(_) | Socket::Closed => {}
        }
        Ok(socket)
    }

    fn extra_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        if let Some(dict) = self.extra.get() {
            return Ok(dict.into_bound(py).cast_into()?);
        }
        let dict = PyDict::new(py);
        let socket = self.python_socket(py)?;
        dict.set_item("socket", imports::transport_socket_class(py)?.call1((socket,))?)?;
        dict.set_item("sockname", self.name(py, |names| &names.local)?)?;
        dict.set_item("peername", self.name(py, |names| &names.peer)?)?;
        self.extra.set(Some(Obj::from_any(dict.as_any())));
        Ok(dict)
    }

    fn name(&self, py: Python<'_>, pick: fn(&Names) -> &address::Name) -> PyResult<Py<PyAny>> {
        // A copy, because the cell is closed again before Python objects are made.
        self.names.with(py, |names| pick(names).clone()).to_python(py)
    }

    /// (process, user, group) of the other end of a Unix socket.
    fn peer_credentials(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let is_unix = self.names.with(py, |names| matches!(*names.local, address::Name::Unix(_)));
        if !is_unix || self.socket.with(py, |socket| matches!(socket, Socket::Closed)) {
            return Ok(None);
        }
        let peer = driver::peer_credentials(self.fd).map_err(|error| errors::os_error(py, &error))?;
        Ok(Some(peer.into_pyobject(py)?.into_any().unbind()))
    }

    fn describe(&self, py: Python<'_>) -> String {
        let is_busy = self.protocol.is_some() && !self.runtime.scheduler.closed.get();
        let busy = (self.wants_to_read(), self.waits_for_writable.get(), self.queued_bytes.get());
        let shown = Shown {
            class: "StreamTransport",
            closed: self.socket.with(py, |socket| matches!(socket, Socket::Closed)),
            closing: self.closing.get(),
            fd: self.fd,
            busy: is_busy.then_some(busy),
        };
        shown.to_string()
    }
}

/// Tells the driver what is waited for now.
pub(super) fn update_interest(this: &Bound<'_, StreamTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    let mut interest = Interest::NONE;
    if transport.wants_to_read() {
        interest = interest | Interest::READABLE;
    }
    if transport.waits_for_writable.get() {
        interest = interest | Interest::WRITABLE;
    }
    let runtime = &transport.runtime;
    let changed = runtime.want(py, &transport.token, interest, || {
        runtime.watch_own(py, transport.fd, interest, SlotKind::Stream, Obj::from_any(this.as_any()))
    });
    match changed {
        Ok(()) => Ok(()),
        Err(error) => fatal_error(this, errors::os_error(py, &error), "Fatal error on transport"),
    }
}

// Errors and the end

/// Reports what is no fault of the network, and closes the connection at once. `KeyboardInterrupt` and `SystemExit` are
/// raised again.
pub(super) fn fatal_error(this: &Bound<'_, StreamTransport>, err: PyErr, message: &str) -> RawResult<()> {
    let py = this.py();
    if errors::leaves_the_loop(py, &err) {
        return Err(Raised::from_err(py, err));
    }
    let is_usual = err.is_instance_of::<PyOSError>(py);
    let outcome = reporter(this).fatal(&err, message, is_usual);
    force_close(this, Some(err));
    outcome
}

pub(super) fn reporter<'a, 'py>(this: &'a Bound<'py, StreamTransport>) -> Reporter<'a, 'py> {
    let transport = this.get();
    Reporter { runtime: &transport.runtime, protocol: &transport.protocol, transport: this.as_any() }
}

/// Drops what is queued and schedules `connection_lost(err)`.
pub(super) fn force_close(this: &Bound<'_, StreamTransport>, err: Option<PyErr>) {
    let transport = this.get();
    if transport.conn_lost.get() > 0 {
        return;
    }
    transport.discard_queue();
    transport.waits_for_writable.set(false);
    schedule_connection_lost(this, err);
}

pub(super) fn schedule_connection_lost(this: &Bound<'_, StreamTransport>, err: Option<PyErr>) {
    let py = this.py();
    let transport = this.get();
    transport.closing.set(true);
    transport.conn_lost.set(transport.conn_lost.get() + 1);
    transport.lost_error.set(err.map(|err| Obj::from_bound(err.into_value(py).into_bound(py))));
    if let Some(token) = transport.token.replace(None) {
        drop(transport.runtime.unwatch(py, token));
    }
    let object = Obj::from_any(this.as_any());
    transport.runtime.scheduler.push(py, Ready::Native { object, work: CONNECTION_LOST });
}

// What Python sees

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
        crate::raw::to_py(slf.py(), update_interest(slf))?;
        reporter(slf).log_debug("debug", "%r pauses reading")
    }

    /// Read again after pause_reading().
    fn resume_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let transport = slf.get();
        if transport.closing.get() || !transport.paused.get() {
            return Ok(());
        }
        transport.paused.set(false);
        crate::raw::to_py(slf.py(), update_interest(slf))?;
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
            crate::raw::to_py(slf.py(), write::flush(slf))?;
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
        crate::raw::to_py(slf.py(), write::close(slf))
    }

    /// Close at once; what is buffered is lost.
    fn abort(slf: &Bound<'_, Self>) -> PyResult<()> {
        crate::raw::to_py(slf.py(), write::abort(slf))
    }

    /// Send all items, as one.
    fn writelines(slf: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        crate::raw::to_py(slf.py(), write::writelines(slf, list_of_data))
    }

    /// Say end of stream after what is buffered; receiving goes on.
    fn write_eof(slf: &Bound<'_, Self>) -> PyResult<()> {
        crate::raw::to_py(slf.py(), write::write_eof(slf))
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
        crate::raw::to_py(py, write::pause_if_above(slf))
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
        crate::raw::to_py(slf.py(), write::flush(slf))?;
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
        crate::raw::to_py(py, write::flush(slf))?;
        let event_loop = transport.runtime.object();
        let future = crate::raw::to_py(py, call::method(py, event_loop, &CREATE_FUTURE, &[]))?;
        if transport.queued_bytes.get() == 0 {
            crate::raw::to_py(py, waiter::resolve(py, &future))?;
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

/// Closes what a closed loop has left open: called when its registrations are gone.
pub(crate) fn close_all(py: Python<'_>, runtime: &Runtime) {
    for object in runtime.open.list(py) {
        let object = object.borrow(py);
        let closed = if let Ok(transport) = object.cast::<StreamTransport>() {
            transport.get().close_with_the_loop(py)
        } else if let Ok(transport) = object.cast::<DatagramTransport>() {
            transport.get().close_with_the_loop(py)
        } else if let Ok(server) = object.cast::<Server>() {
            server.get().close_with_the_loop(py)
        } else {
            super::close_other_with_the_loop(&object);
            Ok(())
        };
        if let Err(err) = closed {
            err.write_unraisable(py, Some(&object));
        }
    }
}

impl Drop for StreamTransport {
    fn drop(&mut self) {
        Python::try_attach(|py| {
            // First of all: the runtime's list must not see a dying object.
            drop(self.membership.with(py, Option::take));
            if self.socket.with(py, |socket| matches!(socket, Socket::Closed)) {
                return;
            }
            reports::died_open(py, &self.describe(py), || {
                let closed = self.close_socket(py);
                self.leave_server(py).and(closed)
            });
        });
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
        let data = args.only(py, &DATA, "data")?;
        let this = this.borrow(py);
        let this = this.cast::<StreamTransport>().expect("checked by the method descriptor");
        write::write(&this, data)?;
        Ok(Obj::none(py))
    }
}

pub(super) fn add_methods(py: Python<'_>) -> PyResult<()> {
    fastcall::add_method::<StreamTransport, Write>(py)
}
