//! Which requests are traced.

use crate::id::TraceId;
use crate::propagation::Incoming;
use std::time::Duration;

/// Decides at the beginning of a request by share and by what the caller says, at its end by how it went.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampler {
    /// Of 2^63, as OpenTelemetry's TraceIdRatioBased: the same trace is in it everywhere.
    share: u64,
    /// What the caller has decided is decided.
    follows: bool,
    /// Requests that failed are kept.
    errors: bool,
    /// Requests that took so long are kept.
    slow: Option<Duration>,
}

const WHOLE: u64 = 1 << 63;

impl Sampler {
    /// `rate` is 0 to 1.
    pub fn new(rate: f64, follows: bool, errors: bool, slow: Option<Duration>) -> Sampler {
        let share = if rate >= 1.0 { WHOLE } else { (rate.max(0.0) * WHOLE as f64) as u64 };
        Sampler { share, follows, errors, slow }
    }

    /// Whether a request's spans are exported whatever becomes of it; those who are asked next are told so.
    pub fn takes(&self, incoming: &Incoming, trace: TraceId) -> bool {
        match incoming.sampled.filter(|_| self.follows) {
            Some(decided) => decided,
            None => (trace.0 as u64) >> 1 < self.share,
        }
    }

    /// Whether spans of all requests are written down until their end.
    pub fn watches(&self) -> bool {
        self.errors || self.slow.is_some()
    }

    /// Whether a request that is over is exported although it was not taken at its beginning.
    pub fn keeps(&self, failed: bool, took: Duration) -> bool {
        self.errors && failed || self.slow.is_some_and(|slow| took >= slow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_share_and_by_what_the_caller_says() {
        let incoming = |sampled| Incoming { sampled, ..Incoming::default() };
        let count = |sampler: &Sampler, sampled| {
            let step = u128::from(u64::MAX) / 10_000;
            (0..10_000).filter(|n| sampler.takes(&incoming(sampled), TraceId(step * n + 1))).count()
        };
        let of = |rate, follows| Sampler::new(rate, follows, false, None);
        for (rate, taken) in [(0.0, 0), (-1.0, 0), (0.01, 100), (0.5, 5000), (1.0, 10_000), (7.0, 10_000)] {
            let near = count(&of(rate, true), None);
            assert!(near.abs_diff(taken) <= 1, "{rate}: {near}");
        }
        assert_eq!(count(&of(0.0, true), Some(true)), 10_000);
        assert_eq!(count(&of(1.0, true), Some(false)), 0);
        assert_eq!(count(&of(0.0, false), Some(true)), 0);
        assert_eq!(count(&of(1.0, false), Some(false)), 10_000);
    }

    #[test]
    fn by_how_it_went() {
        let none = Sampler::new(0.0, true, false, None);
        assert!(!none.watches() && !none.keeps(true, Duration::MAX));
        let errors = Sampler::new(0.0, true, true, None);
        assert!(errors.watches() && errors.keeps(true, Duration::ZERO) && !errors.keeps(false, Duration::MAX));
        let slow = Sampler::new(0.0, true, false, Some(Duration::from_millis(10)));
        assert!(
            slow.watches()
                && slow.keeps(false, Duration::from_millis(10))
                && !slow.keeps(true, Duration::from_millis(9))
        );
    }
}
