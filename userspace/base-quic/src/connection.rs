//! One connection: its machine, and whoever drives it.
//!
//! The [`Driver`] belongs to one task, which handles what has come, says what is to be said, and sends; a [`Connection`] is a handle for
//! those who read and write streams meanwhile and wake that task.

use crate::endpoint::Socket;
use crate::handshakes::Handshake;
use crate::settings::QuicSettings;
use crate::stats::{self, Count};
use base_runtime::net::udp::Transmit;
use base_runtime::time::Deadline;
use base_tls::Session;
use bytes::Bytes;
use quinn_proto::{ConnectionHandle, EndpointEvent, Event, VarInt};
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// A handle; cheap to clone, and stays on its worker.
#[derive(Clone)]
pub struct Connection(Rc<Inner>);

struct Inner {
    machine: RefCell<quinn_proto::Connection>,
    handle: ConnectionHandle,
    socket: Rc<Socket>,
    waker: RefCell<Option<Waker>>,
    /// When the machine wants to be asked again.
    deadline: Deadline,
    /// Datagrams the kernel had no room for.
    unsent: RefCell<Option<Unsent>>,
    /// Until it is over, of one that a client made.
    handshake: Cell<Option<Handshake>>,
    /// One that a client made, and not we: those are counted.
    is_taken_in: bool,
    /// In the socket's list of those that wait until the kernel has room.
    is_blocked: Cell<bool>,
    /// Bytes of datagrams that carried more than what acknowledges, without what is around them.
    received: Cell<u64>,
    sent: Cell<u64>,
    /// Datagrams that came, whatever they said.
    heard: Cell<u64>,
    /// What the network said of datagrams since the last one came: how often, and what last.
    refused: Cell<(u32, i32)>,
    /// Datagrams of the application that came and were taken, or were lost before that.
    datagrams: Cell<u64>,
    /// Those that were let go out since it was last known what became of them, and how many had been sent by then.
    let_go: Cell<(u64, u64)>,
}

struct Unsent {
    transmit: quinn_proto::Transmit,
    contents: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(
        machine: quinn_proto::Connection,
        handle: ConnectionHandle,
        socket: &Rc<Socket>,
        handshake: Option<Handshake>,
    ) -> Connection {
        let is_taken_in = handshake.is_some();
        if is_taken_in {
            stats::opened();
            stats::count(Count::Begun);
        }
        Connection(Rc::new(Inner {
            machine: RefCell::new(machine),
            handle,
            socket: socket.clone(),
            waker: RefCell::default(),
            deadline: Deadline::new(),
            unsent: RefCell::default(),
            handshake: Cell::new(handshake),
            is_taken_in,
            is_blocked: Cell::new(false),
            received: Cell::new(0),
            sent: Cell::new(0),
            heard: Cell::new(0),
            refused: Cell::new((0, 0)),
            datagrams: Cell::new(0),
            let_go: Cell::default(),
        }))
    }

    /// Lets somebody work on the machine. What is to be sent because of it goes out once the driver was [woken](Connection::wake).
    pub fn with<T>(&self, work: impl FnOnce(&mut quinn_proto::Connection) -> T) -> T {
        work(&mut self.0.machine.borrow_mut())
    }

    /// The driver is to look.
    pub fn wake(&self) {
        if let Some(waker) = self.0.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Where its peer is now.
    pub fn peer(&self) -> SocketAddr {
        let peer = self.0.machine.borrow().remote_address();
        SocketAddr::new(peer.ip().to_canonical(), peer.port())
    }

    /// What the client has sent before it has shown to be there is taken (RFC 9001 section 4.6.1): until the handshake is over, it may be
    /// somebody else's who sends it once more.
    pub fn takes_early(&self) -> bool {
        self.with(|machine| machine.has_0rtt())
    }

    /// What was agreed, once the handshake is over, or once early data is taken.
    pub fn session(&self) -> Option<Session> {
        let told = self.0.machine.borrow().crypto_session().handshake_data()?;
        told.downcast::<Session>().ok().map(|session| *session)
    }

    /// Bytes that datagrams brought for streams, or a little less; those that only acknowledge bring none.
    pub fn received(&self) -> u64 {
        self.0.received.get()
    }

    /// Bytes of datagrams that were sent.
    pub fn sent(&self) -> u64 {
        self.0.sent.get()
    }

    /// Datagrams that came.
    pub fn heard(&self) -> u64 {
        self.0.heard.get()
    }

    /// How often the network has said, since a datagram came last, that nobody takes ours, and what it said last. It is not believed to
    /// say who sent that: a single word ends no connection that is established.
    pub fn refused(&self) -> Option<(u32, io::Error)> {
        let (times, errno) = self.0.refused.get();
        (times > 0).then(|| (times, io::Error::from_raw_os_error(errno)))
    }

    /// The next datagram (RFC 9221) that has come and was not taken.
    pub fn read_datagram(&self) -> Option<Bytes> {
        let datagram = self.with(|machine| machine.datagrams().recv())?;
        self.0.datagrams.set(self.0.datagrams.get() + 1);
        stats::count(Count::DatagramsIn);
        Some(datagram)
    }

    /// How many have come since this was last asked, and made room for later ones before anybody took them.
    pub fn take_lost_datagrams(&self) -> u64 {
        let came = self.with(|machine| machine.stats().frame_rx.datagram);
        let lost = came.saturating_sub(self.0.datagrams.get());
        self.0.datagrams.set(came);
        lost
    }

    /// Whether the peer takes datagrams.
    pub fn takes_datagrams(&self) -> bool {
        self.with(|machine| machine.datagrams().max_size().is_some())
    }

    /// Lets a datagram go out; false where there is no room for it, or it is too long for the way or the peer: it is lost.
    pub fn send_datagram(&self, datagram: Bytes) -> bool {
        let sent = self.with(|machine| machine.datagrams().send(datagram, false)).is_ok();
        if sent {
            stats::count(Count::DatagramsOut);
            let (count, before) = self.0.let_go.get();
            self.0.let_go.set((count + 1, before));
            self.wake();
        }
        sent
    }

    /// How many of those that were let go out have been dropped since, as the way takes only shorter ones by now. It is known once none of
    /// them waits any more.
    pub fn take_dropped_datagrams(&self, settings: &QuicSettings) -> u64 {
        let (count, before) = self.0.let_go.get();
        if count == 0 || self.unsent_datagrams(settings) > 0 {
            return 0;
        }
        let sent = self.with(|machine| machine.stats().frame_tx.datagram);
        self.0.let_go.set((0, sent));
        count.saturating_sub(sent.saturating_sub(before))
    }

    /// How often the peer has said what has come to it.
    pub fn acknowledgements(&self) -> u64 {
        self.with(|machine| machine.stats().frame_rx.acks)
    }

    /// Bytes of datagrams that are to go out.
    pub fn unsent_datagrams(&self, settings: &QuicSettings) -> usize {
        self.with(|machine| settings.datagram_bytes.saturating_sub(machine.datagrams().send_buffer_space() + UNUSED))
    }

    /// Ends it: the peer is told this code of the application.
    pub fn close(&self, code: u32, reason: &'static str) {
        let (now, reason) = (base_runtime::now(), Bytes::from_static(reason.as_bytes()));
        self.with(|machine| machine.close(now, VarInt::from_u32(code), reason));
        self.wake();
    }

    pub(crate) fn handle_event(&self, event: quinn_proto::ConnectionEvent, bytes: usize) {
        if bytes > ACKNOWLEDGES {
            self.0.received.set(self.0.received.get() + (bytes - OVERHEAD) as u64);
        }
        self.0.heard.set(self.0.heard.get() + 1);
        self.0.refused.set((0, 0));
        self.0.machine.borrow_mut().handle_event(event);
        self.wake();
    }

    pub(crate) fn handle_refused(&self, errno: i32) {
        let (times, _) = self.0.refused.get();
        self.0.refused.set((times.saturating_add(1), errno));
        self.wake();
    }

    /// The kernel has room again.
    pub(crate) fn unblock(&self) {
        self.0.is_blocked.set(false);
        self.wake();
    }

    pub(crate) fn handle(&self) -> ConnectionHandle {
        self.0.handle
    }

    fn is_shaken(&self) {
        self.0.handshake.take();
    }
}

/// What a send buffer keeps for the datagram that may come next.
const UNUSED: usize = 32;

/// A datagram of at most so many bytes says little more than what has arrived.
const ACKNOWLEDGES: usize = 100;

/// Header, proof, acknowledgement and the heads of frames of such a longer one.
const OVERHEAD: usize = 64;

/// The one that drives a connection. Dropped, the connection is forgotten.
pub struct Driver {
    connection: Connection,
    drained: bool,
    remote: SocketAddr,
}

impl Driver {
    pub(crate) fn new(connection: Connection) -> Driver {
        let remote = connection.peer();
        Driver { connection, drained: false, remote }
    }

    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// To be called first in each turn: does what is due.
    pub fn begin(&mut self, cx: &mut Context<'_>) {
        let inner = &self.connection.0;
        *inner.waker.borrow_mut() = Some(cx.waker().clone());
        if inner.deadline.poll_expired(cx).is_ready() {
            inner.machine.borrow_mut().handle_timeout(base_runtime::now());
        }
        self.tell_endpoint();
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.connection.0.machine.borrow_mut().poll()?;
        match event {
            Event::Connected => {
                self.connection.is_shaken();
                if self.connection.0.is_taken_in {
                    stats::count(Count::Established);
                }
            }
            Event::ConnectionLost { .. } => self.connection.is_shaken(),
            _ => {}
        }
        Some(event)
    }

    /// To be called last in each turn: sends what is to be sent, and sees that the next turn comes in time. Ready once nobody has
    /// anything to say any more.
    pub fn poll_transmit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let remote = self.connection.peer();
        if std::mem::replace(&mut self.remote, remote) != remote {
            stats::count(Count::Migrated);
        }
        if self.send() {
            // Others have their turn.
            cx.waker().wake_by_ref();
        }
        self.tell_endpoint();
        if self.drained {
            return Poll::Ready(());
        }
        let inner = &self.connection.0;
        match inner.machine.borrow_mut().poll_timeout() {
            Some(at) => inner.deadline.set(at),
            None => inner.deadline.clear(),
        }
        if inner.deadline.poll_expired(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Whether there is more than a turn's share.
    fn send(&mut self) -> bool {
        let inner = &self.connection.0;
        let mut unsent = inner.unsent.borrow_mut();
        if let Some(waiting) = &*unsent {
            if self.hand_over(&waiting.transmit, &waiting.contents).is_err() {
                return false;
            }
            *unsent = None;
        }
        let now = base_runtime::now();
        let mut scratch = inner.socket.scratch.borrow_mut();
        for _ in 0..TRANSMITS {
            scratch.clear();
            let transmit = inner.machine.borrow_mut().poll_transmit(now, DATAGRAMS, &mut scratch);
            let Some(transmit) = transmit else { return false };
            if self.hand_over(&transmit, &scratch[..transmit.size]).is_err() {
                *unsent = Some(Unsent { contents: scratch[..transmit.size].to_vec(), transmit });
                return false;
            }
        }
        true
    }

    /// An error: the kernel has no room, and will say when it has.
    fn hand_over(&self, transmit: &quinn_proto::Transmit, contents: &[u8]) -> Result<(), ()> {
        let inner = &self.connection.0;
        match inner.socket.send(transmit, contents) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !inner.is_blocked.replace(true) {
                    inner.socket.wait_for_room(&self.connection);
                }
                return Err(());
            }
            // What the network refuses is lost as if it were lost on the way.
            Err(_) => {}
            Ok(()) => inner.sent.set(inner.sent.get() + contents.len() as u64),
        }
        Ok(())
    }

    fn tell_endpoint(&mut self) {
        let inner = &self.connection.0;
        loop {
            let event = inner.machine.borrow_mut().poll_endpoint_events();
            let Some(event) = event else { break };
            self.drained |= event.is_drained();
            let answer = inner.socket.machine.borrow_mut().handle_event(inner.handle, event);
            if let Some(answer) = answer {
                inner.machine.borrow_mut().handle_event(answer);
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.connection.is_shaken();
        if !self.drained {
            // The last word, as far as the kernel has room for it.
            self.send();
        }
        let inner = &self.connection.0;
        if !self.drained {
            inner.socket.machine.borrow_mut().handle_event(inner.handle, EndpointEvent::drained());
        }
        inner.socket.forget(inner.handle);
        if inner.is_taken_in {
            stats::closed();
        }
    }
}

/// Datagrams handed to the kernel in one call.
const DATAGRAMS: usize = 32;

/// Such calls a connection makes before others have their turn.
const TRANSMITS: usize = 4;

/// A [`quinn_proto::Transmit`] as the worker's socket takes it.
pub(crate) fn translated<'a>(transmit: &quinn_proto::Transmit, contents: &'a [u8]) -> Transmit<'a> {
    Transmit {
        segment_size: transmit.segment_size,
        ecn: base_runtime::net::udp::Ecn::from_bits(transmit.ecn.map_or(0, |ecn| ecn as u8)),
        source: transmit.src_ip,
        ..Transmit::new(transmit.destination, contents)
    }
}
