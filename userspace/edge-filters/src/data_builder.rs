//! Keeps what a template says, for the templates after it.
//!
//! ```yaml
//! name: remember
//! kind: DataBuilder
//! dataKey: order
//! template: |
//!   id: {{.req.JSONBody.id | toJson}}
//!   items: {{.req.JSONBody.items | toJson}}
//! ```
//!
//! Later templates read `.data.order.id`. The text is read as YAML, in which texts of a message stay texts; `toJson` gives
//! their structure, and a template that is nothing but a body (`{{.req.Body}}`) keeps what that body says.
//!
//! Outcomes: `buildErr` (the template failed or its text is not YAML). Fits HTTPServer. Costs a run of the template and
//! the parsing of what it says.

use crate::builder::{self, BUILD_ERR, TemplateText};
use crate::built;
use crate::module_doc::module_doc;
use crate::spec::{self, Spec};
use base_model::problem::at;
use base_model::{Findings, Problem};
use edge_pipeline::{BuildError, Exchange, Filter, FilterKind, Outcome, SUCCESS, Step, Template, Touches};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `kind: DataBuilder`: keeps what a template says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["dataKey", "template"]))]
pub struct DataBuilderSpec {
    /// Under which key of `.data` it is kept. Not PIPELINE, which is the pipeline's own.
    pub data_key: String,
    /// Go template that gives YAML.
    pub template: String,
    /// Left delimiter of the template. Default `{{`.
    pub left_delim: String,
    /// Right delimiter of the template. Default `}}`.
    pub right_delim: String,
}

impl Spec for DataBuilderSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        match self.data_key.as_str() {
            "" => findings.problem(Problem::new(at(path, "dataKey"), "is empty").advice("name the key of .data")),
            "PIPELINE" => findings.problem(
                Problem::new(at(path, "dataKey"), "PIPELINE is the pipeline's own data").advice("choose another key"),
            ),
            _ => {}
        }
        self.template_text().check(path, findings);
    }
}

impl DataBuilderSpec {
    fn template_text(&self) -> TemplateText<'_> {
        TemplateText { text: &self.template, left: &self.left_delim, right: &self.right_delim }
    }
}

/// A ready DataBuilder.
pub struct DataBuilder {
    key: String,
    template: Template,
    refused: builder::Refusals,
}

pub const KIND: FilterKind = FilterKind {
    kind: "DataBuilder",
    results: &[BUILD_ERR],
    doc: module_doc!("data_builder.rs"),
    schema: spec::schema::<DataBuilderSpec>,
    check: spec::check::<DataBuilderSpec>,
    build: |fields, parts| spec::build(fields, |spec| DataBuilder::new(spec, builder::refusals(parts))),
};

impl DataBuilder {
    fn new(spec: DataBuilderSpec, refused: builder::Refusals) -> Result<DataBuilder, BuildError> {
        Ok(DataBuilder { template: spec.template_text().parse()?, key: spec.data_key, refused })
    }

    fn keep(&self, exchange: &mut Exchange) -> Outcome {
        match built::render_any(&self.template, exchange) {
            Ok(value) => {
                exchange.data.insert(self.key.clone(), value);
                SUCCESS
            }
            Err(error) => builder::failed(exchange, KIND.kind, &error, &self.refused),
        }
    }
}

impl Filter for DataBuilder {
    fn touches(&self) -> Touches {
        self.template.bodies().touches()
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        if !self.template.bodies().on_their_way(exchange) {
            return Step::Done(self.keep(exchange));
        }
        Step::wait(async {
            match builder::collect(&self.template, exchange).await {
                Ok(()) => self.keep(exchange),
                Err(error) => builder::failed(exchange, KIND.kind, &error, &self.refused),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use serde_json::{Value, json};

    #[test]
    fn data_is_kept() {
        for (template, outcome, data) in [
            ("id: {{.req.JSONBody.id}}\nlist: [1, two]", SUCCESS, json!({"id": 7, "list": [1, "two"]})),
            ("{{.req.Body}}", SUCCESS, json!({"id": 7})),
            ("", SUCCESS, Value::Null),
            ("{{panic \"x\"}}", BUILD_ERR, Value::Null),
            ("a: b: c", BUILD_ERR, Value::Null),
        ] {
            let spec = json!({ "dataKey": "k", "template": template }).to_string();
            let mut exchange = request_with("POST", "/", &[], b"{\"id\": 7}");
            assert_eq!(run(&*filter(&KIND, &spec), &mut exchange), outcome, "{template}");
            assert_eq!(exchange.data.get("k").cloned().unwrap_or_default(), data, "{template}");
        }
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{dataKey: PIPELINE, template: a}", &["dataKey"]);
        refuses(&KIND, "{}", &["dataKey", "template"]);
    }
}
