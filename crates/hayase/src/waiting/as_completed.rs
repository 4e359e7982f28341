//! `as_completed(fs, *, timeout=None)`: the futures in the order in which they are done.
//!
//! What is done goes into a queue, and each step of the iteration takes one out; so those who wait are served as those of
//! a queue are. When the time is over, a None in the queue for each that is left says so.
//!
//! Up to 3.12 it is a generator, which begins when it is first asked; from 3.13 on it begins at once, and can be iterated
//! with `async for` too, which gives the futures themselves.

use pyo3::exceptions::{PyStopAsyncIteration, PyTimeoutError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyModule, PySet};

use super::cancel_handle;
use super::ensure_future::{self, is_awaitable, is_coroutine, is_future};
use super::timers::Timers;
use super::watched::Watched;
use crate::interop::imports;
use crate::raw::bound_function::BoundFunction;
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::fastcall::Args;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::Table;
use crate::raw::{Raised, RawResult, compat, exception, function, to_py, to_raw};
use crate::runtime::operation::{self, Kind, Operation, Outcome, Turn};
use crate::tasks::future;

pub(super) struct AsCompleted {
    /// What it was made for, until it begins.
    given: ObjCell,
    timeout: ObjCell,
    /// The futures that are not done.
    todo: Watched,
    /// Those that are done, and nobody took.
    done: ObjCell,
    timer: ObjCell,
    /// How many were not asked for yet.
    left: GilValue<usize>,
}

impl AsCompleted {
    fn cells(&self) -> [&ObjCell; 6] {
        let [todo, task] = self.todo.cells();
        [&self.given, &self.timeout, &self.done, &self.timer, todo, task]
    }
}

impl Data for AsCompleted {
    const FREELIST: usize = 16;

    fn class() -> &'static Class<Self> {
        static CLASS: Class<AsCompleted> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.cells().into_iter().for_each(|cell| visitor.cell(cell));
    }
    fn clear(&self) {
        self.cells().into_iter().for_each(|cell| cell.set(None));
    }
}

static FS: Name = Name::new(c"fs");
static GET: Name = Name::new(c"get");
static PUT_NOWAIT: Name = Name::new(c"put_nowait");
static RESULT: Name = Name::new(c"result");
static TIMEOUT: Name = Name::new(c"timeout");

static HANDLE_TIMEOUT: BoundFunction<AsCompleted> = BoundFunction::new();

fn as_completed(py: Python<'_>, args: &Args<'_>) -> RawResult<Obj> {
    let [fs, timeout] = args.bind_mixed(py, [&FS, &TIMEOUT], 1, 1)?;
    let made = AsCompleted {
        given: ObjCell::new(fs),
        timeout: ObjCell::new(timeout.filter(|timeout| !timeout.is_none())),
        todo: Watched::nothing(),
        done: ObjCell::empty(),
        timer: ObjCell::empty(),
        left: GilValue::new(0),
    };
    let made = AsCompleted::class().make(py, made)?;
    if compat::AS_COMPLETED_BEGINS_AT_ONCE {
        begin(py, &made)?;
    }
    Ok(made.into_obj())
}

fn check(py: Python<'_>, fs: &Obj) -> RawResult<()> {
    let is_one = is_future(py, fs)?
        || if compat::AS_COMPLETED_BEGINS_AT_ONCE { is_awaitable(py, fs)? } else { is_coroutine(py, fs)? };
    if !is_one {
        return Ok(());
    }
    let class = to_raw(py, fs.borrow(py).get_type().name())?;
    Err(Raised::from_err(py, PyTypeError::new_err(format!("{}, not {class}", compat::AS_COMPLETED_WANTS))))
}

fn begin(py: Python<'_>, this: &Ref<AsCompleted>) -> RawResult<()> {
    let Some(fs) = this.given.take() else {
        return Ok(());
    };
    check(py, &fs)?;
    let queue = call::call0(py, &imports::raw(py, imports::queue(py))?)?;
    this.done.set(Some(queue));
    // As asyncio: whether one is made without a running loop is the policy's decision.
    let event_loop = to_raw(py, future::loop_or_current(py, None))?;
    let futures = to_raw(py, futures_of(py, &fs, &event_loop))?;
    // Those that are done already tell so in a turn to come.
    let count = this.todo.begin(py, futures, this.as_obj())?;
    this.left.set(count);
    if count > 0
        && let Some(timeout) = this.timeout.take()
    {
        let on_timeout = HANDLE_TIMEOUT.bind(py, this)?;
        this.timer.set(Some(Timers::of(event_loop).call_later(py, &timeout, on_timeout.into(), &[])?));
    }
    Ok(())
}

fn futures_of<'py>(py: Python<'py>, fs: &Obj, event_loop: &Obj) -> PyResult<Bound<'py, PySet>> {
    // What is given twice is one, also if it is no future yet.
    let distinct = PySet::empty(py)?;
    for one in fs.borrow(py).try_iter()? {
        distinct.add(one?)?;
    }
    let futures = PySet::empty(py)?;
    for one in distinct.iter() {
        futures.add(to_py(py, ensure_future::on(py, &Obj::from_bound(one), event_loop))?.into_bound(py))?;
    }
    Ok(futures)
}

fn put(py: Python<'_>, this: &Ref<AsCompleted>, what: &Obj) -> RawResult<()> {
    match this.done.get() {
        Some(queue) => call::method(py, &queue, &PUT_NOWAIT, &[what]).map(drop),
        None => Ok(()),
    }
}

fn handle_completion(py: Python<'_>, this: &Ref<AsCompleted>, done: &Obj) -> RawResult<Obj> {
    // After the timeout nobody asks.
    if let Some(todo) = this.todo.set(py)? {
        to_raw(py, todo.discard(done.borrow(py)))?;
        this.todo.is_done(py, done)?;
        put(py, this, done)?;
        if todo.is_empty()
            && let Some(timer) = this.timer.take()
        {
            cancel_handle(py, &timer)?;
        }
    }
    Ok(Obj::none(py))
}

fn handle_timeout(py: Python<'_>, this: &Ref<AsCompleted>) -> RawResult<Obj> {
    if let Some(todo) = this.todo.set(py)? {
        for future in this.todo.members(py)? {
            this.todo.forget(py, &future, this.as_obj())?;
            put(py, this, &Obj::none(py))?;
        }
        todo.clear();
    }
    Ok(Obj::none(py))
}

/// The target is the [`AsCompleted`].
static NEXT_FUTURE: Kind = Kind { name: "as_completed.__anext__", start: next_future, resume: give_future };
static NEXT_RESULT: Kind = Kind { name: "as_completed.<locals>._wait_for_one", start: next_done, resume: give_result };

fn next_future(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let iterator = this.target::<AsCompleted>();
    if !take_one(&iterator) {
        return Err(Raised::from_err(py, PyStopAsyncIteration::new_err(())));
    }
    next_done(py, this)
}

fn take_one(iterator: &Ref<AsCompleted>) -> bool {
    let left = iterator.left.get();
    iterator.left.set(left.saturating_sub(1));
    left > 0
}

fn next_done(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let iterator = this.target::<AsCompleted>();
    let queue = iterator.done.get().unwrap_or_else(|| Obj::none(py));
    call::method(py, &queue, &GET, &[]).map(Turn::Await)
}

fn give_future(py: Python<'_>, _this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    match outcome {
        Ok(done) if done.is_none() => Err(Raised::from_err(py, PyTimeoutError::new_err(()))),
        Ok(done) => Ok(Turn::Return(done)),
        Err(error) => Err(exception::restore(py, error)),
    }
}

fn give_result(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    match give_future(py, this, outcome)? {
        Turn::Return(done) => call::method(py, &done, &RESULT, &[]).map(Turn::Return),
        turn => Ok(turn),
    }
}

fn next(py: Python<'_>, this: &Ref<AsCompleted>) -> RawResult<Option<Obj>> {
    begin(py, this)?;
    if !take_one(this) {
        return Ok(None);
    }
    operation::make(py, &NEXT_RESULT, this.as_obj().clone(), None).map(Some)
}

pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    HANDLE_TIMEOUT.define_noargs(c"_handle_timeout", handle_timeout);
    const CLASS_DOC: &std::ffi::CStr = c"The iterator of as_completed().";
    const DISALLOW: u64 = pyo3::ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    let name = c"hayase._core.AsCompletedIterator";
    let mut table = Table::<AsCompleted>::new(name, CLASS_DOC, std::ptr::null_mut(), DISALLOW)
        .iter(|_py: Python<'_>, this: &Ref<AsCompleted>| Ok(this.as_obj().clone()))
        .next(next)
        .onearg(c"_future_done", c"One of them is done.", handle_completion);
    if compat::AS_COMPLETED_BEGINS_AT_ONCE {
        table = table.async_iter(|_py: Python<'_>, this: &Ref<AsCompleted>| Ok(this.as_obj().clone())).async_next(
            |py: Python<'_>, this: &Ref<AsCompleted>| operation::make(py, &NEXT_FUTURE, this.as_obj().clone(), None),
        );
    }
    to_py(py, table.build(std::ptr::null_mut()))?;
    const DOC: &str = "Run awaitables and iterate over them in the order in which they are done.\n\n\
        A plain iteration gives coroutines that return or raise the next result. A TimeoutError is raised for what is not \
        done after timeout seconds.";
    function::add(py, module, "hayase.tasks", "as_completed", "(fs, *, timeout=None)", DOC, as_completed)
}
