//! Stand-in until the native future lands.
use super::scheduler::LoopRef;
use crate::raw::call;
use crate::raw::{RawResult, obj::Obj, to_raw};
use pyo3::prelude::*;
pub(crate) fn make(py: Python<'_>, event_loop: LoopRef) -> RawResult<Obj> {
    let _ = call::call0;
    let kw = pyo3::types::PyDict::new(py);
    to_raw(
        py,
        kw.set_item("loop", event_loop.object().expect("loop").into_bound(py)),
    )?;
    to_raw(
        py,
        py.import("asyncio")
            .and_then(|m| m.getattr("Future"))
            .and_then(|f| f.call((), Some(&kw))),
    )
    .map(Obj::from_bound)
}
