//! The one mapping from errors of the system to Python's exceptions.

use std::io;

use pyo3::PyErr;
use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PySystemExit};
use pyo3::prelude::*;

/// `OSError(errno, strerror)`, which makes itself the subclass that belongs to the number (`ConnectionResetError`, ...).
pub(crate) fn os_error(py: Python<'_>, error: &io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(errno) => from_errno(py, errno),
        None => PyOSError::new_err(error.to_string()),
    }
}

pub(crate) fn from_errno(py: Python<'_>, errno: i32) -> PyErr {
    match py.import("os").and_then(|os| os.call_method1("strerror", (errno,))) {
        Ok(text) => PyOSError::new_err((errno, text.unbind())),
        Err(err) => err,
    }
}

/// `KeyboardInterrupt` and `SystemExit` leave `run_forever` at once; everything else is reported.
pub(crate) fn leaves_the_loop(py: Python<'_>, err: &PyErr) -> bool {
    err.is_instance_of::<PyKeyboardInterrupt>(py) || err.is_instance_of::<PySystemExit>(py)
}
