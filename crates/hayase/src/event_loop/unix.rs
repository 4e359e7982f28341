//! `create_unix_connection` and `create_unix_server`.
//!
//! The socket of a connection to a path is native; what comes after (transport, server) is the same as for TCP. A server's
//! socket is bound by Python's `socket`, once; the file it leaves is the server's to remove.

use std::os::fd::{AsRawFd, OwnedFd};

use pyo3::exceptions::{
    PyAssertionError, PyBlockingIOError, PyFileNotFoundError, PyOSError, PyTypeError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt, PyString};

use super::connect::{self, Connected, check_tls_timeouts};
use super::start_tls::Tls;
use crate::interop::{errors, log};
use crate::raw::compat;
use crate::raw::obj::Obj;
use crate::runtime::RuntimeRef;
use crate::runtime::coroutine::{self, Co};
use crate::transports::address;
use crate::transports::server::{self, Server, SocketFile};

const EADDRINUSE: i32 = 98;

/// How long a connection waits for room in the listener's backlog before it tries again: nothing tells it.
const BACKLOG_RETRY_SECONDS: f64 = 0.001;
const BACKLOG_RETRY_SECONDS_MAX: f64 = 0.05;

/// The keywords of `create_unix_connection`; what was not given is `None`.
pub(super) struct ConnectUnix {
    pub(super) protocol_factory: Obj,
    pub(super) path: Option<Obj>,
    pub(super) ssl: Option<Obj>,
    pub(super) sock: Option<Obj>,
    pub(super) server_hostname: Option<Obj>,
    pub(super) ssl_handshake_timeout: Option<Obj>,
    pub(super) ssl_shutdown_timeout: Option<Obj>,
}

/// The keywords of `create_unix_server`.
pub(super) struct ServeUnix {
    pub(super) protocol_factory: Obj,
    pub(super) path: Option<Obj>,
    pub(super) sock: Option<Obj>,
    pub(super) backlog: i32,
    pub(super) ssl: Option<Obj>,
    pub(super) ssl_handshake_timeout: Option<Obj>,
    pub(super) ssl_shutdown_timeout: Option<Obj>,
    pub(super) start_serving: bool,
    /// `None`: as the running version does.
    pub(super) cleanup_socket: Option<bool>,
}

// Connecting

pub(super) fn create_connection(py: Python<'_>, runtime: RuntimeRef, arguments: ConnectUnix) -> PyResult<Obj> {
    coroutine::make(py, runtime, "Loop.create_unix_connection", |co| async move {
        let (path, tls) = Python::attach(|py| check_connect(py, &arguments))?;
        let socket = match (path, &arguments.sock) {
            (Some(path), None) => connect_to(&co, &path).await?,
            (Some(_), Some(_)) => {
                return Err(PyValueError::new_err("path and sock can not be specified at the same time"));
            }
            (None, Some(sock)) => {
                Python::attach(|py| require_unix_stream(&sock.borrow(py)))?;
                Connected::Python(sock.clone())
            }
            (None, None) => return Err(PyValueError::new_err("no path and sock were specified")),
        };
        connect::open(&co, socket, &arguments.protocol_factory, tls).await
    })
}

/// The path as `os.fspath` gives it, and whether to speak TLS.
fn check_connect(py: Python<'_>, arguments: &ConnectUnix) -> PyResult<(Option<Obj>, Option<Tls>)> {
    if let Some(hostname) = &arguments.server_hostname
        && !hostname.borrow(py).is_instance_of::<PyString>()
    {
        return Err(PyAssertionError::new_err(()));
    }
    let ssl = arguments.ssl.as_ref().map_or(Ok(false), |ssl| ssl.borrow(py).is_truthy())?;
    match (&arguments.server_hostname, ssl) {
        (None, true) => return Err(PyValueError::new_err("you have to pass server_hostname when using ssl")),
        (Some(_), false) => return Err(PyValueError::new_err("server_hostname is only meaningful with ssl")),
        (Some(_), true) | (None, false) => {}
    }
    let (handshake, shutdown) = (arguments.ssl_handshake_timeout.clone(), arguments.ssl_shutdown_timeout.clone());
    let hostname = arguments.server_hostname.clone();
    let tls = Tls::asked(py, arguments.ssl.as_ref(), false, hostname, handshake, shutdown)?;
    if arguments.sock.is_some() && arguments.path.is_some() {
        return Ok((arguments.path.clone(), tls));
    }
    Ok((arguments.path.as_ref().map(|path| fspath(py, path)).transpose()?, tls))
}

fn fspath(py: Python<'_>, path: &Obj) -> PyResult<Obj> {
    py.import("os")?.call_method1("fspath", (path.borrow(py),)).map(Obj::from_bound)
}

fn require_unix_stream(sock: &Bound<'_, PyAny>) -> PyResult<()> {
    let module = sock.py().import("socket")?;
    if sock.getattr("family")?.ne(module.getattr("AF_UNIX")?)?
        || sock.getattr("type")?.ne(module.getattr("SOCK_STREAM")?)?
    {
        let text = format!("A UNIX Domain Stream Socket was expected, got {}", sock.repr()?);
        return Err(PyValueError::new_err(text));
    }
    Ok(())
}

async fn connect_to(co: &Co, path: &Obj) -> PyResult<Connected> {
    let mut wait_seconds = BACKLOG_RETRY_SECONDS;
    loop {
        if let Some(connected) = Python::attach(|py| try_to_connect(py, path))? {
            return Ok(connected);
        }
        let pause = Python::attach(|py| {
            py.import("asyncio.tasks")?.call_method1("sleep", (wait_seconds,)).map(Obj::from_bound)
        })?;
        co.wait_for(pause).await?;
        wait_seconds = (wait_seconds * 2.0).min(BACKLOG_RETRY_SECONDS_MAX);
    }
}

/// `None` while the listener's backlog is full. A Unix socket is connected at once or not at all.
fn try_to_connect(py: Python<'_>, path: &Obj) -> PyResult<Option<Connected>> {
    let Some(bytes) = address::unix_path(&path.borrow(py))? else {
        return connect_python_socket(py, path);
    };
    let fd: OwnedFd = driver::unix_stream_socket().map_err(|error| errors::os_error(py, &error))?;
    match driver::connect_unix(fd.as_raw_fd(), &bytes) {
        Ok(()) => Ok(Some(Connected::Native(fd, None))),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(errors::os_error(py, &error)),
    }
}

fn connect_python_socket(py: Python<'_>, path: &Obj) -> PyResult<Option<Connected>> {
    let socket = unix_socket(py)?;
    let connected = socket.call_method1("setblocking", (false,)).and_then(|_| {
        let path = path.borrow(py);
        socket.call_method1("connect", (path,))
    });
    match connected {
        Ok(_) => Ok(Some(Connected::Python(Obj::from_bound(socket)))),
        Err(err) => {
            socket.call_method0("close")?;
            if err.is_instance_of::<PyBlockingIOError>(py) { Ok(None) } else { Err(err) }
        }
    }
}

fn unix_socket(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let module = py.import("socket")?;
    let (family, kind) = (module.getattr("AF_UNIX")?, module.getattr("SOCK_STREAM")?);
    module.getattr("socket")?.call1((family, kind))
}

// Serving

pub(super) fn create_server(py: Python<'_>, runtime: RuntimeRef, arguments: ServeUnix) -> PyResult<Obj> {
    coroutine::make(py, runtime, "Loop.create_unix_server", |co| async move {
        let server = Python::attach(|py| serve(py, &co, &arguments))?;
        if arguments.start_serving {
            co.yield_once().await?;
        }
        Ok(server)
    })
}

fn serve(py: Python<'_>, co: &Co, arguments: &ServeUnix) -> PyResult<Obj> {
    let socket = listening_socket(py, arguments)?;
    let file = if arguments.cleanup_socket.unwrap_or(compat::UNIX_SERVER_REMOVES_ITS_FILE) {
        socket_file(&socket)?
    } else {
        None
    };
    socket.call_method1("setblocking", (false,))?;
    let server = Server::new(
        co.runtime_ref(),
        vec![Obj::from_bound(socket)],
        arguments.protocol_factory.clone(),
        arguments.ssl.clone(),
        arguments.backlog,
    )
    .with_tls_timeouts(arguments.ssl_handshake_timeout.clone(), arguments.ssl_shutdown_timeout.clone());
    let server = server::make(py, server)?;
    if let Some(file) = file {
        server.get().owns_file(py, file);
    }
    if arguments.start_serving {
        server::begin_serving(&server)?;
    }
    Ok(Obj::from_bound(server))
}

fn listening_socket<'py>(py: Python<'py>, arguments: &ServeUnix) -> PyResult<Bound<'py, PyAny>> {
    if arguments.ssl.as_ref().is_some_and(|ssl| ssl.borrow(py).is_instance_of::<PyBool>()) {
        return Err(PyTypeError::new_err("ssl argument must be an SSLContext or None"));
    }
    let ssl = arguments.ssl.as_ref().map_or(Ok(false), |ssl| ssl.borrow(py).is_truthy())?;
    check_tls_timeouts(arguments.ssl_handshake_timeout.as_ref(), arguments.ssl_shutdown_timeout.as_ref(), ssl)?;
    match (&arguments.path, &arguments.sock) {
        (Some(_), Some(_)) => Err(PyValueError::new_err("path and sock can not be specified at the same time")),
        (Some(path), None) => {
            let path = fspath(py, path)?.into_bound(py);
            let socket = unix_socket(py)?;
            match bind(&socket, &path) {
                Ok(()) => Ok(socket),
                Err(err) => {
                    socket.call_method0("close")?;
                    Err(err)
                }
            }
        }
        (None, Some(sock)) => {
            let sock = sock.clone().into_bound(py);
            require_unix_stream(&sock)?;
            Ok(sock)
        }
        (None, None) => Err(PyValueError::new_err("path was not specified, and no sock specified")),
    }
}

fn bind(socket: &Bound<'_, PyAny>, path: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = socket.py();
    if !is_abstract(path)? {
        remove_stale(path)?;
    }
    let Err(err) = socket.call_method1("bind", (path,)) else {
        return Ok(());
    };
    if err.is_instance_of::<PyOSError>(py) && err.value(py).getattr("errno")?.eq(EADDRINUSE)? {
        return Err(PyOSError::new_err((EADDRINUSE, format!("Address {} is already in use", path.repr()?))));
    }
    Err(err)
}

/// Whether a path, or the name of a socket, begins with a zero byte. An empty one is an `IndexError`, as in asyncio.
fn is_abstract(path: &Bound<'_, PyAny>) -> PyResult<bool> {
    let first = path.get_item(0)?;
    if first.is_instance_of::<PyInt>() { first.eq(0) } else { first.eq("\0") }
}

/// Removes a socket that an earlier process left at `path`; anything else there is not ours to remove.
pub(super) fn remove_stale(path: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = path.py();
    let files = server::files(py)?;
    let removed = files.call_method1("stat", (path,)).and_then(|found| {
        if py.import("stat")?.call_method1("S_ISSOCK", (found.getattr("st_mode")?,))?.is_truthy()? {
            files.call_method1("unlink", (path,))?;
        }
        Ok(())
    });
    match removed {
        Err(err) if err.is_instance_of::<PyFileNotFoundError>(py) => Ok(()),
        // The directory may allow no more than making a socket.
        Err(err) if err.is_instance_of::<PyOSError>(py) => {
            let text = "Unable to check or remove stale UNIX socket %r: %r";
            log::logger(py)?.call_method1("error", (text, path, err.value(py))).map(drop)
        }
        other => other,
    }
}

/// `None` for an abstract name, and for a file that is gone already.
fn socket_file(socket: &Bound<'_, PyAny>) -> PyResult<Option<SocketFile>> {
    let py = socket.py();
    let path = socket.call_method0("getsockname")?;
    if is_abstract(&path)? {
        return Ok(None);
    }
    match server::files(py)?.call_method1("stat", (path,)).and_then(|found| found.getattr("st_ino")) {
        Ok(inode) => Ok(Some(SocketFile { socket: Obj::from_any(socket), inode: Obj::from_bound(inode) })),
        Err(err) if err.is_instance_of::<PyFileNotFoundError>(py) => Ok(None),
        Err(err) => Err(err),
    }
}
