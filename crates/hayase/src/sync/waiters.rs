//! A line of waiters, first come, first served.
//!
//! A waiter is a future: done when it was woken, cancelled when its task was. It stands in the line until whoever waits
//! takes it out, so that others see how many wait and cannot overtake those who were woken but did not run yet.
//!
//! The line is native until somebody reads `_waiters`: then it is the `deque` that they got, as with asyncio's.

use std::collections::VecDeque;

use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::interop::imports;
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilCell, ObjCell};
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_raw};
use crate::tasks::wait;

pub(super) struct Waiters {
    line: GilCell<VecDeque<Obj>>,
    /// The deque that somebody asked for; from then on it is the line.
    object: ObjCell,
}

static APPEND: Name = Name::new(c"append");
static POPLEFT: Name = Name::new(c"popleft");
static REMOVE: Name = Name::new(c"remove");

impl Waiters {
    pub(super) const fn new() -> Waiters {
        Waiters { line: GilCell::new(VecDeque::new()), object: ObjCell::empty() }
    }

    #[inline]
    pub(super) fn len(&self, py: Python<'_>) -> usize {
        match self.object.get() {
            None => self.line.with(py, |line| line.len()),
            // A deque knows its length.
            Some(object) => object.borrow(py).len().unwrap_or(0),
        }
    }

    #[inline]
    pub(super) fn is_empty(&self, py: Python<'_>) -> bool {
        self.len(py) == 0
    }

    #[inline]
    pub(super) fn push(&self, py: Python<'_>, waiter: Obj) -> RawResult<()> {
        match self.object.get() {
            None => self.line.append(py, waiter),
            Some(object) => call::method(py, &object, &APPEND, &[&waiter]).map(drop),
        }
    }

    /// Nothing happens if it was taken out before.
    #[inline]
    pub(super) fn remove(&self, py: Python<'_>, waiter: &Obj) -> RawResult<()> {
        match self.object.get() {
            None => {
                let removed = self.line.with(py, |line| {
                    if line.front().is_some_and(|first| first.is(waiter.as_ptr())) {
                        return line.pop_front();
                    }
                    let place = line.iter().position(|other| other.is(waiter.as_ptr()))?;
                    line.remove(place)
                });
                drop(removed);
                Ok(())
            }
            Some(object) => {
                if to_raw(py, object.borrow(py).contains(waiter.borrow(py)))? {
                    call::method(py, &object, &REMOVE, &[waiter])?;
                }
                Ok(())
            }
        }
    }

    #[inline]
    fn get(&self, py: Python<'_>, place: usize) -> Option<Obj> {
        match self.object.get() {
            None => self.line.with(py, |line| line.get(place).cloned()),
            Some(object) => object.borrow(py).get_item(place).ok().map(Obj::from_bound),
        }
    }

    #[inline]
    fn pop(&self, py: Python<'_>) -> Option<Obj> {
        match self.object.get() {
            None => self.line.with(py, VecDeque::pop_front),
            Some(_) if self.is_empty(py) => None,
            Some(object) => call::method(py, &object, &POPLEFT, &[]).ok(),
        }
    }

    /// Whether somebody stands in the line who was not cancelled.
    #[inline]
    pub(super) fn any_alive(&self, py: Python<'_>) -> RawResult<bool> {
        let mut place = 0;
        while let Some(waiter) = self.get(py, place) {
            if !wait::is_cancelled(py, &waiter)? {
                return Ok(true);
            }
            place += 1;
        }
        Ok(false)
    }

    /// Wakes the first of the line, unless that happened already (or it was cancelled and will look after the next one).
    #[inline]
    pub(super) fn wake_first(&self, py: Python<'_>) -> RawResult<()> {
        match self.get(py, 0) {
            Some(first) if !wait::is_done(py, &first)? => wait::set_result(py, &first, Obj::bool(py, true)),
            Some(_) | None => Ok(()),
        }
    }

    /// The first who was neither woken nor cancelled.
    #[inline]
    pub(super) fn first_pending(&self, py: Python<'_>) -> RawResult<Option<Obj>> {
        let mut place = 0;
        while let Some(waiter) = self.get(py, place) {
            if !wait::is_done(py, &waiter)? {
                return Ok(Some(waiter));
            }
            place += 1;
        }
        Ok(None)
    }

    /// Wakes up to `count` who wait, all with `value`; they stay in the line.
    pub(super) fn wake(&self, py: Python<'_>, count: usize, value: bool) -> RawResult<()> {
        let mut woken = 0;
        let mut place = 0;
        while woken < count
            && let Some(waiter) = self.get(py, place)
        {
            if !wait::is_done(py, &waiter)? {
                woken += 1;
                wait::set_result(py, &waiter, Obj::bool(py, value))?;
            }
            place += 1;
        }
        Ok(())
    }

    /// Takes out and wakes the first who still waits, and takes out those before it.
    #[inline]
    pub(super) fn pop_and_wake(&self, py: Python<'_>) -> RawResult<()> {
        while let Some(waiter) = self.pop(py) {
            if !wait::is_done(py, &waiter)? {
                return wait::set_result(py, &waiter, Obj::none(py));
            }
        }
        Ok(())
    }

    /// Takes out and wakes all.
    pub(super) fn pop_and_wake_all(&self, py: Python<'_>) -> RawResult<()> {
        while !self.is_empty(py) {
            self.pop_and_wake(py)?;
        }
        Ok(())
    }

    /// `_waiters` and the like: the line, as the deque that asyncio has. Whoever has it may put waiters of their own in.
    pub(super) fn as_deque(&self, py: Python<'_>) -> RawResult<Obj> {
        if let Some(object) = self.object.get() {
            return Ok(object);
        }
        let list = PyList::empty(py);
        for waiter in self.line.with(py, std::mem::take) {
            to_raw(py, list.append(waiter.into_bound(py)))?;
        }
        let object = call::call1(py, &imports::raw(py, imports::deque(py))?, &Obj::from_bound(list))?;
        self.object.set(Some(object.clone()));
        Ok(object)
    }

    /// `_waiters = object`: a deque, or None for nobody.
    pub(super) fn replace(&self, py: Python<'_>, object: &Obj) {
        let before = self.line.with(py, std::mem::take);
        self.object.set((!object.is_none()).then(|| object.clone()));
        drop(before);
    }

    pub(super) fn visit(&self, visitor: &mut Visitor<'_>) {
        self.line.peek(|line| line.iter().for_each(|waiter| visitor.obj(waiter)));
        visitor.cell(&self.object);
    }

    /// For `tp_clear`.
    pub(super) fn clear(&self) {
        drop(self.line.take_to_clear());
        self.object.set(None);
    }
}
