//! Bytes on their way: what is queued for the kernel, and when the program should pause.

mod flow_control;
mod write_queue;

pub use flow_control::{FlowChange, FlowControl, LimitsError};
pub use write_queue::{IO_SLICES_MAX, IoSlices, WriteQueue};
