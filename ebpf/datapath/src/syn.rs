//! SYN cookies: a SYN is answered without remembering it, and who answers the answer brings back what has to be known (RFC 4987 section
//! 3.6). They are the kernel's own, so its listeners take them; they are made where the connection will be held. What a cookie has no room
//! for travels in the timestamp, where the kernel reads it there (`net/ipv4/syncookies.c`, `cookie_timestamp_decode`).

use abi::config::syn;
use abi::gue::{OVERHEAD_V4, OVERHEAD_V6};
use abi::{Address, Reason, Switch, Syn, way};

use crate::ethernet::{self, Ethernet, Send};
use crate::gue::{DO_NOT_FRAGMENT, TTL, checksum_v4, fold_checksum};
use crate::ip::{HEADER_V4, HEADER_V6, TCP};
use crate::steer::{ACK, SYN, TCP_HEADER, nobody};
use crate::{Frame, Outcome, Tables, Window};

/// What a client's SYN offers, in one word: its clock, as it lies on the wire, above it the scale of its window, or [`NOTHING`], and then
/// whether it takes selective acknowledgement and has a clock at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer(pub u64);

impl Offer {
    #[inline(always)]
    pub fn scale(self) -> Option<u8> {
        let scale = (self.0 >> 32) as usize & 0x1ff;
        if scale == NOTHING { None } else { Some(scale as u8) }
    }

    #[inline(always)]
    pub fn sack(self) -> bool {
        self.0 >> 42 & 1 != 0
    }

    #[inline(always)]
    pub fn timestamp(self) -> Option<u32> {
        if self.0 >> 43 & 1 != 0 { Some(self.0 as u32) } else { None }
    }
}

/// A TCP segment whose headers follow each other without anything between.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    pub v4: bool,
    /// Where the IP header lies, and TCP's.
    pub at: usize,
    pub tcp: usize,
    /// Bytes of the TCP header.
    pub header: usize,
    pub flags: u8,
    /// It has no data.
    pub bare: bool,
}

/// The MAC that an answer goes to, its first byte lowest; [`abi::way::NONE`]: the stack knows, and nobody else.
pub type Way = u64;

/// Whether the packet stays here, as one of a connection that is this machine's or nobody's.
#[inline(always)]
pub fn is_mine(reason: Reason) -> bool {
    const MINE: u64 = 1 << Reason::Local as u8
        | 1 << Reason::LocalOrphan as u8
        | 1 << Reason::Decapsulated as u8
        | 1 << Reason::DecapsulatedOrphan as u8;
    (MINE >> (reason as u8 & 63)) & 1 != 0
}

/// Answers a SYN, or drops what pretends to belong to a connection; what cannot be told stays as it would have.
#[inline(always)]
pub fn answer(frame: &mut impl Frame, tables: &impl Tables, packet: &Syn) -> Outcome {
    // One of those of `is_mine`.
    let stays = if packet.reason == Reason::Local as u8 {
        Reason::Local
    } else if packet.reason == Reason::LocalOrphan as u8 {
        Reason::LocalOrphan
    } else if packet.reason == Reason::DecapsulatedOrphan as u8 {
        Reason::DecapsulatedOrphan
    } else {
        Reason::Decapsulated
    };
    let outcome = |reason| Outcome { vip: packet.vip, hops: packet.hops, ..nobody(reason) };
    let Ok(link) = Ethernet::parse(frame) else { return outcome(stays) };
    let Some(segment) = read(frame, tables, &link) else { return outcome(stays) };
    if segment.flags & (SYN | ACK) != SYN {
        let wanted = tables.takes_answer(&segment);
        return outcome(if wanted { stays } else { Reason::SynCookieWrong });
    }
    // Nothing but a SYN: what carries data or more flags is for the stack.
    if segment.flags & (FIN | RST) != 0 || !segment.bare {
        return outcome(stays);
    }
    match reply(frame, tables, &link, &segment, packet) {
        Some(()) => outcome(Reason::SynCookieSent),
        None => outcome(stays),
    }
}

#[inline(always)]
fn read(frame: &impl Frame, tables: &impl Tables, link: &Ethernet) -> Option<Segment> {
    let at = tables.forget(link.length);
    let v4 = link.kind == ethernet::IPV4;
    let (tcp, length) = if v4 {
        let w = frame.window::<HEADER_V4>(at)?;
        if w.u8(0) != 0x45 || w.u8(9) != TCP {
            return None;
        }
        (at + HEADER_V4, w.u16(2) as usize)
    } else {
        let w = frame.window::<HEADER_V6>(at)?;
        if w.u8(6) != TCP {
            return None;
        }
        (at + HEADER_V6, w.u16(4) as usize + HEADER_V6)
    };
    let tcp = tables.forget(tcp);
    let w = frame.window::<TCP_HEADER>(tcp)?;
    let header = tables.forget((w.u8(12) >> 4) as usize * 4);
    if header < TCP_HEADER || tcp + header > at + length {
        return None;
    }
    let v4 = tables.forget(v4 as usize) != 0;
    Some(Segment { v4, at, tcp, header, flags: w.u8(13), bare: tcp + header == at + length })
}

#[inline(always)]
fn reply(frame: &mut impl Frame, tables: &impl Tables, link: &Ethernet, segment: &Segment, packet: &Syn) -> Option<()> {
    let live = tables.live_at(Switch(packet.switch))?;
    let Segment { v4, at, tcp, header, .. } = *segment;
    let way = match packet.hops {
        0 => link.from(),
        // The machine that sent it on is no router. What routes say holds for frames without a tag.
        _ if link.is_tagged() => way::NONE,
        _ => tables.way_back(frame, segment),
    };
    if way == way::NONE {
        return None;
    }
    // However it was found.
    let way = tables.forget(way as u32 as usize) as u64 | (tables.forget((way >> 32) as usize) as u64) << 32;
    let w = frame.window::<TCP_HEADER>(tcp)?;
    let (ports, sequence) = (w.u32_raw(0), u32::from_be(w.u32_raw(4)));
    let cookie = tables.forget(tables.make_cookie(segment)? as usize) as u32;
    let offer = tables.offer(frame, tcp + TCP_HEADER, tcp + header);

    let settings = live.settings;
    let ip = tables.forget(if v4 { HEADER_V4 } else { HEADER_V6 });
    let tunnel = if settings.own_v6.is_unspecified() { OVERHEAD_V4 } else { OVERHEAD_V6 };
    let most = (settings.mtu as usize).saturating_sub(tunnel + ip + TCP_HEADER);
    let most = if most < SEGMENT_LEAST { SEGMENT_LEAST } else { most } as u32;
    let word = tables.syn_options();
    let timestamp = if word & syn::TIMESTAMPS != 0 { offer.timestamp() } else { None };
    let options = if timestamp.is_some() { OPTIONS } else { MSS };

    let (source, destination) = if v4 {
        let w = frame.window::<HEADER_V4>(at)?;
        (Address([0, 0, 0, w.u32_raw(12)]), Address([0, 0, 0, w.u32_raw(16)]))
    } else {
        let w = frame.window::<HEADER_V6>(at)?;
        (
            Address([w.u32_raw(8), w.u32_raw(12), w.u32_raw(16), w.u32_raw(20)]),
            Address([w.u32_raw(24), w.u32_raw(28), w.u32_raw(32), w.u32_raw(36)]),
        )
    };
    // A header without options is made longer in front, where there is room under every driver.
    if !frame.push_head(OPTIONS) || !frame.truncate(link.length + ip + TCP_HEADER + options) {
        return None;
    }
    let kind = if v4 { ethernet::IPV4 } else { ethernet::IPV6 };
    if !link.write(frame, kind, Send::To(way)) {
        return None;
    }
    let length = (TCP_HEADER + options) as u16;
    // The pseudo header, and whatever is written.
    let mut sum = (TCP as u16).to_be() as u64 + length.to_be() as u64;
    sum += source.0.iter().chain(&destination.0).map(|word| *word as u64).sum::<u64>();
    if v4 {
        let w = frame.window::<HEADER_V4>(link.length)?;
        w.put_u16(0, 0x4500);
        w.put_u16(2, HEADER_V4 as u16 + length);
        w.put_u16(4, 0);
        w.put_u16(6, DO_NOT_FRAGMENT);
        w.put_u8(8, TTL);
        w.put_u8(9, TCP);
        let (from, to) = (destination.0[3], source.0[3]);
        w.put_u16_raw(10, checksum_v4(0, HEADER_V4 as u16 + length, TCP, from, to));
        w.put_u32_raw(12, from);
        w.put_u32_raw(16, to);
    } else {
        let w = frame.window::<HEADER_V6>(link.length)?;
        w.put_u32_raw(0, 0x6000_0000u32.to_be());
        w.put_u16(4, length);
        w.put_u8(6, TCP);
        w.put_u8(7, TTL);
        crate::icmp::write_addresses_v6(w, &destination.0, &source.0);
    }
    let tcp = link.length + ip;
    let w = frame.window::<{ TCP_HEADER + MSS }>(tcp)?;
    let flags = ((length as u32 / 4) << 28) | ((SYN | ACK) as u32) << 16 | WINDOW;
    let words = [
        ports.rotate_left(16),
        cookie.to_be(),
        sequence.wrapping_add(1).to_be(),
        flags.to_be(),
        0,
        (0x0204_0000 | most).to_be(),
    ];
    let mut i = 0;
    while i < words.len() {
        w.put_u32_raw(i * 4, words[i]);
        sum += words[i] as u64;
        i += 1;
    }
    if let Some(echo) = timestamp {
        let w = frame.window::<{ OPTIONS - MSS }>(tcp + TCP_HEADER + MSS)?;
        let (sack, scale) = (offer.sack(), offer.scale());
        let said = match scale {
            Some(scale) if scale < 14 => scale as u32,
            Some(_) => 14,
            None => 15,
        };
        let clock = clock(tables.now_ns() / 1_000_000, said | (sack as u32) << 4);
        let first = if sack { 0x0402_080a } else { NOPS << 16 | 0x080a };
        let last = match scale {
            Some(_) => 0x0103_0300 | syn::scale(word) as u32,
            None => NOPS << 16 | NOPS,
        };
        let words: [u32; 4] = [u32::to_be(first), clock.to_be(), echo, u32::to_be(last)];
        let mut i = 0;
        while i < words.len() {
            w.put_u32_raw(i * 4, words[i]);
            sum += words[i] as u64;
            i += 1;
        }
    }
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) as u32 + (sum >> 16) as u32;
    frame.window::<TCP_HEADER>(tcp)?.put_u16_raw(16, fold_checksum(sum));
    Some(())
}

/// Where what is sent to the client of a segment goes.
#[inline(always)]
pub fn way_back(frame: &impl Frame, tables: &impl Tables, segment: &Segment) -> Way {
    let client = if segment.v4 {
        let Some(w) = frame.window::<HEADER_V4>(segment.at) else { return way::NONE };
        Address::from_v4_raw(w.u32_raw(12))
    } else {
        let Some(w) = frame.window::<HEADER_V6>(segment.at) else { return way::NONE };
        Address([w.u32_raw(8), w.u32_raw(12), w.u32_raw(16), w.u32_raw(20)])
    };
    tables.way_to(&client)
}

/// The latest time that is not to come and ends in these six bits.
#[inline(always)]
fn clock(now_ms: u64, options: u32) -> u32 {
    let now = now_ms as u32;
    let then = now & !0x3f | options;
    if then > now { then.wrapping_sub(0x40) } else { then }
}

/// Options of a SYN between two places of the frame (RFC 7323, RFC 2018). What is broken ends them.
#[inline(always)]
pub fn read_options(frame: &impl Frame, tables: &impl Tables, from: usize, to: usize) -> Offer {
    // Numbers until the end, each forgotten after each option: what was found before does not divide the roads.
    let forget = |number: usize| tables.forget(number);
    let (mut scale, mut sack, mut timed, mut timestamp) = (NOTHING, 0, 0, 0);
    let (mut at, mut turn) = (from, 0);
    while turn < OPTION_BYTES && at < to {
        turn += 1;
        let Some(w) = frame.window::<1>(at) else { break };
        let kind = w.u8(0);
        if kind == END {
            break;
        }
        let mut length = 1;
        if kind != NOP {
            let Some(w) = frame.window::<2>(at) else { break };
            length = w.u8(1) as usize;
            if length < 2 || at + length > to {
                break;
            }
            if kind == WINDOW_SCALE && length == 3 {
                let Some(w) = frame.window::<3>(at) else { break };
                scale = w.u8(2) as usize;
            } else if kind == SACK_PERMITTED && length == 2 {
                sack = 1;
            } else if kind == TIMESTAMP && length == 10 {
                let Some(w) = frame.window::<10>(at) else { break };
                (timed, timestamp) = (1, w.u32_raw(2) as usize);
            }
        }
        (scale, sack, timed, timestamp) = (forget(scale), forget(sack), forget(timed), forget(timestamp));
        at = forget(at + length);
    }
    Offer(timestamp as u32 as u64 | (scale as u64) << 32 | (sack as u64) << 42 | (timed as u64) << 43)
}

/// Of TCP's options the bytes of the largest segment, and of those that are ever written.
const MSS: usize = 4;
const OPTIONS: usize = 20;
/// All options there can be.
const OPTION_BYTES: usize = 40;
const END: u8 = 0;
const NOP: u8 = 1;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const TIMESTAMP: u8 = 8;
const NOPS: u32 = 0x0101;
/// No window scale is as much.
const NOTHING: usize = 0x100;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;
/// As much as the stack takes at first, in segments of 1,460 bytes: what it really takes it says with what it sends next.
const WINDOW: u32 = 64_240;
/// As for listeners (`edge_kernel::sockets`).
const SEGMENT_LEAST: usize = 536;
