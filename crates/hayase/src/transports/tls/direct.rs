//! The engine that calls the interpreter's own OpenSSL on the `SSL` that the program's context made (`raw/libssl`).
//!
//! It is what `memory_bio.rs` is, to the letter of every error, without the Python objects in between. The
//! `ssl.SSLObject` stays whole: what the program asks of it is answered by the same `SSL`.

use pyo3::prelude::*;

use super::engine::{Progress, Received};
use super::memory_bio::{self, MemoryBio};
use crate::raw::bytes::Bytes;
use crate::raw::cell::GilValue;
use crate::raw::instance::Visitor;
use crate::raw::libssl::{DirectSsl, Library, Outcome};
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_py};

pub(crate) struct Direct {
    ssl: DirectSsl,
    /// Keeps the `ssl.SSLObject`, and drives what takes its place.
    python: MemoryBio,
    /// Something took its place: `python` does everything.
    replaced: GilValue<bool>,
}

impl Direct {
    /// Takes the connection over, if it has not begun and its objects are the standard library's.
    pub(super) fn over(
        py: Python<'_>,
        library: &'static Library,
        python: MemoryBio,
    ) -> RawResult<Result<Direct, MemoryBio>> {
        let Some(object) = python.inner() else {
            return Ok(Err(python));
        };
        match DirectSsl::new(py, library, object)? {
            Some(ssl) => {
                python.drop_buffers();
                Ok(Ok(Direct { ssl, python, replaced: GilValue::new(false) }))
            }
            None => Ok(Err(python)),
        }
    }

    pub(crate) fn ssl_object(&self, py: Python<'_>) -> Obj {
        self.python.ssl_object(py)
    }

    pub(crate) fn replace_ssl_object(&self, object: Obj) {
        self.replaced.set(true);
        self.python.replace_ssl_object(object);
    }

    pub(crate) fn feed(&self, py: Python<'_>, ciphertext: &[u8]) -> RawResult<()> {
        self.ssl.feed(py, ciphertext);
        Ok(())
    }

    /// Runs `f`, in which reading finds `ciphertext` without a copy.
    #[inline]
    pub(crate) fn lend<R>(&self, py: Python<'_>, ciphertext: &[u8], f: impl FnOnce() -> R) -> RawResult<R> {
        Ok(self.ssl.lend(py, ciphertext, f))
    }

    pub(crate) fn handshake(&self, py: Python<'_>) -> RawResult<Progress> {
        if self.replaced.get() {
            return self.python.handshake(py);
        }
        progress(py, self.ssl.do_handshake(py))
    }

    pub(crate) fn unwrap(&self, py: Python<'_>) -> RawResult<Progress> {
        if self.replaced.get() {
            return self.python.unwrap(py);
        }
        progress(py, self.ssl.shutdown(py))
    }

    #[inline]
    pub(crate) fn read(&self, py: Python<'_>, plaintext: &mut Vec<u8>) -> RawResult<Received> {
        if self.replaced.get() {
            return self.python.read(py, plaintext);
        }
        if self.nothing_to_read(py) {
            return Ok(Received::WantMore);
        }
        received(py, self.ssl.read(py, plaintext))
    }

    /// All that is there as one `bytes`, and how it ended: worth it if it is much.
    pub(crate) fn read_bytes(&self, py: Python<'_>) -> RawResult<Option<(Option<Bytes>, PyResult<Received>)>> {
        if self.replaced.get() {
            return Ok(None);
        }
        let (data, end) = self.ssl.read_bytes(py)?;
        self.ssl.settle(py);
        let end = end.map_err(|err| Raised::from_err(py, err));
        Ok(Some((data, to_py(py, received(py, end)))))
    }

    pub(crate) fn read_into(&self, py: Python<'_>, buffer: &Obj, offset: usize, size: usize) -> RawResult<Received> {
        if self.replaced.get() {
            return self.python.read_into(py, buffer, offset, size);
        }
        if self.nothing_to_read(py) {
            return Ok(Received::WantMore);
        }
        received(py, self.ssl.read_into(py, buffer, offset, size))
    }

    /// OpenSSL would only say so, after some work: asked after each packet that held whole records.
    #[inline]
    fn nothing_to_read(&self, py: Python<'_>) -> bool {
        let nothing = self.ssl.incoming_len(py) == 0 && self.ssl.pending(py) == 0;
        if nothing {
            self.ssl.settle(py);
        }
        nothing
    }

    #[inline]
    pub(crate) fn write(&self, py: Python<'_>, data: &Obj) -> RawResult<Option<usize>> {
        if self.replaced.get() {
            return self.python.write(py, data);
        }
        match self.ssl.write(py, data) {
            Ok(Outcome::Done(count)) => Ok(Some(count)),
            Ok(Outcome::WantRead | Outcome::CloseNotify) => Ok(None),
            Err(raised) => memory_bio::not_now(py, raised).map(|()| None),
        }
    }

    pub(crate) fn take_ciphertext(&self, py: Python<'_>) -> RawResult<Option<Bytes>> {
        self.take_ciphertext_with(py, |ciphertext| Bytes::copy(py, ciphertext))?.transpose()
    }

    pub(crate) fn take_ciphertext_with<R>(&self, py: Python<'_>, f: impl FnOnce(&[u8]) -> R) -> RawResult<Option<R>> {
        if self.ssl.outgoing_len(py) == 0 {
            return Ok(None);
        }
        let ciphertext = self.ssl.take_outgoing(py);
        let taken = f(&ciphertext);
        DirectSsl::recycle(py, ciphertext);
        Ok(Some(taken))
    }

    pub(crate) fn incoming_bytes(&self, py: Python<'_>) -> RawResult<usize> {
        Ok(self.ssl.incoming_len(py))
    }

    pub(crate) fn outgoing_bytes(&self, py: Python<'_>) -> RawResult<usize> {
        Ok(self.ssl.outgoing_len(py))
    }

    pub(crate) fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.obj(self.ssl.object());
        self.python.visit(visitor);
    }
}

#[inline]
fn received(py: Python<'_>, outcome: RawResult<Outcome>) -> RawResult<Received> {
    match outcome {
        Ok(Outcome::Done(count)) => Ok(Received::Plaintext(count)),
        Ok(Outcome::WantRead) => Ok(Received::WantMore),
        Ok(Outcome::CloseNotify) => Ok(Received::CloseNotify),
        Err(raised) => memory_bio::not_now(py, raised).map(|()| Received::WantMore),
    }
}

fn progress(py: Python<'_>, outcome: RawResult<Outcome>) -> RawResult<Progress> {
    match outcome {
        Ok(Outcome::Done(_)) => Ok(Progress::Done),
        Ok(Outcome::WantRead | Outcome::CloseNotify) => Ok(Progress::WantMore),
        Err(raised) => memory_bio::not_now(py, raised).map(|()| Progress::WantMore),
    }
}
