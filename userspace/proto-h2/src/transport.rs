//! A worker's transport as the `h2` crate wants it: two poll traits.
//!
//! The crate writes once per larger DATA frame. What it writes is gathered here in one buffer until it flushes, which it does at the
//! end of each of its turns, so that the answers of many streams leave in one send (and one TLS record). Each byte is copied once on
//! its way out, into that buffer, and once on its way in, into the crate's own.
//!
//! Between turns no buffer is held.

use crate::watch::Watch;
use base_runtime::Buf;
use base_tls::Transport;
use std::cell::{Cell, RefCell};
use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that may wait for a peer that reads slowly. Beyond them the crate is told to wait; each stream keeps what it has.
const SEND_HIGH_WATER: usize = 128 * 1024;

/// The crate's end of a connection. See the module doc.
#[derive(Debug)]
pub struct Io(Rc<H2Link>);

/// The driver's end of the same connection.
#[derive(Debug)]
pub struct H2Link {
    transport: Transport,
    /// What was received and not yet taken.
    received: RefCell<Option<Buf>>,
    /// What was written and not yet flushed.
    gathered: RefCell<Option<Buf>>,
    /// Bytes the crate may still take in this turn.
    turn: Cell<usize>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    /// Sees what is received and sent, where the other side is watched.
    watch: Option<RefCell<Watch>>,
}

impl H2Link {
    /// A connection on which nothing of HTTP/2 was said yet.
    pub fn new(transport: Transport) -> Rc<H2Link> {
        H2Link::make(transport, None)
    }

    /// The same for the side that asks, and frames of the other side are watched.
    pub fn asking(transport: Transport) -> Rc<H2Link> {
        H2Link::make(transport, Some(RefCell::new(Watch::of_server(base_runtime::now()))))
    }

    fn make(transport: Transport, watch: Option<RefCell<Watch>>) -> Rc<H2Link> {
        Rc::new(H2Link {
            transport,
            received: RefCell::new(None),
            gathered: RefCell::new(None),
            turn: Cell::new(usize::MAX),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            watch,
        })
    }

    /// What is known of the other side's frames, where they are watched.
    pub fn watch(&self) -> Option<&RefCell<Watch>> {
        self.watch.as_ref()
    }

    /// What to hand to the crate.
    pub fn io(self: &Rc<Self>) -> Io {
        Io(self.clone())
    }

    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The crate reads as long as there is something to read, and frames are as small as nine bytes: so many bytes it may take until
    /// this is called again, then others have their turn.
    pub fn begin_turn(&self, bytes: usize) {
        self.turn.set(bytes);
    }

    /// Bytes the crate has read.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.get()
    }

    /// Bytes the crate has written.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out.get()
    }

    /// Of those, bytes that the kernel has not taken yet.
    pub fn waiting(&self) -> usize {
        self.gathered.borrow().as_ref().map_or(0, |buffer| buffer.len()) + self.transport.send_queue_len()
    }

    fn poll_received(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.received.borrow().is_none() {
            let received = ready!(self.transport.poll_recv(cx))?;
            if let (Some(watch), Some(bytes)) = (&self.watch, &received) {
                watch.borrow_mut().received(bytes, base_runtime::now());
            }
            *self.received.borrow_mut() = received;
        }
        Poll::Ready(Ok(()))
    }

    fn gather(&self, bytes: &[u8]) {
        if let Some(watch) = &self.watch {
            watch.borrow_mut().said(bytes);
        }
        let mut gathered = self.gathered.borrow_mut();
        let mut rest = bytes;
        loop {
            let buffer = gathered.get_or_insert_with(Buf::alloc);
            let taken = buffer.append(rest);
            rest = &rest[taken..];
            if rest.is_empty() {
                break;
            }
            self.send(gathered.take());
        }
        self.bytes_out.set(self.bytes_out.get() + bytes.len() as u64);
    }

    fn send(&self, gathered: Option<Buf>) {
        if let Some(buffer) = gathered.filter(|buffer| !buffer.is_empty()) {
            self.transport.send(buffer);
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let link = &self.0;
        if link.turn.get() == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(link.poll_received(cx))?;
        let mut received = link.received.borrow_mut();
        // Nothing received is the end of the stream, which is told by reading nothing.
        let Some(buffer) = &mut *received else { return Poll::Ready(Ok(())) };
        let taken = buffer.len().min(into.remaining()).min(link.turn.get());
        into.put_slice(&buffer[..taken]);
        buffer.advance(taken);
        if buffer.is_empty() {
            *received = None;
        }
        link.turn.set(link.turn.get() - taken);
        link.bytes_in.set(link.bytes_in.get() + taken as u64);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.0.transport.poll_send_ready(cx, SEND_HIGH_WATER))?;
        self.0.gather(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.0.transport.poll_send_ready(cx, SEND_HIGH_WATER))?;
        pieces.iter().for_each(|piece| self.0.gather(piece));
        Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Queues what was gathered. That the kernel takes it is not waited for: the next write is, when too much waits.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gathered = self.0.gathered.borrow_mut().take();
        self.0.send(gathered);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.0.transport.shutdown_write();
        Poll::Ready(Ok(()))
    }
}
