//! Routes, one by one: which listeners take each, what is made of it, and what is told of it. What a route says concerns its own hosts and
//! no others, so of ten thousand that are there one that changes is read anew, and the rules of its hosts are made anew; everything else
//! stays the very same in memory, which whoever takes it can see.
//!
//! Three things are kept of a route, each for as long as that of which it was made is as it was: what it says by itself, with the objects
//! that it refers to; where its rules lead; and which listeners take it, which is looked at again where anything of a Gateway is another.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use control_api::{Kept, compact};
use serde_json::{Value, json};

use super::http::{self, Door, KnownDoor, Led};
use super::l4::{Attached, Here, KnownPort, Port};
use super::object::{Listener, ParentRef, Route};
use super::policy::Believed;
use super::status::{Condition, changed, conditions};
use super::{CONTROLLER, Certificate, GROUP, Heard, Made, Ours, Plan, answer, lets_in};
use crate::ingress::{Pipelines, Reports, Services};
use crate::kinds::Kind;
use crate::object::Key;
use crate::report::{Report, Statuses};
use crate::store::{Looked, Store};

/// Kinds of routes.
const ROUTES: [Kind; 5] = [Kind::HttpRoute, Kind::GrpcRoute, Kind::TlsRoute, Kind::TcpRoute, Kind::UdpRoute];

/// What routes look for by its name.
const LOOKED_FOR: [Kind; 3] = [Kind::Service, Kind::FilterSpec, Kind::Namespace];

/// A listener that takes a route: its Gateway, its place there, and the hosts that the route has of it; an empty one is any.
pub(super) type Place = (usize, usize, Vec<String>);

/// What was made before, for as long as that of which it was made is as it was.
#[derive(Default)]
pub struct Known {
    /// Of the controller's object.
    pub(super) name: String,
    /// Those that are not ours as well.
    routes: BTreeMap<Kind, BTreeMap<Key, Box<KnownRoute>>>,
    /// What they saw of Gateways.
    ground: Vec<Ground>,
    believed: Believed,
    /// Of the [`Store`]: of what is looked for by its name, and of grants. Absent before the first time.
    turns: Option<([u64; 3], u64)>,
    pub(super) doors: BTreeMap<Door, KnownDoor>,
    pub(super) ports: BTreeMap<Port, KnownPort>,
    pipelines: Pipelines,
    /// How many pipelines ask for a service, of those that more than one asks for.
    asked: BTreeMap<String, usize>,
    services: Services,
    reports: Reports,
    statuses: Statuses,
    servers: BTreeMap<String, Arc<Value>>,
    /// Objects that are no routes and have a report.
    told: BTreeSet<(Kind, Key)>,
}

/// One route.
struct KnownRoute {
    route: Arc<Route>,
    judged: Judged,
    /// For what it says by itself, and for which listeners take it.
    looked: [Looked; 2],
    /// Where its rules lead, for each certificate that its servers are shown.
    led: Vec<Arc<Led>>,
    takes: Takes,
}

/// What a route says by itself.
struct Judged {
    resolved: Condition,
    unsupported: Option<String>,
    /// Why no server takes it, once that was asked.
    untakeable: Option<Option<String>>,
}

/// Which listeners take it.
#[derive(Default)]
struct Takes {
    /// Absent: it cannot be served, or is not ours.
    places: Option<Vec<Place>>,
    /// Hosts of servers that ask it.
    leads: Vec<Lead>,
    /// Of one of whose servers more is told while they are made.
    report: Option<Report>,
}

/// A host of a server, and where its requests go.
struct Lead {
    door: Door,
    host: String,
    led: Arc<Led>,
}

impl Lead {
    fn is(&self, other: &Lead) -> bool {
        self.door == other.door && self.host == other.host && Arc::ptr_eq(&self.led, &other.led)
    }
}

/// What routes see of a Gateway.
#[derive(PartialEq)]
struct Ground {
    gateway: Key,
    addresses: Vec<String>,
    identity: Option<Arc<Certificate>>,
    sets: Vec<(Key, bool)>,
    problem: Option<Condition>,
    listeners: Vec<Seen>,
}

/// What they see of a listener.
#[derive(PartialEq)]
struct Seen {
    listener: Listener,
    set: Option<usize>,
    namespace: String,
    kinds: Vec<&'static str>,
    is_accepted: bool,
    serves: bool,
}

impl Ground {
    /// `known`: certificates by their secrets; one that is as it was is the very same.
    fn of(one: &Ours<'_>, known: &mut BTreeMap<String, Arc<Certificate>>) -> Ground {
        let identity = one.identity.as_ref().map(|identity| {
            let known = known.entry(identity.0.clone()).or_insert_with(|| Arc::new(identity.clone()));
            if **known != *identity {
                *known = Arc::new(identity.clone());
            }
            known.clone()
        });
        let seen = |heard: &Heard<'_>| Seen {
            listener: heard.listener.clone(),
            set: heard.set,
            namespace: heard.namespace.to_owned(),
            kinds: heard.kinds.clone(),
            is_accepted: heard.accepted.holds,
            serves: heard.serves(),
        };
        Ground {
            gateway: one.gateway.metadata.key(),
            addresses: one.addresses.clone(),
            identity,
            sets: one.sets.iter().map(|set| (set.set.metadata.key(), set.allowed)).collect(),
            problem: one.problem.clone(),
            listeners: one.listeners.iter().map(seen).collect(),
        }
    }
}

impl Known {
    /// Whether nothing is kept of what has gone.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let (made, told) = (self.pipelines.is_empty() && self.services.is_empty(), self.reports.is_empty());
        let kept = self.asked.is_empty() && self.doors.is_empty() && self.ports.is_empty() && self.servers.is_empty();
        made && told && kept && self.statuses.is_empty() && self.routes.values().all(BTreeMap::is_empty)
    }

    /// Those that listeners have taken, as far as they can be served.
    pub(super) fn attached(&self) -> impl Iterator<Item = (Kind, &Route, &[Place])> {
        let all = self.routes.iter().flat_map(|(kind, routes)| routes.values().map(move |known| (*kind, known)));
        all.filter_map(|(kind, known)| Some((kind, &*known.route, known.takes.places.as_deref()?)))
    }

    /// Those of what is relayed without being read, oldest first, by where they are.
    pub(super) fn attached_to_l4(&self) -> Attached {
        let mut at = Attached::new();
        for kind in ROUTES.into_iter().filter(|kind| is_relayed(*kind)) {
            let routes = self.routes.get(&kind).into_iter().flat_map(BTreeMap::values);
            let mut taken: Vec<(&Arc<Route>, &Vec<Place>)> =
                routes.filter_map(|known| Some((&known.route, known.takes.places.as_ref()?))).collect();
            taken.sort_by(|(a, _), (b, _)| age(a).cmp(&age(b)));
            for (route, places) in taken {
                for (g, l, hosts) in places {
                    let here = Here { kind, route: route.clone(), hosts: hosts.clone() };
                    at.entry((*g, *l)).or_default().push(here);
                }
            }
        }
        at
    }

    /// The server as it was, where it is as it was.
    pub(super) fn same_server(&self, name: &str, document: Value) -> Arc<Value> {
        match self.servers.get(name) {
            Some(known) if **known == document => known.clone(),
            _ => Arc::new(compact(document)),
        }
    }

    fn put_pipeline(&mut self, name: &str, document: Value) {
        if self.pipelines.get(name).is_some_and(|known| known.is(&document)) {
            return;
        }
        let was = self.pipelines.insert(name.to_owned(), Kept::of(&document));
        self.count(was, Some(document));
    }

    fn drop_pipeline(&mut self, name: &str) {
        let was = self.pipelines.remove(name);
        self.count(was, None);
    }

    /// Services that a pipeline asks for now, and those that it asked for: of filters that a namespace wrote itself as well, and nobody else
    /// asks for what is made here.
    fn count(&mut self, was: Option<Kept>, now: Option<Value>) {
        let of = |document: Option<Value>| -> BTreeSet<String> {
            let asked =
                document.as_ref().map(base_model::service_registry::services_of).unwrap_or_default().into_iter();
            asked.filter(|(registry, _)| *registry == self.name).map(|(_, service)| service).collect()
        };
        let (was, now) = (of(was.map(|was| was.read())), of(now));
        for service in now.difference(&was) {
            if self.services.contains(service) {
                *self.asked.entry(service.clone()).or_insert(1) += 1;
            } else {
                self.services.insert(service.clone());
            }
        }
        for service in was.difference(&now) {
            match self.asked.entry(service.clone()) {
                Entry::Vacant(_) => drop(self.services.remove(service)),
                Entry::Occupied(mut asked) => {
                    *asked.get_mut() -= 1;
                    if *asked.get() == 1 {
                        asked.remove();
                    }
                }
            }
        }
    }

    fn put_report(&mut self, of: (Kind, Key), report: Report) {
        if self.reports.get(&of) != Some(&report) {
            self.reports.insert(of, report);
        }
    }
}

impl Made<'_> {
    /// Takes note of routes that are others than they were, look at other objects, or see other Gateways. Says whether Gateways, grants or
    /// policies are others.
    pub(super) fn read_routes(&mut self, ours: &[Ours<'_>]) -> bool {
        let store = self.store;
        let turns = (LOOKED_FOR.map(|kind| store.turn_of(kind)), store.turn_of(Kind::ReferenceGrant));
        let before = self.known.turns.replace(turns);
        let looks_again = before.is_none_or(|before| before.0 != turns.0);
        let grants_differ = before.is_none_or(|before| before.1 != turns.1);
        let believed = self.policies.believed();
        let otherwise = believed.others(&self.known.believed);
        self.known.believed = believed;
        let identities = self.known.ground.iter().filter_map(|one| one.identity.clone());
        let mut identities = identities.map(|identity| (identity.0.clone(), identity)).collect();
        let ground: Vec<Ground> = ours.iter().map(|one| Ground::of(one, &mut identities)).collect();
        let moved = self.known.ground != ground;
        self.known.ground = ground;
        for kind in ROUTES {
            let (mut others, mut gone) = (Vec::new(), Vec::new());
            // Both are in the order of their keys.
            let mut known = self.known.routes.entry(kind).or_default().iter().peekable();
            for (key, route) in store.routes_by_key(kind) {
                while let Some((key, _)) = known.next_if(|(known, _)| *known < key) {
                    gone.push(key.clone());
                }
                let was = known.next_if(|(known, _)| *known == key).map(|(_, was)| was);
                let is_judged = was.is_some_and(|was| {
                    let is_same = Arc::ptr_eq(&was.route.spec, &route.spec) && is_as_old(&was.route, route);
                    let is_granted = || !grants_differ || !refers_elsewhere(route);
                    let is_believed =
                        || otherwise.is_empty() || !route.backends().any(|(of, _)| otherwise.contains(&of));
                    is_same && (!looks_again || was.looked[0].holds(store)) && is_granted() && is_believed()
                });
                let is_placed = was.is_some_and(|was| {
                    Arc::ptr_eq(&was.route, route) && !moved && (!looks_again || was.looked[1].holds(store))
                });
                if !is_judged || !is_placed {
                    others.push((key.clone(), route.clone(), is_judged));
                }
            }
            gone.extend(known.map(|(key, _)| key.clone()));
            self.attached_differ |= is_relayed(kind) && !(gone.is_empty() && others.is_empty());
            for key in gone {
                self.leave(kind, key);
            }
            for (key, route, is_judged) in others {
                self.enter(ours, (kind, key), route, is_judged);
            }
        }
        moved || grants_differ || !otherwise.is_empty()
    }

    fn leave(&mut self, kind: Kind, key: Key) {
        let Some(was) = self.known.routes.get_mut(&kind).and_then(|routes| routes.remove(&key)) else { return };
        for lead in &was.takes.leads {
            self.lets_go(lead);
        }
        for name in was.led.iter().flat_map(|led| led.pipelines()) {
            self.known.drop_pipeline(name);
        }
        let of = (kind, key);
        self.known.statuses.remove(&of);
        self.known.reports.remove(&of);
    }

    /// `is_judged`: what it says by itself is as it was.
    fn enter(&mut self, ours: &[Ours<'_>], (kind, key): (Kind, Key), route: Arc<Route>, is_judged: bool) {
        let store = self.store;
        let was = self.known.routes.get_mut(&kind).and_then(|routes| routes.remove(&key));
        let (mut before, mut led, mut judged) = (Takes::default(), Vec::new(), None);
        if let Some(was) = was {
            let [looked, _] = was.looked;
            (before, led, judged) = (was.takes, was.led, is_judged.then_some((was.judged, looked)));
        }
        let (mut judged, looked) = judged
            .unwrap_or_else(|| store.noting(&LOOKED_FOR, || Judged::read(store, self.settings.name, kind, &route)));
        let reusable = if is_judged { std::mem::take(&mut led) } else { Vec::new() };
        let of = Of { kind, key: &key, route: &route };
        let ((taken, now), placed) = store.noting(&LOOKED_FOR, || self.take(ours, of, &mut judged, &reusable));
        let names: BTreeSet<&str> = now.iter().flat_map(|led| led.pipelines()).collect();
        for name in led.iter().chain(&reusable).flat_map(|led| led.pipelines()).filter(|name| !names.contains(name)) {
            self.known.drop_pipeline(name);
        }
        for lead in before.leads.iter().filter(|was| !taken.leads.iter().any(|lead| lead.is(was))) {
            self.lets_go(lead);
        }
        for lead in taken.leads.iter().filter(|lead| !before.leads.iter().any(|was| was.is(lead))) {
            let door = self.known.doors.entry(lead.door.clone()).or_default();
            door.hosts.entry(lead.host.clone()).or_default().members.push(lead.led.clone());
            self.changed_hosts.insert((lead.door.clone(), lead.host.clone()));
        }
        let known = Box::new(KnownRoute { route, judged, looked: [looked, placed], led: now, takes: taken });
        self.known.routes.entry(kind).or_default().insert(key, known);
    }

    /// A host of a server leads there no more.
    fn lets_go(&mut self, lead: &Lead) {
        if let Some(host) = self.known.doors.get_mut(&lead.door).and_then(|door| door.hosts.get_mut(&lead.host)) {
            host.members.retain(|led| !Arc::ptr_eq(led, &lead.led));
        }
        self.changed_hosts.insert((lead.door.clone(), lead.host.clone()));
    }

    /// Finds the listeners that take a route, writes down its status, and says where its rules lead.
    fn take(
        &mut self,
        ours: &[Ours<'_>],
        of: Of<'_>,
        judged: &mut Judged,
        reusable: &[Arc<Led>],
    ) -> (Takes, Vec<Arc<Led>>) {
        let Of { kind, key, route } = of;
        let (store, settings) = (self.store, self.settings);
        let mut places = Vec::new();
        let mut parents = Vec::new();
        let none = Vec::new();
        let status = route.status.read();
        let before = status["parents"].as_array().unwrap_or(&none);
        let hosts = if route.spec.hostnames.is_empty() { vec!["*".to_owned()] } else { route.spec.hostnames.clone() };
        let mut report = Report { hosts, ..Report::default() };
        let is_ours = route.spec.parent_refs.iter().any(|parent| target_of(parent, route, ours).is_some());
        if is_ours && judged.unsupported.is_none() && judged.untakeable.is_none() {
            let why = http::untakeable(self.check, settings, kind, route);
            judged.untakeable = Some(why.map(|why| format!("no server takes it: {why}")));
        }
        let untakeable = judged.untakeable.as_ref().and_then(Option::as_ref).filter(|_| is_ours);
        let unsupported = judged.unsupported.as_ref().or(untakeable);
        for parent in &route.spec.parent_refs {
            let Some(target) = target_of(parent, route, ours) else { continue };
            let mut accepted = listeners_for(store, kind, route, parent, target, ours, &mut places);
            if let (true, Some(told)) = (accepted.holds, unsupported) {
                accepted = Condition::new("Accepted", false, "UnsupportedValue", told.clone());
            }
            for condition in [&accepted, &judged.resolved].into_iter().filter(|condition| !condition.holds) {
                report.refused(
                    &format!("{} of {}", condition.kind, parent.name),
                    format!("{} ({})", condition.message, condition.reason),
                );
            }
            let reference = reference_json(parent);
            let was = before.iter().find(|was| was["controllerName"] == CONTROLLER && was["parentRef"] == reference);
            let was = was.map_or(Value::Null, |was| was["conditions"].clone());
            let conditions = conditions(&[accepted, judged.resolved.clone()], &route.metadata, settings.now, &was);
            parents.push(json!({"parentRef": reference, "controllerName": CONTROLLER, "conditions": conditions}));
        }
        let told_of = (kind, key.clone());
        let had = before.iter().any(|was| was["controllerName"] == CONTROLLER);
        if parents.is_empty() && !had {
            self.known.statuses.remove(&told_of);
            self.known.reports.remove(&told_of);
            return Default::default();
        }
        // What other controllers say stays.
        let mut all: Vec<Value> = before.iter().filter(|was| was["controllerName"] != CONTROLLER).cloned().collect();
        all.extend(parents);
        match changed(json!({"parents": all}), &status) {
            Some(status) if self.known.statuses.get(&told_of).is_some_and(|known| known.is(&status)) => {}
            Some(status) => drop(self.known.statuses.insert(told_of.clone(), Kept::of(&status))),
            None => drop(self.known.statuses.remove(&told_of)),
        }
        if unsupported.is_some() {
            self.known.put_report(told_of, report);
            return Default::default();
        }
        if !is_http(kind) {
            let takes = Takes { places: Some(places), leads: Vec::new(), report: Some(report) };
            return (takes, Vec::new());
        }
        let (mut leads, mut led) = self.leads(ours, of, &places, reusable, &mut report);
        // They are kept: most routes have one of each.
        leads.shrink_to_fit();
        led.shrink_to_fit();
        places.shrink_to_fit();
        report.hosts.shrink_to_fit();
        self.known.put_report(told_of, report);
        (Takes { places: Some(places), leads, report: None }, led)
    }

    /// Hosts of servers that ask a route, and where they lead.
    fn leads(
        &mut self,
        ours: &[Ours<'_>],
        of: Of<'_>,
        places: &[Place],
        reusable: &[Arc<Led>],
        report: &mut Report,
    ) -> (Vec<Lead>, Vec<Arc<Led>>) {
        let (mut leads, mut all) = (Vec::new(), Vec::<Arc<Led>>::new());
        let mut told = Vec::new();
        for (g, l, hosts) in places {
            let identity = self.known.ground[*g].identity.clone();
            for door in http::doors(&ours[*g], &ours[*g].listeners[*l]) {
                let led = match all.iter().chain(reusable).find(|led| led.is_as(identity.as_ref())) {
                    Some(led) => led.clone(),
                    None => Arc::new(http::lead(self, of, identity.clone())),
                };
                if !all.iter().any(|known| Arc::ptr_eq(known, &led)) {
                    all.push(led.clone());
                }
                let others = self.listening.get(&door).map(Vec::as_slice).unwrap_or_default();
                for host in hosts {
                    let narrowest = http::narrowest(others, host).filter(|(_, of, at)| (*of, *at) != (*g, *l));
                    match narrowest {
                        Some((holder, ..)) => told.push((host, holder.clone())),
                        None => leads.push(Lead { door: door.clone(), host: host.clone(), led: led.clone() }),
                    }
                }
            }
        }
        report.notes.extend(all.iter().flat_map(|led| led.notes.iter().cloned()));
        for (host, holder) in told {
            let told = format!(
                "{} is of a listener for {}, and the routes of that listener alone are asked for it",
                base_text::quoted(host),
                base_text::quoted(&holder)
            );
            report.refused("spec.hostnames", told);
        }
        (leads, all)
    }

    /// Keeps the pipeline of a rule, if it passes.
    pub(super) fn put_pipeline(&mut self, name: &str, document: Value) -> Result<(), String> {
        self.check.check(&document)?;
        self.known.put_pipeline(name, document);
        Ok(())
    }

    /// What came of all of it.
    pub(super) fn end(self) -> Plan {
        let Made { known, settings, told, servers, rules, refused, attached_differ, l4_differs, .. } = self;
        let refuses =
            known.routes.values().flat_map(BTreeMap::values).any(|route| route.led.iter().any(|led| led.refuses()));
        for (status, is_asked) in [(404, !known.doors.is_empty()), (500, refuses)] {
            let name = format!("{}.{status}", settings.name);
            match (is_asked, known.pipelines.contains_key(&name)) {
                (true, false) => known.put_pipeline(&name, answer(&name, status)),
                (false, true) => known.drop_pipeline(&name),
                _ => {}
            }
        }
        let super::Told { statuses, mut reports } = told;
        // Of routes whose servers stand in documents more may be told with those.
        let mut more: BTreeMap<(Kind, Key), Report> =
            reports.extract_if(.., |(kind, _), _| is_relayed(*kind)).collect();
        if attached_differ || l4_differs {
            for kind in ROUTES.into_iter().filter(|kind| is_relayed(*kind)) {
                let routes = known.routes.get(&kind).into_iter().flatten();
                let all: Vec<(Key, Report)> =
                    routes.filter_map(|(key, route)| Some((key.clone(), route.takes.report.clone()?))).collect();
                for (key, mut report) in all {
                    let of = (kind, key);
                    report.notes.extend(more.remove(&of).into_iter().flat_map(|more| more.notes));
                    known.put_report(of, report);
                }
            }
        }
        let before = std::mem::replace(&mut known.told, reports.keys().cloned().collect());
        for of in before.difference(&known.told) {
            known.reports.remove(of);
        }
        for (of, report) in reports {
            known.put_report(of, report);
        }
        known.servers.clone_from(&servers);
        let mut all = known.statuses.clone();
        all.extend(statuses.into_iter().map(|(of, status)| (of, Kept::of(&status))));
        Plan {
            documents: servers,
            rules,
            pipelines: known.pipelines.clone(),
            services: known.services.clone(),
            statuses: all,
            reports: known.reports.clone(),
            refused,
        }
    }
}

/// A route that is looked at.
#[derive(Clone, Copy)]
pub(super) struct Of<'r> {
    pub kind: Kind,
    pub key: &'r Key,
    pub route: &'r Route,
}

impl Judged {
    fn read(store: &Store, registry: &str, kind: Kind, route: &Route) -> Judged {
        let (unsupported, resolved) = http::judge(store, registry, kind, route);
        Judged { resolved, unsupported, untakeable: None }
    }
}

/// Whether its requests are read, and not relayed as they come.
fn is_http(kind: Kind) -> bool {
    matches!(kind, Kind::HttpRoute | Kind::GrpcRoute)
}

/// Whether it is a route whose requests are not.
fn is_relayed(kind: Kind) -> bool {
    ROUTES.contains(&kind) && !is_http(kind)
}

fn age(route: &Route) -> (&str, &str, &str) {
    let meta = &route.metadata;
    (&meta.creation_timestamp, &meta.namespace, &meta.name)
}

/// One that was created anew has another age.
pub(super) fn is_as_old(was: &Route, now: &Route) -> bool {
    was.metadata.creation_timestamp == now.metadata.creation_timestamp
}

/// Whether it may refer to what is in another namespace: a filter that it names may as well.
fn refers_elsewhere(route: &Route) -> bool {
    let names_filters =
        route.spec.rules.iter().flat_map(|rule| &rule.filters).any(|filter| filter.extension_ref.is_some());
    names_filters || route.backends().any(|(_, elsewhere)| elsewhere)
}

/// A Gateway of ours, and one of its ListenerSets where a route names that.
fn target_of(parent: &ParentRef, route: &Route, ours: &[Ours<'_>]) -> Option<(usize, Option<usize>)> {
    if parent.group.as_deref().is_some_and(|group| group != GROUP) {
        return None;
    }
    let key = Key::new(parent.namespace.as_ref().unwrap_or(&route.metadata.namespace), &parent.name);
    match parent.kind.as_deref().unwrap_or("Gateway") {
        "Gateway" => Some((ours.iter().position(|one| one.gateway.metadata.key() == key)?, None)),
        "ListenerSet" => ours.iter().enumerate().find_map(|(g, one)| {
            let at = one.sets.iter().position(|set| set.set.metadata.key() == key)?;
            Some((g, Some(at)))
        }),
        _ => None,
    }
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
    (g, set): (usize, Option<usize>),
    ours: &[Ours<'_>],
    places: &mut Vec<Place>,
) -> Condition {
    let one = &ours[g];
    if set.is_some_and(|at| !one.sets[at].allowed) {
        let told = "the Gateway does not let this ListenerSet add listeners";
        return Condition::new("Accepted", false, "NoMatchingParent", told);
    }
    if let Some(problem) = one.problem.as_ref().filter(|problem| problem.kind == "Accepted") {
        let told = format!("the Gateway is not accepted: {}", problem.message);
        return Condition::new("Accepted", false, "NoMatchingParent", told);
    }
    let named = |heard: &Heard<'_>| {
        heard.set == set
            && parent.section_name.as_ref().is_none_or(|name| *name == heard.listener.name)
            && parent.port.is_none_or(|port| port == heard.listener.port)
    };
    let mut refusal = ("NoMatchingParent", "there is no such listener");
    let mut taken = false;
    for (l, heard) in one.listeners.iter().enumerate().filter(|(_, heard)| named(heard)) {
        let allowed = &heard.listener.allowed_routes.namespaces;
        let lets_in = lets_in(store, allowed, heard.namespace, &route.metadata.namespace);
        if !heard.kinds.contains(&kind.name()) || !lets_in {
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
    hosts.shrink_to_fit();
    hosts
}
