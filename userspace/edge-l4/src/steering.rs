//! For each slot the machine that takes its new flows, and those that took them before and may still hold connections.
//!
//! A machine that gets a packet of a connection it does not know passes it on to the next owner that the slot remembers. So a change
//! of the table breaks no connection whose machine lives and is remembered.
//!
//! A slot remembers four machines. Who is no longer alive, or has said that it holds nothing but what the table in force gives it
//! ([`Step::released`]), is forgotten. A slot whose four are all needed does not follow the table: of the four, one that takes new flows
//! takes those of the slot, so that nobody who holds connections is forgotten. Only where all four have stopped taking new flows, as
//! with a fourth drain before the first is done, the longest gone makes room.

use abi::Slot;
use abi::limits::{OWNERS, STAND_INS_MAX};

use crate::maglev::{self, Candidate};

/// No machine. The kernel's programs read it the same way, see [`abi::Slot`].
pub const NOBODY: u16 = 0;

/// A change, and how things were from it to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Step<'a> {
    /// Machines that take new flows.
    pub machines: Vec<Candidate<'a>>,
    /// Machines that hold connections: all of `machines`, and those that drain.
    pub alive: Vec<u16>,
    /// Machines that have said, during this step, that they hold nothing in slots that are not theirs by its table.
    pub released: Vec<u16>,
    /// Machines that live and whose daemons did not serve for a while at the end of this step: others took their new flows.
    pub lapsed: Vec<u16>,
}

/// Folds the history of a virtual IP, oldest step first, into its slots.
pub fn slots(steps: &[Step<'_>]) -> Vec<Slot> {
    let mut slots = Vec::new();
    let mut tables: Vec<(&[Candidate<'_>], Vec<u16>)> = Vec::new();
    for step in steps {
        let at = tables.iter().position(|(machines, _)| *machines == step.machines).unwrap_or_else(|| {
            tables.push((&step.machines, maglev::full_table(&step.machines)));
            tables.len() - 1
        });
        fold(&mut slots, &tables[at].1, step);
    }
    if let Some(last) = steps.last() {
        let mut taking = Ids::NONE;
        last.machines.iter().for_each(|machine| taking.set(machine.id));
        slots.iter_mut().filter(|slot| slot.is_full()).for_each(|slot| *slot = taking_first(*slot, &taking));
    }
    slots
}

/// The slot with those that take new flows before those that do not, behind its owner. Of a slot that is full one of them stands in for an
/// owner that does not serve, and two at most are tried: new connections are nothing for a machine that is to become empty, and may
/// be refused there while others would take them.
fn taking_first(slot: Slot, taking: &Ids) -> Slot {
    let mut owners = slot.owners();
    owners[1..].sort_by_key(|id| !taking.has(*id));
    Slot::new(owners)
}

/// What is put in force before `after` is: whoever takes a slot's new flows goes on taking them, and who is to take them is asked for
/// what is not found already. `None` where nothing has to come first.
///
/// Machines hear of a change one after the other. A connection that begins by the new table, at one that knows it, may come by another a
/// moment later, which sends it by the old; who gets it there asks the others that its slot remembers, and by the old table the slot may
/// remember nobody. With this between the two, no machine still goes by the old table when the first one takes new flows by the new.
/// `is_gone`: nothing is left to a machine that is not there.
pub fn announced(before: &[Slot], after: &[Slot], is_gone: impl Fn(u16) -> bool) -> Option<Vec<Slot>> {
    let first = |(before, after): (&Slot, &Slot)| {
        let (taking, mut owners) = (before.current(), after.owners());
        if taking == NOBODY || owners[0] == NOBODY || is_gone(taking) {
            return *after;
        }
        if let Some(at) = owners.iter().position(|id| *id == taking) {
            owners[..=at].rotate_right(1);
        }
        Slot::new(owners)
    };
    let announced: Vec<Slot> = before.iter().zip(after).map(first).collect();
    (before.len() == after.len() && announced != after).then_some(announced)
}

/// Takes the slots one step on. `table` is that of the step's machines.
pub fn fold(slots: &mut Vec<Slot>, table: &[u16], step: &Step<'_>) {
    let mut eligible = Ids::NONE;
    table.iter().for_each(|owner| eligible.set(*owner));
    eligible.clear(NOBODY);
    let mut living = Ids::NONE;
    step.alive.iter().for_each(|id| living.set(*id));
    slots.resize(table.len(), Slot::default());
    // While its daemon was dead and this was not known yet, others took the flows of a machine: see `datapath::owners::stand_in`.
    let dead = |id: u16| id != NOBODY && !living.has(id);
    let before = slots.iter().any(|slot| dead(slot.current())).then(|| slots.clone());
    for (number, (slot, owner)) in slots.iter_mut().zip(table).enumerate() {
        if slot.0 == u64::from(*owner) && (*owner == NOBODY || living.has(*owner)) {
            continue;
        }
        let stood_in = before.as_ref().map_or([NOBODY; 2], |before| stood_in(before, number, slot.current(), dead));
        *slot = next(*slot, *owner, &eligible, |id| living.has(id));
        *slot = behind(*slot, stood_in.map(|id| if living.has(id) { id } else { NOBODY }));
    }
    if !step.released.is_empty() {
        let mut kept = living;
        step.released.iter().for_each(|id| kept.clear(*id));
        for (slot, owner) in slots.iter_mut().zip(table).filter(|(slot, _)| slot.has_past()) {
            // Who takes new flows of the slot may have got one since.
            let current = slot.current();
            *slot = next(*slot, *owner, &eligible, |id| id == current || kept.has(id));
        }
    }
    if !step.lapsed.is_empty() {
        let lapsed = |id: u16| step.lapsed.contains(&id);
        let before = slots.clone();
        for (number, slot) in slots.iter_mut().enumerate() {
            *slot = behind(*slot, stood_in(&before, number, slot.current(), lapsed));
        }
    }
}

/// Who may have taken the slot's flows while its owner did not serve: the one that stands in for it, and where that one did not serve
/// either, another. As the kernel's programs choose them; small tables are those of tests.
fn stood_in(slots: &[Slot], number: usize, owner: u16, silent: impl Fn(u16) -> bool) -> [u16; STAND_INS] {
    let mut asked = [owner, NOBODY, NOBODY];
    for at in 0..STAND_INS {
        // Of a slot that is full it was one that it remembers.
        if asked[at] == NOBODY || !silent(asked[at]) || slots[number].is_full() {
            break;
        }
        asked[at + 1] = stand_in(slots, number, &asked[..=at]);
    }
    // Where there is room for one alone it is for the one that served.
    [asked[2], asked[1]]
}

/// The owner of another slot, that is none of these.
fn stand_in(slots: &[Slot], number: usize, asked: &[u16]) -> u16 {
    let step = |number: usize| match u32::try_from(number) {
        Ok(number) if slots.len() == abi::limits::SLOTS as usize => Slot::stand_in(number) as usize,
        _ => (number + 1) % slots.len(),
    };
    let mut number = number;
    for _ in 0..STAND_INS_MAX {
        number = step(number);
        let other = slots[number].current();
        if other != NOBODY && !asked.contains(&other) {
            return other;
        }
    }
    NOBODY
}

/// Machines that try, one after the other, to stand in for one that does not serve.
const STAND_INS: usize = 2;

/// The slot with more owners behind the first, for which there is room and which are not among them.
fn behind(slot: Slot, ids: [u16; STAND_INS]) -> Slot {
    let mut owners = slot.owners();
    for id in ids {
        if id != NOBODY && !owners.contains(&id) && !Slot::new(owners).is_full() {
            owners[1..].rotate_right(1);
            owners[1] = id;
        }
    }
    Slot::new(owners)
}

/// The slot with the owners of it that are needed, and its flows with `owner` if there is room for it.
fn next(slot: Slot, owner: u16, eligible: &Ids, needed: impl Fn(u16) -> bool) -> Slot {
    let mut owners = [NOBODY; OWNERS];
    let mut count = 0;
    for id in slot.owners() {
        if id != NOBODY && needed(id) {
            owners[count] = id;
            count += 1;
        }
    }
    if owner == NOBODY && count == OWNERS {
        // Rather new flows for one that wants none than connections for nobody.
        return Slot::new(owners);
    }
    if owner == NOBODY {
        // Nobody takes new flows. Those who did stay reachable behind the place that is empty.
        owners.rotate_right(1);
        owners[0] = NOBODY;
        return Slot::new(owners);
    }
    let newest = |owners: &[u16]| owners.iter().position(|id| eligible.has(*id));
    let first = match owners[..count].iter().position(|id| *id == owner) {
        Some(at) => at,
        None if count < OWNERS => count,
        // All four are needed: one of them takes the flows, or the longest gone makes room.
        None => match newest(&owners) {
            Some(at) => {
                owners[..=at].rotate_right(1);
                return Slot::new(owners);
            }
            None => OWNERS - 1,
        },
    };
    owners[first] = owner;
    owners[..=first].rotate_right(1);
    Slot::new(owners)
}

/// A bit for each machine: answers faster than any search, 65,537 times per step.
struct Ids([u64; 1024]);

impl Ids {
    const NONE: Ids = Ids([0; 1024]);

    fn has(&self, id: u16) -> bool {
        self.0[usize::from(id) / 64] & (1 << (id % 64)) != 0
    }

    fn set(&mut self, id: u16) {
        self.0[usize::from(id) / 64] |= 1 << (id % 64);
    }

    fn clear(&mut self, id: u16) {
        self.0[usize::from(id) / 64] &= !(1 << (id % 64));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 9] = ["", "edge-1", "edge-2", "edge-3", "edge-4", "edge-5", "edge-6", "edge-7", "edge-8"];

    fn candidates(weights: &[(u16, u32)]) -> Vec<Candidate<'static>> {
        weights
            .iter()
            .map(|(id, weight)| Candidate { id: *id, weight: *weight, name: NAMES[usize::from(*id)] })
            .collect()
    }

    /// Machines with equal shares, and others that live.
    fn step(ids: &[u16], drain: &[u16]) -> Step<'static> {
        let machines = candidates(&ids.iter().map(|id| (*id, 1)).collect::<Vec<_>>());
        Step { machines, alive: [ids, drain].concat(), ..Step::default() }
    }

    fn owners(ids: &[u16]) -> Vec<u16> {
        maglev::full_table(&step(ids, &[]).machines)
    }

    #[test]
    fn one_step_has_no_past() {
        let slots = slots(&[step(&[1, 2, 3], &[])]);
        assert!(slots.iter().zip(owners(&[1, 2, 3])).all(|(slot, owner)| *slot == Slot::of(owner)));
    }

    #[test]
    fn drains_one_after_the_other_forget_nobody() {
        let tables = [owners(&[1, 2, 3, 4, 5]), owners(&[2, 3, 4, 5]), owners(&[3, 4, 5]), owners(&[4, 5])];
        let steps = [
            step(&[1, 2, 3, 4, 5], &[]),
            step(&[2, 3, 4, 5], &[1]),
            step(&[3, 4, 5], &[1, 2]),
            step(&[4, 5], &[1, 2, 3]),
        ];
        for (at, slot) in slots(&steps).iter().enumerate() {
            assert_eq!(slot.current(), tables[3][at], "new flows follow the table");
            for table in &tables {
                assert!(slot.owners().contains(&table[at]), "{slot:?}: {}", table[at]);
            }
        }
    }

    #[test]
    fn who_is_dead_or_done_is_forgotten() {
        let killed = slots(&[step(&[1, 2, 3], &[]), step(&[2, 3], &[])]);
        assert!(killed.iter().all(|slot| !slot.owners().contains(&1)));
        let mut drained = [step(&[1, 2, 3], &[]), step(&[2, 3], &[1])];
        assert!(slots(&drained).iter().any(|slot| slot.previous() == 1));
        drained[1].released = vec![1, 2, 3];
        assert!(slots(&drained).iter().zip(owners(&[2, 3])).all(|(slot, owner)| *slot == Slot::of(owner)));
        // One that was killed and is back is not asked for what it had.
        let back = slots(&[step(&[1, 2], &[]), step(&[2], &[]), step(&[1, 2], &[])]);
        assert!(back.iter().zip(owners(&[1, 2])).all(|(slot, owner)| slot.current() == owner));
        assert!(back.iter().all(|slot| slot.owners()[1..].iter().all(|id| [0, 2].contains(id))));
    }

    #[test]
    fn who_stood_in_for_a_dead_daemon_keeps_what_it_took() {
        let before = owners(&[1, 2, 3]);
        let after = slots(&[step(&[1, 2, 3], &[]), step(&[2, 3], &[])]);
        for (number, slot) in after.iter().enumerate().filter(|(number, _)| before[*number] == 1) {
            let mut other = number as u32;
            let stood_in = (0..STAND_INS_MAX).find_map(|_| {
                other = Slot::stand_in(other);
                (before[other as usize] != 1).then_some(before[other as usize])
            });
            let stood_in = stood_in.expect("somebody stands in for every slot");
            assert!(slot.owners().contains(&stood_in), "slot {number}: {slot:?}, not {stood_in}");
        }
        let spread: BTreeSet<u16> = after.iter().map(|slot| slot.previous()).collect();
        assert_eq!(spread, [0, 2, 3].into(), "both stand in");
    }

    #[test]
    fn a_drain_taken_back_gives_the_slots_back() {
        let back = slots(&[step(&[1, 2, 3], &[]), step(&[2, 3], &[1]), step(&[1, 2, 3], &[])]);
        for ((slot, before), between) in back.iter().zip(owners(&[1, 2, 3])).zip(owners(&[2, 3])) {
            assert_eq!(slot.current(), before);
            assert_eq!(slot.previous(), if between == before { NOBODY } else { between });
        }
    }

    #[test]
    fn who_takes_new_flows_stands_in_before_who_drains() {
        let history = [
            step(&[1, 2, 3, 4, 5], &[]),
            step(&[2, 3, 4, 5], &[1]),
            step(&[3, 4, 5], &[1, 2]),
            step(&[1, 2, 4, 5], &[3]),
            step(&[2, 4, 5], &[1, 3]),
        ];
        let drains = |id: &u16| [1, 3].contains(id);
        let sorted = |slot: &Slot| slot.owners()[1..].is_sorted_by_key(drains);
        let mut as_it_came = Vec::new();
        history.iter().for_each(|step| fold(&mut as_it_came, &maglev::full_table(&step.machines), step));
        let slots = slots(&history);
        let full: Vec<usize> = (0..slots.len()).filter(|number| slots[*number].is_full()).collect();
        assert!(full.iter().any(|number| !sorted(&as_it_came[*number])), "there are such slots");
        for number in full {
            let (slot, came) = (slots[number], as_it_came[number]);
            assert!(sorted(&slot), "slot {number}: {slot:?}");
            assert_eq!(slot.current(), came.current());
            assert_eq!(BTreeSet::from(slot.owners()), BTreeSet::from(came.owners()), "nobody is forgotten");
        }
    }

    #[test]
    fn nobody_at_first_and_nobody_at_last() {
        let up = slots(&[step(&[], &[]), step(&[1], &[])]);
        assert!(up.iter().all(|slot| *slot == Slot::of(1)));
        let down = slots(&[step(&[1], &[]), step(&[], &[1])]);
        assert!(down.iter().all(|slot| slot.owners() == [NOBODY, 1, 0, 0]));
        assert!(slots(&[step(&[1], &[]), step(&[], &[])]).iter().all(|slot| *slot == Slot::default()));
        assert!(slots(&[]).is_empty());
    }

    /// What can happen to a fleet.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        Drain(u16),
        Return(u16),
        Crash(u16),
        Weigh(u16, u32),
        /// Connections end: of every slot and machine for which the number is small.
        End(u8),
        /// A machine looks at what it holds and says what it is done with.
        Look(u16),
        /// Its daemon does not serve for a while, and others take its new flows.
        Lapse(u16),
    }

    fn event() -> impl Strategy<Value = Event> {
        let id = 1..=6u16;
        prop_oneof![
            4 => id.clone().prop_map(Event::Drain),
            4 => id.clone().prop_map(Event::Return),
            1 => id.clone().prop_map(Event::Crash),
            3 => (id.clone(), 1..6u32).prop_map(|(id, weight)| Event::Weigh(id, weight)),
            2 => any::<u8>().prop_map(Event::End),
            3 => id.clone().prop_map(Event::Look),
            2 => id.prop_map(Event::Lapse),
        ]
    }

    /// The control plane's part and the machines', in small: see `steer_vip` of control-state and `Steer::idle` of edge-agent.
    struct Fleet {
        weights: BTreeMap<u16, u32>,
        draining: BTreeSet<u16>,
        down: BTreeSet<u16>,
        history: Vec<Step<'static>>,
        tables: BTreeMap<Vec<(u16, u32)>, Vec<u16>>,
        /// Slot and machine.
        connections: BTreeSet<(usize, u16)>,
    }

    /// A prime.
    const SLOTS: u32 = 61;

    impl Fleet {
        fn new() -> Fleet {
            let mut fleet = Fleet {
                weights: (1..=6).map(|id| (id, 1)).collect(),
                draining: BTreeSet::new(),
                down: BTreeSet::new(),
                history: Vec::new(),
                tables: BTreeMap::new(),
                connections: BTreeSet::new(),
            };
            fleet.change();
            fleet
        }

        fn change(&mut self) {
            let alive: Vec<u16> = (1..=6).filter(|id| !self.down.contains(id)).collect();
            let taking: Vec<(u16, u32)> =
                alive.iter().filter(|id| !self.draining.contains(id)).map(|id| (*id, self.weights[id])).collect();
            let machines = candidates(&taking);
            if self.history.last().is_none_or(|last| last.machines != machines || last.alive != alive) {
                self.history.push(Step { machines, alive, ..Step::default() });
            }
        }

        fn table(&mut self) -> Vec<u16> {
            let machines = &self.history.last().unwrap().machines;
            Fleet::cached(&mut self.tables, machines).clone()
        }

        fn cached<'t>(tables: &'t mut BTreeMap<Vec<(u16, u32)>, Vec<u16>>, machines: &[Candidate<'_>]) -> &'t Vec<u16> {
            let key = machines.iter().map(|m| (m.id, m.weight)).collect();
            tables.entry(key).or_insert_with(|| maglev::table(machines, SLOTS))
        }

        fn slots(&mut self) -> Vec<Slot> {
            let mut slots = Vec::new();
            for step in &self.history {
                let table = Fleet::cached(&mut self.tables, &step.machines);
                fold(&mut slots, table, step);
            }
            slots
        }

        fn happen(&mut self, event: Event) {
            match event {
                // A slot has room for three that drain and have not said that they are done.
                Event::Drain(id) => {
                    let slots = self.slots();
                    let is_held = |id: &u16| slots.iter().any(|slot| slot.owners().contains(id));
                    let draining = self.draining.iter().filter(|id| !self.down.contains(id) && is_held(id)).count();
                    if draining < 3 {
                        self.draining.insert(id);
                    }
                }
                Event::Return(id) => {
                    self.draining.remove(&id);
                    self.down.remove(&id);
                }
                Event::Crash(id) => {
                    self.down.insert(id);
                    self.connections.retain(|(_, holder)| *holder != id);
                }
                Event::Weigh(id, weight) => drop(self.weights.insert(id, weight)),
                Event::End(n) => {
                    self.connections.retain(|(slot, id)| (slot * 31 + usize::from(*id) * 7) % 256 > usize::from(n))
                }
                Event::Lapse(id) => {
                    let slots = self.slots();
                    if !self.history.last().unwrap().alive.contains(&id) {
                        return;
                    }
                    for (number, slot) in slots.iter().enumerate().filter(|(_, slot)| slot.current() == id) {
                        let other = (1..=STAND_INS_MAX).map(|turn| slots[(number + turn) % slots.len()].current());
                        // A slot whose four owners are all needed has no room for a fifth: one of them takes its flows.
                        let other = if slot.is_full() { vec![slot.previous()] } else { other.collect() };
                        if let Some(other) = other.into_iter().find(|other| ![NOBODY, id].contains(other)) {
                            self.connections.insert((number, other));
                        }
                    }
                    let last = self.history.last_mut().unwrap();
                    last.lapsed.push(id);
                    let (machines, alive) = (last.machines.clone(), last.alive.clone());
                    self.history.push(Step { machines, alive, ..Step::default() });
                }
                Event::Look(id) => {
                    let (table, slots) = (self.table(), self.slots());
                    let idle = self.connections.iter().all(|(slot, holder)| *holder != id || table[*slot] == id)
                        && slots.iter().zip(&table).all(|(slot, owner)| slot.current() != id || *owner == id);
                    let last = self.history.last_mut().unwrap();
                    if idle && last.alive.contains(&id) && !last.released.contains(&id) {
                        last.released.push(id);
                    }
                    if last.alive.iter().all(|id| last.released.contains(id)) {
                        self.history = vec![self.history.pop().unwrap()];
                    }
                }
            }
            self.change();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn a_connection_is_reachable_for_as_long_as_its_machine_lives(events in prop::collection::vec(event(), 1..50)) {
            let mut fleet = Fleet::new();
            for (at, event) in events.iter().enumerate() {
                // In every slot somebody connects, whoever takes its flows.
                for (slot, owners) in fleet.slots().iter().enumerate() {
                    if owners.current() != NOBODY {
                        fleet.connections.insert((slot, owners.current()));
                    }
                }
                fleet.happen(*event);
                let slots = fleet.slots();
                for (slot, holder) in &fleet.connections {
                    prop_assert!(
                        slots[*slot].owners().contains(holder),
                        "slot {slot} forgot {holder} with event {at} of {events:?}: {:?}", slots[*slot].owners()
                    );
                }
                for slot in &slots {
                    let owners: Vec<u16> = slot.owners().into_iter().filter(|id| *id != NOBODY).collect();
                    let distinct: BTreeSet<u16> = owners.iter().copied().collect();
                    prop_assert_eq!(distinct.len(), owners.len(), "nobody twice");
                    prop_assert!(owners.iter().all(|id| !fleet.down.contains(id)), "nobody dead");
                }
            }
        }
    }

    /// Who has a connection in the end that began at the first of two machines and goes on at the second, each of which goes by slots of
    /// its own: as `Road::fate` and `owners::decide` of ebpf/datapath have it.
    fn finds(slots: &BTreeMap<u16, Slot>, holder: u16, at: Slot) -> bool {
        let (mut machine, mut asked) = (at.current(), Vec::new());
        while machine != holder {
            asked.push(machine);
            // A machine that is dead and not known for it answers nothing: what was lost is sent again, and comes to another.
            let Some(slot) = slots.get(&machine) else { return true };
            let left = slot.owners().into_iter().find(|id| *id != NOBODY && !asked.contains(id));
            let Some(next) = left else { return false };
            machine = next;
        }
        true
    }

    /// How far machines have come with a change.
    const STAGES: [usize; 3] = [0, 1, 2];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn what_begins_by_the_new_table_is_found_by_who_hears_of_it_a_moment_later(
            events in prop::collection::vec(event(), 1..30), drawn in any::<u64>(),
        ) {
            let mut fleet = Fleet::new();
            let mut random = drawn | 1;
            for event in &events {
                let before = fleet.slots();
                fleet.happen(*event);
                let after = fleet.slots();
                let down = fleet.down.clone();
                let between = announced(&before, &after, |id| down.contains(&id)).unwrap_or_else(|| after.clone());
                for (number, (old, new)) in before.iter().zip(&after).enumerate() {
                    random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    // Nobody is at the last stage before all are at the second.
                    let least = (random >> 40) as usize % 2;
                    let at = |id: u16| [*old, between[number], *new][STAGES[least + (random >> (41 + id)) as usize % 2]];
                    let slots: BTreeMap<u16, Slot> = (1..=6).filter(|id| !down.contains(id)).map(|id| (id, at(id))).collect();
                    let (here, there) = (at(7), at(8));
                    let holder = here.current();
                    if holder == NOBODY || there.current() == NOBODY || down.contains(&holder) || down.contains(&there.current()) {
                        continue;
                    }
                    prop_assert!(
                        finds(&slots, holder, there),
                        "slot {number}: {old:?} -> {:?} -> {new:?} by {event:?}: {slots:?}, {here:?}, {there:?}", between[number]
                    );
                }
            }
        }
    }

    /// Machines that take flows, and those alive, as bits: as many as a slot remembers.
    fn states() -> impl Strategy<Value = Vec<(u8, u8)>> {
        prop::collection::vec((0u8..16, 0u8..16), 1..4)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        /// What the control plane rests on when it forgets rounds: see `forget_rounds` of control-state. With more machines than it
        /// remembers a slot does not follow its table, and who had to wait in one round may be let in by the next.
        #[test]
        fn a_third_round_of_the_same_changes_leads_to_where_the_second_did(
            before in states(), round in states(),
        ) {
            let slots = |rounds: usize| {
                let mut slots = Vec::new();
                for (taking, alive) in before.iter().chain(round.iter().cycle().take(round.len() * rounds)) {
                    let ids = |bits: u8| (1..=4u16).filter(move |id| bits & (1 << (id - 1)) != 0);
                    let alive = alive | taking;
                    let machines = candidates(&ids(*taking).map(|id| (id, 1)).collect::<Vec<_>>());
                    let table = maglev::table(&machines, SLOTS);
                    fold(&mut slots, &table, &Step { machines, alive: ids(alive).collect(), ..Step::default() });
                }
                slots
            };
            let (second, third) = (slots(2), slots(3));
            for (number, (second, third)) in second.iter().zip(&third).enumerate() {
                prop_assert_eq!(second.current(), third.current(), "slot {}", number);
                let owners = |slot: &Slot| slot.owners().into_iter().collect::<BTreeSet<u16>>();
                prop_assert!(owners(second).is_superset(&owners(third)), "slot {}: {:?} {:?}", number, second.owners(), third.owners());
            }
        }
    }
}
