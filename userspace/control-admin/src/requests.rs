//! What machines remember of single requests: those that failed, were refused or slow, and those that a tap has shown.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base_text::quoted;
use control_api::{Member, Role};
use hyper::Method;
use serde_json::{Value, json};

use crate::access::caller;
use crate::body::{Answer, Error, Reply, text};
use crate::catalog::{Local, Requests};
use crate::routes::Api;
use crate::status::escaped;

type Params = Query<Vec<(String, String)>>;

/// The part of the peer listener that answers other members' questions about requests.
pub fn peer_routes(local: Arc<dyn Local>) -> Router {
    Router::new().route(LOCAL, get(here)).with_state(local)
}

/// `GET /requests/{id}`: what every machine remembers of the requests of this id.
pub async fn of_id(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Answer {
    caller().needs(Role::Read, None)?;
    if id.is_empty() || id.len() > ID_BYTES_MAX {
        return Err(Error::invalid(format!("an id has 1 to {ID_BYTES_MAX} characters, this one has {}", id.len())));
    }
    let (mut found, warnings) = gather(&api, Requests::Of(id.clone())).await?;
    if found.is_empty() {
        let message = format!(
            "no machine remembers a request with the id {}: those are remembered that failed, were refused or were slow, and those a tap has \
             shown, each sort by each worker only so long until newer ones take its place",
            quoted(&id)
        );
        return Ok(Reply { warnings, ..refusal(&message) });
    }
    found.sort_by(|a, b| word(a, "time").cmp(word(b, "time")));
    Ok(Reply::body(json!({"id": id, "requests": found})).warnings(warnings))
}

/// `GET /requests?sort=failed&limit=50`: the latest that are remembered, latest first.
pub async fn latest(State(api): State<Arc<Api>>, query: Params) -> Answer {
    caller().needs(Role::Read, None)?;
    let limit = text(&query, "limit");
    let most = match limit {
        "" => LISTED,
        limit => limit.parse().ok().filter(|most| (1..=LISTED_MAX).contains(most)).ok_or_else(|| {
            Error::invalid(format!("limit = {}: a number from 1 to {LISTED_MAX} is wanted", quoted(limit)))
        })?,
    };
    let (mut found, warnings) = gather(&api, Requests::Latest { sort: text(&query, "sort").to_owned(), most }).await?;
    found.sort_by(|a, b| word(b, "time").cmp(word(a, "time")));
    found.truncate(most);
    Ok(Reply::body(json!({"requests": found})).warnings(warnings))
}

/// 404 with what a machine that does not answer would have had to say beside it.
fn refusal(message: &str) -> Reply {
    let status = StatusCode::NOT_FOUND;
    Reply { status, body: Some(json!({"code": status.as_u16(), "message": message})), ..Reply::default() }
}

async fn here(State(local): State<Arc<dyn Local>>, query: Params) -> Response {
    let which = match text(&query, "id") {
        "" => Requests::Latest {
            sort: text(&query, "sort").to_owned(),
            most: text(&query, "limit").parse().unwrap_or(LISTED).min(LISTED_MAX),
        },
        id => Requests::Of(id.to_owned()),
    };
    match local.requests(&which) {
        Ok(found) => ([("content-type", "application/json")], Value::from(found).to_string()).into_response(),
        Err(reason) => (StatusCode::BAD_REQUEST, reason).into_response(),
    }
}

async fn gather(api: &Api, which: Requests) -> Result<(Vec<Value>, Vec<String>), Error> {
    let mut found = api.local.requests(&which).map_err(Error::invalid)?;
    let path = match &which {
        Requests::Of(id) => format!("{LOCAL}?id={}", escaped(id)),
        Requests::Latest { sort, most } => format!("{LOCAL}?sort={}&limit={most}", escaped(sort)),
    };
    let mut asked = tokio::task::JoinSet::new();
    let state = api.control.state();
    for member in state.view.members.values().filter(|member| member.up && member.name != api.control.name()) {
        let (control, member, path) = (api.control.clone(), member.clone(), path.clone());
        asked.spawn(async move { ask(&control, &member, &path).await });
    }
    let mut warnings = Vec::new();
    for answer in asked.join_all().await {
        match answer {
            Ok(more) => found.extend(more),
            Err(reason) => warnings.push(reason),
        }
    }
    Ok((found, warnings))
}

async fn ask(control: &control_raft::Control, member: &Member, path: &str) -> Result<Vec<Value>, String> {
    let answer = control.call_member(member, Method::GET, path, "", PATIENCE).await.map_err(|e| e.message)?;
    let unreadable =
        |why: String| format!("member {}: what it remembers of requests cannot be read: {why}", quoted(&member.name));
    if !answer.status.is_success() {
        return Err(unreadable(format!("it answered {}", answer.status.as_u16())));
    }
    serde_json::from_slice(&answer.body).map_err(|error| unreadable(error.to_string()))
}

fn word<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

const LOCAL: &str = "/local/requests";
const ID_BYTES_MAX: usize = 256;
/// Requests listed unless somebody asks for another number, and at most.
const LISTED: usize = 50;
const LISTED_MAX: usize = 1_000;
/// A member that takes longer is left out, with a warning.
const PATIENCE: Duration = Duration::from_millis(2000);
