//! Connections of HTTP/3, each shared by many requests of its worker: as [`sessions`](crate::sessions) keeps those of HTTP/2.
//!
//! A server that is to be spoken to in HTTP/3 is spoken to in nothing else: where QUIC does not come through, it cannot be connected to.
//! What alone goes over HTTP/1.1, to the same host and port on TCP, are requests that ask to go on in another protocol, those to open a
//! WebSocket where the server has not said that it offers them over streams (RFC 9220), and those that it will not have over HTTP/3
//! (`H3_VERSION_FALLBACK`). One that has said so of all it was asked lately is not asked over HTTP/3 for a while.
//!
//! A request takes its stream where it takes its place, so that what the backend lets us open is never promised twice. QUIC says for
//! itself that the peer is there; a backend that says nothing at all is asked (PING), and held to be gone when it does not say so.

use crate::attempt::Counters;
use crate::connect::{ConnectError, connect_quic};
use crate::endpoint::Server;
use crate::groups::{self, Groups, Maker, STREAMS_MOST, Shared, Turn, WEBSOCKETS_WITHIN};
use crate::h3_stream::{H3Stream, Stream};
use crate::lease::Need;
use crate::loss::Loss;
use crate::opening::Outcome;
use crate::pool::{self, IDLE_TIMEOUT};
use base_quic::proto::{ConnectionError, Dir, Event, Side, StreamEvent, StreamId, VarInt};
use base_quic::stream::Read;
use base_quic::{Connection, Driver, QuicSettings};
use base_runtime::memory::{Booking, Kind};
use base_runtime::time::Deadline;
use base_telemetry::proxy::ServerRecorder;
use proto_h3::control::{self, Incoming, Peer};
use proto_h3::datagram::{Outbox, Taken};
use proto_h3::settings::Settings;
use proto_h3::{Code, Fault, datagram};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Largest field section of an answer that is read, in bytes, as over HTTP/1.1.
pub(crate) const SECTION_MOST: usize = 65 * 1024;

/// What a connection holds beside what waits in its streams, in bytes, for the memory ledger: QUIC's machine, keys of two generations,
/// rustls' machine, which takes tickets later.
const MACHINE_BYTES: usize = 48 * 1024;

/// Silence of a backend after which it is asked whether it is there, while requests are under way, and while none are.
const ASK_AFTER: Duration = Duration::from_secs(10);
const ASK_IDLE_AFTER: Duration = Duration::from_secs(20);

/// How long it has to say so. QUIC asks again and again meanwhile.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What must not be sent twice does not go out on an idle connection of which nothing was heard for so long.
const FRESH: Duration = Duration::from_secs(30);

/// So often the network has to say that nobody takes our datagrams, and nobody else anything, before an established connection is given up:
/// who says so is not known.
const REFUSED_MOST: u32 = 3;

/// How long a new connection is waited for to say whether WebSockets may be opened over it; one that says nothing takes none.
const SETTINGS_WITHIN: Duration = Duration::from_millis(500);

/// Requests in a row that went over HTTP/1.1 because the server would not have them over HTTP/3, after which it is asked over HTTP/1.1
/// alone, for so long. Fewer may be of one path.
const FALLBACKS: u32 = 3;
const FALLBACK_FOR: Duration = Duration::from_secs(60);

/// Frames that lead nowhere that a backend may send ahead of what it earns by answers and their bytes.
const IDLE_FRAMES: u32 = 1000;

/// Bytes of answers that earn one such frame.
const IDLE_EARNED: u64 = 512;

/// See the module doc.
pub(crate) struct Session {
    pub(crate) quic: Connection,
    recorder: ServerRecorder,
    key: u64,
    /// Where it leads, and the generation of the endpoint's addresses when that was last known to be one of them.
    remote: SocketAddr,
    generation: Cell<u32>,
    /// It takes more requests.
    is_open: Cell<bool>,
    /// It has ended: nothing more comes than what has come.
    is_lost: Cell<bool>,
    /// Requests under way.
    streams: RefCell<HashMap<StreamId, Rc<Stream>>>,
    since: Cell<Option<Instant>>,
    /// When something was heard last.
    heard: Cell<Instant>,
    /// Of whoever waits until the backend lets a stream be opened.
    room: Cell<Option<Waker>>,
    /// What the backend got wrong: the connection is to end.
    pub(crate) fault: Cell<Option<Code>>,
    /// Frames that led nowhere.
    pub(crate) idle: Cell<u32>,
    /// Bytes taken out of streams, and bytes written that the backend is not known to have.
    pub(crate) taken: Cell<u64>,
    pub(crate) unacknowledged: Cell<u64>,
    /// What its requests tell of its end.
    pub(crate) loss: Loss,
    /// Whether its backend takes WebSockets over streams; `None` until it has said so, or that it has nothing to say.
    websockets: Cell<Option<bool>>,
    /// Who waits for that.
    said: RefCell<Vec<Waker>>,
    /// It takes datagrams beside its streams.
    takes_datagrams: Cell<bool>,
    /// Bytes of those that have come and wait.
    pub(crate) datagram_bytes: Cell<usize>,
    /// Those that are to go out.
    outbox: RefCell<Outbox>,
    /// How many streams were opened.
    opened: Cell<u64>,
    /// As of what is [`Known`].
    fallbacks: Rc<Cell<u32>>,
    pub(crate) counters: Arc<Counters>,
}

impl Session {
    /// A place for one more request, where the backend lets a stream be opened.
    fn place(self: &Rc<Self>) -> Option<H3Stream> {
        if !self.is_open.get() || self.streams.borrow().len() >= STREAMS_MOST {
            return None;
        }
        let id = self.quic.with(|machine| machine.streams().open(Dir::Bi))?;
        self.opened.set(id.index() + 1);
        let stream = Stream::new(id, self);
        self.streams.borrow_mut().insert(id, stream.clone());
        if self.since.take().is_some() {
            self.recorder.connection_reused();
        }
        Some(H3Stream::new(stream))
    }

    /// Whether the backend takes datagrams beside its streams at this moment.
    pub(crate) fn takes_datagrams(&self) -> bool {
        self.takes_datagrams.get()
    }

    /// Sends a datagram of a request, or drops it and counts that.
    pub(crate) fn send_datagram(&self, id: StreamId, content: &[u8]) {
        match self.outbox.borrow_mut().push(id.index(), content) {
            Taken::Kept => self.quic.wake(),
            Taken::Dropped => self.count_dropped(1),
        }
    }

    /// The side of a stream that is ours ends, and so do its datagrams: those that wait go first, as far as they may, where the end is no
    /// reset.
    pub(crate) fn end_datagrams(&self, id: StreamId, is_reset: bool) {
        let (going, mut lost) = self.outbox.borrow_mut().leave(id.index());
        for datagram in going {
            lost += u32::from(is_reset || !self.quic.send_datagram(datagram.into()));
        }
        self.count_dropped(lost.into());
    }

    pub(crate) fn count_dropped(&self, datagrams: u64) {
        (0..datagrams).for_each(|_| self.counters.datagrams.hit(base_runtime::worker_index()));
    }

    /// Nothing is left of a request.
    pub(crate) fn leave(&self, id: StreamId) {
        let mut streams = self.streams.borrow_mut();
        streams.remove(&id);
        if streams.is_empty() {
            self.since.set(Some(base_runtime::now()));
            self.recorder.connection_parked();
        }
        drop(streams);
        // It may be the last one of a connection that takes no more.
        self.quic.wake();
    }

    /// The connection has ended; what has come can still be read.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost.get()
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.is_open.get()
    }

    pub(crate) fn fail(&self, code: Code) {
        if self.fault.get().is_none() {
            self.fault.set(Some(code));
        }
        self.quic.wake();
    }

    fn leads_to(&self, server: &Server) -> bool {
        let now = server.endpoint.generation();
        self.generation.replace(now) == now || server.endpoint.has(self.remote)
    }

    fn is_idle(&self) -> bool {
        self.streams.borrow().is_empty()
    }

    fn is_stale(&self) -> bool {
        self.is_idle() && base_runtime::now().saturating_duration_since(self.heard.get()) > FRESH
    }

    fn poll_place(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<Option<H3Stream>> {
        match self.place() {
            Some(place) => Poll::Ready(Some(place)),
            None if !self.is_open.get() => Poll::Ready(None),
            None => {
                self.room.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }

    fn poll_said(&self, cx: &mut Context<'_>) -> Poll<bool> {
        match self.websockets.get() {
            Some(takes) => Poll::Ready(takes),
            None if !self.is_open.get() => Poll::Ready(false),
            None => {
                self.said.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn say(&self, websockets: bool) {
        if self.websockets.replace(Some(websockets)).is_none() {
            Session::with_groups(|groups| groups.of(self.key).known.websockets = Some(websockets));
        }
        self.tell_said();
    }

    fn tell_said(&self) {
        self.said.take().into_iter().for_each(Waker::wake);
    }

    /// The backend has answered a request over HTTP/3.
    pub(crate) fn answered(&self) {
        self.fallbacks.set(0);
    }

    /// The backend will not have this opening of a WebSocket over HTTP/3, although it offered that.
    pub(crate) fn wants_websockets_over_http1(&self) {
        Session::with_groups(|groups| groups.of(self.key).known.websockets = Some(false));
    }

    fn tell_room(&self) {
        if let Some(waker) = self.room.take() {
            waker.wake();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.recorder.connection_closed(self.since.get().is_some());
    }
}

/// What is known of a server.
#[derive(Default)]
pub(crate) struct Known {
    /// Whether the connection that said so last takes WebSockets.
    websockets: Option<bool>,
    /// Requests in a row that it would not have over HTTP/3.
    fallbacks: Rc<Cell<u32>>,
    /// Until when it is asked over HTTP/1.1 alone.
    http1_until: Option<Instant>,
    /// When somebody connected last: what is known is kept for as long as an idle connection.
    used: Option<Instant>,
}

impl Shared for Session {
    type Lease = H3Stream;
    type Known = Known;

    fn with_groups<T>(work: impl FnOnce(&mut Groups<Session>) -> T) -> T {
        GROUPS.with_borrow_mut(work)
    }

    fn idle_since(&self) -> Option<Instant> {
        self.since.get()
    }

    fn close(&self) {
        self.is_open.set(false);
        self.quic.wake();
    }

    fn is_worth(known: &Known, now: Instant) -> bool {
        known.used.is_some_and(|at| now.saturating_duration_since(at) < IDLE_TIMEOUT)
            || known.http1_until.is_some_and(|until| now < until)
    }
}

/// Whether the server wanted all it was asked lately over HTTP/1.1.
pub(crate) fn wants_http1(server: &Server) -> bool {
    let now = base_runtime::now();
    Session::with_groups(|groups| {
        groups.known(server).is_some_and(|group| group.known.http1_until.is_some_and(|until| now < until))
    })
}

/// A request that the server would not have over HTTP/3 was answered over HTTP/1.1.
pub(crate) fn fell_back(server: &Server) {
    let now = base_runtime::now();
    Session::with_groups(|groups| {
        let known = &mut groups.of(server.connections()).known;
        known.fallbacks.set(known.fallbacks.get().saturating_add(1));
        if known.fallbacks.get() >= FALLBACKS {
            known.http1_until = Some(now + FALLBACK_FOR);
        }
    });
}

/// It cannot be connected to over TCP any more.
pub(crate) fn forget_http1(server: &Server) {
    Session::with_groups(|groups| {
        if let Some(group) = groups.known(server) {
            group.known.http1_until = None;
            group.known.fallbacks.set(0);
        }
    });
}

/// Whether the server takes WebSockets over streams, as soon as that is known; `None` while there is no connection that would say so.
async fn takes_websockets(server: &Server) -> Option<bool> {
    let (known, session) = Session::with_groups(|groups| {
        let group = groups.known(server)?;
        let session = group.sessions.iter().rfind(|session| session.is_usable()).cloned();
        Some((group.known.websockets, session))
    })?;
    if known.is_some() {
        return known;
    }
    let session = session?;
    let said = base_runtime::time::timeout(SETTINGS_WITHIN, poll_fn(|cx| session.poll_said(cx))).await;
    if said.is_err() {
        session.say(false);
    }
    Some(said.unwrap_or(false))
}

thread_local! {
    static GROUPS: RefCell<Groups<Session>> = RefCell::default();
}

/// A place on a connection that this worker has to the server. `once`: not on one that may have gone without a word.
pub(crate) fn take(server: &Server, need: Need, once: bool) -> Option<H3Stream> {
    Session::with_groups(|groups| {
        let group = groups.known(server)?;
        if need == Need::Extended && group.known.websockets != Some(true) {
            return None;
        }
        // As over HTTP/2: so many connections carry any, at most.
        let most = if need == Need::Extended { WEBSOCKETS_WITHIN } else { usize::MAX };
        let sessions = &mut group.sessions;
        let mut at = 0;
        while let Some(session) = sessions.get(at).filter(|_| at < most) {
            if !session.is_usable() || !session.leads_to(server) {
                sessions.remove(at).close();
                continue;
            }
            if !(once && session.is_stale())
                && (need != Need::Extended || session.websockets.get() == Some(true))
                && let Some(place) = session.place()
            {
                return Some(place);
            }
            at += 1;
        }
        None
    })
}

/// A place on a new connection; `None` where what is needed is to go over HTTP/1.1.
pub(crate) async fn open(
    server: &Server,
    need: Need,
    limit: Duration,
    recorder: &ServerRecorder,
    counters: &Arc<Counters>,
) -> Result<Option<H3Stream>, ConnectError> {
    let end = base_runtime::now() + limit;
    loop {
        if need == Need::Extended && takes_websockets(server).await == Some(false) {
            return Ok(None);
        }
        if let Some(place) = take(server, need, true) {
            return Ok(Some(place));
        }
        let turn = Session::with_groups(|groups| {
            let group = groups.of(server.connections());
            group.known.used = Some(base_runtime::now());
            (need != Need::Extended || group.count() < WEBSOCKETS_WITHIN).then(|| group.turn())
        });
        let Some(turn) = turn else { return Ok(None) };
        let outcome = match turn {
            Turn::Wait(opening) => groups::wait(opening, end).await?,
            Turn::Begin(opening) => {
                let is_counted = opening.is_counted.clone();
                let maker = Maker { is_counted, ..Maker::new(server, recorder, counters) };
                groups::begin::<Session>(maker.key, opening, make(maker, limit)).await
            }
            Turn::Refused => {
                counters.connections.hit(base_runtime::worker_index());
                return Err(ConnectError::Full);
            }
        };
        match outcome {
            Outcome::Made(Some(place)) if need == Need::Extended => {
                let takes = takes_websockets(server).await == Some(true);
                return Ok(takes.then_some(place));
            }
            Outcome::Made(Some(place)) => return Ok(Some(place)),
            Outcome::Made(None) => {}
            Outcome::Failed(error) => return Err(error),
        }
    }
}

async fn make(maker: Maker, limit: Duration) -> Result<H3Stream, ConnectError> {
    let generation = maker.endpoint.generation();
    let end = base_runtime::now() + limit;
    let driver = connect_quic(&maker.endpoint, maker.identity.as_deref(), limit).await?;
    maker.recorder.connection_created();
    let fallbacks = Session::with_groups(|groups| groups.of(maker.key).known.fallbacks.clone());
    let quic = driver.connection().clone();
    let session = Rc::new(Session {
        remote: quic.peer(),
        quic,
        recorder: maker.recorder,
        key: maker.key,
        generation: Cell::new(generation),
        is_open: Cell::new(true),
        is_lost: Cell::new(false),
        streams: RefCell::default(),
        since: Cell::new(None),
        heard: Cell::new(base_runtime::now()),
        room: Cell::new(None),
        fault: Cell::new(None),
        idle: Cell::new(0),
        taken: Cell::new(0),
        unacknowledged: Cell::new(0),
        loss: Loss::default(),
        websockets: Cell::new(None),
        said: RefCell::default(),
        takes_datagrams: Cell::new(false),
        datagram_bytes: Cell::new(0),
        outbox: RefCell::default(),
        opened: Cell::new(0),
        fallbacks,
        counters: maker.counters,
    });
    Session::with_groups(|groups| groups.of(maker.key).add(session.clone(), &maker.is_counted));
    let mut drive = Drive::new(driver, &session);
    base_runtime::spawn(async move { poll_fn(|cx| drive.poll(cx)).await }).detach();
    pool::keep_sweeping();
    let left = end.saturating_duration_since(base_runtime::now());
    match base_runtime::time::timeout(left, poll_fn(|cx| session.poll_place(cx))).await {
        Ok(Some(place)) => Ok(place),
        Ok(None) => Err(ConnectError::Tcp(io::ErrorKind::ConnectionAborted.into())),
        Err(_) => {
            session.close();
            Err(ConnectError::Tcp(io::ErrorKind::TimedOut.into()))
        }
    }
}

/// Keeps a connection going until it has ended.
struct Drive {
    driver: Driver,
    session: Rc<Session>,
    one_way: HashMap<StreamId, Incoming>,
    peer: Peer,
    /// Our control stream, and what is still to be written to it.
    control: Option<StreamId>,
    control_out: Vec<u8>,
    booking: Booking,
    deadline: Deadline,
    /// Datagrams that had come when it was last looked at.
    heard: u64,
    asked: Option<Instant>,
    idle_left: u32,
    /// Bytes of answers that have earned theirs.
    earned: u64,
    is_closed: bool,
}

impl Drive {
    fn new(driver: Driver, session: &Rc<Session>) -> Drive {
        let control = driver.connection().with(|machine| machine.streams().open(Dir::Uni));
        let mut control_out = Vec::new();
        control::open(&mut control_out);
        Settings { field_section_bytes: SECTION_MOST as u64, connect_protocol: false, datagrams: true }
            .encode(&mut control_out);
        Drive {
            driver,
            session: session.clone(),
            one_way: HashMap::new(),
            peer: Peer::server(),
            control,
            control_out,
            booking: Booking::new(Kind::Other, MACHINE_BYTES),
            deadline: Deadline::new(),
            heard: 0,
            asked: None,
            idle_left: IDLE_FRAMES,
            earned: 0,
            is_closed: false,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.driver.begin(cx);
        while let Some(event) = self.driver.poll_event() {
            self.handle(event);
        }
        self.count_dropped();
        self.keep_budget();
        if let Some(code) = self.session.fault.take().filter(|_| !self.is_closed) {
            self.session.counters.faults_h3.hit(base_runtime::worker_index());
            tracing::debug!(server = %self.session.remote, code = code.text(), "a backend broke the rules of HTTP/3");
            self.end(code);
        }
        self.keep_books();
        if self.keep_time(cx).is_ready() {
            return Poll::Ready(());
        }
        if !self.session.is_open.get() && self.session.is_idle() {
            self.end(Code::NoError);
        }
        self.write_control();
        let mut ended = self.driver.poll_transmit(cx);
        if ended.is_pending() && self.session.outbox.borrow().wants_turn() {
            ended = self.send_datagrams(cx);
        }
        if ended.is_ready() {
            self.lost(None);
        }
        ended
    }

    fn handle(&mut self, event: Event) {
        let quic = self.session.quic.clone();
        match event {
            Event::ConnectionLost { reason } => self.lost(Some(&reason)),
            // It was told that it may open none.
            Event::Stream(StreamEvent::Opened { dir: Dir::Bi }) => self.session.fail(Code::StreamCreation),
            Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) => {
                while let Some(id) = quic.with(|machine| machine.streams().accept(Dir::Uni)) {
                    self.one_way.insert(id, Incoming::default());
                    self.read_one_way(id);
                }
            }
            Event::Stream(StreamEvent::Readable { id }) if id.dir() == Dir::Uni => self.read_one_way(id),
            Event::Stream(StreamEvent::Readable { id }) => self.with(id, Stream::wake_reader),
            Event::Stream(StreamEvent::Writable { id }) => self.with(id, Stream::pump),
            Event::Stream(StreamEvent::Finished { id }) => self.with(id, Stream::handle_acknowledged),
            Event::Stream(StreamEvent::Stopped { id, .. }) if Some(id) == self.control => {
                self.session.fail(Code::ClosedCriticalStream);
            }
            Event::Stream(StreamEvent::Stopped { id, .. }) => self.with(id, Stream::handle_stopped),
            Event::Stream(StreamEvent::Available { .. }) => self.session.tell_room(),
            Event::DatagramReceived => self.read_datagrams(),
            Event::Connected | Event::HandshakeDataReady | Event::DatagramsUnblocked => {}
        }
    }

    /// Takes the datagrams that have come, each to its request (RFC 9297 section 2.1).
    fn read_datagrams(&self) {
        let session = &self.session;
        while let Some(datagram) = session.quic.read_datagram() {
            // Of a short one nothing was counted as received, so nothing more is taken than that.
            let most = session.quic.received().max(session.taken.get());
            session.taken.set((session.taken.get() + datagram.len() as u64).min(most));
            let (number, content) = match datagram::decode(datagram) {
                Ok(read) => read,
                Err(fault) => return session.fail(fault.code()),
            };
            // Of a request that was not made it is dropped; the others of the connection are not to suffer for it.
            let mut has_room = number < session.opened.get();
            self.with(StreamId::new(Side::Client, Dir::Bi, number), |stream| {
                has_room = stream.handle_datagram(content)
            });
            session.count_dropped(u64::from(!has_room));
        }
        session.count_dropped(session.quic.take_lost_datagrams());
    }

    /// Lets datagrams go out behind what streams had to say.
    fn send_datagrams(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (session, settings) = (self.session.clone(), QuicSettings::asking());
        let going =
            session.outbox.borrow_mut().turn(session.quic.unsent_datagrams(&settings), session.quic.acknowledgements());
        if going.is_empty() {
            return Poll::Pending;
        }
        for datagram in going {
            if !session.quic.send_datagram(datagram.into()) {
                session.count_dropped(1);
            }
        }
        let ended = self.driver.poll_transmit(cx);
        if session.outbox.borrow_mut().goes_on(session.quic.unsent_datagrams(&settings)) {
            cx.waker().wake_by_ref();
        }
        ended
    }

    /// Of datagrams that QUIC had already.
    fn count_dropped(&self) {
        let dropped = self.session.quic.take_dropped_datagrams(&QuicSettings::asking());
        if dropped > 0 {
            self.session.outbox.borrow_mut().handle_dropped();
            self.session.count_dropped(dropped);
        }
    }

    fn with(&self, id: StreamId, work: impl FnOnce(&Stream)) {
        let stream = self.session.streams.borrow().get(&id).cloned();
        if let Some(stream) = stream {
            work(&stream);
        }
    }

    fn all(&self) -> Vec<Rc<Stream>> {
        self.session.streams.borrow().values().cloned().collect()
    }

    fn read_one_way(&mut self, id: StreamId) {
        let Some(mut incoming) = self.one_way.remove(&id) else { return };
        loop {
            let handled = match self.session.quic.read(id) {
                Read::Some(bytes) => incoming.handle(&mut self.peer, &bytes),
                Read::Blocked => {
                    self.one_way.insert(id, incoming);
                    break;
                }
                Read::End | Read::Reset(_) | Read::Closed => {
                    self.session.idle.set(self.session.idle.get() + 1);
                    incoming.handle_end().map(|()| control::Next::Stop)
                }
            };
            match handled {
                Ok(control::Next::Read) => {}
                Ok(control::Next::Stop) => {
                    self.session.idle.set(self.session.idle.get() + 1);
                    let code = VarInt::from_u32(Code::StreamCreation.value());
                    let _ = self.session.quic.with(|machine| machine.recv_stream(id).stop(code));
                    break;
                }
                Err(Fault::Connection(code) | Fault::Stream(code)) => {
                    self.session.fail(code);
                    break;
                }
            }
        }
        if let Some(settings) = self.peer.settings() {
            self.session.say(settings.connect_protocol);
            // Who says that datagrams belong to its requests must have a transport that takes any (RFC 9297 section 2.1.1).
            match settings.datagrams && !self.session.takes_datagrams.get() {
                true if self.session.quic.takes_datagrams() => self.session.takes_datagrams.set(true),
                true => self.session.fail(Code::Settings),
                false => {}
            }
        }
        self.obey_goaway();
    }

    /// What the backend will not do may go elsewhere (RFC 9114 section 5.2).
    fn obey_goaway(&self) {
        let Some(first) = self.peer.goaway() else { return };
        self.session.is_open.set(false);
        for stream in self.all() {
            if u64::from(stream.id()) >= first {
                stream.handle_refused();
            }
        }
    }

    fn lost(&mut self, reason: Option<&ConnectionError>) {
        let session = &self.session;
        session.is_open.set(false);
        self.is_closed = true;
        if session.is_lost.replace(true) {
            return;
        }
        let waiting = !session.is_idle();
        match reason {
            // It ends in good order, which says nothing of the server.
            Some(ConnectionError::ApplicationClosed(close))
                if close.error_code == VarInt::from_u32(Code::NoError.value()) =>
            {
                session.loss.is_ours();
            }
            Some(ConnectionError::TransportError(error)) => {
                session.counters.faults_h3.hit(base_runtime::worker_index());
                tracing::debug!(server = %session.remote, code = %error.code, "a backend broke the rules of QUIC");
            }
            Some(ConnectionError::TimedOut) if waiting => session.counters.silent.hit(base_runtime::worker_index()),
            _ => {}
        }
        self.all().iter().for_each(|stream| stream.handle_lost());
        session.tell_room();
        session.tell_said();
        Session::with_groups(|groups| groups.forget(session.key, session));
    }

    fn end(&mut self, code: Code) {
        if !std::mem::replace(&mut self.is_closed, true) {
            self.session.quic.close(code.value(), code.text());
            self.lost(None);
        }
    }

    fn write_control(&mut self) {
        if let Some(id) = self.control
            && !self.control_out.is_empty()
        {
            let out = &self.control_out;
            if let Ok(written) = self.session.quic.with(|machine| machine.send_stream(id).write(out)) {
                self.control_out.drain(..written);
            }
        }
    }

    fn keep_budget(&mut self) {
        let taken = self.session.taken.get() - self.earned;
        self.earned += taken - taken % IDLE_EARNED;
        let earned = u32::try_from(taken / IDLE_EARNED).unwrap_or(u32::MAX);
        self.idle_left = self.idle_left.saturating_add(earned).min(IDLE_FRAMES);
        let idle = self.session.idle.take() + self.peer.take_idle();
        match self.idle_left.checked_sub(idle) {
            Some(left) => self.idle_left = left,
            None => self.session.fail(Code::ExcessiveLoad),
        }
    }

    fn keep_books(&mut self) {
        let (session, settings) = (&self.session, QuicSettings::asking());
        let received = session.quic.received();
        if session.is_idle() {
            // What is left of it are beginnings of datagrams, and what nobody takes.
            session.taken.set(received);
            self.earned = received;
        }
        let unread = received.saturating_sub(session.taken.get()).min(u64::from(settings.connection_window));
        let unsent = session.unacknowledged.get().min(settings.send_window);
        let going = session.outbox.borrow().held() + session.quic.unsent_datagrams(&settings);
        let datagrams = session.datagram_bytes.get() + going;
        self.booking.set(MACHINE_BYTES + (unread + unsent) as usize + datagrams);
    }

    /// Ready when the backend is gone.
    fn keep_time(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (session, now) = (self.session.clone(), base_runtime::now());
        let heard = session.quic.heard();
        if std::mem::replace(&mut self.heard, heard) != heard {
            session.heard.set(now);
            self.asked = None;
        }
        if self.is_closed {
            self.deadline.clear();
            return Poll::Pending;
        }
        let is_refused = session.quic.refused().is_some_and(|(times, _)| times >= REFUSED_MOST);
        let after = if session.is_idle() { ASK_IDLE_AFTER } else { ASK_AFTER };
        let due = match self.asked {
            Some(asked) => asked + ANSWER_WITHIN,
            None => session.heard.get() + after,
        };
        if is_refused || (now >= due && self.asked.is_some()) {
            if !is_refused && !session.is_idle() {
                session.counters.silent.hit(base_runtime::worker_index());
            }
            self.lost(None);
            return Poll::Ready(());
        }
        if now >= due {
            self.asked = Some(now);
            session.quic.with(|machine| machine.ping());
            self.deadline.set(now + ANSWER_WITHIN);
        } else {
            self.deadline.set(due);
        }
        if self.deadline.poll_expired(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        // However it ends: nobody waits for it any more.
        self.lost(None);
    }
}
