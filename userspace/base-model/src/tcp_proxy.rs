//! `kind: TCPProxy`: a listener whose connections are relayed byte by byte.
//!
//! ```yaml
//! name: database
//! kind: TCPProxy
//! port: 5432
//! pools:
//! - servers:
//!   - url: tcp://10.0.0.1:5432
//!   - url: tcp://10.0.0.2:5432
//! ```

use std::collections::BTreeMap;
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dates::Dates;
use crate::duration::GoDuration;
use crate::http_server::{Secret, TlsTexts};
use crate::ip_filter::{Cidr, IpFilterSpec};
use crate::l4_pool::{L4PoolSpec, check_names};
use crate::listener;
use crate::problem::{Findings, Problem, at, nth};
use crate::proxy_protocol::ProxyProtocol;
use crate::virtual_ip::Protocol;

/// A listener for TCP, and the servers its connections are relayed to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["port", "pools"]))]
pub struct TcpProxySpec {
    /// Address to listen on, IPv4 or IPv6. Default: every address, and every VirtualIP that has the port.
    pub address: String,
    /// Port to listen on, 1 to 65535. A change re-listens; connections of the old port drain.
    pub port: u16,
    /// What becomes of TLS: `off` (default) relays whatever comes; `terminate` speaks it with clients and relays what is inside;
    /// `passthrough` reads the server name and the protocols a client asks for, and relays its bytes as they are.
    pub tls: TcpTls,
    /// One certificate chain for `terminate`: base64 of PEM, or PEM. Goes with `keyBase64`.
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
    /// Protocols offered to clients with `terminate` (ALPN), best first. Default: none, any client is served.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    /// `accept`: clients of `trustedProxies` must begin with a PROXY header, and are who it says; one of anybody else is refused (counted
    /// as `proxy_untrusted`), and clients that send none are served as who they are. `v1` or `v2`: servers are told of the client, as a
    /// pool's own `proxyProtocol`. Default off.
    #[serde(skip_serializing_if = "ProxyProtocol::is_off")]
    pub proxy_protocol: ProxyProtocol,
    /// Peers whose PROXY headers are believed, addresses and prefixes. Needed with `proxyProtocol: accept`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<Cidr>,
    /// Clients that may come in; the connections of others are closed (counted as `ip_filter`). Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_filter: Option<IpFilterSpec>,
    /// Connections at a time, 1 or more. Further ones wait in the accept queue, none is refused. Default 10240; changes live.
    #[schemars(range(min = 1))]
    pub max_connections: u32,
    /// Connections at a time of one client address (of IPv6, of one /64), over all workers of a machine; further ones are closed (counted
    /// as `connections_per_ip`). 0, the default: any number.
    #[serde(rename = "maxConnectionsPerIP")]
    pub max_connections_per_ip: u32,
    /// How long a connection may pass no byte in either direction. Beyond it both sides are told that nothing more comes. Default 10m,
    /// more than 0s.
    pub idle_timeout: GoDuration,
    /// How long a client may take for its PROXY header, and for its TLS handshake or, with `passthrough`, its ClientHello. Default 10s,
    /// more than 0s.
    pub handshake_timeout: GoDuration,
    /// Which pool gets which connections, by what clients ask for in TLS; the first that fits. Only with `tls`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<TcpRuleSpec>,
    /// Pools of servers. The one that no rule names takes the connections that no rule took; without such a pool they are closed
    /// (counted as `no_route`).
    pub pools: Vec<L4PoolSpec>,
}

/// What becomes of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TcpTls {
    /// Bytes are relayed, whatever they are.
    #[default]
    Off,
    /// It ends here.
    Terminate,
    /// It ends at the servers; its beginning is looked at.
    Passthrough,
}

/// Connections of some clients.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["pool"]))]
pub struct TcpRuleSpec {
    /// Server names of which the client must ask for one, in any case; `*.shop.test` stands for all names that end so. Default: any, and
    /// none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sni: Vec<String>,
    /// Protocols of which one must be offered (`passthrough`) or agreed on (`terminate`), such as `h2`. Default: any, and none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub alpn: Vec<String>,
    /// What becomes of TLS of these connections: `terminate` or `passthrough`. Where rules differ in it, `alpn` of all of them is of what
    /// clients offer. Default: as the server's `tls` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TcpTls>,
    /// Name of the pool.
    pub pool: String,
}

impl Default for TcpProxySpec {
    fn default() -> Self {
        Self {
            address: String::new(),
            port: 0,
            tls: TcpTls::Off,
            cert_base64: String::new(),
            key_base64: String::new(),
            certs: BTreeMap::new(),
            keys: BTreeMap::new(),
            ca_cert_base64: String::new(),
            alpn: Vec::new(),
            proxy_protocol: ProxyProtocol::Off,
            trusted_proxies: Vec::new(),
            ip_filter: None,
            max_connections: 10_240,
            max_connections_per_ip: 0,
            idle_timeout: GoDuration::from_secs(600),
            handshake_timeout: GoDuration::from_secs(10),
            rules: Vec::new(),
            pools: Vec::new(),
        }
    }
}

impl TcpProxySpec {
    pub fn validate(&self, path: &str, findings: &mut Findings) {
        listener::check_place(&self.address, self.port, path, findings);
        listener::check_connections(self.max_connections, path, findings);
        for (name, timeout) in [("idleTimeout", self.idle_timeout), ("handshakeTimeout", self.handshake_timeout)] {
            listener::check_timeout(name, timeout, path, findings);
        }
        self.proxy_protocol.check_listener(&self.trusted_proxies, path, findings);
        if !self.trusted_proxies.is_empty() && self.proxy_protocol != ProxyProtocol::Accept {
            findings.warn(at(path, "trustedProxies"), "has no effect without proxyProtocol: accept");
        }
        let texts = self.tls_texts();
        texts.validate(path, findings);
        let terminates = self.terminates();
        if terminates && texts.is_empty() {
            let advice = "give certBase64 and keyBase64, or certs and keys";
            let rule = self.rules.iter().position(|rule| rule.tls == Some(TcpTls::Terminate));
            let place = rule.filter(|_| self.tls != TcpTls::Terminate).map(|n| nth(&at(path, "rules"), n));
            let place = at(place.as_deref().unwrap_or(path), "tls");
            findings.problem(Problem::new(place, "no certificate").text("terminate").advice(advice));
        }
        if !terminates {
            texts.warn_unused(path, "tls: terminate", findings);
            if !self.alpn.is_empty() {
                findings.warn(at(path, "alpn"), "has no effect without tls: terminate");
            }
        }
        let rules = at(path, "rules");
        if self.tls == TcpTls::Off && !self.rules.is_empty() {
            let problem = Problem::new(&rules, "there is nothing to go by without TLS");
            findings.problem(problem.advice("set tls: passthrough or tls: terminate, or leave the rules out"));
        }
        for (i, rule) in self.rules.iter().enumerate() {
            rule.validate(&nth(&rules, i), findings);
        }
        let named: Vec<(String, &str)> =
            self.rules.iter().enumerate().map(|(i, rule)| (at(&nth(&rules, i), "pool"), rule.pool.as_str())).collect();
        check_names(&self.pools, &named, path, findings);
        for (i, pool) in self.pools.iter().enumerate() {
            pool.validate(Protocol::Tcp, &nth(&at(path, "pools"), i), findings);
        }
    }

    /// Whether TLS of some connections ends here.
    pub fn terminates(&self) -> bool {
        self.tls == TcpTls::Terminate || self.rules.iter().any(|rule| rule.tls == Some(TcpTls::Terminate))
    }

    /// Whether it takes what a client asks for to know what becomes of its TLS.
    pub fn is_mixed(&self) -> bool {
        self.rules.iter().any(|rule| rule.tls.is_some_and(|tls| tls != self.tls))
    }

    /// What clients are shown with `terminate`.
    pub fn tls_texts(&self) -> TlsTexts<'_> {
        TlsTexts {
            cert_base64: &self.cert_base64,
            key_base64: &self.key_base64,
            certs: &self.certs,
            keys: &self.keys,
            ca_cert_base64: &self.ca_cert_base64,
        }
    }

    pub(crate) fn check_certificates(&self, path: &str, now: SystemTime, dates: &mut Dates, findings: &mut Findings) {
        if self.terminates() {
            self.tls_texts().check(path, now, dates, findings);
        }
        for (i, pool) in self.pools.iter().enumerate() {
            pool.check_certificates(&nth(&at(path, "pools"), i), now, dates, findings);
        }
    }
}

impl TcpRuleSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        if self.sni.is_empty() && self.alpn.is_empty() {
            let problem = Problem::new(path, "neither sni nor alpn");
            findings.problem(problem.advice("leave the rule out: the pool that no rule names takes the rest"));
        }
        if self.tls == Some(TcpTls::Off) {
            let problem = Problem::new(at(path, "tls"), "a rule goes by what clients ask for in TLS").text("off");
            findings.problem(problem.accepted("terminate or passthrough"));
        }
        for (i, name) in self.sni.iter().enumerate() {
            let rest = name.strip_prefix("*.").unwrap_or(name);
            if rest.is_empty() || rest.contains(['*', ':', '/']) || rest.parse::<std::net::IpAddr>().is_ok() {
                let problem = Problem::new(nth(&at(path, "sni"), i), "not a server name").text(name);
                findings.problem(problem.accepted("shop.test or *.shop.test"));
            }
        }
        for (i, protocol) in self.alpn.iter().enumerate().filter(|(_, p)| p.is_empty() || p.len() > 255) {
            let problem = Problem::new(nth(&at(path, "alpn"), i), "not a protocol's name").text(protocol);
            findings.problem(problem.accepted("1 to 255 bytes"));
        }
    }

    /// Whether a client that asks for this name and these protocols is meant.
    pub fn fits<'p>(&self, server_name: Option<&str>, mut alpn: impl Iterator<Item = &'p [u8]>) -> bool {
        let name_fits = |wanted: &String| {
            let Some(name) = server_name else { return false };
            match wanted.strip_prefix('*') {
                Some(suffix) => {
                    let at = name.len().checked_sub(suffix.len()).filter(|at| *at > 0);
                    at.and_then(|at| name.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
                }
                None => name.eq_ignore_ascii_case(wanted),
            }
        };
        (self.sni.is_empty() || self.sni.iter().any(name_fits))
            && (self.alpn.is_empty() || alpn.any(|offered| self.alpn.iter().any(|p| p.as_bytes() == offered)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http_server::HttpServerSpec;
    use crate::l4_pool::L4ServerSpec;
    use crate::problem::render;

    fn read(text: &str) -> (TcpProxySpec, Findings) {
        let value = crate::yaml::parse_document(text).unwrap();
        let mut findings = Findings::default();
        let spec = findings.take(crate::decode::<TcpProxySpec>(&value, ""));
        if let Some(spec) = &spec {
            spec.validate("", &mut findings);
        }
        (spec.unwrap_or_default(), findings)
    }

    fn problems(text: &str) -> String {
        render(&read(text).1.problems)
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let pools = "pools: [{servers: [{url: 'tcp://a.test:1'}]}]";
        assert_eq!(problems(&format!("port: 1\n{pools}")), "");
        for (text, told) in [
            ("port: 1".to_owned(), "pools: missing"),
            (format!("port: 0\n{pools}"), "port = 0: out of range"),
            (format!("port: 1\nproxyProtocol: accept\n{pools}"), "trustedProxies"),
            (format!("port: 1\nidleTimeout: 0s\n{pools}"), "idleTimeout"),
            (format!("port: 1\ntls: terminate\n{pools}"), "no certificate"),
            (
                format!("port: 1\ntls: passthrough\nrules: [{{sni: [a], pool: x, tls: terminate}}]\n{pools}"),
                "rules[0].tls = \"terminate\": no certificate",
            ),
            (format!("port: 1\ntls: passthrough\nrules: [{{sni: [a], pool: x, tls: off}}]\n{pools}"), "rules[0].tls"),
            (format!("port: 1\nrules: [{{sni: [a], pool: x}}]\n{pools}"), "nothing to go by"),
            (format!("port: 1\ntls: passthrough\nrules: [{{sni: [a], pool: x}}]\n{pools}"), "no pool of this name"),
            ("port: 1\npools: [{servers: [{url: 'http://a:1'}]}]".to_owned(), "the scheme http does not fit here"),
            ("port: 1\npools: [{servers: [{url: 'a.test'}]}]".to_owned(), "no port"),
            ("port: 1\npools: [{servers: [{url: 'tcp://a:1/x'}]}]".to_owned(), "a path means nothing"),
            ("port: 1\npools: [{servers: [{url: 'a:1'}]}, {servers: [{url: 'b:1'}]}]".to_owned(), "one pool can take"),
            (format!("port: 1\n{}", pools.replace("servers", "proxyProtocol: accept, servers")), "off, v1 or v2"),
            (format!("port: 1\n{}", pools.replace("servers", "loadBalance: {policy: cookieHash}, servers")), "headers"),
        ] {
            let found = problems(&text);
            assert!(found.contains(told), "{text}: {found}");
        }
    }

    #[test]
    fn certificates_are_those_of_an_http_server() {
        let texts = "port: 1, certBase64: c, keyBase64: k, certs: {a: b}, keys: {a: d}, caCertBase64: e";
        let proxy = read(&format!("{{{texts}, pools: [{{servers: [{{url: 'a:1'}}]}}]}}")).0;
        let server = crate::yaml::parse_document(&format!("{{{texts}}}")).unwrap();
        let server = crate::decode::<HttpServerSpec>(&server, "").unwrap().value;
        assert!(!server.tls_texts().is_empty());
        assert!(proxy.tls_texts() == server.tls_texts(), "a chain, a key or an authority is lost");
    }

    #[test]
    fn servers_are_written_with_or_without_a_scheme() {
        for (url, host, port, tls) in [
            ("tcp://10.0.0.1:5432", "10.0.0.1", 5432, false),
            ("10.0.0.1:5432", "10.0.0.1", 5432, false),
            ("[::1]:80", "::1", 80, false),
            ("TLS://db.test:443", "db.test", 443, true),
        ] {
            let server = L4ServerSpec { url: url.to_owned(), ..L4ServerSpec::default() };
            let at = server.place(Protocol::Tcp).unwrap();
            assert_eq!((at.host.as_str(), at.port, at.is_tls()), (host, port, tls), "{url}");
        }
        let udp = L4ServerSpec { url: "tcp://a:1".to_owned(), ..L4ServerSpec::default() };
        assert!(udp.place(Protocol::Udp).is_err());
    }

    #[test]
    fn rules_go_by_names_and_protocols() {
        let rule = |sni: &[&str], alpn: &[&str]| TcpRuleSpec {
            sni: sni.iter().map(|s| (*s).to_owned()).collect(),
            alpn: alpn.iter().map(|s| (*s).to_owned()).collect(),
            ..TcpRuleSpec::default()
        };
        let asks = |rule: &TcpRuleSpec, name, alpn: &[&'static [u8]]| rule.fits(name, alpn.iter().copied());
        let names = rule(&["shop.test", "*.cdn.test"], &[]);
        assert!(asks(&names, Some("SHOP.test"), &[]) && asks(&names, Some("a.b.CDN.test"), &[b"h2"]));
        for other in [Some("a.shop.test"), Some("cdn.test"), Some(".cdn.test"), None] {
            assert!(!asks(&names, other, &[]), "{other:?}");
        }
        let both = rule(&["shop.test"], &["h2", "mqtt"]);
        assert!(asks(&both, Some("shop.test"), &[b"http/1.1", b"mqtt"]));
        assert!(!asks(&both, Some("shop.test"), &[b"http/1.1"]) && !asks(&both, Some("a.test"), &[b"h2"]));
    }
}
