//! The lookup table of Maglev (Eisenbud et al., NSDI 2016, §3.4) with weights.
//!
//! Every machine walks the slots in an order of its own, drawn from its name, and in turns claims the next one that is free.
//! A machine of weight w gets its turn in w of every `max` rounds, so shares are right to within a few slots: the tests hold them to 1 %.

use abi::limits::SLOTS;

/// A machine that may own slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// What stands in the table; not 0, which means nobody.
    pub id: u16,
    /// Share against the others'. 0 gets none.
    pub weight: u32,
    /// What the machine's walk is drawn from; the table does not depend on ids or on the order of candidates.
    pub name: &'a str,
}

/// The owner of every slot, [`NOBODY`](crate::NOBODY) everywhere when there is no candidate.
///
/// `slots` is a prime, [`SLOTS`] outside of tests. Candidates of one name share its walk; the first id wins.
pub fn table(machines: &[Candidate<'_>], slots: u32) -> Vec<u16> {
    let mut owners = vec![crate::NOBODY; slots as usize];
    let mut walks: Vec<(u64, &str, Walk)> = machines
        .iter()
        .filter(|machine| machine.weight > 0)
        .map(|machine| {
            let hash = hash(machine.name);
            // Two independent halves; the skip is never 0, and any other step visits every slot of a prime number.
            let (offset, skip) = ((hash >> 32) % u64::from(slots), hash % u64::from(slots - 1) + 1);
            let walk = Walk { at: offset as u32, skip: skip as u32, credit: 0, weight: machine.weight, id: machine.id };
            (hash, machine.name, walk)
        })
        .collect();
    walks.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    walks.dedup_by(|later, earlier| later.1 == earlier.1);
    let mut walks: Vec<Walk> = walks.into_iter().map(|(_, _, walk)| walk).collect();
    let Some(heaviest) = walks.iter().map(|walk| walk.weight).max() else { return owners };

    // A bit per slot stays in the first-level cache, where the table itself would not.
    let mut taken = vec![0u64; (slots as usize).div_ceil(64)];
    let mut free = slots;
    loop {
        for walk in &mut walks {
            walk.credit += walk.weight;
            if walk.credit < heaviest {
                continue;
            }
            walk.credit -= heaviest;
            let slot = loop {
                let slot = walk.at;
                walk.at = if slot >= slots - walk.skip { slot - (slots - walk.skip) } else { slot + walk.skip };
                let (word, bit) = (&mut taken[(slot / 64) as usize], 1 << (slot % 64));
                if *word & bit == 0 {
                    *word |= bit;
                    break slot;
                }
            };
            owners[slot as usize] = walk.id;
            free -= 1;
            if free == 0 {
                return owners;
            }
        }
    }
}

/// The table of the size the kernel's programs are built for.
pub fn full_table(machines: &[Candidate<'_>]) -> Vec<u16> {
    table(machines, SLOTS)
}

#[derive(Clone, Copy)]
struct Walk {
    at: u32,
    skip: u32,
    credit: u32,
    weight: u32,
    id: u16,
}

/// FNV-1a over the bytes, then the finalizer of SplitMix64, which spreads the last letter of `edge-1` and `edge-2` over all bits.
/// Fixed for ever: two versions that disagree would tear connections apart.
fn hash(name: &str) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for byte in name.bytes() {
        h = (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(n: usize) -> Vec<String> {
        (1..=n).map(|i| format!("edge-{i}")).collect()
    }

    fn candidates(names: &[String], weight: impl Fn(usize) -> u32) -> Vec<Candidate<'_>> {
        names.iter().enumerate().map(|(i, name)| Candidate { id: i as u16 + 1, weight: weight(i), name }).collect()
    }

    fn counts(table: &[u16], n: usize) -> Vec<usize> {
        let mut counts = vec![0; n + 1];
        for owner in table {
            counts[usize::from(*owner)] += 1;
        }
        counts
    }

    #[test]
    fn every_slot_has_an_owner_and_shares_are_even() {
        for n in [1, 2, 3, 10, 100, 1000] {
            let names = names(n);
            let counts = counts(&full_table(&candidates(&names, |_| 1)), n);
            assert_eq!(counts[0], 0);
            let (max, average) = (*counts.iter().max().unwrap() as f64, f64::from(SLOTS) / n as f64);
            assert!(max / average <= 1.01, "{n}: {max} of {average}");
        }
    }

    #[test]
    fn weights_are_kept_within_one_per_cent() {
        let names = names(100);
        let counts = counts(&full_table(&candidates(&names, |i| if i % 2 == 0 { 1 } else { 10 })), 100);
        let (light, heavy): (usize, usize) = (counts[1..].iter().step_by(2).sum(), counts[2..].iter().step_by(2).sum());
        let ratio = heavy as f64 / light as f64;
        assert!((9.9..=10.1).contains(&ratio), "{ratio}");
        let fair = f64::from(SLOTS) / 550.0;
        for (i, count) in counts[1..].iter().enumerate() {
            let fair = if i % 2 == 0 { fair } else { fair * 10.0 };
            assert!((*count as f64 - fair).abs() <= 1.5, "machine {i}: {count} of {fair}");
        }
    }

    #[test]
    fn nobody_when_there_is_nobody() {
        assert!(full_table(&[]).iter().all(|owner| *owner == crate::NOBODY));
        assert!(full_table(&[Candidate { id: 1, weight: 0, name: "a" }]).iter().all(|owner| *owner == crate::NOBODY));
    }

    #[test]
    fn a_machine_that_leaves_moves_few_slots_of_the_others() {
        for (n, gone, bound) in [(10, 1, 0.005), (100, 1, 0.01), (100, 10, 0.02), (1000, 1, 0.012), (1000, 100, 0.06)] {
            let names = names(n);
            let all = candidates(&names, |_| 1);
            let before = full_table(&all);
            let after = full_table(&all[gone..]);
            let moved = before.iter().zip(&after).filter(|(b, a)| usize::from(**b) > gone && a != b).count();
            let share = moved as f64 / f64::from(SLOTS);
            assert!(share <= bound, "{gone} of {n} gone: {share}");
        }
    }

    /// A build that computes another table must not be shipped: machines of both versions would steer apart.
    #[test]
    fn the_same_bytes_on_every_machine_and_in_every_version() {
        let fold = |table: &[u16]| {
            table
                .iter()
                .fold(0xcbf2_9ce4_8422_2325u64, |h, owner| (h ^ u64::from(*owner)).wrapping_mul(0x100_0000_01b3))
        };
        let three = ["edge-1".to_owned(), "edge-2".to_owned(), "edge-3".to_owned()];
        let equal = full_table(&candidates(&three, |_| 1));
        let weighted = full_table(&candidates(&three, |i| i as u32 + 1));
        assert_eq!((fold(&equal), &equal[..12]), VECTOR_EQUAL);
        assert_eq!((fold(&weighted), &weighted[..12]), VECTOR_WEIGHTED);
    }

    const VECTOR_EQUAL: (u64, &[u16]) = (10_548_470_761_407_019_108, &[2, 1, 1, 2, 3, 2, 3, 3, 1, 2, 2, 3]);
    const VECTOR_WEIGHTED: (u64, &[u16]) = (10_509_510_434_794_316_186, &[2, 3, 3, 2, 3, 2, 3, 3, 1, 2, 2, 3]);

    proptest! {
        #[test]
        fn order_and_ids_do_not_matter(
            machines in proptest::collection::btree_map("[a-z]{1,8}", 1u32..20, 1..20),
            seed in any::<u64>(),
        ) {
            let forward: Vec<_> = machines.iter().enumerate()
                .map(|(i, (name, weight))| Candidate { id: i as u16 + 1, weight: *weight, name }).collect();
            let mut shuffled = forward.clone();
            shuffled.sort_by_key(|c| hash(c.name) ^ seed);
            let table_a = table(&forward, 1009);
            prop_assert_eq!(&table_a, &table(&shuffled, 1009));
            let renumbered: Vec<_> = forward.iter().map(|c| Candidate { id: c.id + 100, ..*c }).collect();
            let table_b = table(&renumbered, 1009);
            prop_assert!(table_a.iter().zip(&table_b).all(|(a, b)| a + 100 == *b));
        }

        #[test]
        fn shares_are_right_to_within_one_per_cent_or_two_slots(weights in proptest::collection::vec(1u32..=1000, 1..50)) {
            let names = names(weights.len());
            let counts = counts(&full_table(&candidates(&names, |i| weights[i])), weights.len());
            let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            for (i, weight) in weights.iter().enumerate() {
                let fair = f64::from(SLOTS) * f64::from(*weight) / sum as f64;
                prop_assert!((counts[i + 1] as f64 - fair).abs() <= (fair / 100.0).max(2.0), "{} of {}", counts[i + 1], fair);
            }
        }
    }
}
