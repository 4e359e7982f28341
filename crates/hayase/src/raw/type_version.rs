//! Whether a class is still what it was.
//!
//! The interpreter numbers the states of its classes for its own caches: who changes a class or one of its bases takes the number
//! away, and no later state gets the same one.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::obj::Obj;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version(std::num::NonZeroU32);

impl Version {
    /// For who keeps it in an atomic. 0 is nobody's.
    #[inline]
    pub(crate) fn number(self) -> u32 {
        self.0.get()
    }
}

/// The state of `class` now; `None` if it has no number, because nobody looked anything up in it since it changed.
pub(crate) fn of(class: &Bound<'_, PyType>) -> Option<Version> {
    version(class.as_type_ptr())
}

/// The state of the class of `object`.
#[inline]
pub(crate) fn of_object(object: &Obj) -> Option<Version> {
    version(object.type_ptr())
}

#[inline]
fn version(class: *mut ffi::PyTypeObject) -> Option<Version> {
    // SAFETY: the class of a live object, or one that the caller holds; the field is read with the GIL held.
    std::num::NonZeroU32::new(unsafe { (*class).tp_version_tag }).map(Version)
}
