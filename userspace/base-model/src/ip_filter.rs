//! Addresses, prefixes, and who may come in.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An address or a prefix, `192.0.2.1` or `2001:db8::/32`. Bits beyond the prefix are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Cidr {
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let cidr = Self { address, length };
        (length <= cidr.width()).then_some(cidr)
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }
    pub fn length(&self) -> u8 {
        self.length
    }

    /// It has one address.
    pub fn is_address(&self) -> bool {
        self.length == self.width()
    }

    /// Whether there is an address in both.
    pub fn meets(&self, other: &Cidr) -> bool {
        self.contains(other.first()) || other.contains(self.first())
    }

    /// An IPv4 address written as IPv6 (`::ffff:192.0.2.1`) counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let (low, high) = self.bounds();
        ip.is_ipv4() == self.address.is_ipv4() && (low..=high).contains(&bits(ip))
    }

    /// The address without the bits behind the prefix.
    pub fn first(&self) -> IpAddr {
        let (low, _) = self.bounds();
        match self.address {
            IpAddr::V4(_) => IpAddr::from((low as u32).to_be_bytes()),
            IpAddr::V6(_) => IpAddr::from(low.to_be_bytes()),
        }
    }

    fn width(&self) -> u8 {
        if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// First and last address, as numbers.
    pub(crate) fn bounds(&self) -> (u128, u128) {
        let host = u32::from(self.width() - self.length);
        let mask = 1u128.checked_shl(host).map_or(u128::MAX, |v| v - 1);
        let low = bits(self.address) & !mask;
        (low, low | mask)
    }
}

impl From<IpAddr> for Cidr {
    fn from(address: IpAddr) -> Self {
        Self::canonical(address, if address.is_ipv4() { 32 } else { 128 })
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| "not an IP address or prefix".to_owned())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let Some(length) = length else { return Ok(Self::canonical(address, width)) };
        let plain = !length.is_empty() && length.len() <= 3 && length.bytes().all(|b| b.is_ascii_digit());
        match length.parse::<u8>() {
            Ok(length) if plain && length <= width => Ok(Self::canonical(address, length)),
            _ => Err(format!("the prefix length of {address} goes from 0 to {width}")),
        }
    }
}

impl Cidr {
    /// `::ffff:0:0/96` and longer is IPv4.
    fn canonical(address: IpAddr, length: u8) -> Self {
        match address.to_canonical() {
            v4 @ IpAddr::V4(_) if address.is_ipv6() && length >= 96 => Self { address: v4, length: length - 96 },
            _ => Self { address, length },
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if self.length < self.width() { write!(f, "/{}", self.length) } else { Ok(()) }
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Cidr {
    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "ipcidr"})
    }
}

/// Who may come in, by address. An address in both lists gets the default. A client whose address nobody knows, because a trusted
/// proxy names none that can be read, comes in only where there are no lists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IpFilterSpec {
    /// What happens to an address no list decides about, or that is in both. Default false: it may come in.
    pub block_by_default: bool,
    /// Addresses and prefixes let in. When the list is not empty, addresses outside of it are refused.
    #[serde(rename = "allowIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("uniqueItems" = true))]
    pub allow_ips: Vec<Cidr>,
    /// Addresses and prefixes refused.
    #[serde(rename = "blockIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("uniqueItems" = true))]
    pub block_ips: Vec<Cidr>,
}

impl IpFilterSpec {
    pub fn compile(&self) -> IpFilter {
        IpFilter {
            allow: CidrSet::new(&self.allow_ips),
            block: CidrSet::new(&self.block_ips),
            only_allowed: !self.allow_ips.is_empty(),
            default: !self.block_by_default,
        }
    }
}

/// An [`IpFilterSpec`] ready to run: two binary searches per question, no allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpFilter {
    allow: CidrSet,
    block: CidrSet,
    only_allowed: bool,
    default: bool,
}

impl IpFilter {
    /// `None`: the client's address is not known, and might be any. It is on no list that lets in and may be on one that keeps out:
    /// where there are lists, it stays outside.
    pub fn allows(&self, ip: Option<IpAddr>) -> bool {
        let Some(ip) = ip else { return self.default && !self.only_allowed && self.block.is_empty() };
        match (self.allow.contains(ip), self.block.contains(ip)) {
            (true, true) => self.default,
            (true, false) => true,
            (false, true) => false,
            (false, false) => !self.only_allowed && self.default,
        }
    }
}

/// A set of prefixes as sorted, disjoint ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CidrSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl CidrSet {
    pub fn new(prefixes: &[Cidr]) -> Self {
        let of = |v4: bool| {
            let mut ranges: Vec<_> = prefixes.iter().filter(|c| c.address.is_ipv4() == v4).map(Cidr::bounds).collect();
            ranges.sort_unstable();
            let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
            for (low, high) in ranges {
                match merged.last_mut() {
                    Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
                    _ => merged.push((low, high)),
                }
            }
            merged
        };
        Self { v4: of(true).into_iter().map(|(low, high)| (low as u32, high as u32)).collect(), v6: of(false) }
    }

    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => within(&self.v4, u32::from(ip)),
            IpAddr::V6(ip) => within(&self.v6, u128::from(ip)),
        }
    }
}

fn within<T: Ord + Copy>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|range| range.0 <= value);
    after > 0 && value <= ranges[after - 1].1
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn prefixes_parse_strictly() {
        for text in ["10.0.0.1", "10.0.0.1/8", "0.0.0.0/0", "2001:db8::/32", "::1", "::/0"] {
            assert!(text.parse::<Cidr>().is_ok(), "{text}");
        }
        for text in [
            "",
            "10.0.0",
            "10.0.0.1/33",
            "10.0.0.1/",
            "10.0.0.1/+8",
            "::/129",
            "010.0.0.1",
            "a",
            "10.0.0.0/8/8",
            "10.0.0.1/0x8",
        ] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
        assert_eq!(cidr("::ffff:10.0.0.1"), cidr("10.0.0.1"));
        assert_eq!(cidr("10.0.0.1/32").to_string(), "10.0.0.1");
    }

    #[test]
    fn order_of_decisions() {
        let check = |allow: &[&str], block: &[&str], block_by_default: bool, ip: &str, allowed: bool| {
            let spec = IpFilterSpec {
                block_by_default,
                allow_ips: allow.iter().map(|t| cidr(t)).collect(),
                block_ips: block.iter().map(|t| cidr(t)).collect(),
            };
            assert_eq!(spec.compile().allows(ip.parse().ok()), allowed, "{allow:?} {block:?} {block_by_default} {ip}");
        };
        check(&[], &[], false, "junk", true);
        check(&["10.0.0.0/8"], &[], true, "junk", false);
        check(&["10.0.0.0/8"], &[], false, "junk", false);
        check(&[], &["10.0.0.0/8"], false, "junk", false);
        check(&["10.0.0.0/8"], &["10.1.0.0/16"], false, "10.1.2.3", true);
        check(&["10.0.0.0/8"], &["10.1.0.0/16"], true, "10.1.2.3", false);
        check(&["10.0.0.0/8"], &[], true, "10.1.2.3", true);
        check(&[], &["10.1.0.0/16"], false, "10.1.2.3", false);
        check(&["10.0.0.0/8"], &[], false, "11.1.2.3", false);
        check(&[], &["10.0.0.0/8"], false, "11.1.2.3", true);
        check(&[], &["10.0.0.0/8"], true, "11.1.2.3", false);
        check(&[], &["10.0.0.0/8"], false, "::ffff:10.1.1.1", false);
    }

    fn any_ip() -> impl Strategy<Value = IpAddr> {
        // Few distinct bits, so that prefixes and addresses meet.
        prop_oneof![
            (0u32..64).prop_map(|n| IpAddr::from((0x0a00_0000u32 | n).to_be_bytes())),
            (0u128..64).prop_map(|n| IpAddr::from(((0x2001_0db8u128 << 96) | n).to_be_bytes())),
            any::<u32>().prop_map(|n| IpAddr::from(n.to_be_bytes())),
            any::<u128>().prop_map(|n| IpAddr::from(n.to_be_bytes())),
        ]
    }

    fn any_cidr() -> impl Strategy<Value = Cidr> {
        (any_ip(), 0u8..=12).prop_map(|(ip, cut)| {
            let width = if ip.is_ipv4() { 32u8 } else { 128 };
            format!("{ip}/{}", width - cut.min(width)).parse().unwrap()
        })
    }

    /// Bit by bit, without arithmetic on ranges.
    fn naive(cidr: &Cidr, ip: IpAddr) -> bool {
        let octets = |ip: IpAddr| match ip.to_canonical() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let (a, b) = (octets(cidr.address()), octets(ip));
        a.len() == b.len() && (0..usize::from(cidr.length())).all(|i| (a[i / 8] ^ b[i / 8]) & (0x80 >> (i % 8)) == 0)
    }

    proptest! {
        #[test]
        fn filter_equals_a_naive_model(
            allow in proptest::collection::vec(any_cidr(), 0..6),
            block in proptest::collection::vec(any_cidr(), 0..6),
            block_by_default in any::<bool>(),
            ip in any_ip(),
        ) {
            let spec = IpFilterSpec { block_by_default, allow_ips: allow.clone(), block_ips: block.clone() };
            let in_allow = allow.iter().any(|c| naive(c, ip));
            let in_block = block.iter().any(|c| naive(c, ip));
            let expected = match (in_allow, in_block) {
                (true, true) => !block_by_default,
                (true, false) => true,
                (false, true) => false,
                (false, false) => allow.is_empty() && !block_by_default,
            };
            prop_assert_eq!(spec.compile().allows(Some(ip)), expected);
            for c in allow.iter().chain(&block) {
                prop_assert_eq!(c.contains(ip), naive(c, ip));
                prop_assert_eq!(c.to_string().parse::<Cidr>().unwrap(), *c);
            }
        }
    }
}
