//! A set of objects that does not keep them alive: what a loop has to close in the end.
//!
//! A weak reference and a place in a `WeakSet` would cost each connection some 150 bytes. Here a member holds a
//! [`Membership`] inside its own memory, which takes it out of the set when it is dropped.

use std::rc::Rc;

use pyo3::{Python, ffi};

use super::cell::GilCell;
use super::obj::Obj;

pub(crate) struct Members(Rc<GilCell<Slab>>);

// SAFETY: reference counts and content are touched only with the GIL held.
unsafe impl Send for Members {}
// SAFETY: as above.
unsafe impl Sync for Members {}

struct Slab {
    places: Vec<*mut ffi::PyObject>,
    free: Vec<u32>,
}

/// To be kept inside the member itself.
pub(crate) struct Membership {
    slab: Rc<GilCell<Slab>>,
    index: u32,
}

// SAFETY: as for `Members`.
unsafe impl Send for Membership {}
// SAFETY: as above.
unsafe impl Sync for Membership {}

impl Members {
    pub(crate) fn new() -> Members {
        Members(Rc::new(GilCell::new(Slab { places: Vec::new(), free: Vec::new() })))
    }

    /// `member` keeps the result in a field of its own.
    pub(crate) fn join(&self, py: Python<'_>, member: &Obj) -> Membership {
        let index = self.0.with(py, |slab| match slab.free.pop() {
            Some(index) => {
                slab.places[index as usize] = member.as_ptr();
                index
            }
            None => {
                slab.places.push(member.as_ptr());
                (slab.places.len() - 1) as u32
            }
        });
        Membership { slab: Rc::clone(&self.0), index }
    }

    /// The members that live now.
    pub(crate) fn list(&self, py: Python<'_>) -> Vec<Obj> {
        self.0.with(py, |slab| {
            slab.places
                .iter()
                .filter(|place| !place.is_null())
                // SAFETY: the member's memory holds its `Membership`, whose drop clears the place, so it is not freed
                // yet. A count of zero means that it is being destroyed right now: it must not be counted up again.
                .filter(|place| unsafe { ffi::Py_REFCNT(**place) } > 0)
                // SAFETY: alive, as just said.
                .map(|place| unsafe { Obj::from_borrowed(*place) })
                .collect()
        })
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        // SAFETY: objects are destroyed with the GIL held.
        let py = unsafe { Python::assume_attached() };
        self.slab.with(py, |slab| {
            slab.places[self.index as usize] = std::ptr::null_mut();
            slab.free.push(self.index);
            if slab.places.len() == slab.free.len() {
                slab.places = Vec::new();
                slab.free = Vec::new();
            }
        });
    }
}
