//! Who waits for a descriptor of the program's: the handles of `add_reader` and `add_writer`, and the futures of
//! `sock_recv` and its kin.
//!
//! While there are handles, the descriptor is watched for what they and the futures ask for, level-triggered. Futures
//! alone are cheaper: each waits only after the socket said "not now", so a report of the change is enough, and the
//! registration stays between two waits. No system call is spent on it as long as it is the same socket object that
//! waits again: another object with the same number is a new socket, and is registered anew. Nor is one spent on being
//! told "not now" after a read that emptied the socket ([`driver::Driver::short_read_empties`]). What is left is a program
//! that puts another file behind the number of a socket object it goes on using (`os.dup2`): so before the loop sleeps
//! for long, the registrations that were relied upon are told to the kernel once more ([`confirm`]).
//!
//! Must stay true
//! - A registration that stays is dropped at the next event that nobody waits for, [`UNWANTED_EVENTS_MAX`] aside.
//! - Whoever else begins to watch the number takes its place ([`crate::runtime::Runtime::watch`]).

use std::os::fd::RawFd;
use std::time::Duration;

use driver::{Interest, Token};
use pyo3::exceptions::{PyAttributeError, PyOverflowError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyWeakrefReference};

use super::{Arguments, Loop};
use crate::interop::errors;
use crate::raw::cell::{GilCell, GilValue, ObjCell};
use crate::raw::fastcall::Rest;
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_py};
use crate::runtime::slots::SlotKind;
use crate::tasks::{future, handle, wait};

/// So many events in a row may come while nobody waits (a program that is always behind its peer) before a registration
/// for futures is given up.
const UNWANTED_EVENTS_MAX: u32 = 16;

/// How long the loop sleeps before it confirms what it relied upon.
pub(super) const DOUBT_MAX: Duration = Duration::from_millis(20);

/// For futures.
const CHANGES: Interest = Interest::BOTH.union(Interest::CHANGES);

/// Who wants to know of one descriptor. Private to the loop.
#[pyclass(module = "hayase._core", frozen)]
pub(crate) struct Watcher {
    token: GilValue<Option<Token>>,
    reader: ObjCell,
    writer: ObjCell,
    /// The object with `fileno()` that the handles were registered with last: by it they are found when it is closed.
    file: ObjCell,
    /// Futures.
    waits_to_read: GilCell<Vec<Obj>>,
    waits_to_write: GilCell<Vec<Obj>>,
    /// The socket that the registration for futures was made for: a weak reference. Empty while it is for handles.
    socket: ObjCell,
    unwanted_events: GilValue<u32>,
    /// Its token is in the loop's list of doubts.
    in_doubt: GilValue<bool>,
    /// All that had come was read; what comes will be reported.
    is_empty: GilValue<bool>,
}

#[pymethods]
impl Watcher {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| {
            visitor.cell(&self.reader);
            visitor.cell(&self.writer);
            visitor.cell(&self.file);
            visitor.cell(&self.socket);
            for waits in [&self.waits_to_read, &self.waits_to_write] {
                waits.peek(|futures| futures.iter().for_each(|future| visitor.obj(future)));
            }
        })
    }

    fn __clear__(&self) {
        self.reader.set(None);
        self.writer.set(None);
        self.file.set(None);
        self.socket.set(None);
        Python::attach(|py| {
            drop(self.waits_to_read.with(py, std::mem::take));
            drop(self.waits_to_write.with(py, std::mem::take));
        });
    }
}

impl Watcher {
    fn new(py: Python<'_>) -> PyResult<Bound<'_, Watcher>> {
        let watcher = Watcher {
            token: GilValue::new(None),
            reader: ObjCell::empty(),
            writer: ObjCell::empty(),
            file: ObjCell::empty(),
            waits_to_read: GilCell::new(Vec::new()),
            waits_to_write: GilCell::new(Vec::new()),
            socket: ObjCell::empty(),
            unwanted_events: GilValue::new(0),
            in_doubt: GilValue::new(false),
            is_empty: GilValue::new(false),
        };
        Bound::new(py, watcher)
    }

    /// Runs the handles at once: this is already the descriptor's turn. A handle may remove the other one.
    pub(super) fn on_ready(
        py: Python<'_>,
        event_loop: &Loop,
        object: &Obj,
        readable: bool,
        writable: bool,
    ) -> RawResult<()> {
        let watcher = object.borrow(py);
        let watcher = watcher.cast::<Watcher>().expect("slots of this kind hold watchers").get();
        let mut woken = false;
        if readable {
            watcher.is_empty.set(false);
            woken |= watcher.wake(py, Side::Reader)?;
        }
        if writable {
            woken |= watcher.wake(py, Side::Writer)?;
        }
        if !watcher.has_handles() {
            if !woken {
                watcher.not_wanted(py, event_loop);
            }
            return Ok(());
        }
        if woken {
            lower(py, event_loop, watcher);
        }
        if readable && let Some(reader) = watcher.reader.get() {
            handle::run(py, &reader)?;
        }
        if writable && let Some(writer) = watcher.writer.get() {
            handle::run(py, &writer)?;
        }
        Ok(())
    }

    /// Resolves the futures of one side. False: nobody waited there.
    #[inline]
    fn wake(&self, py: Python<'_>, side: Side) -> RawResult<bool> {
        let mut woken = false;
        // One at a time: what is resolved may be anybody's future, whose callbacks may wait again.
        for _ in 0..self.waits(side).with(py, |waits| waits.len()) {
            let Some(future) = self.waits(side).with(py, |waits| (!waits.is_empty()).then(|| waits.remove(0))) else {
                break;
            };
            wait::resolve(py, &future)?;
            woken = true;
        }
        Ok(woken)
    }

    /// An event for nobody. Usually whoever waited last is about to wait again.
    fn not_wanted(&self, py: Python<'_>, event_loop: &Loop) {
        let count = self.unwanted_events.get() + 1;
        self.unwanted_events.set(count);
        if count > UNWANTED_EVENTS_MAX
            && self.is_idle(py)
            && let Some(token) = self.token.replace(None)
        {
            drop(event_loop.runtime.unwatch(py, token));
        }
    }

    /// What handles and, beside them, futures ask for.
    fn interest(&self, py: Python<'_>) -> Interest {
        if !self.has_handles() {
            return if self.is_idle(py) { Interest::NONE } else { CHANGES };
        }
        let reads = self.reader.is_some() || self.waits_to_read.with(py, |waits| !waits.is_empty());
        let writes = self.writer.is_some() || self.waits_to_write.with(py, |waits| !waits.is_empty());
        match (reads, writes) {
            (true, true) => Interest::BOTH,
            (true, false) => Interest::READABLE,
            (false, true) => Interest::WRITABLE,
            (false, false) => Interest::NONE,
        }
    }

    fn has_handles(&self) -> bool {
        self.reader.is_some() || self.writer.is_some()
    }

    fn is_idle(&self, py: Python<'_>) -> bool {
        self.waits_to_read.with(py, |waits| waits.is_empty()) && self.waits_to_write.with(py, |waits| waits.is_empty())
    }

    fn waits(&self, side: Side) -> &GilCell<Vec<Obj>> {
        match side {
            Side::Reader => &self.waits_to_read,
            Side::Writer => &self.waits_to_write,
        }
    }

    fn forget(&self, py: Python<'_>, side: Side, future: &Obj) {
        let forgotten = self
            .waits(side)
            .with(py, |waits| waits.iter().position(|wait| wait.is(future.as_ptr())).map(|place| waits.remove(place)));
        drop(forgotten);
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
            && let Err(error) = event_loop.runtime.renew(py, token, watcher.interest(py))
        {
            watcher.side(side).set(before);
            return Err(errors::os_error(py, &error));
        }
        watcher.socket.set(None);
        watcher.file.set(Some(Obj::from_any(file)));
        cancel(py, before)?;
        return Ok(handle);
    }
    let watcher = Watcher::new(py)?;
    watcher.get().side(side).set(Some(handle.clone()));
    watcher.get().file.set(Some(Obj::from_any(file)));
    let object = Obj::from_any(watcher.as_any());
    let token = event_loop
        .runtime
        .watch(py, fd, watcher.get().interest(py), SlotKind::Handles, object)
        .map_err(|error| errors::os_error(py, &error))?;
    watcher.get().token.set(Some(token));
    Ok(handle)
}

/// A read from `fd` took less than it could have. If that was everything, the next one need not ask.
#[inline]
pub(super) fn read_short(py: Python<'_>, event_loop: &Loop, fd: RawFd) {
    if let Some(watcher) = watcher_of(py, event_loop, fd) {
        watcher.get().is_empty.set(event_loop.runtime.driver.short_read_empties(fd));
    }
}

/// As [`begin_wait`], if it is known that the socket would say "not now".
#[inline]
pub(super) fn begin_wait_if_empty(this: &Bound<'_, Loop>, sock: &Bound<'_, PyAny>, fd: RawFd) -> PyResult<Option<Obj>> {
    match watcher_of(this.py(), this.get(), fd) {
        Some(watcher) if watcher.get().is_empty.get() => wait_with(this, &watcher, Side::Reader, sock, fd).map(Some),
        Some(_) | None => Ok(None),
    }
}

/// A future that is resolved when `sock`, whose descriptor is `fd`, is ready. Only for who was just told "not now".
pub(super) fn begin_wait(
    py: Python<'_>,
    this: &Bound<'_, Loop>,
    side: Side,
    sock: &Bound<'_, PyAny>,
    fd: RawFd,
) -> PyResult<Obj> {
    let event_loop = this.get();
    let watcher = match watcher_of(py, event_loop, fd) {
        Some(watcher) => watcher,
        None => {
            refuse_transport(py, event_loop, fd, fd.into_pyobject(py)?.as_any())?;
            to_py(py, event_loop.runtime.scheduler.check_open(py))?;
            Watcher::new(py)?
        }
    };
    wait_with(this, &watcher, side, sock, fd)
}

fn wait_with(
    this: &Bound<'_, Loop>,
    watcher: &Bound<'_, Watcher>,
    side: Side,
    sock: &Bound<'_, PyAny>,
    fd: RawFd,
) -> PyResult<Obj> {
    let py = this.py();
    let event_loop = this.get();
    let object = Obj::from_any(this.as_any());
    let future = to_py(py, future::make(py, event_loop.reference(&object)))?;
    let object = watcher.as_any();
    let watcher = watcher.get();
    // Objects that cannot be referenced weakly are new each time.
    let socket = PyWeakrefReference::new(sock).ok().map(Obj::from_bound);
    let is_same = socket.as_ref().is_some_and(|socket| socket.is(watcher.socket.as_ptr()));
    if !is_same {
        // Whoever waits for the socket that had this number before is not to hear of this one.
        drop(watcher.waits(side).with(py, std::mem::take));
        watcher.is_empty.set(false);
    }
    watcher.waits(side).with(py, |waits| waits.push(future.clone()));
    watcher.unwanted_events.set(0);
    if is_same {
        if !watcher.in_doubt.replace(true) {
            event_loop.doubts.with(py, |doubts| doubts.extend(watcher.token.get()));
        }
        return Ok(future);
    }
    let interest = watcher.interest(py);
    let told = match watcher.token.get() {
        Some(token) => event_loop.runtime.renew(py, token, interest),
        None => event_loop
            .runtime
            .watch(py, fd, interest, SlotKind::Handles, Obj::from_any(object))
            .map(|token| watcher.token.set(Some(token))),
    };
    if let Err(error) = told {
        watcher.forget(py, side, &future);
        return Err(errors::os_error(py, &error));
    }
    watcher.socket.set(if watcher.has_handles() { None } else { socket });
    Ok(future)
}

pub(super) fn has_doubts(py: Python<'_>, event_loop: &Loop) -> bool {
    event_loop.doubts.with(py, |doubts| !doubts.is_empty())
}

/// Registers once more what somebody waits for without the kernel having been asked.
#[cold]
pub(super) fn confirm(py: Python<'_>, event_loop: &Loop) {
    for token in event_loop.doubts.with(py, std::mem::take) {
        let runtime = &event_loop.runtime;
        let object = runtime.slots.with(py, |slots| {
            slots.get(token).filter(|slot| slot.kind == SlotKind::Handles).map(|slot| slot.object.clone())
        });
        let Some(object) = object else {
            continue;
        };
        let object = object.borrow(py);
        let watcher = object.cast::<Watcher>().expect("slots of this kind hold watchers").get();
        watcher.in_doubt.set(false);
        if !watcher.is_idle(py) {
            // Refused for a descriptor that was closed: whoever waits for it waits for ever, as in asyncio.
            let _ = runtime.renew(py, token, watcher.interest(py));
        }
    }
}

/// `future` is not waited for any more; the registration stays for the next one.
pub(super) fn stop_waiting(py: Python<'_>, event_loop: &Loop, side: Side, fd: RawFd, future: &Obj) {
    if let Some(watcher) = watcher_of(py, event_loop, fd) {
        watcher.get().forget(py, side, future);
    }
}

/// Tells the driver what is left to watch.
fn lower(py: Python<'_>, event_loop: &Loop, watcher: &Watcher) {
    let Some(token) = watcher.token.get() else {
        return;
    };
    let interest = watcher.interest(py);
    if interest.is_empty() {
        watcher.token.set(None);
        watcher.socket.set(None);
        drop(event_loop.runtime.unwatch(py, token));
    } else {
        // Refused for a descriptor that the program closed meanwhile: it is not watched any more as it is.
        let _ = event_loop.runtime.rewatch(py, token, interest);
    }
}

/// Whether there was something to remove.
pub(super) fn remove(py: Python<'_>, this: &Bound<'_, Loop>, side: Side, file: &Bound<'_, PyAny>) -> PyResult<bool> {
    let event_loop = this.get();
    let watcher = match descriptor(file) {
        Ok(fd) => {
            refuse_transport(py, event_loop, fd, file)?;
            watcher_of(py, event_loop, fd)
        }
        // Nothing has so large a number.
        Err(err) if err.is_instance_of::<PyOverflowError>(py) => None,
        // A socket that is closed has no number any more.
        Err(err) => Some(watcher_with(py, event_loop, file).ok_or(err)?),
    };
    if event_loop.runtime.scheduler.closed.get() {
        return Ok(false);
    }
    let Some(watcher) = watcher else {
        return Ok(false);
    };
    let watcher = watcher.get();
    let removed = watcher.side(side).take();
    let found = removed.is_some();
    if !watcher.has_handles() {
        watcher.file.set(None);
    }
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

/// The watcher of the handles that were registered with this very object.
#[cold]
fn watcher_with<'py>(py: Python<'py>, event_loop: &Loop, file: &Bound<'py, PyAny>) -> Option<Bound<'py, Watcher>> {
    let watchers = event_loop.runtime.slots.with(py, |slots| slots.objects_of(SlotKind::Handles));
    let mut watchers = watchers.into_iter().filter_map(|object| object.into_bound(py).cast_into::<Watcher>().ok());
    watchers.find(|watcher| watcher.get().file.as_ptr() == file.as_ptr())
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
        file.clone()
    } else {
        match file.call_method0("fileno").and_then(|fileno| py.get_type::<PyInt>().call1((fileno,))) {
            Err(err)
                if err.is_instance_of::<PyAttributeError>(py)
                    || err.is_instance_of::<PyTypeError>(py)
                    || err.is_instance_of::<PyValueError>(py) =>
            {
                return Err(PyValueError::new_err(format!("Invalid file object: {}", file.repr()?)));
            }
            other => other?,
        }
    };
    match number.extract::<RawFd>() {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ if number.lt(0)? => Err(PyValueError::new_err(format!("Invalid file descriptor: {number}"))),
        _ => Err(PyOverflowError::new_err("Python int too large to convert to C int")),
    }
}
