//! One request stream of HTTP/3 to a backend: what comes out of QUIC is read by [`proto_h3`], what is said goes into it.
//!
//! An answer is left in QUIC until somebody reads it: what is unread there is credit its backend does not get. Of a request as much lies
//! here as has been handed over and QUIC has no room for.

use crate::h3_sessions::{SECTION_MOST, Session};
use base_quic::proto::{StreamId, VarInt};
use base_quic::stream::{Outgoing, Read};
use bytes::{Buf as _, Bytes};
use proto_h2::Data;
use proto_h3::datagram::{Taken, Waiting};
use proto_h3::request::{Event, Receiving};
use proto_h3::{Code, Fault, frame};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Bytes of datagrams that wait for the readers of all streams of a connection. Beyond it those that come are dropped.
const DATAGRAMS_MOST: usize = 1024 * 1024;

/// Why nothing more comes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// The backend reset the stream with this code.
    Reset(u64),
    /// The backend has said that it does nothing with this request.
    Refused,
    /// The connection has ended.
    Lost,
    /// The backend broke the rules.
    Fault(Code),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coming {
    Open,
    /// To its end.
    Ended,
    Broken(Why),
}

/// What comes next of an answer.
pub(crate) enum Next {
    Event(Event),
    /// Nothing at the moment; the reader is woken.
    Blocked,
    End,
    Broken(Why),
}

/// See the module doc.
pub(crate) struct Stream {
    id: StreamId,
    session: Rc<Session>,
    receiving: RefCell<Receiving>,
    /// Taken out of QUIC and not read.
    input: RefCell<Bytes>,
    /// Read ahead.
    peeked: RefCell<Option<Event>>,
    coming: Cell<Coming>,
    out: RefCell<Outgoing<Data>>,
    /// Nothing more can be written: the backend wants no more, or we have reset it.
    is_shut: Cell<bool>,
    /// Its end was handed to QUIC.
    is_finished: Cell<bool>,
    /// Bytes handed to QUIC, and those of them that the backend is not known to have.
    written: Cell<u64>,
    unacknowledged: Cell<u64>,
    /// What has come beside it.
    datagrams: RefCell<Waiting>,
    reader: Cell<Option<Waker>>,
    writer: Cell<Option<Waker>>,
}

impl Stream {
    pub(crate) fn new(id: StreamId, session: &Rc<Session>) -> Rc<Stream> {
        Rc::new(Stream {
            id,
            session: session.clone(),
            receiving: RefCell::new(Receiving::new(SECTION_MOST)),
            input: RefCell::default(),
            peeked: RefCell::default(),
            coming: Cell::new(Coming::Open),
            out: RefCell::new(Outgoing::new(Data::shared)),
            is_shut: Cell::new(false),
            is_finished: Cell::new(false),
            written: Cell::new(0),
            unacknowledged: Cell::new(0),
            datagrams: RefCell::default(),
            reader: Cell::new(None),
            writer: Cell::new(None),
        })
    }

    pub(crate) fn id(&self) -> StreamId {
        self.id
    }

    pub(crate) fn session(&self) -> &Rc<Session> {
        &self.session
    }

    /// Bytes of the request that QUIC has taken.
    pub(crate) fn written(&self) -> u64 {
        self.written.get()
    }

    /// Whether all that was handed over has been taken.
    pub(crate) fn is_drained(&self) -> bool {
        self.out.borrow().is_empty()
    }

    /// No more of the request can be said.
    pub(crate) fn is_shut(&self) -> bool {
        self.is_shut.get()
    }

    /// More may have come.
    pub(crate) fn wake_reader(&self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    fn wake_writer(&self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    /// A datagram has come for it; false where there is no room.
    pub(crate) fn handle_datagram(&self, content: Bytes) -> bool {
        // To one that has ended it means nothing any more (RFC 9297 section 2.1).
        if self.coming.get() != Coming::Open {
            return true;
        }
        if self.session.datagram_bytes.get() + content.len() > DATAGRAMS_MOST {
            return false;
        }
        let handled = self.with_datagrams(|datagrams| datagrams.handle(content));
        match handled {
            Ok(Taken::Kept) => self.wake_reader(),
            Ok(Taken::Dropped) => return false,
            Err(fault) => self.blame_datagrams(fault),
        }
        true
    }

    pub(crate) fn poll_datagram(&self, cx: &mut Context<'_>) -> Poll<Bytes> {
        match self.with_datagrams(Waiting::take) {
            Some(content) => Poll::Ready(content),
            None => {
                self.reader.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }

    /// Whether datagrams mean anything to it.
    pub(crate) fn decide_datagrams(&self, wanted: bool) {
        if let Err(fault) = self.with_datagrams(|datagrams| datagrams.decide(wanted)) {
            self.blame_datagrams(fault);
        }
    }

    fn blame_datagrams(&self, fault: Fault) {
        self.session.counters.faults_h3.hit(base_runtime::worker_index());
        self.abort(fault.code(), Why::Fault(fault.code()));
        self.wake_reader();
    }

    fn with_datagrams<T>(&self, work: impl FnOnce(&mut Waiting) -> T) -> T {
        let mut datagrams = self.datagrams.borrow_mut();
        let before = datagrams.held();
        let done = work(&mut datagrams);
        self.session.datagram_bytes.set(self.session.datagram_bytes.get() - before + datagrams.held());
        done
    }

    /// The backend has all of the request.
    pub(crate) fn handle_acknowledged(&self) {
        let session = &self.session;
        session.unacknowledged.set(session.unacknowledged.get() - self.unacknowledged.take());
    }

    /// The backend wants no more of the request.
    pub(crate) fn handle_stopped(&self) {
        self.shut(Code::NoError);
        self.wake_reader();
    }

    /// The backend has done nothing with the request, and will not.
    pub(crate) fn handle_refused(&self) {
        if self.coming.get() == Coming::Open {
            self.shut(Code::RequestCancelled);
            self.stop(Code::RequestCancelled, Why::Refused);
            self.wake_reader();
        }
    }

    /// The connection has ended. What has come is read to its end.
    pub(crate) fn handle_lost(&self) {
        self.is_shut.set(true);
        self.out.borrow_mut().clear();
        self.handle_acknowledged();
        self.wake_reader();
        self.wake_writer();
    }

    /// What has come.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Next {
        if let Some(event) = self.peeked.borrow_mut().take() {
            return Next::Event(event);
        }
        let next = self.next();
        if matches!(next, Next::Blocked) {
            self.reader.set(Some(cx.waker().clone()));
        }
        next
    }

    /// Whether the answer has ended; what comes instead is kept for the reader.
    pub(crate) fn has_ended(&self) -> bool {
        if self.peeked.borrow().is_some() {
            return false;
        }
        match self.next() {
            Next::End => true,
            Next::Event(event) => {
                *self.peeked.borrow_mut() = Some(event);
                false
            }
            Next::Blocked | Next::Broken(_) => false,
        }
    }

    /// What was read was an interim answer.
    pub(crate) fn expect_head(&self) {
        self.receiving.borrow_mut().expect_head();
    }

    fn next(&self) -> Next {
        loop {
            match self.coming.get() {
                Coming::Open => {}
                Coming::Ended => return Next::End,
                Coming::Broken(why) => return Next::Broken(why),
            }
            let mut receiving = self.receiving.borrow_mut();
            let handled = receiving.handle(&mut self.input.borrow_mut());
            self.session.idle.set(self.session.idle.get() + receiving.take_idle());
            match handled {
                Ok(Some(event)) => return Next::Event(event),
                Ok(None) => {}
                Err(fault) => return self.blame(fault),
            }
            match self.read() {
                Read::Some(bytes) => *self.input.borrow_mut() = bytes,
                Read::Blocked if self.session.is_lost() => self.coming.set(Coming::Broken(Why::Lost)),
                Read::Blocked => return Next::Blocked,
                Read::End => match receiving.handle_end() {
                    Ok(()) => self.coming.set(Coming::Ended),
                    Err(fault) => return self.blame(fault),
                },
                Read::Reset(code) => self.coming.set(Coming::Broken(Why::Reset(code))),
                // Of a connection that has ended, nothing was left.
                Read::Closed if self.session.is_lost() => self.coming.set(Coming::Broken(Why::Lost)),
                Read::Closed => self.coming.set(Coming::Broken(Why::Reset(Code::Internal.value().into()))),
            }
        }
    }

    fn blame(&self, fault: Fault) -> Next {
        let why = Why::Fault(fault.code());
        match fault {
            Fault::Connection(code) => {
                self.coming.set(Coming::Broken(why));
                self.session.fail(code);
            }
            Fault::Stream(code) => self.abort(code, why),
        }
        Next::Broken(why)
    }

    fn read(&self) -> Read {
        let read = self.session.quic.read(self.id);
        if let Read::Some(bytes) = &read {
            self.session.taken.set(self.session.taken.get() + bytes.len() as u64);
        }
        read
    }

    /// Hands over bytes of frames that are not of the body.
    pub(crate) fn say(&self, bytes: Vec<u8>) {
        self.push(|out| out.say(bytes.into()));
    }

    /// Hands over a piece of the body.
    pub(crate) fn say_data(&self, data: Data) {
        if data.has_remaining() {
            let mut header = Vec::with_capacity(9);
            frame::begin(frame::DATA, data.remaining() as u64, &mut header);
            self.push(|out| out.say(header.into()));
            self.push(|out| out.say_body(data));
        }
    }

    /// Nothing more of the request comes.
    pub(crate) fn say_end(&self) {
        self.push(Outgoing::say_end);
    }

    /// Lets something more be said.
    fn push(&self, say: impl FnOnce(&mut Outgoing<Data>)) {
        if !self.is_shut.get() {
            say(&mut self.out.borrow_mut());
            self.pump();
        }
    }

    /// Ready when all that was handed over has been taken, or nothing more will be.
    pub(crate) fn poll_drained(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_shut.get() || self.is_drained() {
            return Poll::Ready(());
        }
        self.writer.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Hands QUIC what it has room for.
    pub(crate) fn pump(&self) {
        let mut out = self.out.borrow_mut();
        let pumped = out.pump(&self.session.quic, self.id);
        let drained = out.is_empty();
        drop(out);
        self.wrote(pumped.bytes);
        if pumped.ended {
            self.is_finished.set(true);
        }
        if pumped.stopped {
            self.shut(Code::NoError);
        } else if drained {
            self.wake_writer();
        }
    }

    fn wrote(&self, bytes: u64) {
        self.written.set(self.written.get() + bytes);
        self.unacknowledged.set(self.unacknowledged.get() + bytes);
        self.session.unacknowledged.set(self.session.unacknowledged.get() + bytes);
    }

    /// Ends both directions.
    pub(crate) fn abort(&self, code: Code, why: Why) {
        self.shut(code);
        self.stop(code, why);
    }

    /// No more of the answer is wanted.
    fn stop(&self, code: Code, why: Why) {
        if self.coming.get() == Coming::Open {
            self.coming.set(Coming::Broken(why));
            let stop =
                |id| self.session.quic.with(|machine| machine.recv_stream(id).stop(VarInt::from_u32(code.value())));
            let _ = stop(self.id);
            self.session.quic.wake();
        }
    }

    /// No more of the request is sent.
    fn shut(&self, code: Code) {
        if !self.is_shut.replace(true) && !self.is_finished.get() {
            self.session.end_datagrams(self.id, true);
            self.out.borrow_mut().clear();
            let code = VarInt::from_u32(code.value());
            let _ = self.session.quic.with(|machine| machine.send_stream(self.id).reset(code));
            self.handle_acknowledged();
            self.session.quic.wake();
        }
        self.wake_writer();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let held = self.datagrams.get_mut().held();
        self.session.datagram_bytes.set(self.session.datagram_bytes.get() - held);
    }
}

/// The place of one request on a shared connection, until nothing is left of the exchange.
pub struct H3Stream(Rc<Stream>);

impl H3Stream {
    pub(crate) fn new(stream: Rc<Stream>) -> H3Stream {
        H3Stream(stream)
    }

    pub(crate) fn stream(&self) -> &Rc<Stream> {
        &self.0
    }
}

impl std::fmt::Debug for H3Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("H3Stream").field(&u64::from(self.0.id)).finish()
    }
}

impl Drop for H3Stream {
    fn drop(&mut self) {
        let stream = &self.0;
        let is_answered = stream.coming.get() == Coming::Ended;
        stream.abort(if is_answered { Code::NoError } else { Code::RequestCancelled }, Why::Lost);
        stream.handle_acknowledged();
        stream.session.leave(stream.id);
    }
}
