//! rustls within QUIC, on both sides. As quinn-proto's own, but what was agreed is told as [`Session`], cipher and resumption with it, and counted with
//! the handshakes of TCP.

use crate::stats::{self, Count};
use aws_lc_rs::aead;
use base_tls::{Session, quic};
use quinn_proto::crypto::{self, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, UnsupportedVersion};
use quinn_proto::transport_parameters::TransportParameters;
use quinn_proto::{ConnectError, ConnectionId, Side, TransportError, TransportErrorCode};
use rustls::quic::{ClientConnection, Connection, KeyChange, Secrets, ServerConnection, Suite, Version};
use rustls_pki_types::ServerName;
use std::any::Any;
use std::io;
use std::sync::Arc;

/// Makes the handshakes of a server.
pub struct ServerCrypto {
    config: Arc<rustls::ServerConfig>,
    /// Protects the first packets, whatever is agreed later.
    initial: Suite,
}

impl ServerCrypto {
    /// `None` when the configuration does not have the cipher suite that QUIC begins with.
    pub fn new(config: Arc<rustls::ServerConfig>) -> Option<Arc<ServerCrypto>> {
        let initial = initial_suite(config.crypto_provider())?;
        Some(Arc::new(ServerCrypto { config, initial }))
    }
}

/// Makes the handshakes of a client.
pub struct ClientCrypto {
    config: Arc<rustls::ClientConfig>,
    initial: Suite,
}

impl ClientCrypto {
    /// As [`ServerCrypto::new`].
    pub fn new(config: Arc<rustls::ClientConfig>) -> Option<Arc<ClientCrypto>> {
        let initial = initial_suite(config.crypto_provider())?;
        Some(Arc::new(ClientCrypto { config, initial }))
    }
}

fn initial_suite(provider: &rustls::crypto::CryptoProvider) -> Option<Suite> {
    let suites = &provider.cipher_suites;
    let initial = suites.iter().find(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    initial?.tls13()?.quic_suite()
}

impl crypto::ClientConfig for ClientCrypto {
    fn start_session(
        self: Arc<Self>,
        _: u32,
        server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn crypto::Session>, ConnectError> {
        let invalid = || ConnectError::InvalidServerName(server_name.to_owned());
        let name = ServerName::try_from(server_name.to_owned()).map_err(|_| invalid())?;
        let mut bytes = Vec::new();
        params.write(&mut bytes);
        let connection = ClientConnection::new(self.config.clone(), Version::V1, name, bytes).map_err(|_| invalid())?;
        Ok(Box::new(TlsSession {
            connection: Some(Box::new(connection.into())),
            server_name: server_name.into(),
            initial: self.initial,
            told: None,
            next: None,
        }))
    }
}

impl crypto::ServerConfig for ServerCrypto {
    fn initial_keys(&self, version: u32, id: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        if version != VERSION_1 {
            return Err(UnsupportedVersion);
        }
        Ok(initial_keys(&self.initial, id, rustls::Side::Server))
    }

    fn retry_tag(&self, _: u32, id: &ConnectionId, packet: &[u8]) -> [u8; 16] {
        retry_tag(id, packet)
    }

    fn start_session(self: Arc<Self>, _: u32, params: &TransportParameters) -> Box<dyn crypto::Session> {
        let mut bytes = Vec::new();
        params.write(&mut bytes);
        let connection = ServerConnection::new(self.config.clone(), Version::V1, bytes)
            .expect("the configuration has TLS 1.3 and no early data but all of it");
        Box::new(TlsSession {
            connection: Some(Box::new(connection.into())),
            server_name: Box::default(),
            initial: self.initial,
            told: None,
            next: None,
        })
    }
}

struct TlsSession {
    /// A server's until the last word of the handshake was said: what it holds is of no use to an established connection. A client has
    /// tickets to take later.
    connection: Option<Box<Connection>>,
    /// Whom a client speaks to.
    server_name: Box<str>,
    initial: Suite,
    /// Once the handshake is over, which it is not for a server that takes early data meanwhile.
    told: Option<Session>,
    next: Option<Secrets>,
}

impl TlsSession {
    fn is_client(&self) -> bool {
        matches!(self.connection.as_deref(), Some(Connection::Client(_)))
    }
}

impl crypto::Session for TlsSession {
    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        initial_keys(&self.initial, id, side.into())
    }

    /// A [`Session`], before the end of the handshake where early data is taken.
    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        let begun = || match self.connection.as_deref() {
            Some(Connection::Server(connection)) if connection.zero_rtt_keys().is_some() => {
                Some(quic::begun(connection))
            }
            _ => None,
        };
        self.told.clone().or_else(begun).map(|session| Box::new(session) as Box<dyn Any>)
    }

    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        let keys = self.connection.as_ref()?.zero_rtt_keys()?;
        if !self.is_client() {
            stats::count(Count::Early);
        }
        Some((Box::new(keys.header), Box::new(keys.packet)))
    }

    fn early_data_accepted(&self) -> Option<bool> {
        // None is sent.
        None
    }

    fn is_handshaking(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.is_handshaking())
    }

    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        let Some(connection) = &mut self.connection else {
            // Clients have nothing to say after their handshake (RFC 9001 section 6).
            let reason = "a TLS message after the handshake".to_owned();
            return Err(TransportError { code: TransportErrorCode::crypto(UNEXPECTED_MESSAGE), frame: None, reason });
        };
        if let Err(error) = connection.read_hs(bytes) {
            let reason = quic::failed(&error).to_string();
            let code = match connection.alert() {
                Some(alert) => TransportErrorCode::crypto(alert.into()),
                None => TransportErrorCode::PROTOCOL_VIOLATION,
            };
            return Err(TransportError { code, frame: None, reason });
        }
        if self.told.is_some() || connection.is_handshaking() {
            return Ok(false);
        }
        self.told = Some(match &**connection {
            Connection::Server(connection) => quic::accepted(connection),
            Connection::Client(connection) => quic::connected(connection, &self.server_name),
        });
        Ok(true)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        let connection = self.connection.as_ref();
        let Some(bytes) = connection.and_then(|connection| connection.quic_transport_parameters()) else {
            return Ok(None);
        };
        let side = if self.is_client() { Side::Client } else { Side::Server };
        Ok(Some(TransportParameters::read(side, &mut io::Cursor::new(bytes))?))
    }

    fn write_handshake(&mut self, into: &mut Vec<u8>) -> Option<Keys> {
        match self.connection.as_mut()?.write_hs(into) {
            Some(KeyChange::Handshake { keys }) => Some(translated(keys)),
            Some(KeyChange::OneRtt { keys, next }) => {
                self.next = Some(next);
                Some(translated(keys))
            }
            None => {
                if into.is_empty() && self.told.is_some() && self.next.is_some() && !self.is_client() {
                    self.connection = None;
                }
                None
            }
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        let keys = self.next.as_mut()?.next_packet_keys();
        Some(KeyPair { local: Box::new(keys.local), remote: Box::new(keys.remote) })
    }

    fn is_valid_retry(&self, id: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        // Nobody asks a server to try again.
        let Some((said, tag)) = payload.split_last_chunk::<16>().filter(|_| self.is_client()) else { return false };
        retry_tag(id, &[header, said].concat()) == *tag
    }

    fn export_keying_material(&self, _: &mut [u8], _: &[u8], _: &[u8]) -> Result<(), ExportKeyingMaterialError> {
        // Nobody here asks for any.
        Err(ExportKeyingMaterialError)
    }
}

/// Proves that a Retry is of somebody who has seen the first packet (RFC 9001 section 5.8).
fn retry_tag(id: &ConnectionId, packet: &[u8]) -> [u8; 16] {
    let pseudo = [&[id.len() as u8][..], id, packet].concat();
    let key = aead::LessSafeKey::new(
        aead::UnboundKey::new(&aead::AES_128_GCM, &RETRY_KEY).expect("a key of this algorithm has 16 bytes"),
    );
    let nonce = aead::Nonce::assume_unique_for_key(RETRY_NONCE);
    let tag = key.seal_in_place_separate_tag(nonce, aead::Aad::from(pseudo), &mut []);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(tag.expect("nothing is sealed, so nothing is too long").as_ref());
    bytes
}

fn initial_keys(suite: &Suite, id: &ConnectionId, side: rustls::Side) -> Keys {
    translated(suite.keys(id, side, Version::V1))
}

fn translated(keys: rustls::quic::Keys) -> Keys {
    Keys {
        header: KeyPair { local: Box::new(keys.local.header), remote: Box::new(keys.remote.header) },
        packet: KeyPair { local: Box::new(keys.local.packet), remote: Box::new(keys.remote.packet) },
    }
}

/// The alert (RFC 8446 section 6.2).
const UNEXPECTED_MESSAGE: u8 = 10;

/// The one version spoken (RFC 9000 section 15).
pub const VERSION_1: u32 = 1;

/// RFC 9001 section 5.8.
const RETRY_KEY: [u8; 16] =
    [0xbe, 0x0c, 0x69, 0x0b, 0x9f, 0x66, 0x57, 0x5a, 0x1d, 0x76, 0x6b, 0x54, 0xe3, 0x68, 0xc8, 0x4e];
const RETRY_NONCE: [u8; 12] = [0x46, 0x15, 0x99, 0xd3, 0x5d, 0x63, 0x2b, 0xf2, 0x23, 0x98, 0x25, 0xbb];
