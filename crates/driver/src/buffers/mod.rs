//! Bytes on their way: what arrived and waits for its reader, what is queued for the kernel, and when the program should pause.

mod flow_control;
mod read_buffer;
mod write_queue;

pub use flow_control::{FlowChange, FlowControl, LimitsError};
pub use read_buffer::{Progress, ReadBuffer, Scan, Separators, SeparatorsError};
pub use write_queue::{IO_SLICES_MAX, IoSlices, WriteQueue};
