//! Which loop a primitive belongs to: the one that runs when somebody waits for the first time.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_raw};
use crate::tasks::scheduler::LoopRef;
use crate::tasks::wait;

pub(super) struct Binding(LoopRef);

impl Binding {
    pub(super) fn none() -> Binding {
        Binding(LoopRef::unset())
    }

    /// A future of the running loop for somebody who waits for `this`, which from now on belongs to that loop.
    #[inline]
    pub(super) fn create_future(&self, py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        if !wait::runs_here(&self.0) {
            self.bind(py, this)?;
        }
        wait::create_future(py, &self.0)
    }

    /// `_get_loop()`, for subclasses: the running loop, to which `this` belongs from now on.
    pub(super) fn running_loop(&self, py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        self.bind(py, this)?;
        wait::running_loop(py)
    }

    fn bind(&self, py: Python<'_>, this: &Obj) -> RawResult<()> {
        let running = wait::running_loop(py)?;
        if self.0.as_ptr().is_null() {
            if running.is_none() {
                return Ok(());
            }
            self.0.set(&LoopRef::new(running.clone()));
        }
        if running.is(self.0.as_ptr()) { Ok(()) } else { Err(different_loop(py, this)) }
    }

    /// `_loop`
    pub(super) fn get(&self, py: Python<'_>) -> Obj {
        self.0.object().unwrap_or_else(|| Obj::none(py))
    }

    pub(super) fn set(&self, event_loop: &Obj) {
        if event_loop.is_none() {
            self.0.set(&LoopRef::unset());
        } else {
            self.0.set(&LoopRef::new(event_loop.clone()));
        }
    }

    pub(super) fn visit(&self, visitor: &mut Visitor<'_>) {
        self.0.visit(visitor);
    }

    pub(super) fn clear(&self) {
        self.0.clear();
    }
}

#[cold]
fn different_loop(py: Python<'_>, this: &Obj) -> Raised {
    match to_raw(py, this.borrow(py).repr().map(|repr| repr.to_string_lossy().into_owned())) {
        Ok(repr) => Raised::from_err(py, PyRuntimeError::new_err(format!("{repr} is bound to a different event loop"))),
        Err(raised) => raised,
    }
}
