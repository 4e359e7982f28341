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
        let items = (*tuple.as_ptr().cast::<ffi::PyTupleObject>()).ob_item.as_ptr();
        let count = ffi::PyTuple_GET_SIZE(tuple.as_ptr()) as usize;
        Obj::from_owned(ffi::PyObject_Vectorcall(callable.as_ptr(), items, count, std::ptr::null_mut()))
    }
}

/// `receiver.name(*args)`, at most six arguments.
#[inline]
pub(crate) fn method(_py: Python<'_>, receiver: &Obj, name: &'static Name, args: &[&Obj]) -> RawResult<Obj> {
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

/// `receiver.name(*args, keyword=value)`, at most five positional arguments.
pub(crate) fn method_with_keyword(
    _py: Python<'_>,
    receiver: &Obj,
    name: &'static Name,
    args: &[&Obj],
    keyword: &'static Name,
    value: &Obj,
) -> RawResult<Obj> {
    let mut words = [std::ptr::null_mut(); 8];
    assert!(args.len() + 3 <= words.len(), "at most five arguments");
    words[1] = receiver.as_ptr();
    for (word, arg) in words[2..].iter_mut().zip(args) {
        *word = arg.as_ptr();
    }
    words[args.len() + 2] = value.as_ptr();
    // SAFETY: all alive; the value of the keyword follows the positional words.
    unsafe {
        let names = Obj::from_owned(ffi::PyTuple_Pack(1, keyword.as_ptr()))?;
        Obj::from_owned(ffi::PyObject_VectorcallMethod(
            name.as_ptr(),
            words.as_ptr().add(1),
            (args.len() + 1) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            names.as_ptr(),
        ))
    }
}

/// `callable(*args, keyword=value)`, at most five positional arguments.
pub(crate) fn call_with_keyword(
    _py: Python<'_>,
    callable: &Obj,
    args: &[&Obj],
    keyword: &'static Name,
    value: &Obj,
) -> RawResult<Obj> {
    let mut words = [std::ptr::null_mut(); 8];
    assert!(args.len() + 2 <= words.len(), "at most five arguments");
    for (word, arg) in words[1..].iter_mut().zip(args) {
        *word = arg.as_ptr();
    }
    words[args.len() + 1] = value.as_ptr();
    // SAFETY: all alive; the value of the keyword follows the positional words.
    unsafe {
        let names = Obj::from_owned(ffi::PyTuple_Pack(1, keyword.as_ptr()))?;
        Obj::from_owned(ffi::PyObject_Vectorcall(
            callable.as_ptr(),
            words.as_ptr().add(1),
            args.len() | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            names.as_ptr(),
        ))
    }
}

/// `getattr(receiver, name, None)` that tells a missing attribute from None.
pub(crate) fn optional_attr(_py: Python<'_>, receiver: &Obj, name: &'static Name) -> RawResult<Option<Obj>> {
    let mut value = std::ptr::null_mut();
    // SAFETY: both alive; the value is a new reference or null.
    unsafe {
        match ffi::compat::PyObject_GetOptionalAttr(receiver.as_ptr(), name.as_ptr(), &mut value) {
            -1 => Err(super::Raised),
            _ => Ok(Obj::from_owned_opt(value)),
        }
    }
}

/// `receiver.name = value`
pub(crate) fn setattr(_py: Python<'_>, receiver: &Obj, name: &'static Name, value: &Obj) -> RawResult<()> {
    // SAFETY: all alive.
    match unsafe { ffi::PyObject_SetAttr(receiver.as_ptr(), name.as_ptr(), value.as_ptr()) } {
        0 => Ok(()),
        _ => Err(super::Raised),
    }
}

/// `bool(object)`
pub(crate) fn is_true(_py: Python<'_>, object: &Obj) -> RawResult<bool> {
    // SAFETY: alive.
    match unsafe { ffi::PyObject_IsTrue(object.as_ptr()) } {
        -1 => Err(super::Raised),
        answer => Ok(answer != 0),
    }
}

/// `a is b or a == b`
pub(crate) fn equal(_py: Python<'_>, a: &Obj, b: &Obj) -> RawResult<bool> {
    // SAFETY: both alive.
    match unsafe { ffi::PyObject_RichCompareBool(a.as_ptr(), b.as_ptr(), ffi::Py_EQ) } {
        -1 => Err(super::Raised),
        answer => Ok(answer != 0),
    }
}

/// An interned attribute name, made on first use and kept for ever: `static CALL_SOON: Name = Name::new(c"call_soon")`.
pub(crate) struct Name {
    text: &'static std::ffi::CStr,
    made: OnceLock<usize>,
}

impl Name {
    pub(crate) const fn new(text: &'static std::ffi::CStr) -> Name {
        Name { text, made: OnceLock::new() }
    }

    pub(crate) fn as_str(&self) -> &'static str {
        self.text.to_str().unwrap_or_default()
    }

    /// The name as text.
    pub(crate) fn text(&self) -> &'static str {
        self.text.to_str().unwrap_or_default()
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
