//! Futures that are completed by other futures: what `gather` and `shield` return.
//!
//! Such an outer future stands in the line of each inner one as itself, like a task that waits. When the inner one is done
//! the loop gets an entry (in asyncio, a callback), and in its turn the outer one looks what that means. So the order is
//! asyncio's, and neither a callable nor a context is made.
//!
//! Inner futures may be anybody's; those get a callable. Outer ones are ours, on a loop of ours.
//!
//! Other objects of ours can stand in the line of a future of ours too: what has a method `_future_done` ([`tell`]).

use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};

use super::current;
use super::future::{self, FutureData, core_of};
use super::future_core::State;
use super::scheduler::LoopRef;
use super::task::{self, TaskData};
use super::wait::{self, Ending, ending};
use crate::interop::imports;
use crate::raw::bound_function::BoundFunction;
use crate::raw::call::{self, Name};
use crate::raw::instance::{Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::{RawResult, compat, to_raw};

/// What an outer future waits for.
pub(super) enum Link {
    Gather {
        /// In the order they were given; one that was given twice is here twice.
        children: Vec<Obj>,
        unfinished: usize,
        return_exceptions: bool,
        /// `cancel()` reached a child: the outer future ends as cancelled when all children are done.
        cancel_requested: bool,
        /// The task that gathers, for `asyncio.capture_call_graph`.
        awaited_by: Option<Obj>,
    },
    Shield {
        inner: Obj,
        /// The task that shields, for `asyncio.capture_call_graph`.
        awaited_by: Option<Obj>,
    },
}

impl Link {
    pub(super) fn visit(&self, visitor: &mut Visitor<'_>) {
        match self {
            Link::Gather { children, awaited_by, .. } => {
                children.iter().chain(awaited_by).for_each(|object| visitor.obj(object));
            }
            Link::Shield { inner, awaited_by } => {
                [Some(inner), awaited_by.as_ref()].into_iter().flatten().for_each(|object| visitor.obj(object))
            }
        }
    }
}

static ADD_DONE_CALLBACK: Name = Name::new(c"add_done_callback");
static REMOVE_DONE_CALLBACK: Name = Name::new(c"remove_done_callback");
static CANCEL_MESSAGE: Name = Name::new(c"_cancel_message");
static FUTURE_DONE: Name = Name::new(c"_future_done");
static LOG_DESTROY_PENDING: Name = Name::new(c"_log_destroy_pending");
static MAKE_CANCELLED_ERROR: Name = Name::new(c"_make_cancelled_error");

/// What a foreign inner future is given to call.
static INNER_DONE: BoundFunction<FutureData> = BoundFunction::new();

pub(super) fn init() {
    INNER_DONE.define_onearg(c"inner_done", |py: Python<'_>, outer: &Ref<FutureData>, inner: &Obj| {
        settle(py, outer, inner)?;
        Ok(Obj::none(py))
    });
}

/// The callable that tells `outer`, for lists that Python sees and for foreign futures.
pub(crate) fn callable(py: Python<'_>, outer: &Obj) -> RawResult<Obj> {
    match Ref::<FutureData>::view_obj(outer) {
        Some(outer) => INNER_DONE.bind(py, outer),
        None => call::getattr(py, outer, &FUTURE_DONE),
    }
}

/// The outer future that `callable` tells, if it is one of ours.
pub(super) fn told_by(callable: &Obj) -> Option<&Ref<FutureData>> {
    INNER_DONE.target(callable)
}

/// Calls `listener._future_done(future)` when `future` is done, in the turn of a done callback.
#[inline]
pub(crate) fn tell(py: Python<'_>, future: &Obj, listener: &Obj) -> RawResult<()> {
    match core_of(future) {
        Some(core) => core.link_to(py, future, listener),
        None => call::method(py, future, &ADD_DONE_CALLBACK, &[&callable(py, listener)?]).map(drop),
    }
}

/// Takes back [`tell`].
pub(crate) fn do_not_tell(py: Python<'_>, future: &Obj, listener: &Obj) -> RawResult<()> {
    match core_of(future) {
        Some(core) => {
            core.unlink_from(py, listener);
            Ok(())
        }
        None => call::method(py, future, &REMOVE_DONE_CALLBACK, &[&callable(py, listener)?]).map(drop),
    }
}

/// `gather(...)` of futures of `event_loop`, one of ours. `futures` has each once with whether it was made for us;
/// `order` says which of them is at which place.
pub(crate) fn gather(
    py: Python<'_>,
    event_loop: LoopRef,
    futures: &[Obj],
    order: &[usize],
    return_exceptions: bool,
) -> RawResult<Obj> {
    let outer = future::make(py, event_loop)?;
    let awaited_by = current_task(py)?;
    let knows_who_awaits = awaited_by.is_some();
    let children = order.iter().map(|&place| futures[place].clone()).collect();
    let link =
        Link::Gather { children, unfinished: futures.len(), return_exceptions, cancel_requested: false, awaited_by };
    core_of(&outer).expect("made here").set_link(py, link);
    let mut done = vec![];
    for inner in futures {
        if compat::GATHER_TAKES_DONE_CHILDREN_AT_ONCE && wait::is_done(py, inner)? {
            done.push(inner);
        } else {
            stand_in_line(py, &outer, inner)?;
        }
    }
    if knows_who_awaits {
        // It may be over before its children are.
        stand_in_line(py, &outer, &outer)?;
    }
    let this = Ref::<FutureData>::view_obj(&outer).expect("made here");
    for inner in done {
        settle(py, this, inner)?;
    }
    Ok(outer)
}

/// `shield(inner)` of a pending future of a loop of ours.
pub(crate) fn shield(py: Python<'_>, event_loop: LoopRef, inner: &Obj) -> RawResult<Obj> {
    let outer = future::make(py, event_loop)?;
    core_of(&outer)
        .expect("made here")
        .set_link(py, Link::Shield { inner: inner.clone(), awaited_by: current_task(py)? });
    stand_in_line(py, &outer, inner)?;
    stand_in_line(py, &outer, &outer)?;
    Ok(outer)
}

/// The current task, for the call graph.
fn current_task(py: Python<'_>) -> RawResult<Option<Obj>> {
    if !compat::CALL_GRAPH {
        return Ok(None);
    }
    let current = call::call0(py, &imports::raw(py, imports::current_task(py))?)?;
    Ok((!current.is_none()).then_some(current))
}

/// A task that was made for a coroutine that somebody gathers: nobody else knows it, so nobody is told that it dies.
pub(crate) fn do_not_report(py: Python<'_>, task: &Obj) -> RawResult<()> {
    match Ref::<TaskData>::view_obj(task) {
        Some(task) => {
            task.forget_destroy_pending();
            Ok(())
        }
        None => call::setattr(py, task, &LOG_DESTROY_PENDING, &Obj::bool(py, false)),
    }
}

fn stand_in_line(py: Python<'_>, outer: &Obj, inner: &Obj) -> RawResult<()> {
    if compat::CALL_GRAPH
        && !inner.is(outer.as_ptr())
        && let Some(task) = awaited_by(py, outer)
    {
        current::add_to_awaited_by(py, inner, &task)?;
    }
    tell(py, inner, outer)
}

fn awaited_by(py: Python<'_>, outer: &Obj) -> Option<Obj> {
    core_of(outer)?.with_link(py, |link| match link {
        Link::Gather { awaited_by, .. } | Link::Shield { awaited_by, .. } => awaited_by.clone(),
    })?
}

fn no_longer_awaited(py: Python<'_>, outer: &Obj, inner: &Obj) -> RawResult<()> {
    if compat::CALL_GRAPH
        && let Some(task) = awaited_by(py, outer)
    {
        current::discard_from_awaited_by(py, inner, &task)?;
    }
    Ok(())
}

/// `Ready::Linked`: the turn of `outer` to see that `inner` is done.
#[inline]
pub(crate) fn inner_is_done(py: Python<'_>, outer: &Obj, inner: &Obj) -> RawResult<()> {
    match Ref::<FutureData>::view_obj(outer) {
        Some(this) => settle(py, this, inner),
        None => call::method(py, outer, &FUTURE_DONE, &[inner]).map(drop),
    }
}

enum Kind {
    Gather {
        return_exceptions: bool,
        is_last: bool,
    },
    /// A gathering future that is done itself.
    Gathered {
        children: Vec<Obj>,
    },
    Shield {
        inner: Obj,
    },
}

fn settle(py: Python<'_>, outer: &Ref<FutureData>, inner: &Obj) -> RawResult<()> {
    let core = core_of(outer.as_obj()).expect("a future of ours");
    let kind = core.with_link(py, |link| match link {
        Link::Gather { children, .. } if inner.is(outer.as_ptr()) => Kind::Gathered { children: children.clone() },
        Link::Gather { unfinished, return_exceptions, .. } => {
            *unfinished = unfinished.saturating_sub(1);
            Kind::Gather { return_exceptions: *return_exceptions, is_last: *unfinished == 0 }
        }
        Link::Shield { inner, .. } => Kind::Shield { inner: inner.clone() },
    });
    match kind {
        Some(Kind::Gather { return_exceptions, is_last }) => {
            child_is_done(py, outer, inner, return_exceptions, is_last)
        }
        Some(Kind::Gathered { children }) => {
            children.iter().try_for_each(|child| no_longer_awaited(py, outer.as_obj(), child))
        }
        Some(Kind::Shield { inner: shielded }) => shielded_is_done(py, outer, inner, &shielded),
        // The collector cleared it.
        None => Ok(()),
    }
}

fn child_is_done(
    py: Python<'_>,
    outer: &Ref<FutureData>,
    child: &Obj,
    return_exceptions: bool,
    is_last: bool,
) -> RawResult<()> {
    no_longer_awaited(py, outer.as_obj(), child)?;
    let core = core_of(outer.as_obj()).expect("a future of ours");
    if !core.is_pending() {
        // Its exception counts as seen.
        return ending(py, child).map(drop);
    }
    if !return_exceptions {
        match ending(py, child)? {
            Ending::Value(_) => {}
            Ending::Cancelled => {
                let error = cancelled_error(py, child)?;
                return core.set_exception(py, outer.as_obj(), &error);
            }
            Ending::Error(error) => return core.set_exception(py, outer.as_obj(), &error),
        }
    }
    if is_last { all_are_done(py, outer) } else { Ok(()) }
}

fn all_are_done(py: Python<'_>, outer: &Ref<FutureData>) -> RawResult<()> {
    let core = core_of(outer.as_obj()).expect("a future of ours");
    let Some((children, cancel_requested)) = core.with_link(py, |link| match link {
        Link::Gather { children, cancel_requested, .. } => (std::mem::take(children), *cancel_requested),
        Link::Shield { .. } => (vec![], false),
    }) else {
        return Ok(());
    };
    if cancel_requested && let Some(last) = children.last() {
        let error = cancelled_error(py, last)?;
        return core.set_exception(py, outer.as_obj(), &error);
    }
    let mut results = Vec::with_capacity(children.len());
    for child in &children {
        results.push(match ending(py, child)? {
            Ending::Value(value) | Ending::Error(value) => value.into_bound(py),
            Ending::Cancelled => {
                let class = imports::raw(py, imports::cancelled_error(py))?;
                let message = message_of(py, child)?.unwrap_or_else(|| Obj::from_bound(PyString::new(py, "")));
                call::call1(py, &class, &message)?.into_bound(py)
            }
        });
    }
    let results = to_raw(py, PyList::new(py, results))?;
    core.set_result(py, outer.as_obj(), Obj::from_bound(results))
}

fn shielded_is_done(py: Python<'_>, outer: &Ref<FutureData>, done: &Obj, inner: &Obj) -> RawResult<()> {
    let core = core_of(outer.as_obj()).expect("a future of ours");
    if done.is(outer.as_ptr()) {
        return if wait::is_done(py, inner)? { Ok(()) } else { leave_alone(py, outer, inner) };
    }
    no_longer_awaited(py, outer.as_obj(), inner)?;
    if core.state() == State::Cancelled {
        // Its exception counts as seen, before 3.14.
        return if compat::SHIELD_REPORTS_LOST_EXCEPTIONS { Ok(()) } else { ending(py, inner).map(drop) };
    }
    match ending(py, inner)? {
        Ending::Cancelled => core.cancel(py, outer.as_obj(), None).map(drop),
        Ending::Error(error) => core.set_exception(py, outer.as_obj(), &error),
        Ending::Value(value) => core.set_result(py, outer.as_obj(), value),
    }
}

/// The shielding future is done, that is cancelled, and what it shielded goes on.
fn leave_alone(py: Python<'_>, outer: &Ref<FutureData>, inner: &Obj) -> RawResult<()> {
    do_not_tell(py, inner, outer.as_obj())?;
    if compat::SHIELD_REPORTS_LOST_EXCEPTIONS {
        // Once, however many shielded it.
        let report = imports::raw(py, imports::log_on_exception(py))?;
        call::method(py, inner, &REMOVE_DONE_CALLBACK, &[&report])?;
        call::method(py, inner, &ADD_DONE_CALLBACK, &[&report])?;
    }
    no_longer_awaited(py, outer.as_obj(), inner)
}

/// `cancel()` of an outer future: `None` if it is cancelled like any other.
pub(super) fn cancel(py: Python<'_>, outer: &Obj, message: Option<&Obj>) -> RawResult<Option<bool>> {
    let core = core_of(outer).expect("a future of ours");
    let children = core.with_link(py, |link| match link {
        Link::Gather { children, .. } => Some(children.clone()),
        Link::Shield { .. } => None,
    });
    let Some(Some(children)) = children else {
        return Ok(None);
    };
    let mut reached = false;
    for child in &children {
        reached |= task::cancel_object(py, child, message.cloned())?;
    }
    if reached {
        core.with_link(py, |link| {
            if let Link::Gather { cancel_requested, .. } = link {
                *cancel_requested = true;
            }
        });
    }
    Ok(Some(reached))
}

fn cancelled_error(py: Python<'_>, future: &Obj) -> RawResult<Obj> {
    match core_of(future) {
        Some(core) => core.cancelled_error(py),
        None => call::method(py, future, &MAKE_CANCELLED_ERROR, &[]),
    }
}

fn message_of(py: Python<'_>, future: &Obj) -> RawResult<Option<Obj>> {
    let message = match core_of(future) {
        Some(core) => core.cancel_message(py),
        None => Some(call::getattr(py, future, &CANCEL_MESSAGE)?),
    };
    Ok(message.filter(|message| !message.is_none()))
}
