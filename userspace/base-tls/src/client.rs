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
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::asked::Shown;
use crate::certificate::{self, Certificate, CertificateError, Part};
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
    /// What servers are asked for, and have to be, whatever they are connected to as. Default: their own names or addresses.
    pub server_name: Option<String>,
    /// A server's certificate has to have one of these names, in place of the one that it is asked for. Default: that one.
    pub alternative_names: Vec<AlternativeName>,
    /// Shown to servers that ask for one.
    pub certificate: Option<Certificate>,
    /// Protocols offered, best first.
    pub alpn: Vec<Vec<u8>>,
}

/// One of the names in a certificate (RFC 5280 section 4.2.1.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AlternativeName {
    Dns(String),
    Uri(String),
}

/// Ready to connect; cheap to clone, shared by all workers. Sessions are taken up again: tickets of the 256 servers last spoken to
/// are kept, at most 8 each.
#[derive(Clone)]
pub struct ClientTls {
    tcp: Arc<ClientConfig>,
    /// The same within QUIC. Its sessions are its own: a ticket says what was agreed over which of the two.
    quic: Arc<ClientConfig>,
    server_name: Option<Arc<str>>,
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
            let chain = WebPkiServerVerifier::builder_with_provider(roots, provider()).build().map_err(|error| {
                CertificateError::new(Part::Authorities, format!("the authorities cannot be used: {error}"))
            })?;
            match settings.alternative_names.as_slice() {
                [] => chain,
                names => Arc::new(OneOf::new(chain, names)),
            }
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| CertificateError::new(Part::Chain, error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let shown = Shown::new(settings.certificate.as_ref().map(Certificate::certified));
        let mut config = builder.with_client_cert_resolver(Arc::new(shown));
        config.alpn_protocols = settings.alpn;
        config.enable_secret_extraction = true;
        let mut quic = config.clone();
        quic.alpn_protocols = vec![b"h3".to_vec()];
        quic.enable_secret_extraction = false;
        quic.resumption = Resumption::in_memory_sessions(QUIC_SERVERS);
        let server_name = settings.server_name.as_deref().map(Arc::from);
        Ok(ClientTls { tcp: Arc::new(config), quic: Arc::new(quic), server_name })
    }

    /// What a server is asked for, and has to be, that is connected to as `name`.
    pub fn name_for<'n>(&'n self, name: &'n str) -> &'n str {
        self.server_name.as_deref().unwrap_or(name)
    }

    /// What a handshake begins with that asks for a server as [`ClientTls::name_for`] says.
    pub(crate) fn asking(&self, server_name: &str) -> Result<(Arc<ClientConfig>, ServerName<'static>), HandshakeError> {
        let server_name = self.name_for(server_name);
        let name = ServerName::try_from(server_name.to_owned()).map_err(|_| {
            refused(&Error::General(format!(
                "{server_name} is neither a DNS name nor an address without brackets",
                server_name = quoted(&server_name)
            )))
        })?;
        Ok((self.tcp.clone(), name))
    }

    /// What handshakes within QUIC are made with: the same trust and the same certificate, HTTP/3 offered (RFC 9114 section 3.1).
    pub fn quic(&self) -> &Arc<ClientConfig> {
        &self.quic
    }

    /// Shakes hands within `limit`. `server_name`, a DNS name or an address without brackets, is what the certificate must be for,
    /// unless the settings say another one; the server is told it where it is a DNS name. Nothing is sent or taken as an answer before the handshake is complete.
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
        let (config, name) = self.asking(server_name)?;
        let server_name = self.name_for(server_name);
        if stream.peek_state() == StreamState::Data {
            // It would otherwise be found in front of the first answer.
            return Err(refused(&Error::General("the server sent bytes before TLS began".to_owned())));
        }
        gate::pass().await;
        let side =
            UnbufferedClientConnection::new_with_alpn(config, name, protocols).map_err(|error| refused(&error))?;
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

/// Takes certificates that have one of some names.
#[derive(Debug)]
struct OneOf {
    chain: Arc<WebPkiServerVerifier>,
    names: Vec<ServerName<'static>>,
    uris: Vec<String>,
}

impl OneOf {
    fn new(chain: Arc<WebPkiServerVerifier>, wanted: &[AlternativeName]) -> OneOf {
        let mut one_of = OneOf { chain, names: Vec::new(), uris: Vec::new() };
        for name in wanted {
            match name {
                // One that is no name is no certificate's.
                AlternativeName::Dns(name) => one_of.names.extend(ServerName::try_from(name.clone()).ok()),
                AlternativeName::Uri(uri) => one_of.uris.push(uri.clone()),
            }
        }
        one_of
    }
}

impl ServerCertVerifier for OneOf {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let asked =
            |name: &ServerName<'_>| self.chain.verify_server_cert(end_entity, intermediates, name, ocsp_response, now);
        // The name is looked at once the chain has been found good, so that this error says that it is.
        let mut refused = match asked(self.names.first().unwrap_or(server_name)) {
            Ok(verified) if !self.names.is_empty() => return Ok(verified),
            Ok(_) => Error::InvalidCertificate(rustls::CertificateError::NotValidForName),
            Err(error) if is_about_the_name(&error) => error,
            Err(error) => return Err(error),
        };
        for name in self.names.iter().skip(1) {
            match asked(name) {
                Ok(verified) => return Ok(verified),
                Err(error) => refused = error,
            }
        }
        match certificate::uris_of(end_entity).iter().any(|uri| self.uris.contains(uri)) {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(refused),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

fn is_about_the_name(error: &Error) -> bool {
    use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
    matches!(error, Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
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
