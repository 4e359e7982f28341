//! `Handle` and `TimerHandle`: a callback, its arguments and its context, and whether it was cancelled.
//!
//! The same methods, errors and reports as `asyncio.events.Handle`. Arguments are packed: none, the single one itself,
//! or a tuple, so that the usual callback with one argument needs no tuple.
//!
//! `__class__` answers asyncio's class, so `isinstance(handle, asyncio.Handle)` holds without its eight slots in every
//! instance.

use std::ffi::CStr;
use std::mem::offset_of;

use driver::TimerKey;
use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pyclass::CompareOp;
use pyo3::types::{PyDict, PyFloat, PyModule, PyString, PyTuple};

use super::current;
use super::future::{is_on_our_loop, is_set_result};
use super::native_call::{Callback, Native};
use super::scheduler::LoopRef;
use super::thread_safe_handle::{self, ThreadSafeData};
use crate::interop::imports;
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::compat;
use crate::raw::fastcall::Rest;
use crate::raw::handled::while_handling;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::kept_context::{KeptContext, Standing};
use crate::raw::obj::Obj;
use crate::raw::table::Table;
use crate::raw::{Raised, RawResult, to_py, to_raw};

/// What `data` and `cancel` are given: the ready queue holds nothing else.
const ONE_OF_OURS: &str = "a Handle, a TimerHandle or a ThreadSafeHandle";

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    NoArgs,
    One,
    Tuple,
    /// `callback` is the target, `args` the argument if there is one.
    Native(Native),
}

#[repr(C)]
pub(crate) struct HandleData {
    /// Head of the list of weak references; the interpreter's own.
    weak_references: GilValue<*mut ffi::PyObject>,
    event_loop: LoopRef,
    callback: ObjCell,
    args: ObjCell,
    context: KeptContext,
    /// A traceback (list) while pending in debug mode, the repr (str) after a cancel in debug mode.
    debug: ObjCell,
    shape: GilValue<Shape>,
    cancelled: GilValue<bool>,
}

/// The time as it was given: `when()` gives an int back where `call_at` got one.
#[derive(Clone, Copy)]
pub(crate) enum When {
    Float(f64),
    Int(i64),
}

impl When {
    /// Seconds on the clock of `loop.time()`.
    pub(crate) fn seconds(self) -> f64 {
        match self {
            When::Float(seconds) => seconds,
            When::Int(seconds) => seconds as f64,
        }
    }
}

#[repr(C)]
pub(crate) struct TimerData {
    handle: HandleData,
    when: When,
    key: GilValue<Option<TimerKey>>,
}

impl HandleData {
    pub(super) const WEAK_REFERENCES: usize = offset_of!(HandleData, weak_references);

    pub(super) fn new(
        py: Python<'_>,
        event_loop: LoopRef,
        callback: Callback,
        args: Rest,
        context: Option<Obj>,
    ) -> RawResult<HandleData> {
        let context = match context {
            Some(context) => KeptContext::given(context),
            None => KeptContext::of_current(py)?,
        };
        let debug = event_loop.scheduler().is_some_and(|scheduler| scheduler.debug.get());
        let traceback = if debug { Some(stack(py)?) } else { None };
        let (shape, args) = match args {
            Rest::None => (Shape::NoArgs, None),
            Rest::One(arg) => (Shape::One, Some(arg)),
            Rest::Tuple(tuple) => (Shape::Tuple, Some(tuple)),
        };
        let (shape, callback) = match callback {
            Callback::Callable(callable) => (shape, callable),
            Callback::Native(native, target) => {
                debug_assert!(shape != Shape::Tuple);
                (Shape::Native(native), target)
            }
        };
        Ok(HandleData {
            weak_references: GilValue::new(std::ptr::null_mut()),
            event_loop,
            callback: ObjCell::new(Some(callback)),
            args: ObjCell::new(args),
            context,
            debug: ObjCell::new(traceback),
            shape: GilValue::new(shape),
            cancelled: GilValue::new(false),
        })
    }

    pub(super) fn visit_all(&self, visitor: &mut Visitor<'_>) {
        self.event_loop.visit(visitor);
        for cell in [&self.callback, &self.args, &self.debug] {
            visitor.cell(cell);
        }
        self.context.visit(visitor);
    }

    pub(super) fn clear_all(&self) {
        for cell in [&self.callback, &self.args, &self.debug] {
            cell.set(None);
        }
        self.context.clear();
        self.event_loop.clear();
    }
}

impl TimerData {
    const WEAK_REFERENCES: usize = offset_of!(TimerData, handle) + HandleData::WEAK_REFERENCES;
}

impl Data for HandleData {
    // 112 KiB at most. A burst of a thousand callbacks is not rare, and reuse costs half of malloc and free.
    const FREELIST: usize = 1024;
    fn class() -> &'static Class<Self> {
        static CLASS: Class<HandleData> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.visit_all(visitor);
    }
    fn clear(&self) {
        self.clear_all();
    }
}

impl Data for TimerData {
    const FREELIST: usize = 256;
    fn class() -> &'static Class<Self> {
        static CLASS: Class<TimerData> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        self.handle.visit_all(visitor);
    }
    fn clear(&self) {
        self.handle.clear_all();
    }
}

/// What the methods that all types share need of each.
pub(super) trait AnyHandle: Data {
    fn handle(&self) -> &HandleData;
    /// Takes the place in the queue of timers, if it has one.
    fn take_key(&self) -> Option<TimerKey> {
        None
    }
    fn asyncio_class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>>;
    /// Runs `body` while no other thread cancels the handle, asks about it or runs it.
    #[inline]
    fn exclusively<R>(_py: Python<'_>, _this: &Ref<Self>, body: impl FnOnce() -> RawResult<R>) -> RawResult<R> {
        body()
    }
}

impl AnyHandle for HandleData {
    #[inline]
    fn handle(&self) -> &HandleData {
        self
    }
    fn asyncio_class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
        imports::handle_class(py)
    }
}

impl AnyHandle for TimerData {
    #[inline]
    fn handle(&self) -> &HandleData {
        &self.handle
    }
    fn take_key(&self) -> Option<TimerKey> {
        self.key.replace(None)
    }
    fn asyncio_class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
        imports::timer_handle_class(py)
    }
}

/// A handle that nobody has scheduled yet. `context`: a copy of the current one if `None`.
#[inline]
pub(crate) fn make(
    py: Python<'_>,
    event_loop: LoopRef,
    callback: Obj,
    args: Rest,
    context: Option<Obj>,
) -> RawResult<Ref<HandleData>> {
    HandleData::class().make(py, HandleData::new(py, event_loop, callback.into(), args, context)?)
}

/// A timer handle that nobody has scheduled yet; `when` in seconds of `loop.time()`.
#[inline]
pub(crate) fn make_timer(
    py: Python<'_>,
    event_loop: LoopRef,
    when: When,
    callback: Callback,
    args: Rest,
    context: Option<Obj>,
) -> RawResult<Ref<TimerData>> {
    let handle = HandleData::new(py, event_loop, callback, args, context)?;
    TimerData::class().make(py, TimerData { handle, when, key: GilValue::new(None) })
}

/// Remembers where the timer waits, so that a cancel finds it.
pub(crate) fn set_key(timer: &Ref<TimerData>, key: TimerKey) {
    timer.key.set(Some(key));
}

/// The timer left the queue because it is due.
pub(crate) fn timer_expired(handle: &Obj) {
    if let Some(timer) = Ref::<TimerData>::view_obj(handle) {
        timer.key.set(None);
    }
}

#[inline]
fn data(this: &Obj) -> &HandleData {
    if let Some(handle) = Ref::<HandleData>::view_obj(this) {
        return handle;
    }
    if let Some(timer) = Ref::<TimerData>::view_obj(this) {
        return &timer.handle;
    }
    Ref::<ThreadSafeData>::view_obj(this).expect(ONE_OF_OURS).handle()
}

/// Whether the handle was cancelled; what other threads are about to do is not waited for.
pub(crate) fn is_cancelled(handle: &Obj) -> bool {
    data(handle).cancelled.get()
}

/// Whether the callback is the `set_result` of a future of ours: then no Python code runs, and the last task may stay
/// the current one (`loop.call_soon(future.set_result, None)` is the most usual callback there is).
#[inline]
pub(crate) fn only_sets_result(handle: &Obj) -> bool {
    let handle = data(handle);
    match handle.shape.get() {
        Shape::Native(native) => native == Native::SetResult && handle.callback.with_borrowed(is_on_our_loop),
        _ => handle.callback.with_borrowed(is_set_result),
    }
}

/// Runs the callback in its context, unless it was cancelled. `Err` only for what must leave `run_forever`
/// (`KeyboardInterrupt`, `SystemExit`); everything else goes to the exception handler.
#[inline]
pub(crate) fn run(py: Python<'_>, handle: &Obj) -> RawResult<()> {
    let standing = Standing::empty();
    let outcome = run_entry(py, &standing, handle);
    standing.leave(py);
    outcome
}

/// The same as an entry of a turn.
#[inline]
pub(crate) fn run_entry(py: Python<'_>, standing: &Standing, handle: &Obj) -> RawResult<()> {
    if compat::THREAD_SAFE_HANDLES
        && let Some(shared) = Ref::<ThreadSafeData>::view_obj(handle)
    {
        return AnyHandle::exclusively(py, shared, || run_now(py, standing, handle));
    }
    run_now(py, standing, handle)
}

#[inline]
fn run_now(py: Python<'_>, standing: &Standing, handle: &Obj) -> RawResult<()> {
    let this = data(handle);
    if this.cancelled.get() {
        return Ok(());
    }
    let Some(callback) = this.callback.get() else {
        return Ok(());
    };
    let args = this.args.get();
    let shape = this.shape.get();
    let outcome = this.context.run_entry_in(py, standing, || match (shape, &args) {
        (Shape::One, Some(arg)) => call::call1(py, &callback, arg),
        (Shape::Tuple, Some(tuple)) => call::call_tuple(py, &callback, tuple),
        (Shape::Native(native), argument) => native.run(py, &callback, argument.as_ref()),
        _ => call::call0(py, &callback),
    });
    match outcome {
        // Without a context, the collector cleared it.
        None | Some(Ok(Ok(_))) => Ok(()),
        Some(Ok(Err(raised)) | Err(raised)) => {
            standing.leave(py);
            report(py, handle, raised)
        }
    }
}

/// The exception of a callback: two kinds pass through, the rest is reported to the loop's exception handler.
#[cold]
pub(crate) fn report(py: Python<'_>, handle: &Obj, raised: Raised) -> RawResult<()> {
    let err = raised.fetch(py);
    if let (Some(scheduler), Some(event_loop)) = (data(handle).event_loop.scheduler(), data(handle).event_loop.object())
    {
        current::leave_last(py, scheduler, &event_loop)?;
    }
    if err.is_instance_of::<PyKeyboardInterrupt>(py) || err.is_instance_of::<PySystemExit>(py) {
        return Err(Raised::from_err(py, err));
    }
    to_raw(py, report_to_loop(py, handle, err))
}

fn report_to_loop(py: Python<'_>, handle: &Obj, err: PyErr) -> PyResult<()> {
    let this = data(handle);
    let Some(event_loop) = this.event_loop.object() else {
        return Ok(());
    };
    let source = callback_source(py, this)?;
    let exception = err.into_value(py).into_bound(py);
    let report = PyDict::new(py);
    report.set_item("message", format!("Exception in callback {source}"))?;
    report.set_item("exception", &exception)?;
    report.set_item("handle", handle.borrow(py))?;
    if let Some(traceback) = source_traceback_of(py, this) {
        report.set_item("source_traceback", traceback)?;
    }
    while_handling(&exception, || event_loop.borrow(py).call_method1("call_exception_handler", (report,)))?;
    Ok(())
}

fn callback_source(py: Python<'_>, this: &HandleData) -> PyResult<String> {
    let callback = to_py(py, callable(py, this))?.into_bound(py);
    let args = args_tuple(py, this)?;
    let source = if compat::CALLBACK_SOURCE_HAS_DEBUG {
        let debug = this.event_loop.scheduler().is_some_and(|scheduler| scheduler.debug.get());
        let keywords = PyDict::new(py);
        keywords.set_item("debug", debug)?;
        imports::format_callback_source(py)?.call((callback, args), Some(&keywords))?
    } else {
        imports::format_callback_source(py)?.call1((callback, args))?
    };
    source.extract()
}

/// What is called, or None.
fn callable(py: Python<'_>, this: &HandleData) -> RawResult<Obj> {
    match (this.callback.get(), this.shape.get()) {
        (Some(target), Shape::Native(native)) => native.callable(py, &target),
        (callback, _) => Ok(callback.unwrap_or_else(|| Obj::none(py))),
    }
}

fn args_tuple<'py>(py: Python<'py>, this: &HandleData) -> PyResult<Bound<'py, PyAny>> {
    Ok(match (this.shape.get(), this.args.get()) {
        (Shape::One | Shape::Native(_), Some(arg)) => PyTuple::new(py, [arg.into_bound(py)])?.into_any(),
        (Shape::Tuple, Some(tuple)) => tuple.into_bound(py),
        (Shape::NoArgs, _) | (Shape::Native(_), None) => PyTuple::empty(py).into_any(),
        (Shape::One | Shape::Tuple, None) => py.None().into_bound(py),
    })
}

/// The stack of the Python code that is running, as asyncio keeps it in debug mode.
pub(crate) fn stack(py: Python<'_>) -> RawResult<Obj> {
    let extract = imports::raw(py, imports::extract_stack(py))?;
    call::call0(py, &extract)
}

fn source_traceback_of<'py>(py: Python<'py>, this: &HandleData) -> Option<Bound<'py, PyAny>> {
    let debug = this.debug.get()?.into_bound(py);
    (!debug.is_instance_of::<PyString>()).then_some(debug)
}

/// Whether this is a handle of ours.
pub(crate) fn is_ours(handle: &Obj) -> bool {
    Ref::<TimerData>::view_obj(handle).is_some()
        || Ref::<HandleData>::view_obj(handle).is_some()
        || Ref::<ThreadSafeData>::view_obj(handle).is_some()
}

/// `handle.cancel()`
pub(crate) fn cancel(py: Python<'_>, handle: &Obj) -> RawResult<()> {
    if let Some(plain) = Ref::<HandleData>::view_obj(handle) {
        return cancel_any(py, plain);
    }
    if let Some(timer) = Ref::<TimerData>::view_obj(handle) {
        return cancel_any(py, timer);
    }
    cancel_any(py, Ref::<ThreadSafeData>::view_obj(handle).expect(ONE_OF_OURS))
}

fn cancel_any<T: AnyHandle>(py: Python<'_>, this: &Ref<T>) -> RawResult<()> {
    T::exclusively(py, this, || cancel_now(py, this))
}

fn cancel_now<T: AnyHandle>(py: Python<'_>, this: &Ref<T>) -> RawResult<()> {
    let handle = this.handle();
    if handle.cancelled.replace(true) {
        return Ok(());
    }
    if handle.event_loop.scheduler().is_some_and(|scheduler| scheduler.debug.get()) {
        // The callback is gone after this, and a slow-callback warning may still want to name it.
        let text = repr(py, this)?;
        handle.debug.set(Some(text));
    }
    let queued = this
        .take_key()
        .and_then(|key| handle.event_loop.scheduler().and_then(|scheduler| scheduler.cancel_timer(py, key)));
    handle.callback.set(None);
    handle.args.set(None);
    drop(queued);
    Ok(())
}

/// A table with the names that all types share.
pub(super) fn table<T: AnyHandle>(name: &'static CStr, doc: &'static CStr) -> Table<T> {
    Table::new(name, doc, std::ptr::null_mut(), ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION)
        .noargs(c"cancel", c"Cancel the callback; does nothing if it was cancelled or has run.", cancel_method::<T>)
        .noargs(c"cancelled", c"Whether the callback was cancelled.", cancelled::<T>)
        .noargs(c"_run", c"Run the callback in its context.", run_method::<T>)
        .noargs(c"get_context", c"The contextvars.Context of the callback.", get_context::<T>)
        .noargs(c"_repr_info", c"The parts of the repr.", repr_info::<T>)
        .get(c"_callback", get_callback::<T>)
        .get(c"_args", get_args::<T>)
        .get(c"_context", get_context::<T>)
        .get(c"_cancelled", get_cancelled::<T>)
        .get(c"_loop", get_event_loop::<T>)
        .get(c"_source_traceback", source_traceback::<T>)
        .get(c"_repr", stored_repr::<T>)
        .get(c"__class__", asyncio_class::<T>)
        .repr(repr::<T>)
}

/// Makes the types and puts them into the module.
pub(crate) fn init(py: Python<'_>, module: &Bound<'_, PyModule>) -> PyResult<()> {
    const HANDLE_DOC: &CStr = c"A callback that was given to the loop; call_soon() makes it.";
    const TIMER_DOC: &CStr = c"A callback with a time; call_later() and call_at() make it.";
    let no_base = std::ptr::null_mut();

    let handle = table::<HandleData>(c"hayase._core.Handle", HANDLE_DOC).weak_references(HandleData::WEAK_REFERENCES);
    to_py(py, handle.build(no_base))?;
    let timer = table::<TimerData>(c"hayase._core.TimerHandle", TIMER_DOC)
        .noargs(c"when", c"When it is due, in seconds of loop.time().", when)
        .get(c"_when", when)
        .get(c"_scheduled", scheduled)
        .hash(timer_hash)
        .compare(timer_compare)
        .weak_references(TimerData::WEAK_REFERENCES);
    to_py(py, timer.build(no_base))?;

    module.add("Handle", HandleData::class().type_obj().into_bound(py))?;
    module.add("TimerHandle", TimerData::class().type_obj().into_bound(py))?;
    thread_safe_handle::init(py, module)
}

fn cancel_method<T: AnyHandle>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    cancel_any(py, this)?;
    Ok(Obj::none(py))
}

fn cancelled<T: AnyHandle>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    T::exclusively(py, this, || Ok(Obj::bool(py, this.handle().cancelled.get())))
}

/// `_cancelled` is a plain attribute: nobody waits for it.
fn get_cancelled<T: AnyHandle>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    Ok(Obj::bool(py, this.handle().cancelled.get()))
}

fn run_method<T: AnyHandle>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    run(py, this.as_obj())?;
    Ok(Obj::none(py))
}

fn get_context<T: AnyHandle>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    Ok(this.handle().context.object(py)?.unwrap_or_else(|| Obj::none(py)))
}

fn get_callback<T: AnyHandle>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    callable(py, this.handle())
}

fn get_args<T: AnyHandle>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    let handle = this.handle();
    if handle.callback.is_none() {
        return Ok(Obj::none(py));
    }
    to_raw(py, args_tuple(py, handle)).map(Obj::from_bound)
}

fn get_event_loop<T: AnyHandle>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    Ok(this.handle().event_loop.object().unwrap_or_else(|| Obj::none(py)))
}

fn source_traceback<T: AnyHandle>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    Ok(source_traceback_of(py, this.handle()).map_or_else(|| Obj::none(py), Obj::from_bound))
}

fn stored_repr<T: AnyHandle>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    match this.handle().debug.get() {
        Some(debug) if debug.borrow(py).is_instance_of::<PyString>() => Ok(debug),
        _ => Ok(Obj::none(py)),
    }
}

fn asyncio_class<T: AnyHandle>(py: Python<'_>, _this: &Ref<T>) -> RawResult<Obj> {
    imports::raw(py, T::asyncio_class(py))
}

/// asyncio's own function makes the parts: it reads only attributes that we answer.
fn repr_info<T: AnyHandle>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    static REPR_INFO: Name = Name::new(c"_repr_info");
    let class = asyncio_class(py, this)?;
    let function = call::getattr(py, &class, &REPR_INFO)?;
    call::call1(py, &function, this.as_obj())
}

fn repr<T: AnyHandle>(py: Python<'_>, this: &Ref<T>) -> RawResult<Obj> {
    let stored = stored_repr(py, this)?;
    if !stored.is_none() {
        return Ok(stored);
    }
    let parts = repr_info(py, this)?;
    let parts: Vec<String> = to_raw(py, parts.borrow(py).extract())?;
    Ok(Obj::from_bound(PyString::new(py, &format!("<{}>", parts.join(" ")))))
}

fn when(py: Python<'_>, this: &Ref<TimerData>) -> RawResult<Obj> {
    match this.when {
        When::Float(seconds) => Ok(Obj::from_bound(PyFloat::new(py, seconds))),
        When::Int(seconds) => to_raw(py, seconds.into_pyobject(py).map_err(PyErr::from)).map(Obj::from_bound),
    }
}

fn scheduled(py: Python<'_>, this: &Ref<TimerData>) -> RawResult<Obj> {
    Ok(Obj::bool(py, this.key.get().is_some()))
}

fn timer_hash(py: Python<'_>, this: &Ref<TimerData>) -> RawResult<isize> {
    to_raw(py, PyFloat::new(py, this.when.seconds()).hash())
}

/// Comparisons are asyncio's own functions, which compare `_when` (and the rest for `==`).
fn timer_compare(py: Python<'_>, this: &Ref<TimerData>, other: &Obj, op: CompareOp) -> RawResult<Obj> {
    let name = match op {
        CompareOp::Lt => "__lt__",
        CompareOp::Le => "__le__",
        CompareOp::Gt => "__gt__",
        CompareOp::Ge => "__ge__",
        CompareOp::Eq => "__eq__",
        CompareOp::Ne => {
            let equal = timer_compare(py, this, other, CompareOp::Eq)?.into_bound(py);
            if equal.is(py.NotImplemented()) {
                return Ok(Obj::from_bound(equal));
            }
            return Ok(Obj::bool(py, !to_raw(py, equal.is_truthy())?));
        }
    };
    let result = imports::timer_handle_class(py)
        .and_then(|class| class.call_method1(name, (this.as_obj().borrow(py), other.borrow(py))));
    to_raw(py, result).map(Obj::from_bound)
}
