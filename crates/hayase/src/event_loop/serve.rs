//! `create_server`: addresses looked up, sockets made and bound, the server made.
//!
//! If one address cannot be bound nothing stays open.

use std::ffi::c_int;

use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyString};

use super::connect::{check_tls_timeouts, refuse_tls_socket, require_stream};
use super::resolve::{self, Place, Resolved};
use crate::interop::log;
use crate::raw::compat;
use crate::raw::obj::Obj;
use crate::runtime::RuntimeRef;
use crate::runtime::coroutine::{self, Co};
use crate::transports::server::{self, Server};

const AF_INET: c_int = 2;
const AF_INET6: c_int = 10;
const EADDRNOTAVAIL: i32 = 99;

/// The keywords of `create_server`.
pub(super) struct Serve {
    pub(super) protocol_factory: Obj,
    pub(super) host: Option<Obj>,
    pub(super) port: Option<Obj>,
    pub(super) family: c_int,
    pub(super) flags: c_int,
    pub(super) sock: Option<Obj>,
    pub(super) backlog: i32,
    pub(super) ssl: Option<Obj>,
    pub(super) reuse_address: Option<bool>,
    pub(super) reuse_port: bool,
    pub(super) keep_alive: bool,
    pub(super) ssl_handshake_timeout: Option<Obj>,
    pub(super) ssl_shutdown_timeout: Option<Obj>,
    pub(super) start_serving: bool,
}

pub(super) fn create_server(py: Python<'_>, runtime: RuntimeRef, arguments: Serve) -> PyResult<Obj> {
    coroutine::make(py, runtime, "Loop.create_server", |co| serve(co, arguments))
}

async fn serve(co: Co, arguments: Serve) -> PyResult<Obj> {
    Python::attach(|py| check(py, &arguments))?;
    let sockets = if arguments.host.is_some() || arguments.port.is_some() {
        if arguments.sock.is_some() {
            return Err(PyValueError::new_err("host/port and sock can not be specified at the same time"));
        }
        let infos = addresses(&co, &arguments).await?;
        Python::attach(|py| bind_all(py, &co, &infos, &arguments))?
    } else {
        let Some(sock) = &arguments.sock else {
            return Err(PyValueError::new_err("Neither host/port nor sock were specified"));
        };
        Python::attach(|py| require_stream(&sock.borrow(py)))?;
        vec![sock.clone()]
    };
    let server = Python::attach(|py| {
        for socket in &sockets {
            socket.borrow(py).call_method1("setblocking", (false,))?;
        }
        let server = Server::new(
            co.runtime_ref(),
            sockets,
            arguments.protocol_factory.clone(),
            arguments.ssl.clone(),
            arguments.backlog,
        )
        .with_tls_timeouts(arguments.ssl_handshake_timeout.clone(), arguments.ssl_shutdown_timeout.clone());
        let server = server::make(py, server)?;
        if arguments.start_serving {
            server::begin_serving(&server)?;
        }
        Ok::<_, PyErr>(Obj::from_bound(server))
    })?;
    if arguments.start_serving {
        co.yield_once().await?;
    }
    Python::attach(|py| {
        if co.runtime().scheduler.debug.get() {
            log::logger(py)?.call_method1("info", ("%r is serving", server.borrow(py)))?;
        }
        Ok(server)
    })
}

fn check(py: Python<'_>, arguments: &Serve) -> PyResult<()> {
    if arguments.ssl.as_ref().is_some_and(|ssl| ssl.borrow(py).is_instance_of::<PyBool>()) {
        return Err(PyTypeError::new_err("ssl argument must be an SSLContext or None"));
    }
    check_tls_timeouts(
        arguments.ssl_handshake_timeout.as_ref(),
        arguments.ssl_shutdown_timeout.as_ref(),
        arguments.ssl.is_some(),
    )?;
    if let Some(sock) = &arguments.sock {
        refuse_tls_socket(&sock.borrow(py))?;
    }
    Ok(())
}

/// All addresses of all hosts, each once.
async fn addresses(co: &Co, arguments: &Serve) -> PyResult<Vec<Resolved>> {
    let hosts = Python::attach(|py| hosts(py, arguments.host.as_ref()))?;
    let mut infos: Vec<Resolved> = Vec::new();
    for host in hosts {
        let port = arguments.port.clone().unwrap_or_else(|| Python::attach(Obj::none));
        let found = resolve::resolve(co, Place::new(host.clone(), port), arguments.family, 0, arguments.flags).await?;
        Python::attach(|py| {
            if found.is_empty() {
                let text = format!("getaddrinfo({}) returned empty list", host.borrow(py).repr()?);
                return Err(PyOSError::new_err(text));
            }
            for info in found {
                let mut known = false;
                for other in &infos {
                    known |= same(py, other, &info)?;
                }
                if !known {
                    infos.push(info);
                }
            }
            Ok(())
        })?;
    }
    Ok(infos)
}

fn hosts(py: Python<'_>, host: Option<&Obj>) -> PyResult<Vec<Obj>> {
    let Some(host) = host else {
        return Ok(vec![Obj::none(py)]);
    };
    let bound = host.borrow(py);
    if let Ok(text) = bound.cast::<PyString>() {
        return Ok(vec![if text.len()? == 0 { Obj::none(py) } else { host.clone() }]);
    }
    match bound.try_iter() {
        Ok(items) => items.map(|item| item.map(Obj::from_bound)).collect(),
        Err(_) => Ok(vec![host.clone()]),
    }
}

fn same(py: Python<'_>, one: &Resolved, other: &Resolved) -> PyResult<bool> {
    Ok(one.family == other.family
        && one.socktype == other.socktype
        && one.protocol == other.protocol
        && one.canonname.borrow(py).eq(other.canonname.borrow(py))?
        && one.address.borrow(py).eq(other.address.borrow(py))?)
}

fn bind_all(py: Python<'_>, co: &Co, infos: &[Resolved], arguments: &Serve) -> PyResult<Vec<Obj>> {
    let mut sockets = Vec::new();
    let bound = infos.iter().try_for_each(|info| match bind_one(py, co, info, arguments, &mut sockets) {
        Err(err) => Err(err),
        Ok(()) => Ok(()),
    });
    let bound = bound.and_then(|()| match sockets.is_empty() {
        false => Ok(()),
        true => Err(nothing_bound(py, infos)),
    });
    if let Err(err) = bound {
        for socket in sockets {
            // The first error is the one to tell.
            let _ = socket.borrow(py).call_method0("close");
        }
        return Err(err);
    }
    Ok(sockets)
}

fn nothing_bound(py: Python<'_>, infos: &[Resolved]) -> PyErr {
    let addresses = pyo3::types::PyList::new(py, infos.iter().map(|info| info.address.borrow(py)));
    match addresses.and_then(|addresses| Ok(addresses.repr()?.to_string())) {
        Ok(addresses) => PyOSError::new_err(format!("could not bind on any address out of {addresses}")),
        Err(err) => err,
    }
}

/// Made and bound, the socket is in `sockets`; an address of a family that this system has not is passed over.
fn bind_one(py: Python<'_>, co: &Co, info: &Resolved, arguments: &Serve, sockets: &mut Vec<Obj>) -> PyResult<()> {
    let debug = co.runtime().scheduler.debug.get();
    let module = py.import("socket")?;
    let constant = |name: &str| module.getattr(name);
    let made = module.getattr("socket")?.call1((info.family, info.socktype, info.protocol));
    let socket = match made {
        Ok(socket) => socket,
        Err(err) if err.is_instance_of::<PyOSError>(py) => {
            if debug {
                let text = "create_server() failed to create socket.socket(%r, %r, %r)";
                let args = (text, info.family, info.socktype, info.protocol);
                let keywords = pyo3::types::PyDict::new(py);
                keywords.set_item("exc_info", err.value(py))?;
                log::logger(py)?.call_method("warning", args, Some(&keywords))?;
            }
            return Ok(());
        }
        Err(err) => return Err(err),
    };
    sockets.push(Obj::from_any(&socket));
    let set = |level: &str, option: &str| {
        socket.call_method1("setsockopt", (constant(level)?, constant(option)?, true)).map(drop)
    };
    if arguments.reuse_address.unwrap_or(true) {
        set("SOL_SOCKET", "SO_REUSEADDR")?;
    }
    // Newer kernels refuse it for other families.
    if arguments.reuse_port && [AF_INET, AF_INET6].contains(&info.family) {
        match set("SOL_SOCKET", "SO_REUSEPORT") {
            Err(err) if err.is_instance_of::<PyOSError>(py) => {
                let text = "reuse_port not supported by socket module, SO_REUSEPORT defined but not implemented.";
                return Err(PyValueError::new_err(text));
            }
            other => other?,
        }
    }
    if arguments.keep_alive {
        set("SOL_SOCKET", "SO_KEEPALIVE")?;
    }
    // Else one socket would take both families, and the IPv4 address of the same port could not be bound.
    if info.family == AF_INET6 {
        set("IPPROTO_IPV6", "IPV6_V6ONLY")?;
    }
    let address = info.address.borrow(py);
    let Err(err) = socket.call_method1("bind", (address,)) else {
        return Ok(());
    };
    if !err.is_instance_of::<PyOSError>(py) {
        return Err(err);
    }
    let errno = err.value(py).getattr("errno")?;
    let said =
        if compat::BIND_ERRORS_AS_OF_3_13 { err.value(py).str()? } else { err.value(py).getattr("strerror")?.str()? };
    let said = said.to_str()?.to_lowercase();
    let text = format!("error while attempting to bind on address {}: {said}", address.repr()?);
    if compat::BIND_ERRORS_AS_OF_3_13 && errno.eq(EADDRNOTAVAIL)? {
        sockets.pop();
        socket.call_method0("close")?;
        if debug {
            log::logger(py)?.call_method1("warning", (text,))?;
        }
        return Ok(());
    }
    Err(PyOSError::new_err((errno.unbind(), text)))
}
