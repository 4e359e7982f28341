//! Handles, futures, tasks, one step, the ready queue; no I/O.
//!
//! The types' memory and slots are in `raw`; what is here is safe Rust on their values.

pub(crate) mod handle;
pub(crate) mod ready;
pub(crate) mod scheduler;
