//! The sending half of a stream transport.
//!
//! Small writes are corked: they are kept until the ready entry (a callback, one step of a task) that wrote them ends,
//! and leave as one system call. If the last flush is not [`FLUSH_AT_MOST_EVERY`] ago, they wait for the entries after it,
//! at most until the turn ends: what a turn writes to many transports leaves together. What is large, or crosses the
//! high-water mark, goes at once; so does everything while the loop does not run, because then no entry ends. What the
//! kernel did not take waits in the queue, and what is written after it waits behind it.
//!
//! Must stay true
//! - Bytes leave in the order of the writes, whole, once.
//! - What is written is what the peer sees: mutable data is copied before `write` returns.
//! - `queued_bytes` counts what is corked and what is queued.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use driver::{FlowChange, IO_SLICES_MAX};
use pyo3::exceptions::{PyBufferError, PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyType};

use super::reports;
use super::stream::{self, StreamTransport};
use super::tls::protocol::TlsProtocol;
use crate::interop::errors;
use crate::raw::bytes::{self, Bytes};
use crate::raw::compat;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_raw};
use crate::runtime::Runtime;
use crate::tasks::wait;

/// From here on a write leaves at once: one more system call is nothing beside the copy.
const LARGE_WRITE_BYTES: usize = 64 * 1024;

/// So much of what a protocol writes while it receives leaves when it returns: it is in the cache now, and not any more when
/// a hundred connections have written as much (a twentieth of an echo of 16 KiB; of 8 KiB nothing). What tasks write was
/// received a turn ago and gains nothing.
const HOT_WRITE_BYTES: usize = 16 * 1024;

/// A write that wakes its receiver costs more than one to a receiver that runs already. With 50 connections,
/// 500 µs save uvicorn a tenth and aiohttp a fifth of their time; 250 µs half of that, more nothing.
const FLUSH_AT_MOST_EVERY: Duration = Duration::from_micros(500);

const WRITE_FAILED: &str = "Fatal write error on socket transport";

// What the program calls

pub(super) fn write(this: &Bound<'_, StreamTransport>, data: Obj) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    let chunk = match Bytes::from_obj(data) {
        Ok(bytes) => {
            refuse_write(py, transport)?;
            if bytes.as_ref().is_empty() || is_lost(py, transport)? {
                return Ok(());
            }
            bytes
        }
        Err(data) if bytes::is_mutable_buffer(&data) => {
            refuse_write(py, transport)?;
            if to_raw(py, data.borrow(py).len())? == 0 || is_lost(py, transport)? {
                return Ok(());
            }
            match send_borrowed(this, &data)? {
                Some(rest) => rest,
                None => return Ok(()),
            }
        }
        Err(data) => return Err(wrong_type(py, &data)),
    };
    enqueue(py, transport, chunk)?;
    leave_or_cork(this)
}

pub(super) fn writelines(this: &Bound<'_, StreamTransport>, list_of_data: &Bound<'_, PyAny>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    if compat::WRITELINES_JOINS {
        let joined = PyBytes::new(py, b"").call_method1("join", (list_of_data,));
        return write(this, Obj::from_bound(to_raw(py, joined)?));
    }
    refuse(
        py,
        transport,
        "Cannot call writelines() after write_eof()",
        "unable to writelines; sendfile is in progress",
    )?;
    if !to_raw(py, list_of_data.is_truthy())? {
        return Ok(());
    }
    // Everything is looked at before anything is queued: a wrong item sends nothing.
    let chunks = to_raw(py, collect_chunks(list_of_data))?;
    if chunks.is_empty() || is_lost(py, transport)? {
        return Ok(());
    }
    for chunk in chunks {
        enqueue(py, transport, chunk)?;
    }
    leave_or_cork(this)
}

fn collect_chunks(list_of_data: &Bound<'_, PyAny>) -> PyResult<Vec<Bytes>> {
    let py = list_of_data.py();
    let mut chunks = Vec::new();
    for item in list_of_data.try_iter()? {
        let chunk = match Bytes::from_obj(Obj::from_bound(item?)) {
            Ok(bytes) => bytes,
            Err(item) => {
                // The error for a wrong item is memoryview's, as asyncio's.
                let view = pyo3::types::PyMemoryView::from(&item.borrow(py))?;
                crate::raw::to_py(py, Bytes::from_buffer(py, &Obj::from_bound(view)))?
            }
        };
        if !chunk.as_ref().is_empty() {
            chunks.push(chunk);
        }
    }
    Ok(chunks)
}

pub(super) fn write_eof(this: &Bound<'_, StreamTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    if transport.closing.get() || transport.eof_written.get() {
        return Ok(());
    }
    transport.eof_written.set(true);
    flush(this)?;
    if transport.queued_bytes.get() > 0 || transport.conn_lost.get() > 0 {
        return Ok(());
    }
    match transport.runtime.driver.shutdown_write(transport.fd) {
        Ok(()) => Ok(()),
        Err(error) => Err(Raised::from_err(py, errors::os_error(py, &error))),
    }
}

pub(super) fn close(this: &Bound<'_, StreamTransport>) -> RawResult<()> {
    let transport = this.get();
    if transport.closing.get() {
        return Ok(());
    }
    flush(this)?;
    // An error while flushing has closed it already.
    if transport.closing.replace(true) {
        return Ok(());
    }
    if transport.queued_bytes.get() == 0 {
        stream::schedule_connection_lost(this, None);
        return Ok(());
    }
    stream::update_interest(this)
}

pub(super) fn abort(this: &Bound<'_, StreamTransport>) -> RawResult<()> {
    if this.get().conn_lost.get() == 0 {
        // What asyncio would have given to the kernel already.
        flush(this)?;
        stream::force_close(this, None);
    }
    Ok(())
}

// Corking and flushing

/// Whether a transport waits to be flushed.
#[inline]
pub(crate) fn has_corked(py: Python<'_>, runtime: &Runtime) -> bool {
    !runtime.corked.with(py, |list| list.is_empty())
}

/// Whether what is corked leaves now, between two ready entries of a turn.
#[inline]
pub(crate) fn flush_is_due(py: Python<'_>, runtime: &Runtime) -> bool {
    if !has_corked(py, runtime) {
        return false;
    }
    let now = runtime.driver.now();
    let due = now.saturating_since(runtime.flushed_at.get()) >= FLUSH_AT_MOST_EVERY;
    if due {
        runtime.flushed_at.set(now);
    }
    due
}

/// When it is due, and when a turn ends. In the order of the writes. Flushing may call the protocol, which may write: until
/// nothing is left. A `KeyboardInterrupt` leaves the rest in the list, for the next turn.
pub(crate) fn flush_all(py: Python<'_>, runtime: &Runtime) -> RawResult<()> {
    while let Some(object) = runtime.corked.with(py, VecDeque::pop_front) {
        let object = object.borrow(py);
        if let Ok(transport) = object.cast::<StreamTransport>() {
            flush(&transport)?;
        }
    }
    Ok(())
}

/// Sends at once, or has the transport flushed after the entry. Then asks the protocol to pause if it is too much.
fn leave_or_cork(this: &Bound<'_, StreamTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    let queued = transport.queued_bytes.get();
    if transport.waits_for_writable.get() {
        return pause_if_above(this);
    }
    let runtime = &transport.runtime;
    if queued >= LARGE_WRITE_BYTES
        || runtime.scheduler.running_thread.get() == 0
        || transport.flow.with(py, |flow| queued > flow.limits().1)
    {
        flush(this)?;
        return pause_if_above(this);
    }
    cork(this);
    Ok(())
}

/// A protocol that received has returned.
#[inline]
pub(super) fn leave_while_hot(this: &Bound<'_, StreamTransport>) -> RawResult<()> {
    let transport = this.get();
    if transport.in_corked_list.get() && transport.queued_bytes.get() >= HOT_WRITE_BYTES {
        flush(this)?;
    }
    Ok(())
}

/// Has the transport flushed after the entry.
fn cork(this: &Bound<'_, StreamTransport>) {
    let transport = this.get();
    if transport.in_corked_list.replace(true) {
        return;
    }
    let object = Obj::from_any(this.as_any());
    transport.runtime.corked.with(this.py(), |list| list.push_back(object));
}

/// The TLS layer above has so many bytes of ciphertext. They leave as what is written does, but from where they lie.
pub(super) fn layer_is_due(this: &Bound<'_, StreamTransport>, ciphertext_bytes: usize) -> RawResult<()> {
    let transport = this.get();
    if is_lost(this.py(), transport)? {
        return Ok(());
    }
    transport.layer_due.set(true);
    if transport.waits_for_writable.get()
        || ciphertext_bytes >= LARGE_WRITE_BYTES
        || transport.runtime.scheduler.running_thread.get() == 0
    {
        return flush(this);
    }
    cork(this);
    Ok(())
}

/// Takes the ciphertext out of the layer and offers it to the kernel, if nothing is before it; what is left is queued.
fn pull_from_layer(this: &Bound<'_, StreamTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    let Some(layer) = transport.protocol.get() else {
        return Ok(());
    };
    let layer = layer.borrow(py);
    let Ok(layer) = layer.cast::<TlsProtocol>() else {
        return Ok(());
    };
    let first = transport.queued_bytes.get() == 0 && !transport.waits_for_writable.get();
    let offered = layer.get().take_ciphertext_with(py, |ciphertext| {
        let count = if first { taken(transport.runtime.driver.send(transport.fd, ciphertext))? } else { 0 };
        let rest = &ciphertext[count..];
        Ok((!rest.is_empty()).then(|| Bytes::copy(py, rest)))
    })?;
    match offered {
        None => Ok(()),
        Some(Err(error)) => stream::fatal_error(this, errors::os_error(py, &error), WRITE_FAILED),
        Some(Ok(rest)) => match rest.transpose()? {
            Some(rest) => {
                enqueue(py, transport, rest)?;
                if first {
                    transport.waits_for_writable.set(true);
                    stream::update_interest(this)?;
                }
                pause_if_above(this)
            }
            None => {
                if transport.closing.get() && transport.conn_lost.get() == 0 {
                    stream::schedule_connection_lost(this, None);
                }
                Ok(())
            }
        },
    }
}

/// Gives the kernel what is corked, unless it still owes us readiness.
pub(super) fn flush(this: &Bound<'_, StreamTransport>) -> RawResult<()> {
    let transport = this.get();
    transport.in_corked_list.set(false);
    // In a forked child: the bytes are the parent's to send, and the peer is to see them once.
    if transport.runtime.driver.is_foreign_process() {
        transport.layer_due.set(false);
        transport.discard_queue();
        return Ok(());
    }
    if transport.layer_due.replace(false) {
        pull_from_layer(this)?;
    }
    if transport.waits_for_writable.get() || transport.queued_bytes.get() == 0 {
        return Ok(());
    }
    match transport.send_queued(this.py()) {
        Ok(Sent::Everything) => {
            // Written while closing: that was the last of it.
            if transport.closing.get() && transport.conn_lost.get() == 0 {
                stream::schedule_connection_lost(this, None);
            }
            Ok(())
        }
        Ok(Sent::Part) => {
            transport.waits_for_writable.set(true);
            stream::update_interest(this)
        }
        Err(error) => stream::fatal_error(this, errors::os_error(this.py(), &error), WRITE_FAILED),
    }
}

/// The kernel takes bytes again.
pub(super) fn write_ready(this: &Bound<'_, StreamTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    if transport.conn_lost.get() > 0 {
        return Ok(());
    }
    match transport.send_queued(py) {
        Ok(sent) => {
            if matches!(sent, Sent::Everything) {
                transport.waits_for_writable.set(false);
            }
        }
        Err(error) => return stream::fatal_error(this, errors::os_error(py, &error), WRITE_FAILED),
    }
    resume_if_below(this)?; // may write more
    if transport.conn_lost.get() > 0 {
        return Ok(());
    }
    if transport.queued_bytes.get() > 0 {
        return stream::update_interest(this);
    }
    if let Some(future) = transport.empty_waiter.get() {
        wait::resolve(py, &future)?;
    }
    if transport.closing.get() {
        stream::schedule_connection_lost(this, None);
        return Ok(());
    }
    if transport.eof_written.get()
        && let Err(error) = transport.runtime.driver.shutdown_write(transport.fd)
    {
        return stream::fatal_error(this, errors::os_error(py, &error), WRITE_FAILED);
    }
    stream::update_interest(this)
}

enum Sent {
    Everything,
    Part,
}

impl StreamTransport {
    /// Offers all that waits to the kernel. `Part`: it took no more.
    fn send_queued(&self, py: Python<'_>) -> io::Result<Sent> {
        let driver = &self.runtime.driver;
        if self.queue_is_empty(py) {
            let Some(object) = self.corked.take() else {
                return Ok(Sent::Everything);
            };
            let Ok(chunk) = Bytes::from_obj(object) else {
                return Ok(Sent::Everything);
            };
            let len = chunk.as_ref().len();
            let taken = taken(driver.send(self.fd, chunk.as_ref()))?;
            self.queued_bytes.set(self.queued_bytes.get() - taken);
            if taken == len {
                return Ok(Sent::Everything);
            }
            self.queue.with(py, |queue| queue.push_from(chunk, taken));
            return Ok(Sent::Part);
        }
        loop {
            // Chunks that are gone are dropped when the cell is closed again.
            let mut gone = Vec::new();
            let (offered, taken) = self.queue.with(py, |queue| {
                let slices = queue.io_slices(IO_SLICES_MAX);
                let offered: usize = slices.iter().map(|slice| slice.len()).sum();
                let sent = match &slices[..] {
                    [one] => driver.send(self.fd, one),
                    several => driver.send_vectored(self.fd, several),
                };
                let taken = taken(sent);
                if let Ok(count) = &taken {
                    queue.consume_with(*count, |chunk| gone.push(chunk));
                }
                (offered, taken)
            });
            drop(gone);
            let taken = taken?;
            self.queued_bytes.set(self.queued_bytes.get() - taken);
            if self.queued_bytes.get() == 0 {
                return Ok(Sent::Everything);
            }
            if taken < offered {
                return Ok(Sent::Part);
            }
        }
    }

    fn queue_is_empty(&self, py: Python<'_>) -> bool {
        self.queue.with_existing(py, |queue| queue.is_empty()).unwrap_or(true)
    }

    /// Forgets what waits; the references are dropped when no cell is open.
    pub(super) fn discard_queue(&self) {
        self.queued_bytes.set(0);
        self.layer_due.set(false);
        let queue = self.queue.take();
        let corked = self.corked.take();
        drop((queue, corked));
    }
}

/// "Not now" is nothing taken.
fn taken(sent: io::Result<usize>) -> io::Result<usize> {
    match sent {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(0),
        other => other,
    }
}

fn enqueue(py: Python<'_>, transport: &StreamTransport, chunk: Bytes) -> RawResult<()> {
    let queued_bytes = transport.queued_bytes.get() + chunk.as_ref().len();
    if transport.corked.is_none() && transport.queue_is_empty(py) {
        transport.queued_bytes.set(queued_bytes);
        transport.corked.set(Some(chunk.into_obj()));
        return Ok(());
    }
    // For what is corked and for this.
    let room = transport.queue.with(py, |queue| queue.try_reserve(2));
    room.map_err(|_| Raised::no_memory(py))?;
    transport.queued_bytes.set(queued_bytes);
    let first = transport.corked.take().and_then(|object| Bytes::from_obj(object).ok());
    transport.queue.with(py, |queue| {
        if let Some(first) = first {
            queue.push(first);
        }
        queue.push(chunk);
    });
    Ok(())
}

/// Mutable data: what is large and has nothing before it is offered to the kernel from where it lies; what is left over
/// (or everything, if it is to be corked) comes back as a copy.
fn send_borrowed(this: &Bound<'_, StreamTransport>, data: &Obj) -> RawResult<Option<Bytes>> {
    let py = this.py();
    let transport = this.get();
    let nothing_waits = transport.queued_bytes.get() == 0;
    let sent = bytes::with_buffer(py, data, |memory| {
        if memory.len() < LARGE_WRITE_BYTES || !nothing_waits {
            return Ok((Ok(0), Some(Bytes::copy(py, memory)?)));
        }
        let count = match taken(transport.runtime.driver.send(transport.fd, memory)) {
            Ok(count) => count,
            Err(error) => return Ok((Err(error), None)),
        };
        let rest = &memory[count..];
        Ok((Ok(count), if rest.is_empty() { None } else { Some(Bytes::copy(py, rest)?) }))
    });
    match sent {
        Ok(outcome) => {
            let (sent, rest) = outcome?;
            if let Err(error) = sent {
                stream::fatal_error(this, errors::os_error(py, &error), WRITE_FAILED)?;
                return Ok(None);
            }
            Ok(rest)
        }
        Err(raised) => {
            let err = raised.fetch(py);
            if err.is_instance_of::<PyBufferError>(py) {
                // Not contiguous: the system call would refuse it, and asyncio ends the connection then.
                return stream::fatal_error(this, err, WRITE_FAILED).map(|()| None);
            }
            Err(Raised::from_err(py, err))
        }
    }
}

// Flow control

pub(super) fn pause_if_above(this: &Bound<'_, StreamTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    if transport.conn_lost.get() > 0 {
        return Ok(());
    }
    match transport.flow.with(py, |flow| flow.grown(transport.queued_bytes.get())) {
        Some(change) => tell(this, change, false),
        None => Ok(()),
    }
}

fn resume_if_below(this: &Bound<'_, StreamTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    match transport.flow.with(py, |flow| flow.shrunk(transport.queued_bytes.get())) {
        Some(change) => tell(this, change, true),
        None => Ok(()),
    }
}

/// Pausing comes where the program writes, resuming in the transport's context.
fn tell(this: &Bound<'_, StreamTransport>, change: FlowChange, in_context: bool) -> RawResult<()> {
    let reporter = stream::reporter(this);
    if in_context {
        return this.get().in_context(this.py(), || reporter.flow_changed(change));
    }
    reporter.flow_changed(change)
}

// Refusals

fn refuse_write(py: Python<'_>, transport: &StreamTransport) -> RawResult<()> {
    refuse(py, transport, "Cannot call write() after write_eof()", "unable to write; sendfile is in progress")
}

fn refuse(
    py: Python<'_>,
    transport: &StreamTransport,
    after_eof: &'static str,
    during_sendfile: &'static str,
) -> RawResult<()> {
    let text = if transport.eof_written.get() {
        after_eof
    } else if transport.empty_waiter.is_some() {
        during_sendfile
    } else {
        return Ok(());
    };
    Err(Raised::from_err(py, PyRuntimeError::new_err(text)))
}

/// Whether the connection is gone; then the write is counted, and from some number on told.
fn is_lost(py: Python<'_>, transport: &StreamTransport) -> RawResult<bool> {
    if transport.conn_lost.get() == 0 {
        return Ok(false);
    }
    reports::write_after_loss(py, &transport.conn_lost, "socket.send() raised exception.").map(|()| true)
}

#[cold]
fn wrong_type(py: Python<'_>, data: &Obj) -> Raised {
    let class: Bound<'_, PyType> = data.borrow(py).get_type();
    let text = match class.name().and_then(|name| name.repr()) {
        Ok(name) => format!("data argument must be {}, not {name}", compat::WRITE_WANTS),
        Err(err) => return Raised::from_err(py, err),
    };
    Raised::from_err(py, PyTypeError::new_err(text))
}
