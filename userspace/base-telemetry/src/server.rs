//! Statistics of one HTTPServer: what its workers record, the stat block of its status, its metric families.
//!
//! [`ServerStats`] outlives configuration changes; each worker holds a [`Recorder`] and calls it once per finished request.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::block::Block;
use crate::ewma::TICK;
use crate::histogram::{Bounds, COARSE, Counts, SharedHistogram, bump, slot};
use crate::hub::Identity;
use crate::limits::{Limit, LimitHits};
use crate::locked;
use crate::registry::{Encoder, Names, SECONDS_BOUNDS};
use crate::shard::{STATUS_OTHER, Shard, Tally, is_error, nanos};
use crate::top_paths::{PathTable, TopPaths, seed};

/// Backends of one server that have series of their own; requests of further ones are counted under `other`.
const BACKENDS_MAX: usize = 1024;
/// Backends a recorder finds without hashing the name.
const RECENT_BACKENDS: usize = 4;
/// Rounds after which the window of the summaries moves on: they cover the last 5 to 10 minutes.
const WINDOW_ROUNDS: u32 = 60;

/// Easegress's bounds of request times, in milliseconds.
pub(crate) const DURATION_BOUNDS_MS: [f64; 10] =
    [10.0, 50.0, 100.0, 200.0, 400.0, 800.0, 1000.0, 2000.0, 4000.0, 8000.0];
/// Quantiles of Easegress's `…_percentage` summaries.
const SUMMARY_QUANTILES: [f64; 6] = [0.25, 0.5, 0.75, 0.9, 0.95, 0.99];

/// Easegress's bounds of body sizes: ten from 200 to 400,000 bytes, evenly spaced on a logarithmic scale.
pub(crate) fn size_bounds() -> [f64; 10] {
    let growth = (400_000f64 / 200.0).powf(1.0 / 9.0);
    let mut bounds = [200.0; 10];
    for i in 1..10 {
        bounds[i] = bounds[i - 1] * growth;
    }
    // The powers end a rounding error beside it, which would show in the label.
    bounds[9] = 400_000.0;
    bounds
}

/// One finished request.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    pub status: u16,
    /// From the first byte of the request to the last byte of the response.
    pub duration: Duration,
    /// Head and body as received.
    pub request_bytes: u64,
    /// Head and body as sent.
    pub response_bytes: u64,
    /// The path as the client asked for it, without the query.
    pub path: &'a str,
    /// Name of the pipeline that answered.
    pub backend: Option<&'a Arc<str>>,
    /// Whether the router chose a rule; only then the request counts in the series that have a `backend` label.
    pub route_found: bool,
}

/// What the listener says about itself in the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    #[default]
    Nil,
    Running,
    Failed,
    Closed,
}

impl State {
    pub fn text(self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Closed => "closed",
        }
    }
}

/// Statistics of one HTTPServer object.
#[derive(Debug)]
pub struct ServerStats {
    name: String,
    workers: Box<[Worker]>,
    backends: Mutex<Backends>,
    /// Raised when backends were forgotten, so that recorders look theirs up again.
    backends_epoch: AtomicU64,
    rounds: Mutex<Rounds>,
    about: Mutex<About>,
    path_seed: u64,
    paths_missed: AtomicU64,
    limits: ServerLimits,
}

#[derive(Debug)]
struct ServerLimits {
    top_paths: Limit,
    top_patterns: Limit,
    backends: Limit,
}

#[derive(Debug, Default)]
struct Worker {
    shard: Shard,
    /// Requests that came over HTTP/2.
    http2: AtomicU64,
    /// Over HTTP/3.
    http3: AtomicU64,
    paths: Mutex<PathTable>,
}

#[derive(Debug)]
struct About {
    state: State,
    error: Option<String>,
    router_kind: String,
}

#[derive(Debug, Default)]
struct Rounds {
    ticked: Option<Instant>,
    before: Tally,
    block: Block,
    top: TopPaths,
    spare: PathTable,
}

#[derive(Debug, Default)]
struct Backends {
    by_name: BTreeMap<Arc<str>, Arc<Backend>>,
}

impl ServerStats {
    /// Statistics that report reached bounds nowhere; [`crate::Telemetry::server`] makes ones that do.
    pub fn new(name: &str, workers: usize) -> Arc<Self> {
        Self::with_limits(name, workers, &LimitHits::new(workers))
    }

    pub fn with_limits(name: &str, workers: usize, limits: &LimitHits) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            workers: (0..workers.max(1)).map(|_| Worker::default()).collect(),
            backends: Mutex::default(),
            backends_epoch: AtomicU64::new(0),
            rounds: Mutex::default(),
            about: Mutex::new(About { state: State::Nil, error: None, router_kind: "Ordered".to_owned() }),
            path_seed: seed(),
            paths_missed: AtomicU64::new(0),
            limits: ServerLimits {
                top_paths: limits.register("top_paths"),
                top_patterns: limits.register("top_patterns"),
                backends: limits.register("metric_backends"),
            },
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The recorder of a worker. A worker may hold several (one per configuration generation) as long as all stay on its thread;
    /// recorders of one index on two threads would lose counts.
    pub fn recorder(self: &Arc<Self>, worker: usize) -> Recorder {
        Recorder {
            worker: worker.min(self.workers.len() - 1),
            recent: Vec::with_capacity(RECENT_BACKENDS),
            replace: 0,
            epoch: self.backends_epoch.load(Relaxed),
            stats: Arc::clone(self),
        }
    }

    /// Shown in the status and as `httpserver_health`.
    pub fn set_state(&self, state: State, error: Option<String>) {
        let mut about = locked(&self.about);
        about.state = state;
        about.error = error;
    }

    /// The `routerKind` label; `Ordered` unless told otherwise.
    pub fn set_router_kind(&self, kind: &str) {
        locked(&self.about).router_kind = kind.to_owned();
    }

    /// Forgets the series of backends that are gone.
    pub fn retain_backends(&self, keep: impl Fn(&str) -> bool) {
        locked(&self.backends).by_name.retain(|name, _| keep(name));
        self.backends_epoch.fetch_add(1, Relaxed);
    }

    /// Closes a round; called every 5 s by one control thread.
    pub fn tick(&self, now: Instant) {
        let mut rounds = locked(&self.rounds);
        let elapsed = rounds.ticked.map_or(TICK, |then| now.saturating_duration_since(then));
        if elapsed.is_zero() {
            return;
        }
        rounds.ticked = Some(now);
        let tally = self.tally();
        let Rounds { before, block, top, spare, .. } = &mut *rounds;
        block.tick_between(elapsed, before, &tally);
        *before = tally;
        for worker in &self.workers {
            std::mem::swap(&mut *locked(&worker.paths), spare);
            self.limits.top_paths.add(top.ingest(spare));
        }
        self.limits.top_paths.add(self.paths_missed.swap(0, Relaxed));
        self.limits.top_patterns.add(top.tick(elapsed));
        drop(rounds);
        for backend in self.backends() {
            backend.tick();
        }
    }

    /// Easegress's status of an HTTPServer: counts as they are now, rates, percentiles, codes and `topN` of the last round.
    pub fn status_json(&self) -> Value {
        let mut status = Map::new();
        {
            let about = locked(&self.about);
            status.insert("name".to_owned(), json!(self.name));
            status.insert("health".to_owned(), json!(about.error.as_deref().unwrap_or("")));
            status.insert("state".to_owned(), json!(about.state.text()));
            if let Some(error) = &about.error {
                status.insert("error".to_owned(), json!(error));
            }
        }
        let totals = self.tally().totals;
        let rounds = locked(&self.rounds);
        status.extend(rounds.block.json(&totals));
        status.insert("topN".to_owned(), Value::Array(rounds.top.json()));
        Value::Object(status)
    }

    /// `httpserver_*` with Easegress's labels and `weir_request*` with ours.
    pub fn encode(&self, encoder: &mut Encoder, names: Names, identity: &Identity) {
        let tally = self.tally();
        let ours = [("server", self.name.as_str())];
        encoder.histogram_from_slots(
            "weir_request_duration_seconds",
            "Time from the first byte of a request to the last byte of its response, in seconds, by server.",
            &ours,
            tally.latency_us.iter().map(|(us, n)| (us as f64 / 1e6, n)),
            Some(tally.totals.duration_seconds()),
            &SECONDS_BOUNDS,
        );
        for (code, &n) in &tally.codes {
            encoder.counter(
                "weir_requests_total",
                "Requests answered, by server and status code.",
                &[("server", &self.name), ("code", &code_text(*code))],
                n as f64,
            );
        }
        let sum =
            |of: fn(&Worker) -> &AtomicU64| self.workers.iter().map(|worker| of(worker).load(Relaxed)).sum::<u64>();
        let (http2, http3) = (sum(|worker| &worker.http2), sum(|worker| &worker.http3));
        let http1 = tally.totals.count.saturating_sub(http2 + http3);
        for (protocol, n) in [("HTTP/1", http1), ("HTTP/2", http2), ("HTTP/3", http3)] {
            encoder.counter(
                "weir_requests_by_protocol_total",
                "Requests answered, by server and protocol of the client.",
                &[("server", &self.name), ("protocol", protocol)],
                n as f64,
            );
        }
        encoder.counter(
            "weir_request_bytes_total",
            "Bytes of request heads and bodies received from clients, by server.",
            &ours,
            tally.totals.request_bytes as f64,
        );
        encoder.counter(
            "weir_response_bytes_total",
            "Bytes of response heads and bodies sent to clients, by server.",
            &ours,
            tally.totals.response_bytes as f64,
        );
        if names == Names::All {
            self.encode_easegress(encoder, identity, &tally);
        }
    }

    fn encode_easegress(&self, encoder: &mut Encoder, identity: &Identity, tally: &Tally) {
        let (healthy, router_kind) = {
            let about = locked(&self.about);
            (about.state == State::Running, about.router_kind.clone())
        };
        let set_a = [
            ("clusterName", identity.cluster_name.as_str()),
            ("clusterRole", identity.cluster_role.as_str()),
            ("instanceName", identity.instance_name.as_str()),
            ("httpServerName", self.name.as_str()),
            ("kind", "HTTPServer"),
        ];
        let help = "show the status for the http server: 1 for ready, 0 for down";
        encoder.gauge("httpserver_health", help, &set_a, f64::from(u8::from(healthy)));
        for (key, value) in locked(&self.rounds).block.numbers(&tally.totals) {
            if let Some((_, name, help)) = STATUS_GAUGES.iter().find(|(json, ..)| *json == key) {
                encoder.gauge(name, help, &set_a, value.as_f64().unwrap_or(0.0));
            }
        }
        let sizes = size_bounds();
        for backend in self.backends() {
            let read = backend.read();
            let mut labels = set_a.to_vec();
            labels.extend([("routerKind", router_kind.as_str()), ("backend", &backend.name)]);
            let counts = [
                ("httpserver_total_requests", "the total count of http requests", read.requests),
                ("httpserver_total_responses", "the total count of http responses", read.requests),
                ("httpserver_total_error_requests", "the total count of http error requests", read.errors),
            ];
            for (name, help, n) in counts {
                encoder.counter(name, help, &labels, n as f64);
            }
            let window = backend.window(&read);
            let families = [
                (
                    "httpserver_requests_duration",
                    "httpserver_requests_duration_percentage",
                    "request processing time in milliseconds",
                    &DURATION_BOUNDS_MS,
                    1e-3,
                ),
                (
                    "httpserver_requests_size_bytes",
                    "httpserver_requests_size_bytes_percentage",
                    "size of the request in bytes, body included",
                    &sizes,
                    1.0,
                ),
                (
                    "httpserver_responses_size_bytes",
                    "httpserver_responses_size_bytes_percentage",
                    "size of the response in bytes, body included",
                    &sizes,
                    1.0,
                ),
            ];
            for ((observed, window), (histogram, summary, help, bounds, scale)) in
                read.observed.iter().zip(window).zip(families)
            {
                let sum = observed.sum as f64 * scale;
                encoder.histogram(histogram, help, &labels, bounds, &observed.buckets, sum);
                let quantiles = quantiles_of(&window, scale);
                encoder.summary(summary, help, &labels, &quantiles, sum, observed.buckets.iter().sum());
            }
        }
    }

    fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        self.workers.iter().for_each(|worker| worker.shard.merge_into(&mut tally));
        tally
    }

    fn backends(&self) -> Vec<Arc<Backend>> {
        locked(&self.backends).by_name.values().cloned().collect()
    }

    fn backend(&self, worker: usize, name: &Arc<str>) -> Arc<Backend> {
        let mut backends = locked(&self.backends);
        if let Some(known) = backends.by_name.get(name) {
            return Arc::clone(known);
        }
        let name = if backends.by_name.len() >= BACKENDS_MAX {
            self.limits.backends.hit(worker);
            Arc::from("other")
        } else {
            Arc::clone(name)
        };
        let made = backends.by_name.entry(name).or_insert_with_key(|name| Backend::new(name, self.workers.len()));
        Arc::clone(made)
    }
}

/// The label of a status code.
pub(crate) fn code_text(code: u16) -> String {
    if code == STATUS_OTHER { "other".to_owned() } else { code.to_string() }
}

/// (quantile, value) of a window, for a summary.
pub(crate) fn quantiles_of(window: &Counts<COARSE>, scale: f64) -> [(f64, f64); 6] {
    let values = window.quantiles(SUMMARY_QUANTILES);
    let empty = window.is_empty();
    std::array::from_fn(|i| (SUMMARY_QUANTILES[i], if empty { f64::NAN } else { values[i] as f64 * scale }))
}

/// What one worker records with. Cheap: about 20 additions to lines only this worker writes.
#[derive(Debug)]
pub struct Recorder {
    stats: Arc<ServerStats>,
    worker: usize,
    recent: Vec<(Arc<str>, Arc<Backend>)>,
    replace: usize,
    epoch: u64,
}

impl Recorder {
    /// The request that is recorded next came over HTTP/2.
    pub fn over_http2(&self) {
        if let Some(worker) = self.stats.workers.get(self.worker) {
            // It alone counts here.
            worker.http2.store(worker.http2.load(Relaxed) + 1, Relaxed);
        }
    }

    /// The same for HTTP/3.
    pub fn over_http3(&self) {
        if let Some(worker) = self.stats.workers.get(self.worker) {
            worker.http3.store(worker.http3.load(Relaxed) + 1, Relaxed);
        }
    }

    pub fn record(&mut self, sample: &Sample<'_>) {
        let Some(worker) = self.stats.workers.get(self.worker) else { return };
        worker.shard.record(sample.status, sample.duration, sample.request_bytes, sample.response_bytes);
        // Who closes the round holds the lock for the time of a swap; to wait even for that could mean waiting for a thread that
        // lost its CPU, so the path of this one request is given up instead.
        match worker.paths.try_lock() {
            Ok(mut paths) => paths.add(
                self.stats.path_seed,
                sample.path,
                sample.status,
                nanos(sample.duration),
                sample.request_bytes,
                sample.response_bytes,
            ),
            Err(_) => {
                self.stats.paths_missed.fetch_add(1, Relaxed);
            }
        }
        if let (true, Some(name)) = (sample.route_found, sample.backend) {
            self.backend(name);
            if let Some((_, backend)) = self.recent.first() {
                backend.record(self.worker, sample);
            }
        }
    }

    /// Puts the backend at the front of `recent`.
    fn backend(&mut self, name: &Arc<str>) {
        let epoch = self.stats.backends_epoch.load(Relaxed);
        if epoch != self.epoch {
            self.epoch = epoch;
            self.recent.clear();
        }
        // The entry holds on to its name, so the same address cannot have become another name meanwhile.
        if let Some(at) = self.recent.iter().position(|(known, _)| Arc::ptr_eq(known, name)) {
            self.recent.swap(0, at);
            return;
        }
        let entry = (Arc::clone(name), self.stats.backend(self.worker, name));
        if self.recent.len() < RECENT_BACKENDS {
            self.recent.push(entry);
            let last = self.recent.len() - 1;
            self.recent.swap(0, last);
        } else {
            self.replace = self.replace % (RECENT_BACKENDS - 1) + 1;
            self.recent[self.replace] = entry;
            self.recent.swap(0, self.replace);
        }
    }
}

/// The series with a `backend` label.
#[derive(Debug)]
struct Backend {
    name: Arc<str>,
    workers: Box<[OnceLock<Box<BackendShard>>]>,
    windows: Mutex<Windows>,
}

#[derive(Debug, Default)]
struct BackendShard {
    requests: AtomicU64,
    errors: AtomicU64,
    /// Duration in µs, request size, response size.
    observed: [Observed; 3],
}

/// A histogram over ten bounds and the coarse one that summaries are read from.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    sum: AtomicU64,
    buckets: [AtomicU64; 11],
    values: SharedHistogram<COARSE>,
}

impl Observed {
    #[inline]
    pub(crate) fn record(&self, value: u64, bounds: &Bounds) {
        let slot = slot::<COARSE>(value);
        bump(&self.sum, value);
        bump(&self.buckets[bounds.exceeded(value, slot)], 1);
        self.values.record_slot(slot);
    }

    pub(crate) fn merge_into(&self, read: &mut ObservedRead) {
        read.sum = read.sum.wrapping_add(self.sum.load(Relaxed));
        for (to, from) in read.buckets.iter_mut().zip(&self.buckets) {
            *to += from.load(Relaxed);
        }
        self.values.merge_into(&mut read.values);
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct ObservedRead {
    pub(crate) sum: u64,
    pub(crate) buckets: [u64; 11],
    pub(crate) values: Counts<COARSE>,
}

/// Values at the start of the current and the previous window.
#[derive(Debug, Default)]
struct Windows {
    rounds: u32,
    started: [Counts<COARSE>; 3],
    previous: [Counts<COARSE>; 3],
}

#[derive(Debug, Default)]
struct BackendRead {
    requests: u64,
    errors: u64,
    observed: [ObservedRead; 3],
}

/// The millisecond bounds in µs.
static DURATION_BOUNDS_US: Bounds =
    Bounds::new(&[10_000, 50_000, 100_000, 200_000, 400_000, 800_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000]);
/// The size bounds rounded down: a whole number exceeds the bound exactly when it exceeds this.
pub(crate) static SIZE_BOUNDS: Bounds = Bounds::new(&[200, 465, 1082, 2519, 5863, 13643, 31748, 73875, 171901, 400000]);

impl Backend {
    fn new(name: &Arc<str>, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            name: Arc::clone(name),
            workers: (0..workers).map(|_| OnceLock::new()).collect(),
            windows: Mutex::default(),
        })
    }

    fn record(&self, worker: usize, sample: &Sample<'_>) {
        let Some(shard) = self.workers.get(worker) else { return };
        let shard = shard.get_or_init(Box::default);
        bump(&shard.requests, 1);
        if is_error(sample.status) {
            bump(&shard.errors, 1);
        }
        let [duration, request, response] = &shard.observed;
        duration.record(nanos(sample.duration) / 1000, &DURATION_BOUNDS_US);
        request.record(sample.request_bytes, &SIZE_BOUNDS);
        response.record(sample.response_bytes, &SIZE_BOUNDS);
    }

    fn read(&self) -> BackendRead {
        let mut read = BackendRead::default();
        for shard in self.workers.iter().filter_map(OnceLock::get) {
            read.requests += shard.requests.load(Relaxed);
            read.errors += shard.errors.load(Relaxed);
            for (from, to) in shard.observed.iter().zip(&mut read.observed) {
                from.merge_into(to);
            }
        }
        read
    }

    fn tick(&self) {
        let mut windows = locked(&self.windows);
        windows.rounds += 1;
        if windows.rounds >= WINDOW_ROUNDS {
            windows.rounds = 0;
            windows.previous = std::mem::take(&mut windows.started);
            windows.started = self.read().observed.map(|observed| observed.values);
        }
    }

    fn window(&self, read: &BackendRead) -> [Counts<COARSE>; 3] {
        let windows = locked(&self.windows);
        std::array::from_fn(|i| read.observed[i].values.since(&windows.previous[i]))
    }
}

/// JSON key, metric and help of the gauges Easegress makes from the status.
const STATUS_GAUGES: [(&str, &str, &str); 21] = [
    ("m1", "httpserver_m1", "requests per second, 1 minute average"),
    ("m5", "httpserver_m5", "requests per second, 5 minute average"),
    ("m15", "httpserver_m15", "requests per second, 15 minute average"),
    ("m1Err", "httpserver_m1_err", "failed requests per second, 1 minute average"),
    ("m5Err", "httpserver_m5_err", "failed requests per second, 5 minute average"),
    ("m15Err", "httpserver_m15_err", "failed requests per second, 15 minute average"),
    ("m1ErrPercent", "httpserver_m1_err_percent", "failed requests per request, 1 minute average, 0 to 1"),
    ("m5ErrPercent", "httpserver_m5_err_percent", "failed requests per request, 5 minute average, 0 to 1"),
    ("m15ErrPercent", "httpserver_m15_err_percent", "failed requests per request, 15 minute average, 0 to 1"),
    ("min", "httpserver_min", "shortest request since the start, in milliseconds"),
    ("max", "httpserver_max", "longest request since the start, in milliseconds"),
    ("mean", "httpserver_mean", "mean request time since the start, in milliseconds"),
    ("p25", "httpserver_p25", "25th percentile of request time in the last round, in milliseconds"),
    ("p50", "httpserver_p50", "50th percentile of request time in the last round, in milliseconds"),
    ("p75", "httpserver_p75", "75th percentile of request time in the last round, in milliseconds"),
    ("p95", "httpserver_p95", "95th percentile of request time in the last round, in milliseconds"),
    ("p98", "httpserver_p98", "98th percentile of request time in the last round, in milliseconds"),
    ("p99", "httpserver_p99", "99th percentile of request time in the last round, in milliseconds"),
    ("p999", "httpserver_p999", "99.9th percentile of request time in the last round, in milliseconds"),
    ("reqSize", "httpserver_req_size", "bytes of all requests since the start"),
    ("respSize", "httpserver_resp_size", "bytes of all responses since the start"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_bounds_are_the_fractional_ones_rounded_down() {
        for (whole, exact) in SIZE_BOUNDS.bounds().iter().zip(size_bounds()) {
            assert_eq!(*whole as f64, exact.floor());
        }
        for (us, ms) in DURATION_BOUNDS_US.bounds().iter().zip(DURATION_BOUNDS_MS) {
            assert_eq!(*us as f64, ms * 1000.0);
        }
    }

    #[test]
    fn status_merges_workers_and_restarts_rounds() {
        let stats = ServerStats::new("shop", 2);
        let backend: Arc<str> = Arc::from("pipeline");
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let (mut recorder, backend) = (stats.recorder(worker), &backend);
                scope.spawn(move || {
                    for i in 0..500u64 {
                        recorder.record(&sample(if i % 10 == 0 { 500 } else { 200 }, i + 1, "/a", Some(backend)));
                    }
                });
            }
        });
        stats.recorder(0).record(&Sample { route_found: false, ..sample(404, 1, "/none", None) });
        let start = Instant::now();
        stats.tick(start);
        let status = stats.status_json();
        assert_eq!((&status["count"], &status["errCount"]), (&json!(1001), &json!(101)));
        assert_eq!(status["codes"], json!({"200": 900, "404": 1, "500": 100}));
        assert_eq!((&status["topN"][0]["path"], &status["topN"][0]["count"]), (&json!("/a"), &json!(1000)));
        assert_eq!((&status["name"], &status["state"]), (&json!("shop"), &json!("nil")));
        stats.tick(start + TICK);
        let status = stats.status_json();
        assert_eq!((&status["count"], &status["p50"], &status["codes"]), (&json!(1001), &json!(0.0), &json!({})));
        assert!(status["m1"].as_f64().unwrap() > 0.0);
    }

    #[test]
    fn backend_series_count_only_routed_requests() {
        let stats = ServerStats::new("shop", 1);
        let mut recorder = stats.recorder(0);
        let names: Vec<Arc<str>> = (0..7).map(|i| Arc::from(format!("p{i}"))).collect();
        for round in 0..30 {
            recorder.record(&sample(200, 12, "/", Some(&names[round % 7])));
        }
        recorder.record(&Sample { route_found: false, ..sample(404, 1, "/", Some(&names[0])) });
        (0..2).for_each(|_| recorder.over_http2());
        (0..3).for_each(|_| recorder.over_http3());
        let renamed: Arc<str> = Arc::from("p0");
        recorder.record(&sample(502, 9, "/", Some(&renamed)));
        let text = text_of(&stats);
        let labels = "clusterName=\"c\",clusterRole=\"primary\",instanceName=\"i\",httpServerName=\"shop\",kind=\"HTTPServer\",\
                      routerKind=\"Ordered\",backend=\"p0\"";
        for line in [
            format!("httpserver_total_requests{{{labels}}} 6"),
            format!("httpserver_total_error_requests{{{labels}}} 1"),
            format!("httpserver_requests_duration_bucket{{{labels},le=\"10\"}} 1"),
            format!("httpserver_requests_duration_bucket{{{labels},le=\"50\"}} 6"),
            "weir_requests_total{server=\"shop\",code=\"200\"} 30".to_owned(),
            "weir_requests_total{server=\"shop\",code=\"404\"} 1".to_owned(),
            "weir_requests_by_protocol_total{server=\"shop\",protocol=\"HTTP/1\"} 27".to_owned(),
            "weir_requests_by_protocol_total{server=\"shop\",protocol=\"HTTP/2\"} 2".to_owned(),
            "weir_requests_by_protocol_total{server=\"shop\",protocol=\"HTTP/3\"} 3".to_owned(),
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} missing in\n{text}");
        }
        stats.retain_backends(|name| name == "p1");
        recorder.record(&sample(200, 9, "/", Some(&names[1])));
        let text = text_of(&stats);
        assert!(!text.contains("backend=\"p0\"") && text.contains("backend=\"p1\""));
    }

    #[test]
    fn nothing_is_lost_while_rounds_close() {
        const REQUESTS: u64 = 20_000;
        let limits = LimitHits::new(1);
        let stats = ServerStats::with_limits("shop", 1, &limits);
        let start = Instant::now();
        std::thread::scope(|scope| {
            let mut recorder = stats.recorder(0);
            let writer = scope.spawn(move || (0..REQUESTS).for_each(|_| recorder.record(&sample(200, 1, "/a", None))));
            let mut round = 0;
            while !writer.is_finished() {
                round += 1;
                stats.tick(start + TICK * round);
            }
            stats.tick(start + TICK * (round + 1));
        });
        let status = stats.status_json();
        assert_eq!(status["count"], json!(REQUESTS));
        // Rounds that close while the writer has no CPU may give the path up altogether.
        let counted = status["topN"][0]["count"].as_u64().unwrap_or(0);
        assert_eq!(counted + limits.register("top_paths").total(), REQUESTS, "a path given up is counted as such");
    }

    #[test]
    fn endless_backends_end_up_in_other() {
        let limits = LimitHits::new(1);
        let stats = ServerStats::with_limits("shop", 1, &limits);
        let mut recorder = stats.recorder(0);
        for i in 0..BACKENDS_MAX + 5 {
            recorder.record(&sample(200, 1, "/", Some(&Arc::from(format!("p{i}")))));
        }
        assert_eq!(stats.backends().len(), BACKENDS_MAX + 1);
        assert_eq!(limits.register("metric_backends").total(), 5);
    }

    #[test]
    fn wrong_worker_and_odd_samples_do_not_panic() {
        let stats = ServerStats::new("shop", 0);
        let mut recorder = stats.recorder(1000);
        for status in [0, 1, 99, 600, u16::MAX] {
            recorder.record(&Sample {
                status,
                duration: Duration::MAX,
                request_bytes: u64::MAX,
                response_bytes: u64::MAX,
                path: "ü".repeat(300).as_str(),
                backend: None,
                route_found: true,
            });
        }
        stats.tick(Instant::now());
        assert_eq!(stats.status_json()["errCount"], json!(5));
    }

    fn sample<'a>(status: u16, ms: u64, path: &'a str, backend: Option<&'a Arc<str>>) -> Sample<'a> {
        let duration = Duration::from_millis(ms);
        Sample { status, duration, request_bytes: 100, response_bytes: 1000, path, backend, route_found: true }
    }

    fn text_of(stats: &ServerStats) -> String {
        let identity = Identity { cluster_name: "c".into(), cluster_role: "primary".into(), instance_name: "i".into() };
        let mut encoder = Encoder::new(Names::All);
        stats.encode(&mut encoder, Names::All, &identity);
        encoder.finish()
    }
}
