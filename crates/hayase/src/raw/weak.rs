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
    // SAFETY: alive; the type is checked before the content is asked for. With the GIL held, what is borrowed from a
    // weak reference lives until it is counted up. A dead one says None.
    unsafe {
        if ffi::PyWeakref_CheckRefExact(reference.as_ptr()) == 0 {
            return None;
        }
        let object = Obj::from_borrowed(compat_get(reference));
        (!object.is_none()).then_some(object)
    }
}

/// # Safety
/// `reference` is a weak reference.
#[inline]
#[allow(deprecated)] // 3.13's replacement returns a new reference; the old one is there on every version
unsafe fn compat_get(reference: &Obj) -> *mut ffi::PyObject {
    // SAFETY: the caller's promise.
    unsafe { ffi::PyWeakref_GetObject(reference.as_ptr()) }
}
