//! Documents from the Gateway API: a server for each address and port of Gateways, a Pipeline for each rule of a route, and statuses.
//!
//! Which route is asked first is what the API says, whatever order the objects come in: the more exact host, an exact path, the longer
//! prefix, a method, more headers, more query parameters, the older route, its name, the earlier rule. What a route refers to in another
//! namespace is used where a ReferenceGrant there allows it. A backend that cannot be used answers 500 in its place.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::endpoints::{self, ServiceName};
use crate::ingress::{Check, usable_certificate};
use crate::kinds::Kind;
use crate::object::{Key, Object};
use crate::report::Report;
use crate::store::Store;
use object::{Gateway, Listener, ParentRef, Reference, Route, RouteKind};
use status::{Condition, changed, conditions};

mod http;
mod l4;
pub mod object;
mod status;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'s> {
    /// Name of the controller's object: everything that is made is called after it.
    pub name: &'s str,
    /// Addresses that Gateways get one of each, unless they name one. Empty: all of them share every address of the machines.
    pub addresses: &'s [String],
    /// What is told of Gateways that have no address of their own.
    pub shared: &'s [String],
    /// RFC 3339.
    pub now: &'s str,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Plan {
    /// By name.
    pub documents: BTreeMap<String, Value>,
    /// What the pipelines' pools ask for.
    pub services: BTreeSet<String>,
    /// That are to be others than they are.
    pub statuses: BTreeMap<(Kind, Key), Value>,
    pub reports: BTreeMap<(Kind, Key), Report>,
}

/// What a GatewayClass names as its controller: Easegress's.
pub const CONTROLLER: &str = "megaease.com/gateway-controller";
pub(crate) const GROUP: &str = "gateway.networking.k8s.io";

/// A Gateway of ours.
struct Ours<'s> {
    gateway: &'s Gateway,
    /// Empty: every one of the machine.
    address: String,
    listeners: Vec<Heard<'s>>,
    problem: Option<Condition>,
}

/// One of its listeners.
struct Heard<'s> {
    listener: &'s Listener,
    /// Kinds of routes it takes.
    kinds: Vec<&'static str>,
    accepted: Condition,
    resolved: Condition,
    conflicted: Condition,
    /// By their secrets, in the order in which they are named.
    certificates: Vec<Certificate>,
    attached: usize,
}

impl Heard<'_> {
    fn serves(&self) -> bool {
        self.accepted.holds && self.resolved.holds && !self.conflicted.holds
    }

    fn is_passthrough(&self) -> bool {
        self.listener.tls.as_ref().is_some_and(|tls| tls.mode == "Passthrough")
    }
}

/// Kinds of routes, by their name.
const ROUTES: [(Kind, &str); 5] = [
    (Kind::HttpRoute, "HTTPRoute"),
    (Kind::GrpcRoute, "GRPCRoute"),
    (Kind::TlsRoute, "TLSRoute"),
    (Kind::TcpRoute, "TCPRoute"),
    (Kind::UdpRoute, "UDPRoute"),
];

/// A route that listeners have taken.
struct Attached<'s> {
    kind: Kind,
    route: &'s Route,
    /// Gateway, listener, and the hosts it has there; an empty host is any.
    places: Vec<(usize, usize, Vec<String>)>,
}

/// See the module doc.
pub fn plan(store: &Store, settings: Settings<'_>, check: &mut dyn Check) -> Plan {
    let mut plan = Plan::default();
    let classes = classes(store, settings.now, &mut plan);
    let mut ours = gateways(store, settings, &classes, check);
    let mut attached = Vec::new();
    for (kind, _) in ROUTES {
        let mut routes: Vec<&Route> = store.routes(kind).collect();
        routes
            .sort_by_key(|route| (&route.metadata.creation_timestamp, &route.metadata.namespace, &route.metadata.name));
        for route in routes {
            attached.extend(attach(store, settings, kind, route, &mut ours, &mut plan));
        }
    }
    let mut made = Made { store, settings, check, plan };
    http::servers(&mut made, &ours, &attached);
    l4::servers(&mut made, &ours, &attached);
    let Made { mut plan, .. } = made;
    for one in &ours {
        gateway_status(settings, one, &mut plan);
    }
    plan
}

/// Documents in the making.
struct Made<'a> {
    store: &'a Store,
    settings: Settings<'a>,
    check: &'a mut dyn Check,
    plan: Plan,
}

impl Made<'_> {
    /// What an address and a port are called in names of documents.
    fn server_name(&self, kind: &str, address: &str, port: i64) -> String {
        // No dots: a pipeline's name has a namespace and a route there.
        let at = if address.is_empty() { String::new() } else { format!("{}.", address.replace([':', '.'], "-")) };
        format!("{}.{kind}.{at}{port}", self.settings.name)
    }

    /// Keeps a document that passes; the others are told of.
    fn put(&mut self, document: Value, of: (Kind, Key)) -> bool {
        let name = document["name"].as_str().unwrap_or_default().to_owned();
        match self.check.check(&document) {
            Ok(()) => {
                self.plan.documents.insert(name, document);
                true
            }
            Err(why) => {
                self.plan.reports.entry(of).or_default().refused("spec", format!("nothing can be made of it: {why}"));
                false
            }
        }
    }

    /// A pipeline that says no more than a status.
    fn answering(&mut self, status: u16) -> String {
        let name = format!("{}.{status}", self.settings.name);
        let filter = json!({"name": "answer", "kind": "Mock", "rules": [{"code": status}]});
        let document = json!({"name": name, "kind": "Pipeline", "filters": [filter]});
        self.plan.documents.entry(name.clone()).or_insert(document);
        name
    }
}

fn classes(store: &Store, now: &str, plan: &mut Plan) -> BTreeSet<String> {
    let mut ours = BTreeSet::new();
    for object in store.all(Kind::GatewayClass) {
        let Object::GatewayClass(class) = object else { continue };
        if class.spec.controller_name != CONTROLLER {
            continue;
        }
        ours.insert(class.metadata.name.clone());
        let accepted = [Condition::new("Accepted", true, "Accepted", "Gateways of this class are served")];
        let features: Vec<Value> = FEATURES.iter().map(|name| json!({"name": name})).collect();
        let status = json!({
            "conditions": conditions(&accepted, &class.metadata, now, &class.status["conditions"]),
            "supportedFeatures": features,
        });
        if let Some(status) = changed(status, &class.status) {
            plan.statuses.insert((Kind::GatewayClass, class.metadata.key()), status);
        }
    }
    ours
}

/// What is served beside what every implementation has to; in alphabetical order, as the API wants it.
const FEATURES: [&str; 34] = [
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayHTTPListenerIsolation",
    "GatewayPort8080",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeTerminate",
    "UDPRoute",
];

/// The Gateways of our classes, oldest first, each with its address, and what is wrong with its listeners.
fn gateways<'s>(
    store: &'s Store,
    settings: Settings<'_>,
    classes: &BTreeSet<String>,
    check: &mut dyn Check,
) -> Vec<Ours<'s>> {
    let mut all: Vec<&Gateway> =
        store.gateways().filter(|gateway| classes.contains(&gateway.spec.gateway_class_name)).collect();
    all.sort_by_key(|gateway| {
        (&gateway.metadata.creation_timestamp, &gateway.metadata.namespace, &gateway.metadata.name)
    });
    let mut ours: Vec<Ours<'s>> = all
        .into_iter()
        .map(|gateway| {
            let listeners =
                gateway.spec.listeners.iter().map(|listener| heard(store, gateway, listener, check)).collect();
            Ours { gateway, address: String::new(), listeners, problem: None }
        })
        .collect();
    addresses(settings, &mut ours);
    conflicts(&mut ours);
    ours
}

/// Those that name an address have it; the others keep the one that they were told, or get a free one.
fn addresses(settings: Settings<'_>, ours: &mut [Ours<'_>]) {
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for one in ours.iter_mut() {
        if let Some(parameters) = &one.gateway.spec.infrastructure.parameters_ref {
            let told = format!(
                "infrastructure.parametersRef names {} {}; no parameters are known, leave it out",
                base_text::quoted(parameters.kind.as_deref().unwrap_or_default()),
                base_text::quoted(&parameters.name)
            );
            one.problem = Some(Condition::new("Accepted", false, "InvalidParameters", told));
            continue;
        }
        let Some(wanted) = one.gateway.spec.addresses.first() else { continue };
        let is_ip = matches!(wanted.kind.as_str(), "" | "IPAddress");
        match wanted.value.parse::<std::net::IpAddr>() {
            Ok(_) if is_ip => {
                one.address = wanted.value.clone();
                taken.insert(wanted.value.clone());
            }
            _ if is_ip && wanted.value.is_empty() => {}
            _ => {
                let told = "addresses are of type IPAddress, with a value that is one";
                one.problem = Some(Condition::new("Accepted", false, "UnsupportedAddress", told));
            }
        }
    }
    let open = |one: &Ours<'_>| one.address.is_empty() && one.problem.is_none();
    for one in ours.iter_mut().filter(|one| open(one)) {
        let told = one.gateway.status["addresses"][0]["value"].as_str().unwrap_or_default();
        if settings.addresses.iter().any(|address| address == told) && taken.insert(told.to_owned()) {
            one.address = told.to_owned();
        }
    }
    for one in ours.iter_mut().filter(|one| open(one)) {
        match settings.addresses.iter().find(|address| !taken.contains(*address)) {
            Some(free) => {
                taken.insert(free.clone());
                one.address = free.clone();
            }
            None if settings.addresses.is_empty() => {}
            None => {
                let told =
                    "all addresses of the GatewayController are taken; give it more, or name one in spec.addresses";
                one.problem = Some(Condition::new("Programmed", false, "AddressNotAssigned", told));
            }
        }
    }
}

/// What one listener is by itself.
fn heard<'s>(store: &Store, gateway: &Gateway, listener: &'s Listener, check: &mut dyn Check) -> Heard<'s> {
    let passthrough = listener.tls.as_ref().is_some_and(|tls| tls.mode == "Passthrough");
    let known: &[&'static str] = match (listener.protocol.as_str(), passthrough) {
        ("HTTP", _) | ("HTTPS", false) => &["HTTPRoute", "GRPCRoute"],
        ("TLS", _) => &["TLSRoute"],
        ("TCP", _) => &["TCPRoute"],
        ("UDP", _) => &["UDPRoute"],
        _ => &[],
    };
    let accepted = match known {
        [] => {
            let told = "accepted are HTTP, HTTPS that terminates TLS, TLS, TCP and UDP";
            Condition::new("Accepted", false, "UnsupportedProtocol", told)
        }
        _ => Condition::new("Accepted", true, "Accepted", ""),
    };
    let mut resolved = Condition::new("ResolvedRefs", true, "ResolvedRefs", "");
    let is_known = |wanted: &&RouteKind| {
        wanted.group.as_deref().is_none_or(|group| group == GROUP) && known.contains(&wanted.kind.as_str())
    };
    let wanted = &listener.allowed_routes.kinds;
    let kinds: Vec<&'static str> = match wanted.is_empty() {
        true => known.to_vec(),
        false => known.iter().copied().filter(|kind| wanted.iter().filter(is_known).any(|w| w.kind == *kind)).collect(),
    };
    if wanted.iter().any(|wanted| !is_known(&wanted)) {
        resolved = Condition::new(
            "ResolvedRefs",
            false,
            "InvalidRouteKinds",
            "a kind of allowedRoutes is not one of its protocol",
        );
    }
    let mut certificates: Vec<Certificate> = Vec::new();
    let ends_tls = listener.protocol == "HTTPS" || listener.protocol == "TLS" && !passthrough;
    if ends_tls && accepted.holds {
        let references = listener.tls.as_ref().map(|tls| tls.certificate_refs.as_slice()).unwrap_or_default();
        let mut told =
            references.is_empty().then(|| ("InvalidCertificateRef", "there is no certificateRefs".to_owned()));
        for reference in references {
            match certificate(store, gateway, reference, check) {
                Ok(one) if certificates.contains(&one) => {}
                Ok(one) => certificates.push(one),
                Err(why) => told = Some(why),
            }
        }
        if let Some((reason, told)) = told {
            resolved = Condition::new("ResolvedRefs", false, reason, told);
        }
    }
    let conflicted = Condition::new("Conflicted", false, "NoConflicts", "");
    Heard { listener, kinds, accepted, resolved, conflicted, certificates, attached: 0 }
}

type Certificate = (String, (String, String));

fn certificate(
    store: &Store,
    gateway: &Gateway,
    reference: &Reference,
    check: &mut dyn Check,
) -> Result<Certificate, (&'static str, String)> {
    let invalid = |told: String| ("InvalidCertificateRef", told);
    if reference.group.as_deref().is_some_and(|group| !group.is_empty())
        || reference.kind.as_deref().is_some_and(|kind| kind != "Secret")
    {
        return Err(invalid("a certificate is in a Secret".to_owned()));
    }
    let own = &gateway.metadata.namespace;
    let key = Key::new(reference.namespace.as_ref().unwrap_or(own), &reference.name);
    if !granted(store, ("Gateway", own), ("", "Secret", &key)) {
        return Err((
            "RefNotPermitted",
            format!("no ReferenceGrant of namespace {} lets a Gateway of {own} use secret {}", key.namespace, key.name),
        ));
    }
    let pair = usable_certificate(store, &key, check).map_err(invalid)?;
    Ok((key.to_string(), pair))
}

/// Whether an object may refer to another.
fn granted(store: &Store, (kind, namespace): (&str, &str), (to_group, to_kind, to): (&str, &str, &Key)) -> bool {
    if to.namespace == namespace {
        return true;
    }
    store.grants().filter(|grant| grant.metadata.namespace == to.namespace).any(|grant| {
        let from =
            grant.spec.from.iter().any(|from| from.group == GROUP && from.kind == kind && from.namespace == namespace);
        let takes = |name: &Option<String>| name.as_deref().is_none_or(|name| name.is_empty() || name == to.name);
        from && grant
            .spec
            .to
            .iter()
            .any(|wanted| wanted.group == to_group && wanted.kind == to_kind && takes(&wanted.name))
    })
}

/// Listeners that cannot be told apart: all of them in one Gateway; of several Gateways the oldest has the place.
fn conflicts(ours: &mut [Ours<'_>]) {
    let mut told: Vec<(usize, usize, &'static str)> = Vec::new();
    let flat: Vec<(usize, usize, String, i64, String, String)> = ours
        .iter()
        .enumerate()
        .flat_map(|(g, one)| {
            let address = one.address.clone();
            one.listeners.iter().enumerate().filter(|(_, heard)| heard.accepted.holds).map(move |(l, heard)| {
                let listener = heard.listener;
                (
                    g,
                    l,
                    address.clone(),
                    listener.port,
                    listener.protocol.clone(),
                    listener.hostname.to_ascii_lowercase(),
                )
            })
        })
        .collect();
    for (n, a) in flat.iter().enumerate() {
        for (m, b) in flat.iter().enumerate() {
            let udp = |protocol: &str| protocol == "UDP";
            if n == m || (&a.2, a.3) != (&b.2, b.3) || udp(&a.4) != udp(&b.4) {
                continue;
            }
            // Of another Gateway, the earlier one has it.
            if a.0 != b.0 && m > n {
                continue;
            }
            // Of what is relayed without being read, and of TLS that several Gateways would end, one has the port.
            let shares = matches!(a.4.as_str(), "HTTP" | "HTTPS") || a.4 == "TLS" && a.0 == b.0;
            // What ends TLS and what passes it on both wait for the first bytes.
            let ends = |n: usize, m: usize| ours[n].listeners[m].is_passthrough();
            if a.4 != b.4 || ends(a.0, a.1) != ends(b.0, b.1) {
                told.push((a.0, a.1, "ProtocolConflict"));
            } else if a.5 == b.5 || !shares {
                told.push((a.0, a.1, "HostnameConflict"));
            }
        }
    }
    for (g, l, reason) in told {
        let message = "another listener has this port, with another protocol or for the same hosts";
        let heard = &mut ours[g].listeners[l];
        heard.conflicted = Condition::new("Conflicted", true, reason, message);
        heard.accepted = Condition::new("Accepted", false, reason, message);
    }
}

/// Finds the listeners that take a route, and writes down its status.
fn attach<'s>(
    store: &Store,
    settings: Settings<'_>,
    kind: Kind,
    route: &'s Route,
    ours: &mut [Ours<'_>],
    plan: &mut Plan,
) -> Option<Attached<'s>> {
    let key = route.metadata.key();
    let mut places = Vec::new();
    let mut parents = Vec::new();
    let before = route.status["parents"].as_array().cloned().unwrap_or_default();
    let hosts = if route.spec.hostnames.is_empty() { vec!["*".to_owned()] } else { route.spec.hostnames.clone() };
    let mut report = Report { hosts, ..Report::default() };
    let (unsupported, resolved) = http::judge(store, settings.name, kind, route);
    for parent in &route.spec.parent_refs {
        let Some(g) = gateway_of(parent, route, ours) else { continue };
        let mut accepted = listeners_for(store, kind, route, parent, g, ours, &mut places);
        if let (true, Some(told)) = (accepted.holds, &unsupported) {
            accepted = Condition::new("Accepted", false, "UnsupportedValue", told.clone());
        }
        for condition in [&accepted, &resolved].into_iter().filter(|condition| !condition.holds) {
            report.refused(
                &format!("{} of {}", condition.kind, parent.name),
                format!("{} ({})", condition.message, condition.reason),
            );
        }
        let reference = reference_json(parent);
        let was = before.iter().find(|was| was["controllerName"] == CONTROLLER && was["parentRef"] == reference);
        let was = was.map_or(Value::Null, |was| was["conditions"].clone());
        let conditions = conditions(&[accepted, resolved.clone()], &route.metadata, settings.now, &was);
        parents.push(json!({"parentRef": reference, "controllerName": CONTROLLER, "conditions": conditions}));
    }
    let had = before.iter().any(|was| was["controllerName"] == CONTROLLER);
    if parents.is_empty() && !had {
        return None;
    }
    // What other controllers say stays.
    let mut all: Vec<Value> = before.iter().filter(|was| was["controllerName"] != CONTROLLER).cloned().collect();
    all.extend(parents);
    if let Some(status) = changed(json!({"parents": all}), &route.status) {
        plan.statuses.insert((kind, key.clone()), status);
    }
    plan.reports.insert((kind, key), report);
    if unsupported.is_some() {
        return None;
    }
    for (g, l, _) in &places {
        ours[*g].listeners[*l].attached += 1;
    }
    Some(Attached { kind, route, places })
}

fn gateway_of(parent: &ParentRef, route: &Route, ours: &[Ours<'_>]) -> Option<usize> {
    let is_gateway = parent.group.as_deref().is_none_or(|group| group == GROUP)
        && parent.kind.as_deref().is_none_or(|kind| kind == "Gateway");
    let key = Key::new(parent.namespace.as_ref().unwrap_or(&route.metadata.namespace), &parent.name);
    ours.iter().position(|one| is_gateway && one.gateway.metadata.key() == key)
}

/// As it was written, which is how it is found again.
fn reference_json(parent: &ParentRef) -> Value {
    let mut value = json!({"group": parent.group.as_deref().unwrap_or(GROUP), "kind": parent.kind.as_deref().unwrap_or("Gateway"),
                           "name": parent.name});
    if let Some(namespace) = &parent.namespace {
        value["namespace"] = json!(namespace);
    }
    if let Some(section) = &parent.section_name {
        value["sectionName"] = json!(section);
    }
    if let Some(port) = parent.port {
        value["port"] = json!(port);
    }
    value
}

/// The listeners of one parent that take a route.
fn listeners_for(
    store: &Store,
    kind: Kind,
    route: &Route,
    parent: &ParentRef,
    g: usize,
    ours: &[Ours<'_>],
    places: &mut Vec<(usize, usize, Vec<String>)>,
) -> Condition {
    let one = &ours[g];
    let named = |heard: &Heard<'_>| {
        parent.section_name.as_ref().is_none_or(|name| *name == heard.listener.name)
            && parent.port.is_none_or(|port| port == heard.listener.port)
    };
    let mut refusal = ("NoMatchingParent", "the Gateway has no such listener");
    let mut taken = false;
    for (l, heard) in one.listeners.iter().enumerate().filter(|(_, heard)| named(heard)) {
        if !heard.kinds.contains(&kind.name()) || !allows(store, one.gateway, heard.listener, &route.metadata.namespace)
        {
            if refusal.0 == "NoMatchingParent" {
                refusal =
                    ("NotAllowedByListeners", "allowedRoutes of the listener lets no such route of this namespace in");
            }
            continue;
        }
        let hosts = match kind {
            Kind::TcpRoute | Kind::UdpRoute => vec![String::new()],
            _ => shared_hosts(&heard.listener.hostname, &route.spec.hostnames),
        };
        if hosts.is_empty() {
            refusal = ("NoMatchingListenerHostname", "none of its hostnames is one of the listener's");
            continue;
        }
        if !heard.accepted.holds {
            refusal = ("NoMatchingParent", "the listener is not accepted");
            continue;
        }
        taken = true;
        if !places.iter().any(|(of, at, _)| (*of, *at) == (g, l)) {
            places.push((g, l, hosts));
        }
    }
    match taken {
        true => Condition::new("Accepted", true, "Accepted", ""),
        false => Condition::new("Accepted", false, refusal.0, refusal.1),
    }
}

fn allows(store: &Store, gateway: &Gateway, listener: &Listener, namespace: &str) -> bool {
    let allowed = &listener.allowed_routes.namespaces;
    match allowed.from.as_str() {
        "All" => true,
        "Selector" => {
            let labels =
                store.namespace(namespace).map(|namespace| namespace.metadata.labels.clone()).unwrap_or_default();
            allowed.selector.as_ref().is_some_and(|selector| selector.takes(&labels))
        }
        "None" => false,
        _ => gateway.metadata.namespace == namespace,
    }
}

/// Hosts that both want; the narrower of two that meet. Empty: none.
pub(super) fn shared_hosts(listener: &str, route: &[String]) -> Vec<String> {
    let listener = listener.to_ascii_lowercase();
    if route.is_empty() {
        return vec![listener];
    }
    let mut hosts: Vec<String> = Vec::new();
    for host in route.iter().map(|host| host.to_ascii_lowercase()) {
        let within = |narrow: &str, wide: &str| match wide.strip_prefix('*') {
            Some(end) => {
                narrow.trim_start_matches('*').ends_with(end) && narrow.trim_start_matches('*') != end || narrow == wide
            }
            None => wide.is_empty() || narrow == wide,
        };
        let shared = if within(&host, &listener) {
            Some(host)
        } else if within(&listener, &host) {
            Some(listener.clone())
        } else {
            None
        };
        hosts.extend(shared.filter(|shared| !hosts.contains(shared)));
    }
    hosts
}

/// The service of a backend, or why there is none: a reason of the API, and words.
fn service_of(
    store: &Store,
    kind: Kind,
    namespace: &str,
    backend: &object::BackendRef,
) -> Result<ServiceName, (&'static str, String)> {
    if backend.group.as_deref().is_some_and(|group| !group.is_empty())
        || backend.kind.as_deref().is_some_and(|kind| kind != "Service")
    {
        return Err(("InvalidKind", format!("backend {} is no Service", base_text::quoted(&backend.name))));
    }
    let key = Key::new(backend.namespace.as_deref().unwrap_or(namespace), &backend.name);
    if !granted(store, (kind.name(), namespace), ("", "Service", &key)) {
        let told = format!(
            "no ReferenceGrant of namespace {} lets a {kind} of {namespace} use service {}",
            key.namespace, key.name
        );
        return Err(("RefNotPermitted", told));
    }
    let Some(port) = backend.port else {
        return Err(("BackendNotFound", format!("backend {key} has no port")));
    };
    let name = ServiceName { https: false, service: key, port: port.to_string() };
    endpoints::servers(store, &name).map_err(|why| ("BackendNotFound", why))?;
    Ok(name)
}

fn gateway_status(settings: Settings<'_>, one: &Ours<'_>, plan: &mut Plan) {
    let (meta, before) = (&one.gateway.metadata, &one.gateway.status);
    let serving = one.listeners.iter().filter(|heard| heard.serves()).count();
    let all = serving == one.listeners.len();
    let told: Vec<&String> = if one.address.is_empty() { settings.shared.iter().collect() } else { vec![&one.address] };
    let addresses: Vec<Value> = told
        .iter()
        .map(|text| {
            let kind = if text.parse::<std::net::IpAddr>().is_ok() { "IPAddress" } else { "Hostname" };
            json!({"type": kind, "value": text})
        })
        .collect();
    // What could not be made of it has been told already.
    let mut report = plan.reports.remove(&(Kind::Gateway, meta.key())).unwrap_or_default();
    let mut accepted = match (all, serving) {
        (true, _) => Condition::new("Accepted", true, "Accepted", ""),
        (false, 0) => Condition::new("Accepted", false, "ListenersNotValid", "none of its listeners can be served"),
        (false, _) => Condition::new("Accepted", true, "ListenersNotValid", "some of its listeners cannot be served"),
    };
    let mut programmed = match (serving, addresses.is_empty()) {
        (0, _) => Condition::new("Programmed", false, "Invalid", "none of its listeners can be served"),
        (_, true) => {
            let told = "it is served, and nobody knows where: give the GatewayController addresses or publishAddresses, or make a VirtualIP";
            Condition::new("Programmed", false, "AddressNotAssigned", told)
        }
        _ => Condition::new("Programmed", true, "Programmed", ""),
    };
    if let Some(problem) = &one.problem {
        let place = if problem.reason == "InvalidParameters" { "spec.infrastructure" } else { "spec.addresses" };
        report.refused(place, problem.message.clone());
        if problem.kind == "Accepted" {
            accepted = problem.clone();
            programmed = Condition::new("Programmed", false, "Invalid", problem.message.clone());
        } else {
            programmed = problem.clone();
        }
    }
    let listeners: Vec<Value> = one
        .listeners
        .iter()
        .map(|heard| {
            let name = &heard.listener.name;
            let was = before["listeners"].as_array().into_iter().flatten().find(|was| was["name"] == **name);
            let was = was.map_or(Value::Null, |was| was["conditions"].clone());
            let programmed = match heard.serves() && one.problem.is_none() {
                true => Condition::new("Programmed", true, "Programmed", ""),
                false => {
                    Condition::new("Programmed", false, "Invalid", "it cannot be served; the other conditions say why")
                }
            };
            let of = [heard.accepted.clone(), programmed, heard.resolved.clone(), heard.conflicted.clone()];
            for condition in [&of[0], &of[2]].into_iter().filter(|condition| !condition.holds) {
                report.refused(&format!("listener {name}"), format!("{} ({})", condition.message, condition.reason));
            }
            // One that another one stands in the way of takes none.
            let kinds = heard.kinds.iter().filter(|_| !heard.conflicted.holds);
            let kinds: Vec<Value> = kinds.map(|kind| json!({"group": GROUP, "kind": kind})).collect();
            json!({"name": name, "supportedKinds": kinds, "attachedRoutes": heard.attached,
                   "conditions": conditions(&of, meta, settings.now, &was)})
        })
        .collect();
    let status = json!({
        "addresses": addresses,
        "conditions": conditions(&[accepted, programmed], meta, settings.now, &before["conditions"]),
        "listeners": listeners,
    });
    if let Some(status) = changed(status, before) {
        plan.statuses.insert((Kind::Gateway, meta.key()), status);
    }
    report.hosts = one
        .listeners
        .iter()
        .map(|heard| if heard.listener.hostname.is_empty() { "*".to_owned() } else { heard.listener.hostname.clone() })
        .collect();
    report.hosts.dedup();
    plan.reports.insert((Kind::Gateway, meta.key()), report);
}

#[cfg(test)]
mod tests;
