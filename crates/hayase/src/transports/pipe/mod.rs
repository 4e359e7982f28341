//! Pipe transports: one direction through a pipe, a FIFO, a socket or a character device such as a terminal.
//!
//! This file is what the reading end (`read.rs`) and the writing end (`write.rs`) share: the file object, its
//! registration, their life from `connection_made` to `connection_lost`, their reports. asyncio's Unix pipe transports
//! are the model, also in this: an exception of the protocol is reported and does not close the pipe.
//!
//! Must stay true
//! - `connection_lost` is called exactly once, and nothing of the protocol after it; then the file is closed.
//! - The program's file object owns the descriptor. It is closed by the transport, never by its number.
//! - The slot exists exactly while something is waited for; it keeps a transport alive that nobody holds.
//! - No cell is open while Python code runs.

pub(crate) mod read;
pub(crate) mod write;

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use driver::{Interest, PipeKind, Token};
use pyo3::exceptions::{PyPermissionError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::reports::{self, Reporter};
use crate::interop::errors;
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilCell, GilValue, ObjCell};
use crate::raw::context;
use crate::raw::instance::Visitor;
use crate::raw::members::Membership;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_py};
use crate::runtime::RuntimeRef;
use crate::runtime::slots::SlotKind;
use crate::tasks::ready::Ready;
use crate::tasks::wait;

static CONNECTION_MADE_NAME: Name = Name::new(c"connection_made");
static CONNECTION_LOST_NAME: Name = Name::new(c"connection_lost");

const EPERM: i32 = 1;

/// Both directions have it.
pub(super) struct End {
    pub(super) runtime: RuntimeRef,
    pub(super) fd: RawFd,
    kind: SlotKind,
    /// The program's file object; none when it is closed.
    file: ObjCell,
    /// Watched instead of `fd` if somebody else watches that number: the other direction of a terminal, a reader of the program's.
    double: GilCell<Option<OwnedFd>>,
    token: GilValue<Option<Token>>,
    pub(super) protocol: ObjCell,
    /// A copy of the context in which the transport was made; its callbacks run in it.
    context: ObjCell,
    /// Of the runtime's list of what is open.
    membership: GilCell<Option<Membership>>,
    /// A future that is resolved when `connection_made` was called.
    waiter: ObjCell,
    /// For `connection_lost`.
    lost_error: ObjCell,
    extra: ObjCell,
    /// `connection_made` was called, so the descriptor may be watched.
    pub(super) started: GilValue<bool>,
    pub(super) closing: GilValue<bool>,
    /// `connection_lost` was scheduled, or called.
    pub(super) lost: GilValue<bool>,
}

/// What a transport is made of.
pub(crate) struct Parts<'a, 'py> {
    pub(crate) file: &'a Bound<'py, PyAny>,
    pub(crate) protocol: &'a Bound<'py, PyAny>,
    pub(crate) context: Obj,
    pub(crate) waiter: Option<Obj>,
}

impl End {
    /// Refuses what cannot be watched with `refusal`; makes the descriptor non-blocking.
    fn new(
        py: Python<'_>,
        runtime: &RuntimeRef,
        parts: Parts<'_, '_>,
        kind: SlotKind,
        refusal: &'static str,
    ) -> PyResult<(End, PipeKind)> {
        to_py(py, runtime.scheduler.check_open(py))?;
        let fd: RawFd = parts.file.call_method0("fileno")?.extract()?;
        let pipe_kind = driver::pipe_kind(fd).map_err(|error| errors::os_error(py, &error))?;
        let Some(pipe_kind) = pipe_kind else {
            return Err(PyValueError::new_err(refusal));
        };
        driver::set_nonblocking(fd).map_err(|error| errors::os_error(py, &error))?;
        let extra = PyDict::new(py);
        extra.set_item("pipe", parts.file)?;
        let end = End {
            runtime: runtime.clone(),
            fd,
            kind,
            file: ObjCell::new(Some(Obj::from_any(parts.file))),
            double: GilCell::new(None),
            token: GilValue::new(None),
            protocol: ObjCell::new(Some(Obj::from_any(parts.protocol))),
            context: ObjCell::new(Some(parts.context)),
            membership: GilCell::new(None),
            waiter: ObjCell::new(parts.waiter),
            lost_error: ObjCell::empty(),
            extra: ObjCell::new(Some(Obj::from_bound(extra))),
            started: GilValue::new(false),
            closing: GilValue::new(false),
            lost: GilValue::new(false),
        };
        Ok((end, pipe_kind))
    }

    /// The transport exists: it belongs to the loop from now on, and the protocol will hear of it.
    fn begin(&self, this: &Bound<'_, PyAny>) {
        let py = this.py();
        let object = Obj::from_any(this);
        let membership = self.runtime.open.join(py, &object);
        self.membership.with(py, |place| *place = Some(membership));
        self.runtime.scheduler.push(py, Ready::Native { object, work: super::CONNECTION_MADE });
    }

    fn connection_made(&self, this: &Bound<'_, PyAny>, interest: impl FnOnce() -> Interest) -> RawResult<()> {
        let py = this.py();
        self.call_protocol(this, &CONNECTION_MADE_NAME, &[&Obj::from_any(this)])?;
        self.started.set(true);
        let watched = self.watch(this, interest());
        let Some(future) = self.waiter.take() else {
            return match watched {
                Ok(()) => Ok(()),
                Err(err) => Err(Raised::from_err(py, err)),
            };
        };
        match watched {
            Ok(()) => wait::resolve(py, &future),
            Err(err) => wait::settle(py, &future, Err(Obj::from_bound(err.into_value(py).into_bound(py)))),
        }
    }

    /// Tells the driver what is waited for now.
    fn watch(&self, this: &Bound<'_, PyAny>, interest: Interest) -> PyResult<()> {
        let py = this.py();
        let changed = self.runtime.want(py, &self.token, interest, || self.register(this, interest));
        changed.map_err(|error| {
            if error.raw_os_error() != Some(EPERM) {
                return errors::os_error(py, &error);
            }
            let file = self.file.get().and_then(|file| file.borrow(py).repr().ok().map(|text| text.to_string()));
            let text = format!(
                "{} cannot be waited for: epoll refuses it, because it is always ready; read and write it directly",
                file.unwrap_or_else(|| format!("descriptor {}", self.fd))
            );
            PyPermissionError::new_err((EPERM, text))
        })
    }

    fn register(&self, this: &Bound<'_, PyAny>, interest: Interest) -> std::io::Result<Token> {
        let py = this.py();
        let doubled = self.double.with(py, |double| double.as_ref().map(AsRawFd::as_raw_fd));
        let fd = match doubled {
            Some(fd) => fd,
            None if self.runtime.slots.with(py, |slots| slots.token_of(self.fd)).is_none() => self.fd,
            None => {
                let double = driver::duplicate(self.fd)?;
                let fd = double.as_raw_fd();
                self.double.with(py, |place| *place = Some(double));
                fd
            }
        };
        self.runtime.watch(py, fd, interest, self.kind, Obj::from_any(this))
    }

    fn unwatch(&self, py: Python<'_>) {
        if let Some(token) = self.token.replace(None) {
            drop(self.runtime.unwatch(py, token));
        }
    }

    pub(super) fn is_watched(&self) -> bool {
        self.token.get().is_some()
    }

    /// Runs a callback of the protocol in the transport's context.
    #[inline]
    fn in_context<R>(&self, py: Python<'_>, body: impl FnOnce() -> RawResult<R>) -> RawResult<R> {
        match self.context.get() {
            Some(context) => context::run_in(py, &context, body)?,
            None => body(),
        }
    }

    /// As a handle would: what the callback raises is reported, and the transport goes on.
    fn call_protocol(&self, this: &Bound<'_, PyAny>, name: &'static Name, args: &[&Obj]) -> RawResult<()> {
        let py = this.py();
        let Some(protocol) = self.protocol.get() else {
            return Ok(());
        };
        match self.in_context(py, || call::method(py, &protocol, name, args)) {
            Ok(_) => Ok(()),
            Err(raised) => self.reporter(this).callback_failed(&protocol, name.as_str(), raised),
        }
    }

    fn reporter<'a, 'py>(&'a self, this: &'a Bound<'py, PyAny>) -> Reporter<'a, 'py> {
        Reporter { runtime: &self.runtime, protocol: &self.protocol, transport: this }
    }

    /// Ends the registration; `connection_lost(err)` comes with its own ready entry.
    fn schedule_connection_lost(&self, this: &Bound<'_, PyAny>, err: Option<PyErr>) -> RawResult<()> {
        let py = this.py();
        self.closing.set(true);
        self.unwatch(py);
        // As `call_soon` would: nobody could be told any more.
        self.runtime.scheduler.check_open(py)?;
        if self.lost.replace(true) {
            return Ok(());
        }
        self.lost_error.set(err.map(|err| Obj::from_bound(err.into_value(py).into_bound(py))));
        let object = Obj::from_any(this);
        self.runtime.scheduler.push(py, Ready::Native { object, work: super::CONNECTION_LOST });
        Ok(())
    }

    fn connection_lost(&self, this: &Bound<'_, PyAny>) -> RawResult<()> {
        let py = this.py();
        self.lost.set(true);
        let error = self.lost_error.take().unwrap_or_else(|| Obj::none(py));
        let told = self.call_protocol(this, &CONNECTION_LOST_NAME, &[&error]);
        let closed = match self.release(py) {
            Ok(()) => Ok(()),
            Err(err) => self.reporter(this).report(err, "Fatal error while closing a pipe transport"),
        };
        told.and(closed)
    }

    /// Closes the file and lets go of everybody.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.unwatch(py);
        drop(self.membership.with(py, Option::take));
        drop(self.double.with(py, Option::take));
        let closed = match self.file.take() {
            Some(file) => file.borrow(py).call_method0("close").map(drop),
            None => Ok(()),
        };
        drop(self.protocol.take());
        drop(self.context.take());
        closed
    }

    fn is_closed(&self) -> bool {
        self.file.is_none()
    }

    /// For a loop that is closed. The file is the program's and stays open until the transport dies, as asyncio has it: it may
    /// be its stdout.
    fn leave_the_loop(&self, py: Python<'_>) {
        self.token.set(None);
        drop(self.membership.with(py, Option::take));
        drop(self.double.with(py, Option::take));
    }

    /// For the finalizer.
    fn finalize(&self, py: Python<'_>, describe: impl FnOnce() -> String) {
        // First of all: the runtime's list must not see a dying object.
        drop(self.membership.with(py, Option::take));
        if !self.is_closed() {
            reports::died_open(py, &describe(), || self.release(py));
        }
    }

    /// asyncio's words, up to what only one direction has.
    fn describe(&self, class: &str, polling: bool) -> String {
        let mut text = format!("<{class}");
        if self.is_closed() {
            text.push_str(" closed");
        } else if self.closing.get() {
            text.push_str(" closing");
        }
        text.push_str(&format!(" fd={}", self.fd));
        text.push_str(match (self.is_closed(), self.runtime.scheduler.closed.get(), polling) {
            (true, ..) => " closed",
            (false, true, _) => " open",
            (false, false, true) => " polling",
            (false, false, false) => " idle",
        });
        text
    }

    fn get_extra_info(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let known = match self.extra.get() {
            Some(extra) => extra.into_bound(py).cast_into::<PyDict>()?.get_item(name)?,
            None => None,
        };
        Ok(known.map_or_else(|| default.unwrap_or_else(|| py.None()), Bound::unbind))
    }

    fn extra(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.extra.get())
    }

    fn file(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.file.get())
    }

    /// `transport._pipe = None`: the program sees to the file itself.
    fn set_file(&self, file: &Bound<'_, PyAny>) {
        self.file.set((!file.is_none()).then(|| Obj::from_any(file)));
    }

    fn event_loop(&self, py: Python<'_>) -> Py<PyAny> {
        if self.is_closed() {
            return py.None();
        }
        self.runtime.object().clone().into_bound(py).unbind()
    }

    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.runtime.visit(visitor);
        for cell in [&self.file, &self.protocol, &self.context, &self.waiter, &self.lost_error, &self.extra] {
            visitor.cell(cell);
        }
    }

    fn clear(&self) {
        // The file is closed by the destructor, which needs the runtime: the loop's own clear breaks that cycle.
        for cell in [&self.protocol, &self.context, &self.waiter, &self.lost_error, &self.extra] {
            cell.set(None);
        }
    }
}

/// For `close_all`.
pub(super) fn leave_the_loop(object: &Bound<'_, PyAny>) {
    let py = object.py();
    if let Ok(pipe) = object.cast_exact::<read::ReadPipeTransport>() {
        pipe.get().end.leave_the_loop(py);
    } else if let Ok(pipe) = object.cast_exact::<write::WritePipeTransport>() {
        pipe.get().end.leave_the_loop(py);
    }
}

/// Work that one of ours put into the ready queue; `None` for an object that is none of ours.
pub(super) fn on_native(object: &Bound<'_, PyAny>, work: u32) -> Option<RawResult<()>> {
    if let Ok(pipe) = object.cast_exact::<read::ReadPipeTransport>() {
        return Some(read::on_native(pipe, work));
    }
    let pipe = object.cast_exact::<write::WritePipeTransport>().ok()?;
    Some(write::on_native(pipe, work))
}
