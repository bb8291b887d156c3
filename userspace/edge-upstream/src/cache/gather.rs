//! A body that is collected while it passes.

use base_runtime::memory::{self, Booking, Kind};
use edge_pipeline::{Body, BodyError, BodyStream, Piece, Sight};
use proto_http::Headers;
use std::task::{Context, Poll};

/// What became of a body that was to be collected.
#[derive(Debug, PartialEq, Eq)]
pub enum Gathered {
    /// All of it. Trailer fields are not part of what is kept (RFC 9111 section 3.1 leaves that open).
    Whole(Vec<u8>),
    /// It is longer than it may be, or there was no memory for it.
    TooLarge,
    /// It broke off, or nobody read it to its end.
    BrokenOff,
}

/// The same body, collected as it passes: `then` is called once, at the latest when the body is dropped, and before its receiver sees
/// the end. At most `most` bytes are held.
pub fn gather(body: Body, most: usize, then: impl FnOnce(Gathered) + 'static) -> Body {
    if body.length().is_some_and(|length| length > most as u64) {
        then(Gathered::TooLarge);
        return body;
    }
    if let Some(bytes) = body.in_memory() {
        then(Gathered::Whole(bytes.to_vec()));
        return body;
    }
    let Body::Stream(stream) = body else { return body };
    let room = stream.remaining().unwrap_or(0).min(ANNOUNCED_MOST) as usize;
    let bytes = Vec::with_capacity(room);
    let booking = Booking::new(Kind::Bodies, bytes.capacity());
    Body::Stream(Box::new(Gathering { stream, bytes, booking, most, then: Some(Box::new(then)) }))
}

/// Room made at once for a body whose length is known, in bytes; beyond it room follows what has come.
const ANNOUNCED_MOST: u64 = 64 * 1024;

struct Gathering {
    stream: Box<dyn BodyStream>,
    bytes: Vec<u8>,
    booking: Booking,
    most: usize,
    /// `None` once it was called.
    then: Option<Box<dyn FnOnce(Gathered)>>,
}

impl Gathering {
    fn end(&mut self, whole: bool) {
        let Some(then) = self.then.take() else { return };
        let mut bytes = std::mem::take(&mut self.bytes);
        self.booking.set(0);
        if whole {
            bytes.shrink_to_fit();
            then(Gathered::Whole(bytes));
        } else {
            then(Gathered::BrokenOff);
        }
    }

    fn take(&mut self, piece: &Piece) {
        if self.bytes.len() + piece.len() > self.most || memory::is_over() {
            (self.bytes, self.most) = (Vec::new(), 0);
            self.booking.set(0);
            if let Some(then) = self.then.take() {
                then(Gathered::TooLarge);
            }
            return;
        }
        self.bytes.extend_from_slice(piece.seen());
        self.booking.set(self.bytes.capacity());
        if self.stream.remaining() == Some(0) {
            self.end(true);
        }
    }
}

impl BodyStream for Gathering {
    fn poll_piece(&mut self, cx: &mut Context<'_>, sight: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        if self.then.is_none() {
            return self.stream.poll_piece(cx, sight);
        }
        let polled = self.stream.poll_piece(cx, Sight::Seen);
        match &polled {
            Poll::Ready(Ok(Some(piece))) => self.take(piece),
            Poll::Ready(Ok(None)) => self.end(true),
            Poll::Ready(Err(_)) => self.end(false),
            Poll::Pending => {}
        }
        polled
    }

    fn remaining(&self) -> Option<u64> {
        self.stream.remaining()
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.stream.trailers()
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        self.end(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::task::Waker;

    struct Pieces(Vec<Result<&'static [u8], BodyError>>, Option<u64>);

    impl BodyStream for Pieces {
        fn poll_piece(&mut self, _: &mut Context<'_>, sight: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
            let _ = sight;
            if self.0.is_empty() {
                return Poll::Ready(Ok(None));
            }
            let next = self.0.remove(0);
            if let (Ok(bytes), Some(left)) = (&next, &mut self.1) {
                *left -= bytes.len() as u64;
            }
            Poll::Ready(next.map(|bytes| Some(Piece::Bytes(Bytes::from_static(bytes)))))
        }

        fn remaining(&self) -> Option<u64> {
            self.1
        }
    }

    /// What is told after so many polls, and then after the body was dropped.
    fn told(pieces: Vec<Result<&'static [u8], BodyError>>, length: Option<u64>, polls: usize) -> [Option<Gathered>; 2] {
        let heard = Rc::new(RefCell::new(None));
        let into = heard.clone();
        let stream = Body::Stream(Box::new(Pieces(pieces, length)));
        let mut body = gather(stream, 6, move |gathered| *into.borrow_mut() = Some(gathered));
        for _ in 0..polls {
            let _ = body.poll_piece(&mut Context::from_waker(Waker::noop()), Sight::Unseen);
        }
        let first = heard.borrow_mut().take();
        drop(body);
        [first, heard.borrow_mut().take()]
    }

    #[test]
    fn it_is_whole_at_its_end_and_only_then() {
        let whole = || Some(Gathered::Whole(b"abcdef".to_vec()));
        let pieces = || vec![Ok(&b"abc"[..]), Ok(b"def")];
        assert_eq!(told(pieces(), Some(6), 2), [whole(), None], "its last byte is its end");
        assert_eq!(told(pieces(), None, 2), [None, Some(Gathered::BrokenOff)]);
        assert_eq!(told(pieces(), None, 3), [whole(), None]);
        assert_eq!(told(pieces(), Some(6), 1), [None, Some(Gathered::BrokenOff)]);
        let broken = vec![Ok(&b"abc"[..]), Err(BodyError::Incomplete)];
        assert_eq!(told(broken, None, 2), [Some(Gathered::BrokenOff), None]);
        assert_eq!(told(vec![Ok(&b"abcdefg"[..])], None, 1), [Some(Gathered::TooLarge), None]);
        assert_eq!(told(vec![Ok(&b"abcdefg"[..])], Some(7), 0), [Some(Gathered::TooLarge), None]);
    }

    #[test]
    fn what_is_in_memory_is_whole_at_once() {
        let heard = Rc::new(RefCell::new(None));
        let into = heard.clone();
        let body = gather(Body::full("abc"), 3, move |gathered| *into.borrow_mut() = Some(gathered));
        assert_eq!(*heard.borrow(), Some(Gathered::Whole(b"abc".to_vec())));
        assert_eq!(body.in_memory(), Some(&b"abc"[..]));
    }
}
