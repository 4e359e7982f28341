//! The futures that a `wait` or an `as_completed` hears of, and the task that it is for.

use pyo3::prelude::*;
use pyo3::types::PySet;

use super::current_task;
use crate::raw::cell::ObjCell;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, compat, to_raw};
use crate::tasks::{current, linked};

pub(super) struct Watched {
    /// A set, which others cannot see but whose members may run code when they are asked; None before it begins.
    futures: ObjCell,
    /// Who waits, for `asyncio.capture_call_graph`.
    task: ObjCell,
}

impl Watched {
    pub(super) fn nothing() -> Watched {
        Watched { futures: ObjCell::empty(), task: ObjCell::empty() }
    }

    pub(super) fn cells(&self) -> [&ObjCell; 2] {
        [&self.futures, &self.task]
    }

    /// From now on `listener` hears of each that is done, and of those that are done already. Returns how many there are.
    pub(super) fn begin(&self, py: Python<'_>, futures: Bound<'_, PySet>, listener: &Obj) -> RawResult<usize> {
        if compat::CALL_GRAPH {
            let current = current_task(py)?;
            self.task.set((!current.is_none()).then_some(current));
        }
        self.futures.set(Some(Obj::from_bound(futures)));
        let members = self.members(py)?;
        for future in &members {
            linked::tell(py, future, listener)?;
            if let Some(task) = self.task.get() {
                current::add_to_awaited_by(py, future, &task)?;
            }
        }
        Ok(members.len())
    }

    /// The set, if there is anything in it.
    pub(super) fn set<'py>(&self, py: Python<'py>) -> RawResult<Option<Bound<'py, PySet>>> {
        let Some(futures) = self.futures.get() else {
            return Ok(None);
        };
        let futures = to_raw(py, futures.into_bound(py).cast_into::<PySet>().map_err(PyErr::from))?;
        Ok((!futures.is_empty()).then_some(futures))
    }

    /// All of them, apart from the set.
    pub(super) fn members(&self, py: Python<'_>) -> RawResult<Vec<Obj>> {
        let members = |all: Bound<'_, PySet>| all.try_iter()?.map(|one| one.map(Obj::from_bound)).collect();
        self.set(py)?.map_or(Ok(vec![]), |all| to_raw(py, members(all)))
    }

    /// One is done: the task no longer awaits it.
    pub(super) fn is_done(&self, py: Python<'_>, future: &Obj) -> RawResult<()> {
        match self.task.get() {
            Some(task) => current::discard_from_awaited_by(py, future, &task),
            None => Ok(()),
        }
    }

    /// `listener` hears of this one no more.
    pub(super) fn forget(&self, py: Python<'_>, future: &Obj, listener: &Obj) -> RawResult<()> {
        linked::do_not_tell(py, future, listener)?;
        self.is_done(py, future)
    }
}
