//! The `http` block: its servers by port, each with rules by name and paths by location.

use super::Work;
use super::advice::{left, say};
use super::location::{self, Path, Place, Source};
use super::pool::Upstreams;
use super::scope::{Scope, TAKEN};
use super::syntax::Directive;
use crate::report::Manner;
use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

/// Where servers listen: an address, or every one, and a port.
type At = (String, u16);

/// An HTTPServer that is being made.
#[derive(Default)]
struct Listener {
    fields: Map<String, Value>,
    certs: Map<String, Value>,
    keys: Map<String, Value>,
    rules: Vec<Rule>,
    /// The first server on it.
    owner: Option<Directive>,
}

/// Of one server block, for names of one kind.
struct Rule {
    /// How near the names are: exact, `*.x`, `x.*`, expressions, all.
    class: u8,
    /// The longest is looked for first.
    length: usize,
    hosts: Vec<Value>,
    paths: Vec<Value>,
    /// It has a path for whatever comes.
    whole: bool,
}

pub fn convert(work: &mut Work<'_>, block: &[Directive]) {
    let upstreams: Upstreams<'_> =
        block.iter().filter(|d| d.name == "upstream" && d.block.is_some()).map(|d| (d.word(0), d)).collect();
    let scope = Scope::outermost().enter(work, block);
    let mut listeners: BTreeMap<At, Listener> = BTreeMap::new();
    for directive in block {
        match (directive.name.as_str(), &directive.block) {
            ("server", Some(inner)) => server(work, &upstreams, directive, inner, &scope, &mut listeners),
            ("upstream", Some(_)) => {}
            ("map", Some(_)) if directive.word(0) == "$http_upgrade" => {
                say(&mut work.report, directive, Manner::Needless, "WebSockets pass through every Proxy", "");
            }
            (name, _) if TAKEN.contains(&name) => {}
            _ => left(&mut work.report, directive),
        }
    }
    // One listener on every address leaves none of them for another.
    let everywhere: HashSet<u16> =
        listeners.keys().filter(|(address, _)| address.is_empty()).map(|(_, port)| *port).collect();
    let covered = |(address, port): &At| !address.is_empty() && everywhere.contains(port);
    let (apart, mut listeners): (BTreeMap<_, _>, BTreeMap<_, _>) =
        listeners.into_iter().partition(|(at, _)| covered(at));
    for ((_, port), listener) in apart {
        if let Some(owner) = &listener.owner {
            let why = "a port is listened on at one address or at all of them; names alone tell its servers apart";
            say(&mut work.report, owner, Manner::Differs, why, "a port of its own");
        }
        if let Some(whole) = listeners.get_mut(&(String::new(), port)) {
            whole.join(listener);
        }
    }
    for ((address, port), listener) in listeners {
        let document = listener.document(work, &address, port);
        work.documents.push(document);
    }
}

/// What `listen` says beside the place.
#[derive(Default)]
struct Listens {
    tls: bool,
    http2: bool,
    quic: bool,
    default: bool,
    introduced: bool,
}

fn server(
    work: &mut Work<'_>,
    upstreams: &Upstreams<'_>,
    owner: &Directive,
    block: &[Directive],
    outer: &Scope,
    listeners: &mut BTreeMap<At, Listener>,
) {
    let scope = outer.enter(work, block);
    let names: Vec<&str> =
        block.iter().filter(|d| d.name == "server_name").flat_map(|d| d.words.iter().map(String::as_str)).collect();
    let first = names.iter().copied().find(|name| !name.is_empty() && *name != "_").unwrap_or_default();
    let source = Source { upstreams, server_name: first, word: if first.is_empty() { "default" } else { first } };
    let places = listens(work, block);
    let paths = paths(work, &source, owner, block, &scope);
    for directive in block {
        match directive.name.as_str() {
            "listen" | "server_name" | "location" | "return" | "rewrite" | "http2" | "ssl" => {}
            "ssl_certificate" | "ssl_certificate_key" | "ssl_client_certificate" | "ssl_verify_client" => {}
            name if TAKEN.contains(&name) => {}
            _ => left(&mut work.report, directive),
        }
    }
    let http2 = block.iter().any(|d| d.name == "http2" && d.word(0) == "on");
    let ssl = block.iter().any(|d| d.name == "ssl" && d.word(0) == "on");
    let rules = rules(work, block, &names);
    let tls_anywhere = ssl || places.iter().any(|(_, listens)| listens.tls || listens.quic);
    let certificates = if tls_anywhere { Certificates::read(work, block, first) } else { Certificates::default() };
    let hosts = rules.iter().map(|(.., hosts)| hosts.len()).sum::<usize>();
    let parts = certificates.parts() + hosts + (rules.len() + 1) * (paths.len() + 1);
    if !work.room.take(places.len().saturating_mul(parts)) {
        return;
    }
    for (at, listens) in places {
        let listener = listeners.entry(at).or_default();
        listener.owner.get_or_insert_with(|| owner.head());
        let tls = listens.tls || listens.quic || ssl;
        if tls {
            listener.fields.insert("https".into(), true.into());
            certificates.give(listener);
        }
        if listens.quic {
            listener.fields.insert("http3".into(), true.into());
        }
        if tls && (http2 || listens.http2) {
            listener.fields.insert("http2".into(), true.into());
        }
        if listens.introduced {
            listener.fields.insert("proxyProtocol".into(), "accept".into());
        }
        settings(&scope, listener);
        let whole = paths.iter().any(|path| path.get("pathPrefix").is_some_and(|prefix| prefix == "/"));
        let mut all = rules.clone();
        if listens.default && all.iter().all(|(class, ..)| *class != CATCH_ALL) {
            all.push((CATCH_ALL, 0, Vec::new()));
        }
        for (class, length, hosts) in all {
            listener.rules.push(Rule { class, length, hosts, paths: paths.clone(), whole });
        }
    }
}

const EXACT: u8 = 0;
const BEFORE: u8 = 1;
const AFTER: u8 = 2;
const EXPRESSION: u8 = 3;
const CATCH_ALL: u8 = 4;

/// Names by their kinds, in nginx's order of looking.
fn rules(work: &mut Work<'_>, block: &[Directive], names: &[&str]) -> Vec<(u8, usize, Vec<Value>)> {
    let mut by_class: BTreeMap<u8, Vec<Value>> = BTreeMap::new();
    let mut longest: BTreeMap<u8, usize> = BTreeMap::new();
    let owner = block.iter().find(|d| d.name == "server_name");
    let mut add = |class: u8, length: usize, host: Option<Value>| {
        by_class.entry(class).or_default().extend(host);
        let known = longest.entry(class).or_default();
        *known = (*known).max(length);
    };
    let plain = |value: &str| Some(json!({"value": value}));
    for name in names {
        match *name {
            "" | "_" => add(CATCH_ALL, 0, None),
            name if name.starts_with('~') => {
                let expression = format!("(?i){}", &name[1..]);
                match base_model::regexp::compile(&expression) {
                    Ok(_) => add(EXPRESSION, 0, Some(json!({"isRegexp": true, "value": expression}))),
                    Err(why) => {
                        if let Some(owner) = owner {
                            let why = format!("{name} is not an expression of RE2: {why}");
                            say(&mut work.report, owner, Manner::Lost, &why, "hosts of the rule");
                        }
                    }
                }
            }
            name if name.starts_with('.') => {
                add(EXACT, name.len(), plain(&name[1..]));
                add(BEFORE, name.len(), plain(&format!("*{name}")));
            }
            name if name.starts_with("*.") => add(BEFORE, name.len(), plain(name)),
            name if name.ends_with(".*") => add(AFTER, name.len(), plain(name)),
            name => add(EXACT, name.len(), plain(name)),
        }
    }
    if names.is_empty() {
        add(CATCH_ALL, 0, None);
    }
    by_class.into_iter().map(|(class, hosts)| (class, longest.get(&class).copied().unwrap_or(0), hosts)).collect()
}

fn listens(work: &mut Work<'_>, block: &[Directive]) -> Vec<(At, Listens)> {
    let mut places: Vec<(At, Listens)> = Vec::new();
    let mut known: HashMap<At, usize> = HashMap::new();
    let mut told = false;
    for directive in block.iter().filter(|d| d.name == "listen") {
        told = true;
        let Some(at) = place(directive.word(0)) else {
            say(
                &mut work.report,
                directive,
                Manner::Lost,
                "only ports of TCP and UDP are listened on",
                "address and port of the HTTPServer",
            );
            continue;
        };
        let mut listens = Listens::default();
        for word in directive.words.iter().skip(1) {
            match word.split_once('=').map_or(word.as_str(), |(name, _)| name) {
                "ssl" => listens.tls = true,
                "http2" => listens.http2 = true,
                "quic" | "http3" => listens.quic = true,
                "default_server" | "default" => listens.default = true,
                "proxy_protocol" => listens.introduced = true,
                "reuseport" | "backlog" | "rcvbuf" | "sndbuf" | "bind" | "fastopen" | "so_keepalive" | "deferred" => {
                    say(
                        &mut work.report,
                        directive,
                        Manner::Needless,
                        &format!("{word}: every worker has a socket of its own"),
                        "",
                    );
                }
                "ipv6only" => say(
                    &mut work.report,
                    directive,
                    Manner::Differs,
                    "an address of IPv6 alone is listened on as such",
                    "address of the HTTPServer",
                ),
                _ => say(&mut work.report, directive, Manner::Lost, &format!("{word} is not known"), ""),
            }
        }
        match known.get(&at).and_then(|index| places.get_mut(*index)) {
            // One port over both families, or over TCP and UDP.
            Some((_, known)) => {
                known.tls |= listens.tls;
                known.http2 |= listens.http2;
                known.quic |= listens.quic;
                known.default |= listens.default;
                known.introduced |= listens.introduced;
            }
            None => {
                known.insert(at.clone(), places.len());
                places.push((at, listens));
            }
        }
    }
    if !told {
        places.push(((String::new(), 80), Listens::default()));
    }
    places
}

/// `80`, `*:80`, `[::]:80`, `192.0.2.1:80`, `192.0.2.1`.
pub fn place(text: &str) -> Option<At> {
    if text.starts_with("unix:") {
        return None;
    }
    if let Ok(port) = text.parse::<u16>() {
        return (port > 0).then(|| (String::new(), port));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port.parse::<u16>().ok()?),
        _ => (text, 80),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let everywhere = matches!(bare, "*" | "0.0.0.0" | "::");
    if everywhere {
        return (port > 0).then(|| (String::new(), port));
    }
    let address: IpAddr = if bare == "localhost" { [127, 0, 0, 1].into() } else { bare.parse().ok()? };
    (port > 0).then(|| (address.to_string(), port))
}

/// What one server says of the port all its servers share: the first one to say it is heard.
fn settings(scope: &Scope, listener: &mut Listener) {
    let mut say = |name: &str, value: Value| {
        listener.fields.entry(name).or_insert(value);
    };
    match scope.keepalive_timeout.as_deref() {
        Some("0s") => say("keepAlive", false.into()),
        Some(time) => say("keepAliveTimeout", time.into()),
        None => {}
    }
    if scope.underscores {
        say("underscoresInHeaders", "allow".into());
    }
    if !scope.trusted.is_empty() {
        say("trustedProxies", scope.trusted.to_vec().into());
    }
}

/// What a server shows its clients, and asks of them; the same wherever it listens.
#[derive(Default)]
struct Certificates {
    /// Names, chains and keys.
    pairs: Vec<(String, String, String)>,
    authorities: Option<String>,
}

/// Bytes of certificates that count as one part of a document.
const BYTES_OF_PART: usize = 256;

impl Certificates {
    fn read(work: &mut Work<'_>, block: &[Directive], name: &str) -> Certificates {
        let of = |wanted: &str| block.iter().filter(|d| d.name == wanted).cloned().collect::<Vec<_>>();
        let name = if name.is_empty() { "default" } else { name };
        let read = |work: &mut Work<'_>, directive: &Directive| {
            let path = work.directory.join(directive.word(0));
            match work.files.read(&path) {
                Ok(bytes) => Some(BASE64_STANDARD.encode(bytes)),
                Err(why) => {
                    let why = format!("cannot be read: {why}");
                    say(&mut work.report, directive, Manner::Lost, &why, "certs and keys of the HTTPServer");
                    None
                }
            }
        };
        let mut found = Certificates::default();
        for (number, (chain, key)) in of("ssl_certificate").iter().zip(&of("ssl_certificate_key")).enumerate() {
            let name = if number == 0 { name.to_owned() } else { format!("{name}-{}", number + 1) };
            if let (Some(chain), Some(key)) = (read(work, chain), read(work, key)) {
                if !work.room.take((chain.len() + key.len()) / BYTES_OF_PART) {
                    return Certificates::default();
                }
                found.pairs.push((name, chain, key));
            }
        }
        let asks = of("ssl_verify_client");
        match asks.first() {
            Some(directive) if directive.word(0) == "on" => {
                found.authorities =
                    of("ssl_client_certificate").first().and_then(|authorities| read(work, authorities));
            }
            Some(directive) if directive.word(0) != "off" => {
                let why = "clients have to show a certificate or are not asked for one";
                say(&mut work.report, directive, Manner::Lost, why, "caCertBase64 of the HTTPServer");
            }
            _ => {}
        }
        found
    }

    fn parts(&self) -> usize {
        let pairs = self.pairs.iter().map(|(_, chain, key)| chain.len() + key.len());
        (pairs.sum::<usize>() + self.authorities.as_ref().map_or(0, String::len)) / BYTES_OF_PART
    }

    fn give(&self, listener: &mut Listener) {
        for (name, chain, key) in &self.pairs {
            listener.certs.insert(name.clone(), chain.as_str().into());
            listener.keys.insert(name.clone(), key.as_str().into());
        }
        if let Some(authorities) = &self.authorities {
            listener.fields.insert("caCertBase64".into(), authorities.as_str().into());
        }
    }
}

/// Paths of a server in the order nginx looks for locations.
fn paths(
    work: &mut Work<'_>,
    source: &Source<'_>,
    owner: &Directive,
    block: &[Directive],
    scope: &Scope,
) -> Vec<Value> {
    let mut found = Vec::new();
    // What stands outside of locations answers before any of them.
    let own: Vec<Directive> =
        block.iter().filter(|d| matches!(d.name.as_str(), "return" | "rewrite")).cloned().collect();
    if own.iter().any(|d| d.name == "return") {
        let everything = Place::Prefix("/".to_owned(), false);
        found.extend(location::convert(work, source, everything, owner, &own, scope));
        for directive in block.iter().filter(|d| d.name == "location") {
            say(&mut work.report, directive, Manner::Differs, "the return before it answers everything", "");
        }
        return found.into_iter().map(|path| Value::Object(path.value)).collect();
    }
    for directive in &own {
        let why = "what is rewritten before a location is chosen is not looked for again";
        say(&mut work.report, directive, Manner::Lost, why, "rewriteTarget of the path, or a rewrite in the location");
    }
    let mut seen = HashSet::new();
    collect(work, source, block, scope, None, &mut found, &mut seen);
    if found.is_empty() {
        say(&mut work.report, owner, Manner::Lost, "no location of it can be served", "");
    }
    let expressions = found.iter().any(|path| matches!(path.place, Place::Expression(_)));
    let mut firm: Vec<String> = found
        .iter()
        .filter_map(|path| match &path.place {
            Place::Prefix(prefix, true) => Some(prefix.clone()),
            _ => None,
        })
        .collect();
    // Without those that lie in another one: of the rest a path can only lie in the one that stands right before it.
    firm.sort_unstable();
    firm.dedup_by(|inner, outer| inner.starts_with(outer.as_str()));
    let rank = |path: &Path| match &path.place {
        Place::Exact(_) => (0, 0),
        // A longer prefix is nearer, although nginx would look at expressions first.
        Place::Prefix(prefix, is_firm) => {
            let before = firm.partition_point(|outer| outer <= prefix).checked_sub(1);
            let within = before.is_some_and(|at| prefix.starts_with(firm[at].as_str()));
            (if *is_firm || within { 1 } else { 3 }, usize::MAX - prefix.len())
        }
        Place::Expression(_) => (2, 0),
    };
    for path in &found {
        if let Place::Prefix(prefix, false) = &path.place
            && expressions
            && rank(path).0 == 1
        {
            let why = format!("expressions are not looked at before {prefix}, which lies in a location with ^~");
            say(&mut work.report, owner, Manner::Differs, &why, "order of paths in the rule");
        }
    }
    // Those of one rank keep their order: expressions are looked at one after the other.
    found.sort_by_key(rank);
    let mut paths = Vec::new();
    for Path { value, .. } in found {
        let guarded = value.contains_key("ipFilter");
        let mut rest = value.clone();
        paths.push(Value::Object(value));
        if guarded {
            // Who may not come in here is not asked in by a later path either.
            rest.retain(|field, _| matches!(field.as_str(), "path" | "pathPrefix" | "pathRegexp"));
            rest.insert("backend".into(), work.forbidden().into());
            paths.push(Value::Object(rest));
        }
    }
    paths
}

/// Locations, and those inside of them.
fn collect(
    work: &mut Work<'_>,
    source: &Source<'_>,
    block: &[Directive],
    scope: &Scope,
    within: Option<&Place>,
    found: &mut Vec<Path>,
    seen: &mut HashSet<Place>,
) {
    for directive in block.iter().filter(|d| d.name == "location") {
        let Some(inner) = &directive.block else {
            left(&mut work.report, directive);
            continue;
        };
        let place = match Place::of(directive) {
            Ok(Some(place)) => place,
            Ok(None) => {
                let why = "locations with names are for requests that others send there";
                say(&mut work.report, directive, Manner::Lost, why, "a flow with jumpIf");
                continue;
            }
            Err(why) => {
                say(&mut work.report, directive, Manner::Lost, &why, "pathRegexp, an expression of RE2");
                continue;
            }
        };
        if let (Some(Place::Prefix(outer, _)), Place::Expression(_)) = (within, &place) {
            let why = format!("it is looked at for all paths, not only for those that begin with {outer}");
            say(&mut work.report, directive, Manner::Differs, &why, "an expression that begins with that path");
        }
        if !seen.insert(place.clone()) {
            say(&mut work.report, directive, Manner::Lost, "there is one for these paths already", "");
            continue;
        }
        let scope = scope.enter(work, inner);
        collect(work, source, inner, &scope, Some(&place), found, seen);
        let only_inner = inner.iter().all(|d| d.name == "location" || TAKEN.contains(&d.name.as_str()));
        if !(only_inner && inner.iter().any(|d| d.name == "location")) {
            found.extend(location::convert(work, source, place, directive, inner, &scope));
        }
    }
}

impl Listener {
    /// Takes in what another would serve on the same port.
    fn join(&mut self, other: Listener) {
        for (field, value) in other.fields {
            self.fields.entry(field).or_insert(value);
        }
        self.certs.extend(other.certs);
        self.keys.extend(other.keys);
        self.rules.extend(other.rules);
    }

    fn document(mut self, work: &mut Work<'_>, address: &str, port: u16) -> Value {
        let name = work.names.give(&[work.prefix, address, &port.to_string()]);
        self.rules.sort_by_key(|rule| (rule.class, usize::MAX - rule.length));
        // A server whose locations do not fit answers 404; the next rule is another server's.
        // They are in the order of their classes: the last one tells.
        let last = self.rules.len().saturating_sub(1);
        let followed = self.rules.last().is_some_and(|rule| rule.class > EXACT);
        let lacking: Vec<bool> = (0..self.rules.len())
            .map(|at| !self.rules[at].whole && self.rules[at].class != CATCH_ALL && followed && at < last)
            .collect();
        if lacking.contains(&true) {
            let nothing = work.names.give(&[work.prefix, &port.to_string(), "not-found"]);
            let filter = json!({"name": "answer", "kind": "ResponseBuilder", "template": "statusCode: 404\n"});
            work.documents.push(json!({"kind": "Pipeline", "name": nothing, "filters": [filter]}));
            for (rule, lacks) in self.rules.iter_mut().zip(&lacking) {
                if *lacks {
                    rule.paths.push(json!({"pathPrefix": "/", "backend": nothing}));
                }
            }
        }
        let rules: Vec<Value> = self
            .rules
            .into_iter()
            .filter(|rule| !rule.paths.is_empty())
            .map(|rule| match rule.hosts.len() {
                0 => json!({"paths": rule.paths}),
                _ => json!({"hosts": rule.hosts, "paths": rule.paths}),
            })
            .collect();
        let mut document = Map::new();
        document.insert("kind".into(), "HTTPServer".into());
        document.insert("name".into(), name.into());
        if !address.is_empty() {
            document.insert("address".into(), address.into());
        }
        document.insert("port".into(), port.into());
        document.extend(self.fields);
        for (field, texts) in [("certs", self.certs), ("keys", self.keys)] {
            if !texts.is_empty() {
                document.insert(field.into(), texts.into());
            }
        }
        document.insert("rules".into(), rules.into());
        Value::Object(document)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_to_listen_at() {
        for (text, expected) in [
            ("80", Some(("", 80))),
            ("*:8080", Some(("", 8080))),
            ("[::]:80", Some(("", 80))),
            ("[::1]:80", Some(("::1", 80))),
            ("192.0.2.1:81", Some(("192.0.2.1", 81))),
            ("192.0.2.1", Some(("192.0.2.1", 80))),
            ("localhost:1", Some(("127.0.0.1", 1))),
            ("unix:/run/x", None),
            ("host.example:80", None),
            ("0", None),
            (":", None),
        ] {
            assert_eq!(place(text), expected.map(|(address, port)| (address.to_owned(), port)), "{text}");
        }
    }
}
