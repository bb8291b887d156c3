//! The life of a member: start (`control/start.rs`), take changes (`control/decide.rs`), answer questions, leave.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base_text::quoted;
use bytes::Bytes;
use control_api::client::Answer as HttpAnswer;
use control_api::{EdgeReport, Member, MemberRole, Principal, Refusal};
use control_state::{Action, Answer, FIRST_LEVEL, State};
use hyper::Method;
use openraft::ServerState;
use tokio::runtime::Handle;

use crate::config::{AskEdge, Conceal, Config, StartError, StartErrorKind, StateFlag};
use crate::guard::Guard;
use crate::health::Health;
use crate::instance;
use crate::join::{self, Bound, Invitation, Issuing};
use crate::marks::Marks;
use crate::places::Places;
use crate::publish::{Follower, ObjectsSince, Publisher};
use crate::roll::Roll;
use crate::store::Store;
use crate::succession::AuthorityShown;
use crate::tasks::Tasks;
use crate::types::{Raft, settled_voters};
use crate::upkeep;
use crate::wire::{IdentityAnswer, Wire};
use crate::{bounds, elections, peer, successor};

mod decide;
mod start;

pub(crate) use start::of_this_member;
use start::{advertised, begin, check, exposed, follow_certificates, follow_secret, listen, open, raft};

/// This process's part in the cluster. Clones are handles of the same member.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
    /// The runtime that Raft runs on. What others ask of this member is carried out there, so that a runtime that is busy with
    /// something else neither delays it nor drives a connection that members share.
    runtime: Handle,
}

/// Figures for `/metrics` and `/status/members`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    /// It leads, and a majority confirmed that within the last second.
    pub is_leader: bool,
    pub leader: Option<String>,
    pub term: u64,
    pub last_log_index: u64,
    pub commit_index: u64,
    pub applied_index: u64,
    pub snapshot_index: u64,
    pub purged_index: u64,
    /// Members that vote, and go on to do so if the group is being changed: whoever waits for one before taking another away may do that.
    pub voters: Vec<String>,
    /// Members that Raft copies to and that have no vote.
    pub learners: u64,
    /// Machines that cannot become members because all ids are taken, on the leader.
    pub members_without_id: u64,
    /// Since the start of the process.
    pub leader_changes: u64,
    /// Changes asked of this member that came to no decision, or to one that it did not hear of.
    pub proposals_failed: u64,
    /// Entries in the log, in bytes of their text.
    pub log_bytes: u64,
    /// Answers let go although their requests might be repeated.
    pub answers_forgotten: u64,
    /// The cluster's feature level: what all members understand.
    pub feature_level: u64,
    /// When the certificate ends that the cluster issued to this member.
    pub certificate_ends: Option<SystemTime>,
    /// When the authority ends that has issued it.
    pub authority_ends: Option<SystemTime>,
    /// Members whose state differs from the leader's: on the leader all of them, elsewhere this one.
    pub diverged: u64,
    pub config_version: u64,
    /// What each edge serves, on the leader.
    pub edge_versions: BTreeMap<String, u64>,
    /// Calls on the peer URL that were not answered, by reason.
    pub calls_refused: BTreeMap<&'static str, u64>,
}

pub(crate) struct Inner {
    pub(crate) own: Own,
    pub(crate) places: Places,
    pub(crate) door: Door,
    pub(crate) health: Arc<Health>,
    /// On the leader.
    pub(crate) roll: Roll,
    pub(crate) tasks: Tasks,
    publisher: Arc<Publisher>,
    wire: Wire,
    /// Absent in a secondary.
    voter: Option<Voter>,
    gate: AtomicU8,
    /// What this member says of itself.
    member: Mutex<Member>,
    pub(crate) ask_edge: Option<AskEdge>,
    pub(crate) leaving: AtomicBool,
    /// A change has waited for the feature level to rise, in vain; the next does not wait.
    pub(crate) level_awaited: AtomicBool,
    pub(crate) marks: Arc<Marks>,
    /// The cluster issues its members' certificates itself.
    pub(crate) issuing: Option<Issuing>,
}

/// What this member was started as.
pub(crate) struct Own {
    name: String,
    cluster_name: String,
    role: MemberRole,
    /// What it understands, see `levels.rs`.
    pub level: u32,
    /// Tells this process from an earlier or another one of the same instance.
    pub run: u64,
    request_timeout: Duration,
}

/// What those meet who call this member's peer URL.
pub(crate) struct Door {
    pub guard: Guard,
    /// Members talk in plain text beyond this machine without a secret: neither private keys nor ticket keys go over that.
    pub exposed: bool,
    pub conceal: Option<Conceal>,
    /// Connections that may be open at the same time.
    pub connections_max: usize,
}

pub(crate) struct Voter {
    pub raft: Raft,
    pub store: Store,
}

/// How far a voter takes part. A member whose memory is in doubt must not answer at all: see `admission.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Gate {
    Closed = 0,
    Appends = 1,
    Open = 2,
}

impl Control {
    /// Starts the member and returns when it can answer questions. Founding or joining a cluster with others goes on in
    /// the background; a cluster of one is ready for changes at once.
    pub async fn start(config: Config) -> Result<Control, StartError> {
        let (config, issuing) = join::settle(config).await?;
        let listeners = listen(&config)?;
        let peer_url = advertised(&config, &listeners)?;
        let alone = config.role == MemberRole::Primary
            && config.state_flag == StateFlag::New
            && config.initial_cluster.keys().all(|name| *name == config.name);
        check(&config, alone)?;
        let publisher = Publisher::new(State::default());
        let wire = Wire::new(&config, publisher.clone())
            .map_err(|e| StartError::new(StartErrorKind::Config, e.to_string()))?;
        let guard = Guard::new(&config, &peer_url);
        let marks = Arc::<Marks>::default();
        let exposed = exposed(&config, &listeners);
        let (voter, pristine) = match config.role {
            MemberRole::Primary => {
                let store = open(&config, alone).await?;
                wire.note_cluster_id(&store.identity().cluster_id);
                let pristine = store.is_pristine();
                let raft = raft(&config, &wire, &store, &publisher, &marks).await?;
                (Some(Voter { raft, store }), pristine)
            }
            MemberRole::Secondary => (None, false),
        };
        let member = Member {
            name: config.name.clone(),
            role: config.role,
            peer_url: if listeners.is_empty() { String::new() } else { peer_url.clone() },
            up: true,
            instance: instance::of(&config.data_dir)?,
            level: if config.level > FIRST_LEVEL { config.level } else { 0 },
            ..config.member
        };
        let amnesic = voter.as_ref().is_some_and(|voter| voter.store.identity().amnesic);
        let gate = if pristine && !alone || amnesic { Gate::Closed } else { Gate::Open };
        let health = Arc::new(Health::new());
        let inner = Arc::new(Inner {
            own: Own {
                name: config.name,
                cluster_name: config.cluster_name,
                role: config.role,
                level: config.level,
                run: random(),
                request_timeout: config.request_timeout,
            },
            places: Places::new(peer_url, config.initial_cluster, config.primary_peer_urls),
            door: Door { guard, exposed, conceal: config.conceal, connections_max: config.peer_connections_max },
            tasks: Tasks::new(health.clone()),
            health,
            roll: Roll::default(),
            publisher,
            wire,
            voter,
            gate: AtomicU8::new(gate as u8),
            member: Mutex::new(member),
            ask_edge: config.edge_report,
            leaving: AtomicBool::new(false),
            level_awaited: AtomicBool::new(false),
            marks,
            issuing,
        });
        let control = Control { inner: inner.clone(), runtime: Handle::current() };
        inner.set_gate(gate);
        let router = peer::router(inner.clone(), config.peer_routes);
        for listener in listeners {
            let tls = config.tls.as_ref().map(|tls| tls.server.clone());
            let serving = peer::serve(inner.clone(), listener, router.clone(), tls);
            inner.tasks.spawn_lasting("the peer listener", serving);
        }
        if let Err(error) = begin(&inner, alone, config.state_flag).await {
            control.stop().await;
            return Err(error);
        }
        inner.tasks.spawn_lasting("the upkeep of the members", upkeep::upkeep(inner.clone()));
        inner.tasks.spawn("the bounds of the log", bounds::keep_short(inner.clone()));
        inner.tasks.spawn("the pace of elections", elections::pace(inner.clone()));
        inner.tasks.spawn("looking for the leader's machine", successor::watch(inner.clone()));
        if let Some(tls) = config.tls {
            if inner.issuing.is_some() {
                inner.tasks.spawn_lasting("renewing the member's certificate", join::keep_certified(inner.clone()));
            }
            inner.tasks.spawn_lasting("reading the member's certificate", follow_certificates(inner.clone(), tls));
        }
        if let Some(secret) = inner.door.guard.secret().cloned() {
            inner.tasks.spawn_lasting("reading the cluster's secret", follow_secret(secret));
        }
        Ok(control)
    }

    /// Ends when this member can take part no longer, because its disk failed or a part of it panicked, and says why. It decides
    /// nothing from then on: [`Control::abandon`] it, and start another.
    pub async fn failed(&self) -> String {
        self.inner.health.failed().await
    }

    /// Why the others do not count this member although it runs: it was removed, or another has its name.
    pub fn trouble(&self) -> Option<String> {
        self.inner.health.trouble()
    }

    /// Whose state differs from the leader's, in words: on the leader of all members, elsewhere of this one.
    pub fn diverged(&self) -> Vec<String> {
        self.inner.marks.diverged()
    }

    /// Why this member may be behind: it has heard of no leader, or, where it does not vote, from no primary for longer than
    /// `after`.
    pub fn cut_off(&self, after: Duration) -> Option<String> {
        self.inner.cut_off(after)
    }

    /// What [`Control::failed`] waits for, if it has come already.
    pub fn failure(&self) -> Option<String> {
        self.inner.health.failure()
    }

    /// Carries a change to the leader and waits until it is decided, and visible here. May be called from any runtime; a caller
    /// that gives up takes nothing back.
    pub async fn propose(&self, action: Action) -> Answer {
        let inner = self.inner.clone();
        self.on_own_runtime(async move { inner.propose(action).await }).await?
    }

    /// The same on somebody's behalf.
    pub async fn propose_for(&self, action: Action, by: Principal) -> Answer {
        let inner = self.inner.clone();
        self.on_own_runtime(async move { inner.propose_for(action, Some(by)).await }).await?
    }

    /// Waits until this member knows everything that was decided before the call; false when nobody can tell.
    pub async fn catch_up(&self) -> bool {
        let inner = self.inner.clone();
        self.on_own_runtime(async move { inner.catch_up().await }).await.unwrap_or(false)
    }

    /// The state as this member knows it now.
    pub fn state(&self) -> Arc<State> {
        self.inner.publisher.state()
    }

    /// Follows every change. `at` is what the reader has already: cluster id and version; `None` asks for a snapshot.
    pub fn follow(&self, at: Option<(String, u64)>) -> Follower {
        self.inner.publisher.follow(at)
    }

    /// What became of objects after a version, as far as it is remembered: of the last thousand changes or so, since this process began.
    pub fn objects_since(&self, version: u64) -> Option<ObjectsSince> {
        self.inner.publisher.objects_since(version)
    }

    /// Waits until there is another state than this one; `None` after the shutdown.
    pub async fn beyond(&self, seen: &State) -> Option<Arc<State>> {
        self.inner.publisher.beyond(seen).await
    }

    /// The term in which this member leads, while a majority confirms it.
    pub fn leads(&self) -> Option<u64> {
        self.inner.leading().map(|raft| raft.metrics().borrow().current_term)
    }

    pub fn name(&self) -> &str {
        self.inner.name()
    }

    pub fn cluster_name(&self) -> &str {
        self.inner.cluster_name()
    }

    pub fn role(&self) -> MemberRole {
        self.inner.role()
    }

    pub fn peer_url(&self) -> &str {
        &self.inner.places.own
    }

    /// Members talk in plain text beyond this machine without a secret (`--insecure-peers`): what they are told is nobody's secret,
    /// so private keys are not to be among it.
    pub fn exposed(&self) -> bool {
        self.inner.door.exposed
    }

    #[cfg(test)]
    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    #[cfg(test)]
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Changes what this member says of itself, e.g. `edge: false` while it drains, or the address its API got.
    pub fn update_member(&self, change: impl FnOnce(&mut Member)) {
        let changed = {
            let mut member = lock(&self.inner.member);
            let before = member.clone();
            change(&mut member);
            *member != before
        };
        if changed {
            self.inner.roll.reported.notify_one();
        }
    }

    /// Forgets a member: it votes no more, and its id is free again. One that runs says so and comes back by itself.
    pub async fn remove_member(&self, name: &str) -> Answer {
        let (inner, name) = (self.inner.clone(), name.to_owned());
        self.on_own_runtime(async move { inner.remove_member(&name).await }).await?
    }

    /// A token with which one new member may come to a cluster that issues certificates itself, for as long as it `lasts`.
    pub async fn invite(&self, lasts: Duration, bound: Bound) -> Result<Invitation, Refusal> {
        let inner = self.inner.clone();
        self.on_own_runtime(async move { inner.invite(lasts, bound).await }).await?
    }

    /// The change by which another authority follows the one that signs the members' certificates, now and not when that ends.
    pub fn next_authority(&self) -> Result<Action, Refusal> {
        self.inner.successor(SystemTime::now())
    }

    /// How the authority is; `None` where the cluster issues no certificates.
    pub fn authority(&self) -> Option<AuthorityShown> {
        self.inner.authority_shown()
    }

    /// What the edges say of themselves, by member; `None` where the leader cannot be asked.
    pub async fn edges(&self) -> Option<BTreeMap<String, EdgeReport>> {
        let inner = self.inner.clone();
        self.on_own_runtime(async move { inner.edges().await }).await.ok()?
    }

    /// When the leader last heard of each member; of none where it cannot be asked.
    pub async fn heard(&self) -> BTreeMap<String, SystemTime> {
        let inner = self.inner.clone();
        let heard = self.on_own_runtime(async move { inner.heard().await }).await.unwrap_or_default();
        let at = |ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        heard.into_iter().map(|(name, ms)| (name, at(ms))).collect()
    }

    /// Asks another member over its peer URL.
    pub async fn call_member(
        &self,
        member: &Member,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
        timeout: Duration,
    ) -> Result<HttpAnswer, Refusal> {
        if member.peer_url.is_empty() {
            return Err(Refusal::unavailable(format!("member {} has no peer URL", quoted(&member.name))));
        }
        let (inner, url, path) = (self.inner.clone(), member.peer_url.clone(), path.to_owned());
        let (name, body) = (member.name.clone(), body.into());
        let call = async move {
            let answer = inner.wire.call(method, &url, &name, &path, body, timeout).await;
            answer.map_err(|error| Refusal::unavailable(format!("member {name}: {error}")))
        };
        self.on_own_runtime(call).await?
    }

    async fn on_own_runtime<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let done = self.runtime.spawn(work).await;
        done.map_err(|failed| match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Refusal::unavailable("this member has stopped"),
        })
    }

    pub fn metrics(&self) -> Metrics {
        self.inner.metrics()
    }

    /// Says goodbye, so that the others need not wait for the silence, and stops. State stays readable.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.leaving.store(true, Ordering::Relaxed);
        if inner.voters().len() != 1 || inner.role() == MemberRole::Secondary {
            let _ = tokio::time::timeout(GOODBYE, upkeep::say_goodbye(inner)).await;
        }
        self.stop().await;
    }

    /// Stops without a word to anybody and lets go of ports and files, so that another can be started in its place. State stays
    /// readable.
    pub async fn abandon(&self) {
        self.stop().await;
    }

    async fn stop(&self) {
        let inner = &self.inner;
        let mut tasks = inner.tasks.take();
        let stopped = async {
            tasks.shutdown().await;
            if let Some(voter) = &inner.voter {
                let _ = voter.raft.shutdown().await;
                voter.store.close().await;
            }
        };
        if tokio::time::timeout(STOP, stopped).await.is_err() {
            tracing::warn!("the member did not stop within {}; its disk may be hanging", base_text::duration(STOP));
        }
        inner.publisher.close();
    }
}

impl Inner {
    pub fn name(&self) -> &str {
        &self.own.name
    }

    pub fn cluster_name(&self) -> &str {
        &self.own.cluster_name
    }

    pub fn role(&self) -> MemberRole {
        self.own.role
    }

    pub fn publisher(&self) -> Arc<Publisher> {
        self.publisher.clone()
    }

    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    pub fn voter(&self) -> Option<&Voter> {
        self.voter.as_ref()
    }

    pub fn member(&self) -> Member {
        lock(&self.member).clone()
    }

    pub fn gate(&self) -> Gate {
        match self.gate.load(Ordering::Acquire) {
            0 => Gate::Closed,
            1 => Gate::Appends,
            _ => Gate::Open,
        }
    }

    pub fn set_gate(&self, gate: Gate) {
        self.gate.store(gate as u8, Ordering::Release);
        if let Some(voter) = &self.voter {
            voter.raft.runtime_config().elect(gate == Gate::Open);
        }
    }

    pub fn voter_behind(&self, gate: Gate) -> Option<&Voter> {
        self.voter.as_ref().filter(|_| self.gate() >= gate)
    }

    /// The Raft handle, while this member leads and a majority confirms it.
    pub fn leading(&self) -> Option<&Raft> {
        let voter = self.voter.as_ref()?;
        let metrics = voter.raft.metrics().borrow().clone();
        let confirmed = metrics.membership_config.membership().voter_ids().count() == 1
            || metrics.millis_since_quorum_ack.is_none_or(|silence| silence < QUORUM_SILENCE.as_millis() as u64);
        (metrics.state == ServerState::Leader && confirmed).then_some(&voter.raft)
    }

    /// The same in this term alone.
    pub fn leading_in(&self, term: u64) -> Option<&Raft> {
        self.leading().filter(|raft| raft.metrics().borrow().current_term == term)
    }

    pub fn voters(&self) -> Vec<String> {
        let Some(voter) = &self.voter else { return Vec::new() };
        let metrics = voter.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        membership.voter_ids().filter_map(|id| membership.get_node(&id)).map(|peer| peer.name.clone()).collect()
    }

    /// Whether this member is what is left of that cluster.
    pub fn survives(&self, cluster_id: &str) -> bool {
        let Some(voter) = &self.voter else { return false };
        voter.store.identity().recovered_from.iter().any(|lost| lost == cluster_id)
    }

    pub fn identity(&self) -> IdentityAnswer {
        let voters = self.voters();
        IdentityAnswer {
            name: self.own.name.clone(),
            initialised: self.gate() == Gate::Open && !voters.is_empty(),
            voters,
            members: self.publisher.state().view.members.keys().cloned().collect(),
            level: self.publisher.state().level(),
        }
    }

    pub fn metrics(&self) -> Metrics {
        let config_version = self.publisher.state().view.version;
        let mut metrics = Metrics {
            config_version,
            leader_changes: self.health.leader_changes(),
            proposals_failed: self.health.proposals_failed(),
            members_without_id: self.roll.without_id(),
            answers_forgotten: self.publisher.state().answers_forgotten(),
            calls_refused: self.door.guard.refused().collect(),
            edge_versions: self.edges_here().into_iter().map(|(name, edge)| (name, edge.version)).collect(),
            feature_level: self.publisher.state().level().into(),
            diverged: self.marks.diverged().len() as u64,
            certificate_ends: self.issuing.as_ref().and_then(|issuing| issuing.tls.ends()),
            authority_ends: self.issuing.as_ref().and_then(Issuing::authority_ends),
            ..Metrics::default()
        };
        if let Some(voter) = &self.voter {
            let raft = voter.raft.metrics().borrow().clone();
            let index = |id: Option<crate::types::LogId>| id.map_or(0, |id| id.index);
            metrics.is_leader = self.leading().is_some();
            metrics.term = raft.current_term;
            metrics.last_log_index = raft.last_log_index.unwrap_or(0);
            metrics.applied_index = index(raft.last_applied);
            metrics.commit_index = index(voter.store.committed()).max(metrics.applied_index);
            metrics.snapshot_index = index(raft.snapshot);
            metrics.purged_index = index(raft.purged);
            metrics.log_bytes = voter.store.bytes_after(None);
            metrics.voters = settled_voters(&voter.store.group(), raft.membership_config.membership());
            metrics.learners = raft.membership_config.membership().learner_ids().count() as u64;
            metrics.leader = raft
                .current_leader
                .filter(|_| raft.running_state.is_ok())
                .and_then(|id| raft.membership_config.membership().get_node(&id).map(|peer| peer.name.clone()));
        } else {
            let state = self.publisher.state();
            metrics.leader = self.places.leader().and_then(|url| {
                state.view.members.values().find(|member| member.peer_url == url).map(|member| member.name.clone())
            });
        }
        metrics
    }

    /// Why this member may be behind, once it has heard of nobody who decides for longer than `after`.
    fn cut_off(&self, after: Duration) -> Option<String> {
        // One that leads, and that no majority confirms any more, still takes itself for the leader.
        let led = self.voter.as_ref().map(|voter| voter.raft.metrics().borrow().clone());
        let unconfirmed = led.filter(|raft| raft.state == ServerState::Leader && self.leading().is_none());
        let unconfirmed = unconfirmed.and_then(|raft| raft.millis_since_quorum_ack).map(Duration::from_millis);
        let silence = self.health.leaderless_for().max(unconfirmed.unwrap_or_default());
        if silence <= after {
            return None;
        }
        let seconds = silence.as_secs();
        Some(if self.voter.is_some() {
            format!(
                "{}; it has been so for {seconds} s: no change is taken, and traffic is served as it was last configured",
                self.no_leader("").message
            )
        } else {
            let urls = self.candidates().join(", ");
            format!(
                "no primary has said anything for {seconds} s ({urls}): changes do not reach this member, and traffic is served as it \
                 was last configured; see its log for why, and look at the primaries, --primary-listen-peer-urls and --cluster-name"
            )
        })
    }

    fn no_leader(&self, detail: &str) -> Refusal {
        let voters = self.voters();
        let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
        let who = if voters.is_empty() {
            "this member has not found its cluster yet".to_owned()
        } else {
            format!("a majority of {} is needed", voters.join(", "))
        };
        Refusal::unavailable(format!(
            "the cluster has no leader: {who}{detail}. Traffic goes on with the last configuration; start the missing members"
        ))
    }
}

/// One of the small locks of a member. Whatever panicked under it left a value that is as good as the one before.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Unpredictable enough to tell requests apart: the hasher's keys are random per process and never repeat in it.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A leader that a majority has not confirmed for so long sends nobody to itself.
const QUORUM_SILENCE: Duration = Duration::from_millis(1000);
const RETRY: Duration = Duration::from_millis(25);
/// A disk that hangs does not keep the process from ending.
const STOP: Duration = Duration::from_secs(5);
const GOODBYE: Duration = Duration::from_millis(500);
