//! Methods of our classes that make coroutines, as objects that can say so.
//!
//! The interpreter's own descriptor of a method that is written in C has no attributes. But `unittest.mock` asks
//! `inspect.iscoroutinefunction` of every method of a class that it imitates (`MagicMock(spec=StreamReader)`) and of what it
//! replaces (`patch.object(loop, "create_connection")`), to know whether its own has to be awaited. This one holds the
//! descriptor, is called as it is, and has a dict for the marks. Bound to an instance it is a `types.MethodType`, which those who
//! ask look through.

use std::mem::offset_of;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;

use super::attributes::Attributes;
use super::call::{self, Name};
use super::cell::ObjCell;
use super::fastcall::Args;
use super::instance::{Class, Data, Ref, Visitor};
use super::obj::Obj;
use super::table::Table;
use super::{Raised, RawResult, bound_method, compat, entry, function, to_py};

#[repr(C)]
pub(crate) struct Method {
    vectorcall: ffi::vectorcallfunc,
    /// That of the descriptor.
    inner_vectorcall: ffi::vectorcallfunc,
    /// The class that the descriptor belongs to.
    owner: *mut ffi::PyTypeObject,
    direct: Direct,
    /// `__aenter__` or `__aexit__`: bound as `bound_method.rs` says.
    is_special: bool,
    /// The interpreter's own descriptor; never empty, because no collector may take it from who is being called.
    descriptor: ObjCell,
    attributes: Attributes,
}

/// The function of a descriptor. Called without the descriptor's own checks, as the interpreter does it once it knows a call
/// well; it never gets to know this class (`readline` from the buffer: 157 ns instead of 185).
#[derive(Clone, Copy)]
pub(super) enum Direct {
    NoArgs(ffi::PyCFunction),
    Keywords(ffi::PyCFunctionFastWithKeywords),
    Unknown,
}

impl Direct {
    /// # Safety
    /// A definition that is alive, with the function that its flags promise.
    unsafe fn of(definition: &ffi::PyMethodDef) -> Direct {
        const KEYWORDS: std::ffi::c_int = ffi::METH_FASTCALL | ffi::METH_KEYWORDS;
        // SAFETY: promised by the caller.
        unsafe {
            match definition.ml_flags {
                ffi::METH_NOARGS => Direct::NoArgs(definition.ml_meth.PyCFunction),
                KEYWORDS => Direct::Keywords(definition.ml_meth.PyCFunctionFastWithKeywords),
                _ => Direct::Unknown,
            }
        }
    }
}

impl Data for Method {
    const FREELIST: usize = 0;

    fn class() -> &'static Class<Self> {
        static CLASS: Class<Method> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.cell(&self.descriptor);
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
    // SAFETY: the function of instances of this class, which calls are made through; what the descriptor is called with is what
    // this one is called with, and its function was asked for when it was put here.
    unsafe {
        let this = Ref::<Method>::view(&callable);
        let count = ffi::PyVectorcall_NARGS(flags);
        if count > 0 && is_instance(*words, this.owner) {
            match this.direct {
                Direct::NoArgs(function) if count == 1 && keywords.is_null() => {
                    return function(*words, std::ptr::null_mut());
                }
                Direct::Keywords(function) => return function(*words, words.add(1), count - 1, keywords),
                Direct::NoArgs(_) | Direct::Unknown => {}
            }
        }
        // Says what is wrong, too.
        (this.inner_vectorcall)(this.descriptor.as_ptr(), words, flags, keywords)
    }
}

/// # Safety
/// Both are alive.
#[inline]
unsafe fn is_instance(object: *mut ffi::PyObject, class: *mut ffi::PyTypeObject) -> bool {
    // SAFETY: promised by the caller.
    unsafe {
        let own = ffi::Py_TYPE(object);
        own == class || ffi::PyType_IsSubtype(own, class) != 0
    }
}

/// `tp_descr_get`: of the class it is itself, of an instance the bound method.
unsafe extern "C" fn bind(
    this: *mut ffi::PyObject,
    instance: *mut ffi::PyObject,
    _owner: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: both alive during the call, the instance may be null; a new reference or null with an exception is returned. What
    // is called directly is given an instance of its class.
    unsafe {
        if instance.is_null() {
            ffi::Py_INCREF(this);
            return this;
        }
        let method = Ref::<Method>::view(&this);
        if method.is_special && is_instance(instance, method.owner) {
            return entry(|py| bound_method::make(py, method, method.direct, Obj::view(&instance)));
        }
        compat::PyMethod_New(this, instance)
    }
}

fn make(py: Python<'_>, args: &Args<'_>) -> RawResult<Obj> {
    args.require(py, &["descriptor"])?;
    let descriptor = args.get(0).expect("required");
    // SAFETY: alive; asks its type.
    let inner = unsafe {
        let is_descriptor = ffi::Py_TYPE(descriptor.as_ptr()) == &raw mut ffi::PyMethodDescr_Type;
        ffi::PyVectorcall_Function(descriptor.as_ptr()).filter(|_| is_descriptor)
    };
    let Some(inner_vectorcall) = inner else {
        return Err(Raised::from_err(py, PyTypeError::new_err("a method of a class of the extension is wanted")));
    };
    // SAFETY: it is a method descriptor, which keeps its class and the definition alive.
    let (owner, direct) = unsafe {
        let descriptor = &*descriptor.as_ptr().cast::<ffi::PyMethodDescrObject>();
        (descriptor.d_common.d_type, Direct::of(&*descriptor.d_method))
    };
    let name = call::getattr(py, &descriptor, &NAME)?;
    let is_special = ["__aenter__", "__aexit__"].contains(&name.borrow(py).to_string().as_str());
    let made = Method {
        vectorcall,
        inner_vectorcall,
        owner,
        direct,
        is_special,
        descriptor: ObjCell::new(Some(descriptor.clone())),
        attributes: Attributes::empty(),
    };
    let made = Method::class().make(py, made)?.into_obj();
    for name in [&NAME, &QUALNAME, &DOC, &TEXT_SIGNATURE, &OBJCLASS] {
        let value = call::getattr(py, &descriptor, name)?;
        call::setattr(py, &made, name, &value)?;
    }
    Ok(made)
}

static NAME: Name = Name::new(c"__name__");
static QUALNAME: Name = Name::new(c"__qualname__");
static DOC: Name = Name::new(c"__doc__");
static TEXT_SIGNATURE: Name = Name::new(c"__text_signature__");
static OBJCLASS: Name = Name::new(c"__objclass__");
static REDUCE: Name = Name::new(c"__reduce__");

fn inner(py: Python<'_>, this: &Ref<Method>) -> Obj {
    this.descriptor.get().unwrap_or_else(|| Obj::none(py))
}

/// Makes the type; once, at import.
pub(crate) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    bound_method::init(py)?;
    const FLAGS: u64 =
        ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION | ffi::Py_TPFLAGS_HAVE_VECTORCALL | ffi::Py_TPFLAGS_METHOD_DESCRIPTOR;
    let table =
        Table::<Method>::new(c"hayase._core.Method", c"A method that makes coroutines.", std::ptr::null_mut(), FLAGS)
            .attributes(offset_of!(Method, attributes))
            .called_at(offset_of!(Method, vectorcall))
            .binds(bind)
            .repr(|py: Python<'_>, this: &Ref<Method>| {
                super::to_raw(py, inner(py, this).borrow(py).repr()).map(Obj::from_bound)
            })
            // Pickled, and copied, as the method of its class.
            .noargs(c"__reduce__", c"For pickle: the name.", |py: Python<'_>, this: &Ref<Method>| {
                call::method(py, &inner(py, this), &REDUCE, &[])
            });
    to_py(py, table.build(std::ptr::null_mut()))?;
    module.add("Method", Method::class().type_obj().into_bound(py))?;
    const DOC: &str = "A method of a class of the extension as an object that can be marked as a coroutine function.";
    function::add(py, module, "hayase._core", "method", "(descriptor, /)", DOC, make)
}
