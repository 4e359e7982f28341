//! THE FENCE: every unsafe line, every raw C-API name and every difference between Python versions.
//!
//! What lies above (`interop`, `tasks`, `runtime`, ...) is safe Rust and sees only the types of this folder:
//! [`obj::Obj`] (one owned reference), [`cell`] (interior mutability that the GIL guards), [`call`] (vectorcalls),
//! [`typespec`] (heap types with Rust data in them) and the hot types themselves.
//!
//! Must stay true
//! - Every function here runs with the GIL held; free-threaded interpreters are refused by the module.
//! - An error is either a `PyErr` or [`Raised`]: an exception that is already set in the thread state. A function
//!   that returns `Err(Raised)` has set it; a function that returns `Ok` has left none behind.
//! - No panic crosses into C: every slot and method goes through [`entry`].

pub(crate) mod asyncio_wakeup;
pub(crate) mod attributes;
pub(crate) mod bound_function;
mod bound_method;
pub(crate) mod bytes;
pub(crate) mod call;
pub(crate) mod cell;
pub(crate) mod collector;
pub(crate) mod compat;
pub(crate) mod context;
pub(crate) mod coroutine;
pub(crate) mod detached;
pub(crate) mod dict;
pub(crate) mod exception;
pub(crate) mod fastcall;
pub(crate) mod field_ref;
pub(crate) mod fields;
pub(crate) mod function;
pub(crate) mod growing;
pub(crate) mod handled;
pub(crate) mod instance;
pub(crate) mod iterate;
pub(crate) mod kept_context;
pub(crate) mod known_method;
pub(crate) mod libssl;
pub(crate) mod live;
pub(crate) mod loop_ref;
pub(crate) mod members;
pub(crate) mod method;
pub(crate) mod mirror;
pub(crate) mod obj;
pub(crate) mod public_class;
pub(crate) mod stop_iteration;
pub(crate) mod table;
pub(crate) mod type_version;
pub(crate) mod typespec;
pub(crate) mod weak;

use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::PySystemError;
use pyo3::prelude::*;
use pyo3::{PyErr, ffi};

use obj::Obj;

/// An exception is set in the interpreter's thread state; the value says nothing more.
#[derive(Debug)]
pub(crate) struct Raised;

impl Raised {
    /// Takes the exception out of the thread state.
    pub(crate) fn fetch(self, py: Python<'_>) -> PyErr {
        PyErr::fetch(py)
    }

    /// Puts `err` into the thread state.
    pub(crate) fn from_err(py: Python<'_>, err: PyErr) -> Raised {
        err.restore(py);
        Raised
    }
}

pub(crate) type RawResult<T> = Result<T, Raised>;

/// `PyResult` from a raw result.
pub(crate) fn to_py<T>(py: Python<'_>, result: RawResult<T>) -> PyResult<T> {
    result.map_err(|raised| raised.fetch(py))
}

/// Raw result from a `PyResult`.
pub(crate) fn to_raw<T>(py: Python<'_>, result: PyResult<T>) -> RawResult<T> {
    result.map_err(|err| Raised::from_err(py, err))
}

/// The body of a slot or method. While the interpreter ends, PyO3 is told first that this thread is attached: it asks the
/// interpreter otherwise whenever it makes an exception, and panics when that says that it is no longer initialized.
#[inline(always)]
fn enter<R>(body: impl FnOnce(Python<'_>) -> R) -> R {
    if detached::is_exiting() {
        return enter_told(body);
    }
    // SAFETY: the interpreter calls slots and methods with the GIL held and an attached thread state.
    body(unsafe { Python::assume_attached() })
}

#[cold]
fn enter_told<R>(body: impl FnOnce(Python<'_>) -> R) -> R {
    // SAFETY: as in `enter`: the thread is attached, so attaching it once more only counts.
    unsafe { Python::attach_unchecked(body) }
}

/// Runs the body of a slot or method that returns an object: a panic becomes a `SystemError`, never an abort.
pub(crate) fn entry(body: impl FnOnce(Python<'_>) -> RawResult<Obj>) -> *mut ffi::PyObject {
    match catch_unwind(AssertUnwindSafe(|| enter(body))) {
        Ok(Ok(value)) => value.into_ptr(),
        Ok(Err(Raised)) => std::ptr::null_mut(),
        Err(payload) => {
            enter(|py| panicked(py, payload));
            std::ptr::null_mut()
        }
    }
}

/// As [`entry`], for slots that return 0 or -1.
pub(crate) fn entry_int(body: impl FnOnce(Python<'_>) -> RawResult<std::ffi::c_int>) -> std::ffi::c_int {
    match catch_unwind(AssertUnwindSafe(|| enter(body))) {
        Ok(Ok(value)) => value,
        Ok(Err(Raised)) => -1,
        Err(payload) => {
            enter(|py| panicked(py, payload));
            -1
        }
    }
}

/// As [`entry`], for `tp_hash`.
pub(crate) fn entry_hash(body: impl FnOnce(Python<'_>) -> RawResult<isize>) -> isize {
    match catch_unwind(AssertUnwindSafe(|| enter(body))) {
        Ok(Ok(value)) => value,
        Ok(Err(Raised)) => -1,
        Err(payload) => {
            enter(|py| panicked(py, payload));
            -1
        }
    }
}

/// As [`entry`], for slots that cannot fail (finalize, clear, dealloc): after a panic there the default is returned.
pub(crate) fn entry_infallible<R>(default: R, body: impl FnOnce(Python<'_>) -> R) -> R {
    catch_unwind(AssertUnwindSafe(|| enter(body))).unwrap_or(default)
}

/// As [`entry_infallible`], for `tp_traverse`, which visits and does nothing else; PyO3 is told nothing, because it would
/// use the occasion to drop references.
pub(crate) fn entry_traverse(body: impl FnOnce() -> std::ffi::c_int) -> std::ffi::c_int {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(0)
}

/// Runs a body that must be cleaned up after even if it panics: the panic becomes a `SystemError`.
pub(crate) fn no_panic<T>(py: Python<'_>, body: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result,
        Err(payload) => {
            panicked(py, payload);
            Err(PyErr::fetch(py))
        }
    }
}

fn panicked(py: Python<'_>, payload: Box<dyn std::any::Any + Send>) {
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("unknown panic");
    PySystemError::new_err(format!("hayase has a bug, please report it: {text}")).restore(py);
}
