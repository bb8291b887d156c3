//! The key that an object is kept under, as its document says.

use std::borrow::Cow;

use base_model::namespaces;
use serde_json::Value;

use crate::{OWNER_LABEL, OWNER_USER};

/// Label that says which namespace a document is in that was made for somebody. What users write is in `default`, whatever their labels
/// say.
pub const NAMESPACE_LABEL: &str = "weir/namespace";

/// Of a document that is stored.
pub fn object_key(document: &Value) -> Cow<'_, str> {
    match label(document, OWNER_LABEL) {
        None | Some(OWNER_USER) => Cow::Borrowed(name(document)),
        Some(_) => made_key(document),
    }
}

/// Of one that is made for somebody, and need not say yet whose it is.
pub fn made_key(document: &Value) -> Cow<'_, str> {
    match label(document, NAMESPACE_LABEL) {
        None => Cow::Borrowed(name(document)),
        Some(namespace) => Cow::Owned(namespaces::key(namespace, name(document))),
    }
}

/// Whether the key is of a namespace beside `default`.
pub fn is_namespaced(key: &str) -> bool {
    key.contains('/')
}

fn label<'d>(document: &'d Value, label: &str) -> Option<&'d str> {
    document.get("labels")?.get(label)?.as_str()
}

fn name(document: &Value) -> &str {
    document.get("name").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_users_write_is_in_default_whatever_it_says() {
        let document = |owner: Option<&str>| {
            let mut labels = json!({NAMESPACE_LABEL: "blue"});
            owner.into_iter().for_each(|owner| labels[OWNER_LABEL] = owner.into());
            json!({"name": "a", "kind": "Pipeline", "labels": labels})
        };
        assert_eq!(object_key(&document(None)), "a");
        assert_eq!(object_key(&document(Some(OWNER_USER))), "a");
        assert_eq!(object_key(&document(Some("IngressController:ing"))), "blue/a");
        assert_eq!(made_key(&document(None)), "blue/a");
        assert_eq!(object_key(&json!({"name": "a", "labels": {OWNER_LABEL: "HTTPServer:s"}})), "a");
    }
}
