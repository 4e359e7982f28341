//! `Server` and its listening sockets.
//!
//! Accepting is native: as many connections a turn as the backlog allows, each with its own copy of the context in which
//! serving began, its protocol made by the factory, and a stream transport. When the system has no descriptors or memory
//! left, that is reported once, listening rests for a second and goes on by itself.
//!
//! Must stay true
//! - A server does not keep its connections alive; a connection keeps its server.
//! - One connection that fails (factory, protocol) disturbs no other.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use driver::{Address, Interest, Token};
use pyo3::exceptions::{PyAssertionError, PyFileNotFoundError, PyOSError, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::address;
use super::reports;
use super::stream::{self, Names, Parts, Socket};
use super::tls::{self, protocol::TlsProtocol};
use super::waiter;
use crate::interop::{errors, imports, log};
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilCell, GilValue, ObjCell};
use crate::raw::collector;
use crate::raw::compat;
use crate::raw::context;
use crate::raw::instance::Visitor;
use crate::raw::kept_context::KeptContext;
use crate::raw::members::Membership;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_py, to_raw};
use crate::runtime::slots::SlotKind;
use crate::runtime::{RuntimeRef, coroutine};

static CREATE_FUTURE: Name = Name::new(c"create_future");

/// asyncio's `constants.ACCEPT_RETRY_DELAY`.
const ACCEPT_RETRY_SECONDS: u32 = 1;

/// What a system without descriptors or memory answers: EMFILE, ENFILE, ENOBUFS, ENOMEM.
const OUT_OF_RESOURCES: [i32; 4] = [24, 23, 105, 12];

/// Errors of a connection that broke while it waited in the backlog; `accept` hands them out, the next one may be fine:
/// ECONNABORTED, EPROTO, ENOPROTOOPT, ENETDOWN, ENETUNREACH, EHOSTDOWN, EHOSTUNREACH, ENONET, EOPNOTSUPP, EPERM.
const OF_THE_PEER: [i32; 10] = [103, 71, 92, 100, 101, 112, 113, 64, 95, 1];

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
            to_py(py, waiter::resolve(py, &future))?;
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
        watch(&listener)?;
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

fn remove_file(path: &Bound<'_, PyAny>, inode: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = path.py();
    let os = py.import("os")?;
    let removed = os.call_method1("stat", (path,)).and_then(|found| {
        if found.getattr("st_ino")?.eq(inode)? {
            os.call_method1("unlink", (path,))?;
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

/// One listening socket of a server. Private to it.
#[pyclass(module = "hayase._core", frozen)]
pub(crate) struct Listener {
    server: ObjCell,
    socket: ObjCell,
    /// A copy of the context in which it was made, never entered: each connection has a copy of it.
    context: ObjCell,
    runtime: RuntimeRef,
    fd: RawFd,
    token: GilValue<Option<Token>>,
    stopped: GilValue<bool>,
    /// The connections' own name, unless the socket is bound to all addresses.
    local: GilCell<Option<Rc<address::Name>>>,
    /// How many connections the next event may bring: grows while there are more, back to one when there are none.
    batch: GilValue<u32>,
    batch_max: u32,
}

impl Listener {
    fn new(server: &Bound<'_, Server>, socket: &Bound<'_, PyAny>) -> PyResult<Listener> {
        let py = server.py();
        let fd: RawFd = socket.call_method0("fileno")?.extract()?;
        let local = match address::of_socket(socket, "getsockname")? {
            address::Name::Inet(address) => {
                // Inherited by what is accepted: one system call less for each connection.
                set_nodelay(fd);
                (!address.ip().is_unspecified()).then_some(address::Name::Inet(address))
            }
            address::Name::Unknown => None,
            name @ (address::Name::Unix(_) | address::Name::Python(_)) => Some(name),
        };
        Ok(Listener {
            server: ObjCell::new(Some(Obj::from_any(server.as_any()))),
            socket: ObjCell::new(Some(Obj::from_any(socket))),
            context: ObjCell::new(Some(to_py(py, context::copy_current(py))?)),
            runtime: server.get().runtime.clone(),
            fd,
            token: GilValue::new(None),
            stopped: GilValue::new(false),
            local: GilCell::new(local.map(Rc::new)),
            batch: GilValue::new(1),
            batch_max: u32::try_from(server.get().backlog).unwrap_or(1).max(1),
        })
    }

    fn stop(&self, py: Python<'_>) {
        self.stopped.set(true);
        self.rest(py);
    }

    fn rest(&self, py: Python<'_>) {
        if let Some(token) = self.token.replace(None) {
            drop(self.runtime.unwatch(py, token));
        }
    }
}

#[pymethods]
impl Listener {
    /// After a rest.
    fn _resume(slf: &Bound<'_, Self>) -> PyResult<()> {
        let listener = slf.get();
        if listener.stopped.get() || listener.token.get().is_some() {
            return Ok(());
        }
        watch(slf)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| {
            self.runtime.visit(visitor);
            [&self.server, &self.socket, &self.context].into_iter().for_each(|cell| visitor.cell(cell));
        })
    }

    fn __clear__(&self) {
        [&self.server, &self.socket, &self.context].into_iter().for_each(|cell| cell.set(None));
    }
}

fn watch(this: &Bound<'_, Listener>) -> PyResult<()> {
    let py = this.py();
    let listener = this.get();
    let object = Obj::from_any(this.as_any());
    let token = listener
        .runtime
        .watch(py, listener.fd, Interest::READABLE, SlotKind::Listener, object)
        .map_err(|error| errors::os_error(py, &error))?;
    listener.token.set(Some(token));
    Ok(())
}

/// Connections wait.
pub(crate) fn on_ready(py: Python<'_>, object: &Obj, _readable: bool) -> RawResult<()> {
    let object = object.borrow(py);
    let this = object.cast::<Listener>().expect("slots of this kind hold listeners");
    let listener = this.get();
    let batch = listener.batch.get();
    for _ in 0..batch {
        if listener.stopped.get() {
            return Ok(());
        }
        match listener.runtime.driver.accept_from(listener.fd) {
            Ok((fd, peer)) => accepted(&this, fd, peer)?,
            Err(error) => {
                listener.batch.set(1);
                return to_raw(py, accept_failed(&this, &error));
            }
        }
    }
    // All of them were there: next time there may be more.
    listener.batch.set((batch * 2).min(listener.batch_max));
    Ok(())
}

fn accepted(this: &Bound<'_, Listener>, fd: OwnedFd, peer: Address) -> RawResult<()> {
    let py = this.py();
    let mut protocol = None;
    match connect(this, fd, peer, &mut protocol) {
        Ok(()) => Ok(()),
        Err(err) => to_raw(py, connection_failed(this, err, protocol)),
    }
}

fn connect<'py>(
    this: &Bound<'py, Listener>,
    fd: OwnedFd,
    peer: Address,
    protocol: &mut Option<Bound<'py, PyAny>>,
) -> PyResult<()> {
    let py = this.py();
    let listener = this.get();
    let (Some(server), Some(context)) = (listener.server.get(), listener.context.get()) else {
        return Ok(());
    };
    let server = server.into_bound(py).cast_into::<Server>()?;
    let Some(factory) = server.get().factory.get() else {
        return Ok(());
    };
    let context = to_py(py, KeptContext::copy_of(py, &context))?;
    let made = context.run_in(py, || call::call0(py, &factory)).expect("made here");
    let made = to_py(py, made.and_then(|made| made))?;
    let protocol = protocol.insert(made.into_bound(py));
    let number = fd.as_raw_fd();
    let (socket, names) = match peer {
        peer @ (Address::Inet(_) | Address::Unix(_)) => {
            let local = listener.local.with(py, |name| name.clone());
            let local = local.unwrap_or_else(|| Rc::new(address::of_descriptor(driver::local_address(number))));
            (Socket::Native(fd), Names { peer: peer.into(), local })
        }
        // Another family: Python's socket knows how its addresses look.
        Address::Other => python_socket(py, fd)?,
    };
    let layer = server.get().tls_layer(py, protocol)?;
    let receiver = layer.as_ref().map_or(&*protocol, |layer| layer.as_any());
    let parts = Parts { socket, fd: number, names, protocol: receiver, context, server: Some(&server), waiter: None };
    let transport = stream::make(py, &listener.runtime, parts)?;
    if listener.runtime.scheduler.debug.get() {
        log::logger(py)?.call_method1("debug", ("%r got a new connection: %r", &server, &transport))?;
    }
    Ok(())
}

fn python_socket(py: Python<'_>, fd: OwnedFd) -> PyResult<(Socket, Names)> {
    use std::os::fd::IntoRawFd;
    let keywords = PyDict::new(py);
    keywords.set_item("fileno", fd.as_raw_fd())?;
    let socket = py.import("socket")?.getattr("socket")?.call((), Some(&keywords))?;
    // The socket object closes it.
    let _ = fd.into_raw_fd();
    socket.call_method1("setblocking", (false,))?;
    let names = Names::of_socket(&socket)?;
    Ok((Socket::Python(Obj::from_bound(socket)), names))
}

fn connection_failed(this: &Bound<'_, Listener>, err: PyErr, protocol: Option<Bound<'_, PyAny>>) -> PyResult<()> {
    let py = this.py();
    if errors::leaves_the_loop(py, &err) {
        return Err(err);
    }
    let report = PyDict::new(py);
    report.set_item("message", "Error on transport creation for incoming connection")?;
    report.set_item("exception", err.into_value(py))?;
    if let Some(protocol) = protocol {
        report.set_item("protocol", protocol)?;
    }
    reports::call_exception_handler(py, this.get().runtime.object(), &report)
}

fn accept_failed(this: &Bound<'_, Listener>, error: &io::Error) -> PyResult<()> {
    let py = this.py();
    let listener = this.get();
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) {
        return Ok(());
    }
    let errno = error.raw_os_error().unwrap_or(0);
    if OF_THE_PEER.contains(&errno) {
        return Ok(());
    }
    // The kernel goes on reporting the socket as ready: without a rest this would be a busy loop.
    listener.rest(py);
    let report = PyDict::new(py);
    let exhausted = OUT_OF_RESOURCES.contains(&errno);
    if exhausted {
        let resume = this.getattr("_resume")?;
        let event_loop = listener.runtime.object().borrow(py);
        event_loop.call_method1("call_later", (ACCEPT_RETRY_SECONDS, resume))?;
        report.set_item("message", "socket.accept() out of system resource")?;
    } else {
        report.set_item("message", "socket.accept() failed; no more connections are accepted on this socket")?;
    }
    report.set_item("exception", errors::os_error(py, error).into_value(py))?;
    if let Some(socket) = listener.socket.get() {
        report.set_item("socket", imports::transport_socket_class(py)?.call1((socket.into_bound(py),))?)?;
    }
    reports::call_exception_handler(py, listener.runtime.object(), &report)
}

/// TCP_NODELAY; what is no TCP socket does not mind.
pub(crate) fn set_nodelay(fd: RawFd) {
    let _ = driver::set_nodelay(fd);
}
