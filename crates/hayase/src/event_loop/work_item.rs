//! What `run_in_executor` puts into the queue of a `ThreadPoolExecutor`: a call whose outcome goes straight to the loop.
//!
//! Submitted the ordinary way, a call makes a `concurrent.futures.Future` with its lock and condition, two callbacks that
//! tie it to the loop's future, and a handle that copies the result. This one stands in their place for the executor's own
//! threads, which call `run` of what they find in the queue, and for its `shutdown`, which cancels what it still finds there
//! through the attribute `future`: here the item itself.
//!
//! Must stay true
//! - What was called is let go before the outcome is handed over, in the thread that called it, and nobody else keeps it.
//! - The outcome is handed over once: by the call, or by who took the item out of the queue instead.
//! - The loop's future is touched by the loop's thread alone, except to ask whether it was cancelled.

use std::ffi::CStr;

use pyo3::exceptions::PyAssertionError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyModule};

use super::{Loop, work_queue};
use crate::interop::imports;
use crate::raw::call;
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::fastcall::Args;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::Table;
use crate::raw::{Raised, RawResult, detached, exception, to_py, to_raw};
use crate::runtime::RuntimeRef;
use crate::tasks::ready::Ready;
use crate::tasks::wait;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// `subject` is the function.
    Queued,
    Running,
    /// `subject` is the outcome.
    Returned,
    Raised,
    Cancelled,
}

pub(super) struct WorkItem {
    runtime: RuntimeRef,
    state: GilValue<State>,
    subject: ObjCell,
    /// A tuple.
    args: ObjCell,
    /// The loop's, for the outcome.
    future: ObjCell,
}

impl Data for WorkItem {
    const FREELIST: usize = 64;

    fn class() -> &'static Class<Self> {
        static CLASS: Class<WorkItem> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.runtime.visit(visitor);
        for cell in [&self.subject, &self.args, &self.future] {
            visitor.cell(cell);
        }
    }
    fn clear(&self) {
        for cell in [&self.subject, &self.args, &self.future] {
            cell.set(None);
        }
    }
}

/// `function(*args)` for a thread; `future` is the loop's own.
pub(super) fn make(
    this: &Bound<'_, Loop>,
    function: &Bound<'_, PyAny>,
    args: &Bound<'_, PyAny>,
    future: &Obj,
) -> RawResult<Obj> {
    let item = WorkItem {
        runtime: this.get().reference_to_runtime(this),
        state: GilValue::new(State::Queued),
        subject: ObjCell::new(Some(Obj::from_any(function))),
        args: ObjCell::new(Some(Obj::from_any(args))),
        future: ObjCell::new(Some(future.clone())),
    };
    WorkItem::class().make(this.py(), item).map(Ref::into_obj)
}

/// A thread of the executor: call, and hand the outcome over. From 3.14 on there is an argument: the thread's context.
fn run(py: Python<'_>, this: &Ref<WorkItem>, _context: &Args<'_>) -> RawResult<Obj> {
    if this.state.get() != State::Queued {
        return Ok(Obj::none(py));
    }
    this.state.set(State::Running);
    let (Some(function), Some(args), Some(future)) = (this.subject.take(), this.args.take(), this.future.get()) else {
        // The collector cleared it.
        return Ok(Obj::none(py));
    };
    if wait::is_cancelled(py, &future)? {
        this.future.set(None);
        return Ok(Obj::none(py));
    }
    let outcome = call::call_tuple(py, &function, &args);
    let (state, outcome) = match outcome {
        Ok(value) => (State::Returned, value),
        Err(raised) => (State::Raised, exception::fetch(py, raised)),
    };
    drop((function, args, future));
    if hand_over(py, this, state, Some(outcome)) {
        work_queue::wake_on_the_way_back(this.runtime.scheduler.waker());
    }
    Ok(Obj::none(py))
}

/// `shutdown(cancel_futures=True)` took the item out of the queue.
fn cancel(py: Python<'_>, this: &Ref<WorkItem>) -> RawResult<Obj> {
    give_up(py, this, State::Cancelled, None)
}

/// The executor broke before a thread took the item.
fn set_exception(py: Python<'_>, this: &Ref<WorkItem>, error: &Obj) -> RawResult<Obj> {
    give_up(py, this, State::Raised, Some(error.clone()))
}

/// True if the call had not begun.
fn give_up(py: Python<'_>, this: &Ref<WorkItem>, state: State, outcome: Option<Obj>) -> RawResult<Obj> {
    let waits = this.state.get() == State::Queued;
    if waits {
        this.args.set(None);
        if hand_over(py, this, state, outcome) {
            this.runtime.scheduler.wake();
        }
    }
    Ok(Obj::bool(py, waits))
}

/// Whether the loop has to be woken, to go on with [`deliver`]; one that is closed has nobody who waits.
fn hand_over(py: Python<'_>, this: &Ref<WorkItem>, state: State, outcome: Option<Obj>) -> bool {
    this.state.set(state);
    this.subject.set(outcome);
    let scheduler = &this.runtime.scheduler;
    if scheduler.closed.get() {
        return false;
    }
    scheduler.push(py, Ready::Native { object: this.as_obj().clone(), work: 0 });
    detached::call_nappers();
    true
}

/// The loop's turn: the future gets the outcome. `None` if `object` is something else.
pub(super) fn deliver(py: Python<'_>, object: &Obj) -> Option<RawResult<()>> {
    let this = Ref::<WorkItem>::view_obj(object)?;
    let Some(future) = this.future.take() else {
        return Some(Ok(()));
    };
    let settled = settle(py, this, &future);
    Some(settled.or_else(|raised| {
        let report = PyDict::new(py);
        let told = || -> PyResult<()> {
            report.set_item("message", "The outcome of run_in_executor() could not be set")?;
            report.set_item("exception", raised.fetch(py).into_value(py))?;
            report.set_item("future", future.borrow(py))?;
            this.runtime.object().borrow(py).call_method1("call_exception_handler", (report,))?;
            Ok(())
        };
        to_raw(py, told())
    }))
}

fn settle(py: Python<'_>, this: &Ref<WorkItem>, future: &Obj) -> RawResult<()> {
    let outcome = this.subject.take();
    if wait::is_cancelled(py, future)? {
        return Ok(());
    }
    if wait::is_done(py, future)? {
        // asyncio asserts it, too.
        return Err(Raised::from_err(py, PyAssertionError::new_err("somebody else has set a result")));
    }
    match (this.state.get(), outcome) {
        (State::Returned, Some(value)) => wait::set_result(py, future, value),
        (State::Raised, Some(error)) => {
            // The exceptions of concurrent.futures have twins of asyncio's.
            let convert = imports::raw(py, imports::convert_future_exception(py))?;
            let error = call::call1(py, &convert, &error)?;
            wait::set_exception(py, future, &error)
        }
        (State::Cancelled, _) => wait::cancel(py, future).map(drop),
        // Nothing is handed over before it is there; or the collector cleared it.
        (State::Queued | State::Running, _) | (State::Returned | State::Raised, None) => Ok(()),
    }
}

pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DOC: &CStr = c"A call that waits for a thread of an executor, or runs there.";
    const DISALLOW: u64 = pyo3::ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    let table = Table::<WorkItem>::new(c"hayase._core.WorkItem", DOC, std::ptr::null_mut(), DISALLOW)
        .fastcall(c"run", c"Call the function; the outcome goes to the loop.", run)
        .noargs(c"cancel", c"Cancel the loop's future, unless the call has begun.", cancel)
        .onearg(c"set_exception", c"Fail the loop's future, unless the call has begun.", set_exception)
        .get(c"future", |_py: Python<'_>, this: &Ref<WorkItem>| Ok(this.as_obj().clone()));
    to_py(py, table.build(std::ptr::null_mut()))?;
    module.add("WorkItem", WorkItem::class().type_obj().into_bound(py))
}
