//! All live tasks of ours, weakly: a slab of addresses.
//!
//! Nothing is counted and no weak reference is made; in return a task must leave the set before it dies. `dealloc`
//! does that (`Data::unlink`), so every address in the set is of a live object.

use pyo3::Python;
use pyo3::ffi;

use super::cell::GilCell;
use super::growing::Growing;
use super::obj::Obj;
use super::{Raised, RawResult};

struct Slab {
    /// An address, or (odd) twice the next free slot plus one.
    slots: Vec<usize>,
    free: Option<u32>,
}

pub(crate) struct LiveSet(GilCell<Slab>);

const END: usize = usize::MAX >> 1;

impl LiveSet {
    pub(crate) const fn new() -> LiveSet {
        LiveSet(GilCell::new(Slab { slots: Vec::new(), free: None }))
    }

    /// The place of `object` from now on; it must be given back with [`LiveSet::leave`] before the object dies.
    #[inline]
    pub(crate) fn enter(&self, py: Python<'_>, object: &Obj) -> RawResult<u32> {
        let address = object.as_ptr() as usize;
        let place = self.0.with(py, |slab| match slab.free {
            Some(place) => {
                let next = slab.slots[place as usize] >> 1;
                slab.free = (next != END).then_some(next as u32);
                slab.slots[place as usize] = address;
                Some(place)
            }
            None => {
                slab.slots.try_push(address).ok()?;
                Some(u32::try_from(slab.slots.len() - 1).expect("fewer than four milliard tasks"))
            }
        });
        place.ok_or_else(|| Raised::no_memory(py))
    }

    #[inline]
    pub(crate) fn leave(&self, py: Python<'_>, place: u32) {
        self.0.with(py, |slab| {
            slab.slots[place as usize] = slab.free.map_or(END, |next| next as usize) << 1 | 1;
            slab.free = Some(place);
        });
    }

    /// A new reference to each.
    pub(crate) fn all(&self, py: Python<'_>) -> Vec<Obj> {
        self.0.with(py, |slab| {
            slab.slots
                .iter()
                .filter(|word| **word & 1 == 0)
                // SAFETY: the address of a live object (see the head); one whose count is zero is in the middle of
                // its dealloc, which runs Python code only before it leaves the set, with a count above zero.
                .map(|word| unsafe { Obj::from_borrowed(*word as *mut ffi::PyObject) })
                .collect()
        })
    }
}
