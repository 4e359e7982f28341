//! `sys.exception()` in Python code that native code calls while it deals with an exception.
//!
//! asyncio calls exception handlers and the logger inside `except` blocks, so these may use `sys.exception()`,
//! `traceback.print_exc()`, `logging.exception()`, and what they raise gets a `__context__`. Here it is made so.

use pyo3::exceptions::PyBaseException;
use pyo3::ffi;
use pyo3::prelude::*;

use super::obj::Obj;

/// Runs `body` as if inside `except` for `exception`.
pub(crate) fn while_handling<R>(exception: &Bound<'_, PyBaseException>, body: impl FnOnce() -> R) -> R {
    // SAFETY: attached, as the token in `exception` shows; the first returns a new reference or null, the second
    // keeps a reference of its own.
    let before = unsafe {
        let before = Obj::from_owned_opt(ffi::PyErr_GetHandledException());
        ffi::PyErr_SetHandledException(exception.as_ptr());
        before
    };
    let _restore = Restore(before);
    body()
}

struct Restore(Option<Obj>);

impl Drop for Restore {
    fn drop(&mut self) {
        let before = self.0.as_ref().map_or(std::ptr::null_mut(), Obj::as_ptr);
        // SAFETY: attached, as in `while_handling`; null means that nothing is being handled.
        unsafe { ffi::PyErr_SetHandledException(before) };
    }
}
