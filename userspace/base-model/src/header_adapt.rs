//! `{del, set, add}`: what a document does to headers.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Changes to headers, applied in the order del, set, add. Names match without regard to case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HeaderAdaptSpec {
    /// Headers to remove, all their values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub del: Vec<String>,
    /// Headers to replace: all values go, this one comes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub set: BTreeMap<String, String>,
    /// Headers to add beside the values they have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub add: BTreeMap<String, String>,
}

impl HeaderAdaptSpec {
    pub fn is_empty(&self) -> bool {
        self.del.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// Names must be tokens and values free of line breaks, else the header could not be sent.
    pub fn validate(&self, path: &str, findings: &mut crate::Findings) {
        use crate::problem::{Problem, at, nth};
        for (i, name) in self.del.iter().enumerate() {
            if !is_header_name(name) {
                findings.problem(Problem::new(nth(&at(path, "del"), i), "not a header name").text(name));
            }
        }
        for (part, map) in [("set", &self.set), ("add", &self.add)] {
            for (name, value) in map {
                let place = at(&at(path, part), name);
                if !is_header_name(name) {
                    findings.problem(Problem::new(&place, "not a header name").text(name));
                }
                if !is_header_value(value) {
                    findings.problem(Problem::new(&place, "a header value cannot hold control characters").text(value));
                }
            }
        }
    }
}

/// RFC 9110 §5.6.2, token.
pub fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// RFC 9110 §5.5: no control characters but tab.
pub fn is_header_value(value: &str) -> bool {
    value.bytes().all(|b| b == b'\t' || (b >= 0x20 && b != 0x7f))
}
