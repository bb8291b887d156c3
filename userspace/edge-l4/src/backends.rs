//! For each slot of a virtual IP over backends (servers that do not run Weir) the one that takes its new connections, and those that still
//! hold some.
//!
//! A backend that gets a packet of a connection it does not know answers with a reset: nobody passes anything on. So where a slot has
//! changed hands, the machine that packets come to remembers who has which connection (the map FLOWS), and a slot says who has those of
//! which nothing is remembered, for [`datapath::backend`](../../../ebpf/datapath/src/backend.rs):
//!
//! | place | |
//! |---|---|
//! | first | takes new connections |
//! | second, third | others that hold some, which are remembered |
//! | last | has those of which nothing is remembered |
//!
//! When a slot changes hands the last place is who had it before, whose connections nobody has written down: they are while they speak.
//! What has not spoken for a while is taken to be over ([`age`]): then the last place is who takes new connections, of which nothing need
//! be remembered any more, and those before stand behind it for as long as they live.
//!
//! A settled slot names one backend and nothing else, and costs nothing.

use abi::Slot;
use abi::limits::OWNERS;

use crate::NOBODY;

/// Takes the slots one change on. `table`: who takes new connections of each; `alive`: who may hold some. Of a slot that more than three
/// have had the longest gone is forgotten.
pub fn change(slots: &mut Vec<Slot>, table: &[u16], alive: &[u16]) {
    slots.resize(table.len(), Slot::default());
    for (slot, &current) in slots.iter_mut().zip(table) {
        let [before, second, third, last] = slot.owners();
        let rest = if last == NOBODY { before } else { last };
        let lives = |id: u16| id != NOBODY && alive.contains(&id);
        // What it held is lost with it.
        let rest = if lives(rest) { rest } else { current };
        *slot = spell(current, [before, second, third].into_iter().filter(|id| lives(*id)), rest);
    }
}

/// The last change was so long ago that what has not spoken since is over. Of four that have had a slot the longest gone is forgotten.
pub fn age(slots: &mut [Slot]) {
    for slot in slots.iter_mut().filter(|slot| is_young(**slot)) {
        let [current, second, third, last] = slot.owners();
        *slot = spell(current, [second, third, last].into_iter(), current);
    }
}

/// Whether [`age`] would change any slot.
pub fn are_young(slots: &[Slot]) -> bool {
    slots.iter().any(|slot| is_young(*slot))
}

/// Another number for a backend.
pub fn rename(slots: &mut [Slot], old: u16, new: u16) {
    for slot in slots.iter_mut().filter(|slot| slot.owners().contains(&old)) {
        *slot = Slot::new(slot.owners().map(|owner| if owner == old { new } else { owner }));
    }
}

/// Where nobody takes new connections, those of which nothing is remembered can be nobody's but who has them.
fn is_young(slot: Slot) -> bool {
    let [current, .., last] = slot.owners();
    slot.has_past() && current != NOBODY && last != current
}

fn spell(current: u16, others: impl Iterator<Item = u16>, rest: u16) -> Slot {
    let mut places = [NOBODY; OWNERS - 2];
    let mut taken = 0;
    for id in others.filter(|id| *id != NOBODY && *id != current && *id != rest) {
        if taken < places.len() && !places.contains(&id) {
            places[taken] = id;
            taken += 1;
        }
    }
    if rest == current && taken == 0 {
        return Slot::of(current);
    }
    Slot::new([current, places[0], places[1], rest])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn owners(slots: &[Slot]) -> Vec<[u16; 4]> {
        slots.iter().map(|slot| slot.owners()).collect()
    }

    #[test]
    fn drains_and_returns() {
        let mut slots = Vec::new();
        change(&mut slots, &[7, 8], &[7, 8]);
        assert_eq!(owners(&slots), [[7, 0, 0, 0], [8, 0, 0, 0]]);
        assert!(!are_young(&slots));
        // 7 drains, then 8 as well, then 7 is back.
        change(&mut slots, &[8, 8], &[7, 8]);
        assert_eq!(owners(&slots), [[8, 0, 0, 7], [8, 0, 0, 0]]);
        change(&mut slots, &[9, 9], &[7, 8, 9]);
        assert_eq!(owners(&slots), [[9, 8, 0, 7], [9, 0, 0, 8]]);
        change(&mut slots, &[7, 9], &[7, 8, 9]);
        assert_eq!(owners(&slots), [[7, 9, 8, 7], [9, 0, 0, 8]]);
        assert!(are_young(&slots), "the second one");
        // Time has passed; then 8 is gone.
        age(&mut slots);
        assert_eq!(owners(&slots), [[7, 9, 8, 7], [9, 8, 0, 9]]);
        assert!(!are_young(&slots));
        change(&mut slots, &[7, 9], &[7, 9]);
        assert_eq!(owners(&slots), [[7, 9, 0, 7], [9, 0, 0, 0]]);
        // Nobody takes new connections, and those who had some keep them however long that lasts.
        change(&mut slots, &[0, 0], &[7]);
        age(&mut slots);
        assert_eq!(owners(&slots), [[0, 0, 0, 7], [0, 0, 0, 0]]);
    }

    #[test]
    fn what_a_healthy_backend_holds_is_not_forgotten_when_another_joins() {
        let mut slots = Vec::new();
        change(&mut slots, &[7], &[7]);
        change(&mut slots, &[8], &[7, 8]);
        age(&mut slots);
        assert_eq!(owners(&slots), [[8, 7, 0, 8]]);
        // However often: 9 joins, and what is not remembered is 8's.
        change(&mut slots, &[9], &[7, 8, 9]);
        assert_eq!(owners(&slots), [[9, 7, 0, 8]]);
        age(&mut slots);
        assert_eq!(owners(&slots), [[9, 7, 8, 9]]);
    }

    #[test]
    fn a_backend_has_another_number_everywhere() {
        let mut slots = vec![Slot::new([7, 9, 0, 8]), Slot::of(8), Slot::of(7)];
        rename(&mut slots, 8, 5);
        assert_eq!(owners(&slots), [[7, 9, 0, 5], [5, 0, 0, 0], [7, 0, 0, 0]]);
    }

    proptest! {
        /// Of one slot: who takes new connections, who is dead, and whether time passes before, change after change. A connection is led to
        /// who has it for as long as that one lives, it speaks, and fewer than four have had the slot.
        #[test]
        fn a_connection_stays_with_its_backend(
            changes in prop::collection::vec((1u16..4, 0u16..8, any::<bool>()), 1..30)
        ) {
            let mut slots = Vec::new();
            // What began with each change: who has it, and what is remembered of it.
            let mut held: Vec<(u16, u16)> = Vec::new();
            for (current, dead, ages) in changes {
                let dead = if dead == current { 0 } else { dead };
                let alive: Vec<u16> = (1..4).filter(|id| *id != dead).collect();
                held.retain(|(id, _)| *id != dead);
                if ages {
                    age(&mut slots);
                }
                change(&mut slots, &[current], &alive);
                let slot = slots[0];
                let owners = slot.owners();
                // As the programs do.
                let led = |known: &mut u16, opens: bool| {
                    let knows = *known != 0 && owners.contains(known);
                    let to = match slot.has_past() {
                        false => return slot.current(),
                        true if opens => owners[0],
                        true if knows => *known,
                        true => owners[3],
                    };
                    if to != *known && (*known != 0 || owners[3] != owners[0]) {
                        *known = to;
                    }
                    to
                };
                for (id, known) in &mut held {
                    prop_assert_eq!(led(known, false), *id, "{:?}", owners);
                }
                let mut known = 0;
                held.push((led(&mut known, true), known));
                if !slot.has_past() {
                    // What nobody can be led to any more is taken out.
                    held.iter_mut().for_each(|(_, known)| *known = 0);
                }
                let ids: BTreeMap<u16, u32> = owners[..3].iter().filter(|id| **id != 0).map(|id| (*id, 1)).collect();
                prop_assert_eq!(ids.len(), owners[..3].iter().filter(|id| **id != 0).count(), "nobody twice");
            }
        }
    }
}
