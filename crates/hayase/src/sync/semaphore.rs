//! `Semaphore` and `BoundedSemaphore`.

use std::ffi::CStr;
use std::mem::offset_of;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyModule};

use super::binding::Binding;
use super::copying::Copied;
use super::waiters::Waiters;
use crate::interop::arguments;
use crate::interop::imports;
use crate::raw::attributes::Attributes;
use crate::raw::cell::GilValue;
use crate::raw::fastcall::Args;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::Table;
use crate::raw::{Raised, RawResult, exception, to_py, to_raw};
use crate::runtime::operation::{self, Kind, Operation, Outcome, Turn, never_resumed};
use crate::tasks::wait;

#[repr(C)]
pub(crate) struct Semaphore {
    attributes: Attributes,
    binding: Binding,
    waiters: Waiters,
    value: GilValue<i64>,
    /// Of a `BoundedSemaphore`: the value it may not exceed.
    bound: GilValue<Option<i64>>,
    /// Somebody waited once: from then on `_waiters` is no longer None.
    waited: GilValue<bool>,
}

impl Default for Semaphore {
    fn default() -> Semaphore {
        Semaphore {
            attributes: Attributes::empty(),
            binding: Binding::none(),
            waiters: Waiters::new(),
            value: GilValue::new(1),
            bound: GilValue::new(None),
            waited: GilValue::new(false),
        }
    }
}

impl Data for Semaphore {
    const FREELIST: usize = 0;
    const SUBCLASSABLE: Option<usize> = Some(offset_of!(Semaphore, attributes));

    fn class() -> &'static Class<Self> {
        static CLASS: Class<Semaphore> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.attributes.visit(visitor);
        self.binding.visit(visitor);
        self.waiters.visit(visitor);
    }
    fn clear(&self) {
        self.attributes.clear();
        self.waiters.clear();
        self.binding.clear();
    }
}

/// The core.
impl Semaphore {
    /// Whether a new taker has to wait: no permit is left, or others wait already.
    #[inline]
    fn is_locked(&self, py: Python<'_>) -> RawResult<bool> {
        Ok(self.value.get() == 0 || (!self.waiters.is_empty(py) && self.waiters.any_alive(py)?))
    }

    #[inline]
    fn try_acquire(&self, py: Python<'_>) -> RawResult<bool> {
        if self.is_locked(py)? {
            return Ok(false);
        }
        self.value.set(self.value.get() - 1);
        Ok(true)
    }

    fn stand_in_line(&self, py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        let waiter = self.binding.create_future(py, this)?;
        self.waited.set(true);
        self.waiters.push(py, waiter.clone())?;
        Ok(waiter)
    }

    /// The waiter was woken, and has a permit then, or failed with `error`: out of the line, and a permit that it got but
    /// cannot use goes to the next.
    fn leave_line(&self, py: Python<'_>, waiter: &Obj, outcome: Outcome) -> RawResult<()> {
        self.waiters.remove(py, waiter)?;
        let Err(error) = outcome else {
            return self.hand_out(py);
        };
        let cancelled = imports::raw(py, imports::cancelled_error(py))?;
        if exception::matches(py, &error, cancelled.as_ptr())
            && wait::is_done(py, waiter)?
            && !wait::is_cancelled(py, waiter)?
        {
            self.value.set(self.value.get() + 1);
        }
        self.hand_out(py)?;
        Err(exception::restore(py, error))
    }

    /// Hands permits to those who wait: some may have come while there were permits, and waited only for their turn.
    fn hand_out(&self, py: Python<'_>) -> RawResult<()> {
        while self.value.get() > 0 && self.wake_next(py)? {}
        Ok(())
    }

    /// Gives one permit to the first who waits for one.
    fn wake_next(&self, py: Python<'_>) -> RawResult<bool> {
        if self.waiters.is_empty(py) {
            return Ok(false);
        }
        let Some(waiter) = self.waiters.first_pending(py)? else {
            return Ok(false);
        };
        self.value.set(self.value.get() - 1);
        wait::set_result(py, &waiter, Obj::bool(py, true))?;
        Ok(true)
    }

    fn release(&self, py: Python<'_>) -> RawResult<()> {
        if self.bound.get().is_some_and(|bound| self.value.get() >= bound) {
            return Err(Raised::from_err(py, PyValueError::new_err("BoundedSemaphore released too many times")));
        }
        self.value.set(self.value.get() + 1);
        self.wake_next(py).map(drop)
    }
}

static ACQUIRE: Kind = Kind { name: "Semaphore.acquire", start: acquire_start, resume: acquire_resume };
static ENTER: Kind = Kind { name: "Semaphore.__aenter__", start: enter_start, resume: enter_resume };
static EXIT: Kind = Kind { name: "Semaphore.__aexit__", start: exit_start, resume: never_resumed };

#[inline]
fn begin(py: Python<'_>, this: &Ref<Operation>, value: impl FnOnce() -> Obj) -> RawResult<Turn> {
    let semaphore = this.target::<Semaphore>();
    if semaphore.try_acquire(py)? {
        return Ok(Turn::Return(value()));
    }
    let waiter = semaphore.stand_in_line(py, semaphore.as_obj())?;
    this.waiter.set(Some(waiter.clone()));
    Ok(Turn::Await(waiter))
}

fn finish(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<()> {
    let waiter = this.waiter.take().expect("it waited");
    this.target::<Semaphore>().leave_line(py, &waiter, outcome)
}

fn acquire_start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    begin(py, this, || Obj::bool(py, true))
}

fn acquire_resume(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    finish(py, this, outcome)?;
    Ok(Turn::Return(Obj::bool(py, true)))
}

fn enter_start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    begin(py, this, || Obj::none(py))
}

fn enter_resume(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    finish(py, this, outcome)?;
    Ok(Turn::Return(Obj::none(py)))
}

fn exit_start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    this.target::<Semaphore>().release(py)?;
    Ok(Turn::Return(Obj::none(py)))
}

/// Whether `acquire` and `release` are those of this file.
#[inline]
fn is_plain(this: &Ref<Semaphore>) -> bool {
    (this.is_exact() || BOUNDED.is(this.as_obj())) && !this.attributes.has_dict()
}

static BOUNDED: crate::raw::table::Derived = crate::raw::table::Derived::new();

fn start_value(py: Python<'_>, class: &str, args: &Obj, keywords: Option<&Obj>) -> RawResult<i64> {
    let Some(value) = arguments::one(py, class, Some("value"), args, keywords)? else {
        return Ok(1);
    };
    let parse = || -> PyResult<i64> {
        let value = value.borrow(py);
        if value.lt(0)? {
            return Err(PyValueError::new_err("Semaphore initial value must be >= 0"));
        }
        value.extract()
    };
    to_raw(py, parse())
}

fn integer(py: Python<'_>, value: i64) -> Obj {
    Obj::from_bound(PyInt::new(py, value))
}

pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DOC: &CStr = c"Semaphore(value=1)\n--\n\nSo many tasks at a time: a counter of permits.\n\nWho waits for a \
        permit gets it in the order of arrival. ValueError if value is negative.";
    let table = Table::<Semaphore>::new(c"hayase.locks.Semaphore", DOC, std::ptr::null_mut(), 0)
        .noargs(
            c"acquire",
            c"acquire($self, /)\n--\n\nWait for a permit, take it and return True.",
            |py: Python<'_>, this: &Ref<Semaphore>| operation::make(py, &ACQUIRE, this.as_obj().clone(), None),
        )
        .noargs(
            c"release",
            c"release($self, /)\n--\n\nGive a permit back, to the first who waits for one.",
            |py: Python<'_>, this: &Ref<Semaphore>| this.release(py).map(|()| Obj::none(py)),
        )
        .noargs(
            c"locked",
            c"locked($self, /)\n--\n\nWhether acquire would have to wait.",
            |py: Python<'_>, this: &Ref<Semaphore>| Ok(Obj::bool(py, this.is_locked(py)?)),
        )
        .noargs(c"__aenter__", c"Acquire a permit.", |py: Python<'_>, this: &Ref<Semaphore>| {
            let kind = if is_plain(this) { &ENTER } else { &super::ENTER_OVERRIDDEN };
            operation::make(py, kind, this.as_obj().clone(), None)
        })
        .fastcall(
            c"__aexit__",
            c"__aexit__($self, exc_type, exc, tb)\n--\n\nRelease it.",
            |py: Python<'_>, this: &Ref<Semaphore>, args: &Args<'_>| {
                arguments::exit(py, args)?;
                let kind = if is_plain(this) { &EXIT } else { &super::EXIT_OVERRIDDEN };
                operation::make(py, kind, this.as_obj().clone(), None)
            },
        )
        .get_set(
            c"_value",
            |py: Python<'_>, this: &Ref<Semaphore>| Ok(integer(py, this.value.get())),
            |py: Python<'_>, this: &Ref<Semaphore>, value: &Obj| {
                this.value.set(to_raw(py, value.borrow(py).extract())?);
                Ok(())
            },
        )
        .get_set(
            c"_waiters",
            |py: Python<'_>, this: &Ref<Semaphore>| {
                if this.waited.get() { this.waiters.as_deque(py) } else { Ok(Obj::none(py)) }
            },
            |py: Python<'_>, this: &Ref<Semaphore>, value: &Obj| {
                this.waiters.replace(py, value);
                this.waited.set(!value.is_none());
                Ok(())
            },
        )
        .noargs(
            c"_wake_up_next",
            c"Give one permit to the first who waits.",
            |py: Python<'_>, this: &Ref<Semaphore>| Ok(Obj::bool(py, this.wake_next(py)?)),
        )
        .get_set(
            c"_loop",
            |py: Python<'_>, this: &Ref<Semaphore>| Ok(this.binding.get(py)),
            |_py: Python<'_>, this: &Ref<Semaphore>, value: &Obj| {
                this.binding.set(value);
                Ok(())
            },
        )
        .noargs(c"__reduce__", c"For copy and pickle.", |py: Python<'_>, this: &Ref<Semaphore>| {
            let mut attributes = vec![("_value", integer(py, this.value.get()))];
            if let Some(bound) = this.bound.get() {
                attributes.push(("_bound_value", integer(py, bound)));
            }
            let copied = Copied::new(this.attributes.dict(), attributes).waiters(py, "_waiters", &this.waiters)?;
            copied.reduce(py, this.as_obj(), &this.binding)
        })
        .repr(|py: Python<'_>, this: &Ref<Semaphore>| {
            let extra =
                if this.is_locked(py)? { "locked".to_owned() } else { format!("unlocked, value:{}", this.value.get()) };
            super::repr(py, this.as_obj(), &extra, this.waiters.len(py))
        })
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
                Ok(this.bound.get().map_or_else(|| Obj::none(py), |bound| integer(py, bound)))
            },
            |py: Python<'_>, this: &Ref<Semaphore>, value: &Obj| {
                this.bound.set(Some(to_raw(py, value.borrow(py).extract())?));
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
