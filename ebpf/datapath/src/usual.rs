//! The road of usual packets: untagged Ethernet, IPv4 without options or IPv6 without extension headers, and behind that TCP or UDP, all
//! of it there. Everything lies at a constant place then, and each family has a road to itself, so there is a third of the work. What is
//! different in any respect, and what is rare or has to be looked into (lists that may deny, limits, packets that do not fit), is left to
//! [`crate::steer::general`], which says the same of every packet that is decided here: `tests/properties.rs` compares them.

use abi::gue::Asked;
use abi::{FragmentKey, Part, Reason, Service};

use crate::ethernet::{self, Ethernet, IPV4, IPV6};
use crate::flow::Flow;
use crate::gue::{self, Wrap};
use crate::ip::{HEADER_V4, HEADER_V6, Ip, TCP, UDP};
use crate::steer::{ACK, Kind, Road, SYN, TCP_HEADER, UDP_HEADER, nobody};
use crate::{Frame, Outcome, Tables, Window, admission};

/// Decides about the frame as [`crate::steer`] says; or not, and then it has not been touched.
#[inline(always)]
pub fn steer(frame: &mut impl Frame, tables: &impl Tables) -> Option<Outcome> {
    match frame.start::<{ ethernet::HEADER }>()?.u16(12) {
        IPV4 => road_v4(frame, tables),
        IPV6 => road_v6(frame, tables),
        _ => None,
    }
}

#[inline(always)]
fn road_v4(frame: &mut impl Frame, tables: &impl Tables) -> Option<Outcome> {
    // Shorter than a TCP header no frame of Ethernet is, whatever is in it.
    let w = frame.start::<{ AT + HEADER_V4 + TCP_HEADER }>()?;
    let packet = Ip::usual_v4(w, AT)?;
    let link = Ethernet::untagged(w);
    let ports = [w.u16(AT + HEADER_V4), w.u16(AT + HEADER_V4 + 2)];
    let flags = w.u8(AT + HEADER_V4 + TCP_FLAGS);
    go(frame, tables, &link, packet, ports, flags)
}

#[inline(always)]
fn road_v6(frame: &mut impl Frame, tables: &impl Tables) -> Option<Outcome> {
    let w = frame.start::<{ AT + HEADER_V6 + UDP_HEADER }>()?;
    let packet = Ip::usual_v6(w, AT)?;
    let link = Ethernet::untagged(w);
    let ports = [w.u16(AT + HEADER_V6), w.u16(AT + HEADER_V6 + 2)];
    let mut flags = 0;
    if packet.protocol == TCP {
        flags = frame.start::<{ AT + HEADER_V6 + TCP_HEADER }>()?.u8(AT + HEADER_V6 + TCP_FLAGS);
    }
    go(frame, tables, &link, packet, ports, flags)
}

/// `flags`: those of TCP.
#[inline(always)]
fn go(
    frame: &mut impl Frame,
    tables: &impl Tables,
    link: &Ethernet,
    packet: Ip,
    [source_port, destination_port]: [u16; 2],
    flags: u8,
) -> Option<Outcome> {
    let header = if packet.v4 { HEADER_V4 } else { HEADER_V6 };
    let live = tables.live()?;
    let tcp = packet.protocol == TCP;
    if !tcp && (packet.protocol != UDP || gue::is_candidate(&packet, live.settings)) {
        return None;
    }
    let Some(address) = tables.find_vip(&live, packet.destination) else { return Some(nobody(Reason::NotVip)) };
    let least = if tcp { TCP_HEADER } else { UDP_HEADER };
    if packet.length < header + least || AT + packet.length > frame.len() {
        return None;
    }
    if tables.access_listed() != 0 && !admission::is_let_in_at_once(tables, &packet.source) {
        return None;
    }
    let vip = address.services[0].vip;
    if address.backends != 0 {
        let (source, destination) = (packet.source, packet.destination);
        let part = Part {
            key: FragmentKey { source, destination, id: 0, protocol: 0 },
            switch: live.switch.0,
            arrived: 0,
            asked: 0,
            packed: 0,
            at: AT as u32,
            transport: 0,
            length: packet.length as u32,
            class: packet.class as u32,
            later: Part::WHOLE,
        };
        return Some(tables.leave(frame, part));
    }

    let Ip { v4, protocol, source, destination, .. } = packet;
    let flow = Flow { source, destination, source_port, destination_port, v4, protocol };
    let kind = if !tcp || flags & (SYN | ACK) == SYN { Kind::OPENING } else { Kind::ESTABLISHED };
    let road = Road { tables, live, link, packet: &packet, vip, hops: 0, packed: 0, asked: Asked::NOBODY };
    let Some(service) = road.find_service(address, &flow) else { return Some(road.stay(Reason::PortNotServed)) };
    if tcp && service.flags & (Service::LIMITED | Service::COOKIES) != 0 {
        return None;
    }
    let plan = road.choose::<true>(&flow, service, kind, AT + header, false);
    if let Some(reason) = plan.end {
        return Some(Outcome { vip: plan.vip, ..nobody(reason) });
    }
    let machine = road.machine(plan.to)?;
    if packet.length + gue::overhead(machine) > live.settings.mtu as usize {
        return None;
    }
    let wrap = Wrap {
        v4,
        class: packet.class,
        length: packet.length,
        entropy: flow.entropy(),
        packed: plan.packed,
        asked: plan.asked,
        epoch: live.switch.epoch(),
    };
    if let Err(reason) = gue::wrap(frame, link, live.settings, machine, &wrap) {
        return Some(Outcome { vip: plan.vip, ..nobody(reason) });
    }
    Some(Outcome { vip: plan.vip, machine: plan.to, ..nobody(plan.sent.reason()) })
}

/// Where the packet begins.
const AT: usize = ethernet::HEADER;
/// Where the flags lie in a TCP header.
const TCP_FLAGS: usize = 13;
