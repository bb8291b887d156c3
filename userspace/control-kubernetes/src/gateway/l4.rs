//! TCPRoutes, UDPRoutes and TLSRoutes: TCPProxies and UDPProxies, whose servers stand in their documents.
//!
//! A server is made anew where one of its routes, its Gateway, its certificates or the servers of a service that it leads to are others than
//! they were, and stays the very same where they are not.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::http::narrowest;
use super::object::Route;
use super::routes::is_as_old;
use super::{Certificate, Made, Ours, Told, service_of, tls};
use crate::certificates::{self, Candidate};
use crate::endpoints;
use crate::kinds::Kind;
use crate::object::Key;
use crate::store::Looked;

/// A route at a listener, and the hosts that it has there.
#[derive(Clone)]
pub(super) struct Here {
    pub kind: Kind,
    pub route: Arc<Route>,
    pub hosts: Vec<String>,
}

impl Here {
    /// Whether the same would be made of it.
    fn is_as(&self, was: &Here) -> bool {
        let is_same = Arc::ptr_eq(&self.route.spec, &was.route.spec) && is_as_old(&was.route, &self.route);
        is_same
            && self.kind == was.kind
            && self.hosts == was.hosts
            && self.route.metadata.key() == was.route.metadata.key()
    }
}

/// By Gateway and listener: routes that are there, oldest first.
pub(super) type Attached = HashMap<(usize, usize), Vec<Here>>;

/// A server of a Gateway: its port, and whether it is one of datagrams.
pub(super) type Port = (Key, i64, bool);

/// What came of a port, for as long as that of which it was made is as it was.
pub(super) struct KnownPort {
    /// By listener.
    here: Vec<(usize, Vec<Here>)>,
    certificates: Vec<Certificate>,
    /// Services, and their servers.
    looked: Looked,
    /// By name, one for each address of the Gateway.
    servers: BTreeMap<String, Arc<Value>>,
    refused: BTreeSet<String>,
    unserved: Vec<((usize, usize), String)>,
    told: Told,
}

impl KnownPort {
    fn has(&self, here: &[(usize, Vec<Here>)]) -> bool {
        let is_same = |(now, was): (&Vec<Here>, &Vec<Here>)| {
            now.len() == was.len() && now.iter().zip(was).all(|(now, was)| now.is_as(was))
        };
        here.len() == self.here.len()
            && here.iter().zip(&self.here).all(|((l, now), (at, was))| l == at && is_same((now, was)))
    }
}

/// What the pools of such servers look for.
const LOOKED_FOR: [Kind; 2] = [Kind::Service, Kind::EndpointSlice];

/// `anew`: Gateways, grants or policies are others, of which nothing is kept here.
pub(super) fn servers(made: &mut Made<'_>, ours: &[Ours<'_>], anew: bool) {
    let store = made.store;
    let attached = (anew || made.attached_differ).then(|| made.known.attached_to_l4());
    let mut before = std::mem::take(&mut made.known.ports);
    for (g, one) in ours.iter().enumerate().filter(|(_, one)| one.problem.is_none()) {
        // Listeners of one port differ by their hosts.
        let mut ports: BTreeMap<(i64, bool), Vec<usize>> = BTreeMap::new();
        for (l, heard) in one.listeners.iter().enumerate().filter(|(_, heard)| heard.serves()) {
            if matches!(heard.listener.protocol.as_str(), "TLS" | "TCP" | "UDP") {
                ports.entry((heard.listener.port, heard.listener.protocol == "UDP")).or_default().push(l);
            }
        }
        for ((port, udp), listeners) in ports {
            let of: Port = (one.gateway.metadata.key(), port, udp);
            let was = before.remove(&of);
            let certificates = || listeners.iter().flat_map(|l| &one.listeners[*l].certificates);
            let here: Option<Vec<(usize, Vec<Here>)>> = attached.as_ref().map(|attached| {
                listeners.iter().map(|l| (*l, attached.get(&(g, *l)).cloned().unwrap_or_default())).collect()
            });
            let is_same = was.as_ref().is_some_and(|was| {
                let has = here.as_ref().is_none_or(|here| was.has(here));
                !anew && has && was.certificates.iter().eq(certificates()) && was.looked.holds(store)
            });
            let known = match was {
                Some(was) if is_same => was,
                was => {
                    made.l4_differs = true;
                    let here = here.or(was.map(|was| was.here)).unwrap_or_default();
                    let certificates = certificates().cloned().collect();
                    let mut known = KnownPort {
                        here,
                        certificates,
                        looked: Looked::default(),
                        servers: BTreeMap::new(),
                        refused: BTreeSet::new(),
                        unserved: Vec::new(),
                        told: Told::default(),
                    };
                    ((), known.looked) = store.noting(&LOOKED_FOR, || made.port(ours, g, (port, udp), &mut known));
                    known
                }
            };
            made.servers.extend(known.servers.iter().map(|(name, server)| (name.clone(), server.clone())));
            made.refused.extend(known.refused.iter().cloned());
            made.unserved.extend(known.unserved.iter().cloned());
            for (of, report) in &known.told.reports {
                made.told.reports.entry(of.clone()).or_default().notes.extend(report.notes.iter().cloned());
            }
            made.known.ports.insert(of, known);
        }
    }
    made.l4_differs |= !before.is_empty();
}

impl Made<'_> {
    /// What comes of a port, from its routes and certificates.
    fn port(&mut self, ours: &[Ours<'_>], g: usize, (port, udp): (i64, bool), known: &mut KnownPort) {
        let one = &ours[g];
        let listeners: Vec<usize> = known.here.iter().map(|(l, _)| *l).collect();
        let Some(first) = listeners.first().map(|l| &one.listeners[*l]) else { return };
        let tls = first.listener.protocol == "TLS";
        // What no rule takes is of the listener for all names, or of nobody.
        let mut heard = listeners.iter().map(|l| &one.listeners[*l]);
        let rest = heard.find(|heard| heard.listener.hostname.is_empty()).unwrap_or(first);
        let ends_tls = tls && !rest.is_passthrough();
        let (mut pools, mut rules) = (Vec::new(), Vec::new());
        if tls {
            (pools, rules) = by_name(self, one, g, known, ends_tls);
        } else if let Some(first) = known.here.iter().flat_map(|(_, here)| here).next() {
            // Connections say nothing that a second route could be chosen by: the oldest has them, whether it can serve them or not.
            pools.extend(pool(self, one, first, (udp, false), &mut known.told));
        }
        if pools.is_empty() {
            return;
        }
        let kind = if udp { "UDPProxy" } else { "TCPProxy" };
        let mut document = json!({"kind": kind, "port": port, "pools": pools});
        if tls {
            document["rules"] = json!(rules);
            document["tls"] = json!(mode(ends_tls));
        }
        if tls && listeners.iter().any(|l| !one.listeners[*l].is_passthrough()) {
            let (mut certs, mut keys) = (Map::new(), Map::new());
            let holder = one.gateway.metadata.key().to_string();
            let candidate = |(secret, pair): &Certificate| Candidate {
                secret: secret.clone(),
                names: self.check.names(secret, pair),
                holder: holder.clone(),
            };
            let candidates: Vec<Candidate> = known.certificates.iter().map(candidate).collect();
            let mut called = certificates::called(&candidates, |_| None);
            if let Some(first) = candidates.first() {
                certificates::shown_first(&mut called, &first.secret);
            }
            for (secret, (chain, key)) in &known.certificates {
                let called = called.get(secret).unwrap_or(secret);
                certs.insert(called.clone(), json!(chain));
                keys.insert(called.clone(), json!(key));
            }
            document["certs"] = Value::Object(certs);
            document["keys"] = Value::Object(keys);
        }
        for address in &one.addresses {
            let mut document = document.clone();
            let name = self.server_name(if udp { "udp" } else { "tcp" }, address, port);
            document["name"] = json!(name);
            document["address"] = json!(address);
            match self.check.check(&document) {
                Ok(()) => {
                    let document = self.known.same_server(&name, document);
                    known.servers.insert(name, document);
                }
                Err(why) => {
                    known.told.refuse((Kind::Gateway, one.gateway.metadata.key()), &why);
                    known.refused.insert(name);
                    known.unserved.extend(listeners.iter().map(|l| ((g, *l), why.clone())));
                }
            }
        }
    }
}

/// What becomes of TLS.
fn mode(ends_tls: bool) -> &'static str {
    if ends_tls { "terminate" } else { "passthrough" }
}

/// Pools of TLSRoutes, and the rules that lead to them by the name that clients ask for: the narrowest first. `rest_ends`: TLS ends here
/// where no rule says otherwise.
fn by_name(
    made: &Made<'_>,
    one: &Ours<'_>,
    g: usize,
    known: &mut KnownPort,
    rest_ends: bool,
) -> (Vec<Value>, Vec<Value>) {
    let KnownPort { here, told, .. } = known;
    let (mut pools, mut rules) = (Vec::new(), Vec::new());
    let (mut names, mut rest) = (BTreeSet::new(), false);
    let ends = |l: usize| !one.listeners[l].is_passthrough();
    let rule = |pool: &str, host: &str, ends: bool| {
        let mut rule = json!({"pool": pool, "sni": [host]});
        if ends != rest_ends {
            rule["tls"] = json!(mode(ends));
        }
        ((host.starts_with('*'), Reverse(host.len())), rule)
    };
    let listening: Vec<(String, usize, usize)> =
        here.iter().map(|(l, _)| (one.listeners[*l].listener.hostname.to_ascii_lowercase(), g, *l)).collect();
    for (l, routes) in here.iter() {
        for attached in routes {
            // A name is of the listener for the fewest names that it is within, and of the routes of that one alone.
            let (own, others): (Vec<&String>, Vec<&String>) = attached
                .hosts
                .iter()
                .partition(|host| narrowest(&listening, host).is_none_or(|(_, of, at)| (*of, *at) == (g, *l)));
            let key = (attached.kind, attached.route.metadata.key());
            for host in others {
                let words = format!(
                    "{} is of another listener, and the routes of that listener alone are asked for it",
                    base_text::quoted(host)
                );
                told.reports.entry(key.clone()).or_default().refused("spec.hostnames", words);
            }
            let is_rest = own.iter().any(|host| host.is_empty());
            // The pool that no rule names has what the others have not; of two that want it the older one.
            if own.is_empty() || is_rest && std::mem::replace(&mut rest, true) {
                continue;
            }
            // No object has a tilde in its name.
            let end = if is_rest { "~rest" } else { "" };
            // Servers of what ends here are spoken to anew, with TLS of its own or without.
            let end = if ends(*l) == rest_ends { end } else { "~other" };
            let name = format!("{}.{}{end}", key.1.namespace, key.1.name);
            // Several listeners of a port may have taken the same route.
            if names.insert(name.clone()) {
                // One that has no servers keeps its names: nobody else gets what is meant for it.
                let mut pool = pool(made, one, attached, (false, ends(*l)), told).unwrap_or_else(refusing);
                pool["name"] = json!(name);
                pools.push(pool);
            }
            if !is_rest {
                rules.extend(own.iter().map(|host| rule(&name, host, ends(*l))));
            }
        }
    }
    // Names of a listener that none of its routes has are nobody's, least of all the rest's.
    let named = listening.iter().filter(|(host, ..)| !host.is_empty());
    let mut closed: Vec<(&str, bool)> = named.map(|(host, _, l)| (host.as_str(), ends(*l))).collect();
    closed.retain(|(host, _)| !rules.iter().any(|(_, rule)| rule["sni"][0] == **host));
    if pools.is_empty() {
        // Whoever comes is turned away by name; this one is asked for by nobody (RFC 6761).
        closed.push(("none.invalid", rest_ends));
    }
    if !closed.is_empty() {
        let mut none = refusing();
        none["name"] = json!(NONE);
        pools.push(none);
        rules.extend(closed.into_iter().map(|(host, ends)| rule(NONE, host, ends)));
    }
    rules.sort_by_key(|(rank, _)| *rank);
    (pools, rules.into_iter().map(|(_, rule)| rule).collect())
}

/// A pool that takes nobody; its server is nobody's either (RFC 5737).
fn refusing() -> Value {
    json!({"servers": [{"url": "tcp://192.0.2.1:1"}], "refusedPermil": 1000})
}

/// The pool that takes nobody. No object is called so.
const NONE: &str = "~none";

/// The servers of a route's first rule; none where it has none. With those of a policy TLS is spoken anew where it has been ended.
fn pool(
    made: &Made<'_>,
    one: &Ours<'_>,
    attached: &Here,
    (udp, ends_tls): (bool, bool),
    told: &mut Told,
) -> Option<Value> {
    let (kind, route) = (attached.kind, &attached.route);
    if route.spec.rules.len() > 1 {
        let words = "connections say nothing that one of several rules could be chosen by: the first has them all";
        told.reports.entry((kind, route.metadata.key())).or_default().refused("spec.rules", words);
    }
    let rule = route.spec.rules.first()?;
    let mut believed: Option<Option<Value>> = None;
    let mut found: Vec<(i64, Vec<endpoints::Server>)> = Vec::new();
    // The weight of what cannot be used: connections that were meant for it are refused, and the others do not take them over.
    let mut refused = 0;
    for backend in &rule.backend_refs {
        let weight = backend.weight.unwrap_or(1);
        let Ok(service) = service_of(made.store, kind, &route.metadata.namespace, backend) else {
            refused += weight;
            continue;
        };
        let policy = made.policies.of(made.store, &service.service, &service.port);
        let servers = endpoints::servers(made.store, &service).unwrap_or_default();
        // Servers of one pool are believed alike.
        let tls = if ends_tls { tls::towards(policy, one.identity.as_ref()) } else { Ok(None) };
        match tls {
            Ok(tls) if !servers.is_empty() && *believed.get_or_insert_with(|| tls.clone()) == tls => {
                if weight > 0 {
                    found.push((weight, servers));
                }
            }
            _ => refused += weight,
        }
    }
    let heaviest = found.iter().map(|(weight, servers)| *weight as f64 / servers.len() as f64).fold(0.0, f64::max);
    let weighted = found.len() > 1;
    let mut listed = Vec::new();
    for (weight, servers) in &found {
        // A backend's weight is that of all its servers together; 100 is the most that one may have.
        let each = (*weight as f64 / servers.len() as f64 / heaviest * 100.0).round().clamp(1.0, 100.0);
        for server in servers {
            let host =
                if server.address.contains(':') { format!("[{}]", server.address) } else { server.address.clone() };
            let mut entry = json!({"url": format!("{}://{host}:{}", if udp { "udp" } else { "tcp" }, server.port)});
            if weighted {
                entry["weight"] = json!(each as u32);
            }
            listed.push(entry);
        }
    }
    if listed.is_empty() {
        return None;
    }
    let mut pool = json!({"servers": listed});
    let all = refused + found.iter().map(|(weight, _)| weight).sum::<i64>();
    if refused > 0 {
        pool["refusedPermil"] = json!((refused as f64 / all as f64 * 1000.0).round().clamp(1.0, 999.0) as u32);
    }
    if let Some(tls) = believed.flatten() {
        pool["tls"] = json!(true);
        pool["mtls"] = tls;
    }
    if weighted {
        pool["loadBalance"] = json!({"policy": "weightedRandom"});
    }
    Some(pool)
}
