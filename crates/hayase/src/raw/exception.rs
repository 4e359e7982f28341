//! Exceptions as objects: fetch, raise, compare, chain; without a `PyErr` in between.

use std::mem::ManuallyDrop;

use pyo3::{PyErr, Python, ffi};

use super::compat;
use super::obj::Obj;
use super::{Raised, RawResult};

/// Takes the exception (an instance, with its traceback) out of the thread state.
pub(crate) fn fetch(_py: Python<'_>, _raised: Raised) -> Obj {
    compat::take_exception().expect("an exception is set")
}

/// The instance that `err` stands for. PyO3's own way (`into_value`) lets the GIL go where the exception was not made yet,
/// which is not for the middle of a step, and panics while the interpreter ends.
pub(crate) fn instance(py: Python<'_>, err: PyErr) -> Obj {
    err.restore(py);
    compat::take_exception().expect("an exception is set")
}

/// Puts `exception` into the thread state as it is.
pub(crate) fn restore(_py: Python<'_>, exception: Obj) -> Raised {
    compat::put_exception(exception);
    Raised
}

/// Raises `exception` as a `raise` statement does: the one being handled becomes its context, a class is called, and what
/// is no exception (a program may have put anything there) is a TypeError.
pub(crate) fn raise(py: Python<'_>, exception: &Obj) -> Raised {
    if !is_instance(exception) {
        return raise_by_class(py, exception);
    }
    // SAFETY: an exception instance and its class, both alive.
    unsafe { ffi::PyErr_SetObject(exception.type_ptr().cast(), exception.as_ptr()) };
    Raised
}

#[cold]
fn raise_by_class(py: Python<'_>, class: &Obj) -> Raised {
    match is_class(class).then(|| super::call::call0(py, class)) {
        Some(Ok(exception)) if is_instance(&exception) => raise(py, &exception),
        Some(Err(raised)) => raised,
        Some(Ok(_)) | None => {
            Raised::from_err(py, pyo3::exceptions::PyTypeError::new_err("exceptions must derive from BaseException"))
        }
    }
}

/// `StopIteration(value)`, whatever `value` is, as a generator that returns raises it.
pub(crate) fn raise_stop_iteration(py: Python<'_>, value: &Obj) -> Raised {
    // SAFETY: the class is alive for ever. Calling it is right for every value, where `PyErr_SetObject` would take a
    // tuple apart and an exception as the instance itself.
    unsafe {
        let class = ManuallyDrop::new(Obj::from_owned_opt(ffi::PyExc_StopIteration));
        let class = class.as_ref().expect("StopIteration exists");
        match super::call::call1(py, class, value) {
            Ok(exception) => restore(py, exception),
            Err(raised) => raised,
        }
    }
}

/// As [`raise_stop_iteration`] for an interpreter that only wants the value back.
#[inline]
pub(crate) fn return_value(py: Python<'_>, value: Obj) -> Raised {
    super::stop_iteration::raise(py, value)
}

/// `isinstance(exception, class)` for exception classes; no Python code runs.
pub(crate) fn matches(_py: Python<'_>, exception: &Obj, class: *mut ffi::PyObject) -> bool {
    // SAFETY: both alive.
    unsafe { ffi::PyErr_GivenExceptionMatches(exception.as_ptr(), class) != 0 }
}

pub(crate) fn is_interrupt(py: Python<'_>, exception: &Obj) -> bool {
    // SAFETY: the two classes live for ever.
    unsafe { matches(py, exception, ffi::PyExc_KeyboardInterrupt) || matches(py, exception, ffi::PyExc_SystemExit) }
}

pub(crate) fn is_stop_iteration(py: Python<'_>, exception: &Obj) -> bool {
    // SAFETY: the class lives for ever.
    unsafe { matches(py, exception, ffi::PyExc_StopIteration) }
}

pub(crate) fn is_exact_stop_iteration(exception: &Obj) -> bool {
    // SAFETY: compares addresses.
    exception.type_ptr().cast() == unsafe { ffi::PyExc_StopIteration }
}

/// Whether `object` is a class of exceptions.
pub(crate) fn is_class(object: &Obj) -> bool {
    // SAFETY: alive.
    unsafe { ffi::PyExceptionClass_Check(object.as_ptr()) != 0 }
}

/// Whether `object` is an exception.
pub(crate) fn is_instance(object: &Obj) -> bool {
    // SAFETY: alive.
    unsafe { ffi::PyExceptionInstance_Check(object.as_ptr()) != 0 }
}

pub(crate) fn traceback(exception: &Obj) -> Option<Obj> {
    // SAFETY: an exception instance; a new reference or null.
    unsafe { Obj::from_owned_opt(ffi::PyException_GetTraceback(exception.as_ptr())) }
}

pub(crate) fn set_traceback(py: Python<'_>, exception: &Obj, traceback: Option<&Obj>) -> RawResult<()> {
    let none = Obj::none(py);
    // SAFETY: an exception instance, and a traceback of its own or None.
    match unsafe { ffi::PyException_SetTraceback(exception.as_ptr(), traceback.unwrap_or(&none).as_ptr()) } {
        0 => Ok(()),
        _ => Err(Raised),
    }
}

/// `exception.__cause__ = exception.__context__ = cause`
pub(crate) fn chain(exception: &Obj, cause: &Obj) {
    // SAFETY: both are exception instances; each call takes one reference to the cause.
    unsafe {
        ffi::PyException_SetCause(exception.as_ptr(), cause.clone().into_ptr());
        ffi::PyException_SetContext(exception.as_ptr(), cause.clone().into_ptr());
    }
}

/// `raise exception from None`, before it is raised.
pub(crate) fn from_none(exception: &Obj) {
    // SAFETY: an exception instance; without a cause it only sets `__suppress_context__`.
    unsafe { ffi::PyException_SetCause(exception.as_ptr(), std::ptr::null_mut()) };
}

/// For an error that has nowhere to go: `sys.unraisablehook`.
pub(crate) fn write_unraisable(_py: Python<'_>, _raised: Raised, about: &Obj) {
    // SAFETY: an exception is set; the object is alive.
    unsafe { ffi::PyErr_WriteUnraisable(about.as_ptr()) };
}
