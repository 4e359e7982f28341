//! `add_reader`, `add_writer` and their removal: a pair of handles for one descriptor.

use std::os::fd::RawFd;

use driver::{Interest, Token};
use pyo3::exceptions::{PyAttributeError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyInt;

use super::{Arguments, Loop};
use crate::interop::errors;
use crate::raw::cell::{GilValue, ObjCell};
use crate::raw::fastcall::Rest;
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_py};
use crate::runtime::slots::SlotKind;
use crate::tasks::handle;

/// Who wants to know of one descriptor. Private to the loop.
#[pyclass(module = "hayase._core", frozen)]
pub(crate) struct Watcher {
    token: GilValue<Option<Token>>,
    reader: ObjCell,
    writer: ObjCell,
}

#[pymethods]
impl Watcher {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| {
            visitor.cell(&self.reader);
            visitor.cell(&self.writer);
        })
    }

    fn __clear__(&self) {
        self.reader.set(None);
        self.writer.set(None);
    }
}

impl Watcher {
    /// Runs the handles at once: this is already the descriptor's turn. A handle may remove the other one.
    pub(super) fn on_ready(py: Python<'_>, object: &Obj, readable: bool, writable: bool) -> RawResult<()> {
        let watcher = object.borrow(py);
        let watcher = watcher.cast::<Watcher>().expect("slots of this kind hold watchers").get();
        if readable && let Some(reader) = watcher.reader.get() {
            handle::run(py, &reader)?;
        }
        if writable && let Some(writer) = watcher.writer.get() {
            handle::run(py, &writer)?;
        }
        Ok(())
    }

    fn interest(&self) -> Interest {
        match (self.reader.is_some(), self.writer.is_some()) {
            (true, true) => Interest::BOTH,
            (true, false) => Interest::READABLE,
            (false, true) => Interest::WRITABLE,
            (false, false) => Interest::NONE,
        }
    }

    fn side(&self, side: Side) -> &ObjCell {
        match side {
            Side::Reader => &self.reader,
            Side::Writer => &self.writer,
        }
    }
}

#[derive(Clone, Copy)]
pub(super) enum Side {
    Reader,
    Writer,
}

pub(super) fn add(
    py: Python<'_>,
    this: &Bound<'_, Loop>,
    side: Side,
    file: &Bound<'_, PyAny>,
    callback: &Bound<'_, PyAny>,
    args: Arguments<'_, '_>,
) -> PyResult<Obj> {
    let event_loop = this.get();
    let fd = descriptor(file)?;
    refuse_transport(py, event_loop, fd, file)?;
    to_py(py, event_loop.runtime.scheduler.check_open(py))?;
    let rest = match args.len() {
        0 => Rest::None,
        1 => Rest::One(Obj::from_bound(args.get_item(0)?)),
        _ => Rest::Tuple(Obj::from_any(args.as_any())),
    };
    let this = Obj::from_any(this.as_any());
    let handle =
        to_py(py, handle::make(py, event_loop.reference(&this), Obj::from_any(callback), rest, None))?.into_obj();
    if let Some(watcher) = watcher_of(py, event_loop, fd) {
        let watcher = watcher.get();
        let before = watcher.side(side).replace(Some(handle.clone()));
        if let Some(token) = watcher.token.get()
            && let Err(error) = event_loop.runtime.renew(py, token, watcher.interest())
        {
            watcher.side(side).set(before);
            return Err(errors::os_error(py, &error));
        }
        cancel(py, before)?;
        return Ok(handle);
    }
    let watcher =
        Bound::new(py, Watcher { token: GilValue::new(None), reader: ObjCell::empty(), writer: ObjCell::empty() })?;
    watcher.get().side(side).set(Some(handle.clone()));
    let object = Obj::from_any(watcher.as_any());
    let token = event_loop
        .runtime
        .watch(py, fd, watcher.get().interest(), SlotKind::Handles, object)
        .map_err(|error| errors::os_error(py, &error))?;
    watcher.get().token.set(Some(token));
    Ok(handle)
}

/// Removes the handle that [`add`] gave, unless another one has its place or the loop is closed.
pub(super) fn remove_handle(py: Python<'_>, event_loop: &Loop, side: Side, fd: RawFd, handle: &Obj) -> PyResult<()> {
    let Some(watcher) = watcher_of(py, event_loop, fd) else {
        return Ok(());
    };
    let watcher = watcher.get();
    if watcher.side(side).as_ptr() != handle.as_ptr() {
        return Ok(());
    }
    let removed = watcher.side(side).take();
    lower(py, event_loop, watcher);
    cancel(py, removed)
}

/// Tells the driver what is left to watch.
fn lower(py: Python<'_>, event_loop: &Loop, watcher: &Watcher) {
    let Some(token) = watcher.token.get() else {
        return;
    };
    let interest = watcher.interest();
    if interest.is_empty() {
        watcher.token.set(None);
        drop(event_loop.runtime.unwatch(py, token));
    } else {
        // Refused for a descriptor that the program closed meanwhile: it is not watched any more as it is.
        let _ = event_loop.runtime.rewatch(py, token, interest);
    }
}

/// Whether there was something to remove.
pub(super) fn remove(py: Python<'_>, this: &Bound<'_, Loop>, side: Side, file: &Bound<'_, PyAny>) -> PyResult<bool> {
    let event_loop = this.get();
    let fd = descriptor(file)?;
    refuse_transport(py, event_loop, fd, file)?;
    if event_loop.runtime.scheduler.closed.get() {
        return Ok(false);
    }
    let Some(watcher) = watcher_of(py, event_loop, fd) else {
        return Ok(false);
    };
    let watcher = watcher.get();
    let removed = watcher.side(side).take();
    let found = removed.is_some();
    lower(py, event_loop, watcher);
    cancel(py, removed)?;
    Ok(found)
}

fn cancel(py: Python<'_>, handle: Option<Obj>) -> PyResult<()> {
    match handle {
        Some(handle) => to_py(py, handle::cancel(py, &handle)),
        None => Ok(()),
    }
}

fn watcher_of<'py>(py: Python<'py>, event_loop: &Loop, fd: RawFd) -> Option<Bound<'py, Watcher>> {
    let object = event_loop.runtime.slots.with(py, |slots| {
        let slot = slots.get(slots.token_of(fd)?)?;
        (slot.kind == SlotKind::Handles).then(|| slot.object.clone())
    })?;
    object.into_bound(py).cast_into::<Watcher>().ok()
}

/// A descriptor that a transport uses is not the program's to watch.
pub(super) fn refuse_transport(py: Python<'_>, event_loop: &Loop, fd: RawFd, file: &Bound<'_, PyAny>) -> PyResult<()> {
    let transport = event_loop.runtime.slots.with(py, |slots| {
        let slot = slots.get(slots.token_of(fd)?)?;
        [SlotKind::Stream, SlotKind::ReadPipe, SlotKind::WritePipe].contains(&slot.kind).then(|| slot.object.clone())
    });
    let Some(transport) = transport else {
        return Ok(());
    };
    let transport = transport.into_bound(py);
    if transport.call_method0("is_closing")?.is_truthy()? {
        return Ok(());
    }
    Err(PyRuntimeError::new_err(format!("File descriptor {} is used by transport {}", file.repr()?, transport.repr()?)))
}

/// The number behind an int or an object with `fileno()`; asyncio's errors.
pub(super) fn descriptor(file: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let py = file.py();
    let number = if file.is_instance_of::<PyInt>() {
        file.extract::<i64>()
    } else {
        let made = file.call_method0("fileno").and_then(|fileno| py.get_type::<PyInt>().call1((fileno,))?.extract());
        match made {
            Err(err)
                if err.is_instance_of::<PyAttributeError>(py)
                    || err.is_instance_of::<PyTypeError>(py)
                    || err.is_instance_of::<PyValueError>(py) =>
            {
                return Err(PyValueError::new_err(format!("Invalid file object: {}", file.repr()?)));
            }
            other => other,
        }
    }?;
    match RawFd::try_from(number) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(PyValueError::new_err(format!("Invalid file descriptor: {number}"))),
    }
}
