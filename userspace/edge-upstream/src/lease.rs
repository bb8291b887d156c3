//! What a request goes out on: a connection that it has for itself.

use crate::attempt::{Answer, Attempt, AttemptError};
use crate::connect::{ConnectError, connect};
use crate::endpoint::Server;
use crate::pool::Link;
use base_telemetry::proxy::ServerRecorder;
use edge_pipeline::Body;
use std::time::Duration;

/// Takes one request to a backend and brings its answer, whatever the backend speaks.
pub(crate) trait Exchanger {
    /// Sends the request of `attempt` and reads the head of its answer; the answer's body holds on to what it comes over. `keep_body`
    /// leaves the body as it is, where it is in memory.
    async fn exchange(self, attempt: &Attempt<'_>, body: &mut Body, keep_body: bool) -> Result<Answer, AttemptError>;
}

/// See the module doc. Given back by what it brought.
#[derive(Debug)]
pub enum Lease {
    /// A connection of HTTP/1.1.
    Connection(Box<Link>),
}

impl Exchanger for Lease {
    async fn exchange(self, attempt: &Attempt<'_>, body: &mut Body, keep_body: bool) -> Result<Answer, AttemptError> {
        match self {
            Lease::Connection(link) => link.exchange(attempt, body, keep_body).await,
        }
    }
}

/// A new lease, within `limit`. `recorder` counts what is made for it.
pub(crate) async fn open(server: &Server, limit: Duration, recorder: &ServerRecorder) -> Result<Lease, ConnectError> {
    let generation = server.endpoint.generation();
    let stream = connect(server, limit).await?;
    Ok(Lease::Connection(Link::new(stream, server, generation, recorder)))
}
