//! A circuit breaker: stops asking servers that fail too often, for a while.
//!
//! ```text
//!            too many failures, or too many slow calls
//!   Closed ───────────────────────────────────────────→ Open ←──────────────┐
//!     ↑                                                   │ waited          │ still too many,
//!     │              enough calls went well               ↓                 │ or half-open for too long
//!     └────────────────────────────────────────────── HalfOpen ─────────────┘
//! ```
//! Pure: the time is an argument. A call that began under an older state is not counted.

use base_model::{CircuitBreakerSpec, SlidingWindowType};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// See the module doc. Shared by all workers.
#[derive(Debug)]
pub struct CircuitBreaker {
    spec: CircuitBreakerSpec,
    state: Mutex<State>,
}

/// A call that was let through; give it back with [`CircuitBreaker::finish`].
#[derive(Debug, Clone, Copy)]
pub struct Permit {
    epoch: u64,
    began: Instant,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Grows with every change of phase.
    epoch: u64,
    since: Instant,
    /// Calls let through in this half-open phase.
    admitted: u32,
    window: Window,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Open,
    HalfOpen,
}

/// How a call went; one that failed slowly has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Well,
    Slow,
    Failed,
}

/// Sums over the last calls, or over the buckets of the last seconds.
#[derive(Debug, Default)]
struct Window {
    buckets: VecDeque<Bucket>,
    total: u32,
    slow: u32,
    failed: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// Seconds since the state began; 0 in windows of calls, whose buckets hold one call each.
    second: u64,
    total: u32,
    slow: u32,
    failed: u32,
}

impl CircuitBreaker {
    pub fn new(spec: CircuitBreakerSpec, now: Instant) -> CircuitBreaker {
        let state = State { phase: Phase::Closed, epoch: 0, since: now, admitted: 0, window: Window::default() };
        CircuitBreaker { spec, state: Mutex::new(state) }
    }

    /// The policy it was made from, to see whether a new generation may go on with it.
    pub fn spec(&self) -> &CircuitBreakerSpec {
        &self.spec
    }

    /// Lets a call through, or refuses it.
    pub fn admit(&self, now: Instant) -> Option<Permit> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = now.saturating_duration_since(state.since);
        if state.phase == Phase::Open && waited >= Duration::from(self.spec.wait_duration_in_open_state) {
            state.enter(Phase::HalfOpen, now);
        }
        let longest = Duration::from(self.spec.max_wait_duration_in_half_open_state);
        if state.phase == Phase::HalfOpen && !longest.is_zero() && waited >= longest && state.since != now {
            state.enter(Phase::Open, now);
        }
        match state.phase {
            Phase::Closed => {}
            Phase::Open => return None,
            Phase::HalfOpen if state.admitted >= self.spec.permitted_number_of_calls_in_half_open_state => return None,
            Phase::HalfOpen => state.admitted += 1,
        }
        Some(Permit { epoch: state.epoch, began: now })
    }

    /// Tells how a call went.
    pub fn finish(&self, permit: Permit, failed: bool, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.epoch != permit.epoch {
            return;
        }
        let slow_from = Duration::from(self.spec.slow_call_duration_threshold);
        let verdict = match now.saturating_duration_since(permit.began) {
            _ if failed => Verdict::Failed,
            took if took >= slow_from => Verdict::Slow,
            _ => Verdict::Well,
        };
        let second = now.saturating_duration_since(state.since).as_secs();
        let half_open = state.phase == Phase::HalfOpen;
        let (kind, size) = match half_open {
            // The few calls of a half-open phase are looked at together, whatever the window.
            true => (SlidingWindowType::CountBased, u32::MAX),
            false => (self.spec.sliding_window_type, self.spec.sliding_window_size),
        };
        state.window.add(verdict, kind, size, second);
        let permitted = self.spec.permitted_number_of_calls_in_half_open_state;
        let enough = match half_open {
            true => self.spec.minimum_number_of_calls.min(permitted),
            false => self.spec.minimum_number_of_calls,
        };
        if state.window.total < enough {
            return;
        }
        let per_cent = |n: u32| u64::from(n) * 100 / u64::from(state.window.total);
        let bad = per_cent(state.window.failed) >= u64::from(self.spec.failure_rate_threshold)
            || per_cent(state.window.slow) >= u64::from(self.spec.slow_call_rate_threshold);
        match (bad, half_open) {
            (true, _) => state.enter(Phase::Open, now),
            (false, true) => state.enter(Phase::Closed, now),
            (false, false) => {}
        }
    }

    /// A call that was given up before it ended: it counts neither way, and its place is free again.
    pub fn abandon(&self, permit: Permit) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.epoch == permit.epoch && state.phase == Phase::HalfOpen {
            state.admitted = state.admitted.saturating_sub(1);
        }
    }

    /// `closed`, `open` or `halfOpen`.
    pub fn phase(&self) -> &'static str {
        match self.state.lock().unwrap_or_else(PoisonError::into_inner).phase {
            Phase::Closed => "closed",
            Phase::Open => "open",
            Phase::HalfOpen => "halfOpen",
        }
    }
}

impl State {
    fn enter(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.epoch += 1;
        self.since = now;
        self.admitted = 0;
        self.window = Window::default();
    }
}

impl Window {
    fn add(&mut self, verdict: Verdict, kind: SlidingWindowType, size: u32, second: u64) {
        let one = Bucket {
            second: if kind == SlidingWindowType::TimeBased { second } else { 0 },
            total: 1,
            slow: u32::from(verdict == Verdict::Slow),
            failed: u32::from(verdict == Verdict::Failed),
        };
        self.total += 1;
        self.slow += one.slow;
        self.failed += one.failed;
        match kind {
            SlidingWindowType::CountBased => {
                self.buckets.push_back(one);
                while self.buckets.len() > size as usize {
                    self.forget_oldest();
                }
            }
            SlidingWindowType::TimeBased => {
                match self.buckets.back_mut().filter(|b| b.second == second) {
                    Some(bucket) => {
                        bucket.total += 1;
                        bucket.slow += one.slow;
                        bucket.failed += one.failed;
                    }
                    None => self.buckets.push_back(one),
                }
                while self.buckets.front().is_some_and(|b| b.second + u64::from(size) <= second) {
                    self.forget_oldest();
                }
            }
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.buckets.pop_front() {
            self.total -= oldest.total;
            self.slow -= oldest.slow;
            self.failed -= oldest.failed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_model::GoDuration;

    fn spec(kind: SlidingWindowType) -> CircuitBreakerSpec {
        CircuitBreakerSpec {
            sliding_window_type: kind,
            sliding_window_size: 4,
            minimum_number_of_calls: 4,
            slow_call_duration_threshold: GoDuration::from_secs(2),
            slow_call_rate_threshold: 50,
            permitted_number_of_calls_in_half_open_state: 2,
            wait_duration_in_open_state: GoDuration::from_secs(10),
            ..CircuitBreakerSpec::default()
        }
    }

    /// Plays calls: at which second, whether it fails, how long it takes; says which were let through.
    fn play(breaker: &CircuitBreaker, start: Instant, calls: &[(u64, bool, u64)]) -> Vec<bool> {
        calls
            .iter()
            .map(|(at, failed, took)| {
                let began = start + Duration::from_secs(*at);
                let permit = breaker.admit(began);
                if let Some(permit) = permit {
                    breaker.finish(permit, *failed, began + Duration::from_secs(*took));
                }
                permit.is_some()
            })
            .collect()
    }

    #[test]
    fn opens_at_the_threshold_and_closes_when_calls_go_well() {
        let start = Instant::now();
        let breaker = CircuitBreaker::new(spec(SlidingWindowType::CountBased), start);
        let calls = [
            (0, true, 0),
            (0, false, 0),
            (0, false, 0),
            (0, true, 0),
            (1, false, 0),
            (11, false, 0),
            (11, false, 0),
            (12, false, 0),
        ];
        assert_eq!(play(&breaker, start, &calls), [true, true, true, true, false, true, true, true]);
        assert_eq!(breaker.phase(), "closed");
    }

    #[test]
    fn half_open_lets_a_few_through_and_opens_again() {
        let start = Instant::now();
        let breaker = CircuitBreaker::new(spec(SlidingWindowType::CountBased), start);
        play(&breaker, start, &[(0, true, 0); 4]);
        let at = start + Duration::from_secs(10);
        let (one, two) = (breaker.admit(at).unwrap(), breaker.admit(at).unwrap());
        assert!(breaker.admit(at).is_none(), "a third call while half open");
        breaker.finish(one, true, at);
        breaker.finish(two, false, at);
        assert_eq!(breaker.phase(), "open");
        assert!(breaker.admit(at + Duration::from_secs(9)).is_none());
    }

    #[test]
    fn slow_calls_open_it_too() {
        let start = Instant::now();
        let breaker = CircuitBreaker::new(spec(SlidingWindowType::CountBased), start);
        play(&breaker, start, &[(0, false, 3), (0, false, 0), (0, false, 2), (0, false, 0)]);
        assert_eq!(breaker.phase(), "open");
    }

    #[test]
    fn seconds_beyond_the_window_are_forgotten() {
        let start = Instant::now();
        let breaker = CircuitBreaker::new(spec(SlidingWindowType::TimeBased), start);
        play(&breaker, start, &[(0, true, 0), (0, true, 0), (0, true, 0), (5, false, 0), (6, false, 0), (7, false, 0)]);
        assert_eq!(breaker.phase(), "closed");
        play(&breaker, start, &[(7, true, 0), (7, true, 0), (8, true, 0)]);
        assert_eq!(breaker.phase(), "open");
    }

    #[test]
    fn calls_of_an_older_state_do_not_count() {
        let start = Instant::now();
        let breaker = CircuitBreaker::new(spec(SlidingWindowType::CountBased), start);
        let late = breaker.admit(start).unwrap();
        play(&breaker, start, &[(0, true, 0); 4]);
        play(&breaker, start, &[(10, false, 0), (10, false, 0)]);
        assert_eq!(breaker.phase(), "closed");
        breaker.finish(late, true, start + Duration::from_secs(11));
        assert_eq!(breaker.state.lock().unwrap().window.total, 0);
    }

    #[test]
    fn an_abandoned_call_gives_its_place_back() {
        let start = Instant::now();
        let breaker = CircuitBreaker::new(spec(SlidingWindowType::CountBased), start);
        play(&breaker, start, &[(0, true, 0); 4]);
        let at = start + Duration::from_secs(10);
        let one = breaker.admit(at).unwrap();
        let _two = breaker.admit(at).unwrap();
        assert!(breaker.admit(at).is_none());
        breaker.abandon(one);
        assert!(breaker.admit(at).is_some());
    }

    #[test]
    fn half_open_for_too_long_opens() {
        let start = Instant::now();
        let limited = CircuitBreakerSpec {
            max_wait_duration_in_half_open_state: GoDuration::from_secs(5),
            ..spec(SlidingWindowType::CountBased)
        };
        let breaker = CircuitBreaker::new(limited, start);
        play(&breaker, start, &[(0, true, 0); 4]);
        assert!(breaker.admit(start + Duration::from_secs(10)).is_some());
        assert!(breaker.admit(start + Duration::from_secs(16)).is_none());
        assert_eq!(breaker.phase(), "open");
    }
}
