//! `sock_recv`, `sock_sendall` and their kin: operations on sockets that belong to the program.
//!
//! Each tries at once and waits only if the socket says "not now"; so nothing is taken from a socket before it can be
//! handed over, and a cancelled operation loses no byte. Waiting is in `watchers.rs`; it ends with the coroutine, however
//! that ends. What moves data is in `transfer.rs`, connecting and accepting here.
//!
//! What is there at once is given at once, but not for ever: after [`IMMEDIATE_MAX`] results within one step of a task,
//! the next operation first lets everything run that is ready.

mod sendfile;
mod transfer;

use std::ffi::c_int;
use std::os::fd::RawFd;

use pyo3::exceptions::{PyBlockingIOError, PyInterruptedError, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyModule};

use super::Loop;
use super::connect::refuse_tls_socket;
use super::resolve::{self, Place};
use super::watchers::{self, Side};
use crate::interop::errors;
use crate::raw::obj::Obj;
use crate::runtime::Runtime;
use crate::runtime::coroutine::{self, Co};
use crate::transports::address;

pub(super) use sendfile::send_file;
pub(super) use transfer::{receive, receive_from, receive_from_into, receive_into, send_all, send_to};

/// Large enough to cost nothing (an extra turn for thirty-two system calls), small enough that a peer who is always
/// ahead keeps the others waiting for milliseconds at most (thirty-two reads of 64 KiB: 0.5 ms).
const IMMEDIATE_MAX: u32 = 32;

const AF_INET: c_int = 2;
const AF_INET6: c_int = 10;

/// How many results the task that runs got at once, in the step that runs.
#[derive(Clone, Copy)]
pub(super) struct Immediate {
    entry: u32,
    count: u32,
}

impl Immediate {
    pub(super) const NONE: Immediate = Immediate { entry: 0, count: 0 };
}

/// Counts an operation. True: others first.
#[inline]
fn is_greedy(event_loop: &Loop) -> bool {
    let entry = event_loop.runtime.scheduler.entry.get();
    let before = event_loop.immediate.get();
    let count = if before.entry == entry { before.count + 1 } else { 1 };
    event_loop.immediate.set(Immediate { entry, count });
    count > IMMEDIATE_MAX
}

pub(super) fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    transfer::init(module)
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

pub(super) fn connect(this: &Bound<'_, Loop>, sock: &Bound<'_, PyAny>, address: &Bound<'_, PyAny>) -> PyResult<Obj> {
    let (sock, address) = (Obj::from_any(sock), Obj::from_any(address));
    coroutine::make(this.py(), Loop::runtime_ref(this), "Loop.sock_connect", |co| async move {
        check(&co, &sock)?;
        let address = match Python::attach(|py| target(py, &co, &sock, address))? {
            Target::Known(address) => address,
            Target::Lookup(lookup) => {
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
            wait(&co, Side::Writer, &sock, fd).await?;
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

enum Target {
    Known(Obj),
    /// The lookup that an address with a name in it needs.
    Lookup(Obj),
}

fn target(py: Python<'_>, co: &Co, sock: &Obj, address: Obj) -> PyResult<Target> {
    let sock = sock.borrow(py);
    let family: c_int = sock.getattr("family")?.extract()?;
    if ![AF_INET, AF_INET6].contains(&family) || address::from_tuple(&address.borrow(py)).is_some() {
        return Ok(Target::Known(address));
    }
    let place = Place::of(&address.borrow(py))?;
    if let Some(info) = resolve::numeric(py, resolve::Kind::Stream, &place, family, 0)? {
        return Ok(Target::Known(info.address));
    }
    let keywords = PyDict::new(py);
    for (keyword, attribute) in [("family", "family"), ("type", "type"), ("proto", "proto")] {
        keywords.set_item(keyword, sock.getattr(attribute)?)?;
    }
    let args = (place.host.borrow(py), place.port.borrow(py));
    let event_loop = co.event_loop().borrow(py);
    event_loop.call_method("getaddrinfo", args, Some(&keywords)).map(|made| Target::Lookup(Obj::from_bound(made)))
}

fn check(co: &Co, sock: &Obj) -> PyResult<()> {
    Python::attach(|py| check_socket(py, co.runtime(), &sock.borrow(py)))
}

/// What asyncio looks at first.
fn check_socket(py: Python<'_>, runtime: &Runtime, sock: &Bound<'_, PyAny>) -> PyResult<()> {
    if !transfer::is_plain_socket(py, sock) {
        refuse_tls_socket(sock)?;
    }
    if runtime.scheduler.debug.get() && sock.call_method0("gettimeout")?.ne(0)? {
        return Err(PyValueError::new_err("the socket must be non-blocking"));
    }
    Ok(())
}

fn descriptor(py: Python<'_>, sock: &Obj) -> PyResult<RawFd> {
    sock.borrow(py).call_method0("fileno")?.extract()
}

async fn when_ready(co: &Co, side: Side, sock: &Obj, operation: impl Fn(Python<'_>) -> PyResult<Obj>) -> PyResult<Obj> {
    let others_first = Python::attach(|py| {
        let object = co.event_loop().borrow(py);
        Ok::<_, PyErr>(is_greedy(object.cast::<Loop>()?.get()))
    })?;
    if others_first {
        co.yield_once().await?;
    }
    loop {
        if let Some(result) = Python::attach(|py| not_now(py, operation(py)))? {
            return Ok(result);
        }
        let fd = Python::attach(|py| descriptor(py, sock))?;
        wait(co, side, sock, fd).await?;
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

async fn wait(co: &Co, side: Side, sock: &Obj, fd: RawFd) -> PyResult<()> {
    let future = Python::attach(|py| {
        let object = co.event_loop().borrow(py);
        watchers::begin_wait(py, &*object.cast::<Loop>()?, side, &sock.borrow(py), fd)
    })?;
    let waiting = Waiting { event_loop: co.event_loop().clone(), side, fd, future: future.clone() };
    let outcome = co.wait_for(future).await;
    drop(waiting);
    outcome.map(drop)
}

/// Ends the waiting when it is dropped.
struct Waiting {
    event_loop: Obj,
    side: Side,
    fd: RawFd,
    future: Obj,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        Python::attach(|py| {
            if let Ok(event_loop) = self.event_loop.borrow(py).cast::<Loop>() {
                watchers::stop_waiting(py, event_loop.get(), self.side, self.fd, &self.future);
            }
        });
    }
}
