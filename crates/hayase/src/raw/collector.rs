//! Making instances that have a dictionary while the collector waits.
//!
//! CPython 3.11 makes the dictionary of an instance together with the instance, when that is known to the collector already
//! and its fields are not yet written. A collection then would follow fields that are not there.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::{PyClass, PyClassInitializer};

use super::compat;

/// A new instance of a class of ours with a dictionary.
pub(crate) fn instance_with_dict<'py, T: PyClass>(
    py: Python<'py>,
    value: impl Into<PyClassInitializer<T>>,
) -> PyResult<Bound<'py, T>> {
    let _waits = compat::DICT_IS_MADE_WITH_THE_INSTANCE.then(|| Waits::begin(py));
    Bound::new(py, value)
}

/// While it lives, nothing is collected on this interpreter.
struct Waits {
    was_enabled: bool,
}

impl Waits {
    fn begin(_py: Python<'_>) -> Waits {
        // SAFETY: attached, as the token proves; only a flag is changed.
        Waits { was_enabled: unsafe { ffi::PyGC_Disable() } != 0 }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if self.was_enabled {
            // SAFETY: as above; it lives in a function that has the token.
            unsafe { ffi::PyGC_Enable() };
        }
    }
}
