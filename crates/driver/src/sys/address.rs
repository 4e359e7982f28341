//! The address of one end of a socket, as the kernel says it and as it is told to the kernel.
//!
//! What has another family than IP or Unix is `Other`: whoever needs it asks in another way.

use std::io;
use std::net::SocketAddr;

use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix};

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    Inet(SocketAddr),
    /// A path, or an abstract name with the zero byte that it begins with, or nothing for an unnamed socket.
    Unix(Box<[u8]>),
    Other,
}

impl Address {
    pub(super) fn from_kernel(address: Option<SocketAddrAny>) -> Address {
        let Some(address) = address else {
            return Address::Other;
        };
        if address.address_family() != AddressFamily::UNIX {
            return SocketAddr::try_from(address).map_or(Address::Other, Address::Inet);
        }
        Address::Unix(unix_name(&address).into())
    }
}

/// The name in a Unix address. Not by rustix, which takes an unnamed socket for an abstract name, and which another process could
/// make panic: it binds a path that fills the field, and the kernel then counts a zero byte that is not there.
fn unix_name(address: &SocketAddrAny) -> &[u8] {
    const FAMILY_BYTES: usize = size_of::<libc::sa_family_t>();
    let len = (address.addr_len() as usize).min(size_of::<libc::sockaddr_un>());
    // SAFETY: the first `addr_len` bytes of the storage, which is larger than a `sockaddr_un`, were written by the kernel; it
    // is borrowed for as long as `address` is.
    let bytes = unsafe { std::slice::from_raw_parts(address.as_ptr().cast::<u8>(), len) };
    match bytes.get(FAMILY_BYTES..).unwrap_or_default() {
        abstract_name @ [0, ..] => abstract_name,
        path => path.split(|&byte| byte == 0).next().unwrap_or_default(),
    }
}

/// A Unix address for one system call. An empty path, one with a zero byte inside or one that is too long is refused with EINVAL
/// or ENAMETOOLONG.
pub(super) fn unix(path: &[u8]) -> io::Result<SocketAddrUnix> {
    match path {
        [] => Err(rustix::io::Errno::INVAL.into()),
        [0, name @ ..] => Ok(SocketAddrUnix::new_abstract_name(name)?),
        path => Ok(SocketAddrUnix::new(path)?),
    }
}

#[cfg(all(test, not(miri), not(loom)))]
mod tests {
    use super::*;
    use rustix::net::{SocketType, bind, getsockname, socket};

    fn name_after_binding(address: &SocketAddrUnix) -> Address {
        let socket = socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
        bind(&socket, address).unwrap();
        Address::from_kernel(Some(getsockname(&socket).unwrap()))
    }

    #[test]
    fn a_path_an_abstract_name_and_no_name_are_told_apart() {
        let folder = std::env::temp_dir().join(format!("hayase-{}-names", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("a").into_os_string().into_encoded_bytes();
        assert_eq!(name_after_binding(&unix(&path).unwrap()), Address::Unix(path.into()));
        let name = [b"\0hayase\0", std::process::id().to_string().as_bytes()].concat();
        assert_eq!(name_after_binding(&unix(&name).unwrap()), Address::Unix(name.into()));
        let unnamed = socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap();
        assert_eq!(Address::from_kernel(Some(getsockname(&unnamed).unwrap())), Address::Unix(Box::default()));
        // Fills the field: there is no room for the zero byte that the kernel counts.
        let mut path = folder.join("b").into_os_string().into_encoded_bytes();
        path.resize(108, b'b');
        assert_eq!(name_after_binding(&SocketAddrUnix::new(path.as_slice()).unwrap()), Address::Unix(path.into()));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_path_that_no_address_can_hold_is_refused() {
        assert!(unix(b"").is_err());
        assert!(unix(b"a\0b").is_err());
        assert!(unix(&[b'a'; 109]).is_err());
    }
}
