//! What controllers learn, such as the servers of a service: small values by section and key, beside the documents.
//!
//! They travel with the configuration and are kept with it on every disk, but are nobody's document: they have no history, raise no
//! document's version, and change key by key.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::publish::Document;

/// By section, then by key. A section without keys has no entry.
pub type Sections = BTreeMap<String, Section>;

/// One section.
pub type Section = Arc<BTreeMap<String, Arc<Keyed>>>;

/// What is different of sections; `None` where a key is gone.
pub type SectionChanges = BTreeMap<String, BTreeMap<String, Option<Arc<Keyed>>>>;

/// The value of a key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Keyed {
    /// Name of the object whose controller wrote it, and who alone may: it goes with that object.
    pub owner: String,
    /// Grows by one whenever it is written, from 1.
    pub generation: u64,
    /// When it ends by itself, in milliseconds since 1970; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    pub value: Document,
}

/// The section of servers of services. Its keys are `REGISTRY/SERVICE`.
pub const ENDPOINTS: &str = "endpoints";

/// Puts changes in force.
pub(crate) fn advance(sections: &mut Arc<Sections>, changes: &SectionChanges) {
    let sections = Arc::make_mut(sections);
    for (name, keys) in changes {
        let section = Arc::make_mut(sections.entry(name.clone()).or_default());
        for (key, value) in keys {
            match value {
                Some(value) => drop(section.insert(key.clone(), value.clone())),
                None => drop(section.remove(key)),
            }
        }
        if section.is_empty() {
            sections.remove(name);
        }
    }
}
