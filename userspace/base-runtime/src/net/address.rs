//! Socket addresses as the kernel wants them.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::check;

/// An address in the kernel's form.
#[derive(Clone)]
pub(crate) struct Address {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl Address {
    /// The address of the Unix socket at `path`.
    pub fn of_path(path: &Path) -> io::Result<Address> {
        let bytes = path.as_os_str().as_bytes();
        // SAFETY: all-zero bytes are a valid `sockaddr_un` and `sockaddr_storage`.
        let (mut encoded, mut storage): (libc::sockaddr_un, libc::sockaddr_storage) = unsafe { mem::zeroed() };
        if bytes.is_empty() || bytes.contains(&0) || bytes.len() >= encoded.sun_path.len() {
            let most = encoded.sun_path.len() - 1;
            let text = format!(
                "{}: not the path of a Unix socket; it takes 1 to {most} bytes, none of them 0",
                path.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        encoded.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (target, byte) in encoded.sun_path.iter_mut().zip(bytes) {
            *target = *byte as libc::c_char;
        }
        // SAFETY: the storage is larger than, and aligned for, every socket address.
        unsafe { (&raw mut storage).cast::<libc::sockaddr_un>().write(encoded) };
        let length = mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
        Ok(Address { storage, length: length as libc::socklen_t })
    }

    pub fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    pub fn length(&self) -> libc::socklen_t {
        self.length
    }
}

impl From<&SocketAddr> for Address {
    fn from(address: &SocketAddr) -> Address {
        // SAFETY: all-zero bytes are a valid `sockaddr_storage`.
        let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
        let target = &raw mut storage;
        let length = match address {
            SocketAddr::V4(v4) => {
                let encoded = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: the storage is larger than, and aligned for, every socket address.
                unsafe { target.cast::<libc::sockaddr_in>().write(encoded) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let encoded = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { target.cast::<libc::sockaddr_in6>().write(encoded) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        Address { storage, length: length as libc::socklen_t }
    }
}

type AddressCall = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

/// What `getsockname` or `getpeername` say.
pub(crate) fn socket_address(fd: RawFd, call: AddressCall) -> io::Result<SocketAddr> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into the storage.
    check(unsafe { call(fd, storage.as_mut_ptr().cast(), &mut length) })?;
    // SAFETY: zeroed, then partly written: initialised either way.
    decode_address(&unsafe { storage.assume_init() })
}

pub(crate) fn decode_address(storage: &libc::sockaddr_storage) -> io::Result<SocketAddr> {
    let source = &raw const *storage;
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which of the addresses the storage holds; it is large enough and aligned for each.
            let v4 = unsafe { *source.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Ok(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { *source.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Ok(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        other => Err(io::Error::new(io::ErrorKind::Unsupported, format!("not an IP address family: {other}"))),
    }
}
