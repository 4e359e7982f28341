//! Exceptions for operations that failed, made by `_ssl` itself.
//!
//! Class, number, text (with the line in `_ssl.c` that it ends in), `library`, `reason` and what else `_ssl` tells of an
//! error follow from the code in OpenSSL's error queue, the result of the verification and the name of the peer. They are
//! given to a second `_ssl._SSLSocket` that nobody uses, whose `BIO` fails with that very code; then the same operation is
//! asked of it. To ask the failed object itself again would not do: newer OpenSSL forgets why it failed.

use std::ffi::{c_int, c_ulong};

use pyo3::PyErr;
use pyo3::exceptions::PySystemError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyString};

use super::symbols::{self, Functions};
use super::{DirectSsl, functions};
use crate::raw::bytes::Bytes;
use crate::raw::call::{self, Name};
use crate::raw::obj::Obj;
use crate::raw::{Raised, RawResult, to_py};

static DO_HANDSHAKE: Name = Name::new(c"do_handshake");
static READ: Name = Name::new(c"read");
static WRITE: Name = Name::new(c"write");
static SHUTDOWN: Name = Name::new(c"shutdown");

/// The record of an alert that is not encrypted: what ends a handshake without an error.
const CLOSE_NOTIFY: &[u8] = b"\x15\x03\x03\x00\x02\x01\x00";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    Handshake,
    Read,
    Write,
    Shutdown,
}

impl Operation {
    /// The same of a Python object; nothing is sent if, against all expectation, it succeeds.
    fn ask(self, py: Python<'_>, object: &Obj) -> RawResult<Obj> {
        match self {
            Operation::Handshake => call::method(py, object, &DO_HANDSHAKE, &[]),
            Operation::Read => call::method(py, object, &READ, &[&Obj::from_bound(PyInt::new(py, 1))]),
            Operation::Write => call::method(py, object, &WRITE, &[Bytes::copy(py, &[])?.as_obj()]),
            Operation::Shutdown => call::method(py, object, &SHUTDOWN, &[]),
        }
    }
}

/// What `_ssl` raises for an `operation` on `direct` that `SSL_get_error` called `error`. OpenSSL's queue is as the
/// operation left it, and empty afterwards.
#[cold]
pub(super) fn raise(py: Python<'_>, direct: &DirectSsl, operation: Operation, error: c_int) -> Raised {
    let made = make(py, direct, operation, error);
    // SAFETY: as `_ssl` does after it has read the reason.
    unsafe { (functions().ERR_clear_error)() };
    Raised::from_err(py, made.unwrap_or_else(|failure| failure))
}

fn make(py: Python<'_>, direct: &DirectSsl, operation: Operation, error: c_int) -> PyResult<PyErr> {
    // SAFETY: they only look at this thread's queue.
    let codes = unsafe { ((functions().ERR_peek_error)(), (functions().ERR_peek_last_error)()) };
    // A callback of the program may have raised besides; it becomes the context.
    let callback_exception = direct.callback_exception(py).map(|raised| raised.fetch(py));
    let made = make_alone(py, direct, operation, error, codes)?;
    if let Some(context) = callback_exception {
        made.value(py).setattr("__context__", context.value(py))?;
    }
    Ok(made)
}

/// As [`make`], with no exception set or waiting.
fn make_alone(
    py: Python<'_>,
    direct: &DirectSsl,
    operation: Operation,
    error: c_int,
    codes: (c_ulong, c_ulong),
) -> PyResult<PyErr> {
    if codes.0 == 0 && error == symbols::SSL_ERROR_ZERO_RETURN && operation == Operation::Handshake {
        // The peer said goodbye instead of hello; servers take that for another error.
        let other = unused(py, direct, false)?;
        other.feed(py, CLOSE_NOTIFY);
        return ask(py, &other, operation, error);
    }
    if codes.0 == 0 {
        // A state, not an event: it is the same when asked for again.
        return ask(py, direct, operation, error);
    }
    let other = unused(py, direct, true)?;
    // SAFETY: two live `SSL`s that nobody uses.
    unsafe {
        let verification = (functions().SSL_get_verify_result)(direct.ssl.as_ptr());
        (functions().SSL_set_verify_result)(other.ssl.as_ptr(), verification);
    }
    other.channel.fail_with(codes);
    if operation != Operation::Shutdown {
        return ask(py, &other, operation, error);
    }
    // OpenSSL refuses to shut down what never was connected, with a code of its own; but that tells the line.
    let made = ask(py, &other, Operation::Read, error)?;
    with_line_of(py, &made, &ask(py, &other, operation, error)?)
}

/// The exception that the Python object of `direct` raises for `operation`.
fn ask(py: Python<'_>, direct: &DirectSsl, operation: Operation, error: c_int) -> PyResult<PyErr> {
    match to_py(py, operation.ask(py, &direct.object)) {
        Err(err) => Ok(err),
        Ok(_) => {
            let text =
                format!("hayase has a bug, please report it: TLS failed ({operation:?}, {error}) and then did not");
            Err(PySystemError::new_err(text))
        }
    }
}

/// An object that waits for the first message, in a context of ours. Errors name the host that `direct` connects to.
fn unused(py: Python<'_>, direct: &DirectSsl, server_side: bool) -> PyResult<DirectSsl> {
    let library = direct.library;
    let hostname = direct.object.borrow(py).getattr("server_hostname")?;
    let keywords = PyDict::new(py);
    keywords.set_item("server_side", server_side)?;
    keywords.set_item("server_hostname", hostname)?;
    let buffer = library.buffer.borrow(py);
    let context = if server_side { &library.server } else { &library.client };
    let object = context.borrow(py).call_method("_wrap_bio", (buffer, buffer), Some(&keywords))?;
    let made = to_py(py, DirectSsl::new(py, library, Obj::from_bound(object)))?;
    made.ok_or_else(|| PySystemError::new_err("an _ssl._SSLSocket is not recognised"))
}

/// `err` with the line number of `line` at the end of its text.
fn with_line_of(py: Python<'_>, err: &PyErr, line: &PyErr) -> PyResult<PyErr> {
    const LINE: &str = " (_ssl.c:";
    let (number, text): (Py<PyAny>, String) = err.value(py).getattr("args")?.extract()?;
    let (_, other): (Py<PyAny>, String) = line.value(py).getattr("args")?.extract()?;
    let (Some(end), Some(other_end)) = (text.rfind(LINE), other.rfind(LINE)) else {
        return Ok(err.clone_ref(py));
    };
    let text = format!("{}{}", &text[..end], &other[other_end..]);
    let made = err.get_type(py).call1((number, text))?;
    for (name, value) in err.value(py).getattr("__dict__")?.cast_into::<PyDict>()? {
        made.setattr(name.cast_into::<PyString>()?, value)?;
    }
    Ok(PyErr::from_value(made))
}

/// Puts an error into OpenSSL's queue.
pub(super) fn put_error(functions: &Functions, code: c_ulong) {
    let (library, reason) = symbols::parts_of_error(code);
    // SAFETY: the error is given without a text of its own, so the variable arguments are not looked at.
    unsafe {
        (functions.ERR_new)();
        (functions.ERR_set_error)(library, reason, std::ptr::null());
    }
}
