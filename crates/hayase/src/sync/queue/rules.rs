//! The core of a queue: when there is room, what putting and getting do, who is woken.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::{Limit, Queue};
use crate::interop::imports;
use crate::raw::call::{self, Name};
use crate::raw::instance::Ref;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_raw};
use crate::sync::event::Event;
use crate::sync::waiters::Waiters;
use crate::tasks::wait;

static EMPTY: Name = Name::new(c"empty");
static FULL: Name = Name::new(c"full");
static GET: Name = Name::new(c"_get");
static GET_NOWAIT: Name = Name::new(c"get_nowait");
static PUT: Name = Name::new(c"_put");
static PUT_NOWAIT: Name = Name::new(c"put_nowait");
static QSIZE: Name = Name::new(c"qsize");

/// What a subclass may override is asked by name if it does.
impl Ref<Queue> {
    pub(super) fn len(&self, py: Python<'_>) -> RawResult<usize> {
        self.storage.len(py)
    }

    #[inline]
    pub(super) fn is_empty(&self, py: Python<'_>) -> RawResult<bool> {
        if self.overridden.get() {
            return call::is_true(py, &call::method(py, self.as_obj(), &EMPTY, &[])?);
        }
        Ok(self.storage.len(py)? == 0)
    }

    #[inline]
    pub(super) fn is_full(&self, py: Python<'_>) -> RawResult<bool> {
        if self.overridden.get() {
            return call::is_true(py, &call::method(py, self.as_obj(), &FULL, &[])?);
        }
        self.full_by_size(py)
    }

    /// `full()` of this class.
    #[inline]
    pub(super) fn full_by_size(&self, py: Python<'_>) -> RawResult<bool> {
        match self.limit.get() {
            Limit::None => Ok(false),
            Limit::Items(limit) if self.overridden.get() => {
                let size = call::method(py, self.as_obj(), &QSIZE, &[])?;
                to_raw(py, size.borrow(py).ge(limit))
            }
            Limit::Items(limit) => Ok(self.storage.len(py)? >= limit),
            Limit::Strange => {
                let maxsize = self.maxsize.get().unwrap_or_else(|| Obj::none(py));
                let compare = || -> PyResult<bool> {
                    let maxsize = maxsize.borrow(py);
                    if maxsize.le(0)? {
                        return Ok(false);
                    }
                    maxsize.le(crate::raw::to_py(py, self.storage.len(py))?)
                };
                to_raw(py, compare())
            }
        }
    }

    /// `put_nowait` as `put` calls it, which has seen that there is room.
    #[inline]
    pub(super) fn put_nowait(&self, py: Python<'_>, item: Obj) -> RawResult<Obj> {
        if self.overridden.get() {
            return call::method(py, self.as_obj(), &PUT_NOWAIT, &[&item]);
        }
        if self.is_shutdown.get() {
            return Err(shut_down_error(py));
        }
        self.add(py, item)?;
        Ok(Obj::none(py))
    }

    /// `get_nowait` as `get` calls it, which has seen that there is something.
    #[inline]
    pub(super) fn get_nowait(&self, py: Python<'_>) -> RawResult<Obj> {
        if self.overridden.get() {
            return call::method(py, self.as_obj(), &GET_NOWAIT, &[]);
        }
        self.remove(py)
    }

    /// `put_nowait` of this class.
    #[inline]
    pub(super) fn put_now(&self, py: Python<'_>, item: Obj) -> RawResult<()> {
        if self.is_shutdown.get() {
            return Err(shut_down_error(py));
        }
        if self.is_full(py)? {
            return Err(raise(py, imports::queue_full(py)));
        }
        self.add(py, item)
    }

    #[inline]
    fn add(&self, py: Python<'_>, item: Obj) -> RawResult<()> {
        if self.overridden.get() {
            call::method(py, self.as_obj(), &PUT, &[&item])?;
        } else {
            self.storage.put(py, self.storage.order(), item)?;
        }
        self.unfinished.set(self.unfinished.get() + 1);
        if let Some(finished) = self.finished() {
            finished.unset();
        }
        self.getters.pop_and_wake(py)
    }

    /// `get_nowait` of this class.
    #[inline]
    pub(super) fn get_now(&self, py: Python<'_>) -> RawResult<Obj> {
        if self.is_empty(py)? {
            if self.is_shutdown.get() {
                return Err(shut_down_error(py));
            }
            return Err(raise(py, imports::queue_empty(py)));
        }
        self.remove(py)
    }

    #[inline]
    fn remove(&self, py: Python<'_>) -> RawResult<Obj> {
        let item = self.take(py)?;
        self.putters.pop_and_wake(py)?;
        Ok(item)
    }

    #[inline]
    fn take(&self, py: Python<'_>) -> RawResult<Obj> {
        if self.overridden.get() {
            return call::method(py, self.as_obj(), &GET, &[]);
        }
        self.storage.get(py, self.storage.order())
    }

    pub(super) fn task_done(&self, py: Python<'_>) -> RawResult<()> {
        let Some(unfinished) = self.unfinished.get().checked_sub(1) else {
            return Err(Raised::from_err(py, PyValueError::new_err("task_done() called too many times")));
        };
        self.unfinished.set(unfinished);
        self.announce_finished(py)
    }

    fn announce_finished(&self, py: Python<'_>) -> RawResult<()> {
        match self.finished() {
            Some(finished) if self.unfinished.get() == 0 => finished.set(py),
            Some(_) | None => Ok(()),
        }
    }

    pub(super) fn shut_down(&self, py: Python<'_>, immediate: bool) -> RawResult<()> {
        self.is_shutdown.set(true);
        if immediate {
            while !self.is_empty(py)? {
                drop(self.take(py)?);
                self.unfinished.set(self.unfinished.get().saturating_sub(1));
            }
            self.announce_finished(py)?;
        }
        // They look again, and raise.
        self.getters.pop_and_wake_all(py)?;
        self.putters.pop_and_wake_all(py)
    }

    fn finished(&self) -> Option<Ref<Event>> {
        let finished = self.finished.get()?;
        Ref::<Event>::view_instance(&finished).cloned()
    }

    /// A waiter of `line` failed: out of the line. If it had been woken already, the next one has its turn: `has_room` says
    /// whether there is something to be had.
    pub(super) fn give_up(
        &self,
        py: Python<'_>,
        line: &Waiters,
        waiter: &Obj,
        has_turn: impl FnOnce() -> RawResult<bool>,
    ) -> RawResult<()> {
        wait::cancel(py, waiter)?;
        line.remove(py, waiter)?;
        if has_turn()? && !wait::is_cancelled(py, waiter)? {
            line.pop_and_wake(py)?;
        }
        Ok(())
    }
}

#[cold]
fn raise(py: Python<'_>, class: PyResult<&Bound<'_, PyAny>>) -> Raised {
    match class.and_then(|class| class.call0()) {
        Ok(error) => Raised::from_err(py, PyErr::from_value(error)),
        Err(err) => Raised::from_err(py, err),
    }
}

#[cold]
pub(super) fn shut_down_error(py: Python<'_>) -> Raised {
    raise(py, imports::queue_shut_down(py))
}
