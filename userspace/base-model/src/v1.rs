//! Documents of Easegress v1, and of those who upgraded half-way, as v2 documents.

use serde_json::Value;

use crate::problem::Warning;

/// A document in today's form and what its author should know about the change.
#[derive(Debug, Clone, PartialEq)]
pub struct Translation {
    pub value: Value,
    pub warnings: Vec<Warning>,
}

/// `None` when the document needs no translation.
pub fn translate_v1(value: &Value) -> Option<Translation> {
    let _ = value;
    None
}
