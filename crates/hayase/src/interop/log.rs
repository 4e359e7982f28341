//! The `asyncio` logger, looked up at every use because programs and tests replace it.

use pyo3::prelude::*;

pub(crate) fn logger(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("asyncio.log")?.getattr("logger")
}
