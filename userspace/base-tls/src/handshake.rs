//! Driving rustls through a handshake, then taking the keys over.
//!
//! rustls is shown one record at a time, so that nothing behind the handshake's last record is decrypted by it: what follows belongs
//! to the [`TlsConnection`].

use std::io;

use base_runtime::Buf;
use base_runtime::memory::{Booking, Kind};
use base_runtime::net::TcpStream;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CertificateError, CommonState, Error, ExtractedSecrets, HandshakeKind, ProtocolVersion};

use crate::connection::{Schedule, TlsConnection};
use crate::gate;
use crate::record::{Fault, RecordKey, Version, record_length};
use crate::stats::{self, Count};
use crate::stream::{HandshakeError, Session};

/// Most bytes a peer may send before its handshake is over: certificate chains of mutual TLS rarely reach a tenth of it.
pub(crate) const HANDSHAKE_BYTES_MAX: usize = 64 * 1024;

/// What rustls holds during a handshake, roughly.
const STATE_BYTES: usize = 6 * 1024;

/// Keys and tickets of an established connection, as rustls keeps them.
pub(crate) enum Keys {
    Server(KernelConnection<ServerConnectionData>),
    Client(KernelConnection<ClientConnectionData>),
}

impl Schedule for Keys {
    fn next_tx(&mut self) -> Result<RecordKey, Fault> {
        let next = match self {
            Keys::Server(keys) => keys.update_tx_secret(),
            Keys::Client(keys) => keys.update_tx_secret(),
        };
        let (sequence, secrets) = next.map_err(|_| Fault::Internal)?;
        RecordKey::new(Version::Tls13, sequence, &secrets)
    }

    fn next_rx(&mut self) -> Result<RecordKey, Fault> {
        let next = match self {
            Keys::Server(keys) => keys.update_rx_secret(),
            Keys::Client(keys) => keys.update_rx_secret(),
        };
        let (sequence, secrets) = next.map_err(|_| Fault::Internal)?;
        RecordKey::new(Version::Tls13, sequence, &secrets)
    }

    fn take_ticket(&mut self, body: &[u8]) -> Result<(), Fault> {
        match self {
            Keys::Server(_) => Err(Fault::UnexpectedMessage),
            Keys::Client(keys) => keys.handle_new_session_ticket(body).map_err(|_| Fault::DecodeError),
        }
    }

    fn is_client(&self) -> bool {
        matches!(self, Keys::Client(_))
    }
}

/// One of rustls' two kinds of unbuffered connection.
pub(crate) trait Side: Sized {
    type Data;
    fn advance<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &CommonState;
    fn into_keys(self) -> Result<(ExtractedSecrets, Keys), Error>;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn advance<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, Keys), Error> {
        self.dangerous_into_kernel_connection().map(|(secrets, keys)| (secrets, Keys::Server(keys)))
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn advance<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn into_keys(self) -> Result<(ExtractedSecrets, Keys), Error> {
        self.dangerous_into_kernel_connection().map(|(secrets, keys)| (secrets, Keys::Client(keys)))
    }
}

/// The peer's bytes during a handshake.
pub(crate) struct Incoming {
    pub bytes: Vec<u8>,
    /// rustls has been shown the bytes before this; a record ends here.
    shown: usize,
    received: usize,
    booking: Booking,
}

impl Incoming {
    pub fn new() -> Incoming {
        Incoming { bytes: Vec::new(), shown: 0, received: 0, booking: Booking::new(Kind::Tls, STATE_BYTES) }
    }

    /// Waits for more.
    pub async fn receive(&mut self, socket: &TcpStream) -> Result<(), HandshakeError> {
        if self.received > HANDSHAKE_BYTES_MAX {
            stats::count(Count::FailedTooLong);
            return Err(HandshakeError::Tls(format!(
                "the peer sent more than {HANDSHAKE_BYTES_MAX} bytes before the handshake was over"
            )));
        }
        match socket.recv().await {
            Ok(Some(buf)) => {
                self.received += buf.len();
                self.bytes.extend_from_slice(&buf);
                self.booking.set(STATE_BYTES + self.bytes.capacity());
                Ok(())
            }
            Ok(None) => Err(broken(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(broken(error)),
        }
    }

    /// Shows rustls one more record, if a whole one is there. What does not look like a record is shown as it is: rustls has the
    /// right answer to it.
    fn show_record(&mut self) -> bool {
        let rest = &self.bytes[self.shown..];
        match record_length(rest) {
            Ok(Some(length)) if length <= rest.len() => self.shown += length,
            Ok(_) => return false,
            Err(_) => self.shown = self.bytes.len(),
        }
        true
    }

    fn discard(&mut self, n: usize) {
        self.bytes.drain(..n);
        self.shown -= n;
    }
}

fn broken(error: io::Error) -> HandshakeError {
    stats::count(Count::FailedIo);
    HandshakeError::Io(error)
}

/// Counts a failure and tells it.
pub(crate) fn refused(error: &Error) -> HandshakeError {
    stats::count(match error {
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => Count::FailedNothingShared,
        Error::InvalidCertificate(_) | Error::NoCertificatesPresented => Count::FailedCertificate,
        Error::AlertReceived(_) => Count::FailedAlert,
        _ => Count::FailedProtocol,
    });
    HandshakeError::Tls(told(error))
}

/// For people.
pub(crate) fn told(error: &Error) -> String {
    match error {
        Error::NoApplicationProtocol => "the client offers none of this listener's ALPN protocols".to_owned(),
        Error::NoCertificatesPresented => "the peer showed no certificate, and one is required".to_owned(),
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the peer's certificate is not signed by any of the authorities trusted".to_owned()
        }
        Error::InvalidMessage(_) => format!("the peer does not speak TLS ({error})"),
        error => error.to_string(),
    }
}

/// Shakes hands. `incoming` may hold bytes already. What is left in it afterwards belongs to the connection.
pub(crate) async fn shake<S: Side>(
    mut side: S,
    socket: &TcpStream,
    mut incoming: Incoming,
    server_name: Option<&str>,
) -> Result<(TlsConnection<Keys>, Session), HandshakeError> {
    let mut out = Buf::alloc();
    loop {
        let UnbufferedStatus { discard, state } = side.advance(&mut incoming.bytes[..incoming.shown]);
        let wants_more = match state {
            Ok(ConnectionState::EncodeTlsData(mut record)) => {
                encode(&mut record, &mut out, socket)?;
                false
            }
            Ok(ConnectionState::TransmitTlsData(flight)) => {
                flight.done();
                send(&mut out, socket);
                false
            }
            Ok(ConnectionState::BlockedHandshake) => true,
            Ok(ConnectionState::WriteTraffic(_)) => {
                incoming.discard(discard);
                break;
            }
            // Data, early or not, is never shown to rustls; a peer that closes meanwhile ends the handshake.
            Ok(_) => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => {
                say_alert(&mut side, &mut out, socket);
                return Err(refused(&error));
            }
        };
        incoming.discard(discard);
        if wants_more && !incoming.show_record() {
            // Nothing is held while the peer takes its time.
            out = Buf::alloc();
            while !incoming.show_record() {
                incoming.receive(socket).await?;
            }
            gate::pass().await;
        }
    }
    establish(side, incoming, socket, server_name)
}

fn encode<D>(
    record: &mut rustls::unbuffered::EncodeTlsData<'_, D>,
    out: &mut Buf,
    socket: &TcpStream,
) -> Result<(), HandshakeError> {
    let encoded = match record.encode(out.spare_mut()) {
        Err(EncodeError::InsufficientSize(_)) => {
            send(out, socket);
            record.encode(out.spare_mut())
        }
        encoded => encoded,
    };
    match encoded {
        Ok(n) => {
            out.commit(n);
            Ok(())
        }
        Err(error) => Err(refused(&Error::General(error.to_string()))),
    }
}

fn send(out: &mut Buf, socket: &TcpStream) {
    socket.send(std::mem::replace(out, Buf::alloc()));
}

/// After a failure rustls has the alert for the peer ready. It must not look at the peer's bytes again, and does not while it has
/// something to say.
fn say_alert<S: Side>(side: &mut S, out: &mut Buf, socket: &TcpStream) {
    while side.common().wants_write() {
        let Ok(ConnectionState::EncodeTlsData(mut record)) = side.advance(&mut []).state else { break };
        if encode(&mut record, out, socket).is_err() {
            break;
        }
    }
    send(out, socket);
    socket.shutdown_write();
}

fn establish<S: Side>(
    side: S,
    incoming: Incoming,
    socket: &TcpStream,
    server_name: Option<&str>,
) -> Result<(TlsConnection<Keys>, Session), HandshakeError> {
    let common = side.common();
    let version = match common.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => Version::Tls13,
        _ => Version::Tls12,
    };
    let session = session_of(common, server_name);
    let (secrets, keys) = side.into_keys().map_err(|error| refused(&error))?;
    let is_client = keys.is_client();
    let internal = |fault: Fault| refused(&Error::General(fault.text().to_owned()));
    let tx = RecordKey::new(version, secrets.tx.0, &secrets.tx.1).map_err(internal)?;
    let rx = RecordKey::new(version, secrets.rx.0, &secrets.rx.1).map_err(internal)?;
    let mut connection = TlsConnection::new(version, tx, rx, keys, stats::count_event);
    for piece in incoming.bytes[incoming.shown..].chunks(Buf::CAPACITY - Buf::HEADROOM) {
        connection.handle_received(Buf::copy_from(piece), &mut |buf| socket.send(buf));
    }
    stats::count(match (is_client, session.resumed) {
        (false, false) => Count::AcceptedFull,
        (false, true) => Count::AcceptedResumed,
        (true, false) => Count::ConnectedFull,
        (true, true) => Count::ConnectedResumed,
    });
    Ok((connection, session))
}

/// What was agreed.
pub(crate) fn session_of(common: &CommonState, server_name: Option<&str>) -> Session {
    Session {
        version: if common.protocol_version() == Some(ProtocolVersion::TLSv1_3) { "TLSv1.3" } else { "TLSv1.2" },
        cipher: common.negotiated_cipher_suite().map_or("", |suite| suite_name(suite.suite())),
        alpn: common.alpn_protocol().map(Into::into),
        server_name: server_name.map(|name| name.to_ascii_lowercase().into()),
        peer_certificates: common.peer_certificates().map(<[_]>::to_vec).unwrap_or_default(),
        resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
    }
}

/// IANA's names.
fn suite_name(suite: rustls::CipherSuite) -> &'static str {
    match suite.as_str() {
        Some("TLS13_AES_128_GCM_SHA256") => "TLS_AES_128_GCM_SHA256",
        Some("TLS13_AES_256_GCM_SHA384") => "TLS_AES_256_GCM_SHA384",
        Some("TLS13_CHACHA20_POLY1305_SHA256") => "TLS_CHACHA20_POLY1305_SHA256",
        Some(name) => name,
        None => "",
    }
}
