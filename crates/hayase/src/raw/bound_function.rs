//! A native callable that is bound to an object of ours and can be recognised again.
//!
//! A task that waits for somebody else's future hands it such a callable. It is a builtin method (so `__self__`, repr,
//! equality and the collector work as for `asyncio.Task`'s), and when it comes back through `call_soon` one compare of
//! types and one of pointers tell that nothing needs to be called.

use std::ffi::CStr;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicPtr, Ordering};

use pyo3::{Python, ffi};

use super::RawResult;
use super::call::Name;
use super::instance::{Data, Ref};
use super::obj::Obj;
use super::table::{NoArgs, OneArg, bound_noargs, bound_onearg};

/// One function, defined once at import; bound to many objects.
pub(crate) struct BoundFunction<T> {
    definition: AtomicPtr<ffi::PyMethodDef>,
    _data: PhantomData<fn(T)>,
}

impl<T: Data> BoundFunction<T> {
    pub(crate) const fn new() -> BoundFunction<T> {
        BoundFunction { definition: AtomicPtr::new(std::ptr::null_mut()), _data: PhantomData }
    }

    pub(crate) fn define_onearg<F: OneArg<T>>(&self, name: &'static CStr, _f: F) {
        self.define(name, ffi::METH_O, ffi::PyMethodDefPointer { PyCFunction: bound_onearg::<T, F>() });
    }

    pub(crate) fn define_noargs<F: NoArgs<T>>(&self, name: &'static CStr, _f: F) {
        self.define(name, ffi::METH_NOARGS, ffi::PyMethodDefPointer { PyCFunction: bound_noargs::<T, F>() });
    }

    fn define(&self, name: &'static CStr, flags: i32, function: ffi::PyMethodDefPointer) {
        let definition =
            ffi::PyMethodDef { ml_name: name.as_ptr(), ml_meth: function, ml_flags: flags, ml_doc: std::ptr::null() };
        self.definition.store(Box::leak(Box::new(definition)), Ordering::Relaxed);
    }

    /// Recognises a method of the class that is built already, instead of defining a function.
    pub(crate) fn adopt(&self, py: Python<'_>, name: &'static Name) -> RawResult<()> {
        let descriptor = super::call::getattr(py, &T::class().type_obj(), name)?;
        // SAFETY: the exact type is checked before its layout is used; the definition is in the class's leaked table.
        unsafe {
            assert_eq!(descriptor.type_ptr(), &raw mut ffi::PyMethodDescr_Type, "a method of the class");
            let definition = (*descriptor.as_ptr().cast::<ffi::PyMethodDescrObject>()).d_method;
            self.definition.store(definition, Ordering::Relaxed);
        }
        Ok(())
    }

    /// `this.function` as an object.
    pub(crate) fn bind(&self, _py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
        // SAFETY: the definition is leaked at import; the callable takes its own reference to `this`.
        unsafe {
            Obj::from_owned(ffi::PyCFunction_NewEx(
                self.definition.load(Ordering::Relaxed),
                this.as_ptr(),
                std::ptr::null_mut(),
            ))
        }
    }

    /// What `callable` is bound to, if it is one of these.
    #[inline]
    pub(crate) fn target<'a>(&self, callable: &'a Obj) -> Option<&'a Ref<T>> {
        // SAFETY: the exact type is checked before its layout is used; `self` of our definition is a `T`, and lives
        // as long as the callable.
        unsafe {
            if callable.type_ptr() != &raw mut ffi::PyCFunction_Type {
                return None;
            }
            let function = callable.as_ptr().cast::<ffi::PyCFunctionObject>();
            if (*function).m_ml != self.definition.load(Ordering::Relaxed) {
                return None;
            }
            Some(Ref::<T>::view(&(*function).m_self))
        }
    }
}
