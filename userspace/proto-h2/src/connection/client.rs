//! The side that asks: requests go out as their number is up, and what comes on their streams are answers.
//!
//! A request that was begun waits until what has come was read: the server may just have said that it takes no more of them, or leaves.
//! It has its number from the beginning; until its head goes out the server knows nothing of it, and no frame names it.

use super::{Bounds, Connection, Fields, Gone, OUT_MOST, Side, Wrong, give_back};
use crate::allowances::{Allowances, Cheap};
use crate::flow::{Incoming, Outgoing};
use crate::frame::{self, *};
use crate::hpack::Kept;
use crate::settings::ClientSettings;
use crate::streams::{Direction, Item, Key, Lost, Stream, Streams};
use bytes::Buf as _;
use proto_http::multiplexed;
use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Instant;

/// No stream has a larger number.
const NUMBER_MOST: u32 = 0x7fff_ffff;

/// Frames, and faults of streams, beyond their allowances after which the requests under way do not end on their connection either.
pub const EXCESS_MOST: u32 = 256;

/// What a request wants, as far as its answer is read differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asks {
    Message,
    /// The head of a message alone: its length is that of a body which does not come.
    Head,
    /// An extended CONNECT: what comes behind a head that lets it through is no message.
    Tunnel,
}

/// What is kept of a stream beside what both sides keep.
#[derive(Debug)]
pub struct Asked {
    asks: Asks,
    /// Interim answers that nobody has read.
    interim: VecDeque<Fields>,
    /// The head, until it was read.
    head: Option<Fields>,
    /// The head has come.
    is_answered: bool,
}

/// See the module doc.
#[derive(Debug)]
pub struct Client {
    interim_most: usize,
    /// Requests that may be under way before the server has said how many.
    streams_at_first: usize,
    /// What it has said.
    streams_most: Option<usize>,
    takes_connect: bool,
    /// Requests whose heads have not gone out, in the order of their numbers.
    unopened: VecDeque<Key>,
    /// The number of the next.
    next: u32,
    /// No more are begun.
    leaves: bool,
}

impl Side for Client {
    type OfStream = Asked;

    const ANSWERS: bool = false;

    const KEEPS_LOST: bool = true;

    fn handle_fields(connection: &mut Connection<Client>, id: u32, ends: bool, fields: Fields) -> Result<(), Wrong> {
        // Nobody has asked.
        if connection.is_idle(id) {
            return Err(Code::PROTOCOL.into());
        }
        let Some(key) = connection.streams.find(id) else {
            // What was on its way when we gave it up.
            give_back(fields.section);
            connection.allowances.handle_late();
            return Ok(());
        };
        match connection.streams.peek(key) {
            Some(stream) if stream.side.is_answered => connection.handle_trailers(key, ends, fields),
            _ => connection.handle_answer(key, ends, fields),
        }
    }

    /// No body comes before its head.
    fn takes_data(stream: &Asked) -> bool {
        stream.is_answered
    }

    fn handle_reset(_: &mut Connection<Client>, _: Key) -> Result<(), Wrong> {
        Ok(())
    }

    fn handle_setting(&mut self, id: u16, value: u32) -> Result<(), Wrong> {
        match id {
            MAX_CONCURRENT_STREAMS => self.streams_most = Some(value as usize),
            // A server has nothing to say about it, and cannot take back what it offers (RFC 8441 section 3).
            ENABLE_PUSH if value != 0 => return Err(Code::PROTOCOL.into()),
            ENABLE_CONNECT_PROTOCOL if value > 1 || value == 0 && self.takes_connect => {
                return Err(Code::PROTOCOL.into());
            }
            ENABLE_CONNECT_PROTOCOL => self.takes_connect = value == 1,
            _ => {}
        }
        Ok(())
    }

    fn handle_go_away(connection: &mut Connection<Client>, last: u32) {
        let Some(code) = connection.peer_leaves else { return };
        for key in connection.streams.keys() {
            // What has not gone out will not.
            if key.id > last || key.id > connection.highest {
                connection.lose(key, Lost::LeftOut(code));
                connection.streams.close(key, true);
            }
        }
    }

    fn handle_lost(connection: &mut Connection<Client>, key: Key) {
        if key.id > connection.highest {
            connection.side.unopened.retain(|other| *other != key);
        }
    }

    fn forget_heads(connection: &mut Connection<Client>, key: Key) {
        let Some(stream) = connection.streams.stream(key) else { return };
        for fields in stream.side.interim.drain(..).chain(stream.side.head.take()) {
            connection.held -= fields.section.memory();
            give_back(fields.section);
        }
    }

    /// Before its answer has ended nobody reads the rest, and before the request has nobody says it. Behind its answer the request may
    /// wait for a window that the server never opens: whoever wants it to go out waits for that. Its end alone goes out.
    fn abandon(connection: &mut Connection<Client>, key: Key) {
        let Some(stream) = connection.streams.peek(key) else { return };
        let is_cut = stream.waiting.iter().any(|item| matches!(item, Item::Data(data) if data.has_remaining()));
        if stream.going == Direction::Open || stream.coming == Direction::Open || is_cut {
            connection.reset(key, Code::CANCEL);
            connection.check_over();
        }
    }

    fn clear(connection: &mut Connection<Client>) {
        connection.side.unopened = VecDeque::new();
    }

    /// We take no streams of a server.
    fn last(&self) -> u32 {
        0
    }

    /// Numbers only rise: one that was used and is not open is over, and what comes of it was on its way when it ended. How many of them
    /// there are depends on our clients, not on the server.
    fn ignores(&self, _: u32) -> bool {
        true
    }

    fn is_leaving(&self) -> bool {
        self.leaves
    }

    /// Those under way may end on it, unless it goes on; see [`Connection::excess`].
    fn spent(allowances: &Allowances) -> Option<Cheap> {
        allowances.spent().filter(|_| allowances.excess() > EXCESS_MOST)
    }

    fn ends_with_fault(allowances: &Allowances) -> bool {
        allowances.excess() > EXCESS_MOST
    }

    fn handle_late(allowances: &mut Allowances) {
        allowances.handle_late();
    }

    fn begin_more(connection: &mut Connection<Client>) -> bool {
        while Self::has_more(connection) {
            if connection.is_blocked || connection.out.len() >= OUT_MOST {
                return true;
            }
            let Some(key) = connection.side.unopened.pop_front() else { break };
            connection.highest = key.id;
            connection.allowances.asked();
            connection.write_next(key);
            connection.enter_line(key);
        }
        false
    }

    fn has_more(connection: &Connection<Client>) -> bool {
        let waiting = connection.side.unopened.len();
        waiting > 0 && connection.streams.open() - waiting < connection.streams_most() && connection.ended.is_none()
    }
}

impl Connection<Client> {
    /// Our preface and settings are queued. `unit`: see [`Out::new`](crate::out::Out::new).
    pub fn new(settings: &ClientSettings, now: Instant, unit: usize) -> Connection<Client> {
        let side = Client {
            interim_most: settings.interim_most,
            streams_at_first: settings.streams_at_first,
            streams_most: None,
            takes_connect: false,
            unopened: VecDeque::new(),
            next: 1,
            leaves: false,
        };
        let bounds = Bounds {
            header_list_bytes: settings.header_list_bytes as usize,
            trailer_bytes: settings.trailer_bytes,
            trailers_most: settings.trailers_most,
            frame_bytes: settings.frame_bytes,
            stream_window: settings.stream_window,
        };
        // What comes of streams that are not open is ignored, however they ended.
        let streams = Streams::new(0);
        let allowances = Allowances::new(now, settings.error_resets_most);
        let mut connection = Connection::begin(side, bounds, streams, settings.connection_window, allowances, unit);
        let mut first = PREFACE.to_vec();
        frame::settings(&settings.said(), &mut first);
        connection.say(&first);
        connection.open_window();
        connection
    }

    // What is known.

    /// The server has said what it takes.
    pub fn has_settings(&self) -> bool {
        self.has_settings
    }

    /// Whether requests may be begun.
    pub fn is_open(&self) -> bool {
        self.ended.is_none() && self.peer_leaves.is_none() && !self.side.leaves && self.side.next <= NUMBER_MOST
    }

    /// It has ended, and not in good order: neither side has said that it takes no more, or the server that something is wrong.
    pub fn is_lost(&self) -> bool {
        self.ended.is_some() && self.peer_leaves.is_none_or(|code| code != Code::NO_ERROR) && !self.side.leaves
    }

    /// Requests that may be under way at a time, as far as the server has said so: none is a number, too.
    pub fn streams_most(&self) -> usize {
        match self.has_settings {
            true => self.side.streams_most.unwrap_or(usize::MAX),
            false => self.side.streams_at_first,
        }
    }

    /// Requests that are under way, or wait for their turn.
    pub fn streams(&self) -> usize {
        self.streams.open()
    }

    /// Whether the server has said that extended CONNECT may be asked for.
    pub fn takes_connect(&self) -> bool {
        self.side.takes_connect
    }

    /// Frames that came beyond their allowances, and faults of streams beyond theirs. A server that sends any is asked for nothing more;
    /// beyond [`EXCESS_MOST`] the connection ends.
    pub fn excess(&self) -> u32 {
        self.allowances.excess()
    }

    // Commands.

    /// Begins a request, of which this is the head's field block. `ends`: nothing follows.
    pub fn open(&mut self, block: &[u8], ends: bool, asks: Asks) -> Result<Key, Gone> {
        if !self.is_open() {
            return Err(Gone);
        }
        let id = self.side.next;
        self.side.next += 2;
        let received = Incoming::new(self.bounds.stream_window, self.bounds.stream_window);
        let asked = Asked { asks, interim: VecDeque::new(), head: None, is_answered: false };
        let mut stream = Stream::new(id, asked, received, Outgoing::new(self.first_window), None);
        if ends {
            stream.going = Direction::Ended;
        }
        stream.waiting.push_back(Item::Fields(block.into()));
        let key = self.streams.insert(stream);
        self.side.unopened.push_back(key);
        Ok(key)
    }

    /// Whether its head has gone out.
    pub fn is_begun(&self, key: Key) -> bool {
        key.id <= self.highest
    }

    /// The next head: interim answers, and then the one that a body follows.
    pub fn poll_head(&mut self, key: Key, cx: &mut Context<'_>) -> Poll<Result<Fields, Lost>> {
        let Some(stream) = self.streams.stream(key) else { return Poll::Ready(Err(Lost::Gone)) };
        if let Some(fields) = stream.side.interim.pop_front().or_else(|| stream.side.head.take()) {
            self.held -= fields.section.memory();
            return Poll::Ready(Ok(fields));
        }
        if let Some(lost) = stream.broken {
            return Poll::Ready(Err(lost));
        }
        match &mut stream.reader {
            Some(waker) => waker.clone_from(cx.waker()),
            None => stream.reader = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// What was read of an answer has not the form of one, or is beyond a bound. Its stream alone ends: that one endpoint of a server
    /// answers so is nothing to those who share the connection with it.
    pub fn refuse(&mut self, key: Key) {
        if self.streams.find(key.id).is_some() {
            self.end_faulty(key, Code::PROTOCOL);
        }
    }

    /// No more requests are begun. Once the last one has ended the connection does.
    pub fn leave(&mut self) {
        self.side.leaves = true;
        self.check_over();
    }

    // Heads that come.

    fn handle_answer(&mut self, key: Key, ends: bool, fields: Fields) -> Result<(), Wrong> {
        let wrong = |code| Err(Wrong::Stream(key.id, code));
        // It is not read in part: what is missing may be what matters. A bound of ours is no rule that the server breaks.
        if fields.kept == Kept::Part {
            give_back(fields.section);
            self.end_faulty(key, Code::CALM);
            return Ok(());
        }
        let Some(status) = multiplexed::status(&fields.section) else { return wrong(Code::PROTOCOL) };
        let Some(stream) = self.streams.stream(key) else { return Ok(()) };
        if status < 200 {
            if ends {
                return wrong(Code::PROTOCOL);
            }
            if stream.side.interim.len() >= self.side.interim_most {
                give_back(fields.section);
                self.end_faulty(key, Code::CALM);
                return Ok(());
            }
            self.held += fields.section.memory();
            stream.side.interim.push_back(fields);
            stream.wake_reader();
            return Ok(());
        }
        let length = match stream.side.asks {
            Asks::Tunnel if status < 300 => None,
            Asks::Head => Some(0),
            _ if matches!(status, 204 | 304) => Some(0),
            _ => length(&fields),
        };
        // Nobody is given a head whose body will not come.
        if ends && length.is_some_and(|bytes| bytes > 0) {
            return wrong(Code::PROTOCOL);
        }
        stream.side.is_answered = true;
        stream.length = length;
        self.held += fields.section.memory();
        stream.side.head = Some(fields);
        if ends {
            return self.end_coming(key);
        }
        stream.wake_reader();
        Ok(())
    }
}

/// How long the body is announced to be. What is no number, or several, is found when the head is read.
fn length(fields: &Fields) -> Option<u64> {
    let (_, value) = fields.section.iter().find(|(name, _)| *name == b"content-length")?;
    std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
