//! `Event`.

use std::ffi::CStr;
use std::mem::offset_of;

use pyo3::prelude::*;
use pyo3::types::PyModule;

use super::binding::Binding;
use super::copying::Copied;
use super::waiters::Waiters;
use crate::interop::arguments;
use crate::raw::attributes::Attributes;
use crate::raw::call;
use crate::raw::cell::GilValue;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::Table;
use crate::raw::{RawResult, exception, to_py};
use crate::runtime::operation::{self, Kind, Operation, Outcome, Turn};

#[repr(C)]
pub(crate) struct Event {
    attributes: Attributes,
    binding: Binding,
    waiters: Waiters,
    is_set: GilValue<bool>,
}

impl Default for Event {
    fn default() -> Event {
        Event {
            attributes: Attributes::empty(),
            binding: Binding::none(),
            waiters: Waiters::new(),
            is_set: GilValue::new(false),
        }
    }
}

impl Data for Event {
    const FREELIST: usize = 0;
    const SUBCLASSABLE: Option<usize> = Some(offset_of!(Event, attributes));

    fn class() -> &'static Class<Self> {
        static CLASS: Class<Event> = Class::new();
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
impl Event {
    #[inline]
    pub(super) fn is_set(&self) -> bool {
        self.is_set.get()
    }

    /// All who wait are woken, even if it is cleared again before they run.
    pub(super) fn set(&self, py: Python<'_>) -> RawResult<()> {
        if self.is_set.replace(true) {
            return Ok(());
        }
        self.waiters.wake(py, usize::MAX, true)
    }

    pub(super) fn unset(&self) {
        self.is_set.set(false);
    }

    fn stand_in_line(&self, py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        let waiter = self.binding.create_future(py, this)?;
        self.waiters.push(py, waiter.clone())?;
        Ok(waiter)
    }
}

/// A new event.
pub(super) fn make(py: Python<'_>, is_set: bool) -> RawResult<Ref<Event>> {
    let event = Event::default();
    event.is_set.set(is_set);
    Event::class().make(py, event)
}

static WAIT: Kind = Kind { name: "Event.wait", start: wait_start, resume: wait_resume };

fn wait_start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let event = this.target::<Event>();
    if event.is_set() {
        return Ok(Turn::Return(Obj::bool(py, true)));
    }
    let waiter = event.stand_in_line(py, event.as_obj())?;
    this.waiter.set(Some(waiter.clone()));
    Ok(Turn::Await(waiter))
}

fn wait_resume(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    let waiter = this.waiter.take().expect("it waited");
    this.target::<Event>().waiters.remove(py, &waiter)?;
    match outcome {
        Ok(_) => Ok(Turn::Return(Obj::bool(py, true))),
        Err(error) => Err(exception::restore(py, error)),
    }
}

/// The coroutine of `event.wait()`.
pub(super) fn wait(py: Python<'_>, event: &Ref<Event>) -> RawResult<Obj> {
    operation::make(py, &WAIT, event.as_obj().clone(), None)
}

pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DOC: &CStr = c"Event()\n--\n\nA flag that tasks wait for: `set` wakes all of them, `clear` takes it back.";
    let table = Table::<Event>::new(c"hayase.locks.Event", DOC, std::ptr::null_mut(), 0)
        .noargs(c"is_set", c"is_set($self, /)\n--\n\nWhether the flag is set.", |py: Python<'_>, this: &Ref<Event>| {
            Ok(Obj::bool(py, this.is_set()))
        })
        .noargs(
            c"set",
            c"set($self, /)\n--\n\nSet the flag and wake all who wait for it.",
            |py: Python<'_>, this: &Ref<Event>| this.set(py).map(|()| Obj::none(py)),
        )
        .noargs(
            c"clear",
            c"clear($self, /)\n--\n\nTake the flag back: `wait` waits again.",
            |py: Python<'_>, this: &Ref<Event>| {
                this.unset();
                Ok(Obj::none(py))
            },
        )
        .noargs(c"wait", c"wait($self, /)\n--\n\nWait until the flag is set; returns True.", |py: Python<'_>, this| {
            wait(py, this)
        })
        .get_set(
            c"_value",
            |py: Python<'_>, this: &Ref<Event>| Ok(Obj::bool(py, this.is_set())),
            |py: Python<'_>, this: &Ref<Event>, value: &Obj| {
                this.is_set.set(call::is_true(py, value)?);
                Ok(())
            },
        )
        .get_set(
            c"_waiters",
            |py: Python<'_>, this: &Ref<Event>| this.waiters.as_deque(py),
            |py: Python<'_>, this: &Ref<Event>, value: &Obj| {
                this.waiters.replace(py, value);
                Ok(())
            },
        )
        .get_set(
            c"_loop",
            |py: Python<'_>, this: &Ref<Event>| Ok(this.binding.get(py)),
            |_py: Python<'_>, this: &Ref<Event>, value: &Obj| {
                this.binding.set(value);
                Ok(())
            },
        )
        .noargs(c"__reduce__", c"For copy and pickle.", |py: Python<'_>, this: &Ref<Event>| {
            let attributes = vec![("_value", Obj::bool(py, this.is_set()))];
            let copied = Copied::new(this.attributes.dict(), attributes).waiters(py, "_waiters", &this.waiters)?;
            copied.reduce(py, this.as_obj(), &this.binding)
        })
        .repr(|py: Python<'_>, this: &Ref<Event>| {
            let extra = if this.is_set() { "set" } else { "unset" };
            super::repr(py, this.as_obj(), extra, this.waiters.len(py))
        })
        .init(|py: Python<'_>, _this: &Ref<Event>, args: &Obj, keywords: Option<&Obj>| {
            arguments::one(py, "Event", None, args, keywords).map(drop)
        });
    to_py(py, table.build(std::ptr::null_mut()))?;
    module.add("Event", Event::class().type_obj().into_bound(py))
}
