//! Turns the text of a template into a result: a switch for `jumpIf`.
//!
//! ```yaml
//! flow:
//! - {filter: language, jumpIf: {result1: german}}
//! - filter: english
//! - filter: END
//! - filter: german
//! filters:
//! - name: language
//!   kind: ResultBuilder
//!   template: '{{if eq (.req.Header.Get "X-Lang") "de"}}result1{{end}}'
//! ```
//!
//! Outcomes: `result0` to `result9` as the template says, none when it says nothing, `unknown` for any other text,
//! `buildErr` when it fails. White space around the text does not count. Fits HTTPServer. Costs a run of the template.

use crate::builder::{self, BUILD_ERR, TemplateText};
use crate::built::BuiltError;
use crate::module_doc::module_doc;
use crate::spec::{self, Spec};
use base_model::problem::at;
use base_model::{Findings, Problem};
use edge_pipeline::{BuildError, Exchange, Filter, FilterKind, Outcome, SUCCESS, Step, Template, Touches};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const UNKNOWN: Outcome = "unknown";
const RESULTS: [Outcome; 10] =
    ["result0", "result1", "result2", "result3", "result4", "result5", "result6", "result7", "result8", "result9"];

/// `kind: ResultBuilder`: a switch for `jumpIf`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["template"]))]
pub struct ResultBuilderSpec {
    /// Go template that gives nothing, or `result0` to `result9`.
    pub template: String,
    /// Left delimiter of the template. Default `{{`.
    pub left_delim: String,
    /// Right delimiter of the template. Default `}}`.
    pub right_delim: String,
}

impl Spec for ResultBuilderSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        if self.template.is_empty() {
            findings.problem(Problem::new(at(path, "template"), "is empty").advice("write what the result depends on"));
        }
        self.template_text().check(path, findings);
    }
}

impl ResultBuilderSpec {
    fn template_text(&self) -> TemplateText<'_> {
        TemplateText { text: &self.template, left: &self.left_delim, right: &self.right_delim }
    }
}

/// A ready ResultBuilder.
pub struct ResultBuilder {
    template: Template,
    refused: builder::Refusals,
}

pub const KIND: FilterKind = FilterKind {
    kind: "ResultBuilder",
    results: &[
        RESULTS[0], RESULTS[1], RESULTS[2], RESULTS[3], RESULTS[4], RESULTS[5], RESULTS[6], RESULTS[7], RESULTS[8],
        RESULTS[9], UNKNOWN, BUILD_ERR,
    ],
    doc: module_doc!("result_builder.rs"),
    schema: spec::schema::<ResultBuilderSpec>,
    check: spec::check::<ResultBuilderSpec>,
    build: |fields, parts| spec::build(fields, |spec| ResultBuilder::new(spec, builder::refusals(parts))),
};

impl ResultBuilder {
    fn new(spec: ResultBuilderSpec, refused: builder::Refusals) -> Result<ResultBuilder, BuildError> {
        Ok(ResultBuilder { template: spec.template_text().parse()?, refused })
    }

    fn decide(&self, exchange: &mut Exchange) -> Outcome {
        match self.template.render(exchange) {
            Ok(text) => result_of(text.trim()),
            Err(error) => builder::failed(exchange, KIND.kind, &BuiltError::Render(error), &self.refused),
        }
    }
}

impl Filter for ResultBuilder {
    fn touches(&self) -> Touches {
        self.template.bodies().touches()
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        if !self.template.bodies().on_their_way(exchange) {
            return Step::Done(self.decide(exchange));
        }
        Step::wait(async {
            match builder::collect(&self.template, exchange).await {
                Ok(()) => self.decide(exchange),
                Err(error) => builder::failed(exchange, KIND.kind, &error, &self.refused),
            }
        })
    }
}

fn result_of(text: &str) -> Outcome {
    match text {
        "" => SUCCESS,
        text => RESULTS.into_iter().find(|r| *r == text).unwrap_or(UNKNOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn results() {
        for (template, outcome) in [
            ("{{if eq (.req.Header.Get \"X-G\") \"de\"}}result1{{else}}{{end}}", "result1"),
            ("{{if eq (.req.Header.Get \"X-G\") \"en\"}}result1{{else}}{{end}}", SUCCESS),
            (" result9\n", "result9"),
            ("foo", UNKNOWN),
            ("result10", UNKNOWN),
            ("{{.req.Body}}", "result3"),
            ("{{index list 3}}", BUILD_ERR),
        ] {
            let spec = serde_json::json!({ "template": template }).to_string();
            let mut exchange = request("GET", "/", &[("X-G", "de")]);
            exchange.space().request_body = edge_pipeline::Body::Stream(Box::new(Pieces(vec![b"result3"])));
            assert_eq!(run(&*filter(&KIND, &spec), &mut exchange), outcome, "{template}");
        }
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{}", &["template"]);
        refuses(&KIND, "{template: '{{end}}'}", &["template"]);
    }
}
