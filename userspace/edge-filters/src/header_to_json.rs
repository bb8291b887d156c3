//! Puts values of header fields into a JSON body.
//!
//! Use it where a backend looks at the body only, and identity or tracing data came in headers.
//!
//! ```yaml
//! name: user
//! kind: HeaderToJSON
//! headerMap:
//! - {header: X-User, json: user}
//! ```
//!
//! `X-User: ann` and `{"a": 1}` → `{"a": 1, "user": "ann"}`. In an array every object gets the keys; an empty body
//! becomes a new object. A header that is absent adds nothing.
//!
//! Outcomes: `jsonEncodeDecodeErr` (the body is not an object or an array of objects), `bodyReadErr` (it did not
//! arrive, or is larger than 4 MiB and than `clientMaxBodySize`). Fits HTTPServer. Costs parsing and writing of the body.

use crate::module_doc::module_doc;
use crate::spec::{self, Spec};
use base_model::problem::{at, nth};
use base_model::{Findings, Problem};
use edge_pipeline::{Body, BuildError, Exchange, Filter, FilterKind, Outcome, SUCCESS, Step, Touches};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

const JSON_ENCODE_DECODE_ERR: Outcome = "jsonEncodeDecodeErr";
const BODY_READ_ERR: Outcome = "bodyReadErr";

/// `kind: HeaderToJSON`: puts values of header fields into a JSON body.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["headerMap"]))]
pub struct HeaderToJsonSpec {
    /// Which header goes under which key.
    #[schemars(length(min = 1), extend("x-late" = true))]
    pub header_map: Vec<HeaderMapSpec>,
}

/// A header and its key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["header", "json"]))]
pub struct HeaderMapSpec {
    /// Name of the header; its first value is taken.
    pub header: String,
    /// Key in the JSON object.
    pub json: String,
}

impl Spec for HeaderToJsonSpec {
    fn validate(&self, path: &str, findings: &mut Findings) {
        for (index, entry) in self.header_map.iter().enumerate() {
            let place = nth(&at(path, "headerMap"), index);
            if !base_model::header_adapt::is_header_name(&entry.header) {
                findings.problem(Problem::new(at(&place, "header"), "not a header name").text(&entry.header));
            }
            if entry.json.is_empty() {
                findings.problem(Problem::new(at(&place, "json"), "is empty").advice("name the key in the object"));
            }
        }
    }
}

/// A ready HeaderToJSON.
pub struct HeaderToJson {
    map: Vec<HeaderMapSpec>,
}

pub const KIND: FilterKind = FilterKind {
    kind: "HeaderToJSON",
    results: &[JSON_ENCODE_DECODE_ERR, BODY_READ_ERR],
    doc: module_doc!("header_to_json.rs"),
    schema: spec::schema::<HeaderToJsonSpec>,
    check: spec::check::<HeaderToJsonSpec>,
    build: |fields, _| spec::build(fields, HeaderToJson::new),
};

impl HeaderToJson {
    fn new(spec: HeaderToJsonSpec) -> Result<HeaderToJson, BuildError> {
        Ok(HeaderToJson { map: spec.header_map })
    }

    async fn change(&self, exchange: &mut Exchange) -> Outcome {
        let space = exchange.space();
        let headers = &space.request.headers;
        let values: Vec<(&str, Value)> = self
            .map
            .iter()
            .filter_map(|entry| Some((entry.json.as_str(), headers.value(&entry.header)?)))
            .map(|(key, value)| (key, Value::from(String::from_utf8_lossy(value))))
            .collect();
        if values.is_empty() {
            return SUCCESS;
        }
        let Ok(bytes) = space.request_body.gather().await else {
            return BODY_READ_ERR;
        };
        match merged(bytes, &values) {
            Some(json) => {
                space.request_body = Body::full(json);
                crate::coding::replaced(&mut space.request.headers);
                SUCCESS
            }
            None => JSON_ENCODE_DECODE_ERR,
        }
    }
}

impl Filter for HeaderToJson {
    fn is_repeatable(&self) -> bool {
        true
    }

    fn touches(&self) -> Touches {
        Touches::REQUEST_HEAD.and(Touches::REQUEST_BODY)
    }

    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let headers = &exchange.request().headers;
        if !self.map.iter().any(|entry| headers.contains(&entry.header)) {
            return Step::Done(SUCCESS);
        }
        Step::wait(self.change(exchange))
    }
}

fn merged(bytes: &[u8], values: &[(&str, Value)]) -> Option<Vec<u8>> {
    let mut json = match bytes {
        [] => Value::Object(Map::new()),
        bytes => serde_json::from_slice(bytes).ok()?,
    };
    let mut put = |object: &mut Value| {
        let map = object.as_object_mut()?;
        map.extend(values.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        Some(())
    };
    match &mut json {
        Value::Array(items) => items.iter_mut().try_for_each(&mut put)?,
        object => put(object)?,
    }
    serde_json::to_vec(&json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    const SPEC: &str = "headerMap: [{header: X-User, json: user}, {header: X-None, json: none}]";

    #[test]
    fn bodies() {
        for (header, body, outcome, want) in [
            (Some("u1"), "{\"a\": 1}", SUCCESS, "{\"a\":1,\"user\":\"u1\"}"),
            (Some("u1"), "[{\"a\":1},{\"user\":2}]", SUCCESS, "[{\"a\":1,\"user\":\"u1\"},{\"user\":\"u1\"}]"),
            (Some("u1"), "", SUCCESS, "{\"user\":\"u1\"}"),
            (Some("u1"), "{not json", JSON_ENCODE_DECODE_ERR, "{not json"),
            (Some("u1"), "3", JSON_ENCODE_DECODE_ERR, "3"),
            (Some("u1"), "[1]", JSON_ENCODE_DECODE_ERR, "[1]"),
            (None, "{not json", SUCCESS, "{not json"),
        ] {
            let headers: Vec<_> = header.map(|value| ("X-User", value)).into_iter().collect();
            let mut exchange = request_with("POST", "/", &headers, body.as_bytes());
            assert_eq!(run(&*filter(&KIND, SPEC), &mut exchange), outcome, "{body}");
            assert_eq!(std::str::from_utf8(request_body_of(&exchange)), Ok(want), "{body}");
        }
    }

    #[test]
    fn a_body_beyond_the_limit() {
        let mut exchange = request("POST", "/", &[("X-User", "u")]);
        let piece: &'static [u8] = &[b' '; 16 * 1024];
        exchange.space().request_body = Body::Stream(Box::new(Pieces(vec![piece; 257])));
        assert_eq!(run(&*filter(&KIND, SPEC), &mut exchange), BODY_READ_ERR);
    }

    #[test]
    fn refused() {
        refuses(&KIND, "{}", &["headerMap"]);
        refuses(&KIND, "headerMap: [{header: 'a b', json: ''}]", &["headerMap[0].header", "headerMap[0].json"]);
        refuses(&KIND, "headerMap: [{header: a}]", &["headerMap[0].json"]);
    }
}
