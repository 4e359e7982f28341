//! What PyO3's classes lack for the collector: making instances that have a dictionary while it waits, and finalizers.
//!
//! CPython 3.11 makes the dictionary of an instance together with the instance, when that is known to the collector already
//! and its fields are not yet written. A collection then would follow fields that are not there.
//!
//! A destructor of Rust runs when the memory is freed. Of garbage in a cycle, the collector has emptied a part by then, in
//! any order: a transport would close a socket that has lost its attributes. Its finalizer runs before.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::{PyClass, PyClassInitializer};

use super::{compat, entry_infallible};

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

/// A class whose instances the collector ends before it takes garbage apart.
pub(crate) trait Finalized: PyClass<Frozen = True> + Sync {
    /// Gives back what the destructor would, which comes later, finds that done, and has nothing left to do. An instance
    /// that is freed without the collector has only the destructor.
    fn finalize(&self, py: Python<'_>);
}

/// Once, at import, before there are instances.
pub(crate) fn add_finalizer<C: Finalized>(py: Python<'_>) {
    let class = py.get_type::<C>().as_type_ptr();
    // SAFETY: a heap type of ours that nobody else has seen yet, without subclasses; the function lives for ever.
    unsafe { (*class).tp_finalize = Some(finalize::<C>) };
}

/// `tp_finalize`
unsafe extern "C" fn finalize<C: Finalized>(this: *mut ffi::PyObject) {
    entry_infallible((), |py| {
        // SAFETY: the collector calls it for live instances of `C`, whose fields are written.
        let this = unsafe { Bound::from_borrowed_ptr(py, this).cast_into_unchecked::<C>() };
        this.get().finalize(py);
    });
}
