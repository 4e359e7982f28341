//! Copying and pickling, as of asyncio's own classes: programs copy objects that hold a lock.
//!
//! The copy is made without `__init__`, then gets the attributes. Waiters and a loop are among them if there are any; they
//! cannot be copied, so the error is asyncio's.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::binding::Binding;
use super::waiters::Waiters;
use crate::interop::imports;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_raw};

/// The attributes of a copy.
pub(super) struct Copied {
    own: Option<Obj>,
    attributes: Vec<(&'static str, Obj)>,
}

impl Copied {
    /// `own` is the instance dict, `attributes` what the class itself keeps.
    pub(super) fn new(own: Option<Obj>, attributes: Vec<(&'static str, Obj)>) -> Copied {
        Copied { own, attributes }
    }

    /// The waiters too, if there are any.
    pub(super) fn waiters(mut self, py: Python<'_>, name: &'static str, waiters: &Waiters) -> RawResult<Copied> {
        if !waiters.is_empty(py) {
            self.attributes.push((name, waiters.as_deque(py)?));
        }
        Ok(self)
    }

    /// What `__reduce__` of `this` returns.
    pub(super) fn reduce(mut self, py: Python<'_>, this: &Obj, binding: &Binding) -> RawResult<Obj> {
        let event_loop = binding.get(py);
        if !event_loop.is_none() {
            self.attributes.push(("_loop", event_loop));
        }
        let reduced = || -> PyResult<Obj> {
            let attributes = PyDict::new(py);
            for (name, value) in self.attributes {
                attributes.set_item(name, value.into_bound(py))?;
            }
            let own = self.own.map_or_else(|| py.None().into_bound(py), |own| own.into_bound(py));
            let class = PyTuple::new(py, [this.borrow(py).get_type()])?;
            // A pair: the first goes into the instance dict, the second is set attribute by attribute.
            let state = PyTuple::new(py, [own, attributes.into_any()])?;
            let make = imports::new_object(py)?.clone();
            Ok(Obj::from_bound(PyTuple::new(py, [make, class.into_any(), state.into_any()])?))
        };
        to_raw(py, reduced())
    }
}
