//! An established TLS connection: records in, records out.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use base_runtime::Buf;
use base_runtime::net::{StreamState, TcpStream};
use rustls_pki_types::CertificateDer;

/// What was agreed in the handshake.
#[derive(Debug)]
pub struct Session {
    /// `TLSv1.2` or `TLSv1.3`, as OpenTelemetry and access logs write it.
    pub version: &'static str,
    /// IANA name of the cipher suite.
    pub cipher: &'static str,
    /// The protocol agreed with ALPN.
    pub alpn: Option<Arc<[u8]>>,
    /// The name the client asked for, in lower case. On a connection of ours, the name asked of the server.
    pub server_name: Option<Arc<str>>,
    /// The peer's certificate and those after it, as it sent them; empty when it sent none.
    pub peer_certificates: Vec<CertificateDer<'static>>,
    /// The session was taken up again, without a full handshake.
    pub resumed: bool,
}

/// Why there is no TLS connection.
#[derive(Debug)]
pub enum HandshakeError {
    /// The connection broke or ended.
    Io(io::Error),
    /// It took too long.
    TimedOut,
    /// This worker has too many handshakes waiting; the connection was not looked at.
    Overloaded,
    /// What the peer said or showed was not accepted, or it did not accept us.
    Tls(String),
}

impl HandshakeError {
    /// Short name for a counter: `handshake_io`, `handshake_timeout`, `handshake_overload`, `handshake_failed`.
    pub fn name(&self) -> &'static str {
        match self {
            HandshakeError::Io(_) => "handshake_io",
            HandshakeError::TimedOut => "handshake_timeout",
            HandshakeError::Overloaded => "handshake_overload",
            HandshakeError::Tls(_) => "handshake_failed",
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HandshakeError::Io(error) => write!(f, "connection broke during the TLS handshake: {error}"),
            HandshakeError::TimedOut => f.write_str("the TLS handshake took too long"),
            HandshakeError::Overloaded => f.write_str("too many TLS handshakes wait on this worker"),
            HandshakeError::Tls(text) => write!(f, "TLS handshake: {text}"),
        }
    }
}

/// An established TLS connection; a handle that is cheap to clone and stays on its worker.
#[derive(Clone, Debug)]
pub struct TlsStream(Infallible);

impl TlsStream {
    pub fn session(&self) -> &Session {
        match self.0 {}
    }

    pub fn socket(&self) -> &TcpStream {
        match self.0 {}
    }

    pub fn poll_recv(&self, _task: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        match self.0 {}
    }

    pub fn poll_readable(&self, _task: &mut Context<'_>) -> Poll<()> {
        match self.0 {}
    }

    pub fn is_closed_or_dirty(&self) -> bool {
        match self.0 {}
    }

    pub fn peek_state(&self) -> StreamState {
        match self.0 {}
    }

    pub fn unread(&self, _buf: Buf) {
        match self.0 {}
    }

    pub fn send(&self, _buf: Buf) {
        match self.0 {}
    }

    pub fn bytes_said(&self) -> u64 {
        match self.0 {}
    }

    pub fn shutdown_write(&self) {
        match self.0 {}
    }
}
