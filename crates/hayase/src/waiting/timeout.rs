//! `Timeout`, `timeout` and `timeout_at`.
//!
//! When the time is over the task is cancelled; on the way out, a cancellation that was ours becomes a TimeoutError. What
//! others cancel stays a cancellation: the task counts the requests.

use std::mem::offset_of;

use pyo3::exceptions::{PyAssertionError, PyBaseExceptionGroup, PyRuntimeError, PyTimeoutError};
use pyo3::prelude::*;
use pyo3::types::{PyModule, PyString};

use super::timers::{Moment, Timers};
use super::{cancel_handle, current_task_of};
use crate::interop::{arguments, asyncio_class, imports};
use crate::raw::attributes::Attributes;
use crate::raw::bound_function::BoundFunction;
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::fastcall::Args;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::Table;
use crate::raw::{Raised, RawResult, compat, exception, function, to_py, to_raw};
use crate::runtime::operation::{self, Kind, Operation, Turn, never_resumed};
use crate::tasks::native_call::{Callback, Native, NativeCall};
use crate::tasks::task;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Created,
    Entered,
    Expiring,
    Expired,
    Exited,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Entered => "active",
            State::Expiring => "expiring",
            State::Expired => "expired",
            State::Exited => "finished",
        }
    }
}

#[repr(C)]
pub(super) struct Timeout {
    attributes: Attributes,
    when: ObjCell,
    /// The handle of the timer, while there is one.
    handler: ObjCell,
    task: ObjCell,
    /// How many cancellations of the task were asked for before it came in.
    cancelling: GilValue<u32>,
    state: GilValue<State>,
}

impl Default for Timeout {
    fn default() -> Timeout {
        Timeout::new(None)
    }
}

impl Timeout {
    fn new(when: Option<Obj>) -> Timeout {
        Timeout {
            attributes: Attributes::empty(),
            when: ObjCell::new(when),
            handler: ObjCell::empty(),
            task: ObjCell::empty(),
            cancelling: GilValue::new(0),
            state: GilValue::new(State::Created),
        }
    }
}

impl Data for Timeout {
    const FREELIST: usize = 64;
    const SUBCLASSABLE: Option<usize> = Some(offset_of!(Timeout, attributes));

    fn class() -> &'static Class<Self> {
        static CLASS: Class<Timeout> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.attributes.visit(visitor);
        for cell in [&self.when, &self.handler, &self.task] {
            visitor.cell(cell);
        }
    }
    fn clear(&self) {
        self.attributes.clear();
        for cell in [&self.when, &self.handler, &self.task] {
            cell.set(None);
        }
    }
}

static CONTEXT: Name = Name::new(c"__context__");
static DELAY: Name = Name::new(c"delay");
static EXC_TYPE: Name = Name::new(c"exc_type");
static EXC_VAL: Name = Name::new(c"exc_val");
static EXC_TB: Name = Name::new(c"exc_tb");
static ON_TIMEOUT_NAME: Name = Name::new(c"_on_timeout");
static RESCHEDULE: Name = Name::new(c"reschedule");
static EXCEPTIONS: Name = Name::new(c"exceptions");
static WHEN: Name = Name::new(c"when");

static ON_TIMEOUT: BoundFunction<Timeout> = BoundFunction::new();

/// A timeout that ends `delay` seconds from now; for ever if that is None.
fn make(py: Python<'_>, delay: &Obj) -> RawResult<Ref<Timeout>> {
    prepare(py, &Timers::of_running(py)?, delay).map(|(timeout, _)| timeout)
}

/// A timeout that has begun; the clock is read once.
pub(super) fn begin(py: Python<'_>, delay: &Obj) -> RawResult<Ref<Timeout>> {
    let timers = Timers::of_running(py)?;
    let (timeout, now) = prepare(py, &timers, delay)?;
    timeout.enter(py, &timers, now)?;
    Ok(timeout)
}

/// The timeout, and what the clock said.
fn prepare(py: Python<'_>, timers: &Timers, delay: &Obj) -> RawResult<(Ref<Timeout>, Option<Moment>)> {
    let now = if delay.is_none() { None } else { Some(timers.now(py)?) };
    let when = now.as_ref().map(|now| now.plus(py, delay)).transpose()?;
    Ok((Timeout::class().make(py, Timeout::new(when))?, now))
}

fn refuse(py: Python<'_>, text: &str) -> Raised {
    Raised::from_err(py, PyRuntimeError::new_err(text.to_owned()))
}

impl Ref<Timeout> {
    /// Nothing of it can be overridden.
    #[inline]
    fn is_plain(&self) -> bool {
        self.is_exact() && !self.attributes.has_dict()
    }

    /// `__aenter__`
    fn enter(&self, py: Python<'_>, timers: &Timers, now: Option<Moment>) -> RawResult<()> {
        if self.state.get() != State::Created {
            return Err(refuse(py, "Timeout has already been entered"));
        }
        let current = current_task_of(py, &timers.event_loop(py))?;
        if current.is_none() {
            return Err(refuse(py, "Timeout should be used inside a task"));
        }
        self.state.set(State::Entered);
        self.cancelling.set(task::cancelling_of(py, &current)?);
        self.task.set(Some(current));
        if self.is_plain() {
            return self.schedule(py, timers, now);
        }
        let when = self.when.get().unwrap_or_else(|| Obj::none(py));
        call::method(py, self.as_obj(), &RESCHEDULE, &[&when]).map(drop)
    }

    fn disarm(&self, py: Python<'_>) -> RawResult<()> {
        self.handler.take().map_or(Ok(()), |handler| cancel_handle(py, &handler))
    }

    /// Arms the timer for `when`; the clock is asked if that was not done just now.
    fn schedule(&self, py: Python<'_>, timers: &Timers, now: Option<Moment>) -> RawResult<()> {
        self.disarm(py)?;
        let Some(when) = self.when.get().filter(|when| !when.is_none()) else {
            return Ok(());
        };
        let now = match now {
            Some(now) => now,
            None => timers.now(py)?,
        };
        let callback = if self.is_plain() {
            Callback::Native(Native::EndTimeout, self.as_obj().clone())
        } else {
            Callback::Callable(call::getattr(py, self.as_obj(), &ON_TIMEOUT_NAME)?)
        };
        let handler = if now.has_come(py, &when)? {
            timers.call_soon(py, callback)?
        } else {
            timers.call_at(py, &when, callback)?
        };
        self.handler.set(Some(handler));
        Ok(())
    }

    /// `__aexit__`; `error` is what ended the block.
    pub(super) fn exit(&self, py: Python<'_>, error: Option<&Obj>) -> RawResult<()> {
        self.disarm(py)?;
        match self.state.get() {
            State::Expiring => self.state.set(State::Expired),
            State::Entered => {
                self.state.set(State::Exited);
                return Ok(());
            }
            State::Created | State::Expired | State::Exited => {
                return Err(Raised::from_err(py, PyAssertionError::new_err(())));
            }
        }
        let Some(task) = self.task.get() else {
            return Ok(());
        };
        let remaining = task::uncancel(py, &task)?;
        let Some(error) = error else {
            return Ok(());
        };
        if remaining > self.cancelling.get() {
            // Somebody else cancelled too.
            return Ok(());
        }
        let cancelled = imports::raw(py, imports::cancelled_error(py))?;
        if exception::matches(py, error, cancelled.as_ptr()) {
            let timeout = exception::instance(py, PyTimeoutError::new_err(()));
            exception::chain(&timeout, error);
            return Err(exception::restore(py, timeout));
        }
        if compat::TIMEOUT_IS_PUT_INTO_CONTEXTS {
            put_into_context(py, error, &cancelled)?;
            if error.borrow(py).is_instance_of::<PyBaseExceptionGroup>() {
                let members = call::getattr(py, error, &EXCEPTIONS)?;
                for member in to_raw(py, members.borrow(py).try_iter())? {
                    put_into_context(py, &Obj::from_bound(to_raw(py, member)?), &cancelled)?;
                }
            }
        }
        Ok(())
    }
}

/// An error that came while the cancellation was handled: its context says that the time was over.
#[cold]
fn put_into_context(py: Python<'_>, error: &Obj, cancelled: &Obj) -> RawResult<()> {
    let mut error = error.clone();
    loop {
        let context = call::getattr(py, &error, &CONTEXT)?;
        if context.is_none() {
            return Ok(());
        }
        if exception::matches(py, &context, cancelled.as_ptr()) {
            let timeout = exception::instance(py, PyTimeoutError::new_err(()));
            exception::chain(&timeout, &context);
            return call::setattr(py, &error, &CONTEXT, &timeout);
        }
        error = context;
    }
}

fn on_timeout(py: Python<'_>, this: &Ref<Timeout>) -> RawResult<Obj> {
    if let Some(task) = this.task.get() {
        task::cancel_object(py, &task, None)?;
    }
    this.state.set(State::Expiring);
    this.handler.set(None);
    Ok(Obj::none(py))
}

static ENTER: Kind = Kind { name: "Timeout.__aenter__", start: enter_start, resume: never_resumed };
static EXIT: Kind = Kind { name: "Timeout.__aexit__", start: exit_start, resume: never_resumed };

fn enter_start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let timeout = this.target::<Timeout>();
    timeout.enter(py, &Timers::of_running(py)?, None)?;
    Ok(Turn::Return(timeout.into_obj()))
}

fn exit_start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let error = this.argument.take();
    this.target::<Timeout>().exit(py, error.as_ref())?;
    Ok(Turn::Return(Obj::none(py)))
}

fn reschedule(py: Python<'_>, this: &Ref<Timeout>, args: &Args<'_>) -> RawResult<Obj> {
    let [when] = args.named("Timeout.reschedule").bind(py, [&WHEN], 1)?;
    match this.state.get() {
        State::Entered => {}
        State::Created => return Err(refuse(py, "Timeout has not been entered")),
        state => return Err(refuse(py, &format!("Cannot change state of {} Timeout", state.name()))),
    }
    let is_never = when.as_ref().is_none_or(Obj::is_none);
    this.when.set(when);
    if is_never {
        this.disarm(py)?;
    } else {
        this.schedule(py, &Timers::of_running(py)?, None)?;
    }
    Ok(Obj::none(py))
}

fn repr(py: Python<'_>, this: &Ref<Timeout>) -> RawResult<Obj> {
    let describe = || -> PyResult<String> {
        if this.state.get() != State::Entered {
            return Ok(String::new());
        }
        let when = this.when.get().unwrap_or_else(|| Obj::none(py));
        if when.is_none() {
            return Ok(" when=None".to_owned());
        }
        Ok(format!(" when={}", imports::round(py)?.call1((when.into_bound(py), 3))?.str()?))
    };
    let when = to_raw(py, describe())?;
    Ok(Obj::from_bound(PyString::new(py, &format!("<Timeout [{}]{when}>", this.state.get().name()))))
}

fn timeout(py: Python<'_>, args: &Args<'_>) -> RawResult<Obj> {
    let [delay] = args.bind(py, [&DELAY], 1)?;
    make(py, &delay.expect("required")).map(Ref::into_obj)
}

fn timeout_at(py: Python<'_>, args: &Args<'_>) -> RawResult<Obj> {
    let [when] = args.bind(py, [&WHEN], 1)?;
    Timeout::class().make(py, Timeout::new(when)).map(Ref::into_obj)
}

fn initialise(py: Python<'_>, this: &Ref<Timeout>, args: &Obj, keywords: Option<&Obj>) -> RawResult<()> {
    this.when.set(Some(arguments::required(py, "Timeout", "when", args, keywords)?));
    Ok(())
}

pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    ON_TIMEOUT.define_noargs(c"_on_timeout", on_timeout);
    fn target(target: &Obj) -> &Ref<Timeout> {
        Ref::<Timeout>::view_obj(target).expect("armed by a timeout")
    }
    Native::EndTimeout.define(NativeCall {
        run: |py, timeout, _| on_timeout(py, target(timeout)),
        callable: |py, timeout| ON_TIMEOUT.bind(py, target(timeout)),
    });
    const DOC: &std::ffi::CStr =
        c"Timeout(when)\n--\n\nCancels what runs inside `async with` when the loop's clock says \
        `when`, and makes a TimeoutError of it.\n\nMade by timeout() and timeout_at().";
    let table = Table::<Timeout>::new(c"hayase.timeouts.Timeout", DOC, std::ptr::null_mut(), 0)
        .get(c"__class__", asyncio_class::of)
        .noargs(c"when", c"when($self, /)\n--\n\nThe deadline, or None.", |py: Python<'_>, this: &Ref<Timeout>| {
            Ok(this.when.get().unwrap_or_else(|| Obj::none(py)))
        })
        .fastcall(c"reschedule", c"reschedule($self, /, when)\n--\n\nAnother deadline, or None for none.", reschedule)
        .noargs(
            c"expired",
            c"expired($self, /)\n--\n\nWhether the time was over before the block was.",
            |py: Python<'_>, this: &Ref<Timeout>| {
                Ok(Obj::bool(py, matches!(this.state.get(), State::Expiring | State::Expired)))
            },
        )
        .noargs(c"__aenter__", c"Begin.", |py: Python<'_>, this: &Ref<Timeout>| {
            operation::make(py, &ENTER, this.as_obj().clone(), None)
        })
        .fastcall(
            c"__aexit__",
            c"__aexit__($self, exc_type, exc_val, exc_tb)\n--\n\nEnd.",
            |py: Python<'_>, this: &Ref<Timeout>, args: &Args<'_>| {
                let names = [&EXC_TYPE, &EXC_VAL, &EXC_TB];
                let [_, error, _] = args.named("Timeout.__aexit__").bind(py, names, 3)?;
                let error = error.filter(|error| !error.is_none());
                if this.state.get() == State::Entered && this.is_plain() {
                    // `async with` awaits at once what this returns, and nobody is in doubt about what comes of it.
                    this.exit(py, error.as_ref())?;
                    return operation::nothing(py);
                }
                operation::make(py, &EXIT, this.as_obj().clone(), error)
            },
        )
        .noargs(c"_on_timeout", c"The time is over.", on_timeout)
        .get(c"_when", |py: Python<'_>, this: &Ref<Timeout>| Ok(this.when.get().unwrap_or_else(|| Obj::none(py))))
        .get(c"_state", |py: Python<'_>, this: &Ref<Timeout>| {
            let class = imports::raw(py, imports::timeout_state(py))?;
            Ok(Obj::from_bound(to_raw(py, class.borrow(py).call1((this.state.get().name(),)))?))
        })
        .get(c"_task", |py: Python<'_>, this: &Ref<Timeout>| Ok(this.task.get().unwrap_or_else(|| Obj::none(py))))
        .get(c"_timeout_handler", |py: Python<'_>, this: &Ref<Timeout>| {
            Ok(this.handler.get().unwrap_or_else(|| Obj::none(py)))
        })
        .repr(repr)
        .init(initialise);
    to_py(py, table.build(std::ptr::null_mut()))?;
    module.add("Timeout", Timeout::class().type_obj().into_bound(py))?;
    const HOME: &str = "hayase.timeouts";
    const DELAY_DOC: &str = "An asynchronous context manager that ends its block with a TimeoutError after delay seconds.\n\n\
        None: never.";
    function::add(py, module, HOME, "timeout", "(delay)", DELAY_DOC, timeout)?;
    const AT_DOC: &str = "As timeout(), with an absolute time on the clock of loop.time().";
    function::add(py, module, HOME, "timeout_at", "(when)", AT_DOC, timeout_at)
}
