//! The users' own data.

use std::collections::BTreeMap;
use std::sync::Arc;

use base_text::quoted;
use control_api::{CustomKind, CustomPlace, Document, Refusal, Snapshot};
use serde_json::Value;

use crate::command::{CustomMode, PutMode};

/// Refuses a change of a kind by somebody who has seen the version `since` of it and none after it.
pub fn seen_kind(view: &Snapshot, name: &str, since: Option<u64>) -> Result<(), Refusal> {
    let there = view.custom_kinds.contains_key(name);
    let what = format!("custom data kind {}", quoted(&name));
    seen(view, &what, there.then(|| view.custom_changed(CustomPlace::Kind(name))), since)
}

/// Of all items of a kind together.
pub fn seen_data(view: &Snapshot, kind: &str, since: Option<u64>) -> Result<(), Refusal> {
    let what = format!("the data of custom data kind {}", quoted(&kind));
    seen(view, &what, Some(view.custom_changed(CustomPlace::Data(kind))), since)
}

pub fn seen_item(view: &Snapshot, kind: &str, id: &str, since: Option<u64>) -> Result<(), Refusal> {
    let there = view.custom_data.get(kind).is_some_and(|items| items.contains_key(id));
    let what = format!("item {} of custom data kind {}", quoted(&id), quoted(&kind));
    seen(view, &what, there.then(|| view.custom_changed(CustomPlace::Item(kind, id))), since)
}

/// `changed`: when, if it is there.
fn seen(view: &Snapshot, what: &str, changed: Option<u64>, since: Option<u64>) -> Result<(), Refusal> {
    let Some(since) = since else { return Ok(()) };
    let again = "read it again, make the change again and send it with the ETag it has then";
    match changed {
        _ if since > view.version => Err(Refusal::stale(format!(
            "{what}: version {since} is not there yet, the configuration is at {}; {again}",
            view.version
        ))),
        Some(at) if at > since => Err(Refusal::stale(format!(
            "{what} was changed in version {at}, after version {since} that this change was made from; {again}"
        ))),
        Some(_) => Ok(()),
        None => Err(Refusal::stale(format!(
            "{what} is not there, and this change was made from its version {since}: it was deleted, or never was; create it without If-Match \
             if it shall be there"
        ))),
    }
}

pub fn put_custom_kind(
    view: &mut Snapshot,
    mode: PutMode,
    kind: &CustomKind,
    since: Option<u64>,
) -> Result<Vec<String>, Refusal> {
    let mut kind = kind.clone();
    if kind.id_field.is_empty() {
        kind.id_field = "name".into();
    }
    if kind.name.is_empty() {
        return Err(Refusal::invalid("name: required: the name of the custom data kind"));
    }
    seen_kind(view, &kind.name, since)?;
    let old = view.custom_kinds.get(&kind.name);
    match (old, mode) {
        (Some(_), PutMode::Create) => {
            return Err(Refusal::conflict(format!(
                "custom data kind {} exists already; change it with PUT",
                quoted(&kind.name)
            )));
        }
        (None, PutMode::Update) => return Err(unknown_custom_kind(&kind.name)),
        _ => {}
    }
    if let Some(old) = old
        && old.id_field != kind.id_field
        && let Some(items) = view.custom_data.get(&kind.name)
    {
        return Err(Refusal::invalid(format!(
            "idField = {}: {} items of {} are kept by their {}; delete them first",
            quoted(&kind.id_field),
            items.len(),
            quoted(&kind.name),
            quoted(&old.id_field)
        )));
    }
    let created = if old.is_none() { vec![kind.name.clone()] } else { Vec::new() };
    Arc::make_mut(&mut view.custom_kinds).insert(kind.name.clone(), kind);
    Ok(created)
}

pub fn put_custom_data(
    view: &mut Snapshot,
    mode: PutMode,
    kind: &str,
    item: &Document,
    since: Option<u64>,
) -> Result<Vec<String>, Refusal> {
    let id = custom_id(custom_kind(view, kind)?, item)?;
    seen_item(view, kind, &id, since)?;
    let exists = view.custom_data.get(kind).is_some_and(|items| items.contains_key(&id));
    match mode {
        PutMode::Create if exists => {
            return Err(Refusal::conflict(format!(
                "custom data kind {kind} has an item {id} already; change it with PUT",
                kind = quoted(&kind),
                id = quoted(&id)
            )));
        }
        PutMode::Update if !exists => {
            return Err(Refusal::not_found(format!(
                "custom data kind {kind} has no item {id}; create it with POST",
                kind = quoted(&kind),
                id = quoted(&id)
            )));
        }
        _ => {}
    }
    custom_items(view, kind).insert(id.clone(), item.clone());
    Ok(if exists { Vec::new() } else { vec![id] })
}

pub fn batch_custom_data(
    view: &mut Snapshot,
    kind: &str,
    mode: CustomMode,
    delete: &[String],
    put: &[Document],
) -> Result<Vec<String>, Refusal> {
    let rules = custom_kind(view, kind)?;
    let put: Vec<(String, &Document)> =
        put.iter().map(|item| Ok((custom_id(rules, item)?, item))).collect::<Result<_, Refusal>>()?;
    let items = custom_items(view, kind);
    if mode == CustomMode::Rebuild {
        items.clear();
    }
    for id in delete {
        items.remove(id);
    }
    for (id, item) in put {
        items.insert(id, item.clone());
    }
    Ok(tidy_custom(view, kind))
}

pub fn custom_kind<'a>(view: &'a Snapshot, kind: &str) -> Result<&'a CustomKind, Refusal> {
    view.custom_kinds.get(kind).ok_or_else(|| unknown_custom_kind(kind))
}

pub fn custom_items<'a>(view: &'a mut Snapshot, kind: &str) -> &'a mut BTreeMap<String, Document> {
    Arc::make_mut(Arc::make_mut(&mut view.custom_data).entry(kind.to_owned()).or_default())
}

/// A kind without items has no entry, whichever way it lost them.
pub fn tidy_custom(view: &mut Snapshot, kind: &str) -> Vec<String> {
    if view.custom_data.get(kind).is_some_and(|items| items.is_empty()) {
        Arc::make_mut(&mut view.custom_data).remove(kind);
    }
    Vec::new()
}

fn custom_id(kind: &CustomKind, item: &Value) -> Result<String, Refusal> {
    kind.id_of(item).map_err(Refusal::invalid)
}

fn unknown_custom_kind(name: &str) -> Refusal {
    Refusal::not_found(format!("custom data kind {name} not found", name = quoted(&name)))
}
