//! `gather` and `shield`: many futures as one, and one that a cancellation does not reach.
//!
//! On a running loop of ours the work is native (`tasks/linked.rs`). Everything else (no loop runs, or somebody else's) is
//! left to the Python functions beside `hayase.tasks`.

use std::collections::HashMap;

use pyo3::prelude::*;
use pyo3::types::PyModule;

use super::ensure_future;
use crate::interop::imports;
use crate::raw::call::{self, Name};
use crate::raw::fastcall::{Args, Rest};
use crate::raw::obj::Obj;
use crate::raw::{RawResult, function, to_raw};
use crate::tasks::scheduler::LoopRef;
use crate::tasks::{linked, wait};

static ARG: Name = Name::new(c"arg");
static GET_LOOP: Name = Name::new(c"get_loop");
static RETURN_EXCEPTIONS: Name = Name::new(c"return_exceptions");

fn gather(py: Python<'_>, args: &Args<'_>) -> RawResult<Obj> {
    let [return_exceptions] = args.keywords(py, [&RETURN_EXCEPTIONS])?;
    let return_exceptions = match return_exceptions {
        Some(value) => call::is_true(py, &value)?,
        None => false,
    };
    let native = match (ensure_future::running_loop(py)?, args.get(0)) {
        (Some(event_loop), Some(first)) if !is_elsewhere(py, &first, &event_loop)? => Some(event_loop),
        (Some(_) | None, _) => None,
    };
    let Some(event_loop) = native else {
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
                let future = ensure_future::on(py, &awaitable, &object)?;
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

/// Whether `first` is a future of another loop, on which all the others are to be then.
fn is_elsewhere(py: Python<'_>, first: &Obj, event_loop: &LoopRef) -> RawResult<bool> {
    if let Some(owner) = wait::loop_of(first) {
        return Ok(!owner.is(event_loop.as_ptr()));
    }
    if !ensure_future::is_foreign_future(py, first)? {
        return Ok(false);
    }
    Ok(!call::method(py, first, &GET_LOOP, &[])?.is(event_loop.as_ptr()))
}

fn shield(py: Python<'_>, args: &Args<'_>) -> RawResult<Obj> {
    let [arg] = args.bind(py, [&ARG], 1)?;
    let arg = arg.expect("required");
    let native = ensure_future::running_loop(py)?;
    let is_ours = |event_loop: &LoopRef| wait::loop_of(&arg).is_none_or(|owner| owner.is(event_loop.as_ptr()));
    let Some(event_loop) = native.filter(is_ours) else {
        let elsewhere = imports::raw(py, imports::shield_elsewhere(py))?;
        return call::call1(py, &elsewhere, &arg);
    };
    let object = event_loop.object().expect("it runs");
    let inner = if ensure_future::is_foreign_future(py, &arg)? { arg } else { ensure_future::on(py, &arg, &object)? };
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
