//! Both directions of a stream of HTTP/2 after an extended CONNECT that its backend let through (RFC 8441).
//!
//! Each direction waits for its reader: the backend's window opens as its bytes are taken, and of what the client says no more lies here
//! than whoever joins the two asks for.

use crate::attempt::Counters;
use crate::h2_exchange::{Place, run_on};
use base_runtime::Buf;
use edge_pipeline::Duplex;
use edge_pipeline::body::booked;
use proto_h2::client::Lost;
use proto_h2::frame::Code;
use proto_h2::{Data, Progress};
use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// A piece of this size, in bytes, is copied rather than kept in a buffer of its own while others wait before it.
const SMALL: usize = 4 * 1024;

/// See the module doc. Dropped before both directions have ended, the stream is reset; after that what was said last still goes out.
pub(crate) struct H2Tunnel {
    place: Rc<Place>,
    progress: Rc<Progress>,
    gone: Cell<bool>,
    /// All has been said.
    ended: Cell<bool>,
    counters: Arc<Counters>,
}

impl H2Tunnel {
    pub(crate) fn new(place: Rc<Place>, counters: Arc<Counters>) -> H2Tunnel {
        H2Tunnel { place, progress: Rc::default(), gone: Cell::new(false), ended: Cell::new(false), counters }
    }

    fn give(&self, data: Data, ends: bool) {
        if self.place.exchange.send_data(data.counted(&self.progress), ends).is_err() {
            self.gone.set(true);
        }
    }
}

/// What is sent of a buffer. While others wait for their turn a small piece is kept in memory of its own size: however many come, they
/// hold what they say.
pub(crate) fn kept(buffer: Buf, progress: &Progress) -> Data {
    match progress.handed() > progress.written() && buffer.len() <= SMALL {
        true => Data::from(booked(buffer.to_vec())),
        false => Data::from(buffer),
    }
}

impl fmt::Debug for H2Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "H2Tunnel({} bytes sent)", self.progress.written())
    }
}

impl Duplex for H2Tunnel {
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        let polled = ready!(self.place.exchange.poll_data(cx));
        self.place.lease.book();
        match polled {
            Ok(Some(bytes)) => Poll::Ready(Ok(Some(Buf::copy_from(&bytes)))),
            // The end, and that nothing more is wanted.
            Ok(None) | Err(Lost::Reset(Code::NO_ERROR)) => Poll::Ready(Ok(None)),
            Err(_) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<()>> {
        if self.gone.get() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.progress.poll_waiting(most as u64, cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        match self.place.exchange.poll_gone(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn send(&self, bytes: Buf) {
        self.give(kept(bytes, &self.progress), false);
    }

    fn shutdown(&self) {
        self.ended.set(true);
        self.give(Data::from(bytes::Bytes::new()), true);
    }

    fn abort(&self) {
        self.place.exchange.cancel();
    }
}

impl Drop for H2Tunnel {
    fn drop(&mut self) {
        let waits = self.progress.handed() > self.progress.written();
        // A worker that is gone sends nothing.
        if waits && self.ended.get() && self.place.exchange.is_whole() && base_runtime::try_worker_index().is_some() {
            run_on(self.place.clone(), self.progress.clone(), &self.counters);
        }
    }
}
