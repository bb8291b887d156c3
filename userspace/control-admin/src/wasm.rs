//! What programs of WasmHosts share, and the word to read programs again. Both are kept among the users' own data, see
//! [`control_api::wasm_data`].

use std::sync::Arc;

use axum::extract::{Path, State};
use base_text::quoted;
use base64::prelude::{BASE64_STANDARD, Engine};
use control_api::{
    CustomKind, Document, Role, Snapshot, WASM_CODE, WASM_ID, WASM_ITEMS_MAX, WASM_KEY_MAX, WASM_VALUE_MAX, wasm_data,
};
use control_state::{Action, CustomMode, PutMode};
use serde_json::{Map, Value, json};

use crate::access::{CUSTOM, caller};
use crate::body::{Answer, Error, Reply, Text};
use crate::routes::Api;

type Shared = State<Arc<Api>>;

/// Tells every machine to read its programs again. What it says is another thing each time: the version that it is said at.
pub async fn reload(api: Shared) -> Answer {
    let version = api.control.state().view.version;
    let kind = made(&api, WASM_CODE).await?;
    let item = Document::new(json!({WASM_ID: "reload", "after": version}));
    let done = api.change(Action::PutCustomData { mode: PutMode::Upsert, kind, item, since: None }).await?;
    Ok(Reply::default().version(done.version))
}

/// Keys and values; those that are no text come in base64 after `base64:`.
pub async fn list(api: Shared, Path((pipeline, filter)): Path<(String, String)>) -> Answer {
    caller().needs(Role::Read, Some(CUSTOM))?;
    let state = api.control.state();
    known(&state.view, &pipeline, &filter)?;
    let items = state.view.custom_data.get(&wasm_data(&pipeline, &filter));
    let shown = |(key, item): (&String, &Document)| {
        let value = match (item.get("value"), item.get("base64").and_then(Value::as_str)) {
            (None, Some(digits)) => json!(format!("base64:{digits}")),
            (value, _) => value.cloned().unwrap_or_default(),
        };
        (key.clone(), value)
    };
    let all: Map<String, Value> = items.iter().flat_map(|items| items.iter()).map(shown).collect();
    Ok(Reply::body(all).version(state.view.version))
}

/// Puts keys and values beside what is there, or in its place.
pub async fn apply(api: Shared, Path((pipeline, filter)): Path<(String, String)>, body: Text) -> Answer {
    let Value::Object(data) = body.document()? else {
        return Err(Error::invalid("the data are a mapping of keys to texts: `key: value`"));
    };
    let put: Vec<Document> = data.into_iter().map(|(key, value)| item(&key, &value)).collect::<Result<_, _>>()?;
    let name = wasm_data(&pipeline, &filter);
    let state = api.control.state();
    let items = state.view.custom_data.get(&name);
    let there = items.map_or(0, |items| items.len());
    let is_new = |item: &&Document| item[WASM_ID].as_str().is_none_or(|key| items.is_none_or(|i| !i.contains_key(key)));
    let new = put.iter().filter(is_new).count();
    if there + new > WASM_ITEMS_MAX {
        let message = format!("{there} keys are there and {new} come; accepted are {WASM_ITEMS_MAX} in all");
        return Err(Error::invalid(message));
    }
    let (kind, mode) = (made(&api, &name).await?, CustomMode::Keep);
    // It may be for a pipeline to come.
    let warnings =
        known(&state.view, &pipeline, &filter).err().map(|_| format!("{pipeline}/{filter}: no such WasmHost yet"));
    let done = api.change(Action::BatchCustomData { kind, mode, delete: Vec::new(), put, since: None }).await?;
    Ok(Reply::default().version(done.version).warnings(warnings.into_iter().collect()))
}

/// Forgets all of it.
pub async fn delete(api: Shared, Path((pipeline, filter)): Path<(String, String)>) -> Answer {
    known(&api.control.state().view, &pipeline, &filter)?;
    let (kind, mode) = (made(&api, &wasm_data(&pipeline, &filter)).await?, CustomMode::Rebuild);
    let done = api.change(Action::BatchCustomData { kind, mode, delete: Vec::new(), put: Vec::new(), since: None });
    Ok(Reply::default().version(done.await?.version))
}

/// There is such a filter, or something that was shared in its name: whoever misspells a name is not told that nothing is there.
fn known(view: &Snapshot, pipeline: &str, filter: &str) -> Result<(), Error> {
    let is_it =
        |one: &Value| one["name"] == filter && one["kind"].as_str().is_some_and(|k| k.eq_ignore_ascii_case("WasmHost"));
    // One of a GlobalFilter is called `GLOBALFILTER:FIELD`.
    let (key, field) = pipeline.split_once(':').map_or((pipeline, None), |(key, field)| (key, Some(field)));
    let document = view.objects.get(key).map(|document| field.map_or(&**document, |field| &document[field]));
    let has_it = document.and_then(|part| part["filters"].as_array()).is_some_and(|all| all.iter().any(is_it));
    if has_it || view.custom_kinds.contains_key(&wasm_data(pipeline, filter)) {
        return Ok(());
    }
    Err(Error::not_found(format!(
        "no pipeline {} has a WasmHost {}, and nothing is shared in these names",
        quoted(pipeline),
        quoted(filter)
    )))
}

fn item(key: &str, value: &Value) -> Result<Document, Error> {
    if key.is_empty() || key.len() > WASM_KEY_MAX {
        let shown = quoted(&key.chars().take(40).collect::<String>()).to_string();
        return Err(Error::invalid(format!("key {shown} has {} bytes; accepted: 1 to {WASM_KEY_MAX}", key.len())));
    }
    if let Value::String(text) = value
        && text.len() > WASM_VALUE_MAX
    {
        return Err(Error::invalid(format!(
            "{}: a value of {} bytes; accepted: up to {WASM_VALUE_MAX}",
            quoted(key),
            text.len()
        )));
    }
    let item = match value {
        Value::String(text) => match text.strip_prefix("base64:") {
            Some(digits) if BASE64_STANDARD.decode(digits).is_err() => {
                let message = format!("{}: what follows base64: is no base64 (RFC 4648, padded)", quoted(key));
                return Err(Error::invalid(message));
            }
            Some(digits) => json!({WASM_ID: key, "base64": digits}),
            None => json!({WASM_ID: key, "value": text}),
        },
        Value::Number(number) => json!({WASM_ID: key, "value": number.to_string()}),
        Value::Bool(truth) => json!({WASM_ID: key, "value": truth.to_string()}),
        other => {
            return Err(Error::invalid(format!(
                "{} = {other}: a value is a text, a number, true or false",
                quoted(key)
            )));
        }
    };
    Ok(Document::new(item))
}

/// The name of a kind, which is there now.
async fn made(api: &Api, name: &str) -> Result<String, Error> {
    if !api.control.state().view.custom_kinds.contains_key(name) {
        let kind = CustomKind { name: name.to_owned(), id_field: WASM_ID.to_owned(), json_schema: None };
        api.change(Action::PutCustomKind { mode: PutMode::Upsert, kind, since: None }).await?;
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_the_name_its_pipeline_has() {
        let filters = json!([{"name": "f", "kind": "WasmHost"}, {"name": "m", "kind": "Mock"}]);
        let documents = [
            ("p", json!({"name": "p", "filters": filters})),
            ("blue/q", json!({"name": "q", "filters": filters})),
            ("g", json!({"name": "g", "beforePipeline": {"filters": filters}})),
        ];
        let objects = documents.into_iter().map(|(key, document)| (key.to_owned(), Document::new(document))).collect();
        let view = Snapshot { objects, ..Snapshot::default() };
        for (pipeline, filter, is_known) in [
            ("p", "f", true),
            ("p", "m", false),
            ("blue/q", "f", true),
            ("q", "f", false),
            ("g:beforePipeline", "f", true),
            ("g:afterPipeline", "f", false),
            ("g", "f", false),
        ] {
            assert_eq!(known(&view, pipeline, filter).is_ok(), is_known, "{pipeline}/{filter}");
        }
    }

    #[test]
    fn what_programs_could_not_read_is_refused() {
        let taken = |key: &str, value: Value| item(key, &value).is_ok();
        assert!(taken("id/a", json!("true")) && taken("n", json!(3)) && taken("b", json!("base64:AAH/")));
        assert!(!taken("b", json!("base64:!!!")) && !taken("b", json!("base64:AAH")), "no base64");
        assert!(!taken("", json!("x")) && !taken(&"k".repeat(WASM_KEY_MAX + 1), json!("x")), "no key");
        assert!(!taken("long", json!("v".repeat(WASM_VALUE_MAX + 1))) && !taken("list", json!([1])), "no value");
    }
}
