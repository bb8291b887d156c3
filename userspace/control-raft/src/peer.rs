//! The server on the peer URL: Raft's calls, forwarded proposals, heartbeats, admissions, and the watch stream.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Extension, Query, State as Shared};
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base_text::{Seldom, duration, quoted};
use control_api::tls::ServerTls;
use control_api::{Delta, Document, MemberRole, Refusal, Snapshot, Update};
use control_state::{Answer, FIRST_LEVEL, State, Unread};
use hyper::body::{Frame, Incoming};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::config::Conceal;
use crate::control::{Gate, Inner};
use crate::guard::{Caller, Endless, Origin, Proven, Signature, certifies, guard};
use crate::join::{AUTHORITY_PATH, JOIN_PATH, JoinCall, RENEW_PATH, RenewCall};
use crate::machine::unread_snapshot;
use crate::network::SnapshotHead;
use crate::publish::{Follower, News, Publisher, line};
use crate::roll::{EDGES_PATH, HEARD_PATH};
use crate::seal::line_parts;
use crate::secret::ClusterSecret;
use crate::sound;
use crate::succession::AUTHORITIES_PATH;
use crate::types::{Demands, Packed, Types, Vote, node_id};
use crate::wire::{Admission, ErrorBody, Heartbeat, LeaderHint, NOT_LEADER, Removal, UNWELCOME};

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
        .route(EDGES_PATH, get(edges))
        .route(HEARD_PATH, get(heard))
        .route(RENEW_PATH, post(renew))
        .route(AUTHORITY_PATH, get(authority))
        .route(AUTHORITIES_PATH, get(authorities))
        .route(JOIN_PATH, post(join).layer(DefaultBodyLimit::max(JOIN_BYTES_MAX)))
        .route("/watch", get(watch))
        .with_state(inner.clone())
        .merge(extra)
        .layer(from_fn_with_state(inner, guard))
        .layer(DefaultBodyLimit::disable())
}

/// Serves until it is dropped, and then lets go of every connection at once.
pub async fn serve(inner: Arc<Inner>, listener: TcpListener, router: Router, tls: Option<ServerTls>) {
    let mut connections = JoinSet::new();
    let mut told = Seldom::once_in(TELL);
    loop {
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if told.is_due() {
                        tracing::warn!(%error, "a member's connection could not be accepted; it is tried again");
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        if connections.len() >= inner.door.connections_max {
            // Closed unheard: members try again, and whoever holds the others open is to be found by the count.
            inner.door.guard.count_crowded();
            continue;
        }
        let _ = stream.set_nodelay(true);
        let (router, tls) = (router.clone(), tls.as_ref().map(|tls| TlsAcceptor::from(tls.config())));
        connections.spawn(async move {
            let mut origin = Origin { address: from.ip(), certificate: None };
            let Some(tls) = tls else { return converse(stream, router, origin).await };
            let handshake = async {
                // Who hangs up without a word has only asked whether this machine is there, see `reach.rs`.
                let asked = matches!(stream.peek(&mut [0]).await, Ok(0));
                if asked { Ok(None) } else { tls.accept(stream).await.map(Some) }
            };
            match tokio::time::timeout(HANDSHAKE, handshake).await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(stream))) => {
                    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                    origin.certificate = shown.map(|certificate| Arc::new(certificate.clone().into_owned()));
                    converse(stream, router, origin).await;
                }
                Ok(Err(error)) => tracing::warn!(%from, %error, "somebody is not let in as a member"),
                Err(_) => tracing::warn!(%from, "a member's TLS handshake took longer than {}", duration(HANDSHAKE)),
            }
        });
    }
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, router: Router, origin: Origin) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(origin.clone());
        router.call(request)
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn append(Shared(inner): Shared<Arc<Inner>>, caller: Extension<Caller>, body: Bytes) -> Response {
    let Some(voter) = inner.voter_behind(Gate::Appends) else { return gate_closed() };
    with(&body, async |request: AppendEntriesRequest<Types>| {
        if let Err(reason) = inner.may_lead(&caller.0.0).await {
            return unsound(&inner, &reason);
        }
        let sound = own(&caller, &request.vote).and_then(|()| sound::append(&voter.store.held(), &request));
        match sound {
            Ok(()) => {
                let taken = voter.raft.append_entries(request).await;
                if taken.as_ref().is_ok_and(|taken| !matches!(taken, AppendEntriesResponse::HigherVote(_))) {
                    inner.health.hear_leader();
                }
                answer(&taken)
            }
            Err(reason) => unsound(&inner, &reason),
        }
    })
    .await
}

async fn vote(Shared(inner): Shared<Arc<Inner>>, caller: Extension<Caller>, body: Bytes) -> Response {
    let Some(voter) = inner.voter_behind(Gate::Open) else { return gate_closed() };
    with(&body, async |request: VoteRequest<u64>| {
        if let Err(reason) = inner.may_lead(&caller.0.0).await {
            return unsound(&inner, &reason);
        }
        let sound = own(&caller, &request.vote).and_then(|()| sound::vote(&voter.store.held(), &request));
        match sound {
            Ok(()) => answer(&voter.raft.vote(request).await),
            Err(reason) => unsound(&inner, &reason),
        }
    })
    .await
}

async fn snapshot(Shared(inner): Shared<Arc<Inner>>, caller: Extension<Caller>, body: Bytes) -> Response {
    let Some(voter) = inner.voter_behind(Gate::Appends) else { return gate_closed() };
    let Some(end) = body.iter().position(|byte| *byte == b'\n') else {
        return refuse(StatusCode::BAD_REQUEST, "a snapshot begins with a line of JSON".into());
    };
    with(&body.slice(..end), async |head: SnapshotHead| {
        if let Err(reason) = inner.may_lead(&caller.0.0).await {
            return unsound(&inner, &reason);
        }
        let data = body.slice(end + 1..);
        let mut sound =
            own(&caller, &head.vote).and_then(|()| sound::snapshot(&voter.store.held(), &head.vote, &head.meta));
        if sound.is_ok() {
            sound = readable(&inner, data.clone()).await;
        }
        if let Err(reason) = sound {
            return unsound(&inner, &reason);
        }
        inner.health.hear_leader();
        let data = Box::new(std::io::Cursor::new(data.to_vec()));
        let snapshot = openraft::storage::Snapshot::<Types> { meta: head.meta, snapshot: data };
        answer(&voter.raft.install_full_snapshot(head.vote, snapshot).await)
    })
    .await
}

/// A member of the group votes for itself, and leads by its own votes.
fn own(caller: &Caller, vote: &Vote) -> Result<(), String> {
    if vote.leader_id().node_id == node_id(&caller.0) {
        Ok(())
    } else {
        Err(format!("its vote {vote} is not that of the caller, {}", caller.0))
    }
}

/// Whether a snapshot is one of this cluster's states; megabytes of it are read beside the threads that answer.
async fn readable(inner: &Arc<Inner>, data: Bytes) -> Result<(), String> {
    let level = inner.own.level;
    let read = tokio::task::spawn_blocking(move || State::read(&data, level));
    let theirs = match read.await {
        Ok(Ok(state)) => state.view.cluster_id,
        Ok(Err(unread)) => {
            if matches!(unread, Unread::Newer(_)) {
                inner.health.set_trouble(Some(unread_snapshot(&unread)));
            }
            return Err(format!("its snapshot is unreadable: {unread}"));
        }
        Err(_) => return Err("its snapshot could not be read".into()),
    };
    let ours = inner.publisher().state().view.cluster_id.clone();
    if ours.is_empty() || theirs.is_empty() || ours == theirs {
        Ok(())
    } else {
        Err(format!("its snapshot is of cluster {theirs}, and this member belongs to cluster {ours}"))
    }
}

async fn propose(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(origin): Extension<Origin>,
    signature: Option<Extension<Signature>>,
    body: Bytes,
) -> Response {
    let proven = signature.is_some() || origin.certificate.is_some();
    with(&body, async |command: Packed| {
        if inner.leading().is_some()
            && let Err(refusal) = may_be_decided(&inner, proven, &command).await
        {
            return answer(&Answer::Err(refusal));
        }
        match inner.propose_here(command).await {
            Some(decided) => answer(&decided),
            None => not_leader(&inner),
        }
    })
    .await
}

/// Whether the leader takes a change that another member passes on: what a member cannot read, it stops at when it applies the log, so
/// that only goes into it which this member and the cluster's level know.
async fn may_be_decided(inner: &Inner, proven: bool, command: &Packed) -> Result<(), Refusal> {
    let demands = match demands(command).await {
        Ok(demands) => demands,
        Err(reason) => {
            return Err(Refusal::unavailable(format!(
                "member {name} leads and does not know what is to be changed ({reason}): the member that was asked runs another version \
                 of weir than {name}; install the newer one on all members and try again",
                name = quoted(inner.name())
            )));
        }
    };
    if !proven && demands.gives_rights {
        return Err(Refusal::conflict(format!(
            "member {} leads, and takes changes of who may do what from members that prove to be some: what runs on its machine \
             could be anybody. Ask the admin API of {} itself, or give all members one --cluster-secret-file",
            quoted(inner.name()),
            quoted(inner.name())
        )));
    }
    inner.admits(demands.level).await
}

/// Megabytes are read beside the threads that answer.
async fn demands(command: &Packed) -> Result<Demands, String> {
    if !command.is_large() {
        return command.demands().map_err(|error| error.to_string());
    }
    let command = command.clone();
    let read = tokio::task::spawn_blocking(move || command.demands());
    match read.await {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(_) => Err("it could not be read".into()),
    }
}

async fn heartbeat(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Extension(origin): Extension<Origin>,
    proven: Option<Extension<Proven>>,
    body: Bytes,
) -> Response {
    with(&body, async |mut heartbeat: Heartbeat| {
        // What it holds is not what the others hold: it is told less.
        if proven.is_none() && heartbeat.member.role == MemberRole::Secondary {
            heartbeat.mark = None;
        }
        let member = &heartbeat.member;
        if let Err(refused) = speaks_for(&caller, &origin, &member.name, &member.peer_url) {
            return refused;
        }
        match inner.hear(heartbeat) {
            Some(Ok(heard)) => answer(&heard),
            Some(Err(taken)) => refuse(StatusCode::from_u16(UNWELCOME).expect("423 is a status"), taken),
            None => not_leader(&inner),
        }
    })
    .await
}

async fn admission(
    Shared(inner): Shared<Arc<Inner>>,
    Extension(caller): Extension<Caller>,
    Extension(origin): Extension<Origin>,
    body: Bytes,
) -> Response {
    with(&body, async |admission: Admission| {
        if let Err(refused) = speaks_for(&caller, &origin, &admission.name, &admission.url) {
            return refused;
        }
        match inner.admit_here(admission).await {
            Some(admitted) => answer(&admitted),
            None => not_leader(&inner),
        }
    })
    .await
}

/// A member speaks for itself, and registers a peer URL that its certificate, where it shows one, is for: by that it is known
/// afterwards.
fn speaks_for(caller: &Caller, origin: &Origin, name: &str, url: &str) -> Result<(), Response> {
    if *caller.0 != *name {
        let message = format!("member {} cannot speak for {}", quoted(&caller.0), quoted(name));
        return Err(refuse(StatusCode::FORBIDDEN, message));
    }
    if !certifies(origin, name, url) {
        let message = format!(
            "the certificate of member {} is neither for that name nor for the host of its peer URL {}: give it one with \
             DNS:{name} among its names (--peer-cert-file)",
            quoted(name),
            quoted(url)
        );
        return Err(refuse(StatusCode::FORBIDDEN, message));
    }
    Ok(())
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

async fn edges(Shared(inner): Shared<Arc<Inner>>) -> Response {
    if inner.leading().is_some() { answer(&inner.edges_here()) } else { not_leader(&inner) }
}

async fn heard(Shared(inner): Shared<Arc<Inner>>) -> Response {
    if inner.leading().is_some() { answer(&inner.heard_here()) } else { not_leader(&inner) }
}

async fn authority(Shared(inner): Shared<Arc<Inner>>) -> Response {
    match inner.authority_pem() {
        Some(pem) => ([("content-type", "application/x-pem-file")], pem).into_response(),
        None => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, "the cluster has no authority yet; ask again in a moment".into())
        }
    }
}

/// The same for a member, which believes all of it.
async fn authorities(Shared(inner): Shared<Arc<Inner>>) -> Response {
    if inner.leading().is_some() { answer(&inner.authority_pem().unwrap_or_default()) } else { not_leader(&inner) }
}

/// Somebody new, who has shown nothing yet.
async fn join(Shared(inner): Shared<Arc<Inner>>, body: Bytes) -> Response {
    with(&body, async |call: JoinCall| match inner.admit_stranger(call).await {
        Ok(admitted) => answer(&admitted),
        Err(refusal) => {
            inner.door.guard.count_stranger();
            let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::FORBIDDEN);
            refuse(status, refusal.message)
        }
    })
    .await
}

async fn renew(Shared(inner): Shared<Arc<Inner>>, Extension(caller): Extension<Caller>, body: Bytes) -> Response {
    with(&body, async |call: RenewCall| answer(&inner.renew_for(&caller.0, &call))).await
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
    /// The reader takes the members that changed; those of earlier versions take all of them, when any has changed.
    #[serde(default)]
    changes: bool,
    /// What the reader understands; earlier versions do not say it.
    level: Option<u32>,
}

/// How a reader is told.
pub struct Telling {
    /// For one that has not shown to be a member; what hides the secrets of objects, if that is known.
    pub conceals: Option<Option<Conceal>>,
    /// See [`WatchFrom`].
    pub changes: bool,
    /// What its lines are signed with: the cluster's secret, and the signature of the call.
    pub signs: Option<(ClusterSecret, Arc<str>)>,
    /// Whether it may still be told.
    pub may: Box<dyn Fn() -> bool + Send + Sync>,
}

/// Tells a reader everything that comes, for as long as it reads: one [`Update`] per line; a ping when there is nothing else to say.
pub async fn tell(publisher: Arc<Publisher>, mut follower: Follower, telling: Telling, lines: mpsc::Sender<Bytes>) {
    for number in 0u64.. {
        let news = match tokio::time::timeout(PING, follower.news()).await {
            Ok(Some(News::Step(step))) if !telling.changes && !step.delta.member_changes.is_empty() => {
                Some(News::Whole(follower.whole()))
            }
            Ok(Some(news)) => Some(news),
            Ok(None) => return,
            Err(_) => None,
        };
        // Whoever was removed meanwhile is told nothing more.
        if !(telling.may)() {
            return;
        }
        let mut line = match (news, &telling.conceals) {
            (None, _) => line(&Update::Ping(publisher.state().view.version)).into(),
            (Some(news), Some(conceal)) => line(&concealed(news.update(), conceal.as_ref())).into(),
            (Some(News::Step(step)), None) => step.line(),
            (Some(News::Whole(state)), None) => publisher.line_of(&state),
        };
        if let Some((secret, call)) = &telling.signs {
            line = signed_line(secret, call, number, &line).into();
        }
        if lines.send(line).await.is_err() {
            return;
        }
    }
}

/// The configuration as it is, and how it changes, without end.
async fn watch(
    Shared(inner): Shared<Arc<Inner>>,
    Query(query): Query<WatchFrom>,
    Extension(caller): Extension<Caller>,
    Extension(origin): Extension<Origin>,
    proven: Option<Extension<Proven>>,
    signature: Option<Extension<Signature>>,
) -> Response {
    let at = (query.from > 0).then_some((query.cluster, query.from));
    let publisher = inner.publisher();
    let known = || publisher.state().view.members.get(&*caller.0).map(|member| member.level);
    let level = query.level.or_else(known).unwrap_or(FIRST_LEVEL);
    if let Some(old) = inner.too_old_to_be_told(&caller.0, level) {
        return refuse(StatusCode::from_u16(UNWELCOME).expect("423 is a status"), old);
    }
    let (follower, (lines, body)) = (publisher.follow(at), mpsc::channel(16));
    let telling = Telling {
        conceals: proven.is_none().then(|| inner.door.conceal.clone()),
        changes: query.changes,
        signs: signature.and_then(|Extension(call)| Some((inner.door.guard.secret()?.clone(), call.0))),
        may: Box::new(move || {
            origin.certificate.as_ref().is_none_or(|shown| inner.revoked(&caller.0, shown).is_none())
                && inner.too_old_to_be_told(&caller.0, level).is_none()
        }),
    };
    tokio::spawn(tell(publisher, follower, telling, lines));
    let mut answer = ([("content-type", "application/x-ndjson")], Body::new(Lines(body))).into_response();
    answer.extensions_mut().insert(Endless);
    answer
}

/// Without ticket keys, and without the secrets of objects: whoever is told has not shown to be a member. Tokens stay, of which the cluster
/// knows no more than hashes that lead nobody back to them: a member without them would ask nobody for a login.
fn concealed(update: Update, conceal: Option<&Conceal>) -> Update {
    let hide =
        |document: &Document| conceal.map_or_else(|| document.clone(), |conceal| Document::new(conceal(document)));
    match update {
        Update::Snapshot(snapshot) => {
            let objects = snapshot.objects.iter().map(|(name, document)| (name.clone(), hide(document))).collect();
            let shown = Snapshot { objects, tickets: Arc::default(), ..Snapshot::clone(&snapshot) };
            Update::Snapshot(Arc::new(shown))
        }
        Update::Delta(delta) => {
            let puts = delta.puts.iter().map(hide).collect();
            Update::Delta(Arc::new(Delta { puts, tickets: None, ..Delta::clone(&delta) }))
        }
        ping @ Update::Ping(_) => ping,
    }
}

/// The line, which ends with a newline, behind its signature.
fn signed_line(secret: &ClusterSecret, call: &str, number: u64, line: &[u8]) -> Vec<u8> {
    let text = &line[..line.len() - 1];
    let mut signed = secret.sign(&line_parts(call, &number.to_string(), text)).into_bytes();
    signed.push(b' ');
    signed.extend_from_slice(line);
    signed
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

pub(crate) fn refuse(status: StatusCode, message: String) -> Response {
    let body = ErrorBody { code: status.as_u16(), message };
    (status, serde_json::to_string(&body).unwrap_or_default()).into_response()
}

/// A request for a certificate takes a kilobyte.
const JOIN_BYTES_MAX: usize = 64 << 10;
/// Between two lines in the log about connections that cannot be accepted.
const TELL: std::time::Duration = std::time::Duration::from_secs(60);
const HANDSHAKE: std::time::Duration = std::time::Duration::from_secs(5);
/// Longer than callers keep a connection they do not use.
const HEAD: std::time::Duration = std::time::Duration::from_secs(60);
/// A reader that hears nothing for a few of these looks for another member.
pub const PING: std::time::Duration = std::time::Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use control_api::{TicketKey, TicketKeys, Token};
    use serde_json::json;

    use super::*;

    #[test]
    fn who_proves_nothing_is_told_no_secret_and_still_that_there_are_tokens() {
        let token = Token { name: "ci".into(), hash: "0123".into(), ..Token::default() };
        let key = TicketKey { name: [1; 16], secret: [2; 32] };
        let tickets = Arc::new(TicketKeys { current: Some(key), ..TicketKeys::default() });
        let tokens = Arc::new(BTreeMap::from([("ci".to_owned(), token)]));
        let document = Document::new(json!({"name": "a", "kind": "K", "password": "secret"}));
        let conceal: Conceal = Arc::new(|document: &serde_json::Value| {
            let mut shown = document.clone();
            shown["password"] = "OMITTED".into();
            shown
        });
        let objects = control_api::Objects::unit("a".to_owned(), document.clone());
        let (shown, of) = (Arc::new(tickets.as_ref().clone()), tokens.clone());
        let whole = Update::Snapshot(Arc::new(Snapshot { objects, tickets, tokens, ..Snapshot::default() }));
        let step = Update::Delta(Arc::new(Delta {
            puts: vec![document],
            tickets: Some(shown),
            tokens: Some(of.clone()),
            ..Delta::default()
        }));
        let Update::Snapshot(told) = concealed(whole, Some(&conceal)) else { panic!("it is a snapshot") };
        assert!(told.tickets.current.is_none() && told.tokens == of);
        assert_eq!(told.objects["a"]["password"], "OMITTED");
        let Update::Delta(told) = concealed(step, Some(&conceal)) else { panic!("it is a delta") };
        assert!(told.tickets.is_none() && told.tokens.as_ref() == Some(&of));
        assert_eq!(told.puts[0]["password"], "OMITTED");
    }
}
