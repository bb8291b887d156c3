//! From the fields of a document to a ready filter: what every kind does the same way.

use base_model::{Findings, Problem, decode, schema_of};
use edge_pipeline::{BuildError, Filter};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

/// What users write of one kind, beside `name` and `kind`.
pub(crate) trait Spec: DeserializeOwned + JsonSchema {
    /// Finds what the schema cannot say.
    fn validate(&self, path: &str, findings: &mut Findings);
}

pub(crate) fn schema<S: Spec>() -> Value {
    (*schema_of::<S>()).clone()
}

/// Reads and validates the fields, and files every problem and every warning.
pub(crate) fn check<S: Spec>(fields: &Value, path: &str, findings: &mut Findings) {
    findings.read(fields, path, |spec: &S, findings| spec.validate(path, findings));
}

/// Reads, validates and builds.
pub(crate) fn build<S: Spec, F: Filter>(
    fields: &Value,
    new: impl FnOnce(S) -> Result<F, BuildError>,
) -> Result<Arc<dyn Filter>, BuildError> {
    Ok(Arc::new(new(of::<S>(fields)?)?))
}

/// Reads and validates the fields, for what is built elsewhere.
pub(crate) fn of<S: Spec>(fields: &Value) -> Result<S, BuildError> {
    let spec = decode::<S>(fields, "")?.value;
    let mut findings = Findings::default();
    spec.validate("", &mut findings);
    if findings.refuse_stored() { Err(findings.problems) } else { Ok(spec) }
}

/// A failure that validation should have found, as a problem all the same.
pub(crate) fn unexpected(path: &str, why: impl Into<String>) -> BuildError {
    vec![Problem::new(path, why)]
}

/// Files a problem for a status that no final response has.
pub(crate) fn check_final_status(code: u16, path: String, findings: &mut Findings) {
    if !(200..=599).contains(&code) {
        let problem = Problem::new(path, "not a status a response can end with").value(&Value::from(code));
        let problem = problem.accepted("200 to 599");
        findings.problem(if code < 200 { problem } else { problem.late() });
    }
}

/// Files a problem for a path, or the beginning of one, that no request has.
pub(crate) fn check_rooted(text: &str, path: String, findings: &mut Findings) {
    if !text.is_empty() && !text.starts_with('/') {
        let problem = Problem::new(path, "does not begin with /").text(text);
        findings.problem(problem.advice(format!("write /{text}")).late());
    }
}

/// Files a problem for every field that could not be sent.
pub(crate) fn check_headers<'a>(
    headers: impl IntoIterator<Item = (&'a String, &'a String)>,
    path: &str,
    findings: &mut Findings,
) {
    use base_model::header_adapt::{is_header_name, is_header_value, warn_owned};
    for (name, value) in headers {
        warn_owned([name], |name| base_model::problem::at(path, name), findings);
        let at = base_model::problem::at(path, name);
        if !is_header_name(name) {
            findings.problem(Problem::new(&at, "not a header name").text(name));
        }
        if !is_header_value(value) {
            findings.problem(Problem::new(&at, "a header value cannot hold control characters").text(value));
        }
    }
}
