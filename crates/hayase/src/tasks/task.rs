//! Stand-in until the native task lands.
use super::scheduler::LoopRef;
use crate::raw::{RawResult, obj::Obj, to_raw};
use pyo3::prelude::*;
pub(crate) fn make(
    py: Python<'_>,
    event_loop: LoopRef,
    coro: Obj,
    name: Option<Obj>,
    context: Option<Obj>,
    eager: bool,
) -> RawResult<Obj> {
    let kw = pyo3::types::PyDict::new(py);
    let r = (|| {
        kw.set_item("loop", event_loop.object().expect("loop").into_bound(py))?;
        if let Some(n) = name {
            kw.set_item("name", n.into_bound(py))?;
        }
        if let Some(c) = context {
            kw.set_item("context", c.into_bound(py))?;
        }
        if eager {
            kw.set_item("eager_start", true)?;
        }
        py.import("asyncio")?
            .getattr("Task")?
            .call((coro.into_bound(py),), Some(&kw))
    })();
    to_raw(py, r).map(Obj::from_bound)
}
