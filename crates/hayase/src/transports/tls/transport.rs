//! The upper face of the TLS layer: the `asyncio.Transport` that the program's protocol gets.

use pyo3::exceptions::{PyNotImplementedError, PyResourceWarning, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use super::protocol::{self, TlsProtocol};
use super::{handshake, incoming, outgoing};
use crate::interop::imports;
use crate::raw::bytes::{self, Bytes};
use crate::raw::call::Name;
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::compat;
use crate::raw::fastcall;
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_py, to_raw};

/// asyncio's `constants.FLOW_CONTROL_HIGH_WATER_SSL_READ` and `FLOW_CONTROL_HIGH_WATER_SSL_WRITE`.
const READ_HIGH_BYTES: usize = 256 * 1024;
const WRITE_HIGH_BYTES: usize = 512 * 1024;

/// An asyncio.Transport over TLS. Python sees asyncio's name: programs ask `type(transport).__name__` whether they have TLS.
#[pyclass(name = "_SSLProtocolTransport", module = "hayase._core", frozen, weakref, dict)]
pub(crate) struct TlsTransport {
    layer: ObjCell,
    pub(super) closed: GilValue<bool>,
}

impl TlsTransport {
    pub(super) fn new(layer: &Bound<'_, TlsProtocol>) -> TlsTransport {
        TlsTransport { layer: ObjCell::new(Some(Obj::from_any(layer.as_any()))), closed: GilValue::new(false) }
    }

    /// `None` after `close()` was called once more, or when the collector has been here: nothing is left to do then.
    fn layer<'py>(&self, py: Python<'py>) -> Option<Bound<'py, TlsProtocol>> {
        self.layer.get().and_then(|layer| layer.into_bound(py).cast_into().ok())
    }

    /// Runs `f` on the layer, if it is there.
    fn with_layer<R: Default>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&Bound<'_, TlsProtocol>) -> PyResult<R>,
    ) -> PyResult<R> {
        self.layer(py).map_or_else(|| Ok(R::default()), |layer| f(&layer))
    }
}

#[pymethods]
impl TlsTransport {
    #[classattr]
    #[pyo3(name = "_start_tls_compatible")]
    const START_TLS_COMPATIBLE: bool = true;

    /// isinstance(transport, asyncio.Transport)
    #[getter(__class__)]
    fn class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Ok(imports::ssl_transport_class(slf.py())?.clone())
    }

    /// What is known of the connection: 'ssl_object', 'peercert', 'cipher', 'compression', 'sslcontext', and what the
    /// transport below knows.
    #[pyo3(signature = (name, default=None))]
    fn get_extra_info(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        match self.layer(py) {
            Some(layer) => layer.get().extra_info(py, name, default),
            None => Ok(default.unwrap_or_else(|| py.None())),
        }
    }

    /// Give the connection to another protocol.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        self.with_layer(protocol.py(), |layer| layer.get().set_app_protocol(protocol))
    }

    /// The current protocol.
    fn get_protocol(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(Obj::or_none(py, self.layer(py).and_then(|layer| layer.get().app_protocol.get())))
    }

    /// Whether the transport is closing or closed.
    fn is_closing(&self, py: Python<'_>) -> PyResult<bool> {
        if self.closed.get() || !compat::TLS_CLOSES_WITH_THE_TRANSPORT_BELOW {
            return Ok(self.closed.get());
        }
        match self.layer(py).and_then(|layer| layer.get().below.get()) {
            Some(below) => below.borrow(py).call_method0("is_closing")?.is_truthy(),
            None => Ok(false),
        }
    }

    /// Send what is buffered, exchange close_notify, then close; connection_lost(None) is called in the end.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.closed.replace(true) {
            // Whoever closes twice needs it no more: what still holds this transport holds no layer then.
            drop(self.layer.take());
            return Ok(());
        }
        self.with_layer(py, |layer| to_py(py, handshake::start_shutdown(layer)))
    }

    /// Close at once; what is buffered is lost.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self.closed.set(true);
        self.with_layer(py, |layer| to_py(py, handshake::abort(layer, None)))
    }

    fn _force_close(&self, py: Python<'_>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        self.closed.set(true);
        let err = (!exc.is_none()).then(|| PyErr::from_value(exc.clone()));
        self.with_layer(py, |layer| to_py(py, handshake::abort(layer, err.as_ref())))
    }

    /// Whether the transport receives.
    fn is_reading(&self, py: Python<'_>) -> PyResult<bool> {
        self.with_layer(py, |layer| Ok(!layer.get().reading_paused.get()))
    }

    /// Stop reading; what arrives waits, and the transport below pauses when it is much.
    fn pause_reading(&self, py: Python<'_>) -> PyResult<()> {
        self.with_layer(py, |layer| {
            layer.get().reading_paused.set(true);
            Ok(())
        })
    }

    /// Read again after pause_reading().
    fn resume_reading(&self, py: Python<'_>) -> PyResult<()> {
        self.with_layer(py, |layer| to_py(py, incoming::resume_soon(layer)))
    }

    /// Set the marks at which the protocol's writing is paused and resumed.
    #[pyo3(signature = (high=None, low=None))]
    fn set_write_buffer_limits(
        &self,
        py: Python<'_>,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let marks = protocol::marks(high, low, WRITE_HIGH_BYTES)?;
        self.with_layer(py, |layer| {
            layer.get().write_marks.set(marks);
            to_py(py, outgoing::control_writing(layer))
        })
    }

    /// The marks (low, high) at which the protocol's writing is resumed and paused.
    fn get_write_buffer_limits(&self, py: Python<'_>) -> PyResult<(usize, usize)> {
        self.with_layer(py, |layer| Ok(layer.get().write_marks.get()))
    }

    /// Bytes that wait to be handed to the transport below.
    fn get_write_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        self.with_layer(py, |layer| to_py(py, outgoing::buffer_size(layer)))
    }

    /// Set the marks of waiting ciphertext at which the transport below stops and goes on reading.
    #[pyo3(signature = (high=None, low=None))]
    fn set_read_buffer_limits(
        &self,
        py: Python<'_>,
        high: Option<&Bound<'_, PyAny>>,
        low: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let marks = protocol::marks(high, low, READ_HIGH_BYTES)?;
        self.with_layer(py, |layer| {
            layer.get().read_marks.set(marks);
            to_py(py, incoming::control_reading_below(layer))
        })
    }

    /// The marks (low, high) of waiting ciphertext.
    fn get_read_buffer_limits(&self, py: Python<'_>) -> PyResult<(usize, usize)> {
        self.with_layer(py, |layer| Ok(layer.get().read_marks.get()))
    }

    /// Bytes of ciphertext that wait to be read.
    fn get_read_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        self.with_layer(py, |layer| to_py(py, layer.get().engine.incoming_bytes(py)))
    }

    /// Send all items.
    fn writelines(&self, py: Python<'_>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        let pieces = list_of_data.try_iter()?.map(|item| item.map(Obj::from_bound)).collect::<PyResult<Vec<_>>>()?;
        self.with_layer(py, |layer| to_py(py, outgoing::write_all(layer, pieces)))
    }

    /// TLS has no half close here, as in asyncio.
    fn write_eof(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// False: write_eof() does not work.
    fn can_write_eof(&self) -> bool {
        false
    }

    // Private names that programs, asyncio's `sendfile` and its tests use

    #[getter]
    fn _sendfile_compatible<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.import("asyncio.constants")?.getattr("_SendfileMode")?.getattr("FALLBACK")
    }

    #[getter]
    fn _protocol_paused(&self, py: Python<'_>) -> PyResult<bool> {
        self.with_layer(py, |layer| Ok(layer.get().writing_paused.get()))
    }

    #[getter]
    fn _ssl_protocol(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.layer.get())
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.layer(py).map(|layer| layer.get().runtime.object().clone()))
    }

    #[getter]
    fn _closed(&self) -> bool {
        self.closed.get()
    }

    #[pyo3(name = "_test__append_write_backlog")]
    fn append_write_backlog(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        self.with_layer(py, |layer| to_py(py, outgoing::keep(layer, &Obj::from_any(data), 0)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| visitor.cell(&self.layer))
    }

    fn __clear__(&self) {
        self.layer.set(None);
    }
}

impl Drop for TlsTransport {
    fn drop(&mut self) {
        if self.closed.get() {
            return;
        }
        Python::try_attach(|py| {
            let pending = PyErr::take(py);
            let text = c"unclosed transport <asyncio._SSLProtocolTransport object>";
            if let Err(err) = PyErr::warn(py, &py.get_type::<PyResourceWarning>(), text, 1) {
                err.write_unraisable(py, None);
            }
            if let Some(err) = pending {
                err.restore(py);
            }
        });
    }
}

/// `transport.write(data)`, the one method that runs per packet.
struct Write;

impl fastcall::FastMethod<TlsTransport> for Write {
    const NAME: &'static std::ffi::CStr = c"write";
    const DOC: &'static std::ffi::CStr = c"write($self, data)\n--\n\nSend data; never blocks.";

    fn call(py: Python<'_>, _: &Obj, transport: &TlsTransport, args: &fastcall::Args<'_>) -> RawResult<Obj> {
        static DATA: Name = Name::new(c"data");
        let data = args.only(py, &DATA)?;
        let data = match Bytes::from_obj(data) {
            Ok(bytes) => bytes.into_obj(),
            Err(data) if bytes::is_mutable_buffer(&data) => data,
            Err(data) => return Err(wrong_type(py, &data)),
        };
        if to_raw(py, data.borrow(py).len())? > 0
            && let Some(layer) = transport.layer(py)
        {
            outgoing::write(&layer, &data)?;
        }
        Ok(Obj::none(py))
    }
}

#[cold]
fn wrong_type(py: Python<'_>, data: &Obj) -> crate::raw::Raised {
    let text = match data.borrow(py).get_type().name() {
        Ok(name) => format!("data: expecting a bytes-like instance, got {name}"),
        Err(err) => return crate::raw::Raised::from_err(py, err),
    };
    crate::raw::Raised::from_err(py, PyTypeError::new_err(text))
}

pub(super) fn add_methods(py: Python<'_>) -> PyResult<()> {
    fastcall::add_method::<TlsTransport, Write>(py)
}
