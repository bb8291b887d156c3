//! Puts a fixed answer in place of whatever was answered.
//!
//! Use it as the target of a `jumpIf` behind a Proxy, to say something friendlier than its error.
//!
//! ```yaml
//! name: sorry
//! kind: Fallback
//! mockCode: 200
//! mockHeaders: {Content-Type: application/json}
//! mockBody: '{"items": []}'
//! ```
//!
//! `503` of the Proxy → `200 {"items": []}`; headers of the former answer that are not named stay.
//!
//! Outcomes: always `fallback`. (`responseNotFound` may be named in `jumpIf` as in Easegress; it does not happen: without
//! a response there is one afterwards.) Fits HTTPServer. Costs next to nothing.

use crate::module_doc::module_doc;
use crate::spec::{self, Spec, check_final_status, check_headers};
use base_model::problem::at;
use base_model::{Findings, HttpCode};
use bytes::Bytes;
use edge_pipeline::{Body, BuildError, Exchange, Filter, FilterKind, Outcome, Step, Touches};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const FALLBACK: Outcome = "fallback";
const RESPONSE_NOT_FOUND: Outcome = "responseNotFound";

/// `kind: Fallback`: puts a fixed answer in place of whatever was answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["mockCode"]))]
pub struct FallbackSpec {
    /// Status to answer with, 200 to 599.
    pub mock_code: HttpCode,
    /// Header fields to set.
    pub mock_headers: BTreeMap<String, String>,
    /// Body to answer with. Default: empty.
    pub mock_body: String,
}

impl Default for FallbackSpec {
    fn default() -> FallbackSpec {
        FallbackSpec {
            mock_code: const { HttpCode::new(200).unwrap() },
            mock_headers: BTreeMap::new(),
            mock_body: String::new(),
        }
    }
}

impl Spec for FallbackSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        check_final_status(self.mock_code.code(), at(path, "mockCode"), findings);
        check_headers(&self.mock_headers, &at(path, "mockHeaders"), findings);
    }
}

/// A ready Fallback.
pub struct Fallback {
    code: u16,
    headers: Vec<(Box<str>, Box<str>)>,
    body: Bytes,
}

pub const KIND: FilterKind = FilterKind {
    kind: "Fallback",
    results: &[FALLBACK, RESPONSE_NOT_FOUND],
    doc: module_doc!("fallback.rs"),
    schema: spec::schema::<FallbackSpec>,
    check: spec::check::<FallbackSpec>,
    build: |fields, _| spec::build(fields, Fallback::new),
};

impl Fallback {
    fn new(spec: FallbackSpec) -> Result<Fallback, BuildError> {
        Ok(Fallback {
            code: spec.mock_code.code(),
            headers: spec.mock_headers.into_iter().map(|(n, v)| (n.into(), v.trim().into())).collect(),
            body: spec.mock_body.into(),
        })
    }
}

impl Filter for Fallback {
    fn is_repeatable(&self) -> bool {
        true
    }

    fn touches(&self) -> Touches {
        Touches::RESPONSE
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let space = exchange.space();
        let response = space.response.get_or_insert_default();
        response.status = self.code;
        // They spoke of the body that goes.
        crate::coding::replaced(&mut response.headers);
        for (name, value) in &self.headers {
            response.headers.set(&**name, &**value);
        }
        space.response_body = Body::shared(self.body.clone());
        Step::Done(FALLBACK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn replaces_an_answer_or_makes_one() {
        let spec = "{mockCode: 203, mockHeaders: {X-F: a}, mockBody: sorry}";
        let mut exchange = request("GET", "/", &[]);
        answer(&mut exchange, 503, &[("Content-Encoding", "gzip"), ("X-Keep", "k"), ("x-f", "old")], b"zipped");
        check(spec, exchange, Some("k"));
        check(spec, request("GET", "/", &[]), None);
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{mockBody: x}", &["mockCode"]);
        refuses(&KIND, "{mockCode: 600}", &["mockCode"]);
        refuses(&KIND, "{mockCode: 200, mockHeaders: {X: \"a\\nb\"}}", &["mockHeaders.X"]);
    }

    fn check(spec: &str, mut exchange: Exchange, kept: Option<&str>) {
        assert_eq!(run(&*filter(&KIND, spec), &mut exchange), FALLBACK);
        assert_eq!((status_of(&exchange), body_of(&exchange)), (203, &b"sorry"[..]));
        assert_eq!(response_header(&exchange, "X-F"), Some("a"));
        assert_eq!(response_header(&exchange, "X-Keep"), kept);
        assert_eq!(response_header(&exchange, "Content-Encoding"), None);
    }
}
