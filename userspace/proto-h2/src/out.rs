//! What a connection has to say, gathered in buffers that go to the transport as they are.
//!
//! Frames lie one behind the other. A large piece of a body is not copied: what stands before it is put into the room that its own
//! buffer has in front.

use crate::data::Data;
use crate::frame::Head;
use base_runtime::Buf;
use bytes::Buf as _;

/// A piece of at least this size, in bytes, is sent in its own buffer.
const LARGE: usize = 4 * 1024;

/// Room in front of a piece that is left to the transport, in bytes: a record's head.
const TRANSPORT_HEADROOM: usize = 64;

#[derive(Debug)]
pub struct Out {
    full: Vec<Buf>,
    last: Option<Buf>,
    bytes: usize,
    /// Bytes that are sent together: a record's content, where there are records.
    unit: usize,
}

impl Out {
    pub fn new(unit: usize) -> Out {
        Out { full: Vec::new(), last: None, bytes: 0, unit }
    }

    /// Bytes that wait here.
    pub fn len(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        let mut rest = bytes;
        while !rest.is_empty() {
            let buffer = self.last.get_or_insert_with(Buf::alloc);
            let room = self.unit.saturating_sub(buffer.len()).min(rest.len());
            let taken = buffer.append(&rest[..room]);
            rest = &rest[taken..];
            if taken == 0 {
                self.full.extend(self.last.take());
            }
        }
    }

    /// A DATA frame with as much of `data` as its head says.
    #[inline]
    pub fn push_data(&mut self, head: Head, data: &mut Data) {
        let length = head.length as usize;
        if length < LARGE || length < data.remaining() {
            self.push(&head.written());
            self.push(&data.chunk()[..length]);
            data.advance(length);
            return;
        }
        let Some(mut buffer) = data.take_buffer() else {
            self.push(&head.written());
            self.push(data.chunk());
            data.advance(length);
            return;
        };
        self.bytes += head.written().len() + length;
        if !buffer.prepend(&head.written()) {
            // It has grown into all of its room.
            let copied = Buf::copy_from(&head.written());
            self.full.extend(self.last.take());
            self.full.push(copied);
            self.full.push(buffer);
            return;
        }
        match self.last.take() {
            Some(before)
                if before.len() + TRANSPORT_HEADROOM <= buffer.headroom()
                    && before.len() + buffer.len() <= self.unit =>
            {
                buffer.prepend(&before);
            }
            before => self.full.extend(before),
        }
        self.full.push(buffer);
    }

    /// What is to be sent, in order.
    pub fn take(&mut self, mut send: impl FnMut(Buf)) {
        self.bytes = 0;
        if !self.full.is_empty() {
            std::mem::take(&mut self.full).into_iter().for_each(&mut send);
        }
        if let Some(last) = self.last.take() {
            send(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn taken(out: &mut Out) -> Vec<Vec<u8>> {
        let mut taken = Vec::new();
        out.take(|buffer| taken.push(buffer.to_vec()));
        taken
    }

    fn head(length: usize) -> Head {
        Head { length: length as u32, kind: 0, flags: 0, stream: 1 }
    }

    #[test]
    fn frames_lie_one_behind_the_other() {
        let mut out = Out::new(16_384);
        out.push(b"head");
        let mut body = Data::from(Bytes::from(vec![7; 5_000]));
        out.push_data(head(3_000), &mut body);
        out.push_data(head(2_000), &mut body);
        assert_eq!((body.remaining(), out.len()), (0, 5_022));
        let sent = taken(&mut out);
        assert_eq!((sent.len(), sent[0].len(), out.is_empty()), (1, 5_022, true));
        out.push(&[1; 40_000]);
        assert_eq!(taken(&mut out).iter().map(Vec::len).collect::<Vec<_>>(), [16_384, 16_384, 7_232]);
    }

    #[test]
    fn large_pieces_go_in_their_own_buffers_behind_what_was_said_before() {
        let mut out = Out::new(16_384);
        out.push(&[1; 200]);
        out.push_data(head(10_000), &mut Data::from(Buf::copy_from(&[2; 10_000])));
        out.push(&[3; 2_000]);
        out.push_data(head(10_000), &mut Data::from(Buf::copy_from(&[4; 10_000])));
        out.push(&[5; 10]);
        assert_eq!(out.len(), 200 + 10_009 + 2_000 + 10_009 + 10);
        let sent = taken(&mut out);
        assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [10_209, 2_000, 10_009, 10]);
        assert_eq!(sent[0][..209], [&[1; 200][..], &head(10_000).written()].concat());
        assert_eq!(sent[2][..10], [&head(10_000).written()[..], &[4]].concat());
    }
}
