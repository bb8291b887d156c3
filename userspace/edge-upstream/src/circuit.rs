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
//!
//! While it is closed, no call waits for another one: workers write to the same window, but none holds it. Each call takes the place of
//! the oldest in a window of calls, so that a window holds the last ones exactly, whichever worker made them. Only what changes the
//! state, what is half open, and the first call of a second in a window of seconds take a lock.

use base_model::{CircuitBreakerSpec, SlidingWindowType};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Calls or seconds a window holds at most, as the document's schema says; a call takes one byte, a second 24.
const WINDOW_MOST: u32 = 1_000_000;

/// See the module doc. Shared by all workers.
#[derive(Debug)]
pub struct CircuitBreaker {
    spec: CircuitBreakerSpec,
    /// The epoch, and in the lowest two bits the phase; written with `state` held.
    stand: AtomicU64,
    /// Calls of the closed phase.
    window: Window,
    /// What seconds are counted from.
    origin: Instant,
    state: Mutex<State>,
}

/// A call that was let through; give it back with [`CircuitBreaker::finish`].
#[derive(Debug, Clone, Copy)]
pub struct Permit {
    stand: u64,
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
    /// How those of them that have ended went.
    trial: Sums,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Open,
    HalfOpen,
}

impl Phase {
    fn of(stand: u64) -> Phase {
        match stand & 3 {
            0 => Phase::Closed,
            1 => Phase::Open,
            _ => Phase::HalfOpen,
        }
    }
}

/// How a call went; one that failed slowly has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Well = 1,
    Slow = 2,
    Failed = 3,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Sums {
    total: u64,
    slow: u64,
    failed: u64,
}

impl Sums {
    fn of(verdict: Verdict) -> Sums {
        let slow = u64::from(verdict == Verdict::Slow);
        Sums { total: 1, slow, failed: u64::from(verdict == Verdict::Failed) }
    }

    /// At least `enough` calls, and too many of them bad.
    fn are_bad(self, enough: u64, spec: &CircuitBreakerSpec) -> bool {
        let too_many = |n: u64, per_cent: u8| n * 100 / self.total >= u64::from(per_cent);
        self.are_settled()
            && self.total >= enough.max(1)
            && (too_many(self.failed, spec.failure_rate_threshold)
                || too_many(self.slow, spec.slow_call_rate_threshold))
    }

    /// A part of a whole is no more than it, nor is the whole a number below zero. Another worker is about to make it so if not, and
    /// looks at the sums then.
    fn are_settled(self) -> bool {
        self.failed <= self.total && self.slow <= self.total && self.total <= u64::MAX / 200
    }
}

/// Calls that are counted together. Taking a place in it and changing the sums are two steps: in between other workers see sums as they
/// were, never for long, and nothing is lost or counted twice, whatever comes between them.
#[derive(Debug)]
enum Window {
    Calls(Calls),
    Seconds(Seconds),
}

/// The last calls.
#[derive(Debug)]
struct Calls {
    /// Verdicts as numbers, 0 where there was no call so far.
    places: Box<[AtomicU8]>,
    /// Calls so far; the next one takes the place of this number.
    next: AtomicU64,
    /// Sums over `places`: total, slow and failed, of [`Calls::BITS`] each, so that a call changes all at once.
    sums: AtomicU64,
}

/// The calls of the last seconds.
#[derive(Debug)]
struct Seconds {
    /// Seconds since the phase began, one place each, again and again.
    places: Box<[Shared]>,
    sums: Shared,
    /// The second that was begun last.
    newest: AtomicU64,
    beginning: Mutex<()>,
}

/// Sums several workers add to.
#[derive(Debug, Default)]
struct Shared {
    total: AtomicU64,
    slow: AtomicU64,
    failed: AtomicU64,
}

impl CircuitBreaker {
    pub fn new(spec: CircuitBreakerSpec, now: Instant) -> CircuitBreaker {
        let size = spec.sliding_window_size.clamp(1, WINDOW_MOST) as usize;
        let window = match spec.sliding_window_type {
            SlidingWindowType::CountBased => Window::Calls(Calls::new(size)),
            SlidingWindowType::TimeBased => Window::Seconds(Seconds::new(size)),
        };
        let state = State { phase: Phase::Closed, epoch: 0, since: now, admitted: 0, trial: Sums::default() };
        CircuitBreaker { spec, stand: AtomicU64::new(0), window, origin: now, state: Mutex::new(state) }
    }

    /// The policy it was made from, to see whether a new generation may go on with it.
    pub fn spec(&self) -> &CircuitBreakerSpec {
        &self.spec
    }

    /// Lets a call through, or refuses it.
    #[inline]
    pub fn admit(&self, now: Instant) -> Option<Permit> {
        let stand = self.stand.load(Acquire);
        match Phase::of(stand) {
            Phase::Closed => Some(Permit { stand, began: now }),
            Phase::Open | Phase::HalfOpen => self.admit_some(now),
        }
    }

    #[cold]
    fn admit_some(&self, now: Instant) -> Option<Permit> {
        let mut state = self.state();
        let waited = now.saturating_duration_since(state.since);
        if state.phase == Phase::Open && waited >= Duration::from(self.spec.wait_duration_in_open_state) {
            self.enter(&mut state, Phase::HalfOpen, now);
        }
        let longest = Duration::from(self.spec.max_wait_duration_in_half_open_state);
        if state.phase == Phase::HalfOpen && !longest.is_zero() && waited >= longest && state.since != now {
            self.enter(&mut state, Phase::Open, now);
        }
        match state.phase {
            Phase::Closed => {}
            Phase::Open => return None,
            Phase::HalfOpen if state.admitted >= self.spec.permitted_number_of_calls_in_half_open_state => return None,
            Phase::HalfOpen => state.admitted += 1,
        }
        Some(Permit { stand: state.stand(), began: now })
    }

    /// Tells how a call went.
    pub fn finish(&self, permit: Permit, failed: bool, now: Instant) {
        let stand = self.stand.load(Acquire);
        if stand != permit.stand {
            return;
        }
        let slow_from = Duration::from(self.spec.slow_call_duration_threshold);
        let verdict = match now.saturating_duration_since(permit.began) {
            _ if failed => Verdict::Failed,
            took if took >= slow_from => Verdict::Slow,
            _ => Verdict::Well,
        };
        match Phase::of(stand) {
            Phase::Closed => self.finish_closed(permit, verdict, now),
            Phase::Open | Phase::HalfOpen => self.finish_trial(permit, verdict, now),
        }
    }

    fn finish_closed(&self, permit: Permit, verdict: Verdict, now: Instant) {
        let enough = u64::from(self.spec.minimum_number_of_calls);
        let sums = match &self.window {
            Window::Calls(calls) => calls.add(verdict),
            Window::Seconds(seconds) => seconds.add(verdict, now.saturating_duration_since(self.origin).as_secs()),
        };
        if sums.are_bad(enough, &self.spec) {
            let mut state = self.state();
            if state.stand() == permit.stand && self.window.settled().are_bad(enough, &self.spec) {
                self.enter(&mut state, Phase::Open, now);
            }
        }
    }

    #[cold]
    fn finish_trial(&self, permit: Permit, verdict: Verdict, now: Instant) {
        let mut state = self.state();
        if state.stand() != permit.stand {
            return;
        }
        let one = Sums::of(verdict);
        state.trial.total += one.total;
        state.trial.slow += one.slow;
        state.trial.failed += one.failed;
        let permitted = self.spec.permitted_number_of_calls_in_half_open_state;
        let enough = u64::from(self.spec.minimum_number_of_calls.min(permitted));
        if state.trial.are_bad(enough, &self.spec) {
            self.enter(&mut state, Phase::Open, now);
        } else if state.trial.total >= enough {
            self.enter(&mut state, Phase::Closed, now);
        }
    }

    /// A call that was given up before it ended: it counts neither way, and its place is free again.
    pub fn abandon(&self, permit: Permit) {
        if Phase::of(permit.stand) != Phase::HalfOpen {
            return;
        }
        let mut state = self.state();
        if state.stand() == permit.stand {
            state.admitted = state.admitted.saturating_sub(1);
        }
    }

    /// `closed`, `open` or `halfOpen`.
    pub fn phase(&self) -> &'static str {
        match Phase::of(self.stand.load(Acquire)) {
            Phase::Closed => "closed",
            Phase::Open => "open",
            Phase::HalfOpen => "halfOpen",
        }
    }

    fn enter(&self, state: &mut State, phase: Phase, now: Instant) {
        *state = State { phase, epoch: state.epoch + 1, since: now, admitted: 0, trial: Sums::default() };
        if phase == Phase::Closed {
            self.window.clear();
        }
        self.stand.store(state.stand(), Release);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn stand(&self) -> u64 {
        self.epoch << 2 | self.phase as u64
    }
}

impl Window {
    fn clear(&self) {
        match self {
            Window::Calls(calls) => calls.places.iter().for_each(|place| {
                calls.change(place.swap(0, Relaxed), 0);
            }),
            Window::Seconds(seconds) => {
                let _beginning = seconds.beginning();
                seconds.places.iter().for_each(|place| seconds.sums.subtract(place.take()));
            }
        }
    }

    /// The sums while nothing is taken out of a window of seconds.
    fn settled(&self) -> Sums {
        match self {
            Window::Calls(calls) => calls.sums(),
            Window::Seconds(seconds) => {
                let _beginning = seconds.beginning();
                seconds.sums.read()
            }
        }
    }
}

impl Calls {
    /// Of each sum; the document allows windows of a million calls.
    const BITS: u32 = 21;

    fn new(size: usize) -> Calls {
        let places = (0..size).map(|_| AtomicU8::new(0)).collect();
        Calls { places, next: AtomicU64::new(0), sums: AtomicU64::new(0) }
    }

    /// Puts a call in the place of the oldest.
    fn add(&self, verdict: Verdict) -> Sums {
        let place = self.next.fetch_add(1, Relaxed) % self.places.len() as u64;
        let oldest = self.places[place as usize].swap(verdict as u8, Relaxed);
        self.change(oldest, verdict as u8)
    }

    fn change(&self, from: u8, to: u8) -> Sums {
        // Sums that lie side by side in one number: a difference of such numbers changes each by its own.
        let packed = |verdict: u8| match verdict {
            0 => 0,
            verdict => {
                let of = |wanted: Verdict| u64::from(verdict == wanted as u8);
                1 | of(Verdict::Slow) << Self::BITS | of(Verdict::Failed) << (2 * Self::BITS)
            }
        };
        let difference = packed(to).wrapping_sub(packed(from));
        Self::unpacked(self.sums.fetch_add(difference, Relaxed).wrapping_add(difference))
    }

    fn sums(&self) -> Sums {
        Self::unpacked(self.sums.load(Relaxed))
    }

    fn unpacked(sums: u64) -> Sums {
        let mask = (1 << Self::BITS) - 1;
        Sums { total: sums & mask, slow: sums >> Self::BITS & mask, failed: sums >> (2 * Self::BITS) }
    }
}

impl Seconds {
    fn new(size: usize) -> Seconds {
        let places = (0..size).map(|_| Shared::default()).collect();
        Seconds { places, sums: Shared::default(), newest: AtomicU64::new(0), beginning: Mutex::new(()) }
    }

    fn add(&self, verdict: Verdict, second: u64) -> Sums {
        let newest = self.newest.load(Acquire);
        if newest < second {
            self.begin(second);
        }
        let size = self.places.len() as u64;
        // The clocks of two workers may be a turn apart: in a window of one second that is too late.
        if second + size <= newest {
            return self.sums.read();
        }
        let one = Sums::of(verdict);
        self.places[(second % size) as usize].add(one);
        self.sums.add(one);
        self.sums.read()
    }

    /// Takes the seconds out whose places are needed again.
    #[cold]
    fn begin(&self, second: u64) {
        let _beginning = self.beginning();
        let (newest, size) = (self.newest.load(Relaxed), self.places.len() as u64);
        let first = (newest + 1).max((second + 1).saturating_sub(size));
        for past in first..=second {
            self.sums.subtract(self.places[(past % size) as usize].take());
        }
        self.newest.fetch_max(second, Release);
    }

    fn beginning(&self) -> MutexGuard<'_, ()> {
        self.beginning.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The total is raised first and read last: who reads meanwhile finds too few that were bad rather than too many.
impl Shared {
    fn add(&self, one: Sums) {
        self.total.fetch_add(one.total, Relaxed);
        if one.slow > 0 {
            self.slow.fetch_add(one.slow, Release);
        }
        if one.failed > 0 {
            self.failed.fetch_add(one.failed, Release);
        }
    }

    fn subtract(&self, sums: Sums) {
        self.failed.fetch_sub(sums.failed, Relaxed);
        self.slow.fetch_sub(sums.slow, Relaxed);
        self.total.fetch_sub(sums.total, Release);
    }

    fn take(&self) -> Sums {
        let take = |sum: &AtomicU64| sum.swap(0, Relaxed);
        Sums { failed: take(&self.failed), slow: take(&self.slow), total: take(&self.total) }
    }

    fn read(&self) -> Sums {
        let (failed, slow) = (self.failed.load(Acquire), self.slow.load(Acquire));
        Sums { failed, slow, total: self.total.load(Acquire) }
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
        assert_eq!(breaker.window.settled(), Sums::default());
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

    /// However many workers tell of calls at a time, the window holds the last ones, and none twice.
    #[test]
    fn a_window_that_workers_share_loses_nothing() {
        for (kind, size) in [(SlidingWindowType::CountBased, 50), (SlidingWindowType::TimeBased, 3)] {
            let start = Instant::now();
            let never =
                CircuitBreakerSpec { sliding_window_size: size, minimum_number_of_calls: u32::MAX, ..spec(kind) };
            let breaker = CircuitBreaker::new(never, start);
            std::thread::scope(|scope| {
                for worker in 0..4u64 {
                    let breaker = &breaker;
                    scope.spawn(move || {
                        for call in 0..20_000u64 {
                            let at = start + Duration::from_millis(call / 2);
                            let permit = breaker.admit(at).unwrap();
                            breaker.finish(permit, (call + worker) % 3 == 0, at);
                        }
                    });
                }
            });
            let sums = breaker.window.settled();
            assert!(sums.are_settled() && sums.failed > 0, "{kind:?}: {sums:?}");
            // Fifty calls; or those of the last three seconds, 2,000 of each worker in each: of all workers, if they kept pace, and of
            // each perhaps one that passed the turn of the window.
            let most = if kind == SlidingWindowType::CountBased { 50..=50 } else { 6_000..=4 * 6_000 + 4 };
            assert!(most.contains(&sums.total), "{kind:?}: {sums:?}");
            play(&breaker, start, &[(1_000, false, 0); 50]);
            let after = Sums { total: 50, slow: 0, failed: 0 };
            assert_eq!(breaker.window.settled(), after, "{kind:?}: only what came last");
            breaker.window.clear();
            assert_eq!(breaker.window.settled(), Sums::default());
        }
    }

    #[test]
    fn a_call_that_goes_on_while_the_window_is_cleared_leaves_nothing_behind() {
        let calls = Calls::new(2);
        calls.add(Verdict::Failed);
        calls.add(Verdict::Failed);
        // Another worker has taken a place, and has yet to change the sums.
        let oldest = calls.places[0].swap(Verdict::Well as u8, Relaxed);
        let window = Window::Calls(calls);
        window.clear();
        let Window::Calls(calls) = &window else { unreachable!() };
        calls.change(oldest, Verdict::Well as u8);
        assert_eq!(calls.sums(), Sums::default());
    }
}
