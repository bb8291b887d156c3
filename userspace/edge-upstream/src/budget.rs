//! How many requests of a pool may be sent more than once: a share of all requests, so that a pool whose servers fail does not get a
//! multiple of its load just then.
//!
//! Counted over the last seconds, of all workers. A worker counts the requests it begins in cells of its own; only whoever wants to send
//! one again looks at those of others.

use base_model::RetryBudgetSpec;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest time that is looked back, in seconds.
const WINDOW_MOST: u64 = 60;

const CELLS: usize = WINDOW_MOST as usize + 2;

/// See the module doc.
#[derive(Debug)]
pub struct RetryBudget {
    percent: u64,
    least_per_second: u64,
    window: u64,
    counts: Arc<Counts>,
}

/// What has been asked and sent again, whatever a document says of how much may be.
#[derive(Debug)]
struct Counts {
    began: Instant,
    workers: Box<[Seconds]>,
    /// Those that were sent again. Held while one more is let through, so that no two take the last place.
    again: Mutex<Seconds>,
}

/// What happened in each of the last seconds: the second in the upper half, how often in the lower one.
#[derive(Debug)]
#[repr(align(128))]
struct Seconds([AtomicU64; CELLS]);

impl Default for Seconds {
    fn default() -> Self {
        Seconds(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Seconds {
    /// By its only writer.
    fn count(&self, second: u64) {
        let cell = &self.0[second as usize % CELLS];
        let now = cell.load(Relaxed);
        let next = if now >> 32 == second { now + 1 } else { second << 32 | 1 };
        cell.store(next, Relaxed);
    }

    fn since(&self, first: u64, last: u64) -> u64 {
        let cells = self.0.iter().map(|cell| cell.load(Relaxed));
        cells.filter(|cell| (first..=last).contains(&(cell >> 32))).map(|cell| cell & 0xffff_ffff).sum()
    }
}

impl RetryBudget {
    pub fn new(spec: &RetryBudgetSpec, workers: usize, now: Instant) -> RetryBudget {
        RetryBudget::after(spec, workers, now, None)
    }

    /// As [`RetryBudget::new`], counting on from the budget before: a change of the document gives no second helping.
    pub fn after(spec: &RetryBudgetSpec, workers: usize, now: Instant, before: Option<&RetryBudget>) -> RetryBudget {
        let workers = workers.max(1);
        let known = before.map(|before| before.counts.clone()).filter(|counts| counts.workers.len() == workers);
        let counts = known.unwrap_or_else(|| {
            let workers = (0..workers).map(|_| Seconds::default()).collect();
            Arc::new(Counts { began: now, workers, again: Mutex::default() })
        });
        RetryBudget {
            percent: spec.percent.into(),
            least_per_second: spec.min_per_second.into(),
            window: Duration::from(spec.window).as_secs().clamp(1, WINDOW_MOST),
            counts,
        }
    }

    /// A request has begun, on this worker.
    #[inline]
    pub fn began(&self, worker: usize, now: Instant) {
        let workers = &self.counts.workers;
        workers[worker % workers.len()].count(self.second(now));
    }

    /// Whether one may be sent again; whoever asks sends it.
    pub fn take(&self, now: Instant) -> bool {
        let last = self.second(now);
        let first = (last + 1).saturating_sub(self.window);
        let again = self.counts.again.lock().unwrap_or_else(PoisonError::into_inner);
        let requests: u64 = self.counts.workers.iter().map(|worker| worker.since(first, last)).sum();
        let most = (requests * self.percent / 100).max(self.least_per_second * self.window);
        let free = again.since(first, last) < most;
        if free {
            again.count(last);
        }
        free
    }

    /// Never 0, which is what cells say that nobody has written.
    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.counts.began).as_secs() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_model::GoDuration;

    fn budget(percent: u32, least: u32, window: i64) -> (RetryBudget, Instant) {
        let now = Instant::now();
        let window = GoDuration::from_secs(window);
        (RetryBudget::new(&RetryBudgetSpec { percent, min_per_second: least, window }, 2, now), now)
    }

    fn taken(budget: &RetryBudget, now: Instant) -> usize {
        (0..10_000).take_while(|_| budget.take(now)).count()
    }

    #[test]
    fn a_share_of_what_was_asked_lately() {
        let (budget, start) = budget(20, 0, 10);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(taken(&budget, at(0)), 0);
        for request in 0..1000 {
            budget.began(request % 2, at(request as u64 / 200));
        }
        assert_eq!(taken(&budget, at(4)), 200);
        assert_eq!(taken(&budget, at(9)), 0, "they are spent");
        assert_eq!(taken(&budget, at(14)), 0, "and so is what they were a share of");
        (0..50).for_each(|_| budget.began(0, at(100)));
        assert_eq!(taken(&budget, at(100)), 10);
        assert_eq!(taken(&budget, at(109)), 0);
        assert_eq!(taken(&budget, at(110)), 0);
    }

    #[test]
    fn few_requests_may_be_repeated_whatever_their_share() {
        let (budget, start) = budget(20, 3, 2);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!((taken(&budget, at(0)), taken(&budget, at(1)), taken(&budget, at(2))), (6, 0, 6));
        (0..100).for_each(|_| budget.began(1, at(10)));
        assert_eq!(taken(&budget, at(10)), 20, "the larger of the two");
    }

    #[test]
    fn a_change_of_the_document_gives_no_second_helping() {
        let (before, start) = budget(20, 0, 10);
        (0..100).for_each(|_| before.began(0, start));
        assert_eq!(taken(&before, start), 20);
        let spec = |percent| RetryBudgetSpec { percent, min_per_second: 0, window: GoDuration::from_secs(10) };
        let now = start + Duration::from_secs(3);
        assert_eq!(taken(&RetryBudget::after(&spec(20), 2, now, Some(&before)), now), 0, "they are spent");
        let wider = RetryBudget::after(&spec(30), 2, now, Some(&before));
        assert_eq!(taken(&wider, now), 10, "of what was asked before as well");
        assert_eq!(taken(&RetryBudget::after(&spec(30), 3, now, Some(&wider)), now), 0, "other workers begin anew");
    }

    #[test]
    fn workers_that_ask_at_once_share_it() {
        let (budget, start) = budget(0, 100, 10);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| taken(&budget, start))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}
