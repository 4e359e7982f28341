//! Streams: `await reader.readline()` and `writer.write(data)` over any transport.
//!
//! `reader.rs` is what has arrived and who waits for it, `reading.rs` the awaitables that take it out, `protocol.rs` what
//! a transport talks to, `writer.rs` the way back. The classes here hold the state and what runs per packet; the
//! classes that programs see are made of them and of asyncio's own in `python/hayase/streams.py`, so that what runs
//! once per connection or less is the running version's.
//!
//! Must stay true
//! - Data that waits already is returned without a future, a frame or a turn of the loop.
//! - Python code runs, and references are dropped, only while no cell is open.

mod draining;
mod protocol;
mod reader;
mod reading;
mod writer;

use pyo3::prelude::*;
use pyo3::types::{PyModule, PyType};

pub(crate) fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    reader::init(module)?;
    protocol::init(module)?;
    writer::init(module)?;
    module.add_function(wrap_pyfunction!(register_stream_classes, module)?)
}

/// Says which classes programs use in place of the extension's, and asyncio's own writer.
#[pyfunction]
#[pyo3(signature = (reader, protocol, writer, asyncio_writer, /))]
fn register_stream_classes(
    reader: &Bound<'_, PyType>,
    protocol: &Bound<'_, PyType>,
    writer: &Bound<'_, PyType>,
    asyncio_writer: &Bound<'_, PyAny>,
) -> PyResult<()> {
    reader::PUBLIC_CLASS.set(reader)?;
    protocol::PUBLIC_CLASS.set(protocol)?;
    writer::set_classes(writer, asyncio_writer)
}
