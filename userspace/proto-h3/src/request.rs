//! One request stream, as either side reads it (RFC 9114 section 4.1): a head, a body, trailers. Before the head of an answer there may be
//! interim ones.

use crate::code::{Code, Fault};
use crate::frame::{self, Reader};
use bytes::{Buf, Bytes};

/// What has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The field section of the head.
    Head(Vec<u8>),
    /// The head is longer than is read. It is thrown away as it comes.
    HeadTooLarge,
    /// Bytes of the body; never none.
    Data(Bytes),
    /// The field section of the trailers.
    Trailers(Vec<u8>),
    /// As for the head.
    TrailersTooLarge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Start,
    Body,
    /// After trailers: nothing more but what nobody knows.
    Trailed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Payload {
    Section,
    Data,
    Skipped,
}

/// See the module doc.
#[derive(Debug)]
pub struct Receiving {
    reader: Reader,
    stage: Stage,
    payload: Payload,
    /// Of the field section that is coming.
    block: Vec<u8>,
    /// Largest field section that is read, in bytes as it comes.
    section_most: usize,
    /// What led nowhere since it was last asked, see [`Receiving::take_idle`].
    idle: u32,
}

impl Receiving {
    /// A stream of which nothing has come. Field sections longer than `section_most` bytes are not read.
    pub fn new(section_most: usize) -> Receiving {
        Receiving {
            reader: Reader::default(),
            stage: Stage::Start,
            payload: Payload::Skipped,
            block: Vec::new(),
            section_most,
            idle: 0,
        }
    }

    /// Takes bytes from the front of `input` until something has come; `None` when all of them are taken.
    pub fn handle(&mut self, input: &mut Bytes) -> Result<Option<Event>, Fault> {
        while !input.is_empty() {
            let event = if self.reader.left() > 0 { self.take_payload(input) } else { self.take_header(input)? };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// The stream has ended. An error: in the wrong place.
    pub fn handle_end(&mut self) -> Result<(), Fault> {
        if !self.reader.is_between() {
            // A frame that is cut off (section 7.1).
            return Err(Fault::Connection(Code::Frame));
        }
        match self.stage {
            Stage::Start => Err(Fault::Stream(Code::RequestIncomplete)),
            Stage::Body | Stage::Trailed => Ok(()),
        }
    }

    /// The head that came is that of an interim answer: another one follows.
    pub fn expect_head(&mut self) {
        self.stage = Stage::Start;
    }

    /// A head has begun to come and is not complete, or nothing has come at all.
    pub fn awaits_head(&self) -> bool {
        self.stage == Stage::Start || (self.payload == Payload::Section && self.reader.left() > 0)
    }

    /// Bytes that are kept of a field section that is coming.
    pub fn held(&self) -> usize {
        self.block.capacity()
    }

    /// Frames since this was last asked that led nowhere: empty ones, and those nobody knows.
    pub fn take_idle(&mut self) -> u32 {
        std::mem::take(&mut self.idle)
    }

    fn take_header(&mut self, input: &mut Bytes) -> Result<Option<Event>, Fault> {
        let mut rest = &input[..];
        let begun = self.reader.begin(&mut rest);
        input.advance(input.len() - rest.len());
        let Some((kind, length)) = begun else { return Ok(None) };
        let unexpected = Err(Fault::Connection(Code::FrameUnexpected));
        match (kind, self.stage) {
            (frame::HEADERS, Stage::Start | Stage::Body) => {
                let head = self.stage == Stage::Start;
                self.stage = if head { Stage::Body } else { Stage::Trailed };
                if length > self.section_most as u64 {
                    self.payload = Payload::Skipped;
                    return Ok(Some(if head { Event::HeadTooLarge } else { Event::TrailersTooLarge }));
                }
                self.payload = Payload::Section;
                if length == 0 {
                    return Ok(Some(self.section()));
                }
                Ok(None)
            }
            (frame::DATA, Stage::Body) => {
                self.payload = Payload::Data;
                self.idle += u32::from(length == 0);
                Ok(None)
            }
            // Pushes are promised by servers (section 7.2.5); the others belong on the control stream (section 7.2).
            (frame::HEADERS | frame::DATA, _) => unexpected,
            (frame::CANCEL_PUSH | frame::SETTINGS | frame::PUSH_PROMISE | frame::GOAWAY | frame::MAX_PUSH_ID, _) => {
                unexpected
            }
            (kind, _) if frame::is_reserved(kind) => unexpected,
            _ => {
                self.payload = Payload::Skipped;
                self.idle += 1;
                Ok(None)
            }
        }
    }

    fn take_payload(&mut self, input: &mut Bytes) -> Option<Event> {
        let there = usize::try_from(self.reader.left()).unwrap_or(usize::MAX).min(input.len());
        let taken = input.split_to(there);
        self.reader.took(there);
        match self.payload {
            Payload::Data => Some(Event::Data(taken)),
            Payload::Skipped => None,
            Payload::Section => {
                if self.block.is_empty() {
                    // As long as announced, which is bounded, but not before it comes: an announcement alone costs nothing.
                    self.block.reserve_exact(there.max(self.reader.left().min(FIRST_BYTES as u64) as usize));
                }
                self.block.extend_from_slice(&taken);
                (self.reader.left() == 0).then(|| self.section())
            }
        }
    }

    fn section(&mut self) -> Event {
        let block = std::mem::take(&mut self.block);
        match self.stage {
            Stage::Trailed => Event::Trailers(block),
            _ => Event::Head(block),
        }
    }
}

/// Room made at once for a field section of which the first bytes have come: what most of them need.
const FIRST_BYTES: usize = 512;

#[cfg(test)]
mod tests;
