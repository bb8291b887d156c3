//! The streams of a connection: what is known of each, and which numbers mean what.

use crate::data::Data;
use crate::flow::{Incoming, Outgoing};
use crate::frame::Code;
use bytes::Bytes;
use proto_http::coding::Section;
use proto_http::h1::Fault;
use std::collections::VecDeque;
use std::task::Waker;

/// A stream, for as long as somebody has to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub slot: u32,
    pub id: u32,
}

/// Why a stream ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// We reset it with this code because of what the peer got wrong.
    Fault(Code),
    /// The peer reset it with this code.
    Reset(Code),
    /// The peer leaves for this reason and has done nothing with it.
    LeftOut(Code),
    /// We gave it up, or the connection ended.
    Gone,
}

/// How far one direction of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Open,
    /// Its end was said; what was said before may still wait.
    Ended,
    /// Its end was written.
    Closed,
}

/// What waits to be written.
#[derive(Debug)]
pub enum Item {
    /// A field block.
    Fields(Box<[u8]>),
    Data(Data),
}

/// `X` is what one side alone keeps of it.
#[derive(Debug)]
pub struct Stream<X> {
    pub id: u32,
    pub side: X,
    /// Those who have to do with it: whoever answers it, whoever reads its body.
    pub handles: u8,
    /// It was reset, or its connection has ended.
    pub is_gone: bool,
    /// Nobody reads its body.
    pub discards: bool,
    /// It stands in the line of those that are to be written.
    pub in_line: bool,
    pub coming: Direction,
    pub going: Direction,
    pub broken: Option<Lost>,
    pub received: Incoming,
    pub window: Outgoing,
    /// Bytes of the body still to come, when they were announced.
    pub length: Option<u64>,
    pub body: Pieces,
    pub trailers: Option<Box<Result<Section, Fault>>>,
    pub waiting: VecDeque<Item>,
    /// What it is reset with once all that waits was written.
    pub then: Option<Code>,
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
}

impl<X> Stream<X> {
    pub fn new(id: u32, side: X, received: Incoming, window: Outgoing, length: Option<u64>) -> Stream<X> {
        Stream {
            id,
            side,
            handles: 1,
            is_gone: false,
            discards: false,
            in_line: false,
            coming: Direction::Open,
            going: Direction::Open,
            broken: None,
            received,
            window,
            length,
            body: Pieces::default(),
            trailers: None,
            waiting: VecDeque::new(),
            then: None,
            reader: None,
            writer: None,
        }
    }

    /// Something can be written of it now, but for what the connection's window says.
    pub fn has_work(&self) -> bool {
        match self.waiting.front() {
            Some(Item::Data(data)) => bytes::Buf::remaining(data) == 0 || self.window.room() > 0,
            Some(Item::Fields(_)) => true,
            None => self.then.is_some() || self.going == Direction::Ended,
        }
    }

    pub fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    pub fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }
}

/// Bytes of a body as they came. Small pieces are put together, so that they cost little more than their bytes however small they are:
/// a bound on bytes is one on memory.
#[derive(Debug, Default)]
pub struct Pieces {
    pieces: VecDeque<Bytes>,
    last: Vec<u8>,
}

impl Pieces {
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.last.is_empty()
    }

    pub fn push(&mut self, piece: &[u8]) {
        if piece.len() < SMALL {
            self.last.extend_from_slice(piece);
            if self.last.len() >= SMALL {
                self.pieces.push_back(std::mem::take(&mut self.last).into());
            }
            return;
        }
        if !self.last.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.last).into());
        }
        self.pieces.push_back(Bytes::copy_from_slice(piece));
    }

    pub fn pop(&mut self) -> Option<Bytes> {
        self.pieces.pop_front().or_else(|| (!self.last.is_empty()).then(|| std::mem::take(&mut self.last).into()))
    }

    pub fn clear(&mut self) {
        *self = Pieces::default();
    }
}

/// Pieces below this size, in bytes, are put together.
const SMALL: usize = 4 * 1024;

#[derive(Debug)]
pub struct Streams<X> {
    slots: Vec<Option<Stream<X>>>,
    free: Vec<u32>,
    /// Those that the peer may still say something on, and their slots, in ascending order.
    open: Vec<(u32, u32)>,
    /// Those that we have reset, the latest last.
    reset: VecDeque<u32>,
    reset_most: usize,
    /// The latest that ended well.
    ended: [u32; 4],
}

impl<X> Streams<X> {
    /// Remembers so many that were reset.
    pub fn new(reset_most: usize) -> Streams<X> {
        let reset = VecDeque::new();
        Streams { slots: Vec::new(), free: Vec::new(), open: Vec::new(), reset, reset_most, ended: [0; 4] }
    }

    /// Streams that are neither ended nor reset.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// A stream with a number larger than any before.
    pub fn insert(&mut self, stream: Stream<X>) -> Key {
        let id = stream.id;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.slots[slot as usize] = Some(stream);
        self.open.push((id, slot));
        Key { slot, id }
    }

    /// The open stream with this number.
    #[inline]
    pub fn find(&self, id: u32) -> Option<Key> {
        let at = self.place(id)?;
        Some(Key { slot: self.open[at].1, id })
    }

    fn place(&self, id: u32) -> Option<usize> {
        self.open.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    #[inline]
    pub fn stream(&mut self, key: Key) -> Option<&mut Stream<X>> {
        self.slots.get_mut(key.slot as usize)?.as_mut().filter(|stream| stream.id == key.id)
    }

    pub fn peek(&self, key: Key) -> Option<&Stream<X>> {
        self.slots.get(key.slot as usize)?.as_ref().filter(|stream| stream.id == key.id)
    }

    /// All that are open.
    pub fn keys(&self) -> Vec<Key> {
        self.open.iter().map(|(id, slot)| Key { slot: *slot, id: *id }).collect()
    }

    /// It is open no more. `reset`: we have reset it, so that what comes of it is no fault.
    pub fn close(&mut self, key: Key, reset: bool) {
        let Some(at) = self.place(key.id) else { return };
        self.open.remove(at);
        match reset {
            true => self.remember_reset(key.id),
            false => {
                self.ended.rotate_right(1);
                self.ended[0] = key.id;
            }
        }
        self.forget(key);
    }

    /// A stream that was reset.
    pub fn remember_reset(&mut self, id: u32) {
        if self.reset_most == 0 {
            return;
        }
        if self.reset.len() >= self.reset_most {
            self.reset.pop_front();
        }
        self.reset.push_back(id);
    }

    pub fn was_reset(&self, id: u32) -> bool {
        self.reset.contains(&id)
    }

    pub fn has_ended(&self, id: u32) -> bool {
        self.ended.contains(&id)
    }

    /// Frees its slot if nobody has to do with it.
    pub fn forget(&mut self, key: Key) {
        let is_left = self.peek(key).is_some_and(|stream| stream.handles == 0);
        if !is_left || self.place(key.id).is_some() {
            return;
        }
        self.slots[key.slot as usize] = None;
        self.free.push(key.slot);
        if self.free.len() == self.slots.len() && self.slots.len() > KEPT_SLOTS {
            // A connection at rest holds no more than one that was never busy.
            (self.slots, self.free, self.open) = (Vec::new(), Vec::new(), Vec::new());
        }
    }

    /// Bytes of memory the tables take.
    #[cfg(test)]
    pub fn memory(&self) -> usize {
        self.slots.capacity() * size_of::<Option<Stream<X>>>()
            + (self.free.capacity() + self.reset.capacity()) * size_of::<u32>()
            + self.open.capacity() * size_of::<(u32, u32)>()
    }
}

/// Slots that are kept while none is taken.
const KEPT_SLOTS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(id: u32) -> Stream<()> {
        Stream::new(id, (), Incoming::new(10, 10), Outgoing::new(10), None)
    }

    #[test]
    fn slots_are_used_again_once_nobody_has_to_do_with_them() {
        let mut streams = Streams::new(2);
        let keys: Vec<Key> = (0..100).map(|n| streams.insert(stream(2 * n + 1))).collect();
        assert_eq!((streams.open(), streams.find(7)), (100, Some(keys[3])));
        streams.close(keys[3], false);
        assert_eq!((streams.find(7), streams.has_ended(7)), (None, true));
        assert!(streams.peek(keys[3]).is_some(), "somebody reads it");
        streams.stream(keys[3]).unwrap().handles = 0;
        streams.forget(keys[3]);
        assert!(streams.peek(keys[3]).is_none());
        let next = streams.insert(stream(999));
        assert_eq!(next.slot, keys[3].slot);
        assert!(streams.peek(keys[3]).is_none(), "its number is another");
        for key in keys.iter().chain([&next]).filter(|key| key.id != 7) {
            streams.stream(*key).unwrap().handles = 0;
            streams.close(*key, true);
        }
        assert_eq!((streams.open(), streams.was_reset(999), streams.was_reset(199)), (0, true, true));
        assert!(!streams.was_reset(197));
        assert!(streams.memory() < 100, "{}", streams.memory());
    }

    #[test]
    fn small_pieces_cost_little_more_than_their_bytes() {
        let mut pieces = Pieces::default();
        let mut whole = Vec::new();
        for n in 0..20_000 {
            pieces.push(&[n as u8]);
            whole.push(n as u8);
        }
        assert!(pieces.pieces.len() < 6 && pieces.last.capacity() <= 2 * SMALL);
        pieces.push(&[7; 9_000]);
        whole.extend([7; 9_000]);
        pieces.push(&[8]);
        whole.push(8);
        let mut read = Vec::new();
        while let Some(piece) = pieces.pop() {
            read.extend_from_slice(&piece);
        }
        assert!(read == whole && pieces.is_empty());
    }
}
