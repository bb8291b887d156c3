//! Where frames for other machines go: the MAC of a machine on the link, or of the router on the way to it, from the kernel's routes and
//! neighbours. Without it a frame goes back to where the packet came from, which is a router only if there is one between.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::netlink::{NLM_F_CREATE, NLMSG_ERROR, Netlink, attribute, attributes, error_of};

/// The neighbour that packets for the address are handed to, and the interface it is reached by; none for an address nobody has a route to.
pub(crate) fn next_hop(netlink: &mut Netlink, address: IpAddr) -> io::Result<Option<(IpAddr, u32)>> {
    let octets = octets(address);
    // struct rtmsg: family, lengths of destination and source, service, table, protocol, scope, type, flags.
    let mut body = vec![family(address), octets.len() as u8 * 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    attribute(&mut body, RTA_DST, &octets);
    netlink.ask(RTM_GETROUTE, 0, &body, |message| {
        if message.kind == NLMSG_ERROR {
            return Some(match error_of(message.body) {
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES)) => {
                    Ok(None)
                }
                other => other.map(|()| None),
            });
        }
        let header = message.body.get(..12).filter(|_| message.kind == RTM_NEWROUTE)?;
        if header[7] != RTN_UNICAST {
            return Some(Ok(None));
        }
        let (mut hop, mut interface) = (address, None);
        for (kind, value) in attributes(&message.body[12..]) {
            match kind {
                RTA_GATEWAY => hop = read(value).unwrap_or(hop),
                RTA_OIF => interface = value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)),
                _ => {}
            }
        }
        Some(Ok(interface.map(|interface| (hop, interface))))
    })
}

/// The neighbours of an interface whose MAC is known.
pub(crate) fn known(netlink: &mut Netlink, interface: u32) -> io::Result<Vec<(IpAddr, [u8; 6])>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        found.extend(netlink.dump(RTM_GETNEIGH, &header(family, interface, 0), |body| neighbour(body, interface))?);
    }
    Ok(found)
}

fn neighbour(body: &[u8], interface: u32) -> Option<(IpAddr, [u8; 6])> {
    let header = body.get(..HEADER)?;
    let (index, state) =
        (u32::from_ne_bytes(header[4..8].try_into().ok()?), u16::from_ne_bytes([header[8], header[9]]));
    if index != interface || state & NUD_VALID == 0 {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for (kind, value) in attributes(&body[HEADER..]) {
        match kind {
            NDA_DST => address = read(value),
            NDA_LLADDR => mac = <[u8; 6]>::try_from(value).ok(),
            _ => {}
        }
    }
    address.zip(mac)
}

/// Has the kernel find out, or make sure of, the neighbour's MAC, as if a packet were sent to it.
pub(crate) fn resolve(netlink: &mut Netlink, address: IpAddr, interface: u32) -> io::Result<()> {
    let mut body = header(family(address), interface, NTF_USE);
    attribute(&mut body, NDA_DST, &octets(address));
    netlink.change(RTM_NEWNEIGH, NLM_F_CREATE, &body)
}

/// A router that packets to anywhere go to by the interface and that does not answer; none where there is none, or all do.
pub(crate) fn silent_router(interface: u32) -> Option<IpAddr> {
    let mut netlink = Netlink::open().ok()?;
    routers(&mut netlink, interface).into_iter().find(|router| !answers(&mut netlink, *router, interface))
}

/// One of IPv4 that does.
pub(crate) fn answering_router(interface: u32) -> Option<Ipv4Addr> {
    let mut netlink = Netlink::open().ok()?;
    let found = routers(&mut netlink, interface).into_iter().find(|router| answers(&mut netlink, *router, interface));
    match found? {
        IpAddr::V4(router) => Some(router),
        IpAddr::V6(_) => None,
    }
}

fn routers(netlink: &mut Netlink, interface: u32) -> Vec<IpAddr> {
    // Addresses of nobody that any table leads to a default router: one of each family.
    let anywhere = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])];
    anywhere
        .into_iter()
        .filter_map(|address| Some((address, next_hop(netlink, address).ok()??)))
        .filter(|(address, (hop, by))| hop != address && *by == interface)
        .map(|(_, (hop, _))| hop)
        .collect()
}

fn answers(netlink: &mut Netlink, router: IpAddr, interface: u32) -> bool {
    let began = Instant::now();
    loop {
        let known = known(netlink, interface).unwrap_or_default();
        if known.iter().any(|(address, _)| *address == router) {
            return true;
        }
        if began.elapsed() > ANSWERS_WITHIN {
            return false;
        }
        let _ = resolve(netlink, router, interface);
        std::thread::sleep(ANSWERS_WITHIN / 20);
    }
}

/// struct ndmsg: family, padding, interface, state, flags, type.
fn header(family: u8, interface: u32, flags: u8) -> Vec<u8> {
    let mut header = vec![family, 0, 0, 0];
    header.extend(interface.to_ne_bytes());
    header.extend([0, 0, flags, 0]);
    header
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(crate) fn read(value: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}

/// The kernel asks three times, a second apart.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
const HEADER: usize = 12;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_GETNEIGH: u16 = 30;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTN_UNICAST: u8 = 1;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NTF_USE: u8 = 1;
/// Reachable, stale, delay, probe and permanent.
const NUD_VALID: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;
