//! Heap types whose instances carry Rust data: made once per process from a table of slots.
//!
//! The data of a type with a foreign base (`_asyncio.Future`) lies behind the base's, at the base's run-time size, so
//! that no layout of the interpreter is compiled in. Tables are leaked: a type lives as long as the process.

use std::ffi::{CStr, c_int, c_void};

use pyo3::ffi;

use super::RawResult;
use super::fastcall::FastcallFunction;
use super::obj::Obj;

/// Builds one type. Order of calls does not matter; [`TypeBuilder::build`] makes it.
pub(crate) struct TypeBuilder {
    name: &'static CStr,
    basic_size: usize,
    flags: u64,
    slots: Vec<ffi::PyType_Slot>,
    methods: Vec<ffi::PyMethodDef>,
    getters: Vec<ffi::PyGetSetDef>,
    members: Vec<ffi::PyMemberDef>,
}

impl TypeBuilder {
    /// `basic_size` is the whole size of an instance in bytes, the base's part included.
    pub(crate) fn new(name: &'static CStr, basic_size: usize, flags: u64) -> TypeBuilder {
        TypeBuilder { name, basic_size, flags, slots: vec![], methods: vec![], getters: vec![], members: vec![] }
    }

    pub(crate) fn slot(mut self, slot: c_int, function: *mut c_void) -> Self {
        self.slots.push(ffi::PyType_Slot { slot, pfunc: function });
        self
    }

    pub(crate) fn noargs(self, name: &'static CStr, doc: &'static CStr, function: ffi::PyCFunction) -> Self {
        self.method(name, doc, ffi::METH_NOARGS, ffi::PyMethodDefPointer { PyCFunction: function })
    }

    pub(crate) fn onearg(self, name: &'static CStr, doc: &'static CStr, function: ffi::PyCFunction) -> Self {
        self.method(name, doc, ffi::METH_O, ffi::PyMethodDefPointer { PyCFunction: function })
    }

    pub(crate) fn fastcall(self, name: &'static CStr, doc: &'static CStr, function: FastcallFunction) -> Self {
        self.method(
            name,
            doc,
            ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
            ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: function },
        )
    }

    /// A method with any flags (`METH_CLASS`, ...).
    pub(crate) fn method(
        mut self,
        name: &'static CStr,
        doc: &'static CStr,
        flags: c_int,
        function: ffi::PyMethodDefPointer,
    ) -> Self {
        self.methods.push(ffi::PyMethodDef {
            ml_name: name.as_ptr(),
            ml_meth: function,
            ml_flags: flags,
            ml_doc: doc.as_ptr(),
        });
        self
    }

    pub(crate) fn getset(mut self, name: &'static CStr, get: ffi::getter, set: Option<ffi::setter>) -> Self {
        self.getters.push(ffi::PyGetSetDef {
            name: name.as_ptr(),
            get: Some(get),
            set,
            doc: std::ptr::null(),
            closure: std::ptr::null_mut(),
        });
        self
    }

    /// A special member such as `__weaklistoffset__`.
    pub(crate) fn offset_member(mut self, name: &'static CStr, offset: usize) -> Self {
        self.members.push(ffi::PyMemberDef {
            name: name.as_ptr(),
            type_code: ffi::Py_T_PYSSIZET,
            offset: offset as ffi::Py_ssize_t,
            flags: ffi::Py_READONLY,
            doc: std::ptr::null(),
        });
        self
    }

    /// Makes the type; `base` is null for `object`.
    pub(crate) fn build(mut self, base: *mut ffi::PyTypeObject) -> RawResult<Obj> {
        // SAFETY: all-zero entries end the tables, as the interpreter wants.
        unsafe {
            self.methods.push(std::mem::zeroed());
            self.getters.push(std::mem::zeroed());
            self.members.push(std::mem::zeroed());
        }
        self.slots.push(ffi::PyType_Slot { slot: ffi::Py_tp_methods, pfunc: leak(self.methods) });
        self.slots.push(ffi::PyType_Slot { slot: ffi::Py_tp_getset, pfunc: leak(self.getters) });
        self.slots.push(ffi::PyType_Slot { slot: ffi::Py_tp_members, pfunc: leak(self.members) });
        self.slots.push(ffi::PyType_Slot { slot: 0, pfunc: std::ptr::null_mut() });
        let mut spec = ffi::PyType_Spec {
            name: self.name.as_ptr(),
            basicsize: self.basic_size as c_int,
            itemsize: 0,
            flags: self.flags as std::ffi::c_uint,
            slots: leak(self.slots).cast(),
        };
        // SAFETY: the tables are leaked, so they outlive the type; the slots hold functions of the right signatures,
        // which the callers of `slot` vouch for.
        unsafe {
            let bases = if base.is_null() {
                None
            } else {
                Some(Obj::from_owned(ffi::PyTuple_Pack(1, base.cast::<ffi::PyObject>()))?)
            };
            Obj::from_owned(ffi::PyType_FromSpecWithBases(
                &mut spec,
                bases.as_ref().map_or(std::ptr::null_mut(), Obj::as_ptr),
            ))
        }
    }
}

fn leak<T>(table: Vec<T>) -> *mut c_void {
    Box::leak(table.into_boxed_slice()).as_mut_ptr().cast()
}
