//! The [`Catalog`] made of base-model: what remains for the server to bring is the list of filters.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use base_model::explain::Explained;
use base_model::object::check_together;
use base_model::{FilterKinds, Object, Secrets, Spec, kinds};
use control_api::Document;
use serde_json::{Value, json};

use crate::catalog::{Catalog, Category, Checked, KindInfo};

pub struct ModelCatalog {
    filters: Box<dyn FilterKinds + Send + Sync>,
    explained: Vec<Explained>,
    secrets: Secrets,
    descriptions: BTreeMap<String, String>,
    /// Objects as they were read last, by name. A document that is still the same `Arc` is not read again, so a change
    /// costs the reading of one document however many there are.
    read: Mutex<HashMap<String, (Document, Arc<Object>)>>,
}

impl ModelCatalog {
    /// `explained` holds the filters' schemas, `descriptions` a text for each filter.
    pub fn new(
        filters: Box<dyn FilterKinds + Send + Sync>,
        explained: Vec<Explained>,
        descriptions: BTreeMap<String, String>,
    ) -> Self {
        let secrets = Secrets::new(&explained);
        ModelCatalog { filters, explained, secrets, descriptions, read: Mutex::default() }
    }

    fn others(&self, but: &str, others: &BTreeMap<String, Document>) -> Vec<Arc<Object>> {
        let mut read = self.read.lock().expect("no code panics while it holds the read objects");
        read.retain(|name, _| others.contains_key(name));
        let mut objects = Vec::with_capacity(others.len());
        for (name, document) in others.iter().filter(|(name, _)| *name != but) {
            match read.get(name) {
                Some((known, object)) if Arc::ptr_eq(known, document) => objects.push(object.clone()),
                // What cannot be read is somebody else's problem: it is told when that document is checked.
                _ => {
                    if let Ok(object) = Object::read(document, self.filters.as_ref()) {
                        let object = Arc::new(object);
                        read.insert(name.clone(), (document.clone(), object.clone()));
                        objects.push(object);
                    }
                }
            }
        }
        objects
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

    fn check(&self, document: &Value, others: &BTreeMap<String, Document>) -> Result<Checked, Vec<String>> {
        let texts =
            |problems: Vec<base_model::Problem>| -> Vec<String> { problems.iter().map(|p| p.to_string()).collect() };
        let object = Object::admit(document, self.filters.as_ref(), SystemTime::now()).map_err(texts)?;
        let others = self.others(&object.document.name, others);
        let found = check_together(&object, others.iter().map(Arc::as_ref));
        if !found.problems.is_empty() {
            return Err(texts(found.problems));
        }
        Ok(Checked {
            document: object.document.to_value(),
            generated: generated(&object),
            warnings: object.warnings.iter().chain(&found.warnings).map(|warning| warning.to_string()).collect(),
        })
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

/// One pipeline for each `backendPool` that has no `backend` beside it, named by its place.
fn generated(object: &Object) -> Vec<Value> {
    let Spec::HttpServer(server) = &object.spec else { return Vec::new() };
    let mut pipelines = Vec::new();
    for (r, rule) in server.rules.iter().enumerate() {
        for (p, path) in rule.paths.iter().enumerate() {
            if !path.backend.is_empty() || path.backend_pool.is_none() {
                continue;
            }
            // As it was written: the spec of the pool is read again with the pipeline.
            let Some(pool) = written(&object.document.spec, &["rules", "paths"], &[r, p], "backendPool") else {
                continue;
            };
            pipelines.push(json!({
                "name": format!("GENERATED-{}-{r}-{p}", object.document.name),
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
];
