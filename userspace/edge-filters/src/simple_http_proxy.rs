//! A forward proxy: takes its clients wherever they ask to go, as far as the document lets them.
//!
//! Use it where machines or people reach the outside through one door. Clients ask for whole URLs, or for tunnels (`CONNECT`), over
//! HTTP/1.1, HTTP/2 or HTTP/3, and for tunnels of UDP (`connect-udp`, RFC 9298) where `connectUdp` says so.
//!
//! ```yaml
//! name: out
//! kind: SimpleHTTPProxy
//! allowedDestinations:
//! - {hosts: ["*.shop.example"], ports: [80, 443]}
//! - {hosts: [db.internal], addresses: [10.1.0.0/16], ports: [5432]}
//! ```
//!
//! `GET http://a.shop.example/x` is asked of that host, `CONNECT a.shop.example:443` gets `200` and then bytes pass both ways unread, each
//! direction to its own end. A CONNECT has no path: only a rule of the HTTPServer without path conditions leads it here.
//!
//! With `connectUdp: true` a request for `/.well-known/masque/udp/HOST/PORT/` that is to go on in `connect-udp`, whatever host it is said to be
//! for, opens a tunnel of UDP, by the same rules: datagrams go beside the stream of HTTP/3 where its client takes them so, and on it everywhere else (RFC 9297). What finds
//! no room or is too long for the way is lost, and counted as `forward_datagrams`.
//!
//! Without `allowedDestinations` clients go to every public address. Loopback, private, link-local, multicast, unspecified and reserved
//! addresses, those of clouds' metadata and those of this machine are refused unless `addresses` lists them; a client on this machine
//! itself goes to its loopback while nothing is listed at all. What is judged is the address that is connected to, whatever name led
//! there, so that a name that leads elsewhere the second time leads nowhere. What this process listens on is never connected to, listed or
//! not.
//!
//! Outcomes: `clientError` (not a whole URL: 400; a destination that is refused: 403, counted as `forward_refused`; the client's body
//! failed), `serverError` (the destination has no address, cannot be reached, broke off or took too long: 503), `internalError` (an answer
//! announced longer than `serverMaxBodySize`: 500). Redirects are the client's to follow. Counted as `forward_lookups`: names that were not
//! looked up because too many were.
//!
//! Fits HTTPServer. Connections to destinations are kept for the next request; addresses of a name for as long as they hold.

use crate::coding;
use crate::module_doc::module_doc;
use crate::proxy::bounded::Bounded;
use crate::proxy::timed::Timed;
use crate::proxy::{CLIENT_ERROR, INTERNAL_ERROR, SERVER_ERROR, is_event_stream, merge};
use crate::side::quiet;
use crate::spec::{self, Spec, unexpected};
use base_model::problem::{at, nth};
use base_model::proxy::CompressionSpec;
use base_model::{Findings, GoDuration, Problem, RetrySpec, decode};
use base_runtime::net::MachineAddresses;
use base_telemetry::Limit;
use base_telemetry::proxy::{self as stats, PoolNames, PoolRecorder, PoolStats, ServerRecorder, UpstreamError};
use destination::{DestinationSpec, Destinations, Refusal};
use edge_pipeline::exchange::DEFAULT_BODY_LIMIT;
use edge_pipeline::{
    Body, BodyError, BuildError, Exchange, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, trailers,
};
use edge_upstream::attempt::Counters;
use edge_upstream::connect::{CONNECT_TIMEOUT, ConnectError, connect_to};
use edge_upstream::endpoint::Protocols;
use edge_upstream::names::{self, LookUpError};
use edge_upstream::{Answer, Attempt, AttemptError, Endpoint, Identity, Server, retry};
use proto_http::{Known, Limits, Method, Protocol, Response, Scheme, Version, authority};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use udp::UdpTunnel;

mod destination;
mod udp;

/// `kind: SimpleHTTPProxy`: a forward proxy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SimpleHttpProxySpec {
    /// Where clients may go; one entry that fits is enough. Default: every public address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_destinations: Vec<DestinationSpec>,
    /// Pack answers with gzip for clients that take it; what a tunnel carries stays as it is. Default: answers pass as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionSpec>,
    /// Bound of `maxIdleConnsPerHost`. Default 10240.
    pub max_idle_conns: u32,
    /// Idle connections kept per destination, over all workers, each of which keeps an equal share, but one at least. 0, the default: 2.
    pub max_idle_conns_per_host: u32,
    /// Largest response body, in bytes. One announced longer is answered with 500; one of unknown length breaks off where it gets
    /// longer, unless it is an event stream. Counted as `response_body_bytes`. 0, the default: 4 MiB; negative: relayed at any size.
    pub server_max_body_size: i64,
    /// Open tunnels of UDP (`connect-udp`, RFC 9298) for `/.well-known/masque/udp/HOST/PORT/`, to where `allowedDestinations` lets clients
    /// go. Default false: such a request is one as any other.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub connect_udp: bool,
    /// How long a request may take as a whole, and the opening of a tunnel; then the client gets 503. Default: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
    /// How long looking a name up and connecting may take each. Default 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<GoDuration>,
    /// Longest silence of both sides of a tunnel; then it ends. Default 10m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<GoDuration>,
    /// Name of a Retry in the pipeline's `resilience`. Default: one try.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub retry_policy: String,
}

impl Default for SimpleHttpProxySpec {
    fn default() -> Self {
        Self {
            allowed_destinations: Vec::new(),
            compression: None,
            max_idle_conns: 10_240,
            max_idle_conns_per_host: 0,
            server_max_body_size: 0,
            connect_udp: false,
            timeout: None,
            connect_timeout: None,
            idle_timeout: None,
            retry_policy: String::new(),
        }
    }
}

impl Spec for SimpleHttpProxySpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        for (i, place) in self.allowed_destinations.iter().enumerate() {
            let here = nth(&at(path, "allowedDestinations"), i);
            for (i, host) in place.hosts.iter().enumerate() {
                if let Err(why) = destination::check_host(host) {
                    findings.problem(Problem::new(nth(&at(&here, "hosts"), i), why).text(host));
                }
            }
            if *place == DestinationSpec::default() {
                findings.warn(here, "lists every public address, as the filter does without any entry");
            }
        }
        for (field, given) in [("connectTimeout", self.connect_timeout), ("idleTimeout", self.idle_timeout)] {
            if given.is_some_and(|time| time.is_zero()) {
                let problem = Problem::new(at(path, field), "nothing could be reached").value(&"0s".into());
                findings.problem(problem.accepted("longer than 0s"));
            }
        }
    }
}

/// A ready SimpleHTTPProxy.
pub struct SimpleHttpProxy {
    destinations: Destinations,
    known: Mutex<HashMap<Key, KnownServer>>,
    /// TLS to `https://` destinations; `None` where this machine has no authorities to believe.
    identity: Option<Arc<Identity>>,
    retry: Option<RetrySpec>,
    connect_udp: bool,
    timeout: Option<Duration>,
    connect_timeout: Duration,
    idle: Option<Duration>,
    /// Largest body taken, in bytes; `None` takes whatever comes.
    max_body: Option<u64>,
    /// Idle connections each worker keeps per destination.
    max_idle: usize,
    /// Answers of so many bytes or more are packed.
    pack_least: Option<u64>,
    limits: Limits,
    refused: Limit,
    too_many_names: Limit,
    too_large: Limit,
    datagrams: Limit,
    trailers_dropped: Limit,
    counters: Arc<Counters>,
    stats: Arc<PoolStats>,
    /// By worker.
    recorders: Vec<(PoolRecorder, ServerRecorder)>,
}

/// Whether TLS is spoken, host, port, whether the client is on this machine, and whether it is for UDP.
type Key = (bool, String, u16, bool, bool);

/// A destination whose addresses were looked up and judged.
struct KnownServer {
    server: Arc<Server>,
    addresses: Vec<IpAddr>,
    until: Instant,
}

/// Destinations that are remembered, with the connections to them; beyond it those that were looked up first make room.
const KNOWN_MOST: usize = 1024;

/// How long an address in a URL is remembered.
const LITERAL_HOLDS: Duration = Duration::from_secs(60);

/// A look-up holds for so long at least and at most.
const HOLDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Idle connections per destination where the document says 0, as Go's.
const IDLE_CONNECTIONS: u32 = 2;

pub const KIND: FilterKind = FilterKind {
    kind: "SimpleHTTPProxy",
    results: &[INTERNAL_ERROR, CLIENT_ERROR, SERVER_ERROR],
    doc: module_doc!("simple_http_proxy.rs"),
    schema: spec::schema::<SimpleHttpProxySpec>,
    check: spec::check::<SimpleHttpProxySpec>,
    build: |fields, parts| spec::build(fields, |spec| SimpleHttpProxy::new(&spec, parts)),
};

/// How a client wants to get there.
#[derive(Clone, Copy)]
enum Way {
    Request,
    Tunnel,
    Udp,
}

/// Why a client does not get there.
enum Failure {
    Refused(Refusal),
    NotFound(String),
}

impl SimpleHttpProxy {
    fn new(spec: &SimpleHttpProxySpec, parts: &Parts<'_>) -> Result<SimpleHttpProxy, BuildError> {
        let named = |policy: &&base_model::NamedSpec| policy.name == spec.retry_policy && policy.kind == "Retry";
        let retry = match parts.resilience.iter().find(named) {
            Some(policy) => Some(decode::<RetrySpec>(&policy.raw, "")?.value),
            None if spec.retry_policy.is_empty() => None,
            None => return Err(unexpected("retryPolicy", "no policy of that name, of kind Retry, in resilience")),
        };
        let (telemetry, limits) = (parts.telemetry, parts.telemetry.limits());
        let stats = telemetry.pool(PoolNames {
            pool: parts.pool("forward"),
            proxy: parts.name.to_owned(),
            kind: KIND.kind.to_owned(),
            ..PoolNames::default()
        });
        let recorders = (0..telemetry.workers()).map(|worker| {
            let of_pool = stats.recorder(worker);
            let of_all = of_pool.server("destinations");
            (of_pool, of_all)
        });
        let per_host = match spec.max_idle_conns_per_host {
            0 => IDLE_CONNECTIONS,
            most => most,
        };
        let max_idle = per_host.min(spec.max_idle_conns) as usize;
        Ok(SimpleHttpProxy {
            destinations: Destinations::new(&spec.allowed_destinations, MachineAddresses::shared()),
            known: Mutex::default(),
            identity: Identity::shared(None).ok(),
            retry,
            connect_udp: spec.connect_udp,
            timeout: spec.timeout.map(Duration::from).filter(|t| !t.is_zero()),
            connect_timeout: spec.connect_timeout.map_or(CONNECT_TIMEOUT, Duration::from),
            idle: spec.idle_timeout.map(Duration::from),
            max_body: match spec.server_max_body_size {
                0 => Some(DEFAULT_BODY_LIMIT),
                negative if negative < 0 => None,
                bytes => Some(bytes as u64),
            },
            max_idle: max_idle.div_ceil(telemetry.workers().max(1)).max(1),
            pack_least: spec.compression.as_ref().map(|compression| compression.min_length.into()),
            limits: Limits::default(),
            refused: limits.register("forward_refused"),
            too_many_names: limits.register("forward_lookups"),
            too_large: limits.register("response_body_bytes"),
            datagrams: limits.register("forward_datagrams"),
            trailers_dropped: limits.register("trailers_dropped"),
            counters: Counters::new(limits),
            recorders: recorders.collect(),
            stats,
        })
    }

    async fn forward(&self, exchange: &mut Exchange) -> Outcome {
        exchange.remember_whole_target();
        let (way, tls, host, port) = match self.asked_for(exchange) {
            Ok(asked) => asked,
            Err(why) => {
                exchange.tags.note_own(|| why);
                return refuse(exchange, 400, CLIENT_ERROR);
            }
        };
        let to = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let key = (tls, host, port, is_local(exchange), matches!(way, Way::Udp));
        let client = exchange.client.real_ip.unwrap_or(exchange.client.peer.ip());
        let sent = async {
            let server = match self.find(key, client).await {
                Ok(server) => server,
                Err(Failure::Refused(why)) => {
                    self.refused.hit(base_runtime::worker_index());
                    exchange.tags.note(|| format!("forward: {to} is refused: {why}"));
                    return refuse(exchange, 403, CLIENT_ERROR);
                }
                Err(Failure::NotFound(why)) => {
                    exchange.tags.note(|| format!("forward: {why}"));
                    return refuse(exchange, 503, SERVER_ERROR);
                }
            };
            match way {
                Way::Request => self.relay(&server, exchange).await,
                Way::Tunnel => self.open(&server, exchange).await,
                Way::Udp => self.open_udp(&server, exchange),
            }
        };
        let outcome = match self.timeout {
            None => sent.await,
            Some(most) => match base_runtime::time::timeout(most, sent).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    self.recorder().error(UpstreamError::Timeout);
                    refuse(exchange, 503, SERVER_ERROR)
                }
            },
        };
        if let Some(least) = self.pack_least
            && outcome == SUCCESS
            && exchange.upgraded.is_none()
            && coding::pack_response_of(least, exchange)
        {
            exchange.tags.note_own(|| "gzip");
        }
        outcome
    }

    /// What is asked for, within TLS or not, and of which host and port; or why nobody can tell.
    fn asked_for(&self, exchange: &Exchange) -> Result<(Way, bool, String, u16), &'static str> {
        let request = exchange.request();
        if let Some(asked) = udp::asked_for(request, self.connect_udp && exchange.upgrade_offered) {
            let (host, port) = asked.map_err(|()| "forward: the path names no host and port for UDP")?;
            return Ok((Way::Udp, false, host, port));
        }
        let (way, tls, usual_port) = match request.scheme {
            _ if request.method == Method::Connect => (Way::Tunnel, false, None),
            Some(Scheme::Http) => (Way::Request, false, Some(80)),
            Some(Scheme::Https) => (Way::Request, true, Some(443)),
            None => return Err("forward: the target is no whole URL"),
        };
        match authority::split(request.authority.as_bytes()).map(|(host, port)| (host, port.or(usual_port))) {
            Some((host, Some(port))) => Ok((way, tls, host_of(host), port)),
            _ => Err("forward: the target names no host, or no port"),
        }
    }

    fn recorder(&self) -> &ServerRecorder {
        &self.recorders[base_runtime::worker_index()].1
    }

    /// The destination with the addresses of it that clients are led to.
    async fn find(&self, key: Key, client: IpAddr) -> Result<Arc<Server>, Failure> {
        let now = base_runtime::now();
        if let Some(known) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key)
            && known.until > now
            && !known.addresses.iter().any(|ip| self.destinations.is_own(*ip, key.2, key.4))
        {
            return Ok(known.server.clone());
        }
        let (tls, host, port, local, udp) = &key;
        let (addresses, holds) = match host.parse::<IpAddr>() {
            Ok(ip) => (vec![ip], LITERAL_HOLDS),
            Err(_) => {
                self.destinations.may_be_asked(host, *port).map_err(Failure::Refused)?;
                let (addresses, holds) = self.look_up(host, client).await.map_err(Failure::NotFound)?;
                (addresses, holds.clamp(HOLDS.0, HOLDS.1))
            }
        };
        let addresses =
            self.destinations.choose(host, *port, addresses, *local, *udp).map_err(|refusal| match refusal {
                Some(why) => Failure::Refused(why),
                None => Failure::NotFound(format!("{host} has no address")),
            })?;
        let identity = match (tls, &self.identity) {
            (false, _) => None,
            (true, Some(identity)) => Some(identity.clone()),
            (true, None) => return Err(Failure::NotFound("no authority is known to believe https of".to_owned())),
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let until = now + holds;
        if let Some(entry) = known.get_mut(&key) {
            entry.until = until;
            entry.addresses.clone_from(&addresses);
            entry.server.endpoint.set_addresses(addresses);
            return Ok(entry.server.clone());
        }
        if known.len() >= KNOWN_MOST {
            make_room(&mut known, now);
        }
        let authority = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let server = Arc::new(Server::named(&authority, Endpoint::found(host, *port, addresses.clone()), identity));
        known.insert(key, KnownServer { server: server.clone(), addresses, until });
        Ok(server)
    }

    async fn look_up(&self, host: &str, client: IpAddr) -> Result<(Vec<IpAddr>, Duration), String> {
        match base_runtime::time::timeout(self.connect_timeout, names::look_up(host, client)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(LookUpError::Failed(why))) => Err(format!("{host} has no address: {why}")),
            Ok(Err(LookUpError::Busy)) => {
                self.too_many_names.hit(base_runtime::worker_index());
                Err(format!("{host} is not looked up: too many names are"))
            }
            Err(_) => Err(format!("{host} has no address in {}", base_text::duration(self.connect_timeout))),
        }
    }

    /// Makes a tunnel of a CONNECT.
    async fn open(&self, server: &Server, exchange: &mut Exchange) -> Outcome {
        let (began, recorder) = (base_runtime::now(), self.recorder());
        match connect_to(&server.endpoint, None, Protocols::Http1, self.connect_timeout).await {
            Ok(stream) => {
                recorder.record(&stats::AnsweredRequest {
                    status: 200,
                    duration: base_runtime::now().saturating_duration_since(began),
                    request_bytes: 0,
                    response_bytes: 0,
                });
                exchange.upgraded = Some(quiet(Box::new(stream), self.idle));
                exchange.respond(Response::with_status(200), Body::Empty);
                SUCCESS
            }
            Err(error) => {
                let error = AttemptError::Connect(error);
                self.failed(server, &error, exchange);
                refuse(exchange, 503, SERVER_ERROR)
            }
        }
    }

    /// Makes a tunnel of UDP.
    fn open_udp(&self, server: &Server, exchange: &mut Exchange) -> Outcome {
        match UdpTunnel::open(&server.endpoint.addresses(), self.datagrams.clone()) {
            Ok(tunnel) => {
                self.recorder().record(&stats::AnsweredRequest {
                    status: 101,
                    duration: Duration::ZERO,
                    request_bytes: 0,
                    response_bytes: 0,
                });
                exchange.upgraded = Some(quiet(Box::new(tunnel), self.idle));
                let mut response = Response::with_status(101);
                response.headers.set("Connection", "Upgrade");
                response.headers.set("Upgrade", Protocol::ConnectUdp.name());
                response.headers.set("Capsule-Protocol", "?1");
                exchange.respond(response, Body::Empty);
                SUCCESS
            }
            Err(error) => {
                self.failed(server, &AttemptError::Connect(ConnectError::Tcp(error)), exchange);
                refuse(exchange, 503, SERVER_ERROR)
            }
        }
    }

    /// Asks for what the client asks for.
    async fn relay(&self, server: &Server, exchange: &mut Exchange) -> Outcome {
        let began = base_runtime::now();
        {
            let space = exchange.space();
            trailers::guard(&mut space.request_body, &space.request.headers, &self.trailers_dropped);
            // RFC 9110 section 7.6.3.
            let via = match space.request.version {
                Version::Http10 => "1.0 weir",
                Version::Http11 => "1.1 weir",
                Version::Http2 => "2 weir",
                Version::Http3 => "3 weir",
            };
            space.request.headers.add("Via", via);
        }
        let earlier = exchange.space().response.take();
        let once = exchange.space_ref().request_body.is_stream();
        let idempotent = exchange.request().method.is_idempotent();
        let mut tries = 0;
        let outcome = loop {
            tries += 1;
            let error = match self.attempt(server, exchange).await {
                Ok(answer) => break self.take(began, answer, exchange),
                Err(error) => error,
            };
            self.failed(server, &error, exchange);
            match &error {
                AttemptError::RequestBody(error) => break refuse(exchange, error.request_status(), CLIENT_ERROR),
                AttemptError::Unsayable => break refuse(exchange, 500, INTERNAL_ERROR),
                _ => {}
            }
            let again = self.retry.as_ref().filter(|retry| tries < retry.attempts() && !once);
            let Some(policy) = again.filter(|_| idempotent || !error.may_be_done()) else {
                break refuse(exchange, 503, SERVER_ERROR);
            };
            self.recorders[base_runtime::worker_index()].0.retried();
            base_runtime::time::sleep(retry::pause(policy, tries)).await;
        };
        if let (Some(earlier), Some(response)) = (earlier, exchange.response_mut())
            && outcome == SUCCESS
        {
            merge(response, &earlier);
        }
        outcome
    }

    async fn attempt(&self, server: &Server, exchange: &mut Exchange) -> Result<Answer, AttemptError> {
        let (upgrade, interim) = (exchange.upgrade_offered, exchange.interim.clone());
        let wanted_later = exchange.later.contains(edge_pipeline::Touches::REQUEST_BODY);
        let space = exchange.space();
        let again = self.retry.is_some() && space.request.method.is_idempotent();
        let attempt = Attempt {
            server,
            request: &space.request,
            host: &space.request.authority,
            introduction: &[],
            upgrade,
            max_idle: self.max_idle,
            connect_timeout: self.connect_timeout,
            connecting: &Cell::new(false),
            repeated: &Cell::new(false),
            keep_body: wanted_later || again,
            interim: Some(&interim),
            recorder: self.recorder(),
            limits: &self.limits,
            counters: &self.counters,
        };
        attempt.run(&mut space.request_body).await
    }

    fn take(&self, began: Instant, answer: Answer, exchange: &mut Exchange) -> Outcome {
        let Answer { mut response, mut body, upgraded } = answer;
        self.recorder().record(&stats::AnsweredRequest {
            status: response.status,
            duration: base_runtime::now().saturating_duration_since(began),
            request_bytes: exchange.request_body_length().unwrap_or_default(),
            response_bytes: body.length().unwrap_or_default(),
        });
        if upgraded.is_none() {
            response.remove_hop_by_hop();
        }
        let events = response.headers.known(Known::ContentType).is_some_and(is_event_stream);
        if let Some(most) = self.timeout.filter(|_| !events && upgraded.is_none()) {
            body = Timed::limit(body, began + most, self.recorder());
        }
        if let Some(limit) = self.max_body {
            match body.length() {
                Some(length) if length > limit => {
                    self.too_large.hit(base_runtime::worker_index());
                    exchange.tags.note(|| format!("forward: {}", BodyError::TooLarge));
                    return refuse(exchange, BodyError::TooLarge.response_status(), INTERNAL_ERROR);
                }
                None if !events => body = Bounded::limit(body, limit, &self.too_large),
                _ => {}
            }
        }
        exchange.upgraded = upgraded.map(|destination| quiet(destination, self.idle));
        exchange.respond(response, body);
        SUCCESS
    }

    fn failed(&self, server: &Server, error: &AttemptError, exchange: &mut Exchange) {
        if let Some(counted) = error.counted_as() {
            self.recorder().error(counted);
        }
        exchange.tags.note(|| format!("forward: {}: {error}", server.authority));
    }
}

impl Filter for SimpleHttpProxy {
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        Step::wait(self.forward(exchange))
    }

    fn makes_tunnels(&self) -> bool {
        true
    }

    fn status(&self) -> Option<Value> {
        Some(json!({ "destinations": self.stats.status_json() }))
    }
}

/// Those that do not hold any more go, and the older half where all do.
fn make_room(known: &mut HashMap<Key, KnownServer>, now: Instant) {
    known.retain(|_, entry| entry.until > now);
    if known.len() >= KNOWN_MOST {
        let mut ends: Vec<Instant> = known.values().map(|entry| entry.until).collect();
        let middle = ends.len() / 2;
        let (_, middle, _) = ends.select_nth_unstable(middle);
        let middle = *middle;
        known.retain(|_, entry| entry.until > middle);
    }
}

/// A host as it is compared and looked up.
fn host_of(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    text.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_owned()
}

/// Nothing says that the client is not on this machine.
fn is_local(exchange: &Exchange) -> bool {
    let (client, headers) = (&exchange.client, &exchange.request().headers);
    let passed_on = ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"].iter().any(|name| headers.contains(name));
    client.peer.ip().to_canonical().is_loopback() && client.real_ip.is_some_and(|ip| ip.is_loopback()) && !passed_on
}

fn refuse(exchange: &mut Exchange, status: u16, outcome: Outcome) -> Outcome {
    exchange.refuse(status);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_runtime::net::OwnPort;
    use edge_pipeline::PipelineName;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn a_port_that_this_process_opens_later_is_its_own_at_once() {
        let telemetry = crate::testing::telemetry();
        let parts = Parts {
            name: "f",
            pipeline: &PipelineName::of_object("p"),
            previous: None,
            resilience: &[],
            telemetry: &telemetry,
        };
        let spec = serde_json::json!({"allowedDestinations": [{"addresses": ["127.0.0.0/8"]}]});
        let proxy = SimpleHttpProxy::new(&serde_json::from_value(spec).unwrap(), &parts).unwrap();
        let find = || {
            let mut finding =
                pin!(proxy.find((false, "127.0.0.1".to_owned(), 11, false, false), IpAddr::from([192, 0, 2, 1])));
            match finding.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(found) => found,
                Poll::Pending => panic!("an address is not looked up"),
            }
        };
        assert!(find().is_ok());
        let own = OwnPort::note(11);
        assert!(matches!(find(), Err(Failure::Refused(Refusal::Own))));
        drop(own);
        assert!(find().is_ok());
    }
}
