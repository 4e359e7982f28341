//! Stand-in until the native task lands.
use crate::raw::{RawResult, obj::Obj};
use pyo3::prelude::*;
pub(crate) fn before_callback(_py: Python<'_>, _event_loop: &Obj) -> RawResult<()> {
    Ok(())
}
pub(crate) fn leave_turn(_py: Python<'_>, _event_loop: &Obj) -> RawResult<()> {
    Ok(())
}
