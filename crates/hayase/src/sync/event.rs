//! `Event`.

use std::ffi::CStr;
use std::mem::offset_of;

use pyo3::prelude::*;
use pyo3::types::PyModule;

use super::base::{self, Base, Based};
use crate::interop::arguments;
use crate::raw::call;
use crate::raw::cell::GilValue;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::Table;
use crate::raw::{RawResult, exception, to_py};
use crate::runtime::operation::{self, Kind, Operation, Outcome, Turn};

#[repr(C)]
pub(crate) struct Event {
    base: Base,
    is_set: GilValue<bool>,
}

impl Default for Event {
    fn default() -> Event {
        Event { base: Base::new(), is_set: GilValue::new(false) }
    }
}

impl Data for Event {
    const FREELIST: usize = 0;
    const SUBCLASSABLE: Option<usize> = Some(offset_of!(Event, base.attributes));

    fn class() -> &'static Class<Self> {
        static CLASS: Class<Event> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.base.visit(visitor);
    }
    fn clear(&self) {
        self.base.clear();
    }
}

impl Based for Event {
    fn base(&self) -> &Base {
        &self.base
    }
    fn copied(&self, py: Python<'_>) -> Vec<(&'static str, Obj)> {
        vec![("_value", Obj::bool(py, self.is_set()))]
    }
    fn described(_py: Python<'_>, this: &Ref<Event>) -> RawResult<String> {
        Ok(if this.is_set() { "set" } else { "unset" }.to_owned())
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
        self.base.waiters.wake(py, usize::MAX, true)
    }

    pub(super) fn unset(&self) {
        self.is_set.set(false);
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
    let waiter = event.base.stand_in_line(py, event.as_obj())?;
    this.waiter.set(Some(waiter.clone()));
    Ok(Turn::Await(waiter))
}

fn wait_resume(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    let waiter = this.waiter.take().expect("it waited");
    this.target::<Event>().base.waiters.remove(py, &waiter)?;
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
    let table = Table::<Event>::new(c"hayase.locks.Event", DOC, std::ptr::null_mut(), 0);
    let table = base::with_base(table)
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
        .init(|py: Python<'_>, _this: &Ref<Event>, args: &Obj, keywords: Option<&Obj>| {
            arguments::one(py, "Event", None, args, keywords).map(drop)
        });
    to_py(py, table.build(std::ptr::null_mut()))?;
    module.add("Event", Event::class().type_obj().into_bound(py))
}
