//! The life of a member: start (`control/start.rs`), take changes (`control/decide.rs`), answer questions, leave.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base_text::quoted;
use bytes::Bytes;
use control_api::client::Answer as HttpAnswer;
use control_api::{EdgeReport, Member, MemberRole, Principal, Refusal};
use control_state::{Action, Answer, FIRST_LEVEL, State};
use hyper::Method;
use openraft::ServerState;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::config::{AskEdge, Conceal, Config, StartError, StartErrorKind, StateFlag, host_port, same_place};
use crate::guard::Guard;
use crate::instance;
use crate::join::{self, Bound, Invitation, Issuing};
use crate::leaders::Told;
use crate::marks::Marks;
use crate::publish::{Follower, ObjectsSince, Publisher};
use crate::store::Store;
use crate::succession::AuthorityShown;
use crate::types::Raft;
use crate::upkeep::{self, Report};
use crate::wire::{IdentityAnswer, Wire};
use crate::{bounds, elections, peer};

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
    name: String,
    cluster_name: String,
    role: MemberRole,
    pub(crate) initial_cluster: BTreeMap<String, String>,
    primary_peer_urls: Vec<String>,
    request_timeout: Duration,
    pub(crate) peer_url: String,
    publisher: Arc<Publisher>,
    wire: Wire,
    pub(crate) guard: Guard,
    /// Members talk in plain text beyond this machine without a secret: neither private keys nor ticket keys go over that.
    pub(crate) exposed: bool,
    pub(crate) conceal: Option<Conceal>,
    pub(crate) ask_edge: Option<AskEdge>,
    /// Absent in a secondary.
    voter: Option<Voter>,
    gate: AtomicU8,
    member: Mutex<Member>,
    pub(crate) leaving: AtomicBool,
    pub(crate) reports: Mutex<BTreeMap<String, Report>>,
    pub(crate) reported: Notify,
    /// Who has said something new since the leader's last turn; no more than have reports.
    pub(crate) news: Mutex<BTreeSet<String>>,
    /// Members that turns about the news have looked at.
    pub(crate) looked_at: AtomicU64,
    /// Where a secondary found the leader last.
    pub(crate) leader_hint: Mutex<Option<String>>,
    leaderless_since: Mutex<Option<Instant>>,
    /// Tells this process from an earlier or another one of the same instance.
    pub(crate) run: u64,
    /// Why the others do not count this member, while that is so.
    trouble: Mutex<Option<String>>,
    /// Why this member can take part no longer; it stays so.
    failure: watch::Sender<Option<String>>,
    leader_changes: AtomicU64,
    proposals_failed: AtomicU64,
    pub(crate) without_id: AtomicU64,
    pub(crate) without_id_told: Mutex<Option<Instant>>,
    /// What this member understands, see `levels.rs`.
    pub(crate) level: u32,
    /// A change has waited for the feature level to rise, in vain; the next does not wait.
    pub(crate) level_awaited: AtomicBool,
    pub(crate) marks: Arc<Marks>,
    /// The cluster issues its members' certificates itself.
    pub(crate) issuing: Option<Issuing>,
    /// Connections on the peer URLs that may be open at the same time.
    pub(crate) peer_connections_max: usize,
    /// See `leaders.rs`.
    pub(crate) told_voters: Mutex<Told>,
    tasks: Mutex<JoinSet<()>>,
}

/// Tells of a task that ended although it was to run as long as the member, by a panic say.
struct Lasting {
    what: &'static str,
    failure: watch::Sender<Option<String>>,
    /// It may end by itself, when what it was for is done.
    may_end: bool,
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
        let inner = Arc::new(Inner {
            name: config.name,
            cluster_name: config.cluster_name,
            role: config.role,
            initial_cluster: config.initial_cluster,
            primary_peer_urls: config.primary_peer_urls,
            request_timeout: config.request_timeout,
            peer_url,
            publisher,
            wire,
            guard,
            exposed,
            conceal: config.conceal,
            ask_edge: config.edge_report,
            voter,
            gate: AtomicU8::new(gate as u8),
            member: Mutex::new(member),
            leaving: AtomicBool::new(false),
            reports: Mutex::default(),
            reported: Notify::new(),
            news: Mutex::default(),
            looked_at: AtomicU64::new(0),
            leader_hint: Mutex::default(),
            leaderless_since: Mutex::new(Some(Instant::now())),
            run: random(),
            trouble: Mutex::default(),
            failure: watch::Sender::new(None),
            leader_changes: AtomicU64::new(0),
            proposals_failed: AtomicU64::new(0),
            without_id: AtomicU64::new(0),
            without_id_told: Mutex::default(),
            level: config.level,
            level_awaited: AtomicBool::new(false),
            marks,
            issuing,
            peer_connections_max: config.peer_connections_max,
            told_voters: Mutex::default(),
            tasks: Mutex::new(JoinSet::new()),
        });
        let control = Control { inner: inner.clone(), runtime: Handle::current() };
        inner.set_gate(gate);
        let router = peer::router(inner.clone(), config.peer_routes);
        for listener in listeners {
            let tls = config.tls.as_ref().map(|tls| tls.server.clone());
            let serving = peer::serve(inner.clone(), listener, router.clone(), tls);
            inner.spawn_lasting("the peer listener", serving);
        }
        if let Err(error) = begin(&inner, alone, config.state_flag).await {
            control.stop().await;
            return Err(error);
        }
        inner.spawn_lasting("the upkeep of the members", upkeep::upkeep(inner.clone()));
        inner.spawn("the bounds of the log", bounds::keep_short(inner.clone()));
        inner.spawn("the pace of elections", elections::pace(inner.clone()));
        if let Some(tls) = config.tls {
            if inner.issuing.is_some() {
                inner.spawn_lasting("renewing the member's certificate", join::keep_certified(inner.clone()));
            }
            inner.spawn_lasting("reading the member's certificate", follow_certificates(inner.clone(), tls));
        }
        if let Some(secret) = inner.guard.secret().cloned() {
            inner.spawn_lasting("reading the cluster's secret", follow_secret(secret));
        }
        Ok(control)
    }

    /// Ends when this member can take part no longer, because its disk failed or a part of it panicked, and says why. It decides
    /// nothing from then on: [`Control::abandon`] it, and start another.
    pub async fn failed(&self) -> String {
        let mut failure = self.inner.failure.subscribe();
        let failed = failure.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
        // The sender lives as long as this handle does.
        failed.unwrap_or_default()
    }

    /// Why the others do not count this member although it runs: it was removed, or another has its name.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.inner.trouble).clone()
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
        self.inner.failure()
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
        &self.inner.name
    }

    pub fn cluster_name(&self) -> &str {
        &self.inner.cluster_name
    }

    pub fn role(&self) -> MemberRole {
        self.inner.role
    }

    pub fn peer_url(&self) -> &str {
        &self.inner.peer_url
    }

    /// Members talk in plain text beyond this machine without a secret (`--insecure-peers`): what they are told is nobody's secret,
    /// so private keys are not to be among it.
    pub fn exposed(&self) -> bool {
        self.inner.exposed
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
            self.inner.reported.notify_one();
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
        if inner.voters().len() != 1 || inner.role == MemberRole::Secondary {
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
        let mut tasks = std::mem::take(&mut *lock(&inner.tasks));
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

impl Drop for Lasting {
    fn drop(&mut self) {
        let panicked = std::thread::panicking();
        if panicked || !self.may_end {
            let reason = format!("{} has {}", self.what, if panicked { "panicked" } else { "ended" });
            self.failure.send_if_modified(|failure| failure.is_none() && failure.replace(reason).is_none());
        }
    }
}

impl Inner {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn cluster_name(&self) -> &str {
        &self.cluster_name
    }

    pub fn role(&self) -> MemberRole {
        self.role
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

    /// For a task that has an end; only a panic in it is this member's.
    pub fn spawn(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_guarded(what, true, task);
    }

    /// For a task that this member cannot do without.
    pub fn spawn_lasting(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_guarded(what, false, task);
    }

    fn spawn_guarded(&self, what: &'static str, may_end: bool, task: impl Future<Output = ()> + Send + 'static) {
        let lasting = Lasting { what, failure: self.failure.clone(), may_end };
        lock(&self.tasks).spawn(async move {
            let _lasting = lasting;
            task.await;
        });
    }

    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// Said once, in the log, and for as long as it is so to whoever asks.
    pub fn trouble(&self, reason: Option<String>) {
        let mut trouble = lock(&self.trouble);
        match (&*trouble, &reason) {
            (None, Some(reason)) => tracing::error!("{reason}"),
            (Some(before), Some(reason)) if before != reason => tracing::error!("{reason}"),
            (Some(_), None) => tracing::info!("the others count this member again"),
            _ => {}
        }
        *trouble = reason;
    }

    pub fn fail(&self, reason: String) {
        self.failure.send_if_modified(|failure| failure.is_none() && failure.replace(reason).is_none());
    }

    /// The Raft handle, while this member leads and a majority confirms it.
    pub fn leading(&self) -> Option<&Raft> {
        let voter = self.voter.as_ref()?;
        let metrics = voter.raft.metrics().borrow().clone();
        let confirmed = metrics.membership_config.membership().voter_ids().count() == 1
            || metrics.millis_since_quorum_ack.is_none_or(|silence| silence < QUORUM_SILENCE.as_millis() as u64);
        (metrics.state == ServerState::Leader && confirmed).then_some(&voter.raft)
    }

    /// Peer URL of the leader as far as it is known; never our own.
    pub fn leader_url(&self) -> Option<String> {
        let Some(voter) = &self.voter else { return lock(&self.leader_hint).clone() };
        let metrics = voter.raft.metrics().borrow().clone();
        metrics.running_state.as_ref().ok()?;
        let leader = metrics.current_leader.filter(|leader| *leader != metrics.id)?;
        let url = metrics.membership_config.membership().get_node(&leader).map(|peer| peer.url.clone());
        url.or_else(|| lock(&self.leader_hint).clone())
    }

    pub fn voters(&self) -> Vec<String> {
        let Some(voter) = &self.voter else { return Vec::new() };
        let metrics = voter.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        membership.voter_ids().filter_map(|id| membership.get_node(&id)).map(|peer| peer.name.clone()).collect()
    }

    /// Peer URLs at which other primaries may be found, the likeliest leader first.
    pub fn candidates(&self) -> Vec<String> {
        let mut urls: Vec<String> = lock(&self.leader_hint).clone().into_iter().collect();
        let initial = self.initial_cluster.iter().filter(|(name, _)| **name != self.name).map(|(_, url)| url);
        urls.extend(initial.cloned());
        if self.role == MemberRole::Secondary {
            urls.extend(self.primary_peer_urls.iter().cloned());
        }
        let state = self.publisher.state();
        let primaries = state.view.members.values().filter(|m| m.role == MemberRole::Primary && m.name != self.name);
        urls.extend(primaries.map(|member| member.peer_url.clone()));
        let mut seen = std::collections::BTreeSet::new();
        urls.retain(|url| !url.is_empty() && !same_place(url, &self.peer_url) && seen.insert(url.clone()));
        urls
    }

    /// Peer URLs that the configuration and the log name, and no report of a member.
    pub fn places_of_voters(&self, voters: &[String]) -> Vec<String> {
        let mut urls: Vec<String> = self.initial_cluster.values().chain(&self.primary_peer_urls).cloned().collect();
        if let Some(voter) = &self.voter {
            let metrics = voter.raft.metrics().borrow().clone();
            let nodes = metrics.membership_config.membership().nodes();
            urls.extend(nodes.filter(|(_, peer)| voters.contains(&peer.name)).map(|(_, peer)| peer.url.clone()));
        }
        let mut seen = std::collections::BTreeSet::new();
        urls.retain(|url| !url.is_empty() && !same_place(url, &self.peer_url) && seen.insert(url.clone()));
        urls
    }

    /// Whether this member is what is left of that cluster.
    pub fn survives(&self, cluster_id: &str) -> bool {
        let Some(voter) = &self.voter else { return false };
        voter.store.identity().recovered_from.iter().any(|lost| lost == cluster_id)
    }

    /// Hosts at which a member is known; empty for one that nobody knows yet.
    pub fn hosts_of(&self, name: &str) -> Vec<String> {
        let state = self.publisher.state();
        let known = state.view.members.get(name).map(|member| member.peer_url.clone());
        let urls = self.initial_cluster.get(name).cloned().into_iter().chain(known);
        urls.filter_map(|url| host_port("", &url).ok()).map(|(host, _)| host).collect()
    }

    pub fn identity(&self) -> IdentityAnswer {
        let voters = self.voters();
        IdentityAnswer {
            name: self.name.clone(),
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
            voters: self.voters(),
            leader_changes: self.leader_changes.load(Ordering::Relaxed),
            proposals_failed: self.proposals_failed.load(Ordering::Relaxed),
            members_without_id: self.without_id.load(Ordering::Relaxed),
            answers_forgotten: self.publisher.state().answers_forgotten(),
            calls_refused: self.guard.refused().collect(),
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
            metrics.learners = raft.membership_config.membership().learner_ids().count() as u64;
            metrics.leader = raft
                .current_leader
                .filter(|_| raft.running_state.is_ok())
                .and_then(|id| raft.membership_config.membership().get_node(&id).map(|peer| peer.name.clone()));
        } else {
            let state = self.publisher.state();
            let hint = lock(&self.leader_hint).clone();
            metrics.leader = hint.and_then(|url| {
                state.view.members.values().find(|member| member.peer_url == url).map(|member| member.name.clone())
            });
        }
        metrics
    }

    pub fn leaderless_for(&self) -> Duration {
        lock(&self.leaderless_since).map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Why this member may be behind, once it has heard of nobody who decides for longer than `after`.
    fn cut_off(&self, after: Duration) -> Option<String> {
        // One that leads, and that no majority confirms any more, still takes itself for the leader.
        let led = self.voter.as_ref().map(|voter| voter.raft.metrics().borrow().clone());
        let unconfirmed = led.filter(|raft| raft.state == ServerState::Leader && self.leading().is_none());
        let unconfirmed = unconfirmed.and_then(|raft| raft.millis_since_quorum_ack).map(Duration::from_millis);
        let silence = self.leaderless_for().max(unconfirmed.unwrap_or_default());
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

    /// Whether the leader, or for one that does not vote a primary, is known; it is not known since the first time it was not.
    pub(crate) fn note_leader(&self, known: bool) {
        let mut since = lock(&self.leaderless_since);
        *since = if known { None } else { since.or(Some(Instant::now())) };
    }

    fn any_primary(&self) -> Option<String> {
        if self.voter.is_some() {
            return None;
        }
        let candidates = self.candidates();
        let turn = random() as usize % candidates.len().max(1);
        candidates.get(turn).cloned()
    }

    /// A secondary that gets no answer asks another primary next time.
    pub fn forget_leader(&self, url: &str) {
        let mut hint = lock(&self.leader_hint);
        if hint.as_deref() == Some(url) {
            *hint = None;
        }
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
