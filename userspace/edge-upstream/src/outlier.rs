//! How a pool judges its servers (passive ejection): how many failures are too many, how many servers may be left out, and when
//! nobody is left out because too few are left.

use crate::health::{Era, Health, Heard};
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

/// Servers that requests go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Those that are neither left out nor found unwell.
    In,
    /// Those of which nothing is known yet as well: no other is in.
    Unasked,
    /// Those that are left out as well, but none that health checks find unwell.
    Well,
    /// All.
    All,
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

    /// The era a request to this server begins in.
    #[inline]
    pub fn era(&self, server: usize) -> Era {
        self.servers[server].era()
    }

    /// Whether a server is out and some request is to try it.
    pub fn awaits_trial(&self, server: usize) -> bool {
        self.servers[server].awaits_trial()
    }

    /// Whether this request is to try a server that is out, and in which era.
    pub fn admits_trial(&self, server: usize, now: Instant) -> Option<Era> {
        self.servers[server].admits_trial(now)
    }

    /// Which servers requests go to, as far as there are some: more may be out than this pool leaves out (another pool that names them
    /// may have more patience or less), or too few of them are fit. `is_well` says what health checks find of a server.
    pub fn reach(&self, is_well: impl Fn(usize) -> bool) -> Reach {
        let count = self.servers.len();
        let out = self.out();
        let fails = |s: &Health| s.failures(self.answers_count) >= self.spec.consecutive_errors;
        let fit = |(i, s): &(usize, &Arc<Health>)| !s.is_out() && !fails(s) && is_well(*i);
        let fit = self.servers.iter().enumerate().filter(fit).count();
        if fit * 100 < count * self.spec.panic_threshold as usize {
            return Reach::All;
        }
        if out > self.most() || fit == 0 { Reach::Well } else { Reach::In }
    }

    /// Takes note of what became of a request that began in this era.
    #[inline]
    pub fn report(&self, server: usize, heard: Heard, era: Era, now: Instant) -> Option<Change> {
        let health = &self.servers[server];
        let readmitted = health.note(heard, era, now);
        match heard {
            Heard::Answer => readmitted.then_some(Change::Readmitted),
            _ => self.failed(health, heard, era, now),
        }
    }

    #[cold]
    fn failed(&self, health: &Health, heard: Heard, era: Era, now: Instant) -> Option<Change> {
        if health.is_out() {
            return health.failed_trial(heard, era, now).then_some(Change::Prolonged);
        }
        let counts = (self.answers_count || heard == Heard::Unreachable) && !health.is_over(era);
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

    /// A request that begins and ends now.
    fn report(o: &Outliers, server: usize, heard: Heard, now: Instant) -> Option<Change> {
        o.report(server, heard, o.era(server), now)
    }

    /// Nobody is left out.
    fn is_panicked(o: &Outliers) -> bool {
        o.reach(|_| true) != Reach::In
    }

    fn fail(o: &Outliers, server: usize, times: usize, now: Instant) -> Option<Change> {
        (0..times).map(|_| report(o, server, Heard::Unreachable, now)).last().flatten()
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
        assert_eq!(report(&o, 0, Heard::ErrorAnswer, start), None);
        assert_eq!(fail(&o, 0, 4, start), None, "an answer of any kind begins the count anew");
        assert_eq!(report(&o, 0, Heard::NoAnswer, start), None);
        assert_eq!(fail(&o, 0, 1, start), Some(Change::Ejected));
        assert!(o.is_out(0) && !o.is_out(1) && !is_panicked(&o));
        let hours = start + Duration::from_secs(36_000);
        assert_eq!(o.admits_trial(0, hours), None, "no clock brings it back");
        assert_eq!(
            report(&o, 0, Heard::Answer, start),
            None,
            "nor does an answer to one that was sent there all the same"
        );
        let (pause, era) = o.servers[0].probe_after(start).unwrap();
        assert!(o.is_out(0) && pause.is_zero());
        assert!(o.servers[0].connected(era, start) && !o.is_out(0));
        assert_eq!(o.servers[0].probe_after(start), None);
        assert_eq!(fail(&o, 0, 4, start), None, "the count begins anew");
    }

    #[test]
    fn what_answers_with_errors_rests_longer_each_time_and_one_request_tries_it() {
        let (o, start) = (outliers(2, Some(&counting(2, 10))), Instant::now());
        let error = |now| report(&o, 0, Heard::ErrorAnswer, now);
        let probe = |now| o.servers[0].connected(o.era(0), now);
        let after = |now| o.servers[0].probe_after(now).map(|(pause, _)| pause);
        let mut now = start;
        assert_eq!((error(now), error(now)), (None, Some(Change::Ejected)));
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            let rest = Duration::from_secs(seconds);
            assert_eq!(after(now), Some(rest));
            assert!(!probe(now + rest / 2) && o.admits_trial(0, now + rest / 2).is_none(), "too early");
            now += rest;
            assert!(!probe(now) && o.is_out(0), "a connect alone says little");
            let trial = o.admits_trial(0, now).unwrap();
            assert_eq!(o.admits_trial(0, now), None, "one request tries it, not all");
            assert_eq!(error(now), None, "of another request");
            assert_eq!(o.report(0, Heard::ErrorAnswer, trial, now), Some(Change::Prolonged), "{seconds}");
        }
        now += LONGEST;
        probe(now);
        let first = o.admits_trial(0, now).unwrap();
        assert_eq!(o.admits_trial(0, now + Duration::from_secs(9)), None);
        now += Duration::from_secs(10);
        let second = o.admits_trial(0, now).expect("a try that never ends is given up");
        assert_eq!(o.report(0, Heard::Answer, first, now), None, "given up");
        assert_eq!(o.report(0, Heard::Answer, second, now), Some(Change::Readmitted));
        assert!(!o.is_out(0));
        now += LONGEST * 2;
        assert_eq!((error(now), error(now)), (None, Some(Change::Ejected)));
        assert_eq!(after(now), Some(Duration::from_secs(10)), "after a good time it begins anew");
    }

    #[test]
    fn what_began_before_the_server_went_out_changes_nothing() {
        let (o, start) = (outliers(2, Some(&counting(2, 10))), Instant::now());
        let before = o.era(0);
        let error = |now| report(&o, 0, Heard::ErrorAnswer, now);
        assert_eq!((error(start), error(start)), (None, Some(Change::Ejected)));
        let early_probe = o.era(0);
        let now = start + Duration::from_secs(10);
        assert!(!o.servers[0].connected(o.era(0), now));
        let trial = o.admits_trial(0, now).unwrap();
        assert_eq!(o.report(0, Heard::Answer, before, now), None, "a slow answer from before");
        assert_eq!(o.report(0, Heard::ErrorAnswer, before, now), None, "nor does its failure prolong it");
        assert!(o.is_out(0));
        assert_eq!(o.report(0, Heard::Answer, trial, now), Some(Change::Readmitted));
        assert_eq!(o.report(0, Heard::ErrorAnswer, before, now), None);
        assert_eq!(o.report(0, Heard::ErrorAnswer, before, now), None, "nor counts against it when it is back");
        assert!(!o.is_out(0) && o.servers[0].is_well());
        assert_eq!(fail(&o, 0, 2, now), Some(Change::Ejected));
        assert!(!o.servers[0].connected(early_probe, now), "a connect begun before this ejection");
        assert!(o.is_out(0) && o.servers[0].connected(o.era(0), now));
    }

    #[test]
    fn whoever_finds_a_server_out_when_its_prober_has_just_left_takes_over() {
        let (o, start) = (outliers(2, Some(&counting(1, 10))), Instant::now());
        let health = &o.servers[0];
        assert!(!health.claim_probing(start), "nobody needs to");
        report(&o, 0, Heard::ErrorAnswer, start);
        assert!(health.claim_probing(start) && !health.claim_probing(start), "one does");
        let now = start + Duration::from_secs(10);
        let (_, era) = health.next_probe(now).unwrap();
        health.connected(era, now);
        let trial = o.admits_trial(0, now).unwrap();
        assert_eq!(health.next_probe(now), None, "a request tries it");
        // The prober's task has yet to end.
        assert_eq!(o.report(0, Heard::NoAnswer, trial, now), Some(Change::Prolonged));
        assert!(health.claim_probing(now));
        assert!(health.next_probe(now).is_some());
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
            assert!(is_panicked(&o), "those that are in fail as well");
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
            assert_eq!(is_panicked(&o), panics, "{failing} of {count} fail, threshold {threshold} %");
        }
    }

    #[test]
    fn who_is_found_unwell_gets_nothing_unless_too_few_are_fit() {
        let now = Instant::now();
        // Unwell of four, those that fail besides, the threshold.
        for (unwell, failing, threshold, reach) in [
            (0, 0, 0, Reach::In),
            (1, 0, 0, Reach::In),
            (4, 0, 0, Reach::Well),
            (2, 2, 0, Reach::Well),
            (2, 0, 50, Reach::In),
            (3, 0, 50, Reach::All),
            (1, 2, 50, Reach::All),
            (4, 0, 1, Reach::All),
        ] {
            let spec =
                OutlierDetectionSpec { max_ejection_percent: 100, panic_threshold: threshold, ..counting(1, 10) };
            let o = outliers(4, Some(&spec));
            for server in 0..failing {
                fail(&o, server, 1, now);
            }
            let found = o.reach(|server| server < 4 - unwell);
            assert_eq!(found, reach, "{unwell} unwell, {failing} fail, threshold {threshold} %");
        }
    }

    #[test]
    fn pools_share_what_is_known_and_judge_for_themselves() {
        let now = Instant::now();
        let servers: Vec<Arc<Health>> = (0..4).map(|_| Arc::default()).collect();
        let (patient, strict) =
            (Outliers::new(None, servers.clone()), Outliers::new(Some(&counting(2, 10)), servers.clone()));
        let lone = Outliers::new(None, servers[..1].to_vec());
        assert_eq!(report(&patient, 0, Heard::ErrorAnswer, now), None);
        assert_eq!(
            report(&strict, 0, Heard::ErrorAnswer, now),
            Some(Change::Ejected),
            "two in a row, whoever heard them"
        );
        assert!(patient.is_out(0) && !is_panicked(&patient));
        assert!(is_panicked(&lone), "its only server");
        let never = OutlierDetectionSpec { max_ejection_percent: 0, ..OutlierDetectionSpec::default() };
        assert!(is_panicked(&Outliers::new(Some(&never), servers)), "this one leaves nobody out");
    }

    const LONGEST: Duration = Duration::from_secs(300);
}
