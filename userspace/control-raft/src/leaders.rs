//! Whose votes, appends and snapshots are taken: those of voters, and of nobody else who may call.
//!
//! A secondary, or a member that was removed and kept its certificate, is answered on the peer URL, and leads nobody. A voter is who
//! the membership in this member's log names. While there is none, these are the members of `--initial-cluster`. A member that was
//! away while the others were replaced knows too little: it asks the places it was given, and the voters it knows, who votes now.
//! Where else a caller says that it is found is not asked, so nobody vouches for itself.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::control::{Inner, lock};
use crate::wire::IdentityAnswer;

/// Voters as others told them last, and when.
#[derive(Default)]
pub struct Told {
    voters: BTreeSet<String>,
    asked: Option<Instant>,
}

impl Inner {
    /// Nothing when the caller may lead this member, or says why not.
    pub async fn may_lead(&self, caller: &str) -> Result<(), String> {
        let voters = self.voters();
        let known = match voters.is_empty() {
            true => self.places.initial_cluster.contains_key(caller),
            false => voters.iter().any(|voter| voter == caller),
        };
        if known || self.is_told_of(caller, &voters).await {
            return Ok(());
        }
        Err(format!("the caller, {caller}, is not among those that vote in this cluster"))
    }

    async fn is_told_of(&self, caller: &str, voters: &[String]) -> bool {
        {
            let mut told = lock(&self.places.told_voters);
            if told.asked.is_some_and(|asked| asked.elapsed() > FORGOTTEN) {
                told.voters.clear();
            }
            if told.voters.contains(caller) {
                return true;
            }
            if told.asked.is_some_and(|asked| asked.elapsed() < ASKED_AGAIN) {
                return false;
            }
            told.asked = Some(Instant::now());
        }
        let mut asked = tokio::task::JoinSet::new();
        for url in self.places_of_voters(voters) {
            let wire = self.wire().clone();
            asked.spawn(async move { wire.get::<IdentityAnswer>(&url, "/raft/identity", PROBE).await });
        }
        let answers = asked.join_all().await.into_iter().flatten().filter(|answer| answer.initialised);
        let now: BTreeSet<String> = answers.flat_map(|answer| answer.voters).collect();
        let is_one = now.contains(caller);
        lock(&self.places.told_voters).voters = now;
        is_one
    }
}

/// Longer than a busy machine needs to answer, and shorter than a leader waits for entries.
const PROBE: Duration = Duration::from_millis(500);
/// A caller that is none costs the voters one question in this time.
const ASKED_AGAIN: Duration = Duration::from_secs(1);
/// By then what was told is in this member's own log.
const FORGOTTEN: Duration = Duration::from_secs(30);
