//! `getaddrinfo` and `getnameinfo`.
//!
//! What is numeric is answered at once. Names go to the driver's small pool of threads; a lookup that is cancelled
//! is let go, it holds nobody up. If a program replaced `socket.getaddrinfo`, its function is called, in the default
//! executor as asyncio does it; so is the original one for arguments of unusual types, whose errors are then its own.

use std::ffi::{CString, c_int};
use std::io;
use std::net::IpAddr;

use driver::{AddrInfo, BlockingPool, GaiError};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyBytes, PyDict, PyInt, PyList, PySlice, PyString};

use super::Loop;
use crate::interop::{errors, imports};
use crate::raw::call::{self, Name};
use crate::raw::obj::Obj;
use crate::raw::to_py;
use crate::runtime::coroutine::{self, Co};
use crate::runtime::lookups::Answer;
use crate::runtime::{Runtime, RuntimeRef};
use crate::tasks::wait;
use crate::transports::address;

static CREATE_FUTURE: Name = Name::new(c"create_future");

const AI_NUMERICHOST: c_int = 0x4;
const AI_NUMERICSERV: c_int = 0x400;
const NI_NUMERIC: c_int = 0x1 | 0x2;

/// The functions of `socket` as they were when hayase was imported.
static ORIGINALS: PyOnceLock<(Py<PyAny>, Py<PyAny>)> = PyOnceLock::new();

pub(super) fn init(py: Python<'_>) -> PyResult<()> {
    let socket = py.import("socket")?;
    let originals = (socket.getattr("getaddrinfo")?.unbind(), socket.getattr("getnameinfo")?.unbind());
    let _ = ORIGINALS.set(py, originals);
    Ok(())
}

/// Arguments of `getaddrinfo` as Python gave them.
pub(super) struct Question {
    pub(super) host: Obj,
    pub(super) port: Obj,
    pub(super) family: c_int,
    pub(super) socktype: c_int,
    pub(super) protocol: c_int,
    pub(super) flags: c_int,
}

/// The coroutine `loop.getaddrinfo(...)`.
pub(super) fn getaddrinfo(py: Python<'_>, runtime: RuntimeRef, question: Question) -> PyResult<Obj> {
    coroutine::make(py, runtime, "Loop.getaddrinfo", |co| async move {
        match Python::attach(|py| ask(py, &co, &question))? {
            Given::Now(list) => Ok(list),
            Given::Later(future) => co.wait_for(future).await,
        }
    })
}

enum Given {
    Now(Obj),
    Later(Obj),
}

fn ask(py: Python<'_>, co: &Co, question: &Question) -> PyResult<Given> {
    let current = py.import("socket")?.getattr("getaddrinfo")?;
    let replaced = !ORIGINALS.get(py).is_some_and(|originals| current.is(&originals.0));
    let (host, port) = match (replaced, host_text(py, question)?, port_text(py, question)) {
        (false, Some(host), Some(port)) => (host, port),
        (true, _, _) | (_, None, _) | (_, _, None) => {
            let args = (
                py.None(),
                current,
                question.host.borrow(py),
                question.port.borrow(py),
                question.family,
                question.socktype,
                question.protocol,
                question.flags,
            );
            let future = co.event_loop().borrow(py).call_method1("run_in_executor", args)?;
            return Ok(Given::Later(Obj::from_bound(future)));
        }
    };
    let (family, socktype, protocol, flags) = (question.family, question.socktype, question.protocol, question.flags);
    if is_numeric(host.as_ref(), port.as_ref()) {
        let flags = flags | AI_NUMERICSERV | if host.is_some() { AI_NUMERICHOST } else { 0 };
        let found = driver::getaddrinfo(host.as_deref(), port.as_deref(), family, socktype, protocol, flags);
        return answer_list(py, found).map(Given::Now);
    }
    let work = move || {
        let found = driver::getaddrinfo(host.as_deref(), port.as_deref(), family, socktype, protocol, flags);
        Answer::Addresses(found)
    };
    in_pool(py, co, work).map(Given::Later)
}

/// `None` inside: no host. `None` outside: a type that `socket.getaddrinfo` should judge.
fn host_text(py: Python<'_>, question: &Question) -> PyResult<Option<Option<CString>>> {
    let host = question.host.borrow(py);
    if host.is_none() {
        return Ok(Some(None));
    }
    if !host.is_exact_instance_of::<PyString>() {
        return Ok(None);
    }
    if let Ok(text) = host.cast_exact::<PyString>()
        && let Ok(text) = text.to_str()
        && is_plain_name(text)
    {
        return Ok(CString::new(text).ok().map(Some));
    }
    let encoded: Vec<u8> = host.call_method1("encode", ("idna",))?.extract()?;
    Ok(CString::new(encoded).ok().map(Some))
}

/// What the IDNA codec, which is Python code, would give back as it is: labels of 1 to 63 ASCII characters.
fn is_plain_name(text: &str) -> bool {
    text.is_ascii() && text.strip_suffix('.').unwrap_or(text).split('.').all(|label| (1..64).contains(&label.len()))
}

fn port_text(py: Python<'_>, question: &Question) -> Option<Option<CString>> {
    let port = question.port.borrow(py);
    if port.is_none() {
        return Some(None);
    }
    if port.is_exact_instance_of::<PyInt>() && !port.is_instance_of::<PyBool>() {
        return CString::new(port.extract::<i64>().ok()?.to_string()).ok().map(Some);
    }
    let port = port.cast_exact::<PyString>().ok()?;
    CString::new(port.to_str().ok()?).ok().map(Some)
}

/// Whether the resolver answers without asking anybody.
fn is_numeric(host: Option<&CString>, port: Option<&CString>) -> bool {
    let host_is = host.is_none_or(|host| host.to_str().is_ok_and(|text| text.parse::<IpAddr>().is_ok()));
    let digits = |text: &CString| !text.is_empty() && text.to_bytes().iter().all(u8::is_ascii_digit);
    host_is && port.is_none_or(digits)
}

fn answer_list(py: Python<'_>, found: Result<Vec<AddrInfo>, GaiError>) -> PyResult<Obj> {
    let found = found.map_err(|error| gai_error(py, &error))?;
    let socket = py.import("socket")?;
    let (families, kinds) = (socket.getattr("AddressFamily")?, socket.getattr("SocketKind")?);
    let convert = socket.getattr("_intenum_converter")?;
    let list = PyList::empty(py);
    for info in found {
        let address = match info.socket_addr() {
            Some(address) => address::tuple(py, &address)?.into_any(),
            None => (info.family, info.sockaddr.as_slice()).into_pyobject(py)?.into_any(),
        };
        let canonname = info.canonname.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let family = match info.family {
            AF_INET => imports::af_inet(py)?.clone(),
            AF_INET6 => imports::af_inet6(py)?.clone(),
            other => convert.call1((other, &families))?,
        };
        let kind = match info.socktype {
            SOCK_STREAM => imports::sock_stream(py)?.clone(),
            SOCK_DGRAM => imports::sock_dgram(py)?.clone(),
            other => convert.call1((other, &kinds))?,
        };
        list.append((family, kind, info.protocol, canonname, address))?;
    }
    Ok(Obj::from_bound(list))
}

fn gai_error(py: Python<'_>, error: &GaiError) -> PyErr {
    if let Some(errno) = error.errno {
        return errors::from_errno(py, errno);
    }
    match imports::gai_error(py).and_then(|class| class.call1((error.code, error.message.as_str()))) {
        Ok(value) => PyErr::from_value(value),
        Err(err) => err,
    }
}

/// The coroutine `loop.getnameinfo(...)`.
pub(super) fn getnameinfo(py: Python<'_>, runtime: RuntimeRef, sockaddr: Obj, flags: c_int) -> PyResult<Obj> {
    coroutine::make(py, runtime, "Loop.getnameinfo", |co| async move {
        match Python::attach(|py| ask_name(py, &co, &sockaddr, flags))? {
            Given::Now(names) => Ok(names),
            Given::Later(future) => co.wait_for(future).await,
        }
    })
}

/// Flow labels have 20 bits.
const FLOWINFO_MAX: u32 = 0xf_ffff;

fn ask_name(py: Python<'_>, co: &Co, sockaddr: &Obj, flags: c_int) -> PyResult<Given> {
    let current = py.import("socket")?.getattr("getnameinfo")?;
    let replaced = !ORIGINALS.get(py).is_some_and(|originals| current.is(&originals.1));
    let address = address::from_tuple(&sockaddr.borrow(py)).filter(|address| match address {
        std::net::SocketAddr::V4(_) => true,
        std::net::SocketAddr::V6(v6) => v6.flowinfo() <= FLOWINFO_MAX,
    });
    let Some(address) = address.filter(|_| !replaced) else {
        let args = (py.None(), current, sockaddr.borrow(py), flags);
        let future = co.event_loop().borrow(py).call_method1("run_in_executor", args)?;
        return Ok(Given::Later(Obj::from_bound(future)));
    };
    let sockaddr = driver::socket_addr_to_bytes(&address);
    if flags & NI_NUMERIC == NI_NUMERIC {
        return names(py, driver::getnameinfo(&sockaddr, flags)).map(Given::Now);
    }
    in_pool(py, co, move || Answer::Names(driver::getnameinfo(&sockaddr, flags))).map(Given::Later)
}

fn names(py: Python<'_>, found: Result<(CString, CString), GaiError>) -> PyResult<Obj> {
    let (host, service) = found.map_err(|error| gai_error(py, &error))?;
    let pair = (host.to_string_lossy().into_owned(), service.to_string_lossy().into_owned());
    Ok(Obj::from_bound(pair.into_pyobject(py)?))
}

/// Runs `work` in the pool; the future gets what [`deliver`] makes of its answer.
fn in_pool(py: Python<'_>, co: &Co, work: impl FnOnce() -> Answer + Send + 'static) -> PyResult<Obj> {
    let runtime: &Runtime = co.runtime();
    let future = to_py(py, call::method(py, co.event_loop(), &CREATE_FUTURE, &[]))?;
    let ticket = runtime.lookups.begin(py, future.clone(), runtime.driver.waker());
    let job = move || ticket.answer(work());
    let spawned = runtime.blocking.with(py, |pool| pool.get_or_insert_with(BlockingPool::new).spawn(job));
    spawned.map_err(|error: io::Error| errors::os_error(py, &error))?;
    Ok(future)
}

/// Hands the answers that came to those who wait for them.
#[cold]
pub(super) fn deliver(py: Python<'_>, event_loop: &Loop) {
    for (future, answer) in event_loop.runtime.lookups.take(py) {
        let outcome = match answer {
            Answer::Addresses(found) => answer_list(py, found),
            Answer::Names(found) => names(py, found),
        };
        let outcome = outcome.map_err(|err| Obj::from_bound(err.into_value(py).into_bound(py)));
        if let Err(raised) = wait::settle(py, &future, outcome) {
            raised.fetch(py).write_unraisable(py, Some(&future.borrow(py)));
        }
    }
}

/// One address to connect or bind to.
#[derive(Clone)]
pub(super) struct Resolved {
    pub(super) family: c_int,
    pub(super) socktype: c_int,
    pub(super) protocol: c_int,
    pub(super) canonname: Obj,
    /// The tuple, as error messages show it.
    pub(super) address: Obj,
}

const IPPROTO_TCP: c_int = 6;
const IPPROTO_UDP: c_int = 17;
const SOCK_STREAM: c_int = 1;
const SOCK_DGRAM: c_int = 2;
const AF_UNSPEC: c_int = 0;
const AF_INET: c_int = 2;
const AF_INET6: c_int = 10;

/// Where to connect or bind to, as programs give it.
pub(super) struct Place {
    pub(super) host: Obj,
    pub(super) port: Obj,
    /// Of an IPv6 address: flow label and scope, if they were given.
    rest: Vec<Obj>,
}

impl Place {
    pub(super) fn new(host: Obj, port: Obj) -> Place {
        Place { host, port, rest: Vec::new() }
    }

    /// `(host, port, ...)`, with the errors of asyncio's unpacking.
    pub(super) fn of(address: &Bound<'_, PyAny>) -> PyResult<Place> {
        let py = address.py();
        let slice = |from: Option<usize>, to: Option<usize>| py.get_type::<PySlice>().call1((from, to));
        let items = |slice: Bound<'_, PyAny>| -> PyResult<Vec<Obj>> {
            address.get_item(slice)?.try_iter()?.map(|item| item.map(Obj::from_bound)).collect()
        };
        let pair = items(slice(None, Some(2))?)?;
        let [host, port] = <[Obj; 2]>::try_from(pair).map_err(|pair| {
            PyValueError::new_err(format!("not enough values to unpack (expected 2, got {})", pair.len()))
        })?;
        let rest = items(slice(Some(2), None)?)?;
        if rest.len() > 2 {
            let given = rest.len() + 5;
            let text = format!("_ipaddr_info() takes from 5 to 7 positional arguments but {given} were given");
            return Err(PyTypeError::new_err(text));
        }
        Ok(Place { host, port, rest })
    }
}

/// What the addresses are for.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Stream,
    Datagram,
}

/// Stream addresses of a place, see [`resolve_kind`].
pub(super) async fn resolve(
    co: &Co,
    place: Place,
    family: c_int,
    protocol: c_int,
    flags: c_int,
) -> PyResult<Vec<Resolved>> {
    resolve_kind(co, Kind::Stream, place, family, protocol, flags).await
}

/// Addresses of a place: at once if the host is numeric, else through the loop's own `getaddrinfo` (which a program may
/// have replaced).
pub(super) async fn resolve_kind(
    co: &Co,
    kind: Kind,
    place: Place,
    family: c_int,
    protocol: c_int,
    flags: c_int,
) -> PyResult<Vec<Resolved>> {
    if let Some(info) = Python::attach(|py| numeric(py, kind, &place, family, protocol))? {
        return Ok(vec![info]);
    }
    let lookup = Python::attach(|py| {
        let keywords = PyDict::new(py);
        keywords.set_item("family", family)?;
        let socktype = match kind {
            Kind::Stream => "SOCK_STREAM",
            Kind::Datagram => "SOCK_DGRAM",
        };
        keywords.set_item("type", py.import("socket")?.getattr(socktype)?)?;
        keywords.set_item("proto", protocol)?;
        keywords.set_item("flags", flags)?;
        let event_loop = co.event_loop().borrow(py);
        let args = (place.host.borrow(py), place.port.borrow(py));
        event_loop.call_method("getaddrinfo", args, Some(&keywords)).map(Obj::from_bound)
    })?;
    let found = co.wait_for(lookup).await?;
    Python::attach(|py| {
        let mut infos = Vec::new();
        // A replaced getaddrinfo may say None for nothing.
        if !found.borrow(py).is_truthy()? {
            return Ok(infos);
        }
        for info in found.borrow(py).try_iter()? {
            let (family, socktype, protocol, canonname, address): (
                c_int,
                c_int,
                c_int,
                Bound<'_, PyAny>,
                Bound<'_, PyAny>,
            ) = info?.extract()?;
            let (canonname, address) = (Obj::from_bound(canonname), Obj::from_bound(address));
            infos.push(Resolved { family, socktype, protocol, canonname, address });
        }
        Ok(infos)
    })
}

/// asyncio's shortcut for hosts that are addresses.
pub(super) fn numeric(
    py: Python<'_>,
    kind: Kind,
    place: &Place,
    family: c_int,
    protocol: c_int,
) -> PyResult<Option<Resolved>> {
    if ![0, IPPROTO_TCP, IPPROTO_UDP].contains(&protocol) {
        return Ok(None);
    }
    let host = place.host.borrow(py);
    let Ok(text) = host.cast::<PyString>() else {
        return Ok(None);
    };
    let known = text.to_str().unwrap_or_default();
    if known.contains('\0') {
        return Err(PyValueError::new_err("embedded null character"));
    }
    let Ok(ip) = known.parse::<IpAddr>() else {
        return Ok(None);
    };
    let Some(port) = numeric_port(&place.port.borrow(py))? else {
        return Ok(None);
    };
    let rest = |i: usize| place.rest.get(i).map_or_else(|| py_zero(py), |given| given.borrow(py).to_owned());
    let (own, address) = match ip {
        IpAddr::V4(_) => (AF_INET, (text, port).into_pyobject(py)?),
        IpAddr::V6(_) => (AF_INET6, (text, port, rest(0), rest(1)).into_pyobject(py)?),
    };
    if family != AF_UNSPEC && family != own {
        return Ok(None);
    }
    let (socktype, protocol) = match kind {
        Kind::Stream => (SOCK_STREAM, IPPROTO_TCP),
        Kind::Datagram => (SOCK_DGRAM, IPPROTO_UDP),
    };
    Ok(Some(Resolved {
        family: own,
        socktype,
        protocol,
        canonname: Obj::from_bound(PyString::new(py, "")),
        address: Obj::from_bound(address),
    }))
}

/// What `int()` makes of a port; a number that is no port is for `bind` and `connect` to refuse. `None`: the name of a
/// service, or nothing that could be a port.
fn numeric_port<'py>(port: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = port.py();
    if port.is_exact_instance_of::<PyInt>() {
        return Ok(Some(port.clone()));
    }
    let is_empty = (port.is_instance_of::<PyString>() || port.is_instance_of::<PyBytes>()) && port.len()? == 0;
    if port.is_none() || is_empty {
        return Ok(Some(py_zero(py)));
    }
    match py.get_type::<PyInt>().call1((port,)) {
        Ok(port) => Ok(Some(port)),
        Err(err) if err.is_instance_of::<PyTypeError>(py) || err.is_instance_of::<PyValueError>(py) => Ok(None),
        Err(err) => Err(err),
    }
}

fn py_zero(py: Python<'_>) -> Bound<'_, PyAny> {
    PyInt::new(py, 0).into_any()
}

/// First addresses of every family in turn; `first` of the first family lead (RFC 8305, section 4).
pub(super) fn interleave(infos: Vec<Resolved>, first: usize) -> Vec<Resolved> {
    let mut families: Vec<Vec<Resolved>> = Vec::new();
    for info in infos {
        match families.iter_mut().find(|family| family[0].family == info.family) {
            Some(family) => family.push(info),
            None => families.push(vec![info]),
        }
    }
    let mut ordered = Vec::new();
    if first > 1
        && let Some(family) = families.first_mut()
    {
        let leading = (first - 1).min(family.len());
        ordered.extend(family.drain(..leading));
    }
    let mut queues: Vec<_> = families.into_iter().map(Vec::into_iter).collect();
    loop {
        let before = ordered.len();
        ordered.extend(queues.iter_mut().filter_map(Iterator::next));
        if ordered.len() == before {
            return ordered;
        }
    }
}
