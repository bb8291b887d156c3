//! `weir_limit_hits_total{limit}`: how often each bound of the machine was reached.
//!
//! Names are registered when the parts are built; a hit is one addition to a row of the hitting worker.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::locked;
use crate::registry::Encoder;

/// Different limits that can be told apart; a registration beyond them is counted under `other`.
const NAMES_MAX: usize = 512;

/// The table. Cloning shares it.
#[derive(Clone, Debug)]
pub struct LimitHits {
    table: Arc<Table>,
}

#[derive(Debug)]
struct Table {
    names: Mutex<Vec<&'static str>>,
    registrations: AtomicU64,
    /// One row per worker and a last one for all other threads.
    rows: Box<[[AtomicU64; NAMES_MAX]]>,
}

/// One registered limit.
#[derive(Clone, Debug)]
pub struct Limit {
    table: Arc<Table>,
    index: usize,
}

impl LimitHits {
    pub fn new(workers: usize) -> Self {
        let rows = (0..=workers).map(|_| array::from_fn(|_| AtomicU64::new(0))).collect();
        Self { table: Arc::new(Table { names: Mutex::new(vec!["other"]), registrations: AtomicU64::new(0), rows }) }
    }

    /// Gives a limit its place in the table; the same name always gets the same place.
    pub fn register(&self, name: &'static str) -> Limit {
        self.table.registrations.fetch_add(1, Relaxed);
        let mut names = locked(&self.table.names);
        let index = names.iter().position(|&known| known == name).unwrap_or_else(|| {
            if names.len() == NAMES_MAX {
                return 0;
            }
            names.push(name);
            names.len() - 1
        });
        Limit { table: Arc::clone(&self.table), index }
    }

    /// Whether as many names again as there are would find a place: parts that are built later have names of their own.
    pub fn has_room(&self) -> bool {
        locked(&self.table.names).len() <= NAMES_MAX / 2
    }

    /// How often anybody registered a limit, which takes a lock of the whole process: it stands still while requests are served.
    pub fn registrations(&self) -> u64 {
        self.table.registrations.load(Relaxed)
    }

    /// Counts a hit by a worker; see [`Limit::hit`].
    pub fn limit_hit(&self, worker: usize, limit: &Limit) {
        self.table.hit(worker, limit.index, 1);
    }

    /// Each name with its hits, in order of registration.
    pub fn totals(&self) -> Vec<(&'static str, u64)> {
        let names = locked(&self.table.names).clone();
        names.iter().enumerate().map(|(index, &name)| (name, self.table.total(index))).collect()
    }

    pub fn encode(&self, encoder: &mut Encoder) {
        for (name, hits) in self.totals() {
            encoder.counter(
                "weir_limit_hits_total",
                "Times a bound of this machine was reached, by limit.",
                &[("limit", name)],
                hits as f64,
            );
        }
    }
}

impl Limit {
    /// Counts a hit by a worker. A worker index that does not exist counts as "some other thread".
    pub fn hit(&self, worker: usize) {
        self.table.hit(worker, self.index, 1);
    }

    /// Counts hits from a thread that is no worker.
    pub fn add(&self, hits: u64) {
        if hits > 0 {
            self.table.hit(usize::MAX, self.index, hits);
        }
    }

    pub fn total(&self) -> u64 {
        self.table.total(self.index)
    }
}

impl Table {
    fn hit(&self, worker: usize, index: usize, hits: u64) {
        let row = worker.min(self.rows.len() - 1);
        self.rows[row][index].fetch_add(hits, Relaxed);
    }

    fn total(&self, index: usize) -> u64 {
        self.rows.iter().map(|row| row[index].load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_add_up_over_workers_and_other_threads() {
        let limits = LimitHits::new(2);
        let limit = limits.register("head_bytes");
        limit.hit(0);
        limits.limit_hit(1, &limits.register("head_bytes"));
        limit.hit(99);
        limit.add(4);
        assert_eq!(limits.totals(), [("other", 0), ("head_bytes", 7)]);
    }

    #[test]
    fn names_beyond_the_table_count_as_other() {
        let limits = LimitHits::new(1);
        for index in 0..NAMES_MAX + 10 {
            limits.register(format!("limit_{index}").leak()).hit(0);
        }
        assert_eq!(limits.totals().len(), NAMES_MAX);
        assert_eq!(limits.totals()[0], ("other", 11));
    }
}
