//! Documents from files, and their way to the server.

use std::io::Read;
use std::path::{Path, PathBuf};

use base_model::yaml;
use hyper::Method;
use serde_json::Value;

use crate::arguments::Files;
use crate::output::succeeded;
use crate::resource::Resource;
use crate::server::{Server, segment, value};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Create,
    Apply,
}

/// What a document is, and so where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Object,
    CustomKind,
    CustomData,
}

impl Sort {
    /// By its kind, in every spelling that the command line takes. A kind that nobody knows is left to be refused as an object's.
    pub fn of(kind: &str) -> Sort {
        match Resource::parse(kind) {
            Ok(Resource::CustomKind) => Sort::CustomKind,
            Ok(Resource::CustomData) => Sort::CustomData,
            _ => Sort::Object,
        }
    }
}

/// Every document of the files, or everything that cannot be read.
pub fn read(files: &[PathBuf]) -> Result<Vec<Value>, String> {
    let (mut all, mut problems) = (Vec::new(), Vec::new());
    for file in files {
        let shown = shown(file);
        let text = match text(file) {
            Ok(text) => text,
            Err(why) => {
                problems.push(why);
                continue;
            }
        };
        let before = all.len() + problems.len();
        for part in yaml::parse_parts(&text) {
            match part.documents {
                Ok(documents) => all.extend(documents),
                Err(error) => problems.push(format!("{shown}: {error}")),
            }
        }
        if all.len() + problems.len() == before {
            problems.push(format!("{shown}: no document in it"));
        }
    }
    if problems.is_empty() { Ok(all) } else { Err(problems.join("\n")) }
}

/// What a file is called in messages.
pub fn shown(file: &Path) -> String {
    if file == Path::new("-") { "stdin".into() } else { file.display().to_string() }
}

pub fn text(file: &Path) -> Result<String, String> {
    if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|e| format!("stdin: {e}"))?;
        return Ok(text);
    }
    std::fs::read_to_string(file).map_err(|e| format!("{}: cannot be read: {e}", file.display()))
}

/// Objects go in one request, so that all of them or none are there; custom data follows in its own.
/// With `seen` they are refused when any of them was changed after that version.
pub async fn send(server: &Server, files: &Files, mode: Mode, seen: Option<u64>) -> Result<(), String> {
    if files.file.is_empty() {
        return Err("which documents? give -f FILE, or -f - for stdin".into());
    }
    let documents = read(&files.file)?;
    send_documents(server, documents, mode, files.strict, seen).await
}

pub async fn send_documents(
    server: &Server,
    documents: Vec<Value>,
    mode: Mode,
    strict: bool,
    seen: Option<u64>,
) -> Result<(), String> {
    let verb = if mode == Mode::Create { "create" } else { "apply" };
    let (mut objects, mut kinds, mut data) = (Vec::new(), Vec::new(), Vec::new());
    for document in documents {
        match Sort::of(word(&document, "kind")) {
            Sort::Object => objects.push(document),
            Sort::CustomKind => kinds.push(document),
            Sort::CustomData => data.push(document),
        }
    }
    for kind in &kinds {
        send_kind(server, kind, mode, seen).await?;
    }
    if !objects.is_empty() {
        let body = objects.iter().map(yaml::to_string).collect::<Vec<_>>().join("---\n");
        let mut query = Vec::new();
        if mode == Mode::Apply {
            query.push("apply=true");
        }
        if strict {
            query.push("strict=true");
        }
        let path = format!("/objects?{}", query.join("&"));
        let several = objects.len() > 1;
        let answer = server.send_if(Method::POST, &path, body, tag(seen).as_deref()).await.map_err(|message| {
            let subject = match objects.first() {
                Some(one) if !several => format!("{} {}", word(one, "kind"), word(one, "name")),
                _ => format!("{} objects", objects.len()),
            };
            let note = if several { "\nnothing was changed" } else { "" };
            format!("{verb} {} failed, {message}{note}", subject.trim())
        })?;
        let answer = value(&answer)?;
        for (n, document) in objects.iter().enumerate() {
            let created = mode == Mode::Create || answer[n]["created"].as_bool().unwrap_or(true);
            succeeded(if created { "create" } else { "update" }, word(document, "kind"), word(document, "name"));
        }
    }
    for document in &data {
        let name = word(document, "name");
        let path = format!("/customdata/{}/items", segment(name));
        let sent = server.send_if(Method::POST, &path, document.to_string(), tag(seen).as_deref()).await;
        sent.map_err(|message| format!("{verb} CustomData {name} failed, {message}"))?;
        succeeded(verb, "CustomData", name);
    }
    Ok(())
}

async fn send_kind(server: &Server, document: &Value, mode: Mode, seen: Option<u64>) -> Result<(), String> {
    let name = word(document, "name");
    let exists = mode == Mode::Apply
        && server.call(Method::GET, &format!("/customdatakinds/{}", segment(name)), String::new()).await.is_ok();
    let (verb, method) = if exists { ("update", Method::PUT) } else { ("create", Method::POST) };
    let tag = tag(seen).filter(|_| exists);
    let sent = server.send_if(method, "/customdatakinds", document.to_string(), tag.as_deref()).await;
    sent.map_err(|message| format!("{verb} CustomDataKind {name} failed, {message}"))?;
    succeeded(verb, "CustomDataKind", name);
    Ok(())
}

/// What a server calls a version.
fn tag(seen: Option<u64>) -> Option<String> {
    seen.map(|version| format!("\"{version}\""))
}

pub fn word<'v>(document: &'v Value, key: &str) -> &'v str {
    document.get(key).and_then(Value::as_str).unwrap_or_default()
}
