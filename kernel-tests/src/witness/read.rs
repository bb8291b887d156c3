//! Packets taken apart, each rule with the RFC it is from.

use std::net::{IpAddr, SocketAddr};

use abi::Reason;

use super::{Claim, Flow, Kind, Past};

pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP_V6: u8 = 58;

/// Ethernet with at most one tag (IEEE 802.1Q, 802.1ad).
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub to: [u8; 6],
    pub from: [u8; 6],
    pub tag: Option<[u8; 4]>,
    pub kind: u16,
    pub length: usize,
}

impl Link {
    pub fn bytes(&self) -> Vec<u8> {
        let tag = self.tag.as_ref().map(|tag| &tag[..]).unwrap_or_default();
        [&self.to[..], &self.from, tag, &self.kind.to_be_bytes()].concat()
    }

    /// Back to who sent it.
    pub fn back(&self, kind: u16) -> Link {
        Link { to: self.from, from: self.to, kind, ..*self }
    }
}

pub fn link(frame: &[u8]) -> Result<Link, Reason> {
    let mac = |at: usize| frame.get(at..at + 6)?.try_into().ok();
    let (Some(to), Some(from), Some(kind)) = (mac(0), mac(6), number(frame, 12)) else {
        return Err(Reason::EthernetTruncated);
    };
    if kind != 0x8100 && kind != 0x88a8 {
        return Ok(Link { to, from, tag: None, kind, length: 14 });
    }
    let (Some(tag), Some(inside)) = (frame.get(12..16), number(frame, 16)) else {
        return Err(Reason::EthernetTruncated);
    };
    Ok(Link { to, from, tag: tag.try_into().ok(), kind: inside, length: 18 })
}

#[derive(Clone, Debug)]
pub struct Header {
    pub v4: bool,
    pub at: usize,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// DSCP and ECN.
    pub class: u8,
    pub protocol: u8,
    /// Of the packet, as the header says.
    pub length: usize,
    first: u8,
    /// Flags and offset of IPv4.
    fragment: u16,
}

impl Header {
    /// Of IPv4; a header of another length than 20 bytes.
    pub fn has_options(&self) -> bool {
        self.v4 && self.first != 0x45
    }

    /// RFC 791: no DF. IPv6 packets are never divided on their way (RFC 8200 section 5).
    pub fn may_be_divided(&self) -> bool {
        self.v4 && self.fragment & 0x4000 == 0
    }

    pub fn end(&self) -> usize {
        self.at + self.length
    }
}

pub fn header(frame: &[u8], link: &Link) -> Result<Header, Reason> {
    let at = link.length;
    match link.kind {
        IPV4 => {
            let Some(h) = frame.get(at..at + 20) else { return Err(Reason::Ipv4Truncated) };
            let address = |at: usize| IpAddr::from([h[at], h[at + 1], h[at + 2], h[at + 3]]);
            Ok(Header {
                v4: true,
                at,
                source: address(12),
                destination: address(16),
                class: h[1],
                protocol: h[9],
                length: usize::from(h[2]) << 8 | usize::from(h[3]),
                first: h[0],
                fragment: u16::from(h[6]) << 8 | u16::from(h[7]),
            })
        }
        IPV6 => {
            let Some(h) = frame.get(at..at + 40) else { return Err(Reason::Ipv6Truncated) };
            let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&h[at..at + 16]).expect("16 bytes"));
            Ok(Header {
                v4: false,
                at,
                source: address(8),
                destination: address(24),
                class: h[0] << 4 | h[1] >> 4,
                protocol: h[6],
                length: 40 + (usize::from(h[4]) << 8 | usize::from(h[5])),
                first: h[0],
                fragment: 0,
            })
        }
        _ => Err(Reason::NotIp),
    }
}

pub struct Tunnel {
    pub past: Past,
    pub cookie: u32,
    pub carries_v4: bool,
    pub carried_at: usize,
}

/// A tunnel in a packet to this machine; none in any other UDP, nor in what is no UDP.
pub fn tunnel(frame: &[u8], header: &Header) -> Result<Option<Tunnel>, Reason> {
    if header.protocol != UDP || header.has_options() || header.fragment & 0x1fff != 0 {
        return Ok(None);
    }
    let udp = header.at + if header.v4 { 20 } else { 40 };
    if frame.len() < udp + 8 || number(frame, udp + 2) != Some(6080) {
        return Ok(None);
    }
    let Some(gue) = frame.get(udp + 8..udp + 28) else { return Err(Reason::GueTruncated) };
    let parts = header.fragment & 0x3fff != 0;
    // Version 0, four words of options or more, the P bit and no other, ours, IPv4 or IPv6 inside.
    if parts || !(4..32).contains(&gue[0]) || gue[2..4] != [0, 1] || gue[5] != 0x57 || ![4, 41].contains(&gue[1]) {
        return Err(Reason::ForeignGue);
    }
    let hops = match gue[4] & 0x0f {
        // No machine of ours writes it, so it must go no further.
        0 => 9,
        hops => hops,
    };
    let claim = [Claim::Unasked, Claim::Nothing, Claim::TimeWait, Claim::Closing][usize::from(gue[4] >> 4 & 3)];
    let asked = [12, 14, 16, 18].map(|at| u16::from_le_bytes([gue[at], gue[at + 1]]));
    Ok(Some(Tunnel {
        past: Past { hops, claim, at: gue[4] >> 6, asked },
        cookie: u32::from_be_bytes([gue[8], gue[9], gue[10], gue[11]]),
        carries_v4: gue[1] == 4,
        // Behind all words of options, known or not.
        carried_at: udp + 8 + 4 + usize::from(gue[0]) * 4,
    }))
}

#[derive(Clone, Copy, Debug)]
pub struct Part {
    pub later: bool,
    pub id: u32,
}

/// Where what IP carries begins.
#[derive(Clone, Copy, Debug)]
pub struct Upper {
    pub protocol: u8,
    pub at: usize,
    pub part: Option<Part>,
}

pub fn upper(frame: &[u8], header: &Header) -> Result<Upper, Reason> {
    if header.v4 {
        // RFC 791 section 3.1.
        let words = usize::from(header.first & 0x0f);
        if header.first >> 4 != 4 || words < 5 || header.length < words * 4 {
            return Err(Reason::Ipv4Malformed);
        }
        if header.end() > frame.len() {
            return Err(Reason::Ipv4Truncated);
        }
        // More to come, or not the first.
        let part = (header.fragment & 0x3fff != 0).then(|| Part {
            later: header.fragment & 0x1fff != 0,
            id: number(frame, header.at + 4).unwrap_or(0).into(),
        });
        return Ok(Upper { protocol: header.protocol, at: header.at + words * 4, part });
    }
    if header.first >> 4 != 6 || header.end() > frame.len() {
        return Err(Reason::Ipv6Truncated);
    }
    // RFC 8200 section 4; six headers are looked through, and 1,024 bytes.
    let mut upper = Upper { protocol: header.protocol, at: header.at + 40, part: None };
    let mut walked = 0;
    while [0, 43, 44, 51, 60].contains(&upper.protocol) {
        if walked == 6 || upper.at > 1_024 {
            return Err(Reason::Ipv6ExtensionsTooMany);
        }
        walked += 1;
        let Some(extension) = frame.get(upper.at..upper.at + 8) else { return Err(Reason::Ipv6Truncated) };
        let words = usize::from(extension[1]);
        let mut middle = false;
        upper.at += match upper.protocol {
            44 => {
                let word = u16::from_be_bytes([extension[2], extension[3]]);
                middle = word & 0xfff8 != 0;
                let id = u32::from_be_bytes([extension[4], extension[5], extension[6], extension[7]]);
                // RFC 6946: one that is neither followed nor preceded by any is whole.
                if word & 0xfff9 != 0 || upper.part.is_some() {
                    upper.part = Some(Part { later: middle, id });
                }
                8
            }
            // RFC 4302 counts in words of four bytes, less two.
            51 => (words + 2) * 4,
            _ => (words + 1) * 8,
        };
        upper.protocol = extension[0];
        if middle {
            break;
        }
    }
    if upper.at > header.end() {
        return Err(Reason::Ipv6Truncated);
    }
    if upper.at > 1_024 {
        return Err(Reason::Ipv6ExtensionsTooMany);
    }
    Ok(upper)
}

/// The ports of a whole TCP segment or UDP datagram.
pub fn ports(frame: &[u8], header: &Header, upper: &Upper) -> Result<(Flow, Kind), Reason> {
    let least = if upper.protocol == TCP { 20 } else { 8 };
    if upper.at + least > header.end() {
        return Err(Reason::TransportTruncated);
    }
    first_ports(frame, header, upper)
}

/// The same of the first fragment, which may end behind the ports (RFC 791 section 3.2 promises eight bytes).
pub fn first_ports(frame: &[u8], header: &Header, upper: &Upper) -> Result<(Flow, Kind), Reason> {
    if upper.at + 8 > header.end() {
        return Err(Reason::TransportTruncated);
    }
    let port = |at: usize| number(frame, at).unwrap_or(0);
    let flow = Flow {
        client: SocketAddr::new(header.source, port(upper.at)),
        vip: SocketAddr::new(header.destination, port(upper.at + 2)),
        protocol: upper.protocol,
    };
    let kind = match upper.protocol {
        TCP if upper.at + 20 > header.end() => Kind::Belongs,
        // SYN without ACK (RFC 9293 section 3.1).
        TCP if frame[upper.at + 13] & 0x12 != 0x02 => Kind::Belongs,
        _ => Kind::Opens,
    };
    Ok((flow, kind))
}

pub enum Message {
    EchoRequest,
    /// About a packet of this flow.
    Error(Flow),
    Other,
}

/// ICMP (RFC 792, RFC 4443).
pub fn message(frame: &[u8], header: &Header, upper: &Upper) -> Result<Message, Reason> {
    let Some(message) = frame.get(upper.at..header.end()).filter(|message| message.len() >= 8) else {
        return Err(Reason::IcmpTruncated);
    };
    let (kind, code, quote) = (message[0], message[1], &message[8..]);
    let (request, errors): (u8, &[u8]) = if header.v4 { (8, &[3, 11, 12]) } else { (128, &[1, 2, 3, 4]) };
    if (kind, code) == (request, 0) {
        return Ok(Message::EchoRequest);
    }
    if !errors.contains(&kind) {
        return Ok(Message::Other);
    }
    let least = if header.v4 { 20 } else { 40 };
    let Some(quoted) = quote.get(..least) else { return Err(Reason::IcmpTruncated) };
    let address = |at: usize| -> IpAddr {
        match header.v4 {
            true => <[u8; 4]>::try_from(&quoted[at..at + 4]).expect("4 bytes").into(),
            false => <[u8; 16]>::try_from(&quoted[at..at + 16]).expect("16 bytes").into(),
        }
    };
    let (protocol, from, to, length, plain) = match header.v4 {
        true => {
            let words = usize::from(quoted[0] & 0x0f);
            let first = u16::from_be_bytes([quoted[6], quoted[7]]) & 0x1fff == 0;
            (quoted[9], address(12), address(16), words * 4, quoted[0] >> 4 == 4 && words >= 5 && first)
        }
        false => (quoted[6], address(8), address(24), 40, quoted[0] >> 4 == 6),
    };
    if !plain || from != header.destination || protocol != TCP && protocol != UDP {
        return Ok(Message::Other);
    }
    let Some(ports) = quote.get(length..length + 8) else { return Err(Reason::IcmpTruncated) };
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    // The packet it is about went the other way.
    Ok(Message::Error(Flow { client: SocketAddr::new(to, port(2)), vip: SocketAddr::new(from, port(0)), protocol }))
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}
