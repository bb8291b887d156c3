//! An established TLS connection: records in, records out.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use base_runtime::Buf;
use base_runtime::memory::{Booking, Kind, SharedBooking};
use base_runtime::net::park::{NotParked, Parked};
use base_runtime::net::{StreamState, TcpStream};
use rustls_pki_types::CertificateDer;

use crate::connection::{self, PeerEnd, TlsConnection};
use crate::handshake::Keys;

/// What was agreed in the handshake.
#[derive(Debug, Clone)]
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
    /// It was an authority that asked whether a name is ours, and has its answer.
    Challenge,
}

impl HandshakeError {
    /// Short name for a counter: `handshake_io`, `handshake_timeout`, `handshake_overload`, `handshake_failed`; `handshake_challenge` of what
    /// is no failure.
    pub fn name(&self) -> &'static str {
        match self {
            HandshakeError::Io(_) => "handshake_io",
            HandshakeError::TimedOut => "handshake_timeout",
            HandshakeError::Overloaded => "handshake_overload",
            HandshakeError::Tls(_) => "handshake_failed",
            HandshakeError::Challenge => "handshake_challenge",
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
            HandshakeError::Challenge => f.write_str("an authority was answered that asked for a name"),
        }
    }
}

/// An established TLS connection; a handle that is cheap to clone and stays on its worker. Between records it holds no buffer.
///
/// When the last handle is dropped the peer is told `close_notify`, as a plain connection would end with a FIN. Whoever must not
/// look complete calls `abort` on the [`Transport`](crate::Transport).
#[derive(Clone)]
pub struct TlsStream(Rc<Inner>);

struct Inner {
    socket: TcpStream,
    session: Rc<Session>,
    connection: RefCell<TlsConnection<Keys>>,
    /// What the connection holds besides buffers.
    booking: Booking,
    /// The part of it that stays the same.
    fixed: usize,
}

impl TlsStream {
    pub(crate) fn new(socket: TcpStream, connection: TlsConnection<Keys>, session: Session) -> TlsStream {
        // The peer's certificates are kept twice: rustls has them too.
        let certificates: usize = session.peer_certificates.iter().map(|certificate| 2 * certificate.len()).sum();
        let fixed = IDLE_BYTES + certificates;
        let booking = Booking::new(Kind::Tls, fixed + connection.kept());
        let session = Rc::new(session);
        let stream =
            TlsStream(Rc::new(Inner { socket, session, connection: RefCell::new(connection), booking, fixed }));
        stream.0.after_receive(&mut stream.0.connection.borrow_mut());
        stream
    }

    pub fn session(&self) -> &Session {
        &self.0.session
    }

    /// The session, for those who may outlive the connection.
    pub fn shared_session(&self) -> Rc<Session> {
        self.0.session.clone()
    }

    pub fn socket(&self) -> &TcpStream {
        &self.0.socket
    }

    /// The next data; `None` once the peer has said `close_notify`. A connection that ends without is an error: what came may have
    /// been cut short by somebody on the way.
    #[inline]
    pub fn poll_recv(&self, task: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        let mut connection = self.0.connection.borrow_mut();
        loop {
            if connection.has_data() {
                // A buffer from the socket may hold many records.
                ready!(base_runtime::poll_share(task));
            }
            if let Some(buf) = connection.poll_data() {
                return Poll::Ready(Ok(Some(buf)));
            }
            match connection.end() {
                PeerEnd::Open => {}
                PeerEnd::Closed => return Poll::Ready(Ok(None)),
                end => return Poll::Ready(Err(error_of(end))),
            }
            if self.0.poll_receive(&mut connection, task).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Ready when data, the peer's end or an error are there. Records that carry no data do not count.
    pub fn poll_readable(&self, task: &mut Context<'_>) -> Poll<()> {
        let mut connection = self.0.connection.borrow_mut();
        loop {
            if connection.has_data() || connection.end() != PeerEnd::Open {
                return Poll::Ready(());
            }
            if self.0.poll_receive(&mut connection, task).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// For a connection that ought to be idle, as in a pool: the peer has closed it, it failed, or it sent what nobody asked for.
    /// Tickets and new keys, which come when they come, are taken in and do not count.
    pub fn is_closed_or_dirty(&self) -> bool {
        self.peek_state() != StreamState::Open
            || self.0.connection.borrow().is_send_closed()
            || self.0.socket.is_closed_or_dirty()
    }

    pub fn peek_state(&self) -> StreamState {
        let mut connection = self.0.connection.borrow_mut();
        self.0.take_queued(&mut connection);
        if connection.has_data() {
            return StreamState::Data;
        }
        match connection.end() {
            PeerEnd::Open => match self.0.socket.peek_state() {
                StreamState::Eof => StreamState::Error(io::ErrorKind::UnexpectedEof),
                // Bytes are left where data was found in others, which is `Data` above.
                state => state,
            },
            PeerEnd::Closed => StreamState::Eof,
            end => StreamState::Error(error_of(end).kind()),
        }
    }

    /// Puts data back in front of what was received.
    pub fn unread(&self, buf: Buf) {
        self.0.connection.borrow_mut().unread(buf);
    }

    /// Encrypts `buf` and queues it for sending, as [`TcpStream::send`] does.
    #[inline]
    pub fn send(&self, buf: Buf) {
        let mut connection = self.0.connection.borrow_mut();
        connection.send(buf, &mut |record| self.0.socket.send(record));
        if connection.is_send_closed() {
            self.0.end_sending(&connection);
        }
    }

    /// Bytes of data handed to `send`.
    pub fn bytes_said(&self) -> u64 {
        self.0.connection.borrow().said()
    }

    /// Ends the sending direction with `close_notify` once everything queued is sent.
    pub fn shutdown_write(&self) {
        let mut connection = self.0.connection.borrow_mut();
        connection.close(&mut |record| self.0.socket.send(record));
        self.0.socket.shutdown_write();
    }
}

/// An established TLS connection off its worker: the connection underneath, the keys, and what was received and not read. Dropping it
/// closes the connection without `close_notify`.
pub struct ParkedTls {
    socket: Parked,
    session: Session,
    connection: connection::Parked<Keys>,
    fixed: usize,
    booking: SharedBooking,
}

impl TlsStream {
    /// As [`TcpStream::park`]. Records sealed and not sent go along as they are. Dropping the future in the middle drops the connection
    /// without `close_notify`, as one that broke.
    pub async fn park(self) -> Result<ParkedTls, NotParked<TlsStream>> {
        // A handle says `close_notify` only when it is the last one.
        let inner = self.0.clone();
        drop(self);
        let Inner { socket, session, connection, booking, fixed } = match Rc::try_unwrap(inner) {
            Ok(inner) => inner,
            Err(inner) => {
                return Err(NotParked { stream: TlsStream(inner), reason: "other handles of it are in use" });
            }
        };
        match socket.park().await {
            Ok(socket) => {
                let session = Rc::try_unwrap(session).unwrap_or_else(|shared| (*shared).clone());
                let connection = connection.into_inner().park();
                let booking = SharedBooking::new(Kind::Tls, fixed + connection.kept());
                Ok(ParkedTls { socket, session, connection, fixed, booking })
            }
            Err(NotParked { stream: socket, reason }) => {
                let stream = TlsStream(Rc::new(Inner { socket, session, connection, booking, fixed }));
                Err(NotParked { stream, reason })
            }
        }
    }
}

impl ParkedTls {
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The connection underneath, records and all.
    pub fn socket(&self) -> &Parked {
        &self.socket
    }

    /// Goes on with the connection on this worker.
    pub fn unpark(self) -> io::Result<TlsStream> {
        let ParkedTls { socket, session, connection, fixed, booking } = self;
        drop(booking);
        let socket = socket.unpark()?;
        let connection = TlsConnection::unpark(connection);
        let booking = Booking::new(Kind::Tls, fixed + connection.kept());
        let (session, connection) = (Rc::new(session), RefCell::new(connection));
        Ok(TlsStream(Rc::new(Inner { socket, session, connection, booking, fixed })))
    }
}

impl fmt::Debug for ParkedTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParkedTls").field("socket", &self.socket).field("session", &self.session).finish()
    }
}

impl Inner {
    /// Ready when bytes, the end or an error came in and were taken.
    #[inline]
    fn poll_receive(&self, connection: &mut TlsConnection<Keys>, task: &mut Context<'_>) -> Poll<()> {
        match self.socket.poll_recv(task) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(Some(buf))) => connection.handle_received(buf, &mut |record| self.socket.send(record)),
            Poll::Ready(Ok(None)) => connection.handle_eof(),
            Poll::Ready(Err(error)) => connection.handle_broken(error.raw_os_error()),
        }
        self.after_receive(connection);
        Poll::Ready(())
    }

    /// Takes what is queued already, until there is data in it.
    fn take_queued(&self, connection: &mut TlsConnection<Keys>) {
        while !connection.has_data()
            && connection.end() == PeerEnd::Open
            && let Some(buf) = self.socket.try_recv()
        {
            connection.handle_received(buf, &mut |record| self.socket.send(record));
            self.after_receive(connection);
        }
    }

    #[inline]
    fn after_receive(&self, connection: &mut TlsConnection<Keys>) {
        self.booking.set(self.fixed + connection.kept());
        if self.socket.send_queue_len() == 0 {
            connection.answer_key_update(&mut |record| self.socket.send(record));
        }
        if connection.end() != PeerEnd::Open {
            self.end_sending(connection);
        }
    }

    /// After a fault nothing follows the alert.
    #[cold]
    fn end_sending(&self, connection: &TlsConnection<Keys>) {
        if matches!(connection.end(), PeerEnd::Fault(_) | PeerEnd::Alert(_)) {
            self.socket.shutdown_write();
        }
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        // The last handle ends the connection. It may outlive its worker, in a thread-local for example: then there is nobody to send
        // anything.
        if Rc::strong_count(&self.0) == 1 && base_runtime::current_worker().is_some() {
            self.0.connection.borrow_mut().close(&mut |record| self.0.socket.send(record));
        }
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("socket", &self.0.socket).field("session", &self.0.session).finish()
    }
}

/// As RFC 8446 section 6 and the registry of alerts call it.
fn alert_name(alert: u8) -> &'static str {
    match alert {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        22 => "record_overflow",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        109 => "missing_extension",
        110 => "unsupported_extension",
        112 => "unrecognized_name",
        113 => "bad_certificate_status_response",
        115 => "unknown_psk_identity",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => "unknown",
    }
}

#[cold]
fn error_of(end: PeerEnd) -> io::Error {
    match end {
        PeerEnd::Broken(Some(errno)) => io::Error::from_raw_os_error(errno),
        PeerEnd::Alert(alert) => {
            let name = alert_name(alert);
            let text = format!("the peer ended the TLS connection with alert {alert} ({name})");
            io::Error::new(io::ErrorKind::ConnectionAborted, text)
        }
        PeerEnd::Fault(fault) => io::Error::new(io::ErrorKind::InvalidData, fault.text()),
        PeerEnd::Truncated => io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the connection ended without TLS close_notify: what was received may be cut off",
        ),
        PeerEnd::Open | PeerEnd::Closed | PeerEnd::Broken(None) => io::ErrorKind::BrokenPipe.into(),
    }
}

/// What an idle connection holds: this handle's part, two keys with their tables, and rustls' key schedule. Measured over
/// thousands of connections (`tests/memory.rs`).
const IDLE_BYTES: usize = 3 * 1024;
