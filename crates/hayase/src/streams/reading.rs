//! `read`, `readexactly`, `readline`, `readuntil`: operations that look into the buffer first and wait only if they must.
//!
//! As a coroutine function's, their body begins when they are awaited, and arguments are judged then. The order of the
//! checks is asyncio's.

use driver::{Separators, SeparatorsError};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyInt, PyTuple};

use super::reader::{self, Found, Search, StreamReader};
use crate::raw::bytes::{self, Bytes};
use crate::raw::call::Name;
use crate::raw::fastcall::{self, Args, FastMethod};
use crate::raw::instance::Ref;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, compat, exception, to_raw};
use crate::runtime::operation::{self, Kind, Operation, Outcome, Turn};

static READ: Kind = Kind { name: "StreamReader.read", start: read, resume: read_on };
static READ_EVERYTHING: Kind = Kind { name: "StreamReader.read", start: read_everything, resume: read_everything_on };
static READ_EXACTLY: Kind = Kind { name: "StreamReader.readexactly", start: read_exactly, resume: read_exactly_on };
static READ_LINE: Kind = Kind { name: "StreamReader.readline", start: read_line, resume: read_line_on };
static READ_UNTIL: Kind = Kind { name: "StreamReader.readuntil", start: read_until, resume: read_until_on };

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
    count_of(py, &this.argument.get().unwrap_or_else(|| Obj::none(py)))
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
        // Each chunk is a reading of its own in asyncio, which begins with this and does not look again when it was woken.
        reader.check_exception(py)?;
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
    let separators = separators(py, this.argument.get().as_ref())?;
    begin(py, this, "readuntil", |reader| reader.until(py, &separators, Search::begun_by(this)))
}

fn read_until_on(py: Python<'_>, this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    go_on(py, this, outcome, "readuntil", |reader| {
        let separators = separators(py, this.argument.get().as_ref())?;
        reader.until(py, &separators, reader.search_of(py, this))
    })
}

// The four readings: an awaitable each, which begins when it is awaited

macro_rules! readings {
    ($($type:ident, $name:literal, $doc:literal, $argument:ident, $kind:expr, $bare:expr;)*) => {
        $(
            struct $type;

            impl FastMethod<StreamReader> for $type {
                const NAME: &'static std::ffi::CStr = $name;
                const DOC: &'static std::ffi::CStr = $doc;

                fn call(py: Python<'_>, this: &Obj, _: &StreamReader, args: &Args<'_>) -> RawResult<Obj> {
                    let argument = $argument(py, args)?;
                    let kind = if argument.is_none() { $bare } else { $kind };
                    operation::make(py, kind, this.clone(), argument)
                }
            }
        )*

        pub(super) fn add_methods(py: Python<'_>) -> PyResult<()> {
            $(fastcall::add_method::<StreamReader, $type>(py)?;)*
            Ok(())
        }
    };
}

readings! {
    Read, c"read", c"read($self, n=-1)\n--\n\n\
        Up to n bytes as soon as there are any; everything up to the end if n is negative.", read_argument, &READ, &READ_EVERYTHING;
    ReadExactly, c"readexactly", c"readexactly($self, n)\n--\n\n\
        Exactly n bytes; IncompleteReadError if the stream ends before.", count_argument, &READ_EXACTLY, &READ_EXACTLY;
    ReadLine, c"readline", c"readline($self, /)\n--\n\n\
        Up to and with the next newline; what is left at the end of the stream.", no_argument, &READ_LINE, &READ_LINE;
    ReadUntil, c"readuntil", c"readuntil($self, separator=b'\\n')\n--\n\n\
        Up to and with a separator, or the first of several.", separator_argument, &READ_UNTIL, &READ_UNTIL;
}

static N: Name = Name::new(c"n");
static SEPARATOR: Name = Name::new(c"separator");

// How Python names the methods in its errors about arguments.

#[inline]
fn read_argument(py: Python<'_>, args: &Args<'_>) -> RawResult<Option<Obj>> {
    let [count] = args.named("StreamReader.read").bind(py, [&N], 0)?;
    Ok(count)
}

#[inline]
fn count_argument(py: Python<'_>, args: &Args<'_>) -> RawResult<Option<Obj>> {
    let [count] = args.named("StreamReader.readexactly").bind(py, [&N], 1)?;
    Ok(count)
}

#[inline]
fn no_argument(py: Python<'_>, args: &Args<'_>) -> RawResult<Option<Obj>> {
    let [] = args.named("StreamReader.readline").bind(py, [], 0)?;
    Ok(None)
}

#[inline]
fn separator_argument(py: Python<'_>, args: &Args<'_>) -> RawResult<Option<Obj>> {
    let [separator] = args.named("StreamReader.readuntil").bind(py, [&SEPARATOR], 0)?;
    Ok(separator)
}

/// The separators of `readuntil`, with the errors that looking for them would raise.
fn separators(py: Python<'_>, argument: Option<&Obj>) -> RawResult<Separators> {
    let Some(argument) = argument else {
        return Ok(Separators::newline());
    };
    let made = |separators: Result<Separators, SeparatorsError>| {
        separators.map_err(|error| Raised::from_err(py, PyValueError::new_err(error.to_string())))
    };
    if let Ok(separator) = Bytes::from_obj(argument.clone()) {
        return made(Separators::one(separator.as_ref()));
    }
    let mut list = Vec::new();
    match argument.borrow(py).cast::<PyTuple>() {
        Ok(tuple) => {
            for item in tuple.iter() {
                list.push(separator_bytes(py, &Obj::from_bound(item))?);
            }
        }
        Err(_) => return made(Separators::one(&separator_bytes(py, argument)?)),
    }
    made(Separators::new(&list))
}

fn separator_bytes(py: Python<'_>, object: &Obj) -> RawResult<Vec<u8>> {
    match bytes::with_buffer(py, object, |data| data.to_vec()) {
        Ok(data) => Ok(data),
        Err(raised) => {
            drop(raised.fetch(py));
            if to_raw(py, object.borrow(py).len())? == 0 {
                return Ok(Vec::new());
            }
            let name = to_raw(py, object.borrow(py).get_type().name())?;
            let text = format!("argument should be integer or bytes-like object, not '{name}'");
            Err(fastcall::type_error(py, text))
        }
    }
}

/// The number that a reading was given: negative numbers are told apart, errors are those of `n < 0` and of a slice.
fn count_of(py: Python<'_>, argument: &Obj) -> RawResult<Option<usize>> {
    let number = argument.borrow(py);
    if let Ok(exact) = number.cast_exact::<PyInt>()
        && let Ok(count) = exact.extract::<isize>()
    {
        return Ok(usize::try_from(count).ok());
    }
    if to_raw(py, number.lt(0))? {
        return Ok(None);
    }
    match number.extract::<usize>() {
        Ok(count) => Ok(Some(count)),
        Err(err) if err.is_instance_of::<pyo3::exceptions::PyOverflowError>(py) => Ok(Some(usize::MAX)),
        Err(_) => Err(fastcall::type_error(py, compat::READ_WANTS.to_owned())),
    }
}
