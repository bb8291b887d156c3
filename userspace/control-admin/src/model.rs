//! The [`Catalog`] made of base-model: what remains for the server to bring is the list of filters.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use base_model::explain::Explained;
use base_model::{Beside, FilterKinds, HttpServerSpec, Object, Outline, Secrets, Spec, kinds, namespaces};
use control_api::{NAMESPACE_LABEL, Objects};
use serde_json::{Value, json};

use crate::catalog::{Catalog, Category, Checked, KindInfo};

/// An outline, and the document it was read from.
type Known = (Weak<Value>, Arc<Outline>);

pub struct ModelCatalog {
    filters: Box<dyn FilterKinds + Send + Sync>,
    explained: Vec<Explained>,
    secrets: Secrets,
    descriptions: BTreeMap<String, String>,
    /// Outlines of the stored objects by name: a change costs the reading of what it holds, however many objects there are and
    /// however large they are. A document that was replaced is not kept for it.
    read: Mutex<HashMap<String, Known>>,
    vips_max: usize,
}

impl ModelCatalog {
    /// `explained` holds the filters' schemas, `descriptions` a text for each filter.
    pub fn new(
        filters: Box<dyn FilterKinds + Send + Sync>,
        explained: Vec<Explained>,
        descriptions: BTreeMap<String, String>,
    ) -> Self {
        let secrets = Secrets::new(&explained);
        let vips_max = base_model::VIRTUAL_IPS;
        ModelCatalog { filters, explained, secrets, descriptions, read: Mutex::default(), vips_max }
    }

    /// VirtualIPs the edges have room for (`--virtual-ips`).
    pub fn vips_max(mut self, most: usize) -> Self {
        self.vips_max = most;
        self
    }

    /// What the stored objects say of themselves, but for those that `replaced` names. What is not known yet is read without the
    /// lock: nobody waits for another's reading.
    fn stored(&self, stored: &Objects, replaced: &HashSet<&str>) -> Vec<Arc<Outline>> {
        let mut outlines = Vec::with_capacity(stored.len());
        let mut unread = Vec::new();
        {
            let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            for (name, document) in stored.iter().filter(|(name, _)| !replaced.contains(name.as_str())) {
                match read.get(name) {
                    Some((known, outline)) if known.as_ptr() == Arc::as_ptr(document) => outlines.push(outline.clone()),
                    _ => unread.push((name, document)),
                }
            }
        }
        let mut fresh = Vec::with_capacity(unread.len());
        for (name, document) in unread {
            // What cannot be read is somebody else's problem: it is told when that document is checked.
            let Some(mut outline) = Outline::read(document) else { continue };
            // Beside what users write stands what is in other namespaces, which nobody of `default` means by its name.
            outline.name.clone_from(name);
            let outline = Arc::new(outline);
            outlines.push(outline.clone());
            fresh.push((name.clone(), (Arc::downgrade(document), outline)));
        }
        if !fresh.is_empty() {
            let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            read.extend(fresh);
            if read.len() > stored.len() {
                read.retain(|name, _| stored.contains_key(name));
            }
        }
        outlines
    }
}

impl Catalog for ModelCatalog {
    fn kinds(&self) -> Vec<KindInfo> {
        kinds::KINDS
            .iter()
            .map(|kind| KindInfo {
                kind: kind.name.to_owned(),
                category: match kind.category {
                    kinds::Category::System => Category::System,
                    kinds::Category::TrafficGate => Category::TrafficGate,
                    kinds::Category::Pipeline => Category::Pipeline,
                    kinds::Category::Business => Category::Business,
                    kinds::Category::Kernel => Category::Kernel,
                },
                aliases: kind.aliases.iter().map(|alias| alias.to_string()).collect(),
                singleton: kind.singleton,
            })
            .collect()
    }

    fn check(&self, documents: &[Value], stored: &Objects) -> Vec<Result<Checked, Vec<String>>> {
        let texts =
            |problems: Vec<base_model::Problem>| -> Vec<String> { problems.iter().map(|p| p.to_string()).collect() };
        let now = SystemTime::now();
        let before = |name: &str| stored.get(name).map(|document| document.as_ref());
        let admitted: Vec<_> =
            documents.iter().map(|document| Object::admit(document, self.filters.as_ref(), now, before)).collect();
        let replaced: HashSet<&str> = admitted.iter().flatten().map(|object| object.document.name.as_str()).collect();
        let kept = self.stored(stored, &replaced);
        let vips = admitted.iter().flatten().filter(|object| matches!(object.spec, Spec::VirtualIp(_)));
        let over: Vec<Outline> = vips.filter_map(|vip| Outline::read(before(&vip.document.name)?)).collect();
        let outlines: Vec<Outline> = admitted.iter().flatten().map(Outline::of).collect();
        let beside =
            Beside::new(kept.iter().map(Arc::as_ref).chain(&outlines)).vips_max(self.vips_max).replacing(&over);
        let together: Vec<_> = admitted.iter().map(|object| Some(beside.check(object.as_ref().ok()?))).collect();
        let both = admitted.into_iter().zip(together);
        both.map(|(object, found)| {
            let (object, found) = (object.map_err(texts)?, found.unwrap_or_default());
            if !found.problems.is_empty() {
                return Err(texts(found.problems));
            }
            Ok(Checked {
                document: object.document.to_value(),
                generated: generated(&object),
                warnings: object.warnings.iter().chain(&found.warnings).map(|warning| warning.to_string()).collect(),
            })
        })
        .collect()
    }

    fn shown(&self, document: &Value) -> Value {
        self.secrets.hide(document)
    }

    fn restore_secrets(&self, document: &mut Value, stored: Option<&Value>) -> Vec<String> {
        self.secrets.restore(document, stored).iter().map(|problem| problem.to_string()).collect()
    }

    fn skeleton(&self, kind: &str) -> Option<String> {
        SKELETONS.iter().find(|(known, _)| *known == kind).map(|(_, text)| text.trim_start().to_owned())
    }

    fn explain(&self, query: &str) -> Result<String, String> {
        base_model::explain(query, &self.explained).map_err(|problem| problem.to_string())
    }

    fn filter_kinds(&self) -> Vec<String> {
        self.filters.kinds().into_iter().map(str::to_owned).collect()
    }

    fn filter_description(&self, kind: &str) -> Option<String> {
        self.descriptions.get(kind).cloned()
    }

    fn filter_schema(&self, kind: &str) -> Option<Value> {
        self.explained.iter().find(|known| known.kind == kind).map(|known| Value::clone(&known.schema))
    }

    fn filter_results(&self, kind: &str) -> Option<Vec<String>> {
        self.filters.results(kind).map(|results| results.into_iter().map(str::to_owned).collect())
    }
}

/// What there is because of this object: pipelines of an HTTPServer's `backendPool`s, and what a MockNamespacer makes in its namespace.
fn generated(object: &Object) -> Vec<Value> {
    match &object.spec {
        Spec::HttpServer(server) => of_pools(server, &object.document),
        Spec::MockNamespacer(spec) => {
            let mut all = Vec::new();
            for made in spec.makes() {
                if let Spec::HttpServer(server) = &made.spec {
                    all.extend(of_pools(server, &made.document));
                }
                all.push(made.document.to_value());
            }
            for document in &mut all {
                if !document["labels"].is_object() {
                    document["labels"] = json!({});
                }
                document["labels"][NAMESPACE_LABEL] = spec.namespace.as_str().into();
            }
            all
        }
        _ => Vec::new(),
    }
}

/// One pipeline for each `backendPool` that has no `backend` beside it, named by its place.
fn of_pools(server: &HttpServerSpec, document: &base_model::Document) -> Vec<Value> {
    let mut pipelines = Vec::new();
    for (r, rule) in server.rules.iter().enumerate() {
        for (p, path) in rule.paths.iter().enumerate() {
            if !path.backend.is_empty() || path.backend_pool.is_none() {
                continue;
            }
            // As it was written: the spec of the pool is read again with the pipeline.
            let Some(pool) = written(&document.spec, &["rules", "paths"], &[r, p], "backendPool") else {
                continue;
            };
            pipelines.push(json!({
                "name": namespaces::generated_pipeline(&document.name, r, p),
                "kind": "Pipeline",
                "flow": [{"filter": "proxy"}],
                "filters": [{"name": "proxy", "kind": "Proxy", "pools": [pool]}],
            }));
        }
    }
    pipelines
}

/// Follows keys without regard to case, as documents are read.
fn written<'v>(value: &'v Value, lists: &[&str], indexes: &[usize], last: &str) -> Option<&'v Value> {
    let field = |value: &'v Value, name: &str| {
        let fields = value.as_object()?;
        fields
            .get(name)
            .or_else(|| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
    };
    let mut at = value;
    for (list, index) in lists.iter().zip(indexes) {
        at = field(at, list)?.get(*index)?;
    }
    field(at, last)
}

const SKELETONS: &[(&str, &str)] = &[
    (
        "HTTPServer",
        r#"
name: NAME
kind: HTTPServer
port: 10080
keepAlive: true
keepAliveTimeout: 60s
maxConnections: 10240
https: false
rules:
- paths:
  - pathPrefix: /
    backend: PIPELINE
"#,
    ),
    (
        "Pipeline",
        r#"
name: NAME
kind: Pipeline
flow:
- filter: proxy
filters:
- name: proxy
  kind: Proxy
  pools:
  - servers:
    - url: http://127.0.0.1:9095
    loadBalance:
      policy: roundRobin
"#,
    ),
    (
        "VirtualIP",
        r#"
name: NAME
kind: VirtualIP
addresses: [203.0.113.10]
ports: [80, 443]
protocols: [TCP, UDP]
hash: fiveTuple
"#,
    ),
    (
        "AccessList",
        r#"
name: NAME
kind: AccessList
deny: [198.51.100.0/24, "2001:db8:bad::/48"]
allow: [198.51.100.7]
"#,
    ),
    (
        "TCPProxy",
        r#"
name: NAME
kind: TCPProxy
port: 5432
idleTimeout: 10m
pools:
- servers:
  - url: tcp://127.0.0.1:15432
  loadBalance:
    policy: roundRobin
"#,
    ),
    (
        "GRPCServer",
        r#"
name: NAME
kind: GRPCServer
port: 8850
rules:
- methods:
  - methodPrefix: /package.Service/
    backend: grpc-pipeline-demo
"#,
    ),
    (
        "UDPProxy",
        r#"
name: NAME
kind: UDPProxy
port: 53
idleTimeout: 60s
responses: 1
pools:
- servers:
  - url: udp://127.0.0.1:10053
"#,
    ),
    (
        "EtcdServiceRegistry",
        r#"
name: NAME
kind: EtcdServiceRegistry
endpoints: [http://127.0.0.1:2379]
prefix: /services/
"#,
    ),
    (
        "ConsulServiceRegistry",
        r#"
name: NAME
kind: ConsulServiceRegistry
address: 127.0.0.1:8500
scheme: http
"#,
    ),
    (
        "EurekaServiceRegistry",
        r#"
name: NAME
kind: EurekaServiceRegistry
endpoints: [http://127.0.0.1:8761/eureka]
"#,
    ),
    (
        "NacosServiceRegistry",
        r#"
name: NAME
kind: NacosServiceRegistry
servers:
- ipAddr: 127.0.0.1
  port: 8848
"#,
    ),
    (
        "ZookeeperServiceRegistry",
        r#"
name: NAME
kind: ZookeeperServiceRegistry
zkservices: ["127.0.0.1:2181"]
prefix: /services
"#,
    ),
    (
        "DNSServiceRegistry",
        r#"
name: NAME
kind: DNSServiceRegistry
port: 8080
"#,
    ),
    (
        "IngressController",
        r#"
name: NAME
kind: IngressController
httpServer:
  port: 80
ingressClass: easegress
"#,
    ),
    (
        "GatewayController",
        r#"
name: NAME
kind: GatewayController
"#,
    ),
    (
        "KubernetesServiceRegistry",
        r#"
name: NAME
kind: KubernetesServiceRegistry
"#,
    ),
    (
        "AutoCertManager",
        r#"
name: NAME
kind: AutoCertManager
email: ops@example.test
domains:
- name: example.test
"#,
    ),
    (
        "GlobalFilter",
        r#"
name: NAME
kind: GlobalFilter
beforePipeline:
  filters: []
afterPipeline:
  filters: []
"#,
    ),
    (
        "MockNamespacer",
        r#"
name: NAME
kind: MockNamespacer
namespace: staging
httpServers:
- name: web
  port: 10081
  rules:
  - paths:
    - pathPrefix: /
      backend: hello
pipelines:
- name: hello
  filters:
  - name: hello
    kind: Mock
    rules:
    - code: 200
"#,
    ),
    (
        "OverloadManager",
        r#"
name: NAME
kind: OverloadManager
actions:
- name: shedLowPriority
  triggers:
  - name: queueDelay
    scaled: {scalingThreshold: 0.5, saturationThreshold: 1}
"#,
    ),
    (
        "LogSink",
        r#"
name: NAME
kind: LogSink
logs: [access]
format: json
http: {url: "http://127.0.0.1:9200/logs"}
"#,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use control_api::Document;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    /// Counts how often it is asked, which every reading of a pipeline does.
    struct Counting(Arc<AtomicUsize>);

    impl FilterKinds for Counting {
        fn results(&self, _: &str) -> Option<Vec<&'static str>> {
            self.0.fetch_add(1, Relaxed);
            Some(Vec::new())
        }

        fn kinds(&self) -> Vec<&'static str> {
            vec!["Mock"]
        }
    }

    fn pipelines(prefix: &str, count: usize) -> Vec<Value> {
        let filter = json!({"name": "f", "kind": "Mock"});
        (0..count).map(|n| json!({"name": format!("{prefix}-{n}"), "kind": "Pipeline", "filters": [filter]})).collect()
    }

    fn stored(documents: Vec<Value>) -> Objects {
        documents.into_iter().map(|d| (d["name"].as_str().unwrap().to_owned(), Document::new(d))).collect()
    }

    #[test]
    fn what_is_stored_is_not_decoded_again() {
        let asked = Arc::new(AtomicUsize::new(0));
        let catalog = ModelCatalog::new(Box::new(Counting(asked.clone())), Vec::new(), BTreeMap::new());
        let counted = |documents: &[Value], stored: &Objects| {
            let before = asked.load(Relaxed);
            assert!(catalog.check(documents, stored).iter().all(Result::is_ok));
            asked.load(Relaxed) - before
        };
        let each = counted(&pipelines("one", 1), &Objects::new());
        let (a, b) = (pipelines("a", 20), pipelines("b", 20));
        let fifty = stored(pipelines("stored", 50));
        for _ in 0..3 {
            assert_eq!(counted(&a, &fifty), 20 * each);
            assert_eq!(counted(&b, &fifty), 20 * each);
        }
        let again: Objects = fifty.iter().map(|(n, d)| (n.clone(), Document::new(Value::clone(d)))).collect();
        assert_eq!(counted(&a, &again), 20 * each, "nor the same text in other memory");
    }

    /// Sixteen at the same time decode what sixteen in a row do: each document of a request once, and of what is stored nothing.
    #[test]
    fn requests_beside_each_other_decode_no_more_than_one_after_another() {
        let asked = Arc::new(AtomicUsize::new(0));
        let catalog = ModelCatalog::new(Box::new(Counting(asked.clone())), Vec::new(), BTreeMap::new());
        let there = stored(pipelines("stored", 1000));
        let sets: Vec<Vec<Value>> = (0..16).map(|n| pipelines(&format!("set-{n}"), 100)).collect();
        let checked = |set: &Vec<Value>| assert!(catalog.check(set, &there).iter().all(Result::is_ok));
        sets.iter().for_each(checked);
        let in_a_row = asked.swap(0, Relaxed);
        let before = catalog.stored(&there, &HashSet::new());
        std::thread::scope(|threads| sets.iter().for_each(|set| drop(threads.spawn(|| checked(set)))));
        assert_eq!(asked.load(Relaxed), in_a_row);
        let after = catalog.stored(&there, &HashSet::new());
        assert!(before.len() == 1000 && before.iter().zip(&after).all(|(before, after)| Arc::ptr_eq(before, after)));
    }

    #[test]
    fn a_document_that_was_replaced_is_not_kept() {
        let catalog = ModelCatalog::new(Box::new(Counting(Arc::default())), Vec::new(), BTreeMap::new());
        let there = stored(vec![json!({"name": "old", "kind": "HTTPServer", "port": 80})]);
        let document = Arc::downgrade(&there["old"]);
        assert_eq!(catalog.check(&[], &there).len(), 0);
        drop(there);
        assert!(document.upgrade().is_none());
    }

    #[test]
    fn outlines_follow_what_is_stored() {
        let catalog = ModelCatalog::new(Box::new(Counting(Arc::default())), Vec::new(), BTreeMap::new());
        let server = |name: &str, port: u16| json!({"name": name, "kind": "HTTPServer", "port": port});
        let fits = |port: u16, there: Vec<Value>| catalog.check(&[server("new", port)], &stored(there))[0].is_ok();
        assert!(!fits(80, vec![server("old", 80)]));
        assert!(fits(80, vec![server("old", 81)]), "the old one has moved");
        assert!(!fits(81, vec![server("old", 81)]));
        assert!(fits(81, vec![]), "and is gone");
    }
}
