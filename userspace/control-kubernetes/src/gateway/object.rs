//! What is read of the objects of the Gateway API (gateway.networking.k8s.io).
//!
//! These types are written and not generated. What kopium makes of the definitions, or the crate `gateway-api` that is made so (0.22, of
//! 1.5.1, behind the release that is served), keeps everything of each object, descriptions of defaults and all, and wants `kube` and
//! `k8s-openapi`, sixteen crates that nothing else here does: ten thousand routes would take several times the memory. What generating
//! would give is held by a test instead: every field that is read is one of the release's definitions and of its type, and those that are
//! not read are listed, each with its reason (`tests/definitions.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;

use control_api::Kept;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::object::{Key, Meta, Texts, list, or_default};

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClass {
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub spec: GatewayClassSpec,
    #[serde(deserialize_with = "or_default")]
    pub status: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayClassSpec {
    pub controller_name: String,
    pub parameters_ref: Option<Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gateway {
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub spec: GatewaySpec,
    #[serde(deserialize_with = "or_default")]
    pub status: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewaySpec {
    pub gateway_class_name: String,
    #[serde(deserialize_with = "list")]
    pub listeners: Vec<Listener>,
    #[serde(deserialize_with = "list")]
    pub addresses: Vec<GatewayAddress>,
    #[serde(deserialize_with = "or_default")]
    pub infrastructure: Infrastructure,
    /// Which ListenerSets may add to it. Absent: none.
    pub allowed_listeners: Option<AllowedListeners>,
    #[serde(deserialize_with = "or_default")]
    pub tls: GatewayTls,
}

/// What a Gateway says of TLS for all of its listeners.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayTls {
    #[serde(deserialize_with = "or_default")]
    pub backend: BackendTls,
    #[serde(deserialize_with = "or_default")]
    pub frontend: FrontendTls,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTls {
    pub client_certificate_ref: Option<Reference>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FrontendTls {
    #[serde(deserialize_with = "or_default")]
    pub default: TlsOfClients,
    #[serde(deserialize_with = "list")]
    pub per_port: Vec<TlsOfPort>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsOfPort {
    pub port: i64,
    #[serde(deserialize_with = "or_default")]
    pub tls: TlsOfClients,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsOfClients {
    pub validation: Option<ClientValidation>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientValidation {
    #[serde(rename = "caCertificateRefs", deserialize_with = "list")]
    pub ca_certificate_refs: Vec<Reference>,
    /// Empty: `AllowValidOnly`.
    #[serde(deserialize_with = "or_default")]
    pub mode: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllowedListeners {
    #[serde(deserialize_with = "or_default")]
    pub namespaces: AllowedNamespaces,
}

/// Listeners that are added to a Gateway.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerSet {
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub spec: ListenerSetSpec,
    #[serde(deserialize_with = "or_default")]
    pub status: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerSetSpec {
    #[serde(deserialize_with = "or_default")]
    pub parent_ref: Reference,
    #[serde(deserialize_with = "list")]
    pub listeners: Vec<Listener>,
}

/// How servers of a service are believed.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTlsPolicy {
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub spec: BackendTlsPolicySpec,
    #[serde(deserialize_with = "or_default")]
    pub status: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTlsPolicySpec {
    #[serde(deserialize_with = "list")]
    pub target_refs: Vec<PolicyTarget>,
    #[serde(deserialize_with = "or_default")]
    pub validation: BackendTlsValidation,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyTarget {
    #[serde(deserialize_with = "or_default")]
    pub group: String,
    pub kind: String,
    pub name: String,
    /// Of a service, the name of a port.
    pub section_name: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTlsValidation {
    #[serde(rename = "caCertificateRefs", deserialize_with = "list")]
    pub ca_certificate_refs: Vec<Reference>,
    #[serde(rename = "wellKnownCACertificates")]
    pub well_known_ca_certificates: Option<String>,
    pub hostname: String,
    #[serde(deserialize_with = "list")]
    pub subject_alt_names: Vec<SubjectAltName>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubjectAltName {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub hostname: String,
    #[serde(deserialize_with = "or_default")]
    pub uri: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Infrastructure {
    pub parameters_ref: Option<Reference>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayAddress {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub value: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Listener {
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub hostname: String,
    pub port: i64,
    pub protocol: String,
    pub tls: Option<ListenerTls>,
    #[serde(deserialize_with = "or_default")]
    pub allowed_routes: AllowedRoutes,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListenerTls {
    #[serde(deserialize_with = "or_default")]
    pub mode: String,
    #[serde(deserialize_with = "list")]
    pub certificate_refs: Vec<Reference>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllowedRoutes {
    #[serde(deserialize_with = "or_default")]
    pub namespaces: AllowedNamespaces,
    #[serde(deserialize_with = "list")]
    pub kinds: Vec<RouteKind>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AllowedNamespaces {
    /// Empty: `Same`.
    #[serde(deserialize_with = "or_default")]
    pub from: String,
    pub selector: Option<Selector>,
}

/// Of labels.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selector {
    #[serde(deserialize_with = "or_default")]
    pub match_labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "list")]
    pub match_expressions: Vec<Requirement>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Requirement {
    pub key: String,
    pub operator: String,
    #[serde(deserialize_with = "list")]
    pub values: Vec<String>,
}

impl Selector {
    pub fn takes(&self, labels: &Texts) -> bool {
        let same = self.match_labels.iter().all(|(name, value)| labels.get(name) == Some(value.as_str()));
        same && self.match_expressions.iter().all(|wanted| {
            let value = labels.get(&wanted.key);
            let listed = value.is_some_and(|value| wanted.values.iter().any(|listed| listed == value));
            match wanted.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteKind {
    /// Absent: the Gateway API's.
    pub group: Option<String>,
    pub kind: String,
}

/// A reference to an object.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reference {
    pub group: Option<String>,
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: String,
}

/// A route of any kind.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Route {
    pub metadata: Meta,
    /// The same in memory for as long as it is the same: its status is written much more often.
    #[serde(deserialize_with = "shared_or_default")]
    pub spec: Arc<RouteSpec>,
    #[serde(deserialize_with = "or_default")]
    pub status: Kept,
}

impl Route {
    /// Services that its rules lead to or send copies to, and whether they are in another namespace.
    pub fn backends(&self) -> impl Iterator<Item = (Key, bool)> {
        let namespace = &self.metadata.namespace;
        let of = move |rule: &RouteRule| -> Vec<(Key, bool)> {
            let mirrors = rule.filters.iter().filter_map(|filter| filter.request_mirror.as_ref());
            let all = rule.backend_refs.iter().chain(mirrors.map(|mirror| &mirror.backend_ref));
            all.map(|backend| {
                let place = backend.namespace.as_ref().unwrap_or(namespace);
                (Key::new(place, &backend.name), place != namespace)
            })
            .collect()
        };
        self.spec.rules.iter().flat_map(of)
    }
}

fn shared_or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<Arc<T>, D::Error> {
    or_default(d).map(Arc::new)
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteSpec {
    #[serde(deserialize_with = "list")]
    pub parent_refs: Vec<ParentRef>,
    #[serde(deserialize_with = "list")]
    pub hostnames: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub rules: Vec<RouteRule>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ParentRef {
    pub group: Option<String>,
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: String,
    pub section_name: Option<String>,
    pub port: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteRule {
    #[serde(deserialize_with = "list")]
    pub matches: Vec<RouteMatch>,
    #[serde(deserialize_with = "list")]
    pub filters: Vec<RouteFilter>,
    #[serde(deserialize_with = "list")]
    pub backend_refs: Vec<BackendRef>,
    pub timeouts: Option<Timeouts>,
    pub retry: Option<Retry>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteMatch {
    pub path: Option<ValueMatch>,
    #[serde(deserialize_with = "list")]
    pub headers: Vec<ValueMatch>,
    #[serde(deserialize_with = "list")]
    pub query_params: Vec<ValueMatch>,
    /// Of an HTTPRoute a word, of a GRPCRoute a service and its method.
    #[serde(deserialize_with = "or_default")]
    pub method: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ValueMatch {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub value: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteFilter {
    #[serde(rename = "type")]
    pub kind: String,
    pub request_header_modifier: Option<HeaderModifier>,
    pub response_header_modifier: Option<HeaderModifier>,
    pub request_redirect: Option<RequestRedirect>,
    pub url_rewrite: Option<UrlRewrite>,
    pub request_mirror: Option<RequestMirror>,
    pub cors: Option<Cors>,
    pub extension_ref: Option<Reference>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderModifier {
    #[serde(deserialize_with = "list")]
    pub set: Vec<NameValue>,
    #[serde(deserialize_with = "list")]
    pub add: Vec<NameValue>,
    #[serde(deserialize_with = "list")]
    pub remove: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NameValue {
    pub name: String,
    pub value: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestRedirect {
    pub scheme: Option<String>,
    pub hostname: Option<String>,
    pub path: Option<PathModifier>,
    pub port: Option<i64>,
    pub status_code: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UrlRewrite {
    pub hostname: Option<String>,
    pub path: Option<PathModifier>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathModifier {
    #[serde(rename = "type")]
    pub kind: String,
    pub replace_full_path: Option<String>,
    pub replace_prefix_match: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestMirror {
    pub backend_ref: BackendRef,
    pub percent: Option<i64>,
    pub fraction: Option<Fraction>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fraction {
    pub numerator: i64,
    pub denominator: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cors {
    #[serde(deserialize_with = "list")]
    pub allow_origins: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    pub allow_credentials: bool,
    #[serde(deserialize_with = "list")]
    pub allow_methods: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub allow_headers: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub expose_headers: Vec<String>,
    pub max_age: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendRef {
    pub group: Option<String>,
    pub kind: Option<String>,
    pub namespace: Option<String>,
    pub name: String,
    pub port: Option<i64>,
    pub weight: Option<i64>,
    #[serde(deserialize_with = "list")]
    pub filters: Vec<RouteFilter>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    pub request: Option<String>,
    pub backend_request: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    #[serde(deserialize_with = "list")]
    pub codes: Vec<i64>,
    pub attempts: Option<i64>,
    pub backoff: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReferenceGrant {
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub spec: ReferenceGrantSpec,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReferenceGrantSpec {
    #[serde(deserialize_with = "list")]
    pub from: Vec<GrantFrom>,
    #[serde(deserialize_with = "list")]
    pub to: Vec<GrantTo>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrantFrom {
    #[serde(deserialize_with = "or_default")]
    pub group: String,
    pub kind: String,
    pub namespace: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GrantTo {
    #[serde(deserialize_with = "or_default")]
    pub group: String,
    pub kind: String,
    pub name: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Namespace {
    pub metadata: Meta,
}

/// Easegress's: a filter or a resilience policy that an HTTPRoute's ExtensionRef names (easegress.megaease.com/v1).
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FilterSpec {
    pub metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    pub spec: FilterSpecSpec,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FilterSpecSpec {
    pub name: String,
    pub kind: String,
    /// YAML.
    #[serde(deserialize_with = "or_default")]
    pub spec: String,
}
