//! `__aenter__` and `__aexit__` of our classes, bound to an object.
//!
//! Up to 3.13 the interpreter asks for both at each `async with`, and drops them when it has called them. A
//! `types.MethodType` is allocated for that each time; these come from a freelist. Programs see a bound method: `__class__`
//! answers `types.MethodType`, and what is not found here is asked of the function.

use std::mem::offset_of;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pyclass::CompareOp;
use pyo3::types::PyTuple;

use super::call::{self, Name};
use super::cell::ObjCell;
use super::instance::{Class, Data, Ref, Visitor};
use super::method::{Direct, Method};
use super::obj::Obj;
use super::table::Table;
use super::{RawResult, compat, to_py, to_raw};

#[repr(C)]
struct BoundMethod {
    vectorcall: ffi::vectorcallfunc,
    /// That of `function`.
    direct: Direct,
    /// A [`Method`]. Never empty, and neither is the instance: no collector may take them from who is being called.
    function: ObjCell,
    instance: ObjCell,
}

impl Data for BoundMethod {
    const FREELIST: usize = 64;

    fn class() -> &'static Class<Self> {
        static CLASS: Class<BoundMethod> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.cell(&self.function);
        visitor.cell(&self.instance);
    }
    /// As `types.MethodType`: who is called keeps what it needs; a cycle is cut elsewhere.
    fn clear(&self) {}
}

/// `function` bound to `instance`, which is an instance of its class. What its definition says that it is called like is known.
///
/// # Safety
/// `direct` is that of `function`, and can be called with `instance`.
#[inline]
pub(super) unsafe fn make(py: Python<'_>, function: &Ref<Method>, direct: Direct, instance: &Obj) -> RawResult<Obj> {
    let made = BoundMethod {
        vectorcall,
        direct,
        function: ObjCell::new(Some(function.as_obj().clone())),
        instance: ObjCell::new(Some(instance.clone())),
    };
    Ok(BoundMethod::class().make(py, made)?.into_obj())
}

unsafe extern "C" fn vectorcall(
    callable: *mut ffi::PyObject,
    words: *const *mut ffi::PyObject,
    flags: usize,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the function of instances of this class, which calls are made through and which keep their instance alive; the
    // maker vouched for what is called directly. A call that does not fit is the function's to refuse: with the instance
    // before the words, as those of a bound method are called.
    unsafe {
        let this = Ref::<BoundMethod>::view(&callable);
        let count = ffi::PyVectorcall_NARGS(flags);
        match this.direct {
            Direct::NoArgs(function) if count == 0 && keywords.is_null() => {
                function(this.instance.as_ptr(), std::ptr::null_mut())
            }
            Direct::Keywords(function) => function(this.instance.as_ptr(), words, count, keywords),
            Direct::NoArgs(_) | Direct::Unknown => refuse(this, words, count, keywords),
        }
    }
}

/// # Safety
/// As `vectorcall`.
#[cold]
unsafe fn refuse(
    this: &Ref<BoundMethod>,
    words: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the words of the call and the values of its keywords, all alive during the call; the copy has one more in front.
    unsafe {
        let named = if keywords.is_null() { 0 } else { ffi::PyTuple_GET_SIZE(keywords) as usize };
        let mut all = vec![this.instance.as_ptr()];
        all.extend((0..count as usize + named).map(|i| *words.add(i)));
        ffi::PyObject_Vectorcall(this.function.as_ptr(), all.as_ptr(), count as usize + 1, keywords)
    }
}

/// `tp_getattro`: what a bound method does not have itself is its function's; so is the text about it.
unsafe extern "C" fn getattr(this: *mut ffi::PyObject, name: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: an instance of this class and a str, alive during the call; each call gives a new reference, or null with an
    // exception.
    unsafe {
        let function = Ref::<BoundMethod>::view(&this).function.as_ptr();
        if name == DOC.as_ptr() {
            return ffi::PyObject_GetAttr(function, name);
        }
        let found = ffi::PyObject_GenericGetAttr(this, name);
        if found.is_null() && ffi::PyErr_ExceptionMatches(ffi::PyExc_AttributeError) != 0 {
            ffi::PyErr_Clear();
            return ffi::PyObject_GetAttr(function, name);
        }
        found
    }
}

static DOC: Name = Name::new(c"__doc__");
static NAME: Name = Name::new(c"__name__");
static QUALNAME: Name = Name::new(c"__qualname__");

fn function(py: Python<'_>, this: &Ref<BoundMethod>) -> RawResult<Obj> {
    Ok(this.function.get().unwrap_or_else(|| Obj::none(py)))
}

fn instance(py: Python<'_>, this: &Ref<BoundMethod>) -> RawResult<Obj> {
    Ok(this.instance.get().unwrap_or_else(|| Obj::none(py)))
}

fn repr(py: Python<'_>, this: &Ref<BoundMethod>) -> RawResult<Obj> {
    let name = call::getattr(py, &function(py, this)?, &QUALNAME)?;
    let instance = instance(py, this)?;
    let (name, instance) = (name.into_bound(py), instance.into_bound(py));
    let text = instance.repr().map(|of| format!("<bound method {name} of {of}>"));
    Ok(Obj::from_bound(pyo3::types::PyString::new(py, &to_raw(py, text)?)))
}

fn compare(py: Python<'_>, this: &Ref<BoundMethod>, other: &Obj, op: CompareOp) -> RawResult<Obj> {
    let not_implemented = || Ok(Obj::from_bound(py.NotImplemented().into_bound(py)));
    let Some(other) = Ref::<BoundMethod>::view_obj(other) else {
        return not_implemented();
    };
    let same = this.function.as_ptr() == other.function.as_ptr() && this.instance.as_ptr() == other.instance.as_ptr();
    match op {
        CompareOp::Eq => Ok(Obj::bool(py, same)),
        CompareOp::Ne => Ok(Obj::bool(py, !same)),
        CompareOp::Lt | CompareOp::Le | CompareOp::Gt | CompareOp::Ge => not_implemented(),
    }
}

fn reduce(py: Python<'_>, this: &Ref<BoundMethod>) -> RawResult<Obj> {
    let name = call::getattr(py, &function(py, this)?, &NAME)?;
    let reduced = || -> PyResult<Obj> {
        let getattr = py.import("builtins")?.getattr("getattr")?;
        let of = to_py(py, instance(py, this))?.into_bound(py);
        let arguments = PyTuple::new(py, [of, name.into_bound(py)])?;
        Ok(Obj::from_bound(PyTuple::new(py, [getattr, arguments.into_any()])?))
    };
    to_raw(py, reduced())
}

/// Makes the type; once, at import.
pub(super) fn init(py: Python<'_>) -> PyResult<()> {
    const FLAGS: u64 = ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION | ffi::Py_TPFLAGS_HAVE_VECTORCALL;
    const ABOUT: &std::ffi::CStr = c"A method of a class of the extension, bound to an object.";
    let table = Table::<BoundMethod>::new(c"hayase._core.BoundMethod", ABOUT, std::ptr::null_mut(), FLAGS)
        .called_at(offset_of!(BoundMethod, vectorcall))
        .attributes_through(getattr)
        .get(c"__class__", |_py: Python<'_>, _this: &Ref<BoundMethod>| {
            // SAFETY: a static type of the interpreter.
            Ok(unsafe { Obj::from_borrowed((&raw mut compat::PyMethod_Type).cast()) })
        })
        .get(c"__func__", function)
        .get(c"__self__", instance)
        .repr(repr)
        .hash(|_py: Python<'_>, this: &Ref<BoundMethod>| {
            let (function, instance) = (this.function.as_ptr() as usize, this.instance.as_ptr() as usize);
            // Objects lie at multiples of 16, so nothing is lost, and what is left is not negative.
            Ok(((function >> 4) ^ (instance >> 4)) as isize)
        })
        .compare(compare)
        .noargs(c"__reduce__", c"For pickle: the object and the name.", reduce);
    to_py(py, table.build(std::ptr::null_mut()))
}
