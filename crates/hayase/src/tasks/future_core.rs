//! What futures and tasks have in common: the state, the outcome, who waits.
//!
//! Must stay true
//! - Callbacks are handed to the loop in the order they were added, whether they are callables or tasks of ours.
//! - A task of ours that waits is stored as itself, without a callable or a context; see [`Waiter`].
//! - No reference is dropped while `rare` is open.

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::future::get_event_loop;
use super::linked::{self, Link};
use super::ready::Ready;
use super::scheduler::LoopRef;
use super::task::{self, TaskData};
use crate::interop::imports;
use crate::raw::call::{self, Name};
use crate::raw::cell::{BoxCell, GilValue, ObjCell};
use crate::raw::growing::Growing;
use crate::raw::instance::{Data, Visitor};
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, compat, context, exception, to_raw};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Pending,
    Cancelled,
    Result,
    Exception,
}

/// What futures and tasks have in common.
pub(crate) struct Core {
    pub(super) event_loop: LoopRef,
    /// The first waiter: a task of ours if `waiter_context` is empty, else a callback.
    waiter: ObjCell,
    waiter_context: ObjCell,
    /// The result, the exception, or (cancelled) the `CancelledError` that ended the task and is raised once.
    pub(super) outcome: ObjCell,
    rare: BoxCell<Rare>,
    state: GilValue<State>,
    /// Set by `__await__` just before the future is yielded, so that a task can tell `await` from `yield`.
    pub(super) blocking: GilValue<bool>,
    /// The exception was not retrieved yet.
    pub(super) log_traceback: GilValue<bool>,
    /// There is a [`Link`].
    is_linked: GilValue<bool>,
}

/// What few futures have.
#[derive(Default)]
struct Rare {
    waiters: Vec<Waiter>,
    cancel_message: Option<Obj>,
    source_traceback: Option<Obj>,
    /// The traceback of the exception when it was set: each `result()` starts from there.
    exception_traceback: Option<Obj>,
    /// Of a future that others complete.
    link: Option<Link>,
}

#[derive(Clone)]
pub(super) enum Waiter {
    Task(Obj),
    /// Who is told natively, as a future of ours that this one completes; see `linked.rs`.
    Linked(Obj),
    Callback {
        callback: Obj,
        context: Obj,
    },
}

impl Waiter {
    fn from_parts(what: Obj, context: Option<Obj>) -> Waiter {
        match context {
            Some(context) => Waiter::Callback { callback: what, context },
            None if TaskData::class().is_exact(what.as_ptr()) => Waiter::Task(what),
            None => Waiter::Linked(what),
        }
    }

    fn is(&self, other: &Waiter) -> bool {
        match (self, other) {
            (Waiter::Task(a), Waiter::Task(b)) | (Waiter::Linked(a), Waiter::Linked(b)) => a.is(b.as_ptr()),
            (Waiter::Callback { callback: a, context: c }, Waiter::Callback { callback: b, context: d }) => {
                a.is(b.as_ptr()) && c.is(d.as_ptr())
            }
            (Waiter::Task(_) | Waiter::Linked(_) | Waiter::Callback { .. }, _) => false,
        }
    }
}

/// What a done future holds.
pub(super) enum Outcome {
    Value(Obj),
    Error(Obj),
}

static CALL_SOON: Name = Name::new(c"call_soon");
static CONTEXT: Name = Name::new(c"context");
static GET_DEBUG: Name = Name::new(c"get_debug");

impl Core {
    pub(super) fn new(event_loop: LoopRef) -> Core {
        Core {
            event_loop,
            waiter: ObjCell::empty(),
            waiter_context: ObjCell::empty(),
            outcome: ObjCell::empty(),
            rare: BoxCell::empty(),
            state: GilValue::new(State::Pending),
            blocking: GilValue::new(false),
            log_traceback: GilValue::new(false),
            is_linked: GilValue::new(false),
        }
    }

    #[inline]
    pub(super) fn state(&self) -> State {
        self.state.get()
    }

    #[inline]
    pub(super) fn is_pending(&self) -> bool {
        self.state.get() == State::Pending
    }

    /// `__init__` has run.
    #[inline]
    pub(super) fn is_initialised(&self) -> bool {
        !self.event_loop.as_ptr().is_null()
    }

    pub(super) fn check_initialised(&self, py: Python<'_>) -> RawResult<()> {
        if self.is_initialised() { Ok(()) } else { Err(uninitialised(py)) }
    }

    /// `__init__`: `event_loop` is None for the current one.
    pub(super) fn init(&self, py: Python<'_>, class_name: &str, event_loop: Option<Obj>) -> RawResult<()> {
        if self.is_initialised() {
            if compat::STRICT_INIT {
                let text = format!("_asyncio.{class_name} object is already initialized");
                return Err(Raised::from_err(py, PyRuntimeError::new_err(text)));
            }
            self.clear();
            self.state.set(State::Pending);
            self.blocking.set(false);
            self.log_traceback.set(false);
        }
        let event_loop = match event_loop.filter(|event_loop| !event_loop.is_none()) {
            Some(event_loop) => event_loop,
            None => to_raw(py, get_event_loop(py))?,
        };
        self.event_loop.set(&LoopRef::new(event_loop));
        self.remember_origin(py)
    }

    /// In debug mode, where the future was made.
    #[inline]
    pub(super) fn remember_origin(&self, py: Python<'_>) -> RawResult<()> {
        let debug = match self.event_loop.scheduler() {
            Some(scheduler) => scheduler.debug.get(),
            None => match self.event_loop.object() {
                Some(event_loop) => call::is_true(py, &call::method(py, &event_loop, &GET_DEBUG, &[])?)?,
                None => false,
            },
        };
        if debug { self.remember_stack(py) } else { Ok(()) }
    }

    #[cold]
    fn remember_stack(&self, py: Python<'_>) -> RawResult<()> {
        // A future made by a `__del__` at exit would reach modules that are gone.
        if compat::is_finalizing() {
            return Ok(());
        }
        let stack = imports::raw(py, imports::traceback_extract_stack(py))?;
        let stack = call::call0(py, &stack)?;
        self.set_rare(py, |rare| &mut rare.source_traceback, Some(stack));
        Ok(())
    }

    fn get_rare(&self, py: Python<'_>, field: impl FnOnce(&mut Rare) -> &mut Option<Obj>) -> Option<Obj> {
        self.rare.with_existing(py, |rare| field(rare).clone()).flatten()
    }

    fn set_rare(&self, py: Python<'_>, field: impl FnOnce(&mut Rare) -> &mut Option<Obj>, value: Option<Obj>) {
        let before = match value {
            Some(value) => self.rare.with(py, |rare| field(rare).replace(value)),
            None => self.rare.with_existing(py, |rare| field(rare).take()).flatten(),
        };
        drop(before);
    }

    pub(super) fn cancel_message(&self, py: Python<'_>) -> Option<Obj> {
        self.get_rare(py, |rare| &mut rare.cancel_message)
    }

    pub(super) fn set_cancel_message(&self, py: Python<'_>, message: Option<Obj>) {
        self.set_rare(py, |rare| &mut rare.cancel_message, message);
    }

    pub(super) fn source_traceback(&self, py: Python<'_>) -> Option<Obj> {
        self.get_rare(py, |rare| &mut rare.source_traceback)
    }

    pub(super) fn forget_unretrieved(&self) {
        self.log_traceback.set(false);
    }

    pub(super) fn is_unretrieved(&self) -> bool {
        self.log_traceback.get()
    }

    /// A task ended with a `CancelledError`, which is kept for the first who asks.
    pub(super) fn cancel_with(&self, py: Python<'_>, this: &Obj, error: Obj) -> RawResult<()> {
        self.log_traceback.set(false);
        if !self.is_pending() {
            return Ok(());
        }
        self.outcome.set(Some(error));
        self.state.set(State::Cancelled);
        self.set_cancel_message(py, None);
        self.notify_all(py, this)
    }

    #[inline]
    pub(super) fn add_waiter(&self, py: Python<'_>, waiter: Waiter) -> RawResult<()> {
        let crowded =
            self.waiter.is_some() || self.rare.with_existing(py, |rare| !rare.waiters.is_empty()).unwrap_or(false);
        if crowded {
            let added = self.rare.with(py, |rare| rare.waiters.try_push(waiter));
            return added.map_err(|_refused| Raised::no_memory(py));
        }
        match waiter {
            Waiter::Task(waiter) | Waiter::Linked(waiter) => self.waiter.set(Some(waiter)),
            Waiter::Callback { callback, context } => {
                self.waiter_context.set(Some(context));
                self.waiter.set(Some(callback));
            }
        }
        Ok(())
    }

    /// What completes this future.
    pub(super) fn set_link(&self, py: Python<'_>, link: Link) {
        self.is_linked.set(true);
        drop(self.rare.with(py, |rare| rare.link.replace(link)));
    }

    /// `f` must not run Python code, which includes dropping references.
    pub(super) fn with_link<R>(&self, py: Python<'_>, f: impl FnOnce(&mut Link) -> R) -> Option<R> {
        self.rare.with_existing(py, |rare| rare.link.as_mut().map(f)).flatten()
    }

    /// Tells `outer` when this is done.
    pub(super) fn link_to(&self, py: Python<'_>, this: &Obj, outer: &Obj) -> RawResult<()> {
        let waiter = Waiter::Linked(outer.clone());
        if self.is_pending() {
            return self.add_waiter(py, waiter);
        }
        self.notify(py, this, waiter)
    }

    /// Takes back [`Core::link_to`].
    pub(super) fn unlink_from(&self, py: Python<'_>, outer: &Obj) {
        self.remove_waiters(py, &[Waiter::Linked(outer.clone())]);
    }

    /// What a done future holds.
    pub(super) fn stored(&self, py: Python<'_>) -> Obj {
        self.outcome.get().unwrap_or_else(|| Obj::none(py))
    }

    /// Takes `matched` out; returns how many there were.
    pub(super) fn remove_waiters(&self, py: Python<'_>, matched: &[Waiter]) -> usize {
        let mut removed = vec![];
        if let Some(first) = self.first_waiter()
            && matched.iter().any(|waiter| waiter.is(&first))
        {
            self.waiter.set(None);
            self.waiter_context.set(None);
            removed.push(first);
        }
        self.rare.with_existing(py, |rare| {
            let is_matched = |stored: &Waiter| matched.iter().any(|waiter| waiter.is(stored));
            let (gone, kept) = std::mem::take(&mut rare.waiters).into_iter().partition(is_matched);
            rare.waiters = kept;
            removed.extend::<Vec<Waiter>>(gone);
        });
        removed.len()
    }

    fn first_waiter(&self) -> Option<Waiter> {
        self.waiter.get().map(|what| Waiter::from_parts(what, self.waiter_context.get()))
    }

    pub(super) fn waiters(&self, py: Python<'_>) -> Vec<Waiter> {
        let mut all: Vec<Waiter> = self.first_waiter().into_iter().collect();
        self.rare.with_existing(py, |rare| all.extend_from_slice(&rare.waiters));
        all
    }

    /// Makes `task`, one of ours on the same loop, wake up when this is done.
    #[inline]
    pub(super) fn await_by(&self, py: Python<'_>, this: &Obj, task: &Obj) -> RawResult<()> {
        if self.is_pending() {
            self.add_waiter(py, Waiter::Task(task.clone()))
        } else {
            self.notify(py, this, Waiter::Task(task.clone()))
        }
    }

    /// Hands all waiters to the loop, in order; after an error the rest is forgotten, as in asyncio.
    #[inline]
    fn notify_all(&self, py: Python<'_>, this: &Obj) -> RawResult<()> {
        let first = self.waiter.take();
        if !self.rare.is_empty() {
            return self.notify_many(py, this, first);
        }
        match first {
            Some(what) => self.notify(py, this, Waiter::from_parts(what, self.waiter_context.take())),
            None => Ok(()),
        }
    }

    #[cold]
    fn notify_many(&self, py: Python<'_>, this: &Obj, first: Option<Obj>) -> RawResult<()> {
        let first = first.map(|what| Waiter::from_parts(what, self.waiter_context.take()));
        let rest = self.rare.with_existing(py, |rare| std::mem::take(&mut rare.waiters));
        first.into_iter().chain(rest.into_iter().flatten()).try_for_each(|waiter| self.notify(py, this, waiter))
    }

    #[inline(always)] // three callers, each with a waiter whose kind it knows
    pub(super) fn notify(&self, py: Python<'_>, this: &Obj, waiter: Waiter) -> RawResult<()> {
        let Some(scheduler) = self.event_loop.scheduler() else {
            return self.notify_elsewhere(py, this, waiter);
        };
        scheduler.check_call_soon(py)?;
        let future = this.clone();
        scheduler.push(
            py,
            match waiter {
                Waiter::Task(task) => Ready::Wakeup { task, future },
                Waiter::Linked(outer) => Ready::Linked { outer, inner: future },
                Waiter::Callback { callback, context } => Ready::DoneCallback { callback, future, context },
            },
        );
        Ok(())
    }

    /// As [`Core::notify`], on a loop that is not ours.
    fn notify_elsewhere(&self, py: Python<'_>, this: &Obj, waiter: Waiter) -> RawResult<()> {
        let (callback, context) = match waiter {
            Waiter::Task(task) => task::wakeup_callable(py, &task)?,
            Waiter::Linked(outer) => (linked::callable(py, &outer)?, context::copy_current(py)?),
            Waiter::Callback { callback, context } => (callback, context),
        };
        self.foreign_call_soon(py, &[&callback, this], &context)
    }

    /// `loop.call_soon(*args, context=context)` on a loop that is not ours.
    pub(super) fn foreign_call_soon(&self, py: Python<'_>, args: &[&Obj], context: &Obj) -> RawResult<()> {
        let Some(event_loop) = self.event_loop.object() else {
            return Err(uninitialised(py));
        };
        call::method_with_keyword(py, &event_loop, &CALL_SOON, args, &CONTEXT, context).map(drop)
    }

    pub(super) fn set_result(&self, py: Python<'_>, this: &Obj, value: Obj) -> RawResult<()> {
        self.check_pending(py)?;
        self.outcome.set(Some(value));
        self.state.set(State::Result);
        self.notify_all(py, this)
    }

    pub(super) fn set_exception(&self, py: Python<'_>, this: &Obj, error: &Obj) -> RawResult<()> {
        self.check_pending(py)?;
        let error = if exception::is_class(error) {
            let error = call::call0(py, error)?;
            self.check_pending(py)?;
            error
        } else {
            error.clone()
        };
        if !exception::is_instance(&error) {
            return Err(Raised::from_err(py, PyTypeError::new_err("invalid exception object")));
        }
        let error = without_stop_iteration(py, error)?;
        self.set_rare(py, |rare| &mut rare.exception_traceback, exception::traceback(&error));
        self.outcome.set(Some(error));
        self.state.set(State::Exception);
        self.notify_all(py, this)?;
        self.log_traceback.set(true);
        Ok(())
    }

    pub(super) fn cancel(&self, py: Python<'_>, this: &Obj, message: Option<Obj>) -> RawResult<bool> {
        self.log_traceback.set(false);
        if !self.is_pending() {
            return Ok(false);
        }
        if self.is_linked.get()
            && let Some(reached) = linked::cancel(py, this, message.as_ref())?
        {
            return Ok(reached);
        }
        self.state.set(State::Cancelled);
        self.set_cancel_message(py, message);
        self.notify_all(py, this)?;
        Ok(true)
    }

    #[inline]
    fn check_pending(&self, py: Python<'_>) -> RawResult<()> {
        if self.is_pending() { Ok(()) } else { Err(invalid_state(py, "invalid state")) }
    }

    /// What a done future holds; its exception counts as retrieved.
    #[inline]
    pub(super) fn outcome(&self, py: Python<'_>) -> RawResult<Outcome> {
        match self.state.get() {
            State::Result => Ok(Outcome::Value(self.outcome.get().unwrap_or_else(|| Obj::none(py)))),
            State::Exception => {
                self.log_traceback.set(false);
                let error = self.outcome.get().unwrap_or_else(|| Obj::none(py));
                let traceback = self.get_rare(py, |rare| &mut rare.exception_traceback);
                exception::set_traceback(py, &error, traceback.as_ref())?;
                Ok(Outcome::Error(error))
            }
            State::Cancelled => Ok(Outcome::Error(self.cancelled_error(py)?)),
            State::Pending => Err(invalid_state(py, "Result is not set.")),
        }
    }

    /// The exception a wake-up throws into the task; `None` if there is a result.
    #[inline]
    pub(super) fn failure(&self, py: Python<'_>) -> RawResult<Option<Obj>> {
        if self.state.get() == State::Result {
            return Ok(None);
        }
        match self.outcome(py)? {
            Outcome::Value(_) => Ok(None),
            Outcome::Error(error) => Ok(Some(error)),
        }
    }

    /// `result()` of an initialised future.
    #[inline]
    pub(super) fn result(&self, py: Python<'_>) -> RawResult<Obj> {
        match self.outcome(py)? {
            Outcome::Value(value) => Ok(value),
            Outcome::Error(error) => Err(exception::raise(py, &error)),
        }
    }

    pub(super) fn get_result(&self, py: Python<'_>) -> RawResult<Obj> {
        if !self.is_initialised() {
            return Err(invalid_state(py, "Future object is not initialized."));
        }
        self.result(py)
    }

    /// The kept `CancelledError`, once; else a new one with the message.
    pub(super) fn cancelled_error(&self, py: Python<'_>) -> RawResult<Obj> {
        if self.state.get() == State::Cancelled
            && let Some(error) = self.outcome.take()
        {
            return Ok(error);
        }
        let class = imports::raw(py, imports::cancelled_error(py))?;
        match self.cancel_message(py).filter(|message| !message.is_none()) {
            Some(message) => call::call1(py, &class, &message),
            None => call::call0(py, &class),
        }
    }

    pub(super) fn visit(&self, visitor: &mut Visitor<'_>) {
        self.event_loop.visit(visitor);
        for cell in [&self.waiter, &self.waiter_context, &self.outcome] {
            visitor.cell(cell);
        }
        self.rare.peek(|rare| {
            for waiter in &rare.waiters {
                match waiter {
                    Waiter::Task(waiter) | Waiter::Linked(waiter) => visitor.obj(waiter),
                    Waiter::Callback { callback, context } => {
                        visitor.obj(callback);
                        visitor.obj(context);
                    }
                }
            }
            if let Some(link) = &rare.link {
                link.visit(visitor);
            }
            for object in
                [&rare.cancel_message, &rare.source_traceback, &rare.exception_traceback].into_iter().flatten()
            {
                visitor.obj(object);
            }
        });
    }

    pub(super) fn clear(&self) {
        for cell in [&self.waiter, &self.waiter_context, &self.outcome] {
            cell.set(None);
        }
        drop(self.rare.take());
        self.event_loop.clear();
    }

    /// `loop.call_exception_handler(...)` for a future or task that dies; errors of that are unraisable.
    pub(super) fn report(&self, py: Python<'_>, this: &Obj, entries: &[(&str, &Bound<'_, PyAny>)]) {
        let Some(event_loop) = self.event_loop.object() else {
            return;
        };
        let report = || -> PyResult<()> {
            let report = PyDict::new(py);
            for (key, value) in entries {
                report.set_item(key, value)?;
            }
            if let Some(traceback) = self.source_traceback(py) {
                report.set_item("source_traceback", traceback.into_bound(py))?;
            }
            event_loop.borrow(py).call_method1("call_exception_handler", (report,))?;
            Ok(())
        };
        if let Err(err) = report() {
            exception::write_unraisable(py, Raised::from_err(py, err), this);
        }
    }

    /// "exception was never retrieved"
    pub(super) fn report_unretrieved(&self, py: Python<'_>, this: &Obj, class_name: &str) {
        if !self.log_traceback.replace(false) {
            return;
        }
        let Some(error) = self.outcome.get() else {
            return;
        };
        let message = PyString::new(py, &format!("{class_name} exception was never retrieved"));
        self.report(
            py,
            this,
            &[("message", message.as_any()), ("exception", &error.borrow(py)), ("future", &this.borrow(py))],
        );
    }
}

/// A StopIteration inside a future would end the generator that awaits it.
fn without_stop_iteration(py: Python<'_>, error: Obj) -> RawResult<Obj> {
    const TEXT: &str = "StopIteration interacts badly with generators and cannot be raised into a Future";
    if !compat::STOP_ITERATION_IS_WRAPPED {
        if exception::is_exact_stop_iteration(&error) {
            return Err(Raised::from_err(py, PyTypeError::new_err(TEXT)));
        }
        return Ok(error);
    }
    if !exception::is_stop_iteration(py, &error) {
        return Ok(error);
    }
    let wrapped = exception::instance(py, PyRuntimeError::new_err(TEXT));
    exception::chain(&wrapped, &error);
    Ok(wrapped)
}

#[cold]
pub(super) fn invalid_state(py: Python<'_>, text: &str) -> Raised {
    match imports::invalid_state_error(py).and_then(|class| class.call1((text,))) {
        Ok(error) => Raised::from_err(py, PyErr::from_value(error)),
        Err(err) => Raised::from_err(py, err),
    }
}

#[cold]
pub(super) fn uninitialised(py: Python<'_>) -> Raised {
    Raised::from_err(py, PyRuntimeError::new_err("Future object is not initialized."))
}
