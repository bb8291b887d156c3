//! Who is up, and who votes: members report to the leader, and the leader writes down what changed (`lead.rs`).

use std::sync::Arc;
use std::time::Duration;

use control_api::MemberRole;
use control_state::{Action, FIRST_LEVEL};

use crate::admission;
use crate::control::{Gate, Inner};
use crate::lead::Lead;
use crate::roll::PACE_MOST;
use crate::store::Identity;
use crate::term::{Term, serve};
use crate::wire::{Heartbeat, HeartbeatAnswer, UNWELCOME, WireError};

/// Runs for as long as the member does.
pub async fn upkeep(inner: Arc<Inner>) {
    let mut strays = 0;
    let mut told = String::new();
    let mut paced = BEAT;
    loop {
        if let Some(term) = Term::of(&inner) {
            serve(&mut Lead::new(term.clone()), || term.holds()).await;
            paced = BEAT;
            continue;
        }
        keep_cluster_id(&inner).await;
        // A member that comes to lead does so at once, whatever the one before does not answer.
        let beat = tokio::select! {
            beat = beat(&inner, false) => beat,
            () = inner.roll.leads.notified() => continue,
        };
        match beat {
            Ok(answer) => {
                paced = Duration::from_millis(answer.pace_ms).clamp(BEAT, PACE_MOST);
                inner.marks.told(inner.name(), answer.diverged);
                inner.note_authorities(&answer.authorities);
                let votes = inner.role() == MemberRole::Secondary || answer.voters.iter().any(|v| v == inner.name());
                // One that is on its way in asks by itself.
                let settled = inner.gate() == Gate::Open || strays > STRAYS;
                if votes && strays > STRAYS {
                    // Taken in again, perhaps by a call whose answer was lost.
                    inner.set_gate(Gate::Open);
                }
                strays = if votes || !settled { 0 } else { strays + 1 };
                if strays > STRAYS {
                    inner.health.set_trouble(Some(REMOVED.to_owned()));
                    admission::rejoin(&inner).await;
                } else {
                    inner.health.set_trouble(None);
                }
            }
            // The same is not said again with every beat.
            Err(error) if error.is_a_fault_of_configuration() && error.to_string() != told => {
                tracing::error!(%error, "the leader does not hear this member");
                told = error.to_string();
            }
            Err(error) => tracing::debug!(%error, "the leader did not hear this member"),
        }
        tokio::select! {
            () = inner.roll.reported.notified() => {}
            () = inner.roll.leads.notified() => {}
            () = tokio::time::sleep(paced) => {}
        }
    }
}

/// Writes down which cluster this is, once it is known.
pub(crate) async fn keep_cluster_id(inner: &Inner) {
    let Some(voter) = inner.voter() else { return };
    let id = inner.publisher().state().view.cluster_id.clone();
    let identity = voter.store.identity();
    if id.is_empty() || id == identity.cluster_id {
        return;
    }
    inner.wire().note_cluster_id(&id);
    if let Err(error) = voter.store.set_identity(Identity { cluster_id: id, ..identity }).await {
        tracing::warn!(%error, "the cluster's id could not be written down");
    }
}

/// Tells the leader that this member is about to be silent.
pub async fn say_goodbye(inner: &Inner) {
    if inner.leading().is_some() {
        let action = Action::SetMemberUp { name: inner.name().to_owned(), up: false };
        let _ = inner.propose(action).await;
    } else {
        let _ = beat(inner, true).await;
    }
}

async fn beat(inner: &Inner, leaving: bool) -> Result<HeartbeatAnswer, WireError> {
    let mark = match inner.voter() {
        Some(_) => inner.marks.latest(),
        None => Some(inner.publisher().state().mark(0)),
    };
    let mark = mark.filter(|_| inner.own.level > FIRST_LEVEL);
    let (member, run, edge) = (inner.member(), inner.own.run, inner.edge_report());
    let believes = inner.believes();
    let heartbeat = Heartbeat { member, run, leaving, mark, edge, brief: true, believes };
    let mut last = WireError::NotLeader(None);
    let urls = match inner.leader_url() {
        Some(url) => vec![url],
        // A primary that was removed hears of no leader any more.
        None if inner.role() == MemberRole::Secondary || inner.health.leaderless_for() > LOST => inner.candidates(),
        None => return Err(last),
    };
    for url in urls {
        match inner.wire().post(&url, "/raft/heartbeat", &heartbeat, BEAT_TIMEOUT).await {
            Ok(answer) => {
                inner.places.note_leader(Some(url));
                return Ok(answer);
            }
            Err(WireError::NotLeader(Some(leader))) if leader != url => {
                match inner.wire().post(&leader, "/raft/heartbeat", &heartbeat, BEAT_TIMEOUT).await {
                    Ok(answer) => {
                        inner.places.note_leader(Some(leader));
                        return Ok(answer);
                    }
                    Err(WireError::Refused { status: UNWELCOME, message }) => {
                        inner.health.set_trouble(Some(message.clone()));
                        return Err(WireError::Refused { status: UNWELCOME, message });
                    }
                    Err(error) => last = error,
                }
            }
            Err(error) => {
                if let WireError::Refused { status: UNWELCOME, message } = &error {
                    inner.health.set_trouble(Some(message.clone()));
                    return Err(error);
                }
                inner.places.forget_leader(&url);
                last = error;
            }
        }
    }
    Err(last)
}

pub(crate) const BEAT: Duration = Duration::from_millis(200);
pub(crate) const BEAT_TIMEOUT: Duration = Duration::from_millis(500);
const STRAYS: u32 = 5;
/// An election is over within this.
const LOST: Duration = Duration::from_millis(1500);
/// What a member is told that runs and was removed.
const REMOVED: &str = "the cluster has removed this member (weirctl member purge), and it runs: it asks to be taken in again and \
                       serves what it was last told. To take it out for good, stop it first and remove it then";
