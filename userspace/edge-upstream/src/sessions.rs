//! Connections of HTTP/2, each shared by many requests of its worker.
//!
//! A worker keeps few of them: a request takes the first that has room, and a new one is connected when none has. Who comes meanwhile
//! waits for that connect rather than making one of his own. As with [`pool`](crate::pool), workers share none.
//!
//! Whether a server with TLS speaks HTTP/2 shows when it is connected to (ALPN); until that is known, one request at a time connects.
//! One that does not gets connections of HTTP/1.1, as many as there are requests.
//!
//! The opening of a WebSocket takes a stream where the backend has said that it offers them so (RFC 8441); where it has not, a connection
//! of HTTP/1.1 is made for it, without another one of HTTP/2 as long as that is known. So it is where many connections are taken up by
//! others and the backend was asked which protocols it speaks; one that was not may speak nothing else, and who finds no room is refused.
//!
//! Frames that cost a backend nothing and lead nowhere (PING, SETTINGS, empty DATA and their kin) have allowances; one that has spent
//! them gets no further requests over its connection, counted as `upstream_h2_faults`; those under way end on it, unless it goes on. So it
//! is with streams on which it breaks the protocol. An answer that only our bounds refuse ends its own stream, and what still comes of
//! requests that were given up costs nothing.
//!
//! A connection takes no more requests when its backend says so (GOAWAY), when its name has moved on, and after a fault; those under way
//! end on it. It is closed when nobody has used it for as long as an idle connection of HTTP/1.1 is kept.

use crate::attempt::Counters;
use crate::connect::{ConnectError, connect_to};
use crate::endpoint::{Protocols, Server};
use crate::groups::{self, Groups, Maker, STREAMS_MOST, Shared, Turn, WEBSOCKETS_WITHIN};
use crate::lease::{Lease, Need};
use crate::loss::Loss;
use crate::opening::Outcome;
use crate::pool::{self, IDLE_TIMEOUT, Link};
use crate::silence::{Next, Silence};
use base_runtime::memory::{Booking, Kind};
use base_runtime::time::Deadline;
use base_telemetry::proxy::ServerRecorder;
use base_tls::Transport;
use proto_h2::ClientSettings;
use proto_h2::client::{self, Driver, EXCESS_MOST, Ended, Requests};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

/// How long a new connection waits for its backend to say how many requests it takes, which it does at once (RFC 9113 section 3.4).
const SETTINGS_WITHIN: Duration = Duration::from_millis(500);

/// Bytes received of one connection before others have their turn.
const TURN_BYTES: usize = 128 * 1024;

/// How long, and for how many bytes, a connection that ends because of what came is read on, so that its backend learns why.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// Changes smaller than this are not booked.
const BOOKED_LEAST: usize = 16 * 1024;

/// See the module doc.
pub(crate) struct Session {
    requests: Requests,
    recorder: ServerRecorder,
    key: u64,
    /// That of the endpoint's addresses when its own was last known to be one of them.
    generation: Cell<u32>,
    /// Requests under way.
    streams: Cell<usize>,
    since: Cell<Option<Instant>>,
    /// Of whoever waits for the first the backend says.
    heard: Cell<Option<Waker>>,
    /// It has ended, and nobody has asked for that.
    has_died: Cell<bool>,
    /// What its requests tell of its end.
    pub(crate) loss: Loss,
    /// Bytes of answers that have come and wait for their readers, or for what is missing of them.
    unread: Booking,
}

/// A place for one request on a shared connection.
pub struct Stream {
    pub(crate) session: Rc<Session>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("beside", &self.session.streams.get().saturating_sub(1)).finish()
    }
}

impl Stream {
    fn of(session: &Rc<Session>) -> Stream {
        if session.since.take().is_some() {
            session.recorder.connection_reused();
        }
        session.streams.set(session.streams.get() + 1);
        Stream { session: session.clone() }
    }

    /// What a request is sent with.
    pub(crate) fn requests(&self) -> &Requests {
        &self.session.requests
    }

    /// Whether the backend takes fewer requests at a time by now than there are.
    pub(crate) fn is_shut_out(&self) -> bool {
        self.session.takes() < self.session.streams.get()
    }

    /// Whether its backend offers WebSockets over streams.
    fn takes_websockets(&self) -> bool {
        self.session.takes_websockets()
    }

    /// The backend will not have this opening of a WebSocket over HTTP/2, although it offered that.
    pub(crate) fn wants_websockets_over_http1(&self) {
        Session::with_groups(|groups| groups.of(self.session.key).known.websockets = Some(false));
    }

    /// Something that came was taken. Nobody looks at a connection on which nothing more comes.
    pub(crate) fn book(&self) {
        self.session.book();
    }

    /// No further request goes out on this connection.
    pub(crate) fn close_session(&self) {
        self.session.close();
    }

    /// The backend will not have this request over HTTP/2: it is not asked again over it.
    pub(crate) fn wants_http1(&self) {
        Session::with_groups(|groups| {
            let group = groups.of(self.session.key);
            group.known.http1 = true;
            group.known.http1_asked = true;
            group.sessions.drain(..).for_each(|session| session.close());
        });
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let session = &self.session;
        // Nobody reads what was left of its answer.
        session.book();
        let left = session.streams.get() - 1;
        session.streams.set(left);
        if left == 0 {
            session.since.set(Some(base_runtime::now()));
            session.recorder.connection_parked();
        }
    }
}

impl Session {
    /// Whether more requests may go out on it.
    fn is_usable(&self, server: &Server) -> bool {
        self.requests.is_open() && self.leads_to(server)
    }

    fn leads_to(&self, server: &Server) -> bool {
        let now = server.endpoint.generation();
        if self.generation.replace(now) == now {
            return true;
        }
        self.requests.transport().peer_addr().is_ok_and(|peer| server.endpoint.has(peer))
    }

    fn may_be_closing(&self) -> bool {
        self.streams.get() == 0 && !self.requests.transport().socket().is_idle_by_now()
    }

    /// Requests it takes at a time, as far as it has said so: none is a number, too.
    fn takes(&self) -> usize {
        if self.requests.is_open() { self.requests.streams_most().min(STREAMS_MOST) } else { 0 }
    }

    /// Whether it has said that extended CONNECT may be asked for.
    fn takes_websockets(&self) -> bool {
        self.requests.is_open() && self.requests.takes_connect()
    }

    /// A request whose end waits for its turn is under way though nobody has a place for it any more.
    fn has_room(&self) -> bool {
        self.streams.get().max(self.requests.streams()) < self.takes()
    }

    /// Keeps the books, when something came and when it was taken.
    fn book(&self) {
        let unread = self.requests.held();
        if unread.abs_diff(self.unread.bytes()) >= BOOKED_LEAST || unread == 0 {
            self.unread.set(unread);
        }
    }

    /// Ready when the backend has said what it takes, or the connection has ended.
    fn poll_heard(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.requests.has_settings() || !self.requests.is_open() {
            return Poll::Ready(());
        }
        self.heard.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Ready when it takes requests, or has ended.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        // One that has said nothing takes what it must take at first.
        if !self.requests.has_settings() || self.takes() > 0 || !self.requests.is_open() {
            return Poll::Ready(());
        }
        self.heard.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    fn tell_heard(&self) {
        if let Some(waker) = self.heard.take() {
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
    /// It was found to speak HTTP/1.1 alone.
    http1: bool,
    /// It asked for that, so that nothing else is offered.
    http1_asked: bool,
    /// Whether the connection of HTTP/2 that was made last takes WebSockets.
    websockets: Option<bool>,
    /// When somebody connected last: what is known is kept for as long as an idle connection.
    used: Option<Instant>,
}

impl Shared for Session {
    type Lease = Lease;
    type Known = Known;

    fn with_groups<T>(work: impl FnOnce(&mut Groups<Session>) -> T) -> T {
        GROUPS.with_borrow_mut(work)
    }

    fn idle_since(&self) -> Option<Instant> {
        self.since.get()
    }

    fn close(&self) {
        self.requests.leave();
    }

    fn is_worth(known: &Known, now: Instant) -> bool {
        known.used.is_some_and(|at| now.saturating_duration_since(at) < IDLE_TIMEOUT)
    }
}

thread_local! {
    static GROUPS: RefCell<Groups<Session>> = RefCell::default();
}

/// A place on a connection that this worker has to the server. `once`: not on an idle one whose backend has just said something, which
/// may be that it closes.
pub(crate) fn take(server: &Server, need: Need, once: bool) -> Option<Stream> {
    Session::with_groups(|groups| {
        let group = groups.known(server)?;
        if need == Need::Extended && group.known.websockets != Some(true) {
            return None;
        }
        // They stay where they are, and what lies before them only goes: so many connections carry any, at most.
        let most = if need == Need::Extended { WEBSOCKETS_WITHIN } else { usize::MAX };
        let sessions = &mut group.sessions;
        let mut at = 0;
        while let Some(session) = sessions.get(at).filter(|_| at < most) {
            if !session.is_usable(server) {
                sessions.remove(at).close();
            } else if session.has_room()
                && !(once && session.may_be_closing())
                && (need != Need::Extended || session.takes_websockets())
            {
                return Some(Stream::of(session));
            } else {
                at += 1;
            }
        }
        None
    })
}

/// What a request has to do that found no room; `Err`: connect for itself, offering these.
fn turn(server: &Server, need: Need) -> Result<Turn<Lease>, Protocols> {
    Session::with_groups(|groups| {
        let group = groups.of(server.connections());
        let known = &mut group.known;
        known.used = Some(base_runtime::now());
        if known.http1 && server.protocols != Protocols::Http2 {
            return Err(if known.http1_asked { Protocols::Http1 } else { server.protocols });
        }
        if need == Need::Extended && group.count() >= WEBSOCKETS_WITHIN {
            return match server.protocols {
                // It may speak nothing else.
                Protocols::Http2 => Ok(Turn::Refused),
                _ => Err(Protocols::Http1),
            };
        }
        Ok(group.turn())
    })
}

/// Whether the server is known to take no WebSockets over HTTP/2.
fn refuses_websockets(server: &Server) -> bool {
    Session::with_groups(|groups| groups.known(server).is_some_and(|group| group.known.websockets == Some(false)))
}

/// A place on a new connection, or a connection of HTTP/1.1 where the server speaks nothing else, or not what is needed.
pub(crate) async fn open(
    server: &Server,
    need: Need,
    limit: Duration,
    recorder: &ServerRecorder,
    counters: &Arc<Counters>,
) -> Result<Lease, ConnectError> {
    let end = base_runtime::now() + limit;
    let http1 = || {
        let left = end.saturating_duration_since(base_runtime::now());
        Maker { protocols: Protocols::Http1, ..Maker::new(server, recorder, counters) }.make(left)
    };
    loop {
        if let Some(stream) = take(server, need, true) {
            return Ok(Lease::Stream(stream));
        }
        if need == Need::Extended && refuses_websockets(server) {
            return http1().await;
        }
        let outcome = match turn(server, need) {
            Ok(Turn::Wait(opening)) => groups::wait(opening, end).await?,
            Ok(Turn::Begin(opening)) => {
                let is_counted = opening.is_counted.clone();
                let maker = Maker { is_counted, ..Maker::new(server, recorder, counters) };
                groups::begin::<Session>(maker.key, opening, maker.make(limit)).await
            }
            Err(protocols) => {
                let left = end.saturating_duration_since(base_runtime::now());
                return Maker { protocols, ..Maker::new(server, recorder, counters) }.make(left).await;
            }
            Ok(Turn::Refused) => {
                counters.connections.hit(base_runtime::worker_index());
                return Err(ConnectError::Full);
            }
        };
        match outcome {
            // Who asks for messages finds it in its place.
            Outcome::Made(Some(Lease::Stream(stream))) if need == Need::Extended && !stream.takes_websockets() => {
                drop(stream);
                return http1().await;
            }
            Outcome::Made(Some(lease)) => return Ok(lease),
            Outcome::Made(None) => {}
            Outcome::Failed(error) => return Err(error),
        }
    }
}

impl Maker {
    async fn make(self, limit: Duration) -> Result<Lease, ConnectError> {
        let generation = self.endpoint.generation();
        let end = base_runtime::now() + limit;
        let transport = connect_to(&self.endpoint, self.identity.as_deref(), self.protocols, limit).await?;
        let shared = is_of_http2(&transport, self.protocols);
        if self.protocols != Protocols::Http1 {
            Session::with_groups(|groups| groups.of(self.key).known.http1 = !shared);
        }
        if shared {
            return self.begin(transport, generation, end).await.map(Lease::Stream);
        }
        Ok(Lease::Connection(Link::new(transport, self.key, generation, &self.recorder)))
    }

    async fn begin(self, transport: Transport, generation: u32, end: Instant) -> Result<Stream, ConnectError> {
        let (requests, driver) = client::begin(transport, &ClientSettings::default());
        self.recorder.connection_created();
        let session = Rc::new(Session {
            requests,
            recorder: self.recorder,
            key: self.key,
            generation: Cell::new(generation),
            streams: Cell::new(0),
            since: Cell::new(None),
            heard: Cell::new(None),
            has_died: Cell::new(false),
            loss: Loss::default(),
            unread: Booking::new(Kind::Bodies, 0),
        });
        Session::with_groups(|groups| groups.of(self.key).add(session.clone(), &self.is_counted));
        let stream = Stream::of(&session);
        base_runtime::spawn(drive(session.clone(), driver, self.counters)).detach();
        pool::keep_sweeping();
        // One that says nothing takes as many as it must take at first.
        let _ = base_runtime::time::timeout(SETTINGS_WITHIN, poll_fn(|cx| session.poll_heard(cx))).await;
        let left = end.saturating_duration_since(base_runtime::now());
        if base_runtime::time::timeout(left, poll_fn(|cx| session.poll_room(cx))).await.is_err() {
            session.close();
            return Err(ConnectError::Tcp(io::ErrorKind::TimedOut.into()));
        }
        // A server that takes the connection and then ends it, be it because of our certificate, has not been reached.
        if session.has_died.get() {
            let why = session.requests.failure().unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into());
            return Err(ConnectError::Tcp(why));
        }
        Session::with_groups(|groups| groups.of(self.key).known.websockets = Some(session.takes_websockets()));
        Ok(stream)
    }
}

/// Whether HTTP/2 is spoken over a new connection: it was agreed to, or is known.
pub(crate) fn is_of_http2(transport: &Transport, protocols: Protocols) -> bool {
    let agreed = transport.session().map(|session| session.alpn.as_deref() == Some(b"h2"));
    agreed.unwrap_or(protocols == Protocols::Http2)
}

/// Whether a new connection is there still once its server has said its settings, or has had the time to: one that takes connections and
/// ends them serves nobody.
pub(crate) async fn lives(transport: Transport) -> bool {
    let (requests, mut driver) = client::begin(transport, &ClientSettings::default());
    let heard = poll_fn(|cx| {
        driver.begin_turn(TURN_BYTES);
        match driver.poll(cx) {
            Poll::Ready(_) => Poll::Ready(false),
            Poll::Pending if requests.has_settings() => Poll::Ready(true),
            Poll::Pending => Poll::Pending,
        }
    });
    base_runtime::time::timeout(SETTINGS_WITHIN, heard).await.unwrap_or(true)
}

/// Keeps a connection going until it has ended.
async fn drive(session: Rc<Session>, mut driver: Driver, counters: Arc<Counters>) {
    let (mut silence, due, mut armed, mut faulty) = (Silence::default(), Deadline::default(), None, false);
    let ended = poll_fn(|cx| {
        loop {
            driver.begin_turn(TURN_BYTES);
            let polled = driver.poll(cx);
            session.book();
            let excess = driver.excess();
            if excess > 0 && !std::mem::replace(&mut faulty, true) {
                counters.faults.hit(base_runtime::worker_index());
                session.close();
            }
            if excess > EXCESS_MOST {
                session.loss.is_ours();
            }
            if session.requests.has_settings() {
                session.tell_heard();
            }
            if let Poll::Ready(ended) = polled {
                return Poll::Ready(ended);
            }
            let waiting = session.streams.get() > 0;
            match silence.look(driver.bytes_in(), driver.wants(), waiting, base_runtime::now()) {
                Next::Nothing => {
                    armed = None;
                    due.clear();
                    return Poll::Pending;
                }
                Next::Wait(at) => {
                    if armed.replace(at) != Some(at) {
                        due.set(at);
                    }
                    ready!(due.poll_expired(cx));
                    armed = None;
                }
                Next::Ask => driver.ask(),
                Next::Gone => {
                    counters.silent.hit(base_runtime::worker_index());
                    session.requests.transport().abort();
                    return Poll::Ready(Ok(()));
                }
            }
        }
    })
    .await;
    drop(driver);
    session.has_died.set(session.requests.is_lost());
    session.close();
    session.tell_heard();
    Session::with_groups(|groups| groups.forget(session.key, &session));
    let transport = session.requests.transport();
    transport.shutdown_write();
    if let Err(Ended::Fault(name)) = ended {
        if !faulty {
            counters.faults.hit(base_runtime::worker_index());
        }
        tracing::debug!(name, "a connection of HTTP/2 to a backend has ended because of what came");
        // Closed with something unread, it would be reset, and with it what says why it ends.
        let mut left = LINGER_BYTES;
        let rest = poll_fn(|cx| {
            while left > 0
                && let Ok(Some(bytes)) = ready!(transport.poll_recv(cx))
            {
                left = left.saturating_sub(bytes.len());
            }
            Poll::Ready(())
        });
        let _ = base_runtime::time::timeout(LINGER, rest).await;
    }
}
