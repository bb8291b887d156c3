//! Where a forward proxy goes: what its document lists, and what nobody is led to unless it is listed.
//!
//! A name says nothing of where it leads: whoever owns it decides, and may decide otherwise from one look-up to the next. So addresses
//! are judged, those that were looked up, and no others are connected to.

use base_model::ip_filter::CidrSet;
use base_model::{Cidr, PortsSpec};
use base_runtime::net::{MachineAddresses, OwnPort};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Addresses of a name that are looked at: as many as an endpoint keeps.
const ADDRESSES_MAX: usize = 64;

/// Places clients may be led to; every part that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DestinationSpec {
    /// Names: `shop.example`, or `*.shop.example` for all below it. Default: any name, and any address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Addresses and prefixes that are connected to, whatever name led there: `10.1.0.0/16`. Default: all that are public. Those that are
    /// not are listed here or refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Cidr>,
    /// Ports: a list of numbers and ranges such as "8000-8099", or `any`. Default any.
    pub ports: PortsSpec,
}

impl Default for DestinationSpec {
    fn default() -> Self {
        Self { hosts: Vec::new(), addresses: Vec::new(), ports: PortsSpec::Any }
    }
}

/// Why a client is not led there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `allowedDestinations` has no such place.
    NotListed,
    /// The address is one of these, and not listed.
    NotPublic(&'static str),
    /// It is this process.
    Own,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotListed => f.write_str("allowedDestinations does not list it"),
            Refusal::NotPublic(what) => write!(f, "{what}, which the addresses of allowedDestinations do not list"),
            Refusal::Own => f.write_str("this process listens there"),
        }
    }
}

/// What a document lists, ready to be asked.
#[derive(Debug)]
pub struct Destinations {
    listed: Vec<Destination>,
    machine: Arc<MachineAddresses>,
}

#[derive(Debug)]
struct Destination {
    hosts: Vec<Host>,
    /// `None`: all that are public.
    addresses: Option<CidrSet>,
    ports: PortsSpec,
}

/// In lower case.
#[derive(Debug, PartialEq, Eq)]
enum Host {
    Name(String),
    /// All below this one, which begins with its dot.
    Below(String),
}

impl Host {
    fn matches(&self, host: &str) -> bool {
        match self {
            Host::Name(name) => host == name,
            Host::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }
}

/// Reads an entry of `hosts`.
fn host(text: &str) -> Result<Host, &'static str> {
    let lower = text.to_ascii_lowercase();
    if lower.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Err("an address; list it under addresses");
    }
    let (host, name) = match lower.strip_prefix("*.") {
        Some(name) => (Host::Below(format!(".{name}")), name),
        None => (Host::Name(lower.clone()), &lower[..]),
    };
    match proto_http::authority::split(name.as_bytes()) {
        Some((_, None)) if !name.contains('*') && !name.ends_with('.') => Ok(host),
        Some((_, Some(_))) => Err("a name has no port; list it under ports"),
        _ => Err("not a name; write shop.example or *.shop.example"),
    }
}

/// What is wrong with an entry of `hosts`.
pub fn check_host(text: &str) -> Result<(), &'static str> {
    host(text).map(drop)
}

impl Destinations {
    /// Of entries that were checked.
    pub fn new(specs: &[DestinationSpec], machine: Arc<MachineAddresses>) -> Destinations {
        let ready = |spec: &DestinationSpec| Destination {
            hosts: spec.hosts.iter().filter_map(|text| host(text).ok()).collect(),
            addresses: (!spec.addresses.is_empty()).then(|| CidrSet::new(&spec.addresses)),
            ports: spec.ports.clone(),
        };
        Destinations { listed: specs.iter().map(ready).collect(), machine }
    }

    /// Whether some address of this host, which is in lower case, may be led to: nothing else is worth a look-up.
    pub fn may_be_asked(&self, host: &str, port: u16) -> Result<(), Refusal> {
        let listed = |place: &Destination| place.takes(host, port);
        if self.listed.is_empty() || self.listed.iter().any(listed) { Ok(()) } else { Err(Refusal::NotListed) }
    }

    /// Those of a host's addresses that a client is led to, of the first [`ADDRESSES_MAX`], each judged once; or why it is led to none,
    /// where there are any.
    pub fn choose(
        &self,
        host: &str,
        port: u16,
        mut addresses: Vec<IpAddr>,
        local: bool,
        udp: bool,
    ) -> Result<Vec<IpAddr>, Option<Refusal>> {
        let mut refusal = None;
        addresses.truncate(ADDRESSES_MAX);
        addresses.retain(|ip| match self.judge(host, SocketAddr::new(*ip, port), local, udp) {
            Ok(()) => true,
            Err(why) => {
                refusal.get_or_insert(why);
                false
            }
        });
        if addresses.is_empty() { Err(refusal) } else { Ok(addresses) }
    }

    /// Whether this process listens there, as of now: it may have begun to since the address was judged.
    pub fn is_own(&self, ip: IpAddr, port: u16, udp: bool) -> bool {
        let listens = if udp { OwnPort::is_one_udp(port) } else { OwnPort::is_one(port) };
        listens && self.machine.has(ip)
    }

    /// Whether a client is led to `address`, to which `host` has led. `local`: the client is on this machine itself, and may go where it
    /// could without us unless the document says where all may go.
    fn judge(&self, host: &str, address: SocketAddr, local: bool, udp: bool) -> Result<(), Refusal> {
        let ip = address.ip().to_canonical();
        if self.is_own(ip, address.port(), udp) {
            return Err(Refusal::Own);
        }
        let not_public = not_public(ip).or_else(|| self.machine.has(ip).then_some("an address of this machine"));
        if self.listed.is_empty() {
            return match not_public {
                Some(_) if local && ip.is_loopback() => Ok(()),
                Some(what) => Err(Refusal::NotPublic(what)),
                None => Ok(()),
            };
        }
        let mut refusal = Refusal::NotListed;
        for place in self.listed.iter().filter(|place| place.takes(host, address.port())) {
            match (&place.addresses, not_public) {
                (Some(listed), _) if listed.contains(ip) => return Ok(()),
                (None, None) => return Ok(()),
                (None, Some(what)) => refusal = Refusal::NotPublic(what),
                (Some(_), _) => {}
            }
        }
        Err(refusal)
    }
}

impl Destination {
    fn takes(&self, host: &str, port: u16) -> bool {
        (self.hosts.is_empty() || self.hosts.iter().any(|known| known.matches(host))) && self.ports.contains(port)
    }
}

/// What kind of address it is where it is none of the public internet's (the registries of IANA for special purposes).
fn not_public(ip: IpAddr) -> Option<&'static str> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => not_public_v4(ip),
        IpAddr::V6(ip) => not_public_v6(ip),
    }
}

fn not_public_v4(ip: Ipv4Addr) -> Option<&'static str> {
    Some(match ip.octets() {
        [0, ..] => "an unspecified address",
        [127, ..] => "a loopback address",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "a private address",
        [169, 254, ..] => "a link-local address",
        [100, 64..=127, ..] => "an address of a carrier's own network",
        // Azure's, which answers every machine of it.
        [168, 63, 129, 16] => "an address of a cloud's metadata",
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => {
            "a reserved address"
        }
        [224..=239, ..] => "a multicast address",
        [240..=255, ..] => "a reserved address",
        _ => return None,
    })
}

fn not_public_v6(ip: Ipv6Addr) -> Option<&'static str> {
    let embedded = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("an unspecified address"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("a loopback address"),
        // NAT64, 6to4 and Teredo lead to the IPv4 address inside, whose bits the last one has turned.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => not_public_v4(embedded(high, low)),
        [0x2002, high, low, ..] => not_public_v4(embedded(high, low)),
        [0x2001, 0, .., high, low] => not_public_v4(embedded(!high, !low)).or(Some("a reserved address")),
        [0xfe80..=0xfebf, ..] => Some("a link-local address"),
        [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Some("a private address"),
        [0xff00..=0xffff, ..] => Some("a multicast address"),
        [0x2001, 0xdb8, ..] | [0x2001, 1..=0x1ff, ..] | [0x3fff, 0..=0xfff, ..] => Some("a reserved address"),
        [0x2000..=0x3fff, ..] => None,
        _ => Some("a reserved address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// One that has 198.41.0.4.
    fn machine() -> Arc<MachineAddresses> {
        let machine = MachineAddresses::default();
        machine.refresh(Ok(HashSet::from([IpAddr::from([198, 41, 0, 4])])));
        Arc::new(machine)
    }

    fn judge(list: &str, host: &str, address: &str, local: bool) -> Result<(), Refusal> {
        let list: Vec<DestinationSpec> =
            serde_json::from_value(base_model::yaml::parse_document(list).unwrap()).unwrap();
        Destinations::new(&list, machine()).judge(host, address.parse().unwrap(), local, false)
    }

    #[test]
    fn what_is_not_public_is_refused_unless_listed() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.9.9.9",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "::7f00:1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:0:1::f5ff:fffe",
            "2001:db8::1",
            "2002:a00:1::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "4000::1",
            "::a00:1",
        ] {
            let ip: IpAddr = address.parse().unwrap();
            let at = SocketAddr::new(ip, 1).to_string();
            assert!(matches!(judge("[]", "a.test", &at, false), Err(Refusal::NotPublic(_))), "{address}");
            assert!(
                matches!(judge("[{hosts: [a.test]}]", "a.test", &at, false), Err(Refusal::NotPublic(_))),
                "{address}"
            );
            let listed = format!("[{{addresses: ['{ip}']}}]");
            assert_eq!(judge(&listed, "a.test", &at, false), Ok(()), "{address}");
        }
        for address in [
            "1.1.1.1:443",
            "172.32.0.1:1",
            "100.128.0.1:1",
            "[2606:4700::1]:1",
            "[64:ff9b::101:101]:1",
            "[2002:101:101::]:1",
        ] {
            assert_eq!(judge("[]", "a.test", address, false), Ok(()), "{address}");
        }
    }

    #[test]
    fn a_client_of_this_machine_may_go_to_it_while_nothing_is_listed() {
        assert_eq!(judge("[]", "localhost", "127.0.0.1:1", true), Ok(()));
        assert_eq!(judge("[]", "localhost", "[::1]:1", true), Ok(()));
        assert!(judge("[]", "x", "169.254.169.254:80", true).is_err());
        assert!(judge("[]", "x", "10.0.0.1:80", true).is_err());
        assert!(judge("[{ports: [1]}]", "localhost", "127.0.0.1:1", true).is_err());
    }

    #[test]
    fn lists_hold_in_all_their_parts() {
        let list = "[{hosts: ['*.shop.test', Pay.test], ports: [443, '8000-8099']}, {hosts: [db.test], addresses: [10.1.0.0/16], ports: 5432}]";
        for (host, address, expected) in [
            ("a.shop.test", "1.1.1.1:443", Ok(())),
            ("a.b.shop.test", "1.1.1.1:8050", Ok(())),
            ("pay.test", "1.1.1.1:443", Ok(())),
            ("shop.test", "1.1.1.1:443", Err(Refusal::NotListed)),
            ("evilshop.test", "1.1.1.1:443", Err(Refusal::NotListed)),
            ("a.pay.test", "1.1.1.1:443", Err(Refusal::NotListed)),
            ("pay.test", "1.1.1.1:80", Err(Refusal::NotListed)),
            // What a listed name leads to is judged all the same.
            ("a.shop.test", "10.1.0.1:443", Err(Refusal::NotPublic("a private address"))),
            ("a.shop.test", "127.0.0.1:443", Err(Refusal::NotPublic("a loopback address"))),
            ("db.test", "10.1.2.3:5432", Ok(())),
            ("db.test", "10.2.2.3:5432", Err(Refusal::NotListed)),
            ("db.test", "1.1.1.1:5432", Err(Refusal::NotListed)),
            ("other.test", "10.1.2.3:5432", Err(Refusal::NotListed)),
            ("1.1.1.1", "1.1.1.1:443", Err(Refusal::NotListed)),
        ] {
            assert_eq!(judge(list, host, address, false), expected, "{host} {address}");
        }
        for bad in ["", "*", "a.*", "*.*.b", "10.0.0.1", "[::1]", "::1", "a.test:80", "a b", "a."] {
            assert!(check_host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_this_process_listens_on_is_refused_even_when_listed() {
        let own = OwnPort::note(7);
        for address in ["127.0.0.1:7", "127.0.0.9:7", "[::1]:7", "0.0.0.0:7", "[::ffff:127.0.0.1]:7"] {
            let list = "[{addresses: [0.0.0.0/0, '::/0']}]";
            assert_eq!(judge(list, "a", address, true), Err(Refusal::Own), "{address}");
            assert_eq!(judge("[]", "a", address, true), Err(Refusal::Own), "{address}");
        }
        assert_eq!(judge("[]", "a", "1.1.1.1:7", true), Ok(()), "another machine may listen on it");
        drop(own);
    }

    #[test]
    fn addresses_of_this_machine_are_not_public_and_those_of_nobody_knows_are_none() {
        assert_eq!(judge("[]", "a", "198.41.0.4:1", true), Err(Refusal::NotPublic("an address of this machine")),);
        let unknown = Destinations::new(&[], Arc::default());
        let judged = unknown.judge("a", "1.1.1.1:1".parse().unwrap(), true, false);
        assert_eq!(judged, Err(Refusal::NotPublic("an address of this machine")));
        let own = OwnPort::note(9);
        let all: DestinationSpec = serde_json::from_value(serde_json::json!({"addresses": ["0.0.0.0/0"]})).unwrap();
        let judged = Destinations::new(std::slice::from_ref(&all), Arc::default());
        assert_eq!(judged.judge("a", "1.1.1.1:9".parse().unwrap(), true, false), Err(Refusal::Own));
        drop(own);
    }

    #[test]
    fn of_many_addresses_only_so_many_are_looked_at() {
        let places = Destinations::new(&[], machine());
        let (private, public) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([1, 1, 1, 1]));
        let answer = |first: usize| [vec![private; first], vec![public; 3900]].concat();
        assert_eq!(places.choose("a", 1, answer(ADDRESSES_MAX - 1), false, false), Ok(vec![public]));
        assert_eq!(
            places.choose("a", 1, answer(ADDRESSES_MAX), false, true),
            Err(Some(Refusal::NotPublic("a private address"))),
        );
        assert_eq!(places.choose("a", 1, Vec::new(), false, false), Err(None));
    }
}
