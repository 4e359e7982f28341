//! Connecting a Python socket through `sock_connect`, as asyncio makes every outgoing connection.
//!
//! Programs rely on it: a subclass that goes through a proxy or counts connections, a test that lets the connection fail.
//! So a `sock_connect` that the program put in the place of the loop's own, on the instance or in a subclass, is called.
//! The loop's own is called for what the driver does not know: names in place of addresses, other families.
//!
//! Must stay true
//! - The socket is closed if the attempt fails or is cancelled.

use std::os::fd::RawFd;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::Loop;
use super::resolve::Resolved;
use crate::raw::obj::Obj;
use crate::runtime::coroutine::Co;

/// The loop's `sock_connect` if it is not ours.
pub(super) fn replaced_sock_connect(py: Python<'_>, co: &Co) -> PyResult<Option<Obj>> {
    let event_loop = co.event_loop().borrow(py);
    let name = pyo3::intern!(py, "sock_connect");
    let in_class = !event_loop.get_type().getattr(name)?.is(&py.get_type::<Loop>().getattr(name)?);
    let on_instance = || event_loop.getattr(pyo3::intern!(py, "__dict__"))?.cast::<PyDict>()?.contains(name);
    if in_class || on_instance()? {
        return event_loop.getattr(name).map(|method| Some(Obj::from_bound(method)));
    }
    Ok(None)
}

/// A socket for `info`, prepared by `bind`, connected by `sock_connect`.
pub(super) async fn connect(
    co: &Co,
    info: &Resolved,
    sock_connect: &Obj,
    bind: impl FnOnce(Python<'_>, RawFd) -> PyResult<()>,
) -> PyResult<Obj> {
    let (socket, connecting) = Python::attach(|py| {
        let arguments = (info.family, info.socktype, info.protocol);
        let sock = py.import("socket")?.getattr("socket")?.call1(arguments)?;
        let socket = Closing(Some(Obj::from_any(&sock)));
        sock.call_method1("setblocking", (false,))?;
        bind(py, sock.call_method0("fileno")?.extract()?)?;
        let connecting = sock_connect.borrow(py).call1((&sock, info.address.borrow(py)))?;
        Ok::<_, PyErr>((socket, Obj::from_bound(connecting)))
    })?;
    co.wait_for(connecting).await?;
    Ok(socket.keep())
}

/// A Python socket that is closed unless it is kept.
struct Closing(Option<Obj>);

impl Closing {
    fn keep(mut self) -> Obj {
        self.0.take().expect("it is kept once")
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let Some(sock) = self.0.take() else { return };
        Python::attach(|py| {
            if let Err(err) = sock.borrow(py).call_method0("close") {
                err.write_unraisable(py, None);
            }
        });
    }
}
