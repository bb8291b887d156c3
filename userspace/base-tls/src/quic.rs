//! What handshakes within QUIC have in common with those on TCP: what is told of a session, and what is counted.

use crate::handshake::{refused, session_of};
use crate::stats::{self, Count};
use crate::stream::{HandshakeError, Session};
use rustls::quic::ServerConnection;

/// What was agreed in a handshake that is over, which is counted.
pub fn accepted(connection: &ServerConnection) -> Session {
    let session = session_of(connection, connection.server_name());
    stats::count(if session.resumed { Count::AcceptedResumed } else { Count::AcceptedFull });
    session
}

/// Why there is no connection, which is counted.
pub fn failed(error: &rustls::Error) -> HandshakeError {
    refused(error)
}
