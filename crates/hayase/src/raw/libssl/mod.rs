//! The interpreter's own OpenSSL, called directly on the `SSL` inside an `ssl.SSLObject`.
//!
//! The program's `SSLContext.wrap_bio` makes the object, so certificates, verification, callbacks and session are the
//! program's; only the four operations that move bytes bypass Python: no `bytes`, no exception for "not yet", no
//! `MemoryBIO`. The first use proves that this works in this interpreter (`probe.rs`); else `library` says why not.
//!
//! Must stay true
//! - OpenSSL is called with the GIL held. Python code can run inside a call, in a callback of the program; an operation
//!   that it starts on the same connection is answered "not yet" instead of entering OpenSSL twice.
//! - An error is made by `_ssl` itself (`failure.rs`), so class, text and attributes are `ssl`'s own.
//! - OpenSSL's error queue is empty before each operation, because `SSL_get_error` looks into it.

mod channel;
mod failure;
mod probe;
mod symbols;

use std::cell::Cell;
use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

use pyo3::{PyResult, Python, ffi};

use super::bytes::{Bytes, Growing};
use super::cell::GilCell;
use super::obj::Obj;
use super::{Raised, RawResult, to_py};
use channel::Channel;
use failure::Operation;
use symbols::{BioMethod, Functions, Ssl};

/// The table of the process, set once, before the first `BIO` of ours is made.
static FUNCTIONS: OnceLock<Functions> = OnceLock::new();
static LIBRARY: OnceLock<Result<&'static Library, String>> = OnceLock::new();

fn functions() -> &'static Functions {
    FUNCTIONS.get().expect("looked up before the first call")
}

/// What was proven of this interpreter's `_ssl` and its OpenSSL.
pub(crate) struct Library {
    /// `_ssl._SSLSocket`, kept alive for ever.
    socket_type: *mut ffi::PyTypeObject,
    /// Where such an object keeps its `SSL *`.
    ssl_offset: usize,
    /// Where it keeps the exception of a callback.
    exception: ExceptionPlace,
    method: *const BioMethod,
    /// `_ssl._SSLContext`s and an `_ssl.MemoryBIO`: what `failure.rs` makes objects of.
    server: Obj,
    client: Obj,
    buffer: Obj,
}

// SAFETY: never changes; what it points to lives for ever.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

/// A callback that OpenSSL calls cannot raise; its exception waits until the operation ends.
#[derive(Clone, Copy)]
enum ExceptionPlace {
    /// One word: the exception.
    Instance(usize),
    /// Three words from here on: class, value, traceback.
    Triple(usize),
    /// Nowhere: it is left set in the thread state.
    ThreadState,
}

/// The library, or why it cannot be used. The first call finds out.
pub(crate) fn library(py: Python<'_>) -> Result<&'static Library, &'static str> {
    if let Some(known) = LIBRARY.get() {
        return known.as_ref().map_err(String::as_str).copied();
    }
    // Not inside the lock: this runs Python code, and other threads may come here meanwhile. The first answer stays.
    let found = probe::examine(py);
    LIBRARY.get_or_init(|| found).as_ref().map_err(String::as_str).copied()
}

/// How far an operation got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// It is done, with so many bytes where bytes were asked for.
    Done(usize),
    /// The peer has to send more first.
    WantRead,
    /// The peer sent close_notify.
    CloseNotify,
}

/// The `SSL` of one connection, with our channel for its ciphertext.
pub(crate) struct DirectSsl {
    library: &'static Library,
    ssl: NonNull<Ssl>,
    /// The `_ssl._SSLSocket` that owns `ssl`.
    object: Obj,
    channel: Arc<Channel>,
    busy: Cell<bool>,
}

// SAFETY: used and dropped only with the GIL held: it lives in objects of ours.
unsafe impl Send for DirectSsl {}
// SAFETY: as above; every method takes the token.
unsafe impl Sync for DirectSsl {}

impl DirectSsl {
    /// Takes over the ciphertext of `object`. `None` if it is not an `_ssl._SSLSocket` over `MemoryBIO`s.
    pub(crate) fn new(py: Python<'_>, library: &'static Library, object: Obj) -> RawResult<Option<DirectSsl>> {
        if object.type_ptr() != library.socket_type {
            return Ok(None);
        }
        // SAFETY: an object of exactly the type that the probe examined, so the word is inside it and holds its `SSL *`.
        let ssl = unsafe { word(&object, library.ssl_offset).read() }.cast::<Ssl>();
        let Some(ssl) = NonNull::new(ssl) else {
            return Ok(None);
        };
        // SAFETY: `_ssl` sets the pointer once, to what `SSL_new` returned, and frees it with the object.
        let owner = unsafe { (functions().SSL_get_ex_data)(ssl.as_ptr(), symbols::APP_DATA) };
        if owner != object.as_ptr().cast() {
            return Ok(None);
        }
        let channel = Channel::new();
        let bio = channel.make_bio(library.method);
        if bio.is_null() {
            return Err(Raised::no_memory(py));
        }
        // SAFETY: a live `SSL` that has just been made, or is idle; it takes over our one reference to the `BIO` for both
        // directions and gives back its references to the old ones, which the `MemoryBIO` objects own besides.
        unsafe { (functions().SSL_set_bio)(ssl.as_ptr(), bio, bio) };
        Ok(Some(DirectSsl { library, ssl, object, channel, busy: Cell::new(false) }))
    }

    /// The `_ssl._SSLSocket`, for the collector.
    pub(crate) fn object(&self) -> &Obj {
        &self.object
    }

    pub(crate) fn do_handshake(&self, py: Python<'_>) -> RawResult<Outcome> {
        let Some(_turn) = self.enter() else { return Ok(Outcome::WantRead) };
        // SAFETY: a live `SSL` (`object` owns it) that no operation is using.
        let (result, error) = self.run(|ssl| unsafe { (functions().SSL_do_handshake)(ssl) });
        self.outcome(py, result, error, Operation::Handshake)
    }

    /// Plaintext of at most one record to the end of `plaintext`. Never `Done(0)`.
    pub(crate) fn read(&self, py: Python<'_>, plaintext: &mut Vec<u8>) -> RawResult<Outcome> {
        // Less would leave a part of a record in OpenSSL, to be asked for again.
        plaintext.reserve(RECORD_BYTES_MAX);
        let spare = plaintext.spare_capacity_mut();
        // SAFETY: memory of a vector that the caller lends us alone. OpenSSL writes `count` bytes to its start.
        unsafe {
            let outcome = self.read_to(py, spare.as_mut_ptr().cast(), spare.len())?;
            if let Outcome::Done(count) = outcome {
                plaintext.set_len(plaintext.len() + count);
            }
            Ok(outcome)
        }
    }

    /// All plaintext that is there, decrypted into one `bytes`, and how it ended; never `Done`. An error of OpenSSL is set
    /// aside, because what came before it is the program's.
    pub(crate) fn read_bytes(&self, py: Python<'_>) -> RawResult<(Option<Bytes>, PyResult<Outcome>)> {
        // Plaintext is shorter than its ciphertext, of which OpenSSL itself may hold one record.
        let capacity = self.incoming_len(py) + self.pending(py) + RECORD_BYTES_MAX;
        let mut plaintext = Growing::with_capacity(py, capacity)?;
        let end = loop {
            let (memory, size) = plaintext.spare(py, RECORD_BYTES_MAX)?;
            // SAFETY: memory that nobody else knows; OpenSSL writes `count` bytes to its start.
            match unsafe { self.read_to(py, memory, size) } {
                Ok(Outcome::Done(count)) => {
                    // SAFETY: as above.
                    unsafe { plaintext.advance(count) };
                    if self.incoming_len(py) == 0 && self.pending(py) == 0 {
                        break Ok(Outcome::WantRead);
                    }
                }
                other => break to_py(py, other),
            }
        };
        Ok((plaintext.finish(py)?, end))
    }

    /// As [`DirectSsl::read`], into a writable buffer of the program, at most `size` bytes from `offset` on.
    pub(crate) fn read_into(&self, py: Python<'_>, buffer: &Obj, offset: usize, size: usize) -> RawResult<Outcome> {
        super::bytes::export(buffer, ffi::PyBUF_WRITABLE, |memory, len| {
            let size = size.min(len.saturating_sub(offset));
            if size == 0 {
                return Ok(Outcome::WantRead);
            }
            // SAFETY: the export keeps `len` writable bytes in place, and `offset + size <= len`.
            unsafe { self.read_to(py, memory.add(offset), size) }
        })?
    }

    /// # Safety
    /// `memory` is writable for `size` bytes, at least one.
    unsafe fn read_to(&self, py: Python<'_>, memory: *mut u8, size: usize) -> RawResult<Outcome> {
        let Some(_turn) = self.enter() else { return Ok(Outcome::WantRead) };
        let size = c_int::try_from(size).unwrap_or(c_int::MAX);
        // SAFETY: as in `do_handshake`, and `size` writable bytes by the caller.
        let (result, error) = self.run(|ssl| unsafe { (functions().SSL_read)(ssl, memory.cast(), size) });
        if error == symbols::SSL_ERROR_ZERO_RETURN {
            // SAFETY: only asks a live `SSL`. As in `_ssl`: if we have not said goodbye ourselves, it is no error.
            let shutdown = unsafe { (functions().SSL_get_shutdown)(self.ssl.as_ptr()) };
            if shutdown == symbols::SSL_RECEIVED_SHUTDOWN {
                return self.callback_exception(py).map_or(Ok(Outcome::CloseNotify), Err);
            }
        }
        self.outcome(py, result, error, Operation::Read)
    }

    /// Encrypts all of `data`, a contiguous bytes-like object that is not empty (of more than 2 GiB, a part).
    pub(crate) fn write(&self, py: Python<'_>, data: &Obj) -> RawResult<Outcome> {
        let Some(_turn) = self.enter() else { return Ok(Outcome::WantRead) };
        super::bytes::export(data, ffi::PyBUF_SIMPLE, |memory, len| {
            if self.channel.wants_buffer() {
                let mut buffer = SPARE.with(py, std::mem::take);
                buffer.reserve(len + (len / RECORD_BYTES_MAX + 1) * RECORD_OVERHEAD_BYTES);
                self.channel.give_buffer(buffer);
            }
            let size = c_int::try_from(len).unwrap_or(c_int::MAX);
            // SAFETY: as in `do_handshake`, and the export keeps `len` readable bytes in place.
            let (result, error) = self.run(|ssl| unsafe { (functions().SSL_write)(ssl, memory.cast(), size) });
            self.outcome(py, result, error, Operation::Write)
        })?
    }

    /// Sends close_notify; `Done` when the peer's has come.
    pub(crate) fn shutdown(&self, py: Python<'_>) -> RawResult<Outcome> {
        let Some(_turn) = self.enter() else { return Ok(Outcome::WantRead) };
        // SAFETY: as in `do_handshake`.
        let shutdown = |ssl| unsafe { (functions().SSL_shutdown)(ssl) };
        let (mut result, mut error) = self.run(shutdown);
        if result == 0 {
            // Sent; now look for the peer's. As in `_ssl`, a second 0 is as good as 1.
            (result, error) = self.run(shutdown);
            if result == 0 {
                return self.callback_exception(py).map_or(Ok(Outcome::Done(0)), Err);
            }
        }
        self.outcome(py, result, error, Operation::Shutdown)
    }

    /// Decrypted and not read yet.
    pub(crate) fn pending(&self, _py: Python<'_>) -> usize {
        // SAFETY: only asks a live `SSL`.
        unsafe { (functions().SSL_pending)(self.ssl.as_ptr()) }.max(0) as usize
    }

    /// Ciphertext from the peer, copied and kept until it is read.
    pub(crate) fn feed(&self, _py: Python<'_>, ciphertext: &[u8]) {
        self.channel.feed(ciphertext);
    }

    /// Lets what `f` does read `ciphertext` in place; what is left of it is kept.
    pub(crate) fn lend<R>(&self, _py: Python<'_>, ciphertext: &[u8], f: impl FnOnce() -> R) -> R {
        self.channel.lend(ciphertext, f)
    }

    /// Ciphertext that was fed and not read.
    pub(crate) fn incoming_len(&self, _py: Python<'_>) -> usize {
        self.channel.incoming_len()
    }

    /// Ciphertext that waits to be sent.
    pub(crate) fn outgoing_len(&self, _py: Python<'_>) -> usize {
        self.channel.outgoing_len()
    }

    /// Takes what waits to be sent.
    pub(crate) fn take_outgoing(&self, _py: Python<'_>) -> Vec<u8> {
        self.channel.take_outgoing()
    }

    /// Gives the memory of a buffer back that [`DirectSsl::take_outgoing`] gave: to whoever writes next.
    pub(crate) fn recycle(py: Python<'_>, mut buffer: Vec<u8>) {
        if buffer.capacity() <= SPARE_CAPACITY_MAX {
            buffer.clear();
            SPARE.with(py, |spare| {
                if spare.capacity() < buffer.capacity() {
                    std::mem::swap(spare, &mut buffer);
                }
            });
        }
    }

    /// Nothing will happen until the peer sends more: frees large empty buffers.
    pub(crate) fn settle(&self, _py: Python<'_>) {
        self.channel.settle();
    }

    /// `None` inside another operation on this connection, that is in a callback of the program.
    fn enter(&self) -> Option<Turn<'_>> {
        if self.busy.replace(true) { None } else { Some(Turn(&self.busy)) }
    }

    /// One call of OpenSSL, and what `SSL_get_error` says of its result.
    #[inline]
    fn run(&self, operation: impl FnOnce(*mut Ssl) -> c_int) -> (c_int, c_int) {
        // SAFETY: a live `SSL`, the same thread, nothing in between: what `SSL_get_error` asks for.
        unsafe {
            // Looking is cheaper than clearing, and it is hardly ever necessary.
            if (functions().ERR_peek_error)() != 0 {
                (functions().ERR_clear_error)();
            }
            let result = operation(self.ssl.as_ptr());
            let error = if result > 0 {
                symbols::SSL_ERROR_NONE
            } else {
                (functions().SSL_get_error)(self.ssl.as_ptr(), result)
            };
            (result, error)
        }
    }

    #[inline]
    fn outcome(&self, py: Python<'_>, result: c_int, error: c_int, operation: Operation) -> RawResult<Outcome> {
        match error {
            symbols::SSL_ERROR_NONE if result > 0 => {
                self.callback_exception(py).map_or(Ok(Outcome::Done(result as usize)), Err)
            }
            symbols::SSL_ERROR_WANT_READ => {
                // `_ssl` makes it the context of its SSLWantReadError, which asyncio drops.
                if let Some(raised) = self.callback_exception(py) {
                    drop(raised.fetch(py));
                }
                Ok(Outcome::WantRead)
            }
            _ => Err(failure::raise(py, self, operation, error)),
        }
    }

    /// Raises the exception that a callback of the program left.
    #[inline]
    fn callback_exception(&self, py: Python<'_>) -> Option<Raised> {
        // SAFETY: an object of exactly the type that the probe examined: the words are inside it and hold the exception
        // or null. What is taken out is replaced by null, as `_ssl` itself does.
        unsafe { take_exception(py, &self.object, self.library.exception) }
    }
}

impl Drop for DirectSsl {
    fn drop(&mut self) {
        self.channel.orphan();
    }
}

/// While it lives, no other operation on the connection begins.
struct Turn<'a>(&'a Cell<bool>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// The address of a word inside an object.
///
/// # Safety
/// `offset` and the word there lie inside `object`.
unsafe fn word(object: &Obj, offset: usize) -> *mut *mut ffi::PyObject {
    // SAFETY: by the caller.
    unsafe { object.as_ptr().cast::<u8>().add(offset).cast() }
}

/// # Safety
/// `place` is that of the type of `object`.
#[inline]
unsafe fn take_exception(py: Python<'_>, object: &Obj, place: ExceptionPlace) -> Option<Raised> {
    // SAFETY: by the caller, the words are in the object and hold owned references or null; each is taken once.
    unsafe {
        match place {
            ExceptionPlace::ThreadState => (!ffi::PyErr_Occurred().is_null()).then_some(Raised),
            ExceptionPlace::Instance(offset) => {
                let word = word(object, offset);
                if (*word).is_null() {
                    return None;
                }
                Obj::from_owned_opt(word.replace(std::ptr::null_mut()))
                    .map(|exception| super::exception::restore(py, exception))
            }
            ExceptionPlace::Triple(offset) => {
                let words = word(object, offset);
                if (*words).is_null() {
                    return None;
                }
                let take = |index: usize| words.add(index).replace(std::ptr::null_mut());
                let (class, value, traceback) = (take(0), take(1), take(2));
                super::compat::restore_parts(class, value, traceback);
                Some(Raised)
            }
        }
    }
}

/// The most plaintext that one record holds.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// What a record adds to it: header, explicit nonce, tag, padding. Of old ciphers it may be more; then the buffer grows.
const RECORD_OVERHEAD_BYTES: usize = 48;

/// An empty buffer for ciphertext to be sent; connections keep none while they have nothing to say.
static SPARE: GilCell<Vec<u8>> = GilCell::new(Vec::new());

/// A buffer that grew larger than this is freed.
const SPARE_CAPACITY_MAX: usize = 512 * 1024;
