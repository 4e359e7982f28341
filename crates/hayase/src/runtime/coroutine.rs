//! Native coroutines: a Rust `async` block that Python awaits, and that awaits Python's awaitables.
//!
//! The async methods of the loop are such blocks. Inside, `co.wait_for(awaitable).await` has the coroutine await it
//! (`suspendable.rs`), and goes on with what came of it. So a cancellation arrives as `Err(CancelledError)` at the point
//! of waiting, as in Python.
//!
//! Must stay true
//! - The block is out of its cell while it runs: Python code may touch the coroutine object meanwhile.
//! - One point of waiting at a time (no `join`): there is one `Exchange`.

use std::future::Future;
use std::mem::offset_of;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyModule;

use super::suspendable::{self, Outcome, Progress, Suspendable, Turn};
use super::{Runtime, RuntimeRef};
use crate::raw::cell::GilCell;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, no_panic, to_py, to_raw};

type Body = Pin<Box<dyn Future<Output = PyResult<Obj>>>>;

/// What a running block knows of its coroutine. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Co(Rc<Exchange>);

struct Exchange {
    runtime: RuntimeRef,
    /// What the point of waiting asks for.
    turn: GilCell<Option<Turn>>,
    /// What came of it.
    outcome: GilCell<Option<Outcome>>,
}

impl Co {
    pub(crate) fn runtime(&self) -> &Runtime {
        &self.0.runtime
    }

    pub(crate) fn runtime_ref(&self) -> RuntimeRef {
        self.0.runtime.clone()
    }

    pub(crate) fn event_loop(&self) -> &Obj {
        self.0.runtime.object()
    }

    /// `await awaitable`
    pub(crate) fn wait_for(&self, awaitable: Obj) -> Waiting {
        Waiting { exchange: Rc::clone(&self.0), turn: Some(Turn::Await(awaitable)) }
    }

    /// `await asyncio.sleep(0)`: everything that is ready runs first.
    pub(crate) async fn yield_once(&self) -> PyResult<()> {
        Waiting { exchange: Rc::clone(&self.0), turn: Some(Turn::GiveWay) }.await.map(drop)
    }
}

/// A point of waiting.
pub(crate) struct Waiting {
    exchange: Rc<Exchange>,
    /// Until it is polled first.
    turn: Option<Turn>,
}

impl Future for Waiting {
    type Output = PyResult<Obj>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<PyResult<Obj>> {
        let turn = self.turn.take();
        let exchange = &self.exchange;
        Python::attach(|py| {
            if turn.is_some() {
                drop(exchange.turn.with(py, |place| std::mem::replace(place, turn)));
                return Poll::Pending;
            }
            match exchange.outcome.with(py, Option::take) {
                Some(Ok(value)) => Poll::Ready(Ok(value)),
                Some(Err(error)) => Poll::Ready(Err(PyErr::from_value(error.into_bound(py)))),
                None => Poll::Ready(Err(cleared())),
            }
        })
    }
}

fn cleared() -> PyErr {
    PyRuntimeError::new_err("coroutine was cleared")
}

/// A coroutine whose body is Rust.
pub(crate) struct NativeCoroutine {
    progress: Progress,
    name: &'static str,
    /// The block, while it does not run.
    body: GilCell<Option<Body>>,
    exchange: Rc<Exchange>,
}

/// Makes the coroutine object; `body` gets its [`Co`] and begins to run when the coroutine is awaited.
pub(crate) fn make<F>(
    py: Python<'_>,
    runtime: RuntimeRef,
    name: &'static str,
    body: impl FnOnce(Co) -> F,
) -> PyResult<Obj>
where
    F: Future<Output = PyResult<Obj>> + 'static,
{
    let exchange = Rc::new(Exchange { runtime, turn: GilCell::new(None), outcome: GilCell::new(None) });
    let body: Body = Box::pin(body(Co(Rc::clone(&exchange))));
    let made = NativeCoroutine { progress: Progress::new(), name, body: GilCell::new(Some(body)), exchange };
    Ok(to_py(py, NativeCoroutine::class().make(py, made))?.into_obj())
}

impl NativeCoroutine {
    fn poll(&self, py: Python<'_>) -> RawResult<Turn> {
        let Some(mut body) = self.body.with(py, Option::take) else {
            return Err(Raised::from_err(py, cleared()));
        };
        // A panic ends the coroutine, and drops the block like any other end.
        let polled = no_panic(py, || Ok(body.as_mut().poll(&mut Context::from_waker(Waker::noop()))));
        match to_raw(py, polled)? {
            Poll::Pending => {
                self.body.with(py, |place| *place = Some(body));
                Ok(self.exchange.turn.with(py, Option::take).expect("a block waits for nothing but a `Waiting`"))
            }
            Poll::Ready(outcome) => to_raw(py, outcome).map(Turn::Return),
        }
    }
}

impl Suspendable for NativeCoroutine {
    const PROGRESS: usize = offset_of!(NativeCoroutine, progress);

    fn progress(&self) -> &Progress {
        &self.progress
    }
    fn name(&self) -> &'static str {
        self.name
    }
    fn start(py: Python<'_>, this: &Ref<Self>) -> RawResult<Turn> {
        this.poll(py)
    }
    fn resume(py: Python<'_>, this: &Ref<Self>, outcome: Outcome) -> RawResult<Turn> {
        drop(this.exchange.outcome.with(py, |place| place.replace(outcome)));
        this.poll(py)
    }
    fn release(&self, py: Python<'_>) {
        drop(self.body.with(py, Option::take));
    }
}

impl Data for NativeCoroutine {
    const FINALIZE: bool = true;
    const FREELIST: usize = 0;

    fn class() -> &'static Class<Self> {
        static CLASS: Class<NativeCoroutine> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.progress.visit(visitor);
        self.exchange.runtime.visit(visitor);
    }
    fn clear(&self) {
        self.progress.clear();
        // Only what is out of reach of every running code is cleared, so the block does not run now.
        Python::attach(|py| self.release(py));
    }
    fn wants_finalizer(&self) -> bool {
        self.progress.is_unfinished()
    }
    fn finalize(py: Python<'_>, this: &Ref<Self>) {
        suspendable::finalize(py, this);
    }
}

/// Makes the type and puts it into the module.
pub(crate) fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DOC: &std::ffi::CStr = c"A coroutine whose body is Rust.";
    suspendable::init::<NativeCoroutine>(module, c"hayase._core.NativeCoroutine", DOC)
}
