//! What is read of the API server's objects: no more than is used, so that ten thousand of them cost little.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::gateway::object::{
    BackendTlsPolicy, FilterSpec, Gateway, GatewayClass, ListenerSet, Namespace, ReferenceGrant, Route,
};
use crate::kinds::Kind;

/// Which object of a kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Empty for objects that have none.
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// An object of any kind that is watched.
#[derive(Debug, Clone)]
pub enum Object {
    Ingress(Arc<Ingress>),
    IngressClass(Arc<IngressClass>),
    Service(Arc<Service>),
    EndpointSlice(Arc<EndpointSlice>),
    Secret(Arc<Secret>),
    Namespace(Arc<Namespace>),
    GatewayClass(Arc<GatewayClass>),
    Gateway(Arc<Gateway>),
    /// Of one of the kinds of routes.
    Route(Kind, Arc<Route>),
    ReferenceGrant(Arc<ReferenceGrant>),
    ListenerSet(Arc<ListenerSet>),
    BackendTlsPolicy(Arc<BackendTlsPolicy>),
    ConfigMap(Arc<ConfigMap>),
    FilterSpec(Arc<FilterSpec>),
}

impl Object {
    pub fn kind(&self) -> Kind {
        match self {
            Object::Ingress(_) => Kind::Ingress,
            Object::IngressClass(_) => Kind::IngressClass,
            Object::Service(_) => Kind::Service,
            Object::EndpointSlice(_) => Kind::EndpointSlice,
            Object::Secret(_) => Kind::Secret,
            Object::Namespace(_) => Kind::Namespace,
            Object::GatewayClass(_) => Kind::GatewayClass,
            Object::Gateway(_) => Kind::Gateway,
            Object::Route(kind, _) => *kind,
            Object::ReferenceGrant(_) => Kind::ReferenceGrant,
            Object::ListenerSet(_) => Kind::ListenerSet,
            Object::BackendTlsPolicy(_) => Kind::BackendTlsPolicy,
            Object::ConfigMap(_) => Kind::ConfigMap,
            Object::FilterSpec(_) => Kind::FilterSpec,
        }
    }

    pub fn meta(&self) -> &Meta {
        match self {
            Object::Ingress(object) => &object.metadata,
            Object::IngressClass(object) => &object.metadata,
            Object::Service(object) => &object.metadata,
            Object::EndpointSlice(object) => &object.metadata,
            Object::Secret(object) => &object.metadata,
            Object::Namespace(object) => &object.metadata,
            Object::GatewayClass(object) => &object.metadata,
            Object::Gateway(object) => &object.metadata,
            Object::Route(_, object) => &object.metadata,
            Object::ReferenceGrant(object) => &object.metadata,
            Object::ListenerSet(object) => &object.metadata,
            Object::BackendTlsPolicy(object) => &object.metadata,
            Object::ConfigMap(object) => &object.metadata,
            Object::FilterSpec(object) => &object.metadata,
        }
    }

    pub fn key(&self) -> Key {
        self.meta().key()
    }

    /// Has in common with how it was what is as it was, where that is looked at for being the very same.
    pub(crate) fn share(&mut self, was: &Object) {
        if let (Object::Route(_, now), Object::Route(_, was)) = (self, was)
            && now.spec == was.spec
        {
            Arc::make_mut(now).spec = was.spec.clone();
        }
    }

    /// Whether it differs from how it was by no more than its status, where it has one that controllers write.
    pub fn differs_in_status(&self, was: &Object) -> bool {
        let same = Meta::is_as;
        match (self, was) {
            (Object::Ingress(now), Object::Ingress(was)) => now.differs_in_status(was),
            (Object::GatewayClass(now), Object::GatewayClass(was)) => {
                same(&now.metadata, &was.metadata) && now.spec == was.spec
            }
            (Object::Gateway(now), Object::Gateway(was)) => same(&now.metadata, &was.metadata) && now.spec == was.spec,
            (Object::Route(_, now), Object::Route(_, was)) => {
                same(&now.metadata, &was.metadata) && now.spec == was.spec
            }
            (Object::ListenerSet(now), Object::ListenerSet(was)) => {
                same(&now.metadata, &was.metadata) && now.spec == was.spec
            }
            (Object::BackendTlsPolicy(now), Object::BackendTlsPolicy(was)) => {
                same(&now.metadata, &was.metadata) && now.spec == was.spec
            }
            _ => false,
        }
    }

    /// Whether its status has these fields as they are here.
    pub fn has_status(&self, wanted: &Value) -> bool {
        let status = match self {
            Object::Ingress(ingress) => {
                let place = |place: &LoadBalancerPlace| match place.ip.is_empty() {
                    true => json!({"hostname": place.hostname}),
                    false => json!({"ip": place.ip}),
                };
                let places: Vec<Value> = ingress.status.load_balancer.ingress.iter().map(place).collect();
                return *wanted == json!({"loadBalancer": {"ingress": places}});
            }
            Object::GatewayClass(object) => &object.status,
            Object::Gateway(object) => &object.status,
            Object::Route(_, object) => &object.status.read(),
            Object::ListenerSet(object) => &object.status,
            Object::BackendTlsPolicy(object) => &object.status,
            _ => return false,
        };
        wanted.as_object().is_some_and(|fields| fields.iter().all(|(name, value)| status.get(name) == Some(value)))
    }
}

/// What every object has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
    pub uid: String,
    pub resource_version: String,
    pub generation: i64,
    /// RFC 3339, in UTC and whole seconds: compared as text.
    #[serde(deserialize_with = "or_default")]
    pub creation_timestamp: String,
    #[serde(deserialize_with = "or_default")]
    pub deletion_timestamp: String,
    #[serde(deserialize_with = "or_default")]
    pub labels: Texts,
    #[serde(deserialize_with = "but_what_was_applied")]
    pub annotations: Texts,
}

/// kubectl keeps the whole object there once more, as it was applied last.
fn but_what_was_applied<'de, D: Deserializer<'de>>(d: D) -> Result<Texts, D::Error> {
    let mut annotations: Texts = or_default(d)?;
    annotations.retain(|name| name != "kubectl.kubernetes.io/last-applied-configuration");
    Ok(annotations)
}

/// Texts by their names, in the order of those. Most objects have none or one, for which a map would take half a kilobyte.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts(Box<[(String, String)]>);

impl Texts {
    pub fn get(&self, name: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(of, _)| of.as_str().cmp(name)).ok()?;
        Some(&self.0[at].1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter().map(|(name, text)| (name, text))
    }

    /// Keeps those of these names.
    pub fn retain(&mut self, keeps: impl Fn(&str) -> bool) {
        if !self.0.iter().all(|(name, _)| keeps(name)) {
            self.0 = std::mem::take(&mut self.0).into_iter().filter(|(name, _)| keeps(name)).collect();
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Texts, D::Error> {
        Ok(Texts(BTreeMap::deserialize(d)?.into_iter().collect()))
    }
}

impl Meta {
    /// Whether it is the same but for what grows with every write.
    pub fn is_as(&self, was: &Meta) -> bool {
        let Meta { name, namespace, uid, resource_version: _, generation, .. } = self;
        let Meta { creation_timestamp, deletion_timestamp, labels, annotations, .. } = self;
        let of = (name, namespace, uid, generation);
        let rest = (creation_timestamp, deletion_timestamp, labels, annotations);
        of == (&was.name, &was.namespace, &was.uid, &was.generation)
            && rest == (&was.creation_timestamp, &was.deletion_timestamp, &was.labels, &was.annotations)
    }

    pub fn key(&self) -> Key {
        Key::new(&self.namespace, &self.name)
    }

    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name)
    }
}

/// `null` stands for nothing in many objects.
pub(crate) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// The same of a list, in no more room than it takes: most have one entry, and would have the room for four.
pub(crate) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    let mut list: Vec<T> = or_default(d)?;
    list.shrink_to_fit();
    Ok(list)
}

impl Ingress {
    /// Whether it differs from how it was by no more than its status.
    pub fn differs_in_status(&self, was: &Ingress) -> bool {
        self.metadata.is_as(&was.metadata) && self.spec == was.spec
    }
}

/// networking.k8s.io/v1.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ingress {
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub spec: IngressSpec,
    #[serde(deserialize_with = "or_default")]
    pub status: IngressStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressSpec {
    pub ingress_class_name: Option<String>,
    pub default_backend: Option<IngressBackend>,
    #[serde(deserialize_with = "list")]
    pub tls: Vec<IngressTls>,
    #[serde(deserialize_with = "list")]
    pub rules: Vec<IngressRule>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressTls {
    #[serde(deserialize_with = "list")]
    pub hosts: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub secret_name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressRule {
    #[serde(deserialize_with = "or_default")]
    pub host: String,
    pub http: Option<IngressHttp>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressHttp {
    #[serde(deserialize_with = "list")]
    pub paths: Vec<IngressPath>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressPath {
    #[serde(deserialize_with = "or_default")]
    pub path: String,
    #[serde(deserialize_with = "or_default")]
    pub path_type: String,
    #[serde(deserialize_with = "or_default")]
    pub backend: IngressBackend,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressBackend {
    pub service: Option<ServiceBackend>,
    pub resource: Option<TypedReference>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TypedReference {
    #[serde(deserialize_with = "or_default")]
    pub api_group: String,
    pub kind: String,
    pub name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceBackend {
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub port: BackendPort,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendPort {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub number: i64,
}

impl BackendPort {
    /// As it is written: a name or a number.
    pub fn text(&self) -> String {
        if self.name.is_empty() { self.number.to_string() } else { self.name.clone() }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressStatus {
    #[serde(deserialize_with = "or_default")]
    pub load_balancer: LoadBalancer,
}

/// Where something is reached, as Services and Ingresses say it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancer {
    #[serde(deserialize_with = "list")]
    pub ingress: Vec<LoadBalancerPlace>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerPlace {
    #[serde(deserialize_with = "or_default")]
    pub ip: String,
    #[serde(deserialize_with = "or_default")]
    pub hostname: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressClass {
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub spec: IngressClassSpec,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IngressClassSpec {
    #[serde(deserialize_with = "or_default")]
    pub controller: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub spec: ServiceSpec,
    #[serde(deserialize_with = "or_default")]
    pub status: IngressStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    #[serde(rename = "clusterIP", deserialize_with = "or_default")]
    pub cluster_ip: String,
    #[serde(deserialize_with = "or_default")]
    pub external_name: String,
    #[serde(rename = "externalIPs", deserialize_with = "list")]
    pub external_ips: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub ip_families: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub ports: Vec<ServicePort>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    pub port: i64,
    #[serde(deserialize_with = "or_default")]
    pub protocol: String,
    #[serde(deserialize_with = "or_default")]
    pub app_protocol: String,
}

/// discovery.k8s.io/v1.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    pub metadata: Meta,
    pub address_type: String,
    #[serde(deserialize_with = "list")]
    pub endpoints: Vec<Endpoint>,
    #[serde(deserialize_with = "list")]
    pub ports: Vec<EndpointPort>,
}

/// A label of slices.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl EndpointSlice {
    /// The service it is of.
    pub fn service(&self) -> Option<&str> {
        self.metadata.labels.get(SERVICE_NAME)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    #[serde(deserialize_with = "list")]
    pub addresses: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub conditions: EndpointConditions,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointConditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    pub port: Option<i64>,
    #[serde(deserialize_with = "or_default")]
    pub protocol: String,
}

/// Of a secret, what is used; the rest is not kept. Shown to nobody.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Secret {
    pub metadata: Meta,
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub data: SecretData,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "secret {}", self.metadata.key())
    }
}

/// In base64, as it came.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SecretData {
    #[serde(rename = "tls.crt", deserialize_with = "or_default")]
    pub certificate: String,
    #[serde(rename = "tls.key", deserialize_with = "or_default")]
    pub key: String,
    #[serde(rename = "ca.crt", deserialize_with = "or_default")]
    pub authorities: String,
    /// Lines of a password file, as ingress-nginx names it.
    #[serde(deserialize_with = "or_default")]
    pub auth: String,
}

/// Of a ConfigMap, what is used; the rest is not kept.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigMap {
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub data: ConfigMapData,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ConfigMapData {
    /// PEM.
    #[serde(rename = "ca.crt", deserialize_with = "or_default")]
    pub authorities: String,
}

/// The text of a part of a secret.
pub fn decoded(base64: &str) -> Option<String> {
    String::from_utf8(STANDARD.decode(base64.trim()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_was_written_is_told_from_another_change() {
        let ingress = |version: &str, class: &str, status: Value| {
            let metadata = json!({"name": "a", "namespace": "n", "uid": "u", "resourceVersion": version});
            let spec = json!({"ingressClassName": class});
            Kind::Ingress.read(&json!({"metadata": metadata, "spec": spec, "status": status}).to_string()).unwrap()
        };
        let status = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.test"}]}});
        let (before, after) = (ingress("1", "c", json!({})), ingress("2", "c", status.clone()));
        assert!(after.differs_in_status(&before) && after.has_status(&status) && !before.has_status(&status));
        assert!(!ingress("2", "d", status.clone()).differs_in_status(&before), "its class is another one");
        let route = |version: &str, host: &str, status: Value| {
            let metadata = json!({"name": "a", "namespace": "n", "resourceVersion": version});
            Kind::HttpRoute
                .read(&json!({"metadata": metadata, "spec": {"hostnames": [host]}, "status": status}).to_string())
                .unwrap()
        };
        let told = json!({"parents": [{"controllerName": "x"}]});
        let (before, after) = (route("1", "a.test", json!({})), route("2", "a.test", told.clone()));
        assert!(after.differs_in_status(&before) && after.has_status(&told) && !before.has_status(&told));
        assert!(!route("2", "b.test", told).differs_in_status(&before));
    }

    #[test]
    fn what_is_null_or_unknown_does_not_matter() {
        let ingress = Kind::Ingress.read(
            &json!({
                "kind": "Ingress",
                "metadata": {"name": "a", "namespace": "n", "annotations": null, "managedFields": [{}]},
                "spec": {"rules": [{"http": {"paths": [{"path": null, "pathType": "Prefix",
                    "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}], "tls": null},
                "status": {"loadBalancer": {}}
            })
            .to_string(),
        );
        let Ok(Object::Ingress(ingress)) = ingress else { panic!("{ingress:?}") };
        let http = ingress.spec.rules[0].http.as_ref().unwrap();
        assert_eq!(http.paths[0].backend.service.as_ref().unwrap().port.text(), "80");
        assert_eq!(ingress.metadata.key().to_string(), "n/a");
        assert!(Kind::Ingress.read(&json!({"spec": {"rules": 7}}).to_string()).is_err());
        let slice = Kind::EndpointSlice.read(
            &json!({"addressType": "IPv4", "endpoints": null, "ports": null, "metadata": {"name": "x"}}).to_string(),
        );
        assert!(slice.is_ok());
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = Kind::Secret.read(
            &json!({"metadata": {"name": "s", "namespace": "n"}, "type": "kubernetes.io/tls",
            "data": {"tls.crt": "QQ==", "tls.key": "c2VjcmV0", "other": "eA=="}})
            .to_string(),
        );
        let Ok(Object::Secret(secret)) = secret else { panic!() };
        assert_eq!(format!("{secret:?}"), "secret n/s");
        assert_eq!(decoded(&secret.data.key).as_deref(), Some("secret"));
        assert_eq!(decoded("!"), None);
    }
}
