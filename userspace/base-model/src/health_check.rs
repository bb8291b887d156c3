//! Active health checks, as users write them: what servers are asked, how often, and what a healthy one answers.
//!
//! They live here because the pools of all kinds of proxies have them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::GoDuration;
use crate::header_adapt::{is_header_name, is_header_value};
use crate::problem::{Findings, Problem, at, nth, one_of};
use crate::string_matcher::check_regexp;
use crate::words::{HttpCode, METHODS, check_method};

/// Probes servers and leaves out those that fail.
///
/// Every server is asked at once when a document first names it, then once in each `interval`, a tenth earlier or later. Until it has
/// answered it gets no requests where another one is known to be well, and requests wait for its answer, for a second at most, where
/// nothing is known of any. One server is
/// asked once however many pools, filters and workers ask the same of it, and what is known of it survives changes of documents. A server
/// is well until `fails` probes in a row have failed. When all servers of a pool are unwell its requests are refused with 503, unless
/// `outlierDetection.panicThreshold` says that they are used nevertheless.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HealthCheckSpec {
    /// What is spoken: `http`, `grpc` (grpc.health.v1, which must say SERVING), `tcp` (a connect, with a handshake where TLS is spoken),
    /// `websocket` (the opening of one) or `udp`. Default: `http` for a Proxy and a WebSocketProxy, `grpc` for a GRPCProxy, `tcp` for a
    /// TCPProxy, `udp` for a UDPProxy.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_: Option<ProbeType>,
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
    /// Port that is probed. 0, the default: the server's own.
    pub port: u16,
    /// Whether a probe over HTTP/1.1 may go over the connection of the one before. It costs less, and says less: an open connection goes
    /// on answering where the server takes no new ones, where its certificate has expired, and where other servers stand behind its address
    /// by now; and a server that serves one connection at a time is kept from its requests by one that stays open. Where true, a server is
    /// still connected to anew by each tenth probe and by each one after a failure. Default false: every probe connects.
    pub reuse_connection: bool,
    /// Path and query that are asked for. Default: the server's path, or `/`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// Old name of `uri`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Method of the probe. Default GET.
    pub method: String,
    /// Headers of the probe.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Body of the probe.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub body: String,
    /// User of basic authentication.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Password of basic authentication.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub password: String,
    /// What a healthy answer looks like. Default: a status from 200 to 399; with `websocket` 101.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub match_: Option<HealthMatchSpec>,
    /// Name of the service that is asked about, with `grpc`. Default: the server as a whole.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service: String,
    /// What is sent once connected, with `tcp`, or as a datagram, with `udp`. Default: nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub send: String,
    /// What the answer must contain within its first 64 KiB, with `tcp` and `udp`. Default: anything will do; with `udp` and `send` there
    /// must be an answer, without `send` it is enough that the machine does not refuse datagrams.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub expect: String,
}

/// What a probe speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProbeType {
    Http,
    Grpc,
    Tcp,
    WebSocket,
    Udp,
}

impl ProbeType {
    /// As documents write it.
    pub fn text(self) -> &'static str {
        match self {
            ProbeType::Http => "http",
            ProbeType::Grpc => "grpc",
            ProbeType::Tcp => "tcp",
            ProbeType::WebSocket => "websocket",
            ProbeType::Udp => "udp",
        }
    }
}

impl Default for HealthCheckSpec {
    fn default() -> Self {
        Self {
            type_: None,
            interval: GoDuration::from_secs(60),
            timeout: GoDuration::from_secs(3),
            fails: 1,
            passes: 1,
            port: 0,
            reuse_connection: false,
            uri: String::new(),
            path: String::new(),
            method: "GET".to_owned(),
            headers: BTreeMap::new(),
            body: String::new(),
            username: String::new(),
            password: String::new(),
            match_: None,
            service: String::new(),
            send: String::new(),
            expect: String::new(),
        }
    }
}

/// What a healthy answer looks like; every part that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HealthMatchSpec {
    /// Ranges of status codes, both ends included. Default [[200, 399]], with `websocket` [[101, 101]].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub status_codes: Vec<[u16; 2]>,
    /// Headers that must be there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderCheckSpec>,
    /// What the body must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<BodyMatchSpec>,
}

/// A header a healthy answer must have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name", "value"]))]
pub struct HeaderCheckSpec {
    /// Name of the header.
    pub name: String,
    /// Its value, or an RE2 expression.
    pub value: String,
    /// `exact` (default) or `regexp`.
    #[serde(rename = "type")]
    pub type_: String,
}

/// What the body of a healthy answer must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["value"]))]
pub struct BodyMatchSpec {
    /// A text, or an RE2 expression.
    pub value: String,
    /// `contains` (default) or `regexp`.
    #[serde(rename = "type")]
    pub type_: String,
}

impl HealthCheckSpec {
    /// What is spoken, where `usual` is what servers of this kind speak.
    pub fn speaks(&self, usual: ProbeType) -> ProbeType {
        self.type_.unwrap_or(usual)
    }

    /// `usual` is what is spoken where the document does not say.
    pub fn validate(&self, usual: ProbeType, path: &str, findings: &mut Findings) {
        let spoken = self.speaks(usual);
        if (spoken == ProbeType::Udp) != (usual == ProbeType::Udp) {
            let problem = Problem::new(at(path, "type"), "does not fit what these servers take").text(spoken.text());
            let accepted = if usual == ProbeType::Udp { "udp" } else { "http, grpc, tcp or websocket" };
            findings.problem(problem.accepted(accepted));
        }
        self.warn_of_others(spoken, path, findings);
        self.validate_request(path, findings);
        if self.interval.is_zero() {
            findings.problem(
                Problem::new(at(path, "interval"), "probes without a pause")
                    .value(&"0s".into())
                    .accepted("longer than 0s"),
            );
        }
        if self.timeout.is_zero() {
            findings.problem(
                Problem::new(at(path, "timeout"), "no probe can succeed")
                    .value(&"0s".into())
                    .accepted("longer than 0s"),
            );
        }
        if let Some(expected) = &self.match_ {
            expected.validate(&at(path, "match"), findings);
        }
    }

    /// Fields that the probe has no use for.
    fn warn_of_others(&self, spoken: ProbeType, path: &str, findings: &mut Findings) {
        use ProbeType::{Grpc, Http, Tcp, Udp, WebSocket};
        let usual = HealthCheckSpec::default();
        let given: [(&str, bool, &[ProbeType]); 11] = [
            ("uri", !self.uri.is_empty(), &[Http, WebSocket]),
            ("path", !self.path.is_empty(), &[Http, WebSocket]),
            ("method", self.method != usual.method, &[Http]),
            ("headers", !self.headers.is_empty(), &[Http, WebSocket, Grpc]),
            ("body", !self.body.is_empty(), &[Http]),
            ("username", !self.username.is_empty(), &[Http, WebSocket, Grpc]),
            ("password", !self.password.is_empty(), &[Http, WebSocket, Grpc]),
            ("match", self.match_.is_some(), &[Http, WebSocket]),
            ("service", !self.service.is_empty(), &[Grpc]),
            ("send", !self.send.is_empty(), &[Tcp, Udp]),
            ("expect", !self.expect.is_empty(), &[Tcp, Udp]),
        ];
        for (field, _, fits) in given.iter().filter(|(_, given, fits)| *given && !fits.contains(&spoken)) {
            let words: Vec<&str> = fits.iter().map(|fit| fit.text()).collect();
            findings.warn(at(path, field), format!("has no effect: only probes of type {} have it", one_of(&words)));
        }
        if !self.uri.is_empty() && !self.path.is_empty() {
            findings.warn(at(path, "path"), "has no effect beside uri, whose old name it is");
        }
        if self.password.is_empty() != self.username.is_empty() {
            let (given, missing) =
                if self.username.is_empty() { ("password", "username") } else { ("username", "password") };
            let problem = Problem::new(at(path, missing), format!("missing beside {given}"));
            findings.problem(problem.advice("give both, or neither").late());
        }
    }

    fn validate_request(&self, path: &str, findings: &mut Findings) {
        if !METHODS.contains(&self.method.as_str()) {
            check_method(&self.method, &at(path, "method"), findings);
        } else if self.method == "CONNECT" {
            let problem = Problem::new(at(path, "method"), "a tunnel is no answer").text(&self.method);
            findings.problem(problem.advice("choose another method, or type: tcp"));
        }
        for (field, uri) in [("uri", &self.uri), ("path", &self.path)] {
            if uri.chars().any(|c| c.is_control() || c.is_whitespace() || c == '#') {
                let problem = Problem::new(at(path, field), "no path and query").text(uri);
                findings.problem(problem.advice("write it as /health?deep=1, blanks as %20"));
            }
        }
        for (name, value) in &self.headers {
            let place = at(&at(path, "headers"), name);
            if !is_header_name(name) {
                findings.problem(Problem::new(&place, "not a header name"));
            }
            if !is_header_value(value) {
                findings.problem(Problem::new(&place, "a header value cannot hold control characters").text(value));
            }
        }
        if self.username.contains(':') {
            let problem = Problem::new(at(path, "username"), "a user of basic authentication has no colon");
            findings.problem(problem.text(&self.username));
        }
    }
}

impl HealthMatchSpec {
    fn validate(&self, place: &str, findings: &mut Findings) {
        for (i, [low, high]) in self.status_codes.iter().enumerate() {
            if HttpCode::new(*low).is_none() || HttpCode::new(*high).is_none() || low > high {
                let problem = Problem::new(nth(&at(place, "statusCodes"), i), "not a range of status codes");
                findings.problem(problem.text(&format!("{low}-{high}")).accepted("[low, high] from 100 to 599"));
            }
        }
        let word = |place: String, word: &str, accepted: [&str; 2], findings: &mut Findings| {
            if !word.is_empty() && !accepted.contains(&word) {
                findings.problem(
                    Problem::new(place, "not one of the accepted words").text(word).accepted(one_of(&accepted)),
                );
            }
        };
        for (i, header) in self.headers.iter().enumerate() {
            let place = nth(&at(place, "headers"), i);
            word(at(&place, "type"), &header.type_, ["exact", "regexp"], findings);
            if header.type_ == "regexp" {
                check_regexp(&header.value, &at(&place, "value"), findings);
            }
        }
        if let Some(body) = &self.body {
            let place = at(place, "body");
            word(at(&place, "type"), &body.type_, ["contains", "regexp"], findings);
            if body.type_ == "regexp" {
                check_regexp(&body.value, &at(&place, "value"), findings);
            }
        }
    }
}
