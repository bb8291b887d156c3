//! The machine of one request stream of HTTP/3: what comes out of QUIC is read by [`proto_h3`], what is said goes into it.
//!
//! It stands behind the same seam as HTTP/2's ([`server::Stream`]), so the exchange over it is
//! [`H2Stream`](crate::h2_stream::H2Stream). A body is left in QUIC until somebody reads it: what is unread there is credit its client
//! does not get.

use base_quic::Connection;
use base_quic::proto::{StreamId, VarInt};
use base_quic::stream::{Outgoing, Read};
use bytes::{Buf as _, Bytes};
use proto_h2::Data;
use proto_h2::server::{self, BodyBroken, Gone, Reason, ResponseOptions};
use proto_h3::datagram::{Outbox, Taken, Waiting};
use proto_h3::message::{self, Unread};
use proto_h3::qpack::{self, Bounds, Section};
use proto_h3::request::{Event, Receiving};
use proto_h3::{Code, frame};
use proto_http::h1::Fault;
use proto_http::multiplexed::MultiplexedHead;
use proto_http::{Headers, Limits, Protocol, Request, Response};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Bytes of pseudo-fields' names and values, beside the path, which have no place in the head of HTTP/1.
const PSEUDO_BYTES: usize = 1024;

/// Pseudo-fields there are.
const PSEUDO_FIELDS: usize = 5;

/// Bounds of the field section of a head that `limits` allow, so that one beyond them is judged by the rules HTTP/1 has.
pub fn head_bounds(limits: &Limits) -> Bounds {
    Bounds { bytes: limits.head_bytes + PSEUDO_BYTES, fields: limits.fields + PSEUDO_FIELDS }
}

fn trailer_bounds(limits: &Limits) -> Bounds {
    Bounds { bytes: limits.trailer_bytes, fields: limits.trailers }
}

/// Bytes of datagrams that wait for the readers of all streams of a connection. Beyond it those that come are dropped.
const DATAGRAMS_MOST: usize = 256 * 1024;

/// What the streams of a connection share.
pub struct Wire {
    pub quic: Connection,
    /// Largest field section that is read, in bytes.
    pub section_most: usize,
    /// What the client got wrong, or does too much of: the connection is to end.
    pub fault: Cell<Option<Code>>,
    /// Frames that led nowhere.
    pub idle: Cell<u32>,
    /// Bytes of bodies that came.
    pub body_bytes: Cell<u64>,
    /// Bytes that were taken out of streams, whatever they were.
    pub taken: Cell<u64>,
    /// Requests given up by the client before they were answered.
    pub given_up: Cell<u32>,
    /// Answers that were sent to their end.
    pub answered: Cell<u32>,
    /// The client takes datagrams beside its streams.
    pub takes_datagrams: Cell<bool>,
    /// Bytes of those that have come and wait.
    pub datagram_bytes: Cell<usize>,
    /// Those that are to go out.
    pub outbox: RefCell<Outbox>,
    /// Datagrams that found no room, or fitted into no packet, either way.
    pub datagrams_dropped: Cell<u64>,
    /// What ended streams alone since it was last counted, of what their exchanges do not count.
    pub stream_faults: RefCell<Vec<Code>>,
    /// Bytes written that the client is not known to have, by stream.
    outstanding: RefCell<HashMap<StreamId, u64>>,
    outstanding_bytes: Cell<u64>,
}

impl Wire {
    pub fn new(quic: Connection, section_most: usize) -> Rc<Wire> {
        Rc::new(Wire {
            quic,
            section_most,
            fault: Cell::new(None),
            idle: Cell::new(0),
            body_bytes: Cell::new(0),
            taken: Cell::new(0),
            given_up: Cell::new(0),
            answered: Cell::new(0),
            takes_datagrams: Cell::new(false),
            datagram_bytes: Cell::new(0),
            outbox: RefCell::default(),
            datagrams_dropped: Cell::new(0),
            stream_faults: RefCell::default(),
            outstanding: RefCell::default(),
            outstanding_bytes: Cell::new(0),
        })
    }

    /// So many datagrams found no room, or fitted into no packet.
    pub fn dropped(&self, datagrams: u64) {
        if datagrams > 0 {
            self.datagrams_dropped.set(self.datagrams_dropped.get() + datagrams);
            self.quic.wake();
        }
    }

    /// Bytes written that the client is not known to have.
    pub fn outstanding(&self) -> u64 {
        self.outstanding_bytes.get()
    }

    /// The client has everything of a stream, or wants no more of it.
    pub fn settled(&self, id: StreamId) {
        let bytes = self.outstanding.borrow_mut().remove(&id).unwrap_or(0);
        self.outstanding_bytes.set(self.outstanding_bytes.get() - bytes);
    }

    /// A datagram of so many bytes was taken. Of a short one nothing was counted as received, so nothing more is taken than that.
    pub fn took_datagram(&self, bytes: usize) {
        let most = self.quic.received().max(self.taken.get());
        self.taken.set((self.taken.get() + bytes as u64).min(most));
    }

    /// So many bytes were taken out of a stream.
    pub fn took(&self, bytes: usize) {
        self.taken.set(self.taken.get() + bytes as u64);
    }

    fn wrote(&self, id: StreamId, bytes: u64) {
        *self.outstanding.borrow_mut().entry(id).or_default() += bytes;
        self.outstanding_bytes.set(self.outstanding_bytes.get() + bytes);
    }

    fn fail(&self, code: Code) {
        if self.fault.get().is_none() {
            self.fault.set(Some(code));
        }
        self.quic.wake();
    }
}

/// How far the client's side of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coming {
    Open,
    /// To its end.
    Ended,
    /// The client gave it up, or we do not want it.
    Broken,
}

/// Both directions of a request stream.
pub struct RequestStream {
    id: StreamId,
    wire: Rc<Wire>,
    receiving: RefCell<Receiving>,
    /// Taken out of QUIC and not read.
    input: RefCell<Bytes>,
    /// Read ahead.
    peeked: RefCell<Option<Event>>,
    coming: Cell<Coming>,
    out: RefCell<Outgoing<Data>>,
    /// Nothing more can be written: the client wants no more, or we have reset it.
    is_shut: Cell<bool>,
    /// Everything was handed over, to the end.
    is_said: Cell<bool>,
    /// Counted among those its client gave up.
    is_given_up: Cell<bool>,
    /// Nobody serves it any more.
    is_left: Cell<bool>,
    /// What has come beside it.
    datagrams: RefCell<Waiting>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

/// What comes next of a stream.
pub enum Next {
    Event(Event),
    /// Nothing at the moment.
    Blocked,
    End,
    Broken,
}

impl RequestStream {
    pub fn new(id: StreamId, wire: &Rc<Wire>) -> Rc<RequestStream> {
        Rc::new(RequestStream {
            id,
            wire: wire.clone(),
            receiving: RefCell::new(Receiving::new(wire.section_most)),
            input: RefCell::default(),
            peeked: RefCell::default(),
            coming: Cell::new(Coming::Open),
            out: RefCell::new(Outgoing::new(Data::shared)),
            is_shut: Cell::new(false),
            is_said: Cell::new(false),
            is_given_up: Cell::new(false),
            is_left: Cell::new(false),
            datagrams: RefCell::default(),
            reader: RefCell::default(),
            writer: RefCell::default(),
        })
    }

    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Bytes kept of a field section that is coming.
    pub fn held(&self) -> usize {
        self.receiving.borrow().held()
    }

    /// It can be forgotten: nobody serves it, and all was written that will be.
    pub fn is_over(&self) -> bool {
        self.is_left.get() && (self.is_shut.get() || self.out.borrow().is_empty())
    }

    /// More of it may have come, or its client has given it up.
    pub fn wake_reader(&self) {
        for waker in [&self.reader, &self.writer] {
            if let Some(waker) = waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// A datagram has come for it.
    pub fn handle_datagram(&self, content: Bytes) {
        // To one that has ended it means nothing any more (RFC 9297 section 2.1).
        if self.is_left.get() || self.coming.get() != Coming::Open {
            return;
        }
        if self.wire.datagram_bytes.get() + content.len() > DATAGRAMS_MOST {
            return self.wire.dropped(1);
        }
        match self.with_datagrams(|datagrams| datagrams.handle(content)) {
            Ok(Taken::Kept) => self.wake_reader(),
            Ok(Taken::Dropped) => self.wire.dropped(1),
            Err(fault) => self.blame_datagrams(fault),
        }
    }

    fn poll_datagram(&self, cx: &mut Context<'_>) -> Poll<Bytes> {
        match self.with_datagrams(Waiting::take) {
            Some(content) => Poll::Ready(content),
            None => {
                *self.reader.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Its head says whether datagrams mean anything to it.
    fn decide_datagrams(&self, wanted: bool) {
        if let Err(fault) = self.with_datagrams(|datagrams| datagrams.decide(wanted)) {
            self.blame_datagrams(fault);
        }
    }

    fn blame_datagrams(&self, fault: proto_h3::Fault) {
        self.wire.stream_faults.borrow_mut().push(fault.code());
        self.count_given_up();
        self.abort(fault.code());
        self.wake_reader();
    }

    fn with_datagrams<T>(&self, work: impl FnOnce(&mut Waiting) -> T) -> T {
        let mut datagrams = self.datagrams.borrow_mut();
        let before = datagrams.held();
        let done = work(&mut datagrams);
        self.wire.datagram_bytes.set(self.wire.datagram_bytes.get() - before + datagrams.held());
        done
    }

    /// What has come.
    pub fn next(&self) -> Next {
        if let Some(event) = self.peeked.borrow_mut().take() {
            return Next::Event(event);
        }
        loop {
            match self.coming.get() {
                Coming::Open => {}
                Coming::Ended => return Next::End,
                Coming::Broken => return Next::Broken,
            }
            let mut receiving = self.receiving.borrow_mut();
            let handled = receiving.handle(&mut self.input.borrow_mut());
            self.wire.idle.set(self.wire.idle.get() + receiving.take_idle());
            match handled {
                Ok(Some(event)) => return Next::Event(event),
                Ok(None) => {}
                Err(fault) => return self.blame(fault),
            }
            match self.read() {
                Read::Some(bytes) => *self.input.borrow_mut() = bytes,
                Read::Blocked => return Next::Blocked,
                Read::End => match receiving.handle_end() {
                    Ok(()) => self.coming.set(Coming::Ended),
                    Err(fault) => return self.blame(fault),
                },
                Read::Reset(_) | Read::Closed => {
                    self.coming.set(Coming::Broken);
                    if !self.is_said.get() {
                        self.count_given_up();
                    }
                }
            }
        }
    }

    /// Reads ahead, so that a request without a body is known as one.
    pub fn peek(&self) {
        if let Next::Event(event) = self.next() {
            *self.peeked.borrow_mut() = Some(event);
        }
    }

    fn blame(&self, fault: proto_h3::Fault) -> Next {
        self.coming.set(Coming::Broken);
        match fault {
            proto_h3::Fault::Connection(code) => self.wire.fail(code),
            proto_h3::Fault::Stream(code) => self.abort(code),
        }
        Next::Broken
    }

    fn read(&self) -> Read {
        let read = self.wire.quic.read(self.id);
        if let Read::Some(bytes) = &read {
            self.wire.took(bytes.len());
        }
        read
    }

    /// Its client gave it up, or got it wrong, before it was answered: counted once, whatever says so.
    pub fn count_given_up(&self) {
        if !self.is_given_up.replace(true) {
            self.wire.given_up.set(self.wire.given_up.get() + 1);
        }
    }

    /// The client wants no more of the answer.
    pub fn handle_stopped(&self) {
        self.count_given_up();
        self.shut(Code::RequestCancelled);
        self.wake_reader();
    }

    /// Ends both directions.
    pub fn abort(&self, code: Code) {
        self.shut(code);
        self.stop(code);
    }

    /// No more of the request is wanted.
    fn stop(&self, code: Code) {
        if self.coming.get() == Coming::Open {
            self.coming.set(Coming::Broken);
            let _ = self.wire.quic.with(|machine| machine.recv_stream(self.id).stop(VarInt::from_u32(code.value())));
            self.wire.quic.wake();
        }
    }

    /// Its side of the stream ends, and so do its datagrams: those that wait go first, as far as they may, where the end is no reset.
    fn end_datagrams(&self, is_reset: bool) {
        let (going, mut lost) = self.wire.outbox.borrow_mut().leave(self.id.index());
        for datagram in going {
            lost += u32::from(is_reset || !self.wire.quic.send_datagram(datagram.into()));
        }
        self.wire.dropped(lost.into());
    }

    /// No more of the answer is sent.
    fn shut(&self, code: Code) {
        if !self.is_shut.replace(true) {
            self.end_datagrams(true);
            self.out.borrow_mut().clear();
            let _ = self.wire.quic.with(|machine| machine.send_stream(self.id).reset(VarInt::from_u32(code.value())));
            self.wire.settled(self.id);
            self.wire.quic.wake();
        }
    }

    /// Lets something more be said.
    fn push(&self, say: impl FnOnce(&mut Outgoing<Data>)) -> Result<(), Gone> {
        if self.is_shut.get() {
            return Err(Gone);
        }
        say(&mut self.out.borrow_mut());
        self.pump();
        Ok(())
    }

    /// Hands QUIC what it has room for.
    pub fn pump(&self) {
        let pumped = self.out.borrow_mut().pump(&self.wire.quic, self.id);
        if pumped.any {
            self.wire.wrote(self.id, pumped.bytes);
        }
        if pumped.stopped {
            self.shut(Code::RequestCancelled);
        }
    }
}

impl Drop for RequestStream {
    fn drop(&mut self) {
        self.wire.datagram_bytes.set(self.wire.datagram_bytes.get() - self.datagrams.get_mut().held());
    }
}

/// What a request's head was found to be before anybody looked at what it says.
pub enum Head {
    Read(Section),
    /// It is longer than is read.
    Fault(Fault),
}

/// A request stream as it is served.
pub struct H3Machine {
    stream: Rc<RequestStream>,
    head: Head,
    /// Bytes of the body that were announced.
    length: Option<u64>,
    body_taken: bool,
}

impl H3Machine {
    pub fn new(stream: Rc<RequestStream>, head: Head) -> H3Machine {
        H3Machine { stream, head, length: None, body_taken: false }
    }

    fn send_fields(&mut self, write: impl FnOnce(&mut Vec<u8>) -> bool, ends: bool) -> Result<(), Gone> {
        let mut bytes = Vec::with_capacity(256);
        if !write(&mut bytes) {
            return Err(Gone);
        }
        self.stream.push(|out| out.say(bytes.into()))?;
        if ends { self.say_end() } else { Ok(()) }
    }

    fn say_end(&mut self) -> Result<(), Gone> {
        self.stream.is_said.set(true);
        let wire = &self.stream.wire;
        wire.answered.set(wire.answered.get() + 1);
        self.stream.end_datagrams(false);
        self.stream.push(Outgoing::say_end)
    }
}

impl server::Stream for H3Machine {
    type Body = H3Body;

    fn head_size(&self) -> (usize, usize) {
        match &self.head {
            Head::Read(section) => (section.bytes(), section.len()),
            Head::Fault(_) => (0, 0),
        }
    }

    fn read_head(&mut self, limits: &Limits, into: &mut Request) -> Result<MultiplexedHead, Fault> {
        match &self.head {
            Head::Read(section) => {
                let head = message::read_request(section, limits, into).map_err(|unread| match unread {
                    Unread::Fault(fault) => fault,
                    // Those were reset before they came here.
                    Unread::Malformed => Fault::PseudoField,
                })?;
                self.length = head.length;
                self.stream.decide_datagrams(head.protocol.is_some_and(Protocol::has_capsules));
                Ok(head)
            }
            Head::Fault(fault) => {
                into.clear();
                into.version = proto_http::Version::Http3;
                Err(*fault)
            }
        }
    }

    fn take_body(&mut self) -> Option<H3Body> {
        if std::mem::replace(&mut self.body_taken, true) {
            return None;
        }
        let is_empty = self.stream.coming.get() == Coming::Ended && self.stream.peeked.borrow().is_none();
        if is_empty && self.length.unwrap_or(0) == 0 {
            return None;
        }
        Some(H3Body { stream: self.stream.clone(), length: self.length, came: 0, ended: false, trailers: None })
    }

    fn send_interim(&mut self, response: &Response) {
        let options = message::ResponseOptions { length: None, date: "" };
        let _ = self.send_fields(|into| message::write_response(response, &options, into), false);
    }

    fn send_head(&mut self, response: &Response, options: &ResponseOptions<'_>, ends: bool) -> Result<(), Gone> {
        let options = message::ResponseOptions { length: options.length, date: options.date };
        self.send_fields(|into| message::write_response(response, &options, into), ends)
    }

    fn send_data(&mut self, data: Data, ends: bool) -> Result<(), Gone> {
        let length = data.remaining();
        if length > 0 {
            let mut header = Vec::with_capacity(5);
            frame::begin(frame::DATA, length as u64, &mut header);
            self.stream.push(|out| out.say(header.into()))?;
            self.stream.push(|out| out.say_body(data))?;
        }
        if ends { self.say_end() } else { Ok(()) }
    }

    fn send_end(&mut self, trailers: Option<&Headers>) -> Result<(), Gone> {
        if let Some(trailers) = trailers {
            // None of them may be one that can be sent.
            match self.send_fields(|into| message::write_trailers(trailers, into), true) {
                Err(Gone) if !self.stream.is_shut.get() => {}
                sent => return sent,
            }
        }
        self.say_end()
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stream.is_shut.get() || self.stream.wire.fault.get().is_some() {
            return Poll::Ready(());
        }
        // Given up by its client in the middle of the request.
        if self.stream.coming.get() == Coming::Open && !self.body_taken {
            self.stream.peek();
        }
        if self.stream.coming.get() == Coming::Broken && !self.stream.is_said.get() {
            return Poll::Ready(());
        }
        *self.stream.writer.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    fn reset(&mut self, why: Reason) {
        self.stream.abort(match why {
            Reason::NoError => Code::NoError,
            Reason::Internal => Code::Internal,
            Reason::Cancel => Code::RequestCancelled,
            Reason::Refused => Code::RequestRejected,
            Reason::Calm => Code::ExcessiveLoad,
            Reason::Malformed => {
                self.stream.wire.stream_faults.borrow_mut().push(Code::Message);
                Code::Message
            }
        });
    }

    fn takes_datagrams(&self) -> bool {
        self.stream.wire.takes_datagrams.get()
    }

    fn poll_datagram(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        self.stream.poll_datagram(cx)
    }

    fn send_datagram(&mut self, content: &[u8]) {
        let (stream, wire) = (&self.stream, &self.stream.wire);
        if !stream.is_shut.get() {
            match wire.outbox.borrow_mut().push(stream.id.index(), content) {
                Taken::Kept => wire.quic.wake(),
                Taken::Dropped => wire.dropped(1),
            }
        }
    }

    fn count_dropped(&mut self, datagrams: u32) {
        self.stream.wire.dropped(datagrams.into());
    }
}

impl Drop for H3Machine {
    fn drop(&mut self) {
        if !self.stream.is_said.get() {
            self.stream.shut(Code::Internal);
        }
        if !self.body_taken {
            // What is left of the request changes nothing any more (RFC 9114 section 4.1).
            self.stream.stop(Code::NoError);
        }
        self.stream.is_left.set(true);
        self.stream.wire.quic.wake();
    }
}

/// The body of a request.
pub struct H3Body {
    stream: Rc<RequestStream>,
    length: Option<u64>,
    came: u64,
    ended: bool,
    trailers: Option<Result<Section, Fault>>,
}

impl H3Body {
    /// It breaks what was announced, or the form of every message.
    fn broken(&mut self) -> Poll<Result<Option<Bytes>, BodyBroken>> {
        self.stream.stop(Code::Message);
        Poll::Ready(Err(BodyBroken::Length))
    }

    fn end(&mut self) -> Poll<Result<Option<Bytes>, BodyBroken>> {
        // Whatever ended it: an end alone, trailers, an empty frame before either.
        if self.length.is_some_and(|length| length != self.came) {
            return self.broken();
        }
        self.ended = true;
        Poll::Ready(Ok(None))
    }
}

impl server::Body for H3Body {
    const LENGTH: &'static str = "h3_message";

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyBroken>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        loop {
            return match self.stream.next() {
                Next::Event(Event::Data(bytes)) => {
                    let wire = &self.stream.wire;
                    wire.body_bytes.set(wire.body_bytes.get() + bytes.len() as u64);
                    self.came += bytes.len() as u64;
                    if self.length.is_some_and(|length| self.came > length) {
                        return self.broken();
                    }
                    Poll::Ready(Ok(Some(bytes)))
                }
                Next::Event(Event::Trailers(block)) => {
                    let mut section = Section::default();
                    let bounds = trailer_bounds(&Limits::default());
                    self.trailers = Some(match qpack::decode(&block, &bounds, &mut section) {
                        Ok(()) => Ok(section),
                        Err(qpack::Unread::TooLarge) => Err(Fault::TrailersTooLarge),
                        Err(qpack::Unread::TooMany) => Err(Fault::TooManyTrailers),
                        Err(qpack::Unread::Broken) => {
                            self.stream.wire.fail(Code::QpackDecompression);
                            return Poll::Ready(Err(BodyBroken::Gone));
                        }
                    });
                    continue;
                }
                Next::Event(Event::TrailersTooLarge) => {
                    self.trailers = Some(Err(Fault::TrailersTooLarge));
                    continue;
                }
                // There is one head, which was read.
                Next::Event(Event::Head(_) | Event::HeadTooLarge) => continue,
                Next::End => self.end(),
                Next::Broken => Poll::Ready(Err(BodyBroken::Gone)),
                Next::Blocked => {
                    *self.stream.reader.borrow_mut() = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
    }

    fn trailers(&mut self, limits: &Limits) -> Result<Option<(Headers, u32)>, Fault> {
        let Some(section) = self.trailers.take() else { return Ok(None) };
        match message::read_trailers(&section?, limits) {
            Ok(read) => Ok(Some(read)),
            Err(Unread::Fault(fault)) => Err(fault),
            Err(Unread::Malformed) => {
                self.stream.stop(Code::Message);
                Err(Fault::PseudoField)
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.ended || self.stream.coming.get() == Coming::Ended
    }
}

impl Drop for H3Body {
    fn drop(&mut self) {
        self.stream.stop(Code::NoError);
    }
}
