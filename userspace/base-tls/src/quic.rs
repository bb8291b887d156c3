//! What handshakes within QUIC have in common with those on TCP: what is told of a session, and what is counted.

use crate::handshake::{refused, session_of};
use crate::stats::{self, Count};
use crate::stream::{HandshakeError, Session};
use rustls::quic::{ClientConnection, ServerConnection};

/// What was agreed in a handshake that is over, which is counted.
pub fn accepted(connection: &ServerConnection) -> Session {
    let session = session_of(connection, connection.server_name());
    stats::count(if session.resumed { Count::AcceptedResumed } else { Count::AcceptedFull });
    session
}

/// What is agreed with a client whose early data is taken: its handshake is not over, and is counted when it is.
pub fn begun(connection: &ServerConnection) -> Session {
    session_of(connection, connection.server_name())
}

/// The same of a connection that we made to this server.
pub fn connected(connection: &ClientConnection, server_name: &str) -> Session {
    let session = session_of(connection, Some(server_name));
    stats::count(if session.resumed { Count::ConnectedResumed } else { Count::ConnectedFull });
    session
}

/// Waits until it is this handshake's turn, among those on TCP.
pub async fn turn() {
    crate::gate::pass().await;
}

/// Why there is no connection, which is counted.
pub fn failed(error: &rustls::Error) -> HandshakeError {
    refused(error)
}
