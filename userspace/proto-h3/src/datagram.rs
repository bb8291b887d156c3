//! Datagrams that go beside their request's stream (RFC 9297 section 2.1): what QUIC carries of them, and those that have come of one
//! stream and wait for whoever reads it.

use crate::code::{Code, Fault};
use crate::varint;
use bytes::{Buf as _, Bytes};
use std::collections::VecDeque;

/// Bytes of datagrams that wait for the reader of one stream. Beyond it those that come are dropped, as the network would.
pub const WAITING_MOST: usize = 64 * 1024;

/// What each weighs beside its content.
pub const OVERHEAD: usize = 64;

/// The number of the request among those of its connection, which its stream's is four times of, and the content of a datagram.
pub fn decode(mut datagram: Bytes) -> Result<(u64, Bytes), Fault> {
    match varint::decode(&datagram) {
        Some((number, length)) if number <= varint::MAX / 4 => {
            datagram.advance(length);
            Ok((number, datagram))
        }
        _ => Err(Fault::Connection(Code::Datagram)),
    }
}

/// A datagram for the request of this number.
pub fn encode(number: u64, content: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(8 + content.len());
    varint::encode(number, &mut datagram);
    datagram.extend_from_slice(content);
    datagram
}

/// What becomes of datagrams of a stream.
#[derive(Debug, Default)]
pub struct Waiting {
    are: Are,
    queue: VecDeque<Bytes>,
    bytes: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Are {
    /// The head that says whether there are any has not been read.
    #[default]
    Unknown,
    Wanted,
    /// The stream has none: they mean nothing to it.
    Meaningless,
}

/// What became of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Kept,
    /// There is no room for it.
    Dropped,
}

impl Waiting {
    /// One has come. An error ends the stream: it is of one that has no datagrams.
    pub fn handle(&mut self, content: Bytes) -> Result<Taken, Fault> {
        if self.are == Are::Meaningless {
            return Err(Fault::Stream(Code::Datagram));
        }
        let weight = content.len() + OVERHEAD;
        if self.bytes + weight > WAITING_MOST {
            return Ok(Taken::Dropped);
        }
        self.bytes += weight;
        self.queue.push_back(content);
        Ok(Taken::Kept)
    }

    /// The head says whether there are any. An error ends the stream: some came that mean nothing.
    pub fn decide(&mut self, wanted: bool) -> Result<(), Fault> {
        self.are = if wanted { Are::Wanted } else { Are::Meaningless };
        let came = !self.queue.is_empty();
        if !wanted {
            self.clear();
        }
        if came && !wanted { Err(Fault::Stream(Code::Datagram)) } else { Ok(()) }
    }

    pub fn take(&mut self) -> Option<Bytes> {
        let content = self.queue.pop_front()?;
        self.bytes -= content.len() + OVERHEAD;
        Some(content)
    }

    /// Bytes of memory.
    pub fn held(&self) -> usize {
        self.bytes
    }

    fn clear(&mut self) {
        self.queue = VecDeque::new();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_names_its_request() {
        for number in [0, 63, 64, 20_000, varint::MAX / 4] {
            assert_eq!(decode(encode(number, b"x").into()), Ok((number, Bytes::from_static(b"x"))));
        }
        assert_eq!(decode(encode(5, b"").into()), Ok((5, Bytes::new())));
        // Of no stream there can be, and none at all (section 2.1).
        for broken in [&encode(varint::MAX / 4 + 1, b"x")[..], &[], &[0x40]] {
            assert_eq!(decode(Bytes::copy_from_slice(broken)), Err(Fault::Connection(Code::Datagram)));
        }
    }

    #[test]
    fn as_many_wait_as_may() {
        let mut waiting = Waiting::default();
        let large = Bytes::from(vec![0; WAITING_MOST / 2 - OVERHEAD]);
        assert_eq!(waiting.handle(large.clone()), Ok(Taken::Kept));
        assert_eq!(waiting.decide(true), Ok(()));
        assert_eq!(waiting.handle(large.clone()), Ok(Taken::Kept));
        assert_eq!(waiting.handle(Bytes::new()), Ok(Taken::Dropped));
        assert_eq!(waiting.held(), WAITING_MOST);
        assert_eq!(waiting.take().map(|content| content.len()), Some(large.len()));
        assert_eq!(waiting.handle(Bytes::new()), Ok(Taken::Kept));
        assert!(waiting.take().is_some() && waiting.take().is_some() && waiting.take().is_none());
        assert_eq!(waiting.held(), 0);
    }

    #[test]
    fn a_request_without_datagrams_gets_none() {
        let mut before = Waiting::default();
        assert_eq!(before.handle(Bytes::new()), Ok(Taken::Kept));
        assert_eq!((before.decide(false), before.held()), (Err(Fault::Stream(Code::Datagram)), 0));
        let mut after = Waiting::default();
        assert_eq!(after.decide(false), Ok(()));
        assert_eq!(after.handle(Bytes::new()), Err(Fault::Stream(Code::Datagram)));
    }
}
