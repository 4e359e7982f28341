//! `Condition`: tasks that wait, without the lock, until somebody who has it notifies them.
//!
//! Whoever waits has the lock again when `wait` ends, however it ends. Who is notified but cannot use it (cancelled
//! meanwhile) notifies the next one instead.
//!
//! The lock may be anybody's: it is used by name (`locked`, `acquire`, `release`) unless it is a plain one of ours.

use std::ffi::CStr;
use std::mem::offset_of;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyModule};

use super::base::{self, Base, Based, Guard};
use super::binding::Binding;
use super::lock::Lock;
use crate::interop::arguments;
use crate::interop::imports;
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::fastcall::Args;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::Table;
use crate::raw::{Raised, RawResult, exception, to_py, to_raw};
use crate::runtime::operation::{self, Kind, Operation, Outcome, Turn};

#[repr(C)]
pub(crate) struct Condition {
    base: Base,
    lock: ObjCell,
    /// The lock is exactly a `Lock` of ours.
    lock_is_ours: GilValue<bool>,
}

impl Default for Condition {
    fn default() -> Condition {
        Condition { base: Base::new(), lock: ObjCell::empty(), lock_is_ours: GilValue::new(false) }
    }
}

impl Data for Condition {
    const FREELIST: usize = 0;
    const SUBCLASSABLE: Option<usize> = Some(offset_of!(Condition, base.attributes));

    fn class() -> &'static Class<Self> {
        static CLASS: Class<Condition> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.base.visit(visitor);
        visitor.cell(&self.lock);
    }
    fn clear(&self) {
        self.base.clear();
        self.lock.set(None);
    }
}

impl Based for Condition {
    fn base(&self) -> &Base {
        &self.base
    }
    fn copied(&self, py: Python<'_>) -> Vec<(&'static str, Obj)> {
        vec![("_lock", self.lock.get().unwrap_or_else(|| Obj::none(py)))]
    }
    fn described(py: Python<'_>, this: &Ref<Condition>) -> RawResult<String> {
        Ok(if this.is_locked(py)? { "locked" } else { "unlocked" }.to_owned())
    }
}

static ACQUIRE: Name = Name::new(c"acquire");
static LOCKED: Name = Name::new(c"locked");
static N: Name = Name::new(c"n");
static PREDICATE: Name = Name::new(c"predicate");
static RELEASE: Name = Name::new(c"release");
static WAIT_NAME: Name = Name::new(c"wait");

impl Ref<Condition> {
    /// The lock, if nothing of it or of this condition is overridden.
    #[inline]
    fn plain_lock(&self) -> Option<Ref<Lock>> {
        if !self.lock_is_ours.get() || !self.is_exact() || self.base.attributes.has_dict() {
            return None;
        }
        let lock = self.lock.get()?;
        Ref::<Lock>::view_obj(&lock).filter(|lock| Lock::is_plain(lock)).cloned()
    }

    fn lock_object(&self, py: Python<'_>) -> Obj {
        self.lock.get().unwrap_or_else(|| Obj::none(py))
    }

    /// The lock of a condition that [`make`] made.
    pub(super) fn own_lock(&self) -> Ref<Lock> {
        let lock = self.lock.get().expect("it has a lock");
        Ref::<Lock>::view_obj(&lock).expect("a plain one").clone()
    }

    fn is_locked(&self, py: Python<'_>) -> RawResult<bool> {
        match self.plain_lock() {
            Some(lock) => Ok(lock.is_locked()),
            None => call::is_true(py, &call::method(py, self.as_obj(), &LOCKED, &[])?),
        }
    }

    fn check_locked(&self, py: Python<'_>, what: &str) -> RawResult<()> {
        if self.is_locked(py)? {
            return Ok(());
        }
        Err(Raised::from_err(py, PyRuntimeError::new_err(format!("cannot {what} on un-acquired lock"))))
    }

    pub(super) fn release(&self, py: Python<'_>) -> RawResult<()> {
        match self.plain_lock() {
            Some(lock) => lock.release(py),
            None => call::method(py, self.as_obj(), &RELEASE, &[]).map(drop),
        }
    }

    pub(super) fn binding(&self) -> &Binding {
        &self.base.binding
    }

    pub(super) fn notify(&self, py: Python<'_>, count: usize) -> RawResult<()> {
        self.base.waiters.wake(py, count, false)
    }
}

/// A condition with a lock of its own.
pub(super) fn make(py: Python<'_>) -> RawResult<Ref<Condition>> {
    let condition = Condition::class().make(py, Condition::default())?;
    condition.lock.set(Some(Lock::class().make(py, Lock::default())?.into_obj()));
    condition.lock_is_ours.set(true);
    Ok(condition)
}

const NOTIFIED: u8 = 0;
const GETTING_THE_LOCK: u8 = 1;
const GETTING_ANY_LOCK: u8 = 2;

pub(super) static WAIT: Kind = Kind { name: "Condition.wait", start: wait_start, resume: wait_resume };
static WAIT_FOR: Kind = Kind { name: "Condition.wait_for", start: wait_for_start, resume: wait_for_resume };

fn wait_start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let condition = this.target::<Condition>();
    condition.check_locked(py, "wait")?;
    let waiter = condition.base.binding.create_future(py, condition.as_obj())?;
    condition.release(py)?;
    condition.base.waiters.push(py, waiter.clone())?;
    this.waiter.set(Some(waiter.clone()));
    this.phase().set(NOTIFIED);
    Ok(Turn::Await(waiter))
}

/// The argument of the operation is what it will raise when it has the lock.
fn wait_resume(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    let condition = this.target::<Condition>();
    let outcome = match this.phase().get() {
        NOTIFIED => {
            let waiter = this.waiter.take().expect("it waited");
            condition.base.waiters.remove(py, &waiter)?;
            this.argument.set(outcome.err());
            return get_lock(py, this, &condition);
        }
        GETTING_THE_LOCK => {
            let waiter = this.waiter.take().expect("it waited");
            let lock = condition.lock_object(py);
            let lock = Ref::<Lock>::view_obj(&lock).expect("it stood in the line of a Lock");
            lock.leave_line(py, &waiter, outcome).map_err(|raised| exception::fetch(py, raised))
        }
        _ => outcome.map(drop),
    };
    let Err(error) = outcome else {
        return has_lock(py, this, &condition);
    };
    let cancelled = imports::raw(py, imports::cancelled_error(py))?;
    let again = exception::matches(py, &error, cancelled.as_ptr());
    this.argument.set(Some(error));
    // A cancellation has to wait until the lock is there; anything else means that it never will be.
    if again { get_lock(py, this, &condition) } else { has_lock(py, this, &condition) }
}

fn get_lock(py: Python<'_>, this: &Ref<Operation>, condition: &Ref<Condition>) -> RawResult<Turn> {
    let Some(lock) = condition.plain_lock() else {
        this.phase().set(GETTING_ANY_LOCK);
        return call::method(py, condition.as_obj(), &ACQUIRE, &[]).map(Turn::Await);
    };
    if lock.try_acquire(py)? {
        return has_lock(py, this, condition);
    }
    let waiter = lock.base().stand_in_line(py, lock.as_obj())?;
    this.waiter.set(Some(waiter.clone()));
    this.phase().set(GETTING_THE_LOCK);
    Ok(Turn::Await(waiter))
}

fn has_lock(py: Python<'_>, this: &Ref<Operation>, condition: &Ref<Condition>) -> RawResult<Turn> {
    match this.argument.take() {
        None => Ok(Turn::Return(Obj::bool(py, true))),
        Some(error) => {
            // It may have been notified already.
            condition.notify(py, 1)?;
            Err(exception::restore(py, error))
        }
    }
}

fn wait_for_start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let predicate = this.argument.get().expect("required");
    let result = call::call0(py, &predicate)?;
    if call::is_true(py, &result)? {
        return Ok(Turn::Return(result));
    }
    call::method(py, &this.target_object(), &WAIT_NAME, &[]).map(Turn::Await)
}

fn wait_for_resume(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    match outcome {
        Ok(_) => wait_for_start(py, this),
        Err(error) => Err(exception::restore(py, error)),
    }
}

fn initialise(py: Python<'_>, this: &Ref<Condition>, args: &Obj, keywords: Option<&Obj>) -> RawResult<()> {
    let lock = arguments::one(py, "Condition", Some("lock"), args, keywords)?.filter(|lock| !lock.is_none());
    let lock = match lock {
        Some(lock) => lock,
        None => Lock::class().make(py, Lock::default())?.into_obj(),
    };
    let is_ours = Ref::<Lock>::view_obj(&lock).is_some();
    if !is_ours {
        for name in [&LOCKED, &ACQUIRE, &RELEASE] {
            call::getattr(py, &lock, name)?;
        }
    }
    this.lock_is_ours.set(is_ours);
    this.lock.set(Some(lock));
    Ok(())
}

fn notify(py: Python<'_>, this: &Ref<Condition>, args: &Args<'_>) -> RawResult<Obj> {
    let [count] = args.named("Condition.notify").bind(py, [&N], 0)?;
    this.check_locked(py, "notify")?;
    match count {
        Some(count) => notify_any_number(py, this, &count)?,
        None => this.notify(py, 1)?,
    }
    Ok(Obj::none(py))
}

/// What is no int that fits is compared as asyncio compares it: with how many were woken, while somebody waits.
fn notify_any_number(py: Python<'_>, this: &Ref<Condition>, wanted: &Obj) -> RawResult<()> {
    let wanted = wanted.borrow(py);
    if let Some(count) = wanted.cast_exact::<PyInt>().ok().and_then(|count| count.extract::<i64>().ok()) {
        return this.notify(py, usize::try_from(count).unwrap_or(0));
    }
    for count in 0..this.base.waiters.len(py) {
        if to_raw(py, count.into_pyobject(py).map_err(PyErr::from).and_then(|count| count.ge(wanted)))? {
            return this.notify(py, count);
        }
    }
    this.notify(py, usize::MAX)
}

pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DOC: &CStr =
        c"Condition(lock=None)\n--\n\nTasks that have a lock wait until another task, which has it meanwhile, \
        notifies them.\n\nUse it with `async with`. Without a lock it makes one.";
    let table = Table::<Condition>::new(c"hayase.locks.Condition", DOC, std::ptr::null_mut(), 0);
    let table = base::with_base(table)
        .noargs(
            c"wait",
            c"wait($self, /)\n--\n\nLet the lock go, wait to be notified, take it again and return True.",
            |py: Python<'_>, this: &Ref<Condition>| operation::make(py, &WAIT, this.as_obj().clone(), None),
        )
        .fastcall(
            c"wait_for",
            c"wait_for($self, /, predicate)\n--\n\nWait until predicate() is true, and return what it returned.",
            |py: Python<'_>, this: &Ref<Condition>, args: &Args<'_>| {
                let [predicate] = args.named("Condition.wait_for").bind(py, [&PREDICATE], 1)?;
                operation::make(py, &WAIT_FOR, this.as_obj().clone(), predicate)
            },
        )
        .fastcall(c"notify", c"notify($self, /, n=1)\n--\n\nWake n who wait; the lock must be held.", notify)
        .noargs(
            c"notify_all",
            c"notify_all($self, /)\n--\n\nWake all who wait; the lock must be held.",
            |py: Python<'_>, this: &Ref<Condition>| {
                this.check_locked(py, "notify")?;
                this.notify(py, usize::MAX)?;
                Ok(Obj::none(py))
            },
        )
        .onearg(c"_notify", c"Wake n who wait.", |py: Python<'_>, this: &Ref<Condition>, count: &Obj| {
            notify_any_number(py, this, count)?;
            Ok(Obj::none(py))
        })
        .noargs(c"acquire", c"acquire($self, /)\n--\n\nThe lock's acquire.", |py: Python<'_>, this: &Ref<Condition>| {
            call::method(py, &this.lock_object(py), &ACQUIRE, &[])
        })
        .noargs(c"release", c"release($self, /)\n--\n\nThe lock's release.", |py: Python<'_>, this: &Ref<Condition>| {
            call::method(py, &this.lock_object(py), &RELEASE, &[])
        })
        .noargs(c"locked", c"locked($self, /)\n--\n\nThe lock's locked.", |py: Python<'_>, this: &Ref<Condition>| {
            call::method(py, &this.lock_object(py), &LOCKED, &[])
        })
        .noargs(c"__aenter__", c"Acquire the lock.", |py: Python<'_>, this: &Ref<Condition>| match this.plain_lock() {
            Some(lock) => operation::make(py, Lock::ENTER, lock.into_obj(), None),
            None => operation::make(py, &super::ENTER_OVERRIDDEN, this.as_obj().clone(), None),
        })
        .fastcall(c"__aexit__", base::EXIT_DOC, |py: Python<'_>, this: &Ref<Condition>, args: &Args<'_>| {
            arguments::exit(py, args)?;
            match this.plain_lock() {
                Some(lock) => base::exit(py, &lock),
                None => operation::make(py, &super::EXIT_OVERRIDDEN, this.as_obj().clone(), None),
            }
        })
        .get_set(
            c"_lock",
            |py: Python<'_>, this: &Ref<Condition>| Ok(this.lock_object(py)),
            |_py: Python<'_>, this: &Ref<Condition>, lock: &Obj| {
                this.lock_is_ours.set(Ref::<Lock>::view_obj(lock).is_some());
                this.lock.set(Some(lock.clone()));
                Ok(())
            },
        )
        .init(initialise);
    to_py(py, table.build(std::ptr::null_mut()))?;
    module.add("Condition", Condition::class().type_obj().into_bound(py))
}
