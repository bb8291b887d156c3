//! What members tell each other for certificates that the cluster orders, over their peer URLs: keys of the cluster, and names that
//! clients have asked edges for.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base_tls::managed::Managed;
use control_controllers::keys::PATH;
use control_controllers::{Board, Keys};
use control_raft::Control;
use hyper::Method;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Where the leader takes names.
const WANTED: &str = "/certificates-wanted";
/// Between two looks for names, and how long the leader may take.
const LOOK: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(3);
/// 256 names of 253 bytes fit.
const NAMES_MAX: usize = 128 << 10;
/// A key has 32 bytes.
const KEY_MAX: usize = 1024;

/// What this member answers others that ask.
pub fn peer_routes(keys: Arc<Keys>, board: Arc<Board>) -> Router {
    let asked = keys.clone();
    // Whoever has it not says so with nothing.
    let give = move |Path(id): Path<String>| async move { asked.text_of(&id).unwrap_or_default() };
    let take = move |text: String| async move { taken(&keys, &text) };
    let one = format!("{PATH}/{{id}}");
    let want = move |body: Bytes| async move {
        board.want(serde_json::from_slice::<BTreeSet<String>>(&body).unwrap_or_default())
    };
    Router::new()
        .route(&one, get(give))
        .route(PATH, post(take).layer(DefaultBodyLimit::max(KEY_MAX)))
        .route(WANTED, post(want).layer(DefaultBodyLimit::max(NAMES_MAX)))
}

/// Tells the leader which names clients have asked this edge for, for as long as it is not dropped.
pub async fn carry(control: Control, board: Arc<Board>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let names = Managed::here().take_wanted();
        if names.is_empty() {
            continue;
        }
        if control.leads().is_some() {
            board.want(names);
            continue;
        }
        let leader = control.metrics().leader;
        let leader = leader.and_then(|name| control.state().view.members.get(&name).cloned());
        // Who is not heard asks again.
        if let Some(leader) = leader {
            let body = serde_json::to_vec(&names).unwrap_or_default();
            let _ = control.call_member(&leader, Method::POST, WANTED, body, PATIENCE).await;
        }
    }
}

fn taken(keys: &Keys, text: &str) -> Response {
    match keys.take(text) {
        Ok(()) => StatusCode::OK.into_response(),
        Err(why) => (StatusCode::INTERNAL_SERVER_ERROR, why).into_response(),
    }
}
