//! `Semaphore` and `BoundedSemaphore`.

use std::ffi::CStr;
use std::mem::offset_of;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt, PyModule};

use super::base::{self, Base, Based, Guard};
use crate::interop::arguments;
use crate::interop::imports;
use crate::raw::cell::GilValue;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::Table;
use crate::raw::{Raised, RawResult, exception, to_py, to_raw};
use crate::runtime::operation::{Kind, Outcome};
use crate::tasks::wait;

/// asyncio counts with whatever number it is given, and programs give `math.inf` for "no limit".
#[derive(Clone, Copy)]
enum Permits {
    Int(i64),
    Float(f64),
}

impl Permits {
    #[inline]
    fn plus(self, change: i32) -> Permits {
        match self {
            Permits::Int(value) => Permits::Int(value + i64::from(change)),
            Permits::Float(value) => Permits::Float(value + f64::from(change)),
        }
    }

    #[inline]
    fn is_none_left(self) -> bool {
        match self {
            Permits::Int(value) => value == 0,
            Permits::Float(value) => value == 0.0,
        }
    }

    #[inline]
    fn is_positive(self) -> bool {
        match self {
            Permits::Int(value) => value > 0,
            Permits::Float(value) => value > 0.0,
        }
    }

    fn reaches(self, bound: Permits) -> bool {
        match (self, bound) {
            (Permits::Int(value), Permits::Int(bound)) => value >= bound,
            (value, bound) => value.as_float() >= bound.as_float(),
        }
    }

    fn as_float(self) -> f64 {
        match self {
            Permits::Int(value) => value as f64,
            Permits::Float(value) => value,
        }
    }

    fn of(value: &Bound<'_, PyAny>) -> PyResult<Permits> {
        if let Ok(float) = value.cast::<PyFloat>() {
            Ok(Permits::Float(float.value()))
        } else {
            value.extract().map(Permits::Int)
        }
    }

    fn object(self, py: Python<'_>) -> Obj {
        match self {
            Permits::Int(value) => Obj::from_bound(PyInt::new(py, value)),
            Permits::Float(value) => Obj::from_bound(PyFloat::new(py, value)),
        }
    }
}

#[repr(C)]
pub(crate) struct Semaphore {
    base: Base,
    value: GilValue<Permits>,
    /// Of a `BoundedSemaphore`: the value it may not exceed.
    bound: GilValue<Option<Permits>>,
}

impl Default for Semaphore {
    fn default() -> Semaphore {
        Semaphore { base: Base::without_line(), value: GilValue::new(Permits::Int(1)), bound: GilValue::new(None) }
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
    }
    fn clear(&self) {
        self.base.clear();
    }
}

/// The core.
impl Semaphore {
    /// Whether a new taker has to wait: no permit is left, or others wait already.
    #[inline]
    fn is_locked(&self, py: Python<'_>) -> RawResult<bool> {
        Ok(self.value.get().is_none_left() || (!self.base.waiters.is_empty(py) && self.base.waiters.any_alive(py)?))
    }

    /// Hands permits to those who wait: some may have come while there were permits, and waited only for their turn.
    fn hand_out(&self, py: Python<'_>) -> RawResult<()> {
        while self.value.get().is_positive() && self.wake_next(py)? {}
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
        self.value.set(self.value.get().plus(-1));
        wait::set_result(py, &waiter, Obj::bool(py, true))?;
        Ok(true)
    }
}

impl Based for Semaphore {
    fn base(&self) -> &Base {
        &self.base
    }
    fn copied(&self, py: Python<'_>) -> Vec<(&'static str, Obj)> {
        let mut attributes = vec![("_value", self.value.get().object(py))];
        attributes.extend(self.bound.get().map(|bound| ("_bound_value", bound.object(py))));
        attributes
    }
    fn described(py: Python<'_>, this: &Ref<Semaphore>) -> RawResult<String> {
        if this.is_locked(py)? {
            return Ok("locked".to_owned());
        }
        let value = this.value.get().object(py);
        to_raw(py, value.borrow(py).repr().map(|value| format!("unlocked, value:{value}")))
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
        self.value.set(self.value.get().plus(-1));
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
            self.value.set(self.value.get().plus(1));
        }
        self.hand_out(py)?;
        Err(exception::restore(py, error))
    }

    fn release(&self, py: Python<'_>) -> RawResult<()> {
        if self.bound.get().is_some_and(|bound| self.value.get().reaches(bound)) {
            return Err(Raised::from_err(py, PyValueError::new_err("BoundedSemaphore released too many times")));
        }
        self.value.set(self.value.get().plus(1));
        self.wake_next(py).map(drop)
    }
}

static BOUNDED: crate::raw::table::Derived = crate::raw::table::Derived::new();

fn start_value(py: Python<'_>, class: &str, args: &Obj, keywords: Option<&Obj>) -> RawResult<Permits> {
    let Some(value) = arguments::one(py, class, Some("value"), args, keywords)? else {
        return Ok(Permits::Int(1));
    };
    let parse = || -> PyResult<Permits> {
        let value = value.borrow(py);
        if value.lt(0)? {
            return Err(PyValueError::new_err("Semaphore initial value must be >= 0"));
        }
        Permits::of(&value)
    };
    to_raw(py, parse())
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
            |py: Python<'_>, this: &Ref<Semaphore>| Ok(this.value.get().object(py)),
            |py: Python<'_>, this: &Ref<Semaphore>, value: &Obj| {
                this.value.set(to_raw(py, Permits::of(&value.borrow(py)))?);
                Ok(())
            },
        )
        .noargs(
            c"_wake_up_next",
            c"Give one permit to the first who waits.",
            |py: Python<'_>, this: &Ref<Semaphore>| Ok(Obj::bool(py, this.wake_next(py)?)),
        )
        .init(|py: Python<'_>, this: &Ref<Semaphore>, args: &Obj, keywords: Option<&Obj>| {
            this.value.set(start_value(py, "Semaphore", args, keywords)?);
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
                Ok(this.bound.get().map_or_else(|| Obj::none(py), |bound| bound.object(py)))
            },
            |py: Python<'_>, this: &Ref<Semaphore>, value: &Obj| {
                this.bound.set(Some(to_raw(py, Permits::of(&value.borrow(py)))?));
                Ok(())
            },
        )
        .init(|py: Python<'_>, this: &Ref<Semaphore>, args: &Obj, keywords: Option<&Obj>| {
            let value = start_value(py, "BoundedSemaphore", args, keywords)?;
            this.bound.set(Some(value));
            this.value.set(value);
            Ok(())
        });
    let bounded = to_py(py, table.build_derived())?;
    BOUNDED.set(&bounded);
    module.add("BoundedSemaphore", bounded.into_bound(py))
}
