//! ICMP of both families: answer echo, find out which flow an error is about, say that a packet is too big.

use abi::{Address, Reason};

use crate::ethernet::{Ethernet, IPV4, IPV6, Send};
use crate::flow::Flow;
use crate::gue::{DO_NOT_FRAGMENT, TTL, checksum_v4, fold_checksum};
use crate::ip::{HEADER_V4, HEADER_V6, ICMP, ICMP_V6, Ip, TCP, Transport, UDP};
use crate::{Frame, Window};

/// What an ICMP message to a VIP asks for.
#[derive(Clone, Copy, Debug)]
pub enum Message {
    EchoRequest,
    /// About a packet of this flow, named as its own packets would be: from the client to the VIP.
    Error(Flow),
    /// An error about something that is no flow of the VIP.
    ErrorElsewhere,
    Other,
}

#[inline(always)]
pub fn read(frame: &impl Frame, ip: &Ip, transport: &Transport) -> Result<Message, Reason> {
    let Some(w) = frame.window::<HEADER>(transport.at) else { return Err(Reason::IcmpTruncated) };
    if transport.at + HEADER > ip.at + ip.length {
        return Err(Reason::IcmpTruncated);
    }
    let kind = w.u8(0);
    if ip.v4 {
        match kind {
            8 if w.u8(1) == 0 => Ok(Message::EchoRequest),
            UNREACHABLE_V4 | TIME_EXCEEDED_V4 | PARAMETER_V4 => quote_v4(frame, ip, transport.at + HEADER),
            _ => Ok(Message::Other),
        }
    } else {
        match kind {
            128 if w.u8(1) == 0 => Ok(Message::EchoRequest),
            // Unreachable, packet too big, time exceeded, parameter problem.
            1..=4 => quote_v6(frame, ip, transport.at + HEADER),
            _ => Ok(Message::Other),
        }
    }
}

/// The eight bytes of transport header that RFC 792 promises hold both ports; no more is asked for.
#[inline(always)]
fn quote_v4(frame: &impl Frame, ip: &Ip, at: usize) -> Result<Message, Reason> {
    let Some(w) = frame.window::<HEADER_V4>(at) else { return Err(Reason::IcmpTruncated) };
    if at + HEADER_V4 > ip.at + ip.length {
        return Err(Reason::IcmpTruncated);
    }
    let header = (w.u8(0) & 0x0f) as usize * 4;
    let protocol = w.u8(9);
    let source = Address::from_v4_raw(w.u32_raw(12));
    let later_fragment = w.u16(6) & 0x1fff != 0;
    if w.u8(0) >> 4 != 4
        || header < HEADER_V4
        || later_fragment
        || source != ip.destination
        || (protocol != TCP && protocol != UDP)
    {
        return Ok(Message::ErrorElsewhere);
    }
    let client = Address::from_v4_raw(w.u32_raw(16));
    quoted_ports(frame, ip, at + header, protocol, client)
}

#[inline(always)]
fn quote_v6(frame: &impl Frame, ip: &Ip, at: usize) -> Result<Message, Reason> {
    let Some(w) = frame.window::<HEADER_V6>(at) else { return Err(Reason::IcmpTruncated) };
    if at + HEADER_V6 > ip.at + ip.length {
        return Err(Reason::IcmpTruncated);
    }
    let protocol = w.u8(6);
    let source = Address([w.u32_raw(8), w.u32_raw(12), w.u32_raw(16), w.u32_raw(20)]);
    if w.u8(0) >> 4 != 6 || source != ip.destination || (protocol != TCP && protocol != UDP) {
        return Ok(Message::ErrorElsewhere);
    }
    let client = Address([w.u32_raw(24), w.u32_raw(28), w.u32_raw(32), w.u32_raw(36)]);
    quoted_ports(frame, ip, at + HEADER_V6, protocol, client)
}

#[inline(always)]
fn quoted_ports(frame: &impl Frame, ip: &Ip, at: usize, protocol: u8, client: Address) -> Result<Message, Reason> {
    let Some(w) = frame.window::<QUOTED_TRANSPORT>(at) else { return Err(Reason::IcmpTruncated) };
    if at + QUOTED_TRANSPORT > ip.at + ip.length {
        return Err(Reason::IcmpTruncated);
    }
    Ok(Message::Error(Flow {
        v4: ip.v4,
        protocol,
        source: client,
        destination: ip.destination,
        source_port: w.u16(2),
        destination_port: w.u16(0),
    }))
}

/// Turns an echo request into its reply, in place. Swapped addresses leave every checksum as it was; only the message
/// type and the time to live change.
#[inline(always)]
pub fn answer_echo(frame: &impl Frame, link: &Ethernet, ip: &Ip, transport: &Transport) -> Result<(), Reason> {
    let Some(m) = frame.window::<HEADER>(transport.at) else { return Err(Reason::IcmpTruncated) };
    let kind = if ip.v4 { IPV4 } else { IPV6 };
    if !link.write(frame, kind, Send::Back) {
        return Err(Reason::EthernetTruncated);
    }
    let (s, d) = (&ip.source.0, &ip.destination.0);
    let (request, reply) = if ip.v4 { (0x0800, 0x0000) } else { (0x8000, 0x8100) };
    m.put_u8(0, (reply >> 8) as u8);
    m.put_u16(2, adjust_checksum(m.u16(2), request, reply));
    if ip.v4 {
        let Some(w) = frame.window::<HEADER_V4>(ip.at) else { return Err(Reason::Ipv4Truncated) };
        let before = w.u16(8);
        let after = before & 0x00ff | (TTL as u16) << 8;
        w.put_u16(8, after);
        w.put_u16(10, adjust_checksum(w.u16(10), before, after));
        w.put_u32_raw(12, d[3]);
        w.put_u32_raw(16, s[3]);
    } else {
        let Some(w) = frame.window::<HEADER_V6>(ip.at) else { return Err(Reason::Ipv6Truncated) };
        w.put_u8(7, TTL);
        write_addresses_v6(w, d, s);
    }
    Ok(())
}

/// Turns a packet that would not fit its tunnel into the answer that names the size that fits: RFC 1191 and RFC 8201.
/// The offender's header and first eight bytes stay where they are and become the quote.
#[inline(always)]
pub fn answer_too_big(frame: &mut impl Frame, link: &Ethernet, ip: &Ip, mtu: u16) -> Result<(), Reason> {
    if ip.v4 {
        const ADDED: usize = HEADER_V4 + HEADER;
        const QUOTE: usize = HEADER_V4 + QUOTED_TRANSPORT;
        if !ip.is_plain() {
            return Err(Reason::TooBigDropped);
        }
        let Some(w) = frame.window::<HEADER_V4>(link.length) else { return Err(Reason::Ipv4Truncated) };
        let (source, destination) = (w.u32_raw(16), w.u32_raw(12));
        if !frame.push_head(ADDED) || !frame.truncate(link.length + ADDED + QUOTE) {
            return Err(Reason::HeadroomMissing);
        }
        if !link.write(frame, IPV4, Send::Back) {
            return Err(Reason::HeadroomMissing);
        }
        let Some(w) = frame.window::<{ ADDED + QUOTE }>(link.length) else { return Err(Reason::HeadroomMissing) };
        let length = (ADDED + QUOTE) as u16;
        w.put_u16(0, 0x4500);
        w.put_u16(2, length);
        w.put_u16(4, 0);
        w.put_u16(6, DO_NOT_FRAGMENT);
        w.put_u8(8, TTL);
        w.put_u8(9, ICMP);
        w.put_u16_raw(10, checksum_v4(0, length, ICMP, source, destination));
        w.put_u32_raw(12, source);
        w.put_u32_raw(16, destination);
        w.put_u16(20, (UNREACHABLE_V4 as u16) << 8 | FRAGMENTATION_NEEDED);
        w.put_u16(22, 0);
        w.put_u16(24, 0);
        w.put_u16(26, mtu);
        let sum = sum_words::<{ (HEADER + QUOTE) / 4 }>(w, HEADER_V4);
        w.put_u16_raw(22, fold_checksum(fold_sum(sum)));
    } else {
        const ADDED: usize = HEADER_V6 + HEADER;
        const QUOTE: usize = HEADER_V6 + QUOTED_TRANSPORT;
        let Some(w) = frame.window::<HEADER_V6>(link.length) else { return Err(Reason::Ipv6Truncated) };
        let source = [w.u32_raw(24), w.u32_raw(28), w.u32_raw(32), w.u32_raw(36)];
        let destination = [w.u32_raw(8), w.u32_raw(12), w.u32_raw(16), w.u32_raw(20)];
        if !frame.push_head(ADDED) || !frame.truncate(link.length + ADDED + QUOTE) {
            return Err(Reason::HeadroomMissing);
        }
        if !link.write(frame, IPV6, Send::Back) {
            return Err(Reason::HeadroomMissing);
        }
        let Some(w) = frame.window::<{ ADDED + QUOTE }>(link.length) else { return Err(Reason::HeadroomMissing) };
        let payload = (HEADER + QUOTE) as u16;
        w.put_u16(0, 0x6000);
        w.put_u16(2, 0);
        w.put_u16(4, payload);
        w.put_u8(6, ICMP_V6);
        w.put_u8(7, TTL);
        write_addresses_v6(w, &source, &destination);
        w.put_u16(40, 0x0200);
        w.put_u16(42, 0);
        w.put_u16(44, 0);
        w.put_u16(46, mtu);
        // The pseudo header: both addresses, the length and the next header.
        let mut sum = sum_words::<{ (HEADER + QUOTE) / 4 }>(w, HEADER_V6) + sum_words::<8>(w, 8);
        sum += (payload.to_be() as u64) + ((ICMP_V6 as u16).to_be() as u64);
        w.put_u16_raw(42, fold_checksum(fold_sum(sum)));
    }
    Ok(())
}

/// Whether nothing may be answered to this ICMP message: it is an error itself (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
#[inline(always)]
pub fn is_error(message: &Message) -> bool {
    matches!(message, Message::Error(_) | Message::ErrorElsewhere)
}

#[inline(always)]
pub fn write_addresses_v6(w: impl Window, source: &[u32; 4], destination: &[u32; 4]) {
    w.put_u32_raw(8, source[0]);
    w.put_u32_raw(12, source[1]);
    w.put_u32_raw(16, source[2]);
    w.put_u32_raw(20, source[3]);
    w.put_u32_raw(24, destination[0]);
    w.put_u32_raw(28, destination[1]);
    w.put_u32_raw(32, destination[2]);
    w.put_u32_raw(36, destination[3]);
}

#[inline(always)]
fn sum_words<const N: usize>(w: impl Window, at: usize) -> u64 {
    let mut sum = 0u64;
    let mut i = 0;
    while i < N {
        sum += w.u32_raw(at + i * 4) as u64;
        i += 1;
    }
    sum
}

#[inline(always)]
fn fold_sum(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) as u32 + (sum >> 16) as u32
}

/// RFC 1624, equation 3.
#[inline(always)]
fn adjust_checksum(checksum: u16, before: u16, after: u16) -> u16 {
    fold_checksum(!checksum as u32 + !before as u32 + after as u32)
}

pub const HEADER: usize = 8;
const QUOTED_TRANSPORT: usize = 8;
const UNREACHABLE_V4: u8 = 3;
const TIME_EXCEEDED_V4: u8 = 11;
const PARAMETER_V4: u8 = 12;
const FRAGMENTATION_NEEDED: u16 = 4;
