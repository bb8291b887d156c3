//! `kind: MockNamespacer`: servers and pipelines in a namespace of their own.
//!
//! ```yaml
//! kind: MockNamespacer
//! name: staging
//! namespace: staging
//! httpServers:
//! - name: web
//!   port: 10081
//!   rules: [{paths: [{pathPrefix: /, backend: hello}]}]
//! pipelines:
//! - name: hello
//!   filters: [{name: hello, kind: Mock, rules: [{code: 200, body: hello}]}]
//! ```
//! What they name they find among themselves, and names of other namespaces are free. They live and die with this object.

use std::collections::BTreeSet;
use std::time::SystemTime;

use base_text::quoted;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::dates::Dates;
use crate::document::{Document, check_name};
use crate::http_server::HttpServerSpec;
use crate::namespaces::DEFAULT_NAMESPACE;
use crate::object::Spec;
use crate::pipeline::{FilterKinds, PipelineSpec};
use crate::problem::{Findings, Problem, at, nth, within};

/// Servers and pipelines in a namespace beside `default`: to try `--namespace` of `weirctl` with, and a second set of objects whose names
/// are others' already.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["namespace"]))]
pub struct MockNamespacerSpec {
    /// Where they are: a name, as objects have one, other than `default`.
    pub namespace: String,
    /// Each as an HTTPServer's document has it, with its `name`; `kind` may be left out. Their ports are those of the machine, like
    /// everybody's. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kind" = "HTTPServer"))]
    pub http_servers: Vec<Value>,
    /// Each as a Pipeline's document has it, with its `name`; `kind` may be left out. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kind" = "Pipeline"))]
    pub pipelines: Vec<Value>,
}

/// One that it makes: its document, and what that says.
pub struct Made {
    pub document: Document,
    pub spec: Spec,
}

impl MockNamespacerSpec {
    pub fn validate(&self, path: &str, filters: &dyn FilterKinds, findings: &mut Findings) {
        let place = at(path, "namespace");
        match check_name(&self.namespace, &place) {
            Some(problem) => findings.problem(problem),
            None if self.namespace == DEFAULT_NAMESPACE => findings.problem(
                Problem::new(place, "what people write themselves is there")
                    .text(&self.namespace)
                    .advice("take another name, or write the servers and pipelines as documents of their own"),
            ),
            None => {}
        }
        if self.http_servers.is_empty() && self.pipelines.is_empty() {
            findings.warn(at(path, "httpServers"), "neither servers nor pipelines: nothing is made");
        }
        let (mut names, mut servers, mut pipelines) = (BTreeSet::new(), Vec::new(), BTreeSet::new());
        for (list, kind, items) in self.lists() {
            for (n, item) in items.iter().enumerate() {
                let place = nth(&at(path, list), n);
                let Some(Made { document, spec }) = read(item, kind, &place, filters, findings) else { continue };
                if !names.insert(document.name.clone()) {
                    let message = format!("another one here is named {}", quoted(&document.name));
                    findings.problem(Problem::new(at(&place, "name"), message).advice("give each a name of its own"));
                }
                match spec {
                    Spec::HttpServer(server) => servers.push((place, server)),
                    _ => drop(pipelines.insert(document.name)),
                }
            }
        }
        for (place, server) in servers {
            for (r, rule) in server.rules.iter().enumerate() {
                let lost = |backend: &str| !backend.is_empty() && !pipelines.contains(backend);
                for (p, path) in rule.paths.iter().enumerate().filter(|(_, path)| lost(&path.backend)) {
                    let text = format!("there is no Pipeline {} here; its requests get 503", path.backend);
                    findings.warn(format!("{place}.rules[{r}].paths[{p}].backend"), text);
                }
            }
        }
    }

    /// As [`HttpServerSpec::check_certificates`], of all it makes.
    pub(crate) fn check_certificates(&self, now: SystemTime, dates: &mut Dates, findings: &mut Findings) {
        for (list, kind, items) in self.lists() {
            for (n, item) in items.iter().enumerate() {
                let place = nth(list, n);
                // What cannot be read was told before.
                match read(item, kind, &place, &Any, &mut Findings::default()).map(|made| made.spec) {
                    Some(Spec::HttpServer(server)) => server.check_certificates(&place, now, dates, findings),
                    Some(Spec::Pipeline(pipeline)) => pipeline.check_certificates(&place, now, dates, findings),
                    _ => {}
                }
            }
        }
    }

    /// What it makes, servers first.
    pub fn makes(&self) -> Vec<Made> {
        let each =
            self.lists().into_iter().flat_map(|(list, kind, items)| items.iter().map(move |item| (list, kind, item)));
        each.filter_map(|(list, kind, item)| read(item, kind, list, &Any, &mut Findings::default())).collect()
    }

    fn lists(&self) -> [(&'static str, &'static str, &[Value]); 2] {
        [("httpServers", "HTTPServer", &self.http_servers), ("pipelines", "Pipeline", &self.pipelines)]
    }
}

fn read(item: &Value, kind: &str, path: &str, filters: &dyn FilterKinds, findings: &mut Findings) -> Option<Made> {
    let prefixed = |problem: Problem| {
        let mut problem = problem;
        problem.path = within(path, &problem.path);
        problem
    };
    let Some(fields) = item.as_object() else {
        findings.problem(
            Problem::new(path, format!("not a {kind}: a mapping with its name and its fields is wanted")).value(item),
        );
        return None;
    };
    let mut whole = item.clone();
    match fields.iter().find(|(key, _)| key.eq_ignore_ascii_case("kind")) {
        Some((_, said)) if said != kind => {
            findings.problem(Problem::new(at(path, "kind"), "another kind").value(said).accepted(kind));
            return None;
        }
        Some(_) => {}
        None => whole["kind"] = json!(kind),
    }
    let (document, problems) = Document::parse_with_problems(&whole);
    let wrong = !problems.is_empty();
    problems.into_iter().map(prefixed).for_each(|problem| findings.problem(problem));
    let document = document?;
    let spec = match kind {
        "HTTPServer" => {
            let check = |spec: &HttpServerSpec, findings: &mut Findings| spec.validate(path, findings);
            let spec = findings.read(&document.spec, path, check)?;
            Spec::HttpServer(Box::new(spec))
        }
        _ => {
            let check = |spec: &PipelineSpec, findings: &mut Findings| spec.validate(path, filters, findings);
            let spec = findings.read(&document.spec, path, check)?;
            Spec::Pipeline(Box::new(spec))
        }
    };
    (!wrong).then_some(Made { document, spec })
}

/// Where filters were looked at already.
struct Any;

impl FilterKinds for Any {
    fn results(&self, _: &str) -> Option<Vec<&'static str>> {
        Some(Vec::new())
    }

    fn kinds(&self) -> Vec<&'static str> {
        Vec::new()
    }
}
