//! Calls into Python without tuples: vectorcall, method calls by interned name.

use std::sync::OnceLock;

use pyo3::{Python, ffi};

use super::RawResult;
use super::obj::Obj;

#[inline]
pub(crate) fn call0(_py: Python<'_>, callable: &Obj) -> RawResult<Obj> {
    // SAFETY: `callable` is alive; the result is new or null with an exception.
    unsafe { Obj::from_owned(ffi::PyObject_CallNoArgs(callable.as_ptr())) }
}

#[inline]
pub(crate) fn call1(_py: Python<'_>, callable: &Obj, arg: &Obj) -> RawResult<Obj> {
    // SAFETY: all are alive. The free word before the argument lets a bound method put its `self` there.
    unsafe {
        let args = [std::ptr::null_mut(), arg.as_ptr()];
        Obj::from_owned(ffi::PyObject_Vectorcall(
            callable.as_ptr(),
            args.as_ptr().add(1),
            1 | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            std::ptr::null_mut(),
        ))
    }
}

/// At most seven arguments.
#[inline]
pub(crate) fn call_n(_py: Python<'_>, callable: &Obj, args: &[&Obj]) -> RawResult<Obj> {
    let mut words = [std::ptr::null_mut(); 8];
    assert!(args.len() < words.len(), "at most seven arguments");
    for (word, arg) in words[1..].iter_mut().zip(args) {
        *word = arg.as_ptr();
    }
    // SAFETY: as in `call1`.
    unsafe {
        Obj::from_owned(ffi::PyObject_Vectorcall(
            callable.as_ptr(),
            words.as_ptr().add(1),
            args.len() | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            std::ptr::null_mut(),
        ))
    }
}

/// `callable(*tuple)` for an exact tuple, without building anything.
#[inline]
pub(crate) fn call_tuple(_py: Python<'_>, callable: &Obj, tuple: &Obj) -> RawResult<Obj> {
    // SAFETY: the tuple keeps its items alive during the call; its item array is contiguous.
    unsafe {
        debug_assert!(ffi::PyTuple_CheckExact(tuple.as_ptr()) != 0);
        let items = (*tuple.as_ptr().cast::<ffi::PyTupleObject>())
            .ob_item
            .as_ptr();
        let count = ffi::PyTuple_GET_SIZE(tuple.as_ptr()) as usize;
        Obj::from_owned(ffi::PyObject_Vectorcall(
            callable.as_ptr(),
            items,
            count,
            std::ptr::null_mut(),
        ))
    }
}

/// `receiver.name(*args)`, at most six arguments.
#[inline]
pub(crate) fn method(
    _py: Python<'_>,
    receiver: &Obj,
    name: &'static Name,
    args: &[&Obj],
) -> RawResult<Obj> {
    let mut words = [std::ptr::null_mut(); 8];
    assert!(args.len() + 2 <= words.len(), "at most six arguments");
    words[1] = receiver.as_ptr();
    for (word, arg) in words[2..].iter_mut().zip(args) {
        *word = arg.as_ptr();
    }
    // SAFETY: all alive; the name is an interned str that lives for ever.
    unsafe {
        Obj::from_owned(ffi::PyObject_VectorcallMethod(
            name.as_ptr(),
            words.as_ptr().add(1),
            (args.len() + 1) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            std::ptr::null_mut(),
        ))
    }
}

/// `receiver.name`
#[inline]
pub(crate) fn getattr(_py: Python<'_>, receiver: &Obj, name: &'static Name) -> RawResult<Obj> {
    // SAFETY: both alive.
    unsafe { Obj::from_owned(ffi::PyObject_GetAttr(receiver.as_ptr(), name.as_ptr())) }
}

/// An interned attribute name, made on first use and kept for ever: `static CALL_SOON: Name = Name::new(c"call_soon")`.
pub(crate) struct Name {
    text: &'static std::ffi::CStr,
    made: OnceLock<usize>,
}

impl Name {
    pub(crate) const fn new(text: &'static std::ffi::CStr) -> Name {
        Name {
            text,
            made: OnceLock::new(),
        }
    }

    /// Borrowed pointer to the str; immortal in effect, because the reference is never given back.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut ffi::PyObject {
        *self.made.get_or_init(|| {
            // SAFETY: every user of names holds the GIL; the text is NUL-terminated UTF-8.
            let made = unsafe { ffi::PyUnicode_InternFromString(self.text.as_ptr()) };
            assert!(!made.is_null(), "out of memory while interning a name");
            made as usize
        }) as *mut ffi::PyObject
    }
}
