//! The controller of an IngressController: an HTTPServer or two, a Pipeline for each backend, and the status of each Ingress.

use std::collections::BTreeMap;
use std::sync::Arc;

use base_model::{Cidr, HttpServerSpec, IngressControllerSpec, PortsSpec, VirtualIpSpec};
use control_api::{Document, Kept, Objects};
use control_kubernetes::certificates::secret_of;
use control_kubernetes::ingress::{self, Known, Rules, Settings};
use control_kubernetes::object::LoadBalancerPlace;
use control_kubernetes::reflect::Place;
use control_kubernetes::{Key, Kind, Store};
use serde_json::{Value, json};

use crate::kubernetes::{Maker, Outcome, Seen, made, named_in_words};

/// Makes what an IngressController asks for.
pub struct IngressMaker {
    pub name: String,
    pub spec: IngressControllerSpec,
    /// What was made of each Ingress.
    pub known: Known,
    /// What was made of all of them.
    pub servers: Servers,
}

impl Maker for IngressMaker {
    fn kind(&self) -> &'static str {
        "IngressController"
    }

    fn api(&self) -> (&str, &str) {
        (&self.spec.kube_config, &self.spec.master_url)
    }

    fn places(&self) -> Vec<Place> {
        let kinds = [Kind::IngressClass, Kind::Service, Kind::EndpointSlice, Kind::Secret, Kind::Ingress];
        kinds.into_iter().flat_map(|kind| Place::all(kind, &self.spec.namespaces)).collect()
    }

    fn names_servers(&self, _: &Store) -> bool {
        false
    }

    fn make(&mut self, seen: Seen<'_>) -> Outcome {
        let (spec, name) = (self.spec.clone(), self.name.clone());
        let name = name.as_str();
        let (http_name, https_name) = (format!("{name}.http"), format!("{name}.https"));
        let (objects, kind) = (seen.objects, self.kind());
        let server = |called: &str| made(objects, (kind, name), called);
        let kept = || {
            let mut kept = certificates(server(&http_name));
            kept.extend(certificates(server(&https_name)));
            kept
        };
        let https_port = spec.https_server.as_ref().map(|server| server.port);
        let settings = Settings { name, class: &spec.ingress_class, https_port };
        let plan = ingress::plan(seen.store, settings, &kept, seen.check, &mut self.known);
        let mut outcome =
            Outcome { services: plan.services, pipelines: plan.pipelines, reports: plan.reports, ..Outcome::default() };
        let second = https_port.is_some();
        let rules = if spec.http_server.https && second { &plan.https_rules } else { &plan.rules };
        let mut put =
            |called: &str, server: &HttpServerSpec, rules: &Rules| {
                match self.servers.document(
            called,
            server,
            &plan.certificates,
        ) {
            Some(document) => {
                outcome.documents.insert(called.to_owned(), document);
                outcome.rules.insert(called.to_owned(), rules.clone());
            }
            None => outcome.remarks.push(format!(
                "server {} waits for a certificate: no TLS secret of an Ingress holds one, and its document has none",
                named_in_words(called)
            )),
        }
            };
        put(&http_name, &spec.http_server, rules);
        if let Some(server) = &spec.https_server {
            put(&https_name, server, &plan.https_rules);
        }
        let places = self.places_of(seen.store, objects);
        // Nothing is said where nothing is known.
        if !places.is_empty() {
            // One for all: ten thousand may be told at once.
            let said: Vec<Value> = places.iter().map(place_json).collect();
            let said = Kept::of(&json!({"loadBalancer": {"ingress": said}}));
            // Both are in the order of their keys.
            let mut ours = outcome.reports.keys().peekable();
            for (key, ingress) in seen.store.ingresses_by_key() {
                while ours.next_if(|(_, one)| one < key).is_some() {}
                let known = &ingress.status.load_balancer.ingress;
                let is_said = known.len() == places.len() && places.iter().all(|place| known.contains(place));
                if ours.next_if(|(_, one)| one == key).is_some() && !is_said {
                    outcome.statuses.insert((Kind::Ingress, key.clone()), said.clone());
                }
            }
        }
        outcome
    }
}

/// Documents of servers, for as long as what they are made of is as it was.
#[derive(Default)]
pub struct Servers(BTreeMap<String, (Certificates, Arc<Value>)>);

type Certificates = Arc<BTreeMap<String, (String, String)>>;

impl Servers {
    /// None where it is to speak TLS and has no certificate.
    fn document(&mut self, name: &str, spec: &HttpServerSpec, certificates: &Certificates) -> Option<Arc<Value>> {
        if let Some((of, document)) = self.0.get(name)
            && Arc::ptr_eq(of, certificates)
        {
            return Some(document.clone());
        }
        let document = Arc::new(document(name, spec, certificates)?);
        self.0.insert(name.to_owned(), (certificates.clone(), document.clone()));
        Some(document)
    }
}

impl IngressMaker {
    /// Where its servers are reached.
    fn places_of(&self, store: &Store, objects: &Objects) -> Vec<LoadBalancerPlace> {
        let service = self.spec.publish_service.split_once('/').map(|(namespace, name)| Key::new(namespace, name));
        let mut places: Vec<LoadBalancerPlace> = if !self.spec.publish_addresses.is_empty() {
            self.spec.publish_addresses.iter().map(|text| place(text)).collect()
        } else if let Some(service) = service.and_then(|key| store.service(&key)) {
            let balancer = service.status.load_balancer.ingress.iter().cloned();
            balancer.chain(service.spec.external_ips.iter().map(|ip| place(ip))).collect()
        } else {
            virtual_addresses(objects, Some(self.spec.http_server.port)).iter().map(|text| place(text)).collect()
        };
        places.sort();
        places.dedup();
        places
    }
}

fn place(text: &str) -> LoadBalancerPlace {
    match text.parse::<std::net::IpAddr>() {
        Ok(_) => LoadBalancerPlace { ip: text.to_owned(), hostname: String::new() },
        Err(_) => LoadBalancerPlace { ip: String::new(), hostname: text.to_owned() },
    }
}

fn place_json(place: &LoadBalancerPlace) -> Value {
    if place.ip.is_empty() { json!({"hostname": place.hostname}) } else { json!({"ip": place.ip}) }
}

/// Addresses of VirtualIPs that have the port, or of all of them.
pub(crate) fn virtual_addresses(objects: &Objects, port: Option<u16>) -> Vec<String> {
    let vips = objects.values().filter(|document| document["kind"] == "VirtualIP");
    let specs = vips.filter_map(|document| base_model::decode::<VirtualIpSpec>(document, "").ok());
    let has_port = |vip: &VirtualIpSpec| match &vip.ports {
        PortsSpec::Any => true,
        PortsSpec::List(ranges) => {
            ranges.iter().any(|range| port.is_none_or(|port| (range.low..=range.high).contains(&port)))
        }
    };
    let with_port = specs.map(|decoded| decoded.value).filter(has_port);
    with_port
        .flat_map(|vip| vip.prefixes().filter(Cidr::is_address).map(|address| address.to_string()).collect::<Vec<_>>())
        .collect()
}

/// Certificates and keys that a server of ours has now, by the secret they are from.
fn certificates(server: Option<&Document>) -> BTreeMap<String, (String, String)> {
    let texts = |name: &str| server.and_then(|server| server.get(name)?.as_object()).into_iter().flatten();
    let keys: BTreeMap<&String, &str> = texts("keys").filter_map(|(name, key)| Some((name, key.as_str()?))).collect();
    texts("certs")
        .filter_map(|(name, chain)| {
            Some((secret_of(name).to_owned(), (chain.as_str()?.to_owned(), (*keys.get(name)?).to_owned())))
        })
        .collect()
}

/// The server's document; none where it is to speak TLS and has no certificate.
fn document(name: &str, spec: &HttpServerSpec, certificates: &BTreeMap<String, (String, String)>) -> Option<Value> {
    let mut spec = spec.clone();
    spec.rules.clear();
    if spec.https {
        for (secret, (chain, key)) in certificates {
            spec.certs.insert(secret.clone(), chain.clone());
            spec.keys.insert(secret.clone(), key.clone());
        }
        if spec.certs.is_empty() && spec.cert_base64.is_empty() {
            return None;
        }
    }
    let mut document = serde_json::to_value(&spec).ok()?;
    let fields = document.as_object_mut()?;
    fields.insert("name".to_owned(), name.into());
    fields.insert("kind".to_owned(), "HTTPServer".into());
    // What it leads to comes beside it.
    fields.insert("rules".to_owned(), Value::Array(Vec::new()));
    Some(document)
}
