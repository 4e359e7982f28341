//! A strong reference to an object together with a straight way to one field of it.
//!
//! Transports, servers and native coroutines reach the loop's `Runtime` through one. The object is of a frozen class, so
//! nobody ever has `&mut` to it or moves it: the field stays where it is as long as the reference lives.

use pyo3::PyClass;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;

use super::instance::Visitor;
use super::obj::Obj;

pub(crate) struct FieldRef<T> {
    object: Obj,
    field: *const T,
}

impl<T> FieldRef<T> {
    pub(crate) fn new<C>(object: &Bound<'_, C>, field: for<'a> fn(&'a C) -> &'a T) -> FieldRef<T>
    where
        C: PyClass<Frozen = True> + Sync,
    {
        let field: *const T = field(object.get());
        FieldRef { object: Obj::from_any(object.as_any()), field }
    }

    #[inline]
    pub(crate) fn object(&self) -> &Obj {
        &self.object
    }

    #[inline]
    pub(crate) fn get(&self) -> &T {
        // SAFETY: `field` was borrowed from the object for any lifetime the object has, and `self.object` keeps it alive;
        // the class is frozen, so there is no exclusive access that could end the borrow.
        unsafe { &*self.field }
    }

    pub(crate) fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.obj(&self.object);
    }
}

impl<T> std::ops::Deref for FieldRef<T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        self.get()
    }
}

impl<T> Clone for FieldRef<T> {
    #[inline]
    fn clone(&self) -> Self {
        FieldRef { object: self.object.clone(), field: self.field }
    }
}

// SAFETY: counted, dropped and followed only with the GIL held, as every `Obj` (see `obj.rs`); it is a part of objects
// that the interpreter may destroy on any thread that holds the GIL.
unsafe impl<T> Send for FieldRef<T> {}
// SAFETY: as above; what changes behind it is in cells that want the GIL.
unsafe impl<T> Sync for FieldRef<T> {}
