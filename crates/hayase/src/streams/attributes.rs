//! References as Python attributes, and whether a method is still ours.

use pyo3::prelude::*;
use pyo3::types::PyCFunction;

use crate::raw::obj::Obj;

/// The object, or None.
pub(super) fn to_python(py: Python<'_>, object: Option<Obj>) -> Py<PyAny> {
    match object {
        Some(object) => object.into_bound(py).unbind(),
        None => py.None(),
    }
}

/// Whether a method of an object of ours is the extension's, replaced neither by a subclass nor on the instance. (Asked
/// so, and not through `__dict__`, which would be made by the question.)
pub(super) fn is_native_method(object: &Bound<'_, PyAny>, name: &str) -> bool {
    object.getattr(name).is_ok_and(|method| method.is_instance_of::<PyCFunction>())
}
