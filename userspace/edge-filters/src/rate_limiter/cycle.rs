//! The algorithm of a rate limiter, without clock, locks or waiting: permits are reserved cycle by cycle.
//!
//! Time is cut into cycles of the refresh period, counted from the limiter's beginning. Permits of later cycles than the current
//! one are reservations, whose holders wait for their cycle to begin.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// What a limiter may hand out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Length of a cycle; not zero.
    pub refresh: Duration,
    /// Permits per cycle; not zero.
    pub limit: u64,
    /// Longest wait for a permit.
    pub timeout: Duration,
}

/// How a request fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    Now,
    /// Passes once this much time has gone by.
    After(Duration),
    Refused,
}

/// Reservations of one limiter. Workers share it without a lock: whoever is refused only reads.
///
/// Permits are numbered along time, `limit` for each cycle; handing one out is taking the next number, and idle cycles' numbers are
/// skipped.
#[derive(Debug, Default)]
pub struct Cycles {
    /// The newest cycle that anybody has seen: a worker whose clock is a turn behind asks within it; time never runs back.
    current: AtomicU64,
    /// The number of the next permit, if its cycle has not passed.
    next: AtomicU64,
}

impl Cycles {
    /// Asks for a permit `since` the limiter's beginning.
    pub fn acquire(&self, policy: &Policy, since: Duration) -> Permit {
        let period = policy.refresh.as_nanos().max(1);
        let now = since.as_nanos();
        let limit = policy.limit.max(1);
        let mut cycle = u64::try_from(now / period).unwrap_or(u64::MAX);
        let current = self.current.load(SeqCst);
        if cycle > current {
            // Before a permit of it is taken, so that nobody who sees that permit believes in an older cycle.
            cycle = cycle.max(self.current.fetch_max(cycle, SeqCst));
        } else {
            cycle = current;
        }
        let first = cycle.saturating_mul(limit);
        let cycles_ahead = u64::try_from(policy.timeout.as_nanos() / period).unwrap_or(u64::MAX);
        let most = limit.saturating_mul(cycles_ahead.saturating_add(1));
        let taken = self.next.fetch_update(SeqCst, SeqCst, |next| {
            let number = next.max(first);
            (number - first < most).then(|| number.saturating_add(1))
        });
        let Ok(next) = taken else { return Permit::Refused };
        let ahead = (next.max(first) - first) / limit;
        if ahead == 0 {
            return Permit::Now;
        }
        let begins = u128::from(cycle.saturating_add(ahead)) * period;
        let wait = begins.saturating_sub(now);
        Permit::After(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `+` passes now, `-` is refused, a number waits that many milliseconds.
    #[test]
    fn vectors() {
        for (limit, refresh, timeout, requests) in [
            // Nothing may wait: the limit, then refusals, then the next cycle.
            (2, 1000, 100, "0+ 0+ 0- 999- 1000+ 1500+ 1999- 2000+"),
            // One cycle may be reserved ahead.
            (2, 100, 100, "0+ 0+ 10=90 10=90 10- 100=100 150=50 150- 200=100 450+"),
            // Two cycles ahead; permits carried over shrink by the limit per cycle.
            (1, 10, 20, "0+ 0=10 0=20 0- 10=20 10- 45+ 45=5"),
            // Idle cycles save nothing up.
            (3, 10, 0, "0+ 100+ 100+ 100+ 100- 109- 110+"),
            // A clock that is behind counts for the current cycle.
            (1, 10, 0, "25+ 19- 30+"),
        ] {
            check(limit, refresh, timeout, requests);
        }
    }

    proptest! {
        #[test]
        fn no_cycle_sees_more_than_its_limit(
            limit in 1u64..5, refresh in 1u64..50, timeout in 0u64..200, gaps in prop::collection::vec(0u64..30, 1..200),
        ) {
            let policy = policy(limit, refresh, timeout);
            let cycles = Cycles::default();
            let mut passing = std::collections::BTreeMap::<u64, u64>::new();
            let mut now = 0;
            for gap in gaps {
                now += gap;
                match cycles.acquire(&policy, Duration::from_millis(now)) {
                    Permit::Refused => {}
                    Permit::Now => *passing.entry(now / refresh).or_default() += 1,
                    Permit::After(wait) => {
                        prop_assert!(wait <= policy.timeout + policy.refresh);
                        *passing.entry((now + wait.as_millis() as u64) / refresh).or_default() += 1;
                    }
                }
            }
            prop_assert!(passing.values().all(|count| *count <= limit), "{passing:?}");
        }
    }

    /// Workers that ask at once get the limit of each cycle between them, and not one more.
    #[test]
    fn workers_share_the_limit_exactly() {
        let (policy, cycles) = (policy(1000, 10, 0), Cycles::default());
        let passed: usize = std::thread::scope(|scope| {
            let ask = |_| {
                scope.spawn(|| {
                    let passes = |at| cycles.acquire(&policy, Duration::from_millis(at)) == Permit::Now;
                    (0..8000).filter(|n| passes(n / 2000 * 10)).count()
                })
            };
            let workers: Vec<_> = (0..4).map(ask).collect();
            workers.into_iter().map(|w| w.join().unwrap()).sum()
        });
        // A worker that is ahead ends a cycle for all of them; a fast one sees all four.
        assert!((1000..=4000).contains(&passed), "{passed}");
        assert_eq!(cycles.acquire(&policy, Duration::from_millis(39)), Permit::Refused);
        assert_eq!(cycles.acquire(&policy, Duration::from_millis(40)), Permit::Now);
    }

    fn check(limit: u64, refresh: u64, timeout: u64, requests: &str) {
        let policy = policy(limit, refresh, timeout);
        let cycles = Cycles::default();
        for request in requests.split(' ') {
            let at = request.find(['+', '-', '=']).unwrap();
            let want = match &request[at..] {
                "+" => Permit::Now,
                "-" => Permit::Refused,
                wait => Permit::After(Duration::from_millis(wait[1..].parse().unwrap())),
            };
            let now = Duration::from_millis(request[..at].parse().unwrap());
            assert_eq!(cycles.acquire(&policy, now), want, "{request} of {requests}");
        }
    }

    fn policy(limit: u64, refresh: u64, timeout: u64) -> Policy {
        let millis = Duration::from_millis;
        Policy { limit, refresh: millis(refresh), timeout: millis(timeout) }
    }
}
