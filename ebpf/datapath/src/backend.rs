//! The road to a backend, a server that does not run Weir: chosen by the slot as machines are, reached as IP in IP of all four pairs of
//! families (RFC 2003, RFC 2473, RFC 4213), and it answers clients itself. Whichever machine gets a packet sends it there: from a backend
//! nothing comes back.
//!
//! Where a slot has changed hands it is remembered at which backend connections are: what is not remembered is the slot's last one's. Such
//! a slot has in its first place who takes new connections, in the last one who has those of which nothing is remembered, and between them
//! others that still hold some: see `edge_l4::backends`. While the last one is another than the first, what goes to either is remembered;
//! once it is the same, only what the others hold has to be, and nothing more is.

use abi::delivery::remembered;
use abi::gue::Asked;
use abi::limits::OWNERS;
use abi::{Address, Delivery, FragmentKey, FragmentWay, Machine, Part, Reason, Slot, Switch};

use crate::ethernet::{Ethernet, IPV4, IPV6, Send};
use crate::flow::Flow;
use crate::gue::{DO_NOT_FRAGMENT, PROTOCOL_IPV4, PROTOCOL_IPV6, write_outer_v4, write_outer_v6};
use crate::icmp;
use crate::ip::{HEADER_V4, HEADER_V6, Ip, TCP, UDP};
use crate::steer::{MTU_LEAST_V4, MTU_LEAST_V6, Road, nobody};
use crate::{Frame, Live, Outcome, Tables, Window};

/// Decides about a packet for an address whose slots name backends.
#[inline(always)]
pub fn steer<T: Tables>(frame: &mut impl Frame, tables: &T, part: &Part) -> Outcome {
    let hops = abi::gue::hops(part.packed as u8);
    let Some(live) = tables.live_at(Switch(part.switch)) else { return nobody(Reason::NotVip) };
    let Ok(mut link) = Ethernet::parse(frame) else { return nobody(Reason::EthernetTruncated) };
    link.forget(tables);
    let at = part.at as usize;
    let read = if part.key.destination.is_v4() { Ip::parse_v4(frame, at) } else { Ip::parse_v6(frame, at) };
    let Ok(mut packet) = read else { return nobody(Reason::NotVip) };
    packet.v4 = tables.forget(packet.v4 as usize) != 0;
    packet.forget(tables);
    let Some(address) = tables.find_vip(&live, part.key.destination) else {
        return nobody(Reason::NotVip);
    };
    let vip = address.services[0].vip;
    let ends = |reason| Outcome { vip, hops, ..nobody(reason) };
    let transport = match packet.transport(frame, tables) {
        Ok(transport) => transport,
        Err(reason) => return ends(reason),
    };
    if transport.fragment && (transport.protocol == TCP || transport.protocol == UDP) {
        let key = FragmentKey { id: transport.id, protocol: transport.protocol as u32, ..part.key };
        let part = Part { key, transport: transport.at as u32, later: transport.later as u32, ..*part };
        return tables.leave(frame, part);
    }
    let asked = Asked::NOBODY;
    let road = Road { tables, live, link: &link, packet: &packet, vip, hops, packed: part.packed as u8, asked };
    let outcome = road.travel::<true>(frame, address, &transport);
    Outcome { hops, ..outcome.unwrap_or_else(ends) }
}

/// Sends a packet on whose virtual IP is known.
#[inline(always)]
pub fn deliver(frame: &mut impl Frame, tables: &impl Tables, d: &Delivery) -> Outcome {
    let hops = abi::gue::hops(d.part.packed as u8);
    let ends = |reason| Outcome { vip: d.vip, hops, ..nobody(reason) };
    let Some(live) = tables.live_at(Switch(d.part.switch)) else { return ends(Reason::NotVip) };
    let Ok(mut link) = Ethernet::parse(frame) else { return ends(Reason::EthernetTruncated) };
    link.forget(tables);
    let to = if d.to != 0 { d.to as u16 } else { choose(tables, &live, d) };
    let to = tables.forget(to as usize) as u16;
    if d.what & Delivery::FIRST != 0 {
        tables.remember(&d.part, FragmentWay { at_ns: 0, machine: to.into(), packed: Delivery::BARE });
    }
    if to == 0 {
        return ends(Reason::SlotEmpty);
    }
    let machines = live.settings.machines;
    let at = live.switch.generation() * machines + to as u32;
    let backend = if (to as u32) < machines { tables.machine(at) } else { None };
    let Some(backend) = backend.filter(|backend| backend.is_present() && backend.is_backend()) else {
        return ends(Reason::MachineUnknown);
    };
    let packet = Ip::of(&d.part);
    let entropy = flow(d).entropy();
    // Queues of a server's network card share the work by addresses alone, where they do not look into IP in IP.
    let mut source = backend.source;
    source.0[3] |= entropy & backend.spread;
    let outer = if backend.address.is_v4() { HEADER_V4 } else { HEADER_V6 };
    let mtu = live.settings.mtu as usize;
    if packet.length + outer > mtu {
        let least = if packet.v4 { MTU_LEAST_V4 } else { MTU_LEAST_V6 };
        // Nothing is answered to an error, and what came through a tunnel has fitted one.
        if is_error(d) || hops > 0 {
            return ends(Reason::TooBigDropped);
        }
        if d.what & Delivery::PART != 0 || !is_whole(frame, &packet) {
            let protocol = if packet.v4 { PROTOCOL_IPV4 } else { PROTOCOL_IPV6 };
            let key = FragmentKey { source, destination: backend.address, id: 0, protocol: protocol as u32 };
            let part = Part { key, later: Part::LONG, ..d.part };
            if !tables.send_in_parts(part) {
                return ends(Reason::TooBigDropped);
            }
            return ends(Reason::TooBigHeld);
        }
        if mtu < least + outer || !listens(frame, &packet) {
            return ends(Reason::TooBigDropped);
        }
        return ends(match icmp::answer_too_big(frame, &link, &packet, (mtu - outer) as u16) {
            Ok(()) => Reason::TooBigAnswered,
            Err(reason) => reason,
        });
    }
    if let Err(reason) = wrap(frame, &link, &live, backend, &packet, &source, entropy) {
        return ends(reason);
    }
    let reason = if d.what & Delivery::PART != 0 {
        Reason::FragmentForwarded
    } else if is_error(d) {
        Reason::IcmpErrorForwarded
    } else {
        Reason::Forwarded
    };
    Outcome { machine: to, ..ends(reason) }
}

#[inline(always)]
fn is_error(d: &Delivery) -> bool {
    d.what & Delivery::KIND == Delivery::ERROR
}

/// Whether routers must not take it apart: always so with IPv6.
#[inline(always)]
fn is_whole(frame: &impl Frame, packet: &Ip) -> bool {
    !packet.v4 || frame.window::<HEADER_V4>(packet.at).is_some_and(|w| w.u16(6) & DO_NOT_FRAGMENT != 0)
}

/// Whether its sender can be told that it is too big: one with options is not answered.
#[inline(always)]
fn listens(frame: &impl Frame, packet: &Ip) -> bool {
    !packet.v4 || frame.window::<HEADER_V4>(packet.at).is_some_and(|w| w.u8(0) == 0x45)
}

/// The backend of the flow; 0: none.
#[inline(always)]
fn choose(tables: &impl Tables, live: &Live<'_>, d: &Delivery) -> u16 {
    let (flow, seed) = (flow(d), live.settings.seed);
    let slot = tables.slot(d.table, Slot::number(flow.hash(&d.counts, seed)));
    // Of datagrams nobody knows which one is the first.
    if flow.protocol != TCP || !slot.has_past() {
        return slot.current();
    }
    let name = flow.name(seed);
    let opens = d.what & Delivery::KIND == Delivery::OPENS;
    let found = tables.flow(name);
    // Another virtual IP's, by a chance in 2^64, or of one that had its number.
    let known = if found >> 16 == d.vip as u32 { found as u16 } else { 0 };
    let holder = holder(known, slot, opens);
    // Of an error, which anybody can make up, nothing is learnt.
    if !holder.keeps || is_error(d) {
        return holder.to;
    }
    if found == 0 && !tables.may_keep_flow(live, d.vip) {
        return slot.owners()[OWNERS - 1];
    }
    tables.keep_flow(name, remembered(d.vip, holder.to));
    holder.to
}

/// Who gets a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Holder {
    to: u16,
    /// That is to be remembered: without it the next packets would go elsewhere, or would when the slot's past is cut down.
    keeps: bool,
}

/// Who gets a packet of a connection of TCP where `known` is remembered of it, 0 being nobody.
#[inline(always)]
fn holder(known: u16, slot: Slot, opens: bool) -> Holder {
    let owners = slot.owners();
    let (current, last) = (owners[0], owners[OWNERS - 1]);
    // One that is no longer there holds nothing.
    let holds = known == current || known == owners[1] || known == owners[2] || known == last;
    let to = if opens {
        current
    } else if known != 0 && holds {
        known
    } else {
        last
    };
    Holder { to, keeps: to != 0 && to != known && (known != 0 || last != current) }
}

#[inline(always)]
fn flow(d: &Delivery) -> Flow {
    let key = &d.part.key;
    Flow {
        v4: key.destination.is_v4(),
        protocol: key.protocol as u8,
        source: key.source,
        destination: key.destination,
        source_port: d.source_port,
        destination_port: d.destination_port,
    }
}

#[inline(always)]
fn wrap(
    frame: &mut impl Frame,
    link: &Ethernet,
    live: &Live<'_>,
    to: &Machine,
    packet: &Ip,
    source: &Address,
    entropy: u32,
) -> Result<(), Reason> {
    let v4 = to.address.is_v4();
    let own = if v4 { &live.settings.own_v4 } else { &live.settings.own_v6 };
    if own.is_unspecified() {
        return Err(Reason::NoOwnAddress);
    }
    let send = Send::to(to);
    let inner = if packet.v4 { PROTOCOL_IPV4 } else { PROTOCOL_IPV6 };
    let outer = if v4 { HEADER_V4 } else { HEADER_V6 };
    if !frame.push_head(outer) || !link.write(frame, if v4 { IPV4 } else { IPV6 }, send) {
        return Err(Reason::HeadroomMissing);
    }
    if v4 {
        let Some(w) = frame.window::<HEADER_V4>(link.length) else { return Err(Reason::HeadroomMissing) };
        write_outer_v4(
            w,
            packet.class,
            (HEADER_V4 + packet.length) as u16,
            inner,
            source.v4_raw(),
            to.address.v4_raw(),
        );
    } else {
        let Some(w) = frame.window::<HEADER_V6>(link.length) else { return Err(Reason::HeadroomMissing) };
        // With the flow label of RFC 6438: nothing behind the header tells flows apart.
        write_outer_v6(w, packet.class, entropy, packet.length as u16, inner, &source.0, &to.address.0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn whose_backend_takes_what_began_when() {
        let mut flows = BTreeMap::<u32, u16>::new();
        let mut ask = |name: u32, owners: [u16; 4], opens: bool| {
            let known = flows.get(&name).copied().unwrap_or(0);
            let holder = holder(known, Slot::new(owners), opens);
            if holder.keeps {
                flows.insert(name, holder.to);
            }
            (holder.to, holder.keeps)
        };
        // 7 drains, 8 takes its new ones; then 8 drains and 9 does; then 7 is back.
        assert_eq!(
            ask(1, [8, 0, 0, 7], false),
            (7, true),
            "from before, which is remembered for when that is long ago"
        );
        assert_eq!([true, false].map(|opens| ask(2, [8, 0, 0, 7], opens)), [(8, true), (8, false)]);
        assert_eq!(ask(3, [9, 8, 0, 7], true), (9, true));
        assert_eq!([1, 2, 3].map(|name| ask(name, [9, 8, 0, 7], false).0), [7, 8, 9]);
        assert_eq!([1, 2, 3].map(|name| ask(name, [7, 9, 8, 7], false).0), [7, 8, 9]);
        assert_eq!(ask(2, [7, 9, 0, 7], false).0, 7, "8 is dead");
        assert_eq!(
            [true, false].map(|opens| ask(4, [0, 8, 0, 7], opens)),
            [(0, false), (7, true)],
            "nobody takes new ones"
        );
        // The change is long ago: what is not remembered is who takes new ones, and nothing more is remembered.
        assert_eq!([1, 3].map(|name| ask(name, [9, 7, 0, 9], false)), [(7, false), (9, false)]);
        assert_eq!([true, false].map(|opens| ask(5, [9, 7, 0, 9], opens)), [(9, false); 2]);
        // But for one that begins anew, of which something else was.
        assert_eq!([true, false].map(|opens| ask(1, [9, 7, 0, 9], opens)), [(9, true), (9, false)]);
        // Sent twice.
        assert_eq!([true, true].map(|opens| ask(6, [8, 0, 0, 7], opens)), [(8, true), (8, false)]);
    }
}
