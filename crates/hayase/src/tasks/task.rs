//! `Task`: a coroutine that runs on a loop, and is the future of what it returns.
//!
//! This file is the object: how it is made, what Python sees of it, cancelling, and what is reported when it dies.
//! How it runs is in `step.rs`. Private, final, a subclass of `_asyncio.Task` whose own fields stay empty.
//!
//! Must stay true
//! - While pending, a task is exactly one of: waiting (`waiting` is set and knows the task as a waiter), scheduled (one
//!   entry of the ready queue, or one callback of a foreign loop, will step it), or running.
//! - asyncio knows the task (`all_tasks`) from the moment it is made until it is done or dies.

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyModule, PyString};

use super::future::{self, HasCore, cancel_argument, keyword_items, unexpected_keyword};
use super::future_core::{Core, uninitialised};
use super::ready::Ready;
use super::scheduler::LoopRef;
use super::{current, step};
use crate::interop::imports;
use crate::raw::bound_function::BoundFunction;
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::fastcall::{Args, Rest};
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::kept_context::KeptContext;
use crate::raw::obj::Obj;
use crate::raw::table::Table;
use crate::raw::{Raised, RawResult, compat, context, coroutine, to_py, to_raw};

pub(crate) struct TaskData {
    pub(super) core: Core,
    pub(super) coro: ObjCell,
    pub(super) context: KeptContext,
    /// `_fut_waiter`: what the coroutine awaits.
    pub(super) waiting: ObjCell,
    /// What the next step throws instead of sending.
    pub(super) throw_next: ObjCell,
    /// A str once somebody gave or asked for it; until then `number` is all there is.
    name: ObjCell,
    number: GilValue<u64>,
    pub(super) registration: GilValue<current::Registration>,
    cancel_requests: GilValue<u32>,
    pub(super) must_cancel: GilValue<bool>,
    log_destroy_pending: GilValue<bool>,
}

/// For the default names `Task-1`, `Task-2`, ...
static COUNTER: GilValue<u64> = GilValue::new(0);

/// What a foreign future or a foreign loop is given to call; see `step.rs`.
static WAKEUP: BoundFunction<TaskData> = BoundFunction::new();
static STEP: BoundFunction<TaskData> = BoundFunction::new();

static CANCEL: Name = Name::new(c"cancel");
static CANCELLING: Name = Name::new(c"cancelling");
static UNCANCEL: Name = Name::new(c"uncancel");
static IS_RUNNING: Name = Name::new(c"is_running");
static LIMIT: Name = Name::new(c"limit");
static FILE: Name = Name::new(c"file");

impl TaskData {
    fn new(core: Core) -> TaskData {
        TaskData {
            core,
            coro: ObjCell::empty(),
            context: KeptContext::empty(),
            waiting: ObjCell::empty(),
            throw_next: ObjCell::empty(),
            name: ObjCell::empty(),
            number: GilValue::new(0),
            registration: GilValue::new(current::Registration::None),
            cancel_requests: GilValue::new(0),
            must_cancel: GilValue::new(false),
            log_destroy_pending: GilValue::new(false),
        }
    }
}

impl TaskData {
    /// The name as the base keeps it: a str, or the number of a default name.
    pub(super) fn mirrored_name(&self, py: Python<'_>) -> Option<Obj> {
        self.name.get().or_else(|| {
            let number = self.number.get().into_pyobject(py).ok()?;
            Some(Obj::from_bound(number))
        })
    }
}

impl TaskData {
    pub(super) fn forget_destroy_pending(&self) {
        self.log_destroy_pending.set(false);
    }
}

impl Default for TaskData {
    fn default() -> TaskData {
        TaskData::new(Core::new(LoopRef::unset()))
    }
}

impl HasCore for TaskData {
    #[inline]
    fn core(&self) -> &Core {
        &self.core
    }
}

impl Data for TaskData {
    const FINALIZE: bool = true;
    const UNLINK: bool = true;
    const FREELIST: usize = 512;

    fn class() -> &'static Class<Self> {
        static CLASS: Class<TaskData> = Class::new();
        &CLASS
    }

    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.core.visit(visitor);
        for cell in [&self.coro, &self.waiting, &self.throw_next, &self.name] {
            visitor.cell(cell);
        }
        self.context.visit(visitor);
    }

    fn clear(&self) {
        self.core.clear();
        for cell in [&self.coro, &self.waiting, &self.throw_next, &self.name] {
            cell.set(None);
        }
        self.context.clear();
    }

    fn wants_finalizer(&self) -> bool {
        self.core.is_unretrieved() || (self.core.is_pending() && self.log_destroy_pending.get())
    }

    fn finalize(py: Python<'_>, this: &Ref<Self>) {
        // Weak references die before finalizers run: a task that its report brings back to life stays unlisted.
        if compat::ALL_TASKS_IS_WEAK_SET {
            current::unregister(py, this);
        }
        if this.core.is_pending() && this.log_destroy_pending.get() {
            let message = PyString::new(py, "Task was destroyed but it is pending!");
            let entries = [("task", &*this.as_obj().borrow(py)), ("message", message.as_any())];
            this.core.report(py, this.as_obj(), &entries);
        }
        this.core.report_unretrieved(py, this.as_obj(), "Task");
    }

    fn unlink(py: Python<'_>, this: &Ref<Self>) {
        current::unregister(py, this);
    }
}

/// `loop.create_task(...)`: a new task, scheduled, or with `eager_start` on a running loop already run up to its first
/// real wait.
#[inline]
pub(crate) fn make(
    py: Python<'_>,
    event_loop: LoopRef,
    coro: Obj,
    name: Option<Obj>,
    context: Option<Obj>,
    eager_start: bool,
) -> RawResult<Obj> {
    let task = TaskData::class().make(py, TaskData::new(Core::new(event_loop)))?;
    task.core.remember_origin(py)?;
    start(py, &task, coro, name, context, eager_start)?;
    Ok(task.into_obj())
}

/// The rest of `__init__`, once the loop is known.
#[inline]
fn start(
    py: Python<'_>,
    task: &Ref<TaskData>,
    coro: Obj,
    name: Option<Obj>,
    context: Option<Obj>,
    eager_start: bool,
) -> RawResult<()> {
    if !coroutine::is_native(&coro) && !is_coroutine(py, &coro)? {
        task.log_destroy_pending.set(false);
        let text = to_raw(py, coro.borrow(py).repr().map(|repr| format!("a coroutine was expected, got {repr}")))?;
        return Err(Raised::from_err(py, PyTypeError::new_err(text)));
    }
    let context = match context.filter(|context| !context.is_none()) {
        Some(context) if compat::STRICT_INIT && !context::is_context(&context) => {
            task.log_destroy_pending.set(false);
            let class = to_raw(py, context.borrow(py).get_type().name().map(|name| name.to_string()))?;
            let text = format!("a contextvars.Context was expected, got {class}");
            return Err(Raised::from_err(py, PyTypeError::new_err(text)));
        }
        Some(context) => KeptContext::given(context),
        None => KeptContext::of_current(py)?,
    };
    task.context.set(context);
    task.waiting.set(None);
    task.throw_next.set(None);
    task.must_cancel.set(false);
    task.cancel_requests.set(0);
    task.log_destroy_pending.set(true);
    match name.filter(|name| !name.is_none()) {
        Some(name) => task.name.set(Some(to_name(py, &name)?)),
        None => {
            let number = COUNTER.get() + 1;
            COUNTER.set(number);
            task.number.set(number);
            task.name.set(None);
        }
    }
    task.coro.set(Some(coro));

    if eager_start && is_running(py, task)? {
        let outcome = step::start_eagerly(py, task);
        if compat::STRICT_INIT && outcome.is_err() {
            task.log_destroy_pending.set(false);
        }
        return outcome;
    }
    schedule(py, task)?;
    current::register(py, task)
}

fn is_coroutine(py: Python<'_>, coro: &Obj) -> RawResult<bool> {
    let is_coroutine = imports::raw(py, imports::is_coroutine(py))?;
    call::is_true(py, &call::call1(py, &is_coroutine, coro)?)
}

fn is_running(py: Python<'_>, task: &Ref<TaskData>) -> RawResult<bool> {
    match task.core.event_loop.object() {
        Some(event_loop) => call::is_true(py, &call::method(py, &event_loop, &IS_RUNNING, &[])?),
        None => Ok(false),
    }
}

fn to_name(py: Python<'_>, name: &Obj) -> RawResult<Obj> {
    if name.borrow(py).is_exact_instance_of::<PyString>() {
        return Ok(name.clone());
    }
    to_raw(py, name.borrow(py).str()).map(Obj::from_bound)
}

/// Steps the task in a later turn.
#[inline]
pub(super) fn schedule(py: Python<'_>, task: &Ref<TaskData>) -> RawResult<()> {
    if let Some(scheduler) = task.core.event_loop.scheduler() {
        scheduler.check_call_soon(py)?;
        return scheduler.schedule(py, Ready::Step(task.as_obj().clone()));
    }
    let callable = STEP.bind(py, task)?;
    task.core.foreign_call_soon(py, &[&callable], &context_of(py, task)?)
}

fn context_of(py: Python<'_>, task: &Ref<TaskData>) -> RawResult<Obj> {
    Ok(task.context.object(py)?.unwrap_or_else(|| Obj::none(py)))
}

/// The callable that wakes `task`, and its context, for lists that Python sees and for foreign futures.
pub(super) fn wakeup_callable(py: Python<'_>, task: &Obj) -> RawResult<(Obj, Obj)> {
    let task = Ref::<TaskData>::view_obj(task).expect("waiters without a context are tasks");
    Ok((WAKEUP.bind(py, task)?, context_of(py, task)?))
}

/// The task that `callable` wakes, if it is one of our wake-ups.
#[inline]
pub(super) fn woken_by(callable: &Obj) -> Option<&Ref<TaskData>> {
    WAKEUP.target(callable)
}

/// For `call_soon`: what a foreign future was given, turned back into an entry of the ready queue. (A step that enters
/// the task's context inside a callback that has entered it already would fail.)
#[inline]
pub(crate) fn recognise_wakeup(_py: Python<'_>, callback: &Obj, args: &Rest) -> Option<Ready> {
    let task = woken_by(callback)?;
    match args {
        Rest::One(future) => Some(Ready::Wakeup { task: task.as_obj().clone(), future: future.clone() }),
        Rest::None | Rest::Tuple(_) => None,
    }
}

/// `Task.cancel`
pub(super) fn cancel(py: Python<'_>, task: &Ref<TaskData>, message: Option<Obj>) -> RawResult<bool> {
    task.core.check_initialised(py)?;
    task.core.forget_unretrieved();
    if !task.core.is_pending() {
        return Ok(false);
    }
    task.cancel_requests.set(task.cancel_requests.get().saturating_add(1));
    if let Some(waiting) = task.waiting.get()
        && cancel_object(py, &waiting, message.clone())?
    {
        return Ok(true);
    }
    task.must_cancel.set(true);
    task.core.set_cancel_message(py, message);
    Ok(true)
}

/// `task.cancelling()` of anybody's task.
pub(crate) fn cancelling_of(py: Python<'_>, task: &Obj) -> RawResult<u32> {
    match Ref::<TaskData>::view_obj(task) {
        Some(task) => Ok(task.cancel_requests.get()),
        None => to_raw(py, call::method(py, task, &CANCELLING, &[])?.borrow(py).extract()),
    }
}

/// `task.uncancel()` of anybody's task.
pub(crate) fn uncancel(py: Python<'_>, task: &Obj) -> RawResult<u32> {
    match Ref::<TaskData>::view_obj(task) {
        Some(task) => Ok(take_one_back(task)),
        None => to_raw(py, call::method(py, task, &UNCANCEL, &[])?.borrow(py).extract()),
    }
}

fn take_one_back(task: &Ref<TaskData>) -> u32 {
    let requests = task.cancel_requests.get();
    if requests > 0 {
        task.cancel_requests.set(requests - 1);
        if requests == 1 && compat::UNCANCEL_TAKES_BACK {
            task.must_cancel.set(false);
        }
    }
    task.cancel_requests.get()
}

/// `object.cancel(msg)` of anybody's future.
pub(crate) fn cancel_object(py: Python<'_>, object: &Obj, message: Option<Obj>) -> RawResult<bool> {
    if let Some(task) = Ref::<TaskData>::view_obj(object) {
        return cancel(py, task, message);
    }
    if let Some(core) = future::core_of(object) {
        return core.cancel(py, object, message);
    }
    let message = message.unwrap_or_else(|| Obj::none(py));
    call::is_true(py, &call::method(py, object, &CANCEL, &[&message])?)
}

/// Makes the type and puts it into the module.
pub(super) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    WAKEUP.define_onearg(c"task_wakeup", step::wakeup_called);
    STEP.define_noargs(c"task_step", step::step_called);
    let base = imports::task_base(py)?.cast::<pyo3::types::PyType>()?.as_type_ptr();
    const DOC: &std::ffi::CStr =
        c"Task(coro, *, loop=None, name=None, context=None, eager_start=False)\n--\n\nA coroutine that runs on a loop.";
    let mut table = future::common(Table::<TaskData>::new(c"hayase._core.Task", DOC, base, 0))
        .onearg(c"set_result", c"Not supported: the coroutine sets it.", |py, _this, _value| {
            Err(unsupported(py, "set_result"))
        })
        .onearg(c"set_exception", c"Not supported: the coroutine sets it.", |py, _this, _value| {
            Err(unsupported(py, "set_exception"))
        })
        .fastcall(c"cancel", c"Ask the task to cancel itself; False if it is done.", cancel_method)
        .noargs(c"cancelling", c"How many cancellations were asked for and not taken back.", cancelling)
        .noargs(c"uncancel", c"Take one cancellation back; returns how many remain.", uncancel_method)
        .noargs(c"get_coro", c"The coroutine.", coro)
        .noargs(c"get_name", c"The name.", get_name)
        .onearg(c"set_name", c"Give it a name.", set_name)
        .fastcall(c"get_stack", c"The frames of the suspended coroutine.", get_stack)
        .fastcall(c"print_stack", c"Print the stack of the suspended coroutine.", print_stack)
        .get(c"_coro", coro)
        .get(c"_fut_waiter", fut_waiter)
        .get(c"_must_cancel", |py: Python<'_>, this: &Ref<TaskData>| Ok(Obj::bool(py, this.must_cancel.get())))
        .get_set(
            c"_log_destroy_pending",
            |py: Python<'_>, this: &Ref<TaskData>| Ok(Obj::bool(py, this.log_destroy_pending.get())),
            set_log_destroy_pending,
        )
        .repr(repr)
        .init(init_task);
    if compat::EAGER_TASKS {
        table = table.noargs(c"get_context", c"The context it runs in.", get_context);
    }
    to_py(py, table.build(base))?;
    module.add("Task", TaskData::class().type_obj().into_bound(py))
}

#[cold]
fn unsupported(py: Python<'_>, operation: &str) -> Raised {
    Raised::from_err(py, PyRuntimeError::new_err(format!("Task does not support {operation} operation")))
}

fn init_task(py: Python<'_>, this: &Ref<TaskData>, args: &Obj, keywords: Option<&Obj>) -> RawResult<()> {
    let given = to_raw(py, parse_args(py, args, keywords))?;
    this.core.init(py, "Task", given.event_loop)?;
    start(py, this, given.coro, given.name, given.context, given.eager_start)
}

struct Given {
    coro: Obj,
    event_loop: Option<Obj>,
    name: Option<Obj>,
    context: Option<Obj>,
    eager_start: bool,
}

fn parse_args(py: Python<'_>, args: &Obj, keywords: Option<&Obj>) -> PyResult<Given> {
    let positional = args.borrow(py).len()?;
    if positional > 1 {
        let text = format!("Task() takes at most 1 positional argument ({positional} given)");
        return Err(PyTypeError::new_err(text));
    }
    let mut coro = if positional == 1 { Some(Obj::from_bound(args.borrow(py).get_item(0)?)) } else { None };
    let (mut event_loop, mut name, mut context, mut eager_start) = (None, None, None, false);
    for (keyword, value) in keyword_items(py, keywords)? {
        match keyword.as_str() {
            "coro" if coro.is_none() => coro = Some(value),
            "loop" => event_loop = Some(value),
            "name" => name = Some(value),
            "context" => context = Some(value),
            "eager_start" if compat::EAGER_TASKS => eager_start = value.borrow(py).is_truthy()?,
            _ => return Err(unexpected_keyword("Task", &keyword)),
        }
    }
    let coro = coro.ok_or_else(|| PyTypeError::new_err("Task() missing required argument 'coro' (pos 1)"))?;
    Ok(Given { coro, event_loop, name, context, eager_start })
}

fn repr(py: Python<'_>, this: &Ref<TaskData>) -> RawResult<Obj> {
    this.core.check_initialised(py)?;
    call::call1(py, &imports::raw(py, imports::task_repr(py))?, this.as_obj())
}

fn cancel_method(py: Python<'_>, this: &Ref<TaskData>, args: &Args<'_>) -> RawResult<Obj> {
    let message = cancel_argument(py, args)?;
    let cancelled = cancel(py, this, message)?;
    Ok(Obj::bool(py, cancelled))
}

fn number(py: Python<'_>, value: u32) -> RawResult<Obj> {
    to_raw(py, value.into_pyobject(py).map_err(PyErr::from)).map(Obj::from_bound)
}

fn cancelling(py: Python<'_>, this: &Ref<TaskData>) -> RawResult<Obj> {
    number(py, this.cancel_requests.get())
}

fn uncancel_method(py: Python<'_>, this: &Ref<TaskData>) -> RawResult<Obj> {
    number(py, take_one_back(this))
}

fn coro(py: Python<'_>, this: &Ref<TaskData>) -> RawResult<Obj> {
    Ok(this.coro.get().unwrap_or_else(|| Obj::none(py)))
}

fn get_context(py: Python<'_>, this: &Ref<TaskData>) -> RawResult<Obj> {
    context_of(py, this)
}

fn fut_waiter(py: Python<'_>, this: &Ref<TaskData>) -> RawResult<Obj> {
    Ok(this.waiting.get().unwrap_or_else(|| Obj::none(py)))
}

fn get_name(py: Python<'_>, this: &Ref<TaskData>) -> RawResult<Obj> {
    if let Some(name) = this.name.get() {
        return Ok(name);
    }
    if this.number.get() == 0 {
        return Ok(Obj::none(py));
    }
    let name = Obj::from_bound(PyString::new(py, &format!("Task-{}", this.number.get())));
    this.name.set(Some(name.clone()));
    Ok(name)
}

fn set_name(py: Python<'_>, this: &Ref<TaskData>, name: &Obj) -> RawResult<Obj> {
    let name = to_name(py, name)?;
    current::renamed(py, this, &name);
    this.name.set(Some(name));
    Ok(Obj::none(py))
}

fn set_log_destroy_pending(py: Python<'_>, this: &Ref<TaskData>, value: &Obj) -> RawResult<()> {
    let value = call::is_true(py, value)?;
    this.log_destroy_pending.set(value);
    Ok(())
}

fn no_positional(py: Python<'_>, args: &Args<'_>) -> RawResult<()> {
    if args.len() == 0 {
        return Ok(());
    }
    let text = format!("{}() takes no positional arguments", args.function());
    Err(Raised::from_err(py, PyTypeError::new_err(text)))
}

fn get_stack(py: Python<'_>, this: &Ref<TaskData>, args: &Args<'_>) -> RawResult<Obj> {
    let args = args.named("get_stack");
    no_positional(py, &args)?;
    let [limit] = args.keywords(py, [&LIMIT])?;
    if !this.core.is_initialised() {
        return Err(uninitialised(py));
    }
    let limit = limit.unwrap_or_else(|| Obj::none(py));
    call::call_n(py, &imports::raw(py, imports::task_get_stack(py))?, &[this.as_obj(), &limit])
}

fn print_stack(py: Python<'_>, this: &Ref<TaskData>, args: &Args<'_>) -> RawResult<Obj> {
    let args = args.named("print_stack");
    no_positional(py, &args)?;
    let [limit, file] = args.keywords(py, [&LIMIT, &FILE])?;
    if !this.core.is_initialised() {
        return Err(uninitialised(py));
    }
    let limit = limit.unwrap_or_else(|| Obj::none(py));
    let file = file.unwrap_or_else(|| Obj::none(py));
    call::call_n(py, &imports::raw(py, imports::task_print_stack(py))?, &[this.as_obj(), &limit, &file])
}
