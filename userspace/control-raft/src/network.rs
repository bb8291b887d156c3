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
use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::types::{Peer, Types, Vote};
use crate::wire::{Wire, WireError};

#[derive(Clone)]
pub struct Network {
    pub wire: Wire,
}

pub struct Link {
    target: u64,
    peer: Peer,
    wire: Wire,
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
        Link { target, peer: peer.clone(), wire: self.wire.clone() }
    }
}

type Rpc<T, E = openraft::error::Infallible> = Result<T, RPCError<u64, Peer, RaftError<u64, E>>>;

impl Link {
    async fn call<R: DeserializeOwned>(&self, path: &str, body: &impl Serialize, ttl: Duration) -> Rpc<R> {
        let answer: Result<R, RaftError<u64>> = self.wire.post(&self.peer.url, path, body, ttl).await.map_err(unreached)?;
        answer.map_err(|e| RPCError::RemoteError(RemoteError::new_with_node(self.target, self.peer.clone(), e)))
    }
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<u64>> {
        self.call("/raft/append", &request, option.hard_ttl()).await
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
        self.call("/raft/vote", &request, option.hard_ttl()).await
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
            "/raft/snapshot",
            body.into(),
            SNAPSHOT_TIMEOUT,
        );
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = sent => match answer {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(fatal)) => Err(StreamingError::RemoteError(RemoteError::new_with_node(self.target, self.peer.clone(), fatal))),
                Err(error) => Err(StreamingError::Unreachable(Unreachable::new(&error))),
            },
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(UNREACHED_PAUSE))
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

const UNREACHED_PAUSE: Duration = Duration::from_millis(100);
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(30);
