//! `writer.drain()` and `writer.wait_closed()`: operations that end at once when there is nothing to wait for.
//!
//! The waiting itself is asyncio's: a `drain()` that finds the transport full, closing or of another make goes on as the
//! running version's own coroutine.

use pyo3::prelude::*;

use super::writer::{self, StreamWriter};
use super::{protocol, reader};
use crate::raw::instance::Ref;
use crate::raw::obj::Obj;
use crate::raw::{RawResult, exception, to_raw};
use crate::runtime::operation::{Kind, Operation, Outcome, Turn};
use crate::transports;

pub(super) static DRAIN: Kind = Kind { name: "StreamWriter.drain", start: drain, resume: waited };
pub(super) static WAIT_CLOSED: Kind = Kind { name: "StreamWriter.wait_closed", start: wait_closed, resume: waited };

fn drain(py: Python<'_>, this: &Ref<Operation>) -> RawResult<Turn> {
    let object = this.target_object();
    if is_free(py, writer::PUBLIC_CLASS.view(py, &object).expect("made by a writer"))? {
        return Ok(Turn::Return(Obj::none(py)));
    }
    let waiting = writer::asyncio_writer_class(py).call_method1("drain", (object.borrow(py),));
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
        match reader::PUBLIC_CLASS.view(py, &reader) {
            Some(reader) if reader.exception().is_none() => {}
            Some(_) | None => return Ok(false),
        }
    }
    let Some(protocol) = protocol::PUBLIC_CLASS.view(py, &protocol) else {
        return Ok(false);
    };
    Ok(protocol.may_write() && !transports::is_closing(py, &transport)?)
}
