//! TCPRoutes, UDPRoutes and TLSRoutes: TCPProxies and UDPProxies, whose servers stand in their documents.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value, json};

use super::http::narrowest;
use super::routes::Attached;
use super::{Certificate, Made, Ours, service_of, tls};
use crate::certificates::{self, Candidate};
use crate::endpoints;
use crate::kinds::Kind;

/// A route at a listener, and the hosts that it has there.
type Here<'a> = (&'a Attached, &'a Vec<String>);

pub(super) fn servers(made: &mut Made<'_>, ours: &[Ours<'_>], attached: &[Attached]) {
    // By Gateway and listener: the routes that are there, oldest first, with their hosts.
    let mut at: HashMap<(usize, usize), Vec<Here<'_>>> = HashMap::new();
    for attached in attached {
        for (g, l, hosts) in &attached.places {
            at.entry((*g, *l)).or_default().push((attached, hosts));
        }
    }
    for (g, one) in ours.iter().enumerate().filter(|(_, one)| one.problem.is_none()) {
        // Listeners of one port differ by their hosts.
        let mut ports: BTreeMap<(i64, bool), Vec<usize>> = BTreeMap::new();
        for (l, heard) in one.listeners.iter().enumerate().filter(|(_, heard)| heard.serves()) {
            if matches!(heard.listener.protocol.as_str(), "TLS" | "TCP" | "UDP") {
                ports.entry((heard.listener.port, heard.listener.protocol == "UDP")).or_default().push(l);
            }
        }
        for ((port, udp), listeners) in ports {
            let here = |l: &usize| at.get(&(g, *l)).into_iter().flatten().copied();
            let first = &one.listeners[listeners[0]];
            let tls = first.listener.protocol == "TLS";
            // What no rule takes is of the listener for all names, or of nobody.
            let mut heard = listeners.iter().map(|l| &one.listeners[*l]);
            let rest = heard.find(|heard| heard.listener.hostname.is_empty()).unwrap_or(first);
            let ends_tls = tls && !rest.is_passthrough();
            let (mut pools, mut rules) = (Vec::new(), Vec::new());
            if tls {
                (pools, rules) = by_name(made, one, g, &listeners, here, ends_tls);
            } else if let Some((attached, _)) = listeners.iter().flat_map(here).next() {
                // Connections say nothing that a second route could be chosen by: the oldest has them, whether it can serve them or not.
                pools.extend(pool(made, one, attached, (udp, false)));
            }
            if pools.is_empty() {
                continue;
            }
            let kind = if udp { "UDPProxy" } else { "TCPProxy" };
            let mut document = json!({"kind": kind, "port": port, "pools": pools});
            if tls {
                document["rules"] = json!(rules);
                document["tls"] = json!(mode(ends_tls));
            }
            if tls && listeners.iter().any(|l| !one.listeners[*l].is_passthrough()) {
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
            for address in &one.addresses {
                let mut document = document.clone();
                document["name"] = json!(made.server_name(if udp { "udp" } else { "tcp" }, address, port));
                document["address"] = json!(address);
                if let Err(why) = made.put_server(document, None, (Kind::Gateway, one.gateway.metadata.key())) {
                    made.unserved.extend(listeners.iter().map(|l| ((g, *l), why.clone())));
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
fn by_name<'a, I>(
    made: &mut Made<'_>,
    one: &Ours<'_>,
    g: usize,
    listeners: &[usize],
    here: impl Fn(&usize) -> I,
    rest_ends: bool,
) -> (Vec<Value>, Vec<Value>)
where
    I: Iterator<Item = Here<'a>>,
{
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
        listeners.iter().map(|l| (one.listeners[*l].listener.hostname.to_ascii_lowercase(), g, *l)).collect();
    for l in listeners {
        for (attached, hosts) in here(l) {
            // A name is of the listener for the fewest names that it is within, and of the routes of that one alone.
            let (own, others): (Vec<&String>, Vec<&String>) = hosts
                .iter()
                .partition(|host| narrowest(&listening, host).is_none_or(|(_, of, at)| (*of, *at) == (g, *l)));
            let key = (attached.kind, attached.route.metadata.key());
            for host in others {
                let told = format!(
                    "{} is of another listener, and the routes of that listener alone are asked for it",
                    base_text::quoted(host)
                );
                made.told.reports.entry(key.clone()).or_default().refused("spec.hostnames", told);
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
                let mut pool = pool(made, one, attached, (false, ends(*l))).unwrap_or_else(refusing);
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
fn pool(made: &mut Made<'_>, one: &Ours<'_>, attached: &Attached, (udp, ends_tls): (bool, bool)) -> Option<Value> {
    let (kind, route) = (attached.kind, &attached.route);
    if route.spec.rules.len() > 1 {
        let told = "connections say nothing that one of several rules could be chosen by: the first has them all";
        made.told.reports.entry((kind, route.metadata.key())).or_default().refused("spec.rules", told);
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
