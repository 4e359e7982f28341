//! What `writer.drain()` and `writer.wait_closed()` return: awaitables that end at once when there is nothing to wait for.
//!
//! The waiting itself is asyncio's: `drain()` that finds the transport full, closing or of another make goes on as the
//! running version's own coroutine.

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::protocol::StreamReaderProtocol;
use super::reader::StreamReader;
use super::writer::{self, StreamWriter};
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::fastcall::Args;
use crate::raw::instance::{Class, Data, Ref, Visitor};
use crate::raw::iterate;
use crate::raw::obj::Obj;
use crate::raw::table::{Step, Table};
use crate::raw::{Raised, RawResult, coroutine, exception, to_py, to_raw};
use crate::tasks::future;
use crate::transports;

static THROW: Name = Name::new(c"throw");
static CLOSE: Name = Name::new(c"close");

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Drain,
    Closed,
}

impl Wait {
    fn name(self) -> &'static str {
        match self {
            Wait::Drain => "drain",
            Wait::Closed => "wait_closed",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Created,
    Running,
    Waiting,
    Done,
}

pub(crate) struct DrainingData {
    writer: ObjCell,
    /// The iterator that does the waiting.
    inner: ObjCell,
    wait: Wait,
    state: GilValue<State>,
}

impl Data for DrainingData {
    const FINALIZE: bool = true;
    const FREELIST: usize = 128;

    fn class() -> &'static Class<Self> {
        static CLASS: Class<DrainingData> = Class::new();
        &CLASS
    }
    fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.cell(&self.writer);
        visitor.cell(&self.inner);
    }
    fn clear(&self) {
        self.writer.set(None);
        self.inner.set(None);
    }
    fn wants_finalizer(&self) -> bool {
        self.state.get() == State::Created
    }
    fn finalize(py: Python<'_>, this: &Ref<Self>) {
        // The collector asks without looking at `wants_finalizer`.
        if this.state.replace(State::Done) != State::Created {
            return;
        }
        coroutine::warn_never_awaited(py, this.as_obj(), &this.qualified_name());
    }
}

impl DrainingData {
    fn qualified_name(&self) -> String {
        format!("StreamWriter.{}", self.wait.name())
    }
}

#[inline]
pub(super) fn make(py: Python<'_>, writer: &Obj, wait: Wait) -> RawResult<Obj> {
    let data = DrainingData {
        writer: ObjCell::new(Some(writer.clone())),
        inner: ObjCell::empty(),
        wait,
        state: GilValue::new(State::Created),
    };
    Ok(DrainingData::class().make(py, data)?.into_obj())
}

pub(super) fn init(py: Python<'_>) -> PyResult<()> {
    const DISALLOW: u64 = pyo3::ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    let table = Table::<DrainingData>::new(
        c"hayase._core.Draining",
        c"A coroutine of a StreamWriter: drain() or wait_closed().",
        std::ptr::null_mut(),
        DISALLOW,
    )
    .iter(|_py: Python<'_>, this: &Ref<DrainingData>| Ok(this.as_obj().clone()))
    .awaits(|_py: Python<'_>, this: &Ref<DrainingData>| Ok(this.as_obj().clone()))
    .next(next)
    .send(step)
    .onearg(c"send", c"Continue.", send)
    .fastcall(c"throw", c"Raise an exception where it waits.", throw)
    .noargs(c"close", c"End it.", close)
    .get(c"cr_running", |py: Python<'_>, this: &Ref<DrainingData>| {
        Ok(Obj::bool(py, this.state.get() == State::Running))
    })
    .get(c"cr_suspended", |py: Python<'_>, this: &Ref<DrainingData>| {
        Ok(Obj::bool(py, this.state.get() == State::Waiting))
    })
    .get(c"cr_await", |py: Python<'_>, this: &Ref<DrainingData>| Ok(this.inner.get().unwrap_or_else(|| Obj::none(py))))
    .get(c"__name__", |py: Python<'_>, this: &Ref<DrainingData>| {
        Ok(Obj::from_bound(PyString::new(py, this.wait.name())))
    })
    .get(c"__qualname__", |py: Python<'_>, this: &Ref<DrainingData>| {
        Ok(Obj::from_bound(PyString::new(py, &this.qualified_name())))
    })
    .repr(|py: Python<'_>, this: &Ref<DrainingData>| {
        let text = format!("<coroutine object {} at {:p}>", this.qualified_name(), this.as_ptr());
        Ok(Obj::from_bound(PyString::new(py, &text)))
    });
    to_py(py, table.build(std::ptr::null_mut()))
}

fn next(py: Python<'_>, this: &Ref<DrainingData>) -> RawResult<Option<Obj>> {
    match advance(py, this, None)? {
        Step::Yield(future) => Ok(Some(future)),
        Step::Return(value) if value.is_none() => Ok(None),
        Step::Return(value) => Err(exception::return_value(py, value)),
    }
}

fn send(py: Python<'_>, this: &Ref<DrainingData>, value: &Obj) -> RawResult<Obj> {
    match step(py, this, value)? {
        Step::Yield(future) => Ok(future),
        Step::Return(value) => Err(exception::raise_stop_iteration(py, &value)),
    }
}

fn step(py: Python<'_>, this: &Ref<DrainingData>, value: &Obj) -> RawResult<Step> {
    if this.state.get() == State::Created && !value.is_none() {
        let text = "can't send non-None value to a just-started coroutine";
        return Err(crate::raw::fastcall::type_error(py, text.to_owned()));
    }
    advance(py, this, Some(value))
}

#[inline]
fn advance(py: Python<'_>, this: &Ref<DrainingData>, value: Option<&Obj>) -> RawResult<Step> {
    let inner = match this.state.get() {
        State::Created => match begin(py, this) {
            Ok(None) => {
                this.state.set(State::Done);
                this.writer.set(None);
                return Ok(Step::Return(Obj::none(py)));
            }
            Ok(Some(inner)) => inner,
            Err(raised) => {
                this.state.set(State::Done);
                return Err(raised);
            }
        },
        State::Waiting => this.inner.get().unwrap_or_else(|| Obj::none(py)),
        State::Running => return Err(already_executing(py)),
        State::Done => return Err(already_awaited(py)),
    };
    this.state.set(State::Running);
    let none = Obj::none(py);
    match iterate::send(py, &inner, value.unwrap_or(&none)) {
        Ok(iterate::Step::Yielded(yielded)) => {
            this.inner.set(Some(inner));
            this.state.set(State::Waiting);
            Ok(Step::Yield(yielded))
        }
        // Neither returns anything but None.
        Ok(iterate::Step::Returned(_)) => {
            this.state.set(State::Done);
            this.inner.set(None);
            Ok(Step::Return(none))
        }
        Err(raised) => {
            this.state.set(State::Done);
            Err(raised)
        }
    }
}

/// `None` if there is nothing to wait for, else the iterator that waits.
#[inline]
fn begin(py: Python<'_>, this: &Ref<DrainingData>) -> RawResult<Option<Obj>> {
    let object = this.writer.get().unwrap_or_else(|| Obj::none(py));
    match this.wait {
        Wait::Drain => {
            let native = object.borrow(py);
            let native = native.cast::<StreamWriter>().expect("made by a writer").get();
            if is_free(py, native)? {
                return Ok(None);
            }
            let waiting = writer::asyncio_writer_class(py).call_method1("drain", (object.borrow(py),));
            iterate::await_iterator(py, &Obj::from_bound(to_raw(py, waiting)?)).map(Some)
        }
        Wait::Closed => {
            let waiter = StreamWriter::close_waiter(py, &object)?;
            iterate::await_iterator(py, &waiter).map(Some)
        }
    }
}

/// Whether the protocol is ours and neither it, the reader nor the transport has anything to say.
#[inline]
fn is_free(py: Python<'_>, writer: &StreamWriter) -> RawResult<bool> {
    let (Some(transport), Some(protocol), Some(reader)) =
        (writer.transport.get(), writer.protocol.get(), writer.reader.get())
    else {
        return Ok(false);
    };
    if !reader.is_none() {
        match reader.borrow(py).cast::<StreamReader>() {
            Ok(reader) if reader.get().exception().is_none() => {}
            Ok(_) | Err(_) => return Ok(false),
        }
    }
    let protocol = protocol.borrow(py);
    let Ok(protocol) = protocol.cast::<StreamReaderProtocol>() else {
        return Ok(false);
    };
    Ok(protocol.get().may_write() && !transports::is_closing(py, &transport)?)
}

/// As `yield from`: what is thrown in goes to what is waited for.
fn throw(py: Python<'_>, this: &Ref<DrainingData>, args: &Args<'_>) -> RawResult<Obj> {
    let error = to_raw(py, future::thrown(py, args))?;
    let inner = match this.state.get() {
        State::Running => return Err(already_executing(py)),
        State::Done => return Err(already_awaited(py)),
        State::Created => {
            this.state.set(State::Done);
            return Err(exception::restore(py, error));
        }
        State::Waiting => this.inner.get().unwrap_or_else(|| Obj::none(py)),
    };
    this.state.set(State::Running);
    match call::method(py, &inner, &THROW, &[&error]) {
        Ok(yielded) => {
            this.state.set(State::Waiting);
            Ok(yielded)
        }
        Err(raised) => {
            this.state.set(State::Done);
            Err(raised)
        }
    }
}

fn close(py: Python<'_>, this: &Ref<DrainingData>) -> RawResult<Obj> {
    match this.state.replace(State::Done) {
        State::Running => {
            this.state.set(State::Running);
            Err(already_executing(py))
        }
        State::Waiting => {
            let inner = this.inner.take().unwrap_or_else(|| Obj::none(py));
            call::method(py, &inner, &CLOSE, &[])
        }
        State::Created | State::Done => Ok(Obj::none(py)),
    }
}

#[cold]
fn already_executing(py: Python<'_>) -> Raised {
    Raised::from_err(py, PyValueError::new_err("coroutine already executing"))
}

#[cold]
fn already_awaited(py: Python<'_>) -> Raised {
    Raised::from_err(py, PyRuntimeError::new_err("cannot reuse already awaited coroutine"))
}
