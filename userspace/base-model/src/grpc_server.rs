//! `kind: GRPCServer`: a listener for gRPC, and the pipelines its methods go to.
//!
//! ```yaml
//! name: grpc-server-demo
//! kind: GRPCServer
//! port: 8850
//! rules:
//! - methods:
//!   - methodPrefix: /shop.Orders/
//!     backend: grpc-pipeline-demo
//! ```

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::GoDuration;
use crate::http_server::HostSpec;
use crate::http_server::{
    DEFAULT_ACCESS_LOG_FORMAT, HeaderMatchSpec, HttpServerSpec, MAX_HOPS, PathSpec, RequestIds, RuleSpec, Secret,
    UnderscoresInHeaders, check_condition, check_host, is_accepted, is_usual_hops,
};
use crate::ip_filter::{Cidr, IpFilterSpec};
use crate::problem::{Findings, Problem, at, nth};
use crate::proxy_protocol::ProxyProtocol;
use crate::string_matcher::check_regexp;

/// A listener for gRPC: HTTP/2 alone, in the clear unless `https`, and the routes of its calls to pipelines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["port"]))]
pub struct GrpcServerSpec {
    /// Address to listen on, IPv4 or IPv6. Default: every address, and every VirtualIP that has the port.
    pub address: String,
    /// Port to listen on, 1025 to 65535, with `https` 1 to 65535. A change re-listens; connections of the old port drain.
    pub port: u16,
    /// Serve TLS. Needs `certBase64` with `keyBase64`, or `certs` with `keys`. Default false: HTTP/2 by prior knowledge.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub https: bool,
    /// One certificate chain: base64 of PEM, or PEM. Goes with `keyBase64`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cert_base64: String,
    /// The private key of `certBase64`.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub key_base64: String,
    /// Certificate chains by name, base64 or PEM; the client's server name selects. Each needs a key of the same name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub certs: BTreeMap<String, String>,
    /// Private keys by the names in `certs`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub keys: BTreeMap<String, Secret>,
    /// Authorities, base64 or PEM, one of which must have signed the certificate a client then has to present. Default: none asked for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ca_cert_base64: String,
    /// Serve gRPC-Web as well (`application/grpc-web` and `application/grpc-web-text`), over HTTP/1.1, too, and whatever else comes over it:
    /// pages of other sites need a CORSAdaptor in their pipeline. Default false: what is no HTTP/2 gets 505.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub grpc_web: bool,
    /// Connections at a time, 1 or more. Further ones wait in the accept queue, none is refused. Default 10240; changes live.
    #[schemars(range(min = 1))]
    pub max_connections: u32,
    /// Shortest pause between two pings of a client while a call is under way. The third that comes earlier, with nothing sent to the
    /// client meanwhile, ends its connection (GOAWAY, ENHANCE_YOUR_CALM `too_many_pings`), counted as `grpc_pings`. Default: 200 at
    /// once and 20 a second, and what data calls for, at any time (Easegress: 5m); changes are for new connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_time_client_send_ping: Option<GoDuration>,
    /// With `minTimeClientSendPing`: let clients ping without a call under way as often as with one. Default false: once in two hours.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub permit_clint_send_ping_without_stream: bool,
    /// How long a connection may be without a call. Then it is told to go away and closed. Default: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connection_idle: Option<GoDuration>,
    /// How old a connection may become, a tenth more or less so that those that were made together do not end together. Then its client is
    /// told to go away, and makes another; calls under way go on. Default: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connection_age: Option<GoDuration>,
    /// How long calls may go on after `maxConnectionAge`; then they are cut off, with their connection. Default: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connection_age_grace: Option<GoDuration>,
    /// Silence of a client after which it is asked whether it is there (PING). Default 2h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive_time: Option<GoDuration>,
    /// How long it may take to say so; then its connection is cut off, counted as `grpc_keepalive`. Default 20s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keepalive_timeout: Option<GoDuration>,
    /// Clients whose calls are taken; others get PERMISSION_DENIED. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_filter: Option<IpFilterSpec>,
    /// Routes remembered, in entries. Has no effect: routes are found without a cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_size: u32,
    /// Name of a GlobalFilter to run around every pipeline. Default: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub global_filter: String,
    /// `X-Request-Id`, in and out, as an HTTPServer has it: `accept`, the default, `generate` or `off`.
    #[serde(skip_serializing_if = "is_accepted")]
    pub request_id: RequestIds,
    /// Add the address the connection came from to the end of X-Forwarded-For, whatever the list holds. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub x_forwarded_for: bool,
    /// Servers of this cluster that a call may have passed before it comes to this one, as of an HTTPServer: beyond it calls go round, and
    /// get FAILED_PRECONDITION. Default 8, at most 64; 0 marks nothing and looks for nothing.
    #[serde(skip_serializing_if = "is_usual_hops")]
    #[schemars(range(max = 64))]
    pub max_hops: u8,
    /// Routes, tried in order; the first full match wins. A call no route matches gets NOT_FOUND, or PERMISSION_DENIED where an
    /// `ipFilter` alone was against it.
    pub rules: Vec<GrpcRuleSpec>,
    /// Template of the access log's lines, as an HTTPServer's; the tags tell `grpc-status`.
    pub access_log_format: String,
    /// Peers whose X-Forwarded-For is believed, as of an HTTPServer. Default: nobody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<Cidr>,
    /// `accept`: connections of `trustedProxies` must begin with a PROXY header, as of an HTTPServer. Default off.
    #[serde(skip_serializing_if = "ProxyProtocol::is_off")]
    pub proxy_protocol: ProxyProtocol,
}

/// Calls of some hosts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GrpcRuleSpec {
    /// Clients this rule is for; others get PERMISSION_DENIED unless a later rule takes them. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_filter: Option<IpFilterSpec>,
    /// One host, of `:authority` without its port and in any case. Default: any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// One host as RE2 expression. Default: any.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("format" = "regexp"))]
    pub host_regexp: String,
    /// Methods, tried in order.
    pub methods: Vec<GrpcMethodSpec>,
}

/// Calls of some methods, and where they go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["backend"]))]
pub struct GrpcMethodSpec {
    /// Clients this method is for; others get PERMISSION_DENIED unless a later one takes them. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_filter: Option<IpFilterSpec>,
    /// The whole method: `/package.Service/Method`. `method`, `methodPrefix` and `methodRegexp` are alternatives; none of them: any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// How the method begins; begins with `/`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method_prefix: String,
    /// RE2 expression found anywhere in the method.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("format" = "regexp"))]
    pub method_regexp: String,
    /// Name of the Pipeline that handles the call; while there is none the client gets NOT_FOUND.
    pub backend: String,
    /// Conditions on metadata; a call that fits but for them gets NOT_FOUND.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatchSpec>,
    /// Whether all of `headers` must hold, instead of any one. Default false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub match_all_header: bool,
}

impl Default for GrpcServerSpec {
    fn default() -> Self {
        Self {
            address: String::new(),
            port: 0,
            https: false,
            cert_base64: String::new(),
            key_base64: String::new(),
            certs: BTreeMap::new(),
            keys: BTreeMap::new(),
            ca_cert_base64: String::new(),
            grpc_web: false,
            max_connections: 10_240,
            min_time_client_send_ping: None,
            permit_clint_send_ping_without_stream: false,
            max_connection_idle: None,
            max_connection_age: None,
            max_connection_age_grace: None,
            keepalive_time: None,
            keepalive_timeout: None,
            ip_filter: None,
            cache_size: 0,
            global_filter: String::new(),
            request_id: RequestIds::Accept,
            x_forwarded_for: false,
            max_hops: MAX_HOPS,
            rules: Vec::new(),
            access_log_format: DEFAULT_ACCESS_LOG_FORMAT.to_owned(),
            trusted_proxies: Vec::new(),
            proxy_protocol: ProxyProtocol::Off,
        }
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl GrpcServerSpec {
    pub fn validate(&self, path: &str, findings: &mut Findings) {
        // What listeners have in common; rules are told in their own words below.
        let listener = HttpServerSpec { rules: Vec::new(), ..self.http() };
        listener.validate(path, findings);
        if (1..PORT_MIN).contains(&self.port) && !self.https {
            let problem =
                Problem::new(at(path, "port"), "a port of the system, which gRPC in the clear is not served on");
            let problem = problem.value(&self.port.into()).accepted(format!("{PORT_MIN} to 65535"));
            findings.problem(problem.advice("choose another port, or serve TLS (https: true)").late());
        }
        if self.permit_clint_send_ping_without_stream && self.min_time_client_send_ping.is_none() {
            let text = "has no effect without minTimeClientSendPing: clients may ping";
            findings.warn(at(path, "permitClintSendPingWithoutStream"), text);
        }
        for (name, given) in [
            ("maxConnectionAge", self.max_connection_age),
            ("keepaliveTime", self.keepalive_time),
            ("keepaliveTimeout", self.keepalive_timeout),
        ] {
            if given.is_some_and(|time| time.is_zero()) {
                let problem = Problem::new(at(path, name), "every connection would end at once").value(&"0s".into());
                findings.problem(problem.accepted("longer than 0s").advice("leave it out for the default"));
            }
        }
        if self.max_connection_age_grace.is_some() && self.max_connection_age.is_none() {
            findings.warn(at(path, "maxConnectionAgeGrace"), "has no effect without maxConnectionAge");
        }
        for (i, rule) in self.rules.iter().enumerate() {
            rule.validate(&nth(&at(path, "rules"), i), findings);
        }
    }

    /// The server of HTTP/2 that it is: methods are paths there.
    pub fn http(&self) -> HttpServerSpec {
        HttpServerSpec {
            address: self.address.clone(),
            port: self.port,
            h2c: !self.https,
            https: self.https,
            cert_base64: self.cert_base64.clone(),
            key_base64: self.key_base64.clone(),
            certs: self.certs.clone(),
            keys: self.keys.clone(),
            ca_cert_base64: self.ca_cert_base64.clone(),
            keep_alive_timeout: self.max_connection_idle.unwrap_or(GoDuration::from_secs(0)),
            max_connections: self.max_connections,
            cache_size: self.cache_size,
            // Messages go on as they come, however many and large they are.
            client_max_body_size: -1,
            underscores_in_headers: UnderscoresInHeaders::Allow,
            request_id: self.request_id,
            x_forwarded_for: self.x_forwarded_for,
            max_hops: self.max_hops,
            ip_filter: self.ip_filter.clone(),
            rules: self.rules.iter().map(GrpcRuleSpec::http).collect(),
            global_filter: self.global_filter.clone(),
            access_log_format: self.access_log_format.clone(),
            trusted_proxies: self.trusted_proxies.clone(),
            proxy_protocol: self.proxy_protocol,
            ..HttpServerSpec::default()
        }
    }
}

impl GrpcRuleSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        check_host(&HostSpec { is_regexp: false, value: self.host.clone() }, &at(path, "host"), true, findings);
        check_regexp(&self.host_regexp, &at(path, "hostRegexp"), findings);
        for (i, method) in self.methods.iter().enumerate() {
            method.validate(&nth(&at(path, "methods"), i), findings);
        }
    }

    fn http(&self) -> RuleSpec {
        RuleSpec {
            ip_filter: self.ip_filter.clone(),
            host: self.host.clone(),
            host_regexp: self.host_regexp.clone(),
            hosts: Vec::new(),
            paths: self.methods.iter().map(GrpcMethodSpec::http).collect(),
        }
    }
}

impl GrpcMethodSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        for (name, text) in [("method", &self.method), ("methodPrefix", &self.method_prefix)] {
            if !text.is_empty() && !text.starts_with('/') {
                let problem = Problem::new(at(path, name), "does not begin with /").text(text);
                findings.problem(problem.advice(format!("write /{text}, as in /package.Service/Method")));
            }
        }
        check_regexp(&self.method_regexp, &at(path, "methodRegexp"), findings);
        for (i, header) in self.headers.iter().enumerate() {
            let place = nth(&at(path, "headers"), i);
            check_condition(&header.key, &header.values, &header.regexp, &place, findings);
        }
        if self.backend.is_empty() {
            findings.problem(Problem::new(at(path, "backend"), "missing").advice("name a Pipeline"));
        }
    }

    fn http(&self) -> PathSpec {
        PathSpec {
            ip_filter: self.ip_filter.clone(),
            path: self.method.clone(),
            path_prefix: self.method_prefix.clone(),
            path_regexp: self.method_regexp.clone(),
            headers: self.headers.clone(),
            match_all_header: self.match_all_header,
            backend: self.backend.clone(),
            ..PathSpec::default()
        }
    }
}

/// As in Easegress: below it are ports that programs of the system have.
const PORT_MIN: u16 = 1025;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::render;

    fn read(text: &str) -> (GrpcServerSpec, Findings) {
        let value = crate::yaml::parse_document(text).unwrap();
        let mut findings = Findings::default();
        let spec = findings.take(crate::decode::<GrpcServerSpec>(&value, ""));
        if let Some(spec) = &spec {
            spec.validate("", &mut findings);
        }
        (spec.unwrap_or_default(), findings)
    }

    #[test]
    fn it_is_a_server_of_http2_in_the_clear_whose_methods_are_paths() {
        let (spec, findings) = read(
            "{port: 8850, maxConnectionIdle: 5s, rules: [{host: a.test, methods: [{method: /s.S/M, backend: p}, \
             {methodPrefix: /t.T, backend: q, headers: [{key: k, values: [v]}]}]}]}",
        );
        assert_eq!(findings, Findings::default());
        let http = spec.http();
        assert!(http.h2c && !http.https && http.client_max_body_size < 0);
        assert_eq!(http.keep_alive_timeout, GoDuration::from_secs(5));
        let paths = &http.rules[0].paths;
        assert_eq!((paths[0].path.as_str(), paths[0].backend.as_str()), ("/s.S/M", "p"));
        assert_eq!((paths[1].path_prefix.as_str(), paths[1].headers.len()), ("/t.T", 1));
    }

    #[test]
    fn every_field_reaches_the_server_of_http2() {
        let alike = "address: 127.0.0.1, port: 8850, https: true, certBase64: c, keyBase64: k, certs: {a: b}, keys: {a: d}, \
                     caCertBase64: e, maxConnections: 7, cacheSize: 8, xForwardedFor: true, ipFilter: {blockIPs: [192.0.2.1]}, \
                     globalFilter: g, accessLogFormat: f, requestId: generate, trustedProxies: [192.0.2.2], proxyProtocol: accept, \
                     maxHops: 3";
        let metadata = "headers: [{key: k, values: [v]}], matchAllHeader: true, ipFilter: {blockIPs: [192.0.2.4]}";
        let rule = "host: a.test, hostRegexp: ^b, ipFilter: {blockIPs: [192.0.2.3]}";
        let (spec, _) = read(&format!(
            "{{{alike}, maxConnectionIdle: 5s, rules: [{{{rule}, methods: [{{method: /s.S/M, backend: p, {metadata}}}, \
             {{methodPrefix: /t, backend: q}}, {{methodRegexp: u$, backend: r}}]}}]}}"
        ));
        let text = format!(
            "{{{alike}, keepAliveTimeout: 5s, clientMaxBodySize: -1, underscoresInHeaders: allow, rules: [{{{rule}, paths: [{{path: \
             /s.S/M, backend: p, {metadata}}}, {{pathPrefix: /t, backend: q}}, {{pathRegexp: u$, backend: r}}]}}]}}"
        );
        let wanted = crate::decode::<HttpServerSpec>(&crate::yaml::parse_document(&text).unwrap(), "").unwrap().value;
        assert_eq!(spec.http(), wanted);
    }

    #[test]
    fn what_is_wrong_is_told_in_its_own_words() {
        for (text, wanted) in [
            ("{port: 1, rules: [{methods: [{method: s.S/M, backend: p}]}]}", "rules[0].methods[0].method = \"s.S/M\""),
            ("{port: 1, rules: [{methods: [{methodRegexp: '(', backend: p}]}]}", "rules[0].methods[0].methodRegexp"),
            ("{port: 1, rules: [{methods: [{method: /a, backend: ''}]}]}", "rules[0].methods[0].backend"),
            ("{port: 1, rules: [{host: 'a/b', methods: []}]}", "rules[0].host"),
            ("{port: 1, https: true}", "https: no certificate"),
            ("{port: 0}", "port = 0"),
            ("{port: 1, maxConnectionAge: 0s}", "maxConnectionAge = \"0s\""),
            ("{port: 1, keepaliveTimeout: 0s}", "keepaliveTimeout = \"0s\""),
        ] {
            let problems = render(&read(text).1.problems);
            assert!(problems.contains(wanted), "{text}: {problems}");
        }
        for (text, place) in [
            ("{port: 1, permitClintSendPingWithoutStream: true}", "permitClintSendPingWithoutStream"),
            ("{port: 1, maxConnectionAgeGrace: 1s}", "maxConnectionAgeGrace"),
        ] {
            let warned = read(text).1.warnings;
            assert_eq!(warned.first().map(|warning| warning.path.as_str()), Some(place));
        }
        assert!(
            read(
                "{port: 1, maxConnectionAge: 1h, maxConnectionAgeGrace: 1s, keepaliveTime: 1h, minTimeClientSendPing: 1m, \
                 permitClintSendPingWithoutStream: true}"
            )
            .1
            .warnings
            .is_empty()
        );
    }
}
