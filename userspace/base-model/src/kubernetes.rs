//! What is asked of Kubernetes: `kind: IngressController` and `kind: GatewayController`.
//!
//! ```yaml
//! kind: IngressController
//! name: ingress
//! httpServer: {port: 80}
//! httpsServer: {port: 443}
//! ingressClass: easegress
//! ```
//! One machine of the cluster, its leader, watches the API server and tells the others, which serve on whatever becomes of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http_server::HttpServerSpec;
use crate::problem::{Findings, Problem, at, nth};

/// Serves the Ingresses of a Kubernetes cluster: makes an HTTPServer of their rules, named `NAME.http`, and a Pipeline for each of their
/// backends. Servers of services follow their EndpointSlices without a change of any document; pools of other pipelines have them with
/// `serviceRegistry: NAME` and `serviceName: namespace/service:port`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["httpServer"]))]
pub struct IngressControllerSpec {
    /// The server, as an HTTPServer's document describes it; its `rules` are made of the Ingresses. With `https` it has the certificates
    /// of their TLS secrets beside its own.
    pub http_server: HttpServerSpec,
    /// A second server, with `https`, of the same rules and with the certificates of their TLS secrets; clients of the first one are sent
    /// to it where a host has a certificate. It is there as soon as there is a certificate. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https_server: Option<HttpServerSpec>,
    /// Path of a kubeconfig, on every member that may lead. Default: what every pod has to ask its cluster with.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kube_config: String,
    /// URL of the API server; goes before that of the kubeconfig. Default: as that says.
    #[serde(rename = "masterURL", skip_serializing_if = "String::is_empty")]
    pub master_url: String,
    /// Namespaces whose Ingresses are served. Default: all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Ingresses of this class are served, named by `ingressClassName` or by the annotation `kubernetes.io/ingress.class`. Empty: those
    /// of every IngressClass whose controller is `megaease.com/ingress-controller`. Default `easegress`.
    pub ingress_class: String,
    /// Addresses or names that are written into the status of Ingresses, for DNS and for people. Default: those of `publishService`, or of
    /// the VirtualIPs that have the server's port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish_addresses: Vec<String>,
    /// `namespace/service` whose load balancer's address is written into the status of Ingresses. Default: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub publish_service: String,
}

impl Default for IngressControllerSpec {
    fn default() -> Self {
        Self {
            http_server: HttpServerSpec::default(),
            https_server: None,
            kube_config: String::new(),
            master_url: String::new(),
            namespaces: Vec::new(),
            ingress_class: "easegress".to_owned(),
            publish_addresses: Vec::new(),
            publish_service: String::new(),
        }
    }
}

impl IngressControllerSpec {
    pub fn validate(&self, path: &str, findings: &mut Findings) {
        let servers = [("httpServer", Some(&self.http_server)), ("httpsServer", self.https_server.as_ref())];
        for (name, server) in servers {
            let Some(server) = server else { continue };
            let place = at(path, name);
            if !server.rules.is_empty() {
                findings.warn(at(&place, "rules"), "has no effect: the rules are made of the Ingresses");
            }
            if server.https && server.certificates().is_ok_and(|certificates| certificates.is_empty()) {
                // Those of secrets are yet to come.
                let mut plain = server.clone();
                plain.https = false;
                plain.http3 = false;
                plain.validate(&place, findings);
            } else {
                server.validate(&place, findings);
            }
        }
        if let Some(https) = &self.https_server {
            if !https.https {
                let problem = Problem::new(at(&at(path, "httpsServer"), "https"), "the server would speak no TLS");
                findings.problem(problem.value(&false.into()).accepted("true"));
            }
            if https.port == self.http_server.port && https.address == self.http_server.address {
                let problem = Problem::new(at(&at(path, "httpsServer"), "port"), "that of httpServer");
                findings.problem(problem.value(&https.port.into()).advice("give each of the two a port of its own"));
            }
        }
        check_api_server(&self.master_url, &self.namespaces, path, findings);
        if !self.publish_service.is_empty()
            && self.publish_service.split('/').filter(|part| !part.is_empty()).count() != 2
        {
            let problem = Problem::new(at(path, "publishService"), "not a service").text(&self.publish_service);
            findings.problem(problem.accepted("namespace/name"));
        }
    }
}

/// Serves the Gateways of a Kubernetes cluster whose GatewayClass names `megaease.com/gateway-controller`: makes a server for each of
/// their addresses and ports, and a Pipeline for each rule of the routes that are attached to them (HTTPRoute, GRPCRoute; TLSRoute,
/// TCPRoute and UDPRoute by TCPProxy and UDPProxy). What becomes of each object is in its status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayControllerSpec {
    /// Path of a kubeconfig, on every member that may lead. Default: what every pod has to ask its cluster with.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kube_config: String,
    /// URL of the API server; goes before that of the kubeconfig. Default: as that says.
    #[serde(rename = "masterURL", skip_serializing_if = "String::is_empty")]
    pub master_url: String,
    /// Namespaces whose Gateways and routes are served. Default: all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Addresses of the machines, or of VirtualIPs: each Gateway that names none in `spec.addresses` gets one for itself, and keeps it.
    /// Those that name some may have these and the `publishAddresses`, and no others. Default: Gateways share every address, so that two
    /// of them cannot have one port for different protocols, and may name any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Addresses or names that are told of Gateways without one of their own. Default: those of the VirtualIPs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish_addresses: Vec<String>,
}

impl GatewayControllerSpec {
    pub fn validate(&self, path: &str, findings: &mut Findings) {
        check_api_server(&self.master_url, &self.namespaces, path, findings);
        for (i, address) in self.addresses.iter().enumerate() {
            if address.parse::<std::net::IpAddr>().is_err() {
                let problem = Problem::new(nth(&at(path, "addresses"), i), "no address").text(address);
                findings.problem(problem.accepted("one of IPv4 or IPv6"));
            }
        }
    }
}

/// Where Kubernetes is, and what of it is looked at.
pub(crate) fn check_api_server(url: &str, namespaces: &[String], path: &str, findings: &mut Findings) {
    if !url.is_empty() && !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
        let problem = Problem::new(at(path, "masterURL"), "not the URL of an API server").text(url);
        findings.problem(problem.accepted("https://host:6443"));
    }
    for (i, namespace) in namespaces.iter().enumerate() {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if namespace.is_empty() || !namespace.chars().all(fits) {
            let problem = Problem::new(nth(&at(path, "namespaces"), i), "no name of a namespace").text(namespace);
            findings.problem(problem.accepted("lower-case letters, digits and -"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::decode;
    use crate::problem::render;
    use crate::yaml::parse_document;

    fn read(yaml: &str) -> Result<IngressControllerSpec, String> {
        let mut findings = Findings::default();
        let spec: Option<IngressControllerSpec> = findings.take(decode(&parse_document(yaml).unwrap(), ""));
        if let Some(spec) = &spec {
            spec.validate("", &mut findings);
        }
        if findings.problems.is_empty() { Ok(spec.unwrap()) } else { Err(render(&findings.problems)) }
    }

    #[test]
    fn easegresss_document_is_read_as_it_is() {
        let spec = read(
            "kubeConfig:\nmasterURL:\nnamespaces: [\"default\"]\ningressClass: easegress\nhttpServer:\n  port: 8080\n  \
                         https: false\n  keepAlive: true\n  keepAliveTimeout: 60s\n  maxConnections: 10240\n",
        )
        .unwrap();
        assert_eq!((spec.http_server.port, spec.ingress_class.as_str()), (8080, "easegress"));
        let spec = read("httpServer: {port: 80}\nhttpsServer: {port: 443, https: true, http3: true}").unwrap();
        assert!(spec.https_server.unwrap().http3);
    }

    #[test]
    fn slips_are_told() {
        for (yaml, told) in [
            ("httpServer: {port: 0}", "httpServer.port"),
            ("httpServer: {port: 80}\nhttpsServer: {port: 443}", "httpsServer.https"),
            ("httpServer: {port: 80}\nhttpsServer: {port: 80, https: true}", "that of httpServer"),
            ("httpServer: {port: 80}\nmasterURL: 10.0.0.1", "masterURL"),
            ("httpServer: {port: 80}\nnamespaces: [a/b]", "namespaces[0]"),
            ("httpServer: {port: 80}\npublishService: a", "accepted: namespace/name"),
        ] {
            let error = read(yaml).unwrap_err();
            assert!(error.contains(told), "{yaml}: {error}");
        }
    }
}
