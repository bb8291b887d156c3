//! The kernel's part of a plan: machines, virtual IPs, their slots, and the sockets that VIPs lead to.

use crate::backends::{Around, BackendRow, Backends};
use crate::desired::{Desired, Machine, Steering, Step, Ticket, Tickets};
use crate::lease::HeldLease;
use crate::strays::Strays;
use aws_lc_rs::hmac;
use base_model::{AccessListSpec, Cidr, HashMode, HashRule, PortsSpec, Protocol, Spec, VipLimitsSpec, VirtualIpSpec};
use edge_kernel::abi::limit::Rate;
use edge_kernel::{AccessPrefix, Kernel, ListenerId, Prefix, Slot, SourceLimit, VipLimits, has_others};
use edge_l4::maglev::Candidate;
use edge_l4::steering;
use edge_listeners::Traffic;
use edge_listeners::server::Sockets;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// The loaded kernel plane, shared with whoever reads its counters.
pub type SharedKernel = Arc<Mutex<Plane>>;

/// The programs and the names of what they count.
pub struct Plane {
    pub kernel: Kernel,
    /// This machine's name.
    pub own: String,
    /// Names of virtual IPs by the index their counters are kept under.
    pub vips: BTreeMap<u16, String>,
    /// Names of machines by their index.
    pub machines: BTreeMap<u16, String>,
    /// Servers that do not run Weir, by virtual IP.
    pub backends: Vec<BackendRow>,
    /// Virtual IPs that packets are steered by.
    pub installed: u64,
    /// Virtual IPs there are documents of, and that are not steered as those say.
    pub left_out: u64,
    /// Changes that failed as a whole.
    pub failed_total: u64,
}

/// Brings the kernel to where [`Desired`] says.
pub struct Steer {
    plane: SharedKernel,
    /// This machine's name.
    own: String,
    applied: Option<Wanted>,
    announced: Option<Announced>,
    /// The kernel steers by what was wanted last.
    in_force: bool,
    /// It has been so since this process began.
    steers: bool,
    /// The kernel has the access lists that it was told of last.
    access_in_force: bool,
    /// Slots by what they follow from; building a table takes a millisecond.
    slots: BTreeMap<String, (Arc<Steering>, Slots)>,
    /// Since when the generation in force is, and whether this machine is done with those before it, by VirtualIP.
    looks: BTreeMap<String, Look>,
    looked: Instant,
    /// The machines `slots` were built for.
    known: Arc<BTreeMap<String, Machine>>,
    backends: Backends,
    /// By server and protocol.
    listeners: BTreeMap<(String, Protocol), (Sockets, ListenerId)>,
    /// What was said last of when it lapsed, and since when.
    lapsed: (u64, Option<Instant>),
    failures: BTreeMap<String, String>,
    /// Of those, the ones that are not steered by the slots they should be.
    unsteered: BTreeSet<String>,
    detach: bool,
}

/// What is to be put in force soon, and what comes before it is: see [`steering::announced`].
struct Announced {
    wanted: Wanted,
    /// When the first began of the changes that wait.
    began: Instant,
    due: Instant,
}

/// Everything the kernel is told about steering.
#[derive(PartialEq, Clone, Default)]
struct Wanted {
    machines: Vec<edge_kernel::Machine>,
    vips: Vec<edge_kernel::Vip>,
    /// Addresses of machines, of both families, which no prefix may have in it.
    others: Vec<(IpAddr, String)>,
    cookies: Cookies,
    /// What the hash of flows begins with.
    seed: u32,
}

/// What tells tunnels of this cluster from anybody's. It follows from the keys of session tickets, which the cluster draws, hands out
/// a minute before they are used, and replaces twice a day: one secret to share, from which what goes over the wire gives nothing back.
#[derive(PartialEq, Eq, Clone, Copy, Debug, Default)]
struct Cookies {
    current: Option<NonZeroU32>,
    /// The one before and the one to come.
    others: [Option<NonZeroU32>; 2],
}

impl Cookies {
    fn of(tickets: &Tickets) -> Cookies {
        let cookie = |ticket: &Ticket| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, &ticket.secret);
            let tag = hmac::sign(&key, COOKIE_PURPOSE);
            let word = tag.as_ref().first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
            // Zero means none; one key in four billion shares its cookie with another.
            NonZeroU32::new(word).or(NonZeroU32::new(1))
        };
        let others = || tickets.keys.iter().enumerate().filter(|(at, _)| *at != tickets.current).map(|(_, key)| key);
        Cookies {
            current: tickets.keys.get(tickets.current).and_then(cookie),
            others: [others().next().and_then(cookie), others().nth(1).and_then(cookie)],
        }
    }
}

const COOKIE_PURPOSE: &[u8] = b"weir: cookie of tunnels between machines, 1";

impl Steer {
    /// `detach`: the programs go when the process does.
    pub fn new(kernel: Kernel, own: &str, detach: bool) -> Steer {
        let plane = Plane {
            kernel,
            own: own.to_owned(),
            vips: BTreeMap::new(),
            machines: BTreeMap::new(),
            backends: Vec::new(),
            installed: 0,
            left_out: 0,
            failed_total: 0,
        };
        Steer {
            plane: Arc::new(Mutex::new(plane)),
            own: own.to_owned(),
            applied: None,
            announced: None,
            in_force: false,
            steers: false,
            access_in_force: false,
            slots: BTreeMap::new(),
            looks: BTreeMap::new(),
            looked: Instant::now(),
            known: Arc::default(),
            backends: Backends::default(),
            listeners: BTreeMap::new(),
            lapsed: (0, None),
            failures: BTreeMap::new(),
            unsteered: BTreeSet::new(),
            detach,
        }
    }

    /// Says in the kernel that this process lives, for as long as what is returned does and `lives` says so: see [`edge_kernel::Lease`].
    pub fn hold_lease(&self, lives: impl FnMut() -> bool + Send + 'static) -> std::io::Result<HeldLease> {
        HeldLease::of(lock(&self.plane).kernel.lease(), lives)
    }

    /// The kernel has been told, since this process began, what the cluster says of steering, this machine included.
    pub fn steers(&self) -> bool {
        self.steers
    }

    pub fn plane(&self) -> SharedKernel {
        self.plane.clone()
    }

    /// After another process has steered for a while: everything is told to the kernel again with the next [`Steer::apply`].
    pub fn reclaim(&mut self) {
        let mut plane = lock(&self.plane);
        if let Err(error) = plane.kernel.reclaim() {
            plane.failed_total += 1;
            tracing::error!(%error, "steering is as the other process left it");
        }
        for (_, (_, id)) in std::mem::take(&mut self.listeners) {
            if let Err(error) = plane.kernel.unregister_listener(id) {
                tracing::error!(%error, "the sockets of a listener could not be taken from the virtual IPs");
            }
        }
        drop(plane);
        self.applied = None;
        self.access_in_force = false;
    }

    /// Tells the kernel what all access lists say. What failed is to be tried again: see [`Steer::access_in_force`].
    pub fn set_access(&mut self, lists: &[(String, Box<AccessListSpec>)]) -> Result<(), String> {
        let prefix = |cidr: &Cidr, denied| AccessPrefix { address: cidr.address(), bits: cidr.length(), denied };
        let of = |list: &AccessListSpec| -> Vec<AccessPrefix> {
            let denied = list.deny.iter().map(|cidr| prefix(cidr, true));
            denied.chain(list.allow.iter().map(|cidr| prefix(cidr, false))).collect()
        };
        let prefixes: Vec<AccessPrefix> = lists.iter().flat_map(|(_, list)| of(list)).collect();
        let mut plane = lock(&self.plane);
        let done = plane.kernel.set_access(&prefixes);
        plane.failed_total += u64::from(done.is_err());
        drop(plane);
        self.access_in_force = done.is_ok();
        match done {
            Ok(written) => {
                tracing::info!(prefixes = prefixes.len(), written, "access lists are in force in the kernel");
                Ok(())
            }
            Err(error) => {
                Err(format!("listeners go by it, the kernel by what it had before, and it is tried again: {error}"))
            }
        }
    }

    pub fn access_in_force(&self) -> bool {
        self.access_in_force
    }

    pub fn detach(self) {
        if !self.detach {
            return;
        }
        // The collector of metrics may hold the plane for a moment longer; the process is about to end.
        match Arc::try_unwrap(self.plane) {
            Ok(plane) => {
                let plane = plane.into_inner().unwrap_or_else(|e| e.into_inner());
                if let Err(error) = plane.kernel.detach() {
                    tracing::error!(%error, "the kernel's programs could not be taken down");
                }
            }
            Err(_) => tracing::error!("the kernel's programs are in use and stay"),
        }
    }

    /// Looks after interfaces and neighbours. True: [`Steer::apply`] is to be called for what is new.
    pub fn follow(&mut self, desired: &Desired) -> bool {
        let others = desired.machines.values().filter(|machine| machine.name != self.own);
        let mut plane = lock(&self.plane);
        let own_v4 = plane.kernel.own_addresses().iter().any(IpAddr::is_ipv4);
        let address = |m: &Machine| m.v4.filter(|_| own_v4).map(IpAddr::V4).or(m.v6.map(IpAddr::V6));
        let backends = self.backends.machines().into_iter().map(|backend| backend.address);
        let others: Vec<IpAddr> = others.filter_map(address).chain(backends).collect();
        plane.backends = self.backends.rows();
        let followed = plane.kernel.follow(&others);
        drop(plane);
        for told in followed.told {
            tracing::warn!("{told}");
        }
        if followed.news {
            self.applied = None;
        }
        followed.news || self.backends.has_news()
    }

    /// Compares, and tells the kernel what is new. What failed is in [`Steer::failures`] and tried again with the next call.
    pub fn apply(&mut self, desired: &Desired, traffic: &Traffic) {
        self.register(traffic);
        let (specs, unreadable) = virtual_ips(desired);
        let wanted = self.wanted(desired, &specs);
        self.in_force = wanted.is_some() && self.applied == wanted;
        self.steers |= self.in_force;
        let Some(wanted) = wanted else { return };
        if self.in_force {
            self.announced = None;
            return;
        }
        let now = Instant::now();
        let (waiting, is_due) = match &self.announced {
            Some(announced) => (announced.wanted == wanted, now >= announced.due),
            None => (false, false),
        };
        if waiting && !is_due {
            return;
        }
        let began = self.announced.take().filter(|_| !waiting).map_or(now, |earlier| earlier.began);
        let first = if waiting || now >= began + ANNOUNCED_MOST { None } else { self.first(&wanted, &desired.gone) };
        let (wanted, last) = match first {
            Some(first) => (first, Some(wanted)),
            None => (wanted, None),
        };
        let ids = ids(&specs, desired);
        let backends = self.backends.machines();
        let mut plane = lock(&self.plane);
        plane.backends = self.backends.rows();
        plane.vips = ids.iter().map(|(name, id)| (*id, name.clone())).collect();
        plane.machines = desired.machines.values().map(|m| (m.id, m.name.clone())).collect();
        plane.machines.extend(backends.into_iter().map(|backend| (backend.index, backend.name)));
        plane.kernel.set_seed(wanted.seed);
        plane.kernel.set_others(wanted.others.clone());
        plane.kernel.set_cookies(wanted.cookies.current, wanted.cookies.others);
        let done = plane.kernel.steer(&wanted.machines, &wanted.vips);
        let mut failures = unreadable;
        match done {
            Ok(applied) => {
                tracing::info!(
                    version = desired.version,
                    epoch = applied.epoch,
                    tables = applied.tables_written,
                    addresses = applied.addresses,
                    left_out = applied.left_out.len(),
                    announces = last.is_some(),
                    "steering switched"
                );
                if wanted.cookies.current.is_none() && has_others(&wanted.machines) && !wanted.vips.is_empty() {
                    tracing::warn!(
                        "machines take no packets from each other: the cluster has no keys to know them by, because peers talk in \
                         the clear; give every member the same --cluster-secret-file, or https:// peer URLs"
                    );
                }
                for (id, why) in &applied.left_out {
                    if let Some(name) = plane.vips.get(id) {
                        failures.insert(name.clone(), format!("left out of steering: {why}"));
                    }
                }
                for (id, why) in &applied.kept {
                    if let Some(name) = plane.vips.get(id) {
                        failures.insert(name.clone(), format!("steered as it was: {why}"));
                    }
                }
                self.unsteered = failures.keys().cloned().collect();
                // Where no virtual IP leads here, nothing comes to the wrong machine.
                let own = desired.machines.get(&self.own).filter(|_| !wanted.vips.is_empty());
                traffic
                    .elsewhere()
                    .set(own.and_then(|own| Strays::ways(own, &wanted.machines, wanted.cookies.current)));
                let partly = applied.partly.iter().map(|(id, why)| (id, format!("partly left out of steering: {why}")));
                let in_spite = applied
                    .in_spite
                    .iter()
                    .map(|(id, why)| (id, format!("steered as it was, and should not be: {why}")));
                for (id, told) in partly.chain(in_spite) {
                    if let Some(name) = plane.vips.get(id) {
                        failures
                            .entry(name.clone())
                            .and_modify(|before| *before = format!("{before}; {told}"))
                            .or_insert(told);
                    }
                }
                plane.installed = (wanted.vips.len() - applied.left_out.len()) as u64;
                if applied.kept.is_empty() {
                    self.backends.in_force();
                }
                // Those that kept what they had are tried again: tables may be free by then.
                self.applied = applied.kept.is_empty().then_some(wanted);
                self.in_force = last.is_none();
                self.announced = last.map(|wanted| Announced { wanted, began, due: Instant::now() + ANNOUNCED });
                self.steers = true;
            }
            Err(error) => {
                plane.failed_total += 1;
                tracing::error!(%error, "steering stays as it was");
                let why = format!("steering stays as it was, and is tried again: {error}");
                failures.extend(specs.keys().map(|name| (name.clone(), why.clone())));
                self.unsteered = failures.keys().cloned().collect();
            }
        }
        plane.left_out = failures.len() as u64;
        drop(plane);
        for (name, why) in failures.iter().filter(|(name, why)| self.failures.get(*name) != Some(why)) {
            tracing::error!(object = name, "{why}");
        }
        self.failures = failures;
    }

    /// When [`Steer::apply`] is to be called for what was put off.
    pub fn due_in(&self) -> Option<Duration> {
        self.announced.as_ref().map(|announced| announced.due.saturating_duration_since(Instant::now()))
    }

    /// What is put in force before this is, if anything.
    fn first(&self, wanted: &Wanted, gone: &BTreeSet<u16>) -> Option<Wanted> {
        let applied = self.applied.as_ref()?;
        let mut first = wanted.clone();
        // Virtual IPs that are spread alike go on sharing their slots.
        type Pair<'s> = [&'s Arc<[Slot]>; 2];
        let mut shared: Vec<(Pair<'_>, Arc<[Slot]>)> = Vec::new();
        let mut differs = false;
        for (vip, last) in first.vips.iter_mut().zip(&wanted.vips) {
            let before = applied.vips.iter().find(|before| before.id == last.id);
            // What another hash chooses, or which backend, is nothing that these slots could say beforehand.
            let Some(before) = before.filter(|before| before.hash == last.hash && !before.backends && !last.backends)
            else {
                continue;
            };
            if applied.seed != wanted.seed || Arc::ptr_eq(&before.slots, &last.slots) {
                continue;
            }
            let same = |of: &Pair<'_>| Arc::ptr_eq(of[0], &before.slots) && Arc::ptr_eq(of[1], &last.slots);
            let known = shared.iter().find(|(of, _)| same(of));
            let known = known.map(|(_, slots)| slots.clone());
            let slots = known.unwrap_or_else(|| {
                let slots = steering::announced(&before.slots, &last.slots, |id| gone.contains(&id));
                let slots = slots.map_or_else(|| last.slots.clone(), Into::into);
                shared.push(([&before.slots, &last.slots], slots.clone()));
                slots
            });
            differs |= !Arc::ptr_eq(&slots, &last.slots);
            vip.slots = slots;
        }
        // Where machines hear of many changes at once there may be no room for what is between.
        let tables =
            |vips: &[edge_kernel::Vip]| vips.iter().map(|vip| vip.slots.as_ptr()).collect::<BTreeSet<_>>().len();
        let room = tables(&applied.vips).max(tables(&wanted.vips));
        (differs && tables(&first.vips) <= room).then_some(first)
    }

    /// What could not be done, and which backends are not well, by VirtualIP.
    pub fn failures(&self) -> BTreeMap<String, String> {
        let mut all = self.failures.clone();
        for (name, told) in self.backends.told() {
            all.entry(name).and_modify(|before| *before = format!("{before}; {told}")).or_insert(told);
        }
        all
    }

    /// Looks whether this machine still holds connections in slots that are others' by now, where that matters to anybody. What it is
    /// done with: by VirtualIP the number of the generation. Meant to be called often.
    pub fn look(&mut self, desired: &Desired) -> BTreeMap<String, u64> {
        let Some(own) = desired.machines.get(&self.own).map(|machine| machine.id) else { return BTreeMap::new() };
        self.looks.retain(|vip, _| desired.steering.contains_key(vip));
        for (vip, steering) in desired.steering.iter() {
            let Some((_, step)) = steering.history().pop() else { continue };
            let fresh = Look { number: step.number, since: Instant::now(), done: false, settled: false };
            let look = self.looks.entry(vip.clone()).or_insert_with(|| fresh.clone());
            if look.number != step.number {
                *look = fresh;
            }
            look.settled = steering.generations.len() == 1;
        }
        let due = |look: &Look| (!look.settled || !look.done) && look.since.elapsed() >= SETTLED;
        // By a table that is not in force nothing is judged, be it of one virtual IP or of all.
        if self.looked.elapsed() >= LOOK && self.in_force && self.looks.values().any(due) {
            self.looked = Instant::now();
            let (mut plane, slots) = (lock(&self.plane), &self.slots);
            match plane.kernel.held() {
                Ok(held) => {
                    let names = std::mem::take(&mut plane.vips);
                    let mut holds: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
                    for held in held {
                        if let Some(name) = names.get(&held.vip) {
                            holds.entry(name).or_default().push(held.slot);
                        }
                    }
                    for (vip, look) in
                        self.looks.iter_mut().filter(|(vip, look)| due(look) && !self.unsteered.contains(*vip))
                    {
                        let Some((_, slots)) = slots.get(vip) else { continue };
                        look.done = slots.is_done(own, holds.get(vip.as_str()).map_or(&[], Vec::as_slice));
                    }
                    plane.vips = names;
                }
                Err(error) => {
                    tracing::warn!(%error, "machines that had connections' slots before are remembered for longer")
                }
            }
        }
        self.looks.iter().filter(|(_, look)| look.done).map(|(vip, look)| (vip.clone(), look.number)).collect()
    }

    /// When others may last have taken new flows of this machine, in milliseconds since 1970; 0: never. One that lapses over and over says
    /// so now and then: until it has, it looks for them itself.
    pub fn lapsed_ms(&mut self) -> u64 {
        let (told, at) = self.lapsed;
        let now = lock(&self.plane).kernel.lapsed_ms();
        if now != told && at.is_none_or(|at| at.elapsed() >= LAPSE) {
            self.lapsed = (now, Some(Instant::now()));
        }
        self.lapsed.0
    }

    /// `None` while the cluster does not know this machine.
    fn wanted(&mut self, desired: &Desired, specs: &BTreeMap<String, VirtualIpSpec>) -> Option<Wanted> {
        let own = desired.machines.get(&self.own)?;
        if self.known != desired.machines {
            self.known = desired.machines.clone();
            self.slots.clear();
        }
        let room = lock(&self.plane).kernel.machines_max();
        let machines = desired.machines.values().filter_map(|machine| {
            if machine.id > room {
                tracing::error!(
                    machine = machine.name,
                    number = machine.id,
                    "the kernel plane has no room for this machine, and steers nothing to it: remove members that are gone (weirctl delete member)"
                );
                return None;
            }
            let v4 = machine.v4.filter(|_| own.v4.is_some()).map(IpAddr::V4);
            let address = v4.or(machine.v6.filter(|_| own.v6.is_some()).map(IpAddr::V6));
            if address.is_none() {
                tracing::warn!(
                    machine = machine.name,
                    "no address of a family this machine has: packets cannot be passed on to it; start it with --advertise-address"
                );
            }
            Some(edge_kernel::Machine {
                index: machine.id,
                name: machine.name.clone(),
                address: address?,
                next_hop: None, backend: None,
                own: machine.name == self.own,
            })
        });
        let mut machines: Vec<_> = machines.collect();
        let both = |machine: &Machine| {
            [machine.v4.map(IpAddr::V4), machine.v6.map(IpAddr::V6)].map(|ip| Some((ip?, machine.name.clone())))
        };
        let others: Vec<(IpAddr, String)> = desired.machines.values().flat_map(both).flatten().collect();
        let around = Around {
            own: both(own).into_iter().flatten().map(|(ip, _)| ip).collect(),
            room,
            members: desired.machines.values().map(|machine| machine.id).collect(),
            machines: others.iter().cloned().collect(),
        };
        self.backends.follow(specs, &around);
        let ids = ids(specs, desired);
        let vips = specs.iter().map(|(name, spec)| {
            let slots = slots_of(&mut self.slots, name, desired, &machines, room);
            let vip = vip(name, ids.get(name).copied().unwrap_or_default(), spec, slots);
            match self.backends.slots(name) {
                Some(slots) => edge_kernel::Vip { slots, earlier: None, backends: true, ..vip },
                None => vip,
            }
        });
        let mut vips: Vec<_> = vips.collect();
        machines.extend(self.backends.machines());
        vips.sort_by_key(|vip: &edge_kernel::Vip| vip.id);
        self.slots.retain(|name, _| specs.contains_key(name));
        let seeds = desired.steering.values().filter_map(|s| s.steps.last()?.hash.as_ref()).map(|hash| hash.seed);
        let seed = seeds.max().unwrap_or(0);
        Some(Wanted { machines, vips, others, cookies: Cookies::of(&desired.tickets), seed })
    }

    /// Sockets without an address of their own serve every VIP on their port.
    fn register(&mut self, traffic: &Traffic) {
        let mut open = BTreeMap::new();
        for (name, server) in traffic.servers() {
            for sockets in server.sockets().into_iter().filter(|sockets| sockets.at.ip().is_unspecified()) {
                open.insert((name.clone(), sockets.protocol), sockets);
            }
        }
        let mut plane = lock(&self.plane);
        let gone: Vec<(String, Protocol)> = self
            .listeners
            .iter()
            .filter(|(key, (sockets, _))| open.get(*key) != Some(sockets))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            if let Some((Sockets { at, protocol, .. }, id)) = self.listeners.remove(&key)
                && let Err(error) = plane.kernel.unregister_listener(id)
            {
                tracing::error!(server = key.0, %at, %protocol, %error, "its sockets could not be taken from the virtual IPs");
            }
        }
        for (key, sockets) in open {
            if self.listeners.contains_key(&key) {
                continue;
            }
            let (at, of) = (sockets.at, sockets.protocol);
            match plane.kernel.register_listener(at.port()..=at.port(), protocol(of), &sockets.descriptors) {
                Ok(id) => drop(self.listeners.insert(key, (sockets, id))),
                Err(error) => {
                    tracing::error!(server = key.0, %at, protocol = %of, %error, "virtual IPs do not reach it; trying again");
                }
            }
        }
    }
}

/// The VirtualIPs among the objects, by name, and why others cannot be read. Unreadable ones cannot be stored; one that is there all
/// the same is left out.
fn virtual_ips(desired: &Desired) -> (BTreeMap<String, VirtualIpSpec>, BTreeMap<String, String>) {
    let (mut specs, mut unreadable) = (BTreeMap::new(), BTreeMap::new());
    let kind = |document: &serde_json::Value| document.get("kind").and_then(|k| k.as_str()) == Some("VirtualIP");
    for (name, document) in desired.objects.iter().filter(|(_, document)| kind(document)) {
        match base_model::Object::read(document, &NoFilters) {
            Ok(base_model::Object { spec: Spec::VirtualIp(spec), .. }) => drop(specs.insert(name.clone(), *spec)),
            Ok(_) => {}
            Err(problems) => {
                let why = format!("left out of steering: {}", base_model::problem::render(&problems));
                unreadable.insert(name.clone(), why);
            }
        }
    }
    (specs, unreadable)
}

/// The number of each VirtualIP: what the cluster gave it, so that counters stay with it whatever else comes and goes; in a cluster
/// that gives none the lowest that is free.
fn ids(specs: &BTreeMap<String, VirtualIpSpec>, desired: &Desired) -> BTreeMap<String, u16> {
    let given = |name: &String| desired.steering.get(name).map(|steering| steering.id).filter(|id| *id != 0);
    let taken: BTreeSet<u16> = specs.keys().filter_map(given).collect();
    let mut free = (1..).filter(|id| !taken.contains(id));
    specs.keys().filter_map(|name| Some((name.clone(), given(name).or_else(|| free.next())?))).collect()
}

/// A VirtualIP has no filters.
struct NoFilters;

impl base_model::FilterKinds for NoFilters {
    fn results(&self, _: &str) -> Option<Vec<&'static str>> {
        None
    }

    fn kinds(&self) -> Vec<&'static str> {
        Vec::new()
    }
}

/// How this machine stands to the generation in force of a VirtualIP.
#[derive(Clone)]
struct Look {
    number: u64,
    since: Instant,
    done: bool,
    /// Nothing before it is remembered.
    settled: bool,
}

/// For so long after a change other machines may still send new flows by the table before it.
const SETTLED: Duration = Duration::from_secs(3);

/// For so long a change is announced before new flows follow it: machines hear of one within a few milliseconds of each other.
const ANNOUNCED: Duration = Duration::from_millis(150);

/// Changes that follow each other faster are not announced any more after this.
const ANNOUNCED_MOST: Duration = Duration::from_millis(600);

/// No change is put off for longer.
pub const PUT_OFF_MOST: Duration = Duration::from_millis((ANNOUNCED_MOST.as_millis() + ANNOUNCED.as_millis()) as u64);

/// Between two times that it is said that this machine's daemon did not serve for a while: each is a change for all machines.
const LAPSE: Duration = Duration::from_secs(60);

/// Between two looks. One costs about a microsecond for every connection of the machine.
const LOOK: Duration = Duration::from_secs(2);

/// The slots of a virtual IP, and the table in force that they follow but for those that are held back.
#[derive(Clone)]
struct Slots {
    slots: Arc<[Slot]>,
    table: Arc<[u16]>,
    /// What chooses them; none: what the document says.
    hash: Option<HashRule>,
    /// What chose others before, and those.
    earlier: Option<(Option<HashRule>, Arc<[Slot]>)>,
}

impl Slots {
    /// Whether all that the machine holds, in these slots, is where it belongs by the table in force alone.
    fn is_done(&self, own: u16, held: &[u32]) -> bool {
        held.iter().all(|slot| self.table.get(*slot as usize) == Some(&own))
            && self.slots.iter().zip(&*self.table).all(|(slot, owner)| slot.current() != own || *owner == own)
    }
}

/// The slots of a virtual IP. A machine without an address (an edge without a kernel plane) or with a number above `room` takes no
/// part, which all machines see alike; this machine alone leaves out those that it cannot send packets to. VIPs that are spread alike
/// share their slots.
fn slots_of(
    known: &mut BTreeMap<String, (Arc<Steering>, Slots)>,
    name: &str,
    desired: &Desired,
    machines: &[edge_kernel::Machine],
    room: u16,
) -> Slots {
    let followed = desired.steering.get(name).cloned().unwrap_or_default();
    let reachable = |id: u16| machines.iter().any(|m| m.index == id);
    if let Some((_, slots)) = known.get(name).filter(|(from, _)| *from == followed) {
        return slots.clone();
    }
    let names: BTreeMap<u16, &str> = desired
        .machines
        .values()
        .filter(|m| (m.v4.is_some() || m.v6.is_some()) && m.id <= room)
        .map(|m| (m.id, m.name.as_str()))
        .collect();
    let candidates = |machines: &[(u16, u32)]| -> Vec<Candidate<'_>> {
        let candidate = |(id, weight): &(u16, u32)| Some(Candidate { id: *id, weight: *weight, name: names.get(id)? });
        machines.iter().filter_map(candidate).collect()
    };
    let history = followed.history();
    // Slots say nothing about those that were chosen by something else: they begin anew with another hash.
    let hash = history.last().and_then(|(_, step)| step.hash.clone());
    let begins = history.iter().rposition(|(_, step)| step.hash != hash).map_or(0, |at| at + 1);
    let fold = |part: &[(&[(u16, u32)], Step)]| -> Option<Vec<steering::Step<'_>>> {
        let step = |(machines, step): &(&[(u16, u32)], Step)| steering::Step {
            machines: candidates(machines),
            alive: step.alive.clone(),
            released: step.released.clone(),
            lapsed: step.lapsed.clone(),
        };
        (!part.is_empty()).then(|| part.iter().map(step).collect())
    };
    let reached = |steps: &[steering::Step<'_>]| -> Arc<[Slot]> {
        steering::slots(steps).iter().map(|slot| within(*slot, &reachable)).collect()
    };
    let alike =
        known.values().find(|(from, _)| from.history().iter().map(Spread::of).eq(history.iter().map(Spread::of)));
    let slots = match alike {
        Some((_, slots)) => slots.clone(),
        None => {
            let all = edge_kernel::abi::limits::SLOTS as usize;
            let steps = fold(&history[begins..]);
            let table = steps.as_ref().and_then(|steps| steps.last());
            let table = table.map(|step| edge_l4::maglev::full_table(&step.machines)).unwrap_or_default();
            let slots = steps.map_or_else(|| vec![Slot::default(); all].into(), |steps| reached(&steps));
            let then = history[..begins].last().map(|(_, step)| step.hash.clone());
            let from = history[..begins]
                .iter()
                .rposition(|(_, step)| Some(&step.hash) != then.as_ref())
                .map_or(0, |at| at + 1);
            // Of those, who holds connections now.
            let alive = |id: u16| reachable(id) && history.last().is_some_and(|(_, now)| now.alive.contains(&id));
            let earlier = then.zip(fold(&history[from..begins]));
            let earlier = earlier.map(|(hash, steps)| {
                (hash, steering::slots(&steps).iter().map(|slot| within(*slot, &alive)).collect())
            });
            Slots { slots, table: table.into(), hash, earlier }
        }
    };
    let built = slots.clone();
    known.insert(name.to_owned(), (followed, slots));
    built
}

/// What of a generation the slots follow from: not its number.
#[derive(PartialEq)]
struct Spread(Vec<(u16, u32)>, [Vec<u16>; 3], Option<HashRule>);

impl Spread {
    fn of((machines, step): &(&[(u16, u32)], Step)) -> Spread {
        let ids = [step.alive.clone(), step.released.clone(), step.lapsed.clone()];
        Spread(machines.to_vec(), ids, step.hash.clone())
    }
}

/// The slot without machines that packets cannot be sent to.
fn within(slot: Slot, reachable: &impl Fn(u16) -> bool) -> Slot {
    let [current, rest @ ..] = slot.owners();
    let mut owners = [if reachable(current) { current } else { steering::NOBODY }, 0, 0, 0];
    for (place, id) in owners[1..].iter_mut().zip(rest.into_iter().filter(|id| reachable(*id))) {
        *place = id;
    }
    Slot::new(owners)
}

fn protocol(protocol: Protocol) -> edge_kernel::Protocol {
    match protocol {
        Protocol::Tcp => edge_kernel::Protocol::Tcp,
        Protocol::Udp => edge_kernel::Protocol::Udp,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A virtual IP as the kernel has it.
fn vip(name: &str, id: u16, spec: &VirtualIpSpec, slots: Slots) -> edge_kernel::Vip {
    edge_kernel::Vip {
        id,
        name: name.to_owned(),
        addresses: spec.prefixes().map(|prefix| Prefix { address: prefix.first(), bits: prefix.length() }).collect(),
        ports: match &spec.ports {
            PortsSpec::Any => vec![0..=u16::MAX],
            PortsSpec::List(ranges) => ranges.iter().map(|r| r.low..=r.high).collect(),
        },
        protocols: spec.protocols.iter().map(|p| protocol(*p)).collect(),
        hash: hash(slots.hash.as_ref(), spec),
        limits: spec.limits.as_ref().map(limits).unwrap_or_default(),
        earlier: slots.earlier.map(|(rule, slots)| edge_kernel::Earlier {
            hash: hash(rule.as_ref(), spec),
            seed: rule.map_or(0, |rule| rule.seed),
            slots,
        }),
        backends: false,
        slots: slots.slots,
    }
}

fn limits(spec: &VipLimitsSpec) -> VipLimits {
    let rate = |per_second: u32, burst: Option<u32>| Rate::new(per_second, burst.unwrap_or(per_second));
    VipLimits {
        all: spec.new_connections.map(|all| rate(all.per_second, all.burst)),
        cookies: spec.syn_cookies.map(|above| rate(above.per_second, above.burst)),
        source: spec.new_connections_per_source.map(|source| SourceLimit {
            rate: rate(source.per_second, source.burst),
            v4: source.prefix_length.ipv4,
            v6: source.prefix_length.ipv6,
        }),
    }
}

/// What a generation's rule says; without one the document.
fn hash(rule: Option<&HashRule>, spec: &VirtualIpSpec) -> edge_kernel::Hash {
    let of = rule.map(|rule| (&*rule.of, rule.ipv4, rule.ipv6));
    let mode = |mode: HashMode| match mode {
        HashMode::FiveTuple => edge_kernel::Hash::FiveTuple,
        HashMode::SourceIp => edge_kernel::Hash::SourceIp,
        HashMode::SourcePrefix => {
            edge_kernel::Hash::SourcePrefix { v4: spec.source_prefix_length.ipv4, v6: spec.source_prefix_length.ipv6 }
        }
        HashMode::DestinationPort => edge_kernel::Hash::DestinationPort,
    };
    match of {
        Some(("fiveTuple", ..)) => edge_kernel::Hash::FiveTuple,
        Some(("sourceIP", ..)) => edge_kernel::Hash::SourceIp,
        Some(("sourcePrefix", v4, v6)) => edge_kernel::Hash::SourcePrefix { v4, v6 },
        Some(("destinationPort", ..)) => edge_kernel::Hash::DestinationPort,
        _ => mode(spec.hash),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(id: u16, addressed: bool) -> Machine {
        let v4 = addressed.then(|| [10, 0, 0, id as u8].into());
        Machine { id, name: format!("m{id}"), v4, v6: None }
    }

    /// Owners of the slots of a virtual IP over machines 1 to 3, with and without addresses.
    fn owners(addressed: [bool; 3], reachable: &[u16], alive: &[u16]) -> Vec<Slot> {
        owners_within(255, addressed, reachable, alive)
    }

    fn owners_within(room: u16, addressed: [bool; 3], reachable: &[u16], alive: &[u16]) -> Vec<Slot> {
        let machines = (1..).zip(addressed).map(|(id, yes)| (format!("m{id}"), machine(id, yes))).collect();
        let steering = Steering {
            id: 1,
            generations: vec![vec![(1, 1), (2, 1), (3, 1)], vec![(1, 1), (3, 1)]],
            alive: alive.to_vec(),
            steps: Vec::new(),
        };
        let desired = Desired {
            machines: Arc::new(machines),
            steering: Arc::new([("v".to_owned(), Arc::new(steering))].into()),
            ..Desired::default()
        };
        let there: Vec<_> = reachable
            .iter()
            .map(|id| edge_kernel::Machine {
                index: *id,
                name: format!("m{id}"),
                address: IpAddr::from([10, 0, 0, *id as u8]),
                next_hop: None,
                backend: None,
                own: *id == 1,
            })
            .collect();
        slots_of(&mut BTreeMap::new(), "v", &desired, &there, room).slots.to_vec()
    }

    #[test]
    fn machines_on_either_side_of_a_rotation_take_each_others_tunnels() {
        let key = |n: u8| Ticket { name: [n; 16], secret: [n; 32] };
        let at = |keys: &[u8], current| Cookies::of(&Tickets { keys: keys.iter().map(|n| key(*n)).collect(), current });
        assert_eq!(at(&[], 0), Cookies::default(), "no key, no tunnel");
        // Known, staged, promoted, staged again.
        let steps = [at(&[1], 0), at(&[1, 2], 0), at(&[1, 2], 1), at(&[1, 2, 3], 1), at(&[2, 3], 1)];
        let takes = |at: &Cookies, cookie| at.current == cookie || at.others.contains(&cookie);
        for pair in steps[1..].windows(2) {
            assert!(takes(&pair[0], pair[1].current) && takes(&pair[1], pair[0].current), "{pair:?}");
        }
        assert_ne!(steps[1].current, steps[2].current);
        assert!(takes(&steps[4], steps[2].current) && !takes(&steps[4], steps[0].current), "an old one ends");
    }

    #[test]
    fn a_machine_that_drains_is_the_previous_owner() {
        let slots = owners([true; 3], &[1, 2, 3], &[1, 2, 3]);
        assert!(slots.iter().all(|slot| [1, 3].contains(&slot.current())));
        assert!(slots.iter().any(|slot| slot.previous() == 2));
        let gone = owners([true; 3], &[1, 2, 3], &[1, 3]);
        assert!(gone.iter().all(|slot| !slot.owners().contains(&2)));
    }

    #[test]
    fn who_stood_in_for_a_daemon_that_did_not_serve_is_remembered() {
        let alive = vec![1, 2, 3];
        let of = |lapsed: &[u16]| {
            let step = |number, lapsed: &[u16]| Step {
                number,
                alive: alive.clone(),
                lapsed: lapsed.to_vec(),
                ..Step::default()
            };
            let steering = Steering {
                id: 1,
                generations: vec![vec![(1, 1), (2, 1), (3, 1)]; 2],
                alive: alive.clone(),
                steps: vec![step(1, lapsed), step(2, &[])],
            };
            let machines = alive.iter().map(|id| (format!("m{id}"), machine(*id, true))).collect();
            let desired = Desired {
                machines: Arc::new(machines),
                steering: Arc::new([("v".to_owned(), Arc::new(steering))].into()),
                ..Desired::default()
            };
            let there = |id: &u16| edge_kernel::Machine {
                index: *id,
                name: format!("m{id}"),
                address: IpAddr::from([10, 0, 0, *id as u8]),
                next_hop: None,
                backend: None,
                own: *id == 1,
            };
            let there: Vec<_> = alive.iter().map(there).collect();
            slots_of(&mut BTreeMap::new(), "v", &desired, &there, 255).slots
        };
        let (before, after) = (of(&[]), of(&[2]));
        for (before, after) in before.iter().zip(&*after) {
            assert_eq!(before.current(), after.current());
            assert_eq!(after.has_past(), after.current() == 2, "{after:?}");
        }
    }

    #[test]
    fn a_machine_there_is_no_room_for_gets_no_slots() {
        let slots = owners_within(2, [true; 3], &[1, 2], &[1, 2, 3]);
        assert!(slots.iter().all(|slot| slot.current() == 1), "nothing goes nowhere");
    }

    #[test]
    fn a_machine_without_an_address_gets_no_slots() {
        let slots = owners([true, true, false], &[1, 2], &[1, 2, 3]);
        assert!(slots.iter().all(|slot| slot.current() == 1), "nothing goes nowhere");
    }

    #[test]
    fn slots_of_a_machine_out_of_reach_belong_to_nobody() {
        let slots = owners([true; 3], &[1, 2], &[1, 2, 3]);
        assert!(slots.iter().all(|slot| [0, 1].contains(&slot.current())));
        assert!(slots.iter().any(|slot| slot.current() == 0));
        assert_eq!(within(Slot::new([3, 4, 2, 1]), &|id| id < 3), Slot::new([0, 2, 1, 0]), "no gap");
    }

    #[test]
    fn virtual_ips_that_are_spread_alike_share_their_slots() {
        let spread = |number| Steering {
            id: number as u16,
            generations: vec![vec![(1, 1), (2, 1)]],
            alive: vec![1, 2],
            steps: vec![Step { number, alive: vec![1, 2], ..Step::default() }],
        };
        let named = |name: &str, number| (name.to_owned(), Arc::new(spread(number)));
        let desired = Desired {
            machines: Arc::new((1..3).map(|id| (format!("m{id}"), machine(id, true))).collect()),
            steering: Arc::new([named("v", 1), named("w", 9)].into()),
            ..Desired::default()
        };
        let there = |index| edge_kernel::Machine {
            index,
            name: format!("m{index}"),
            address: IpAddr::from([10, 0, 0, index as u8]),
            next_hop: None,
            backend: None,
            own: index == 1,
        };
        let mut known = BTreeMap::new();
        let [v, w] = ["v", "w"].map(|name| slots_of(&mut known, name, &desired, &[there(1), there(2)], 9));
        assert!(Arc::ptr_eq(&v.slots, &w.slots));
    }

    #[test]
    fn with_another_hash_connections_are_looked_for_by_the_one_before() {
        let rule = |of: &str, seed| Some(HashRule { of: of.to_owned(), seed, ..HashRule::default() });
        let step = |number, hash: &Option<HashRule>, alive: &[u16]| Step {
            number,
            alive: alive.to_vec(),
            hash: hash.clone(),
            ..Step::default()
        };
        let all = vec![(1, 1), (2, 1), (3, 1)];
        let (old, new) = (rule("fiveTuple", 7), rule("sourceIP", 7));
        let steering = Steering {
            id: 1,
            generations: vec![all.clone(), all[1..].to_vec(), all[1..].to_vec(), all[1..].to_vec()],
            alive: vec![1, 2, 3],
            steps: vec![
                step(1, &old, &[1, 2, 3]),
                step(2, &old, &[1, 2, 3]),
                step(3, &new, &[1, 2, 3]),
                step(4, &new, &[1, 3]),
            ],
        };
        let desired = Desired {
            machines: Arc::new((1..4).map(|id| (format!("m{id}"), machine(id, true))).collect()),
            steering: Arc::new([("v".to_owned(), Arc::new(steering))].into()),
            ..Desired::default()
        };
        let there: Vec<_> = (1..4)
            .map(|index| edge_kernel::Machine {
                index,
                name: format!("m{index}"),
                address: IpAddr::from([10, 0, 0, index as u8]),
                next_hop: None,
                backend: None,
                own: index == 1,
            })
            .collect();
        let slots = slots_of(&mut BTreeMap::new(), "v", &desired, &there, 9);
        assert!(
            slots.slots.iter().all(|slot| !slot.owners().contains(&1)),
            "what m1 holds it holds by the hash before"
        );
        let (hash, earlier) = slots.earlier.clone().expect("there was another hash");
        assert_eq!((&hash, &slots.hash), (&old, &new));
        assert!(earlier.iter().any(|slot| slot.owners().contains(&1)), "it drained");
        assert!(earlier.iter().all(|slot| !slot.owners().contains(&2)), "it is dead");
        let spec = VirtualIpSpec { addresses: vec!["192.0.2.1".into()], ..VirtualIpSpec::default() };
        let vip = vip("v", 1, &spec, slots);
        assert_eq!(vip.hash, edge_kernel::Hash::SourceIp);
        let earlier = vip.earlier.expect("it is told to the kernel");
        assert_eq!((earlier.hash, earlier.seed), (edge_kernel::Hash::FiveTuple, 7));
    }

    #[test]
    fn a_virtual_ip_keeps_its_number_when_others_come() {
        let numbers = |of: &[(&str, u16)]| {
            let steering =
                |(name, id): &(&str, u16)| ((*name).to_owned(), Arc::new(Steering { id: *id, ..Steering::default() }));
            let steering = Arc::new(of.iter().map(steering).collect());
            let specs = of.iter().map(|(name, _)| ((*name).to_owned(), VirtualIpSpec::default())).collect();
            let ids = ids(&specs, &Desired { steering, ..Desired::default() });
            of.iter().map(|(name, _)| ids[*name]).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&[("m", 1), ("z", 2)]), [1, 2]);
        assert_eq!(numbers(&[("m", 1), ("z", 2), ("a", 3)]), [1, 2, 3]);
        assert_eq!(numbers(&[("z", 2), ("a", 0), ("b", 0)]), [2, 1, 3], "none was given yet");
    }

    #[test]
    fn a_machine_is_done_when_all_it_holds_is_where_it_belongs() {
        // The third slot is held back: this machine, 1, takes its flows although it is 2's by the table.
        let table: Arc<[u16]> = vec![1, 2, 2, 2].into();
        let slots: Arc<[Slot]> =
            [[1, 2, 0, 0], [2, 1, 0, 0], [2, 1, 0, 0], [2, 0, 0, 0]].map(Slot::new).to_vec().into();
        let of = |slots: Arc<[Slot]>, table| Slots { slots, table, hash: None, earlier: None };
        let now = of(slots.clone(), table.clone());
        assert!(now.is_done(1, &[]) && now.is_done(1, &[0, 0]) && now.is_done(2, &[1, 2, 3]));
        assert!(!now.is_done(1, &[0, 1]), "a connection from before");
        assert!(!now.is_done(3, &[0]), "one that drains is done when it holds nothing");
        let mut held_back = slots.to_vec();
        held_back[2] = Slot::new([1, 2, 3, 4]);
        assert!(!of(held_back.into(), table).is_done(1, &[]));
    }
    /// Names and weights of machines are in its slots.
    /// What `backends`, `backendCheck`, `backendSources` and `drainTimeout` do is shown beside `Backends`.
    #[test]
    fn every_field_of_a_virtual_ip_reaches_the_kernel() {
        let written = "{addresses: [192.0.2.1], ports: [80], protocols: [TCP], hash: sourcePrefix, sourcePrefixLength: {ipv4: 24, \
                       ipv6: 56}, limits: {synCookies: {perSecond: 5, burst: 4}, newConnections: {perSecond: 9, burst: 8}, newConnectionsPerSource: {perSecond: 7, burst: 6, \
                       prefixLength: {ipv4: 30, ipv6: 60}}}}";
        let nothing = Slots { slots: Arc::from([]), table: Arc::from([]), hash: None, earlier: None };
        let installed = |text: &str| {
            let spec = base_model::yaml::parse_document(text).expect("good YAML");
            vip("v", 1, &base_model::decode(&spec, "").expect("a good document").value, nothing.clone())
        };
        for (field, other) in [
            ("addresses: [192.0.2.1]", "addresses: [192.0.2.2]"),
            ("ports: [80]", "ports: any"),
            ("protocols: [TCP]", "protocols: [UDP]"),
            ("hash: sourcePrefix", "hash: destinationPort"),
            ("hash: sourcePrefix", "hash: sourceIP"),
            ("ipv4: 24", "ipv4: 16"),
            ("ipv6: 56", "ipv6: 48"),
            ("perSecond: 9", "perSecond: 10"),
            ("burst: 8", "burst: 9"),
            ("newConnections: {perSecond: 9, burst: 8}, ", ""),
            ("perSecond: 5", "perSecond: 6"),
            ("burst: 4", "burst: 5"),
            ("synCookies: {perSecond: 5, burst: 4}, ", ""),
            ("perSecond: 7", "perSecond: 8"),
            ("burst: 6", "burst: 7"),
            ("ipv4: 30", "ipv4: 31"),
            ("ipv6: 60", "ipv6: 61"),
        ] {
            assert_ne!(installed(&written.replace(field, other)), installed(written), "{other}");
        }
    }
}
