//! Tokens: made, rotated and revoked. A token is told once, to who made it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use base_model::GoDuration;
use base_model::document::check_name;
use base_text::quoted;
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use control_api::{Grant, Role, Token, allow};
use control_state::{Action, PutMode};
use serde_json::{Value, json};

use crate::access::{CUSTOM, caller, hashed, may_all};
use crate::body::{Answer, Error, Reply, Text};
use crate::routes::Api;

/// `GET /tokens`: what each may, and since when; not what it is.
pub async fn list(State(api): State<Arc<Api>>) -> Answer {
    caller().needs(Role::Admin, None)?;
    let state = api.control.state();
    let tokens: Vec<Value> = state.view.tokens.values().map(shown).collect();
    Ok(Reply::body(tokens).version(state.view.version))
}

/// `POST /tokens`: `{name, grants: [{role, kinds, namespaces}]}`.
pub async fn create(State(api): State<Arc<Api>>, body: Text) -> Answer {
    let document = body.document()?;
    let name = document.get("name").and_then(Value::as_str).unwrap_or_default();
    if let Some(problem) = check_name(name, "name") {
        return Err(Error::invalid(problem.to_string()));
    }
    let grants = grants(&api, document.get("grants").unwrap_or(&Value::Null))?;
    let state = api.control.state();
    if caller().stranger && !allow(&grants, Role::Admin, None, "") {
        return Err(Error::new(
            StatusCode::CONFLICT,
            "as soon as there is a token, this API asks other machines for one, you among them: make one first that may do everything (weirctl \
             token create NAME --role admin), and this one with it; or ask from the member's own machine",
        ));
    }
    let admins = state.view.tokens.values().any(may_all);
    let drawn = drawn()?;
    let token = Token { name: name.to_owned(), hash: hashed(drawn.as_bytes()), grants, ..Token::default() };
    let first = !admins && may_all(&token);
    let done = api.change(Action::PutToken { mode: PutMode::Create, token }).await?;
    let warnings = if first && caller().is_anonymous() { vec![FROM_NOW_ON.to_owned()] } else { Vec::new() };
    Ok(Reply { warnings, body: Some(json!({"name": name, "token": drawn})), ..Reply::created() }.version(done.version))
}

/// `POST /tokens/{name}/rotate`: `{keepOld: 1h}` lets the one from before be good for so long.
pub async fn rotate(State(api): State<Arc<Api>>, Path(name): Path<String>, body: Text) -> Answer {
    let document = if body.0.trim().is_empty() { Value::Null } else { body.document()? };
    let keep = match document.get("keepOld").and_then(Value::as_str) {
        None => Duration::ZERO,
        Some(text) => text
            .parse::<GoDuration>()
            .map(Duration::from)
            .map_err(|_| Error::invalid(format!("keepOld = {}: a duration is wanted, such as 1h", quoted(text))))?,
    };
    let state = api.control.state();
    let Some(known) = state.view.tokens.get(&name) else {
        return Err(Error::not_found(format!("token {} not found", quoted(&name))));
    };
    let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + keep;
    let drawn = drawn()?;
    let (previous, previous_until) =
        if keep.is_zero() { (String::new(), 0) } else { (known.hash.clone(), until.as_secs()) };
    let token = Token { hash: hashed(drawn.as_bytes()), previous, previous_until, ..known.clone() };
    let done = api.change(Action::PutToken { mode: PutMode::Update, token }).await?;
    Ok(Reply::body(json!({"name": name, "token": drawn})).version(done.version))
}

pub async fn revoke(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Answer {
    let state = api.control.state();
    let tokens = &state.view.tokens;
    let others = tokens.values().filter(|token| token.name != name);
    if caller().is_bound()
        && tokens.get(&name).is_some_and(may_all)
        && !others.clone().any(may_all)
        && others.count() > 0
    {
        return Err(Error::new(
            StatusCode::CONFLICT,
            format!(
                "token {} is the last that may do everything: without it nobody with a token could make or revoke one, and whoever is on a \
                 member's machine could do everything. Make another with --role admin, or revoke the others first",
                quoted(&name)
            ),
        ));
    }
    let done = api.change(Action::DeleteToken { name }).await?;
    Ok(Reply::default().version(done.version))
}

fn shown(token: &Token) -> Value {
    json!({"name": token.name, "grants": token.grants, "createdAt": token.created_at, "rotatedAt": token.rotated_at})
}

fn grants(api: &Api, list: &Value) -> Result<Vec<Grant>, Error> {
    let wanted =
        "grants: a list is wanted, such as [{role: write, kinds: [Pipeline]}], with the roles read, write and admin";
    let mut grants: Vec<Grant> = serde_json::from_value(list.clone()).map_err(|_| Error::invalid(wanted))?;
    if grants.is_empty() {
        return Err(Error::invalid(wanted));
    }
    let kinds: Vec<String> = api.catalog.kinds().into_iter().map(|kind| kind.kind).chain([CUSTOM.to_owned()]).collect();
    for kind in grants.iter_mut().flat_map(|grant| &mut grant.kinds) {
        let Some(known) = kinds.iter().find(|known| known.eq_ignore_ascii_case(kind)) else {
            return Err(Error::invalid(format!(
                "grants: kind {} is not known; accepted are {}",
                quoted(kind.as_str()),
                kinds.join(", ")
            )));
        };
        kind.clone_from(known);
    }
    for namespace in grants.iter().flat_map(|grant| &grant.namespaces) {
        let problem = namespace.split('/').find_map(|part| check_name(part, "grants: namespaces"));
        if let Some(problem) = problem {
            return Err(Error::invalid(problem.to_string()));
        }
    }
    Ok(grants)
}

/// To whom makes the first token that may do everything, without a login.
const FROM_NOW_ON: &str = "from now on this API asks for a login on the members' own machines too: keep this token";

fn drawn() -> Result<String, Error> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| Error::new(StatusCode::INTERNAL_SERVER_ERROR, "the machine has no random numbers"))?;
    Ok(format!("weir_{}", BASE64_URL_SAFE_NO_PAD.encode(bytes)))
}
