//! The controller of a GatewayController: servers and pipelines of the Gateway API, and the status of each of its objects.

use base_model::GatewayControllerSpec;
use control_kubernetes::gateway::{self, Known, Settings};
use control_kubernetes::reflect::Place;
use control_kubernetes::{Kind, Store};

use crate::ingress::virtual_addresses;
use crate::kubernetes::{Maker, Outcome, Seen};

/// Makes what a GatewayController asks for.
pub struct GatewayMaker {
    pub name: String,
    pub spec: GatewayControllerSpec,
    /// What was made of each route.
    pub known: Known,
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
        let plan = gateway::plan(seen.store, settings, seen.check, &mut self.known);
        Outcome {
            documents: plan.documents,
            pipelines: plan.pipelines,
            rules: plan.rules,
            services: plan.services,
            reports: plan.reports,
            statuses: plan.statuses,
            kept: plan.refused,
            remarks: Vec::new(),
        }
    }
}
