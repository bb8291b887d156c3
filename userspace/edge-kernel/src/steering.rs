//! Machines and virtual IPs: written beside what is live, then switched with one word.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use abi::limit::Rate;
use abi::limits::{ADDRESSES_MAX, SLOTS};
use abi::vip::{PLACES, SEEDS};
use abi::{Address, SenderKey, Settings, Slot, Switch, VipAddress, VipAt, VipHash, VipKey, VipPlace};

use crate::kernel::Kernel;
use crate::places::Places;
use crate::prefix::Prefix;
use crate::routes::{add_local_addresses, keep_local_addresses, local_addresses};
use crate::services::{Services, before};
use crate::{KernelError, sys};

/// A machine that slots may name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// What slots call it, from 1 to the number of machines loaded for. Keep it for as long as any table names it.
    pub index: u16,
    /// Whose counters those of the index are: they begin anew when it becomes another's.
    pub name: String,
    /// Where GUE for it is sent.
    pub address: IpAddr,
    /// The MAC that frames for it go to; none: what [`Kernel::follow`] has found, or else where the packet came from.
    pub next_hop: Option<[u8; 6]>,
    /// It is this machine.
    pub own: bool,
    /// It does not run Weir, and takes IP in IP.
    pub backend: Option<Backend>,
}

/// How a server is reached that does not run Weir, and answers clients itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Backend {
    /// Addresses of the family of its own that packets for it are sent from, chosen by their flow; none: this machine's. Whoever checks where
    /// packets come from must know that these do from here.
    pub sources: Option<Prefix>,
}

/// Whether any of them is another machine that runs Weir: servers that do not send nothing back.
pub fn has_others(machines: &[Machine]) -> bool {
    machines.iter().any(|machine| !machine.own && machine.backend.is_none())
}

impl Machine {
    /// As the programs have it. `own`: this machine's addresses, IPv4 and IPv6; `next_hop`: what the neighbours say.
    pub fn element(&self, own: [Address; 2], next_hop: Option<[u8; 6]>) -> abi::Machine {
        let address = Address::from(self.address);
        let (mut source, mut spread, mut flags) = (Address::UNSPECIFIED, 0, abi::Machine::PRESENT);
        if self.own {
            flags |= abi::Machine::OWN;
        }
        if let Some(Backend { sources }) = self.backend {
            flags |= abi::Machine::BACKEND;
            source = if address.is_v4() { own[0] } else { own[1] };
            if let Some(prefix) = sources {
                source = prefix.address.into();
                let free = if address.is_v4() { 32 } else { 128 } - u32::from(prefix.bits);
                spread = u32::MAX.checked_shr(32u32.saturating_sub(free)).unwrap_or(0).to_be();
            }
        }
        let [a, b, c, d, e, f] = self.next_hop.or(next_hop).unwrap_or_default();
        let next_hop = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        let machine = abi::Machine { address, source, flags, spread, next_hop, ..abi::Machine::default() };
        datapath::gue::prepared(machine, own)
    }
}

/// A virtual IP as the kernel sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vip {
    /// What counters are kept under, from 1 to the number of VIPs loaded for.
    pub id: u16,
    /// As with machines.
    pub name: String,
    /// What is said of an address alone counts before what is said of a prefix that has it, and a longer prefix before a shorter one.
    pub addresses: Vec<Prefix>,
    /// Ports served; a port is a range of one, any port is 0 to 65535.
    pub ports: Vec<RangeInclusive<u16>>,
    pub protocols: Vec<Protocol>,
    pub hash: Hash,
    /// The owners of each of the 65,537 slots. Virtual IPs with equal ones share a table of the kernel; give them the same `Arc` and
    /// nothing is compared.
    pub slots: Arc<[Slot]>,
    /// How fast connections may begin at this machine.
    pub limits: VipLimits,
    /// For connections that began when the flows were spread by something else.
    pub earlier: Option<Earlier>,
    /// Its slots name backends, as `edge_l4::backends` has them.
    pub backends: bool,
}

/// How the flows of a virtual IP were spread before: what nobody holds by its slots now is looked for by these.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Earlier {
    pub hash: Hash,
    /// See [`Kernel::set_seed`].
    pub seed: u32,
    pub slots: Arc<[Slot]>,
}

/// How fast TCP connections to a virtual IP may begin; where there is nothing said, as fast as they come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VipLimits {
    /// All of them together.
    pub all: Option<Rate>,
    pub source: Option<SourceLimit>,
    /// What comes faster to this machine is answered with SYN cookies, and must bring them.
    pub cookies: Option<Rate>,
}

/// For the connections of one source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SourceLimit {
    pub rate: Rate,
    /// Bits of an address that make a source, for each family.
    pub v4: u8,
    pub v6: u8,
}

impl VipLimits {
    /// As the programs have it; nothing where nothing is limited.
    pub fn element(&self) -> Option<abi::Limit> {
        if *self == VipLimits::default() {
            return None;
        }
        let mask = |bits: u8, width: u32| u128::MAX.checked_shl(width - u32::from(bits).min(width)).unwrap_or(0);
        let source = self.source;
        let v6 = source.map_or(0, |source| mask(source.v6, 128));
        Some(abi::Limit {
            all: self.all.unwrap_or_default(),
            source: source.map(|source| source.rate).unwrap_or_default(),
            cookies: self.cookies.unwrap_or_default(),
            mask_v4: source.map_or(0, |source| (mask(source.v4, 32) as u32).to_be()),
            reserved: 0,
            mask_v6: Address::from(std::net::Ipv6Addr::from_bits(v6)).0,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// What chooses the slot of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Hash {
    #[default]
    FiveTuple,
    SourceIp,
    /// Bits of the address that count, for each family.
    SourcePrefix {
        v4: u8,
        v6: u8,
    },
    DestinationPort,
}

/// What a change took.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Epoch in which packets are steered now.
    pub epoch: u16,
    /// Tables that were written; the others had not changed.
    pub tables_written: usize,
    /// Of those, tables that were written over while live, because none was free: packets then saw some slots before others. Only what
    /// virtual IPs with these same owners used.
    pub tables_in_place: usize,
    /// Addresses served.
    pub addresses: usize,
    /// Virtual IPs that could not be installed, by id, and why. Packets for them are treated as packets for no virtual IP.
    pub left_out: BTreeMap<u16, String>,
    /// Virtual IPs that are in force without some of their addresses, by id, and why.
    pub partly: BTreeMap<u16, String>,
    /// Virtual IPs with prefixes that are in force and should not be, by id, and why.
    pub in_spite: BTreeMap<u16, String>,
    /// Virtual IPs that stay with the owners they had, by id, and why.
    pub kept: BTreeMap<u16, String>,
}

impl Protocol {
    pub const fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        }
    }
}

impl Kernel {
    /// [`Kernel::apply`], and the routes in the right order: the stack knows an address before packets for it are let through, and
    /// forgets one only after steering has. When steering stays as it was, so do the routes it needs. An address that cannot be made one,
    /// or a prefix that has somebody else's address in it, is left out alone; see [`Kernel::set_others`].
    pub fn steer(&mut self, machines: &[Machine], vips: &[Vip]) -> Result<Applied, KernelError> {
        let wanted: BTreeSet<Prefix> = vips.iter().flat_map(|vip| vip.addresses.iter().copied()).collect();
        let named = machines.iter().map(|machine| (machine.address, machine.name.clone())).collect();
        let chosen = self.by_prefix.choose(wanted.clone(), local_addresses()?, named);
        let fit: Vec<Prefix> = wanted.into_iter().filter(|prefix| !chosen.left_out.contains_key(prefix)).collect();
        let mut amiss = chosen.left_out;
        amiss.extend(add_local_addresses(&fit)?.into_iter().map(|(prefix, error)| (prefix, error.to_string())));
        let (mut left_out, mut partly) = (BTreeMap::new(), BTreeMap::new());
        let mut routable = Vec::with_capacity(vips.len());
        for vip in vips {
            let mut vip = vip.clone();
            let Some(why) = told_of(&vip, &amiss) else {
                routable.push(vip);
                continue;
            };
            vip.addresses.retain(|prefix| !amiss.contains_key(prefix));
            if vip.addresses.is_empty() {
                left_out.insert(vip.id, why);
            } else {
                partly.insert(vip.id, why);
                routable.push(vip);
            }
        }
        let (mut applied, kept) = self.apply_each(machines, &routable.iter().collect::<Vec<_>>())?;
        applied.left_out.append(&mut left_out);
        partly.retain(|id, _| !applied.left_out.contains_key(id));
        applied.partly = partly;
        applied.in_spite = vips.iter().filter_map(|vip| Some((vip.id, told_of(vip, &chosen.in_spite)?))).collect();
        keep_local_addresses(&kept)?;
        Ok(applied)
    }

    /// Makes these machines and virtual IPs what packets are steered by. A virtual IP that cannot be installed is left out; those
    /// given first take precedence. Either nothing changes and there is an error, or every packet from now on sees all of the rest.
    pub fn apply(&mut self, machines: &[Machine], vips: &[Vip]) -> Result<Applied, KernelError> {
        Ok(self.apply_each(machines, &vips.iter().collect::<Vec<_>>())?.0)
    }

    /// Also says which addresses are served.
    fn apply_each(&mut self, machines: &[Machine], vips: &[&Vip]) -> Result<(Applied, Vec<Prefix>), KernelError> {
        self.check_machines(machines)?;
        let (mut vips, mut left_out) = self.installable(vips);
        let (tables, kept) = self.place_tables(&vips);
        vips.retain(|vip| {
            let placed = tables.contains_key(&vip.id);
            if !placed {
                left_out
                    .insert(vip.id, format!("{}; give it those of another, or load with more", self.tables_taken()));
            }
            placed
        });
        let mut services = Services::default();
        let mut spreads = BTreeMap::new();
        for vip in &vips {
            services.add(vip, tables[&vip.id].table).map_err(KernelError::Invalid)?;
            let placed = vip.earlier.as_ref().zip(tables.get(&(vip.id | EARLIER)));
            // Without a table there is none: the flag in its services then leads to slots that name nobody.
            let none = abi::Before { table: u32::MAX, ..abi::Before::NONE };
            spreads.insert(vip.id, placed.map_or(none, |(earlier, placed)| before(earlier, placed.table)));
        }
        let addresses = services.addresses();
        let services = services.finish();

        let places = Places::of(&services).map_err(KernelError::Invalid)?;

        self.wait_for_standby();
        let mut applied = Applied { addresses: services.len(), left_out, kept, ..Applied::default() };
        let mut written = BTreeSet::new();
        for vip in &vips {
            let placed = tables[&vip.id];
            if placed.write && written.insert(placed.table) {
                self.write_table(placed.table, &vip.slots);
                applied.tables_written += 1;
                applied.tables_in_place += usize::from(placed.live);
            }
            let earlier = vip.earlier.as_ref().zip(tables.get(&(vip.id | EARLIER)));
            if let Some((earlier, placed)) = earlier.filter(|(_, placed)| placed.write && written.insert(placed.table))
            {
                self.write_table(placed.table, &earlier.slots);
                applied.tables_written += 1;
            }
        }
        let standby = 1 - self.generation();
        self.settings.own = machines.iter().find(|machine| machine.own).map_or(0, |machine| machine.index.into());
        self.settings.vip_hash = places.hash;
        self.write_settings(standby);
        self.write_machines(standby, machines);
        self.write_before(standby, &spreads);
        self.write_limits(standby, &vips);
        self.publish_syn_options();
        self.hand_over_counters(machines, &vips);
        self.write_senders(standby, machines)?;
        self.write_vips(standby, &places)?;

        self.live_tables = BTreeMap::new();
        for (vip, placed) in &tables {
            self.live_tables.entry(placed.table).or_default().insert(*vip);
        }
        applied.epoch = self.switch_to(standby);
        self.ways.wanted = has_others(machines) && vips.iter().any(|vip| vip.limits.cookies.is_some());
        if applied.kept.is_empty() {
            self.sweep_flows(&vips);
        }
        self.services = services;
        self.complete_take_over()?;
        Ok((applied, addresses))
    }

    /// The secret that machines of the cluster know each other's tunnels by: `current` goes with what is sent, and the others are taken
    /// too, the one before and the one to come. Holds from the next [`Kernel::apply`] on. Without one nothing is taken.
    pub fn set_cookies(&mut self, current: Option<NonZeroU32>, others: [Option<NonZeroU32>; 2]) {
        fn word(cookie: Option<NonZeroU32>) -> u32 {
            cookie.map_or(0, |cookie| cookie.get().to_be())
        }
        self.settings.cookie = word(current);
        self.settings.cookies = others.map(word);
    }

    /// What the hash of flows begins with, the same on all machines of a cluster. Holds from the next [`Kernel::apply`] on; another seed
    /// puts every connection into another slot.
    pub fn set_seed(&mut self, seed: u32) {
        self.settings.seed = seed;
    }

    /// Writes a table by its number, live or not: 65,537 stores, no system call. Packets may see some slots before others;
    /// [`Kernel::apply`] avoids that by choosing a table nobody looks at.
    pub fn install_table(&mut self, table: u16, slots: &[Slot]) -> Result<(), KernelError> {
        if u32::from(table) >= self.options.sizes.tables {
            return Err(KernelError::Invalid(format!(
                "table {table}: the maps were loaded for {} tables, 0 to {}",
                self.options.sizes.tables,
                self.options.sizes.tables - 1
            )));
        }
        check_slots(slots).map_err(|why| KernelError::Invalid(format!("table {table}: {why}")))?;
        self.write_table(table, slots);
        Ok(())
    }

    /// The epoch that packets are steered in.
    pub fn epoch(&self) -> u16 {
        self.switch().epoch()
    }

    /// Reads back which tables an earlier process left in use, so that none of them is written over.
    pub(crate) fn inherit(&mut self) {
        let generation = self.generation();
        for value in self.elements_of(generation) {
            for service in value.services.iter().take(value.count as usize) {
                self.live_tables.entry(service.table).or_default().insert(service.vip);
                if service.flags & abi::Service::BEFORE != 0 {
                    let at = generation as usize * (self.options.sizes.vips as usize + 1) + usize::from(service.vip);
                    if let Ok(table) = u16::try_from(self.before.read(at).table) {
                        self.live_tables.entry(table).or_default().insert(service.vip | EARLIER);
                    }
                }
            }
        }
    }

    fn check_machines(&self, machines: &[Machine]) -> Result<(), KernelError> {
        let mut seen = BTreeSet::new();
        for machine in machines {
            if machine.index == 0 || u32::from(machine.index) > self.options.sizes.machines {
                return Err(KernelError::Invalid(format!(
                    "machine {} ({}): the maps were loaded for machines 1 to {}",
                    machine.index, machine.address, self.options.sizes.machines
                )));
            }
            if !seen.insert(machine.index) {
                return Err(KernelError::Invalid(format!(
                    "machine {} ({}): the index is given twice; every machine needs its own",
                    machine.index, machine.address
                )));
            }
        }
        Ok(())
    }

    /// The virtual IPs that can be installed together, and why the others cannot.
    fn installable<'v>(&self, vips: &[&'v Vip]) -> (Vec<&'v Vip>, BTreeMap<u16, String>) {
        let sizes = &self.options.sizes;
        let mut services = Services::default();
        let mut seen = BTreeSet::new();
        let (mut chosen, mut left_out) = (Vec::new(), BTreeMap::new());
        for &vip in vips {
            let checked = if vip.id == 0 || u32::from(vip.id) > sizes.vips {
                Err(format!("the maps were loaded for virtual IPs 1 to {}, and this is number {}", sizes.vips, vip.id))
            } else if !seen.insert(vip.id) {
                Err("the id is given twice; every virtual IP needs its own".to_owned())
            } else {
                check_vip(vip).and_then(|()| services.add(vip, 0))
            };
            match checked {
                Ok(()) => chosen.push(vip),
                Err(why) => drop(left_out.insert(vip.id, why)),
            }
        }
        (chosen, left_out)
    }

    /// Chooses a table for every VIP: the one of another with the same owners, one that already holds them, else a free one, else the
    /// live one that nobody but VIPs with these owners uses. Where there is none, a VIP keeps the table it has, and the second answer says
    /// so; a new one is not placed.
    fn place_tables(&self, vips: &[&Vip]) -> (HashMap<u16, Placed>, BTreeMap<u16, String>) {
        let mut contents: Vec<Content<'_>> = Vec::new();
        for vip in vips {
            match contents.iter_mut().find(|(slots, ..)| same(slots, &vip.slots)) {
                Some((_, users, _)) => users.push(vip.id),
                None => contents.push((&vip.slots, vec![vip.id], None)),
            }
        }
        for (vip, earlier) in vips.iter().filter_map(|vip| Some((vip, vip.earlier.as_ref()?))) {
            match contents.iter_mut().find(|(slots, ..)| same(slots, &earlier.slots)) {
                Some((_, users, _)) => users.push(vip.id | EARLIER),
                None => contents.push((&earlier.slots, vec![vip.id | EARLIER], None)),
            }
        }
        let mut taken: BTreeSet<u16> = BTreeSet::new();
        for (slots, _, placed) in &mut contents {
            let mut live = self.live_tables.keys().filter(|t| !taken.contains(t));
            if let Some(&table) = live.find(|&&t| self.table_holds(t, slots)) {
                taken.insert(table);
                *placed = Some(Placed { table, write: false, live: true });
            }
        }
        let (mut placed_at, mut kept) = (HashMap::new(), BTreeMap::new());
        for (_, users, placed) in contents {
            let placed = placed.or_else(|| {
                let free = || {
                    (0..self.options.sizes.tables as u16)
                        .find(|t| !self.live_tables.contains_key(t) && !taken.contains(t))
                };
                let alone = |of: &BTreeSet<u16>| of.iter().all(|vip| users.contains(vip));
                let own = || self.live_tables.iter().find(|(t, of)| !taken.contains(t) && alone(of)).map(|(t, _)| *t);
                let (table, live) = free().map(|t| (t, false)).or_else(|| own().map(|t| (t, true)))?;
                taken.insert(table);
                Some(Placed { table, write: true, live })
            });
            for vip in users {
                let now = || self.live_tables.iter().find(|(_, of)| of.contains(&vip)).map(|(table, _)| *table);
                if let Some(placed) = placed {
                    placed_at.insert(vip, placed);
                } else if let Some(table) = now().filter(|_| vip & EARLIER == 0) {
                    placed_at.insert(vip, Placed { table, write: false, live: true });
                    kept.insert(
                        vip,
                        format!("{}; until one is free it stays with the owners it had", self.tables_taken()),
                    );
                }
            }
        }
        (placed_at, kept)
    }

    fn tables_taken(&self) -> String {
        format!("all {} tables are taken by virtual IPs with other owners or weights", self.options.sizes.tables)
    }

    fn table_holds(&self, table: u16, slots: &[Slot]) -> bool {
        let words = self.table_words(table);
        slots.iter().zip(words).all(|(slot, word)| word.load(Ordering::Relaxed) == slot.0)
    }

    fn write_table(&self, table: u16, slots: &[Slot]) {
        for (slot, word) in slots.iter().zip(self.table_words(table)) {
            word.store(slot.0, Ordering::Relaxed);
        }
    }

    fn table_words(&self, table: u16) -> &[AtomicU64] {
        let first = Slot::element(table, 0) as usize;
        &self.slots.double_words()[first..first + SLOTS as usize]
    }

    pub(crate) fn write_settings(&self, generation: u32) {
        const FIRST: usize = std::mem::offset_of!(abi::Config, settings) / 4;
        let words = self.settings.words();
        let at = FIRST + generation as usize * (size_of::<Settings>() / 4);
        for (to, word) in self.config.words()[at..].iter().zip(words) {
            to.store(word, Ordering::Relaxed);
        }
    }

    fn write_senders(&mut self, generation: u32, machines: &[Machine]) -> Result<(), KernelError> {
        let failed = |e| KernelError::system("cannot write the machines that may send", e);
        let senders: BTreeMap<[u32; 4], u32> = machines
            .iter()
            .filter(|machine| !machine.own && machine.backend.is_none())
            .map(|machine| (Address::from(machine.address).0, machine.index.into()))
            .collect();
        let known: Vec<SenderKey> = sys::map_keys(self.senders.as_fd()).map_err(failed)?;
        for key in known.iter().filter(|key| key.generation == generation && !senders.contains_key(&key.address.0)) {
            sys::map_delete(self.senders.as_fd(), key).map_err(failed)?;
        }
        for (address, index) in senders {
            let key = SenderKey { address: Address(address), generation };
            sys::map_update(self.senders.as_fd(), &key, &index).map_err(failed)?;
        }
        Ok(())
    }

    fn write_machines(&mut self, generation: u32, machines: &[Machine]) {
        let room = self.options.sizes.machines as usize + 1;
        let first = generation as usize * room;
        for index in 0..room {
            self.machines.write(first + index, abi::Machine::default());
        }
        for machine in machines {
            let own = [self.settings.own_v4, self.settings.own_v6];
            let value = machine.element(own, self.next_hops.get(&machine.address).copied());
            self.machines.write(first + usize::from(machine.index), value);
        }
    }

    fn write_before(&mut self, generation: u32, spreads: &BTreeMap<u16, abi::Before>) {
        let room = self.options.sizes.vips as usize + 1;
        for vip in 0..room {
            let spread =
                u16::try_from(vip).ok().and_then(|vip| spreads.get(&vip)).copied().unwrap_or(abi::Before::NONE);
            self.before.write(generation as usize * room + vip, spread);
        }
    }

    fn write_limits(&mut self, generation: u32, vips: &[&Vip]) {
        let room = self.options.sizes.vips as usize + 1;
        let of: BTreeMap<usize, abi::Limit> =
            vips.iter().filter_map(|vip| Some((usize::from(vip.id), vip.limits.element()?))).collect();
        for vip in 0..room {
            let limit = of.get(&vip).copied().unwrap_or(abi::Limit::NONE);
            self.limits.write(generation as usize * room + vip, limit);
        }
    }

    fn write_vips(&mut self, generation: u32, places: &Places) -> Result<(), KernelError> {
        let failed = |e| KernelError::system("cannot write the virtual IPs", e);
        let first = generation * ADDRESSES_MAX;
        for (at, said) in (first as usize..).zip(&places.elements) {
            self.vips.write(at, *said);
        }
        for (at, seed) in ((generation * SEEDS) as usize..).zip(&places.seeds) {
            self.vip_seeds.write(at, *seed);
        }
        for (at, place) in ((generation * PLACES) as usize..).zip(&places.places) {
            self.vip_places.write(at, VipAt { element: first + place.element, ..*place });
        }

        let keys = places.places.iter().filter_map(|at| key_of(at, generation));
        let prefixes: BTreeMap<VipPlace, VipKey> =
            keys.filter(|key| key.bits != 0).map(|key| (key.place(), key)).collect();
        let there: Vec<VipPlace> = sys::map_keys(self.vip_prefixes.as_fd()).map_err(failed)?;
        let is_stale =
            |place: &&VipPlace| u32::from(place.key.generation) == generation && !prefixes.contains_key(*place);
        for place in there.iter().filter(is_stale) {
            sys::map_delete(self.vip_prefixes.as_fd(), place).map_err(failed)?;
        }
        // What is there has the value it should: the key follows from the place. A full trie, before Linux 6.13, would refuse it.
        let there: BTreeSet<VipPlace> = there.into_iter().collect();
        for (place, key) in prefixes.iter().filter(|(place, _)| !there.contains(place)) {
            sys::map_update(self.vip_prefixes.as_fd(), place, key).map_err(failed)?;
        }
        let others = self.config.read(0).prefixed & !(1 << generation);
        let prefixed = others | u32::from(!prefixes.is_empty()) << generation;
        self.config.publish(std::mem::offset_of!(abi::Config, prefixed) / 4, prefixed);
        Ok(())
    }

    /// What the maps say of addresses in a generation, each once.
    fn elements_of(&self, generation: u32) -> Vec<VipAddress> {
        let first = (generation * PLACES) as usize;
        let places = (first..first + PLACES as usize).map(|at| self.vip_places.read(at));
        let elements: BTreeSet<u32> = places.filter(|at| at.bits_and_one != 0).map(|at| at.element).collect();
        elements.into_iter().map(|element| self.vips.read(element as usize)).collect()
    }

    /// What the maps say of an address, and what it is under: as the programs find it.
    pub(crate) fn find_vip(&self, address: Address, switch: Switch) -> io::Result<Option<(VipKey, VipAddress)>> {
        let place = VipPlace::whole(switch.generation() as u16, address);
        let hash = self.config.read(0).settings[switch.generation() as usize].vip_hash;
        let find = |key: VipKey| {
            let number = hash.of(&key.address, key.bits);
            let seed = self.vip_seeds.read(VipHash::bucket(switch, number) as usize);
            let at = self.vip_places.read(VipHash::place(switch, number, seed) as usize);
            at.is(&key.address, key.bits).then(|| (key, self.vips.read(at.element as usize)))
        };
        if let Some(found) = find(place.key) {
            return Ok(Some(found));
        }
        Ok(sys::map_lookup::<_, VipKey>(self.vip_prefixes.as_fd(), &place)?.and_then(find))
    }

    /// No packet may still be looking at the generation that is written next: it was live until the last switch.
    fn wait_for_standby(&self) {
        if self.switched_at.is_some_and(|at| at.elapsed() > sys::READERS_GONE) {
            return;
        }
        sys::wait_for_readers();
    }

    fn switch(&self) -> Switch {
        Switch(self.config.words()[0].load(Ordering::Acquire))
    }

    fn generation(&self) -> u32 {
        self.switch().generation()
    }

    fn switch_to(&mut self, generation: u32) -> u16 {
        let epoch = self.switch().epoch().wrapping_add(1);
        self.config.publish(0, Switch::new(generation, epoch).0);
        self.switched_at = Some(Instant::now());
        epoch
    }
}

/// Beside the number of a virtual IP: what its slots were. Numbers end far below.
const EARLIER: u16 = 0x8000;

/// Slots, the VIPs that have them, and where they go.
type Content<'v> = (&'v Arc<[Slot]>, Vec<u16>, Option<Placed>);

/// Where the slots of a VIP go.
#[derive(Clone, Copy)]
struct Placed {
    table: u16,
    write: bool,
    live: bool,
}

/// Of what lies in a place, if anything does.
fn key_of(at: &VipAt, generation: u32) -> Option<VipKey> {
    let bits = at.bits_and_one.checked_sub(1)? as u16;
    Some(VipKey { generation: generation as u16, bits, address: at.address })
}

/// What is said of prefixes of this virtual IP; of many, some.
fn told_of(vip: &Vip, prefixes: &BTreeMap<Prefix, String>) -> Option<String> {
    const TOLD: usize = 3;
    let mut told: Vec<&str> =
        vip.addresses.iter().filter_map(|prefix| prefixes.get(prefix)).map(String::as_str).collect();
    let more = told.len().saturating_sub(TOLD);
    told.truncate(TOLD);
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    (!told.is_empty()).then(|| format!("{}{rest}", told.join("; ")))
}

fn check_vip(vip: &Vip) -> Result<(), String> {
    if let Some(range) = vip.ports.iter().find(|range| range.is_empty()) {
        return Err(format!("ports {}-{}: the first is above the last", range.start(), range.end()));
    }
    let width = |prefix: &Prefix| Prefix::from(prefix.address).bits;
    if let Some(prefix) = vip.addresses.iter().find(|prefix| prefix.bits > width(prefix) || prefix.bits == 0) {
        return Err(format!("{}/{}: prefixes have 1 to {} bits", prefix.address, prefix.bits, width(prefix)));
    }
    // The maps have IPv4 there.
    let mapped = Prefix { address: Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().into(), bits: 96 };
    if let Some(prefix) = vip.addresses.iter().find(|prefix| prefix.overlaps(&mapped)) {
        return Err(format!(
            "{prefix}: has addresses of IPv4 in IPv6 clothes (::ffff:0:0/96) in it; write those of IPv4 as IPv4"
        ));
    }
    if let Hash::SourcePrefix { v4, v6 } = vip.hash
        && (v4 > 32 || v6 > 128)
    {
        return Err(format!("source prefixes of {v4} and {v6} bits: at most 32 and 128 are accepted"));
    }
    vip.earlier.iter().try_for_each(|earlier| check_slots(&earlier.slots))?;
    check_slots(&vip.slots)
}

fn same(one: &Arc<[Slot]>, other: &Arc<[Slot]>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

fn check_slots(slots: &[Slot]) -> Result<(), String> {
    if slots.len() == SLOTS as usize {
        return Ok(());
    }
    Err(format!("{} slots were given; a table has {SLOTS}", slots.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_no_machines_that_anything_is_told_to() {
        let machine = |index: u16, own, backend| Machine {
            index,
            name: format!("m{index}"),
            address: IpAddr::from([10, 0, 0, index as u8]),
            next_hop: None,
            own,
            backend,
        };
        let (own, web) = (machine(1, true, None), machine(255, false, Some(Backend::default())));
        assert!(!has_others(&[own.clone(), web.clone()]));
        assert!(has_others(&[own, web, machine(2, false, None)]));
    }
}
