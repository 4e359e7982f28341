//! `Semaphore` and `BoundedSemaphore`.

use std::ffi::CStr;
use std::mem::offset_of;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyModule};

use super::base::{self, Base, Based, Guard};
use super::number::Number;
use crate::interop::arguments;
use crate::interop::imports;
use crate::raw::cell::GilValue;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::Table;
use crate::raw::{Raised, RawResult, exception, to_py, to_raw};
use crate::runtime::operation::{Kind, Outcome};
use crate::tasks::wait;

#[repr(C)]
pub(crate) struct Semaphore {
    base: Base,
    value: Number,
    /// Of a `BoundedSemaphore`: the value it may not exceed.
    bound: Number,
    is_bounded: GilValue<bool>,
}

impl Default for Semaphore {
    fn default() -> Semaphore {
        Semaphore {
            base: Base::without_line(),
            value: Number::new(1),
            bound: Number::new(1),
            is_bounded: GilValue::new(false),
        }
    }
}

impl Data for Semaphore {
    const FREELIST: usize = 0;
    const SUBCLASSABLE: Option<usize> = Some(offset_of!(Semaphore, base.attributes));

    fn class() -> &'static Class<Self> {
        static CLASS: Class<Semaphore> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.base.visit(visitor);
        self.value.visit(visitor);
        self.bound.visit(visitor);
    }
    fn clear(&self) {
        self.base.clear();
        self.value.clear();
        self.bound.clear();
    }
}

/// The core.
impl Semaphore {
    /// Whether a new taker has to wait: no permit is left, or others wait already.
    #[inline]
    fn is_locked(&self, py: Python<'_>) -> RawResult<bool> {
        Ok(self.value.equals(py, 0)? || (!self.base.waiters.is_empty(py) && self.base.waiters.any_alive(py)?))
    }

    /// Hands permits to those who wait: some may have come while there were permits, and waited only for their turn.
    fn hand_out(&self, py: Python<'_>) -> RawResult<()> {
        while self.value.is_positive(py)? && self.wake_next(py)? {}
        Ok(())
    }

    /// Gives one permit to the first who waits for one.
    fn wake_next(&self, py: Python<'_>) -> RawResult<bool> {
        if self.base.waiters.is_empty(py) {
            return Ok(false);
        }
        let Some(waiter) = self.base.waiters.first_pending(py)? else {
            return Ok(false);
        };
        self.value.add(py, -1)?;
        wait::set_result(py, &waiter, Obj::bool(py, true))?;
        Ok(true)
    }
}

impl Based for Semaphore {
    fn base(&self) -> &Base {
        &self.base
    }
    fn copied(&self, py: Python<'_>) -> Vec<(&'static str, Obj)> {
        let mut attributes = vec![("_value", self.value.object(py))];
        attributes.extend(self.is_bounded.get().then(|| ("_bound_value", self.bound.object(py))));
        attributes
    }
    fn described(py: Python<'_>, this: &Ref<Semaphore>) -> RawResult<String> {
        if this.is_locked(py)? {
            return Ok("locked".to_owned());
        }
        let value = this.value.object(py);
        to_raw(py, value.borrow(py).str().map(|value| format!("unlocked, value:{value}")))
    }
}

impl Guard for Semaphore {
    const ACQUIRE: &'static Kind =
        &Kind { name: "Semaphore.acquire", start: base::acquire::<Semaphore>, resume: base::acquired::<Semaphore> };

    #[inline]
    fn is_plain(this: &Ref<Semaphore>) -> bool {
        (this.is_exact() || BOUNDED.is(this.as_obj())) && !this.base.attributes.has_dict()
    }

    #[inline]
    fn try_acquire(&self, py: Python<'_>) -> RawResult<bool> {
        if self.is_locked(py)? {
            return Ok(false);
        }
        self.value.add(py, -1)?;
        Ok(true)
    }

    /// The waiter was woken, and has a permit then, or failed with `error`: out of the line, and a permit that it got but
    /// cannot use goes to the next.
    fn leave_line(&self, py: Python<'_>, waiter: &Obj, outcome: Outcome) -> RawResult<()> {
        self.base.waiters.remove(py, waiter)?;
        let Err(error) = outcome else {
            return self.hand_out(py);
        };
        let cancelled = imports::raw(py, imports::cancelled_error(py))?;
        if exception::matches(py, &error, cancelled.as_ptr())
            && wait::is_done(py, waiter)?
            && !wait::is_cancelled(py, waiter)?
        {
            self.value.add(py, 1)?;
        }
        self.hand_out(py)?;
        Err(exception::restore(py, error))
    }

    fn release(&self, py: Python<'_>) -> RawResult<()> {
        if self.is_bounded.get() && self.value.reaches(py, &self.bound)? {
            return Err(Raised::from_err(py, PyValueError::new_err("BoundedSemaphore released too many times")));
        }
        self.value.add(py, 1)?;
        self.wake_next(py).map(drop)
    }
}

static BOUNDED: crate::raw::table::Derived = crate::raw::table::Derived::new();

fn start_value(py: Python<'_>, class: &str, args: &Obj, keywords: Option<&Obj>) -> RawResult<Obj> {
    let Some(value) = arguments::one(py, class, Some("value"), args, keywords)? else {
        return Ok(Obj::from_bound(PyInt::new(py, 1)));
    };
    if to_raw(py, value.borrow(py).lt(0))? {
        return Err(Raised::from_err(py, PyValueError::new_err("Semaphore initial value must be >= 0")));
    }
    Ok(value)
}

pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DOC: &CStr = c"Semaphore(value=1)\n--\n\nSo many tasks at a time: a counter of permits.\n\nWho waits for a \
        permit gets it in the order of arrival. ValueError if value is negative.";
    let table = Table::<Semaphore>::new(c"hayase.locks.Semaphore", DOC, std::ptr::null_mut(), 0);
    let table = base::with_guard(
        base::with_base(table),
        c"acquire($self, /)\n--\n\nWait for a permit, take it and return True.",
        c"release($self, /)\n--\n\nGive a permit back, to the first who waits for one.",
    );
    let table = table
        .noargs(
            c"locked",
            c"locked($self, /)\n--\n\nWhether acquire would have to wait.",
            |py: Python<'_>, this: &Ref<Semaphore>| Ok(Obj::bool(py, this.is_locked(py)?)),
        )
        .get_set(
            c"_value",
            |py: Python<'_>, this: &Ref<Semaphore>| Ok(this.value.object(py)),
            |py: Python<'_>, this: &Ref<Semaphore>, value: &Obj| {
                this.value.set(py, value);
                Ok(())
            },
        )
        .noargs(
            c"_wake_up_next",
            c"Give one permit to the first who waits.",
            |py: Python<'_>, this: &Ref<Semaphore>| Ok(Obj::bool(py, this.wake_next(py)?)),
        )
        .init(|py: Python<'_>, this: &Ref<Semaphore>, args: &Obj, keywords: Option<&Obj>| {
            this.value.set(py, &start_value(py, "Semaphore", args, keywords)?);
            Ok(())
        });
    to_py(py, table.build(std::ptr::null_mut()))?;
    module.add("Semaphore", Semaphore::class().type_obj().into_bound(py))?;

    const BOUNDED_DOC: &CStr = c"BoundedSemaphore(value=1)\n--\n\nA Semaphore that refuses, with ValueError, to be \
        released more often than it was acquired.";
    let table = Table::<Semaphore>::derived(c"hayase.locks.BoundedSemaphore", BOUNDED_DOC)
        .get_set(
            c"_bound_value",
            |py: Python<'_>, this: &Ref<Semaphore>| {
                Ok(if this.is_bounded.get() { this.bound.object(py) } else { Obj::none(py) })
            },
            |py: Python<'_>, this: &Ref<Semaphore>, value: &Obj| {
                this.bound.set(py, value);
                this.is_bounded.set(true);
                Ok(())
            },
        )
        .init(|py: Python<'_>, this: &Ref<Semaphore>, args: &Obj, keywords: Option<&Obj>| {
            let value = start_value(py, "BoundedSemaphore", args, keywords)?;
            this.bound.set(py, &value);
            this.is_bounded.set(true);
            this.value.set(py, &value);
            Ok(())
        });
    let bounded = to_py(py, table.build_derived())?;
    BOUNDED.set(&bounded);
    module.add("BoundedSemaphore", bounded.into_bound(py))
}
