//! Bodies (RFC 9112 sections 6 and 7): which bytes of the input belong to them, and where they end.
//!
//! ```text
//!        digits   blanks      ;          CRLF        data          CRLF
//!  ┌→ Size ──→ (Blank) ──→ (Extension) ──→ SizeLf ─→ Data ──→ DataCr ─→ DataLf ┐
//!  │                                         │ size 0                          │
//!  │                                         └────→ Trailers ──→ Done          │
//!  └───────────────────────────────────────────────────────────────────────────┘
//! ```

use super::fields::{Line, Reading, keeps_trailer, read_line};
use super::{Fault, Framing, FramingError};
use crate::bytes::hex;
use crate::headers::Headers;
use crate::limits::Limits;
use std::ops::Range;

/// Takes the framing off a body. Keeps no body bytes: what it finds are windows of the input.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
    /// Of [`Framing::Length`], or of the chunk being read.
    left: u64,
    /// Digits of the chunk size, or bytes of the extension, read so far.
    seen: u32,
    /// Extension bytes in excess of data.
    excess: u64,
    extension_bytes: u32,
    extension_excess: u32,
    trailer_bytes: u32,
    trailers: u32,
    reading: Reading,
    /// Lines that were mended.
    mended: u32,
    /// Trailers that were left out because of `_` in their names.
    dropped: u32,
    /// Allocated when there are trailers.
    tail: Option<Box<Tail>>,
}

#[derive(Debug, Default)]
struct Tail {
    /// The line that has not ended yet.
    line: Vec<u8>,
    bytes: usize,
    headers: Headers,
    count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Length,
    UntilClose,
    Size,
    Blank,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
    Done,
    Failed(Fault),
}

/// What [`BodyDecoder::decode`] found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Decoded {
    /// Bytes of the input that are dealt with; the rest is to be given again.
    pub consumed: usize,
    /// The part of the input that is body; empty when there was only framing.
    pub data: Range<usize>,
    /// Whether the body has ended. What is left of the input belongs to the next message.
    pub done: bool,
}

impl BodyDecoder {
    /// For the body of a request.
    pub fn new(framing: Framing, limits: &Limits) -> BodyDecoder {
        BodyDecoder::reading(framing, limits, Reading::of_request(limits))
    }

    /// For the body of an answer: blanks after a chunk's size, and before the colon of a trailer, are left out.
    pub fn of_answer(framing: Framing, limits: &Limits) -> BodyDecoder {
        BodyDecoder::reading(framing, limits, Reading::of_answer())
    }

    fn reading(framing: Framing, limits: &Limits, reading: Reading) -> BodyDecoder {
        let bound = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        BodyDecoder {
            state: match framing {
                Framing::Empty | Framing::Length(0) => State::Done,
                Framing::Length(_) => State::Length,
                Framing::Chunked => State::Size,
                Framing::UntilClose => State::UntilClose,
            },
            left: if let Framing::Length(n) = framing { n } else { 0 },
            seen: 0,
            excess: 0,
            extension_bytes: bound(limits.chunk_extension_bytes),
            extension_excess: bound(limits.chunk_extension_excess),
            trailer_bytes: bound(limits.trailer_bytes),
            trailers: bound(limits.trailers),
            reading,
            mended: 0,
            dropped: 0,
            tail: None,
        }
    }

    /// Looks at the input from where the last call stopped consuming, and finds at most one window of data.
    ///
    /// Call again with what was not consumed until it is empty or the body is done; incomplete framing is
    /// remembered, so nothing has to be given twice. An error is final. A body with a length, or until close, costs the
    /// same however long it is.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, FramingError> {
        match self.state {
            State::Length => {
                let len = input.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= len as u64;
                if self.left == 0 {
                    self.state = State::Done;
                }
                Ok(Decoded { consumed: len, data: 0..len, done: self.left == 0 })
            }
            State::UntilClose => Ok(Decoded { consumed: input.len(), data: 0..input.len(), done: false }),
            State::Done => Ok(Decoded { consumed: 0, data: 0..0, done: true }),
            State::Failed(fault) => Err(fault.into()),
            _ => self.decode_chunks(input).map_err(|fault| {
                self.state = State::Failed(fault);
                fault.into()
            }),
        }
    }

    /// The next `n` bytes of a body with a length pass without being looked at. Only as many as [`BodyDecoder::remaining`] says.
    pub fn pass(&mut self, n: u64) {
        debug_assert!(self.state == State::Length && n <= self.left);
        self.left = self.left.saturating_sub(n);
        if self.left == 0 {
            self.state = State::Done;
        }
    }

    /// The sender closed. Sound only for a body that lasts until then, or that is done.
    pub fn finish_at_eof(&mut self) -> Result<(), FramingError> {
        match self.state {
            State::Done | State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            State::Failed(fault) => Err(fault.into()),
            _ => {
                self.state = State::Failed(Fault::Truncated);
                Err(Fault::Truncated.into())
            }
        }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Trailer fields, once the body is done; those that may not come after a body were dropped.
    pub fn trailers(&mut self) -> Option<Headers> {
        if !self.is_done() {
            return None;
        }
        self.tail.take().map(|tail| tail.headers).filter(|headers| !headers.is_empty())
    }

    /// Lines with blanks that were left out so far.
    pub fn mended(&self) -> u32 {
        self.mended
    }

    /// Trailers that were left out so far because of `_` in their names, see [`Limits::underscores`].
    pub fn dropped(&self) -> u32 {
        self.dropped
    }

    /// Bytes that are still to come, when the head said how many there are.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length => Some(self.left),
            State::Done => Some(0),
            _ => None,
        }
    }

    fn decode_chunks(&mut self, input: &[u8]) -> Result<Decoded, Fault> {
        let mut data = 0..0;
        let mut at = 0;
        while let Some(&b) = input.get(at) {
            match self.state {
                State::Size => match hex(b) {
                    Some(digit) => {
                        self.seen += 1;
                        if self.seen > SIZE_DIGITS || self.left > i64::MAX as u64 >> 4 {
                            return Err(Fault::ChunkSize);
                        }
                        self.left = self.left << 4 | u64::from(digit);
                    }
                    None if self.seen == 0 => return Err(Fault::ChunkSize),
                    None => {
                        self.seen = 0;
                        self.state = match b {
                            b'\r' => State::SizeLf,
                            b';' => State::Extension,
                            b' ' | b'\t' => {
                                self.seen = 1;
                                State::Blank
                            }
                            b'\n' => return Err(Fault::BareLf),
                            _ => return Err(Fault::ChunkSize),
                        };
                    }
                },
                // RFC 9112 section 7.1.1 has "bad" white space before the semicolon, which is to be ignored.
                State::Blank => match b {
                    b' ' | b'\t' => {
                        self.seen += 1;
                        if self.seen > self.extension_bytes {
                            return Err(Fault::ChunkExtensionTooLarge);
                        }
                    }
                    b';' => {
                        self.excess += u64::from(self.seen);
                        self.seen = 0;
                        self.state = State::Extension;
                    }
                    b'\r' if self.reading.mend => {
                        self.mended += 1;
                        self.end_extension()?;
                    }
                    b'\n' => return Err(Fault::BareLf),
                    _ => return Err(Fault::ChunkSize),
                },
                State::Extension => match b {
                    b'\r' if self.seen == 0 => return Err(Fault::ChunkExtension),
                    b'\r' => self.end_extension()?,
                    b'\n' => return Err(Fault::BareLf),
                    b'\t' | 0x20..0x7f => {
                        self.seen += 1;
                        if self.seen > self.extension_bytes {
                            return Err(Fault::ChunkExtensionTooLarge);
                        }
                    }
                    _ => return Err(Fault::ChunkExtension),
                },
                State::SizeLf => {
                    if b != b'\n' {
                        return Err(Fault::BareCr);
                    }
                    self.seen = 0;
                    self.state = if self.left == 0 { State::Trailers } else { State::Data };
                }
                State::Data => {
                    // One window per call: the next chunk's data waits for the next one.
                    if !data.is_empty() {
                        break;
                    }
                    let len = (input.len() - at).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                    data = at..at + len;
                    at += len;
                    self.left -= len as u64;
                    if self.left == 0 {
                        self.state = State::DataCr;
                    }
                    continue;
                }
                State::DataCr => {
                    if b != b'\r' {
                        return Err(Fault::ChunkEnd);
                    }
                    self.state = State::DataLf;
                }
                State::DataLf => {
                    if b != b'\n' {
                        return Err(Fault::ChunkEnd);
                    }
                    self.state = State::Size;
                }
                State::Trailers => {
                    let (len, done) = self.read_trailers(&input[at..])?;
                    at += len;
                    if done {
                        self.state = State::Done;
                        break;
                    }
                    continue;
                }
                State::Length | State::UntilClose | State::Done | State::Failed(_) => break,
            }
            at += 1;
        }
        Ok(Decoded { consumed: at, data, done: self.state == State::Done })
    }

    /// Holds what a size line had beside the size against the data it announces.
    fn end_extension(&mut self) -> Result<(), Fault> {
        self.excess = (self.excess + u64::from(self.seen)).saturating_sub(self.left);
        if self.excess > u64::from(self.extension_excess) {
            return Err(Fault::ChunkExtensionTooLarge);
        }
        self.state = State::SizeLf;
        Ok(())
    }

    /// Takes one line, or what there is of it. Answers how much was taken and whether it was the empty line at the end.
    fn read_trailers(&mut self, input: &[u8]) -> Result<(usize, bool), Fault> {
        if self.tail.is_none() && input.starts_with(b"\r\n") {
            return Ok((2, true));
        }
        let tail = self.tail.get_or_insert_default();
        let len = memchr::memchr(b'\n', input).map_or(input.len(), |at| at + 1);
        tail.bytes += len;
        tail.line.extend_from_slice(&input[..len]);
        match read_line(&tail.line, 0, self.reading)? {
            Line::End { .. } => return Ok((len, true)),
            Line::Field { name, value, underscore, mended, .. } => {
                tail.count += 1;
                if tail.count > self.trailers as usize {
                    return Err(Fault::TooManyTrailers);
                }
                if tail.bytes > self.trailer_bytes as usize {
                    return Err(Fault::TrailersTooLarge);
                }
                let (name, value) = (&tail.line[name.0..name.1], &tail.line[value.0..value.1]);
                self.mended += u32::from(mended);
                if keeps_trailer(name, underscore, self.reading.underscores, &mut self.dropped)? {
                    tail.headers.add(name, value);
                }
                tail.line.clear();
            }
            Line::Partial if tail.bytes > self.trailer_bytes as usize => return Err(Fault::TrailersTooLarge),
            Line::Partial => {}
        }
        Ok((len, false))
    }
}

/// 2⁶³ − 1 has sixteen digits; longer ones are leading zeros, which only attacks send.
const SIZE_DIGITS: u32 = 16;
