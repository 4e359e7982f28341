//! Socket addresses: from the kernel's form to the tuples that Python's `socket` shows, and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;

/// One end of a connection. Kept in the kernel's form: most programs never ask.
pub(crate) enum Name {
    /// `None` for Python: the system would not say.
    Unknown,
    Inet(SocketAddr),
    /// Another family, in the form that Python's socket gave it.
    Python(Obj),
}

impl Name {
    pub(crate) fn to_python(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Name::Unknown => Ok(py.None()),
            Name::Inet(address) => Ok(tuple(py, address)?.into_any().unbind()),
            Name::Python(object) => Ok(object.clone().into_bound(py).unbind()),
        }
    }

    pub(crate) fn visit(&self, visitor: &mut Visitor<'_>) {
        match self {
            Name::Unknown | Name::Inet(_) => {}
            Name::Python(object) => visitor.obj(object),
        }
    }
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

/// What a socket object of Python says, `Unknown` if the system refuses.
pub(crate) fn of_socket(socket: &Bound<'_, PyAny>, method: &str) -> PyResult<Name> {
    match socket.call_method0(method) {
        Ok(address) => Ok(match from_tuple(&address) {
            Some(address) => Name::Inet(address),
            None => Name::Python(Obj::from_bound(address.into_bound_py_any(socket.py())?)),
        }),
        Err(err) if err.is_instance_of::<pyo3::exceptions::PyOSError>(socket.py()) => Ok(Name::Unknown),
        Err(err) => Err(err),
    }
}
