//! The types `Handle` and `TimerHandle`: slots and names; their values and methods are in `tasks/handle.rs`.
//!
//! `__class__` answers asyncio's class, so `isinstance(handle, asyncio.Handle)` holds without its eight slots in every
//! instance.

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyModule;

use super::instance::{self, Class, Data, Ref};
use super::obj::Obj;
use super::typespec::{TypeBuilder, getter, noargs};
use super::{RawResult, entry, to_py, to_raw};
use crate::tasks::handle::{HandleData, TimerData, methods};

/// A method body of `tasks::handle` that both types share: it gets the object and its common part.
macro_rules! shared {
    ($name:ident) => {{
        fn body(py: Python<'_>, this: *mut ffi::PyObject) -> RawResult<Obj> {
            // SAFETY: `self` of a method of one of the two types is alive during the call.
            let this = std::mem::ManuallyDrop::new(unsafe { Obj::from_owned_opt(this) });
            methods::$name(py, this.as_ref().expect("self is never null"))
        }
        body
    }};
}

fn common(builder: TypeBuilder) -> TypeBuilder {
    const CANCEL: fn(Python<'_>, *mut ffi::PyObject) -> RawResult<Obj> = shared!(cancel);
    const CANCELLED: fn(Python<'_>, *mut ffi::PyObject) -> RawResult<Obj> = shared!(cancelled);
    const RUN: fn(Python<'_>, *mut ffi::PyObject) -> RawResult<Obj> = shared!(run);
    const GET_CONTEXT: fn(Python<'_>, *mut ffi::PyObject) -> RawResult<Obj> = shared!(get_context);
    const REPR_INFO: fn(Python<'_>, *mut ffi::PyObject) -> RawResult<Obj> = shared!(repr_info);
    const CALLBACK: fn(Python<'_>, *mut ffi::PyObject) -> RawResult<Obj> = shared!(callback);
    const ARGS: fn(Python<'_>, *mut ffi::PyObject) -> RawResult<Obj> = shared!(args);
    const LOOP: fn(Python<'_>, *mut ffi::PyObject) -> RawResult<Obj> = shared!(event_loop);
    const TRACEBACK: fn(Python<'_>, *mut ffi::PyObject) -> RawResult<Obj> =
        shared!(source_traceback);
    const REPR: fn(Python<'_>, *mut ffi::PyObject) -> RawResult<Obj> = shared!(stored_repr);
    const CLASS: fn(Python<'_>, *mut ffi::PyObject) -> RawResult<Obj> = shared!(asyncio_class);

    builder
        .noargs(
            c"cancel",
            c"Cancel the callback; does nothing if it was cancelled or has run.",
            noargs!(CANCEL),
        )
        .noargs(
            c"cancelled",
            c"Whether the callback was cancelled.",
            noargs!(CANCELLED),
        )
        .noargs(c"_run", c"Run the callback in its context.", noargs!(RUN))
        .noargs(
            c"get_context",
            c"The contextvars.Context of the callback.",
            noargs!(GET_CONTEXT),
        )
        .noargs(c"_repr_info", c"The parts of the repr.", noargs!(REPR_INFO))
        .getset(c"_callback", getter!(CALLBACK), None)
        .getset(c"_args", getter!(ARGS), None)
        .getset(c"_context", getter!(GET_CONTEXT), None)
        .getset(c"_cancelled", getter!(CANCELLED), None)
        .getset(c"_loop", getter!(LOOP), None)
        .getset(c"_source_traceback", getter!(TRACEBACK), None)
        .getset(c"_repr", getter!(REPR), None)
        .getset(c"__class__", getter!(CLASS), None)
}

unsafe extern "C" fn tp_repr(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
    const BODY: fn(Python<'_>, *mut ffi::PyObject) -> RawResult<Obj> = shared!(repr);
    entry(|py| BODY(py, this))
}

unsafe extern "C" fn timer_hash(this: *mut ffi::PyObject) -> ffi::Py_hash_t {
    super::entry_hash(|py| {
        // SAFETY: a slot of the exact type.
        let when = unsafe { Ref::<TimerData>::view(&this) }.when();
        to_raw(py, pyo3::types::PyFloat::new(py, when).hash())
    })
}

unsafe extern "C" fn timer_compare(
    this: *mut ffi::PyObject,
    other: *mut ffi::PyObject,
    op: c_int,
) -> *mut ffi::PyObject {
    entry(|py| {
        // SAFETY: both alive during the call.
        let (this, other) = unsafe { (Obj::from_borrowed(this), Obj::from_borrowed(other)) };
        methods::compare(py, &this, &other, op)
    })
}

const FLAGS: u64 = ffi::Py_TPFLAGS_DEFAULT
    | ffi::Py_TPFLAGS_HAVE_GC
    | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION
    | ffi::Py_TPFLAGS_IMMUTABLETYPE;

fn builder<T: Data>(name: &'static std::ffi::CStr, weak_references: usize) -> TypeBuilder {
    let null = std::ptr::null_mut();
    common(TypeBuilder::new(name, Class::<T>::basic_size(null), FLAGS))
        .slot(ffi::Py_tp_dealloc, instance::dealloc::<T> as *mut _)
        .slot(ffi::Py_tp_traverse, instance::traverse::<T> as *mut _)
        .slot(ffi::Py_tp_clear, instance::clear::<T> as *mut _)
        .slot(ffi::Py_tp_repr, tp_repr as *mut _)
        .offset_member(
            c"__weaklistoffset__",
            Class::<T>::offset_on(null) + weak_references,
        )
}

/// Makes both types and puts them into the module.
pub(crate) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const WHEN: fn(Python<'_>, *mut ffi::PyObject) -> RawResult<Obj> = shared!(when);
    const SCHEDULED: fn(Python<'_>, *mut ffi::PyObject) -> RawResult<Obj> = shared!(scheduled);
    let null = std::ptr::null_mut();

    let handle =
        builder::<HandleData>(c"hayase._core.Handle", HandleData::WEAK_REFERENCES).build(null);
    HandleData::class().set(to_py(py, handle)?, null);
    let timer = builder::<TimerData>(c"hayase._core.TimerHandle", TimerData::WEAK_REFERENCES)
        .noargs(
            c"when",
            c"When it is due, in seconds of loop.time().",
            noargs!(WHEN),
        )
        .getset(c"_when", getter!(WHEN), None)
        .getset(c"_scheduled", getter!(SCHEDULED), None)
        .slot(ffi::Py_tp_hash, timer_hash as *mut _)
        .slot(ffi::Py_tp_richcompare, timer_compare as *mut _)
        .build(null);
    TimerData::class().set(to_py(py, timer)?, null);

    module.add("Handle", HandleData::class().type_obj().into_bound(py))?;
    module.add("TimerHandle", TimerData::class().type_obj().into_bound(py))
}
