//! Frames, made whole with right checksums, and read back.

use std::net::{IpAddr, SocketAddr};

use abi::gue;

/// Where frames of the tests come from, and where they go.
pub const FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const TO: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;

pub fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&TO[..], &FROM, &kind.to_be_bytes(), payload].concat()
}

/// With an 802.1Q tag.
pub fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0x00, 0x00, 0x2a], &frame[12..]].concat()
}

/// An Ethernet frame with an IP packet.
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, class: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let mut header = vec![0x45, class];
            header.extend((20 + payload.len() as u16).to_be_bytes());
            header.extend([0, 7, 0x40, 0, 57, protocol, 0, 0]);
            header.extend(s.octets());
            header.extend(d.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            ethernet(0x0800, &[header, payload.to_vec()].concat())
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            let mut header = (0x6000_0000u32 | u32::from(class) << 20).to_be_bytes().to_vec();
            header.extend((payload.len() as u16).to_be_bytes());
            header.extend([protocol, 57]);
            header.extend(s.octets());
            header.extend(d.octets());
            ethernet(0x86dd, &[header, payload.to_vec()].concat())
        }
        _ => panic!("both addresses of one family"),
    }
}

pub fn tcp_header(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut header = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    header.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

pub fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8, payload: usize) -> Vec<u8> {
    let mut segment = tcp_header(source.port(), destination.port(), flags);
    segment.extend((0..payload).map(|i| i as u8));
    ip(source.ip(), destination.ip(), 6, 0, &segment)
}

pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut datagram = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    ip(source.ip(), destination.ip(), 17, 0, &datagram)
}

/// The IP packet of a frame in parts, of so many bytes (a multiple of 8) but for the last one.
pub fn fragments(frame: &[u8], bytes: usize, id: u16) -> Vec<Vec<u8>> {
    let v4 = frame[12] == 0x08;
    let (header, rest) = frame[14..].split_at(if v4 { 20 } else { 40 });
    let count = rest.len().div_ceil(bytes);
    let part = |(at, part): (usize, &[u8])| {
        let (offset, more) = ((at * bytes / 8) as u16, at + 1 < count);
        let mut header = header.to_vec();
        if v4 {
            header[2..4].copy_from_slice(&(20 + part.len() as u16).to_be_bytes());
            header[4..6].copy_from_slice(&id.to_be_bytes());
            header[6..8].copy_from_slice(&(offset | u16::from(more) << 13).to_be_bytes());
            header[10..12].fill(0);
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            return ethernet(0x0800, &[&header[..], part].concat());
        }
        let mut extension = vec![header[6], 0];
        extension.extend((offset << 3 | u16::from(more)).to_be_bytes());
        extension.extend(u32::from(id).to_be_bytes());
        header[4..6].copy_from_slice(&(8 + part.len() as u16).to_be_bytes());
        header[6] = 44;
        ethernet(0x86dd, &[&header[..], &extension, part].concat())
    };
    rest.chunks(bytes).enumerate().map(part).collect()
}

/// ICMP of the addresses' family, with its checksum.
pub fn icmp(source: IpAddr, destination: IpAddr, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    message.extend(payload);
    let sum = match (source, destination) {
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            let mut pseudo = [s.octets(), d.octets()].concat();
            pseudo.extend((message.len() as u32).to_be_bytes());
            pseudo.extend([0, 0, 0, 58]);
            checksum(&[pseudo, message.clone()].concat())
        }
        _ => checksum(&message),
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip(source, destination, if source.is_ipv4() { 1 } else { 58 }, 0, &message)
}

/// The IP packet of a frame, in our tunnel. `hops` is the whole byte.
pub fn tunnel(source: IpAddr, destination: IpAddr, hops: u8, inner: &[u8]) -> Vec<u8> {
    tunnel_with(source, destination, hops, crate::world::COOKIE, inner)
}

/// The same with another cookie.
pub fn tunnel_with(source: IpAddr, destination: IpAddr, hops: u8, cookie: u32, inner: &[u8]) -> Vec<u8> {
    let protocol = if inner[12] == 0x08 { 4 } else { 41 };
    let header = [gue::VERSION_AND_LENGTH, protocol, 0, 1, hops, gue::MAGIC, 0, 9];
    let payload = [&header[..], &cookie.to_be_bytes(), &[0; 8], &inner[14..]].concat();
    udp(SocketAddr::new(source, 0xc001), SocketAddr::new(destination, gue::PORT), &payload)
}

/// A tunnel whose packet these machines were asked for, the last one first. Its checksums are not made right: there is none.
pub fn asked(tunnel: &[u8], machines: &[u16]) -> Vec<u8> {
    let mut tunnel = tunnel.to_vec();
    let at = if tunnel[12] == 0x08 { 14 + 20 } else { 14 + 40 } + 8 + 12;
    for (machine, bytes) in machines.iter().zip(tunnel[at..at + 8].chunks_exact_mut(2)) {
        bytes.copy_from_slice(&machine.to_le_bytes());
    }
    tunnel
}

/// Ones' complement checksum of RFC 1071.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A tunnel that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Tunnel {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub class: u8,
    pub source_port: u16,
    pub hops: u8,
    /// The best claim so far: a number of [`gue::held`].
    pub held: u8,
    /// Whose it is, among those asked.
    pub at: u8,
    /// Machines that were asked, the last one first.
    pub asked: [u16; 4],
    /// The packet inside.
    pub inner: Vec<u8>,
}

/// IP in IP that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Bare {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub class: u8,
    /// Of IPv6.
    pub label: u32,
    /// The packet inside.
    pub inner: Vec<u8>,
}

/// Reads a frame that must be an untagged packet in one IP header, correct in every field (RFC 2003, RFC 2473, RFC 4213).
pub fn read_bare(frame: &[u8]) -> Bare {
    let packet = &frame[14..];
    let (v4, header) = (frame[12..14] == [0x08, 0x00], if frame[12..14] == [0x08, 0x00] { 20 } else { 40 });
    let inner = packet[header..].to_vec();
    let protocol = if inner[0] >> 4 == 4 { 4 } else { 41 };
    let length = usize::from(u16::from_be_bytes(if v4 { [packet[2], packet[3]] } else { [packet[4], packet[5]] }));
    assert_eq!(length, if v4 { packet.len() } else { inner.len() });
    if v4 {
        assert_eq!(checksum(&packet[..20]), 0, "outer checksum");
        assert_eq!((packet[0], packet[8], packet[9], &packet[6..8]), (0x45, 64, protocol, &[0x40, 0][..]));
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
        return Bare { source: address(12), destination: address(16), class: packet[1], label: 0, inner };
    }
    assert_eq!((packet[0] >> 4, packet[6], packet[7]), (6, protocol, 64));
    let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
    let first = u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]]);
    let (class, label) = ((first >> 20) as u8, first & 0xf_ffff);
    Bare { source: address(8), destination: address(24), class, label, inner }
}

/// Reads a frame that must be a tunnel of ours, correct in every field.
pub fn read_tunnel(frame: &[u8]) -> Tunnel {
    let tag = if frame[12..14] == [0x81, 0] { 4 } else { 0 };
    let kind = u16::from_be_bytes([frame[12 + tag], frame[13 + tag]]);
    let packet = &frame[14 + tag..];
    let (header, source, destination, class, length): (usize, IpAddr, IpAddr, u8, usize) = match kind {
        0x0800 => {
            assert_eq!(checksum(&packet[..20]), 0, "outer checksum");
            assert_eq!((packet[0], packet[8], packet[9]), (0x45, 64, 17));
            assert_eq!(&packet[6..8], [0x40, 0], "never fragmented");
            let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
            let length = u16::from_be_bytes([packet[2], packet[3]]) as usize;
            (20, address(12), address(16), packet[1], length)
        }
        0x86dd => {
            assert_eq!((packet[0] >> 4, packet[6], packet[7]), (6, 17, 64));
            let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
            let class = (u16::from_be_bytes([packet[0], packet[1]]) >> 4) as u8;
            let length = u16::from_be_bytes([packet[4], packet[5]]) as usize + 40;
            (40, address(8), address(24), class, length)
        }
        _ => panic!("not IP: {kind:04x}"),
    };
    let udp = &packet[header..length];
    assert_eq!(u16::from_be_bytes([udp[2], udp[3]]), gue::PORT);
    assert_eq!(u16::from_be_bytes([udp[4], udp[5]]) as usize, udp.len(), "UDP length");
    assert_eq!(&udp[6..8], [0, 0], "no UDP checksum");
    assert_eq!((udp[8], &udp[10..12], udp[13]), (gue::VERSION_AND_LENGTH, &[0u8, 1][..], gue::MAGIC));
    assert_eq!(&udp[16..20], &crate::world::COOKIE.to_be_bytes(), "the cluster's cookie");
    let asked = [20, 22, 24, 26].map(|at| u16::from_le_bytes([udp[at], udp[at + 1]]));
    let inner = udp[28..].to_vec();
    assert_eq!(udp[9], if inner[0] >> 4 == 4 { 4 } else { 41 });
    let source_port = u16::from_be_bytes([udp[0], udp[1]]);
    assert!(source_port >= 0xc000);
    let packed = udp[12];
    let (hops, held, at) = (gue::hops(packed), gue::held_of(packed), gue::at(packed));
    Tunnel { source, destination, class, source_port, hops, held, at, asked, inner }
}

/// A small generator, so that a seed is the whole story of a failure (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }
}
