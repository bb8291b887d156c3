//! Relays WebSockets to one of its pools' servers.
//!
//! Use it as the last station of a pipeline that browsers open WebSockets to: it lets in pages of the site alone, bounds messages, and
//! tells both sides with a Close why they end. A Proxy relays WebSockets as well, unseen, with no check of the origin.
//!
//! ```yaml
//! name: chat
//! kind: WebSocketProxy
//! pools:
//! - servers:
//!   - url: ws://127.0.0.1:9095
//!   originPatterns: ["*.shop.example"]     # beside the site's own pages
//!   clientMaxMsgSize: 65536                # 32768 when not set, -1 takes any
//! ```
//!
//! Clients come over HTTP/1.1 (Upgrade), HTTP/2 or HTTP/3 (extended CONNECT, RFC 8441 and 9220); servers, `ws://` or `wss://`, are asked over
//! HTTP/1.1, or over streams of few connections of HTTP/2 or HTTP/3 where they are to be spoken to in it, or agree to it, and offer
//! WebSockets there. The client is answered once a server has agreed: what a server says instead of 101 is the client's answer. Servers get
//! `X-Forwarded-For`, `-Host` and `-Proto`, what the client offered of subprotocols, and `defaultOrigin` where it had no `Origin`.
//!
//! Messages have bounds of 32 KiB either way unless a pool says otherwise. Where there is one, frames are looked at as they pass,
//! unchanged and at once; nothing is collected. A frame that breaks RFC 6455 or a bound ends the WebSocket with a Close to both sides:
//! 1002, 1007 for text that is not UTF-8, 1009 for a message that is too long. No extension is agreed on then: compressed messages
//! could not be bounded without being inflated. A frame of text
//! whose beginning has passed already leaves no place for a Close to its reader, who is cut off; its sender gets 1007. From the first Close
//! on, whoever says it, there are 5 s for what is left. When the server stops, and before a silence of `idleTimeout` ends it, both get 1001.
//! With both bounds -1 bytes pass unseen, extensions (`permessage-deflate`) and all, and the end is that of the connection.
//!
//! Outcomes: `clientError` (no opening of a WebSocket, or by another site's page: 400; another version than 13: 426), `serverError` (no
//! server could be reached or agreed as it must: 503; its own answer stands where it gave one), `internalError` (no server: 503).
//! Counted as `websocket_handshake`, `websocket_origin`, `websocket_frames`, `websocket_text`, `websocket_message_bytes`.
//!
//! Fits HTTPServer. Costs no copy of a payload; text is checked where it lies. A silent WebSocket holds half a kilobyte beside its two
//! connections.

use crate::module_doc::module_doc;
use crate::proxy::{self, CLIENT_ERROR, INTERNAL_ERROR, Proxy, SERVER_ERROR};
use crate::side::quiet;
use crate::spec::{self, Spec, unexpected};
use base_model::problem::{at, nth};
use base_model::proxy::ServerScheme;
use base_model::{
    Findings, GoDuration, HealthCheckSpec, HealthMatchSpec, MembersSpec, MtlsSpec, PoolSpec, ProbeType, Problem,
    ProxySpec, RequestMatcherSpec, ServerSpec,
};
use base_telemetry::Limit;
use edge_pipeline::{BuildError, Exchange, Filter, FilterKind, Outcome, Parts, SUCCESS, Step, Touches};
use edge_upstream::Identity;
use handshake::Offer;
use origin::Origins;
use proto_http::{Known, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use watched::{Bounds, Watched};

mod handshake;
mod origin;
mod watched;

/// `kind: WebSocketProxy`: relays WebSockets to a server of a pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["pools"]))]
pub struct WebSocketProxySpec {
    /// Pools of servers. Exactly one has no `filter` and is the main one; the others are asked in order and the first whose
    /// filter accepts the request takes it.
    pub pools: Vec<WebSocketPoolSpec>,
    /// `Origin` that servers get where the client sent none. Default: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub default_origin: String,
    /// TLS towards `wss://` servers: a certificate of ours, and whom to trust. Default: no certificate, the system's authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsSpec>,
    /// Longest silence of both sides, pings included; then both get a Close with 1001 where frames are looked at, and the WebSocket
    /// ends. Default 10m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<GoDuration>,
}

/// A pool of servers that can stand for each other, and what clients may send them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WebSocketPoolSpec {
    #[serde(flatten)]
    pub members: MembersSpec,
    /// The servers, `ws://` or `wss://`. `servers` or `serviceName` is needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<ServerSpec>,
    /// Send the server's own name as Host. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub set_upstream_host: bool,
    /// Requests this pool is for. Default: all that no pool with a filter took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<RequestMatcherSpec>,
    /// WebSockets that each server has at a time from this pool, as a Proxy's `maxConcurrency` says. 0, the default: any number.
    pub max_concurrency: u32,
    /// How long connecting to a server may take, over all its addresses and with the TLS handshake. Default 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<GoDuration>,
    /// Speak HTTP/2 to the servers, so that many WebSockets share few connections. `true`: `wss://` servers may choose it (ALPN), `ws://`
    /// ones must speak it (h2c). One that does not offer WebSockets over it (RFC 8441) is asked over HTTP/1.1. They take places on 128
    /// connections of a worker to a server; where those have no room, further ones go over HTTP/1.1 to `wss://` servers, and to `ws://` ones
    /// are refused (`upstream_connections`). `false`: HTTP/1.1. A server's own `http2` goes before. Default: `wss://` servers may choose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2: Option<bool>,
    /// Speak HTTP/3 to the servers, which are `wss://` ones then, as a Proxy's `http3` says: WebSockets are streams of few connections of
    /// QUIC where the server offers that (RFC 9220), and else connections of TCP. A server's own `http3` goes before. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub http3: bool,
    /// Longest message of a client, in bytes of its payload; one that is longer ends the WebSocket with 1009. 0, the default: 32768;
    /// negative: any. Counted as `websocket_message_bytes`.
    pub client_max_msg_size: i64,
    /// The same of what servers send.
    pub server_max_msg_size: i64,
    /// Old name of `clientMaxMsgSize`.
    #[serde(skip_serializing_if = "is_zero")]
    pub clnt_max_msg_size: i64,
    /// Old name of `serverMaxMsgSize`.
    #[serde(skip_serializing_if = "is_zero")]
    pub svr_max_msg_size: i64,
    /// Let pages of all sites in. Default false: the host of `Origin`, where there is one, is that of the request, or `originPatterns`
    /// has it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_verify: bool,
    /// Further hosts whose pages may open WebSockets, with their ports where those are not the usual ones: `*.shop.example`,
    /// `localhost:*`. `*` stands for any characters, `?` for one, `[a-z]` for one of these. A pattern with `://` has the scheme, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub origin_patterns: Vec<String>,
    /// Probe the servers. Default: none are probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<WebSocketHealthCheckSpec>,
}

/// Probes servers and leaves out those that fail, by requests or by opening a WebSocket, as a Proxy's `healthCheck` does. With both a server
/// must pass both, with neither it must be connected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WebSocketHealthCheckSpec {
    /// Time between probes. Default 60s.
    pub interval: GoDuration,
    /// How long a probe may take. Default 3s.
    pub timeout: GoDuration,
    /// Failures in a row after which a server is left out; 1 or more. Default 1.
    #[schemars(range(min = 1))]
    pub fails: u32,
    /// Successes in a row after which it is used again; 1 or more. Default 1.
    #[schemars(range(min = 1))]
    pub passes: u32,
    /// A request as a Proxy's `healthCheck` makes it; how often, and how many times, is said here and not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HealthCheckSpec>,
    /// The opening of a WebSocket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ws: Option<WebSocketProbeSpec>,
}

impl Default for WebSocketHealthCheckSpec {
    fn default() -> Self {
        Self {
            interval: GoDuration::from_secs(60),
            timeout: GoDuration::from_secs(3),
            fails: 1,
            passes: 1,
            http: None,
            ws: None,
        }
    }
}

/// The opening of a WebSocket as a probe.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct WebSocketProbeSpec {
    /// Port that is probed. 0, the default: the server's own.
    pub port: u16,
    /// Path and query that are asked for. Default: the server's path, or `/`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// Headers of the probe.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// What a healthy answer looks like. Default: 101.
    #[serde(rename = "match")]
    pub match_: HealthMatchSpec,
}

impl WebSocketHealthCheckSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        let paced = WebSocketHealthCheckSpec { http: None, ws: None, ..self.clone() };
        if let Some(connect) = paced.checks().0 {
            connect.validate(ProbeType::Http, path, findings);
        }
        if let Some(http) = &self.http {
            let place = at(path, "http");
            http.validate(ProbeType::Http, &place, findings);
            let usual = HealthCheckSpec::default();
            for (field, given) in [
                ("interval", http.interval != usual.interval),
                ("timeout", http.timeout != usual.timeout),
                ("fails", http.fails != usual.fails),
                ("passes", http.passes != usual.passes),
            ] {
                if given {
                    findings.warn(at(&place, field), format!("has no effect: {field} of healthCheck itself counts"));
                }
            }
        }
        // How often is said once, above.
        let unpaced = WebSocketHealthCheckSpec { ws: self.ws.clone(), ..WebSocketHealthCheckSpec::default() };
        if let (_, Some(opening)) = unpaced.checks() {
            opening.validate(ProbeType::Http, &at(path, "ws"), findings);
        }
    }

    /// As checks of a pool of a Proxy: a request, or a connect where nothing is asked for, and the opening of a WebSocket.
    fn checks(&self) -> (Option<HealthCheckSpec>, Option<HealthCheckSpec>) {
        let paced = |spec: HealthCheckSpec| HealthCheckSpec {
            interval: self.interval,
            timeout: self.timeout,
            fails: self.fails,
            passes: self.passes,
            ..spec
        };
        let opening = self.ws.as_ref().map(|ws| HealthCheckSpec {
            type_: Some(ProbeType::WebSocket),
            port: ws.port,
            uri: ws.uri.clone(),
            headers: ws.headers.clone(),
            match_: Some(ws.match_.clone()),
            ..HealthCheckSpec::default()
        });
        let connect = || HealthCheckSpec { type_: Some(ProbeType::Tcp), ..HealthCheckSpec::default() };
        let first = self.http.clone().or_else(|| opening.is_none().then(connect));
        (first.map(paced), opening.map(paced))
    }
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Longest message where a pool does not say, in bytes, as Easegress's library has it.
const MESSAGE_MOST: u64 = 32 * 1024;

impl WebSocketPoolSpec {
    /// As a pool of a Proxy.
    fn pool(&self) -> PoolSpec {
        let (health_check, opening_check) = self.health_check.as_ref().map(|spec| spec.checks()).unwrap_or_default();
        PoolSpec {
            health_check,
            opening_check,
            members: self.members.clone(),
            servers: self.servers.clone(),
            set_upstream_host: self.set_upstream_host,
            filter: self.filter.clone(),
            max_concurrency: self.max_concurrency,
            connect_timeout: self.connect_timeout,
            http2: self.http2,
            http3: self.http3,
            ..PoolSpec::default()
        }
    }

    /// Longest messages of clients and servers.
    fn bounds(&self) -> Bounds {
        let most = |written: i64, old: i64| match if written != 0 { written } else { old } {
            0 => Some(MESSAGE_MOST),
            negative if negative < 0 => None,
            bytes => Some(bytes as u64),
        };
        Bounds {
            client: most(self.client_max_msg_size, self.clnt_max_msg_size),
            server: most(self.server_max_msg_size, self.svr_max_msg_size),
        }
    }
}

impl WebSocketProxySpec {
    fn proxy(&self) -> ProxySpec {
        let pools = self.pools.iter().map(WebSocketPoolSpec::pool).collect();
        ProxySpec { pools, mtls: self.mtls.clone(), ..ProxySpec::default() }
    }
}

impl Spec for WebSocketProxySpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        let (mut proxy, pools) = (self.proxy(), at(path, "pools"));
        // What they say is looked at below, where it is written.
        for pool in &mut proxy.pools {
            pool.health_check = (pool.health_check.is_some() || pool.opening_check.is_some()).then(Default::default);
        }
        PoolSpec::validate_all(&proxy.pools, &pools, ServerScheme::WebSocket, findings);
        for (i, pool) in self.pools.iter().enumerate() {
            let place = nth(&pools, i);
            for (i, pattern) in pool.origin_patterns.iter().enumerate() {
                if let Err(why) = origin::pattern(pattern) {
                    let problem = Problem::new(nth(&at(&place, "originPatterns"), i), why).text(pattern);
                    findings.problem(problem.accepted("a host with *, ? and [a-z]"));
                }
            }
            if pool.insecure_skip_verify && !pool.origin_patterns.is_empty() {
                let text = "has no effect: insecureSkipVerify lets all sites in";
                findings.warn(at(&place, "originPatterns"), text);
            }
            for (old, new, both) in [
                ("clntMaxMsgSize", "clientMaxMsgSize", pool.clnt_max_msg_size != 0 && pool.client_max_msg_size != 0),
                ("svrMaxMsgSize", "serverMaxMsgSize", pool.svr_max_msg_size != 0 && pool.server_max_msg_size != 0),
            ] {
                if both {
                    findings.warn(at(&place, old), format!("has no effect beside {new}, whose old name it is"));
                }
            }
            if let Some(check) = &pool.health_check {
                check.validate(&at(&place, "healthCheck"), findings);
            }
        }
        if self.idle_timeout.is_some_and(|most| most.is_zero()) {
            let problem = Problem::new(at(path, "idleTimeout"), "every WebSocket would end at once");
            findings.problem(problem.value(&"0s".into()).accepted("longer than 0s"));
        }
        if !self.default_origin.is_empty() && !base_model::header_adapt::is_header_value(&self.default_origin) {
            let problem = Problem::new(at(path, "defaultOrigin"), "a header value cannot hold control characters");
            findings.problem(problem.text(&self.default_origin));
        }
        self.validate_mtls(&at(path, "mtls"), findings);
    }
}

impl WebSocketProxySpec {
    fn validate_mtls(&self, path: &str, findings: &mut Findings) {
        let Some(mtls) = &self.mtls else { return };
        let servers = self.pools.iter().flat_map(|pool| &pool.servers);
        if !servers.map(|server| server.url.as_str()).any(|url| url.starts_with("wss:")) {
            findings.warn(path, "has no effect: no server is wss://");
        }
        if mtls.cert_base64.is_empty() != mtls.key_base64.is_empty() {
            let problem = Problem::new(path, "certBase64 and keyBase64 go together");
            return findings.problem(problem.advice("give both or none"));
        }
        if let Err(error) = Identity::shared(Some(mtls)) {
            findings.problem(Problem::new(at(path, MtlsSpec::field_of(error.part)), error.text));
        }
    }
}

/// A ready WebSocketProxy.
pub struct WebSocketProxy {
    proxy: Proxy,
    /// What else its pools say, in the order of the Proxy's.
    pools: Vec<Rules>,
    default_origin: String,
    idle: Option<Duration>,
    not_opened: Limit,
    origins_refused: Limit,
    faults: Arc<watched::Faults>,
}

/// What a pool says of the WebSockets it takes.
struct Rules {
    origins: Origins,
    bounds: Bounds,
}

pub const KIND: FilterKind = FilterKind {
    kind: "WebSocketProxy",
    results: &[INTERNAL_ERROR, CLIENT_ERROR, SERVER_ERROR],
    doc: module_doc!("websocket_proxy.rs"),
    schema: spec::schema::<WebSocketProxySpec>,
    check: spec::check::<WebSocketProxySpec>,
    build: |fields, parts| spec::build(fields, |spec| WebSocketProxy::new(&spec, parts)),
};

impl WebSocketProxy {
    fn new(spec: &WebSocketProxySpec, parts: &Parts<'_>) -> Result<WebSocketProxy, BuildError> {
        let (main, candidates): (Vec<_>, Vec<_>) = spec.pools.iter().partition(|pool| pool.filter.is_none());
        let rules = |pool: &WebSocketPoolSpec| {
            let origins = Origins::new(&pool.origin_patterns, pool.insecure_skip_verify)?;
            Ok(Rules { origins, bounds: pool.bounds() })
        };
        let pools = candidates.into_iter().chain(main).map(rules).collect::<Result<_, String>>();
        let limits = parts.telemetry.limits();
        Ok(WebSocketProxy {
            proxy: Proxy::new(KIND.kind, &spec.proxy(), parts)?,
            pools: pools.map_err(|why| unexpected("pools", why))?,
            default_origin: spec.default_origin.clone(),
            idle: spec.idle_timeout.map(Duration::from),
            not_opened: limits.register("websocket_handshake"),
            origins_refused: limits.register("websocket_origin"),
            faults: Arc::new(watched::Faults::new(limits)),
        })
    }

    /// What it relays by.
    pub(crate) fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    async fn relay(&self, exchange: &mut Exchange) -> Outcome {
        let worker = base_runtime::worker_index();
        let offer = match Offer::read(exchange.request(), exchange.upgrade_offered) {
            Ok(offer) => offer,
            Err(status) => {
                self.not_opened.hit(worker);
                let response = exchange.refuse(status);
                response.headers.set("Sec-WebSocket-Version", "13");
                if status == 426 {
                    response.headers.set("Upgrade", "websocket");
                }
                return CLIENT_ERROR;
            }
        };
        let Some(chosen) = self.proxy.choose(exchange) else {
            exchange.refuse(503);
            return INTERNAL_ERROR;
        };
        let rules = &self.pools[chosen];
        if !rules.origins.admit(exchange.request()) {
            self.origins_refused.hit(worker);
            exchange.tags.note_own(|| "websocket: a page of another site");
            exchange.refuse(400);
            return CLIENT_ERROR;
        }
        self.prepare(exchange, rules);
        let outcome = self.proxy.relay_to(chosen, exchange).await;
        let Some(backend) = exchange.upgraded.take() else {
            return match outcome {
                // An answer of the server's own, which is no WebSocket.
                SUCCESS | proxy::FAILURE_CODE => SERVER_ERROR,
                INTERNAL_ERROR | CLIENT_ERROR => outcome,
                _ => SERVER_ERROR,
            };
        };
        let agreed = match &exchange.space_ref().response {
            Some(response) => offer.is_met_by(response, rules.bounds.are_any()),
            None => Err("no answer"),
        };
        if let Err(why) = agreed {
            exchange.tags.note(|| format!("websocket: {why}"));
            exchange.refuse(503);
            return SERVER_ERROR;
        }
        exchange.upgraded = Some(match rules.bounds.are_any() {
            true => Box::new(Watched::new(backend, rules.bounds, self.idle, self.faults.clone())),
            false => quiet(backend, self.idle),
        });
        SUCCESS
    }

    /// What the server is told of the client, and what is not agreed on through us.
    fn prepare(&self, exchange: &mut Exchange, rules: &Rules) {
        let (peer, scheme) = (exchange.client.peer.ip().to_canonical(), exchange.client.scheme);
        let request = exchange.request_mut();
        if rules.bounds.are_any() {
            request.headers.remove("Sec-WebSocket-Extensions");
        }
        if !self.default_origin.is_empty() && !request.headers.contains("Origin") {
            request.headers.set("Origin", &self.default_origin);
        }
        let host = request.authority.clone();
        if let Some(list) = with_peer(&request.headers, peer) {
            request.headers.set("X-Forwarded-For", list);
        }
        request.headers.set("X-Forwarded-Host", host);
        request.headers.set("X-Forwarded-Proto", scheme);
    }
}

/// The hops so far with the peer behind them; `None` where it stands there already.
fn with_peer(headers: &proto_http::Headers, peer: IpAddr) -> Option<Vec<u8>> {
    let peer = peer.to_string();
    let mut list = headers.known_all(Known::XForwardedFor).collect::<Vec<_>>().join(&b", "[..]);
    let last = list.rsplit(|b| *b == b',').next().unwrap_or_default();
    if last.trim_ascii() == peer.as_bytes() {
        return None;
    }
    if !list.is_empty() {
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(peer.as_bytes());
    Some(list)
}

impl Filter for WebSocketProxy {
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

    #[test]
    fn its_pools_are_those_of_a_proxy() {
        let text = "{mtls: {insecureSkipVerify: true}, pools: [{servers: [{url: 'ws://a:1'}], connectTimeout: 3s, \
                    maxConcurrency: 7, queue: {size: 3}, slowStart: 5s, http2: false, http3: true, outlierDetection: {consecutiveErrors: 2}, serviceRegistry: etcd, serviceName: chat}]}";
        let document = base_model::yaml::parse_document(text).expect("good YAML");
        let spec: WebSocketProxySpec = base_model::decode(&document, "").expect("a good document").value;
        let proxy = spec.proxy();
        let pool = &proxy.pools[0];
        assert_eq!(pool.connect_timeout, Some(GoDuration::from_secs(3)));
        assert_eq!((pool.members.service_registry.as_str(), pool.members.service_name.as_str()), ("etcd", "chat"));
        assert_eq!((pool.max_concurrency, pool.members.slow_start), (7, Some(GoDuration::from_secs(5))));
        assert_eq!((pool.http2, pool.http3), (Some(false), true));
        assert_eq!(pool.members.queue.as_ref().map(|queue| queue.size), Some(3));
        assert_eq!(pool.members.outlier_detection.as_ref().map(|detection| detection.consecutive_errors), Some(2));
        assert!(proxy.mtls.is_some_and(|mtls| mtls.insecure_skip_verify));
    }

    #[test]
    fn what_its_servers_are_asked() {
        let read = |text: &str| -> WebSocketHealthCheckSpec {
            let document = base_model::yaml::parse_document(text).expect("good YAML");
            base_model::decode(&document, "").expect("a good document").value
        };
        let pace = "interval: 1s, timeout: 2s, fails: 3, passes: 4";
        let ws = "ws: {port: 7, uri: /w, headers: {A: b}, match: {headers: [{name: C, value: d}]}}";
        let plain = |text: &str| -> HealthCheckSpec {
            let document = base_model::yaml::parse_document(text).expect("good YAML");
            base_model::decode(&document, "").expect("a good document").value
        };
        let opening = plain(&format!("{{type: websocket, {pace}, {}", ws.trim_start_matches("ws: {")));
        for (text, wanted) in [
            (format!("{{{pace}}}"), (Some(plain(&format!("{{type: tcp, {pace}}}"))), None)),
            (format!("{{{pace}, http: {{uri: /h}}}}"), (Some(plain(&format!("{{uri: /h, {pace}}}"))), None)),
            (format!("{{{pace}, {ws}}}"), (None, Some(opening.clone()))),
            (
                format!("{{{pace}, http: {{uri: /h}}, {ws}}}"),
                (Some(plain(&format!("{{uri: /h, {pace}}}"))), Some(opening)),
            ),
        ] {
            assert_eq!(read(&text).checks(), wanted, "{text}");
        }
        let mut findings = Findings::default();
        read("{interval: 0s, http: {interval: 1s, uri: 'a b'}, ws: {uri: '/#'}}").validate("c", &mut findings);
        let places: Vec<&str> = findings.problems.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(places, ["c.interval", "c.http.uri", "c.ws.uri"]);
        assert_eq!(findings.warnings[0].path, "c.http.interval");
    }
}
