//! hayase._core: Python's asyncio in Rust. This file is the module tree that Python sees.

#[allow(unsafe_code)]
mod raw;
mod interop;
mod runtime;
mod tasks;

use pyo3::prelude::*;

#[pymodule]
mod _core {}
