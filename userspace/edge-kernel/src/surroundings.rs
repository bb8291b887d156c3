//! What lies around virtual IPs by prefix. Each is a local route: an address of somebody else that it has in it could not be reached
//! from here any more, so that a prefix with one is not made one. What is in force already stays, and that is said.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::follow::Followed;
use crate::kernel::Kernel;
use crate::neighbours;
use crate::netlink::{Netlink, attributes};
use crate::prefix::Prefix;

/// What prefixes may not have in them, as far as it can be told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Surroundings {
    /// By address, whose it is.
    addresses: BTreeMap<IpAddr, String>,
    /// What lies on lo, with how many bits: it may lie there for a virtual IP.
    loopback: BTreeSet<(IpAddr, u8)>,
    /// Networks whose addresses are neighbours, and over which interface.
    links: BTreeMap<Prefix, String>,
    /// Why not all of that is known.
    unknown: Option<String>,
}

/// What becomes of prefixes that may not be, and why they may not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Chosen {
    pub left_out: BTreeMap<Prefix, String>,
    /// In force before what speaks against them came.
    pub in_spite: BTreeMap<Prefix, String>,
}

/// What is known of virtual IPs by prefix.
#[derive(Default)]
pub(crate) struct ByPrefix {
    /// Addresses of others, and whose they are, beside those that machines are steered to by.
    pub others: Vec<(IpAddr, String)>,
    /// All of the last [`Kernel::steer`], and what of it was in force then.
    wanted: BTreeSet<Prefix>,
    in_force: BTreeSet<Prefix>,
    machines: Vec<(IpAddr, String)>,
    chosen: Chosen,
    look_again: Option<Instant>,
}

impl ByPrefix {
    /// Looks around where anything is wanted by prefix. `in_force` is what there are routes for.
    pub fn choose(
        &mut self,
        wanted: BTreeSet<Prefix>,
        in_force: BTreeSet<Prefix>,
        machines: Vec<(IpAddr, String)>,
    ) -> Chosen {
        (self.wanted, self.in_force, self.machines) = (wanted, in_force, machines);
        self.chosen = self.look();
        let left_out = |prefix: &&Prefix| !self.chosen.left_out.contains_key(*prefix);
        self.in_force = self.wanted.iter().filter(left_out).copied().collect();
        self.chosen.clone()
    }

    fn look(&mut self) -> Chosen {
        if self.wanted.iter().all(Prefix::is_address) {
            return Chosen::default();
        }
        let began = Instant::now();
        let mut around = Surroundings::look();
        around.addresses.extend(self.others.iter().chain(&self.machines).cloned());
        // A million routes take their time to read: at most a fiftieth of it all.
        self.look_again = Some(Instant::now() + LOOK_AGAIN.max(began.elapsed() * 50));
        choose(&self.wanted, &self.in_force, &around)
    }
}

/// Which of these may not be virtual IPs at this machine, and why: what [`Kernel::steer`] leaves out, but for addresses of other machines.
pub fn unfit(prefixes: &[Prefix]) -> BTreeMap<Prefix, String> {
    let wanted: BTreeSet<Prefix> = prefixes.iter().copied().collect();
    if wanted.iter().all(Prefix::is_address) {
        return BTreeMap::new();
    }
    choose(&wanted, &BTreeSet::new(), &Surroundings::look()).left_out
}

impl Kernel {
    /// Addresses that no prefix may have in it, and whose they are, beside those of machines given to [`Kernel::steer`], of this one
    /// and of its routers. Holds from the next [`Kernel::steer`] on.
    pub fn set_others(&mut self, others: Vec<(IpAddr, String)>) {
        self.by_prefix.others = others;
    }

    /// Whether prefixes may be now that might not be, or the other way round.
    pub(crate) fn follow_surroundings(&mut self, followed: &mut Followed) {
        if self.by_prefix.look_again.is_none_or(|at| Instant::now() < at) {
            return;
        }
        let now = self.by_prefix.look();
        followed.news |= now != self.by_prefix.chosen;
        // What comes of it is told by the next steer.
        self.by_prefix.chosen = now;
    }
}

/// Of what is wanted, what may not be. Who names an address itself knows what he says.
fn choose(wanted: &BTreeSet<Prefix>, in_force: &BTreeSet<Prefix>, around: &Surroundings) -> Chosen {
    let mut chosen = Chosen::default();
    for prefix in wanted.iter().filter(|prefix| !prefix.is_address()) {
        match (around.against(prefix, wanted), &around.unknown) {
            (Some(why), _) if in_force.contains(prefix) => drop(chosen.in_spite.insert(*prefix, why)),
            (Some(why), _) => drop(chosen.left_out.insert(*prefix, why)),
            (None, Some(unknown)) if !in_force.contains(prefix) => {
                let why = format!("{prefix} might have a router or an address of this machine in it: {unknown}");
                chosen.left_out.insert(*prefix, why);
            }
            _ => {}
        }
    }
    chosen
}

impl Surroundings {
    /// Why the prefix may not be a virtual IP beside all that are wanted.
    fn against(&self, prefix: &Prefix, wanted: &BTreeSet<Prefix>) -> Option<String> {
        let among = |address: &IpAddr| prefix.has(*address);
        if let Some((address, whose)) = self.addresses.iter().find(|(address, _)| among(address)) {
            return Some(format!("{prefix} has {address} in it, the address of {whose}: take a prefix without it"));
        }
        let for_one = |(address, bits): &(IpAddr, u8)| {
            let network = Prefix { address: *address, bits: *bits }.whole();
            wanted.contains(&Prefix::from(*address)) || wanted.contains(&network)
        };
        if let Some((address, _)) = self.loopback.iter().find(|on| among(&on.0) && !for_one(on)) {
            return Some(format!(
                "{prefix} has {address} in it, an address on lo of this machine: take a prefix without it, or list the address, too, if \
                 it is a virtual IP"
            ));
        }
        let (network, name) = self.links.iter().find(|(network, _)| network.overlaps(prefix))?;
        Some(format!(
            "{prefix} overlaps {network}, the network on {name} of this machine, whose neighbours could not be reached any more: take \
             a prefix that is routed to the edges and on no link, or list single addresses"
        ))
    }

    fn look() -> Surroundings {
        let mut around = Surroundings::default();
        if let Err(error) = around.read() {
            around.unknown = Some(format!(
                "this machine's addresses and routes cannot be read ({error}); it is left out until they can be"
            ));
        }
        around
    }

    fn read(&mut self) -> io::Result<()> {
        let links: BTreeMap<u32, Link> =
            Netlink::open()?.dump(RTM_GETLINK, &[0; 16], Link::read)?.into_iter().collect();
        let mut netlink = Netlink::open()?;
        netlink.dump(RTM_GETADDR, &[0; 8], |body| self.take_address(body, &links))?;
        // Those of a family that the kernel was built without are none.
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let header = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            none_where_unknown(netlink.dump(RTM_GETROUTE, &header, |body| self.take_route(body, &links)))?;
        }
        // What routes name by a number.
        none_where_unknown(netlink.dump(RTM_GETNEXTHOP, &[0; 8], |body| {
            let gateway = attributes(body.get(8..)?).find(|(kind, _)| *kind == NHA_GATEWAY)?;
            self.take_router(neighbours::read(gateway.1));
            None::<()>
        }))
    }

    fn take_address(&mut self, body: &[u8], links: &BTreeMap<u32, Link>) -> Option<()> {
        // struct ifaddrmsg: family, bits, flags, scope, interface.
        let header = body.get(..8)?;
        let of = |wanted| attributes(&body[8..]).find(|(kind, _)| *kind == wanted).and_then(|a| neighbours::read(a.1));
        // Of a link to one other, the second is the other's.
        let far = of(IFA_ADDRESS)?;
        let (own, link) = (of(IFA_LOCAL).unwrap_or(far), links.get(&word(&header[4..])?));
        if link.is_some_and(|link| link.flags & libc::IFF_LOOPBACK as u32 != 0) {
            self.loopback.insert((own, header[1]));
            return None;
        }
        let name = link.map_or("an interface", |link| &link.name);
        self.addresses.insert(own, format!("{name} of this machine"));
        self.take_link(Prefix { address: far, bits: header[1] }, name);
        None
    }

    fn take_route(&mut self, body: &[u8], links: &BTreeMap<u32, Link>) -> Option<()> {
        // struct rtmsg: family, lengths of destination and source, service, table, protocol, scope, type, flags.
        let header = body.get(..12)?;
        if header[7] != RTN_UNICAST || word(&header[8..])? & RTM_F_CLONED != 0 {
            return None;
        }
        let (mut address, mut link, mut routed) = (None, None, false);
        for (kind, value) in attributes(&body[12..]) {
            match kind {
                RTA_DST => address = neighbours::read(value),
                RTA_OIF => link = links.get(&word(value)?),
                RTA_GATEWAY | RTA_VIA => {
                    routed = true;
                    self.take_router(router(kind, value));
                }
                RTA_MULTIPATH => {
                    routed = true;
                    self.take_hops(value);
                }
                _ => {}
            }
        }
        // A default route, or half of one, into a tunnel says nothing of neighbours.
        let tunnel = |link: &Link| link.flags & libc::IFF_POINTOPOINT as u32 != 0 && header[5] != RTPROT_KERNEL;
        let link = link.filter(|link| !routed && link.flags & libc::IFF_LOOPBACK as u32 == 0 && !tunnel(link))?;
        self.take_link(Prefix { address: address?, bits: header[1] }, &link.name);
        None
    }

    fn take_hops(&mut self, mut value: &[u8]) {
        // struct rtnexthop: length, flags, weight, interface. Those that are down now may come up.
        while let Some(header) = value.get(..8) {
            let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
            let Some(of_hop) = value.get(8..length) else { break };
            attributes(of_hop).for_each(|(kind, value)| self.take_router(router(kind, value)));
            value = value.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }

    fn take_router(&mut self, router: Option<IpAddr>) {
        if let Some(router) = router {
            self.addresses.entry(router).or_insert_with(|| "a router of this machine".to_owned());
        }
    }

    fn take_link(&mut self, network: Prefix, name: &str) {
        if network.bits > 0 {
            self.links.entry(network.whole()).or_insert_with(|| name.to_owned());
        }
    }
}

/// An interface.
struct Link {
    name: String,
    flags: u32,
}

impl Link {
    /// With its number.
    fn read(body: &[u8]) -> Option<(u32, Link)> {
        // struct ifinfomsg: family, padding, type, interface, flags, what changed of them.
        let header = body.get(..16)?;
        let (_, name) = attributes(&body[16..]).find(|(kind, _)| *kind == IFLA_IFNAME)?;
        let name = String::from_utf8_lossy(name).trim_end_matches('\0').to_owned();
        Some((word(&header[4..])?, Link { name, flags: word(&header[8..])? }))
    }
}

fn router(kind: u16, value: &[u8]) -> Option<IpAddr> {
    match kind {
        RTA_GATEWAY => neighbours::read(value),
        // A family, and an address of it.
        RTA_VIA => value.get(2..).and_then(neighbours::read),
        _ => None,
    }
}

/// The kernel knows nothing of that kind at all.
fn none_where_unknown(read: io::Result<Vec<()>>) -> io::Result<()> {
    match read {
        Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        other => other.map(drop),
    }
}

fn word(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// How often it is looked around; in a prefix that is in force nothing changes by it.
const LOOK_AGAIN: Duration = Duration::from_secs(3);

const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEXTHOP: u16 = 106;
const IFLA_IFNAME: u16 = 3;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;
const RTA_VIA: u16 = 18;
const NHA_GATEWAY: u16 = 6;
const RTN_UNICAST: u8 = 1;
/// The route follows from an address.
const RTPROT_KERNEL: u8 = 2;
/// Not of a table, but of one packet.
const RTM_F_CLONED: u32 = 0x200;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attribute;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn prefix(text: &str) -> Prefix {
        let (address, bits) = text.split_once('/').unwrap();
        Prefix { address: ip(address), bits: bits.parse().unwrap() }
    }

    fn set(all: &[&str]) -> BTreeSet<Prefix> {
        all.iter().map(|text| prefix(text)).collect()
    }

    fn around() -> Surroundings {
        let mut around = Surroundings::default();
        around.addresses.insert(ip("10.1.3.2"), "e3".to_owned());
        around.addresses.insert(ip("2001:db8:3::2"), "e3".to_owned());
        around.take_router(Some(ip("10.1.1.1")));
        around.take_link(prefix("10.77.0.254/24"), "eth0");
        around.take_link(prefix("0.0.0.0/0"), "tun0");
        around.loopback.extend([(ip("127.0.0.1"), 8), (ip("198.51.100.9"), 32), (ip("203.0.113.1"), 24)]);
        around
    }

    fn refused(wanted: &[&str], in_force: &[&str], around: &Surroundings) -> [Vec<String>; 2] {
        let chosen = choose(&set(wanted), &set(in_force), around);
        [chosen.left_out, chosen.in_spite].map(|prefixes| prefixes.keys().map(Prefix::to_string).collect())
    }

    #[test]
    fn only_the_prefix_with_something_of_others_in_it_is_left_out() {
        for (wanted, left_out) in [
            (&["198.51.100.16/28", "198.51.100.7/32", "10.1.3.0/24"][..], &["10.1.3.0/24"][..]),
            (&["2001:db8:3::/48", "2001:db8:4::/48"], &["2001:db8:3::/48"]),
            (&["10.1.1.0/31"], &["10.1.1.0/31"]),
            // Part of the network on a link, and all of it.
            (&["10.77.0.128/25", "10.76.0.0/15", "10.78.0.0/16"], &["10.76.0.0/15", "10.77.0.128/25"]),
            // Addresses that are named themselves.
            (&["10.1.3.2/32", "10.77.0.9/32", "10.1.1.1/32"], &[]),
            (&["198.51.100.0/28"], &["198.51.100.0/28"]),
            (&["198.51.100.0/28", "198.51.100.9/32"], &[]),
            (&["203.0.113.0/24"], &[]),
            (&["203.0.113.0/25"], &["203.0.113.0/25"]),
        ] {
            assert_eq!(refused(wanted, &[], &around()), [left_out.to_vec(), vec![]], "{wanted:?}");
        }
    }

    #[test]
    fn what_is_in_force_stays_and_what_cannot_be_told_keeps_new_ones_out() {
        let wanted = ["10.1.3.0/24", "198.51.101.0/24", "10.1.1.0/24"];
        assert_eq!(
            refused(&wanted, &wanted[..2], &around()),
            [vec!["10.1.1.0/24".to_owned()], vec!["10.1.3.0/24".to_owned()]]
        );
        let unread = Surroundings { unknown: Some("nobody says".to_owned()), ..Surroundings::default() };
        let told = refused(&["198.51.100.0/24", "198.51.101.0/24", "10.0.0.1/32"], &wanted, &unread);
        assert_eq!(told, [vec!["198.51.100.0/24".to_owned()], vec![]]);
        let why = &choose(&set(&["198.51.100.0/24"]), &set(&[]), &unread).left_out[&prefix("198.51.100.0/24")];
        assert!(why.contains("nobody says"), "{why}");
    }

    #[test]
    fn routers_are_found_in_every_table_and_networks_only_on_links() {
        let link = |name: &str, flags: i32| Link { name: name.to_owned(), flags: flags as u32 };
        let links: BTreeMap<u32, Link> = [
            (1, link("lo", libc::IFF_LOOPBACK)),
            (2, link("eth0", libc::IFF_BROADCAST)),
            (3, link("wg0", libc::IFF_POINTOPOINT)),
        ]
        .into();
        let mut around = Surroundings::default();
        let mut route = |header: [u8; 8], oif: u32, attributes: &[(u16, &[u8])]| {
            let mut body = header.to_vec();
            body.extend(0u32.to_ne_bytes());
            attribute(&mut body, RTA_OIF, &oif.to_ne_bytes());
            attributes.iter().for_each(|(kind, value)| attribute(&mut body, *kind, value));
            around.take_route(&body, &links);
        };
        let v4 = |bits: u8, table: u8, protocol: u8, kind: u8| [2, bits, 0, 0, table, protocol, 253, kind];
        route(v4(0, 254, 3, 1), 2, &[(RTA_GATEWAY, &[10, 0, 0, 1])]);
        // Of a table that a rule leads to.
        route(v4(8, 100, 3, 1), 2, &[(RTA_DST, &[9, 0, 0, 0]), (RTA_GATEWAY, &[10, 0, 0, 2])]);
        let mut hop = vec![16, 0, 1, 0, 2, 0, 0, 0];
        attribute(&mut hop, RTA_GATEWAY, &[10, 0, 0, 3]);
        route(v4(0, 100, 3, 1), 2, &[(RTA_MULTIPATH, &hop)]);
        route(v4(24, 254, 2, 1), 2, &[(RTA_DST, &[10, 0, 0, 0])]);
        route(v4(24, 254, 2, 1), 3, &[(RTA_DST, &[10, 8, 0, 0])]);
        // All of the world into a tunnel, a local address, and what has no way.
        route(v4(1, 254, 3, 1), 3, &[(RTA_DST, &[128, 0, 0, 0])]);
        route(v4(32, 255, 2, 2), 2, &[(RTA_DST, &[10, 0, 0, 9])]);
        route(v4(8, 254, 3, 6), 2, &[(RTA_DST, &[11, 0, 0, 0])]);
        let routers: Vec<IpAddr> = around.addresses.keys().copied().collect();
        assert_eq!(routers, [ip("10.0.0.1"), ip("10.0.0.2"), ip("10.0.0.3")]);
        assert_eq!(around.links.into_keys().collect::<BTreeSet<_>>(), set(&["10.0.0.0/24", "10.8.0.0/24"]));
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let around = Surroundings::look();
        assert_eq!(around.unknown, None);
        assert!(around.loopback.iter().any(|(address, _)| address.is_loopback()), "{around:?}");
    }
}
