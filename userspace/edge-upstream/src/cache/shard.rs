//! One part of a store: S3-FIFO (Yang et al., SOSP 2023) over bytes.
//!
//! New keys enter a small queue, a tenth of the room. Those found again there go over to the main queue when their turn comes, the rest
//! leave, and only their hashes are remembered for a while; who comes back within that time enters the main queue at once. The main
//! queue gives who was found since its last turn another one. Nothing moves on a hit.

use crate::cache::{CacheKey, Stored};
use proto_cache::key::url_of;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Where an entry stands, and whether it is still the one that was put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    index: u32,
    generation: u32,
}

struct Slot {
    generation: u32,
    hash: u64,
    /// Of the URL that the key begins with.
    url_hash: u64,
    key: Box<[u8]>,
    /// Newest first. Empty: the slot is free.
    variants: Vec<Arc<Stored>>,
    bytes: usize,
    is_main: bool,
    /// Times it was found since its last turn, at most [`USES_MOST`].
    uses: AtomicU8,
}

const USES_MOST: u8 = 3;

/// See the module doc.
#[derive(Default)]
pub struct Shard {
    capacity: usize,
    bytes: usize,
    small_bytes: usize,
    index: HashMap<u64, u32, BuildHasherDefault<AsItIs>>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    small: VecDeque<Place>,
    main: VecDeque<Place>,
    /// Hashes of those that have left the small queue, oldest first.
    ghosts: VecDeque<u64>,
    ghost_set: HashSet<u64, BuildHasherDefault<AsItIs>>,
    /// Entries whose keys have lines after the URL, by the hash of that: a purge of the URL finds them without looking at others.
    lined: BTreeSet<(u64, u32)>,
}

/// What a shard holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub bytes: usize,
    pub entries: usize,
}

/// A hash of a hash: it is keyed and spread already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.0 = self.0.rotate_left(8) ^ u64::from(b));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Shard {
    pub fn new(capacity: usize) -> Shard {
        Shard { capacity, ..Shard::default() }
    }

    /// Most bytes it holds.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub fn sums(&self) -> Sums {
        Sums { bytes: self.bytes, entries: self.index.len() }
    }

    #[cfg(test)]
    pub fn queued(&self) -> usize {
        self.small.len() + self.main.len()
    }

    #[cfg(test)]
    pub fn lined_of(&self, url: &CacheKey) -> usize {
        self.lined.range((url.url_hash, 0)..=(url.url_hash, u32::MAX)).count()
    }

    #[cfg(test)]
    pub fn lined_in_all(&self) -> usize {
        self.lined.len()
    }

    /// What is kept under a key; notes that somebody looked.
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<&[Arc<Stored>]> {
        let slot = &self.slots[*self.index.get(&hash)? as usize];
        if *slot.key != *key {
            return None;
        }
        let uses = slot.uses.load(Relaxed);
        if uses < USES_MOST {
            slot.uses.store(uses + 1, Relaxed);
        }
        Some(&slot.variants)
    }

    /// Puts that under the key in place of what was there, nothing where there are none; says how many entries made room.
    pub fn put(&mut self, at: &CacheKey, variants: Vec<Arc<Stored>>) -> usize {
        let (hash, key) = (at.hash, &at.text[..]);
        if variants.is_empty() {
            self.remove(hash, key);
            return 0;
        }
        let bytes = key.len() + variants.iter().map(|stored| stored.bytes()).sum::<usize>();
        match self.index.get(&hash).copied() {
            Some(index) if *self.slots[index as usize].key == *key => {
                let slot = &mut self.slots[index as usize];
                slot.variants = variants;
                let before = std::mem::replace(&mut slot.bytes, bytes);
                self.bytes = self.bytes - before + bytes;
                if !slot.is_main {
                    self.small_bytes = self.small_bytes - before + bytes;
                }
            }
            other => {
                // Another key with the same hash has had its time.
                if let Some(index) = other {
                    self.free_slot(index);
                }
                self.insert(at, variants, bytes);
            }
        }
        self.evict(self.capacity)
    }

    fn insert(&mut self, at: &CacheKey, variants: Vec<Arc<Stored>>, bytes: usize) {
        let (hash, url_hash, key) = (at.hash, at.url_hash, &at.text[..]);
        let is_main = self.ghost_set.remove(&hash);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                hash: 0,
                url_hash: 0,
                key: Box::default(),
                variants: Vec::new(),
                bytes: 0,
                is_main: false,
                uses: AtomicU8::new(0),
            });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        let generation = slot.generation;
        *slot = Slot { generation, hash, url_hash, key: key.into(), variants, bytes, is_main, uses: AtomicU8::new(0) };
        self.index.insert(hash, index);
        self.bytes += bytes;
        if key.contains(&b'\n') {
            self.lined.insert((url_hash, index));
        }
        let place = Place { index, generation };
        if is_main {
            self.main.push_back(place);
        } else {
            self.small.push_back(place);
            self.small_bytes += bytes;
        }
    }

    /// Removes a key; says how many entries that were.
    pub fn remove(&mut self, hash: u64, key: &[u8]) -> usize {
        match self.index.get(&hash).copied() {
            Some(index) if *self.slots[index as usize].key == *key => {
                self.free_slot(index);
                1
            }
            _ => 0,
        }
    }

    /// Removes all that is kept for a URL, whatever lines follow it; says how many entries that were. `url` is the key without lines.
    pub fn remove_url(&mut self, url: &CacheKey) -> usize {
        let lined: Vec<u32> = self.lined.range((url.url_hash, 0)..=(url.url_hash, u32::MAX)).map(|(_, i)| *i).collect();
        let mut removed = self.remove(url.hash, &url.text);
        for index in lined {
            if url_of(&self.slots[index as usize].key) == url.text {
                self.free_slot(index);
                removed += 1;
            }
        }
        removed
    }

    /// Removes the answers that `is_meant` names among the next entries after `from`, [`LOOKED_AT`] at a time: others wait for them. Says how
    /// many those were, and from where to go on. What comes in meanwhile may stand in front of that.
    pub fn remove_some(
        &mut self,
        from: usize,
        mut is_meant: impl FnMut(&[u8], &Stored) -> bool,
    ) -> (usize, Option<usize>) {
        let mut removed = 0;
        let to = (from + LOOKED_AT).min(self.slots.len());
        for index in from..to {
            let slot = &mut self.slots[index];
            let before = slot.variants.len();
            let Slot { key, variants, .. } = slot;
            variants.retain(|stored| !is_meant(key, stored));
            if slot.variants.len() == before {
                continue;
            }
            removed += before - slot.variants.len();
            if slot.variants.is_empty() {
                self.free_slot(index as u32);
            } else {
                let bytes = slot.key.len() + slot.variants.iter().map(|stored| stored.bytes()).sum::<usize>();
                let gone = std::mem::replace(&mut slot.bytes, bytes) - bytes;
                self.bytes -= gone;
                if !slot.is_main {
                    self.small_bytes -= gone;
                }
            }
        }
        (removed, (to < self.slots.len()).then_some(to))
    }

    /// Lets go of entries until there are so many bytes less; says how many.
    pub fn shrink_by(&mut self, bytes: usize) -> usize {
        self.evict(self.bytes.saturating_sub(bytes))
    }

    fn evict(&mut self, most: usize) -> usize {
        let mut evicted = 0;
        while self.bytes > most {
            let from_small = self.small_bytes > self.capacity / 10 || self.main.is_empty();
            let popped = if from_small { self.small.pop_front() } else { self.main.pop_front() };
            let Some(place) = popped else {
                // Both are empty: what is counted is not there.
                debug_assert!(self.small.is_empty() && self.main.is_empty());
                break;
            };
            let Some(slot) =
                self.slots.get_mut(place.index as usize).filter(|slot| slot.generation == place.generation)
            else {
                continue;
            };
            let uses = slot.uses.get_mut();
            if from_small && *uses > 1 {
                *uses = 0;
                slot.is_main = true;
                self.small_bytes -= slot.bytes;
                self.main.push_back(place);
            } else if !from_small && *uses > 0 {
                *uses -= 1;
                self.main.push_back(place);
            } else {
                let hash = slot.hash;
                self.free_slot(place.index);
                if from_small {
                    self.remember(hash);
                }
                evicted += 1;
            }
        }
        self.tidy();
        evicted
    }

    fn remember(&mut self, hash: u64) {
        if self.ghost_set.insert(hash) {
            self.ghosts.push_back(hash);
        }
        // As many as there are entries, as the paper has it.
        while self.ghosts.len() > self.index.len().max(GHOSTS_LEAST) {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.ghost_set.remove(&oldest);
            }
        }
    }

    fn free_slot(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        self.index.remove(&slot.hash);
        self.bytes -= slot.bytes;
        if !slot.is_main {
            self.small_bytes -= slot.bytes;
        }
        if slot.key.contains(&b'\n') {
            self.lined.remove(&(slot.url_hash, index));
        }
        slot.generation = slot.generation.wrapping_add(1);
        slot.key = Box::default();
        slot.variants = Vec::new();
        slot.bytes = 0;
        slot.is_main = false;
        self.free.push(index);
    }

    /// Places of entries that have gone stand in the queues until their turn comes; where they are too many, they are taken out.
    fn tidy(&mut self) {
        let queued = self.small.len() + self.main.len();
        if queued <= 2 * self.index.len() + QUEUED_SPARE {
            return;
        }
        let slots = &self.slots;
        let is_there = |place: &Place| slots[place.index as usize].generation == place.generation;
        self.small.retain(is_there);
        self.main.retain(is_there);
    }
}

/// Entries that are looked at before others have their turn: some tens of microseconds.
pub(super) const LOOKED_AT: usize = 512;

/// Places in the queues beyond twice the entries before they are tidied.
const QUEUED_SPARE: usize = 64;

/// Hashes that are remembered when there are few entries.
const GHOSTS_LEAST: usize = 64;
