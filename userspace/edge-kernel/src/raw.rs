//! Sockets that send and hear packets as they are.

use std::io;
use std::mem::size_of;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: numbers only; what comes back is a descriptor nobody else has.
    unsafe {
        let fd: RawFd = libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

pub(crate) fn option<T>(socket: &OwnedFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the value lives through the call and has the length given.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const *value).cast(), size_of::<T>() as u32) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Hears only what the filter lets by.
pub(crate) fn filter(socket: &OwnedFd, code: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_ptr().cast_mut() };
    option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Hears nothing.
pub(crate) fn deafen(socket: &OwnedFd) -> io::Result<()> {
    const RETURN: u16 = 0x06;
    filter(socket, &[libc::sock_filter { code: RETURN, jt: 0, jf: 0, k: 0 }])
}

/// Sends from addresses that this machine does not have, too.
pub(crate) fn be_anybody(socket: &OwnedFd, v4: bool) -> io::Result<()> {
    let (level, name) =
        if v4 { (libc::IPPROTO_IP, libc::IP_TRANSPARENT) } else { (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT) };
    option(socket, level, name, &1i32)
}

pub(crate) fn bind(socket: &OwnedFd, to: IpAddr) -> io::Result<()> {
    let (address, length) = address(to);
    // SAFETY: the address lives through the call and has the length given.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Hears packets of a protocol of Ethernet; with an interface of 0 on all of them.
pub(crate) fn bind_to_link(socket: &OwnedFd, protocol: u16, interface: u32) -> io::Result<()> {
    // SAFETY: all zeros is a valid address; it lives through the call and has the length given.
    unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = interface as i32;
        let length = size_of::<libc::sockaddr_ll>() as u32;
        let bound = libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length);
        if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Over the link that the socket is bound to.
pub(crate) fn send(socket: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    // SAFETY: the frame lives through the call and has the length given.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(crate) fn address(ip: IpAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all zeros is a valid address, and the storage has room for one of either family.
    unsafe {
        let mut storage: libc::sockaddr_storage = std::mem::zeroed();
        let length = match ip {
            IpAddr::V4(ip) => {
                let address = &mut *(&raw mut storage).cast::<libc::sockaddr_in>();
                address.sin_family = libc::AF_INET as u16;
                address.sin_addr.s_addr = u32::from_ne_bytes(ip.octets());
                size_of::<libc::sockaddr_in>()
            }
            IpAddr::V6(ip) => {
                let address = &mut *(&raw mut storage).cast::<libc::sockaddr_in6>();
                address.sin6_family = libc::AF_INET6 as u16;
                address.sin6_addr.s6_addr = ip.octets();
                size_of::<libc::sockaddr_in6>()
            }
        };
        (storage, length as libc::socklen_t)
    }
}
