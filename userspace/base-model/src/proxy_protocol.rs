//! The words of `proxyProtocol`, on listeners and on pools.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ip_filter::Cidr;
use crate::problem::{Findings, Problem, at};

/// Whether the PROXY protocol is spoken, and with whom.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// Not spoken.
    #[default]
    Off,
    /// Servers are told of the client in the text of version 1.
    V1,
    /// Servers are told of the client in the blocks of version 2.
    V2,
    /// Clients of `trustedProxies` must begin with a header of either version.
    Accept,
}

impl ProxyProtocol {
    pub fn is_off(&self) -> bool {
        *self == ProxyProtocol::Off
    }

    /// Of a listener that takes headers, or none.
    pub(crate) fn check_listener(self, trusted: &[Cidr], path: &str, findings: &mut Findings) {
        if self == ProxyProtocol::Accept && trusted.is_empty() {
            let problem = Problem::new(at(path, "proxyProtocol"), "nobody is trusted to say who a client is");
            findings.problem(problem.text("accept").advice("list the proxies in front in trustedProxies"));
        }
    }

    /// Of a pool.
    pub(crate) fn check_pool(self, path: &str, findings: &mut Findings) {
        if self == ProxyProtocol::Accept {
            let problem = Problem::new(at(path, "proxyProtocol"), "servers send no PROXY headers").text("accept");
            findings.problem(problem.accepted("off, v1 or v2").advice("say accept of the listener"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::render;

    #[test]
    fn each_side_has_its_words() {
        let problems = |text: &str, validate: fn(&serde_json::Value, &mut Findings)| {
            let mut findings = Findings::default();
            validate(&crate::yaml::parse_document(text).unwrap(), &mut findings);
            render(&findings.problems)
        };
        let pool = |text: &str| {
            problems(text, |value, findings| {
                if let Some(spec) = findings.take(crate::decode::<crate::ProxySpec>(value, "")) {
                    spec.validate("", findings);
                }
            })
        };
        let server = |text: &str| {
            problems(text, |value, findings| {
                if let Some(spec) = findings.take(crate::decode::<crate::HttpServerSpec>(value, "")) {
                    spec.validate("", findings);
                }
            })
        };
        let servers = "servers: [{url: 'http://a:1'}]";
        assert_eq!(pool(&format!("pools: [{{proxyProtocol: v1, {servers}}}]")), "");
        assert!(pool(&format!("pools: [{{proxyProtocol: accept, {servers}}}]")).contains("off, v1 or v2"));
        let both = pool(&format!("pools: [{{proxyProtocol: v2, http2: true, {servers}}}]"));
        assert!(both.starts_with("pools[0].http2 = true: not together with proxyProtocol"), "{both}");
        let both = pool("pools: [{proxyProtocol: v2, servers: [{url: 'http://a:1', http2: true}]}]");
        assert!(both.starts_with("pools[0].servers[0].http2 = true: not together with"), "{both}");
        assert_eq!(server("port: 1\nproxyProtocol: accept\ntrustedProxies: [10.0.0.0/8]"), "");
        assert_eq!(server("port: 1\nproxyProtocol: off"), "");
        assert!(server("port: 1\nproxyProtocol: accept").contains("list the proxies in front in trustedProxies"));
        assert!(server("port: 1\nproxyProtocol: v1").contains("off or accept"));
    }
}
