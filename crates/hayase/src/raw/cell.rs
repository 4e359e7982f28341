//! Interior mutability that the GIL guards.
//!
//! Objects of ours are reached from Python, so only shared references to them exist. What changes in them lives in
//! one of these cells. All of them may be shared between threads because only the thread that holds the GIL reads or
//! writes them, and none of them lets the GIL go in between: no Python code runs, and no reference is dropped, while
//! one is open. [`GilCell`] checks that and panics (an exception for the caller) instead of aliasing.

use std::cell::{Cell, UnsafeCell};

use pyo3::{Python, ffi};

use super::obj::Obj;

/// A small `Copy` value.
pub(crate) struct GilValue<T: Copy>(Cell<T>);

// SAFETY: read and written only with the GIL held (see the head); `get` and `set` are single moves.
unsafe impl<T: Copy> Sync for GilValue<T> {}
// SAFETY: as above.
unsafe impl<T: Copy> Send for GilValue<T> {}

impl<T: Copy> GilValue<T> {
    pub(crate) const fn new(value: T) -> Self {
        GilValue(Cell::new(value))
    }
    #[inline]
    pub(crate) fn get(&self) -> T {
        self.0.get()
    }
    #[inline]
    pub(crate) fn set(&self, value: T) {
        self.0.set(value);
    }
    #[inline]
    pub(crate) fn replace(&self, value: T) -> T {
        self.0.replace(value)
    }
}

/// A larger value that is opened for the length of a closure.
pub(crate) struct GilCell<T> {
    open: Cell<bool>,
    value: UnsafeCell<T>,
}

// SAFETY: opened only with the GIL held (`with` takes the token) and closed before it can be let go.
unsafe impl<T> Sync for GilCell<T> {}
// SAFETY: as above; the value moves to another thread only together with the object it lives in, under the GIL.
unsafe impl<T> Send for GilCell<T> {}

impl<T> GilCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        GilCell { open: Cell::new(false), value: UnsafeCell::new(value) }
    }

    /// Runs `f` on the value. `f` must not run Python code, which includes dropping the last reference to an object:
    /// move such references out and drop them afterwards.
    #[inline]
    pub(crate) fn with<R>(&self, _py: Python<'_>, f: impl FnOnce(&mut T) -> R) -> R {
        assert!(!self.open.replace(true), "a cell was opened twice");
        let _close = Close(&self.open);
        // SAFETY: the flag was clear, so no other reference to the value exists; it is cleared only after `f`.
        f(unsafe { &mut *self.value.get() })
    }

    /// For `tp_clear` only, which the interpreter calls with the GIL held: the value, to be dropped by the caller.
    pub(crate) fn take_to_clear(&self) -> Option<T>
    where
        T: Default,
    {
        if self.open.get() {
            return None;
        }
        // SAFETY: nobody has it open, and a move runs no Python code.
        Some(std::mem::take(unsafe { &mut *self.value.get() }))
    }

    /// For the garbage collector's traverse only, which may run inside any allocation: `None` while the cell is open.
    pub(crate) fn peek<R>(&self, f: impl FnOnce(&T) -> R) -> Option<R> {
        if self.open.get() {
            return None;
        }
        // SAFETY: nobody has it open, and `f` only visits references.
        Some(f(unsafe { &*self.value.get() }))
    }
}

struct Close<'a>(&'a Cell<bool>);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// A value that few objects have: one word, empty until it is asked for.
pub(crate) struct BoxCell<T>(Cell<Option<Box<T>>>);

// SAFETY: used only with the GIL held; every access is a move of one word.
unsafe impl<T> Sync for BoxCell<T> {}
// SAFETY: as above.
unsafe impl<T> Send for BoxCell<T> {}

impl<T: Default> BoxCell<T> {
    pub(crate) const fn empty() -> Self {
        BoxCell(Cell::new(None))
    }

    /// Runs `f` on the value, which is taken out meanwhile. `f` must not run Python code (see [`GilCell::with`]).
    pub(crate) fn with<R>(&self, _py: Python<'_>, f: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.0.take().unwrap_or_default();
        let result = f(&mut value);
        self.0.set(Some(value));
        result
    }

    /// As [`BoxCell::with`], if there is a value.
    #[inline]
    pub(crate) fn with_existing<R>(&self, _py: Python<'_>, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        let mut value = self.0.take()?;
        let result = f(&mut value);
        self.0.set(Some(value));
        Some(result)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        let value = self.0.take();
        let is_empty = value.is_none();
        self.0.set(value);
        is_empty
    }

    pub(crate) fn take(&self) -> Option<Box<T>> {
        self.0.take()
    }

    /// For the garbage collector's traverse only.
    pub(crate) fn peek(&self, f: impl FnOnce(&T)) {
        if let Some(value) = self.0.take() {
            f(&value);
            self.0.set(Some(value));
        }
    }
}

/// One optional reference to a Python object.
#[repr(transparent)]
pub(crate) struct ObjCell(UnsafeCell<Option<Obj>>);

// SAFETY: read and written only with the GIL held; every access is a single move (see `set`).
unsafe impl Sync for ObjCell {}
// SAFETY: as above.
unsafe impl Send for ObjCell {}

impl ObjCell {
    pub(crate) const fn empty() -> Self {
        ObjCell(UnsafeCell::new(None))
    }
    pub(crate) const fn new(value: Option<Obj>) -> Self {
        ObjCell(UnsafeCell::new(value))
    }
    #[inline]
    pub(crate) fn is_none(&self) -> bool {
        // SAFETY: a read of one word under the GIL.
        unsafe { (*self.0.get()).is_none() }
    }
    #[inline]
    pub(crate) fn is_some(&self) -> bool {
        !self.is_none()
    }
    /// A new reference.
    #[inline]
    pub(crate) fn get(&self) -> Option<Obj> {
        // SAFETY: as in `is_none`; cloning only counts.
        unsafe { (*self.0.get()).clone() }
    }
    /// Looks at the object without counting it; `f` must not run Python code. False for an empty cell.
    #[inline]
    pub(crate) fn with_borrowed(&self, f: impl FnOnce(&Obj) -> bool) -> bool {
        // SAFETY: as in `is_none`; nothing replaces the reference while `f`, which runs no Python code, looks at it.
        unsafe { (*self.0.get()).as_ref().is_some_and(f) }
    }
    /// The pointer, borrowed, or null.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut ffi::PyObject {
        // SAFETY: as in `is_none`.
        unsafe { (*self.0.get()).as_ref().map_or(std::ptr::null_mut(), Obj::as_ptr) }
    }
    #[inline]
    pub(crate) fn take(&self) -> Option<Obj> {
        // SAFETY: one move under the GIL.
        unsafe { (*self.0.get()).take() }
    }
    /// Stores `value`; the old reference is dropped after the new one is in place, so a destructor sees the new state.
    #[inline]
    pub(crate) fn set(&self, value: Option<Obj>) {
        drop(self.replace(value));
    }
    #[inline]
    pub(crate) fn replace(&self, value: Option<Obj>) -> Option<Obj> {
        // SAFETY: one move under the GIL.
        unsafe { std::mem::replace(&mut *self.0.get(), value) }
    }
}
