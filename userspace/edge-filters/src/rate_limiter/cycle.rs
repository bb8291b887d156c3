//! The algorithm of a rate limiter, without clock, locks or waiting: permits are reserved cycle by cycle.
//!
//! Time is cut into cycles of the refresh period, counted from the limiter's beginning. `granted` counts the permits
//! handed out from the current cycle on: those of later cycles are reservations, whose holders wait for their cycle to
//! begin. When a cycle passes, its share is subtracted.

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

/// Reservations of one limiter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cycles {
    current: u64,
    granted: u64,
}

impl Cycles {
    /// Asks for a permit `since` the limiter's beginning.
    pub fn acquire(&mut self, policy: &Policy, since: Duration) -> Permit {
        let period = policy.refresh.as_nanos().max(1);
        let now = since.as_nanos();
        let limit = policy.limit.max(1);
        let cycle = u64::try_from(now / period).unwrap_or(u64::MAX);
        // A worker whose clock is a turn behind asks within the current cycle; time never runs back.
        if cycle > self.current {
            self.granted = self.granted.saturating_sub(limit.saturating_mul(cycle - self.current));
            self.current = cycle;
        }
        let cycles_ahead = u64::try_from(policy.timeout.as_nanos() / period).unwrap_or(u64::MAX);
        if self.granted >= limit.saturating_mul(cycles_ahead.saturating_add(1)) {
            return Permit::Refused;
        }
        let ahead = self.granted / limit;
        self.granted += 1;
        if ahead == 0 {
            return Permit::Now;
        }
        let begins = u128::from(self.current.saturating_add(ahead)) * period;
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
            let mut cycles = Cycles::default();
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

    fn check(limit: u64, refresh: u64, timeout: u64, requests: &str) {
        let policy = policy(limit, refresh, timeout);
        let mut cycles = Cycles::default();
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
