//! `StreamReaderProtocol`: what a transport talks to, and the reader behind it.
//!
//! What runs per packet and per connection is here. The rest (`_replace_transport`, `_drain_helper`, ...) is the running
//! version's own, inherited by the class in `python/hayase/streams.py`; it works on the same attributes, which are
//! getters and setters here.
//!
//! Must stay true
//! - The reader is held weakly, except until a server's callback has it: a stream that nobody holds is freed.
//! - `_closed` is a future only once somebody asks for it.

use pyo3::exceptions::PyAssertionError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyModule, PyTuple};

use super::reader;
use super::writer;
use crate::interop::{imports, log};
use crate::raw::bytes::Bytes;
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::coroutine;
use crate::raw::fields;
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::raw::public_class::PublicClass;
use crate::raw::{RawResult, to_py, weak};
use crate::tasks::scheduler::LoopRef;
use crate::tasks::wait::{self, Ending};
use crate::tasks::{future, linked};
use crate::transports;
use crate::transports::receiver::{self, Context, Native};

static CALL_EXCEPTION_HANDLER: Name = Name::new(c"call_exception_handler");
static CREATE_TASK: Name = Name::new(c"create_task");
static CLOSE: Name = Name::new(c"close");
static FEED_DATA: Name = Name::new(c"feed_data");
static FEED_EOF: Name = Name::new(c"feed_eof");
static SET_EXCEPTION: Name = Name::new(c"set_exception");

/// `hayase.StreamReaderProtocol`
pub(super) static PUBLIC_CLASS: PublicClass<StreamReaderProtocol> = PublicClass::new();

/// What `hayase.StreamReaderProtocol` stands on.
#[pyclass(module = "hayase._core", subclass, frozen)]
pub(crate) struct StreamReaderProtocol {
    event_loop: LoopRef,
    /// A weak reference, or None.
    reader: ObjCell,
    strong_reader: ObjCell,
    client_connected: ObjCell,
    task: ObjCell,
    /// Of the callback's task, for the report about it; kept when the connection is gone.
    task_transport: ObjCell,
    transport: ObjCell,
    /// A deque of futures, once somebody waits for the transport to take more.
    drain_waiters: ObjCell,
    closed: ObjCell,
    /// Why the connection was lost: for `closed`, if it is asked for later.
    lost_error: ObjCell,
    paused: GilValue<bool>,
    connection_lost: GilValue<bool>,
    /// The reader is ours and takes its data natively.
    feeds_natively: GilValue<bool>,
    over_ssl: GilValue<bool>,
    reject_connection: GilValue<bool>,
}

impl StreamReaderProtocol {
    fn cells(&self) -> [&ObjCell; 9] {
        [
            &self.reader,
            &self.strong_reader,
            &self.client_connected,
            &self.task,
            &self.task_transport,
            &self.transport,
            &self.drain_waiters,
            &self.closed,
            &self.lost_error,
        ]
    }

    /// The reader, if it lives.
    #[inline]
    fn live_reader(&self, py: Python<'_>) -> Option<Obj> {
        let reference = self.reader.get().filter(|reference| !reference.is_none())?;
        weak::referent(py, &reference)
    }

    /// Neither waits nor fails: what `drain()` asks first.
    #[inline]
    pub(super) fn may_write(&self) -> bool {
        !self.connection_lost.get() && !self.paused.get()
    }

    /// `data_received`, from a transport that has the bytes at hand.
    #[inline]
    fn receive(&self, py: Python<'_>, data: &[u8], context: Context<'_>) -> RawResult<()> {
        let Some(reader) = self.live_reader(py) else {
            return Ok(());
        };
        if self.feeds_natively.get()
            && let Some(reader) = reader::PUBLIC_CLASS.view(py, &reader)
        {
            // Nothing of the program's runs: a reading that waits is woken through the loop.
            return reader.feed(py, data);
        }
        let data = Bytes::copy(py, data)?;
        context.run(py, || call::method(py, &reader, &FEED_DATA, &[data.as_obj()]).map(drop))
    }

    fn debug_log(this: &Bound<'_, Self>, text: &str) -> PyResult<()> {
        let py = this.py();
        let debug = match this.get().event_loop.scheduler() {
            Some(scheduler) => scheduler.debug.get(),
            None => match this.get().event_loop.object() {
                Some(event_loop) => event_loop.borrow(py).call_method0("get_debug")?.is_truthy()?,
                None => false,
            },
        };
        if debug {
            log::logger(py)?.call_method1("debug", (text, this))?;
        }
        Ok(())
    }

    fn report(&self, py: Python<'_>, message: &str, entries: &[(&str, &Bound<'_, PyAny>)]) -> PyResult<()> {
        let report = PyDict::new(py);
        report.set_item("message", message)?;
        for (key, value) in entries {
            report.set_item(key, value)?;
        }
        let event_loop = self.event_loop.object().unwrap_or_else(|| Obj::none(py));
        let report = Obj::from_any(report.as_any());
        to_py(py, call::method(py, &event_loop, &CALL_EXCEPTION_HANDLER, &[&report])).map(drop)
    }

    /// Wakes who waits in `drain()`: with a result, or the error of a lost connection.
    fn wake_drain_waiters(&self, py: Python<'_>, error: Option<&Obj>) -> PyResult<()> {
        let Some(waiters) = self.drain_waiters.get() else {
            return Ok(());
        };
        for waiter in waiters.borrow(py).try_iter()? {
            to_py(py, wait::settle(py, &Obj::from_bound(waiter?), ended(py, error)))?;
        }
        Ok(())
    }
}

#[pymethods]
impl StreamReaderProtocol {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "(stream_reader, client_connected_cb=None, loop=None)")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> StreamReaderProtocol {
        StreamReaderProtocol {
            event_loop: LoopRef::unset(),
            reader: ObjCell::empty(),
            strong_reader: ObjCell::empty(),
            client_connected: ObjCell::empty(),
            task: ObjCell::empty(),
            task_transport: ObjCell::empty(),
            transport: ObjCell::empty(),
            drain_waiters: ObjCell::empty(),
            closed: ObjCell::empty(),
            lost_error: ObjCell::empty(),
            paused: GilValue::new(false),
            connection_lost: GilValue::new(false),
            feeds_natively: GilValue::new(false),
            over_ssl: GilValue::new(false),
            reject_connection: GilValue::new(false),
        }
    }

    #[pyo3(signature = (stream_reader, client_connected_cb=None, r#loop=None))]
    fn __init__(
        slf: &Bound<'_, Self>,
        stream_reader: &Bound<'_, PyAny>,
        client_connected_cb: Option<&Bound<'_, PyAny>>,
        r#loop: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let event_loop = future::loop_or_current(py, r#loop.map(Obj::from_any))?;
        this.event_loop.set(&LoopRef::new(event_loop));
        if !stream_reader.is_none() {
            let reader = Obj::from_any(stream_reader);
            this.reader.set(Some(to_py(py, weak::make(py, &reader))?));
            this.feeds_natively.set(reader::feeds_natively(stream_reader));
            let origin = stream_reader.getattr(pyo3::intern!(py, "_source_traceback"))?;
            if !origin.is_none() {
                slf.setattr("_source_traceback", origin)?;
            }
            if client_connected_cb.is_some() {
                this.strong_reader.set(Some(reader));
            }
        }
        this.client_connected.set(client_connected_cb.map(Obj::from_any));
        Ok(())
    }

    fn connection_made(slf: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if this.reject_connection.get() {
            let message = "An open stream was garbage collected prior to establishing network connection; \
                           call \"stream.close()\" explicitly.";
            let origin = slf.getattr("_source_traceback")?;
            let entries: &[(&str, &Bound<'_, PyAny>)] =
                if origin.is_none() { &[] } else { &[("source_traceback", &origin)] };
            this.report(py, message, entries)?;
            transport.call_method0("abort")?;
            return Ok(());
        }
        let transport_object = Obj::from_any(transport);
        this.transport.set(Some(transport_object.clone()));
        let reader = this.live_reader(py);
        if let Some(reader) = &reader {
            match reader::PUBLIC_CLASS.view(py, reader) {
                Some(native) => native.set_transport(&transport_object)?,
                None => drop(reader.borrow(py).call_method1("set_transport", (transport,))?),
            }
        }
        this.over_ssl.set(transports::is_over_ssl(transport)?);
        let Some(client_connected) = this.client_connected.get() else {
            return Ok(());
        };
        let reader = reader.unwrap_or_else(|| Obj::none(py));
        let writer = writer::make(py, &transport_object, slf.as_any(), &reader, this.event_loop.object())?;
        let called = to_py(py, call::call_n(py, &client_connected, &[&reader, &writer]));
        drop(reader);
        drop(writer);
        this.strong_reader.set(None);
        let result = match called {
            Ok(result) => result,
            Err(err) if err.is_instance_of::<pyo3::exceptions::PyException>(py) => {
                let error = err.into_value(py).into_bound(py);
                let entries = [("exception", error.as_any()), ("transport", transport)];
                this.report(py, "Unhandled exception in client_connected_cb", &entries)?;
                transport.call_method0("close")?;
                return Ok(());
            }
            Err(err) => return Err(err),
        };
        if coroutine::is_native(&result) || imports::is_coroutine(py)?.call1((result.borrow(py),))?.is_truthy()? {
            let event_loop = this.event_loop.object().unwrap_or_else(|| Obj::none(py));
            let task = to_py(py, call::method(py, &event_loop, &CREATE_TASK, &[&result]))?;
            this.task.set(Some(task.clone()));
            this.task_transport.set(Some(transport_object));
            let this = Obj::from_any(slf.as_any());
            to_py(py, linked::tell(py, &task, &this))?;
        }
        Ok(())
    }

    /// The task of the server's callback has ended.
    fn _future_done(&self, py: Python<'_>, task: &Bound<'_, PyAny>) -> PyResult<()> {
        let transport = self.task_transport.take().unwrap_or_else(|| Obj::none(py));
        match to_py(py, wait::ending(py, &Obj::from_any(task)))? {
            Ending::Value(_) => return Ok(()),
            Ending::Error(error) => {
                let (error, shown) = (error.into_bound(py), transport.clone().into_bound(py));
                let entries = [("exception", &error), ("transport", &shown)];
                self.report(py, "Unhandled exception in client_connected_cb", &entries)?;
            }
            Ending::Cancelled => {}
        }
        to_py(py, call::method(py, &transport, &CLOSE, &[])).map(drop)
    }

    fn data_received(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let Some(reader) = self.live_reader(py) else {
            return Ok(());
        };
        to_py(py, call::method(py, &reader, &FEED_DATA, &[&Obj::from_any(data)])).map(drop)
    }

    fn eof_received(&self, py: Python<'_>) -> PyResult<bool> {
        if let Some(reader) = self.live_reader(py) {
            to_py(py, call::method(py, &reader, &FEED_EOF, &[]))?;
        }
        // Over TLS the connection cannot stay half open, and saying so would earn a warning.
        Ok(!self.over_ssl.get())
    }

    #[pyo3(name = "connection_lost")]
    fn connection_lost_called(&self, py: Python<'_>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        let error = (!exc.is_none()).then(|| Obj::from_any(exc));
        if let Some(reader) = self.live_reader(py) {
            let told = match &error {
                None => call::method(py, &reader, &FEED_EOF, &[]),
                Some(error) => call::method(py, &reader, &SET_EXCEPTION, &[error]),
            };
            to_py(py, told)?;
        }
        self.lost_error.set(error.clone());
        if let Some(closed) = self.closed.get() {
            to_py(py, wait::settle(py, &closed, ended(py, error.as_ref())))?;
        }
        self.connection_lost.set(true);
        if self.paused.get() {
            self.wake_drain_waiters(py, error.as_ref())?;
        }
        self.reader.set(None);
        self.task.set(None);
        self.transport.set(None);
        Ok(())
    }

    fn pause_writing(slf: &Bound<'_, Self>) -> PyResult<()> {
        if slf.get().paused.replace(true) {
            return Err(PyAssertionError::new_err(()));
        }
        Self::debug_log(slf, "%r pauses writing")
    }

    fn resume_writing(slf: &Bound<'_, Self>) -> PyResult<()> {
        if !slf.get().paused.replace(false) {
            return Err(PyAssertionError::new_err(()));
        }
        Self::debug_log(slf, "%r resumes writing")?;
        slf.get().wake_drain_waiters(slf.py(), None)
    }

    fn _get_close_waiter(&self, py: Python<'_>, stream: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let _ = stream;
        self._closed(py)
    }

    #[getter]
    fn _closed(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if let Some(closed) = self.closed.get() {
            return Ok(closed.into_bound(py).unbind());
        }
        let closed = to_py(py, wait::create_future(py, &self.event_loop))?;
        self.closed.set(Some(closed.clone()));
        if self.connection_lost.get() {
            to_py(py, wait::settle(py, &closed, ended(py, self.lost_error.get().as_ref())))?;
        }
        Ok(closed.into_bound(py).unbind())
    }

    #[setter(_closed)]
    fn set_closed(&self, closed: &Bound<'_, PyAny>) {
        self.closed.set(Some(Obj::from_any(closed)));
    }

    /// Nobody needs to hear of the exception of a connection that nobody waits for.
    fn _forget_closed(&self, py: Python<'_>) -> PyResult<()> {
        let Some(closed) = self.closed.get() else {
            return Ok(());
        };
        if to_py(py, wait::is_done(py, &closed))? {
            to_py(py, wait::ending(py, &closed))?;
        }
        Ok(())
    }

    // Private names that asyncio's own methods, programs and tests use

    #[getter]
    fn _stream_reader_wr(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.reader.get())
    }

    #[setter(_stream_reader_wr)]
    fn set_stream_reader_wr(&self, reference: &Bound<'_, PyAny>) {
        self.reader.set(Some(Obj::from_any(reference)));
        self.feeds_natively.set(false);
    }

    #[getter]
    fn _stream_reader(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.live_reader(py))
    }

    #[getter]
    fn _drain_waiters(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if self.drain_waiters.is_none() {
            let deque = py.import("collections")?.getattr("deque")?.call0()?;
            self.drain_waiters.set(Some(Obj::from_bound(deque)));
        }
        Ok(Obj::or_none(py, self.drain_waiters.get()))
    }

    #[setter(_drain_waiters)]
    fn set_drain_waiters(&self, waiters: &Bound<'_, PyAny>) {
        self.drain_waiters.set(Some(Obj::from_any(waiters)));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| {
            self.event_loop.visit(visitor);
            self.cells().into_iter().for_each(|cell| visitor.cell(cell));
        })
    }

    fn __clear__(&self) {
        self.event_loop.clear();
        self.cells().into_iter().for_each(|cell| cell.set(None));
    }
}

/// What those who wait for a connection's end are told.
fn ended(py: Python<'_>, error: Option<&Obj>) -> Result<Obj, Obj> {
    error.map_or_else(|| Ok(Obj::none(py)), |error| Err(error.clone()))
}

/// How transports feed it.
static RECEIVER: Native = Native {
    recognises: |protocol| {
        static DATA_RECEIVED: Name = Name::new(c"data_received");
        protocol.is_instance_of::<StreamReaderProtocol>() && receiver::is_native_method(protocol, &DATA_RECEIVED)
    },
    data_received: |py, protocol, data, context| {
        PUBLIC_CLASS.view(py, protocol).expect("the receiver says that it is one").receive(py, data, context)
    },
    callback: "data_received",
};

pub(super) fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<StreamReaderProtocol>()?;
    receiver::set_streams(&RECEIVER);
    add_private_names(module.py())
}

/// What asyncio's own methods, programs and tests use besides the getters above.
fn add_private_names(py: Python<'_>) -> PyResult<()> {
    type Protocol = StreamReaderProtocol;
    fields::add(py, c"_loop", |protocol: &Protocol| &protocol.event_loop)?;
    fields::add(py, c"_strong_reader", |protocol: &Protocol| &protocol.strong_reader)?;
    fields::add(py, c"_client_connected_cb", |protocol: &Protocol| &protocol.client_connected)?;
    fields::add(py, c"_task", |protocol: &Protocol| &protocol.task)?;
    fields::add(py, c"_transport", |protocol: &Protocol| &protocol.transport)?;
    fields::add(py, c"_over_ssl", |protocol: &Protocol| &protocol.over_ssl)?;
    fields::add(py, c"_reject_connection", |protocol: &Protocol| &protocol.reject_connection)?;
    fields::add(py, c"_paused", |protocol: &Protocol| &protocol.paused)?;
    fields::add(py, c"_connection_lost", |protocol: &Protocol| &protocol.connection_lost)?;
    Ok(())
}
