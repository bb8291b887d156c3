//! For each slot the machine that owns it and the one that owned it before.
//!
//! A machine that gets a packet of a connection it does not know passes it on to the slot's previous owner. So a change of the
//! table breaks no connection whose old owner still lives and is the one the slot remembers.
//!
//! A slot remembers one machine only, so machines that drain one after the other lose connections in the slots that both had. Maglev moves a few slots (0.2 to 4 %) between machines that have nothing to do with a change;
//! were such a move to overwrite the memory of a machine that drains, its connections would break because of somebody else. So a
//! slot whose previous owner drains stays where it is for as long as its owner takes new flows; it follows the table
//! once the drain is over.

use abi::Slot;

use crate::maglev::{self, Candidate};

/// No machine. The kernel's programs read it the same way, see [`abi::Slot`].
pub const NOBODY: u16 = 0;

/// Machines that took new flows from one change to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Generation<'a> {
    pub machines: Vec<Candidate<'a>>,
}

/// Folds the history of a virtual IP, oldest generation first, into its slots.
///
/// `alive` tells which machines still hold connections; a draining one does. Slots follow the last generation's table, but for
/// those that wait for a drain. Where a slot changes hands the old owner becomes the previous one if it is alive; if not, the
/// previous one stays, if alive.
pub fn slots(generations: &[Generation<'_>], alive: &dyn Fn(u16) -> bool) -> Vec<Slot> {
    let tables: Vec<Vec<u16>> = generations.iter().map(|generation| maglev::full_table(&generation.machines)).collect();
    fold(tables.iter().map(Vec::as_slice), alive)
}

/// The same over tables that were built before.
pub fn fold<'t>(tables: impl IntoIterator<Item = &'t [u16]>, alive: &dyn Fn(u16) -> bool) -> Vec<Slot> {
    // Ids are 16 bits: one bit each answers faster than any search, 65,537 times per generation.
    let mut living = Ids([0; 1024]);
    let mut asked = Ids([0; 1024]);
    let mut lives = |id: u16| {
        if !asked.has(id) {
            asked.set(id);
            if id != NOBODY && alive(id) {
                living.set(id);
            }
        }
        living.has(id)
    };
    let mut slots: Vec<Slot> = Vec::new();
    for table in tables {
        let mut eligible = Ids([0; 1024]);
        table.iter().for_each(|owner| eligible.set(*owner));
        if slots.is_empty() {
            slots = table.iter().map(|owner| Slot::new(*owner, NOBODY)).collect();
            continue;
        }
        for (slot, owner) in slots.iter_mut().zip(table) {
            let (current, previous) = (slot.current(), slot.previous());
            if current == *owner {
                continue;
            }
            let previous_drains = previous != NOBODY && !eligible.has(previous) && lives(previous);
            if previous_drains && current != NOBODY && eligible.has(current) {
                continue;
            }
            let previous = if lives(current) { current } else { previous };
            *slot = Slot::new(*owner, if previous == *owner { NOBODY } else { previous });
        }
    }
    for slot in &mut slots {
        if slot.previous() != NOBODY && !lives(slot.previous()) {
            *slot = Slot::new(slot.current(), NOBODY);
        }
    }
    slots
}

struct Ids([u64; 1024]);

impl Ids {
    fn has(&self, id: u16) -> bool {
        self.0[usize::from(id) / 64] & (1 << (id % 64)) != 0
    }
    fn set(&mut self, id: u16) {
        self.0[usize::from(id) / 64] |= 1 << (id % 64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 9] = ["", "edge-1", "edge-2", "edge-3", "edge-4", "edge-5", "edge-6", "edge-7", "edge-8"];

    fn generation(ids: &[u16]) -> Generation<'static> {
        let machines = ids.iter().map(|id| Candidate { id: *id, weight: 1, name: NAMES[usize::from(*id)] }).collect();
        Generation { machines }
    }

    fn owners(ids: &[u16]) -> Vec<u16> {
        maglev::full_table(&generation(ids).machines)
    }

    #[test]
    fn one_generation_has_no_past() {
        let slots = slots(&[generation(&[1, 2, 3])], &|_| true);
        assert_eq!(slots.iter().map(|s| s.current()).collect::<Vec<_>>(), owners(&[1, 2, 3]));
        assert!(slots.iter().all(|s| s.previous() == NOBODY));
    }

    #[test]
    fn a_drained_machine_stays_the_second_chance_of_its_slots() {
        let before = owners(&[1, 2, 3]);
        let slots = slots(&[generation(&[1, 2, 3]), generation(&[2, 3])], &|_| true);
        for (slot, old) in slots.iter().zip(before) {
            assert_ne!(slot.current(), 1);
            assert_eq!(slot.previous(), if slot.current() == old { NOBODY } else { old });
        }
    }

    #[test]
    fn a_killed_machine_is_nobodys_second_chance() {
        let slots = slots(&[generation(&[1, 2, 3]), generation(&[2, 3])], &|id| id != 1);
        assert!(slots.iter().all(|s| s.previous() != 1 && s.current() != 1));
    }

    #[test]
    fn two_drains_and_a_kill_leave_every_connection_with_its_owner() {
        let first = owners(&[1, 2, 3, 4, 5]);
        // 1 and 2 drain together, then 3, which took some of their slots, is killed.
        let history = [generation(&[1, 2, 3, 4, 5]), generation(&[3, 4, 5]), generation(&[4, 5])];
        let slots = slots(&history, &|id| id != 3);
        for (slot, old) in slots.iter().zip(first) {
            match old {
                // Connections of the machines that drain find them, wherever the slot went since.
                1 | 2 => assert_eq!(slot.previous(), old),
                // What the killed machine held is lost, and nobody is asked for it.
                3 => assert!(slot.previous() != 3),
                // The machines that stayed still get theirs, as owner or as second chance.
                _ => assert!(slot.current() == old || slot.previous() == old),
            }
        }
    }

    #[test]
    fn a_drain_taken_back_gives_the_slots_back() {
        let history = [generation(&[1, 2, 3]), generation(&[2, 3]), generation(&[1, 2, 3])];
        let slots = slots(&history, &|_| true);
        let (before, between) = (owners(&[1, 2, 3]), owners(&[2, 3]));
        for ((slot, before), between) in slots.iter().zip(before).zip(between) {
            assert_eq!(slot.current(), before);
            assert_eq!(slot.previous(), if between == before { NOBODY } else { between });
        }
    }

    #[test]
    fn nobody_at_first_and_nobody_at_last() {
        let up = slots(&[generation(&[]), generation(&[1])], &|_| true);
        assert!(up.iter().all(|s| (s.current(), s.previous()) == (1, NOBODY)));
        let down = slots(&[generation(&[1]), generation(&[])], &|_| true);
        assert!(down.iter().all(|s| (s.current(), s.previous()) == (NOBODY, 1)));
        assert!(slots(&[], &|_| true).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn equals_the_rule_slot_by_slot(
            history in proptest::collection::vec(proptest::collection::btree_set(1u16..9, 0..6), 1..5),
            alive in proptest::collection::btree_set(1u16..9, 0..9),
        ) {
            let tables: Vec<Vec<u16>> = history.iter().map(|ids| owners(&ids.iter().copied().collect::<Vec<_>>())).collect();
            let generations: Vec<Generation<'_>> = history.iter().map(|ids| generation(&ids.iter().copied().collect::<Vec<_>>())).collect();
            let slots = slots(&generations, &|id| alive.contains(&id));
            for (i, slot) in slots.iter().enumerate() {
                prop_assert_eq!((slot.current(), slot.previous()), naive(&tables, &history, i, &alive));
            }
        }
    }

    fn naive(tables: &[Vec<u16>], history: &[BTreeSet<u16>], i: usize, alive: &BTreeSet<u16>) -> (u16, u16) {
        let mut pair = (tables[0][i], NOBODY);
        for (table, ids) in tables.iter().zip(history).skip(1) {
            let (drains, stays) = (alive.contains(&pair.1) && !ids.contains(&pair.1), ids.contains(&pair.0));
            if table[i] != pair.0 && !(drains && stays && pair.0 != NOBODY) {
                let kept = if alive.contains(&pair.0) { pair.0 } else { pair.1 };
                pair = (table[i], if kept == table[i] { NOBODY } else { kept });
            }
        }
        if alive.contains(&pair.1) { pair } else { (pair.0, NOBODY) }
    }
}
