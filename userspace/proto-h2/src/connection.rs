//! The machine of one connection, of either side: bytes that came go in, what is to be sent comes out. It has no socket and no clock.
//!
//! Both sides read and write the same frames, windows and field blocks, which is here. What they make of heads, and who may begin and
//! end what, is each [`Side`]'s: [`Server`] answers requests, [`Client`] sends them.
//!
//! - **What came**: [`Connection::handle`], and [`Connection::handle_end`] after the last of it. `accept` of a server gives the requests
//!   that began; `open` of a client begins one.
//! - **One stream** ([`Key`]): [`Connection::poll_data`] and its kin read a body, [`Connection::send_fields`] and its kin write. Those
//!   who wait leave a waker; nobody else is woken.
//! - **What is to be sent**: [`Connection::pump`] lets streams that waited say what windows allow, in turn; [`Connection::out`] is what
//!   goes to the transport. What is said while nothing waits goes there at once.
//!
//! Each frame is looked at once. Its payload is read where it lies, unless it came in pieces: then it is put together, but for DATA,
//! whose pieces are handed on as they come.

mod client;
mod server;

use crate::allowances::{Allowances, Cheap};
use crate::data::Data;
use crate::flow::{Incoming, Outgoing};
use crate::frame::{self, *};
use crate::hpack::{self, Decoder, Kept};
use crate::out::Out;
use crate::pings::{self, Pings};
use crate::settings::FIELD_TABLE;
use crate::streams::{Direction, Item, Stream, Streams};
use bytes::{Buf as _, Bytes};
use proto_http::coding::{self, Section};
use proto_http::h1::Fault;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::task::{Context, Poll};
use std::time::Instant;

pub use crate::streams::{Key, Lost};
pub use client::{Asks, Client, EXCESS_MOST};
pub use server::{Accepted, Server};

/// The machine of a server, and that of a client.
pub type ServerConnection = Connection<Server>;
pub type ClientConnection = Connection<Client>;

/// Payload of the DATA frames we send, in bytes, at most: with its head such a frame is one record of TLS.
const DATA_MOST: usize = 16 * 1024 - HEAD;

/// Bytes that may wait to be taken by the transport before streams have to wait.
pub const OUT_MOST: usize = 64 * 1024;

/// A connection's window before anybody has changed it (RFC 9113 section 6.9.2).
const WINDOW: u32 = 65_535;

/// What our PINGs say: that the peer is to show that it is there.
const ASKING: [u8; 8] = *b"present?";

/// What one side of a connection does where the two differ.
pub trait Side: fmt::Debug + Sized {
    /// What it keeps of each stream.
    type OfStream: fmt::Debug;

    /// Its peer sends requests.
    const ANSWERS: bool;

    /// What came of a body before its stream was lost is still read, unless it was lost because of what came.
    const KEEPS_LOST: bool;

    /// A field block came whole.
    fn handle_fields(connection: &mut Connection<Self>, id: u32, ends: bool, fields: Fields) -> Result<(), Wrong>;

    /// Whether a body may come on this stream by now.
    fn takes_data(stream: &Self::OfStream) -> bool;

    /// The peer resets a stream that is open.
    fn handle_reset(connection: &mut Connection<Self>, key: Key) -> Result<(), Wrong>;

    /// A setting that is not about frames, windows or tables.
    fn handle_setting(&mut self, id: u16, value: u32) -> Result<(), Wrong>;

    /// The peer leaves, and has looked at streams up to the last one.
    fn handle_go_away(connection: &mut Connection<Self>, last: u32);

    /// An answer to a PING of ours.
    fn handle_pong(_: &mut Connection<Self>, _payload: &[u8]) {}

    /// A stream is over before its end, and was perhaps not looked at.
    fn handle_lost(connection: &mut Connection<Self>, key: Key);

    /// Nobody reads what has come of a stream.
    fn forget_heads(_: &mut Connection<Self>, _: Key) {}

    /// Nobody has to do any more with a stream that is open.
    fn abandon(connection: &mut Connection<Self>, key: Key);

    /// The connection has ended, or is at rest: nothing waits for anybody, and no memory is held for it.
    fn clear(connection: &mut Connection<Self>);

    /// Streams of a peer behind this one are not looked at; as a GOAWAY has it.
    fn last(&self) -> u32;

    /// Whether nothing on this stream, which is not open, is looked at, though nobody remembers that it was reset.
    fn ignores(&self, id: u32) -> bool;

    /// We leave, and the peer knows.
    fn is_leaving(&self) -> bool;

    /// The allowance that has been spent so that the connection ends.
    fn spent(allowances: &Allowances) -> Option<Cheap>;

    /// Whether it ends with a stream that the peer got wrong, now that there are more of them than it may get wrong.
    fn ends_with_fault(allowances: &Allowances) -> bool;

    /// A frame of a stream that is over, which is no fault, has nothing in it that a window would bound.
    fn handle_late(_: &mut Allowances) {}

    /// Begins what may begin. True when more could, once the transport has taken what is there.
    fn begin_more(_: &mut Connection<Self>) -> bool {
        false
    }

    /// Something could begin.
    fn has_more(_: &Connection<Self>) -> bool {
        false
    }
}

/// How a connection ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The transport broke, or the peer closed it.
    Broken,
    /// The peer ended it, saying that something was wrong.
    ByPeer,
    /// The peer broke the protocol or a bound of the machine; the name to count it by.
    Fault(&'static str),
}

/// The stream was given up by the peer, or the connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// What bounds both sides alike, see [`crate::settings`].
#[derive(Debug, Clone, Copy)]
struct Bounds {
    header_list_bytes: usize,
    trailer_bytes: usize,
    trailers_most: usize,
    frame_bytes: u32,
    stream_window: u32,
}

/// The fields of a head, whose memory is used again.
#[derive(Debug)]
pub struct Fields {
    pub section: Section,
    pub kept: Kept,
}

/// What a frame that has begun is to become.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Bytes of it that came.
    Preface(usize),
    /// The head of a frame.
    Head,
    /// A payload that is wanted as a whole.
    Whole(Head),
    Data(DataFrame),
    /// Bytes that mean nothing to us.
    Skip(u32),
}

#[derive(Debug, Clone, Copy)]
struct DataFrame {
    stream: u32,
    /// Its stream takes it.
    key: Option<Key>,
    /// Bytes that are still to come.
    left: u32,
    /// Of those, padding; `None`: how much is still to be said.
    padding: Option<u32>,
    ends: bool,
}

/// A field block whose end has not come.
#[derive(Debug)]
struct Block {
    stream: u32,
    ends: bool,
    bytes: Vec<u8>,
}

/// Why a frame cannot be taken.
#[derive(Debug)]
pub enum Wrong {
    Connection(Code),
    /// Its stream alone ends.
    Stream(u32, Code),
}

impl From<Code> for Wrong {
    fn from(code: Code) -> Wrong {
        Wrong::Connection(code)
    }
}

/// See the module doc.
#[derive(Debug)]
pub struct Connection<S: Side> {
    side: S,
    bounds: Bounds,
    stage: Stage,
    /// What came of a head or a payload that is not whole.
    partial: Vec<u8>,
    has_settings: bool,
    block: Option<Block>,
    decoder: Decoder,
    allowances: Allowances,
    /// Few servers say such rules.
    pings: Option<Box<Pings>>,
    streams: Streams<S::OfStream>,
    received: Incoming,
    window: Outgoing,
    /// What the peer's settings say: the window of each stream at first, and how long frames may be.
    first_window: u32,
    frame_most: usize,
    /// It has made the table of fields that we do not use smaller, and is to be told that we know.
    shrinks_table: bool,
    out: Out,
    /// Streams that have something to say, each once.
    line: VecDeque<Key>,
    /// The transport takes no more at the moment.
    is_blocked: bool,
    /// All of the line waits for the window of the connection, or for the transport.
    is_stuck: bool,
    /// The last stream that was named by whoever begins them.
    highest: u32,
    /// The peer says that it is leaving, and why.
    peer_leaves: Option<Code>,
    asked: bool,
    /// Frames said, but for PINGs and acknowledgements.
    wants: u64,
    /// Bytes of memory of heads and trailers that nobody has taken yet.
    held: usize,
    ended: Option<Result<(), Ended>>,
}

impl<S: Side> Connection<S> {
    fn begin(
        side: S,
        bounds: Bounds,
        streams: Streams<S::OfStream>,
        window: u32,
        allowances: Allowances,
        unit: usize,
    ) -> Self {
        Connection {
            side,
            bounds,
            stage: Stage::Head,
            partial: Vec::new(),
            has_settings: false,
            block: None,
            decoder: Decoder::new(FIELD_TABLE as usize),
            allowances,
            pings: None,
            streams,
            received: Incoming::new(WINDOW, window),
            window: Outgoing::new(WINDOW),
            first_window: WINDOW,
            frame_most: 16 * 1024,
            shrinks_table: false,
            out: Out::new(unit),
            line: VecDeque::new(),
            is_blocked: false,
            is_stuck: false,
            highest: 0,
            peer_leaves: None,
            asked: false,
            wants: 0,
            held: 0,
            ended: None,
        }
    }

    // What is known.

    /// How it ended, once it has.
    pub fn ended(&self) -> Option<Result<(), Ended>> {
        self.ended
    }

    /// Bytes of bodies that came, or were announced, and that their client cannot send again before somebody has read them. What nobody
    /// will read is none of them: padding, and what comes on a stream that was reset.
    pub fn unread(&self) -> u32 {
        self.received.unread()
    }

    /// Bytes of memory beside that of bodies: heads and trailers that nobody has taken yet, and what has come of a head or a frame that
    /// is not whole.
    pub fn held(&self) -> usize {
        let block = self.block.as_ref().map_or(0, |block| block.bytes.capacity());
        self.held + self.partial.capacity() + block
    }

    /// Frames that we said, but for PINGs and acknowledgements: each is a reason to hear something.
    pub fn wants(&self) -> u64 {
        self.wants
    }

    // What came.

    /// Reads what has come.
    pub fn handle(&mut self, mut input: &[u8], now: Instant) -> Result<(), Ended> {
        self.allowances.handle_time(now);
        if let Some(pings) = &mut self.pings {
            pings.now = Some(now);
        }
        while !input.is_empty() && self.ended.is_none() {
            match self.step(&mut input) {
                Ok(()) => {}
                Err(Wrong::Stream(id, code)) => self.blame(id, code)?,
                Err(Wrong::Connection(code)) => return Err(self.fail(code)),
            }
            if let Some(cheap) = S::spent(&self.allowances) {
                return Err(self.spend(cheap));
            }
            // It ends where both sides know that it is over, whatever came in the same read.
            if self.peer_leaves.is_some() || self.side.is_leaving() {
                self.check_over();
            }
        }
        self.check_over();
        Ok(())
    }

    /// Nothing more will come.
    pub fn handle_end(&mut self) {
        self.finish(Ok(()));
    }

    #[cold]
    fn spend(&mut self, cheap: Cheap) -> Ended {
        self.fail(Code::CALM);
        let ended = Ended::Fault(cheap.name());
        self.ended = Some(Err(ended));
        ended
    }

    #[cold]
    fn fail(&mut self, code: Code) -> Ended {
        self.out.push(&go_away(self.side.last(), code));
        let ended = Ended::Fault(match code {
            Code::CALM => "h2_calm",
            Code::FLOW_CONTROL => "h2_flow_control",
            Code::FRAME_SIZE => "h2_frame_size",
            Code::COMPRESSION => "h2_compression",
            _ => "h2_protocol",
        });
        self.finish(Err(ended));
        ended
    }

    /// Ends all streams and the connection.
    fn finish(&mut self, how: Result<(), Ended>) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(how);
        self.block = None;
        self.partial = Vec::new();
        self.line.clear();
        S::clear(self);
        for key in self.streams.keys() {
            self.lose(key, Lost::Gone);
            self.streams.close(key, true);
        }
    }

    /// A stream that the peer got wrong is reset.
    #[cold]
    fn blame(&mut self, id: u32, code: Code) -> Result<(), Ended> {
        if !self.allowances.blame() && S::ends_with_fault(&self.allowances) {
            return Err(self.fail(Code::CALM));
        }
        match self.streams.find(id) {
            Some(key) => self.end_faulty(key, code),
            None => {
                self.say(&frame::reset(id, code));
                self.streams.remember_reset(id);
            }
        }
        Ok(())
    }

    /// An open stream is reset because of what came.
    #[cold]
    fn end_faulty(&mut self, key: Key, code: Code) {
        self.say(&frame::reset(key.id, code));
        self.lose(key, Lost::Fault(code));
        self.streams.close(key, true);
    }

    fn step(&mut self, input: &mut &[u8]) -> Result<(), Wrong> {
        match self.stage {
            Stage::Head => {
                let Some(head) = self.take_head(input) else { return Ok(()) };
                self.begin_frame(head)
            }
            Stage::Whole(head) => {
                let length = head.length as usize;
                if self.partial.is_empty() && input.len() >= length {
                    let (payload, rest) = input.split_at(length);
                    *input = rest;
                    self.stage = Stage::Head;
                    return self.obey(head, payload);
                }
                let taken = (length - self.partial.len()).min(input.len());
                self.partial.extend_from_slice(&input[..taken]);
                *input = &input[taken..];
                if self.partial.len() < length {
                    return Ok(());
                }
                self.stage = Stage::Head;
                let payload = std::mem::take(&mut self.partial);
                self.obey(head, &payload)
            }
            Stage::Data(frame) => self.take_data(frame, input),
            Stage::Skip(left) => {
                let taken = (left as usize).min(input.len());
                *input = &input[taken..];
                let left = left - taken as u32;
                self.stage = if left == 0 { Stage::Head } else { Stage::Skip(left) };
                Ok(())
            }
            Stage::Preface(have) => {
                let taken = (PREFACE.len() - have).min(input.len());
                if input[..taken] != PREFACE[have..have + taken] {
                    return Err(Code::PROTOCOL.into());
                }
                *input = &input[taken..];
                let have = have + taken;
                self.stage = if have == PREFACE.len() { Stage::Head } else { Stage::Preface(have) };
                Ok(())
            }
        }
    }

    #[inline]
    fn take_head(&mut self, input: &mut &[u8]) -> Option<Head> {
        if self.partial.is_empty()
            && let Some((head, rest)) = input.split_first_chunk()
        {
            *input = rest;
            return Some(Head::read(head));
        }
        let taken = (HEAD - self.partial.len()).min(input.len());
        self.partial.extend_from_slice(&input[..taken]);
        *input = &input[taken..];
        let head = Head::read(self.partial.first_chunk()?);
        self.partial = Vec::new();
        Some(head)
    }

    fn begin_frame(&mut self, head: Head) -> Result<(), Wrong> {
        self.allowances.handle_frame(&head, S::ANSWERS);
        if head.length > self.bounds.frame_bytes {
            return Err(Code::FRAME_SIZE.into());
        }
        if !self.has_settings && (head.kind != SETTINGS || head.has(ACK)) {
            return Err(Code::PROTOCOL.into());
        }
        // Nothing stands between the parts of a head (RFC 9113 section 6.10).
        match &self.block {
            Some(block) if head.kind != CONTINUATION || head.stream != block.stream => {
                return Err(Code::PROTOCOL.into());
            }
            None if head.kind == CONTINUATION => return Err(Code::PROTOCOL.into()),
            _ => {}
        }
        let of_connection = matches!(head.kind, SETTINGS | PING | GOAWAY);
        let of_stream = matches!(head.kind, DATA | HEADERS | PRIORITY | RST_STREAM);
        if of_connection && head.stream != 0 || of_stream && head.stream == 0 {
            return Err(Code::PROTOCOL.into());
        }
        let sound = match head.kind {
            DATA => return self.begin_data(head),
            PRIORITY => head.length == 5,
            RST_STREAM | WINDOW_UPDATE => head.length == 4,
            SETTINGS if head.has(ACK) => head.length == 0,
            SETTINGS => head.length.is_multiple_of(6),
            PUSH_PROMISE => return Err(Code::PROTOCOL.into()),
            PING => head.length == 8,
            GOAWAY => head.length >= 8,
            HEADERS | CONTINUATION => true,
            _ => {
                if head.length > 0 {
                    self.stage = Stage::Skip(head.length);
                }
                return Ok(());
            }
        };
        if !sound {
            return Err(Code::FRAME_SIZE.into());
        }
        if head.length == 0 {
            return self.obey(head, &[]);
        }
        self.stage = Stage::Whole(head);
        Ok(())
    }

    fn obey(&mut self, head: Head, payload: &[u8]) -> Result<(), Wrong> {
        let four = |at: usize| payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; 4]);
        match head.kind {
            HEADERS => self.begin_block(head, payload),
            CONTINUATION => {
                let most = self.bounds.header_list_bytes * hpack::READ_AHEAD;
                let Some(block) = &mut self.block else { return Ok(()) };
                if block.bytes.len() + payload.len() > most {
                    return Err(Code::CALM.into());
                }
                block.bytes.extend_from_slice(payload);
                match self.block.take_if(|_| head.has(END_HEADERS)) {
                    Some(block) => self.finish_block(block.stream, block.ends, &block.bytes),
                    None => Ok(()),
                }
            }
            PRIORITY if frame::number(four(0)) == head.stream => Err(Code::PROTOCOL.into()),
            RST_STREAM => self.handle_reset(head.stream, Code(u32::from_be_bytes(four(0)))),
            SETTINGS if head.has(ACK) => Ok(()),
            SETTINGS => self.handle_settings(payload),
            PING if head.has(ACK) => {
                self.handle_pong(payload);
                Ok(())
            }
            PING => {
                let requests = self.streams.open();
                if self.pings.as_mut().is_some_and(|pings| pings.handle(requests)) {
                    self.out.push(&frame::go_away_saying(self.side.last(), Code::CALM, pings::TOO_MANY));
                    self.finish(Err(Ended::Fault("grpc_pings")));
                    return Ok(());
                }
                self.out.push(&ping(ACK, payload.try_into().unwrap_or_default()));
                Ok(())
            }
            GOAWAY => {
                self.peer_leaves = Some(Code(u32::from_be_bytes(four(4))));
                S::handle_go_away(self, frame::number(four(0)));
                Ok(())
            }
            WINDOW_UPDATE => self.handle_window(head.stream, frame::number(four(0))),
            _ => Ok(()),
        }
    }

    fn handle_reset(&mut self, id: u32, code: Code) -> Result<(), Wrong> {
        if self.is_idle(id) {
            return Err(Code::PROTOCOL.into());
        }
        let Some(key) = self.streams.find(id) else { return Ok(()) };
        S::handle_reset(self, key)?;
        self.lose(key, Lost::Reset(code));
        self.streams.close(key, false);
        Ok(())
    }

    /// No request has gone with this number, and none will that went before the last (RFC 9113 section 5.1.1).
    fn is_idle(&self, id: u32) -> bool {
        id > self.highest || id.is_multiple_of(2)
    }

    fn handle_settings(&mut self, payload: &[u8]) -> Result<(), Wrong> {
        // Each change is made to all streams: several in a frame are made as one.
        let mut first_window = None;
        for setting in payload.chunks_exact(6) {
            let id = u16::from_be_bytes([setting[0], setting[1]]);
            let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
            match id {
                HEADER_TABLE_SIZE => self.shrinks_table |= value < FIELD_TABLE,
                INITIAL_WINDOW_SIZE if value > 0x7fff_ffff => return Err(Code::FLOW_CONTROL.into()),
                INITIAL_WINDOW_SIZE => first_window = Some(value),
                MAX_FRAME_SIZE if !(16 * 1024..=0xff_ffff).contains(&value) => return Err(Code::PROTOCOL.into()),
                MAX_FRAME_SIZE => self.frame_most = value as usize,
                _ => self.side.handle_setting(id, value)?,
            }
        }
        if let Some(window) = first_window.filter(|window| *window != self.first_window) {
            self.set_first_window(window)?;
        }
        self.has_settings = true;
        self.out.push(&settings_ack());
        Ok(())
    }

    fn set_first_window(&mut self, window: u32) -> Result<(), Wrong> {
        let change = i64::from(window) - i64::from(self.first_window);
        self.first_window = window;
        for key in self.streams.keys() {
            if let Some(stream) = self.streams.stream(key) {
                stream.window.add(change).map_err(|_| Code::FLOW_CONTROL)?;
            }
            self.enter_line(key);
        }
        Ok(())
    }

    fn handle_window(&mut self, id: u32, bytes: u32) -> Result<(), Wrong> {
        if id == 0 {
            if bytes == 0 {
                return Err(Code::PROTOCOL.into());
            }
            self.is_stuck = false;
            return self.window.add(bytes.into()).map_err(|_| Code::FLOW_CONTROL.into());
        }
        if self.is_idle(id) {
            return Err(Code::PROTOCOL.into());
        }
        let Some(key) = self.streams.find(id) else { return Ok(()) };
        if bytes == 0 {
            return Err(Wrong::Stream(id, Code::PROTOCOL));
        }
        if let Some(stream) = self.streams.stream(key) {
            stream.window.add(bytes.into()).map_err(|_| Wrong::Stream(id, Code::FLOW_CONTROL))?;
        }
        self.enter_line(key);
        Ok(())
    }

    fn handle_pong(&mut self, payload: &[u8]) {
        if payload == ASKING {
            self.asked = false;
        }
        S::handle_pong(self, payload);
    }

    // Bodies that come.

    fn begin_data(&mut self, head: Head) -> Result<(), Wrong> {
        let Head { stream, length, .. } = head;
        if self.is_idle(stream) {
            return Err(Code::PROTOCOL.into());
        }
        if head.has(PADDED) && length == 0 {
            return Err(Code::FRAME_SIZE.into());
        }
        self.received.came(length).map_err(|_| Code::FLOW_CONTROL)?;
        let (key, wrong) = match self.streams.find(stream) {
            None => {
                let is_known = self.side.ignores(stream) || self.streams.was_reset(stream);
                if is_known && length == 0 && head.has(END_STREAM) {
                    S::handle_late(&mut self.allowances);
                }
                (None, (!is_known).then_some(Code::STREAM_CLOSED))
            }
            Some(key) => match self.streams.stream(key) {
                Some(open) if !S::takes_data(&open.side) => (None, Some(Code::PROTOCOL)),
                Some(open) if open.coming == Direction::Open => match open.received.came(length) {
                    Ok(()) => (Some(key), None),
                    Err(_) => (None, Some(Code::FLOW_CONTROL)),
                },
                _ => (None, Some(Code::STREAM_CLOSED)),
            },
        };
        if key.is_none() {
            self.received.took(length);
            self.open_window();
        }
        let padding = if head.has(PADDED) { None } else { Some(0) };
        let frame = DataFrame { stream, key, left: length, padding, ends: head.has(END_STREAM) };
        self.stage = Stage::Data(frame);
        if let Some(code) = wrong {
            // What is left of the frame is skipped.
            self.stage = if length == 0 { Stage::Head } else { Stage::Skip(length) };
            return Err(Wrong::Stream(stream, code));
        }
        if length == 0 { self.end_data(frame) } else { Ok(()) }
    }

    fn take_data(&mut self, mut frame: DataFrame, input: &mut &[u8]) -> Result<(), Wrong> {
        let padding = match frame.padding {
            Some(padding) => padding,
            None => {
                let Some((&said, rest)) = input.split_first() else { return Ok(()) };
                *input = rest;
                frame.left -= 1;
                let padding = u32::from(said);
                if padding > frame.left {
                    return Err(Code::PROTOCOL.into());
                }
                frame.padding = Some(padding);
                match frame.ends {
                    _ if padding < frame.left => {}
                    false => self.allowances.handle_padding(),
                    true if frame.key.is_none() => S::handle_late(&mut self.allowances),
                    true => {}
                }
                self.throw_away(frame.key, 1 + padding);
                padding
            }
        };
        let body = ((frame.left - padding) as usize).min(input.len());
        let (piece, rest) = input.split_at(body);
        *input = rest;
        frame.left -= body as u32;
        let skipped = if frame.left == padding { (padding as usize).min(input.len()) } else { 0 };
        *input = &input[skipped..];
        frame.left -= skipped as u32;
        frame.padding = Some(padding.min(frame.left));
        self.stage = if frame.left == 0 { Stage::Head } else { Stage::Data(frame) };
        if body > 0 {
            self.take_body(frame, piece)?;
        }
        if frame.left == 0 { self.end_data(frame) } else { Ok(()) }
    }

    fn take_body(&mut self, frame: DataFrame, piece: &[u8]) -> Result<(), Wrong> {
        // One that was reset meanwhile has given back all that was to come.
        let Some(stream) =
            frame.key.filter(|key| self.streams.find(key.id).is_some()).and_then(|key| self.streams.stream(key))
        else {
            return Ok(());
        };
        if let Some(left) = &mut stream.length {
            match left.checked_sub(piece.len() as u64) {
                Some(rest) => *left = rest,
                None => {
                    if frame.left > 0 {
                        self.stage = Stage::Skip(frame.left);
                    }
                    return Err(Wrong::Stream(frame.stream, Code::PROTOCOL));
                }
            }
        }
        if stream.discards {
            self.throw_away(frame.key, piece.len() as u32);
        } else {
            stream.body.push(piece);
            stream.wake_reader();
        }
        Ok(())
    }

    fn end_data(&mut self, frame: DataFrame) -> Result<(), Wrong> {
        match frame.key.filter(|key| frame.ends && self.streams.find(key.id).is_some()) {
            Some(key) => self.end_coming(key),
            None => Ok(()),
        }
    }

    /// The end of a message came.
    fn end_coming(&mut self, key: Key) -> Result<(), Wrong> {
        let Some(stream) = self.streams.stream(key) else { return Ok(()) };
        if stream.length.is_some_and(|left| left > 0) {
            return Err(Wrong::Stream(key.id, Code::PROTOCOL));
        }
        stream.coming = Direction::Closed;
        stream.wake_reader();
        self.close_if_over(key);
        Ok(())
    }

    /// Bytes that nobody wants are taken.
    fn throw_away(&mut self, key: Option<Key>, bytes: u32) {
        let Some(key) = key.filter(|key| self.streams.find(key.id).is_some()) else { return };
        if let Some(stream) = self.streams.stream(key) {
            stream.received.took(bytes);
            self.received.took(bytes);
            self.open_windows(key);
        }
    }

    // Heads that come.

    fn begin_block(&mut self, head: Head, payload: &[u8]) -> Result<(), Wrong> {
        if head.stream.is_multiple_of(2) {
            return Err(Code::PROTOCOL.into());
        }
        let mut block = payload;
        if head.has(PADDED) {
            let (&padding, rest) = block.split_first().ok_or(Code::FRAME_SIZE)?;
            let end = rest.len().checked_sub(padding.into()).ok_or(Code::PROTOCOL)?;
            block = &rest[..end];
        }
        if head.has(PRIORITIZED) {
            let (first, rest) = block.split_at_checked(5).ok_or(Code::FRAME_SIZE)?;
            if frame::number([first[0], first[1], first[2], first[3]]) == head.stream {
                return Err(Code::PROTOCOL.into());
            }
            block = rest;
        }
        let ends = head.has(END_STREAM);
        if head.has(END_HEADERS) {
            return self.finish_block(head.stream, ends, block);
        }
        self.block = Some(Block { stream: head.stream, ends, bytes: block.to_vec() });
        Ok(())
    }

    fn finish_block(&mut self, id: u32, ends: bool, block: &[u8]) -> Result<(), Wrong> {
        let mut section = spare();
        let kept = self.decoder.decode(block, self.bounds.header_list_bytes, &mut section);
        let kept = kept.map_err(|unread| match unread {
            hpack::Unread::Broken => Code::COMPRESSION,
            hpack::Unread::TooMuch => Code::CALM,
        })?;
        S::handle_fields(self, id, ends, Fields { section, kept })
    }

    fn handle_trailers(&mut self, key: Key, ends: bool, fields: Fields) -> Result<(), Wrong> {
        let Some(stream) = self.streams.stream(key) else { return Ok(()) };
        if stream.coming != Direction::Open {
            return Err(Wrong::Stream(key.id, Code::STREAM_CLOSED));
        }
        let is_sound = fields.section.iter().all(|(name, _)| coding::check_name(name).is_ok());
        if !ends || !is_sound {
            return Err(Wrong::Stream(key.id, Code::PROTOCOL));
        }
        // They lie there for as long as nobody reads the body, and what names a table over and over is small on the wire.
        let (bytes, count) = (fields.section.bytes(), fields.section.len());
        let trailers = match fields.kept {
            Kept::All if bytes > self.bounds.trailer_bytes => Err(Fault::TrailersTooLarge),
            Kept::All if count > self.bounds.trailers_most => Err(Fault::TooManyTrailers),
            Kept::All => Ok(fields.section),
            Kept::Part => Err(Fault::TrailersTooLarge),
        };
        if !stream.discards {
            self.held += memory(&trailers);
            stream.trailers = Some(Box::new(trailers));
        }
        self.end_coming(key)
    }

    // Commands of the connection.

    /// So many bytes of all bodies may have come and not be taken.
    pub fn set_window(&mut self, bytes: u32) {
        self.received.set_target(bytes);
        self.open_window();
    }

    /// Ends it. What was written before is sent first.
    pub fn end(&mut self, code: Code) {
        if self.ended.is_none() {
            self.out.push(&frame::go_away(self.side.last(), code));
            self.finish(Ok(()));
        }
    }

    pub fn ask(&mut self) {
        if !self.asked && self.ended.is_none() {
            self.asked = true;
            self.out.push(&ping(0, ASKING));
        }
    }

    // Commands of a stream.

    /// The next bytes of a body.
    pub fn poll_data(&mut self, key: Key, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Lost>> {
        let Some(stream) = self.streams.stream(key) else { return Poll::Ready(Err(Lost::Gone)) };
        if let Some(piece) = stream.body.pop() {
            let bytes = piece.len() as u32;
            stream.received.took(bytes);
            self.received.took(bytes);
            self.open_windows(key);
            return Poll::Ready(Ok(Some(piece)));
        }
        if let Some(broken) = stream.broken {
            return Poll::Ready(Err(broken));
        }
        if stream.coming == Direction::Closed {
            return Poll::Ready(Ok(None));
        }
        match &mut stream.reader {
            Some(waker) => waker.clone_from(cx.waker()),
            None => stream.reader = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    pub fn take_trailers(&mut self, key: Key) -> Option<Result<Section, Fault>> {
        let trailers = *self.streams.stream(key)?.trailers.take()?;
        self.held -= memory(&trailers);
        Some(trailers)
    }

    /// All of a body was taken.
    pub fn is_body_over(&self, key: Key) -> bool {
        self.streams.peek(key).is_none_or(|stream| {
            stream.coming == Direction::Closed && stream.body.is_empty() && stream.trailers.is_none()
        })
    }

    /// Somebody else has to do with a stream, too.
    pub fn hold(&mut self, key: Key) {
        if let Some(stream) = self.streams.stream(key) {
            stream.handles += 1;
        }
    }

    /// Nobody reads its body any more.
    pub fn discard(&mut self, key: Key) {
        drop(self.take_trailers(key));
        S::forget_heads(self, key);
        let Some(stream) = self.streams.stream(key) else { return };
        stream.discards = true;
        stream.body.clear();
        let unread = stream.received.unread();
        // What has begun to come of a frame is thrown away as it comes, and that of a stream that was lost was when it was.
        let is_lost = stream.broken.is_some();
        let coming = if is_lost { 0 } else { self.coming(key).min(unread) };
        let Some(stream) = self.streams.stream(key) else { return };
        let unread = unread - coming;
        stream.received.took(unread);
        self.received.took(unread);
        self.open_window();
    }

    /// Bytes of the frame that has begun to come which a stream will be given.
    fn coming(&self, key: Key) -> u32 {
        match self.stage {
            Stage::Data(frame) if frame.key == Some(key) => frame.left - frame.padding.unwrap_or(0),
            _ => 0,
        }
    }

    /// Somebody has nothing more to do with it. Once nobody has, it is reset unless it has ended.
    pub fn let_go(&mut self, key: Key) {
        let Some(stream) = self.streams.stream(key) else { return };
        stream.handles -= 1;
        if stream.handles > 0 {
            return;
        }
        self.discard(key);
        if self.streams.find(key.id).is_none() {
            return self.streams.forget(key);
        }
        S::abandon(self, key);
    }

    /// Ready once the peer has given it up, or the connection has ended.
    pub fn poll_gone(&mut self, key: Key, cx: &mut Context<'_>) -> Poll<()> {
        let Some(stream) = self.streams.stream(key) else { return Poll::Ready(()) };
        if stream.is_gone {
            return Poll::Ready(());
        }
        match &mut stream.writer {
            Some(waker) => waker.clone_from(cx.waker()),
            None => stream.writer = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    pub fn reset(&mut self, key: Key, code: Code) {
        if self.streams.find(key.id).is_some() {
            // Of one whose head has not gone out the peer knows nothing.
            let is_known = key.id <= self.highest;
            if is_known {
                self.say(&frame::reset(key.id, code));
            }
            self.lose(key, Lost::Gone);
            self.streams.close(key, is_known);
        }
    }

    /// The head of an answer, an interim one, or trailers: a field block.
    pub fn send_fields(&mut self, key: Key, block: &[u8], ends: bool) -> Result<(), Gone> {
        let is_free = self.is_free();
        let stream = self.sending(key, ends)?;
        if !is_free || !stream.waiting.is_empty() {
            stream.waiting.push_back(Item::Fields(block.into()));
            self.enter_line(key);
            return Ok(());
        }
        self.write_fields(key.id, block, ends);
        if ends {
            self.close_going(key);
        }
        Ok(())
    }

    /// What windows do not allow yet waits, whatever its size.
    pub fn send_data(&mut self, key: Key, mut data: Data, ends: bool) -> Result<(), Gone> {
        let is_free = self.is_free();
        let stream = self.sending(key, ends)?;
        if data.remaining() == 0 && !ends {
            return Ok(());
        }
        if is_free && stream.waiting.is_empty() {
            while self.out.len() < OUT_MOST {
                match self.write_data(key, &mut data, ends) {
                    Wrote::Some => {}
                    Wrote::All => {
                        if ends {
                            self.close_going(key);
                        }
                        return Ok(());
                    }
                    Wrote::Nothing => break,
                }
            }
        }
        if let Some(stream) = self.streams.stream(key) {
            stream.waiting.push_back(Item::Data(data));
        }
        self.enter_line(key);
        Ok(())
    }

    pub fn send_end(&mut self, key: Key) -> Result<(), Gone> {
        let is_free = self.is_free();
        let stream = self.sending(key, true)?;
        if is_free && stream.waiting.is_empty() {
            self.write_end(key);
        } else {
            self.enter_line(key);
        }
        Ok(())
    }

    /// The stream, if more may be said on it.
    fn sending(&mut self, key: Key, ends: bool) -> Result<&mut Stream<S::OfStream>, Gone> {
        let stream = self.streams.stream(key).filter(|stream| !stream.is_gone && stream.going == Direction::Open);
        let stream = stream.ok_or(Gone)?;
        if ends {
            stream.going = Direction::Ended;
        }
        Ok(stream)
    }

    // What is sent.

    /// What goes to the transport.
    pub fn out(&mut self) -> &mut Out {
        &mut self.out
    }

    /// Something is to be sent, or could be.
    pub fn has_output(&self) -> bool {
        let has_line = !self.line.is_empty() && !self.is_stuck;
        !self.out.is_empty() || has_line || self.ended.is_some() || S::has_more(self)
    }

    /// A frame that is a reason to hear something.
    fn say(&mut self, frame: &[u8]) {
        self.wants += 1;
        self.out.push(frame);
    }

    /// Whether the transport takes more than what is there already.
    pub fn set_blocked(&mut self, blocked: bool) {
        self.is_blocked = blocked;
    }

    /// Lets streams that wait say what windows allow, a frame each in turn. True when more could be said once the transport has taken
    /// what is there.
    pub fn pump(&mut self) -> bool {
        let more_begin = S::begin_more(self);
        self.run_line(usize::MAX);
        self.check_over();
        more_begin || self.line.front().is_some() && (self.window.room() > 0 || self.out.len() >= OUT_MOST)
    }

    /// Nobody waits before one who has something to say now.
    fn is_free(&self) -> bool {
        !self.is_blocked && self.line.is_empty() && self.out.len() < OUT_MOST
    }

    fn enter_line(&mut self, key: Key) {
        // One whose head has not gone out waits for that elsewhere.
        if key.id <= self.highest
            && let Some(stream) = self.streams.stream(key)
            && !stream.in_line
            && !stream.is_gone
            && stream.has_work()
        {
            stream.in_line = true;
            self.line.push_back(key);
            self.is_stuck = false;
        }
    }

    fn run_line(&mut self, most: usize) {
        self.is_stuck = self.is_blocked;
        if self.is_blocked {
            return;
        }
        // Those that wait for the window of the connection keep their places. It is over once all of them have been seen one after the
        // other: one between that was written may have more to say that needs no window.
        let mut shut = 0;
        for _ in 0..most {
            if self.out.len() >= OUT_MOST || shut == self.line.len() {
                self.is_stuck = shut == self.line.len();
                break;
            }
            let Some(key) = self.line.pop_front() else { break };
            let Some(stream) = self.streams.stream(key) else { continue };
            let is_shut = self.window.room() == 0
                && matches!(stream.waiting.front(), Some(Item::Data(data)) if data.remaining() > 0);
            if is_shut {
                self.line.push_back(key);
                shut += 1;
                continue;
            }
            stream.in_line = false;
            shut = 0;
            self.write_next(key);
            self.enter_line(key);
        }
    }

    /// Something is sent that clients may measure the path by.
    fn forgive_pings(&mut self) {
        if let Some(pings) = &mut self.pings {
            pings.forgive();
        }
    }

    /// Writes the next frame of a stream.
    fn write_next(&mut self, key: Key) {
        let Some(stream) = self.streams.stream(key) else { return };
        let going = stream.going;
        match stream.waiting.pop_front() {
            Some(Item::Fields(block)) => {
                let ends = going == Direction::Ended && stream.waiting.is_empty();
                self.write_fields(key.id, &block, ends);
                if ends {
                    self.close_going(key);
                }
            }
            Some(Item::Data(mut data)) => {
                let ends = going == Direction::Ended && stream.waiting.is_empty();
                match self.write_data(key, &mut data, ends) {
                    Wrote::All if ends => self.close_going(key),
                    Wrote::All => {}
                    Wrote::Some | Wrote::Nothing => {
                        if let Some(stream) = self.streams.stream(key) {
                            stream.waiting.push_front(Item::Data(data));
                        }
                    }
                }
            }
            None if going == Direction::Ended => self.write_end(key),
            None => {
                if let Some(code) = stream.then.take() {
                    self.reset(key, code);
                }
            }
        }
    }

    /// Writes one frame of `data`; the last one ends the stream if it is to end.
    fn write_data(&mut self, key: Key, data: &mut Data, ends: bool) -> Wrote {
        let Some(stream) = self.streams.stream(key) else { return Wrote::Nothing };
        let whole = data.remaining();
        let length = whole.min(DATA_MOST).min(self.frame_most).min(stream.window.room()).min(self.window.room());
        if length == 0 && whole > 0 {
            return Wrote::Nothing;
        }
        let is_last = length == whole;
        let flags = if is_last && ends { END_STREAM } else { 0 };
        stream.window.sent(length);
        self.window.sent(length);
        self.wants += 1;
        self.out.push_data(Head { length: length as u32, kind: DATA, flags, stream: key.id }, data);
        if length > 0 {
            self.allowances.sent_data();
            self.allowances.sent(length as u64);
            self.forgive_pings();
        }
        if is_last { Wrote::All } else { Wrote::Some }
    }

    fn write_end(&mut self, key: Key) {
        self.say(&Head { length: 0, kind: DATA, flags: END_STREAM, stream: key.id }.written());
        self.close_going(key);
    }

    fn write_fields(&mut self, id: u32, block: &[u8], ends: bool) {
        if std::mem::take(&mut self.shrinks_table) {
            let mut shrunk = Vec::with_capacity(block.len() + 1);
            hpack::encoder::shrink_table(&mut shrunk);
            shrunk.extend_from_slice(block);
            return self.write_fields(id, &shrunk, ends);
        }
        self.forgive_pings();
        let mut rest = block;
        let mut kind = HEADERS;
        loop {
            let (piece, after) = rest.split_at(rest.len().min(self.frame_most).min(16 * 1024));
            rest = after;
            let mut flags = if rest.is_empty() { END_HEADERS } else { 0 };
            if kind == HEADERS && ends {
                flags |= END_STREAM;
            }
            self.say(&Head { length: piece.len() as u32, kind, flags, stream: id }.written());
            self.out.push(piece);
            if rest.is_empty() {
                return;
            }
            kind = CONTINUATION;
        }
    }

    /// The end of a message was written.
    fn close_going(&mut self, key: Key) {
        let Some(stream) = self.streams.stream(key) else { return };
        stream.going = Direction::Closed;
        if !self.close_if_over(key)
            && let Some(code) = self.streams.stream(key).and_then(|stream| stream.then.take())
        {
            self.reset(key, code);
        }
    }

    fn close_if_over(&mut self, key: Key) -> bool {
        let is_closed =
            |stream: &Stream<S::OfStream>| (stream.coming, stream.going) == (Direction::Closed, Direction::Closed);
        let is_over = self.streams.peek(key).is_some_and(is_closed);
        if is_over {
            self.streams.close(key, false);
        }
        is_over
    }

    /// The stream was reset, by whomever: nothing more comes and nothing more goes.
    fn lose(&mut self, key: Key, broken: Lost) {
        let coming = self.coming(key);
        let Some(stream) = self.streams.stream(key) else { return };
        stream.is_gone = true;
        stream.in_line = false;
        if stream.coming == Direction::Open {
            stream.broken = Some(broken);
        }
        stream.waiting.clear();
        stream.then = None;
        if stream.broken.is_some() {
            let unread = stream.received.unread();
            let is_kept = S::KEEPS_LOST && !matches!(broken, Lost::Fault(_));
            let lost = if is_kept { coming.min(unread) } else { unread };
            stream.received.took(lost);
            self.received.took(lost);
            if !is_kept {
                stream.body.clear();
            }
        }
        stream.wake();
        self.line.retain(|other| *other != key);
        S::handle_lost(self, key);
        self.open_window();
    }

    /// Tells the peer of room in the windows, where that is worth it: nobody has use for more of a body that is thrown away.
    fn open_windows(&mut self, key: Key) {
        if let Some(stream) = self.streams.stream(key)
            && stream.coming == Direction::Open
            && !stream.is_gone
            && !stream.discards
            && let Some(bytes) = stream.received.take_update()
        {
            self.say(&window_update(key.id, bytes));
        }
        self.open_window();
    }

    fn open_window(&mut self) {
        if self.ended.is_none()
            && let Some(bytes) = self.received.take_update()
        {
            self.say(&window_update(0, bytes));
        }
    }

    /// A connection at rest holds no more than one that was never busy.
    fn give_back_memory(&mut self) {
        S::clear(self);
        if self.line.capacity() > 0 {
            self.line = VecDeque::new();
        }
    }

    /// It has come to its end where both sides know that no more requests come, and the last has ended.
    fn check_over(&mut self) {
        if self.ended.is_some() || self.streams.open() > 0 {
            return;
        }
        self.give_back_memory();
        match self.peer_leaves {
            Some(Code::NO_ERROR) => self.finish(Ok(())),
            Some(_) => self.finish(Err(Ended::ByPeer)),
            None if self.side.is_leaving() => {
                // A server has said so before.
                if !S::ANSWERS {
                    self.out.push(&go_away(self.side.last(), Code::NO_ERROR));
                }
                self.finish(Ok(()));
            }
            None => {}
        }
    }
}

/// Bytes of memory.
fn memory(trailers: &Result<Section, Fault>) -> usize {
    trailers.as_ref().map_or(0, Section::memory)
}

enum Wrote {
    All,
    Some,
    Nothing,
}

thread_local! {
    /// Sections that were read and are not in use, for the heads of the next requests of any connection.
    static SPARE: RefCell<Vec<Section>> = const { RefCell::new(Vec::new()) };
}

/// Sections kept, and how large each may be, in bytes.
const SPARE_MOST: usize = 64;
const SPARE_BYTES: usize = 4 * 1024;

fn spare() -> Section {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// A section whose fields were read.
pub fn give_back(section: Section) {
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < SPARE_MOST && section.memory() <= SPARE_BYTES {
            spare.push(section);
        }
    });
}

#[cfg(test)]
mod said;
#[cfg(test)]
mod tests;
