//! A request's body as HTTP/1.1 frames it.

use crate::h1_stream::UNDERSCORES_DROPPED;
use crate::http_server::Local;
use crate::request_body::{BodyBroken, BodyClock, BodySource};
use base_runtime::Buf;
use base_tls::Transport;
use edge_pipeline::Piece;
use edge_pipeline::wire::{send_bytes, unframe};
use proto_http::Headers;
use proto_http::h1::BodyDecoder;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// See the module doc.
pub struct H1Body {
    stream: Transport,
    decoder: BodyDecoder,
    /// Came with the head.
    pending: Option<Buf>,
    /// Counts trailers that were left out.
    local: Rc<Local>,
}

impl H1Body {
    /// `pending` are bytes that came with the head.
    pub fn new(stream: Transport, decoder: BodyDecoder, pending: Option<Buf>, local: Rc<Local>) -> H1Body {
        H1Body { stream, decoder, pending, local }
    }
}

impl BodySource for H1Body {
    fn poll_next(&mut self, clock: &mut BodyClock, cx: &mut Context<'_>) -> Poll<Result<Option<Piece>, BodyBroken>> {
        while !self.decoder.is_done() {
            let mut buffer = match self.pending.take() {
                Some(buffer) => buffer,
                None => match ready!(self.stream.poll_recv(cx)) {
                    Ok(Some(buffer)) => buffer,
                    _ => return Poll::Ready(Err(BodyBroken::Gone)),
                },
            };
            clock.came(buffer.len() as u64, |since| since);
            let rest = unframe(&mut self.decoder, &mut buffer).map_err(|error| error.kind)?;
            if let Some(next_request) = rest {
                self.stream.unread(next_request);
            }
            if self.decoder.is_done() && self.decoder.dropped() > 0 {
                self.local.limit(UNDERSCORES_DROPPED);
            }
            if !buffer.is_empty() {
                return Poll::Ready(Ok(Some(Piece::Buf(buffer))));
            }
        }
        Poll::Ready(Ok(None))
    }

    fn is_done(&self) -> bool {
        self.decoder.is_done()
    }

    fn remaining(&self, _: u64) -> Option<u64> {
        self.decoder.remaining()
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.decoder.trailers()
    }

    fn send_continue(&mut self) {
        send_bytes(&self.stream, &[CONTINUE]);
    }
}
