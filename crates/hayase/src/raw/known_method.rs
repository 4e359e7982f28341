//! A method without arguments that is called on instance after instance of one class of somebody else's.
//!
//! If it is a function in C, it is called directly, as the interpreter does it once it knows a call well: no lookup, no
//! descriptor. Whoever changes the class or one of its bases changes the class's version, and the method is looked up again.

use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use pyo3::{Python, ffi};

use super::RawResult;
use super::call::{self, Name};
use super::obj::Obj;
use super::type_version;

pub(crate) struct KnownMethod {
    name: Name,
    /// The version of the class for which the function holds; 0 is none's. No two classes ever have the same.
    version: AtomicU32,
    function: AtomicPtr<()>,
}

impl KnownMethod {
    pub(crate) const fn new(name: &'static std::ffi::CStr) -> KnownMethod {
        KnownMethod {
            name: Name::new(name),
            version: AtomicU32::new(0),
            function: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// `receiver.name()`
    #[inline]
    pub(crate) fn call(&'static self, py: Python<'_>, receiver: &Obj) -> RawResult<Obj> {
        let stored = self.version.load(Ordering::Relaxed);
        if type_version::of_object(receiver).is_none_or(|version| version.number() != stored) {
            return self.look_up(py, receiver);
        }
        // SAFETY: `look_up` found, for a class of this version, that attributes of its instances are those of the class and
        // that this one is a descriptor of a C function without arguments, made for the class or a base of it. The GIL was
        // held since before both were stored, and is held now, so they belong together. The class is as it was, because every
        // change gives it another version; so the descriptor is alive, and its definition, and it fits the receiver.
        unsafe {
            let function = self.function.load(Ordering::Relaxed);
            let function = std::mem::transmute::<*mut (), ffi::PyCFunction>(function);
            Obj::from_owned(function(receiver.as_ptr(), std::ptr::null_mut()))
        }
    }

    #[cold]
    fn look_up(&'static self, py: Python<'_>, receiver: &Obj) -> RawResult<Obj> {
        // SAFETY: all alive; the exact type of the descriptor is checked before its layout is used. A class whose instances have
        // no dictionary, and whose attributes are looked up in the ordinary way, answers for them.
        unsafe {
            let class = ffi::Py_TYPE(receiver.as_ptr());
            let generic: ffi::getattrofunc = ffi::PyObject_GenericGetAttr;
            let is_ordinary = (*class).tp_getattro.is_some_and(|getattro| std::ptr::fn_addr_eq(getattro, generic))
                && (*class).tp_dictoffset == 0
                && (*class).tp_flags & ffi::Py_TPFLAGS_MANAGED_DICT == 0;
            if is_ordinary {
                let descriptor =
                    Obj::from_owned(ffi::PyObject_GetAttr(class.cast::<ffi::PyObject>(), self.name.as_ptr()))?;
                if descriptor.type_ptr() == &raw mut ffi::PyMethodDescr_Type {
                    let descriptor = &*descriptor.as_ptr().cast::<ffi::PyMethodDescrObject>();
                    let fits = ffi::PyType_IsSubtype(class, descriptor.d_common.d_type) != 0;
                    if let Some(version) = type_version::of_object(receiver)
                        && fits
                        && (*descriptor.d_method).ml_flags == ffi::METH_NOARGS
                    {
                        let function = (*descriptor.d_method).ml_meth.PyCFunction;
                        self.function.store(function as *mut (), Ordering::Relaxed);
                        self.version.store(version.number(), Ordering::Relaxed);
                    }
                }
            }
        }
        call::method(py, receiver, &self.name, &[])
    }
}
