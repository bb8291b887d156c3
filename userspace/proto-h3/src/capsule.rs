//! Capsules (RFC 9297 section 3): what the stream of a tunnel carries where its protocol has datagrams, whatever version of HTTP it is of.
//!
//! All of them pass untouched, those that nobody knows too; a DATAGRAM alone may leave the stream for what QUIC sends beside it, or come
//! from there, between two others. Nothing is held but the DATAGRAM that is coming, and that within [`DATAGRAM_MOST`].

use crate::varint::{self, Partial};

/// A capsule that holds one datagram of HTTP.
pub const DATAGRAM: u64 = 0x00;

/// Longest content of a DATAGRAM that is taken out of its stream, in bytes: a UDP payload of the greatest length and the number of its
/// context. What is longer fits into no packet.
pub const DATAGRAM_MOST: usize = 65_527 + 8;

/// Where in a stream of capsules its reader is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Walk {
    number: Partial,
    kind: Option<u64>,
    left: u64,
}

/// What comes next of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step<'a> {
    /// A capsule begins, of this type and length.
    Begin(u64, u64),
    /// More of its content.
    Content(&'a [u8]),
}

impl Walk {
    /// Takes note of what passes.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while self.step(&mut bytes).is_some() {}
    }

    /// No capsule is under way: another one may begin, or the stream end.
    pub fn is_between(&self) -> bool {
        self.left == 0 && self.kind.is_none() && !self.number.has_begun()
    }

    /// The rest of the content is nobody's.
    fn step<'a>(&mut self, input: &mut &'a [u8]) -> Option<Step<'a>> {
        if self.left > 0 {
            let there = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
            let (taken, rest) = input.split_at(there);
            *input = rest;
            self.left -= there as u64;
            return (there > 0).then_some(Step::Content(taken));
        }
        let kind = match self.kind {
            Some(kind) => kind,
            None => *self.kind.insert(self.number.take(input)?),
        };
        let length = self.number.take(input)?;
        self.kind = None;
        self.left = length;
        Some(Step::Begin(kind, length))
    }
}

/// Takes the datagrams out of a stream of capsules.
#[derive(Debug, Default)]
pub struct Splitter {
    walk: Walk,
    way: Way,
}

/// Where what comes of a capsule goes.
#[derive(Debug, Default)]
enum Way {
    #[default]
    Stream,
    Datagram(Vec<u8>),
    Nowhere,
}

/// What a piece of a stream was.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// What stays on the stream.
    pub stream: Vec<u8>,
    pub datagrams: Vec<Vec<u8>>,
    /// Datagrams longer than any that is taken.
    pub too_long: u32,
}

impl Splitter {
    /// Splits what comes next. Where `takes` is false, DATAGRAMs that begin now stay on the stream, too.
    pub fn handle(&mut self, mut input: &[u8], takes: bool, into: &mut Split) {
        while let Some(step) = self.walk.step(&mut input) {
            match step {
                Step::Begin(DATAGRAM, length) if takes && length <= DATAGRAM_MOST as u64 => {
                    self.way = Way::Datagram(Vec::new());
                }
                Step::Begin(DATAGRAM, _) if takes => {
                    into.too_long += 1;
                    self.way = Way::Nowhere;
                }
                Step::Begin(kind, length) => {
                    begin(kind, length, &mut into.stream);
                    self.way = Way::Stream;
                }
                Step::Content(bytes) => match &mut self.way {
                    Way::Stream => into.stream.extend_from_slice(bytes),
                    Way::Datagram(content) => content.extend_from_slice(bytes),
                    Way::Nowhere => {}
                },
            }
            if self.walk.is_between()
                && let Way::Datagram(content) = std::mem::take(&mut self.way)
            {
                into.datagrams.push(content);
            }
        }
    }

    /// As of [`Walk::is_between`]. A stream that ends elsewhere is malformed (section 3.3).
    pub fn is_between(&self) -> bool {
        self.walk.is_between()
    }

    /// Bytes of the DATAGRAM that is coming.
    pub fn held(&self) -> usize {
        if let Way::Datagram(content) = &self.way { content.capacity() } else { 0 }
    }
}

/// Appends type and length of a capsule.
pub fn begin(kind: u64, length: u64, into: &mut Vec<u8>) {
    varint::encode(kind, into);
    varint::encode(length, into);
}

/// Appends a DATAGRAM.
pub fn write_datagram(content: &[u8], into: &mut Vec<u8>) {
    begin(DATAGRAM, content.len() as u64, into);
    into.extend_from_slice(content);
}

#[cfg(test)]
mod tests;
