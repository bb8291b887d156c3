//! Who runs controllers, and when: the member that leads, one for each object that asks for it, under one lease. It is a task of the leader
//! as what that writes down of the members is: see `control_raft`'s `term.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base_model::{
    AutoCertManagerSpec, Document as Parsed, Findings, GatewayControllerSpec, IngressControllerSpec,
    ServiceRegistrySpec, decode, problem,
};
use base_text::quoted;
use bytes::Bytes;
use control_api::{Document, EdgeReport, Member, Principal, PrincipalKind};
use control_kubernetes::{gateway, ingress};
use control_raft::{Control, Duty, Next, serve};
use control_state::{Action, Answer, Fence, State, owner};
use hyper::Method;
use imbl::ordmap::DiffItem;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::auto_cert;
use crate::board::{Board, SERVICES_MAX};
use crate::gateway::GatewayMaker;
use crate::ingress::{IngressMaker, Servers};
use crate::keys::Keys;
use crate::kubernetes::{self, Checks, Maker};
use crate::pause::Pause;
use crate::service_registry;

/// The cluster as controllers see it.
pub trait Cluster: Clone + Send + Sync + 'static {
    /// Of this member.
    fn name(&self) -> String;
    /// The term in which this member leads, if it does.
    fn leads(&self) -> Option<u64>;
    fn state(&self) -> Arc<State>;
    /// Returns when the state has another version than this.
    fn changed(&self, version: u64) -> impl Future<Output = ()> + Send;
    /// Waits until every edge that is heard of serves this version or a later one; false after `patience`.
    fn served(&self, version: u64, patience: Duration) -> impl Future<Output = bool> + Send;
    /// Asks another member over its peer URL; its good answer. An error says who gives none, and why.
    fn call(
        &self,
        member: &Member,
        method: Method,
        path: &str,
        body: impl Into<Bytes> + Send,
    ) -> impl Future<Output = Result<Bytes, String>> + Send;
    /// Others might hear what members say to each other.
    fn exposed(&self) -> bool;
    /// On behalf of the controller of an object.
    fn propose(&self, action: Action, object: &str) -> impl Future<Output = Answer> + Send;
}

/// Another member leads by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deposed;

impl Cluster for Control {
    fn name(&self) -> String {
        Control::name(self).to_owned()
    }

    fn leads(&self) -> Option<u64> {
        Control::leads(self)
    }

    fn state(&self) -> Arc<State> {
        Control::state(self)
    }

    async fn changed(&self, version: u64) {
        let cluster = Control::state(self).view.cluster_id.clone();
        if self.follow(Some((cluster, version))).next().await.is_none() {
            // It has shut down; whoever asks finds that it does not lead.
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn served(&self, version: u64, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            // One that keeps to what it has will not come to it.
            let behind = |edge: &EdgeReport| edge.version < version && edge.withheld.is_none();
            if self.edges().await.is_some_and(|edges| !edges.values().any(behind)) {
                return true;
            }
            if Instant::now() > until {
                return false;
            }
            tokio::time::sleep(EDGES_LOOK).await;
        }
    }

    async fn call(
        &self,
        member: &Member,
        method: Method,
        path: &str,
        body: impl Into<Bytes> + Send,
    ) -> Result<Bytes, String> {
        let answer = self.call_member(member, method, path, body, CALL).await;
        answer.map(|answer| answer.body).map_err(|refusal| refusal.message)
    }

    fn exposed(&self) -> bool {
        Control::exposed(self)
    }

    async fn propose(&self, action: Action, object: &str) -> Answer {
        let by = Principal {
            kind: PrincipalKind::Controller,
            name: object.to_owned(),
            at: Control::name(self).to_owned(),
            ..Principal::default()
        };
        self.propose_for(action, by).await
    }
}

/// Runs controllers whenever this member leads, for as long as it is not dropped.
pub async fn run<C: Cluster>(cluster: C, board: Arc<Board>, checks: Arc<dyn Checks>, keys: Arc<Keys>) {
    // Ends what was begun when this is dropped.
    let mut turn = JoinSet::new();
    let mut pause = Pause::new(LOOK, PAUSE);
    loop {
        let Some(term) = cluster.leads() else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        let leader = Leader::new(cluster.clone(), board.clone(), checks.clone(), keys.clone(), term);
        turn.spawn(leader.lead());
        if let Some(Err(error)) = turn.join_next().await {
            board.restarts.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%error, "the host of controllers has failed and starts again");
        } else {
            pause.reset();
        }
        board.clear();
        tokio::time::sleep(pause.take()).await;
    }
}

/// One time of leading.
struct Leader<C> {
    cluster: C,
    board: Arc<Board>,
    checks: Arc<dyn Checks>,
    keys: Arc<Keys>,
    term: u64,
    /// Once an object asked for it.
    fence: Option<Fence>,
    objects: Objects,
    running: BTreeMap<String, Running>,
    /// Those that are to be started again, and when at the earliest.
    later: BTreeMap<String, (Instant, Pause)>,
    tasks: JoinSet<Deposed>,
    /// Of the state that was looked at last.
    version: u64,
    keys_looked_at: Instant,
}

struct Running {
    document: Document,
    task: AbortHandle,
    wanted: watch::Sender<BTreeSet<String>>,
}

/// What documents ask of controllers: of one that is as it was, as it was read.
#[derive(Default)]
struct Objects {
    seen: control_api::Objects,
    /// Services that pools of a document ask for, by its name: registry and service.
    asks: HashMap<String, Box<[(String, String)]>>,
    /// Those that have controllers.
    registries: BTreeMap<String, Document>,
}

/// What a turn begins from.
struct Seen {
    now: Instant,
    /// Objects that have controllers.
    registries: BTreeMap<String, Document>,
    /// Those whose controller runs, and what its document was when it began.
    running: BTreeMap<String, Document>,
    /// Those that are to be started again, and when at the earliest.
    later: BTreeMap<String, Instant>,
    /// Something is different of what documents ask of controllers.
    asks_else: bool,
    /// Keys whose time is over, if that was looked at.
    keys_over: bool,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    stop: Vec<String>,
    /// Put off, and gone meanwhile.
    forget: Vec<String>,
    start: Vec<(String, Document)>,
    /// Controllers are told what is asked of them.
    tell: bool,
    end_keys: bool,
}

impl<C: Cluster> Duty for Leader<C> {
    type Seen = Seen;
    type Plan = Plan;

    fn observe(&mut self) -> Seen {
        let state = self.cluster.state();
        self.version = state.view.version;
        let now = Instant::now();
        let looks_at_keys = now.saturating_duration_since(self.keys_looked_at) > KEYS_LOOKED_AT;
        if looks_at_keys {
            self.keys_looked_at = now;
        }
        let asks_else = self.objects.look(&state.view.objects);
        Seen {
            now,
            registries: self.objects.registries.clone(),
            running: self.running.iter().map(|(name, running)| (name.clone(), running.document.clone())).collect(),
            later: self.later.iter().map(|(name, (at, _))| (name.clone(), *at)).collect(),
            asks_else,
            keys_over: looks_at_keys && has_keys_over(&state, now_ms()),
        }
    }

    fn plan(seen: &Seen) -> Plan {
        let is_over = |(name, document): &(&String, &Document)| {
            seen.registries.get(*name).is_none_or(|there| !Arc::ptr_eq(there, document))
        };
        let stop: Vec<String> = seen.running.iter().filter(is_over).map(|(name, _)| name.clone()).collect();
        let forget = seen.later.keys().filter(|name| !seen.registries.contains_key(*name)).cloned().collect();
        // One that runs is not started, however long ago it was put off.
        let is_missing = |(name, _): &(&String, &Document)| {
            let runs = seen.running.contains_key(*name) && !stop.contains(name);
            !runs && seen.later.get(*name).is_none_or(|at| *at <= seen.now)
        };
        let start = seen.registries.iter().filter(is_missing).map(|(name, document)| (name.clone(), document.clone()));
        Plan { start: start.collect(), stop, forget, tell: seen.asks_else, end_keys: seen.keys_over }
    }

    async fn act(&mut self, plan: Plan) -> Next {
        for name in plan.stop {
            if let Some(running) = self.running.remove(&name) {
                running.task.abort();
            }
            self.board.remove(&name);
        }
        for name in plan.forget {
            self.later.remove(&name);
            self.board.remove(&name);
        }
        for (name, document) in plan.start {
            if self.start(name, document).await.is_err() {
                return Next::Over;
            }
        }
        if plan.tell {
            for (name, running) in &self.running {
                let wanted = self.objects.services_of(name, &self.board);
                running.wanted.send_if_modified(|known| {
                    let differs = *known != wanted;
                    if differs {
                        *known = wanted;
                    }
                    differs
                });
            }
        }
        if plan.end_keys
            && let Err(refusal) = self.cluster.propose(Action::EndKeys { at: now_ms() }, LEASE).await
        {
            tracing::warn!(%refusal, "keys whose time is over could not be taken out");
        }
        Next::Rest
    }

    async fn rest(&mut self) -> Next {
        tokio::select! {
            () = self.cluster.changed(self.version) => Next::Turn,
            () = tokio::time::sleep(LOOK) => Next::Turn,
            Some(ended) = self.tasks.join_next_with_id() => match ended {
                Ok((_, Deposed)) => Next::Over,
                Err(error) if error.is_cancelled() => Next::Turn,
                Err(error) => {
                    self.failed(error.id(), &error.to_string());
                    Next::Turn
                }
            },
        }
    }
}

impl<C: Cluster> Leader<C> {
    fn new(cluster: C, board: Arc<Board>, checks: Arc<dyn Checks>, keys: Arc<Keys>, term: u64) -> Self {
        Leader {
            cluster,
            board,
            checks,
            keys,
            term,
            fence: None,
            objects: Objects::default(),
            running: BTreeMap::new(),
            later: BTreeMap::new(),
            tasks: JoinSet::new(),
            version: 0,
            keys_looked_at: Instant::now(),
        }
    }

    /// Returns when this member leads no more.
    async fn lead(mut self) {
        let (cluster, term) = (self.cluster.clone(), self.term);
        serve(&mut self, || cluster.leads() == Some(term)).await;
    }

    async fn start(&mut self, name: String, document: Document) -> Result<(), Deposed> {
        let fence = match self.fence().await {
            Ok(fence) => fence,
            Err(why) => {
                self.put_off(&name, why);
                return Ok(());
            }
        };
        let spec = match spec_of(&document) {
            Ok(spec) => spec,
            Err(why) => {
                self.put_off(&name, format!("its document cannot be read by this version of weir: {why}"));
                return Ok(());
            }
        };
        let (wanted, asked) = watch::channel(self.objects.services_of(&name, &self.board));
        let (cluster, board) = (self.cluster.clone(), self.board.clone());
        tracing::info!(object = name, "its controller runs on this member");
        let task = match spec {
            Asked::Registry(spec) => {
                let name = name.clone();
                self.tasks
                    .spawn(service_registry::Controller { cluster, name, spec, fence, board, wanted: asked }.run())
            }
            Asked::Maker(maker) => {
                let (name, checks) = (name.clone(), self.checks.clone());
                let controller = kubernetes::Controller { cluster, name, maker, fence, board, wanted: asked, checks };
                self.tasks.spawn(controller.run())
            }
            Asked::AutoCert(spec) => {
                let (name, spec, keys) = (name.clone(), *spec, self.keys.clone());
                let controller = auto_cert::Controller { cluster, name, spec, fence, board, keys };
                self.tasks.spawn(controller.run())
            }
        };
        self.running.insert(name, Running { document, task, wanted });
        Ok(())
    }

    /// The lease that this member leads under; taken when it is needed first.
    async fn fence(&mut self) -> Result<Fence, String> {
        if let Some(fence) = &self.fence {
            return Ok(fence.clone());
        }
        let holder = self.cluster.name();
        let (name, term) = (LEASE.to_owned(), Some(self.term));
        let action = Action::TakeLease { name, holder, until: 0, at: now_ms(), term };
        let taken = self.cluster.propose(action, LEASE).await.map_err(|refusal| refusal.to_string())?;
        let fence = Fence { lease: LEASE.to_owned(), epoch: taken.epoch };
        self.fence = Some(fence.clone());
        Ok(fence)
    }

    fn put_off(&mut self, name: &str, why: String) {
        let (at, pause) =
            self.later.entry(name.to_owned()).or_insert_with(|| (Instant::now(), Pause::new(PAUSE_FIRST, PAUSE)));
        *at = Instant::now() + pause.take();
        tracing::warn!(object = name, "its controller does not run: {why}");
        self.board.update(name, |entry| entry.fault = Some(why));
    }

    /// A controller has panicked: its object says so, and it starts again.
    fn failed(&mut self, task: tokio::task::Id, why: &str) {
        let Some(name) = self.running.iter().find(|(_, r)| r.task.id() == task).map(|(name, _)| name.clone()) else {
            return;
        };
        self.running.remove(&name);
        self.board.restarts.fetch_add(1, Ordering::Relaxed);
        self.put_off(&name, format!("its controller has failed and starts again: {why}"));
    }
}

/// Whether keys are there whose time is over at `at`, in milliseconds since 1970.
fn has_keys_over(state: &State, at: u64) -> bool {
    let mut keys = state.view.sections.values().flat_map(|keys| keys.values());
    keys.any(|keyed| keyed.until.is_some_and(|until| until <= at))
}

impl Objects {
    /// Takes note of the objects that are there. Says whether anything is different for controllers.
    fn look(&mut self, objects: &control_api::Objects) -> bool {
        if self.seen.ptr_eq(objects) {
            return false;
        }
        let mut changed = false;
        let seen = std::mem::replace(&mut self.seen, objects.clone());
        for item in seen.diff(objects) {
            let (name, document) = match item {
                DiffItem::Add(name, now) | DiffItem::Update { new: (name, now), .. } => (name, now),
                DiffItem::Remove(name, _) => {
                    changed |= self.registries.remove(name).is_some();
                    changed |= self.asks.remove(name).is_some();
                    continue;
                }
            };
            if has_controller(document) {
                self.registries.insert(name.clone(), document.clone());
                changed = true;
                continue;
            }
            let mut asks = base_model::service_registry::services_of(document);
            // What a controller makes asks for what it knows of itself: of its ten thousand pipelines nothing is told it.
            let maker = owner(document).split_once(':').map_or("", |(_, maker)| maker);
            asks.retain(|(registry, _)| registry != maker);
            let asks: Box<[(String, String)]> = asks.into_iter().collect();
            let before = self.asks.remove(name).unwrap_or_default();
            changed |= before != asks;
            if !asks.is_empty() {
                self.asks.insert(name.clone(), asks);
            }
        }
        changed
    }

    /// The services that pools ask this registry for: the first of them by name, whatever order they are seen in. The others are told.
    fn services_of(&self, registry: &str, board: &Board) -> BTreeSet<String> {
        let all = self.asks.values().flatten();
        let mut services: BTreeSet<String> =
            all.filter(|(of, _)| of == registry).map(|(_, service)| service.clone()).collect();
        let left_out = match services.iter().nth(SERVICES_MAX).cloned() {
            Some(first) => services.split_off(&first),
            None => BTreeSet::new(),
        };
        board.update(registry, |entry| entry.left_out = left_out);
        services
    }
}

/// What an object asks for.
enum Asked {
    Registry(ServiceRegistrySpec),
    Maker(Box<dyn Maker>),
    AutoCert(Box<AutoCertManagerSpec>),
}

fn has_controller(document: &Value) -> bool {
    let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default();
    ServiceRegistrySpec::KINDS.contains(&kind) || matches!(kind, "IngressController" | "GatewayController" | AUTO_CERT)
}

fn spec_of(document: &Value) -> Result<Asked, String> {
    let parsed = Parsed::parse(document).map_err(|problems| problem::render(&problems))?;
    let mut findings = Findings::default();
    let asked = match parsed.kind.as_str() {
        "IngressController" => {
            let spec: Option<IngressControllerSpec> = findings.take(decode(&parsed.spec, ""));
            spec.map(|spec| {
                let (known, servers) = (ingress::Known::default(), Servers::default());
                Asked::Maker(Box::new(IngressMaker { name: parsed.name.clone(), spec, known, servers }))
            })
        }
        "GatewayController" => {
            let spec: Option<GatewayControllerSpec> = findings.take(decode(&parsed.spec, ""));
            let known = gateway::Known::default();
            spec.map(|spec| Asked::Maker(Box::new(GatewayMaker { name: parsed.name.clone(), spec, known })))
        }
        AUTO_CERT => {
            let spec: Option<AutoCertManagerSpec> = findings.take(decode(&parsed.spec, ""));
            spec.map(|spec| {
                spec.validate("", &mut findings);
                Asked::AutoCert(Box::new(spec))
            })
        }
        _ => ServiceRegistrySpec::read(&parsed, &mut findings).map(Asked::Registry),
    };
    // It is stored already.
    findings.forgive_late();
    match asked {
        Some(asked) if findings.problems.is_empty() => Ok(asked),
        _ if findings.problems.is_empty() => Err(format!("kind {}", quoted(&parsed.kind))),
        _ => Err(problem::render(&findings.problems)),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

const AUTO_CERT: &str = "AutoCertManager";
/// Between two looks whether edges have come to a version, and how long another member may take to answer.
const EDGES_LOOK: Duration = Duration::from_millis(50);
const CALL: Duration = Duration::from_secs(3);
/// Whoever runs controllers has this.
const LEASE: &str = "controllers";
/// Between two looks at who leads.
const LOOK: Duration = Duration::from_millis(200);
/// Between two looks for keys whose time is over.
const KEYS_LOOKED_AT: Duration = Duration::from_secs(1);
/// Pauses before a controller is started again: the first, twice as long each time, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_secs(15);

#[cfg(test)]
pub(crate) mod tests;
