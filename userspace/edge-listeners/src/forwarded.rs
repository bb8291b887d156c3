//! Who asks, where proxies stand in between: X-Forwarded-For and its kin, read and written.
//!
//! Each proxy adds the address its connection came from at the end of the list, so a list is worth as much as whoever wrote its
//! end. It is read from there: past the hops that are trusted, up to the first that is not, which is the client. What stands
//! before that one is the client's own invention. A hop that cannot be read (`unknown`, `_hidden`, junk) is still the place where
//! the client stood: it is nobody known, and never the proxy that said so.

use base_model::ip_filter::CidrSet;
use base_telemetry::access_log::write_ip;
use proto_http::{Headers, Known};
use std::net::{IpAddr, Ipv6Addr};

/// Room for the longest address and what stands before it in a list.
const HOP_BYTES: usize = 48;

/// The client's own address, `None` where nobody knows it: the peer's, or, of a peer that is trusted, what it says. There it is the
/// last hop that is not trusted, or the first of all where all are.
pub fn real_ip(headers: &Headers, peer: IpAddr, trusted: &CidrSet) -> Option<IpAddr> {
    let peer = peer.to_canonical();
    if !trusted.contains(peer) {
        return Some(peer);
    }
    let mut client = None;
    let lines: Vec<&[u8]> = headers.known_all(Known::XForwardedFor).collect();
    for hop in lines.iter().rev().flat_map(|line| elements(line).rev()) {
        let ip = address(hop)?;
        client = Some(ip);
        if !trusted.contains(ip) {
            break;
        }
    }
    match (client, headers.value("X-Real-IP").map(<[u8]>::trim_ascii)) {
        (None, Some(said)) if !said.is_empty() => address(said),
        (found, _) => found.or(Some(peer)),
    }
}

/// The scheme the client sees, where a trusted peer says it. Of a list the end is what the peer itself has seen.
pub fn scheme(headers: &Headers, peer: IpAddr, trusted: &CidrSet) -> Option<&'static str> {
    if !trusted.contains(peer) {
        return None;
    }
    let said = headers.values("X-Forwarded-Proto").flat_map(elements).last()?;
    ["http", "https"].into_iter().find(|known| said.eq_ignore_ascii_case(known.as_bytes()))
}

/// The list a backend is told: all lines of X-Forwarded-For as one, and the connection's peer at its end, whatever stands before.
pub fn with_peer(headers: &Headers, peer: IpAddr, separator: &str) -> Vec<u8> {
    let lines = || headers.known_all(Known::XForwardedFor).map(trimmed).filter(|line| !line.is_empty());
    let mut list = Vec::with_capacity(lines().map(|line| line.len() + separator.len()).sum::<usize>() + HOP_BYTES);
    for line in lines() {
        list.extend_from_slice(line);
        list.extend_from_slice(separator.as_bytes());
    }
    write_ip(peer.to_canonical(), &mut list);
    list
}

/// The elements of a list that are not empty, which mean nothing (RFC 9110 section 5.6.1).
fn elements(line: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    line.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// A line without what is empty at its ends.
fn trimmed(line: &[u8]) -> &[u8] {
    let of_an_element = |b: &u8| !matches!(b, b' ' | b'\t' | b',');
    match (line.iter().position(of_an_element), line.iter().rposition(of_an_element)) {
        (Some(first), Some(last)) => &line[first..=last],
        _ => &[],
    }
}

/// The address of a hop, as proxies, balancers and CDNs write it: bare or in quotes, IPv6 with brackets or without, with a port or
/// without, with a zone that means something to its writer alone.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let hop = std::str::from_utf8(hop).ok()?;
    let hop = match hop.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"')?,
        None => hop,
    };
    let v6 = |text: &str| text.split('%').next()?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let ip = if let Some(rest) = hop.strip_prefix('[') {
        let (inner, after) = rest.split_once(']')?;
        match after.strip_prefix(':') {
            Some(port) if is_port(port) => v6(inner)?,
            None if after.is_empty() => v6(inner)?,
            _ => return None,
        }
    } else if let Some((ip, port)) = hop.split_once(':').filter(|(ip, _)| ip.contains('.')) {
        if !is_port(port) {
            return None;
        }
        IpAddr::V4(ip.parse().ok()?)
    } else {
        hop.parse().ok().or_else(|| v6(hop))?
    };
    Some(ip.to_canonical())
}

/// A number, or a name that hides one (RFC 7239 section 6.3).
fn is_port(text: &str) -> bool {
    let hidden =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    match text.strip_prefix('_') {
        Some(name) => hidden(name),
        None => text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops() {
        for (hop, expected) in [
            ("203.0.113.7", Some("203.0.113.7")),
            ("203.0.113.7:1", Some("203.0.113.7")),
            ("203.0.113.7:_gw-1", Some("203.0.113.7")),
            ("::ffff:203.0.113.7", Some("203.0.113.7")),
            ("[::ffff:203.0.113.7]:65535", Some("203.0.113.7")),
            ("2001:db8::7", Some("2001:db8::7")),
            ("2001:DB8:0:0:0:0:0:7", Some("2001:db8::7")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("[fe80::1%25eth0]:80", Some("fe80::1")),
            ("\"203.0.113.7:80\"", Some("203.0.113.7")),
            ("::1", Some("::1")),
            ("", None),
            ("\"", None),
            ("\"203.0.113.7", None),
            ("203.0.113.7:", None),
            ("203.0.113.7:+80", None),
            ("203.0.113.7:65536", None),
            ("203.0.113.7:80:80", None),
            ("203.0.113.07", None),
            ("203.0.113", None),
            ("[203.0.113.7]", None),
            ("[2001:db8::7]443", None),
            ("[2001:db8::7]:", None),
            ("[[2001:db8::7]]", None),
            ("2001:db8::7]", None),
            ("203.0.113.7%eth0", None),
            ("203.0.113.7/24", None),
            ("unknown", None),
            ("_hidden", None),
            ("localhost", None),
        ] {
            assert_eq!(address(hop.as_bytes()), expected.map(|ip| ip.parse().unwrap()), "{hop}");
        }
        assert_eq!(address(b"203.0.113.7\xff"), None);
    }
}
