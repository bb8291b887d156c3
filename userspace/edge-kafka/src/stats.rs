//! What became of records, over all producers of the process.

use crate::waiting::LEAVINGS;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) static COUNTERS: Counters = Counters::new();

pub(crate) struct Counters {
    pub delivered: AtomicU64,
    pub failed: AtomicU64,
    pub spooled: AtomicU64,
    pub replayed: AtomicU64,
    pub refused: AtomicU64,
    pub damaged: AtomicU64,
    pub spool_bytes: AtomicU64,
}

impl Counters {
    const fn new() -> Counters {
        Counters {
            delivered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            spooled: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            spool_bytes: AtomicU64::new(0),
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

/// Numbers for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Brokers have said that they have it.
    pub delivered: u64,
    /// Brokers refused it, or nobody could be reached while somebody waited.
    pub failed: u64,
    /// Went to the disk.
    pub spooled: u64,
    /// Went from the disk to brokers.
    pub replayed: u64,
    /// There was no room, in memory or on the disk.
    pub refused: u64,
    /// Lost on the disk, in records or in stretches of them.
    pub damaged: u64,
    /// Bytes on the disk now.
    pub spool_bytes: u64,
    /// Bytes of them that are of documents which are gone, when that was looked at last.
    pub gone_bytes: u64,
    /// Bytes that were removed, as no document of their name came.
    pub gone_removed_bytes: u64,
}

pub fn counts() -> Counts {
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let c = &COUNTERS;
    Counts {
        delivered: of(&c.delivered),
        failed: of(&c.failed),
        spooled: of(&c.spooled),
        replayed: of(&c.replayed),
        refused: of(&c.refused),
        damaged: of(&c.damaged),
        spool_bytes: of(&c.spool_bytes),
        gone_bytes: LEAVINGS.there(),
        gone_removed_bytes: LEAVINGS.removed(),
    }
}
