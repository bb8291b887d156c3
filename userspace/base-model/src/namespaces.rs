//! Where objects are kept: an object has a namespace, and a name that no other object of that namespace has, of whatever kind.
//!
//! What people write is in the namespace `default`. What is made for them by a controller is in one of the controller's own, so that
//! neither is in the other's way. A *key* is both as one text: of an object of `default` its name, of any other `NAMESPACE/NAME`.
//! Names have no slash in them, namespaces may.
//!
//! The kind is in the document and not in the key. `/objects/NAME` of the admin API does not say it, nor do documents that name each other,
//! so of two objects of one name nobody could tell which is meant; and so an object never becomes one of another kind.
//!
//! ```
//! use base_model::namespaces::{beside, key, split};
//! assert_eq!((key("default", "shop"), key("blue", "shop")), ("shop".to_owned(), "blue/shop".to_owned()));
//! assert_eq!(split("ingresscontroller/ing/shop"), ("ingresscontroller/ing", "shop"));
//! assert_eq!(beside("blue/web", "shop"), "blue/shop");
//! ```

/// Of what people write.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The key of the object of this name in this namespace; an empty namespace is `default`.
pub fn key(namespace: &str, name: &str) -> String {
    if is_default(namespace) { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// Namespace and name of the object of this key.
pub fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('/').unwrap_or((DEFAULT_NAMESPACE, key))
}

/// The key of the object of this name that is in the same namespace as the one of `key`: whom that one means by the name.
pub fn beside(key: &str, name: &str) -> String {
    self::key(split(key).0, name)
}

/// Whether the object of this key is in this namespace; an empty one is `default`.
pub fn is_in(key: &str, namespace: &str) -> bool {
    let of = split(key).0;
    if is_default(namespace) { of == DEFAULT_NAMESPACE } else { of == namespace }
}

/// The namespace of what the controller of this object makes, as Easegress calls it: `ingresscontroller/NAME`.
pub fn of_controller(kind: &str, name: &str) -> String {
    format!("{}/{name}", kind.to_ascii_lowercase())
}

/// Name of the Pipeline that is made of the `backendPool` of a path, as Easegress names it.
pub fn generated_pipeline(server: &str, rule: usize, path: usize) -> String {
    format!("GENERATED-{server}-{rule}-{path}")
}

/// Whether a namespace that is asked for is that of what people write.
pub fn is_default(namespace: &str) -> bool {
    namespace.is_empty() || namespace == DEFAULT_NAMESPACE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_namespace_and_a_name() {
        for (namespace, name) in [("default", "a"), ("b", "a"), ("ingresscontroller/b", "a.http")] {
            let key = key(namespace, name);
            assert_eq!(split(&key), (namespace, name));
            assert!(is_in(&key, namespace) && !is_in(&key, "other"));
            assert_eq!(split(&beside(&key, "c")), (namespace, "c"));
        }
        assert_eq!(key("", "a"), "a");
        assert!(is_in("a", "") && !is_in("b/a", ""));
    }
}
