//! What this machine's edge kept, and an operator's word on it. Nothing of that comes back, or goes, by itself.

use base_text::quoted;
use std::sync::Arc;

use axum::extract::{Query, State};
use control_api::{Role, object_key};
use control_state::{Action, Comeback, Entry};
use serde_json::json;

use crate::access::caller;
use crate::body::{Answer, Error, Reply, text};
use crate::catalog::LastGood;
use crate::routes::Api;

type Params = Query<Vec<(String, String)>>;

/// `GET /last-good`: what this machine's edge serves, and whether the cluster has it.
pub async fn show(State(api): State<Arc<Api>>) -> Answer {
    caller().needs(Role::Read, None)?;
    let kept = kept(&api)?;
    let view = api.control.state().view.clone();
    let comeback = Comeback::of(&view, &kept.cluster_id, kept.version, kept.objects.iter());
    Ok(Reply::body(json!({
        "clusterId": kept.cluster_id,
        "version": kept.version,
        "objects": kept.objects.iter().map(|document| object_key(document)).collect::<Vec<_>>(),
        "cluster": {
            "id": view.cluster_id,
            "version": view.version,
            "lacks": comeback.lacks,
            "differs": comeback.differs,
        },
        "restore": {"replaces": comeback.replaces, "removes": comeback.removes},
        "withheld": kept.withheld,
    }))
    .version(view.version))
}

/// `POST /last-good/restore?version=N`: what was kept becomes part of the cluster's configuration again.
pub async fn restore(State(api): State<Arc<Api>>, query: Params) -> Answer {
    let kept = meant(&api, &query)?;
    let state = api.control.state();
    let comeback = Comeback::of(&state.view, &kept.cluster_id, kept.version, kept.objects.iter());
    if comeback.changes_nothing() {
        return Err(Error::invalid(format!(
            "version = {version}: the cluster lacks nothing of it, so bringing it back would change nothing; let what the cluster has be \
             served (weirctl last-good discard {version})",
            version = kept.version
        )));
    }
    let replaces = state.view.cluster_id == kept.cluster_id;
    succeed(&api, kept, comeback, replaces).await
}

/// `POST /last-good/discard?version=N`: what the cluster has takes its place.
pub async fn discard(State(api): State<Arc<Api>>, query: Params) -> Answer {
    let kept = meant(&api, &query)?;
    succeed(&api, LastGood { objects: Vec::new(), ..kept }, Comeback::default(), false).await
}

async fn succeed(api: &Api, kept: LastGood, comeback: Comeback, replaces: bool) -> Answer {
    let LastGood { cluster_id, version, objects, .. } = kept;
    let objects: Vec<Entry> = objects.into_iter().map(|document| Entry::new(document, Vec::new())).collect();
    tracing::warn!(
        cluster_id,
        version,
        objects = objects.len(),
        "the cluster's configuration succeeds what edges kept"
    );
    let done = api.change(Action::Succeed { cluster_id, version, objects, replaces }).await?;
    Ok(Reply::body(json!({
        "version": done.version,
        "created": done.created,
        "replaced": comeback.replaces,
        "removed": comeback.removes,
    }))
    .version(done.version))
}

/// The state that the operator names by its version.
fn meant(api: &Api, query: &Params) -> Result<LastGood, Error> {
    let kept = kept(api)?;
    let given = text(query, "version");
    let Ok(version) = given.parse::<u64>() else {
        return Err(Error::invalid(format!(
            "version = {given}: which state is meant? this machine keeps version {}",
            kept.version,
            given = quoted(&given)
        )));
    };
    if version != kept.version {
        return Err(Error::invalid(format!(
            "version = {version}: this machine keeps version {}; look at it (weirctl last-good), or ask the machine that keeps {version}",
            kept.version
        )));
    }
    if kept.withheld.is_none() {
        return Err(Error::invalid(format!(
            "version = {version}: this machine serves what the cluster has, so there is nothing to bring back or to leave"
        )));
    }
    Ok(kept)
}

fn kept(api: &Api) -> Result<LastGood, Error> {
    api.local
        .last_good()
        .ok_or_else(|| Error::not_found("this machine has no edge that serves anything; ask one that has"))
}
