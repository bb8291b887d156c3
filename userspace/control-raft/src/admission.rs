//! Founding a cluster, joining one, and coming back without memory.
//!
//! The danger is a member that voted or acknowledged an entry, lost its disk, and votes again as if it had not: then two
//! leaders, or a lost entry, are possible although a majority always agreed. So a member whose file was damaged, or that
//! starts empty although the others know it, keeps its gate shut. It asks the leader to *forget* it (the remaining voters
//! decide alone from then on), then to *admit* it: as a learner, until it holds everything, and only then as a voter.
//!
//! A member with an empty directory and `--state-flag new` cannot know by itself whether it is new. It asks the others; a
//! majority (itself counted) has to answer before it does anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base_text::quoted;
use control_api::{Member, MemberRole, Refusal};
use control_state::{Action, Answer, Done};
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::{ChangeMembers, RaftMetrics};

use crate::config::{StartError, StartErrorKind, StateFlag};
use crate::control::{Gate, Inner, Voter};
use crate::store::Identity;
use crate::types::{Peer, Raft, node_id};
use crate::wire::{Admission, AdmissionStep, IdentityAnswer, OVER, Removal, WireError};

/// Asks whoever answers quickly whether this is the right cluster at all.
pub async fn same_cluster(inner: &Inner) -> Result<(), StartError> {
    // What is left of a cluster that this one was recovered from does not keep it from starting.
    let survives = inner.voter().is_some_and(|voter| !voter.store.identity().recovered_from.is_empty());
    for (url, answer) in identities(inner).await {
        if let Ok(IdentityAnswer { level, .. }) = &answer
            && *level > inner.own.level
        {
            return Err(StartError::new(
                StartErrorKind::Identity,
                format!(
                    "the cluster at {url} has feature level {level}, and this weir, version {}, knows {}: it would not understand what is \
                     decided; install the version that the other members run",
                    env!("CARGO_PKG_VERSION"),
                    inner.own.level
                ),
            ));
        }
        if let Err(WireError::Refused { status: OVER, message }) = &answer
            && let Some(voter) = inner.voter()
        {
            write_down(voter, message).await;
            return Err(StartError::new(StartErrorKind::Identity, message.clone()));
        }
        if let Err(WireError::Refused { status: 409, message }) = answer {
            if survives {
                tracing::warn!(url, message, "a member of another cluster is among the peer URLs");
                continue;
            }
            return Err(StartError::new(StartErrorKind::Identity, format!("{url} refuses this member: {message}")));
        }
    }
    Ok(())
}

/// Ends this member's part when the survivor of a lost cluster says that it was this one.
pub async fn end_with_cluster(inner: Arc<Inner>) {
    let Some(voter) = inner.voter() else { return };
    let message = inner.wire().over().await;
    inner.set_gate(Gate::Closed);
    write_down(voter, &message).await;
    inner.health.fail(message);
}

/// So that no later start takes part again while the survivor happens to be away.
async fn write_down(voter: &Voter, message: &str) {
    let identity = Identity { superseded: Some(message.to_owned()), ..voter.store.identity() };
    if let Err(error) = voter.store.set_identity(identity).await {
        tracing::warn!(%error, "that this member's cluster is over could not be written down");
    }
}

/// Finds this member's place among the others; returns when it takes part.
pub async fn find_place(inner: Arc<Inner>, flag: StateFlag) {
    let Some(voter) = inner.voter() else { return };
    let amnesic = voter.store.identity().amnesic;
    let mut told = BTreeSet::new();
    for turn in 0u32.. {
        let mut answers = Vec::new();
        for (_, answer) in identities(&inner).await {
            match answer {
                Ok(answer) => answers.push(answer),
                // The same is not said again with every try.
                Err(error) if error.is_a_fault_of_configuration() && !told.contains(&error.to_string()) => {
                    tracing::error!(%error, "a member of --initial-cluster");
                    told.insert(error.to_string());
                }
                Err(error) => tracing::debug!(%error, "a member of --initial-cluster"),
            }
        }
        let running: Vec<&IdentityAnswer> = answers.iter().filter(|answer| answer.initialised).collect();
        let known = running.iter().any(|answer| answer.members.iter().any(|name| name == inner.name()));
        let awaited = running.iter().any(|answer| answer.voters.iter().any(|name| name == inner.name()));
        let majority = answers.len() + 1 > inner.places.initial_cluster.len() / 2;
        let done = if amnesic || known || (!running.is_empty() && (!awaited || flag == StateFlag::Existing)) {
            come_back(&inner).await
        } else if !running.is_empty() {
            // The others began without us and expect our vote: there is nothing we could have forgotten.
            inner.set_gate(Gate::Open);
            true
        } else if majority && flag == StateFlag::New {
            found(&inner).await
        } else {
            false
        };
        if done {
            tracing::info!("this member takes part in the group");
            return;
        }
        if turn % 50 == 49 {
            tracing::warn!(
                answered = answers.len(),
                of = inner.places.initial_cluster.len() - 1,
                "still looking for the cluster"
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A running primary that the group forgot asks to be taken in again.
pub async fn rejoin(inner: &Inner) {
    // Until then it stays quiet: its candidacies would cost the others their leader.
    inner.set_gate(Gate::Appends);
    if ask(inner, AdmissionStep::Admit).await {
        inner.set_gate(Gate::Open);
        tracing::info!("the group counts this member again");
    }
}

async fn come_back(inner: &Inner) -> bool {
    let Some(voter) = inner.voter() else { return false };
    let mut identity = voter.store.identity();
    if !identity.amnesic {
        // Written down first: a crash in the middle must not lead to a vote.
        identity.amnesic = true;
        if voter.store.set_identity(identity.clone()).await.is_err() {
            return false;
        }
    }
    // A gate that opened for appends stays so: after that the group counts this member as a learner that it copies to.
    if inner.gate() == Gate::Closed && !ask(inner, AdmissionStep::Forget).await {
        return false;
    }
    inner.set_gate(Gate::Appends);
    if !ask(inner, AdmissionStep::Admit).await {
        return false;
    }
    identity.amnesic = false;
    if voter.store.set_identity(identity).await.is_err() {
        return false;
    }
    inner.set_gate(Gate::Open);
    true
}

async fn found(inner: &Inner) -> bool {
    let Some(voter) = inner.voter() else { return false };
    let members: BTreeMap<u64, Peer> = inner
        .places
        .initial_cluster
        .iter()
        .map(|(name, url)| (node_id(name), Peer { name: name.clone(), url: url.trim_end_matches('/').to_owned() }))
        .collect();
    inner.set_gate(Gate::Open);
    match voter.raft.initialize(members).await {
        Ok(()) => {}
        // Another founder was faster and its entries are here already.
        Err(error) => tracing::debug!(%error, "founding"),
    }
    true
}

async fn ask(inner: &Inner, step: AdmissionStep) -> bool {
    let (name, instance) = (inner.name().to_owned(), inner.member().instance);
    let admission = Admission { name, instance, url: inner.places.own.clone(), step, level: inner.own.level };
    let mut urls = inner.candidates();
    let mut asked = 0;
    while asked < urls.len() {
        let url = urls[asked].clone();
        asked += 1;
        match inner.wire().post::<Result<(), Refusal>>(&url, "/raft/admission", &admission, ADMISSION).await {
            Ok(Ok(())) => return true,
            Ok(Err(refusal)) => tracing::warn!(url, %step, %refusal, "not taken in yet"),
            Err(WireError::NotLeader(Some(leader))) if !urls[..asked].contains(&leader) => urls.insert(asked, leader),
            Err(error) => tracing::debug!(url, %step, %error, "not taken in"),
        }
    }
    false
}

async fn identities(inner: &Inner) -> Vec<(String, Result<IdentityAnswer, WireError>)> {
    let mut asked = tokio::task::JoinSet::new();
    for url in inner.candidates() {
        let wire = inner.wire().clone();
        asked.spawn(async move {
            let answer = wire.get(&url, "/raft/identity", PROBE).await;
            (url, answer)
        });
    }
    asked.join_all().await
}

impl Inner {
    /// The leader's side; `None` elsewhere.
    pub async fn admit_here(&self, admission: Admission) -> Option<Result<(), Refusal>> {
        let raft = self.leading()?;
        if let Some(taken) = self.name_taken(&admission.name, &admission.instance, None) {
            return Some(Err(Refusal::conflict(taken)));
        }
        if let Some(old) = self.too_old(&admission.name, admission.level) {
            return Some(Err(Refusal::conflict(old)));
        }
        let id = node_id(&admission.name);
        let expelled = self.was_expelled(&admission.name);
        let peer = Peer { name: admission.name.clone(), url: admission.url };
        tracing::info!(member = admission.name, url = peer.url, step = %admission.step, "admission");
        let change = async {
            match admission.step {
                AdmissionStep::Forget => forget(raft, id).await,
                AdmissionStep::Admit => admit(raft, id, peer, &|| self.was_expelled(&admission.name) != expelled).await,
            }
        };
        Some(match tokio::time::timeout(ADMISSION, change).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => Err(Refusal::unavailable(reason)),
            Err(_) => Err(Refusal::unavailable("the remaining members did not decide in time")),
        })
    }

    pub async fn remove_member(&self, name: &str) -> Answer {
        let removal = Removal { name: name.to_owned() };
        for _ in 0..REMOVE_TRIES {
            if let Some(answer) = self.remove_here(name).await {
                return answer;
            }
            let url = self.leader_url().or_else(|| self.candidates().first().cloned());
            if let Some(url) = url {
                match self.wire().post::<Answer>(&url, "/raft/remove", &removal, ADMISSION).await {
                    Ok(answer) => {
                        if let Ok(done) = &answer {
                            let _ = tokio::time::timeout(PROBE, self.publisher().reached(done.version)).await;
                        }
                        return answer;
                    }
                    Err(WireError::NotLeader(Some(leader))) if self.voter().is_none() => {
                        self.places.note_leader(Some(leader));
                    }
                    Err(_) => self.places.forget_leader(&url),
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(Refusal::unavailable("the cluster has no leader that could remove a member; start the missing members"))
    }

    /// The leader's side; `None` elsewhere.
    pub async fn remove_here(&self, name: &str) -> Option<Answer> {
        let raft = self.leading()?;
        let known = self.publisher().state().view.members.contains_key(name);
        let votes = self.voters().iter().any(|voter| voter == name);
        // One that is being taken in, or that has never answered, has no vote and is copied to all the same.
        let is_copied_to = raft.metrics().borrow().membership_config.membership().get_node(&node_id(name)).is_some();
        if votes && let Err(refusal) = self.decides_without(name) {
            return Some(Err(refusal));
        }
        if name == self.name() && (known || votes) {
            return Some(Err(Refusal::invalid(format!(
                "member {name} leads the cluster at the moment: stop it, wait for another leader, and remove it then",
                name = quoted(&name)
            ))));
        }
        // What it shows is good for nothing first: until then it would ask again, and be taken in. One that has said nothing of itself yet is
        // written down for that, because the version at which it is taken out tells its certificate from later ones of the name.
        let mut expelled = None;
        if self.issuing.is_some() && (known || is_copied_to || self.has_come(name)) {
            if !known && let Err(refusal) = self.propose(Action::PutMember { member: stranger(name) }).await {
                return Some(Err(refusal));
            }
            match self.propose(self.expulsion(name)).await {
                Ok(done) => expelled = Some(done),
                Err(refusal) => return Some(Err(refusal)),
            }
        }
        if is_copied_to {
            match tokio::time::timeout(ADMISSION, forget(raft, node_id(name))).await {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => return Some(Err(Refusal::unavailable(reason))),
                Err(_) => return Some(Err(Refusal::unavailable("the remaining members did not decide in time"))),
            }
        }
        self.roll.forget(name);
        if let Some(done) = expelled {
            return Some(Ok(done));
        }
        if is_copied_to && !known {
            let version = self.publisher().state().view.version;
            return Some(Ok(Done { version, ..Done::default() }));
        }
        Some(self.propose(self.expulsion(name)).await)
    }
}

/// Somebody of whom only the name is known.
fn stranger(name: &str) -> Member {
    Member { name: name.to_owned(), role: MemberRole::Secondary, ..Member::default() }
}

impl Inner {
    /// Refuses to take a voter out of a group that could decide nothing without it.
    fn decides_without(&self, name: &str) -> Result<(), Refusal> {
        let rest: Vec<String> = self.voters().into_iter().filter(|voter| voter != name).collect();
        if rest.is_empty() {
            return Err(Refusal::invalid(format!(
                "member {} is the only one that votes: without it there is no cluster. Take another one in first (weirctl member add)",
                quoted(&name)
            )));
        }
        let (up, down): (Vec<&String>, Vec<&String>) = rest.iter().partition(|voter| self.is_heard(voter));
        if up.len() > rest.len() / 2 {
            return Ok(());
        }
        let names = |list: &[&String]| list.iter().map(|name| quoted(name).to_string()).collect::<Vec<_>>().join(", ");
        Err(Refusal::invalid(format!(
            "without member {} nothing could be decided any more: of the {} that would vote, {} {} not up. Start {}, or remove what is gone \
             for good first",
            quoted(&name),
            rest.len(),
            names(&down),
            if down.len() == 1 { "is" } else { "are" },
            if down.len() == 1 { "it" } else { "them" },
        )))
    }
}

/// Takes a member out of the group, be it voter or learner by then.
async fn forget(raft: &Raft, id: u64) -> Result<(), String> {
    in_turn(|| async move {
        let membership = raft.metrics().borrow().membership_config.clone();
        let membership = membership.membership();
        let gone = if membership.voter_ids().any(|voter| voter == id) {
            ChangeMembers::RemoveVoters([id].into())
        } else if membership.get_node(&id).is_some() {
            ChangeMembers::RemoveNodes([id].into())
        } else {
            return Ok(());
        };
        raft.change_membership(gone, false).await.map(drop)
    })
    .await
}

/// Takes a member in, and lets it vote once it holds what the group does. Raft would hold one for up to date that has never answered, as
/// long as there is little to copy: with the vote of one that nobody reaches a small group decides nothing any more.
/// `is_expelled`: somebody has taken it out since it asked, maybe before it was there.
async fn admit(raft: &Raft, id: u64, peer: Peer, is_expelled: &(impl Fn() -> bool + Sync)) -> Result<(), String> {
    let taken_in = in_turn(|| raft.add_learner(id, peer.clone(), false)).await?.log_id;
    // Somebody took it out again, or another one of its name is there instead: whoever was removed gets no vote afterwards.
    let is_gone = |metrics: &RaftMetrics<u64, Peer>| {
        let group = &metrics.membership_config;
        group.log_id().is_some_and(|at| at >= taken_in) && group.membership().get_node(&id) != Some(&peer)
    };
    let holds = |metrics: &RaftMetrics<u64, Peer>| {
        let copied = metrics.replication.as_ref().and_then(|copied| copied.get(&id).copied().flatten());
        copied.is_some_and(|copied| copied.index >= taken_in.index)
    };
    let decided = |metrics: &RaftMetrics<u64, Peer>| holds(metrics) || is_gone(metrics) || is_expelled();
    let metrics = raft.wait(Some(ADMISSION)).metrics(decided, "a new member holds everything").await;
    let metrics = metrics.map_err(|_| "it does not answer at its peer URL, or not soon enough".to_owned())?;
    let expelled = is_expelled();
    if expelled {
        forget(raft, id).await?;
    }
    if expelled || is_gone(&metrics) {
        return Err("it was removed while it was being taken in, or another member of its name was".to_owned());
    }
    in_turn(|| raft.change_membership(ChangeMembers::AddVoterIds([id].into()), true)).await.map(drop)
}

/// Changes the group once no other change of it is under way: who is replaced goes while who comes is still being taken in. Whoever asks
/// gives it so much time and no more.
async fn in_turn<F, T>(change: impl Fn() -> F) -> Result<T, String>
where
    F: Future<Output = Result<T, RaftError<u64, ClientWriteError<u64, Peer>>>>,
{
    loop {
        match change().await {
            Ok(done) => return Ok(done),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(ChangeMembershipError::InProgress(_)))) => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

const PROBE: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(100);
/// Copying everything to a new member is part of it.
const ADMISSION: Duration = Duration::from_secs(10);
const REMOVE_TRIES: usize = 10;
