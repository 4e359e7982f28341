//! `create_datagram_endpoint`: arguments checked with asyncio's texts, a socket made, bound and connected, the transport made.
//!
//! If the first pair of addresses cannot be used the next one is tried; a socket that failed is closed.

use std::ffi::c_int;

use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::connect::make_protocol;
use super::resolve::{self, Kind, Place};
use super::unix::remove_stale;
use crate::interop::arguments::int;
use crate::interop::log;
use crate::raw::call::{self, Name};
use crate::raw::compat;
use crate::raw::obj::Obj;
use crate::raw::to_py;
use crate::runtime::RuntimeRef;
use crate::runtime::coroutine::{self, Co};
use crate::transports::datagram;

static CREATE_FUTURE: Name = Name::new(c"create_future");

const AF_UNIX: c_int = 1;

/// The keywords of `create_datagram_endpoint`; what was not given is `None`.
pub(super) struct Endpoint {
    pub(super) protocol_factory: Obj,
    pub(super) local_addr: Option<Obj>,
    pub(super) remote_addr: Option<Obj>,
    pub(super) family: Obj,
    pub(super) proto: Obj,
    pub(super) flags: Obj,
    pub(super) reuse_port: Option<Obj>,
    pub(super) allow_broadcast: Option<Obj>,
    pub(super) sock: Option<Obj>,
}

/// One way to make the socket.
struct Plan {
    family: Obj,
    protocol: Obj,
    local: Option<Obj>,
    remote: Option<Obj>,
}

pub(super) fn create_endpoint(py: Python<'_>, runtime: RuntimeRef, arguments: Endpoint) -> PyResult<Obj> {
    coroutine::make(py, runtime, "Loop.create_datagram_endpoint", |co| endpoint(co, arguments))
}

async fn endpoint(co: Co, arguments: Endpoint) -> PyResult<Obj> {
    let (socket, remote) = match &arguments.sock {
        Some(sock) => {
            Python::attach(|py| take(py, sock, &arguments))?;
            (sock.clone(), None)
        }
        None => {
            let plans = plans(&co, &arguments).await?;
            first_that_works(&co, plans, &arguments).await?
        }
    };
    let (transport, protocol, waiter) = Python::attach(|py| {
        let protocol = make_protocol(py, &arguments.protocol_factory)?;
        let waiter = to_py(py, call::method(py, co.event_loop(), &CREATE_FUTURE, &[]))?;
        // An empty address is none.
        let remote = match remote {
            Some(remote) if remote.borrow(py).is_truthy()? => Some(remote),
            Some(_) | None => None,
        };
        let transport = datagram::make(&co.runtime_ref(), &socket.borrow(py), &protocol, remote, waiter.clone())?;
        log_creation(py, &co, &arguments, &transport, &protocol)?;
        Ok::<_, PyErr>((Obj::from_bound(transport), Obj::from_bound(protocol), waiter))
    })?;
    if let Err(err) = co.wait_for(waiter).await {
        Python::attach(|py| transport.borrow(py).call_method0("close").map(drop))?;
        return Err(err);
    }
    Python::attach(|py| {
        let pair = PyTuple::new(py, [transport.into_bound(py), protocol.into_bound(py)])?;
        Ok(Obj::from_bound(pair))
    })
}

fn log_creation(
    py: Python<'_>,
    co: &Co,
    arguments: &Endpoint,
    transport: &Bound<'_, datagram::DatagramTransport>,
    protocol: &Bound<'_, PyAny>,
) -> PyResult<()> {
    if !co.runtime().scheduler.debug.get() {
        return Ok(());
    }
    let (local, remote) = (shown(py, &arguments.local_addr), shown(py, &arguments.remote_addr));
    if is_given(py, &arguments.local_addr)? {
        let text = "Datagram endpoint local_addr=%r remote_addr=%r created: (%r, %r)";
        log::logger(py)?.call_method1("info", (text, local, remote, transport, protocol))?;
    } else {
        let text = "Datagram endpoint remote_addr=%r created: (%r, %r)";
        log::logger(py)?.call_method1("debug", (text, remote, transport, protocol))?;
    }
    Ok(())
}

fn shown<'py>(py: Python<'py>, value: &Option<Obj>) -> Bound<'py, PyAny> {
    value.clone().unwrap_or_else(|| Obj::none(py)).into_bound(py)
}

/// Neither missing nor empty.
fn is_given(py: Python<'_>, value: &Option<Obj>) -> PyResult<bool> {
    value.as_ref().map_or(Ok(false), |value| value.borrow(py).is_truthy())
}

// A socket of the program's

fn take(py: Python<'_>, sock: &Obj, arguments: &Endpoint) -> PyResult<()> {
    let sock = sock.borrow(py);
    let module = py.import("socket")?;
    let kind = sock.getattr("type")?;
    if compat::DATAGRAM_SOCKETS_OF_ANY_TYPE {
        if kind.eq(module.getattr("SOCK_STREAM")?)? {
            return Err(PyValueError::new_err(format!("A datagram socket was expected, got {}", sock.repr()?)));
        }
    } else if kind.ne(module.getattr("SOCK_DGRAM")?)? {
        return Err(PyValueError::new_err(format!("A UDP Socket was expected, got {}", sock.repr()?)));
    }
    let none = || Obj::none(py);
    let options = [
        ("local_addr", arguments.local_addr.clone().unwrap_or_else(none)),
        ("remote_addr", arguments.remote_addr.clone().unwrap_or_else(none)),
        ("family", arguments.family.clone()),
        ("proto", arguments.proto.clone()),
        ("flags", arguments.flags.clone()),
        ("reuse_port", arguments.reuse_port.clone().unwrap_or_else(none)),
        ("allow_broadcast", arguments.allow_broadcast.clone().unwrap_or_else(none)),
    ];
    let mut problems = Vec::new();
    for (name, value) in options {
        let value = value.into_bound(py);
        if value.is_truthy()? {
            problems.push(format!("{name}={}", value.str()?));
        }
    }
    if !problems.is_empty() {
        return Err(PyValueError::new_err(format!(
            "socket modifier keyword arguments can not be used when sock is specified. ({})",
            problems.join(", ")
        )));
    }
    sock.call_method1("setblocking", (false,)).map(drop)
}

// Addresses

async fn plans(co: &Co, arguments: &Endpoint) -> PyResult<Vec<Plan>> {
    let (local_given, remote_given, unix) = Python::attach(|py| {
        let unix = arguments.family.borrow(py).eq(AF_UNIX)?;
        Ok::<_, PyErr>((is_given(py, &arguments.local_addr)?, is_given(py, &arguments.remote_addr)?, unix))
    })?;
    if !local_given && !remote_given {
        if !Python::attach(|py| arguments.family.borrow(py).is_truthy())? {
            return Err(PyValueError::new_err("unexpected address family"));
        }
        return Ok(vec![plan(arguments, None, None)]);
    }
    if unix {
        Python::attach(|py| check_paths(py, arguments))?;
        return Ok(vec![plan(arguments, arguments.local_addr.clone(), arguments.remote_addr.clone())]);
    }
    let local = resolved(co, arguments, &arguments.local_addr).await?;
    let remote = resolved(co, arguments, &arguments.remote_addr).await?;
    let mut plans = joined(local, remote);
    plans.retain(|plan| (!local_given || plan.local.is_some()) && (!remote_given || plan.remote.is_some()));
    if plans.is_empty() {
        return Err(PyValueError::new_err("can not get address information"));
    }
    Ok(plans.into_iter().map(|plan| plan.into_python()).collect())
}

fn plan(arguments: &Endpoint, local: Option<Obj>, remote: Option<Obj>) -> Plan {
    Plan { family: arguments.family.clone(), protocol: arguments.proto.clone(), local, remote }
}

fn check_paths(py: Python<'_>, arguments: &Endpoint) -> PyResult<()> {
    for address in [&arguments.local_addr, &arguments.remote_addr].into_iter().flatten() {
        if !address.borrow(py).is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err("string is expected"));
        }
    }
    let Some(local) = &arguments.local_addr else {
        return Ok(());
    };
    let local = local.borrow(py);
    if local.is_truthy()? && !local.get_item(0)?.eq("\0")? {
        remove_stale(&local)?;
    }
    Ok(())
}

/// A pair of addresses of one family and protocol.
struct Joined {
    family: c_int,
    protocol: c_int,
    local: Option<Obj>,
    remote: Option<Obj>,
}

impl Joined {
    fn into_python(self) -> Plan {
        Python::attach(|py| {
            let number = |number: c_int| Obj::from_bound(pyo3::types::PyInt::new(py, number));
            Plan {
                family: number(self.family),
                protocol: number(self.protocol),
                local: self.local,
                remote: self.remote,
            }
        })
    }
}

fn joined(local: Vec<resolve::Resolved>, remote: Vec<resolve::Resolved>) -> Vec<Joined> {
    let mut pairs: Vec<Joined> = Vec::new();
    for (infos, is_local) in [(local, true), (remote, false)] {
        for info in infos {
            let key = (info.family, info.protocol);
            let index = pairs.iter().position(|pair| (pair.family, pair.protocol) == key).unwrap_or_else(|| {
                pairs.push(Joined { family: key.0, protocol: key.1, local: None, remote: None });
                pairs.len() - 1
            });
            let pair = &mut pairs[index];
            // The last one of a family counts, as in asyncio.
            *(if is_local { &mut pair.local } else { &mut pair.remote }) = Some(info.address);
        }
    }
    pairs
}

async fn resolved(co: &Co, arguments: &Endpoint, address: &Option<Obj>) -> PyResult<Vec<resolve::Resolved>> {
    let Some(address) = address else {
        return Ok(Vec::new());
    };
    let (place, family, protocol, flags) = Python::attach(|py| {
        let address = address.borrow(py);
        let pair = address.cast::<PyTuple>().ok().filter(|pair| pair.len() == 2);
        let Some(pair) = pair else {
            return Err(PyTypeError::new_err("2-tuple is expected"));
        };
        Ok((
            Place::new(Obj::from_bound(pair.get_item(0)?), Obj::from_bound(pair.get_item(1)?)),
            int(&arguments.family.borrow(py))?,
            int(&arguments.proto.borrow(py))?,
            int(&arguments.flags.borrow(py))?,
        ))
    })?;
    let infos = resolve::resolve_kind(co, Kind::Datagram, place, family, protocol, flags).await?;
    if infos.is_empty() {
        return Err(PyOSError::new_err("getaddrinfo() returned empty list"));
    }
    Ok(infos)
}

// Sockets

/// The socket, and the address that everything is sent to.
async fn first_that_works(co: &Co, plans: Vec<Plan>, arguments: &Endpoint) -> PyResult<(Obj, Option<Obj>)> {
    let mut first_error = None;
    for plan in plans {
        let socket = match Python::attach(|py| open(py, &plan, arguments)) {
            Ok(socket) => socket,
            Err(err) if Python::attach(|py| err.is_instance_of::<PyOSError>(py)) => {
                first_error.get_or_insert(err);
                continue;
            }
            Err(err) => return Err(err),
        };
        let Some(remote) = plan.remote else {
            return Ok((socket, None));
        };
        match connect(co, &socket, &remote, arguments).await {
            Ok(()) => return Ok((socket, Some(remote))),
            Err(err) => {
                let try_next = Python::attach(|py| {
                    socket.borrow(py).call_method0("close")?;
                    Ok::<_, PyErr>(err.is_instance_of::<PyOSError>(py))
                })?;
                if !try_next {
                    return Err(err);
                }
                first_error.get_or_insert(err);
            }
        }
    }
    Err(first_error.unwrap_or_else(|| PyValueError::new_err("can not get address information")))
}

fn open(py: Python<'_>, plan: &Plan, arguments: &Endpoint) -> PyResult<Obj> {
    let module = py.import("socket")?;
    let kind = module.getattr("SOCK_DGRAM")?;
    let socket = module.getattr("socket")?.call1((plan.family.borrow(py), kind, plan.protocol.borrow(py)))?;
    match prepare(&socket, plan, arguments) {
        Ok(()) => Ok(Obj::from_bound(socket)),
        Err(err) => {
            socket.call_method0("close")?;
            Err(err)
        }
    }
}

fn prepare(socket: &Bound<'_, PyAny>, plan: &Plan, arguments: &Endpoint) -> PyResult<()> {
    let py = socket.py();
    let module = py.import("socket")?;
    let set = |option: &str| {
        socket.call_method1("setsockopt", (module.getattr("SOL_SOCKET")?, module.getattr(option)?, 1)).map(drop)
    };
    if is_given(py, &arguments.reuse_port)? {
        match set("SO_REUSEPORT") {
            Err(err) if err.is_instance_of::<PyOSError>(py) => {
                let text = "reuse_port not supported by socket module, SO_REUSEPORT defined but not implemented.";
                return Err(PyValueError::new_err(text));
            }
            other => other?,
        }
    }
    if is_given(py, &arguments.allow_broadcast)? {
        set("SO_BROADCAST")?;
    }
    socket.call_method1("setblocking", (false,))?;
    match &plan.local {
        Some(local) if is_given(py, &arguments.local_addr)? => {
            socket.call_method1("bind", (local.borrow(py),)).map(drop)
        }
        Some(_) | None => Ok(()),
    }
}

/// A socket that may broadcast is not connected: it would not hear the answers.
async fn connect(co: &Co, socket: &Obj, remote: &Obj, arguments: &Endpoint) -> PyResult<()> {
    let connecting = Python::attach(|py| {
        if is_given(py, &arguments.allow_broadcast)? {
            return Ok(None);
        }
        let args = (socket.borrow(py), remote.borrow(py));
        co.event_loop().borrow(py).call_method1("sock_connect", args).map(|made| Some(Obj::from_bound(made)))
    })?;
    match connecting {
        Some(connecting) => co.wait_for(connecting).await.map(drop),
        None => Ok(()),
    }
}
