//! `start_tls`, and the keywords by which connections ask for TLS.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyBool;

use super::connect::check_tls_timeouts;
use crate::interop::imports;
use crate::raw::bytes;
use crate::raw::call::{self, Name};
use crate::raw::obj::Obj;
use crate::raw::to_py;
use crate::runtime::RuntimeRef;
use crate::runtime::coroutine::{self, Co};
use crate::transports::tls::protocol::{self, Parts, TlsProtocol};

static CREATE_FUTURE: Name = Name::new(c"create_future");

/// What the keywords of a connection ask for.
pub(super) struct Tls {
    /// `None`: the default context, for clients.
    pub(super) context: Option<Obj>,
    pub(super) server_side: bool,
    pub(super) server_hostname: Option<Obj>,
    pub(super) handshake_timeout: Option<Obj>,
    pub(super) shutdown_timeout: Option<Obj>,
}

impl Tls {
    /// From the keyword `ssl`: nothing, a context, or `True` for the default one. The timeouts are checked against it.
    pub(super) fn asked(
        py: Python<'_>,
        ssl: Option<&Obj>,
        server_side: bool,
        server_hostname: Option<Obj>,
        handshake_timeout: Option<Obj>,
        shutdown_timeout: Option<Obj>,
    ) -> PyResult<Option<Tls>> {
        let asked = ssl.map_or(Ok(false), |ssl| ssl.borrow(py).is_truthy())?;
        check_tls_timeouts(handshake_timeout.as_ref(), shutdown_timeout.as_ref(), asked)?;
        if !asked {
            return Ok(None);
        }
        let context = ssl.filter(|ssl| !ssl.borrow(py).is_instance_of::<PyBool>()).cloned();
        Ok(Some(Tls { context, server_side, server_hostname, handshake_timeout, shutdown_timeout }))
    }

    /// The layer for one connection; `waiter` is resolved by the handshake.
    pub(super) fn layer<'py>(
        &self,
        py: Python<'py>,
        runtime: &RuntimeRef,
        app_protocol: &Bound<'py, PyAny>,
        waiter: Option<Obj>,
        call_connection_made: bool,
    ) -> PyResult<Bound<'py, TlsProtocol>> {
        let given = |value: &Option<Obj>| value.clone().map(|value| value.into_bound(py));
        protocol::make(
            py,
            runtime,
            Parts {
                app_protocol,
                context: given(&self.context).as_ref(),
                server_side: self.server_side,
                server_hostname: given(&self.server_hostname).as_ref(),
                handshake_timeout: given(&self.handshake_timeout).as_ref(),
                shutdown_timeout: given(&self.shutdown_timeout).as_ref(),
                waiter,
                accepted: false,
                call_connection_made,
            },
        )
    }
}

/// The arguments of `start_tls`.
pub(super) struct StartTls {
    pub(super) transport: Obj,
    pub(super) protocol: Obj,
    pub(super) tls: Tls,
}

pub(super) fn start_tls(py: Python<'_>, runtime: RuntimeRef, arguments: StartTls) -> PyResult<Obj> {
    coroutine::make(py, runtime, "Loop.start_tls", |co| upgrade(co, arguments))
}

async fn upgrade(co: Co, arguments: StartTls) -> PyResult<Obj> {
    let (layer, waiter, begun) = Python::attach(|py| begin(py, &co, &arguments))?;
    if let Err(err) = co.wait_for(waiter).await {
        Python::attach(|py| {
            arguments.transport.borrow(py).call_method0("close")?;
            for handle in begun {
                handle.borrow(py).call_method0("cancel")?;
            }
            Ok::<_, PyErr>(())
        })?;
        return Err(err);
    }
    Python::attach(|py| layer.borrow(py).getattr("_app_transport").map(Obj::from_bound))
}

/// The layer, the future of its handshake, and the two calls that begin it: cancelled if nobody waits any more.
fn begin(py: Python<'_>, co: &Co, arguments: &StartTls) -> PyResult<(Obj, Obj, [Obj; 2])> {
    let context = arguments.tls.context.clone().unwrap_or_else(|| Obj::none(py)).into_bound(py);
    if !context.is_instance(imports::ssl_context_class(py)?)? {
        let text = format!("sslcontext is expected to be an instance of ssl.SSLContext, got {}", context.repr()?);
        return Err(PyTypeError::new_err(text));
    }
    let transport = arguments.transport.borrow(py);
    let compatible = transport.getattr_opt("_start_tls_compatible")?;
    if !compatible.map_or(Ok(false), |compatible| compatible.is_truthy())? {
        return Err(PyTypeError::new_err(format!("transport {} is not supported by start_tls()", transport.repr()?)));
    }
    let waiter = to_py(py, call::method(py, co.event_loop(), &CREATE_FUTURE, &[]))?;
    let protocol = arguments.protocol.borrow(py);
    let layer = arguments.tls.layer(py, &co.runtime_ref(), &protocol, Some(waiter.clone()), false)?;
    // So that nothing is received before the layer is told of its transport.
    transport.call_method0("pause_reading")?;
    if arguments.tls.server_side {
        take_over_received(&protocol, &layer)?;
    }
    transport.call_method1("set_protocol", (&layer,))?;
    let event_loop = co.event_loop().borrow(py);
    let connected = event_loop.call_method1("call_soon", (layer.getattr("connection_made")?, transport))?;
    let resumed = event_loop.call_method1("call_soon", (transport.getattr("resume_reading")?,))?;
    Ok((Obj::from_bound(layer), waiter, [Obj::from_bound(connected), Obj::from_bound(resumed)]))
}

/// A stream reader of a server may hold the beginning of the handshake already.
fn take_over_received(protocol: &Bound<'_, PyAny>, layer: &Bound<'_, TlsProtocol>) -> PyResult<()> {
    let py = protocol.py();
    if !protocol.is_instance(imports::stream_reader_protocol_class(py)?)? {
        return Ok(());
    }
    let Some(reader) = protocol.getattr_opt("_stream_reader")?.filter(|reader| !reader.is_none()) else {
        return Ok(());
    };
    let buffer = reader.getattr("_buffer")?;
    if buffer.is_truthy()? {
        let copied = bytes::with_buffer(py, &Obj::from_any(&buffer), <[u8]>::to_vec);
        to_py(py, protocol::feed(layer, &to_py(py, copied)?))?;
        buffer.call_method0("clear")?;
    }
    Ok(())
}
