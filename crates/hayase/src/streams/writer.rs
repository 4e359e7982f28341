//! `StreamWriter`: the way back to the transport.
//!
//! Writing goes straight to a transport of ours. What runs once per connection (`start_tls`, `__del__`, `__repr__`) is
//! the running version's, inherited by the class in `python/hayase/streams.py`.

use pyo3::exceptions::PyAssertionError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyModule, PyTuple, PyType};

use super::draining;
use super::reader::StreamReader;
use crate::raw::call::{self, Name};
use crate::raw::cell::ObjCell;
use crate::raw::fastcall::{self, Args, FastMethod};
use crate::raw::fields;
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::raw::public_class::PublicClass;
use crate::raw::{RawResult, to_py};
use crate::runtime::operation;
use crate::tasks::scheduler::LoopRef;
use crate::tasks::wait;
use crate::transports;

static CLOSE: Name = Name::new(c"close");
static GET_EXTRA_INFO: Name = Name::new(c"get_extra_info");
static GET_CLOSE_WAITER: Name = Name::new(c"_get_close_waiter");
static WRITELINES: Name = Name::new(c"writelines");

/// What `hayase.StreamWriter` stands on.
#[pyclass(module = "hayase._core", subclass, frozen)]
pub(crate) struct StreamWriter {
    pub(super) transport: ObjCell,
    pub(super) protocol: ObjCell,
    pub(super) reader: ObjCell,
    event_loop: ObjCell,
    /// `_complete_fut`, once somebody asks for it.
    complete: ObjCell,
}

/// `hayase.StreamWriter`
pub(super) static PUBLIC_CLASS: PublicClass<StreamWriter> = PublicClass::new();

/// The class that servers make writers of, and asyncio's own, whose methods do what is rare.
static WRITER_CLASSES: PyOnceLock<(Py<PyAny>, Py<PyAny>)> = PyOnceLock::new();

/// Told by `python/hayase/streams.py` when it is imported, before anybody can have put ours in asyncio's place.
pub(super) fn set_classes(class: &Bound<'_, PyType>, asyncio_class: &Bound<'_, PyAny>) -> PyResult<()> {
    let _ = WRITER_CLASSES.set(class.py(), (class.clone().into_any().unbind(), asyncio_class.clone().unbind()));
    PUBLIC_CLASS.set(class)
}

fn writer_classes(py: Python<'_>) -> &'static (Py<PyAny>, Py<PyAny>) {
    WRITER_CLASSES.get(py).expect("the package says the classes when it is imported")
}

/// asyncio's own `StreamWriter`.
pub(super) fn asyncio_writer_class(py: Python<'_>) -> &Bound<'_, PyAny> {
    writer_classes(py).1.bind(py)
}

/// Whether `asyncio.StreamReader`, whichever class that is now, would have it for an instance.
#[cold]
fn is_asyncio_reader(reader: &Bound<'_, PyAny>) -> PyResult<bool> {
    reader.is_instance(&reader.py().import("asyncio.streams")?.getattr("StreamReader")?)
}

/// A writer for the callback of a server.
pub(super) fn make(
    py: Python<'_>,
    transport: &Obj,
    protocol: &Bound<'_, PyAny>,
    reader: &Obj,
    event_loop: Option<Obj>,
) -> PyResult<Obj> {
    let event_loop = event_loop.unwrap_or_else(|| Obj::none(py));
    let class = Obj::from_any(writer_classes(py).0.bind(py));
    to_py(py, call::call_n(py, &class, &[transport, &Obj::from_any(protocol), reader, &event_loop]))
}

impl StreamWriter {
    fn cells(&self) -> [&ObjCell; 5] {
        [&self.transport, &self.protocol, &self.reader, &self.event_loop, &self.complete]
    }

    /// None is what a writer has whose `__init__` never ran; calls on it fail as in Python.
    #[inline]
    fn transport(&self, py: Python<'_>) -> Obj {
        self.transport.get().unwrap_or_else(|| Obj::none(py))
    }
}

#[pymethods]
impl StreamWriter {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "(transport, protocol, reader, loop)")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> StreamWriter {
        StreamWriter {
            transport: ObjCell::empty(),
            protocol: ObjCell::empty(),
            reader: ObjCell::empty(),
            event_loop: ObjCell::empty(),
            complete: ObjCell::empty(),
        }
    }

    fn __init__(
        &self,
        transport: &Bound<'_, PyAny>,
        protocol: &Bound<'_, PyAny>,
        reader: &Bound<'_, PyAny>,
        r#loop: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        if !reader.is_instance_of::<StreamReader>() && !reader.is_none() && !is_asyncio_reader(reader)? {
            return Err(PyAssertionError::new_err(()));
        }
        self.transport.set(Some(Obj::from_any(transport)));
        self.protocol.set(Some(Obj::from_any(protocol)));
        self.reader.set(Some(Obj::from_any(reader)));
        self.event_loop.set(Some(Obj::from_any(r#loop)));
        Ok(())
    }

    /// The transport beneath.
    #[getter(transport)]
    fn public_transport(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.transport.get())
    }

    /// Send all items, as one.
    fn writelines(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        to_py(py, call::method(py, &self.transport(py), &WRITELINES, &[&Obj::from_any(data)])).map(drop)
    }

    /// Say end of stream after what is buffered.
    fn write_eof(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.transport(py).borrow(py).call_method0("write_eof").map(Bound::unbind)
    }

    /// Whether write_eof() works.
    fn can_write_eof(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.transport(py).borrow(py).call_method0("can_write_eof").map(Bound::unbind)
    }

    /// Send what is buffered, then close the connection.
    fn close(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        to_py(py, call::method(py, &self.transport(py), &CLOSE, &[])).map(|closed| closed.into_bound(py).unbind())
    }

    /// Whether the connection is closing or closed.
    fn is_closing(&self, py: Python<'_>) -> PyResult<bool> {
        to_py(py, transports::is_closing(py, &self.transport(py)))
    }

    /// What is known of the connection.
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        default: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let default = default.map_or_else(|| Obj::none(py), Obj::from_any);
        let info = call::method(py, &self.transport(py), &GET_EXTRA_INFO, &[&Obj::from_any(name), &default]);
        to_py(py, info).map(|info| info.into_bound(py).unbind())
    }

    /// Wait until the connection is closed.
    fn wait_closed(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let waiting = operation::make(py, &draining::WAIT_CLOSED, Obj::from_any(slf.as_any()), None);
        to_py(py, waiting).map(|waiting| waiting.into_bound(py).unbind())
    }

    /// `__del__`: a writer that is closed has nothing to say; else the running version's words.
    fn _warn_unclosed(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let Some(transport) = this.transport.get() else {
            return Ok(());
        };
        if to_py(py, transports::is_closing(py, &transport))? {
            return Ok(());
        }
        match asyncio_writer_class(py).getattr_opt("__del__")? {
            Some(warn) => warn.call1((slf,)).map(drop),
            None => Ok(()),
        }
    }

    // Private names that asyncio's own methods, programs and tests use

    #[getter]
    fn _complete_fut(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if self.complete.is_none() {
            let event_loop = self.event_loop.get().unwrap_or_else(|| Obj::none(py));
            let complete = to_py(py, wait::create_future(py, &LoopRef::new(event_loop)))?;
            to_py(py, wait::set_result(py, &complete, Obj::none(py)))?;
            self.complete.set(Some(complete));
        }
        Ok(Obj::or_none(py, self.complete.get()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| self.cells().into_iter().for_each(|cell| visitor.cell(cell)))
    }

    fn __clear__(&self) {
        self.cells().into_iter().for_each(|cell| cell.set(None));
    }
}

/// `writer.write(data)`
struct Write;

impl FastMethod<StreamWriter> for Write {
    const NAME: &'static std::ffi::CStr = c"write";
    const DOC: &'static std::ffi::CStr =
        c"write($self, data)\n--\n\nSend data; never blocks. await drain() when there is much of it.";

    fn call(py: Python<'_>, _: &Obj, writer: &StreamWriter, args: &Args<'_>) -> RawResult<Obj> {
        static DATA: Name = Name::new(c"data");
        let data = args.named("StreamWriter.write").only(py, &DATA)?;
        transports::write(py, &writer.transport(py), data)?;
        Ok(Obj::none(py))
    }
}

/// `writer.drain()`
struct Drain;

impl FastMethod<StreamWriter> for Drain {
    const NAME: &'static std::ffi::CStr = c"drain";
    const DOC: &'static std::ffi::CStr = c"drain($self, /)\n--\n\nWait until the transport takes more data.";

    fn call(py: Python<'_>, this: &Obj, _: &StreamWriter, args: &Args<'_>) -> RawResult<Obj> {
        if args.len() > 0 {
            let text = format!("StreamWriter.drain() takes 1 positional argument but {} were given", args.len() + 1);
            return Err(fastcall::type_error(py, text));
        }
        let [] = args.keywords(py, [])?;
        operation::make(py, &draining::DRAIN, this.clone(), None)
    }
}

pub(super) fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<StreamWriter>()?;
    let py = module.py();
    fields::add(py, c"_transport", |writer: &StreamWriter| &writer.transport)?;
    fields::add(py, c"_protocol", |writer: &StreamWriter| &writer.protocol)?;
    fields::add(py, c"_reader", |writer: &StreamWriter| &writer.reader)?;
    fields::add(py, c"_loop", |writer: &StreamWriter| &writer.event_loop)?;
    fastcall::add_method::<StreamWriter, Write>(py)?;
    fastcall::add_method::<StreamWriter, Drain>(py)
}

impl StreamWriter {
    /// The awaitable behind `wait_closed()`.
    pub(super) fn close_waiter(py: Python<'_>, this: &Obj) -> RawResult<Obj> {
        let writer = PUBLIC_CLASS.view(py, this).expect("made by a writer");
        let protocol = writer.protocol.get().unwrap_or_else(|| Obj::none(py));
        call::method(py, &protocol, &GET_CLOSE_WAITER, &[this])
    }
}
