//! A body that holds a place among the requests under way until it has come.
//!
//! While its client is waited for, and no server, that is noted: such a place may be lent to others.

use edge_pipeline::{Body, BodyError, BodyStream, Piece, Sight};
use edge_upstream::adaptive::{Attended, Pass};
use proto_http::Headers;
use std::task::{Context, Poll};

/// A backend is busy with an answer until the last of it has been taken.
pub(crate) struct Placed {
    body: Box<dyn BodyStream>,
    place: Option<(Option<Attended>, Pass)>,
}

impl Placed {
    /// A body that is there already holds nothing.
    pub fn hold(body: Body, attended: Option<Attended>, pass: Pass) -> Body {
        match body {
            Body::Stream(body) if body.remaining() != Some(0) => {
                pass.reads();
                Body::Stream(Box::new(Placed { body, place: Some((attended, pass)) }))
            }
            there => there,
        }
    }
}

impl BodyStream for Placed {
    fn poll_piece(&mut self, cx: &mut Context<'_>, sight: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        if let Some((_, pass)) = &self.place {
            pass.asked();
        }
        let polled = self.body.poll_piece(cx, sight);
        let over = match &polled {
            Poll::Pending => false,
            Poll::Ready(Ok(Some(_))) => self.body.remaining() == Some(0),
            Poll::Ready(_) => true,
        };
        if over {
            self.place = None;
        }
        if let (Poll::Ready(_), Some((_, pass))) = (&polled, &self.place) {
            pass.handed();
        }
        polled
    }

    fn remaining(&self) -> Option<u64> {
        self.body.remaining()
    }

    fn allowed(&self) -> Option<u64> {
        self.body.allowed()
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.body.trailers()
    }
}
