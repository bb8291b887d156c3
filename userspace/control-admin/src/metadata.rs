use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use base_text::quoted;
use serde_json::{Value, json};

use crate::body::{Answer, Error, Reply};
use crate::routes::Api;

pub async fn kinds(State(api): State<Arc<Api>>) -> Reply {
    let mut kinds: Vec<String> = api.catalog.kinds().into_iter().map(|kind| kind.kind).collect();
    kinds.sort();
    Reply::body(kinds)
}

/// What `weirctl` learns kinds and aliases from.
pub async fn api_resources(State(api): State<Arc<Api>>) -> Reply {
    let resources: Vec<Value> = api
        .catalog
        .kinds()
        .into_iter()
        .map(|kind| {
            json!({
                "category": kind.category.name(),
                "kind": kind.kind,
                "name": kind.kind.to_lowercase(),
                "aliases": kind.aliases,
                "singleton": kind.singleton,
            })
        })
        .collect();
    Reply::body(resources)
}

pub async fn skeleton(
    State(api): State<Arc<Api>>,
    Path((kind, name)): Path<(String, String)>,
) -> Result<Response, Error> {
    let known = api.catalog.kinds().into_iter().find(|known| known.kind.eq_ignore_ascii_case(&kind));
    let text = known.and_then(|known| api.catalog.skeleton(&known.kind));
    let text = text.ok_or_else(|| {
        Error::not_found(format!("no kind {kind} to write; GET /apis/v2/object-kinds lists all", kind = quoted(&kind)))
    })?;
    let named: Vec<String> = text
        .lines()
        .map(|line| if line.starts_with("name:") { format!("name: {name}") } else { line.to_owned() })
        .collect();
    Ok(([("content-type", "text/x-yaml")], named.join("\n") + "\n").into_response())
}

pub async fn explain(State(api): State<Arc<Api>>, Path(query): Path<String>) -> Result<Response, Error> {
    let text = api.catalog.explain(&query).map_err(Error::not_found)?;
    Ok(([("content-type", "text/plain; charset=utf-8")], text).into_response())
}

pub async fn filters(State(api): State<Arc<Api>>) -> Reply {
    let mut kinds = api.catalog.filter_kinds();
    kinds.sort();
    Reply::body(kinds)
}

pub async fn filter_description(State(api): State<Arc<Api>>, Path(kind): Path<String>) -> Result<Response, Error> {
    let text = api.catalog.filter_description(&kind).ok_or_else(|| unknown_filter(&api, &kind))?;
    Ok(([("content-type", "text/plain; charset=utf-8")], text).into_response())
}

pub async fn filter_schema(State(api): State<Arc<Api>>, Path(kind): Path<String>) -> Answer {
    api.catalog.filter_schema(&kind).map(Reply::body).ok_or_else(|| unknown_filter(&api, &kind))
}

pub async fn filter_results(State(api): State<Arc<Api>>, Path(kind): Path<String>) -> Answer {
    api.catalog.filter_results(&kind).map(Reply::body).ok_or_else(|| unknown_filter(&api, &kind))
}

fn unknown_filter(api: &Api, kind: &str) -> Error {
    Error::not_found(format!(
        "no filter kind {kind}; there are {}",
        api.catalog.filter_kinds().join(", "),
        kind = quoted(&kind)
    ))
}
