//! openraft's outgoing calls, over the peer URL.

use std::future::Future;
use std::time::Duration;

use openraft::error::{NetworkError, RPCError, RaftError, RemoteError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, SnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use crate::sound;
use crate::store::Store;
use crate::types::{LogId, Peer, Types, Vote};
use crate::wire::{Wire, WireError};

#[derive(Clone)]
pub struct Network {
    pub wire: Wire,
    pub store: Store,
}

pub struct Link {
    target: u64,
    peer: Peer,
    wire: Wire,
    store: Store,
    sending: Option<Sending>,
}

/// Entries on their way. openraft gives a call no more time than a heartbeat and then makes it again; megabytes of entries,
/// or a slow disk over there, take longer, so the call goes on by itself and the next one waits for its answer.
struct Sending {
    what: (Vote, Option<LogId>, Option<LogId>),
    answer: AbortOnDrop<Rpc<AppendEntriesResponse<u64>>>,
}

struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Head line of a snapshot on the wire; the state follows after a newline.
#[derive(Serialize, serde::Deserialize)]
pub struct SnapshotHead {
    pub vote: Vote,
    pub meta: crate::types::SnapshotMeta,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, peer: &Peer) -> Link {
        Link { target, peer: peer.clone(), wire: self.wire.clone(), store: self.store.clone(), sending: None }
    }
}

type Rpc<T, E = openraft::error::Infallible> = Result<T, RPCError<u64, Peer, RaftError<u64, E>>>;

impl Link {
    /// Answers that no member of this group gives do not reach openraft.
    fn believed(&self, vote: Option<&Vote>) -> Result<(), String> {
        let Some(vote) = vote else { return Ok(()) };
        let sound = sound::answered(&self.store.held(), vote);
        sound.map_err(|reason| {
            let message = format!("member {} answers what no member of this group does: {reason}", self.peer.name);
            tracing::warn!("{message}");
            message
        })
    }

    fn sound<R>(&self, answer: Rpc<R>, vote: impl Fn(&R) -> Option<&Vote>) -> Rpc<R> {
        let answer = answer?;
        match self.believed(vote(&answer)) {
            Ok(()) => Ok(answer),
            Err(reason) => Err(RPCError::Network(NetworkError::new(&std::io::Error::other(reason)))),
        }
    }

    async fn call<R: DeserializeOwned>(&self, path: &str, body: &impl Serialize, ttl: Duration) -> Rpc<R> {
        call(&self.wire, self.target, &self.peer, path, body, ttl).await
    }
}

async fn call<R: DeserializeOwned>(
    wire: &Wire,
    target: u64,
    peer: &Peer,
    path: &str,
    body: &impl Serialize,
    ttl: Duration,
) -> Rpc<R> {
    let answer: Result<R, RaftError<u64>> = wire.post_to(peer, path, body, ttl).await.map_err(unreached)?;
    answer.map_err(|e| RPCError::RemoteError(RemoteError::new_with_node(target, peer.clone(), e)))
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<u64>> {
        let Some(last) = request.entries.last().map(|entry| entry.log_id) else {
            let answer = self.call("/raft/append", &request, option.hard_ttl()).await;
            return self.sound(answer, higher);
        };
        let what = (request.vote, request.prev_log_id, Some(last));
        if self.sending.as_ref().is_none_or(|sending| sending.what != what) {
            let (wire, target, peer) = (self.wire.clone(), self.target, self.peer.clone());
            let answer =
                tokio::spawn(
                    async move { call(&wire, target, &peer, "/raft/append", &request, ENTRIES_TIMEOUT).await },
                );
            self.sending = Some(Sending { what, answer: AbortOnDrop(answer) });
        }
        let Some(sending) = &mut self.sending else { unreachable!("it was put there above") };
        let answer = (&mut sending.answer.0).await;
        self.sending = None;
        let answer = answer.unwrap_or_else(|e| Err(RPCError::Network(NetworkError::new(&e))));
        self.sound(answer, higher)
    }

    async fn install_snapshot(
        &mut self,
        _: InstallSnapshotRequest<Types>,
        _: RPCOption,
    ) -> Rpc<InstallSnapshotResponse<u64>, openraft::error::InstallSnapshotError> {
        let whole = std::io::Error::other("snapshots travel whole, see full_snapshot");
        Err(RPCError::Network(NetworkError::new(&whole)))
    }

    async fn vote(&mut self, request: VoteRequest<u64>, option: RPCOption) -> Rpc<VoteResponse<u64>> {
        let answer = self.call("/raft/vote", &request, option.hard_ttl()).await;
        self.sound(answer, |answer: &VoteResponse<u64>| Some(&answer.vote))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<Types>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, openraft::error::Fatal<u64>>> {
        let mut body = serde_json::to_vec(&SnapshotHead { vote, meta: snapshot.meta })
            .expect("our own types have text keys and no failing serializers");
        body.push(b'\n');
        body.extend_from_slice(snapshot.snapshot.get_ref());
        let sent = self.wire.exchange::<Result<SnapshotResponse<u64>, openraft::error::Fatal<u64>>>(
            hyper::Method::POST,
            &self.peer.url,
            &self.peer.name,
            "/raft/snapshot",
            body.into(),
            SNAPSHOT_TIMEOUT,
        );
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = sent => match answer {
                Ok(Ok(answer)) => match self.believed(Some(&answer.vote)) {
                    Ok(()) => Ok(answer),
                    Err(reason) => Err(StreamingError::Network(NetworkError::new(&std::io::Error::other(reason)))),
                },
                Ok(Err(fatal)) => Err(StreamingError::RemoteError(RemoteError::new_with_node(self.target, self.peer.clone(), fatal))),
                Err(error) => Err(StreamingError::Unreachable(Unreachable::new(&error))),
            },
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(UNREACHED_PAUSE))
    }
}

fn higher(answer: &AppendEntriesResponse<u64>) -> Option<&Vote> {
    match answer {
        AppendEntriesResponse::HigherVote(vote) => Some(vote),
        _ => None,
    }
}

/// A member that could not be connected to, or that keeps its gate closed, is left alone for a moment; a lost answer is
/// followed up at once.
fn unreached(error: WireError) -> RPCError<u64, Peer, RaftError<u64>> {
    match &error {
        WireError::Call(call) if !call.unsent => RPCError::Network(NetworkError::new(&error)),
        _ => RPCError::Unreachable(Unreachable::new(&error)),
    }
}

/// After this the entries are sent anew.
const ENTRIES_TIMEOUT: Duration = Duration::from_secs(5);
const UNREACHED_PAUSE: Duration = Duration::from_millis(100);
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use axum::routing::post;
    use control_state::State;

    use super::*;
    use crate::config::Config;
    use crate::publish::Publisher;
    use crate::sound::TERMS_AHEAD_MOST;
    use crate::store::Identity;

    #[test]
    fn an_answer_of_a_term_that_no_election_leads_to_does_not_reach_raft() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let peer = Peer { name: "n2".into(), url: format!("http://{}", listener.local_addr().unwrap()) };
            let term = |body: &[u8]| {
                let asked: serde_json::Value = serde_json::from_slice(body).unwrap();
                asked["vote"]["leader_id"]["node_id"].as_u64().unwrap()
            };
            let vote = move |body: axum::body::Bytes| async move {
                let answer = VoteResponse { vote: Vote::new(term(&body), 2), vote_granted: false, last_log_id: None };
                serde_json::to_string(&Ok::<_, RaftError<u64>>(answer)).unwrap()
            };
            let append = move |body: axum::body::Bytes| async move {
                let answer = AppendEntriesResponse::<u64>::HigherVote(Vote::new(term(&body), 2));
                serde_json::to_string(&Ok::<_, RaftError<u64>>(answer)).unwrap()
            };
            let router = axum::Router::new().route("/raft/vote", post(vote)).route("/raft/append", post(append));
            tokio::spawn(async move { axum::serve(listener, router).await });
            let config = Config::single("n1", directory.path());
            let store = Store::open(directory.path(), Identity::default()).unwrap_or_else(|e| panic!("{e}"));
            let wire = Wire::new(&config, Publisher::new(State::default())).unwrap_or_else(|e| panic!("{e}"));
            let mut link = Network { wire, store }.new_client(2, &peer).await;
            let option = || RPCOption::new(Duration::from_secs(30));
            // What answers says the number of the caller for its term.
            for (said, believed) in
                [(1, true), (TERMS_AHEAD_MOST, true), (TERMS_AHEAD_MOST + 1, false), (u64::MAX, false)]
            {
                let request = VoteRequest { vote: Vote::new(1, said), last_log_id: None };
                assert_eq!(link.vote(request, option()).await.is_ok(), believed, "{said}");
                let vote = Vote::new_committed(1, said);
                let request =
                    AppendEntriesRequest::<Types> { vote, prev_log_id: None, entries: Vec::new(), leader_commit: None };
                assert_eq!(link.append_entries(request, option()).await.is_ok(), believed, "{said}");
            }
        });
    }
}
