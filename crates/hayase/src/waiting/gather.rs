//! `gather` and `shield`: many futures as one, and one that a cancellation does not reach.
//!
//! On a running loop of ours the work is native (`tasks/linked.rs`). Everything else (no loop runs, or somebody else's) is
//! left to the Python functions beside `hayase.tasks`.

use std::collections::HashMap;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyModule;

use crate::interop::imports;
use crate::raw::call::{self, Name};
use crate::raw::fastcall::{Args, Rest};
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, compat, coroutine, function, to_raw};
use crate::runtime::operation;
use crate::tasks::scheduler::LoopRef;
use crate::tasks::{linked, wait};

static ARG: Name = Name::new(c"arg");
static CLOSE: Name = Name::new(c"close");
static CREATE_TASK: Name = Name::new(c"create_task");
static GET_LOOP: Name = Name::new(c"get_loop");
static LOOP: Name = Name::new(c"loop");
static RETURN_EXCEPTIONS: Name = Name::new(c"return_exceptions");

/// The loop that runs, if it is one of ours.
fn running_loop(py: Python<'_>) -> RawResult<Option<LoopRef>> {
    let running = wait::running_loop(py)?;
    if running.is_none() {
        return Ok(None);
    }
    let event_loop = LoopRef::new(running);
    Ok(event_loop.scheduler().is_some().then_some(event_loop))
}

/// `ensure_future(awaitable, loop=event_loop)`
fn ensure_future(py: Python<'_>, awaitable: &Obj, event_loop: &Obj) -> RawResult<Obj> {
    if let Some(owner) = wait::loop_of(awaitable) {
        return if owner.is(event_loop.as_ptr()) { Ok(awaitable.clone()) } else { Err(different_loop(py)) };
    }
    if coroutine::is_native(awaitable) || operation::is_one(awaitable) {
        return match call::method(py, event_loop, &CREATE_TASK, &[awaitable]) {
            Ok(task) => Ok(task),
            Err(raised) => Err(close(py, awaitable, raised)),
        };
    }
    let ensure_future = imports::raw(py, imports::ensure_future(py))?;
    call::call_with_keyword(py, &ensure_future, &[awaitable], &LOOP, event_loop)
}

#[cold]
fn different_loop(py: Python<'_>) -> Raised {
    let text = "The future belongs to a different loop than the one specified as the loop argument";
    Raised::from_err(py, PyValueError::new_err(text))
}

/// No task could be made of a coroutine: after a RuntimeError it is closed, so that it does not warn.
#[cold]
fn close(py: Python<'_>, coroutine: &Obj, raised: Raised) -> Raised {
    let err = raised.fetch(py);
    if err.is_instance_of::<PyRuntimeError>(py)
        && let Err(raised) = call::method(py, coroutine, &CLOSE, &[])
    {
        return raised;
    }
    Raised::from_err(py, err)
}

fn gather(py: Python<'_>, args: &Args<'_>) -> RawResult<Obj> {
    let [return_exceptions] = args.keywords(py, [&RETURN_EXCEPTIONS])?;
    let return_exceptions = match return_exceptions {
        Some(value) => call::is_true(py, &value)?,
        None => false,
    };
    let (Some(event_loop), 1..) = (running_loop(py)?, args.len()) else {
        let elsewhere = imports::raw(py, imports::gather_elsewhere(py))?;
        let all = match args.rest(0)? {
            Rest::Tuple(all) => all,
            Rest::One(one) => Obj::from_bound(to_raw(py, pyo3::types::PyTuple::new(py, [one.into_bound(py)]))?),
            Rest::None => Obj::from_bound(pyo3::types::PyTuple::empty(py)),
        };
        return call::call_n(py, &elsewhere, &[&all, &Obj::bool(py, return_exceptions)]);
    };
    let object = event_loop.object().expect("it runs");
    let (mut futures, mut order) = (Vec::with_capacity(args.len()), Vec::with_capacity(args.len()));
    // What is given twice is one.
    let mut places: HashMap<usize, usize> = HashMap::with_capacity(args.len());
    for i in 0..args.len() {
        let awaitable = args.get(i).expect("in range");
        let place = match places.get(&(awaitable.as_ptr() as usize)) {
            Some(place) => *place,
            None => {
                let future = ensure_future(py, &awaitable, &object)?;
                if !future.is(awaitable.as_ptr()) {
                    linked::do_not_report(py, &future)?;
                }
                places.insert(awaitable.as_ptr() as usize, futures.len());
                futures.push(future);
                futures.len() - 1
            }
        };
        order.push(place);
    }
    linked::gather(py, event_loop, &futures, &order, return_exceptions)
}

fn shield(py: Python<'_>, args: &Args<'_>) -> RawResult<Obj> {
    let [arg] = args.bind(py, [&ARG], 1)?;
    let arg = arg.expect("required");
    let native = if compat::SHIELD_ONLY_LINKS { running_loop(py)? } else { None };
    let is_ours = |event_loop: &LoopRef| wait::loop_of(&arg).is_none_or(|owner| owner.is(event_loop.as_ptr()));
    let Some(event_loop) = native.filter(is_ours) else {
        let elsewhere = imports::raw(py, imports::shield_elsewhere(py))?;
        return call::call1(py, &elsewhere, &arg);
    };
    let object = event_loop.object().expect("it runs");
    let inner = if is_foreign_future(py, &arg)? { arg } else { ensure_future(py, &arg, &object)? };
    if wait::is_done(py, &inner)? {
        return Ok(inner);
    }
    if wait::loop_of(&inner).is_none() {
        let owner = call::method(py, &inner, &GET_LOOP, &[])?;
        if !owner.is(event_loop.as_ptr()) {
            let elsewhere = imports::raw(py, imports::shield_elsewhere(py))?;
            return call::call1(py, &elsewhere, &inner);
        }
    }
    linked::shield(py, event_loop, &inner)
}

fn is_foreign_future(py: Python<'_>, object: &Obj) -> RawResult<bool> {
    if wait::loop_of(object).is_some() || coroutine::is_native(object) || operation::is_one(object) {
        return Ok(false);
    }
    call::is_true(py, &call::call1(py, &imports::raw(py, imports::is_future(py))?, object)?)
}

pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const HOME: &str = "hayase.tasks";
    const GATHER: &str = "A future for the results of all awaitables, in the order they are given.\n\n\
        It ends with the first exception, unless return_exceptions says that exceptions are results. Cancelling it cancels \
        all that are not done.";
    function::add(py, module, HOME, "gather", "(*coros_or_futures, return_exceptions=False)", GATHER, gather)?;
    const SHIELD: &str = "A future for the result of an awaitable, which goes on if this future is cancelled.\n\n\
        Keep a reference to the task: the loop has only a weak one.";
    function::add(py, module, HOME, "shield", "(arg)", SHIELD, shield)
}
