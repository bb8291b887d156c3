//! One HTTP/2 client connection: its machine, driven; each request a task of its own; and everything a client may take too long over.
//!
//! The task of the connection moves bytes in and out and keeps the time; streams wake it when they have something to send, and what
//! all of them have said in a turn leaves in one go. Turns are bounded in bytes and in requests, so that a neighbour has its own.

use crate::accept::Share;
use crate::client_stream::Carrier;
use crate::h1_connection::{ClientConnection, Phase, Presence, linger};
use crate::h2_stream::H2Stream;
use crate::http_server::Local;
use crate::request::{self, Served};
use crate::tunnel;
use base_runtime::memory::{self, Booking};
use base_runtime::time::Deadline;
use base_tls::Transport;
use proto_h2::ServerSettings;
use proto_h2::allowances::Cheap;
use proto_h2::frame::PREFACE;
use proto_h2::server::{self, Ended, Engine, Reason, Stream};
use proto_http::Response;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Bytes a connection reads before others have their turn: two buffers, or seven thousand of the smallest frames.
const TURN_BYTES: usize = 64 * 1024;

/// Requests it begins before others have their turn.
const TURN_REQUESTS: usize = 32;

/// What a connection's machine holds, in bytes, for the memory ledger: itself, and the table of the fields that its client has sent.
/// Between turns it holds no buffer. Measured: an idle connection takes 1.5 KiB of resident memory with its task and its socket, and
/// 2.7 KiB once it has asked for something.
const MACHINE_BYTES: usize = 4 * 1024;

/// What a stream holds beside its exchange and what waits of its body and its answer, in bytes.
pub(crate) const STREAM_BYTES: usize = 2 * 1024;

/// Requests of a connection whose work goes on, with those that were reset and have not noticed: so many times what a client may have
/// open. Beyond it further ones are refused.
pub(crate) const UNNOTICED: u32 = 2;

/// Bytes of the heads of a connection whose requests are under way, with [`FIELD_BYTES`] for each field. Beyond it further requests are
/// refused: a head of 64 KiB that names fields of a table over and over is a few hundred bytes on the wire. Room for 128 of 16 KiB.
const HEADS_MOST: usize = 2 * 1024 * 1024;

/// What a field of a head holds beside its name and value, in bytes: places in two tables.
pub(crate) const FIELD_BYTES: usize = 128;

/// Names of the bounds of this file, of the watched frames and of the machine.
pub fn bounds() -> impl Iterator<Item = &'static str> {
    let own = ["grpc_keepalive", "h2_streams", "h2_heads", "h2_length"];
    own.into_iter().chain(Cheap::ALL.map(Cheap::name)).chain(server::FAULTS)
}

/// Bytes of one answer that may wait for windows, or for their turn.
pub const STREAM_HIGH_WATER: u64 = 32 * 1024;

/// The same of all answers of a connection; beyond it each has one piece waiting at most. Memory: this, and a buffer for each stream
/// of a client that reads slowly.
const CONNECTION_HIGH_WATER: u64 = 256 * 1024;

/// A connection's window follows what is unread in steps of this size, in bytes.
const WINDOW_STEP: u32 = 64 * 1024;

/// With fewer bytes left, a connection's window may be what keeps a client from sending: less than a frame, in bytes.
const SHUT_BELOW: u32 = 16 * 1024;

/// Urgencies are few: before 3, which is what most have, 3, and after it.
fn class(urgency: u8) -> usize {
    match urgency {
        0..3 => 0,
        3 => 1,
        _ => 2,
    }
}

/// What the streams of a connection share with whoever drives it.
#[derive(Default)]
pub struct Streams {
    /// Requests whose work goes on.
    open: Cell<u32>,
    /// Bytes of their heads.
    heads: Cell<usize>,
    /// Bytes of answers that wait for windows or for their turn, of the urgent, the usual and the other requests.
    waiting: [Rc<Cell<u64>>; 3],
    /// The window of the connection is used up.
    shut: Cell<bool>,
    /// When it was not any more, the last time.
    opened: Cell<Option<Instant>>,
    driver: RefCell<Option<Waker>>,
    /// Of those that became tunnels.
    tunnels: RefCell<Vec<Weak<Deadline>>>,
}

impl Streams {
    /// Requests whose work goes on.
    pub fn open(&self) -> u32 {
        self.open.get()
    }

    fn set_shut(&self, shut: bool) {
        if self.shut.replace(shut) && !shut {
            self.opened.set(Some(base_runtime::now()));
        }
    }

    /// Since when the client could have sent what has been waited for since `since`: not while others had used up the window of the
    /// connection.
    pub fn could_send_since(&self, since: Instant) -> Instant {
        match self.shut.get() {
            true => base_runtime::now().max(since),
            false => self.opened.get().map_or(since, |opened| opened.max(since)),
        }
    }

    /// Where bytes that wait are counted for a request of this urgency (RFC 9218).
    pub fn waiting(&self, urgency: u8) -> &Rc<Cell<u64>> {
        &self.waiting[class(urgency)]
    }

    /// Bytes that may wait of a request of this urgency when it is given more. There is always room for one piece, so that no window
    /// that stays closed holds up another stream.
    pub fn room(&self, urgency: u8) -> u64 {
        let (before, rest) = self.waiting.split_at(class(urgency));
        let sum = |counts: &[Rc<Cell<u64>>]| counts.iter().map(|count| count.get()).sum::<u64>();
        match sum(before) {
            0 if sum(rest) <= CONNECTION_HIGH_WATER => STREAM_HIGH_WATER,
            _ => 0,
        }
    }

    /// So much waits that what is small is better kept in memory of its own size than in buffers.
    pub fn is_crowded(&self) -> bool {
        self.waiting.iter().map(|count| count.get()).sum::<u64>() > STREAM_HIGH_WATER
    }

    /// `None`: with a head of so many bytes the heads under way would be too much.
    pub(crate) fn begin(self: &Rc<Self>, head: usize) -> Option<Place> {
        if self.heads.get() + head > HEADS_MOST {
            return None;
        }
        self.open.set(self.open.get() + 1);
        self.heads.set(self.heads.get() + head);
        Some(Place { streams: self.clone(), head: Booking::new(memory::Kind::Heads, head) })
    }

    /// Wakes whoever drives the connection once the last request has ended.
    pub(crate) fn set_driver(&self, waker: &Waker) {
        *self.driver.borrow_mut() = Some(waker.clone());
    }

    /// Those that became tunnels look after themselves at this time.
    pub(crate) fn set_tunnels(&self, at: Instant) {
        for tunnel in self.tunnels.borrow().iter().filter_map(Weak::upgrade) {
            tunnel.set(at);
        }
    }

    fn add_tunnel(&self) -> Rc<Deadline> {
        let deadline = Rc::new(Deadline::new());
        let mut tunnels = self.tunnels.borrow_mut();
        tunnels.retain(|tunnel| tunnel.strong_count() > 0);
        tunnels.push(Rc::downgrade(&deadline));
        deadline
    }
}

/// A request among those of its connection, until it is dropped.
pub(crate) struct Place {
    streams: Rc<Streams>,
    head: Booking,
}

impl Place {
    /// Its head is not kept any more.
    fn forget_head(&self) {
        self.streams.heads.set(self.streams.heads.get() - self.head.bytes());
        self.head.set(0);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.forget_head();
        let streams = &self.streams;
        streams.open.set(streams.open.get() - 1);
        if streams.open.get() == 0
            && let Some(driver) = streams.driver.borrow_mut().take()
        {
            driver.wake();
        }
    }
}

/// The client agreed to HTTP/2 in its handshake.
pub fn is_agreed(stream: &Transport) -> bool {
    stream.session().is_some_and(|session| session.alpn.as_deref() == Some(b"h2"))
}

/// What a client sent first is the beginning of HTTP/2's preface, or all of it, and nothing else.
pub fn is_preface(first: &[u8]) -> bool {
    let common = first.len().min(PREFACE.len());
    common > 0 && first[..common] == PREFACE[..common]
}

/// Serves a connection, on which nothing was read yet, to its end.
pub async fn serve(presence: Presence) {
    let connection = presence.connection().clone();
    let local = connection.local().clone();
    let pings = local.with_live(|live| live.life.pings);
    let settings = ServerSettings { pings, ..ServerSettings::within(&local.live().limits) };
    let mut drive = Drive {
        engine: server::accept(connection.stream.clone(), &settings),
        connection: connection.clone(),
        local: local.clone(),
        streams: Rc::default(),
        streams_most: settings.streams_most * UNNOTICED,
        window: settings.connection_window,
        windows: (settings.connection_window, settings.connection_window_most),
        booking: Booking::new(memory::Kind::Other, MACHINE_BYTES),
        way: Way::Open,
        away: None,
        head: None,
        stall: (0, base_runtime::now()),
        quiet: Some(base_runtime::now()),
        fresh: true,
        age: local.with_live(|live| live.life.age).map(|age| base_runtime::now() + about(age)),
        cut: None,
        heard: (0, base_runtime::now()),
        asked: None,
    };
    let ended = poll_fn(|cx| drive.poll(cx)).await;
    drop(drive);
    if let Err(Ended::Fault(name)) = ended {
        local.limit(name);
    }
    // A client that is sent away reads why, unless there is nobody left to read.
    if ended != Err(Ended::Broken) && ended != Err(Ended::ByPeer) {
        linger(&connection.stream, &connection.deadline, local.timeouts().linger).await;
    }
}

/// Whether more requests are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// The client was told to send no more.
    Away,
    /// It was told that this is the end, at that time.
    Ending(Instant),
}

/// A connection, its machine and its times.
struct Drive<E: Engine> {
    engine: E,
    connection: Rc<ClientConnection>,
    local: Rc<Local>,
    streams: Rc<Streams>,
    streams_most: u32,
    /// Bytes of bodies that may have come and not be taken; at first, and at most.
    window: u32,
    windows: (u32, u32),
    booking: Booking,
    way: Way,
    /// Since when the client was told to send no more, until it has had its time to know.
    away: Option<Instant>,
    /// The head that has begun to come, by its number, and since when.
    head: Option<(u64, Instant)>,
    /// Bytes the kernel had taken when that last changed while some were waiting.
    stall: (u64, Instant),
    /// Since when there is no request.
    quiet: Option<Instant>,
    /// No request has come yet.
    fresh: bool,
    /// When it is old, and when it is cut off because of that.
    age: Option<Instant>,
    cut: Option<Instant>,
    /// Bytes received when that last changed, and since when its client has been asked whether it is there.
    heard: (u64, Instant),
    asked: Option<Instant>,
}

impl<E: Engine> Drive<E> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        self.streams.set_driver(cx.waker());
        self.engine.begin_turn(TURN_BYTES);
        let mut begun = 0;
        loop {
            match self.engine.poll_accept(cx) {
                Poll::Ready(Some(Ok(stream))) => self.begin(stream),
                Poll::Ready(Some(Err(ended))) => return Poll::Ready(Err(ended)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
            begun += 1;
            if begun == TURN_REQUESTS {
                cx.waker().wake_by_ref();
                break;
            }
        }
        self.keep_books();
        self.keep_time(cx)
    }

    fn begin(&mut self, mut stream: E::Stream) {
        self.fresh = false;
        if self.streams.open.get() >= self.streams_most {
            self.local.limit("h2_streams");
            return stream.reset(Reason::Refused);
        }
        let (bytes, fields) = stream.head_size();
        let Some(place) = self.streams.begin(bytes + fields * FIELD_BYTES) else {
            self.local.limit("h2_heads");
            return stream.reset(Reason::Refused);
        };
        self.quiet = None;
        self.connection.enter(Phase::Streams);
        let encrypted = matches!(self.connection.stream, Transport::Tls(_));
        if !self.local.keeps_alive(encrypted) {
            self.go_away();
        }
        let (local, connection) = (self.local.clone(), self.connection.clone());
        base_runtime::spawn(attend(place, local, connection, stream)).detach();
    }

    fn go_away(&mut self) {
        if self.way == Way::Open {
            self.way = Way::Away;
            self.away = Some(base_runtime::now());
            // What set out before the client could know arrives within the time it has to answer.
            self.quiet = self.quiet.map(|_| base_runtime::now());
            self.engine.go_away();
        }
    }

    fn end(&mut self, why: Reason, cx: &Context<'_>) {
        if !matches!(self.way, Way::Ending(_)) {
            self.way = Way::Ending(base_runtime::now());
            self.engine.end(why);
            // The machine says so when it is polled.
            cx.waker().wake_by_ref();
        }
    }

    fn keep_books(&mut self) {
        let unread = self.engine.unread();
        let window = window(self.windows, self.window, unread, memory::is_over());
        if self.window != window {
            self.window = window;
            self.engine.set_window(window);
        }
        self.streams.set_shut(window.saturating_sub(unread) < SHUT_BELOW);
        let streams = self.streams.open.get() as usize * STREAM_BYTES;
        self.booking.set(MACHINE_BYTES + streams + unread as usize + self.engine.held());
    }

    /// What is due is done; the deadline is set for what is due next.
    fn keep_time(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let (now, timeouts) = (base_runtime::now(), self.local.timeouts());
        if self.streams.open.get() == 0 && self.quiet.is_none() {
            self.quiet = Some(now);
            self.connection.enter(Phase::Idle);
        }
        if self.local.is_stopping() && self.way == Way::Open {
            self.go_away();
            self.streams.set_tunnels(now);
            cx.waker().wake_by_ref();
        }
        if self.connection.phase.get() == Phase::Leaving && self.quiet.is_some() {
            self.end(Reason::NoError, cx);
        }
        let life = self.local.with_live(|live| live.life);
        if self.age.is_some_and(|age| age <= now) {
            self.age = None;
            self.cut = life.grace.map(|grace| now + grace);
            self.go_away();
            cx.waker().wake_by_ref();
        }
        let mut next: Option<Instant> = self.age;
        let mut is_due = |at: Instant| {
            next = Some(next.map_or(at, |next| next.min(at)));
            at <= now
        };
        if let Way::Ending(since) = self.way
            && is_due(since + timeouts.linger)
        {
            return Poll::Ready(Ok(()));
        }
        // One that never says that it knows would be served for as long as it always has a request open.
        if self.away.is_some_and(|since| is_due(since + timeouts.linger)) {
            self.away = None;
            self.engine.go_away();
            cx.waker().wake_by_ref();
        }
        if self.cut.is_some_and(&mut is_due) {
            self.cut = None;
            self.end(Reason::NoError, cx);
        }
        if let Some((after, within)) = life.keepalive {
            let came = self.engine.bytes_in();
            if self.heard.0 != came {
                (self.heard, self.asked) = ((came, now), None);
            }
            match self.asked {
                Some(since) if is_due(since + within) => {
                    self.local.limit("grpc_keepalive");
                    self.connection.stream.abort();
                    return Poll::Ready(Err(Ended::Broken));
                }
                None if is_due(self.heard.1 + after) => {
                    self.asked = Some(now);
                    self.engine.ask();
                    cx.waker().wake_by_ref();
                }
                _ => {}
            }
        }
        // The client takes nothing of what all its streams have to say.
        if self.engine.waiting() > 0 {
            let sent = self.connection.stream.bytes_sent();
            if self.stall.0 != sent || self.stall.1 > now {
                self.stall = (sent, now);
            }
            if is_due(self.stall.1 + timeouts.send) {
                self.local.limit("response_stalled");
                self.connection.stream.abort();
                return Poll::Ready(Err(Ended::Broken));
            }
        } else {
            self.stall = (u64::MAX, now);
        }
        let mut ends = None;
        // A head that does not come to its end stands in the way of everything behind it. Once the connection is to end nothing more is
        // waited for: a time that has passed already would be due in every turn until the end could be written.
        let ending = matches!(self.way, Way::Ending(_));
        let coming = if ending { None } else { self.engine.head_coming() };
        self.head = coming.map(|number| match self.head {
            Some((same, since)) if same == number => (number, since),
            _ => (number, now),
        });
        if let Some((_, since)) = self.head
            && is_due(since + timeouts.head)
        {
            ends = Some((Some("head_timeout"), Reason::Calm));
        }
        if let Some(since) = self.quiet {
            let idle = match self.way {
                Way::Open if self.fresh => Some((timeouts.head, Some("first_byte_timeout"))),
                Way::Open => self.local.idle_timeout().map(|after| (after, None)),
                // Whoever does not answer is not waited for.
                Way::Away => Some((timeouts.linger, None)),
                Way::Ending(_) => None,
            };
            if let Some((after, limit)) = idle
                && is_due(since + after)
            {
                ends = ends.or(Some((limit, Reason::NoError)));
            }
        }
        if let Some((limit, why)) = ends
            && !matches!(self.way, Way::Ending(_))
        {
            if let Some(limit) = limit {
                self.local.limit(limit);
            }
            self.end(why, cx);
        }
        match next {
            Some(at) => self.connection.deadline.set(at),
            None => self.connection.deadline.clear(),
        }
        if self.connection.deadline.poll_expired(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// A tenth more or less.
fn about(time: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let thousandths = 900 + RandomState::new().hash_one(0u8) % 201;
    time.mul_f64(thousandths as f64 / 1000.0)
}

/// The window of a connection with `unread` bytes that nobody has taken yet: they leave the others as much as there was at first. When
/// memory has run out it grows no more.
fn window((least, most): (u32, u32), now: u32, unread: u32, no_memory: bool) -> u32 {
    let wanted = least.saturating_add(unread - unread % WINDOW_STEP).min(most);
    if no_memory { wanted.min(now) } else { wanted }
}

/// Serves one request.
pub(crate) async fn attend<S: Stream>(place: Place, local: Rc<Local>, connection: Rc<dyn Carrier>, stream: S) {
    let streams = &place.streams;
    let mut exchange = local.take_exchange();
    let mut stream = H2Stream::new(&local, &*connection, streams, stream);
    request::admit(&local, &stream, &mut exchange);
    let refusal = if memory::is_over() {
        // As on HTTP/1: says so before any more of it is read, and makes room.
        local.limit("memory");
        local.make_room();
        let mut response = Response::with_status(503);
        response.headers.set("Retry-After", "1");
        Some(response)
    } else {
        match stream.read_head(&mut exchange.default_space().request) {
            Ok(()) => {
                request::remember(&mut exchange);
                None
            }
            Err(fault) => {
                local.limit(fault.name());
                Some(Response::with_status(fault.status()))
            }
        }
    };
    let served = match refusal {
        Some(response) => {
            request::refuse(&local, &mut stream, &mut exchange, response).await;
            Served::Answered
        }
        None => request::serve(&local, &mut stream, &mut exchange).await,
    };
    local.give_back(exchange);
    place.forget_head();
    match served {
        Served::Answered => stream.settle_body().await,
        Served::Joined(backend, _held) => {
            let deadline = streams.add_tunnel();
            let client = stream.into_duplex();
            let join = Box::pin(tunnel::join(&*client, &*backend, &deadline, || local.tunnel_silence()));
            local.tunnel_ended(join.await.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_unread_leaves_others_a_window_while_there_is_memory() {
        const KIB: u32 = 1024;
        let sizes = (256 * KIB, 8192 * KIB);
        for (now, unread, no_memory, expected) in [
            (256, 0, false, 256),
            (256, 63, false, 256),
            (256, 200, false, 448),
            (448, 448, false, 704),
            (448, 448, true, 448),
            (448, 0, true, 256),
            (8192, 8192, false, 8192),
        ] {
            assert_eq!(window(sizes, now * KIB, unread * KIB, no_memory), expected * KIB, "{now} {unread}");
        }
    }

    #[test]
    fn nobody_is_waited_for_while_the_window_is_shut() {
        let (streams, since) = (Streams::default(), base_runtime::now());
        assert_eq!(streams.could_send_since(since), since);
        streams.set_shut(true);
        assert!(streams.could_send_since(since) >= since);
        streams.set_shut(false);
        let opened = streams.opened.get().unwrap();
        assert_eq!(streams.could_send_since(since), opened.max(since));
        let later = opened + std::time::Duration::from_secs(1);
        assert_eq!(streams.could_send_since(later), later);
    }

    #[test]
    fn what_is_urgent_leaves_others_one_piece() {
        let streams = Streams::default();
        assert_eq!([0, 3, 7].map(|urgency| streams.room(urgency)), [STREAM_HIGH_WATER; 3]);
        streams.waiting(1).set(1);
        assert_eq!([0, 3, 7].map(|urgency| streams.room(urgency)), [STREAM_HIGH_WATER, 0, 0]);
        streams.waiting(1).set(0);
        streams.waiting(5).set(10);
        assert_eq!([0, 3, 7].map(|urgency| streams.room(urgency)), [STREAM_HIGH_WATER; 3]);
        streams.waiting(3).set(CONNECTION_HIGH_WATER);
        assert_eq!([0, 3, 7].map(|urgency| streams.room(urgency)), [0, 0, 0]);
    }
}
