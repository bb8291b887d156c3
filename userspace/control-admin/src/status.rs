//! How objects are doing, on every machine: asked when somebody wants to know, never written down.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base_model::kinds::Category;
use base_model::namespaces;
use base_text::quoted;
use control_api::{Member, Role};
use hyper::Method;
use serde_json::{Map, Value, json};

use crate::access::caller;
use crate::body::{Answer, Error, Reply, text};
use crate::catalog::Local;
use crate::objects::{key_of, may_read};
use crate::routes::Api;
use crate::{overview, requests, tap};

/// The part of the peer listener that answers other members' questions about this machine.
pub fn peer_routes(local: Arc<dyn Local>) -> Router {
    Router::new()
        .route(LOCAL_STATUS, get(local_status))
        .with_state(local.clone())
        .merge(requests::peer_routes(local.clone()))
        .merge(overview::peer_routes(local.clone()))
        .merge(tap::peer_routes(local))
}

/// `{"eg-traffic-NAMESPACE/NAME/MEMBER": {spec, status}}`, as Easegress has it.
pub async fn list(State(api): State<Arc<Api>>) -> Answer {
    caller().needs(Role::Read, None)?;
    let (statuses, warnings) = gather(&api, None).await;
    Ok(Reply::body(statuses).warnings(warnings))
}

/// The same of one object; `?namespace=` says where it is, if that is not `default`.
pub async fn show(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    query: Query<Vec<(String, String)>>,
) -> Answer {
    let key = key_of(&name, &query);
    if !api.control.state().view.objects.contains_key(&key) {
        return Err(Error::not_found(format!("object {name} not found", name = quoted(&name))));
    }
    may_read(&api, &key)?;
    let (statuses, warnings) = gather(&api, Some(&key)).await;
    Ok(Reply::body(statuses).warnings(warnings))
}

async fn local_status(State(local): State<Arc<dyn Local>>, query: Query<Vec<(String, String)>>) -> Response {
    let name = text(&query, "name");
    let statuses = local.object_status((!name.is_empty()).then_some(name));
    let body = serde_json::to_vec(&statuses).unwrap_or_default();
    ([("content-type", "application/json")], body).into_response()
}

async fn gather(api: &Api, name: Option<&str>) -> (Map<String, Value>, Vec<String>) {
    let state = api.control.state();
    let mut by_member: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
    let mut warnings = Vec::new();
    let mut asked = tokio::task::JoinSet::new();
    for member in state.view.members.values().filter(|member| member.up && member.name != api.control.name()) {
        let control = api.control.clone();
        let member = member.clone();
        let path = match name {
            Some(name) => format!("{LOCAL_STATUS}?name={}", escaped(name)),
            None => LOCAL_STATUS.to_owned(),
        };
        asked.spawn(async move {
            let answer = ask(&control, &member, &path).await;
            (member.name.clone(), answer)
        });
    }
    by_member.insert(api.control.name().to_owned(), api.local.object_status(name));
    for (member, answer) in asked.join_all().await {
        match answer {
            Ok(statuses) => {
                by_member.insert(member, statuses);
            }
            Err(reason) => warnings.push(reason),
        }
    }
    let mut all = Map::new();
    for (member, statuses) in by_member {
        for (object, status) in statuses {
            let Some(document) = state.view.object(&object) else { continue };
            let kind = document["kind"].as_str().and_then(base_model::kinds::named);
            let traffic = kind.is_some_and(|kind| matches!(kind.category, Category::TrafficGate | Category::Pipeline));
            let (namespace, name) = namespaces::split(&object);
            let before = if traffic { TRAFFIC } else { "" };
            let shown = json!({"spec": api.catalog.shown(document), "status": status});
            all.insert(format!("{before}{namespace}/{name}/{member}"), shown);
        }
    }
    all.sort_keys();
    (all, warnings)
}

async fn ask(control: &control_raft::Control, member: &Member, path: &str) -> Result<BTreeMap<String, Value>, String> {
    let answer = control.call_member(member, Method::GET, path, "", PATIENCE).await.map_err(|e| e.message)?;
    serde_json::from_slice(&answer.body).map_err(|e| format!("member {}: unreadable status: {e}", quoted(&member.name)))
}

/// Percent-encodes what a query cannot hold.
pub fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

const LOCAL_STATUS: &str = "/local/status";
/// Stands before the namespaces of servers and pipelines.
const TRAFFIC: &str = "eg-traffic-";
/// A member that takes longer is left out, with a warning: a status page must not hang on a dying machine.
const PATIENCE: Duration = Duration::from_millis(1000);
