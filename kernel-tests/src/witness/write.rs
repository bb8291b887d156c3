//! Packets made: tunnels and answers, every checksum calculated from all it covers.

use std::net::IpAddr;

use super::Past;
use super::read::{Header, IPV4, IPV6, Link};
use crate::packet::{checksum, icmp};

pub struct Around {
    pub from: IpAddr,
    pub to: IpAddr,
    /// RFC 2003, RFC 2473 and RFC 4213: nothing between the two IP headers.
    pub bare: bool,
    /// None: back to the router the packet came from.
    pub next_hop: Option<[u8; 6]>,
    pub past: Past,
    pub epoch: u16,
    pub cookie: u32,
}

/// The packet of a frame in a tunnel; what the frame has behind the packet stays behind it.
pub fn tunnel(frame: &[u8], link: &Link, header: &Header, around: &Around) -> Vec<u8> {
    let v4 = around.to.is_ipv4();
    let past = &around.past;
    let mut gue = vec![4, if header.v4 { 4 } else { 41 }, 0, 1];
    gue.extend([past.hops | (past.claim as u8) << 4 | past.at << 6, 0x57]);
    gue.extend(around.epoch.to_be_bytes());
    gue.extend(around.cookie.to_be_bytes());
    past.asked.iter().for_each(|machine| gue.extend(machine.to_le_bytes()));

    let mut udp = vec![0xc0, 0];
    udp.extend(6080u16.to_be_bytes());
    udp.extend((8 + gue.len() as u16 + header.length as u16).to_be_bytes());
    // RFC 6935: none is needed around a packet that has its own.
    udp.extend([0, 0]);
    udp.extend(gue);

    let carries = if header.v4 { 4 } else { 41 };
    let protocol = if around.bare { carries } else { 17 };
    if around.bare {
        udp.clear();
    }
    let length = udp.len() + header.length;
    let mut ip = Vec::new();
    match (around.from, around.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            ip.extend([0x45, header.class]);
            ip.extend((20 + length as u16).to_be_bytes());
            // RFC 6864: what is never divided needs no identification.
            ip.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            ip.extend([from.octets(), to.octets()].concat());
            let sum = checksum(&ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            ip.extend((6u32 << 28 | u32::from(header.class) << 20).to_be_bytes());
            ip.extend((length as u16).to_be_bytes());
            ip.extend([protocol, 64]);
            ip.extend([from.octets(), to.octets()].concat());
        }
        _ => panic!("both addresses of one family"),
    }
    let mut link = Link { from: link.to, ..link.back(if v4 { IPV4 } else { IPV6 }) };
    link.to = around.next_hop.unwrap_or(link.to);
    [&link.bytes()[..], &ip, &udp, &frame[header.at..]].concat()
}

/// RFC 792, RFC 4443 section 4.2: the same data back.
pub fn echo_reply(frame: &[u8], link: &Link, header: &Header, at: usize) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let kind = if header.v4 { IPV4 } else { IPV6 };
    frame[..link.length].copy_from_slice(&link.back(kind).bytes());
    let ip = header.at;
    let (from, to, bytes) = if header.v4 { (ip + 12, ip + 16, 4) } else { (ip + 8, ip + 24, 16) };
    for byte in 0..bytes {
        frame.swap(from + byte, to + byte);
    }
    // Sums that were wrong stay wrong, so that whoever checks them sees it: each is adjusted by what changes.
    if header.v4 {
        adjust(&mut frame, ip + 8, ip + 10, |word| 64 << 8 | word & 0xff);
    } else {
        frame[ip + 7] = 64;
    }
    adjust(&mut frame, at, at + 2, |word| word & 0xff | if header.v4 { 0 } else { 129 << 8 });
    frame
}

/// RFC 1191 section 4, RFC 4443 section 3.2: the header and eight bytes of what did not fit, and the size that would.
pub fn too_big(frame: &[u8], link: &Link, header: &Header, fits: u16) -> Vec<u8> {
    let quote = &frame[header.at..header.at + if header.v4 { 20 } else { 40 } + 8];
    let [high, low] = fits.to_be_bytes();
    let (kind, code) = if header.v4 { (3, 4) } else { (2, 0) };
    let answer = icmp(header.destination, header.source, kind, code, [0, 0, high, low], quote);
    let mut packet = answer[14..].to_vec();
    if header.v4 {
        packet[4..6].fill(0);
        packet[8] = 64;
        packet[10..12].fill(0);
        let sum = checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet[7] = 64;
    }
    [link.back(if header.v4 { IPV4 } else { IPV6 }).bytes(), packet].concat()
}

/// The second step of a handshake (RFC 9293 section 3.5) with nothing but the largest segment (section 3.7.1), from a sender that does not
/// let it be taken apart.
pub fn syn_ack(link: &Link, to: [u8; 6], header: &Header, syn: &[u8], cookie: u32, most: u16) -> Vec<u8> {
    let number = u32::from_be_bytes([syn[4], syn[5], syn[6], syn[7]]);
    let mut tcp = [&syn[2..4], &syn[..2]].concat();
    tcp.extend(cookie.to_be_bytes());
    tcp.extend(number.wrapping_add(1).to_be_bytes());
    // Six words, SYN and ACK, the window.
    tcp.extend([0x60, 0x12]);
    tcp.extend(64_240u16.to_be_bytes());
    tcp.extend([0, 0, 0, 0, 2, 4]);
    tcp.extend(most.to_be_bytes());
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let ends = [octets(header.destination), octets(header.source)].concat();
    let sum = checksum(&[&ends[..], &[0, 6, 0, tcp.len() as u8], &tcp].concat());
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut ip = match header.v4 {
        true => vec![0x45, 0, 0, 20 + tcp.len() as u8, 0, 0, 0x40, 0, 64, 6, 0, 0],
        false => vec![0x60, 0, 0, 0, 0, tcp.len() as u8, 6, 64],
    };
    ip.extend(ends);
    if header.v4 {
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    let link = Link { to, ..link.back(if header.v4 { IPV4 } else { IPV6 }) };
    [link.bytes(), ip, tcp].concat()
}

/// RFC 1624 equation 3, for one word that becomes another.
fn adjust(bytes: &mut [u8], word_at: usize, sum_at: usize, change: impl Fn(u16) -> u16) {
    let word = u16::from_be_bytes([bytes[word_at], bytes[word_at + 1]]);
    let sum = u16::from_be_bytes([bytes[sum_at], bytes[sum_at + 1]]);
    let new = change(word);
    let mut total = u32::from(!sum) + u32::from(!word) + u32::from(new);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    bytes[word_at..word_at + 2].copy_from_slice(&new.to_be_bytes());
    bytes[sum_at..sum_at + 2].copy_from_slice(&(!(total as u16)).to_be_bytes());
}
