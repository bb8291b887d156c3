//! Who a connection is from, where proxies in front may say so with the PROXY protocol.

use base_model::ip_filter::CidrSet;
use base_runtime::Buf;
use base_runtime::net::TcpStream;
use base_runtime::time::timeout;
use base_tls::Transport;
use edge_pipeline::Duplex;
use proto_proxy::{Addresses, Error, Transport as Carrier, begins_one, read};
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// The bounds of this file, by the names they are counted under.
pub const BOUNDS: [&str; 4] = ["proxy_malformed", "proxy_missing", "proxy_timeout", "proxy_untrusted"];

/// Who is connected, and where to, as far as a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Introduction {
    pub client: SocketAddr,
    /// Where the client meant to go; `None`: where its connection has come to.
    pub destination: Option<SocketAddr>,
}

/// Takes the header off a connection whose `peer` must send one. An error is the bound it broke.
pub async fn introduced(
    stream: &TcpStream,
    peer: SocketAddr,
    patience: Duration,
) -> Result<Introduction, &'static str> {
    let own = Introduction { client: peer, destination: None };
    let found = peek(stream, patience, |bytes| match read(bytes) {
        Ok(None) => None,
        Ok(Some((header, length))) => Some(Ok((header.addresses, length))),
        Err(Error::Absent) => Some(Err("proxy_missing")),
        Err(_) => Some(Err("proxy_malformed")),
    })
    .await
    .map_err(|ended| if ended == Ended::TimedOut { "proxy_timeout" } else { "proxy_missing" })?;
    let (said, mut bytes) = found;
    let (addresses, length) = said?;
    bytes.advance(length);
    stream.unread(bytes);
    Ok(match addresses {
        Addresses::Inet { transport: Carrier::Stream, source, destination } => {
            Introduction { client: canonical(source), destination: Some(canonical(destination)) }
        }
        _ => own,
    })
}

/// Makes sure that a peer nobody trusts does not begin with a header, where clients speak first. Errors as [`introduced`]'s; a
/// connection that ends or says nothing is left to whoever reads it next.
pub async fn not_introduced(stream: &TcpStream, patience: Duration) -> Result<(), &'static str> {
    match peek(stream, patience, begins_one).await {
        Ok((true, _)) => Err("proxy_untrusted"),
        Ok((false, bytes)) => {
            stream.unread(bytes);
            Ok(())
        }
        Err(Ended::TimedOut) => Err("first_byte_timeout"),
        Err(Ended::Closed) => Ok(()),
    }
}

/// As a peer of [`CidrSet`] may send a header, and must.
pub fn must_introduce(peer: SocketAddr, trusted: &CidrSet) -> bool {
    trusted.contains(peer.ip())
}

fn canonical(at: SocketAddr) -> SocketAddr {
    SocketAddr::new(at.ip().to_canonical(), at.port())
}

/// Why nothing could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Closed,
    TimedOut,
}

/// Receives until `judge` has seen enough, and hands out what was received. What is gathered is one buffer, however small the pieces
/// are that it comes in; `judge` must have seen enough before that is full.
pub async fn peek<T>(
    stream: &TcpStream,
    patience: Duration,
    judge: impl Fn(&[u8]) -> Option<T>,
) -> Result<(T, Buf), Ended> {
    let gathering = async {
        let mut gathered: Option<Buf> = None;
        loop {
            let Ok(Some(mut more)) = stream.recv().await else {
                // What has come is not lost on those who read on.
                if let Some(bytes) = gathered.take() {
                    stream.unread(bytes);
                }
                return Err(Ended::Closed);
            };
            let bytes = match gathered.take() {
                None => more,
                Some(mut bytes) => {
                    let taken = bytes.append(&more);
                    more.advance(taken);
                    stream.unread(more);
                    if taken == 0 {
                        return Err(Ended::Closed);
                    }
                    bytes
                }
            };
            match judge(&bytes) {
                Some(judged) => return Ok((judged, bytes)),
                None => gathered = Some(bytes),
            }
        }
    };
    timeout(patience, gathering).await.unwrap_or(Err(Ended::TimedOut))
}

/// The connection of a peer that must not send a header, where it need not be the client that speaks first: what it begins with is
/// looked at when it comes.
#[derive(Debug)]
pub struct Unintroduced {
    inner: Transport,
    /// What has come of a beginning that may yet be a header; `None` once it is known to be none.
    beginning: RefCell<Option<Option<Buf>>>,
}

impl Unintroduced {
    pub fn new(inner: Transport) -> Unintroduced {
        Unintroduced { inner, beginning: RefCell::new(Some(None)) }
    }

    /// Whether it has ended because it began with a header.
    pub fn was_introduced(error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::PermissionDenied
    }
}

impl Duplex for Unintroduced {
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        loop {
            let mut beginning = self.beginning.borrow_mut();
            let Some(so_far) = &mut *beginning else { return self.inner.poll_recv(cx) };
            let received = ready!(self.inner.poll_recv(cx))?;
            let ended = received.is_none();
            let bytes = match (so_far.take(), received) {
                (Some(mut bytes), Some(mut more)) => {
                    let taken = bytes.append(&more);
                    more.advance(taken);
                    self.inner.unread(more);
                    bytes
                }
                (Some(bytes), None) | (None, Some(bytes)) => bytes,
                (None, None) => return Poll::Ready(Ok(None)),
            };
            match begins_one(&bytes) {
                Some(true) => return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into())),
                None if !ended => *so_far = Some(bytes),
                _ => {
                    *beginning = None;
                    return Poll::Ready(Ok(Some(bytes)));
                }
            }
        }
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<()>> {
        self.inner.poll_send_ready(cx, most)
    }

    fn send(&self, bytes: Buf) {
        self.inner.send(bytes);
    }

    fn shutdown(&self) {
        self.inner.shutdown_write();
    }

    fn abort(&self) {
        self.inner.abort();
    }

    fn plain(&self) -> Option<&TcpStream> {
        match (&self.inner, &*self.beginning.borrow()) {
            (Transport::Plain(stream), None) => Some(stream),
            _ => None,
        }
    }
}
