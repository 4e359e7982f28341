//! Waiting for a queue: `put`, `get`, `join`.

use pyo3::prelude::*;

use super::rules::shut_down_error;
use super::{Queue, finished};
use crate::raw::instance::Ref;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, exception};
use crate::runtime::operation::{self, Kind, Operation, Outcome, Turn};
use crate::sync::event::{self, Event};

static PUT: Kind = Kind { name: "Queue.put", start: put_start, resume: put_resume };
static GET: Kind = Kind { name: "Queue.get", start: get_start, resume: get_resume };
static JOIN: Kind = Kind { name: "Queue.join", start: join_start, resume: join_resume };

pub(super) fn put(py: Python<'_>, this: &Ref<Queue>, item: Obj) -> RawResult<Obj> {
    operation::make(py, &PUT, this.as_obj().clone(), Some(item))
}

pub(super) fn get(py: Python<'_>, this: &Ref<Queue>) -> RawResult<Obj> {
    operation::make(py, &GET, this.as_obj().clone(), None)
}

pub(super) fn join(py: Python<'_>, this: &Ref<Queue>) -> RawResult<Obj> {
    operation::make(py, &JOIN, this.as_obj().clone(), None)
}

#[inline]
fn put_start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let queue = this.target::<Queue>();
    if queue.is_full(py)? {
        if queue.is_shutdown.get() {
            return Err(shut_down_error(py));
        }
        let waiter = queue.binding.create_future(py, queue.as_obj())?;
        queue.putters.push(py, waiter.clone())?;
        this.waiter.set(Some(waiter.clone()));
        return Ok(Turn::Await(waiter));
    }
    let item = this.argument.take().expect("it is put once");
    queue.put_nowait(py, item).map(Turn::Return)
}

fn put_resume(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    let waiter = this.waiter.take().expect("it waited");
    // Woken: somebody else may have been faster, so it looks again.
    let Err(error) = outcome else {
        return put_start(py, this);
    };
    let queue = this.target::<Queue>();
    queue.give_up(py, &queue.putters, &waiter, || Ok(!queue.is_full(py)?))?;
    Err(exception::restore(py, error))
}

#[inline]
fn get_start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let queue = this.target::<Queue>();
    if queue.is_empty(py)? {
        if queue.is_shutdown.get() {
            return Err(shut_down_error(py));
        }
        let waiter = queue.binding.create_future(py, queue.as_obj())?;
        queue.getters.push(py, waiter.clone())?;
        this.waiter.set(Some(waiter.clone()));
        return Ok(Turn::Await(waiter));
    }
    queue.get_nowait(py).map(Turn::Return)
}

fn get_resume(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    let waiter = this.waiter.take().expect("it waited");
    let Err(error) = outcome else {
        return get_start(py, this);
    };
    let queue = this.target::<Queue>();
    queue.give_up(py, &queue.getters, &waiter, || Ok(!queue.is_empty(py)?))?;
    Err(exception::restore(py, error))
}

fn join_start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let queue = this.target::<Queue>();
    if queue.unfinished.get() == 0 {
        return Ok(Turn::Return(Obj::none(py)));
    }
    let finished = finished(py, &queue)?;
    let finished = Ref::<Event>::view_instance(&finished).expect("made by the queue");
    event::wait(py, finished).map(Turn::Await)
}

fn join_resume(py: Python<'_>, _this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    match outcome {
        Ok(_) => Ok(Turn::Return(Obj::none(py))),
        Err(error) => Err(exception::restore(py, error)),
    }
}
