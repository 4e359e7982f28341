//! One step of a coroutine, generator or anything that looks like one.

use pyo3::{Python, ffi};

use super::call::{self, Name};
use super::obj::Obj;
use super::{Raised, exception};

static THROW: Name = Name::new(c"throw");
static VALUE: Name = Name::new(c"value");

pub(crate) enum Sent {
    Yielded(Obj),
    Returned(Obj),
    Raised(Raised),
}

/// `coro.send(None)`
#[inline]
pub(crate) fn send_none(_py: Python<'_>, coro: &Obj) -> Sent {
    let mut result = std::ptr::null_mut();
    // SAFETY: both objects are alive; on the first two answers `result` is a new reference.
    unsafe {
        match ffi::PyIter_Send(coro.as_ptr(), ffi::Py_None(), &mut result) {
            ffi::PySendResult::PYGEN_NEXT => Obj::from_owned(result).map_or_else(Sent::Raised, Sent::Yielded),
            ffi::PySendResult::PYGEN_RETURN => Obj::from_owned(result).map_or_else(Sent::Raised, Sent::Returned),
            ffi::PySendResult::PYGEN_ERROR => Sent::Raised(Raised),
        }
    }
}

/// `coro.throw(exception)`
pub(crate) fn throw(py: Python<'_>, coro: &Obj, exception: &Obj) -> Sent {
    match call::method(py, coro, &THROW, &[exception]) {
        Ok(value) => Sent::Yielded(value),
        Err(raised) => {
            let error = exception::fetch(py, raised);
            if !exception::is_stop_iteration(py, &error) {
                return Sent::Raised(exception::restore(py, error));
            }
            call::getattr(py, &error, &VALUE).map_or_else(Sent::Raised, Sent::Returned)
        }
    }
}

/// Whether this is the coroutine of an `async def`.
#[inline]
pub(crate) fn is_native(object: &Obj) -> bool {
    // SAFETY: alive.
    unsafe { ffi::PyCoro_CheckExact(object.as_ptr()) != 0 }
}

/// Whether this is a generator.
pub(crate) fn is_generator(object: &Obj) -> bool {
    // SAFETY: alive.
    unsafe { ffi::PyGen_CheckExact(object.as_ptr()) != 0 }
}
