//! The side that is connected to.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use base_runtime::net::TcpStream;
use base_runtime::time::timeout;
use rustls::server::{
    Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig, UnbufferedServerConnection,
    WebPkiClientVerifier, danger::ClientCertVerifier,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{Error, RootCertStore};
use rustls_pki_types::CertificateDer;

use crate::certificate::{Certificate, CertificateError, Part};
use crate::gate;
use crate::handshake::{Incoming, refused, shake};
use crate::hello::{UNRECOGNIZED_NAME, alert};
use crate::managed::{ACME_TLS, Managed};
use crate::provider::provider;
use crate::record::{HANDSHAKE, HEADER, record_length};
use crate::sessions::{NoTickets, Once};
use crate::stats::{self, Count};
use crate::stream::{HandshakeError, TlsStream};
use crate::tickets::{TicketKeys, Ticketer};
use crate::transport::Transport;

/// Whether clients show a certificate.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    None,
    /// One that these authorities (DER) have signed, or none.
    Optional(Vec<CertificateDer<'static>>),
    /// One that these authorities (DER) have signed, or no connection.
    Required(Vec<CertificateDer<'static>>),
}

/// What a TLS listener is made of.
#[derive(Debug, Clone)]
pub struct ServerTlsSettings {
    /// The client's server name selects, exact names before wildcards; the first one serves clients that name nothing known.
    pub certificates: Vec<Certificate>,
    pub client_auth: ClientAuth,
    /// Protocols offered, best first, such as `h2` and `http/1.1`. A client that offers others only is refused (RFC 7301 §3.2); one
    /// that offers none is served.
    pub alpn: Vec<Vec<u8>>,
}

/// Ready to accept connections; cheap to clone, shared by all workers. A change of certificates makes a new one: connections that
/// are there are not touched.
#[derive(Clone)]
pub struct ServerTls(Arc<Inner>);

struct Inner {
    /// In the order of the settings; one at least, unless certificates come by name.
    own: Vec<(Certificate, Arc<ServerConfig>)>,
    /// Certificates that come while this serves are shown by name, before its own.
    managed: bool,
    making: Making,
    /// What was made for them, by fingerprint.
    made: Mutex<HashMap<[u8; 32], Made>>,
    /// For QUIC, where the certificate is chosen within the handshake.
    quic: Arc<ServerConfig>,
    /// The same that takes early data, made when somebody asks for it.
    quic_early: OnceLock<Arc<ServerConfig>>,
    names: Arc<Names>,
}

/// A certificate that came, and what it is shown with.
struct Made {
    certified: Arc<CertifiedKey>,
    config: Arc<ServerConfig>,
}

/// What handshakes are made with, but for the certificate.
struct Making {
    verifier: Arc<dyn ClientCertVerifier>,
    client_auth: ClientAuth,
    alpn: Vec<Vec<u8>>,
    tickets: TicketKeys,
}

/// What a handshake goes on with.
enum Choice {
    Serve(Arc<ServerConfig>),
    /// An authority asks for a name, and nothing is served.
    Challenge(Arc<ServerConfig>),
    /// There is no certificate for it.
    Nothing,
}

/// Which certificate is for which name.
#[derive(Debug, Default)]
struct Names {
    /// Names in lower case.
    exact: HashMap<String, usize>,
    /// What follows the first dot of a wildcard, in lower case.
    wildcards: HashMap<String, usize>,
}

impl Names {
    fn index_for(&self, name: &str) -> Option<usize> {
        let wildcard = || name.split_once('.').and_then(|(_, suffix)| self.wildcards.get(suffix));
        self.exact.get(name).or_else(wildcard).copied()
    }
}

/// The certificates behind their names.
#[derive(Debug)]
struct ByName {
    names: Arc<Names>,
    certificates: Vec<Arc<CertifiedKey>>,
    managed: bool,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        if self.managed {
            let found = name.as_deref().and_then(|name| Managed::here().find(name));
            if let (Some(name), None) = (&name, &found)
                && self.names.index_for(name).is_none()
            {
                Managed::here().want(name);
            }
            let found = found.or_else(|| Managed::here().first().filter(|_| self.certificates.is_empty()));
            if let Some(certificate) = found {
                return Some(certificate.certified());
            }
        }
        let index = name.and_then(|name| self.names.index_for(&name)).unwrap_or(0);
        self.certificates.get(index).cloned()
    }
}

/// Tickets per TLS 1.3 handshake. A client uses each once and gets the next with the connection it used it for, so one per
/// connection keeps as many in its hands as it opens connections; each more would cost a quarter kilobyte and an encryption that
/// most clients throw away.
const TICKETS: usize = 1;

impl ServerTls {
    /// `tickets` are the process's session ticket keys.
    pub fn new(settings: ServerTlsSettings, tickets: TicketKeys) -> Result<ServerTls, CertificateError> {
        if settings.certificates.is_empty() {
            return Err(CertificateError::new(
                Part::Chain,
                "no certificate is given: a TLS listener needs one at least",
            ));
        }
        ServerTls::make(settings, tickets, false)
    }

    /// As [`new`](ServerTls::new), and shows what [`Managed`] has for the name a client asks for; certificates of its own, of which there
    /// may be none, are for the rest.
    pub fn with_managed(settings: ServerTlsSettings, tickets: TicketKeys) -> Result<ServerTls, CertificateError> {
        ServerTls::make(settings, tickets, true)
    }

    fn make(settings: ServerTlsSettings, tickets: TicketKeys, managed: bool) -> Result<ServerTls, CertificateError> {
        let verifier = match &settings.client_auth {
            ClientAuth::None => None,
            ClientAuth::Optional(authorities) => Some((authorities, false)),
            ClientAuth::Required(authorities) => Some((authorities, true)),
        };
        let verifier = match verifier {
            None => WebPkiClientVerifier::no_client_auth(),
            Some((authorities, required)) => {
                let builder =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(root_store(authorities)?), provider());
                let builder = if required { builder } else { builder.allow_unauthenticated() };
                builder.build().map_err(|error| {
                    CertificateError::new(Part::Authorities, format!("the client authorities cannot be used: {error}"))
                })?
            }
        };
        let making = Making {
            verifier: verifier.clone(),
            client_auth: settings.client_auth,
            alpn: settings.alpn,
            tickets: tickets.clone(),
        };
        let mut names = Names::default();
        let mut own = Vec::new();
        let mut all = digest::Context::new(&digest::SHA256);
        for (index, certificate) in settings.certificates.iter().enumerate() {
            all.update(&policy(certificate, &making.client_auth));
            for name in certificate.names() {
                match name.strip_prefix("*.") {
                    Some(suffix) => names.wildcards.entry(suffix.to_owned()).or_insert(index),
                    None => names.exact.entry(name.clone()).or_insert(index),
                };
            }
            own.push((certificate.clone(), making.config(certificate)?));
        }
        let names = Arc::new(names);
        let certificates = settings.certificates.iter().map(|certificate| certificate.certified()).collect();
        let mut quic = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| CertificateError::new(Part::Chain, error.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(ByName { names: names.clone(), certificates, managed }));
        quic.alpn_protocols = vec![b"h3".to_vec()];
        quic.send_tls13_tickets = TICKETS;
        quic.session_storage = Arc::new(NoServerSessionStorage {});
        // rustls takes no ticket that was made for another name, so one policy serves all certificates, also those that come. It is not that of TCP: a
        // session begun there has no transport parameters.
        all.update(b"quic");
        let mut of_all = [0; 32];
        of_all.copy_from_slice(all.finish().as_ref());
        quic.ticketer = Arc::new(Ticketer::new(tickets, of_all));
        let quic = Arc::new(quic);
        let (made, quic_early) = (Mutex::default(), OnceLock::new());
        Ok(ServerTls(Arc::new(Inner { own, managed, making, made, quic, quic_early, names })))
    }

    /// Shakes hands within `limit`. How many handshakes a worker works on between two looks at its established connections is
    /// bounded, and so is how many wait.
    pub async fn accept(&self, stream: TcpStream, limit: Duration) -> Result<Transport, HandshakeError> {
        if gate::is_full() {
            return Err(overloaded());
        }
        // Boxed: what a handshake needs is given back when it is over, wherever the caller lives on.
        match timeout(limit, Box::pin(self.accept_unbounded(stream))).await {
            Ok(result) => result,
            Err(_) => {
                stats::count(Count::FailedTimeout);
                Err(HandshakeError::TimedOut)
            }
        }
    }

    async fn accept_unbounded(&self, stream: TcpStream) -> Result<Transport, HandshakeError> {
        let mut incoming = Incoming::new();
        while !is_hello_complete(&incoming.bytes) {
            incoming.receive(&stream).await?;
        }
        if gate::is_full() {
            return Err(overloaded());
        }
        gate::pass().await;
        let (choice, server_name) = self.choose(&incoming.bytes, &stream)?;
        let (config, is_challenge) = match choice {
            Choice::Serve(config) => (config, false),
            Choice::Challenge(config) => (config, true),
            Choice::Nothing => {
                stream.send(base_runtime::Buf::copy_from(&alert(UNRECOGNIZED_NAME)));
                stream.shutdown_write();
                stats::count(Count::FailedCertificate);
                return Err(HandshakeError::Tls("there is no certificate yet for what the client asks for".to_owned()));
            }
        };
        let side = UnbufferedServerConnection::new(config).map_err(|error| refused(&error))?;
        let (connection, session) = shake(side, &stream, incoming, server_name.as_deref()).await?;
        let stream = TlsStream::new(stream, connection, session);
        // What was shown is all there is to it (RFC 8737 section 3).
        if is_challenge { Err(HandshakeError::Challenge) } else { Ok(Transport::Tls(stream)) }
    }

    /// The configuration for a ClientHello, and the name it asks for.
    fn choose(&self, mut hello: &[u8], stream: &TcpStream) -> Result<(Choice, Option<String>), HandshakeError> {
        let mut acceptor = Acceptor::default();
        let accepted = loop {
            if !matches!(acceptor.read_tls(&mut hello), Ok(1..)) {
                return Err(refused(&Error::General("the ClientHello is not complete".to_owned())));
            }
            match acceptor.accept() {
                Ok(Some(accepted)) => break accepted,
                Ok(None) => {}
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    if alert.write_all(&mut bytes).is_ok() {
                        stream.send(base_runtime::Buf::copy_from(&bytes));
                    }
                    stream.shutdown_write();
                    return Err(refused(&error));
                }
            }
        };
        let hello = accepted.client_hello();
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let asks = hello.alpn().is_some_and(|mut offered| offered.next() == Some(ACME_TLS) && offered.next().is_none());
        if asks && let Some(shown) = name.as_deref().and_then(|name| Managed::here().challenge(name)) {
            return Ok((Choice::Challenge(challenge_config(shown)?), name));
        }
        Ok((self.choice(name.as_deref())?, name))
    }

    /// What a client goes on with that asks for this name, in lower case.
    fn choice(&self, name: Option<&str>) -> Result<Choice, HandshakeError> {
        let inner = &self.0;
        if inner.managed {
            let found = name.and_then(|name| Managed::here().find(name));
            let own = name.and_then(|name| inner.names.index_for(name));
            if let (Some(name), None, None) = (name, &found, own) {
                Managed::here().want(name);
            }
            let nothing_else = inner.own.is_empty() && own.is_none();
            if let Some(certificate) = found.or_else(|| Managed::here().first().filter(|_| nothing_else)) {
                return self.made(&certificate).map(Choice::Serve);
            }
        }
        let index = name.and_then(|name| inner.names.index_for(name)).unwrap_or(0);
        Ok(inner.own.get(index).map_or(Choice::Nothing, |(_, config)| Choice::Serve(config.clone())))
    }

    /// What a certificate that came is shown with: made with the first handshake that asks for it.
    fn made(&self, certificate: &Certificate) -> Result<Arc<ServerConfig>, HandshakeError> {
        let (certified, fingerprint) = (certificate.certified(), certificate.fingerprint());
        let mut made = self.0.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(&fingerprint).filter(|known| Arc::ptr_eq(&known.certified, &certified)) {
            return Ok(known.config.clone());
        }
        let config = self.0.making.config(certificate).map_err(|error| refused(&Error::General(error.text)))?;
        if made.len() > 2 * Managed::here().count() + MADE_SPARE {
            // Most are of certificates that were renewed since.
            made.clear();
        }
        made.insert(fingerprint, Made { certified, config: config.clone() });
        Ok(config)
    }

    /// The certificate that a client is shown that asks for `name`, in lower case; `None` when none is for that name, and
    /// [`first`](ServerTls::first) is shown.
    pub fn certificate_for(&self, name: &str) -> Option<Certificate> {
        let managed = self.0.managed.then(|| Managed::here().find(name)).flatten();
        managed.or_else(|| self.0.names.index_for(name).and_then(|index| Some(self.0.own.get(index)?.0.clone())))
    }

    /// What clients are shown that ask for nobody, or for a name that none is for.
    pub fn first(&self) -> Option<Certificate> {
        let own = self.0.own.first().map(|(certificate, _)| certificate.clone());
        own.or_else(|| Managed::here().first().filter(|_| self.0.managed))
    }

    /// What QUIC's handshakes are made with: the same certificates by the same names, the same clients.
    pub fn quic(&self) -> &Arc<ServerConfig> {
        &self.0.quic
    }

    /// The same, which takes early data (RFC 8446 section 2.3) from clients that take up a session of this machine. Sessions are not taken up
    /// on another one then, and those begun without are not taken up at all.
    pub fn quic_early(&self) -> &Arc<ServerConfig> {
        self.0.quic_early.get_or_init(|| {
            let mut config = ServerConfig::clone(&self.0.quic);
            config.ticketer = Arc::new(NoTickets);
            config.session_storage = Arc::new(Once::default());
            // QUIC bounds it by its windows (RFC 9001 section 4.6.1).
            config.max_early_data_size = u32::MAX;
            Arc::new(config)
        })
    }
}

impl Making {
    fn config(&self, certificate: &Certificate) -> Result<Arc<ServerConfig>, CertificateError> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| CertificateError::new(Part::Chain, error.to_string()))?
            .with_client_cert_verifier(self.verifier.clone())
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.certified())));
        config.alpn_protocols = self.alpn.clone();
        config.enable_secret_extraction = true;
        config.send_tls13_tickets = TICKETS;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::new(Ticketer::new(self.tickets.clone(), policy(certificate, &self.client_auth)));
        Ok(Arc::new(config))
    }
}

/// What an authority is shown: without tickets, and nothing is spoken behind it.
fn challenge_config(shown: Arc<CertifiedKey>) -> Result<Arc<ServerConfig>, HandshakeError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| refused(&error))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(shown)));
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    config.enable_secret_extraction = true;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// Configurations of certificates that are gone, which are kept before all are made anew.
const MADE_SPARE: usize = 64;

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("certificates", &self.0.own.len()).finish_non_exhaustive()
    }
}

fn overloaded() -> HandshakeError {
    stats::count(Count::FailedOverload);
    HandshakeError::Overloaded
}

/// The records begin with a whole ClientHello, or with something that never becomes one.
fn is_hello_complete(mut bytes: &[u8]) -> bool {
    // The message's type and three bytes of length, wherever record boundaries fall.
    let mut head = [0; 4];
    let mut joined = 0;
    loop {
        let length = match record_length(bytes) {
            Ok(Some(length)) => length,
            Ok(None) => return bytes.first().is_some_and(|&content_type| content_type != HANDSHAKE),
            Err(_) => return true,
        };
        if bytes[0] != HANDSHAKE || length == HEADER {
            return true;
        }
        let Some(content) = bytes.get(HEADER..length) else { return false };
        for (target, byte) in head.iter_mut().skip(joined).zip(content) {
            *target = *byte;
        }
        joined += content.len();
        if joined >= 4 && joined - 4 >= u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize {
            return true;
        }
        bytes = &bytes[length..];
    }
}

pub(crate) fn root_store(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, CertificateError> {
    let mut store = RootCertStore::empty();
    for authority in authorities {
        store.add(authority.clone()).map_err(|error| {
            CertificateError::new(Part::Authorities, format!("an authority's certificate cannot be used: {error}"))
        })?;
    }
    if store.is_empty() {
        return Err(CertificateError::new(Part::Authorities, "no authority is given: one at least must be trusted"));
    }
    Ok(store)
}

/// What a ticket was made under: the certificate shown and what was asked of the client. Anything else must not take it: a session
/// begun without a client certificate would otherwise continue where one is required.
fn policy(certificate: &Certificate, client_auth: &ClientAuth) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&certificate.fingerprint());
    let (word, authorities): (&[u8], &[CertificateDer<'_>]) = match client_auth {
        ClientAuth::None => (b"none", &[]),
        ClientAuth::Optional(authorities) => (b"optional", authorities),
        ClientAuth::Required(authorities) => (b"required", authorities),
    };
    context.update(word);
    let mut digests: Vec<_> = authorities.iter().map(|der| digest::digest(&digest::SHA256, der)).collect();
    digests.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
    digests.dedup_by(|a, b| a.as_ref() == b.as_ref());
    for digest in digests {
        context.update(digest.as_ref());
    }
    let mut policy = [0; 32];
    policy.copy_from_slice(context.finish().as_ref());
    policy
}
