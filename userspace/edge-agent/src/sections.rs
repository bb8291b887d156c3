//! What controllers have learned and users keep, section by section: this machine's part of it.

use edge_listeners::acme::{ACME, Acme, CERTIFICATES};
use edge_pipeline::custom_data::CustomData;
use edge_upstream::discovery::{Directory, Instance};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Values by section, then by key.
pub type Sections = BTreeMap<String, Section>;

/// One section.
pub type Section = Arc<BTreeMap<String, Arc<Value>>>;

/// A key of a section that is different; `None`: it is gone.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyChange {
    pub section: String,
    pub key: String,
    pub value: Option<Arc<Value>>,
}

impl KeyChange {
    /// What people are told of it by: a section that is not known here is one thing, however many keys it has.
    pub fn place(&self) -> String {
        match self.section.as_str() {
            known @ (ENDPOINTS | CERTIFICATES | ACME | RULES) => place(known, &self.key),
            other => format!("section {other}"),
        }
    }
}

/// What is different, section by section and key by key. Unchanged sections are shared, so that only changed ones are walked.
pub fn between(from: &Sections, to: &Sections) -> Vec<KeyChange> {
    let empty = Section::default();
    let mut changes = Vec::new();
    let names = from.keys().chain(to.keys().filter(|name| !from.contains_key(*name)));
    for section in names {
        let (before, after) = (from.get(section).unwrap_or(&empty), to.get(section).unwrap_or(&empty));
        if Arc::ptr_eq(before, after) {
            continue;
        }
        let change = |key: &String, value| KeyChange { section: section.clone(), key: key.clone(), value };
        let (gone, put) = values(before, after);
        changes.extend(gone.into_iter().map(|key| change(key, None)));
        changes.extend(put.into_iter().map(|(key, now)| change(key, Some(now.clone()))));
    }
    changes
}

type Values = BTreeMap<String, Arc<Value>>;

/// Keys that are gone, and values that are new or different: one walk through both, in the order of their keys.
pub(crate) fn values<'v>(from: &'v Values, to: &'v Values) -> (Vec<&'v String>, Vec<(&'v String, &'v Arc<Value>)>) {
    let (mut gone, mut put) = (Vec::new(), Vec::new());
    let mut before = from.iter().peekable();
    for (key, now) in to {
        while let Some((left, _)) = before.next_if(|(left, _)| *left < key) {
            gone.push(left);
        }
        match before.next_if(|(there, _)| *there == key) {
            Some((_, was)) if Arc::ptr_eq(was, now) || was == now => {}
            _ => put.push((key, now)),
        }
    }
    gone.extend(before.map(|(left, _)| left));
    (gone, put)
}

/// Takes `sections` along.
pub fn advance(sections: &mut Arc<Sections>, changes: impl IntoIterator<Item = KeyChange>) {
    for KeyChange { section, key, value } in changes {
        let sections = Arc::make_mut(sections);
        let keys = Arc::make_mut(sections.entry(section.clone()).or_default());
        match value {
            Some(value) => drop(keys.insert(key, value)),
            None => drop(keys.remove(&key)),
        }
        if keys.is_empty() {
            sections.remove(&section);
        }
    }
}

/// Puts a change in force here. The error says why it cannot be.
pub fn apply(change: &KeyChange) -> Result<(), String> {
    match change.section.as_str() {
        ENDPOINTS => {
            let service: Service = match &change.value {
                None => Service::default(),
                Some(value) => Service::deserialize(&**value)
                    .map_err(|error| format!("servers of {} cannot be read: {error}", change.key))?,
            };
            let instances = service.instances.into_iter();
            Directory::here().set(&change.key, instances.map(Endpoint::instance).collect());
            Ok(())
        }
        section if section.starts_with(CUSTOM_DATA) => {
            CustomData::here().set(&section[CUSTOM_DATA.len()..], &change.key, change.value.clone());
            Ok(())
        }
        known @ (CERTIFICATES | ACME) => Acme::here().apply(known, &change.key, change.value.as_ref()),
        // What is new to this version is of no use to it; that it goes is no loss.
        _ if change.value.is_none() => Ok(()),
        _ => {
            Err("this version of weir does not know what is told here; install the one the other members run"
                .to_owned())
        }
    }
}

/// Takes what has been waiting for a key of the cluster, and came to something: what people are told of it by, and what became of it.
pub fn retry() -> Vec<(String, Result<(), String>)> {
    let taken = Acme::here().retry();
    taken.into_iter().map(|(section, key, done)| (place(&section, &key), done)).collect()
}

pub fn place(section: &str, key: &str) -> String {
    format!("section {section}, {key}")
}

/// The section of servers of services, by `REGISTRY/SERVICE`.
const ENDPOINTS: &str = "endpoints";

/// The section of rules that controllers make for servers, by `SERVER#KEY`: see [`rule_of`].
pub const RULES: &str = "rules";

/// The server that a rule is for, and what the rule is called there: rules are asked in the order of that.
pub fn rule_of(key: &str) -> (&str, &str) {
    key.split_once('#').unwrap_or((key, ""))
}

/// What the sections of the users' own data begin with; the kind follows, and keys are ids.
pub const CUSTOM_DATA: &str = "customData/";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Service {
    instances: Vec<Endpoint>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Endpoint {
    scheme: String,
    address: String,
    port: u16,
    tags: Vec<String>,
    weight: u32,
}

impl Endpoint {
    fn instance(self) -> Instance {
        let scheme = if self.scheme.is_empty() { "http" } else { &self.scheme };
        let host = if self.address.contains(':') { format!("[{}]", self.address) } else { self.address };
        Instance { url: format!("{scheme}://{host}:{}", self.port), tags: self.tags, weight: self.weight }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sections(keys: &[(&str, &str, u64)]) -> Sections {
        let mut all: BTreeMap<String, BTreeMap<String, Arc<Value>>> = BTreeMap::new();
        for (section, key, n) in keys {
            all.entry((*section).to_owned()).or_default().insert((*key).to_owned(), Arc::new(json!({"n": n})));
        }
        all.into_iter().map(|(section, keys)| (section, Arc::new(keys))).collect()
    }

    #[test]
    fn only_what_is_different_is_told_and_it_leads_from_one_to_the_other() {
        let from = sections(&[("a", "x", 1), ("a", "y", 1), ("b", "x", 1), ("same", "x", 1)]);
        let mut to = sections(&[("a", "x", 1), ("a", "y", 2), ("c", "z", 1)]);
        to.insert("same".into(), from["same"].clone());
        let changes = between(&from, &to);
        let told: Vec<String> =
            changes.iter().map(|c| format!("{}/{} {}", c.section, c.key, c.value.is_some())).collect();
        assert_eq!(told, ["a/y true", "b/x false", "c/z true"]);
        let mut there = Arc::new(from);
        advance(&mut there, changes);
        assert_eq!(*there, to);
        assert_eq!(between(&there, &to), []);
    }

    #[test]
    fn a_section_that_is_not_known_is_told_and_one_that_is_reaches_the_directory() {
        let change = |section: &str, value: Option<Value>| KeyChange {
            section: section.to_owned(),
            key: "sections/s".to_owned(),
            value: value.map(Arc::new),
        };
        assert!(apply(&change("meshes", Some(json!({})))).unwrap_err().contains("does not know"));
        assert_eq!(apply(&change("meshes", None)), Ok(()));
        assert!(apply(&change("endpoints", Some(json!({"instances": [{"port": "x"}]})))).is_err());
        let one = json!({"instances": [{"id": "i", "address": "::1", "port": 8080, "tags": ["a"]}]});
        assert_eq!(apply(&change("endpoints", Some(one))), Ok(()));
        let users = CustomData::here().kind("sections-users");
        assert_eq!(apply(&change("customData/sections-users", Some(json!({"a": 1})))), Ok(()));
        assert_eq!(users.find("sections/s").as_deref(), Some(&json!({"a": 1})));
        assert_eq!(apply(&change("customData/sections-users", None)), Ok(()));
        assert_eq!(users.count(), 0);
    }
}
