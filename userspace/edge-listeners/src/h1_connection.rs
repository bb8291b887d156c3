//! One HTTP/1.1 client connection: requests one after another, until either side has had enough.
//!
//! Between requests only its [`ClientConnection`] and a [`Visit`] that points to it are alive; what a request needs is boxed for its
//! duration.

use crate::accept::Share;
use crate::client_stream::Carrier;
use crate::h1_stream::{H1Stream, Next, UNDERSCORES_DROPPED, is_closed};
use crate::h2_connection;
use crate::http_server::Local;
use crate::request::{self, Served};
use crate::tunnel;
use base_runtime::memory::{self, Booking};
use base_runtime::net::Seat;
use base_runtime::time::{self, Deadline};
use base_runtime::{Boxed, Buf};
use base_tls::{Session, Transport};
use edge_pipeline::{Duplex, Exchange, Hold};
use proto_h2::frame::PREFACE;
use proto_http::h1::{self, RequestHead};
use proto_http::{Limits, Request, Response};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// A body the filters did not want is read to its end when no more than this is left; else the connection is closed.
pub const DRAIN_BYTES: u64 = 64 * 1024;

/// So much is read, and thrown away, where closing at once would break what was said before: a reset takes an answer away from a
/// client that still sends (RFC 9112 section 9.6), and a client that was told that its connection stays sends its next request on it.
pub const PROMISED_DRAIN_BYTES: u64 = 16 * DRAIN_BYTES;

/// What follows a request.
enum Then {
    Http(Next),
    /// Client and backend have left HTTP; what is held until that has ended.
    Joined(Box<dyn Duplex>, Vec<Box<dyn Hold>>),
}

/// What a request has left of its connection.
pub enum Left {
    Nothing,
    /// It may have another request.
    Waiting(Presence),
    /// As [`Then::Joined`].
    Joined(Presence, Box<dyn Duplex>, Vec<Box<dyn Hold>>),
}

/// What a connection is doing, for whoever stops the server or needs room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Between requests, or before the first: no request is lost by closing it.
    Idle,
    /// It was idle and had to make room; its task will find out.
    Leaving,
    Busy,
    Tunnel,
    /// Requests of HTTP/2 are under way.
    Streams,
}

/// A client connection as its server knows it. Thousands of them idle: what only a request needs has no place here.
pub struct ClientConnection {
    pub stream: Transport,
    local: Rc<Local>,
    peer: Peer,
    /// Since when it is in this phase, in milliseconds of its worker.
    pub since_ms: Cell<u64>,
    /// Of what it is doing now.
    pub deadline: Deadline,
    /// Its place among the server's connections.
    key: u32,
    pub phase: Cell<Phase>,
    /// Nothing of a request has come yet.
    fresh: Cell<bool>,
    _seat: Seat,
}

impl ClientConnection {
    /// Books a connection that was counted. It waits for its first request from now on.
    pub fn book(local: Rc<Local>, stream: Transport, peer: SocketAddr, seat: Seat) -> Presence {
        let (phase, since_ms) = (Cell::new(Phase::Idle), Cell::new(time::elapsed_ms()));
        let (deadline, fresh, peer) = (Deadline::default(), Cell::new(true), Peer::from(peer));
        // A fresh connection gets the time of a head to begin; a kept one its idle time.
        deadline.set_after(local.timeouts().head);
        Presence(local.clone().book(|key| {
            Rc::new(ClientConnection { stream, local, peer, since_ms, deadline, key, phase, fresh, _seat: seat })
        }))
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer.address()
    }

    pub fn local(&self) -> &Rc<Local> {
        &self.local
    }

    pub fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since_ms.set(time::elapsed_ms());
    }

    /// Waits for another request.
    fn rest(&self) {
        self.enter(Phase::Idle);
        match self.local.idle_timeout() {
            Some(after) => self.deadline.set_after(after),
            None => self.deadline.clear(),
        }
    }

    /// The first bytes of a request, and whether they are the first of the connection; `None` when none will come.
    fn poll_request(&self, cx: &mut Context<'_>) -> Poll<Option<(Buf, bool)>> {
        let received = ready!(poll_receive(&self.stream, &self.deadline, cx));
        let fresh = self.fresh.replace(false);
        if received.is_some() {
            self.phase.set(Phase::Busy);
        } else if fresh && self.phase.get() == Phase::Idle && !is_closed(&self.stream) && !self.local.is_stopping() {
            self.local.limit("first_byte_timeout");
        }
        Poll::Ready(received.map(|first| (first, fresh)))
    }

    /// It has come within this time, and its first request may be on its way.
    pub fn is_arriving(&self, within: Duration) -> bool {
        self.fresh.get() && Duration::from_millis(time::elapsed_ms().saturating_sub(self.since_ms.get())) < within
    }

    /// Ends an idle connection, as if it had idled for too long.
    pub fn leave(&self) {
        self.phase.set(Phase::Leaving);
        self.deadline.set(base_runtime::now());
    }
}

impl Carrier for ClientConnection {
    fn peer(&self) -> SocketAddr {
        self.peer.address()
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.stream.local_addr().ok()
    }

    fn session(&self) -> Option<Rc<Session>> {
        match &self.stream {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => Some(stream.shared_session()),
        }
    }

    fn bytes_sent(&self) -> u64 {
        self.stream.bytes_sent()
    }
}

/// A peer's address in half the room: most are IPv4.
enum Peer {
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Peer {
        match address {
            SocketAddr::V4(address) => Peer::V4(address),
            SocketAddr::V6(address) => Peer::V6(Box::new(address)),
        }
    }
}

impl Peer {
    fn address(&self) -> SocketAddr {
        match self {
            Peer::V4(address) => SocketAddr::V4(*address),
            Peer::V6(address) => SocketAddr::V6(**address),
        }
    }
}

/// A connection among those of its server. Dropped, also where a request panics, it is counted no longer.
pub struct Presence(Rc<ClientConnection>);

impl Presence {
    pub fn connection(&self) -> &Rc<ClientConnection> {
        &self.0
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.local.leave(self.0.key);
    }
}

/// A connection that was accepted and counted, from its beginning to its end: the future of its task. Written by hand, because a
/// task keeps the size of its future for as long as the connection lives, and between requests that is a pointer.
pub enum Visit {
    /// Nothing is alive but the connection. `None`: it is over, or never began.
    Waiting(Option<Presence>),
    /// A handshake, a request, or a tunnel.
    Busy(Boxed<'static, Left>),
}

impl Future for Visit {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let next = match &mut *self {
                Visit::Waiting(None) => return Poll::Ready(()),
                Visit::Waiting(Some(Presence(connection))) => {
                    let first = ready!(connection.poll_request(cx));
                    let Visit::Waiting(presence) = &mut *self else { continue };
                    match (presence.take(), first) {
                        (Some(presence), Some((first, true))) if h2_connection::is_preface(&first) => {
                            Visit::Busy(Boxed::made(|| attend_either(presence, first)))
                        }
                        (Some(presence), Some((first, _))) => Visit::Busy(Boxed::made(|| attend(presence, first))),
                        _ => Visit::Waiting(None),
                    }
                }
                Visit::Busy(future) => match ready!(Pin::new(future).poll(cx)) {
                    Left::Nothing => Visit::Waiting(None),
                    Left::Waiting(presence) => Visit::Waiting(Some(presence)),
                    // A tunnel lasts, and needs no room for a request.
                    Left::Joined(presence, backend, held) => Visit::Busy(Boxed::made(|| join(presence, backend, held))),
                },
            };
            *self = next;
        }
    }
}

/// `first` may begin HTTP/2 or, while it is short, a request of HTTP/1. Where the server takes HTTP/2 in the clear, as much is read as
/// tells them apart.
async fn attend_either(presence: Presence, mut first: Buf) -> Left {
    let connection = &*presence.0;
    if !matches!(connection.stream, Transport::Plain(_)) || !connection.local.live().h2c {
        return attend(presence, first).await;
    }
    connection.deadline.set_after(connection.local.timeouts().head);
    while first.len() < PREFACE.len() && h2_connection::is_preface(&first) {
        match receive(&connection.stream, &connection.deadline).await {
            Some(mut more) => {
                let taken = first.append(&more);
                more.advance(taken);
                connection.stream.unread(more);
            }
            None => break,
        }
    }
    if !h2_connection::is_preface(&first) || first.len() < PREFACE.len() {
        return attend(presence, first).await;
    }
    connection.stream.unread(first);
    connection.phase.set(Phase::Idle);
    base_runtime::spawn(h2_connection::serve(presence)).detach();
    Left::Nothing
}

/// Serves the request that begins with `first`.
async fn attend(presence: Presence, first: Buf) -> Left {
    let connection = &*presence.0;
    let (local, stream, deadline) = (&connection.local, &connection.stream, &connection.deadline);
    let then = pin!(serve(local, connection, first)).await;
    match then {
        Then::Http(Next::Again) if !local.is_stopping() => {
            connection.rest();
            return Left::Waiting(presence);
        }
        Then::Http(Next::Again | Next::Close) => {}
        Then::Http(Next::Linger) => Box::pin(linger(stream, deadline, local.timeouts().linger)).await,
        Then::Joined(backend, held) => {
            connection.enter(Phase::Tunnel);
            return Left::Joined(presence, backend, held);
        }
    }
    Left::Nothing
}

/// Joins a client and a backend that have left HTTP; what is `held` is until that has ended.
async fn join(presence: Presence, backend: Box<dyn Duplex>, _held: Vec<Box<dyn Hold>>) -> Left {
    let connection = &*presence.0;
    let (local, stream, deadline) = (&connection.local, &connection.stream, &connection.deadline);
    local.tunnel_ended(tunnel::join(stream, &*backend, deadline, || local.tunnel_silence()).await.end);
    Left::Nothing
}

/// The next bytes; `None` at the end of the stream, on failure, and when the deadline passes.
async fn receive(stream: &Transport, deadline: &Deadline) -> Option<Buf> {
    poll_fn(|cx| poll_receive(stream, deadline, cx)).await
}

#[inline]
fn poll_receive(stream: &Transport, deadline: &Deadline, cx: &mut Context<'_>) -> Poll<Option<Buf>> {
    match stream.poll_recv(cx) {
        Poll::Ready(Ok(Some(buffer))) => Poll::Ready(Some(buffer)),
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => deadline.poll_expired(cx).map(|()| None),
    }
}

async fn serve(local: &Rc<Local>, connection: &ClientConnection, first: Buf) -> Then {
    let mut exchange = local.take_exchange();
    let then = pin!(serve_with(local, connection, first, &mut exchange)).await;
    local.give_back(exchange);
    then
}

async fn serve_with(local: &Rc<Local>, connection: &ClientConnection, first: Buf, exchange: &mut Exchange) -> Then {
    let mut stream = H1Stream::new(local, connection);
    request::admit(local, &stream, exchange);
    let refusal = if memory::is_over() {
        // There is no memory for another request: says so before any more of it is read, and makes room.
        local.limit("memory");
        local.make_room();
        let mut response = Response::with_status(503);
        response.headers.set("Retry-After", "1");
        Some(response)
    } else {
        match read_head(local, connection, first, &mut exchange.default_space().request).await {
            Ok((head, rest)) => {
                request::remember(exchange);
                stream.begin(head, rest, exchange.request());
                None
            }
            Err(None) => return Then::Http(Next::Close),
            Err(Some(status)) => Some(Response::with_status(status)),
        }
    };
    if let Some(response) = refusal {
        pin!(request::refuse(local, &mut stream, exchange, response)).await;
    } else if stream.is_connect_with_content() {
        local.limit("connect_content");
        pin!(request::refuse(local, &mut stream, exchange, Response::with_status(400))).await;
    } else {
        let served = pin!(request::serve(local, &mut stream, exchange)).await;
        if let Served::Joined(backend, held) = served {
            return Then::Joined(backend, held);
        }
    }
    Then::Http(stream.settle_body().await)
}

/// Reads until the head is whole. `Err(None)`: there is nobody to answer.
async fn read_head(
    local: &Local,
    connection: &ClientConnection,
    mut buffer: Buf,
    request: &mut Request,
) -> Result<(RequestHead, Buf), Option<u16>> {
    match local.with_live(|live| parse_head(local, &live.limits, &buffer, request))? {
        Some(head) => {
            buffer.advance(head.consumed);
            Ok((head, buffer))
        }
        // Rare enough for a box of its own: the future of every request would have the room for it.
        None => Boxed::new(read_head_in_pieces(local, connection, buffer, request)).await,
    }
}

/// Goes on where `buffer` holds the beginning of a head.
async fn read_head_in_pieces(
    local: &Local,
    connection: &ClientConnection,
    buffer: Buf,
    request: &mut Request,
) -> Result<(RequestHead, Buf), Option<u16>> {
    let (stream, deadline) = (&connection.stream, &connection.deadline);
    let live = local.live();
    let limits = &live.limits;
    // A head in pieces waits in memory of its own size, not in a receive buffer.
    deadline.set_after(live.timeouts.head);
    let mut partial = buffer.to_vec();
    let booking = Booking::new(memory::Kind::Heads, partial.capacity());
    drop(buffer);
    loop {
        let Some(mut more) = receive(stream, deadline).await else {
            if is_closed(stream) {
                return Err(None);
            }
            local.limit("head_timeout");
            return Err(Some(408));
        };
        let had = partial.len();
        partial.extend_from_slice(&more);
        booking.set(partial.capacity());
        // No head ends, and no field is added to it, without a line's end: a head that comes byte by byte is not read
        // from its start with each of them.
        if !more.contains(&b'\n') && partial.len() < limits.head_bytes {
            continue;
        }
        if let Some(head) = parse_head(local, limits, &partial, request)? {
            deadline.clear();
            more.advance(head.consumed.saturating_sub(had));
            return Ok((head, more));
        }
    }
}

/// Reads a head when all of it is there, and counts what is wrong with it.
fn parse_head(
    local: &Local,
    limits: &Limits,
    bytes: &[u8],
    request: &mut Request,
) -> Result<Option<RequestHead>, Option<u16>> {
    match h1::parse_request(bytes, limits, request) {
        Ok(head) => {
            if head.is_some_and(|head| head.dropped > 0) {
                local.limit(UNDERSCORES_DROPPED);
            }
            Ok(head)
        }
        Err(error) => {
            local.limit(error.kind.name());
            Err(Some(error.status))
        }
    }
}

/// Closes our side and reads on for a while: a reset would take the answer away from the client (RFC 9112 section 9.6).
pub async fn linger(stream: &Transport, deadline: &Deadline, most: Duration) {
    stream.shutdown_write();
    deadline.set(base_runtime::now() + most);
    let mut bytes_left = PROMISED_DRAIN_BYTES;
    while let Some(bytes) = receive(stream, deadline).await {
        bytes_left = bytes_left.saturating_sub(bytes.len() as u64);
        if bytes_left == 0 {
            break;
        }
    }
}

/// What DESIGN allows an idle connection is 600 bytes; these, with two counts, and the task's header are part of them.
const _: () = assert!(size_of::<ClientConnection>() <= 80, "a connection has grown");
const _: () = assert!(size_of::<Visit>() <= 16, "the future of a connection's task has grown");

#[cfg(test)]
mod tests {
    use super::*;

    /// The room that the future of an async fn takes.
    fn room<A, F>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    /// WebSockets last for hours and say little: what was needed for their request is given back when it is over, and what is kept is
    /// the smallest place that there is for a future.
    #[test]
    fn a_tunnel_has_no_room_for_a_request() {
        let request = room(|(presence, first)| attend(presence, first));
        let tunnel = room(|(presence, backend, held)| join(presence, backend, held));
        assert!(tunnel <= 512 && tunnel < request / 2, "a tunnel takes {tunnel} bytes, a request {request}");
    }
}
