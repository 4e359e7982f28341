//! Functions of a module, written in Rust, that look like functions of Python where programs look.
//!
//! A builtin function has no attributes, so nothing can say that it makes coroutines. But `unittest.mock.patch` asks
//! `inspect.iscoroutinefunction(asyncio.sleep)`, and would otherwise put the wrong kind of mock in its place. These have a
//! dict, with `__name__`, `__doc__` and the marks that those questions look for.

use std::mem::offset_of;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::attributes::Attributes;
use super::fastcall::Args;
use super::instance::{Class, Data, Ref, Visitor};
use super::obj::Obj;
use super::table::Table;
use super::{RawResult, entry, to_py};

/// The body of a function.
pub(crate) type Body = fn(Python<'_>, &Args<'_>) -> RawResult<Obj>;

#[repr(C)]
pub(crate) struct Function {
    vectorcall: ffi::vectorcallfunc,
    body: Body,
    name: &'static str,
    attributes: Attributes,
}

impl Data for Function {
    const FREELIST: usize = 0;

    fn class() -> &'static Class<Self> {
        static CLASS: Class<Function> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.attributes.visit(visitor);
    }
    fn clear(&self) {
        self.attributes.clear();
    }
}

unsafe extern "C" fn vectorcall(
    callable: *mut ffi::PyObject,
    words: *const *mut ffi::PyObject,
    flags: usize,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    entry(|py| {
        // SAFETY: the function of instances of this class, which calls are made through; the words are those of the call.
        let (this, args) = unsafe {
            let this = Ref::<Function>::view(&callable);
            let count = ffi::PyVectorcall_NARGS(flags);
            (this, Args::new(words, count as ffi::Py_ssize_t, keywords, this.name))
        };
        (this.body)(py, &args)
    })
}

/// Makes the type; once, at import.
pub(crate) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const FLAGS: u64 = ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION | ffi::Py_TPFLAGS_HAVE_VECTORCALL;
    let table = Table::<Function>::new(
        c"hayase._core.Function",
        c"A function that is written in Rust.",
        std::ptr::null_mut(),
        FLAGS,
    )
    .attributes(offset_of!(Function, attributes))
    .called_at(offset_of!(Function, vectorcall))
    .repr(|py: Python<'_>, this: &Ref<Function>| {
        Ok(Obj::from_bound(PyString::new(py, &format!("<function {} at {:p}>", this.name, this.as_ptr()))))
    })
    // Pickled, and copied, by name.
    .noargs(c"__reduce__", c"For pickle: the name.", |py: Python<'_>, this: &Ref<Function>| {
        Ok(Obj::from_bound(PyString::new(py, this.name)))
    });
    to_py(py, table.build(std::ptr::null_mut()))?;
    module.add("Function", Function::class().type_obj().into_bound(py))
}

/// Puts a function into `module`; `home` is its `__module__`. `signature` is text such as `(delay, result=None)`.
pub(crate) fn add(
    py: Python<'_>,
    module: &Bound<'_, PyModule>,
    home: &str,
    name: &'static str,
    signature: &str,
    doc: &str,
    body: Body,
) -> PyResult<()> {
    let made = Function { vectorcall, body, name, attributes: Attributes::empty() };
    let made = to_py(py, Function::class().make(py, made))?.into_obj().into_bound(py);
    for (attribute, value) in [
        ("__name__", name),
        ("__qualname__", name),
        ("__module__", home),
        ("__doc__", doc),
        ("__text_signature__", signature),
    ] {
        made.setattr(attribute, value)?;
    }
    module.add(name, made)
}
