//! What a request goes out on: a connection of HTTP/1.1 that it has for itself, or a stream of one that carries many, over TCP or QUIC.
//!
//! The opening of a WebSocket, or of another tunnel, goes over a stream of HTTP/2 or HTTP/3 where the backend offers that (RFC 8441, 9220),
//! and else over a connection of HTTP/1.1, which becomes what the tunnel has for itself.

use crate::attempt::{Answer, Attempt, AttemptError, Counters};
use crate::connect::{ConnectError, connect_saying};
use crate::endpoint::{Protocols, Server};
use crate::h3_sessions;
use crate::h3_stream::H3Stream;
use crate::pool::Link;
use crate::sessions::{self, Stream};
use base_telemetry::proxy::ServerRecorder;
use edge_pipeline::Body;
use std::sync::Arc;
use std::time::Duration;

/// Takes one request to a backend and brings its answer, whatever the backend speaks.
pub(crate) trait Exchanger {
    /// Sends the request of `attempt` and reads the head of its answer; the answer's body holds on to what it comes over. `keep_body`
    /// leaves the body as it is, where it is in memory.
    async fn exchange(self, attempt: &Attempt<'_>, body: &mut Body, keep_body: bool) -> Result<Answer, AttemptError>;
}

/// What a request asks of what it goes out on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// It is a message, which everything carries.
    Message,
    /// It opens a WebSocket, or another tunnel that an extended CONNECT may ask for.
    Extended,
    /// It can be made over HTTP/1.1 alone, where there is a choice.
    Http1,
}

/// See the module doc. Given back by what it brought.
#[derive(Debug)]
pub enum Lease {
    /// A connection of HTTP/1.1.
    Connection(Box<Link>),
    /// A place for one request on a connection of HTTP/2.
    Stream(Stream),
    /// The same on one of HTTP/3.
    H3(H3Stream),
}

/// A new lease, within `limit`. `introduction` goes before everything else. `recorder` counts what is made for it.
pub(crate) async fn open(
    server: &Server,
    need: Need,
    limit: Duration,
    recorder: &ServerRecorder,
    counters: &Arc<Counters>,
    introduction: &[u8],
) -> Result<Lease, ConnectError> {
    let end = base_runtime::now() + limit;
    if server.protocols == Protocols::Http3 && server.shares(need) {
        if let Some(stream) = h3_sessions::open(server, need, limit, recorder, counters).await? {
            return Ok(Lease::H3(stream));
        }
    } else if server.shares(need) {
        return sessions::open(server, need, limit, recorder, counters).await;
    }
    let generation = server.endpoint.generation();
    let (identity, offered) = (server.identity.as_deref(), Protocols::Http1.offered());
    let left = end.saturating_duration_since(base_runtime::now());
    let stream = connect_saying(&server.endpoint, identity, offered, introduction, left).await?;
    let link = Link::new(stream, server.connections(), generation, recorder);
    Ok(Lease::Connection(link.introduced(introduction)))
}
