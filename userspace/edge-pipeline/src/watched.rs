//! A body that somebody looks at while it passes, and that stays as it is.

use crate::body::{Body, BodyError, BodyStream, Piece, Sight};
use proto_http::Headers;
use std::task::{Context, Poll};

/// What a piece came to: the piece, the end, an error, or that there is nothing yet.
pub type Polled = Poll<Result<Option<Piece>, BodyError>>;

/// Who looks. What it holds is let go with the body.
pub trait Watch {
    /// The next piece is asked for.
    fn asks(&mut self) {}

    /// What came of it. `over`: nothing comes behind it, because it is the end, an error, or the last byte of a body whose length is known.
    fn came(&mut self, _polled: &Polled, _over: bool) {}

    /// The trailer fields, as they are handed on.
    fn ended(&mut self, _trailers: Option<&Headers>) {}
}

/// See the module doc.
pub struct Watched<W> {
    body: Box<dyn BodyStream>,
    watch: W,
}

impl<W: Watch + 'static> Watched<W> {
    /// A body that is there already passes nobody: `make` is not called for it.
    pub fn watch(body: Body, make: impl FnOnce() -> W) -> Body {
        match body {
            Body::Stream(body) => Body::Stream(Box::new(Watched { body, watch: make() })),
            there => there,
        }
    }
}

impl<W: Watch> BodyStream for Watched<W> {
    fn poll_piece(&mut self, cx: &mut Context<'_>, sight: Sight) -> Polled {
        self.watch.asks();
        let polled = self.body.poll_piece(cx, sight);
        let over = match &polled {
            Poll::Pending => false,
            Poll::Ready(Ok(Some(_))) => self.body.remaining() == Some(0),
            Poll::Ready(Ok(None) | Err(_)) => true,
        };
        self.watch.came(&polled, over);
        polled
    }

    fn remaining(&self) -> Option<u64> {
        self.body.remaining()
    }

    fn allowed(&self) -> Option<u64> {
        self.body.allowed()
    }

    fn trailers(&mut self) -> Option<Headers> {
        let trailers = self.body.trailers();
        self.watch.ended(trailers.as_ref());
        trailers
    }

    /// Nobody looks at it once more.
    fn again(&self) -> Option<Box<dyn BodyStream>> {
        self.body.again()
    }
}
