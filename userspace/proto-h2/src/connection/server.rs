//! The side that answers: requests come, and are taken for as long as it does not leave.

use super::{Bounds, Connection, Fields, Side, Stage, Wrong, give_back};
use crate::allowances::{Allowances, Cheap};
use crate::flow::{Incoming, Outgoing};
use crate::frame::{self, *};
use crate::hpack::Kept;
use crate::pings::Pings;
use crate::settings::ServerSettings;
use crate::streams::{Direction, Key, Stream, Streams};
use proto_http::Known;
use proto_http::coding::{self, Malformed, Section};
use std::collections::VecDeque;
use std::time::Instant;

/// What a PING of ours says: that the client is to be gone once it answers.
const LEAVING: [u8; 8] = *b"leaving!";

/// A request that began.
#[derive(Debug)]
pub struct Accepted {
    pub key: Key,
    pub head: Fields,
    /// Nothing comes after the head.
    pub is_whole: bool,
}

/// Whether more requests are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// The client was told to send no more; what it sent before it could know is taken.
    Said,
    /// It knows: what it sends now is not looked at.
    Known,
}

/// See the module doc.
#[derive(Debug)]
pub struct Server {
    streams_most: usize,
    resets_unseen_most: usize,
    connect_protocol: bool,
    pub(super) accepted: VecDeque<Accepted>,
    /// The last stream that was taken.
    last: u32,
    leaving: Leaving,
    resets_unseen: usize,
}

impl Side for Server {
    type OfStream = ();

    const ANSWERS: bool = true;

    const KEEPS_LOST: bool = false;

    fn handle_fields(connection: &mut Connection<Server>, id: u32, ends: bool, fields: Fields) -> Result<(), Wrong> {
        if let Some(key) = connection.streams.find(id) {
            return connection.handle_trailers(key, ends, fields);
        }
        if id > connection.highest {
            connection.highest = id;
            if connection.side.leaving == Leaving::Known {
                return Ok(());
            }
            return connection.begin_request(id, ends, fields);
        }
        if connection.streams.was_reset(id) || connection.side.ignores(id) {
            return Ok(());
        }
        let code = if connection.streams.has_ended(id) { Code::STREAM_CLOSED } else { Code::PROTOCOL };
        Err(code.into())
    }

    fn takes_data((): &()) -> bool {
        true
    }

    fn handle_reset(connection: &mut Connection<Server>, key: Key) -> Result<(), Wrong> {
        if connection.forget_request(key) {
            connection.side.resets_unseen += 1;
            if connection.side.resets_unseen > connection.side.resets_unseen_most {
                return Err(Code::CALM.into());
            }
        }
        Ok(())
    }

    fn handle_setting(&mut self, id: u16, value: u32) -> Result<(), Wrong> {
        if id == ENABLE_PUSH && value > 1 { Err(Code::PROTOCOL.into()) } else { Ok(()) }
    }

    /// It promises nothing that a client could leave out.
    fn handle_go_away(_: &mut Connection<Server>, _: u32) {}

    fn handle_pong(connection: &mut Connection<Server>, payload: &[u8]) {
        if payload == LEAVING && connection.side.leaving == Leaving::Said {
            connection.know();
        }
    }

    fn handle_lost(connection: &mut Connection<Server>, key: Key) {
        connection.forget_request(key);
    }

    /// Before its answer has ended because that will not come, before its request has because nobody reads the rest (RFC 9113 section
    /// 8.1); what was said before goes out first.
    fn abandon(connection: &mut Connection<Server>, key: Key) {
        let Some(stream) = connection.streams.stream(key) else { return };
        match (stream.going, stream.coming) {
            (Direction::Open, _) => stream.then = Some(Code::CANCEL),
            (_, Direction::Open) => stream.then = Some(Code::NO_ERROR),
            _ => {}
        }
        connection.enter_line(key);
        if connection.line.len() == 1 {
            connection.run_line(1);
        }
    }

    fn clear(connection: &mut Connection<Server>) {
        for accepted in std::mem::take(&mut connection.side.accepted) {
            connection.held -= accepted.head.section.memory();
        }
    }

    fn last(&self) -> u32 {
        self.last
    }

    fn ignores(&self, id: u32) -> bool {
        self.leaving == Leaving::Known && id > self.last
    }

    fn is_leaving(&self) -> bool {
        self.leaving == Leaving::Known
    }

    fn spent(allowances: &Allowances) -> Option<Cheap> {
        allowances.spent()
    }

    fn ends_with_fault(_: &Allowances) -> bool {
        true
    }
}

impl Connection<Server> {
    /// Our settings are queued. `unit`: see [`Out::new`](crate::out::Out::new).
    pub fn new(settings: &ServerSettings, now: Instant, unit: usize) -> Connection<Server> {
        let side = Server {
            streams_most: settings.streams_most as usize,
            resets_unseen_most: settings.resets_unseen_most,
            connect_protocol: settings.connect_protocol,
            accepted: VecDeque::new(),
            last: 0,
            leaving: Leaving::No,
            resets_unseen: 0,
        };
        let bounds = Bounds {
            header_list_bytes: settings.header_list_bytes as usize,
            trailer_bytes: settings.trailer_bytes,
            trailers_most: settings.trailers_most,
            frame_bytes: settings.frame_bytes,
            stream_window: settings.stream_window,
        };
        let streams = Streams::new(settings.resets_remembered);
        let allowances = Allowances::new(now, settings.error_resets_most);
        let mut connection = Connection::begin(side, bounds, streams, settings.connection_window, allowances, unit);
        connection.stage = Stage::Preface(0);
        connection.pings = settings.pings.map(|rules| Box::new(Pings::new(rules)));
        let mut first = Vec::new();
        frame::settings(&settings.said(), &mut first);
        connection.out.push(&first);
        connection.open_window();
        connection
    }

    /// The head that has begun to come and is not whole, by its number.
    pub fn head_coming(&self) -> Option<u64> {
        let is_head = match self.stage {
            Stage::Whole(head) => matches!(head.kind, HEADERS | CONTINUATION),
            _ => false,
        };
        (is_head || self.block.is_some()).then(|| self.allowances.requests())
    }

    fn begin_request(&mut self, id: u32, ends: bool, fields: Fields) -> Result<(), Wrong> {
        self.side.last = id;
        if self.streams.open() >= self.side.streams_most {
            self.say(&frame::reset(id, Code::REFUSED));
            self.streams.remember_reset(id);
            give_back(fields.section);
            return Ok(());
        }
        let length = match fields.kept {
            Kept::All => self.check(&fields.section).map_err(|Malformed| Wrong::Stream(id, Code::PROTOCOL))?,
            // It is answered with 431 whatever else it says.
            Kept::Part => None,
        };
        if ends && length.is_some_and(|length| length > 0) {
            return Err(Wrong::Stream(id, Code::PROTOCOL));
        }
        let received = Incoming::new(self.bounds.stream_window, self.bounds.stream_window);
        let mut stream = Stream::new(id, (), received, Outgoing::new(self.first_window), length);
        if ends {
            stream.coming = Direction::Closed;
        }
        let key = self.streams.insert(stream);
        self.held += fields.section.memory();
        self.side.accepted.push_back(Accepted { key, head: fields, is_whole: ends });
        Ok(())
    }

    /// The form that every request has, whatever it asks for (RFC 9113 section 8); says how long its body is announced to be.
    fn check(&self, section: &Section) -> Result<Option<u64>, Malformed> {
        let (pseudo, count) = coding::pseudo(section)?;
        if pseudo.protocol.is_some() && !self.side.connect_protocol {
            return Err(Malformed);
        }
        let mut length = None;
        for (name, value) in section.iter().skip(count) {
            coding::check_name(name)?;
            match Known::of(name) {
                Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::TransferEncoding
                | Known::Upgrade => return Err(Malformed),
                Known::Te if !value.trim_ascii().eq_ignore_ascii_case(b"trailers") => return Err(Malformed),
                // What is no number, or several, is answered as over HTTP/1.
                Known::ContentLength => {
                    length = std::str::from_utf8(value.trim_ascii()).ok().and_then(|value| value.parse().ok());
                }
                _ => {}
            }
        }
        Ok(length)
    }

    /// The next request that began.
    pub fn accept(&mut self) -> Option<Accepted> {
        let accepted = self.side.accepted.pop_front();
        if let Some(accepted) = &accepted {
            self.held -= accepted.head.section.memory();
        }
        if self.side.accepted.is_empty() {
            self.side.resets_unseen = 0;
        }
        accepted
    }

    /// No more requests are taken once the client can know; those under way, and those it sent before, end first. It can know when it has
    /// answered, or when this is called again: it has had its time then.
    pub fn go_away(&mut self) {
        if self.ended.is_some() {
            return;
        }
        match self.side.leaving {
            Leaving::No => {
                self.side.leaving = Leaving::Said;
                self.out.push(&frame::go_away(0x7fff_ffff, Code::NO_ERROR));
                self.out.push(&ping(0, LEAVING));
            }
            Leaving::Said => self.know(),
            Leaving::Known => {}
        }
    }

    fn know(&mut self) {
        self.side.leaving = Leaving::Known;
        self.out.push(&go_away(self.side.last, Code::NO_ERROR));
    }

    /// A request that nobody has looked at needs no answer any more. False when somebody has.
    fn forget_request(&mut self, key: Key) -> bool {
        let at = self.side.accepted.iter().position(|accepted| accepted.key == key);
        let Some(accepted) = at.and_then(|at| self.side.accepted.remove(at)) else { return false };
        self.held -= accepted.head.section.memory();
        give_back(accepted.head.section);
        if let Some(stream) = self.streams.stream(key) {
            stream.handles = 0;
        }
        true
    }
}
