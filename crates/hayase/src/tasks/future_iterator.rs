//! What `await future` steps: it yields the future once, then returns its result.

use pyo3::exceptions::{PyDeprecationWarning, PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::future::core_of;
use crate::raw::call;
use crate::raw::cell::ObjCell;
use crate::raw::fastcall::Args;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::table::{Step, Table};
use crate::raw::{RawResult, compat, exception, to_py, to_raw};

/// What `__await__` and `__iter__` give: yields the future once, then returns its result.
///
/// An object of its own, as in asyncio, so that a future is no `collections.abc.Iterator`.
pub(crate) struct IteratorData {
    pub(super) future: ObjCell,
}

impl Data for IteratorData {
    const FREELIST: usize = 512;

    fn class() -> &'static Class<Self> {
        static CLASS: Class<IteratorData> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.cell(&self.future);
    }
    fn clear(&self) {
        self.future.set(None);
    }
}

/// Makes the type.
pub(super) fn init(py: Python<'_>) -> PyResult<()> {
    to_py(py, table().build(std::ptr::null_mut()))
}

fn table() -> Table<IteratorData> {
    const DISALLOW: u64 = pyo3::ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    Table::<IteratorData>::new(c"hayase._core.FutureIter", c"Awaits one future.", std::ptr::null_mut(), DISALLOW)
        .iter(|_py: Python<'_>, this: &Ref<IteratorData>| Ok(this.as_obj().clone()))
        .next(next)
        .send(|py: Python<'_>, this: &Ref<IteratorData>, _value: &Obj| step(py, this))
        .onearg(c"send", c"Continue; the value is ignored.", send)
        .fastcall(c"throw", c"Raise an exception here.", throw)
        .noargs(c"close", c"Forget the future.", close)
}

#[inline]
fn step(py: Python<'_>, this: &Ref<IteratorData>) -> RawResult<Step> {
    let Some(future) = this.future.get() else {
        return Ok(Step::Return(Obj::none(py)));
    };
    let core = core_of(&future).expect("made for one of our futures");
    if core.is_pending() {
        if !core.blocking.get() {
            core.blocking.set(true);
            return Ok(Step::Yield(future));
        }
        return Err(exception::restore(py, not_awaited(py)));
    }
    this.future.set(None);
    core.get_result(py).map(Step::Return)
}

/// Somebody sent into an `await` although the future is not done.
#[cold]
pub(super) fn not_awaited(py: Python<'_>) -> Obj {
    exception::instance(py, PyRuntimeError::new_err("await wasn't used with future"))
}

fn next(py: Python<'_>, this: &Ref<IteratorData>) -> RawResult<Option<Obj>> {
    match step(py, this)? {
        Step::Yield(future) => Ok(Some(future)),
        Step::Return(value) if value.is_none() => Ok(None),
        Step::Return(value) => Err(exception::return_value(py, value)),
    }
}

fn send(py: Python<'_>, this: &Ref<IteratorData>, _value: &Obj) -> RawResult<Obj> {
    match step(py, this)? {
        Step::Yield(future) => Ok(future),
        Step::Return(value) => Err(exception::raise_stop_iteration(py, &value)),
    }
}

fn close(py: Python<'_>, this: &Ref<IteratorData>) -> RawResult<Obj> {
    this.future.set(None);
    Ok(Obj::none(py))
}

/// `throw(exception)`, and the older `throw(type, value, traceback)` with its warning.
fn throw(py: Python<'_>, this: &Ref<IteratorData>, args: &Args<'_>) -> RawResult<Obj> {
    let error = to_raw(py, thrown(py, args, &INTO_FUTURE))?;
    this.future.set(None);
    Err(exception::restore(py, error))
}

/// What `throw` says of arguments that it cannot use: that of a future's iterator, and that of a coroutine.
pub(crate) struct Texts {
    no_exception: fn(&Bound<'_, PyAny>) -> PyResult<String>,
    no_traceback: &'static str,
}

static INTO_FUTURE: Texts = Texts {
    no_exception: |_| Ok("exceptions must be classes deriving BaseException or instances of such a class".to_owned()),
    no_traceback: "throw() third argument must be a traceback",
};

pub(crate) static INTO_COROUTINE: Texts = Texts {
    no_exception: |kind| {
        let class = kind.get_type().fully_qualified_name()?;
        Ok(format!("exceptions must be classes or instances deriving from BaseException, not {class}"))
    },
    no_traceback: "throw() third argument must be a traceback object",
};

/// The exception that `throw(...)` was called with.
pub(crate) fn thrown(py: Python<'_>, args: &Args<'_>, texts: &Texts) -> PyResult<Obj> {
    let Some(kind) = args.get(0) else {
        return Err(PyTypeError::new_err("throw expected at least 1 argument, got 0"));
    };
    if args.len() > 3 {
        let text = format!("throw expected at most 3 arguments, got {}", args.len());
        return Err(PyTypeError::new_err(text));
    }
    if args.len() > 1 && compat::THROW_WITH_THREE_ARGUMENTS_WARNS {
        let text = c"the (type, exc, tb) signature of throw() is deprecated, use the single-arg signature instead.";
        PyErr::warn(py, &py.get_type::<PyDeprecationWarning>(), text, 1)?;
    }
    let value = args.get(1).filter(|value| !value.is_none());
    let traceback = args.get(2).filter(|traceback| !traceback.is_none());
    if let Some(traceback) = &traceback
        && !traceback.borrow(py).is_instance_of::<pyo3::types::PyTraceback>()
    {
        return Err(PyTypeError::new_err(texts.no_traceback));
    }
    let error = if exception::is_class(&kind) {
        match value {
            Some(value) if exception::matches(py, &value, kind.as_ptr()) && exception::is_instance(&value) => value,
            Some(value) => match value.borrow(py).cast::<PyTuple>() {
                Ok(args) => Obj::from_bound(kind.borrow(py).call1(args.to_owned())?),
                Err(_) => to_py(py, call::call1(py, &kind, &value))?,
            },
            None => to_py(py, call::call0(py, &kind))?,
        }
    } else if exception::is_instance(&kind) {
        if value.is_some() {
            return Err(PyTypeError::new_err("instance exception may not have a separate value"));
        }
        kind
    } else {
        return Err(PyTypeError::new_err((texts.no_exception)(&kind.borrow(py))?));
    };
    if !exception::is_instance(&error) {
        return Err(PyTypeError::new_err("exceptions must derive from BaseException"));
    }
    if let Some(traceback) = &traceback {
        to_py(py, exception::set_traceback(py, &error, Some(traceback)))?;
    }
    Ok(error)
}
