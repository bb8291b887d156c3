//! Service registries: where pools with a `serviceName` have their servers from.
//!
//! ```yaml
//! kind: EtcdServiceRegistry
//! name: etcd
//! endpoints: [http://127.0.0.1:2379]
//! prefix: /services/
//! ```
//! One machine of the cluster, its leader, asks the registry and tells the others, which serve with the last known servers however
//! long the registry, the leader or both are gone.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::decode::same_name;
use crate::document::Document;
use crate::duration::GoDuration;
use crate::problem::{Findings, Problem, at, nth, one_of};

/// The spec of any kind of registry.
#[derive(Debug, Clone, PartialEq)]
pub enum ServiceRegistrySpec {
    Etcd(EtcdServiceRegistrySpec),
    Consul(ConsulServiceRegistrySpec),
    Eureka(EurekaServiceRegistrySpec),
    Nacos(NacosServiceRegistrySpec),
    Zookeeper(ZookeeperServiceRegistrySpec),
    Dns(DnsServiceRegistrySpec),
    Kubernetes(KubernetesServiceRegistrySpec),
}

/// Servers from etcd: a key `PREFIX SERVICE/INSTANCE` for each, whose value is a JSON document
/// `{address, port, scheme, tags, weight}`. The prefix is watched, so that a change is in force at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["endpoints"]))]
pub struct EtcdServiceRegistrySpec {
    /// URLs of the members of etcd, or `host:port` of ones without TLS. They are asked in turn when one does not answer.
    #[schemars(extend("uniqueItems" = true))]
    pub endpoints: Vec<String>,
    /// What keys begin with. Default `/services/`.
    pub prefix: String,
    /// How often etcd is asked whether it is well while nothing changes. Default 10s.
    pub cache_timeout: GoDuration,
    /// How long a service must be empty before that is believed; its last servers are used until then. 0s believes it at once. Default
    /// 30s.
    pub empty_after: GoDuration,
}

impl Default for EtcdServiceRegistrySpec {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            prefix: "/services/".to_owned(),
            cache_timeout: GoDuration::from_secs(10),
            empty_after: EMPTY_AFTER,
        }
    }
}

/// Servers from Consul: instances of a service whose health checks pass. Each service that a pool names is watched by a blocking query,
/// so that a change is in force at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsulServiceRegistrySpec {
    /// Host and port of an agent's HTTP API. Default `127.0.0.1:8500`.
    pub address: String,
    /// `http` (default) or `https`, whose certificate must be by an authority of the system.
    pub scheme: String,
    /// The datacenter that is asked for. Default: the agent's own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub datacenter: String,
    /// ACL token, which needs `service:read` and `node:read`. Default: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub token: String,
    /// Namespace of Consul Enterprise. Default: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Longest time a blocking query waits for a change before it is asked anew. Default 10s.
    pub sync_interval: GoDuration,
    /// Only instances that have all of these tags. Default: all instances.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service_tags: Vec<String>,
    /// How long a service must be empty before that is believed; its last servers are used until then. 0s believes it at once. Default
    /// 30s.
    pub empty_after: GoDuration,
}

impl Default for ConsulServiceRegistrySpec {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:8500".to_owned(),
            scheme: "http".to_owned(),
            datacenter: String::new(),
            token: String::new(),
            namespace: String::new(),
            sync_interval: GoDuration::from_secs(10),
            service_tags: Vec::new(),
            empty_after: EMPTY_AFTER,
        }
    }
}

/// Servers from Eureka: instances that are up, one server for each of their ports that is on. Names are those of applications, without
/// regard to case. Eureka is asked for what has changed, and for everything where that does not lead to the hash code it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct EurekaServiceRegistrySpec {
    /// URLs of Eureka with its path. They are asked in turn when one does not answer. Default `http://127.0.0.1:8761/eureka`.
    #[schemars(extend("uniqueItems" = true))]
    pub endpoints: Vec<String>,
    /// How often Eureka is asked: it tells nothing by itself. Default 10s.
    pub sync_interval: GoDuration,
    /// How long a service must be empty before that is believed; its last servers are used until then. 0s believes it at once. Default
    /// 30s.
    pub empty_after: GoDuration,
}

impl Default for EurekaServiceRegistrySpec {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:8761/eureka".to_owned()],
            sync_interval: GoDuration::from_secs(10),
            empty_after: EMPTY_AFTER,
        }
    }
}

/// Servers from Nacos: instances that are healthy and enabled, by the open HTTP API of its versions 1 and 2. A service of another group
/// than `DEFAULT_GROUP` is named `GROUP@@SERVICE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["servers"]))]
pub struct NacosServiceRegistrySpec {
    /// Servers of Nacos. They are asked in turn when one does not answer.
    pub servers: Vec<NacosServerSpec>,
    /// How often Nacos is asked: over HTTP it tells nothing by itself. Default 10s.
    pub sync_interval: GoDuration,
    /// Id of the namespace. Default: the public one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// User, where Nacos asks for a login. Default: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// The user's password.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(extend("x-secret" = true))]
    pub password: String,
    /// How long a service must be empty before that is believed; its last servers are used until then. 0s believes it at once. Default
    /// 30s.
    pub empty_after: GoDuration,
}

impl Default for NacosServiceRegistrySpec {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            sync_interval: GoDuration::from_secs(10),
            namespace: String::new(),
            username: String::new(),
            password: String::new(),
            empty_after: EMPTY_AFTER,
        }
    }
}

/// Where a server of Nacos is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["ipAddr", "port"]))]
pub struct NacosServerSpec {
    /// `http` (default) or `https`, whose certificate must be by an authority of the system.
    pub scheme: String,
    /// Path of its API. Default `/nacos`.
    pub context_path: String,
    /// Address or name.
    pub ip_addr: String,
    /// Port.
    pub port: u16,
}

impl Default for NacosServerSpec {
    fn default() -> Self {
        Self { scheme: "http".to_owned(), context_path: "/nacos".to_owned(), ip_addr: String::new(), port: 0 }
    }
}

/// Servers from ZooKeeper: a node `PREFIX/SERVICE/INSTANCE` for each, whose value is a JSON document
/// `{address, port, scheme, tags, weight}`; or a node `PREFIX/NAME` with a `serviceName` in it. Nodes are watched, so that a change is
/// in force at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ZookeeperServiceRegistrySpec {
    /// How long connecting and each answer may take; also the time-out of the session. Default 6s.
    pub conntimeout: GoDuration,
    /// Host and port of servers. They are asked in turn when one does not answer. Default `127.0.0.1:2181`.
    #[schemars(extend("uniqueItems" = true))]
    pub zkservices: Vec<String>,
    /// The node that everything lies below; it must begin with `/`. Default `/`.
    pub prefix: String,
    /// How often it is known that ZooKeeper is well while nothing changes. Default 10s.
    pub sync_interval: GoDuration,
    /// How long a service must be empty before that is believed; its last servers are used until then. 0s believes it at once. Default
    /// 30s.
    pub empty_after: GoDuration,
}

impl Default for ZookeeperServiceRegistrySpec {
    fn default() -> Self {
        Self {
            conntimeout: GoDuration::from_secs(6),
            zkservices: vec!["127.0.0.1:2181".to_owned()],
            prefix: "/".to_owned(),
            sync_interval: GoDuration::from_secs(10),
            empty_after: EMPTY_AFTER,
        }
    }
}

/// Servers from DNS: `serviceName` is a name, looked up again when its time to live is over. One that begins with `_`, such as
/// `_http._tcp.orders.test`, is asked for SRV records, whose weights count with weightedRandom; any other for its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DnsServiceRegistrySpec {
    /// Addresses of DNS servers, with a port where it is not 53. Default: those of the leader's `/etc/resolv.conf`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Port of servers whose addresses are looked up, where the service is not named `name:port`. Default 80.
    pub port: u16,
    /// What is spoken with servers: `http` (default) or `https`.
    pub scheme: String,
    /// Longest time between two look-ups, however long the time to live is. Default 30s.
    pub sync_interval: GoDuration,
    /// How long a name must have nothing before that is believed; its last servers are used until then. 0s believes it at once. Default
    /// 30s.
    pub empty_after: GoDuration,
}

impl Default for DnsServiceRegistrySpec {
    fn default() -> Self {
        Self {
            nameservers: Vec::new(),
            port: 80,
            scheme: "http".to_owned(),
            sync_interval: GoDuration::from_secs(30),
            empty_after: EMPTY_AFTER,
        }
    }
}

/// Servers from Kubernetes: `serviceName` is `namespace/service:port`, of pods that speak TLS `https://namespace/service:port`, whose
/// EndpointSlices are watched, so that a change is in force at once. A GatewayController or IngressController is such a registry as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KubernetesServiceRegistrySpec {
    /// Path of a kubeconfig, on every member that may lead. Default: what every pod has to ask its cluster with.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kube_config: String,
    /// URL of the API server; goes before that of the kubeconfig. Default: as that says.
    #[serde(rename = "masterURL", skip_serializing_if = "String::is_empty")]
    pub master_url: String,
    /// Namespaces whose services may be asked for. Default: all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// How long a service must be empty before that is believed; its last servers are used until then. 0s believes it at once. Default
    /// 30s.
    pub empty_after: GoDuration,
}

impl Default for KubernetesServiceRegistrySpec {
    fn default() -> Self {
        Self { kube_config: String::new(), master_url: String::new(), namespaces: Vec::new(), empty_after: EMPTY_AFTER }
    }
}

/// Three times what registries are asked in by default: a registry that has just lost its data has been restored or refilled by then,
/// and a service without servers answers nobody either way.
const EMPTY_AFTER: GoDuration = GoDuration::from_secs(30);

impl ServiceRegistrySpec {
    /// The kinds of registries.
    pub const KINDS: &[&str] = &[
        "ConsulServiceRegistry",
        "EtcdServiceRegistry",
        "EurekaServiceRegistry",
        "NacosServiceRegistry",
        "ZookeeperServiceRegistry",
        "DNSServiceRegistry",
        "KubernetesServiceRegistry",
    ];

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Etcd(_) => "EtcdServiceRegistry",
            Self::Consul(_) => "ConsulServiceRegistry",
            Self::Eureka(_) => "EurekaServiceRegistry",
            Self::Nacos(_) => "NacosServiceRegistry",
            Self::Zookeeper(_) => "ZookeeperServiceRegistry",
            Self::Dns(_) => "DNSServiceRegistry",
            Self::Kubernetes(_) => "KubernetesServiceRegistry",
        }
    }

    /// Decodes and checks a document of one of [`KINDS`](Self::KINDS); `None` for another, and together with problems what could be read.
    pub fn read(document: &Document, findings: &mut Findings) -> Option<Self> {
        let (spec, mut own, mut further) = (&document.spec, Findings::default(), Findings::default());
        let read = Self::read_as(&document.kind, spec, &mut own);
        let Some(read) = read else {
            findings.extend(own);
            return None;
        };
        read.validate(&mut further);
        own.extend_apart(further);
        findings.extend(own);
        Some(read)
    }

    fn read_as(kind: &str, spec: &Value, findings: &mut Findings) -> Option<Self> {
        Some(match kind {
            "EtcdServiceRegistry" => Self::Etcd(findings.read(spec, "", |_, _| {})?),
            "ConsulServiceRegistry" => Self::Consul(findings.read(spec, "", |_, _| {})?),
            "EurekaServiceRegistry" => Self::Eureka(findings.read(spec, "", |_, _| {})?),
            "NacosServiceRegistry" => Self::Nacos(findings.read(spec, "", |_, _| {})?),
            "ZookeeperServiceRegistry" => Self::Zookeeper(findings.read(spec, "", |_, _| {})?),
            "DNSServiceRegistry" => Self::Dns(findings.read(spec, "", |_, _| {})?),
            "KubernetesServiceRegistry" => Self::Kubernetes(findings.read(spec, "", |_, _| {})?),
            _ => return None,
        })
    }

    /// How long a service must be empty before that is believed.
    pub fn empty_after(&self) -> std::time::Duration {
        let after = match self {
            Self::Etcd(spec) => spec.empty_after,
            Self::Consul(spec) => spec.empty_after,
            Self::Eureka(spec) => spec.empty_after,
            Self::Nacos(spec) => spec.empty_after,
            Self::Zookeeper(spec) => spec.empty_after,
            Self::Dns(spec) => spec.empty_after,
            Self::Kubernetes(spec) => spec.empty_after,
        };
        after.into()
    }

    fn validate(&self, findings: &mut Findings) {
        match self {
            Self::Etcd(spec) => {
                check_places(&spec.endpoints, "endpoints", "http://127.0.0.1:2379", findings);
                if spec.prefix.is_empty() {
                    let problem = Problem::new("prefix", "is empty: every key of etcd would be read");
                    findings.problem(problem.advice("give what the keys of services begin with"));
                }
                check_interval(spec.cache_timeout, "cacheTimeout", findings);
            }
            Self::Consul(spec) => {
                check_scheme(&spec.scheme, "scheme", findings);
                if spec.address.contains("://") {
                    let problem = Problem::new("address", "a URL, where host and port are wanted").text(&spec.address);
                    findings.problem(problem.advice("write it as 127.0.0.1:8500, and say http or https in scheme"));
                } else {
                    check_url(&spec.address, "address", findings);
                }
                if spec.token.chars().any(|c| !c.is_ascii_graphic()) {
                    findings.problem(Problem::new("token", "a token has no spaces and nothing that cannot be printed"));
                }
                check_interval(spec.sync_interval, "syncInterval", findings);
            }
            Self::Eureka(spec) => {
                check_places(&spec.endpoints, "endpoints", "http://127.0.0.1:8761/eureka", findings);
                check_interval(spec.sync_interval, "syncInterval", findings);
            }
            Self::Nacos(spec) => {
                if spec.servers.is_empty() {
                    let problem = Problem::new("servers", "is empty");
                    findings.problem(problem.advice("list a server of Nacos, with ipAddr and port"));
                }
                for (i, server) in spec.servers.iter().enumerate() {
                    let place = nth("servers", i);
                    check_scheme(&server.scheme, &at(&place, "scheme"), findings);
                    check_url(&format!("http://{}", bracketed(&server.ip_addr)), &at(&place, "ipAddr"), findings);
                    if server.port == 0 {
                        findings.problem(Problem::new(at(&place, "port"), "missing").accepted("1 to 65535"));
                    }
                }
                if spec.username.is_empty() != spec.password.is_empty() {
                    let problem = Problem::new("username", "username and password go together");
                    findings.problem(problem.advice("give both or none"));
                }
                check_interval(spec.sync_interval, "syncInterval", findings);
            }
            Self::Zookeeper(spec) => {
                check_places(&spec.zkservices, "zkservices", "127.0.0.1:2181", findings);
                for (i, place) in spec.zkservices.iter().enumerate() {
                    if place.contains("://") || !place.contains(':') {
                        let problem = Problem::new(nth("zkservices", i), "not the place of a server").text(place);
                        findings.problem(problem.accepted("host:port"));
                    }
                }
                if !spec.prefix.starts_with('/') {
                    let problem = Problem::new("prefix", "no path of a node").text(&spec.prefix);
                    findings.problem(problem.accepted("one that begins with /"));
                }
                check_interval(spec.conntimeout, "conntimeout", findings);
                check_interval(spec.sync_interval, "syncInterval", findings);
            }
            Self::Kubernetes(spec) => {
                crate::kubernetes::check_api_server(&spec.master_url, &spec.namespaces, "", findings);
            }
            Self::Dns(spec) => {
                for (i, server) in spec.nameservers.iter().enumerate() {
                    let is_ip = server.parse::<std::net::IpAddr>().is_ok();
                    if !is_ip && server.parse::<std::net::SocketAddr>().is_err() {
                        let problem = Problem::new(nth("nameservers", i), "not the address of a server").text(server);
                        findings.problem(problem.accepted("10.0.0.53, 10.0.0.53:5353 or [2001:db8::53]:53"));
                    }
                }
                if spec.port == 0 {
                    findings.problem(Problem::new("port", "no port").value(&0.into()).accepted("1 to 65535"));
                }
                check_scheme(&spec.scheme, "scheme", findings);
                check_interval(spec.sync_interval, "syncInterval", findings);
            }
        }
    }
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

fn check_scheme(scheme: &str, path: &str, findings: &mut Findings) {
    if !["http", "https"].contains(&scheme) {
        let problem = Problem::new(path, "not one of the accepted words").text(scheme);
        findings.problem(problem.accepted(one_of(&["http", "https"])));
    }
}

fn check_places(places: &[String], path: &str, example: &str, findings: &mut Findings) {
    if places.is_empty() {
        findings.problem(Problem::new(path, "is empty").advice(format!("list a server, such as {example}")));
    }
    for (i, place) in places.iter().enumerate() {
        check_url(place, &nth(path, i), findings);
    }
}

fn check_interval(interval: GoDuration, path: &str, findings: &mut Findings) {
    if interval.duration() < SHORTEST {
        let problem = Problem::new(path, "the registry would be asked without a pause");
        findings.problem(problem.value(&interval.to_string().into()).accepted("100ms or more"));
    }
}

const SHORTEST: std::time::Duration = std::time::Duration::from_millis(100);

/// `host:port`, or a URL of one that has no path.
fn check_url(text: &str, path: &str, findings: &mut Findings) {
    let url = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    match url.parse::<crate::ServerUrl>() {
        Ok(url) if url.socket.is_none() && matches!(url.scheme.as_str(), "http" | "https") => {}
        Ok(_) => {
            let problem = Problem::new(path, "not the place of a server").text(text);
            findings.problem(problem.accepted("host:port, http://host:port or https://host:port"));
        }
        Err(why) => findings.problem(Problem::new(path, why).text(text)),
    }
}

/// The services that pools of this document have their servers from: registry and service. Read without decoding, so that it costs a
/// walk over the document, whatever kinds of filters are in it.
pub fn services_of(document: &Value) -> BTreeSet<(String, String)> {
    let mut services = BTreeSet::new();
    collect(document, 0, &mut services);
    services
}

fn collect(value: &Value, depth: usize, services: &mut BTreeSet<(String, String)>) {
    if depth > DEPTH_MAX {
        return;
    }
    match value {
        Value::Object(fields) => {
            let named = |name| text(fields, name).filter(|text| !text.is_empty());
            if let (Some(registry), Some(service)) = (named("serviceRegistry"), named("serviceName")) {
                services.insert((registry.to_owned(), service.to_owned()));
            }
            fields.values().for_each(|value| collect(value, depth + 1, services));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, depth + 1, services)),
        _ => {}
    }
}

/// As the decoder finds it: the exact spelling first, then without regard to case.
fn text<'v>(fields: &'v Map<String, Value>, name: &str) -> Option<&'v str> {
    let found =
        fields.get(name).or_else(|| fields.iter().find(|(key, _)| same_name(key, name)).map(|(_, value)| value));
    found?.as_str()
}

/// Deeper than any pool lies.
const DEPTH_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::render;
    use crate::yaml::parse_document;

    fn read(yaml: &str) -> Result<ServiceRegistrySpec, String> {
        let document = Document::parse(&parse_document(yaml).unwrap()).unwrap();
        let mut findings = Findings::default();
        let spec = ServiceRegistrySpec::read(&document, &mut findings);
        if findings.problems.is_empty() { Ok(spec.unwrap()) } else { Err(render(&findings.problems)) }
    }

    #[test]
    fn registries_of_easegress_are_read_as_they_are() {
        let etcd =
            read("name: e\nkind: EtcdServiceRegistry\nEndpoints: ['127.0.0.1:12379']\ncacheTimeout: 60s").unwrap();
        let ServiceRegistrySpec::Etcd(etcd) = etcd else { panic!("{etcd:?}") };
        assert_eq!((etcd.prefix.as_str(), etcd.cache_timeout), ("/services/", GoDuration::from_secs(60)));
        let consul = read("name: c\nkind: ConsulServiceRegistry\nserviceTags: [a]\ntoken: t").unwrap();
        let ServiceRegistrySpec::Consul(consul) = consul else { panic!("{consul:?}") };
        assert_eq!((consul.address.as_str(), consul.scheme.as_str()), ("127.0.0.1:8500", "http"));
    }

    #[test]
    fn slips_are_told() {
        for (yaml, told) in [
            ("kind: EtcdServiceRegistry\nendpoints: []", "endpoints: is empty"),
            ("kind: EtcdServiceRegistry\nendpoints: ['ftp://a:1']", "endpoints[0]"),
            ("kind: EtcdServiceRegistry\nendpoints: ['a:1']\nprefix: ''", "prefix: is empty"),
            ("kind: EtcdServiceRegistry\nendpoints: ['a:1']\ncacheTimeout: 0s", "accepted: 100ms or more"),
            ("kind: ConsulServiceRegistry\nscheme: tcp", "accepted: http or https"),
            ("kind: ConsulServiceRegistry\naddress: http://a:1", "say http or https in scheme"),
            ("kind: ConsulServiceRegistry\ntoken: 'a b'", "token: a token has no spaces"),
            ("kind: EurekaServiceRegistry\nendpoints: []", "such as http://127.0.0.1:8761/eureka"),
            ("kind: NacosServiceRegistry\nservers: []", "servers: is empty"),
            ("kind: NacosServiceRegistry\nservers: [{ipAddr: a}]", "servers[0].port"),
            ("kind: NacosServiceRegistry\nservers: [{ipAddr: a, port: 1}]\nusername: u", "go together"),
            ("kind: ZookeeperServiceRegistry\nprefix: shop", "one that begins with /"),
            ("kind: ZookeeperServiceRegistry\nzkservices: [a]", "accepted: host:port"),
            ("kind: DNSServiceRegistry\nnameservers: [a]", "not the address of a server"),
            ("kind: KubernetesServiceRegistry\nmasterURL: a", "not the URL of an API server"),
            ("kind: DNSServiceRegistry\nscheme: ftp", "accepted: http or https"),
        ] {
            let error = read(&format!("name: r\n{yaml}")).unwrap_err();
            assert!(error.contains(told), "{yaml}: {error}");
        }
    }

    #[test]
    fn services_are_found_wherever_pools_lie() {
        let document = parse_document(
            "name: p\nkind: Pipeline\nfilters:\n- kind: Proxy\n  pools:\n  - {ServiceRegistry: consul, serviceName: a}\n  \
             - {serviceRegistry: etcd, serviceName: b, servers: []}\n  - {serviceName: c}\n  - {serviceRegistry: consul, serviceName: a}",
        )
        .unwrap();
        let services: Vec<(String, String)> = services_of(&document).into_iter().collect();
        assert_eq!(services, [("consul".into(), "a".into()), ("etcd".into(), "b".into())]);
    }
}
