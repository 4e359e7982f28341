//! `__class__` of our locks, queues, task groups and timeouts: the class of that name that asyncio has now, so that
//! `isinstance(hayase.Queue(), asyncio.Queue)` holds without inheriting from it. After `hayase.install()` that is ours.
//!
//! A subclass, which is somebody else's, answers itself.

use pyo3::prelude::*;

use crate::raw::instance::{Data, Ref};
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_raw};

pub(crate) fn of<T: Data>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    to_raw(py, find(&this.as_obj().borrow(py))).map(Obj::from_bound)
}

fn find<'py>(this: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    let class = this.get_type();
    // Ours are called hayase.locks.Lock, asyncio's asyncio.locks.Lock.
    match class.module()?.to_str()?.strip_prefix("hayase.") {
        Some(module) => this.py().import(format!("asyncio.{module}"))?.getattr(class.name()?),
        None => Ok(class.into_any()),
    }
}
