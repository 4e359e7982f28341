//! The engine that works everywhere: `ssl.SSLContext.wrap_bio` over two `ssl.MemoryBIO`, driven from Rust.
//!
//! Calls go to the C object inside the `ssl.SSLObject`, past its Python methods, unless the context makes objects of a
//! class of its own (`SSLContext.sslobject_class`). Asking for what cannot be there yet is avoided, because the answer
//! would be an exception.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyMemoryView};

use super::engine::{Progress, Received};
use crate::interop::imports;
use crate::raw::bytes::{self, Bytes};
use crate::raw::call::{self, Name};
use crate::raw::cell::{GilCell, GilValue, ObjCell};
use crate::raw::instance::Visitor;
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_py, to_raw};

static DO_HANDSHAKE: Name = Name::new(c"do_handshake");
static READ: Name = Name::new(c"read");
static WRITE: Name = Name::new(c"write");
static SHUTDOWN: Name = Name::new(c"shutdown");
static UNWRAP: Name = Name::new(c"unwrap");
static PENDING: Name = Name::new(c"pending");
static INNER: Name = Name::new(c"_sslobj");

/// The most that one record holds.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// A `bytearray` of one record to read into. It is out of its place while it is used: a call into OpenSSL lets other
/// threads, and the program's callbacks, run.
static RECORD: GilCell<Option<Obj>> = GilCell::new(None);

pub(crate) struct MemoryBio {
    ssl_object: ObjCell,
    /// What is called: the C object in `ssl_object`, or `ssl_object` itself.
    driven: ObjCell,
    /// `driven` is the C object.
    inner: GilValue<bool>,
    incoming: ObjCell,
    outgoing: ObjCell,
    /// Something was called that may have put ciphertext into `outgoing`.
    may_have_ciphertext: GilValue<bool>,
}

impl MemoryBio {
    pub(crate) fn new(
        context: &Bound<'_, PyAny>,
        server_side: bool,
        server_hostname: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<MemoryBio> {
        let py = context.py();
        let bio = imports::memory_bio(py)?;
        let (incoming, outgoing) = (bio.call0()?, bio.call0()?);
        let keywords = PyDict::new(py);
        keywords.set_item("server_side", server_side)?;
        keywords.set_item("server_hostname", server_hostname)?;
        let ssl_object = context.call_method("wrap_bio", (&incoming, &outgoing), Some(&keywords))?;
        let inner = ssl_object.get_type().is(imports::ssl_object_class(py)?);
        let ssl_object = Obj::from_bound(ssl_object);
        let driven = if inner { to_py(py, call::getattr(py, &ssl_object, &INNER))? } else { ssl_object.clone() };
        Ok(MemoryBio {
            ssl_object: ObjCell::new(Some(ssl_object)),
            driven: ObjCell::new(Some(driven)),
            inner: GilValue::new(inner),
            incoming: ObjCell::new(Some(Obj::from_bound(incoming))),
            outgoing: ObjCell::new(Some(Obj::from_bound(outgoing))),
            may_have_ciphertext: GilValue::new(false),
        })
    }

    /// The C object, if that is what is driven.
    pub(super) fn inner(&self) -> Option<Obj> {
        if self.inner.get() { self.driven.get() } else { None }
    }

    /// Lets go of the two buffers: somebody else moves the ciphertext.
    pub(super) fn drop_buffers(&self) {
        self.incoming.set(None);
        self.outgoing.set(None);
    }

    pub(crate) fn ssl_object(&self, py: Python<'_>) -> Obj {
        held(py, &self.ssl_object)
    }

    pub(crate) fn replace_ssl_object(&self, object: Obj) {
        self.inner.set(false);
        self.driven.set(Some(object.clone()));
        self.ssl_object.set(Some(object));
    }

    pub(crate) fn feed(&self, py: Python<'_>, ciphertext: &[u8]) -> RawResult<()> {
        let data = Bytes::copy(py, ciphertext)?;
        call::method(py, &held(py, &self.incoming), &WRITE, &[data.as_obj()]).map(drop)
    }

    pub(crate) fn lend<R>(&self, py: Python<'_>, ciphertext: &[u8], f: impl FnOnce() -> R) -> RawResult<R> {
        if !ciphertext.is_empty() {
            self.feed(py, ciphertext)?;
        }
        Ok(f())
    }

    pub(crate) fn handshake(&self, py: Python<'_>) -> RawResult<Progress> {
        self.progress(py, &DO_HANDSHAKE)
    }

    pub(crate) fn unwrap(&self, py: Python<'_>) -> RawResult<Progress> {
        self.progress(py, if self.inner.get() { &SHUTDOWN } else { &UNWRAP })
    }

    fn progress(&self, py: Python<'_>, name: &'static Name) -> RawResult<Progress> {
        match call::method(py, &self.driven(py), name, &[]) {
            Ok(_) => Ok(Progress::Done),
            Err(raised) => not_now(py, raised).map(|()| Progress::WantMore),
        }
    }

    pub(crate) fn read(&self, py: Python<'_>, plaintext: &mut Vec<u8>) -> RawResult<Received> {
        if self.nothing_to_read(py)? {
            return Ok(Received::WantMore);
        }
        let record = match RECORD.with(py, Option::take) {
            Some(record) => record,
            None => {
                let made = to_raw(py, py.import("builtins").and_then(|module| module.getattr("bytearray")))?;
                Obj::from_bound(to_raw(py, made.call1((RECORD_BYTES_MAX,)))?)
            }
        };
        let size = Obj::from_bound(PyInt::new(py, RECORD_BYTES_MAX));
        let received = received(py, call::method(py, &self.driven(py), &READ, &[&size, &record]));
        if let Ok(Received::Plaintext(count)) = &received {
            bytes::with_buffer(py, &record, |memory| plaintext.extend_from_slice(&memory[..*count]))?;
        }
        drop(RECORD.with(py, |place| place.replace(record)));
        received
    }

    /// It decrypts record by record.
    pub(crate) fn read_bytes(&self, _py: Python<'_>) -> RawResult<Option<(Option<Bytes>, PyResult<Received>)>> {
        Ok(None)
    }

    pub(crate) fn read_into(&self, py: Python<'_>, buffer: &Obj, offset: usize, size: usize) -> RawResult<Received> {
        if self.nothing_to_read(py)? {
            return Ok(Received::WantMore);
        }
        let count = Obj::from_bound(PyInt::new(py, size));
        if offset == 0 {
            return received(py, call::method(py, &self.driven(py), &READ, &[&count, buffer]));
        }
        // A slice of a `bytearray` would be a copy.
        let view = to_raw(py, PyMemoryView::from(&buffer.borrow(py)))?;
        let rest = bytes::tail(py, &Obj::from_any(view.as_any()), offset)?;
        received(py, call::method(py, &self.driven(py), &READ, &[&count, &rest]))
    }

    /// OpenSSL would say "want read", and Python would make an exception of it.
    fn nothing_to_read(&self, py: Python<'_>) -> RawResult<bool> {
        if !self.inner.get() || self.incoming_bytes(py)? > 0 {
            return Ok(false);
        }
        let decrypted = call::method(py, &self.driven(py), &PENDING, &[])?;
        Ok(to_raw(py, decrypted.borrow(py).extract::<usize>())? == 0)
    }

    pub(crate) fn write(&self, py: Python<'_>, data: &Obj) -> RawResult<Option<usize>> {
        match call::method(py, &self.driven(py), &WRITE, &[data]) {
            Ok(count) => to_raw(py, count.borrow(py).extract()).map(Some),
            Err(raised) => not_now(py, raised).map(|()| None),
        }
    }

    pub(crate) fn take_ciphertext(&self, py: Python<'_>) -> RawResult<Option<Bytes>> {
        if self.outgoing_bytes(py)? == 0 {
            return Ok(None);
        }
        self.may_have_ciphertext.set(false);
        let ciphertext = call::method(py, &held(py, &self.outgoing), &READ, &[])?;
        Ok(Bytes::from_obj(ciphertext).ok())
    }

    pub(crate) fn take_ciphertext_with<R>(&self, py: Python<'_>, f: impl FnOnce(&[u8]) -> R) -> RawResult<Option<R>> {
        Ok(self.take_ciphertext(py)?.map(|ciphertext| f(ciphertext.as_ref())))
    }

    pub(crate) fn incoming_bytes(&self, py: Python<'_>) -> RawResult<usize> {
        pending(py, &self.incoming)
    }

    pub(crate) fn outgoing_bytes(&self, py: Python<'_>) -> RawResult<usize> {
        if self.may_have_ciphertext.get() { pending(py, &self.outgoing) } else { Ok(0) }
    }

    pub(crate) fn visit(&self, visitor: &mut Visitor<'_>) {
        visitor.cell(&self.ssl_object);
        visitor.cell(&self.driven);
        visitor.cell(&self.incoming);
        visitor.cell(&self.outgoing);
    }

    /// To be called.
    fn driven(&self, py: Python<'_>) -> Obj {
        self.may_have_ciphertext.set(true);
        held(py, &self.driven)
    }
}

/// None when the collector has cleared it: a call on it is an AttributeError.
fn held(py: Python<'_>, cell: &ObjCell) -> Obj {
    cell.get().unwrap_or_else(|| Obj::none(py))
}

fn pending(py: Python<'_>, bio: &ObjCell) -> RawResult<usize> {
    let count = call::getattr(py, &held(py, bio), &PENDING)?;
    to_raw(py, count.borrow(py).extract())
}

fn received(py: Python<'_>, answer: RawResult<Obj>) -> RawResult<Received> {
    match answer {
        Ok(count) => match to_raw(py, count.borrow(py).extract::<usize>())? {
            0 => Ok(Received::CloseNotify),
            count => Ok(Received::Plaintext(count)),
        },
        Err(raised) => not_now(py, raised).map(|()| Received::WantMore),
    }
}

/// Swallows `SSLWantReadError` and `SSLSyscallError`: the peer has to send more first.
pub(super) fn not_now(py: Python<'_>, raised: Raised) -> RawResult<()> {
    let err = raised.fetch(py);
    let again = imports::ssl_want_read_error(py)
        .and_then(|want_read| Ok((want_read, imports::ssl_syscall_error(py)?)))
        .map(|(want_read, syscall)| err.is_instance(py, want_read) || err.is_instance(py, syscall));
    match again {
        Ok(true) => Ok(()),
        Ok(false) => Err(Raised::from_err(py, err)),
        Err(failure) => Err(Raised::from_err(py, failure)),
    }
}
