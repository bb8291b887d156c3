//! Relays the request to one of its pools' servers and takes the answer.
//!
//! Use it as the last station of most pipelines.
//!
//! ```yaml
//! name: proxy
//! kind: Proxy
//! pools:
//! - servers:
//!   - url: http://127.0.0.1:9095
//!   - url: http://127.0.0.1:9096
//!   loadBalance: {policy: roundRobin}
//! ```
//!
//! Outcomes: `internalError` (no server: 503; an answer announced longer than `serverMaxBodySize`: 500), `clientError` (the
//! client's body failed: 400, 413, or what a filter that refuses it says), `serverError` (the server could not be reached or broke off: 503), `timeout` (408),
//! `failureCode` (the server's own answer stands), `shortCircuited` (503), `overloaded` (refused by `adaptiveConcurrency` of its pool: 503
//! with Retry-After). A request whose client no longer waits, as its `X-Request-Deadline` says, is not sent: `timeout` (504).
//!
//! Servers are `http://`, `https://` or `unix://` URLs. The certificate of an `https://` server must be for the URL's host and signed
//! by an authority of the system, or by one of `mtls.rootCertBase64`, unless `mtls.insecureSkipVerify` says otherwise; with
//! `mtls.serverName` it must be for that name, whatever the URL says, and with `mtls.subjectAltNames` have one of those. Names are
//! looked up again when their time to live is over, and all addresses of a name are tried.
//!
//! `https://` servers are asked whether they speak HTTP/2 (ALPN), others are spoken to in it where their `http2` or that of their pool
//! says `true`; `false` keeps to HTTP/1.1. Each worker then sends many requests at a time over few connections. What such a backend says
//! it has done nothing with (GOAWAY, REFUSED_STREAM) is sent once more, whatever its method, unless its body streams. WebSockets go over
//! streams of such connections where the server offers that (RFC 8441), and each over a connection of HTTP/1.1 where it does not. They
//! take places on 128 connections of a worker to a server: where those have no room, further ones go over HTTP/1.1 to `https://` servers;
//! others, which may speak nothing but HTTP/2, are not asked (503, counted as `upstream_connections`).
//!
//! Tunnels of UDP and IP (`connect-udp`, RFC 9298, and `connect-ip`, RFC 9484) go the same way as WebSockets. Over HTTP/3 their datagrams
//! go beside the stream where both ends of it take them so, and on it, as capsules, everywhere else (RFC 9297); those to and from
//! backends that find no room, or fit into no packet, are lost, and counted as `upstream_h3_datagrams`.
//!
//! With `http3: true` of a pool or server `https://` servers are spoken to in HTTP/3, over QUIC, in the same way. One that is not reached
//! on UDP counts as one that cannot be connected to: TCP is not tried for it. Over HTTP/1.1, to the same port on TCP, go requests that
//! ask to go on in another protocol, WebSockets and other tunnels where the server does not offer them over HTTP/3 (RFC 9220), and each
//! that the server will not have over it (H3_VERSION_FALLBACK); after three such in a row all, for a minute.
//!
//! When a server cannot be connected to, the request goes to another one of the pool, body and all, within the same try and its
//! `timeout`; so does an idempotent one, once, whose connection broke before anything of an answer came. A server that cannot be
//! connected to five times in a row is left out until it can; see `outlierDetection`.
//!
//! With `healthCheck` of a pool each of its servers is asked in the background, and gets no requests while it does not answer as it
//! should; when none does, requests get 503 (`internalError`).
//!
//! With `maxConcurrency` each server has so many requests at a time; further ones wait in the pool's `queue` or get 503
//! (`internalError`), or wait in the line of `adaptiveConcurrency` where the pool has that; counted as `server_requests`, `server_queue`
//! and `server_queue_time`. With `stickySession` of `loadBalance` a client
//! stays with its server while that takes requests. With `hedging` a second server is asked where the first takes long, unless the
//! client has a session there, and with `retryBudget` no more is sent again than a share of all requests.
//!
//! Several pools without `filter` divide requests by their `weight`, at random or by user (`split`); those with one take the requests, or the
//! share of users, that it names. Each pool has figures of its own, by which a canary is judged: `proxy#NAME#main`, `#main#1` and so
//! on, `#candidate#0` and so on, `#mirror`, and of `mirrorPools` `#mirror#1` and so on.
//!
//! With `proxyProtocol` of a pool each connection begins with a PROXY header that names the client. It serves that client's connection
//! alone: what is idle is taken up again only for the same client address and port, so that backends see as many connections as there
//! are clients, and `maxIdleConnsPerHost` keeps the latest.
//!
//! A `retryPolicy` repeats what failed: idempotent methods always, others only when nothing was sent, and never a body that
//! streams. What is repeated says so in `X-Retry-Attempt`, and what comes with that field is not repeated here, nor is what a server
//! refused as too much with its `X-Weir-Threshold`: layers do not multiply each other's tries. Policies are those of the pipeline's `resilience`.
//!
//! Fits HTTPServer. Costs no copy of a body: pieces go out in the buffers they came in. A body is gathered in memory only where
//! another filter looks at the whole of it. Trailer fields of a request go on unless its head, as it is sent, has a field of that name
//! or a filter has taken it out (counted as `trailers_dropped`). An answer of unknown length is sent as it comes and counted: beyond
//! `serverMaxBodySize` (4 MiB when not set; event streams have no limit) it breaks off, so that the client sees it, counted as
//! `response_body_bytes`.
//!
//! With `memoryCache` of a pool answers are given again from memory for a fixed time (Easegress's cache, its faults mended); the filter
//! Cache does what RFC 9111 says. Metrics: `weir_cache_requests_total` and its kin, by `PIPELINE/POOL`.
//!
//! With `compression` answers of a server are packed with gzip as they pass, in the memory of one window each, where the client takes
//! it and it gains something; `serverMaxBodySize` counts what the server sent. Filters behind it see the packed body.

use crate::arriving::Arriving;
use crate::coding;
use crate::grpc_proxy::GrpcProxy;
use crate::module_doc::module_doc;
use crate::placed::Placed;
use crate::ranking::{OVERLOADED, Ranking, is_telling, lasts, pushes_back};
use crate::side::keeping;
use crate::websocket_proxy::WebSocketProxy;
use base_model::{
    AdaptiveConcurrencySpec, CircuitBreakerSpec, Findings, MtlsSpec, PoolSpec, Problem, ProxySpec, RetrySpec,
    ServerUrl, decode,
};
use base_runtime::memory::{self, Booking};
use base_runtime::time::Deadline;
use base_runtime::{Boxed, Buf};
use base_telemetry::Limit;
use base_telemetry::proxy::{self as stats, PoolNames, PoolStats, ServerRecorder, UpstreamError};
use bounded::Bounded;
use edge_pipeline::body::SPARED_MOST;
use edge_pipeline::exchange::{DEFAULT_BODY_LIMIT, is_cors};
use edge_pipeline::{
    Body, BodyError, BuildError, Exchange, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, Touches, grpc, overload,
    trailers,
};
use edge_upstream::adaptive::{self, Attended, Pass};
use edge_upstream::attempt::{Counters, Stage};
use edge_upstream::balance::load::Place;
use edge_upstream::balance::{Admission, Balancer, Choice, Full};
use edge_upstream::budget::RetryBudget;
use edge_upstream::circuit::{CircuitBreaker, Permit};
use edge_upstream::connect::CONNECT_TIMEOUT;
use edge_upstream::health::Heard;
use edge_upstream::matcher::Split;
use edge_upstream::outlier::Change;
use edge_upstream::retry;
use edge_upstream::{Answer, Attempt, AttemptError, Identity, RequestMatcher, Server};
use following::Following;
use hedged::Hedging;
use held::HeldBody;
use members::{Members, Recipe, Set, is_tagged};
use memory_cache::MemoryCache;
use proto_http::{Known, Limits, Request, Response};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};
use timed::Timed;

pub(crate) mod bounded;
mod following;
mod hedged;
mod held;
mod members;
mod memory_cache;
mod redirects;
mod spans;
pub(crate) mod timed;

pub const INTERNAL_ERROR: Outcome = "internalError";
pub const CLIENT_ERROR: Outcome = "clientError";
pub const SERVER_ERROR: Outcome = "serverError";
pub const FAILURE_CODE: Outcome = "failureCode";
pub const TIMEOUT: Outcome = "timeout";
pub const SHORT_CIRCUITED: Outcome = "shortCircuited";

pub const KIND: FilterKind = FilterKind {
    kind: "Proxy",
    results: &[INTERNAL_ERROR, CLIENT_ERROR, SERVER_ERROR, FAILURE_CODE, TIMEOUT, SHORT_CIRCUITED, OVERLOADED],
    doc: module_doc!("proxy.rs"),
    schema: || (*base_model::schema_of::<ProxySpec>()).clone(),
    check,
    build,
};

fn check(fields: &Value, path: &str, findings: &mut Findings) {
    findings.read(fields, path, |spec: &ProxySpec, findings| spec.validate(path, findings));
}

fn build(fields: &Value, parts: &Parts<'_>) -> Result<Arc<dyn Filter>, BuildError> {
    let spec = decode::<ProxySpec>(fields, "")?.value;
    Ok(Arc::new(Proxy::new(KIND.kind, &spec, parts)?))
}

/// A ready Proxy.
pub struct Proxy {
    /// Candidates in the order written, then the main pool, or the pools that divide its part.
    pools: Vec<Pool>,
    /// Where the candidates end.
    first_main: usize,
    /// How several pools without filter divide requests.
    split: Option<Split>,
    mirrors: Vec<Arc<Mirror>>,
    /// Idle connections each worker keeps per server.
    max_idle: usize,
    limits: Limits,
    /// Redirects of servers are followed.
    following: Option<Following>,
    /// Shortest answer that is packed, in bytes; `None` packs none.
    pack_least: Option<u64>,
    /// Requests whose trailers said what only their heads may.
    trailers_dropped: Limit,
    /// Answers are of gRPC, whose status is in one of their fields.
    grpc: bool,
}

/// The pool that gets copies of requests; what it answers is dropped.
struct Mirror {
    filter: RequestMatcher,
    pool: Pool,
    /// Copies on their way, of all workers, and the bytes they hold.
    in_flight: AtomicUsize,
    bytes: AtomicUsize,
    /// Requests that were not copied because of too many copies, of too many bytes, or of no memory.
    too_many: Limit,
    too_large: Limit,
    max_idle: usize,
}

/// Copies on their way at the same time; beyond it requests are not copied, and counted as `mirror_in_flight`.
const MIRRORED_MAX: usize = 4096;

/// Bytes of requests that copies on their way may hold, in heads and bodies; beyond it, and while memory runs out, requests are not
/// copied, and counted as `mirror_bytes`. A mirror that takes nothing must not hold what its users have been answered.
const MIRRORED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Servers asked in one try, at most, when they cannot be reached; beyond it the try has failed, and is counted as `servers_tried`.
const TRIED_MAX: usize = 32;

/// Servers that are looked at for whether they may have one more.
const LOOKED_AT_MOST: usize = 16;

/// Connects of one try that may take their whole time: those that are refused cost nothing, these make a client wait.
const SILENT_MAX: u32 = 2;

/// Connections of one try that may break before a byte of the request went out.
const UNTOUCHED_MAX: u32 = 2;

/// How often the first of a queue looks for room that it was not told of.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How often is looked for what the first probes say of new servers.
const LOOK_FOR_ANSWERS: Duration = Duration::from_millis(3);

/// Times in a row that one which was told finds no room, until it waits for [`LOOK_AGAIN`].
const IN_VAIN_MOST: u32 = 4;

/// Longest time a copy may take.
const MIRROR_TIMEOUT: Duration = Duration::from_secs(30);

struct Pool {
    /// `proxy#<filter>#main` or `proxy#<filter>#candidate#N`, as Easegress names them.
    name: String,
    /// Of the spans of its tries.
    span_name: Arc<str>,
    /// The same, for requests to remember.
    label: Arc<str>,
    /// `None` for the main pool.
    filter: Option<RequestMatcher>,
    members: Arc<Members>,
    set_upstream_host: bool,
    timeout: Option<Duration>,
    connect_timeout: Duration,
    /// Largest body taken, in bytes; `None` takes whatever comes.
    max_body: Option<u64>,
    /// Statuses that count as failure; empty = all of 500–599.
    failure_codes: Vec<u16>,
    retry: Option<RetrySpec>,
    budget: Option<RetryBudget>,
    hedging: Option<Hedging>,
    /// Requests that were not sent again because too many had been.
    budget_spent: Limit,
    /// How many may be under way, and who goes first.
    adaptive: Option<Ranking>,
    /// Outside of retries: all tries of a request are one call.
    breaker: Option<Arc<CircuitBreaker>>,
    /// Answers that are given again.
    memory: Option<Arc<MemoryCache>>,
    /// Answers beyond `max_body`.
    too_large: Limit,
    /// How long requests wait for a server to have room.
    queue_time: Duration,
    /// Requests that found no server with room, that found the queue full, and that waited in vain.
    full: Limit,
    queue_full: Limit,
    queue_late: Limit,
    counters: Arc<Counters>,
    /// Tries that found [`TRIED_MAX`] servers unreachable.
    tried_limit: Limit,
    stats: Arc<PoolStats>,
}

/// Why no server takes a request, and the bound that is to blame, if one is.
struct NoServer(&'static str, &'static str);

impl NoServer {
    const NONE: NoServer = NoServer("no server", "");
}

impl Proxy {
    /// `kind` is the filter's as figures name it.
    pub(crate) fn new(kind: &str, spec: &ProxySpec, parts: &Parts<'_>) -> Result<Proxy, BuildError> {
        let identity = identity_of(spec)?;
        let mut problems = Vec::new();
        let mut candidates = Vec::new();
        let mut main = Vec::new();
        for (index, pool) in spec.pools.iter().enumerate() {
            let name = match pool.filter {
                None if main.is_empty() => format!("proxy#{}#main", parts.name),
                None => format!("proxy#{}#main#{}", parts.name, main.len()),
                Some(_) => format!("proxy#{}#candidate#{}", parts.name, candidates.len()),
            };
            match Pool::new(kind, name, pool, spec, identity.as_ref(), parts) {
                Ok(ready) if ready.filter.is_some() => candidates.push(ready),
                Ok(ready) => main.push(ready),
                Err(message) => problems.push(Problem::new(format!("pools[{index}]"), message)),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let (first_main, split) = (candidates.len(), main.len() > 1);
        candidates.append(&mut main);
        // Most have one, and of ten thousand the room for others is much.
        candidates.shrink_to_fit();
        let weights =
            spec.pools.iter().filter(|pool| pool.filter.is_none()).map(|pool| pool.weight.unwrap_or_default());
        let split = split.then(|| Split::new(spec.split.as_ref(), &weights.collect::<Vec<u32>>()));
        let mut mirrors = Vec::new();
        for (place, pool) in spec.mirrors() {
            let further = if mirrors.is_empty() { String::new() } else { format!("#{}", mirrors.len()) };
            let name = format!("proxy#{}#mirror{further}", parts.name);
            let mirror = Mirror::new(name, pool, spec, identity.as_ref(), parts);
            mirrors.push(Arc::new(mirror.map_err(|message| vec![Problem::new(place, message)])?));
        }
        let trailers_dropped = parts.telemetry.limits().register("trailers_dropped");
        let (max_idle, limits) = (max_idle(spec, parts), Limits::default());
        let following = Following::new(spec.max_redirection, parts.telemetry.limits().register("redirects"));
        let pack_least = spec.compression.map(|compression| compression.min_length.into());
        Ok(Proxy {
            pools: candidates,
            first_main,
            split,
            mirrors,
            max_idle,
            limits,
            following,
            pack_least,
            trailers_dropped,
            grpc: false,
        })
    }

    /// The same for servers of gRPC, whose failures are told by `grpc-status`.
    pub(crate) fn of_grpc(self) -> Proxy {
        Proxy { grpc: true, ..self }
    }

    /// Holds the trailers of the request to its head.
    pub(crate) fn guard(&self, exchange: &mut Exchange) {
        let space = exchange.space();
        trailers::guard(&mut space.request_body, &space.request.headers, &self.trailers_dropped);
    }

    /// The status that says whether a server has failed.
    fn verdict(&self, response: &Response) -> u16 {
        let told = if self.grpc && response.status == 200 { grpc::status_of(&response.headers) } else { None };
        told.map_or(response.status, |code| code.as_http())
    }

    fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|p| p.name == name)
    }

    async fn relay(&self, exchange: &mut Exchange) -> Outcome {
        self.guard(exchange);
        for mirror in &self.mirrors {
            mirror.copy(exchange);
        }
        let outcome = match self.choose(exchange) {
            Some(chosen) => pin!(self.relay_to(chosen, exchange)).await,
            None => refuse(exchange, 503, INTERNAL_ERROR),
        };
        if let Some(least) = self.pack_least
            && matches!(outcome, SUCCESS | FAILURE_CODE)
            && exchange.upgraded.is_none()
            && coding::pack_response_of(least, exchange)
        {
            exchange.tags.note_own(|| "gzip");
        }
        outcome
    }

    /// The pool that takes the request, counting candidates as they are written and the main one after them.
    pub(crate) fn choose(&self, exchange: &Exchange) -> Option<usize> {
        let (request, client) = (exchange.request(), &exchange.client);
        let takes = |p: &Pool| p.filter.as_ref().is_some_and(|matcher| matcher.matches(request, client));
        let candidate = self.pools[..self.first_main].iter().position(takes);
        candidate.or_else(|| {
            let of_split = self.split.as_ref().map_or(0, |split| split.choose(request, client));
            Some(self.first_main + of_split).filter(|place| *place < self.pools.len())
        })
    }

    /// Sends it to a server of the pool that was chosen.
    pub(crate) async fn relay_to(&self, chosen: usize, exchange: &mut Exchange) -> Outcome {
        let pool = &self.pools[chosen];
        if let Some(until) = overload::note_deadline(exchange).filter(|until| *until <= base_runtime::now()) {
            let late = base_runtime::now().saturating_duration_since(until);
            exchange.tags.note_own(|| format!("{}: the deadline passed {} ago", pool.name, base_text::duration(late)));
            overload::refuse_late(exchange);
            return TIMEOUT;
        }
        // What most pools have nothing of is kept out of the way of their requests, and out of the room that these take.
        if pool.memory.is_none() && pool.adaptive.is_none() && pool.breaker.is_none() {
            return pin!(self.try_all(pool, None, exchange)).await;
        }
        Boxed::new(self.relay_with_care(pool, exchange)).await
    }

    /// Answers from the memory of the pool, or calls a server.
    async fn relay_with_care(&self, pool: &Pool, exchange: &mut Exchange) -> Outcome {
        let Some(memory) = &pool.memory else { return self.call(pool, exchange).await };
        let earlier = exchange.space().response.take();
        let asked = memory.answer(exchange);
        let outcome = match &asked {
            Ok(()) => self.outcome_of(pool, exchange),
            Err(_) => self.call(pool, exchange).await,
        };
        if let Err(Some(asked)) = asked
            && matches!(outcome, SUCCESS | FAILURE_CODE)
        {
            memory.keep(asked, exchange);
        }
        self.join_earlier(earlier, outcome, exchange);
        outcome
    }

    /// Calls a server: once there is a place among the requests that may be under way, and as the pool's circuit breaker allows.
    async fn call(&self, pool: &Pool, exchange: &mut Exchange) -> Outcome {
        let ranked = pool.adaptive.as_ref().map(|ranking| (ranking, ranking.rank(exchange)));
        let mut pass = None;
        if let Some((ranking, (who, asks))) = &ranked {
            let admitted = match ranking.passages.admit(who, exchange.deadline) {
                adaptive::Admission::Passed(pass) => Ok(pass),
                adaptive::Admission::Refused(reason) => Err(reason),
                adaptive::Admission::Waits(waiting) => waiting.pass().await,
            };
            match admitted {
                Err(reason) => return ranking.refuse(exchange, reason, *asks),
                Ok(mut admitted) => {
                    Ranking::note_wait(exchange, admitted.waited);
                    Arriving::watch(&mut exchange.space().request_body, &mut admitted);
                    pass = Some(admitted);
                }
            }
        }
        let call = pool.breaker.as_deref().map(Call::begin);
        let outcome = match call {
            Some(None) => {
                exchange.tags.note_own(|| format!("{}: short circuited", pool.name));
                refuse(exchange, 503, SHORT_CIRCUITED)
            }
            _ => self.try_all(pool, pass, exchange).await,
        };
        if let Some(Some(call)) = call {
            call.end(!matches!(outcome, SUCCESS | CLIENT_ERROR));
        }
        if let Some((ranking, (_, asks))) = ranked
            && let Some(response) = exchange.response_mut()
        {
            ranking.tell(response, asks);
        }
        outcome
    }

    /// Tries until one succeeds, as often as the retry policy allows and where repeating is safe.
    async fn try_all(&self, pool: &Pool, pass: Option<Pass>, exchange: &mut Exchange) -> Outcome {
        let earlier = exchange.space().response.take();
        // A body that streams is gone after the first try.
        let once = exchange.space_ref().request_body.is_stream();
        let idempotent = exchange.request().method.is_idempotent();
        pool.counted();
        let repeated = exchange.request().headers.has_known(Known::XRetryAttempt);
        let mut tries = 0;
        let outcome = loop {
            tries += 1;
            let (outcome, sent, attended) = pin!(self.try_once(pool, pass.as_ref(), exchange)).await;
            let again = pool.retry.as_ref().filter(|r| tries < r.attempts() && !once && !repeated);
            let over = matches!(outcome, SUCCESS | CLIENT_ERROR) || (sent && !idempotent) || is_final(exchange);
            let Some(retry) = again.filter(|_| !over) else {
                hold_place(pool, exchange, attended, pass);
                break outcome;
            };
            if !pool.may_send_again() {
                exchange.tags.note_own(|| format!("{}: not tried again: the retry budget is spent", pool.name));
                exchange.tags.hit("retry_budget");
                hold_place(pool, exchange, attended, pass);
                break outcome;
            }
            // Nothing is under way there until the next try.
            drop(attended);
            let space = exchange.space();
            space.response = None;
            space.response_body = Body::Empty;
            exchange.request_mut().headers.set(overload::RETRY, tries.to_string());
            pool.members.of(base_runtime::worker_index()).of_pool.retried();
            base_runtime::time::sleep(retry::pause(retry, tries)).await;
        };
        // Another Proxy of the flow asks for the first time.
        if tries > 1 {
            exchange.request_mut().headers.remove(overload::RETRY);
        }
        self.join_earlier(earlier, outcome, exchange);
        outcome
    }

    /// What filters before this one have set for the client is part of the answer, too.
    fn join_earlier(&self, earlier: Option<Response>, outcome: Outcome, exchange: &mut Exchange) {
        if let (Some(earlier), Some(response)) = (earlier, exchange.response_mut()) {
            if matches!(outcome, SUCCESS | FAILURE_CODE) {
                merge(response, &earlier);
            } else {
                let refusal = std::mem::replace(response, earlier);
                let response = exchange.refuse(refusal.status);
                refusal.headers.iter().for_each(|(name, value, _)| response.headers.set(name, value));
            }
        }
    }

    /// What the answer under way means to the flow.
    fn outcome_of(&self, pool: &Pool, exchange: &Exchange) -> Outcome {
        let status = exchange.space_ref().response.as_ref().map_or(500, |response| self.verdict(response));
        if pool.is_failure(status) { FAILURE_CODE } else { SUCCESS }
    }

    /// A server that has room after a while in the queue, where none has now; or why there is none.
    async fn queue(&self, pool: &Pool, set: &Set, exchange: &Exchange) -> Result<(Choice, Option<Place>), NoServer> {
        let worker = base_runtime::worker_index();
        pool.full.hit(worker);
        let Some(waiting) = set.balancer.waiting() else {
            return Err(NoServer("each server has as many requests as it may have", "server_requests"));
        };
        let Some(turn) = waiting.join() else {
            pool.queue_full.hit(worker);
            return Err(NoServer("each server is busy and the queue is full", "server_queue"));
        };
        // Somebody may have left between the look and the queue.
        set.balancer.tell_of_room();
        let waited = async {
            let mut in_vain = 0;
            loop {
                let told = poll_fn(|cx| turn.poll_told(cx));
                if base_runtime::time::timeout(LOOK_AGAIN, told).await.is_err() {
                    // A server that is well again, or that a document gives more, tells nobody.
                    if turn.is_first() {
                        in_vain = 0;
                        set.balancer.tell_of_room();
                    }
                    continue;
                }
                match set.balancer.admit(exchange.request(), &exchange.client, worker, true) {
                    Admission::To(choice, place) => return Ok((choice, place)),
                    Admission::Nobody => return Err(NoServer::NONE),
                    Admission::Full => {
                        turn.again();
                        // Whoever was faster may have left before it stood in the queue again.
                        in_vain += 1;
                        if in_vain < IN_VAIN_MOST {
                            set.balancer.tell_of_room();
                        }
                    }
                }
            }
        };
        let left = exchange.deadline.map(|until| until.saturating_duration_since(base_runtime::now()));
        let most = left.map_or(pool.queue_time, |left| left.min(pool.queue_time));
        match base_runtime::time::timeout(most, waited).await {
            Ok(found) => {
                turn.served();
                // More than one place may have come at once.
                set.balancer.tell_of_room();
                found
            }
            Err(_) => {
                pool.queue_late.hit(worker);
                Err(NoServer("each server was busy for as long as requests may wait", "server_queue_time"))
            }
        }
    }

    /// One try. Says also whether anything of the request may have reached a server.
    async fn try_once(
        &self,
        pool: &Pool,
        pass: Option<&Pass>,
        exchange: &mut Exchange,
    ) -> (Outcome, bool, Option<Attended>) {
        let worker = base_runtime::worker_index();
        let set = pool.members.of(worker);
        let Set { balancer, of_pool, of_servers, urls } = &*set;
        if balancer.is_asking(false, base_runtime::now()) {
            Boxed::new(first_answers(balancer)).await;
        }
        let admitted = match balancer.admit(exchange.request(), &exchange.client, worker, false) {
            Admission::To(choice, place) => Ok((choice, place)),
            Admission::Nobody => Err(NoServer::NONE),
            Admission::Full => Boxed::new(self.queue(pool, &set, exchange)).await,
        };
        let (first, place) = match admitted {
            Ok((first, place)) => pool.with_room(balancer, exchange.request(), first, place),
            Err(NoServer(why, limit)) => {
                of_pool.no_server();
                exchange.tags.note_own(|| format!("{}: {why}", pool.name));
                if !limit.is_empty() {
                    exchange.tags.hit(limit);
                }
                if exchange.deadline.is_some_and(|until| until <= base_runtime::now()) {
                    overload::refuse_late(exchange);
                    return (TIMEOUT, false, None);
                }
                return (refuse(exchange, 503, INTERNAL_ERROR), false, None);
            }
        };
        let began = base_runtime::now();
        let sent = exchange.request_body_length().unwrap_or_default();
        let stand = Stand {
            choice: Cell::new(first),
            place: Cell::new(place),
            pass,
            attended: RefCell::new(None),
            connecting: Cell::new(false),
            repeated: Cell::new(false),
            away: Cell::new(false),
            since: Cell::new(began),
        };
        let unfinished = Unfinished { recorders: of_servers, stand: &stand, ended: false };
        let left = exchange.deadline.map(|until| until.saturating_duration_since(began));
        if let Some(until) = exchange.deadline {
            overload::pass_on_deadline(&mut exchange.request_mut().headers, until, began);
        }
        // When it is the client that would wait no longer, nothing is known of the server.
        let is_clients = left.is_some_and(|left| pool.timeout.is_none_or(|most| left < most));
        // What streams is gone once it was sent.
        let once = exchange.space_ref().request_body.is_stream();
        let most = left.into_iter().chain(pool.timeout).min();
        let reached = if pool.hedging.is_none() && self.following.is_none() {
            // It stays in its place: each move would copy as much as the futures of a whole try take.
            let reaching = pin!(self.reach(pool, &set, first, &stand, exchange));
            within(most, reaching).await
        } else {
            let reaching = Boxed::new(self.reach_far(pool, &set, first, &stand, once, exchange));
            within(most, reaching).await
        };
        let result = match reached {
            Ok(result) => result,
            Err(most) => {
                unfinished.ended();
                spans::give_up(if stand.connecting.get() { "connect_timeout" } else { "timeout" }, exchange);
                let (choice, connecting) = (stand.choice.get(), stand.connecting.get());
                let index = choice.index;
                let (counted, heard) = if connecting {
                    (UpstreamError::ConnectTimeout, Heard::Unreachable)
                } else {
                    (UpstreamError::Timeout, Heard::NoAnswer)
                };
                if !stand.away.get() {
                    of_servers[index].error(counted);
                    balancer.took(index, stand.took(), true);
                    if !is_clients {
                        pool.heard(&set, choice, heard);
                    }
                }
                let what = if connecting { "connection to" } else { "answer from" };
                let server = &balancer.servers()[index].url;
                let why = if connecting { "no connection" } else { "no answer" };
                let why = format!("{why} in {}", base_text::duration(most));
                exchange.tags.came(&pool.label, &urls[index], Err(why), most);
                exchange.tags.note(|| format!("{}: no {what} {server} in {}", pool.name, base_text::duration(most)));
                if let Some(attended) =
                    stand.attended.take().filter(|_| !connecting && !is_clients && !stand.away.get())
                {
                    attended.answered(false);
                }
                if is_clients {
                    overload::refuse_late(exchange);
                    return (TIMEOUT, !connecting, None);
                }
                return (refuse(exchange, 408, TIMEOUT), !connecting, None);
            }
        };
        unfinished.ended();
        match result {
            Ok(answer) => {
                let (status, choice) = (self.verdict(&answer.response), stand.choice.get());
                if !stand.away.get() {
                    let took = stand.took();
                    balancer.took(choice.index, took, is_error(status));
                    pool.heard(&set, choice, if is_error(status) { Heard::ErrorAnswer } else { Heard::Answer });
                    exchange.tags.came(&pool.label, &urls[choice.index], Ok(answer.response.status), took);
                    of_servers[choice.index].record(&stats::AnsweredRequest {
                        status,
                        duration: took,
                        request_bytes: sent,
                        response_bytes: answer.body.length().unwrap_or_default(),
                    });
                }
                let attended = stand.attended.take();
                if let (Some(ranking), Some(attended)) =
                    (&pool.adaptive, attended.as_ref().filter(|_| !stand.away.get()))
                {
                    ranking.hear(&answer.response);
                    if is_telling(&answer.response) {
                        attended.answered(pushes_back(&answer.response));
                    }
                }
                (self.take(pool, &set, &stand, began, answer, exchange), true, attended)
            }
            Err(error) => {
                if error.counted_as().is_some() && !stand.away.get() {
                    balancer.took(stand.choice.get().index, stand.took(), true);
                }
                let sent = error.may_be_done();
                let outcome = match error {
                    AttemptError::RequestBody(error) => refuse(exchange, error.request_status(), CLIENT_ERROR),
                    AttemptError::Unsayable => refuse(exchange, 500, INTERNAL_ERROR),
                    _ => refuse(exchange, 503, SERVER_ERROR),
                };
                (outcome, sent, None)
            }
        }
    }

    /// As [`Proxy::reach`], with a second server where the first takes long, and where an answer points to.
    async fn reach_far(
        &self,
        pool: &Pool,
        set: &Set,
        first: Choice,
        stand: &Stand<'_>,
        once: bool,
        exchange: &mut Exchange,
    ) -> Result<Answer, AttemptError> {
        let answer = match &pool.hedging {
            Some(hedging) => self.reach_hedged(pool, set, hedging, first, stand, exchange).await?,
            None => self.reach(pool, set, first, stand, exchange).await?,
        };
        match &self.following {
            None => Ok(answer),
            Some(_) => self.follow(pool, set, answer, stand, once, exchange).await,
        }
    }

    /// Asks servers until one can be reached, `first` before others. Nothing was sent to one that could not be connected to, so
    /// that any request may go elsewhere, its body as it is. What a connection that broke may have done is done again once, on a
    /// fresh one of this server or of another, and only where that is sound.
    async fn reach(
        &self,
        pool: &Pool,
        set: &Set,
        first: Choice,
        stand: &Stand<'_>,
        exchange: &mut Exchange,
    ) -> Result<Answer, AttemptError> {
        let Set { balancer, of_pool, of_servers, urls } = set;
        let may_repeat = exchange.request().method.is_idempotent() && !exchange.space_ref().request_body.is_stream();
        let (mut choice, mut tried, mut silent, mut untouched) = (first, Vec::new(), 0, 0);
        loop {
            if choice.panicked {
                of_pool.panicked();
            }
            let began = base_runtime::now();
            exchange.tags.asks(&pool.label, &urls[choice.index]);
            stand.choice.set(choice);
            // That of the server before is given up first.
            drop(stand.attended.take());
            *stand.attended.borrow_mut() = stand.begin(choice.index);
            let attempted = pin!(self.attempt(pool, set, choice.index, stand, exchange)).await;
            let error = match attempted {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let (server, recorder) = (&balancer.servers()[choice.index], &of_servers[choice.index]);
            pool.failed(set, choice, &error);
            exchange.tags.note(|| format!("{}: {}: {error}", pool.name, server.url));
            if exchange.tags.enabled {
                let took = base_runtime::now().saturating_duration_since(began);
                exchange.tags.came(&pool.label, &urls[choice.index], Err(error.to_string()), took);
            }
            let goes_on = match &error {
                AttemptError::Connect(why) if why.is_time_out() => {
                    silent += 1;
                    silent < SILENT_MAX
                }
                AttemptError::Connect(_) => true,
                AttemptError::Broken { stage: Stage::Untouched | Stage::OverHttp1, .. } => {
                    untouched += 1;
                    untouched < UNTOUCHED_MAX
                }
                // A request that ends servers must not end all of them.
                AttemptError::Broken { stage: Stage::Sent, .. } => may_repeat && !stand.repeated.replace(true),
                _ => false,
            };
            if !goes_on {
                return Err(error);
            }
            tried.push(choice.index);
            if tried.len() == TRIED_MAX {
                pool.tried_limit.hit(base_runtime::worker_index());
                exchange.tags.hit("servers_tried");
                return Err(error);
            }
            stand.place.set(None);
            let Some(next) = another(set, first, &mut tried, stand) else { return Err(error) };
            recorder.failed_over();
            choice = next;
        }
    }

    async fn attempt(
        &self,
        pool: &Pool,
        set: &Set,
        index: usize,
        stand: &Stand<'_>,
        exchange: &mut Exchange,
    ) -> Result<Answer, AttemptError> {
        let servers = set.balancer.servers();
        let (server, recorder) = (&servers[index], &set.of_servers[index]);
        let span = spans::begin(pool, server, exchange);
        let upgrade = exchange.upgrade_offered;
        let interim = exchange.interim.clone();
        let introduction = server.introduction(&exchange.client);
        let wanted_later = exchange.later.contains(Touches::REQUEST_BODY);
        let space = exchange.space();
        let tries = pool.retry.as_ref().map_or(1, |r| r.attempts());
        let again = (tries > 1 || servers.len() > 1) && space.request.method.is_idempotent();
        let again = again || self.following.is_some();
        let host = pool.host_for(server, &space.request);
        let attempt = Attempt {
            server,
            request: &space.request,
            host,
            introduction: &introduction,
            upgrade,
            max_idle: self.max_idle,
            connect_timeout: pool.connect_timeout,
            connecting: &stand.connecting,
            repeated: &stand.repeated,
            keep_body: wanted_later || again,
            interim: Some(&interim),
            recorder,
            limits: &self.limits,
            counters: &pool.counters,
        };
        let result = pin!(attempt.run(&mut space.request_body)).await;
        if span.is_some() {
            let status = result.as_ref().map_or(0, |answer| self.verdict(&answer.response));
            spans::end(span, pool, status, &result, exchange);
        }
        result
    }

    fn take(
        &self,
        pool: &Pool,
        set: &Set,
        stand: &Stand<'_>,
        began: Instant,
        answer: Answer,
        exchange: &mut Exchange,
    ) -> Outcome {
        let Answer { mut response, mut body, upgraded } = answer;
        if upgraded.is_none() {
            response.remove_hop_by_hop();
        }
        let events = response.headers.known(Known::ContentType).is_some_and(is_event_stream);
        if let Some(most) = pool.timeout.filter(|_| !events && upgraded.is_none()) {
            body = Timed::limit(body, began + most, &set.of_servers[stand.choice.get().index]);
        }
        if let Some(limit) = pool.max_body {
            match body.length() {
                Some(length) if length > limit => {
                    pool.too_large.hit(base_runtime::worker_index());
                    exchange.tags.hit("response_body_bytes");
                    exchange.tags.note_own(|| format!("{}: {}", pool.name, BodyError::TooLarge));
                    return refuse(exchange, BodyError::TooLarge.response_status(), INTERNAL_ERROR);
                }
                // An event stream ends when its client has had enough.
                None if !events => body = Bounded::limit(body, limit, &pool.too_large),
                // Filters that gather it are to know how much they may.
                Some(length) if length > DEFAULT_BODY_LIMIT => body = Bounded::limit(body, limit, &pool.too_large),
                _ => {}
            }
        }
        // What is to be kept for others names the server of one client only where that client does not know it yet.
        let known = pool.memory.is_some().then(|| exchange.request());
        let tls = exchange.client.scheme == "https";
        set.balancer.mark(stand.choice.get().index, known, tls, &mut response);
        let place = stand.place.take();
        match upgraded {
            Some(upgraded) => exchange.upgraded = Some(keeping(upgraded, place)),
            None => {
                exchange.upgraded = None;
                body = HeldBody::hold(body, place);
            }
        }
        exchange.respond(response, body);
        self.outcome_of(pool, exchange)
    }
}

impl Pool {
    fn new(
        kind: &str,
        name: String,
        spec: &PoolSpec,
        proxy: &ProxySpec,
        identity: Option<&Arc<Identity>>,
        parts: &Parts<'_>,
    ) -> Result<Pool, String> {
        let servers = spec
            .servers
            .iter()
            .filter(|s| is_tagged(spec, &s.tags))
            .map(|s| {
                let server = Server::new(&s.url, s.weight, s.keep_host, identity)?.with_http2(s.http2.or(spec.http2));
                let server = server.with_http3(s.speaks_http3(spec.http3))?;
                Ok::<_, String>(Arc::new(server.told(spec.proxy_protocol)))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if !spec.proxy_protocol.is_off() {
            edge_pipeline::exchange::want_local_addresses();
        }
        edge_upstream::patience::await_addresses(&servers);
        let listed = servers.iter().map(|server| server.url.clone()).collect();
        let balance = spec.members.load_balance.clone().unwrap_or_default();
        let stats = parts.telemetry.pool(PoolNames {
            pool: format!("{}/{name}", parts.pipeline),
            proxy: parts.name.to_owned(),
            kind: kind.to_owned(),
            load_balance_policy: balance.policy.clone(),
            filter_policy: spec.filter.as_ref().map(|f| f.policy.clone()).unwrap_or_default(),
        });
        let previous = parts.previous.and_then(|p| previous_pool(p, &name));
        let before = previous.map(|pool| pool.members.of(0));
        let recipe = Recipe {
            name: name.clone(),
            kind: kind.to_owned(),
            spec: Arc::new(spec.clone()),
            identity: identity.cloned(),
            listed: servers,
            stats: stats.clone(),
            telemetry: parts.telemetry.clone(),
        };
        let members = Members::after(recipe, before.as_ref().map(|set| &*set.balancer))?;
        let workers = parts.telemetry.workers();
        let policy = |kind: &str, name: &str| {
            let found = parts.resilience.iter().find(|p| !name.is_empty() && p.name == name && p.kind == kind);
            found.map(|p| p.raw.clone())
        };
        let unreadable = |problems: Vec<Problem>| base_model::problem::render(&problems);
        let retry = policy("Retry", &spec.retry_policy)
            .map(|raw| decode::<RetrySpec>(&raw, "").map(|d| d.value).map_err(unreadable))
            .transpose()?;
        let breaker = policy("CircuitBreaker", &spec.circuit_breaker_policy)
            .map(|raw| decode::<CircuitBreakerSpec>(&raw, "").map(|d| d.value).map_err(unreadable))
            .transpose()?
            .map(|policy| inherited_breaker(parts, &name, policy));
        let adaptive = match &spec.adaptive_concurrency {
            None => None,
            Some(adaptive) => {
                let before = previous.and_then(|pool| pool.adaptive.as_ref());
                // Those of a service come and go: one limit is for all of them.
                let urls = spec.service().map_or(listed, |(_, service)| vec![service.to_owned()]);
                let name = format!("{}/{name}", parts.pipeline);
                Some(Ranking::new(&within_room(adaptive, spec), &name, urls, workers, before)?)
            }
        };
        let written =
            if spec.server_max_body_size != 0 { spec.server_max_body_size } else { proxy.server_max_body_size };
        let max_body = match written {
            0 => Some(DEFAULT_BODY_LIMIT),
            negative if negative < 0 => None,
            bytes => Some(bytes as u64),
        };
        let memory = spec.memory_cache.as_ref().filter(|_| max_body.is_some()).map(|cache| {
            let previous = parts.previous.and_then(|p| p.downcast::<Proxy>()).and_then(|p| p.pool(&name));
            MemoryCache::new(cache, &name, parts, previous.and_then(|pool| pool.memory.as_ref()))
        });
        let span_name = if spec.members.span_name.is_empty() { name.as_str() } else { &spec.members.span_name };
        Ok(Pool {
            span_name: span_name.into(),
            label: name.as_str().into(),
            name,
            memory,
            filter: spec.filter.as_ref().map(RequestMatcher::new).transpose()?,
            members,
            set_upstream_host: spec.set_upstream_host,
            timeout: spec.timeout.map(Duration::from).filter(|t| !t.is_zero()),
            connect_timeout: spec.connect_timeout.map_or(CONNECT_TIMEOUT, Duration::from),
            max_body,
            failure_codes: spec.failure_codes.iter().map(|c| c.code()).collect(),
            retry,
            budget: spec.retry_budget.as_ref().map(|spec| {
                let before = previous.and_then(|pool| pool.budget.as_ref());
                RetryBudget::after(spec, workers, Instant::now(), before)
            }),
            hedging: spec.hedging.as_ref().map(|spec| {
                let before = previous.and_then(|pool| pool.hedging.as_ref());
                Hedging::new(spec, workers, parts.telemetry.limits(), before)
            }),
            budget_spent: parts.telemetry.limits().register("retry_budget"),
            adaptive,
            breaker,
            too_large: parts.telemetry.limits().register("response_body_bytes"),
            queue_time: spec.members.queue.clone().unwrap_or_default().timeout.into(),
            full: parts.telemetry.limits().register("server_requests"),
            queue_full: parts.telemetry.limits().register("server_queue"),
            queue_late: parts.telemetry.limits().register("server_queue_time"),
            counters: Counters::new(parts.telemetry.limits()),
            tried_limit: parts.telemetry.limits().register("servers_tried"),
            stats,
        })
    }

    /// A request has begun.
    fn counted(&self) {
        if self.budget.is_none() && self.hedging.is_none() {
            return;
        }
        let (worker, now) = (base_runtime::worker_index(), base_runtime::now());
        self.budget.iter().for_each(|budget| budget.began(worker, now));
        self.hedging.iter().for_each(|hedging| hedging.budget.began(worker, now));
    }

    /// Whether a request may be sent once more; whoever asks sends it.
    fn may_send_again(&self) -> bool {
        let free = self.budget.as_ref().is_none_or(|budget| budget.take(base_runtime::now()));
        if !free {
            self.budget_spent.hit(base_runtime::worker_index());
        }
        free
    }

    /// Whether an answer with this status is a failure.
    fn is_failure(&self, status: u16) -> bool {
        match self.failure_codes.as_slice() {
            [] => is_error(status) && status < 600,
            codes => codes.contains(&status),
        }
    }

    /// What a server is called in a request for it.
    fn host_for<'h>(&self, server: &'h Server, request: &'h Request) -> &'h str {
        let own = (self.set_upstream_host || !server.is_address) && !server.keep_host;
        if own || request.authority.is_empty() { &server.authority } else { &request.authority }
    }

    fn status_json(&self) -> Value {
        let mut status = self.stats.status_json();
        if let (Value::Object(fields), Some(ranking)) = (&mut status, &self.adaptive) {
            fields.insert("adaptiveConcurrency".into(), ranking.passages.status());
        }
        status
    }

    /// Whether this server may have one more, as far as `adaptiveConcurrency` has found.
    fn may_have_more(&self, index: usize) -> bool {
        self.adaptive.as_ref().is_none_or(|ranking| ranking.passages.has_room(index))
    }

    /// The server that was chosen with the place there, or another where that one has as much as it can do; not where the client has a
    /// session.
    #[inline]
    fn with_room(
        &self,
        balancer: &Balancer,
        request: &Request,
        first: Choice,
        place: Option<Place>,
    ) -> (Choice, Option<Place>) {
        if self.may_have_more(first.index) || balancer.is_led(request, first.index) {
            return (first, place);
        }
        self.elsewhere(balancer, first, place)
    }

    /// A server that may have one more, or the first where none is found.
    #[cold]
    fn elsewhere(&self, balancer: &Balancer, first: Choice, place: Option<Place>) -> (Choice, Option<Place>) {
        let mut full = vec![first.index];
        while full.len() < LOOKED_AT_MOST {
            let Some(next) = balancer.another(first, &full) else { break };
            if self.may_have_more(next.index)
                && !next.panicked
                && let Ok(place) = balancer.enter(next.index)
            {
                return (next, place);
            }
            full.push(next.index);
        }
        (first, place)
    }

    /// Takes note of what became of a request.
    #[inline]
    fn heard(&self, set: &Set, choice: Choice, heard: Heard) {
        if let Some(change) = set.balancer.report(choice.index, heard, choice.era) {
            changed(&self.name, &set.balancer.servers()[choice.index].url, change, &set.of_servers[choice.index]);
        }
    }

    /// Counts and takes note of a request that had no answer.
    #[cold]
    fn failed(&self, set: &Set, choice: Choice, error: &AttemptError) {
        if let Some(counted) = error.counted_as() {
            set.of_servers[choice.index].error(counted);
        }
        if !error.is_news() {
            return;
        }
        match error {
            AttemptError::Connect(_) => self.heard(set, choice, Heard::Unreachable),
            AttemptError::Broken { .. }
            | AttemptError::Malformed(_)
            | AttemptError::Faulty(_)
            | AttemptError::FaultyH3(_) => self.heard(set, choice, Heard::NoAnswer),
            AttemptError::RequestBody(_) | AttemptError::Unsayable => {}
        }
    }
}

/// An adaptive limit within what the document lets each server have: whoever is beyond waits in its line, and not a second time.
fn within_room(adaptive: &AdaptiveConcurrencySpec, pool: &PoolSpec) -> AdaptiveConcurrencySpec {
    let room = pool.servers.iter().map(|server| match server.max_concurrency {
        0 => pool.max_concurrency,
        own => own,
    });
    let most = match room.clone().all(|room| room > 0) && pool.service().is_none() {
        true => room.max().unwrap_or(adaptive.max_limit).min(adaptive.max_limit),
        false => adaptive.max_limit,
    };
    AdaptiveConcurrencySpec { max_limit: most, min_limit: adaptive.min_limit.min(most), ..adaptive.clone() }
}

/// A server to go on with that has room, and which takes its place there.
fn another(set: &Set, first: Choice, tried: &mut Vec<usize>, stand: &Stand<'_>) -> Option<Choice> {
    loop {
        let next = set.balancer.another(first, tried)?;
        match set.balancer.enter(next.index) {
            Ok(place) => {
                stand.place.set(place);
                return Some(next);
            }
            Err(Full) => tried.push(next.index),
        }
    }
}

#[cold]
fn changed(pool: &str, server: &str, change: Change, recorder: &ServerRecorder) {
    match change {
        Change::Ejected => {
            recorder.ejected();
            tracing::warn!(pool, server, "the server failed too often and is left out");
        }
        Change::Prolonged => tracing::info!(pool, server, "the server was tried and failed again; it stays out"),
        Change::Readmitted => tracing::info!(pool, server, "the server was tried and is back"),
    }
}

/// TLS towards servers, when any of them speaks it.
fn identity_of(spec: &ProxySpec) -> Result<Option<Arc<Identity>>, BuildError> {
    let pools = || spec.all_pools();
    let mut servers = pools().flat_map(|p| &p.servers).filter_map(|s| s.url.parse::<ServerUrl>().ok());
    // What a service will have is not known.
    if !servers.any(|url| url.is_tls()) && pools().all(|p| p.service().is_none()) {
        return Ok(None);
    }
    let problem = |error: base_tls::CertificateError| {
        vec![Problem::new(format!("mtls.{}", MtlsSpec::field_of(error.part)), error.text)]
    };
    Identity::shared(spec.mtls.as_ref()).map(Some).map_err(problem)
}

/// Idle connections one worker keeps per server: its share of what the document allows in all.
fn max_idle(spec: &ProxySpec, parts: &Parts<'_>) -> usize {
    let servers: usize = spec.all_pools().map(|p| p.servers.len()).sum();
    let per_server = (spec.max_idle_conns as usize / servers.max(1)).min(spec.max_idle_conns_per_host as usize);
    per_server.div_ceil(parts.telemetry.workers().max(1)).max(1)
}

/// Waits until somebody is known to be well, or is to wait no longer for that.
async fn first_answers(balancer: &Balancer) {
    loop {
        base_runtime::time::sleep(LOOK_FOR_ANSWERS).await;
        if !balancer.is_asking(true, base_runtime::now()) {
            return;
        }
    }
}

/// The future within this time, if any; or how long that was.
fn within<F: Future + Unpin>(
    most: Option<Duration>,
    mut future: F,
) -> impl Future<Output = Result<F::Output, Duration>> {
    let limit = most.map(|most| (most, Deadline::new()));
    limit.iter().for_each(|(most, deadline)| deadline.set_after(*most));
    poll_fn(move |cx| match Pin::new(&mut future).poll(cx) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => match &limit {
            None => Poll::Pending,
            Some((most, deadline)) => deadline.poll_expired(cx).map(|()| Err(*most)),
        },
    })
}

/// How far a try has come.
struct Stand<'a> {
    /// The server that is asked.
    choice: Cell<Choice>,
    /// The place among its requests, where those are counted.
    place: Cell<Option<Place>>,
    /// There is no connection to it yet.
    connecting: Cell<bool>,
    /// The request was sent a second time, see [`Attempt::repeated`].
    repeated: Cell<bool>,
    /// The server has answered with a redirect to somebody who is none of its pool: what comes of that says nothing of it.
    away: Cell<bool>,
    /// When the server was asked: it, and not one before that pointed to it.
    since: Cell<Instant>,
    /// Among the requests of the pool that `adaptiveConcurrency` lets be under way.
    pass: Option<&'a Pass>,
    /// Among those of the server, as it measures them.
    attended: RefCell<Option<Attended>>,
}

impl Stand<'_> {
    /// How long the server has been asked.
    fn took(&self) -> Duration {
        base_runtime::now().saturating_duration_since(self.since.get())
    }

    /// The request goes to this server now.
    fn begin(&self, index: usize) -> Option<Attended> {
        self.pass.map(|pass| pass.begin(index))
    }
}

/// Another try would be in vain: its client waits no longer, or there is too much to do already.
fn is_final(exchange: &Exchange) -> bool {
    let late = exchange.deadline.is_some_and(|until| until <= base_runtime::now());
    late || exchange
        .space_ref()
        .response
        .as_ref()
        .is_some_and(|response| response.headers.contains(overload::THRESHOLD))
}

/// A place is held until the answer has come, unless [it lasts](lasts).
fn hold_place(pool: &Pool, exchange: &mut Exchange, attended: Option<Attended>, pass: Option<Pass>) {
    let Some(pass) = pass.filter(|_| pool.adaptive.is_some() && exchange.upgraded.is_none()) else { return };
    let space = exchange.space();
    if !space.response.as_ref().is_some_and(lasts) {
        space.response_body = Placed::hold(std::mem::take(&mut space.response_body), attended, pass);
    }
}

/// A try whose end is not known: dropped, the client has gone.
struct Unfinished<'a> {
    recorders: &'a [ServerRecorder],
    stand: &'a Stand<'a>,
    ended: bool,
}

impl Unfinished<'_> {
    fn ended(mut self) {
        self.ended = true;
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.ended && !self.stand.away.get() {
            self.recorders[self.stand.choice.get().index].error(UpstreamError::Canceled);
        }
    }
}

impl Mirror {
    fn new(
        name: String,
        spec: &PoolSpec,
        proxy: &ProxySpec,
        identity: Option<&Arc<Identity>>,
        parts: &Parts<'_>,
    ) -> Result<Mirror, String> {
        let mut pool = Pool::new(KIND.kind, name, spec, proxy, identity, parts)?;
        Ok(Mirror {
            filter: pool.filter.take().ok_or("a mirror pool needs a filter")?,
            pool,
            in_flight: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            too_many: parts.telemetry.limits().register("mirror_in_flight"),
            too_large: parts.telemetry.limits().register("mirror_bytes"),
            max_idle: max_idle(proxy, parts),
        })
    }

    /// Sends a copy of the request on its own way when the filter takes it. A body that streams cannot be copied.
    fn copy(self: &Arc<Self>, exchange: &Exchange) {
        let space = exchange.space_ref();
        if !self.filter.matches(&space.request, &exchange.client) {
            return;
        }
        let Some(mut body) = space.request_body.again() else { return };
        let worker = base_runtime::worker_index();
        let set = self.pool.members.of(worker);
        let admission = set.balancer.admit(&space.request, &exchange.client, worker, false);
        let Admission::To(choice, place) = admission else { return };
        let index = choice.index;
        let Some(copied) = Copied::of(self, &space.request, &body) else { return };
        let introduction = set.balancer.servers()[index].introduction(&exchange.client);
        let request = space.request.clone();
        base_runtime::spawn(async move {
            let _place = place;
            let mirror = &copied.mirror;
            let pool = &mirror.pool;
            let (server, recorder) = (&set.balancer.servers()[index], &set.of_servers[index]);
            let began = base_runtime::now();
            let attempt = Attempt {
                server,
                request: &request,
                host: if request.authority.is_empty() { &server.authority } else { &request.authority },
                introduction: &introduction,
                upgrade: false,
                max_idle: mirror.max_idle,
                connect_timeout: pool.connect_timeout,
                connecting: &Cell::new(false),
                repeated: &Cell::new(false),
                keep_body: false,
                interim: None,
                recorder,
                limits: &Limits::default(),
                counters: &mirror.pool.counters,
            };
            let whole = async {
                let answer = attempt.run(&mut body).await?;
                // Read to its end, so that the connection can serve again.
                answer.body.discard(DEFAULT_BODY_LIMIT).await;
                Ok::<u16, AttemptError>(answer.response.status)
            };
            match base_runtime::time::timeout(MIRROR_TIMEOUT, whole).await {
                Ok(Ok(status)) => {
                    recorder.record(&stats::AnsweredRequest {
                        status,
                        duration: base_runtime::now().saturating_duration_since(began),
                        request_bytes: 0,
                        response_bytes: 0,
                    });
                    pool.heard(&set, choice, if is_error(status) { Heard::ErrorAnswer } else { Heard::Answer });
                }
                Ok(Err(error)) => pool.failed(&set, choice, &error),
                Err(_) => {
                    recorder.error(UpstreamError::Timeout);
                    pool.heard(&set, choice, Heard::NoAnswer);
                }
            }
        })
        .detach();
    }
}

/// A copy on its way, with what it holds.
struct Copied {
    mirror: Arc<Mirror>,
    bytes: usize,
    /// Of its head; whoever made the body has booked that.
    _head: Booking,
}

impl Copied {
    /// Takes a place for a copy. `None`, and counted, where there is none.
    fn of(mirror: &Arc<Mirror>, request: &Request, body: &Body) -> Option<Copied> {
        let head = request.headers.memory() + request.authority.len() + request.path.as_str().len();
        let body = match body {
            Body::Buffer(_) => Buf::CAPACITY,
            // One that is made on its way is made of little, or it could not be read twice.
            body => body.length().map_or(SPARED_MOST, |length| length as usize),
        };
        let (bytes, worker) = (head + body, base_runtime::worker_index());
        // From here on dropping it gives the place back.
        let copies = mirror.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        let held = mirror.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let copied = Copied { mirror: mirror.clone(), bytes, _head: Booking::new(memory::Kind::Heads, head) };
        if copies > MIRRORED_MAX {
            mirror.too_many.hit(worker);
            return None;
        }
        if held > MIRRORED_BYTES_MAX || memory::is_over() {
            mirror.too_large.hit(worker);
            return None;
        }
        Some(copied)
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        self.mirror.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.mirror.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Filter for Proxy {
    /// Its servers hear of it (`Early-Data`), and may refuse (425).
    fn is_repeatable(&self) -> bool {
        true
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        Step::wait(self.relay(exchange))
    }

    fn status(&self) -> Option<Value> {
        let (candidates, main) = self.pools.split_at(self.first_main);
        let of_all = |pools: &[Pool]| -> Vec<Value> { pools.iter().map(|p| p.status_json()).collect() };
        let mut shown =
            json!({ "mainPool": main.first().map(|p| p.status_json()), "candidatePools": of_all(candidates) });
        if main.len() > 1 {
            shown["splitPools"] = json!(of_all(&main[1..]));
        }
        if let Some((first, further)) = self.mirrors.split_first() {
            shown["mirrorPool"] = first.pool.stats.status_json();
            if !further.is_empty() {
                shown["mirrorPools"] = further.iter().map(|mirror| mirror.pool.stats.status_json()).collect();
            }
        }
        Some(shown)
    }
}

/// Whether a server that answers so may be to blame. That a request goes round (508) is said of its way, which a client can make up: it
/// would have a server left out for all others by what its own requests say of themselves.
pub(crate) fn is_error(status: u16) -> bool {
    status >= 500 && status != 508
}

/// The pool of this name in the generation before.
fn previous_pool<'a>(previous: &'a dyn Filter, name: &str) -> Option<&'a Pool> {
    let proxy = previous
        .downcast::<Proxy>()
        .or_else(|| previous.downcast::<GrpcProxy>().map(GrpcProxy::proxy))
        .or_else(|| previous.downcast::<WebSocketProxy>().map(WebSocketProxy::proxy))?;
    let mut mirrors = proxy.mirrors.iter().map(|mirror| &mirror.pool);
    proxy.pool(name).or_else(|| mirrors.find(|pool| pool.name == name))
}

/// The breaker of the generation before, when its policy is still the same, so that a change opens no circuit and closes none.
fn inherited_breaker(parts: &Parts<'_>, pool: &str, spec: CircuitBreakerSpec) -> Arc<CircuitBreaker> {
    let breaker = parts.previous.and_then(|p| previous_pool(p, pool)).and_then(|p| p.breaker.clone());
    match breaker.filter(|b| *b.spec() == spec) {
        Some(breaker) => breaker,
        None => Arc::new(CircuitBreaker::new(spec, Instant::now())),
    }
}

/// A call under a circuit breaker. Dropped before its end, because the client left, it counts neither way.
struct Call<'a> {
    breaker: &'a CircuitBreaker,
    permit: Option<Permit>,
}

impl<'a> Call<'a> {
    fn begin(breaker: &'a CircuitBreaker) -> Option<Call<'a>> {
        breaker.admit(base_runtime::now()).map(|permit| Call { breaker, permit: Some(permit) })
    }

    fn end(mut self, failed: bool) {
        if let Some(permit) = self.permit.take() {
            self.breaker.finish(permit, failed, base_runtime::now());
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.breaker.abandon(permit);
        }
    }
}

fn refuse(exchange: &mut Exchange, status: u16, outcome: Outcome) -> Outcome {
    exchange.refuse(status);
    outcome
}

pub(crate) fn is_event_stream(content_type: &[u8]) -> bool {
    content_type.get(..17).is_some_and(|t| t.eq_ignore_ascii_case(b"text/event-stream"))
}

/// Fields that earlier filters put on the response come after the backend's; `Access-Control-*` replace them. What they say of
/// who may read it stays theirs: should the answer be replaced, that outlives it. What another backend has said of who may read its own
/// answer, which was there before, is not true of this one.
pub(crate) fn merge(response: &mut Response, earlier: &Response) {
    for (place, (name, value, own)) in earlier.headers.iter_with_own().enumerate() {
        if is_cors(name) {
            if own {
                response.headers.set(name, value);
            }
        } else if name.eq_ignore_ascii_case(b"Vary") {
            response.headers.add_own_copy(&earlier.headers, place);
        } else {
            response.headers.add_copy(&earlier.headers, place);
        }
    }
}
