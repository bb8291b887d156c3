//! One HTTP/3 client connection: QUIC's machine, driven; each request a task of its own, on the road HTTP/2 takes.
//!
//! The task of the connection handles what came, reads heads, sends what all streams have said in a turn, and keeps the time.

use crate::accept::{Place as Seat, Share};
use crate::client_stream::Carrier;
use crate::h1_connection::Phase;
use crate::h2_connection::{self, FIELD_BYTES, STREAM_BYTES, Streams, UNNOTICED};
use crate::h3_stream::{H3Machine, Head, Next, RequestStream, Wire, head_bounds};
use crate::http_server::Local;
use base_quic::proto::{ConnectionError, Dir, Event, Side, StreamEvent, StreamId, VarInt};
use base_quic::stream::Read;
use base_quic::{Driver, QuicSettings};
use base_runtime::memory::{self, Booking};
use base_runtime::time::{self, Deadline};
use base_tls::Session;
use bytes::Bytes;
use proto_h2::server::{Reason, Stream as _};
use proto_h3::control::{self, Incoming, Peer};
use proto_h3::datagram;
use proto_h3::qpack::{self, Section};
use proto_h3::request::Event as RequestEvent;
use proto_h3::settings::Settings;
use proto_h3::{Code, message};
use proto_http::h1::Fault;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// What an idle connection holds, in bytes, for the memory ledger: the machine's fixed part (6 KiB), keys of two generations, ids and
/// what is kept of path and peer. Measured: an idle connection takes 37 KiB of resident memory.
const MACHINE_BYTES: usize = 36 * 1024;

/// The same while its handshake is under way: with rustls' machine and the client's key shares.
const HANDSHAKE_BYTES: usize = 56 * 1024;

/// Requests it begins before others have their turn.
const TURN_REQUESTS: usize = 32;

/// While requests are under way the client is asked at least this often whether it is still there.
const PING_AFTER: Duration = Duration::from_secs(15);

/// Most a connection's window grows to with the requests that share it: as much as all of them hold whose bodies nobody reads.
const WINDOW_MOST: u32 = 8 * 1024 * 1024;

/// Bytes a second at which a client takes the rest of its answers at least; a slower one does not get the end of them.
const SLOWEST: u64 = 4096;

/// The largest number of a stream that a client could open: no request has been refused yet.
const NO_STREAM: u64 = (1 << 62) - 4;

/// Names of the bounds of HTTP/3.
pub fn bounds() -> impl Iterator<Item = &'static str> {
    let own = ["h3_streams", "h3_heads", "h3_idle_frames", "h3_resets", "h3_datagrams"];
    own.into_iter().chain(Code::ALL.map(Code::name)).chain(base_quic::endpoint::BOUNDS)
}

/// What is cheap to send and leads nowhere, against what a connection has earned.
#[derive(Debug)]
struct Budget {
    left: u32,
    most: u32,
}

impl Budget {
    const fn new(most: u32) -> Budget {
        Budget { left: most, most }
    }

    /// False: it has none left.
    fn spend(&mut self, some: u32) -> bool {
        let enough = self.left >= some;
        self.left = self.left.saturating_sub(some);
        enough
    }

    fn earn(&mut self, some: u32) {
        self.left = self.left.saturating_add(some).min(self.most);
    }
}

/// Frames that lead nowhere that a client may send ahead of what it earns by bodies and answers.
const IDLE_FRAMES: u32 = 1000;

/// Bytes of a body that earn one such frame.
const IDLE_EARNED: u64 = 512;

/// Requests a client may give up ahead of those that are answered (CVE-2023-44487).
const RESETS: u32 = 200;

/// Datagrams that are kept for requests that have not come yet, whose packets they may have overtaken. The first of more makes room.
const EARLY_DATAGRAMS: usize = 16;

/// A connection as its server knows it.
pub struct H3Connection {
    quic: base_quic::Connection,
    local: Rc<Local>,
    /// Where it began. A datagram from elsewhere moves the connection before anybody has shown to be there (RFC 9000 section 9.3), so
    /// who the client is stays what its handshake has shown.
    peer: SocketAddr,
    session: RefCell<Option<Rc<Session>>>,
    /// Early data is taken, and the handshake is not over.
    early: Cell<bool>,
    /// Those that wait until it is.
    waiting: RefCell<Vec<Waker>>,
    pub phase: Cell<Phase>,
    /// Since when it is in this phase, in milliseconds of its worker.
    pub since_ms: Cell<u64>,
}

impl H3Connection {
    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since_ms.set(time::elapsed_ms());
    }

    /// Ends an idle connection, as if it had idled for too long.
    pub fn leave(&self) {
        self.phase.set(Phase::Leaving);
        self.quic.wake();
    }

    /// Its task is to look: the server stops.
    pub fn wake(&self) {
        self.quic.wake();
    }
}

impl Carrier for H3Connection {
    fn peer(&self) -> SocketAddr {
        self.peer
    }

    fn session(&self) -> Option<Rc<Session>> {
        self.session.borrow().clone()
    }

    fn is_early(&self) -> bool {
        self.early.get()
    }

    fn poll_shaken(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.early.get() {
            return Poll::Ready(());
        }
        let mut waiting = self.waiting.borrow_mut();
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn bytes_sent(&self) -> u64 {
        self.quic.sent()
    }
}

/// Among the connections of its server, until it is dropped.
struct Presence {
    connection: Rc<H3Connection>,
    key: u32,
    _seat: Seat,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.connection.local.leave_quic(self.key);
    }
}

/// Serves a connection that has begun, to its end.
pub async fn serve(driver: Driver, local: Rc<Local>, seat: Seat) {
    let quic = driver.connection().clone();
    let mut key = 0;
    let connection = local.book_quic(|its| {
        key = its;
        Rc::new(H3Connection {
            quic: quic.clone(),
            local: local.clone(),
            peer: quic.peer(),
            session: RefCell::default(),
            early: Cell::new(false),
            waiting: RefCell::default(),
            phase: Cell::new(Phase::Idle),
            since_ms: Cell::new(time::elapsed_ms()),
        })
    });
    let presence = Presence { connection: connection.clone(), key, _seat: seat };
    let now = base_runtime::now();
    let mut drive = Drive {
        driver,
        wire: Wire::new(quic, head_bounds(&local.live().limits).bytes),
        connection,
        local,
        streams: Rc::default(),
        requests: HashMap::new(),
        heads: VecDeque::new(),
        one_way: HashMap::new(),
        peer: Peer::default(),
        control: None,
        control_out: Vec::new(),
        window: 0,
        booking: Booking::new(memory::Kind::Other, HANDSHAKE_BYTES),
        deadline: Deadline::new(),
        stage: Stage::Shaking(now),
        quiet: Some(now),
        emptied: None,
        fresh: true,
        pinged: now,
        idle_frames: Budget::new(IDLE_FRAMES),
        resets: Budget::new(RESETS),
        body_bytes: 0,
        answered: 0,
        requests_begun: 0,
        early_datagrams: VecDeque::new(),
    };
    poll_fn(|cx| drive.poll(cx)).await;
    drop(presence);
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its handshake is under way since then.
    Shaking(Instant),
    Open,
    /// The client was told to send no more requests.
    Away,
    /// It was told why this is the end, or said so itself.
    Closed,
}

struct Drive {
    driver: Driver,
    wire: Rc<Wire>,
    connection: Rc<H3Connection>,
    local: Rc<Local>,
    streams: Rc<Streams>,
    requests: HashMap<StreamId, Rc<RequestStream>>,
    /// Those whose heads have not come to their end, since when.
    heads: VecDeque<(Rc<RequestStream>, Instant)>,
    one_way: HashMap<StreamId, Incoming>,
    peer: Peer,
    /// Our control stream, and what is still to be written to it.
    control: Option<StreamId>,
    control_out: Vec<u8>,
    window: u32,
    booking: Booking,
    /// Of what is waited for here; the machine has its own.
    deadline: Deadline,
    stage: Stage,
    /// Since when there is no request, and the client has all answers.
    quiet: Option<Instant>,
    /// Since when there is no request.
    emptied: Option<Instant>,
    /// No request has come yet.
    fresh: bool,
    /// When the client was last asked whether it is there.
    pinged: Instant,
    idle_frames: Budget,
    resets: Budget,
    /// Of the wire, as far as they were earned by.
    body_bytes: u64,
    answered: u32,
    /// How many requests the client has begun.
    requests_begun: u64,
    /// Datagrams of requests that have not come, by their numbers.
    early_datagrams: VecDeque<(u64, Bytes)>,
}

impl Drive {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.streams.set_driver(cx.waker());
        self.driver.begin(cx);
        let mut begun = 0;
        while begun < TURN_REQUESTS {
            let Some(event) = self.driver.poll_event() else { break };
            begun += self.handle(event);
        }
        if begun >= TURN_REQUESTS {
            cx.waker().wake_by_ref();
        }
        self.requests.retain(|_, request| !request.is_over());
        self.count_dropped();
        self.keep_budget();
        if let Some(code) = self.wire.fault.take() {
            self.end_for(code);
        }
        self.keep_books();
        self.keep_time(cx);
        self.write_control();
        let ended = self.driver.poll_transmit(cx);
        match ended.is_pending() && self.wire.outbox.borrow().wants_turn() {
            true => self.send_datagrams(cx),
            false => ended,
        }
    }

    /// Lets datagrams go out behind what streams had to say.
    fn send_datagrams(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (quic, settings) = (self.driver.connection().clone(), QuicSettings::default());
        let going = self.wire.outbox.borrow_mut().turn(quic.unsent_datagrams(&settings), quic.acknowledgements());
        if going.is_empty() {
            return Poll::Pending;
        }
        for datagram in going {
            if !quic.send_datagram(datagram.into()) {
                self.wire.dropped(1);
            }
        }
        let ended = self.driver.poll_transmit(cx);
        if self.wire.outbox.borrow_mut().goes_on(quic.unsent_datagrams(&settings)) {
            cx.waker().wake_by_ref();
        }
        ended
    }

    /// Of datagrams that QUIC had already.
    fn count_dropped(&self) {
        let dropped = self.driver.connection().take_dropped_datagrams(&QuicSettings::default());
        if dropped > 0 {
            self.wire.outbox.borrow_mut().handle_dropped();
            self.wire.dropped(dropped);
        }
    }

    /// Says how many requests began.
    fn handle(&mut self, event: Event) -> usize {
        match event {
            Event::HandshakeDataReady => {}
            Event::Connected => {
                self.begin_control();
                self.stage = Stage::Open;
                if self.streams.open() == 0 {
                    self.quiet = Some(base_runtime::now());
                }
                self.connection.early.set(false);
                self.connection.waiting.take().into_iter().for_each(Waker::wake);
                return self.accept();
            }
            Event::ConnectionLost { reason } => self.lost(&reason),
            Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => return self.accept(),
            Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) => self.accept_one_way(),
            Event::Stream(StreamEvent::Readable { id }) => {
                if id.dir() == Dir::Uni {
                    self.read_one_way(id);
                } else if let Some(request) = self.requests.get(&id).cloned() {
                    request.wake_reader();
                    return self.read_head(&request);
                }
            }
            Event::Stream(StreamEvent::Writable { id }) => {
                if let Some(request) = self.requests.get(&id) {
                    request.pump();
                }
            }
            Event::Stream(StreamEvent::Finished { id }) => self.wire.settled(id),
            Event::Stream(StreamEvent::Stopped { id, .. }) => {
                if Some(id) == self.control {
                    self.end_for(Code::ClosedCriticalStream);
                } else if let Some(request) = self.requests.get(&id) {
                    request.handle_stopped();
                }
            }
            Event::DatagramReceived => self.read_datagrams(),
            Event::Stream(StreamEvent::Available { .. }) | Event::DatagramsUnblocked => {}
        }
        0
    }

    fn lost(&mut self, reason: &ConnectionError) {
        if let Stage::Shaking(_) = self.stage
            && matches!(reason, ConnectionError::TransportError(_) | ConnectionError::ConnectionClosed(_))
        {
            tracing::debug!(server = %self.local.server_name(), peer = %self.connection.peer(), "QUIC handshake: {reason}");
            self.local.limit("handshake_failed");
        }
        self.stage = Stage::Closed;
        // Whoever serves a request finds that nobody takes its answer.
        self.wire.fault.set(Some(Code::NoError));
        for request in self.requests.values() {
            request.abort(Code::RequestCancelled);
            request.wake_reader();
        }
    }

    /// Takes the requests that have come.
    fn accept(&mut self) -> usize {
        let mut begun = 0;
        // Nothing of HTTP/3 is said before the client is known to be who it says, unless early data is taken.
        if matches!(self.stage, Stage::Shaking(_)) {
            if !self.driver.connection().takes_early() {
                return 0;
            }
            self.connection.early.set(true);
            self.begin_control();
        }
        while let Some(id) = self.driver.connection().with(|machine| machine.streams().accept(Dir::Bi)) {
            let request = RequestStream::new(id, &self.wire);
            self.requests.insert(id, request.clone());
            self.requests_begun = id.index() + 1;
            self.hand_over_early(&request);
            self.heads.push_back((request.clone(), base_runtime::now()));
            begun += self.read_head(&request);
        }
        begun
    }

    /// Takes the datagrams that have come, each to its request.
    fn read_datagrams(&mut self) {
        while let Some(datagram) = self.driver.connection().read_datagram() {
            self.wire.took_datagram(datagram.len());
            match datagram::decode(datagram) {
                Ok((number, content)) => self.hand_over(number, content),
                Err(fault) => return self.obey(Err(fault)),
            }
        }
        self.wire.dropped(self.driver.connection().take_lost_datagrams());
    }

    /// RFC 9297 section 2.1.
    fn hand_over(&mut self, number: u64, content: Bytes) {
        if number < self.requests_begun {
            if let Some(request) = self.requests.get(&StreamId::new(Side::Client, Dir::Bi, number)) {
                request.handle_datagram(content);
            }
            return;
        }
        // Nobody could open that many.
        if number - self.requests_begun >= u64::from(QuicSettings::default().streams_most) {
            return self.obey(Err(proto_h3::Fault::Connection(Code::Id)));
        }
        if self.early_datagrams.len() >= EARLY_DATAGRAMS {
            self.early_datagrams.pop_front();
            self.wire.dropped(1);
        }
        self.early_datagrams.push_back((number, content));
    }

    /// What has come before its request has.
    fn hand_over_early(&mut self, request: &RequestStream) {
        let number = request.id().index();
        for (to, content) in std::mem::take(&mut self.early_datagrams) {
            match to == number {
                true => request.handle_datagram(content),
                false => self.early_datagrams.push_back((to, content)),
            }
        }
    }

    /// Reads on in a head that is not complete.
    fn read_head(&mut self, request: &Rc<RequestStream>) -> usize {
        let Some(at) = self.heads.iter().position(|(known, _)| Rc::ptr_eq(known, request)) else { return 0 };
        let head = match request.next() {
            Next::Blocked => return 0,
            Next::Event(RequestEvent::Head(block)) => self.decode(&block),
            Next::Event(RequestEvent::HeadTooLarge) => Some(Head::Fault(Fault::HeadTooLarge)),
            // Nothing else comes before a head.
            Next::Event(_) | Next::End => None,
            Next::Broken => {
                request.count_given_up();
                None
            }
        };
        self.heads.remove(at);
        match head {
            Some(head) => {
                self.begin(request.clone(), head);
                1
            }
            None => {
                request.abort(Code::RequestCancelled);
                self.requests.remove(&request.id());
                0
            }
        }
    }

    /// `None`: nobody is to be answered.
    fn decode(&mut self, block: &[u8]) -> Option<Head> {
        let mut section = Section::default();
        let bounds = head_bounds(&self.local.live().limits);
        match qpack::decode(block, &bounds, &mut section) {
            Ok(()) => {}
            Err(qpack::Unread::TooLarge) => return Some(Head::Fault(Fault::HeadTooLarge)),
            Err(qpack::Unread::TooMany) => return Some(Head::Fault(Fault::TooManyFields)),
            Err(qpack::Unread::Broken) => {
                self.wire.fault.set(Some(Code::QpackDecompression));
                return None;
            }
        }
        Some(Head::Read(section))
    }

    fn begin(&mut self, request: Rc<RequestStream>, head: Head) {
        self.fresh = false;
        if let Head::Read(section) = &head
            && message::pseudo(section).is_err()
        {
            self.local.limit(Code::Message.name());
            request.count_given_up();
            request.abort(Code::Message);
            self.requests.remove(&request.id());
            return;
        }
        request.peek();
        let mut machine = H3Machine::new(request, head);
        let most = QuicSettings::default().streams_most * UNNOTICED;
        if self.streams.open() >= most || self.stage == Stage::Closed {
            self.local.limit("h3_streams");
            return machine.reset(Reason::Refused);
        }
        let (bytes, fields) = machine.head_size();
        let Some(place) = self.streams.begin(bytes + fields * FIELD_BYTES) else {
            self.local.limit("h3_heads");
            return machine.reset(Reason::Refused);
        };
        self.quiet = None;
        self.emptied = None;
        self.connection.enter(Phase::Streams);
        if !self.local.keeps_alive(true) {
            self.go_away();
        }
        let (local, connection) = (self.local.clone(), self.connection.clone());
        base_runtime::spawn(h2_connection::attend(place, local, connection, machine)).detach();
    }

    fn accept_one_way(&mut self) {
        while let Some(id) = self.driver.connection().with(|machine| machine.streams().accept(Dir::Uni)) {
            self.one_way.insert(id, Incoming::default());
            self.read_one_way(id);
        }
    }

    fn read_one_way(&mut self, id: StreamId) {
        let Some(mut incoming) = self.one_way.remove(&id) else { return };
        loop {
            let handled = match self.driver.connection().read(id) {
                Read::Some(bytes) => {
                    self.wire.took(bytes.len());
                    incoming.handle(&mut self.peer, &bytes)
                }
                Read::End | Read::Reset(_) | Read::Closed => {
                    self.wire.idle.set(self.wire.idle.get() + 1);
                    return self.obey(incoming.handle_end());
                }
                Read::Blocked => {
                    self.one_way.insert(id, incoming);
                    return;
                }
            };
            match handled {
                Ok(control::Next::Read) => self.check_datagrams(),
                Ok(control::Next::Stop) => {
                    self.wire.idle.set(self.wire.idle.get() + 1);
                    let code = VarInt::from_u32(Code::StreamCreation.value());
                    let _ = self.driver.connection().with(|machine| machine.recv_stream(id).stop(code));
                    return;
                }
                Err(fault) => return self.obey(Err(fault)),
            }
        }
    }

    /// Who says that datagrams belong to its requests must have a transport that takes any (RFC 9297 section 2.1.1).
    fn check_datagrams(&mut self) {
        if self.peer.settings().is_some_and(|settings| settings.datagrams) && !self.wire.takes_datagrams.get() {
            match self.driver.connection().takes_datagrams() {
                true => self.wire.takes_datagrams.set(true),
                false => self.obey(Err(proto_h3::Fault::Connection(Code::Settings))),
            }
        }
    }

    fn obey(&mut self, outcome: Result<(), proto_h3::Fault>) {
        if let Err(fault) = outcome
            && self.wire.fault.get().is_none()
        {
            self.wire.fault.set(Some(fault.code()));
        }
    }

    /// The connection speaks HTTP/3 from here on.
    fn begin_control(&mut self) {
        let session = self.driver.connection().session();
        *self.connection.session.borrow_mut() = session.map(Rc::new);
        if self.control.is_some() {
            return;
        }
        let opened = self.driver.connection().with(|machine| machine.streams().open(Dir::Uni));
        // Who lets none be opened is not told: it is tried once more when the handshake is over.
        if opened.is_none() {
            return;
        }
        self.control = opened;
        control::open(&mut self.control_out);
        let limits = &self.local.live().limits;
        let bounds = head_bounds(limits);
        let field_section_bytes = (bounds.bytes + bounds.fields * FIELD_OVERHEAD) as u64;
        Settings { field_section_bytes, connect_protocol: true, datagrams: true }.encode(&mut self.control_out);
    }

    fn write_control(&mut self) {
        if let Some(id) = self.control
            && !self.control_out.is_empty()
        {
            let out = &self.control_out;
            if let Ok(written) = self.driver.connection().with(|machine| machine.send_stream(id).write(out)) {
                self.control_out.drain(..written);
            }
        }
    }

    fn go_away(&mut self) {
        if self.stage == Stage::Open {
            self.stage = Stage::Away;
            // What set out before the client could know arrives within the time it has to answer.
            self.quiet = self.quiet.map(|_| base_runtime::now());
            control::go_away(NO_STREAM, &mut self.control_out);
        }
    }

    /// The connection is to end for what its client did.
    fn end_for(&mut self, code: Code) {
        if self.stage != Stage::Closed {
            self.local.limit(code.name());
            self.end(code);
        }
    }

    fn end(&mut self, code: Code) {
        if self.stage != Stage::Closed {
            self.stage = Stage::Closed;
            for request in self.requests.values() {
                request.abort(code);
                request.wake_reader();
            }
            self.driver.connection().close(code.value(), code.text());
            self.wire.fault.set(Some(code));
        }
    }

    fn keep_budget(&mut self) {
        let earned = self.wire.body_bytes.get() - self.body_bytes;
        self.body_bytes += earned - earned % IDLE_EARNED;
        self.idle_frames.earn((earned / IDLE_EARNED) as u32);
        let answered = self.wire.answered.get().wrapping_sub(self.answered);
        self.answered = self.wire.answered.get();
        self.idle_frames.earn(answered);
        self.resets.earn(answered);
        let idle = self.wire.idle.take() + self.peer.take_idle();
        if !self.idle_frames.spend(idle) && self.stage != Stage::Closed {
            self.local.limit("h3_idle_frames");
            self.end(Code::ExcessiveLoad);
        }
        for _ in 0..self.wire.datagrams_dropped.take() {
            self.local.limit("h3_datagrams");
        }
        for code in self.wire.stream_faults.take() {
            self.local.limit(code.name());
        }
        if !self.resets.spend(self.wire.given_up.take()) && self.stage != Stage::Closed {
            self.local.limit("h3_resets");
            self.end(Code::ExcessiveLoad);
        }
    }

    fn keep_books(&mut self) {
        let settings = QuicSettings::default();
        let open = self.streams.open() as usize;
        let wanted = (settings.connection_window + open as u32 * settings.stream_window).min(WINDOW_MOST);
        let window = if memory::is_over() { wanted.min(self.window.max(settings.connection_window)) } else { wanted };
        if self.window != window {
            self.window = window;
            self.driver.connection().with(|machine| machine.set_receive_window(window.into()));
        }
        let fixed = if matches!(self.stage, Stage::Shaking(_)) { HANDSHAKE_BYTES } else { MACHINE_BYTES };
        let heads: usize = self.heads.iter().map(|(request, _)| request.held()).sum();
        let sending = self.wire.outstanding().min(settings.send_window) as usize;
        let unread = unread(self.driver.connection().received(), self.wire.taken.get(), self.window.into());
        let early: usize = self.early_datagrams.iter().map(|(_, content)| content.len() + datagram::OVERHEAD).sum();
        let going = self.wire.outbox.borrow().held() + self.driver.connection().unsent_datagrams(&settings);
        let datagrams = self.wire.datagram_bytes.get() + early + going;
        self.booking.set(fixed + open * STREAM_BYTES + heads + sending + unread + datagrams);
    }

    /// What is due is done; the deadline is set for what is due next.
    fn keep_time(&mut self, cx: &mut Context<'_>) {
        let (now, timeouts) = (base_runtime::now(), self.local.timeouts());
        if self.stage == Stage::Closed {
            return self.deadline.clear();
        }
        let mut next: Option<Instant> = None;
        let mut is_due = |at: Instant| {
            next = Some(next.map_or(at, |next| next.min(at)));
            at <= now
        };
        if let Stage::Shaking(since) = self.stage {
            if is_due(since + timeouts.handshake) {
                self.local.limit("handshake_timeout");
                return self.end(Code::NoError);
            }
            // Where another process has the socket nobody else can end what has begun here. The client is told to go once it has.
            if self.local.is_stopping() && !self.local.door().has_let_go() {
                return self.end(Code::NoError);
            }
            return self.arm(next, cx);
        }
        if self.streams.open() == 0 && self.quiet.is_none() {
            // What was handed over is not yet what the client has.
            let outstanding = self.wire.outstanding();
            let since = *self.emptied.get_or_insert(now);
            if outstanding == 0 || is_due(since + timeouts.send + Duration::from_secs(outstanding / SLOWEST)) {
                self.quiet = Some(now);
                self.connection.enter(Phase::Idle);
            }
        }
        if self.local.is_stopping() && self.stage == Stage::Open {
            self.go_away();
            self.streams.set_tunnels(now);
        }
        if self.connection.phase.get() == Phase::Leaving && self.quiet.is_some() {
            return self.end(Code::NoError);
        }
        // A head that does not come to its end.
        let mut late = None;
        if let Some((request, since)) = self.heads.front()
            && is_due(*since + timeouts.head)
        {
            late = Some(request.clone());
        }
        if self.streams.open() > 0 && is_due(self.pinged + PING_AFTER) {
            self.pinged = now;
            self.driver.connection().with(|machine| machine.ping());
            is_due(now + PING_AFTER);
        }
        if let Some(since) = self.quiet.filter(|_| self.heads.is_empty()) {
            let idle = match self.stage {
                Stage::Open if self.fresh => Some((timeouts.head, Some("first_byte_timeout"))),
                Stage::Open => self.local.idle_timeout().map(|after| (after, None)),
                // Whoever does not answer is not waited for.
                Stage::Away => Some((timeouts.linger, None)),
                Stage::Shaking(_) | Stage::Closed => None,
            };
            if let Some((after, limit)) = idle
                && is_due(since + after)
            {
                if let Some(limit) = limit {
                    self.local.limit(limit);
                }
                return self.end(Code::NoError);
            }
        }
        if let Some(request) = late {
            self.heads.pop_front();
            self.local.limit("head_timeout");
            request.abort(Code::RequestIncomplete);
            self.requests.remove(&request.id());
            self.quiet = self.quiet.map(|_| now);
            next = Some(now);
        }
        self.arm(next, cx);
    }

    fn arm(&mut self, next: Option<Instant>, cx: &mut Context<'_>) {
        match next {
            Some(at) => self.deadline.set(at),
            None => self.deadline.clear(),
        }
        if self.deadline.poll_expired(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

/// What lies in the machine unread, which it does not tell: in order, because nobody reads a body, or out of order, because what comes
/// before it has not come. As much as came and was not taken, within the window; a sixteenth of what came may have come twice.
fn unread(received: u64, taken: u64, window: u64) -> usize {
    (received - received / 16).saturating_sub(taken).min(window) as usize
}

/// What each field costs beside its bytes (RFC 9114 section 4.2.2).
const FIELD_OVERHEAD: usize = 32;

/// What takes connections in on a worker.
pub struct Door {
    pub local: Rc<Local>,
}

impl base_quic::Accepts for Door {
    type Seat = Seat;

    fn config(&self) -> Option<std::sync::Arc<base_quic::proto::ServerConfig>> {
        self.local.live().quic.clone()
    }

    fn admit(&self) -> Option<Seat> {
        let seat = self.local.seat();
        if seat.is_none() {
            self.local.is_full();
        }
        seat
    }

    fn denies(&self, ip: IpAddr) -> bool {
        self.local.denies(ip)
    }

    fn take_in(&self, driver: Driver, seat: Seat) {
        base_runtime::spawn(serve(driver, self.local.clone(), seat)).detach();
    }

    fn limit(&self, name: &'static str) {
        self.local.limit(name);
    }

    fn has_let_go(&self) -> bool {
        self.local.door().has_let_go()
    }

    fn way_to(&self, machine: u16) -> Option<std::sync::Arc<dyn base_quic::Ways>> {
        self.local.way_to(machine)
    }

    fn passes(&self) -> Option<std::os::unix::net::UnixStream> {
        self.local.door().take_passes()
    }

    fn poll_closed(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.local.door().poll_closed(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_and_was_not_taken_is_unread() {
        assert_eq!(unread(0, 0, 1000), 0);
        assert_eq!(unread(1600, 0, 1000), 1000, "no more than the window lets in");
        assert_eq!(unread(1600, 0, 10_000), 1500);
        assert_eq!(unread(1600, 1000, 10_000), 500);
        assert_eq!(unread(1600, 1600, 10_000), 0);
        // What is taken as it comes does not add up, however long it goes on.
        assert_eq!(unread(1_000_000_000, 999_000_000, 10_000), 0);
    }

    #[test]
    fn a_budget_is_earned_up_to_its_most() {
        let mut budget = Budget::new(10);
        assert!(budget.spend(10) && !budget.spend(1));
        budget.earn(3);
        assert!(budget.spend(3) && !budget.spend(1));
        budget.earn(u32::MAX);
        assert!(budget.spend(10) && !budget.spend(1));
    }
}
