//! Pools of a TCPProxy or UDPProxy: servers that take bytes or datagrams, and what is spoken with them.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dates::Dates;
use crate::duration::GoDuration;
use crate::health_check::{HealthCheckSpec, ProbeType};
use crate::load_balance::{LOAD_BALANCE_POLICIES, LoadBalanceSpec, WEIGHTED_POLICIES};
use crate::problem::{Findings, Problem, at, nth, one_of};
use crate::proxy::{MtlsSpec, OutlierDetectionSpec, ServerUrl};
use crate::proxy_protocol::ProxyProtocol;
use crate::repeats::repeats;
use crate::virtual_ip::Protocol;

/// A pool of servers that can stand for each other, as a Proxy's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct L4PoolSpec {
    /// Name that rules refer to. The pool that no rule names takes what no rule took.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The servers. `servers` or `serviceName` is needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<L4ServerSpec>,
    /// Name of the registry object, such as a ConsulServiceRegistry, that is asked for servers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_registry: String,
    /// Name of the service in the registry. Its servers come and go without a change of this document, and connections go on; TLS is spoken
    /// to them where `tls` is true, whatever their scheme. When it has none that can be used, or `serverTags` takes none of them, `servers`
    /// are used.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_name: String,
    /// Keep only servers that have one of these tags, discovered ones too. Default: all are kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("uniqueItems" = true))]
    pub server_tags: Vec<String>,
    /// How a server is chosen: `policy` roundRobin (default), random, weightedRandom, leastRequest, ipHash or maglev. What goes by headers or cookies is
    /// refused: there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balance: Option<LoadBalanceSpec>,
    /// How long connecting to one server may take, over all its addresses and with the TLS handshake; then another one is tried.
    /// Default 5s. Not with UDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<GoDuration>,
    /// Leave out for a while servers that fail. Default: those that cannot be connected to five times in a row. With it, connections
    /// that servers break before a byte came from them count as well; with UDP, servers that refuse datagrams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetectionSpec>,
    /// Probe the servers and leave out those that fail: with TCP by connecting, with UDP by a datagram, unless its `type` says otherwise.
    /// Default: none are probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheckSpec>,
    /// Speak TLS to all servers. Default false: to those whose URL is `tls://`. Not with UDP.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
    /// Towards servers TLS is spoken with: a certificate of ours, and whom to trust. Default: no certificate, the system's authorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MtlsSpec>,
    /// Tell servers who the client is: `v1` or `v2` (with UDP `v2` alone, before every datagram), before anything else. Default: as the
    /// listener's `proxyProtocol` says where that is `v1` or `v2`, else off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Of a thousand connections (with UDP, sessions) so many are refused, drawn anew for each: the share of servers that are not there,
    /// which the others shall not take over. 0 to 1000. Default 0.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(range(min = 0, max = 1000))]
    pub refused_permil: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A server of such a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["url"]))]
pub struct L4ServerSpec {
    /// Host and port: `tcp://10.0.0.1:5432`, `tls://db.test:5432`, `udp://[2001:db8::1]:53`, or without a scheme. A Unix socket is
    /// written `unix:///run/app.sock`.
    pub url: String,
    /// Words `serverTags` selects by.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("uniqueItems" = true))]
    pub tags: Vec<String>,
    /// Its share with weightedRandom, leastRequest and maglev, 0 to 100. Weights are given to all servers of a pool or to none. Default 0, all alike.
    #[schemars(range(min = 0, max = 100))]
    pub weight: u32,
    /// Connections it has at a time from this pool, over all workers of a machine; with UDP, sessions. Beyond it another server is
    /// taken (counted as `server_connections`). 0, the default: any number.
    pub max_connections: u32,
}

impl L4ServerSpec {
    /// Where it is. The error says what is wrong with the URL.
    pub fn place(&self, protocol: Protocol) -> Result<ServerUrl, String> {
        let (own, accepted): (&str, &[&str]) = match protocol {
            Protocol::Tcp => ("tcp", &["tcp", "tls", "unix"]),
            Protocol::Udp => ("udp", &["udp"]),
        };
        let (scheme, rest) = self.url.split_once("://").unwrap_or((own, &self.url));
        let scheme = scheme.to_ascii_lowercase();
        if !accepted.contains(&scheme.as_str()) {
            return Err(format!("the scheme {scheme} does not fit here; accepted: {}", one_of(accepted)));
        }
        if scheme == "unix" {
            return self.url.parse();
        }
        // The same hosts and ports as everywhere.
        let alike = if scheme == "tls" { "https" } else { "http" };
        let at: ServerUrl =
            format!("{alike}://{rest}").parse().map_err(|why: String| why.replace("http://", &format!("{own}://")))?;
        if !at.explicit_port {
            return Err(format!("no port; write it as {own}://host:port"));
        }
        if !at.path.is_empty() {
            return Err("a path means nothing here; remove it".to_owned());
        }
        Ok(at)
    }
}

impl L4PoolSpec {
    /// What servers are told: the pool's own word before the listener's.
    pub fn speaks(&self, listener: ProxyProtocol) -> ProxyProtocol {
        match (self.proxy_protocol, listener) {
            (Some(own), _) => own,
            (None, ProxyProtocol::Accept) => ProxyProtocol::Off,
            (None, said) => said,
        }
    }

    /// What servers are probed with where `healthCheck` does not say.
    pub fn probe(protocol: Protocol) -> ProbeType {
        match protocol {
            Protocol::Tcp => ProbeType::Tcp,
            Protocol::Udp => ProbeType::Udp,
        }
    }

    pub(crate) fn validate(&self, protocol: Protocol, path: &str, findings: &mut Findings) {
        self.validate_service(path, findings);
        self.validate_servers(protocol, &at(path, "servers"), findings);
        if let Some(balance) = &self.load_balance {
            validate_balance(balance, &at(path, "loadBalance"), findings);
        }
        let policy = self.load_balance.as_ref().map_or("", |balance| balance.policy.as_str());
        if !WEIGHTED_POLICIES.contains(&policy) && self.servers.iter().any(|server| server.weight > 0) {
            let text =
                "weights have no effect: only loadBalance.policy weightedRandom, leastRequest and maglev look at them";
            findings.warn(at(path, "servers"), text);
        }
        if self.refused_permil > 1000 {
            let problem = Problem::new(at(path, "refusedPermil"), "of a thousand connections no more can be refused");
            findings.problem(problem.value(&self.refused_permil.into()).accepted("0 to 1000"));
        }
        if self.connect_timeout.is_some_and(|t| t.is_zero()) {
            let problem = Problem::new(at(path, "connectTimeout"), "no connection could be made");
            findings.problem(problem.value(&"0s".into()).accepted("longer than 0s"));
        }
        if let Some(outliers) = &self.outlier_detection {
            outliers.validate(&at(path, "outlierDetection"), findings);
        }
        if let Some(check) = &self.health_check {
            check.validate(L4PoolSpec::probe(protocol), &at(path, "healthCheck"), findings);
        }
        let own = self.proxy_protocol.unwrap_or_default();
        own.check_pool(path, findings);
        if protocol == Protocol::Udp {
            self.validate_udp(own, path, findings);
        } else if let Some(mtls) = &self.mtls {
            if !self.speaks_tls() {
                findings.warn(at(path, "mtls"), "has no effect: no server is tls://, and the pool has no tls: true");
            }
            mtls.validate(&at(path, "mtls"), findings);
        }
    }

    fn validate_service(&self, path: &str, findings: &mut Findings) {
        if self.servers.is_empty() && self.service_name.is_empty() {
            let problem = Problem::new(at(path, "servers"), "no servers");
            findings.problem(problem.advice("list one at least, or give serviceRegistry and serviceName"));
        } else if self.servers.is_empty() && self.service_registry.is_empty() {
            let problem = Problem::new(at(path, "serviceRegistry"), "missing beside serviceName");
            findings.problem(problem.advice("name the registry, or list servers"));
        } else if self.service().is_none() && !self.service_registry.is_empty() {
            findings.warn(at(path, "serviceRegistry"), "has no effect without serviceName; servers are used");
        } else if self.service().is_none() && !self.service_name.is_empty() {
            findings.warn(at(path, "serviceName"), "has no effect without serviceRegistry; servers are used");
        }
        if self.health_check.is_some() && self.service().is_some() {
            let problem = Problem::new(at(path, "healthCheck"), "not together with serviceName");
            findings.problem(problem.advice("remove it: the registry says who is well"));
        }
    }

    /// The registry that is asked for servers, and the service there.
    pub fn service(&self) -> Option<(&str, &str)> {
        let named = !self.service_registry.is_empty() && !self.service_name.is_empty();
        named.then_some((&*self.service_registry, &*self.service_name))
    }

    fn validate_udp(&self, own: ProxyProtocol, path: &str, findings: &mut Findings) {
        if own == ProxyProtocol::V1 {
            let problem = Problem::new(at(path, "proxyProtocol"), "version 1 knows no UDP").text("v1");
            findings.problem(problem.accepted("off or v2"));
        }
        let absent = [(self.tls, "tls"), (self.mtls.is_some(), "mtls")];
        for (_, field) in absent.iter().filter(|(given, _)| *given) {
            let problem = Problem::new(at(path, field), "datagrams are sent as they are");
            findings.problem(problem.advice("remove it: DTLS and QUIC pass through"));
        }
        if self.connect_timeout.is_some() {
            findings.warn(at(path, "connectTimeout"), "has no effect: nothing is connected with UDP");
        }
    }

    /// Whether TLS is spoken to any server.
    pub fn speaks_tls(&self) -> bool {
        let scheme = |url: &str| url.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("tls://"));
        self.tls || self.servers.iter().any(|server| scheme(&server.url))
    }

    fn validate_servers(&self, protocol: Protocol, path: &str, findings: &mut Findings) {
        let weighted = self.servers.iter().any(|server| server.weight > 0);
        let twins: HashMap<usize, usize> = repeats(self.servers.iter().map(|server| &server.url)).collect();
        for (i, server) in self.servers.iter().enumerate() {
            let place = nth(path, i);
            match server.place(protocol) {
                Err(why) => findings.problem(Problem::new(at(&place, "url"), why).text(&server.url)),
                Ok(url) if self.tls && url.socket.is_some() => {
                    let problem = Problem::new(at(&place, "url"), "TLS is not spoken over a Unix socket");
                    findings.problem(problem.text(&server.url).advice("put it into a pool without tls"));
                }
                Ok(_) => {}
            }
            if weighted && server.weight == 0 {
                let problem = Problem::new(at(&place, "weight"), "missing: other servers of the pool have one");
                findings.problem(problem.advice("give every server a weight of 1 or more, or none of them"));
            }
            if let Some(twin) = twins.get(&i) {
                findings
                    .warn(at(&place, "url"), format!("the same server as servers[{twin}]: it gets twice the share"));
            }
        }
    }

    /// Refuses certificates that cannot be used, and notes in `dates` what is not valid at `now`.
    pub(crate) fn check_certificates(&self, path: &str, now: SystemTime, dates: &mut Dates, findings: &mut Findings) {
        if let Some(mtls) = &self.mtls {
            mtls.check_certificates(&at(path, "mtls"), now, dates, findings);
        }
    }
}

/// Policies that need no request to go by.
const POLICIES: [&str; 6] = ["roundRobin", "random", "weightedRandom", "leastRequest", "ipHash", "maglev"];

fn validate_balance(balance: &LoadBalanceSpec, path: &str, findings: &mut Findings) {
    let policy = balance.policy.as_str();
    if LOAD_BALANCE_POLICIES.contains(&policy) && !POLICIES.contains(&policy) {
        let problem = Problem::new(at(path, "policy"), "there are no headers to go by").text(policy);
        findings.problem(problem.accepted(one_of(&POLICIES)));
    } else if !policy.is_empty() && !POLICIES.contains(&policy) {
        let known = one_of(&POLICIES);
        let text = format!("{} is unknown, roundRobin is used; known: {known}", base_text::quoted(&policy));
        findings.warn(at(path, "policy"), text);
    }
    let given = [
        ("headerHashKey", !balance.header_hash_key.is_empty()),
        ("cookieHashKey", !balance.cookie_hash_key.is_empty()),
        ("forwardKey", !balance.forward_key.is_empty()),
        ("stickySession", balance.sticky_session.is_some()),
        ("healthCheck", balance.health_check.is_some()),
    ];
    for (field, _) in given.iter().filter(|(_, given)| *given) {
        let advice = if *field == "healthCheck" { "move it to the pool" } else { "remove it" };
        findings.problem(Problem::new(at(path, field), "is for requests, and there are none").advice(advice));
    }
}

/// Pools by name, and the one no rule names. Says what does not fit.
pub(crate) fn check_names<'s>(
    pools: &'s [L4PoolSpec],
    named: &[(String, &'s str)],
    path: &str,
    findings: &mut Findings,
) {
    let place = at(path, "pools");
    if pools.is_empty() {
        findings.problem(Problem::new(&place, "is empty").advice("list one pool with servers"));
    }
    let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, pool) in pools.iter().enumerate().filter(|(_, pool)| !pool.name.is_empty()) {
        if let Some(first) = by_name.insert(&pool.name, i) {
            let problem = Problem::new(at(&nth(&place, i), "name"), format!("pools[{first}] has this name, too"));
            findings.problem(problem.text(&pool.name).advice("names tell pools apart; choose another"));
        }
    }
    for (place, name) in named {
        if name.is_empty() || !by_name.contains_key(name) {
            let known: Vec<&str> = by_name.keys().copied().collect();
            let problem = Problem::new(place, "no pool of this name").text(name);
            findings.problem(if known.is_empty() {
                problem.advice("give the pool a name")
            } else {
                problem.accepted(one_of(&known))
            });
        }
    }
    let rest: Vec<usize> = unnamed(pools, |name| named.iter().any(|(_, known)| *known == name)).collect();
    if let [first, more @ ..] = rest.as_slice() {
        for i in more {
            let text = format!("no rule leads here, nor to pools[{first}]: one pool can take the rest");
            findings.problem(Problem::new(nth(&place, *i), text).advice("name it in a rule, or join the two"));
        }
    }
}

/// The pools no rule names.
pub fn unnamed(pools: &[L4PoolSpec], is_named: impl Fn(&str) -> bool) -> impl Iterator<Item = usize> {
    pools.iter().enumerate().filter(move |(_, pool)| pool.name.is_empty() || !is_named(&pool.name)).map(|(i, _)| i)
}
