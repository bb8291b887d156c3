//! The kinds of objects that are watched, and where the API server has them.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

use crate::object::{Ingress, IngressClass, Object, Secret, Service};

/// A kind of object that controllers look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Ingress,
    IngressClass,
    Service,
    EndpointSlice,
    Secret,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Ingress => "Ingress",
            Kind::IngressClass => "IngressClass",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::Secret => "Secret",
        }
    }

    /// As objects of it say in `apiVersion`.
    pub const fn api_version(self) -> &'static str {
        match self {
            Kind::Ingress | Kind::IngressClass => "networking.k8s.io/v1",
            Kind::EndpointSlice => "discovery.k8s.io/v1",
            Kind::Service | Kind::Secret => "v1",
        }
    }

    /// As its path has it, and as rights name it.
    pub const fn plural(self) -> &'static str {
        match self {
            Kind::Ingress => "ingresses",
            Kind::IngressClass => "ingressclasses",
            Kind::Service => "services",
            Kind::EndpointSlice => "endpointslices",
            Kind::Secret => "secrets",
        }
    }

    pub const fn is_namespaced(self) -> bool {
        !matches!(self, Kind::IngressClass)
    }

    /// What of it is asked for, where that is not everything.
    pub const fn selector(self) -> &'static str {
        match self {
            // Releases of Helm and tokens are most of a cluster's secrets, and none of our business.
            Kind::Secret => "fieldSelector=type!%3Dhelm.sh/release.v1,type!%3Dkubernetes.io/service-account-token",
            _ => "",
        }
    }

    /// The path of all its objects, of one namespace or of the whole cluster.
    pub fn path(self, namespace: Option<&str>) -> String {
        let version = self.api_version();
        let root = if version.contains('/') { "apis" } else { "api" };
        match namespace.filter(|_| self.is_namespaced()) {
            Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{}", self.plural()),
            None => format!("/{root}/{version}/{}", self.plural()),
        }
    }

    /// The path of one object.
    pub fn path_of(self, namespace: &str, name: &str) -> String {
        format!("{}/{name}", self.path(Some(namespace).filter(|namespace| !namespace.is_empty())))
    }

    /// Reads one object; what is not known of it is passed over.
    pub fn read(self, value: Value) -> Result<Object, String> {
        fn of<T: DeserializeOwned>(value: Value) -> Result<Arc<T>, String> {
            serde_json::from_value(value).map(Arc::new).map_err(|error| error.to_string())
        }
        Ok(match self {
            Kind::Ingress => Object::Ingress(of::<Ingress>(value)?),
            Kind::IngressClass => Object::IngressClass(of::<IngressClass>(value)?),
            Kind::Service => Object::Service(of::<Service>(value)?),
            Kind::EndpointSlice => Object::EndpointSlice(of(value)?),
            Kind::Secret => Object::Secret(of::<Secret>(value)?),
        })
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

    #[test]
    fn paths_are_kubernetess() {
        assert_eq!(Kind::Ingress.path(None), "/apis/networking.k8s.io/v1/ingresses");
        assert_eq!(Kind::Service.path(Some("shop")), "/api/v1/namespaces/shop/services");
        assert_eq!(Kind::IngressClass.path(Some("shop")), "/apis/networking.k8s.io/v1/ingressclasses");
        assert_eq!(Kind::Ingress.path_of("a", "b"), "/apis/networking.k8s.io/v1/namespaces/a/ingresses/b");
    }
}
