//! The functions of OpenSSL that are called directly, found at run time in the library that `_ssl` itself is linked with.
//!
//! Nothing is linked at build time: the library is already in the process, because the interpreter's `_ssl` needs it. It
//! is searched through `_ssl`'s own shared object and what that depends on, so another OpenSSL in the process (in a wheel
//! of a database driver, say) is not found by mistake. That the library found is the one `_ssl` runs on is *proven* in
//! `probe.rs`; here it is only looked up.

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_uint, c_ulong, c_void};

/// `SSL`
#[repr(C)]
pub(super) struct Ssl {
    _opaque: [u8; 0],
}

/// `BIO`
#[repr(C)]
pub(super) struct Bio {
    _opaque: [u8; 0],
}

/// `BIO_METHOD`
#[repr(C)]
pub(super) struct BioMethod {
    _opaque: [u8; 0],
}

pub(super) type BioRead = extern "C" fn(*mut Bio, *mut c_char, c_int) -> c_int;
pub(super) type BioWrite = extern "C" fn(*mut Bio, *const c_char, c_int) -> c_int;
pub(super) type BioCtrl = extern "C" fn(*mut Bio, c_int, c_long, *mut c_void) -> c_long;
pub(super) type BioDestroy = extern "C" fn(*mut Bio) -> c_int;
pub(super) type ExNew = extern "C" fn(*mut c_void, *mut c_void, *mut c_void, c_int, c_long, *mut c_void);

macro_rules! functions {
    ($($name:ident: fn($($argument:tt)*) $(-> $result:ty)?;)*) => {
        /// Signatures are those of OpenSSL 3.0 and all later versions.
        #[allow(non_snake_case)]
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($argument)*) $(-> $result)?,)*
        }

        impl Functions {
            /// Looks all of them up; the error names the first that is missing.
            pub(super) fn find(object: &SharedObject) -> Result<Functions, String> {
                Ok(Functions {
                    $($name: {
                        let name = stringify!($name);
                        let address = object.symbol(name).ok_or_else(|| {
                            format!("{name} is not found from _ssl (an OpenSSL that is linked statically, or very old)")
                        })?;
                        // SAFETY: a function of this public, documented name has this documented signature in every
                        // OpenSSL that has it; function pointers and data pointers have one representation on POSIX.
                        unsafe {
                            std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument)*) $(-> $result)?>(address)
                        }
                    },)*
                })
            }
        }
    };
}

functions! {
    SSL_do_handshake: fn(*mut Ssl) -> c_int;
    SSL_read: fn(*mut Ssl, *mut c_void, c_int) -> c_int;
    SSL_write: fn(*mut Ssl, *const c_void, c_int) -> c_int;
    SSL_shutdown: fn(*mut Ssl) -> c_int;
    SSL_get_shutdown: fn(*const Ssl) -> c_int;
    SSL_get_error: fn(*const Ssl, c_int) -> c_int;
    SSL_pending: fn(*const Ssl) -> c_int;
    SSL_set_bio: fn(*mut Ssl, *mut Bio, *mut Bio);
    SSL_get_ex_data: fn(*const Ssl, c_int) -> *mut c_void;
    BIO_get_new_index: fn() -> c_int;
    BIO_meth_new: fn(c_int, *const c_char) -> *mut BioMethod;
    BIO_meth_set_read: fn(*mut BioMethod, BioRead) -> c_int;
    BIO_meth_set_write: fn(*mut BioMethod, BioWrite) -> c_int;
    BIO_meth_set_ctrl: fn(*mut BioMethod, BioCtrl) -> c_int;
    BIO_meth_set_destroy: fn(*mut BioMethod, BioDestroy) -> c_int;
    BIO_new: fn(*const BioMethod) -> *mut Bio;
    BIO_set_data: fn(*mut Bio, *mut c_void);
    BIO_get_data: fn(*mut Bio) -> *mut c_void;
    BIO_set_init: fn(*mut Bio, c_int);
    BIO_set_flags: fn(*mut Bio, c_int);
    BIO_clear_flags: fn(*mut Bio, c_int);
    SSL_get_verify_result: fn(*const Ssl) -> c_long;
    SSL_set_verify_result: fn(*mut Ssl, c_long);
    ERR_clear_error: fn();
    ERR_peek_error: fn() -> c_ulong;
    ERR_peek_last_error: fn() -> c_ulong;
    ERR_new: fn();
    ERR_set_error: fn(c_int, c_int, *const c_char, ...);
    OpenSSL_version_num: fn() -> c_ulong;
    CRYPTO_get_ex_new_index: fn(c_int, c_long, *mut c_void, Option<ExNew>, *const c_void, *const c_void) -> c_int;
    CRYPTO_free_ex_index: fn(c_int, c_int) -> c_int;
}

/// A shared object that is loaded already, with those it depends on.
pub(super) struct SharedObject(*mut c_void);

impl SharedObject {
    /// The file of an extension module, or the program itself if the module is built in.
    pub(super) fn loaded(path: Option<&str>) -> Result<SharedObject, String> {
        let path = path.map(CString::new).transpose().map_err(|_| "the path of _ssl has a zero in it".to_owned())?;
        let name = path.as_deref().map_or(std::ptr::null(), CStr::as_ptr);
        // SAFETY: a string that ends with zero, or null for the program. NOLOAD runs no code of the file: it only finds
        // what the import of `_ssl` has loaded. The handle is kept open for ever, so what is found stays.
        let handle = unsafe { libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if handle.is_null() {
            Err("the shared object of _ssl is not found".to_owned())
        } else {
            Ok(SharedObject(handle))
        }
    }

    fn symbol(&self, name: &str) -> Option<*mut c_void> {
        let name = CString::new(name).expect("a name without zeros");
        // SAFETY: an open handle and a string that ends with zero.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        (!address.is_null()).then_some(address)
    }
}

/// The library and the reason in an error code, as `ERR_GET_LIB` and `ERR_GET_REASON` of OpenSSL 3 take it apart.
pub(super) fn parts_of_error(code: c_ulong) -> (c_int, c_int) {
    const SYSTEM_FLAG: c_ulong = 1 << 31;
    const ERR_LIB_SYS: c_int = 2;
    if code & SYSTEM_FLAG != 0 {
        return (ERR_LIB_SYS, (code & (SYSTEM_FLAG - 1)) as c_int);
    }
    (((code >> 23) & 0xff) as c_int, (code & 0x7f_ffff) as c_int)
}

pub(super) const SSL_ERROR_NONE: c_int = 0;
pub(super) const SSL_ERROR_WANT_READ: c_int = 2;
pub(super) const SSL_ERROR_ZERO_RETURN: c_int = 6;
pub(super) const SSL_RECEIVED_SHUTDOWN: c_int = 2;
/// The class of objects that carry extra data, for `CRYPTO_get_ex_new_index`.
pub(super) const CRYPTO_EX_INDEX_SSL: c_int = 0;
/// Where `_ssl` leaves the address of its Python object: `SSL_set_app_data`.
pub(super) const APP_DATA: c_int = 0;

pub(super) const BIO_TYPE_SOURCE_SINK: c_uint = 0x0400;
pub(super) const BIO_FLAGS_READ: c_int = 1;
pub(super) const BIO_FLAGS_RWS: c_int = 7;
pub(super) const BIO_FLAGS_SHOULD_RETRY: c_int = 8;
pub(super) const BIO_CTRL_EOF: c_int = 2;
pub(super) const BIO_CTRL_PENDING: c_int = 10;
pub(super) const BIO_CTRL_FLUSH: c_int = 11;
pub(super) const BIO_CTRL_DUP: c_int = 12;
