//! The coroutines that move data: one small object each, a state machine by hand (`runtime/suspendable.rs`).
//!
//! `await loop.sock_recv(sock, n)` with data that has arrived makes this object and the bytes, and nothing else. On a plain,
//! non-blocking `socket.socket` the system call is made straight from here; what is unusual in any way (another class, a
//! time-out, odd arguments) is left to the socket's own method, whose errors are then the right ones.
//!
//! Must stay true
//! - The descriptor is asked for at each attempt: a socket that was closed meanwhile is an error, not somebody else's.
//! - Whoever waits was told "not now" just before, or has emptied the socket (`watchers.rs` counts on it).

use std::io;
use std::mem::offset_of;
use std::os::fd::RawFd;

use pyo3::exceptions::{PyBlockingIOError, PyInterruptedError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyModule};

use super::{check_socket, is_greedy};
use crate::event_loop::Loop;
use crate::event_loop::watchers::{self, Side};
use crate::interop::{errors, imports};
use crate::raw::bytes::{self, Bytes};
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::known_method::KnownMethod;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, exception, to_py, to_raw};
use crate::runtime::suspendable::{self, Outcome, Progress, Suspendable, Turn};
use crate::runtime::{RuntimeRef, SCRATCH_BYTES};

static FILENO: KnownMethod = KnownMethod::new(c"fileno");
static GETBLOCKING: KnownMethod = KnownMethod::new(c"getblocking");
static RECV: Name = Name::new(c"recv");
static RECV_INTO: Name = Name::new(c"recv_into");
static RECVFROM: Name = Name::new(c"recvfrom");
static RECVFROM_INTO: Name = Name::new(c"recvfrom_into");
static SEND: Name = Name::new(c"send");
static SENDTO: Name = Name::new(c"sendto");

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Receive,
    ReceiveInto,
    ReceiveFrom,
    ReceiveFromInto,
    SendAll,
    SendTo,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Receive => "Loop.sock_recv",
            Operation::ReceiveInto => "Loop.sock_recv_into",
            Operation::ReceiveFrom => "Loop.sock_recvfrom",
            Operation::ReceiveFromInto => "Loop.sock_recvfrom_into",
            Operation::SendAll => "Loop.sock_sendall",
            Operation::SendTo => "Loop.sock_sendto",
        }
    }

    fn side(self) -> Side {
        match self {
            Operation::Receive | Operation::ReceiveInto | Operation::ReceiveFrom | Operation::ReceiveFromInto => {
                Side::Reader
            }
            Operation::SendAll | Operation::SendTo => Side::Writer,
        }
    }
}

pub(crate) struct Transfer {
    progress: Progress,
    operation: Operation,
    runtime: RuntimeRef,
    sock: ObjCell,
    /// How much, or what from or into.
    argument: ObjCell,
    /// The address to send to, or how much to receive into a buffer.
    extra: ObjCell,
    /// System calls may be made from here.
    is_plain: GilValue<bool>,
    /// What is waited for, and the descriptor that it is about.
    future: ObjCell,
    fd: GilValue<RawFd>,
    sent: GilValue<usize>,
}

impl Transfer {
    fn cells(&self) -> [&ObjCell; 4] {
        [&self.sock, &self.argument, &self.extra, &self.future]
    }
}

impl Suspendable for Transfer {
    const PROGRESS: usize = offset_of!(Transfer, progress);

    #[inline]
    fn progress(&self) -> &Progress {
        &self.progress
    }
    fn name(&self) -> &'static str {
        self.operation.name()
    }

    #[inline]
    fn start(py: Python<'_>, this: &Ref<Self>) -> RawResult<Turn> {
        let sock = socket_of(py, this)?;
        to_raw(py, check_socket(py, &this.runtime, &sock.borrow(py)))?;
        this.is_plain.set(is_plain_socket(py, &sock.borrow(py)) && never_blocks(py, &sock)?);
        let object = this.runtime.object().borrow(py);
        if let Some(future) = wait_if_empty(py, this, loop_of(&object), &sock)? {
            return Ok(Turn::Await(future));
        }
        if is_greedy(loop_of(&object).get()) { Ok(Turn::GiveWay) } else { attempt_or_wait(py, this, &sock) }
    }

    #[inline]
    fn resume(py: Python<'_>, this: &Ref<Self>, outcome: Outcome) -> RawResult<Turn> {
        match outcome {
            Ok(_) => {
                // Who resolved the future has taken it out of the list.
                this.future.set(None);
                attempt_or_wait(py, this, &socket_of(py, this)?)
            }
            Err(error) => Err(exception::restore(py, error)),
        }
    }

    #[inline]
    fn release(&self, py: Python<'_>) {
        if let Some(future) = self.future.take() {
            let object = self.runtime.object().borrow(py);
            watchers::stop_waiting(py, loop_of(&object).get(), self.operation.side(), self.fd.get(), &future);
        }
        self.cells().into_iter().for_each(|cell| cell.set(None));
    }
}

impl Data for Transfer {
    const FINALIZE: bool = true;
    const FREELIST: usize = 256;

    fn class() -> &'static Class<Self> {
        static CLASS: Class<Transfer> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.progress.visit(visitor);
        self.runtime.visit(visitor);
        self.cells().into_iter().for_each(|cell| visitor.cell(cell));
    }
    fn clear(&self) {
        self.progress.clear();
        self.cells().into_iter().for_each(|cell| cell.set(None));
    }
    #[inline]
    fn wants_finalizer(&self) -> bool {
        self.progress.is_unfinished()
    }
    fn finalize(py: Python<'_>, this: &Ref<Self>) {
        suspendable::finalize(py, this);
    }
}

fn loop_of<'a, 'py>(object: &'a Bound<'py, PyAny>) -> &'a Bound<'py, Loop> {
    object.cast::<Loop>().expect("made by a method of the loop")
}

fn socket_of(py: Python<'_>, this: &Ref<Transfer>) -> RawResult<Obj> {
    let cleared = || Raised::from_err(py, PyRuntimeError::new_err("coroutine was cleared"));
    this.sock.get().ok_or_else(cleared)
}

/// Tries, and waits if the socket is not ready.
#[inline]
fn attempt_or_wait(py: Python<'_>, this: &Ref<Transfer>, sock: &Obj) -> RawResult<Turn> {
    let fd = if this.is_plain.get() { Some(descriptor(py, sock)?) } else { None };
    if let Some(result) = attempt(py, this, sock, fd)? {
        return Ok(Turn::Return(result));
    }
    let fd = fd.map_or_else(|| descriptor(py, sock), Ok)?;
    let object = this.runtime.object().borrow(py);
    let future = watchers::begin_wait(py, loop_of(&object), this.operation.side(), &sock.borrow(py), fd);
    let future = to_raw(py, future)?;
    this.fd.set(fd);
    this.future.set(Some(future.clone()));
    Ok(Turn::Await(future))
}

/// Waits without trying, where the last read has emptied the socket.
#[inline]
fn wait_if_empty(
    py: Python<'_>,
    this: &Ref<Transfer>,
    event_loop: &Bound<'_, Loop>,
    sock: &Obj,
) -> RawResult<Option<Obj>> {
    if !(this.is_plain.get() && matches!(this.operation, Operation::Receive | Operation::ReceiveInto)) {
        return Ok(None);
    }
    let fd = descriptor(py, sock)?;
    let future = to_raw(py, watchers::begin_wait_if_empty(event_loop, &sock.borrow(py), fd))?;
    if future.is_some() {
        this.fd.set(fd);
        this.future.set(future.clone());
    }
    Ok(future)
}

// The methods of the loop

pub(crate) fn receive(this: &Bound<'_, Loop>, sock: &Bound<'_, PyAny>, count: &Bound<'_, PyAny>) -> PyResult<Obj> {
    make(this, Operation::Receive, sock, count, None)
}

pub(crate) fn receive_into(
    this: &Bound<'_, Loop>,
    sock: &Bound<'_, PyAny>,
    buffer: &Bound<'_, PyAny>,
) -> PyResult<Obj> {
    make(this, Operation::ReceiveInto, sock, buffer, None)
}

pub(crate) fn receive_from(this: &Bound<'_, Loop>, sock: &Bound<'_, PyAny>, count: &Bound<'_, PyAny>) -> PyResult<Obj> {
    make(this, Operation::ReceiveFrom, sock, count, None)
}

pub(crate) fn receive_from_into(
    this: &Bound<'_, Loop>,
    sock: &Bound<'_, PyAny>,
    buffer: &Bound<'_, PyAny>,
    count: Option<&Bound<'_, PyAny>>,
) -> PyResult<Obj> {
    make(this, Operation::ReceiveFromInto, sock, buffer, count)
}

pub(crate) fn send_all(this: &Bound<'_, Loop>, sock: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>) -> PyResult<Obj> {
    make(this, Operation::SendAll, sock, data, None)
}

pub(crate) fn send_to(
    this: &Bound<'_, Loop>,
    sock: &Bound<'_, PyAny>,
    data: &Bound<'_, PyAny>,
    address: &Bound<'_, PyAny>,
) -> PyResult<Obj> {
    make(this, Operation::SendTo, sock, data, Some(address))
}

#[inline]
fn make(
    this: &Bound<'_, Loop>,
    operation: Operation,
    sock: &Bound<'_, PyAny>,
    argument: &Bound<'_, PyAny>,
    extra: Option<&Bound<'_, PyAny>>,
) -> PyResult<Obj> {
    let py = this.py();
    let transfer = Transfer {
        progress: Progress::new(),
        operation,
        runtime: Loop::runtime_ref(this),
        sock: ObjCell::new(Some(Obj::from_any(sock))),
        argument: ObjCell::new(Some(Obj::from_any(argument))),
        extra: ObjCell::new(extra.map(Obj::from_any)),
        is_plain: GilValue::new(false),
        future: ObjCell::empty(),
        fd: GilValue::new(-1),
        sent: GilValue::new(0),
    };
    Ok(to_py(py, Transfer::class().make(py, transfer))?.into_obj())
}

pub(super) fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DOC: &std::ffi::CStr = c"A coroutine of the loop that receives from or sends to a socket.";
    suspendable::init::<Transfer>(module, c"hayase._core.Transfer", DOC)
}

// Attempts: `None` if the socket is not ready

#[inline]
fn attempt(py: Python<'_>, this: &Ref<Transfer>, sock: &Obj, fd: Option<RawFd>) -> RawResult<Option<Obj>> {
    let argument = this.argument.get().unwrap_or_else(|| Obj::none(py));
    match (this.operation, fd) {
        (Operation::Receive, Some(fd)) => receive_now(py, this, sock, fd, &argument),
        (Operation::Receive, None) => ask(py, sock, &RECV, &[&argument]),
        (Operation::ReceiveInto, Some(fd)) => receive_into_now(py, this, sock, fd, &argument),
        (Operation::ReceiveInto, None) => ask(py, sock, &RECV_INTO, &[&argument]),
        (Operation::ReceiveFrom, _) => ask(py, sock, &RECVFROM, &[&argument]),
        (Operation::ReceiveFromInto, _) => {
            let count = match this.extra.get() {
                Some(count) if call::is_true(py, &count)? => count,
                Some(_) | None => {
                    let length = to_raw(py, argument.borrow(py).len())?;
                    Obj::from_bound(PyInt::new(py, length))
                }
            };
            ask(py, sock, &RECVFROM_INTO, &[&argument, &count])
        }
        (Operation::SendTo, _) => {
            let address = this.extra.get().unwrap_or_else(|| Obj::none(py));
            ask(py, sock, &SENDTO, &[&argument, &address])
        }
        (Operation::SendAll, fd) => send_rest(py, this, sock, fd, argument),
    }
}

/// The socket's own method.
fn ask(py: Python<'_>, sock: &Obj, method: &'static Name, args: &[&Obj]) -> RawResult<Option<Obj>> {
    match call::method(py, sock, method, args) {
        Ok(result) => Ok(Some(result)),
        Err(raised) => {
            let err = raised.fetch(py);
            if err.is_instance_of::<PyBlockingIOError>(py) || err.is_instance_of::<PyInterruptedError>(py) {
                return Ok(None);
            }
            Err(Raised::from_err(py, err))
        }
    }
}

/// `None` if the socket is not ready.
fn taken<T>(py: Python<'_>, outcome: io::Result<T>) -> RawResult<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(Raised::from_err(py, errors::os_error(py, &error))),
    }
}

/// A signal is no reason to wait: what is there would not be reported again.
fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

#[inline]
fn receive_now(py: Python<'_>, this: &Ref<Transfer>, sock: &Obj, fd: RawFd, argument: &Obj) -> RawResult<Option<Obj>> {
    let wanted = argument.borrow(py).cast_exact::<PyInt>().ok().and_then(|wanted| wanted.extract::<usize>().ok());
    let driver = &this.runtime.driver;
    match wanted {
        Some(wanted @ 1..=SCRATCH_BYTES) => {
            let received = this.runtime.scratch.with(py, |scratch| {
                let count = uninterrupted(|| driver.recv(fd, &mut scratch[..wanted]))?;
                Ok((count, Bytes::copy(py, &scratch[..count])))
            });
            let received = received.map(|(count, data)| {
                has_read(py, this, fd, count, wanted);
                data
            });
            taken(py, received)?.transpose().map(|data| data.map(Bytes::into_obj))
        }
        Some(wanted) if wanted > 0 && isize::try_from(wanted).is_ok() => {
            let received = loop {
                match bytes::receive(py, driver, fd, wanted)? {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    received => break received,
                }
            };
            let received = taken(py, received)?;
            if let Some(received) = &received {
                has_read(py, this, fd, received.as_ref().len(), wanted);
            }
            Ok(received.map(Bytes::into_obj))
        }
        Some(_) | None => ask(py, sock, &RECV, &[argument]),
    }
}

#[inline]
fn has_read(py: Python<'_>, this: &Ref<Transfer>, fd: RawFd, count: usize, wanted: usize) {
    // Of the end of a stream one is told again and again.
    if 0 < count && count < wanted {
        let object = this.runtime.object().borrow(py);
        watchers::read_short(py, loop_of(&object).get(), fd);
    }
}

fn receive_into_now(
    py: Python<'_>,
    this: &Ref<Transfer>,
    sock: &Obj,
    fd: RawFd,
    buffer: &Obj,
) -> RawResult<Option<Obj>> {
    let received = bytes::with_writable_buffer(py, buffer, |memory| {
        // Zero bytes asked for would look like the end of the stream.
        (!memory.is_empty()).then(|| {
            let wanted = memory.len();
            uninterrupted(|| this.runtime.driver.recv(fd, memory)).map(|count| (count, wanted))
        })
    });
    match received {
        Ok(Some(received)) => {
            let received = taken(py, received)?;
            Ok(received.map(|(count, wanted)| {
                has_read(py, this, fd, count, wanted);
                Obj::from_bound(PyInt::new(py, count))
            }))
        }
        Ok(None) => ask(py, sock, &RECV_INTO, &[buffer]),
        Err(raised) => {
            drop(raised.fetch(py));
            ask(py, sock, &RECV_INTO, &[buffer])
        }
    }
}

/// Sends until all is gone or the socket says "not now".
fn send_rest(
    py: Python<'_>,
    this: &Ref<Transfer>,
    sock: &Obj,
    fd: Option<RawFd>,
    mut data: Obj,
) -> RawResult<Option<Obj>> {
    loop {
        let begin = this.sent.get();
        let sent = match fd {
            Some(fd) => {
                let sent = bytes::with_buffer(py, &data, |memory| {
                    let sent = uninterrupted(|| this.runtime.driver.send(fd, &memory[begin..]));
                    sent.map(|count| (count, memory.len()))
                });
                match sent {
                    Ok(sent) => taken(py, sent)?,
                    // Its own method says what is wrong with the data.
                    Err(raised) => {
                        drop(raised.fetch(py));
                        send_by_method(py, sock, &data, begin)?
                    }
                }
            }
            None => send_by_method(py, sock, &data, begin)?,
        };
        if let Some((count, length)) = sent {
            if begin + count >= length {
                return Ok(Some(Obj::none(py)));
            }
            this.sent.set(begin + count);
        }
        // The view keeps a mutable buffer at its size while we wait.
        data = to_raw(py, view_of_bytes(py, &data))?;
        this.argument.set(Some(data.clone()));
        if sent.is_none() {
            return Ok(None);
        }
    }
}

fn send_by_method(py: Python<'_>, sock: &Obj, data: &Obj, begin: usize) -> RawResult<Option<(usize, usize)>> {
    let rest = if begin == 0 { data.clone() } else { bytes::tail(py, data, begin)? };
    let Some(sent) = ask(py, sock, &SEND, &[&rest])? else {
        return Ok(None);
    };
    let count: usize = to_raw(py, sent.borrow(py).extract())?;
    let length = to_raw(py, view_of_bytes(py, data).and_then(|view| view.borrow(py).len()))?;
    Ok(Some((count, length)))
}

/// A memoryview in bytes, so that positions are counts of bytes.
fn view_of_bytes(py: Python<'_>, data: &Obj) -> PyResult<Obj> {
    let view = py.get_type::<pyo3::types::PyMemoryView>().call1((data.borrow(py),))?;
    if view.getattr("format")?.eq("B")? && view.getattr("ndim")?.eq(1)? {
        return Ok(Obj::from_bound(view));
    }
    view.call_method1("cast", ("B",)).map(Obj::from_bound)
}

/// Whether its time-out is zero.
#[inline]
fn never_blocks(py: Python<'_>, sock: &Obj) -> RawResult<bool> {
    Ok(!call::is_true(py, &GETBLOCKING.call(py, sock)?)?)
}

#[inline]
pub(super) fn is_plain_socket(py: Python<'_>, sock: &Bound<'_, PyAny>) -> bool {
    imports::socket_class(py).is_ok_and(|class| sock.get_type().is(class))
}

#[inline]
fn descriptor(py: Python<'_>, sock: &Obj) -> RawResult<RawFd> {
    let number = FILENO.call(py, sock)?;
    to_raw(py, number.borrow(py).extract())
}
