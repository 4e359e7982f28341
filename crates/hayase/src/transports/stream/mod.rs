//! The stream transport: one connected socket and its protocol.
//!
//! This file is the object: its life from `connection_made` to `connection_lost`, and its errors; `methods.rs` is what
//! Python sees of it, `extra_info.rs` what is known of the connection. The bytes are in `read.rs` and `write.rs` beside
//! this folder. Everything follows asyncio's selector transport, except where it loses something.
//!
//! Must stay true
//! - `connection_lost` is called exactly once, through the ready queue, and nothing of the protocol after it.
//! - The slot holds the transport exactly while something is waited for; that keeps a transport alive that nobody holds.
//!   While reading is paused it may be parked: registered, and nobody's.
//! - The descriptor has one owner: `socket`. It is closed after `connection_lost`, or when the transport dies.
//! - No cell is open while Python code runs.

mod extra_info;
pub(super) mod methods;

use std::os::fd::{OwnedFd, RawFd};

use driver::{FlowControl, Interest, Token, WriteQueue};
use pyo3::exceptions::{PyConnectionError, PyOSError};
use pyo3::prelude::*;

use super::address::Names;
use super::receiver::Receiver;
use super::reports::{self, Reporter, Shown};
use super::server::Server;
use super::{CONNECTION_LOST, CONNECTION_MADE, write};
use crate::interop::errors;
use crate::raw::attributes;
use crate::raw::bytes::Bytes;
use crate::raw::call::{self, Name};
use crate::raw::cell::{BoxCell, GilCell, GilValue, ObjCell};
use crate::raw::collector;
use crate::raw::kept_context::KeptContext;
use crate::raw::members::Membership;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_py};
use crate::runtime::RuntimeRef;
use crate::runtime::slots::SlotKind;
use crate::tasks::ready::Ready;
use crate::tasks::wait;

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
    /// The slot of the token is parked: reading is paused, nothing else is waited for.
    parked: GilValue<bool>,
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
            parked: GilValue::new(false),
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
        Some(future) => match wait::resolve(py, &future) {
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

/// A stream transport that may be told natively: no subclass exists, and nobody gave this one methods of its own.
#[inline]
pub(super) fn without_own<'a, 'py>(object: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, StreamTransport>> {
    object.cast::<StreamTransport>().ok().filter(|transport| !attributes::has_own(transport))
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

    /// Makes the slot of the token this transport's again, or forgets the token if there is none any more.
    fn unpark(&self, this: &Bound<'_, StreamTransport>) {
        if self.parked.replace(false)
            && let Some(token) = self.token.get()
            && !self.runtime.unpark(this.py(), token, SlotKind::Stream, Obj::from_any(this.as_any()))
        {
            self.token.set(None);
        }
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
        // Of a paused transport that nobody holds: it is parked.
        if let Some(token) = self.token.replace(None) {
            drop(self.runtime.unwatch(py, token));
        }
        // Who has the other end hears of it.
        self.runtime.driver.stir();
        match self.socket.with(py, |socket| std::mem::replace(socket, Socket::Closed)) {
            // Not watched any more: the slot was given up when `connection_lost` was scheduled, or above.
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
        let gone = PyConnectionError::new_err("Connection is closed by peer").into_value(py);
        to_py(py, wait::settle(py, &future, Err(Obj::from_bound(gone.into_bound(py)))))
    }

    /// For a loop that is closed: nobody is told, but the descriptor does not stay open.
    pub(super) fn close_with_the_loop(&self, py: Python<'_>) -> PyResult<()> {
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

/// Reading was paused. Programs that read on request pause after every read and resume before the next, as anyio does: so the
/// registration is parked, not ended.
pub(super) fn stop_reading(this: &Bound<'_, StreamTransport>) -> RawResult<()> {
    let transport = this.get();
    match transport.token.get() {
        Some(token) if !transport.waits_for_writable.get() => {
            transport.parked.set(true);
            transport.runtime.park(this.py(), token);
            Ok(())
        }
        _ => update_interest(this),
    }
}

/// Tells the driver what is waited for now.
pub(super) fn update_interest(this: &Bound<'_, StreamTransport>) -> RawResult<()> {
    let py = this.py();
    let transport = this.get();
    transport.unpark(this);
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

impl collector::Finalized for StreamTransport {
    fn finalize(&self, py: Python<'_>) {
        // First of all: the runtime's list must not see a dying object.
        drop(self.membership.with(py, Option::take));
        if self.socket.with(py, |socket| matches!(socket, Socket::Closed)) {
            return;
        }
        reports::died_open(py, &self.describe(py), || {
            let closed = self.close_socket(py);
            self.leave_server(py).and(closed)
        });
    }
}

impl Drop for StreamTransport {
    fn drop(&mut self) {
        Python::try_attach(|py| collector::Finalized::finalize(self, py));
    }
}
