//! Answers that are kept in memory: found under a key, bounded by bytes, purged by URL, prefix and tag.
//!
//! All workers share a store. It is cut into [`SHARDS`] parts by the hash of the key, each behind a lock that a hit takes to read only;
//! what a hit writes is one byte of the entry, and only until it has been found three times. Which entries stay is decided by S3-FIFO
//! (see [`shard`]): unlike TinyLFU it keeps no sketch that every hit would have to write, and what is asked for once makes no room for
//! itself at the cost of what is asked for often.
//!
//! All keys of one URL are in one part, so that who purges a URL, as every write through the filter Cache does, looks there alone.
//!
//! With a part on a disk ([`disk`]) what memory lets go of is found again.
//!
//! Bytes are booked as [`Kind::Caches`]. All stores of the process together take no more than half of the ceiling, and give memory
//! back while traffic runs short of it, see [`relieve`].

pub mod disk;
mod flights;
mod gather;
mod purge;
pub mod serve;
mod shard;

pub use flights::{End, Flights, Joined, Lead};
pub use gather::{Gathered, gather};
pub use purge::{Purge, Ticket};

use crate::cache::purge::Purges;
use crate::cache::shard::{Shard, Sums};
use base_runtime::memory::{self, Kind, SharedBooking};
use base_telemetry::Limit;
use base_telemetry::cache::CacheStats;
use bytes::Bytes;
use proto_cache::key::url_of;
use proto_cache::{Kept, Refusal};
use proto_http::Headers;
use std::cell::RefCell;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::thread;
use std::time::Duration;

/// Parts of a store; a store of fewer bytes than they are worth has fewer.
const SHARDS: usize = 64;

/// Least bytes of a part, so that an entry of usual size finds room in it.
const SHARD_BYTES_LEAST: usize = 8 * 1024 * 1024;

/// Entries of the largest size that a part has room for, where there are several parts.
const ENTRIES_OF_SHARD_LEAST: usize = 4;

/// Answers kept under one key for different requests; the oldest makes room.
const VARIANTS_MOST: usize = 32;

/// Between two turns of a purge that looks at many, so that others have theirs. Workers purge URLs alone, which looks at few.
const PURGE_PAUSE: Duration = Duration::from_micros(50);

/// What an answer takes beside its head and body: the places it stands in.
const OVERHEAD: usize = 256;

/// An answer that is kept.
#[derive(Debug)]
pub struct Stored {
    pub kept: Kept,
    /// To its end.
    pub body: Bytes,
    bytes: usize,
    /// Another one has come in its place, or it counts no more.
    is_withdrawn: AtomicBool,
    _booking: SharedBooking,
}

impl Stored {
    pub fn new(kept: Kept, body: Bytes) -> Stored {
        let bytes = kept.memory() + body.len() + OVERHEAD;
        let _booking = SharedBooking::new(Kind::Caches, bytes);
        Stored { kept, body, bytes, is_withdrawn: AtomicBool::new(false), _booking }
    }

    fn is_withdrawn(&self) -> bool {
        self.is_withdrawn.load(Relaxed)
    }

    /// Memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What was found under a key.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// Answers for other requests, of which this is the latest.
    Others(Arc<Stored>),
    /// The answer for this one.
    This(Arc<Stored>),
}

fn shards_of(bytes_most: usize, entry_most: usize) -> usize {
    let shard_bytes = entry_most.saturating_mul(ENTRIES_OF_SHARD_LEAST).max(SHARD_BYTES_LEAST);
    1 << (bytes_most / shard_bytes).clamp(1, SHARDS).ilog2()
}

/// A key with its hash. Made once for a request.
#[derive(Clone, Debug)]
pub struct CacheKey {
    text: Vec<u8>,
    hash: u64,
    /// Of the URL alone: the same where no lines follow it.
    url_hash: u64,
}

impl CacheKey {
    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn text(&self) -> &[u8] {
        &self.text
    }
}

/// See the module doc.
pub struct Store {
    /// `PIPELINE/FILTER`, as purges name it.
    name: String,
    hasher: RandomState,
    shards: Box<[RwLock<Shard>]>,
    purges: RwLock<Purges>,
    stats: Arc<CacheStats>,
    /// Entries that had no room: the process's share was taken.
    memory_limit: Limit,
    disk: OnceLock<Arc<disk::Tier>>,
}

thread_local! {
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The stores of the process, for purges and relief.
static STORES: Mutex<Vec<Weak<Store>>> = Mutex::new(Vec::new());

/// Bytes that all stores hold.
static HELD: AtomicUsize = AtomicUsize::new(0);

impl Store {
    /// A store of at most `bytes_most` bytes, for entries of up to `entry_most` in the main.
    pub fn new(
        name: String,
        bytes_most: usize,
        entry_most: usize,
        stats: Arc<CacheStats>,
        memory_limit: Limit,
    ) -> Arc<Store> {
        let shards = shards_of(bytes_most, entry_most);
        let made = Arc::new(Store {
            name,
            hasher: RandomState::new(),
            shards: (0..shards).map(|_| RwLock::new(Shard::new(bytes_most / shards))).collect(),
            purges: RwLock::default(),
            stats,
            memory_limit,
            disk: OnceLock::new(),
        });
        let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
        stores.retain(|store| store.strong_count() > 0);
        stores.push(Arc::downgrade(&made));
        made
    }

    /// Gives it a part of at most `bytes_most` bytes on a disk, below `root`; see [`disk`]. `id` stands for its name and all that decides what
    /// it keeps.
    pub fn onto_disk(self: &Arc<Self>, root: &Path, id: &str, bytes_most: u64, limits: disk::Limits) {
        self.disk.get_or_init(|| disk::Tier::open(self, root, id, bytes_most, limits));
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether one that is made for these sizes would be parted as this is.
    pub fn suits(&self, bytes_most: usize, entry_most: usize) -> bool {
        self.shards.len() == shards_of(bytes_most, entry_most)
    }

    pub fn stats(&self) -> &Arc<CacheStats> {
        &self.stats
    }

    /// Most bytes that one entry can have to be kept.
    pub fn entry_most(&self) -> usize {
        self.shards[0].read().unwrap_or_else(PoisonError::into_inner).capacity()
    }

    pub fn key(&self, text: Vec<u8>) -> CacheKey {
        let hash = self.hasher.hash_one(&text[..]);
        let url = url_of(&text);
        let url_hash = if url.len() == text.len() { hash } else { self.hasher.hash_one(url) };
        CacheKey { text, hash, url_hash }
    }

    /// The hash of a key and of what requests say in the fields that another answer under it depends on.
    pub fn hash_of_variant(&self, key: &CacheKey, other: &Stored, request: &Headers) -> u64 {
        SPARE.with_borrow_mut(|spare| {
            other.kept.vary.select(request, spare);
            self.hasher.hash_one((key.hash, &spare[..]))
        })
    }

    fn shard(&self, key: &CacheKey) -> &RwLock<Shard> {
        &self.shards[(key.url_hash >> 48) as usize & (self.shards.len() - 1)]
    }

    /// Finds the answer for a request with these fields.
    pub fn find(&self, key: &CacheKey, request: &Headers) -> Found {
        let shard = self.shard(key).read().unwrap_or_else(PoisonError::into_inner);
        let Some(variants) = shard.find(key.hash, &key.text) else { return Found::Nothing };
        SPARE.with_borrow_mut(|spare| {
            let fits = variants.iter().find(|stored| stored.kept.vary.is_for(request, spare));
            match (fits, variants.first()) {
                (Some(stored), _) => Found::This(stored.clone()),
                (None, Some(other)) => Found::Others(other.clone()),
                (None, None) => Found::Nothing,
            }
        })
    }

    /// What is on the disk for a request with these fields. It stands in memory then.
    pub async fn find_on_disk(&self, key: &CacheKey, request: &Headers) -> Option<Arc<Stored>> {
        let tier = self.disk.get()?;
        // Before it is looked for: what is purged meanwhile must not come in.
        let asked = tier.ask(key, request, self.ticket())?;
        let Ok(read) = base_runtime::time::timeout(disk::READ_WAIT, asked).await else {
            tier.count_wait();
            return None;
        };
        read.ok().filter(|stored| stored.kept.vary.is_for(request, &mut Vec::new()))
    }

    /// Puts what was read from the disk into memory, unless it was purged, or something newer is there.
    fn admit(&self, key: &CacheKey, stored: Stored, ticket: Ticket) -> Option<Arc<Stored>> {
        let bytes = stored.bytes + key.text.len();
        let stored = Arc::new(stored);
        let has_room = self.has_room(bytes);
        // As in `keep`.
        let purges = self.purges.read().unwrap_or_else(PoisonError::into_inner);
        if purges.has_hit_since(ticket, &key.text, &stored.kept.tags) {
            return None;
        }
        let mut shard = self.shard(key).write().unwrap_or_else(PoisonError::into_inner);
        let before = shard.sums();
        let mut variants: Vec<Arc<Stored>> = shard.find(key.hash, &key.text).map(<[_]>::to_vec).unwrap_or_default();
        if let Some(newer) = variants.iter().find(|other| other.kept.vary == stored.kept.vary) {
            return Some(newer.clone());
        }
        if has_room && bytes <= shard.capacity() {
            variants.push(stored.clone());
            if variants.len() <= VARIANTS_MOST {
                let evicted = shard.put(key, variants);
                self.account(before, shard.sums());
                self.stats.evicted.fetch_add(evicted as u64, Relaxed);
            }
        }
        Some(stored)
    }

    /// A note of what has been purged by now, to be taken before the origin is asked.
    pub fn ticket(&self) -> Ticket {
        self.purges.read().unwrap_or_else(PoisonError::into_inner).ticket()
    }

    /// Keeps an answer in place of the one for the same requests. Not, when it was purged since it was asked for, or is too large.
    pub fn keep(&self, key: &CacheKey, request: &Headers, stored: Stored, ticket: Ticket) -> Option<Arc<Stored>> {
        let bytes = stored.bytes + key.text.len();
        // Whether this one is kept or not: what is older than it is given no more.
        if let Some(tier) = self.disk.get() {
            tier.forget(key, request);
        }
        if !self.has_room(bytes) {
            self.memory_limit.hit(base_runtime::worker_index());
            self.relieve_shard(key, bytes);
            return None;
        }
        // Held until the entry is in, so that a purge comes either before, and is seen, or after, and finds it.
        let purges = self.purges.read().unwrap_or_else(PoisonError::into_inner);
        if purges.has_hit_since(ticket, &key.text, &stored.kept.tags) {
            return None;
        }
        let stored = Arc::new(stored);
        let mut shard = self.shard(key).write().unwrap_or_else(PoisonError::into_inner);
        if bytes > shard.capacity() {
            return None;
        }
        let before = shard.sums();
        let mut variants: Vec<Arc<Stored>> = shard.find(key.hash, &key.text).map(<[_]>::to_vec).unwrap_or_default();
        let mut spare = Vec::new();
        variants.retain(|other| {
            let stays = !other.kept.vary.is_for(request, &mut spare);
            other.is_withdrawn.fetch_or(!stays, Relaxed);
            stays
        });
        variants.insert(0, stored.clone());
        variants.truncate(VARIANTS_MOST);
        let evicted = shard.put(key, variants);
        self.account(before, shard.sums());
        self.stats.stored.fetch_add(1, Relaxed);
        self.stats.evicted.fetch_add(evicted as u64, Relaxed);
        drop(shard);
        if let Some(tier) = self.disk.get() {
            tier.offer(key, &stored, ticket);
        }
        Some(stored)
    }

    /// Puts an answer in place of one that is still there; nothing, when that has gone.
    pub fn replace(&self, key: &CacheKey, old: &Arc<Stored>, new: Option<Stored>) -> Option<Arc<Stored>> {
        if new.is_none() {
            old.is_withdrawn.store(true, Relaxed);
            if let Some(tier) = self.disk.get() {
                tier.forget_like(key, &old.kept.vary);
            }
        }
        let ticket = self.ticket();
        let mut shard = self.shard(key).write().unwrap_or_else(PoisonError::into_inner);
        let mut variants = shard.find(key.hash, &key.text)?.to_vec();
        let at = variants.iter().position(|stored| Arc::ptr_eq(stored, old))?;
        let before = shard.sums();
        let new = new.map(Arc::new);
        match &new {
            Some(new) => variants[at] = new.clone(),
            None => drop(variants.remove(at)),
        }
        let evicted = shard.put(key, variants);
        self.account(before, shard.sums());
        self.stats.evicted.fetch_add(evicted as u64, Relaxed);
        drop(shard);
        if let (Some(tier), Some(new)) = (self.disk.get(), &new) {
            tier.renew(key, &old.kept, new, ticket);
        }
        new
    }

    /// Removes what a purge names; says how many entries that were.
    pub fn purge(&self, purge: &Purge) -> usize {
        let note = || self.purges.write().unwrap_or_else(PoisonError::into_inner).note(purge.clone());
        note();
        let exact = match purge {
            Purge::Url(url) => Some(self.key(url.clone())),
            _ => None,
        };
        let on_disk = self.disk.get().map(|tier| {
            let removed = tier.purge(purge, exact.as_ref());
            // Whoever found it on the disk before that, and has read it since, sees this one or has put it where it is removed from now.
            note();
            removed
        });
        let mut removed = 0;
        if let Some(url) = &exact {
            removed += self.change(self.shard(url), |shard| shard.remove_url(url));
        } else {
            let is_meant = |key: &[u8], stored: &Stored| purge.hits(key, &stored.kept.tags);
            for shard in &self.shards {
                // What comes in behind it was asked for after this, or is not kept: see `keep`.
                let mut next = Some(0);
                while let Some(from) = next {
                    let (gone, after) = self.change(shard, |shard| shard.remove_some(from, is_meant));
                    removed += gone;
                    next = after;
                    // The lock goes to who asks for it first: who has waited is only waking up.
                    if next.is_some() {
                        thread::sleep(PURGE_PAUSE);
                    }
                }
            }
        }
        // Most of what memory has is on the disk, too.
        let removed = removed.max(on_disk.unwrap_or(0));
        self.stats.purged.fetch_add(removed as u64, Relaxed);
        removed
    }

    /// Whether the process may hold so many bytes more.
    fn has_room(&self, bytes: usize) -> bool {
        let Some(ceiling) = memory::ceiling() else { return true };
        let share = (ceiling / 2) as usize;
        HELD.load(Relaxed) + bytes <= share && memory::booked() < ceiling / 5 * 4
    }

    fn relieve_shard(&self, key: &CacheKey, bytes: usize) {
        let mut shard = self.shard(key).write().unwrap_or_else(PoisonError::into_inner);
        let before = shard.sums();
        // Twice as much as would have come in: what cannot be kept now may be next time.
        let evicted = shard.shrink_by(bytes.saturating_mul(2));
        self.account(before, shard.sums());
        self.stats.evicted.fetch_add(evicted as u64, Relaxed);
    }

    /// Changes a part for itself, and books what that makes of it.
    fn change<T>(&self, shard: &RwLock<Shard>, change: impl FnOnce(&mut Shard) -> T) -> T {
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        let before = shard.sums();
        let changed = change(&mut shard);
        self.account(before, shard.sums());
        changed
    }

    fn account(&self, before: Sums, now: Sums) {
        // Differences may be below zero: additions wrap.
        let bytes = now.bytes.wrapping_sub(before.bytes);
        HELD.fetch_add(bytes, Relaxed);
        self.stats.bytes.fetch_add(bytes as u64, Relaxed);
        self.stats.entries.fetch_add(now.entries.wrapping_sub(before.entries) as u64, Relaxed);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            self.account(shard.sums(), Sums::default());
        }
    }
}

/// Purges in every store of the process, or in the one of that name; says how many entries went.
pub fn purge_all(cache: Option<&str>, purge: &Purge) -> usize {
    let fits = |store: &Arc<Store>| cache.is_none_or(|name| store.name == name);
    stores().iter().filter(|store| fits(store)).map(|store| store.purge(purge)).sum()
}

/// Gives memory back while the process has more booked than it should: a quarter of each store. Called now and then, since those who
/// take in requests refuse them then, and no request would come here. Files of caches that there are no more go, too.
pub fn relieve() {
    disk::tidy();
    if !memory::is_over() {
        return;
    }
    for store in stores() {
        let mut evicted = 0;
        for shard in &store.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let before = shard.sums();
            evicted += shard.shrink_by(before.bytes / 4);
            store.account(before, shard.sums());
        }
        store.stats.evicted.fetch_add(evicted as u64, Relaxed);
        if let Some(tier) = store.disk.get() {
            tier.relieve();
        }
    }
}

fn stores() -> Vec<Arc<Store>> {
    let stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    stores.iter().filter_map(Weak::upgrade).collect()
}

/// The words of [`Refusal`], in the order of its places, for the statistics of a cache; and those of the store itself.
pub const REASONS: [&str; Refusal::ALL.len() + 3] = {
    let mut words = [""; Refusal::ALL.len() + 3];
    let mut at = 0;
    while at < Refusal::ALL.len() {
        words[at] = Refusal::ALL[at].word();
        at += 1;
    }
    words[TOO_LARGE] = "too_large";
    words[BROKEN_OFF] = "broken_off";
    words[PURGED] = "purged_or_full";
    words
};

/// Its body is larger than an entry may be.
pub const TOO_LARGE: usize = Refusal::ALL.len();
/// Its body did not come to its end.
pub const BROKEN_OFF: usize = Refusal::ALL.len() + 1;
/// It was purged while it was fetched, or there was no room.
pub const PURGED: usize = Refusal::ALL.len() + 2;

#[cfg(test)]
mod tests;
