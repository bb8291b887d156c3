//! The tunnel: wrap a packet for another machine, recognise and unwrap what another machine sent.

use abi::gue::{Asked, FLAGS, LENGTH, LENGTH_BITS, MAGIC, OVERHEAD_V4, OVERHEAD_V6, PORT, VERSION_AND_LENGTH};
use abi::{Machine, Reason, SenderKey, Settings};

use crate::ethernet::{Ethernet, HEADER, IPV4, IPV6, Send};
use crate::icmp::write_addresses_v6;
use crate::ip::{HEADER_V4, HEADER_V6, Ip, UDP};
use crate::{Frame, Live, Tables, Window};

/// A tunnel header that was recognised.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel {
    /// Tunnels the packet has been through, and the best claim so far, as [`abi::gue::pack`] has them.
    pub packed: u8,
    /// Machines that were asked.
    pub asked: Asked,
    /// Ethernet type of what it carries.
    pub inner: u16,
    /// Bytes between the Ethernet header and the inner packet.
    pub length: usize,
}

/// Everything about a tunnel to be, besides the two machines.
#[derive(Clone, Copy, Debug)]
pub struct Wrap {
    pub v4: bool,
    pub class: u8,
    /// Length of the packet to carry, without padding of the frame.
    pub length: usize,
    /// Different for different connections; becomes the source port.
    pub entropy: u32,
    /// As [`abi::gue::pack`] has it.
    pub packed: u8,
    pub asked: Asked,
    pub epoch: u16,
}

/// Whether the packet is UDP to our own address, to our port: nothing else may be a tunnel.
#[inline(always)]
pub fn is_candidate(ip: &Ip, settings: &Settings) -> bool {
    if ip.protocol != UDP || !ip.is_plain() || ip.is_later_fragment_v4() {
        return false;
    }
    let own = if ip.v4 { &settings.own_v4 } else { &settings.own_v6 };
    ip.destination == *own && !own.is_unspecified()
}

/// Reads the headers behind the outer IP header. `Ok(None)`: UDP of somebody else. Nothing of what is carried is looked at before it
/// is known to come from a machine of the cluster: by the address, and by the cookie, which nobody outside can see.
#[inline(always)]
pub fn recognise(
    frame: &impl Frame,
    outer: &Ip,
    live: &Live<'_>,
    tables: &impl Tables,
) -> Result<Option<Tunnel>, Reason> {
    let header = if outer.v4 { HEADER_V4 } else { HEADER_V6 };
    let Some(w) = frame.window::<UDP_HEADER>(outer.at + header) else { return Ok(None) };
    if w.u16(2) != PORT {
        return Ok(None);
    }
    let Some(w) = frame.window::<{ UDP_HEADER + LENGTH }>(outer.at + header) else {
        return Err(Reason::GueTruncated);
    };
    let (version_and_length, protocol) = (w.u8(8), w.u8(9));
    let ours = !outer.is_fragment_v4()
        && version_and_length & !LENGTH_BITS == VERSION_AND_LENGTH & !LENGTH_BITS
        && version_and_length >= VERSION_AND_LENGTH
        && w.u16(10) == FLAGS
        && w.u8(13) == MAGIC
        && (protocol == PROTOCOL_IPV4 || protocol == PROTOCOL_IPV6);
    if !ours {
        return Err(Reason::ForeignGue);
    }
    let (packed, cookie) = (w.u8(12), w.u32_raw(16));
    let asked = Asked(w.u32_raw(20) as u64 | (w.u32_raw(24) as u64) << 32);
    // Word by word: of IPv4 the verifier knows three of the four, and would go on with that knowledge to the end.
    let address = abi::Address(outer.source.0.map(|word| tables.forget(word as usize) as u32));
    if tables.sender(&SenderKey { address, generation: live.switch.generation() }) == 0 {
        return Err(Reason::GueSenderUnknown);
    }
    let settings = live.settings;
    let known = cookie == settings.cookie || cookie == settings.cookies[0] || cookie == settings.cookies[1];
    if tables.forget((known && cookie != 0) as usize) == 0 {
        return Err(Reason::GueCookieWrong);
    }
    // What a newer machine has put behind is passed over.
    let more = (version_and_length - VERSION_AND_LENGTH) as usize * 4;
    let length = tables.forget(header + UDP_HEADER + LENGTH + more);
    let (inner, least) = if protocol == PROTOCOL_IPV4 { (IPV4, HEADER_V4) } else { (IPV6, HEADER_V6) };
    if outer.at + length + least > frame.len() {
        return Err(Reason::GueTruncated);
    }
    Ok(Some(Tunnel { packed, asked, inner, length }))
}

/// Takes the tunnel off; the frame then looks as if it had come from the link.
#[inline(always)]
pub fn unwrap(frame: &mut impl Frame, link: &Ethernet, tunnel: &Tunnel) -> bool {
    frame.pull_head(tunnel.length) && link.write(frame, tunnel.inner, Send::Keep)
}

/// With all that can be said beforehand of tunnels to it: `own` are this machine's addresses, IPv4 and IPv6.
pub fn prepared(machine: Machine, own: [abi::Address; 2]) -> Machine {
    let v4 = machine.address.is_v4();
    let own = if v4 { own[0] } else { own[1] };
    let mut flags = machine.flags;
    flags |= if v4 { Machine::OVER_V4 } else { 0 };
    flags |= if own.is_unspecified() { 0 } else { Machine::REACHABLE };
    let sum = |source: u32| sum_v4(UDP, source, machine.address.v4_raw());
    let (own_v4, sum_v4) = if v4 { (own.v4_raw(), sum(own.v4_raw())) } else { (0, 0) };
    Machine { flags, own_v4, sum_v4, ..machine }
}

/// Bytes a tunnel to this machine adds.
#[inline(always)]
pub fn overhead(to: &Machine) -> usize {
    if is_over_v4(to) { OVERHEAD_V4 } else { OVERHEAD_V6 }
}

#[inline(always)]
fn is_over_v4(to: &Machine) -> bool {
    to.flags & Machine::OVER_V4 != 0
}

/// Puts a tunnel to `to` around the packet and addresses the frame.
#[inline(always)]
pub fn wrap(
    frame: &mut impl Frame,
    link: &Ethernet,
    settings: &Settings,
    to: &Machine,
    wrap: &Wrap,
) -> Result<(), Reason> {
    if to.flags & Machine::REACHABLE == 0 {
        return Err(Reason::NoOwnAddress);
    }
    let send = Send::to(to);
    if is_over_v4(to) {
        if !frame.push_head(OVERHEAD_V4) || !link.write(frame, IPV4, send) {
            return Err(Reason::HeadroomMissing);
        }
        let Some(w) = frame.window::<OVERHEAD_V4>(link.length) else { return Err(Reason::HeadroomMissing) };
        write_v4(w, 0, settings, to, wrap);
    } else {
        if !frame.push_head(OVERHEAD_V6) || !link.write(frame, IPV6, send) {
            return Err(Reason::HeadroomMissing);
        }
        let Some(w) = frame.window::<OVERHEAD_V6>(link.length) else { return Err(Reason::HeadroomMissing) };
        write_v6(w, 0, settings, to, wrap);
    }
    Ok(())
}

/// The same of a frame without a tag, to a machine that is reachable.
#[inline(always)]
pub fn wrap_untagged(frame: &mut impl Frame, settings: &Settings, to: &Machine, wrap: &Wrap) -> Result<(), Reason> {
    let send = Send::to(to);
    if is_over_v4(to) {
        if !frame.push_head(OVERHEAD_V4) {
            return Err(Reason::HeadroomMissing);
        }
        let Some(w) = frame.start::<{ OVERHEAD_V4 + HEADER }>() else { return Err(Reason::HeadroomMissing) };
        Ethernet::move_up(w, OVERHEAD_V4, IPV4, send);
        write_v4(w, HEADER, settings, to, wrap);
    } else {
        if !frame.push_head(OVERHEAD_V6) {
            return Err(Reason::HeadroomMissing);
        }
        let Some(w) = frame.start::<{ OVERHEAD_V6 + HEADER }>() else { return Err(Reason::HeadroomMissing) };
        Ethernet::move_up(w, OVERHEAD_V6, IPV6, send);
        write_v6(w, HEADER, settings, to, wrap);
    }
    Ok(())
}

/// All of a tunnel over IPv4, `at` in the window: as [`write_outer_v4`] has its header, in words of which most are known beforehand.
#[inline(always)]
fn write_v4(w: impl Window, at: usize, settings: &Settings, to: &Machine, wrap: &Wrap) {
    let datagram = UDP_HEADER + LENGTH + wrap.length;
    let length = ((HEADER_V4 + datagram) as u16).to_be() as u32;
    let first = 0x45 | (wrap.class as u32) << 8;
    let checksum = fold_checksum(to.sum_v4 + (first - 0x45) + length);
    w.put_u32_raw(at, first | length << 16);
    let [flags, fate] = unchanging(UDP);
    w.put_u64_raw(at + 4, (flags as u64) << 16 | (fate as u64) << 32 | (checksum as u64) << 48);
    w.put_u32_raw(at + 12, to.own_v4);
    w.put_u32_raw(at + 16, to.address.v4_raw());
    write_udp_gue(w, at + HEADER_V4, datagram, settings.cookie, wrap);
}

/// The same over IPv6.
#[inline(always)]
fn write_v6(w: impl Window, at: usize, settings: &Settings, to: &Machine, wrap: &Wrap) {
    let datagram = UDP_HEADER + LENGTH + wrap.length;
    let traffic = (0x6000 | (wrap.class as u16) << 4).to_be() as u64;
    let length = (datagram as u16).to_be() as u64;
    w.put_u64_raw(at, traffic | length << 32 | (UDP as u64) << 48 | (TTL as u64) << 56);
    let (own, address) = (&settings.own_v6.0, &to.address.0);
    let mut i = 0;
    while i < 4 {
        w.put_u32_raw(at + 8 + i * 4, own[i]);
        w.put_u32_raw(at + 24 + i * 4, address[i]);
        i += 1;
    }
    write_udp_gue(w, at + HEADER_V6, datagram, settings.cookie, wrap);
}

/// The header around a packet: `length` is of both together.
#[inline(always)]
pub fn write_outer_v4(w: impl Window, class: u8, length: u16, protocol: u8, source: u32, destination: u32) {
    w.put_u8(0, 0x45);
    w.put_u8(1, class);
    w.put_u16(2, length);
    // Never fragmented (RFC 6864 section 4.1: the identification then means nothing).
    w.put_u16(4, 0);
    w.put_u16(6, DO_NOT_FRAGMENT);
    w.put_u8(8, TTL);
    w.put_u8(9, protocol);
    w.put_u16_raw(10, checksum_v4(class, length, protocol, source, destination));
    w.put_u32_raw(12, source);
    w.put_u32_raw(16, destination);
}

/// The same with IPv6: `length` is of what is carried, and of `label` the last 20 bits count.
#[inline(always)]
pub fn write_outer_v6(
    w: impl Window,
    class: u8,
    label: u32,
    length: u16,
    protocol: u8,
    source: &[u32; 4],
    destination: &[u32; 4],
) {
    w.put_u16(0, 0x6000 | (class as u16) << 4 | (label >> 16) as u16 & 0x0f);
    w.put_u16(2, label as u16);
    w.put_u16(4, length);
    w.put_u8(6, protocol);
    w.put_u8(7, TTL);
    write_addresses_v6(w, source, destination);
}

#[inline(always)]
fn write_udp_gue(w: impl Window, at: usize, datagram: usize, cookie: u32, wrap: &Wrap) {
    // From the range that RFC 6335 sets aside for such uses.
    let source = (0xc000 | (wrap.entropy & 0x3fff) as u16).to_be() as u64;
    // The checksum is zero, over IPv6 too: RFC 6935 allows it for tunnels, and the inner packet has its own.
    let length = (datagram as u16).to_be() as u64;
    w.put_u64_raw(at, source | (PORT.to_be() as u64) << 16 | length << 32);
    let carries = if wrap.v4 { PROTOCOL_IPV4 } else { PROTOCOL_IPV6 } as u64;
    let start = VERSION_AND_LENGTH as u64 | carries << 8 | (FLAGS.to_be() as u64) << 16 | (MAGIC as u64) << 40;
    w.put_u64_raw(at + 8, start | (wrap.packed as u64) << 32 | (wrap.epoch.to_be() as u64) << 48);
    w.put_u32_raw(at + 16, cookie);
    w.put_u64_raw(at + 20, wrap.asked.0);
}

/// Checksum of an IPv4 header without options as [`wrap`] and the ICMP answers write it, raw.
#[inline(always)]
pub fn checksum_v4(class: u8, length: u16, protocol: u8, source: u32, destination: u32) -> u16 {
    let changing = (u16::from_be_bytes([0, class])).to_be() as u32 + length.to_be() as u32;
    fold_checksum(changing + sum_v4(protocol, source, destination))
}

/// What is in every such header, as half-words on the wire: flags, and behind them how long it may travel and what it carries.
#[inline(always)]
const fn unchanging(protocol: u8) -> [u16; 2] {
    [DO_NOT_FRAGMENT.to_be(), u16::from_be_bytes([TTL, protocol]).to_be()]
}

/// The sum of the half-words of a header that do not differ from packet to packet.
#[inline(always)]
fn sum_v4(protocol: u8, source: u32, destination: u32) -> u32 {
    let [flags, fate] = unchanging(protocol);
    let fixed = u16::from_be_bytes([0x45, 0]).to_be() as u32 + flags as u32 + fate as u32;
    fixed + (source & 0xffff) + (source >> 16) + (destination & 0xffff) + (destination >> 16)
}

/// Ones' complement of a ones' complement sum of at most 65,000 half-words.
#[inline(always)]
pub fn fold_checksum(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

/// Hop limit of everything this machine sends itself.
pub const TTL: u8 = 64;
pub const DO_NOT_FRAGMENT: u16 = 0x4000;

const UDP_HEADER: usize = 8;
pub const PROTOCOL_IPV4: u8 = 4;
pub const PROTOCOL_IPV6: u8 = 41;
