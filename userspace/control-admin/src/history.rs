//! What the configuration was before, and the way back to it.

use base_text::quoted;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use control_api::{MemberRole, Objects, Role};
use control_state::Action;
use serde_json::{Value, json};

use crate::access::caller;
use crate::body::{Answer, Error, Reply, since, text};
use crate::routes::Api;

type Params = Query<Vec<(String, String)>>;

/// `GET /history`: the changes that are remembered, newest first. With `?name=` those of one object.
pub async fn list(State(api): State<Arc<Api>>, query: Params) -> Answer {
    caller().needs(Role::Read, None)?;
    remembers(&api)?;
    let state = api.control.state();
    let only = text(&query, "name");
    let mut changes = Vec::new();
    for change in state.changes() {
        let objects = change.objects.iter().filter(|(name, _)| only.is_empty() || *name == only);
        let objects: Vec<Value> =
            objects.map(|(name, (kind, how))| json!({"name": name, "kind": kind, "change": how.word()})).collect();
        if !objects.is_empty() {
            changes.push(json!({"version": change.version, "time": change.at, "by": change.by, "objects": objects}));
        }
    }
    Ok(Reply::body(changes).version(state.view.version))
}

/// `POST /rollback?version=N`: every object becomes what it was then. `If-Match` says up to which version the caller has seen the
/// objects.
pub async fn roll_back(State(api): State<Arc<Api>>, query: Params, headers: HeaderMap) -> Answer {
    let since = since(&headers)?;
    let version = asked(&query)?.ok_or_else(|| {
        Error::invalid("version: which one to go back to? GET /apis/v2/history lists those that are remembered")
    })?;
    let done = api.change(Action::RollBack { version, since }).await?;
    Ok(Reply::default().version(done.version))
}

/// The objects of `?version=`; those of now without it.
pub fn objects(api: &Api, query: &Params) -> Result<Objects, Error> {
    let state = api.control.state();
    match asked(query)? {
        None => Ok(state.view.objects.clone()),
        Some(version) if version == state.view.version => Ok(state.view.objects.clone()),
        Some(version) => {
            remembers(api)?;
            Ok(state.objects_at(version)?)
        }
    }
}

fn asked(query: &Params) -> Result<Option<u64>, Error> {
    let text = text(query, "version");
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        Error::invalid(format!(
            "version = {text}: a number is wanted, as X-Config-Version and GET /apis/v2/history tell it",
            text = quoted(&text)
        ))
    })
}

fn remembers(api: &Api) -> Result<(), Error> {
    if api.control.role() == MemberRole::Primary {
        return Ok(());
    }
    let state = api.control.state();
    let primaries = state.view.members.values().filter(|member| member.role == MemberRole::Primary && member.up);
    let primaries: Vec<String> = primaries.map(|member| format!("{} ({})", member.name, member.api_addr)).collect();
    let message = format!("a secondary does not remember former versions; ask a primary: {}", primaries.join(", "));
    Err(Error::new(StatusCode::NOT_IMPLEMENTED, message))
}
