//! Passive ejection: servers that fail the requests they get are left out for a while.
//!
//! What every worker hears of a server is summed up in a few atomics. A server that is out is tried by a single request once its
//! time is over: when that succeeds it is back, else the time doubles. Never are more out than the policy's share, and never all.

use base_model::OutlierDetectionSpec;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Longest time a server is left out.
const LONGEST: Duration = Duration::from_secs(300);

/// How long a request that tries a server has, before another one does.
const PROBE: Duration = Duration::from_secs(10);

/// What became of a request, as far as it tells of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// An answer that is no error.
    Answer,
    /// An answer of 500 or more.
    ErrorAnswer,
    /// Not even a connection.
    Unreachable,
    /// No answer in time, or a broken one.
    NoAnswer,
}

/// What a report changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Ejected,
    Readmitted,
}

/// The servers of one pool.
#[derive(Debug)]
pub struct Outliers {
    spec: OutlierDetectionSpec,
    /// Error answers, time-outs and broken connections count too.
    answers_count: bool,
    servers: Vec<Arc<State>>,
    /// Held while a server is put out, so that no two workers put out one too many.
    ejecting: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// Failures in a row.
    failures: AtomicU32,
    /// Milliseconds (see [`millis`]) until it is tried again; 0: it is in.
    until: AtomicU64,
    /// A request is trying it.
    probing: AtomicBool,
    /// Ejections without a good time between them.
    times: AtomicU32,
    /// When it came back last.
    readmitted: AtomicU64,
}

impl Outliers {
    /// `spec` is what the document asks for, if it does. `inherit` gives the place of the server with this index in `previous`.
    pub fn new(
        spec: Option<&OutlierDetectionSpec>,
        count: usize,
        previous: Option<&Outliers>,
        inherit: impl Fn(usize) -> Option<usize>,
    ) -> Outliers {
        let servers = (0..count)
            .map(|index| {
                let known = previous.and_then(|p| p.servers.get(inherit(index)?));
                known.cloned().unwrap_or_default()
            })
            .collect();
        let answers_count = spec.is_some();
        Outliers { spec: spec.cloned().unwrap_or_default(), answers_count, servers, ejecting: Mutex::default() }
    }

    /// Whether the server may have a request now. Yes for one that is out means: this request tries it.
    #[inline]
    pub fn admits(&self, server: usize, now: Instant) -> bool {
        let state = &self.servers[server];
        let until = state.until.load(Relaxed);
        until == 0 || state.claims_probe(until, millis(now))
    }

    pub fn is_ejected(&self, server: usize) -> bool {
        self.servers[server].until.load(Relaxed) != 0
    }

    /// Takes note of what became of a request.
    #[inline]
    pub fn report(&self, server: usize, heard: Heard, now: Instant) -> Option<Change> {
        let state = &self.servers[server];
        let failed = match heard {
            Heard::Answer => false,
            Heard::ErrorAnswer => self.answers_count,
            Heard::Unreachable => true,
            Heard::NoAnswer if self.answers_count => true,
            // Says nothing about whether it can be connected to.
            Heard::NoAnswer => return None,
        };
        if failed {
            return self.failed(state, now);
        }
        if state.failures.load(Relaxed) != 0 {
            state.failures.store(0, Relaxed);
        }
        if state.until.load(Relaxed) == 0 || !state.probing.swap(false, Relaxed) {
            return None;
        }
        state.readmitted.store(millis(now), Relaxed);
        state.until.store(0, Relaxed);
        Some(Change::Readmitted)
    }

    #[cold]
    fn failed(&self, state: &State, now: Instant) -> Option<Change> {
        let failures = state.failures.fetch_add(1, Relaxed) + 1;
        let _ejecting = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        if state.until.load(Relaxed) != 0 {
            // Out already: only the request that tried it prolongs that.
            if state.probing.swap(false, Relaxed) {
                state.put_out(self.spec.base_ejection_time.into(), now);
            }
            return None;
        }
        let out = self.servers.iter().filter(|s| s.until.load(Relaxed) != 0).count();
        if failures < self.spec.consecutive_errors || out >= self.most() {
            return None;
        }
        // A server that stayed in for longer than it was out begins anew.
        let times = state.times.load(Relaxed);
        let good = millis(now).saturating_sub(state.readmitted.load(Relaxed));
        if times > 0 && Duration::from_millis(good) > growing(self.spec.base_ejection_time.into(), times) {
            state.times.store(0, Relaxed);
        }
        state.put_out(self.spec.base_ejection_time.into(), now);
        Some(Change::Ejected)
    }

    /// Most servers that may be out.
    fn most(&self) -> usize {
        let count = self.servers.len();
        let percent = self.spec.max_ejection_percent.min(100) as usize;
        let share = (count * percent / 100).max(usize::from(percent > 0));
        share.min(count.saturating_sub(1))
    }
}

impl State {
    #[cold]
    fn claims_probe(&self, until: u64, now: u64) -> bool {
        if now < until || self.until.compare_exchange(until, now + PROBE.as_millis() as u64, Relaxed, Relaxed).is_err()
        {
            return false;
        }
        self.probing.store(true, Relaxed);
        true
    }

    fn put_out(&self, base: Duration, now: Instant) {
        let times = self.times.load(Relaxed).saturating_add(1);
        self.times.store(times, Relaxed);
        self.failures.store(0, Relaxed);
        self.until.store(millis(now) + growing(base, times).as_millis() as u64, Relaxed);
    }
}

/// How long the `times`th ejection in a row lasts.
fn growing(base: Duration, times: u32) -> Duration {
    base.saturating_mul(1 << times.saturating_sub(1).min(16)).min(LONGEST.max(base))
}

/// Milliseconds since the first call, never 0.
fn millis(now: Instant) -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    now.saturating_duration_since(*FIRST.get_or_init(|| now)).as_millis() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_model::GoDuration;

    fn outliers(count: usize, spec: Option<&OutlierDetectionSpec>) -> Outliers {
        Outliers::new(spec, count, None, |_| None)
    }

    fn fail(outliers: &Outliers, server: usize, times: usize, now: Instant) -> Option<Change> {
        (0..times).filter_map(|_| outliers.report(server, Heard::Unreachable, now)).next_back()
    }

    #[test]
    fn five_failed_connects_put_a_server_out_and_a_single_request_tries_it() {
        let (o, start) = (outliers(2, None), Instant::now());
        millis(start);
        assert_eq!(fail(&o, 0, 4, start), None);
        assert_eq!(o.report(0, Heard::ErrorAnswer, start), None);
        assert_eq!(fail(&o, 0, 4, start), None, "an answer of any kind begins the count anew");
        assert_eq!(o.report(0, Heard::NoAnswer, start), None);
        assert_eq!(fail(&o, 0, 1, start), Some(Change::Ejected));
        assert!(!o.admits(0, start) && o.admits(1, start));
        let later = |seconds| start + Duration::from_secs(seconds);
        assert!(!o.admits(0, later(9)));
        assert_eq!(o.report(0, Heard::Answer, later(9)), None, "a late answer does not bring it back");
        assert!(o.admits(0, later(10)), "its time is over");
        assert!(!o.admits(0, later(10)), "one request tries it, not all");
        assert_eq!(fail(&o, 0, 1, later(11)), None);
        assert!(!o.admits(0, later(30)) && o.admits(0, later(31)), "out for 20 s the second time");
        assert!(!o.admits(0, later(40)) && o.admits(0, later(41)), "a try that never ends is given up");
        assert_eq!(o.report(0, Heard::Answer, later(41)), Some(Change::Readmitted));
        assert!(o.admits(0, later(41)) && !o.is_ejected(0));
    }

    #[test]
    fn the_time_grows_to_its_end_and_begins_anew_after_a_good_time() {
        let (o, start) = (outliers(2, None), Instant::now());
        millis(start);
        let mut now = start;
        fail(&o, 0, 5, now);
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            let end = now + Duration::from_secs(seconds);
            assert!(!o.admits(0, end - Duration::from_millis(5)) && o.admits(0, end), "{seconds}");
            now = end;
            fail(&o, 0, 1, now);
        }
        now += LONGEST;
        assert!(o.admits(0, now));
        o.report(0, Heard::Answer, now);
        now += LONGEST * 2;
        assert_eq!(fail(&o, 0, 5, now), Some(Change::Ejected));
        assert!(o.admits(0, now + Duration::from_secs(10)));
    }

    #[test]
    fn never_more_than_the_share_and_never_all() {
        let now = Instant::now();
        for (count, percent, most) in
            [(1, 100, 0), (2, 50, 1), (3, 50, 1), (4, 50, 2), (4, 100, 3), (4, 0, 0), (5, 10, 1)]
        {
            let spec = OutlierDetectionSpec { max_ejection_percent: percent, ..OutlierDetectionSpec::default() };
            let o = outliers(count, Some(&spec));
            for server in 0..count {
                fail(&o, server, 9, now);
            }
            let out = (0..count).filter(|s| o.is_ejected(*s)).count();
            assert_eq!(out, most, "{count} servers, {percent} %");
        }
    }

    #[test]
    fn answers_count_where_the_document_asks_for_it() {
        let spec = OutlierDetectionSpec {
            consecutive_errors: 2,
            base_ejection_time: GoDuration::from_secs(1),
            ..OutlierDetectionSpec::default()
        };
        let (o, now) = (outliers(2, Some(&spec)), Instant::now());
        assert_eq!(o.report(1, Heard::ErrorAnswer, now), None);
        assert_eq!(o.report(1, Heard::NoAnswer, now), Some(Change::Ejected));
        let again = Outliers::new(Some(&spec), 3, Some(&o), |index| (index == 2).then_some(1));
        assert!(again.is_ejected(2) && !again.is_ejected(1), "a change of the document forgets nothing");
    }
}
