//! Routes that make the stack accept packets for virtual IPs: `local VIP dev lo`, so no address is assigned to any interface
//! and none is announced by ARP or neighbour discovery.

use std::io;
use std::mem::zeroed;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::KernelError;
use crate::kernel::Kernel;

impl Kernel {
    /// Makes exactly these addresses local to the calling thread's network namespace, beside those that are anyway. Routes an
    /// earlier process left are recognised by their protocol number and kept or removed.
    pub fn set_local_addresses(&self, addresses: &[IpAddr]) -> Result<(), KernelError> {
        let failed = |e| KernelError::system("cannot read the routes of virtual IPs", e);
        let mut netlink = Netlink::open().map_err(failed)?;
        let there = netlink.local_routes().map_err(failed)?;
        for &address in there.iter().filter(|a| !addresses.contains(a)) {
            netlink
                .change(RTM_DELROUTE, 0, address)
                .map_err(|e| KernelError::system(format!("cannot remove the route `local {address} dev lo`"), e))?;
        }
        for &address in addresses.iter().filter(|a| !there.contains(a)) {
            netlink.change(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, address).map_err(|e| {
                match e.raw_os_error() {
                    Some(libc::ENETDOWN) => KernelError::Invalid(format!(
                        "cannot add the route `local {address} dev lo`: the interface lo is down; `ip link set lo up`"
                    )),
                    _ => KernelError::system(format!("cannot add the route `local {address} dev lo`"), e),
                }
            })?;
        }
        Ok(())
    }
}

struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    fn open() -> io::Result<Netlink> {
        // SAFETY: no pointers; the descriptor is ours.
        let socket = unsafe {
            let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: all zeros is a valid sockaddr_nl and lets the kernel choose the port.
        unsafe {
            let mut address: libc::sockaddr_nl = zeroed();
            address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
            let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
            if libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Netlink { socket, sequence: 0 })
    }

    fn change(&mut self, kind: u16, flags: u16, address: IpAddr) -> io::Result<()> {
        let (family, bytes) = match address {
            IpAddr::V4(v4) => (libc::AF_INET as u8, v4.octets().to_vec()),
            IpAddr::V6(v6) => (libc::AF_INET6 as u8, v6.octets().to_vec()),
        };
        let mut body = route_header(family, bytes.len() as u8 * 8);
        attribute(&mut body, RTA_DST, &bytes);
        attribute(&mut body, RTA_OIF, &LOOPBACK_INDEX.to_ne_bytes());
        self.send(kind, NLM_F_REQUEST | NLM_F_ACK | flags, &body)?;
        let mut answer = [0u8; 4096];
        let length = self.receive(&mut answer)?;
        for message in Messages(&answer[..length]) {
            if message.kind == NLMSG_ERROR {
                return error_of(message.body);
            }
        }
        Err(io::Error::other("the kernel did not answer"))
    }

    /// Our routes in the table of local addresses.
    fn local_routes(&mut self) -> io::Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            self.send(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, &route_header(family, 0))?;
            let mut answer = vec![0u8; 65_536];
            'dump: loop {
                let length = self.receive(&mut answer)?;
                for message in Messages(&answer[..length]) {
                    match message.kind {
                        NLMSG_DONE => break 'dump,
                        NLMSG_ERROR => error_of(message.body)?,
                        RTM_NEWROUTE => found.extend(our_route(message.body)),
                        _ => {}
                    }
                }
            }
        }
        Ok(found)
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend((16 + body.len() as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(body);
        // SAFETY: the message lives through the call.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the buffer lives through the call.
        let length = unsafe { libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        if length < 0 { Err(io::Error::last_os_error()) } else { Ok(length as usize) }
    }
}

struct Message<'a> {
    kind: u16,
    body: &'a [u8],
}

/// The messages of one datagram.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = u32::from_ne_bytes(self.0.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(self.0.get(4..6)?.try_into().ok()?);
        let body = self.0.get(16..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Message { kind, body })
    }
}

/// `struct rtmsg` of a route of ours.
fn route_header(family: u8, bits: u8) -> Vec<u8> {
    let mut header = vec![family, bits, 0, 0, RT_TABLE_LOCAL, PROTOCOL, RT_SCOPE_HOST, RTN_LOCAL];
    header.extend(0u32.to_ne_bytes());
    header
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn our_route(body: &[u8]) -> Option<IpAddr> {
    let header = body.get(..12)?;
    if header[4] != RT_TABLE_LOCAL || header[5] != PROTOCOL || header[7] != RTN_LOCAL {
        return None;
    }
    let mut rest = &body[12..];
    while rest.len() >= 4 {
        let length = u16::from_ne_bytes([rest[0], rest[1]]) as usize;
        let kind = u16::from_ne_bytes([rest[2], rest[3]]);
        let value = rest.get(4..length)?;
        if kind == RTA_DST {
            return match value.len() {
                4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
                16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
                _ => None,
            };
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn error_of(body: &[u8]) -> io::Result<()> {
    match body.get(..4).map(|b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]])) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("the kernel answered with less than an error number")),
    }
}

/// Marks our routes; `ip route show table local proto 87` lists them. Of the numbers rtnetlink leaves to programs (above 3) and
/// no known routing daemon uses.
const PROTOCOL: u8 = 87;
/// lo has the first index in every network namespace.
const LOOPBACK_INDEX: u32 = 1;

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RT_TABLE_LOCAL: u8 = 255;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
