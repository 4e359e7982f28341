//! The operations on a dict that run per step.

use pyo3::exceptions::PyKeyError;
use pyo3::{Python, ffi};

use super::obj::Obj;
use super::{Raised, RawResult};

/// `dict.get(key)`
#[inline]
pub(crate) fn get(_py: Python<'_>, dict: &Obj, key: &Obj) -> RawResult<Option<Obj>> {
    // SAFETY: as in `set`; a borrowed reference, which is counted before anything else runs, or null, with an exception only if
    // the key could not be asked.
    unsafe {
        let value = ffi::PyDict_GetItemWithError(dict.as_ptr(), key.as_ptr());
        if !value.is_null() {
            return Ok(Some(Obj::from_borrowed(value)));
        }
        if ffi::PyErr_Occurred().is_null() { Ok(None) } else { Err(Raised) }
    }
}

/// `dict[key] = value`
#[inline]
pub(crate) fn set(_py: Python<'_>, dict: &Obj, key: &Obj, value: &Obj) -> RawResult<()> {
    // SAFETY: all alive; an object that is no dict is answered with SystemError.
    if unsafe { ffi::PyDict_SetItem(dict.as_ptr(), key.as_ptr(), value.as_ptr()) } < 0 { Err(Raised) } else { Ok(()) }
}

/// `dict.setdefault(key, value)`: whether `value` is what stands there now.
#[inline]
pub(crate) fn set_if_missing(_py: Python<'_>, dict: &Obj, key: &Obj, value: &Obj) -> RawResult<bool> {
    // SAFETY: as in `set`; the answer is a borrowed reference that is only compared.
    let standing = unsafe { ffi::PyDict_SetDefault(dict.as_ptr(), key.as_ptr(), value.as_ptr()) };
    if standing.is_null() {
        return Err(Raised);
    }
    Ok(value.is(standing))
}

/// `dict.pop(key, None)`
#[inline]
pub(crate) fn remove(py: Python<'_>, dict: &Obj, key: &Obj) -> RawResult<()> {
    // SAFETY: as in `set`.
    if unsafe { ffi::PyDict_DelItem(dict.as_ptr(), key.as_ptr()) } == 0 {
        return Ok(());
    }
    let err = Raised.fetch(py);
    if err.is_instance_of::<PyKeyError>(py) {
        return Ok(());
    }
    Err(Raised::from_err(py, err))
}
