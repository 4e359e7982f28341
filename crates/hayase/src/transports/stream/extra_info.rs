//! What is known of a connection: what `get_extra_info` tells, and the `socket.socket`, which is made when it is asked for.

use std::os::fd::{AsRawFd, IntoRawFd, RawFd};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::{Socket, StreamTransport};
use crate::interop::{errors, imports};
use crate::raw::obj::Obj;
use crate::transports::address::{self, Names, socket_object};

impl StreamTransport {
    /// The `socket.socket`, made now if the descriptor had none; it owns the descriptor from now on.
    pub(super) fn python_socket<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        enum Known {
            Fd(RawFd),
            Object(Obj),
            Closed,
        }
        let known = self.socket.with(py, |socket| match socket {
            Socket::Native(fd) => Known::Fd(fd.as_raw_fd()),
            Socket::Python(object) => Known::Object(object.clone()),
            Socket::Closed => Known::Closed,
        });
        let fd = match known {
            Known::Object(object) => return Ok(object.into_bound(py)),
            Known::Fd(fd) => fd,
            Known::Closed => {
                let socket = py.import("socket")?.getattr("socket")?.call0()?;
                socket.call_method0("close")?;
                return Ok(socket);
            }
        };
        let socket = socket_object(py, fd)?;
        let before = self.socket.with(py, |place| std::mem::replace(place, Socket::Python(Obj::from_any(&socket))));
        match before {
            // The socket object closes it.
            Socket::Native(fd) => drop(fd.into_raw_fd()),
            Socket::Python(_) | Socket::Closed => {}
        }
        Ok(socket)
    }

    pub(super) fn extra_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        if let Some(dict) = self.extra.get() {
            return Ok(dict.into_bound(py).cast_into()?);
        }
        let dict = PyDict::new(py);
        let socket = self.python_socket(py)?;
        dict.set_item("socket", imports::transport_socket_class(py)?.call1((socket,))?)?;
        dict.set_item("sockname", self.name(py, |names| &names.local)?)?;
        dict.set_item("peername", self.name(py, |names| &names.peer)?)?;
        self.extra.set(Some(Obj::from_any(dict.as_any())));
        Ok(dict)
    }

    pub(super) fn name(&self, py: Python<'_>, pick: fn(&Names) -> &address::Name) -> PyResult<Py<PyAny>> {
        // A copy, because the cell is closed again before Python objects are made.
        self.names.with(py, |names| pick(names).clone()).to_python(py)
    }

    /// (process, user, group) of the other end of a Unix socket.
    pub(super) fn peer_credentials(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let is_unix = self.names.with(py, |names| matches!(*names.local, address::Name::Unix(_)));
        if !is_unix || self.socket.with(py, |socket| matches!(socket, Socket::Closed)) {
            return Ok(None);
        }
        let peer = driver::peer_credentials(self.fd).map_err(|error| errors::os_error(py, &error))?;
        Ok(Some(peer.into_pyobject(py)?.into_any().unbind()))
    }
}
