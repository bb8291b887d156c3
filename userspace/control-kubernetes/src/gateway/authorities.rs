//! Authorities that certificates of others have to be signed by: `ca.crt` of ConfigMaps.

use base_text::quoted;

use super::object::Reference;
use crate::object::Key;
use crate::store::Store;

/// Why a reference leads to no authorities, in words.
#[derive(Debug)]
pub(super) enum Fault {
    /// What it names holds none.
    Kind(String),
    /// It is not there, or cannot be read.
    Unusable(String),
}

/// The ConfigMap that a reference names; its namespace is that of whoever refers to it where the reference has none.
pub(super) fn named(reference: &Reference, namespace: &str) -> Result<Key, Fault> {
    let (group, kind) = (reference.group.as_deref().unwrap_or_default(), reference.kind.as_deref().unwrap_or_default());
    if !group.is_empty() || kind != "ConfigMap" {
        let told =
            format!("{} {} holds no authorities that are read; accepted is a ConfigMap", quoted(kind), reference.name);
        return Err(Fault::Kind(told));
    }
    Ok(Key::new(reference.namespace.as_deref().unwrap_or(namespace), &reference.name))
}

/// PEM, with a line's end after it.
pub(super) fn read(store: &Store, key: &Key) -> Result<String, Fault> {
    let map = store.config_map(key).ok_or_else(|| Fault::Unusable(format!("ConfigMap {key} is not there")))?;
    let text = map.data.authorities.trim();
    if text.is_empty() {
        let told = format!("ConfigMap {key} has nothing in ca.crt; put certificates there, as PEM");
        return Err(Fault::Unusable(told));
    }
    base_tls::certificate::read_authorities_undated(text)
        .map_err(|error| Fault::Unusable(format!("ca.crt of ConfigMap {key} holds no certificates: {error}")))?;
    Ok(format!("{text}\n"))
}
