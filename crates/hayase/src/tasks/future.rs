//! `Future`: a result that somebody else will set, and who waits for it.
//!
//! Private names, errors and the order of callbacks are those of `_asyncio.Future`, which is the base class; its own
//! fields stay empty, so every name of it that reads them is overridden here (`tests/test_spike_traps.py` compares the
//! lists on each version). What tasks have too works on every class with a [`Core`].

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyModule, PyTuple};

use super::future_core::{Core, State, Waiter, invalid_state, uninitialised};
use super::future_iterator::{self, IteratorData};
use super::linked;
use super::native_call::{Callback, Native, NativeCall};
use super::scheduler::LoopRef;
use super::task::{self, TaskData};
use crate::interop::imports;
use crate::raw::bound_function::BoundFunction;
use crate::raw::call::{self, Name};
use crate::raw::cell::ObjCell;
use crate::raw::fastcall::Args;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::Table;
use crate::raw::{Raised, RawResult, compat, context, exception, to_py, to_raw};

static CONTEXT: Name = Name::new(c"context");
static MSG: Name = Name::new(c"msg");

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

/// The loop that was given, or the one that asyncio finds for an object made without one.
pub(crate) fn loop_or_current(py: Python<'_>, event_loop: Option<Obj>) -> PyResult<Obj> {
    match event_loop.filter(|event_loop| !event_loop.is_none()) {
        Some(event_loop) => Ok(event_loop),
        None => get_event_loop(py),
    }
}

pub(super) fn get_event_loop(py: Python<'_>) -> PyResult<Obj> {
    let events = py.import("asyncio.events")?;
    Ok(Obj::from_bound(events.getattr(compat::GET_EVENT_LOOP_NAME)?.call0()?))
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
    define_completion();
    future_iterator::init(py)?;
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

/// Whether that is so of the target of a [`completion`].
#[inline]
pub(super) fn is_on_our_loop(future: &Obj) -> bool {
    core_of(future).is_some_and(|core| core.event_loop.scheduler().is_some())
}

/// For timers: sets the result to the argument unless the future was cancelled; `None` for a future that is not ours.
#[inline]
pub(crate) fn completion(future: &Obj) -> Option<Callback> {
    Ref::<FutureData>::view_obj(future).map(|future| Callback::Native(Native::SetResult, future.as_obj().clone()))
}

static COMPLETE: BoundFunction<FutureData> = BoundFunction::new();

fn define_completion() {
    COMPLETE.define_onearg(c"set_result_unless_cancelled", complete);
    fn target(target: &Obj) -> &Ref<FutureData> {
        Ref::<FutureData>::view_obj(target).expect("`completion` looked")
    }
    Native::SetResult.define(NativeCall {
        run: |py, future, value| complete(py, target(future), value.unwrap_or(&Obj::none(py))),
        callable: |py, future| COMPLETE.bind(py, target(future)),
    });
}

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
        core.add_waiter(py, waiter)?;
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
