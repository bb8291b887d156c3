//! The ways to clients, for what is answered to who sent a packet that another machine passed on: there is no MAC to send it back to. They
//! follow from the kernel's routes and neighbours, as far as those can be told without asking for each client.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use abi::limits::WAYS_MAX;
use abi::{Address, WayKey, way};

use crate::access::entries;
use crate::follow::Followed;
use crate::kernel::{Hook, Kernel};
use crate::netlink::{Netlink, attributes};
use crate::{neighbours, sys};

/// What is to be in WAYS.
type Ways = BTreeMap<WayKey, u64>;

/// What is known of them.
#[derive(Default)]
pub(crate) struct KnownWays {
    /// Virtual IPs have SYNs answered.
    pub wanted: bool,
    /// In the map, where this process wrote it.
    there: Option<Ways>,
    /// Why some are not known, as was found last, and whether that was told.
    astray: Option<(String, bool)>,
}

impl KnownWays {
    /// Another process has written the map.
    pub fn forget(&mut self) {
        self.there = None;
    }
}

impl Kernel {
    pub(crate) fn follow_ways(&mut self, followed: &mut Followed) {
        let wanted = self.ways.wanted && self.program(Hook::XdpSyn).is_some();
        let (ways, astray) = if wanted { self.find_ways() } else { (Ways::new(), None) };
        followed.ways = ways.values().filter(|way| **way != way::NONE).count();
        let astray = match self.write_ways(ways) {
            Ok(()) => astray,
            Err(error) => Some(format!("they cannot be written: {error}")),
        };
        // What is wrong for a moment, a neighbour that has just been asked for its MAC, is no news.
        let told = match (&astray, self.ways.astray.take()) {
            (Some(now), Some((before, told))) if *now == before => {
                if !told {
                    followed.told.push(format!(
                        "SYNs beyond limits.synCookies that other machines pass on are answered by the stack alone: {now}"
                    ));
                }
                true
            }
            _ => false,
        };
        self.ways.astray = astray.map(|astray| (astray, told));
    }

    /// The ways, and why some are not known.
    fn find_ways(&self) -> (Ways, Option<String>) {
        let mut ways = Ways::new();
        let routes = match routes() {
            Ok(Ok(routes)) => routes,
            Ok(Err(why)) => return (ways, Some(why)),
            Err(error) => return (ways, Some(format!("routes cannot be read: {error}"))),
        };
        let mut without = Vec::new();
        for (name, &interface) in &self.indices {
            match self.ways_of(interface, &routes) {
                Ok(found) if found.values().all(|way| *way == way::NONE) => without.push(name.clone()),
                Ok(mut found) => ways.append(&mut found),
                Err(error) => return (Ways::new(), Some(format!("neighbours cannot be read: {error}"))),
            }
        }
        if ways.len() > ROOM {
            return (Ways::new(), Some(too_many(ways.len())));
        }
        let astray = format!("no route leads over {} to a router whose MAC is known", without.join(" or "));
        (ways, (!without.is_empty()).then_some(astray))
    }

    fn ways_of(&self, interface: u32, routes: &[Route]) -> io::Result<Ways> {
        let mut netlink = Netlink::open()?;
        let known: BTreeMap<IpAddr, [u8; 6]> = neighbours::known(&mut netlink, interface)?.into_iter().collect();
        let routers = || routes.iter().flat_map(|route| &route.hops).filter(|hop| hop.interface == interface);
        let unknown: BTreeSet<IpAddr> =
            routers().filter_map(|hop| hop.router).filter(|router| !known.contains_key(router)).collect();
        for router in unknown {
            // One that does not answer leaves its routes to the stack.
            let _ = neighbours::resolve(&mut netlink, router, interface);
        }
        Ok(ways(interface, routes, &known))
    }

    fn write_ways(&mut self, wanted: Ways) -> io::Result<()> {
        let map = self.ways_map.as_fd();
        let there = match self.ways.there.take() {
            Some(there) => there,
            None => entries(map)?,
        };
        // An address is looked for by the longest prefix: longer ones come before shorter ones, and go after them.
        let mut fresh: Vec<_> = wanted.iter().filter(|(key, way)| there.get(*key) != Some(*way)).collect();
        fresh.sort_by_key(|(key, _)| std::cmp::Reverse(key.bits));
        let mut gone: Vec<_> = there.keys().filter(|key| !wanted.contains_key(*key)).collect();
        gone.sort_by_key(|key| key.bits);
        // What is gone makes room first where there is not enough for both.
        if fresh.len() + there.len() > ROOM {
            for key in gone.drain(..) {
                sys::map_delete(map, key)?;
            }
        }
        for (key, way) in fresh {
            sys::map_update(map, key, way)?;
        }
        for key in gone {
            sys::map_delete(map, key)?;
        }
        self.ways.there = Some(wanted);
        Ok(())
    }
}

/// A route of the main table.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Route {
    address: IpAddr,
    bits: u8,
    metric: u32,
    /// None: the stack has something else to do with the packet, or chooses by more than the address.
    hops: Vec<Hop>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Hop {
    interface: u32,
    /// None: the address is on the link.
    router: Option<IpAddr>,
}

/// What routes say of an interface. The one with the lowest metric of each prefix counts; what leads to no router whose MAC is known is
/// left to the stack.
fn ways(interface: u32, routes: &[Route], known: &BTreeMap<IpAddr, [u8; 6]>) -> Ways {
    let mut chosen: BTreeMap<WayKey, (u32, u64)> = BTreeMap::new();
    for route in routes {
        let mac = |hop: &Hop| (hop.interface == interface).then_some(hop.router)?.and_then(|router| known.get(&router));
        let way = route
            .hops
            .iter()
            .find_map(mac)
            .map_or(way::NONE, |m| u64::from_le_bytes([m[0], m[1], m[2], m[3], m[4], m[5], 0, 0]));
        let best = chosen.entry(key(interface, route.address, route.bits)).or_insert((u32::MAX, way::NONE));
        // Routers of the same rank are as good as each other.
        if route.metric < best.0 || route.metric == best.0 && best.1 == way::NONE {
            *best = (route.metric, way);
        }
    }
    // Routes of IPv6 say nothing of IPv4.
    chosen.entry(key(interface, IpAddr::from([0, 0, 0, 0]), 0)).or_insert((u32::MAX, way::NONE));
    chosen.into_iter().map(|(key, (_, way))| (key, way)).collect()
}

fn key(interface: u32, address: IpAddr, bits: u8) -> WayKey {
    let before = if address.is_ipv4() { 96 } else { 0 };
    WayKey { bits: 32 + before + u32::from(bits), interface, address: Address::from(address).0 }
}

/// The routes of the main table, or why they do not say where packets go.
fn routes() -> io::Result<Result<Vec<Route>, String>> {
    let mut routes = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        // Asked by a socket of its own, because what is not read to its end is in the way of the next question.
        let mut netlink = Netlink::open()?;
        match netlink.dump(RTM_GETRULE, &[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], rule) {
            Ok(rules) if rules.iter().any(|own| *own) => {
                return Ok(Err("this machine routes by rules of its own (ip rule)".to_owned()));
            }
            Ok(_) => {}
            // Built without rules.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(e) => return Err(e),
        }
        let header = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        match netlink.dump_at_most(ROOM, RTM_GETROUTE, &header, route)? {
            Some(found) => routes.extend(found),
            None => return Ok(Err(too_many(ROOM + 1))),
        }
    }
    Ok(Ok(routes))
}

fn too_many(routes: usize) -> String {
    format!("{routes} routes or more, and there is room for {ROOM}")
}

/// Whether a rule leads to another table than the three there always are.
fn rule(body: &[u8]) -> Option<bool> {
    let header = body.get(..12)?;
    let table = attributes(&body[12..]).find(|(kind, _)| *kind == FRA_TABLE).and_then(|(_, value)| word(value));
    Some(!USUAL_TABLES.contains(&table.unwrap_or(u32::from(header[4]))))
}

fn route(body: &[u8]) -> Option<Route> {
    // struct rtmsg: family, lengths of destination and source, service, table, protocol, scope, type, flags.
    let header = body.get(..12)?;
    let flags = word(&header[8..])?;
    let (mut address, mut interface, mut router, mut metric) = (None, None, None, 0);
    let (mut table, mut many) = (u32::from(header[4]), Vec::new());
    for (kind, value) in attributes(&body[12..]) {
        match kind {
            RTA_DST => address = neighbours::read(value),
            RTA_OIF => interface = word(value),
            RTA_GATEWAY => router = neighbours::read(value),
            // A family, and an address of it.
            RTA_VIA => router = value.get(2..).and_then(neighbours::read),
            RTA_PRIORITY => metric = word(value)?,
            RTA_TABLE => table = word(value)?,
            RTA_MULTIPATH => many = hops(value),
            _ => {}
        }
    }
    if table != MAIN || flags & RTM_F_CLONED != 0 || flags & RTNH_DOWN != 0 {
        return None;
    }
    let v4 = i32::from(header[0]) == libc::AF_INET;
    let none = || if v4 { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let by_address_alone = header[2] == 0 && header[3] == 0 && header[7] == RTN_UNICAST;
    let one = interface.map(|interface| Hop { interface, router });
    let hops = if by_address_alone { one.into_iter().chain(many).collect() } else { Vec::new() };
    Some(Route { address: address.unwrap_or_else(none), bits: header[1], metric, hops })
}

/// Of a route with several.
fn hops(mut value: &[u8]) -> Vec<Hop> {
    let mut found = Vec::new();
    // struct rtnexthop: length, flags, weight, interface.
    while let Some(header) = value.get(..8) {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let Some(attributes_of) = value.get(8..length) else { break };
        let read = |(kind, value): (u16, &[u8])| match kind {
            RTA_GATEWAY => neighbours::read(value),
            RTA_VIA => value.get(2..).and_then(neighbours::read),
            _ => None,
        };
        if u32::from(header[2]) & RTNH_DOWN == 0
            && let Some(interface) = word(&header[4..])
        {
            found.push(Hop { interface, router: attributes(attributes_of).find_map(read) });
        }
        value = value.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn word(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// Routes there may be: before Linux 6.13 a trie that is full refuses to replace what it has, for which it takes one more for a moment.
const ROOM: usize = WAYS_MAX as usize - 1;

const RTM_GETROUTE: u16 = 26;
const RTM_GETRULE: u16 = 34;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const FRA_TABLE: u16 = 15;
const MAIN: u32 = 254;
/// Local, main, default.
const USUAL_TABLES: [u32; 3] = [255, MAIN, 253];
const RTN_UNICAST: u8 = 1;
/// Not of a table, but of one packet.
const RTM_F_CLONED: u32 = 0x200;
/// Dead, or its link is down.
const RTNH_DOWN: u32 = 0x01 | 0x10;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attribute;

    const V4: u8 = libc::AF_INET as u8;
    const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn message(header: [u8; 8], flags: u32, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = header.to_vec();
        body.extend(flags.to_ne_bytes());
        attributes.iter().for_each(|(kind, value)| attribute(&mut body, *kind, value));
        body
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn to(text: &str, metric: u32, hops: &[(u32, Option<&str>)]) -> Route {
        let (address, bits) = text.split_once('/').unwrap();
        let hop = |(interface, router): &(u32, Option<&str>)| Hop { interface: *interface, router: router.map(ip) };
        Route { address: ip(address), bits: bits.parse().unwrap(), metric, hops: hops.iter().map(hop).collect() }
    }

    /// As the kernel's trie finds it.
    fn way(ways: &Ways, interface: u32, address: &str) -> u64 {
        let number = |key: &WayKey| u128::from_be_bytes(Address(key.address).octets());
        let wanted = key(interface, ip(address), if ip(address).is_ipv4() { 32 } else { 128 });
        let has = |key: &&WayKey| {
            key.interface == interface && (number(key) ^ number(&wanted)).checked_shr(160 - key.bits).unwrap_or(0) == 0
        };
        let longest = ways.keys().filter(has).max_by_key(|key| key.bits);
        longest.map_or(way::NONE, |key| ways[key])
    }

    #[test]
    fn a_client_is_answered_where_the_stack_would_answer_it() {
        let known: BTreeMap<IpAddr, [u8; 6]> = [
            (ip("10.0.0.1"), ROUTER),
            (ip("10.0.0.2"), [2, 0, 0, 0, 0, 2]),
            (ip("fe80::1"), [2, 0, 0, 0, 0, 3]),
            (ip("10.0.0.77"), [2, 0, 0, 0, 0, 77]),
        ]
        .into();
        let routes = [
            to("0.0.0.0/0", 100, &[(3, Some("10.0.0.1"))]),
            to("0.0.0.0/0", 200, &[(3, Some("10.0.0.2"))]),
            to("10.0.0.0/24", 0, &[(3, None)]),
            to("172.16.0.0/12", 0, &[(4, Some("10.9.0.1"))]),
            to("192.0.2.0/24", 0, &[]),
            to("192.0.2.128/25", 0, &[(4, Some("10.9.0.1")), (3, Some("10.0.0.2"))]),
            to("198.18.0.0/15", 0, &[(3, Some("10.0.0.99"))]),
            to("::/0", 1024, &[(3, Some("fe80::9"))]),
            to("::/0", 1024, &[(3, Some("fe80::1"))]),
        ];
        let found = ways(3, &routes, &known);
        for (client, last) in [
            ("203.0.113.7", 9),
            ("10.0.0.77", 0),
            ("172.20.1.1", 0),
            ("192.0.2.9", 0),
            ("192.0.2.200", 2),
            ("198.18.5.5", 0),
            ("2001:db8::1", 3),
        ] {
            assert_eq!(way(&found, 3, client).to_le_bytes()[5], last, "{client}");
        }
        assert_eq!(way(&found, 4, "203.0.113.7"), way::NONE, "by another interface");
        let six = ways(3, &routes[7..], &known);
        assert_eq!(way(&six, 3, "203.0.113.7"), way::NONE, "routes of IPv6 say nothing of IPv4");
    }

    #[test]
    fn routes_are_read_as_the_kernel_writes_them() {
        let unicast = |bits: u8| [V4, bits, 0, 0, 254, 3, 0, 1];
        let oif = 3u32.to_ne_bytes();
        let plain = message(unicast(8), 0, &[(RTA_DST, &[9, 0, 0, 0]), (RTA_OIF, &oif), (RTA_GATEWAY, &[10, 0, 0, 1])]);
        assert_eq!(route(&plain), Some(to("9.0.0.0/8", 0, &[(3, Some("10.0.0.1"))])));
        let metric = 7u32.to_ne_bytes();
        let via = [&[10, 0][..], &[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]].concat();
        let over_six = message(unicast(0), 0, &[(RTA_PRIORITY, &metric), (RTA_OIF, &oif), (RTA_VIA, &via)]);
        assert_eq!(route(&over_six), Some(to("0.0.0.0/0", 7, &[(3, Some("fe80::1"))])));
        let hop = |flags: u8, interface: u32, router: [u8; 4]| {
            let mut hop = vec![16, 0, flags, 0];
            hop.extend(interface.to_ne_bytes());
            attribute(&mut hop, RTA_GATEWAY, &router);
            hop
        };
        let many = [hop(1, 3, [10, 0, 0, 9]), hop(0, 4, [10, 0, 0, 8]), hop(0, 3, [10, 0, 0, 7])].concat();
        let several = message(unicast(0), 0, &[(RTA_MULTIPATH, &many)]);
        assert_eq!(route(&several), Some(to("0.0.0.0/0", 0, &[(4, Some("10.0.0.8")), (3, Some("10.0.0.7"))])));
        let blackhole = message([V4, 8, 0, 0, 254, 3, 0, 6], 0, &[(RTA_DST, &[9, 0, 0, 0])]);
        assert_eq!(route(&blackhole), Some(to("9.0.0.0/8", 0, &[])));
        for (header, flags) in [([V4, 8, 0, 0, 255, 3, 0, 1], 0), (unicast(8), 0x10), (unicast(8), 0x200)] {
            assert_eq!(route(&message(header, flags, &[(RTA_DST, &[9, 0, 0, 0]), (RTA_OIF, &oif)])), None);
        }
        let other = 100u32.to_ne_bytes();
        assert_eq!(rule(&message([V4, 0, 0, 0, 254, 0, 0, 1], 0, &[])), Some(false));
        assert_eq!(rule(&message([V4, 0, 0, 0, 0, 0, 0, 1], 0, &[(FRA_TABLE, &other)])), Some(true));
    }

    #[test]
    fn this_machine_has_routes_that_can_be_read() {
        assert!(routes().is_ok());
    }
}
