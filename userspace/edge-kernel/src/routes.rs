//! Routes that make the stack accept packets for virtual IPs: `local VIP dev lo`, a prefix or an address, so no address is assigned to any interface
//! and none is announced. Asked by ARP the stack answers all the same, as for every local address, unless `arp_ignore` is 1 or more;
//! asked by neighbour discovery it does not.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use crate::kernel::Kernel;
use crate::netlink::{NLM_F_CREATE, NLM_F_REPLACE, Netlink, attribute, attributes};
use crate::prefix::Prefix;
use crate::{KernelError, neighbours};

impl Kernel {
    /// Makes exactly these addresses local to the calling thread's network namespace, beside those that are anyway. Routes an
    /// earlier process left are recognised by their protocol number and kept or removed.
    pub fn set_local_addresses<A: Copy + Into<Prefix>>(&self, addresses: &[A]) -> Result<(), KernelError> {
        let addresses: Vec<Prefix> = addresses.iter().map(|address| (*address).into()).collect();
        match add_local_addresses(&addresses)?.into_iter().next() {
            Some((_, error)) => Err(error),
            None => keep_local_addresses(&addresses),
        }
    }
}

/// Makes these addresses local too. Says which could not be made so, and why; the others are.
pub(crate) fn add_local_addresses(addresses: &[Prefix]) -> Result<Vec<(Prefix, KernelError)>, KernelError> {
    let mut netlink = Netlink::open().map_err(unreadable)?;
    let there = our_routes(&mut netlink)?;
    let mut failed = Vec::new();
    for &address in addresses.iter().filter(|a| !there.contains(a)) {
        if let Err(e) = change(&mut netlink, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, address) {
            let error = match e.raw_os_error() {
                Some(libc::ENETDOWN) => KernelError::Invalid(format!(
                    "cannot add the route `local {address} dev lo`: the interface lo is down; `ip link set lo up`"
                )),
                _ => KernelError::system(format!("cannot add the route `local {address} dev lo`"), e),
            };
            failed.push((address, error));
        }
    }
    Ok(failed)
}

/// What was made local.
pub(crate) fn local_addresses() -> Result<BTreeSet<Prefix>, KernelError> {
    our_routes(&mut Netlink::open().map_err(unreadable)?)
}

fn our_routes(netlink: &mut Netlink) -> Result<BTreeSet<Prefix>, KernelError> {
    Ok(local_routes(netlink).map_err(unreadable)?.into_iter().collect())
}

/// Takes our routes to all other addresses away.
pub(crate) fn keep_local_addresses(addresses: &[Prefix]) -> Result<(), KernelError> {
    let mut netlink = Netlink::open().map_err(unreadable)?;
    let kept: BTreeSet<&Prefix> = addresses.iter().collect();
    for address in local_routes(&mut netlink).map_err(unreadable)? {
        if !kept.contains(&address) {
            change(&mut netlink, RTM_DELROUTE, 0, address)
                .map_err(|e| KernelError::system(format!("cannot remove the route `local {address} dev lo`"), e))?;
        }
    }
    Ok(())
}

fn unreadable(error: io::Error) -> KernelError {
    KernelError::system("cannot read the routes of virtual IPs", error)
}

fn change(netlink: &mut Netlink, kind: u16, flags: u16, prefix: Prefix) -> io::Result<()> {
    let (family, bytes) = match prefix.address {
        IpAddr::V4(v4) => (libc::AF_INET as u8, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6 as u8, v6.octets().to_vec()),
    };
    let mut body = route_header(family, prefix.bits);
    attribute(&mut body, RTA_DST, &bytes);
    attribute(&mut body, RTA_OIF, &LOOPBACK_INDEX.to_ne_bytes());
    netlink.change(kind, flags, &body)
}

/// Our routes in the table of local addresses.
fn local_routes(netlink: &mut Netlink) -> io::Result<Vec<Prefix>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        found.extend(netlink.dump(RTM_GETROUTE, &route_header(family, 0), our_route)?);
    }
    Ok(found)
}

/// `struct rtmsg` of a route of ours.
fn route_header(family: u8, bits: u8) -> Vec<u8> {
    let mut header = vec![family, bits, 0, 0, RT_TABLE_LOCAL, PROTOCOL, RT_SCOPE_HOST, RTN_LOCAL];
    header.extend(0u32.to_ne_bytes());
    header
}

fn our_route(body: &[u8]) -> Option<Prefix> {
    let header = body.get(..12)?;
    if header[4] != RT_TABLE_LOCAL || header[5] != PROTOCOL || header[7] != RTN_LOCAL {
        return None;
    }
    let (_, value) = attributes(&body[12..]).find(|(kind, _)| *kind == RTA_DST)?;
    Some(Prefix { address: neighbours::read(value)?, bits: header[1] })
}

/// Marks our routes; `ip route show table local proto 87` lists them. Of the numbers rtnetlink leaves to programs (above 3) and
/// no known routing daemon uses.
const PROTOCOL: u8 = 87;
/// lo has the first index in every network namespace.
const LOOPBACK_INDEX: u32 = 1;

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RT_TABLE_LOCAL: u8 = 255;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
