//! Servers that come, or come back, get their share by and by: caches are cold, and connections have yet to be made.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The share a server begins with.
const FIRST_SHARE: f64 = 0.1;

/// When each server of a pool began. Times are milliseconds since the pool was made, and one more; 0: long ago.
#[derive(Debug)]
pub struct SlowStart {
    window: Duration,
    made: Instant,
    began: Vec<AtomicU64>,
    was_in: Vec<AtomicBool>,
    /// Nobody starts after this.
    until: AtomicU64,
}

impl SlowStart {
    /// `since` says when servers began that are still new.
    pub fn new(window: Duration, since: Vec<Option<Instant>>) -> SlowStart {
        let made = since.iter().flatten().min().copied().unwrap_or_else(Instant::now);
        let slow = SlowStart {
            window,
            made,
            was_in: since.iter().map(|_| AtomicBool::new(true)).collect(),
            began: since.iter().map(|_| AtomicU64::new(0)).collect(),
            until: AtomicU64::new(0),
        };
        since.iter().enumerate().for_each(|(server, since)| since.iter().for_each(|at| slow.begins(server, *at)));
        slow
    }

    /// When it began, where that is not long ago.
    pub fn since(&self, server: usize) -> Option<Instant> {
        match self.began[server].load(Relaxed) {
            0 => None,
            at => Some(self.made + Duration::from_millis(at - 1)),
        }
    }

    /// Takes note of whether a server takes requests.
    pub fn saw(&self, server: usize, is_in: bool, now: Instant) {
        if is_in && !self.was_in[server].swap(true, Relaxed) {
            self.begins(server, now);
        }
        if !is_in {
            self.was_in[server].store(false, Relaxed);
        }
    }

    fn begins(&self, server: usize, now: Instant) {
        let at = self.stamp(now);
        self.began[server].store(at, Relaxed);
        self.until.fetch_max(at + self.window.as_millis() as u64, Relaxed);
    }

    /// Whether any server is still new.
    #[inline]
    pub fn is_any(&self, now: Instant) -> bool {
        self.stamp(now) < self.until.load(Relaxed)
    }

    /// The part of its share that a server gets, more than 0 and at most 1. Where all are new, each gets all of it.
    pub fn share(&self, server: usize, now: Instant) -> f64 {
        let own = self.progress(server, now);
        if own >= 1.0 {
            return 1.0;
        }
        let most = (0..self.began.len()).map(|server| self.progress(server, now)).fold(own, f64::max);
        own / most
    }

    fn progress(&self, server: usize, now: Instant) -> f64 {
        match self.since(server) {
            None => 1.0,
            Some(began) => {
                let age = now.saturating_duration_since(began).as_secs_f64() / self.window.as_secs_f64();
                age.clamp(FIRST_SHARE, 1.0)
            }
        }
    }

    fn stamp(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.made).as_millis() as u64 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_with_time() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let slow = SlowStart::new(Duration::from_secs(10), vec![None, None, Some(at(0))]);
        for (seconds, share) in [(0, 0.1), (1, 0.1), (5, 0.5), (10, 1.0), (99, 1.0)] {
            assert_eq!(slow.share(2, at(seconds)), share, "{seconds}");
            assert_eq!((slow.share(0, at(seconds)), slow.is_any(at(seconds))), (1.0, seconds < 10));
        }
        slow.saw(0, true, at(100));
        assert!(!slow.is_any(at(100)), "it was there all the time");
        slow.saw(0, false, at(101));
        slow.saw(0, true, at(110));
        assert_eq!((slow.share(0, at(115)), slow.share(1, at(115))), (0.5, 1.0));
        assert_eq!(slow.since(0), Some(at(110)));
    }

    #[test]
    fn where_all_are_new_nobody_is() {
        let start = Instant::now();
        let slow = SlowStart::new(Duration::from_secs(10), vec![Some(start); 3]);
        let later = start + Duration::from_secs(2);
        assert!((0..3).all(|server| slow.share(server, later) == 1.0));
    }
}
