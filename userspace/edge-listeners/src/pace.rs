//! How slow a peer may be: a byte now and then is progress, but not enough of it.
//!
//! A peer has a stock of time it may keep us waiting. Waiting uses it up, bytes add to it at the lowest rate we put up with, and it
//! never grows beyond the longest pause allowed. So a fast peer may pause, a slow link is slow for as long as it likes, and one that
//! trickles is found out after [`Timeouts::grace`](crate::Timeouts::grace). Only time spent waiting for the peer counts: while a
//! backend is slow, its client is not.

use crate::Timeouts;
use std::time::Duration;

/// One direction of one message.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    left: Duration,
    most: Duration,
    grace: Duration,
    /// In bytes per second; 0 = any.
    rate: u32,
    /// Some of the message has passed.
    begun: bool,
}

impl Pace {
    /// `most` is the longest time without a byte.
    pub fn new(timeouts: &Timeouts, most: Duration) -> Pace {
        let left = if timeouts.rate == 0 { most } else { timeouts.grace };
        Pace { left, most, grace: timeouts.grace, rate: timeouts.rate, begun: false }
    }

    /// How long may be waited for the next byte.
    pub fn patience(&self) -> Duration {
        self.left.min(self.most)
    }

    /// Running out of patience now is a matter of the rate, and not of a peer that does nothing.
    pub fn is_rate(&self) -> bool {
        self.begun && self.left < self.most
    }

    /// After a wait of `waited` there were `bytes` more.
    pub fn add(&mut self, bytes: u64, waited: Duration) {
        self.begun |= bytes > 0;
        if self.rate == 0 {
            return;
        }
        let earned = Duration::from_micros(bytes.saturating_mul(1_000_000) / u64::from(self.rate));
        self.left = self.left.saturating_sub(waited).saturating_add(earned).min(self.most.max(self.grace));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn pace() -> Pace {
        Pace::new(&Timeouts { rate: 240, grace: 10 * S, ..Timeouts::default() }, 60 * S)
    }

    #[test]
    fn a_trickle_is_found_out_after_the_grace() {
        let mut pace = pace();
        let mut waited = Duration::ZERO;
        while pace.patience() >= S {
            pace.add(10, S);
            waited += S;
            assert!(waited < 12 * S, "{pace:?}");
        }
        assert!(waited > 8 * S && pace.is_rate());
    }

    #[test]
    fn a_slow_link_may_be_slow_for_ever() {
        let mut pace = pace();
        for _ in 0..100_000 {
            pace.add(300, S);
            assert!(pace.patience() >= S);
        }
    }

    #[test]
    fn who_was_fast_may_pause_but_never_longer_than_the_longest_pause() {
        let mut pace = pace();
        pace.add(1 << 40, S);
        assert_eq!(pace.patience(), 60 * S);
        assert!(!pace.is_rate());
        pace.add(1, 59 * S);
        assert!(pace.patience() < 2 * S);
    }

    #[test]
    fn without_a_rate_only_the_pause_counts() {
        let mut pace = Pace::new(&Timeouts { rate: 0, ..Timeouts::default() }, 60 * S);
        for _ in 0..100 {
            pace.add(1, 59 * S);
        }
        assert_eq!(pace.patience(), 60 * S);
        assert!(!pace.is_rate());
    }
}
