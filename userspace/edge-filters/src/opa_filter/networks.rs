//! `net.cidr_*`: networks in CIDR notation, v4 and v6.

use super::builtins::{LIST_MAX, text};
use regorus::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What an address without a prefix is.
#[derive(Clone, Copy, PartialEq)]
enum Alone {
    /// None: it is refused.
    Refused,
    /// A network of one address.
    Host,
    /// In OPA's `net.cidr_merge`, which takes Go's `DefaultMask`: the network of its class (RFC 791), which only v4 has.
    Class,
}

/// A network: whether it is v6, its first address and the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Network {
    six: bool,
    first: u128,
    prefix: u32,
}

impl Network {
    /// `10.0.0.0/8`, or an address alone.
    fn parse(text: &str, alone: Alone) -> Option<Network> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None if alone == Alone::Refused => return None,
            None => (text, None),
        };
        let (six, bits) = match address.parse().ok()? {
            IpAddr::V4(ip) => (false, u128::from(ip.to_bits())),
            IpAddr::V6(ip) => (true, ip.to_bits()),
        };
        let width = if six { 128 } else { 32 };
        let prefix = match prefix {
            None if alone == Alone::Class => class_prefix((!six).then_some(bits as u32)?),
            None => width,
            Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok().filter(|p| *p <= width)?,
            Some(_) => return None,
        };
        let mut network = Network { six, first: bits, prefix };
        network.first &= !network.rest();
        Some(network)
    }

    fn width(&self) -> u32 {
        if self.six { 128 } else { 32 }
    }

    /// Ones where its addresses differ.
    fn rest(&self) -> u128 {
        let bits = self.width() - self.prefix;
        if bits == 128 { u128::MAX } else { (1 << bits) - 1 }
    }

    fn last(&self) -> u128 {
        self.first | self.rest()
    }

    fn contains(&self, other: &Network) -> bool {
        self.six == other.six && self.first <= other.first && other.last() <= self.last()
    }

    fn text(&self, bits: u128) -> String {
        if self.six { IpAddr::V6(bits.into()).to_string() } else { IpAddr::V4((bits as u32).into()).to_string() }
    }
}

/// The length of the prefix of the class an address is in.
fn class_prefix(address: u32) -> u32 {
    match address.leading_ones() {
        0 => 8,
        1 => 16,
        _ => 24,
    }
}

pub(super) fn is_valid(args: &[Value]) -> Option<Value> {
    Some(Value::from(Network::parse(text(&args[0])?, Alone::Refused).is_some()))
}

pub(super) fn contains(args: &[Value]) -> Option<Value> {
    let (network, other) =
        (Network::parse(text(&args[0])?, Alone::Refused)?, Network::parse(text(&args[1])?, Alone::Host)?);
    Some(Value::from(network.contains(&other)))
}

pub(super) fn intersects(args: &[Value]) -> Option<Value> {
    let (one, other) =
        (Network::parse(text(&args[0])?, Alone::Refused)?, Network::parse(text(&args[1])?, Alone::Refused)?);
    Some(Value::from(one.contains(&other) || other.contains(&one)))
}

/// Pairs of keys of two collections whose networks contain each other. Of a text the key is the text, of a list the index, of an object its
/// keys; in lists of lists the network comes first.
pub(super) fn contains_matches(args: &[Value]) -> Option<Value> {
    let (networks, others) = (keyed(&args[0], Alone::Refused)?, keyed(&args[1], Alone::Host)?);
    if networks.len() as u64 * others.len() as u64 > LIST_MAX * 16 {
        return None;
    }
    let mut found = BTreeSet::new();
    for (key, network) in &networks {
        for (other_key, other) in &others {
            if network.contains(other) {
                found.insert(Value::from(vec![key.clone(), other_key.clone()]));
            }
        }
    }
    Some(Value::from(found))
}

fn keyed(value: &Value, alone: Alone) -> Option<Vec<(Value, Network)>> {
    let network = |value: &Value| match value {
        Value::Array(parts) => Network::parse(text(parts.first()?)?, alone),
        value => Network::parse(text(value)?, alone),
    };
    match value {
        Value::String(_) => Some(vec![(value.clone(), network(value)?)]),
        Value::Array(all) => all.iter().enumerate().map(|(n, v)| Some((Value::from(n), network(v)?))).collect(),
        Value::Set(all) => all.iter().map(|v| Some((v.clone(), network(v)?))).collect(),
        Value::Object(all) => all.iter().map(|(key, v)| Some((key.clone(), network(v)?))).collect(),
        _ => None,
    }
}

/// The fewest networks that have the same addresses. An address alone stands for the network of its class, as in OPA.
pub(super) fn merge(args: &[Value]) -> Option<Value> {
    let mut networks: Vec<Network> = keyed(&args[0], Alone::Class)?.into_iter().map(|(_, network)| network).collect();
    networks.sort();
    let mut merged: Vec<Network> = Vec::new();
    for network in networks {
        if merged.last().is_some_and(|last| last.contains(&network)) {
            continue;
        }
        merged.push(network);
        // Two halves are a whole, and that may be a half again.
        while let [.., a, b] = merged[..] {
            let whole = Network { prefix: a.prefix.saturating_sub(1), ..a };
            let halves = a.six == b.six && a.prefix == b.prefix && a.prefix > 0 && whole.first & whole.rest() == 0;
            if !halves || b.last() != whole.last() || b.first != a.last().wrapping_add(1) {
                break;
            }
            merged.truncate(merged.len() - 2);
            merged.push(whole);
        }
    }
    let texts = merged.iter().map(|n| Value::from(format!("{}/{}", n.text(n.first), n.prefix)));
    Some(Value::from(texts.collect::<BTreeSet<_>>()))
}

/// Every address of a network that has no more than 65,536.
pub(super) fn expand(args: &[Value]) -> Option<Value> {
    let network = Network::parse(text(&args[0])?, Alone::Refused)?;
    if network.rest() >= u128::from(LIST_MAX) {
        return None;
    }
    let all = (network.first..=network.last()).map(|bits| Value::from(network.text(bits)));
    Some(Value::from(all.collect::<BTreeSet<_>>()))
}
