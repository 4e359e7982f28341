//! `bytes` objects and borrowed buffers: the memory that goes to and comes from the kernel.
//!
//! No Python code runs while a buffer of this file is borrowed, so nobody can change or free it meanwhile.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use driver::Driver;
use pyo3::{Python, ffi};

use super::obj::Obj;
use super::{Raised, RawResult};

/// An instance of `bytes` (or a subclass): its content never changes, so it can be kept without a copy.
pub(crate) struct Bytes(Obj);

impl Bytes {
    #[inline]
    pub(crate) fn from_obj(object: Obj) -> Result<Bytes, Obj> {
        // SAFETY: alive.
        if unsafe { ffi::PyBytes_Check(object.as_ptr()) } != 0 { Ok(Bytes(object)) } else { Err(object) }
    }

    #[inline]
    pub(crate) fn copy(_py: Python<'_>, data: &[u8]) -> RawResult<Bytes> {
        // SAFETY: pointer and length of a slice; the result is new or null with an exception.
        unsafe {
            let made = ffi::PyBytes_FromStringAndSize(data.as_ptr().cast(), data.len() as ffi::Py_ssize_t);
            Obj::from_owned(made).map(Bytes)
        }
    }

    /// `bytes(object)` for anything that exports a buffer, contiguous or not.
    pub(crate) fn from_buffer(_py: Python<'_>, object: &Obj) -> RawResult<Bytes> {
        // SAFETY: alive; new or null with an exception.
        unsafe { Obj::from_owned(ffi::PyBytes_FromObject(object.as_ptr())).map(Bytes) }
    }

    pub(crate) fn as_obj(&self) -> &Obj {
        &self.0
    }

    pub(crate) fn into_obj(self) -> Obj {
        self.0
    }
}

impl AsRef<[u8]> for Bytes {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        // SAFETY: a `bytes` object holds `Py_SIZE` bytes in place, immutable, as long as it lives.
        unsafe {
            let data = ffi::PyBytes_AS_STRING(self.0.as_ptr()).cast::<u8>();
            std::slice::from_raw_parts(data, ffi::Py_SIZE(self.0.as_ptr()) as usize)
        }
    }
}

/// A `bytes` that is filled from its start and cut to size in the end. Nobody else sees it before that.
pub(super) struct Growing {
    /// Null only while and after a resize failed.
    object: *mut ffi::PyObject,
    filled: usize,
}

impl Growing {
    pub(super) fn with_capacity(_py: Python<'_>, capacity: usize) -> RawResult<Growing> {
        // SAFETY: with a null source the content is uninitialised; new or null with an exception.
        let object = unsafe { ffi::PyBytes_FromStringAndSize(std::ptr::null(), capacity as ffi::Py_ssize_t) };
        if object.is_null() { Err(Raised) } else { Ok(Growing { object, filled: 0 }) }
    }

    /// At least `wanted` bytes that may be written to, and how many there are.
    pub(super) fn spare(&mut self, _py: Python<'_>, wanted: usize) -> RawResult<(*mut u8, usize)> {
        // SAFETY: a live `bytes` that only we know; its content begins at this address and has this size.
        unsafe {
            if (ffi::Py_SIZE(self.object) as usize) - self.filled < wanted {
                self.resize(self.filled + wanted)?;
            }
            let spare = ffi::Py_SIZE(self.object) as usize - self.filled;
            Ok((ffi::PyBytes_AS_STRING(self.object).cast_mut().cast::<u8>().add(self.filled), spare))
        }
    }

    /// # Safety
    /// The first `count` bytes of what [`Growing::spare`] gave were written.
    pub(super) unsafe fn advance(&mut self, count: usize) {
        self.filled += count;
    }

    /// `None` if nothing was written.
    pub(super) fn finish(mut self, _py: Python<'_>) -> RawResult<Option<Bytes>> {
        if self.filled == 0 {
            return Ok(None);
        }
        self.resize(self.filled)?;
        let object = std::mem::replace(&mut self.object, std::ptr::null_mut());
        // SAFETY: our only reference, given away once.
        unsafe { Obj::from_owned(object).map(|object| Some(Bytes(object))) }
    }

    fn resize(&mut self, size: usize) -> RawResult<()> {
        // SAFETY: a `bytes` with one reference that nobody has seen or hashed; freed and set to null when it fails.
        match unsafe { super::compat::_PyBytes_Resize(&mut self.object, size as ffi::Py_ssize_t) } {
            0 => Ok(()),
            _ => Err(Raised),
        }
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        // SAFETY: null, or our only reference.
        unsafe { ffi::Py_XDECREF(self.object) };
    }
}

/// Receives up to `capacity` bytes straight into a new `bytes` object.
pub(crate) fn receive(_py: Python<'_>, driver: &Driver, fd: RawFd, capacity: usize) -> RawResult<io::Result<Bytes>> {
    // SAFETY: the driver initialised what it counts.
    unsafe { fill(capacity, |memory| driver.recv_uninit(fd, memory)) }
}

/// As [`receive`], for what is no socket: pipes and terminals.
pub(crate) fn read(_py: Python<'_>, driver: &Driver, fd: RawFd, capacity: usize) -> RawResult<io::Result<Bytes>> {
    // SAFETY: the driver initialised what it counts.
    unsafe { fill(capacity, |memory| driver.read_uninit(fd, memory)) }
}

/// # Safety
/// `read` must have initialised as many bytes, from the first on, as it answers; the GIL must be held.
unsafe fn fill(
    capacity: usize,
    read: impl FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<usize>,
) -> RawResult<io::Result<Bytes>> {
    // SAFETY: with a null source the content is uninitialised; the object is ours alone until it is returned, shrunk to
    // what `read` initialised. `_PyBytes_Resize` frees the object and sets null when it fails.
    unsafe {
        let object = Obj::from_owned(ffi::PyBytes_FromStringAndSize(std::ptr::null(), capacity as ffi::Py_ssize_t))?;
        let data = ffi::PyBytes_AS_STRING(object.as_ptr()).cast_mut().cast::<MaybeUninit<u8>>();
        let count = match read(std::slice::from_raw_parts_mut(data, capacity)) {
            Ok(count) => count,
            Err(error) => return Ok(Err(error)),
        };
        let mut pointer = object.into_ptr();
        if super::compat::_PyBytes_Resize(&mut pointer, count as ffi::Py_ssize_t) < 0 {
            return Err(Raised);
        }
        Obj::from_owned(pointer).map(Bytes).map(Ok)
    }
}

/// Runs `f` on the memory of a C-contiguous buffer; `BufferError` or `TypeError` for anything else. `f` runs no Python.
pub(crate) fn with_buffer<R>(_py: Python<'_>, object: &Obj, f: impl FnOnce(&[u8]) -> R) -> RawResult<R> {
    export(object, ffi::PyBUF_SIMPLE, |data, len| {
        // SAFETY: the export keeps `len` bytes at `data` in place; the GIL is held, so nobody writes meanwhile.
        f(unsafe { std::slice::from_raw_parts(data, len) })
    })
}

/// As [`with_buffer`], to be written to.
pub(crate) fn with_writable_buffer<R>(_py: Python<'_>, object: &Obj, f: impl FnOnce(&mut [u8]) -> R) -> RawResult<R> {
    export(object, ffi::PyBUF_WRITABLE, |data, len| {
        // SAFETY: as above, and the exporter granted writing; no other slice of it exists while `f` runs.
        f(unsafe { std::slice::from_raw_parts_mut(data, len) })
    })
}

/// Runs `f` on address and size of the memory that `object` exports, which stays in place meanwhile. For calls during
/// which Python code may run: no reference to the bytes exists, so whoever changes them breaks no rule of Rust.
pub(super) fn export<R>(object: &Obj, flags: std::ffi::c_int, f: impl FnOnce(*mut u8, usize) -> R) -> RawResult<R> {
    let mut view = MaybeUninit::<ffi::Py_buffer>::zeroed();
    // SAFETY: `object` is alive; the view is filled in or an exception is set. It does not move until it is released.
    unsafe {
        if ffi::PyObject_GetBuffer(object.as_ptr(), view.as_mut_ptr(), flags) < 0 {
            return Err(Raised);
        }
        let release = Release(view.as_mut_ptr());
        let len = (*release.0).len as usize;
        // An empty export may have no address.
        let data = if len == 0 { std::ptr::NonNull::dangling().as_ptr() } else { (*release.0).buf.cast() };
        Ok(f(data, len))
    }
}

struct Release(*mut ffi::Py_buffer);

impl Drop for Release {
    fn drop(&mut self) {
        // SAFETY: filled in by `PyObject_GetBuffer`, released once.
        unsafe { ffi::PyBuffer_Release(self.0) };
    }
}

/// `object[offset:]`. Not with PyO3's `PySlice::new`: it never lets go of the numbers that it makes (0.30).
pub(crate) fn tail(_py: Python<'_>, object: &Obj, offset: usize) -> RawResult<Obj> {
    // SAFETY: alive; new or null with an exception.
    unsafe {
        let tail = ffi::PySequence_GetSlice(object.as_ptr(), offset as ffi::Py_ssize_t, ffi::Py_ssize_t::MAX);
        Obj::from_owned(tail)
    }
}

/// Whether `object` is a `bytearray` or a `memoryview`.
pub(crate) fn is_mutable_buffer(object: &Obj) -> bool {
    // SAFETY: alive.
    unsafe { ffi::PyByteArray_Check(object.as_ptr()) != 0 || ffi::PyMemoryView_Check(object.as_ptr()) != 0 }
}
