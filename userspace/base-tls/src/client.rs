//! The side that connects.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use base_runtime::net::{StreamState, TcpStream};
use base_runtime::time::timeout;
use base_text::quoted;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption, UnbufferedClientConnection, WebPkiServerVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::sign::SingleCertAndKey;
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::certificate::{Certificate, CertificateError, Part};
use crate::gate;
use crate::handshake::{Incoming, refused, shake};
use crate::provider::provider;
use crate::server::root_store;
use crate::stats::{self, Count};
use crate::stream::{HandshakeError, TlsStream};
use crate::transport::Transport;

/// How servers are trusted, and what we show them.
#[derive(Debug, Clone, Default)]
pub struct ClientTlsSettings {
    /// Authorities to trust; `None`: those of the system.
    pub roots: Option<Vec<CertificateDer<'static>>>,
    /// Take any certificate. Default false.
    pub insecure_skip_verify: bool,
    /// Shown to servers that ask for one.
    pub certificate: Option<Certificate>,
    /// Protocols offered, best first.
    pub alpn: Vec<Vec<u8>>,
}

/// Ready to connect; cheap to clone, shared by all workers. Sessions are taken up again: tickets of the 256 servers last spoken to
/// are kept, at most 8 each.
#[derive(Clone)]
pub struct ClientTls {
    tcp: Arc<ClientConfig>,
    /// The same within QUIC. Its sessions are its own: a ticket says what was agreed over which of the two.
    quic: Arc<ClientConfig>,
}

impl ClientTls {
    pub fn new(settings: ClientTlsSettings) -> Result<ClientTls, CertificateError> {
        let verifier: Arc<dyn ServerCertVerifier> = if settings.insecure_skip_verify {
            Arc::new(AnyCertificate)
        } else {
            let roots = match &settings.roots {
                Some(roots) => Arc::new(root_store(roots)?),
                None => system_roots()?,
            };
            WebPkiServerVerifier::builder_with_provider(roots, provider()).build().map_err(|error| {
                CertificateError::new(Part::Authorities, format!("the authorities cannot be used: {error}"))
            })?
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| CertificateError::new(Part::Chain, error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &settings.certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.certified())))
            }
        };
        config.alpn_protocols = settings.alpn;
        config.enable_secret_extraction = true;
        let mut quic = config.clone();
        quic.alpn_protocols = vec![b"h3".to_vec()];
        quic.enable_secret_extraction = false;
        quic.resumption = Resumption::in_memory_sessions(QUIC_SERVERS);
        Ok(ClientTls { tcp: Arc::new(config), quic: Arc::new(quic) })
    }

    /// What handshakes within QUIC are made with: the same trust and the same certificate, HTTP/3 offered (RFC 9114 section 3.1).
    pub fn quic(&self) -> &Arc<ClientConfig> {
        &self.quic
    }

    /// Shakes hands within `limit`. `server_name`, a DNS name or an address without brackets, is what the certificate must be for;
    /// the server is told it where it is a DNS name. Nothing is sent or taken as an answer before the handshake is complete.
    pub async fn connect(
        &self,
        stream: TcpStream,
        server_name: &str,
        limit: Duration,
    ) -> Result<Transport, HandshakeError> {
        self.connect_within(stream, server_name, self.tcp.alpn_protocols.clone(), limit).await
    }

    /// As [`ClientTls::connect`], but offers these protocols (ALPN), best first, rather than those of the settings. What the server
    /// chose is in [`Session::alpn`](crate::Session::alpn).
    pub async fn connect_offering(
        &self,
        stream: TcpStream,
        server_name: &str,
        protocols: &[&[u8]],
        limit: Duration,
    ) -> Result<Transport, HandshakeError> {
        let protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        self.connect_within(stream, server_name, protocols, limit).await
    }

    async fn connect_within(
        &self,
        stream: TcpStream,
        server_name: &str,
        protocols: Vec<Vec<u8>>,
        limit: Duration,
    ) -> Result<Transport, HandshakeError> {
        match timeout(limit, Box::pin(self.connect_unbounded(stream, server_name, protocols))).await {
            Ok(result) => result,
            Err(_) => {
                stats::count(Count::FailedTimeout);
                Err(HandshakeError::TimedOut)
            }
        }
    }

    async fn connect_unbounded(
        &self,
        stream: TcpStream,
        server_name: &str,
        protocols: Vec<Vec<u8>>,
    ) -> Result<Transport, HandshakeError> {
        let name = ServerName::try_from(server_name.to_owned()).map_err(|_| {
            refused(&Error::General(format!(
                "{server_name} is neither a DNS name nor an address without brackets",
                server_name = quoted(&server_name)
            )))
        })?;
        if stream.peek_state() == StreamState::Data {
            // It would otherwise be found in front of the first answer.
            return Err(refused(&Error::General("the server sent bytes before TLS began".to_owned())));
        }
        gate::pass().await;
        let side = UnbufferedClientConnection::new_with_alpn(self.tcp.clone(), name, protocols)
            .map_err(|error| refused(&error))?;
        let (connection, session) = shake(side, &stream, Incoming::new(), Some(server_name)).await?;
        Ok(Transport::Tls(TlsStream::new(stream, connection, session)))
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

/// Servers spoken to over QUIC whose tickets are kept.
const QUIC_SERVERS: usize = 256;

/// The system's authorities, read once while somebody uses them.
fn system_roots() -> Result<Arc<RootCertStore>, CertificateError> {
    static KNOWN: Mutex<Weak<RootCertStore>> = Mutex::new(Weak::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(store) = known.upgrade() {
        return Ok(store);
    }
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(CertificateError::new(
            Part::Authorities,
            format!(
                "this system trusts no authority{why}: install its package of CA certificates, set SSL_CERT_FILE, or give the \
                 authorities to trust"
            ),
        ));
    }
    let store = Arc::new(store);
    *known = Arc::downgrade(&store);
    Ok(store)
}

/// Takes any certificate, as long as the server has its key.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
