//! A worker's transport as the `h2` crate wants it: two poll traits.

use base_runtime::Buf;
use base_tls::Transport;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may wait for a peer that reads slowly.
const SEND_HIGH_WATER: usize = 128 * 1024;

pub struct H2Link {
    transport: Transport,
    /// What was received and not yet taken.
    received: Option<Buf>,
}

impl H2Link {
    pub fn new(transport: Transport) -> H2Link {
        H2Link { transport, received: None }
    }
}

impl AsyncRead for H2Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.received.is_none() {
            self.received = ready!(self.transport.poll_recv(cx))?;
        }
        // Nothing received is the end of the stream, which is told by reading nothing.
        let Some(buffer) = &mut self.received else { return Poll::Ready(Ok(())) };
        let taken = buffer.len().min(into.remaining());
        into.put_slice(&buffer[..taken]);
        buffer.advance(taken);
        if buffer.is_empty() {
            self.received = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for H2Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.transport.poll_send_ready(cx, SEND_HIGH_WATER))?;
        let buffer = Buf::copy_from(&bytes[..bytes.len().min(16 * 1024)]);
        let taken = buffer.len();
        self.transport.send(buffer);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport.shutdown_write();
        Poll::Ready(Ok(()))
    }
}
