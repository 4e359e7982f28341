//! The instance dict and the list of weak references of our classes that have them because asyncio's have.
//!
//! Both are words of the object which the interpreter finds by their offset (`__dictoffset__`, `__weaklistoffset__`) and
//! fills on demand. A lock whose program never gives it an attribute has no dict, and neither has a transport.

use std::mem::offset_of;

use pyo3::prelude::*;
use pyo3::{PyClass, ffi};

use super::call::Name;
use super::cell::{GilValue, ObjCell};
use super::instance::Visitor;
use super::obj::Obj;

#[repr(C)]
pub(crate) struct Attributes {
    dict: ObjCell,
    weak_references: GilValue<*mut ffi::PyObject>,
}

impl Attributes {
    pub(super) const DICT: usize = offset_of!(Attributes, dict);
    pub(super) const WEAK_REFERENCES: usize = offset_of!(Attributes, weak_references);

    pub(crate) const fn empty() -> Attributes {
        Attributes { dict: ObjCell::empty(), weak_references: GilValue::new(std::ptr::null_mut()) }
    }

    /// Whether anybody gave the instance an attribute of its own, which may be a method.
    #[inline]
    pub(crate) fn has_dict(&self) -> bool {
        self.dict.is_some()
    }

    /// The instance dict, if there is one.
    pub(crate) fn dict(&self) -> Option<Obj> {
        self.dict.get()
    }

    pub(crate) fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.cell(&self.dict);
    }

    pub(crate) fn clear(&self) {
        self.dict.set(None);
    }
}

/// Whether anybody gave an instance of a PyO3 class attributes of its own, which may be methods: then it is asked by name
/// what it would else be told natively. `false` for a class without an instance dict.
#[inline]
pub(crate) fn has_own<T: PyClass>(object: &Bound<'_, T>) -> bool {
    let object = object.as_ptr();
    // SAFETY: alive as long as it is borrowed.
    may_have_own(unsafe { Obj::view(&object) })
}

/// Whether an object has an attribute of its own with this name.
#[inline]
pub(crate) fn has_own_named(object: &Obj, name: &'static Name) -> bool {
    may_have_own(object) && is_among_own(object, name)
}

#[cold]
fn is_among_own(object: &Obj, name: &'static Name) -> bool {
    // SAFETY: a live object, that has an instance dict by what its type says; the name is a str, and so nothing of the program's
    // runs to compare it with other strs. What other keys raise is nobody's here.
    unsafe {
        let dict = ffi::PyObject_GenericGetDict(object.as_ptr(), std::ptr::null_mut());
        if dict.is_null() {
            ffi::PyErr_Clear();
            return false;
        }
        let found = ffi::PyDict_Contains(dict, name.as_ptr());
        ffi::Py_DECREF(dict);
        if found < 0 {
            ffi::PyErr_Clear();
        }
        found > 0
    }
}

/// Whether any object has attributes of its own. An instance dict that the interpreter keeps elsewhere counts as one.
#[inline]
pub(crate) fn may_have_own(object: &Obj) -> bool {
    // SAFETY: a live object; its type says where in it the pointer to the dict lies (behind the header, if there is one), which
    // is null or a dict.
    unsafe {
        let offset = (*object.type_ptr()).tp_dictoffset;
        if offset <= 0 {
            return offset < 0;
        }
        let dict = object.as_ptr().byte_offset(offset).cast::<*mut ffi::PyObject>().read();
        !dict.is_null() && ffi::PyDict_Size(dict) != 0
    }
}
