//! gzip of bodies on their way: bounded in size, in the books, and polite to the other tasks of a worker.
//!
//! What is short is packed or unpacked in one go and keeps a length that can be announced. A longer body is packed as it passes, and
//! unpacked twice: once to see that it is whole and within its bound, once more as it goes out. So a body that unpacks to a thousand
//! times its size never takes more memory than its packed form and one buffer.

use base_runtime::Buf;
use base_runtime::memory::{Booking, Kind};
use bytes::{Buf as _, Bytes};
use edge_pipeline::body::SPARED_MOST;
use edge_pipeline::{Body, BodyError, BodyStream, Piece, Sight};
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use proto_http::Headers;
use std::io::{Read, Write};
use std::task::{Context, Poll};

/// Why a body did not come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GzipError {
    /// Not gzip, cut short, or with a wrong checksum.
    Corrupt,
    /// More bytes than the bound: most likely a bomb.
    TooLarge,
}

impl std::fmt::Display for GzipError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            GzipError::Corrupt => "the body is not gzip",
            GzipError::TooLarge => "the body unpacks to more than its bound",
        })
    }
}

/// The body that `packed` unpacks to, of at most `most` bytes.
pub(crate) async fn unpack(packed: Bytes, most: u64) -> Result<Body, GzipError> {
    let mut decoder = Decoder::new(packed.clone());
    let mut plain = Vec::new();
    let mut length = 0;
    let mut since_yield = 0;
    let mut turn = Buf::alloc();
    loop {
        turn.clear();
        let read = decoder.read_into(&mut turn).map_err(|_| GzipError::Corrupt)?;
        if read == 0 {
            break;
        }
        length += read as u64;
        if length > most {
            return Err(GzipError::TooLarge);
        }
        if length <= SPARED_MOST as u64 {
            plain.extend_from_slice(&turn);
        } else {
            plain = Vec::new();
        }
        since_yield += read;
        if since_yield >= YIELD_AFTER {
            since_yield = 0;
            base_runtime::yield_now().await;
        }
    }
    if length <= SPARED_MOST as u64 {
        return Ok(Body::full(plain));
    }
    Ok(Body::Stream(Box::new(Unpacking {
        decoder: Decoder::new(packed.clone()),
        packed,
        length,
        left: length,
        turn: 0,
    })))
}

/// Packs a body as it passes, or at once when it is in memory and short.
pub(crate) fn pack(body: Body) -> Body {
    match body.in_memory() {
        Some(plain) if plain.len() <= SPARED_MOST && !body.has_trailers() => {
            let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 3 + 64), Compression::new(LEVEL));
            // Writing to a Vec cannot fail, here and at the end.
            let _ = encoder.write_all(plain);
            Body::full(encoder.finish().unwrap_or_default())
        }
        _ => Body::Stream(Box::new(Packing {
            body,
            encoder: Some(GzEncoder::new(Vec::new(), Compression::new(LEVEL))),
            unsaid: false,
            failed: None,
            turn: 0,
            _booking: Booking::new(Kind::Bodies, ENCODER_BYTES),
        })),
    }
}

struct Packing {
    body: Body,
    /// `None` once the end was given out.
    encoder: Option<GzEncoder<Vec<u8>>>,
    /// Bytes went in that have not come out: they are brought out when the source pauses.
    unsaid: bool,
    /// How the source broke off, said after what came before it.
    failed: Option<BodyError>,
    /// Bytes that went in since others had a turn.
    turn: usize,
    _booking: Booking,
}

impl Packing {
    /// What went in and has not come out.
    fn flushed(&mut self) -> Option<Piece> {
        if !std::mem::take(&mut self.unsaid) {
            return None;
        }
        self.encoder.as_mut()?.flush().ok()?;
        self.made(1)
    }

    /// What the encoder has made so far, unless that is less than `least` bytes.
    fn made(&mut self, least: usize) -> Option<Piece> {
        let made = self.encoder.as_mut()?.get_mut();
        (made.len() >= least).then(|| Piece::Bytes(std::mem::take(made).into()))
    }
}

impl BodyStream for Packing {
    fn poll_piece(&mut self, cx: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        loop {
            if let Some(error) = self.failed {
                return Poll::Ready(Err(error));
            }
            let Some(encoder) = &mut self.encoder else { return Poll::Ready(Ok(None)) };
            if self.turn >= YIELD_AFTER_PACKING {
                self.turn = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.body.poll_piece(cx, Sight::Seen) {
                Poll::Ready(Err(error)) => {
                    self.failed = Some(error);
                    return Poll::Ready(self.flushed().map_or(Err(error), |piece| Ok(Some(piece))));
                }
                Poll::Ready(Ok(Some(piece))) => {
                    let _ = encoder.write_all(piece.seen());
                    self.turn += piece.len();
                    self.unsaid = true;
                    if let Some(made) = self.made(PIECE_LEAST) {
                        return Poll::Ready(Ok(Some(made)));
                    }
                }
                Poll::Ready(Ok(None)) => {
                    let rest = self.encoder.take().and_then(|encoder| encoder.finish().ok()).unwrap_or_default();
                    return Poll::Ready(Ok((!rest.is_empty()).then(|| Piece::Bytes(rest.into()))));
                }
                // An event must not wait for the next one.
                Poll::Pending => return self.flushed().map_or(Poll::Pending, |piece| Poll::Ready(Ok(Some(piece)))),
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        None
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.body.trailers()
    }
}

/// A body that was seen to unpack to `length` bytes.
struct Unpacking {
    packed: Bytes,
    decoder: Decoder,
    length: u64,
    left: u64,
    /// Bytes that came out since others had a turn.
    turn: usize,
}

impl BodyStream for Unpacking {
    fn poll_piece(&mut self, cx: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        if self.left == 0 {
            return Poll::Ready(Ok(None));
        }
        if self.turn >= YIELD_AFTER {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut buffer = Buf::alloc();
        match self.decoder.read_into(&mut buffer) {
            Ok(read) if read > 0 && read as u64 <= self.left => {
                self.left -= read as u64;
                self.turn += read;
                Poll::Ready(Ok(Some(Piece::Buf(buffer))))
            }
            _ => Poll::Ready(Err(BodyError::Malformed { status: 400 })),
        }
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.left)
    }

    fn again(&self) -> Option<Box<dyn BodyStream>> {
        let (packed, length) = (self.packed.clone(), self.length);
        Some(Box::new(Unpacking { decoder: Decoder::new(packed.clone()), packed, length, left: length, turn: 0 }))
    }
}

/// A decoder in the books. A body may have several members, one after another (RFC 1952 section 2.2).
struct Decoder {
    /// Of the current member; `None` after the last.
    member: Option<GzDecoder<bytes::buf::Reader<Bytes>>>,
    members: usize,
    _booking: Booking,
}

impl Decoder {
    fn new(packed: Bytes) -> Decoder {
        let member = Some(GzDecoder::new(packed.reader()));
        Decoder { member, members: 1, _booking: Booking::new(Kind::Bodies, DECODER_BYTES) }
    }

    /// Fills the free end of a buffer, with room left for the frame of a chunk. Says how many bytes came; none at the end.
    fn read_into(&mut self, buffer: &mut Buf) -> std::io::Result<usize> {
        let room = &mut buffer.spare_mut()[..Piece::MOST];
        let mut read = 0;
        while read < room.len() {
            let Some(member) = &mut self.member else { break };
            match member.read(&mut room[read..])? {
                0 => self.next_member()?,
                more => read += more,
            }
        }
        buffer.commit(read);
        Ok(read)
    }

    fn next_member(&mut self) -> std::io::Result<()> {
        let rest = self.member.take().map(GzDecoder::into_inner).filter(|rest| rest.get_ref().has_remaining());
        let Some(rest) = rest else { return Ok(()) };
        self.members += 1;
        if self.members > MEMBERS_MAX {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        self.member = Some(GzDecoder::new(rest));
        Ok(())
    }
}

/// Largest body an unpacking may give, in bytes: four times the limit of a collected body. Beyond it the filter's result is
/// `decompressFailed`, counted as `unpacked_body_bytes`.
pub(crate) const UNPACKED_MAX: u64 = 4 * edge_pipeline::exchange::DEFAULT_BODY_LIMIT;
/// Most members of a body. One that holds nothing costs microseconds and no output by which a turn is measured; those who pack in
/// blocks of 64 KiB need 256 for [`UNPACKED_MAX`]. Beyond it the body is refused as one that is not gzip.
const MEMBERS_MAX: usize = 1024;
/// Level 5 is where more time stops buying much size.
const LEVEL: u32 = 5;
/// A quarter of a megabyte takes about a millisecond to unpack.
const YIELD_AFTER: usize = 128 * 1024;
/// Packing takes ten times as long.
const YIELD_AFTER_PACKING: usize = 32 * 1024;
/// Packed bytes that are worth a piece of their own while more is coming.
const PIECE_LEAST: usize = 8 * 1024;
/// What a deflate state takes, in bytes: window, hash chains and the tables of two blocks.
const ENCODER_BYTES: usize = 320 * 1024;
/// What an inflate state takes, in bytes: mostly its window.
const DECODER_BYTES: usize = 48 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn member(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(LEVEL));
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn decoded(packed: Vec<u8>) -> std::io::Result<Vec<u8>> {
        let (mut decoder, mut buffer, mut plain) = (Decoder::new(packed.into()), Buf::alloc(), Vec::new());
        loop {
            buffer.clear();
            match decoder.read_into(&mut buffer)? {
                0 => return Ok(plain),
                _ => plain.extend_from_slice(&buffer),
            }
        }
    }

    /// Bytes and, without a pause, an end that is none.
    struct Breaks(Option<&'static [u8]>);

    impl BodyStream for Breaks {
        fn poll_piece(&mut self, _: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
            let bytes = self.0.take().ok_or(BodyError::Incomplete);
            Poll::Ready(bytes.map(|bytes| Some(Piece::Bytes(Bytes::from_static(bytes)))))
        }

        fn remaining(&self) -> Option<u64> {
            None
        }
    }

    #[test]
    fn what_came_before_a_break_goes_out_before_it() {
        let mut body = pack(Body::Stream(Box::new(Breaks(Some(b"all there is")))));
        let mut context = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(Ok(Some(piece))) = body.poll_piece(&mut context, Sight::Seen) else { panic!("nothing came") };
        let mut plain = Vec::new();
        let cut = GzDecoder::new(piece.seen()).read_to_end(&mut plain);
        assert!(cut.is_err() && plain == b"all there is");
        for _ in 0..2 {
            let polled = body.poll_piece(&mut context, Sight::Seen).map(|piece| piece.map(|_| ()));
            assert_eq!(polled, Poll::Ready(Err(BodyError::Incomplete)), "and it does not end well");
        }
    }

    #[test]
    fn members_follow_each_other_up_to_a_bound() {
        assert_eq!(decoded([member(b"one "), member(b""), member(b"two")].concat()).unwrap(), b"one two");
        assert_eq!(decoded(member(b"x").repeat(MEMBERS_MAX)).unwrap(), b"x".repeat(MEMBERS_MAX));
        // One read went through all members that hold nothing: 200,000 of them in a body of four megabytes.
        assert!(decoded(member(b"").repeat(MEMBERS_MAX + 1)).is_err());
        assert!(decoded([member(b"x"), b"no member".to_vec()].concat()).is_err());
        assert!(decoded(member(b"cut short")[..20].to_vec()).is_err());
    }
}
