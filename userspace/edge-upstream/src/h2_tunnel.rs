//! Both directions of a stream of HTTP/2 after an extended CONNECT that its backend let through (RFC 8441).
//!
//! Each direction waits for its reader: the backend's window opens as its bytes are taken, and of what the client says no more lies here
//! than whoever joins the two asks for.

use crate::sessions::Stream;
use base_runtime::Buf;
use edge_pipeline::Duplex;
use edge_pipeline::body::booked;
use proto_h2::{Data, Progress, h2};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// A piece of this size, in bytes, is copied rather than kept in a buffer of its own while others wait before it.
const SMALL: usize = 4 * 1024;

/// See the module doc. Dropped before both directions have ended, the stream is reset.
pub(crate) struct H2Tunnel {
    incoming: RefCell<h2::RecvStream>,
    sending: RefCell<h2::SendStream<Data>>,
    progress: Rc<Progress>,
    /// The place on the connection, until nothing is left of the tunnel.
    lease: Rc<Stream>,
    gone: Cell<bool>,
}

impl H2Tunnel {
    pub(crate) fn new(incoming: h2::RecvStream, sending: h2::SendStream<Data>, lease: Rc<Stream>) -> H2Tunnel {
        let (incoming, sending) = (RefCell::new(incoming), RefCell::new(sending));
        H2Tunnel { incoming, sending, progress: Rc::default(), lease, gone: Cell::new(false) }
    }

    fn give(&self, data: Data, ends: bool) {
        if self.sending.borrow_mut().send_data(data.counted(&self.progress), ends).is_err() {
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
        let mut incoming = self.incoming.borrow_mut();
        loop {
            match ready!(incoming.poll_data(cx)) {
                Some(Ok(bytes)) => {
                    // Fails only for more than was received.
                    let _ = incoming.flow_control().release_capacity(bytes.len());
                    self.lease.took(bytes.len());
                    if !bytes.is_empty() {
                        return Poll::Ready(Ok(Some(Buf::copy_from(&bytes))));
                    }
                }
                // The end, and that nothing more is wanted.
                Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) => return Poll::Ready(Ok(None)),
                Some(Err(_)) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                None => return Poll::Ready(Ok(None)),
            }
        }
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<()>> {
        if self.gone.get() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.progress.poll_waiting(most as u64, cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        match self.sending.borrow_mut().poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn send(&self, bytes: Buf) {
        self.give(kept(bytes, &self.progress), false);
    }

    fn shutdown(&self) {
        self.give(Data::from(bytes::Bytes::new()), true);
    }

    fn abort(&self) {
        self.sending.borrow_mut().send_reset(h2::Reason::CANCEL);
    }
}

impl Drop for H2Tunnel {
    fn drop(&mut self) {
        self.lease.took(self.incoming.get_mut().flow_control().used_capacity());
    }
}
