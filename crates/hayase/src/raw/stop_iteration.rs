//! The `StopIteration` that carries a value out of an awaitable up to Python 3.14: a private subclass with a freelist.
//!
//! Every `await` that gives a value makes one and destroys it at once. Calling the class costs 112 ns, filling an
//! instance by hand 58, this about 30 (CPython 3.13). It is seen only by who calls `next()` on the iterator behind an
//! `await`; who calls `send()` gets a `StopIteration` proper ([`super::exception::raise_stop_iteration`]).
//!
//! Must stay true
//! - An instance in the freelist is empty, untracked, and was never finalized.

use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::{Python, ffi};

use super::cell::GilCell;
use super::obj::Obj;
use super::typespec::TypeBuilder;
use super::{Raised, RawResult, compat, entry_infallible};

static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(std::ptr::null_mut());
static FREE: GilCell<Vec<*mut ffi::PyObject>> = GilCell::new(Vec::new());

/// Awaits nest, and each level has its own only while it is handed up.
const FREELIST: usize = 16;

fn base() -> *mut ffi::PyTypeObject {
    // SAFETY: the class is there from the start and for ever.
    unsafe { ffi::PyExc_StopIteration.cast() }
}

/// Makes the class; once, at import.
pub(crate) fn init() -> RawResult<()> {
    // SAFETY: a ready type.
    let size = unsafe { (*base()).tp_basicsize } as usize;
    let flags = ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_HAVE_GC | ffi::Py_TPFLAGS_IMMUTABLETYPE;
    let class = TypeBuilder::new(c"hayase._core.StopIteration", size, flags)
        .slot(ffi::Py_tp_dealloc, dealloc as *mut _)
        .slot(ffi::Py_tp_traverse, traverse as *mut _)
        .build(base())?;
    CLASS.store(class.into_ptr().cast(), Ordering::Relaxed);
    Ok(())
}

/// Raises one with `value`.
#[inline]
pub(crate) fn raise(py: Python<'_>, value: Obj) -> Raised {
    let class = CLASS.load(Ordering::Relaxed);
    // SAFETY: an instance is either fresh from the class's own allocation, zeroed but for its head, or from the freelist,
    // where it is just as empty. All that an exception needs besides is `args`, which must not be null; `value` is the
    // field that `await` reads.
    unsafe {
        let this = match FREE.with(py, Vec::pop) {
            Some(this) => {
                ffi::Py_INCREF(class.cast());
                compat::_Py_NewReference(this);
                ffi::PyObject_GC_Track(this.cast());
                this
            }
            None => {
                let this = ffi::PyType_GenericAlloc(class, 0);
                if this.is_null() {
                    return Raised;
                }
                this
            }
        };
        let args = ffi::PyTuple_New(0);
        let fields = this.cast::<ffi::PyStopIterationObject>();
        (*fields).args = args;
        (*fields).value = value.into_ptr();
        match Obj::from_owned(this) {
            // The empty tuple is made once and lives for ever, so this does not happen.
            Ok(exception) if args.is_null() => {
                drop(exception);
                Raised
            }
            Ok(exception) => super::exception::restore(py, exception),
            Err(raised) => raised,
        }
    }
}

unsafe extern "C" fn traverse(
    this: *mut ffi::PyObject,
    visit: ffi::visitproc,
    arg: *mut std::ffi::c_void,
) -> std::ffi::c_int {
    // SAFETY: called for instances of the class; the base visits its fields, and a heap type's instance its type.
    unsafe {
        let stopped = visit(ffi::Py_TYPE(this).cast(), arg);
        match (*base()).tp_traverse {
            Some(base_traverse) if stopped == 0 => base_traverse(this, visit, arg),
            Some(_) | None => stopped,
        }
    }
}

unsafe extern "C" fn dealloc(this: *mut ffi::PyObject) {
    entry_infallible((), |py| {
        // SAFETY: the count is zero. The base's clear empties its fields (which may run Python code, so nothing of ours
        // is open); only the flag beside them is not a reference. Then nobody knows the object.
        unsafe {
            let class = ffi::Py_TYPE(this);
            ffi::PyObject_GC_UnTrack(this.cast());
            if let Some(clear) = (*base()).tp_clear {
                clear(this);
            }
            (*this.cast::<ffi::PyStopIterationObject>()).suppress_context = '\0';
            let kept = ffi::PyObject_GC_IsFinalized(this) == 0
                && FREE.with(py, |free| {
                    let room = free.len() < FREELIST;
                    if room {
                        free.push(this);
                    }
                    room
                });
            if !kept {
                ffi::PyObject_GC_Del(this.cast());
            }
            ffi::Py_DECREF(class.cast());
        }
    });
}
