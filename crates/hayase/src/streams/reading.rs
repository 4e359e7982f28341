//! What `reader.read()` and its sisters return: awaitables that look into the buffer first and wait only if they must.
//!
//! They are `collections.abc.Coroutine`s, so tasks, `wait_for` and `gather` take them. As a coroutine function's, their
//! body begins when they are awaited, arguments are judged then, and one that is never awaited is warned about.

use driver::Separators;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use super::reader::{self, Found, Search, StreamReader};
use crate::raw::bytes::Bytes;
use crate::raw::cell::{GilCell, GilValue, ObjCell};
use crate::raw::fastcall::Args;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::{Step, Table};
use crate::raw::{Raised, RawResult, coroutine, exception};
use crate::tasks::future::{self, Awaited};

/// Which reading.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Goal {
    Read,
    Exactly,
    Line,
    Until,
}

impl Goal {
    fn name(self) -> &'static str {
        match self {
            Goal::Read => "read",
            Goal::Exactly => "readexactly",
            // `readline` is `readuntil` in asyncio, and its errors say so.
            Goal::Line => "readline",
            Goal::Until => "readuntil",
        }
    }

    fn waiting_name(self) -> &'static str {
        if self == Goal::Line { "readuntil" } else { self.name() }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Created,
    Running,
    Waiting,
    Done,
}

/// What is still to be done, once the argument was looked at.
enum Plan {
    /// Nothing was looked at yet.
    New,
    UpTo(usize),
    Everything(Vec<u8>),
    Exactly(usize),
    Line(Search),
    Until(Box<(Separators, Search)>),
}

pub(crate) struct ReadingData {
    reader: ObjCell,
    argument: ObjCell,
    /// What is waited for.
    awaited: ObjCell,
    plan: GilCell<Plan>,
    goal: Goal,
    state: GilValue<State>,
}

impl Data for ReadingData {
    const FINALIZE: bool = true;
    const FREELIST: usize = 256;

    fn class() -> &'static Class<Self> {
        static CLASS: Class<ReadingData> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.cells().into_iter().for_each(|cell| visitor.cell(cell));
    }
    fn clear(&self) {
        self.cells().into_iter().for_each(|cell| cell.set(None));
    }
    fn wants_finalizer(&self) -> bool {
        self.state.get() == State::Created
    }
    fn finalize(py: Python<'_>, this: &Ref<Self>) {
        // The collector asks without looking at `wants_finalizer`.
        if this.state.replace(State::Done) != State::Created {
            return;
        }
        coroutine::warn_never_awaited(py, this.as_obj(), &this.qualified_name());
    }
}

impl ReadingData {
    fn cells(&self) -> [&ObjCell; 3] {
        [&self.reader, &self.argument, &self.awaited]
    }

    fn qualified_name(&self) -> String {
        format!("StreamReader.{}", self.goal.name())
    }
}

#[inline]
pub(super) fn make(py: Python<'_>, reader: &Obj, goal: Goal, argument: Option<Obj>) -> RawResult<Obj> {
    let data = ReadingData {
        reader: ObjCell::new(Some(reader.clone())),
        argument: ObjCell::new(argument),
        awaited: ObjCell::empty(),
        plan: GilCell::new(Plan::New),
        goal,
        state: GilValue::new(State::Created),
    };
    Ok(ReadingData::class().make(py, data)?.into_obj())
}

pub(super) fn init(py: Python<'_>) -> PyResult<()> {
    const DISALLOW: u64 = pyo3::ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    let table = Table::<ReadingData>::new(
        c"hayase._core.Reading",
        c"A coroutine of a StreamReader: read(), readexactly(), readline() or readuntil().",
        std::ptr::null_mut(),
        DISALLOW,
    )
    .iter(|_py: Python<'_>, this: &Ref<ReadingData>| Ok(this.as_obj().clone()))
    .awaits(|_py: Python<'_>, this: &Ref<ReadingData>| Ok(this.as_obj().clone()))
    .next(next)
    .send(step)
    .onearg(c"send", c"Continue.", send)
    .fastcall(c"throw", c"Raise an exception where it waits.", throw)
    .noargs(c"close", c"End it.", close)
    .get(c"cr_running", |py: Python<'_>, this: &Ref<ReadingData>| Ok(Obj::bool(py, this.state.get() == State::Running)))
    .get(c"cr_suspended", |py: Python<'_>, this: &Ref<ReadingData>| {
        Ok(Obj::bool(py, this.state.get() == State::Waiting))
    })
    .get(c"cr_await", |py: Python<'_>, this: &Ref<ReadingData>| Ok(this.awaited.get().unwrap_or_else(|| Obj::none(py))))
    .get(c"__name__", |py: Python<'_>, this: &Ref<ReadingData>| {
        Ok(Obj::from_bound(pyo3::types::PyString::new(py, this.goal.name())))
    })
    .get(c"__qualname__", |py: Python<'_>, this: &Ref<ReadingData>| {
        Ok(Obj::from_bound(pyo3::types::PyString::new(py, &this.qualified_name())))
    })
    .repr(|py: Python<'_>, this: &Ref<ReadingData>| {
        let text = format!("<coroutine object {} at {:p}>", this.qualified_name(), this.as_ptr());
        Ok(Obj::from_bound(pyo3::types::PyString::new(py, &text)))
    });
    crate::raw::to_py(py, table.build(std::ptr::null_mut()))
}

// One step

fn next(py: Python<'_>, this: &Ref<ReadingData>) -> RawResult<Option<Obj>> {
    match advance(py, this, None)? {
        Step::Yield(future) => Ok(Some(future)),
        Step::Return(value) => Err(exception::return_value(py, value)),
    }
}

fn send(py: Python<'_>, this: &Ref<ReadingData>, value: &Obj) -> RawResult<Obj> {
    match step(py, this, value)? {
        Step::Yield(future) => Ok(future),
        Step::Return(value) => Err(exception::raise_stop_iteration(py, &value)),
    }
}

fn step(py: Python<'_>, this: &Ref<ReadingData>, value: &Obj) -> RawResult<Step> {
    if this.state.get() == State::Created && !value.is_none() {
        let text = "can't send non-None value to a just-started coroutine";
        return Err(crate::raw::fastcall::type_error(py, text.to_owned()));
    }
    advance(py, this, Some(value))
}

fn throw(py: Python<'_>, this: &Ref<ReadingData>, args: &Args<'_>) -> RawResult<Obj> {
    let error = crate::raw::to_raw(py, future::thrown(py, args))?;
    match this.state.get() {
        State::Running => return Err(already_executing(py)),
        State::Done => return Err(already_awaited(py)),
        State::Created | State::Waiting => this.finish(py),
    }
    Err(exception::restore(py, error))
}

fn close(py: Python<'_>, this: &Ref<ReadingData>) -> RawResult<Obj> {
    if this.state.get() == State::Running {
        return Err(already_executing(py));
    }
    this.finish(py);
    Ok(Obj::none(py))
}

#[cold]
fn already_executing(py: Python<'_>) -> Raised {
    Raised::from_err(py, PyValueError::new_err("coroutine already executing"))
}

#[cold]
fn already_awaited(py: Python<'_>) -> Raised {
    Raised::from_err(py, PyRuntimeError::new_err("cannot reuse already awaited coroutine"))
}

#[inline]
fn advance(py: Python<'_>, this: &Ref<ReadingData>, value: Option<&Obj>) -> RawResult<Step> {
    let waited = match this.state.get() {
        State::Created => Ok(None),
        State::Waiting => {
            let awaited = this.awaited.get().unwrap_or_else(|| Obj::none(py));
            future::continue_await(py, &awaited, value)
        }
        State::Running => return Err(already_executing(py)),
        State::Done => return Err(already_awaited(py)),
    };
    match waited {
        // A future that is not ours yields again.
        Ok(Some(yielded)) => return Ok(Step::Yield(yielded)),
        Ok(None) => {}
        Err(raised) => {
            this.finish_keeping_error(py);
            return Err(raised);
        }
    }
    let Some(object) = this.reader.get() else {
        return Err(already_awaited(py));
    };
    let object = object.borrow(py);
    let reader = object.cast::<StreamReader>().expect("readings are made by readers").get();
    if this.state.replace(State::Running) == State::Waiting {
        reader.stop_waiting();
        this.awaited.set(None);
    }
    // The plan is out of its cell while the reader looks: pausing and resuming may run Python code.
    let mut plan = this.plan.with(py, |plan| std::mem::replace(plan, Plan::New));
    let outcome = look(py, this, reader, &mut plan);
    match outcome {
        Ok(Found::Chunk(chunk)) => {
            this.state.set(State::Done);
            this.reader.set(None);
            Ok(Step::Return(chunk.into_obj()))
        }
        Ok(Found::NotYet) => {
            let waiting = reader.wait(py, this.goal.waiting_name()).and_then(|waiter| future::begin_await(py, waiter));
            match waiting {
                Ok(Awaited { keep, yielded }) => {
                    this.plan.with(py, |place| *place = plan);
                    this.awaited.set(Some(keep));
                    this.state.set(State::Waiting);
                    Ok(Step::Yield(yielded))
                }
                Err(raised) => {
                    this.state.set(State::Done);
                    Err(raised)
                }
            }
        }
        Err(raised) => {
            this.state.set(State::Done);
            Err(raised)
        }
    }
}

impl ReadingData {
    /// The end: nobody waits any more.
    fn finish(&self, py: Python<'_>) {
        if self.state.replace(State::Done) == State::Waiting
            && let Some(reader) = self.reader.get()
            && let Ok(reader) = reader.borrow(py).cast::<StreamReader>()
        {
            reader.get().stop_waiting();
        }
        self.awaited.set(None);
        self.reader.set(None);
    }

    /// As [`ReadingData::finish`] while an exception is set, which what is dropped must not see.
    fn finish_keeping_error(&self, py: Python<'_>) {
        let pending = crate::raw::compat::take_raised(py);
        self.finish(py);
        crate::raw::compat::restore_raised(py, pending);
    }
}

/// Looks into the buffer, as often as there is something to look at.
#[inline]
fn look(py: Python<'_>, this: &Ref<ReadingData>, reader: &StreamReader, plan: &mut Plan) -> RawResult<Found> {
    if let Plan::New = plan {
        *plan = match prepare(py, this.goal, reader, this.argument.take())? {
            Ok(plan) => plan,
            Err(nothing) => return Ok(Found::Chunk(nothing)),
        };
    }
    match plan {
        Plan::New => unreachable!("just replaced"),
        Plan::UpTo(count) => reader.up_to(py, *count),
        Plan::Exactly(count) => reader.exactly(py, *count),
        Plan::Line(search) => reader.line(py, search),
        Plan::Until(both) => reader.until(py, &both.0, &mut both.1),
        Plan::Everything(collected) => loop {
            if let Some(error) = reader.exception() {
                return Err(reader::raise(py, &error));
            }
            match reader.up_to(py, reader.limit())? {
                Found::Chunk(chunk) if chunk.as_ref().is_empty() => {
                    return Bytes::copy(py, collected).map(Found::Chunk);
                }
                Found::Chunk(chunk) => collected.extend_from_slice(chunk.as_ref()),
                Found::NotYet => return Ok(Found::NotYet),
            }
        },
    }
}

/// What the argument asks for; `Err` is the answer that needs no data. The order of the checks is asyncio's.
fn prepare(py: Python<'_>, goal: Goal, reader: &StreamReader, argument: Option<Obj>) -> RawResult<Result<Plan, Bytes>> {
    let plan = match goal {
        Goal::Line => Plan::Line(Search::default()),
        Goal::Until => Plan::Until(Box::new((reader::separators(py, argument.as_ref())?, Search::default()))),
        Goal::Exactly => {
            let argument = argument.unwrap_or_else(|| Obj::none(py));
            match reader::count(py, &argument)? {
                Some(count) => Plan::Exactly(count),
                None => {
                    let text = "readexactly size can not be less than zero";
                    return Err(Raised::from_err(py, PyValueError::new_err(text)));
                }
            }
        }
        Goal::Read => {
            if let Some(error) = reader.exception() {
                return Err(reader::raise(py, &error));
            }
            match argument {
                None => Plan::Everything(Vec::new()),
                Some(argument) => reader::count(py, &argument)?.map_or(Plan::Everything(Vec::new()), Plan::UpTo),
            }
        }
    };
    if let Some(error) = reader.exception() {
        return Err(reader::raise(py, &error));
    }
    match plan {
        Plan::UpTo(0) | Plan::Exactly(0) => Ok(Err(Bytes::copy(py, b"")?)),
        plan => Ok(Ok(plan)),
    }
}
