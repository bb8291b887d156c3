use std::collections::BTreeMap;
use std::sync::Arc;

use control_api::{CustomChange, Delta, Section, SectionChanges, Snapshot};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;

/// The delta that turns `old` into `new`, or nothing when readers would see no difference. `to` is one past `from`.
///
/// Unchanged parts share memory, so the cost is a walk over pointers, and only of the collections that changed.
pub fn between(old: &Snapshot, new: &Snapshot) -> Option<Delta> {
    let mut delta =
        Delta { cluster_id: new.cluster_id.clone(), from: old.version, to: old.version + 1, ..Delta::default() };
    for (key, _, now) in changes(&old.objects, &new.objects) {
        match now {
            Some(now) => delta.puts.push(now.clone()),
            None => delta.deletes.push(key.clone()),
        }
    }
    delta.member_changes =
        changes(&old.members, &new.members).map(|(name, _, now)| (name.clone(), now.cloned())).collect();
    // Of a few, or of most of them, all are told: one map is held by all readers then.
    if delta.member_changes.len() > new.members.len() / 2 {
        delta.member_changes.clear();
        delta.members = Some(new.members.clone());
    }
    if !Arc::ptr_eq(&old.steering, &new.steering) {
        let (gone, put) = maps(&old.steering, &new.steering, |a, b| a == b);
        delta.steering.extend(gone.into_iter().map(|vip| (vip.clone(), None)));
        delta.steering.extend(put.into_iter().map(|(vip, steering)| (vip.clone(), Some(steering.clone()))));
    }
    custom(old, new, &mut delta.custom);
    if old.cluster_name != new.cluster_name {
        delta.cluster_name = Some(new.cluster_name.clone());
    }
    if !Arc::ptr_eq(&old.tickets, &new.tickets) && old.tickets != new.tickets {
        delta.tickets = Some(new.tickets.clone());
    }
    if !Arc::ptr_eq(&old.succeeds, &new.succeeds) && old.succeeds != new.succeeds {
        delta.succeeds = Some(new.succeeds.clone());
    }
    if old.level != new.level {
        delta.level = Some(new.level);
    }
    if !Arc::ptr_eq(&old.tokens, &new.tokens) && old.tokens != new.tokens {
        delta.tokens = Some(new.tokens.clone());
    }
    sections(old, new, &mut delta.sections);
    if !Arc::ptr_eq(&old.purges, &new.purges) && old.purges != new.purges {
        delta.purges = Some(new.purges.clone());
    }
    let nothing = old.cluster_id == new.cluster_id
        && delta.deletes.is_empty()
        && delta.puts.is_empty()
        && delta.members.is_none()
        && delta.member_changes.is_empty()
        && delta.steering.is_empty()
        && delta.custom.is_empty()
        && delta.cluster_name.is_none()
        && delta.tickets.is_none()
        && delta.succeeds.is_none()
        && delta.level.is_none()
        && delta.tokens.is_none()
        && delta.sections.is_empty()
        && delta.purges.is_none();
    (!nothing).then_some(delta)
}

/// What is different, by its key, and what it was and is. What two versions share is not looked at, which is nearly all of a large fleet or
/// configuration.
pub(crate) fn changes<'a, V: PartialEq>(
    old: &'a OrdMap<String, V>,
    new: &'a OrdMap<String, V>,
) -> impl Iterator<Item = (&'a String, Option<&'a V>, Option<&'a V>)> {
    old.diff(new).map(|item| match item {
        DiffItem::Add(name, now) => (name, None, Some(now)),
        DiffItem::Update { old: (_, was), new: (name, now) } => (name, Some(was), Some(now)),
        DiffItem::Remove(name, was) => (name, Some(was), None),
    })
}

fn sections(old: &Snapshot, new: &Snapshot, changes: &mut SectionChanges) {
    if Arc::ptr_eq(&old.sections, &new.sections) {
        return;
    }
    let empty = Section::new();
    let names = old.sections.keys().chain(new.sections.keys().filter(|name| !old.sections.contains_key(*name)));
    for name in names {
        let (before, after) = (old.sections.get(name).unwrap_or(&empty), new.sections.get(name).unwrap_or(&empty));
        let keys: BTreeMap<_, _> =
            self::changes(before, after).map(|(key, _, now)| (key.clone(), now.cloned())).collect();
        if !keys.is_empty() {
            changes.insert(name.clone(), keys);
        }
    }
}

fn custom(old: &Snapshot, new: &Snapshot, changes: &mut Vec<CustomChange>) {
    if !Arc::ptr_eq(&old.custom_kinds, &new.custom_kinds) {
        let (gone, put) = maps(&old.custom_kinds, &new.custom_kinds, |a, b| a == b);
        changes.extend(gone.into_iter().map(|kind| CustomChange::DeleteKind(kind.clone())));
        changes.extend(put.into_iter().map(|(_, kind)| CustomChange::PutKind(kind.clone())));
    }
    if Arc::ptr_eq(&old.custom_data, &new.custom_data) {
        return;
    }
    let empty = Arc::new(BTreeMap::new());
    let (gone, put) = maps(&old.custom_data, &new.custom_data, Arc::ptr_eq);
    for kind in gone.into_iter().filter(|kind| new.custom_kinds.contains_key(*kind)) {
        changes.extend(
            old.custom_data[kind].keys().map(|id| CustomChange::DeleteData { kind: kind.clone(), id: id.clone() }),
        );
    }
    for (kind, items) in put {
        let before = old.custom_data.get(kind).unwrap_or(&empty);
        let (gone, put) = maps(before, items, |a, b| Arc::ptr_eq(a, b) || a == b);
        changes.extend(gone.into_iter().map(|id| CustomChange::DeleteData { kind: kind.clone(), id: id.clone() }));
        changes.extend(put.into_iter().map(|(id, data)| CustomChange::PutData {
            kind: kind.clone(),
            id: id.clone(),
            data: data.clone(),
        }));
    }
}

/// Keys that are gone, and entries that are new or different: one walk through both, in the order of their keys.
#[allow(clippy::type_complexity, reason = "two lists are named by the line above")]
pub(crate) fn maps<'a, V>(
    old: &'a BTreeMap<String, V>,
    new: &'a BTreeMap<String, V>,
    same: impl Fn(&V, &V) -> bool,
) -> (Vec<&'a String>, Vec<(&'a String, &'a V)>) {
    let (mut gone, mut put) = (Vec::new(), Vec::new());
    let mut before = old.iter().peekable();
    for (key, value) in new {
        while let Some((left, _)) = before.next_if(|(left, _)| *left < key) {
            gone.push(left);
        }
        match before.next_if(|(there, _)| *there == key) {
            Some((_, was)) if same(was, value) => {}
            _ => put.push((key, value)),
        }
    }
    gone.extend(before.map(|(left, _)| left));
    (gone, put)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static COMPARED: Cell<usize> = const { Cell::new(0) };
    }

    #[derive(Clone)]
    struct Counted(u64);

    impl PartialEq for Counted {
        fn eq(&self, other: &Counted) -> bool {
            COMPARED.with(|compared| compared.set(compared.get() + 1));
            self.0 == other.0
        }
    }

    #[test]
    fn of_ten_thousand_keys_those_near_the_one_that_is_another_are_looked_at() {
        let old: OrdMap<String, Counted> = (0..10_000).map(|n| (format!("{n:05}"), Counted(n))).collect();
        let new = old.update("05000".to_owned(), Counted(0)).without("07000");
        let told: Vec<(&str, bool)> = changes(&old, &new).map(|(key, _, now)| (key.as_str(), now.is_some())).collect();
        assert_eq!(told, [("05000", true), ("07000", false)]);
        let compared = COMPARED.with(Cell::get);
        assert!(compared < 1_000, "{compared} were compared");
    }
}
