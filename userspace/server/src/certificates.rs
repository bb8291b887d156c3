//! What members tell each other for certificates that the cluster orders, over their peer URLs: keys of the cluster, and names that
//! clients have asked edges for.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, Path};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base_tls::managed::Managed;
use control_controllers::keys::PATH;
use control_controllers::{Board, Keys};
use control_raft::{Control, Proven};
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
    let give = move |proven: Option<Extension<Proven>>, Path(id): Path<String>| async move {
        if proven.is_some() { asked.text_of(&id).unwrap_or_default().into_response() } else { strange() }
    };
    let take = move |proven: Option<Extension<Proven>>, text: String| async move {
        if proven.is_some() { taken(&keys, &text) } else { strange() }
    };
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

/// The keys that private keys are sealed with are for members, and nobody else says which one is sealed with.
fn strange() -> Response {
    let told = "keys of the cluster are given to and taken from members that prove to be some: give all members one --cluster-secret-file, or \
                https:// peer URLs";
    (StatusCode::FORBIDDEN, told).into_response()
}

fn taken(keys: &Keys, text: &str) -> Response {
    match keys.take(text) {
        Ok(()) => StatusCode::OK.into_response(),
        Err(why) => (StatusCode::INTERNAL_SERVER_ERROR, why).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control_admin::Switch;

    #[test]
    fn keys_are_for_members_that_prove_to_be_some() {
        let directory = tempfile::tempdir().unwrap();
        let keys = Keys::open(directory.path(), None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let ask = |method: &str, path: &str, proven: bool, body: &str| {
            let router = peer_routes(keys.clone(), Arc::default());
            let router = if proven { router.layer(Extension(Proven)) } else { router };
            let asked = Switch::new(router);
            let (status, _) = runtime.block_on(asked.ask(method.parse().unwrap(), path, body.to_owned()));
            status.as_u16()
        };
        let one = format!("{PATH}/0123");
        assert_eq!((ask("GET", &one, false, ""), ask("GET", &one, true, "")), (403, 200));
        let key = base_tls::seal::SealKey::draw().unwrap().text();
        assert_eq!(ask("POST", PATH, false, &key), 403);
        let id = base_tls::seal::SealKey::read(&key).unwrap().id().to_owned();
        assert!(keys.text_of(&id).is_none(), "nobody else's is taken");
    }
}
