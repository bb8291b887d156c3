//! The controller of a GatewayController: servers and pipelines of the Gateway API, and the status of each of its objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use base_model::GatewayControllerSpec;
use control_kubernetes::gateway::{self, Settings};
use control_kubernetes::ingress::{HostPlace, Pipelines, Rules};
use control_kubernetes::reflect::Place;
use control_kubernetes::{Kind, Store};
use serde_json::Value;

use crate::ingress::virtual_addresses;
use crate::kubernetes::{Maker, Outcome, Seen};

/// Takes the rules out of a server's document: they are written one by one. Nothing where two are for the same hosts.
fn rules_apart(document: &mut Value) -> Option<Rules> {
    let rules = document.get("rules").filter(|_| document["kind"] == "HTTPServer")?.as_array()?;
    let place = |rule: &Value| HostPlace::of(rule["host"].as_str().unwrap_or_default());
    let apart: Rules = rules.iter().map(|rule| (place(rule), Arc::new(rule.clone()))).collect();
    if apart.len() != rules.len() || rules.iter().any(|rule| rule.get("hostRegexp").is_some()) {
        return None;
    }
    document["rules"] = Value::Array(Vec::new());
    Some(apart)
}

/// Makes what a GatewayController asks for.
pub struct GatewayMaker {
    pub name: String,
    pub spec: GatewayControllerSpec,
}

impl Maker for GatewayMaker {
    fn kind(&self) -> &'static str {
        "GatewayController"
    }

    fn api(&self) -> (&str, &str) {
        (&self.spec.kube_config, &self.spec.master_url)
    }

    fn places(&self) -> Vec<Place> {
        let kinds = [
            Kind::GatewayClass,
            Kind::Namespace,
            Kind::ReferenceGrant,
            Kind::ListenerSet,
            Kind::BackendTlsPolicy,
            Kind::ConfigMap,
            Kind::FilterSpec,
            Kind::Service,
            Kind::EndpointSlice,
            Kind::Secret,
            Kind::Gateway,
            Kind::HttpRoute,
            Kind::GrpcRoute,
            Kind::TlsRoute,
            Kind::TcpRoute,
            Kind::UdpRoute,
        ];
        kinds.into_iter().flat_map(|kind| Place::all(kind, &self.spec.namespaces)).collect()
    }

    fn names_servers(&self, store: &Store) -> bool {
        // TCPProxies and UDPProxies have servers, and no services.
        [Kind::TlsRoute, Kind::TcpRoute, Kind::UdpRoute].iter().any(|kind| store.count(*kind) > 0)
    }

    fn make(&mut self, seen: Seen<'_>) -> Outcome {
        let published = &self.spec.publish_addresses;
        let shared = if published.is_empty() { virtual_addresses(seen.objects, None) } else { published.clone() };
        let settings = Settings { name: &self.name, addresses: &self.spec.addresses, shared: &shared, now: seen.now };
        let plan = gateway::plan(seen.store, settings, seen.check);
        let mut rules = BTreeMap::new();
        let document = |(name, mut document): (String, Value)| {
            if let Some(apart) = rules_apart(&mut document) {
                rules.insert(name.clone(), apart);
            }
            (name, Arc::new(document))
        };
        let documents = plan.documents.into_iter().map(document).collect();
        Outcome {
            documents,
            pipelines: Pipelines::default(),
            rules,
            services: plan.services.into_iter().collect(),
            reports: plan.reports.into_iter().collect(),
            statuses: plan.statuses,
            kept: plan.refused,
            remarks: Vec::new(),
        }
    }
}
