//! The queue between a loop and the threads of its default executor; in place of the `queue.SimpleQueue` that the executor
//! came with.
//!
//! What it is there for: a thread that has an outcome for the loop wakes the loop when it has let go of the GIL, on its way to
//! sleep, and not before. A loop that is woken earlier finds the GIL taken and goes to sleep again; handing a call over and
//! back then changes threads six times instead of twice.
//!
//! Must stay true
//! - Items and sleepers are guarded by the GIL; a sleeper is in the list before it lets go of it, and whoever puts an item takes a
//!   sleeper out and unparks it. A thread that is unparked before it parks does not sleep.
//! - No lock is held by anybody: a forked child may put items, which nobody takes, as it may with a `SimpleQueue`.
//! - A wake-up that was put off is made up for when its thread takes the next item, before it sleeps, and when it ends.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use driver::Waker;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::interop::imports;
use crate::raw::cell::GilCell;
use crate::raw::detached;
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::raw::to_py;

thread_local! {
    static PUT_OFF: RefCell<PutOff> = const { RefCell::new(PutOff { comes_back: false, waker: None }) };
}

/// What a thread has to do before it sleeps.
struct PutOff {
    /// It took its item from a [`WorkQueue`].
    comes_back: bool,
    waker: Option<Waker>,
}

impl Drop for PutOff {
    fn drop(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Wakes a loop; if this thread is on its way back to a [`WorkQueue`], not before it sleeps or takes the next item there.
pub(super) fn wake_on_the_way_back(waker: Waker) {
    let now =
        PUT_OFF.with_borrow_mut(|put_off| if put_off.comes_back { put_off.waker.replace(waker) } else { Some(waker) });
    if let Some(waker) = now {
        waker.wake();
    }
}

fn make_up() {
    let waker = PUT_OFF.with_borrow_mut(|put_off| put_off.waker.take());
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// For an executor that no thread serves yet: this queue in place of its own, if that is the ordinary one.
pub(super) fn give_to(executor: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = executor.py();
    if executor.getattr("_work_queue")?.get_type().is(imports::simple_queue(py)?) {
        let queue = WorkQueue { items: GilCell::new(VecDeque::new()), sleepers: GilCell::new(Vec::new()) };
        executor.setattr("_work_queue", Bound::new(py, queue)?)?;
    }
    Ok(())
}

#[pyclass(module = "hayase._core", frozen)]
pub(super) struct WorkQueue {
    items: GilCell<VecDeque<Obj>>,
    sleepers: GilCell<Vec<Thread>>,
}

/// The methods of `queue.SimpleQueue`.
#[pymethods]
impl WorkQueue {
    /// Put an item; a thread that sleeps gets up for it.
    #[pyo3(signature = (item, block=true, timeout=None))]
    fn put(&self, py: Python<'_>, item: &Bound<'_, PyAny>, block: bool, timeout: Option<f64>) -> PyResult<()> {
        let _ = (block, timeout); // it is never full
        to_py(py, self.items.append(py, Obj::from_any(item)))?;
        // Who slept last is the readiest.
        if let Some(sleeper) = self.sleepers.with(py, Vec::pop) {
            sleeper.unpark();
        }
        Ok(())
    }

    /// Put an item.
    fn put_nowait(&self, py: Python<'_>, item: &Bound<'_, PyAny>) -> PyResult<()> {
        self.put(py, item, true, None)
    }

    /// Take the first item; with block, sleep until there is one, at most timeout seconds. queue.Empty if there is none.
    #[pyo3(signature = (block=true, timeout=None))]
    fn get(&self, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let begun = timeout.map(|seconds| (Instant::now(), Duration::try_from_secs_f64(seconds).unwrap_or_default()));
        loop {
            if let Some(item) = self.items.with(py, VecDeque::pop_front) {
                // What it is may take long.
                make_up();
                PUT_OFF.with_borrow_mut(|put_off| put_off.comes_back = true);
                return Ok(item.into_bound(py).unbind());
            }
            let left = begun.map(|(begun, timeout)| timeout.saturating_sub(begun.elapsed()));
            if !block || left == Some(Duration::ZERO) {
                return Err(PyErr::from_value(imports::simple_queue_empty(py)?.call0()?));
            }
            let me = thread::current();
            self.sleepers.with(py, |sleepers| sleepers.push(me.clone()));
            detached::park(py, make_up, left);
            // Who got up by itself is still there.
            self.sleepers.with(py, |sleepers| sleepers.retain(|sleeper| sleeper.id() != me.id()));
        }
    }

    /// Take the first item; queue.Empty if there is none.
    fn get_nowait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.get(py, false, None)
    }

    /// How many items wait.
    fn qsize(&self, py: Python<'_>) -> usize {
        self.items.with(py, |items| items.len())
    }

    /// Whether no item waits.
    fn empty(&self, py: Python<'_>) -> bool {
        self.qsize(py) == 0
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| {
            self.items.peek(|items| items.iter().for_each(|item| visitor.obj(item)));
        })
    }

    fn __clear__(&self) {
        drop(self.items.take_to_clear());
    }
}
