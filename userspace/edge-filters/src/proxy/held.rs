//! What is held until an answer has come to its end: the place of its request among those of a server.

use base_runtime::Buf;
use base_runtime::net::TcpStream;
use edge_pipeline::{Body, BodyError, BodyStream, Duplex, Piece, Sight};
use edge_upstream::balance::load::Place;
use proto_http::Headers;
use std::fmt;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

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

/// A tunnel to a backend with the place it takes.
pub struct HeldDuplex {
    side: Box<dyn Duplex>,
    _place: Place,
}

impl HeldDuplex {
    pub fn hold(side: Box<dyn Duplex>, place: Option<Place>) -> Box<dyn Duplex> {
        match place {
            Some(place) => Box::new(HeldDuplex { side, _place: place }),
            None => side,
        }
    }
}

impl fmt::Debug for HeldDuplex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.side.fmt(f)
    }
}

impl Duplex for HeldDuplex {
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        self.side.poll_recv(cx)
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<()>> {
        self.side.poll_send_ready(cx, most)
    }

    fn send(&self, bytes: Buf) {
        self.side.send(bytes);
    }

    fn shutdown(&self) {
        self.side.shutdown();
    }

    fn abort(&self) {
        self.side.abort();
    }

    fn is_heard(&self) -> bool {
        self.side.is_heard()
    }

    fn take_leave(&self) -> bool {
        self.side.take_leave()
    }

    fn silence_most(&self) -> Option<Duration> {
        self.side.silence_most()
    }

    fn plain(&self) -> Option<&TcpStream> {
        self.side.plain()
    }
}
