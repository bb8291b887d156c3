//! Where virtual IPs lie in the kernel: a perfect hash of their addresses and prefixes, as `abi::VipHash` has it, so that a packet
//! finds out with one look whose it is.
//!
//! The multipliers are random, so nobody can choose addresses that get in each other's way: of all the addresses there is room for, two
//! have the same number in one try of 500. Seeds are then found bucket by bucket, the fullest first; half of the places stay free.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher, RandomState};

use abi::vip::{PLACES, SEEDS};
use abi::{Switch, VipAddress, VipAt, VipHash, VipKey};

/// What one generation of VIP_SEEDS, VIP_PLACES and VIPS holds.
pub(crate) struct Places {
    pub(crate) hash: VipHash,
    pub(crate) seeds: Vec<u64>,
    /// Elements are counted within the generation.
    pub(crate) places: Vec<VipAt>,
    /// Addresses of which the same is said share one.
    pub(crate) elements: Vec<VipAddress>,
}

impl Places {
    /// Of what is said by address and prefix.
    pub(crate) fn of(services: &BTreeMap<VipKey, VipAddress>) -> Result<Places, String> {
        Places::with(services, RandomState::new().build_hasher().finish())
    }

    /// The same from a number to begin with.
    fn with(services: &BTreeMap<VipKey, VipAddress>, mut random: u64) -> Result<Places, String> {
        let keys: Vec<&VipKey> = services.keys().collect();
        for _ in 0..TRIES {
            let hash = multipliers(&mut random);
            let numbers: Vec<u32> = keys.iter().map(|key| hash.of(&key.address, key.bits)).collect();
            if let Some((seeds, taken)) = seeds_of(&numbers) {
                return Ok(Places::filled(services, hash, seeds, &numbers, &taken));
            }
        }
        Err(format!("no places were found for {} addresses in {TRIES} tries", keys.len()))
    }

    fn filled(
        services: &BTreeMap<VipKey, VipAddress>,
        hash: VipHash,
        seeds: Vec<u64>,
        numbers: &[u32],
        taken: &[bool],
    ) -> Places {
        let mut places = vec![VipAt::default(); taken.len()];
        let mut elements = Vec::new();
        let mut known: HashMap<&VipAddress, u32> = HashMap::new();
        for ((key, said), &number) in services.iter().zip(numbers) {
            let element = *known.entry(said).or_insert_with(|| {
                elements.push(*said);
                elements.len() as u32 - 1
            });
            let at = VipHash::place(FIRST, number, seeds[VipHash::bucket(FIRST, number) as usize]) as usize;
            debug_assert!(taken[at]);
            let (address, bits_and_one) = (key.address, u32::from(key.bits) + 1);
            let v4 = if address.is_v4() && key.bits == 0 { VipAt::v4(address.v4_raw()) } else { 0 };
            places[at] = VipAt { address, bits_and_one, element, v4 };
        }
        Places { hash, seeds, places, elements }
    }
}

fn multipliers(random: &mut u64) -> VipHash {
    let words = [(); 4].map(|()| next(random));
    let (bits, start) = (next(random), next(random));
    let hash = VipHash { words, bits, start, ..VipHash::default() };
    // What addresses of IPv4 have besides their last word.
    let mapped = abi::Address::from_v4_raw(0).0[2];
    VipHash { start_v4: start.wrapping_add(words[2].wrapping_mul(u64::from(mapped))), ..hash }
}

/// Seeds of all buckets, and the places that are taken then; nothing where two have the same number, or no seed is found for a bucket.
fn seeds_of(numbers: &[u32]) -> Option<(Vec<u64>, Vec<bool>)> {
    let mut buckets = vec![Vec::new(); SEEDS as usize];
    for &number in numbers {
        buckets[VipHash::bucket(FIRST, number) as usize].push(number);
    }
    let mut order: Vec<usize> = (0..buckets.len()).filter(|&bucket| !buckets[bucket].is_empty()).collect();
    order.sort_by_key(|&bucket| std::cmp::Reverse(buckets[bucket].len()));
    let mut seeds = vec![0; buckets.len()];
    let mut taken = vec![false; PLACES as usize];
    let mut tried = 0;
    for bucket in order {
        let numbers = &buckets[bucket];
        if numbers.len() > BUCKET_MAX {
            return None;
        }
        let mut n = 0u32;
        seeds[bucket] = loop {
            // Spread over all bits, as the numbers are that they meet.
            let seed = u64::from(n.wrapping_mul(0x85eb_ca6b));
            if take(&mut taken, numbers, seed) {
                break seed;
            }
            (n, tried) = (n + 1, tried + 1);
            if tried == SEEDS_MAX {
                return None;
            }
        };
    }
    Some((seeds, taken))
}

/// Takes the places of a bucket with this seed: all of them, or none where one is taken.
fn take(taken: &mut [bool], numbers: &[u32], seed: u64) -> bool {
    let at = |number: &u32| VipHash::place(FIRST, *number, seed) as usize;
    for (done, number) in numbers.iter().enumerate() {
        if std::mem::replace(&mut taken[at(number)], true) {
            numbers[..done].iter().for_each(|number| taken[at(number)] = false);
            return false;
        }
    }
    true
}

/// splitmix64.
fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *random;
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// One fails in some 500: all of them never do.
const TRIES: u32 = 64;
/// Seeds that are looked at in one try. With as many addresses as there can be some 10,000 are.
const SEEDS_MAX: u32 = 1 << 18;
/// Addresses of one bucket. Of as many as there can be in all the fullest has some 13.
const BUCKET_MAX: usize = 32;
/// The places of a generation are counted from here.
const FIRST: Switch = Switch(0);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::Ipv6Addr;

    use abi::limits::ADDRESSES_MAX;
    use abi::{Address, Service};
    use proptest::prelude::*;

    use super::*;

    /// What is said of the key, different from what is said of most others.
    fn said(key: &VipKey) -> VipAddress {
        let mut said = VipAddress { count: 1, ..VipAddress::EMPTY };
        said.services[0] = Service { vip: key.address.0[3] as u16 & 0x1ff, ..Service::NONE };
        said
    }

    fn of(keys: impl IntoIterator<Item = VipKey>) -> BTreeMap<VipKey, VipAddress> {
        keys.into_iter().map(|key| (key, said(&key))).collect()
    }

    fn v6(words: [u32; 4]) -> VipKey {
        VipKey { address: Address(words), ..VipKey::default() }
    }

    fn v4(number: u32) -> VipKey {
        VipKey { address: Address::from_v4_raw(number.to_be()), ..VipKey::default() }
    }

    /// As the programs look.
    fn find<'p>(places: &'p Places, key: &VipKey) -> Option<&'p VipAddress> {
        let number = places.hash.of(&key.address, key.bits);
        let seed = places.seeds[VipHash::bucket(FIRST, number) as usize];
        let at = &places.places[VipHash::place(FIRST, number, seed) as usize];
        let is = at.is(&key.address, key.bits);
        if key.address.is_v4() && key.bits == 0 {
            assert_eq!(at.v4 == VipAt::v4(key.address.v4_raw()), is, "the short way says the same");
        }
        is.then(|| &places.elements[at.element as usize])
    }

    fn all_are_found(services: &BTreeMap<VipKey, VipAddress>, random: u64) -> Places {
        let places = Places::with(services, random).expect("places");
        for (key, said) in services {
            assert_eq!(find(&places, key), Some(said), "{key:?}");
            // Its neighbours, where they are none.
            for other in [
                VipKey { bits: key.bits ^ 1, ..*key },
                v6([key.address.0[0] ^ 1, key.address.0[1], key.address.0[2], key.address.0[3]]),
                v6([key.address.0[0], key.address.0[1], key.address.0[2], key.address.0[3] ^ 0x0100_0000]),
            ] {
                assert_eq!(find(&places, &other), services.get(&other), "{other:?}");
            }
        }
        let there = places.places.iter().filter(|at| at.bits_and_one != 0).count();
        assert_eq!((there, places.places.len()), (services.len(), PLACES as usize));
        places
    }

    /// Sets of addresses as people have them, and as somebody would choose them who wants them to get in each other's way.
    fn sets() -> impl Strategy<Value = BTreeSet<VipKey>> {
        let most = ADDRESSES_MAX as usize;
        prop_oneof![
            // Some in a row, with a stride, of either family and in any word.
            (any::<u32>(), 0..32u32, 1..=most)
                .prop_map(|(first, stride, n)| (0..n as u32).map(|i| v4(first.wrapping_add(i << stride))).collect()),
            (any::<[u32; 4]>(), 0..4usize, 0..32u32, 1..=most).prop_map(|(first, word, stride, n)| {
                let at = |i: u32| {
                    let mut words = first;
                    words[word] = words[word].wrapping_add((i << stride).to_be());
                    v6(words)
                };
                (0..n as u32).map(at).collect()
            }),
            // What differs in a few bits of all of them.
            (any::<[u32; 4]>(), proptest::collection::vec(0..128u32, 1..12)).prop_map(|(first, bits)| {
                let one = |i: u32| {
                    let mut address = Ipv6Addr::from(Address(first).octets()).to_bits();
                    bits.iter().enumerate().for_each(|(n, bit)| address ^= u128::from(i >> n & 1) << bit);
                    VipKey { address: Ipv6Addr::from_bits(address).into(), ..VipKey::default() }
                };
                (0..1 << bits.len()).map(one).collect()
            }),
            // Prefixes of one address, of every length, and itself; and nothing at all.
            any::<[u32; 4]>().prop_map(|words| (0..128).map(|bits| VipKey::of(0, &Address(words), bits)).collect()),
            Just(BTreeSet::new()),
            proptest::collection::btree_set(any::<([u32; 4], u16)>(), 1..300)
                .prop_map(|set| set.into_iter().map(|(w, bits)| VipKey::of(0, &Address(w), bits % 128)).collect()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_set_of_addresses_has_places_of_its_own(keys in sets(), random in any::<u64>()) {
            all_are_found(&of(keys), random);
        }
    }

    #[test]
    fn as_many_as_there_can_be_have_places_with_few_seeds_tried() {
        let all = of((0..ADDRESSES_MAX / 2).flat_map(|i| [v4(0xc633_6400 + i), v6([1, 2, i, 3])]));
        assert_eq!(all.len(), ADDRESSES_MAX as usize);
        for random in 0..20 {
            all_are_found(&all, random);
        }
    }

    #[test]
    fn addresses_that_were_chosen_to_have_the_same_number_have_it_once() {
        let chosen_for = multipliers(&mut 7);
        let mut by_number = HashMap::new();
        let mut random = 1;
        let (one, other) = loop {
            let (a, b) = (next(&mut random), next(&mut random));
            let key = v6([a as u32, (a >> 32) as u32, b as u32, (b >> 32) as u32]);
            if let Some(known) = by_number.insert(chosen_for.of(&key.address, 0), key) {
                break (known, key);
            }
        };
        let places = all_are_found(&of([one, other, v4(1)]), 7);
        assert_ne!(places.hash, chosen_for);
    }

    #[test]
    fn addresses_of_which_the_same_is_said_share_an_element() {
        let services: BTreeMap<VipKey, VipAddress> = (0..1000).map(|i| (v4(i), VipAddress::EMPTY)).collect();
        assert_eq!(Places::of(&services).expect("places").elements.len(), 1);
    }

    #[test]
    fn the_short_way_to_a_number_is_the_long_one() {
        let hash = multipliers(&mut 3);
        for number in [0, 1, 0x0102_0304, u32::MAX] {
            let key = v4(number);
            assert_eq!(hash.of_v4(key.address.v4_raw()), hash.of(&key.address, 0));
        }
    }
}
