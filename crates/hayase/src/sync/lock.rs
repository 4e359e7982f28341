//! `Lock`.

use std::ffi::CStr;
use std::mem::offset_of;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyModule;

use super::base::{self, Base, Based, Guard};
use crate::interop::arguments;
use crate::interop::imports;
use crate::raw::cell::GilValue;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::Table;
use crate::raw::{Raised, RawResult, exception, to_py};
use crate::runtime::operation::{Kind, Outcome};

#[repr(C)]
pub(crate) struct Lock {
    base: Base,
    locked: GilValue<bool>,
}

impl Default for Lock {
    fn default() -> Lock {
        Lock { base: Base::without_line(), locked: GilValue::new(false) }
    }
}

impl Data for Lock {
    const FREELIST: usize = 0;
    const SUBCLASSABLE: Option<usize> = Some(offset_of!(Lock, base.attributes));

    fn class() -> &'static Class<Self> {
        static CLASS: Class<Lock> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.base.visit(visitor);
    }
    fn clear(&self) {
        self.base.clear();
    }
}

impl Lock {
    #[inline]
    pub(super) fn is_locked(&self) -> bool {
        self.locked.get()
    }
}

impl Based for Lock {
    fn base(&self) -> &Base {
        &self.base
    }
    fn copied(&self, py: Python<'_>) -> Vec<(&'static str, Obj)> {
        vec![("_locked", Obj::bool(py, self.is_locked()))]
    }
    fn described(_py: Python<'_>, this: &Ref<Lock>) -> RawResult<String> {
        Ok(if this.is_locked() { "locked" } else { "unlocked" }.to_owned())
    }
}

/// The core: no face knows more.
impl Guard for Lock {
    const ACQUIRE: &'static Kind =
        &Kind { name: "Lock.acquire", start: base::acquire::<Lock>, resume: base::acquired::<Lock> };

    #[inline]
    fn is_plain(this: &Ref<Lock>) -> bool {
        this.is_exact() && !this.base.attributes.has_dict()
    }

    #[inline]
    fn try_acquire(&self, py: Python<'_>) -> RawResult<bool> {
        if self.locked.get() || (!self.base.waiters.is_empty(py) && self.base.waiters.any_alive(py)?) {
            return Ok(false);
        }
        self.locked.set(true);
        Ok(true)
    }

    fn leave_line(&self, py: Python<'_>, waiter: &Obj, outcome: Outcome) -> RawResult<()> {
        self.base.waiters.remove(py, waiter)?;
        match outcome {
            Ok(_) => {
                self.locked.set(true);
                Ok(())
            }
            Err(error) => {
                let cancelled = imports::raw(py, imports::cancelled_error(py))?;
                if exception::matches(py, &error, cancelled.as_ptr()) && !self.locked.get() {
                    self.base.waiters.wake_first(py)?;
                }
                Err(exception::restore(py, error))
            }
        }
    }

    #[inline]
    fn release(&self, py: Python<'_>) -> RawResult<()> {
        if !self.locked.get() {
            return Err(Raised::from_err(py, PyRuntimeError::new_err("Lock is not acquired.")));
        }
        self.locked.set(false);
        self.base.waiters.wake_first(py)
    }
}

pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DOC: &CStr =
        c"Lock()\n--\n\nMutual exclusion between tasks: at most one holds it.\n\nWho waits gets it in the \
        order of arrival. Use it with `async with`. It belongs to no task: any task may release it.";
    let table = Table::<Lock>::new(c"hayase.locks.Lock", DOC, std::ptr::null_mut(), 0);
    let table = base::with_guard(
        base::with_base(table),
        c"acquire($self, /)\n--\n\nWait until the lock is free, take it and return True.",
        c"release($self, /)\n--\n\nGive the lock to the next who waits. RuntimeError if it is free.",
    );
    let table = table
        .noargs(c"locked", c"locked($self, /)\n--\n\nWhether somebody holds it.", |py: Python<'_>, this: &Ref<Lock>| {
            Ok(Obj::bool(py, this.is_locked()))
        })
        .get_set(
            c"_locked",
            |py: Python<'_>, this: &Ref<Lock>| Ok(Obj::bool(py, this.is_locked())),
            |py: Python<'_>, this: &Ref<Lock>, value: &Obj| {
                this.locked.set(crate::raw::call::is_true(py, value)?);
                Ok(())
            },
        )
        .noargs(c"_wake_up_first", c"Let the first who waits try to take it.", |py: Python<'_>, this: &Ref<Lock>| {
            this.base.waiters.wake_first(py).map(|()| Obj::none(py))
        })
        .init(|py: Python<'_>, _this: &Ref<Lock>, args: &Obj, keywords: Option<&Obj>| {
            arguments::one(py, "Lock", None, args, keywords).map(drop)
        });
    to_py(py, table.build(std::ptr::null_mut()))?;
    module.add("Lock", Lock::class().type_obj().into_bound(py))
}
