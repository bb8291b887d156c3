//! Relays calls of gRPC to one of its pools' servers, and their answers back, over HTTP/2 on both sides.
//!
//! Use it as the last station of a pipeline that a GRPCServer leads to.
//!
//! ```yaml
//! name: grpc-proxy
//! kind: GRPCProxy
//! pools:
//! - servers:
//!   - url: http://127.0.0.1:9095
//!   - url: http://127.0.0.1:9096
//!   loadBalance: {policy: roundRobin}
//! ```
//!
//! Outcomes: `internalError` (no server: INVALID_ARGUMENT; what cannot be said to a server: INTERNAL), `clientError` (no call of gRPC: HTTP
//! status 415; a bad `grpc-timeout`: INTERNAL; a client that broke off), `serverError` (the server could not be reached or broke off:
//! UNAVAILABLE; it took too long: DEADLINE_EXCEEDED; it answered no gRPC: by the table of gRPC for statuses of HTTP), `failureCode` (it
//! answered at once, without a message, that it failed: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE or
//! DATA_LOSS; that answer stands), `shortCircuited` (UNAVAILABLE), `overloaded` (refused by `adaptiveConcurrency` of its pool: UNAVAILABLE, or
//! DEADLINE_EXCEEDED).
//!
//! Messages are relayed as they come, in any encoding and of any size, both ways at a time; who reads slowly holds up who sends. Each
//! call goes to a server of its own choice, however few connections there are. Metadata and trailers are relayed.
//!
//! A client's `grpc-timeout` counts from when its call came in: the server is told what is left of it, or of `timeout` where that is
//! shorter, and a call that has not ended by then ends with DEADLINE_EXCEEDED, streams included.
//!
//! A call goes to another server when one cannot be connected to, or says that it has done nothing with it. Nothing else is repeated.
//!
//! With `loadBalance: {policy: forward, forwardKey: x-to}` the metadata `x-to` names the server, as `ADDRESS:PORT` or as one of
//! `servers` is written; clients must not choose freely what is reachable from here, so let a filter set it where they are not trusted.
//! A call that names none gets INVALID_ARGUMENT.
//!
//! Fits GRPCServer. Costs no copy of a message.

use crate::module_doc::module_doc;
use crate::proxy::{CLIENT_ERROR, FAILURE_CODE, INTERNAL_ERROR, Proxy, SERVER_ERROR, SHORT_CIRCUITED, TIMEOUT};
use crate::ranking::OVERLOADED;
use crate::spec::{self, Spec};
use base_model::problem::{at, nth};
use base_model::proxy::ServerScheme;
use base_model::{
    AdaptiveConcurrencySpec, Findings, GoDuration, HealthCheckSpec, MembersSpec, MtlsSpec, NamedSpec, PoolSpec,
    Problem, ProxySpec, RequestMatcherSpec, ServerSpec, StringMatcher, UrlRule,
};
use base_runtime::time::Deadline;
use base_telemetry::{Limit, Telemetry};
use edge_pipeline::grpc::{self, Code};
use edge_pipeline::{
    Body, BodyError, BodyStream, BuildError, Exchange, Filter, FilterKind, Outcome, Parts, Piece, PipelineName,
    SUCCESS, Sight, Step, Touches, overload,
};
use proto_http::Headers;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// `kind: GRPCProxy`: relays calls of gRPC to a server of a pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["pools"]))]
pub struct GrpcProxySpec {
    /// Pools of servers. Exactly one has no `filter` and is the main one; the others are asked in order and the first whose
    /// filter accepts the call takes it.
    pub pools: Vec<GrpcPoolSpec>,
    /// How long a call may take as a whole, streams included; then the client gets DEADLINE_EXCEEDED. A client's own `grpc-timeout`
    /// counts as well. Default: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
    /// How long a call may wait for a connection that is in use. Has no effect: calls share connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub borrow_timeout: Option<GoDuration>,
    /// How long connecting to a server may take, over all its addresses and with the TLS handshake. Default 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<GoDuration>,
    /// Idle connections kept per server, over all workers, 1 or more. Default 1024.
    #[schemars(range(min = 1), extend("x-late" = true))]
    pub max_idle_conns_per_host: u32,
    /// TLS towards `https://` servers: a certificate of ours, and whom to trust. Default: no certificate, the system's authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsSpec>,
}

impl Default for GrpcProxySpec {
    fn default() -> Self {
        let (timeout, borrow_timeout, connect_timeout) = (None, None, None);
        let max_idle_conns_per_host = ProxySpec::default().max_idle_conns_per_host;
        Self { pools: Vec::new(), timeout, borrow_timeout, connect_timeout, max_idle_conns_per_host, mtls: None }
    }
}

/// A pool of servers that can stand for each other.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcPoolSpec {
    #[serde(flatten)]
    pub members: MembersSpec,
    /// The servers, `http://` (HTTP/2 in the clear) or `https://`. `servers` or `serviceName` is needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<ServerSpec>,
    /// Send the server's own name as `:authority`. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub set_upstream_host: bool,
    /// Calls this pool is for. Default: all that no pool with a filter took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<GrpcMatcherSpec>,
    /// Probe the servers, with grpc.health.v1 unless its `type` says otherwise. Not with `serviceName`. Default: none are probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheckSpec>,
    /// Calls that each server has at a time from this pool, as a Proxy's `maxConcurrency` says. 0, the default: any number.
    pub max_concurrency: u32,
    /// Limit how many calls are under way at each server by what they take, and queue, or refuse by priority, what is beyond.
    /// Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_concurrency: Option<AdaptiveConcurrencySpec>,
    /// Name of a CircuitBreaker in the pipeline's `resilience`. Default: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub circuit_breaker_policy: String,
}

/// Selects the calls a pool is for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcMatcherSpec {
    /// `general` (default): by metadata and methods; `ipHash`, `headerHash`, `random`: a share of all calls, see `permil`.
    pub policy: String,
    /// Metadata that must match, with `general`. Needed there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, StringMatcher>,
    /// Whether all of `headers` must match, instead of any one. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub match_all_headers: bool,
    /// Methods, as `/package.Service/Method`, of which one must match as well, with `general`. Default: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<StringMatcher>,
    /// The share in thousandths, 1 to 1000, with the other policies.
    #[schemars(range(max = 1000))]
    pub permil: u32,
    /// Metadata that is hashed, with `headerHash`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub header_hash_key: String,
}

/// Servers that calls have named and that are remembered, per pool. Beyond it those that were named before are forgotten, which is
/// counted as `grpc_forward_servers`.
const FORWARDS_MOST: usize = 256;

/// Deadlines further away, in time, are none.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

impl GrpcMatcherSpec {
    fn matcher(&self) -> RequestMatcherSpec {
        let url = |method: &StringMatcher| UrlRule { url: method.clone(), ..UrlRule::default() };
        RequestMatcherSpec {
            policy: self.policy.clone(),
            headers: self.headers.clone(),
            match_all_headers: self.match_all_headers,
            urls: self.methods.iter().map(url).collect(),
            permil: self.permil,
            header_hash_key: self.header_hash_key.clone(),
            ..RequestMatcherSpec::default()
        }
    }
}

impl GrpcPoolSpec {
    /// The metadata that names servers.
    fn forward_key(&self) -> Option<&str> {
        let balance = self.members.load_balance.as_ref().filter(|balance| balance.policy == "forward")?;
        Some(&balance.forward_key)
    }
}

impl GrpcProxySpec {
    fn pool(&self, pool: &GrpcPoolSpec) -> PoolSpec {
        PoolSpec {
            members: pool.members.clone(),
            servers: pool.servers.clone(),
            set_upstream_host: pool.set_upstream_host,
            filter: pool.filter.as_ref().map(GrpcMatcherSpec::matcher),
            server_max_body_size: -1,
            connect_timeout: self.connect_timeout,
            http2: Some(true),
            health_check: pool.health_check.clone(),
            adaptive_concurrency: pool.adaptive_concurrency.clone(),
            circuit_breaker_policy: pool.circuit_breaker_policy.clone(),
            max_concurrency: pool.max_concurrency,
            ..PoolSpec::default()
        }
    }

    fn proxy(&self) -> ProxySpec {
        ProxySpec {
            pools: self.pools.iter().map(|pool| self.pool(pool)).collect(),
            mtls: self.mtls.clone(),
            max_idle_conns_per_host: self.max_idle_conns_per_host,
            server_max_body_size: -1,
            ..ProxySpec::default()
        }
    }

    /// Of servers that calls name.
    fn forwarded(&self, pool: &GrpcPoolSpec, server: ServerSpec) -> ProxySpec {
        let pool = PoolSpec { servers: vec![server], filter: None, ..self.pool(pool) };
        ProxySpec { pools: vec![pool], ..self.proxy() }
    }
}

impl Spec for GrpcProxySpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        let pools = at(path, "pools");
        let mut told = Findings::default();
        PoolSpec::validate_all(&self.proxy().pools, &pools, ServerScheme::Grpc, &mut told);
        // Said of filters that do not know this policy.
        for (i, _) in self.pools.iter().enumerate().filter(|(_, pool)| pool.forward_key().is_some()) {
            let balance = at(&nth(&pools, i), "loadBalance");
            let idle = [at(&balance, "policy"), at(&balance, "forwardKey")];
            told.warnings.retain(|warning| !idle.contains(&warning.path));
        }
        told.problems.iter_mut().for_each(|problem| problem.path = as_written(&problem.path));
        told.warnings.iter_mut().for_each(|warning| warning.path = as_written(&warning.path));
        findings.problems.append(&mut told.problems);
        findings.warnings.append(&mut told.warnings);
        if self.timeout.is_some_and(|most| most.is_zero()) {
            let problem = Problem::new(at(path, "timeout"), "no call could succeed").value(&"0s".into());
            findings.problem(problem.accepted("longer than 0s").advice("leave it out to wait for ever"));
        }
        if self.borrow_timeout.is_some() {
            findings.warn(at(path, "borrowTimeout"), "has no effect: calls share connections and wait for none");
        }
    }
}

/// The path of what a Proxy finds wrong, as the author of a GRPCProxy wrote it: its methods are a Proxy's urls.
fn as_written(path: &str) -> String {
    let Some((before, rest)) = path.split_once(".filter.urls[") else { return path.to_owned() };
    format!("{before}.filter.methods[{}", rest.replacen("].url", "]", 1))
}

/// A ready GRPCProxy.
pub struct GrpcProxy {
    proxy: Proxy,
    /// Of the pools whose servers calls name, in the order of the Proxy's.
    forwards: Vec<Option<Forward>>,
    timeout: Option<Duration>,
    deadlines: Limit,
}

pub const KIND: FilterKind = FilterKind {
    kind: "GRPCProxy",
    results: &[INTERNAL_ERROR, CLIENT_ERROR, SERVER_ERROR, FAILURE_CODE, SHORT_CIRCUITED, OVERLOADED],
    doc: module_doc!("grpc_proxy.rs"),
    schema: spec::schema::<GrpcProxySpec>,
    check: spec::check::<GrpcProxySpec>,
    build: |fields, parts| spec::build(fields, |spec| GrpcProxy::new(spec, parts)),
};

impl GrpcProxy {
    fn new(spec: GrpcProxySpec, parts: &Parts<'_>) -> Result<GrpcProxy, BuildError> {
        let (main, candidates): (Vec<_>, Vec<_>) = spec.pools.iter().partition(|pool| pool.filter.is_none());
        let forwards = candidates.into_iter().chain(main).map(|pool| Forward::new(&spec, pool, parts)).collect();
        Ok(GrpcProxy {
            proxy: Proxy::new(KIND.kind, &spec.proxy(), parts)?.of_grpc(),
            forwards,
            timeout: spec.timeout.map(Duration::from),
            deadlines: parts.telemetry.limits().register("grpc_deadline"),
        })
    }

    /// What it relays by.
    pub(crate) fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    async fn relay(&self, exchange: &mut Exchange) -> Outcome {
        if !grpc::is_grpc(&exchange.request().headers) {
            exchange.refuse(415);
            return CLIENT_ERROR;
        }
        let asked = match exchange.request().headers.text("grpc-timeout").map(grpc::parse_timeout) {
            Some(None) => {
                grpc::refuse(
                    exchange.space(),
                    Code::INTERNAL,
                    "grpc-timeout is none: 1 to 8 digits and one of H M S m u n",
                );
                return CLIENT_ERROR;
            }
            asked => asked.flatten(),
        };
        let most = asked.into_iter().chain(self.timeout).min().filter(|most| *most < FAR);
        let said = overload::note_deadline(exchange);
        let until = most.map(|most| exchange.started + most).into_iter().chain(said).min();
        if let Some(until) = until {
            let left = until.saturating_duration_since(base_runtime::now());
            if left.is_zero() {
                return self.too_late(exchange);
            }
            exchange.request_mut().headers.set("grpc-timeout", grpc::write_timeout(left));
        }
        let Some(chosen) = self.proxy.choose(exchange) else {
            return no_server(exchange, "no pool takes this method");
        };
        self.proxy.guard(exchange);
        exchange.deadline = until;
        let outcome = match &self.forwards[chosen] {
            None => self.proxy.relay_to(chosen, exchange).await,
            Some(forward) => match forward.server(exchange) {
                Some(proxy) => proxy.relay_to(0, exchange).await,
                None => return no_server(exchange, "the call names no server it may go to"),
            },
        };
        exchange.deadline = None;
        self.conclude(outcome, until, exchange)
    }

    /// What a client of gRPC is told of an outcome.
    fn conclude(&self, outcome: Outcome, until: Option<Instant>, exchange: &mut Exchange) -> Outcome {
        let space = exchange.space();
        let status = space.response.as_ref().map_or(503, |response| response.status);
        let (code, message, outcome) = match outcome {
            SUCCESS | FAILURE_CODE => {
                let answered = space.response.as_ref().is_some_and(|r| r.status == 200 && grpc::is_grpc(&r.headers));
                if answered {
                    self.watch(until, &mut space.response_body);
                    return outcome;
                }
                let text = format!("the server answered HTTP status {status} and no gRPC");
                grpc::refuse(space, Code::of_http(status), &text);
                return SERVER_ERROR;
            }
            TIMEOUT => return self.too_late(exchange),
            // It is said already.
            OVERLOADED => return OVERLOADED,
            SHORT_CIRCUITED => (Code::UNAVAILABLE, "too many calls have failed", SHORT_CIRCUITED),
            INTERNAL_ERROR if status == 503 => return no_server(exchange, "the pool has no server"),
            INTERNAL_ERROR => (Code::INTERNAL, "the call cannot be said to its server", INTERNAL_ERROR),
            CLIENT_ERROR if status == 413 => (Code::RESOURCE_EXHAUSTED, "the request is too large", CLIENT_ERROR),
            CLIENT_ERROR => (Code::CANCELLED, "the client broke off", CLIENT_ERROR),
            _ => (Code::UNAVAILABLE, "the server cannot be reached, or broke off", SERVER_ERROR),
        };
        grpc::refuse(space, code, message);
        outcome
    }

    fn too_late(&self, exchange: &mut Exchange) -> Outcome {
        self.deadlines.hit(base_runtime::worker_index());
        grpc::refuse(exchange.space(), Code::DEADLINE_EXCEEDED, LATE);
        SERVER_ERROR
    }

    /// Sees that an answer ends as one of gRPC, and in time.
    fn watch(&self, until: Option<Instant>, body: &mut Body) {
        *body = match std::mem::take(body) {
            Body::Stream(body) => Body::Stream(Box::new(Ending {
                body: Some(body),
                deadline: until.map(Deadline::at),
                said: None,
                deadlines: self.deadlines.clone(),
            })),
            there => there,
        };
    }
}

const LATE: &str = "the time for this call is over";

fn no_server(exchange: &mut Exchange, message: &str) -> Outcome {
    grpc::refuse(exchange.space(), Code::INVALID_ARGUMENT, message);
    INTERNAL_ERROR
}

/// Servers that calls name themselves.
struct Forward {
    key: String,
    spec: GrpcProxySpec,
    pool: GrpcPoolSpec,
    /// What a filter is built from, to build more of them.
    name: String,
    pipeline: PipelineName,
    resilience: Vec<NamedSpec>,
    telemetry: Arc<Telemetry>,
    /// By what was named.
    known: Mutex<HashMap<String, Arc<Proxy>>>,
    forgotten: Limit,
}

impl Forward {
    /// `None` for a pool that chooses its servers itself.
    fn new(spec: &GrpcProxySpec, pool: &GrpcPoolSpec, parts: &Parts<'_>) -> Option<Forward> {
        let forward = Forward {
            key: pool.forward_key()?.to_owned(),
            spec: spec.clone(),
            pool: pool.clone(),
            name: parts.name.to_owned(),
            pipeline: parts.pipeline.clone(),
            resilience: parts.resilience.to_vec(),
            telemetry: parts.telemetry.clone(),
            known: Mutex::default(),
            forgotten: parts.telemetry.limits().register("grpc_forward_servers"),
        };
        for server in &pool.servers {
            // Names are looked up now, when nobody waits.
            let authority = server.url.split_once("://").map_or("", |(_, rest)| rest).trim_end_matches('/');
            drop(forward.know(authority, server.clone()));
        }
        Some(forward)
    }

    fn server(&self, exchange: &Exchange) -> Option<Arc<Proxy>> {
        let named = exchange.request().headers.text(&self.key)?.trim();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(named).cloned();
        if known.is_some() {
            return known;
        }
        let address: SocketAddr = named.parse().ok().filter(|address: &SocketAddr| address.port() > 0)?;
        self.know(named, ServerSpec { url: format!("http://{address}"), ..ServerSpec::default() })
    }

    fn know(&self, named: &str, server: ServerSpec) -> Option<Arc<Proxy>> {
        let parts = Parts {
            name: &self.name,
            pipeline: &self.pipeline,
            previous: None,
            resilience: &self.resilience,
            telemetry: &self.telemetry,
        };
        let proxy = Arc::new(Proxy::new(KIND.kind, &self.spec.forwarded(&self.pool, server), &parts).ok()?.of_grpc());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= FORWARDS_MOST {
            self.forgotten.hit(base_runtime::current_worker().map_or(usize::MAX, |worker| worker.index()));
            known.clear();
        }
        known.insert(named.to_owned(), proxy.clone());
        Some(proxy)
    }
}

/// An answer under way. It ends with a status whatever becomes of its server, and of the time.
struct Ending {
    /// `None` once it was given up, which resets the server's stream.
    body: Option<Box<dyn BodyStream>>,
    deadline: Option<Deadline>,
    /// What is said in the server's place.
    said: Option<(Code, &'static str)>,
    deadlines: Limit,
}

impl Ending {
    fn end(&mut self, code: Code, message: &'static str) -> Poll<Result<Option<Piece>, BodyError>> {
        self.body = None;
        self.said = Some((code, message));
        Poll::Ready(Ok(None))
    }
}

impl BodyStream for Ending {
    fn poll_piece(&mut self, cx: &mut Context<'_>, sight: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(None)) };
        let announced = body.remaining().is_some();
        // Also where messages come faster than the time goes by.
        if self.deadline.as_ref().is_some_and(|deadline| deadline.poll_expired(cx).is_ready()) && !announced {
            self.deadlines.hit(base_runtime::worker_index());
            return self.end(Code::DEADLINE_EXCEEDED, LATE);
        }
        match body.poll_piece(cx, sight) {
            // An end in good order would say that less than was announced is all.
            Poll::Ready(Err(_)) if !announced => self.end(Code::UNAVAILABLE, "the server broke off"),
            ready => ready,
        }
    }

    fn remaining(&self) -> Option<u64> {
        self.body.as_ref().and_then(|body| body.remaining())
    }

    fn trailers(&mut self) -> Option<Headers> {
        match self.said {
            Some((code, message)) => Some(grpc::trailers(code, message)),
            None => self.body.as_mut().and_then(|body| body.trailers()),
        }
    }
}

impl Filter for GrpcProxy {
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        Step::wait(self.relay(exchange))
    }

    fn touches(&self) -> Touches {
        Touches::EVERYTHING
    }

    fn status(&self) -> Option<Value> {
        self.proxy.status()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: serde::de::DeserializeOwned + Serialize + JsonSchema>(text: &str) -> T {
        let document = base_model::yaml::parse_document(text).expect("good YAML");
        base_model::decode(&document, "").expect("a good document").value
    }

    #[test]
    fn its_pools_are_those_of_a_proxy() {
        let pool = "servers: [{url: 'http://a:1', tags: [blue], weight: 3}], serverTags: [blue], setUpstreamHost: true, loadBalance: \
                    {policy: ipHash}, outlierDetection: {consecutiveErrors: 2}, circuitBreakerPolicy: c, healthCheck: {interval: 1s}, maxConcurrency: 7, queue: {size: 3}, slowStart: 5s, adaptiveConcurrency: {maxLimit: 9}, serviceRegistry: etcd, serviceName: s";
        let filter = "policy: general, headers: {k: {exact: v}}, matchAllHeaders: true, permil: 4, headerHashKey: h";
        let proxy = "maxIdleConnsPerHost: 5, mtls: {insecureSkipVerify: true}";
        let spec: GrpcProxySpec = read(&format!(
            "{{{proxy}, connectTimeout: 3s, pools: [{{{pool}, filter: {{{filter}, methods: [{{prefix: /s.S/}}]}}}}, {{{pool}}}]}}"
        ));
        let pool = format!("{pool}, connectTimeout: 3s, serverMaxBodySize: -1, http2: true");
        let wanted: ProxySpec = read(&format!(
            "{{{proxy}, serverMaxBodySize: -1, pools: [{{{pool}, filter: {{{filter}, urls: [{{url: {{prefix: /s.S/}}}}]}}}}, {{{pool}}}]}}"
        ));
        assert_eq!(spec.proxy(), wanted);
    }
}
