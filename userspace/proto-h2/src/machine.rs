//! Our machine on a worker: [`Connection`] fed from a transport, and what it says sent on it. [`Shell`] is for both sides; the rest is
//! what answers.
//!
//! Streams say what they have to say to the machine, which they share with whoever drives the connection; what all of them have said in
//! a turn leaves in one go when the driver is polled next. Between turns no buffer is held.

use crate::connection::{self, Connection, Ended, Fields, Gone, Key, OUT_MOST, Server, Side};
use crate::data::Data;
use crate::hpack::{Kept, encoder};
use crate::server::{Body, BodyBroken, Engine, Reason, ResponseOptions, Stream};
use crate::settings::ServerSettings;
use base_runtime::Buf;
use base_tls::Transport;
use bytes::Bytes;
use proto_http::coding::{self, Malformed};
use proto_http::h1::Fault;
use proto_http::multiplexed::{self, MultiplexedHead};
use proto_http::{Headers, Limits, Request, Response, Version};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Bytes that may wait for a peer that reads slowly. Beyond them streams wait, and each keeps what it has.
const SEND_HIGH_WATER: usize = 128 * 1024;

/// With so many bytes waiting no more of what the peer sends is read: it reads nothing of what answers its own frames. Messages alone
/// are never that many: above the high water each turn adds what it may and a frame.
const READ_BELOW: usize = SEND_HIGH_WATER + 2 * OUT_MOST + 64 * 1024;

/// Content of a record of TLS, in bytes.
const RECORD: usize = 16 * 1024;

/// What the driver of a connection and its streams share.
pub(crate) struct Shell<S: Side> {
    pub transport: Transport,
    core: RefCell<Connection<S>>,
    driver: RefCell<Option<Waker>>,
    /// The driver is to be polled, and knows.
    is_woken: Cell<bool>,
    /// Bytes that may still be read in this turn.
    turn: Cell<usize>,
    bytes_in: Cell<u64>,
    /// What the transport failed with, where it did.
    failure: RefCell<Option<io::Error>>,
}

/// Bytes that are best sent together on this transport.
pub(crate) fn unit(transport: &Transport) -> usize {
    match transport {
        Transport::Plain(_) => Buf::CAPACITY,
        Transport::Tls(_) => RECORD,
    }
}

impl<S: Side> Shell<S> {
    pub fn new(transport: Transport, core: Connection<S>) -> Rc<Shell<S>> {
        Rc::new(Shell {
            core: RefCell::new(core),
            transport,
            driver: RefCell::new(None),
            is_woken: Cell::new(false),
            turn: Cell::new(usize::MAX),
            bytes_in: Cell::new(0),
            failure: RefCell::new(None),
        })
    }

    /// Lets a stream, or whoever ends the connection, have the machine, and the driver send what comes of it.
    pub fn with<T>(&self, use_it: impl FnOnce(&mut Connection<S>) -> T) -> T {
        let mut core = self.core.borrow_mut();
        let done = use_it(&mut core);
        if core.has_output()
            && !self.is_woken.replace(true)
            && let Some(driver) = &*self.driver.borrow()
        {
            driver.wake_by_ref();
        }
        done
    }

    /// Lets somebody look at the machine.
    pub fn look<T>(&self, look: impl FnOnce(&Connection<S>) -> T) -> T {
        look(&self.core.borrow())
    }

    /// So many bytes may be read until this is called again.
    pub fn begin_turn(&self, bytes: usize) {
        self.turn.set(bytes);
    }

    /// Bytes that came.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in.get()
    }

    /// What the transport failed with, such as the alert by which a peer refused a certificate.
    pub fn failure(&self) -> Option<io::Error> {
        self.failure.borrow().as_ref().map(|error| io::Error::new(error.kind(), error.to_string()))
    }

    /// Moves everything that can be moved; what `next` finds in the machine is handed out as it comes.
    pub fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        mut next: impl FnMut(&mut Connection<S>) -> Option<T>,
    ) -> Poll<Option<Result<T, Ended>>> {
        self.is_woken.set(false);
        let mut driver = self.driver.borrow_mut();
        match &mut *driver {
            Some(waker) => waker.clone_from(cx.waker()),
            None => *driver = Some(cx.waker().clone()),
        }
        drop(driver);
        let mut core = self.core.borrow_mut();
        let read = loop {
            if let Some(found) = next(&mut core) {
                return Poll::Ready(Some(Ok(found)));
            }
            if core.ended().is_some() {
                break Ok(());
            }
            if self.turn.get() == 0 {
                cx.waker().wake_by_ref();
                break Ok(());
            }
            if self.transport.send_queue_len() > READ_BELOW
                && self.transport.poll_send_ready(cx, SEND_HIGH_WATER).is_pending()
            {
                break Ok(());
            }
            match self.transport.poll_recv(cx) {
                Poll::Pending => break Ok(()),
                Poll::Ready(Err(error)) => break Err(error),
                Poll::Ready(Ok(None)) => core.handle_end(),
                Poll::Ready(Ok(Some(bytes))) => {
                    self.bytes_in.set(self.bytes_in.get() + bytes.len() as u64);
                    self.turn.set(self.turn.get().saturating_sub(bytes.len()));
                    // How it ended is asked for above.
                    let _ = core.handle(&bytes, base_runtime::now());
                }
            }
        };
        if let Err(error) = read.and_then(|()| self.send(&mut core, cx)) {
            *self.failure.borrow_mut() = Some(error);
            core.handle_end();
            return Poll::Ready(Some(Err(Ended::Broken)));
        }
        match core.ended() {
            None => Poll::Pending,
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(ended)) => Poll::Ready(Some(Err(ended))),
        }
    }

    /// Sends what is there and what windows allow, as far as the peer takes it.
    fn send(&self, core: &mut Connection<S>, cx: &mut Context<'_>) -> io::Result<()> {
        loop {
            let is_blocked = self.transport.send_queue_len() > SEND_HIGH_WATER
                && match self.transport.poll_send_ready(cx, SEND_HIGH_WATER) {
                    Poll::Ready(ready) => ready.map(|()| false)?,
                    Poll::Pending => true,
                };
            core.set_blocked(is_blocked);
            let more = core.pump();
            core.out().take(|buffer| self.transport.send(buffer));
            if is_blocked || !more {
                return Ok(());
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.0.core.borrow_mut().handle_end();
    }
}

/// The driver's end of a connection.
pub struct Machine(Rc<Shell<Server>>);

impl Machine {
    pub(crate) fn new(transport: Transport, settings: &ServerSettings) -> Machine {
        let core = Connection::<Server>::new(settings, base_runtime::now(), unit(&transport));
        Machine(Shell::new(transport, core))
    }
}

impl Engine for Machine {
    type Stream = MachineStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<MachineStream, Ended>>> {
        self.0.poll(cx, Connection::accept).map_ok(|accepted| MachineStream {
            shell: self.0.clone(),
            key: accepted.key,
            head: Some(accepted.head),
            has_body: !accepted.is_whole,
        })
    }

    fn go_away(&mut self) {
        self.0.with(Connection::go_away);
    }

    fn set_window(&mut self, bytes: u32) {
        self.0.with(|core| core.set_window(bytes));
    }

    fn end(&mut self, why: Reason) {
        self.0.with(|core| core.end(why.into()));
    }

    fn ask(&mut self) {
        self.0.with(Connection::ask);
    }

    fn begin_turn(&mut self, bytes: usize) {
        self.0.begin_turn(bytes);
    }

    fn bytes_in(&self) -> u64 {
        self.0.bytes_in()
    }

    fn waiting(&self) -> usize {
        self.0.core.borrow_mut().out().len() + self.0.transport.send_queue_len()
    }

    fn unread(&self) -> u32 {
        self.0.core.borrow().unread()
    }

    fn held(&self) -> usize {
        self.0.core.borrow().held()
    }

    fn head_coming(&self) -> Option<u64> {
        self.0.core.borrow().head_coming()
    }
}

/// A stream of [`Machine`].
pub struct MachineStream {
    shell: Rc<Shell<Server>>,
    key: Key,
    /// Until it was read.
    head: Option<Fields>,
    /// Until it was taken, if there is one.
    has_body: bool,
}

impl MachineStream {
    /// Sends what `write` appends to a field block; whether anything is to be sent is what it says.
    fn send_fields(&self, ends: bool, write: impl FnOnce(&mut Vec<u8>) -> bool) -> Option<Result<(), Gone>> {
        with_block(write, |block| self.shell.with(|core| core.send_fields(self.key, block, ends)))
    }
}

/// Hands on what `write` appends to a field block; whether anything is to be handed on is what it says.
pub(crate) fn with_block<T>(write: impl FnOnce(&mut Vec<u8>) -> bool, hand_on: impl FnOnce(&[u8]) -> T) -> Option<T> {
    thread_local! {
        static BLOCK: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    BLOCK.with_borrow_mut(|block| {
        block.clear();
        let done = write(block).then(|| hand_on(block));
        if block.capacity() > BLOCK_KEPT {
            *block = Vec::new();
        }
        done
    })
}

/// A field block whose memory is used again, in bytes.
const BLOCK_KEPT: usize = 16 * 1024;

impl Stream for MachineStream {
    type Body = MachineBody;

    fn head_size(&self) -> (usize, usize) {
        self.head.as_ref().map_or((0, 0), |head| (head.section.bytes(), head.section.len()))
    }

    fn read_head(&mut self, limits: &Limits, into: &mut Request) -> Result<MultiplexedHead, Fault> {
        let Some(head) = self.head.take() else { return Err(Fault::Truncated) };
        if head.kept == Kept::Part {
            into.clear();
            into.version = Version::Http2;
            return Err(Fault::HeadTooLarge);
        }
        // It was found to be well-formed when it came.
        let (pseudo, count) = coding::pseudo(&head.section).map_err(|Malformed| Fault::PseudoField)?;
        let fields = head.section.iter().skip(count);
        let read = multiplexed::read_request(Version::Http2, &pseudo, fields, limits, into);
        connection::give_back(head.section);
        read
    }

    fn take_body(&mut self) -> Option<MachineBody> {
        if !std::mem::take(&mut self.has_body) {
            return None;
        }
        self.shell.core.borrow_mut().hold(self.key);
        Some(MachineBody { shell: self.shell.clone(), key: self.key, ended: false })
    }

    fn send_interim(&mut self, response: &Response) {
        let options = ResponseOptions { length: None, date: "" };
        let _ = self.send_fields(false, |block| encoder::response(response, &options, block));
    }

    fn send_head(&mut self, response: &Response, options: &ResponseOptions<'_>, ends: bool) -> Result<(), Gone> {
        self.send_fields(ends, |block| encoder::response(response, options, block)).unwrap_or(Err(Gone))
    }

    fn send_data(&mut self, data: Data, ends: bool) -> Result<(), Gone> {
        self.shell.with(|core| core.send_data(self.key, data, ends))
    }

    fn send_end(&mut self, trailers: Option<&Headers>) -> Result<(), Gone> {
        let sent = trailers.and_then(|trailers| self.send_fields(true, |block| encoder::trailers(trailers, block)));
        sent.unwrap_or_else(|| self.shell.with(|core| core.send_end(self.key)))
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.shell.core.borrow_mut().poll_gone(self.key, cx)
    }

    fn reset(&mut self, why: Reason) {
        self.shell.with(|core| core.reset(self.key, why.into()));
    }
}

impl Drop for MachineStream {
    fn drop(&mut self) {
        self.shell.with(|core| core.let_go(self.key));
    }
}

/// A body of [`Machine`].
pub struct MachineBody {
    shell: Rc<Shell<Server>>,
    key: Key,
    /// The last bytes were seen.
    ended: bool,
}

impl Body for MachineBody {
    const LENGTH: &'static str = "h2_length";

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyBroken>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let polled = self.shell.with(|core| core.poll_data(self.key, cx));
        self.ended = matches!(polled, Poll::Ready(Ok(None)));
        polled.map_err(BodyBroken::from)
    }

    fn trailers(&mut self, limits: &Limits) -> Result<Option<(Headers, u32)>, Fault> {
        let taken = self.shell.core.borrow_mut().take_trailers(self.key);
        let Some(section) = taken.transpose()? else { return Ok(None) };
        multiplexed::read_trailers(section.iter(), limits).map(Some)
    }

    fn is_complete(&self) -> bool {
        self.ended || self.shell.core.borrow().is_body_over(self.key)
    }
}

impl Drop for MachineBody {
    fn drop(&mut self) {
        self.shell.with(|core| {
            core.discard(self.key);
            core.let_go(self.key);
        });
    }
}
