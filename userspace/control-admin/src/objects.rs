//! Create, read, update, delete: the documents users write.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use control_api::{Document, OWNER_LABEL};
use control_state::{Action, Entry, PutMode, owner};
use serde_json::{Value, json};

use crate::body::{Answer, Error, Reply, Text, flag, text};
use crate::catalog::{Category, Checked};
use crate::routes::Api;

type Params = Query<Vec<(String, String)>>;

/// `POST /objects`: one document or several, all or none. With `?apply=true` what exists is replaced.
pub async fn create(State(api): State<Arc<Api>>, query: Params, body: Text) -> Answer {
    let mode = if flag(&query, "apply") { PutMode::Upsert } else { PutMode::Create };
    let put = put(&api, Request::of_all(body), mode, flag(&query, "strict")).await?;
    let status = if put.created.is_empty() && mode == PutMode::Upsert { StatusCode::OK } else { StatusCode::CREATED };
    let location = (put.names.len() == 1).then(|| format!("/apis/v2/objects/{}", put.names[0]));
    let body = (mode == PutMode::Upsert).then(|| {
        let objects = put.names.iter().map(|name| json!({"name": name, "created": put.created.contains(name)}));
        Value::Array(objects.collect())
    });
    Ok(Reply { status, location, body, version: Some(put.version), warnings: put.warnings })
}

/// `PUT /objects/{name}`.
pub async fn update(State(api): State<Arc<Api>>, Path(name): Path<String>, query: Params, body: Text) -> Answer {
    let request = Request { body, only: Some(name) };
    let put = put(&api, request, PutMode::Update, flag(&query, "strict")).await?;
    Ok(Reply::default().version(put.version).warnings(put.warnings))
}

/// `POST /objects-check`: everything `POST /objects?apply=true` would say, without the change.
pub async fn check(State(api): State<Arc<Api>>, query: Params, body: Text) -> Answer {
    let checked = checked(&api, Request::of_all(body), PutMode::Upsert, flag(&query, "strict")).await?;
    let warnings = checked.iter().flat_map(|checked| checked.warnings.iter().cloned()).collect();
    Ok(Reply::default().warnings(warnings))
}

pub async fn list(State(api): State<Arc<Api>>, query: Params) -> Answer {
    let state = api.control.state();
    let documents: Vec<Value> = state.view.objects.values().map(|document| api.catalog.shown(document)).collect();
    let namespace = text(&query, "namespace");
    if flag(&query, "all-namespaces") {
        if !namespace.is_empty() {
            return Err(Error::invalid("namespace and all-namespaces exclude each other: give one of them"));
        }
        return Ok(Reply::body(json!({DEFAULT_NAMESPACE: documents})).version(state.view.version));
    }
    let here = in_default(namespace);
    Ok(Reply::body(if here { documents } else { Vec::new() }).version(state.view.version))
}

pub async fn show(State(api): State<Arc<Api>>, Path(name): Path<String>, query: Params) -> Answer {
    let state = api.control.state();
    match state.view.object(&name) {
        Some(document) if in_default(text(&query, "namespace")) => {
            Ok(Reply::body(api.catalog.shown(document)).version(state.view.version))
        }
        _ => Err(Error::not_found(format!("object {name:?} not found"))),
    }
}

pub async fn delete(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Answer {
    if let Some(kind) = system_kind(&api, &name) {
        return Err(Error::invalid(format!("{kind} is part of the system and cannot be deleted")));
    }
    let done = api.control.propose(Action::Delete { names: vec![name] }).await?;
    Ok(Reply::default().version(done.version))
}

pub async fn delete_all(State(api): State<Arc<Api>>, query: Params) -> Answer {
    if !flag(&query, "all") {
        return Err(Error::invalid("deleting every object takes ?all=true; one is deleted with DELETE /objects/NAME"));
    }
    let done = api.control.propose(Action::DeleteAll).await?;
    Ok(Reply::default().version(done.version))
}

struct Put {
    version: u64,
    names: Vec<String>,
    created: Vec<String>,
    warnings: Vec<String>,
}

async fn put(api: &Arc<Api>, request: Request, mode: PutMode, strict: bool) -> Result<Put, Error> {
    let checked = checked(api, request, mode, strict).await?;
    let mut names = Vec::new();
    let mut warnings = Vec::new();
    let mut entries = Vec::new();
    for one in checked {
        let name = one.document.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        for warning in &one.warnings {
            tracing::warn!(object = name, warning, "a document was accepted with a warning");
        }
        names.push(name);
        warnings.extend(one.warnings);
        entries.push(Entry {
            document: Document::new(one.document),
            generated: one.generated.into_iter().map(Document::new).collect(),
        });
    }
    let done = api.control.propose(Action::Put { mode, entries }).await?;
    Ok(Put { version: done.version, names, created: done.created, warnings })
}

/// What came, not read yet.
struct Request {
    body: Text,
    /// The path names the object, and the body holds this one.
    only: Option<String>,
}

impl Request {
    fn of_all(body: Text) -> Request {
        Request { body, only: None }
    }

    fn documents(&self, api: &Api) -> Result<Vec<Value>, Error> {
        let Some(name) = &self.only else { return self.body.documents() };
        let document = self.body.document()?;
        if let Some(given) = document.get("name").and_then(Value::as_str)
            && given != name
        {
            return Err(Error::invalid(format!(
                "name: \"{given}\" in the document, \"{name}\" in the path: they have to be the same"
            )));
        }
        if !api.control.state().view.objects.contains_key(name) {
            return Err(Error::not_found(format!("object \"{name}\" not found; create it with POST")));
        }
        Ok(vec![document])
    }
}

/// Reads and checks what came, off the threads that answer.
async fn checked(api: &Arc<Api>, request: Request, mode: PutMode, strict: bool) -> Result<Vec<Checked>, Error> {
    let checking = api.clone();
    api.checks.run(move || check_all(&checking, request.documents(&checking)?, mode, strict)).await
}

/// Checks documents as they will stand beside each other and beside what is there; collects every problem first.
fn check_all(api: &Api, mut documents: Vec<Value>, mode: PutMode, strict: bool) -> Result<Vec<Checked>, Error> {
    let several = documents.len() > 1;
    let state = api.control.state();
    let mut names = BTreeSet::new();
    let mut problems = Vec::new();
    let mut status = StatusCode::BAD_REQUEST;
    for (n, document) in documents.iter_mut().enumerate() {
        let stored = document.get("name").and_then(Value::as_str).and_then(|name| state.view.object(name));
        for problem in api.catalog.restore_secrets(document, stored.map(|stored| stored.as_ref())) {
            problems.push(titled(n, document, several, &problem));
        }
        if let Err((what, problem)) = may_write(api, document, mode) {
            status = what;
            problems.push(titled(n, document, several, &problem));
        }
        let Some(name) = document.get("name").and_then(Value::as_str) else { continue };
        if !names.insert(name.to_owned()) {
            problems.push(titled(n, document, several, &format!("name: {name:?} is in the body twice")));
        }
    }
    if !problems.is_empty() {
        // One status for several documents: the one that says most.
        let status = if problems.len() == 1 { status } else { StatusCode::BAD_REQUEST };
        return Err(Error::new(status, problems.join("\n")));
    }
    let mut all = Vec::new();
    let results = api.catalog.check(&documents, &state.view.objects);
    for (n, (document, result)) in documents.iter().zip(results).enumerate() {
        match result {
            Ok(checked) => {
                if strict {
                    problems.extend(
                        checked.warnings.iter().map(|w| titled(n, document, several, &format!("{w} (strict)"))),
                    );
                }
                all.push(checked);
            }
            Err(found) => problems.extend(found.iter().map(|problem| titled(n, document, several, problem))),
        }
    }
    if problems.is_empty() { Ok(all) } else { Err(Error::invalid(problems.join("\n"))) }
}

/// What can be said before looking into the document. The state decides again when the command is applied.
fn may_write(api: &Api, document: &Value, mode: PutMode) -> Result<(), (StatusCode, String)> {
    let invalid = |message: String| Err((StatusCode::BAD_REQUEST, message));
    if !document.is_object() {
        return invalid("a document is a mapping with at least name and kind".into());
    }
    let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default();
    if let Some(kind) = system_kind(api, kind) {
        return Err((
            StatusCode::CONFLICT,
            format!("kind: {kind} is part of the system: it runs by itself and is not written"),
        ));
    }
    let claimed = owner(document);
    if claimed != control_api::OWNER_USER {
        return invalid(format!(
            "labels[{OWNER_LABEL}] = {claimed:?}: what users write belongs to \"user-api\"; leave the label out"
        ));
    }
    let Some(name) = document.get("name").and_then(Value::as_str) else { return Ok(()) };
    let state = api.control.state();
    let Some(old) = state.view.object(name) else { return Ok(()) };
    if mode == PutMode::Create {
        return Err((StatusCode::CONFLICT, format!("object {name:?} exists already; change it with PUT or apply")));
    }
    let holder = owner(old);
    if holder != control_api::OWNER_USER {
        return invalid(format!("object {name:?} belongs to {holder}: it is generated and follows its owner"));
    }
    let was = old.get("kind").and_then(Value::as_str).unwrap_or_default();
    if !kind.is_empty() && !was.eq_ignore_ascii_case(kind) && kind != base_model::kinds::LEGACY_PIPELINE {
        return invalid(format!(
            "object {name:?} is a {was} and cannot become a {kind}: delete it first, or take another name"
        ));
    }
    Ok(())
}

fn system_kind(api: &Api, name: &str) -> Option<String> {
    let kinds = api.catalog.kinds().into_iter();
    kinds.filter(|kind| kind.category == Category::System).find(|kind| kind.kind == name).map(|kind| kind.kind)
}

/// Says which of several documents is meant.
fn titled(n: usize, document: &Value, several: bool, problem: &str) -> String {
    if !several {
        return problem.to_owned();
    }
    match document.get("name").and_then(Value::as_str) {
        Some(name) => format!("{name}: {problem}"),
        None => format!("document {}: {problem}", n + 1),
    }
}

fn in_default(namespace: &str) -> bool {
    namespace.is_empty() || namespace == DEFAULT_NAMESPACE
}

pub const DEFAULT_NAMESPACE: &str = "default";
