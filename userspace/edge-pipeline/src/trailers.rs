//! Trailer fields of a request on its way to a backend. Some backends take them for part of the head, which filters have checked and
//! changed by then: what the head says, or what a filter has taken out of it, no trailer says again.

use crate::body::{Body, BodyError, BodyStream, Piece, Sight};
use base_telemetry::Limit;
use proto_http::Headers;
use std::task::{Context, Poll};

/// Holds the trailers of `body` to `head`, as it is sent. Counts messages that lose some.
pub fn guard(body: &mut Body, head: &Headers, dropped: &Limit) {
    match body {
        Body::Stream(_) => {
            if let Body::Stream(body_of) = std::mem::take(body) {
                let (head, dropped) = (head.clone(), dropped.clone());
                *body = Body::Stream(Box::new(Guarded { body: body_of, head, dropped }));
            }
        }
        Body::Full(whole) => {
            if let Some(trailers) = whole.trailers_mut() {
                hold(trailers, head, dropped);
            }
        }
        Body::Empty | Body::Buffer(_) => {}
    }
}

fn hold(trailers: &mut Headers, head: &Headers, dropped: &Limit) {
    let had = trailers.len();
    trailers.retain(|name| !head.has_alike(name) && !head.is_ruled(name));
    if trailers.len() < had {
        dropped.hit(base_runtime::current_worker().map_or(usize::MAX, |worker| worker.index()));
    }
}

struct Guarded {
    body: Box<dyn BodyStream>,
    head: Headers,
    dropped: Limit,
}

impl BodyStream for Guarded {
    fn poll_piece(&mut self, cx: &mut Context<'_>, sight: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        self.body.poll_piece(cx, sight)
    }

    fn remaining(&self) -> Option<u64> {
        self.body.remaining()
    }

    fn allowed(&self) -> Option<u64> {
        self.body.allowed()
    }

    fn trailers(&mut self) -> Option<Headers> {
        let mut trailers = self.body.trailers()?;
        hold(&mut trailers, &self.head, &self.dropped);
        Some(trailers)
    }

    fn again(&self) -> Option<Box<dyn BodyStream>> {
        let (body, head, dropped) = (self.body.again()?, self.head.clone(), self.dropped.clone());
        Some(Box::new(Guarded { body, head, dropped }))
    }
}
