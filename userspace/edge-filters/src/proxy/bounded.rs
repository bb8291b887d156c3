//! A body that must not be longer than its limit, where nobody said beforehand how long it is.

use base_telemetry::Limit;
use edge_pipeline::{Body, BodyError, BodyStream, Piece, Sight};
use proto_http::Headers;
use std::task::{Context, Poll};

/// A backend's body that is counted as it passes. Beyond the limit it breaks off, so that its receiver sees that something is missing,
/// and the connection that brings it is given up.
pub struct Bounded {
    /// `None` once there was too much of it.
    body: Option<Box<dyn BodyStream>>,
    most: u64,
    left: u64,
    too_large: Limit,
}

impl Bounded {
    pub fn limit(body: Body, most: u64, too_large: &Limit) -> Body {
        match body {
            Body::Stream(body) => {
                Body::Stream(Box::new(Bounded { body: Some(body), most, left: most, too_large: too_large.clone() }))
            }
            there => there,
        }
    }
}

impl BodyStream for Bounded {
    fn poll_piece(&mut self, cx: &mut Context<'_>, sight: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Err(BodyError::TooLarge)) };
        let polled = body.poll_piece(cx, sight);
        if let Poll::Ready(Ok(Some(piece))) = &polled {
            match self.left.checked_sub(piece.len() as u64) {
                Some(left) => self.left = left,
                None => {
                    self.body = None;
                    self.too_large.hit(base_runtime::worker_index());
                    return Poll::Ready(Err(BodyError::TooLarge));
                }
            }
        }
        polled
    }

    fn remaining(&self) -> Option<u64> {
        self.body.as_ref().and_then(|body| body.remaining())
    }

    fn allowed(&self) -> Option<u64> {
        Some(self.most)
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.body.as_mut().and_then(|body| body.trailers())
    }
}
