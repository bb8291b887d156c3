//! Statistics of backends: per pool of a Proxy filter and per server in it.
//!
//! [`PoolStats`] outlives configuration changes. A worker asks its [`PoolRecorder`] once for the [`ServerRecorder`] of each server
//! it talks to and keeps it beside the connections of that server.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::block::Block;
use crate::ewma::TICK;
use crate::histogram::bump;
use crate::hub::Identity;
use crate::limits::{Limit, LimitHits};
use crate::locked;
use crate::registry::{Encoder, Names, SECONDS_BOUNDS};
use crate::server::{Observed, ObservedRead, SIZE_BOUNDS, code_text, quantiles_of, size_bounds};
use crate::shard::{Shard, Tally};

/// Servers of one pool that have series of their own; further ones share `other`.
const SERVERS_MAX: usize = 1024;

/// How a pool is labelled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolNames {
    /// Unique on this machine, for instance `pipeline/proxy#mainPool`: the label `pool` of our metrics.
    pub pool: String,
    /// Name of the filter: the label `proxyName` of Easegress's.
    pub proxy: String,
    /// Kind of the filter, `Proxy` for instance.
    pub kind: String,
    pub load_balance_policy: String,
    pub filter_policy: String,
}

/// One answered request to a backend.
#[derive(Clone, Copy, Debug)]
pub struct AnsweredRequest {
    pub status: u16,
    /// From the choice of the server to the last byte of its response.
    pub duration: Duration,
    /// Head and body as sent to the server.
    pub request_bytes: u64,
    /// Head and body as received from it.
    pub response_bytes: u64,
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamError {
    /// The connection was refused or unreachable.
    Connect,
    ConnectTimeout,
    Tls,
    /// No complete response in time.
    Timeout,
    /// The connection ended before the response did.
    Closed,
    /// The response was no HTTP.
    Protocol,
    /// The client went away first.
    Canceled,
}

impl UpstreamError {
    const ALL: [Self; 7] =
        [Self::Connect, Self::ConnectTimeout, Self::Tls, Self::Timeout, Self::Closed, Self::Protocol, Self::Canceled];

    pub fn text(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::Protocol => "protocol",
            Self::Canceled => "canceled",
        }
    }
}

/// What is known of a backend by all pools that name it.
#[derive(Debug, Default)]
pub struct Vitals {
    /// It failed its requests and is left out.
    pub ejected: AtomicBool,
    /// Times it was connected to while it was left out, to see whether it answers.
    pub probes: AtomicU64,
    /// Times it came back.
    pub readmissions: AtomicU64,
}

/// What is known of a backend by asking it, by all pools that ask the same.
#[derive(Debug)]
pub struct Checkup {
    /// What the probe speaks, `http` for instance.
    pub kind: &'static str,
    /// It takes requests, as far as this shows.
    pub healthy: AtomicBool,
    /// Probes that went well, and those that did not.
    pub passed: AtomicU64,
    pub failed: AtomicU64,
    /// Times it was found unwell, having been well.
    pub falls: AtomicU64,
    /// How the last probe went.
    last: Mutex<Option<Probed>>,
}

#[derive(Debug, Clone)]
struct Probed {
    took: Duration,
    at: SystemTime,
    /// Why it did not go well.
    error: Option<String>,
}

impl Checkup {
    pub fn new(kind: &'static str, healthy: bool) -> Checkup {
        let (passed, failed, falls) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Checkup { kind, healthy: AtomicBool::new(healthy), passed, failed, falls, last: Mutex::default() }
    }

    /// Counts a probe that has ended now.
    pub fn probed(&self, error: Option<String>, took: Duration) {
        if error.is_none() { &self.passed } else { &self.failed }.fetch_add(1, Relaxed);
        *locked(&self.last) = Some(Probed { took, at: SystemTime::now(), error });
    }

    /// As status shows it.
    pub fn json(&self) -> Value {
        let mut shown = json!({
            "type": self.kind,
            "healthy": self.healthy.load(Relaxed),
            "passed": self.passed.load(Relaxed),
            "failed": self.failed.load(Relaxed),
        });
        if let Some(last) = &*locked(&self.last) {
            let since = last.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            shown["lastProbe"] = json!(since.as_secs());
            shown["lastMillis"] = json!(last.took.as_secs_f64() * 1e3);
            shown["lastError"] = json!(last.error.as_deref().unwrap_or(""));
        }
        shown
    }
}

/// Statistics of one pool.
#[derive(Debug)]
pub struct PoolStats {
    names: Mutex<PoolNames>,
    /// Made when a worker counts something first: of ten thousand pools most are asked for nothing.
    workers: Box<[OnceLock<Box<PoolWorker>>]>,
    /// In the order of their names. A list, since most pools have a few, and one of one server is a tenth of a map of it.
    servers: Mutex<Vec<(Arc<str>, Arc<Server>)>>,
    rounds: Mutex<Rounds>,
    servers_limit: Limit,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct PoolWorker {
    no_server: AtomicU64,
    retries: AtomicU64,
    hedges: AtomicU64,
    hedges_won: AtomicU64,
    panics: AtomicU64,
    request_body: Observed,
    response_body: Observed,
}

#[derive(Debug, Default)]
struct Rounds {
    ticked: Option<Instant>,
    /// Made when there is something to keep, as what workers count is.
    kept: Option<Box<Sums>>,
}

#[derive(Debug, Default)]
struct Sums {
    before: Tally,
    block: Block,
    /// Sums of servers that were forgotten: the pool's own counts must not fall.
    gone: Tally,
}

#[derive(Debug)]
struct Server {
    workers: Box<[OnceLock<Box<ServerShard>>]>,
    vitals: Mutex<Arc<Vitals>>,
    checkups: Mutex<Vec<Arc<Checkup>>>,
}

#[derive(Debug, Default)]
struct ServerShard {
    exchanges: Shard,
    errors: [AtomicU64; UpstreamError::ALL.len()],
    created: AtomicU64,
    reused: AtomicU64,
    closed: AtomicU64,
    parked: AtomicU64,
    unparked: AtomicU64,
    ejections: AtomicU64,
    failovers: AtomicU64,
}

impl PoolStats {
    /// Statistics that report reached bounds nowhere; [`crate::Telemetry::pool`] makes ones that do.
    pub fn new(names: PoolNames, workers: usize) -> Arc<Self> {
        Self::with_limits(names, workers, &LimitHits::new(workers))
    }

    pub fn with_limits(names: PoolNames, workers: usize, limits: &LimitHits) -> Arc<Self> {
        Arc::new(Self {
            names: Mutex::new(names),
            workers: (0..workers.max(1)).map(|_| OnceLock::new()).collect(),
            servers: Mutex::default(),
            rounds: Mutex::default(),
            servers_limit: limits.register("metric_upstream_servers"),
        })
    }

    pub fn names(&self) -> PoolNames {
        locked(&self.names).clone()
    }

    /// Takes over new policies after a change of the document.
    pub fn rename(&self, names: PoolNames) {
        *locked(&self.names) = names;
    }

    /// The recorder of a worker; see [`crate::server::ServerStats::recorder`] for who may hold it.
    pub fn recorder(self: &Arc<Self>, worker: usize) -> PoolRecorder {
        PoolRecorder { worker: worker.min(self.workers.len() - 1), pool: Arc::clone(self) }
    }

    /// Shows what health checks find of a server; without any it counts as healthy.
    pub fn watch_checks(&self, server: &str, checkups: Vec<Arc<Checkup>>) {
        *locked(&self.server(server, usize::MAX).checkups) = checkups;
    }

    /// Shows what is known of a server, whoever learns it.
    pub fn watch(&self, server: &str, vitals: &Arc<Vitals>) {
        *locked(&self.server(server, usize::MAX).vitals) = Arc::clone(vitals);
    }

    /// Forgets the series of servers that left the pool. What a recorder made before still counts about them is seen nowhere.
    pub fn retain_servers(&self, keep: impl Fn(&str) -> bool) {
        let mut rounds = locked(&self.rounds);
        locked(&self.servers).retain(|(name, server)| {
            let keep = keep(name);
            if !keep && server.has_counted() {
                server.merge_into(&mut rounds.sums().gone);
            }
            keep
        });
    }

    /// Closes a round; called every 5 s by one control thread.
    pub fn tick(&self, now: Instant) {
        let mut rounds = locked(&self.rounds);
        let elapsed = rounds.ticked.map_or(TICK, |then| now.saturating_duration_since(then));
        if elapsed.is_zero() {
            return;
        }
        if rounds.kept.is_some() || locked(&self.servers).iter().any(|(_, server)| server.has_counted()) {
            rounds.sums();
        }
        rounds.ticked = Some(now);
        let tally = self.tally(&rounds);
        let Some(Sums { before, block, .. }) = rounds.kept.as_deref_mut() else { return };
        block.tick_between(elapsed, before, &tally);
        *before = tally;
    }

    /// Easegress's `{stat}` of a pool; and its servers, where they are probed.
    pub fn status_json(&self) -> Value {
        let rounds = locked(&self.rounds);
        let totals = self.tally(&rounds).totals;
        let stat =
            rounds.kept.as_deref().map_or_else(|| Block::default().json(&totals), |kept| kept.block.json(&totals));
        let mut shown = json!({ "stat": stat });
        drop(rounds);
        let servers = self.servers_json();
        if !servers.is_empty() {
            shown["servers"] = Value::Array(servers);
        }
        shown
    }

    /// What probes say of the servers that are probed.
    pub fn servers_json(&self) -> Vec<Value> {
        let servers: Vec<_> = locked(&self.servers).clone();
        let checked = servers.into_iter().filter(|(_, server)| !locked(&server.checkups).is_empty());
        let shown = checked.map(|(name, server)| {
            let checks: Vec<Value> = locked(&server.checkups).iter().map(|checkup| checkup.json()).collect();
            let ejected = locked(&server.vitals).ejected.load(Relaxed);
            json!({ "url": *name, "healthy": server.is_healthy(), "ejected": ejected, "checks": checks })
        });
        shown.collect()
    }

    fn tally(&self, rounds: &Rounds) -> Tally {
        let mut tally = rounds.kept.as_deref().map(|kept| kept.gone.clone()).unwrap_or_default();
        locked(&self.servers).iter().for_each(|(_, server)| server.merge_into(&mut tally));
        tally
    }

    fn server(&self, name: &str, worker: usize) -> Arc<Server> {
        let mut servers = locked(&self.servers);
        let place = |servers: &[(Arc<str>, Arc<Server>)], name: &str| {
            servers.binary_search_by(|(known, _)| (**known).cmp(name))
        };
        if let Ok(known) = place(&servers, name) {
            return Arc::clone(&servers[known].1);
        }
        let name = if servers.len() >= SERVERS_MAX {
            self.servers_limit.hit(worker);
            "other"
        } else {
            name
        };
        let at = match place(&servers, name) {
            Ok(known) => known,
            Err(at) => {
                let workers = self.workers.iter().map(|_| OnceLock::new()).collect();
                let made = Server { workers, vitals: Mutex::default(), checkups: Mutex::default() };
                // One is what most have.
                let more = servers.len().max(1);
                if servers.capacity() == servers.len() {
                    servers.reserve_exact(more);
                }
                servers.insert(at, (Arc::from(name), Arc::new(made)));
                at
            }
        };
        Arc::clone(&servers[at].1)
    }

    fn sum(&self, counter: impl Fn(&PoolWorker) -> &AtomicU64) -> f64 {
        self.counted().map(|worker| counter(worker).load(Relaxed)).sum::<u64>() as f64
    }

    fn counted(&self) -> impl Iterator<Item = &PoolWorker> {
        self.workers.iter().filter_map(|worker| worker.get().map(|counts| &**counts))
    }

    /// The counts of a worker, which alone writes them.
    fn of_worker(&self, worker: usize) -> Option<&PoolWorker> {
        self.workers.get(worker).map(|counts| &**counts.get_or_init(Box::default))
    }
}

impl Rounds {
    fn sums(&mut self) -> &mut Sums {
        let ticked = self.ticked.is_some();
        self.kept.get_or_insert_with(|| {
            let mut sums = Box::<Sums>::default();
            if ticked {
                // As if it had been there in the rounds before, in which nothing was counted.
                sums.block.tick_between(TICK, &Tally::default(), &Tally::default());
            }
            sums
        })
    }
}

impl Server {
    fn shards(&self) -> impl Iterator<Item = &ServerShard> {
        self.workers.iter().filter_map(|worker| worker.get().map(|shard| &**shard))
    }

    fn has_counted(&self) -> bool {
        self.shards().next().is_some()
    }

    fn is_healthy(&self) -> bool {
        locked(&self.checkups).iter().all(|checkup| checkup.healthy.load(Relaxed))
    }

    fn merge_into(&self, tally: &mut Tally) {
        self.shards().for_each(|shard| shard.exchanges.merge_into(tally));
    }

    fn sum(&self, counter: impl Fn(&ServerShard) -> &AtomicU64) -> u64 {
        self.shards().map(|shard| counter(shard).load(Relaxed)).sum()
    }
}

/// What one worker counts about a pool.
#[derive(Clone, Debug)]
pub struct PoolRecorder {
    pool: Arc<PoolStats>,
    worker: usize,
}

impl PoolRecorder {
    /// The recorder for one server, such as `http://10.0.0.1:8080`. Looks the name up; keep the result.
    pub fn server(&self, name: &str) -> ServerRecorder {
        ServerRecorder {
            server: self.pool.server(name, self.worker),
            pool: Arc::clone(&self.pool),
            worker: self.worker,
        }
    }

    /// No server of the pool could be chosen.
    pub fn no_server(&self) {
        if let Some(worker) = self.pool.of_worker(self.worker) {
            bump(&worker.no_server, 1);
        }
    }

    /// A request is tried again.
    pub fn retried(&self) {
        if let Some(worker) = self.pool.of_worker(self.worker) {
            bump(&worker.retries, 1);
        }
    }

    /// A second server is asked because the first takes long.
    pub fn hedged(&self) {
        if let Some(worker) = self.pool.of_worker(self.worker) {
            bump(&worker.hedges, 1);
        }
    }

    /// The second one's answer is the client's.
    pub fn hedge_won(&self) {
        if let Some(worker) = self.pool.of_worker(self.worker) {
            bump(&worker.hedges_won, 1);
        }
    }

    /// A server that is left out was used, because too few others are fit.
    pub fn panicked(&self) {
        if let Some(worker) = self.pool.of_worker(self.worker) {
            bump(&worker.panics, 1);
        }
    }
}

/// What one worker counts about a server.
#[derive(Clone, Debug)]
pub struct ServerRecorder {
    pool: Arc<PoolStats>,
    server: Arc<Server>,
    worker: usize,
}

impl ServerRecorder {
    pub fn record(&self, answered: &AnsweredRequest) {
        self.with(|shard| {
            let AnsweredRequest { status, duration, request_bytes, response_bytes } = *answered;
            shard.exchanges.record(status, duration, request_bytes, response_bytes);
        });
        if let Some(worker) = self.pool.of_worker(self.worker) {
            worker.request_body.record(answered.request_bytes, &SIZE_BOUNDS);
            worker.response_body.record(answered.response_bytes, &SIZE_BOUNDS);
        }
    }

    /// A request ended without an answer.
    pub fn error(&self, error: UpstreamError) {
        self.with(|shard| bump(&shard.errors[error as usize], 1));
    }

    /// A connection was established; it is in use.
    pub fn connection_created(&self) {
        self.with(|shard| bump(&shard.created, 1));
    }

    /// A connection in use became idle.
    pub fn connection_parked(&self) {
        self.with(|shard| bump(&shard.parked, 1));
    }

    /// An idle connection is in use again.
    pub fn connection_reused(&self) {
        self.with(|shard| {
            bump(&shard.reused, 1);
            bump(&shard.unparked, 1);
        });
    }

    /// This pool has the server left out.
    pub fn ejected(&self) {
        self.with(|shard| bump(&shard.ejections, 1));
    }

    /// A request that this server did not take goes to another one, within the same try.
    pub fn failed_over(&self) {
        self.with(|shard| bump(&shard.failovers, 1));
    }

    /// A connection is gone.
    pub fn connection_closed(&self, was_idle: bool) {
        self.with(|shard| {
            bump(&shard.closed, 1);
            bump(&shard.unparked, u64::from(was_idle));
        });
    }

    fn with(&self, record: impl FnOnce(&ServerShard)) {
        if let Some(shard) = self.server.workers.get(self.worker) {
            record(shard.get_or_init(Box::default));
        }
    }
}

/// Writes the families of all pools. Together, because Easegress's labels do not tell pools of one filter apart and their counts have
/// to be added up.
pub fn encode(pools: &[Arc<PoolStats>], encoder: &mut Encoder, names: Names, identity: &Identity) {
    pools.iter().for_each(|pool| encode_ours(pool, encoder));
    if names == Names::All {
        encode_easegress(pools, encoder, identity);
    }
}

fn encode_ours(pool: &PoolStats, encoder: &mut Encoder) {
    let name = pool.names().pool;
    let of_pool = [("pool", name.as_str())];
    encoder.counter(
        "weir_upstream_no_server_total",
        "Requests for which no server of the pool could be chosen, by pool.",
        &of_pool,
        pool.sum(|worker| &worker.no_server),
    );
    encoder.counter(
        "weir_upstream_retries_total",
        "Requests tried again, by pool.",
        &of_pool,
        pool.sum(|worker| &worker.retries),
    );
    encoder.counter(
        "weir_upstream_hedges_total",
        "Requests for which a second server was asked because the first took long, by pool.",
        &of_pool,
        pool.sum(|worker| &worker.hedges),
    );
    encoder.counter(
        "weir_upstream_hedges_won_total",
        "Requests that the second server answered first, by pool.",
        &of_pool,
        pool.sum(|worker| &worker.hedges_won),
    );
    encoder.counter(
        "weir_upstream_panics_total",
        "Requests sent to a server that is left out, because too few others of the pool are fit, by pool.",
        &of_pool,
        pool.sum(|worker| &worker.panics),
    );
    let servers: Vec<_> = locked(&pool.servers).clone();
    for (server_name, server) in servers {
        let labels = [("pool", name.as_str()), ("server", &server_name)];
        let mut tally = Tally::default();
        server.merge_into(&mut tally);
        encoder.histogram_from_slots(
            "weir_upstream_request_duration_seconds",
            "Time from choosing the server to the last byte of its response, in seconds, by pool and server.",
            &labels,
            tally.latency_us.iter().map(|(us, n)| (us as f64 / 1e6, n)),
            Some(tally.totals.duration_seconds()),
            &SECONDS_BOUNDS,
        );
        for (&code, &n) in &tally.codes {
            encoder.counter(
                "weir_upstream_requests_total",
                "Requests answered by backends, by pool, server and status code.",
                &[labels[0], labels[1], ("code", &code_text(code))],
                n as f64,
            );
        }
        for error in UpstreamError::ALL {
            encoder.counter(
                "weir_upstream_errors_total",
                "Requests to backends that ended without an answer, by pool, server and reason.",
                &[labels[0], labels[1], ("reason", error.text())],
                server.sum(|shard| &shard.errors[error as usize]) as f64,
            );
        }
        let sum = |counter: fn(&ServerShard) -> &AtomicU64| server.sum(counter);
        let vitals = Arc::clone(&locked(&server.vitals));
        let open = sum(|s| &s.created).saturating_sub(sum(|s| &s.closed));
        let idle = sum(|s| &s.parked).saturating_sub(sum(|s| &s.unparked));
        let counters = [
            (
                "weir_upstream_request_bytes_total",
                "Bytes of request heads and bodies sent to backends, by pool and server.",
                tally.totals.request_bytes,
            ),
            (
                "weir_upstream_response_bytes_total",
                "Bytes of response heads and bodies received from backends, by pool and server.",
                tally.totals.response_bytes,
            ),
            (
                "weir_upstream_connections_created_total",
                "Connections established to backends, by pool and server.",
                sum(|s| &s.created),
            ),
            (
                "weir_upstream_connections_reused_total",
                "Times an idle connection to a backend was used again, by pool and server.",
                sum(|s| &s.reused),
            ),
            (
                "weir_upstream_ejections_total",
                "Times a pool had a server left out because it failed its requests, by pool and server.",
                sum(|s| &s.ejections),
            ),
            (
                "weir_upstream_failovers_total",
                "Requests a server could not be reached for that went to another one within the same try, by pool and server.",
                sum(|s| &s.failovers),
            ),
            (
                "weir_upstream_probes_total",
                "Times a server that is left out was connected to, to see whether it answers, for all pools that name it.",
                vitals.probes.load(Relaxed),
            ),
            (
                "weir_upstream_readmissions_total",
                "Times a server that was left out came back, for all pools that name it.",
                vitals.readmissions.load(Relaxed),
            ),
        ];
        for (name, help, n) in counters {
            encoder.counter(name, help, &labels, n as f64);
        }
        encode_checks(&locked(&server.checkups), &labels, encoder);
        let gauges = [
            (
                "weir_upstream_connections",
                "Open connections to backends, idle ones included, by pool and server.",
                open,
            ),
            ("weir_upstream_idle_connections", "Idle connections to backends, by pool and server.", idle),
            (
                "weir_upstream_healthy",
                "Whether the health checks take the server for healthy (1) or not (0), by pool and server.",
                u64::from(server.is_healthy()),
            ),
            (
                "weir_upstream_ejected",
                "Whether the server is left out because it failed its requests (1) or not (0), by pool and server.",
                u64::from(vitals.ejected.load(Relaxed)),
            ),
        ];
        for (name, help, n) in gauges {
            encoder.gauge(name, help, &labels, n as f64);
        }
    }
}

/// What probes found of a server that is probed.
fn encode_checks(checkups: &[Arc<Checkup>], labels: &[(&str, &str); 2], encoder: &mut Encoder) {
    if checkups.is_empty() {
        return;
    }
    let sum = |counter: fn(&Checkup) -> &AtomicU64| -> u64 {
        checkups.iter().map(|checkup| counter(checkup).load(Relaxed)).sum()
    };
    for (result, n) in [("passed", sum(|c| &c.passed)), ("failed", sum(|c| &c.failed))] {
        encoder.counter(
            "weir_upstream_health_checks_total",
            "Probes of a server's health, for all pools that ask it the same, by pool, server and result.",
            &[labels[0], labels[1], ("result", result)],
            n as f64,
        );
    }
    encoder.counter(
        "weir_upstream_health_falls_total",
        "Times probes found a server unwell that had been well, for all pools that ask it the same, by pool and server.",
        labels,
        sum(|c| &c.falls) as f64,
    );
}

fn encode_easegress(pools: &[Arc<PoolStats>], encoder: &mut Encoder, identity: &Identity) {
    #[derive(Default)]
    struct Sum {
        requests: u64,
        errors: u64,
        bodies: [ObservedRead; 2],
    }
    let mut sums: BTreeMap<[String; 4], Sum> = BTreeMap::new();
    for pool in pools {
        let names = pool.names();
        let sum = sums.entry([names.proxy, names.kind, names.load_balance_policy, names.filter_policy]).or_default();
        let totals = pool.tally(&locked(&pool.rounds)).totals;
        sum.requests += totals.count;
        sum.errors += totals.errors;
        for worker in pool.counted() {
            worker.request_body.merge_into(&mut sum.bodies[0]);
            worker.response_body.merge_into(&mut sum.bodies[1]);
        }
    }
    for ([proxy, kind, policy, filter], sum) in &sums {
        let labels = [
            ("clusterName", identity.cluster_name.as_str()),
            ("clusterRole", identity.cluster_role.as_str()),
            ("instanceName", identity.instance_name.as_str()),
            ("proxyName", proxy.as_str()),
            ("kind", kind.as_str()),
            ("loadBalancePolicy", policy.as_str()),
            ("filterPolicy", filter.as_str()),
        ];
        encoder.counter(
            "proxy_total_connections",
            "the total count of proxy connections",
            &labels,
            sum.requests as f64,
        );
        let help = "the total count of proxy error connections";
        encoder.counter("proxy_total_error_connections", help, &labels, sum.errors as f64);
        let families = [
            ("proxy_request_body_size", "proxy_request_body_size_percentage", "size of the request in bytes"),
            ("proxy_response_body_size", "proxy_response_body_size_percentage", "size of the response in bytes"),
        ];
        for (body, (histogram, summary, help)) in sum.bodies.iter().zip(families) {
            encoder.histogram(histogram, help, &labels, &size_bounds(), &body.buckets, body.sum as f64);
            let quantiles = quantiles_of(&body.values, 1.0);
            encoder.summary(summary, help, &labels, &quantiles, body.sum as f64, body.buckets.iter().sum());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten thousand Ingresses are ten thousand pools, most of which are asked for nothing.
    #[test]
    fn a_pool_that_nobody_asks_takes_little() {
        let pool = PoolStats::new(PoolNames::default(), 4);
        let server = pool.recorder(0).server("http://10.0.0.1:80");
        assert_eq!((pool.counted().count(), pool.sum(|worker| &worker.retries)), (0, 0.0));
        server.record(&AnsweredRequest {
            status: 200,
            duration: Duration::from_millis(1),
            request_bytes: 1,
            response_bytes: 1,
        });
        pool.recorder(1).retried();
        assert_eq!((pool.counted().count(), pool.sum(|worker| &worker.retries)), (2, 1.0));
    }

    /// Nor does it keep sums of its rounds; and those that it gets later are as if it had had them.
    #[test]
    fn rounds_in_which_nothing_was_counted_are_in_the_rates_of_those_after() {
        let (pool, began) = (PoolStats::new(PoolNames::default(), 1), Instant::now());
        let server = pool.recorder(0).server("http://10.0.0.1:80");
        let (mut block, nothing) = (Block::default(), Tally::default());
        for round in 0..3 {
            pool.tick(began + TICK * round);
            block.tick_between(TICK, &nothing, &nothing);
        }
        assert!(locked(&pool.rounds).kept.is_none());
        assert_eq!(pool.status_json()["stat"], json!(block.json(&nothing.totals)));
        for _ in 0..50 {
            server.record(&exchange(200));
        }
        pool.tick(began + TICK * 3);
        let tally = pool.tally(&locked(&pool.rounds));
        block.tick_between(TICK, &nothing, &tally);
        assert_eq!(pool.status_json()["stat"], json!(block.json(&tally.totals)));
        // What is forgotten counts on.
        pool.retain_servers(|_| false);
        assert_eq!(pool.tally(&locked(&pool.rounds)).totals.count, 50);
    }

    #[test]
    fn connections_and_answers_add_up() {
        let pool = PoolStats::new(names("main"), 2);
        for worker in 0..2 {
            let recorder = pool.recorder(worker);
            let server = recorder.server("http://10.0.0.1:80");
            server.connection_created();
            server.connection_created();
            for status in [200, 200, 502] {
                server.record(&exchange(status));
            }
            server.connection_parked();
            server.connection_reused();
            server.connection_parked();
            server.connection_closed(false);
            server.ejected();
            server.failed_over();
            server.error(UpstreamError::Timeout);
            recorder.no_server();
            recorder.retried();
            recorder.panicked();
        }
        let vitals = Arc::new(Vitals::default());
        pool.watch("http://10.0.0.1:80", &vitals);
        vitals.ejected.store(true, Relaxed);
        vitals.probes.store(3, Relaxed);
        let checkup = Arc::new(Checkup::new("http", false));
        pool.watch_checks("http://10.0.0.1:80", vec![Arc::new(Checkup::new("tcp", true)), Arc::clone(&checkup)]);
        checkup.probed(Some("status 503".to_owned()), Duration::from_millis(2));
        pool.tick(Instant::now());
        let text = text(&[Arc::clone(&pool)]);
        let labels = "pool=\"main\",server=\"http://10.0.0.1:80\"";
        for line in [
            format!("weir_upstream_requests_total{{{labels},code=\"200\"}} 4"),
            format!("weir_upstream_errors_total{{{labels},reason=\"timeout\"}} 2"),
            format!("weir_upstream_connections{{{labels}}} 2"),
            format!("weir_upstream_idle_connections{{{labels}}} 2"),
            format!("weir_upstream_connections_created_total{{{labels}}} 4"),
            format!("weir_upstream_connections_reused_total{{{labels}}} 2"),
            format!("weir_upstream_healthy{{{labels}}} 0"),
            format!("weir_upstream_ejected{{{labels}}} 1"),
            format!("weir_upstream_health_checks_total{{{labels},result=\"failed\"}} 1"),
            format!("weir_upstream_health_falls_total{{{labels}}} 0"),
            format!("weir_upstream_ejections_total{{{labels}}} 2"),
            format!("weir_upstream_failovers_total{{{labels}}} 2"),
            format!("weir_upstream_probes_total{{{labels}}} 3"),
            format!("weir_upstream_readmissions_total{{{labels}}} 0"),
            "weir_upstream_panics_total{pool=\"main\"} 2".to_owned(),
            format!("weir_upstream_request_duration_seconds_count{{{labels}}} 6"),
            "weir_upstream_retries_total{pool=\"main\"} 2".to_owned(),
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} missing in\n{text}");
        }
        let status = pool.status_json();
        assert_eq!(status["stat"]["codes"], json!({"200": 4, "502": 2}));
        let server = &status["servers"][0];
        assert_eq!((&server["url"], &server["healthy"]), (&json!("http://10.0.0.1:80"), &json!(false)));
        let checks = (&server["checks"][1]["type"], &server["checks"][1]["lastError"]);
        assert_eq!(checks, (&json!("http"), &json!("status 503")));
    }

    #[test]
    fn pools_with_the_same_easegress_labels_are_added_up() {
        let pools = [PoolStats::new(names("main"), 1), PoolStats::new(names("candidate"), 1)];
        for pool in &pools {
            pool.recorder(0).server("a").record(&exchange(404));
        }
        pools[0].retain_servers(|_| false);
        let text = text(&pools);
        let labels = "clusterName=\"\",clusterRole=\"\",instanceName=\"\",proxyName=\"proxy\",kind=\"Proxy\",\
                      loadBalancePolicy=\"roundRobin\",filterPolicy=\"\"";
        assert!(text.contains(&format!("proxy_total_connections{{{labels}}} 2\n")), "{text}");
        assert!(text.contains(&format!("proxy_total_error_connections{{{labels}}} 2\n")), "{text}");
        assert!(text.contains("weir_metrics_rejected_total 0\n"), "{text}");
    }

    fn names(pool: &str) -> PoolNames {
        PoolNames {
            pool: pool.into(),
            proxy: "proxy".into(),
            kind: "Proxy".into(),
            load_balance_policy: "roundRobin".into(),
            filter_policy: String::new(),
        }
    }

    fn exchange(status: u16) -> AnsweredRequest {
        AnsweredRequest { status, duration: Duration::from_millis(3), request_bytes: 10, response_bytes: 1000 }
    }

    fn text(pools: &[Arc<PoolStats>]) -> String {
        let mut encoder = Encoder::new(Names::All);
        encode(pools, &mut encoder, Names::All, &Identity::default());
        encoder.finish()
    }
}
