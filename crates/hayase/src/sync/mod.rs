//! Locks, events, semaphores, conditions, barriers and queues: one core, with the face for coroutines.
//!
//! Each primitive is split in two. The core is the value and its rules: take it if that is possible now, stand in line
//! ([`waiters::Waiters`]), and what happens to the line when a waiter is woken, cancelled or gone. The face is who waits
//! and how: here [`crate::runtime::operation::Operation`]s, which await the waiter's future. A green task or a thread would park on
//! the same future instead and call the same functions of the core before and after.
//!
//! Order, fairness, errors and texts are those of `asyncio.locks` and `asyncio.queues`; every waiter is a future of the
//! loop that runs, so they hold on every loop.
//!
//! Must stay true
//! - First come, first served: who waits is woken in the order of arrival, and nobody overtakes.
//! - A waiter that is cancelled after it was woken passes the wake-up on; an item or a permit is never lost.
//! - No cell is open while Python code runs: a future that is woken belongs to a loop that may be anybody's.

pub(crate) mod barrier;
mod base;
pub(crate) mod binding;
pub(crate) mod condition;
mod copying;
pub(crate) mod event;
pub(crate) mod lock;
mod number;
pub(crate) mod queue;
pub(crate) mod semaphore;
pub(crate) mod waiters;

use pyo3::prelude::*;
use pyo3::types::{PyModule, PyString};

use crate::raw::call::{self, Name};
use crate::raw::exception;
use crate::raw::instance::Ref;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_raw};
use crate::runtime::operation::{Kind, Operation, Outcome, Turn, never_resumed};

/// Makes the types and puts them into the module.
pub(crate) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    lock::init(py, module)?;
    event::init(py, module)?;
    semaphore::init(py, module)?;
    condition::init(py, module)?;
    barrier::init(py, module)?;
    queue::init(py, module)
}

static ACQUIRE: Name = Name::new(c"acquire");
static RELEASE: Name = Name::new(c"release");

/// `async with` of an object whose class overrides `acquire` or `release`.
static ENTER_OVERRIDDEN: Kind =
    Kind { name: "_ContextManagerMixin.__aenter__", start: enter_overridden, resume: entered_overridden };
static EXIT_OVERRIDDEN: Kind =
    Kind { name: "_ContextManagerMixin.__aexit__", start: exit_overridden, resume: never_resumed };

fn enter_overridden(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    Ok(Turn::Await(call::method(py, &this.target_object(), &ACQUIRE, &[])?))
}

fn entered_overridden(py: Python<'_>, _this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    match outcome {
        Ok(_) => Ok(Turn::Return(Obj::none(py))),
        Err(error) => Err(exception::restore(py, error)),
    }
}

fn exit_overridden(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    call::method(py, &this.target_object(), &RELEASE, &[])?;
    Ok(Turn::Return(Obj::none(py)))
}

/// `<asyncio's repr of the object [extra]>`
fn repr(py: Python<'_>, this: &Obj, extra: &str, waiting: usize) -> RawResult<Obj> {
    let class = this.borrow(py).get_type();
    let name = to_raw(py, class.fully_qualified_name())?;
    let name = name.to_string_lossy();
    let waiters = if waiting > 0 { format!(", waiters:{waiting}") } else { String::new() };
    let text = format!("<{name} object at {:#x} [{extra}{waiters}]>", this.as_ptr() as usize);
    Ok(Obj::from_bound(PyString::new(py, &text)))
}
