//! Driving awaitables by hand: `send`, `throw`, and the iterator behind `await`.

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::{PyErr, ffi};

use super::call::{self, Name};
use super::obj::Obj;
use super::{Raised, RawResult};

static AWAIT: Name = Name::new(c"__await__");
static THROW: Name = Name::new(c"throw");

pub(crate) enum Step {
    Yielded(Obj),
    Returned(Obj),
}

/// The iterator that `await object` would drive.
pub(crate) fn await_iterator(py: Python<'_>, object: &Obj) -> RawResult<Obj> {
    // SAFETY: alive.
    if unsafe { ffi::PyCoro_CheckExact(object.as_ptr()) } != 0 {
        return Ok(object.clone());
    }
    call::method(py, object, &AWAIT, &[])
}

pub(crate) fn send(_py: Python<'_>, iterator: &Obj, value: &Obj) -> RawResult<Step> {
    let mut result = std::ptr::null_mut();
    // SAFETY: both are alive; the result is a new reference unless an error is set.
    unsafe {
        match ffi::PyIter_Send(iterator.as_ptr(), value.as_ptr(), &mut result) {
            ffi::PySendResult::PYGEN_NEXT => Obj::from_owned(result).map(Step::Yielded),
            ffi::PySendResult::PYGEN_RETURN => Obj::from_owned(result).map(Step::Returned),
            ffi::PySendResult::PYGEN_ERROR => Err(Raised),
        }
    }
}

/// As [`throw`], with exceptions as objects.
pub(crate) fn throw_instance(py: Python<'_>, iterator: &Obj, error: Obj) -> Result<Step, Obj> {
    match super::coroutine::throw(py, iterator, &error) {
        super::coroutine::Sent::Yielded(value) => Ok(Step::Yielded(value)),
        super::coroutine::Sent::Returned(value) => Ok(Step::Returned(value)),
        super::coroutine::Sent::Raised(raised) => Err(super::exception::fetch(py, raised)),
    }
}

pub(crate) fn throw(py: Python<'_>, iterator: &Obj, err: PyErr) -> PyResult<Step> {
    let value = Obj::from_bound(err.into_value(py).into_bound(py));
    match call::method(py, iterator, &THROW, &[&value]) {
        Ok(yielded) => Ok(Step::Yielded(yielded)),
        Err(raised) => {
            let err = raised.fetch(py);
            if err.is_instance_of::<PyStopIteration>(py) {
                let value = err.value(py).getattr("value")?;
                return Ok(Step::Returned(Obj::from_bound(value)));
            }
            Err(err)
        }
    }
}
