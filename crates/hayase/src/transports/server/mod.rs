//! `Server`: what it serves and on which sockets. `listener.rs` accepts.
//!
//! Must stay true
//! - A server does not keep its connections alive; a connection keeps its server.

pub(crate) mod listener;

use pyo3::exceptions::{PyAssertionError, PyFileNotFoundError, PyOSError, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use self::listener::Listener;
use super::stream;
use super::tls::{self, protocol::TlsProtocol};
use crate::interop::{imports, log};
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilCell, GilValue, ObjCell};
use crate::raw::collector;
use crate::raw::compat;
use crate::raw::instance::Visitor;
use crate::raw::members::Membership;
use crate::raw::obj::Obj;
use crate::raw::to_py;
use crate::runtime::{RuntimeRef, coroutine};
use crate::tasks::wait;

static CREATE_FUTURE: Name = Name::new(c"create_future");

/// An asyncio.Server.
#[pyclass(module = "hayase._core", frozen, weakref, dict)]
pub(crate) struct Server {
    runtime: RuntimeRef,
    /// `socket.socket` objects; `None` when closed.
    sockets: GilCell<Option<Vec<Obj>>>,
    listeners: GilCell<Vec<Obj>>,
    factory: ObjCell,
    ssl_context: ObjCell,
    tls_handshake_timeout: ObjCell,
    tls_shutdown_timeout: ObjCell,
    backlog: i32,
    serving: GilValue<bool>,
    /// Futures of `wait_closed()`; `None` when they were woken for good.
    waiters: GilCell<Option<Vec<Obj>>>,
    serving_forever: ObjCell,
    /// Connections that are open.
    clients: GilValue<usize>,
    /// Of the runtime's list of what is open.
    membership: GilCell<Option<Membership>>,
    /// The file of a Unix socket, to be removed when the server is closed.
    file: GilCell<Option<SocketFile>>,
}

/// A Unix socket's place in the file system. It is removed only while it is still the one that was bound.
pub(crate) struct SocketFile {
    pub(crate) socket: Obj,
    pub(crate) inode: Obj,
}

impl Server {
    pub(crate) fn new(
        runtime: RuntimeRef,
        sockets: Vec<Obj>,
        factory: Obj,
        ssl_context: Option<Obj>,
        backlog: i32,
    ) -> Server {
        Server {
            runtime,
            sockets: GilCell::new(Some(sockets)),
            listeners: GilCell::new(Vec::new()),
            factory: ObjCell::new(Some(factory)),
            ssl_context: ObjCell::new(ssl_context),
            tls_handshake_timeout: ObjCell::empty(),
            tls_shutdown_timeout: ObjCell::empty(),
            backlog,
            serving: GilValue::new(false),
            waiters: GilCell::new(Some(Vec::new())),
            serving_forever: ObjCell::empty(),
            clients: GilValue::new(0),
            membership: GilCell::new(None),
            file: GilCell::new(None),
        }
    }

    /// Removes the file of its Unix socket when it is closed.
    pub(crate) fn owns_file(&self, py: Python<'_>, file: SocketFile) {
        drop(self.file.with(py, |place| place.replace(file)));
    }

    /// Seconds for handshake and shutdown of its connections; `None`: asyncio's.
    pub(crate) fn with_tls_timeouts(self, handshake: Option<Obj>, shutdown: Option<Obj>) -> Server {
        self.tls_handshake_timeout.set(handshake);
        self.tls_shutdown_timeout.set(shutdown);
        self
    }

    /// The TLS layer of a connection that was accepted, if this server speaks TLS.
    fn tls_layer<'py>(
        &self,
        py: Python<'py>,
        app_protocol: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, TlsProtocol>>> {
        let given = |cell: &ObjCell| cell.get().map(|value| value.into_bound(py));
        let Some(context) = given(&self.ssl_context) else {
            return Ok(None);
        };
        if !context.is_truthy()? {
            return Ok(None);
        }
        let (handshake_timeout, shutdown_timeout) =
            (given(&self.tls_handshake_timeout), given(&self.tls_shutdown_timeout));
        let parts = tls::protocol::Parts {
            app_protocol,
            context: Some(&context),
            server_side: true,
            server_hostname: None,
            handshake_timeout: handshake_timeout.as_ref(),
            shutdown_timeout: shutdown_timeout.as_ref(),
            waiter: None,
            accepted: true,
            call_connection_made: true,
        };
        tls::protocol::make(py, &self.runtime, parts).map(Some)
    }

    pub(super) fn client_came(&self) {
        self.clients.set(self.clients.get() + 1);
    }

    pub(super) fn client_left(&self, py: Python<'_>) -> PyResult<()> {
        self.clients.set(self.clients.get().saturating_sub(1));
        if self.clients.get() == 0 && self.is_closed(py) { self.wake_up(py) } else { Ok(()) }
    }

    /// For a loop that is closed.
    pub(super) fn close_with_the_loop(&self, py: Python<'_>) -> PyResult<()> {
        // Nobody is woken by a loop that never runs again.
        drop(self.waiters.with(py, |waiters| waiters.replace(Vec::new())));
        drop(self.serving_forever.take());
        self.close(py)
    }

    /// The connections that live now.
    fn clients(this: &Bound<'_, Server>) -> Vec<Obj> {
        let py = this.py();
        let server = Obj::from_any(this.as_any());
        let mut open = this.get().runtime.open.list(py);
        open.retain(|object| {
            let object = object.borrow(py);
            let transport = object.cast::<stream::StreamTransport>();
            transport.is_ok_and(|transport| transport.get().is_client_of(&server))
        });
        open
    }

    fn is_closed(&self, py: Python<'_>) -> bool {
        self.sockets.with(py, |sockets| sockets.is_none())
    }

    fn wake_up(&self, py: Python<'_>) -> PyResult<()> {
        for future in self.waiters.with(py, Option::take).into_iter().flatten() {
            to_py(py, wait::resolve(py, &future))?;
        }
        Ok(())
    }

    fn python_sockets(&self, py: Python<'_>) -> Option<Vec<Obj>> {
        self.sockets.with(py, |sockets| sockets.clone())
    }
}

/// The server object; the loop closes it if nobody else does.
pub(crate) fn make(py: Python<'_>, server: Server) -> PyResult<Bound<'_, Server>> {
    let server = collector::instance_with_dict(py, server)?;
    let object = Obj::from_any(server.as_any());
    let membership = server.get().runtime.open.join(py, &object);
    server.get().membership.with(py, |place| *place = Some(membership));
    Ok(server)
}

/// `listen()` on every socket, and accept from now on.
pub(crate) fn begin_serving(this: &Bound<'_, Server>) -> PyResult<()> {
    let py = this.py();
    let server = this.get();
    if server.serving.get() {
        return Ok(());
    }
    to_py(py, server.runtime.scheduler.check_open(py))?;
    let Some(sockets) = server.python_sockets(py) else {
        return Err(PyAssertionError::new_err("server is closed"));
    };
    server.serving.set(true);
    for socket in sockets {
        let socket = socket.into_bound(py);
        socket.call_method1("listen", (server.backlog,))?;
        let listener = Bound::new(py, Listener::new(this, &socket)?)?;
        let object = Obj::from_any(listener.as_any());
        server.listeners.with(py, |list| list.push(object));
        listener::watch(&listener)?;
    }
    Ok(())
}

#[pymethods]
impl Server {
    /// isinstance(server, asyncio.Server)
    #[getter(__class__)]
    fn class<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Ok(imports::server_class(slf.py())?.clone())
    }

    /// The loop that the server belongs to.
    fn get_loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.runtime.object().clone().into_bound(py).unbind()
    }

    /// Whether new connections are accepted.
    fn is_serving(&self) -> bool {
        self.serving.get()
    }

    /// The listening sockets; empty when closed.
    #[getter]
    fn sockets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let class = imports::transport_socket_class(py)?;
        let sockets: Vec<Bound<'py, PyAny>> = self
            .python_sockets(py)
            .unwrap_or_default()
            .into_iter()
            .map(|socket| class.call1((socket.into_bound(py),)))
            .collect::<PyResult<_>>()?;
        PyTuple::new(py, sockets)
    }

    /// Stop listening. Connections that exist live on.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let Some(sockets) = self.sockets.with(py, Option::take) else {
            return Ok(());
        };
        for listener in self.listeners.with(py, std::mem::take) {
            if let Ok(listener) = listener.borrow(py).cast::<Listener>() {
                listener.get().stop(py);
            }
        }
        let file = self.file.with(py, Option::take).map(|file| file.located(py)).transpose()?;
        let mut failure = None;
        for socket in sockets {
            if let Err(err) = socket.borrow(py).call_method0("close") {
                failure = Some(err);
            }
        }
        if let Some((path, inode)) = file
            && !self.runtime.driver.is_foreign_process()
        {
            remove_file(&path, &inode)?;
        }
        self.serving.set(false);
        if let Some(future) = self.serving_forever.take() {
            future.borrow(py).call_method0("cancel")?;
        }
        if self.clients.get() == 0 {
            self.wake_up(py)?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Close every connection, sending what is buffered.
    fn close_clients(slf: &Bound<'_, Self>) -> PyResult<()> {
        for client in Server::clients(slf) {
            client.borrow(slf.py()).call_method0("close")?;
        }
        Ok(())
    }

    /// Close every connection at once.
    fn abort_clients(slf: &Bound<'_, Self>) -> PyResult<()> {
        for client in Server::clients(slf) {
            client.borrow(slf.py()).call_method0("abort")?;
        }
        Ok(())
    }

    /// Accept connections; for servers made with start_serving=False.
    fn start_serving(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let this = Obj::from_any(slf.as_any());
        coroutine(py, &slf.get().runtime, "Server.start_serving", |co| async move {
            Python::attach(|py| begin_serving(&*this.borrow(py).cast::<Server>()?))?;
            co.yield_once().await?;
            none()
        })
    }

    /// Accept connections until cancelled or closed.
    fn serve_forever(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let this = Obj::from_any(slf.as_any());
        coroutine(py, &slf.get().runtime, "Server.serve_forever", |co| async move {
            let future = Python::attach(|py| {
                let object = this.borrow(py);
                let slf = object.cast::<Server>()?;
                let server = slf.get();
                if server.serving_forever.is_some() {
                    let text = format!("server {} is already being awaited on serve_forever()", slf.repr()?);
                    return Err(PyRuntimeError::new_err(text));
                }
                if server.is_closed(py) {
                    return Err(PyRuntimeError::new_err(format!("server {} is closed", slf.repr()?)));
                }
                begin_serving(&slf)?;
                let future = to_py(py, call::method(py, server.runtime.object(), &CREATE_FUTURE, &[]))?;
                server.serving_forever.set(Some(future.clone()));
                Ok(future)
            })?;
            let outcome = co.wait_for(future).await;
            let cancelled = Python::attach(|py| {
                let object = this.borrow(py);
                let server = object.cast::<Server>()?;
                drop(server.get().serving_forever.take());
                match &outcome {
                    Err(err) if err.is_instance(py, imports::cancelled_error(py)?) => {
                        server.get().close(py)?;
                        if compat::SERVE_FOREVER_CLOSES_CLIENTS {
                            Server::close_clients(&server)?;
                        }
                        Ok::<bool, PyErr>(true)
                    }
                    Ok(_) | Err(_) => Ok(false),
                }
            });
            if let Ok(true) = cancelled {
                let closed = Python::attach(|py| this.borrow(py).call_method0("wait_closed").map(Obj::from_bound));
                if let Ok(closed) = closed {
                    // Whatever it says: the cancellation is what comes out, as in asyncio.
                    let _ = co.wait_for(closed).await;
                }
            }
            outcome
        })
    }

    /// Wait until the server is closed and its last connection is gone (the versions of Python differ in the details).
    fn wait_closed(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let this = Obj::from_any(slf.as_any());
        coroutine(py, &slf.get().runtime, "Server.wait_closed", |co| async move {
            let future = Python::attach(|py| {
                let object = this.borrow(py);
                let server = object.cast::<Server>()?.get();
                if compat::WAIT_CLOSED_IGNORES_CLIENTS && server.is_closed(py) {
                    return Ok(None);
                }
                if server.waiters.with(py, |waiters| waiters.is_none()) {
                    return Ok(None);
                }
                let future = to_py(py, call::method(py, server.runtime.object(), &CREATE_FUTURE, &[]))?;
                server.waiters.with(py, |waiters| waiters.as_mut().map(|waiters| waiters.push(future.clone())));
                Ok::<_, PyErr>(Some(future))
            })?;
            if let Some(future) = future {
                co.wait_for(future).await?;
            }
            none()
        })
    }

    fn __aenter__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let this = Obj::from_any(slf.as_any());
        coroutine(slf.py(), &slf.get().runtime, "Server.__aenter__", |_co| async move { Ok(this) })
    }

    #[pyo3(signature = (*_exc))]
    fn __aexit__(slf: &Bound<'_, Self>, _exc: &Bound<'_, PyTuple>) -> PyResult<Py<PyAny>> {
        let this = Obj::from_any(slf.as_any());
        coroutine(slf.py(), &slf.get().runtime, "Server.__aexit__", |co| async move {
            let closed = Python::attach(|py| {
                let object = this.borrow(py);
                object.call_method0("close")?;
                object.call_method0("wait_closed").map(Obj::from_bound)
            })?;
            co.wait_for(closed).await?;
            none()
        })
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        Ok(format!("<Server sockets={}>", slf.get().sockets(py)?.repr()?))
    }

    // Private names that programs read

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Py<PyAny> {
        self.get_loop(py)
    }

    #[getter]
    fn _sockets(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(match self.python_sockets(py) {
            None => py.None(),
            Some(sockets) => {
                let sockets = sockets.into_iter().map(|socket| socket.into_bound(py));
                PyList::new(py, sockets.collect::<Vec<_>>())?.into_any().unbind()
            }
        })
    }

    #[getter]
    fn _waiters(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let waiters = self.waiters.with(py, |waiters| waiters.clone());
        Ok(match waiters {
            None => py.None(),
            Some(waiters) => {
                let waiters = waiters.into_iter().map(|waiter| waiter.into_bound(py));
                PyList::new(py, waiters.collect::<Vec<_>>())?.into_any().unbind()
            }
        })
    }

    #[getter]
    fn _serving(&self) -> bool {
        self.serving.get()
    }

    #[getter]
    fn _active_count(&self) -> usize {
        self.clients.get()
    }

    #[getter]
    fn _clients<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let set = imports::weak_set(py)?.call0()?;
        for client in Server::clients(slf) {
            set.call_method1("add", (client.into_bound(py),))?;
        }
        Ok(set)
    }

    #[getter]
    fn _protocol_factory(&self, py: Python<'_>) -> Py<PyAny> {
        self.factory.get().map_or_else(|| py.None(), |factory| factory.into_bound(py).unbind())
    }

    #[getter]
    fn _backlog(&self) -> i32 {
        self.backlog
    }

    #[getter]
    fn _ssl_context(&self, py: Python<'_>) -> Py<PyAny> {
        self.ssl_context.get().map_or_else(|| py.None(), |context| context.into_bound(py).unbind())
    }

    #[pyo3(signature = (*_transport))]
    fn _attach(&self, _transport: &Bound<'_, PyTuple>) {
        self.client_came();
    }

    #[pyo3(signature = (*_transport))]
    fn _detach(&self, py: Python<'_>, _transport: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.client_left(py)
    }

    fn _start_serving(slf: &Bound<'_, Self>) -> PyResult<()> {
        begin_serving(slf)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| {
            self.runtime.visit(visitor);
            self.sockets.peek(|list| list.iter().flatten().for_each(|object| visitor.obj(object)));
            self.listeners.peek(|list| list.iter().for_each(|object| visitor.obj(object)));
            self.waiters.peek(|list| list.iter().flatten().for_each(|object| visitor.obj(object)));
            self.file.peek(|file| file.iter().for_each(|file| visitor.obj(&file.socket)));
            visitor.cell(&self.factory);
            visitor.cell(&self.ssl_context);
            visitor.cell(&self.tls_handshake_timeout);
            visitor.cell(&self.tls_shutdown_timeout);
            visitor.cell(&self.serving_forever);
        })
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.listeners.with(py, std::mem::take));
        drop(self.waiters.with(py, Option::take));
        self.factory.set(None);
        self.serving_forever.set(None);
    }
}

fn coroutine<F>(
    py: Python<'_>,
    runtime: &RuntimeRef,
    name: &'static str,
    body: impl FnOnce(coroutine::Co) -> F,
) -> PyResult<Py<PyAny>>
where
    F: Future<Output = PyResult<Obj>> + 'static,
{
    Ok(coroutine::make(py, runtime.clone(), name, body)?.into_bound(py).unbind())
}

fn none() -> PyResult<Obj> {
    Python::attach(|py| Ok(Obj::none(py)))
}

impl SocketFile {
    /// Path and inode; asked for before the socket is closed.
    fn located(self, py: Python<'_>) -> PyResult<(Bound<'_, PyAny>, Bound<'_, PyAny>)> {
        Ok((self.socket.borrow(py).call_method0("getsockname")?, self.inode.into_bound(py)))
    }
}

/// Who is asked about the files of sockets. Not `os`: test suites put guards there against blocking calls in a running loop, which
/// let these calls of asyncio's functions pass, but would not know ours.
pub(crate) fn files(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import("posix")
}

fn remove_file(path: &Bound<'_, PyAny>, inode: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = path.py();
    let files = files(py)?;
    let removed = files.call_method1("stat", (path,)).and_then(|found| {
        if found.getattr("st_ino")?.eq(inode)? {
            files.call_method1("unlink", (path,))?;
        }
        Ok(())
    });
    match removed {
        Err(err) if err.is_instance_of::<PyFileNotFoundError>(py) => Ok(()),
        Err(err) if err.is_instance_of::<PyOSError>(py) => {
            let text = "Unable to clean up listening UNIX socket %r: %r";
            log::logger(py)?.call_method1("error", (text, path, err.value(py))).map(drop)
        }
        other => other,
    }
}
