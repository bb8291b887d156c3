//! The limit of one server, found by what its requests take: pure, fed once per window.
//!
//! What a request takes beyond what it takes when nobody is in its way, it waits for others. So the limit is held where little is
//! waited: it follows `limit × unloaded ÷ taken + √limit` (a gradient as in Vegas: the server keeps about √limit requests of reserve in
//! its queue), grows by half while nothing is waited at all, and stands still while it is not used.
//!
//! `unloaded` is the least mean of a window lately. It is kept true without stopping traffic by three means: while few requests are under
//! way it follows what they take; now and then, when it is getting old, the limit draws a breath, a tenth below what the server carries,
//! so that a standing queue drains while hardly anything is lost, and a deeper one for as long as not one answer less comes of it; and when fewer requests under way bring proportionally fewer answers, no
//! queue is there to be drained (the server itself has become slower), so that it drifts up to what requests take now.

use std::collections::VecDeque;
use std::time::Duration;

/// Shortest window. Longer where requests take long: twice what they take unloaded, up to [`WINDOW_MOST`].
pub const WINDOW_LEAST: Duration = Duration::from_millis(100);

pub const WINDOW_MOST: Duration = Duration::from_secs(1);

/// Requests a window must have seen to say anything; it goes on until then.
pub const SAMPLES_LEAST: u64 = 8;

/// How long the least mean of a window counts.
const MEMORY: Duration = Duration::from_secs(10);

/// Time without news of `unloaded` after which a breath is drawn.
const BREATH_AFTER: Duration = Duration::from_secs(4);

/// Windows of a breath: in the first the queue drains.
const BREATH: u32 = 2;

/// Share of what the server carries that is under way during a breath.
const BREATH_SHARE: f64 = 0.9;

/// Share of the breath before that is under way in a deeper one.
const DEEPER: f64 = 0.75;

/// As long as so many answers come as before a breath, there is still a queue.
const UNDIMINISHED: f64 = 0.96;

/// Windows that are looked at together for whether answers follow what is under way.
const LOOKED_AT: usize = 8;

/// By how much a request may take longer than `unloaded` while the limit grows by half.
const GROWS_BELOW: f64 = 1.25;

/// The share of a window's answers that says "too much" (429, 503) from which on it is heard.
const PUSHED_BACK: f64 = 0.1;

/// A sample counts at most as so many times `unloaded`: one that hangs does not say what others wait.
pub const CLIPPED: f64 = 16.0;

/// What a window has seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Window {
    pub length: Duration,
    /// Requests that ended in it.
    pub finished: u64,
    /// What they took in the mean, in seconds.
    pub taken: f64,
    /// How many others were under way, in the mean, when they began, themselves included.
    pub under_way: f64,
    /// Answers that said "too much".
    pub pushed_back: u64,
    /// A request found the limit reached.
    pub pressed: bool,
}

/// See the module doc. Times are counted from any beginning.
#[derive(Debug, Clone)]
pub struct Law {
    least: f64,
    most: f64,
    limit: f64,
    /// Least means lately: when, and how much, in seconds; rising from front to back.
    minima: VecDeque<(Duration, f64)>,
    /// Nothing has been waited so far.
    growing: bool,
    /// Logarithms of what was under way and of answers per second, of the last windows.
    seen: VecDeque<(f64, f64)>,
    /// When `unloaded` was last confirmed.
    confirmed: Duration,
    /// Windows of the present breath still to come.
    breath: u32,
    /// What is under way during it.
    inhaled: f64,
    /// Answers per second before it.
    rate: f64,
}

impl Law {
    /// `least` ≤ `first` ≤ `most`, all 1 or more.
    pub fn new(least: u32, first: u32, most: u32) -> Law {
        Law {
            least: f64::from(least),
            most: f64::from(most),
            limit: f64::from(first),
            minima: VecDeque::new(),
            growing: true,
            seen: VecDeque::new(),
            confirmed: Duration::ZERO,
            breath: 0,
            inhaled: 0.0,
            rate: 0.0,
        }
    }

    /// Requests that may be under way now.
    pub fn limit(&self) -> u32 {
        let limit = if self.breath > 0 { self.inhaled } else { self.limit };
        limit.clamp(self.least, self.most).round() as u32
    }

    /// What a request takes when nobody is in its way, in seconds, as far as it is known.
    pub fn unloaded(&self) -> Option<f64> {
        self.minima.front().map(|(_, taken)| *taken)
    }

    /// How long the next window should be.
    pub fn window(&self) -> Duration {
        let twice = self.unloaded().map_or(WINDOW_LEAST, |taken| Duration::from_secs_f64((2.0 * taken).min(1.0)));
        twice.clamp(WINDOW_LEAST, WINDOW_MOST)
    }

    /// Takes note of a window that ended `now`.
    pub fn close(&mut self, now: Duration, window: &Window) {
        if window.finished == 0 || window.length.is_zero() {
            return;
        }
        let taken = window.taken.max(1e-6);
        let rate = window.finished as f64 / window.length.as_secs_f64();
        let under_way = window.under_way.max(1.0);
        let quiet = !window.pressed && under_way < self.limit / 2.0;
        self.remember(now, taken, quiet, window.finished);
        self.note(under_way, rate);
        if self.breath > 0 {
            self.exhale(now, taken, rate);
            return;
        }
        let follows = self.answers_follow();
        let mut unloaded = self.unloaded().unwrap_or(taken);
        if follows && taken > unloaded * 1.1 && !quiet {
            unloaded += (taken - unloaded) * 0.25;
            self.forget_below(now, unloaded);
        }
        if window.pushed_back as f64 > window.finished as f64 * PUSHED_BACK {
            self.growing = false;
            self.limit = (self.limit * 0.9).max(self.least);
            return;
        }
        let waits = taken > unloaded * GROWS_BELOW;
        if waits && !follows {
            self.growing = false;
        }
        if quiet {
            return;
        }
        let wanted = match self.growing && !waits {
            true => self.limit * 1.5,
            false => self.limit * (unloaded / taken).clamp(0.5, 1.0) + self.limit.sqrt(),
        };
        let next = self.limit + (wanted - self.limit) / 2.0;
        // What is not used says nothing of how much more would go.
        let next = if window.pressed { next } else { next.min(self.limit) };
        self.limit = next.max(self.limit * 0.8).clamp(self.least, self.most);
        if window.pressed && now.saturating_sub(self.confirmed) >= BREATH_AFTER {
            (self.breath, self.rate) = (BREATH, rate);
            // What is carried: as many as there are answers in the time that one takes unloaded.
            self.inhaled = ((rate * unloaded).min(self.limit) * BREATH_SHARE).floor().max(self.least);
        }
    }

    /// The least mean lately. What was seen while little was under way is believed at once, in both directions.
    fn remember(&mut self, now: Duration, taken: f64, quiet: bool, finished: u64) {
        let known = self.unloaded();
        if quiet && let Some(known) = known {
            let weight = 0.3 * finished as f64 / (finished as f64 + 16.0);
            let moved = known + (taken - known) * weight;
            self.minima.clear();
            self.minima.push_back((now, moved));
            self.confirmed = now;
            return;
        }
        // The mean of a few varies by chance, and the least of many such means would lie too low.
        let trusted = match known {
            Some(known) if taken < known => known + (taken - known) * (finished as f64 / (finished as f64 + 16.0)),
            _ => taken,
        };
        if known.is_none_or(|known| trusted <= known * 1.02) {
            self.confirmed = now;
        }
        while self.minima.back().is_some_and(|(_, least)| *least >= trusted) {
            self.minima.pop_back();
        }
        self.minima.push_back((now, trusted));
        while self.minima.len() > 1 && self.minima.front().is_some_and(|(at, _)| now.saturating_sub(*at) > MEMORY) {
            self.minima.pop_front();
        }
    }

    /// The server has become slower: what was known before holds no longer.
    fn forget_below(&mut self, now: Duration, unloaded: f64) {
        self.minima.clear();
        self.minima.push_back((now, unloaded));
        self.confirmed = now;
        self.growing = true;
    }

    fn note(&mut self, under_way: f64, rate: f64) {
        let point = (under_way.ln(), rate.ln());
        // Answers that become more or fewer while as much is under way: another server, as it were.
        let jumped = |(n, x): &(f64, f64)| (x - point.1).abs() > 0.3 && (n - point.0).abs() < 0.1;
        if self.seen.back().is_some_and(jumped) {
            self.seen.clear();
        }
        if self.seen.len() == LOOKED_AT {
            self.seen.pop_front();
        }
        self.seen.push_back(point);
    }

    /// Whether answers become more and fewer with what is under way, which they do not where a queue is: the slope of one logarithm
    /// over the other.
    fn answers_follow(&self) -> bool {
        let count = self.seen.len() as f64;
        if self.seen.len() < 2 {
            return false;
        }
        let mean = |of: fn(&(f64, f64)) -> f64| self.seen.iter().map(of).sum::<f64>() / count;
        let (n, x) = (mean(|p| p.0), mean(|p| p.1));
        let variance = self.seen.iter().map(|p| (p.0 - n).powi(2)).sum::<f64>() / count;
        let common = self.seen.iter().map(|p| (p.0 - n) * (p.1 - x)).sum::<f64>() / count;
        variance > 0.05f64.powi(2) && common / variance > 0.6
    }

    fn exhale(&mut self, now: Duration, taken: f64, rate: f64) {
        self.breath -= 1;
        if self.breath > 0 {
            return;
        }
        // With no queue in the way this is what a request takes, more than before or less.
        self.minima.clear();
        self.minima.push_back((now, taken));
        self.confirmed = now;
        self.seen.clear();
        if rate >= self.rate * UNDIMINISHED && self.inhaled > self.least {
            self.inhaled = (self.inhaled * DEEPER).floor().max(self.least);
            self.breath = BREATH;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(taken: f64, under_way: f64, finished: u64, pressed: bool) -> Window {
        Window { length: WINDOW_LEAST, finished, taken, under_way, pushed_back: 0, pressed }
    }

    #[test]
    fn a_limit_that_is_not_used_stands_still() {
        let mut law = Law::new(2, 20, 1000);
        for at in 1..100 {
            law.close(WINDOW_LEAST * at, &window(0.010, 3.0, 30, false));
        }
        assert_eq!(law.limit(), 20);
        assert!((law.unloaded().unwrap() - 0.010).abs() < 1e-6);
    }

    #[test]
    fn it_stays_within_its_bounds() {
        let mut law = Law::new(4, 8, 64);
        for at in 1..50 {
            law.close(WINDOW_LEAST * at, &window(0.010, f64::from(law.limit()), 100, true));
            assert!(law.limit() <= 64);
        }
        assert!(law.limit() > 50, "{}", law.limit());
        for at in 50..200 {
            law.close(WINDOW_LEAST * at, &Window { pushed_back: 50, ..window(0.010, 10.0, 100, true) });
            assert!(law.limit() >= 4);
        }
        assert_eq!(law.limit(), 4, "a server that says 503 is believed");
    }

    #[test]
    fn an_empty_window_says_nothing() {
        let mut law = Law::new(1, 7, 9);
        law.close(Duration::from_secs(1), &Window::default());
        assert_eq!((law.limit(), law.unloaded()), (7, None));
    }
}
