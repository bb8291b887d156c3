//! A request's body as it comes over a stream, of HTTP/2 or of whatever machine has the same seam.

use crate::h1_stream::UNDERSCORES_DROPPED;
use crate::h2_connection::Streams;
use crate::http_server::Local;
use crate::request_body::{BodyBroken, BodyClock, BodySource};
use edge_pipeline::Piece;
use proto_h2::server::{self, Body, Stream};
use proto_http::{Headers, Response};
use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

/// See the module doc.
pub struct StreamBody<S: Stream> {
    body: S::Body,
    /// The way back, for `100 Continue`.
    stream: Rc<RefCell<S>>,
    /// Of its connection.
    streams: Rc<Streams>,
    /// Says what trailers may be.
    local: Rc<Local>,
    /// Bytes that were announced.
    length: Option<u64>,
    trailers: Option<Headers>,
}

impl<S: Stream> StreamBody<S> {
    /// `length`: bytes that were announced.
    pub fn new(
        body: S::Body,
        length: Option<u64>,
        stream: Rc<RefCell<S>>,
        streams: Rc<Streams>,
        local: Rc<Local>,
    ) -> StreamBody<S> {
        StreamBody { body, stream, streams, local, length, trailers: None }
    }
}

impl<S: Stream> BodySource for StreamBody<S> {
    fn poll_next(&mut self, clock: &mut BodyClock, cx: &mut Context<'_>) -> Poll<Result<Option<Piece>, BodyBroken>> {
        Poll::Ready(match ready!(self.body.poll_data(cx)) {
            Ok(Some(bytes)) => {
                let length = bytes.len() as u64;
                clock.came(length, |since| self.streams.could_send_since(since));
                Ok(Some(Piece::Bytes(bytes)))
            }
            Ok(None) => {
                if let Some((trailers, dropped)) = self.body.trailers(&self.local.live().limits)? {
                    if dropped > 0 {
                        self.local.limit(UNDERSCORES_DROPPED);
                    }
                    self.trailers = Some(trailers);
                }
                Ok(None)
            }
            Err(server::BodyBroken::Length) => Err(BodyBroken::Malformed { status: 400, limit: S::Body::LENGTH }),
            Err(server::BodyBroken::Gone) => Err(BodyBroken::Gone),
        })
    }

    /// Its trailers have to be looked at first.
    fn is_done(&self) -> bool {
        false
    }

    fn remaining(&self, read: u64) -> Option<u64> {
        self.length.map(|length| length.saturating_sub(read))
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.trailers.take()
    }

    fn send_continue(&mut self) {
        self.stream.borrow_mut().send_interim(&Response::with_status(100));
    }

    fn could_send_since(&self, since: Instant) -> Instant {
        self.streams.could_send_since(since)
    }
}
