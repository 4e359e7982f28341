//! `call_soon`, `call_later`, `call_at`, `call_soon_threadsafe`, `create_future`, `create_task`: the methods that run
//! once per callback or task, on the class without PyO3's argument packing.

use std::ffi::CStr;
use std::time::Duration;

use driver::Time;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyInt};

use super::{Loop, clock, debug};
use crate::raw::call::{self, Name};
use crate::raw::fastcall::{Args, FastMethod, Rest, add_method, type_error};
use crate::raw::instance::Ref;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, compat, detached, to_raw};
use crate::tasks;
use crate::tasks::handle::{self, When};
use crate::tasks::ready::Ready;
use crate::tasks::scheduler::LoopRef;
use crate::tasks::timers;

static CONTEXT: Name = Name::new(c"context");
static NAME: Name = Name::new(c"name");
static EAGER_START: Name = Name::new(c"eager_start");
static SET_NAME: Name = Name::new(c"set_name");

macro_rules! methods {
    ($($(#[$attribute:meta])* $type:ident, $name:literal, [$($parameter:literal),*], $body:path, $doc:literal;)*) => {
        $(
            struct $type;
            impl FastMethod<Loop> for $type {
                const NAME: &'static CStr = $name;
                const DOC: &'static CStr = $doc;
                const PARAMETERS: &'static [&'static CStr] = &[$($parameter),*];
                #[inline]
                fn call(py: Python<'_>, this: &Obj, receiver: &Loop, args: &Args<'_>) -> RawResult<Obj> {
                    $body(py, this, receiver, args)
                }
            }
        )*
        /// Puts the methods of this file on the class.
        pub(super) fn add_methods(py: Python<'_>) -> PyResult<()> {
            $(add_method::<Loop, $type>(py)?;)*
            Ok(())
        }
    };
}

methods! {
    CallSoon, c"call_soon", [c"callback"], call_soon,
        c"call_soon($self, callback, *args, context=None)\n--\n\nCall callback(*args) in the next turn, after \
          everything that is ready already.\n\nReturns a Handle. context: the contextvars.Context to run in, a copy of \
          the current one if None. Raises RuntimeError if the loop is closed.";
    CallSoonThreadsafe, c"call_soon_threadsafe", [c"callback"], call_soon_threadsafe,
        c"call_soon_threadsafe($self, callback, *args, context=None)\n--\n\nLike call_soon, from any thread: wakes \
          the loop.";
    CallLater, c"call_later", [c"delay", c"callback"], call_later,
        c"call_later($self, delay, callback, *args, context=None)\n--\n\nCall callback(*args) after delay seconds, \
          never earlier.\n\nTimers of equal time run in the order they were made. Returns a TimerHandle.";
    CallAt, c"call_at", [c"when", c"callback"], call_at,
        c"call_at($self, when, callback, *args, context=None)\n--\n\nLike call_later, at an absolute time on the \
          clock of loop.time(), in seconds.";
    CreateFuture, c"create_future", [], create_future,
        c"create_future($self, /)\n--\n\nMake a Future of this loop.";
    CreateTask, c"create_task", [c"coro"], create_task,
        c"create_task($self, coro, **kwargs)\n--\n\nMake a Task that runs the coroutine.\n\nkwargs: name, context \
          and what else the running version's asyncio.Task takes; with a task factory they go to the factory as they are.";
}

#[inline]
fn call_soon(py: Python<'_>, this: &Obj, event_loop: &Loop, args: &Args<'_>) -> RawResult<Obj> {
    let scheduler = &event_loop.runtime.scheduler;
    args.require(py, &["callback"])?;
    scheduler.check_open(py)?;
    if scheduler.debug.get() {
        debug::check_thread(py, event_loop)?;
    }
    schedule(py, this, event_loop, args, |py, event_loop, callback, rest, context| {
        handle::make(py, event_loop, callback, rest, context).map(Ref::into_obj)
    })
}

fn call_soon_threadsafe(py: Python<'_>, this: &Obj, event_loop: &Loop, args: &Args<'_>) -> RawResult<Obj> {
    args.require(py, &["callback"])?;
    event_loop.runtime.scheduler.check_open(py)?;
    let handle = schedule(py, this, event_loop, args, tasks::thread_safe_handle::make)?;
    event_loop.runtime.scheduler.wake();
    detached::call_nappers();
    Ok(handle)
}

#[inline]
fn schedule(
    py: Python<'_>,
    this: &Obj,
    event_loop: &Loop,
    args: &Args<'_>,
    make: impl FnOnce(Python<'_>, LoopRef, Obj, Rest, Option<Obj>) -> RawResult<Obj>,
) -> RawResult<Obj> {
    let scheduler = &event_loop.runtime.scheduler;
    let context = context_of(py, args)?;
    let callback = args.get(0).expect("required");
    if scheduler.debug.get() {
        debug::check_callback(py, &callback, args.function())?;
    }
    let rest = args.rest(1)?;
    if let Some(entry) = tasks::recognise_wakeup(py, &callback, &rest) {
        scheduler.schedule(py, entry)?;
        return Ok(Obj::none(py));
    }
    let handle = make(py, event_loop.reference(this), callback, rest, context)?;
    scheduler.schedule(py, Ready::Handle(handle.clone()))?;
    Ok(handle)
}

#[inline]
fn context_of(py: Python<'_>, args: &Args<'_>) -> RawResult<Option<Obj>> {
    if args.keyword_count() == 0 {
        return Ok(None);
    }
    let [context] = args.keywords(py, [&CONTEXT])?;
    Ok(context.filter(|context| !context.is_none()))
}

fn call_later(py: Python<'_>, this: &Obj, event_loop: &Loop, args: &Args<'_>) -> RawResult<Obj> {
    args.require(py, &["delay", "callback"])?;
    let delay = args.get(0).expect("required");
    if delay.is_none() {
        return Err(type_error(py, "delay must not be None".to_owned()));
    }
    let now = clock::seconds(py, this, event_loop)?;
    let when = match number(py, &delay) {
        Some(delay) => now + delay,
        // Whatever else can be added to a float; what cannot gets Python's own error.
        None => to_raw(py, delay.borrow(py).radd_to(now))?,
    };
    arm(py, this, event_loop, When::Float(when), args)
}

fn call_at(py: Python<'_>, this: &Obj, event_loop: &Loop, args: &Args<'_>) -> RawResult<Obj> {
    args.require(py, &["when", "callback"])?;
    let when = args.get(0).expect("required");
    if when.is_none() {
        return Err(type_error(py, "when cannot be None".to_owned()));
    }
    let exact_int = when.borrow(py).is_exact_instance_of::<PyInt>();
    let when = match (exact_int.then(|| when.borrow(py).extract()), number(py, &when)) {
        (Some(Ok(seconds)), _) => When::Int(seconds),
        (_, Some(seconds)) => When::Float(seconds),
        (_, None) => When::Float(to_raw(py, when.borrow(py).extract())?),
    };
    arm(py, this, event_loop, when, args)
}

fn arm(py: Python<'_>, this: &Obj, event_loop: &Loop, when: When, args: &Args<'_>) -> RawResult<Obj> {
    let scheduler = &event_loop.runtime.scheduler;
    scheduler.check_open(py)?;
    let context = context_of(py, args)?;
    let callback = args.get(1).expect("required");
    if scheduler.debug.get() {
        debug::check_thread(py, event_loop)?;
        // asyncio's call_later calls call_at, so that is the name in the error.
        debug::check_callback(py, &callback, "call_at")?;
    }
    timers::arm(py, scheduler, event_loop.reference(this), when, callback.into(), args.rest(2)?, context)
}

#[inline]
fn number(py: Python<'_>, value: &Obj) -> Option<f64> {
    let value = value.borrow(py);
    if let Ok(value) = value.cast_exact::<PyFloat>() {
        return Some(value.value());
    }
    if value.is_exact_instance_of::<PyInt>() { value.extract().ok() } else { None }
}

trait AddToFloat {
    fn radd_to(&self, start: f64) -> PyResult<f64>;
}

impl AddToFloat for pyo3::Borrowed<'_, '_, PyAny> {
    fn radd_to(&self, start: f64) -> PyResult<f64> {
        PyFloat::new(self.py(), start).add(&**self)?.extract()
    }
}

fn create_future(py: Python<'_>, this: &Obj, event_loop: &Loop, args: &Args<'_>) -> RawResult<Obj> {
    if args.len() > 0 || args.keyword_count() > 0 {
        return Err(type_error(py, "create_future() takes no arguments".to_owned()));
    }
    tasks::future::make(py, event_loop.reference(this))
}

fn create_task(py: Python<'_>, this: &Obj, event_loop: &Loop, args: &Args<'_>) -> RawResult<Obj> {
    if args.len() > 1 {
        return Err(type_error(
            py,
            format!("create_task() takes 2 positional arguments but {} were given", args.len() + 1),
        ));
    }
    args.require(py, &["coro"])?;
    let coroutine = args.get(0).expect("required");
    event_loop.runtime.scheduler.check_open(py)?;
    // What asyncio's eager factory makes, a native task does as well.
    let by_factory = event_loop.task_factory.is_some();
    if by_factory && !event_loop.tasks_start_eagerly.get() {
        return to_raw(py, from_factory(py, this, event_loop, &coroutine, args)).map(Obj::from_bound);
    }
    let ([name, context], eager) = if args.keyword_count() == 0 {
        ([None, None], by_factory)
    } else if compat::CREATE_TASK_PASSES_KEYWORDS {
        let [name, context, eager] = args.keywords(py, [&NAME, &CONTEXT, &EAGER_START])?;
        let eager = match eager {
            Some(eager) => to_raw(py, eager.borrow(py).is_truthy())?,
            None => by_factory,
        };
        ([name, context], eager)
    } else {
        (args.keywords(py, [&NAME, &CONTEXT])?, by_factory)
    };
    let set = |value: Option<Obj>| value.filter(|value| !value.is_none());
    let mut name = set(name);
    // Before 3.14 a factory is not told the name.
    let name_for_later = if by_factory && !compat::CREATE_TASK_PASSES_KEYWORDS { name.take() } else { None };
    let task = tasks::task::make(py, event_loop.reference(this), coroutine, name, set(context), eager)?;
    if let Some(name) = name_for_later {
        call::method(py, &task, &SET_NAME, &[&name])?;
    }
    Ok(task)
}

/// With a task factory: from 3.14 every keyword that was given goes to the factory; before, `context` if it is not
/// None, and the name is set afterwards.
fn from_factory<'py>(
    py: Python<'py>,
    this: &Obj,
    event_loop: &Loop,
    coroutine: &Obj,
    args: &Args<'_>,
) -> PyResult<Bound<'py, PyAny>> {
    let factory = event_loop.task_factory.get().expect("checked").into_bound(py);
    let keywords = PyDict::new(py);
    let mut name = None;
    for i in 0..args.keyword_count() {
        let (key, value) = args.keyword(i);
        let (key, value) = (key.into_bound(py), value.into_bound(py));
        if compat::CREATE_TASK_PASSES_KEYWORDS {
            keywords.set_item(key, value)?;
            continue;
        }
        match key.extract::<String>()?.as_str() {
            "name" => name = Some(value),
            "context" if value.is_none() => {}
            "context" => keywords.set_item(key, value)?,
            other => {
                let text = format!("create_task() got an unexpected keyword argument '{other}'");
                return Err(PyTypeError::new_err(text));
            }
        }
    }
    let task = factory.call((this.borrow(py), coroutine.borrow(py)), Some(&keywords))?;
    if !compat::CREATE_TASK_PASSES_KEYWORDS {
        set_task_name(py, &task, name)?;
    }
    Ok(task)
}

/// As asyncio before 3.14: a factory's object without `set_name` is left alone.
fn set_task_name(py: Python<'_>, task: &Bound<'_, PyAny>, name: Option<Bound<'_, PyAny>>) -> PyResult<()> {
    let Some(name) = name.filter(|name| !name.is_none()) else {
        return Ok(());
    };
    if task.hasattr("set_name")? {
        let (task, name) = (Obj::from_any(task), Obj::from_bound(name));
        crate::raw::to_py(py, call::method(py, &task, &SET_NAME, &[&name]))?;
    }
    Ok(())
}

impl Loop {
    /// Queues a call that needs no handle.
    pub(super) fn push(&self, py: Python<'_>, entry: Ready) {
        self.runtime.scheduler.push(py, entry);
    }

    /// How long the next wait may sleep: `None` is for ever.
    pub(super) fn sleep(&self, py: Python<'_>, now: Time) -> Option<Duration> {
        let scheduler = &self.runtime.scheduler;
        if self.stopping.get() || scheduler.ready_len(py) > 0 {
            return Some(Duration::ZERO);
        }
        let deadline = scheduler.next_deadline(py)?;
        Some(Duration::from_nanos(deadline.as_nanos().saturating_sub(now.as_nanos())))
    }
}
