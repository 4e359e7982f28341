//! `read`, `readexactly`, `readline`, `readuntil`: operations that look into the buffer first and wait only if they must.
//!
//! As a coroutine function's, their body begins when they are awaited, and arguments are judged then. The order of the
//! checks is asyncio's.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyByteArray;

use super::reader::{self, Found, Search, StreamReader};
use crate::raw::bytes::Bytes;
use crate::raw::instance::Ref;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, exception, to_raw};
use crate::runtime::operation::{Kind, Operation, Outcome, Turn};

pub(super) static READ: Kind = Kind { name: "StreamReader.read", start: read, resume: read_on };
pub(super) static READ_EVERYTHING: Kind =
    Kind { name: "StreamReader.read", start: read_everything, resume: read_everything_on };
pub(super) static READ_EXACTLY: Kind =
    Kind { name: "StreamReader.readexactly", start: read_exactly, resume: read_exactly_on };
pub(super) static READ_LINE: Kind = Kind { name: "StreamReader.readline", start: read_line, resume: read_line_on };
pub(super) static READ_UNTIL: Kind = Kind { name: "StreamReader.readuntil", start: read_until, resume: read_until_on };

/// Runs `look` on the reader: what is found is returned, else more is awaited. `function` is asyncio's name of what waits.
#[inline]
fn attempt(
    py: Python<'_>,
    this: &Ref<Operation>,
    function: &str,
    look: impl FnOnce(&StreamReader) -> RawResult<Found>,
) -> RawResult<Turn> {
    let object = this.target_object();
    let reader = reader::PUBLIC_CLASS.view(py, &object).expect("made by a reader");
    match look(reader)? {
        Found::Chunk(chunk) => Ok(Turn::Return(chunk.into_obj())),
        Found::NotYet => reader.wait(py, function).map(Turn::Await),
    }
}

/// As [`attempt`], at the beginning: an exception that was set comes first.
#[inline]
fn begin(
    py: Python<'_>,
    this: &Ref<Operation>,
    function: &str,
    look: impl FnOnce(&StreamReader) -> RawResult<Found>,
) -> RawResult<Turn> {
    attempt(py, this, function, |reader| {
        reader.check_exception(py)?;
        look(reader)
    })
}

/// As [`attempt`], after waiting: nobody waits any more, and what the waiting raised is passed on.
#[inline]
fn go_on(
    py: Python<'_>,
    this: &Ref<Operation>,
    outcome: Outcome,
    function: &str,
    look: impl FnOnce(&StreamReader) -> RawResult<Found>,
) -> RawResult<Turn> {
    attempt(py, this, function, |reader| {
        reader.stop_waiting();
        match outcome {
            Ok(_) => look(reader),
            Err(error) => Err(exception::restore(py, error)),
        }
    })
}

fn nothing(py: Python<'_>) -> RawResult<Found> {
    Bytes::copy(py, b"").map(Found::Chunk)
}

// read

/// The number that was given, as `Some`; a negative one means everything.
#[inline]
fn count(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Option<usize>> {
    reader::count(py, &this.argument.get().unwrap_or_else(|| Obj::none(py)))
}

fn read(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    begin(py, this, "read", |reader| match count(py, this)? {
        Some(0) => nothing(py),
        Some(count) => reader.up_to(py, count),
        None => {
            this.become_kind(&READ_EVERYTHING);
            this.argument.set(None);
            everything(py, this, reader)
        }
    })
}

fn read_on(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    go_on(py, this, outcome, "read", |reader| reader.up_to(py, count(py, this)?.unwrap_or(0)))
}

fn read_everything(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    begin(py, this, "read", |reader| everything(py, this, reader))
}

fn read_everything_on(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    go_on(py, this, outcome, "read", |reader| everything(py, this, reader))
}

/// Up to the end, at most the limit at a time, so that a transport that was paused is resumed. What was collected so far
/// is the operation's argument.
fn everything(py: Python<'_>, this: &Ref<Operation>, reader: &StreamReader) -> RawResult<Found> {
    loop {
        reader.check_exception(py)?;
        match reader.up_to(py, reader.limit())? {
            Found::NotYet => return Ok(Found::NotYet),
            Found::Chunk(chunk) if !chunk.as_ref().is_empty() => to_raw(py, collect(py, this, &chunk))?,
            Found::Chunk(end) => {
                return match this.argument.take() {
                    Some(collected) => Bytes::from_buffer(py, &collected).map(Found::Chunk),
                    None => Ok(Found::Chunk(end)),
                };
            }
        }
    }
}

fn collect(py: Python<'_>, this: &Ref<Operation>, chunk: &Bytes) -> PyResult<()> {
    match this.argument.get() {
        None => this.argument.set(Some(Obj::from_bound(PyByteArray::new(py, chunk.as_ref())))),
        Some(collected) => {
            let chunk = chunk.as_obj().borrow(py);
            collected.borrow(py).call_method1(pyo3::intern!(py, "extend"), (chunk,))?;
        }
    }
    Ok(())
}

// readexactly

fn read_exactly(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let Some(count) = count(py, this)? else {
        let text = "readexactly size can not be less than zero";
        return Err(Raised::from_err(py, PyValueError::new_err(text)));
    };
    begin(py, this, "readexactly", |reader| reader.exactly(py, count))
}

fn read_exactly_on(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    go_on(py, this, outcome, "readexactly", |reader| reader.exactly(py, count(py, this)?.unwrap_or(0)))
}

// readline and readuntil; a line is waited for as `readuntil` in asyncio, and its errors say so

fn read_line(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    begin(py, this, "readuntil", |reader| reader.line(py, Search::begun_by(this)))
}

fn read_line_on(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    go_on(py, this, outcome, "readuntil", |reader| reader.line(py, reader.search_of(py, this)))
}

fn read_until(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let separators = reader::separators(py, this.argument.get().as_ref())?;
    begin(py, this, "readuntil", |reader| reader.until(py, &separators, Search::begun_by(this)))
}

fn read_until_on(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    go_on(py, this, outcome, "readuntil", |reader| {
        let separators = reader::separators(py, this.argument.get().as_ref())?;
        reader.until(py, &separators, reader.search_of(py, this))
    })
}
