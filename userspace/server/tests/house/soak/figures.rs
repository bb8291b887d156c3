//! What a process holds, over time.

use std::fs;
use std::time::{Duration, Instant};

/// One look at a process.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    at: Instant,
    /// Memory of its own, in KiB.
    pub anonymous_kib: u64,
    pub descriptors: usize,
}

pub fn held(pid: u32) -> Held {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    let anonymous_kib = field.trim().trim_end_matches("kB").trim().parse().unwrap_or(0);
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    Held { at: Instant::now(), anonymous_kib, descriptors }
}

/// Looks in the order they were taken.
#[derive(Default)]
pub struct Course(Vec<Held>);

impl Course {
    pub fn push(&mut self, held: Held) {
        self.0.push(held);
    }

    pub fn last(&self) -> Option<&Held> {
        self.0.last()
    }

    /// The median of memory in a part of the time, in KiB.
    pub fn median_kib(&self, from: f64, to: f64) -> u64 {
        let (Some(first), Some(last)) = (self.0.first(), self.0.last()) else { return 0 };
        let whole: Duration = last.at - first.at;
        let inside = |held: &&Held| {
            let share = (held.at - first.at).as_secs_f64() / whole.as_secs_f64().max(0.001);
            (from..=to).contains(&share)
        };
        let mut values: Vec<u64> = self.0.iter().filter(inside).map(|held| held.anonymous_kib).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or(0)
    }
}
