//! `writer.drain()` and `writer.wait_closed()`: operations that end at once when there is nothing to wait for.
//!
//! The waiting itself is asyncio's: a `drain()` that finds the transport full, closing or of another make goes on as the
//! running version's own coroutine.

use pyo3::prelude::*;

use super::protocol::StreamReaderProtocol;
use super::reader::StreamReader;
use super::writer::{self, StreamWriter};
use crate::raw::instance::Ref;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, exception, to_raw};
use crate::runtime::operation::{Kind, Operation, Outcome, Turn};
use crate::transports;

pub(super) static DRAIN: Kind = Kind { name: "StreamWriter.drain", start: drain, resume: waited };
pub(super) static WAIT_CLOSED: Kind = Kind { name: "StreamWriter.wait_closed", start: wait_closed, resume: waited };

fn drain(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let object = this.target_object();
    let object = object.borrow(py);
    if is_free(py, object.cast::<StreamWriter>().expect("made by a writer").get())? {
        return Ok(Turn::Return(Obj::none(py)));
    }
    let waiting = writer::asyncio_writer_class(py).call_method1("drain", (object,));
    Ok(Turn::Await(Obj::from_bound(to_raw(py, waiting)?)))
}

fn wait_closed(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    StreamWriter::close_waiter(py, &this.target_object()).map(Turn::Await)
}

fn waited(py: Python<'_>, _this: &Ref<Operation>, outcome: Outcome) -> RawResult<Turn> {
    match outcome {
        Ok(_) => Ok(Turn::Return(Obj::none(py))),
        Err(error) => Err(exception::restore(py, error)),
    }
}

/// Whether the protocol is ours and neither it, the reader nor the transport has anything to say.
#[inline]
fn is_free(py: Python<'_>, writer: &StreamWriter) -> RawResult<bool> {
    let (Some(transport), Some(protocol), Some(reader)) =
        (writer.transport.get(), writer.protocol.get(), writer.reader.get())
    else {
        return Ok(false);
    };
    if !reader.is_none() {
        match reader.borrow(py).cast::<StreamReader>() {
            Ok(reader) if reader.get().exception().is_none() => {}
            Ok(_) | Err(_) => return Ok(false),
        }
    }
    let protocol = protocol.borrow(py);
    let Ok(protocol) = protocol.cast::<StreamReaderProtocol>() else {
        return Ok(false);
    };
    Ok(protocol.get().may_write() && !transports::is_closing(py, &transport)?)
}
