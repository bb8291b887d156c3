//! Backends: pools of servers, and the pipelines in front of them.

use super::Work;
use super::syntax::{Line, Section};
use crate::report::Manner;
use serde_json::{Map, Value, json};

/// The lines of a section after those of `defaults` it inherits.
pub fn all<'a>(section: &'a Section, defaults: &'a [Line]) -> impl Iterator<Item = &'a Line> {
    defaults.iter().chain(&section.lines)
}

/// A mode, `http` or `tcp`; the last that is given counts.
pub fn mode(section: &Section, defaults: &[Line]) -> String {
    let mode = all(section, defaults).filter(|line| line.is(&["mode"])).last().map(|line| line.word(1));
    mode.unwrap_or("tcp").to_owned()
}

/// A time as documents write it; HAProxy's are milliseconds unless they say otherwise.
pub fn time(text: &str) -> Option<String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let factor = match &text[digits..] {
        "" | "ms" => 1,
        "us" => return Some(format!("{}ms", number / 1_000)),
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let ms = number.checked_mul(factor).filter(|ms| *ms <= 365 * 86_400_000)?;
    Some(if ms.is_multiple_of(1_000) { format!("{}s", ms / 1_000) } else { format!("{ms}ms") })
}

/// The pipeline of a backend, made when it is first asked for.
pub fn pipeline(work: &mut Work<'_>, section: &Section, defaults: &[Line]) -> String {
    if let Some(name) = work.pipelines.get(&section.name) {
        return name.clone();
    }
    let name = work.names.give(&[work.prefix, &section.name]);
    work.pipelines.insert(section.name.clone(), name.clone());
    let (mut filters, mut header, mut answer) = (Vec::new(), Map::new(), Map::new());
    let mut rewrite = None;
    for line in &section.lines {
        let conditional = line.has("if") || line.has("unless");
        match (line.word(0), line.word(1)) {
            ("http-request", "set-header" | "add-header" | "del-header") => {
                change_header(work, line, conditional, &mut header);
            }
            ("http-response", "set-header" | "add-header" | "del-header") => {
                change_header(work, line, conditional, &mut answer);
            }
            ("http-request", "set-path") if !conditional && !line.word(2).contains('%') => {
                rewrite = Some(json!({"replace": line.word(2)}));
            }
            ("http-request", "replace-path") if !conditional => {
                // `\1` for a group.
                let replace = groups(line.word(3));
                match base_model::regexp::compile(line.word(2)) {
                    Ok(_) => rewrite = Some(json!({"regexpReplace": {"regexp": line.word(2), "replace": replace}})),
                    Err(why) => {
                        work.say(
                            line,
                            Manner::Lost,
                            &format!("not an expression of RE2: {why}"),
                            "filter RequestAdaptor",
                        );
                    }
                }
            }
            ("http-request" | "http-response", _) => {
                work.say(line, Manner::Lost, "not translated in a backend", "filters of the pipeline");
            }
            _ => {}
        }
    }
    for header in [&mut header, &mut answer] {
        if let Some(Value::Array(gone)) = header.get_mut("del") {
            *gone = base_model::once(std::mem::take(gone));
        }
    }
    if !header.is_empty() || rewrite.is_some() {
        let mut adapt = json!({"name": "request", "kind": "RequestAdaptor"});
        if let Some(path) = rewrite {
            adapt["path"] = path;
        }
        if !header.is_empty() {
            adapt["header"] = header.into();
        }
        filters.push(adapt);
    }
    let pool = pool(work, section, defaults, "http");
    filters.push(json!({"name": "proxy", "kind": "Proxy", "pools": [pool]}));
    if !answer.is_empty() {
        filters.push(json!({"name": "answer", "kind": "ResponseAdaptor", "header": answer}));
    }
    work.documents.push(json!({"kind": "Pipeline", "name": name, "filters": filters}));
    name
}

/// `\1` as `${1}`.
fn groups(text: &str) -> String {
    let mut made = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match (c, rest.peek()) {
            ('\\', Some(digit)) if digit.is_ascii_digit() => {
                made.push_str(&format!("${{{digit}}}"));
                rest.next();
            }
            ('$', _) => made.push_str("$$"),
            _ => made.push(c),
        }
    }
    made
}

/// Into `header` of an adaptor.
fn change_header(work: &mut Work<'_>, line: &Line, conditional: bool, header: &mut Map<String, Value>) {
    let (name, text) = (line.word(2), line.word(3));
    if conditional {
        return work.say(line, Manner::Lost, "it is done under a condition", "a path of its own for what fulfils it");
    }
    if line.word(1) != "del-header" && text.contains('%') {
        return work.say(line, Manner::Lost, "formats are not translated", "a template in a RequestBuilder");
    }
    match line.word(1) {
        "set-header" => header.entry("set").or_insert_with(|| json!({}))[name] = text.into(),
        "add-header" => header.entry("add").or_insert_with(|| json!({}))[name] = text.into(),
        _ => {
            let gone = header.entry("del").or_insert_with(|| json!([]));
            if let Value::Array(gone) = gone {
                gone.push(name.into());
            }
        }
    }
}

/// HAProxy's weights go to 256, those of documents to 100.
const WEIGHT_MAX: u64 = 100;

/// A pool, of servers with URLs of this scheme.
pub fn pool(work: &mut Work<'_>, section: &Section, defaults: &[Line], scheme: &str) -> Value {
    let l7 = scheme == "http";
    if !work.room.take(1 + defaults.len() + section.lines.len()) {
        return json!({});
    }
    let mut members: Vec<(String, u64, bool)> = Vec::new();
    let mut weighted = false;
    let (mut balance, mut connect, mut timeout) = (json!({"policy": "roundRobin"}), None, None);
    let mut sticky = None;
    let mut health: Option<Map<String, Value>> = None;
    let mut introduces = None;
    let mut checked = false;
    for line in all(section, defaults) {
        match (line.word(0), line.word(1)) {
            ("server" | "default-server", _) => {
                let server = line.word(0) == "server";
                let (mut weight, mut there, mut tls) = (1, server, false);
                let mut words = line.words.iter().skip(if server { 3 } else { 1 }).map(String::as_str);
                while let Some(word) = words.next() {
                    match word {
                        "weight" => {
                            weight = words.next().and_then(|n| n.parse().ok()).unwrap_or(1);
                            weighted |= weight != 1;
                        }
                        "check" => checked = true,
                        "ssl" => tls = true,
                        "backup" => {
                            there = false;
                            work.say(
                                line,
                                Manner::Lost,
                                "servers that stand in for others are not translated",
                                "a further pool, and jumpIf in the flow",
                            );
                        }
                        "disabled" => {
                            there = false;
                            work.say(line, Manner::Differs, "a server that is disabled is left out", "");
                        }
                        "verify" => {
                            if words.next() == Some("none") {
                                work.say(
                                    line,
                                    Manner::Differs,
                                    "servers over TLS have to show a certificate that can be trusted",
                                    "mtls of the Proxy with insecureSkipVerify",
                                );
                            }
                        }
                        "send-proxy" => introduces = Some("v1"),
                        "send-proxy-v2" => introduces = Some("v2"),
                        "inter" | "fall" | "rise" | "fastinter" | "downinter" => {
                            let value = words.next().unwrap_or_default();
                            let health = health.get_or_insert_default();
                            match word {
                                "inter" => drop(time(value).map(|time| health.insert("interval".into(), time.into()))),
                                "fall" => drop(value.parse::<u32>().map(|n| health.insert("fails".into(), n.into()))),
                                "rise" => drop(value.parse::<u32>().map(|n| health.insert("passes".into(), n.into()))),
                                _ => {}
                            }
                        }
                        "cookie" | "maxconn" | "minconn" | "slowstart" | "ca-file" | "sni" | "alpn" | "port"
                        | "addr" | "id" | "resolvers" | "resolve-prefer" | "init-addr" | "observe" | "error-limit"
                        | "on-error" | "on-marked-down" | "on-marked-up" | "crt" | "proto" | "maxqueue" | "source"
                        | "track" | "verifyhost" | "check-sni" | "pool-max-conn" | "pool-purge-delay" => {
                            let value = words.next().unwrap_or_default().to_owned();
                            if !matches!(word, "cookie" | "id" | "resolvers" | "resolve-prefer" | "init-addr") {
                                work.say(line, Manner::Lost, &format!("{word} {value} is not translated"), "");
                            }
                        }
                        "check-ssl" | "non-stick" | "stick" | "enabled" => {}
                        other => {
                            work.say(line, Manner::Lost, &format!("{} is not known", base_text::quoted(&other)), "")
                        }
                    }
                }
                if there {
                    let scheme = if tls && l7 { "https" } else { scheme };
                    match address(line.word(2)) {
                        Some(address) => members.push((format!("{scheme}://{address}"), weight, tls)),
                        None => {
                            work.say(line, Manner::Lost, "only hosts with ports are connected to", "url of the server")
                        }
                    }
                }
            }
            ("balance", policy) => {
                balance = match policy.split_once('(').map_or((policy, ""), |(p, a)| (p, a.trim_end_matches(')'))) {
                    ("roundrobin" | "static-rr", _) => json!({"policy": "roundRobin"}),
                    ("source", _) => json!({"policy": "ipHash"}),
                    ("random", _) => json!({"policy": "random"}),
                    ("hdr", header) if l7 => json!({"policy": "headerHash", "headerHashKey": header}),
                    _ => {
                        work.say(
                            line,
                            Manner::Differs,
                            "servers are chosen in turn by this document",
                            "loadBalance of the pool",
                        );
                        json!({"policy": "roundRobin"})
                    }
                }
            }
            ("timeout", "connect") => connect = time(line.word(2)),
            ("timeout", "server") if l7 => {
                timeout = time(line.word(2));
            }
            ("cookie", name) if l7 => {
                if line.has("insert") {
                    sticky = Some(json!({"mode": "DurationBased", "lbCookieName": name}));
                } else {
                    work.say(
                        line,
                        Manner::Lost,
                        "only cookies of the gateway's own are translated",
                        "stickySession of the pool",
                    );
                }
            }
            ("option", "httpchk") if l7 => {
                let health = health.get_or_insert_default();
                checked = true;
                let (method, uri) = match (line.word(2), line.word(3)) {
                    ("", _) => ("", ""),
                    (uri, "") => ("", uri),
                    (method, uri) => (method, uri),
                };
                for (field, text) in [("method", method), ("uri", uri)] {
                    if !text.is_empty() {
                        health.insert(field.into(), text.into());
                    }
                }
            }
            ("http-check", "send") if l7 => {
                let health = health.get_or_insert_default();
                for (word, field) in [("meth", "method"), ("uri", "uri"), ("body", "body")] {
                    if let Some(text) = line.after(word) {
                        health.insert(field.into(), text.into());
                    }
                }
            }
            ("http-check", "expect") if l7 && line.word(2) == "status" => {
                match line.word(3).split_once('-').map_or((line.word(3), line.word(3)), |(a, b)| (a, b)) {
                    (low, high) if low.parse::<u16>().is_ok() && high.parse::<u16>().is_ok() => {
                        let (low, high): (u16, u16) = (low.parse().unwrap_or(200), high.parse().unwrap_or(399));
                        let health = health.get_or_insert_default();
                        health.insert("match".into(), json!({"statusCodes": [[low, high]]}));
                    }
                    _ => work.say(line, Manner::Lost, "not translated", "healthCheck of the pool"),
                }
            }
            (
                "mode" | "description" | "id" | "guid" | "log" | "maxconn" | "bind" | "acl" | "use_backend"
                | "default_backend" | "redirect" | "tcp-request" | "http-request" | "http-response" | "monitor-uri"
                | "http-reuse",
                _,
            ) => {}
            (
                "timeout",
                "client" | "http-request" | "http-keep-alive" | "client-fin" | "tarpit" | "queue" | "check"
                | "server-fin" | "tunnel" | "server",
            ) => {}
            (
                "option",
                "forwardfor" | "httplog" | "tcplog" | "dontlognull" | "httpclose" | "http-server-close"
                | "http-keep-alive" | "redispatch" | "abortonclose" | "log-health-checks" | "tcpka" | "clitcpka"
                | "srvtcpka" | "prefer-last-server" | "contstats" | "dontlog-normal" | "splice-auto" | "http-no-delay"
                | "tcp-check",
            ) => {}
            ("retries", _) => work.say(
                line,
                Manner::Lost,
                "tries are not translated",
                "retryPolicy of the pool, with a Retry in the pipeline's resilience",
            ),
            ("compression", _) => work.say(line, Manner::Lost, "not translated here", "compression of the Proxy"),
            ("errorfile" | "errorloc" | "http-error" | "errorfiles", _) => work.say(
                line,
                Manner::Lost,
                "answers of the gateway are not replaced",
                "a flow with jumpIf to a ResponseBuilder",
            ),
            ("stats", _) => work.say(line, Manner::Needless, "figures are served by the admin API", "GET /metrics"),
            ("stick-table" | "stick", _) => {
                work.say(line, Manner::Lost, "tables are not kept", "filter RateLimiter, stickySession")
            }
            _ => work.say(line, Manner::Lost, "not known to this conversion", ""),
        }
    }
    if weighted && balance["policy"] == "roundRobin" {
        balance = json!({"policy": "weightedRandom"});
    }
    let heaviest = members.iter().map(|(_, weight, _)| *weight).max().unwrap_or(1).max(1);
    let by_weight = balance["policy"] == "weightedRandom";
    let servers: Vec<Value> = members
        .iter()
        .map(|(url, weight, _)| {
            let mut server = json!({"url": url});
            if by_weight {
                let share = if heaviest > WEIGHT_MAX { weight.saturating_mul(WEIGHT_MAX) / heaviest } else { *weight };
                server["weight"] = share.max(u64::from(*weight > 0)).into();
            }
            server
        })
        .collect();
    if servers.is_empty() {
        let head = section.head.clone();
        work.say(&head, Manner::Lost, "no server is left in it", "write the servers of the pool");
    }
    if let Some(sticky) = sticky {
        balance["stickySession"] = sticky;
    }
    let mut pool = json!({"servers": servers, "loadBalance": balance});
    if !l7 && members.iter().any(|(_, _, tls)| *tls) {
        pool["tls"] = true.into();
    }
    for (field, value) in [("connectTimeout", connect), ("timeout", timeout)] {
        if let Some(value) = value {
            pool[field] = value.into();
        }
    }
    if let Some(version) = introduces {
        pool["proxyProtocol"] = version.into();
    }
    if l7
        && checked
        && let Some(health) = health
    {
        pool["healthCheck"] = health.into();
    }
    pool
}

/// `host:port`, without HAProxy's words for families; `None` for what is no place on a network.
fn address(text: &str) -> Option<String> {
    let text = ["ipv4@", "ipv6@", "tcp@", "tcp4@", "tcp6@"]
        .iter()
        .find_map(|family| text.strip_prefix(family))
        .unwrap_or(text);
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    (port > 0 && !host.is_empty() && !host.contains(['/', '@'])).then(|| {
        match host.contains(':') && !host.starts_with('[') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_addresses_and_groups() {
        assert_eq!(time("5s").as_deref(), Some("5s"));
        assert_eq!(time("1500").as_deref(), Some("1500ms"));
        assert_eq!(time("2m").as_deref(), Some("120s"));
        assert_eq!((time("s"), time("1y")), (None, None));
        assert_eq!(address("ipv4@10.0.0.1:80").as_deref(), Some("10.0.0.1:80"));
        assert_eq!(address("::1:80").as_deref(), Some("[::1]:80"));
        assert_eq!((address("/run/x.sock"), address("a"), address("a:0")), (None, None, None));
        assert_eq!(groups(r"/b/\1$"), "/b/${1}$$");
    }
}
