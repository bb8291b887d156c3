//! Documents from the Gateway API: a server for each address and port of Gateways, a Pipeline for each rule of a route, and statuses.
//!
//! Which route is asked first is what the API says, whatever order the objects come in: the more exact host, an exact path, the longer
//! prefix, a method, more headers, more query parameters, the older route, its name, the earlier rule. What a route refers to in another
//! namespace is used where a ReferenceGrant there allows it. A backend that cannot be used answers 500 in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use control_api::compact;
use serde_json::{Value, json};

use crate::endpoints::{self, ServiceName};
use crate::ingress::{Check, Pipelines, Reports, Rules, Services, usable_certificate};
use crate::kinds::Kind;
use crate::object::{Key, Meta, Object};
use crate::report::{Report, Statuses};
use crate::store::Store;
use http::{Door, Listening};
use object::{AllowedNamespaces, Gateway, Listener, ListenerSet, Reference, RouteKind};
use policy::Policies;
use status::{Condition, changed, conditions};
use tls::Clients;

mod authorities;
mod http;
mod l4;
pub mod object;
mod policy;
mod routes;
mod status;
mod tls;

pub use routes::Known;

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

impl Settings<'_> {
    /// How an address that a Gateway names is written here, if it may have that: of the machines nothing is known here but what these
    /// lists say, and where there is none everything is believed.
    fn written(&self, address: IpAddr) -> Option<String> {
        if self.addresses.is_empty() {
            return Some(address.to_string());
        }
        self.addresses.iter().chain(self.shared).find(|known| read(known) == Some(address)).cloned()
    }
}

/// What came of it. What is as it was the last time is the very same in memory: of ten thousand a few are looked at.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Servers, by name; those of HTTP without their rules.
    pub documents: BTreeMap<String, Arc<Value>>,
    /// Rules of servers of HTTP, by the names of those.
    pub rules: BTreeMap<String, Rules>,
    pub pipelines: Pipelines,
    /// What the pipelines' pools ask for.
    pub services: Services,
    /// That are to be others than they are.
    pub statuses: Statuses,
    pub reports: Reports,
    /// Servers that could not be made as they are to be: what there is of them serves on.
    pub refused: BTreeSet<String>,
}

/// What a GatewayClass names as its controller: Easegress's.
pub const CONTROLLER: &str = "megaease.com/gateway-controller";
pub(crate) const GROUP: &str = "gateway.networking.k8s.io";

/// A Gateway of ours.
struct Ours<'s> {
    gateway: &'s Gateway,
    /// An empty one: every one of the machine.
    addresses: Vec<String>,
    /// Of those that it asks for, what no machine can be had at, in words.
    unusable: Option<Condition>,
    /// As whom servers are spoken to over TLS, and whether what it names can be used.
    identity: Option<Certificate>,
    resolved: Option<Condition>,
    /// Its own, and then those of its ListenerSets, oldest first.
    listeners: Vec<Heard<'s>>,
    sets: Vec<Set<'s>>,
    problem: Option<Condition>,
}

/// A ListenerSet that names one of our Gateways.
struct Set<'s> {
    set: &'s ListenerSet,
    /// The Gateway lets it add listeners.
    allowed: bool,
}

impl Ours<'_> {
    /// The listeners of one of its sets; without one, its own.
    fn of(&self, set: Option<usize>) -> impl Iterator<Item = &Heard<'_>> {
        self.listeners.iter().filter(move |heard| heard.set == set)
    }

    /// Whose a listener is, in words that are nobody else's.
    fn holder(&self, heard: &Heard<'_>) -> String {
        match heard.set {
            Some(at) => format!("{} {}", Kind::ListenerSet, self.sets[at].set.metadata.key()),
            None => self.gateway.metadata.key().to_string(),
        }
    }
}

/// One of its listeners.
struct Heard<'s> {
    listener: &'s Listener,
    /// The ListenerSet that it is of; absent: the Gateway's own.
    set: Option<usize>,
    /// The namespace of what it is written in.
    namespace: &'s str,
    /// Kinds of routes it takes.
    kinds: Vec<&'static str>,
    accepted: Condition,
    resolved: Condition,
    conflicted: Condition,
    /// By their secrets, in the order in which they are named.
    certificates: Vec<Certificate>,
    clients: Clients,
    attached: usize,
    /// Why no server could be made for it.
    unserved: Option<String>,
}

impl Heard<'_> {
    /// Whether anything of it can be served. Of references that lead nowhere, and kinds that are none of its protocol, the others are
    /// used: its conditions tell of them.
    fn serves(&self) -> bool {
        let is_usable = !self.kinds.is_empty() && (!self.ends_tls() || !self.certificates.is_empty());
        self.accepted.holds && !self.conflicted.holds && is_usable
    }

    /// Whether all of it is served as it is written.
    fn is_whole(&self) -> bool {
        self.serves() && self.resolved.holds
    }

    fn ends_tls(&self) -> bool {
        self.listener.protocol == "HTTPS" || self.listener.protocol == "TLS" && !self.is_passthrough()
    }

    fn is_passthrough(&self) -> bool {
        self.listener.tls.as_ref().is_some_and(|tls| tls.mode == "Passthrough")
    }
}

/// What is told of objects that are looked at each time.
#[derive(Default)]
struct Told {
    statuses: BTreeMap<(Kind, Key), Value>,
    reports: BTreeMap<(Kind, Key), Report>,
}

impl Told {
    fn refuse(&mut self, of: (Kind, Key), why: &str) {
        self.reports.entry(of).or_default().refused("spec", format!("nothing can be made of it: {why}"));
    }
}

/// See the module doc. `known` is what was made before of what is there, so that what is as it was is not made again.
pub fn plan(store: &Store, settings: Settings<'_>, check: &mut dyn Check, known: &mut Known) -> Plan {
    settings.name.clone_into(&mut known.name);
    let mut told = Told::default();
    let classes = classes(store, settings.now, &mut told);
    let mut ours = gateways(store, settings, &classes, check);
    let mut made = Made {
        store,
        settings,
        check,
        known,
        policies: Policies::read(store),
        listening: http::listening(&ours),
        changed_hosts: BTreeSet::new(),
        told,
        servers: BTreeMap::new(),
        rules: BTreeMap::new(),
        refused: BTreeSet::new(),
        unserved: Vec::new(),
        attached_differ: false,
        l4_differs: false,
    };
    let anew = made.read_routes(&ours);
    for (_, _, places) in made.known.attached() {
        for (g, l, _) in places {
            ours[*g].listeners[*l].attached += 1;
        }
    }
    http::servers(&mut made, &ours);
    l4::servers(&mut made, &ours, anew);
    made.policies.note(&ours, made.known.attached());
    for ((g, l), why) in std::mem::take(&mut made.unserved) {
        ours[g].listeners[l].unserved = Some(why);
    }
    made.policies.statuses(settings, &mut made.told);
    for one in &ours {
        gateway_status(settings, one, &mut made.told);
        for at in 0..one.sets.len() {
            set_status(settings, one, at, &mut made.told);
        }
    }
    made.end()
}

/// Documents in the making.
struct Made<'a> {
    store: &'a Store,
    settings: Settings<'a>,
    check: &'a mut dyn Check,
    known: &'a mut Known,
    policies: Policies<'a>,
    /// Which listeners are at which server of HTTP.
    listening: Listening,
    /// Hosts of servers of HTTP whose rules may be others.
    changed_hosts: BTreeSet<(Door, String)>,
    /// Of routes what is found while servers are made of them.
    told: Told,
    servers: BTreeMap<String, Arc<Value>>,
    rules: BTreeMap<String, Rules>,
    refused: BTreeSet<String>,
    /// Gateways and listeners whose server could not be made, and why.
    unserved: Vec<((usize, usize), String)>,
    /// Routes of what is relayed without being read are others than they were, or elsewhere.
    attached_differ: bool,
    /// A server of them was made anew, or is there no more.
    l4_differs: bool,
}

impl Made<'_> {
    /// What an address and a port are called in names of documents.
    fn server_name(&self, kind: &str, address: &str, port: i64) -> String {
        // No dots: a pipeline's name has a namespace and a route there.
        let at = if address.is_empty() { String::new() } else { format!("{}.", address.replace([':', '.'], "-")) };
        format!("{}.{kind}.{at}{port}", self.settings.name)
    }

    /// Keeps a server that passes; the others are told of. `rules` are some that it is looked at with, and that are kept elsewhere.
    fn put_server(&mut self, mut document: Value, rules: Option<Value>, of: (Kind, Key)) -> Result<(), String> {
        let name = document["name"].as_str().unwrap_or_default().to_owned();
        let is_apart = rules.is_some();
        if let Some(rules) = rules {
            document["rules"] = rules;
        }
        let checked = self.check.check(&document);
        match &checked {
            Ok(()) => {
                if is_apart {
                    document["rules"] = json!([]);
                }
                let document = self.known.same_server(&name, document);
                self.servers.insert(name, document);
            }
            Err(why) => {
                self.told.refuse(of, why);
                self.rules.remove(&name);
                self.refused.insert(name);
            }
        }
        checked
    }

    /// A pipeline that says no more than a status.
    fn answering(&self, status: u16) -> String {
        format!("{}.{status}", self.settings.name)
    }
}

/// The document of a pipeline that says no more than a status.
fn answer(name: &str, status: u16) -> Value {
    let filter = json!({"name": "answer", "kind": "Mock", "rules": [{"code": status}]});
    compact(json!({"name": name, "kind": "Pipeline", "filters": [filter]}))
}

fn classes(store: &Store, now: &str, told: &mut Told) -> BTreeSet<String> {
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
            told.statuses.insert((Kind::GatewayClass, class.metadata.key()), status);
        }
    }
    ours
}

/// What is served beside what every implementation has to; in alphabetical order, as the API wants it.
const FEATURES: [&str; 43] = [
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayPort8080",
    "GatewayStaticAddresses",
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
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
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
            let own = Owner { kind: "Gateway", set: None, namespace: &gateway.metadata.namespace };
            let listeners = gateway.spec.listeners.iter();
            let listeners = listeners.map(|listener| heard(store, gateway, own, listener, check)).collect();
            let (identity, resolved) = tls::identity(store, gateway, check);
            let (addresses, sets) = (Vec::new(), Vec::new());
            Ours { gateway, addresses, unusable: None, identity, resolved, listeners, sets, problem: None }
        })
        .collect();
    listener_sets(store, &mut ours, check);
    addresses(settings, &mut ours);
    conflicts(&mut ours);
    ours
}

/// Adds the listeners of ListenerSets to the Gateways that let them.
fn listener_sets<'s>(store: &'s Store, ours: &mut [Ours<'s>], check: &mut dyn Check) {
    let mut all: Vec<&ListenerSet> = store.listener_sets().collect();
    all.sort_by_key(|set| (&set.metadata.creation_timestamp, &set.metadata.namespace, &set.metadata.name));
    for set in all {
        let (parent, namespace) = (&set.spec.parent_ref, &set.metadata.namespace);
        let is_gateway = parent.group.as_deref().is_none_or(|group| group == GROUP)
            && parent.kind.as_deref().is_none_or(|kind| kind == "Gateway");
        let key = Key::new(parent.namespace.as_ref().unwrap_or(namespace), &parent.name);
        let Some(one) = ours.iter_mut().find(|one| is_gateway && one.gateway.metadata.key() == key) else { continue };
        let allowed = one.gateway.spec.allowed_listeners.as_ref().is_some_and(|allowed| {
            // Unlike routes, sets are let in by those who say so alone.
            let from = &allowed.namespaces;
            !from.from.is_empty() && lets_in(store, from, &one.gateway.metadata.namespace, namespace)
        });
        if allowed {
            let owner = Owner { kind: "ListenerSet", set: Some(one.sets.len()), namespace };
            let gateway = one.gateway;
            let listeners = set.spec.listeners.iter();
            one.listeners.extend(listeners.map(|listener| heard(store, gateway, owner, listener, check)));
        }
        one.sets.push(Set { set, allowed });
    }
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
        let Some(asked) = asked_for(&one.gateway.spec.addresses) else {
            let told = "addresses are of type IPAddress, with a value that is one";
            one.problem = Some(Condition::new("Accepted", false, "UnsupportedAddress", told));
            continue;
        };
        let (usable, others): (Vec<IpAddr>, Vec<IpAddr>) =
            asked.into_iter().partition(|address| settings.written(*address).is_some());
        if let Some(other) = others.first() {
            let told = format!(
                "{} is none of the addresses or publishAddresses of the GatewayController; ask for one of those, or add it there",
                base_text::quoted(&other.to_string())
            );
            let unusable = Condition::new("Programmed", false, "AddressNotUsable", told);
            // What can be had is served; without anything of it, it is served nowhere, least of all where it has not asked to be.
            one.problem = usable.is_empty().then(|| unusable.clone());
            one.unusable = Some(unusable);
        }
        one.addresses = usable.into_iter().filter_map(|address| settings.written(address)).collect();
        taken.extend(one.addresses.iter().cloned());
    }
    let open = |one: &Ours<'_>| one.addresses.is_empty() && one.problem.is_none();
    for one in ours.iter_mut().filter(|one| open(one)) {
        let told = one.gateway.status["addresses"][0]["value"].as_str().unwrap_or_default();
        let before = read(told).and_then(|told| settings.addresses.iter().find(|known| read(known) == Some(told)));
        if let Some(before) = before.filter(|before| taken.insert((*before).clone())) {
            one.addresses.push(before.clone());
        }
    }
    for one in ours.iter_mut().filter(|one| open(one)) {
        match settings.addresses.iter().find(|address| !taken.contains(*address)) {
            Some(free) => {
                taken.insert(free.clone());
                one.addresses.push(free.clone());
            }
            None if settings.addresses.is_empty() => one.addresses.push(String::new()),
            None => {
                let told =
                    "all addresses of the GatewayController are taken; give it more, or name one in spec.addresses";
                one.problem = Some(Condition::new("Programmed", false, "AddressNotAssigned", told));
            }
        }
    }
}

/// The addresses that a Gateway asks for by their values; `None` where it asks for something else.
fn asked_for(addresses: &[object::GatewayAddress]) -> Option<Vec<IpAddr>> {
    let is_one = |address: &object::GatewayAddress| {
        let is_ip = matches!(address.kind.as_str(), "" | "IPAddress");
        is_ip && (address.value.is_empty() || read(&address.value).is_some())
    };
    let values = addresses.iter().filter_map(|address| read(&address.value));
    addresses.iter().all(is_one).then(|| base_model::once(values))
}

/// One IPv6 address is written in many ways.
fn read(address: &str) -> Option<IpAddr> {
    address.parse().ok()
}

/// What a listener is written in.
#[derive(Clone, Copy)]
struct Owner<'s> {
    kind: &'static str,
    set: Option<usize>,
    namespace: &'s str,
}

/// What one listener of a Gateway, or of one of its sets, is by itself.
fn heard<'s>(
    store: &Store,
    gateway: &Gateway,
    owner: Owner<'s>,
    listener: &'s Listener,
    check: &mut dyn Check,
) -> Heard<'s> {
    let passthrough = listener.tls.as_ref().is_some_and(|tls| tls.mode == "Passthrough");
    let known: &[&'static str] = match (listener.protocol.as_str(), passthrough) {
        ("HTTP", _) | ("HTTPS", false) => &["HTTPRoute", "GRPCRoute"],
        ("TLS", _) => &["TLSRoute"],
        ("TCP", _) => &["TCPRoute"],
        ("UDP", _) => &["UDPRoute"],
        _ => &[],
    };
    let mut accepted = match known {
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
            match certificate(store, owner, reference, check) {
                Ok(one) if certificates.contains(&one) => {}
                Ok(one) => certificates.push(one),
                Err(why) => also(&mut told, why),
            }
        }
        if let Some((reason, told)) = told {
            resolved = Condition::new("ResolvedRefs", false, reason, told);
        }
    }
    let mut clients = Clients::default();
    if listener.protocol == "HTTPS" && accepted.holds {
        clients = tls::clients(store, gateway, listener.port);
        if let Some((reason, told)) = &clients.fault {
            resolved = Condition::new("ResolvedRefs", false, reason, told.clone());
            if clients.none_valid {
                let told = format!("no client could be believed: {told}");
                accepted = Condition::new("Accepted", false, "NoValidCACertificate", told);
            }
        }
    }
    let conflicted = Condition::new("Conflicted", false, "NoConflicts", "");
    let Owner { set, namespace, .. } = owner;
    let (attached, unserved) = (0, None);
    Heard { listener, set, namespace, kinds, accepted, resolved, conflicted, certificates, clients, attached, unserved }
}

/// Of several references that lead nowhere each is told, with the reason of the first.
fn also(fault: &mut Option<(&'static str, String)>, (reason, told): (&'static str, String)) {
    match fault {
        Some((_, all)) => *all = format!("{all}; {told}"),
        None => *fault = Some((reason, told)),
    }
}

type Certificate = (String, (String, String));

fn certificate(
    store: &Store,
    owner: Owner<'_>,
    reference: &Reference,
    check: &mut dyn Check,
) -> Result<Certificate, (&'static str, String)> {
    let invalid = |told: String| ("InvalidCertificateRef", told);
    if reference.group.as_deref().is_some_and(|group| !group.is_empty())
        || reference.kind.as_deref().is_some_and(|kind| kind != "Secret")
    {
        return Err(invalid("a certificate is in a Secret".to_owned()));
    }
    let (kind, own) = (owner.kind, owner.namespace);
    let key = Key::new(reference.namespace.as_deref().unwrap_or(own), &reference.name);
    if !granted(store, (kind, own), ("", "Secret", &key)) {
        return Err((
            "RefNotPermitted",
            format!("no ReferenceGrant of namespace {} lets a {kind} of {own} use secret {}", key.namespace, key.name),
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

/// Listeners that cannot be told apart. Of two of one owner neither has the place; of several owners the first, which is the older
/// Gateway, and a Gateway before its ListenerSets.
fn conflicts(ours: &mut [Ours<'_>]) {
    // By address and port, datagrams apart: those that have their place, by Gateway and listener.
    let mut placed: BTreeMap<(String, i64, bool), Vec<(usize, usize)>> = BTreeMap::new();
    let mut told: Vec<(usize, usize, &'static str)> = Vec::new();
    // One that is not served takes no place of another.
    for (g, one) in ours.iter().enumerate().filter(|(_, one)| one.problem.is_none()) {
        for set in std::iter::once(None).chain((0..one.sets.len()).map(Some)) {
            let of = |l: &usize| one.listeners[*l].set == set && one.listeners[*l].accepted.holds;
            let places = |l: usize| {
                let listener = one.listeners[l].listener;
                let place = |address: &String| (address.clone(), listener.port, listener.protocol == "UDP");
                one.addresses.iter().map(place).collect::<Vec<_>>()
            };
            let mut own: BTreeMap<(String, i64, bool), Vec<(usize, usize)>> = BTreeMap::new();
            for l in (0..one.listeners.len()).filter(of) {
                let others = places(l).into_iter().flat_map(|place| placed.get(&place).into_iter().flatten());
                match others.filter_map(|other| clash(ours, (g, l), *other)).next() {
                    Some(reason) => told.push((g, l, reason)),
                    None => places(l).into_iter().for_each(|place| own.entry(place).or_default().push((g, l))),
                }
            }
            for (place, listeners) in own {
                for at in &listeners {
                    let others = listeners.iter().filter(|other| *other != at);
                    match others.filter_map(|other| clash(ours, *at, *other)).next() {
                        Some(reason) => told.push((at.0, at.1, reason)),
                        None => placed.entry(place.clone()).or_default().push(*at),
                    }
                }
            }
        }
    }
    for (g, l, reason) in told {
        let message = "another listener has this port, with another protocol, for the same hosts or for other clients";
        let heard = &mut ours[g].listeners[l];
        heard.conflicted = Condition::new("Conflicted", true, reason, message);
        heard.accepted = Condition::new("Accepted", false, reason, message);
    }
}

/// Why two listeners of one address and port cannot both be, as the API calls it.
fn clash(ours: &[Ours<'_>], a: (usize, usize), b: (usize, usize)) -> Option<&'static str> {
    let (one, other) = (&ours[a.0].listeners[a.1], &ours[b.0].listeners[b.1]);
    let (protocol, hosts) = (one.listener.protocol.as_str(), (&one.listener.hostname, &other.listener.hostname));
    // Of what is relayed without being read, and of TLS that several Gateways would end, one has the port.
    let shares = matches!(protocol, "HTTP" | "HTTPS") || protocol == "TLS" && a.0 == b.0;
    // Which clients are let in is settled before they can be told apart by what they ask for, which they could take back afterwards.
    if protocol != other.listener.protocol || one.clients.authorities != other.clients.authorities {
        Some("ProtocolConflict")
    } else if hosts.0.eq_ignore_ascii_case(hosts.1) || !shares {
        Some("HostnameConflict")
    } else {
        None
    }
}

/// Whether what is written in a namespace lets in what is in another.
fn lets_in(store: &Store, allowed: &AllowedNamespaces, own: &str, namespace: &str) -> bool {
    match allowed.from.as_str() {
        "All" => true,
        "Selector" => {
            let labels =
                store.namespace(namespace).map(|namespace| namespace.metadata.labels.clone()).unwrap_or_default();
            allowed.selector.as_ref().is_some_and(|selector| selector.takes(&labels))
        }
        "None" => false,
        _ => own == namespace,
    }
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

fn gateway_status(settings: Settings<'_>, one: &Ours<'_>, all_told: &mut Told) {
    let (meta, before) = (&one.gateway.metadata, &one.gateway.status);
    let serving = one.of(None).filter(|heard| heard.serves()).count();
    let all = one.of(None).all(Heard::is_whole);
    let own = one.addresses.iter().filter(|address| !address.is_empty());
    let is_shared = one.addresses.iter().any(String::is_empty);
    let told: Vec<&String> = if is_shared { settings.shared.iter().collect() } else { own.collect() };
    let addresses: Vec<Value> = told
        .iter()
        .map(|text| {
            let kind = if text.parse::<std::net::IpAddr>().is_ok() { "IPAddress" } else { "Hostname" };
            json!({"type": kind, "value": text})
        })
        .collect();
    // What could not be made of it has been told already.
    let mut report = all_told.reports.remove(&(Kind::Gateway, meta.key())).unwrap_or_default();
    let mut accepted = match (all, serving) {
        (true, _) => Condition::new("Accepted", true, "Accepted", ""),
        (false, 0) => Condition::new("Accepted", false, "ListenersNotValid", "none of its listeners can be served"),
        (false, _) => Condition::new("Accepted", true, "ListenersNotValid", PARTLY),
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
    } else if let Some(unusable) = &one.unusable {
        report.refused("spec.addresses", unusable.message.clone());
        programmed = unusable.clone();
    }
    let mut told_of_it = vec![accepted, programmed];
    for condition in one.resolved.iter().filter(|condition| !condition.holds) {
        report.refused("spec.tls", format!("{} ({})", condition.message, condition.reason));
    }
    told_of_it.extend(one.resolved.clone());
    if let Some(fallback) = tls::fallback(one.gateway) {
        report.approximated("spec.tls.frontend", fallback.message.clone());
        told_of_it.push(fallback);
    }
    let listeners = listener_statuses(settings, one, None, (meta, before), &mut report);
    let sets = (0..one.sets.len()).filter(|at| set_condition(one, *at).holds).count();
    let status = json!({
        "attachedListenerSets": sets,
        "addresses": addresses,
        "conditions": conditions(&told_of_it, meta, settings.now, &before["conditions"]),
        "listeners": listeners,
    });
    if let Some(status) = changed(status, before) {
        all_told.statuses.insert((Kind::Gateway, meta.key()), status);
    }
    report.hosts = hosts_of(one.of(None));
    all_told.reports.insert((Kind::Gateway, meta.key()), report);
}

fn hosts_of<'h>(listeners: impl Iterator<Item = &'h Heard<'h>>) -> Vec<String> {
    let shown = |host: &str| if host.is_empty() { "*".to_owned() } else { host.to_owned() };
    let mut hosts: Vec<String> = listeners.map(|heard| shown(&heard.listener.hostname)).collect();
    hosts.dedup();
    hosts
}

/// What is told of the listeners of a Gateway, or of one of its sets.
fn listener_statuses(
    settings: Settings<'_>,
    one: &Ours<'_>,
    set: Option<usize>,
    (meta, before): (&Meta, &Value),
    report: &mut Report,
) -> Vec<Value> {
    one.of(set)
        .map(|heard| {
            let name = &heard.listener.name;
            let was = before["listeners"].as_array().into_iter().flatten().find(|was| was["name"] == **name);
            let was = was.map_or(Value::Null, |was| was["conditions"].clone());
            let programmed = match (heard.serves() && one.problem.is_none(), &heard.unserved) {
                (true, None) => Condition::new("Programmed", true, "Programmed", ""),
                (true, Some(why)) => {
                    let told =
                        format!("what is served of it is as it was before, for no server can be made of it now: {why}");
                    report.refused(&format!("listener {name}"), told.clone());
                    Condition::new("Programmed", false, "Invalid", told)
                }
                (false, _) => {
                    let conflict = heard.conflicted.holds && set.is_some();
                    let reason = if conflict { heard.conflicted.reason } else { "Invalid" };
                    Condition::new("Programmed", false, reason, "it cannot be served; the other conditions say why")
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
        .collect()
}

/// Whether a ListenerSet is accepted.
fn set_condition(one: &Ours<'_>, at: usize) -> Condition {
    if !one.sets[at].allowed {
        let told = "allowedListeners of the Gateway lets no ListenerSet of this namespace add to it";
        return Condition::new("Accepted", false, "NotAllowed", told);
    }
    if one.problem.as_ref().is_some_and(|problem| problem.kind == "Accepted") {
        return Condition::new("Accepted", false, "ParentNotAccepted", "the Gateway is not accepted");
    }
    let own = || one.of(Some(at));
    match (own().all(Heard::is_whole), own().any(Heard::serves)) {
        (_, false) => Condition::new("Accepted", false, "ListenersNotValid", "none of its listeners can be served"),
        (false, true) => Condition::new("Accepted", true, "ListenersNotValid", PARTLY),
        (true, true) => Condition::new("Accepted", true, "Accepted", ""),
    }
}

const PARTLY: &str =
    "some of its listeners, or some of what they name, cannot be served; their own conditions say which";

fn set_status(settings: Settings<'_>, one: &Ours<'_>, at: usize, told: &mut Told) {
    let Set { set, .. } = &one.sets[at];
    let (meta, before) = (&set.metadata, &set.status);
    let mut report = Report { hosts: hosts_of(one.of(Some(at))), ..Report::default() };
    let listeners = listener_statuses(settings, one, Some(at), (meta, before), &mut report);
    let accepted = set_condition(one, at);
    let programmed = match (&one.problem, accepted.holds) {
        (_, false) => Condition::new("Programmed", false, accepted.reason, accepted.message.clone()),
        (Some(problem), true) => Condition::new("Programmed", false, "Pending", problem.message.clone()),
        (None, true) => Condition::new("Programmed", true, "Programmed", ""),
    };
    if !accepted.holds {
        report.refused("spec.parentRef", format!("{} ({})", accepted.message, accepted.reason));
    }
    let status = json!({
        "conditions": conditions(&[accepted, programmed], meta, settings.now, &before["conditions"]),
        "listeners": listeners,
    });
    if let Some(status) = changed(status, before) {
        told.statuses.insert((Kind::ListenerSet, meta.key()), status);
    }
    told.reports.insert((Kind::ListenerSet, meta.key()), report);
}

#[cfg(test)]
pub(crate) mod tests;
