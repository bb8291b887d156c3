use super::*;
use std::task::Waker;

struct Pieces {
    left: Vec<&'static [u8]>,
    trailers: Option<Headers>,
}

impl BodyStream for Pieces {
    fn poll_piece(&mut self, _: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        Poll::Ready(Ok((!self.left.is_empty()).then(|| Piece::Bytes(Bytes::from_static(self.left.remove(0))))))
    }

    fn remaining(&self) -> Option<u64> {
        None
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.trailers.take()
    }
}

fn ready<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("it waits for something"),
    }
}

fn lengths(body: &mut Body) -> Vec<usize> {
    let mut piece = || ready(poll_fn(|cx| body.poll_piece(cx, Sight::Seen))).unwrap();
    std::iter::from_fn(|| piece().map(|piece| piece.len())).collect()
}

#[test]
fn a_body_in_memory_comes_in_windows() {
    let most = Piece::MOST;
    for (size, windows) in [(0, vec![]), (1, vec![1]), (most, vec![most]), (2 * most + 7, vec![most, most, 7])] {
        let mut body = Body::full(vec![b'x'; size]);
        let mut again = body.again().unwrap();
        assert_eq!(body.length(), Some(size as u64));
        assert_eq!(lengths(&mut body), windows);
        assert_eq!(body.length(), Some(0));
        assert_eq!(lengths(&mut again), windows, "another way begins at the beginning");
    }
    let mut body = Body::Buffer(Buf::copy_from(&[b'x'; 500]));
    let mut again = body.again().unwrap();
    assert_eq!((lengths(&mut body), lengths(&mut again)), (vec![500], vec![500]));
}

/// As long as a document says.
struct Allowed(Pieces, Option<u64>);

impl BodyStream for Allowed {
    fn poll_piece(&mut self, cx: &mut Context<'_>, sight: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        self.0.poll_piece(cx, sight)
    }

    fn remaining(&self) -> Option<u64> {
        None
    }

    fn allowed(&self) -> Option<u64> {
        self.1
    }
}

#[test]
fn as_much_is_gathered_as_the_document_lets_in() {
    static MEBIBYTE: [u8; 1024 * 1024] = [b'x'; 1024 * 1024];
    for (allowed, mebibytes, fits) in
        [(None, 4, true), (None, 5, false), (Some(10), 4, true), (Some(6 << 20), 6, true), (Some(6 << 20), 7, false)]
    {
        let left = vec![&MEBIBYTE[..]; mebibytes];
        let mut body = Body::Stream(Box::new(Allowed(Pieces { left, trailers: None }, allowed)));
        let most = body.gathered_most();
        // What was begun and left knows it still.
        assert!(ready(body.collect_or_leave(10)).is_err());
        assert_eq!(body.gathered_most(), most);
        let gathered = ready(body.gather()).map(|bytes| bytes.len());
        assert_eq!(gathered, if fits { Ok(mebibytes << 20) } else { Err(BodyError::TooLarge) });
    }
}

#[test]
fn trailers_outlive_the_gathering_of_a_body() {
    for left in [vec![&b"ab"[..], b"c"], vec![]] {
        let mut trailers = Headers::new();
        trailers.add("Digest", "d");
        let length = left.concat().len() as u64;
        let mut body = Body::Stream(Box::new(Pieces { left, trailers: Some(trailers) }));
        assert!(!body.has_trailers());
        assert_eq!(ready(body.collect(100)).unwrap().len() as u64, length);
        assert!(body.has_trailers());
        assert_eq!(body.again().unwrap().trailers().unwrap().text("Digest"), Some("d"));
        lengths(&mut body);
        assert_eq!(body.trailers().unwrap().text("Digest"), Some("d"));
        assert!(body.trailers().is_none(), "they are given once");
    }
    let mut body = Body::Stream(Box::new(Pieces { left: vec![b"abc"], trailers: None }));
    assert_eq!(ready(body.collect(2)).unwrap_err(), BodyError::TooLarge);
    assert_eq!(body.length(), Some(0));
    assert!(!Body::full("abc").has_trailers());
}

#[test]
fn a_body_that_is_too_long_to_gather_can_be_left_as_it_was() {
    let stream = || {
        let mut trailers = Headers::new();
        trailers.add("Digest", "d");
        let left = vec![&b"ab"[..], b"cde", b"f", b"g"];
        Body::Stream(Box::new(Pieces { left, trailers: Some(trailers) }))
    };
    let mut body = stream();
    assert_eq!(ready(body.collect_or_leave(4)).unwrap_err(), BodyError::TooLarge);
    assert!(body.is_stream() && body.length().is_none());
    let mut read = Vec::new();
    while let Some(piece) = ready(poll_fn(|cx| body.poll_piece(cx, Sight::Seen))).unwrap() {
        read.extend_from_slice(piece.seen());
    }
    assert_eq!(read, b"abcdefg");
    assert!(body.trailers().is_some());
    // One whose length is known is not begun.
    let mut body = Body::full(vec![b'x'; 10]);
    assert_eq!(ready(body.collect_or_leave(4)).unwrap_err(), BodyError::TooLarge);
    assert_eq!(body.length(), Some(10));
    // What is gathered or nothing at all leaves nothing.
    let mut body = stream();
    assert_eq!(ready(body.collect(4)).unwrap_err(), BodyError::TooLarge);
    assert_eq!(body.length(), Some(0));
}
