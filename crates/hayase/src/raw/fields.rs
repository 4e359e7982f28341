//! Attributes of a PyO3 class that are fields of its value: a line each, instead of a getter and a setter.

use std::ffi::{CStr, c_int, c_void};

use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::{PyClass, ffi};

use super::cell::{GilValue, ObjCell};
use super::loop_ref::LoopRef;
use super::obj::Obj;
use super::table::conjure;
use super::{Raised, RawResult, call, entry, entry_int};

/// What Python sees of a field, and what it may put there.
pub(crate) trait Field: 'static {
    fn read(&self, py: Python<'_>) -> Obj;
    fn write(&self, py: Python<'_>, value: &Obj) -> RawResult<()>;
}

/// An object; None is an empty cell.
impl Field for ObjCell {
    fn read(&self, py: Python<'_>) -> Obj {
        self.get().unwrap_or_else(|| Obj::none(py))
    }
    fn write(&self, _py: Python<'_>, value: &Obj) -> RawResult<()> {
        self.set((!value.is_none()).then(|| value.clone()));
        Ok(())
    }
}

impl Field for GilValue<bool> {
    fn read(&self, py: Python<'_>) -> Obj {
        Obj::bool(py, self.get())
    }
    fn write(&self, py: Python<'_>, value: &Obj) -> RawResult<()> {
        self.set(call::is_true(py, value)?);
        Ok(())
    }
}

impl<S: 'static> Field for LoopRef<S> {
    fn read(&self, py: Python<'_>) -> Obj {
        self.object().unwrap_or_else(|| Obj::none(py))
    }
    fn write(&self, _py: Python<'_>, value: &Obj) -> RawResult<()> {
        self.set(&LoopRef::new(value.clone()));
        Ok(())
    }
}

/// Gives the class `C` the attribute `name`; `_field` says which field it is.
pub(crate) fn add<C, T, F>(py: Python<'_>, name: &'static CStr, _field: F) -> PyResult<()>
where
    C: PyClass<Frozen = True> + Sync,
    T: Field,
    F: Fn(&C) -> &T + Copy + 'static,
{
    let class = py.get_type::<C>();
    let def = Box::leak(Box::new(ffi::PyGetSetDef {
        name: name.as_ptr(),
        get: Some(getter::<C, T, F>),
        set: Some(setter::<C, T, F>),
        doc: std::ptr::null(),
        closure: std::ptr::null_mut(),
    }));
    // SAFETY: the definition lives for ever (leaked, once per attribute and process); the class is a heap type of ours.
    let descriptor = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyDescr_NewGetSet(class.as_type_ptr(), def))? };
    class.setattr(name.to_str().expect("names are ASCII"), descriptor)
}

/// Runs `f` on the field of `this`.
///
/// # Safety
/// `this` is a live instance of the class `C`, or of a subclass.
unsafe fn with_field<C, T, F, R>(py: Python<'_>, this: *mut ffi::PyObject, f: impl FnOnce(&T) -> R) -> R
where
    C: PyClass<Frozen = True> + Sync,
    F: Fn(&C) -> &T + Copy + 'static,
{
    // SAFETY: by contract; `C` is frozen, so shared references to its value are all there are.
    let receiver = unsafe { Obj::view(&this).borrow(py).cast_unchecked::<C>() };
    f(conjure::<F>()(receiver.get()))
}

unsafe extern "C" fn getter<C, T, F>(this: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject
where
    C: PyClass<Frozen = True> + Sync,
    T: Field,
    F: Fn(&C) -> &T + Copy + 'static,
{
    // SAFETY: the descriptor, made for the class `C` by `add`, checked `self`, which is alive during the call.
    entry(|py| Ok(unsafe { with_field::<C, T, F, _>(py, this, |field| field.read(py)) }))
}

unsafe extern "C" fn setter<C, T, F>(this: *mut ffi::PyObject, value: *mut ffi::PyObject, _: *mut c_void) -> c_int
where
    C: PyClass<Frozen = True> + Sync,
    T: Field,
    F: Fn(&C) -> &T + Copy + 'static,
{
    entry_int(|py| {
        if value.is_null() {
            return Err(Raised::from_err(py, PyAttributeError::new_err("cannot delete attribute")));
        }
        // SAFETY: as in `getter`; the value is alive during the call.
        unsafe { with_field::<C, T, F, _>(py, this, |field| field.write(py, Obj::view(&value))) }.map(|()| 0)
    })
}
