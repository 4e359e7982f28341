//! The receiving half of a datagram transport.
//!
//! While datagrams wait, several are taken each time the socket is reported: as many as were there last time, twice as many when
//! all of them were, at most [`BATCH_MAX`], so that the others have their turn. What is left comes up in the next turn.
//! A protocol that pauses, closes or aborts in the middle receives no more.
//!
//! Each is a `recvfrom` of its own: `recvmmsg` is no faster (0.50 against 0.49 µs a datagram with 32 waiting, 0.76 against
//! 0.65 with 4; Linux 6.18), and would take from the kernel what such a protocol leaves there.

use std::io;

use driver::Address;
use pyo3::exceptions::{PyBlockingIOError, PyInterruptedError, PyOSError};
use pyo3::prelude::*;

use super::{DatagramTransport, Family, peers};
use crate::interop::errors;
use crate::raw::bytes::Bytes;
use crate::raw::call::{self, Name};
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_raw};
use crate::transports::address;

static DATAGRAM_RECEIVED: Name = Name::new(c"datagram_received");

/// Of one socket in one turn: some 100 µs of a small protocol's work.
const BATCH_MAX: u32 = 32;

/// asyncio's `max_size`. What is longer is cut off; only Unix datagrams can be.
pub(super) const DATAGRAM_BYTES_MAX: usize = 256 * 1024;

enum Received {
    Datagram {
        data: Obj,
        sender: Obj,
    },
    Nothing,
    /// For `error_received`.
    Error(PyErr),
    /// The end of the transport.
    Fatal(PyErr),
}

pub(super) fn read_ready(this: &Bound<'_, DatagramTransport>) -> RawResult<()> {
    let transport = this.get();
    transport.in_context(this.py(), || receive_batch(this))
}

fn receive_batch(this: &Bound<'_, DatagramTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    let batch = transport.batch.get();
    for count in 0..batch {
        if transport.conn_lost.get() > 0 || !transport.wants_to_read() {
            return Ok(());
        }
        let Some(protocol) = transport.protocol.get() else {
            return Ok(());
        };
        let called = match receive(py, transport) {
            Received::Datagram { data, sender } => call::method(py, &protocol, &DATAGRAM_RECEIVED, &[&data, &sender])
                .map(drop)
                .map_err(|raised| ("datagram_received", raised)),
            Received::Nothing => {
                transport.batch.set(count.max(1));
                return Ok(());
            }
            Received::Error(err) => {
                super::error_received(py, &protocol, err).map_err(|raised| ("error_received", raised))
            }
            Received::Fatal(err) => return super::fatal_error(this, err, "Fatal read error on datagram transport"),
        };
        if let Err((name, raised)) = called {
            super::reporter(this).callback_failed(&protocol, name, raised)?;
        }
    }
    // All of them were there: next time there may be more.
    transport.batch.set((batch * 2).min(BATCH_MAX));
    Ok(())
}

fn receive(py: Python<'_>, transport: &DatagramTransport) -> Received {
    let received = match transport.family {
        Family::V4 | Family::V6 => transport.runtime.scratch.with(py, |buffer| receive_into(py, transport, buffer)),
        Family::Unix => transport.large_buffer.with(py, |buffer| {
            let buffer = buffer.get_or_insert_with(|| vec![0; DATAGRAM_BYTES_MAX].into_boxed_slice());
            receive_into(py, transport, buffer)
        }),
        Family::Other => return receive_by_socket(py, transport),
    };
    match received {
        Ok((data, sender)) => {
            let named = data.and_then(|data| Ok((data.into_obj(), to_raw(py, sender_name(py, transport, sender))?)));
            match named {
                Ok((data, sender)) => Received::Datagram { data, sender },
                Err(raised) => Received::Fatal(raised.fetch(py)),
            }
        }
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Received::Nothing,
            _ => Received::Error(errors::os_error(py, &error)),
        },
    }
}

#[inline]
fn receive_into(
    py: Python<'_>,
    transport: &DatagramTransport,
    buffer: &mut [u8],
) -> io::Result<(RawResult<Bytes>, Option<Address>)> {
    let (count, sender) = transport.runtime.driver.recv_from(transport.fd, buffer)?;
    Ok((Bytes::copy(py, &buffer[..count]), sender))
}

#[inline]
fn sender_name(py: Python<'_>, transport: &DatagramTransport, sender: Option<Address>) -> PyResult<Obj> {
    match sender {
        Some(Address::Inet(address)) => peers::tuple_of(py, &transport.peers, &address),
        Some(Address::Unix(name)) if !name.is_empty() => address::unix_name(py, &name).map(Obj::from_bound),
        Some(Address::Unix(_) | Address::Other) | None => Ok(Obj::none(py)),
    }
}

/// A family whose addresses only Python's `socket` knows.
fn receive_by_socket(py: Python<'_>, transport: &DatagramTransport) -> Received {
    let Some(socket) = transport.socket.get() else {
        return Received::Nothing;
    };
    let received = socket.borrow(py).call_method1("recvfrom", (DATAGRAM_BYTES_MAX,)).and_then(|pair| {
        Ok(Received::Datagram { data: Obj::from_bound(pair.get_item(0)?), sender: Obj::from_bound(pair.get_item(1)?) })
    });
    match received {
        Ok(received) => received,
        Err(err) if is_not_now(py, &err) => Received::Nothing,
        Err(err) if err.is_instance_of::<PyOSError>(py) => Received::Error(err),
        Err(err) => Received::Fatal(err),
    }
}

pub(super) fn is_not_now(py: Python<'_>, err: &PyErr) -> bool {
    err.is_instance_of::<PyBlockingIOError>(py) || err.is_instance_of::<PyInterruptedError>(py)
}
