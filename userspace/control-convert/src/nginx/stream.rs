//! The `stream` block: TCPProxies and UDPProxies.

use super::Work;
use super::advice::{left, say};
use super::http::place;
use super::pool::{Upstreams, l4_pool};
use super::scope::{Scope, time};
use super::syntax::Directive;
use crate::report::Manner;
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

pub fn convert(work: &mut Work<'_>, block: &[Directive]) {
    let upstreams: Upstreams<'_> =
        block.iter().filter(|d| d.name == "upstream" && d.block.is_some()).map(|d| (d.word(0), d)).collect();
    // Which group the name of a TLS handshake leads to.
    let is_by_name = |d: &Directive| d.name == "map" && d.word(0) == "$ssl_preread_server_name";
    let mut by_name: HashMap<&str, &Directive> = HashMap::new();
    for map in block.iter().filter(|d| is_by_name(d)) {
        by_name.entry(map.word(1)).or_insert(map);
    }
    for directive in block {
        match (directive.name.as_str(), &directive.block) {
            ("server", Some(inner)) => server(work, &upstreams, &by_name, directive, inner),
            ("upstream", Some(_)) => {}
            ("map", Some(_)) if is_by_name(directive) => {}
            _ => left(&mut work.report, directive),
        }
    }
}

fn server(
    work: &mut Work<'_>,
    upstreams: &Upstreams<'_>,
    by_name: &HashMap<&str, &Directive>,
    owner: &Directive,
    block: &[Directive],
) {
    let mut fields = Map::new();
    let (mut connect, mut introduces) = (None, false);
    let mut target = None;
    let mut places = Vec::new();
    for directive in block {
        let first = directive.word(0);
        match directive.name.as_str() {
            "listen" => match place(first) {
                Some(at) => {
                    let udp = directive.words.iter().any(|word| word == "udp");
                    for word in directive.words.iter().skip(1) {
                        match word.as_str() {
                            "udp" | "reuseport" => {}
                            "proxy_protocol" => {
                                fields.insert("proxyProtocol".into(), "accept".into());
                            }
                            "ssl" => say(
                                &mut work.report,
                                directive,
                                Manner::Lost,
                                "TLS is not ended here by this document",
                                "tls: terminate of the TCPProxy, with certs and keys",
                            ),
                            _ => say(&mut work.report, directive, Manner::Lost, &format!("{word} is not known"), ""),
                        }
                    }
                    places.push((at, udp));
                }
                None => {
                    say(&mut work.report, directive, Manner::Lost, "only ports are listened on", "port of the TCPProxy")
                }
            },
            "proxy_pass" => target = Some(directive),
            "proxy_timeout" => {
                if let Some(time) = time(first) {
                    fields.insert("idleTimeout".into(), time.into());
                }
            }
            "proxy_connect_timeout" => connect = time(first),
            "proxy_protocol" => introduces = first == "on",
            "proxy_responses" => {
                if let Ok(count) = first.parse::<u32>() {
                    fields.insert("responses".into(), count.into());
                }
            }
            "allow" | "deny" => {}
            _ => left(&mut work.report, directive),
        }
    }
    let access = block.iter().filter(|d| matches!(d.name.as_str(), "allow" | "deny")).cloned().collect();
    if let Some(filter) = (Scope { access: Rc::new(access), ..Scope::outermost() }).ip_filter(work) {
        fields.insert("ipFilter".into(), filter);
    }
    let Some(target) = target else {
        return say(&mut work.report, owner, Manner::Lost, "nothing in it says where to", "");
    };
    for ((address, port), udp) in places {
        let scheme = if udp { "udp" } else { "tcp" };
        let pool_of = |work: &mut Work<'_>, place: &str| {
            let mut pool = l4_pool(work, upstreams, place, scheme);
            if let Some(time) = &connect {
                pool["connectTimeout"] = time.as_str().into();
            }
            if introduces {
                pool["proxyProtocol"] = if udp { "v2" } else { "v1" }.into();
            }
            pool
        };
        let mut document = Map::new();
        document.insert("kind".into(), if udp { "UDPProxy" } else { "TCPProxy" }.into());
        document.insert("name".into(), work.names.give(&[work.prefix, scheme, &address, &port.to_string()]).into());
        if !address.is_empty() {
            document.insert("address".into(), address.into());
        }
        document.insert("port".into(), port.into());
        document
            .extend(fields.iter().filter(|(name, _)| udp || *name != "responses").map(|(n, v)| (n.clone(), v.clone())));
        let (first, mut pools, mut rules) = (target.word(0), Vec::new(), Vec::new());
        let map = by_name.get(first).filter(|_| !udp);
        if !work.room.take(1 + block.len() + map.map_or(0, |map| map.block.as_ref().map_or(0, Vec::len))) {
            return;
        }
        let mut named: HashSet<String> = HashSet::new();
        if let Some(map) = map {
            document.insert("tls".into(), "passthrough".into());
            let mut known: Vec<(String, String)> = Vec::new();
            let mut default = None;
            for entry in map.block.iter().flatten() {
                let place = entry.word(0).to_owned();
                match entry.name.as_str() {
                    "default" => default = Some(place),
                    name if name.starts_with('~') => {
                        say(
                            &mut work.report,
                            entry,
                            Manner::Lost,
                            "names are not told by expressions",
                            "sni with a * at its front",
                        );
                    }
                    "hostnames" | "volatile" | "include" => left(&mut work.report, entry),
                    name => {
                        let name = name.strip_prefix('.').map_or(name.to_owned(), |rest| format!("*.{rest}"));
                        known.push((name, place));
                    }
                }
            }
            for (name, place) in known {
                if named.insert(place.clone()) {
                    let mut pool = pool_of(work, &place);
                    pool["name"] = place.as_str().into();
                    pools.push(pool);
                }
                rules.push(json!({"sni": [name], "pool": place}));
            }
            if let Some(place) = default {
                let pool = pool_of(work, &place);
                pools.push(pool);
            }
        } else if first.contains('$') {
            say(&mut work.report, target, Manner::Lost, "where to follows from variables", "rules of the TCPProxy");
            continue;
        } else {
            let pool = pool_of(work, first);
            pools.push(pool);
        }
        if !rules.is_empty() {
            document.insert("rules".into(), rules.into());
        }
        document.insert("pools".into(), pools.into());
        work.documents.push(Value::Object(document));
    }
}
