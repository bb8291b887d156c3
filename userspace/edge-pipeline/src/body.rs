//! A message body: none, in memory, or still arriving.
//!
//! Whoever sends or reads one asks for it piece by piece ([`Body::poll_piece`]), whatever it is made of; after the last piece it gives
//! its trailers. Memory: what is in a buffer is booked by the runtime, what is made or gathered here is booked as bodies for as long as
//! anybody holds a part of it.

use crate::exchange::DEFAULT_BODY_LIMIT;
use base_runtime::Buf;
use base_runtime::memory::{self, Booking, Kind, SharedBooking};
use base_runtime::net::Pipe;
use bytes::Bytes;
use proto_http::Headers;
use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

/// Some bytes of a body, never none.
#[derive(Debug)]
pub enum Piece {
    /// In the buffer they were received in.
    Buf(Buf),
    /// In memory that others may hold, too. At most [`Piece::MOST`] of them when they come from a body in memory.
    Bytes(Bytes),
    /// In the kernel, on their way from one plain socket to another; only for those who ask for them [`Sight::Unseen`].
    Pipe(Pipe),
}

impl Piece {
    /// Most bytes a body in memory gives at a time: they find room in one buffer, with the frame of a chunk.
    pub const MOST: usize = Buf::CAPACITY - Buf::HEADROOM - proto_http::h1::CHUNK_END.len();

    pub fn len(&self) -> usize {
        match self {
            Piece::Buf(buffer) => buffer.len(),
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Pipe(pipe) => pipe.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes; none where they are in the kernel.
    pub fn seen(&self) -> &[u8] {
        match self {
            Piece::Buf(buffer) => buffer,
            Piece::Bytes(bytes) => bytes,
            Piece::Pipe(_) => &[],
        }
    }
}

/// Whether whoever asks for a piece looks at its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// They are wanted in memory.
    Seen,
    /// They are only sent on, to a socket that is not encrypted: those that come unchanged from such a socket may stay in the kernel.
    Unseen,
}

/// A body that arrives piece by piece. Dropping it unread gives up the rest (and the connection that brings it).
pub trait BodyStream {
    /// The next piece, `None` after the last. No [`Piece::Pipe`] when it is to be [`Sight::Seen`].
    fn poll_piece(&mut self, cx: &mut Context<'_>, sight: Sight) -> Poll<Result<Option<Piece>, BodyError>>;

    /// Bytes still to come, when the sender said so.
    fn remaining(&self) -> Option<u64>;

    /// Bytes a document lets it have, where one says a number: so many may be gathered, too.
    fn allowed(&self) -> Option<u64> {
        None
    }

    /// Trailer fields, once the end was seen.
    fn trailers(&mut self) -> Option<Headers> {
        None
    }

    /// The same body from its beginning, for one that is made out of what is in memory.
    fn again(&self) -> Option<Box<dyn BodyStream>> {
        None
    }
}

/// Why a body could not be had to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// More bytes than the limit that applies.
    TooLarge,
    /// The sender broke its framing or its coding. A client's request is answered with this status.
    Malformed { status: u16 },
    /// The connection ended or failed before the body did.
    Incomplete,
    /// No progress within the time allowed.
    TimedOut,
    /// The process has no memory left to gather it in.
    NoMemory,
    /// A filter that looks at the bytes as they pass will not let them. The answer has this status.
    Refused { status: u16 },
}

impl BodyError {
    /// What a request whose body failed so is answered with.
    pub fn request_status(self) -> u16 {
        match self {
            BodyError::TooLarge => 413,
            BodyError::TimedOut => 408,
            BodyError::Incomplete => 400,
            BodyError::NoMemory => 503,
            BodyError::Malformed { status } | BodyError::Refused { status } => status,
        }
    }

    /// Of a request's body: its sender merely stopped. What was answered without the rest is still its answer; a body that is not
    /// allowed, or not what it says it is, has none.
    pub fn spares_the_answer(self) -> bool {
        matches!(self, BodyError::Incomplete | BodyError::TimedOut)
    }

    /// What stands in place of an answer whose body failed so before anything of it was sent.
    pub fn response_status(self) -> u16 {
        match self {
            BodyError::Refused { status } => status,
            // As Easegress answers beyond `serverMaxBodySize`, and when a pool's time is over.
            BodyError::TooLarge => 500,
            BodyError::TimedOut => 408,
            BodyError::Malformed { .. } | BodyError::Incomplete | BodyError::NoMemory => 503,
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BodyError::TooLarge => "body exceeds its limit",
            BodyError::Malformed { .. } => "body is framed or coded wrongly",
            BodyError::Incomplete => "body ended early",
            BodyError::TimedOut => "body made no progress in time",
            BodyError::NoMemory => "no memory to gather the body in; see --memory-limit",
            BodyError::Refused { status } => return write!(f, "body was refused with status {status}"),
        })
    }
}

/// See the module doc.
#[derive(Default)]
pub enum Body {
    #[default]
    Empty,
    /// In memory, to its end.
    Full(Whole),
    /// The whole body, in the buffer it was received in.
    Buffer(Buf),
    Stream(Box<dyn BodyStream>),
}

/// A body in memory, with what came after it.
#[derive(Clone, Default)]
pub struct Whole {
    bytes: Bytes,
    trailers: Option<Box<Headers>>,
}

impl Whole {
    pub(crate) fn trailers_mut(&mut self) -> Option<&mut Headers> {
        self.trailers.as_deref_mut()
    }
}

impl Body {
    /// A body that was made for this message; it is booked.
    pub fn full(bytes: impl Into<Vec<u8>>) -> Body {
        Body::shared(booked(bytes.into()))
    }

    /// A body that is in memory for other reasons, of a document for example: not booked.
    pub fn shared(bytes: Bytes) -> Body {
        if bytes.is_empty() { Body::Empty } else { Body::Full(Whole { bytes, trailers: None }) }
    }

    /// Bytes still to come; `None` when only the end will tell.
    pub fn length(&self) -> Option<u64> {
        match self {
            Body::Empty => Some(0),
            Body::Full(whole) => Some(whole.bytes.len() as u64),
            Body::Buffer(buffer) => Some(buffer.len() as u64),
            Body::Stream(stream) => stream.remaining(),
        }
    }

    pub fn is_stream(&self) -> bool {
        matches!(self, Body::Stream(_))
    }

    /// The bytes when they are in memory already.
    pub fn in_memory(&self) -> Option<&[u8]> {
        match self {
            Body::Empty => Some(&[]),
            Body::Full(whole) => Some(&whole.bytes),
            Body::Buffer(buffer) => Some(buffer),
            Body::Stream(_) => None,
        }
    }

    /// The next piece, `None` after the last. A body in memory comes in windows of [`Piece::MOST`] bytes, so that whoever sends it
    /// can stop between them.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>, sight: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        match self {
            Body::Stream(stream) => stream.poll_piece(cx, sight),
            Body::Empty => Poll::Ready(Ok(None)),
            Body::Full(whole) => {
                let window = whole.bytes.len().min(Piece::MOST);
                let piece = (window > 0).then(|| Piece::Bytes(whole.bytes.split_to(window)));
                Poll::Ready(Ok(piece))
            }
            Body::Buffer(_) => match std::mem::take(self) {
                Body::Buffer(buffer) if !buffer.is_empty() => Poll::Ready(Ok(Some(Piece::Buf(buffer)))),
                _ => Poll::Ready(Ok(None)),
            },
        }
    }

    /// Trailer fields, once the end was seen. They are given once.
    pub fn trailers(&mut self) -> Option<Headers> {
        match self {
            Body::Full(whole) => whole.trailers.take().map(|trailers| *trailers),
            Body::Stream(stream) => stream.trailers(),
            Body::Empty | Body::Buffer(_) => None,
        }
    }

    /// Trailer fields of one in memory, which stay there.
    pub fn trailers_here(&self) -> Option<&Headers> {
        match self {
            Body::Full(whole) => whole.trailers.as_deref(),
            Body::Empty | Body::Buffer(_) | Body::Stream(_) => None,
        }
    }

    /// The same to be changed.
    pub fn trailers_here_mut(&mut self) -> Option<&mut Headers> {
        match self {
            Body::Full(whole) => whole.trailers_mut(),
            Body::Empty | Body::Buffer(_) | Body::Stream(_) => None,
        }
    }

    /// Other bytes in the place of those of one in memory; its trailers stay.
    pub fn set_bytes(&mut self, bytes: Vec<u8>) {
        let trailers = match self {
            Body::Full(whole) => whole.trailers.take(),
            Body::Empty | Body::Buffer(_) | Body::Stream(_) => None,
        };
        *self = match trailers {
            Some(trailers) => Body::Full(Whole { bytes: booked(bytes), trailers: Some(trailers) }),
            None => Body::full(bytes),
        };
    }

    /// It is in memory and fields come after it: its length cannot be announced where only chunks leave room for them.
    pub fn has_trailers(&self) -> bool {
        matches!(self, Body::Full(Whole { trailers: Some(trailers), .. }) if !trailers.is_empty())
    }

    /// The same body once more, for a second way: memory is shared. `None` for one that can be read only once. A buffer is copied,
    /// since a connection sends from buffers of its own.
    pub fn again(&self) -> Option<Body> {
        Some(match self {
            Body::Empty => Body::Empty,
            Body::Full(whole) => Body::Full(whole.clone()),
            Body::Buffer(buffer) if buffer.len() <= Buf::CAPACITY - Buf::HEADROOM => {
                Body::Buffer(Buf::copy_from(buffer))
            }
            Body::Buffer(buffer) => Body::full(&buffer[..]),
            Body::Stream(stream) => Body::Stream(stream.again()?),
        })
    }

    /// Reads a stream to its end into memory, at most `limit` bytes. Memory: what has arrived, plus one buffer; booked as bodies
    /// for as long as any part of it is kept. While the process is over its ceiling none grows beyond 64 KiB: what was let in before
    /// could fill memory many times over. After an error the body is empty.
    pub async fn collect(&mut self, limit: u64) -> Result<&Bytes, BodyError> {
        let collected = self.collect_or_leave(limit).await.err();
        if let Some(error) = collected {
            *self = Body::Empty;
            return Err(error);
        }
        Ok(self.whole())
    }

    /// Most bytes of it that a filter gathers which wants all of it: what `clientMaxBodySize` of a server or `serverMaxBodySize` of a pool
    /// lets in, and where neither says more, [`DEFAULT_BODY_LIMIT`].
    pub fn gathered_most(&self) -> u64 {
        let allowed = match self {
            Body::Stream(stream) => stream.allowed(),
            Body::Empty | Body::Full(_) | Body::Buffer(_) => None,
        };
        allowed.map_or(DEFAULT_BODY_LIMIT, |allowed| allowed.max(DEFAULT_BODY_LIMIT))
    }

    /// As [`collect`](Body::collect), all that the document [lets in](Body::gathered_most).
    pub async fn gather(&mut self) -> Result<&Bytes, BodyError> {
        let most = self.gathered_most();
        self.collect(most).await
    }

    /// As [`collect`](Body::collect); but one that is too long, or for which there is no memory, is as it was: what was read of it
    /// comes first again.
    pub async fn collect_or_leave(&mut self, limit: u64) -> Result<&Bytes, BodyError> {
        if self.length().is_some_and(|length| length > limit) {
            return Err(BodyError::TooLarge);
        }
        match std::mem::take(self) {
            Body::Stream(mut stream) => match gather(&mut *stream, limit).await {
                Ok(bytes) => {
                    let trailers = stream.trailers().map(Box::new);
                    *self = match trailers {
                        None if bytes.is_empty() => Body::Empty,
                        trailers => Body::Full(Whole { bytes, trailers }),
                    };
                }
                Err((error, read)) => {
                    if matches!(error, BodyError::TooLarge | BodyError::NoMemory) {
                        *self = Body::Stream(Box::new(Begun { read: booked(read), rest: stream }));
                    }
                    return Err(error);
                }
            },
            Body::Buffer(buffer) => *self = Body::full(&buffer[..]),
            there => *self = there,
        }
        Ok(self.whole())
    }

    /// The bytes of one that was gathered.
    fn whole(&self) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        match self {
            Body::Full(whole) => &whole.bytes,
            _ => &NONE,
        }
    }

    /// Reads at most `limit` bytes of it and keeps none; whether that was all.
    pub async fn discard(mut self, limit: u64) -> bool {
        let mut read = 0;
        loop {
            match poll_fn(|cx| self.poll_piece(cx, Sight::Seen)).await {
                Ok(Some(piece)) => read += piece.len() as u64,
                Ok(None) => return true,
                Err(_) => return false,
            }
            if read > limit {
                return false;
            }
        }
    }
}

/// With an error comes what was read before it.
async fn gather(stream: &mut dyn BodyStream, limit: u64) -> Result<Bytes, (BodyError, Vec<u8>)> {
    // What was announced is not yet there, and may never come.
    let announced = stream.remaining().unwrap_or(0).min(ANNOUNCED_MOST) as usize;
    let mut bytes = Vec::with_capacity(announced);
    let booking = Booking::new(Kind::Bodies, bytes.capacity());
    loop {
        let piece = match poll_fn(|cx| stream.poll_piece(cx, Sight::Seen)).await {
            Ok(Some(piece)) => piece,
            Ok(None) => return Ok(booked(bytes)),
            Err(error) => return Err((error, bytes)),
        };
        bytes.extend_from_slice(piece.seen());
        booking.set(bytes.capacity());
        if bytes.len() as u64 > limit {
            return Err((BodyError::TooLarge, bytes));
        }
        if bytes.len() > SPARED_MOST && memory::is_over() {
            return Err((BodyError::NoMemory, bytes));
        }
    }
}

/// A body of which the beginning was read already.
struct Begun {
    read: Bytes,
    rest: Box<dyn BodyStream>,
}

impl BodyStream for Begun {
    fn poll_piece(&mut self, cx: &mut Context<'_>, sight: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        if self.read.is_empty() {
            return self.rest.poll_piece(cx, sight);
        }
        let window = self.read.len().min(Piece::MOST);
        Poll::Ready(Ok(Some(Piece::Bytes(self.read.split_to(window)))))
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.rest.remaining()?.saturating_add(self.read.len() as u64))
    }

    fn allowed(&self) -> Option<u64> {
        self.rest.allowed()
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.rest.trailers()
    }
}

/// Room made at once for a body whose length is known, in bytes; beyond it room follows what has come.
const ANNOUNCED_MOST: u64 = 256 * 1024;

/// A body of this size is gathered even when memory runs out, in bytes: it ends soon.
pub const SPARED_MOST: usize = 64 * 1024;

/// A body of no more than this is not in the books: what a request takes beside it is more, and bounded with the connections there may
/// be, while every entry costs locked additions on lines of memory that all workers write to.
const UNBOOKED_MOST: usize = 1024;

/// Bytes that are in the books until nobody holds a part of them any more.
pub fn booked(bytes: Vec<u8>) -> Bytes {
    if bytes.capacity() <= UNBOOKED_MOST {
        return bytes.into();
    }
    if bytes.is_empty() {
        return Bytes::new();
    }
    let booking = SharedBooking::new(Kind::Bodies, bytes.capacity());
    Bytes::from_owner(Booked { bytes, _booking: booking })
}

struct Booked {
    bytes: Vec<u8>,
    _booking: SharedBooking,
}

impl AsRef<[u8]> for Booked {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Empty => f.write_str("Empty"),
            Body::Full(whole) => write!(f, "Full({} bytes)", whole.bytes.len()),
            Body::Buffer(buffer) => write!(f, "Buffer({} bytes)", buffer.len()),
            Body::Stream(stream) => write!(f, "Stream({:?} to come)", stream.remaining()),
        }
    }
}

#[cfg(test)]
mod tests;
