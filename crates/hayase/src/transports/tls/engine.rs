//! What the TLS layer asks of whoever does the cryptography of one connection: no socket, no loop, no protocol.
//!
//! Ciphertext is fed in and taken out, plaintext is written and read; nothing here waits. Each engine drives the
//! `ssl.SSLObject` that the program's own `ssl.SSLContext` made, so contexts, callbacks and errors are the program's.
//!
//! Must stay true
//! - An error is exactly what `ssl` raises for it. Only "not now" (`SSLWantReadError`, `SSLSyscallError`) becomes a value.
//! - Any call may run the program's callbacks (SNI, keys, messages), and these may do anything, also abort the
//!   connection: an engine has no cell open meanwhile, and its caller looks at its own state again afterwards.

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use super::direct::Direct;
use super::memory_bio::MemoryBio;
use crate::raw::bytes::Bytes;
use crate::raw::instance::Visitor;
use crate::raw::libssl::{self, Library};
use crate::raw::obj::Obj;
use crate::raw::{RawResult, to_py};

/// Of a handshake, or of the exchange of close_notify.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    Done,
    /// There may be ciphertext to send; the peer's answer is needed.
    WantMore,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// So many bytes of plaintext; never 0.
    Plaintext(usize),
    /// No whole record is there.
    WantMore,
    /// The peer says that nothing follows.
    CloseNotify,
}

/// The engine of one connection.
pub(crate) enum Engine {
    MemoryBio(MemoryBio),
    Direct(Direct),
}

macro_rules! each {
    ($engine:expr, $inner:ident => $call:expr) => {
        match $engine {
            Engine::MemoryBio($inner) => $call,
            Engine::Direct($inner) => $call,
        }
    };
}

impl Engine {
    /// For one connection in the given role; errors are those of `SSLContext.wrap_bio`.
    pub(crate) fn new(
        context: &Bound<'_, PyAny>,
        server_side: bool,
        server_hostname: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Engine> {
        let py = context.py();
        let memory_bio = MemoryBio::new(context, server_side, server_hostname)?;
        let Some(library) = chosen(py)? else {
            return Ok(Engine::MemoryBio(memory_bio));
        };
        let engine = to_py(py, Direct::over(py, library, memory_bio))?;
        Ok(engine.map_or_else(Engine::MemoryBio, Engine::Direct))
    }

    /// The `ssl.SSLObject`.
    pub(crate) fn ssl_object(&self, py: Python<'_>) -> Obj {
        each!(self, inner => inner.ssl_object(py))
    }

    /// Lets another object take the place of the `ssl.SSLObject`: asyncio's own tests do that.
    pub(crate) fn replace_ssl_object(&self, object: Obj) {
        each!(self, inner => inner.replace_ssl_object(object));
    }

    /// Ciphertext from the peer, kept until it is needed.
    pub(crate) fn feed(&self, py: Python<'_>, ciphertext: &[u8]) -> RawResult<()> {
        each!(self, inner => inner.feed(py, ciphertext))
    }

    /// Runs `f`, in which reading finds this ciphertext; what is left of it is kept.
    #[inline]
    pub(crate) fn lend<R>(&self, py: Python<'_>, ciphertext: &[u8], f: impl FnOnce() -> R) -> RawResult<R> {
        each!(self, inner => inner.lend(py, ciphertext, f))
    }

    pub(crate) fn handshake(&self, py: Python<'_>) -> RawResult<Progress> {
        each!(self, inner => inner.handshake(py))
    }

    /// Appends the plaintext of at most one record to `plaintext`.
    pub(crate) fn read(&self, py: Python<'_>, plaintext: &mut Vec<u8>) -> RawResult<Received> {
        each!(self, inner => inner.read(py, plaintext))
    }

    /// Decrypts all that is there into one `bytes`, and says how it ended (never with `Plaintext`). `None`: ask
    /// [`Engine::read`] instead.
    #[allow(clippy::type_complexity)]
    pub(crate) fn read_bytes(&self, py: Python<'_>) -> RawResult<Option<(Option<Bytes>, PyResult<Received>)>> {
        each!(self, inner => inner.read_bytes(py))
    }

    /// Puts the plaintext of at most one record into a writable buffer of the program, from `offset` on, at most `size`
    /// bytes.
    pub(crate) fn read_into(&self, py: Python<'_>, buffer: &Obj, offset: usize, size: usize) -> RawResult<Received> {
        each!(self, inner => inner.read_into(py, buffer, offset, size))
    }

    /// Encrypts what is in `data`, a contiguous bytes-like object that is not empty. So many bytes were taken (fewer than
    /// there are: the caller offers the rest again); `None`: not now.
    pub(crate) fn write(&self, py: Python<'_>, data: &Obj) -> RawResult<Option<usize>> {
        each!(self, inner => inner.write(py, data))
    }

    /// Sends close_notify, and is done when the peer's has come.
    pub(crate) fn unwrap(&self, py: Python<'_>) -> RawResult<Progress> {
        each!(self, inner => inner.unwrap(py))
    }

    /// All ciphertext that is due to the peer; `None` if there is none.
    pub(crate) fn take_ciphertext(&self, py: Python<'_>) -> RawResult<Option<Bytes>> {
        each!(self, inner => inner.take_ciphertext(py))
    }

    /// The same, but lent: `f`, which runs no Python code, takes all of it or keeps what it needs.
    pub(crate) fn take_ciphertext_with<R>(&self, py: Python<'_>, f: impl FnOnce(&[u8]) -> R) -> RawResult<Option<R>> {
        each!(self, inner => inner.take_ciphertext_with(py, f))
    }

    /// Bytes that were fed and not used yet.
    pub(crate) fn incoming_bytes(&self, py: Python<'_>) -> RawResult<usize> {
        each!(self, inner => inner.incoming_bytes(py))
    }

    /// Bytes that `take_ciphertext` would give.
    pub(crate) fn outgoing_bytes(&self, py: Python<'_>) -> RawResult<usize> {
        each!(self, inner => inner.outgoing_bytes(py))
    }

    pub(crate) fn visit(&self, visitor: &mut Visitor<'_>) {
        each!(self, inner => inner.visit(visitor));
    }
}

/// The library of the direct engine if that one is to be used: `HAYASE_TLS=auto|direct|memory-bio`, asked for each
/// connection, so that a test or a program in trouble can choose.
fn chosen(py: Python<'_>) -> PyResult<Option<&'static Library>> {
    // `os.environ` writes through to the process's own, which costs a fiftieth of asking that object.
    let asked = std::env::var_os("HAYASE_TLS").unwrap_or_else(|| "auto".into());
    match asked.to_str() {
        Some("auto") => Ok(libssl::library(py).ok()),
        Some("memory-bio") => Ok(None),
        Some("direct") => libssl::library(py).map(Some).map_err(|reason| {
            PyRuntimeError::new_err(format!(
                "HAYASE_TLS=direct, but this interpreter's OpenSSL cannot be called: {reason}"
            ))
        }),
        Some(_) | None => {
            Err(PyValueError::new_err(format!("HAYASE_TLS is auto, direct or memory-bio, not {asked:?}")))
        }
    }
}

/// For `hayase.build_info()`: the engine of connections on a plain `ssl.SSLContext`, and why it is not the faster one.
pub(crate) fn describe(py: Python<'_>) -> String {
    match (chosen(py), libssl::library(py)) {
        (Ok(Some(_)), _) => "direct".to_owned(),
        (Ok(None), Ok(_)) => "memory-bio (HAYASE_TLS)".to_owned(),
        (Ok(None), Err(reason)) => format!("memory-bio ({reason})"),
        (Err(err), _) => format!("none ({err})"),
    }
}
