//! The handle of `call_soon_threadsafe` from 3.14 on, as `asyncio.events._ThreadSafeHandle`: who cancels it from another
//! thread waits while the callback runs, and knows afterwards whether it ran.
//!
//! Must stay true
//! - Nobody waits for the lock of a handle with the GIL held: the owner needs it to come to an end.
//! - The lock is re-entrant: a callback may cancel its own handle.

use pyo3::prelude::*;
use pyo3::types::PyModule;

use super::handle::{self, AnyHandle, HandleData};
use super::scheduler::LoopRef;
use crate::interop::imports;
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::compat;
use crate::raw::fastcall::Rest;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_py};

static ACQUIRE: Name = Name::new(c"acquire");
static RELEASE: Name = Name::new(c"release");

#[repr(C)]
pub(crate) struct ThreadSafeData {
    handle: HandleData,
    lock: Lock,
}

/// A re-entrant lock. While nobody has to wait it is two words that the GIL guards; the first thread that finds it
/// taken adds a lock of Python's, in the owner's name, and from then on that one decides who is next. So a waiting
/// thread is without the GIL and hears Ctrl-C, as in a `threading.RLock`.
struct Lock {
    /// Thread that owns it; 0: nobody.
    owner: GilValue<u64>,
    depth: GilValue<u32>,
    /// A `threading.Lock`, taken whenever there is an owner.
    gate: ObjCell,
}

impl Lock {
    fn new() -> Lock {
        Lock { owner: GilValue::new(0), depth: GilValue::new(0), gate: ObjCell::empty() }
    }

    fn acquire(&self, py: Python<'_>) -> RawResult<()> {
        let me = compat::thread_id();
        if self.owner.get() != me {
            if self.owner.get() != 0 || self.gate.is_some() {
                let gate = self.taken_gate(py)?;
                call::method(py, &gate, &ACQUIRE, &[])?;
            }
            self.owner.set(me);
        }
        self.depth.set(self.depth.get() + 1);
        Ok(())
    }

    /// The gate. A new one is taken for the owner, if there still is one: making it may have let other threads run.
    fn taken_gate(&self, py: Python<'_>) -> RawResult<Obj> {
        if let Some(gate) = self.gate.get() {
            return Ok(gate);
        }
        let gate = call::call0(py, &imports::raw(py, imports::make_lock(py))?)?;
        if let Some(gate) = self.gate.get() {
            return Ok(gate);
        }
        if self.owner.get() != 0 {
            // Nobody else knows it, so this does not wait, and the GIL stays.
            call::method(py, &gate, &ACQUIRE, &[])?;
        }
        self.gate.set(Some(gate.clone()));
        Ok(gate)
    }

    fn release(&self, py: Python<'_>) -> RawResult<()> {
        self.depth.set(self.depth.get() - 1);
        if self.depth.get() > 0 {
            return Ok(());
        }
        self.owner.set(0);
        match self.gate.get() {
            Some(gate) => call::method(py, &gate, &RELEASE, &[]).map(drop),
            None => Ok(()),
        }
    }
}

/// Gives the lock back, also after a panic.
struct Release<'a> {
    py: Python<'a>,
    lock: &'a Lock,
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        // Kept aside: with an exception set, nothing may be called.
        let pending = compat::take_raised(self.py);
        if let Err(raised) = self.lock.release(self.py) {
            raised.fetch(self.py).write_unraisable(self.py, None);
        }
        compat::restore_raised(self.py, pending);
    }
}

impl Data for ThreadSafeData {
    const FREELIST: usize = 64;
    fn class() -> &'static Class<Self> {
        static CLASS: Class<ThreadSafeData> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.handle.visit_all(visitor);
        visitor.cell(&self.lock.gate);
    }
    fn clear(&self) {
        // The gate stays: it holds nothing, and somebody may wait at it.
        self.handle.clear_all();
    }
}

impl AnyHandle for ThreadSafeData {
    fn handle(&self) -> &HandleData {
        &self.handle
    }
    fn asyncio_class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
        imports::thread_safe_handle_class(py)
    }
    fn exclusively<R>(py: Python<'_>, this: &Ref<Self>, body: impl FnOnce() -> RawResult<R>) -> RawResult<R> {
        this.lock.acquire(py)?;
        let _release = Release { py, lock: &this.lock };
        body()
    }
}

/// A handle for `call_soon_threadsafe` that nobody has scheduled yet.
pub(crate) fn make(
    py: Python<'_>,
    event_loop: LoopRef,
    callback: Obj,
    args: Rest,
    context: Option<Obj>,
) -> RawResult<Obj> {
    if !compat::THREAD_SAFE_HANDLES {
        return handle::make(py, event_loop, callback, args, context).map(Ref::into_obj);
    }
    let handle = HandleData::new(py, event_loop, callback.into(), args, context)?;
    ThreadSafeData::class().make(py, ThreadSafeData { handle, lock: Lock::new() }).map(Ref::into_obj)
}

/// Makes the type and puts it into the module, on the versions that have it.
pub(crate) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    if !compat::THREAD_SAFE_HANDLES {
        return Ok(());
    }
    let doc = c"A callback given to the loop from another thread; call_soon_threadsafe() makes it.";
    let name = c"hayase._core.ThreadSafeHandle";
    let table = handle::table::<ThreadSafeData>(name, doc).weak_references(HandleData::WEAK_REFERENCES);
    to_py(py, table.build(std::ptr::null_mut()))?;
    module.add("ThreadSafeHandle", ThreadSafeData::class().type_obj().into_bound(py))
}
