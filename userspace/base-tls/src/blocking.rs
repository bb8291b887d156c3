//! The side that connects, on a thread of its own that may wait: for services which take what is sent to them and are no servers of
//! requests, such as logs and queues.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustls::client::ClientConnection;
use rustls::{Error, HandshakeKind, ProtocolVersion, StreamOwned};

use crate::asked;
use crate::client::ClientTls;
use crate::handshake::{self, refused};
use crate::stats::{self, Count};
use crate::stream::HandshakeError;

/// An established connection. Reads and writes wait as long as the socket's time-outs say; what was written is sent by `flush`. When it
/// is dropped the server is told `close_notify`, if there is room for that.
pub struct BlockingTls(StreamOwned<ClientConnection, TcpStream>);

impl ClientTls {
    /// As [`ClientTls::connect`], within `limit` and without ALPN. The socket's time-outs are afterwards what they were.
    ///
    /// In TLS 1.3 a client is done before the server has looked at its certificate. One that has asked for it is waited for as long as
    /// `verdict` to say what it makes of it, a ticket or that it does not like us: who sends at once takes a door that is being shut for an open
    /// one. With nothing the caller is told by what it reads, before any answer, or when it can write no more.
    pub fn connect_blocking(
        &self,
        mut socket: TcpStream,
        server_name: &str,
        limit: Duration,
        verdict: Option<Duration>,
    ) -> Result<BlockingTls, HandshakeError> {
        let before = timeouts(&socket).map_err(broken)?;
        asked::forget();
        let until = Instant::now() + limit;
        let (config, name) = self.asking(server_name)?;
        let mut connection =
            ClientConnection::new_with_alpn(config, name, Vec::new()).map_err(|error| refused(&error))?;
        say(&mut connection, &mut socket, until)?;
        while connection.is_handshaking() {
            if !hear(&mut connection, &mut socket, until)? {
                stats::count(Count::FailedTimeout);
                return Err(HandshakeError::TimedOut);
            }
            say(&mut connection, &mut socket, until)?;
        }
        if let Some(longest) = verdict.filter(|_| asked::was())
            && connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
            && !hear(&mut connection, &mut socket, until.min(Instant::now() + longest))?
        {
            stats::count(Count::VerdictUnheard);
        }
        stats::count(match connection.handshake_kind() {
            Some(HandshakeKind::Resumed) => Count::ConnectedResumed,
            _ => Count::ConnectedFull,
        });
        socket.set_read_timeout(before.0).and_then(|()| socket.set_write_timeout(before.1)).map_err(broken)?;
        Ok(BlockingTls(StreamOwned::new(connection, socket)))
    }
}

fn timeouts(socket: &TcpStream) -> io::Result<(Option<Duration>, Option<Duration>)> {
    Ok((socket.read_timeout()?, socket.write_timeout()?))
}

/// What is left until then, which is never nothing: sockets take that for ever.
fn left(until: Instant) -> Option<Duration> {
    Some(until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)))
}

/// Sends what is to be said.
fn say(connection: &mut ClientConnection, socket: &mut TcpStream, until: Instant) -> Result<(), HandshakeError> {
    while connection.wants_write() {
        socket.set_write_timeout(left(until)).map_err(broken)?;
        match connection.write_tls(socket) {
            Ok(0) => return Err(broken(ErrorKind::WriteZero.into())),
            Ok(_) => {}
            Err(error) if is_timeout(&error) => {
                stats::count(Count::FailedTimeout);
                return Err(HandshakeError::TimedOut);
            }
            Err(error) => return Err(broken(error)),
        }
    }
    Ok(())
}

/// Waits for the server's next words. False: there were none.
fn hear(connection: &mut ClientConnection, socket: &mut TcpStream, until: Instant) -> Result<bool, HandshakeError> {
    if Instant::now() >= until {
        return Ok(false);
    }
    socket.set_read_timeout(left(until)).map_err(broken)?;
    match connection.read_tls(socket) {
        Ok(0) => return Err(broken(ErrorKind::UnexpectedEof.into())),
        Ok(_) => {}
        Err(error) if is_timeout(&error) => return Ok(false),
        Err(error) => return Err(broken(error)),
    }
    match connection.process_new_packets() {
        Ok(_) => Ok(true),
        Err(error) => {
            // The server may hear why, where it still listens.
            let _ = connection.write_tls(socket);
            Err(refused(&error))
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn broken(error: io::Error) -> HandshakeError {
    stats::count(Count::FailedIo);
    HandshakeError::Io(error)
}

impl BlockingTls {
    pub fn socket(&self) -> &TcpStream {
        &self.0.sock
    }

    /// Why it broke: what the server said before it went is still to be read, also where writing has failed.
    fn why(&mut self, error: io::Error) -> io::Error {
        let StreamOwned { conn, sock } = &mut self.0;
        if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) {
            while conn.read_tls(sock).is_ok_and(|bytes| bytes > 0) {
                if let Err(said) = conn.process_new_packets() {
                    return io::Error::new(ErrorKind::InvalidData, handshake::told(&said));
                }
            }
        }
        told(error)
    }
}

impl Read for BlockingTls {
    /// Nothing is read at the end that a server has announced; an end without a word is [`ErrorKind::UnexpectedEof`].
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into).map_err(|error| self.why(error))
    }
}

impl Write for BlockingTls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(|error| self.why(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(|error| self.why(error))
    }
}

/// What the server says in an alert, as handshakes tell it.
fn told(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(tls) => io::Error::new(error.kind(), handshake::told(tls)),
        None => error,
    }
}

impl Drop for BlockingTls {
    fn drop(&mut self) {
        let StreamOwned { conn, sock } = &mut self.0;
        conn.send_close_notify();
        // Nobody waits for a server that takes nothing.
        if sock.set_nonblocking(true).is_ok() {
            let _ = conn.write_tls(sock);
        }
    }
}

impl fmt::Debug for BlockingTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingTls").finish_non_exhaustive()
    }
}
