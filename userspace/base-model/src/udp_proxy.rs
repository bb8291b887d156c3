//! `kind: UDPProxy`: a listener whose datagrams are relayed, by sessions.
//!
//! ```yaml
//! name: names
//! kind: UDPProxy
//! port: 53
//! responses: 1
//! pools:
//! - servers:
//!   - url: udp://10.0.0.1:53
//!   - url: udp://10.0.0.2:53
//! ```

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::GoDuration;
use crate::ip_filter::{Cidr, IpFilterSpec};
use crate::l4_pool::{L4PoolSpec, check_names};
use crate::listener;
use crate::problem::{Findings, Problem, at, nth};
use crate::proxy_protocol::ProxyProtocol;
use crate::virtual_ip::Protocol;

/// A listener for UDP, and the servers its datagrams are relayed to. What one client sends from one port to one address is a session:
/// it stays with its server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["port", "pools"]))]
pub struct UdpProxySpec {
    /// Address to listen on, IPv4 or IPv6. Default: every address, and every VirtualIP that has the port. Clients are answered from the
    /// address they sent to.
    pub address: String,
    /// Port to listen on, 1 to 65535. A change re-listens; sessions of the old port end.
    pub port: u16,
    /// Sessions at a time over all workers of a machine, 1 or more; datagrams that would begin another one are dropped (counted as
    /// `udp_sessions`). Each worker keeps an equal share. Default 65536; changes live.
    #[schemars(range(min = 1))]
    pub max_sessions: u32,
    /// Sessions at a time of one client address (of IPv6, of one /64); datagrams that would begin another one are dropped (counted as
    /// `udp_sessions_per_ip`). 0, the default: any number.
    #[serde(rename = "maxSessionsPerIP")]
    pub max_sessions_per_ip: u32,
    /// How long a session may pass no datagram in either direction. Default 60s, more than 0s.
    pub idle_timeout: GoDuration,
    /// Datagrams a server answers each of the client's with. Once as many have come the session ends and frees its place, and a server
    /// that has answered none by the idle time-out has failed. Default: any number, for as long as they come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub responses: Option<u32>,
    /// Clients that may come in; the datagrams of others are dropped (counted as `ip_filter`). Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_filter: Option<IpFilterSpec>,
    /// `accept`: datagrams from `trustedProxies` must begin with a PROXY header of version 2, and are from whom it says; those of anybody
    /// else that begin with one are dropped (counted as `proxy_untrusted`). `v2`: servers are told of the client before each datagram.
    /// Default off.
    #[serde(skip_serializing_if = "ProxyProtocol::is_off")]
    pub proxy_protocol: ProxyProtocol,
    /// Peers whose PROXY headers are believed, addresses and prefixes. Needed with `proxyProtocol: accept`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<Cidr>,
    /// The pool of servers; one.
    pub pools: Vec<L4PoolSpec>,
}

impl Default for UdpProxySpec {
    fn default() -> Self {
        Self {
            address: String::new(),
            port: 0,
            max_sessions: 65_536,
            max_sessions_per_ip: 0,
            idle_timeout: GoDuration::from_secs(60),
            responses: None,
            ip_filter: None,
            proxy_protocol: ProxyProtocol::Off,
            trusted_proxies: Vec::new(),
            pools: Vec::new(),
        }
    }
}

impl UdpProxySpec {
    pub fn validate(&self, path: &str, findings: &mut Findings) {
        listener::check_place(&self.address, self.port, path, findings);
        if self.max_sessions == 0 {
            let problem = Problem::new(at(path, "maxSessions"), "out of range").value(&0.into());
            findings.problem(problem.accepted("1 or more"));
        }
        listener::check_timeout("idleTimeout", self.idle_timeout, path, findings);
        self.proxy_protocol.check_listener(&self.trusted_proxies, path, findings);
        if self.proxy_protocol == ProxyProtocol::V1 {
            let problem = Problem::new(at(path, "proxyProtocol"), "version 1 knows no UDP").text("v1");
            findings.problem(problem.accepted("off, v2 or accept"));
        }
        if !self.trusted_proxies.is_empty() && self.proxy_protocol != ProxyProtocol::Accept {
            findings.warn(at(path, "trustedProxies"), "has no effect without proxyProtocol: accept");
        }
        check_names(&self.pools, &[], path, findings);
        for (i, pool) in self.pools.iter().enumerate() {
            pool.validate(Protocol::Udp, &nth(&at(path, "pools"), i), findings);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::render;

    #[test]
    fn what_cannot_be_is_refused() {
        let problems = |text: &str| {
            let value = crate::yaml::parse_document(text).unwrap();
            let mut findings = Findings::default();
            if let Some(spec) = findings.take(crate::decode::<UdpProxySpec>(&value, "")) {
                spec.validate("", &mut findings);
            }
            render(&findings.problems)
        };
        let pools = "pools: [{servers: [{url: 'udp://a.test:1'}, {url: 'b.test:1'}]}]";
        assert_eq!(problems(&format!("port: 1\nresponses: 1\n{pools}")), "");
        for (text, told) in [
            ("port: 1".to_owned(), "pools: missing"),
            (format!("port: 1\nproxyProtocol: v1\n{pools}"), "version 1 knows no UDP"),
            (format!("port: 1\nmaxSessions: 0\n{pools}"), "maxSessions"),
            (format!("port: 1\n{}", pools.replace("servers", "tls: true, servers")), "datagrams are sent as they are"),
            ("port: 1\npools: [{servers: [{url: 'tls://a:1'}]}]".to_owned(), "accepted: udp"),
        ] {
            let found = problems(&text);
            assert!(found.contains(told), "{text}: {found}");
        }
    }
}
