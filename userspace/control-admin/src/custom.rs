//! Data of the users' own: kinds with a schema, and items checked against it before anything is proposed.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use base_model::Problem;
use base_text::quoted;
use control_api::{CustomBatch, CustomKind, CustomPlace, CustomRules, Document, Role, WASM_KINDS};
use control_state::{Action, CustomMode, PutMode};
use serde_json::{Value, json};

use crate::access::{CUSTOM, caller};
use crate::body::{Answer, Error, Reply, Text, since};
use crate::routes::Api;

type Shared = State<Arc<Api>>;

pub async fn list_kinds(api: Shared) -> Answer {
    caller().needs(Role::Read, Some(CUSTOM))?;
    let state = api.control.state();
    // What programs share has paths of its own.
    let users = state.view.custom_kinds.values().filter(|kind| !kind.name.starts_with(WASM_KINDS));
    let kinds: Vec<Value> = users.map(|kind| shown(&state.view, kind)).collect();
    Ok(Reply::body(kinds).version(state.view.version))
}

pub async fn show_kind(api: Shared, Path(name): Path<String>) -> Answer {
    caller().needs(Role::Read, Some(CUSTOM))?;
    let state = api.control.state();
    let kind = state.view.custom_kinds.get(&name).ok_or_else(|| unknown_kind(&name))?;
    // How many items there are is shown with it.
    let places = [CustomPlace::Kind(&name), CustomPlace::Data(&name)];
    let changed = places.map(|place| state.view.custom_changed(place)).into_iter().max().unwrap_or_default();
    Ok(Reply::body(shown(&state.view, kind)).version(state.view.version).changed(changed))
}

pub async fn create_kind(api: Shared, headers: HeaderMap, body: Text) -> Answer {
    let done = put_kind(&api, PutMode::Create, &body, since(&headers)?).await?;
    Ok(Reply::created().version(done).changed(done))
}

pub async fn update_kind(api: Shared, headers: HeaderMap, body: Text) -> Answer {
    let done = put_kind(&api, PutMode::Update, &body, since(&headers)?).await?;
    Ok(Reply::default().version(done).changed(done))
}

/// With `If-Match`, neither the kind nor any of its items may have changed: they go with it.
pub async fn delete_kind(api: Shared, headers: HeaderMap, Path(name): Path<String>) -> Answer {
    let done = api.change(Action::DeleteCustomKind { name, since: since(&headers)? }).await?;
    Ok(Reply::default().version(done.version))
}

pub async fn list(api: Shared, Path(kind): Path<String>) -> Answer {
    caller().needs(Role::Read, Some(CUSTOM))?;
    let state = api.control.state();
    if !state.view.custom_kinds.contains_key(&kind) {
        return Err(unknown_kind(&kind));
    }
    let items = state.view.custom_data.get(&kind);
    let items: Vec<Value> = items.iter().flat_map(|items| items.values()).map(|item| Value::clone(item)).collect();
    let changed = state.view.custom_changed(CustomPlace::Data(&kind));
    Ok(Reply::body(items).version(state.view.version).changed(changed))
}

pub async fn show(api: Shared, Path((kind, id)): Path<(String, String)>) -> Answer {
    caller().needs(Role::Read, Some(CUSTOM))?;
    let state = api.control.state();
    if !state.view.custom_kinds.contains_key(&kind) {
        return Err(unknown_kind(&kind));
    }
    let item = state.view.custom_data.get(&kind).and_then(|items| items.get(&id));
    let item = item.ok_or_else(|| {
        Error::not_found(format!("custom data kind {kind} has no item {id}", kind = quoted(&kind), id = quoted(&id)))
    })?;
    let changed = state.view.custom_changed(CustomPlace::Item(&kind, &id));
    Ok(Reply::body(Value::clone(item)).version(state.view.version).changed(changed))
}

pub async fn create(api: Shared, headers: HeaderMap, Path(kind): Path<String>, body: Text) -> Answer {
    let version = put(&api, PutMode::Create, kind, body, since(&headers)?).await?;
    Ok(Reply::created().version(version).changed(version))
}

pub async fn update(api: Shared, headers: HeaderMap, Path(kind): Path<String>, body: Text) -> Answer {
    let version = put(&api, PutMode::Update, kind, body, since(&headers)?).await?;
    Ok(Reply::default().version(version).changed(version))
}

pub async fn delete(api: Shared, headers: HeaderMap, Path((kind, id)): Path<(String, String)>) -> Answer {
    let done = api.change(Action::DeleteCustomData { kind, id, since: since(&headers)? }).await?;
    Ok(Reply::default().version(done.version))
}

/// With `If-Match`, no item of the kind may have changed; so with [`batch`].
pub async fn delete_all(api: Shared, headers: HeaderMap, Path(kind): Path<String>) -> Answer {
    let (mode, since) = (CustomMode::Rebuild, since(&headers)?);
    let action = Action::BatchCustomData { kind, mode, delete: Vec::new(), put: Vec::new(), since };
    let done = api.change(action).await?;
    Ok(Reply::default().version(done.version))
}

/// `{rebuild, delete: [ids], list: [items]}`: all of it or nothing.
pub async fn batch(api: Shared, headers: HeaderMap, Path(kind): Path<String>, body: Text) -> Answer {
    let (checking, since) = (api.0.clone(), since(&headers)?);
    let action = api.checks.run(move || batch_of(&checking, kind, &body, since)).await?;
    let done = api.change(action).await?;
    Ok(Reply::default().version(done.version))
}

fn batch_of(api: &Api, kind: String, body: &Text, since: Option<u64>) -> Result<Action, Error> {
    let batch = CustomBatch::read(&body.document()?).map_err(refused)?;
    let state = api.control.state();
    let rules = state.view.custom_kinds.get(&kind).ok_or_else(|| unknown_kind(&kind))?;
    let rules = CustomRules::of(rules).map_err(Error::invalid)?;
    let problems = batch.check(Some(&rules));
    if !problems.is_empty() {
        return Err(refused(problems));
    }
    let mode = if batch.rebuild { CustomMode::Rebuild } else { CustomMode::Keep };
    let put = batch.list.into_iter().map(Document::new).collect();
    Ok(Action::BatchCustomData { kind, mode, delete: batch.delete, put, since })
}

async fn put_kind(api: &Api, mode: PutMode, body: &Text, since: Option<u64>) -> Result<u64, Error> {
    let kind = CustomKind::read(&body.document()?).map_err(refused)?;
    Ok(api.change(Action::PutCustomKind { mode, kind, since }).await?.version)
}

async fn put(api: &Arc<Api>, mode: PutMode, kind: String, body: Text, since: Option<u64>) -> Result<u64, Error> {
    let checking = api.clone();
    let read = move || {
        let item = body.document()?;
        let state = checking.control.state();
        let rules = state.view.custom_kinds.get(&kind).ok_or_else(|| unknown_kind(&kind))?;
        CustomRules::of(rules).and_then(|rules| rules.check(&item)).map_err(Error::invalid)?;
        Ok(Action::PutCustomData { mode, kind, item: Document::new(item), since })
    };
    let action = api.checks.run(read).await?;
    Ok(api.change(action).await?.version)
}

fn refused(problems: Vec<Problem>) -> Error {
    Error::invalid(base_model::problem::render(&problems))
}

fn shown(view: &control_api::Snapshot, kind: &CustomKind) -> Value {
    let count = view.custom_data.get(&kind.name).map_or(0, |items| items.len());
    let mut shown = json!({"name": kind.name, "idField": kind.id_field, "len": count});
    if let Some(schema) = &kind.json_schema {
        shown["jsonSchema"] = Value::clone(schema);
    }
    shown
}

fn unknown_kind(name: &str) -> Error {
    Error::not_found(format!("custom data kind {name} not found", name = quoted(&name)))
}
