//! What should be in the kernel, what is, and the steps between: data only.
//!
//! The kernel holds two generations of everything but the tables: machines and addresses are written beside the live ones, tables
//! into places the live ones do not use, and one switch makes them all live together. A packet sees the old state or the new
//! one, never a mixture, and a plan that fails half-way has changed nothing a packet sees.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use abi::Slot;
use abi::limits::SERVICES_MAX;
use base_model::virtual_ip::SourcePrefixLength;
use base_model::{HashMode, PortRange, PortsSpec, Protocol, VirtualIpSpec};

use crate::maglev::{self, Candidate};
use crate::steering;

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// From 1; what slots hold.
    pub id: u16,
    pub name: String,
    /// Where GUE for it is sent, one per family.
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

/// A machine's share in one generation of a virtual IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Eligible {
    pub member: u16,
    pub weight: u32,
}

/// A virtual IP as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vip {
    pub name: String,
    pub spec: VirtualIpSpec,
    /// Who took new flows, oldest first; the last one does now. Same on all machines.
    pub generations: Vec<Vec<Eligible>>,
    /// Members that still hold connections: up, and not down in the document.
    pub alive: Vec<u16>,
}

/// Everything the tables of this machine depend on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    /// Id of this machine.
    pub own: u16,
    pub members: Vec<Member>,
    pub vips: Vec<Vip>,
}

/// How much the kernel's maps were loaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    pub tables: u16,
    /// Virtual IPs that can be counted, index 0, nobody's, included.
    pub vips: u16,
    /// Machines, index 0, nobody, included.
    pub machines: u16,
    /// Addresses of one generation.
    pub addresses: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        use abi::limits::{ADDRESSES_MAX, MACHINES_MAX, TABLES_MAX, VIPS_MAX};
        Self {
            tables: TABLES_MAX as u16,
            vips: VIPS_MAX as u16,
            machines: MACHINES_MAX as u16,
            addresses: ADDRESSES_MAX,
        }
    }
}

/// The slots of one Maglev table; shared by virtual IPs whose owners are the same.
pub type Table = Arc<[Slot]>;

/// A machine as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelMachine {
    /// Index in the kernel's array: the member's id.
    pub index: u16,
    pub name: String,
    /// `None`: it cannot be reached from here, in no family both machines have; packets for it have nowhere to go.
    pub address: Option<IpAddr>,
    /// It is this machine.
    pub own: bool,
}

/// One port, one range, or all ports of an address, for one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// 0 to 65535 for any.
    pub ports: PortRange,
    pub protocol: Protocol,
    pub hash: HashMode,
    /// Bits that count with [`HashMode::SourcePrefix`].
    pub source_prefix_length: SourcePrefixLength,
    /// Index its counters are kept under.
    pub vip: u16,
    /// Place of the table that holds its owners.
    pub table: u16,
}

/// Everything that is live after a plan was executed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DesiredKernel {
    pub machines: Vec<KernelMachine>,
    /// By place in the kernel.
    pub tables: BTreeMap<u16, Table>,
    /// Services of each address, narrowest range first.
    pub addresses: BTreeMap<IpAddr, Vec<Service>>,
    /// Index the counters of a virtual IP are kept under, from 1, by name. It stays for as long as the name exists.
    pub vips: BTreeMap<String, u16>,
}

/// What is live now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Installed {
    pub kernel: DesiredKernel,
    /// Which of the two generations is live: 0 or 1.
    pub generation: u32,
    /// Counts switches; written into GUE headers.
    pub epoch: u16,
}

/// One step, in the order the steps have to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelChange {
    /// Fill a place no live address refers to.
    PutTable { table: u16, slots: Table },
    /// Start counting a virtual IP from nought: the index may have belonged to another.
    ResetCounters { vip: u16 },
    /// Write all machines of a generation that is not live; indices that are not listed become nobody.
    PutMachines { generation: u32, machines: Vec<KernelMachine> },
    /// Write all addresses of a generation that is not live.
    PutAddresses { generation: u32, addresses: BTreeMap<IpAddr, Vec<Service>> },
    /// Make it live. One store.
    Switch { generation: u32, epoch: u16 },
    /// Remove what the generation that was live before left in the map of addresses.
    RemoveAddresses { generation: u32, addresses: Vec<IpAddr> },
}

/// The steps, and what is live behind them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Empty when everything is as it should be.
    pub changes: Vec<KernelChange>,
    pub next: Installed,
    /// What the operator should know, e.g. machines that cannot be reached.
    pub warnings: Vec<String>,
}

/// Why nothing can be installed; what is live stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    UnknownSelf { own: u16 },
    TooMany { what: &'static str, wanted: usize, room: usize },
    MemberId { name: String, id: u16, room: usize },
    Services { address: IpAddr, wanted: usize },
    Overlap { address: IpAddr, ports: PortRange, vips: [String; 2] },
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownSelf { own } => write!(f, "this machine (id {own}) is not among the cluster's members yet"),
            Self::TooMany { what, wanted, room } => {
                write!(
                    f,
                    "{wanted} {what}; the kernel's maps were loaded with room for {room}: remove some, or load with more room"
                )
            }
            Self::MemberId { name, id, room } => write!(
                f,
                "member {name} has id {id}; the kernel's maps were loaded with room for {room} machines: purge members that are gone"
            ),
            Self::Services { address, wanted } => write!(
                f,
                "{address}: {wanted} ports and ranges over all protocols; at most {SERVICES_MAX}: join neighbours to ranges, or write any"
            ),
            Self::Overlap { address, ports, vips: [a, b] } => {
                write!(
                    f,
                    "{address}: VirtualIP {a} and VirtualIP {b} both claim port {ports}: take it from one of them"
                )
            }
        }
    }
}

impl std::error::Error for Refused {}

/// Compares what should be with what is. Deterministic; the same inputs give the same steps.
pub fn plan(desired: &Desired, installed: &Installed, capacity: &Capacity) -> Result<Plan, Refused> {
    let mut warnings = Vec::new();
    let machines = machines(desired, capacity, &mut warnings)?;
    let vips = vip_indices(desired, &installed.kernel.vips, capacity)?;
    let Tables { all: tables, places, fresh: fresh_tables } = tables(desired, &installed.kernel, capacity)?;
    let addresses = addresses(desired, &vips, &places)?;
    if addresses.len() > capacity.addresses as usize {
        return Err(Refused::TooMany { what: "addresses", wanted: addresses.len(), room: capacity.addresses as usize });
    }
    let kernel = DesiredKernel { machines, tables, addresses, vips };
    if kernel == installed.kernel {
        return Ok(Plan { changes: Vec::new(), next: installed.clone(), warnings });
    }

    let next = Installed { generation: installed.generation ^ 1, epoch: installed.epoch.wrapping_add(1), kernel };
    let mut changes: Vec<KernelChange> = Vec::new();
    for table in fresh_tables {
        changes.push(KernelChange::PutTable { table, slots: next.kernel.tables[&table].clone() });
    }
    for (name, vip) in &next.kernel.vips {
        if !installed.kernel.vips.contains_key(name) {
            changes.push(KernelChange::ResetCounters { vip: *vip });
        }
    }
    changes.push(KernelChange::PutMachines { generation: next.generation, machines: next.kernel.machines.clone() });
    changes.push(KernelChange::PutAddresses { generation: next.generation, addresses: next.kernel.addresses.clone() });
    changes.push(KernelChange::Switch { generation: next.generation, epoch: next.epoch });
    if !installed.kernel.addresses.is_empty() {
        let addresses = installed.kernel.addresses.keys().copied().collect();
        changes.push(KernelChange::RemoveAddresses { generation: installed.generation, addresses });
    }
    Ok(Plan { changes, next, warnings })
}

fn machines(desired: &Desired, capacity: &Capacity, warnings: &mut Vec<String>) -> Result<Vec<KernelMachine>, Refused> {
    let room = usize::from(capacity.machines);
    let Some(own) = desired.members.iter().find(|member| member.id == desired.own) else {
        return Err(Refused::UnknownSelf { own: desired.own });
    };
    let referred: BTreeSet<u16> = desired
        .vips
        .iter()
        .flat_map(|vip| {
            vip.generations.iter().flatten().map(|eligible| eligible.member).chain(vip.alive.iter().copied())
        })
        .collect();
    let mut machines = Vec::with_capacity(desired.members.len());
    for member in &desired.members {
        if usize::from(member.id) >= room || member.id == steering::NOBODY {
            return Err(Refused::MemberId { name: member.name.clone(), id: member.id, room });
        }
        let v4 = member.v4.filter(|_| own.v4.is_some()).map(IpAddr::V4);
        let address = v4.or(member.v6.filter(|_| own.v6.is_some()).map(IpAddr::V6));
        let is_own = member.id == desired.own;
        if address.is_none() && !is_own && referred.contains(&member.id) {
            warnings.push(format!(
                "machine {} has no address of a family this machine has: its packets cannot be passed on; start it with --advertise-address",
                member.name
            ));
        }
        machines.push(KernelMachine { index: member.id, name: member.name.clone(), address, own: is_own });
    }
    machines.sort_by_key(|machine| machine.index);
    Ok(machines)
}

/// Known names keep their index, new ones get the smallest that is free.
fn vip_indices(
    desired: &Desired,
    known: &BTreeMap<String, u16>,
    capacity: &Capacity,
) -> Result<BTreeMap<String, u16>, Refused> {
    let names: BTreeSet<&str> = desired.vips.iter().map(|vip| vip.name.as_str()).collect();
    let room = usize::from(capacity.vips).saturating_sub(1);
    if names.len() > room {
        return Err(Refused::TooMany { what: "virtual IPs", wanted: names.len(), room });
    }
    let mut taken: BTreeSet<u16> = names.iter().filter_map(|name| known.get(*name).copied()).collect();
    let mut free = 1..=u16::MAX;
    let mut indices = BTreeMap::new();
    for name in names {
        let index = match known.get(name) {
            Some(index) => *index,
            None => free.by_ref().find(|index| taken.insert(*index)).unwrap_or(u16::MAX),
        };
        indices.insert(name.to_owned(), index);
    }
    Ok(indices)
}

type Places<'d> = BTreeMap<&'d str, u16>;

struct Tables<'d> {
    /// Everything that will be referred to, by place.
    all: BTreeMap<u16, Table>,
    /// Where the table of each virtual IP is.
    places: Places<'d>,
    /// Places to fill.
    fresh: Vec<u16>,
}

/// The table of every virtual IP and its place. Equal tables share a place, unchanged ones keep theirs.
fn tables<'d>(desired: &'d Desired, installed: &DesiredKernel, capacity: &Capacity) -> Result<Tables<'d>, Refused> {
    let names: BTreeMap<u16, &str> = desired.members.iter().map(|member| (member.id, member.name.as_str())).collect();
    let mut built: BTreeMap<Vec<Eligible>, Vec<u16>> = BTreeMap::new();
    let mut folded: BTreeMap<(&[Vec<Eligible>], Vec<u16>), Table> = BTreeMap::new();
    let mut wanted: Vec<(&str, Table)> = Vec::new();
    for vip in &desired.vips {
        for generation in &vip.generations {
            if !built.contains_key(generation) {
                built.insert(generation.clone(), owners(generation, &names));
            }
        }
        let mut alive: Vec<u16> = vip.alive.iter().copied().filter(|id| names.contains_key(id)).collect();
        alive.sort_unstable();
        alive.dedup();
        let table = folded.entry((vip.generations.as_slice(), alive)).or_insert_with_key(|(_, alive)| {
            let history = vip.generations.iter().map(|generation| built[generation].as_slice());
            let slots = steering::fold(history, &|id| alive.binary_search(&id).is_ok());
            if slots.is_empty() { vec![Slot::default(); abi::limits::SLOTS as usize].into() } else { slots.into() }
        });
        wanted.push((&vip.name, table.clone()));
    }

    let mut tables: BTreeMap<u16, Table> = BTreeMap::new();
    let mut places = Places::new();
    let mut homeless = Vec::new();
    for (name, table) in wanted {
        match tables.iter().chain(&installed.tables).find(|(_, there)| **there == table) {
            Some((place, there)) => {
                let (place, there) = (*place, there.clone());
                tables.insert(place, there);
                places.insert(name, place);
            }
            None => homeless.push((name, table)),
        }
    }
    let mut fresh: Vec<u16> = Vec::new();
    let mut free = 0..capacity.tables;
    let mut lacking = 0;
    for (name, table) in homeless {
        if let Some(place) = fresh.iter().find(|place| tables[*place] == table) {
            places.insert(name, *place);
            continue;
        }
        // A place of the live generation stays untouched until the switch, even when nothing new refers to it.
        match free.by_ref().find(|place| !installed.tables.contains_key(place)) {
            Some(place) => {
                tables.insert(place, table);
                places.insert(name, place);
                fresh.push(place);
            }
            None => lacking += 1,
        }
    }
    if lacking > 0 {
        let wanted = installed.tables.len() + fresh.len() + lacking;
        return Err(Refused::TooMany { what: "tables, old and new together", wanted, room: capacity.tables.into() });
    }
    Ok(Tables { all: tables, places, fresh })
}

fn owners(generation: &[Eligible], names: &BTreeMap<u16, &str>) -> Vec<u16> {
    // A member the cluster forgot has no name to draw a walk from. All machines forget it with the same change.
    let candidates: Vec<Candidate<'_>> = generation
        .iter()
        .filter_map(|eligible| {
            Some(Candidate { id: eligible.member, weight: eligible.weight, name: names.get(&eligible.member)? })
        })
        .collect();
    maglev::full_table(&candidates)
}

fn addresses(
    desired: &Desired,
    vips: &BTreeMap<String, u16>,
    places: &Places<'_>,
) -> Result<BTreeMap<IpAddr, Vec<Service>>, Refused> {
    let mut addresses: BTreeMap<IpAddr, Vec<Service>> = BTreeMap::new();
    for vip in &desired.vips {
        let spec = &vip.spec;
        let ranges = match &spec.ports {
            PortsSpec::Any => vec![PortRange { low: 0, high: u16::MAX }],
            PortsSpec::List(ranges) => ranges.clone(),
        };
        for address in spec.parsed_addresses() {
            let services = addresses.entry(address).or_default();
            for (ports, protocol) in ranges.iter().flat_map(|range| spec.protocols.iter().map(move |p| (*range, *p))) {
                services.push(Service {
                    ports,
                    protocol,
                    hash: spec.hash,
                    source_prefix_length: spec.source_prefix_length,
                    vip: vips[&vip.name],
                    table: places[vip.name.as_str()],
                });
            }
        }
    }
    for (address, services) in &mut addresses {
        services.sort_by_key(|s| (s.ports.high - s.ports.low, s.ports.low, s.protocol, s.vip));
        services.dedup();
        if services.len() > SERVICES_MAX {
            return Err(Refused::Services { address: *address, wanted: services.len() });
        }
        // A narrower range inside a wider one of another virtual IP is well-defined; the same range twice is not.
        for pair in services.windows(2) {
            let [a, b] = pair else { continue };
            if (a.ports, a.protocol) == (b.ports, b.protocol) {
                let name = |index: u16| {
                    vips.iter().find(|(_, i)| **i == index).map(|(name, _)| name.clone()).unwrap_or_default()
                };
                let ports = a.ports;
                return Err(Refused::Overlap { address: *address, ports, vips: [name(a.vip), name(b.vip)] });
            }
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(name: &str, yaml: &str, generations: &[&[u16]], alive: &[u16]) -> Vip {
        let value = base_model::yaml::parse_document(yaml).unwrap();
        let spec = base_model::decode::<VirtualIpSpec>(&value, "").unwrap().value;
        let generation = |ids: &&[u16]| ids.iter().map(|id| Eligible { member: *id, weight: 1 }).collect();
        Vip {
            name: name.into(),
            spec,
            generations: generations.iter().map(generation).collect(),
            alive: alive.to_vec(),
        }
    }

    fn cluster(vips: Vec<Vip>) -> Desired {
        let members = (1..=3)
            .map(|id| Member { id, name: format!("edge-{id}"), v4: Some(Ipv4Addr::new(10, 0, 0, id as u8)), v6: None })
            .collect();
        Desired { own: 1, members, vips }
    }

    /// The kernel as the steps leave it, and the live state after every one of them.
    #[derive(Default, Clone)]
    struct Kernel {
        tables: BTreeMap<u16, Table>,
        addresses: BTreeMap<(u32, IpAddr), Vec<Service>>,
        machines: BTreeMap<u32, Vec<KernelMachine>>,
        live: u32,
    }

    impl Kernel {
        fn take(&mut self, change: &KernelChange) {
            match change {
                KernelChange::PutTable { table, slots } => {
                    let in_use = self.view().2.contains_key(table);
                    assert!(!in_use, "table {table} is live");
                    self.tables.insert(*table, slots.clone());
                }
                KernelChange::ResetCounters { .. } => {}
                KernelChange::PutMachines { generation, machines } => {
                    assert_ne!(*generation, self.live);
                    self.machines.insert(*generation, machines.clone());
                }
                KernelChange::PutAddresses { generation, addresses } => {
                    assert_ne!(*generation, self.live);
                    self.addresses.extend(addresses.iter().map(|(a, s)| ((*generation, *a), s.clone())));
                }
                KernelChange::Switch { generation, .. } => self.live = *generation,
                KernelChange::RemoveAddresses { generation, addresses } => {
                    assert_ne!(*generation, self.live);
                    for address in addresses {
                        assert!(self.addresses.remove(&(*generation, *address)).is_some());
                    }
                }
            }
        }

        /// What a packet can see.
        #[allow(clippy::type_complexity)]
        fn view(&self) -> (BTreeMap<IpAddr, Vec<Service>>, Vec<KernelMachine>, BTreeMap<u16, Table>) {
            let live = self.addresses.iter().filter(|((g, _), _)| *g == self.live);
            let addresses: BTreeMap<_, _> = live.map(|((_, a), s)| (*a, s.clone())).collect();
            let used = addresses.values().flatten().map(|s| s.table);
            let tables = used.filter_map(|t| Some((t, self.tables.get(&t)?.clone()))).collect();
            (addresses, self.machines.get(&self.live).cloned().unwrap_or_default(), tables)
        }
    }

    fn execute(desired: &Desired, installed: &mut Installed, kernel: &mut Kernel) -> Plan {
        let made = plan(desired, installed, &Capacity::default()).unwrap();
        for change in &made.changes {
            let before = kernel.view();
            kernel.take(change);
            if !matches!(change, KernelChange::Switch { .. }) {
                assert!(before == kernel.view(), "{change:?} was seen by packets");
            }
        }
        *installed = made.next.clone();
        let (addresses, machines, tables) = kernel.view();
        assert_eq!(addresses, installed.kernel.addresses);
        assert_eq!(machines, installed.kernel.machines);
        assert_eq!(tables, installed.kernel.tables);
        made
    }

    #[test]
    fn changes_become_visible_at_once_and_only_by_the_switch() {
        let (mut installed, mut kernel) = (Installed::default(), Kernel::default());
        let shop = |generations: &[&[u16]]| {
            vip(
                "shop",
                "addresses: [203.0.113.10, '2001:db8::10']\nports: [80, '8000-8099', 443]",
                generations,
                &[1, 2, 3],
            )
        };
        let first = execute(&cluster(vec![shop(&[&[1, 2, 3]])]), &mut installed, &mut kernel);
        assert_eq!(first.changes.len(), 5, "table, counters, machines, addresses, switch");
        assert_eq!(installed.kernel.tables.len(), 1);
        let services = &installed.kernel.addresses[&"203.0.113.10".parse::<IpAddr>().unwrap()];
        assert_eq!(
            services.iter().map(|s| (s.ports.low, s.ports.high, s.protocol.number())).collect::<Vec<_>>(),
            [(80, 80, 6), (80, 80, 17), (443, 443, 6), (443, 443, 17), (8000, 8099, 6), (8000, 8099, 17)]
        );

        assert_eq!(execute(&cluster(vec![shop(&[&[1, 2, 3]])]), &mut installed, &mut kernel).changes, []);

        // A drain: one table beside the live one.
        let drained = cluster(vec![shop(&[&[1, 2, 3], &[1, 2]])]);
        let drain = execute(&drained, &mut installed, &mut kernel);
        assert_eq!(drain.changes.iter().filter(|c| matches!(c, KernelChange::PutTable { .. })).count(), 1);
        let table = installed.kernel.tables.values().next().unwrap();
        assert!(table.iter().all(|slot| slot.current() != 3));
        assert!(table.iter().filter(|slot| slot.previous() == 3).count() > 20_000);

        // A second virtual IP with the same owners shares the table; its counters are its own.
        let mut two = drained.clone();
        two.vips.push(Vip {
            name: "mail".into(),
            ..vip("", "addresses: [203.0.113.11]\nhash: sourcePrefix", &[&[1, 2, 3], &[1, 2]], &[1, 2, 3])
        });
        execute(&two, &mut installed, &mut kernel);
        assert_eq!(installed.kernel.tables.len(), 1);
        assert_eq!(installed.kernel.vips, BTreeMap::from([("mail".into(), 2), ("shop".into(), 1)]));
        let mail = &installed.kernel.addresses[&"203.0.113.11".parse::<IpAddr>().unwrap()][0];
        assert_eq!((mail.hash, mail.source_prefix_length.ipv4, mail.vip), (HashMode::SourcePrefix, 24, 2));

        two.vips.remove(0);
        execute(&two, &mut installed, &mut kernel);
        execute(&cluster(Vec::new()), &mut installed, &mut kernel);
        assert!(kernel.addresses.is_empty() && installed.kernel.tables.is_empty());
        assert_eq!(installed.epoch, 5);
    }

    #[test]
    fn refusals_leave_everything_as_it_is() {
        let check = |desired: &Desired, capacity: Capacity, text: &str| {
            let refused = plan(desired, &Installed::default(), &capacity).unwrap_err();
            assert_eq!(refused.to_string(), text);
        };
        let shop = vip("shop", "addresses: [203.0.113.10]\nports: [80]\nprotocols: [TCP]", &[&[1]], &[1]);
        let other = Vip { name: "other".into(), ..shop.clone() };
        check(
            &cluster(vec![shop.clone(), other]),
            Capacity::default(),
            "203.0.113.10: VirtualIP other and VirtualIP shop both claim port 80: take it from one of them",
        );
        check(
            &Desired { own: 9, ..cluster(vec![shop.clone()]) },
            Capacity::default(),
            "this machine (id 9) is not among the cluster's members yet",
        );
        check(
            &cluster(vec![shop.clone()]),
            Capacity { machines: 3, ..Capacity::default() },
            "member edge-3 has id 3; the kernel's maps were loaded with room for 3 machines: purge members that are gone",
        );
        check(
            &cluster(vec![shop]),
            Capacity { tables: 0, ..Capacity::default() },
            "1 tables, old and new together; the kernel's maps were loaded with room for 0: remove some, or load with more room",
        );
    }

    #[test]
    fn machines_without_a_common_family_are_announced() {
        let mut desired = cluster(vec![vip("shop", "addresses: [203.0.113.10]", &[&[1, 2, 3]], &[1, 2, 3])]);
        desired.members[1].v4 = None;
        desired.members[1].v6 = Some(Ipv6Addr::LOCALHOST);
        let made = plan(&desired, &Installed::default(), &Capacity::default()).unwrap();
        assert_eq!(made.warnings.len(), 1);
        assert!(made.warnings[0].starts_with("machine edge-2 has no address"));
    }
}
