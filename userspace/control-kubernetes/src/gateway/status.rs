//! Statuses as the Gateway API wants them: conditions that say what, why, and since when.

use serde_json::{Value, json};

use crate::object::Meta;

/// One condition.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    pub kind: &'static str,
    pub holds: bool,
    pub reason: &'static str,
    pub message: String,
}

impl Condition {
    pub fn new(kind: &'static str, holds: bool, reason: &'static str, message: impl Into<String>) -> Condition {
        Condition { kind, holds, reason, message: message.into() }
    }

    /// `before` are the conditions as they were: one that holds as it did does so since it did.
    fn json(&self, meta: &Meta, now: &str, before: &Value) -> Value {
        let status = if self.holds { "True" } else { "False" };
        let was =
            before.as_array().into_iter().flatten().find(|was| was["type"] == self.kind && was["status"] == status);
        let since = was.and_then(|was| was["lastTransitionTime"].as_str()).unwrap_or(now);
        json!({"type": self.kind, "status": status, "reason": self.reason, "message": self.message,
               "observedGeneration": meta.generation, "lastTransitionTime": since})
    }
}

/// All of one thing.
pub(super) fn conditions(of: &[Condition], meta: &Meta, now: &str, before: &Value) -> Value {
    of.iter().map(|condition| condition.json(meta, now, before)).collect()
}

/// The status to be written, unless it is there already.
pub(super) fn changed(status: Value, before: &Value) -> Option<Value> {
    let fields = status.as_object()?;
    (!fields.iter().all(|(name, value)| before.get(name).unwrap_or(&Value::Null) == value)).then_some(status)
}
