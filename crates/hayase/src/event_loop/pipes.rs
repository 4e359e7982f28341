//! `connect_read_pipe` and `connect_write_pipe`.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::Loop;
use super::connect::make_protocol;
use crate::interop::log;
use crate::raw::call::{self, Name};
use crate::raw::context;
use crate::raw::obj::Obj;
use crate::raw::to_py;
use crate::runtime::coroutine::{self, Co};
use crate::transports::pipe::{Parts, read, write};

static CREATE_FUTURE: Name = Name::new(c"create_future");

#[derive(Clone, Copy)]
pub(super) enum Direction {
    Read,
    Write,
}

pub(super) fn connect(
    this: &Bound<'_, Loop>,
    direction: Direction,
    factory: &Bound<'_, PyAny>,
    file: &Bound<'_, PyAny>,
) -> PyResult<Obj> {
    let (factory, file) = (Obj::from_any(factory), Obj::from_any(file));
    let name = match direction {
        Direction::Read => "Loop.connect_read_pipe",
        Direction::Write => "Loop.connect_write_pipe",
    };
    coroutine::make(this.py(), Loop::runtime_ref(this), name, |co| async move {
        let (transport, protocol, waiter) = Python::attach(|py| make(py, &co, direction, &factory, &file))?;
        if let Err(err) = co.wait_for(waiter).await {
            Python::attach(|py| transport.borrow(py).call_method0("close").map(drop))?;
            return Err(err);
        }
        Python::attach(|py| {
            let (transport, protocol) = (transport.into_bound(py), protocol.into_bound(py));
            if co.runtime().scheduler.debug.get() {
                let text = match direction {
                    Direction::Read => "Read pipe %r connected: (%r, %r)",
                    Direction::Write => "Write pipe %r connected: (%r, %r)",
                };
                let number = file.borrow(py).call_method0("fileno")?;
                log::logger(py)?.call_method1("debug", (text, number, &transport, &protocol))?;
            }
            Ok(Obj::from_bound(PyTuple::new(py, [transport, protocol])?))
        })
    })
}

/// Transport, protocol, and the future that `connection_made` resolves.
fn make(py: Python<'_>, co: &Co, direction: Direction, factory: &Obj, file: &Obj) -> PyResult<(Obj, Obj, Obj)> {
    let protocol = make_protocol(py, factory)?;
    let waiter = to_py(py, call::method(py, co.event_loop(), &CREATE_FUTURE, &[]))?;
    let context = to_py(py, context::copy_current(py))?;
    let file = file.clone().into_bound(py);
    let parts = Parts { file: &file, protocol: &protocol, context, waiter: Some(waiter.clone()) };
    let transport = match direction {
        Direction::Read => Obj::from_bound(read::make(py, &co.runtime_ref(), parts)?),
        Direction::Write => Obj::from_bound(write::make(py, &co.runtime_ref(), parts)?),
    };
    Ok((transport, Obj::from_bound(protocol), waiter))
}
