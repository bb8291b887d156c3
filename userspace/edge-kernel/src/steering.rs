//! Machines and virtual IPs: written beside what is live, then switched with one word.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use abi::limits::{ADDRESSES_MAX, SERVICES_MAX, SLOT_PAIRS, SLOTS};
use abi::{Address, Counts, HashMode, Service, Slot, Switch, VipAddress, VipKey};

use crate::kernel::Kernel;
use crate::{KernelError, sys};

/// A machine that slots may name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    /// What slots call it, from 1 to the number of machines loaded for. Keep it for as long as any table names it.
    pub index: u16,
    /// Where GUE for it is sent.
    pub address: IpAddr,
    /// Its MAC, when it is to be reached on the link without the router that brought the packet.
    pub next_hop: Option<[u8; 6]>,
    /// It is this machine.
    pub own: bool,
}

/// A virtual IP as the kernel sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vip {
    /// What counters are kept under, from 1 to the number of VIPs loaded for.
    pub id: u16,
    pub addresses: Vec<IpAddr>,
    /// Ports served; a port is a range of one, any port is 0 to 65535.
    pub ports: Vec<RangeInclusive<u16>>,
    pub protocols: Vec<Protocol>,
    pub hash: Hash,
    /// Current and previous owner of each of the 65,537 slots, as indices of machines; 0 is nobody.
    pub slots: std::sync::Arc<[(u16, u16)]>,
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// Epoch in which packets are steered now.
    pub epoch: u16,
    /// Tables that were written; the others had not changed.
    pub tables_written: usize,
    /// Of those, tables that were written over while live, because none was free: packets then saw some slots before others.
    pub tables_in_place: usize,
    /// Addresses served.
    pub addresses: usize,
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
    /// Makes these machines and virtual IPs, all of them, what packets are steered by. Either nothing changes and there is
    /// an error, or every packet from now on sees all of it.
    pub fn apply(&mut self, machines: &[Machine], vips: &[Vip]) -> Result<Applied, KernelError> {
        self.check_machines(machines)?;
        self.check_vips(vips)?;
        let tables = self.place_tables(vips)?;
        let services = gather(vips, |id| tables[&id].table)?;

        self.wait_for_standby()?;
        let mut applied = Applied { addresses: services.len(), ..Applied::default() };
        for vip in vips {
            let placed = tables[&vip.id];
            if placed.write {
                self.write_table(placed.table, &vip.slots);
                applied.tables_written += 1;
                applied.tables_in_place += usize::from(placed.live);
            }
        }
        let standby = 1 - self.generation();
        self.write_machines(standby, machines);
        self.write_vips(standby, &services)?;

        self.live_tables = tables.values().map(|placed| placed.table).collect();
        applied.epoch = self.switch_to(standby);
        self.complete_take_over()?;
        Ok(applied)
    }

    /// Writes a table by its number, live or not: 65,537 stores, no system call. Packets may see some slots before others;
    /// [`Kernel::apply`] avoids that by choosing a table nobody looks at.
    pub fn install_table(&mut self, table: u16, slots: &[(u16, u16)]) -> Result<(), KernelError> {
        if u32::from(table) >= self.options.sizes.tables {
            return Err(KernelError::Invalid(format!(
                "table {table}: the maps were loaded for {} tables, 0 to {}",
                self.options.sizes.tables,
                self.options.sizes.tables - 1
            )));
        }
        check_slots(&format!("table {table}"), slots)?;
        self.write_table(table, slots);
        Ok(())
    }

    /// The epoch that packets are steered in.
    pub fn epoch(&self) -> u16 {
        self.switch().epoch()
    }

    /// Reads back which tables an earlier process left in use, so that none of them is written over.
    pub(crate) fn inherit(&mut self) -> Result<(), KernelError> {
        let generation = self.generation();
        for key in self.vip_keys()? {
            if key.generation != generation {
                continue;
            }
            let value: Option<VipAddress> = sys::map_lookup(self.vips.as_fd(), &key)
                .map_err(|e| KernelError::system("cannot read the virtual IPs of the earlier process", e))?;
            for service in value.iter().flat_map(|v| v.services.iter().take(v.count as usize)) {
                self.live_tables.insert(service.table);
            }
        }
        Ok(())
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

    fn check_vips(&self, vips: &[Vip]) -> Result<(), KernelError> {
        let mut seen = BTreeSet::new();
        for vip in vips {
            let name = format!("virtual IP {}", vip.id);
            if vip.id == 0 || u32::from(vip.id) > self.options.sizes.vips {
                return Err(KernelError::Invalid(format!(
                    "{name}: the maps were loaded for virtual IPs 1 to {}",
                    self.options.sizes.vips
                )));
            }
            if !seen.insert(vip.id) {
                return Err(KernelError::Invalid(format!(
                    "{name}: the id is given twice; every virtual IP needs its own"
                )));
            }
            if let Some(range) = vip.ports.iter().find(|range| range.is_empty()) {
                return Err(KernelError::Invalid(format!(
                    "{name}: ports {}-{}: the first is above the last",
                    range.start(),
                    range.end()
                )));
            }
            if let Hash::SourcePrefix { v4, v6 } = vip.hash
                && (v4 > 32 || v6 > 128)
            {
                return Err(KernelError::Invalid(format!(
                    "{name}: source prefixes of {v4} and {v6} bits: at most 32 and 128 are accepted"
                )));
            }
            check_slots(&name, &vip.slots)?;
        }
        if vips.len() > self.options.sizes.tables as usize {
            return Err(KernelError::Invalid(format!(
                "{} virtual IPs: the maps were loaded for {} tables, one each",
                vips.len(),
                self.options.sizes.tables
            )));
        }
        Ok(())
    }

    /// Chooses a table for every VIP: one that already holds its slots, else a free one, else one that is live.
    fn place_tables(&self, vips: &[Vip]) -> Result<HashMap<u16, Placed>, KernelError> {
        let mut placed: HashMap<u16, Placed> = HashMap::new();
        let mut taken: BTreeSet<u16> = BTreeSet::new();
        for vip in vips {
            if let Some(&table) =
                self.live_tables.iter().find(|&&t| !taken.contains(&t) && self.table_holds(t, &vip.slots))
            {
                taken.insert(table);
                placed.insert(vip.id, Placed { table, write: false, live: true });
            }
        }
        for vip in vips {
            if placed.contains_key(&vip.id) {
                continue;
            }
            let all = || (0..self.options.sizes.tables as u16).filter(|t| !taken.contains(t));
            let free = all().find(|t| !self.live_tables.contains(t));
            let Some(table) = free.or_else(|| all().next()) else {
                return Err(KernelError::Invalid(format!(
                    "virtual IP {}: all {} tables are taken; load with more",
                    vip.id, self.options.sizes.tables
                )));
            };
            taken.insert(table);
            placed.insert(vip.id, Placed { table, write: true, live: free.is_none() });
        }
        Ok(placed)
    }

    fn table_holds(&self, table: u16, slots: &[(u16, u16)]) -> bool {
        let words = self.table_words(table);
        slots
            .iter()
            .zip(words)
            .all(|(&(current, previous), word)| word.load(Ordering::Relaxed) == Slot::new(current, previous).0)
    }

    fn write_table(&self, table: u16, slots: &[(u16, u16)]) {
        for (&(current, previous), word) in slots.iter().zip(self.table_words(table)) {
            word.store(Slot::new(current, previous).0, Ordering::Relaxed);
        }
    }

    fn table_words(&self, table: u16) -> &[std::sync::atomic::AtomicU32] {
        let first = table as usize * SLOT_PAIRS as usize * 2;
        &self.slots.words()[first..first + SLOTS as usize]
    }

    fn write_machines(&mut self, generation: u32, machines: &[Machine]) {
        let room = self.options.sizes.machines as usize + 1;
        let first = generation as usize * room;
        for index in 0..room {
            self.machines.write(first + index, abi::Machine::default());
        }
        for machine in machines {
            let own = if machine.own { abi::Machine::OWN } else { 0 };
            let value = abi::Machine {
                address: machine.address.into(),
                flags: abi::Machine::PRESENT | own,
                next_hop: machine.next_hop.unwrap_or_default(),
                reserved: [0; 6],
            };
            self.machines.write(first + usize::from(machine.index), value);
        }
    }

    fn write_vips(&mut self, generation: u32, services: &BTreeMap<[u32; 4], VipAddress>) -> Result<(), KernelError> {
        let failed = |e| KernelError::system("cannot write the virtual IPs", e);
        let stale: Vec<VipKey> = self
            .vip_keys()?
            .into_iter()
            .filter(|key| key.generation == generation && !services.contains_key(&key.address.0))
            .collect();
        for key in stale {
            sys::map_delete(self.vips.as_fd(), &key).map_err(failed)?;
        }
        let keys: Vec<VipKey> =
            services.keys().map(|&address| VipKey { address: Address(address), generation }).collect();
        let values: Vec<VipAddress> = services.values().copied().collect();
        sys::map_update_batch(self.vips.as_fd(), &keys, &values).map_err(failed)
    }

    fn vip_keys(&self) -> Result<Vec<VipKey>, KernelError> {
        sys::map_keys(self.vips.as_fd()).map_err(|e| KernelError::system("cannot read the virtual IPs", e))
    }

    /// No packet may still be looking at the generation that is written next: it was live until the last switch.
    fn wait_for_standby(&self) -> Result<(), KernelError> {
        /// Far longer than a packet takes; after it there is no need to ask.
        const SETTLED: Duration = Duration::from_millis(100);
        if self.switched_at.is_some_and(|at| at.elapsed() > SETTLED) {
            return Ok(());
        }
        sys::wait_for_readers().or_else(|_| {
            // No membarrier here (a sandbox, a kernel built without it): wait it out.
            std::thread::sleep(SETTLED);
            Ok(())
        })
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

/// Where the slots of a VIP go.
#[derive(Clone, Copy)]
struct Placed {
    table: u16,
    write: bool,
    live: bool,
}

fn check_slots(name: &str, slots: &[(u16, u16)]) -> Result<(), KernelError> {
    if slots.len() == SLOTS as usize {
        return Ok(());
    }
    Err(KernelError::Invalid(format!("{name}: {} slots were given; a table has {SLOTS}", slots.len())))
}

/// All services by address as the map VIPS holds them: narrowest first. `table` says which table a VIP's slots are in.
pub fn gather(vips: &[Vip], table: impl Fn(u16) -> u16) -> Result<BTreeMap<[u32; 4], VipAddress>, KernelError> {
    let mut by_address: BTreeMap<[u32; 4], (IpAddr, Vec<Service>)> = BTreeMap::new();
    for vip in vips {
        for &ip in &vip.addresses {
            let mode = match vip.hash {
                Hash::FiveTuple => HashMode::FiveTuple,
                Hash::SourceIp => HashMode::SourceIp,
                Hash::SourcePrefix { v4, v6 } => HashMode::SourcePrefix { v4, v6 },
                Hash::DestinationPort => HashMode::DestinationPort,
            };
            let (_, services) = by_address.entry(Address::from(ip).0).or_insert_with(|| (ip, Vec::new()));
            for range in &vip.ports {
                for protocol in &vip.protocols {
                    let service = Service {
                        port_first: *range.start(),
                        port_last: *range.end(),
                        protocol: protocol.number(),
                        reserved: 0,
                        vip: vip.id,
                        table: table(vip.id),
                        counts: Counts::new(mode, ip.is_ipv4()),
                    };
                    let same = |s: &&Service| {
                        (s.protocol, s.port_first, s.port_last)
                            == (service.protocol, service.port_first, service.port_last)
                    };
                    match services.iter().find(same) {
                        None => services.push(service),
                        Some(known) if known.vip == vip.id => {}
                        Some(known) => {
                            return Err(KernelError::Invalid(format!(
                                "{ip} ports {}-{}: virtual IPs {} and {} both claim them; only one can have them",
                                range.start(),
                                range.end(),
                                known.vip,
                                vip.id
                            )));
                        }
                    }
                }
            }
        }
    }
    if by_address.len() > ADDRESSES_MAX as usize {
        return Err(KernelError::Invalid(format!(
            "{} addresses: at most {ADDRESSES_MAX} can be virtual IPs",
            by_address.len()
        )));
    }
    by_address
        .into_iter()
        .map(|(key, (ip, mut services))| {
            if services.len() > SERVICES_MAX {
                return Err(KernelError::Invalid(format!(
                    "{ip}: {} ports and ranges, counted for each protocol; at most {SERVICES_MAX} are accepted: join \
                     neighbours into ranges, or use `ports: any`",
                    services.len()
                )));
            }
            // The order is the same on every machine, whatever order the documents came in.
            services.sort_by_key(|s| (s.port_last - s.port_first, s.port_first, s.protocol));
            let mut value = VipAddress { count: services.len() as u32, ..VipAddress::EMPTY };
            value.services[..services.len()].copy_from_slice(&services);
            Ok((key, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(id: u16, ports: &[RangeInclusive<u16>]) -> Vip {
        Vip {
            id,
            addresses: vec!["198.51.100.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            ports: ports.to_vec(),
            protocols: vec![Protocol::Tcp, Protocol::Udp],
            hash: Hash::SourcePrefix { v4: 24, v6: 56 },
            slots: vec![(1, 0); SLOTS as usize].into(),
        }
    }

    const V4_24: [u8; 16] = [255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0];
    const V6_56: [u8; 16] = [255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn narrowest_first_and_prefix_by_family() {
        let all = gather(&[vip(1, &[0..=65535, 80..=80]), vip(2, &[8000..=8099])], |id| id + 10).unwrap();
        assert_eq!(all.len(), 2);
        for (key, value) in all {
            let ports: Vec<_> =
                value.services[..6].iter().map(|s| (s.port_first, s.port_last, s.protocol, s.vip)).collect();
            assert_eq!(
                ports,
                [
                    (80, 80, 6, 1),
                    (80, 80, 17, 1),
                    (8000, 8099, 6, 2),
                    (8000, 8099, 17, 2),
                    (0, 65535, 6, 1),
                    (0, 65535, 17, 1)
                ]
            );
            let mask = Address(value.services[0].counts.source).octets();
            assert_eq!(mask, if Address(key).is_v4() { V4_24 } else { V6_56 });
            assert_eq!(value.services[2].table, 12);
        }
    }

    #[test]
    fn a_port_claimed_twice_is_refused_with_both_names() {
        let text = gather(&[vip(1, &[80..=80]), vip(2, &[80..=80])], |id| id).unwrap_err().to_string();
        assert_eq!(text, "198.51.100.1 ports 80-80: virtual IPs 1 and 2 both claim them; only one can have them");
    }

    #[test]
    fn too_many_services_are_refused() {
        let ports: Vec<_> = (1..=17).map(|p| p..=p).collect();
        assert!(gather(&[vip(1, &ports)], |id| id).unwrap_err().to_string().contains("34 ports and ranges"));
    }
}
