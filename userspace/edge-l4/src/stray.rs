//! A datagram that came to the wrong machine, as user space sends it to the right one: in a tunnel like those of the kernel's programs.
//! What that machine takes out of it is the packet that the client sent.

use abi::limits::HOPS_MAX;
use std::net::{IpAddr, SocketAddr};

/// A UDP datagram of a client.
#[derive(Debug, Clone, Copy)]
pub struct Datagram<'a> {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// The two bits of ECN.
    pub ecn: u8,
    pub contents: &'a [u8],
}

/// What a tunnel's datagram to [`abi::gue::PORT`] says, which is known by `cookie` to come from a machine of the cluster. `None`: the
/// addresses are of two families, or it is longer than a packet can be.
pub fn wrap(datagram: &Datagram<'_>, cookie: u32) -> Option<Vec<u8>> {
    let (from, to) = (datagram.source.ip().to_canonical(), datagram.destination.ip().to_canonical());
    let length = u16::try_from(UDP_HEADER + datagram.contents.len()).ok()?;
    let mut packet = Vec::with_capacity(abi::gue::LENGTH + IPV6_HEADER + usize::from(length));
    let (protocol, pseudo) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (4, sum(&from.octets()) + sum(&to.octets())),
        (IpAddr::V6(from), IpAddr::V6(to)) => (41, sum(&from.octets()) + sum(&to.octets())),
        _ => return None,
    };
    packet.extend([abi::gue::VERSION_AND_LENGTH, protocol]);
    packet.extend(abi::gue::FLAGS.to_be_bytes());
    // Nobody sends it further. A machine whose daemon has died sends others what comes for it, and they would send this back here, by the
    // same id, with a count that begins anew: for ever.
    packet.extend([abi::gue::pack(HOPS_MAX, abi::gue::held::UNASKED, 0), abi::gue::MAGIC, 0, 0]);
    packet.extend(cookie.to_be_bytes());
    // Nobody was asked whether he holds it.
    packet.extend([0; 8]);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let at = packet.len();
            packet.extend([0x45, datagram.ecn]);
            packet.extend(u16::try_from(IPV4_HEADER).ok()?.checked_add(length)?.to_be_bytes());
            packet.extend([0, 0, 0x40, 0, HOPS, UDP, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            let checksum = folded(sum(&packet[at..]));
            packet[at + 10..at + 12].copy_from_slice(&checksum.to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.extend((6 << 28 | u32::from(datagram.ecn) << 20).to_be_bytes());
            packet.extend(length.to_be_bytes());
            packet.extend([UDP, HOPS]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        _ => return None,
    }
    let at = packet.len();
    packet.extend(datagram.source.port().to_be_bytes());
    packet.extend(datagram.destination.port().to_be_bytes());
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend_from_slice(datagram.contents);
    // None at all is said by zero, so that this is said by its other form (RFC 768).
    let checksum = match folded(pseudo + u64::from(UDP) + u64::from(length) + sum(&packet[at..])) {
        0 => u16::MAX,
        checksum => checksum,
    };
    packet[at + 6..at + 8].copy_from_slice(&checksum.to_be_bytes());
    Some(packet)
}

/// Of half-words, the last one filled up.
fn sum(bytes: &[u8]) -> u64 {
    let half = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
    bytes.chunks(2).map(half).sum()
}

/// The ones' complement of a sum, in 16 bits.
fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// As the kernel's programs write it.
const HOPS: u8 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(source: &str, destination: &str, contents: &[u8]) -> Option<Vec<u8>> {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        wrap(&Datagram { source, destination, ecn: 2, contents }, 0x0102_0304)
    }

    #[test]
    fn what_comes_out_is_the_packet_that_was_sent() {
        let packet = wrapped("192.0.2.10:4433", "203.0.113.10:443", b"hello").unwrap();
        let (tunnel, inner) = packet.split_at(abi::gue::LENGTH);
        assert_eq!(tunnel[..8], [4, 4, 0, 1, HOPS_MAX, 0x57, 0, 0]);
        assert_eq!(tunnel[8..], [1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(inner[..4], [0x45, 2, 0, 33]);
        assert_eq!((&inner[12..16], &inner[16..20]), (&[192, 0, 2, 10][..], &[203, 0, 113, 10][..]));
        assert_eq!(folded(sum(&inner[..20])), 0, "the header's checksum");
        assert_eq!(inner[20..26], [0x11, 0x51, 1, 0xbb, 0, 13]);
        assert_eq!(&inner[28..], b"hello");
        let pseudo = sum(&inner[12..20]) + u64::from(UDP) + 13;
        assert_eq!(folded(pseudo + sum(&inner[20..])), 0, "the datagram's checksum");
    }

    #[test]
    fn of_both_families_and_never_of_two() {
        let packet = wrapped("[2001:db8::1]:4433", "[2001:db8::2]:443", b"odd").unwrap();
        let (tunnel, inner) = packet.split_at(abi::gue::LENGTH);
        assert_eq!(tunnel[1], 41);
        assert_eq!(inner[..8], [0x60, 0x20, 0, 0, 0, 11, UDP, HOPS]);
        assert_eq!(folded(sum(&inner[8..40]) + u64::from(UDP) + 11 + sum(&inner[40..])), 0);
        // A socket of both families has addresses of IPv4 within those of IPv6.
        let mapped = wrapped("[::ffff:192.0.2.10]:4433", "203.0.113.10:443", b"hello").unwrap();
        assert_eq!(Some(mapped), wrapped("192.0.2.10:4433", "203.0.113.10:443", b"hello"));
        assert_eq!(wrapped("192.0.2.10:4433", "[2001:db8::2]:443", b""), None);
        assert_eq!(wrapped("192.0.2.10:4433", "203.0.113.10:443", &[0; 65_530]), None);
    }
}
