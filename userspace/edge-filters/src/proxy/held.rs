//! What is held until an answer has come to its end: the place of its request among those of a server.

use edge_pipeline::{Body, BodyError, BodyStream, Piece, Sight};
use edge_upstream::balance::load::Place;
use proto_http::Headers;
use std::task::{Context, Poll};

/// A backend's body with the place it takes. A body that is there already takes none any more.
pub struct HeldBody {
    body: Box<dyn BodyStream>,
    place: Option<Place>,
}

impl HeldBody {
    pub fn hold(body: Body, place: Option<Place>) -> Body {
        match (body, place) {
            (Body::Stream(body), Some(place)) => Body::Stream(Box::new(HeldBody { body, place: Some(place) })),
            (there, _) => there,
        }
    }
}

impl BodyStream for HeldBody {
    fn poll_piece(&mut self, cx: &mut Context<'_>, sight: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        let polled = self.body.poll_piece(cx, sight);
        if matches!(polled, Poll::Ready(Ok(None) | Err(_))) {
            self.place = None;
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
