//! A thread for each collector: gathers what workers hand over, encodes it, sends it, tries again.

use crate::agent::Agent;
use crate::post::{Make, Post, url_of};
use crate::stats::{Kind, Lost};
use base_model::{BatchLimitsSpec, JaegerSpec, MtlsSpec, OtlpSpec, ZipkinSpec};
use base_runtime::Worker;
use base_telemetry::Telemetry;
use base_text::Seldom;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use edge_upstream::Reply;
use proto_http::Request;
use proto_trace::{Recording, Resource, jaeger, otlp, zipkin};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// What a collector is, and what it is sent in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Zipkin(ZipkinSpec),
    Jaeger(JaegerSpec),
    Otlp(OtlpSpec),
}

/// Everything that makes an exporter what it is: servers that agree in it share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    pub target: Target,
    pub limits: BatchLimitsSpec,
    pub resource: Resource,
}

/// A queue of finished requests, and the thread that empties it. Dropped, what waits is still sent.
pub struct Exporter {
    recipe: Recipe,
    kind: Kind,
    queue: SyncSender<Arc<Recording>>,
    shared: Arc<Shared>,
    thread: Thread,
    queue_most: usize,
    batch: usize,
}

/// What the thread and its exporter both look at.
#[derive(Default)]
struct Shared {
    /// Spans that wait.
    waiting: AtomicUsize,
    /// When everything is to be over.
    end: OnceLock<Instant>,
}

/// Longest pause between looks at the queue.
const LOOK: Duration = Duration::from_millis(200);

/// Pauses between tries: the first, and the longest.
const AGAIN_FIRST: Duration = Duration::from_millis(500);
const AGAIN_MOST: Duration = Duration::from_secs(30);

/// A batch is given up after this long.
const GIVE_UP: Duration = Duration::from_secs(300);

/// What is left when the process ends is tried for this long.
const LAST: Duration = Duration::from_secs(2);

/// And their threads have so long to notice that it is over.
const AFTER_LAST: Duration = Duration::from_millis(500);

/// Between two lines in the log about a collector that does not take spans.
const TELL: Duration = Duration::from_secs(60);

static EXPORTERS: Mutex<Vec<Weak<Exporter>>> = Mutex::new(Vec::new());
static THREADS: Mutex<Vec<(Arc<Shared>, JoinHandle<()>)>> = Mutex::new(Vec::new());

/// Ends all exporters: what waits is sent, within [`LAST`].
pub(crate) fn shutdown() {
    let threads = std::mem::take(&mut *lock(&THREADS));
    let end = Instant::now() + LAST;
    for (shared, thread) in &threads {
        let _ = shared.end.set(end);
        thread.thread().unpark();
    }
    // One that waits for something without an end is not waited for.
    let last = end + AFTER_LAST;
    while threads.iter().any(|(_, thread)| !thread.is_finished()) && Instant::now() < last {
        thread::sleep(Duration::from_millis(5));
    }
}

impl Exporter {
    /// The exporter of this recipe. The error says what is wrong with the document or with this machine.
    pub fn of(recipe: Recipe, telemetry: &Arc<Telemetry>, workers: &[Worker]) -> Result<Arc<Exporter>, String> {
        let mut exporters = lock(&EXPORTERS);
        exporters.retain(|exporter| exporter.strong_count() > 0);
        if let Some(known) = exporters.iter().filter_map(Weak::upgrade).find(|known| known.recipe == recipe) {
            return Ok(known);
        }
        let exporter = Arc::new(Exporter::start(recipe, telemetry, workers)?);
        exporters.push(Arc::downgrade(&exporter));
        Ok(exporter)
    }

    fn start(recipe: Recipe, telemetry: &Arc<Telemetry>, workers: &[Worker]) -> Result<Exporter, String> {
        let way = Way::new(&recipe, telemetry, workers)?;
        let count = |value: i64| usize::try_from(value).unwrap_or(1).max(1);
        let (queue_most, batch) = (count(recipe.limits.max_queue_size), count(recipe.limits.max_export_batch_size));
        let timeout = Duration::from_millis(count(recipe.limits.batch_timeout) as u64);
        let (queue, taken) = sync_channel(queue_most);
        let shared = Arc::<Shared>::default();
        let kind = way.kind();
        let work = Work {
            way,
            resource: recipe.resource.clone(),
            taken,
            shared: shared.clone(),
            batch,
            timeout,
            told: Seldom::once_in(TELL),
        };
        let thread = thread::Builder::new().name("trace-export".into()).spawn(move || work.run());
        let thread = thread.map_err(|error| format!("no thread for its spans: {error}"))?;
        let handle = thread.thread().clone();
        let mut threads = lock(&THREADS);
        threads.retain(|(_, thread)| !thread.is_finished());
        threads.push((shared.clone(), thread));
        kind.exists();
        Ok(Exporter { recipe, kind, queue, shared, thread: handle, queue_most, batch })
    }

    /// Hands over the spans of a request. Never waits; what finds the queue full is dropped and counted.
    pub fn offer(&self, trace: Arc<Recording>) {
        let spans = trace.spans().len();
        let before = self.shared.waiting.fetch_add(spans, Ordering::Relaxed);
        // Counted before anybody can take it out again.
        self.kind.waits(spans);
        if before + spans > self.queue_most || self.queue.try_send(trace).is_err() {
            self.shared.waiting.fetch_sub(spans, Ordering::Relaxed);
            self.kind.waited(spans);
            self.kind.lost(Lost::QueueFull, spans as u64);
            return;
        }
        // It looks by itself now and then: only a batch that is complete is worth a wake-up.
        if before < self.batch && before + spans >= self.batch {
            self.thread.unpark();
        }
    }
}

/// The thread's own.
struct Work {
    way: Way,
    resource: Resource,
    taken: Receiver<Arc<Recording>>,
    shared: Arc<Shared>,
    batch: usize,
    timeout: Duration,
    /// When the log was told last that a collector does not take spans.
    told: Seldom,
}

/// What came of an export.
pub(crate) enum Outcome {
    Taken,
    /// Some or all of it was refused.
    Refused(u64, String),
    /// It takes fewer at a time.
    TooLarge(String),
    /// It may go better later, not before this long.
    Later(Option<Duration>, String),
}

impl Work {
    fn run(mut self) {
        let (mut batch, mut spans, mut since) = (Vec::new(), 0, None);
        loop {
            let mut over = self.shared.end.get().is_some();
            while spans < self.batch {
                match self.taken.try_recv() {
                    Ok(trace) => {
                        let count = trace.spans().len();
                        self.shared.waiting.fetch_sub(count, Ordering::Relaxed);
                        self.way.kind().waited(count);
                        spans += count;
                        batch.push(trace);
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        over = true;
                        break;
                    }
                }
            }
            if batch.is_empty() {
                if over {
                    return;
                }
                thread::park_timeout(LOOK.min(self.timeout));
                continue;
            }
            let began = *since.get_or_insert_with(Instant::now);
            let left = self.timeout.saturating_sub(began.elapsed());
            if spans < self.batch && !over && !left.is_zero() {
                thread::park_timeout(left.min(LOOK));
                continue;
            }
            self.export(&batch, spans as u64);
            batch.clear();
            (spans, since) = (0, None);
        }
    }

    /// Sends a batch until it is taken, refused, or too old.
    fn export(&mut self, batch: &[Arc<Recording>], spans: u64) {
        let batch: Vec<&Recording> = batch.iter().map(|trace| &**trace).collect();
        let (kind, began) = (self.way.kind(), Instant::now());
        let (messages, too_long) = self.way.encode(&self.resource, &batch);
        let spans = spans - too_long.min(spans);
        if too_long > 0 {
            kind.lost(Lost::Refused, too_long);
            self.tell(&format!("{too_long} spans are longer than a packet (spanLimits.attributeValueLengthLimit)"));
        }
        let mut pause = AGAIN_FIRST;
        loop {
            let shared = self.shared.clone();
            let outcome = self.way.send(&messages, spans, &|| shared.end.get().copied());
            let unheard = self.way.unheard();
            if unheard > 0 {
                kind.lost(Lost::Unheard, unheard);
                self.tell(&format!("nobody was there for {unheard} spans that were sent"));
            }
            match outcome {
                Outcome::Taken => return kind.exported(spans),
                Outcome::Refused(count, why) => {
                    kind.lost(Lost::Refused, count);
                    kind.exported(spans - count.min(spans));
                    return self.tell(&format!("the collector refused {count} spans: {why}"));
                }
                Outcome::TooLarge(why) => {
                    kind.lost(Lost::Refused, spans);
                    return self.tell(&format!(
                        "{spans} spans are too many at a time (batchLimits.maxExportBatchSize): {why}"
                    ));
                }
                Outcome::Later(after, why) => {
                    let wait = after.unwrap_or(pause).min(AGAIN_MOST);
                    let until = Instant::now() + wait;
                    let last = self.shared.end.get().copied().unwrap_or(began + GIVE_UP);
                    if until >= last {
                        kind.lost(Lost::Failed, spans);
                        return self.tell(&format!("{spans} spans are given up: {why}"));
                    }
                    self.tell(&format!("spans wait, and are dropped when too many do: {why}"));
                    kind.retried();
                    pause = (pause * 2).min(AGAIN_MOST);
                    self.rest(until);
                }
            }
        }
    }

    /// Waits, unless the end comes first.
    fn rest(&self, until: Instant) {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.shared.end.get().is_some() {
                return;
            }
            thread::park_timeout(left);
        }
    }

    fn tell(&mut self, what: &str) {
        if self.told.is_due() {
            tracing::warn!(exporter = self.way.kind().name(), to = self.way.shown(), "{what}");
        }
    }
}

/// How spans go.
enum Way {
    Collector(Box<Collector>),
    Agent(Agent),
}

impl Way {
    fn new(recipe: &Recipe, telemetry: &Arc<Telemetry>, workers: &[Worker]) -> Result<Way, String> {
        match &recipe.target {
            Target::Jaeger(spec) if spec.mode == "agent" => Ok(Way::Agent(Agent::new(&spec.endpoint))),
            _ => Ok(Way::Collector(Box::new(Collector::new(recipe, telemetry, workers)?))),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Way::Collector(collector) => collector.kind,
            Way::Agent(_) => Kind::Jaeger,
        }
    }

    fn shown(&self) -> &str {
        match self {
            Way::Collector(collector) => &collector.shown,
            Way::Agent(agent) => agent.place(),
        }
    }

    /// The messages that spans are sent in, and how many spans fit in none.
    fn encode(&self, resource: &Resource, batch: &[&Recording]) -> (Vec<Bytes>, u64) {
        match self {
            Way::Collector(collector) => (vec![collector.encode(resource, batch)], 0),
            Way::Agent(_) => {
                let (packets, too_long) = jaeger::packets(resource, batch, Agent::PACKET_MOST);
                (packets.into_iter().map(Bytes::from).collect(), too_long)
            }
        }
    }

    fn send(&mut self, messages: &[Bytes], spans: u64, until: &dyn Fn() -> Option<Instant>) -> Outcome {
        match (self, messages) {
            (Way::Collector(collector), [message]) => collector.send(message, spans, until),
            (Way::Agent(agent), messages) => agent.send(messages, spans, until),
            (Way::Collector(_), _) => Outcome::Taken,
        }
    }

    /// Spans that count as exported, and of which was heard since that nobody was there for them.
    fn unheard(&mut self) -> u64 {
        match self {
            Way::Collector(_) => 0,
            Way::Agent(agent) => agent.unheard(),
        }
    }
}

/// A collector, and how it is spoken to.
pub(crate) struct Collector {
    kind: Kind,
    post: Post,
    shown: String,
    request: Request,
    gzip: bool,
    json: bool,
    /// What it is sent can wait for long: no failure but one of the message itself is for good.
    patient: bool,
}

impl Collector {
    fn new(recipe: &Recipe, telemetry: &Arc<Telemetry>, workers: &[Worker]) -> Result<Collector, String> {
        let timeout = Duration::from_millis(u64::try_from(recipe.limits.export_timeout).unwrap_or(1));
        let post = |kind: Kind, url: &str, http2, mtls: Option<&MtlsSpec>| {
            let pool = format!("tracing/{}", kind.name());
            Post::new(url, http2, mtls, timeout, &pool, telemetry, workers).map_err(|why| format!("{url}: {why}"))
        };
        match &recipe.target {
            Target::Zipkin(spec) => {
                let url = url_of(&spec.endpoint, true, zipkin::SPANS_PATH);
                let post = post(Kind::Zipkin, &url, None, spec.mtls.as_ref())?;
                Ok(Collector::over(Kind::Zipkin, post, url, false, true))
            }
            Target::Jaeger(spec) => {
                let post = post(Kind::Jaeger, &spec.endpoint, None, spec.mtls.as_ref())?;
                let mut collector = Collector::over(Kind::Jaeger, post, spec.endpoint.clone(), false, false);
                if !(spec.username.is_empty() && spec.password.is_empty()) {
                    let key = STANDARD.encode(format!("{}:{}", spec.username, spec.password));
                    collector.request.headers.set("Authorization", format!("Basic {key}"));
                }
                Ok(collector)
            }
            Target::Otlp(spec) => {
                let kind = if spec.protocol == "grpc" { Kind::OtlpGrpc } else { Kind::OtlpHttp };
                let post = |url: &str, http2, mtls: Option<&MtlsSpec>| post(kind, url, http2, mtls);
                Collector::of_otlp(spec, otlp::TRACES_PATH, otlp::TRACES_METHOD, &post)
            }
        }
    }

    /// One of OpenTelemetry, that takes what it takes at this path, or by this method.
    pub(crate) fn of_otlp(spec: &OtlpSpec, path: &str, method: &str, post: &Make<'_>) -> Result<Collector, String> {
        let (kind, path, http2) = match spec.protocol.as_str() {
            "grpc" => (Kind::OtlpGrpc, method, Some(true)),
            _ => (Kind::OtlpHttp, path, None),
        };
        let url = url_of(&spec.endpoint, spec.insecure, path);
        let post = post(&url, http2, spec.mtls.as_ref())?;
        let mut collector = Collector::over(kind, post, url, spec.compression == "gzip", spec.encoding == "json");
        let fields = &mut collector.request.headers;
        spec.headers.iter().for_each(|(name, value)| fields.set(name, value));
        Ok(collector)
    }

    fn over(kind: Kind, post: Post, shown: String, gzip: bool, json: bool) -> Collector {
        let mut request = post.request();
        let fields = &mut request.headers;
        fields.set("User-Agent", concat!("weir/", env!("CARGO_PKG_VERSION")));
        let content = match kind {
            Kind::OtlpGrpc => "application/grpc",
            Kind::Jaeger => "application/x-thrift",
            _ if json => "application/json",
            _ => "application/x-protobuf",
        };
        fields.set("Content-Type", content);
        if kind == Kind::OtlpGrpc {
            fields.set("TE", "trailers");
        }
        if gzip {
            fields.set(if kind == Kind::OtlpGrpc { "grpc-encoding" } else { "Content-Encoding" }, "gzip");
        }
        Collector { kind, post, shown, request, gzip, json, patient: false }
    }

    /// For what waits on disk: a collector that fails, is not set up yet or does not know this machine's key is asked again, where
    /// the protocol would have what it was sent dropped.
    pub(crate) fn patient(self) -> Collector {
        Collector { patient: true, ..self }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    fn encode(&self, resource: &Resource, batch: &[&Recording]) -> Bytes {
        self.wrap(match self.kind {
            Kind::Zipkin => zipkin::spans(resource, batch),
            Kind::Jaeger => jaeger::batch(resource, batch),
            _ if self.json => otlp::traces_json(resource, batch),
            _ => otlp::traces(resource, batch),
        })
    }

    /// A message as it goes out: packed where it is to be, and with what gRPC sets before it.
    pub(crate) fn wrap(&self, plain: Vec<u8>) -> Bytes {
        let body = if self.gzip { packed(&plain) } else { plain };
        if self.kind != Kind::OtlpGrpc {
            return body.into();
        }
        // Whether it is packed, its length, itself.
        let mut message = Vec::with_capacity(body.len() + 5);
        message.push(self.gzip.into());
        message.extend((body.len() as u32).to_be_bytes());
        message.extend(body);
        message.into()
    }

    /// Sends a message that so many things are in.
    pub(crate) fn send(&self, body: &Bytes, count: u64, until: &dyn Fn() -> Option<Instant>) -> Outcome {
        match self.post.send(self.request.clone(), body.clone(), until) {
            Ok(reply) => self.judge(&reply, count),
            Err(why) => Outcome::Later(None, why),
        }
    }

    fn judge(&self, reply: &Reply, count: u64) -> Outcome {
        let status = reply.response.status;
        let answered = || format!("it answered {status}");
        match (self.kind, status) {
            (Kind::OtlpGrpc, 200) => judge_grpc(reply, count, self.patient),
            (_, 200..=299) => match (self.kind, self.json) {
                (Kind::OtlpHttp, false) => partial(&reply.body, count),
                _ => Outcome::Taken,
            },
            (_, 413) => Outcome::TooLarge(answered()),
            (_, 400 | 415 | 422) => Outcome::Refused(count, answered()),
            // What the protocol says may be repeated; Zipkin and Jaeger say nothing of it.
            (_, 408 | 429 | 502..=504) => Outcome::Later(retry_after(reply), answered()),
            (Kind::Zipkin | Kind::Jaeger, 500..=599) => Outcome::Later(retry_after(reply), answered()),
            _ if self.patient => Outcome::Later(retry_after(reply), answered()),
            _ => Outcome::Refused(count, answered()),
        }
    }
}

fn judge_grpc(reply: &Reply, count: u64, patient: bool) -> Outcome {
    let field = |name: &str| {
        let trailers = reply.trailers.as_ref().and_then(|trailers| trailers.text(name));
        trailers.or_else(|| reply.response.headers.text(name))
    };
    let why = || {
        format!("grpc-status {}: {}", field("grpc-status").unwrap_or("missing"), field("grpc-message").unwrap_or(""))
    };
    match field("grpc-status").and_then(|status| status.trim().parse::<u32>().ok()) {
        Some(0) => partial(reply.body.get(5..).unwrap_or_default(), count),
        // As grpc-go and tonic say that a message is longer than they take.
        Some(8 | 11) if ["larger than max", "too large"].iter().any(|said| why().contains(said)) => {
            Outcome::TooLarge(why())
        }
        // Cancelled, deadline exceeded, resource exhausted, aborted, out of range, unavailable, data loss.
        Some(1 | 4 | 8 | 10 | 11 | 14 | 15) | None => Outcome::Later(None, why()),
        // Invalid argument: it is the message.
        Some(status) if patient && status != 3 => Outcome::Later(None, why()),
        Some(_) => Outcome::Refused(count, why()),
    }
}

fn partial(answer: &[u8], spans: u64) -> Outcome {
    match otlp::refused(answer) {
        Some((count, why)) => Outcome::Refused(count.min(spans), why),
        None => Outcome::Taken,
    }
}

pub(crate) fn retry_after(reply: &Reply) -> Option<Duration> {
    reply.response.headers.text("Retry-After")?.trim().parse().ok().map(Duration::from_secs)
}

pub(crate) fn packed(plain: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Into memory nothing fails.
    let _ = packer.write_all(plain);
    packer.finish().unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto_http::{Headers, Response};

    fn outcome(patient: bool, http: u16, grpc: Option<(&str, &str)>) -> &'static str {
        let kind = if grpc.is_some() { Kind::OtlpGrpc } else { Kind::OtlpHttp };
        let telemetry = Telemetry::new(base_telemetry::Identity::default(), 1);
        let post = Post::new("http://127.0.0.1:1/", None, None, LAST, "test", &telemetry, &[]).unwrap();
        let mut collector = Collector::over(kind, post, String::new(), false, false);
        collector.patient = patient;
        let mut trailers = Headers::default();
        if let Some((status, message)) = grpc {
            trailers.add("grpc-status", status);
            trailers.add("grpc-message", message);
        }
        let reply = Reply { response: Response::with_status(http), body: Bytes::new(), trailers: Some(trailers) };
        match collector.judge(&reply, 5) {
            Outcome::Taken => "taken",
            Outcome::Refused(5, _) => "refused",
            Outcome::Refused(..) => "refused in part",
            Outcome::TooLarge(_) => "too large",
            Outcome::Later(..) => "later",
        }
    }

    /// Spans go by the protocol's rules, by which much is not to be repeated; lines of the logs, which are to survive, do not.
    #[test]
    fn what_can_wait_is_refused_only_for_what_it_is() {
        for (status, spans, lines) in [
            (200, "taken", "taken"),
            (400, "refused", "refused"),
            (401, "refused", "later"),
            (404, "refused", "later"),
            (413, "too large", "too large"),
            (422, "refused", "refused"),
            (429, "later", "later"),
            (500, "refused", "later"),
            (503, "later", "later"),
        ] {
            assert_eq!((outcome(false, status, None), outcome(true, status, None)), (spans, lines), "{status}");
        }
        let long = "grpc: received message larger than max (600000 vs. 4096)";
        for (status, said, spans, lines) in [
            ("0", "", "taken", "taken"),
            ("3", "no such field", "refused", "refused"),
            ("7", "who are you", "refused", "later"),
            ("8", "enough for today", "later", "later"),
            ("8", long, "too large", "too large"),
            ("11", "Error, decoded message length too large: found 600000 bytes", "too large", "too large"),
            ("12", "no logs here", "refused", "later"),
            ("13", "panic", "refused", "later"),
            ("14", "away", "later", "later"),
        ] {
            let grpc = Some((status, said));
            assert_eq!((outcome(false, 200, grpc), outcome(true, 200, grpc)), (spans, lines), "{status} {said}");
        }
    }
}
