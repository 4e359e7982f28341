//! The two operations on a dict that run per step.

use pyo3::{Python, ffi};

use super::obj::Obj;
use super::{Raised, RawResult};

/// `dict[key] = value`
#[inline]
pub(crate) fn set(_py: Python<'_>, dict: &Obj, key: &Obj, value: &Obj) -> RawResult<()> {
    // SAFETY: all alive; an object that is no dict is answered with SystemError.
    if unsafe { ffi::PyDict_SetItem(dict.as_ptr(), key.as_ptr(), value.as_ptr()) } < 0 {
        Err(Raised)
    } else {
        Ok(())
    }
}

/// `dict.pop(key, None)`
#[inline]
pub(crate) fn remove(_py: Python<'_>, dict: &Obj, key: &Obj) -> RawResult<()> {
    // SAFETY: as in `set`; the key is known to be there when it is deleted, as nothing runs in between but its
    // `__hash__` and `__eq__`, and then a KeyError is the right answer.
    let status = unsafe {
        match ffi::PyDict_Contains(dict.as_ptr(), key.as_ptr()) {
            0 => 0,
            1 => ffi::PyDict_DelItem(dict.as_ptr(), key.as_ptr()),
            _ => -1,
        }
    };
    if status < 0 { Err(Raised) } else { Ok(()) }
}
