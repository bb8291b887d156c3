//! Both directions of a stream of HTTP/3 after an extended CONNECT that its backend let through (RFC 9220), and the datagrams beside it.
//!
//! Each direction waits for its reader: the backend's credit grows as its bytes are taken, and of what the client says no more lies here
//! than whoever joins the two asks for.

use crate::h2_tunnel::kept;
use crate::h3_stream::{H3Stream, Next, Why};
use base_runtime::Buf;
use bytes::Bytes;
use edge_pipeline::{Datagrams, Duplex};
use proto_h2::Progress;
use proto_h3::Code;
use proto_h3::request::Event;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

/// See the module doc. Dropped before both directions have ended, the stream is reset.
pub(crate) struct H3Tunnel {
    /// The place on the connection, until nothing is left of the tunnel.
    place: Rc<H3Stream>,
    progress: Rc<Progress>,
}

impl H3Tunnel {
    pub(crate) fn new(place: Rc<H3Stream>) -> H3Tunnel {
        H3Tunnel { place, progress: Rc::default() }
    }
}

impl Datagrams for H3Tunnel {
    fn poll_datagram(&self, cx: &mut Context<'_>) -> Poll<Bytes> {
        self.place.stream().poll_datagram(cx)
    }

    fn takes_datagrams(&self) -> bool {
        self.place.stream().session().takes_datagrams()
    }

    fn send_datagram(&self, content: &[u8]) {
        let stream = self.place.stream();
        if !stream.is_shut() {
            stream.session().send_datagram(stream.id(), content);
        }
    }

    fn count_dropped(&self, datagrams: u32) {
        self.place.stream().session().count_dropped(datagrams.into());
    }

    fn break_off(&self) {
        let stream = self.place.stream();
        stream.session().counters.faults_h3.hit(base_runtime::worker_index());
        stream.abort(Code::Message, Why::Fault(Code::Message));
    }
}

impl fmt::Debug for H3Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "H3Tunnel({} bytes sent)", self.progress.written())
    }
}

impl Duplex for H3Tunnel {
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        let stream = self.place.stream();
        loop {
            match stream.poll_next(cx) {
                Next::Event(Event::Data(bytes)) if bytes.is_empty() => {}
                Next::Event(Event::Data(bytes)) => return Poll::Ready(Ok(Some(Buf::copy_from(&bytes)))),
                // Nothing but DATA comes over what has become a tunnel (RFC 9114 section 4.4).
                Next::Event(_) => {
                    stream.session().fail(Code::FrameUnexpected);
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                Next::Blocked => return Poll::Pending,
                Next::End => return Poll::Ready(Ok(None)),
                // The end, and that nothing more is wanted.
                Next::Broken(Why::Reset(code)) if code == u64::from(Code::NoError.value()) => {
                    return Poll::Ready(Ok(None));
                }
                Next::Broken(_) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<()>> {
        let stream = self.place.stream();
        if stream.is_shut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.progress.poll_waiting(most as u64, cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        // The backend may want no more meanwhile.
        match stream.poll_drained(cx) {
            Poll::Ready(()) if stream.is_shut() => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn send(&self, bytes: Buf) {
        let data = kept(bytes, &self.progress);
        self.place.stream().say_data(data.counted(&self.progress));
    }

    fn shutdown(&self) {
        let stream = self.place.stream();
        stream.session().end_datagrams(stream.id(), false);
        stream.say_end();
    }

    fn abort(&self) {
        self.place.stream().abort(Code::RequestCancelled, Why::Lost);
    }
}
