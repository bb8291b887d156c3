//! What controllers have learned and users keep, section by section: this machine's part of it.

use base_model::Kept;
use edge_listeners::acme::{ACME, Acme, CERTIFICATES};
use edge_pipeline::custom_data::CustomData;
use edge_upstream::discovery::{Directory, Instance};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Values by section, then by key.
pub type Sections = BTreeMap<String, Section>;

/// One section.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Section {
    /// What controllers have learned: looked at when it is another, and by the ten thousand, so it is kept as text. A persistent map, whose
    /// versions share what is the same.
    Learned(OrdMap<String, Kept>),
    /// The users' own data, which whoever asks for it shares.
    Users(Arc<BTreeMap<String, Arc<Value>>>),
}

/// The value of a key.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Told {
    Learned(Kept),
    Users(Arc<Value>),
}

/// A key of a section that is different; `None`: it is gone.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyChange {
    pub section: String,
    pub key: String,
    pub value: Option<Told>,
}

impl Told {
    pub fn value(&self) -> Arc<Value> {
        match self {
            Told::Learned(kept) => Arc::new(kept.read()),
            Told::Users(value) => value.clone(),
        }
    }

    pub fn kept(self) -> Kept {
        match self {
            Told::Learned(kept) => kept,
            Told::Users(value) => Kept::of(&value),
        }
    }
}

impl PartialEq for Told {
    fn eq(&self, other: &Told) -> bool {
        match (self, other) {
            (Told::Learned(one), Told::Learned(other)) => one == other,
            (Told::Users(one), Told::Users(other)) => one == other,
            (Told::Learned(kept), Told::Users(value)) | (Told::Users(value), Told::Learned(kept)) => kept.holds(value),
        }
    }
}

impl<'de> Deserialize<'de> for Told {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Told, D::Error> {
        Ok(Told::Users(Arc::new(Value::deserialize(d)?)))
    }
}

impl Section {
    /// The section of this name, as long as it has no keys.
    fn empty(name: &str) -> Section {
        if name.starts_with(CUSTOM_DATA) { Section::Users(Arc::default()) } else { Section::Learned(OrdMap::new()) }
    }

    fn is_empty(&self) -> bool {
        match self {
            Section::Learned(keys) => keys.is_empty(),
            Section::Users(keys) => keys.is_empty(),
        }
    }

    fn set(&mut self, key: String, value: Option<Told>) {
        match self {
            Section::Learned(keys) => match value {
                Some(value) => drop(keys.insert(key, value.kept())),
                None => drop(keys.remove(&key)),
            },
            Section::Users(keys) => match value {
                Some(value) => drop(Arc::make_mut(keys).insert(key, value.value())),
                None => drop(Arc::make_mut(keys).remove(&key)),
            },
        }
    }

    fn told(&self) -> BTreeMap<&String, Told> {
        match self {
            Section::Learned(keys) => keys.iter().map(|(key, kept)| (key, Told::Learned(kept.clone()))).collect(),
            Section::Users(keys) => keys.iter().map(|(key, value)| (key, Told::Users(value.clone()))).collect(),
        }
    }

    /// Keys that are gone, and values that are new or different.
    fn changes(&self, now: &Section) -> Changes {
        match (self, now) {
            (Section::Learned(was), Section::Learned(now)) => {
                let (gone, put) = values(was, now);
                let put = put.into_iter().map(|(key, now)| (key.clone(), Told::Learned(now.clone())));
                (gone.into_iter().cloned().collect(), put.collect())
            }
            (Section::Users(was), Section::Users(now)) if Arc::ptr_eq(was, now) => Changes::default(),
            (was, now) => {
                let (was, now) = (was.told(), now.told());
                let gone = was.keys().filter(|key| !now.contains_key(*key)).map(|key| (*key).clone()).collect();
                let put = now.into_iter().filter(|(key, now)| was.get(key) != Some(now));
                (gone, put.map(|(key, now)| (key.clone(), now)).collect())
            }
        }
    }
}

type Changes = (Vec<String>, Vec<(String, Told)>);

/// As they stand in a file.
pub fn read<'de, D: Deserializer<'de>>(d: D) -> Result<Arc<Sections>, D::Error> {
    let all = BTreeMap::<String, BTreeMap<String, Told>>::deserialize(d)?;
    let section = |(name, keys): (String, BTreeMap<String, Told>)| {
        let mut section = Section::empty(&name);
        keys.into_iter().for_each(|(key, value)| section.set(key, Some(value)));
        (name, section)
    };
    Ok(Arc::new(all.into_iter().map(section).collect()))
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

/// What is different, section by section and key by key. What two versions share is not walked.
pub fn between(from: &Sections, to: &Sections) -> Vec<KeyChange> {
    let mut changes = Vec::new();
    let names = from.keys().chain(to.keys().filter(|name| !from.contains_key(*name)));
    for section in names {
        let empty = Section::empty(section);
        let (before, after) = (from.get(section).unwrap_or(&empty), to.get(section).unwrap_or(&empty));
        let change = |key: String, value| KeyChange { section: section.clone(), key, value };
        let (gone, put) = before.changes(after);
        changes.extend(gone.into_iter().map(|key| change(key, None)));
        changes.extend(put.into_iter().map(|(key, now)| change(key, Some(now))));
    }
    changes
}

/// Keys that are gone, and values that are new or different, both in the order of their keys.
pub(crate) fn values<'v, V: PartialEq>(
    from: &'v OrdMap<String, V>,
    to: &'v OrdMap<String, V>,
) -> (Vec<&'v String>, Vec<(&'v String, &'v V)>) {
    let (mut gone, mut put) = (Vec::new(), Vec::new());
    for item in from.diff(to) {
        match item {
            DiffItem::Add(key, now) | DiffItem::Update { new: (key, now), .. } => put.push((key, now)),
            DiffItem::Remove(key, _) => gone.push(key),
        }
    }
    (gone, put)
}

/// Takes `sections` along.
pub fn advance(sections: &mut Arc<Sections>, changes: impl IntoIterator<Item = KeyChange>) {
    for KeyChange { section, key, value } in changes {
        let sections = Arc::make_mut(sections);
        let keys = sections.entry(section.clone()).or_insert_with(|| Section::empty(&section));
        keys.set(key, value);
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
                Some(value) => Service::deserialize(&*value.value())
                    .map_err(|error| format!("servers of {} cannot be read: {error}", change.key))?,
            };
            let instances = service.instances.into_iter();
            Directory::here().set(&change.key, instances.map(Endpoint::instance).collect());
            Ok(())
        }
        section if section.starts_with(CUSTOM_DATA) => {
            CustomData::here().set(&section[CUSTOM_DATA.len()..], &change.key, change.value.as_ref().map(Told::value));
            Ok(())
        }
        known @ (CERTIFICATES | ACME) => {
            Acme::here().apply(known, &change.key, change.value.as_ref().map(Told::value).as_ref())
        }
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
        let mut all = Arc::default();
        let change = |(section, key, n): &(&str, &str, u64)| KeyChange {
            section: (*section).to_owned(),
            key: (*key).to_owned(),
            value: Some(Told::Learned(Kept::of(&json!({"n": n})))),
        };
        advance(&mut all, keys.iter().map(change));
        Arc::unwrap_or_clone(all)
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
            value: value.map(|value| Told::Users(Arc::new(value))),
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
