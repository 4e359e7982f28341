//! The sending half of a datagram transport.
//!
//! A datagram is offered to the kernel at once. If the kernel has no room it waits in the queue, and what is sent after it waits
//! behind it. An error of the kernel is the protocol's `error_received`; the datagram is gone, the transport goes on.
//! Addresses that are not plainly numeric go through Python's `socket`, whose lookup blocks, as asyncio's.

use std::io;

use driver::Address;
use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::receive::is_not_now;
use super::{DatagramTransport, Family, Peer, peers};
use crate::interop::errors;
use crate::raw::bytes::{self, Bytes};
use crate::raw::call;
use crate::raw::compat;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_raw};
use crate::transports::{address, reports};

/// Of one queue in one turn; the socket stays writable, and the rest follows in the next one.
const BATCH_MAX: usize = 256;

const WRITE_FAILED: &str = "Fatal write error on datagram transport";

/// A datagram that the kernel had no room for.
pub(super) struct Queued {
    pub(super) data: Bytes,
    /// `None` for Python: the peer that the socket is connected to.
    pub(super) receiver: Obj,
}

impl Queued {
    fn counted_bytes(&self) -> usize {
        self.data.as_ref().len() + compat::DATAGRAM_HEADER_BYTES
    }
}

enum Sent {
    Gone,
    NotNow,
    /// For `error_received`.
    Error(PyErr),
    /// The end of the transport.
    Fatal(PyErr),
}

pub(super) fn send_to(this: &Bound<'_, DatagramTransport>, data: Obj, receiver: Obj) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    let data = match Bytes::from_obj(data) {
        Ok(bytes) => bytes.into_obj(),
        Err(data) if bytes::is_mutable_buffer(&data) => data,
        Err(data) => return Err(wrong_type(py, &data)),
    };
    if !compat::EMPTY_DATAGRAMS_ARE_SENT && !to_raw(py, data.borrow(py).is_truthy())? {
        return Ok(());
    }
    let receiver = match transport.remote.get() {
        None => receiver,
        Some(remote) => {
            if !receiver.is_none() && !call::equal(py, &receiver, &remote)? {
                let text = format!("Invalid address: must be None or {}", to_raw(py, remote.borrow(py).str())?);
                return Err(Raised::from_err(py, PyValueError::new_err(text)));
            }
            remote
        }
    };
    if is_lost(py, transport)? {
        return Ok(());
    }
    if transport.queue.with(py, |queue| queue.is_empty()) {
        match send(py, transport, &data, &receiver) {
            Sent::Gone => return Ok(()),
            Sent::NotNow => {
                // Nobody waits for a socket that is about to be closed.
                if transport.conn_lost.get() > 0 {
                    return Ok(());
                }
            }
            Sent::Error(err) => {
                return match transport.protocol.get() {
                    Some(protocol) => super::error_received(py, &protocol, err),
                    None => Ok(()),
                };
            }
            Sent::Fatal(err) => return super::fatal_error(this, err, WRITE_FAILED),
        }
    }
    // A copy of what could change.
    let data = match Bytes::from_obj(data) {
        Ok(bytes) => bytes,
        Err(buffer) => Bytes::from_buffer(py, &buffer)?,
    };
    let queued = Queued { data, receiver };
    let size = queued.counted_bytes();
    transport.queue.append(py, queued)?;
    transport.queued_bytes.set(transport.queued_bytes.get() + size);
    if !transport.waits_for_writable.replace(true) {
        super::update_interest(this)?;
    }
    pause_if_above(this)
}

/// The kernel takes datagrams again.
pub(super) fn write_ready(this: &Bound<'_, DatagramTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    for _ in 0..BATCH_MAX {
        let Some(queued) = transport.queue.with(py, |queue| queue.pop_front()) else {
            break;
        };
        let sent = send(py, transport, queued.data.as_obj(), &queued.receiver);
        if let Sent::NotNow = sent {
            transport.queue.with(py, |queue| queue.push_front(queued));
            break;
        }
        transport.queued_bytes.set(transport.queued_bytes.get() - queued.counted_bytes());
        match sent {
            Sent::Gone | Sent::NotNow => {}
            Sent::Error(err) => {
                let Some(protocol) = transport.protocol.get() else {
                    return Ok(());
                };
                let called = transport.in_context(py, || super::error_received(py, &protocol, err));
                return match called {
                    Ok(()) => Ok(()),
                    Err(raised) => super::reporter(this).callback_failed(&protocol, "error_received", raised),
                };
            }
            Sent::Fatal(err) => return super::fatal_error(this, err, WRITE_FAILED),
        }
    }
    resume_if_below(this)?; // may send more
    if transport.conn_lost.get() > 0 || !transport.queue.with(py, |queue| queue.is_empty()) {
        return Ok(());
    }
    transport.waits_for_writable.set(false);
    if transport.closing.get() {
        super::schedule_connection_lost(this, None);
        return Ok(());
    }
    super::update_interest(this)
}

// One datagram

enum Target {
    Connected,
    Native(Address),
    /// By Python's `socket`.
    Socket,
}

fn send(py: Python<'_>, transport: &DatagramTransport, data: &Obj, receiver: &Obj) -> Sent {
    let driver = &transport.runtime.driver;
    let target = match target(py, transport, receiver) {
        Ok(target) => target,
        Err(err) => return Sent::Fatal(err),
    };
    let sent = match &target {
        Target::Connected => with_memory(py, data, |memory| driver.send(transport.fd, memory)),
        Target::Native(address) => with_memory(py, data, |memory| driver.send_to(transport.fd, memory, address)),
        Target::Socket => return send_by_socket(py, transport, data, receiver),
    };
    match sent {
        Ok(Ok(_)) => Sent::Gone,
        Ok(Err(error)) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Sent::NotNow,
            _ => Sent::Error(errors::os_error(py, &error)),
        },
        Err(raised) => Sent::Fatal(raised.fetch(py)),
    }
}

#[inline]
fn with_memory<R>(py: Python<'_>, data: &Obj, f: impl FnOnce(&[u8]) -> R) -> RawResult<R> {
    match Bytes::from_obj(data.clone()) {
        Ok(bytes) => Ok(f(bytes.as_ref())),
        Err(buffer) => bytes::with_buffer(py, &buffer, f),
    }
}

#[inline]
fn target(py: Python<'_>, transport: &DatagramTransport, receiver: &Obj) -> PyResult<Target> {
    if transport.peer == Peer::Named || (transport.peer == Peer::Unnamed && receiver.is_none()) {
        return Ok(Target::Connected);
    }
    let address = match transport.family {
        Family::V4 => peers::address_of(py, &transport.peers, receiver).filter(|address| address.is_ipv4()),
        Family::V6 => peers::address_of(py, &transport.peers, receiver).filter(|address| address.is_ipv6()),
        Family::Unix => {
            let path = address::unix_path(&receiver.borrow(py))?;
            return Ok(path.map_or(Target::Socket, |path| Target::Native(Address::Unix(path.into()))));
        }
        Family::Other => None,
    };
    Ok(address.map_or(Target::Socket, |address| Target::Native(Address::Inet(address))))
}

fn send_by_socket(py: Python<'_>, transport: &DatagramTransport, data: &Obj, receiver: &Obj) -> Sent {
    let Some(socket) = transport.socket.get() else {
        return Sent::Gone;
    };
    match socket.borrow(py).call_method1("sendto", (data.borrow(py), receiver.borrow(py))) {
        Ok(_) => Sent::Gone,
        Err(err) if is_not_now(py, &err) => Sent::NotNow,
        Err(err) if err.is_instance_of::<PyOSError>(py) => Sent::Error(err),
        Err(err) => Sent::Fatal(err),
    }
}

// Flow control

pub(super) fn pause_if_above(this: &Bound<'_, DatagramTransport>) -> RawResult<()> {
    let transport = this.get();
    match transport.flow.with(this.py(), |flow| flow.grown(transport.queued_bytes.get())) {
        Some(change) => super::reporter(this).flow_changed(change),
        None => Ok(()),
    }
}

fn resume_if_below(this: &Bound<'_, DatagramTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    match transport.flow.with(py, |flow| flow.shrunk(transport.queued_bytes.get())) {
        Some(change) => transport.in_context(py, || super::reporter(this).flow_changed(change)),
        None => Ok(()),
    }
}

// Refusals

/// Whether the transport is gone; then the write is counted, and from some number on told. An endpoint without a remote address
/// sends until its socket is closed.
fn is_lost(py: Python<'_>, transport: &DatagramTransport) -> RawResult<bool> {
    let count = transport.conn_lost.get();
    if count == 0 || (transport.remote.is_none() && !transport.closed.get()) {
        return Ok(false);
    }
    reports::write_after_loss(py, &transport.conn_lost, "socket.send() raised exception.").map(|()| true)
}

#[cold]
fn wrong_type(py: Python<'_>, data: &Obj) -> Raised {
    let class: Bound<'_, PyType> = data.borrow(py).get_type();
    match class.name().and_then(|name| name.repr()) {
        Ok(name) => {
            Raised::from_err(py, PyTypeError::new_err(format!("data argument must be a bytes-like object, not {name}")))
        }
        Err(err) => Raised::from_err(py, err),
    }
}
