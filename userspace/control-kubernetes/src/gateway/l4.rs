//! TCPRoutes, UDPRoutes and TLSRoutes: TCPProxies and UDPProxies, whose servers stand in their documents.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::object::Route;
use super::{Attached, Certificate, Made, Ours, service_of};
use crate::certificates::{self, Candidate};
use crate::endpoints;
use crate::kinds::Kind;

pub(super) fn servers(made: &mut Made<'_>, ours: &[Ours<'_>], attached: &[Attached<'_>]) {
    for (g, one) in ours.iter().enumerate().filter(|(_, one)| one.problem.is_none()) {
        // Listeners of one port differ by their hosts.
        let mut ports: BTreeMap<(i64, bool), Vec<usize>> = BTreeMap::new();
        for (l, heard) in one.listeners.iter().enumerate().filter(|(_, heard)| heard.serves()) {
            if matches!(heard.listener.protocol.as_str(), "TLS" | "TCP" | "UDP") {
                ports.entry((heard.listener.port, heard.listener.protocol == "UDP")).or_default().push(l);
            }
        }
        for ((port, udp), listeners) in ports {
            let here = |l: &usize| {
                let l = *l;
                attached.iter().filter_map(move |attached| {
                    let place = attached.places.iter().find(|(of, at, _)| (*of, *at) == (g, l));
                    place.map(|(_, _, hosts)| (attached, hosts))
                })
            };
            let first = &one.listeners[listeners[0]];
            let tls = first.listener.protocol == "TLS";
            let (mut pools, mut rules) = (Vec::new(), Vec::new());
            let (mut names, mut rest) = (BTreeSet::new(), false);
            for (attached, hosts) in listeners.iter().flat_map(here) {
                let name = format!("{}.{}", attached.route.metadata.namespace, attached.route.metadata.name);
                let Some(mut pool) = pool(made, attached.kind, attached.route, udp) else { continue };
                if !tls {
                    // Connections say nothing that a second route could be chosen by: the oldest has them.
                    pools.push(pool);
                    break;
                }
                let is_rest = hosts.iter().any(String::is_empty);
                // The pool that no rule names has what the others have not; of two that want it the older one.
                if is_rest && std::mem::replace(&mut rest, true) {
                    continue;
                }
                let name = if is_rest { format!("{name}.rest") } else { name };
                // Several listeners of a port may have taken the same route.
                if names.insert(name.clone()) {
                    pool["name"] = json!(name);
                    pools.push(pool);
                }
                if !is_rest {
                    let rule = |host: &String| {
                        ((host.starts_with('*'), Reverse(host.len())), json!({"pool": name, "sni": [host]}))
                    };
                    rules.extend(hosts.iter().map(rule));
                }
            }
            if pools.is_empty() && tls {
                // Whoever comes is turned away by name; the name of this pool is asked for by nobody (RFC 6761, RFC 5737).
                pools.push(json!({"name": "none", "servers": [{"url": "tcp://192.0.2.1:1"}]}));
                rules.push(((false, Reverse(0)), json!({"pool": "none", "sni": ["none.invalid"]})));
            }
            if pools.is_empty() {
                continue;
            }
            rules.sort_by_key(|(rank, _)| *rank);
            let kind = if udp { "UDPProxy" } else { "TCPProxy" };
            let name = made.server_name(if udp { "udp" } else { "tcp" }, &one.address, port);
            let mut document =
                json!({"name": name, "kind": kind, "address": one.address, "port": port, "pools": pools});
            if tls {
                document["rules"] = rules.into_iter().map(|(_, rule)| rule).collect();
                document["tls"] = json!(if first.is_passthrough() { "passthrough" } else { "terminate" });
            }
            if tls && !first.is_passthrough() {
                let (mut certs, mut keys) = (Map::new(), Map::new());
                let all = || listeners.iter().flat_map(|l| &one.listeners[*l].certificates);
                let holder = one.gateway.metadata.key().to_string();
                let candidate = |(secret, pair): &Certificate| Candidate {
                    secret: secret.clone(),
                    names: made.check.names(secret, pair),
                    holder: holder.clone(),
                };
                let candidates: Vec<Candidate> = all().map(candidate).collect();
                let mut called = certificates::called(&candidates, |_| None);
                if let Some(first) = candidates.first() {
                    certificates::shown_first(&mut called, &first.secret);
                }
                for (secret, (chain, key)) in all() {
                    let called = called.get(secret).unwrap_or(secret);
                    certs.insert(called.clone(), json!(chain));
                    keys.insert(called.clone(), json!(key));
                }
                document["certs"] = Value::Object(certs);
                document["keys"] = Value::Object(keys);
            }
            made.put(document, (Kind::Gateway, one.gateway.metadata.key()));
        }
    }
}

/// The servers of a route's first rule; none where it has none.
fn pool(made: &Made<'_>, kind: Kind, route: &Route, udp: bool) -> Option<Value> {
    let rule = route.spec.rules.first()?;
    let mut found: Vec<(i64, Vec<endpoints::Server>)> = Vec::new();
    for backend in &rule.backend_refs {
        let Ok(service) = service_of(made.store, kind, &route.metadata.namespace, backend) else { continue };
        let servers = endpoints::servers(made.store, &service).unwrap_or_default();
        if !servers.is_empty() && backend.weight != Some(0) {
            found.push((backend.weight.unwrap_or(1), servers));
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
    if weighted {
        pool["loadBalance"] = json!({"policy": "weightedRandom"});
    }
    Some(pool)
}
