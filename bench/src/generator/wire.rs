//! A client's bytes on their way: as they are, or inside TLS 1.3.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme};

pub enum Wire {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

pub struct Tls {
    stream: TcpStream,
    session: ClientConnection,
}

impl Wire {
    /// Takes bytes to send and says how many; none when the socket is full.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => would_block(stream.write(bytes)),
            Self::Tls(tls) => tls.session.writer().write(bytes),
        }
    }

    /// Sends what TLS has ready, as far as the socket takes it.
    pub fn flush(&mut self) -> io::Result<()> {
        let Self::Tls(tls) = self else { return Ok(()) };
        while tls.session.wants_write() {
            if would_block(tls.session.write_tls(&mut tls.stream))? == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Something is left to flush.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.session.wants_write())
    }

    /// Reads once from the socket; what it means to the application goes into `into`, which holds more than one reading can
    /// bring. `WouldBlock` when it means nothing yet, 0 at the end.
    pub fn read(&mut self, records: &mut [u8], into: &mut [u8]) -> io::Result<usize> {
        let tls = match self {
            Self::Plain(stream) => return stream.read(into),
            Self::Tls(tls) => tls,
        };
        let count = tls.stream.read(records)?;
        let (mut rest, mut filled) = (&records[..count], 0);
        while !rest.is_empty() {
            tls.session.read_tls(&mut rest)?;
            tls.session.process_new_packets().map_err(io::Error::other)?;
            loop {
                match tls.session.reader().read(&mut into[filled..]) {
                    Ok(0) => return Ok(filled),
                    Ok(more) => filled += more,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        self.flush()?;
        if count > 0 && filled == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(filled) }
    }

    /// The handshake is over and was a short one, with a ticket of an earlier connection.
    pub fn is_resumed(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.session.handshake_kind() == Some(HandshakeKind::Resumed))
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(stream) => stream.as_fd(),
            Self::Tls(tls) => tls.stream.as_fd(),
        }
    }
}

/// How clients shake hands: TLS 1.3, AES-128-GCM with SHA-256 and X25519 and nothing else, so that all gateways do the same work.
#[derive(Clone)]
pub struct Handshakes(Arc<ClientConfig>);

impl Handshakes {
    /// `resume`: with the tickets of earlier connections as long as there are any. `certificate`: the one that has to be shown.
    pub fn new(resume: bool, certificate: Option<CertificateDer<'static>>) -> Result<Self, String> {
        let provider = CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let config = ClientConfig::builder_with_provider(Arc::new(provider));
        let config = config.with_protocol_versions(&[&rustls::version::TLS13]).map_err(|error| error.to_string())?;
        let verifier = Arc::new(Pinned { certificate });
        let mut config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = if resume { Resumption::in_memory_sessions(1024) } else { Resumption::disabled() };
        Ok(Self(Arc::new(config)))
    }

    /// For clients that shake hands by themselves.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.0.clone()
    }

    pub fn wrap(&self, stream: TcpStream) -> io::Result<Wire> {
        let name = ServerName::try_from("bench.example").map_err(io::Error::other)?;
        let mut session = ClientConnection::new(self.0.clone(), name).map_err(io::Error::other)?;
        session.set_buffer_limit(None);
        Ok(Wire::Tls(Box::new(Tls { stream, session })))
    }
}

/// Compares the certificate and leaves its signature alone: to verify it would make the client dearer than the servers that are
/// measured.
struct Pinned {
    certificate: Option<CertificateDer<'static>>,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pinned")
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.certificate {
            Some(expected) if expected != shown => Err(rustls::Error::General("another certificate".into())),
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 was asked for".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// A full socket takes no bytes, which is no error.
fn would_block(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        // A connection that is still being made.
        Err(error) if error.kind() == ErrorKind::NotConnected => Ok(0),
        other => other,
    }
}
