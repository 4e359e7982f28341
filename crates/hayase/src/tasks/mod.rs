//! Handles, futures, tasks, one step, the ready queue; no I/O.
//!
//! The types' memory and slots are in `raw`; what is here is safe Rust on their values.

pub(crate) mod asyncio_task;
pub(crate) mod current;
pub(crate) mod future;
pub(crate) mod future_core;
pub(crate) mod future_iterator;
pub(crate) mod handle;
pub(crate) mod linked;
pub(crate) mod native_call;
pub(crate) mod ready;
pub(crate) mod scheduler;
pub(crate) mod step;
pub(crate) mod task;
pub(crate) mod thread_safe_handle;
pub(crate) mod timers;
pub(crate) mod wait;

use pyo3::prelude::*;
use pyo3::types::PyModule;

use crate::raw::{stop_iteration, to_py};

pub(crate) use task::recognise_wakeup;

/// Makes the types `Future` and `Task` and puts them into `hayase._core`.
pub(crate) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    to_py(py, stop_iteration::init())?;
    future::init(py, module)?;
    task::init(py, module)
}
