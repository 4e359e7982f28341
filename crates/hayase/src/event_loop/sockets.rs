//! `sock_recv`, `sock_sendall` and their kin: operations on sockets that belong to the program.
//!
//! Each tries at once and waits only if the socket says "not now". Waiting goes through the same readers and writers
//! as `add_reader`, so that a receive and a send on one socket may wait at the same time; it ends with the coroutine,
//! however that ends.

use std::ffi::c_int;
use std::os::fd::RawFd;

use pyo3::exceptions::{PyBlockingIOError, PyInterruptedError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::Loop;
use super::connect::refuse_tls_socket;
use super::watchers::{self, Side};
use crate::interop::errors;
use crate::raw::call::{self, Name};
use crate::raw::obj::Obj;
use crate::raw::to_py;
use crate::runtime::coroutine::{self, Co};
use crate::transports::address;

static CREATE_FUTURE: Name = Name::new(c"create_future");

const AF_INET: c_int = 2;
const AF_INET6: c_int = 10;

/// `sock.method(*args)` as soon as the socket is readable.
pub(super) fn receive(
    this: &Bound<'_, Loop>,
    name: &'static str,
    method: &'static str,
    sock: &Bound<'_, PyAny>,
    args: Vec<Obj>,
) -> PyResult<Obj> {
    let sock = Obj::from_any(sock);
    coroutine::make(this.py(), Loop::runtime_ref(this), name, |co| async move {
        check(&co, &sock)?;
        when_ready(&co, Side::Reader, &sock, |py| {
            let args = PyTuple::new(py, args.iter().map(|arg| arg.borrow(py)))?;
            sock.borrow(py).call_method1(method, args).map(Obj::from_bound)
        })
        .await
    })
}

pub(super) fn accept(this: &Bound<'_, Loop>, sock: &Bound<'_, PyAny>) -> PyResult<Obj> {
    let sock = Obj::from_any(sock);
    coroutine::make(this.py(), Loop::runtime_ref(this), "Loop.sock_accept", |co| async move {
        check(&co, &sock)?;
        when_ready(&co, Side::Reader, &sock, |py| {
            let pair = sock.borrow(py).call_method0("accept")?;
            pair.get_item(0)?.call_method1("setblocking", (false,))?;
            Ok(Obj::from_bound(pair))
        })
        .await
    })
}

pub(super) fn send_to(
    this: &Bound<'_, Loop>,
    sock: &Bound<'_, PyAny>,
    data: &Bound<'_, PyAny>,
    address: &Bound<'_, PyAny>,
) -> PyResult<Obj> {
    let (sock, data, address) = (Obj::from_any(sock), Obj::from_any(data), Obj::from_any(address));
    coroutine::make(this.py(), Loop::runtime_ref(this), "Loop.sock_sendto", |co| async move {
        check(&co, &sock)?;
        when_ready(&co, Side::Writer, &sock, |py| {
            let args = (data.borrow(py), address.borrow(py));
            sock.borrow(py).call_method1("sendto", args).map(Obj::from_bound)
        })
        .await
    })
}

pub(super) fn send_all(this: &Bound<'_, Loop>, sock: &Bound<'_, PyAny>, data: &Bound<'_, PyAny>) -> PyResult<Obj> {
    let (sock, data) = (Obj::from_any(sock), Obj::from_any(data));
    coroutine::make(this.py(), Loop::runtime_ref(this), "Loop.sock_sendall", |co| async move {
        check(&co, &sock)?;
        let mut rest = data;
        loop {
            let sent = when_ready(&co, Side::Writer, &sock, |py| {
                sock.borrow(py).call_method1("send", (rest.borrow(py),)).map(Obj::from_bound)
            })
            .await?;
            let left = Python::attach(|py| {
                let sent: usize = sent.borrow(py).extract()?;
                let view = to_view(py, &rest)?;
                if sent >= view.len()? {
                    return Ok::<_, PyErr>(None);
                }
                let slice = pyo3::types::PySlice::new(py, sent as isize, isize::MAX, 1);
                Ok(Some(Obj::from_bound(view.get_item(slice)?)))
            })?;
            match left {
                None => return Ok(Python::attach(Obj::none)),
                Some(left) => rest = left,
            }
        }
    })
}

/// In bytes, so that positions are counts of bytes.
fn to_view<'py>(py: Python<'py>, data: &Obj) -> PyResult<Bound<'py, PyAny>> {
    let view = py.import("builtins")?.getattr("memoryview")?.call1((data.borrow(py),))?;
    if view.getattr("format")?.eq("B")? && view.getattr("ndim")?.eq(1)? {
        return Ok(view);
    }
    view.call_method1("cast", ("B",))
}

pub(super) fn connect(this: &Bound<'_, Loop>, sock: &Bound<'_, PyAny>, address: &Bound<'_, PyAny>) -> PyResult<Obj> {
    let (sock, address) = (Obj::from_any(sock), Obj::from_any(address));
    coroutine::make(this.py(), Loop::runtime_ref(this), "Loop.sock_connect", |co| async move {
        check(&co, &sock)?;
        let address = match Python::attach(|py| lookup(py, &co, &sock, &address))? {
            None => address,
            Some(lookup) => {
                let found = co.wait_for(lookup).await?;
                Python::attach(|py| {
                    let first = found.borrow(py).get_item(0)?;
                    first.get_item(4).map(Obj::from_bound)
                })?
            }
        };
        let fd = Python::attach(|py| descriptor(py, &sock))?;
        let begun = Python::attach(|py| {
            let called = sock.borrow(py).call_method1("connect", (address.borrow(py),));
            not_now(py, called.map(Obj::from_bound))
        })?;
        if begun.is_none() {
            wait(&co, Side::Writer, fd).await?;
            Python::attach(|py| match co.runtime().driver.take_error(fd) {
                Ok(None) => Ok(()),
                Ok(Some(error)) => {
                    let text = format!("Connect call failed {}", address.borrow(py).str()?);
                    Err(PyOSError::new_err((error.raw_os_error(), text)))
                }
                Err(error) => Err(errors::os_error(py, &error)),
            })?;
        }
        Ok(Python::attach(Obj::none))
    })
}

/// The lookup that an address with a name in it needs.
fn lookup(py: Python<'_>, co: &Co, sock: &Obj, address: &Obj) -> PyResult<Option<Obj>> {
    let sock = sock.borrow(py);
    let family: c_int = sock.getattr("family")?.extract()?;
    let address = address.borrow(py);
    if ![AF_INET, AF_INET6].contains(&family) || address::from_tuple(&address).is_some() {
        return Ok(None);
    }
    let keywords = PyDict::new(py);
    for (keyword, attribute) in [("family", "family"), ("type", "type"), ("proto", "proto")] {
        keywords.set_item(keyword, sock.getattr(attribute)?)?;
    }
    let args = (address.get_item(0)?, address.get_item(1)?);
    let event_loop = co.event_loop().borrow(py);
    event_loop.call_method("getaddrinfo", args, Some(&keywords)).map(|made| Some(Obj::from_bound(made)))
}

fn check(co: &Co, sock: &Obj) -> PyResult<()> {
    Python::attach(|py| {
        let sock = sock.borrow(py);
        refuse_tls_socket(&sock)?;
        if co.runtime().scheduler.debug.get() && sock.call_method0("gettimeout")?.ne(0)? {
            return Err(PyValueError::new_err("the socket must be non-blocking"));
        }
        Ok(())
    })
}

fn descriptor(py: Python<'_>, sock: &Obj) -> PyResult<RawFd> {
    sock.borrow(py).call_method0("fileno")?.extract()
}

async fn when_ready(co: &Co, side: Side, sock: &Obj, operation: impl Fn(Python<'_>) -> PyResult<Obj>) -> PyResult<Obj> {
    loop {
        if let Some(result) = Python::attach(|py| not_now(py, operation(py)))? {
            return Ok(result);
        }
        let fd = Python::attach(|py| descriptor(py, sock))?;
        wait(co, side, fd).await?;
    }
}

/// `None` if the socket is not ready.
fn not_now(py: Python<'_>, outcome: PyResult<Obj>) -> PyResult<Option<Obj>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(err) if err.is_instance_of::<PyBlockingIOError>(py) || err.is_instance_of::<PyInterruptedError>(py) => {
            Ok(None)
        }
        Err(err) => Err(err),
    }
}

async fn wait(co: &Co, side: Side, fd: RawFd) -> PyResult<()> {
    let (future, watch) = Python::attach(|py| {
        let future = to_py(py, call::method(py, co.event_loop(), &CREATE_FUTURE, &[]))?;
        let resolve = py.import("asyncio.futures")?.getattr("_set_result_unless_cancelled")?;
        let object = co.event_loop().borrow(py);
        let event_loop = object.cast::<Loop>()?;
        let args = PyTuple::new(py, [future.clone().into_bound(py), py.None().into_bound(py)])?;
        let file = fd.into_pyobject(py)?.into_any();
        let handle = watchers::add(py, &event_loop, side, &file, &resolve, &args)?;
        Ok::<_, PyErr>((future, Watch { event_loop: co.event_loop().clone(), side, fd, handle }))
    })?;
    let outcome = co.wait_for(future).await;
    drop(watch);
    outcome.map(drop)
}

/// Ends the waiting when it is dropped.
struct Watch {
    event_loop: Obj,
    side: Side,
    fd: RawFd,
    handle: Obj,
}

impl Drop for Watch {
    fn drop(&mut self) {
        Python::attach(|py| {
            if let Ok(event_loop) = self.event_loop.borrow(py).cast::<Loop>()
                && let Err(err) = watchers::remove_handle(py, event_loop.get(), self.side, self.fd, &self.handle)
            {
                err.write_unraisable(py, None);
            }
        });
    }
}
