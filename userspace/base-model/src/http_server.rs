//! `kind: HTTPServer`: a listener and its routes.
//!
//! ```yaml
//! name: server-demo
//! kind: HTTPServer
//! port: 10080
//! rules:
//! - paths:
//!   - pathPrefix: /pipeline
//!     backend: pipeline-demo
//! ```

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use certificates::{CertificateText, NamedCertificate, TlsTexts};

use crate::duration::GoDuration;
use crate::ip_filter::{Cidr, IpFilterSpec};
use crate::listener;
use crate::problem::{Findings, Problem, at, nth};
use crate::proxy::{PoolSpec, ServerScheme};
use crate::proxy_protocol::ProxyProtocol;
use crate::repeats::repeats;
use crate::string_matcher::check_regexp;
use crate::tracing::TracingSpec;
use crate::words::check_methods;

mod certificates;

/// A listener for HTTP and the routes of its requests to pipelines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["port"]))]
pub struct HttpServerSpec {
    /// Address to listen on, IPv4 or IPv6. Default: every address, and every VirtualIP that has the port.
    pub address: String,
    /// Port to listen on, 1 to 65535. A change re-listens; connections of the old port drain.
    pub port: u16,
    /// Serve HTTP/3 over QUIC as well, on UDP with the same port number; answers over TCP say so (`Alt-Svc`). Needs `https`. Default
    /// false. A UDP port that cannot be opened makes the server `failed` with the reason, while TCP serves, and is tried again. Datagrams
    /// of tunnels (`connect-udp`, `connect-ip`) go beside their streams (RFC 9297); those that find no room, or fit into no packet, are
    /// lost, and counted as `h3_datagrams`.
    pub http3: bool,
    /// With `http3`: serve HTTP/3 alone, without TCP, as Easegress does. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub http3_only: bool,
    /// With `http3`: take what clients that come back send before their handshake is over (0-RTT). Such requests can be sent once more by
    /// whoever has seen them, so only GET, HEAD, OPTIONS and TRACE without a body are served at once, where no rule and no AccessList goes
    /// by addresses and all filters are ones that count nobody and sign nobody in; backends are told (`Early-Data: 1`) and may answer 425,
    /// which the client repeats. All others wait until the handshake is over. Sessions of HTTP/3, 16,384 at most, are then taken up
    /// once each, on the machine and by the process that has them; on others, and after a change of certificates, handshakes are full. With
    /// `trustedProxies` all wait. What backends are told of the client's address is not shown yet. Not with `caCertBase64`. Default false; a
    /// change is for new connections.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub early_data: bool,
    /// Offer HTTP/2 to clients that come with TLS (ALPN `h2` before `http/1.1`). Default true; a change is for new connections.
    #[serde(skip_serializing_if = "is_on")]
    pub http2: bool,
    /// Speak HTTP/2 without TLS with clients that begin with its preface (prior knowledge), beside HTTP/1. Not with `https`. Default
    /// false: the preface gets 505. An `Upgrade: h2c` is never taken.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub h2c: bool,
    /// Serve TLS. Needs `certBase64` with `keyBase64`, `certs` with `keys`, or `autoCert`. Default false.
    pub https: bool,
    /// Show certificates of the AutoCertManager by server name; own ones are used where it has none. Default false.
    pub auto_cert: bool,
    /// One certificate chain: base64 of PEM, or PEM. Goes with `keyBase64`.
    pub cert_base64: String,
    /// The private key of `certBase64`.
    #[schemars(extend("x-secret" = true))]
    pub key_base64: String,
    /// Certificate chains by name, base64 or PEM; the client's server name selects. Each needs a key of the same name.
    pub certs: BTreeMap<String, String>,
    /// Private keys by the names in `certs`.
    #[schemars(extend("x-secret" = true))]
    pub keys: BTreeMap<String, Secret>,
    /// Authorities, base64 or PEM, one of which must have signed the certificate a client then has to present. Default: none asked for.
    pub ca_cert_base64: String,
    /// With `https`: hosts that connections are kept apart by, each a name, `*.shop.test` for all names that end so, or `*` for the rest. A
    /// request for one of them that comes over a connection made for another, by the server name (SNI) its client asked for, gets 421 and
    /// is counted (`weir_limit_hits_total{limit="misdirected"}`), whatever certificates they share; of several, one whose client asked for
    /// no name is for the rest alone. Default: certificates alone keep
    /// connections apart.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("uniqueItems" = true))]
    pub tls_hosts: Vec<String>,
    /// Keep connections open between requests. Default true.
    pub keep_alive: bool,
    /// How long a connection may idle between requests. Default 60s, 0s waits for ever.
    pub keep_alive_timeout: GoDuration,
    /// How long a request's head may take from its first byte to its last, and a fresh connection to begin one. Beyond it
    /// 408. Default 30s, more than 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_timeout: Option<GoDuration>,
    /// How long a request's body may go without a byte. Beyond it 408. Default 60s, more than 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_timeout: Option<GoDuration>,
    /// How long a client may take no byte of its answer. Beyond it the connection is cut off. Default 60s, more than 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_timeout: Option<GoDuration>,
    /// Connections at a time, 1 or more. Further ones wait in the accept queue, none is refused. Default 10240; changes live.
    #[schemars(range(min = 1))]
    pub max_connections: u32,
    /// Routes remembered by host, method and path, in entries. 0, the default, remembers none.
    pub cache_size: u32,
    /// Largest request body, in bytes; beyond it the client gets 413. 0, the default, means 4 MiB; a negative one relays
    /// bodies of any size as they come.
    pub client_max_body_size: i64,
    /// Request fields with `_` in their names, which backends that map `-` and `_` alike (CGI, WSGI, PHP) take for others: `drop`, the
    /// default, leaves them out and counts (`weir_limit_hits_total{limit="underscores_dropped"}`), `allow` relays them, `refuse` answers
    /// 400. Whatever it says, names that become a field of framing or forwarding get 400, and other spellings of a field that
    /// `setHeaders` or a filter sets are removed.
    pub underscores_in_headers: UnderscoresInHeaders,
    /// `X-Request-Id`, which the answer carries, backends see, and `weirctl explain-request` takes: `accept`, the default, takes a
    /// client's where it is one of 1 to 128 letters, digits and `-._~:/+=@`, and makes one otherwise (a client's that is none, or comes
    /// twice, is replaced and counted: `weir_limit_hits_total{limit="request_id"}`); `generate` makes one whatever the client says;
    /// `off` makes none, and lets clients' pass like any field.
    #[serde(skip_serializing_if = "is_accepted")]
    pub request_id: RequestIds,
    /// Add the address the connection came from to the end of X-Forwarded-For, whatever the list holds. Default false.
    pub x_forwarded_for: bool,
    /// Servers of this cluster that a request may have passed before it comes to this one. Beyond it requests go round, because servers
    /// have each other as backends, and get 508, counted (`weir_limit_hits_total{limit="http_loop"}`). What is passed on says so with one
    /// `CDN-Loop: weir-…` for each server (RFC 8586), the same for all of a cluster. Default 8, at most 64; 0 marks nothing and looks for
    /// nothing.
    #[serde(skip_serializing_if = "is_usual_hops")]
    #[schemars(range(max = 64))]
    pub max_hops: u8,
    /// Spans of requests and where they go (OpenTelemetry, Zipkin, Jaeger). Default: none are made, and no request's context is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<TracingSpec>,
    /// How `rules` are searched. Default Ordered.
    pub router_kind: RouterKind,
    /// Clients that may come in; others get 403. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_filter: Option<IpFilterSpec>,
    /// Routes, tried in order; the first full match wins. A request no route matches gets 404, 405, 400 or 403.
    pub rules: Vec<RuleSpec>,
    /// Name of a GlobalFilter to run around every pipeline. Default: none.
    pub global_filter: String,
    /// Template of the access log's lines: Easegress's variables, `{{RequestID}}` (`X-Request-Id`, what `weirctl explain-request` takes;
    /// `-` where there is none) and `{{Refused}}` (why a request was refused to keep others going). Default: Easegress's line.
    pub access_log_format: String,
    /// Show credentials in the access log. Default false: `***` stands for the values of Authorization, Proxy-Authorization, cookies,
    /// the usual API keys and tokens (X-Api-Key, X-Auth-Token, X-Amz-Security-Token and their like), and in targets and fields with
    /// URLs for user names with passwords and for parameters such as token, access_token, api_key, key, signature, sig, password,
    /// secret, code.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub access_log_credentials: bool,
    /// Peers whose X-Forwarded-For (or X-Real-IP, where there is none) and X-Forwarded-Proto are believed, addresses and prefixes.
    /// The client is the last hop that is not one of them, written with a port or without; one that cannot be read is `unknown`.
    /// Default: nobody, so the client's address is the one the connection came from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<Cidr>,
    /// `accept`: connections of `trustedProxies` must begin with a PROXY header (version 1 or 2), before TLS, and are from whom it says,
    /// for filters, logs, hashes and X-Forwarded-For; one without is closed (counted as `proxy_missing`), and so is one of anybody else
    /// that begins with a header (`proxy_untrusted`). Clients that send none are served as who they are. Default off.
    #[serde(skip_serializing_if = "ProxyProtocol::is_off")]
    pub proxy_protocol: ProxyProtocol,
}

impl Default for HttpServerSpec {
    fn default() -> Self {
        Self {
            address: String::new(),
            port: 0,
            http3: false,
            http3_only: false,
            early_data: false,
            http2: true,
            h2c: false,
            https: false,
            auto_cert: false,
            cert_base64: String::new(),
            key_base64: String::new(),
            certs: BTreeMap::new(),
            keys: BTreeMap::new(),
            ca_cert_base64: String::new(),
            tls_hosts: Vec::new(),
            keep_alive: true,
            keep_alive_timeout: GoDuration::from_secs(60),
            head_timeout: None,
            body_timeout: None,
            send_timeout: None,
            max_connections: 10_240,
            cache_size: 0,
            client_max_body_size: 0,
            underscores_in_headers: UnderscoresInHeaders::Drop,
            request_id: RequestIds::Accept,
            x_forwarded_for: false,
            max_hops: MAX_HOPS,
            tracing: None,
            router_kind: RouterKind::Ordered,
            ip_filter: None,
            rules: Vec::new(),
            global_filter: String::new(),
            access_log_format: DEFAULT_ACCESS_LOG_FORMAT.to_owned(),
            access_log_credentials: false,
            trusted_proxies: Vec::new(),
            proxy_protocol: ProxyProtocol::Off,
        }
    }
}

/// Whether a field that is on by default need not be said.
fn is_on(field: &bool) -> bool {
    *field
}

/// More than one reason or another has, and few enough that a loop costs little.
pub(crate) const MAX_HOPS: u8 = 8;

pub(crate) fn is_usual_hops(hops: &u8) -> bool {
    *hops == MAX_HOPS
}

pub(crate) fn is_accepted(ids: &RequestIds) -> bool {
    *ids == RequestIds::Accept
}

/// A text `explain` documents and messages never show.
pub type Secret = String;

/// Where the ids of requests come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RequestIds {
    /// From clients, or they are made.
    #[default]
    Accept,
    /// They are made.
    Generate,
    /// There are none.
    Off,
}

/// What becomes of request fields with `_` in their names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum UnderscoresInHeaders {
    /// They are left out and counted.
    #[default]
    Drop,
    /// They are relayed like any other.
    Allow,
    /// The request gets 400.
    Refuse,
}

/// How rules are searched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RouterKind {
    /// Rule after rule, path after path, in the order of the document.
    #[default]
    Ordered,
    /// By a tree over `path` alone, whose segments may be `{name}`, `{name:regexp}` or a trailing `*`.
    RadixTree,
}

/// Requests of some hosts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RuleSpec {
    /// Clients this rule is for; others get 403 unless a later rule takes them. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_filter: Option<IpFilterSpec>,
    /// One host; short for an entry of `hosts`. Compared without port and case. Default: any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// One host as RE2 expression; short for an entry of `hosts`. Default: any.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("format" = "regexp"))]
    pub host_regexp: String,
    /// Hosts of which one must fit. None given, here and above: any host.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostSpec>,
    /// Paths, tried in order.
    pub paths: Vec<PathSpec>,
}

/// A host, or a pattern of hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["value"]))]
pub struct HostSpec {
    /// Whether `value` is an RE2 expression, found anywhere in the host. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_regexp: bool,
    /// The host; when no expression, with at most one `*` as its first or last character, standing for any text.
    pub value: String,
}

/// Requests of some paths, and where they go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PathSpec {
    /// Clients this path is for; others get 403 unless a later path takes them. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_filter: Option<IpFilterSpec>,
    /// The whole path; begins with `/`. `path`, `pathPrefix` and `pathRegexp` are alternatives; none of them: any path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// How the path begins; begins with `/`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path_prefix: String,
    /// RE2 expression found anywhere in the path.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("format" = "regexp"))]
    pub path_regexp: String,
    /// What replaces the part of the path that matched: all of it for `path`, the prefix for `pathPrefix`, every match, with `$1`
    /// for groups, for `pathRegexp`. Default: the path goes on as it came.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rewrite_target: String,
    /// Methods accepted; a request that fits but for its method gets 405. Empty, the default: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Conditions on headers; a request that fits but for them gets 400.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatchSpec>,
    /// Whether all of `headers` must hold, instead of any one. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub match_all_header: bool,
    /// Conditions on query parameters; a request that fits but for them gets 400.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub queries: Vec<QueryMatchSpec>,
    /// Whether all of `queries` must hold, instead of any one. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub match_all_query: bool,
    /// Name of the Pipeline that handles the request; while there is none the client gets 503.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub backend: String,
    /// Servers to proxy to without writing a Pipeline. `backend` wins if both are given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_pool: Option<Box<PoolSpec>>,
    /// Largest request body, in bytes, for this path. 0, the default: as the server says; negative: relayed at any size.
    pub client_max_body_size: i64,
    /// Headers to set on the request, with nginx-like variables; an empty text removes the header.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set_headers: BTreeMap<String, String>,
}

/// A condition on the first value of a header.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["key"]))]
pub struct HeaderMatchSpec {
    /// Name of the header, in any case.
    pub key: String,
    /// Values of which one must be equal. `values`, `regexp` or both are needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// RE2 expression found anywhere in the value.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("format" = "regexp"))]
    pub regexp: String,
}

/// A condition on the first value of a query parameter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["key"]))]
pub struct QueryMatchSpec {
    /// Name of the parameter.
    pub key: String,
    /// Values of which one must be equal. `values`, `regexp` or both are needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// RE2 expression found anywhere in the value.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("format" = "regexp"))]
    pub regexp: String,
}

impl RuleSpec {
    /// `host`, `hostRegexp` and `hosts` as one list.
    pub fn all_hosts(&self) -> Vec<HostSpec> {
        let mut hosts = self.hosts.clone();
        if !self.host.is_empty() {
            hosts.push(HostSpec { is_regexp: false, value: self.host.clone() });
        }
        if !self.host_regexp.is_empty() {
            hosts.push(HostSpec { is_regexp: true, value: self.host_regexp.clone() });
        }
        hosts
    }
}

impl HttpServerSpec {
    pub fn validate(&self, path: &str, findings: &mut Findings) {
        listener::check_place(&self.address, self.port, path, findings);
        self.validate_tls(path, findings);
        if self.h2c && self.https {
            findings.warn(at(path, "h2c"), "has no effect with https: HTTP/2 is agreed on in the handshake there");
        }
        if self.http3_only && !self.http3 {
            findings.warn(at(path, "http3Only"), "has no effect without http3: true");
        }
        if self.early_data && !self.http3 {
            findings.warn(at(path, "earlyData"), "has no effect without http3: true: over TCP none is taken");
        }
        if self.early_data && !self.ca_cert_base64.is_empty() {
            let problem = Problem::new(at(path, "earlyData"), "not where clients must show certificates");
            let advice = "leave out earlyData or caCertBase64: early data comes before a client has shown who it is";
            findings.problem(problem.advice(advice));
        }
        for (name, timeout) in
            [("headTimeout", self.head_timeout), ("bodyTimeout", self.body_timeout), ("sendTimeout", self.send_timeout)]
        {
            if let Some(timeout) = timeout {
                listener::check_timeout(name, timeout, path, findings);
            }
        }
        listener::check_connections(self.max_connections, path, findings);
        self.proxy_protocol.check_listener(&self.trusted_proxies, path, findings);
        if self.http3 && self.proxy_protocol == ProxyProtocol::Accept {
            let text = "is for TCP alone: clients of HTTP/3 are who their packets come from";
            findings.warn(at(path, "proxyProtocol"), text);
        }
        if matches!(self.proxy_protocol, ProxyProtocol::V1 | ProxyProtocol::V2) {
            let problem = Problem::new(at(path, "proxyProtocol"), "an HTTPServer sends no PROXY headers");
            findings.problem(problem.accepted("off or accept").advice("say v1 or v2 of a Proxy's pool"));
        }
        if let Some(tracing) = &self.tracing {
            tracing.validate(&at(path, "tracing"), findings);
        }
        if !self.keep_alive && self.keep_alive_timeout != Self::default().keep_alive_timeout {
            findings.warn(at(path, "keepAliveTimeout"), "has no effect without keepAlive: true");
        }
        if self.cache_size > 0 {
            findings.warn(at(path, "cacheSize"), "has no effect: routes are found without a cache");
        }
        let rules = at(path, "rules");
        for (i, rule) in self.rules.iter().enumerate() {
            rule.validate(&nth(&rules, i), self.router_kind, findings);
        }
    }

    fn validate_tls(&self, path: &str, findings: &mut Findings) {
        if self.http3 && !self.https {
            let advice = "set https: true and give certificates; QUIC has no plain form";
            findings.problem(Problem::new(at(path, "http3"), "needs https").advice(advice));
        }
        let texts = self.tls_texts();
        texts.validate(path, findings);
        if self.https && !self.auto_cert && texts.is_empty() {
            let advice =
                "give certBase64 and keyBase64, or certs and keys, or set autoCert: true beside an AutoCertManager";
            findings.problem(Problem::new(at(path, "https"), "no certificate").advice(advice));
        }
        if !self.https {
            texts.warn_unused(path, "https: true", findings);
            if self.auto_cert {
                findings.warn(at(path, "autoCert"), "has no effect without https: true");
            }
            if !self.tls_hosts.is_empty() {
                findings.warn(at(path, "tlsHosts"), "has no effect without https: true");
            }
        }
        for (i, host) in self.tls_hosts.iter().enumerate().filter(|(_, host)| *host != "*") {
            let place = nth(&at(path, "tlsHosts"), i);
            if host.ends_with('*') {
                let problem = Problem::new(&place, "a * stands for the beginning of a name").text(host);
                findings.problem(problem.accepted("shop.test, *.shop.test or *"));
            } else {
                check_host(&HostSpec { is_regexp: false, value: host.clone() }, &place, false, findings);
            }
        }
    }
}

impl RuleSpec {
    /// `router` is the kind that its server has.
    pub fn validate(&self, path: &str, router: RouterKind, findings: &mut Findings) {
        check_host(&HostSpec { is_regexp: false, value: self.host.clone() }, &at(path, "host"), true, findings);
        check_regexp(&self.host_regexp, &at(path, "hostRegexp"), findings);
        for (i, host) in self.hosts.iter().enumerate() {
            check_host(host, &at(&nth(&at(path, "hosts"), i), "value"), false, findings);
        }
        for (i, _) in repeats(&self.hosts) {
            findings.warn(nth(&at(path, "hosts"), i), format!("{} is listed twice", self.hosts[i].value));
        }
        let paths = at(path, "paths");
        let twins: HashMap<usize, usize> = repeats(self.paths.iter().map(PathSpec::condition)).collect();
        for (i, entry) in self.paths.iter().enumerate() {
            let place = nth(&paths, i);
            entry.validate(&place, router, findings);
            if let Some(twin) = twins.get(&i) {
                findings.warn(&place, format!("never reached: paths[{twin}] has the same conditions"));
            }
        }
    }
}

impl PathSpec {
    /// What a request has to be like. Of two paths with the same condition the later one is never reached.
    fn condition(&self) -> impl Hash + Eq {
        let path = (&self.path, &self.path_prefix, &self.path_regexp, &self.methods);
        let headers = (&self.headers, self.match_all_header);
        let queries = (&self.queries, self.match_all_query);
        (path, headers, queries, &self.ip_filter)
    }

    /// `backendPool` is looked into as well.
    pub fn validate(&self, path: &str, router: RouterKind, findings: &mut Findings) {
        for (name, text) in [("path", &self.path), ("pathPrefix", &self.path_prefix)] {
            if !text.is_empty() && !text.starts_with('/') {
                let advice = format!("write /{text}");
                findings.problem(Problem::new(at(path, name), "does not begin with /").text(text).advice(advice));
            }
        }
        check_regexp(&self.path_regexp, &at(path, "pathRegexp"), findings);
        if router == RouterKind::RadixTree {
            self.validate_radix(path, findings);
        }
        let any_path = self.path.is_empty() && self.path_prefix.is_empty() && self.path_regexp.is_empty();
        if !self.rewrite_target.is_empty() && any_path {
            let advice = "give path, pathPrefix or pathRegexp, which say what is rewritten";
            findings.problem(
                Problem::new(at(path, "rewriteTarget"), "nothing to rewrite").text(&self.rewrite_target).advice(advice),
            );
        }
        self.warn_of_slashes(path, findings);
        check_methods(&self.methods, &at(path, "methods"), findings);
        for (i, _) in repeats(&self.methods) {
            let problem = Problem::new(nth(&at(path, "methods"), i), "given twice").text(&self.methods[i]);
            findings.problem(problem.advice("remove one"));
        }
        for (i, header) in self.headers.iter().enumerate() {
            let place = nth(&at(path, "headers"), i);
            check_condition(&header.key, &header.values, &header.regexp, &place, findings);
        }
        for (i, query) in self.queries.iter().enumerate() {
            let place = nth(&at(path, "queries"), i);
            check_condition(&query.key, &query.values, &query.regexp, &place, findings);
        }
        match (&self.backend_pool, self.backend.is_empty()) {
            (None, true) => findings.problem(
                Problem::new(at(path, "backend"), "missing").advice("name a Pipeline, or list servers in backendPool"),
            ),
            (Some(pool), true) => {
                let place = at(path, "backendPool");
                // The pipeline made of it has this pool and nothing else.
                let alone = [
                    ("filter", pool.filter.is_some()),
                    ("retryPolicy", !pool.retry_policy.is_empty()),
                    ("circuitBreakerPolicy", !pool.circuit_breaker_policy.is_empty()),
                ];
                for (field, _) in alone.iter().filter(|(_, given)| *given) {
                    let problem =
                        Problem::new(at(&place, field), "needs a Pipeline, with pools and resilience of its own");
                    findings.problem(problem.advice("write one, and name it in backend"));
                }
                pool.validate(&place, ServerScheme::Http, findings);
            }
            (Some(_), false) => findings.warn(at(path, "backendPool"), "has no effect beside backend"),
            (None, false) => {}
        }
        let place = |name: &str| at(&at(path, "setHeaders"), name);
        crate::header_adapt::warn_owned(self.set_headers.keys(), place, findings);
        for name in self.set_headers.keys().filter(|name| !crate::header_adapt::is_header_name(name)) {
            findings.problem(Problem::new(at(&at(path, "setHeaders"), name), "not a header name").text(name));
        }
    }

    /// A prefix and what takes its place either both end in a slash or neither does.
    fn warn_of_slashes(&self, path: &str, findings: &mut Findings) {
        let (prefix, target) = (self.path_prefix.as_str(), self.rewrite_target.as_str());
        if prefix.is_empty() || target.is_empty() || prefix.ends_with('/') == target.ends_with('/') {
            return;
        }
        let rest = if prefix.ends_with('/') { "a" } else { "/a" };
        let text = format!(
            "{prefix}{rest} becomes {target}{rest}: pathPrefix and rewriteTarget differ in their last /; end both with it, or neither"
        );
        findings.warn(at(path, "rewriteTarget"), text);
    }

    fn validate_radix(&self, path: &str, findings: &mut Findings) {
        for (name, given) in
            [("pathPrefix", !self.path_prefix.is_empty()), ("pathRegexp", !self.path_regexp.is_empty())]
        {
            if given {
                findings.warn(at(path, name), "ignored: routerKind RadixTree looks at path only");
            }
        }
        let place = at(path, "path");
        match radix_parameters(&self.path) {
            Err(why) => {
                let problem = Problem::new(&place, why).text(&self.path);
                findings.problem(problem.accepted("text, {name}, {name:expression}, and * after the last /"));
            }
            Ok(names) => {
                for (i, _) in repeats(&names) {
                    let problem = Problem::new(&place, format!("the parameter {} is named twice", names[i]));
                    findings.problem(problem.text(&self.path).advice("give each its own name"));
                }
            }
        }
        if self.rewrite_target.contains('*') {
            let problem =
                Problem::new(at(path, "rewriteTarget"), "a * cannot be rewritten to").text(&self.rewrite_target);
            findings.problem(problem.advice("write {EG_WILDCARD} for what the * of path matched"));
        }
    }
}

/// Names in braces of a RadixTree path, or what is wrong with it.
fn radix_parameters(path: &str) -> Result<Vec<&str>, String> {
    let (mut names, mut rest) = (Vec::new(), path);
    if let Some(star) = path.find('*') {
        // A star inside braces belongs to an expression.
        let open = path[..star].rfind('{').is_some_and(|open| !path[open..star].contains('}'));
        if !open && (star + 1 != path.len() || !path[..star].ends_with('/')) {
            return Err("a * stands only after the last /".to_owned());
        }
    }
    while let Some(open) = rest.find('{') {
        let mut depth = 0usize;
        let close = rest[open..].char_indices().find_map(|(i, c)| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            (depth == 0).then_some(open + i)
        });
        let Some(close) = close else { return Err("a brace is not closed".to_owned()) };
        let (name, pattern) = rest[open + 1..close].split_once(':').unwrap_or((&rest[open + 1..close], ""));
        if name.is_empty() {
            return Err("a parameter has no name".to_owned());
        }
        if !pattern.is_empty() {
            crate::regexp::compile(pattern).map_err(|why| format!("the expression of {name}: {why}"))?;
        }
        names.push(name);
        rest = &rest[close + 1..];
    }
    Ok(names)
}

pub(crate) fn check_host(host: &HostSpec, path: &str, may_be_absent: bool, findings: &mut Findings) {
    if host.value.is_empty() {
        if !may_be_absent {
            findings.problem(Problem::new(path, "is empty").advice("leave hosts out to match every host"));
        }
        return;
    }
    if host.is_regexp {
        return check_regexp(&host.value, path, findings);
    }
    let problem = |message: &str| Problem::new(path, message).text(&host.value);
    let stars = host.value.matches('*').count();
    if host.value == "*" {
        findings.problem(problem("matches every host").advice("leave hosts out to say so"));
    } else if stars > 1 || (stars == 1 && !host.value.starts_with('*') && !host.value.ends_with('*')) {
        let advice = "write *.example.com or www.example.*, or set isRegexp: true";
        findings.problem(problem("at most one *, as the first or last character").advice(advice));
    } else if host.value.contains('/') || host.value.chars().any(char::is_whitespace) {
        findings.problem(problem("not a host").advice("write the name only, without scheme and path"));
    } else if has_port(&host.value) {
        findings.problem(problem("a host is compared without its port").advice("remove the port"));
    }
}

fn has_port(host: &str) -> bool {
    let after_bracket = host.rsplit(']').next().unwrap_or(host);
    // More than one colon outside of brackets is an IPv6 address.
    after_bracket.matches(':').count() == 1
}

pub(crate) fn check_condition(key: &str, values: &[String], regexp: &str, path: &str, findings: &mut Findings) {
    if key.is_empty() {
        findings.problem(Problem::new(at(path, "key"), "is empty").advice("name what is looked at"));
    }
    if values.is_empty() && regexp.is_empty() {
        findings.problem(Problem::new(path, "no condition").advice("give values, regexp or both"));
    }
    check_regexp(regexp, &at(path, "regexp"), findings);
    for (i, _) in repeats(values) {
        let problem = Problem::new(nth(&at(path, "values"), i), "given twice").text(&values[i]);
        findings.problem(problem.advice("remove one"));
    }
}

/// Easegress's line.
pub const DEFAULT_ACCESS_LOG_FORMAT: &str = "[{{Time}}] [{{RemoteAddr}} {{RealIP}} {{Method}} {{URI}} {{Proto}} {{StatusCode}}] \
    [{{Duration}} rx:{{ReqSize}}B tx:{{RespSize}}B] [{{Tags}}]";

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str, problems: &[&str], warnings: &[&str]) {
        let value = crate::yaml::parse_document(yaml).unwrap();
        let mut findings = Findings::default();
        if let Some(spec) = findings.take(crate::decode::<HttpServerSpec>(&value, "")) {
            spec.validate("", &mut findings);
        }
        let told: Vec<String> = findings.problems.iter().map(Problem::to_string).collect();
        assert_eq!(told, problems, "{yaml}");
        let told: Vec<String> = findings.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(told, warnings, "{yaml}");
    }

    fn check_path(path: &str, problems: &[&str]) {
        check(&format!("port: 1\nrules: [{{paths: [{{{path}}}]}}]"), problems, &[]);
    }

    #[test]
    fn fields_that_do_nothing_say_so() {
        let value = crate::yaml::parse_document(
            "port: 80\ncacheSize: 10\nrules:\n- paths:\n  - path: /a\n    backend: p\n    setHeaders: {Upgrade: x, X-A: a}",
        )
        .unwrap();
        let spec = crate::decode::<HttpServerSpec>(&value, "").unwrap().value;
        let mut findings = Findings::default();
        spec.validate("", &mut findings);
        let mut paths: Vec<&str> = findings.warnings.iter().map(|warning| warning.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["cacheSize", "rules[0].paths[0].setHeaders.Upgrade"]);
    }

    #[test]
    fn defaults_are_easegresss() {
        let spec = crate::decode::<HttpServerSpec>(&serde_json::json!({"port": 10080}), "").unwrap().value;
        assert_eq!(spec, HttpServerSpec { port: 10080, ..HttpServerSpec::default() });
        assert!(
            spec.keep_alive && spec.keep_alive_timeout == GoDuration::from_secs(60) && spec.max_connections == 10240
        );
    }

    /// CPU time of this thread, which others of the machine do not lengthen.
    fn cost(work: impl Fn()) -> u64 {
        let spent = || {
            let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            text.split(' ').next().unwrap().parse::<u64>().unwrap()
        };
        let once = || {
            let before = spent();
            work();
            spent() - before
        };
        (0..3).map(|_| once()).min().unwrap()
    }

    #[test]
    fn ten_times_the_routes_cost_ten_times_as_much() {
        let path = |n: usize| PathSpec { path: format!("/{n}"), backend: "p".to_owned(), ..PathSpec::default() };
        // All of one path, told apart by a header alone.
        let header = |n: usize| {
            let headers = vec![HeaderMatchSpec { key: "x".into(), values: vec![n.to_string()], regexp: String::new() }];
            PathSpec { headers, ..path(0) }
        };
        let host = |n: usize| HostSpec { is_regexp: false, value: format!("h{n}") };
        let server = |count: usize| {
            let paths = (0..count).map(path).chain((0..count).map(header)).collect();
            let rule = RuleSpec { paths, hosts: (0..count).map(host).collect(), ..RuleSpec::default() };
            let values = (0..count).map(|n| n.to_string()).collect();
            let headers = vec![HeaderMatchSpec { key: "x".into(), values, regexp: String::new() }];
            let paths = vec![PathSpec { headers, ..path(0) }];
            HttpServerSpec {
                port: 1,
                rules: vec![rule, RuleSpec { paths, ..RuleSpec::default() }],
                ..Default::default()
            }
        };
        let validate = |server: &HttpServerSpec| {
            let mut findings = Findings::default();
            server.validate("", &mut findings);
            assert_eq!(findings, Findings::default());
        };
        let (few, many) = (server(1_000), server(10_000));
        let (few, many) = (cost(|| validate(&few)), cost(|| validate(&many)));
        assert!(many < few.max(1_000_000) * 40, "{few} ns for 1,000 of each, {many} ns for 10,000");
    }

    #[test]
    fn listeners() {
        check("{}", &["port: missing; give it: Port to listen on, 1 to 65535"], &[]);
        check("port: 0", &["port = 0: out of range; accepted: 1 to 65535"], &[]);
        check("port: 70000", &["port = 70000: out of range; accepted: 0 to 65535"], &[]);
        check(
            "{port: 1, address: localhost}",
            &["address = \"localhost\": not an IP address; write 127.0.0.1 or ::1"],
            &[],
        );
        check("{port: 1, maxConnections: 0}", &["maxConnections = 0: out of range; accepted: 1 to 4294967295"], &[]);
        check("{port: 1, maxHops: 65}", &["maxHops = 65: out of range; accepted: 0 to 64"], &[]);
        check(
            "{port: 1, headTimeout: 0s, bodyTimeout: 1ms, sendTimeout: 0s}",
            &[
                "headTimeout = \"0s\": would cut every client off; accepted: more than 0s; leave it out for the default",
                "sendTimeout = \"0s\": would cut every client off; accepted: more than 0s; leave it out for the default",
            ],
            &[],
        );
        check(
            "{port: 1, bodyTimeout: -5s}",
            &["bodyTimeout = \"-5s\": a negative duration; accepted: 0s or longer"],
            &[],
        );
        check(
            "{port: 1, trustedProxies: [10.0.0.0/33]}",
            &[
                "trustedProxies[0] = \"10.0.0.0/33\": the prefix length of 10.0.0.0 goes from 0 to 32; write 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32",
            ],
            &[],
        );
        check(
            "{port: 1, underscoresInHeaders: dropp}",
            &[
                "underscoresInHeaders = \"dropp\": not one of the accepted words; accepted: drop, allow or refuse; did you mean drop?",
            ],
            &[],
        );
        check(
            "{port: 1, routerKind: ordered}",
            &[
                "routerKind = \"ordered\": not one of the accepted words; accepted: Ordered or RadixTree; did you mean Ordered?",
            ],
            &[],
        );
    }

    #[test]
    fn tls() {
        check(
            "{port: 1, http3: true}",
            &["http3: needs https; set https: true and give certificates; QUIC has no plain form"],
            &[],
        );
        check("{port: 1, http3Only: true}", &[], &["http3Only: has no effect without http3: true"]);
        check(
            "{port: 1, https: true}",
            &[
                "https: no certificate; give certBase64 and keyBase64, or certs and keys, or set autoCert: true beside an AutoCertManager",
            ],
            &[],
        );
        check(
            "{port: 1, https: true, certBase64: eA==}",
            &[
                "keyBase64: missing beside certBase64; give both",
                "https: no certificate; give certBase64 and keyBase64, or certs and keys, or set autoCert: true beside an AutoCertManager",
            ],
            &[],
        );
        check(
            "{port: 1, https: true, certs: {a: x, b: x}, keys: {a: x, c: x}}",
            &["keys.b: missing: certs has b; give its private key"],
            &["keys.c: no certificate of that name in certs, never used"],
        );
        check("{port: 1, https: true, autoCert: true, http3: true}", &[], &[]);
        check("{port: 1, autoCert: true}", &[], &["autoCert: has no effect without https: true"]);
        check("{port: 1, certs: {a: x}, keys: {a: x}}", &[], &["certs: has no effect without https: true"]);
    }

    #[test]
    fn hosts() {
        let check_host = |host: &str, problems: &[&str]| {
            check(&format!("port: 1\nrules: [{{hosts: [{{value: '{host}'}}]}}]"), problems, &[]);
        };
        for host in ["example.com", "*.example.com", "www.example.*", "[::1]", "::1"] {
            check_host(host, &[]);
        }
        let one_star = "at most one *, as the first or last character; write *.example.com or www.example.*, or set isRegexp: true";
        check_host("a.*.com", &[&format!("rules[0].hosts[0].value = \"a.*.com\": {one_star}")]);
        check_host("*.a.*", &[&format!("rules[0].hosts[0].value = \"*.a.*\": {one_star}")]);
        check_host("*", &["rules[0].hosts[0].value = \"*\": matches every host; leave hosts out to say so"]);
        check_host(
            "a.com:80",
            &["rules[0].hosts[0].value = \"a.com:80\": a host is compared without its port; remove the port"],
        );
        check_host("", &["rules[0].hosts[0].value: is empty; leave hosts out to match every host"]);
        check(
            "port: 1\nrules: [{hosts: [{isRegexp: true, value: '('}], hostRegexp: '[a'}]",
            &["rules[0].hostRegexp = \"[a\": not a regular expression: unclosed character class; accepted: RE2 syntax"],
            &[],
        );
        check(
            "port: 1\nrules: [{hosts: [{isRegexp: true, value: '('}]}]",
            &["rules[0].hosts[0].value = \"(\": not a regular expression: unclosed group; accepted: RE2 syntax"],
            &[],
        );
    }

    #[test]
    fn paths() {
        check_path("pathPrefix: /a, backend: b, rewriteTarget: /c, methods: [GET]", &[]);
        check_path("backend: b", &[]);
        check_path("path: a, backend: b", &["rules[0].paths[0].path = \"a\": does not begin with /; write /a"]);
        check_path(
            "pathPrefix: a, pathRegexp: '(', backend: b",
            &["rules[0].paths[0].pathRegexp = \"(\": not a regular expression: unclosed group; accepted: RE2 syntax"],
        );
        check_path(
            "rewriteTarget: /c, backend: b",
            &[
                "rules[0].paths[0].rewriteTarget = \"/c\": nothing to rewrite; give path, pathPrefix or pathRegexp, which say what is rewritten",
            ],
        );
        check_path(
            "path: /a",
            &["rules[0].paths[0].backend: missing; name a Pipeline, or list servers in backendPool"],
        );
        check_path(
            "methods: [get, GET, GET, FETCH], backend: b",
            &[
                "rules[0].paths[0].methods[0] = \"get\": not an HTTP method; accepted: GET, HEAD, POST, PUT, PATCH, DELETE, CONNECT, OPTIONS or TRACE; write it in capitals: GET",
                "rules[0].paths[0].methods[3] = \"FETCH\": not an HTTP method; accepted: GET, HEAD, POST, PUT, PATCH, DELETE, CONNECT, OPTIONS or TRACE",
                "rules[0].paths[0].methods[2] = \"GET\": given twice; remove one",
            ],
        );
        check_path(
            "headers: [{key: X}, {values: [a]}], backend: b",
            &["rules[0].paths[0].headers[1].key: missing; give it: Name of the header, in any case"],
        );
        check_path(
            "headers: [{key: X}, {key: '', values: [a, a]}], queries: [{key: q, regexp: '('}], backend: b",
            &[
                "rules[0].paths[0].queries[0].regexp = \"(\": not a regular expression: unclosed group; accepted: RE2 syntax",
            ],
        );
        check_path(
            "headers: [{key: X}, {key: '', values: [a, a]}], queries: [{key: q}], backend: b",
            &[
                "rules[0].paths[0].headers[0]: no condition; give values, regexp or both",
                "rules[0].paths[0].headers[1].key: is empty; name what is looked at",
                "rules[0].paths[0].headers[1].values[1] = \"a\": given twice; remove one",
                "rules[0].paths[0].queries[0]: no condition; give values, regexp or both",
            ],
        );
        check_path(
            "backendPool: {servers: [{url: x}]}",
            &["rules[0].paths[0].backendPool.servers[0].url = \"x\": no scheme; write it as http://host:port"],
        );
        check(
            "port: 1\nrules: [{paths: [{path: /a, backend: b}, {path: /a, backend: c}]}]",
            &[],
            &["rules[0].paths[1]: never reached: paths[0] has the same conditions"],
        );
        check(
            "port: 1\nrules: [{paths: [{PathPrefix: /a, backend: b, backendPool: {servers: []}}]}]",
            &[],
            &["rules[0].paths[0].backendPool: has no effect beside backend"],
        );
    }

    #[test]
    fn radix_paths() {
        let check_radix = |path: &str, problems: &[&str]| {
            check(
                &format!("port: 1\nrouterKind: RadixTree\nrules: [{{paths: [{{path: '{path}', backend: b}}]}}]"),
                problems,
                &[],
            );
        };
        for path in ["/a/{id}", "/a/{id:[0-9]{2,4}}/b", "/pages/*", "/a/{x:.*}"] {
            check_radix(path, &[]);
        }
        check_radix(
            "/{a}/{a}",
            &["rules[0].paths[0].path = \"/{a}/{a}\": the parameter a is named twice; give each its own name"],
        );
        check_radix(
            "/{a",
            &[
                "rules[0].paths[0].path = \"/{a\": a brace is not closed; accepted: text, {name}, {name:expression}, and * after the last /",
            ],
        );
        check_radix(
            "/a*b",
            &[
                "rules[0].paths[0].path = \"/a*b\": a * stands only after the last /; accepted: text, {name}, {name:expression}, and * after the last /",
            ],
        );
    }
}
