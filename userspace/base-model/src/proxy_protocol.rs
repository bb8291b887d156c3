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
