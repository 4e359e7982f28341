//! `Barrier`: so many tasks wait for each other.
//!
//! It is a counter and a state behind a condition, whose lock orders those who come. Filling until all parties wait, then
//! draining until all have left; meanwhile who comes waits for the next round. A reset drains with an error; a broken
//! barrier refuses everybody until it is reset.

use std::ffi::CStr;
use std::mem::offset_of;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyModule};

use super::base::{GET_LOOP_DOC, Guard};
use super::binding::Binding;
use super::condition::{self, Condition};
use super::copying::Copied;
use super::lock::Lock;
use super::number::Number;
use crate::interop::{arguments, asyncio_class, imports};
use crate::raw::attributes::Attributes;
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::fastcall::Args;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::Table;
use crate::raw::{Raised, RawResult, compat, exception, to_py, to_raw};
use crate::runtime::operation::{self, Kind, Operation, Outcome, Turn};

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Filling,
    Draining,
    Resetting,
    Broken,
}

impl State {
    const ALL: [State; 4] = [State::Filling, State::Draining, State::Resetting, State::Broken];

    /// The value of asyncio's enumeration.
    fn name(self) -> &'static str {
        match self {
            State::Filling => "filling",
            State::Draining => "draining",
            State::Resetting => "resetting",
            State::Broken => "broken",
        }
    }
}

#[repr(C)]
pub(crate) struct Barrier {
    attributes: Attributes,
    /// A plain [`Condition`].
    condition: ObjCell,
    parties: Number,
    /// How many are inside.
    count: GilValue<i64>,
    state: GilValue<State>,
}

impl Default for Barrier {
    fn default() -> Barrier {
        Barrier {
            attributes: Attributes::empty(),
            condition: ObjCell::empty(),
            parties: Number::new(1),
            count: GilValue::new(0),
            state: GilValue::new(State::Filling),
        }
    }
}

impl Data for Barrier {
    const FREELIST: usize = 0;
    const SUBCLASSABLE: Option<usize> = Some(offset_of!(Barrier, attributes));

    fn class() -> &'static Class<Self> {
        static CLASS: Class<Barrier> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.attributes.visit(visitor);
        visitor.cell(&self.condition);
        self.parties.visit(visitor);
    }
    fn clear(&self) {
        self.attributes.clear();
        self.condition.set(None);
        self.parties.clear();
    }
}

static WAIT_NAME: Name = Name::new(c"wait");
static VALUE: Name = Name::new(c"value");

impl Ref<Barrier> {
    /// Made when it is first asked for: also by a copy, which has no `__init__`.
    fn condition(&self, py: Python<'_>) -> RawResult<Ref<Condition>> {
        if let Some(known) = self.condition.get() {
            return Ok(Ref::<Condition>::view_obj(&known).expect("nothing else is stored").clone());
        }
        let made = condition::make(py)?;
        self.condition.set(Some(made.as_obj().clone()));
        Ok(made)
    }

    /// How many wait for the others.
    fn waiting(&self) -> i64 {
        if self.is(&[State::Filling]) { self.count.get() } else { 0 }
    }

    fn is(&self, states: &[State]) -> bool {
        states.contains(&self.state.get())
    }

    fn notify_all(&self, py: Python<'_>) -> RawResult<()> {
        self.condition(py)?.notify(py, usize::MAX)
    }

    fn release(&self, py: Python<'_>) -> RawResult<()> {
        self.condition(py)?.release(py)
    }

    /// One leaves; the last one of a round begins the next.
    fn leave(&self, py: Python<'_>) -> RawResult<()> {
        let count = self.count.get() - 1;
        self.count.set(count);
        if count > 0 {
            return Ok(());
        }
        if self.is(&[State::Resetting, State::Draining]) {
            self.state.set(State::Filling);
        }
        self.notify_all(py)
    }

    fn reset(&self, py: Python<'_>) -> RawResult<()> {
        self.state.set(if self.count.get() > 0 { State::Resetting } else { State::Filling });
        self.notify_all(py)
    }

    fn abort(&self, py: Python<'_>) -> RawResult<()> {
        self.state.set(State::Broken);
        self.notify_all(py)
    }
}

#[cold]
fn broken(py: Python<'_>, text: &str) -> Raised {
    match imports::broken_barrier_error(py).and_then(|class| class.call1((text,))) {
        Ok(error) => Raised::from_err(py, PyErr::from_value(error)),
        Err(err) => Raised::from_err(py, err),
    }
}

// Waiting -------------------------------------------------------------------------------------------------------------

const GETTING_THE_LOCK: u8 = 0;
const BEFORE_THE_ROUND: u8 = 1;
const IN_THE_ROUND: u8 = 2;

/// The argument is the place in the round, once there is one.
static WAIT: Kind = Kind { name: "Barrier.wait", start: wait_start, resume: wait_resume };

/// Takes the lock, or says what to await for it.
fn get_lock(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Option<Turn>> {
    let lock = this.target::<Barrier>().condition(py)?.own_lock();
    if lock.try_acquire(py)? {
        return Ok(None);
    }
    this.phase().set(GETTING_THE_LOCK);
    operation::make(py, Lock::ACQUIRE, lock.into_obj(), None).map(|acquire| Some(Turn::Await(acquire)))
}

fn wait_start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    match get_lock(py, this)? {
        Some(turn) => Ok(turn),
        None => come(py, this),
    }
}

/// With the lock: waits for a round to come into.
fn come(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let barrier = this.target::<Barrier>();
    match barrier.state.get() {
        State::Draining | State::Resetting => wait_for_change(py, this, &barrier, BEFORE_THE_ROUND),
        State::Broken => {
            barrier.release(py)?;
            Err(broken(py, "Barrier aborted"))
        }
        State::Filling => {
            let place = barrier.count.get();
            this.argument.set(Some(Obj::from_bound(PyInt::new(py, place))));
            barrier.count.set(place + 1);
            if barrier.parties.equals(py, place + 1)? {
                barrier.state.set(State::Draining);
                barrier.notify_all(py)?;
                return pass(py, this, &barrier);
            }
            wait_for_change(py, this, &barrier, IN_THE_ROUND)
        }
    }
}

fn wait_for_change(py: Python<'_>, this: &Ref<Operation>, barrier: &Ref<Barrier>, phase: u8) -> RawResult<Turn> {
    this.phase().set(phase);
    let condition = barrier.condition(py)?.into_obj();
    operation::make(py, &condition::WAIT, condition, None).map(Turn::Await)
}

fn wait_resume(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    let barrier = this.target::<Barrier>();
    let phase = this.phase().get();
    if let Err(error) = outcome {
        // Whoever waits for the condition has the lock again, also if it is cancelled.
        if phase == IN_THE_ROUND {
            barrier.leave(py)?;
        }
        if phase != GETTING_THE_LOCK {
            barrier.release(py)?;
        }
        return Err(exception::restore(py, error));
    }
    if phase != IN_THE_ROUND {
        return come(py, this);
    }
    match barrier.state.get() {
        State::Filling => wait_for_change(py, this, &barrier, IN_THE_ROUND),
        State::Draining => pass(py, this, &barrier),
        State::Resetting | State::Broken => {
            barrier.leave(py)?;
            barrier.release(py)?;
            Err(broken(py, "Abort or reset of barrier"))
        }
    }
}

fn pass(py: Python<'_>, this: &Ref<Operation>, barrier: &Ref<Barrier>) -> RawResult<Turn> {
    barrier.leave(py)?;
    barrier.release(py)?;
    Ok(Turn::Return(this.argument.take().unwrap_or_else(|| Obj::none(py))))
}

// Other coroutines ----------------------------------------------------------------------------------------------------

static RESET: Kind = Kind { name: "Barrier.reset", start: reset_start, resume: reset_resume };
static ABORT: Kind = Kind { name: "Barrier.abort", start: abort_start, resume: abort_resume };
static ENTER: Kind = Kind { name: "Barrier.__aenter__", start: enter_start, resume: enter_resume };

type Change = fn(&Ref<Barrier>, Python<'_>) -> RawResult<()>;

fn change(py: Python<'_>, this: &Ref<Operation>, change: Change) -> RawResult<Turn> {
    let barrier = this.target::<Barrier>();
    change(&barrier, py)?;
    barrier.release(py)?;
    Ok(Turn::Return(Obj::none(py)))
}

fn change_with_lock(py: Python<'_>, this: &Ref<Operation>, what: Change) -> RawResult<Turn> {
    match get_lock(py, this)? {
        Some(turn) => Ok(turn),
        None => change(py, this, what),
    }
}

fn change_after_lock(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome, what: Change) -> RawResult<Turn> {
    match outcome {
        Ok(_) => change(py, this, what),
        Err(error) => Err(exception::restore(py, error)),
    }
}

fn reset_start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    change_with_lock(py, this, Ref::<Barrier>::reset)
}

fn reset_resume(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    change_after_lock(py, this, outcome, Ref::<Barrier>::reset)
}

fn abort_start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    change_with_lock(py, this, Ref::<Barrier>::abort)
}

fn abort_resume(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    change_after_lock(py, this, outcome, Ref::<Barrier>::abort)
}

fn enter_start(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    call::method(py, &this.target_object(), &WAIT_NAME, &[]).map(Turn::Await)
}

fn enter_resume(py: Python<'_>, _this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    match outcome {
        Ok(place) => Ok(Turn::Return(place)),
        Err(error) => Err(exception::restore(py, error)),
    }
}

// What Python sees ----------------------------------------------------------------------------------------------------

fn initialise(py: Python<'_>, this: &Ref<Barrier>, args: &Obj, keywords: Option<&Obj>) -> RawResult<()> {
    let parties = arguments::required(py, "Barrier", "parties", args, keywords)?;
    if to_raw(py, parties.borrow(py).lt(1))? {
        return Err(Raised::from_err(py, PyValueError::new_err(compat::BARRIER_WANTS)));
    }
    this.parties.set(py, &parties);
    Ok(())
}

fn integer(py: Python<'_>, value: i64) -> Obj {
    Obj::from_bound(PyInt::new(py, value))
}

/// `_state`: the member of asyncio's enumeration.
fn get_state(py: Python<'_>, this: &Ref<Barrier>) -> RawResult<Obj> {
    to_raw(py, imports::barrier_state(py).and_then(|states| states.call1((this.state.get().name(),))))
        .map(Obj::from_bound)
}

fn set_state(py: Python<'_>, this: &Ref<Barrier>, value: &Obj) -> RawResult<()> {
    let name: String = to_raw(py, call::getattr(py, value, &VALUE)?.borrow(py).extract())?;
    if let Some(state) = State::ALL.into_iter().find(|state| state.name() == name) {
        this.state.set(state);
    }
    Ok(())
}

pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DOC: &CStr =
        c"Barrier(parties)\n--\n\nSo many tasks wait for each other, and go on together.\n\nValueError if \
        there are to be less than one.";
    let table = Table::<Barrier>::new(c"hayase.locks.Barrier", DOC, std::ptr::null_mut(), 0)
        .get(c"__class__", asyncio_class::of)
        .noargs(
            c"wait",
            c"wait($self, /)\n--\n\nWait until all parties do; returns a number from 0 on, another for each.",
            |py: Python<'_>, this: &Ref<Barrier>| operation::make(py, &WAIT, this.as_obj().clone(), None),
        )
        .noargs(
            c"reset",
            c"reset($self, /)\n--\n\nBegin anew: who waits now gets a BrokenBarrierError.",
            |py: Python<'_>, this: &Ref<Barrier>| operation::make(py, &RESET, this.as_obj().clone(), None),
        )
        .noargs(
            c"abort",
            c"abort($self, /)\n--\n\nBreak it: who waits, now or later, gets a BrokenBarrierError.",
            |py: Python<'_>, this: &Ref<Barrier>| operation::make(py, &ABORT, this.as_obj().clone(), None),
        )
        .noargs(c"__aenter__", c"Wait.", |py: Python<'_>, this: &Ref<Barrier>| {
            operation::make(py, &ENTER, this.as_obj().clone(), None)
        })
        .fastcall(
            c"__aexit__",
            c"__aexit__($self, /, *args)\n--\n\nNothing.",
            |py: Python<'_>, _this: &Ref<Barrier>, args: &Args<'_>| {
                args.named("Barrier.__aexit__").keywords::<0>(py, [])?;
                operation::nothing(py)
            },
        )
        .get(c"parties", |py: Python<'_>, this: &Ref<Barrier>| Ok(this.parties.object(py)))
        .get(c"n_waiting", |py: Python<'_>, this: &Ref<Barrier>| Ok(integer(py, this.waiting())))
        .get(c"broken", |py: Python<'_>, this: &Ref<Barrier>| Ok(Obj::bool(py, this.is(&[State::Broken]))))
        .get(c"_cond", |py: Python<'_>, this: &Ref<Barrier>| this.condition(py).map(Ref::into_obj))
        .get_set(
            c"_parties",
            |py: Python<'_>, this: &Ref<Barrier>| Ok(this.parties.object(py)),
            |py: Python<'_>, this: &Ref<Barrier>, value: &Obj| {
                this.parties.set(py, value);
                Ok(())
            },
        )
        .get_set(
            c"_count",
            |py: Python<'_>, this: &Ref<Barrier>| Ok(integer(py, this.count.get())),
            |py: Python<'_>, this: &Ref<Barrier>, value: &Obj| {
                this.count.set(to_raw(py, value.borrow(py).extract())?);
                Ok(())
            },
        )
        .get_set(c"_state", get_state, set_state)
        .noargs(c"_get_loop", GET_LOOP_DOC, |py: Python<'_>, this: &Ref<Barrier>| {
            this.condition(py)?.binding().running_loop(py, this.as_obj())
        })
        .noargs(c"__reduce__", c"For copy and pickle.", |py: Python<'_>, this: &Ref<Barrier>| {
            let attributes = vec![
                ("_parties", this.parties.object(py)),
                ("_count", integer(py, this.count.get())),
                ("_state", get_state(py, this)?),
            ];
            Copied::new(this.attributes.dict(), attributes).reduce(py, this.as_obj(), &Binding::none())
        })
        .repr(|py: Python<'_>, this: &Ref<Barrier>| {
            let mut extra = this.state.get().name().to_owned();
            if !this.is(&[State::Broken]) {
                let parties = to_raw(py, this.parties.object(py).borrow(py).str().map(|text| text.to_string()))?;
                extra += &format!(", waiters:{}/{parties}", this.waiting());
            }
            super::repr(py, this.as_obj(), &extra, 0)
        })
        .init(initialise);
    to_py(py, table.build(std::ptr::null_mut()))?;
    module.add("Barrier", Barrier::class().type_obj().into_bound(py))
}
