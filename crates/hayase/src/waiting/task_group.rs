//! `TaskGroup`: tasks that a block starts and waits for; when one fails the others are cancelled.
//!
//! Each task tells the group when it is done. The first error cancels the other tasks and the parent, which is the task
//! that is inside the block; on the way out the parent's cancellation is taken back, unless somebody else cancelled it too:
//! the task counts the requests.
//!
//! What a subclass or an instance overrides (`_on_task_done`, `_abort`) is called by name.

use std::ffi::CStr;
use std::mem::offset_of;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyModule, PySet, PyString};

use super::{current_task, get_running_loop};
use crate::interop::{arguments, asyncio_class, imports};
use crate::raw::attributes::Attributes;
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::fastcall::Args;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::Table;
use crate::raw::{Raised, RawResult, compat, exception, to_py, to_raw};
use crate::runtime::operation::{self, Kind, Operation, Outcome, Turn, never_resumed};
use crate::tasks::scheduler::LoopRef;
use crate::tasks::wait::{self, Ending};
use crate::tasks::{current, linked, task};

#[repr(C)]
pub(super) struct TaskGroup {
    attributes: Attributes,
    event_loop: ObjCell,
    /// The task that is inside the block.
    parent: ObjCell,
    /// A set of the tasks that are not done; made with the first.
    tasks: ObjCell,
    /// A list; made with the first.
    errors: ObjCell,
    /// The first interrupt: it leaves as it is.
    base_error: ObjCell,
    /// What the end of the block waits for.
    on_completed: ObjCell,
    /// The cancellation that the block will end with, unless it turns out to be ours.
    cancellation: ObjCell,
    /// The last one that came while the block waited for its tasks.
    late_cancellation: ObjCell,
    is_entered: GilValue<bool>,
    is_exiting: GilValue<bool>,
    is_aborting: GilValue<bool>,
    cancel_on_enter: GilValue<bool>,
    /// We cancelled the parent, so we have to take it back.
    parent_cancel_requested: GilValue<bool>,
}

impl Default for TaskGroup {
    fn default() -> TaskGroup {
        TaskGroup {
            attributes: Attributes::empty(),
            event_loop: ObjCell::empty(),
            parent: ObjCell::empty(),
            tasks: ObjCell::empty(),
            errors: ObjCell::empty(),
            base_error: ObjCell::empty(),
            on_completed: ObjCell::empty(),
            cancellation: ObjCell::empty(),
            late_cancellation: ObjCell::empty(),
            is_entered: GilValue::new(false),
            is_exiting: GilValue::new(false),
            is_aborting: GilValue::new(false),
            cancel_on_enter: GilValue::new(false),
            parent_cancel_requested: GilValue::new(false),
        }
    }
}

impl TaskGroup {
    fn cells(&self) -> [&ObjCell; 8] {
        [
            &self.event_loop,
            &self.parent,
            &self.tasks,
            &self.errors,
            &self.base_error,
            &self.on_completed,
            &self.cancellation,
            &self.late_cancellation,
        ]
    }
}

impl Data for TaskGroup {
    const FREELIST: usize = 64;
    const SUBCLASSABLE: Option<usize> = Some(offset_of!(TaskGroup, attributes));

    fn class() -> &'static Class<Self> {
        static CLASS: Class<TaskGroup> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.attributes.visit(visitor);
        self.cells().into_iter().for_each(|cell| visitor.cell(cell));
    }
    fn clear(&self) {
        self.attributes.clear();
        self.cells().into_iter().for_each(|cell| cell.set(None));
    }
}

static ADD_DONE_CALLBACK: Name = Name::new(c"add_done_callback");
static ABORT: Name = Name::new(c"_abort");
static CLOSE: Name = Name::new(c"close");
static CONTEXT: Name = Name::new(c"context");
static CORO: Name = Name::new(c"coro");
static CREATE_TASK: Name = Name::new(c"create_task");
static ET: Name = Name::new(c"et");
static EXC: Name = Name::new(c"exc");
static TB: Name = Name::new(c"tb");
static NAME: Name = Name::new(c"name");
static ON_TASK_DONE: Name = Name::new(c"_on_task_done");
static SET_NAME: Name = Name::new(c"set_name");

/// What is in the group.
impl Ref<TaskGroup> {
    /// Nothing of it can be overridden.
    #[inline]
    fn is_plain(&self) -> bool {
        self.is_exact() && !self.attributes.has_dict()
    }

    fn task_set(&self, py: Python<'_>) -> RawResult<Obj> {
        if let Some(tasks) = self.tasks.get() {
            return Ok(tasks);
        }
        let tasks = Obj::from_bound(to_raw(py, PySet::empty(py))?);
        self.tasks.set(Some(tasks.clone()));
        Ok(tasks)
    }

    fn task_count(&self, py: Python<'_>) -> RawResult<usize> {
        self.tasks.get().map_or(Ok(0), |tasks| to_raw(py, tasks.borrow(py).len()))
    }

    fn has_tasks(&self, py: Python<'_>) -> RawResult<bool> {
        Ok(self.task_count(py)? > 0)
    }

    fn error_count(&self, py: Python<'_>) -> RawResult<usize> {
        match self.errors.get().filter(|errors| !errors.is_none()) {
            Some(errors) => to_raw(py, errors.borrow(py).len()),
            None => Ok(0),
        }
    }

    fn error_list(&self, py: Python<'_>) -> Obj {
        self.errors.get().unwrap_or_else(|| {
            let list = Obj::from_bound(PyList::empty(py));
            self.errors.set(Some(list.clone()));
            list
        })
    }

    fn add_error(&self, py: Python<'_>, error: &Obj) -> RawResult<()> {
        let errors = self.error_list(py);
        to_raw(
            py,
            errors.borrow(py).cast::<PyList>().map_err(PyErr::from).and_then(|list| list.append(error.borrow(py))),
        )
    }

    #[inline]
    fn hear_of(&self, py: Python<'_>, task: &Obj) -> RawResult<()> {
        if self.is_plain() {
            return linked::tell(py, task, self.as_obj());
        }
        let callback = call::getattr(py, self.as_obj(), &ON_TASK_DONE)?;
        call::method(py, task, &ADD_DONE_CALLBACK, &[&callback]).map(drop)
    }

    fn abort(&self, py: Python<'_>) -> RawResult<()> {
        if !self.is_plain() {
            return call::method(py, self.as_obj(), &ABORT, &[]).map(drop);
        }
        self.cancel_tasks(py)
    }

    /// `_abort`
    fn cancel_tasks(&self, py: Python<'_>) -> RawResult<()> {
        self.is_aborting.set(true);
        let Some(tasks) = self.tasks.get() else {
            return Ok(());
        };
        // Cancelling may run code of the program, which may change the set.
        let all: Vec<Obj> = to_raw(
            py,
            tasks.borrow(py).try_iter().and_then(|tasks| tasks.map(|task| task.map(Obj::from_bound)).collect()),
        )?;
        for task in &all {
            if !wait::is_done(py, task)? {
                task::cancel_object(py, task, None)?;
            }
        }
        Ok(())
    }

    fn cancel_parent(&self, py: Python<'_>) -> RawResult<()> {
        self.parent_cancel_requested.set(true);
        match self.parent.get() {
            Some(parent) => task::cancel_object(py, &parent, None).map(drop),
            None => Ok(()),
        }
    }

    /// `cancel`
    fn cancel(&self, py: Python<'_>) -> RawResult<()> {
        if !self.is_entered.get() {
            self.cancel_on_enter.set(true);
            return Ok(());
        }
        let is_over = self.is_exiting.get() && !self.has_tasks(py)?;
        if is_over || self.is_aborting.get() {
            return Ok(());
        }
        self.abort(py)?;
        if self.parent.is_some() && !self.parent_cancel_requested.get() {
            self.cancel_parent(py)?;
        }
        Ok(())
    }
}

// Going in ------------------------------------------------------------------------------------------------------------

static ENTER: Kind = Kind { name: "TaskGroup.__aenter__", start: enter, resume: never_resumed };

fn enter(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let group = this.target::<TaskGroup>();
    if group.is_entered.get() {
        return Err(refuse(py, &format!("TaskGroup {} has already been entered", describe(py, &group)?)));
    }
    if group.event_loop.is_none() {
        group.event_loop.set(Some(get_running_loop(py)?));
    }
    let current = current_task(py)?;
    if current.is_none() {
        return Err(refuse(py, &format!("TaskGroup {} cannot determine the parent task", describe(py, &group)?)));
    }
    group.parent.set(Some(current));
    group.is_entered.set(true);
    if group.cancel_on_enter.get() {
        group.cancel(py)?;
    }
    Ok(Turn::Return(group.into_obj()))
}

// The tasks -----------------------------------------------------------------------------------------------------------

fn create_task(py: Python<'_>, this: &Ref<TaskGroup>, args: &Args<'_>) -> RawResult<Obj> {
    let args = args.named("TaskGroup.create_task");
    let (coro, keywords) = if args.len() == 1 && args.keyword_count() == 0 {
        (args.get(0).expect("counted"), None)
    } else {
        take_arguments(py, &args)?
    };
    let problem = if !this.is_entered.get() {
        "has not been entered"
    } else if this.is_exiting.get() && !this.has_tasks(py)? {
        "is finished"
    } else if this.is_aborting.get() {
        "is shutting down"
    } else {
        let made = make_task(py, this, &coro, keywords)?;
        return adopt(py, this, made);
    };
    if compat::TASK_GROUPS_AS_OF_3_13 {
        call::method(py, &coro, &CLOSE, &[])?;
    }
    Err(refuse(py, &format!("TaskGroup {} {problem}", describe(py, this)?)))
}

/// The coroutine, and the keywords for the loop's `create_task`.
#[cold]
fn take_arguments<'py>(py: Python<'py>, args: &Args<'_>) -> RawResult<(Obj, Option<Bound<'py, PyDict>>)> {
    let dict = PyDict::new(py);
    let mut coro = args.get(0);
    if args.len() > 1 {
        // Says that there are too many.
        args.bind(py, [&CORO], 1)?;
    }
    for i in 0..args.keyword_count() {
        let (name, value) = args.keyword(i);
        if coro.is_none() && name.borrow(py).to_string() == CORO.text() {
            coro = Some(value);
        } else {
            to_raw(py, dict.set_item(name.borrow(py), value.borrow(py)))?;
        }
    }
    let Some(coro) = coro else {
        args.require(py, &["coro"])?;
        unreachable!("nothing was given");
    };
    if !compat::CREATE_TASK_PASSES_KEYWORDS {
        // Unknown ones are refused here.
        args.keywords(py, [&CORO, &NAME, &CONTEXT])?;
    }
    Ok((coro, (!dict.is_empty()).then_some(dict)))
}

#[inline]
fn make_task(py: Python<'_>, this: &Ref<TaskGroup>, coro: &Obj, keywords: Option<Bound<'_, PyDict>>) -> RawResult<Obj> {
    let Some(event_loop) = this.event_loop.get() else {
        // Only if the collector cleared it.
        return Err(refuse(py, "the TaskGroup has no event loop"));
    };
    match keywords {
        None => call::method(py, &event_loop, &CREATE_TASK, &[coro]),
        Some(keywords) => make_task_with(py, &event_loop, coro, &keywords),
    }
}

/// Older versions give no context if there is none, and the name after the task was made.
#[cold]
fn make_task_with(py: Python<'_>, event_loop: &Obj, coro: &Obj, keywords: &Bound<'_, PyDict>) -> RawResult<Obj> {
    let make = || -> PyResult<Obj> {
        if !compat::CREATE_TASK_PASSES_KEYWORDS {
            if let Some(context) = keywords.get_item("context")?
                && context.is_none()
            {
                keywords.del_item("context")?;
            }
            if !compat::TASK_GROUPS_AS_OF_3_13
                && let Some(name) = keywords.get_item("name")?
            {
                keywords.del_item("name")?;
                let made = event_loop.borrow(py).call_method("create_task", (coro.borrow(py),), Some(keywords))?;
                if !name.is_none() {
                    to_py(py, call::method(py, &Obj::from_any(&made), &SET_NAME, &[&Obj::from_bound(name)]))?;
                }
                return Ok(Obj::from_bound(made));
            }
        }
        let made = event_loop.borrow(py).call_method("create_task", (coro.borrow(py),), Some(keywords))?;
        Ok(Obj::from_bound(made))
    };
    to_raw(py, make())
}

/// A new task becomes one of the group. It may be done already, if it was started eagerly: its end is noticed in a later
/// turn all the same, so that it does not cancel a parent that is about to wait for it.
#[inline]
fn adopt(py: Python<'_>, this: &Ref<TaskGroup>, made: Obj) -> RawResult<Obj> {
    if compat::CALL_GRAPH
        && let Some(parent) = this.parent.get()
    {
        current::add_to_awaited_by(py, &made, &parent)?;
    }
    if !compat::GROUPS_WAIT_FOR_DONE_TASKS && this.is_plain() && wait::is_done_without_error(&made) {
        return Ok(made);
    }
    let tasks = this.task_set(py)?;
    in_set(py, &tasks, |tasks| tasks.add(made.borrow(py)))?;
    this.hear_of(py, &made)?;
    // Started eagerly, it may have cancelled the group before it was one of it.
    if this.is_aborting.get() && !wait::is_done(py, &made)? {
        task::cancel_object(py, &made, None)?;
    }
    Ok(made)
}

fn in_set<R>(py: Python<'_>, set: &Obj, change: impl FnOnce(&Bound<'_, PySet>) -> PyResult<R>) -> RawResult<R> {
    let set = set.borrow(py);
    to_raw(py, set.cast::<PySet>().map_err(PyErr::from).and_then(|set| change(&set)))
}

/// `_on_task_done`
fn on_task_done(py: Python<'_>, this: &Ref<TaskGroup>, done: &Obj) -> RawResult<Obj> {
    if let Some(tasks) = this.tasks.get() {
        in_set(py, &tasks, |tasks| tasks.discard(done.borrow(py)))?;
    }
    if compat::CALL_GRAPH
        && let Some(parent) = this.parent.get()
    {
        current::discard_from_awaited_by(py, done, &parent)?;
    }
    if let Some(waiter) = this.on_completed.get()
        && !this.has_tasks(py)?
        && !wait::is_done(py, &waiter)?
    {
        wait::set_result(py, &waiter, Obj::bool(py, true))?;
    }
    if let Ending::Error(error) = wait::ending(py, done)? {
        failed(py, this, done, error)?;
    }
    Ok(Obj::none(py))
}

#[cold]
fn failed(py: Python<'_>, this: &Ref<TaskGroup>, done: &Obj, error: Obj) -> RawResult<()> {
    this.add_error(py, &error)?;
    if exception::is_interrupt(py, &error) && this.base_error.is_none() {
        this.base_error.set(Some(error.clone()));
    }
    let Some(parent) = this.parent.get() else {
        return Ok(());
    };
    if wait::is_done(py, &parent)? {
        return to_raw(py, report(py, this, done, &error, &parent));
    }
    if !this.is_aborting.get() && !this.parent_cancel_requested.get() {
        this.abort(py)?;
        this.cancel_parent(py)?;
    }
    Ok(())
}

/// Nobody is left to raise the error in.
fn report(py: Python<'_>, this: &Ref<TaskGroup>, done: &Obj, error: &Obj, parent: &Obj) -> PyResult<()> {
    let (task, parent) = (done.borrow(py).repr()?, parent.borrow(py).str()?);
    let report = PyDict::new(py);
    let text = format!("Task {task} has errored out but its parent task {parent} is already completed");
    report.set_item("message", text)?;
    report.set_item("exception", error.borrow(py))?;
    report.set_item("task", done.borrow(py))?;
    if let Some(event_loop) = this.event_loop.get() {
        event_loop.borrow(py).call_method1("call_exception_handler", (report,))?;
    }
    Ok(())
}

// Going out -----------------------------------------------------------------------------------------------------------

/// The argument is what ended the block, if it was an exception.
static EXIT: Kind = Kind { name: "TaskGroup.__aexit__", start: exit, resume: completed };

fn is_cancellation(py: Python<'_>, error: &Obj) -> RawResult<bool> {
    let cancelled = imports::raw(py, imports::cancelled_error(py))?;
    if compat::TASK_GROUPS_AS_OF_3_13 {
        return Ok(exception::matches(py, error, cancelled.as_ptr()));
    }
    Ok(std::ptr::eq(error.type_ptr(), cancelled.as_ptr().cast()))
}

fn exit(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let group = this.target::<TaskGroup>();
    group.is_exiting.set(true);
    if let Some(error) = this.argument.get() {
        if exception::is_interrupt(py, &error) && group.base_error.is_none() {
            group.base_error.set(Some(error.clone()));
        }
        if is_cancellation(py, &error)? {
            group.cancellation.set(Some(error));
        }
        if !compat::TASK_GROUPS_AS_OF_3_13 {
            take_cancellation_back(py, &group)?;
        }
        if !group.is_aborting.get() {
            group.abort(py)?;
        }
    } else if !compat::TASK_GROUPS_AS_OF_3_13 {
        take_cancellation_back(py, &group)?;
    }
    wait_for_tasks(py, this, &group)
}

fn wait_for_tasks(py: Python<'_>, this: &Ref<Operation>, group: &Ref<TaskGroup>) -> RawResult<Turn> {
    if !group.has_tasks(py)? {
        return end(py, this, group);
    }
    let Some(event_loop) = group.event_loop.get() else {
        return end(py, this, group);
    };
    let waiter = wait::create_future(py, &LoopRef::new(event_loop))?;
    group.on_completed.set(Some(waiter.clone()));
    Ok(Turn::Await(waiter))
}

/// The tasks are done, or the parent is cancelled while it waits for them, perhaps not for the first time.
fn completed(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    let group = this.target::<TaskGroup>();
    if let Err(error) = outcome {
        let cancelled = imports::raw(py, imports::cancelled_error(py))?;
        if !exception::matches(py, &error, cancelled.as_ptr()) {
            forget(&group);
            return Err(exception::restore(py, error));
        }
        if !group.is_aborting.get() {
            group.cancellation.set(Some(error.clone()));
            group.abort(py)?;
        }
        group.late_cancellation.set(Some(error));
    }
    group.on_completed.set(None);
    wait_for_tasks(py, this, &group)
}

/// A parent that we cancelled is no longer cancelled, unless others cancelled it too.
fn take_cancellation_back(py: Python<'_>, group: &Ref<TaskGroup>) -> RawResult<()> {
    if !group.parent_cancel_requested.get() {
        return Ok(());
    }
    let Some(parent) = group.parent.get() else {
        return Ok(());
    };
    if task::uncancel(py, &parent)? == 0 {
        group.cancellation.set(None);
    } else if group.cancellation.is_none() {
        group.cancellation.set(group.late_cancellation.take());
    }
    Ok(())
}

/// How the block ends when all tasks are done.
fn end(py: Python<'_>, this: &Ref<Operation>, group: &Ref<TaskGroup>) -> RawResult<Turn> {
    let outcome = decide(py, this, group);
    forget(group);
    match outcome? {
        // What ended the block was our own cancellation.
        None if compat::TASK_GROUPS_AS_OF_3_15 => Ok(Turn::Return(Obj::bool(py, true))),
        None => Ok(Turn::Return(Obj::none(py))),
        Some(error) => Err(exception::raise(py, &error)),
    }
}

/// What the block raises.
fn decide(py: Python<'_>, this: &Ref<Operation>, group: &Ref<TaskGroup>) -> RawResult<Option<Obj>> {
    if let Some(error) = group.base_error.take() {
        return Ok(Some(error));
    }
    if compat::TASK_GROUPS_AS_OF_3_13 {
        take_cancellation_back(py, group)?;
    }
    let errors = group.error_count(py)?;
    if errors == 0
        && let Some(cancellation) = group.cancellation.take()
    {
        return Ok(Some(cancellation));
    }
    let body = match this.argument.take() {
        Some(error) if !is_cancellation(py, &error)? => Some(error),
        Some(_) | None => None,
    };
    if let Some(error) = &body {
        group.add_error(py, error)?;
    } else if errors == 0 {
        return Ok(None);
    }
    if compat::TASK_GROUPS_AS_OF_3_13
        && let Some(parent) = group.parent.get()
        && task::cancelling_of(py, &parent)? > 0
    {
        // Cancelled from outside, too: the count stays, and the next wait is cancelled.
        task::uncancel(py, &parent)?;
        task::cancel_object(py, &parent, None)?;
    }
    if compat::TASK_GROUPS_AS_OF_3_15
        && errors == 0
        && let Some(error) = body.filter(|error| error.borrow(py).is_instance_of::<pyo3::exceptions::PyGeneratorExit>())
    {
        return Ok(Some(error));
    }
    let class = imports::raw(py, imports::base_exception_group(py))?;
    let text = Obj::from_bound(PyString::new(py, "unhandled errors in a TaskGroup"));
    let made = call::call_n(py, &class, &[&text, &group.error_list(py)])?;
    exception::from_none(&made);
    Ok(Some(made))
}

/// Exceptions hold frames, which hold everything: a group that is over keeps none.
fn forget(group: &Ref<TaskGroup>) {
    for cell in [&group.parent, &group.errors, &group.base_error, &group.cancellation, &group.late_cancellation] {
        cell.set(None);
    }
}

// What Python sees ----------------------------------------------------------------------------------------------------

#[cold]
fn refuse(py: Python<'_>, text: &str) -> Raised {
    Raised::from_err(py, PyRuntimeError::new_err(text.to_owned()))
}

fn describe(py: Python<'_>, this: &Ref<TaskGroup>) -> RawResult<String> {
    to_raw(py, this.as_obj().borrow(py).repr().map(|repr| repr.to_string_lossy().into_owned()))
}

fn repr(py: Python<'_>, this: &Ref<TaskGroup>) -> RawResult<Obj> {
    let mut text = String::from("<TaskGroup");
    let (tasks, errors) = (this.task_count(py)?, this.error_count(py)?);
    if tasks > 0 {
        text += &format!(" tasks={tasks}");
    }
    if errors > 0 {
        text += &format!(" errors={errors}");
    }
    if this.is_aborting.get() {
        text += " cancelling";
    } else if this.is_entered.get() {
        text += " entered";
    }
    Ok(Obj::from_bound(PyString::new(py, &(text + ">"))))
}

pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const DOC: &CStr = c"TaskGroup()\n--\n\nTasks that are started inside `async with` and waited for at its end.\
        \n\nThe first that fails cancels the others, and the block; then all errors are raised as one group.";
    let table = Table::<TaskGroup>::new(c"hayase.taskgroups.TaskGroup", DOC, std::ptr::null_mut(), 0)
        .get(c"__class__", asyncio_class::of)
        .noargs(c"__aenter__", c"Begin.", |py: Python<'_>, this: &Ref<TaskGroup>| {
            operation::make(py, &ENTER, this.as_obj().clone(), None)
        })
        .fastcall(
            c"__aexit__",
            c"__aexit__($self, et, exc, tb)\n--\n\nWait for the tasks.",
            |py: Python<'_>, this: &Ref<TaskGroup>, args: &Args<'_>| {
                let [_, error, _] = args.named("TaskGroup.__aexit__").bind(py, [&ET, &EXC, &TB], 3)?;
                let error = error.filter(|error| !error.is_none());
                operation::make(py, &EXIT, this.as_obj().clone(), error)
            },
        )
        .fastcall(c"create_task", compat::TASK_GROUP_CREATE_TASK_DOC, create_task)
        .onearg(
            c"_is_base_error",
            c"Whether it is an interrupt.",
            |py: Python<'_>, _this: &Ref<TaskGroup>, error: &Obj| Ok(Obj::bool(py, exception::is_interrupt(py, error))),
        )
        .noargs(c"_abort", c"Cancel the tasks.", |py: Python<'_>, this: &Ref<TaskGroup>| {
            this.cancel_tasks(py).map(|()| Obj::none(py))
        })
        .onearg(c"_on_task_done", c"A task is done.", on_task_done)
        .onearg(c"_future_done", c"As _on_task_done, without its being overridden.", on_task_done)
        .get(c"_tasks", |py: Python<'_>, this: &Ref<TaskGroup>| this.task_set(py))
        .get(c"_errors", |py: Python<'_>, this: &Ref<TaskGroup>| Ok(this.error_list(py)))
        .get(c"_loop", |py: Python<'_>, this: &Ref<TaskGroup>| {
            Ok(this.event_loop.get().unwrap_or_else(|| Obj::none(py)))
        })
        .get(c"_parent_task", |py: Python<'_>, this: &Ref<TaskGroup>| {
            Ok(this.parent.get().unwrap_or_else(|| Obj::none(py)))
        })
        .get(c"_base_error", |py: Python<'_>, this: &Ref<TaskGroup>| {
            Ok(this.base_error.get().unwrap_or_else(|| Obj::none(py)))
        })
        .get(c"_on_completed_fut", |py: Python<'_>, this: &Ref<TaskGroup>| {
            Ok(this.on_completed.get().unwrap_or_else(|| Obj::none(py)))
        })
        .get(c"_entered", |py: Python<'_>, this: &Ref<TaskGroup>| Ok(Obj::bool(py, this.is_entered.get())))
        .get(c"_exiting", |py: Python<'_>, this: &Ref<TaskGroup>| Ok(Obj::bool(py, this.is_exiting.get())))
        .get(c"_aborting", |py: Python<'_>, this: &Ref<TaskGroup>| Ok(Obj::bool(py, this.is_aborting.get())))
        .get(c"_parent_cancel_requested", |py: Python<'_>, this: &Ref<TaskGroup>| {
            Ok(Obj::bool(py, this.parent_cancel_requested.get()))
        })
        .repr(repr)
        .init(|py: Python<'_>, _this: &Ref<TaskGroup>, args: &Obj, keywords: Option<&Obj>| {
            arguments::one(py, "TaskGroup", None, args, keywords).map(drop)
        });
    let table = if compat::TASK_GROUPS_AS_OF_3_15 {
        const CANCEL: &CStr =
            c"cancel($self, /)\n--\n\nCancel the tasks and the block, which then ends without an exception.";
        table.noargs(c"cancel", CANCEL, |py: Python<'_>, this: &Ref<TaskGroup>| this.cancel(py).map(|()| Obj::none(py)))
    } else {
        table
    };
    to_py(py, table.build(std::ptr::null_mut()))?;
    module.add("TaskGroup", TaskGroup::class().type_obj().into_bound(py))
}
