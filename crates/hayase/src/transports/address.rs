//! Socket addresses: from the kernel's form to what Python's `socket` shows (tuples, and for Unix sockets a path or a name), and
//! back.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use driver::Address;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};

use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;

/// One end of a connection. Kept in the kernel's form: most programs never ask.
#[derive(Clone)]
pub(crate) enum Name {
    /// `None` for Python: the system would not say.
    Unknown,
    Inet(SocketAddr),
    /// A path, or an abstract name with the zero byte before it, or nothing: unnamed.
    Unix(Box<[u8]>),
    /// Another family, in the form that Python's socket gave it.
    Python(Obj),
}

impl Name {
    pub(crate) fn to_python(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Name::Unknown => Ok(py.None()),
            Name::Inet(address) => Ok(tuple(py, address)?.into_any().unbind()),
            Name::Unix(path) => Ok(unix_name(py, path)?.unbind()),
            Name::Python(object) => Ok(object.clone().into_bound(py).unbind()),
        }
    }

    pub(crate) fn visit(&self, visitor: &mut Visitor<'_>) {
        match self {
            Name::Unknown | Name::Inet(_) | Name::Unix(_) => {}
            Name::Python(object) => visitor.obj(object),
        }
    }
}

/// Both ends of a connection.
pub(crate) struct Names {
    pub(crate) peer: Name,
    /// The connections of one listening socket have it in common, so the collector is not told of it.
    pub(crate) local: Rc<Name>,
}

impl Names {
    /// What a `socket.socket` says.
    pub(crate) fn of_socket(socket: &Bound<'_, PyAny>) -> PyResult<Names> {
        let peer = of_socket(socket, "getpeername")?;
        Ok(Names { peer, local: Rc::new(of_socket(socket, "getsockname")?) })
    }
}

impl From<Address> for Name {
    fn from(address: Address) -> Name {
        match address {
            Address::Inet(address) => Name::Inet(address),
            Address::Unix(path) => Name::Unix(path),
            Address::Other => Name::Unknown,
        }
    }
}

/// A path is a `str`, an abstract name `bytes`.
pub(crate) fn unix_name<'py>(py: Python<'py>, path: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match path {
        [0, ..] => Ok(PyBytes::new(py, path).into_any()),
        path => OsStr::from_bytes(path).into_bound_py_any(py),
    }
}

/// The bytes of a path (`str`, as the file system's encoding has it) or of an abstract name (`bytes`).
pub(crate) fn unix_bytes(name: &Bound<'_, PyAny>) -> PyResult<Option<Vec<u8>>> {
    if let Ok(bytes) = name.cast::<PyBytes>() {
        return Ok(Some(bytes.as_bytes().to_vec()));
    }
    let Ok(text) = name.cast::<PyString>() else {
        return Ok(None);
    };
    name.py().import("os")?.call_method1("fsencode", (text,))?.extract().map(Some)
}

/// A Unix path or abstract name that the kernel can be given. What Python's `socket` would refuse (too long, empty, a wrong type, a
/// zero byte inside) is `None`, and left to it for its error.
pub(crate) fn unix_path(name: &Bound<'_, PyAny>) -> PyResult<Option<Vec<u8>>> {
    /// The size of the field in the kernel's address, with the zero byte at its end.
    const PATH_BYTES: usize = 108;
    let bytes = unix_bytes(name)?.filter(|bytes| match bytes.as_slice() {
        [] => false,
        [0, ..] => bytes.len() <= PATH_BYTES,
        path => path.len() < PATH_BYTES && !path.contains(&0),
    });
    Ok(bytes)
}

/// `(host, port)` or `(host, port, flowinfo, scope_id)`.
pub(crate) fn tuple<'py>(py: Python<'py>, address: &SocketAddr) -> PyResult<Bound<'py, PyTuple>> {
    match address {
        SocketAddr::V4(v4) => (v4.ip().to_string(), v4.port()).into_pyobject(py),
        SocketAddr::V6(v6) => (v6_text(v6.ip()), v6.port(), v6.flowinfo(), v6.scope_id()).into_pyobject(py),
    }
}

/// As the C library writes it, which shows the deprecated form `::a.b.c.d` in dots.
fn v6_text(ip: &Ipv6Addr) -> String {
    let segments = ip.segments();
    if segments[..6] == [0; 6] && segments[6] != 0 {
        let [.., a, b, c, d] = ip.octets();
        return format!("::{}", Ipv4Addr::new(a, b, c, d));
    }
    ip.to_string()
}

/// The address that a Python tuple with a *numeric* host means; `None` if it has another form or a name in it.
pub(crate) fn from_tuple(address: &Bound<'_, PyAny>) -> Option<SocketAddr> {
    let tuple = address.cast::<PyTuple>().ok()?;
    if !(2..=4).contains(&tuple.len()) {
        return None;
    }
    let host = tuple.get_item(0).ok()?;
    let host = host.cast::<PyString>().ok()?.to_str().ok()?;
    let port: u16 = tuple.get_item(1).ok()?.extract().ok()?;
    match host.parse::<IpAddr>().ok()? {
        IpAddr::V4(ip) if tuple.len() == 2 => Some(SocketAddrV4::new(ip, port).into()),
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => {
            let number = |index: usize| match tuple.get_item(index) {
                Ok(item) => item.extract::<u32>().ok(),
                Err(_) => Some(0),
            };
            Some(SocketAddrV6::new(ip, port, number(2)?, number(3)?).into())
        }
    }
}

/// What the system said of a descriptor; `Unknown` if it refused.
pub(crate) fn of_descriptor(said: std::io::Result<Address>) -> Name {
    said.map_or(Name::Unknown, Name::from)
}

/// What a socket object of Python says, `Unknown` if the system refuses.
pub(crate) fn of_socket(socket: &Bound<'_, PyAny>, method: &str) -> PyResult<Name> {
    match socket.call_method0(method) {
        Ok(address) => {
            if let Some(path) = unix_bytes(&address)? {
                return Ok(Name::Unix(path.into()));
            }
            Ok(from_tuple(&address).map_or_else(|| Name::Python(Obj::from_any(&address)), Name::Inet))
        }
        Err(err) if err.is_instance_of::<pyo3::exceptions::PyOSError>(socket.py()) => Ok(Name::Unknown),
        Err(err) => Err(err),
    }
}

/// A `socket.socket` over a descriptor that does not block. It owns the descriptor from now on; if it cannot be made, the caller
/// still does.
pub(super) fn socket_object(py: Python<'_>, fd: RawFd) -> PyResult<Bound<'_, PyAny>> {
    let keywords = PyDict::new(py);
    keywords.set_item("fileno", fd)?;
    let socket = py.import("socket")?.getattr("socket")?.call((), Some(&keywords))?;
    if let Err(err) = socket.call_method1("setblocking", (false,)) {
        socket.call_method0("detach")?;
        return Err(err);
    }
    Ok(socket)
}
