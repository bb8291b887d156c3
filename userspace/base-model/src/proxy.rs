//! The Proxy filter's pools, servers, balancing, health checks and caches, as users write them.
//!
//! They live here because both the filter and an HTTPServer's `backendPool` are made of them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use base_tls::Certificate;
use base_tls::certificate::{Part, read_authorities_undated, untimely_authorities};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::adaptive_concurrency::AdaptiveConcurrencySpec;
use crate::dates::Dates;
use crate::duration::GoDuration;
use crate::health_check::{HealthCheckSpec, ProbeType};
use crate::load_balance::{LoadBalanceSpec, WEIGHTED_POLICIES};
use crate::problem::{Findings, Problem, at, nth, one_of};
use crate::proxy_protocol::ProxyProtocol;
use crate::repeats::repeats;
use crate::string_matcher::{StringMatcher, UrlRule};
use crate::words::{HttpCode, check_methods};

/// `kind: Proxy`: sends the request to a server of a pool and hands back its response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["pools"]))]
pub struct ProxySpec {
    /// Pools of servers. Exactly one has no `filter` and is the main one; the others are asked in order and the first whose
    /// filter accepts the request takes it. Several may have no filter where each has a `weight`: they divide among themselves what no
    /// other took.
    pub pools: Vec<PoolSpec>,
    /// How pools with a `weight` divide requests. Default: at random.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<SplitSpec>,
    /// Servers that get a copy of the requests its `filter` accepts; their answers are dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror_pool: Option<PoolSpec>,
    /// Further such pools, each of which gets a copy of its own of the requests that its `filter` accepts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirror_pools: Vec<PoolSpec>,
    /// Pack answers with gzip on their way to clients that take it; `{}` does for all lengths. Default: they pass as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionSpec>,
    /// TLS towards `https://` servers: a certificate of ours, and whom to trust. Default: no certificate, the system's authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsSpec>,
    /// Idle connections kept over all servers of this filter, each of which gets an equal share. Default 10240.
    pub max_idle_conns: u32,
    /// Idle connections kept per server, over all workers, each of which keeps an equal share, but one at least. Default 1024.
    pub max_idle_conns_per_host: u32,
    /// Redirects of a server that are followed for one request, 20 at most: 301, 302 and 303 with GET, 307 and 308 with method and body,
    /// where that can be sent again. Hosts that no pool lists are looked up; credentials (Authorization, Cookie) go to no other origin, nor
    /// from https to http. The one after the last, and one that leads to link-local addresses or to this machine's own listeners, goes
    /// to the client (counted as `redirects`). 0, the default, hands all of them to the client.
    pub max_redirection: u32,
    /// Largest response body, in bytes. One announced longer is answered with 500; one of unknown length breaks off where it gets
    /// longer, unless it is an event stream. Counted as `response_body_bytes`. 0, the default: 4 MiB; negative: relayed at any size.
    pub server_max_body_size: i64,
}

impl Default for ProxySpec {
    fn default() -> Self {
        Self {
            pools: Vec::new(),
            split: None,
            mirror_pool: None,
            mirror_pools: Vec::new(),
            compression: None,
            mtls: None,
            max_idle_conns: 10_240,
            max_idle_conns_per_host: 1_024,
            max_redirection: 0,
            server_max_body_size: 0,
        }
    }
}

/// A pool of servers that can stand for each other.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolSpec {
    #[serde(flatten)]
    pub members: MembersSpec,
    /// The servers. `servers` or `serviceName` is needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<ServerSpec>,
    /// Send the server's own name as Host. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub set_upstream_host: bool,
    /// Requests this pool is for. Default: all that no pool with a filter took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<RequestMatcherSpec>,
    /// Its part of the requests that no pool with a filter took, beside those of the other pools without filter: blue 90, green 10. 0 gets
    /// none. Default: it is the only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// Largest response body, in bytes. 0, the default: as the filter says; negative: relayed at any size.
    pub server_max_body_size: i64,
    /// How long one try may take as a whole, connecting and the answer's body included, whatever its length; then the client gets 408,
    /// or, when the answer has begun, its end is cut off. Event streams go on: of them it is for the head. Default: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
    /// How long connecting to a server may take, over all its addresses and with the TLS handshake; then the try has failed.
    /// Default 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<GoDuration>,
    /// Speak HTTP/2 to the servers: many requests at a time over few connections. `true`: `https://` servers may choose it (ALPN), all
    /// others must speak it (h2c). WebSockets go over it where a server offers that (RFC 8441), and over HTTP/1.1 where it does not. They take
    /// places on 128 connections of a worker to a server; where those have no room, further ones go over HTTP/1.1 to `https://` servers, and
    /// to others are refused (`upstream_connections`). `false`: HTTP/1.1. A server's own `http2` goes before. Default: `https://` servers may
    /// choose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2: Option<bool>,
    /// Speak HTTP/3 to the servers, which are `https://` ones then: many requests at a time over few connections of QUIC, to the port
    /// of the URL on UDP. Where QUIC does not come through a server cannot be connected to: TCP is not tried for it. Over HTTP/1.1, to the
    /// same port on TCP, go requests that ask to go on in another protocol, WebSockets and other tunnels where the server does not offer
    /// them over HTTP/3 (RFC 9220), and each that the server will not have over it (H3_VERSION_FALLBACK); after three such in a row all,
    /// for a minute. A server's own `http3` goes before. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub http3: bool,
    /// Begin every connection with a PROXY header, before TLS, that says who the client is: `v1` or `v2`. A connection then serves
    /// requests of the client connection it was made for alone, so that each of those has connections of its own to the servers; and
    /// HTTP/1.1 is spoken, since HTTP/2 would carry requests of many. Default off.
    #[serde(skip_serializing_if = "ProxyProtocol::is_off")]
    pub proxy_protocol: ProxyProtocol,
    /// Requests that each server has at a time from this pool, over all workers of a machine; a server's own `maxConcurrency` goes before.
    /// A request lasts until its answer has come to its end. Beyond it another server is taken; where each has as many, requests wait in
    /// the `queue` or get 503 (counted as `server_requests`). 0, the default: any number.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_concurrency: u32,
    /// Bounds what the pool sends more than once: tries of `retryPolicy` beyond the first, and requests of `hedging`. Default: each
    /// request has the tries its policy gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudgetSpec>,
    /// Ask another server as well where the first takes long, and take the answer that comes first. For idempotent requests whose body
    /// can be sent twice alone. Default: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedging: Option<HedgingSpec>,
    /// Limit how many requests are under way at each server by what they take, and queue, or refuse by priority, what is beyond.
    /// Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_concurrency: Option<AdaptiveConcurrencySpec>,
    /// Name of a Retry in the pipeline's `resilience`. Default: one try.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub retry_policy: String,
    /// Name of a CircuitBreaker in the pipeline's `resilience`. Default: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub circuit_breaker_policy: String,
    /// Remember responses. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_cache: Option<MemoryCacheSpec>,
    /// Probe the servers. Not with `serviceName`. Default: none are probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheckSpec>,
    /// A second check beside `healthCheck`, which pools of a WebSocketProxy may have. No document of a Proxy has it.
    #[serde(skip)]
    pub opening_check: Option<HealthCheckSpec>,
    /// Status codes that count as failure. Empty, the default: 500 to 599, but for 508, which a client that forges `CDN-Loop` can ask for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("uniqueItems" = true))]
    pub failure_codes: Vec<HttpCode>,
}

/// Where pools of all kinds have their servers from, and how one of them is chosen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MembersSpec {
    /// Name of the spans of tries at its servers, see `tracing` of an HTTPServer. Default: the pool's own name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub span_name: String,
    /// Keep only servers that have one of these tags, discovered ones too. Default: all are kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("uniqueItems" = true))]
    pub server_tags: Vec<String>,
    /// Name of the registry object, such as an EtcdServiceRegistry, that is asked for servers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_registry: String,
    /// Name of the service in the registry. Its servers come and go without a change of this document. When it has none that can be
    /// used, or `serverTags` takes none of them, `servers` are used.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_name: String,
    /// How a server is chosen. Default: in turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balance: Option<LoadBalanceSpec>,
    /// Where requests wait while each server has as many as `maxConcurrency` says, first come, first served. Default: nobody waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueSpec>,
    /// Time over which a server that comes, or comes back, gets its share by and by, from a tenth of it on. Not with policies that go by
    /// hashes. Default: it gets all of it at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<GoDuration>,
    /// Leave out for a while servers that fail. Default: those that cannot be connected to, as written there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetectionSpec>,
}

/// How many requests may be sent more than once, of those of the last seconds on a machine. Beyond it the first failure is the answer,
/// counted as `retry_budget`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryBudgetSpec {
    /// Share of all requests, in per cent. Default 20.
    #[schemars(range(max = 1000))]
    pub percent: u32,
    /// So many per second may be sent again whatever their share. Default 10.
    pub min_per_second: u32,
    /// How far is looked back, 1s to 60s. Default 10s.
    pub window: GoDuration,
}

impl Default for RetryBudgetSpec {
    fn default() -> Self {
        Self { percent: 20, min_per_second: 10, window: GoDuration::from_secs(10) }
    }
}

/// Asks a second server where the first takes long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HedgingSpec {
    /// How long the first server has alone. Choose what few answers take longer than, such as the 95th percentile. Default 100ms.
    pub delay: GoDuration,
    /// Most requests that are sent twice, in per cent of all; the pool's `retryBudget` counts besides. Beyond it the first server is waited
    /// for, counted as `hedges`. Default 10.
    #[schemars(range(min = 1, max = 100))]
    pub percent: u32,
}

impl Default for HedgingSpec {
    fn default() -> Self {
        Self { delay: GoDuration::from_millis(100), percent: 10 }
    }
}

/// Where requests wait for a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueSpec {
    /// Requests that wait at a time, over all workers of a machine; further ones get 503, counted as `server_queue`. Default 100.
    #[schemars(range(min = 1))]
    pub size: u32,
    /// How long one waits; then it gets 503, counted as `server_queue_time`. The pool's `timeout` begins when it has a server. Default 1s.
    pub timeout: GoDuration,
}

impl Default for QueueSpec {
    fn default() -> Self {
        Self { size: 100, timeout: GoDuration::from_secs(1) }
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Leaves out servers by what becomes of the requests they get (passive ejection).
///
/// Without this block a server is left out after 5 failed connects in a row. With it, answers of 500 and more, time-outs and broken
/// connections count as well. What is known of a server is shared by all pools that name it. One that could not be connected to is
/// probed in the background, from 0.1 s to 2 s apart, and is back as soon as a connect (with TLS, a handshake; over HTTP/2, a connection
/// that its server does not end at once) succeeds. One that failed what it was asked rests for `baseEjectionTime`; then, when it can be
/// connected to, a single request tries it, and if that fails the time doubles, up to 5 min.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetectionSpec {
    /// Failures in a row after which a server is left out; 1 or more. Default 5.
    #[schemars(range(min = 1))]
    pub consecutive_errors: u32,
    /// How long a server that failed what it was asked rests the first time. Default 10s.
    pub base_ejection_time: GoDuration,
    /// Most servers of the pool left out at a time, in per cent; the last one never is. 0: none ever is. Default 50.
    #[schemars(range(max = 100))]
    pub max_ejection_percent: u32,
    /// Least share of fit servers, in per cent: those that are neither left out nor failing. Below it, and whenever none is fit, nobody
    /// is left out, so that the few that are left are not buried (Envoy's healthy_panic_threshold). Default 0: when none is fit.
    #[schemars(range(max = 100))]
    pub panic_threshold: u32,
}

impl Default for OutlierDetectionSpec {
    fn default() -> Self {
        Self {
            consecutive_errors: 5,
            base_ejection_time: GoDuration::from_secs(10),
            max_ejection_percent: 50,
            panic_threshold: 0,
        }
    }
}

impl OutlierDetectionSpec {
    pub(crate) fn validate(&self, path: &str, findings: &mut Findings) {
        if self.consecutive_errors == 0 {
            let problem = Problem::new(at(path, "consecutiveErrors"), "every server would always be left out");
            findings.problem(problem.value(&0.into()).accepted("1 or more"));
        }
        if self.base_ejection_time.is_zero() {
            let problem = Problem::new(at(path, "baseEjectionTime"), "no server would ever be left out");
            findings.problem(
                problem
                    .value(&"0s".into())
                    .accepted("longer than 0s")
                    .advice("maxEjectionPercent: 0 turns ejection off"),
            );
        }
        for (field, percent) in
            [("maxEjectionPercent", self.max_ejection_percent), ("panicThreshold", self.panic_threshold)]
        {
            if percent > 100 {
                let problem = Problem::new(at(path, field), "out of range");
                findings.problem(problem.value(&percent.into()).accepted("0 to 100"));
            }
        }
        let least_fit = 100u32.saturating_sub(self.max_ejection_percent);
        if self.panic_threshold <= 100 && self.max_ejection_percent > 0 && self.panic_threshold > least_fit {
            let text = format!(
                "nobody is left out when fewer than {} % of the servers are fit, so that the {} % of maxEjectionPercent are never \
                 reached; {least_fit} or less would fit it",
                self.panic_threshold, self.max_ejection_percent
            );
            findings.warn(at(path, "panicThreshold"), text);
        }
    }
}

/// A server of a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["url"]))]
pub struct ServerSpec {
    /// Scheme, host, port and, if wanted, a path put before the request's: `http://10.0.0.1:9095`, `https://shop.test/api`.
    /// A Unix socket is written `unix:///run/app.sock` or, with a path, `http://unix:/run/app.sock:/api`.
    pub url: String,
    /// Words `serverTags` selects by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("uniqueItems" = true))]
    pub tags: Vec<String>,
    /// Its share with weightedRandom, leastRequest, peakEWMA and maglev, 0 to 100. Weights are given to all servers of a pool or to none. Default 0, all alike.
    #[schemars(range(min = 0, max = 100))]
    pub weight: u32,
    /// Send the client's Host even if the server has a name. Default false: a server with a name gets its own, one with an
    /// address gets the client's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_host: bool,
    /// Requests it has at a time, as the pool's `maxConcurrency` says. 0, the default: as the pool.
    #[serde(skip_serializing_if = "is_zero")]
    pub max_concurrency: u32,
    /// Speak HTTP/2 to it, as the pool's `http2` says. Default: as the pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2: Option<bool>,
    /// Speak HTTP/3 to it, as the pool's `http3` says. Default: as the pool, unless it has an `http2` of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http3: Option<bool>,
}

impl ServerSpec {
    /// Whether HTTP/3 is spoken to it, in a pool that says this.
    pub fn speaks_http3(&self, pool: bool) -> bool {
        self.http3.unwrap_or(pool && self.http2.is_none())
    }
}

/// Selects the requests a pool is for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestMatcherSpec {
    /// `general` (default): by headers, cookies and URLs; `ipHash`, `headerHash`, `cookieHash`, `random`: a share of all requests, see
    /// `permil`.
    pub policy: String,
    /// Headers that must match, with `general`. They or `cookies` are needed there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, StringMatcher>,
    /// Cookies that must match, with `general`, as headers must; one that is absent counts as empty.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cookies: BTreeMap<String, StringMatcher>,
    /// Whether all of `headers` and `cookies` must match, instead of any one. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub match_all_headers: bool,
    /// Methods and paths of which one must match as well, with `general`. Default: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<UrlRule>,
    /// The share in thousandths, 1 to 1000, with the other policies. Who is in a share is in every larger one.
    #[schemars(range(max = 1000))]
    pub permil: u32,
    /// Header that is hashed, with `headerHash`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub header_hash_key: String,
    /// Cookie that is hashed, with `cookieHash`; of who has none the address is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cookie_hash_key: String,
}

/// How the pools without filter that have a `weight` divide requests among themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SplitSpec {
    /// `random` (default): each request anew; `ipHash`, `headerHash`, `cookieHash`: by the client's address, a header or a cookie, so that
    /// a user stays in a pool and few change theirs when weights do.
    pub policy: String,
    /// Header that is hashed, with `headerHash`; of who has none the address is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub header_hash_key: String,
    /// Cookie that is hashed, with `cookieHash`; of who has none the address is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cookie_hash_key: String,
}

/// Remembers responses: what was asked for with the same method and URL, query included, and with the same fields that the response's
/// `Vary` names, is answered from memory.
///
/// A request with a body, with `Range`, or with `Cache-Control: no-cache` or `no-store` goes to a server. A response is not kept that
/// says `no-store`, `no-cache`, `must-revalidate` or `private`, sets a cookie, answers an `Authorization` without saying that it is for
/// others as well (`public`, `s-maxage`), or has an `Access-Control-Allow-Origin` other than `*`; nor a stream, of events or of a pool
/// whose `serverMaxBodySize` is negative. All that a pool keeps takes 64 MiB at most, what is asked for least makes room. The filter
/// `Cache` obeys what responses say of their freshness (RFC 9111).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["expiration", "maxEntryBytes", "codes", "methods"]))]
pub struct MemoryCacheSpec {
    /// How long a response is used, whatever it says of its freshness; longer than 0s.
    pub expiration: GoDuration,
    /// Largest response that is kept, in bytes of its body; 1 or more.
    #[schemars(range(min = 1))]
    pub max_entry_bytes: u32,
    /// Status codes that are kept. Never 206 and 304, which are answers to one client.
    #[schemars(extend("uniqueItems" = true))]
    pub codes: Vec<HttpCode>,
    /// Methods whose responses are kept.
    #[schemars(extend("uniqueItems" = true))]
    pub methods: Vec<String>,
}

/// Packs answers with gzip as they pass, for clients whose Accept-Encoding takes it (RFC 9110 section 12.5.3; one that sends none gets
/// them plain). Left alone is what has a coding already, says `no-transform`, is no whole body (204, 206, 304), or is of a type that
/// gains nothing: pictures, sound, films, archives, web fonts, gRPC. The answer to HEAD then announces no length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CompressionSpec {
    /// Smallest body that is packed, in bytes before packing; one of unknown length counts as long enough. Default 0.
    pub min_length: u32,
}

/// TLS towards servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MtlsSpec {
    /// Certificate shown to servers, base64 or PEM. Goes with `keyBase64`.
    pub cert_base64: String,
    /// Its private key.
    #[schemars(extend("x-secret" = true))]
    pub key_base64: String,
    /// Authorities servers must be signed by, base64 or PEM. Default: the system's.
    pub root_cert_base64: String,
    /// Accept any server certificate. Default false.
    pub insecure_skip_verify: bool,
    /// The name that servers are asked for (SNI) and that their certificates have to be for: `orders.test`. Default: of each the host in
    /// its URL, or as its registry has it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub server_name: String,
    /// Certificates of servers have to have one of these names, instead of the one that is asked for: a DNS name, or a URI
    /// (`spiffe://cluster.test/ns/shop/sa/orders`). Default: the one that is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("uniqueItems" = true))]
    pub subject_alt_names: Vec<String>,
}

/// Which servers a pool may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerScheme {
    /// `http://` and `https://`.
    Http,
    /// The same, and gRPC is spoken.
    Grpc,
    /// `ws://` and `wss://`.
    WebSocket,
}

impl ServerScheme {
    /// What such servers are probed with where the document does not say.
    pub fn probe(self) -> ProbeType {
        match self {
            ServerScheme::Http | ServerScheme::WebSocket => ProbeType::Http,
            ServerScheme::Grpc => ProbeType::Grpc,
        }
    }
}

/// Where a server is: the parsed form of [`ServerSpec::url`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerUrl {
    /// In lower case.
    pub scheme: String,
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// The one given, or the scheme's.
    pub port: u16,
    /// Whether the URL named the port.
    pub explicit_port: bool,
    /// What is put before the request's path; without a trailing `/`, often empty.
    pub path: String,
    /// The Unix socket it listens on, instead of a host and port; the host then is `localhost`.
    pub socket: Option<String>,
}

/// Longest path of a Unix socket, in bytes: `sun_path` less its end.
const SOCKET_PATH_MAX: usize = 107;

impl ServerUrl {
    pub fn is_tls(&self) -> bool {
        matches!(self.scheme.as_str(), "https" | "wss")
    }

    /// The host as it stands in a Host header.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.explicit_port { format!("{host}:{}", self.port) } else { host }
    }

    pub fn ip(&self) -> Option<std::net::IpAddr> {
        self.host.parse().ok()
    }

    fn unix(socket: &str, path: &str) -> Result<Self, String> {
        if !socket.starts_with('/') || socket.ends_with('/') {
            return Err("no path of a socket; write it as unix:///run/app.sock".to_owned());
        }
        if socket.len() > SOCKET_PATH_MAX {
            return Err(format!("the path of a socket has at most {SOCKET_PATH_MAX} bytes"));
        }
        if path.contains(['?', '#']) {
            return Err("a server has no query or fragment; remove them".to_owned());
        }
        Ok(Self {
            scheme: "http".to_owned(),
            host: "localhost".to_owned(),
            port: 80,
            explicit_port: false,
            path: path.trim_end_matches('/').to_owned(),
            socket: Some(socket.to_owned()),
        })
    }
}

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("no scheme; write it as http://host:port".to_owned());
        };
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err("a URL has no spaces".to_owned());
        }
        let scheme = scheme.to_ascii_lowercase();
        if scheme == "unix" {
            return Self::unix(rest, "");
        }
        if let Some(socket) = rest.strip_prefix("unix:").filter(|s| s.starts_with('/')) {
            if scheme != "http" {
                return Err(format!("{scheme} is not spoken over a Unix socket; write http://unix:/path"));
            }
            let (socket, path) = socket.split_once(':').unwrap_or((socket, ""));
            if !path.is_empty() && !path.starts_with('/') {
                return Err("what follows the socket is a path; write http://unix:/run/app.sock:/path".to_owned());
            }
            return Self::unix(socket, path);
        }
        let default_port = match scheme.as_str() {
            "http" | "ws" => 80,
            "https" | "wss" => 443,
            other => return Err(format!("the scheme {other} is not spoken; write http://, https:// or unix://")),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if path.contains(['?', '#']) {
            return Err("a server has no query or fragment; remove them".to_owned());
        }
        if authority.contains('@') {
            return Err("a server has no user; send an Authorization header instead".to_owned());
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or("the bracket of the IPv6 address is not closed")?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| format!("{host} is not an IPv6 address"))?;
                (host, after.strip_prefix(':').or_else(|| (!after.is_empty()).then_some("?")))
            }
            None => match authority.rsplit_once(':') {
                Some((host, _)) if host.contains(':') => {
                    return Err("put an IPv6 address in brackets: http://[::1]:80".to_owned());
                }
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if host.is_empty() {
            return Err("no host; write it as http://host:port".to_owned());
        }
        let in_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
        if !authority.starts_with('[') && !host.chars().all(in_name) {
            return Err(format!("{host} is not a host"));
        }
        let explicit = match port {
            None | Some("") => None,
            Some(port) => Some(port.parse::<u16>().ok().filter(|p| *p > 0).ok_or("the port goes from 1 to 65535")?),
        };
        Ok(Self {
            scheme,
            host: host.to_owned(),
            port: explicit.unwrap_or(default_port),
            explicit_port: explicit.is_some(),
            path: path.trim_end_matches('/').to_owned(),
            socket: None,
        })
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(socket) = &self.socket {
            return match self.path.as_str() {
                "" => write!(f, "unix://{socket}"),
                path => write!(f, "http://unix:{socket}:{path}"),
            };
        }
        write!(f, "{}://{}{}", self.scheme, self.authority(), self.path)
    }
}

impl ProxySpec {
    /// The pool without a filter. There is one in every valid spec.
    pub fn main_pool(&self) -> Option<&PoolSpec> {
        self.pools.iter().find(|pool| pool.filter.is_none())
    }

    /// The pools that get copies, and where each is written.
    pub fn mirrors(&self) -> impl Iterator<Item = (String, &PoolSpec)> {
        let further = self.mirror_pools.iter().enumerate().map(|(n, pool)| (nth("mirrorPools", n), pool));
        self.mirror_pool.iter().map(|pool| ("mirrorPool".to_owned(), pool)).chain(further)
    }

    /// Every pool that it has.
    pub fn all_pools(&self) -> impl Iterator<Item = &PoolSpec> {
        self.pools.iter().chain(&self.mirror_pool).chain(&self.mirror_pools)
    }

    pub fn validate(&self, path: &str, findings: &mut Findings) {
        PoolSpec::validate_all(&self.pools, &at(path, "pools"), ServerScheme::Http, findings);
        if let Some(split) = &self.split {
            split.validate(&at(path, "split"), findings);
            if self.pools.iter().filter(|pool| pool.filter.is_none()).count() < 2 {
                findings.warn(at(path, "split"), "has no effect: there are no two pools without filter");
            }
        }
        for (place, mirror) in self.mirrors() {
            let place = at(path, &place);
            if mirror.filter.is_none() {
                let problem = Problem::new(at(&place, "filter"), "missing");
                findings.problem(problem.advice("say which requests are copied, e.g. {policy: random, permil: 1000}"));
            }
            if mirror.memory_cache.is_some() {
                let problem = Problem::new(at(&place, "memoryCache"), "answers of a mirror are dropped, not kept");
                findings.problem(problem.advice("remove it"));
            }
            mirror.warn_of_answers(&place, findings);
            mirror.validate(&place, ServerScheme::Http, findings);
        }
        if self.max_redirection > 20 {
            findings.warn(at(path, "maxRedirection"), "20 are followed at most");
        }
        if let Some(mtls) = &self.mtls {
            let place = at(path, "mtls");
            let urls = self.all_pools().flat_map(|pool| &pool.servers);
            if !urls.map(|server| server.url.as_str()).any(|url| url.starts_with("https:")) {
                findings.warn(&place, "has no effect: no server is https://");
            }
            mtls.validate(&place, findings);
        }
    }
}

impl ProxySpec {
    /// Refuses certificates of `mtls` that cannot be used, each under the name of its field, and notes in `dates` what is not valid at
    /// `now`. For documents that come in; what is stored already is used whatever the date.
    pub fn check_certificates(&self, path: &str, now: SystemTime, dates: &mut Dates, findings: &mut Findings) {
        if let Some(mtls) = &self.mtls {
            mtls.check_certificates(&at(path, "mtls"), now, dates, findings);
        }
    }
}

/// A DNS name without wildcards, or an address without brackets.
fn is_server_name(text: &str) -> bool {
    let fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.parse::<std::net::IpAddr>().is_ok() || text.len() <= 253 && text.split('.').all(fits)
}

impl MtlsSpec {
    /// What can be said without reading certificates.
    pub fn validate(&self, path: &str, findings: &mut Findings) {
        if self.cert_base64.is_empty() != self.key_base64.is_empty() {
            findings.problem(Problem::new(path, "certBase64 and keyBase64 go together").advice("give both or none"));
        }
        if !self.server_name.is_empty() && !is_server_name(&self.server_name) {
            let problem =
                Problem::new(at(path, "serverName"), "no name of a server").value(&self.server_name.as_str().into());
            findings.problem(problem.advice("write a DNS name or an address, such as orders.test"));
        }
        for (n, name) in self.subject_alt_names.iter().enumerate() {
            let is_uri = name.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
            if !is_uri && !is_server_name(name) {
                let place = nth(&at(path, "subjectAltNames"), n);
                let problem = Problem::new(place, "neither a DNS name nor a URI").value(&name.as_str().into());
                findings.problem(problem.advice("write orders.test or spiffe://cluster.test/ns/shop/sa/orders"));
            }
        }
        let named = !self.server_name.is_empty() || !self.subject_alt_names.is_empty();
        if self.insecure_skip_verify && !self.subject_alt_names.is_empty() {
            findings.warn(at(path, "subjectAltNames"), "has no effect: insecureSkipVerify takes any certificate");
        } else if self.insecure_skip_verify && named {
            findings
                .warn(at(path, "serverName"), "certificates are not compared with it: insecureSkipVerify takes any");
        }
    }

    pub(crate) fn check_certificates(&self, path: &str, now: SystemTime, dates: &mut Dates, findings: &mut Findings) {
        // One without the other is refused already.
        let field = |part| at(path, MtlsSpec::field_of(part));
        if !self.cert_base64.is_empty() && !self.key_base64.is_empty() {
            match Certificate::read_undated(&self.cert_base64, &self.key_base64) {
                Ok(certificate) => dates.note_all(&field(Part::Chain), certificate.untimely(now)),
                Err(error) => findings.problem(Problem::new(field(error.part), error.text)),
            }
        }
        if !self.root_cert_base64.is_empty() {
            match read_authorities_undated(&self.root_cert_base64) {
                Ok(authorities) => {
                    dates.note_all(&field(Part::Authorities), untimely_authorities(&authorities, now));
                }
                Err(error) => findings.problem(Problem::new(field(error.part), error.text)),
            }
        }
    }

    /// The field that an error about a part of it is reported under.
    pub fn field_of(part: Part) -> &'static str {
        match part {
            Part::Chain => "certBase64",
            Part::Key => "keyBase64",
            Part::Authorities => "rootCertBase64",
        }
    }
}

impl PoolSpec {
    /// The pools of a filter: each, and that one of them takes what the others do not.
    pub fn validate_all(pools: &[PoolSpec], path: &str, scheme: ServerScheme, findings: &mut Findings) {
        let mains: Vec<usize> =
            pools.iter().enumerate().filter(|(_, pool)| pool.filter.is_none()).map(|(i, _)| i).collect();
        match mains.as_slice() {
            [_] => {}
            [] if pools.is_empty() => {
                findings.problem(Problem::new(path, "is empty").advice("list one pool with servers"));
            }
            [] => findings.problem(
                Problem::new(path, "every pool has a filter")
                    .advice("leave it out of one, which takes what the others do not"),
            ),
            [first, ..] if mains.iter().all(|i| pools[*i].weight.is_some()) => {
                if mains.iter().all(|i| pools[*i].weight == Some(0)) {
                    let problem = Problem::new(at(&nth(path, *first), "weight"), "no pool without filter has a weight");
                    findings.problem(problem.value(&0.into()).advice("give one of them 1 or more"));
                }
            }
            [first, rest @ ..] => {
                for i in rest {
                    let problem =
                        Problem::new(nth(path, *i), format!("a second pool without filter, after pools[{first}]"));
                    findings.problem(problem.advice("give it a filter, give each a weight, or join the two"));
                }
            }
        }
        for (i, pool) in pools.iter().enumerate() {
            pool.validate(&nth(path, i), scheme, findings);
            if pool.weight.is_some() && (pool.filter.is_some() || mains.len() == 1) {
                let why = if pool.filter.is_some() {
                    "its filter says what it gets"
                } else {
                    "it is the only pool without filter"
                };
                findings.warn(at(&nth(path, i), "weight"), format!("has no effect: {why}"));
            }
        }
    }

    pub fn validate(&self, path: &str, scheme: ServerScheme, findings: &mut Findings) {
        if !self.members.service_registry.is_empty() && self.members.service_name.is_empty() {
            findings.warn(at(path, "serviceRegistry"), "has no effect without serviceName");
        }
        let policy = self.members.load_balance.as_ref().map_or("", |balance| balance.policy.as_str());
        let ring = self.members.load_balance.as_ref().and_then(|balance| balance.sticky_session.as_ref());
        let weighs = WEIGHTED_POLICIES.contains(&policy) || ring.is_some_and(|s| s.mode == "CookieConsistentHash");
        if !weighs && self.servers.iter().any(|server| server.weight > 0) {
            let text = "weights have no effect: only loadBalance.policy weightedRandom, leastRequest, peakEWMA and maglev look at them";
            findings.warn(at(path, "servers"), text);
        }
        if self.servers.is_empty() && self.members.service_name.is_empty() {
            let problem = Problem::new(path, "no servers");
            findings.problem(problem.advice("list servers, or give serviceRegistry and serviceName"));
        }
        if !self.members.service_name.is_empty() && self.members.service_registry.is_empty() {
            if self.servers.is_empty() {
                let problem = Problem::new(at(path, "serviceRegistry"), "missing beside serviceName");
                findings.problem(problem.advice("name the registry, or list servers"));
            } else {
                findings.warn(at(path, "serviceName"), "has no effect without serviceRegistry; servers are used");
            }
        }
        let old = at(&at(path, "loadBalance"), "healthCheck");
        let is_old = self.members.load_balance.as_ref().is_some_and(|balance| balance.health_check.is_some());
        let places = [(self.health_check.is_some(), at(path, "healthCheck")), (is_old, old.clone())];
        for (_, place) in places.into_iter().filter(|(given, _)| *given && self.service().is_some()) {
            let problem = Problem::new(place, "not together with serviceName");
            findings.problem(problem.advice("remove it: the registry says who is well"));
        }
        if is_old && self.health_check.is_some() {
            findings.warn(old, "has no effect beside the pool's own healthCheck, whose old place it is");
        }
        self.validate_servers(&at(path, "servers"), scheme, findings);
        if self.connect_timeout.is_some_and(|t| t.is_zero()) {
            let problem = Problem::new(at(path, "connectTimeout"), "no connection could be made");
            findings.problem(problem.value(&"0s".into()).accepted("longer than 0s"));
        }
        self.proxy_protocol.check_pool(path, findings);
        if !self.proxy_protocol.is_off() {
            let server = self.servers.iter().position(|server| server.http2 == Some(true));
            let places = [
                (self.http2 == Some(true)).then(|| at(path, "http2")),
                server.map(|i| at(&nth(&at(path, "servers"), i), "http2")),
            ];
            for place in places.into_iter().flatten() {
                let problem = Problem::new(place, "not together with proxyProtocol").value(&true.into());
                findings
                    .problem(problem.advice("a connection of HTTP/2 carries requests of many clients, and names one"));
            }
        }
        self.validate_http3(path, findings);
        if let Some(outliers) = &self.members.outlier_detection {
            outliers.validate(&at(path, "outlierDetection"), findings);
        }
        self.validate_room(policy, path, findings);
        if let Some(adaptive) = &self.adaptive_concurrency {
            adaptive.validate(&at(path, "adaptiveConcurrency"), findings);
        }
        if let Some(balance) = &self.members.load_balance {
            balance.validate(&at(path, "loadBalance"), findings);
            if let Some(check) = &balance.health_check {
                check.validate(scheme.probe(), &at(&at(path, "loadBalance"), "healthCheck"), findings);
            }
        }
        if let Some(filter) = &self.filter {
            filter.validate(&at(path, "filter"), findings);
        }
        if let Some(cache) = &self.memory_cache {
            let place = at(path, "memoryCache");
            check_methods(&cache.methods, &at(&place, "methods"), findings);
            if cache.expiration.nanos() <= 0 {
                let problem = Problem::new(at(&place, "expiration"), "nothing would be kept");
                findings.problem(problem.accepted("longer than 0s"));
            }
            if self.server_max_body_size < 0 {
                findings.warn(&place, "has no effect: with a negative serverMaxBodySize responses are streams");
            }
            for (name, empty) in [("codes", cache.codes.is_empty()), ("methods", cache.methods.is_empty())] {
                if empty {
                    findings.problem(
                        Problem::new(at(&place, name), "is empty").advice("nothing would be kept; list at least one"),
                    );
                }
            }
        }
        if let Some(check) = &self.health_check {
            check.validate(scheme.probe(), &at(path, "healthCheck"), findings);
        }
    }

    fn validate_http3(&self, path: &str, findings: &mut Findings) {
        let servers = at(path, "servers");
        let mut refuse = |place: String, why: &str, advice: &str| {
            findings.problem(Problem::new(place, why).value(&true.into()).advice(advice));
        };
        if self.http3 && self.http2 == Some(true) {
            refuse(at(path, "http3"), "not together with http2", "choose one of the two");
        }
        for (i, server) in self.servers.iter().enumerate() {
            let own = at(&nth(&servers, i), "http3");
            if server.http3 == Some(true) && server.http2 == Some(true) {
                refuse(own, "not together with http2", "choose one of the two");
                continue;
            }
            if !server.speaks_http3(self.http3) {
                continue;
            }
            let place = if server.http3.is_some() { own } else { at(path, "http3") };
            if !self.proxy_protocol.is_off() {
                let advice = "a connection of HTTP/3 carries requests of many clients, and names none";
                refuse(place, "not together with proxyProtocol", advice);
            } else if let Ok(url) = server.url.parse::<ServerUrl>() {
                if url.socket.is_some() {
                    let why = format!("{} is a Unix socket, and HTTP/3 goes over UDP", server.url);
                    refuse(place, &why, "give it a host and a port, or http3: false");
                } else if !url.is_tls() {
                    let why = format!("{} is not encrypted, and HTTP/3 always is", server.url);
                    refuse(place, &why, "write https://, or http3: false for this server");
                }
            }
        }
    }

    fn validate_room(&self, policy: &str, path: &str, findings: &mut Findings) {
        if let Some(queue) = &self.members.queue {
            let place = at(path, "queue");
            if queue.size == 0 {
                let problem = Problem::new(at(&place, "size"), "nobody could wait").value(&0.into());
                findings.problem(problem.accepted("1 or more").advice("remove queue to refuse at once"));
            }
            if queue.timeout.is_zero() {
                let problem = Problem::new(at(&place, "timeout"), "nobody could wait").value(&"0s".into());
                findings.problem(problem.accepted("longer than 0s").advice("remove queue to refuse at once"));
            }
            if self.max_concurrency == 0 && self.servers.iter().all(|server| server.max_concurrency == 0) {
                findings.warn(place, "has no effect: no server has a maxConcurrency");
            }
        }
        if let Some(budget) = &self.retry_budget {
            let seconds = std::time::Duration::from(budget.window);
            if !(1..=60).contains(&seconds.as_secs()) {
                let problem = Problem::new(at(&at(path, "retryBudget"), "window"), "out of range");
                findings.problem(problem.text(&budget.window.to_string()).accepted("1s to 60s"));
            }
            if self.retry_policy.is_empty() && self.hedging.is_none() {
                findings.warn(at(path, "retryBudget"), "has no effect: the pool has neither retryPolicy nor hedging");
            }
        }
        if let Some(hedging) = &self.hedging {
            let place = at(path, "hedging");
            if hedging.delay.is_zero() {
                let problem =
                    Problem::new(at(&place, "delay"), "every request would be sent twice").value(&"0s".into());
                findings.problem(problem.accepted("longer than 0s"));
            }
            if self.servers.len() == 1 && self.service().is_none() {
                findings.warn(place, "has no effect: there is no second server");
            }
        }
        if self.members.slow_start.is_some_and(|window| window.is_zero()) {
            findings.warn(at(path, "slowStart"), "has no effect: 0s is at once");
        }
        if self.members.slow_start.is_some() && matches!(policy, "ipHash" | "headerHash" | "cookieHash" | "maglev") {
            let text = format!("has no effect: {policy} leads clients to their servers, new ones or not");
            findings.warn(at(path, "slowStart"), text);
        }
    }

    /// The registry that is asked for servers, and the service there.
    pub fn service(&self) -> Option<(&str, &str)> {
        let named = !self.members.service_registry.is_empty() && !self.members.service_name.is_empty();
        named.then_some((&*self.members.service_registry, &*self.members.service_name))
    }

    /// What its servers are probed with: the pool's own word before that of the old place.
    pub fn health_check(&self) -> Option<&HealthCheckSpec> {
        self.health_check.as_ref().or_else(|| self.members.load_balance.as_ref()?.health_check.as_ref())
    }

    /// A mirror's answers are dropped, and so is whatever would be made of them.
    fn warn_of_answers(&self, path: &str, findings: &mut Findings) {
        let idle = [
            ("weight", self.weight.is_some(), "its filter says what is copied"),
            ("setUpstreamHost", self.set_upstream_host, "a copy has the Host of its request"),
            ("serverMaxBodySize", self.server_max_body_size != 0, "answers of a mirror are dropped"),
            ("timeout", self.timeout.is_some(), "a copy has 30s"),
            ("adaptiveConcurrency", self.adaptive_concurrency.is_some(), "copies wait for nobody"),
            ("retryPolicy", !self.retry_policy.is_empty(), "copies are sent once"),
            ("hedging", self.hedging.is_some(), "copies are sent once"),
            (
                "circuitBreakerPolicy",
                !self.circuit_breaker_policy.is_empty(),
                "copies are sent whatever became of others",
            ),
            ("failureCodes", !self.failure_codes.is_empty(), "answers of a mirror are dropped"),
        ];
        for (field, _, why) in idle.iter().filter(|(_, given, _)| *given) {
            findings.warn(at(path, field), format!("has no effect: {why}"));
        }
    }

    fn validate_servers(&self, path: &str, scheme: ServerScheme, findings: &mut Findings) {
        let weighted = self.servers.iter().filter(|server| server.weight > 0).count();
        let twins: HashMap<usize, usize> = repeats(self.servers.iter().map(|server| &server.url)).collect();
        for (i, server) in self.servers.iter().enumerate() {
            let place = nth(path, i);
            match server.url.parse::<ServerUrl>() {
                Err(why) => findings.problem(Problem::new(at(&place, "url"), why).text(&server.url)),
                Ok(url) => {
                    let accepted: &[&str] = match scheme {
                        ServerScheme::Http | ServerScheme::Grpc => &["http", "https"],
                        ServerScheme::WebSocket => &["ws", "wss"],
                    };
                    if !accepted.contains(&url.scheme.as_str()) {
                        let problem =
                            Problem::new(at(&place, "url"), format!("the scheme {} does not fit here", url.scheme));
                        findings.problem(problem.text(&server.url).accepted(one_of(accepted)));
                    }
                }
            }
            if weighted > 0 && server.weight == 0 {
                let problem = Problem::new(at(&place, "weight"), "missing: other servers of the pool have one");
                findings.problem(problem.advice("give every server a weight of 1 or more, or none of them"));
            }
            if let Some(twin) = twins.get(&i) {
                findings
                    .warn(at(&place, "url"), format!("the same server as servers[{twin}]: it gets twice the share"));
            }
        }
    }
}

impl SplitSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        let keys = [
            ("headerHash", "headerHashKey", &self.header_hash_key),
            ("cookieHash", "cookieHashKey", &self.cookie_hash_key),
        ];
        if !matches!(self.policy.as_str(), "" | "random" | "ipHash" | "headerHash" | "cookieHash") {
            let problem = Problem::new(at(path, "policy"), "not one of the accepted words").text(&self.policy);
            findings.problem(problem.accepted("random, ipHash, headerHash or cookieHash"));
        }
        for (policy, field, key) in keys {
            if self.policy == policy && key.is_empty() {
                findings.problem(Problem::new(at(path, field), format!("missing: policy is {policy}")));
            } else if self.policy != policy && !key.is_empty() {
                findings.warn(at(path, field), format!("has no effect: only policy {policy} looks at it"));
            }
        }
    }
}

impl RequestMatcherSpec {
    pub fn validate(&self, path: &str, findings: &mut Findings) {
        match self.policy.as_str() {
            "" | "general" => {
                if self.headers.is_empty() && self.cookies.is_empty() {
                    let problem = Problem::new(at(path, "headers"), "missing");
                    findings.problem(
                        problem.advice("name a header to match, or choose policy ipHash, headerHash or random"),
                    );
                }
            }
            policy @ ("ipHash" | "headerHash" | "cookieHash" | "random") => {
                if !(1..=1000).contains(&self.permil) {
                    let problem = Problem::new(at(path, "permil"), format!("out of range for policy {policy}"));
                    findings.problem(problem.value(&self.permil.into()).accepted("1 to 1000"));
                }
                if policy == "headerHash" && self.header_hash_key.is_empty() {
                    findings.problem(
                        Problem::new(at(path, "headerHashKey"), "missing: policy is headerHash")
                            .advice("name the header"),
                    );
                }
                if policy == "cookieHash" && self.cookie_hash_key.is_empty() {
                    let problem = Problem::new(at(path, "cookieHashKey"), "missing: policy is cookieHash");
                    findings.problem(problem.advice("name the cookie"));
                }
            }
            other => {
                let problem = Problem::new(at(path, "policy"), "not one of the accepted words").text(other);
                findings.problem(problem.accepted("general, ipHash, headerHash, cookieHash or random"));
            }
        }
        let general = matches!(self.policy.as_str(), "" | "general");
        let idle = [
            ("headers", !general && !self.headers.is_empty(), "general"),
            ("cookies", !general && !self.cookies.is_empty(), "general"),
            ("cookieHashKey", self.policy != "cookieHash" && !self.cookie_hash_key.is_empty(), "cookieHash"),
            ("matchAllHeaders", !general && self.match_all_headers, "general"),
            ("urls", !general && !self.urls.is_empty(), "general"),
            ("permil", general && self.permil > 0, "ipHash, headerHash, cookieHash or random"),
            ("headerHashKey", self.policy != "headerHash" && !self.header_hash_key.is_empty(), "headerHash"),
        ];
        for (field, _, policy) in idle.iter().filter(|(_, given, _)| *given) {
            findings.warn(at(path, field), format!("has no effect: only policy {policy} looks at it"));
        }
        for (name, matcher) in &self.headers {
            matcher.validate(&at(&at(path, "headers"), name), findings);
        }
        for (name, matcher) in &self.cookies {
            matcher.validate(&at(&at(path, "cookies"), name), findings);
        }
        for (i, rule) in self.urls.iter().enumerate() {
            if !rule.policy_ref.is_empty() {
                let place = at(&nth(&at(path, "urls"), i), "policyRef");
                findings.warn(place, "has no effect: only the urls of a RateLimiter have policies");
            }
            rule.validate(&nth(&at(path, "urls"), i), findings);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_outlier_detection_are_per_cent_and_fit_each_other() {
        // maxEjectionPercent, panicThreshold, fields with problems, warnings.
        for (most, threshold, problems, warnings) in [
            (50, 0, &[][..], 0),
            (50, 50, &[][..], 0),
            (100, 0, &[][..], 0),
            (50, 51, &[][..], 1),
            (0, 100, &[][..], 0),
            (50, 101, &["o.panicThreshold"][..], 0),
            (101, 0, &["o.maxEjectionPercent"][..], 0),
        ] {
            let spec = OutlierDetectionSpec {
                max_ejection_percent: most,
                panic_threshold: threshold,
                ..OutlierDetectionSpec::default()
            };
            let mut findings = Findings::default();
            spec.validate("o", &mut findings);
            let paths: Vec<&str> = findings.problems.iter().map(|p| p.path.as_str()).collect();
            assert_eq!((paths.as_slice(), findings.warnings.len()), (problems, warnings), "{most} {threshold}");
        }
    }

    #[test]
    fn http3_is_spoken_to_servers_that_can() {
        let server =
            |url: &str, http2, http3| ServerSpec { url: url.to_owned(), http2, http3, ..ServerSpec::default() };
        let (tls, plain) = ("https://a.test", "http://a.test");
        // The pool's own two, and its servers; where that is refused.
        for (http3, http2, servers, place) in [
            (true, None, vec![server(tls, None, None)], ""),
            (false, None, vec![server(plain, None, None), server(tls, None, Some(true))], ""),
            (true, None, vec![server(plain, None, Some(false)), server(tls, Some(true), None)], ""),
            (true, None, vec![server(plain, Some(true), None)], ""),
            (true, None, vec![server(plain, None, None)], "p.http3"),
            (false, None, vec![server(plain, None, Some(true))], "p.servers[0].http3"),
            (true, None, vec![server("unix:///run/a.sock", None, None)], "p.http3"),
            (true, Some(true), vec![server(tls, None, None)], "p.http3"),
            (true, Some(false), vec![server(tls, None, None)], ""),
            (false, None, vec![server(tls, Some(true), Some(true))], "p.servers[0].http3"),
        ] {
            let told = format!("{http3} {http2:?} {servers:?}");
            let mut findings = Findings::default();
            PoolSpec { http3, http2, servers, ..PoolSpec::default() }.validate("p", ServerScheme::Http, &mut findings);
            let places: Vec<&str> = findings.problems.iter().map(|problem| problem.path.as_str()).collect();
            let expected: Vec<&str> = Some(place).filter(|place| !place.is_empty()).into_iter().collect();
            assert_eq!(places, expected, "{told}");
        }
        let pool = PoolSpec {
            http3: true,
            proxy_protocol: ProxyProtocol::V2,
            servers: vec![server(tls, None, None)],
            ..PoolSpec::default()
        };
        let mut findings = Findings::default();
        pool.validate("p", ServerScheme::Http, &mut findings);
        assert_eq!(findings.problems.len(), 1, "{:?}", findings.problems);
    }
}
