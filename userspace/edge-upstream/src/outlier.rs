//! How a pool judges its servers (passive ejection): how many failures are too many, how many servers may be left out, and when
//! nobody is left out because too few are left.

use crate::health::{Health, Heard};
use base_model::OutlierDetectionSpec;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What a report changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Ejected,
    /// It stays out: the request that tried it failed.
    Prolonged,
    Readmitted,
}

/// The judge of one pool's servers.
#[derive(Debug)]
pub struct Outliers {
    spec: OutlierDetectionSpec,
    /// Error answers, time-outs and broken connections count too.
    answers_count: bool,
    servers: Vec<Arc<Health>>,
    /// Held while a server is put out, so that no two workers put out one too many.
    ejecting: Mutex<()>,
}

impl Outliers {
    /// `spec` is what the document asks for, if it does.
    pub fn new(spec: Option<&OutlierDetectionSpec>, servers: Vec<Arc<Health>>) -> Outliers {
        let answers_count = spec.is_some();
        Outliers { spec: spec.cloned().unwrap_or_default(), answers_count, servers, ejecting: Mutex::default() }
    }

    #[inline]
    pub fn is_out(&self, server: usize) -> bool {
        self.servers[server].is_out()
    }

    /// Whether the last thing anybody asked of the server went well.
    pub fn is_well(&self, server: usize) -> bool {
        self.servers[server].is_well()
    }

    /// Whether this request is to try a server that is out.
    pub fn admits_trial(&self, server: usize, now: Instant) -> bool {
        self.servers[server].admits_trial(now)
    }

    /// Whether requests go to all servers, those that are out too: more are out than this pool leaves out (another pool that names
    /// them may have more patience or less), or too few of them are fit.
    pub fn panics(&self) -> bool {
        let count = self.servers.len();
        let out = self.out();
        let fails = |s: &Health| s.failures(self.answers_count) >= self.spec.consecutive_errors;
        let fit = self.servers.iter().filter(|s| !s.is_out() && !fails(s)).count();
        out > self.most() || fit == 0 || fit * 100 < count * self.spec.panic_threshold as usize
    }

    /// Takes note of what became of a request.
    #[inline]
    pub fn report(&self, server: usize, heard: Heard, now: Instant) -> Option<Change> {
        let health = &self.servers[server];
        let readmitted = health.note(heard, now);
        match heard {
            Heard::Answer => readmitted.then_some(Change::Readmitted),
            _ => self.failed(health, heard, now),
        }
    }

    #[cold]
    fn failed(&self, health: &Health, heard: Heard, now: Instant) -> Option<Change> {
        if health.is_out() {
            return health.failed_trial(heard, now).then_some(Change::Prolonged);
        }
        let counts = self.answers_count || heard == Heard::Unreachable;
        if !counts || health.failures(self.answers_count) < self.spec.consecutive_errors {
            return None;
        }
        let _ejecting = self.ejecting.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = self.out() < self.most();
        (has_room && health.put_out(heard, self.spec.base_ejection_time.into(), now)).then_some(Change::Ejected)
    }

    fn out(&self) -> usize {
        self.servers.iter().filter(|s| s.is_out()).count()
    }

    /// Most servers that may be out.
    fn most(&self) -> usize {
        let count = self.servers.len();
        let percent = self.spec.max_ejection_percent.min(100) as usize;
        let share = (count * percent / 100).max(usize::from(percent > 0));
        share.min(count.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_model::GoDuration;
    use std::time::Duration;

    fn outliers(count: usize, spec: Option<&OutlierDetectionSpec>) -> Outliers {
        Outliers::new(spec, (0..count).map(|_| Arc::default()).collect())
    }

    fn fail(o: &Outliers, server: usize, times: usize, now: Instant) -> Option<Change> {
        (0..times).map(|_| o.report(server, Heard::Unreachable, now)).last().flatten()
    }

    fn counting(errors: u32, base: i64) -> OutlierDetectionSpec {
        OutlierDetectionSpec {
            consecutive_errors: errors,
            base_ejection_time: GoDuration::from_secs(base),
            ..OutlierDetectionSpec::default()
        }
    }

    #[test]
    fn what_cannot_be_connected_to_is_out_until_a_probe_connects() {
        let (o, start) = (outliers(2, None), Instant::now());
        assert_eq!(fail(&o, 0, 4, start), None);
        assert_eq!(o.report(0, Heard::ErrorAnswer, start), None);
        assert_eq!(fail(&o, 0, 4, start), None, "an answer of any kind begins the count anew");
        assert_eq!(o.report(0, Heard::NoAnswer, start), None);
        assert_eq!(fail(&o, 0, 1, start), Some(Change::Ejected));
        assert!(o.is_out(0) && !o.is_out(1) && !o.panics());
        let hours = start + Duration::from_secs(36_000);
        assert!(!o.admits_trial(0, hours), "no clock brings it back");
        assert_eq!(o.report(0, Heard::Answer, start), None, "nor does a late answer");
        assert!(o.is_out(0) && o.servers[0].probe_after(start) == Some(Duration::ZERO));
        assert!(o.servers[0].connected(start) && !o.is_out(0));
        assert_eq!(o.servers[0].probe_after(start), None);
        assert_eq!(fail(&o, 0, 4, start), None, "the count begins anew");
    }

    #[test]
    fn what_answers_with_errors_rests_longer_each_time_and_one_request_tries_it() {
        let (o, start) = (outliers(2, Some(&counting(2, 10))), Instant::now());
        let error = |now| o.report(0, Heard::ErrorAnswer, now);
        let mut now = start;
        assert_eq!((error(now), error(now)), (None, Some(Change::Ejected)));
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            let rest = Duration::from_secs(seconds);
            assert_eq!(o.servers[0].probe_after(now), Some(rest));
            assert!(!o.servers[0].connected(now + rest / 2) && !o.admits_trial(0, now + rest / 2), "too early");
            now += rest;
            assert!(!o.servers[0].connected(now) && o.is_out(0), "a connect alone says little");
            assert!(o.admits_trial(0, now) && !o.admits_trial(0, now), "one request tries it, not all");
            assert_eq!(error(now), Some(Change::Prolonged), "{seconds}");
        }
        now += LONGEST;
        o.servers[0].connected(now);
        assert!(o.admits_trial(0, now) && !o.admits_trial(0, now + Duration::from_secs(9)));
        now += Duration::from_secs(10);
        assert!(o.admits_trial(0, now), "a try that never ends is given up");
        assert_eq!(o.report(0, Heard::Answer, now), Some(Change::Readmitted));
        assert!(!o.is_out(0));
        now += LONGEST * 2;
        assert_eq!((error(now), error(now)), (None, Some(Change::Ejected)));
        assert_eq!(o.servers[0].probe_after(now), Some(Duration::from_secs(10)), "after a good time it begins anew");
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
            assert_eq!(o.out(), most, "{count} servers, {percent} %");
            assert!(o.panics(), "those that are in fail as well");
        }
    }

    #[test]
    fn nobody_is_left_out_where_too_few_are_left() {
        let now = Instant::now();
        // Servers, those that fail, the threshold.
        for (count, failing, threshold, panics) in [
            (4, 1, 0, false),
            (4, 3, 0, false),
            (4, 4, 0, true),
            (4, 1, 75, false),
            (4, 2, 75, true),
            (2, 1, 50, false),
            (2, 1, 51, true),
            (4, 1, 100, true),
        ] {
            let spec =
                OutlierDetectionSpec { max_ejection_percent: 100, panic_threshold: threshold, ..counting(1, 10) };
            let o = outliers(count, Some(&spec));
            for server in 0..failing {
                fail(&o, server, 1, now);
            }
            assert_eq!(o.panics(), panics, "{failing} of {count} fail, threshold {threshold} %");
        }
    }

    #[test]
    fn pools_share_what_is_known_and_judge_for_themselves() {
        let now = Instant::now();
        let servers: Vec<Arc<Health>> = (0..4).map(|_| Arc::default()).collect();
        let (patient, strict) =
            (Outliers::new(None, servers.clone()), Outliers::new(Some(&counting(2, 10)), servers.clone()));
        let lone = Outliers::new(None, servers[..1].to_vec());
        assert_eq!(patient.report(0, Heard::ErrorAnswer, now), None);
        assert_eq!(
            strict.report(0, Heard::ErrorAnswer, now),
            Some(Change::Ejected),
            "two in a row, whoever heard them"
        );
        assert!(patient.is_out(0) && !patient.panics());
        assert!(lone.panics(), "its only server");
        let never = OutlierDetectionSpec { max_ejection_percent: 0, ..OutlierDetectionSpec::default() };
        assert!(Outliers::new(Some(&never), servers).panics(), "this one leaves nobody out");
    }

    const LONGEST: Duration = Duration::from_secs(300);
}
