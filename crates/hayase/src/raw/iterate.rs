//! Driving awaitables by hand: `send`, `throw`, and the iterator behind `await`.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;

use super::call::{self, Name};
use super::obj::Obj;
use super::{Raised, RawResult};

static AWAIT: Name = Name::new(c"__await__");

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
    // SAFETY: alive; the slots of a type stay where they are.
    let is_awaitable = unsafe {
        let slots = (*object.type_ptr()).tp_as_async;
        !slots.is_null() && (*slots).am_await.is_some()
    };
    if is_awaitable {
        return call::method(py, object, &AWAIT, &[]);
    }
    if super::coroutine::is_generator(object) && is_marked_generator(py, object)? {
        return Ok(object.clone());
    }
    // SAFETY: a type's name is a string that lives as long as the type, which its instance keeps alive.
    let class = unsafe { std::ffi::CStr::from_ptr((*object.type_ptr()).tp_name) }.to_string_lossy();
    Err(Raised::from_err(py, PyTypeError::new_err(super::compat::not_awaitable(&class))))
}

/// Whether `types.coroutine` made the generator an awaitable.
#[cold]
fn is_marked_generator(py: Python<'_>, generator: &Obj) -> RawResult<bool> {
    const CO_ITERABLE_COROUTINE: u32 = 0x100;
    let flags = || -> PyResult<u32> { generator.borrow(py).getattr("gi_code")?.getattr("co_flags")?.extract() };
    Ok(super::to_raw(py, flags())? & CO_ITERABLE_COROUTINE != 0)
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

/// `iterator.throw(error)`
pub(crate) fn throw(py: Python<'_>, iterator: &Obj, error: Obj) -> Result<Step, Obj> {
    match super::coroutine::throw(py, iterator, &error) {
        super::coroutine::Sent::Yielded(value) => Ok(Step::Yielded(value)),
        super::coroutine::Sent::Returned(value) => Ok(Step::Returned(value)),
        super::coroutine::Sent::Raised(raised) => Err(super::exception::fetch(py, raised)),
    }
}
