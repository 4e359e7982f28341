//! `Future`: a result that somebody else will set, and who waits for it.
//!
//! [`Core`] is the part that tasks have too. Private names, errors and the order of callbacks are those of
//! `_asyncio.Future`, which is the base class; its own fields stay empty, so every name of it that reads them is
//! overridden here (`tests/test_spike_traps.py` compares the lists on each version).
//!
//! Must stay true
//! - Callbacks are handed to the loop in the order they were added, whether they are callables or tasks of ours.
//! - A task of ours that waits is stored as itself, without a callable or a context; see [`Waiter`].
//! - No reference is dropped while `rare` is open.

use pyo3::exceptions::{PyDeprecationWarning, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyModule, PyString, PyTuple};

use super::linked::{self, Link};
use super::ready::Ready;
use super::scheduler::LoopRef;
use super::task::{self, TaskData};
use crate::interop::imports;
use crate::raw::bound_function::BoundFunction;
use crate::raw::call::{self, Name};
use crate::raw::cell::{BoxCell, GilValue, ObjCell};
use crate::raw::fastcall::Args;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::{Step, Table};
use crate::raw::{Raised, RawResult, compat, context, exception, to_py, to_raw};

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
    outcome: ObjCell,
    rare: BoxCell<Rare>,
    state: GilValue<State>,
    /// Set by `__await__` just before the future is yielded, so that a task can tell `await` from `yield`.
    pub(super) blocking: GilValue<bool>,
    /// The exception was not retrieved yet.
    log_traceback: GilValue<bool>,
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
enum Waiter {
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
static MSG: Name = Name::new(c"msg");

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
    fn add_waiter(&self, py: Python<'_>, waiter: Waiter) {
        let crowded =
            self.waiter.is_some() || self.rare.with_existing(py, |rare| !rare.waiters.is_empty()).unwrap_or(false);
        if crowded {
            self.rare.with(py, |rare| rare.waiters.push(waiter));
            return;
        }
        match waiter {
            Waiter::Task(waiter) | Waiter::Linked(waiter) => self.waiter.set(Some(waiter)),
            Waiter::Callback { callback, context } => {
                self.waiter_context.set(Some(context));
                self.waiter.set(Some(callback));
            }
        }
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
            self.add_waiter(py, waiter);
            return Ok(());
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
    fn remove_waiters(&self, py: Python<'_>, matched: &[Waiter]) -> usize {
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

    fn waiters(&self, py: Python<'_>) -> Vec<Waiter> {
        let mut all: Vec<Waiter> = self.first_waiter().into_iter().collect();
        self.rare.with_existing(py, |rare| all.extend_from_slice(&rare.waiters));
        all
    }

    /// Makes `task`, one of ours on the same loop, wake up when this is done.
    #[inline]
    pub(super) fn await_by(&self, py: Python<'_>, this: &Obj, task: &Obj) -> RawResult<()> {
        if self.is_pending() {
            self.add_waiter(py, Waiter::Task(task.clone()));
            Ok(())
        } else {
            self.notify(py, this, Waiter::Task(task.clone()))
        }
    }

    /// Hands all waiters to the loop, in order; after an error the rest is forgotten, as in asyncio.
    #[inline]
    fn notify_all(&self, py: Python<'_>, this: &Obj) -> RawResult<()> {
        let first = self.waiter.take().map(|what| Waiter::from_parts(what, self.waiter_context.take()));
        let rest = self.rare.with_existing(py, |rare| std::mem::take(&mut rare.waiters));
        if let Some(first) = first {
            self.notify(py, this, first)?;
        }
        for waiter in rest.into_iter().flatten() {
            self.notify(py, this, waiter)?;
        }
        Ok(())
    }

    #[inline]
    fn notify(&self, py: Python<'_>, this: &Obj, waiter: Waiter) -> RawResult<()> {
        if let Some(scheduler) = self.event_loop.scheduler() {
            scheduler.check_call_soon(py)?;
            scheduler.push(
                py,
                match waiter {
                    Waiter::Task(task) => Ready::Wakeup { task, future: this.clone() },
                    Waiter::Linked(outer) => Ready::Linked { outer, inner: this.clone() },
                    Waiter::Callback { callback, context } => {
                        Ready::DoneCallback { callback, future: this.clone(), context }
                    }
                },
            );
            return Ok(());
        }
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

    fn get_result(&self, py: Python<'_>) -> RawResult<Obj> {
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

/// The loop that was given, or the one that asyncio finds for an object made without one.
pub(crate) fn loop_or_current(py: Python<'_>, event_loop: Option<Obj>) -> PyResult<Obj> {
    match event_loop.filter(|event_loop| !event_loop.is_none()) {
        Some(event_loop) => Ok(event_loop),
        None => get_event_loop(py),
    }
}

fn get_event_loop(py: Python<'_>) -> PyResult<Obj> {
    let events = py.import("asyncio.events")?;
    Ok(Obj::from_bound(events.getattr(compat::GET_EVENT_LOOP_NAME)?.call0()?))
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

/// The common part of an object, if it is exactly one of our two classes.
#[inline]
pub(super) fn core_of(object: &Obj) -> Option<&Core> {
    if let Some(future) = Ref::<FutureData>::view_obj(object) {
        return Some(&future.core);
    }
    Ref::<TaskData>::view_obj(object).map(|task| &task.core)
}

/// Data with a [`Core`]: the methods of this file work on both classes.
pub(super) trait HasCore: Data {
    fn core(&self) -> &Core;
}

pub(crate) struct FutureData {
    core: Core,
}

impl Default for FutureData {
    fn default() -> FutureData {
        FutureData { core: Core::new(LoopRef::unset()) }
    }
}

impl HasCore for FutureData {
    #[inline]
    fn core(&self) -> &Core {
        &self.core
    }
}

impl Data for FutureData {
    const FINALIZE: bool = true;
    const FREELIST: usize = 512;

    fn class() -> &'static Class<Self> {
        static CLASS: Class<FutureData> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.core.visit(visitor);
    }
    fn clear(&self) {
        self.core.clear();
    }
    fn wants_finalizer(&self) -> bool {
        self.core.is_unretrieved()
    }
    fn finalize(py: Python<'_>, this: &Ref<Self>) {
        this.core.report_unretrieved(py, this.as_obj(), "Future");
    }
}

/// `loop.create_future()`
#[inline]
pub(crate) fn make(py: Python<'_>, event_loop: LoopRef) -> RawResult<Obj> {
    let future = FutureData::class().make(py, FutureData { core: Core::new(event_loop) })?;
    future.core.remember_origin(py)?;
    Ok(future.into_obj())
}

/// Names that futures and tasks share.
pub(super) fn common<T: HasCore>(table: Table<T>) -> Table<T> {
    table
        .noargs(c"result", c"The result, or the exception raised; InvalidStateError while pending.", result::<T>)
        .noargs(c"exception", c"The exception that was set, or None.", get_exception::<T>)
        .noargs(c"done", c"Whether there is a result or an exception, or it was cancelled.", done::<T>)
        .noargs(c"cancelled", c"Whether it was cancelled.", cancelled::<T>)
        .fastcall(c"add_done_callback", c"Call a function with this object when it is done.", add_done_callback::<T>)
        .onearg(
            c"remove_done_callback",
            c"Remove every instance of a callback; returns how many.",
            remove_done_callback::<T>,
        )
        .noargs(c"get_loop", c"The event loop it belongs to.", get_loop::<T>)
        .noargs(c"_make_cancelled_error", c"The CancelledError to raise.", make_cancelled_error::<T>)
        .get(c"_state", state_name::<T>)
        .get(c"_loop", event_loop::<T>)
        .get(c"_callbacks", callbacks::<T>)
        .get(c"_result", stored_result::<T>)
        .get(c"_exception", stored_exception::<T>)
        .get(c"_source_traceback", source_traceback::<T>)
        .get_set(c"_cancel_message", get_cancel_message::<T>, set_cancel_message::<T>)
        .get_set(c"_log_traceback", get_log_traceback::<T>, set_log_traceback::<T>)
        .get_set(c"_asyncio_future_blocking", get_blocking::<T>, set_blocking::<T>)
        .iter(iter::<T>)
        .awaits(iter::<T>)
}

/// Makes the types `Future` and the iterator of both, and puts `Future` into the module.
pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    let base = imports::future_base(py)?.cast::<pyo3::types::PyType>()?.as_type_ptr();
    const DOC: &std::ffi::CStr = c"Future(*, loop=None)\n--\n\nA result that somebody else will set.";
    let table = common(Table::<FutureData>::new(c"hayase._core.Future", DOC, base, 0))
        .onearg(c"set_result", c"Make it done with a result.", set_result)
        .onearg(c"set_exception", c"Make it done with an exception.", set_exception)
        .fastcall(c"cancel", c"Cancel it; False if it is done already.", cancel)
        .repr(repr)
        .init(init_future);
    to_py(py, table.build(base))?;
    to_py(py, SET_RESULT.adopt(py, &SET_RESULT_NAME))?;
    linked::init();
    COMPLETE.define_onearg(c"set_result_unless_cancelled", complete);
    to_py(py, iterator_table().build(std::ptr::null_mut()))?;
    module.add("Future", FutureData::class().type_obj().into_bound(py))
}

/// `future.set_result` of a future of ours.
static SET_RESULT: BoundFunction<FutureData> = BoundFunction::new();
static SET_RESULT_NAME: Name = Name::new(c"set_result");

/// Whether `callable` is the bound `set_result` of a future on a loop of ours, which runs no Python code.
#[inline]
pub(super) fn is_set_result(callable: &Obj) -> bool {
    let future = SET_RESULT.target(callable).or_else(|| COMPLETE.target(callable));
    future.is_some_and(|future| future.core.event_loop.scheduler().is_some())
}

/// A callable that sets the result unless the future was cancelled, for timers; `None` for a future that is not ours.
#[inline]
pub(crate) fn completer(py: Python<'_>, future: &Obj) -> Option<RawResult<Obj>> {
    Ref::<FutureData>::view_obj(future).map(|future| COMPLETE.bind(py, future))
}

static COMPLETE: BoundFunction<FutureData> = BoundFunction::new();

fn complete(py: Python<'_>, this: &Ref<FutureData>, value: &Obj) -> RawResult<Obj> {
    if this.core.state() != State::Cancelled {
        this.core.set_result(py, this.as_obj(), value.clone())?;
    }
    Ok(Obj::none(py))
}

fn init_future(py: Python<'_>, this: &Ref<FutureData>, args: &Obj, keywords: Option<&Obj>) -> RawResult<()> {
    let event_loop = to_raw(py, parse_future_args(py, args, keywords))?;
    this.core.init(py, "Future", event_loop)
}

fn parse_future_args(py: Python<'_>, args: &Obj, keywords: Option<&Obj>) -> PyResult<Option<Obj>> {
    if args.borrow(py).len()? > 0 {
        return Err(PyTypeError::new_err("Future() takes no positional arguments"));
    }
    let mut event_loop = None;
    for (name, value) in keyword_items(py, keywords)? {
        match name.as_str() {
            "loop" => event_loop = Some(value),
            _ => return Err(unexpected_keyword("Future", &name)),
        }
    }
    Ok(event_loop)
}

pub(super) fn keyword_items(py: Python<'_>, keywords: Option<&Obj>) -> PyResult<Vec<(String, Obj)>> {
    let Some(keywords) = keywords else {
        return Ok(vec![]);
    };
    let keywords = keywords.borrow(py);
    let keywords = keywords.cast::<PyDict>()?;
    keywords.iter().map(|(name, value)| Ok((name.extract()?, Obj::from_bound(value)))).collect()
}

#[cold]
pub(super) fn unexpected_keyword(function: &str, name: &str) -> PyErr {
    PyTypeError::new_err(format!("{function}() got an unexpected keyword argument '{name}'"))
}

fn repr(py: Python<'_>, this: &Ref<FutureData>) -> RawResult<Obj> {
    this.core.check_initialised(py)?;
    call::call1(py, &imports::raw(py, imports::future_repr(py))?, this.as_obj())
}

fn set_result(py: Python<'_>, this: &Ref<FutureData>, value: &Obj) -> RawResult<Obj> {
    this.core.check_initialised(py)?;
    this.core.set_result(py, this.as_obj(), value.clone())?;
    Ok(Obj::none(py))
}

fn set_exception(py: Python<'_>, this: &Ref<FutureData>, error: &Obj) -> RawResult<Obj> {
    this.core.check_initialised(py)?;
    this.core.set_exception(py, this.as_obj(), error)?;
    Ok(Obj::none(py))
}

fn cancel(py: Python<'_>, this: &Ref<FutureData>, args: &Args<'_>) -> RawResult<Obj> {
    let message = cancel_argument(py, args)?;
    this.core.check_initialised(py)?;
    let cancelled = this.core.cancel(py, this.as_obj(), message)?;
    Ok(Obj::bool(py, cancelled))
}

/// The argument of `cancel(msg=None)`.
pub(super) fn cancel_argument(py: Python<'_>, args: &Args<'_>) -> RawResult<Option<Obj>> {
    if args.len() == 0 && args.keyword_count() == 0 {
        return Ok(None);
    }
    let args = args.named("cancel");
    let count = args.len() + args.keyword_count();
    if count > 1 {
        let text = format!("cancel() takes at most 1 argument ({count} given)");
        return Err(Raised::from_err(py, PyTypeError::new_err(text)));
    }
    let [keyword] = args.keywords(py, [&MSG])?;
    Ok(args.get(0).or(keyword).filter(|message| !message.is_none()))
}

fn result<T: HasCore>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    this.core().get_result(py)
}

fn get_exception<T: HasCore>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    let core = this.core();
    if !core.is_initialised() {
        return Err(invalid_state(py, "Future object is not initialized."));
    }
    match core.state() {
        State::Pending => Err(invalid_state(py, "Exception is not set.")),
        State::Cancelled => {
            let error = core.cancelled_error(py)?;
            Err(exception::raise(py, &error))
        }
        State::Result => Ok(Obj::none(py)),
        State::Exception => {
            core.log_traceback.set(false);
            Ok(core.outcome.get().unwrap_or_else(|| Obj::none(py)))
        }
    }
}

fn done<T: HasCore>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    Ok(Obj::bool(py, !this.core().is_pending()))
}

fn cancelled<T: HasCore>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    Ok(Obj::bool(py, this.core().state() == State::Cancelled))
}

fn add_done_callback<T: HasCore>(py: Python<'_>, this: &Ref<T>, args: &Args<'_>) -> RawResult<Obj> {
    let args = args.named("add_done_callback");
    let (Some(callback), 1) = (args.get(0), args.len()) else {
        let text = format!("add_done_callback() takes exactly 1 positional argument ({} given)", args.len());
        return Err(Raised::from_err(py, PyTypeError::new_err(text)));
    };
    let [context] = args.keywords(py, [&CONTEXT])?;
    let core = this.core();
    if !core.is_initialised() {
        return Err(Raised::from_err(py, PyRuntimeError::new_err("uninitialized Future object")));
    }
    // Our own wake-up in a foreign wrapper's hands: stored as the task, which enters its context itself.
    let waiter = match task::woken_by(&callback) {
        Some(task) => Waiter::Task(task.as_obj().clone()),
        None => {
            let context = match context.filter(|context| !context.is_none()) {
                Some(context) => context,
                None => context::copy_current(py)?,
            };
            Waiter::Callback { callback, context }
        }
    };
    if core.is_pending() {
        core.add_waiter(py, waiter);
    } else {
        core.notify(py, this.as_obj(), waiter)?;
    }
    Ok(Obj::none(py))
}

fn remove_done_callback<T: HasCore>(py: Python<'_>, this: &Ref<T>, callback: &Obj) -> RawResult<Obj> {
    let core = this.core();
    core.check_initialised(py)?;
    // Comparing runs Python code, which may add and remove callbacks: work on a copy, then take out what matched.
    let mut matched = vec![];
    for waiter in core.waiters(py) {
        let equal = match &waiter {
            Waiter::Task(task) => task::woken_by(callback).is_some_and(|woken| woken.as_obj().is(task.as_ptr())),
            Waiter::Linked(outer) => linked::told_by(callback).is_some_and(|told| told.as_obj().is(outer.as_ptr())),
            Waiter::Callback { callback: stored, .. } => call::equal(py, stored, callback)?,
        };
        if equal {
            matched.push(waiter);
        }
    }
    let removed = core.remove_waiters(py, &matched);
    to_raw(py, removed.into_pyobject(py).map_err(PyErr::from)).map(Obj::from_bound)
}

fn get_loop<T: HasCore>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    this.core().event_loop.object().ok_or_else(|| uninitialised(py))
}

fn make_cancelled_error<T: HasCore>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    this.core().cancelled_error(py)
}

fn state_name<T: HasCore>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    this.core().check_initialised(py)?;
    let name = match this.core().state() {
        State::Pending => pyo3::intern!(py, "PENDING"),
        State::Cancelled => pyo3::intern!(py, "CANCELLED"),
        State::Result | State::Exception => pyo3::intern!(py, "FINISHED"),
    };
    Ok(Obj::from_any(name))
}

fn event_loop<T: HasCore>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    Ok(this.core().event_loop.object().unwrap_or_else(|| Obj::none(py)))
}

fn callbacks<T: HasCore>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    this.core().check_initialised(py)?;
    let waiters = this.core().waiters(py);
    if waiters.is_empty() {
        return Ok(Obj::none(py));
    }
    let list = PyList::empty(py);
    for waiter in waiters {
        let (callback, context) = match waiter {
            Waiter::Task(task) => task::wakeup_callable(py, &task)?,
            Waiter::Linked(outer) => (linked::callable(py, &outer)?, context::copy_current(py)?),
            Waiter::Callback { callback, context } => (callback, context),
        };
        let pair = PyTuple::new(py, [callback.into_bound(py), context.into_bound(py)]);
        to_raw(py, pair.and_then(|pair| list.append(pair)))?;
    }
    Ok(Obj::from_bound(list))
}

fn stored_result<T: HasCore>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    this.core().check_initialised(py)?;
    let value = if this.core().state() == State::Result { this.core().outcome.get() } else { None };
    Ok(value.unwrap_or_else(|| Obj::none(py)))
}

fn stored_exception<T: HasCore>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    this.core().check_initialised(py)?;
    let error = if this.core().state() == State::Exception { this.core().outcome.get() } else { None };
    Ok(error.unwrap_or_else(|| Obj::none(py)))
}

fn source_traceback<T: HasCore>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    Ok(this.core().source_traceback(py).unwrap_or_else(|| Obj::none(py)))
}

fn get_cancel_message<T: HasCore>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    Ok(this.core().cancel_message(py).unwrap_or_else(|| Obj::none(py)))
}

fn set_cancel_message<T: HasCore>(py: Python<'_>, this: &Ref<T>, value: &Obj) -> RawResult<()> {
    this.core().set_cancel_message(py, Some(value.clone()));
    Ok(())
}

fn get_log_traceback<T: HasCore>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    this.core().check_initialised(py)?;
    Ok(Obj::bool(py, this.core().is_unretrieved()))
}

fn set_log_traceback<T: HasCore>(py: Python<'_>, this: &Ref<T>, value: &Obj) -> RawResult<()> {
    if call::is_true(py, value)? {
        return Err(Raised::from_err(py, PyValueError::new_err("_log_traceback can only be set to False")));
    }
    this.core().forget_unretrieved();
    Ok(())
}

fn get_blocking<T: HasCore>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    Ok(Obj::bool(py, this.core().is_initialised() && this.core().blocking.get()))
}

fn set_blocking<T: HasCore>(py: Python<'_>, this: &Ref<T>, value: &Obj) -> RawResult<()> {
    this.core().check_initialised(py)?;
    let blocking = call::is_true(py, value)?;
    this.core().blocking.set(blocking);
    Ok(())
}

fn iter<T: HasCore>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    this.core().check_initialised(py)?;
    let data = IteratorData { future: ObjCell::new(Some(this.as_obj().clone())) };
    Ok(IteratorData::class().make(py, data)?.into_obj())
}

/// What `__await__` and `__iter__` give: yields the future once, then returns its result.
///
/// An object of its own, as in asyncio, so that a future is no `collections.abc.Iterator`.
pub(crate) struct IteratorData {
    future: ObjCell,
}

impl Data for IteratorData {
    const FREELIST: usize = 512;

    fn class() -> &'static Class<Self> {
        static CLASS: Class<IteratorData> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.cell(&self.future);
    }
    fn clear(&self) {
        self.future.set(None);
    }
}

fn iterator_table() -> Table<IteratorData> {
    const DISALLOW: u64 = pyo3::ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    Table::<IteratorData>::new(c"hayase._core.FutureIter", c"Awaits one future.", std::ptr::null_mut(), DISALLOW)
        .iter(|_py: Python<'_>, this: &Ref<IteratorData>| Ok(this.as_obj().clone()))
        .next(iterator_next)
        .send(|py: Python<'_>, this: &Ref<IteratorData>, _value: &Obj| iterator_step(py, this))
        .onearg(c"send", c"Continue; the value is ignored.", iterator_send)
        .fastcall(c"throw", c"Raise an exception here.", iterator_throw)
        .noargs(c"close", c"Forget the future.", iterator_close)
}

#[inline]
fn iterator_step(py: Python<'_>, this: &Ref<IteratorData>) -> RawResult<Step> {
    let Some(future) = this.future.get() else {
        return Ok(Step::Return(Obj::none(py)));
    };
    let core = core_of(&future).expect("made for one of our futures");
    if core.is_pending() {
        if !core.blocking.get() {
            core.blocking.set(true);
            return Ok(Step::Yield(future));
        }
        return Err(exception::restore(py, not_awaited(py)));
    }
    this.future.set(None);
    core.get_result(py).map(Step::Return)
}

/// Somebody sent into an `await` although the future is not done.
#[cold]
pub(super) fn not_awaited(py: Python<'_>) -> Obj {
    exception::instance(py, PyRuntimeError::new_err("await wasn't used with future"))
}

fn iterator_next(py: Python<'_>, this: &Ref<IteratorData>) -> RawResult<Option<Obj>> {
    match iterator_step(py, this)? {
        Step::Yield(future) => Ok(Some(future)),
        Step::Return(value) if value.is_none() => Ok(None),
        Step::Return(value) => Err(exception::return_value(py, value)),
    }
}

fn iterator_send(py: Python<'_>, this: &Ref<IteratorData>, _value: &Obj) -> RawResult<Obj> {
    match iterator_step(py, this)? {
        Step::Yield(future) => Ok(future),
        Step::Return(value) => Err(exception::raise_stop_iteration(py, &value)),
    }
}

fn iterator_close(py: Python<'_>, this: &Ref<IteratorData>) -> RawResult<Obj> {
    this.future.set(None);
    Ok(Obj::none(py))
}

/// `throw(exception)`, and the older `throw(type, value, traceback)` with its warning.
fn iterator_throw(py: Python<'_>, this: &Ref<IteratorData>, args: &Args<'_>) -> RawResult<Obj> {
    let error = to_raw(py, thrown(py, args))?;
    this.future.set(None);
    Err(exception::restore(py, error))
}

/// The exception that `throw(...)` was called with.
pub(crate) fn thrown(py: Python<'_>, args: &Args<'_>) -> PyResult<Obj> {
    let Some(kind) = args.get(0) else {
        return Err(PyTypeError::new_err("throw expected at least 1 argument, got 0"));
    };
    if args.len() > 3 {
        let text = format!("throw expected at most 3 arguments, got {}", args.len());
        return Err(PyTypeError::new_err(text));
    }
    if args.len() > 1 && compat::THROW_WITH_THREE_ARGUMENTS_WARNS {
        let text = c"the (type, exc, tb) signature of throw() is deprecated, use the single-arg signature instead.";
        PyErr::warn(py, &py.get_type::<PyDeprecationWarning>(), text, 1)?;
    }
    let value = args.get(1).filter(|value| !value.is_none());
    let traceback = args.get(2).filter(|traceback| !traceback.is_none());
    if let Some(traceback) = &traceback
        && !traceback.borrow(py).is_instance_of::<pyo3::types::PyTraceback>()
    {
        return Err(PyTypeError::new_err("throw() third argument must be a traceback"));
    }
    let error = if exception::is_class(&kind) {
        match value {
            Some(value) if exception::matches(py, &value, kind.as_ptr()) && exception::is_instance(&value) => value,
            Some(value) => match value.borrow(py).cast::<PyTuple>() {
                Ok(args) => Obj::from_bound(kind.borrow(py).call1(args.to_owned())?),
                Err(_) => to_py(py, call::call1(py, &kind, &value))?,
            },
            None => to_py(py, call::call0(py, &kind))?,
        }
    } else if exception::is_instance(&kind) {
        if value.is_some() {
            return Err(PyTypeError::new_err("instance exception may not have a separate value"));
        }
        kind
    } else {
        return Err(PyTypeError::new_err(
            "exceptions must be classes deriving BaseException or instances of such a class",
        ));
    };
    if !exception::is_instance(&error) {
        return Err(PyTypeError::new_err("exceptions must derive from BaseException"));
    }
    if let Some(traceback) = &traceback {
        to_py(py, exception::set_traceback(py, &error, Some(traceback)))?;
    }
    Ok(error)
}
