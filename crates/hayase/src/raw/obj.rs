//! [`Obj`]: one owned reference to a Python object, counted without PyO3's bookkeeping.
//!
//! `Py<T>` asks a thread-local whether the thread is attached before it counts down, and defers the count if PyO3 has
//! not been told: in a slot that the interpreter calls directly that delays destructors. `Obj` counts at once; it is
//! neither `Send` nor `Sync` and lives only where the GIL is held.

use std::marker::PhantomData;
use std::ptr::NonNull;

use pyo3::prelude::*;
use pyo3::{Borrowed, ffi};

use super::{Raised, RawResult};

#[repr(transparent)]
pub(crate) struct Obj(NonNull<ffi::PyObject>, PhantomData<*mut ()>);

impl Obj {
    /// Takes over a new reference that a C function returned; null means an exception is set.
    ///
    /// # Safety
    /// `ptr` is null with an exception set, or a reference that the caller owns.
    #[inline]
    pub(crate) unsafe fn from_owned(ptr: *mut ffi::PyObject) -> RawResult<Obj> {
        NonNull::new(ptr).map(|p| Obj(p, PhantomData)).ok_or(Raised)
    }

    /// As [`Obj::from_owned`] where null is no error.
    ///
    /// # Safety
    /// `ptr` is null or a reference that the caller owns.
    #[inline]
    pub(crate) unsafe fn from_owned_opt(ptr: *mut ffi::PyObject) -> Option<Obj> {
        NonNull::new(ptr).map(|p| Obj(p, PhantomData))
    }

    /// Counts up a borrowed, non-null pointer.
    ///
    /// # Safety
    /// `ptr` points to a live object.
    #[inline]
    pub(crate) unsafe fn from_borrowed(ptr: *mut ffi::PyObject) -> Obj {
        debug_assert!(!ptr.is_null());
        // SAFETY: the caller vouches for a live object, so it is non-null and can be counted.
        unsafe {
            ffi::Py_INCREF(ptr);
            Obj(NonNull::new_unchecked(ptr), PhantomData)
        }
    }

    /// A view of a borrowed pointer, for the length of a call.
    ///
    /// # Safety
    /// `ptr` points to a live object.
    #[inline]
    pub(crate) unsafe fn view(ptr: &*mut ffi::PyObject) -> &Obj {
        debug_assert!(!ptr.is_null());
        // SAFETY: `Obj` is transparent over a non-null pointer; the view is not counted and ends before the caller's
        // reference does.
        unsafe { &*std::ptr::from_ref(ptr).cast::<Obj>() }
    }

    #[inline]
    pub(crate) fn none(_py: Python<'_>) -> Obj {
        // SAFETY: None is always alive.
        unsafe { Obj::from_borrowed(ffi::Py_None()) }
    }

    /// A value for Python: the object, or None.
    #[inline]
    pub(crate) fn or_none(py: Python<'_>, value: Option<Obj>) -> Py<PyAny> {
        value.map_or_else(|| py.None(), |value| value.into_bound(py).unbind())
    }

    #[inline]
    pub(crate) fn bool(_py: Python<'_>, value: bool) -> Obj {
        // SAFETY: True and False are always alive.
        unsafe { Obj::from_borrowed(if value { ffi::Py_True() } else { ffi::Py_False() }) }
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut ffi::PyObject {
        self.0.as_ptr()
    }

    /// Gives the reference away.
    #[inline]
    pub(crate) fn into_ptr(self) -> *mut ffi::PyObject {
        let ptr = self.0.as_ptr();
        std::mem::forget(self);
        ptr
    }

    #[inline]
    pub(crate) fn is(&self, other: *mut ffi::PyObject) -> bool {
        self.0.as_ptr() == other
    }

    #[inline]
    pub(crate) fn is_none(&self) -> bool {
        // SAFETY: compares addresses.
        self.0.as_ptr() == unsafe { ffi::Py_None() }
    }

    #[inline]
    pub(crate) fn type_ptr(&self) -> *mut ffi::PyTypeObject {
        // SAFETY: the object is alive as long as `self`.
        unsafe { ffi::Py_TYPE(self.0.as_ptr()) }
    }

    /// The same object as PyO3 sees it, without counting.
    #[inline]
    pub(crate) fn borrow<'a, 'py>(&'a self, py: Python<'py>) -> Borrowed<'a, 'py, PyAny> {
        // SAFETY: the object is alive as long as `self`.
        unsafe { Borrowed::from_ptr(py, self.0.as_ptr()) }
    }

    /// The same object for PyO3, handing over the reference.
    #[inline]
    pub(crate) fn into_bound(self, py: Python<'_>) -> Bound<'_, PyAny> {
        // SAFETY: `into_ptr` gives an owned reference.
        unsafe { Bound::from_owned_ptr(py, self.into_ptr()) }
    }

    #[inline]
    pub(crate) fn from_bound<T>(bound: Bound<'_, T>) -> Obj {
        // SAFETY: `into_ptr` gives an owned, non-null reference.
        unsafe { Obj(NonNull::new_unchecked(bound.into_ptr()), PhantomData) }
    }

    #[inline]
    pub(crate) fn from_any(bound: &Bound<'_, PyAny>) -> Obj {
        // SAFETY: the object is alive as long as `bound`.
        unsafe { Obj::from_borrowed(bound.as_ptr()) }
    }
}

impl Clone for Obj {
    #[inline]
    fn clone(&self) -> Obj {
        // SAFETY: alive as long as `self`.
        unsafe { Obj::from_borrowed(self.0.as_ptr()) }
    }
}

impl Drop for Obj {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `Obj` owns one reference, and lives only where the GIL is held.
        unsafe { ffi::Py_DECREF(self.0.as_ptr()) }
    }
}
