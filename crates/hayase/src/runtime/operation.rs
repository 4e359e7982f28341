//! Operations: native awaitables that are hand-written state machines, for what programs await most.
//!
//! `await lock.acquire()` of a free lock makes one such object and nothing else: no future, no frame. To Python it is a
//! coroutine (`suspendable.rs`), so that `create_task`, `wait_for` and `gather` take it. Unlike a
//! [`super::coroutine::NativeCoroutine`] it needs no loop of ours and no allocation besides itself.
//!
//! A [`Kind`] says what the operation does.

use std::mem::offset_of;

use pyo3::prelude::*;
use pyo3::types::PyModule;

use super::suspendable::{self, Progress, Suspendable};
use crate::raw::RawResult;
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;

pub(crate) use super::suspendable::{Outcome, Turn};

pub(crate) type Start = fn(Python<'_>, &Ref<Operation>) -> RawResult<Turn>;
pub(crate) type Resume = fn(Python<'_>, &Ref<Operation>, Outcome) -> RawResult<Turn>;

/// What an operation does ([`Suspendable`]), and what it is called.
pub(crate) struct Kind {
    /// `Class.method`
    pub(crate) name: &'static str,
    pub(crate) start: Start,
    pub(crate) resume: Resume,
}

/// For a kind that never awaits anything.
pub(crate) fn never_resumed(_py: Python<'_>, _this: &Ref<Operation>, _outcome: Outcome) -> RawResult<Turn> {
    unreachable!("nothing was awaited")
}

pub(crate) struct Operation {
    progress: Progress,
    kind: GilValue<&'static Kind>,
    /// Whose method this is.
    target: ObjCell,
    /// The future of ours that stands in somebody's list.
    pub(crate) waiter: ObjCell,
    /// What the method was given.
    pub(crate) argument: ObjCell,
}

impl Operation {
    /// The object whose method this is.
    #[inline]
    pub(crate) fn target<T: Data>(&self) -> Ref<T> {
        Ref::from_instance(self.target_object()).expect("made by a method of that class")
    }

    pub(crate) fn target_object(&self) -> Obj {
        self.target.get().expect("an operation that runs has its target")
    }

    /// For kinds with several points of waiting: where the operation is.
    #[inline]
    pub(crate) fn phase(&self) -> &GilValue<u8> {
        &self.progress.phase
    }

    /// Goes on as another kind.
    pub(crate) fn become_kind(&self, kind: &'static Kind) {
        self.kind.set(kind);
    }

    fn cells(&self) -> [&ObjCell; 3] {
        [&self.waiter, &self.argument, &self.target]
    }
}

impl Suspendable for Operation {
    const PROGRESS: usize = offset_of!(Operation, progress);

    #[inline]
    fn progress(&self) -> &Progress {
        &self.progress
    }
    fn name(&self) -> &'static str {
        self.kind.get().name
    }
    #[inline]
    fn start(py: Python<'_>, this: &Ref<Self>) -> RawResult<Turn> {
        (this.kind.get().start)(py, this)
    }
    #[inline]
    fn resume(py: Python<'_>, this: &Ref<Self>, outcome: Outcome) -> RawResult<Turn> {
        (this.kind.get().resume)(py, this, outcome)
    }
    #[inline]
    fn release(&self, _py: Python<'_>) {
        self.cells().into_iter().for_each(|cell| cell.set(None));
    }
}

impl Data for Operation {
    const FINALIZE: bool = true;
    const FREELIST: usize = 256;

    fn class() -> &'static Class<Self> {
        static CLASS: Class<Operation> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.progress.visit(visitor);
        self.cells().into_iter().for_each(|cell| visitor.cell(cell));
    }
    fn clear(&self) {
        self.progress.clear();
        self.cells().into_iter().for_each(|cell| cell.set(None));
    }
    #[inline]
    fn wants_finalizer(&self) -> bool {
        self.progress.is_unfinished()
    }
    fn finalize(py: Python<'_>, this: &Ref<Self>) {
        suspendable::finalize(py, this);
    }
}

/// The coroutine object of a method of `target`.
#[inline]
pub(crate) fn make(py: Python<'_>, kind: &'static Kind, target: Obj, argument: Option<Obj>) -> RawResult<Obj> {
    let operation = Operation {
        progress: Progress::new(),
        kind: GilValue::new(kind),
        target: ObjCell::new(Some(target)),
        waiter: ObjCell::empty(),
        argument: ObjCell::new(argument),
    };
    Ok(Operation::class().make(py, operation)?.into_obj())
}

/// The coroutine of what was done already and has no result: one object, for everybody and for ever.
#[inline]
pub(crate) fn nothing(py: Python<'_>) -> RawResult<Obj> {
    static NOTHING: ObjCell = ObjCell::empty();
    match NOTHING.get() {
        Some(nothing) => Ok(nothing),
        None => {
            let nothing = make_nothing(py)?;
            NOTHING.set(Some(nothing.clone()));
            Ok(nothing)
        }
    }
}

#[cold]
fn make_nothing(py: Python<'_>) -> RawResult<Obj> {
    static KIND: Kind = Kind {
        name: "_ContextManagerMixin.__aexit__",
        start: |_py, _this| unreachable!("it is over"),
        resume: never_resumed,
    };
    let operation = Operation {
        progress: Progress::nothing(),
        kind: GilValue::new(&KIND),
        target: ObjCell::empty(),
        waiter: ObjCell::empty(),
        argument: ObjCell::empty(),
    };
    Ok(Operation::class().make(py, operation)?.into_obj())
}

/// Whether this is an operation.
pub(crate) fn is_one(object: &Obj) -> bool {
    Ref::<Operation>::view_obj(object).is_some()
}

/// Makes the type and puts it into the module.
pub(crate) fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DOC: &std::ffi::CStr = c"The coroutine of a method that is written in Rust.";
    suspendable::init::<Operation>(module, c"hayase._core.Operation", DOC)
}
