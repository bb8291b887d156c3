//! A message body: none, in memory, or still arriving.

use base_runtime::Buf;
use base_runtime::memory::{self, Booking, Kind, SharedBooking};
use base_runtime::net::Piece;
use bytes::Bytes;
use proto_http::Headers;
use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

/// A body that arrives piece by piece. Dropping it unread gives up the rest (and the connection that brings it).
pub trait BodyStream {
    /// The next piece, `None` after the last. Pieces are never empty.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Buf>, BodyError>>;

    /// As [`BodyStream::poll_data`], for one who can send on bytes without seeing them, to a socket that is not encrypted. One that
    /// brings its bytes unchanged from such a socket leaves them in the kernel where that pays.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Piece>, BodyError>> {
        self.poll_data(cx).map_ok(|piece| piece.map(Piece::Buf))
    }

    /// Bytes still to come, when the sender said so.
    fn remaining(&self) -> Option<u64>;

    /// Trailer fields, once the end was seen.
    fn trailers(&mut self) -> Option<Headers> {
        None
    }
}

/// Why a body could not be had to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// More bytes than the limit that applies.
    TooLarge,
    /// The sender broke the framing of HTTP.
    Malformed,
    /// The connection ended or failed before the body did.
    Incomplete,
    /// No progress within the time allowed.
    TimedOut,
    /// The process has no memory left to gather it in.
    NoMemory,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BodyError::TooLarge => "body exceeds its limit",
            BodyError::Malformed => "body is framed wrongly",
            BodyError::Incomplete => "body ended early",
            BodyError::TimedOut => "body made no progress in time",
            BodyError::NoMemory => "no memory to gather the body in; see --memory-limit",
        })
    }
}

/// See the module doc.
#[derive(Default)]
pub enum Body {
    #[default]
    Empty,
    Full(Bytes),
    /// The whole body, in the buffer it was received in.
    Buffer(Buf),
    Stream(Box<dyn BodyStream>),
}

impl Body {
    pub fn full(bytes: impl Into<Bytes>) -> Body {
        let bytes = bytes.into();
        if bytes.is_empty() { Body::Empty } else { Body::Full(bytes) }
    }

    /// Bytes still to come; `None` when only the end will tell.
    pub fn length(&self) -> Option<u64> {
        match self {
            Body::Empty => Some(0),
            Body::Full(bytes) => Some(bytes.len() as u64),
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
            Body::Full(bytes) => Some(bytes),
            Body::Buffer(buffer) => Some(buffer),
            Body::Stream(_) => None,
        }
    }

    /// Reads a stream to its end into memory, at most `limit` bytes. Memory: what has arrived, plus one buffer; booked as bodies
    /// for as long as any part of it is kept. While the process is over its ceiling none grows beyond 64 KiB: what was let in before
    /// could fill memory many times over. After an error the body is empty.
    pub async fn collect(&mut self, limit: u64) -> Result<&Bytes, BodyError> {
        if let Body::Stream(stream) = self {
            if stream.remaining().is_some_and(|n| n > limit) {
                *self = Body::Empty;
                return Err(BodyError::TooLarge);
            }
            // What was announced is not yet there, and may never come.
            let announced = stream.remaining().unwrap_or(0).min(ANNOUNCED_MOST) as usize;
            let mut bytes = Vec::with_capacity(announced);
            let booking = Booking::new(Kind::Bodies, bytes.capacity());
            loop {
                match poll_fn(|cx| stream.poll_data(cx)).await {
                    Ok(Some(piece)) => {
                        if bytes.len() as u64 + piece.len() as u64 > limit {
                            *self = Body::Empty;
                            return Err(BodyError::TooLarge);
                        }
                        if bytes.len() + piece.len() > SPARED_MOST && memory::is_over() {
                            *self = Body::Empty;
                            return Err(BodyError::NoMemory);
                        }
                        bytes.extend_from_slice(&piece);
                        booking.set(bytes.capacity());
                    }
                    Ok(None) => break,
                    Err(error) => {
                        *self = Body::Empty;
                        return Err(error);
                    }
                }
            }
            *self = Body::Full(Collected::keep(bytes));
        }
        if let Body::Buffer(buffer) = self {
            if buffer.len() as u64 > limit {
                *self = Body::Empty;
                return Err(BodyError::TooLarge);
            }
            *self = Body::Full(Collected::keep(buffer.to_vec()));
        }
        static NONE: Bytes = Bytes::new();
        match self {
            Body::Full(bytes) => Ok(bytes),
            _ => Ok(&NONE),
        }
    }
}

/// Room made at once for a body whose length is known, in bytes; beyond it room follows what has come.
const ANNOUNCED_MOST: u64 = 256 * 1024;

/// A body of this size is gathered even when memory runs out, in bytes: it ends soon.
const SPARED_MOST: usize = 64 * 1024;

/// A body in memory, in the books until nobody holds a part of it any more.
struct Collected {
    bytes: Vec<u8>,
    _booking: SharedBooking,
}

impl Collected {
    fn keep(bytes: Vec<u8>) -> Bytes {
        if bytes.is_empty() {
            return Bytes::new();
        }
        let booking = SharedBooking::new(Kind::Bodies, bytes.capacity());
        Bytes::from_owner(Collected { bytes, _booking: booking })
    }
}

impl AsRef<[u8]> for Collected {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Empty => f.write_str("Empty"),
            Body::Full(bytes) => write!(f, "Full({} bytes)", bytes.len()),
            Body::Buffer(buffer) => write!(f, "Buffer({} bytes)", buffer.len()),
            Body::Stream(stream) => write!(f, "Stream({:?} to come)", stream.remaining()),
        }
    }
}
