//! Who receives what a stream transport reads: a protocol of the program's, or native code of ours.
//!
//! Decided once, when the protocol is set, by its exact type. A native receiver gets the data as a slice of the loop's
//! receive buffer, without a `bytes` and without a Python call; everything that is rare (`connection_made`,
//! `eof_received`, `pause_writing`, `connection_lost`) reaches it by name, as any protocol.

use pyo3::prelude::*;

use super::tls::protocol::TlsProtocol;
use crate::interop::imports;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Receiver {
    /// `data_received`.
    Protocol,
    /// A `BufferedProtocol`: `get_buffer`, `buffer_updated`.
    Buffered,
    /// Our TLS layer.
    Tls,
}

impl Receiver {
    pub(crate) fn of(protocol: &Bound<'_, PyAny>) -> PyResult<Receiver> {
        if protocol.is_exact_instance_of::<TlsProtocol>() {
            return Ok(Receiver::Tls);
        }
        Ok(if is_buffered(protocol)? { Receiver::Buffered } else { Receiver::Protocol })
    }
}

pub(crate) fn is_buffered(protocol: &Bound<'_, PyAny>) -> PyResult<bool> {
    protocol.is_instance(imports::buffered_protocol_class(protocol.py())?)
}
