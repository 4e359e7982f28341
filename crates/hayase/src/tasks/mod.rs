//! Handles, futures, tasks, one step, the ready queue; no I/O.
//!
//! The types' memory and slots are in `raw`; what is here is safe Rust on their values.

pub(crate) mod current;
pub(crate) mod future;
pub(crate) mod handle;
pub(crate) mod ready;
pub(crate) mod scheduler;
pub(crate) mod step;
pub(crate) mod task;

use pyo3::prelude::*;

use crate::raw::fastcall::Rest;
use crate::raw::obj::Obj;
use ready::Ready;

/// Stand-in until the native task lands.
pub(crate) fn recognise_wakeup(_py: Python<'_>, _callback: &Obj, _args: &Rest) -> Option<Ready> {
    None
}
