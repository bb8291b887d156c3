//! Which servers and pipelines there are, by name, and how a change of one reaches the requests.

use crate::access_lists::{self, AccessLists, Listed};
use crate::h2_connection;
use crate::h3_connection;
use crate::http_server;
use crate::log_sinks;
use crate::overload::{self, Overload};
use crate::proxied;
use crate::router::MadeRule;
use crate::router::made::MadeRules;
use crate::server::{self, Server};
use crate::tcp_proxy;
use crate::udp_proxy;
use crate::watch::{Keeps, Watch};
use crate::{Purged, Timeouts};
use arc_swap::{ArcSwapOption, Cache};
use base_model::{
    GlobalFilterSpec, HttpServerSpec, Kept, LogSinkSpec, OverloadManagerSpec, PipelineSpec, Problem, Resource, Spec,
    TracingSpec,
};
use base_quic::Elsewhere;
use base_runtime::{Worker, WorkerStats, memory, pressure};
use base_telemetry::Telemetry;
use base_telemetry::access_log::AccessLog;
use base_telemetry::limits::{Limit, LimitHits};
use base_telemetry::server::ServerStats;
use base_tls::TicketKeys;
use edge_export::{LogSink, Tracer};
use edge_filters::bans::bans;
use edge_pipeline::{Around, FilterKind, Pipeline, PipelineName, rounds};
use proto_http::h1::Fault;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

/// The place of a pipeline: routes hold it whether the pipeline exists or not.
pub struct PipelineSlot {
    name: Arc<str>,
    current: ArcSwapOption<Pipeline>,
}

impl std::fmt::Debug for PipelineSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PipelineSlot({})", self.name)
    }
}

impl PipelineSlot {
    /// A place without a pipeline yet.
    pub fn empty(name: &str) -> Arc<PipelineSlot> {
        Arc::new(PipelineSlot { name: name.into(), current: ArcSwapOption::empty() })
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The generation in force; a request keeps the one it began with.
    pub fn current(&self) -> Option<Arc<Pipeline>> {
        self.current.load_full()
    }

    /// A worker's view of the slot.
    pub fn view(self: &Arc<Self>) -> PipelineView {
        PipelineView { cache: Cache::new(SlotHandle(self.clone())), held: None }
    }
}

/// Lets a cache borrow the pointer out of the shared slot.
struct SlotHandle(Arc<PipelineSlot>);

impl Deref for SlotHandle {
    type Target = ArcSwapOption<Pipeline>;

    fn deref(&self) -> &ArcSwapOption<Pipeline> {
        &self.0.current
    }
}

/// A worker's view of a slot: requests count their hold on a generation on their worker alone, not where all workers count.
pub struct PipelineView {
    cache: Cache<SlotHandle, Option<Arc<Pipeline>>>,
    held: Option<Rc<Generation>>,
}

/// A generation of a pipeline as one worker holds it.
pub struct Generation(Arc<Pipeline>);

impl Generation {
    /// Of one that is in no slot any more.
    pub fn alone(pipeline: Arc<Pipeline>) -> Rc<Generation> {
        Rc::new(Generation(pipeline))
    }
}

impl Deref for Generation {
    type Target = Pipeline;

    fn deref(&self) -> &Pipeline {
        &self.0
    }
}

impl PipelineView {
    /// As [`PipelineSlot::current`].
    pub fn current(&mut self) -> Option<Rc<Generation>> {
        let now = self.cache.load().as_ref();
        match (now, &self.held) {
            (Some(now), Some(held)) if Arc::ptr_eq(now, &held.0) => {}
            (now, _) => self.held = now.map(|pipeline| Rc::new(Generation(pipeline.clone()))),
        }
        self.held.clone()
    }
}

/// The place of a GlobalFilter, filled or not.
#[derive(Default)]
pub struct AroundSlot {
    current: ArcSwapOption<Around>,
}

impl AroundSlot {
    pub fn current(&self) -> Option<Arc<Around>> {
        self.current.load_full()
    }
}

/// Finds a kind of filter by the name documents use.
pub type Kinds = fn(&str) -> Option<&'static FilterKind>;

/// Bounds of connections and requests beside the faults of their messages.
const BOUNDS: [&str; 28] = [
    access_lists::BANNED,
    access_lists::BOUND,
    "body_rate",
    "body_timeout",
    "client_unknown",
    "connect_content",
    "drain_bytes",
    "first_byte_timeout",
    "handshake_failed",
    "handshake_io",
    "handshake_overload",
    "handshake_timeout",
    "head_timeout",
    "http_loop",
    "max_connections",
    "memory",
    "memory_idle",
    "misdirected",
    "request_body_bytes",
    "request_id",
    "response_rate",
    "response_stalled",
    "rewritten_path",
    "set_host",
    "trailers_dropped",
    "tunnel_idle",
    "underscores_dropped",
    "upload_stalled",
];

/// Registers what clients can reach before any of them comes: a flood of refusals queues behind no lock.
fn bounds(limits: &LimitHits) -> Box<[(&'static str, Limit)]> {
    let mut names: Vec<&'static str> = Fault::ALL.iter().map(|fault| fault.name()).chain(BOUNDS).collect();
    names.extend(h2_connection::bounds());
    names.extend(h3_connection::bounds());
    names.extend(proxied::BOUNDS.into_iter().chain(tcp_proxy::BOUNDS).chain(udp_proxy::BOUNDS));
    names.extend(overload::BOUNDS);
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| (name, limits.register(name))).collect()
}

/// Requests that one worker has answered, in lines of memory that no other one writes to.
#[derive(Default)]
#[repr(align(128))]
struct Answered(AtomicU64);

/// What all servers of the process share.
pub struct Shared {
    workers: Vec<Worker>,
    machine: Arc<str>,
    /// What this cluster's servers call themselves in the requests they pass on, see [`rounds`].
    mark: rounds::Mark,
    slots: Mutex<BTreeMap<String, Arc<PipelineSlot>>>,
    arounds: Mutex<BTreeMap<String, Arc<AroundSlot>>>,
    /// Rules that controllers have made, by the server they are for, whether that is there or not.
    made_rules: Mutex<BTreeMap<String, Arc<MadeRules>>>,
    telemetry: Arc<Telemetry>,
    access_log: Option<Arc<AccessLog>>,
    log_sinks: log_sinks::All,
    access_lists: AccessLists,
    /// The bounds that clients can reach, by name in order.
    bounds: Box<[(&'static str, Limit)]>,
    timeouts: Timeouts,
    kinds: Kinds,
    tickets: TicketKeys,
    /// Requests answered, by worker.
    requests: Box<[Answered]>,
    /// Whether each worker is about to let go of what was replaced.
    refreshes: Box<[Arc<AtomicBool>]>,
    watch: Arc<Watch>,
    /// See [`Shared::idle_grace`], in milliseconds.
    idle_grace_ms: AtomicU32,
    overload: Overload,
    elsewhere: Elsewhere,
}

/// When a server stops, idle connections stay for this long: a request that set out before its client could know arrives within it.
const IDLE_GRACE_MS: u32 = 100;

/// Fields of a GlobalFilter, which its pipelines are called after.
const BEFORE: &str = "beforePipeline";
const AFTER: &str = "afterPipeline";

/// What workers may take to hear that they receive nothing more.
const LET_GO: Duration = Duration::from_secs(1);

impl Shared {
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// See [`rounds`].
    pub fn mark(&self) -> &rounds::Mark {
        &self.mark
    }

    pub fn access_log(&self) -> Option<&Arc<AccessLog>> {
        self.access_log.as_ref()
    }

    /// What requests are logged to beside that.
    pub fn log_sinks(&self) -> &log_sinks::All {
        &self.log_sinks
    }

    /// Whether the AccessLists deny this address, or it is banned for a while; counts it if so.
    pub fn denies(&self, ip: IpAddr) -> bool {
        if self.access_lists.denies(ip) {
            self.limit(access_lists::BOUND);
            return true;
        }
        let banned = bans().keep_out(ip);
        if banned {
            self.limit(access_lists::BANNED);
        }
        banned
    }

    /// AccessLists deny some addresses.
    pub fn denies_any(&self) -> bool {
        !self.access_lists.are_empty()
    }

    pub fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// What a server's `tracing` says, ready to be asked.
    pub fn tracer(&self, spec: &TracingSpec) -> Result<Tracer, String> {
        Tracer::new(spec, &self.machine, &self.telemetry, &self.workers)
    }

    pub fn tickets(&self) -> &TicketKeys {
        &self.tickets
    }

    /// What is remembered of single requests.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// How long idle connections stay when their server stops.
    pub fn idle_grace(&self) -> Duration {
        Duration::from_millis(self.idle_grace_ms.load(Ordering::Relaxed).into())
    }

    pub fn overload(&self) -> &Overload {
        &self.overload
    }

    /// The ways to machines of the cluster that connections of QUIC live on.
    pub fn elsewhere(&self) -> &Elsewhere {
        &self.elsewhere
    }

    /// Counts a request answered by a worker; called by that worker alone.
    pub fn count_request(&self, worker: usize) {
        if let Some(Answered(count)) = self.requests.get(worker) {
            count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    /// Counts a bound that was reached on this worker.
    pub fn limit(&self, name: &'static str) {
        let worker = base_runtime::worker_index();
        match self.bounds.binary_search_by_key(&name, |(known, _)| known) {
            Ok(at) => self.bounds[at].1.hit(worker),
            Err(_) => {
                debug_assert!(false, "{name} is missing in BOUNDS: registering takes a lock that all workers share");
                self.telemetry.limits().register(name).hit(worker);
            }
        }
    }

    /// Lets workers that have nothing to do let go of what was replaced: once, however much that was by the time they come to it.
    pub fn refresh(&self) {
        for (worker, asked) in self.workers.iter().zip(&self.refreshes) {
            if asked.swap(true, Ordering::AcqRel) {
                continue;
            }
            let asked = asked.clone();
            worker.spawn(move || async move {
                asked.swap(false, Ordering::AcqRel);
                http_server::refresh();
            });
        }
    }

    /// The place of the pipeline called `name`, made when nobody asked before.
    pub fn slot(&self, name: &str) -> Arc<PipelineSlot> {
        lock(&self.slots).entry(name.to_owned()).or_insert_with(|| PipelineSlot::empty(name)).clone()
    }

    /// The place of the GlobalFilter called `name`.
    pub fn around(&self, name: &str) -> Arc<AroundSlot> {
        lock(&self.arounds).entry(name.to_owned()).or_default().clone()
    }

    /// The rules that were made for the server of this name.
    pub fn made_rules(&self, server: &str) -> Arc<MadeRules> {
        lock(&self.made_rules).get(server).cloned().unwrap_or_default()
    }

    /// The figures of a server; a server that comes back under its name goes on counting.
    pub fn server_stats(&self, name: &str) -> Arc<ServerStats> {
        self.telemetry.server(name)
    }
}

/// See the module doc. Called from a control thread, never from a worker.
pub struct Traffic {
    shared: Arc<Shared>,
    servers: Mutex<BTreeMap<String, Arc<dyn Server>>>,
}

impl Traffic {
    /// `machine` is this member's name; without `access_log` no lines are written and filters are not timed.
    pub fn new(
        workers: Vec<Worker>,
        machine: &str,
        telemetry: Arc<Telemetry>,
        access_log: Option<Arc<AccessLog>>,
    ) -> Traffic {
        Traffic::with_timeouts(workers, machine, telemetry, access_log, Timeouts::default())
    }

    /// As [`new`](Traffic::new), with other time-outs than the usual ones.
    pub fn with_timeouts(
        workers: Vec<Worker>,
        machine: &str,
        telemetry: Arc<Telemetry>,
        access_log: Option<Arc<AccessLog>>,
        timeouts: Timeouts,
    ) -> Traffic {
        Traffic::with_kinds(workers, machine, telemetry, access_log, timeouts, edge_filters::kind)
    }

    /// As [`with_timeouts`](Traffic::with_timeouts), with other filters than those of `edge-filters`, or more.
    pub fn with_kinds(
        workers: Vec<Worker>,
        machine: &str,
        telemetry: Arc<Telemetry>,
        access_log: Option<Arc<AccessLog>>,
        timeouts: Timeouts,
        kinds: Kinds,
    ) -> Traffic {
        let requests = workers.iter().map(|_| Answered::default()).collect();
        let refreshes = workers.iter().map(|_| Arc::default()).collect();
        let bounds = bounds(telemetry.limits());
        debug_assert!(telemetry.limits().has_room(), "the table of limits is nearly full: hits would be nobody's");
        let watch = Watch::new(workers.len(), Keeps::default());
        let shared = Shared {
            workers,
            machine: machine.into(),
            mark: rounds::Mark::of(&telemetry.identity().cluster_name),
            slots: Mutex::default(),
            arounds: Mutex::default(),
            made_rules: Mutex::default(),
            bounds,
            telemetry,
            access_log,
            log_sinks: log_sinks::All::default(),
            access_lists: AccessLists::default(),
            timeouts,
            kinds,
            tickets: TicketKeys::generate(),
            requests,
            refreshes,
            watch,
            idle_grace_ms: AtomicU32::new(IDLE_GRACE_MS),
            overload: Overload::default(),
            elsewhere: Elsewhere::default(),
        };
        Traffic { shared: Arc::new(shared), servers: Mutex::default() }
    }

    /// The same, which remembers other requests, or none. Before any server is there.
    pub fn keeping(mut self, keeps: Keeps) -> Traffic {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.watch = Watch::new(shared.workers.len(), keeps);
        }
        self
    }

    /// What is remembered of single requests.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.shared.watch
    }

    /// The keys of all servers' TLS session tickets: the process's own until others are installed.
    pub fn tickets(&self) -> &TicketKeys {
        self.shared.tickets()
    }

    /// Builds the pipeline and puts it in its place. What was there stays when building fails.
    pub fn apply_pipeline(&self, name: &str, spec: &PipelineSpec) -> Result<(), Vec<Problem>> {
        let slot = self.shared.slot(name);
        let previous = slot.current();
        let name = PipelineName::of_object(name);
        let built = Pipeline::build(&name, spec, &self.shared.kinds, previous.as_deref(), &self.shared.telemetry)?;
        slot.current.store(Some(Arc::new(built)));
        self.shared.refresh();
        Ok(())
    }

    /// Takes that out of the cache of this name, `PIPELINE/FILTER`, or out of all; says how many entries went.
    pub fn purge(&self, cache: Option<&str>, what: &Purged) -> usize {
        edge_upstream::cache::purge_all(cache, what)
    }

    /// Routes to it answer 503 from now on; requests inside finish.
    pub fn remove_pipeline(&self, name: &str) {
        let mut slots = lock(&self.shared.slots);
        if let Some(slot) = slots.get(name) {
            slot.current.store(None);
            // Nobody but this table knows it: no route leads there.
            if Arc::strong_count(slot) == 1 {
                slots.remove(name);
            }
        }
        drop(slots);
        self.shared.refresh();
    }

    /// Builds a GlobalFilter and puts it in its place.
    pub fn apply_global_filter(&self, name: &str, spec: &GlobalFilterSpec) -> Result<(), Vec<Problem>> {
        let slot = self.shared.around(name);
        let previous = slot.current();
        let build = |part: &Option<PipelineSpec>, key: &str, before: Option<&Pipeline>| {
            let build = |spec| {
                let name = PipelineName::of_global_filter(name, key);
                Pipeline::build(&name, spec, &self.shared.kinds, before, &self.shared.telemetry)
            };
            part.as_ref().map(build).transpose().map_err(|problems| {
                let under = |mut problem: Problem| {
                    problem.path = base_model::problem::within(key, &problem.path);
                    problem
                };
                problems.into_iter().map(under).collect::<Vec<_>>()
            })
        };
        let (old_before, old_after) = match &previous {
            Some(around) => (around.before.as_ref(), around.after.as_ref()),
            None => (None, None),
        };
        let around = Around {
            before: build(&spec.before_pipeline, BEFORE, old_before)?,
            after: build(&spec.after_pipeline, AFTER, old_after)?,
            fall_through_before: spec.fallthrough.before_pipeline,
            fall_through_pipeline: spec.fallthrough.pipeline,
        };
        slot.current.store(Some(Arc::new(around)));
        Ok(())
    }

    /// Servers that name it run their pipelines alone from now on.
    pub fn remove_global_filter(&self, name: &str) {
        if let Some(slot) = lock(&self.shared.arounds).get(name) {
            slot.current.store(None);
        }
    }

    /// Logs to this sink from now on. One of its name that was there before ends first, so that lines go on in their order.
    pub fn apply_log_sink(&self, name: &str, spec: &LogSinkSpec) -> Result<(), String> {
        let all = self.shared.log_sinks.load_full();
        let before = all.iter().find(|sink| &*sink.name == name);
        if before.is_some_and(|sink| sink.is_of(spec)) {
            return Ok(());
        }
        let Shared { machine, telemetry, workers, .. } = &*self.shared;
        let sink = Arc::new(LogSink::start(name, spec, machine, telemetry, workers)?);
        let others = all.iter().filter(|sink| &*sink.name != name).cloned();
        self.shared.log_sinks.store(Arc::new(others.chain([sink.clone()]).collect()));
        if let Some(before) = before {
            edge_export::sink::hand_over(before);
        }
        sink.go();
        self.shared.refresh();
        Ok(())
    }

    /// Logs to it no longer. What it had not taken stays on disk, for one of the same name, and is removed after a day.
    pub fn remove_log_sink(&self, name: &str) {
        let all = self.shared.log_sinks.load_full();
        self.shared.log_sinks.store(Arc::new(all.iter().filter(|sink| &*sink.name != name).cloned().collect()));
        all.iter().filter(|sink| &*sink.name == name).for_each(|sink| edge_export::sink::retire(sink));
        self.shared.refresh();
    }

    /// Ends all sinks: what they do not take soon stays on disk.
    pub fn end_log_sinks(&self) {
        edge_export::sink::end_all(&self.shared.log_sinks.load());
    }

    /// Takes nothing new from whom these lists deny, from now on.
    pub fn set_access_lists(&self, listed: Listed) {
        self.shared.access_lists.set(listed);
    }

    pub fn access_lists(&self) -> Arc<Listed> {
        self.shared.access_lists.current()
    }

    /// Does under overload as this document says from now on.
    pub fn apply_overload(&self, name: &str, spec: &OverloadManagerSpec) -> Result<(), String> {
        self.shared.overload.apply(name, spec)
    }

    /// Does nothing under overload, where this document said what.
    pub fn remove_overload(&self, name: &str) {
        self.shared.overload.remove(name);
    }

    pub fn overload(&self) -> &Overload {
        &self.shared.overload
    }

    /// The ways to machines of the cluster that connections of QUIC live on: none until somebody says which there are.
    pub fn elsewhere(&self) -> &Elsewhere {
        &self.shared.elsewhere
    }

    /// Looks at the machine's resources from now on, for as long as anybody holds this.
    pub fn watch_overload(self: &Arc<Self>) -> io::Result<()> {
        let (watched, mut before) = (Arc::downgrade(self), Vec::new());
        let watch = move || {
            let began = Instant::now();
            while let Some(traffic) = watched.upgrade() {
                let pressures = traffic.pressures(&mut before);
                traffic.shared.overload.look(began.elapsed(), pressures);
                let interval = traffic.shared.overload.interval();
                drop(traffic);
                std::thread::sleep(interval);
            }
        };
        std::thread::Builder::new().name("overload".to_owned()).spawn(watch).map(drop)
    }

    /// How much of each resource is used, in the order of [`Resource::ALL`]. `before`: what workers had counted at the last look.
    fn pressures(&self, before: &mut Vec<WorkerStats>) -> [f64; Resource::ALL.len()] {
        let workers = &self.shared.workers;
        let now: Vec<WorkerStats> = workers.iter().map(Worker::stats).collect();
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let busy = now.iter().zip(&*before).map(|(now, before)| {
            share(now.busy_ns.saturating_sub(before.busy_ns), now.age_ns.saturating_sub(before.age_ns))
        });
        let busy = busy.sum::<f64>() / workers.len().max(1) as f64;
        let delay = workers.iter().map(Worker::take_longest_turn).max().unwrap_or_default();
        let ring = workers.iter().map(Worker::take_fullest_ring).fold(0.0, f64::max);
        let sockets: u64 = now.iter().map(|now| now.connections_open + now.datagram_sockets_open).sum();
        let open = pressure::descriptors_open().unwrap_or(sockets);
        let waiting =
            self.servers().into_iter().flat_map(|(_, server)| server.sockets()).flat_map(|sockets| {
                sockets.descriptors.into_iter().filter_map(pressure::accept_queue).collect::<Vec<_>>()
            });
        let waiting = waiting.map(|(waits, most)| share(waits.into(), most.into())).fold(0.0, f64::max);
        *before = now;
        let mut pressures = [0.0; Resource::ALL.len()];
        pressures[Resource::WorkerBusy as usize] = busy.min(1.0);
        pressures[Resource::QueueDelay as usize] =
            delay.as_secs_f64() / self.shared.overload.max_delay().as_secs_f64().max(1e-9);
        pressures[Resource::RingQueue as usize] = ring;
        pressures[Resource::Memory as usize] = memory::ceiling().map_or(0.0, |most| share(memory::booked(), most));
        pressures[Resource::Descriptors as usize] =
            pressure::descriptors_for_traffic().map_or(0.0, |most| share(open, most));
        pressures[Resource::AcceptQueue as usize] = waiting;
        pressures
    }

    /// As [`apply_listener`](Traffic::apply_listener), for an HTTPServer.
    pub fn apply_server(&self, name: &str, spec: &HttpServerSpec) -> Result<(), String> {
        self.apply_listener(name, &Spec::HttpServer(Box::new(spec.clone())))
    }

    /// Starts the server of a document, of whatever kind, or changes it.
    pub fn apply_listener(&self, name: &str, spec: &Spec) -> Result<(), String> {
        let existing = lock(&self.servers).get(name).cloned();
        match existing.filter(|server| server.kind() == spec.kind()) {
            Some(server) => {
                server.update(spec)?;
                self.shared.refresh();
            }
            None => {
                self.remove_server(name);
                let server = server::start(name, spec, self.shared.clone())?;
                lock(&self.servers).insert(name.to_owned(), server);
            }
        }
        Ok(())
    }

    /// Puts rules that a controller has made for a server in force, or takes them away, by their keys. Those that cannot be read leave
    /// what was there; says which, and why.
    pub fn apply_rules(&self, server: &str, changes: &[(String, Option<Kept>)]) -> Vec<(String, Result<(), String>)> {
        let mut results = Vec::with_capacity(changes.len());
        {
            let mut all = lock(&self.shared.made_rules);
            let rules = Arc::make_mut(all.entry(server.to_owned()).or_default());
            for (key, rule) in changes {
                let done = match rule {
                    None => {
                        rules.remove(key.as_str());
                        Ok(())
                    }
                    Some(rule) if rules.get(key.as_str()).is_some_and(|known| known.is_of(rule)) => Ok(()),
                    Some(rule) => MadeRule::read(rule).map(|rule| drop(rules.insert(key.as_str().into(), rule))),
                };
                results.push((key.clone(), done));
            }
            if rules.is_empty() {
                all.remove(server);
            }
        }
        let there = lock(&self.servers).get(server).cloned();
        if let Some(there) = there {
            if let Err(why) = there.update_rules() {
                results.iter_mut().for_each(|(_, done)| *done = Err(why.clone()));
            }
            self.shared.refresh();
        }
        results
    }

    pub fn remove_server(&self, name: &str) {
        let removed = lock(&self.servers).remove(name);
        if let Some(server) = removed {
            server.stop();
            self.shared.telemetry.remove_server(name);
            self.shared.telemetry.remove_pools_of(name);
        }
    }

    /// Tries again to listen where a port was in use.
    pub fn retry(&self) {
        for (_, server) in self.servers() {
            server.retry();
        }
    }

    /// Stops all servers: requests under way end, no new ones are taken.
    pub fn stop(&self) {
        for (_, server) in self.servers() {
            server.stop();
        }
    }

    /// Leaves those that come to another process, which has the sockets, too. Waits until this one accepts nothing more, within
    /// `patience`. Idle connections will stay for `idle` when the servers stop: nobody waits for this process to be gone.
    pub fn release(&self, patience: Duration, idle: Duration) {
        let idle_ms = u32::try_from(idle.as_millis()).unwrap_or(u32::MAX);
        self.shared.idle_grace_ms.store(idle_ms, Ordering::Relaxed);
        let servers = self.servers();
        servers.iter().for_each(|(_, server)| server.release());
        wait(patience, || servers.iter().any(|(_, server)| server.accepts()));
    }

    /// Leaves what sockets of UDP receive to another process, which passes on what is for connections of this one. Returns when nothing
    /// more is taken from them: nobody reads it until the other does.
    pub fn let_go(&self) {
        let (heard, hears) = mpsc::channel();
        self.servers().iter().for_each(|(_, server)| server.let_go(heard.clone()));
        drop(heard);
        // Ends when all workers have; one that hangs must not hold up the others.
        let _ = hears.recv_timeout(LET_GO);
    }

    /// Connections still open.
    pub fn connections(&self) -> usize {
        self.servers().iter().map(|(_, s)| s.connections()).sum()
    }

    pub fn servers(&self) -> Vec<(String, Arc<dyn Server>)> {
        lock(&self.servers).iter().map(|(n, s)| (n.clone(), s.clone())).collect()
    }

    /// Requests a worker has answered.
    pub fn requests_of(&self, worker: usize) -> u64 {
        self.shared.requests.get(worker).map_or(0, |count| count.0.load(Ordering::Relaxed))
    }

    /// Status of every object of this member, by name.
    pub fn status(&self) -> BTreeMap<String, Value> {
        let mut status: BTreeMap<String, Value> =
            self.servers().into_iter().map(|(name, server)| (name, server.status())).collect();
        let slots: Vec<Arc<PipelineSlot>> = lock(&self.shared.slots).values().cloned().collect();
        for slot in slots {
            if let Some(pipeline) = slot.current() {
                status.insert(slot.name().to_string(), pipeline.status());
            }
        }
        status.extend(self.shared.overload.status());
        status.extend(self.access_lists().status.clone());
        let sinks = self.shared.log_sinks.load();
        status.extend(sinks.iter().map(|sink| (sink.name.to_string(), sink.status())));
        status
    }
}

/// Waits until it is no longer so; whether it still is.
fn wait(patience: Duration, so: impl Fn() -> bool) -> bool {
    let until = std::time::Instant::now() + patience;
    while so() {
        if std::time::Instant::now() >= until {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests;
