//! A line as it lies on disk: what it is, when it was taken, itself. Pure: bytes in, bytes out.

use edge_spool::Kept;
use proto_kafka::crc32c::crc32c;
use std::ops::RangeInclusive;

/// A line, with what there is to say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub kind: Kind,
    /// When it was taken, in nanoseconds since 1970.
    pub at: u64,
    /// Without its line feed.
    pub text: Box<[u8]>,
}

/// What a line tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request.
    Access,
    /// The daemon, by how much it matters.
    Info,
    Warning,
    Error,
}

const KINDS: [Kind; 4] = [Kind::Access, Kind::Info, Kind::Warning, Kind::Error];

/// Bytes of a line, at most; longer ones are cut.
pub const TEXT_MOST: usize = 256 * 1024;

/// Bytes of a line without its text.
const HEAD: usize = 1 + 8;

impl Kept for Line {
    const NAME: &'static str = "lines";
    const BYTES: RangeInclusive<usize> = HEAD..=HEAD + TEXT_MOST;

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.kind as u8);
        out.extend(self.at.to_be_bytes());
        out.extend(&self.text[..self.text.len().min(TEXT_MOST)]);
    }

    fn read(body: &[u8]) -> Option<Line> {
        let (kind, rest) = body.split_first()?;
        let (at, text) = rest.split_first_chunk::<8>()?;
        let kind = *KINDS.get(usize::from(*kind))?;
        Some(Line { kind, at: u64::from_be_bytes(*at), text: text.into() })
    }

    /// Of the length, too: a frame of zeroes, which a disk may leave after a crash, is none.
    fn checksum(length: [u8; 4], body: &[u8]) -> u32 {
        crc32c(body) ^ crc32c(&length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_spool::frame::{self, Frame, read, write};
    use proptest::prelude::*;

    fn any_line() -> impl Strategy<Value = Line> {
        (0..4usize, any::<u64>(), proptest::collection::vec(any::<u8>(), 0..200)).prop_map(|(kind, at, text)| Line {
            kind: KINDS[kind],
            at,
            text: text.into(),
        })
    }

    fn all(mut bytes: &[u8]) -> (Vec<Line>, usize) {
        let (mut lines, mut damaged) = (Vec::new(), 0);
        while !bytes.is_empty() {
            let (frame, length) = read(bytes);
            match frame {
                Frame::Whole(line) => lines.push(line),
                Frame::Damaged | Frame::Cut => damaged += 1,
            }
            assert!(length > 0);
            bytes = &bytes[length..];
        }
        (lines, damaged)
    }

    proptest! {
        #[test]
        fn lines_are_read_as_they_were_written(lines in proptest::collection::vec(any_line(), 0..20)) {
            let mut out = Vec::new();
            lines.iter().for_each(|line| write(line, &mut out));
            prop_assert_eq!(all(&out), (lines, 0));
        }

        /// A process is killed in the middle of a write: what was whole is there, and nothing else is.
        #[test]
        fn what_is_cut_off_costs_the_last_line(lines in proptest::collection::vec(any_line(), 1..20), cut in any::<prop::sample::Index>()) {
            let mut out = Vec::new();
            let ends: Vec<usize> = lines.iter().map(|line| { write(line, &mut out); out.len() }).collect();
            let cut = cut.index(out.len());
            let whole = ends.iter().filter(|end| **end <= cut).count();
            let (read, damaged) = all(&out[..cut]);
            prop_assert_eq!(read, &lines[..whole]);
            prop_assert_eq!(damaged, usize::from(whole == 0 && cut > 0 || whole > 0 && ends[whole - 1] != cut));
        }

        /// A disk gives back something else: no line that was not written, and those before it are there.
        #[test]
        fn what_is_damaged_is_never_taken_for_a_line(lines in proptest::collection::vec(any_line(), 1..20), at in any::<prop::sample::Index>(), bit in 0..8u32) {
            let mut out = Vec::new();
            let ends: Vec<usize> = lines.iter().map(|line| { write(line, &mut out); out.len() }).collect();
            let at = at.index(out.len());
            out[at] ^= 1 << bit;
            let hit = ends.iter().position(|end| at < *end).unwrap();
            let (read, damaged) = all(&out);
            prop_assert!(damaged > 0);
            prop_assert_eq!(&read[..hit], &lines[..hit]);
            // Those after it are there, too, unless it was the length.
            let after: Vec<&Line> = read[hit..].iter().collect();
            let begins = if hit == 0 { 0 } else { ends[hit - 1] };
            let wanted: Vec<&Line> = if at < begins + 4 { after.clone() } else { lines[hit + 1..].iter().collect() };
            prop_assert_eq!(after, wanted);
        }

        #[test]
        fn nothing_that_comes_is_trusted(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = all(&bytes);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_cut() {
        let line = Line { kind: Kind::Access, at: 1, text: vec![b'x'; TEXT_MOST + 5].into() };
        let mut out = Vec::new();
        write(&line, &mut out);
        assert_eq!(out.len(), frame::HEAD + Line::BYTES.end());
        let (lines, _) = all(&out);
        assert_eq!(lines[0].text.len(), TEXT_MOST);
    }
}
