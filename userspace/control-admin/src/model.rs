//! The [`Catalog`] made of base-model: what remains for the server to bring is the list of filters.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use base_model::explain::Explained;
use base_model::object::Beside;
use base_model::{FilterKinds, Object, Secrets, Spec, kinds};
use control_api::Document;
use serde_json::{Value, json};

use crate::catalog::{Catalog, Category, Checked, KindInfo};

pub struct ModelCatalog {
    filters: Box<dyn FilterKinds + Send + Sync>,
    explained: Vec<Explained>,
    secrets: Secrets,
    descriptions: BTreeMap<String, String>,
    /// Stored objects as they were read last, by name: a change costs the reading of what it holds, however many objects there are.
    /// What a request brings is never kept here, so requests that run at the same time do not take each other's readings away.
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

    /// The stored objects, but for those that `replaced` names. What is not known yet is read without the lock: nobody waits for
    /// another's reading.
    fn stored(&self, stored: &BTreeMap<String, Document>, replaced: &HashSet<&str>) -> Vec<Arc<Object>> {
        let mut objects = Vec::with_capacity(stored.len());
        let mut unread = Vec::new();
        {
            let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            for (name, document) in stored.iter().filter(|(name, _)| !replaced.contains(name.as_str())) {
                match read.get(name) {
                    Some((known, object)) if Arc::ptr_eq(known, document) => objects.push(object.clone()),
                    known => unread.push((name, document, known.cloned())),
                }
            }
        }
        let mut fresh = Vec::with_capacity(unread.len());
        for (name, document, known) in unread {
            let object = match known {
                // The same text by another way, such as a snapshot.
                Some((known, object)) if known == *document => object,
                // What cannot be read is somebody else's problem: it is told when that document is checked.
                _ => match Object::read(document, self.filters.as_ref()) {
                    Ok(object) => Arc::new(object),
                    Err(_) => continue,
                },
            };
            objects.push(object.clone());
            fresh.push((name.clone(), (document.clone(), object)));
        }
        if !fresh.is_empty() {
            let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
            read.extend(fresh);
            if read.len() > stored.len() {
                read.retain(|name, _| stored.contains_key(name));
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

    fn check(&self, documents: &[Value], stored: &BTreeMap<String, Document>) -> Vec<Result<Checked, Vec<String>>> {
        let texts =
            |problems: Vec<base_model::Problem>| -> Vec<String> { problems.iter().map(|p| p.to_string()).collect() };
        let now = SystemTime::now();
        let before = |name: &str| stored.get(name).map(|document| document.as_ref());
        let admitted: Vec<_> =
            documents.iter().map(|document| Object::admit(document, self.filters.as_ref(), now, before)).collect();
        let replaced: HashSet<&str> = admitted.iter().flatten().map(|object| object.document.name.as_str()).collect();
        let stored = self.stored(stored, &replaced);
        let beside = Beside::new(stored.iter().map(Arc::as_ref).chain(admitted.iter().flatten()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::sync::mpsc;

    /// Counts how often it is asked, which every reading of a pipeline does; the kind `Slow` waits for a word.
    struct Counting {
        asked: Arc<AtomicUsize>,
        gate: Mutex<mpsc::Receiver<()>>,
    }

    impl FilterKinds for Counting {
        fn results(&self, kind: &str) -> Option<Vec<&'static str>> {
            self.asked.fetch_add(1, Relaxed);
            if kind == "Slow" {
                self.gate.lock().unwrap().recv().unwrap();
            }
            Some(Vec::new())
        }

        fn kinds(&self) -> Vec<&'static str> {
            vec!["Mock", "Slow"]
        }
    }

    fn catalog() -> (Arc<ModelCatalog>, Arc<AtomicUsize>, mpsc::Sender<()>) {
        let (go, gate) = mpsc::channel();
        let asked = Arc::new(AtomicUsize::new(0));
        let filters = Counting { asked: asked.clone(), gate: Mutex::new(gate) };
        (Arc::new(ModelCatalog::new(Box::new(filters), Vec::new(), BTreeMap::new())), asked, go)
    }

    fn pipelines(prefix: &str, kind: &str, count: usize) -> Vec<Value> {
        let one =
            |n| json!({"name": format!("{prefix}-{n}"), "kind": "Pipeline", "filters": [{"name": "f", "kind": kind}]});
        (0..count).map(one).collect()
    }

    fn stored(documents: Vec<Value>) -> BTreeMap<String, Document> {
        documents.into_iter().map(|d| (d["name"].as_str().unwrap().to_owned(), Document::new(d))).collect()
    }

    #[test]
    fn requests_that_take_turns_read_what_is_stored_once() {
        let (catalog, asked, _go) = catalog();
        let stored = stored(pipelines("stored", "Mock", 50));
        let counted = |documents: &[Value], stored: &BTreeMap<String, Document>| {
            let before = asked.load(Relaxed);
            assert!(catalog.check(documents, stored).iter().all(Result::is_ok));
            asked.load(Relaxed) - before
        };
        let each = counted(&pipelines("one", "Mock", 1), &BTreeMap::new());
        let (a, b) = (pipelines("a", "Mock", 20), pipelines("b", "Mock", 20));
        counted(&a, &stored);
        for _ in 0..3 {
            assert_eq!(counted(&a, &stored), 20 * each);
            assert_eq!(counted(&b, &stored), 20 * each);
        }
        let again: BTreeMap<_, _> = stored.iter().map(|(n, d)| (n.clone(), Document::new(Value::clone(d)))).collect();
        assert_eq!(counted(&a, &again), 20 * each, "the same text in other memory is not read again");
    }

    #[test]
    fn a_slow_reading_holds_nobody_up() {
        let (catalog, _asked, go) = catalog();
        let busy = catalog.clone();
        let slow = std::thread::spawn(move || busy.check(&[], &stored(pipelines("slow", "Slow", 1))).len());
        let ours = stored(pipelines("stored", "Mock", 3));
        assert!(catalog.check(&pipelines("a", "Mock", 1), &ours)[0].is_ok(), "it did not wait for the other");
        go.send(()).unwrap();
        assert_eq!(slow.join().unwrap(), 0);
    }
}
