//! The road of a fragment. All of a datagram meet at one machine, which their addresses alone choose, whichever machines they reach first.
//! The first one is seen there, and the others follow it: to the owner of its connection, which its ports tell, and to whoever that one
//! passes it on to. What comes before the first one waits for it in the daemon.

use abi::gue::{Asked, held, held_of, hops, pack};
use abi::limits::HOPS_MAX;
use abi::{Delivery, FragmentWay, Part, Reason, Service, Slot, Switch, VipAddress};

use crate::ethernet::Ethernet;
use crate::flow::Flow;
use crate::ip::{Ip, TCP};
use crate::steer::{ACK, Kind, Plan, Road, SYN, Sent, TCP_HEADER, UDP_HEADER, nobody};
use crate::{Frame, Outcome, Tables, Window};

/// Decides about a fragment whose headers were read.
#[inline(always)]
pub fn steer(frame: &mut impl Frame, tables: &impl Tables, part: &Part) -> Outcome {
    let Some(live) = tables.live_at(Switch(part.switch)) else { return nobody(Reason::NotVip) };
    let Ok(mut link) = Ethernet::parse(frame) else { return nobody(Reason::EthernetTruncated) };
    link.forget(tables);
    let packet = Ip::of(part);
    let Some(address) = tables.find_vip(&live, packet.destination) else {
        return nobody(Reason::NotVip);
    };
    let vip = address.services[0].vip;
    let (own, packed, asked) = (live.settings.own as u16, part.packed as u8, Asked(part.asked));
    let road = Road { tables, live, link: &link, packet: &packet, vip, hops: hops(packed), packed, asked };
    let outcome = road.go(frame, address, own, part);
    Outcome { hops: road.hops, ..outcome.unwrap_or_else(|reason| Outcome { vip, ..nobody(reason) }) }
}

impl<T: Tables> Road<'_, T> {
    #[inline(always)]
    fn go(&self, frame: &mut impl Frame, address: &VipAddress, own: u16, part: &Part) -> Result<Outcome, Reason> {
        let mut flow = Flow {
            v4: self.packet.v4,
            protocol: self.packet.protocol,
            source: self.packet.source,
            destination: self.packet.destination,
            source_port: 0,
            destination_port: 0,
        };
        let entropy = flow.entropy();
        let Some((first, meet)) = self.meeting_place(address, &flow) else {
            return Ok(self.stay(Reason::PortNotServed));
        };
        let vip = first.vip;
        let ends = |reason| Ok(Outcome { vip, ..nobody(reason) });
        // Nobody was asked for it yet, so it is on its way to where they meet, or there.
        let meets = meet == own && self.asked.at(0) == 0;
        if !meets && self.hops == 0 {
            if meet == 0 {
                return ends(Reason::SlotEmpty);
            }
            let packed = pack(1, held::UNASKED, 0);
            let plan = Plan { vip, to: meet, packed, asked: Asked::NOBODY, sent: Sent::FRAGMENT, end: None };
            return self.send::<false>(frame, plan, entropy);
        }
        let local = if self.hops > 0 { Reason::Decapsulated } else { Reason::FragmentLocal };
        let plan = if part.later != 0 {
            if self.hops >= HOPS_MAX {
                return ends(local);
            }
            let Some(way) = self.tables.way(part) else {
                return ends(if self.tables.hold(part) { Reason::FragmentHeld } else { Reason::FragmentEarly });
            };
            if way.packed == Delivery::BARE {
                if way.machine == 0 {
                    // As the first one: without its ports there is nothing that chooses another.
                    return ends(Reason::SlotEmpty);
                }
                let delivery = self.delivery(*part, &flow, first, Delivery::PART, way.machine);
                return Ok(self.tables.deliver(frame, delivery));
            }
            if way.machine == 0 {
                return ends(local);
            }
            // As the first one went, but never with less behind it than there is: whatever is remembered, no loop.
            let packed = way.packed as u8;
            let went = if hops(packed) > self.hops { hops(packed) } else { self.hops + 1 };
            let asked = if held_of(packed) != held::UNASKED { Asked::NOBODY.and(own) } else { Asked::NOBODY };
            Plan { vip, to: way.machine as u16, packed: packed & !0x0f | went, asked, sent: Sent::FRAGMENT, end: None }
        } else {
            let kind = self.read_first(frame, &mut flow, part)?;
            let kind = Kind(self.tables.forget(kind.0));
            flow.v4 = self.tables.forget(flow.v4 as usize) != 0;
            flow.protocol = self.tables.forget(flow.protocol as usize) as u8;
            let Some(service) = self.find_service(address, &flow, 0) else {
                self.tables.remember(part, FragmentWay::default());
                return Ok(self.stay(Reason::PortNotServed));
            };
            // Its ports are seen where all fragments meet: there it is counted, by whatever way it came.
            if meets && let Some(reason) = self.limited(&flow, service, kind, 0) {
                self.tables.remember(part, FragmentWay::default());
                return Ok(Outcome { vip: service.vip, ..nobody(reason) });
            }
            if service.flags & Service::BACKENDS != 0 {
                let what = kind.0 as u32 | Delivery::PART | Delivery::FIRST;
                return Ok(self.tables.deliver(frame, self.delivery(*part, &flow, service, what, 0)));
            }
            let plan = self.choose::<false>(&flow, service, kind, 0, self.hops > 0 && !meets);
            let (machine, packed) = (plan.to as u32, plan.packed as u32);
            self.tables.remember(part, FragmentWay { at_ns: 0, machine, packed });
            plan
        };
        self.send::<false>(frame, plan, entropy)
    }

    /// The machine where all fragments of the datagram meet, 0 for nobody, and whose those are that tell no port. On their way to a backend
    /// they meet where they come in: routers send those of a datagram one way.
    #[inline(always)]
    fn meeting_place<'v>(&self, address: &'v VipAddress, portless: &Flow) -> Option<(&'v Service, u16)> {
        let mut i = 0;
        loop {
            if i as u32 >= address.count {
                return None;
            }
            if address.services.get(i)?.protocol == portless.protocol {
                break;
            }
            i += 1;
        }
        let service = address.services.get(self.tables.forget(i))?;
        let number = Slot::number(portless.hash(&service.counts, self.live.settings.seed));
        let slot = self.tables.slot(service.table, number);
        let mut meet = if slot.current() == 0 { slot.previous() } else { slot.current() };
        if service.flags & Service::BACKENDS != 0 {
            meet = self.live.settings.own as u16;
        }
        Some((service, self.tables.forget(meet as usize) as u16))
    }

    /// The ports of the first one, and what it is to its connection.
    #[inline(always)]
    fn read_first(&self, frame: &impl Frame, flow: &mut Flow, part: &Part) -> Result<Kind, Reason> {
        let (at, end) = (part.transport as usize, self.packet.at + self.packet.length);
        if at + UDP_HEADER > end {
            return Err(Reason::TransportTruncated);
        }
        let Some(w) = frame.window::<UDP_HEADER>(at) else { return Err(Reason::TransportTruncated) };
        flow.source_port = w.u16(0);
        flow.destination_port = w.u16(2);
        if flow.protocol != TCP {
            return Ok(Kind::OPENING);
        }
        if at + TCP_HEADER > end {
            // Without flags: nobody opens a connection with one.
            return Ok(Kind::ESTABLISHED);
        }
        let Some(w) = frame.window::<TCP_HEADER>(at) else { return Err(Reason::TransportTruncated) };
        let opens = w.u8(13) & (SYN | ACK) == SYN;
        Ok(if opens { Kind::OPENING } else { Kind::ESTABLISHED })
    }
}
