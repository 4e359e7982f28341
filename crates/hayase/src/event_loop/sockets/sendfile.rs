//! `_sock_sendfile_native`: what `sock_sendfile` and `sendfile` (asyncio's own, `python/hayase/sendfile.py`) ask for when
//! the kernel is to do the work.
//!
//! The kernel reads at an offset of its own, so the file's position does not move meanwhile. It is set when the sending
//! ends, in whatever way, to what was sent; before 3.14 not if nothing was.
//!
//! Must stay true
//! - A refusal before the first byte is `SendfileNotAvailableError`, upon which asyncio reads and writes by itself.
//! - Between two pieces everybody else has a turn: a piece is as much as the socket takes, which may be megabytes.

use std::io;
use std::os::fd::RawFd;

use pyo3::PyTypeInfo;
use pyo3::exceptions::{PyAttributeError, PyConnectionError};
use pyo3::prelude::*;

use super::{descriptor, wait};
use crate::event_loop::Loop;
use crate::event_loop::watchers::Side;
use crate::interop::{errors, imports};
use crate::raw::compat;
use crate::raw::obj::Obj;
use crate::runtime::coroutine::{self, Co};

/// asyncio's: an unlimited count must fit the system call.
const PIECE_BYTES_MAX: usize = isize::MAX as usize / 2 + 1;

/// ENOTCONN; std has no stable constant of the number.
const ENOTCONN: i32 = 107;

pub(crate) fn send_file(
    this: &Bound<'_, Loop>,
    sock: &Bound<'_, PyAny>,
    file: &Bound<'_, PyAny>,
    offset: u64,
    count: Option<usize>,
) -> PyResult<Obj> {
    let (sock, file) = (Obj::from_any(sock), Obj::from_any(file));
    coroutine::make(this.py(), Loop::runtime_ref(this), "Loop._sock_sendfile_native", move |co| async move {
        let number = Python::attach(|py| file_descriptor(py, &file))?;
        let size = co.runtime().driver.file_size(number).map_err(|_| not_available("not a regular file"))?;
        if count.unwrap_or(0) == 0 && size == 0 {
            return Python::attach(|py| to_int(py, 0));
        }
        let mut sending = Sending { co: co.clone(), file: number, offset, sent: 0, refused: false };
        sending.send(&co, &sock, count.filter(|count| *count > 0)).await?;
        Python::attach(|py| to_int(py, sending.sent))
    })
}

struct Sending {
    co: Co,
    file: RawFd,
    offset: u64,
    sent: u64,
    /// The kernel refused before the first byte: the file is as it was.
    refused: bool,
}

impl Sending {
    async fn send(&mut self, co: &Co, sock: &Obj, count: Option<usize>) -> PyResult<()> {
        let mut has_waited = false;
        loop {
            let left = match count {
                Some(count) => count - usize::try_from(self.sent).unwrap_or(count).min(count),
                None => PIECE_BYTES_MAX,
            };
            if left == 0 {
                return Ok(());
            }
            let fd = Python::attach(|py| descriptor(py, sock))?;
            let piece = left.min(PIECE_BYTES_MAX);
            match co.runtime().driver.send_file(fd, self.file, self.offset, piece) {
                // The end of the file.
                Ok(0) => return Ok(()),
                Ok(sent) => {
                    self.offset += sent as u64;
                    self.sent += sent as u64;
                    if sent < left {
                        has_waited = true;
                        co.yield_once().await?;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    has_waited = true;
                    wait(co, Side::Writer, sock, fd).await?;
                }
                Err(error) => return Err(self.failure(&error, has_waited)),
            }
        }
    }

    /// asyncio's error for what the kernel said.
    fn failure(&mut self, error: &io::Error, has_waited: bool) -> PyErr {
        Python::attach(|py| {
            let err = errors::os_error(py, error);
            if self.sent == 0 {
                self.refused = true;
                let refusal = not_available("os.sendfile call failed");
                refusal.set_cause(py, Some(err));
                return refusal;
            }
            if has_waited
                && error.raw_os_error() == Some(ENOTCONN)
                && !err.get_type(py).is(PyConnectionError::type_object(py))
            {
                let lost = PyConnectionError::new_err(("socket is not connected", ENOTCONN));
                lost.set_cause(py, Some(err));
                return lost;
            }
            err
        })
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if self.sent > 0 || (compat::SENDFILE_MOVES_WITHOUT_SENDING && !self.refused) {
            // A file that was closed meanwhile has no position.
            let _ = self.co.runtime().driver.seek(self.file, self.offset);
        }
    }
}

fn file_descriptor(py: Python<'_>, file: &Obj) -> PyResult<RawFd> {
    let asked = file.borrow(py).call_method0("fileno");
    match asked.and_then(|number| number.extract()) {
        Ok(number) => Ok(number),
        Err(err) if err.is_instance_of::<PyAttributeError>(py) => Err(not_available("not a regular file")),
        Err(err) if err.is_instance(py, imports::unsupported_operation(py)?) => {
            Err(not_available("not a regular file"))
        }
        Err(err) => Err(err),
    }
}

fn not_available(text: &'static str) -> PyErr {
    Python::attach(|py| match imports::sendfile_not_available_error(py).and_then(|class| class.call1((text,))) {
        Ok(error) => PyErr::from_value(error),
        Err(err) => err,
    })
}

fn to_int(py: Python<'_>, number: u64) -> PyResult<Obj> {
    Ok(Obj::from_bound(number.into_pyobject(py)?))
}
