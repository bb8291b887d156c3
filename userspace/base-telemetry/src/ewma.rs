//! Exponentially weighted rates over 1, 5 and 15 minutes, as `uptime` and Easegress compute them.

use std::time::Duration;

/// The interval at which rounds close and rates decay. Easegress's status has the same beat.
pub const TICK: Duration = Duration::from_secs(5);

/// One rate in events per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ewma {
    rate: f64,
    started: bool,
}

impl Ewma {
    /// Takes in `events` seen during `elapsed`. With `elapsed` = 5 s this is the textbook step; another interval decays by as much
    /// as it lasted, so a late tick does not bend the rate.
    pub fn tick(&mut self, events: u64, elapsed: Duration, window: Duration) {
        let seconds = elapsed.as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let instant = events as f64 / seconds;
        if self.started {
            let alpha = 1.0 - (-seconds / window.as_secs_f64()).exp();
            self.rate += alpha * (instant - self.rate);
        } else {
            self.rate = instant;
            self.started = true;
        }
    }

    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Rates of disjoint events add up.
    pub(crate) fn absorb(&mut self, other: &Self) {
        self.rate += other.rate;
        self.started |= other.started;
    }
}

/// The three windows together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    pub m1: Ewma,
    pub m5: Ewma,
    pub m15: Ewma,
}

impl Rates {
    pub fn tick(&mut self, events: u64, elapsed: Duration) {
        self.m1.tick(events, elapsed, Duration::from_secs(60));
        self.m5.tick(events, elapsed, Duration::from_secs(300));
        self.m15.tick(events, elapsed, Duration::from_secs(900));
    }

    pub(crate) fn absorb(&mut self, other: &Self) {
        self.m1.absorb(&other.m1);
        self.m5.absorb(&other.m5);
        self.m15.absorb(&other.m15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three events in the first five seconds, then silence: the vectors published with the UNIX load average algorithm.
    #[test]
    fn decays_like_the_load_average() {
        check(60, &[0.6, 0.22072766470286553, 0.08120116994196772, 0.029872241020718428]);
        check(300, &[0.6, 0.49123845184678905, 0.4021920276213837, 0.32928698165641596]);
        check(900, &[0.6, 0.5613041910189706, 0.5251039914257684, 0.4912384518467888]);
    }

    #[test]
    fn late_tick_decays_by_the_time_it_took() {
        let (mut exact, mut late) = (Ewma::default(), Ewma::default());
        let window = Duration::from_secs(60);
        exact.tick(50, TICK, window);
        late.tick(50, TICK, window);
        exact.tick(0, TICK, window);
        exact.tick(0, TICK, window);
        late.tick(0, TICK * 2, window);
        assert!((exact.rate() - late.rate()).abs() < 1e-12);
    }

    /// `expected`: the rate right after the first tick and after each further minute.
    fn check(window_seconds: u64, expected: &[f64]) {
        let mut ewma = Ewma::default();
        let window = Duration::from_secs(window_seconds);
        ewma.tick(3, TICK, window);
        for (minute, &want) in expected.iter().enumerate() {
            if minute > 0 {
                (0..12).for_each(|_| ewma.tick(0, TICK, window));
            }
            assert!(
                (ewma.rate() - want).abs() < 1e-9,
                "{window_seconds} s window, minute {minute}: {} != {want}",
                ewma.rate()
            );
        }
    }
}
