//! Which addresses may send packets to virtual IPs. The maps are changed in place while programs look into them, in an order in which
//! every address is treated as before the change or as after it, and never as neither says.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use abi::access::{self, ALLOW, ASK, AccessBlock, DENY, LISTED, WORDS, WORDS_V4};
use abi::{AccessKey, Address, Config};

use crate::kernel::Kernel;
use crate::{KernelError, sys};

/// A prefix, and what becomes of packets from it. The longest one that an address lies in decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AccessPrefix {
    pub address: IpAddr,
    /// At most 32 or 128; what of the address lies behind them does not count.
    pub bits: u8,
    pub denied: bool,
}

/// Prefixes as the maps hold them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessTables {
    /// Of the map ACCESS.
    pub words: Vec<u64>,
    /// Of the map ACCESS_BLOCKS.
    pub blocks: BTreeMap<u32, AccessBlock>,
    /// Of the map ACCESS_PREFIXES.
    pub prefixes: BTreeMap<AccessKey, u32>,
    /// There are any.
    pub listed: bool,
}

/// What the maps hold beside the words.
#[derive(Default)]
pub(crate) struct KnownAccess {
    blocks: BTreeMap<u32, AccessBlock>,
    prefixes: BTreeMap<AccessKey, u32>,
}

impl AccessTables {
    /// Of two that say the same prefix, the one that denies it counts.
    pub fn of(prefixes: &[AccessPrefix]) -> AccessTables {
        let mut by_prefix: BTreeMap<(u8, bool, u128), bool> = BTreeMap::new();
        for prefix in prefixes {
            let (v4, first) = first_of(prefix.address, prefix.bits);
            *by_prefix.entry((prefix.bits, v4, first)).or_default() |= prefix.denied;
        }
        let mut tables = AccessTables {
            words: vec![0; WORDS as usize],
            blocks: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            listed: !prefixes.is_empty(),
        };
        // Shorter ones first: longer ones are written over them.
        for ((bits, v4, first), denied) in by_prefix {
            let state = if denied { DENY } else { ALLOW };
            if v4 {
                tables.add_v4(first as u32, bits, state);
            } else {
                tables.add_v6(first, bits, state);
            }
        }
        tables
    }

    fn add_v4(&mut self, first: u32, bits: u8, state: u32) {
        if bits <= 24 {
            let block = first >> 8;
            return paint(&mut self.words, block, block + ((1 << (24 - bits)) - 1), state);
        }
        let (word, shift) = access::place_v4(first.to_be());
        let word = &mut self.words[word as usize];
        let around = (*word >> shift) as u32 & ASK;
        *word |= u64::from(ASK) << shift;
        let block = self.blocks.entry(first >> 8).or_insert_with(|| [whole(around); 8]);
        let last = first & 0xff;
        paint(block, last, last + ((1 << (32 - bits)) - 1), state);
    }

    fn add_v6(&mut self, first: u128, bits: u8, state: u32) {
        let key = AccessKey { bits: bits.into(), address: Address::from(std::net::Ipv6Addr::from_bits(first)).0 };
        self.prefixes.insert(key, state);
        let words = &mut self.words;
        let mut mark = |head: u32| {
            let (word, shift) = access::place_v6(head.to_be());
            words[word as usize] |= 1 << shift;
        };
        let head = (first >> 96) as u32;
        match bits {
            32.. => mark(head),
            // More than there are bits.
            ..10 => self.words[WORDS_V4 as usize..].fill(u64::MAX),
            _ => (0..1u32 << (32 - bits)).for_each(|n| mark(head | n)),
        }
    }
}

/// Writes a state to those from `from` to `to`, 32 of them in a word.
fn paint(words: &mut [u64], from: u32, to: u32, state: u32) {
    for at in from >> 5..=to >> 5 {
        let (first, last) = (from.max(at << 5) & 31, to.min(at << 5 | 31) & 31);
        let mask = (u64::MAX >> (62 - 2 * (last - first))) << (2 * first);
        let word = &mut words[at as usize];
        *word = *word & !mask | whole(state) & mask;
    }
}

/// A word of one state.
fn whole(state: u32) -> u64 {
    u64::MAX / u64::from(ASK) * u64::from(state)
}

/// Whether it is IPv4, and its first address as a number.
fn first_of(address: IpAddr, bits: u8) -> (bool, u128) {
    let (v4, number, width) = match address {
        IpAddr::V4(ip) => (true, u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (false, ip.to_bits(), 128),
    };
    let rest = 1u128.checked_shl(width - u32::from(bits)).map_or(u128::MAX, |end| end - 1);
    (v4, number & !rest)
}

impl Kernel {
    /// Makes these the prefixes that decide who may send packets to virtual IPs. Says how many entries of the maps were written.
    pub fn set_access(&mut self, prefixes: &[AccessPrefix]) -> Result<usize, KernelError> {
        let wanted = AccessTables::of(prefixes);
        let there = self.known_access()?;
        let failed = |e| KernelError::system("cannot write the prefixes of access lists", e);
        // First what is new, then the words that lead there, then what is gone. An address is looked for by the longest prefix: with the
        // longest ones written first it finds what it will find in the end, or what it found before. A block changes as a whole.
        let (keys, blocks): (Vec<u32>, Vec<AccessBlock>) =
            wanted.blocks.iter().filter(|(key, block)| there.blocks.get(*key) != Some(*block)).unzip();
        let mut put: Vec<(&AccessKey, &u32)> =
            wanted.prefixes.iter().filter(|(key, state)| there.prefixes.get(*key) != Some(*state)).collect();
        put.sort_by_key(|(key, _)| std::cmp::Reverse(key.bits));
        let (longest, states): (Vec<AccessKey>, Vec<u32>) = put.into_iter().unzip();
        update(self.access_blocks.as_fd(), &keys, &blocks).map_err(failed)?;
        update(self.access_prefixes.as_fd(), &longest, &states).map_err(failed)?;
        if wanted.listed {
            self.tell_access(LISTED, true);
        }
        let mut written = keys.len() + longest.len();
        for (there, wanted) in self.access.double_words().iter().zip(&wanted.words) {
            if there.load(Ordering::Relaxed) != *wanted {
                there.store(*wanted, Ordering::Relaxed);
                written += 1;
            }
        }
        if !wanted.listed {
            self.tell_access(LISTED, false);
        }
        for key in there.blocks.keys().filter(|key| !wanted.blocks.contains_key(*key)) {
            sys::map_delete(self.access_blocks.as_fd(), key).map_err(failed)?;
            written += 1;
        }
        let mut gone: Vec<&AccessKey> =
            there.prefixes.keys().filter(|key| !wanted.prefixes.contains_key(*key)).collect();
        gone.sort_by_key(|key| key.bits);
        for key in &gone {
            sys::map_delete(self.access_prefixes.as_fd(), *key).map_err(failed)?;
        }
        self.known_access = Some(KnownAccess { blocks: wanted.blocks, prefixes: wanted.prefixes });
        Ok(written + gone.len())
    }

    /// What the maps hold: as this process has left them, or an earlier one. Forgotten with that, so that what fails half-way is read.
    fn known_access(&mut self) -> Result<KnownAccess, KernelError> {
        if let Some(known) = self.known_access.take() {
            return Ok(known);
        }
        let failed = |e| KernelError::system("cannot read the prefixes of access lists", e);
        let blocks = entries(self.access_blocks.as_fd()).map_err(failed)?;
        let prefixes = entries(self.access_prefixes.as_fd()).map_err(failed)?;
        Ok(KnownAccess { blocks, prefixes })
    }

    /// Whether programs have to look there.
    pub(crate) fn tell_access(&self, what: u32, there: bool) {
        const AT: usize = std::mem::offset_of!(Config, access) / 4;
        let others = self.config.read(0).access & !what;
        self.config.publish(AT, others | (what * u32::from(there)));
    }
}

fn update<K: sys::Plain, V: sys::Plain>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    for (keys, values) in keys.chunks(BATCH).zip(values.chunks(BATCH)) {
        sys::map_update_batch(map, keys, values).or_else(|_| {
            // Tries take no batches before kernel 5.14.
            keys.iter().zip(values).try_for_each(|(key, value)| sys::map_update(map, key, value))
        })?;
    }
    Ok(())
}

pub(crate) fn entries<K: sys::Plain + Ord, V: sys::Plain>(map: BorrowedFd<'_>) -> io::Result<BTreeMap<K, V>> {
    let mut entries = BTreeMap::new();
    for key in sys::map_keys::<K>(map)? {
        if let Some(value) = sys::map_lookup(map, &key)? {
            entries.insert(key, value);
        }
    }
    Ok(entries)
}

/// Entries handed to the kernel in one call.
const BATCH: usize = 4_096;

#[cfg(test)]
mod tests {
    use abi::access::OPEN;

    use super::*;

    fn prefix(text: &str, denied: bool) -> AccessPrefix {
        let (address, bits) = text.split_once('/').unwrap();
        AccessPrefix { address: address.parse().unwrap(), bits: bits.parse().unwrap(), denied }
    }

    /// As the programs look.
    fn state(tables: &AccessTables, address: &str) -> u32 {
        let address = Address::from(address.parse::<IpAddr>().unwrap());
        let (word, shift) =
            if address.is_v4() { access::place_v4(address.v4_raw()) } else { access::place_v6(address.0[0]) };
        let bits = (tables.words[word as usize] >> shift) as u32;
        if address.is_v4() && bits & ASK == ASK {
            let (word, shift) = access::place_in_block(address.v4_raw());
            return (tables.blocks[&access::block_of(address.v4_raw())][word] >> shift) as u32 & ASK;
        }
        let state = if address.is_v4() { bits & ASK } else { (bits & 1) * ASK };
        if state != ASK {
            return state;
        }
        let number = u128::from_be_bytes(address.octets());
        let lies_in = |key: &AccessKey| {
            let first = u128::from_be_bytes(Address(key.address).octets());
            key.bits == 0 || (first ^ number) >> (128 - key.bits) == 0
        };
        tables.prefixes.iter().filter(|(key, _)| lies_in(key)).max_by_key(|(key, _)| key.bits).map_or(OPEN, |(_, s)| *s)
    }

    #[test]
    fn the_longest_prefix_decides() {
        let tables = AccessTables::of(&[
            prefix("0.0.0.0/0", false),
            prefix("10.0.0.0/8", true),
            prefix("10.1.0.0/16", false),
            prefix("10.1.2.0/24", true),
            prefix("10.1.2.128/25", false),
            prefix("10.1.2.200/32", true),
            prefix("192.0.2.9/32", true),
            prefix("2001:db8::/32", true),
            prefix("2001:db8:1::/48", false),
            prefix("::/0", true),
            prefix("fc00::/7", false),
        ]);
        assert!(tables.listed);
        for (address, expected) in [
            ("9.255.255.255", ALLOW),
            ("10.0.0.0", DENY),
            ("10.255.255.255", DENY),
            ("11.0.0.0", ALLOW),
            ("10.1.0.1", ALLOW),
            ("10.1.2.3", DENY),
            ("10.1.2.128", ALLOW),
            ("10.1.2.200", DENY),
            ("192.0.2.9", DENY),
            ("192.0.2.8", ALLOW),
            ("255.255.255.255", ALLOW),
            ("2001:db8:2::1", DENY),
            ("2001:db8:1::1", ALLOW),
            ("2001:db9::1", DENY),
            ("fd00::1", ALLOW),
        ] {
            assert_eq!(state(&tables, address), expected, "{address}");
        }
        let alone = AccessTables::of(&[prefix("192.0.2.9/32", true), prefix("::/0", true)]);
        assert_eq!(state(&alone, "192.0.2.8"), OPEN, "prefixes of IPv6 say nothing of IPv4");
        let both = AccessTables::of(&[prefix("192.0.2.0/24", true), prefix("192.0.2.77/24", false)]);
        assert_eq!(state(&both, "192.0.2.1"), DENY);
        assert!(!AccessTables::of(&[]).listed);
    }

    #[test]
    fn blocks_are_what_a_search_through_all_prefixes_says() {
        let mut x = 7u64;
        let mut number = |bound: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x % bound
        };
        for _ in 0..30 {
            let prefixes: Vec<AccessPrefix> = (0..200)
                .map(|_| AccessPrefix {
                    // Close together, so that many lie in each other.
                    address: IpAddr::from((0x0a00_0000u32 | number(1 << 14) as u32).to_be_bytes()),
                    bits: 14 + number(19) as u8,
                    denied: number(2) == 0,
                })
                .collect();
            let tables = AccessTables::of(&prefixes);
            for _ in 0..500 {
                let address = 0x0a00_0000u32 | number(1 << 15) as u32;
                let lies_in = |p: &&AccessPrefix| {
                    let IpAddr::V4(ip) = p.address else { return false };
                    (ip.to_bits() ^ address).checked_shr(32 - u32::from(p.bits)).unwrap_or(0) == 0
                };
                let longest = prefixes.iter().filter(lies_in).map(|p| p.bits).max();
                let denied = prefixes.iter().filter(lies_in).any(|p| Some(p.bits) == longest && p.denied);
                let expected = match longest {
                    None => OPEN,
                    Some(_) if denied => DENY,
                    Some(_) => ALLOW,
                };
                assert_eq!(state(&tables, &IpAddr::from(address.to_be_bytes()).to_string()), expected);
            }
        }
    }
}
