//! The event loop: the class `hayase._core.Loop`, on which the Python class `hayase.EventLoop` stands.
//!
//! `methods.rs` is the list of its Python methods; `turn.rs` one iteration; `dispatch.rs` the only file that turns what
//! the driver reports back into objects; one file a subject for the rest.
//!
//! Must stay true
//! - What runs belongs to the thread in `run_forever`; other threads use `call_soon_threadsafe`.
//! - Nothing here keeps a cell open while Python code runs.

mod clock;
mod connect;
mod connect_through;
mod datagram;
mod debug;
mod dispatch;
mod exceptions;
mod executor;
mod methods;
mod pipes;
mod resolve;
mod run;
mod schedule;
mod serve;
mod signals;
mod sockets;
mod start_tls;
mod turn;
mod unix;
mod watchers;
mod work_item;
mod work_queue;

use std::collections::BTreeMap;
use std::io;

use driver::{Driver, Time, Token};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCFunction, PyDict, PyModule, PyTuple, PyType};

use crate::raw::cell::{GilCell, GilValue, ObjCell};
use crate::raw::obj::Obj;
use crate::raw::{detached, kept_context, loop_ref, type_version};
use crate::runtime::{Runtime, RuntimeRef};
use crate::tasks::scheduler::LoopRef;

/// An asyncio event loop in Rust.
#[pyclass(module = "hayase._core", subclass, dict, weakref, frozen)]
pub(crate) struct Loop {
    pub(crate) runtime: Runtime,
    last_poll: GilValue<Time>,
    clock: GilValue<turn::TurnClock>,
    stopping: GilValue<bool>,
    runs_in_main_thread: GilValue<bool>,
    /// Seconds; a callback that takes longer is reported in debug mode.
    slow_callback_duration: ObjCell,
    exception_handler: ObjCell,
    task_factory: ObjCell,
    /// `task_factory` is `asyncio.eager_task_factory`.
    tasks_start_eagerly: GilValue<bool>,
    default_executor: ObjCell,
    executor_was_shut_down: GilValue<bool>,
    asyncgens: ObjCell,
    asyncgens_were_shut_down: GilValue<bool>,
    /// The handle that runs, in debug mode: for the traceback of its creation in reports.
    current_handle: ObjCell,
    /// `sys.set_coroutine_origin_tracking_depth` as it was before debug mode changed it.
    origin_tracking: GilValue<Option<i32>>,
    signals: signals::Signals,
    immediate: GilValue<sockets::Immediate>,
    /// Registrations that were taken to stand without asking the kernel: `watchers.rs`.
    doubts: GilCell<Vec<Token>>,
    overrides: Overrides,
    /// The fields are written. Memory for a loop comes zeroed, and 3.11 may collect before they are (`raw/collector.rs`).
    is_made: GilValue<bool>,
}

/// Methods that a subclass brings itself, and which are then called.
struct Overrides {
    /// Futures and tasks go through its `call_soon`.
    call_soon: bool,
    /// Outcomes of threads go through its `create_future` and `call_soon_threadsafe`.
    hand_over: bool,
    /// Timers go by its `time`.
    time: bool,
    /// The class, as it is while its clock and its timers are ours.
    with_our_timers: Option<type_version::Version>,
}

impl Overrides {
    fn of(class: &Bound<'_, PyType>) -> PyResult<Overrides> {
        let ours = class.py().get_type::<Loop>();
        let brings = |name: &str| -> PyResult<bool> { Ok(!class.getattr(name)?.is(&ours.getattr(name)?)) };
        let call_soon = brings("call_soon")?;
        let hand_over = call_soon || brings("create_future")? || brings("call_soon_threadsafe")?;
        let (mut all_ours, mut time) = (!call_soon, false);
        for (name, ours) in TIMER_METHODS.get(class.py()).into_iter().flatten() {
            let is_ours = class.getattr(*name)?.is(ours);
            all_ours &= is_ours;
            time |= *name == "time" && !is_ours;
        }
        Ok(Overrides {
            call_soon,
            hand_over,
            time,
            with_our_timers: all_ours.then(|| type_version::of(class)).flatten(),
        })
    }
}

/// The clock and the timers of the class as they were made: programs may replace them on the class, too.
static TIMER_METHODS: PyOnceLock<[(&str, Py<PyAny>); 3]> = PyOnceLock::new();

fn remember_timer_methods(py: Python<'_>) -> PyResult<()> {
    let ours = py.get_type::<Loop>();
    let method = |name: &'static str| ours.getattr(name).map(|method| (name, method.unbind()));
    let _ = TIMER_METHODS.set(py, [method("time")?, method("call_later")?, method("call_at")?]);
    Ok(())
}

impl Loop {
    fn make(overrides: Overrides) -> io::Result<Loop> {
        let driver = Driver::epoll()?;
        let runtime = Runtime::new(driver);
        runtime.scheduler.class_with_our_timers.set(overrides.with_our_timers);
        Ok(Loop {
            runtime,
            last_poll: GilValue::new(Time::from_nanos(0)),
            clock: GilValue::new(turn::TurnClock::due()),
            stopping: GilValue::new(false),
            runs_in_main_thread: GilValue::new(true),
            slow_callback_duration: ObjCell::empty(),
            exception_handler: ObjCell::empty(),
            task_factory: ObjCell::empty(),
            tasks_start_eagerly: GilValue::new(false),
            default_executor: ObjCell::empty(),
            executor_was_shut_down: GilValue::new(false),
            asyncgens: ObjCell::empty(),
            asyncgens_were_shut_down: GilValue::new(false),
            current_handle: ObjCell::empty(),
            origin_tracking: GilValue::new(None),
            signals: signals::Signals::new(),
            immediate: GilValue::new(sockets::Immediate::NONE),
            doubts: GilCell::new(Vec::new()),
            overrides,
            is_made: GilValue::new(true),
        })
    }

    /// The reference that handles, futures and tasks keep.
    #[inline]
    fn reference(&self, this: &Obj) -> LoopRef {
        if self.overrides.call_soon {
            LoopRef::new(this.clone())
        } else {
            LoopRef::with_scheduler(this.clone(), &self.runtime.scheduler)
        }
    }

    /// The reference that transports, servers and native coroutines keep.
    fn reference_to_runtime(&self, this: &Bound<'_, Loop>) -> RuntimeRef {
        RuntimeRef::new(this, |event_loop: &Loop| &event_loop.runtime)
    }

    /// What transports and native coroutines keep.
    pub(crate) fn runtime_ref(this: &Bound<'_, Loop>) -> RuntimeRef {
        RuntimeRef::new(this, |event_loop| &event_loop.runtime)
    }

    fn cells(&self) -> [&ObjCell; 6] {
        [
            &self.slow_callback_duration,
            &self.exception_handler,
            &self.task_factory,
            &self.default_executor,
            &self.asyncgens,
            &self.current_handle,
        ]
    }
}

/// For `LoopRef::new`: the scheduler inside a loop object of ours.
fn find_scheduler(py: Python<'_>, object: &Obj) -> *const () {
    match object.borrow(py).cast::<Loop>() {
        Ok(event_loop) if !event_loop.get().overrides.call_soon => {
            std::ptr::from_ref(&event_loop.get().runtime.scheduler).cast()
        }
        _ => std::ptr::null(),
    }
}

pub(crate) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    loop_ref::set_finder(find_scheduler);
    module.add_class::<Loop>()?;
    module.add_class::<watchers::Watcher>()?;
    module.add_class::<connect::Attempt>()?;
    module.add_class::<connect::ConnectedSocket>()?;
    resolve::init(py)?;
    sockets::init(module)?;
    work_item::init(py, module)?;
    module.add_class::<work_queue::WorkQueue>()?;
    crate::interop::imports::prepare_reports(py)?;
    kept_context::init(py)?;
    schedule::add_methods(py)?;
    remember_timer_methods(py)?;
    let at_exit =
        PyCFunction::new_closure(py, None, None, |args: &Bound<'_, PyTuple>, _| detached::process_exits(args.py()))?;
    py.import("atexit")?.call_method1("register", (at_exit,))?;
    let forked =
        PyCFunction::new_closure(py, None, None, |args: &Bound<'_, PyTuple>, _| signals::forget_parent(args.py()))?;
    let keywords = PyDict::new(py);
    keywords.set_item("after_in_child", forked)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&keywords))?;
    Ok(())
}

type Arguments<'a, 'py> = &'a Bound<'py, PyTuple>;
type SignalHandlers = BTreeMap<i32, Obj>;
