//! The TLS layer of one connection: its state, and its lower face, which is a protocol to the transport below.
//!
//! To a `StreamTransport` of ours the layer is a native receiver (`receiver.rs`): ciphertext comes as a slice. To any
//! other transport it is an `asyncio.BufferedProtocol`, so it also works over a foreign transport and over itself.
//!
//! Must stay true
//! - No cell is open while Python code runs; after each call into the engine or the program the state is looked at anew.
//! - What the program wrote before the handshake was done waits in `backlog`, copied if it is mutable.

use std::collections::VecDeque;

use pyo3::exceptions::{PyException, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyDict, PyMemoryView};

use super::engine::Engine;
use super::transport::TlsTransport;
use super::{below, failure, handshake, incoming, outgoing};
use crate::interop::{imports, log};
use crate::raw::bytes::{self, Bytes};
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilCell, GilValue, ObjCell};
use crate::raw::collector;
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_py, to_raw};
use crate::runtime::RuntimeRef;
use crate::transports::marks;
use crate::transports::receiver::Receiver;
use crate::transports::stream::StreamTransport;

static CLOSE: Name = Name::new(c"close");
static CANCEL: Name = Name::new(c"cancel");
static CONNECTION_LOST: Name = Name::new(c"connection_lost");
static CALL_SOON: Name = Name::new(c"call_soon");

/// asyncio's `constants.SSL_HANDSHAKE_TIMEOUT` and `SSL_SHUTDOWN_TIMEOUT`.
const HANDSHAKE_SECONDS: f64 = 60.0;
const SHUTDOWN_SECONDS: f64 = 30.0;

/// asyncio's `constants.FLOW_CONTROL_HIGH_WATER_SSL_READ` and `FLOW_CONTROL_HIGH_WATER_SSL_WRITE`.
const READ_HIGH_BYTES: usize = 256 * 1024;
const WRITE_HIGH_BYTES: usize = 512 * 1024;

/// What `get_buffer` offers to a foreign transport.
const BUFFER_BYTES: usize = 256 * 1024;

pub(super) const PROTOCOL_FAILED: &str = "Fatal error on SSL protocol";
pub(super) const TRANSPORT_FAILED: &str = "Fatal error on transport";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Unwrapped,
    Handshaking,
    Wrapped,
    /// The program closed, or the peer ended: what is left goes both ways.
    Flushing,
    /// close_notify is exchanged.
    Shutdown,
}

/// What the program's protocol was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    Nothing,
    Made,
    Eof,
    Lost,
}

/// The TLS layer of one connection.
#[pyclass(module = "hayase._core", frozen, weakref, dict)]
pub(crate) struct TlsProtocol {
    pub(super) runtime: RuntimeRef,
    pub(super) engine: Engine,
    context: ObjCell,
    server_side: bool,
    pub(super) app_protocol: ObjCell,
    pub(super) app_receiver: GilValue<Receiver>,
    pub(crate) app_transport: ObjCell,
    /// The transport below.
    pub(super) below: ObjCell,
    /// It is a `StreamTransport`.
    pub(super) below_is_native: GilValue<bool>,
    /// A future that the handshake resolves.
    pub(super) waiter: ObjCell,
    /// Nobody waits: a server accepted it. A failure is told in debug mode.
    pub(super) accepted: GilValue<bool>,
    pub(super) state: GilValue<State>,
    pub(super) told: GilValue<Told>,
    /// Numbers of seconds, as the program gave them.
    pub(super) handshake_timeout: ObjCell,
    pub(super) shutdown_timeout: ObjCell,
    pub(super) timer: ObjCell,
    pub(super) began_seconds: GilValue<f64>,
    /// Plaintext that the engine did not take yet.
    pub(super) backlog: GilCell<VecDeque<Bytes>>,
    pub(super) backlog_bytes: GilValue<usize>,
    /// Counts writes after the end.
    pub(super) conn_lost: GilValue<u32>,
    pub(super) eof_received: GilValue<bool>,
    pub(super) handshake_done: GilValue<bool>,
    pub(super) reading_paused: GilValue<bool>,
    pub(super) reading_paused_below: GilValue<bool>,
    pub(super) writing_paused: GilValue<bool>,
    pub(super) writing_paused_below: GilValue<bool>,
    /// (low, high)
    pub(super) read_marks: GilValue<(usize, usize)>,
    pub(super) write_marks: GilValue<(usize, usize)>,
    /// What `get_extra_info` computed.
    extra: ObjCell,
    /// For `get_buffer`.
    buffer: ObjCell,
}

/// What a layer is made of.
pub(crate) struct Parts<'a, 'py> {
    pub(crate) app_protocol: &'a Bound<'py, PyAny>,
    /// None or something false: the default context for clients.
    pub(crate) context: Option<&'a Bound<'py, PyAny>>,
    pub(crate) server_side: bool,
    pub(crate) server_hostname: Option<&'a Bound<'py, PyAny>>,
    pub(crate) handshake_timeout: Option<&'a Bound<'py, PyAny>>,
    pub(crate) shutdown_timeout: Option<&'a Bound<'py, PyAny>>,
    pub(crate) waiter: Option<Obj>,
    /// The connection comes from a server, which does not wait.
    pub(crate) accepted: bool,
    /// Whether the protocol has to be told that it is connected.
    pub(crate) call_connection_made: bool,
}

/// Makes the layer with its upper face; it begins when `connection_made(transport below)` is called.
pub(crate) fn make<'py>(
    py: Python<'py>,
    runtime: &RuntimeRef,
    parts: Parts<'_, 'py>,
) -> PyResult<Bound<'py, TlsProtocol>> {
    let handshake_timeout = timeout(py, "ssl_handshake_timeout", parts.handshake_timeout, HANDSHAKE_SECONDS)?;
    let shutdown_timeout = timeout(py, "ssl_shutdown_timeout", parts.shutdown_timeout, SHUTDOWN_SECONDS)?;
    let hostname = match parts.server_hostname {
        Some(name) if !parts.server_side && name.is_truthy()? => Some(name),
        Some(_) | None => None,
    };
    let context = match parts.context {
        Some(context) if context.is_truthy()? => context.clone(),
        Some(_) | None => default_context(py, parts.server_side, hostname.is_some())?,
    };
    let engine = Engine::new(&context, parts.server_side, hostname)?;
    let layer = collector::instance_with_dict(
        py,
        TlsProtocol {
            runtime: runtime.clone(),
            engine,
            context: ObjCell::new(Some(Obj::from_bound(context))),
            server_side: parts.server_side,
            app_protocol: ObjCell::new(Some(Obj::from_any(parts.app_protocol))),
            app_receiver: GilValue::new(Receiver::of(parts.app_protocol)?),
            app_transport: ObjCell::empty(),
            below: ObjCell::empty(),
            below_is_native: GilValue::new(false),
            waiter: ObjCell::new(parts.waiter),
            accepted: GilValue::new(parts.accepted),
            state: GilValue::new(State::Unwrapped),
            told: GilValue::new(if parts.call_connection_made { Told::Nothing } else { Told::Made }),
            handshake_timeout: ObjCell::new(Some(handshake_timeout)),
            shutdown_timeout: ObjCell::new(Some(shutdown_timeout)),
            timer: ObjCell::empty(),
            began_seconds: GilValue::new(0.0),
            backlog: GilCell::new(VecDeque::new()),
            backlog_bytes: GilValue::new(0),
            conn_lost: GilValue::new(0),
            eof_received: GilValue::new(false),
            handshake_done: GilValue::new(false),
            reading_paused: GilValue::new(false),
            reading_paused_below: GilValue::new(false),
            writing_paused: GilValue::new(false),
            writing_paused_below: GilValue::new(false),
            read_marks: GilValue::new((READ_HIGH_BYTES / 4, READ_HIGH_BYTES)),
            write_marks: GilValue::new((WRITE_HIGH_BYTES / 4, WRITE_HIGH_BYTES)),
            extra: ObjCell::empty(),
            buffer: ObjCell::empty(),
        },
    )?;
    let transport = collector::instance_with_dict(py, TlsTransport::new(&layer))?;
    layer.get().app_transport.set(Some(Obj::from_bound(transport)));
    Ok(layer)
}

fn timeout(py: Python<'_>, name: &str, given: Option<&Bound<'_, PyAny>>, default: f64) -> PyResult<Obj> {
    let Some(given) = given else {
        return Ok(Obj::from_bound(pyo3::types::PyFloat::new(py, default)));
    };
    if given.le(0)? {
        return Err(PyValueError::new_err(format!("{name} should be a positive number, got {}", given.str()?)));
    }
    Ok(Obj::from_any(given))
}

fn default_context(py: Python<'_>, server_side: bool, has_hostname: bool) -> PyResult<Bound<'_, PyAny>> {
    if server_side {
        return Err(PyValueError::new_err("Server side SSL needs a valid SSLContext"));
    }
    let context = py.import("ssl")?.call_method0("create_default_context")?;
    if !has_hostname {
        context.setattr("check_hostname", false)?;
    }
    Ok(context)
}

/// The limits (low, high) that the program asks for; what is missing is four times or a quarter of the other.
pub(super) fn marks(
    high: Option<&Bound<'_, PyAny>>,
    low: Option<&Bound<'_, PyAny>>,
    default_high: usize,
) -> PyResult<(usize, usize)> {
    Ok(marks::of(high, low)?.unwrap_or((default_high / 4, default_high)))
}

// What the layer does with the transport below

/// Ciphertext that came before the layer was there; used when the handshake begins.
pub(crate) fn feed(this: &Bound<'_, TlsProtocol>, ciphertext: &[u8]) -> RawResult<()> {
    this.get().engine.feed(this.py(), ciphertext)
}

/// Ciphertext from a `StreamTransport`.
pub(crate) fn data_received(this: &Bound<'_, TlsProtocol>, ciphertext: &[u8]) -> RawResult<()> {
    if this.get().state.get() == State::Wrapped {
        return incoming::read_lent(this, ciphertext);
    }
    this.get().engine.feed(this.py(), ciphertext)?;
    ciphertext_came(this)
}

fn ciphertext_came(this: &Bound<'_, TlsProtocol>) -> RawResult<()> {
    match this.get().state.get() {
        State::Handshaking => handshake::proceed(this),
        State::Wrapped => incoming::read(this),
        State::Flushing => handshake::flush(this),
        State::Shutdown => handshake::shut_down(this),
        State::Unwrapped => Ok(()),
    }
}

impl TlsProtocol {
    pub(super) fn cancel_timer(&self, py: Python<'_>) -> RawResult<()> {
        match self.timer.take() {
            Some(timer) => call::method(py, &timer, &CANCEL, &[]).map(drop),
            None => Ok(()),
        }
    }

    /// The program's transport must not complain when it is dropped.
    pub(super) fn mark_closed(&self, py: Python<'_>) {
        if let Some(transport) = self.app_transport.get()
            && let Ok(transport) = transport.borrow(py).cast::<TlsTransport>()
        {
            transport.get().closed.set(true);
        }
    }

    pub(super) fn set_app_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        self.app_receiver.set(Receiver::of(protocol)?);
        self.app_protocol.set(Some(Obj::from_any(protocol)));
        Ok(())
    }

    pub(super) fn app_transport(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.app_transport.get())
    }

    /// For the `StreamTransport` below, when it is flushed.
    pub(crate) fn take_ciphertext_with<R>(&self, py: Python<'_>, f: impl FnOnce(&[u8]) -> R) -> RawResult<Option<R>> {
        self.engine.take_ciphertext_with(py, f)
    }

    fn known<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        if let Some(dict) = self.extra.get() {
            return Ok(dict.into_bound(py).cast_into()?);
        }
        let dict = PyDict::new(py);
        dict.set_item("sslcontext", Obj::or_none(py, self.context.get()))?;
        self.extra.set(Some(Obj::from_any(dict.as_any())));
        Ok(dict)
    }

    /// What the layer itself knows; asked of the `SSLObject` when it is asked for first.
    fn known_item<'py>(&self, py: Python<'py>, name: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let known = self.known(py)?;
        if let Some(value) = known.get_item(name)? {
            return Ok(Some(value));
        }
        let (true, Ok(text)) = (self.handshake_done.get(), name.extract::<&str>()) else {
            return Ok(None);
        };
        let ssl_object = self.engine.ssl_object(py).into_bound(py);
        let value = match text {
            "ssl_object" => ssl_object,
            "peercert" => ssl_object.call_method0("getpeercert")?,
            "cipher" => ssl_object.call_method0("cipher")?,
            "compression" => ssl_object.call_method0("compression")?,
            _ => return Ok(None),
        };
        known.set_item(name, &value)?;
        Ok(Some(value))
    }

    pub(super) fn extra_info(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        if let Some(value) = self.known_item(py, name)? {
            return Ok(value.unbind());
        }
        let default = default.unwrap_or_else(|| py.None());
        match self.below.get() {
            Some(below) => Ok(below.borrow(py).call_method1("get_extra_info", (name, default))?.unbind()),
            None => Ok(default),
        }
    }
}

/// `call_soon(callback, *args)`
pub(super) fn call_soon(this: &Bound<'_, TlsProtocol>, callback: &Obj, args: &[&Obj]) -> RawResult<()> {
    let py = this.py();
    let event_loop = this.get().runtime.object();
    match args {
        [] => call::method(py, event_loop, &CALL_SOON, &[callback]).map(drop),
        [one] => call::method(py, event_loop, &CALL_SOON, &[callback, one]).map(drop),
        [..] => unreachable!("at most one argument"),
    }
}

fn connection_lost(this: &Bound<'_, TlsProtocol>, error: &Bound<'_, PyAny>) -> RawResult<()> {
    let py = this.py();
    let layer = this.get();
    drop(layer.backlog.with(py, std::mem::take));
    layer.backlog_bytes.set(0);
    drop(layer.engine.take_ciphertext(py)?);
    layer.conn_lost.set(layer.conn_lost.get().saturating_add(1));
    layer.mark_closed(py);
    if layer.state.get() != State::Handshaking
        && matches!(layer.told.get(), Told::Made | Told::Eof)
        && let Some(protocol) = layer.app_protocol.get()
    {
        layer.told.set(Told::Lost);
        let callback = call::getattr(py, &protocol, &CONNECTION_LOST)?;
        call_soon(this, &callback, &[&Obj::from_any(error)])?;
    }
    layer.state.set(State::Unwrapped);
    drop(layer.below.take());
    drop(layer.app_transport.take());
    drop(layer.app_protocol.take());
    drop(layer.buffer.take());
    layer.cancel_timer(py)?;
    failure::wake_waiter(this, (!error.is_none()).then_some(error))
}

fn eof_received(this: &Bound<'_, TlsProtocol>) -> RawResult<bool> {
    let py = this.py();
    let layer = this.get();
    layer.eof_received.set(true);
    let ended = (|| {
        if layer.runtime.scheduler.debug.get() {
            to_raw(py, log::logger(py).and_then(|logger| logger.call_method1("debug", ("%r received EOF", this))))?;
        }
        match layer.state.get() {
            State::Handshaking => {
                let reset = PyErr::new::<pyo3::exceptions::PyConnectionResetError, _>(());
                handshake::complete(this, Err(reset))?;
            }
            State::Wrapped => {
                layer.state.set(State::Flushing);
                if layer.reading_paused.get() {
                    // What was received before the end is still to be read.
                    return Ok(true);
                }
                handshake::flush(this)?;
            }
            State::Flushing => {
                outgoing::write_backlog(this)?;
                layer.state.set(State::Shutdown);
                handshake::shut_down(this)?;
            }
            State::Shutdown => handshake::shut_down(this)?,
            State::Unwrapped => {}
        }
        Ok(false)
    })();
    match ended {
        Ok(keep_open) => Ok(keep_open),
        Err(raised) => {
            let err = Raised::fetch(raised, py);
            if err.is_instance_of::<PyException>(py) {
                below::tell_below(this, &CLOSE)?;
            }
            Err(Raised::from_err(py, err))
        }
    }
}

#[pymethods]
impl TlsProtocol {
    /// isinstance(protocol, asyncio.BufferedProtocol)
    #[getter(__class__)]
    fn class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Ok(imports::ssl_protocol_class(slf.py())?.clone())
    }

    /// The transport below is connected: begin the handshake.
    fn connection_made(slf: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        let layer = slf.get();
        layer.below_is_native.set(transport.is_exact_instance_of::<StreamTransport>());
        layer.below.set(Some(Obj::from_any(transport)));
        to_py(slf.py(), handshake::start(slf))
    }

    /// The transport below is closed.
    fn connection_lost(slf: &Bound<'_, Self>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        // Some pass the class.
        to_py(slf.py(), connection_lost(slf, exc))
    }

    /// For transports that are not ours: a buffer for ciphertext.
    fn get_buffer<'py>(&self, py: Python<'py>, _n: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if let Some(view) = self.buffer.get() {
            return Ok(view.into_bound(py));
        }
        let buffer = PyByteArray::new_with(py, BUFFER_BYTES, |_| Ok(()))?;
        let view = PyMemoryView::from(buffer.as_any())?;
        self.buffer.set(Some(Obj::from_any(view.as_any())));
        Ok(view.into_any())
    }

    /// Ciphertext lies in the buffer.
    fn buffer_updated(slf: &Bound<'_, Self>, nbytes: usize) -> PyResult<()> {
        let py = slf.py();
        let layer = slf.get();
        if let Some(view) = layer.buffer.get() {
            let ciphertext =
                bytes::with_buffer(py, &view, |memory| Bytes::copy(py, &memory[..nbytes.min(memory.len())]));
            let ciphertext = to_py(py, ciphertext.and_then(|copied| copied))?;
            to_py(py, layer.engine.feed(py, ciphertext.as_ref()))?;
        }
        to_py(py, ciphertext_came(slf))
    }

    /// Ciphertext, from a transport that does not know buffered protocols.
    fn data_received(slf: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let data = to_py(py, Bytes::from_buffer(py, &Obj::from_any(data)))?;
        to_py(py, data_received(slf, data.as_ref()))
    }

    /// The transport below has come to its end.
    fn eof_received(slf: &Bound<'_, Self>) -> PyResult<bool> {
        to_py(slf.py(), eof_received(slf))
    }

    /// The transport below has too much to send.
    fn pause_writing(&self) -> PyResult<()> {
        if self.writing_paused_below.replace(true) {
            return Err(pyo3::exceptions::PyAssertionError::new_err(()));
        }
        Ok(())
    }

    /// The transport below sends again.
    fn resume_writing(slf: &Bound<'_, Self>) -> PyResult<()> {
        if !slf.get().writing_paused_below.replace(false) {
            return Err(pyo3::exceptions::PyAssertionError::new_err(()));
        }
        to_py(slf.py(), outgoing::send_ciphertext(slf))
    }

    // Called by the loop for the layer itself

    fn _check_handshake_timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        to_py(slf.py(), handshake::timed_out(slf))
    }

    fn _check_shutdown_timeout(slf: &Bound<'_, Self>) -> PyResult<()> {
        to_py(slf.py(), handshake::shutdown_timed_out(slf))
    }

    fn _do_read(slf: &Bound<'_, Self>) -> PyResult<()> {
        to_py(slf.py(), incoming::read(slf))
    }

    fn _resume(slf: &Bound<'_, Self>) -> PyResult<()> {
        to_py(slf.py(), incoming::resume(slf))
    }

    // Private names that programs and asyncio's own tests use

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.runtime.object().clone().into_bound(py).unbind()
    }

    #[getter]
    fn _transport(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.below.get())
    }

    #[getter]
    fn _app_protocol(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.app_protocol.get())
    }

    #[getter]
    fn _app_transport(&self, py: Python<'_>) -> Py<PyAny> {
        self.app_transport(py)
    }

    #[getter]
    fn _sslcontext(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.context.get())
    }

    #[getter]
    fn _sslobj(&self, py: Python<'_>) -> Py<PyAny> {
        self.engine.ssl_object(py).into_bound(py).unbind()
    }

    #[setter(_sslobj)]
    fn set_sslobj(&self, object: &Bound<'_, PyAny>) {
        self.engine.replace_ssl_object(Obj::from_any(object));
    }

    #[getter]
    fn _server_side(&self) -> bool {
        self.server_side
    }

    #[getter]
    fn _app_reading_paused(&self) -> bool {
        self.reading_paused.get()
    }

    #[getter]
    fn _app_writing_paused(&self) -> bool {
        self.writing_paused.get()
    }

    #[getter]
    fn _ssl_reading_paused(&self) -> bool {
        self.reading_paused_below.get()
    }

    #[getter]
    fn _ssl_writing_paused(&self) -> bool {
        self.writing_paused_below.get()
    }

    #[getter]
    fn _extra<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        for name in ["peercert", "cipher", "compression", "ssl_object"] {
            self.known_item(py, pyo3::types::PyString::new(py, name).as_any())?;
        }
        self.known(py)
    }

    #[pyo3(signature = (name, default=None))]
    fn _get_extra_info(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        self.extra_info(py, name, default)
    }

    #[pyo3(signature = (exc, message=TRANSPORT_FAILED))]
    fn _fatal_error(slf: &Bound<'_, Self>, exc: &Bound<'_, PyAny>, message: &str) -> PyResult<()> {
        let py = slf.py();
        if exc.is_none() {
            return to_py(py, below::force_close(slf, None));
        }
        to_py(py, failure::fatal_error(slf, &PyErr::from_value(exc.clone()), message))
    }

    fn _abort(slf: &Bound<'_, Self>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        let err = (!exc.is_none()).then(|| PyErr::from_value(exc.clone()));
        to_py(slf.py(), handshake::abort(slf, err.as_ref()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| {
            self.runtime.visit(visitor);
            self.engine.visit(visitor);
            self.cells().into_iter().for_each(|cell| visitor.cell(cell));
            self.backlog.peek(|backlog| backlog.iter().for_each(|chunk| visitor.obj(chunk.as_obj())));
        })
    }

    fn __clear__(&self) {
        for cell in self.cells() {
            cell.set(None);
        }
    }
}

impl TlsProtocol {
    fn cells(&self) -> [&ObjCell; 10] {
        [
            &self.handshake_timeout,
            &self.shutdown_timeout,
            &self.context,
            &self.app_protocol,
            &self.app_transport,
            &self.below,
            &self.waiter,
            &self.timer,
            &self.extra,
            &self.buffer,
        ]
    }
}
