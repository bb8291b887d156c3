//! A side of a tunnel that carries capsules, and whose datagrams may go beside its stream (RFC 9297).
//!
//! Whoever it is joined with finds a stream of capsules, as every version of HTTP has one: datagrams that come beside it are put between
//! two capsules, and those of the other side leave the stream while the peer takes them so. All other capsules pass as they are.
//!
//! Datagrams wait for nobody: what finds no room, or fits into no packet, is lost, as it would be on the way.

use crate::duplex::Duplex;
use base_runtime::Buf;
use base_runtime::memory::{Booking, Kind};
use bytes::Bytes;
use proto_h3::capsule::{self, Split, Splitter, Walk};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Datagrams that have come are handed on together, up to about so many bytes.
const GATHERED: usize = 16 * 1024;

/// What can be sent in one buffer.
const PIECE: usize = Buf::CAPACITY - Buf::HEADROOM;

/// Longest datagram that is taken of a peer; no packet that is not in pieces carries one so long.
const LONGEST: usize = PIECE - GATHERED - 16;

/// What goes beside a stream.
pub trait Datagrams {
    /// The content of the next that has come.
    fn poll_datagram(&self, cx: &mut Context<'_>) -> Poll<Bytes>;

    /// The peer takes them at this moment.
    fn takes_datagrams(&self) -> bool;

    /// Sends one, or drops it and counts that.
    fn send_datagram(&self, content: &[u8]);

    /// So many were dropped before they came here.
    fn count_dropped(&self, datagrams: u32);

    /// What passed were no whole capsules: the peer is told that this is malformed.
    fn break_off(&self);
}

/// See the module doc.
pub struct Capsules<S> {
    side: S,
    coming: Cell<Walk>,
    going: RefCell<Splitter>,
    booking: Booking,
}

impl<S: Duplex + Datagrams> Capsules<S> {
    pub fn new(side: S) -> Capsules<S> {
        Capsules { side, coming: Cell::default(), going: RefCell::default(), booking: Booking::new(Kind::Bodies, 0) }
    }

    fn poll_datagrams(&self, cx: &mut Context<'_>) -> Poll<Buf> {
        let mut capsules = Vec::new();
        while capsules.len() < GATHERED
            && let Poll::Ready(next) = self.side.poll_datagram(cx)
        {
            match next.len() <= LONGEST {
                true => capsule::write_datagram(&next, &mut capsules),
                false => self.side.count_dropped(1),
            }
        }
        match capsules.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(Buf::copy_from(&capsules)),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Capsules<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Capsules").field(&self.side).finish()
    }
}

impl<S: Duplex + Datagrams> Duplex for Capsules<S> {
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        let mut coming = self.coming.get();
        if coming.is_between()
            && let Poll::Ready(datagrams) = self.poll_datagrams(cx)
        {
            return Poll::Ready(Ok(Some(datagrams)));
        }
        match ready!(self.side.poll_recv(cx))? {
            Some(bytes) => {
                coming.pass(&bytes);
                self.coming.set(coming);
                Poll::Ready(Ok(Some(bytes)))
            }
            None if coming.is_between() => Poll::Ready(Ok(None)),
            None => {
                self.side.break_off();
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the stream ends within a capsule")))
            }
        }
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<()>> {
        self.side.poll_send_ready(cx, most)
    }

    fn send(&self, bytes: Buf) {
        let mut split = Split::default();
        let mut going = self.going.borrow_mut();
        going.handle(&bytes, self.side.takes_datagrams(), &mut split);
        self.booking.set(going.held());
        drop((going, bytes));
        split.datagrams.iter().for_each(|content| self.side.send_datagram(content));
        if split.too_long > 0 {
            self.side.count_dropped(split.too_long);
        }
        split.stream.chunks(PIECE).for_each(|piece| self.side.send(Buf::copy_from(piece)));
    }

    fn shutdown(&self) {
        match self.going.borrow().is_between() {
            true => self.side.shutdown(),
            false => self.side.break_off(),
        }
    }

    fn abort(&self) {
        self.side.abort();
    }

    fn is_heard(&self) -> bool {
        self.side.is_heard()
    }

    fn take_leave(&self) -> bool {
        self.side.take_leave()
    }

    fn silence_most(&self) -> Option<Duration> {
        self.side.silence_most()
    }
}

#[cfg(test)]
mod tests;
