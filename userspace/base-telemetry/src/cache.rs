//! Statistics of caches: what their workers count, and their metric families.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value, json};

use crate::histogram::bump;
use crate::registry::Encoder;

/// What a cache has done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheResult {
    /// Answered with what was kept, fresh.
    Hit,
    /// Answered with what was kept, stale, while a new answer is fetched or because the client takes it so.
    Stale,
    /// Answered with what was kept because the origin failed.
    StaleIfError,
    /// The origin said that what was kept is still valid.
    Revalidated,
    /// Answered with what another request had fetched meanwhile.
    Collapsed,
    /// Fetched.
    Miss,
    /// Not for the cache.
    Bypass,
}

impl CacheResult {
    pub const ALL: [CacheResult; 7] = [
        CacheResult::Hit,
        CacheResult::Stale,
        CacheResult::StaleIfError,
        CacheResult::Revalidated,
        CacheResult::Collapsed,
        CacheResult::Miss,
        CacheResult::Bypass,
    ];

    /// As in labels.
    pub const fn text(self) -> &'static str {
        match self {
            CacheResult::Hit => "hit",
            CacheResult::Stale => "stale",
            CacheResult::StaleIfError => "stale_if_error",
            CacheResult::Revalidated => "revalidated",
            CacheResult::Collapsed => "collapsed",
            CacheResult::Miss => "miss",
            CacheResult::Bypass => "bypass",
        }
    }
}

/// Reasons for not keeping an answer that can be told apart.
const REASONS_MOST: usize = 32;

/// What one worker counts. Aligned so that two workers never share a cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    results: [AtomicU64; CacheResult::ALL.len()],
    refused: [AtomicU64; REASONS_MOST],
}

/// Statistics of one cache.
#[derive(Debug)]
pub struct CacheStats {
    name: String,
    /// Why answers are not kept, as in labels; their places are what [`CacheStats::refused`] takes.
    reasons: &'static [&'static str],
    workers: Box<[Shard]>,
    /// Changed by whoever changes the cache: seldom, beside what it answers.
    pub stored: AtomicU64,
    pub evicted: AtomicU64,
    pub purged: AtomicU64,
    pub bytes: AtomicU64,
    pub entries: AtomicU64,
    /// Of its part on a disk, where it has one.
    pub disk: OnceLock<DiskStats>,
}

/// Statistics of the part of a cache that is on a disk.
#[derive(Debug, Default)]
pub struct DiskStats {
    /// Answers that were written.
    pub written: AtomicU64,
    /// Answers that came from there.
    pub read: AtomicU64,
    /// What was not as it had been written.
    pub damaged: AtomicU64,
    pub bytes: AtomicU64,
    pub entries: AtomicU64,
}

impl CacheStats {
    pub fn new(name: &str, reasons: &'static [&'static str], workers: usize) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            reasons,
            workers: (0..workers.max(1)).map(|_| Shard::default()).collect(),
            stored: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            purged: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            disk: OnceLock::new(),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A request was dealt with. Called by this worker alone, as [`refused`](Self::refused) is.
    pub fn dealt(&self, worker: usize, result: CacheResult) {
        if let Some(shard) = self.workers.get(worker) {
            bump(&shard.results[result as usize], 1);
        }
    }

    /// An answer was not kept.
    pub fn refused(&self, worker: usize, reason: usize) {
        if let Some(counter) = self.workers.get(worker).and_then(|shard| shard.refused.get(reason)) {
            bump(counter, 1);
        }
    }

    pub fn results(&self, result: CacheResult) -> u64 {
        self.workers.iter().map(|shard| shard.results[result as usize].load(Relaxed)).sum()
    }

    fn refusals(&self, reason: usize) -> u64 {
        self.workers.iter().map(|shard| shard.refused[reason].load(Relaxed)).sum()
    }

    /// As `GET /status/objects` shows it.
    pub fn status_json(&self) -> Value {
        let results = CacheResult::ALL.iter().map(|result| (result.text().to_owned(), json!(self.results(*result))));
        let refused = self.reasons.iter().enumerate().take(REASONS_MOST);
        let refused = refused.map(|(index, reason)| (reason.to_string(), self.refusals(index)));
        let refused: Map<String, Value> =
            refused.filter(|(_, n)| *n > 0).map(|(reason, n)| (reason, json!(n))).collect();
        let mut status = json!({
            "requests": Value::Object(results.collect()),
            "stored": self.stored.load(Relaxed),
            "notStored": refused,
            "evicted": self.evicted.load(Relaxed),
            "purged": self.purged.load(Relaxed),
            "bytes": self.bytes.load(Relaxed),
            "entries": self.entries.load(Relaxed),
        });
        if let Some(disk) = self.disk.get() {
            status["disk"] = json!({
                "written": disk.written.load(Relaxed),
                "read": disk.read.load(Relaxed),
                "damaged": disk.damaged.load(Relaxed),
                "bytes": disk.bytes.load(Relaxed),
                "entries": disk.entries.load(Relaxed),
            });
        }
        status
    }

    pub(crate) fn encode(&self, encoder: &mut Encoder) {
        let cache = ("cache", self.name.as_str());
        for result in CacheResult::ALL {
            let help = "Requests that came to a cache, by what it did with them.";
            let labels = [cache, ("result", result.text())];
            encoder.counter("weir_cache_requests_total", help, &labels, self.results(result) as f64);
        }
        for (index, reason) in self.reasons.iter().enumerate().take(REASONS_MOST) {
            let refusals = self.refusals(index);
            if refusals > 0 {
                let help = "Answers that a cache has not kept, by why.";
                let labels = [cache, ("reason", *reason)];
                encoder.counter("weir_cache_not_stored_total", help, &labels, refusals as f64);
            }
        }
        let counters = [
            ("weir_cache_stored_total", "Answers that a cache has kept.", &self.stored),
            ("weir_cache_evicted_total", "Entries that had to make room for others.", &self.evicted),
            ("weir_cache_purged_total", "Entries that were purged, or made doubtful by a write.", &self.purged),
        ];
        for (name, help, counter) in counters {
            encoder.counter(name, help, &[cache], counter.load(Relaxed) as f64);
        }
        let help = "Memory that the entries of a cache take, in bytes.";
        encoder.gauge("weir_cache_bytes", help, &[cache], self.bytes.load(Relaxed) as f64);
        encoder.gauge("weir_cache_entries", "Entries of a cache.", &[cache], self.entries.load(Relaxed) as f64);
        let Some(disk) = self.disk.get() else { return };
        let counters = [
            ("weir_cache_disk_written_total", "Answers that a cache has written to its disk.", &disk.written),
            ("weir_cache_disk_read_total", "Answers that a cache has read from its disk.", &disk.read),
            ("weir_cache_disk_damaged_total", "Entries that were not as they had been written.", &disk.damaged),
        ];
        for (name, help, counter) in counters {
            encoder.counter(name, help, &[cache], counter.load(Relaxed) as f64);
        }
        let help = "Bytes that the files of a cache take on its disk.";
        encoder.gauge("weir_cache_disk_bytes", help, &[cache], disk.bytes.load(Relaxed) as f64);
        let help = "Entries of a cache that its disk has.";
        encoder.gauge("weir_cache_disk_entries", help, &[cache], disk.entries.load(Relaxed) as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Names;

    #[test]
    fn workers_add_up_and_reasons_that_never_were_are_not_shown() {
        let stats = CacheStats::new("p/c", &["method", "private"], 2);
        stats.dealt(0, CacheResult::Hit);
        stats.dealt(1, CacheResult::Hit);
        stats.dealt(9, CacheResult::Hit);
        stats.refused(1, 1);
        stats.bytes.store(7, Relaxed);
        let mut encoder = Encoder::new(Names::All);
        stats.encode(&mut encoder);
        let text = encoder.finish();
        for line in [
            "weir_cache_requests_total{cache=\"p/c\",result=\"hit\"} 2",
            "weir_cache_not_stored_total{cache=\"p/c\",reason=\"private\"} 1",
            "weir_cache_bytes{cache=\"p/c\"} 7",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(!text.contains("method"));
        assert_eq!(stats.status_json()["notStored"], json!({"private": 1}));
    }
}
