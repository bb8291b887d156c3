//! BackendTLSPolicies: which services are spoken to over TLS, what their certificates have to be, and what is told of each policy.
//!
//! A policy is about a service, or about one port of it, which it names; that one goes before. Of two about the same the older has it, and
//! the younger is in force nowhere, as its status says: half of a policy is none that anybody has written. A service whose policy cannot
//! be used, or of whose policies none is in force, is not spoken to at all: in the clear would be worse.

use std::collections::{BTreeMap, BTreeSet};

use base_text::quoted;
use serde_json::{Map, Value, json};

use super::authorities::{self, Fault};
use super::object::{BackendTlsPolicy, Reference, Route, SubjectAltName};
use super::routes::Place;
use super::status::{Condition, changed, conditions};
use super::{CONTROLLER, GROUP, Ours, Settings, Told};
use crate::kinds::Kind;
use crate::object::Key;
use crate::store::Store;

/// All that there are.
#[derive(Default)]
pub(super) struct Policies<'s> {
    all: Vec<One<'s>>,
    /// By service and port, whose name is empty where all of them are meant: which policy has it. None: those that are about it are in
    /// force nowhere.
    of: BTreeMap<(Key, String), Option<usize>>,
    /// By service: those that are about it, in force or not.
    about: BTreeMap<Key, BTreeSet<usize>>,
}

struct One<'s> {
    policy: &'s BackendTlsPolicy,
    accepted: Condition,
    resolved: Condition,
    /// As a Proxy has it; none where the policy cannot be used.
    mtls: Option<Value>,
    /// Gateways whose routes lead to its services.
    ancestors: BTreeSet<Key>,
}

/// A service has a policy, and it cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unusable;

impl<'s> Policies<'s> {
    pub fn read(store: &'s Store) -> Policies<'s> {
        let mut all: Vec<&BackendTlsPolicy> = store.policies().collect();
        all.sort_by_key(|policy| {
            (&policy.metadata.creation_timestamp, &policy.metadata.namespace, &policy.metadata.name)
        });
        let mut policies = Policies::default();
        for policy in all {
            let (at, namespace) = (policies.all.len(), &policy.metadata.namespace);
            let mut one = One::read(store, policy);
            let places: Vec<(Key, String)> = policy
                .spec
                .target_refs
                .iter()
                .filter(|target| target.group.is_empty() && target.kind == "Service")
                .map(|target| (Key::new(namespace, &target.name), target.section_name.clone().unwrap_or_default()))
                .collect();
            let held = places.iter().find_map(|place| Some((place, policies.of.get(place).copied().flatten()?)));
            let in_force = match held {
                Some(((service, port), holder)) => {
                    let port = if port.is_empty() { String::new() } else { format!("port {port} of ") };
                    let told = format!(
                        "policy {}, which is older, is about {port}service {}, too; this one is in force for none of its targets",
                        policies.all[holder].policy.metadata.name, service.name
                    );
                    one.accepted = Condition::new("Accepted", false, "Conflicted", told);
                    None
                }
                None => Some(at),
            };
            for place in places {
                policies.about.entry(place.0.clone()).or_default().insert(at);
                let holder = policies.of.entry(place).or_default();
                *holder = holder.or(in_force);
            }
            policies.all.push(one);
        }
        policies
    }

    /// What a Proxy needs to speak with a port of a service; `None` where no policy is about it.
    pub fn of(&self, store: &Store, service: &Key, port: &str) -> Result<Option<&Value>, Unusable> {
        let ports = store.service(service).map(|service| service.spec.ports.as_slice()).unwrap_or_default();
        let named = ports.iter().find(|of| of.port.to_string() == port || of.name == port).map(|port| &port.name);
        let named = named.map(String::as_str).filter(|name| !name.is_empty());
        let about: Vec<Option<usize>> = named
            .into_iter()
            .chain([""])
            .filter_map(|section| self.of.get(&(service.clone(), section.to_owned())).copied())
            .collect();
        match about.iter().flatten().next() {
            Some(at) => self.all[*at].mtls.as_ref().map(Some).ok_or(Unusable),
            None if about.is_empty() => Ok(None),
            None => Err(Unusable),
        }
    }

    /// What each of them comes to: whoever leads to a service of which that is as it was is believed as before.
    pub fn believed(&self) -> Believed {
        let mtls = |at: &Option<usize>| at.and_then(|at| self.all[at].mtls.clone());
        Believed(self.of.iter().map(|(place, at)| (place.clone(), mtls(at))).collect())
    }

    /// Takes note of which Gateways lead to whose services.
    pub fn note<'r>(&mut self, ours: &[Ours<'_>], attached: impl Iterator<Item = (Kind, &'r Route, &'r [Place])>) {
        if self.about.is_empty() {
            return;
        }
        for (_, route, places) in attached.filter(|(kind, ..)| !matches!(kind, Kind::TcpRoute | Kind::UdpRoute)) {
            for (service, _) in route.backends() {
                for at in self.about.get(&service).into_iter().flatten() {
                    let gateways = places.iter().map(|(g, ..)| ours[*g].gateway.metadata.key());
                    self.all[*at].ancestors.extend(gateways);
                }
            }
        }
    }

    pub fn statuses(&self, settings: Settings<'_>, told: &mut Told) {
        for one in &self.all {
            let (meta, before) = (&one.policy.metadata, &one.policy.status);
            let before = before["ancestors"].as_array().cloned().unwrap_or_default();
            let (own, mut all): (Vec<Value>, Vec<Value>) =
                before.into_iter().partition(|was| was["controllerName"] == CONTROLLER);
            if own.is_empty() && one.ancestors.is_empty() {
                continue;
            }
            for gateway in &one.ancestors {
                let reference =
                    json!({"group": GROUP, "kind": "Gateway", "namespace": gateway.namespace, "name": gateway.name});
                let was = own.iter().find(|was| was["ancestorRef"] == reference);
                let was = was.map_or(Value::Null, |was| was["conditions"].clone());
                let of = [one.accepted.clone(), one.resolved.clone()];
                let conditions = conditions(&of, meta, settings.now, &was);
                all.push(json!({"ancestorRef": reference, "controllerName": CONTROLLER, "conditions": conditions}));
            }
            all.truncate(ANCESTORS_MAX);
            if let Some(status) = changed(json!({"ancestors": all}), &one.policy.status) {
                told.statuses.insert((Kind::BackendTlsPolicy, meta.key()), status);
            }
            let report = told.reports.entry((Kind::BackendTlsPolicy, meta.key())).or_default();
            for condition in [&one.accepted, &one.resolved].into_iter().filter(|condition| !condition.holds) {
                report.refused(condition.kind, format!("{} ({})", condition.message, condition.reason));
            }
        }
    }
}

/// How servers are believed, by their service and port; nothing where a policy is in force nowhere, or cannot be used.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Believed(BTreeMap<(Key, String), Option<Value>>);

impl Believed {
    /// Services whose servers are believed otherwise than they were.
    pub fn others(&self, before: &Believed) -> BTreeSet<Key> {
        if self == before {
            return BTreeSet::new();
        }
        let differs = |some: &Believed, than: &Believed| -> Vec<Key> {
            let others = some.0.iter().filter(|(place, mtls)| than.0.get(*place) != Some(*mtls));
            others.map(|((service, _), _)| service.clone()).collect()
        };
        differs(self, before).into_iter().chain(differs(before, self)).collect()
    }
}

impl<'s> One<'s> {
    fn read(store: &Store, policy: &'s BackendTlsPolicy) -> One<'s> {
        let mut accepted = Condition::new("Accepted", true, "Accepted", "");
        let mut resolved = Condition::new("ResolvedRefs", true, "ResolvedRefs", "");
        let validation = &policy.spec.validation;
        let (mut authorities, mut found) = (String::new(), 0);
        for reference in &validation.ca_certificate_refs {
            match authorities_of(store, &policy.metadata.namespace, reference) {
                Ok(text) => {
                    found += 1;
                    authorities += &text;
                }
                Err((reason, told)) => resolved = Condition::new("ResolvedRefs", false, reason, told),
            }
        }
        let system = validation.well_known_ca_certificates.as_deref();
        match (validation.ca_certificate_refs.is_empty(), system) {
            (true, Some("System")) => {}
            (true, other) => {
                let told = format!(
                    "wellKnownCACertificates is {}; accepted is System, or caCertificateRefs",
                    quoted(other.unwrap_or_default())
                );
                accepted = Condition::new("Accepted", false, "Invalid", told);
            }
            (false, _) if found == 0 => {
                let told = format!("none of its authorities can be used: {}", resolved.message);
                accepted = Condition::new("Accepted", false, "NoValidCACertificate", told);
            }
            (false, _) => {}
        }
        // What an authority signs that cannot be read would not be believed where the policy says that it is.
        let mtls = (accepted.holds && resolved.holds).then(|| {
            let mut mtls = Map::new();
            if !authorities.is_empty() {
                mtls.insert("rootCertBase64".to_owned(), json!(authorities));
            }
            mtls.insert("serverName".to_owned(), json!(validation.hostname));
            let names: Vec<&str> = validation.subject_alt_names.iter().map(name_of).collect();
            if !names.is_empty() {
                mtls.insert("subjectAltNames".to_owned(), json!(base_model::once(names)));
            }
            Value::Object(mtls)
        });
        One { policy, accepted, resolved, mtls, ancestors: BTreeSet::new() }
    }
}

fn name_of(name: &SubjectAltName) -> &str {
    if name.kind == "URI" { &name.uri } else { &name.hostname }
}

/// Certificates of a ConfigMap, PEM; or a reason of the API, and words.
fn authorities_of(store: &Store, namespace: &str, reference: &Reference) -> Result<String, (&'static str, String)> {
    // One of another namespace cannot be named here.
    let local = Reference { namespace: None, ..reference.clone() };
    authorities::named(&local, namespace).and_then(|key| authorities::read(store, &key)).map_err(|fault| match fault {
        Fault::Kind(told) => ("InvalidKind", told),
        Fault::Unusable(told) => ("InvalidCACertificateRef", told),
    })
}

/// Of the API.
const ANCESTORS_MAX: usize = 16;
