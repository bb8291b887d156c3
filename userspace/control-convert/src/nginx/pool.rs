//! Groups of servers, and the place of `proxy_pass`.

use super::Work;
use super::advice::say;
use super::syntax::Directive;
use crate::report::Manner;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// `upstream` blocks by their names.
pub type Upstreams<'a> = BTreeMap<&'a str, &'a Directive>;

/// What `proxy_pass` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub scheme: String,
    /// Host with port, the name of a group, or `unix:` with a path.
    pub place: String,
    /// What stands in the place of the location's path; absent: the path goes on as it came.
    pub path: Option<String>,
}

impl Target {
    pub fn parse(text: &str) -> Result<Target, &'static str> {
        if text.contains('$') {
            return Err("where to follows from variables");
        }
        let (scheme, rest) = text.split_once("://").ok_or("not a URL")?;
        if !matches!(scheme, "http" | "https") {
            return Err("only http and https are spoken to servers");
        }
        if let Some(socket) = rest.strip_prefix("unix:") {
            let (socket, path) = socket.split_once(':').map_or((socket, None), |(s, p)| (s, Some(p)));
            let path = path.filter(|path| !path.is_empty()).map(str::to_owned);
            return Ok(Target { scheme: scheme.to_owned(), place: format!("unix:{socket}"), path });
        }
        let (place, path) = rest.find('/').map_or((rest, None), |at| (&rest[..at], Some(&rest[at..])));
        if place.is_empty() {
            return Err("there is no host");
        }
        Ok(Target { scheme: scheme.to_owned(), place: place.to_owned(), path: path.map(str::to_owned) })
    }
}

/// Servers of an L7 pool. `keep_host`: servers with names get the Host that clients have sent.
pub fn pool(work: &mut Work<'_>, upstreams: &Upstreams<'_>, target: &Target, keep_host: bool) -> Value {
    let url = |place: &str| match place.strip_prefix("unix:") {
        Some(path) => format!("{}://unix:{path}:", target.scheme).trim_end_matches(':').to_owned(),
        None => format!("{}://{place}", target.scheme),
    };
    let with_host = |mut server: Map<String, Value>| {
        let named = server["url"].as_str().is_some_and(has_name);
        if keep_host && named {
            server.insert("keepHost".into(), true.into());
        }
        Value::Object(server)
    };
    let Some(upstream) = upstreams.get(target.place.as_str()) else {
        let mut server = Map::new();
        server.insert("url".into(), url(&target.place).into());
        return json!({"servers": [with_host(server)]});
    };
    group(work, upstream, url, with_host)
}

/// Servers of an L4 pool.
pub fn l4_pool(work: &mut Work<'_>, upstreams: &Upstreams<'_>, place: &str, scheme: &str) -> Value {
    let url = |place: &str| format!("{scheme}://{place}");
    match upstreams.get(place) {
        Some(upstream) => group(work, upstream, url, Value::Object),
        None => json!({"servers": [{"url": url(place)}]}),
    }
}

fn has_name(url: &str) -> bool {
    let place = url.split_once("://").map_or(url, |(_, place)| place);
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host).trim_matches(['[', ']']);
    !place.starts_with("unix:") && host.parse::<std::net::IpAddr>().is_err()
}

/// Largest weight that documents take.
const WEIGHT_MAX: u64 = 100;

fn group(
    work: &mut Work<'_>,
    upstream: &Directive,
    url: impl Fn(&str) -> String,
    with_host: impl Fn(Map<String, Value>) -> Value,
) -> Value {
    // Each location that leads to a group has its servers.
    if !work.room.take(upstream.block.as_ref().map_or(0, Vec::len)) {
        return json!({});
    }
    let mut members: Vec<(String, u64)> = Vec::new();
    let mut weighted = false;
    let mut balance = None;
    for directive in upstream.block.iter().flatten() {
        match directive.name.as_str() {
            "server" => {
                let mut weight = 1;
                let mut there = true;
                for word in directive.words.iter().skip(1) {
                    match word.split_once('=').unwrap_or((word, "")) {
                        ("weight", number) => {
                            weight = number.parse::<u64>().unwrap_or(1).clamp(1, 1_000_000);
                            weighted |= weight != 1;
                        }
                        ("down", _) => {
                            there = false;
                            say(&mut work.report, directive, Manner::Differs, "a server that is down is left out", "");
                        }
                        ("backup", _) => {
                            there = false;
                            let why = "servers that stand in for others are not translated";
                            say(
                                &mut work.report,
                                directive,
                                Manner::Lost,
                                why,
                                "a further pool, and jumpIf in the flow",
                            );
                        }
                        ("max_fails" | "fail_timeout" | "slow_start" | "max_conns", _) => {
                            let why = "servers that fail are left out by this gateway's own rule";
                            say(&mut work.report, directive, Manner::Differs, why, "outlierDetection of the pool");
                        }
                        ("resolve", _) => {
                            say(
                                &mut work.report,
                                directive,
                                Manner::Needless,
                                "names are resolved again and again",
                                "",
                            );
                        }
                        _ => say(&mut work.report, directive, Manner::Lost, "a part of it is not known", ""),
                    }
                }
                if there {
                    members.push((url(directive.word(0)), weight));
                }
            }
            "ip_hash" => balance = Some(json!({"policy": "ipHash"})),
            "random" => balance = Some(json!({"policy": "random"})),
            "hash" => match directive.word(0) {
                "$remote_addr" | "$binary_remote_addr" => balance = Some(json!({"policy": "ipHash"})),
                header if header.starts_with("$http_") => {
                    let name = header["$http_".len()..].replace('_', "-");
                    balance = Some(json!({"policy": "headerHash", "headerHashKey": name}));
                }
                _ => super::advice::left(&mut work.report, directive),
            },
            _ => super::advice::left(&mut work.report, directive),
        }
    }
    let heaviest = members.iter().map(|(_, weight)| *weight).max().unwrap_or(1);
    if weighted && balance.is_some() {
        let why = "weights do not count where servers are chosen by a hash";
        say(&mut work.report, upstream, Manner::Differs, why, "");
    }
    let servers: Vec<Value> = members
        .iter()
        .map(|(url, weight)| {
            let mut server = Map::new();
            server.insert("url".into(), url.as_str().into());
            if weighted && balance.is_none() {
                let share = if heaviest > WEIGHT_MAX { (weight * WEIGHT_MAX / heaviest).max(1) } else { *weight };
                server.insert("weight".into(), share.into());
            }
            with_host(server)
        })
        .collect();
    if servers.is_empty() {
        say(&mut work.report, upstream, Manner::Lost, "no server is left in it", "write the servers of the pool");
    }
    let balance = match (balance, weighted) {
        (Some(balance), _) => balance,
        (None, true) => json!({"policy": "weightedRandom"}),
        (None, false) => json!({"policy": "roundRobin"}),
    };
    json!({"servers": servers, "loadBalance": balance})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_proxy_pass() {
        let target = |text: &str| Target::parse(text).map(|t| (t.place, t.path));
        assert_eq!(target("http://a:1"), Ok(("a:1".into(), None)));
        assert_eq!(target("https://a/b/"), Ok(("a".into(), Some("/b/".into()))));
        assert_eq!(target("http://unix:/run/a.sock:/b"), Ok(("unix:/run/a.sock".into(), Some("/b".into()))));
        assert!(target("http://$host").is_err() && target("a:1").is_err() && target("http:///x").is_err());
        assert!(has_name("http://a:1") && !has_name("http://[::1]:1") && !has_name("http://unix:/x"));
    }
}
