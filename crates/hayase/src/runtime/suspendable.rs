//! What runs in parts, as a coroutine to Python: `send`, `throw`, `close`, names, and the warning of one never awaited.
//!
//! [`Suspendable`] is what such an object does: `start` runs when it is first driven, `resume` when what it awaits is
//! over. All else is said here, once: a lock's `acquire()` ([`super::operation`]), the loop's async methods
//! ([`super::coroutine`]) and its `sock_recv()` differ in nothing that a program could see.
//!
//! Must stay true
//! - What the object holds is released when it ends, however it ends; one that is dropped while it waits is closed first,
//!   so that `resume` can take its waiter out of the list it stands in.
//! - `start`, `resume` and `release` run Python code only while no cell is open.

use std::ffi::CStr;

use pyo3::exceptions::{PyGeneratorExit, PyRuntimeError, PyRuntimeWarning, PyStopIteration, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyModule, PyString};

use crate::raw::cell::GilValue;
use crate::raw::fastcall::Args;
use crate::raw::instance::{Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::{Step, Table};
use crate::raw::{Raised, RawResult, exception, to_py, to_raw};
use crate::tasks::future_iterator;
use crate::tasks::wait::{Awaiting, Driven, Input};

/// What it does next.
pub(crate) enum Turn {
    /// Awaits this, then goes on with [`Suspendable::resume`].
    Await(Obj),
    /// Lets everything that is ready run, then goes on with [`Suspendable::resume`].
    GiveWay,
    Return(Obj),
}

/// What it awaited came to: a value, or an exception instance (`Err(exception::restore(..))` passes it on).
pub(crate) type Outcome = Result<Obj, Obj>;

pub(crate) trait Suspendable: Data {
    /// `offset_of!(Self, progress)`, where its [`Progress`] lies.
    const PROGRESS: usize;

    fn progress(&self) -> &Progress;
    /// `Class.method`
    fn name(&self) -> &'static str;
    fn start(py: Python<'_>, this: &Ref<Self>) -> RawResult<Turn>;
    fn resume(py: Python<'_>, this: &Ref<Self>, outcome: Outcome) -> RawResult<Turn>;
    /// It has ended: lets go of all that it holds.
    fn release(&self, py: Python<'_>);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Created,
    Waiting,
    /// Gives way for one turn.
    GivingWay,
    Running,
    Done,
    /// Over without ever having begun; can be awaited as often as one likes, and gives None.
    Nothing,
}

/// How far it got, and what it waits for.
pub(crate) struct Progress {
    state: GilValue<State>,
    /// For those who wait at several points: where they are. Here it takes no room.
    pub(super) phase: GilValue<u8>,
    awaiting: Awaiting,
    /// Head of the list of weak references; the interpreter's own.
    weak_references: GilValue<*mut ffi::PyObject>,
}

impl Progress {
    pub(crate) const fn new() -> Progress {
        Progress {
            state: GilValue::new(State::Created),
            phase: GilValue::new(0),
            awaiting: Awaiting::nothing(),
            weak_references: GilValue::new(std::ptr::null_mut()),
        }
    }

    /// Of what is over already.
    pub(crate) fn nothing() -> Progress {
        let progress = Progress::new();
        progress.state.set(State::Nothing);
        progress
    }

    pub(crate) fn visit(&self, visitor: &mut Visitor<'_>) {
        self.awaiting.visit(visitor);
    }

    /// For [`Data::clear`].
    pub(crate) fn clear(&self) {
        self.state.set(State::Done);
        self.awaiting.clear();
    }

    /// For [`Data::wants_finalizer`].
    #[inline]
    pub(crate) fn is_unfinished(&self) -> bool {
        !matches!(self.state.get(), State::Done | State::Nothing)
    }
}

/// For [`Data::finalize`].
pub(crate) fn finalize<T: Suspendable>(py: Python<'_>, this: &Ref<T>) {
    let outcome = match this.progress().state.get() {
        State::Created => warn_never_awaited(py, this.name()),
        State::Waiting | State::GivingWay => to_py(py, close(py, this)).map(drop),
        State::Running | State::Done | State::Nothing => Ok(()),
    };
    if let Err(err) = outcome {
        exception::write_unraisable(py, Raised::from_err(py, err), this.as_obj());
    }
}

#[cold]
fn warn_never_awaited(py: Python<'_>, name: &str) -> PyResult<()> {
    let text = std::ffi::CString::new(format!("coroutine '{name}' was never awaited"))?;
    PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &text, 1)
}

/// Makes the type and puts it into the module; once, at import. `name` is `hayase._core.Name`.
pub(crate) fn init<T: Suspendable>(
    module: &Bound<'_, PyModule>,
    name: &'static CStr,
    doc: &'static CStr,
) -> PyResult<()> {
    const DISALLOW: u64 = ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    let py = module.py();
    let table = Table::<T>::new(name, doc, std::ptr::null_mut(), DISALLOW)
        .weak_references(T::PROGRESS + std::mem::offset_of!(Progress, weak_references))
        .iterates_itself()
        .next(next)
        .send(|py: Python<'_>, this: &Ref<T>, value: &Obj| step(py, this, Input::Send(value.clone())))
        .onearg(c"send", c"Continue.", send)
        .fastcall(c"throw", c"Raise an exception where it waits.", throw)
        .noargs(c"close", c"End it where it waits.", close)
        .get(c"__name__", |py: Python<'_>, this: &Ref<T>| {
            let name = this.name();
            Ok(Obj::from_bound(PyString::new(py, name.rsplit('.').next().unwrap_or(name))))
        })
        .get(c"__qualname__", |py: Python<'_>, this: &Ref<T>| Ok(Obj::from_bound(PyString::new(py, this.name()))))
        .get(c"cr_running", |py: Python<'_>, this: &Ref<T>| {
            Ok(Obj::bool(py, this.progress().state.get() == State::Running))
        })
        .get(c"cr_await", |py: Python<'_>, this: &Ref<T>| {
            Ok(this.progress().awaiting.what().unwrap_or_else(|| Obj::none(py)))
        })
        // The call graph asks whatever has a `cr_await`.
        .get(c"cr_frame", |py: Python<'_>, _this: &Ref<T>| Ok(Obj::none(py)))
        .repr(|py: Python<'_>, this: &Ref<T>| {
            let text = format!("<coroutine object {} at {:p}>", this.name(), this.as_ptr());
            Ok(Obj::from_bound(PyString::new(py, &text)))
        });
    to_py(py, table.build(std::ptr::null_mut()))?;
    let class = T::class().type_obj().into_bound(py);
    module.add(class.getattr("__name__")?.cast_into::<PyString>()?, class)
}

/// Runs it until it waits or ends.
#[inline]
fn step<T: Suspendable>(py: Python<'_>, this: &Ref<T>, input: Input) -> RawResult<Step> {
    let progress = this.progress();
    let mut turn = match progress.state.replace(State::Running) {
        State::Created => match input {
            Input::Send(value) if value.is_none() => T::start(py, this),
            Input::Send(_) => {
                progress.state.set(State::Created);
                let text = "can't send non-None value to a just-started coroutine";
                return Err(Raised::from_err(py, PyTypeError::new_err(text)));
            }
            Input::Throw(error) => Err(exception::restore(py, error)),
        },
        State::Waiting => match progress.awaiting.resume(py, input) {
            Driven::Yielded(value) => {
                progress.state.set(State::Waiting);
                return Ok(Step::Yield(value));
            }
            Driven::Over(outcome) => T::resume(py, this, outcome),
        },
        State::GivingWay => match input {
            Input::Send(value) => T::resume(py, this, Ok(value)),
            Input::Throw(error) => T::resume(py, this, Err(error)),
        },
        State::Running => return Err(Raised::from_err(py, PyValueError::new_err("coroutine already executing"))),
        State::Nothing => {
            progress.state.set(State::Nothing);
            return match input {
                Input::Send(_) => Ok(Step::Return(Obj::none(py))),
                Input::Throw(error) => Err(exception::restore(py, error)),
            };
        }
        State::Done => {
            progress.state.set(State::Done);
            let text = "cannot reuse already awaited coroutine";
            return Err(Raised::from_err(py, PyRuntimeError::new_err(text)));
        }
    };
    loop {
        match turn {
            Ok(Turn::Await(awaitable)) => match progress.awaiting.begin(py, &awaitable) {
                Driven::Yielded(value) => {
                    progress.state.set(State::Waiting);
                    return Ok(Step::Yield(value));
                }
                Driven::Over(outcome) => turn = T::resume(py, this, outcome),
            },
            Ok(Turn::GiveWay) => {
                progress.state.set(State::GivingWay);
                return Ok(Step::Yield(Obj::none(py)));
            }
            Ok(Turn::Return(value)) => {
                end(py, this);
                return Ok(Step::Return(value));
            }
            Err(raised) => {
                // What is dropped must not see the exception.
                let error = exception::fetch(py, raised);
                end(py, this);
                return Err(raise_from_coroutine(py, error));
            }
        }
    }
}

/// An error leaves the coroutine; a `StopIteration` would be taken for its end, and is an error of its own, as in Python.
#[cold]
fn raise_from_coroutine(py: Python<'_>, error: Obj) -> Raised {
    if !exception::is_stop_iteration(py, &error) {
        return exception::restore(py, error);
    }
    let wrapped = exception::instance(py, PyRuntimeError::new_err("coroutine raised StopIteration"));
    exception::chain(&wrapped, &error);
    exception::restore(py, wrapped)
}

#[inline]
fn end<T: Suspendable>(py: Python<'_>, this: &Ref<T>) {
    this.progress().clear();
    this.release(py);
}

#[inline]
fn next<T: Suspendable>(py: Python<'_>, this: &Ref<T>) -> RawResult<Option<Obj>> {
    if this.progress().state.get() == State::Nothing {
        return Ok(None);
    }
    match step(py, this, Input::Send(Obj::none(py)))? {
        Step::Yield(value) => Ok(Some(value)),
        Step::Return(value) if value.is_none() => Ok(None),
        Step::Return(value) => Err(exception::return_value(py, value)),
    }
}

fn driven<T: Suspendable>(py: Python<'_>, this: &Ref<T>, input: Input) -> RawResult<Obj> {
    match step(py, this, input)? {
        Step::Yield(value) => Ok(value),
        Step::Return(value) => Err(exception::raise_stop_iteration(py, &value)),
    }
}

fn send<T: Suspendable>(py: Python<'_>, this: &Ref<T>, value: &Obj) -> RawResult<Obj> {
    driven(py, this, Input::Send(value.clone()))
}

fn throw<T: Suspendable>(py: Python<'_>, this: &Ref<T>, args: &Args<'_>) -> RawResult<Obj> {
    if args.keyword_count() > 0 {
        return Err(Raised::from_err(py, PyTypeError::new_err("throw() takes no keyword arguments")));
    }
    let error = to_raw(py, future_iterator::thrown(py, args, &future_iterator::INTO_COROUTINE))?;
    driven(py, this, Input::Throw(error))
}

fn close<T: Suspendable>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    match this.progress().state.get() {
        State::Created => end(py, this),
        State::Done | State::Nothing => {}
        State::Waiting | State::GivingWay | State::Running => {
            let exit = exception::instance(py, PyGeneratorExit::new_err(()));
            match step(py, this, Input::Throw(exit)) {
                Ok(Step::Yield(_)) => {
                    return Err(Raised::from_err(py, PyRuntimeError::new_err("coroutine ignored GeneratorExit")));
                }
                Ok(Step::Return(_)) => {}
                Err(raised) => {
                    let err = raised.fetch(py);
                    let expected =
                        err.is_instance_of::<PyGeneratorExit>(py) || err.is_instance_of::<PyStopIteration>(py);
                    if !expected {
                        return Err(Raised::from_err(py, err));
                    }
                }
            }
        }
    }
    Ok(Obj::none(py))
}
