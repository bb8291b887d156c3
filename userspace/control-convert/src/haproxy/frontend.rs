//! Frontends: what listens, and which backend a request is for.

use super::Work;
use super::backend::{self, all, mode, pipeline, time};
use super::condition::{self, Lists, Test, Together};
use super::syntax::{Line, Section};
use crate::report::Manner;
use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::rc::Rc;

pub type Backends = BTreeMap<String, (Rc<Section>, Rc<[Line]>)>;

/// A place of `bind`.
struct Bind {
    address: String,
    port: u16,
    tls: bool,
    fields: Map<String, Value>,
}

pub fn convert(work: &mut Work<'_>, section: &Section, defaults: &[Line], backends: &Backends) {
    // Each section has what stands above it.
    if !work.room.take(1 + defaults.len()) {
        return;
    }
    let binds = binds(work, section);
    if binds.is_empty() {
        let head = section.head.clone();
        return work.say(&head, Manner::Lost, "it listens on no port", "bind");
    }
    if mode(section, defaults) == "http" {
        http(work, section, defaults, backends, binds);
    } else {
        tcp(work, section, defaults, backends, binds);
    }
}

fn binds(work: &mut Work<'_>, section: &Section) -> Vec<Bind> {
    let mut binds = Vec::new();
    let mut known: HashSet<(String, u16)> = HashSet::new();
    for line in section.lines.iter().filter(|line| line.is(&["bind"])) {
        let (mut tls, mut fields) = (false, Map::new());
        let (mut certs, mut keys) = (Map::new(), Map::new());
        let mut words = line.words.iter().skip(2).map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "ssl" => tls = true,
                "crt" => {
                    let file = words.next().unwrap_or_default();
                    // One file holds the chain and the key.
                    match work.files.read(&work.directory.join(file)) {
                        Ok(bytes) => {
                            let name = format!("cert-{}", certs.len());
                            let (chain, key) = parts(&String::from_utf8_lossy(&bytes));
                            certs.insert(name.clone(), BASE64_STANDARD.encode(chain).into());
                            keys.insert(name, BASE64_STANDARD.encode(key).into());
                        }
                        Err(why) => {
                            work.say(
                                line,
                                Manner::Lost,
                                &format!("crt {file} cannot be read: {why}"),
                                "certs and keys",
                            );
                        }
                    }
                }
                "alpn" | "verify" => _ = words.next(),
                "accept-proxy" => drop(fields.insert("proxyProtocol".into(), "accept".into())),
                "name" | "id" | "process" | "thread" | "maxconn" | "mode" | "uid" | "user" | "group" | "interface"
                | "mss" | "tcp-ut" | "shards" | "nice" => {
                    let _ = words.next();
                }
                "ciphers" | "ciphersuites" | "ssl-min-ver" | "ssl-max-ver" | "curves" | "ecdhe" | "dhparam" => {
                    let value = words.next().unwrap_or_default().to_owned();
                    work.say(
                        line,
                        Manner::Differs,
                        &format!("{word} {value}: TLS 1.2 and 1.3 with their modern ciphers are served"),
                        "",
                    );
                }
                "ca-file" => {
                    let file = words.next().unwrap_or_default();
                    match work.files.read(&work.directory.join(file)) {
                        Ok(bytes) => drop(fields.insert("caCertBase64".into(), BASE64_STANDARD.encode(bytes).into())),
                        Err(why) => work.say(
                            line,
                            Manner::Lost,
                            &format!("ca-file {file} cannot be read: {why}"),
                            "caCertBase64",
                        ),
                    }
                }
                "transparent"
                | "defer-accept"
                | "tfo"
                | "v4v6"
                | "v6only"
                | "no-sslv3"
                | "no-tlsv10"
                | "no-tlsv11"
                | "strict-sni"
                | "prefer-client-ciphers"
                | "allow-0rtt" => {}
                other => work.say(line, Manner::Lost, &format!("{} is not known", base_text::quoted(&other)), ""),
            }
        }
        if tls {
            fields.insert("certs".into(), certs.into());
            fields.insert("keys".into(), keys.into());
        }
        for text in line.word(1).split(',').filter(|text| !text.is_empty()) {
            match place(text) {
                Some((address, port)) => {
                    // Both families are listened on anyway.
                    if known.insert((address.clone(), port)) && work.room.take(1 + certs_of(&fields)) {
                        binds.push(Bind { address, port, tls, fields: fields.clone() });
                    }
                }
                None => work.say(line, Manner::Lost, "only single ports of TCP are listened on", "address and port"),
            }
        }
    }
    // Where every address is listened on, one of them needs no listener of its own.
    let everywhere: HashSet<u16> = binds.iter().filter(|bind| bind.address.is_empty()).map(|bind| bind.port).collect();
    binds.retain(|bind| bind.address.is_empty() || !everywhere.contains(&bind.port));
    binds
}

/// Parts that the certificates of a line count as.
fn certs_of(fields: &Map<String, Value>) -> usize {
    let texts = |field: &str| fields.get(field).and_then(Value::as_object).into_iter().flat_map(Map::values);
    let whole = fields.get("caCertBase64").into_iter().chain(texts("certs")).chain(texts("keys"));
    whole.filter_map(Value::as_str).map(str::len).sum::<usize>() / 256
}

/// The chain and the key of a file that holds both.
fn parts(pem: &str) -> (String, String) {
    let (mut chain, mut key) = (String::new(), String::new());
    let mut in_key = false;
    for line in pem.lines() {
        if line.starts_with("-----BEGIN ") {
            in_key = line.contains("PRIVATE KEY");
        }
        let part = if in_key { &mut key } else { &mut chain };
        part.push_str(line);
        part.push('\n');
    }
    (chain, key)
}

fn place(text: &str) -> Option<(String, u16)> {
    let text = ["ipv4@", "ipv6@", "tcp@", "tcp4@", "tcp6@"]
        .iter()
        .find_map(|family| text.strip_prefix(family))
        .unwrap_or(text);
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
    match host.trim_matches(['[', ']']) {
        "" | "*" | "0.0.0.0" | "::" => Some((String::new(), port)),
        host => host.parse::<IpAddr>().ok().map(|address| (address.to_string(), port)),
    }
}

/// The words behind `if`, or why there is no telling.
fn behind_if(line: &Line, lists: &Lists) -> Result<Option<Vec<Together>>, String> {
    match line.words.iter().position(|word| word == "if" || word == "unless") {
        None => Ok(None),
        Some(at) if line.words[at] == "unless" => Err("what must not hold is not translated".to_owned()),
        Some(at) => condition::condition(&line.words[at + 1..], lists).map(Some),
    }
}

fn http(work: &mut Work<'_>, section: &Section, defaults: &[Line], backends: &Backends, binds: Vec<Bind>) {
    let lists = condition::lists(&section.lines);
    let mut set = Map::new();
    let mut fields = Map::new();
    // Rules, and whether they are for connections without TLS alone, or with it alone.
    let mut rules: Vec<(Value, Option<bool>)> = Vec::new();
    let mut default = None;
    for line in all(section, defaults) {
        match (line.word(0), line.word(1)) {
            ("default_backend", name) => default = Some((name.to_owned(), line.clone())),
            ("maxconn", number) => {
                if let Ok(number) = number.parse::<u32>() {
                    fields.insert("maxConnections".into(), number.into());
                }
            }
            ("timeout", "http-keep-alive") => insert_time(&mut fields, "keepAliveTimeout", line),
            ("timeout", "http-request") => insert_time(&mut fields, "headTimeout", line),
            ("timeout", "client") => insert_time(&mut fields, "bodyTimeout", line),
            ("option", "forwardfor") => drop(fields.insert("xForwardedFor".into(), true.into())),
            ("http-request", "set-header") if !line.has("if") && !line.has("unless") => match text(line.word(3)) {
                Some(text) => drop(set.insert(line.word(2).to_owned(), text.into())),
                None => {
                    work.say(line, Manner::Lost, "a part of its format is not translated", "setHeaders of the path")
                }
            },
            ("http-request", "del-header") if !line.has("if") && !line.has("unless") => {
                set.insert(line.word(2).to_owned(), "".into());
            }
            ("use_backend", name) => {
                let target = backends.get(name).map(|(section, defaults)| pipeline(work, section, defaults));
                let target = target.ok_or_else(|| format!("there is no backend {}", base_text::quoted(&name)));
                ruled(work, line, &lists, target, &set, &mut rules);
            }
            ("redirect", _) | ("http-request", "redirect" | "deny" | "return") => {
                let target = answer(work, line).ok_or_else(|| "its parts are not translated".to_owned());
                ruled(work, line, &lists, target, &set, &mut rules);
            }
            (
                "http-request"
                | "http-response"
                | "tcp-request"
                | "capture"
                | "unique-id-format"
                | "unique-id-header"
                | "log-format"
                | "rate-limit"
                | "declare"
                | "filter"
                | "http-after-response"
                | "monitor-uri"
                | "monitor",
                _,
            ) => {
                work.say(line, Manner::Lost, "not translated", "filters of a GlobalFilter");
            }
            // Said of a backend, or of nobody.
            _ => {}
        }
    }
    if section.kind == "listen" {
        let name = pipeline(work, section, defaults);
        rules.push((json!({"paths": [with(&json!({"pathPrefix": "/", "backend": name}), &set)]}), None));
    } else if let Some((name, line)) = default {
        match backends.get(&name) {
            Some((section, defaults)) => {
                let name = pipeline(work, section, defaults);
                rules.push((json!({"paths": [with(&json!({"pathPrefix": "/", "backend": name}), &set)]}), None));
            }
            None => work.say(&line, Manner::Lost, "there is no such backend", ""),
        }
    }
    for bind in binds {
        if !work.room.take(1 + rules.len() * (1 + set.len())) {
            return;
        }
        let mut document = Map::new();
        document.insert("kind".into(), "HTTPServer".into());
        let name = work.names.give(&[work.prefix, &section.name, &bind.address, &bind.port.to_string()]);
        document.insert("name".into(), name.into());
        if !bind.address.is_empty() {
            document.insert("address".into(), bind.address.into());
        }
        document.insert("port".into(), bind.port.into());
        if bind.tls {
            document.insert("https".into(), true.into());
        }
        document.extend(bind.fields);
        document.extend(fields.clone());
        let fitting = rules.iter().filter(|(_, tls)| tls.is_none_or(|tls| tls == bind.tls));
        document.insert("rules".into(), fitting.map(|(rule, _)| rule.clone()).collect());
        work.documents.push(Value::Object(document));
    }
}

fn insert_time(fields: &mut Map<String, Value>, field: &str, line: &Line) {
    if let Some(time) = time(line.word(2)) {
        fields.insert(field.into(), time.into());
    }
}

/// A path with headers to set.
fn with(path: &Value, set: &Map<String, Value>) -> Value {
    let mut path = path.clone();
    if !set.is_empty() {
        path["setHeaders"] = set.clone().into();
    }
    path
}

/// One rule for each alternative of the line's condition.
fn ruled(
    work: &mut Work<'_>,
    line: &Line,
    lists: &Lists,
    target: Result<String, String>,
    set: &Map<String, Value>,
    rules: &mut Vec<(Value, Option<bool>)>,
) {
    let made = target.and_then(|target| {
        let alternatives = behind_if(line, lists)?.unwrap_or_else(|| vec![Together::default()]);
        let parts = alternatives.iter().map(|together| together.paths() * (1 + together.tests() + set.len()));
        if !work.room.take(parts.sum()) {
            return Ok(Vec::new());
        }
        let mut target = Map::from_iter([("backend".to_owned(), Value::from(target))]);
        if !set.is_empty() {
            target.insert("setHeaders".into(), set.clone().into());
        }
        let rule = |together: &Together| {
            let over_tls = together.lists.iter().any(|list| list.contains(&Test::Tls));
            let tls = if together.plain { Some(false) } else { over_tls.then_some(true) };
            together.rule(&target).map(|rule| (rule, tls))
        };
        alternatives.iter().map(rule).collect::<Result<Vec<_>, String>>()
    });
    match made {
        Ok(made) => rules.extend(made),
        Err(why) => work.say(line, Manner::Lost, &why, "a rule of the HTTPServer, in its place among the others"),
    }
}

/// The pipeline of a line that answers by itself.
fn answer(work: &mut Work<'_>, line: &Line) -> Option<String> {
    let number = |name: &str, default: u16| line.after(name).map_or(Some(default), |text| text.parse::<u16>().ok());
    let kind = if line.word(0) == "redirect" { "redirect" } else { line.word(1) };
    let filter = match kind {
        "redirect" => {
            let code = number("code", 302)?;
            if let Some(scheme) = line.after("scheme") {
                json!({"name": "redirect", "kind": "RedirectorV2", "scheme": scheme, "statusCode": code})
            } else if let Some(location) = line.after("location").filter(|text| !text.contains('%')) {
                let text = format!("statusCode: {code}\nheaders:\n  Location: [{}]\n", plain(location));
                json!({"name": "redirect", "kind": "ResponseBuilder", "template": text})
            } else {
                let prefix = line.after("prefix").filter(|text| !text.contains('%'))?;
                let (scheme, host) = prefix.split_once("://")?;
                if host.contains(['/', ':']) {
                    return None;
                }
                json!({"name": "redirect", "kind": "RedirectorV2", "scheme": scheme, "hostname": host, "statusCode": code})
            }
        }
        "deny" => {
            let code = number("deny_status", 403)?;
            json!({"name": "answer", "kind": "ResponseBuilder", "template": format!("statusCode: {code}\n")})
        }
        _ => {
            let code = number("status", 200)?;
            let body = line.after("string").or(line.after("lf-string")).unwrap_or_default();
            let content = line.after("content-type").unwrap_or("text/plain");
            if body.contains('%') || line.has("file") || line.has("lf-file") {
                return None;
            }
            let text =
                format!("statusCode: {code}\nheaders:\n  Content-Type: [{}]\nbody: {}\n", plain(content), plain(body));
            json!({"name": "answer", "kind": "ResponseBuilder", "template": text})
        }
    };
    let name = work.names.give(&[work.prefix, kind]);
    work.documents.push(json!({"kind": "Pipeline", "name": name, "filters": [filter]}));
    Some(name)
}

/// A text in YAML's double quotes, without braces of templates.
fn plain(text: &str) -> String {
    Value::from(text).to_string().replace('{', "\\u007b")
}

/// A format of HAProxy's as a text with variables.
fn text(format: &str) -> Option<String> {
    let known = [
        ("%[src]", "$remote_addr"),
        ("%ci", "$remote_addr"),
        ("%[req.hdr(host)]", "$http_host"),
        ("%[hdr(host)]", "$http_host"),
        ("%[path]", "$uri"),
        ("%[method]", "$request_method"),
        ("%[query]", "$query_string"),
        ("%[ssl_fc,iif(https,http)]", "$scheme"),
    ];
    if format.contains('$') {
        return None;
    }
    let text = known.iter().fold(format.to_owned(), |text, (theirs, ours)| text.replace(theirs, ours));
    (!text.contains('%')).then_some(text)
}

fn tcp(work: &mut Work<'_>, section: &Section, defaults: &[Line], backends: &Backends, binds: Vec<Bind>) {
    let lists = condition::lists(&section.lines);
    let (mut pools, mut rules, mut fields) = (Vec::new(), Vec::new(), Map::new());
    let mut made: HashSet<String> = HashSet::new();
    let mut named = |work: &mut Work<'_>, name: &str, pools: &mut Vec<Value>| -> bool {
        let Some((backend, defaults)) = backends.get(name) else { return false };
        if made.insert(name.to_owned()) {
            work.pipelines.entry(name.to_owned()).or_default();
            let mut pool = backend::pool(work, backend, defaults, "tcp");
            pool["name"] = name.into();
            pools.push(pool);
        }
        true
    };
    let mut last = None;
    for line in all(section, defaults) {
        match (line.word(0), line.word(1)) {
            ("use_backend", name) => {
                let alternatives = behind_if(line, &lists);
                let names: Result<Vec<Vec<String>>, String> = alternatives.and_then(|alternatives| {
                    let names = |together: &Together| match together.lists.as_slice() {
                        [list] => list
                            .iter()
                            .map(|test| if let Test::Sni(name) = test { Some(name.clone()) } else { None })
                            .collect::<Option<Vec<_>>>()
                            .ok_or_else(|| "relays choose by the name of a TLS handshake alone".to_owned()),
                        _ => Err("relays choose by the name of a TLS handshake alone".to_owned()),
                    };
                    alternatives.unwrap_or_default().iter().map(names).collect()
                });
                match names {
                    Ok(names) if named(work, name, &mut pools) => {
                        rules.extend(names.into_iter().map(|sni| json!({"sni": sni, "pool": name})));
                    }
                    Ok(_) => work.say(line, Manner::Lost, "there is no such backend", ""),
                    Err(why) => work.say(line, Manner::Lost, &why, "rules of the TCPProxy"),
                }
            }
            ("default_backend", name) => last = Some((name.to_owned(), line.clone())),
            ("maxconn", number) => {
                if let Ok(number) = number.parse::<u32>() {
                    fields.insert("maxConnections".into(), number.into());
                }
            }
            ("timeout", "client" | "tunnel") => insert_time(&mut fields, "idleTimeout", line),
            ("tcp-request", "inspect-delay") => insert_handshake(&mut fields, line),
            ("tcp-request", "content") if line.word(2) == "accept" => {}
            ("tcp-request" | "tcp-response" | "filter", _) => {
                work.say(line, Manner::Lost, "not translated", "ipFilter of the TCPProxy")
            }
            _ => {}
        }
    }
    if section.kind == "listen" {
        pools.push(backend::pool(work, section, defaults, "tcp"));
    } else if let Some((name, line)) = last {
        match backends.get(&name) {
            Some((backend, defaults)) => {
                work.pipelines.entry(name).or_default();
                pools.push(backend::pool(work, backend, defaults, "tcp"));
            }
            None => work.say(&line, Manner::Lost, "there is no such backend", ""),
        }
    }
    for bind in binds {
        let servers = pools.iter().filter_map(|pool| pool["servers"].as_array()).map(Vec::len).sum::<usize>();
        if !work.room.take(1 + rules.len() + pools.len() + servers) {
            return;
        }
        let mut document = Map::new();
        document.insert("kind".into(), "TCPProxy".into());
        let name = work.names.give(&[work.prefix, &section.name, &bind.address, &bind.port.to_string()]);
        document.insert("name".into(), name.into());
        if !bind.address.is_empty() {
            document.insert("address".into(), bind.address.into());
        }
        document.insert("port".into(), bind.port.into());
        if bind.tls {
            document.insert("tls".into(), "terminate".into());
        } else if !rules.is_empty() {
            document.insert("tls".into(), "passthrough".into());
        }
        document.extend(bind.fields);
        document.extend(fields.clone());
        if !rules.is_empty() {
            document.insert("rules".into(), rules.clone().into());
        }
        document.insert("pools".into(), pools.clone().into());
        work.documents.push(Value::Object(document));
    }
}

fn insert_handshake(fields: &mut Map<String, Value>, line: &Line) {
    if let Some(time) = time(line.word(2)) {
        fields.insert("handshakeTimeout".into(), time.into());
    }
}
