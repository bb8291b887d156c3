//! Keys of sections: what controllers have learned, who may write it, and when it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base_text::quoted;
use control_api::{Document, Kept, Keyed, Refusal, Snapshot};
use serde::{Deserialize, Serialize};

/// A key that is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyPut {
    pub key: String,
    pub value: Document,
    /// Refused when the key has another generation; 0: when there is one. Absent: whatever is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// When it ends by itself, in milliseconds since 1970. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

impl KeyPut {
    pub fn new(key: impl Into<String>, value: impl Into<Document>) -> KeyPut {
        KeyPut { key: key.into(), value: value.into(), generation: None, until: None }
    }
}

/// Writes and removes keys of `owner` in one section. A value that is as it was changes nothing.
pub(crate) fn write(
    view: &mut Snapshot,
    section: &str,
    owner: &str,
    puts: Vec<KeyPut>,
    deletes: &[String],
) -> Result<(), Refusal> {
    if !view.objects.contains_key(owner) {
        return Err(Refusal::not_found(format!("object {} is gone: nothing that it learned is kept", quoted(owner))));
    }
    let mut keys = view.sections.get(section).cloned().unwrap_or_default();
    let before = keys.clone();
    let theirs = |key: &str| before.get(key).filter(|held| held.owner != owner);
    for key in deletes.iter().filter(|key| before.contains_key(*key)) {
        if let Some(held) = theirs(key) {
            return Err(belongs(section, key, &held.owner));
        }
        keys.remove(key);
    }
    for put in puts {
        let held = before.get(&put.key);
        if let Some(held) = theirs(&put.key) {
            return Err(belongs(section, &put.key, &held.owner));
        }
        let is = held.map_or(0, |held| held.generation);
        if put.generation.is_some_and(|wanted| wanted != is) {
            return Err(Refusal::stale(format!(
                "key {} of section {section} has generation {is}, and not {} that this was made from; read it again",
                quoted(&put.key),
                put.generation.unwrap_or_default()
            )));
        }
        if held.is_some_and(|held| held.value.holds(&put.value) && held.until == put.until) {
            continue;
        }
        let keyed =
            Keyed { owner: owner.to_owned(), generation: is + 1, until: put.until, value: Kept::of(&put.value) };
        keys.insert(put.key, Arc::new(keyed));
    }
    if keys.len() > KEYS_MAX && keys.len() > before.len() {
        return Err(Refusal::conflict(format!(
            "section {section} would have {} keys, and {KEYS_MAX} is as many as it may have",
            keys.len()
        )));
    }
    replace(view, section, keys);
    Ok(())
}

/// Takes out what has ended by then, in milliseconds since 1970.
pub(crate) fn end_due(view: &mut Snapshot, at: u64) {
    keep(view, |keyed| keyed.until.is_none_or(|until| until > at));
}

/// Takes out what belongs to objects that are gone.
pub(crate) fn tidy(view: &mut Snapshot) {
    let objects = view.objects.clone();
    keep(view, |keyed| objects.contains_key(&keyed.owner));
}

/// Of what a backup holds, that of owners that are there and of whom nothing is known here: what is known here is newer.
pub(crate) fn restore(view: &mut Snapshot, backup: &Snapshot) {
    tidy(view);
    for (section, kept) in backup.sections.iter() {
        let mut keys = view.sections.get(section).cloned().unwrap_or_default();
        let known: BTreeSet<String> = keys.values().map(|keyed| keyed.owner.clone()).collect();
        let fits = |keyed: &Keyed| view.objects.contains_key(&keyed.owner) && !known.contains(&keyed.owner);
        let comes: BTreeMap<_, _> =
            kept.iter().filter(|(_, keyed)| fits(keyed)).map(|(key, keyed)| (key.clone(), keyed.clone())).collect();
        if !comes.is_empty() {
            keys.extend(comes);
            replace(view, section, keys);
        }
    }
}

fn keep(view: &mut Snapshot, stays: impl Fn(&Keyed) -> bool) {
    let changed: Vec<_> = view
        .sections
        .iter()
        .filter(|(_, keys)| !keys.values().all(|keyed| stays(keyed)))
        .map(|(section, keys)| {
            let rest = keys.iter().filter(|(_, keyed)| stays(keyed));
            (section.clone(), rest.map(|(key, keyed)| (key.clone(), keyed.clone())).collect())
        })
        .collect();
    for (section, keys) in changed {
        replace(view, &section, keys);
    }
}

fn replace(view: &mut Snapshot, section: &str, keys: control_api::Section) {
    match view.sections.get(section) {
        Some(there) if there.ptr_eq(&keys) => return,
        None if keys.is_empty() => return,
        _ => {}
    }
    let sections = Arc::make_mut(&mut view.sections);
    if keys.is_empty() {
        sections.remove(section);
    } else {
        sections.insert(section.to_owned(), keys);
    }
}

fn belongs(section: &str, key: &str, owner: &str) -> Refusal {
    Refusal::conflict(format!("key {} of section {section} belongs to object {}", quoted(key), quoted(owner)))
}

/// Services of all registries of a cluster; beyond it none is added, and the registry's status says so.
const KEYS_MAX: usize = 65_536;
