//! `contextvars.Context`: copy, enter, leave.

use pyo3::{Python, ffi};

use super::obj::Obj;
use super::{Raised, RawResult};

/// A copy of the current context, as `contextvars.copy_context()`.
#[inline]
pub(crate) fn copy_current(_py: Python<'_>) -> RawResult<Obj> {
    // SAFETY: returns a new reference or null with an exception set.
    unsafe { Obj::from_owned(ffi::PyContext_CopyCurrent()) }
}

/// A copy of `context`.
#[inline]
pub(crate) fn copy(_py: Python<'_>, context: &Obj) -> RawResult<Obj> {
    // SAFETY: alive; a wrong type is answered with an exception.
    unsafe { Obj::from_owned(ffi::PyContext_Copy(context.as_ptr())) }
}

/// Whether `object` is a `contextvars.Context`.
pub(crate) fn is_context(object: &Obj) -> bool {
    // SAFETY: alive.
    unsafe { ffi::PyContext_CheckExact(object.as_ptr()) != 0 }
}

/// Runs `body` inside `context`. Fails (and runs nothing) if the context is already entered or is no context.
#[inline]
pub(crate) fn run_in<R>(_py: Python<'_>, context: &Obj, body: impl FnOnce() -> R) -> RawResult<R> {
    enter(context)?;
    let _exit = Exit(context);
    Ok(body())
}

/// Makes `context` the current one. Fails if it is entered already or is no context. [`exit`] ends it.
#[inline]
pub(super) fn enter(context: &Obj) -> RawResult<()> {
    // SAFETY: `context` is alive; a wrong type is answered with an exception.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } < 0 {
        return Err(Raised);
    }
    Ok(())
}

/// Ends what [`enter`] began.
#[inline]
pub(super) fn exit(context: &Obj) {
    // SAFETY: alive; one that is not the current one is answered with an exception. An exception that is set already
    // survives: leaving does not look at it.
    if unsafe { ffi::PyContext_Exit(context.as_ptr()) } < 0 {
        // Only possible if Python code left the context unbalanced: nothing can be repaired here, but it is told.
        // SAFETY: an exception is set.
        unsafe { ffi::PyErr_WriteUnraisable(context.as_ptr()) };
    }
}

struct Exit<'a>(&'a Obj);

impl Drop for Exit<'_> {
    fn drop(&mut self) {
        exit(self.0);
    }
}
