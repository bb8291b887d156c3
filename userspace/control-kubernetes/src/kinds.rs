//! The kinds of objects that are watched, and where the API server has them.

use std::fmt;
use std::sync::Arc;

use crate::gateway::object::{
    BackendTlsPolicy, FilterSpec, Gateway, GatewayClass, ListenerSet, Namespace, ReferenceGrant, Route,
};
use crate::object::{
    ConfigMap, EndpointSlice, Ingress, IngressClass, Meta, Object, SERVICE_NAME, Secret, Service, Texts,
};

/// A kind of object that controllers look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Ingress,
    IngressClass,
    Service,
    EndpointSlice,
    Secret,
    Namespace,
    GatewayClass,
    Gateway,
    HttpRoute,
    GrpcRoute,
    TlsRoute,
    TcpRoute,
    UdpRoute,
    ReferenceGrant,
    ListenerSet,
    BackendTlsPolicy,
    ConfigMap,
    FilterSpec,
}

/// Where the API server has a kind.
struct Row {
    name: &'static str,
    plural: &'static str,
    /// As objects of it say in `apiVersion`, newest first: older clusters have an older one.
    versions: &'static [&'static str],
    namespaced: bool,
    /// A cluster may not know it.
    optional: bool,
}

const fn row(name: &'static str, plural: &'static str, versions: &'static [&'static str]) -> Row {
    Row { name, plural, versions, namespaced: true, optional: false }
}

impl Row {
    const fn of_cluster(mut self) -> Row {
        self.namespaced = false;
        self
    }

    const fn optional(mut self) -> Row {
        self.optional = true;
        self
    }
}

const NETWORKING: &[&str] = &["networking.k8s.io/v1"];
const STABLE: &[&str] = &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
const YOUNGEST: &[&str] = &["gateway.networking.k8s.io/v1"];
const YOUNG: &[&str] = &[
    "gateway.networking.k8s.io/v1",
    "gateway.networking.k8s.io/v1beta1",
    "gateway.networking.k8s.io/v1alpha3",
    "gateway.networking.k8s.io/v1alpha2",
];

impl Kind {
    const fn row(self) -> Row {
        match self {
            Kind::Ingress => row("Ingress", "ingresses", NETWORKING),
            Kind::IngressClass => row("IngressClass", "ingressclasses", NETWORKING).of_cluster(),
            Kind::Service => row("Service", "services", &["v1"]),
            Kind::EndpointSlice => row("EndpointSlice", "endpointslices", &["discovery.k8s.io/v1"]),
            Kind::Secret => row("Secret", "secrets", &["v1"]),
            Kind::Namespace => row("Namespace", "namespaces", &["v1"]).of_cluster(),
            Kind::GatewayClass => row("GatewayClass", "gatewayclasses", STABLE).of_cluster(),
            Kind::Gateway => row("Gateway", "gateways", STABLE),
            Kind::HttpRoute => row("HTTPRoute", "httproutes", STABLE),
            Kind::GrpcRoute => row("GRPCRoute", "grpcroutes", YOUNG).optional(),
            Kind::TlsRoute => row("TLSRoute", "tlsroutes", YOUNG).optional(),
            Kind::TcpRoute => row("TCPRoute", "tcproutes", YOUNG).optional(),
            Kind::UdpRoute => row("UDPRoute", "udproutes", YOUNG).optional(),
            Kind::ReferenceGrant => row("ReferenceGrant", "referencegrants", STABLE).optional(),
            Kind::ListenerSet => row("ListenerSet", "listenersets", YOUNGEST).optional(),
            Kind::BackendTlsPolicy => row("BackendTLSPolicy", "backendtlspolicies", YOUNGEST).optional(),
            Kind::ConfigMap => row("ConfigMap", "configmaps", &["v1"]),
            Kind::FilterSpec => row("FilterSpec", "filterspecs", &["easegress.megaease.com/v1"]).optional(),
        }
    }

    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// As objects of it say in `apiVersion`, newest first.
    pub const fn versions(self) -> &'static [&'static str] {
        self.row().versions
    }

    /// As its path has it, and as rights name it.
    pub const fn plural(self) -> &'static str {
        self.row().plural
    }

    pub const fn is_namespaced(self) -> bool {
        self.row().namespaced
    }

    /// Whether a cluster that does not know it is as well as one that has none of it.
    pub const fn is_optional(self) -> bool {
        self.row().optional
    }

    /// Whether all other kinds mean as much without it: what names one that cannot be read says so itself.
    pub const fn may_be_missed(self) -> bool {
        matches!(self, Kind::ConfigMap)
    }

    /// What of it is asked for, where that is not everything.
    pub const fn selector(self) -> &'static str {
        match self {
            // Releases of Helm and tokens are most of a cluster's secrets, and none of our business.
            Kind::Secret => "fieldSelector=type!%3Dhelm.sh/release.v1,type!%3Dkubernetes.io/service-account-token",
            // Each namespace has a copy of the cluster's own authority.
            Kind::ConfigMap => "fieldSelector=metadata.name!%3Dkube-root-ca.crt",
            _ => "",
        }
    }

    /// The path of all its objects of a version, of one namespace or of the whole cluster.
    pub fn path(self, version: &str, namespace: Option<&str>) -> String {
        let root = if version.contains('/') { "apis" } else { "api" };
        match namespace.filter(|_| self.is_namespaced()) {
            Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{}", self.plural()),
            None => format!("/{root}/{version}/{}", self.plural()),
        }
    }

    /// The path of one object.
    pub fn path_of(self, version: &str, namespace: &str, name: &str) -> String {
        format!("{}/{name}", self.path(version, Some(namespace).filter(|namespace| !namespace.is_empty())))
    }

    /// Reads one object from its JSON; what is not used of it is passed over.
    pub fn read(self, text: &str) -> Result<Object, String> {
        macro_rules! read {
            ($read:ty) => {{
                let mut object: $read = serde_json::from_str(text).map_err(|error| error.to_string())?;
                self.strip(&mut object.metadata);
                Arc::new(object)
            }};
        }
        Ok(match self {
            Kind::Ingress => Object::Ingress(read!(Ingress)),
            Kind::IngressClass => Object::IngressClass(read!(IngressClass)),
            Kind::Service => Object::Service(read!(Service)),
            Kind::EndpointSlice => Object::EndpointSlice(read!(EndpointSlice)),
            Kind::Secret => Object::Secret(read!(Secret)),
            Kind::Namespace => Object::Namespace(read!(Namespace)),
            Kind::GatewayClass => Object::GatewayClass(read!(GatewayClass)),
            Kind::Gateway => Object::Gateway(read!(Gateway)),
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute | Kind::UdpRoute => {
                Object::Route(self, read!(Route))
            }
            Kind::ReferenceGrant => Object::ReferenceGrant(read!(ReferenceGrant)),
            Kind::ListenerSet => Object::ListenerSet(read!(ListenerSet)),
            Kind::BackendTlsPolicy => Object::BackendTlsPolicy(read!(BackendTlsPolicy)),
            Kind::ConfigMap => Object::ConfigMap(read!(ConfigMap)),
            Kind::FilterSpec => Object::FilterSpec(read!(FilterSpec)),
        })
    }

    /// Takes out what objects of this kind have and nobody here looks at: of ten thousand it is most of their memory.
    fn strip(self, meta: &mut Meta) {
        if !matches!(self, Kind::Ingress | Kind::IngressClass) {
            meta.annotations = Texts::default();
        }
        match self {
            Kind::Namespace => {}
            Kind::EndpointSlice => meta.labels.retain(|name| name == SERVICE_NAME),
            _ => meta.labels = Texts::default(),
        }
        if matches!(self, Kind::Service | Kind::EndpointSlice | Kind::Secret) {
            // Which of two is older is asked of others.
            meta.creation_timestamp = String::new();
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_nobody_looks_at_is_not_kept() {
        let applied = "kubectl.kubernetes.io/last-applied-configuration";
        let labels = json!({"a": "b", SERVICE_NAME: "s"});
        let metadata = json!({"name": "n", "labels": labels, "annotations": {applied: "{}", "c": "d"}});
        for (kind, kept) in [
            (Kind::Ingress, (0, 1)),
            (Kind::IngressClass, (0, 1)),
            (Kind::Service, (0, 0)),
            (Kind::Namespace, (2, 0)),
            (Kind::EndpointSlice, (1, 0)),
            (Kind::HttpRoute, (0, 0)),
        ] {
            let object = kind.read(&json!({"metadata": metadata}).to_string()).unwrap();
            let meta = object.meta();
            assert_eq!((meta.labels.len(), meta.annotations.len()), kept, "{kind} {meta:?}");
        }
        assert!(Kind::Secret.read(r#"{"metadata": null}"#).is_err(), "what is none is told as before");
    }

    #[test]
    fn paths_are_kubernetess() {
        let newest = |kind: Kind| kind.versions()[0];
        let path = |kind: Kind, namespace| kind.path(newest(kind), namespace);
        assert_eq!(path(Kind::Ingress, None), "/apis/networking.k8s.io/v1/ingresses");
        assert_eq!(path(Kind::Service, Some("shop")), "/api/v1/namespaces/shop/services");
        assert_eq!(path(Kind::IngressClass, Some("shop")), "/apis/networking.k8s.io/v1/ingressclasses");
        let one = Kind::TcpRoute.path_of("gateway.networking.k8s.io/v1alpha2", "a", "b");
        assert_eq!(one, "/apis/gateway.networking.k8s.io/v1alpha2/namespaces/a/tcproutes/b");
    }
}
