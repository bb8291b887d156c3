//! The two directions of a stream: what has come is taken out of QUIC, what is to be said waits here until QUIC has room for it.
//!
//! What is left in a stream is credit that the peer does not get, so nobody need bound what lies there.

use crate::Connection;
use bytes::{Buf, Bytes};
use quinn_proto::{ReadError, ReadableError, StreamId, WriteError};
use std::collections::VecDeque;

/// Bytes taken out of a stream at a time.
const CHUNK: usize = 16 * 1024;

/// What was taken out of a stream.
pub enum Read {
    Some(Bytes),
    /// Nothing at the moment.
    Blocked,
    End,
    /// The peer gave it up, with this code.
    Reset(u64),
    /// There is nothing to be read any more: it was stopped, or its connection has ended.
    Closed,
}

impl Connection {
    /// Takes out what came next of a stream. The driver is woken where the peer is to be told that it may send more.
    pub fn read(&self, id: StreamId) -> Read {
        let (read, told) = self.with(|machine| {
            let mut stream = machine.recv_stream(id);
            let mut chunks = match stream.read(true) {
                Ok(chunks) => chunks,
                Err(ReadableError::ClosedStream | ReadableError::IllegalOrderedRead) => return (Read::Closed, false),
            };
            let read = match chunks.next(CHUNK) {
                Ok(Some(chunk)) => Read::Some(chunk.bytes),
                Ok(None) => Read::End,
                Err(ReadError::Blocked) => Read::Blocked,
                Err(ReadError::Reset(code)) => Read::Reset(code.into()),
            };
            (read, chunks.finalize().should_transmit())
        });
        if told {
            self.wake();
        }
        read
    }
}

/// What waits to be written to one stream. `B` is how pieces of a body come, which may lie in buffers that QUIC cannot keep.
pub struct Outgoing<B> {
    waiting: VecDeque<Out<B>>,
    /// The bytes of a piece where they can be had without a copy. They count as written once the piece is advanced over them.
    shared: fn(&B) -> Option<Bytes>,
}

enum Out<B> {
    Bytes(Bytes),
    Body(B),
    End,
}

/// What became of what waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pumped {
    /// QUIC has taken something, be it the end alone.
    pub any: bool,
    /// So many bytes of it.
    pub bytes: u64,
    /// The end among it.
    pub ended: bool,
    /// The peer wants no more, or the stream is no more.
    pub stopped: bool,
}

impl<B: Buf> Outgoing<B> {
    pub fn new(shared: fn(&B) -> Option<Bytes>) -> Outgoing<B> {
        Outgoing { waiting: VecDeque::new(), shared }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Nothing of it is to be said any more.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }

    pub fn say(&mut self, bytes: Bytes) {
        self.waiting.push_back(Out::Bytes(bytes));
    }

    pub fn say_body(&mut self, piece: B) {
        self.waiting.push_back(Out::Body(piece));
    }

    pub fn say_end(&mut self) {
        self.waiting.push_back(Out::End);
    }

    /// Hands QUIC what it has room for, and wakes the driver for it.
    pub fn pump(&mut self, connection: &Connection, id: StreamId) -> Pumped {
        let mut pumped = Pumped::default();
        while let Some(first) = self.waiting.front_mut() {
            let written = connection.with(|machine| {
                let mut stream = machine.send_stream(id);
                match first {
                    Out::Bytes(bytes) => stream.write_chunks(std::slice::from_mut(bytes)).map(|written| written.bytes),
                    Out::Body(piece) => {
                        let written = match (self.shared)(piece) {
                            Some(bytes) => stream.write_chunks(&mut [bytes]).map(|written| written.bytes),
                            None => stream.write(piece.chunk()),
                        };
                        written.inspect(|written| piece.advance(*written))
                    }
                    Out::End => match stream.finish() {
                        Ok(()) => Ok(0),
                        Err(_) => Err(WriteError::ClosedStream),
                    },
                }
            });
            match written {
                Ok(bytes) => {
                    pumped.any = true;
                    pumped.bytes += bytes as u64;
                    let done = match first {
                        Out::Bytes(bytes) => bytes.is_empty(),
                        Out::Body(piece) => !piece.has_remaining(),
                        Out::End => {
                            pumped.ended = true;
                            true
                        }
                    };
                    if done {
                        self.waiting.pop_front();
                    }
                }
                Err(WriteError::Blocked) => break,
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                    pumped.stopped = true;
                    break;
                }
            }
        }
        if pumped.any {
            connection.wake();
        }
        pumped
    }
}
