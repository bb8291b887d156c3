//! A connection's bytes, plain or encrypted.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use base_runtime::Buf;
use base_runtime::net::park::{NotParked, Parked};
use base_runtime::net::{StreamState, TcpStream};

use crate::stream::{ParkedTls, Session, TlsStream};

/// A connection whose peer speaks TLS or not; a handle that is cheap to clone and stays on its worker. The methods are those of
/// [`TcpStream`] and promise the same.
#[derive(Clone, Debug)]
pub enum Transport {
    Plain(TcpStream),
    Tls(TlsStream),
}

impl From<TcpStream> for Transport {
    fn from(stream: TcpStream) -> Transport {
        Transport::Plain(stream)
    }
}

/// A [`Transport`] off its worker: it may go to another one.
#[derive(Debug)]
pub enum ParkedTransport {
    Plain(Parked),
    Tls(Box<ParkedTls>),
}

impl ParkedTransport {
    /// Goes on with the connection on this worker.
    pub fn unpark(self) -> io::Result<Transport> {
        match self {
            ParkedTransport::Plain(parked) => parked.unpark().map(Transport::Plain),
            ParkedTransport::Tls(parked) => parked.unpark().map(Transport::Tls),
        }
    }
}

impl From<TlsStream> for Transport {
    fn from(stream: TlsStream) -> Transport {
        Transport::Tls(stream)
    }
}

macro_rules! either {
    ($self:ident, $stream:ident => $body:expr) => {
        match $self {
            Transport::Plain($stream) => $body,
            Transport::Tls($stream) => $body,
        }
    };
}

impl Transport {
    /// What was agreed with the peer; `None` where nothing is encrypted.
    pub fn session(&self) -> Option<&Session> {
        match self {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => Some(stream.session()),
        }
    }

    /// The connection underneath. Bytes must not be sent or received on it where TLS is spoken.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Transport::Plain(stream) => stream,
            Transport::Tls(stream) => stream.socket(),
        }
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket().peer_addr()
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket().local_addr()
    }

    #[inline]
    pub fn poll_recv(&self, task: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        either!(self, s => s.poll_recv(task))
    }

    pub async fn recv(&self) -> io::Result<Option<Buf>> {
        poll_fn(|task| self.poll_recv(task)).await
    }

    pub fn poll_readable(&self, task: &mut Context<'_>) -> Poll<()> {
        either!(self, s => s.poll_readable(task))
    }

    pub async fn readable(&self) {
        poll_fn(|task| self.poll_readable(task)).await
    }

    pub fn is_closed_or_dirty(&self) -> bool {
        either!(self, s => s.is_closed_or_dirty())
    }

    pub fn peek_state(&self) -> StreamState {
        either!(self, s => s.peek_state())
    }

    pub fn unread(&self, buf: Buf) {
        either!(self, s => s.unread(buf))
    }

    #[inline]
    pub fn send(&self, buf: Buf) {
        either!(self, s => s.send(buf))
    }

    #[inline]
    pub fn poll_send_ready(&self, task: &mut Context<'_>, high_water: usize) -> Poll<io::Result<()>> {
        self.socket().poll_send_ready(task, high_water)
    }

    pub async fn send_ready(&self, high_water: usize) -> io::Result<()> {
        poll_fn(|task| self.poll_send_ready(task, high_water)).await
    }

    pub async fn flush(&self) -> io::Result<()> {
        self.send_ready(0).await
    }

    /// Bytes the application has handed to `send`, those still queued included.
    pub fn bytes_said(&self) -> u64 {
        match self {
            Transport::Plain(stream) => stream.bytes_sent() + stream.send_queue_len() as u64,
            Transport::Tls(stream) => stream.bytes_said(),
        }
    }

    /// Bytes, of records where TLS is spoken, that the kernel has not reported as taken.
    pub fn send_queue_len(&self) -> usize {
        self.socket().send_queue_len()
    }

    /// Bytes, of records where TLS is spoken, that the kernel has reported as taken.
    pub fn bytes_sent(&self) -> u64 {
        self.socket().bytes_sent()
    }

    /// Ends the sending direction once everything queued is sent; with TLS a `close_notify` goes before.
    pub fn shutdown_write(&self) {
        either!(self, s => s.shutdown_write())
    }

    pub fn abort(&self) {
        self.socket().abort();
    }

    /// Takes the connection off its worker, as [`TcpStream::park`] does.
    pub async fn park(self) -> Result<ParkedTransport, NotParked<Transport>> {
        match self {
            Transport::Plain(stream) => stream.park().await.map(ParkedTransport::Plain).map_err(not_parked),
            Transport::Tls(stream) => {
                stream.park().await.map(|parked| ParkedTransport::Tls(Box::new(parked))).map_err(not_parked)
            }
        }
    }
}

fn not_parked<S: Into<Transport>>(NotParked { stream, reason }: NotParked<S>) -> NotParked<Transport> {
    NotParked { stream: stream.into(), reason }
}
