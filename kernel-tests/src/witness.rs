//! A second opinion on every packet: what is promised of steering (ebpf/README.md, the layout of the tunnel in `abi::gue`) and what the
//! RFCs say, written down once more as plainly as can be, over lists and byte slices, without a line of `datapath`. Where the two differ
//! one of them is wrong.
//!
//! It shares words with the programs (`abi::Reason`, and what `edge_kernel::apply` is given), and nothing that decides. What it does not
//! foretell: the source port of a tunnel, or the source address and the flow label of one to a backend, only their range; limits that
//! are reached.
//!
//! Reading order: this file is the road; `read` takes packets apart, `write` makes them, `spread` is the hash.

mod read;
mod spread;
mod write;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use abi::config::lease;
use abi::{Reason, Verdict};
use edge_kernel::{AccessPrefix, Machine, Protocol, Vip};

use read::{Header, ICMP, ICMP_V6, Link, Message, TCP, UDP, Upper};
use write::Around;

/// What a socket of this machine is worth to its connection, the more the higher (`abi::gue::held`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Claim {
    Unasked,
    Nothing,
    TimeWait,
    Closing,
    Live,
}

/// What becomes of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Judgement {
    pub reason: Reason,
    /// Where it was sent; 0: nowhere.
    pub machine: u16,
    /// The frame afterwards; of one that is dropped as it was.
    pub frame: Vec<u8>,
}

/// This machine, what it was told, and what it holds.
#[derive(Clone, Debug)]
pub struct Witness {
    pub own: u16,
    pub own_v4: Ipv4Addr,
    pub own_v6: Ipv6Addr,
    pub mtu: usize,
    pub epoch: u16,
    pub seed: u32,
    /// The one that is sent, and the others that are taken.
    pub cookie: u32,
    pub cookies: [u32; 2],
    pub machines: BTreeMap<u16, Machine>,
    pub vips: Vec<Vip>,
    pub prefixes: Vec<AccessPrefix>,
    /// Sources that are banned: an address of IPv6 stands for its /64.
    pub bans: Vec<IpAddr>,
    /// By client and virtual IP.
    pub sockets: HashMap<(SocketAddr, SocketAddr), Claim>,
    /// Virtual IPs and ports that this machine has a listening socket for.
    pub listeners: BTreeSet<SocketAddr>,
    /// Whether the daemon lives: a number of `abi::config::lease`.
    pub lease: u8,
    /// Whether the daemon takes fragments that come too early.
    pub holds: bool,
    /// Virtual IPs to which connections begin faster than they take without SYN cookies, by number.
    pub flooded: BTreeSet<u16>,
    /// What a listener would take of who answers a SYN; none: no listener would.
    pub syn_cookie: Option<u32>,
    /// The MAC of the router that a client is reached by, where there is one.
    pub router_of: fn(IpAddr) -> Option<[u8; 6]>,
    /// Where first fragments went; the kernel remembers 16,384 of them.
    ways: HashMap<Datagram, Option<Fate>>,
    /// Who got the connections that began in slots which had others before; the kernel remembers 65,536 of them.
    flows: RefCell<HashMap<(SocketAddr, SocketAddr), u16>>,
}

/// What all fragments of a datagram have in common.
type Datagram = (IpAddr, IpAddr, u8, u32);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flow {
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub protocol: u8,
}

/// What the tunnels behind a packet say of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Past {
    pub hops: u8,
    pub claim: Claim,
    /// Whose the claim is: a place in `asked`.
    pub at: u8,
    /// The last one first.
    pub asked: [u16; 4],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Opens,
    Belongs,
    Error,
}

/// Where a packet goes, and what its tunnel says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fate {
    to: u16,
    /// As to a backend: without what machines of ours tell each other.
    bare: bool,
    past: Past,
    reason: Reason,
}

/// A packet and all that has been found out about it.
struct Road<'f> {
    frame: &'f [u8],
    link: Link,
    header: Header,
    past: Past,
    /// A part of something: nothing may be answered.
    part: bool,
    error: bool,
}

impl Past {
    const NONE: Past = Past { hops: 0, claim: Claim::Unasked, at: 0, asked: [0; 4] };

    fn has_asked(&self, machine: u16) -> bool {
        self.asked.contains(&machine)
    }

    /// The same with one more behind it.
    fn and(&self, machine: u16) -> [u16; 4] {
        let [last, before, second, first] = self.asked;
        // Of more than four the first is kept, and the one after it forgotten.
        if first == 0 { [machine, last, before, second] } else { [machine, last, before, first] }
    }
}

impl Witness {
    pub fn new(machines: Vec<Machine>, vips: Vec<Vip>, own_addresses: [IpAddr; 2]) -> Witness {
        let own = machines.iter().find(|machine| machine.own).map_or(0, |machine| machine.index);
        let [IpAddr::V4(own_v4), IpAddr::V6(own_v6)] = own_addresses else { panic!("IPv4 first, then IPv6") };
        Witness {
            own,
            own_v4,
            own_v6,
            mtu: 1500,
            epoch: 1,
            seed: 0,
            cookie: crate::world::COOKIE,
            cookies: [crate::world::COOKIE_BEFORE, crate::world::COOKIE_NEXT],
            machines: machines.into_iter().map(|machine| (machine.index, machine)).collect(),
            vips,
            prefixes: Vec::new(),
            bans: Vec::new(),
            sockets: HashMap::new(),
            listeners: BTreeSet::new(),
            lease: lease::OFF,
            holds: false,
            flooded: BTreeSet::new(),
            syn_cookie: None,
            router_of: |_| None,
            ways: HashMap::new(),
            flows: RefCell::default(),
        }
    }

    pub fn judge(&mut self, frame: &[u8]) -> Judgement {
        let judgement = self.travel(frame);
        judgement.unwrap_or_else(|reason| Judgement { reason, machine: 0, frame: frame.to_vec() })
    }

    fn travel(&mut self, frame: &[u8]) -> Result<Judgement, Reason> {
        let mut link = read::link(frame)?;
        let mut header = read::header(frame, &link)?;
        let mut past = Past::NONE;
        let unwrapped;
        let mut frame = frame;
        let own = if header.v4 { IpAddr::V4(self.own_v4) } else { IpAddr::V6(self.own_v6) };
        if header.destination == own
            && let Some(tunnel) = read::tunnel(frame, &header)?
        {
            let known =
                |machine: &Machine| !machine.own && machine.backend.is_none() && machine.address == header.source;
            if !self.machines.values().any(known) {
                return Err(Reason::GueSenderUnknown);
            }
            if tunnel.cookie == 0 || tunnel.cookie != self.cookie && !self.cookies.contains(&tunnel.cookie) {
                return Err(Reason::GueCookieWrong);
            }
            let inner = frame.get(tunnel.carried_at..).unwrap_or_default();
            if inner.len() < if tunnel.carries_v4 { 20 } else { 40 } {
                return Err(Reason::GueTruncated);
            }
            link.kind = if tunnel.carries_v4 { read::IPV4 } else { read::IPV6 };
            unwrapped = [&link.bytes()[..], inner].concat();
            frame = &unwrapped;
            past = tunnel.past;
            // What comes back to a machine that was asked, or has passed what many once were and nobody was asked for, stays.
            if past.has_asked(self.own) || past.asked == [0; 4] && past.hops >= 6 {
                past.hops = 15;
            }
            header = read::header(frame, &link)?;
        }

        // RFC 4291 section 2.5.5.2: an IPv4 address as IPv6 has it is no address on the wire.
        let mapped = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        let nobody = if past.hops == 0 { Reason::NotVip } else { Reason::GueInnerNotVip };
        if mapped(header.source) || mapped(header.destination) {
            return Err(nobody);
        }
        if self.of(header.destination).is_empty() {
            return Err(nobody);
        }
        if past.hops == 0 && self.is_denied(header.source) {
            return Err(Reason::AccessDenied);
        }
        let is = |ban: &IpAddr| spread::lies_in(header.source, *ban, if ban.is_ipv4() { 32 } else { 64 });
        if self.bans.iter().any(is) {
            return Err(Reason::Banned);
        }
        let upper = read::upper(frame, &header)?;
        let mut road = Road { frame, link, header, past, part: upper.part.is_some(), error: false };
        if road.part && (upper.protocol == TCP || upper.protocol == UDP) {
            return self.fragment(&road, &upper);
        }
        let (flow, kind) = match (upper.protocol, road.header.v4) {
            (TCP | UDP, _) => read::ports(frame, &road.header, &upper)?,
            (ICMP, true) | (ICMP_V6, false) if road.part => return Ok(road.stays(Reason::IcmpPassed)),
            (ICMP, true) | (ICMP_V6, false) => match read::message(frame, &road.header, &upper)? {
                Message::EchoRequest if past.hops == 0 && !road.header.has_options() => {
                    let frame = write::echo_reply(frame, &road.link, &road.header, upper.at);
                    return Ok(Judgement { reason: Reason::EchoAnswered, machine: 0, frame });
                }
                Message::Error(flow) => {
                    road.error = true;
                    (flow, Kind::Error)
                }
                _ => return Ok(road.stays(Reason::IcmpPassed)),
            },
            _ => return Ok(road.stays(Reason::ProtocolNotServed)),
        };
        let Some(vip) = self.service(&flow) else {
            return Ok(road.stays(if road.error { Reason::IcmpPassed } else { Reason::PortNotServed }));
        };
        match self.fate(&road, vip, &flow, kind, past.hops > 0) {
            Ok(fate) => self.send(&road, fate),
            Err(reason) => {
                let watched = vip.limits.cookies.is_some() && self.flooded.contains(&vip.id);
                let answered = (watched && flow.protocol == TCP && kind != Kind::Error)
                    .then(|| self.defend(&road, &upper, reason));
                Ok(answered.flatten().unwrap_or_else(|| road.ends(reason)))
            }
        }
    }

    /// What becomes of a segment that would stay, beside a flood of SYNs: an answer that nothing is remembered for (RFC 4987 section 3.6), or
    /// the end, where it says to be of a connection that nobody here knows.
    fn defend(&self, road: &Road<'_>, upper: &Upper, reason: Reason) -> Option<Judgement> {
        let stays = [Reason::Local, Reason::LocalOrphan, Reason::Decapsulated, Reason::DecapsulatedOrphan];
        let header = &road.header;
        let first = header.at + if header.v4 { 20 } else { 40 };
        if !stays.contains(&reason) || header.has_options() || upper.at != first {
            return None;
        }
        let tcp = road.frame.get(first..header.end())?;
        let (length, flags) = (usize::from(tcp.get(12)? >> 4) * 4, *tcp.get(13)?);
        if length < 20 || length > tcp.len() {
            return None;
        }
        if flags & 0x12 != 0x02 {
            // A listener that makes cookies would have said so, had it been one of its own.
            return self.syn_cookie.map(|_| Judgement {
                reason: Reason::SynCookieWrong,
                machine: 0,
                frame: road.frame.to_vec(),
            });
        }
        // With FIN, RST or data it is more than a SYN.
        if flags & 0x05 != 0 || length != tcp.len() {
            return None;
        }
        let cookie = self.syn_cookie?;
        let to = match road.past.hops {
            0 => road.link.from,
            _ if road.link.tag.is_some() => return None,
            _ => (self.router_of)(header.source)?,
        };
        // What fits a tunnel over IPv6, the longer of the two, which this machine has.
        let most = self.mtu - (40 + 8 + 20) - (first - header.at) - 20;
        let frame = write::syn_ack(&road.link, to, header, tcp, cookie, most as u16);
        Some(Judgement { reason: Reason::SynCookieSent, machine: 0, frame })
    }

    fn is_denied(&self, address: IpAddr) -> bool {
        let longest = self.prefixes.iter().filter(|prefix| spread::lies_in(address, prefix.address, prefix.bits));
        longest.max_by_key(|prefix| prefix.bits).is_some_and(|prefix| prefix.denied)
    }

    /// Those that an address belongs to: who has it alone, or else who has the longest prefix around it.
    fn of(&self, address: IpAddr) -> Vec<&Vip> {
        let around = |vip: &Vip| {
            let prefixes = vip.addresses.iter().filter(|prefix| spread::lies_in(address, prefix.address, prefix.bits));
            prefixes.map(|prefix| prefix.bits).max()
        };
        let longest = self.vips.iter().filter_map(around).max();
        self.vips.iter().filter(|vip| longest.is_some() && around(vip) == longest).collect()
    }

    /// Whose port it is: an exact one before a range, the narrower range before the wider.
    fn service(&self, flow: &Flow) -> Option<&Vip> {
        let protocol = if flow.protocol == TCP { Protocol::Tcp } else { Protocol::Udp };
        let serves = self.of(flow.vip.ip()).into_iter().filter(|vip| vip.protocols.contains(&protocol));
        let ranges = serves.flat_map(|vip| vip.ports.iter().map(move |ports| (vip, ports)));
        let matching = ranges.filter(|(_, ports)| ports.contains(&flow.vip.port()));
        matching.min_by_key(|(_, ports)| ports.end() - ports.start()).map(|(vip, _)| vip)
    }

    fn owners(&self, vip: &Vip, flow: &Flow) -> [u16; 4] {
        vip.slots[spread::slot(flow, vip.hash, self.seed)].owners()
    }

    /// Where it goes, or why it goes nowhere. `arrived`: another machine has taken this one for the owner.
    fn fate(&self, road: &Road<'_>, vip: &Vip, flow: &Flow, kind: Kind, arrived: bool) -> Result<Fate, Reason> {
        let (own, past) = (self.own, &road.past);
        let owners = self.owners(vip, flow);
        if vip.backends {
            let to = self.backend(owners, flow, kind);
            let reason = match kind {
                _ if to == 0 => return Err(Reason::SlotEmpty),
                _ if road.part => Reason::FragmentForwarded,
                Kind::Error => Reason::IcmpErrorForwarded,
                _ => Reason::Forwarded,
            };
            return Ok(Fate { to, bare: true, past: Past::NONE, reason });
        }
        let belongs = flow.protocol == TCP && kind != Kind::Opens;
        // Nobody takes new flows: what belongs to a connection goes to who took them last.
        let owner = if owners[0] == 0 && belongs { owners[1] } else { owners[0] };
        let local = match kind {
            _ if road.past.hops > 0 => Reason::Decapsulated,
            _ if road.part => Reason::FragmentLocal,
            Kind::Error => Reason::IcmpErrorLocal,
            _ => Reason::Local,
        };
        if past.hops >= 9 {
            return Err(local);
        }
        if !arrived && owner != own {
            if owner == 0 {
                return Err(Reason::SlotEmpty);
            }
            let reason = match kind {
                _ if road.part => Reason::FragmentForwarded,
                Kind::Error => Reason::IcmpErrorForwarded,
                _ => Reason::Forwarded,
            };
            return Ok(Fate { to: owner, bare: false, past: Past { hops: past.hops + 1, ..Past::NONE }, reason });
        }
        // Somebody else may hold it: who had the slot before, whoever a machine behind us has found, or who is the owner by our table.
        let alone = owners == [own, 0, 0, 0] && past.claim <= Claim::Nothing;
        let others = owners[1..].iter().any(|owner| *owner != 0) || vip.earlier.is_some() || arrived && !alone;
        // A machine whose daemon does not live takes nothing new, and one whose daemon began not long ago looks for what others took then.
        let (young, lapsed) = (self.lease == lease::YOUNG, self.lease == lease::LAPSED);
        let opens = flow.protocol == TCP && kind == Kind::Opens;
        let stands_in = if young || lapsed { self.stand_in(vip, flow, past) } else { None };
        if !belongs {
            let served = if opens { !lapsed && (!young || self.listeners.contains(&flow.vip)) } else { !lapsed };
            let Some(to) = stands_in.filter(|_| !served) else { return Err(local) };
            let past = Past { hops: past.hops + 1, claim: Claim::Nothing, at: 0, asked: past.and(own) };
            return Ok(Fate { to, bare: false, past, reason: Reason::StoodIn });
        }
        if !others && !young && !lapsed {
            return Err(local);
        }
        let mine = self.sockets.get(&(flow.client, flow.vip)).copied().unwrap_or(Claim::Nothing);
        if mine == Claim::Live {
            return Err(local);
        }
        let mut candidates = owners.to_vec();
        if let Some(earlier) = &vip.earlier {
            candidates.extend(earlier.slots[spread::slot(flow, earlier.hash, earlier.seed)].owners());
        }
        let owner = candidates.into_iter().find(|owner| *owner != 0 && *owner != own && !past.has_asked(*owner));
        let next = stands_in.or(owner);
        let (claim, at) = match past.claim {
            // Who has it is no longer among those that are remembered.
            _ if mine > past.claim || past.at == 2 && past.asked[3] != 0 => (mine, 0),
            claim => (claim, (past.at + 1).min(3)),
        };
        let reason = if arrived { Reason::SecondChanceRelayed } else { Reason::SecondChance };
        if let Some(to) = next {
            return Ok(Fate {
                to,
                bare: false,
                past: Past { hops: past.hops + 1, claim, at, asked: past.and(own) },
                reason,
            });
        }
        if past.claim > Claim::Nothing && past.claim >= mine {
            let to = past.asked[usize::from(past.at)];
            if to == 0 {
                return Err(local);
            }
            return Ok(Fate {
                to,
                bare: false,
                past: Past { hops: 9, claim: past.claim, at: 0, asked: past.and(own) },
                reason,
            });
        }
        Err(match mine > Claim::Nothing {
            true => local,
            false if road.past.hops > 0 => Reason::DecapsulatedOrphan,
            false => Reason::LocalOrphan,
        })
    }

    /// Who gets a packet where nobody passes anything on: of a slot with others before, what is not remembered is the last one's. Datagrams
    /// go to who takes new flows. Remembered is what would go elsewhere otherwise, now or when who takes new ones has what is not.
    fn backend(&self, owners: [u16; 4], flow: &Flow, kind: Kind) -> u16 {
        let [now, .., rest] = owners;
        if flow.protocol != TCP || owners[1..] == [0; 3] {
            return now;
        }
        let mut flows = self.flows.borrow_mut();
        let name = (flow.client, flow.vip);
        let known = flows.get(&name).copied();
        let to = match known {
            _ if kind == Kind::Opens => now,
            Some(known) if owners.contains(&known) => known,
            _ => rest,
        };
        if to != 0 && kind != Kind::Error && known != Some(to) && (known.is_some() || rest != now) {
            flows.insert(name, to);
        }
        to
    }

    /// Who takes a flow where nobody serves it: the owner of another slot, 40,503 further on, or of the next of those, up to the sixteenth.
    /// Two machines try, and
    /// no more. Of a slot that remembers four machines it is one of those.
    fn stand_in(&self, vip: &Vip, flow: &Flow, past: &Past) -> Option<u16> {
        let slot = spread::slot(flow, vip.hash, self.seed);
        let others = (1..=16).map(|turn| vip.slots[(slot + turn * 40_503) % vip.slots.len()].current());
        let fit = |owner: &u16| *owner != 0 && *owner != self.own && *owner != past.asked[0];
        let owners = vip.slots[slot].owners();
        match past.asked[1] {
            0 if owners[3] != 0 => owners[1..].iter().copied().find(fit),
            0 => others.into_iter().find(fit),
            _ => None,
        }
    }

    fn fragment(&mut self, road: &Road<'_>, upper: &Upper) -> Result<Judgement, Reason> {
        let (own, past, header) = (self.own, road.past, &road.header);
        let part = upper.part.expect("a fragment");
        let portless = Flow {
            client: SocketAddr::new(header.source, 0),
            vip: SocketAddr::new(header.destination, 0),
            protocol: upper.protocol,
        };
        let protocol = if upper.protocol == TCP { Protocol::Tcp } else { Protocol::Udp };
        let of_protocol = |vip: &&Vip| vip.protocols.contains(&protocol);
        let Some(meeting) = self.of(header.destination).into_iter().find(of_protocol) else {
            return Ok(road.stays(Reason::PortNotServed));
        };
        let owners = self.owners(meeting, &portless);
        let place = match owners {
            // What is on its way to a server meets wherever it comes in.
            _ if meeting.backends => own,
            [0, before, ..] => before,
            [now, ..] => now,
        };
        let meets = place == own && past.asked[0] == 0;
        if !meets && past.hops == 0 {
            if place == 0 {
                return Ok(road.ends(Reason::SlotEmpty));
            }
            let past = Past { hops: 1, ..Past::NONE };
            return self.send(road, Fate { to: place, bare: false, past, reason: Reason::FragmentForwarded });
        }
        let local = if past.hops > 0 { Reason::Decapsulated } else { Reason::FragmentLocal };
        let datagram = (header.source, header.destination, upper.protocol, part.id);
        if part.later {
            if past.hops >= 9 {
                return Ok(road.ends(local));
            }
            return match self.ways.get(&datagram) {
                None if self.holds => Ok(road.ends(Reason::FragmentHeld)),
                None => Ok(road.ends(Reason::FragmentEarly)),
                Some(None) => Ok(road.ends(local)),
                Some(Some(way)) if way.to == 0 => Ok(road.ends(Reason::SlotEmpty)),
                Some(Some(way)) => {
                    let hops = way.past.hops.max(past.hops + 1);
                    let asked = if way.past.claim == Claim::Unasked { [0; 4] } else { [own, 0, 0, 0] };
                    let past = Past { hops, asked, ..way.past };
                    self.send(road, Fate { past, reason: Reason::FragmentForwarded, ..*way })
                }
            };
        }
        let (flow, kind) = read::first_ports(road.frame, header, upper)?;
        let Some(vip) = self.service(&flow) else {
            self.ways.insert(datagram, None);
            return Ok(road.stays(Reason::PortNotServed));
        };
        let fate = self.fate(road, vip, &flow, kind, past.hops > 0 && !meets);
        let nobody = Fate { to: 0, bare: true, past: Past::NONE, reason: Reason::SlotEmpty };
        self.ways.insert(datagram, fate.ok().or((vip.backends && fate == Err(Reason::SlotEmpty)).then_some(nobody)));
        match fate {
            Ok(fate) => self.send(road, fate),
            Err(reason) => Ok(road.ends(reason)),
        }
    }

    fn send(&self, road: &Road<'_>, fate: Fate) -> Result<Judgement, Reason> {
        // No server that does not run Weir hears what machines tell each other, whoever says that it has the connection.
        let fit = |machine: &&Machine| machine.backend.is_some() == fate.bare;
        let Some(machine) = self.machines.get(&fate.to).filter(fit) else {
            return Ok(road.ends(Reason::MachineUnknown));
        };
        let header = &road.header;
        // IP, UDP, and 20 bytes of GUE; around what goes to a backend IP alone.
        let between = if machine.backend.is_some() { 0 } else { 8 + 20 };
        let around = between + if machine.address.is_ipv4() { 20 } else { 40 };
        let fits = self.mtu - around;
        if header.length > fits {
            // What nobody may be told of, and may be divided, the daemon sends to a backend in parts.
            let goes_in_parts = machine.backend.is_some() && !road.error && road.past.hops == 0;
            if goes_in_parts && (road.part || header.may_be_divided()) {
                return Ok(road.ends(if self.holds { Reason::TooBigHeld } else { Reason::TooBigDropped }));
            }
            // RFC 1122 section 3.2.2, RFC 4443 section 2.4: no error about an error or a part. RFC 1191 section 3: only who asks not to
            // have packets taken apart listens. What came through a tunnel has fitted one.
            let silent =
                road.part || road.error || road.past.hops > 0 || header.may_be_divided() || header.has_options();
            if silent {
                return Ok(road.ends(Reason::TooBigDropped));
            }
            let frame = write::too_big(road.frame, &road.link, header, fits as u16);
            return Ok(Judgement { reason: Reason::TooBigAnswered, machine: 0, frame });
        }
        let own = if machine.address.is_ipv4() { IpAddr::V4(self.own_v4) } else { IpAddr::V6(self.own_v6) };
        let sources = machine.backend.and_then(|backend| backend.sources);
        let around = Around {
            from: sources.map_or(own, |sources| sources.address),
            bare: machine.backend.is_some(),
            to: machine.address,
            next_hop: machine.next_hop,
            past: fate.past,
            epoch: self.epoch,
            cookie: self.cookie,
        };
        let frame = write::tunnel(road.frame, &road.link, header, &around);
        Ok(Judgement { reason: fate.reason, machine: fate.to, frame })
    }
}

impl Road<'_> {
    /// As it is now.
    fn ends(&self, reason: Reason) -> Judgement {
        Judgement { reason, machine: 0, frame: self.frame.to_vec() }
    }

    /// Up the stack for the reason, unless it came through a tunnel.
    fn stays(&self, reason: Reason) -> Judgement {
        self.ends(if self.past.hops > 0 { Reason::Decapsulated } else { reason })
    }
}

/// What the kernel does with a packet of this fate: the action of XDP.
pub fn action(reason: Reason) -> u32 {
    match reason.verdict() {
        Verdict::Drop => 1,
        Verdict::Pass => 2,
        Verdict::Transmit => 3,
    }
}

/// Whether two frames are the same but for the source port of the tunnel around them, which both have from the range set aside.
pub fn same(a: &[u8], b: &[u8], reason: Reason) -> bool {
    let tunnelled = reason.verdict() == Verdict::Transmit
        && !matches!(reason, Reason::EchoAnswered | Reason::TooBigAnswered | Reason::SynCookieSent);
    if !tunnelled {
        return a == b;
    }
    matches!((foretold(a), foretold(b)), (Some(a), Some(b)) if a == b)
}

/// A frame with a tunnel around it without what is not foretold of that; none where it is not as it should be.
fn foretold(frame: &[u8]) -> Option<Vec<u8>> {
    const RANGE_V4: [u8; 2] = [10, 99];
    const RANGE_V6: [u8; 8] = [0xfd, 0, 0, 0x99, 0, 0, 0, 0];
    let link = read::link(frame).ok()?;
    let (ip, v4) = (link.length, link.kind == read::IPV4);
    let mut frame = frame.to_vec();
    let protocol = *frame.get(ip + if v4 { 9 } else { 6 })?;
    match (protocol, v4) {
        (UDP, _) => {
            let at = ip + if v4 { 20 } else { 40 };
            if *frame.get(at)? < 0xc0 {
                return None;
            }
            frame[at..at + 2].fill(0);
        }
        (4 | 41, true) => {
            if crate::packet::checksum(frame.get(ip..ip + 20)?) != 0 {
                return None;
            }
            if frame[ip + 12..ip + 14] == RANGE_V4 {
                // 10.99.128.0/17.
                if frame[ip + 14] < 128 {
                    return None;
                }
                frame[ip + 14..ip + 16].fill(0);
                frame[ip + 10..ip + 12].fill(0);
            }
        }
        (4 | 41, false) => {
            // The flow label.
            frame[ip + 1] &= 0xf0;
            frame[ip + 2..ip + 4].fill(0);
            if frame[ip + 8..ip + 16] == RANGE_V6 {
                frame[ip + 20..ip + 24].fill(0);
            }
        }
        _ => return None,
    }
    Some(frame)
}
