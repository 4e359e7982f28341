//! The listening sockets of a server: accepting, and what happens when it fails.
//!
//! As many connections a turn as the backlog allows, each with its own copy of the context in which serving began, its
//! protocol made by the factory, and a stream transport. When the system has no descriptors or memory left, or refuses for
//! any other reason, that is reported once, listening rests for a second and goes on by itself.
//!
//! Must stay true
//! - One connection that fails (factory, protocol) disturbs no other.

use std::io;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use driver::{Address, Interest, Token};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::Server;
use crate::interop::{errors, imports, log};
use crate::raw::call;
use crate::raw::cell::{GilCell, GilValue, ObjCell};
use crate::raw::context;
use crate::raw::instance::Visitor;
use crate::raw::kept_context::KeptContext;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_py, to_raw};
use crate::runtime::RuntimeRef;
use crate::runtime::slots::SlotKind;
use crate::transports::address::{self, Names, socket_object};
use crate::transports::reports;
use crate::transports::stream::{self, Parts, Socket};

/// asyncio's `constants.ACCEPT_RETRY_DELAY`.
const ACCEPT_RETRY_SECONDS: u32 = 1;

/// What a system without descriptors or memory answers: EMFILE, ENFILE, ENOBUFS, ENOMEM.
const OUT_OF_RESOURCES: [i32; 4] = [24, 23, 105, 12];

/// Errors of a connection that broke while it waited in the backlog; `accept` hands them out, the next one may be fine:
/// ECONNABORTED, EPROTO, ENOPROTOOPT, ENETDOWN, ENETUNREACH, EHOSTDOWN, EHOSTUNREACH, ENONET, EOPNOTSUPP, EPERM.
const OF_THE_PEER: [i32; 10] = [103, 71, 92, 100, 101, 112, 113, 64, 95, 1];

/// So many of them in a row are none of a peer: no backlog is longer (the system's bound is 4096 unless somebody raised it).
const BROKEN_IN_A_ROW_MAX: u32 = 5000;

/// One listening socket of a server. Private to it.
#[pyclass(module = "hayase._core", frozen)]
pub(crate) struct Listener {
    server: ObjCell,
    socket: ObjCell,
    /// A copy of the context in which it was made, never entered: each connection has a copy of it.
    context: ObjCell,
    runtime: RuntimeRef,
    fd: RawFd,
    token: GilValue<Option<Token>>,
    stopped: GilValue<bool>,
    /// The connections' own name, unless the socket is bound to all addresses.
    local: GilCell<Option<Rc<address::Name>>>,
    /// How many connections the next event may bring: grows while there are more, back to one when there are none.
    batch: GilValue<u32>,
    batch_max: u32,
    /// Errors of peers since `accept` last said anything else.
    broken_in_a_row: GilValue<u32>,
}

impl Listener {
    pub(super) fn new(server: &Bound<'_, Server>, socket: &Bound<'_, PyAny>) -> PyResult<Listener> {
        let py = server.py();
        let fd: RawFd = socket.call_method0("fileno")?.extract()?;
        let local = match address::of_socket(socket, "getsockname")? {
            address::Name::Inet(address) => {
                // Inherited by what is accepted: one system call less for each connection.
                set_nodelay(fd);
                (!address.ip().is_unspecified()).then_some(address::Name::Inet(address))
            }
            address::Name::Unknown => None,
            name @ (address::Name::Unix(_) | address::Name::Python(_)) => Some(name),
        };
        Ok(Listener {
            server: ObjCell::new(Some(Obj::from_any(server.as_any()))),
            socket: ObjCell::new(Some(Obj::from_any(socket))),
            context: ObjCell::new(Some(to_py(py, context::copy_current(py))?)),
            runtime: server.get().runtime.clone(),
            fd,
            token: GilValue::new(None),
            stopped: GilValue::new(false),
            local: GilCell::new(local.map(Rc::new)),
            batch: GilValue::new(1),
            batch_max: u32::try_from(server.get().backlog).unwrap_or(1).max(1),
            broken_in_a_row: GilValue::new(0),
        })
    }

    pub(super) fn stop(&self, py: Python<'_>) {
        self.stopped.set(true);
        self.rest(py);
    }

    fn rest(&self, py: Python<'_>) {
        if let Some(token) = self.token.replace(None) {
            drop(self.runtime.unwatch(py, token));
        }
    }
}

#[pymethods]
impl Listener {
    /// After a rest.
    fn _resume(slf: &Bound<'_, Self>) -> PyResult<()> {
        let listener = slf.get();
        if listener.stopped.get() || listener.token.get().is_some() {
            return Ok(());
        }
        watch(slf)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| {
            self.runtime.visit(visitor);
            [&self.server, &self.socket, &self.context].into_iter().for_each(|cell| visitor.cell(cell));
        })
    }

    fn __clear__(&self) {
        [&self.server, &self.socket, &self.context].into_iter().for_each(|cell| cell.set(None));
    }
}

pub(super) fn watch(this: &Bound<'_, Listener>) -> PyResult<()> {
    let py = this.py();
    let listener = this.get();
    let object = Obj::from_any(this.as_any());
    let token = listener
        .runtime
        .watch(py, listener.fd, Interest::READABLE, SlotKind::Listener, object)
        .map_err(|error| errors::os_error(py, &error))?;
    listener.token.set(Some(token));
    Ok(())
}

/// Connections wait.
pub(crate) fn on_ready(py: Python<'_>, object: &Obj) -> RawResult<()> {
    let object = object.borrow(py);
    let this = object.cast::<Listener>().expect("slots of this kind hold listeners");
    let listener = this.get();
    let batch = listener.batch.get();
    for _ in 0..batch {
        if listener.stopped.get() {
            return Ok(());
        }
        match listener.runtime.driver.accept_from(listener.fd) {
            Ok((fd, peer)) => {
                listener.broken_in_a_row.set(0);
                accepted(&this, fd, peer)?;
            }
            Err(error) => {
                listener.batch.set(1);
                return to_raw(py, accept_failed(&this, &error));
            }
        }
    }
    // All of them were there: next time there may be more.
    listener.batch.set((batch * 2).min(listener.batch_max));
    Ok(())
}

fn accepted(this: &Bound<'_, Listener>, fd: OwnedFd, peer: Address) -> RawResult<()> {
    let py = this.py();
    let mut protocol = None;
    match connect(this, fd, peer, &mut protocol) {
        Ok(()) => Ok(()),
        Err(err) => to_raw(py, connection_failed(this, err, protocol)),
    }
}

fn connect<'py>(
    this: &Bound<'py, Listener>,
    fd: OwnedFd,
    peer: Address,
    protocol: &mut Option<Bound<'py, PyAny>>,
) -> PyResult<()> {
    let py = this.py();
    let listener = this.get();
    let (Some(server), Some(context)) = (listener.server.get(), listener.context.get()) else {
        return Ok(());
    };
    let server = server.into_bound(py).cast_into::<Server>()?;
    let Some(factory) = server.get().factory.get() else {
        return Ok(());
    };
    let context = to_py(py, KeptContext::copy_of(py, &context))?;
    let made = context.run_in(py, || call::call0(py, &factory)).expect("made here");
    let made = to_py(py, made.and_then(|made| made))?;
    let protocol = protocol.insert(made.into_bound(py));
    let number = fd.as_raw_fd();
    let (socket, names) = match peer {
        peer @ (Address::Inet(_) | Address::Unix(_)) => {
            let local = listener.local.with(py, |name| name.clone());
            let local = local.unwrap_or_else(|| Rc::new(address::of_descriptor(driver::local_address(number))));
            (Socket::Native(fd), Names { peer: peer.into(), local })
        }
        // Another family: Python's socket knows how its addresses look.
        Address::Other => {
            let socket = socket_object(py, number)?;
            // The socket object closes it.
            let _ = fd.into_raw_fd();
            (Socket::Python(Obj::from_any(&socket)), Names::of_socket(&socket)?)
        }
    };
    let layer = server.get().tls_layer(py, protocol)?;
    let receiver = layer.as_ref().map_or(&*protocol, |layer| layer.as_any());
    let parts = Parts { socket, fd: number, names, protocol: receiver, context, server: Some(&server), waiter: None };
    let transport = stream::make(py, &listener.runtime, parts)?;
    if listener.runtime.scheduler.debug.get() {
        log::logger(py)?.call_method1("debug", ("%r got a new connection: %r", &server, &transport))?;
    }
    Ok(())
}

fn connection_failed(this: &Bound<'_, Listener>, err: PyErr, protocol: Option<Bound<'_, PyAny>>) -> PyResult<()> {
    let py = this.py();
    if errors::leaves_the_loop(py, &err) {
        return Err(err);
    }
    let report = PyDict::new(py);
    report.set_item("message", "Error on transport creation for incoming connection")?;
    report.set_item("exception", err.into_value(py))?;
    if let Some(protocol) = protocol {
        report.set_item("protocol", protocol)?;
    }
    reports::call_exception_handler(py, this.get().runtime.object(), &report)
}

fn accept_failed(this: &Bound<'_, Listener>, error: &io::Error) -> PyResult<()> {
    let py = this.py();
    let listener = this.get();
    let broken = listener.broken_in_a_row.replace(0);
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
        return Ok(());
    }
    let errno = error.raw_os_error().unwrap_or(0);
    if OF_THE_PEER.contains(&errno) && broken < BROKEN_IN_A_ROW_MAX {
        listener.broken_in_a_row.set(broken + 1);
        return Ok(());
    }
    // The kernel goes on reporting the socket as ready: without a rest this would be a busy loop.
    listener.rest(py);
    let report = PyDict::new(py);
    let resume = this.getattr("_resume")?;
    let event_loop = listener.runtime.object().borrow(py);
    event_loop.call_method1("call_later", (ACCEPT_RETRY_SECONDS, resume))?;
    let exhausted = OUT_OF_RESOURCES.contains(&errno);
    let text = if exhausted {
        "socket.accept() out of system resource"
    } else {
        "socket.accept() failed; connections are accepted again in a second"
    };
    report.set_item("message", text)?;
    report.set_item("exception", errors::os_error(py, error).into_value(py))?;
    if let Some(socket) = listener.socket.get() {
        report.set_item("socket", imports::transport_socket_class(py)?.call1((socket.into_bound(py),))?)?;
    }
    reports::call_exception_handler(py, listener.runtime.object(), &report)
}

/// TCP_NODELAY; what is no TCP socket does not mind.
pub(crate) fn set_nodelay(fd: RawFd) {
    let _ = driver::set_nodelay(fd);
}
