//! `kind: GlobalFilter`: flows around every pipeline of a server.

use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::dates::Dates;
use crate::pipeline::{FilterKinds, PipelineSpec};
use crate::problem::{Findings, Problem, at};

/// Flows that run before and after the pipeline of every routed request. At least one of them is needed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct GlobalFilterSpec {
    /// Runs before the pipeline. When it ends early, neither the pipeline nor the flow after it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_pipeline: Option<PipelineSpec>,
    /// Runs after the pipeline, unless that ended early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_pipeline: Option<PipelineSpec>,
    /// Whether to go on although a part ended early.
    pub fallthrough: FallthroughSpec,
}

/// Whether to go on although a part ended early.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FallthroughSpec {
    /// Go on with the pipeline after `beforePipeline` ended early. Default false.
    pub before_pipeline: bool,
    /// Go on with `afterPipeline` after the pipeline ended early. Default false.
    pub pipeline: bool,
}

impl GlobalFilterSpec {
    pub fn validate(&self, path: &str, kinds: &dyn FilterKinds, findings: &mut Findings) {
        if self.before_pipeline.is_none() && self.after_pipeline.is_none() {
            let problem = Problem::new(path, "neither beforePipeline nor afterPipeline");
            findings.problem(problem.advice("give at least one of them, with flow and filters"));
        }
        for (name, pipeline) in [("beforePipeline", &self.before_pipeline), ("afterPipeline", &self.after_pipeline)] {
            if let Some(pipeline) = pipeline {
                pipeline.validate(&at(path, name), kinds, findings);
            }
        }
    }

    /// As [`PipelineSpec::check_certificates`].
    pub fn check_certificates(&self, path: &str, now: SystemTime, dates: &mut Dates, findings: &mut Findings) {
        for (name, pipeline) in [("beforePipeline", &self.before_pipeline), ("afterPipeline", &self.after_pipeline)] {
            if let Some(pipeline) = pipeline {
                pipeline.check_certificates(&at(path, name), now, dates, findings);
            }
        }
    }
}
