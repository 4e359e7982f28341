//! Stand-in until the native task lands.
use crate::raw::{RawResult, obj::Obj};
use pyo3::prelude::*;
pub(crate) fn step(_py: Python<'_>, _task: &Obj) -> RawResult<()> {
    unreachable!()
}
pub(crate) fn wakeup(_py: Python<'_>, _task: &Obj, _future: &Obj) -> RawResult<()> {
    unreachable!()
}
