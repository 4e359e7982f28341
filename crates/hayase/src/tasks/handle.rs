//! `Handle` and `TimerHandle`: a callback, its arguments and its context, and whether it was cancelled.
//!
//! The same methods, errors and reports as `asyncio.events.Handle`. Arguments are packed: none, the single one itself,
//! or a tuple, so that the usual callback with one argument needs no tuple.

use std::ffi::c_int;
use std::mem::offset_of;

use driver::TimerKey;
use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::current;
use super::future::is_set_result;
use super::scheduler::LoopRef;
use crate::interop::imports;
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::fastcall::Rest;
use crate::raw::handled::while_handling;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_py, to_raw};
use crate::raw::{compat, context};

#[derive(Clone, Copy, PartialEq)]
enum Shape {
    NoArgs,
    One,
    Tuple,
}

#[repr(C)]
pub(crate) struct HandleData {
    /// Head of the list of weak references; the interpreter's own.
    weak_references: GilValue<*mut ffi::PyObject>,
    event_loop: LoopRef,
    callback: ObjCell,
    args: ObjCell,
    context: ObjCell,
    /// A traceback (list) while pending in debug mode, the repr (str) after a cancel in debug mode.
    debug: ObjCell,
    shape: GilValue<Shape>,
    cancelled: GilValue<bool>,
}

#[repr(C)]
pub(crate) struct TimerData {
    handle: HandleData,
    when: f64,
    key: GilValue<Option<TimerKey>>,
}

impl HandleData {
    pub(crate) const WEAK_REFERENCES: usize = offset_of!(HandleData, weak_references);

    fn new(
        py: Python<'_>,
        event_loop: LoopRef,
        callback: Obj,
        args: Rest,
        context: Option<Obj>,
    ) -> RawResult<HandleData> {
        let context = match context {
            Some(context) => context,
            None => context::copy_current(py)?,
        };
        let debug = event_loop
            .scheduler()
            .is_some_and(|scheduler| scheduler.debug.get());
        let traceback = if debug { Some(stack(py)?) } else { None };
        let (shape, args) = match args {
            Rest::None => (Shape::NoArgs, None),
            Rest::One(arg) => (Shape::One, Some(arg)),
            Rest::Tuple(tuple) => (Shape::Tuple, Some(tuple)),
        };
        Ok(HandleData {
            weak_references: GilValue::new(std::ptr::null_mut()),
            event_loop,
            callback: ObjCell::new(Some(callback)),
            args: ObjCell::new(args),
            context: ObjCell::new(Some(context)),
            debug: ObjCell::new(traceback),
            shape: GilValue::new(shape),
            cancelled: GilValue::new(false),
        })
    }

    fn visit_all(&self, visitor: &mut Visitor<'_>) {
        self.event_loop.visit(visitor);
        for cell in [&self.callback, &self.args, &self.context, &self.debug] {
            visitor.cell(cell);
        }
    }

    fn clear_all(&self) {
        for cell in [&self.callback, &self.args, &self.context, &self.debug] {
            cell.set(None);
        }
        self.event_loop.clear();
    }
}

impl TimerData {
    pub(crate) const WEAK_REFERENCES: usize =
        offset_of!(TimerData, handle) + HandleData::WEAK_REFERENCES;

    pub(crate) fn when(&self) -> f64 {
        self.when
    }
}

impl Data for HandleData {
    const FREELIST: usize = 256;
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

/// A handle that nobody has scheduled yet. `context`: a copy of the current one if `None`.
#[inline]
pub(crate) fn make(
    py: Python<'_>,
    event_loop: LoopRef,
    callback: Obj,
    args: Rest,
    context: Option<Obj>,
) -> RawResult<Ref<HandleData>> {
    HandleData::class().make(
        py,
        HandleData::new(py, event_loop, callback, args, context)?,
    )
}

/// A timer handle that nobody has scheduled yet; `when` in seconds of `loop.time()`.
#[inline]
pub(crate) fn make_timer(
    py: Python<'_>,
    event_loop: LoopRef,
    when: f64,
    callback: Obj,
    args: Rest,
    context: Option<Obj>,
) -> RawResult<Ref<TimerData>> {
    let handle = HandleData::new(py, event_loop, callback, args, context)?;
    TimerData::class().make(
        py,
        TimerData {
            handle,
            when,
            key: GilValue::new(None),
        },
    )
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
    &Ref::<TimerData>::view_obj(this)
        .expect("a Handle or a TimerHandle")
        .handle
}

/// Whether the handle was cancelled.
pub(crate) fn is_cancelled(handle: &Obj) -> bool {
    data(handle).cancelled.get()
}

/// Whether the callback is the `set_result` of a future of ours: then no Python code runs, and the last task may stay
/// the current one (`loop.call_soon(future.set_result, None)` is the most usual callback there is).
#[inline]
pub(crate) fn only_sets_result(handle: &Obj) -> bool {
    data(handle).callback.with_borrowed(is_set_result)
}

/// Runs the callback in its context, unless it was cancelled. `Err` only for what must leave `run_forever`
/// (`KeyboardInterrupt`, `SystemExit`); everything else goes to the exception handler.
#[inline]
pub(crate) fn run(py: Python<'_>, handle: &Obj) -> RawResult<()> {
    let this = data(handle);
    if this.cancelled.get() {
        return Ok(());
    }
    let (Some(callback), Some(context)) = (this.callback.get(), this.context.get()) else {
        return Ok(());
    };
    let args = this.args.get();
    let shape = this.shape.get();
    let outcome = context::run_in(py, &context, || match (shape, &args) {
        (Shape::One, Some(arg)) => call::call1(py, &callback, arg),
        (Shape::Tuple, Some(tuple)) => call::call_tuple(py, &callback, tuple),
        _ => call::call0(py, &callback),
    });
    match outcome {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(raised)) | Err(raised) => report(py, handle, raised),
    }
}

/// The exception of a callback: two kinds pass through, the rest is reported to the loop's exception handler.
#[cold]
pub(crate) fn report(py: Python<'_>, handle: &Obj, raised: Raised) -> RawResult<()> {
    let err = raised.fetch(py);
    if let (Some(scheduler), Some(event_loop)) =
        (data(handle).event_loop.scheduler(), data(handle).event_loop.object())
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
    while_handling(&exception, || {
        event_loop
            .borrow(py)
            .call_method1("call_exception_handler", (report,))
    })?;
    Ok(())
}

fn callback_source(py: Python<'_>, this: &HandleData) -> PyResult<String> {
    let callback = this.callback.get().map_or_else(
        || py.None().into_bound(py),
        |callback| callback.into_bound(py),
    );
    let args = args_tuple(py, this)?;
    let source = if compat::CALLBACK_SOURCE_HAS_DEBUG {
        let debug = this
            .event_loop
            .scheduler()
            .is_some_and(|scheduler| scheduler.debug.get());
        let keywords = PyDict::new(py);
        keywords.set_item("debug", debug)?;
        imports::format_callback_source(py)?.call((callback, args), Some(&keywords))?
    } else {
        imports::format_callback_source(py)?.call1((callback, args))?
    };
    source.extract()
}

fn args_tuple<'py>(py: Python<'py>, this: &HandleData) -> PyResult<Bound<'py, PyAny>> {
    Ok(match (this.shape.get(), this.args.get()) {
        (Shape::One, Some(arg)) => PyTuple::new(py, [arg.into_bound(py)])?.into_any(),
        (Shape::Tuple, Some(tuple)) => tuple.into_bound(py),
        (Shape::NoArgs, _) => PyTuple::empty(py).into_any(),
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

/// Bodies of the methods and getters; `raw/handle.rs` names them.
pub(crate) mod methods {
    use super::*;

    pub(crate) fn cancel(py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        let handle = data(this);
        if !handle.cancelled.replace(true) {
            if handle
                .event_loop
                .scheduler()
                .is_some_and(|scheduler| scheduler.debug.get())
            {
                // The callback is gone after this, and a slow-callback warning may still want to name it.
                let text = repr(py, this)?;
                handle.debug.set(Some(text));
            }
            let queued = Ref::<TimerData>::view_obj(this)
                .and_then(|timer| timer.key.replace(None))
                .and_then(|key| {
                    handle
                        .event_loop
                        .scheduler()
                        .and_then(|scheduler| scheduler.cancel_timer(py, key))
                });
            handle.callback.set(None);
            handle.args.set(None);
            drop(queued);
        }
        Ok(Obj::none(py))
    }

    pub(crate) fn cancelled(py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        Ok(Obj::bool(py, data(this).cancelled.get()))
    }

    pub(crate) fn run(py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        super::run(py, this)?;
        Ok(Obj::none(py))
    }

    pub(crate) fn get_context(py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        Ok(data(this).context.get().unwrap_or_else(|| Obj::none(py)))
    }

    pub(crate) fn callback(py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        Ok(data(this).callback.get().unwrap_or_else(|| Obj::none(py)))
    }

    pub(crate) fn args(py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        let handle = data(this);
        if handle.callback.is_none() {
            return Ok(Obj::none(py));
        }
        to_raw(py, args_tuple(py, handle)).map(Obj::from_bound)
    }

    pub(crate) fn event_loop(py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        Ok(data(this)
            .event_loop
            .object()
            .unwrap_or_else(|| Obj::none(py)))
    }

    pub(crate) fn source_traceback(py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        Ok(source_traceback_of(py, data(this)).map_or_else(|| Obj::none(py), Obj::from_bound))
    }

    pub(crate) fn stored_repr(py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        match data(this).debug.get() {
            Some(debug) if debug.borrow(py).is_instance_of::<PyString>() => Ok(debug),
            _ => Ok(Obj::none(py)),
        }
    }

    pub(crate) fn asyncio_class(py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        imports::raw(py, class_of(py, this))
    }

    fn class_of<'py>(py: Python<'py>, this: &Obj) -> PyResult<&'py Bound<'py, PyAny>> {
        if TimerData::class().is_exact(this.as_ptr()) {
            imports::timer_handle_class(py)
        } else {
            imports::handle_class(py)
        }
    }

    /// asyncio's own function makes the parts: it reads only attributes that we answer.
    pub(crate) fn repr_info(py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        static REPR_INFO: Name = Name::new(c"_repr_info");
        let class = asyncio_class(py, this)?;
        let function = call::getattr(py, &class, &REPR_INFO)?;
        call::call1(py, &function, this)
    }

    pub(crate) fn repr(py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        let stored = stored_repr(py, this)?;
        if !stored.is_none() {
            return Ok(stored);
        }
        let parts = repr_info(py, this)?;
        let parts: Vec<String> = to_raw(py, parts.borrow(py).extract())?;
        Ok(Obj::from_bound(PyString::new(
            py,
            &format!("<{}>", parts.join(" ")),
        )))
    }

    pub(crate) fn when(py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        let timer = Ref::<TimerData>::view_obj(this).expect("a TimerHandle");
        Ok(Obj::from_bound(pyo3::types::PyFloat::new(py, timer.when)))
    }

    pub(crate) fn scheduled(py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        let timer = Ref::<TimerData>::view_obj(this).expect("a TimerHandle");
        Ok(Obj::bool(py, timer.key.get().is_some()))
    }

    /// Comparisons are asyncio's own functions, which compare `_when` (and the rest for `==`).
    pub(crate) fn compare(py: Python<'_>, this: &Obj, other: &Obj, op: c_int) -> RawResult<Obj> {
        let name = match op {
            ffi::Py_LT => "__lt__",
            ffi::Py_LE => "__le__",
            ffi::Py_GT => "__gt__",
            ffi::Py_GE => "__ge__",
            ffi::Py_EQ => "__eq__",
            _ => {
                let equal = compare(py, this, other, ffi::Py_EQ)?;
                let equal = equal.into_bound(py);
                if equal.is(py.NotImplemented()) {
                    return Ok(Obj::from_bound(equal));
                }
                return Ok(Obj::bool(py, !to_raw(py, equal.is_truthy())?));
            }
        };
        let result = imports::timer_handle_class(py)
            .and_then(|class| class.call_method1(name, (this.borrow(py), other.borrow(py))));
        to_raw(py, result).map(Obj::from_bound)
    }
}

/// For callers above that hold `PyResult`.
pub(crate) fn run_py(py: Python<'_>, handle: &Obj) -> PyResult<()> {
    to_py(py, run(py, handle))
}
