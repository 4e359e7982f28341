//! `sleep(delay, result=None)`.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyModule;

use super::timers::Timers;
use super::{cancel_handle, is_over, plain_number};
use crate::interop::imports;
use crate::raw::call::Name;
use crate::raw::fastcall::Args;
use crate::raw::instance::Ref;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, compat, exception, function};
use crate::runtime::operation::{self, Kind, Operation, Outcome, Turn};
use crate::tasks::future;

static DELAY: Name = Name::new(c"delay");
static RESULT: Name = Name::new(c"result");

/// The target is the delay, the argument the result, the waiter the handle of the timer.
static SLEEP: Kind = Kind { name: "sleep", start, resume };

fn sleep(py: Python<'_>, args: &Args<'_>) -> RawResult<Obj> {
    let [delay, result] = args.bind(py, [&DELAY, &RESULT], 1)?;
    operation::make(py, &SLEEP, delay.expect("required"), result)
}

#[inline]
fn start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let delay = this.target_object();
    if is_over(py, &delay)? {
        return Ok(Turn::GiveWay);
    }
    if compat::SLEEP_REFUSES_NAN && plain_number(py, &delay).is_some_and(f64::is_nan) {
        return Err(Raised::from_err(py, PyValueError::new_err("Invalid delay: NaN (not a number)")));
    }
    let timers = Timers::of_running(py)?;
    let future = timers.create_future(py)?;
    let result = this.argument.get().unwrap_or_else(|| Obj::none(py));
    let timer = match future::completion(&future) {
        Some(complete) => timers.call_later(py, &delay, complete, &[&result])?,
        None => {
            let complete = imports::raw(py, imports::set_result_unless_cancelled(py))?;
            timers.call_later(py, &delay, complete.into(), &[&future, &result])?
        }
    };
    this.waiter.set(Some(timer));
    Ok(Turn::Await(future))
}

#[inline]
fn resume(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    match this.waiter.take() {
        Some(timer) => cancel_handle(py, &timer)?,
        // It gave way.
        None => {
            if outcome.is_ok() {
                return Ok(Turn::Return(this.argument.take().unwrap_or_else(|| Obj::none(py))));
            }
        }
    }
    match outcome {
        Ok(result) => Ok(Turn::Return(result)),
        Err(error) => Err(exception::restore(py, error)),
    }
}

pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DOC: &str =
        "Wait for delay seconds and return result.\n\nWith a delay of 0 everything that is ready runs first.";
    function::add(py, module, "hayase.tasks", "sleep", "(delay, result=None)", DOC, sleep)
}
