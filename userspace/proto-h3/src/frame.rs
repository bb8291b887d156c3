//! Frames as they come (RFC 9114 section 7).

use crate::varint::{self, Partial};

pub const DATA: u64 = 0x00;
pub const HEADERS: u64 = 0x01;
pub const CANCEL_PUSH: u64 = 0x03;
pub const SETTINGS: u64 = 0x04;
pub const PUSH_PROMISE: u64 = 0x05;
pub const GOAWAY: u64 = 0x07;
pub const MAX_PUSH_ID: u64 = 0x0d;

/// Whether HTTP/2 has such a frame and HTTP/3 has not (section 7.2.8): it is an error on any stream.
pub fn is_reserved(kind: u64) -> bool {
    matches!(kind, 0x02 | 0x06 | 0x08 | 0x09)
}

/// Where in a stream of frames its reader is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reader {
    number: Partial,
    kind: Option<u64>,
    /// Bytes of the payload still to come, once both numbers were read.
    left: Option<u64>,
}

impl Reader {
    /// Reads type and length, taking them from `input`. `None` while they are not complete. To be called between frames.
    pub fn begin(&mut self, input: &mut &[u8]) -> Option<(u64, u64)> {
        let kind = match self.kind {
            Some(kind) => kind,
            None => *self.kind.insert(self.number.take(input)?),
        };
        let length = self.number.take(input)?;
        self.kind = None;
        self.left = (length > 0).then_some(length);
        Some((kind, length))
    }

    /// Bytes of the frame that has begun which are still to come; 0 between frames.
    pub fn left(&self) -> u64 {
        self.left.unwrap_or(0)
    }

    /// So many bytes of the payload were taken.
    pub fn took(&mut self, bytes: usize) {
        let left = self.left().saturating_sub(bytes as u64);
        self.left = (left > 0).then_some(left);
    }

    /// Neither a frame nor its beginning is under way: the stream may end here.
    pub fn is_between(&self) -> bool {
        self.left.is_none() && self.kind.is_none() && !self.number.has_begun()
    }
}

/// Appends type and length of a frame.
pub fn begin(kind: u64, length: u64, into: &mut Vec<u8>) {
    varint::encode(kind, into);
    varint::encode(length, into);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_are_the_same_in_any_pieces(frames in proptest::collection::vec((0..100_000u64, 0..300u64), 1..8), piece in 1..50usize) {
            let mut bytes = Vec::new();
            for (kind, length) in &frames {
                begin(*kind, *length, &mut bytes);
                bytes.extend(std::iter::repeat_n(0xaa, *length as usize));
            }
            let (mut reader, mut seen) = (Reader::default(), Vec::new());
            for mut input in bytes.chunks(piece) {
                while !input.is_empty() {
                    if reader.left() > 0 {
                        let taken = input.len().min(reader.left() as usize);
                        reader.took(taken);
                        input = &input[taken..];
                    } else if let Some(frame) = reader.begin(&mut input) {
                        seen.push(frame);
                    }
                }
            }
            prop_assert!(reader.is_between());
            prop_assert_eq!(seen, frames);
        }
    }
}
