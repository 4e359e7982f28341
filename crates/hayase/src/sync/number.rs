//! The number that a semaphore or a barrier was given.
//!
//! asyncio computes with whatever it gets: `math.inf` for no limit, a float, a `Decimal`. An int that fits is one here;
//! every other object stays as it is, and Python's own operators compute with it and judge it.

use pyo3::prelude::*;
use pyo3::types::PyInt;

use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_raw};

pub(super) struct Number {
    int: GilValue<i64>,
    /// What is no int, or too large a one: then this is the number.
    other: ObjCell,
}

impl Number {
    pub(super) fn new(int: i64) -> Number {
        Number { int: GilValue::new(int), other: ObjCell::empty() }
    }

    #[inline]
    fn int(&self) -> Option<i64> {
        self.other.is_none().then(|| self.int.get())
    }

    pub(super) fn set(&self, py: Python<'_>, value: &Obj) {
        let borrowed = value.borrow(py);
        match borrowed.cast_exact::<PyInt>().ok().and_then(|int| int.extract::<i64>().ok()) {
            Some(int) => {
                self.int.set(int);
                self.other.set(None);
            }
            None => self.other.set(Some(value.clone())),
        }
    }

    pub(super) fn object(&self, py: Python<'_>) -> Obj {
        self.other.get().unwrap_or_else(|| Obj::from_bound(PyInt::new(py, self.int.get())))
    }

    /// `number += change`
    #[inline]
    pub(super) fn add(&self, py: Python<'_>, change: i64) -> RawResult<()> {
        match self.int().and_then(|int| int.checked_add(change)) {
            Some(int) => {
                self.int.set(int);
                Ok(())
            }
            None => self.add_slowly(py, change),
        }
    }

    #[cold]
    fn add_slowly(&self, py: Python<'_>, change: i64) -> RawResult<()> {
        let sum = to_raw(py, self.object(py).borrow(py).add(change))?;
        self.set(py, &Obj::from_bound(sum));
        Ok(())
    }

    /// `number == int`
    #[inline]
    pub(super) fn equals(&self, py: Python<'_>, int: i64) -> RawResult<bool> {
        match self.int() {
            Some(own) => Ok(own == int),
            None => to_raw(py, self.object(py).borrow(py).eq(int)),
        }
    }

    /// `number > 0`
    #[inline]
    pub(super) fn is_positive(&self, py: Python<'_>) -> RawResult<bool> {
        match self.int() {
            Some(own) => Ok(own > 0),
            None => to_raw(py, self.object(py).borrow(py).gt(0)),
        }
    }

    /// `number >= bound`
    #[inline]
    pub(super) fn reaches(&self, py: Python<'_>, bound: &Number) -> RawResult<bool> {
        match (self.int(), bound.int()) {
            (Some(own), Some(bound)) => Ok(own >= bound),
            (_, None) | (None, _) => to_raw(py, self.object(py).borrow(py).ge(bound.object(py).borrow(py))),
        }
    }

    pub(super) fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.cell(&self.other);
    }

    pub(super) fn clear(&self) {
        self.other.set(None);
    }
}
