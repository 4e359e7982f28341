//! The marks at which a protocol's writing is paused and resumed, as programs give them: `high` and `low`, in bytes.

use driver::FlowControl;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::raw::cell::GilCell;

/// `set_write_buffer_limits(high, low)` but for the pausing.
pub(super) fn set(
    flow: &GilCell<FlowControl>,
    py: Python<'_>,
    high: Option<&Bound<'_, PyAny>>,
    low: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let (high_mark, low_mark) = (bytes(high)?, bytes(low)?);
    if let (Err(()), _) | (_, Err(())) = (high_mark, low_mark) {
        return Err(error(high, low));
    }
    let (high_mark, low_mark) = (high_mark.ok().flatten(), low_mark.ok().flatten());
    flow.with(py, |flow| flow.set_limits(high_mark, low_mark)).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// A mark as bytes; `Err` for a negative one.
pub(super) fn bytes(value: Option<&Bound<'_, PyAny>>) -> PyResult<Result<Option<usize>, ()>> {
    match value {
        None => Ok(Ok(None)),
        Some(value) if value.is_none() => Ok(Ok(None)),
        Some(value) if value.lt(0)? => Ok(Err(())),
        // More than memory can hold is as good as unlimited.
        Some(value) => Ok(Ok(Some(value.extract().unwrap_or(usize::MAX)))),
    }
}

/// asyncio fills in the missing mark before it complains.
pub(super) fn error(high: Option<&Bound<'_, PyAny>>, low: Option<&Bound<'_, PyAny>>) -> PyErr {
    let number = |value: Option<&Bound<'_, PyAny>>| value.and_then(|value| value.extract::<i128>().ok());
    let (high, low) = match (number(high), number(low)) {
        (Some(high), Some(low)) => (high, low),
        (Some(high), None) => (high, high.div_euclid(4)),
        (None, Some(low)) => (low.saturating_mul(4), low),
        (None, None) => (0, 0),
    };
    PyValueError::new_err(format!("high ({high}) must be >= low ({low}) must be >= 0"))
}
