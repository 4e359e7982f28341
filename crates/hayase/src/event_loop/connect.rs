//! `create_connection` and `connect_accepted_socket`.
//!
//! Arguments are checked as asyncio checks them, with its texts. Connecting is native: one descriptor an attempt, closed when
//! the attempt fails or is cancelled. Several attempts race as RFC 8305 says if a delay is given (asyncio's own
//! `staggered_race` runs them).

use std::ffi::c_int;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use driver::Interest;
use pyo3::exceptions::{PyOSError, PyOverflowError, PyTimeoutError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyList, PyTuple};

use super::connect_through;
use super::resolve::{self, Place, Resolved};
use super::start_tls::Tls;
use super::{Loop, turn};
use crate::interop::{errors, imports, log};
use crate::raw::call::{self, Name};
use crate::raw::cell::GilCell;
use crate::raw::compat;
use crate::raw::instance::Visitor;
use crate::raw::kept_context::KeptContext;
use crate::raw::obj::Obj;
use crate::raw::to_py;
use crate::runtime::RuntimeRef;
use crate::runtime::coroutine::{self, Co};
use crate::transports::address::{self, Names};
use crate::transports::stream::{self, Parts, Socket};
use crate::transports::waiter::Watched;

static CREATE_FUTURE: Name = Name::new(c"create_future");

const EINPROGRESS: i32 = 115;
const EINTR: i32 = 4;
const SOCK_STREAM: c_int = 1;
const AF_INET: c_int = 2;
const AF_INET6: c_int = 10;

/// The keywords of `create_connection`; what was not given is `None`.
pub(super) struct Connect {
    pub(super) protocol_factory: Obj,
    pub(super) host: Option<Obj>,
    pub(super) port: Option<Obj>,
    pub(super) ssl: Option<Obj>,
    pub(super) family: c_int,
    pub(super) proto: c_int,
    pub(super) flags: c_int,
    pub(super) sock: Option<Obj>,
    pub(super) local_addr: Option<Obj>,
    pub(super) server_hostname: Option<Obj>,
    pub(super) ssl_handshake_timeout: Option<Obj>,
    pub(super) ssl_shutdown_timeout: Option<Obj>,
    pub(super) happy_eyeballs_delay: Option<Obj>,
    pub(super) interleave: Option<Obj>,
    pub(super) all_errors: bool,
}

pub(super) fn create_connection(py: Python<'_>, runtime: RuntimeRef, arguments: Connect) -> PyResult<Obj> {
    coroutine::make(py, runtime, "Loop.create_connection", |co| connect(co, arguments))
}

async fn connect(co: Co, arguments: Connect) -> PyResult<Obj> {
    let tls = Python::attach(|py| check(py, &arguments))?;
    let socket = if arguments.host.is_some() || arguments.port.is_some() {
        if arguments.sock.is_some() {
            return Err(PyValueError::new_err("host/port and sock can not be specified at the same time"));
        }
        connect_to_host(&co, &arguments).await?
    } else {
        let Some(sock) = &arguments.sock else {
            return Err(PyValueError::new_err("host and port was not specified and no sock specified"));
        };
        Python::attach(|py| require_stream(&sock.borrow(py)))?;
        Connected::Python(sock.clone())
    };
    let pair = open(&co, socket, &arguments.protocol_factory, tls).await?;
    Python::attach(|py| {
        if co.runtime().scheduler.debug.get() {
            let opened = pair.borrow(py);
            let (transport, protocol) = (opened.get_item(0)?, opened.get_item(1)?);
            let socket = transport.call_method1("get_extra_info", ("socket",))?;
            let (host, port) = (shown(py, arguments.host.as_ref()), shown(py, arguments.port.as_ref()));
            let text = "%r connected to %s:%r: (%r, %r)";
            log::logger(py)?.call_method1("debug", (text, socket, host, port, transport, protocol))?;
        }
        Ok(pair)
    })
}

fn shown(py: Python<'_>, value: Option<&Obj>) -> Py<PyAny> {
    value.map_or_else(|| py.None(), |value| value.clone().into_bound(py).unbind())
}

fn check(py: Python<'_>, arguments: &Connect) -> PyResult<Option<Tls>> {
    let truthy = |value: &Option<Obj>| value.as_ref().map_or(Ok(false), |value| value.borrow(py).is_truthy());
    let ssl = truthy(&arguments.ssl)?;
    if arguments.server_hostname.is_some() && !ssl {
        return Err(PyValueError::new_err("server_hostname is only meaningful with ssl"));
    }
    if arguments.server_hostname.is_none() && ssl && !truthy(&arguments.host)? {
        return Err(PyValueError::new_err("You must set server_hostname when using ssl without a host"));
    }
    let hostname = arguments.server_hostname.clone().or_else(|| arguments.host.clone());
    let (handshake, shutdown) = (arguments.ssl_handshake_timeout.clone(), arguments.ssl_shutdown_timeout.clone());
    let tls = Tls::asked(py, arguments.ssl.as_ref(), false, hostname, handshake, shutdown)?;
    if let Some(sock) = &arguments.sock {
        refuse_tls_socket(&sock.borrow(py))?;
    }
    Ok(tls)
}

pub(super) fn check_tls_timeouts(handshake: Option<&Obj>, shutdown: Option<&Obj>, ssl: bool) -> PyResult<()> {
    if handshake.is_some() && !ssl {
        return Err(PyValueError::new_err("ssl_handshake_timeout is only meaningful with ssl"));
    }
    if shutdown.is_some() && !ssl {
        return Err(PyValueError::new_err("ssl_shutdown_timeout is only meaningful with ssl"));
    }
    Ok(())
}

pub(super) fn refuse_tls_socket(sock: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = sock.py();
    // Without the module there is no such socket, and importing it is slow.
    let modules = py.import("sys")?.getattr("modules")?;
    let module = modules.call_method1("get", ("ssl",))?;
    if !module.is_none() && sock.is_instance(&module.getattr("SSLSocket")?)? {
        return Err(PyTypeError::new_err("Socket cannot be of type SSLSocket"));
    }
    Ok(())
}

pub(super) fn require_stream(sock: &Bound<'_, PyAny>) -> PyResult<()> {
    let stream = sock.py().import("socket")?.getattr("SOCK_STREAM")?;
    if sock.getattr("type")?.ne(stream)? {
        return Err(PyValueError::new_err(format!("A Stream Socket was expected, got {}", sock.repr()?)));
    }
    Ok(())
}

// Connecting

async fn connect_to_host(co: &Co, arguments: &Connect) -> PyResult<Connected> {
    let none = || Python::attach(Obj::none);
    let (host, port) = (arguments.host.clone().unwrap_or_else(none), arguments.port.clone().unwrap_or_else(none));
    let mut infos = resolved(co, Place::new(host, port), arguments).await?;
    let local = match &arguments.local_addr {
        None => None,
        Some(local) => {
            let place = Python::attach(|py| Place::of(&local.borrow(py)))?;
            Some(Rc::new(resolved(co, place, arguments).await?))
        }
    };
    let first = Python::attach(|py| match (&arguments.interleave, &arguments.happy_eyeballs_delay) {
        (Some(count), _) => how_many_first(&count.borrow(py)),
        (None, Some(_)) => Ok(1),
        (None, None) => Ok(0),
    })?;
    if first > 0 {
        infos = resolve::interleave(infos, first);
    }
    // One list of errors an attempt, in the order in which the attempts began.
    let failures = Python::attach(|py| PyList::empty(py).unbind());
    let winner = match &arguments.happy_eyeballs_delay {
        None => one_after_the_other(co, infos, local, &failures).await?,
        Some(delay) => race(co, infos, local, &failures, delay).await?,
    };
    match winner {
        Some(socket) => Ok(socket),
        None => Err(Python::attach(|py| match combined(failures.bind(py), arguments.all_errors) {
            Ok(err) | Err(err) => err,
        })),
    }
}

/// `interleave`: 0 for no, and 1 for all that says yes without being more.
fn how_many_first(interleave: &Bound<'_, PyAny>) -> PyResult<usize> {
    if !interleave.is_truthy()? {
        Ok(0)
    } else if interleave.gt(1)? {
        // There are never so many addresses as do not fit.
        if interleave.is_instance_of::<PyInt>() {
            Ok(interleave.extract().unwrap_or(usize::MAX))
        } else {
            interleave.extract()
        }
    } else {
        Ok(1)
    }
}

async fn resolved(co: &Co, place: Place, arguments: &Connect) -> PyResult<Vec<Resolved>> {
    let infos = resolve::resolve(co, place, arguments.family, arguments.proto, arguments.flags).await?;
    if infos.is_empty() {
        return Err(PyOSError::new_err("getaddrinfo() returned empty list"));
    }
    Ok(infos)
}

type Local = Option<Rc<Vec<Resolved>>>;

async fn one_after_the_other(
    co: &Co,
    infos: Vec<Resolved>,
    local: Local,
    failures: &Py<PyList>,
) -> PyResult<Option<Connected>> {
    for info in infos {
        match attempt(co, &info, local.as_deref().map(Vec::as_slice), failures).await {
            Ok(socket) => return Ok(Some(socket)),
            Err(err) if Python::attach(|py| err.is_instance_of::<PyOSError>(py)) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(None)
}

async fn race(
    co: &Co,
    infos: Vec<Resolved>,
    local: Local,
    failures: &Py<PyList>,
    delay: &Obj,
) -> PyResult<Option<Connected>> {
    let race = Python::attach(|py| {
        let attempts = PyList::empty(py);
        for info in infos {
            let local = local.as_deref().cloned();
            let state = AttemptState { info, local };
            let runtime = co.runtime_ref();
            attempts.append(Bound::new(
                py,
                Attempt { runtime, state: GilCell::new(state), failures: failures.clone_ref(py) },
            )?)?;
        }
        let keywords = pyo3::types::PyDict::new(py);
        keywords.set_item("loop", co.event_loop().borrow(py))?;
        let race = py
            .import("asyncio.staggered")?
            .getattr("staggered_race")?
            .call((attempts, delay.borrow(py)), Some(&keywords))?;
        Ok::<_, PyErr>(Obj::from_bound(race))
    })?;
    let outcome = co.wait_for(race).await?;
    Python::attach(|py| {
        let winner = outcome.borrow(py).get_item(0)?;
        if winner.is_none() {
            return Ok(None);
        }
        Ok(winner.cast::<ConnectedSocket>()?.get().socket.with(py, Option::take))
    })
}

/// One attempt of a race: called, it gives the coroutine that connects.
#[pyclass(module = "hayase._core", frozen)]
pub(super) struct Attempt {
    runtime: RuntimeRef,
    state: GilCell<AttemptState>,
    failures: Py<PyList>,
}

struct AttemptState {
    info: Resolved,
    local: Option<Vec<Resolved>>,
}

/// The winner of a race.
#[pyclass(module = "hayase._core", frozen)]
pub(super) struct ConnectedSocket {
    socket: GilCell<Option<Connected>>,
}

#[pymethods]
impl Attempt {
    fn __call__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let (info, local) = self.state.with(py, |state| (state.info.clone(), state.local.clone()));
        let failures = self.failures.clone_ref(py);
        let coroutine = coroutine::make(py, self.runtime.clone(), "Loop._connect_sock", |co| async move {
            let socket = attempt(&co, &info, local.as_deref(), &failures).await?;
            Python::attach(|py| {
                let socket = ConnectedSocket { socket: GilCell::new(Some(socket)) };
                Ok(Obj::from_bound(Bound::new(py, socket)?))
            })
        })?;
        Ok(coroutine.into_bound(py).unbind())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| self.runtime.visit(visitor))?;
        visit.call(&self.failures)
    }
}

/// Makes, binds and connects one socket. An `OSError` is noted in `failures` too.
async fn attempt(co: &Co, info: &Resolved, local: Option<&[Resolved]>, failures: &Py<PyList>) -> PyResult<Connected> {
    let mine = Python::attach(|py| {
        let mine = PyList::empty(py);
        failures.bind(py).append(&mine)?;
        Ok::<_, PyErr>(mine.unbind())
    })?;
    let outcome = connect_one(co, info, local, &mine).await;
    if let Err(err) = &outcome {
        Python::attach(|py| match err.is_instance_of::<PyOSError>(py) {
            true => mine.bind(py).append(err.value(py)),
            false => Ok(()),
        })?;
    }
    outcome
}

async fn connect_one(
    co: &Co,
    info: &Resolved,
    local: Option<&[Resolved]>,
    failures: &Py<PyList>,
) -> PyResult<Connected> {
    let target = match Python::attach(|py| route(py, co, info))? {
        Route::Native(target) => target,
        Route::Through(sock_connect) => {
            let bind_it = |py: Python<'_>, fd| match local {
                Some(local) => bind(py, fd, info.family, local, failures.bind(py)),
                None => Ok(()),
            };
            return connect_through::connect(co, info, &sock_connect, bind_it).await.map(Connected::Python);
        }
    };
    let mut peer_name = None;
    let begun = Python::attach(|py| {
        let fd = driver::stream_socket(&target, info.protocol).map_err(|error| errors::os_error(py, &error))?;
        if let Some(local) = local {
            bind(py, fd.as_raw_fd(), info.family, local, failures.bind(py))?;
        }
        let waits = match driver::connect(fd.as_raw_fd(), &target) {
            Ok(()) => None,
            Err(error) if error.raw_os_error() == Some(EINPROGRESS) => match driver::peer_address(fd.as_raw_fd()) {
                // A peer on this machine has answered by now; asking costs less than watching.
                Ok(peer) => {
                    peer_name = Some(peer.into());
                    let event_loop = co.event_loop().borrow(py);
                    turn::poll_next(event_loop.cast::<Loop>()?.get());
                    None
                }
                Err(_) => Some(Watched::new(py, co.runtime_ref(), fd.as_raw_fd(), Interest::WRITABLE)?),
            },
            Err(error) if error.raw_os_error() == Some(EINTR) => {
                Some(Watched::new(py, co.runtime_ref(), fd.as_raw_fd(), Interest::WRITABLE)?)
            }
            Err(error) => return Err(errors::os_error(py, &error)),
        };
        Ok((fd, waits))
    });
    // Declared before what watches it, so that the watch ends before the descriptor is closed.
    let (fd, waits) = begun?;
    if let Some(watched) = waits {
        co.wait_for(watched.future()).await?;
        drop(watched);
        Python::attach(|py| match co.runtime().driver.take_error(fd.as_raw_fd()) {
            Ok(None) => Ok(()),
            Ok(Some(error)) | Err(error) => {
                let text = format!("Connect call failed {}", info.address.borrow(py).str()?);
                Err(PyOSError::new_err((error.raw_os_error(), text)))
            }
        })?;
    }
    if peer_name.is_some() {
        // As if the system had been asked whether it is connected: one turn in which it is, and what came of it. A server on
        // this loop accepts before the client's side is made.
        co.yield_once().await?;
        co.yield_once().await?;
    }
    Ok(Connected::Native(fd, peer_name))
}

enum Route {
    Native(SocketAddr),
    /// By a Python socket and this `sock_connect`.
    Through(Obj),
}

fn route(py: Python<'_>, co: &Co, info: &Resolved) -> PyResult<Route> {
    if let Some(replacement) = connect_through::replaced_sock_connect(py, co)? {
        return Ok(Route::Through(replacement));
    }
    match address::from_tuple(&info.address.borrow(py)) {
        Some(target) if info.socktype == SOCK_STREAM && info.family == family_of(&target) => Ok(Route::Native(target)),
        // The loop's own looks names up, and Python's sockets know more families than the driver.
        Some(_) | None => {
            co.event_loop().borrow(py).getattr("sock_connect").map(|ours| Route::Through(Obj::from_bound(ours)))
        }
    }
}

fn family_of(target: &SocketAddr) -> c_int {
    if target.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn bind(py: Python<'_>, fd: RawFd, family: c_int, local: &[Resolved], failures: &Bound<'_, PyList>) -> PyResult<()> {
    for info in local.iter().filter(|info| info.family == family) {
        let address = info.address.borrow(py);
        let Some(target) = address::from_tuple(&address) else {
            if address.get_item(1)?.extract::<u16>().is_err() {
                return Err(PyOverflowError::new_err("bind(): port must be 0-65535."));
            }
            continue;
        };
        match driver::bind(fd, &target) {
            Ok(()) => return Ok(()),
            Err(error) => failures.append(bind_error(&address, &error)?.value(py))?,
        }
    }
    match failures.len() {
        0 => {
            let family = py.import("socket")?.getattr("AddressFamily")?.call1((family,))?;
            Err(PyOSError::new_err(format!("no matching local address with family={} found", family.repr()?)))
        }
        count => {
            let last = failures.get_item(count - 1)?;
            failures.del_item(count - 1)?;
            Err(PyErr::from_value(last))
        }
    }
}

/// The error of a `bind`, naming the address.
pub(super) fn bind_error(address: &Bound<'_, PyAny>, error: &std::io::Error) -> PyResult<PyErr> {
    let py = address.py();
    let err = errors::os_error(py, error);
    let said =
        if compat::BIND_ERRORS_AS_OF_3_13 { err.value(py).str()? } else { err.value(py).getattr("strerror")?.str()? };
    let text =
        format!("error while attempting to bind on address {}: {}", address.repr()?, said.to_str()?.to_lowercase());
    Ok(PyOSError::new_err((error.raw_os_error(), text)))
}

/// What to raise when every attempt failed.
fn combined(failures: &Bound<'_, PyList>, all_errors: bool) -> PyResult<PyErr> {
    let py = failures.py();
    let flat = PyList::empty(py);
    for of_one in failures {
        flat.call_method1("extend", (of_one,))?;
    }
    if all_errors {
        let group = imports::exception_group(py)?.call1(("create_connection failed", flat))?;
        return Ok(PyErr::from_value(group));
    }
    let texts: Vec<String> = flat.iter().map(|err| Ok(err.str()?.to_string())).collect::<PyResult<_>>()?;
    let Some(first) = texts.first() else {
        if compat::CONNECT_WITHOUT_ERRORS_TIMES_OUT {
            return Ok(PyTimeoutError::new_err("create_connection failed"));
        }
        return Ok(pyo3::exceptions::PyIndexError::new_err("list index out of range"));
    };
    if texts.iter().all(|text| text == first) {
        return Ok(PyErr::from_value(flat.get_item(0)?));
    }
    Ok(PyOSError::new_err(format!("Multiple exceptions: {}", texts.join(", "))))
}

// From a connected socket to (transport, protocol)

pub(super) enum Connected {
    /// With the name of the peer, if it was asked for already.
    Native(OwnedFd, Option<address::Name>),
    Python(Obj),
}

/// Calls the factory, makes the transport (with TLS over it), waits for `connection_made` (for the handshake).
pub(super) async fn open(co: &Co, socket: Connected, factory: &Obj, tls: Option<Tls>) -> PyResult<Obj> {
    let given = match &socket {
        Connected::Native(..) => None,
        Connected::Python(sock) => Some(sock.clone()),
    };
    let made = Python::attach(|py| {
        let made = open_transport(py, co, socket, factory, tls);
        if let (Err(_), Some(sock)) = (&made, given)
            && compat::CONNECT_CLOSES_SOCK_WITHOUT_TRANSPORT
        {
            sock.borrow(py).call_method0("close")?;
        }
        made
    });
    let (transport, protocol, waiter) = made?;
    if let Err(err) = co.wait_for(waiter).await {
        Python::attach(|py| transport.borrow(py).call_method0("close").map(drop))?;
        return Err(err);
    }
    Python::attach(|py| {
        let pair = PyTuple::new(py, [transport.into_bound(py), protocol.into_bound(py)])?;
        Ok(Obj::from_bound(pair))
    })
}

/// What the program's factory makes. What cannot be told that it is connected is refused where asyncio refuses it: before
/// there is a transport.
pub(super) fn make_protocol<'py>(py: Python<'py>, factory: &Obj) -> PyResult<Bound<'py, PyAny>> {
    let protocol = to_py(py, call::call0(py, factory))?.into_bound(py);
    protocol.getattr(pyo3::intern!(py, "connection_made"))?;
    Ok(protocol)
}

/// Transport, protocol, and the future that `connection_made` resolves.
fn open_transport(
    py: Python<'_>,
    co: &Co,
    socket: Connected,
    factory: &Obj,
    tls: Option<Tls>,
) -> PyResult<(Obj, Obj, Obj)> {
    if let Connected::Python(sock) = &socket {
        sock.borrow(py).call_method1("setblocking", (false,))?;
    }
    let protocol = make_protocol(py, factory)?;
    let waiter = to_py(py, call::method(py, co.event_loop(), &CREATE_FUTURE, &[]))?;
    let (socket, fd, names) = match socket {
        Connected::Native(owned, peer) => {
            let fd = owned.as_raw_fd();
            let names = Names {
                peer: peer.unwrap_or_else(|| address::of_descriptor(driver::peer_address(fd))),
                local: Rc::new(address::of_descriptor(driver::local_address(fd))),
            };
            (Socket::Native(owned), fd, names)
        }
        Connected::Python(object) => {
            let sock = object.borrow(py);
            let fd: RawFd = sock.call_method0("fileno")?.extract()?;
            (Socket::Python(object.clone()), fd, Names::of_socket(&sock)?)
        }
    };
    if let address::Name::Inet(_) = *names.local {
        crate::transports::server::listener::set_nodelay(fd);
    }
    let runtime = co.runtime_ref();
    let context = to_py(py, KeptContext::of_current(py))?;
    let Some(tls) = tls else {
        let waits = Some(waiter.clone());
        let parts = Parts { socket, fd, names, protocol: &protocol, context, server: None, waiter: waits };
        let transport = stream::make(py, &runtime, parts)?;
        return Ok((Obj::from_bound(transport), Obj::from_bound(protocol), waiter));
    };
    let layer = tls.layer(py, &runtime, &protocol, Some(waiter.clone()), true)?;
    let transport = layer.get().app_transport.get().unwrap_or_else(|| Obj::none(py));
    let parts = Parts { socket, fd, names, protocol: layer.as_any(), context, server: None, waiter: None };
    stream::make(py, &runtime, parts)?;
    Ok((transport, Obj::from_bound(protocol), waiter))
}

/// The keywords of `connect_accepted_socket`.
pub(super) struct Accepted {
    pub(super) protocol_factory: Obj,
    pub(super) sock: Obj,
    pub(super) ssl: Option<Obj>,
    pub(super) ssl_handshake_timeout: Option<Obj>,
    pub(super) ssl_shutdown_timeout: Option<Obj>,
}

pub(super) fn connect_accepted_socket(py: Python<'_>, runtime: RuntimeRef, arguments: Accepted) -> PyResult<Obj> {
    coroutine::make(py, runtime, "Loop.connect_accepted_socket", |co| async move {
        let tls = Python::attach(|py| {
            let sock = arguments.sock.borrow(py);
            require_stream(&sock)?;
            let (handshake, shutdown) = (arguments.ssl_handshake_timeout, arguments.ssl_shutdown_timeout);
            let tls = Tls::asked(py, arguments.ssl.as_ref(), true, None, handshake, shutdown)?;
            refuse_tls_socket(&sock)?;
            Ok::<_, PyErr>(tls)
        })?;
        let pair = open(&co, Connected::Python(arguments.sock.clone()), &arguments.protocol_factory, tls).await?;
        Python::attach(|py| {
            if co.runtime().scheduler.debug.get() {
                let opened = pair.borrow(py);
                let socket = opened.get_item(0)?.call_method1("get_extra_info", ("socket",))?;
                let text = "%r handled: (%r, %r)";
                log::logger(py)?.call_method1("debug", (text, socket, opened.get_item(0)?, opened.get_item(1)?))?;
            }
            Ok(pair)
        })
    })
}
