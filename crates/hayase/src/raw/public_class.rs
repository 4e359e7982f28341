//! The class that programs use in place of one of ours, made in Python and inheriting from it.
//!
//! Nearly every instance of `hayase._core.StreamReader` is exactly a `hayase.StreamReader`: one comparison says so, where
//! asking for a subclass walks through its ancestors, several times for each message.

use std::marker::PhantomData;
use std::sync::OnceLock;

use pyo3::PyClass;
use pyo3::prelude::*;
use pyo3::pyclass::boolean_struct::True;
use pyo3::types::PyType;

use super::obj::Obj;

pub(crate) struct PublicClass<T> {
    /// Its address; the class is kept alive for ever.
    address: OnceLock<usize>,
    inherits_from: PhantomData<fn() -> T>,
}

impl<T: PyClass<Frozen = True> + Sync> PublicClass<T> {
    pub(crate) const fn new() -> PublicClass<T> {
        PublicClass { address: OnceLock::new(), inherits_from: PhantomData }
    }

    /// Told once. A class that does not inherit from ours is not remembered.
    pub(crate) fn set(&self, class: &Bound<'_, PyType>) -> PyResult<()> {
        if class.is_subclass_of::<T>()? {
            self.address.get_or_init(|| class.clone().into_ptr() as usize);
        }
        Ok(())
    }

    /// The value of an instance of ours, of whichever class.
    #[inline]
    pub(crate) fn view<'a>(&self, py: Python<'_>, object: &'a Obj) -> Option<&'a T> {
        let value: *const T = if self.address.get() == Some(&(object.type_ptr() as usize)) {
            // SAFETY: exactly of the class that `set` was told, which is kept alive since and inherits from ours. The
            // interpreter lets neither its bases nor the class of an instance be changed to what has another layout.
            unsafe { object.borrow(py).cast_unchecked::<T>().get() }
        } else {
            object.borrow(py).cast::<T>().ok()?.get()
        };
        // SAFETY: the value of a frozen class lies in the object, never moves and is never borrowed exclusively; the
        // reference behind `object` keeps it alive for as long as that is borrowed.
        Some(unsafe { &*value })
    }
}
