//! `wait(fs, *, timeout=None, return_when=ALL_COMPLETED)`.
//!
//! What is waited for tells a [`Waiting`] that it is done; the waiting task awaits one future, which the `Waiting` or the timer completes. Whatever ends the wait, nobody is told any more afterwards.

use pyo3::exceptions::{PyAssertionError, PyDeprecationWarning, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyModule, PySet, PyTuple};

use super::ensure_future::{is_coroutine, is_future};
use super::timers::Timers;
use super::watched::Watched;
use super::{cancel_handle, get_running_loop};
use crate::interop::imports;
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::fastcall::Args;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::Table;
use crate::raw::{Raised, RawResult, exception, function, to_py, to_raw};
use crate::runtime::operation::{self, Kind, Operation, Outcome, Turn};
use crate::tasks::future;
use crate::tasks::wait::{self, Ending};

#[derive(Clone, Copy, PartialEq, Eq)]
enum ReturnWhen {
    AllCompleted,
    FirstCompleted,
    FirstException,
}

/// One wait that is on.
struct Waiting {
    /// What is waited for.
    all: Watched,
    waiter: ObjCell,
    /// The handle that ends the wait.
    timer: ObjCell,
    unfinished: GilValue<usize>,
    return_when: GilValue<ReturnWhen>,
}

impl Waiting {
    fn cells(&self) -> [&ObjCell; 4] {
        let [all, task] = self.all.cells();
        [&self.waiter, &self.timer, all, task]
    }
}

impl Data for Waiting {
    const FREELIST: usize = 64;

    fn class() -> &'static Class<Self> {
        static CLASS: Class<Waiting> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.cells().into_iter().for_each(|cell| visitor.cell(cell));
    }
    fn clear(&self) {
        self.cells().into_iter().for_each(|cell| cell.set(None));
    }
}

static CREATE_TASK: Name = Name::new(c"create_task");
static FS: Name = Name::new(c"fs");
static TIMEOUT: Name = Name::new(c"timeout");
static RETURN_WHEN: Name = Name::new(c"return_when");

/// The target is what is waited for; the argument the pair of the timeout and when to return, then the [`Waiting`].
static WAIT: Kind = Kind { name: "wait", start, resume };

fn wait_function(py: Python<'_>, args: &Args<'_>) -> RawResult<Obj> {
    let [fs, timeout, return_when] = args.bind_mixed(py, [&FS, &TIMEOUT, &RETURN_WHEN], 1, 1)?;
    let options = match (timeout, return_when) {
        (None, None) => None,
        (timeout, return_when) => {
            let timeout = timeout.unwrap_or_else(|| Obj::none(py)).into_bound(py);
            let all_completed = || pyo3::intern!(py, "ALL_COMPLETED").as_any().clone();
            let return_when = return_when.map_or_else(all_completed, |value| value.into_bound(py));
            Some(Obj::from_bound(to_raw(py, PyTuple::new(py, [timeout, return_when]))?))
        }
    };
    operation::make(py, &WAIT, fs.expect("required"), options)
}

fn start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let fs = this.target_object();
    if is_future(py, &fs)? || is_coroutine(py, &fs)? {
        let class = to_raw(py, fs.borrow(py).get_type().name())?;
        let text = format!("expect a list of futures, not {class}");
        return Err(Raised::from_err(py, PyTypeError::new_err(text)));
    }
    if !call::is_true(py, &fs)? {
        return Err(Raised::from_err(py, PyValueError::new_err("Set of Tasks/Futures is empty.")));
    }
    let (timeout, return_when) = match this.argument.take() {
        Some(options) => to_raw(py, read_options(&options.into_bound(py)))?,
        None => (None, ReturnWhen::AllCompleted),
    };
    let all = to_raw(py, distinct(py, &fs))?;
    let timers = Timers::of_running(py)?;
    if all.is_empty() {
        return Err(Raised::from_err(py, PyAssertionError::new_err("Set of Futures is empty.")));
    }
    let waiter = timers.create_future(py)?;
    let timer = match timeout {
        Some(timeout) => Some(release_later(py, &timers, &timeout, &waiter)?),
        None => None,
    };
    let waiting = Waiting {
        all: Watched::nothing(),
        waiter: ObjCell::new(Some(waiter.clone())),
        timer: ObjCell::new(timer),
        unfinished: GilValue::new(all.len()),
        return_when: GilValue::new(return_when),
    };
    let waiting = Waiting::class().make(py, waiting)?;
    waiting.all.begin(py, all, waiting.as_obj())?;
    this.argument.set(Some(waiting.into_obj()));
    Ok(Turn::Await(waiter))
}

fn read_options(options: &Bound<'_, PyAny>) -> PyResult<(Option<Obj>, ReturnWhen)> {
    let (timeout, return_when): (Bound<'_, PyAny>, Bound<'_, PyAny>) = options.extract()?;
    let known = [
        ("FIRST_COMPLETED", ReturnWhen::FirstCompleted),
        ("FIRST_EXCEPTION", ReturnWhen::FirstException),
        ("ALL_COMPLETED", ReturnWhen::AllCompleted),
    ];
    let mut chosen = None;
    for (name, meaning) in known {
        if chosen.is_none() && return_when.eq(name)? {
            chosen = Some(meaning);
        }
    }
    let Some(chosen) = chosen else {
        return Err(PyValueError::new_err(format!("Invalid return_when value: {}", return_when.str()?)));
    };
    Ok(((!timeout.is_none()).then(|| Obj::from_bound(timeout)), chosen))
}

/// The set of what is given, with a task for each bare coroutine.
fn distinct<'py>(py: Python<'py>, fs: &Obj) -> PyResult<Bound<'py, PySet>> {
    let all = PySet::empty(py)?;
    let mut coroutines = vec![];
    for member in fs.borrow(py).try_iter()? {
        let member = member?;
        if to_py(py, is_coroutine(py, &Obj::from_any(&member)))? {
            coroutines.push(member.clone());
        }
        all.add(member)?;
    }
    if !coroutines.is_empty() {
        let text = c"wait() was given coroutines; make tasks of them with create_task() to be able to tell them apart";
        PyErr::warn(py, &py.get_type::<PyDeprecationWarning>(), text, 1)?;
        let event_loop = to_py(py, get_running_loop(py))?;
        for coroutine in coroutines {
            // The same one twice is one task.
            if all.discard(&coroutine)? {
                let task = to_py(py, call::method(py, &event_loop, &CREATE_TASK, &[&Obj::from_bound(coroutine)]))?;
                all.add(task.into_bound(py))?;
            }
        }
    }
    Ok(all)
}

fn release_later(py: Python<'_>, timers: &Timers, timeout: &Obj, waiter: &Obj) -> RawResult<Obj> {
    match future::completion(waiter) {
        Some(complete) => timers.call_later(py, timeout, complete, &[&Obj::none(py)]),
        None => {
            let release = imports::raw(py, imports::release_waiter(py))?;
            timers.call_later(py, timeout, release.into(), &[waiter])
        }
    }
}

fn on_completion(py: Python<'_>, this: &Ref<Waiting>, done: &Obj) -> RawResult<Obj> {
    let unfinished = this.unfinished.get().saturating_sub(1);
    this.unfinished.set(unfinished);
    let is_over = unfinished == 0
        || match this.return_when.get() {
            ReturnWhen::AllCompleted => false,
            ReturnWhen::FirstCompleted => true,
            ReturnWhen::FirstException => matches!(wait::ending(py, done)?, Ending::Error(_)),
        };
    if is_over {
        stop_timer(py, this)?;
        if let Some(waiter) = this.waiter.get()
            && !wait::is_done(py, &waiter)?
        {
            wait::set_result(py, &waiter, Obj::none(py))?;
        }
    }
    this.all.is_done(py, done)?;
    Ok(Obj::none(py))
}

fn stop_timer(py: Python<'_>, waiting: &Ref<Waiting>) -> RawResult<()> {
    match waiting.timer.take() {
        Some(timer) => cancel_handle(py, &timer),
        None => Ok(()),
    }
}

fn resume(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    let waiting = this.argument.take().expect("put there by start");
    let waiting = Ref::<Waiting>::view_obj(&waiting).expect("put there by start");
    stop_timer(py, waiting)?;
    let (done, pending) = (to_raw(py, PySet::empty(py))?, to_raw(py, PySet::empty(py))?);
    for future in waiting.all.members(py)? {
        waiting.all.forget(py, &future, waiting.as_obj())?;
        let is_done = outcome.is_ok() && wait::is_done(py, &future)?;
        to_raw(py, if is_done { &done } else { &pending }.add(future.into_bound(py)))?;
    }
    match outcome {
        Ok(_) => to_raw(py, PyTuple::new(py, [done, pending])).map(|sets| Turn::Return(Obj::from_bound(sets))),
        Err(error) => Err(exception::restore(py, error)),
    }
}

pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DISALLOW: u64 = pyo3::ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    let table = Table::<Waiting>::new(c"hayase._core.Waiting", c"A wait that is on.", std::ptr::null_mut(), DISALLOW)
        .onearg(c"_future_done", c"Something that is waited for is done.", on_completion);
    to_py(py, table.build(std::ptr::null_mut()))?;
    const DOC: &str = "Wait for futures and tasks; returns two sets of them, (done, pending).\n\n\
        It ends when return_when says so, or after timeout seconds, which is no error. Bare coroutines are taken with a \
        DeprecationWarning: the caller has no way to tell which task is which coroutine's.";
    const SIGNATURE: &str = "(fs, *, timeout=None, return_when='ALL_COMPLETED')";
    function::add(py, module, "hayase.tasks", "wait", SIGNATURE, DOC, wait_function)
}
