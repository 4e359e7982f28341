//! Unix signals: `add_signal_handler`, and waking a sleeping loop when Python has a signal to handle.
//!
//! Python's own C handler only notes the signal and writes its number to the wakeup descriptor. While a loop runs in
//! the main thread that descriptor is ours, so a signal that arrives just before the loop falls asleep is not lost.
//! Handlers of `add_signal_handler` run as ordinary handles; all others run in `PyErr_CheckSignals` after the wait.
//! A forked child gives the descriptor up before anything else runs there: what it wrote would wake its parent.

use std::ffi::CString;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use driver::{Interest, Token};
use pyo3::exceptions::{PyOSError, PyResourceWarning, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyInt;

use super::{Arguments, Loop, SignalHandlers};
use crate::interop::{errors, imports};
use crate::raw::cell::{GilCell, GilValue, ObjCell};
use crate::raw::compat;
use crate::raw::fastcall::Rest;
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_py, to_raw};
use crate::runtime::slots::SlotKind;
use crate::tasks::handle;
use crate::tasks::ready::Ready;

/// Numbers read from the socket pair at once.
const NUMBERS_PER_READ: usize = 4096;

/// The descriptor of the loop that asked the interpreter last; -1 when it is closed.
static WAKEUP_FD: AtomicI32 = AtomicI32::new(-1);

pub(super) struct Signals {
    handlers: GilCell<SignalHandlers>,
    /// Python socket objects of the pair; the interpreter writes to the second.
    reader: ObjCell,
    writer: ObjCell,
    reader_fd: GilValue<RawFd>,
    writer_fd: GilValue<RawFd>,
    /// The registration of the reader.
    token: GilValue<Option<Token>>,
}

impl Signals {
    pub(super) fn new() -> Signals {
        Signals {
            handlers: GilCell::new(SignalHandlers::new()),
            reader: ObjCell::empty(),
            writer: ObjCell::empty(),
            reader_fd: GilValue::new(-1),
            writer_fd: GilValue::new(-1),
            token: GilValue::new(None),
        }
    }

    pub(super) fn visit(&self, visitor: &mut Visitor<'_>) {
        self.handlers.peek(|handlers| handlers.values().for_each(|handle| visitor.obj(handle)));
        visitor.cell(&self.reader);
        visitor.cell(&self.writer);
    }

    pub(super) fn clear(&self, py: Python<'_>) {
        drop(self.handlers.with(py, std::mem::take));
        self.reader.set(None);
        self.writer.set(None);
    }
}

/// Whether the interpreter wakes the loop that runs.
pub(super) struct Listening(bool);

/// Makes the interpreter wake this loop for signals. Outside the main thread Python allows none, and needs none: the
/// interpreter handles signals in the main thread alone.
pub(super) fn listen(this: &Bound<'_, Loop>) -> PyResult<Listening> {
    let py = this.py();
    let signals = &this.get().signals;
    let set_wakeup_fd = imports::set_wakeup_fd(py)?;
    let threading = py.import("threading")?;
    let in_main_thread = threading.call_method0("current_thread")?.is(&threading.call_method0("main_thread")?);
    this.get().runs_in_main_thread.set(in_main_thread);
    if !in_main_thread {
        return Ok(Listening(false));
    }
    make_pair(this)?;
    WAKEUP_FD.store(signals.writer_fd.get(), Ordering::Relaxed);
    let keywords = pyo3::types::PyDict::new(py);
    keywords.set_item("warn_on_full_buffer", false)?;
    let before = set_wakeup_fd.call((signals.writer_fd.get(),), Some(&keywords));
    match before.and_then(|before| before.extract::<RawFd>()) {
        // Somebody else's descriptor: it is theirs to read; a sleeping loop is still interrupted by the signal itself.
        // (A number that our reader has by now was theirs before they closed it.)
        Ok(before) if before >= 0 && before != signals.writer_fd.get() && before != signals.reader_fd.get() => {
            match set_wakeup_fd.call1((before,)) {
                Ok(_) => Ok(Listening(false)),
                // They closed it and left its number behind: nobody reads there.
                Err(err) if is_refused(py, &err) => Ok(Listening(true)),
                Err(err) => Err(err),
            }
        }
        Ok(_) => Ok(Listening(true)),
        // A sub-interpreter: no signals here.
        Err(err) if err.is_instance_of::<PyValueError>(py) => Ok(Listening(false)),
        Err(err) => Err(err),
    }
}

pub(super) fn stop_listening(this: &Bound<'_, Loop>, listening: Listening) -> PyResult<()> {
    let py = this.py();
    // While a handler is installed the descriptor stays, as asyncio's does.
    if listening.0 && this.get().signals.handlers.with(py, |handlers| handlers.is_empty()) {
        withdraw(py, this.get())?;
    }
    Ok(())
}

/// The interpreter wakes this loop no longer. What a program has put there instead stays.
fn withdraw(py: Python<'_>, event_loop: &Loop) -> PyResult<()> {
    let set_wakeup_fd = imports::set_wakeup_fd(py)?;
    let current = match set_wakeup_fd.call1((-1,)) {
        Ok(current) => current.extract::<RawFd>()?,
        // Another thread, or a sub-interpreter: it was never put there.
        Err(err) if err.is_instance_of::<PyValueError>(py) => return Ok(()),
        Err(err) => return Err(err),
    };
    if current >= 0 && current != event_loop.signals.writer_fd.get() {
        match set_wakeup_fd.call1((current,)) {
            Err(err) if !is_refused(py, &err) => return Err(err),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Whether a descriptor cannot wake anybody: it is closed, or became something else.
fn is_refused(py: Python<'_>, err: &PyErr) -> bool {
    err.is_instance_of::<PyValueError>(py) || err.is_instance_of::<PyOSError>(py)
}

/// In the child, after a fork.
pub(super) fn forget_parent(py: Python<'_>) -> PyResult<()> {
    let parents = WAKEUP_FD.swap(-1, Ordering::Relaxed);
    if parents < 0 {
        return Ok(());
    }
    let set_wakeup_fd = imports::set_wakeup_fd(py)?;
    let current: RawFd = set_wakeup_fd.call1((-1,))?.extract()?;
    if current >= 0 && current != parents {
        set_wakeup_fd.call1((current,))?;
    }
    Ok(())
}

fn make_pair(this: &Bound<'_, Loop>) -> PyResult<()> {
    let py = this.py();
    let signals = &this.get().signals;
    if signals.reader.is_some() {
        return Ok(());
    }
    let (reader, writer): (Bound<'_, PyAny>, Bound<'_, PyAny>) =
        py.import("socket")?.call_method0("socketpair")?.extract()?;
    reader.call_method1("setblocking", (false,))?;
    writer.call_method1("setblocking", (false,))?;
    let fd: RawFd = reader.call_method0("fileno")?.extract()?;
    let watched = this.get().runtime.watch(py, fd, Interest::READABLE, SlotKind::Signals, Obj::none(py));
    let token = watched.map_err(|error| errors::os_error(py, &error))?;
    signals.token.set(Some(token));
    signals.reader_fd.set(fd);
    signals.writer_fd.set(writer.call_method0("fileno")?.extract()?);
    signals.reader.set(Some(Obj::from_bound(reader)));
    signals.writer.set(Some(Obj::from_bound(writer)));
    Ok(())
}

/// Numbers have arrived: the handlers of `add_signal_handler` are queued.
pub(super) fn on_ready(py: Python<'_>, event_loop: &Loop) -> RawResult<()> {
    let signals = &event_loop.signals;
    let mut numbers = [0; NUMBERS_PER_READ];
    while let Ok(count @ 1..) = event_loop.runtime.driver.recv(signals.reader_fd.get(), &mut numbers) {
        for number in &numbers[..count] {
            queue(py, event_loop, i32::from(*number))?;
        }
        if count < numbers.len() {
            break;
        }
    }
    Ok(())
}

fn queue(py: Python<'_>, event_loop: &Loop, number: i32) -> RawResult<()> {
    let Some(handle) = event_loop.signals.handlers.with(py, |handlers| handlers.get(&number).cloned()) else {
        return Ok(());
    };
    if handle::is_cancelled(&handle) {
        return to_raw(py, remove_number(py, event_loop, number)).map(drop);
    }
    event_loop.push(py, Ready::Handle(handle));
    Ok(())
}

pub(super) fn add(
    this: &Bound<'_, Loop>,
    number: &Bound<'_, PyAny>,
    callback: &Bound<'_, PyAny>,
    args: Arguments<'_, '_>,
) -> PyResult<()> {
    let py = this.py();
    let event_loop = this.get();
    if imports::is_coroutine(py)?.call1((callback,))?.is_truthy()?
        || imports::is_coroutine_function(py)?.call1((callback,))?.is_truthy()?
    {
        return Err(PyTypeError::new_err("coroutines cannot be used with add_signal_handler()"));
    }
    let number = check_number(number)?;
    to_py(py, event_loop.runtime.scheduler.check_open(py))?;
    make_pair(this)?;
    let signal = py.import("signal")?;
    let refused = |err: PyErr| -> PyErr {
        if is_refused(py, &err) { PyRuntimeError::new_err(err.value(py).to_string()) } else { err }
    };
    let set_wakeup_fd = imports::set_wakeup_fd(py)?;
    set_wakeup_fd.call1((event_loop.signals.writer_fd.get(),)).map_err(refused)?;
    WAKEUP_FD.store(event_loop.signals.writer_fd.get(), Ordering::Relaxed);
    let rest = match args.len() {
        0 => Rest::None,
        1 => Rest::One(Obj::from_bound(args.get_item(0)?)),
        _ => Rest::Tuple(Obj::from_any(args.as_any())),
    };
    let object = Obj::from_any(this.as_any());
    let made = handle::make(py, event_loop.reference(&object), Obj::from_any(callback), rest, None);
    let handle = to_py(py, made)?.into_obj();
    let before = event_loop.signals.handlers.with(py, |handlers| handlers.insert(number, handle));
    drop(before);
    // A Python-level handler must exist, or the interpreter would not note the signal; it has nothing to do.
    let installed = signal
        .call_method1("signal", (number, noted_elsewhere(py)?))
        .and_then(|_| signal.call_method1("siginterrupt", (number, false)));
    if let Err(err) = installed {
        drop(event_loop.signals.handlers.with(py, |handlers| handlers.remove(&number)));
        if event_loop.signals.handlers.with(py, |handlers| handlers.is_empty()) {
            set_wakeup_fd.call1((-1,))?;
        }
        return Err(cannot_be_caught(py, err, number));
    }
    Ok(())
}

fn cannot_be_caught(py: Python<'_>, err: PyErr, number: i32) -> PyErr {
    const EINVAL: i32 = 22;
    let errno = err.value(py).getattr("errno").and_then(|errno| errno.extract::<i32>());
    if matches!(errno, Ok(EINVAL)) {
        return PyRuntimeError::new_err(format!("sig {number} cannot be caught"));
    }
    err
}

/// asyncio's own empty handler, so that both loops leave the same object behind.
fn noted_elsewhere(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    py.import("asyncio.unix_events")?.getattr("_sighandler_noop")
}

/// Whether there was a handler.
pub(super) fn remove(this: &Bound<'_, Loop>, number: &Bound<'_, PyAny>) -> PyResult<bool> {
    let number = check_number(number)?;
    remove_number(this.py(), this.get(), number)
}

fn remove_number(py: Python<'_>, event_loop: &Loop, number: i32) -> PyResult<bool> {
    let Some(handle) = event_loop.signals.handlers.with(py, |handlers| handlers.remove(&number)) else {
        return Ok(false);
    };
    drop(handle);
    let signal = py.import("signal")?;
    let default = if signal.getattr("SIGINT")?.eq(number)? { "default_int_handler" } else { "SIG_DFL" };
    if let Err(err) = signal.call_method1("signal", (number, signal.getattr(default)?)) {
        return Err(cannot_be_caught(py, err, number));
    }
    if event_loop.signals.handlers.with(py, |handlers| handlers.is_empty()) {
        // While the loop runs it keeps listening; `run_forever` puts the rest back.
        let running = event_loop.runtime.scheduler.running_thread.get() != 0;
        let fd = if running { event_loop.signals.writer_fd.get() } else { -1 };
        if let Err(err) = imports::set_wakeup_fd(py)?.call1((fd,))
            && !err.is_instance_of::<PyValueError>(py)
        {
            return Err(err);
        }
    }
    Ok(true)
}

/// All handlers, for a loop that closes; then the socket pair. A loop that the program forgot closes when the interpreter
/// ends, perhaps so late that nothing can be imported any more.
pub(super) fn close(this: &Bound<'_, Loop>) -> PyResult<()> {
    let py = this.py();
    let event_loop = this.get();
    let numbers: Vec<i32> = event_loop.signals.handlers.with(py, |handlers| handlers.keys().copied().collect());
    if !numbers.is_empty() && compat::is_finalizing() {
        let text = format!(
            "Closing the loop {} on interpreter shutdown stage, skipping signal handlers removal",
            this.repr()?
        );
        let text = CString::new(text).unwrap_or_default();
        PyErr::warn(py, &py.get_type::<PyResourceWarning>(), &text, 1)?;
        drop(event_loop.signals.handlers.with(py, std::mem::take));
    } else {
        for number in numbers {
            remove_number(py, event_loop, number)?;
        }
    }
    let writer_fd = event_loop.signals.writer_fd.get();
    if writer_fd >= 0 && WAKEUP_FD.load(Ordering::Relaxed) == writer_fd {
        WAKEUP_FD.store(-1, Ordering::Relaxed);
        withdraw(py, event_loop)?;
    }
    if let Some(token) = event_loop.signals.token.replace(None) {
        drop(event_loop.runtime.unwatch(py, token));
    }
    for socket in [event_loop.signals.reader.take(), event_loop.signals.writer.take()].into_iter().flatten() {
        socket.borrow(py).call_method0("close")?;
    }
    Ok(())
}

fn check_number(number: &Bound<'_, PyAny>) -> PyResult<i32> {
    let py = number.py();
    if !number.is_instance_of::<PyInt>() {
        return Err(PyTypeError::new_err(format!("sig must be an int, not {}", number.repr()?)));
    }
    let valid = py.import("signal")?.call_method0("valid_signals")?;
    if !valid.contains(number)? {
        return Err(PyValueError::new_err(format!("invalid signal number {number}")));
    }
    number.extract()
}
