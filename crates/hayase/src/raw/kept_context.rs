//! The context that a handle or a task keeps, without a `Context` object of its own as long as nobody could tell.
//!
//! `call_soon`, `call_later` and `create_task` copy the current context; nearly always nothing changes in the copy, and
//! nobody ever asks for it. So what was copied from the same content shares one *snapshot*, a `Context` that is never
//! entered and never handed out. To run in it, a *worker*, a copy of the snapshot, is entered, and belongs to the handle
//! or task while it runs. Afterwards, if nothing was set in it and nobody else got hold of it, it serves the next one;
//! else it stays with its owner, who from then on has a context of its own. One who is asked for the context gets a
//! copy and keeps that.
//!
//! The content of a context is one immutable mapping (`ctx_vars`), so "the same content" is "the same pointer". Where it
//! lies, and where a thread keeps its current context, is searched for once, at import; if it is not found as expected,
//! every copy is made at once.
//!
//! Callbacks and steps that follow one another in a turn share a worker without leaving it in between ([`Standing`]): to
//! enter and leave a context is a twelfth of a small callback.
//!
//! Must stay true
//! - A snapshot is never entered, and nobody gets hold of one (a listening socket makes its own, for its connections).
//! - While no loop of ours runs, or when one is about to sleep, snapshot and worker are let go: they would keep the values
//!   of context variables alive.

use std::sync::OnceLock;

use pyo3::ffi;
use pyo3::prelude::*;

use super::RawResult;
use super::cell::{GilValue, ObjCell};
use super::context;
use super::instance::Visitor;
use super::obj::Obj;

/// An optional reference to a `Context`, and whether that is a snapshot: the lowest bit of the word.
pub(crate) struct KeptContext(GilValue<usize>);

const SNAPSHOT_BIT: usize = 1;

/// The snapshot that was made last.
static SNAPSHOT: ObjCell = ObjCell::empty();

/// A copy of a snapshot that nobody uses at the moment.
static WORKER: ObjCell = ObjCell::empty();

/// Content of the current context when the last copy was made. A snapshot is made only of what is copied twice in a row:
/// a program that sets a variable in each task would otherwise pay for two copies instead of one. Only compared.
static LAST_CONTENT: GilValue<usize> = GilValue::new(0);

/// How many loops of ours run.
static LOOPS: GilValue<usize> = GilValue::new(0);

/// Offsets in bytes.
#[derive(Clone, Copy)]
struct Layout {
    /// Of the content in a `Context`.
    content: usize,
    /// Of the current context in a `PyThreadState`.
    current: usize,
}

static LAYOUT: OnceLock<Option<Layout>> = OnceLock::new();

impl KeptContext {
    pub(crate) const fn empty() -> KeptContext {
        KeptContext(GilValue::new(0))
    }

    /// A context that somebody gave: itself.
    #[inline]
    pub(crate) fn given(context: Obj) -> KeptContext {
        KeptContext(GilValue::new(context.into_ptr() as usize))
    }

    /// What a copy of the current context would be.
    #[inline]
    pub(crate) fn of_current(py: Python<'_>) -> RawResult<KeptContext> {
        if LOOPS.get() > 0
            && let Some(layout) = layout()
            && let Some(content) = layout.current_content(py)
        {
            if let Some(snapshot) = SNAPSHOT.get()
                && layout.content(&snapshot) == content
            {
                return Ok(Self::snapshot(snapshot));
            }
            if LAST_CONTENT.replace(content) == content {
                let snapshot = context::copy_current(py)?;
                SNAPSHOT.set(Some(snapshot.clone()));
                return Ok(Self::snapshot(snapshot));
            }
        }
        Ok(Self::given(context::copy_current(py)?))
    }

    /// A copy of `context`, which is never entered and which nobody else has: a snapshot of the caller's.
    pub(crate) fn copy_of(py: Python<'_>, context: &Obj) -> RawResult<KeptContext> {
        if layout().is_some() {
            Ok(Self::snapshot(context.clone()))
        } else {
            context::copy(py, context).map(Self::given)
        }
    }

    #[inline]
    fn snapshot(snapshot: Obj) -> KeptContext {
        KeptContext(GilValue::new(snapshot.into_ptr() as usize | SNAPSHOT_BIT))
    }

    #[inline]
    fn pointer(word: usize) -> *mut ffi::PyObject {
        (word & !SNAPSHOT_BIT) as *mut ffi::PyObject
    }

    /// Takes what is there: a context, and whether it is a snapshot.
    #[inline]
    fn take(&self) -> (Option<Obj>, bool) {
        let word = self.0.replace(0);
        // SAFETY: the word owns a reference, which becomes the caller's, or is zero.
        (unsafe { Obj::from_owned_opt(Self::pointer(word)) }, word & SNAPSHOT_BIT != 0)
    }

    /// Keeps what `other` keeps.
    pub(crate) fn set(&self, other: KeptContext) {
        let before = KeptContext(GilValue::new(self.0.replace(other.0.replace(0))));
        drop(before);
    }

    /// The context, as an object of its own from now on.
    pub(crate) fn object(&self, py: Python<'_>) -> RawResult<Option<Obj>> {
        let word = self.0.get();
        if word == 0 {
            return Ok(None);
        }
        // SAFETY: the word owns a reference.
        let context = unsafe { Obj::from_borrowed(Self::pointer(word)) };
        if word & SNAPSHOT_BIT == 0 {
            return Ok(Some(context));
        }
        let own = context::copy(py, &context)?;
        self.set(Self::given(own.clone()));
        Ok(Some(own))
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.get() == 0
    }

    pub(crate) fn clear(&self) {
        drop(self.take());
    }

    pub(crate) fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.ptr(Self::pointer(self.0.get()));
    }

    /// Runs `body` inside the context: `None` if there is none, an error if it cannot be entered (then nothing ran).
    #[inline]
    pub(crate) fn run_in<R>(&self, py: Python<'_>, body: impl FnOnce() -> R) -> Option<RawResult<R>> {
        let word = self.0.get();
        if word == 0 {
            return None;
        }
        if word & SNAPSHOT_BIT == 0 {
            // SAFETY: the word owns a reference.
            let context = unsafe { Obj::from_borrowed(Self::pointer(word)) };
            return Some(context::run_in(py, &context, body));
        }
        Some(self.run_in_worker(py, body))
    }

    /// The same for an entry of a turn, which may find a worker entered and may leave one so.
    #[inline]
    pub(crate) fn run_entry_in<R>(
        &self,
        py: Python<'_>,
        standing: &Standing,
        body: impl FnOnce() -> R,
    ) -> Option<RawResult<R>> {
        if self.0.get() & SNAPSHOT_BIT == 0 {
            return self.run_in(py, body);
        }
        Some(self.run_in_standing(py, standing, body))
    }

    #[inline]
    fn run_in_worker<R>(&self, py: Python<'_>, body: impl FnOnce() -> R) -> RawResult<R> {
        let standing = Standing::empty();
        let result = self.run_in_standing(py, &standing, body);
        standing.leave(py);
        result
    }

    #[inline]
    fn run_in_standing<R>(&self, py: Python<'_>, standing: &Standing, body: impl FnOnce() -> R) -> RawResult<R> {
        let (Some(snapshot), true) = self.take() else { unreachable!("the caller saw a snapshot") };
        let layout = layout().expect("snapshots are only made with a layout");
        let worker = match standing.worker_like(py, layout, &snapshot) {
            Ok(worker) => worker,
            Err(raised) => {
                self.set(Self::snapshot(snapshot));
                return Err(raised);
            }
        };
        self.set(Self::given(worker.object().clone()));
        let result = body();
        let is_still_its = self.0.get() == worker.object().as_ptr() as usize;
        // It has a reference; if nobody else has one but us, nobody will ever know.
        if is_still_its && worker.references() == 1 && layout.content(worker.object()) == layout.content(&snapshot) {
            self.set(Self::snapshot(snapshot));
            standing.0.set(Some(worker.stay()));
        }
        Ok(result)
    }
}

/// The worker that a loop left entered after an entry of its turn. Whatever may look at the current context and is not
/// run by [`KeptContext::run_entry_in`] comes after [`Standing::leave`]; so does the end of the turn.
pub(crate) struct Standing(ObjCell);

impl Standing {
    pub(crate) const fn empty() -> Standing {
        Standing(ObjCell::empty())
    }

    #[inline]
    pub(crate) fn leave(&self, _py: Python<'_>) {
        if let Some(worker) = self.0.take() {
            context::exit(&worker);
            WORKER.set(Some(worker));
        }
    }

    /// A worker with the content of `snapshot`, entered; the one that stands, if it has kept that.
    #[inline]
    fn worker_like(&self, py: Python<'_>, layout: Layout, snapshot: &Obj) -> RawResult<Worker> {
        if let Some(worker) = self.0.take() {
            let worker = Worker(Some(worker));
            if worker.references() == 0 && layout.content(worker.object()) == layout.content(snapshot) {
                return Ok(worker);
            }
        }
        let worker = match WORKER.take() {
            Some(worker) if layout.content(&worker) == layout.content(snapshot) => worker,
            _ => context::copy(py, snapshot)?,
        };
        context::enter(&worker)?;
        Ok(Worker(Some(worker)))
    }
}

/// A context that is entered; it is left when this is dropped.
struct Worker(Option<Obj>);

impl Worker {
    #[inline]
    fn object(&self) -> &Obj {
        self.0.as_ref().expect("taken only by what consumes it")
    }

    /// References that others have: not this one, nor the thread's, whose current context it is.
    #[inline]
    fn references(&self) -> isize {
        // SAFETY: alive.
        unsafe { ffi::Py_REFCNT(self.object().as_ptr()) - 2 }
    }

    /// Leaves it entered.
    #[inline]
    fn stay(mut self) -> Obj {
        self.0.take().expect("taken only here")
    }
}

impl Drop for Worker {
    #[inline]
    fn drop(&mut self) {
        if let Some(worker) = &self.0 {
            context::exit(worker);
        }
    }
}

impl Drop for KeptContext {
    #[inline]
    fn drop(&mut self) {
        self.clear();
    }
}

/// While it lives, a loop runs.
pub(crate) struct LoopRuns(());

impl LoopRuns {
    pub(crate) fn begin(_py: Python<'_>) -> LoopRuns {
        LOOPS.set(LOOPS.get() + 1);
        LoopRuns(())
    }
}

impl Drop for LoopRuns {
    fn drop(&mut self) {
        LOOPS.set(LOOPS.get() - 1);
        forget();
    }
}

/// Lets go of what is kept for reuse.
#[inline]
pub(crate) fn forget() {
    SNAPSHOT.set(None);
    WORKER.set(None);
}

#[inline]
fn layout() -> Option<Layout> {
    LAYOUT.get().copied().flatten()
}

impl Layout {
    /// Address of the content of a context.
    #[inline]
    fn content(self, context: &Obj) -> usize {
        // SAFETY: a live `Context`, which has the content there, as `find_layout` saw.
        unsafe { context.as_ptr().cast::<u8>().add(self.content).cast::<usize>().read() }
    }

    /// The same of the current context, if this thread has one.
    #[inline]
    fn current_content(self, _py: Python<'_>) -> Option<usize> {
        // SAFETY: the state of an attached thread is alive; it has its current context, a live object or null, there, as
        // `find_layout` saw.
        unsafe {
            let state = ffi::PyThreadState_Get().cast::<u8>();
            let current = state.add(self.current).cast::<*mut ffi::PyObject>().read();
            if current.is_null() {
                return None;
            }
            Some(current.cast::<u8>().add(self.content).cast::<usize>().read())
        }
    }
}

/// Searches for the layout; at import, once.
pub(crate) fn init(py: Python<'_>) -> PyResult<()> {
    let found = find_layout(py)?;
    LAYOUT.get_or_init(|| found);
    Ok(())
}

fn find_layout(py: Python<'_>) -> PyResult<Option<Layout>> {
    let module = py.import("contextvars")?;
    let variable = module.call_method1("ContextVar", ("hayase",))?;
    let context = module.getattr("Context")?.call0()?;
    context.call_method1("run", (variable.getattr("set")?, 1))?;
    let copy = context.call_method0("copy")?;
    let before = words(&copy);
    copy.call_method1("run", (variable.getattr("set")?, 2))?;
    let (original, after) = (words(&context), words(&copy));
    let is_content = |&index: &usize| {
        original[index] != 0 && original[index] == before[index] && after[index] != before[index] && after[index] != 0
    };
    let head = size_of::<ffi::PyObject>() / size_of::<usize>();
    let Some(content) = only((head..original.len()).filter(is_content)) else {
        return Ok(None);
    };
    let context = Obj::from_bound(context);
    let entered = super::to_py(py, context::run_in(py, &context, state_words))?;
    let left = state_words();
    let is_current = |&index: &usize| entered[index] == context.as_ptr() as usize && left[index] != entered[index];
    let Some(current) = only((0..entered.len()).filter(is_current)) else {
        return Ok(None);
    };
    Ok(Some(Layout { content: content * size_of::<usize>(), current: current * size_of::<usize>() }))
}

fn only(mut indices: impl Iterator<Item = usize>) -> Option<usize> {
    let first = indices.next()?;
    indices.next().is_none().then_some(first)
}

/// The words of an instance.
fn words(object: &Bound<'_, PyAny>) -> Vec<usize> {
    // SAFETY: a live object is as long as its type says.
    unsafe {
        let length = (*object.get_type_ptr()).tp_basicsize as usize / size_of::<usize>();
        std::slice::from_raw_parts(object.as_ptr().cast::<usize>(), length).to_vec()
    }
}

/// The first words of this thread's state.
fn state_words() -> Vec<usize> {
    // SAFETY: the state of an attached thread, which is longer than that on every version (the shortest, 3.12's, has 288
    // bytes); only this thread changes it, and not now.
    unsafe { std::slice::from_raw_parts(ffi::PyThreadState_Get().cast::<usize>(), STATE_WORDS).to_vec() }
}

/// How much of a thread's state is searched.
const STATE_WORDS: usize = 34;
