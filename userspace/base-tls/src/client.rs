//! The side that connects.

use std::time::Duration;

use base_runtime::net::TcpStream;
use rustls_pki_types::CertificateDer;

use crate::certificate::{Certificate, CertificateError};
use crate::stream::HandshakeError;
use crate::transport::Transport;

/// How servers are trusted, and what we show them.
#[derive(Debug, Clone, Default)]
pub struct ClientSettings {
    /// Authorities to trust; `None`: those of the system.
    pub roots: Option<Vec<CertificateDer<'static>>>,
    /// Take any certificate. Default false.
    pub insecure_skip_verify: bool,
    /// Shown to servers that ask for one.
    pub certificate: Option<Certificate>,
    /// Protocols offered, best first.
    pub alpn: Vec<Vec<u8>>,
}

/// Ready to connect; cheap to clone, shared by all workers. Sessions are taken up again.
#[derive(Debug, Clone)]
pub struct ClientTls {}

impl ClientTls {
    pub fn new(_settings: ClientSettings) -> Result<ClientTls, CertificateError> {
        Ok(ClientTls {})
    }

    /// Shakes hands within `limit`. `server_name`, a DNS name or an address without brackets, is what the certificate must be for.
    /// Nothing is sent or taken as an answer before the handshake is complete.
    pub async fn connect(
        &self,
        _stream: TcpStream,
        _server_name: &str,
        _limit: Duration,
    ) -> Result<Transport, HandshakeError> {
        Err(HandshakeError::Tls("not there yet".to_owned()))
    }
}
