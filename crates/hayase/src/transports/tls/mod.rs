//! TLS: a layer between any stream transport and the program's protocol, on the program's own `ssl.SSLContext`.
//!
//! `protocol.rs` is the layer's object and its lower face: to the transport below it is a protocol. `transport.rs` is the
//! upper face: to the program's protocol it is an `asyncio.Transport`. Between them `handshake.rs` (beginning and end),
//! `incoming.rs` and `outgoing.rs` (the bytes) move what `engine.rs` describes and `direct.rs` or `memory_bio.rs` does;
//! `below.rs` deals with the transport below, `failure.rs` with errors. Everything follows asyncio's `sslproto`.
//!
//! Must stay true
//! - The layer knows no socket: below it is any transport. To a `StreamTransport` it talks without Python calls.
//! - `connection_lost` lets go of everybody, so that a connection that ended is freed without the collector.

mod below;
mod direct;
pub(crate) mod engine;
mod failure;
mod handshake;
mod incoming;
mod memory_bio;
mod outgoing;
pub(crate) mod protocol;
pub(crate) mod transport;

use pyo3::prelude::*;
use pyo3::types::PyModule;

use super::receiver::Native;

/// The layer, as what a transport below it feeds.
pub(super) static RECEIVER: Native = Native {
    recognises: |protocol| protocol.is_exact_instance_of::<protocol::TlsProtocol>(),
    data_received: |py, layer, data, context| {
        let layer = layer.borrow(py);
        let layer = layer.cast::<protocol::TlsProtocol>().expect("the receiver says that it is one");
        context.run(py, || protocol::data_received(&layer, data))
    },
    callback: "buffer_updated",
};

pub(crate) fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<protocol::TlsProtocol>()?;
    module.add_class::<transport::TlsTransport>()?;
    transport::add_methods(module.py())
}
