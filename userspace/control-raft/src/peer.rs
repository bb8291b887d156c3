//! The server on the peer URL: Raft's calls, forwarded proposals, heartbeats, admissions, and the watch stream.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Query, Request, State as Shared};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base_text::{duration, quoted};
use control_api::Update;
use control_state::State;
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::control::{Gate, Inner};
use crate::network::SnapshotHead;
use crate::sound;
use crate::types::{Packed, Types};
use crate::wire::{Admission, CLUSTER_HEADER, ErrorBody, Heartbeat, LeaderHint, NAME_TAKEN, NOT_LEADER, Removal};

pub fn router(inner: Arc<Inner>, extra: Router) -> Router {
    Router::new()
        .route("/raft/append", post(append))
        .route("/raft/vote", post(vote))
        .route("/raft/snapshot", post(snapshot))
        .route("/raft/propose", post(propose))
        .route("/raft/heartbeat", post(heartbeat))
        .route("/raft/admission", post(admission))
        .route("/raft/remove", post(remove))
        .route("/raft/identity", get(identity))
        .route("/raft/version", post(version))
        .route("/watch", get(watch))
        .with_state(inner.clone())
        .merge(extra)
        .layer(from_fn_with_state(inner, same_cluster))
        .layer(DefaultBodyLimit::disable())
}

/// Serves until it is dropped, and then lets go of every connection at once.
pub async fn serve(listener: TcpListener, router: Router, tls: Option<Arc<ServerConfig>>) {
    let tls = tls.map(TlsAcceptor::from);
    let mut connections = JoinSet::new();
    loop {
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a member's connection could not be accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        let _ = stream.set_nodelay(true);
        let (router, tls) = (router.clone(), tls.clone());
        connections.spawn(async move {
            let Some(tls) = tls else { return converse(stream, router).await };
            match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                Ok(Ok(stream)) => converse(stream, router).await,
                Ok(Err(error)) => tracing::warn!(%from, %error, "somebody is not let in as a member"),
                Err(_) => tracing::warn!(%from, "a member's TLS handshake took longer than {}", duration(HANDSHAKE)),
            }
        });
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router) {
    let service = TowerToHyperService::new(router);
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn same_cluster(Shared(inner): Shared<Arc<Inner>>, request: Request, next: Next) -> Response {
    let theirs = request.headers().get(CLUSTER_HEADER).and_then(|name| name.to_str().ok());
    match theirs {
        Some(theirs) if theirs != inner.cluster_name() => {
            let message = format!(
                "this member ({}) belongs to cluster {}, the caller to {theirs}: give both the same --cluster-name, \
                 or correct the peer URLs",
                inner.name(),
                quoted(inner.cluster_name()),
                theirs = quoted(&theirs)
            );
            refuse(StatusCode::CONFLICT, message)
        }
        _ => next.run(request).await,
    }
}

async fn append(Shared(inner): Shared<Arc<Inner>>, body: Bytes) -> Response {
    let Some(voter) = inner.voter_behind(Gate::Appends) else { return gate_closed() };
    with(&body, async |request| {
        let sound = sound::append(&voter.store.held(), &request);
        match sound {
            Ok(()) => answer(&voter.raft.append_entries(request).await),
            Err(reason) => unsound(&inner, &reason),
        }
    })
    .await
}

async fn vote(Shared(inner): Shared<Arc<Inner>>, body: Bytes) -> Response {
    let Some(voter) = inner.voter_behind(Gate::Open) else { return gate_closed() };
    with(&body, async |request| match sound::vote(&request) {
        Ok(()) => answer(&voter.raft.vote(request).await),
        Err(reason) => unsound(&inner, &reason),
    })
    .await
}

async fn snapshot(Shared(inner): Shared<Arc<Inner>>, body: Bytes) -> Response {
    let Some(voter) = inner.voter_behind(Gate::Appends) else { return gate_closed() };
    let Some(end) = body.iter().position(|byte| *byte == b'\n') else {
        return refuse(StatusCode::BAD_REQUEST, "a snapshot begins with a line of JSON".into());
    };
    with(&body.slice(..end), async |head: SnapshotHead| {
        let data = body.slice(end + 1..);
        let mut sound = sound::snapshot(&voter.store.held(), &head.vote, &head.meta);
        if sound.is_ok() {
            sound = readable(&inner, data.clone()).await;
        }
        if let Err(reason) = sound {
            return unsound(&inner, &reason);
        }
        let data = Box::new(std::io::Cursor::new(data.to_vec()));
        let snapshot = openraft::storage::Snapshot::<Types> { meta: head.meta, snapshot: data };
        answer(&voter.raft.install_full_snapshot(head.vote, snapshot).await)
    })
    .await
}

/// Whether a snapshot is one of this cluster's states; megabytes of it are read beside the threads that answer.
async fn readable(inner: &Arc<Inner>, data: Bytes) -> Result<(), String> {
    let read = tokio::task::spawn_blocking(move || serde_json::from_slice::<State>(&data));
    let theirs = match read.await {
        Ok(Ok(state)) => state.view.cluster_id,
        Ok(Err(error)) => return Err(format!("its snapshot is unreadable: {error}")),
        Err(_) => return Err("its snapshot could not be read".into()),
    };
    let ours = inner.publisher().state().view.cluster_id.clone();
    if ours.is_empty() || theirs.is_empty() || ours == theirs {
        Ok(())
    } else {
        Err(format!("its snapshot is of cluster {theirs}, and this member belongs to cluster {ours}"))
    }
}

async fn propose(Shared(inner): Shared<Arc<Inner>>, body: Bytes) -> Response {
    with(&body, async |command: Packed| match inner.propose_here(command).await {
        Some(decided) => answer(&decided),
        None => not_leader(&inner),
    })
    .await
}

async fn heartbeat(Shared(inner): Shared<Arc<Inner>>, body: Bytes) -> Response {
    with(&body, async |heartbeat: Heartbeat| match inner.hear(heartbeat) {
        Some(Ok(heard)) => answer(&heard),
        Some(Err(taken)) => {
            let status = StatusCode::from_u16(NAME_TAKEN).expect("423 is a status");
            refuse(status, taken)
        }
        None => not_leader(&inner),
    })
    .await
}

async fn admission(Shared(inner): Shared<Arc<Inner>>, body: Bytes) -> Response {
    with(&body, async |admission: Admission| match inner.admit_here(admission).await {
        Some(admitted) => answer(&admitted),
        None => not_leader(&inner),
    })
    .await
}

async fn remove(Shared(inner): Shared<Arc<Inner>>, body: Bytes) -> Response {
    with(&body, async |removal: Removal| match inner.remove_here(&removal.name).await {
        Some(removed) => answer(&removed),
        None => not_leader(&inner),
    })
    .await
}

async fn identity(Shared(inner): Shared<Arc<Inner>>) -> Response {
    answer(&inner.identity())
}

async fn version(Shared(inner): Shared<Arc<Inner>>) -> Response {
    match inner.confirmed_version().await {
        Some(version) => answer(&version),
        None => not_leader(&inner),
    }
}

#[derive(Deserialize)]
struct WatchFrom {
    #[serde(default)]
    from: u64,
    #[serde(default)]
    cluster: String,
}

/// One [`Update`] per line, without end; a ping when there is nothing else to say.
async fn watch(Shared(inner): Shared<Arc<Inner>>, Query(query): Query<WatchFrom>) -> Response {
    let at = (query.from > 0).then_some((query.cluster, query.from));
    let mut follower = inner.publisher().follow(at);
    let (lines, body) = mpsc::channel(16);
    let version = inner.publisher();
    tokio::spawn(async move {
        loop {
            let update = match tokio::time::timeout(PING, follower.next()).await {
                Ok(Some(update)) => update,
                Ok(None) => return,
                Err(_) => Update::Ping(version.state().view.version),
            };
            let mut line =
                serde_json::to_vec(&update).expect("our own types have text keys and no failing serializers");
            line.push(b'\n');
            if lines.send(Bytes::from(line)).await.is_err() {
                return;
            }
        }
    });
    ([("content-type", "application/x-ndjson")], Body::new(Lines(body))).into_response()
}

struct Lines(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

async fn with<T: DeserializeOwned>(body: &[u8], then: impl AsyncFnOnce(T) -> Response) -> Response {
    match serde_json::from_slice(body) {
        Ok(request) => then(request).await,
        Err(error) => refuse(StatusCode::BAD_REQUEST, format!("unreadable request: {error}")),
    }
}

fn answer(body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("our own types have text keys and no failing serializers");
    ([("content-type", "application/json")], body).into_response()
}

fn not_leader(inner: &Inner) -> Response {
    let hint = LeaderHint { leader: inner.leader_url() };
    let status = StatusCode::from_u16(NOT_LEADER).expect("421 is a status");
    (status, serde_json::to_string(&hint).unwrap_or_default()).into_response()
}

/// A call that no member of this group makes.
fn unsound(inner: &Inner, reason: &str) -> Response {
    let message = format!(
        "member {} refuses a call of Raft: {reason}; is the caller a member of another cluster, or one that lost its data? \
         correct its peer URLs, or start it with an empty --data-dir",
        inner.name()
    );
    tracing::warn!("{message}");
    refuse(StatusCode::CONFLICT, message)
}

fn gate_closed() -> Response {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "this member is not part of the group yet".into())
}

fn refuse(status: StatusCode, message: String) -> Response {
    let body = ErrorBody { code: status.as_u16(), message };
    (status, serde_json::to_string(&body).unwrap_or_default()).into_response()
}

const HANDSHAKE: std::time::Duration = std::time::Duration::from_secs(5);
/// A reader that hears nothing for a few of these looks for another member.
pub const PING: std::time::Duration = std::time::Duration::from_millis(500);
