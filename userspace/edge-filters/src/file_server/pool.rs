//! Files that are asked for again and again, whole and in memory.
//!
//! Bounded in bytes; what was used since the younger half was begun is in it, and when that is full the older half goes. Whether a file is
//! as it was is looked at once a second at most, by one request, while the others get what is known.

use super::find::Content;
use base_runtime::memory;
use base_telemetry::registry::Encoder;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A file that was found, in one coding.
#[derive(Debug)]
pub(super) struct Kept {
    pub content: Content,
    pub size: u64,
    /// Seconds since 1970, and nanoseconds.
    pub modified: (u64, u64),
    pub media: &'static str,
    /// Of the plain file.
    pub name: String,
    pub coding: Option<&'static str>,
    pub etag: String,
}

/// How long a file is given without a look at the disk.
const LOOK: Duration = Duration::from_secs(1);

/// See the module doc.
#[derive(Debug)]
pub(super) struct Pool {
    halves: Mutex<Halves>,
    /// Of each half.
    half_bytes: u64,
    ttl: Duration,
}

#[derive(Debug, Default)]
struct Halves {
    young: HashMap<String, Entry>,
    old: HashMap<String, Entry>,
    young_bytes: u64,
}

#[derive(Debug)]
struct Entry {
    file: Arc<Kept>,
    loaded: Instant,
    looked: Instant,
}

/// What the pool has.
pub(super) enum Known {
    /// To be given as it is.
    Fresh(Arc<Kept>),
    /// To be given if the disk says that it is still so.
    Old(Arc<Kept>),
    Nothing,
}

impl Pool {
    pub(super) fn new(bytes: u64, ttl: Duration) -> Pool {
        Pool { halves: Mutex::default(), half_bytes: bytes / 2, ttl }
    }

    /// Bytes of the longest file that finds room.
    pub(super) fn longest(&self) -> u64 {
        self.half_bytes
    }

    pub(super) fn find(&self, key: &str, now: Instant) -> Known {
        let mut halves = self.lock();
        if let Some(entry) = halves.old.remove(key) {
            halves.put(key, entry, self.half_bytes);
        }
        let Some(entry) = halves.young.get_mut(key) else {
            count(&FIGURES.missed, 1);
            return Known::Nothing;
        };
        if now.saturating_duration_since(entry.loaded) >= self.ttl {
            count(&FIGURES.outlived, 1);
            halves.remove(key);
            return Known::Nothing;
        }
        count(&FIGURES.hit, 1);
        if now.saturating_duration_since(entry.looked) < LOOK {
            return Known::Fresh(entry.file.clone());
        }
        // The others need not look, too.
        entry.looked = now;
        Known::Old(entry.file.clone())
    }

    /// What the disk says now. While memory runs out nothing is kept.
    pub(super) fn keep(&self, key: &str, file: &Arc<Kept>, now: Instant) {
        let mut halves = self.lock();
        if halves.young.get(key).is_some_and(|entry| Arc::ptr_eq(&entry.file, file)) {
            return;
        }
        halves.remove(key);
        if memory::is_over() {
            halves.clear();
        } else if matches!(file.content, Content::Whole(_)) && file.size <= self.half_bytes {
            let entry = Entry { file: file.clone(), loaded: now, looked: now };
            halves.put(key, entry, self.half_bytes);
        }
    }

    /// There is no such file any more.
    pub(super) fn forget(&self, key: &str) {
        self.lock().remove(key);
    }

    /// Files and their bytes.
    pub(super) fn held(&self) -> (usize, u64) {
        let halves = self.lock();
        let all = || halves.young.values().chain(halves.old.values());
        (all().count(), all().map(|entry| entry.file.size).sum())
    }

    fn lock(&self) -> MutexGuard<'_, Halves> {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.lock().clear();
    }
}

impl Halves {
    fn put(&mut self, key: &str, entry: Entry, most: u64) {
        if self.young_bytes + entry.file.size > most {
            let gone = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            count(&FIGURES.evicted, gone.len() as u64);
            gone.values().for_each(Entry::leave);
            self.young_bytes = 0;
        }
        self.young_bytes += entry.file.size;
        entry.come();
        if let Some(before) = self.young.insert(key.to_owned(), entry) {
            before.leave();
        }
    }

    fn remove(&mut self, key: &str) {
        if let Some(entry) = self.young.remove(key) {
            self.young_bytes -= entry.file.size;
            entry.leave();
        }
        if let Some(entry) = self.old.remove(key) {
            entry.leave();
        }
    }

    fn clear(&mut self) {
        self.young.drain().chain(self.old.drain()).for_each(|(_, entry)| entry.leave());
        self.young_bytes = 0;
    }
}

impl Entry {
    fn come(&self) {
        count(&FIGURES.files, 1);
        count(&FIGURES.bytes, self.file.size);
    }

    fn leave(&self) {
        FIGURES.files.fetch_sub(1, Ordering::Relaxed);
        FIGURES.bytes.fetch_sub(self.file.size, Ordering::Relaxed);
    }
}

/// Of all FileServers of this process.
struct Figures {
    hit: AtomicU64,
    missed: AtomicU64,
    evicted: AtomicU64,
    outlived: AtomicU64,
    files: AtomicU64,
    bytes: AtomicU64,
}

static FIGURES: Figures = Figures {
    hit: AtomicU64::new(0),
    missed: AtomicU64::new(0),
    evicted: AtomicU64::new(0),
    outlived: AtomicU64::new(0),
    files: AtomicU64::new(0),
    bytes: AtomicU64::new(0),
};

fn count(figure: &AtomicU64, n: u64) {
    figure.fetch_add(n, Ordering::Relaxed);
}

/// Adds the figures of all FileServers, by Easegress's names.
pub fn encode(encoder: &mut Encoder) {
    let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed) as f64;
    for (name, help, figure) in [
        ("fileserver_buffer_pool_hits_total", "Requests for files that were in memory.", &FIGURES.hit),
        ("fileserver_buffer_pool_miss_total", "Requests for files that were not.", &FIGURES.missed),
        ("fileserver_buffer_pool_evicts_total", "Files that had to make room.", &FIGURES.evicted),
        ("fileserver_buffer_pool_ttl_evicts_total", "Files that were kept for as long as they may.", &FIGURES.outlived),
    ] {
        encoder.counter(name, help, &[], read(figure));
    }
    encoder.gauge("fileserver_buffer_pool_size", "Bytes of files in memory.", &[], read(&FIGURES.bytes));
    encoder.gauge("fileserver_buffer_pool_files", "Files in memory.", &[], read(&FIGURES.files));
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn file(size: usize) -> Arc<Kept> {
        let content = Content::Whole(Bytes::from(vec![0; size]));
        let (name, etag) = (String::new(), String::new());
        Arc::new(Kept { content, size: size as u64, modified: (0, 0), media: "", name, coding: None, etag })
    }

    #[test]
    fn what_is_used_stays_within_bounds_and_is_looked_at_now_and_then() {
        let pool = Pool::new(200, Duration::from_secs(600));
        let now = Instant::now();
        let fresh = |key: &str, after: u64| match pool.find(key, now + Duration::from_millis(after)) {
            Known::Fresh(_) => "fresh",
            Known::Old(_) => "old",
            Known::Nothing => "nothing",
        };
        pool.keep("hot", &file(40), now);
        pool.keep("long", &file(101), now);
        assert_eq!((fresh("hot", 0), fresh("long", 0), fresh("none", 0)), ("fresh", "nothing", "nothing"));
        for n in 0..100 {
            pool.keep(&format!("cold {n}"), &file(30), now);
            assert_eq!(fresh("hot", 0), "fresh", "what is used stays: {n}");
            assert!(pool.held().1 <= 200);
        }
        assert_eq!(fresh("cold 1", 0), "nothing");
        assert_eq!((fresh("hot", 1000), fresh("hot", 1001)), ("old", "fresh"), "one of them looks");
        pool.forget("hot");
        assert_eq!(fresh("hot", 0), "nothing");
        pool.keep("hot", &file(1), now);
        assert_eq!((fresh("hot", 600_000), fresh("hot", 0)), ("nothing", "nothing"));
    }
}
