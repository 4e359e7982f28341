//! `StreamReader`: what has arrived, and who waits for more.
//!
//! Names, errors and their texts, and the order in which transports are paused and resumed are asyncio's.
//!
//! Must stay true
//! - One reading waits at a time; its future is `waiter`.
//! - A transport is paused while more than twice the limit waits here, and is resumed once no more than the limit does.

use driver::{Progress, ReadBuffer, Scan, Separators};
use pyo3::exceptions::{PyAssertionError, PyNotImplementedError, PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyDict, PyModule, PyTuple};

use super::reading;
use crate::interop::imports;
use crate::raw::bytes::Bytes;
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilCell, GilValue, ObjCell};
use crate::raw::fields;
use crate::raw::instance::{Ref, Visitor};
use crate::raw::obj::Obj;
use crate::raw::public_class::PublicClass;
use crate::raw::{Raised, RawResult, exception, to_py};
use crate::runtime::operation::Operation;
use crate::tasks::future;
use crate::tasks::scheduler::LoopRef;
use crate::tasks::wait;
use crate::transports::receiver;

static PAUSE_READING: Name = Name::new(c"pause_reading");
static RESUME_READING: Name = Name::new(c"resume_reading");
static GET_DEBUG: Name = Name::new(c"get_debug");

/// asyncio's `streams._DEFAULT_LIMIT`.
const DEFAULT_LIMIT: usize = 64 * 1024;

/// `hayase.StreamReader`
pub(super) static PUBLIC_CLASS: PublicClass<StreamReader> = PublicClass::new();

/// What `hayase.StreamReader` stands on.
#[pyclass(module = "hayase._core", subclass, frozen)]
pub(crate) struct StreamReader {
    event_loop: LoopRef,
    buffer: GilCell<ReadBuffer>,
    /// What stands in the place of the buffer until that is used next: what `_buffer` gave out, a bytearray, or the
    /// `bytes` that arrived for a reading that takes them whole.
    instead: ObjCell,
    /// How many bytes the reading that waits takes out at once, if just so many arrive.
    wanted: GilValue<Wanted>,
    limit: GilValue<usize>,
    eof: GilValue<bool>,
    /// We asked the transport to pause.
    paused: GilValue<bool>,
    /// Of the reading that found nothing last; forgotten when something is taken out of the buffer.
    search: GilValue<Search>,
    waiter: ObjCell,
    exception: ObjCell,
    transport: ObjCell,
}

/// How far a search for separators has come, and whose it is. One at a time is kept for when more has come, because one
/// reading waits at a time.
#[derive(Clone, Copy, Default)]
pub(super) struct Search {
    progress: Progress,
    /// Address of the operation; never followed. Zero: nobody's.
    owner: usize,
}

impl Search {
    pub(super) fn begun_by(operation: &Ref<Operation>) -> Search {
        Search { owner: operation.as_ptr() as usize, ..Search::default() }
    }
}

/// At least and at most so many bytes. In four bytes each, because there is one for each connection; who wants more gets
/// it through the buffer.
#[derive(Clone, Copy)]
struct Wanted {
    least: u32,
    most: u32,
}

impl Wanted {
    const NOTHING: Wanted = Wanted { least: u32::MAX, most: 0 };

    fn has(self, count: usize) -> bool {
        (self.least as usize..=self.most as usize).contains(&count)
    }
}

/// What a look at the buffer gave.
pub(super) enum Found {
    Chunk(Bytes),
    NotYet,
}

impl StreamReader {
    // For the protocol and the readings

    pub(super) fn exception(&self) -> Option<Obj> {
        self.exception.get().filter(|error| !error.is_none())
    }

    #[inline]
    pub(super) fn check_exception(&self, py: Python<'_>) -> RawResult<()> {
        match self.exception() {
            None => Ok(()),
            Some(error) => Err(exception::raise(py, &error)),
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit.get()
    }

    pub(super) fn set_transport(&self, transport: &Obj) -> PyResult<()> {
        if self.transport.is_some() {
            return Err(PyAssertionError::new_err("Transport already set"));
        }
        self.transport.set(Some(transport.clone()));
        Ok(())
    }

    pub(super) fn feed(&self, py: Python<'_>, data: &[u8]) -> RawResult<()> {
        if self.eof.get() {
            return Err(Raised::from_err(py, PyAssertionError::new_err("feed_data after feed_eof")));
        }
        if data.is_empty() {
            return Ok(());
        }
        let waiting = if self.wanted.replace(Wanted::NOTHING).has(data.len()) && self.waiting_bytes(py) == 0 {
            // One copy instead of two, and no memory of the buffer's.
            self.instead.set(Some(Bytes::copy(py, data)?.into_obj()));
            data.len()
        } else {
            let buffered = self.with_buffer(py, |buffer| buffer.extend(data).map(|()| buffer.len()));
            buffered.map_err(|_| Raised::no_memory(py))?
        };
        self.wake(py)?;
        if waiting > self.limit.get().saturating_mul(2) { self.pause(py) } else { Ok(()) }
    }

    pub(super) fn feed_eof(&self, py: Python<'_>) -> RawResult<()> {
        self.eof.set(true);
        self.wake(py)
    }

    pub(super) fn fail(&self, py: Python<'_>, error: &Obj) -> RawResult<()> {
        self.exception.set(Some(error.clone()));
        match self.waiter.take() {
            Some(waiter) if !wait::is_cancelled(py, &waiter)? => wait::set_exception(py, &waiter, error),
            Some(_) | None => Ok(()),
        }
    }

    fn wake(&self, py: Python<'_>) -> RawResult<()> {
        match self.waiter.take() {
            Some(waiter) if !wait::is_cancelled(py, &waiter)? => wait::set_result(py, &waiter, Obj::none(py)),
            Some(_) | None => Ok(()),
        }
    }

    #[cold]
    fn pause(&self, py: Python<'_>) -> RawResult<()> {
        let Some(transport) = self.transport.get() else {
            return Ok(());
        };
        if self.paused.get() {
            return Ok(());
        }
        match call::method(py, &transport, &PAUSE_READING, &[]) {
            Ok(_) => self.paused.set(true),
            Err(raised) => {
                let err = raised.fetch(py);
                if !err.is_instance_of::<PyNotImplementedError>(py) {
                    return Err(Raised::from_err(py, err));
                }
                // It cannot be paused: everything is buffered, and it is not asked again.
                self.transport.set(None);
            }
        }
        Ok(())
    }

    #[inline]
    fn resume_if_low(&self, py: Python<'_>) -> RawResult<()> {
        if self.paused.get() && self.with_buffer(py, |buffer| buffer.len()) <= self.limit.get() {
            self.resume(py)
        } else {
            Ok(())
        }
    }

    #[cold]
    fn resume(&self, py: Python<'_>) -> RawResult<()> {
        self.paused.set(false);
        let transport = self.transport.get().unwrap_or_else(|| Obj::none(py));
        call::method(py, &transport, &RESUME_READING, &[]).map(drop)
    }

    /// The future of a reading that has to wait.
    pub(super) fn wait(&self, py: Python<'_>, function: &str) -> RawResult<Obj> {
        if self.waiter.is_some() {
            let text = format!("{function}() called while another coroutine is already waiting for incoming data");
            return Err(Raised::from_err(py, PyRuntimeError::new_err(text)));
        }
        if self.eof.get() {
            return Err(Raised::from_err(py, PyAssertionError::new_err("_wait_for_data after EOF")));
        }
        // More than the limit may be wanted: a paused transport would never bring it.
        if self.paused.get() {
            self.resume(py)?;
        }
        let waiter = wait::create_future(py, &self.event_loop)?;
        self.waiter.set(Some(waiter.clone()));
        Ok(waiter)
    }

    pub(super) fn stop_waiting(&self) {
        self.waiter.set(None);
        self.wanted.set(Wanted::NOTHING);
    }

    /// Nothing is there for a reading that takes as many bytes at once: it will wait.
    #[inline]
    fn not_yet(&self, least: usize, most: usize) -> Found {
        let four_bytes = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        self.wanted.set(Wanted { least: four_bytes(least), most: four_bytes(most) });
        Found::NotYet
    }

    // What readings take out

    #[inline]
    fn with_buffer<R>(&self, py: Python<'_>, f: impl FnOnce(&mut ReadBuffer) -> R) -> R {
        if self.instead.is_some() {
            self.take_back(py);
        }
        self.buffer.with(py, f)
    }

    /// What arrived for a reading that takes so many bytes, if it did and nobody used the buffer since.
    #[inline]
    fn take_whole(&self, least: usize, most: usize) -> Option<Bytes> {
        let arrived = Bytes::from_obj(self.instead.get()?).ok()?;
        if !(least..=most).contains(&arrived.as_ref().len()) {
            return None;
        }
        self.instead.set(None);
        self.search.set(Search::default());
        Some(arrived)
    }

    /// What stood in the place of the buffer goes back there; what was done to `_buffer` was done to the buffer.
    #[cold]
    fn take_back(&self, py: Python<'_>) {
        let Some(instead) = self.instead.take() else {
            return;
        };
        let shown = match Bytes::from_obj(instead) {
            Ok(arrived) => {
                if self.buffer.with(py, |buffer| buffer.extend(arrived.as_ref())).is_err() {
                    self.instead.set(Some(arrived.into_obj()));
                    panic!("no memory for the buffer of a stream");
                }
                return;
            }
            Err(shown) => shown,
        };
        let shown = shown.borrow(py);
        let shown = shown.cast::<PyByteArray>().expect("made by `_buffer`").to_vec();
        if self.buffer.with(py, |buffer| buffer.as_slice() != shown) {
            self.search.set(Search::default());
            self.buffer.with(py, |buffer| {
                buffer.consume(buffer.len());
                buffer.extend(&shown).expect("memory for the buffer of a stream");
            });
        }
    }

    fn take(&self, py: Python<'_>, count: usize) -> RawResult<Bytes> {
        self.search.set(Search::default());
        self.with_buffer(py, |buffer| {
            let taken = Bytes::copy(py, &buffer.as_slice()[..count]);
            if taken.is_ok() {
                buffer.consume(count);
            }
            taken
        })
    }

    fn discard(&self, py: Python<'_>, count: usize) {
        self.search.set(Search::default());
        self.with_buffer(py, |buffer| buffer.consume(count.min(buffer.len())));
    }

    fn waiting_bytes(&self, py: Python<'_>) -> usize {
        self.with_buffer(py, |buffer| buffer.len())
    }

    /// At least one byte and at most `count`, or none at the end.
    pub(super) fn up_to(&self, py: Python<'_>, count: usize) -> RawResult<Found> {
        if let Some(chunk) = self.take_whole(1, count) {
            self.resume_if_low(py)?;
            return Ok(Found::Chunk(chunk));
        }
        let waiting = self.waiting_bytes(py);
        if waiting == 0 && !self.eof.get() {
            return Ok(self.not_yet(1, count));
        }
        let chunk = self.take(py, count.min(waiting))?;
        self.resume_if_low(py)?;
        Ok(Found::Chunk(chunk))
    }

    pub(super) fn exactly(&self, py: Python<'_>, count: usize) -> RawResult<Found> {
        if let Some(chunk) = self.take_whole(count, count) {
            self.resume_if_low(py)?;
            return Ok(Found::Chunk(chunk));
        }
        let waiting = self.waiting_bytes(py);
        if waiting < count {
            if self.eof.get() {
                let partial = self.take(py, waiting)?;
                return Err(incomplete(py, &partial, Some(count)));
            }
            return Ok(self.not_yet(count, count));
        }
        let chunk = self.take(py, count)?;
        self.resume_if_low(py)?;
        Ok(Found::Chunk(chunk))
    }

    /// `readline`: what `until` raises is turned into what has arrived, or into a `ValueError`.
    pub(super) fn line(&self, py: Python<'_>, search: Search) -> RawResult<Found> {
        static NEWLINE: Separators = Separators::newline();
        match self.look(py, &NEWLINE, search) {
            Scan::Found { end } => {
                let chunk = self.take(py, end)?;
                self.resume_if_low(py)?;
                Ok(Found::Chunk(chunk))
            }
            Scan::NotYet if self.eof.get() => self.take(py, self.waiting_bytes(py)).map(Found::Chunk),
            Scan::NotYet => Ok(Found::NotYet),
            Scan::TooFar { start } => {
                self.discard(py, start + 1);
                self.resume_if_low(py)?;
                Err(Raised::from_err(py, PyValueError::new_err(FOUND_TOO_FAR)))
            }
            Scan::TooLong { .. } => {
                self.discard(py, usize::MAX);
                self.resume_if_low(py)?;
                Err(Raised::from_err(py, PyValueError::new_err(NOT_FOUND)))
            }
        }
    }

    pub(super) fn until(&self, py: Python<'_>, separators: &Separators, search: Search) -> RawResult<Found> {
        match self.look(py, separators, search) {
            Scan::Found { end } => {
                let chunk = self.take(py, end)?;
                self.resume_if_low(py)?;
                Ok(Found::Chunk(chunk))
            }
            Scan::NotYet if self.eof.get() => {
                let partial = self.take(py, self.waiting_bytes(py))?;
                Err(incomplete(py, &partial, None))
            }
            Scan::NotYet => Ok(Found::NotYet),
            Scan::TooFar { start } => Err(overrun(py, FOUND_TOO_FAR, start)),
            Scan::TooLong { searched } => Err(overrun(py, NOT_FOUND, searched)),
        }
    }

    #[inline]
    fn look(&self, py: Python<'_>, separators: &Separators, mut search: Search) -> Scan {
        let scan = self.with_buffer(py, |buffer| buffer.scan(separators, &mut search.progress, self.limit.get()));
        if scan == Scan::NotYet {
            self.search.set(search);
        }
        scan
    }

    /// The search of a reading that has waited; a new one if another has searched or taken something meanwhile.
    pub(super) fn search_of(&self, _py: Python<'_>, operation: &Ref<Operation>) -> Search {
        let (kept, new) = (self.search.get(), Search::begun_by(operation));
        if kept.owner == new.owner { kept } else { new }
    }

    fn cells(&self) -> [&ObjCell; 4] {
        [&self.waiter, &self.exception, &self.transport, &self.instead]
    }
}

// asyncio's texts of `LimitOverrunError`; `readline` raises them as `ValueError`.
const FOUND_TOO_FAR: &str = "Separator is found, but chunk is longer than limit";
const NOT_FOUND: &str = "Separator is not found, and chunk exceed the limit";

#[cold]
fn incomplete(py: Python<'_>, partial: &Bytes, expected: Option<usize>) -> Raised {
    let made =
        imports::incomplete_read_error(py).and_then(|class| class.call1((partial.as_obj().borrow(py), expected)));
    match made {
        Ok(error) => Raised::from_err(py, PyErr::from_value(error)),
        Err(err) => Raised::from_err(py, err),
    }
}

#[cold]
fn overrun(py: Python<'_>, text: &str, consumed: usize) -> Raised {
    match imports::limit_overrun_error(py).and_then(|class| class.call1((text, consumed))) {
        Ok(error) => Raised::from_err(py, PyErr::from_value(error)),
        Err(err) => Raised::from_err(py, err),
    }
}

/// `limit`, where more than memory can hold is as good as unlimited.
fn limit_of(limit: &Bound<'_, PyAny>) -> PyResult<usize> {
    if limit.le(0)? {
        return Err(PyValueError::new_err("Limit cannot be <= 0"));
    }
    match limit.extract::<usize>() {
        Ok(limit) => Ok(limit),
        Err(_) if limit.gt(usize::MAX)? => Ok(usize::MAX),
        Err(err) => match limit.extract::<f64>() {
            Ok(limit) => Ok(limit as usize),
            Err(_) => Err(err),
        },
    }
}

#[pymethods]
impl StreamReader {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs), text_signature = "(limit=65536, loop=None)")]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> StreamReader {
        StreamReader {
            event_loop: LoopRef::unset(),
            buffer: GilCell::new(ReadBuffer::new()),
            instead: ObjCell::empty(),
            wanted: GilValue::new(Wanted::NOTHING),
            limit: GilValue::new(DEFAULT_LIMIT),
            eof: GilValue::new(false),
            paused: GilValue::new(false),
            search: GilValue::new(Search::default()),
            waiter: ObjCell::empty(),
            exception: ObjCell::empty(),
            transport: ObjCell::empty(),
        }
    }

    #[pyo3(signature = (limit=None, r#loop=None))]
    fn __init__(
        slf: &Bound<'_, Self>,
        limit: Option<&Bound<'_, PyAny>>,
        r#loop: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if let Some(limit) = limit {
            this.limit.set(limit_of(limit)?);
        }
        let event_loop = future::loop_or_current(py, r#loop.map(Obj::from_any))?;
        this.event_loop.set(&LoopRef::new(event_loop.clone()));
        let debug = match this.event_loop.scheduler() {
            Some(scheduler) => scheduler.debug.get(),
            None => to_py(py, call::method(py, &event_loop, &GET_DEBUG, &[]))?.borrow(py).is_truthy()?,
        };
        if debug {
            let caller = py.import("sys")?.call_method1("_getframe", (0,))?;
            slf.setattr("_source_traceback", imports::extract_stack(py)?.call1((caller,))?)?;
        }
        Ok(())
    }

    /// Adds data that arrived.
    #[pyo3(name = "feed_data")]
    fn feed_data(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        if self.eof.get() {
            return Err(PyAssertionError::new_err("feed_data after feed_eof"));
        }
        if !data.is_truthy()? {
            return Ok(());
        }
        let data = match Bytes::from_obj(Obj::from_any(data)) {
            Ok(data) => data,
            Err(data) => match to_py(py, Bytes::from_buffer(py, &data)) {
                Ok(data) => data,
                // For its error: it is what asyncio calls.
                Err(err) => {
                    PyByteArray::new(py, b"").call_method1("extend", (data.borrow(py),))?;
                    return Err(err);
                }
            },
        };
        to_py(py, self.feed(py, data.as_ref()))
    }

    /// No more data will come.
    #[pyo3(name = "feed_eof")]
    fn feed_eof_called(&self, py: Python<'_>) -> PyResult<()> {
        to_py(py, self.feed_eof(py))
    }

    /// Whether everything was read and the end was fed.
    fn at_eof(&self, py: Python<'_>) -> bool {
        self.eof.get() && self.waiting_bytes(py) == 0
    }

    /// The exception that readings raise, or None.
    #[pyo3(name = "exception")]
    fn exception_called(&self, py: Python<'_>) -> Py<PyAny> {
        Obj::or_none(py, self.exception.get())
    }

    /// Makes the reading that waits, and all later ones, raise an exception.
    fn set_exception(&self, py: Python<'_>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        to_py(py, self.fail(py, &Obj::from_any(exc)))
    }

    fn _wakeup_waiter(&self, py: Python<'_>) -> PyResult<()> {
        to_py(py, self.wake(py))
    }

    fn _maybe_resume_transport(&self, py: Python<'_>) -> PyResult<()> {
        to_py(py, self.resume_if_low(py))
    }

    // Private names that programs and tests use

    /// A copy that is the buffer until the next reading or arrival: programs clear it before they begin with TLS.
    #[getter]
    fn _buffer(&self, py: Python<'_>) -> Py<PyAny> {
        if let Some(Err(shown)) = self.instead.get().map(Bytes::from_obj) {
            return shown.into_bound(py).unbind();
        }
        let waiting = self.with_buffer(py, |buffer| buffer.as_slice().to_vec());
        let shown = Obj::from_bound(PyByteArray::new(py, &waiting));
        self.instead.set(Some(shown.clone()));
        shown.into_bound(py).unbind()
    }

    #[setter(_buffer)]
    fn set_buffer(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = to_py(py, Bytes::from_buffer(py, &Obj::from_any(data)))?;
        self.discard(py, usize::MAX);
        let buffered = self.with_buffer(py, |buffer| buffer.extend(data.as_ref()));
        to_py(py, buffered.map_err(|_| Raised::no_memory(py)))
    }

    #[getter]
    fn _limit(&self) -> usize {
        self.limit.get()
    }

    #[setter(_limit)]
    fn set_limit(&self, limit: &Bound<'_, PyAny>) -> PyResult<()> {
        self.limit.set(limit_of(limit)?);
        Ok(())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        Visitor::traverse(&visit, |visitor| {
            self.event_loop.visit(visitor);
            self.cells().into_iter().for_each(|cell| visitor.cell(cell));
        })
    }

    fn __clear__(&self) {
        self.event_loop.clear();
        self.cells().into_iter().for_each(|cell| cell.set(None));
    }
}

/// Whether what arrives may go into the buffer directly.
pub(super) fn feeds_natively(reader: &Bound<'_, PyAny>) -> bool {
    static FEED_DATA: Name = Name::new(c"feed_data");
    reader.is_instance_of::<StreamReader>() && receiver::is_native_method(reader, &FEED_DATA)
}

pub(super) fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<StreamReader>()?;
    let py = module.py();
    fields::add(py, c"_loop", |reader: &StreamReader| &reader.event_loop)?;
    fields::add(py, c"_eof", |reader: &StreamReader| &reader.eof)?;
    fields::add(py, c"_paused", |reader: &StreamReader| &reader.paused)?;
    fields::add(py, c"_waiter", |reader: &StreamReader| &reader.waiter)?;
    fields::add(py, c"_exception", |reader: &StreamReader| &reader.exception)?;
    fields::add(py, c"_transport", |reader: &StreamReader| &reader.transport)?;
    reading::add_methods(py)
}
