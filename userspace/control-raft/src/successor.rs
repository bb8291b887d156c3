//! An election at once where the leader's machine is gone.
//!
//! By its own clock openraft calls one after 550 to 700 ms without a word, because a busy leader may be silent for that long. Where the
//! leader's machine does not answer either (`reach.rs`), nothing is gained by waiting: the election is called as soon as the others may
//! vote, one member after the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use control_api::Member;

use crate::control::{Gate, Inner};
use crate::reach;
use crate::types::Peer;

/// Runs for as long as the member does.
pub async fn watch(inner: Arc<Inner>) {
    let Some(voter) = inner.voter() else { return };
    // The last word of a leader after which all that could be was done.
    let mut settled = None;
    // The leader whose machine was asked last while it spoke, and whether it answered.
    let mut near: Option<(String, bool, Instant)> = None;
    loop {
        let heard = inner.health.leader_heard().filter(|heard| settled != Some(*heard));
        let Some(heard) = heard else {
            tokio::time::sleep(QUIET).await;
            continue;
        };
        let quiet_at = heard + QUIET;
        let Some((leader, turn)) = leader_and_turn(&inner) else {
            tokio::time::sleep(QUIET).await;
            continue;
        };
        let known = inner.publisher().state().view.members.get(&leader.name).cloned().unwrap_or_default();
        let place = reach::place(&Member { peer_url: leader.url.clone(), ..Member::clone(&known) });
        if Instant::now() < quiet_at {
            if near
                .as_ref()
                .is_none_or(|(name, answers, at)| *name != leader.name || !answers && at.elapsed() > ASKED_AGAIN)
            {
                let answers = match place {
                    Some(place) => reach::is_near(place).await,
                    None => false,
                };
                near = Some((leader.name, answers, Instant::now()));
            }
            tokio::time::sleep_until(quiet_at.into()).await;
            continue;
        }
        settled = Some(heard);
        let asked = near.as_ref().is_some_and(|(name, answers, _)| *name == leader.name && *answers);
        let Some(place) = place.filter(|_| asked) else { continue };
        if !reach::is_gone(place).await || inner.health.leader_heard() != Some(heard) {
            continue;
        }
        inner.health.note_gone(leader.name.clone());
        tokio::time::sleep_until((heard + LEASE + MARGIN + BETWEEN * turn).into()).await;
        let follows = voter.store.vote().is_some_and(|vote| vote.is_committed());
        if inner.gate() == Gate::Open && follows && inner.health.leader_heard() == Some(heard) {
            tracing::warn!(leader = leader.name, "the leader's machine does not answer: an election is called");
            let _ = voter.raft.trigger().elect().await;
        }
    }
}

/// Whom this member follows, and how many others call an election before it does.
fn leader_and_turn(inner: &Inner) -> Option<(Peer, u32)> {
    let metrics = inner.voter()?.raft.metrics().borrow().clone();
    let leader = metrics.current_leader.filter(|leader| *leader != metrics.id)?;
    let membership = metrics.membership_config.membership();
    let peer = membership.get_node(&leader)?.clone();
    if !membership.voter_ids().any(|id| id == metrics.id) {
        return None;
    }
    // Of two votes of a term openraft holds the higher id's for the newer one: it calls first.
    let before = membership.voter_ids().filter(|id| *id != leader && *id > metrics.id).count();
    Some((peer, u32::try_from(before).unwrap_or(u32::MAX).min(TURNS_MAX)))
}

/// For so long after a leader's last word nobody votes for another.
pub(crate) const LEASE: Duration = Duration::from_millis(350);
/// Two of a leader's heartbeats are missing.
const QUIET: Duration = Duration::from_millis(200);
/// What others heard last of the leader may be a little younger.
const MARGIN: Duration = Duration::from_millis(20);
/// In this time one member is elected, before the next tries.
const BETWEEN: Duration = Duration::from_millis(80);
/// Others come to it by their own clocks as soon.
const TURNS_MAX: u32 = 3;
/// A leader's machine that does not answer while it speaks is asked again after this.
const ASKED_AGAIN: Duration = Duration::from_secs(10);
