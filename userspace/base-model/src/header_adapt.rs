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
    #[schemars(extend("uniqueItems" = true))]
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
        warn_owned(
            self.set.keys().chain(self.add.keys()),
            |name| {
                let part = if self.set.contains_key(name) { "set" } else { "add" };
                at(&at(path, part), name)
            },
            findings,
        );
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

/// Warns of fields that a document sets although they speak of one connection or of a message's framing: the engine writes
/// them itself, whatever the document says.
pub fn warn_owned<'n>(
    names: impl IntoIterator<Item = &'n String>,
    place: impl Fn(&str) -> String,
    findings: &mut crate::Findings,
) {
    for name in names {
        if OWNED.iter().any(|owned| owned.eq_ignore_ascii_case(name)) {
            findings
                .warn(place(name), "has no effect: this field belongs to the connection and is written by the engine");
        }
    }
}

/// RFC 9110 §7.6.1 and RFC 9112 §6: what says how a message is framed and what holds for one hop only.
const OWNED: [&str; 9] = [
    "Connection",
    "Content-Length",
    "Keep-Alive",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "HTTP2-Settings",
];

/// RFC 9110 §5.6.2, token.
pub fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// RFC 9110 §5.5: no control characters but tab.
pub fn is_header_value(value: &str) -> bool {
    value.bytes().all(|b| b == b'\t' || (b >= 0x20 && b != 0x7f))
}
