//! The C library's resolver: `getaddrinfo` and `getnameinfo`. Both block, possibly for minutes.

use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::slice;

/// One answer of the resolver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AddrInfo {
    pub family: c_int,
    pub socktype: c_int,
    pub protocol: c_int,
    /// Only in the first answer, and only with `AI_CANONNAME`.
    pub canonname: Option<CString>,
    /// The address as the kernel takes it.
    pub sockaddr: Vec<u8>,
}

/// Why a name was not resolved: what Python's `socket.gaierror` carries, or an `OSError` if `errno` is set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GaiError {
    /// An `EAI_` number.
    pub code: c_int,
    /// The C library's text for it.
    pub message: String,
    /// With `EAI_SYSTEM`: what the system said.
    pub errno: Option<c_int>,
}

impl fmt::Display for GaiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            Some(errno) => io::Error::from_raw_os_error(errno).fmt(f),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for GaiError {}

pub(crate) fn getaddrinfo(
    host: Option<&CStr>,
    service: Option<&CStr>,
    hints: libc::addrinfo,
) -> Result<Vec<AddrInfo>, GaiError> {
    let mut list = ptr::null_mut();
    // SAFETY: both strings are absent or end with a zero byte and outlive the call; `hints` is fully initialised with its pointers
    // null, as `hints` below makes it; `list` is a place for the result.
    let code = unsafe {
        libc::getaddrinfo(
            host.map_or(ptr::null(), CStr::as_ptr),
            service.map_or(ptr::null(), CStr::as_ptr),
            &hints,
            &mut list,
        )
    };
    if code != 0 {
        return Err(error(code));
    }
    let list = AddrInfoList(list);
    let mut found = Vec::new();
    let mut next = list.0;
    // SAFETY: `next` is null or an element of the list, which `list` keeps until the end of this function; nobody changes it.
    while let Some(info) = unsafe { next.as_ref() } {
        found.push(AddrInfo {
            family: info.ai_family,
            socktype: info.ai_socktype,
            protocol: info.ai_protocol,
            // SAFETY: null, or a string of the list that ends with a zero byte.
            canonname: (!info.ai_canonname.is_null()).then(|| unsafe { CStr::from_ptr(info.ai_canonname) }.to_owned()),
            sockaddr: if info.ai_addr.is_null() {
                Vec::new()
            } else {
                // SAFETY: the resolver says that `ai_addr` points to `ai_addrlen` bytes of address; it wrote all of them (the
                // structures start zeroed), and bytes have no alignment.
                unsafe { slice::from_raw_parts(info.ai_addr.cast::<u8>(), info.ai_addrlen as usize) }.to_vec()
            },
        });
        next = info.ai_next;
    }
    Ok(found)
}

pub(crate) fn hints(flags: c_int, family: c_int, socktype: c_int, protocol: c_int) -> libc::addrinfo {
    libc::addrinfo {
        ai_flags: flags,
        ai_family: family,
        ai_socktype: socktype,
        ai_protocol: protocol,
        ai_addrlen: 0,
        ai_addr: ptr::null_mut(),
        ai_canonname: ptr::null_mut(),
        ai_next: ptr::null_mut(),
    }
}

pub(crate) fn getnameinfo(sockaddr: &[u8], flags: c_int) -> Result<(CString, CString), GaiError> {
    // Aligned for any address; longer ones are no address.
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    if sockaddr.len() > size_of::<libc::sockaddr_storage>() {
        return Err(error(libc::EAI_FAMILY));
    }
    // SAFETY: the source has `len` bytes, the destination at least as many, and a local variable does not overlap an argument.
    unsafe { ptr::copy_nonoverlapping(sockaddr.as_ptr(), storage.as_mut_ptr().cast::<u8>(), sockaddr.len()) };
    // NI_MAXHOST and NI_MAXSERV.
    let mut host = [0 as c_char; 1025];
    let mut service = [0 as c_char; 32];
    // SAFETY: `storage` holds an address of the given length (the function checks the length against the family), and
    // the lengths of both buffers are their own.
    let code = unsafe {
        libc::getnameinfo(
            storage.as_ptr().cast::<libc::sockaddr>(),
            sockaddr.len() as libc::socklen_t,
            host.as_mut_ptr(),
            host.len() as libc::socklen_t,
            service.as_mut_ptr(),
            service.len() as libc::socklen_t,
            flags,
        )
    };
    if code != 0 {
        return Err(error(code));
    }
    // SAFETY: on success both buffers hold a string that ends within them; untouched, they are all zero.
    Ok(unsafe { (CStr::from_ptr(host.as_ptr()).to_owned(), CStr::from_ptr(service.as_ptr()).to_owned()) })
}

fn error(code: c_int) -> GaiError {
    let errno = (code == libc::EAI_SYSTEM).then(|| io::Error::last_os_error().raw_os_error()).flatten();
    // SAFETY: returns a constant string for every number.
    let message = unsafe { CStr::from_ptr(libc::gai_strerror(code)) };
    GaiError { code, message: message.to_string_lossy().into_owned(), errno }
}

/// Owns what `getaddrinfo` returned.
struct AddrInfoList(*mut libc::addrinfo);

impl Drop for AddrInfoList {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the list came from `getaddrinfo` and is freed once, here; what was kept of it was copied.
            unsafe { libc::freeaddrinfo(self.0) };
        }
    }
}
