//! The marks at which a protocol's writing is paused and resumed, as programs give them: `high` and `low`, in bytes.

use driver::FlowControl;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyInt;

use crate::raw::cell::GilCell;

type Given<'a, 'py> = Option<&'a Bound<'py, PyAny>>;

/// `set_write_buffer_limits(high, low)` but for the pausing.
pub(super) fn set(
    flow: &GilCell<FlowControl>,
    py: Python<'_>,
    high: Given<'_, '_>,
    low: Given<'_, '_>,
) -> PyResult<()> {
    let (low, high) = of(high, low)?.unzip();
    flow.with(py, |flow| flow.set_limits(high, low)).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// (low, high); a missing one is four times or a quarter of the other. Computed and compared by Python, as asyncio does it:
/// half a megabyte is often `0.5 * 2**20`.
pub(super) fn of(high: Given<'_, '_>, low: Given<'_, '_>) -> PyResult<Option<(usize, usize)>> {
    let (high, low) = match (given(high), given(low)) {
        (None, None) => return Ok(None),
        (None, Some(low)) => (PyInt::new(low.py(), 4).mul(&low)?, low),
        (Some(high), None) => (high.clone(), high.floor_div(4)?),
        (Some(high), Some(low)) => (high, low),
    };
    if !(high.ge(&low)? && low.ge(0)?) {
        let text = format!("high ({}) must be >= low ({}) must be >= 0", high.repr()?, low.repr()?);
        return Err(PyValueError::new_err(text));
    }
    Ok(Some((bytes(&low)?, bytes(&high)?)))
}

fn given<'py>(mark: Given<'_, 'py>) -> Option<Bound<'py, PyAny>> {
    mark.filter(|mark| !mark.is_none()).cloned()
}

/// Whole bytes. More than memory can hold is as good as unlimited.
fn bytes(mark: &Bound<'_, PyAny>) -> PyResult<usize> {
    if mark.is_instance_of::<PyInt>() {
        return Ok(mark.extract().unwrap_or(usize::MAX));
    }
    Ok(mark.extract::<f64>()? as usize)
}
