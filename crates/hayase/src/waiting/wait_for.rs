//! `wait_for(fut, timeout)`, as asyncio has it since 3.12: what is awaited runs in the caller's task, under a timeout.

use pyo3::exceptions::PyTimeoutError;
use pyo3::prelude::*;
use pyo3::types::PyModule;

use super::{ensure_future, get_running_loop, is_over, timeout};
use crate::interop::imports;
use crate::raw::call::{self, Name};
use crate::raw::fastcall::Args;
use crate::raw::instance::Ref;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, exception, function};
use crate::runtime::operation::{self, Kind, Operation, Outcome, Turn};
use crate::tasks::wait;

static FUT: Name = Name::new(c"fut");
static RESULT: Name = Name::new(c"result");
static TIMEOUT: Name = Name::new(c"timeout");

/// The target is what is awaited, the argument the time, the waiter the [`timeout::Timeout`].
static WAIT_FOR: Kind = Kind { name: "wait_for", start, resume };

fn wait_for(py: Python<'_>, args: &Args<'_>) -> RawResult<Obj> {
    let [fut, timeout] = args.bind(py, [&FUT, &TIMEOUT], 2)?;
    operation::make(py, &WAIT_FOR, fut.expect("required"), timeout)
}

fn start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let awaitable = this.target_object();
    let time = this.argument.take().expect("required");
    if !time.is_none() && is_over(py, &time)? {
        return no_time(py, this, &awaitable);
    }
    let timeout = timeout::begin(py, &time)?;
    this.waiter.set(Some(timeout.into_obj()));
    Ok(Turn::Await(awaitable))
}

/// What is done already has its result; everything else is cancelled.
fn no_time(py: Python<'_>, this: &Ref<Operation>, awaitable: &Obj) -> RawResult<Turn> {
    let future = ensure_future::on(py, awaitable, &get_running_loop(py)?)?;
    if wait::is_done(py, &future)? {
        return call::method(py, &future, &RESULT, &[]).map(Turn::Return);
    }
    let cancel = imports::raw(py, imports::cancel_and_wait(py))?;
    let cancelling = call::call1(py, &cancel, &future)?;
    this.argument.set(Some(future));
    Ok(Turn::Await(cancelling))
}

fn resume(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    if let Some(timeout) = this.waiter.take() {
        let timeout = Ref::<timeout::Timeout>::view_obj(&timeout).expect("put there by start");
        timeout.exit(py, outcome.as_ref().err())?;
        return match outcome {
            Ok(value) => Ok(Turn::Return(value)),
            Err(error) => Err(exception::restore(py, error)),
        };
    }
    if let Err(error) = outcome {
        return Err(exception::restore(py, error));
    }
    let future = this.argument.take().expect("put there by no_time");
    match call::method(py, &future, &RESULT, &[]) {
        Ok(value) => Ok(Turn::Return(value)),
        Err(raised) => {
            let error = exception::fetch(py, raised);
            let cancelled = imports::raw(py, imports::cancelled_error(py))?;
            if !exception::matches(py, &error, cancelled.as_ptr()) {
                return Err(exception::restore(py, error));
            }
            let timeout = exception::instance(py, PyTimeoutError::new_err(()));
            exception::chain(&timeout, &error);
            Err(exception::restore(py, timeout))
        }
    }
}

pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DOC: &str = "Wait for an awaitable, at most timeout seconds (None: for ever), and return its result.\n\n\
        When the time is over it is cancelled and TimeoutError raised.";
    function::add(py, module, "hayase.tasks", "wait_for", "(fut, timeout)", DOC, wait_for)
}
