//! The road of a packet: unwrap it if another machine sent it, find the VIP, find the owner, keep it or send it on.

use abi::gue::held;
use abi::limits::{HOPS_ASKED, HOPS_MAX};
use abi::{Machine, Reason, Service, Slot, VipAddress, VipKey};

use crate::ethernet::{self, Ethernet};
use crate::flow::Flow;
use crate::gue::{self, Wrap};
use crate::icmp::{self, Message};
use crate::ip::{self, ICMP, ICMP_V6, Ip, TCP, Transport, UDP};
use crate::{Frame, Live, Tables, Window, tables};

/// Why the packet met its fate, and whose counters say so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub reason: Reason,
    /// 0: none.
    pub vip: u16,
    /// The machine it was sent to; 0: none.
    pub machine: u16,
}

/// Decides about the frame and changes it accordingly. On a verdict of Pass or Drop for a reason other than
/// `Decapsulated` and `DecapsulatedOrphan` its bytes are as they were, or nobody reads them again.
#[inline(always)]
pub fn steer<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Outcome {
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

    let (mut hops, mut looked, mut from) = (0, 0, 0);
    let mut packet = outer;
    if gue::is_candidate(&outer, live.settings) {
        match gue::recognise(frame, &outer, &live, tables) {
            Ok(None) => {}
            Ok(Some(tunnel)) => {
                if !gue::unwrap(frame, &link, &tunnel) {
                    return nobody(Reason::GueTruncated);
                }
                // A count that no machine of ours writes is one that must not be followed.
                hops = match abi::gue::hops(tunnel.packed) {
                    0 => HOPS_MAX,
                    hops => hops,
                };
                looked = abi::gue::held_of(tunnel.packed);
                from = tunnel.from;
                let mut inner = link;
                inner.kind = tunnel.inner;
                packet = match parse_ip(frame, &inner) {
                    Ok(ip) => ip,
                    Err(reason) => return nobody(reason),
                };
            }
            Err(reason) => return nobody(reason),
        }
    }

    packet.v4 = tables.forget(packet.v4 as usize) != 0;
    packet.at = link.length;
    packet.forget(tables);
    let hops = tables.forget(hops as usize) as u8;
    let looked = tables.forget(looked as usize) as u8;
    let from = tables.forget(from as usize) as u16;

    let key = VipKey { address: packet.destination, generation: live.switch.generation() };
    let Some(address) = tables.vip(&key) else {
        return nobody(if hops == 0 { Reason::NotVip } else { Reason::GueInnerNotVip });
    };
    let transport = match packet.transport(frame, tables) {
        Ok(transport) => transport,
        Err(reason) => return nobody(reason),
    };

    let road = Road { tables, live, link: &link, packet: &packet, hops, looked, from };
    road.travel(frame, address, &transport).unwrap_or_else(nobody)
}

/// What is settled about a packet once it is known to be for a VIP.
struct Road<'a, T> {
    tables: &'a T,
    live: Live<'a>,
    link: &'a Ethernet,
    packet: &'a Ip,
    /// Tunnels behind it.
    hops: u8,
    /// What the machine that sent it through the last of them holds: a number of [`held`].
    looked: u8,
    /// That machine.
    from: u16,
}

/// What a packet is to its connection, and so what may be done with it. A number behind a name, so that it can be forgotten.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind(usize);

impl Kind {
    /// May begin something: TCP SYN, any datagram.
    const OPENING: Kind = Kind(0);
    /// Belongs to a TCP connection that somebody holds.
    const ESTABLISHED: Kind = Kind(1);
    const FRAGMENT: Kind = Kind(2);
    const ICMP_ERROR: Kind = Kind(3);
}

/// Why a packet is sent on, as a number for the same reason.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sent(usize);

impl Sent {
    const FORWARDED: Sent = Sent(0);
    const SECOND_CHANCE: Sent = Sent(1);
    const RELAYED: Sent = Sent(2);
}

impl<T: Tables> Road<'_, T> {
    #[inline(always)]
    fn travel(&self, frame: &mut impl Frame, address: &VipAddress, transport: &Transport) -> Result<Outcome, Reason> {
        let (mut flow, kind) = match transport.protocol {
            TCP | UDP => self.read_ports(frame, transport)?,
            ICMP | ICMP_V6 if self.packet.v4 == (transport.protocol == ICMP) => {
                if transport.fragment {
                    return Ok(self.stay(Reason::IcmpPassed));
                }
                match icmp::read(frame, self.packet, transport)? {
                    Message::EchoRequest if self.hops == 0 && self.packet.is_plain() => {
                        icmp::answer_echo(frame, self.link, self.packet, transport)?;
                        let vip = address.services[0].vip;
                        return Ok(Outcome { reason: Reason::EchoAnswered, vip, machine: 0 });
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
        match self.find_service(address, &flow, kind) {
            Some(service) => self.send(frame, &flow, service, kind),
            None if kind == Kind::ICMP_ERROR => Ok(self.stay(Reason::IcmpPassed)),
            None => Ok(self.stay(Reason::PortNotServed)),
        }
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
        if transport.fragment {
            // Only the first fragment has ports, and all of them must go to one machine.
            return Ok((flow, Kind::FRAGMENT));
        }
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

    /// The first service of the protocol that serves the port; for a fragment, whose port is unknown, the first of the protocol.
    #[inline(always)]
    fn find_service<'v>(&self, address: &'v VipAddress, flow: &Flow, kind: Kind) -> Option<&'v Service> {
        let known = if kind == Kind::FRAGMENT { 0 } else { u16::MAX };
        let mut i = 0;
        loop {
            if i as u32 >= address.count {
                return None;
            }
            let service = address.services.get(i)?;
            if service.distance(flow.protocol, flow.destination_port, known) <= service.span() {
                break;
            }
            i += 1;
        }
        address.services.get(self.tables.forget(i))
    }

    /// To the owner of the flow, or to who may have been.
    #[inline(always)]
    fn send(&self, frame: &mut impl Frame, flow: &Flow, service: &Service, kind: Kind) -> Result<Outcome, Reason> {
        let slot = self.tables.slot(service.table, Slot::number(flow.hash(&service.counts)));
        let vip = service.vip;
        let counted = |reason| Ok(Outcome { reason, vip, machine: 0 });
        // Only who has a socket for a connection can be told from who has not.
        let asks = flow.protocol == TCP && (kind == Kind::ESTABLISHED || kind == Kind::ICMP_ERROR);

        let mut owner = slot.current();
        let mut machine;
        let mut sent;
        // What this machine holds, for who gets the packet next; and the tunnels that will be behind it then.
        let mut held = held::UNASKED as usize;
        let mut hops = self.hops + 1;
        if self.hops > 0 {
            if !asks || self.hops >= HOPS_MAX {
                return counted(Reason::Decapsulated);
            }
            held = tables::held(self.tables.tcp_state(&flow.connection()));
            if keeps(self.looked, held, self.hops) {
                return counted(Reason::Decapsulated);
            }
            // A machine before holds a closing socket, and nobody has a better claim: back to it, its stack answers. All ones then;
            // chosen by masks, because the verifier would follow each way to its end.
            let back = 0u32.wrapping_sub(u32::from(self.looked) >> 1);
            let choose = |then: u32, otherwise: u32| then & back | otherwise & !back;
            held = choose(u32::from(self.looked), held as u32) as usize;
            hops = choose(u32::from(HOPS_MAX), u32::from(hops)) as u8;
            // Else, usually this machine is the current owner and the previous one is asked. A machine whose table is older than
            // the sender's finds the holder under the current owner.
            owner = choose(u32::from(self.from), u32::from(owner)) as u16;
            machine = self.other(owner);
            if machine.is_none() {
                owner = choose(0, u32::from(slot.previous())) as u16;
                machine = self.other(owner);
            }
            if machine.is_none() {
                return counted(Reason::DecapsulatedOrphan);
            }
            sent = Sent::RELAYED;
        } else {
            if owner == 0 {
                return counted(Reason::SlotEmpty);
            }
            machine = self.machine(owner);
            let Some(current) = machine else { return counted(Reason::MachineUnknown) };
            sent = Sent::FORWARDED;
            if current.is_own() {
                let local = match kind {
                    Kind::FRAGMENT => Reason::FragmentLocal,
                    Kind::ICMP_ERROR => Reason::IcmpErrorLocal,
                    _ => Reason::Local,
                };
                let previous = slot.previous();
                if !asks || previous == 0 || previous == owner {
                    return counted(local);
                }
                held = tables::held(self.tables.tcp_state(&flow.connection()));
                if held == held::LIVE as usize {
                    return counted(local);
                }
                // A socket that is closing is no owner: the client may have begun anew at the machine before.
                machine = self.other(previous);
                if machine.is_none() {
                    return counted(if held > held::NOTHING as usize { local } else { Reason::LocalOrphan });
                }
                owner = previous;
                sent = Sent::SECOND_CHANCE;
            }
        }
        let Some(machine) = machine else { return counted(Reason::MachineUnknown) };
        sent = Sent(self.tables.forget(sent.0));
        let packed = self.tables.forget(abi::gue::pack(hops, held as u8) as usize) as u8;

        let needed = self.packet.length + gue::overhead(machine);
        if needed > self.live.settings.mtu as usize {
            return counted(match self.too_big(frame, machine, kind) {
                Ok(()) => Reason::TooBigAnswered,
                Err(reason) => reason,
            });
        }
        let wrap = Wrap {
            v4: self.packet.v4,
            class: self.packet.class,
            length: self.packet.length,
            entropy: flow.entropy(),
            packed,
            epoch: self.live.switch.epoch(),
        };
        if let Err(reason) = gue::wrap(frame, self.link, self.live.settings, machine, &wrap) {
            return counted(reason);
        }
        let reason = match (sent, kind) {
            (Sent::SECOND_CHANCE, _) => Reason::SecondChance,
            (Sent::RELAYED, _) => Reason::SecondChanceRelayed,
            (_, Kind::FRAGMENT) => Reason::FragmentForwarded,
            (_, Kind::ICMP_ERROR) => Reason::IcmpErrorForwarded,
            _ => Reason::Forwarded,
        };
        Ok(Outcome { reason, vip, machine: owner })
    }

    #[inline(always)]
    fn too_big(&self, frame: &mut impl Frame, machine: &Machine, kind: Kind) -> Result<(), Reason> {
        let least = if self.packet.v4 { MTU_LEAST_V4 } else { MTU_LEAST_V6 };
        let fits = (self.live.settings.mtu as usize).saturating_sub(gue::overhead(machine));
        // What came through a tunnel fitted one, so only a smaller link of ours can be in the way; the answer would go to
        // the machine before, not to the client.
        // A sender that lets routers take its packets apart is not told: it would not listen (RFC 1191 section 3).
        if self.hops > 0 || fits < least || !self.packet.is_whole() || matches!(kind, Kind::FRAGMENT | Kind::ICMP_ERROR)
        {
            return Err(Reason::TooBigDropped);
        }
        icmp::answer_too_big(frame, self.link, self.packet, fits as u16)
    }

    #[inline(always)]
    fn machine(&self, index: u16) -> Option<&Machine> {
        let machines = self.live.settings.machines;
        if index == 0 || index as u32 >= machines {
            return None;
        }
        let at = self.live.switch.generation() * machines + index as u32;
        self.tables.machine(at).filter(|machine| machine.is_present())
    }

    /// The machine, if it is there and not this one.
    #[inline(always)]
    fn other(&self, index: u16) -> Option<&Machine> {
        self.machine(index).filter(|machine| !machine.is_own())
    }

    /// Up the stack; a packet that came through a tunnel was already counted by who sent it.
    #[inline(always)]
    fn stay(&self, reason: Reason) -> Outcome {
        nobody(if self.hops > 0 { Reason::Decapsulated } else { reason })
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

/// Whether a packet that came through a tunnel stays, by what the machine before holds, what this one holds and how many tunnels are
/// behind it. Looked up in a word, because the verifier would follow each comparison to its end.
#[inline(always)]
fn keeps(looked: u8, held: usize, hops: u8) -> bool {
    let place = u32::from(looked & 3) | (held as u32 - 1) << 2 | u32::from(hops >> 1 & 1) << 4;
    KEEPS >> place & 1 != 0
}

const KEEPS: u32 = {
    let mut word = 0u32;
    let mut place = 0;
    while place < 32 {
        let (looked, held, asked) = (place as u8 & 3, (place as u8 >> 2 & 3) + 1, place >> 4 != 0);
        // A connection, a better claim than the machine before has, or nobody left to ask.
        let better = looked != held::UNASKED && held > looked;
        if held == held::LIVE || better || (asked && looked <= held::NOTHING) {
            word |= 1 << place;
        }
        place += 1;
    }
    word
};
const _: () = assert!(HOPS_ASKED == 2 && HOPS_MAX == 3, "the second bit of the count tells them apart");

#[inline(always)]
fn nobody(reason: Reason) -> Outcome {
    Outcome { reason, vip: 0, machine: 0 }
}

const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
/// RFC 791: every host takes 68 bytes, but a path that small is an attack (RFC 4963); Linux itself stops at 552.
const MTU_LEAST_V4: usize = 552;
const MTU_LEAST_V6: usize = 1280;
