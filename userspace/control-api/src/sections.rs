//! What controllers learn, such as the servers of a service: small values by section and key, beside the documents.
//!
//! They travel with the configuration and are kept with it on every disk, but are nobody's document: they have no history, raise no
//! document's version, and change key by key.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base_model::Kept;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::publish::Document;

/// By section, then by key. A section without keys has no entry.
pub type Sections = BTreeMap<String, Section>;

/// One section. A persistent map: of ten thousand keys one that is another costs the way to it, and versions share the others.
pub type Section = OrdMap<String, Arc<Keyed>>;

/// What is different of sections; `None` where a key is gone.
pub type SectionChanges = BTreeMap<String, BTreeMap<String, Option<Arc<Keyed>>>>;

/// The value of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Keyed {
    /// Name of the object whose controller wrote it, and who alone may: it goes with that object.
    pub owner: String,
    /// Grows by one whenever it is written, from 1.
    pub generation: u64,
    /// When it ends by itself, in milliseconds since 1970; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
    pub value: Kept,
}

/// The section of servers of services. Its keys are `REGISTRY/SERVICE`.
pub const ENDPOINTS: &str = "endpoints";

/// The section of rules that controllers make for servers, one by one, in the place of entries of `rules` of the server's document: of ten
/// thousand hosts one that changes is one small value. Its keys are `SERVER#PLACE HOST`, see [`rule_key`].
pub const RULES: &str = "rules";

/// The key of a rule of the server of this key. Rules are asked in the order of their keys: those of smaller places first.
pub fn rule_key(server: &str, place: u16, host: &str) -> String {
    format!("{server}#{place:05} {host}")
}

/// What the keys of the rules of a server begin with.
pub fn rules_of(server: &str) -> String {
    format!("{server}#")
}

/// Servers whose rules beside their documents are others.
pub fn servers_of(changes: &SectionChanges) -> BTreeSet<&str> {
    let keys = changes.get(RULES).into_iter().flat_map(BTreeMap::keys);
    keys.filter_map(|key| Some(key.split_once('#')?.0)).collect()
}

/// The object of this key as people are shown it: with the rules that stand beside its document in it.
pub fn whole<'d>(sections: &Sections, key: &str, document: &'d Document) -> Cow<'d, Document> {
    let Some(all) = sections.get(RULES).filter(|_| document["kind"] == "HTTPServer") else {
        return Cow::Borrowed(document);
    };
    let prefix = rules_of(key);
    let beside = all.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
    let beside: Vec<Value> = beside.map(|(_, keyed)| keyed.value.read()).collect();
    if beside.is_empty() {
        return Cow::Borrowed(document);
    }
    let mut shown = Value::clone(document);
    match shown.get_mut("rules").and_then(Value::as_array_mut) {
        Some(rules) => rules.extend(beside),
        None => shown["rules"] = Value::Array(beside),
    }
    Cow::Owned(Document::new(shown))
}

/// Puts changes in force.
pub(crate) fn advance(sections: &mut Arc<Sections>, changes: &SectionChanges) {
    let sections = Arc::make_mut(sections);
    for (name, keys) in changes {
        let section = sections.entry(name.clone()).or_default();
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_beside_a_document_are_shown_in_it_in_their_order() {
        let keyed = |rule: Value| Arc::new(Keyed { owner: "ing".into(), value: Kept::of(&rule), ..Keyed::default() });
        let rules = [
            (rule_key("c/web", u16::MAX, ""), json!({"paths": []})),
            (rule_key("c/web", 0, "a.test"), json!({"host": "a.test"})),
            (rule_key("c/web2", 0, "b.test"), json!({"host": "b.test"})),
        ];
        let section = rules.into_iter().map(|(key, rule)| (key, keyed(rule))).collect();
        let sections = Sections::from([(RULES.to_owned(), section)]);
        let document = |kind: &str| Document::new(json!({"name": "web", "kind": kind, "rules": [{"host": "own"}]}));
        let hosts = |key: &str, kind: &str| -> Vec<String> {
            let shown = whole(&sections, key, &document(kind)).into_owned();
            let host = |rule: &Value| rule["host"].as_str().unwrap_or_default().to_owned();
            shown["rules"].as_array().unwrap().iter().map(host).collect()
        };
        assert_eq!(hosts("c/web", "HTTPServer"), ["own", "a.test", ""]);
        assert_eq!((hosts("web", "HTTPServer"), hosts("c/web", "Mock")), (vec!["own".into()], vec!["own".into()]));
    }
}
