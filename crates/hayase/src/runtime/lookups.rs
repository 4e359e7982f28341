//! Lookups of names on their way: asked by the loop, answered by threads that know no Python.
//!
//! A thread puts its answer here and wakes the loop, without the GIL: taking it would cost more than most lookups. The
//! loop fetches answers whenever it asked the driver (`event_loop/turn.rs`).
//!
//! Must stay true
//! - An answer is put here before the loop is woken, and looked for after the driver returned: none is left lying.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use driver::{AddrInfo, GaiError, Waker};
use pyo3::Python;

use crate::raw::cell::{GilCell, GilValue};
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;

pub(crate) enum Answer {
    Addresses(Result<Vec<AddrInfo>, GaiError>),
    Names(Result<(CString, CString), GaiError>),
}

pub(crate) struct Lookups {
    /// Futures by the numbers of their lookups.
    waiting: GilCell<HashMap<u64, Obj>>,
    next: GilValue<u64>,
    answers: Arc<Answers>,
}

struct Answers {
    list: Mutex<Vec<(u64, Answer)>>,
    /// There may be some: saves the loop the lock.
    any: AtomicBool,
}

/// What the thread gets along.
pub(crate) struct Ticket {
    number: u64,
    answers: Arc<Answers>,
    waker: Waker,
}

impl Ticket {
    pub(crate) fn answer(self, answer: Answer) {
        // One push under the lock: a panic cannot leave it half done.
        self.answers.list.lock().unwrap_or_else(PoisonError::into_inner).push((self.number, answer));
        self.answers.any.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Lookups {
    pub(crate) fn new() -> Lookups {
        let answers = Arc::new(Answers { list: Mutex::new(Vec::new()), any: AtomicBool::new(false) });
        Lookups { waiting: GilCell::new(HashMap::new()), next: GilValue::new(0), answers }
    }

    pub(crate) fn begin(&self, py: Python<'_>, future: Obj, waker: Waker) -> Ticket {
        let number = self.next.get();
        self.next.set(number + 1);
        self.waiting.with(py, |waiting| waiting.insert(number, future));
        Ticket { number, answers: Arc::clone(&self.answers), waker }
    }

    #[inline]
    pub(crate) fn has_answers(&self) -> bool {
        self.answers.any.load(Ordering::Relaxed)
    }

    /// The answers that came, each with the future that waits for it.
    pub(crate) fn take(&self, py: Python<'_>) -> Vec<(Obj, Answer)> {
        self.answers.any.store(false, Ordering::Relaxed);
        let answers = std::mem::take(&mut *self.answers.list.lock().unwrap_or_else(PoisonError::into_inner));
        self.waiting.with(py, |waiting| {
            answers.into_iter().filter_map(|(number, answer)| Some((waiting.remove(&number)?, answer))).collect()
        })
    }

    /// For a loop that is closed: whoever waits, to be dropped by the caller.
    pub(crate) fn drain(&self, py: Python<'_>) -> Vec<Obj> {
        self.waiting.with(py, |waiting| waiting.drain().map(|(_, future)| future).collect())
    }

    pub(crate) fn visit(&self, visitor: &mut Visitor<'_>) {
        self.waiting.peek(|waiting| waiting.values().for_each(|future| visitor.obj(future)));
    }
}
