//! Operations: native awaitables that are hand-written state machines, for what programs await most.
//!
//! `await lock.acquire()` of a free lock makes one such object and nothing else: no future, no frame. To Python it is a
//! coroutine (`send`, `throw`, `close`), so that `create_task`, `wait_for` and `gather` take it. Unlike a
//! [`super::coroutine::NativeCoroutine`] it needs no loop of ours and no allocation besides itself.
//!
//! A [`Kind`] says what the operation does: `start` runs when it is first driven, `resume` when what it awaits is over.
//!
//! Must stay true
//! - What the operation holds is released when it ends, however it ends; one that is dropped while it waits is closed
//!   first, so that `resume` can take its waiter out of the list it stands in.
//! - The functions of a kind run Python code only while no cell is open.

use std::ffi::CStr;
use std::mem::offset_of;

use pyo3::exceptions::{PyGeneratorExit, PyRuntimeError, PyRuntimeWarning, PyStopIteration, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyModule, PyString};

use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::fastcall::Args;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::{Step, Table};
use crate::raw::{Raised, RawResult, exception, to_py, to_raw};
use crate::tasks::future;
use crate::tasks::wait::{Awaiting, Driven, Input};

/// What an operation does next.
pub(crate) enum Turn {
    /// Awaits this, then goes on with [`Kind::resume`].
    Await(Obj),
    /// Lets everything that is ready run, then goes on with [`Kind::resume`].
    GiveWay,
    Return(Obj),
}

/// What an operation awaited came to: a value, or an exception instance (`Err(exception::restore(..))` passes it on).
pub(crate) type Outcome = Result<Obj, Obj>;

pub(crate) type Start = fn(Python<'_>, &Ref<Operation>) -> RawResult<Turn>;
pub(crate) type Resume = fn(Python<'_>, &Ref<Operation>, Outcome) -> RawResult<Turn>;

/// What an operation does, and what it is called.
pub(crate) struct Kind {
    /// `Class.method`
    pub(crate) name: &'static str,
    pub(crate) start: Start,
    pub(crate) resume: Resume,
}

/// For a kind that never awaits anything.
pub(crate) fn never_resumed(_py: Python<'_>, _this: &Ref<Operation>, _outcome: Outcome) -> RawResult<Turn> {
    unreachable!("nothing was awaited")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Created,
    Waiting,
    /// Gives way for one turn.
    GivingWay,
    Running,
    Done,
}

pub(crate) struct Operation {
    kind: GilValue<&'static Kind>,
    state: GilValue<State>,
    /// For kinds with several points of waiting: where the operation is.
    pub(crate) phase: GilValue<u8>,
    awaiting: Awaiting,
    /// Whose method this is.
    target: ObjCell,
    /// The future of ours that stands in somebody's list.
    pub(crate) waiter: ObjCell,
    /// What the method was given.
    pub(crate) argument: ObjCell,
    /// Head of the list of weak references; the interpreter's own.
    weak_references: GilValue<*mut ffi::PyObject>,
}

impl Operation {
    /// The object whose method this is.
    #[inline]
    pub(crate) fn target<T: Data>(&self) -> Ref<T> {
        let target = self.target.get().expect("an operation that runs has its target");
        Ref::<T>::view_instance(&target).expect("made by a method of that class").clone()
    }

    pub(crate) fn target_object(&self) -> Obj {
        self.target.get().expect("an operation that runs has its target")
    }

    /// Goes on as another kind.
    pub(crate) fn become_kind(&self, kind: &'static Kind) {
        self.kind.set(kind);
    }

    fn release(&self) {
        self.awaiting.clear();
        self.waiter.set(None);
        self.argument.set(None);
        self.target.set(None);
    }
}

impl Data for Operation {
    const FINALIZE: bool = true;
    const FREELIST: usize = 256;

    fn class() -> &'static Class<Self> {
        static CLASS: Class<Operation> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.awaiting.visit(visitor);
        for cell in [&self.target, &self.waiter, &self.argument] {
            visitor.cell(cell);
        }
    }
    fn clear(&self) {
        self.state.set(State::Done);
        self.release();
    }
    #[inline]
    fn wants_finalizer(&self) -> bool {
        self.state.get() != State::Done
    }
    fn finalize(py: Python<'_>, this: &Ref<Self>) {
        let outcome = match this.state.get() {
            State::Created => warn_never_awaited(py, this.kind.get().name),
            State::Waiting | State::GivingWay => to_py(py, close(py, this)).map(drop),
            State::Running | State::Done => Ok(()),
        };
        if let Err(err) = outcome {
            exception::write_unraisable(py, Raised::from_err(py, err), this.as_obj());
        }
    }
}

/// The coroutine object of a method of `target`.
#[inline]
pub(crate) fn make(py: Python<'_>, kind: &'static Kind, target: Obj, argument: Option<Obj>) -> RawResult<Obj> {
    let operation = Operation {
        kind: GilValue::new(kind),
        state: GilValue::new(State::Created),
        phase: GilValue::new(0),
        awaiting: Awaiting::nothing(),
        target: ObjCell::new(Some(target)),
        waiter: ObjCell::empty(),
        argument: ObjCell::new(argument),
        weak_references: GilValue::new(std::ptr::null_mut()),
    };
    Ok(Operation::class().make(py, operation)?.into_obj())
}

/// Whether this is an operation.
pub(crate) fn is_one(object: &Obj) -> bool {
    Ref::<Operation>::view_obj(object).is_some()
}

fn warn_never_awaited(py: Python<'_>, name: &str) -> PyResult<()> {
    let text = std::ffi::CString::new(format!("coroutine '{name}' was never awaited"))?;
    PyErr::warn(py, &py.get_type::<PyRuntimeWarning>(), &text, 1)
}

/// Makes the type and puts it into the module.
pub(crate) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DOC: &CStr = c"The coroutine of a method that is written in Rust.";
    const DISALLOW: u64 = ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    let table = Table::<Operation>::new(c"hayase._core.Operation", DOC, std::ptr::null_mut(), DISALLOW)
        .weak_references(offset_of!(Operation, weak_references))
        .awaits(|_py: Python<'_>, this: &Ref<Operation>| Ok(this.as_obj().clone()))
        .iter(|_py: Python<'_>, this: &Ref<Operation>| Ok(this.as_obj().clone()))
        .next(next)
        .send(|py: Python<'_>, this: &Ref<Operation>, value: &Obj| step(py, this, Input::Send(value.clone())))
        .onearg(c"send", c"Continue.", send)
        .fastcall(c"throw", c"Raise an exception where it waits.", throw)
        .noargs(c"close", c"End it where it waits.", close)
        .get(c"__name__", short_name)
        .get(c"__qualname__", qualified_name)
        .get(c"cr_running", |py: Python<'_>, this: &Ref<Operation>| {
            Ok(Obj::bool(py, this.state.get() == State::Running))
        })
        .get(c"cr_await", |py: Python<'_>, this: &Ref<Operation>| {
            Ok(this.awaiting.what().unwrap_or_else(|| Obj::none(py)))
        })
        .repr(repr);
    to_py(py, table.build(std::ptr::null_mut()))?;
    module.add("Operation", Operation::class().type_obj().into_bound(py))
}

#[inline]
fn step(py: Python<'_>, this: &Ref<Operation>, input: Input) -> RawResult<Step> {
    let kind = this.kind.get();
    let mut turn = match this.state.replace(State::Running) {
        State::Created => match input {
            Input::Send(value) if value.is_none() => (kind.start)(py, this),
            Input::Send(_) => {
                this.state.set(State::Created);
                let text = "can't send non-None value to a just-started coroutine";
                return Err(Raised::from_err(py, PyTypeError::new_err(text)));
            }
            Input::Throw(error) => Err(exception::restore(py, error)),
        },
        State::Waiting => match this.awaiting.resume(py, input) {
            Driven::Yielded(value) => {
                this.state.set(State::Waiting);
                return Ok(Step::Yield(value));
            }
            Driven::Over(outcome) => (kind.resume)(py, this, outcome),
        },
        State::GivingWay => match input {
            Input::Send(value) => (kind.resume)(py, this, Ok(value)),
            Input::Throw(error) => (kind.resume)(py, this, Err(error)),
        },
        State::Running => return Err(Raised::from_err(py, PyValueError::new_err("coroutine already executing"))),
        State::Done => {
            this.state.set(State::Done);
            let text = "cannot reuse already awaited coroutine";
            return Err(Raised::from_err(py, PyRuntimeError::new_err(text)));
        }
    };
    loop {
        match turn {
            Ok(Turn::Await(awaitable)) => match this.awaiting.begin(py, &awaitable) {
                Driven::Yielded(value) => {
                    this.state.set(State::Waiting);
                    return Ok(Step::Yield(value));
                }
                Driven::Over(outcome) => turn = (kind.resume)(py, this, outcome),
            },
            Ok(Turn::GiveWay) => {
                this.state.set(State::GivingWay);
                return Ok(Step::Yield(Obj::none(py)));
            }
            Ok(Turn::Return(value)) => {
                this.state.set(State::Done);
                this.release();
                return Ok(Step::Return(value));
            }
            Err(raised) => {
                this.state.set(State::Done);
                this.release();
                return Err(raised);
            }
        }
    }
}

fn next(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Option<Obj>> {
    match step(py, this, Input::Send(Obj::none(py)))? {
        Step::Yield(value) => Ok(Some(value)),
        Step::Return(value) if value.is_none() => Ok(None),
        Step::Return(value) => Err(exception::return_value(py, value)),
    }
}

fn driven(py: Python<'_>, this: &Ref<Operation>, input: Input) -> RawResult<Obj> {
    match step(py, this, input)? {
        Step::Yield(value) => Ok(value),
        Step::Return(value) => Err(exception::raise_stop_iteration(py, &value)),
    }
}

fn send(py: Python<'_>, this: &Ref<Operation>, value: &Obj) -> RawResult<Obj> {
    driven(py, this, Input::Send(value.clone()))
}

fn throw(py: Python<'_>, this: &Ref<Operation>, args: &Args<'_>) -> RawResult<Obj> {
    let error = to_raw(py, future::thrown(py, args))?;
    driven(py, this, Input::Throw(error))
}

fn close(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Obj> {
    match this.state.get() {
        State::Created => {
            this.state.set(State::Done);
            this.release();
        }
        State::Done => {}
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

fn short_name(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Obj> {
    let name = this.kind.get().name;
    Ok(Obj::from_bound(PyString::new(py, name.rsplit('.').next().unwrap_or(name))))
}

fn qualified_name(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Obj> {
    Ok(Obj::from_bound(PyString::new(py, this.kind.get().name)))
}

fn repr(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Obj> {
    let text = format!("<coroutine object {} at {:p}>", this.kind.get().name, this.as_ptr());
    Ok(Obj::from_bound(PyString::new(py, &text)))
}
