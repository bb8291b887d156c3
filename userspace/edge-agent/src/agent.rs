//! Executes plans: pipelines and servers through [`Traffic`], tables through the kernel.

use crate::certificates::CertificateEnds;
use crate::desired::{Desired, Fork, Ticket, Withheld};
use crate::keeper::{Keeper, KeptState};
use crate::last_good::LastGood;
use crate::plan::{Change, plan};
use crate::sections;
use crate::steer::{SharedKernel, Steer};
use base_model::{Access, FilterKinds, Object, Problem, Spec};
use base_tls::TicketKey;
use edge_listeners::Traffic;
use edge_listeners::access_lists::Listed;
use edge_listeners::acme::Acme;
use edge_pipeline::consumers::Consumers;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How often a server whose port was in use tries again, at the latest.
const RETRY: Duration = Duration::from_secs(10);

/// How soon it tries again the first time; each wait is twice the one before. The kernel closes the sockets of a ring a moment
/// after its process has ended, so a daemon that was killed and started again finds its own ports in use.
const RETRY_FIRST: Duration = Duration::from_millis(50);

/// Longest pause between two looks when nothing happens.
const PAUSE: Duration = Duration::from_millis(500);

/// How often interfaces and neighbours are looked after.
const FOLLOW: Duration = Duration::from_secs(1);

/// How often the log is reminded of certificates that end.
const REMIND: Duration = Duration::from_secs(24 * 3600);

/// What could not be done, by object; shared with whoever reports status.
pub type Failures = Arc<Mutex<BTreeMap<String, String>>>;

/// Takes session ticket keys, the oldest first, and which of them makes tickets.
pub type InstallTickets = Box<dyn Fn(Vec<TicketKey>, usize) + Send>;

/// See the module doc. Lives on a control thread.
pub struct Agent {
    traffic: Arc<Traffic>,
    filters: Box<dyn FilterKinds + Send>,
    steer: Option<Steer>,
    last_good: Option<LastGood>,
    keeper: Option<Keeper>,
    kept: KeptState,
    current: Desired,
    /// What was kept when an earlier state was offered, until an operator has spoken.
    fork: Option<Fork>,
    failures: Failures,
    /// Of those, what steering has told.
    steering_told: Vec<String>,
    certificates: CertificateEnds,
    tickets: Option<InstallTickets>,
    reminded: Instant,
    followed: Instant,
    retried: Instant,
    retry: Duration,
}

impl Agent {
    /// Without `steer` there is no kernel plane; without `last_good` nothing is kept on disk.
    pub fn new(
        traffic: Arc<Traffic>,
        filters: Box<dyn FilterKinds + Send>,
        steer: Option<Steer>,
        last_good: Option<LastGood>,
    ) -> Agent {
        let kept = KeptState::default();
        Agent {
            traffic,
            filters,
            steer,
            keeper: last_good.clone().map(|last_good| Keeper::start(last_good, &kept)),
            fork: last_good.as_ref().and_then(LastGood::load_fork),
            last_good,
            kept,
            current: Desired::default(),
            failures: Failures::default(),
            steering_told: Vec::new(),
            certificates: CertificateEnds::default(),
            tickets: None,
            reminded: Instant::now(),
            followed: Instant::now(),
            retried: Instant::now(),
            retry: RETRY_FIRST,
        }
    }

    /// Hands shared session ticket keys on. Without it, and until there are any, each machine keeps its own.
    pub fn install_tickets(mut self, install: InstallTickets) -> Agent {
        self.tickets = Some(install);
        self
    }

    pub fn certificates(&self) -> CertificateEnds {
        self.certificates.clone()
    }

    pub fn failures(&self) -> Failures {
        self.failures.clone()
    }

    /// The kernel plane, where there is one.
    pub fn plane(&self) -> Option<SharedKernel> {
        self.steer.as_ref().map(Steer::plane)
    }

    /// How the copy on disk is.
    pub fn kept(&self) -> KeptState {
        self.kept.clone()
    }

    /// Serves what was kept on disk. Says what that was.
    pub fn start_from_disk(&mut self) -> Option<Desired> {
        let kept = self.last_good.as_ref()?.load()?;
        self.start_from(kept)
    }

    /// As [`start_from_disk`](Agent::start_from_disk), when that panicked: serves the last state that is known to have gone live.
    pub fn start_from_last_live(&mut self) -> Option<Desired> {
        let kept = self.last_good.as_ref()?.load_last_live()?;
        self.start_from(kept)
    }

    fn start_from(&mut self, kept: Desired) -> Option<Desired> {
        self.become_as(kept.clone());
        if let Some(keeper) = &self.keeper {
            keeper.went_live(&kept);
        }
        Some(kept)
    }

    /// What this machine was last told to be.
    pub fn current(&self) -> &Desired {
        &self.current
    }

    /// Why this machine does not take `other`, if so.
    pub fn outlives(&self, other: &Desired) -> Option<Withheld> {
        self.current.outlives(other, self.fork.as_ref())
    }

    /// Whether it is known that the cluster has lost what is served here.
    pub fn is_forked(&self) -> bool {
        self.fork.as_ref() == Some(&Fork::of(&self.current))
    }

    /// The cluster has lost what is served here: that is not forgotten until [`apply`](Agent::apply) takes something else.
    pub fn keep_fork(&mut self) {
        if !self.is_forked() {
            self.set_fork(Some(Fork::of(&self.current)));
        }
    }

    fn set_fork(&mut self, fork: Option<Fork>) {
        if let Some(Err(error)) = self.last_good.as_ref().map(|last_good| last_good.store_fork(fork.as_ref())) {
            tracing::error!(%error, "that the cluster lost what is served here could not be written down; it is known until a restart");
        }
        self.fork = fork;
    }

    /// Makes the machine be as `desired` says. Before anybody is served by it, it is on disk, so that a machine that is killed and
    /// has nothing but its disk never goes back. What cannot be done is reported and leaves the rest as it should be.
    pub fn apply(&mut self, desired: Desired) {
        let news = !self.current.is_at(&desired);
        if let Some(keeper) = self.keeper.as_ref().filter(|_| news) {
            keeper.keep(&self.current, &desired);
        }
        self.become_as(desired);
        if let Some(keeper) = self.keeper.as_ref().filter(|_| news) {
            keeper.went_live(&self.current);
        }
        if self.fork.is_some() {
            self.set_fork(None);
        }
    }

    fn become_as(&mut self, desired: Desired) {
        let changes = plan(&self.current, &desired);
        for change in &changes {
            self.execute(change, &desired);
        }
        if changes.iter().any(|change| matches!(change, Change::ApplyServer { .. })) {
            // Servers may have swapped ports, so that the first found its new one still taken by the second.
            self.traffic.retry();
            (self.retried, self.retry) = (Instant::now(), RETRY_FIRST);
        }
        self.current = desired;
    }

    /// How long the next [`tick`](Agent::tick) may wait.
    pub fn pause(&self) -> Duration {
        let steer = self.steer.as_ref().and_then(Steer::due_in).unwrap_or(PAUSE);
        self.retry.saturating_sub(self.retried.elapsed()).min(PAUSE).min(steer)
    }

    /// What is to be done now and then. Call it after [`pause`](Agent::pause).
    pub fn tick(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.retried) >= self.retry {
            (self.retried, self.retry) = (now, (self.retry * 2).min(RETRY));
            self.traffic.retry();
            self.steer(&self.current.clone());
        }
        if self.steer.as_ref().and_then(Steer::due_in).is_some_and(|due| due.is_zero()) {
            self.steer(&self.current.clone());
        }
        if now.duration_since(self.followed) >= FOLLOW {
            self.followed = now;
            if self.steer.as_mut().is_some_and(|steer| steer.follow(&self.current)) {
                self.steer(&self.current.clone());
            }
            self.report_steering();
        }
        for (place, done) in sections::retry() {
            self.report(&place, done);
        }
        if now.duration_since(self.reminded) >= REMIND {
            self.reminded = now;
            self.certificates.remind();
        }
    }

    /// By VirtualIP the number of the generation of its steering before which this machine holds nothing any more. Meant to be called
    /// with every turn.
    pub fn released(&mut self) -> BTreeMap<String, u64> {
        self.steer.as_mut().map(|steer| steer.look(&self.current)).unwrap_or_default()
    }

    /// When others may last have taken this machine's new flows: see [`Steer::lapsed_ms`]. Meant to be called with every turn.
    pub fn lapsed_ms(&mut self) -> u64 {
        self.steer.as_mut().map_or(0, Steer::lapsed_ms)
    }

    /// The kernel steers as the cluster says, since this process began.
    pub fn steers(&self) -> bool {
        self.steer.as_ref().is_some_and(Steer::steers)
    }

    /// Changes nothing more, and writes what is to be kept on the disk: another process is about to read it. Sockets of listeners stay as
    /// they are until [`resume`](Agent::resume).
    pub fn hold(&mut self) {
        self.keeper = None;
        edge_listeners::let_go_of_caches();
    }

    /// The other process has ended, and this one goes on.
    pub fn resume(&mut self) {
        edge_listeners::take_back_caches();
        if let Some(last_good) = self.last_good.clone() {
            let keeper = Keeper::start(last_good, &self.kept);
            keeper.went_live(&self.current);
            self.keeper = Some(keeper);
        }
        if let Some(steer) = &mut self.steer {
            steer.reclaim();
        }
        self.steer(&self.current.clone());
    }

    /// Takes the kernel's programs down, when there are any and that was asked for.
    pub fn detach(self) {
        if let Some(steer) = self.steer {
            steer.detach();
        }
    }

    fn execute(&mut self, change: &Change, desired: &Desired) {
        match change {
            Change::ApplyPipeline { name, document }
            | Change::ApplyServer { name, document }
            | Change::ApplyGlobalFilter { name, document }
            | Change::ApplyConsumer { name, document }
            | Change::ApplyOverload { name, document }
            | Change::ApplyLogSink { name, document }
            | Change::ApplyAutoCert { name, document } => {
                let done = self.apply_object(name, document);
                self.report(name, done);
            }
            Change::Key(change) => {
                self.report(&change.place(), sections::apply(change));
            }
            Change::Rules { server, changes } => {
                for (rule, done) in self.traffic.apply_rules(server, changes) {
                    self.report(&sections::place(sections::RULES, &format!("{server}#{rule}")), done);
                }
            }
            Change::Unknown { name, kind } => {
                let reason =
                    format!("this version of weir does not know kind {kind}; install the one the other members run");
                self.report(name, Err(reason));
            }
            Change::Forget { name } => drop(lock(&self.failures).remove(name)),
            Change::RemoveServer { name } => {
                self.traffic.remove_server(name);
                self.certificates.remove(name);
                lock(&self.failures).remove(name);
            }
            Change::RemovePipeline { name } => {
                self.traffic.remove_pipeline(name);
                lock(&self.failures).remove(name);
            }
            Change::RemoveConsumer { name } => {
                Consumers::shared().remove(name);
                lock(&self.failures).remove(name);
            }
            Change::RemoveAutoCert { name } => {
                Acme::here().remove_manager(name);
                lock(&self.failures).remove(name);
            }
            Change::RemoveGlobalFilter { name } => {
                self.traffic.remove_global_filter(name);
                lock(&self.failures).remove(name);
            }
            Change::RemoveLogSink { name } => {
                self.traffic.remove_log_sink(name);
                lock(&self.failures).remove(name);
            }
            Change::RemoveOverload { name } => {
                self.traffic.remove_overload(name);
                lock(&self.failures).remove(name);
            }
            Change::Tickets => {
                if let Some(install) = &self.tickets {
                    let key = |key: &Ticket| TicketKey { name: key.name, secret: key.secret };
                    install(desired.tickets.keys.iter().map(key).collect(), desired.tickets.current);
                }
            }
            Change::Purge(purges) => {
                for purge in purges {
                    let gone = self.traffic.purge(purge.cache.as_deref(), &purge.what);
                    tracing::info!(number = purge.number, entries = gone, "caches were purged");
                }
            }
            Change::Access => self.apply_access(desired),
            Change::Kernel => self.steer(desired),
        }
    }

    /// Puts all AccessLists in force, at the listeners and in the kernel. One that cannot be read, which none can be that was checked when it
    /// came in, is left out.
    fn apply_access(&mut self, desired: &Desired) {
        let (mut lists, mut status) = (Vec::new(), BTreeMap::new());
        let kind = |document: &Value| document.get("kind").and_then(Value::as_str) == Some("AccessList");
        for (name, document) in desired.objects.iter().filter(|(_, document)| kind(document)) {
            match Object::read(document, &*self.filters).map(|object| object.spec) {
                Ok(Spec::AccessList(list)) => lists.push((name.clone(), list)),
                Ok(_) => {}
                Err(problems) => self.report(name, Err(base_model::problem::render(&problems))),
            }
        }
        for name in self.current.objects.iter().filter(|(_, d)| kind(d)).map(|(name, _)| name) {
            lock(&self.failures).remove(name);
        }
        let by = if self.steer.is_some() { "kernel and listeners" } else { "listeners" };
        for (name, list) in &lists {
            let fields = json!({"name": name, "health": "", "prefixes": list.prefixes(), "enforcedBy": by});
            status.insert(name.clone(), fields);
        }
        let prefixes = [lists.iter().map(|(_, l)| l.deny.len()).sum(), lists.iter().map(|(_, l)| l.allow.len()).sum()];
        let access = Access::new(lists.iter().map(|(_, list)| &**list));
        self.traffic.set_access_lists(Listed { access, prefixes, status });
        if let Some(steer) = &mut self.steer {
            let done = steer.set_access(&lists);
            for (name, _) in &lists {
                self.report(name, done.clone());
            }
        }
    }

    /// Brings the kernel to where `desired` says; what it could not do is among the failures.
    fn steer(&mut self, desired: &Desired) {
        if self.steer.as_ref().is_some_and(|steer| !steer.access_in_force()) && desired.version > 0 {
            self.apply_access(desired);
        }
        let Some(steer) = &mut self.steer else { return };
        steer.apply(desired, &self.traffic);
        self.report_steering();
    }

    /// Among the failures, what steering says now in the place of what it said before.
    fn report_steering(&mut self) {
        let Some(steer) = &self.steer else { return };
        let told = steer.failures();
        let mut failures = lock(&self.failures);
        for name in self.steering_told.iter().filter(|name| !told.contains_key(*name)) {
            failures.remove(name);
        }
        self.steering_told = told.keys().cloned().collect();
        failures.extend(told);
    }

    fn apply_object(&self, name: &str, document: &Value) -> Result<(), String> {
        let texts = |problems: Vec<Problem>| base_model::problem::render(&problems);
        match Object::read(document, &*self.filters).map_err(texts)?.spec {
            Spec::Pipeline(spec) => self.traffic.apply_pipeline(name, &spec).map_err(texts),
            Spec::GlobalFilter(spec) => self.traffic.apply_global_filter(name, &spec).map_err(texts),
            Spec::Consumer(spec) => Consumers::shared().apply(name, &spec).map_err(texts),
            Spec::OverloadManager(spec) => self.traffic.apply_overload(name, &spec),
            Spec::LogSink(spec) => self.traffic.apply_log_sink(name, &spec),
            Spec::AutoCertManager(spec) => {
                Acme::here().set_manager(name, *spec);
                Ok(())
            }
            Spec::VirtualIp(_) | Spec::AccessList(_) => Ok(()),
            listener => {
                self.traffic.apply_listener(name, &listener)?;
                self.certificates.set(name, &listener);
                Ok(())
            }
        }
    }

    fn report(&self, name: &str, done: Result<(), String>) {
        let mut failures = lock(&self.failures);
        match done {
            Ok(()) => drop(failures.remove(name)),
            Err(error) => {
                tracing::error!(object = name, "not applied, what was there before stays: {error}");
                failures.insert(name.to_owned(), error);
            }
        }
    }
}

/// Status of every object of this member: the objects' own, and the reasons of those that failed.
pub fn status(traffic: &Traffic, failures: &Failures) -> BTreeMap<String, Value> {
    let mut status = traffic.status();
    status.extend(Consumers::shared().status());
    status.extend(Acme::here().status());
    for (name, reason) in lock(failures).iter() {
        let entry = status.entry(name.clone()).or_insert_with(|| json!({}));
        if let Value::Object(fields) = entry {
            fields.insert("health".into(), json!(reason));
        }
    }
    status
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
