//! The kinds of objects: names, aliases, categories.

use crate::problem::{Problem, nearest, one_of};
use crate::virtual_ip::Protocol;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// One per process, created by itself, cannot be written.
    System,
    /// A listener.
    TrafficGate,
    Pipeline,
    /// Anything else users create.
    Business,
    /// Ours: the kernel's plane.
    Kernel,
}

impl Category {
    /// As Easegress's API spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "SystemController",
            Self::TrafficGate => "TrafficGate",
            Self::Pipeline => "Pipeline",
            Self::Business => "BusinessController",
            Self::Kernel => "Kernel",
        }
    }
}

/// One kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub name: &'static str,
    pub category: Category,
    /// Further words `weirctl` and URLs accept.
    pub aliases: &'static [&'static str],
    /// At most one object of it may exist.
    pub singleton: bool,
    /// Whether this version runs it; the others are known by name only and refused with that reason.
    pub served: bool,
    /// The sockets it opens at its `address` and `port`. Everything that is done to listeners alone, whatever they speak, goes by this.
    pub sockets: &'static [SocketKind],
}

/// A socket that a kind of listener opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketKind {
    pub protocol: Protocol,
    /// Only where this field of the document is `true`; `None`: always.
    pub when: Option<&'static str>,
}

const TCP: SocketKind = SocketKind { protocol: Protocol::Tcp, when: None };
const UDP: SocketKind = SocketKind { protocol: Protocol::Udp, when: None };
const UDP_OF_HTTP3: SocketKind = SocketKind { protocol: Protocol::Udp, when: Some("http3") };

/// Every kind documents may name, in the order `api-resources` lists them.
pub const KINDS: &[Kind] = &[
    kind("HTTPServer", Category::TrafficGate, &["httpserver", "httpservers", "hs"])
        .listen(&[TCP, UDP_OF_HTTP3])
        .serve(),
    kind("Pipeline", Category::Pipeline, &["pipeline", "pipelines", "pl"]).serve(),
    kind("VirtualIP", Category::Kernel, &["virtualip", "virtualips", "vip", "vips"]).serve(),
    kind("AccessList", Category::Kernel, &["accesslist", "accesslists", "acl", "acls"]).serve(),
    kind("GlobalFilter", Category::Business, &["globalfilter", "globalfilters"]).serve(),
    kind("OverloadManager", Category::Business, &["overloadmanager", "overloadmanagers", "overload"]).single().serve(),
    kind("LogSink", Category::Business, &["logsink", "logsinks"]).serve(),
    kind("TCPProxy", Category::TrafficGate, &["tcpproxy", "tcpproxies", "tcp"]).listen(&[TCP]).serve(),
    kind("UDPProxy", Category::TrafficGate, &["udpproxy", "udpproxies", "udp"]).listen(&[UDP]).serve(),
    kind("GRPCServer", Category::TrafficGate, &["grpcserver", "grpcservers", "grpc"]).listen(&[TCP]).serve(),
    kind("Consumer", Category::Business, &["consumer", "consumers"]).serve(),
    kind("MQTTProxy", Category::TrafficGate, &["mqttproxy", "mqttproxies", "mqtt", "mp"]).listen(&[TCP]),
    kind("EaseMonitorMetrics", Category::Business, &["easemonitormetrics", "emm"]),
    kind("FaaSController", Category::Business, &["faascontroller", "faascontrollers"]),
    kind("IngressController", Category::Business, &["ingresscontroller", "ingresscontrollers", "ingress"]).serve(),
    kind("GatewayController", Category::Business, &["gatewaycontroller", "gatewaycontrollers"]).serve(),
    kind("MeshController", Category::Business, &["meshcontroller", "meshcontrollers", "mesh"]),
    kind("AutoCertManager", Category::Business, &["autocertmanager", "autocertmanagers", "autocert", "autocerts"])
        .single()
        .serve(),
    kind("AIGatewayController", Category::Business, &["aigatewaycontroller", "aigatewaycontrollers", "aigateway"])
        .single(),
    kind("WAFController", Category::Business, &["wafcontroller", "wafcontrollers", "waf"]).single(),
    kind("ConsulServiceRegistry", Category::Business, &["consulserviceregistry", "consulserviceregistries", "consul"])
        .serve(),
    kind("EtcdServiceRegistry", Category::Business, &["etcdserviceregistry", "etcdserviceregistries", "etcd"]).serve(),
    kind("EurekaServiceRegistry", Category::Business, &["eurekaserviceregistry", "eurekaserviceregistries", "eureka"])
        .serve(),
    kind("NacosServiceRegistry", Category::Business, &["nacosserviceregistry", "nacosserviceregistries", "nacos"])
        .serve(),
    kind(
        "ZookeeperServiceRegistry",
        Category::Business,
        &["zookeeperserviceregistry", "zookeeperserviceregistries", "zookeeper", "zk"],
    )
    .serve(),
    kind("DNSServiceRegistry", Category::Business, &["dnsserviceregistry", "dnsserviceregistries", "dns"]).serve(),
    kind(
        "KubernetesServiceRegistry",
        Category::Business,
        &["kubernetesserviceregistry", "kubernetesserviceregistries", "kubernetes", "k8s"],
    )
    .serve(),
    kind("MockNamespacer", Category::Business, &["mocknamespacer", "mocknamespacers"]).serve(),
    kind("ServiceRegistry", Category::System, &["serviceregistry", "sr"]).single(),
    kind("TrafficController", Category::System, &["trafficcontroller", "tc"]).single(),
    kind("RawConfigTrafficController", Category::System, &["rawconfigtrafficcontroller", "rctc"]).single(),
    kind("StatusSyncController", Category::System, &["statussynccontroller", "ssc"]).single(),
];

/// Accepted in documents and translated before anything else looks at them.
pub const LEGACY_PIPELINE: &str = "HTTPPipeline";

/// By exact name, as documents write it.
pub fn named(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// Whether documents of this kind are listeners.
pub fn listens(name: &str) -> bool {
    named(name).is_some_and(|kind| !kind.sockets.is_empty())
}

/// By name or alias without regard to case, as people type it.
pub fn find(word: &str) -> Option<&'static Kind> {
    let lower = word.to_lowercase();
    KINDS.iter().find(|kind| kind.name.to_lowercase() == lower || kind.aliases.contains(&lower.as_str()))
}

/// Why documents of this kind cannot be accepted, or nothing.
pub fn why_refused(name: &str) -> Option<Problem> {
    let problem = |message: &str| Problem::new("kind", message).text(name);
    match named(name) {
        Some(kind) if kind.category == Category::System => {
            Some(problem("a kind of the system").advice("it runs by itself and cannot be written; remove the document"))
        }
        Some(kind) if !kind.served => {
            Some(problem("not served by this version").accepted(served_names()).advice("remove the document"))
        }
        Some(_) => None,
        None => {
            let unknown = problem("unknown kind").accepted(served_names());
            let candidates = KINDS.iter().map(|kind| kind.name);
            let meant =
                find(name).map(|kind| kind.name).or_else(|| nearest(name, candidates)).or_else(|| removed(name));
            Some(match meant {
                Some(meant) => unknown.advice(format!("did you mean {meant}?")),
                None => unknown,
            })
        }
    }
}

/// What took the place of kinds of Easegress v1.
fn removed(name: &str) -> Option<&'static str> {
    match name {
        "WebSocketServer" => Some("HTTPServer with a Pipeline and its WebSocketProxy filter"),
        "Function" => Some("FaaSController"),
        _ => None,
    }
}

fn served_names() -> String {
    one_of(&KINDS.iter().filter(|kind| kind.served).map(|kind| kind.name).collect::<Vec<_>>())
}

const fn kind(name: &'static str, category: Category, aliases: &'static [&'static str]) -> Kind {
    Kind { name, category, aliases, singleton: false, served: false, sockets: &[] }
}

impl Kind {
    const fn serve(mut self) -> Self {
        self.served = true;
        self
    }
    const fn listen(mut self, sockets: &'static [SocketKind]) -> Self {
        self.sockets = sockets;
        self
    }
    const fn single(mut self) -> Self {
        self.singleton = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_one_kind() {
        let mut words: Vec<String> = Vec::new();
        for kind in KINDS {
            assert!(kind.aliases.contains(&kind.name.to_lowercase().as_str()), "{}", kind.name);
            words.extend(kind.aliases.iter().map(|alias| (*alias).to_owned()));
        }
        let count = words.len();
        words.sort();
        words.dedup();
        assert_eq!(words.len(), count);
        assert_eq!(find("hs").map(|kind| kind.name), Some("HTTPServer"));
        assert_eq!(find("Pipelines").map(|kind| kind.name), Some("Pipeline"));
        assert_eq!(find("nothing"), None);
    }

    #[test]
    fn gates_listen_and_nothing_else_does() {
        for kind in KINDS {
            assert_eq!(kind.category == Category::TrafficGate, listens(kind.name), "{}", kind.name);
        }
    }

    #[test]
    fn refusals_say_what_is_there() {
        assert_eq!(
            why_refused("Pipelin").unwrap().to_string(),
            r#"kind = "Pipelin": unknown kind; accepted: HTTPServer, Pipeline, VirtualIP, AccessList, GlobalFilter, OverloadManager, LogSink, TCPProxy, UDPProxy, GRPCServer, Consumer, IngressController, GatewayController, AutoCertManager, ConsulServiceRegistry, EtcdServiceRegistry, EurekaServiceRegistry, NacosServiceRegistry, ZookeeperServiceRegistry, DNSServiceRegistry, KubernetesServiceRegistry or MockNamespacer; did you mean Pipeline?"#
        );
        assert!(why_refused("TrafficController").unwrap().to_string().contains("kind of the system"));
        assert!(why_refused("MQTTProxy").unwrap().to_string().contains("not served by this version"));
        assert_eq!(why_refused("HTTPServer"), None);
    }
}
