//! A reference to an event loop, with a straight way to the scheduler of one of ours.
//!
//! Handles, futures and tasks hold one. The loop object keeps its scheduler alive and in place (it is a field of the
//! object), so the pointer is good exactly as long as the reference.

use std::marker::PhantomData;
use std::sync::OnceLock;

use pyo3::{Python, ffi};

use super::cell::{GilValue, ObjCell};
use super::instance::Visitor;
use super::obj::Obj;

/// Finds the scheduler inside a loop object: null for a loop that is not ours, or whose class overrides `call_soon`.
pub(crate) type Finder = fn(Python<'_>, &Obj) -> *const ();

static FINDER: OnceLock<Finder> = OnceLock::new();

/// Told once, at import, by the event loop (which `tasks` must not know).
pub(crate) fn set_finder(finder: Finder) {
    let _ = FINDER.set(finder);
}

pub(crate) struct LoopRef<S> {
    object: ObjCell,
    scheduler: GilValue<*const S>,
    _scheduler: PhantomData<fn(S)>,
}

impl<S> LoopRef<S> {
    pub(crate) fn new(event_loop: Obj) -> LoopRef<S> {
        let find = |find: &Finder| {
            // SAFETY: who holds an `Obj` is attached.
            find(unsafe { Python::assume_attached() }, &event_loop)
        };
        let scheduler = FINDER.get().map_or(std::ptr::null(), find).cast();
        LoopRef { object: ObjCell::new(Some(event_loop)), scheduler: GilValue::new(scheduler), _scheduler: PhantomData }
    }

    /// As [`LoopRef::new`] where the scheduler is at hand; it must be a field of `event_loop`.
    #[inline]
    pub(crate) fn with_scheduler(event_loop: Obj, scheduler: &S) -> LoopRef<S> {
        let start = event_loop.as_ptr() as usize;
        let field = std::ptr::from_ref(scheduler) as usize;
        // SAFETY: the type of a live object.
        let size = unsafe { (*event_loop.type_ptr()).tp_basicsize } as usize;
        assert!(field >= start && field < start + size, "the scheduler is not part of this loop");
        LoopRef { object: ObjCell::new(Some(event_loop)), scheduler: GilValue::new(scheduler), _scheduler: PhantomData }
    }

    /// No loop yet.
    pub(crate) fn unset() -> LoopRef<S> {
        LoopRef { object: ObjCell::empty(), scheduler: GilValue::new(std::ptr::null()), _scheduler: PhantomData }
    }

    /// Another loop from now on.
    pub(crate) fn set(&self, other: &LoopRef<S>) {
        let before = self.object.replace(other.object());
        self.scheduler.set(other.scheduler.get());
        drop(before);
    }

    /// The loop object; `None` only after the collector cleared a cycle.
    #[inline]
    pub(crate) fn object(&self) -> Option<Obj> {
        self.object.get()
    }

    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut ffi::PyObject {
        self.object.as_ptr()
    }

    /// The scheduler, if the loop is ours.
    #[inline]
    pub(crate) fn scheduler(&self) -> Option<&S> {
        let scheduler = self.scheduler.get();
        if scheduler.is_null() || self.object.is_none() {
            return None;
        }
        // SAFETY: a field of `object`, which is alive while we hold it (see the head). Everything in it that changes
        // is in cells, so shared references are all there are.
        Some(unsafe { &*scheduler })
    }

    pub(crate) fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.cell(&self.object);
    }

    pub(crate) fn clear(&self) {
        self.object.set(None);
    }
}
