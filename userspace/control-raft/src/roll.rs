//! What the leader has heard of the members: who is alive, what each says of itself, and who has said something new.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base_text::quoted;
use control_api::{EdgeReport, Member, MemberRole};
use control_state::State;
use imbl::OrdMap;
use tokio::sync::Notify;

use crate::control::{Inner, lock};
use crate::succession::Believes;
use crate::upkeep::{BEAT, BEAT_TIMEOUT};
use crate::wire::{Heartbeat, HeartbeatAnswer};

/// What was heard of each member. A copy costs a reference count: a leader's turn looks at all of them as they are at one moment, while
/// ten thousand go on talking.
pub(crate) type Reports = OrdMap<String, Arc<Report>>;

#[derive(Default)]
pub(crate) struct Roll {
    reports: Mutex<Reports>,
    /// Who has said something new since the leader's last turn; no more than have reports.
    news: Mutex<BTreeSet<String>>,
    /// Something is to be done before the next turn, or beat, is due.
    pub reported: Notify,
    /// This member has come to lead.
    pub leads: Notify,
    /// Members that turns about the news have looked at.
    looked_at: AtomicU64,
    /// Members whose machines answered when they were asked first, and from when on they may be passed over; or when they are asked again.
    near: Mutex<BTreeMap<String, Near>>,
    without_id: AtomicU64,
    without_id_told: Mutex<Option<Instant>>,
}

impl Roll {
    pub fn reports(&self) -> Reports {
        lock(&self.reports).clone()
    }

    pub fn report(&self, name: &str) -> Option<Arc<Report>> {
        lock(&self.reports).get(name).cloned()
    }

    pub fn len(&self) -> usize {
        lock(&self.reports).len()
    }

    /// Of one that is removed nothing is known any more.
    pub fn forget(&self, name: &str) {
        lock(&self.reports).remove(name);
        lock(&self.near).remove(name);
    }

    /// Says whether that is something new.
    pub fn note(&self, said: Said) -> bool {
        let Said { member, run, pace, leaving, edge, believes } = said;
        let mut reports = lock(&self.reports);
        let name = member.name.clone();
        let before = reports.get(&name);
        let run_before = before.and_then(|before| if before.run == run { before.run_before } else { Some(before.run) });
        let news = before.is_none_or(|before| before.member.as_ref() != Some(&member) || before.leaving != leaving);
        let report = Report {
            heard: Instant::now(),
            heard_at: SystemTime::now(),
            member: Some(member),
            leaving,
            edge,
            believes,
            run,
            run_before,
            pace,
            reach: Reach::Unasked,
        };
        if before.is_some_and(|before| before.reach == Reach::Gone)
            && let Some(near) = lock(&self.near).get_mut(&name)
        {
            // One that comes and goes is not passed over each time: that is a change for all.
            *near = Near { is: near.is, from: Instant::now() + SPARED };
        }
        reports.insert(name, Arc::new(report));
        news
    }

    /// Has the leader look at this one before it looks at all again.
    pub fn wake(&self, name: String) {
        lock(&self.news).insert(name);
        self.reported.notify_one();
    }

    /// Who has said something new since this was asked last.
    pub fn take_news(&self) -> BTreeSet<String> {
        std::mem::take(&mut *lock(&self.news))
    }

    /// Nobody is called silent by who could not listen.
    pub fn grant_grace(&self) {
        let now = Instant::now();
        let mut reports = lock(&self.reports);
        let granted = reports.iter().map(|(name, report)| {
            (name.clone(), Arc::new(Report { heard: now, reach: Reach::Unasked, ..Report::clone(report) }))
        });
        *reports = granted.collect();
    }

    /// Brings the roll up to date with the members there are: of those that have not spoken to this leader it is noted since when they
    /// might have, and who is no member and silent goes.
    pub fn keep(&self, state: &State) {
        let members = &state.view.members;
        let mut reports = lock(&self.reports);
        // Ten times a second: of ten thousand that have reports nobody's name is copied.
        let unheard: Vec<String> = members.keys().filter(|name| !reports.contains_key(*name)).cloned().collect();
        for name in unheard {
            reports.insert(name, Arc::new(Report::unheard(pace(members.len()))));
        }
        let now = Instant::now();
        let gone = reports.iter().filter(|(name, report)| report.is_silent(now) && !members.contains_key(*name));
        for name in gone.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            reports.remove(&name);
        }
        lock(&self.near).retain(|name, _| reports.contains_key(name));
    }

    /// Members that were heard and of whose machines it is not known whether they answer.
    pub fn strange(&self, now: Instant, most: usize) -> Vec<String> {
        let (reports, mut near) = (lock(&self.reports), lock(&self.near));
        let strange = reports.iter().filter(|(name, report)| {
            report.member.is_some()
                && !report.is_missing(now)
                && near.get(*name).is_none_or(|near| !near.is && near.from <= now)
        });
        let strange: Vec<String> = strange.take(most).map(|(name, _)| name.clone()).collect();
        for name in &strange {
            near.insert(name.clone(), Near { is: false, from: now + ASKED_AGAIN });
        }
        strange
    }

    /// The machine of a member has answered.
    pub fn note_near(&self, name: &str) {
        if let Some(near) = lock(&self.near).get_mut(name) {
            *near = Near { is: true, from: Instant::now() };
        }
    }

    /// Members of which a word is missing and whose machines were not asked for since, with when each was heard: they are, from now on.
    pub fn missing(&self, now: Instant, most: usize) -> Vec<(String, Instant)> {
        let mut reports = lock(&self.reports);
        let near = lock(&self.near);
        let missing = reports.iter().filter(|(name, report)| {
            let near = near.get(*name).is_some_and(|near| near.is && near.from <= now);
            near && report.reach == Reach::Unasked && report.is_missing(now)
        });
        let missing: Vec<_> = missing.take(most).map(|(name, report)| (name.clone(), report.heard)).collect();
        for (name, _) in &missing {
            if let Some(report) = reports.get_mut(name) {
                Arc::make_mut(report).reach = Reach::Asked;
            }
        }
        missing
    }

    /// The machine of a member did not answer, and nothing was heard of it since then.
    pub fn note_gone(&self, name: String, heard: Option<Instant>) {
        let mut reports = lock(&self.reports);
        let Some(report) = reports.get_mut(&name) else { return };
        if heard.is_none_or(|heard| heard == report.heard) {
            Arc::make_mut(report).reach = Reach::Gone;
            drop(reports);
            self.wake(name);
        }
    }

    /// Counts members that a turn about the news looks at.
    pub fn count_looks(&self, members: usize) {
        self.looked_at.fetch_add(members as u64, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub fn looks(&self) -> u64 {
        self.looked_at.load(Ordering::Relaxed)
    }

    /// Counts those that cannot become members, and says so now and then.
    pub fn note_without_id(&self, names: &[String]) {
        self.without_id.store(names.len() as u64, Ordering::Relaxed);
        let Some(first) = names.first() else { return };
        let mut told = lock(&self.without_id_told);
        if told.is_none_or(|told: Instant| told.elapsed() > TELL_WITHOUT_ID) {
            *told = Some(Instant::now());
            tracing::error!(
                members = names.len(),
                first,
                "machines cannot become members: all 65535 member ids are taken; remove members that are gone (weirctl member purge)"
            );
        }
    }

    pub fn without_id(&self) -> u64 {
        self.without_id.load(Ordering::Relaxed)
    }
}

/// What a member says of itself.
pub(crate) struct Said {
    pub member: Member,
    /// Of its process.
    pub run: u64,
    pub pace: Duration,
    pub leaving: bool,
    pub edge: Option<EdgeReport>,
    pub believes: Option<Believes>,
}

/// What the leader heard of a member.
#[derive(Clone)]
pub(crate) struct Report {
    heard: Instant,
    heard_at: SystemTime,
    /// Absent for a member of the state that has not spoken to this leader.
    pub member: Option<Member>,
    pub leaving: bool,
    /// What its edge said.
    pub edge: Option<EdgeReport>,
    pub believes: Option<Believes>,
    /// The process that spoke last, and the one before it: one that comes back after it was followed by another has a twin.
    run: u64,
    run_before: Option<u64>,
    /// What the leader has asked of it: see [`pace`].
    pace: Duration,
    reach: Reach,
}

/// Whether a machine answers when nothing is amiss, and since when that, or what is asked next, counts.
struct Near {
    is: bool,
    from: Instant,
}

/// Whether the machine of a member is there that is not heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Unasked,
    Asked,
    Gone,
}

impl Report {
    fn unheard(pace: Duration) -> Report {
        Report {
            heard: Instant::now(),
            heard_at: UNIX_EPOCH,
            member: None,
            leaving: false,
            edge: None,
            believes: None,
            run: 0,
            run_before: None,
            pace,
            reach: Reach::Unasked,
        }
    }

    /// It should have been heard of by now.
    pub fn is_silent(&self, now: Instant) -> bool {
        self.silence(now) > SILENCE.max(self.pace * 4)
    }

    /// Its next word is overdue.
    fn is_missing(&self, now: Instant) -> bool {
        self.silence(now) > self.pace + LATE
    }

    /// Its machine does not answer either.
    pub fn is_gone(&self) -> bool {
        self.reach == Reach::Gone
    }

    pub fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard)
    }
}

impl Inner {
    /// The leader listens, and says why not to one whose name another has; `None` elsewhere.
    pub fn hear(&self, heartbeat: Heartbeat) -> Option<Result<HeartbeatAnswer, String>> {
        self.leading()?;
        let name = heartbeat.member.name.clone();
        if let Some(taken) = self.name_taken(&name, &heartbeat.member.instance, Some(heartbeat.run)) {
            return Some(Err(taken));
        }
        let primary = heartbeat.member.role == MemberRole::Primary;
        let level = heartbeat.member.level;
        let old = if primary { self.too_old(&name, level) } else { self.too_old_to_be_told(&name, level) };
        if let Some(old) = old {
            return Some(Err(old));
        }
        let diverged = heartbeat.mark.and_then(|mark| self.marks.compare(self.name(), &name, &mark));
        let state = self.publisher().state();
        let pace = if primary { BEAT } else { pace(state.view.members.len().max(self.roll.len())) };
        let Heartbeat { member, run, leaving, edge, believes, brief, .. } = heartbeat;
        let news = self.roll.note(Said { member, run, pace, leaving, edge, believes });
        if news || state.view.members.get(&name).is_none_or(|known| !known.up) {
            self.roll.wake(name);
        }
        let heard = if brief { BTreeMap::new() } else { self.heard_here() };
        let pace_ms = if pace > BEAT { pace.as_millis() as u64 } else { 0 };
        let authorities = self.authorities();
        Some(Ok(HeartbeatAnswer { heard, pace_ms, voters: self.voters(), diverged, authorities }))
    }

    /// Why a process cannot go by this name, as the leader knows: another that does is alive. One that is silent, or has said
    /// goodbye, leaves its name to whoever comes.
    pub fn name_taken(&self, name: &str, instance: &str, run: Option<u64>) -> Option<String> {
        let report = self.roll.report(name)?;
        let state = self.publisher().state();
        let holder = report.member.as_ref().or_else(|| state.view.members.get(name).map(AsRef::as_ref))?;
        if holder.instance.is_empty() || report.leaving || report.is_silent(Instant::now()) {
            return None;
        }
        let place = format!("admin API {}, peer URL {}", holder.api_addr, quoted(&holder.peer_url));
        if holder.instance != instance {
            return Some(format!(
                "another member named {name} runs ({place}): give this one a --name of its own; if the other is gone, its name is \
                 free a second later",
                name = quoted(&name)
            ));
        }
        (run.is_some() && run == report.run_before).then(|| {
            format!(
                "another process runs as {name} with the identity of this one ({place}): its --data-dir is a copy; give this one a \
                 --name of its own and an empty --data-dir", name = quoted(&name))
        })
    }

    /// Whether the leader hears of a member: itself it does.
    pub fn is_heard(&self, name: &str) -> bool {
        name == self.name()
            || self
                .roll
                .report(name)
                .is_some_and(|report| report.member.is_some() && !report.leaving && !report.is_silent(Instant::now()))
    }

    /// What the leader's members say of their edges; empty elsewhere.
    pub fn edges_here(&self) -> BTreeMap<String, EdgeReport> {
        if self.leading().is_none() {
            return BTreeMap::new();
        }
        let reports = self.roll.reports();
        reports.iter().filter_map(|(name, report)| Some((name.clone(), report.edge.clone()?))).collect()
    }

    /// The same on every member that reaches the leader.
    pub async fn edges(&self) -> Option<BTreeMap<String, EdgeReport>> {
        if self.leading().is_some() {
            return Some(self.edges_here());
        }
        let url = self.leader_url().or_else(|| self.candidates().first().cloned())?;
        self.wire().get(&url, EDGES_PATH, BEAT_TIMEOUT).await.ok()
    }

    /// When the leader heard of each member, in milliseconds since 1970; empty elsewhere.
    pub fn heard_here(&self) -> BTreeMap<String, u64> {
        if self.leading().is_none() {
            return BTreeMap::new();
        }
        let reports = self.roll.reports();
        let heard = reports.iter().filter(|(_, report)| report.heard_at > UNIX_EPOCH);
        let since = |report: &Report| report.heard_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        heard.map(|(name, report)| (name.clone(), u64::try_from(since(report)).unwrap_or(u64::MAX))).collect()
    }

    /// The same on every member that reaches the leader; empty on others.
    pub async fn heard(&self) -> BTreeMap<String, u64> {
        if self.leading().is_some() {
            return self.heard_here();
        }
        let Some(url) = self.leader_url().or_else(|| self.candidates().first().cloned()) else {
            return BTreeMap::new();
        };
        self.wire().get(&url, HEARD_PATH, BEAT_TIMEOUT).await.unwrap_or_default()
    }

    pub fn edge_report(&self) -> Option<EdgeReport> {
        self.ask_edge.as_ref().and_then(|ask| ask())
    }
}

/// How often the leader wants to hear of a member that does not vote: up to a few hundred of them as often as of the others, and beyond
/// that so that all together are [`BEATS_S`].
pub(crate) fn pace(members: usize) -> Duration {
    let members = u32::try_from(members).unwrap_or(u32::MAX);
    Duration::from_secs_f64(f64::from(members) / f64::from(BEATS_S)).clamp(BEAT, PACE_MOST)
}

/// Five beats lost: long enough for a busy machine. Traffic does not wait for it where the machine itself is gone: see `reach.rs`.
pub(crate) const SILENCE: Duration = Duration::from_millis(1000);
/// A machine that was passed over and is back is passed over again after this at the soonest.
const SPARED: Duration = Duration::from_secs(30);
/// A machine that does not answer when nothing is amiss is asked again after this.
const ASKED_AGAIN: Duration = Duration::from_secs(10);
/// What a beat may be late without anybody looking for its machine.
const LATE: Duration = Duration::from_millis(40);
/// Beats of members that do not vote that a leader hears in a second, where they are many: a fifth of a processor.
const BEATS_S: u32 = 2_000;
/// A machine that dies is down after four of them.
pub(crate) const PACE_MOST: Duration = Duration::from_secs(10);
/// Where the leader tells when it heard of each member.
pub const HEARD_PATH: &str = "/raft/heard";
/// Where the leader tells what edges say of themselves.
pub const EDGES_PATH: &str = "/raft/edges";
/// Between two lines in the log about members that find no id.
const TELL_WITHOUT_ID: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_looked_for_who_never_answered_or_was_passed_over_just_now() {
        let roll = Roll::default();
        let says = || {
            let member = Member { name: "edge".into(), ..Member::default() };
            roll.note(Said { member, run: 1, pace: BEAT, leaving: false, edge: None, believes: None })
        };
        assert!(says());
        let soon = || Instant::now() + BEAT * 2;
        assert!(roll.missing(soon(), 9).is_empty(), "whether it answers is not known");
        assert_eq!(roll.strange(Instant::now(), 9), ["edge"]);
        assert!(roll.strange(Instant::now(), 9).is_empty(), "once");
        assert!(roll.missing(soon(), 9).is_empty(), "it has not answered");
        assert_eq!(roll.strange(Instant::now() + ASKED_AGAIN, 9), [] as [&str; 0], "it is missing by then");
        says();
        roll.note_near("edge");
        assert!(roll.missing(Instant::now(), 9).is_empty(), "it has just spoken");
        let missing = roll.missing(soon(), 9);
        assert_eq!(missing.len(), 1);
        assert!(roll.missing(soon(), 9).is_empty(), "once for each silence");
        says();
        roll.note_gone("edge".into(), Some(missing[0].1));
        assert!(!roll.report("edge").unwrap().is_gone(), "it has spoken since");
        roll.note_gone("edge".into(), None);
        assert!(roll.report("edge").unwrap().is_gone());
        says();
        assert!(!roll.report("edge").unwrap().is_gone());
        assert!(roll.missing(soon(), 9).is_empty(), "it comes and goes");
        assert_eq!(roll.missing(soon() + SPARED, 9).len(), 1);
    }
}
