//! `Lock`.

use std::ffi::CStr;
use std::mem::offset_of;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyModule;

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
use crate::raw::{Raised, RawResult, exception, to_py};
use crate::runtime::operation::{self, Kind, Operation, Outcome, Turn, never_resumed};

#[repr(C)]
pub(crate) struct Lock {
    attributes: Attributes,
    binding: Binding,
    waiters: Waiters,
    locked: GilValue<bool>,
    /// Somebody waited once: from then on `_waiters` is no longer None.
    waited: GilValue<bool>,
}

impl Default for Lock {
    fn default() -> Lock {
        Lock {
            attributes: Attributes::empty(),
            binding: Binding::none(),
            waiters: Waiters::new(),
            locked: GilValue::new(false),
            waited: GilValue::new(false),
        }
    }
}

impl Data for Lock {
    const FREELIST: usize = 0;
    const SUBCLASSABLE: Option<usize> = Some(offset_of!(Lock, attributes));

    fn class() -> &'static Class<Self> {
        static CLASS: Class<Lock> = Class::new();
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

/// The core: no face knows more.
impl Lock {
    /// Takes the lock if it is free and nobody waits.
    #[inline]
    pub(super) fn try_acquire(&self, py: Python<'_>) -> RawResult<bool> {
        if self.locked.get() || (!self.waiters.is_empty(py) && self.waiters.any_alive(py)?) {
            return Ok(false);
        }
        self.locked.set(true);
        Ok(true)
    }

    /// A new waiter at the end of the line.
    pub(super) fn stand_in_line(&self, py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        let waiter = self.binding.create_future(py, this)?;
        self.waited.set(true);
        self.waiters.push(py, waiter.clone())?;
        Ok(waiter)
    }

    /// The waiter was woken, or failed with `error`: out of the line. Then the lock is taken, or somebody else's turn.
    pub(super) fn leave_line(&self, py: Python<'_>, waiter: &Obj, outcome: Outcome) -> RawResult<()> {
        self.waiters.remove(py, waiter)?;
        match outcome {
            Ok(_) => {
                self.locked.set(true);
                Ok(())
            }
            Err(error) => {
                let cancelled = imports::raw(py, imports::cancelled_error(py))?;
                if exception::matches(py, &error, cancelled.as_ptr()) && !self.locked.get() {
                    self.waiters.wake_first(py)?;
                }
                Err(exception::restore(py, error))
            }
        }
    }

    #[inline]
    pub(super) fn release(&self, py: Python<'_>) -> RawResult<()> {
        if !self.locked.get() {
            return Err(Raised::from_err(py, PyRuntimeError::new_err("Lock is not acquired.")));
        }
        self.locked.set(false);
        self.waiters.wake_first(py)
    }

    #[inline]
    pub(super) fn is_locked(&self) -> bool {
        self.locked.get()
    }
}

static ACQUIRE: Kind = Kind { name: "Lock.acquire", start: acquire_start, resume: acquire_resume };
pub(super) static ENTER: Kind = Kind { name: "Lock.__aenter__", start: enter_start, resume: enter_resume };
pub(super) static EXIT: Kind = Kind { name: "Lock.__aexit__", start: exit_start, resume: never_resumed };

#[inline]
fn begin(py: Python<'_>, this: &Ref<Operation>, value: impl FnOnce() -> Obj) -> RawResult<Turn> {
    let lock = this.target::<Lock>();
    if lock.try_acquire(py)? {
        return Ok(Turn::Return(value()));
    }
    let waiter = lock.stand_in_line(py, lock.as_obj())?;
    this.waiter.set(Some(waiter.clone()));
    Ok(Turn::Await(waiter))
}

fn finish(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<()> {
    let waiter = this.waiter.take().expect("it waited");
    this.target::<Lock>().leave_line(py, &waiter, outcome)
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
    this.target::<Lock>().release(py)?;
    Ok(Turn::Return(Obj::none(py)))
}

/// Whether `acquire` and `release` are those of this file.
#[inline]
pub(super) fn is_plain(this: &Ref<Lock>) -> bool {
    this.is_exact() && !this.attributes.has_dict()
}

pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DOC: &CStr =
        c"Lock()\n--\n\nMutual exclusion between tasks: at most one holds it.\n\nWho waits gets it in the \
        order of arrival. Use it with `async with`. It belongs to no task: any task may release it.";
    let table = Table::<Lock>::new(c"hayase.locks.Lock", DOC, std::ptr::null_mut(), 0)
        .noargs(
            c"acquire",
            c"acquire($self, /)\n--\n\nWait until the lock is free, take it and return True.",
            |py: Python<'_>, this: &Ref<Lock>| operation::make(py, &ACQUIRE, this.as_obj().clone(), None),
        )
        .noargs(
            c"release",
            c"release($self, /)\n--\n\nGive the lock to the next who waits. RuntimeError if it is free.",
            |py: Python<'_>, this: &Ref<Lock>| this.release(py).map(|()| Obj::none(py)),
        )
        .noargs(c"locked", c"locked($self, /)\n--\n\nWhether somebody holds it.", |py: Python<'_>, this: &Ref<Lock>| {
            Ok(Obj::bool(py, this.is_locked()))
        })
        .noargs(c"__aenter__", c"Acquire the lock.", |py: Python<'_>, this: &Ref<Lock>| {
            let kind = if is_plain(this) { &ENTER } else { &super::ENTER_OVERRIDDEN };
            operation::make(py, kind, this.as_obj().clone(), None)
        })
        .fastcall(
            c"__aexit__",
            c"__aexit__($self, exc_type, exc, tb)\n--\n\nRelease the lock.",
            |py: Python<'_>, this: &Ref<Lock>, args: &Args<'_>| {
                arguments::exit(py, args)?;
                let kind = if is_plain(this) { &EXIT } else { &super::EXIT_OVERRIDDEN };
                operation::make(py, kind, this.as_obj().clone(), None)
            },
        )
        .get_set(
            c"_locked",
            |py: Python<'_>, this: &Ref<Lock>| Ok(Obj::bool(py, this.is_locked())),
            |py: Python<'_>, this: &Ref<Lock>, value: &Obj| {
                this.locked.set(crate::raw::call::is_true(py, value)?);
                Ok(())
            },
        )
        .get_set(
            c"_waiters",
            |py: Python<'_>, this: &Ref<Lock>| {
                if this.waited.get() { this.waiters.as_deque(py) } else { Ok(Obj::none(py)) }
            },
            |py: Python<'_>, this: &Ref<Lock>, value: &Obj| {
                this.waiters.replace(py, value);
                this.waited.set(!value.is_none());
                Ok(())
            },
        )
        .get_set(
            c"_loop",
            |py: Python<'_>, this: &Ref<Lock>| Ok(this.binding.get(py)),
            |_py: Python<'_>, this: &Ref<Lock>, value: &Obj| {
                this.binding.set(value);
                Ok(())
            },
        )
        .noargs(c"__reduce__", c"For copy and pickle.", |py: Python<'_>, this: &Ref<Lock>| {
            let attributes = vec![("_locked", Obj::bool(py, this.is_locked()))];
            let copied = Copied::new(this.attributes.dict(), attributes).waiters(py, "_waiters", &this.waiters)?;
            copied.reduce(py, this.as_obj(), &this.binding)
        })
        .repr(|py: Python<'_>, this: &Ref<Lock>| {
            let extra = if this.is_locked() { "locked" } else { "unlocked" };
            super::repr(py, this.as_obj(), extra, this.waiters.len(py))
        })
        .init(|py: Python<'_>, _this: &Ref<Lock>, args: &Obj, keywords: Option<&Obj>| {
            arguments::one(py, "Lock", None, args, keywords).map(drop)
        });
    to_py(py, table.build(std::ptr::null_mut()))?;
    module.add("Lock", Lock::class().type_obj().into_bound(py))
}
