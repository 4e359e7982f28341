//! What differs between Python versions, and names that PyO3's ffi lacks.

use pyo3::{PyErr, Python, ffi};

unsafe extern "C" {
    /// Gives a dead object (from a freelist) its first reference again. Exported by every supported version.
    pub(crate) fn _Py_NewReference(object: *mut ffi::PyObject);
    /// Shortens a `bytes` that nobody else has seen yet. Exported by every supported version.
    pub(crate) fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> std::ffi::c_int;
}

/// Takes the exception out of the thread state, if one is set.
pub(crate) fn take_raised(py: Python<'_>) -> Option<PyErr> {
    PyErr::take(py)
}

/// Puts back what [`take_raised`] took.
pub(crate) fn restore_raised(py: Python<'_>, pending: Option<PyErr>) {
    if let Some(err) = pending {
        err.restore(py);
    }
}

/// `format_helpers._format_callback_source` has a keyword `debug`.
pub(crate) const CALLBACK_SOURCE_HAS_DEBUG: bool = cfg!(Py_3_13);

/// `loop.create_task` hands every keyword on (to the task, or to the task factory) instead of knowing two.
pub(crate) const CREATE_TASK_PASSES_KEYWORDS: bool = cfg!(Py_3_14);

/// The exception handler runs in the context of the task, future or handle that failed.
pub(crate) const EXCEPTION_HANDLER_RUNS_IN_CONTEXT: bool = cfg!(Py_3_12);
