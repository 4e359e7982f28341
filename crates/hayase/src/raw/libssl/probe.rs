//! Proof, at the first use, that this interpreter's `_ssl` can be bypassed: which library it runs on, and where its
//! objects keep what we need. No layout is written down here; all is found out on objects of our own.
//!
//! How, without looking at any memory but that of a live Python object:
//! 1. OpenSSL tells whoever asks (`CRYPTO_get_ex_new_index`) the address of each `SSL` it makes. Asked through the
//!    functions we found, it names one exactly when `_ssl` makes an object: so `_ssl` runs on this very library.
//! 2. One word in the new `_ssl._SSLSocket` equals that address: that is its `SSL *`. And the `SSL` points back.
//! 3. A handshake with our `BIO` writes a ClientHello into our channel; the program's callback that it runs raises a
//!    known exception. The word that equals its address is where `_ssl` keeps such exceptions.
//! 4. Garbage instead of a ClientHello makes the same exception, to the letter, as through `MemoryBIO`.
//!
//! Whatever is not as expected is a reason to use the other engine, never an error.

use std::cell::Cell;
use std::ffi::{c_int, c_long, c_void};

use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyTuple};
use pyo3::{PyErr, ffi};

use super::symbols::{self, Functions, SharedObject, Ssl};
use super::{DirectSsl, ExceptionPlace, FUNCTIONS, Library, Outcome, channel};
use crate::raw::obj::Obj;
use crate::raw::to_py;

thread_local! {
    /// The `SSL` that OpenSSL made last in this thread, while the probe listens.
    static MADE: Cell<*mut c_void> = const { Cell::new(std::ptr::null_mut()) };
}

/// Not a TLS record; a request that OpenSSL knows and has a reason of its own for.
const GARBAGE: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

pub(super) fn examine(py: Python<'_>) -> Result<&'static Library, String> {
    // A program may have an exception set aside in the thread state; none of ours stays there.
    examine_ssl(py).unwrap_or_else(|err| Err(format!("examining _ssl failed: {err}")))
}

fn examine_ssl(py: Python<'_>) -> PyResult<Result<&'static Library, String>> {
    let module = py.import("_ssl")?;
    let path = module.getattr("__file__").and_then(|path| path.extract::<String>()).ok();
    let found = SharedObject::loaded(path.as_deref()).and_then(|object| Functions::find(&object));
    let functions = match found {
        // Another thread may have been faster; its table is the same.
        Ok(functions) => FUNCTIONS.get_or_init(|| functions),
        Err(reason) => return Ok(Err(reason)),
    };
    // SAFETY: asks for a number.
    let version = unsafe { (functions.OpenSSL_version_num)() };
    let expected: std::ffi::c_ulong = module.getattr("OPENSSL_VERSION_NUMBER")?.extract()?;
    if version != expected {
        return Ok(Err(format!("found OpenSSL {version:#x}, but _ssl runs on {expected:#x}")));
    }
    match find_library(&module, functions)? {
        // Kept for ever even if it does not pass: there is one attempt in a process.
        Ok(library) => prove(&module, Box::leak(Box::new(library))),
        Err(reason) => Ok(Err(reason)),
    }
}

/// Steps 1 to 3.
fn find_library(module: &Bound<'_, PyModule>, functions: &'static Functions) -> PyResult<Result<Library, String>> {
    let py = module.py();
    let client = context(module, "PROTOCOL_TLS_CLIENT")?;
    let error = Obj::from_bound(py.get_type::<pyo3::exceptions::PyRuntimeError>().call1(("hayase's probe",))?);
    // An `SSL` takes its callbacks from the context when it is made.
    client.setattr("_msg_callback", raiser_of(py, &error)?)?;
    let (object, ssl) = match while_listening(functions, || wrap(module, &client, false)) {
        Ok((object, ssl)) => (object?, ssl),
        Err(reason) => return Ok(Err(reason)),
    };
    if ssl.is_null() {
        return Ok(Err("_ssl runs on another OpenSSL than the one that is found from it".to_owned()));
    }
    let socket_type = object.type_ptr();
    let Some(ssl_offset) = only_word(&object, ssl) else {
        return Ok(Err("no word of an _ssl._SSLSocket is its SSL".to_owned()));
    };
    // SAFETY: OpenSSL has just named it, and `object` keeps it.
    let owner = unsafe { (functions.SSL_get_ex_data)(ssl.cast::<Ssl>(), symbols::APP_DATA) };
    if owner != object.as_ptr().cast() {
        return Ok(Err("the SSL of an _ssl._SSLSocket does not point back to it".to_owned()));
    }
    let method = channel::make_method(functions);
    if method.is_null() {
        return Ok(Err("OpenSSL makes no BIO_METHOD".to_owned()));
    }

    // By hand, because a `DirectSsl` would look for the exception whose place is yet to be found.
    let channel = channel::Channel::new();
    let bio = channel.make_bio(method);
    if bio.is_null() {
        return Ok(Err("OpenSSL makes no BIO".to_owned()));
    }
    // SAFETY: a live `SSL` that is used by nobody else; it takes over our reference to the `BIO`.
    let (result, reason) = unsafe {
        let ssl = ssl.cast::<Ssl>();
        (functions.SSL_set_bio)(ssl, bio, bio);
        (functions.ERR_clear_error)();
        let result = (functions.SSL_do_handshake)(ssl);
        (result, (functions.SSL_get_error)(ssl, result))
    };
    // Whatever is in the thread state must not stay there.
    let left = PyErr::take(py);
    let left_there = left.is_some_and(|err| err.value(py).as_ptr() == error.as_ptr());
    let place = if left_there { Some(ExceptionPlace::ThreadState) } else { exception_place(&object, &error) };
    if let Some(place) = place {
        // SAFETY: the words were just found to be those.
        if let Some(raised) = unsafe { super::take_exception(py, &object, place) } {
            drop(raised.fetch(py));
        }
    }
    let Some(exception) = place else {
        return Ok(Err("no word of an _ssl._SSLSocket keeps the exception of a callback".to_owned()));
    };
    if (result, reason) != (-1, symbols::SSL_ERROR_WANT_READ) || !looks_like_client_hello(&channel.take_outgoing()) {
        return Ok(Err("a handshake over hayase's BIO does not begin".to_owned()));
    }
    std::mem::forget(Obj::from_bound(object.borrow(py).get_type())); // the type lives for ever
    let server = Obj::from_bound(context(module, "PROTOCOL_TLS_SERVER")?);
    client.setattr("_msg_callback", py.None())?;
    client.setattr("check_hostname", false)?;
    let client = Obj::from_bound(client);
    let buffer = Obj::from_bound(module.getattr("MemoryBIO")?.call0()?);
    Ok(Ok(Library { socket_type, ssl_offset, exception, method, server, client, buffer }))
}

/// Step 4.
fn prove(module: &Bound<'_, PyModule>, library: &'static Library) -> PyResult<Result<&'static Library, String>> {
    let py = module.py();
    let server = library.server.borrow(py);
    let incoming = module.getattr("MemoryBIO")?.call0()?;
    incoming.call_method1("write", (GARBAGE,))?;
    let expected = match wrap_over(module, &server, true, &incoming)?.call_method0("do_handshake") {
        Err(err) => describe(py, &err)?,
        Ok(_) => return Ok(Err("_ssl accepts garbage".to_owned())),
    };

    let object = wrap(module, &server, true)?;
    let Some(direct) = to_py(py, DirectSsl::new(py, library, object))? else {
        return Ok(Err("an _ssl._SSLSocket is not recognised a second time".to_owned()));
    };
    if to_py(py, direct.do_handshake(py))? != Outcome::WantRead {
        return Ok(Err("a handshake with nobody does not wait".to_owned()));
    }
    direct.feed(py, GARBAGE);
    match to_py(py, direct.do_handshake(py)) {
        Err(err) if describe(py, &err)? == expected => Ok(Ok(library)),
        Err(err) => Ok(Err(format!("errors differ: {} instead of {expected}", describe(py, &err)?))),
        Ok(outcome) => Ok(Err(format!("garbage gives {outcome:?} instead of {expected}"))),
    }
}

fn context<'py>(module: &Bound<'py, PyModule>, protocol: &str) -> PyResult<Bound<'py, PyAny>> {
    module.getattr("_SSLContext")?.call1((module.getattr(protocol)?,))
}

fn wrap(module: &Bound<'_, PyModule>, context: &Bound<'_, PyAny>, server_side: bool) -> PyResult<Obj> {
    let incoming = module.getattr("MemoryBIO")?.call0()?;
    wrap_over(module, context, server_side, &incoming).map(Obj::from_bound)
}

fn wrap_over<'py>(
    module: &Bound<'py, PyModule>,
    context: &Bound<'py, PyAny>,
    server_side: bool,
    incoming: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let outgoing = module.getattr("MemoryBIO")?.call0()?;
    let keywords = PyDict::new(module.py());
    keywords.set_item("server_side", server_side)?;
    keywords.set_item("server_hostname", if server_side { None } else { Some("localhost") })?;
    context.call_method("_wrap_bio", (incoming, outgoing), Some(&keywords))
}

/// A function that raises `error`, whatever it is called with.
fn raiser_of<'py>(py: Python<'py>, error: &Obj) -> PyResult<Bound<'py, PyCFunction>> {
    let error = error.clone().into_bound(py).unbind();
    let raise = move |args: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| -> PyResult<()> {
        Err(PyErr::from_value(error.bind(args.py()).clone()))
    };
    PyCFunction::new_closure(py, None, None, raise)
}

/// Runs `make` and says which `SSL` OpenSSL made meanwhile in this thread.
fn while_listening<R>(functions: &Functions, make: impl FnOnce() -> R) -> Result<(R, *mut c_void), String> {
    extern "C" fn made(
        parent: *mut c_void,
        _value: *mut c_void,
        _data: *mut c_void,
        _index: c_int,
        _number: c_long,
        _pointer: *mut c_void,
    ) {
        // The thread may be past the destruction of its thread-locals; then it is not ours.
        let _ = MADE.try_with(|place| place.set(parent));
    }
    let null = std::ptr::null_mut();
    // SAFETY: registers a function that lives for ever (this module is never unloaded) and touches only its thread's cell.
    let index =
        unsafe { (functions.CRYPTO_get_ex_new_index)(symbols::CRYPTO_EX_INDEX_SSL, 0, null, Some(made), null, null) };
    if index < 0 {
        return Err("OpenSSL gives no index for extra data".to_owned());
    }
    MADE.set(null);
    let result = make();
    let ssl = MADE.replace(null);
    // SAFETY: the index from above, given back once; OpenSSL calls the function no more.
    unsafe { (functions.CRYPTO_free_ex_index)(symbols::CRYPTO_EX_INDEX_SSL, index) };
    Ok((result, ssl))
}

/// Offset of the only word of `object` behind its header that equals `pointer`.
fn only_word(object: &Obj, pointer: *mut c_void) -> Option<usize> {
    let mut found = words_of(object).filter(|&(_, word)| word == pointer).map(|(offset, _)| offset);
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

fn words_of(object: &Obj) -> impl Iterator<Item = (usize, *mut c_void)> {
    // SAFETY: a ready type.
    let size = unsafe { (*object.type_ptr()).tp_basicsize } as usize;
    let word = size_of::<*mut c_void>();
    (size_of::<ffi::PyObject>()..(size + 1).saturating_sub(word)).step_by(word).map(move |offset| {
        // SAFETY: an aligned word inside the live object, compared as a number, never followed. Volatile, because some
        // bytes may be padding that nobody wrote.
        (offset, unsafe { super::word(object, offset).read_volatile() }.cast())
    })
}

fn exception_place(object: &Obj, error: &Obj) -> Option<ExceptionPlace> {
    let offset = only_word(object, error.as_ptr().cast())?;
    let class = error.type_ptr().cast::<c_void>();
    let before = offset - size_of::<*mut c_void>();
    match words_of(object).find(|&(at, _)| at == before) {
        Some((_, word)) if word == class => Some(ExceptionPlace::Triple(before)),
        _ => Some(ExceptionPlace::Instance(offset)),
    }
}

/// A record of the handshake protocol whose message is ClientHello.
fn looks_like_client_hello(sent: &[u8]) -> bool {
    sent.len() > 5 && sent[0] == 22 && sent[5] == 1
}

/// All of an exception that a program can see.
fn describe(py: Python<'_>, err: &PyErr) -> PyResult<String> {
    let value = err.value(py);
    let part = |name| value.getattr(name).map_or_else(|_| "-".to_owned(), |part| part.to_string());
    Ok(format!("{}{} {} {}", value.get_type().name()?, value.getattr("args")?, part("library"), part("reason")))
}
