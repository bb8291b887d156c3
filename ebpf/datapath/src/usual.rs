//! The road of usual packets: untagged Ethernet, IPv4 without options or IPv6 without extension headers, and behind that TCP or UDP, all
//! of it there. Everything lies at a constant place then, and each family has a road to itself, so there is a third of the work. What is
//! different in any respect, and what is rare or has to be looked into (lists that may deny, limits, packets that do not fit), is left to
//! [`crate::steer::general`], which says the same of every packet that is decided here: `tests/properties.rs` compares them.
//!
//! Fields are read where they are needed: there are few registers, and what is read early goes by way of the stack.

use abi::gue::Asked;
use abi::{Address, Counts, FragmentKey, Machine, Part, Reason, Service};

use crate::ethernet::{Ethernet, HEADER as AT, IPV4, IPV6};
use crate::flow::Flow;
use crate::gue::{self, Wrap};
use crate::ip::{self, HEADER_V4, HEADER_V6, Ip, TCP, UDP};
use crate::steer::{ACK, Kind, Road, SYN, TCP_HEADER, UDP_HEADER, nobody};
use crate::{Frame, Live, Outcome, Tables, Window, admission};

/// What becomes of a decision: it is counted where it is known, because much of it is a constant there.
pub trait End {
    type Made;

    fn end(&self, live: &Live<'_>, outcome: Outcome) -> Self::Made;
}

/// Decides about the frame as [`crate::steer`] says; or not, and then it has not been touched. What is decided seldom comes back as it
/// is, and has not been ended.
#[inline(always)]
pub fn steer<E: End>(frame: &mut impl Frame, tables: &impl Tables, end: &E) -> Option<Result<E::Made, Outcome>> {
    let w = frame.start::<{ AT + PROTOCOL_V4 + 1 }>()?;
    // Each is as long as any frame of Ethernet, but for IPv6.
    match (w.u16(12), w.u8(AT + PROTOCOL_V4), w.u8(AT + PROTOCOL_V6)) {
        (IPV4, TCP, _) => go::<true, TCP, { AT + HEADER_V4 + TCP_HEADER }, _>(frame, tables, end),
        (IPV4, UDP, _) => go::<true, UDP, { AT + HEADER_V4 + UDP_HEADER }, _>(frame, tables, end),
        (IPV6, _, TCP) => go::<false, TCP, { AT + HEADER_V6 + TCP_HEADER }, _>(frame, tables, end),
        (IPV6, _, UDP) => go::<false, UDP, { AT + HEADER_V6 + UDP_HEADER }, _>(frame, tables, end),
        _ => None,
    }
}

/// `LEAST`: bytes that the frame has to have.
#[inline(always)]
fn go<const V4: bool, const PROTOCOL: u8, const LEAST: usize, E: End>(
    frame: &mut impl Frame,
    tables: &impl Tables,
    end: &E,
) -> Option<Result<E::Made, Outcome>> {
    let header = if V4 { HEADER_V4 } else { HEADER_V6 };
    let w = frame.start::<LEAST>()?;
    let first = w.u8(AT);
    let whole = if V4 { first == ip::PLAIN && w.u16(AT + 6) & 0x3fff == 0 } else { first >> 4 == 6 };
    if !whole {
        return None;
    }
    let words = |at| Address([w.u32_raw(at), w.u32_raw(at + 4), w.u32_raw(at + 8), w.u32_raw(at + 12)]);
    let destination = if V4 { Address::from_v4_raw(w.u32_raw(AT + 16)) } else { words(AT + 24) };
    let live = tables.live()?;
    // It may be a tunnel to this machine.
    let (own_v4, own_v6) = (&live.settings.own_v4, &live.settings.own_v6);
    let is_own = if V4 { destination.v4_raw() == own_v4.v4_raw() } else { destination == *own_v6 };
    if PROTOCOL == UDP && is_own || !V4 && destination.is_v4() {
        return None;
    }
    let Some(address) = tables.find_vip(&live, destination) else {
        return Some(Ok(end.end(&live, nobody(Reason::NotVip))));
    };

    let source = if V4 { Address::from_v4_raw(w.u32_raw(AT + 12)) } else { words(AT + 8) };
    let length = if V4 { w.u16(AT + 2) as usize } else { w.u16(AT + 4) as usize + HEADER_V6 };
    if AT + length < LEAST || AT + length > frame.len() || !V4 && source.is_v4() {
        return None;
    }
    if tables.access_listed() != 0 && !admission::is_let_in_at_once(tables, &source) {
        return None;
    }
    let class = || if V4 { w.u8(AT + 1) } else { (w.u16(AT) >> 4) as u8 };
    if address.backends != 0 {
        let part = Part {
            key: FragmentKey { source, destination, id: 0, protocol: 0 },
            switch: live.switch.0,
            arrived: 0,
            asked: 0,
            packed: 0,
            at: AT as u32,
            transport: 0,
            length: length as u32,
            class: class() as u32,
            later: Part::WHOLE,
        };
        return Some(Err(tables.leave(frame, part)));
    }

    let (source_port, destination_port) = (w.u16(AT + header), w.u16(AT + header + 2));
    let flow = Flow { source, destination, source_port, destination_port, v4: V4, protocol: PROTOCOL };
    let packet = Ip::whole(V4, AT, [source, destination], PROTOCOL, 0, length);
    let vip = address.services[0].vip;
    // Of the link and the packet this road's part of the other reads where the packet lies, and no more.
    let (link, nobody_asked) = (&Ethernet::UNREAD, Asked::NOBODY);
    let road = Road { tables, live, link, packet: &packet, vip, hops: 0, packed: 0, asked: nobody_asked };
    // Mostly it is the first, whose place is known.
    let first = &address.services[0];
    let service = if first.distance(PROTOCOL, destination_port) <= first.span() {
        first
    } else if let Some(service) = road.find_service(address, &flow, 1) {
        service
    } else {
        return Some(Err(road.stay(Reason::PortNotServed)));
    };
    if PROTOCOL == TCP && service.flags & (Service::LIMITED | Service::COOKIES) != 0 {
        return None;
    }

    // What becomes of most is said at once, with all that follows from it known.
    let wrap = |class, packed, asked| {
        let (entropy, epoch) = (flow.entropy(), live.switch.epoch());
        Wrap { v4: V4, class, length, entropy, packed, asked, epoch }
    };
    let hash = match service.flags & Service::ALL {
        0 => flow.hash(&service.counts, live.settings.seed),
        _ => flow.hash(&Counts::ALL, live.settings.seed),
    };
    let (number, slot) = road.slot(hash, service);
    let to = slot.current();
    if to != 0 && to != live.settings.own as u16 {
        let machine = tunnel_to(&road, to)?;
        if length + gue::overhead(machine) > live.settings.mtu as usize {
            return None;
        }
        let outcome = Outcome { vip: service.vip, machine: to, ..nobody(Reason::Forwarded) };
        let wrap = wrap(class(), road.first_tunnel(), nobody_asked);
        return Some(match gue::wrap_untagged(frame, live.settings, machine, &wrap) {
            Ok(()) => Ok(end.end(&live, outcome)),
            Err(reason) => Err(Outcome { machine: 0, reason, ..outcome }),
        });
    }
    let class = class();
    let belongs = PROTOCOL == TCP && w.u8(AT + header + 13) & (SYN | ACK) != SYN;
    let kind = if belongs { Kind::ESTABLISHED } else { Kind::OPENING };
    let plan = road.fate::<true>(&flow, service, kind, AT + header, false, (number, slot));
    if let Some(reason) = plan.end {
        return Some(Err(Outcome { vip: plan.vip, ..nobody(reason) }));
    }
    // What is too long for its second chance is asked about once more on the general road. Most are shorter: TCP_MAXSEG of our listeners
    // sees to it, and what stays here is not to take that road for its length.
    let machine = tunnel_to(&road, plan.to)?;
    if length + gue::overhead(machine) > live.settings.mtu as usize {
        return None;
    }
    let (vip, machine_to, reason) = (plan.vip, plan.to, plan.sent.reason());
    Some(Err(match gue::wrap_untagged(frame, live.settings, machine, &wrap(class, plan.packed, plan.asked)) {
        Ok(()) => Outcome { vip, machine: machine_to, ..nobody(reason) },
        Err(reason) => Outcome { vip, ..nobody(reason) },
    }))
}

/// The machine, if tunnels to it can be sent at all.
#[inline(always)]
fn tunnel_to<'r, T: Tables>(road: &'r Road<'_, T>, index: u16) -> Option<&'r Machine> {
    const ASKED: u32 = Machine::PRESENT | Machine::BACKEND | Machine::REACHABLE;
    road.any_machine(index).filter(|machine| machine.flags & ASKED == Machine::PRESENT | Machine::REACHABLE)
}

/// Where a header says what follows.
const PROTOCOL_V4: usize = 9;
const PROTOCOL_V6: usize = 6;
