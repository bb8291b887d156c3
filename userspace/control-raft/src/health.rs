//! How a member is: what keeps it from taking part, since when it knows of nobody who decides, and what is counted of that.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::control::lock;

pub(crate) struct Health {
    /// Why the others do not count this member, while that is so.
    trouble: Mutex<Option<String>>,
    /// Why this member can take part no longer; it stays so.
    failure: watch::Sender<Option<String>>,
    leaderless_since: Mutex<Option<Instant>>,
    /// Of a voter that follows.
    leader_heard: Mutex<Option<Instant>>,
    /// The leader whose machine did not answer, and when that was seen.
    gone: Mutex<Option<(String, Instant)>>,
    leader_changes: AtomicU64,
    proposals_failed: AtomicU64,
}

impl Health {
    /// Of a member that starts: it knows of no leader yet.
    pub fn new() -> Health {
        Health {
            trouble: Mutex::default(),
            failure: watch::Sender::new(None),
            leaderless_since: Mutex::new(Some(Instant::now())),
            leader_heard: Mutex::default(),
            gone: Mutex::default(),
            leader_changes: AtomicU64::new(0),
            proposals_failed: AtomicU64::new(0),
        }
    }

    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    /// Said once, in the log, and for as long as it is so to whoever asks.
    pub fn set_trouble(&self, reason: Option<String>) {
        let mut trouble = lock(&self.trouble);
        match (&*trouble, &reason) {
            (None, Some(reason)) => tracing::error!("{reason}"),
            (Some(before), Some(reason)) if before != reason => tracing::error!("{reason}"),
            (Some(_), None) => tracing::info!("the others count this member again"),
            _ => {}
        }
        *trouble = reason;
    }

    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// The first reason is the one that stays.
    pub fn fail(&self, reason: String) {
        self.failure.send_if_modified(|failure| failure.is_none() && failure.replace(reason).is_none());
    }

    /// Waits until this member has failed.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.subscribe();
        let failed = failure.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
        // The sender lives as long as this does.
        failed.unwrap_or_default()
    }

    /// Whether the leader, or for one that does not vote a primary, is known; it is not known since the first time it was not.
    pub fn note_leader(&self, known: bool) {
        let mut since = lock(&self.leaderless_since);
        *since = if known { None } else { since.or(Some(Instant::now())) };
    }

    pub fn leaderless_for(&self) -> Duration {
        lock(&self.leaderless_since).map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// A leader has spoken to this member.
    pub fn hear_leader(&self) {
        *lock(&self.leader_heard) = Some(Instant::now());
    }

    pub fn leader_heard(&self) -> Option<Instant> {
        *lock(&self.leader_heard)
    }

    pub fn note_gone(&self, leader: String) {
        *lock(&self.gone) = Some((leader, Instant::now()));
    }

    /// The leader before, if its machine did not answer just now.
    pub fn take_gone(&self) -> Option<String> {
        let (leader, seen) = lock(&self.gone).take()?;
        (seen.elapsed() < GONE_FRESH).then_some(leader)
    }

    pub fn count_leader_change(&self) {
        self.leader_changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Since the start of the process.
    pub fn leader_changes(&self) -> u64 {
        self.leader_changes.load(Ordering::Relaxed)
    }

    pub fn count_failed_proposal(&self) {
        self.proposals_failed.fetch_add(1, Ordering::Relaxed);
    }

    pub fn proposals_failed(&self) -> u64 {
        self.proposals_failed.load(Ordering::Relaxed)
    }
}

/// An election is over within this.
const GONE_FRESH: Duration = Duration::from_millis(1500);
