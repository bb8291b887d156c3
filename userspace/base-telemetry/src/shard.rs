//! What one worker writes per request, and the sum over workers that readers work with.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::histogram::{Counts, FINE, SharedHistogram, bump};

/// Statuses told apart; anything else counts as [`STATUS_OTHER`].
const STATUS_FIRST: u16 = 100;
const STATUS_CLASSES: usize = 5;
/// The code under which statuses outside 100–599 are counted.
pub const STATUS_OTHER: u16 = 0;

/// Counters with one writer. Aligned so that two workers never share a cache line.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Shard {
    duration_ns: AtomicU64,
    duration_min_ns: AtomicU64,
    duration_max_ns: AtomicU64,
    request_bytes: AtomicU64,
    response_bytes: AtomicU64,
    status_other: AtomicU64,
    statuses: [OnceLock<Box<[AtomicU64; 100]>>; STATUS_CLASSES],
    latency_us: SharedHistogram<FINE>,
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            duration_ns: AtomicU64::new(0),
            duration_min_ns: AtomicU64::new(u64::MAX),
            duration_max_ns: AtomicU64::new(0),
            request_bytes: AtomicU64::new(0),
            response_bytes: AtomicU64::new(0),
            status_other: AtomicU64::new(0),
            statuses: std::array::from_fn(|_| OnceLock::new()),
            latency_us: SharedHistogram::default(),
        }
    }
}

impl Shard {
    pub(crate) fn record(&self, status: u16, duration: Duration, request_bytes: u64, response_bytes: u64) {
        let nanos = nanos(duration);
        bump(&self.duration_ns, nanos);
        if nanos < self.duration_min_ns.load(Relaxed) {
            self.duration_min_ns.store(nanos, Relaxed);
        }
        if nanos > self.duration_max_ns.load(Relaxed) {
            self.duration_max_ns.store(nanos, Relaxed);
        }
        bump(&self.request_bytes, request_bytes);
        bump(&self.response_bytes, response_bytes);
        let code = usize::from(status.wrapping_sub(STATUS_FIRST));
        match self.statuses.get(code / 100) {
            Some(class) => bump(&class.get_or_init(|| Box::new([const { AtomicU64::new(0) }; 100]))[code % 100], 1),
            None => bump(&self.status_other, 1),
        }
        self.latency_us.record(nanos / 1000);
    }

    pub(crate) fn merge_into(&self, tally: &mut Tally) {
        let totals = &mut tally.totals;
        totals.duration_ns = totals.duration_ns.wrapping_add(self.duration_ns.load(Relaxed));
        totals.duration_min_ns = totals.duration_min_ns.min(self.duration_min_ns.load(Relaxed));
        totals.duration_max_ns = totals.duration_max_ns.max(self.duration_max_ns.load(Relaxed));
        totals.request_bytes = totals.request_bytes.wrapping_add(self.request_bytes.load(Relaxed));
        totals.response_bytes = totals.response_bytes.wrapping_add(self.response_bytes.load(Relaxed));
        let mut add = |status: u16, n: u64| {
            if n > 0 {
                *tally.codes.entry(status).or_insert(0) += n;
                totals.count += n;
                totals.errors += if is_error(status) { n } else { 0 };
            }
        };
        add(STATUS_OTHER, self.status_other.load(Relaxed));
        for (status, class) in (STATUS_FIRST..).step_by(100).zip(&self.statuses) {
            for (status, n) in (status..).zip(class.get().into_iter().flat_map(|class| class.iter())) {
                add(status, n.load(Relaxed));
            }
        }
        self.latency_us.merge_into(&mut tally.latency_us);
    }
}

/// Easegress's notion: 4xx and 5xx. A status that is none at all is an error as well.
pub(crate) fn is_error(status: u16) -> bool {
    status >= 400 || status == STATUS_OTHER
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Sums since the start.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Totals {
    pub(crate) count: u64,
    pub(crate) errors: u64,
    pub(crate) duration_ns: u64,
    pub(crate) duration_min_ns: u64,
    pub(crate) duration_max_ns: u64,
    pub(crate) request_bytes: u64,
    pub(crate) response_bytes: u64,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            count: 0,
            errors: 0,
            duration_ns: 0,
            duration_min_ns: u64::MAX,
            duration_max_ns: 0,
            request_bytes: 0,
            response_bytes: 0,
        }
    }
}

impl Totals {
    pub(crate) fn record(&mut self, status: u16, duration_ns: u64, request_bytes: u64, response_bytes: u64) {
        self.count += 1;
        self.errors += u64::from(is_error(status));
        self.duration_ns = self.duration_ns.wrapping_add(duration_ns);
        self.duration_min_ns = self.duration_min_ns.min(duration_ns);
        self.duration_max_ns = self.duration_max_ns.max(duration_ns);
        self.request_bytes = self.request_bytes.wrapping_add(request_bytes);
        self.response_bytes = self.response_bytes.wrapping_add(response_bytes);
    }

    pub(crate) fn absorb(&mut self, other: &Self) {
        self.count += other.count;
        self.errors += other.errors;
        self.duration_ns = self.duration_ns.wrapping_add(other.duration_ns);
        self.duration_min_ns = self.duration_min_ns.min(other.duration_min_ns);
        self.duration_max_ns = self.duration_max_ns.max(other.duration_max_ns);
        self.request_bytes = self.request_bytes.wrapping_add(other.request_bytes);
        self.response_bytes = self.response_bytes.wrapping_add(other.response_bytes);
    }

    pub(crate) fn duration_seconds(&self) -> f64 {
        self.duration_ns as f64 / 1e9
    }
}

/// Shards added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) totals: Totals,
    pub(crate) codes: BTreeMap<u16, u64>,
    pub(crate) latency_us: Counts<FINE>,
}
