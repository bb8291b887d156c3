//! Bytes both ways, unread: what an exchange becomes once both sides have left HTTP behind.

use base_runtime::Buf;
use base_runtime::net::TcpStream;
use base_tls::Transport;
use std::fmt;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

/// One side of a tunnel: a connection, or a stream of a connection that carries many. A tunnel joins two of them.
///
/// One task waits for each direction; both may be the same. Dropping it closes it.
pub trait Duplex: fmt::Debug {
    /// The next bytes; `None` once the peer has finished sending. An error stays an error.
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>>;

    /// Ready once at most `most` bytes wait to be taken, or the peer can take no more.
    fn poll_send_ready(&self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<()>>;

    /// Queues bytes. Failures show in [`Duplex::poll_send_ready`].
    fn send(&self, bytes: Buf);

    /// Ends the sending direction once everything queued is sent.
    fn shutdown(&self);

    /// Ends both directions at once, so that the peer sees that something is missing.
    fn abort(&self);

    /// False once whatever is sent is thrown away: it is no sign of life of the tunnel then.
    fn is_heard(&self) -> bool {
        true
    }

    /// Tells both sides of the tunnel that it is to end soon, in the protocol that passes; false where that is not known. Who was told
    /// has a moment to answer, or to finish.
    fn take_leave(&self) -> bool {
        false
    }

    /// The longest silence of the tunnel that this side stands; `None` leaves it to the server.
    fn silence_most(&self) -> Option<Duration> {
        None
    }

    /// The socket, where nothing lies between it and the bytes: two such are joined inside the kernel.
    fn plain(&self) -> Option<&TcpStream> {
        None
    }
}

impl Duplex for Transport {
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        Transport::poll_recv(self, cx)
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<()>> {
        Transport::poll_send_ready(self, cx, most)
    }

    fn send(&self, bytes: Buf) {
        Transport::send(self, bytes);
    }

    fn shutdown(&self) {
        self.shutdown_write();
    }

    fn abort(&self) {
        Transport::abort(self);
    }

    fn plain(&self) -> Option<&TcpStream> {
        match self {
            Transport::Plain(stream) => Some(stream),
            Transport::Tls(_) => None,
        }
    }
}
