//! What asyncio can see of tasks: the current one, all of them, and who awaits whom.
//!
//! On a loop of ours the current task is left standing when its step ends, because the next entry is most often another
//! task, which overwrites it. Before anything else runs, the turn calls [`leave_last`].
//!
//! Must stay true
//! - A plain callback sees `asyncio.current_task() is None`.
//! - A task is registered once, and unregistered when it is done or dies, here and nowhere else.

use std::sync::OnceLock;

use pyo3::prelude::*;
use pyo3::types::{PyList, PySet, PyType};

use super::scheduler::{Current, Scheduler};
use super::task::TaskData;
use crate::interop::imports;
use crate::raw::cell::GilValue;
use crate::raw::instance::Ref;
use crate::raw::live::LiveSet;
use crate::raw::mirror::{self, Fields};
use crate::raw::obj::Obj;
use crate::raw::{RawResult, call, compat, dict, exception, to_raw};

/// How asyncio knows a task.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registration {
    None,
    /// Place in [`LIVE`].
    Live(u32),
    /// In the interpreter's list.
    Listed,
}

/// Our tasks, where asyncio's own set is a Python `WeakSet` (adding to it costs ten times the rest of a task).
static LIVE: LiveSet = LiveSet::new();
static PROVIDER_INSTALLED: GilValue<bool> = GilValue::new(false);

/// How [`leave`] ends what [`enter`] began.
pub(super) enum Entered {
    /// On a loop of ours: left standing.
    Ours,
    /// Through `_asyncio._enter_task`.
    Foreign,
}

/// Makes `task` the current task of its loop.
#[inline]
pub(super) fn enter(py: Python<'_>, task: &Ref<TaskData>) -> RawResult<Entered> {
    let (Some(scheduler), Some(event_loop)) = (task.core.event_loop.scheduler(), task.core.event_loop.object()) else {
        enter_or_leave(py, task, imports::enter_task(py))?;
        return Ok(Entered::Foreign);
    };
    match scheduler.current.get() {
        Current::LeftStanding => set_current(py, &event_loop, Some(task.as_obj()))?,
        // Whatever stands there is not ours to overwrite.
        Current::None | Current::Running => enter_if_none(py, task, &event_loop)?,
    }
    scheduler.current.set(Current::Running);
    Ok(Entered::Ours)
}

#[inline]
pub(super) fn leave(py: Python<'_>, task: &Ref<TaskData>, entered: Entered, outcome: RawResult<()>) -> RawResult<()> {
    match entered {
        Entered::Ours => {
            if let Some(scheduler) = task.core.event_loop.scheduler() {
                scheduler.current.set(Current::LeftStanding);
            }
            outcome
        }
        Entered::Foreign => match outcome {
            Ok(()) => enter_or_leave(py, task, imports::leave_task(py)),
            Err(raised) => {
                let error = exception::fetch(py, raised);
                enter_or_leave(py, task, imports::leave_task(py))?;
                Err(exception::restore(py, error))
            }
        },
    }
}

/// The turn is about to run something that is no step: the last task is no longer the current one.
#[inline]
pub(crate) fn leave_last(py: Python<'_>, scheduler: &Scheduler, event_loop: &Obj) -> RawResult<()> {
    if scheduler.current.get() != Current::LeftStanding {
        return Ok(());
    }
    scheduler.current.set(Current::None);
    // The turn may end because of an exception that is on its way out of `run_forever`.
    let pending = compat::take_raised(py);
    set_current(py, event_loop, None)?;
    compat::restore_raised(py, pending);
    Ok(())
}

/// What asyncio has as the current task of a loop, where it keeps that in a dict; `None` if it has none, or keeps it elsewhere.
#[inline]
pub(crate) fn standing_of(py: Python<'_>, event_loop: &Obj) -> RawResult<Option<Obj>> {
    if !compat::CURRENT_TASKS_IS_DICT {
        return Ok(None);
    }
    dict::get(py, &imports::raw(py, imports::current_tasks(py))?, event_loop)
}

/// As `_asyncio._enter_task`, which refuses while another task of the loop runs.
#[inline]
fn enter_if_none(py: Python<'_>, task: &Ref<TaskData>, event_loop: &Obj) -> RawResult<()> {
    if compat::CURRENT_TASKS_IS_DICT {
        let tasks = imports::raw(py, imports::current_tasks(py))?;
        if dict::set_if_missing(py, &tasks, event_loop, task.as_obj())? {
            return Ok(());
        }
    }
    enter_or_leave(py, task, imports::enter_task(py))
}

fn enter_or_leave(py: Python<'_>, task: &Ref<TaskData>, function: PyResult<&Bound<'_, PyAny>>) -> RawResult<()> {
    let function = imports::raw(py, function)?;
    let Some(event_loop) = task.core.event_loop.object() else {
        return Err(super::future_core::uninitialised(py));
    };
    call::call_n(py, &function, &[&event_loop, task.as_obj()]).map(drop)
}

/// Overwrites the current task of a loop.
#[inline]
fn set_current(py: Python<'_>, event_loop: &Obj, task: Option<&Obj>) -> RawResult<()> {
    if compat::CURRENT_TASKS_IS_DICT {
        let tasks = imports::raw(py, imports::current_tasks(py))?;
        return match task {
            Some(task) => dict::set(py, &tasks, event_loop, task),
            None => dict::remove(py, &tasks, event_loop),
        };
    }
    let swap = imports::raw(py, imports::swap_current_task(py))?;
    let none = Obj::none(py);
    call::call_n(py, &swap, &[event_loop, task.unwrap_or(&none)]).map(drop)
}

/// For an eager start: another current task; returns the one before.
pub(super) fn swap(py: Python<'_>, task: &Ref<TaskData>, current: Option<&Obj>) -> RawResult<Option<Obj>> {
    let Some(event_loop) = task.core.event_loop.object() else {
        return Err(super::future_core::uninitialised(py));
    };
    if let Some(scheduler) = task.core.event_loop.scheduler() {
        leave_last(py, scheduler, &event_loop)?;
    }
    let function = imports::raw(py, imports::swap_current_task(py))?;
    let none = Obj::none(py);
    let before = call::call_n(py, &function, &[&event_loop, current.unwrap_or(&none)])?;
    Ok(Some(before).filter(|before| !before.is_none()))
}

/// From now on `asyncio.all_tasks` sees the task.
#[inline]
pub(super) fn register(py: Python<'_>, task: &Ref<TaskData>) -> RawResult<()> {
    if task.registration.get() != Registration::None {
        return Ok(());
    }
    if compat::ALL_TASKS_IS_WEAK_SET {
        if !PROVIDER_INSTALLED.get() {
            to_raw(py, install_provider(py))?;
        }
        task.registration.set(Registration::Live(LIVE.enter(py, task.as_obj())?));
        return Ok(());
    }
    if let Some(fields) = mirrored_fields(py, task)
        && let (Some(coro), Some(name)) = (task.coro.get(), task.mirrored_name(py))
    {
        fields.write(task.as_obj(), &coro, &name);
    }
    let function = imports::raw(py, imports::register_task(py))?;
    call::call1(py, &function, task.as_obj())?;
    task.registration.set(Registration::Listed);
    Ok(())
}

/// Where the base keeps what `python -m asyncio ps` looks for; found with the first task.
#[inline]
fn mirrored_fields(py: Python<'_>, task: &Ref<TaskData>) -> Option<Fields> {
    static FIELDS: OnceLock<Option<Fields>> = OnceLock::new();
    if let Some(known) = FIELDS.get() {
        return *known;
    }
    let found = find_fields(py, task).unwrap_or_else(|err| {
        err.write_unraisable(py, None);
        None
    });
    *FIELDS.get_or_init(|| found)
}

#[cold]
fn find_fields(py: Python<'_>, task: &Ref<TaskData>) -> PyResult<Option<Fields>> {
    let future_class = imports::future_base(py)?.cast::<PyType>()?;
    let task_class = imports::task_base(py)?.cast::<PyType>()?;
    match task.coro.get() {
        Some(coro) => mirror::find(py, future_class, task_class, &coro.borrow(py)),
        None => Ok(None),
    }
}

/// The name of a registered task changed.
pub(super) fn renamed(py: Python<'_>, task: &Ref<TaskData>, name: &Obj) {
    if task.registration.get() == Registration::Listed
        && let Some(fields) = mirrored_fields(py, task)
    {
        fields.write_name(task.as_obj(), name);
    }
}

/// The task is done, or dies.
#[inline]
pub(super) fn unregister(py: Python<'_>, task: &Ref<TaskData>) {
    match task.registration.replace(Registration::None) {
        Registration::None => {}
        Registration::Live(place) => LIVE.leave(py, place),
        Registration::Listed => {
            // A task may die because of an exception that is on its way.
            let pending = compat::take_raised(py);
            let function = imports::raw(py, imports::unregister_task(py));
            if let Err(raised) = function.and_then(|function| call::call1(py, &function, task.as_obj())) {
                exception::write_unraisable(py, raised, task.as_obj());
            }
            compat::restore_raised(py, pending);
        }
    }
}

/// `future` is awaited by `task`: for `asyncio.capture_call_graph`, on versions that have it.
#[inline]
pub(crate) fn add_to_awaited_by(py: Python<'_>, future: &Obj, task: &Obj) -> RawResult<()> {
    if !compat::CALL_GRAPH {
        return Ok(());
    }
    let function = imports::raw(py, imports::add_to_awaited_by(py))?;
    call::call_n(py, &function, &[future, task]).map(drop)
}

/// `future` is no longer awaited by `task`.
#[inline]
pub(crate) fn discard_from_awaited_by(py: Python<'_>, future: &Obj, task: &Obj) -> RawResult<()> {
    if !compat::CALL_GRAPH {
        return Ok(());
    }
    let function = imports::raw(py, imports::discard_from_awaited_by(py))?;
    call::call_n(py, &function, &[future, task]).map(drop)
}

/// Lets `asyncio.all_tasks` see our tasks, where it walks a `WeakSet`: the set inside is replaced by one that names
/// them too. Done when the first task is made, never by an import.
#[cold]
fn install_provider(py: Python<'_>) -> PyResult<()> {
    let weak_set = py.import("asyncio.tasks")?.getattr(compat::ALL_TASKS_NAME)?;
    let data = weak_set.getattr("data")?;
    if !data.is_instance_of::<ScheduledTasks>() {
        let provider = Bound::new(py, ScheduledTasks)?;
        provider.call_method1("update", (data,))?;
        weak_set.setattr("data", provider)?;
    }
    PROVIDER_INSTALLED.set(true);
    Ok(())
}

/// The set of weak references inside asyncio's `WeakSet` of tasks; iterating it names our tasks too.
#[pyclass(extends = PySet, module = "hayase._core", name = "_ScheduledTasks", frozen)]
struct ScheduledTasks;

#[pymethods]
impl ScheduledTasks {
    fn __iter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let stock = py.get_type::<PySet>().getattr("__iter__")?.call1((slf,))?;
        let all = PyList::empty(py);
        for reference in stock.try_iter()? {
            all.append(reference?)?;
        }
        for task in LIVE.all(py) {
            all.append(Bound::new(py, TaskReference(task.into_bound(py).unbind()))?)?;
        }
        Ok(all.try_iter()?.into_any())
    }
}

/// Called like a weak reference, it answers the task.
#[pyclass(module = "hayase._core", name = "_TaskReference", frozen)]
struct TaskReference(Py<PyAny>);

#[pymethods]
impl TaskReference {
    fn __call__(&self, py: Python<'_>) -> Py<PyAny> {
        self.0.clone_ref(py)
    }
}
