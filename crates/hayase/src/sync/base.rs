//! What a lock, a semaphore, an event and a condition have in common ([`Base`]), and what those that are taken and given
//! back have in common besides ([`Guard`]).

use std::ffi::CStr;

use pyo3::prelude::*;

use super::binding::Binding;
use super::copying::Copied;
use super::waiters::Waiters;
use super::{ENTER_OVERRIDDEN, EXIT_OVERRIDDEN};
use crate::interop::{arguments, asyncio_class};
use crate::raw::RawResult;
use crate::raw::attributes::Attributes;
use crate::raw::cell::GilValue;
use crate::raw::fastcall::Args;
use crate::raw::instance::{Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::Table;
use crate::runtime::operation::{self, Kind, Operation, Outcome, Turn};

#[repr(C)]
pub(super) struct Base {
    pub(super) attributes: Attributes,
    pub(super) binding: Binding,
    pub(super) waiters: Waiters,
    /// `_waiters` is no longer None.
    has_line: GilValue<bool>,
}

impl Base {
    /// With a line from the start.
    pub(super) fn new() -> Base {
        Base {
            attributes: Attributes::empty(),
            binding: Binding::none(),
            waiters: Waiters::new(),
            has_line: GilValue::new(true),
        }
    }

    /// The line is made when somebody waits for the first time, as that of asyncio's locks and semaphores.
    pub(super) fn without_line() -> Base {
        Base { has_line: GilValue::new(false), ..Base::new() }
    }

    /// A new waiter at the end of the line of `this`, whose base this is.
    pub(super) fn stand_in_line(&self, py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        let waiter = self.binding.create_future(py, this)?;
        self.has_line.set(true);
        self.waiters.push(py, waiter.clone())?;
        Ok(waiter)
    }

    pub(super) fn visit(&self, visitor: &mut Visitor<'_>) {
        self.attributes.visit(visitor);
        self.binding.visit(visitor);
        self.waiters.visit(visitor);
    }

    pub(super) fn clear(&self) {
        self.attributes.clear();
        self.waiters.clear();
        self.binding.clear();
    }
}

/// What stands on a [`Base`].
pub(super) trait Based: Data {
    fn base(&self) -> &Base;
    /// What a copy gets, by private names.
    fn copied(&self, py: Python<'_>) -> Vec<(&'static str, Obj)>;
    /// What `repr` says in brackets, before the number of waiters.
    fn described(py: Python<'_>, this: &Ref<Self>) -> RawResult<String>;
}

pub(super) const GET_LOOP_DOC: &CStr = c"For subclasses: the running loop, to which it belongs from now on.";

/// The names that all of them have.
pub(super) fn with_base<T: Based>(table: Table<T>) -> Table<T> {
    table
        .get(c"__class__", asyncio_class::of)
        .get_set(
            c"_waiters",
            |py: Python<'_>, this: &Ref<T>| {
                let base = this.base();
                if base.has_line.get() { base.waiters.as_deque(py) } else { Ok(Obj::none(py)) }
            },
            |py: Python<'_>, this: &Ref<T>, value: &Obj| {
                this.base().waiters.replace(py, value);
                this.base().has_line.set(!value.is_none());
                Ok(())
            },
        )
        .get_set(
            c"_loop",
            |py: Python<'_>, this: &Ref<T>| Ok(this.base().binding.get(py)),
            |_py: Python<'_>, this: &Ref<T>, value: &Obj| {
                this.base().binding.set(value);
                Ok(())
            },
        )
        .noargs(c"_get_loop", GET_LOOP_DOC, |py: Python<'_>, this: &Ref<T>| {
            this.base().binding.running_loop(py, this.as_obj())
        })
        .noargs(c"__reduce__", c"For copy and pickle.", |py: Python<'_>, this: &Ref<T>| {
            let base = this.base();
            let copied = Copied::new(base.attributes.dict(), this.copied(py)).waiters(py, "_waiters", &base.waiters)?;
            copied.reduce(py, this.as_obj(), &base.binding)
        })
        .repr(|py: Python<'_>, this: &Ref<T>| {
            super::repr(py, this.as_obj(), &T::described(py, this)?, this.base().waiters.len(py))
        })
}

/// What is taken and given back: `acquire`, `release` and `async with`.
pub(super) trait Guard: Based {
    /// Its `acquire`, which starts with [`acquire`] and goes on with [`acquired`].
    const ACQUIRE: &'static Kind;
    const ENTER: &'static Kind =
        &Kind { name: "_ContextManagerMixin.__aenter__", start: enter::<Self>, resume: entered::<Self> };

    /// Takes it, if that is possible now and nobody waits.
    fn try_acquire(&self, py: Python<'_>) -> RawResult<bool>;
    /// The waiter was woken, or failed: out of the line. Then it is taken, or somebody else's turn.
    fn leave_line(&self, py: Python<'_>, waiter: &Obj, outcome: Outcome) -> RawResult<()>;
    fn release(&self, py: Python<'_>) -> RawResult<()>;
    /// Whether `acquire` and `release` are ours.
    fn is_plain(this: &Ref<Self>) -> bool;
}

#[inline]
fn begin<T: Guard>(py: Python<'_>, this: &Ref<Operation>, value: impl FnOnce() -> Obj) -> RawResult<Turn> {
    let guard = this.target::<T>();
    if guard.try_acquire(py)? {
        return Ok(Turn::Return(value()));
    }
    let waiter = guard.base().stand_in_line(py, guard.as_obj())?;
    this.waiter.set(Some(waiter.clone()));
    Ok(Turn::Await(waiter))
}

fn finish<T: Guard>(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<()> {
    let waiter = this.waiter.take().expect("it waited");
    this.target::<T>().leave_line(py, &waiter, outcome)
}

pub(super) fn acquire<T: Guard>(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    begin::<T>(py, this, || Obj::bool(py, true))
}

pub(super) fn acquired<T: Guard>(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    finish::<T>(py, this, outcome)?;
    Ok(Turn::Return(Obj::bool(py, true)))
}

fn enter<T: Guard>(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    begin::<T>(py, this, || Obj::none(py))
}

fn entered<T: Guard>(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    finish::<T>(py, this, outcome)?;
    Ok(Turn::Return(Obj::none(py)))
}

/// `__aexit__` of a plain guard: given back at once, because `async with` awaits at once what this returns.
#[inline]
pub(super) fn exit<T: Guard>(py: Python<'_>, guard: &Ref<T>) -> RawResult<Obj> {
    guard.release(py)?;
    operation::nothing(py)
}

pub(super) const EXIT_DOC: &CStr = c"__aexit__($self, exc_type, exc, tb)\n--\n\nRelease it.";

/// The methods of a guard but for `locked`; the docs are those of `acquire` and `release`.
pub(super) fn with_guard<T: Guard>(
    table: Table<T>,
    acquire_doc: &'static CStr,
    release_doc: &'static CStr,
) -> Table<T> {
    table
        .noargs(c"acquire", acquire_doc, |py: Python<'_>, this: &Ref<T>| {
            operation::make(py, T::ACQUIRE, this.as_obj().clone(), None)
        })
        .noargs(c"release", release_doc, |py: Python<'_>, this: &Ref<T>| this.release(py).map(|()| Obj::none(py)))
        .noargs(c"__aenter__", c"Acquire it.", |py: Python<'_>, this: &Ref<T>| {
            let kind = if T::is_plain(this) { T::ENTER } else { &ENTER_OVERRIDDEN };
            operation::make(py, kind, this.as_obj().clone(), None)
        })
        .fastcall(c"__aexit__", EXIT_DOC, |py: Python<'_>, this: &Ref<T>, args: &Args<'_>| {
            arguments::exit(py, args)?;
            if T::is_plain(this) {
                exit(py, this)
            } else {
                operation::make(py, &EXIT_OVERRIDDEN, this.as_obj().clone(), None)
            }
        })
}
