//! A cluster whose majority is lost goes on as a cluster of one, from what one of its members has.
//!
//! Nobody can tell a lost majority from one that is out of reach, so this is an operator's word, and it is final: the cluster gets
//! another id, and whoever of the old group comes across the survivor is told that it is over ([`Identity::recovered_from`]) and
//! writes that down. Its edges and secondaries follow ([`control_api::Predecessor`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use base_text::quoted;
use control_api::MemberRole;
use control_state::State;
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::{CommittedLeaderId, RaftLogReader};

use crate::config::{Config, StartError, StartErrorKind};
use crate::control::of_this_member;
use crate::machine::Machine;
use crate::publish::Publisher;
use crate::sound::TERMS_AHEAD_MOST;
use crate::store::{Identity, OpenError, Store};
use crate::types::{LogId, Membership, Peer, SnapshotMeta, Vote, node_id};
use crate::wire::{IdentityAnswer, Wire, WireError};

/// What a recovery led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    pub cluster_id: String,
    /// Id of the cluster that was lost.
    pub before: String,
    pub version: u64,
    pub objects: usize,
    /// The others of the group.
    pub lost: Vec<String>,
    /// Where the file from before is kept.
    pub kept: PathBuf,
}

/// Makes a cluster of one of what the data directory of `config` has; the member must not run. With `although_alive` also when others
/// of its group answer.
pub async fn recover(config: &Config, although_alive: bool) -> Result<Recovered, StartError> {
    let fail = |kind: StartErrorKind, message: String| Err(StartError::new(kind, message));
    let place = config.data_dir.display();
    if config.role == MemberRole::Secondary {
        let message = "a secondary has no vote and no log, so that no cluster can go on from it: take a primary; of its edge there is \
                       weirctl last-good";
        return fail(StartErrorKind::Config, message.to_owned());
    }
    if !Store::is_there(&config.data_dir) {
        return fail(
            StartErrorKind::Data,
            format!(
                "{place}: there is no state of a member in it; give --home-dir and --data-dir as the member was started with"
            ),
        );
    }
    let empty =
        Identity { name: config.name.clone(), cluster_name: config.cluster_name.clone(), ..Identity::default() };
    let mut store = match Store::open(&config.data_dir, empty) {
        Ok(store) => store,
        Err(OpenError::Busy { path }) => {
            let message = format!("{} is in use: stop weir on this machine first", path.display());
            return fail(StartErrorKind::Data, message);
        }
        Err(OpenError::Damaged { path, reason }) => {
            return fail(
                StartErrorKind::Damaged,
                format!(
                    "{} is damaged: {reason}. Recover from another member; where none is left, found the cluster anew and restore a \
                     backup (weirctl restore), or what an edge serves (weirctl last-good restore)",
                    path.display()
                ),
            );
        }
        Err(error) => return fail(StartErrorKind::Data, error.to_string()),
    };
    let recovered = recover_from(config, although_alive, &mut store).await;
    store.close().await;
    let (identity, vote, meta, data, mut recovered) = recovered?;
    recovered.kept = Store::replace(&config.data_dir, &identity, &vote, &meta, &data)
        .map_err(|error| StartError::new(StartErrorKind::Data, format!("{error}; nothing was changed")))?;
    Ok(recovered)
}

type Anew = (Identity, Vote, SnapshotMeta, Vec<u8>, Recovered);

async fn recover_from(config: &Config, although_alive: bool, store: &mut Store) -> Result<Anew, StartError> {
    let fail = |kind: StartErrorKind, message: String| Err(StartError::new(kind, message));
    let raft_error = |e: &dyn std::fmt::Display| StartError::new(StartErrorKind::Raft, e.to_string());
    of_this_member(config, store)?;
    let identity = store.identity();
    if identity.amnesic {
        let message = "this member lost its state and was not taken in again since, so that it has not all that was decided: recover \
                       from another one";
        return fail(StartErrorKind::Data, message.to_owned());
    }
    let publisher = Publisher::new(State::default());
    let mut machine =
        Machine::load(store.clone(), publisher.clone(), Arc::default(), config.level).map_err(|e| raft_error(&e))?;
    let (applied, _) = machine.applied_state().await.map_err(|e| raft_error(&e))?;
    // Whatever may have been acknowledged: an entry that a majority had is among these, also where nobody told this member so.
    let next = applied.map_or(0, |applied| applied.index + 1);
    let entries = store.try_get_log_entries(next..).await.map_err(|e| raft_error(&e))?;
    machine.apply(entries).await.map_err(|e| raft_error(&e))?;
    let (last, membership) = machine.applied_state().await.map_err(|e| raft_error(&e))?;
    let mut state = machine.state().clone();
    let Some(last) = last.filter(|_| !state.view.cluster_id.is_empty()) else {
        let message = format!("{}: this member knows of no cluster yet", config.data_dir.display());
        return fail(StartErrorKind::Data, message);
    };
    let others: BTreeMap<String, String> = membership
        .membership()
        .nodes()
        .filter(|(id, _)| **id != node_id(&config.name))
        .map(|(_, peer)| (peer.name.clone(), peer.url.clone()))
        .collect();
    if others.is_empty() {
        let message = "this member is a cluster of one already, nothing is lost: start weir";
        return fail(StartErrorKind::Config, message.to_owned());
    }
    let alive = alive(config, &publisher, &others).await?;
    if !alive.is_empty() && !although_alive {
        return fail(
            StartErrorKind::Identity,
            format!(
                "other members of this cluster run, so that it may not be lost, or may go on from a member that has more: {}. Start \
                 weir here as well and wait for a leader. If the majority is gone for good, stop those that run, and recover from the one \
                 that has the highest version; or say --although-others-run: they are told then that their cluster is over",
                alive.join(", ")
            ),
        );
    }
    let before = state.view.cluster_id.clone();
    let mut drawn = [0; 16];
    rand::fill(&mut drawn).map_err(|_| raft_error(&"the machine has no random numbers"))?;
    state.found_anew(crate::secret::hex(&drawn), &config.name);
    let me = Peer { name: config.name.clone(), url: others_view_of(&membership, &config.name) };
    let alone = openraft::Membership::new(
        vec![BTreeSet::from([node_id(&config.name)])],
        BTreeMap::from([(node_id(&config.name), me)]),
    );
    let voted = store.read_vote().await.map_err(|e| raft_error(&e))?.map_or(0, |vote| vote.leader_id().term);
    let (last, term) = restart(last, voted, node_id(&config.name));
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        last_membership: Membership::new(Some(last), alone),
        snapshot_id: format!("recovered-{}", last.index),
    };
    let vote = Vote::new(term, node_id(&config.name));
    let data = serde_json::to_vec(&state).map_err(|e| raft_error(&e))?;
    let mut recovered_from = identity.recovered_from.clone();
    recovered_from.push(before.clone());
    let cluster_id = state.view.cluster_id.clone();
    let identity = Identity { cluster_id: cluster_id.clone(), recovered_from, superseded: None, ..identity };
    let (version, objects) = (state.view.version, state.view.objects.len());
    let lost = others.into_keys().collect();
    let recovered = Recovered { cluster_id, before, version, objects, lost, kept: PathBuf::new() };
    Ok((identity, vote, meta, data, recovered))
}

/// Where the log of the new cluster begins, and its first term. Terms that no election led to begin anew: no new member would take
/// them, and the group of them is gone.
fn restart(last: LogId, voted: u64, id: u64) -> (LogId, u64) {
    let known = voted.max(last.leader_id.term);
    if known < TERMS_AHEAD_MOST / 2 {
        return (last, known + 1);
    }
    (LogId::new(CommittedLeaderId::new(1, id), last.index), 2)
}

/// Where the group reaches this member.
fn others_view_of(membership: &Membership, name: &str) -> String {
    membership.membership().get_node(&node_id(name)).map(|peer| peer.url.clone()).unwrap_or_default()
}

/// Others that answer at their peer URLs, whatever they say.
async fn alive(
    config: &Config,
    publisher: &Arc<Publisher>,
    others: &BTreeMap<String, String>,
) -> Result<Vec<String>, StartError> {
    let wire =
        Wire::new(config, publisher.clone()).map_err(|e| StartError::new(StartErrorKind::Config, e.to_string()))?;
    let mut asked = tokio::task::JoinSet::new();
    for (name, url) in others.clone() {
        let wire = wire.clone();
        asked.spawn(async move {
            let answer = wire.get::<IdentityAnswer>(&url, "/raft/identity", PROBE).await;
            let silent = matches!(&answer, Err(WireError::Call(call)) if call.unsent);
            (!silent).then(|| format!("{} at {}", quoted(&name), quoted(&url)))
        });
    }
    let mut alive: Vec<String> = asked.join_all().await.into_iter().flatten().collect();
    alive.sort();
    Ok(alive)
}

/// Longer than a busy machine needs to answer.
const PROBE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_goes_on_at_a_term_that_new_members_take() {
        let at = |term| LogId::new(CommittedLeaderId::new(term, 7), 12);
        assert_eq!(restart(at(3), 5, 9), (at(3), 6), "as it was");
        for (written, voted) in [(3, 1 << 62), (1 << 62, 1 << 62), (u64::MAX, u64::MAX)] {
            let (last, term) = restart(at(written), voted, 9);
            assert!(last.leader_id.term < term && term < TERMS_AHEAD_MOST, "{written} {voted}: {last} {term}");
            assert_eq!(last.index, 12, "what is decided stays where it is");
        }
    }
}
