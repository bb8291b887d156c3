//! The part of a store that is on a disk: for what memory has no room for, and for a start that is not cold.
//!
//! Every answer that is kept is written to the end of a log, beside the requests; when memory has let it go, it is read from there and
//! stands in memory again. The log is cut into [`SEGMENTS`] files (see [`log`]); when the last is full the oldest goes, so that the files
//! take no more than they may, and nothing is ever written twice. What is where is known in memory, with the URLs and tags that purges
//! name: a purge needs no disk, and what it names is never read again.
//!
//! Workers never wait for the disk: one thread of the process writes, a few read, and who waits for an answer is woken. What waits to be
//! written is bounded in bytes, reads in number; beyond that answers are not written (`cache_disk_queue`) or asked of the origin
//! (`cache_disk_reads`). A disk that fails (`cache_disk_failed`) is left alone for a while, and the cache goes on in memory.
//!
//! Nothing that is on the disk is believed: head and body have checksums, and what does not fit them, torn by a crash or rotten since, is
//! gone (`weir_cache_disk_damaged_total`). After a start answers of the process before are there again, and each is given only once the
//! origin has said that it is still valid: a clock may have been set meanwhile. Purges are in the log, too, so that what they have named
//! does not come back. A process that takes over from another has its log once that one writes no more ([`let_go`]).

mod heads;
mod log;
mod threads;

use super::{CacheKey, Purge, Store, Stored, Ticket};
use base_runtime::memory::{self, Kind, SharedBooking};
use base_telemetry::Limit;
use base_telemetry::cache::DiskStats;
use heads::Head;
use log::{Log, Seen};
use proto_cache::{Kept, Vary};
use proto_http::Headers;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Files of one log.
pub const SEGMENTS: u64 = 16;

/// Bytes that wait to be written, of one store.
const PENDING_MOST: usize = 64 * 1024 * 1024;

/// Reads under way, of one store.
const READS_MOST: usize = 512;

/// How long a request waits for the disk before it asks the origin. Counted as `cache_disk_reads`.
pub(super) const READ_WAIT: Duration = Duration::from_secs(2);

/// Keys that are dealt with before others may look.
const FEW: usize = 64;

/// How long nothing is written to a disk that has failed.
const PAUSE: Duration = Duration::from_secs(10);

/// Memory of a place beside its texts.
const PLACE_BYTES: usize = 256;

/// Memory of a purge that waits to be written, beside its text.
const PURGE_BYTES: usize = 128;

/// How often the logs of caches that there are no more are looked for, and how long after the start first: by then there are all that the
/// documents speak of.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// How long a process that another one takes over from waits until it has written what it was to write.
const LET_GO_WAIT: Duration = Duration::from_secs(2);

static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();

/// Another process has the logs, or is about to.
static IS_LET_GO: AtomicBool = AtomicBool::new(false);

/// Where the logs of all stores are, below the data directory. Without it all stores are in memory.
pub fn set_directory(directory: &Path) {
    let _ = DIRECTORY.set(directory.to_owned());
}

pub fn directory() -> Option<&'static Path> {
    DIRECTORY.get().map(PathBuf::as_path)
}

/// Writes what is to be written, and then no more: another process takes over. What is there can be read here until the end.
pub fn let_go() {
    let tiers: Vec<Arc<Tier>> = tiers().iter().filter_map(Weak::upgrade).collect();
    for tier in &tiers {
        // From now on purges may not come to the log.
        if let Some(store) = tier.store.upgrade() {
            *tier.since.lock().unwrap_or_else(PoisonError::into_inner) = store.ticket();
        }
    }
    IS_LET_GO.store(true, Relaxed);
    if tiers.is_empty() {
        return;
    }
    let (done, wait) = std::sync::mpsc::channel();
    threads::write(move || {
        for tier in tiers {
            tier.is_known.store(false, Relaxed);
            tier.log().take();
        }
        let _ = done.send(());
    });
    if wait.recv_timeout(LET_GO_WAIT).is_err() {
        tracing::warn!("the disk of a cache is slow: whoever takes over begins with nothing on it");
    }
}

/// The other process has ended, and this one goes on.
pub fn take_back() {
    IS_LET_GO.store(false, Relaxed);
}

/// Removes the logs of caches that there are no more. Called now and then.
pub(super) fn tidy() {
    static NEXT: Mutex<Option<Instant>> = Mutex::new(None);
    let Some(root) = directory().filter(|_| !IS_LET_GO.load(Relaxed)) else { return };
    let now = Instant::now();
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    match *next {
        Some(at) if now >= at => threads::write(|| log::sweep(root, |_| true)),
        Some(_) => return,
        None => {}
    }
    *next = now.checked_add(SWEEP_EVERY);
}

/// What counts for a store's disk.
pub struct Limits {
    pub queue: Limit,
    pub reads: Limit,
    pub failed: Limit,
}

/// See the module doc.
pub struct Tier {
    store: Weak<Store>,
    stats: Arc<super::CacheStats>,
    limits: Limits,
    root: PathBuf,
    id: String,
    segment_bytes: u64,
    pending: AtomicUsize,
    /// Another one is of the same cache now: with this one its files go.
    is_replaced: AtomicBool,
    /// What the log has is known: purges need not be written where they name nothing.
    is_known: AtomicBool,
    /// Since when purges may not have reached the log: what they name is not learned from it.
    since: Mutex<Ticket>,
    state: Mutex<State>,
    /// Touched by the thread that writes alone.
    log: Mutex<Option<Log>>,
    /// What this one has added to the sums of all of the same name.
    entries: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Default)]
struct State {
    /// By the hash of the key, newest last.
    places: HashMap<u64, Vec<Arc<Place>>>,
    /// Hashes of keys by those of their URLs.
    urls: BTreeSet<(u64, u64)>,
    entries: u64,
    /// Who waits for what is being read, by segment and place in it.
    reading: HashMap<(u64, u64), Vec<oneshot::Sender<Arc<Stored>>>>,
    resting_until: Option<Instant>,
    /// Somebody has waited too long for a read: nobody else does for a while.
    asks_nothing_until: Option<Instant>,
}

/// Where an answer is, and what has to be known of it without reading it.
struct Place {
    key: CacheKey,
    vary: Vary,
    tags: Vec<Box<str>>,
    segment: u64,
    file: Arc<File>,
    at: u64,
    head_bytes: u32,
    body_bytes: u64,
    /// When it came; absent: to a process before this one.
    received: Option<Instant>,
    _booking: SharedBooking,
    _held: Held,
}

/// Memory of a place among what all stores hold.
struct Held(usize);

impl Held {
    fn new(bytes: usize) -> Held {
        super::HELD.fetch_add(bytes, Relaxed);
        PLACES.fetch_add(bytes, Relaxed);
        Held(bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        super::HELD.fetch_sub(self.0, Relaxed);
        PLACES.fetch_sub(self.0, Relaxed);
    }
}

/// Bytes that the places of all stores hold.
static PLACES: AtomicUsize = AtomicUsize::new(0);

/// Whether there may be more of them: they take half of what caches may take, so that what is in memory has the other half.
fn has_room_for_places(bytes: usize) -> bool {
    memory::ceiling().is_none_or(|ceiling| PLACES.load(Relaxed) + bytes <= (ceiling / 4) as usize)
}

/// All that there are, to find those that another one stands for.
static TIERS: Mutex<Vec<Weak<Tier>>> = Mutex::new(Vec::new());

fn tiers() -> MutexGuard<'static, Vec<Weak<Tier>>> {
    TIERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tier {
    /// The part of `store` below `root`, of at most `bytes_most` bytes. `id` is the same only for a store of the same name that keeps the
    /// same answers: what one before has left there is taken over.
    pub(super) fn open(store: &Arc<Store>, root: &Path, id: &str, bytes_most: u64, limits: Limits) -> Arc<Tier> {
        store.stats.disk.get_or_init(DiskStats::default);
        let tier = Arc::new(Tier {
            store: Arc::downgrade(store),
            stats: store.stats.clone(),
            limits,
            root: root.to_owned(),
            id: id.to_owned(),
            segment_bytes: bytes_most / SEGMENTS,
            pending: AtomicUsize::new(0),
            is_replaced: AtomicBool::new(false),
            is_known: AtomicBool::new(false),
            since: Mutex::new(store.ticket()),
            state: Mutex::default(),
            log: Mutex::new(None),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        });
        let mut tiers = tiers();
        tiers.retain(|tier| tier.strong_count() > 0);
        for other in tiers.iter().filter_map(Weak::upgrade) {
            if other.store.upgrade().is_some_and(|other| other.name == store.name) {
                other.is_replaced.store(true, Relaxed);
            }
        }
        tiers.push(Arc::downgrade(&tier));
        drop(tiers);
        let opened = Arc::downgrade(&tier);
        // Nobody waits for a disk while documents are applied.
        threads::write(move || {
            if let Some(tier) = opened.upgrade() {
                tier.recover();
            }
        });
        tier
    }

    /// Opens the log, and learns what is in it.
    fn recover(&self) {
        let Some(store) = self.store.upgrade().filter(|_| !IS_LET_GO.load(Relaxed)) else { return };
        let ticket = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_known.store(false, Relaxed);
        // Of a log that was let go.
        let mut state = self.state();
        (state.places, state.urls, state.entries) = Default::default();
        self.set_entries(0);
        drop(state);
        log::sweep(&self.root, |name| name.contains('-'));
        let (mut places, mut purges) = (VecDeque::new(), heads::Purges::default());
        let opened = Log::open(&self.root, &self.id, SEGMENTS as usize, |seen| {
            let (record, head) = match seen {
                Seen::Record(record, head) => (record, head),
                Seen::Damage { segment, at } => {
                    // There may have been a purge: of what is older nobody knows.
                    purges.add(Purge::All, (segment, at));
                    return None;
                }
            };
            match heads::read(head)? {
                Head::Answer { key, kept, .. } => {
                    let key = store.key(key.to_vec());
                    let hash = key.hash;
                    // The oldest make room.
                    while places.front().is_some() && !has_room_for_places(PLACE_BYTES) {
                        places.pop_front();
                    }
                    places.extend(self.place(&store, key, &kept, record, None));
                    Some(hash)
                }
                Head::Purge(purge) => {
                    purges.add(purge, (record.segment, record.at));
                    None
                }
            }
        });
        let log = match opened {
            Ok(log) => log,
            Err(error) => return self.fail(&error, &self.root.join(&self.id).display()),
        };
        places.retain(|place: &Place| !purges.hit(&place.key.text, &place.tags, (place.segment, place.at)));
        drop(purges);
        // A few at a time: workers look here, too.
        let mut places = places.into_iter().peekable();
        while places.peek().is_some() {
            // As in `keep`: a purge comes before, and is seen, or after, and finds it.
            let purges = store.purges.read().unwrap_or_else(PoisonError::into_inner);
            let mut state = self.state();
            for place in places.by_ref().take(FEW) {
                if !purges.has_hit_since(ticket, &place.key.text, &place.tags) {
                    self.insert(&mut state, place);
                }
            }
        }
        self.disk().damaged.fetch_add(log.damaged, Relaxed);
        self.set_bytes(log.bytes());
        *self.log() = Some(log);
        self.is_known.store(true, Relaxed);
    }

    fn disk(&self) -> &DiskStats {
        self.stats.disk.get_or_init(DiskStats::default)
    }

    fn set_entries(&self, now: u64) {
        set_part(&self.entries, &self.disk().entries, now);
    }

    fn set_bytes(&self, now: u64) {
        set_part(&self.bytes, &self.disk().bytes, now);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self) -> MutexGuard<'_, Option<Log>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: &io::Error, place: &dyn std::fmt::Display) {
        self.limits.failed.add(1);
        let mut state = self.state();
        if state.resting_until.is_none() {
            tracing::warn!(cache = self.stats.name(), %error, %place, "the disk of a cache fails; it goes on in memory");
        }
        state.resting_until = Some(Instant::now() + PAUSE);
    }

    fn is_resting(&self) -> bool {
        IS_LET_GO.load(Relaxed) || self.state().resting_until.is_some_and(|until| Instant::now() < until)
    }

    /// Has something written, soon, unless `most` bytes wait already.
    fn queue(self: &Arc<Self>, bytes: usize, most: usize, write: impl FnOnce(&Tier) + Send + 'static) {
        if self.pending.fetch_add(bytes, Relaxed) + bytes > most {
            self.pending.fetch_sub(bytes, Relaxed);
            self.limits.queue.add(1);
            return;
        }
        let pending = Pending { tier: Arc::downgrade(self), bytes };
        threads::write(move || {
            if let Some(tier) = pending.tier.upgrade() {
                write(&tier);
            }
            drop(pending);
        });
    }

    /// Has an answer written, soon.
    pub(super) fn offer(self: &Arc<Self>, key: &CacheKey, stored: &Arc<Stored>, ticket: Ticket) {
        if self.is_resting() {
            return;
        }
        let (key, stored) = (key.clone(), stored.clone());
        self.queue(stored.bytes(), PENDING_MOST, move |tier| tier.write(key, &stored, ticket));
    }

    /// An answer that the origin has called valid stands in the place of `old`. It is written anew where that of a process before is there, which
    /// need not be asked for each time then; and where the origin says something else of it now.
    pub(super) fn renew(self: &Arc<Self>, key: &CacheKey, old: &Kept, stored: &Arc<Stored>, ticket: Ticket) {
        let is_like = |place: &Arc<Place>| place.vary == stored.kept.vary && place.key.text == key.text;
        let places = self.state().places.get(&key.hash).cloned().unwrap_or_default();
        let is_of_before = places.iter().any(|place| place.received.is_none() && is_like(place));
        let is_other = !says_the_same(old, &stored.kept);
        if is_other {
            // Whether the new one is written or not.
            self.forget_like(key, &old.vary);
        }
        if is_of_before || is_other {
            self.offer(key, stored, ticket);
        }
    }

    fn write(&self, key: CacheKey, stored: &Stored, ticket: Ticket) {
        let Some(store) = self.store.upgrade() else { return };
        if self.log().is_none() {
            // It could not be opened before, or another process had it.
            self.recover();
        }
        let mut log = self.log();
        let Some(log) = log.as_mut() else { return };
        let (kept, text) = (&stored.kept, &key.text);
        let purges = || store.purges.read().unwrap_or_else(PoisonError::into_inner);
        if stored.is_withdrawn() || purges().has_hit_since(ticket, text, &kept.tags) {
            return;
        }
        let head = heads::answer(text, kept);
        if log::length(head.len(), stored.body.len()) > self.segment_bytes {
            return;
        }
        let Some(record) = self.append(log, &head, &stored.body) else { return };
        log.of_key(key.hash);
        self.disk().written.fetch_add(1, Relaxed);
        if !has_room_for_places(PLACE_BYTES) {
            log.drop_oldest(|gone, hashes| self.forget_segment(gone, hashes));
            self.set_bytes(log.bytes());
        }
        let received = Some(kept.freshness.received);
        let Some(place) = self.place(&store, key, kept, record, received) else { return };
        // As in `keep`: a purge comes before, and is seen, or after, and finds it.
        let now = purges();
        if !now.has_hit_since(ticket, &place.key.text, &place.tags) && !stored.is_withdrawn() {
            self.insert(&mut self.state(), place);
            return;
        }
        drop(now);
        // It was purged while it was written: a process after this one must not find it.
        let url = proto_cache::key::url_of(&place.key.text).to_vec();
        self.append(log, &heads::purge(&Purge::Url(url)), &[]);
    }

    fn append(&self, log: &mut Log, head: &[u8], body: &[u8]) -> Option<log::Record> {
        let appended = log.append(head, body, self.segment_bytes, |gone, hashes| self.forget_segment(gone, hashes));
        self.set_bytes(log.bytes());
        match appended {
            Ok(record) => {
                self.state().resting_until = None;
                Some(record)
            }
            Err(error) => {
                self.fail(&error, &log.place().display());
                None
            }
        }
    }

    /// A place for an answer that is written; `None` where there is no memory for it.
    fn place(
        &self,
        store: &Store,
        key: CacheKey,
        kept: &Kept,
        record: log::Record,
        received: Option<Instant>,
    ) -> Option<Place> {
        let tags: usize = kept.tags.iter().map(|tag| tag.len() + size_of::<Box<str>>()).sum();
        let bytes = PLACE_BYTES + key.text.len() + kept.vary.memory() + tags;
        if !store.has_room(bytes) || !has_room_for_places(bytes) {
            store.memory_limit.add(1);
            return None;
        }
        Some(Place {
            key,
            vary: kept.vary.clone(),
            tags: kept.tags.clone(),
            segment: record.segment,
            file: record.file,
            at: record.at,
            head_bytes: record.head_bytes,
            body_bytes: record.body_bytes,
            received,
            _booking: SharedBooking::new(Kind::Caches, bytes),
            _held: Held::new(bytes),
        })
    }

    fn insert(&self, state: &mut State, place: Place) {
        let (hash, url_hash) = (place.key.hash, place.key.url_hash);
        let places = state.places.entry(hash).or_default();
        let before = places.len();
        places.retain(|other| other.vary != place.vary || other.key.text != place.key.text);
        places.push(Arc::new(place));
        if places.len() > super::VARIANTS_MOST {
            places.remove(0);
        }
        let now = places.len();
        state.urls.insert((url_hash, hash));
        state.entries = state.entries + now as u64 - before as u64;
        self.set_entries(state.entries);
    }

    /// Takes out what is not `kept` of a key; says how many that were.
    fn retain(&self, state: &mut State, hash: u64, keep: impl Fn(&Place) -> bool) -> usize {
        let Some(places) = state.places.get_mut(&hash) else { return 0 };
        let (before, url_hash) = (places.len(), places.first().map(|place| place.key.url_hash));
        places.retain(|place| keep(place));
        let gone = before - places.len();
        if places.is_empty() {
            state.places.remove(&hash);
            if let Some(url_hash) = url_hash {
                state.urls.remove(&(url_hash, hash));
            }
        }
        state.entries -= gone as u64;
        self.set_entries(state.entries);
        gone
    }

    fn forget_segment(&self, segment: u64, hashes: &[u64]) {
        // A few at a time: workers look here, too.
        for some in hashes.chunks(FEW) {
            let mut state = self.state();
            for hash in some {
                self.retain(&mut state, *hash, |place| place.segment != segment);
            }
        }
    }

    /// Another answer for such requests is newer than what is here.
    pub(super) fn forget(&self, key: &CacheKey, request: &Headers) {
        let mut state = self.state();
        if !state.places.contains_key(&key.hash) {
            return;
        }
        let spare = std::cell::RefCell::new(Vec::new());
        self.retain(&mut state, key.hash, |place| {
            place.key.text != key.text || !place.vary.is_for(request, &mut spare.borrow_mut())
        });
    }

    /// What was kept for the same requests as this is none any more.
    pub(super) fn forget_like(&self, key: &CacheKey, vary: &Vary) {
        self.retain(&mut self.state(), key.hash, |place| place.key.text != key.text || place.vary != *vary);
    }

    /// Removes what a purge names; says how many answers those were. `url` is the key of the URL, where the purge names one.
    pub(super) fn purge(self: &Arc<Self>, purge: &Purge, url: Option<&CacheKey>) -> usize {
        // Before it is looked for: what is not known yet is none the less purged.
        let is_known = self.is_known.load(Relaxed);
        let (mut from, last) = match url {
            Some(url) => (Bound::Included((url.url_hash, 0)), Bound::Included((url.url_hash, u64::MAX))),
            None => (Bound::Unbounded, Bound::Unbounded),
        };
        let mut removed = 0;
        loop {
            // A few at a time: workers look here, too.
            let mut state = self.state();
            let some: Vec<(u64, u64)> = state.urls.range((from, last)).take(FEW).copied().collect();
            let Some(at) = some.last() else { break };
            from = Bound::Excluded(*at);
            for (_, hash) in some {
                removed += self.retain(&mut state, hash, |place| !purge.hits(&place.key.text, &place.tags));
            }
        }
        if (removed > 0 || !is_known) && !IS_LET_GO.load(Relaxed) {
            // What is gone from memory alone would be there again after a start. Answers that wait do not keep a purge out.
            let head = heads::purge(purge);
            self.queue(head.len() + PURGE_BYTES, 2 * PENDING_MOST, move |tier| {
                if tier.log().is_none() && !tier.is_resting() {
                    tier.recover();
                }
                if let Some(log) = tier.log().as_mut()
                    && tier.append(log, &head, &[]).is_none()
                {
                    // It cannot be written that something is purged: then nothing is there.
                    while log.drop_oldest(|gone, hashes| tier.forget_segment(gone, hashes)) {}
                    tier.set_bytes(log.bytes());
                }
            });
        }
        removed
    }

    /// Somebody has waited for a read as long as one does.
    pub(super) fn count_wait(&self) {
        self.limits.reads.add(1);
        self.state().asks_nothing_until = Some(Instant::now() + PAUSE);
    }

    /// The answer for a request with these fields, once it is read; `None` where there is none here. What has been purged since the `ticket`
    /// is none.
    pub(super) fn ask(
        self: &Arc<Self>,
        key: &CacheKey,
        request: &Headers,
        ticket: Ticket,
    ) -> Option<oneshot::Receiver<Arc<Stored>>> {
        let mut state = self.state();
        let mut spare = Vec::new();
        let places = state.places.get(&key.hash)?;
        if state.asks_nothing_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let fits = |place: &&Arc<Place>| place.key.text == key.text && place.vary.is_for(request, &mut spare);
        let place = places.iter().rev().find(fits)?.clone();
        let (sender, receiver) = oneshot::channel();
        let at = (place.segment, place.at);
        if let Some(waiting) = state.reading.get_mut(&at) {
            // Those that have left take no room.
            waiting.retain(|sender| !sender.is_closed());
            if waiting.len() >= READS_MOST {
                self.limits.reads.add(1);
                return None;
            }
            waiting.push(sender);
            return Some(receiver);
        }
        if state.reading.len() >= READS_MOST {
            self.limits.reads.add(1);
            return None;
        }
        state.reading.insert(at, vec![sender]);
        drop(state);
        let reading = Reading { tier: self.clone(), at, ticket, stored: None };
        threads::read(move || reading.run(&place));
        Some(receiver)
    }

    fn read(&self, place: &Arc<Place>, ticket: Ticket) -> Option<Arc<Stored>> {
        let bytes = usize::try_from(place.body_bytes).unwrap_or(usize::MAX).saturating_add(place.head_bytes as usize);
        let _booking = SharedBooking::new(Kind::Caches, bytes);
        let (head, body) = match log::read(&place.file, place.at, place.head_bytes, place.body_bytes) {
            Ok(Some(read)) => read,
            Ok(None) => {
                self.disk().damaged.fetch_add(1, Relaxed);
                self.lose(place);
                return None;
            }
            Err(error) => {
                self.fail(&error, &"a read");
                self.lose(place);
                return None;
            }
        };
        let answer = match heads::read(&head) {
            Some(Head::Answer { key, received, kept }) if key == place.key.text => Some((received, *kept)),
            _ => None,
        };
        let Some((received, mut kept)) = answer else {
            self.lose(place);
            return None;
        };
        // Of a process before: only what the origin says now counts.
        kept.no_cache |= place.received.is_none();
        kept.freshness.received = place.received.unwrap_or(received);
        if !kept.is_of_use(Instant::now()) {
            self.lose(place);
            return None;
        }
        let stored = Stored::new(kept, body.into());
        let found = self.store.upgrade()?.admit(&place.key, stored, ticket)?;
        self.disk().read.fetch_add(1, Relaxed);
        Some(found)
    }

    fn lose(&self, place: &Arc<Place>) {
        self.retain(&mut self.state(), place.key.hash, |other| !std::ptr::eq(other, &**place));
    }

    /// Gives memory back: what is in the oldest file is forgotten.
    pub(super) fn relieve(self: &Arc<Self>) {
        let tier = Arc::downgrade(self);
        threads::write(move || {
            let Some(tier) = tier.upgrade() else { return };
            if let Some(log) = tier.log().as_mut() {
                log.drop_oldest(|gone, hashes| tier.forget_segment(gone, hashes));
                tier.set_bytes(log.bytes());
            }
        });
    }

    #[cfg(test)]
    pub(super) fn settle(&self) {
        threads::settle();
    }
}

impl Drop for Tier {
    fn drop(&mut self) {
        let log = self.log.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        self.set_bytes(0);
        self.set_entries(0);
        if let Some(log) = log.filter(|_| self.is_replaced.load(Relaxed)) {
            threads::write(move || log.remove());
        }
    }
}

/// Whether two heads of one answer let it be used, and purged, alike.
fn says_the_same(one: &Kept, other: &Kept) -> bool {
    let said = |kept: &Kept| {
        let times = (kept.freshness.lifetime, kept.stale_while_revalidate, kept.stale_if_error);
        (times, kept.no_cache, kept.must_revalidate)
    };
    said(one) == said(other) && one.tags == other.tags && one.vary == other.vary
}

/// Makes one's part of a sum `now`; others have parts of it, too.
fn set_part(part: &AtomicU64, sum: &AtomicU64, now: u64) {
    let before = part.swap(now, Relaxed);
    // The difference may be below zero: additions wrap.
    sum.fetch_add(now.wrapping_sub(before), Relaxed);
}

/// What waits to be written; however that ends, it waits no more.
struct Pending {
    tier: Weak<Tier>,
    bytes: usize,
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(tier) = self.tier.upgrade() {
            tier.pending.fetch_sub(self.bytes, Relaxed);
        }
    }
}

/// A read under way; however it ends, those who wait for it are told.
struct Reading {
    tier: Arc<Tier>,
    at: (u64, u64),
    ticket: Ticket,
    stored: Option<Arc<Stored>>,
}

impl Reading {
    fn run(mut self, place: &Arc<Place>) {
        self.stored = self.tier.read(place, self.ticket);
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let waiting = self.tier.state().reading.remove(&self.at).unwrap_or_default();
        let Some(stored) = &self.stored else { return };
        for sender in waiting {
            // Who has left needs no answer.
            let _ = sender.send(stored.clone());
        }
    }
}

#[cfg(test)]
mod tests;
