//! The side that is connected to.

use std::time::Duration;

use base_runtime::net::TcpStream;

use crate::certificate::{Certificate, CertificateError};
use crate::stream::HandshakeError;
use crate::tickets::TicketKeys;
use crate::transport::Transport;

/// Whether clients show a certificate.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    None,
    /// One that these authorities (DER) have signed, or no connection.
    Required(Vec<rustls_pki_types::CertificateDer<'static>>),
}

/// What a TLS listener is made of.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// The client's server name selects, exact names before wildcards; the first one serves clients that name nothing known.
    pub certificates: Vec<Certificate>,
    pub client_auth: ClientAuth,
    /// Protocols offered, best first, such as `h2` and `http/1.1`.
    pub alpn: Vec<Vec<u8>>,
}

/// Ready to accept connections; cheap to clone, shared by all workers. A change of certificates makes a new one: connections that
/// are there are not touched.
#[derive(Debug, Clone)]
pub struct ServerTls {}

impl ServerTls {
    /// `tickets` are the process's session ticket keys.
    pub fn new(_settings: ServerSettings, _tickets: TicketKeys) -> Result<ServerTls, CertificateError> {
        Ok(ServerTls {})
    }

    /// Shakes hands within `limit`. How many handshakes a worker works on between two looks at its established connections is
    /// bounded, and so is how many wait.
    pub async fn accept(&self, _stream: TcpStream, _limit: Duration) -> Result<Transport, HandshakeError> {
        Err(HandshakeError::Tls("not there yet".to_owned()))
    }
}
