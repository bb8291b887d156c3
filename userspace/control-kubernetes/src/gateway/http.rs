//! HTTPRoutes and GRPCRoutes: paths of HTTPServers, and a Pipeline for each rule.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base_model::GoDuration;
use control_api::Kept;
use serde_json::{Map, Value, json};

use super::object::{
    BackendRef, HeaderModifier, NameValue, PathModifier, Route, RouteFilter, RouteMatch, RouteRule, RouteSpec,
    ValueMatch,
};
use super::routes::Of;
use super::status::Condition;
use super::{Certificate, GROUP, Heard, Made, Ours, Settings, granted, service_of, tls};
use crate::certificates::{self, Candidate};
use crate::endpoints::ServiceName;
use crate::ingress::{Check, HostPlace, Rules};
use crate::kinds::Kind;
use crate::object::Key;
use crate::report::{Note, Report};
use crate::store::Store;

/// What of a route is not known here, and whether everything that it refers to can be used.
pub(super) fn judge(store: &Store, registry: &str, kind: Kind, route: &Route) -> (Option<String>, Condition) {
    let namespace = &route.metadata.namespace;
    let mut resolved = Condition::new("ResolvedRefs", true, "ResolvedRefs", "");
    let mut unsupported = None;
    for rule in &route.spec.rules {
        for backend in rule.backend_refs.iter().chain(rule.filters.iter().filter_map(mirrored)) {
            if let Err((reason, told)) = service_of(store, kind, namespace, backend)
                && resolved.holds
            {
                resolved = Condition::new("ResolvedRefs", false, reason, told);
            }
            let known = |filter: &RouteFilter| {
                matches!(filter.kind.as_str(), "RequestHeaderModifier" | "ResponseHeaderModifier")
            };
            if let Some(other) = backend.filters.iter().find(|filter| !known(filter)) {
                unsupported = Some(format!(
                    "filter {} of a backendRef is not served; write it for the rule",
                    base_text::quoted(&other.kind)
                ));
            }
        }
        if rule.backend_refs.iter().filter(|backend| !backend.filters.is_empty()).count() > PARTS {
            unsupported = Some(format!("backendRefs with filters are {PARTS} of a rule at most"));
        }
        for filter in &rule.filters {
            match filter.kind.as_str() {
                "RequestHeaderModifier"
                | "ResponseHeaderModifier"
                | "RequestRedirect"
                | "URLRewrite"
                | "RequestMirror"
                | "CORS" => {}
                "ExtensionRef" => match extension(store, registry, (kind, namespace), filter) {
                    Ok(_) => {}
                    Err(why) => resolved = Condition::new("ResolvedRefs", false, "BackendNotFound", why),
                },
                other => unsupported = Some(format!("filter {} is not served", base_text::quoted(other))),
            }
        }
    }
    (unsupported, resolved)
}

fn mirrored(filter: &RouteFilter) -> Option<&BackendRef> {
    filter.request_mirror.as_ref().map(|mirror| &mirror.backend_ref)
}

/// A server of HTTP: an address, a port, and whether TLS is spoken.
pub(super) type Door = (String, i64, bool);

/// Listeners by their door, each with the host it has, in lower case, its Gateway, and its place there.
pub(super) type Listening = BTreeMap<Door, Vec<(String, usize, usize)>>;

/// What a server leads to.
#[derive(Default)]
pub(super) struct KnownDoor {
    pub hosts: BTreeMap<String, KnownHost>,
    rules: Rules,
}

#[derive(Default)]
pub(super) struct KnownHost {
    /// Routes that are asked for it, in any order.
    pub members: Vec<Arc<Led>>,
    /// A listener is for it: it is there without routes as well.
    listens: bool,
}

/// Where the rules of a route lead.
pub(super) struct Led {
    kind: Kind,
    key: Key,
    created: String,
    spec: Arc<RouteSpec>,
    /// By rule: a pipeline; nothing where that cannot be had, which answers 500.
    pipelines: Box<[Box<str>]>,
    /// Which of them the cluster would not take.
    pub notes: Vec<Note>,
    /// As whom servers are spoken to over TLS.
    identity: Option<Arc<Certificate>>,
}

impl Led {
    /// Of whoever shows this certificate.
    pub fn is_as(&self, identity: Option<&Arc<Certificate>>) -> bool {
        match (&self.identity, identity) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (own, other) => own.is_none() && other.is_none(),
        }
    }

    pub fn pipelines(&self) -> impl Iterator<Item = &str> {
        self.pipelines.iter().map(|name| &**name).filter(|name| !name.is_empty())
    }

    /// Whether any of its rules leads nowhere.
    pub fn refuses(&self) -> bool {
        self.pipelines.iter().any(|name| name.is_empty())
    }

    fn age(&self) -> (&str, &Key) {
        (&self.created, &self.key)
    }
}

/// Smaller is earlier.
type Rank = (Reverse<bool>, Reverse<usize>, Reverse<bool>, Reverse<usize>, Reverse<usize>);

/// A path of a rule, with what decides who is asked first; of the same rank the older route is first, and of one route the earlier rule.
type Matched = (Rank, Value);

/// Servers that a listener of HTTP is at.
pub(super) fn doors(one: &Ours<'_>, heard: &Heard<'_>) -> Vec<Door> {
    let is_http = matches!(heard.listener.protocol.as_str(), "HTTP" | "HTTPS");
    let (port, tls) = (heard.listener.port, heard.listener.protocol == "HTTPS");
    match is_http && heard.serves() && one.problem.is_none() {
        true => one.addresses.iter().map(|address| (address.clone(), port, tls)).collect(),
        false => Vec::new(),
    }
}

pub(super) fn listening(ours: &[Ours<'_>]) -> Listening {
    let mut listening = Listening::new();
    for (g, one) in ours.iter().enumerate() {
        for (l, heard) in one.listeners.iter().enumerate() {
            for door in doors(one, heard) {
                listening.entry(door).or_default().push((heard.listener.hostname.to_ascii_lowercase(), g, l));
            }
        }
    }
    listening
}

pub(super) fn servers(made: &mut Made<'_>, ours: &[Ours<'_>]) {
    let listening = std::mem::take(&mut made.listening);
    // No route leads to a server without listeners.
    made.known.doors.retain(|door, _| listening.contains_key(door));
    for (door, listeners) in &listening {
        let hosts: BTreeSet<&str> = listeners.iter().map(|(host, ..)| host.as_str()).collect();
        let known = made.known.doors.entry(door.clone()).or_default();
        for (host, known) in &mut known.hosts {
            if known.listens && !hosts.contains(host.as_str()) {
                known.listens = false;
                made.changed_hosts.insert((door.clone(), host.clone()));
            }
        }
        for host in hosts {
            if !known.hosts.get(host).is_some_and(|known| known.listens) {
                known.hosts.entry(host.to_owned()).or_default().listens = true;
                made.changed_hosts.insert((door.clone(), host.to_owned()));
            }
        }
    }
    let (nothing, refusing) = (made.answering(404), made.answering(500));
    for (door, host) in std::mem::take(&mut made.changed_hosts) {
        let Some(door) = made.known.doors.get_mut(&door) else { continue };
        let Some(known) = door.hosts.get_mut(&host) else { continue };
        if known.members.is_empty() && !known.listens {
            door.hosts.remove(&host);
            door.rules.remove(&HostPlace::of(&host));
            continue;
        }
        known.members.shrink_to_fit();
        let rule = rule(&host, &known.members, (&nothing, &refusing));
        let place = HostPlace::of(&host);
        if door.rules.get(&place).is_none_or(|known| !known.is(&rule)) {
            door.rules.insert(place, Kept::of(&rule));
        }
    }
    for (door, listeners) in listening {
        server(made, ours, door, &listeners, &nothing);
    }
}

/// The rule of a host: the paths of all its routes, in the order of the API.
fn rule(host: &str, members: &[Arc<Led>], (nothing, refusing): (&str, &str)) -> Value {
    let mut members: Vec<&Led> = members.iter().map(Arc::as_ref).collect();
    members.sort_by(|a, b| a.age().cmp(&b.age()).then_with(|| a.kind.cmp(&b.kind)));
    let mut entries: Vec<Matched> = Vec::new();
    for led in members {
        for (rule, pipeline) in led.spec.rules.iter().zip(&led.pipelines) {
            entries.extend(paths_of(led.kind, rule, if pipeline.is_empty() { refusing } else { pipeline }));
        }
    }
    entries.sort_by_key(|(rank, _)| *rank);
    let mut paths: Vec<Value> = entries.into_iter().map(|(_, path)| path).collect();
    // No other host's routes are asked.
    paths.push(json!({"pathPrefix": "/", "backend": nothing}));
    match host {
        "" => json!({"paths": paths}),
        host => json!({"host": host, "paths": paths}),
    }
}

/// The document of a server. Its rules are kept beside it, and looked at one by one: those of routes before the routes are taken, and with
/// the server one for each host of a listener.
fn server(made: &mut Made<'_>, ours: &[Ours<'_>], door: Door, listeners: &[(String, usize, usize)], nothing: &str) {
    let mut certificates: BTreeMap<&str, &(String, String)> = BTreeMap::new();
    // The same, by whose they are, oldest first.
    let mut candidates: Vec<Candidate> = Vec::new();
    // Authorities of clients' certificates, where those are asked for. Listeners that differ in it share no port.
    let mut clients = None;
    for (_, g, l) in listeners {
        let (one, heard) = (&ours[*g], &ours[*g].listeners[*l]);
        clients = heard.clients.authorities.as_deref();
        for (secret, pair) in &heard.certificates {
            if certificates.insert(secret, pair).is_none() {
                let names = made.check.names(secret, pair);
                candidates.push(Candidate { secret: secret.clone(), names, holder: one.holder(heard) });
            }
        }
    }
    let owner = |name: &str| narrowest(listeners, name).map(|(_, g, l)| ours[*g].holder(&ours[*g].listeners[*l]));
    let mut called = certificates::called(&candidates, owner);
    if let Some(first) = candidates.first() {
        certificates::shown_first(&mut called, &first.secret);
    }
    let (address, port, tls) = &door;
    let name = made.server_name(if *tls { "https" } else { "http" }, address, *port);
    let mut document = json!({
        "name": name, "kind": "HTTPServer", "address": address, "port": port, "https": tls, "xForwardedFor": true,
        "clientMaxBodySize": -1,
    });
    if *tls {
        let (mut certs, mut keys) = (Map::new(), Map::new());
        for (secret, (chain, key)) in certificates {
            let called = called.get(secret).map_or(secret, String::as_str);
            certs.insert(called.to_owned(), json!(chain));
            keys.insert(called.to_owned(), json!(key));
        }
        document["certs"] = Value::Object(certs);
        document["keys"] = Value::Object(keys);
        if let Some(authorities) = clients {
            document["caCertBase64"] = json!(authorities);
        }
        let apart = |host: &String| if host.is_empty() { "*".to_owned() } else { host.clone() };
        let apart = base_model::once(listeners.iter().map(|(host, ..)| apart(host)));
        if apart != ["*"] {
            document["tlsHosts"] = json!(apart);
        }
    } else {
        document["h2c"] = json!(true);
    }
    let own: BTreeSet<&str> = listeners.iter().map(|(host, ..)| host.as_str()).collect();
    let own: Value = own.into_iter().map(|host| rule(host, &[], (nothing, nothing))).collect();
    let rules = made.known.doors.get(&door).map(|door| door.rules.clone()).unwrap_or_default();
    made.rules.insert(name, rules);
    let of = listeners.first().map(|(_, g, _)| ours[*g].gateway.metadata.key()).unwrap_or_default();
    if let Err(why) = made.put_server(document, Some(own), (Kind::Gateway, of)) {
        made.unserved.extend(listeners.iter().map(|(_, g, l)| ((*g, *l), why.clone())));
    }
}

/// Why a server would not take the routes of this one, whatever they lead to: patterns that are none, or too large. It is refused by
/// itself, since whoever shares the server with it would be refused as well.
pub(super) fn untakeable(check: &mut dyn Check, settings: Settings<'_>, kind: Kind, route: &Route) -> Option<String> {
    if !matches!(kind, Kind::HttpRoute | Kind::GrpcRoute) {
        return None;
    }
    let rules = route.spec.rules.iter();
    let paths: Vec<Value> = rules
        .flat_map(|rule| paths_of(kind, rule, "any"))
        .map(|(_, path)| path)
        .chain([json!({"backend": "any"})])
        .collect();
    let mut hosts: Vec<Value> =
        route.spec.hostnames.iter().map(|host| json!({"host": host.to_ascii_lowercase()})).collect();
    if hosts.is_empty() {
        hosts.push(json!({}));
    }
    for host in &mut hosts {
        host["paths"] = json!(paths);
    }
    let meta = &route.metadata;
    let name = format!("routes.{}.{}.{}.{}", settings.name, kind.plural(), meta.namespace, meta.name);
    let server = json!({"name": crate::ingress::named(&name), "kind": "HTTPServer", "port": 1, "rules": hosts});
    check.check(&server).err()
}

/// The listener that a host is of: of those that it is within the one for the fewest hosts.
pub(super) fn narrowest<'l>(listeners: &'l [(String, usize, usize)], host: &str) -> Option<&'l (String, usize, usize)> {
    let within = |wide: &str| match wide.strip_prefix('*') {
        Some(end) => host == wide || host.len() > end.len() && host.ends_with(end),
        None => wide.is_empty() || host == wide,
    };
    let rank = |wide: &str| (!wide.starts_with('*') && !wide.is_empty(), wide.len());
    let all = listeners.iter().filter(|(wide, ..)| within(wide));
    // Of two for the same hosts the earlier one, whose Gateway is older.
    all.rev().max_by_key(|(wide, ..)| rank(wide))
}

/// Where the rules of a route lead, for whoever shows this certificate.
pub(super) fn lead(made: &mut Made<'_>, of: Of<'_>, identity: Option<Arc<Certificate>>) -> Led {
    let meta = &of.route.metadata;
    let (mut pipelines, mut report) = (Vec::new(), Report::default());
    for (r, rule) in of.route.spec.rules.iter().enumerate() {
        let name = match pipeline(made, of, identity.as_deref(), (r, rule)) {
            Ok(name) => name.into_boxed_str(),
            Err(why) => {
                if let Some(why) = why {
                    report.refused("spec", format!("nothing can be made of it: {why}"));
                }
                Box::default()
            }
        };
        pipelines.push(name);
    }
    Led {
        kind: of.kind,
        key: of.key.clone(),
        created: meta.creation_timestamp.clone(),
        spec: of.route.spec.clone(),
        pipelines: pipelines.into_boxed_slice(),
        notes: report.notes,
        identity,
    }
}

/// The paths of a rule that lead to a backend.
fn paths_of(kind: Kind, rule: &RouteRule, backend: &str) -> Vec<Matched> {
    let grpc = kind == Kind::GrpcRoute;
    let anything = [RouteMatch::default()];
    let matches: &[RouteMatch] = if rule.matches.is_empty() { &anything } else { &rule.matches };
    let rewrites = rule.filters.iter().find_map(|filter| filter.url_rewrite.as_ref()?.path.as_ref());
    let mut entries = Vec::new();
    for matched in matches {
        let (exact, length, paths) = if grpc { grpc_paths(matched) } else { http_paths(matched, rewrites) };
        let method = matched.method.as_str().filter(|_| !grpc);
        let rank = (
            Reverse(exact),
            Reverse(length),
            Reverse(method.is_some()),
            Reverse(matched.headers.len()),
            Reverse(matched.query_params.len()),
        );
        for mut path in paths {
            if let Some(method) = method {
                path.insert("methods".to_owned(), json!([method]));
            }
            for (name, all, conditions) in
                [("headers", "matchAllHeader", &matched.headers), ("queries", "matchAllQuery", &matched.query_params)]
            {
                if !conditions.is_empty() {
                    path.insert(name.to_owned(), conditions.iter().map(condition).collect());
                    path.insert(all.to_owned(), json!(true));
                }
            }
            path.insert("backend".to_owned(), json!(backend));
            entries.push((rank, Value::Object(path)));
        }
    }
    entries
}

fn condition(wanted: &ValueMatch) -> Value {
    match wanted.kind.as_str() {
        "RegularExpression" => json!({"key": wanted.name, "regexp": format!("^(?:{})$", wanted.value)}),
        _ => json!({"key": wanted.name, "values": [wanted.value]}),
    }
}

fn fields<const N: usize>(of: [(&str, String); N]) -> Map<String, Value> {
    of.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect()
}

/// Whether it is exact, how long it is, and the conditions.
fn http_paths(matched: &RouteMatch, rewrite: Option<&PathModifier>) -> (bool, usize, Vec<Map<String, Value>>) {
    let path = matched.path.clone().unwrap_or_default();
    let value = if path.value.is_empty() { "/" } else { path.value.as_str() };
    match path.kind.as_str() {
        "Exact" => (true, value.len(), vec![fields([("path", value.to_owned())])]),
        "RegularExpression" => (false, value.len(), vec![fields([("pathRegexp", format!("^(?:{value})$"))])]),
        _ => {
            let prefix = value.trim_end_matches('/');
            let below = format!("{prefix}/");
            let with = rewrite.and_then(|rewrite| rewrite.replace_prefix_match.as_ref());
            let paths = match (prefix, with) {
                ("", None) => vec![fields([("pathPrefix", "/".to_owned())])],
                (prefix, None) => vec![fields([("path", prefix.to_owned()), ("pathPrefix", below)])],
                (prefix, Some(with)) => {
                    let with = with.trim_end_matches('/');
                    let whole = if with.is_empty() { "/" } else { with };
                    let mut paths = Vec::new();
                    if !prefix.is_empty() {
                        paths.push(fields([("path", prefix.to_owned()), ("rewriteTarget", whole.to_owned())]));
                    }
                    paths.push(fields([("pathPrefix", below), ("rewriteTarget", format!("{with}/"))]));
                    paths
                }
            };
            (false, prefix.len(), paths)
        }
    }
}

/// A path of gRPC is `/service/method`.
fn grpc_paths(matched: &RouteMatch) -> (bool, usize, Vec<Map<String, Value>>) {
    let text = |name: &str| matched.method[name].as_str().unwrap_or_default();
    let (service, method) = (text("service"), text("method"));
    let paths = match (text("type") == "RegularExpression", service, method) {
        (_, "", "") => fields([("pathPrefix", "/".to_owned())]),
        (true, service, method) => {
            let or_any = |text: &str| if text.is_empty() { "[^/]+".to_owned() } else { format!("(?:{text})") };
            fields([("pathRegexp", format!("^/{}/{}$", or_any(service), or_any(method)))])
        }
        (false, service, "") => fields([("pathPrefix", format!("/{service}/"))]),
        (false, "", method) => fields([("pathRegexp", format!("^/[^/]+/{}$", crate::ingress::escaped(method)))]),
        (false, service, method) => fields([("path", format!("/{service}/{method}"))]),
    };
    (!service.is_empty() && !method.is_empty(), service.len() * 1024 + method.len(), vec![paths])
}

/// The pipeline of a rule, by its name; there is none where it leads nowhere, or where the cluster would not take it, which says why.
/// `identity`: as whom servers are spoken to over TLS.
fn pipeline(
    made: &mut Made<'_>,
    of: Of<'_>,
    identity: Option<&Certificate>,
    (r, rule): (usize, &RouteRule),
) -> Result<String, Option<String>> {
    let (kind, meta) = (of.kind, &of.route.metadata);
    let word = if kind == Kind::GrpcRoute { "grpc" } else { "http" };
    // No object has a tilde in its name.
    let as_whom = identity.map(|(secret, _)| format!("~{}", secret.replace('/', "."))).unwrap_or_default();
    let (own, namespace) = (&made.settings.name, &meta.namespace);
    let name = crate::ingress::named(&format!("{own}.{word}.{namespace}.{}.{r}{as_whom}", meta.name));
    let mut work = Work { made, kind, namespace, identity, rule: Rule::default() };
    for (n, filter) in rule.filters.iter().enumerate() {
        if !work.filter(n, filter) {
            return Err(None);
        }
    }
    if work.rule.redirect.is_none() && !work.backends(rule) {
        return Err(None);
    }
    let document = work.rule.document(&name);
    made.put_pipeline(&name, document).map_err(Some)?;
    Ok(name)
}

/// A rule in the making.
struct Work<'w, 'm> {
    made: &'w mut Made<'m>,
    kind: Kind,
    namespace: &'w str,
    identity: Option<&'w Certificate>,
    rule: Rule,
}

/// The stations of a rule's requests.
#[derive(Default)]
struct Rule {
    before: Vec<Value>,
    redirect: Option<Value>,
    /// One of them has a request, by their weights.
    parts: Vec<Part>,
    /// The weight of what cannot be used, which answers 500.
    refused: i64,
    after: Vec<Value>,
    /// Each with how its servers are believed, where TLS is spoken with them.
    mirrors: Vec<(Value, Option<Value>)>,
    resilience: Vec<Value>,
}

/// Backends whose requests pass the same filters.
struct Part {
    weight: i64,
    before: Vec<Value>,
    proxy: Value,
    after: Vec<Value>,
}

impl Part {
    fn start(&self) -> Value {
        self.before.first().unwrap_or(&self.proxy)["name"].clone()
    }
}

impl Work<'_, '_> {
    /// Says whether requests may pass: what is asked for and cannot be had does not let them by.
    fn filter(&mut self, n: usize, filter: &RouteFilter) -> bool {
        let rule = &mut self.rule;
        rule.before.extend(changes_request(&format!("request-{n}"), filter));
        rule.after.extend(changes_response(&format!("response-{n}"), filter));
        if let Some(rewrite) = &filter.url_rewrite {
            let mut adaptor = json!({"name": format!("rewrite-{n}"), "kind": "RequestAdaptor"});
            if let Some(host) = &rewrite.hostname {
                adaptor["host"] = json!(host);
            }
            let full = rewrite.path.as_ref().and_then(|path| path.replace_full_path.as_ref());
            if let Some(full) = full {
                adaptor["path"] = json!({"replace": full});
            }
            if rewrite.hostname.is_some() || full.is_some() {
                rule.before.push(adaptor);
            }
        }
        if let Some(redirect) = &filter.request_redirect {
            let status = redirect.status_code.unwrap_or(302);
            let mut filter = json!({"name": "redirect", "kind": "RedirectorV2", "statusCode": status, "always": true});
            for (name, value) in [("scheme", &redirect.scheme), ("hostname", &redirect.hostname)] {
                if let Some(value) = value {
                    filter[name] = json!(value);
                }
            }
            if let Some(port) = redirect.port {
                filter["port"] = json!(port);
            }
            match &redirect.path {
                Some(PathModifier { replace_full_path: Some(full), .. }) => {
                    filter["path"] = json!({"type": "ReplaceFullPath", "replaceFullPath": full});
                }
                Some(PathModifier { replace_prefix_match: Some(with), .. }) => {
                    filter["path"] = json!({"type": "ReplacePrefixMatch", "replacePrefixMatch": with});
                }
                _ => {}
            }
            rule.redirect = Some(filter);
        }
        if let Some(mirror) = &filter.request_mirror
            && let Ok(service) = service_of(self.made.store, self.kind, self.namespace, &mirror.backend_ref)
        {
            let permil = match (&mirror.fraction, mirror.percent) {
                (Some(part), _) => part.numerator.saturating_mul(1000) / part.denominator.unwrap_or(100).max(1),
                (None, Some(percent)) => percent.saturating_mul(10),
                (None, None) => 1000,
            };
            let tls = self.made.policies.of(self.made.store, &service.service, &service.port);
            if let (true, Ok(tls)) = (permil > 0, tls::towards(tls, self.identity)) {
                let service = ServiceName { https: tls.is_some(), ..service };
                let filter = json!({"policy": "random", "permil": permil.min(1000)});
                let pool = json!({"serviceRegistry": self.made.settings.name, "serviceName": service.to_string(), "filter": filter});
                rule.mirrors.push((pool, tls));
            }
        }
        if let Some(cors) = &filter.cors {
            rule.before.push(json!({
                "name": format!("cors-{n}"), "kind": "CORSAdaptor",
                // With full, no origin is allowed where none is listed.
                "allowedOrigins": cors.allow_origins,
                "allowedMethods": if cors.allow_methods.is_empty() { vec!["GET".to_owned(), "HEAD".into(), "POST".into()] } else { cors.allow_methods.clone() },
                "allowedHeaders": cors.allow_headers, "exposedHeaders": cors.expose_headers,
                "allowCredentials": cors.allow_credentials, "maxAge": cors.max_age.unwrap_or(5),
                "full": true,
            }));
        }
        if filter.kind == "ExtensionRef" {
            let registry = self.made.settings.name;
            match extension(self.made.store, registry, (self.kind, self.namespace), filter) {
                Ok((true, document)) => rule.resilience.push(document),
                Ok((false, document)) => rule.before.push(document),
                Err(_) => return false,
            }
        }
        true
    }

    /// Says whether there is anything to lead to.
    fn backends(&mut self, rule: &RouteRule) -> bool {
        let timeout = rule.timeouts.as_ref().and_then(|timeouts| {
            let of = |text: &Option<String>| text.as_ref()?.parse::<GoDuration>().ok().filter(|time| !time.is_zero());
            [of(&timeouts.backend_request), of(&timeouts.request)].into_iter().flatten().min()
        });
        let retry = rule.retry.as_ref().filter(|retry| retry.attempts.unwrap_or(1) > 0);
        if let Some(retry) = retry {
            let wait = retry.backoff.clone().unwrap_or_else(|| "10ms".to_owned());
            let tries = retry.attempts.unwrap_or(1) + 1;
            self.rule
                .resilience
                .push(json!({"name": "again", "kind": "Retry", "maxAttempts": tries, "waitDuration": wait}));
        }
        // Those of one Proxy are believed alike.
        let mut plain: Vec<Alike> = Vec::new();
        for (n, backend) in rule.backend_refs.iter().enumerate().filter(|(_, backend)| backend.weight != Some(0)) {
            let weight = backend.weight.unwrap_or(1);
            let Ok(service) = service_of(self.made.store, self.kind, self.namespace, backend) else {
                self.rule.refused += weight;
                continue;
            };
            let tls = self.made.policies.of(self.made.store, &service.service, &service.port);
            let Ok(tls) = tls::towards(tls, self.identity) else {
                self.rule.refused += weight;
                continue;
            };
            let service = ServiceName { https: tls.is_some(), ..service };
            let mut pool = json!({"serviceRegistry": self.made.settings.name, "serviceName": service.to_string()});
            if self.kind == Kind::GrpcRoute || speaks_h2c(self.made.store, &service.service, backend) {
                pool["http2"] = json!(true);
            }
            if let Some(timeout) = timeout {
                pool["timeout"] = json!(timeout.to_string());
            }
            if let Some(retry) = retry {
                pool["retryPolicy"] = json!("again");
                if !retry.codes.is_empty() {
                    pool["failureCodes"] = json!(base_model::once(retry.codes.iter()));
                }
            }
            for policy in &self.rule.resilience {
                if policy["kind"] == "CircuitBreaker" {
                    pool["circuitBreakerPolicy"] = policy["name"].clone();
                }
                if policy["kind"] == "Retry" && retry.is_none() {
                    pool["retryPolicy"] = policy["name"].clone();
                }
            }
            if backend.filters.is_empty() {
                match plain.iter_mut().find(|(known, _)| *known == tls) {
                    Some((_, pools)) => pools.push((weight, pool)),
                    None => plain.push((tls, vec![(weight, pool)])),
                }
                continue;
            }
            let own = |what: &str, m: usize| format!("backend-{n}-{what}-{m}");
            let filters = || backend.filters.iter().enumerate();
            self.rule.parts.push(Part {
                weight,
                before: filters().filter_map(|(m, filter)| changes_request(&own("request", m), filter)).collect(),
                proxy: proxy(&format!("backend-{n}"), vec![pool], tls),
                after: filters().filter_map(|(m, filter)| changes_response(&own("response", m), filter)).collect(),
            });
        }
        for (n, (tls, pools)) in plain.into_iter().enumerate() {
            let weight = pools.iter().map(|(weight, _)| weight).sum();
            let alone = pools.len() == 1;
            let weighed = pools.into_iter().map(|(weight, mut pool)| {
                if !alone {
                    pool["weight"] = json!(weight);
                }
                pool
            });
            let name = if n == 0 { "proxy".to_owned() } else { format!("proxy-{n}") };
            let proxy = proxy(&name, weighed.collect(), tls);
            self.rule.parts.insert(n, Part { weight, before: Vec::new(), proxy, after: Vec::new() });
        }
        // Whatever is beyond what can be told apart is refused, and not led elsewhere.
        let beyond = self.rule.parts.split_off(self.rule.parts.len().min(PARTS + 1));
        self.rule.refused += beyond.iter().map(|part| part.weight).sum::<i64>();
        !self.rule.parts.is_empty()
    }
}

/// How servers are believed, and their pools with their weights.
type Alike = (Option<Value>, Vec<(i64, Value)>);

/// `tls`: how its servers are believed, where TLS is spoken with them.
fn proxy(name: &str, pools: Vec<Value>, tls: Option<Value>) -> Value {
    let mut proxy = json!({"name": name, "kind": "Proxy", "serverMaxBodySize": -1, "pools": pools});
    if let Some(tls) = tls {
        proxy["mtls"] = tls;
    }
    proxy
}

fn changes_request(name: &str, filter: &RouteFilter) -> Option<Value> {
    let change = filter.request_header_modifier.as_ref()?;
    Some(json!({"name": name, "kind": "RequestAdaptor", "header": headers(change)}))
}

fn changes_response(name: &str, filter: &RouteFilter) -> Option<Value> {
    let change = filter.response_header_modifier.as_ref()?;
    Some(json!({"name": name, "kind": "ResponseAdaptor", "header": headers(change)}))
}

impl Rule {
    fn document(mut self, name: &str) -> Value {
        let mut line = Line::default();
        let before = std::mem::take(&mut self.before);
        let names: Vec<Value> = before.iter().skip(1).map(|filter| filter["name"].clone()).collect();
        let mut names = names.into_iter();
        for filter in before {
            let after = names.next();
            let next = after.unwrap_or_else(|| self.first());
            // Pages of other origins are answered, and cannot read it.
            let jumps = (filter["kind"] == "CORSAdaptor").then(|| json!({"rejected": next}));
            line.station(filter, jumps);
        }
        let timed = self
            .parts
            .iter()
            .any(|part| part.proxy["pools"].as_array().into_iter().flatten().any(|pool| pool.get("timeout").is_some()));
        let end = || json!("END");
        let next = self.after.first().map_or_else(end, |filter| filter["name"].clone());
        if let Some(redirect) = self.redirect.take() {
            line.station(redirect, None);
            self.parts.clear();
            self.refused = 0;
        }
        let (chosen, refused) = (self.parts.len() > 1 || self.refused > 0, self.refused > 0);
        if chosen {
            let (filter, jumps) = self.choice();
            line.station(filter, Some(jumps));
        }
        for part in self.parts {
            for filter in part.before {
                line.station(filter, None);
            }
            let mut proxy = part.proxy;
            for (mirror, tls) in &self.mirrors {
                // Servers of one Proxy are believed alike: copies go to none that would not be believed as its policy says.
                let alike = match (tls, proxy.get("mtls")) {
                    (Some(tls), Some(own)) => tls == own,
                    _ => true,
                };
                if let (Some(tls), None) = (tls, proxy.get("mtls")) {
                    proxy["mtls"] = tls.clone();
                }
                if !alike {
                    continue;
                }
                if proxy.get("mirrorPool").is_none() {
                    proxy["mirrorPool"] = mirror.clone();
                } else if let Some(further) = proxy.get_mut("mirrorPools").and_then(Value::as_array_mut) {
                    further.push(mirror.clone());
                } else {
                    proxy["mirrorPools"] = json!([mirror]);
                }
            }
            // Answers of servers that count as failures are answers all the same.
            let answered = part.after.first().map_or_else(|| next.clone(), |filter| filter["name"].clone());
            let mut jumps = json!({"": answered, "failureCode": answered});
            if timed {
                jumps["timeout"] = json!("late");
            }
            let goes_on = timed || chosen || answered != "END";
            line.station(proxy, goes_on.then_some(jumps));
            line.stations(part.after, Some(next.clone()));
        }
        line.stations(self.after, (timed || refused).then(end));
        // A Mock that has answered ends it.
        for (name, status, wanted) in [("late", 504, timed), ("refused", 500, refused)] {
            if wanted {
                line.station(json!({"name": name, "kind": "Mock", "rules": [{"code": status}]}), None);
            }
        }
        let mut document = json!({"name": name, "kind": "Pipeline", "flow": line.flow, "filters": line.filters});
        if !self.resilience.is_empty() {
            document["resilience"] = json!(self.resilience);
        }
        document
    }

    /// The station that comes after the filters of the rule.
    fn first(&self) -> Value {
        let part = self.parts.first();
        match (&self.redirect, part) {
            (Some(redirect), _) => redirect["name"].clone(),
            (None, Some(part)) if self.parts.len() == 1 && self.refused == 0 => part.start(),
            _ => json!("choice"),
        }
    }

    /// What tells the parts of requests from each other, and where each goes; the first goes on to the next station.
    fn choice(&self) -> (Value, Value) {
        let total: i64 = self.parts.iter().map(|part| part.weight).sum::<i64>() + self.refused;
        let mut template = format!("{{{{$n := randInt 0 {total}}}}}");
        let (mut below, mut jumps) = (0, json!({}));
        let starts = self.parts.iter().map(|part| (part.weight, part.start()));
        let refused = (self.refused > 0).then(|| (self.refused, json!("refused")));
        for (n, (weight, start)) in starts.chain(refused).enumerate() {
            below += weight;
            let word = if n == 0 { "if" } else { "else if" };
            template += &format!("{{{{{word} lt $n {below}}}}}");
            if n > 0 {
                let result = format!("result{}", n - 1);
                template += &result;
                jumps[result] = start;
            }
        }
        template += "{{end}}";
        (json!({"name": "choice", "kind": "ResultBuilder", "template": template}), jumps)
    }
}

/// Filters in the order of their flow.
#[derive(Default)]
struct Line {
    flow: Vec<Value>,
    filters: Vec<Value>,
}

impl Line {
    fn station(&mut self, filter: Value, jumps: Option<Value>) {
        let mut node = json!({"filter": filter["name"]});
        if let Some(jumps) = jumps {
            node["jumpIf"] = jumps;
        }
        self.flow.push(node);
        self.filters.push(filter);
    }

    /// Several, of which the last one goes on to a place of its own.
    fn stations(&mut self, filters: Vec<Value>, then: Option<Value>) {
        let last = filters.len();
        for (n, filter) in filters.into_iter().enumerate() {
            let jumps = then.as_ref().filter(|_| n + 1 == last).map(|then| json!({"": then}));
            self.station(filter, jumps);
        }
    }
}

/// Of a rule's requests that go different ways: one has no result of its own, and a ResultBuilder has ten. One is for what cannot be used,
/// and one for backends without filters.
const PARTS: usize = 9;

fn headers(change: &HeaderModifier) -> Value {
    let of = |list: &[NameValue]| -> Map<String, Value> {
        let mut fields = Map::new();
        for NameValue { name, value } in list {
            // Of two of one name the first counts.
            if !fields.keys().any(|known: &String| known.eq_ignore_ascii_case(name)) {
                fields.insert(name.clone(), json!(value));
            }
        }
        fields
    };
    json!({"del": base_model::once(change.remove.iter()), "set": of(&change.set), "add": of(&change.add)})
}

fn speaks_h2c(store: &Store, service: &Key, backend: &BackendRef) -> bool {
    let ports = store.service(service).map(|service| service.spec.ports.clone()).unwrap_or_default();
    ports.iter().any(|port| Some(port.port) == backend.port && port.app_protocol == "kubernetes.io/h2c")
}

/// A filter or a policy of Easegress that a rule names: whether it is a policy, and its document. It reaches no further than the route
/// itself does: neither files of the machine nor services of other namespaces that do not allow it.
fn extension(
    store: &Store,
    registry: &str,
    (of, namespace): (Kind, &str),
    filter: &RouteFilter,
) -> Result<(bool, Value), String> {
    let reference = filter.extension_ref.clone().unwrap_or_default();
    let (group, kind) = (reference.group.unwrap_or_default(), reference.kind.unwrap_or_default());
    if group != "easegress.megaease.com" || kind != "FilterSpec" {
        return Err(format!(
            "an ExtensionRef to {kind} of {group} is not known; accepted is FilterSpec of easegress.megaease.com, and not of {GROUP}"
        ));
    }
    let key = Key::new(namespace, &reference.name);
    let spec = store.filter_spec(&key).ok_or_else(|| format!("FilterSpec {key} is not there"))?;
    let mut document = match spec.spec.spec.trim() {
        "" => json!({}),
        text => base_model::yaml::parse_document(text).map_err(|error| format!("FilterSpec {key}: {error}"))?,
    };
    let fields = document.as_object_mut().ok_or_else(|| format!("FilterSpec {key}: spec is no map"))?;
    fields.insert("name".to_owned(), json!(spec.spec.name));
    fields.insert("kind".to_owned(), json!(spec.spec.kind));
    if spec.spec.kind == "FileServer" {
        return Err(format!(
            "FilterSpec {key}: a FileServer gives files of the machines; write it in a Pipeline of your own"
        ));
    }
    for (asked, service) in base_model::service_registry::services_of(&document) {
        if asked != registry {
            continue;
        }
        let name = ServiceName::parse(&service).map_err(|why| format!("FilterSpec {key}: {why}"))?;
        if !granted(store, (of.name(), namespace), ("", "Service", &name.service)) {
            let place = &name.service.namespace;
            return Err(format!(
                "FilterSpec {key}: no ReferenceGrant of namespace {place} lets a {of} of {namespace} use service {}",
                name.service.name
            ));
        }
    }
    Ok((matches!(spec.spec.kind.as_str(), "Retry" | "CircuitBreaker"), document))
}
