//! The datagram transport: one UDP or Unix datagram socket and its protocol.
//!
//! This file is the object: its life from `connection_made` to `connection_lost`, its attributes, its errors. Datagrams are in
//! `receive.rs` and `send.rs`, the peers' addresses in `peers.rs`. Everything follows asyncio's selector transport, but
//! for reading several datagrams a turn.
//!
//! Must stay true
//! - `connection_lost` is called exactly once, through the ready queue, and nothing of the protocol after it.
//! - An error of one datagram is told (`error_received`) and ends nothing.
//! - `queued_bytes` is what `queue` holds. No cell is open while Python code runs.

mod peers;
mod receive;
mod send;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use driver::{FlowControl, Interest, Token};
use pyo3::exceptions::{PyNotImplementedError, PyOSError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use self::peers::Peers;
use self::send::Queued;
use super::reports::{self, Reporter, Shown};

use super::address::Names;
use super::{CONNECTION_LOST, CONNECTION_MADE, address, marks};
use crate::interop::{errors, imports};
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilCell, GilValue, ObjCell};
use crate::raw::collector;
use crate::raw::instance::Visitor;
use crate::raw::members::Membership;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, context, fastcall, to_py};
use crate::runtime::RuntimeRef;
use crate::runtime::slots::SlotKind;
use crate::tasks::ready::Ready;
use crate::tasks::wait;

static CONNECTION_MADE_NAME: Name = Name::new(c"connection_made");
static CONNECTION_LOST_NAME: Name = Name::new(c"connection_lost");
static ERROR_RECEIVED: Name = Name::new(c"error_received");

/// How the addresses of a socket look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    Unix,
    /// Python's `socket` sends and receives.
    Other,
}

/// Whom the socket is connected to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    None,
    /// One end of a `socketpair`: connected, but may send to others too.
    Unnamed,
    Named,
}

/// An asyncio.DatagramTransport.
#[pyclass(module = "hayase._core", frozen, weakref, dict)]
pub(crate) struct DatagramTransport {
    runtime: RuntimeRef,
    fd: RawFd,
    family: Family,
    peer: Peer,
    /// The `socket.socket`, which owns the descriptor.
    socket: ObjCell,
    closed: GilValue<bool>,
    /// The one address that is sent to, if the endpoint was made with one.
    remote: ObjCell,
    names: GilCell<Names>,
    peers: GilCell<Peers>,
    token: GilValue<Option<Token>>,
    protocol: ObjCell,
    /// A copy of the context in which the transport was made; its callbacks run in it.
    context: ObjCell,
    /// Of the runtime's list of what is open.
    membership: GilCell<Option<Membership>>,
    /// A future that is resolved when `connection_made` was called.
    waiter: ObjCell,
    /// For `connection_lost`.
    lost_error: ObjCell,
    /// The dict behind `get_extra_info`, once it was asked for.
    extra: ObjCell,

    queue: GilCell<VecDeque<Queued>>,
    queued_bytes: GilValue<usize>,
    flow: GilCell<FlowControl>,
    waits_for_writable: GilValue<bool>,
    /// How many datagrams the next event may bring.
    batch: GilValue<u32>,
    /// For datagrams that the loop's shared buffer may be too small for.
    large_buffer: GilCell<Option<Box<[u8]>>>,

    /// More than 0 from the moment in which `connection_lost` was scheduled; counts writes after it.
    conn_lost: GilValue<u32>,
    /// `connection_made` was called, so reading may happen.
    started: GilValue<bool>,
    closing: GilValue<bool>,
    paused: GilValue<bool>,
}

/// Makes a transport over a non-blocking `socket` and schedules `connection_made`.
pub(crate) fn make<'py>(
    runtime: &RuntimeRef,
    socket: &Bound<'py, PyAny>,
    protocol: &Bound<'py, PyAny>,
    remote: Option<Obj>,
    waiter: Obj,
) -> PyResult<Bound<'py, DatagramTransport>> {
    let py = socket.py();
    to_py(py, runtime.scheduler.check_open(py))?;
    let fd: RawFd = socket.call_method0("fileno")?.extract()?;
    super::refuse_used(py, runtime, fd)?;
    let names = Names::of_socket(socket)?;
    let transport = collector::instance_with_dict(
        py,
        DatagramTransport {
            runtime: runtime.clone(),
            fd,
            family: family(socket, &names)?,
            peer: match &names.peer {
                address::Name::Unknown => Peer::None,
                address::Name::Unix(path) if path.is_empty() => Peer::Unnamed,
                address::Name::Inet(_) | address::Name::Unix(_) | address::Name::Python(_) => Peer::Named,
            },
            socket: ObjCell::new(Some(Obj::from_any(socket))),
            closed: GilValue::new(false),
            remote: ObjCell::new(remote),
            names: GilCell::new(names),
            peers: GilCell::new(Peers::new()),
            token: GilValue::new(None),
            protocol: ObjCell::new(Some(Obj::from_any(protocol))),
            context: ObjCell::new(Some(to_py(py, context::copy_current(py))?)),
            membership: GilCell::new(None),
            waiter: ObjCell::new(Some(waiter)),
            lost_error: ObjCell::empty(),
            extra: ObjCell::empty(),
            queue: GilCell::new(VecDeque::new()),
            queued_bytes: GilValue::new(0),
            flow: GilCell::new(FlowControl::new()),
            waits_for_writable: GilValue::new(false),
            batch: GilValue::new(1),
            large_buffer: GilCell::new(None),
            conn_lost: GilValue::new(0),
            started: GilValue::new(false),
            closing: GilValue::new(false),
            paused: GilValue::new(false),
        },
    )?;
    let object = Obj::from_any(transport.as_any());
    let membership = runtime.open.join(py, &object);
    transport.get().membership.with(py, |place| *place = Some(membership));
    runtime.scheduler.push(py, Ready::Native { object, work: CONNECTION_MADE });
    Ok(transport)
}

fn family(socket: &Bound<'_, PyAny>, names: &Names) -> PyResult<Family> {
    Ok(match &*names.local {
        address::Name::Inet(SocketAddr::V4(_)) => Family::V4,
        address::Name::Inet(SocketAddr::V6(_)) => Family::V6,
        address::Name::Unix(_) => {
            // Another family may have names that are text.
            let unix = socket.py().import("socket")?.getattr("AF_UNIX")?;
            if socket.getattr("family")?.eq(unix)? { Family::Unix } else { Family::Other }
        }
        address::Name::Unknown | address::Name::Python(_) => Family::Other,
    })
}

// What the event loop calls

/// The descriptor is ready. asyncio's order: reading first.
pub(crate) fn on_ready(py: Python<'_>, object: &Obj, readable: bool, writable: bool) -> RawResult<()> {
    let object = object.borrow(py);
    let transport = object.cast::<DatagramTransport>().expect("slots of this kind hold datagram transports");
    if readable && transport.get().wants_to_read() {
        receive::read_ready(&transport)?;
    }
    if writable && transport.get().waits_for_writable.get() {
        send::write_ready(&transport)?;
    }
    Ok(())
}

/// Work that the transport put into the ready queue for itself.
pub(super) fn on_native(this: &Bound<'_, DatagramTransport>, work: u32) -> RawResult<()> {
    match work {
        CONNECTION_MADE => connection_made(this),
        CONNECTION_LOST => connection_lost(this),
        other => unreachable!("no transport asks for work {other}"),
    }
}

fn connection_made(this: &Bound<'_, DatagramTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    if let Some(protocol) = transport.protocol.get() {
        let object = Obj::from_any(this.as_any());
        let called =
            transport.in_context(py, || call::method(py, &protocol, &CONNECTION_MADE_NAME, &[&object]).map(drop));
        if let Err(raised) = called {
            reporter(this).callback_failed(&protocol, "connection_made", raised)?;
        }
    }
    transport.started.set(true);
    update_interest(this)?;
    match transport.waiter.take() {
        Some(future) => wait::resolve(py, &future),
        None => Ok(()),
    }
}

fn connection_lost(this: &Bound<'_, DatagramTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    let error = transport.lost_error.take().unwrap_or_else(|| Obj::none(py));
    let outcome = match transport.protocol.get() {
        Some(protocol) => {
            let called =
                transport.in_context(py, || call::method(py, &protocol, &CONNECTION_LOST_NAME, &[&error]).map(drop));
            called.or_else(|raised| reporter(this).callback_failed(&protocol, "connection_lost", raised))
        }
        None => Ok(()),
    };
    let released = match transport.release(py) {
        Ok(()) => Ok(()),
        Err(err) => reporter(this).report(err, "Fatal error while closing a transport"),
    };
    outcome.and(released)
}

/// In the context that is current.
fn error_received(py: Python<'_>, protocol: &Obj, err: PyErr) -> RawResult<()> {
    let error = Obj::from_bound(err.into_value(py).into_bound(py));
    call::method(py, protocol, &ERROR_RECEIVED, &[&error]).map(drop)
}

impl DatagramTransport {
    #[inline]
    fn wants_to_read(&self) -> bool {
        self.started.get() && !self.paused.get() && !self.closing.get()
    }

    /// Runs a callback of the protocol in the transport's context.
    #[inline]
    fn in_context(&self, py: Python<'_>, body: impl FnOnce() -> RawResult<()>) -> RawResult<()> {
        match self.context.get() {
            Some(context) => context::run_in(py, &context, body)?,
            None => body(),
        }
    }

    /// Closes the socket and lets go of everybody.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        drop(self.membership.with(py, Option::take));
        let closed = self.close_socket(py);
        drop(self.protocol.take());
        drop(self.context.take());
        closed
    }

    fn close_socket(&self, py: Python<'_>) -> PyResult<()> {
        if self.closed.replace(true) {
            return Ok(());
        }
        match self.socket.get() {
            Some(socket) => socket.borrow(py).call_method0("close").map(drop),
            None => Ok(()),
        }
    }

    /// For a loop that is closed: nobody is told, but the descriptor does not stay open.
    pub(super) fn close_with_the_loop(&self, py: Python<'_>) -> PyResult<()> {
        if self.closed.get() {
            return Ok(());
        }
        let description = self.describe();
        self.closing.set(true);
        self.conn_lost.set(self.conn_lost.get().max(1));
        self.discard_queue(py);
        self.waits_for_writable.set(false);
        self.token.set(None);
        let released = self.release(py);
        reports::warn_unclosed(py, &description);
        released
    }

    /// The references are dropped when no cell is open.
    fn discard_queue(&self, py: Python<'_>) {
        self.queued_bytes.set(0);
        drop(self.queue.with(py, std::mem::take));
    }

    fn name(&self, py: Python<'_>, pick: fn(&Names) -> &address::Name) -> PyResult<Py<PyAny>> {
        self.names.with(py, |names| pick(names).clone()).to_python(py)
    }

    fn extra_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        if let Some(dict) = self.extra.get() {
            return Ok(dict.into_bound(py).cast_into()?);
        }
        let dict = PyDict::new(py);
        if let Some(socket) = self.socket.get() {
            let socket = socket.into_bound(py);
            dict.set_item("socket", imports::transport_socket_class(py)?.call1((socket,))?)?;
        }
        dict.set_item("sockname", self.name(py, |names| &names.local)?)?;
        dict.set_item("peername", self.name(py, |names| &names.peer)?)?;
        self.extra.set(Some(Obj::from_any(dict.as_any())));
        Ok(dict)
    }

    fn describe(&self) -> String {
        let is_busy = self.protocol.is_some() && !self.runtime.scheduler.closed.get();
        let busy = (self.wants_to_read(), self.waits_for_writable.get(), self.queued_bytes.get());
        let shown = Shown {
            class: "DatagramTransport",
            closed: self.closed.get(),
            closing: self.closing.get(),
            fd: self.fd,
            busy: is_busy.then_some(busy),
        };
        shown.to_string()
    }

    fn cells(&self) -> [&ObjCell; 7] {
        [&self.socket, &self.remote, &self.protocol, &self.context, &self.waiter, &self.lost_error, &self.extra]
    }
}

/// Tells the driver what is waited for now.
fn update_interest(this: &Bound<'_, DatagramTransport>) -> RawResult<()> {
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
        runtime.watch_own(py, transport.fd, interest, SlotKind::Datagram, Obj::from_any(this.as_any()))
    });
    match changed {
        Ok(()) => Ok(()),
        Err(error) => fatal_error(this, errors::os_error(py, &error), "Fatal error on transport"),
    }
}

// Errors and the end

fn reporter<'a, 'py>(this: &'a Bound<'py, DatagramTransport>) -> Reporter<'a, 'py> {
    let transport = this.get();
    Reporter { runtime: &transport.runtime, protocol: &transport.protocol, transport: this.as_any() }
}

/// Reports what is no fault of the network, and closes the transport at once.
fn fatal_error(this: &Bound<'_, DatagramTransport>, err: PyErr, message: &str) -> RawResult<()> {
    let py = this.py();
    if errors::leaves_the_loop(py, &err) {
        return Err(Raised::from_err(py, err));
    }
    let is_usual = err.is_instance_of::<PyOSError>(py);
    let outcome = reporter(this).fatal(&err, message, is_usual);
    force_close(this, Some(err));
    outcome
}

/// Drops what is queued and schedules `connection_lost(err)`.
fn force_close(this: &Bound<'_, DatagramTransport>, err: Option<PyErr>) {
    let transport = this.get();
    if transport.conn_lost.get() > 0 {
        return;
    }
    transport.discard_queue(this.py());
    transport.waits_for_writable.set(false);
    schedule_connection_lost(this, err);
}

fn schedule_connection_lost(this: &Bound<'_, DatagramTransport>, err: Option<PyErr>) {
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
impl DatagramTransport {
    /// isinstance(transport, asyncio.DatagramTransport)
    #[getter(__class__)]
    fn class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        imports::datagram_transport_class(slf.py())
    }

    /// Stop receiving; datagrams that arrive wait in the kernel, as many as it has room for.
    fn pause_reading(slf: &Bound<'_, Self>) -> PyResult<()> {
        let transport = slf.get();
        if transport.closing.get() || transport.paused.get() {
            return Ok(());
        }
        transport.paused.set(true);
        to_py(slf.py(), update_interest(slf))?;
        reporter(slf).log_debug("debug", "%r pauses reading")
    }

    /// Receive again after pause_reading().
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

    /// asyncio's datagram transports have the names of stream transports too, and answer to these so.
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = data;
        Err(PyNotImplementedError::new_err(()))
    }

    /// Not for datagrams.
    fn writelines(&self, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = list_of_data;
        Err(PyNotImplementedError::new_err(()))
    }

    /// Not for datagrams.
    fn write_eof(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// Not for datagrams.
    fn can_write_eof(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// Whether the transport is closing or closed.
    fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Give the socket to another protocol.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) {
        self.protocol.set(Some(Obj::from_any(protocol)));
    }

    /// The current protocol.
    fn get_protocol(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.protocol.get())
    }

    /// Send what is queued, then close; connection_lost(None) is called in the end.
    fn close(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let transport = slf.get();
        if transport.closing.replace(true) {
            return Ok(());
        }
        if transport.queue.with(py, |queue| queue.is_empty()) {
            schedule_connection_lost(slf, None);
            return Ok(());
        }
        to_py(py, update_interest(slf))
    }

    /// Close at once; what is queued is lost.
    fn abort(slf: &Bound<'_, Self>) {
        force_close(slf, None);
    }

    /// Bytes that wait to be sent, with 8 for each datagram (none before Python 3.13).
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
        marks::set(&slf.get().flow, slf.py(), high, low)?;
        to_py(slf.py(), send::pause_if_above(slf))
    }

    /// What is known of the socket: 'socket', 'sockname', 'peername'.
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        match self.extra_dict(py)?.get_item(name)? {
            Some(value) => Ok(value.unbind()),
            None => Ok(default.unwrap_or_else(|| py.None())),
        }
    }

    fn __repr__(&self) -> String {
        self.describe()
    }

    // Private names that programs read

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Py<PyAny> {
        if self.closed.get() {
            return py.None();
        }
        self.runtime.object().clone().into_bound(py).unbind()
    }

    #[getter]
    fn _protocol(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.protocol.get())
    }

    #[getter]
    fn _sock(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.socket.get().filter(|_| !self.closed.get()))
    }

    #[getter]
    fn _sock_fd(&self) -> RawFd {
        self.fd
    }

    #[getter]
    fn _address(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.remote.get())
    }

    #[getter]
    fn _extra<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.extra_dict(py)
    }

    /// A deque of (data, address), a copy.
    #[getter]
    fn _buffer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let queued: Vec<(Obj, Obj)> = self.queue.with(py, |queue| {
            queue.iter().map(|queued| (queued.data.as_obj().clone(), queued.receiver.clone())).collect()
        });
        let deque = py.import("collections")?.getattr("deque")?.call0()?;
        for (data, receiver) in queued {
            let pair = PyTuple::new(py, [data.into_bound(py), receiver.into_bound(py)])?;
            deque.call_method1("append", (pair,))?;
        }
        Ok(deque)
    }

    #[getter]
    fn _buffer_size(&self) -> usize {
        self.queued_bytes.get()
    }

    #[getter]
    fn _closing(&self) -> bool {
        self.closing.get()
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
            self.cells().into_iter().for_each(|cell| visitor.cell(cell));
            self.names.peek(|names| {
                names.peer.visit(visitor);
                names.local.visit(visitor);
            });
            self.peers.peek(|peers| peers.visit(visitor));
            self.queue.peek(|queue| {
                queue.iter().for_each(|queued| visitor.obj(&queued.receiver));
            });
        })
    }

    fn __clear__(&self) {
        // The socket is closed by the destructor.
        for cell in [&self.remote, &self.protocol, &self.context, &self.waiter, &self.lost_error, &self.extra] {
            cell.set(None);
        }
    }
}

impl collector::Finalized for DatagramTransport {
    fn finalize(&self, py: Python<'_>) {
        // First of all: the runtime's list must not see a dying object.
        drop(self.membership.with(py, Option::take));
        if !self.closed.get() {
            reports::died_open(py, &self.describe(), || self.close_socket(py));
        }
    }
}

impl Drop for DatagramTransport {
    fn drop(&mut self) {
        Python::try_attach(|py| collector::Finalized::finalize(self, py));
    }
}

/// `transport.sendto(data, addr=None)`, the one method that runs per packet.
struct SendTo;

impl fastcall::FastMethod<DatagramTransport> for SendTo {
    const NAME: &'static std::ffi::CStr = c"sendto";
    const DOC: &'static std::ffi::CStr =
        c"Send a datagram; never blocks. addr is where to, None for the address the endpoint was made with.";

    fn call(py: Python<'_>, this: &Obj, _: &DatagramTransport, args: &fastcall::Args<'_>) -> RawResult<Obj> {
        static DATA: Name = Name::new(c"data");
        static ADDR: Name = Name::new(c"addr");
        let (mut data, mut receiver) = (args.get(0), args.get(1));
        if args.len() > 2 {
            let text = format!("sendto() takes from 2 to 3 positional arguments but {} were given", args.len() + 1);
            return Err(fastcall::type_error(py, text));
        }
        if args.keyword_count() > 0 {
            let [named_data, named_receiver] = args.keywords(py, [&DATA, &ADDR])?;
            for (place, named, name) in [(&mut data, named_data, "data"), (&mut receiver, named_receiver, "addr")] {
                if named.is_some() && place.is_some() {
                    let text = format!("sendto() got multiple values for argument '{name}'");
                    return Err(fastcall::type_error(py, text));
                }
                *place = named.or(place.take());
            }
        }
        let Some(data) = data else {
            args.require(py, &["data"])?;
            return Ok(Obj::none(py));
        };
        let this = this.borrow(py);
        let this = this.cast::<DatagramTransport>().expect("checked by the method descriptor");
        send::send_to(&this, data, receiver.unwrap_or_else(|| Obj::none(py)))?;
        Ok(Obj::none(py))
    }
}

pub(super) fn add_methods(py: Python<'_>) -> PyResult<()> {
    py.get_type::<DatagramTransport>().setattr("max_size", receive::DATAGRAM_BYTES_MAX)?;
    fastcall::add_method::<DatagramTransport, SendTo>(py)
}
