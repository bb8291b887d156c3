//! One document from text to checked spec: what the admin API, `weirctl check` and the agents all do.

use std::time::SystemTime;

use serde_json::Value;

use crate::access_list::AccessListSpec;
use crate::auto_cert::AutoCertManagerSpec;
use crate::consumer::{self, ConsumerSpec};
use crate::dates::Dates;
use crate::decode::decode;
use crate::document::Document;
use crate::global_filter::GlobalFilterSpec;
use crate::grpc_server::GrpcServerSpec;
use crate::http_server::{HttpServerSpec, NamedCertificate};
use crate::kinds;
use crate::kubernetes::{GatewayControllerSpec, IngressControllerSpec};
use crate::log_sink::LogSinkSpec;
use crate::mock_namespacer::MockNamespacerSpec;
use crate::overload_manager::OverloadManagerSpec;
use crate::pipeline::{FilterKinds, PipelineSpec};
use crate::problem::{Findings, Problem, Warning};
use crate::service_registry::ServiceRegistrySpec;
use crate::tcp_proxy::{TcpProxySpec, TcpTls};
use crate::udp_proxy::UdpProxySpec;
use crate::v1::translate_v1;
use crate::virtual_ip::{Protocol, VirtualIpSpec};

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listening<'s> {
    /// Empty: every address.
    pub address: &'s str,
    pub port: u16,
    pub protocols: Vec<Protocol>,
}

/// A document that passed every check that can be made without looking at others.
#[derive(Debug, Clone)]
pub struct Object {
    /// As it is to be stored: translated to v2 where it was older.
    pub document: Document,
    pub spec: Spec,
    pub warnings: Vec<Warning>,
}

/// The typed spec of the kinds that are served.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    HttpServer(Box<HttpServerSpec>),
    Pipeline(Box<PipelineSpec>),
    VirtualIp(Box<VirtualIpSpec>),
    AccessList(Box<AccessListSpec>),
    GlobalFilter(Box<GlobalFilterSpec>),
    OverloadManager(Box<OverloadManagerSpec>),
    LogSink(Box<LogSinkSpec>),
    TcpProxy(Box<TcpProxySpec>),
    UdpProxy(Box<UdpProxySpec>),
    GrpcServer(Box<GrpcServerSpec>),
    ServiceRegistry(Box<ServiceRegistrySpec>),
    Consumer(Box<ConsumerSpec>),
    IngressController(Box<IngressControllerSpec>),
    GatewayController(Box<GatewayControllerSpec>),
    AutoCertManager(Box<AutoCertManagerSpec>),
    MockNamespacer(Box<MockNamespacerSpec>),
}

impl Object {
    /// Translates, decodes and checks one document that is stored already, or that nobody will serve. What an earlier version took is
    /// taken, with a warning: see [`Problem::late`].
    pub fn read(value: &Value, filters: &dyn FilterKinds) -> Result<Self, Vec<Problem>> {
        let (object, findings) = Self::read_with(value, filters, |_, _, findings| findings.forgive_late());
        Self::unless_refused(object, findings)
    }

    /// As [`read`](Object::read), for a document that comes in at `now`: its certificates are looked into as well. `stored` is what it
    /// would replace: the dates of certificates that are in that already are worth a warning and no refusal, or a certificate that has
    /// ended would keep everything else of its document as it is.
    pub fn admit<'s>(
        value: &Value,
        filters: &dyn FilterKinds,
        now: SystemTime,
        stored: impl Fn(&str) -> Option<&'s Value>,
    ) -> Result<Self, Vec<Problem>> {
        let (object, findings) = Self::look(value, filters, now, stored);
        Self::unless_refused(object, findings)
    }

    fn unless_refused(object: Option<Self>, findings: Findings) -> Result<Self, Vec<Problem>> {
        object.filter(|_| findings.problems.is_empty()).ok_or(findings.problems)
    }

    /// As [`admit`](Object::admit), and everything that is to be said: of a document that is refused, what is wrong with its metadata beside
    /// what is wrong with the rest, the warnings it would have had, and what could be read of it.
    pub fn look<'s>(
        value: &Value,
        filters: &dyn FilterKinds,
        now: SystemTime,
        stored: impl Fn(&str) -> Option<&'s Value>,
    ) -> (Option<Self>, Findings) {
        Self::read_with(value, filters, |name, spec, findings| {
            let mut dates = Dates::default();
            spec.check_certificates(now, &mut dates, findings);
            dates.judge(findings, || {
                let mut known = Dates::default();
                if let Some(before) = stored(name).and_then(|stored| Self::read(stored, filters).ok()) {
                    before.spec.check_certificates(now, &mut known, &mut Findings::default());
                }
                known
            });
        })
    }

    /// `further` looks into the spec of a document that was decoded. An object comes back beside problems, too: without what is wrong.
    fn read_with(
        value: &Value,
        filters: &dyn FilterKinds,
        further: impl FnOnce(&str, &Spec, &mut Findings),
    ) -> (Option<Self>, Findings) {
        let mut findings = Findings::default();
        let translated = translate_v1(value);
        let value = match &translated {
            Some(translation) => {
                findings.warnings.extend(translation.warnings.iter().cloned());
                &translation.value
            }
            None => value,
        };
        let (document, problems) = Document::parse_with_problems(value);
        findings.problems.extend(problems);
        let Some(mut document) = document else { return (None, findings) };
        if let Some(problem) = kinds::why_refused(&document.kind) {
            if findings.problems.iter().all(|known| !known.path.eq_ignore_ascii_case("kind")) {
                findings.problem(problem);
            }
            return (None, findings);
        }
        let spec = Spec::read(&document, filters, &mut findings);
        if let Some(spec) = spec.as_ref().filter(|_| !findings.refuse_stored()) {
            further(&document.name, spec, &mut findings);
        }
        if let Some(Spec::VirtualIp(vip)) = &spec {
            // The control plane reads these documents by name, without the decoder.
            document.spec = canonical_vip(&document.spec, vip);
        }
        if let Some(Spec::Consumer(_)) = &spec {
            // Nobody keeps the keys themselves.
            document.spec = consumer::canonical(&document.spec);
        }
        let warnings = findings.warnings.clone();
        (spec.map(|spec| Self { document, spec, warnings }), findings)
    }
}

impl Spec {
    /// The kind of its document.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::HttpServer(_) => "HTTPServer",
            Self::Pipeline(_) => "Pipeline",
            Self::VirtualIp(_) => "VirtualIP",
            Self::AccessList(_) => "AccessList",
            Self::GlobalFilter(_) => "GlobalFilter",
            Self::OverloadManager(_) => "OverloadManager",
            Self::LogSink(_) => "LogSink",
            Self::TcpProxy(_) => "TCPProxy",
            Self::UdpProxy(_) => "UDPProxy",
            Self::GrpcServer(_) => "GRPCServer",
            Self::ServiceRegistry(registry) => registry.kind(),
            Self::Consumer(_) => "Consumer",
            Self::IngressController(_) => "IngressController",
            Self::GatewayController(_) => "GatewayController",
            Self::AutoCertManager(_) => "AutoCertManager",
            Self::MockNamespacer(_) => "MockNamespacer",
        }
    }

    /// The certificates it is served with.
    pub fn certificates(&self) -> Vec<NamedCertificate> {
        match self {
            Self::HttpServer(server) if server.https => server.certificates().unwrap_or_default(),
            Self::GrpcServer(server) if server.https => server.http().certificates().unwrap_or_default(),
            Self::TcpProxy(proxy) if proxy.tls == TcpTls::Terminate => {
                proxy.tls_texts().certificates().unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    /// Where it listens, if it does.
    pub fn listening(&self) -> Option<Listening<'_>> {
        let at = |address, port, protocols: &[Protocol]| Listening { address, port, protocols: protocols.to_vec() };
        match self {
            Self::HttpServer(server) => {
                let protocols = match (server.http3, server.http3_only) {
                    (false, _) => &[Protocol::Tcp][..],
                    (true, false) => &[Protocol::Tcp, Protocol::Udp],
                    (true, true) => &[Protocol::Udp],
                };
                Some(at(&server.address, server.port, protocols))
            }
            Self::TcpProxy(proxy) => Some(at(&proxy.address, proxy.port, &[Protocol::Tcp])),
            Self::UdpProxy(proxy) => Some(at(&proxy.address, proxy.port, &[Protocol::Udp])),
            Self::GrpcServer(server) => Some(at(&server.address, server.port, &[Protocol::Tcp])),
            Self::Pipeline(_)
            | Self::VirtualIp(_)
            | Self::AccessList(_)
            | Self::GlobalFilter(_)
            | Self::OverloadManager(_)
            | Self::LogSink(_)
            | Self::ServiceRegistry(_)
            | Self::Consumer(_)
            | Self::IngressController(_)
            | Self::GatewayController(_)
            | Self::AutoCertManager(_)
            | Self::MockNamespacer(_) => None,
        }
    }

    /// Decodes and checks the spec of a document of a served kind; together with problems what could be read of it.
    pub fn read(document: &Document, filters: &dyn FilterKinds, findings: &mut Findings) -> Option<Self> {
        match document.kind.as_str() {
            "HTTPServer" => {
                let spec =
                    findings.read(&document.spec, "", |spec: &HttpServerSpec, findings| spec.validate("", findings))?;
                Some(Self::HttpServer(Box::new(spec)))
            }
            "Pipeline" => {
                let check = |spec: &PipelineSpec, findings: &mut Findings| spec.validate("", filters, findings);
                let spec = findings.read(&document.spec, "", check)?;
                Some(Self::Pipeline(Box::new(spec)))
            }
            "VirtualIP" => {
                let spec =
                    findings.read(&document.spec, "", |spec: &VirtualIpSpec, findings| spec.validate("", findings))?;
                Some(Self::VirtualIp(Box::new(spec)))
            }
            "AccessList" => {
                let spec =
                    findings.read(&document.spec, "", |spec: &AccessListSpec, findings| spec.validate("", findings))?;
                Some(Self::AccessList(Box::new(spec)))
            }
            "Consumer" => {
                let spec =
                    findings.read(&document.spec, "", |spec: &ConsumerSpec, findings| spec.validate("", findings))?;
                Some(Self::Consumer(Box::new(spec)))
            }
            "IngressController" => {
                let spec = findings
                    .read(&document.spec, "", |spec: &IngressControllerSpec, findings| spec.validate("", findings))?;
                Some(Self::IngressController(Box::new(spec)))
            }
            "GatewayController" => {
                let spec = findings
                    .read(&document.spec, "", |spec: &GatewayControllerSpec, findings| spec.validate("", findings))?;
                Some(Self::GatewayController(Box::new(spec)))
            }
            "AutoCertManager" => {
                let spec = findings
                    .read(&document.spec, "", |spec: &AutoCertManagerSpec, findings| spec.validate("", findings))?;
                Some(Self::AutoCertManager(Box::new(spec)))
            }
            "MockNamespacer" => {
                let check = |spec: &MockNamespacerSpec, findings: &mut Findings| spec.validate("", filters, findings);
                let spec = findings.read(&document.spec, "", check)?;
                Some(Self::MockNamespacer(Box::new(spec)))
            }
            "GlobalFilter" => {
                let check = |spec: &GlobalFilterSpec, findings: &mut Findings| spec.validate("", filters, findings);
                let spec = findings.read(&document.spec, "", check)?;
                Some(Self::GlobalFilter(Box::new(spec)))
            }
            "OverloadManager" => {
                let spec = findings
                    .read(&document.spec, "", |spec: &OverloadManagerSpec, findings| spec.validate("", findings))?;
                Some(Self::OverloadManager(Box::new(spec)))
            }
            "LogSink" => {
                let spec =
                    findings.read(&document.spec, "", |spec: &LogSinkSpec, findings| spec.validate("", findings))?;
                Some(Self::LogSink(Box::new(spec)))
            }
            "TCPProxy" => {
                let spec =
                    findings.read(&document.spec, "", |spec: &TcpProxySpec, findings| spec.validate("", findings))?;
                Some(Self::TcpProxy(Box::new(spec)))
            }
            "UDPProxy" => {
                let spec =
                    findings.read(&document.spec, "", |spec: &UdpProxySpec, findings| spec.validate("", findings))?;
                Some(Self::UdpProxy(Box::new(spec)))
            }
            "GRPCServer" => {
                let spec =
                    findings.read(&document.spec, "", |spec: &GrpcServerSpec, findings| spec.validate("", findings))?;
                Some(Self::GrpcServer(Box::new(spec)))
            }
            registry if ServiceRegistrySpec::KINDS.contains(&registry) => {
                ServiceRegistrySpec::read(document, findings).map(|spec| Self::ServiceRegistry(Box::new(spec)))
            }
            other => {
                findings.problems.extend(kinds::why_refused(other));
                None
            }
        }
    }

    /// Looks into the certificates the spec uses: refuses the unusable, and notes in `dates` what is not valid at `now`.
    fn check_certificates(&self, now: SystemTime, dates: &mut Dates, findings: &mut Findings) {
        match self {
            Self::HttpServer(server) => server.check_certificates("", now, dates, findings),
            Self::GrpcServer(server) => server.http().check_certificates("", now, dates, findings),
            Self::Pipeline(pipeline) => pipeline.check_certificates("", now, dates, findings),
            Self::GlobalFilter(filter) => filter.check_certificates("", now, dates, findings),
            Self::TcpProxy(proxy) => proxy.check_certificates("", now, dates, findings),
            Self::LogSink(sink) => sink.check_certificates(now, dates, findings),
            Self::MockNamespacer(made) => made.check_certificates(now, dates, findings),
            Self::IngressController(controller) => {
                controller.http_server.check_certificates("httpServer", now, dates, findings);
                if let Some(server) = &controller.https_server {
                    server.check_certificates("httpsServer", now, dates, findings);
                }
            }
            Self::VirtualIp(_)
            | Self::AccessList(_)
            | Self::GatewayController(_)
            | Self::UdpProxy(_)
            | Self::OverloadManager(_)
            | Self::ServiceRegistry(_)
            | Self::Consumer(_)
            | Self::AutoCertManager(_) => {}
        }
    }
}

/// Names as the schema spells them; an empty list of machines is left out, since it means every edge.
fn canonical_vip(spec: &Value, vip: &VirtualIpSpec) -> Value {
    let Ok(decoded) = decode::<VirtualIpSpec>(spec, "") else { return spec.clone() };
    let mut canonical = decoded.canonical;
    if vip.machines.is_empty()
        && let Some(map) = canonical.as_object_mut()
    {
        map.shift_remove("machines");
    }
    canonical
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::tests::Kinds;
    use crate::problem::render;
    use crate::yaml::parse_document;

    fn read(yaml: &str) -> Result<Object, String> {
        Object::read(&parse_document(yaml).unwrap(), &Kinds).map_err(|problems| render(&problems))
    }

    #[test]
    fn v1_is_stored_as_v2() {
        let object = read("name: p\nkind: HTTPPipeline\nfilters: [{name: proxy, kind: Proxy, mainPool: {servers: [{url: 'http://a:1'}]}}]").unwrap();
        assert_eq!(object.document.kind, "Pipeline");
        assert_eq!(object.warnings.len(), 2);
        assert!(matches!(object.spec, Spec::Pipeline(_)));
    }

    #[test]
    fn a_virtual_ip_is_stored_in_canonical_names() {
        let object =
            read("Name: v\nkind: VirtualIP\nAddresses: [1.2.3.4]\nMachines: []\nPorts: [80]\nnote: x").unwrap();
        assert_eq!(object.document.spec, serde_json::json!({"addresses": ["1.2.3.4"], "ports": [80]}));
        assert_eq!(object.warnings.len(), 1);
    }

    /// A rule that is new refuses what comes in. What was stored before it is served as it was.
    #[test]
    fn new_rules_do_not_take_away_what_is_served() {
        let pool =
            "name: p\nkind: Pipeline\nfilters: [{name: p, kind: Proxy, pools: [{servers: [{url: 'http://a:1'}], ";
        for (yaml, place) in [
            ("name: g\nkind: GRPCServer\nport: 80".to_owned(), "port"),
            (
                "name: s\nkind: HTTPServer\nport: 80\nipFilter: {blockIPs: [10.0.0.1, 10.0.0.1]}".into(),
                "ipFilter.blockIPs[1]",
            ),
            (format!("{pool}failureCodes: [500, 500]}}]}}]"), "filters[0].pools[0].failureCodes[1]"),
            (format!("{pool}healthCheck: {{uri: /, username: a}}}}]}}]"), "filters[0].pools[0].healthCheck.password"),
            ("name: e\nkind: EtcdServiceRegistry\nendpoints: ['http://a:1', 'http://a:1']".into(), "endpoints[1]"),
        ] {
            let value = parse_document(&yaml).unwrap();
            let told = Object::admit(&value, &Kinds, SystemTime::now(), |_| None).expect_err(&yaml);
            assert_eq!(told.iter().map(|problem| &problem.path).collect::<Vec<_>>(), [place], "{yaml}");
            let object = read(&yaml).unwrap_or_else(|told| panic!("{yaml}: {told}"));
            assert_eq!(object.warnings.iter().map(|warning| &warning.path).collect::<Vec<_>>(), [place], "{yaml}");
        }
        assert!(read("name: g\nkind: GRPCServer\nport: 0").is_err());
    }

    /// What is wrong with one field hides nothing of the others.
    #[test]
    fn what_can_be_read_of_a_refused_document_is_checked() {
        for (yaml, places) in [
            (
                "name: s\nkind: HTTPServer\nport: 80\nkeepAliveTimeout: 5 sec\nrules:\n- host: 'a b'\n- 5\n- paths: [{path: x, backend: p}, {backend: 7}]",
                &[
                    "keepAliveTimeout",
                    "rules[1]",
                    "rules[2].paths[1].backend",
                    "rules[0].host",
                    "rules[2].paths[0].path",
                ][..],
            ),
            (
                "name: p\nkind: Pipeline\nflow: 5\nfilters: [{kind: Mock}, {name: a, kind: Mock}, {name: a, kind: Mock}, {name: 7, kind: Mock}, 5]",
                &["flow", "filters[3].name", "filters[4]", "filters[0].name", "filters[2].name"],
            ),
            (
                "name: r\nkind: Pipeline\nfilters: [{name: p, kind: Proxy, compression: 5, pools: [{servers: [{url: x}]}]}]",
                &["filters[0].compression", "filters[0].pools[0].servers[0].url"],
            ),
        ] {
            let value = parse_document(yaml).unwrap();
            let (object, findings) = Object::look(&value, &Kinds, SystemTime::now(), |_| None);
            assert!(object.is_some());
            let told: Vec<&str> = findings.problems.iter().map(|problem| problem.path.as_str()).collect();
            assert_eq!(told, places, "{}", render(&findings.problems));
        }
    }

    #[test]
    fn what_a_mock_namespacer_makes_is_looked_at_as_if_it_stood_alone() {
        let refused = |yaml: &str| read(&format!("name: m\nkind: MockNamespacer\n{yaml}")).unwrap_err();
        assert!(refused("pipelines: [{name: p, filters: []}]").contains("namespace: missing"));
        assert!(refused("namespace: default").contains("what people write themselves is there"));
        assert!(refused("namespace: a/b").starts_with("namespace = \"a/b\""), "{}", refused("namespace: a/b"));
        let told = refused(
            "namespace: n\nhttpServers: [{name: web, port: 0}, {port: 80}, {name: w, kind: TCPProxy, port: 81}, 7]",
        );
        for wanted in
            ["httpServers[0].port", "httpServers[1].name", "httpServers[2].kind = \"TCPProxy\"", "httpServers[3] = 7"]
        {
            assert!(told.contains(wanted), "{wanted}: {told}");
        }
        let told = refused("namespace: n\npipelines: [{name: web, filters: [{name: x, kind: Nothing}]}]");
        assert!(told.contains("pipelines[0].filters[0].kind"), "{told}");
        let told = refused("namespace: n\nhttpServers: [{name: x, port: 80}]\npipelines: [{name: x, filters: []}]");
        assert!(told.contains("pipelines[0].name: another one here is named \"x\""), "{told}");

        let written = "namespace: n\nHTTPServers: [{name: web, port: 80, certBase64: c2hvd24=, keyBase64: c2VjcmV0}]\n\
                       pipelines: [{name: p, filters: [{name: f, kind: Proxy, pools: [{servers: [{url: 'http://a:1'}]}]}]}]";
        let object = read(&format!("name: m\nkind: MockNamespacer\n{written}")).unwrap();
        let Spec::MockNamespacer(spec) = &object.spec else { panic!("it is one") };
        let names: Vec<(String, &str)> =
            spec.makes().into_iter().map(|made| (made.document.name.clone(), made.spec.kind())).collect();
        assert_eq!(names, [("web".to_owned(), "HTTPServer"), ("p".to_owned(), "Pipeline")]);
        // Nobody is shown the key, though the server need not say that it is one, and who sends what was shown keeps it.
        let (secrets, stored) = (crate::Secrets::new(&[]), object.document.to_value());
        let mut shown = secrets.hide(&stored);
        let text = shown.to_string();
        assert!(!text.contains("c2VjcmV0") && text.contains(crate::secret::HIDDEN), "{text}");
        assert_eq!(secrets.restore(&mut shown, Some(&stored)), []);
        assert_eq!(shown, stored);

        let lost =
            "namespace: n\nhttpServers: [{name: web, port: 80, rules: [{paths: [{pathPrefix: /, backend: q}]}]}]";
        let told: Vec<String> = read(&format!("name: m\nkind: MockNamespacer\n{lost}"))
            .unwrap()
            .warnings
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            told,
            ["httpServers[0].rules[0].paths[0].backend: there is no Pipeline q here; its requests get 503"]
        );
    }

    #[test]
    fn kinds_nobody_serves_are_refused() {
        assert!(read("name: a\nkind: MQTTProxy\nport: 1").unwrap_err().contains("not served by this version"));
        assert!(read("name: a\nkind: Nonsense").unwrap_err().contains("unknown kind"));
        assert!(read("name: a\nkind: GlobalFilter").unwrap_err().contains("neither beforePipeline nor afterPipeline"));
    }
}
