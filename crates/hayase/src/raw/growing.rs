//! Appending to what a cell holds, with Python's `MemoryError` where there is no room: std would end the process.
//!
//! For what grows with what a program does, without a bound: doubling a list of a million entries is what memory is not
//! left for, long before an object cannot be made. What is left over then is enough to go on.

use std::collections::VecDeque;

use pyo3::{Python, ffi};

use super::cell::GilCell;
use super::{Raised, RawResult};

/// So many places a queue gets at least when it cannot be doubled.
const LAST_ROOM: usize = 1024;

impl Raised {
    #[cold]
    pub(crate) fn no_memory(_py: Python<'_>) -> Raised {
        // SAFETY: with the GIL held; the interpreter keeps an exception for this.
        unsafe { ffi::PyErr_NoMemory() };
        Raised
    }
}

pub(crate) trait Growing {
    type Item;

    /// Hands the item back if there is no room for it.
    fn try_push(&mut self, item: Self::Item) -> Result<(), Self::Item>;
}

impl<T> Growing for Vec<T> {
    type Item = T;

    #[inline]
    fn try_push(&mut self, item: T) -> Result<(), T> {
        if self.len() == self.capacity() && self.try_reserve(1).is_err() {
            return Err(item);
        }
        self.push(item);
        Ok(())
    }
}

impl<T> Growing for VecDeque<T> {
    type Item = T;

    #[inline]
    fn try_push(&mut self, item: T) -> Result<(), T> {
        if self.len() == self.capacity() && self.try_reserve(1).is_err() {
            return Err(item);
        }
        self.push_back(item);
        Ok(())
    }
}

impl<C: Growing> GilCell<C> {
    #[inline]
    pub(crate) fn append(&self, py: Python<'_>, item: C::Item) -> RawResult<()> {
        // A refused item is dropped when the cell is closed again.
        self.with(py, |list| list.try_push(item)).map_err(|_refused| Raised::no_memory(py))
    }
}

/// For who cannot be told of an error: a few more places may still be had where twice as many are not.
#[inline]
pub(crate) fn push_back<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() == queue.capacity() && queue.try_reserve(1).is_err() {
        // Where not even these are left, std ends the process in the next line.
        let _ = queue.try_reserve_exact(LAST_ROOM);
    }
    queue.push_back(item);
}
