//! The road of a packet: unwrap it if another machine sent it, find the VIP, find the owner, keep it or send it on.

use abi::config::lease;
use abi::gue::{Asked, held};
use abi::limits::{HOPS_MAX, HOPS_MAX_BEFORE, SERVICES_MAX};
use abi::{Delivery, FragmentKey, Machine, Part, Reason, Service, Slot, VipAddress};

use crate::ethernet::{self, Ethernet};
use crate::flow::Flow;
use crate::gue::{self, Wrap};
use crate::icmp::{self, Message};
use crate::ip::{self, ICMP, ICMP_V6, Ip, TCP, Transport, UDP};
use crate::owners::{Decision, Question};
use crate::{Frame, Live, Tables, Window, syn, usual};

/// Why the packet met its fate, and whose counters say so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub reason: Reason,
    /// 0: none.
    pub vip: u16,
    /// The machine it was sent to; 0: none.
    pub machine: u16,
    /// Tunnels it had been through when it arrived.
    pub hops: u8,
    /// A number of [`watched`].
    pub watched: u8,
}

/// Nothing is done with a decision but to hand it on.
pub struct AsItIs;

impl usual::End for AsItIs {
    type Made = Outcome;

    #[inline(always)]
    fn end(&self, _: &Live<'_>, outcome: Outcome) -> Outcome {
        outcome
    }
}

/// Whether a packet is of a connection whose virtual IP takes only so many without SYN cookies.
pub mod watched {
    use crate::ip::TCP;

    pub const NOT: u8 = 0;
    /// It opens a connection.
    pub const OPENS: u8 = 1;
    /// It belongs to one, or says so.
    pub const BELONGS: u8 = 2;

    #[inline(always)]
    pub(super) fn of(kind: super::Kind, protocol: u8) -> u8 {
        // Looked into instead of a match: one road for the verifier.
        let number = (kind.0 as u32 & 3) | ((protocol != TCP) as u32) << 2;
        ((OPENS as u32 | (BELONGS as u32) << 4) >> (number * 4)) as u8 & 0x0f
    }
}

/// Decides about the frame and changes it accordingly: as [`general`] says, which is asked where [`usual::steer`] does not decide.
#[inline(always)]
pub fn steer<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Outcome {
    match usual::steer(frame, tables, &AsItIs) {
        Some(Ok(outcome) | Err(outcome)) => outcome,
        None => general(frame, tables),
    }
}

/// Decides about any frame. On a verdict of Pass or Drop for a reason other than
/// `Decapsulated` and `DecapsulatedOrphan` its bytes are as they were, or nobody reads them again.
#[inline(always)]
pub fn general<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Outcome {
    let Some(live) = tables.live() else { return nobody(Reason::NotVip) };
    let mut link = match Ethernet::parse(frame) {
        Ok(link) => link,
        Err(reason) => return nobody(reason),
    };
    link.forget(tables);
    let outer = match parse_ip(frame, &link) {
        Ok(ip) => ip,
        Err(reason) => return nobody(reason),
    };

    let (mut packed, mut asked) = (0, Asked::NOBODY);
    let mut packet = outer;
    if gue::is_candidate(&outer, live.settings) {
        match gue::recognise(frame, &outer, &live, tables) {
            Ok(None) => {}
            Ok(Some(tunnel)) => {
                if !gue::unwrap(frame, &link, &tunnel) {
                    return nobody(Reason::GueTruncated);
                }
                (packed, asked) = (tunnel.packed, tunnel.asked);
                // A count that no machine of ours writes is one that must not be followed. What comes back to who was asked already is
                // meant to stay, as what has passed many and nobody was asked for: machines before said so with a lower count.
                let hops = abi::gue::hops(packed);
                let back = asked.has(live.settings.own as u16) | ((asked.0 == 0) & (hops >= HOPS_MAX_BEFORE));
                packed |= 0x0f * ((hops == 0) | back) as u8;
                let mut inner = link;
                inner.kind = tunnel.inner;
                packet = match parse_ip(frame, &inner) {
                    Ok(ip) => ip,
                    Err(Reason::NotVip) => return nobody(Reason::GueInnerNotVip),
                    Err(reason) => return nobody(reason),
                };
            }
            Err(reason) => return nobody(reason),
        }
    }

    packet.v4 = tables.forget(packet.v4 as usize) != 0;
    packet.at = link.length;
    packet.forget(tables);
    let packed = tables.forget(packed as usize) as u8;
    let asked = [asked.0 as u32, (asked.0 >> 32) as u32].map(|half| tables.forget(half as usize) as u64);
    let hops = abi::gue::hops(packed);
    let asked = Asked(asked[0] | asked[1] << 32);

    let Some(address) = tables.find_vip(&live, packet.destination) else {
        let reason = if hops == 0 { Reason::NotVip } else { Reason::GueInnerNotVip };
        return Outcome { hops, ..nobody(reason) };
    };
    // Whose it is that tells no port: of those that share the address, one that is always the same.
    let vip = address.services[0].vip;
    let listed = tables.access_listed();
    if listed != 0
        && let Some(reason) = tables.kept_out(&packet.source, hops, listed)
    {
        return Outcome { vip, hops, ..nobody(reason) };
    }
    if address.backends != 0 {
        // Before anything is read that divides the roads.
        let (source, destination) = (packet.source, packet.destination);
        let part = Part {
            key: FragmentKey { source, destination, id: 0, protocol: 0 },
            switch: live.switch.0,
            arrived: 0,
            asked: asked.0,
            packed: packed as u32,
            at: packet.at as u32,
            transport: 0,
            length: packet.length as u32,
            class: packet.class as u32,
            later: Part::WHOLE,
        };
        return tables.leave(frame, part);
    }
    let transport = match packet.transport(frame, tables) {
        Ok(transport) => transport,
        Err(reason) => return Outcome { vip, hops, ..nobody(reason) },
    };

    if transport.fragment && (transport.protocol == TCP || transport.protocol == UDP) {
        let (source, destination) = (packet.source, packet.destination);
        let part = Part {
            key: FragmentKey { source, destination, id: transport.id, protocol: transport.protocol as u32 },
            switch: live.switch.0,
            arrived: 0,
            asked: asked.0,
            packed: packed as u32,
            at: packet.at as u32,
            transport: transport.at as u32,
            length: packet.length as u32,
            class: packet.class as u32,
            later: transport.later as u32,
        };
        return tables.leave(frame, part);
    }
    let road = Road { tables, live, link: &link, packet: &packet, vip, hops, packed, asked };
    let outcome = road.travel::<false>(frame, address, &transport);
    let outcome = Outcome { hops, ..outcome.unwrap_or_else(|reason| Outcome { vip, ..nobody(reason) }) };
    if outcome.watched == watched::NOT || !syn::is_mine(outcome.reason) {
        return outcome;
    }
    tables.watch(frame, &live, outcome)
}

/// What is settled about a packet once it is known to be for a VIP.
pub(crate) struct Road<'a, T> {
    pub tables: &'a T,
    pub live: Live<'a>,
    pub link: &'a Ethernet,
    pub packet: &'a Ip,
    /// For whom it is counted while its ports are not known.
    pub vip: u16,
    /// Tunnels behind it.
    pub hops: u8,
    /// What the last of them said, as [`abi::gue::pack`] has it.
    pub packed: u8,
    /// Machines that were asked.
    pub asked: Asked,
}

/// What a packet is to its connection, and so what may be done with it. A number behind a name, so that it can be forgotten.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind(pub usize);

impl Kind {
    /// May begin something: TCP SYN, any datagram.
    pub const OPENING: Kind = Kind(0);
    /// Belongs to a TCP connection that somebody holds.
    pub const ESTABLISHED: Kind = Kind(1);
    const ICMP_ERROR: Kind = Kind(3);
}

// Behind their backs they are told to another program.
const _: () = assert!(Kind::OPENING.0 == Delivery::OPENS as usize && Kind::ICMP_ERROR.0 == Delivery::ERROR as usize);

/// Why a packet is sent on, as a number for the same reason.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent(usize);

impl Sent {
    pub const FORWARDED: Sent = Sent(0);
    const SECOND_CHANCE: Sent = Sent(1);
    const RELAYED: Sent = Sent(2);
    const STOOD_IN: Sent = Sent(3);
    pub const FRAGMENT: Sent = Sent(4);
    /// From here on, nothing may be answered.
    const ICMP_ERROR: Sent = Sent(5);
    const ICMP_ERROR_AGAIN: Sent = Sent(6);

    #[inline(always)]
    pub fn reason(self) -> Reason {
        match self {
            Sent::SECOND_CHANCE | Sent::ICMP_ERROR_AGAIN => Reason::SecondChance,
            Sent::RELAYED => Reason::SecondChanceRelayed,
            Sent::STOOD_IN => Reason::StoodIn,
            Sent::FRAGMENT => Reason::FragmentForwarded,
            Sent::ICMP_ERROR => Reason::IcmpErrorForwarded,
            _ => Reason::Forwarded,
        }
    }
}

/// Whom a packet is sent to, and what the tunnel says.
pub(crate) struct Plan {
    pub vip: u16,
    pub to: u16,
    /// As [`abi::gue::pack`] has it.
    pub packed: u8,
    pub asked: Asked,
    pub sent: Sent,
    /// Why it goes to nobody, if so. The rest has values all the same: LLVM (22) copies what has none, and the verifier refuses that.
    pub end: Option<Reason>,
}

impl Plan {
    #[inline(always)]
    const fn ends(vip: u16, reason: Reason) -> Plan {
        Plan { vip, to: 0, packed: 0, asked: Asked::NOBODY, sent: Sent::FORWARDED, end: Some(reason) }
    }
}

impl<T: Tables> Road<'_, T> {
    /// `BACKENDS`: the slots of the address name those.
    #[inline(always)]
    pub fn travel<const BACKENDS: bool>(
        &self,
        frame: &mut impl Frame,
        address: &VipAddress,
        transport: &Transport,
    ) -> Result<Outcome, Reason> {
        let (mut flow, kind) = match transport.protocol {
            TCP | UDP => self.read_ports(frame, transport)?,
            ICMP | ICMP_V6 if self.packet.v4 == (transport.protocol == ICMP) => {
                if transport.fragment {
                    return Ok(self.stay(Reason::IcmpPassed));
                }
                match icmp::read(frame, self.packet, transport)? {
                    Message::EchoRequest if self.hops == 0 && self.packet.is_plain() => {
                        icmp::answer_echo(frame, self.link, self.packet, transport)?;
                        return Ok(Outcome { vip: self.vip, ..nobody(Reason::EchoAnswered) });
                    }
                    Message::Error(flow) => (flow, Kind::ICMP_ERROR),
                    _ => return Ok(self.stay(Reason::IcmpPassed)),
                }
            }
            _ => return Ok(self.stay(Reason::ProtocolNotServed)),
        };
        flow.v4 = self.tables.forget(flow.v4 as usize) != 0;
        flow.protocol = self.tables.forget(flow.protocol as usize) as u8;
        let kind = Kind(self.tables.forget(kind.0));
        match self.find_service(address, &flow, 0) {
            Some(service) => {
                if let Some(reason) = self.limited(&flow, service, kind, self.hops) {
                    return Ok(Outcome { vip: service.vip, ..nobody(reason) });
                }
                if BACKENDS {
                    return Ok(self.deliver(frame, &flow, service, kind, transport));
                }
                let plan = self.choose::<true>(&flow, service, kind, transport.at, self.hops > 0);
                let watched = match service.flags & Service::COOKIES {
                    0 => watched::NOT,
                    _ => watched::of(kind, flow.protocol),
                };
                if let Some(reason) = plan.end {
                    return Ok(Outcome { vip: plan.vip, watched, ..nobody(reason) });
                }
                self.send::<true>(frame, plan, flow.entropy())
            }
            None if kind == Kind::ICMP_ERROR => Ok(self.stay(Reason::IcmpPassed)),
            None => Ok(self.stay(Reason::PortNotServed)),
        }
    }

    /// To a backend.
    #[inline(always)]
    fn deliver(
        &self,
        frame: &mut impl Frame,
        flow: &Flow,
        service: &Service,
        kind: Kind,
        transport: &Transport,
    ) -> Outcome {
        let part = Part {
            key: FragmentKey {
                source: flow.source,
                destination: flow.destination,
                id: transport.id,
                protocol: flow.protocol as u32,
            },
            switch: self.live.switch.0,
            arrived: 0,
            asked: 0,
            packed: self.packed as u32,
            at: self.packet.at as u32,
            transport: transport.at as u32,
            length: self.packet.length as u32,
            class: self.packet.class as u32,
            later: 0,
        };
        // What follows from this is found out there: here it would divide the roads.
        self.tables.deliver(frame, self.delivery(part, flow, service, kind.0 as u32, 0))
    }

    #[inline(always)]
    pub fn delivery(&self, part: Part, flow: &Flow, service: &Service, what: u32, to: u32) -> Delivery {
        Delivery {
            part,
            counts: service.counts,
            source_port: flow.source_port,
            destination_port: flow.destination_port,
            vip: service.vip,
            table: service.table,
            what,
            to,
        }
    }

    /// Why a connection may not begin now, if it is one that begins. `counted`: tunnels behind the place where that is asked.
    #[inline(always)]
    pub fn limited(&self, flow: &Flow, service: &Service, kind: Kind, counted: u8) -> Option<Reason> {
        if service.flags & Service::LIMITED == 0 {
            return None;
        }
        // One number for all three, so that none of them divides the roads from here on.
        let other = kind.0 ^ Kind::OPENING.0 | (flow.protocol ^ TCP) as usize | counted as usize;
        if self.tables.forget(other) != 0 {
            return None;
        }
        self.tables.limited(&self.live, service.vip, &flow.source)
    }

    #[inline(always)]
    fn read_ports(&self, frame: &impl Frame, transport: &Transport) -> Result<(Flow, Kind), Reason> {
        let mut flow = Flow {
            v4: self.packet.v4,
            protocol: transport.protocol,
            source: self.packet.source,
            destination: self.packet.destination,
            source_port: 0,
            destination_port: 0,
        };
        let least = if transport.protocol == TCP { TCP_HEADER } else { UDP_HEADER };
        if transport.at + least > self.packet.at + self.packet.length {
            return Err(Reason::TransportTruncated);
        }
        let Some(w) = frame.window::<UDP_HEADER>(transport.at) else { return Err(Reason::TransportTruncated) };
        flow.source_port = w.u16(0);
        flow.destination_port = w.u16(2);
        if transport.protocol == TCP {
            let Some(w) = frame.window::<TCP_HEADER>(transport.at) else { return Err(Reason::TransportTruncated) };
            if w.u8(13) & (SYN | ACK) != SYN {
                return Ok((flow, Kind::ESTABLISHED));
            }
        }
        Ok((flow, Kind::OPENING))
    }

    /// The first service of the protocol that serves the port, of those from `i` on.
    #[inline(always)]
    pub fn find_service<'v>(&self, address: &'v VipAddress, flow: &Flow, mut i: usize) -> Option<&'v Service> {
        loop {
            if i as u32 >= address.count {
                return None;
            }
            let service = address.services.get(i)?;
            if service.distance(flow.protocol, flow.destination_port) <= service.span() {
                break;
            }
            i += 1;
        }
        // A mask, because LLVM (22) multiplies before it compares, and the verifier then meets an unbounded offset.
        const { assert!(SERVICES_MAX.is_power_of_two()) };
        address.services.get(self.tables.merge(i) & (SERVICES_MAX - 1))
    }

    /// The owner of the flow, or who may have been; or why it stays. `tcp` is where its header lies, `arrived`: another machine has taken
    /// this one for the owner; `WHOLE`: it is no fragment.
    #[inline(always)]
    pub fn choose<const WHOLE: bool>(
        &self,
        flow: &Flow,
        service: &Service,
        kind: Kind,
        tcp: usize,
        arrived: bool,
    ) -> Plan {
        let hash = flow.hash(&service.counts, self.live.settings.seed);
        let (number, slot) = self.slot(hash, service);
        self.fate::<WHOLE>(flow, service, kind, tcp, arrived, (number, slot))
    }

    /// The number of the slot that a flow's hash chooses, and what it says.
    #[inline(always)]
    pub fn slot(&self, hash: u32, service: &Service) -> (u32, Slot) {
        let number = Slot::number(hash);
        (number, self.tables.slot(service.table, number))
    }

    /// What the tunnel to a machine says that is the first to get the packet.
    #[inline(always)]
    pub const fn first_tunnel(&self) -> u8 {
        abi::gue::pack(1, held::UNASKED, 0)
    }

    /// [`Road::choose`], when the slot is known.
    #[inline(always)]
    pub fn fate<const WHOLE: bool>(
        &self,
        flow: &Flow,
        service: &Service,
        kind: Kind,
        tcp: usize,
        arrived: bool,
        (number, slot): (u32, Slot),
    ) -> Plan {
        let settings = self.live.settings;
        let vip = service.vip;
        let own = settings.own as u16;
        // Only who has a socket for a connection can be told from who has not.
        let asks = flow.protocol == TCP && (kind == Kind::ESTABLISHED || kind == Kind::ICMP_ERROR);

        let mut to = slot.current();
        if to == 0 && asks {
            // Nobody takes new flows; the others still have theirs.
            to = slot.previous();
        }
        let past_all = self.hops >= HOPS_MAX;
        if !arrived && to != own && (WHOLE || !past_all) {
            if to == 0 {
                return Plan::ends(vip, Reason::SlotEmpty);
            }
            let sent = match kind {
                _ if !WHOLE => Sent::FRAGMENT,
                Kind::ICMP_ERROR => Sent::ICMP_ERROR,
                _ => Sent::FORWARDED,
            };
            // One that was led here was in a tunnel before.
            let packed = if WHOLE { self.first_tunnel() } else { abi::gue::pack(self.hops + 1, held::UNASKED, 0) };
            return Plan { vip, to, packed, asked: Asked::NOBODY, sent, end: None };
        }
        // Said where it is needed: carried along it would divide the roads.
        let local = || match kind {
            _ if arrived || !WHOLE && self.hops > 0 => Reason::Decapsulated,
            _ if !WHOLE => Reason::FragmentLocal,
            Kind::ICMP_ERROR => Reason::IcmpErrorLocal,
            _ if to == 0 => Reason::SlotEmpty,
            _ => Reason::Local,
        };
        if past_all {
            return Plan::ends(vip, local());
        }
        // And so would each of the four it can be.
        let lease = self.tables.forget(self.tables.lease().into()) as u8;
        // Of a VIP whose flows are spread by something else than before.
        let before = match service.flags & Service::BEFORE {
            0 => 0,
            _ => self.live.switch.generation() * settings.vips + vip as u32,
        };
        let opens = !asks && flow.protocol == TCP;
        let concerns = match (asks, opens) {
            // One that came through a tunnel may be another's by its table, or have been claimed on its way.
            (true, _) => slot.has_past() || before != 0 || arrived && !self.is_mine(slot, own) || lease >= lease::YOUNG,
            // Where the daemon has lived for long and nobody listens, that is an answer of its own: what another took would
            // not be looked for there.
            (_, true) => lease >= lease::YOUNG,
            _ => lease == lease::LAPSED,
        };
        if !concerns {
            return Plan::ends(vip, local());
        }
        let answers = WHOLE && kind == Kind::ESTABLISHED;
        let question = Question {
            tuple: flow.tuple(),
            number,
            slot: slot.0,
            asked: self.asked.0,
            table: service.table.into(),
            packed: self.packed.into(),
            flags: (asks as u32 * Question::ASKS)
                | (opens as u32 * Question::OPENS)
                | (flow.v4 as u32 * Question::V4)
                | (lease as u32 * Question::LEASE),
            own: own.into(),
            before,
            reserved: 0,
            slot_before: 0,
            ip: if answers { self.packet.at as u32 } else { 0 },
            tcp: if answers { tcp as u32 } else { 0 },
        };
        let decision = self.tables.decide(&question);
        if decision.machine() == 0 {
            let orphan = if self.hops > 0 { Reason::DecapsulatedOrphan } else { Reason::LocalOrphan };
            return Plan::ends(vip, if decision == Decision::ORPHAN { orphan } else { local() });
        }
        let sent = match (asks, arrived) {
            (false, _) => Sent::STOOD_IN,
            (true, true) => Sent::RELAYED,
            (true, false) if kind == Kind::ICMP_ERROR => Sent::ICMP_ERROR_AGAIN,
            (true, false) => Sent::SECOND_CHANCE,
        };
        let (to, packed) = (decision.machine(), decision.packed());
        Plan { vip, to, packed, asked: self.asked.and(own), sent, end: None }
    }

    /// Nobody else could hold what this machine holds of the slot, and nobody before it has claimed the packet.
    #[inline(always)]
    fn is_mine(&self, slot: Slot, own: u16) -> bool {
        slot == Slot::of(own) && abi::gue::held_of(self.packed) <= held::NOTHING
    }

    /// Into a tunnel.
    #[inline(always)]
    pub fn send<const WHOLE: bool>(&self, frame: &mut impl Frame, plan: Plan, entropy: u32) -> Result<Outcome, Reason> {
        let settings = self.live.settings;
        let vip = plan.vip;
        let counted = |reason| Ok(Outcome { vip, ..nobody(reason) });
        if let Some(reason) = plan.end {
            return counted(reason);
        }
        // Whatever the way here was.
        let forget = |number: usize| self.tables.forget(number);
        let to = forget(plan.to as usize) as u16;
        let asked = plan.asked.0;
        let asked = Asked(forget(asked as u32 as usize) as u64 | (forget((asked >> 32) as usize) as u64) << 32);
        let sent = Sent(forget(plan.sent.0));
        let packed = forget(plan.packed as usize) as u8;
        let Some(machine) = self.machine(to) else { return counted(Reason::MachineUnknown) };

        let needed = self.packet.length + gue::overhead(machine);
        if needed > settings.mtu as usize {
            // Nothing may be answered to a fragment or to an error.
            if !WHOLE || sent.0 >= Sent::ICMP_ERROR.0 {
                return counted(Reason::TooBigDropped);
            }
            return counted(match self.too_big(frame, machine) {
                Ok(()) => Reason::TooBigAnswered,
                Err(reason) => reason,
            });
        }
        let wrap = Wrap {
            v4: self.packet.v4,
            class: self.packet.class,
            length: self.packet.length,
            entropy,
            packed,
            asked,
            epoch: self.live.switch.epoch(),
        };
        if let Err(reason) = gue::wrap(frame, self.link, settings, machine, &wrap) {
            return counted(reason);
        }
        Ok(Outcome { vip, machine: to, ..nobody(sent.reason()) })
    }

    #[inline(always)]
    fn too_big(&self, frame: &mut impl Frame, machine: &Machine) -> Result<(), Reason> {
        let least = if self.packet.v4 { MTU_LEAST_V4 } else { MTU_LEAST_V6 };
        let fits = (self.live.settings.mtu as usize).saturating_sub(gue::overhead(machine));
        // What came through a tunnel fitted one, so only a smaller link of ours can be in the way; the answer would go to
        // the machine before, not to the client.
        // A sender that lets routers take its packets apart is not told: it would not listen (RFC 1191 section 3).
        if self.hops > 0 || fits < least || !self.packet.is_whole() {
            return Err(Reason::TooBigDropped);
        }
        icmp::answer_too_big(frame, self.link, self.packet, fits as u16)
    }

    #[inline(always)]
    fn machine(&self, index: u16) -> Option<&Machine> {
        self.any_machine(index).filter(|machine| machine.takes_gue())
    }

    /// Whatever it takes.
    #[inline(always)]
    pub fn any_machine(&self, index: u16) -> Option<&Machine> {
        let machines = self.live.settings.machines;
        if index == 0 || index as u32 >= machines {
            return None;
        }
        let at = self.live.switch.generation() * machines + index as u32;
        self.tables.machine(at)
    }

    /// Up the stack; a packet that came through a tunnel was already counted by who sent it.
    #[inline(always)]
    pub fn stay(&self, reason: Reason) -> Outcome {
        Outcome { vip: self.vip, ..nobody(if self.hops > 0 { Reason::Decapsulated } else { reason }) }
    }
}

#[inline(always)]
fn parse_ip(frame: &impl Frame, link: &Ethernet) -> Result<Ip, Reason> {
    match link.kind {
        ethernet::IPV4 => ip::Ip::parse_v4(frame, link.length),
        ethernet::IPV6 => ip::Ip::parse_v6(frame, link.length),
        _ => Err(Reason::NotIp),
    }
}

#[inline(always)]
pub(crate) fn nobody(reason: Reason) -> Outcome {
    Outcome { reason, vip: 0, machine: 0, hops: 0, watched: watched::NOT }
}

pub(crate) const TCP_HEADER: usize = 20;
pub(crate) const UDP_HEADER: usize = 8;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;
/// RFC 791: every host takes 68 bytes, but a path that small is an attack (RFC 4963); Linux itself stops at 552.
pub(crate) const MTU_LEAST_V4: usize = 552;
pub(crate) const MTU_LEAST_V6: usize = 1280;
