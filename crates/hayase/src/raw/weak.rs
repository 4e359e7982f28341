//! Weak references.

use pyo3::{Python, ffi};

use super::RawResult;
use super::obj::Obj;

/// `weakref.ref(object)`; a `TypeError` if its class has none.
pub(crate) fn make(_py: Python<'_>, object: &Obj) -> RawResult<Obj> {
    // SAFETY: alive; without a callback. The result is new or null with an exception.
    unsafe { Obj::from_owned(ffi::PyWeakref_NewRef(object.as_ptr(), std::ptr::null_mut())) }
}

/// What `reference` refers to, if it lives. Anything but a weak reference refers to nothing.
#[inline]
pub(crate) fn referent(_py: Python<'_>, reference: &Obj) -> Option<Obj> {
    let mut object = std::ptr::null_mut();
    // SAFETY: alive, and a weak reference as checked before; then the call cannot fail, and gives a new reference or null.
    // (PyO3's own version of it, for the interpreters that lack one. 3.15 has no other.)
    unsafe {
        if ffi::PyWeakref_CheckRefExact(reference.as_ptr()) == 0 {
            return None;
        }
        ffi::compat::PyWeakref_GetRef(reference.as_ptr(), &mut object);
        Obj::from_owned_opt(object)
    }
}
