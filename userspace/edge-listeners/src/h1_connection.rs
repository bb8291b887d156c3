//! One HTTP/1.1 client connection: requests one after another, until either side has had enough.
//!
//! Between requests only its [`Connection`] and a [`Visit`] that points to it are alive; what a request needs is boxed for its
//! duration.

use crate::forwarded;
use crate::http_server::Local;
use crate::pace::Pace;
use crate::request_body::{Arrival, RequestBody};
use crate::response::{self, Manner, Sent, is_closed};
use crate::router::{Matched, Route};
use crate::tls::Tls;
use crate::tunnel;
use crate::variables::Context as VariableContext;
use base_runtime::Buf;
use base_runtime::memory::{self, Booking};
use base_runtime::net::Seat;
use base_runtime::time::{self, Deadline};
use base_tls::Transport;
use edge_pipeline::exchange::DEFAULT_BODY_LIMIT;
use edge_pipeline::{Around, Body, BodyError, Duplex, Exchange, Interim, Pipeline};
use proto_http::h1::{self, BodyDecoder, Framing, RequestHead};
use proto_http::{Method, Request, Response, Version};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// A body the filters did not want is read to its end when no more than this is left; else the connection is closed.
const DRAIN_BYTES: u64 = 64 * 1024;

/// What follows a request.
enum Next {
    Again,
    Close,
    /// The answer was given before the request was read: close so that the client still sees it.
    Linger,
    /// Both sides switched protocols.
    Tunnel(Box<dyn Duplex>),
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
}

/// A client connection as its server knows it. Thousands of them idle: what only a request needs has no place here.
pub struct Connection {
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

impl Connection {
    /// Books a connection that was counted. It waits for its first request from now on.
    pub fn book(local: Rc<Local>, stream: Transport, peer: SocketAddr, seat: Seat) -> Presence {
        let (phase, since_ms) = (Cell::new(Phase::Idle), Cell::new(time::elapsed_ms()));
        let (deadline, fresh, peer) = (Deadline::default(), Cell::new(true), Peer::from(peer));
        // A fresh connection gets the time of a head to begin; a kept one its idle time.
        deadline.set_after(local.timeouts().head);
        Presence(local.clone().book(|key| {
            Rc::new(Connection { stream, local, peer, since_ms, deadline, key, phase, fresh, _seat: seat })
        }))
    }

    fn enter(&self, phase: Phase) {
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

    /// The first bytes of a request; `None` when none will come.
    fn poll_request(&self, cx: &mut Context<'_>) -> Poll<Option<Buf>> {
        let received = ready!(poll_receive(&self.stream, &self.deadline, cx));
        let fresh = self.fresh.replace(false);
        if received.is_some() {
            self.phase.set(Phase::Busy);
        } else if fresh && self.phase.get() == Phase::Idle && !is_closed(&self.stream) && !self.local.is_stopping() {
            self.local.limit("first_byte_timeout");
        }
        Poll::Ready(received)
    }

    /// Ends an idle connection, as if it had idled for too long.
    pub fn leave(&self) {
        self.phase.set(Phase::Leaving);
        self.deadline.set(base_runtime::now());
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
pub struct Presence(Rc<Connection>);

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
    /// A handshake, or a request, that ends with a connection that waits, or with none.
    Busy(Pin<Box<dyn Future<Output = Option<Presence>>>>),
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
                        (Some(presence), Some(first)) => Visit::Busy(Box::pin(attend(presence, first))),
                        _ => Visit::Waiting(None),
                    }
                }
                Visit::Busy(future) => Visit::Waiting(ready!(future.as_mut().poll(cx))),
            };
            *self = next;
        }
    }
}

/// Serves the request that begins with `first`, and gives the connection back when it may have another.
async fn attend(presence: Presence, first: Buf) -> Option<Presence> {
    let connection = &*presence.0;
    let (local, stream, deadline) = (&connection.local, &connection.stream, &connection.deadline);
    match serve(local, connection, first).await {
        Next::Again if !local.is_stopping() => {
            connection.rest();
            return Some(presence);
        }
        Next::Again | Next::Close => {}
        Next::Linger => Box::pin(linger(stream, deadline, local.timeouts().linger)).await,
        Next::Tunnel(backend) => {
            connection.enter(Phase::Tunnel);
            let join = Box::pin(tunnel::join(stream, &*backend, deadline, || local.tunnel_silence()));
            if join.await == tunnel::End::Idle && !local.is_stopping() {
                local.limit("tunnel_idle");
            }
        }
    }
    None
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

async fn serve(local: &Rc<Local>, connection: &Connection, first: Buf) -> Next {
    let mut exchange = local.take_exchange();
    let next = serve_with(local, connection, first, &mut exchange).await;
    local.give_back(exchange);
    next
}

async fn serve_with(local: &Rc<Local>, connection: &Connection, first: Buf, exchange: &mut Exchange) -> Next {
    let (stream, deadline, peer) = (&connection.stream, &connection.deadline, connection.peer.address());
    exchange.started = base_runtime::now();
    if memory::is_over() {
        return shed(local, connection, exchange).await;
    }
    let (head, rest) = match read_head(local, stream, deadline, first, &mut exchange.default_space().request).await {
        Ok(found) => found,
        Err(None) => return Next::Close,
        Err(Some(status)) => {
            exchange.default_space().respond(Response::with_status(status), Body::Empty);
            let manner = refusal();
            return finish(local, stream, deadline, exchange, manner, 0, None, Next::Linger).await;
        }
    };
    exchange.default_space().has_request = true;
    exchange.upgrade_offered = head.upgrade;
    exchange.remember_target();
    let live = local.live();
    exchange.client.peer = peer;
    if !Arc::ptr_eq(&exchange.client.server, local.server_name()) {
        exchange.client.server = local.server_name().clone();
    }
    exchange.client.tls = match stream {
        Transport::Plain(_) => None,
        Transport::Tls(stream) => Some(stream.shared_session()),
    };
    exchange.client.scheme = if exchange.client.tls.is_some() { "https" } else { "http" };
    exchange.client.real_ip = forwarded::real_ip(exchange.request(), peer, &live.trusted_proxies);
    exchange.tags.enabled = local.access_log_enabled();

    let connect = exchange.request().method == Method::Connect;
    let manner = Manner {
        head_request: exchange.request().method == Method::Head,
        client: exchange.request().version,
        // What follows a CONNECT belongs to the tunnel, and when there is none it is no request (RFC 9110 section 9.3.6).
        // A connection that was made before TLS was turned on or off ends with what it has begun.
        keep_alive: head.keep_alive
            && live.keep_alive
            && !connect
            && exchange.client.tls.is_some() == live.tls.is_some(),
        upgrade: false,
        tunnel: false,
    };
    let found = match &live.tls {
        Some(tls) if is_misdirected(tls, exchange) => {
            local.limit("misdirected");
            Err(421)
        }
        _ => live.router.route(exchange.request(), exchange.client.real_ip),
    };
    let found = if connect { may_connect(local, &head, found) } else { found };
    let limit = body_limit(found.as_ref().ok().map(|f| f.0), live.max_body);
    let arrival = accept_body(local, stream, &head, rest, limit, exchange);
    let (pipeline, too_large) = match &found {
        Err(status) => {
            exchange.respond(Response::with_status(*status), Body::Empty);
            (None, false)
        }
        Ok((route, matched)) => {
            prepare(local, exchange, route, matched, live.x_forwarded_for);
            let too_large = limit.is_some_and(|l| exchange.request_body_length().is_some_and(|n| n > l));
            if too_large {
                local.limit("request_body_bytes");
                exchange.respond(Response::with_status(413), Body::Empty);
                exchange.default_space().request_body = Body::Empty;
            }
            (live.pipeline(route), too_large)
        }
    };
    let routed = found.as_ref().ok().map(|(route, _)| route.pipeline.name());
    match pipeline {
        _ if too_large || routed.is_none() => {}
        None => exchange.respond(Response::with_status(503), Body::Empty),
        Some(pipeline) => {
            let around = live.around.as_ref().and_then(|slot| slot.current());
            let interim = manner.client == Version::Http11;
            if !run(&pipeline, around.as_deref(), exchange, stream, arrival.as_ref(), interim).await {
                exchange.client_gone = true;
            }
        }
    }
    if let Some(arrival) = &arrival
        && let Some(failed) = arrival.borrow().failed()
    {
        blame(local, exchange, failed, &arrival.borrow());
    }
    let request_bytes = head.consumed as u64 + arrival.as_ref().map_or(exchange.request_bytes, |a| a.borrow().bytes);
    if exchange.client_gone {
        exchange.default_space().respond(Response::with_status(499), Body::Empty);
        local.record(exchange, routed, request_bytes, 0);
        stream.abort();
        return Next::Close;
    }
    // The pipeline is done with the request: what it left unread is dropped here.
    exchange.default_space().request_body = Body::Empty;
    let unread = match &arrival {
        Some(arrival) if !arrival.borrow().is_complete() => Some(arrival.clone()),
        _ => None,
    };
    let drainable = unread.as_ref().is_none_or(|a| {
        let arrival = a.borrow();
        !arrival.awaits_continue()
            && arrival.failed().is_none()
            && arrival.remaining().is_some_and(|n| n <= DRAIN_BYTES)
    });
    let mut manner = manner;
    manner.keep_alive &= drainable && !local.is_stopping();
    let next = match (&unread, drainable) {
        (Some(_), false) => Next::Linger,
        // The client may have sent its next request already; only one that announced to close has not.
        _ if !manner.keep_alive && (head.keep_alive || connect) => Next::Linger,
        _ if !manner.keep_alive => Next::Close,
        _ => Next::Again,
    };
    let next = finish(local, stream, deadline, exchange, manner, request_bytes, routed, next).await;
    if let (Next::Again, Some(unread)) = (&next, unread) {
        return if drain(&unread).await { Next::Again } else { Next::Close };
    }
    next
}

/// There is no memory for another request: says so before any more of it is read, and makes room.
async fn shed(local: &Rc<Local>, connection: &Connection, exchange: &mut Exchange) -> Next {
    local.limit("memory");
    local.make_room();
    let mut response = Response::with_status(503);
    response.headers.set("Retry-After", "1");
    exchange.default_space().respond(response, Body::Empty);
    let (stream, deadline) = (&connection.stream, &connection.deadline);
    finish(local, stream, deadline, exchange, refusal(), 0, None, Next::Linger).await
}

/// Reads until the head is whole. `Err(None)`: there is nobody to answer.
async fn read_head(
    local: &Local,
    stream: &Transport,
    deadline: &Deadline,
    mut buffer: Buf,
    request: &mut Request,
) -> Result<(RequestHead, Buf), Option<u16>> {
    let refuse = |error: h1::RequestError| {
        local.limit(error.kind.name());
        Some(error.status)
    };
    if let Some(head) = h1::parse_request(&buffer, local.limits(), request).map_err(refuse)? {
        buffer.advance(head.consumed);
        return Ok((head, buffer));
    }
    // A head in pieces waits in memory of its own size, not in a receive buffer.
    deadline.set_after(local.timeouts().head);
    let mut partial = buffer.to_vec();
    let booking = Booking::new(memory::Kind::Heads, partial.capacity());
    drop(buffer);
    let limits = local.limits();
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
        if let Some(head) = h1::parse_request(&partial, limits, request).map_err(refuse)? {
            deadline.clear();
            more.advance(head.consumed.saturating_sub(had));
            return Ok((head, more));
        }
    }
}

/// Makes the request's body out of what came with the head and what is still to come.
fn accept_body(
    local: &Local,
    stream: &Transport,
    head: &RequestHead,
    mut rest: Buf,
    limit: Option<u64>,
    exchange: &mut Exchange,
) -> Option<Rc<RefCell<Arrival>>> {
    let whole = match head.framing {
        Framing::Empty => Some(0),
        Framing::Length(length) if length <= rest.len() as u64 => Some(length as usize),
        _ => None,
    };
    if let Some(length) = whole {
        exchange.request_bytes = length as u64;
        if rest.len() > length {
            let next = if length == 0 { std::mem::replace(&mut rest, Buf::alloc()) } else { rest.split_off(length) };
            stream.unread(next);
        }
        exchange.default_space().request_body = if length == 0 { Body::Empty } else { Body::Buffer(rest) };
        return None;
    }
    let decoder = BodyDecoder::new(head.framing, local.limits());
    let pending = (!rest.is_empty()).then_some(rest);
    let timeouts = local.timeouts();
    let pace = Pace::new(&timeouts, timeouts.body);
    let arrival = Arrival::new(stream.clone(), decoder, pending, head.expect_continue, limit, pace);
    exchange.default_space().request_body = Body::Stream(Box::new(RequestBody(arrival.clone())));
    Some(arrival)
}

/// The client's body could not be read to its end: counts why, and sees that the answer says it. A client that left in the
/// middle of its body gets none.
fn blame(local: &Local, exchange: &mut Exchange, failed: BodyError, arrival: &Arrival) {
    match failed {
        BodyError::TooLarge => local.limit("request_body_bytes"),
        BodyError::TimedOut => local.limit(if arrival.is_too_slow() { "body_rate" } else { "body_timeout" }),
        BodyError::Incomplete => exchange.client_gone = true,
        BodyError::NoMemory => local.limit("memory"),
        BodyError::Malformed { .. } => {
            if let Some(fault) = arrival.fault() {
                local.limit(fault.name());
            }
        }
        BodyError::Refused { .. } => {}
    }
    // Where no filter had anything to say to it, the body's own failure is the answer.
    let space = exchange.default_space();
    if space.response.is_none() {
        space.respond(Response::with_status(failed.request_status()), Body::Empty);
    }
}

fn body_limit(route: Option<&Route>, server: i64) -> Option<u64> {
    match route.map(|r| r.max_body).filter(|l| *l != 0).unwrap_or(server) {
        0 => Some(DEFAULT_BODY_LIMIT),
        negative if negative < 0 => None,
        bytes => Some(bytes as u64),
    }
}

/// What a route asks to be done before its pipeline.
fn prepare(local: &Local, exchange: &mut Exchange, route: &Route, matched: &Matched, forwarded_for: bool) {
    if !route.set_headers.is_empty() {
        let context = VariableContext {
            request: exchange.request(),
            client: &exchange.client,
            started: exchange.started,
            machine: local.machine(),
            worker: base_runtime::worker_index(),
            captures: if let Matched::Captured(captures) = matched { captures } else { &[] },
        };
        let set: Vec<(&str, Option<String>)> = route
            .set_headers
            .iter()
            .map(|(name, text)| (name.as_str(), (!text.is_empty()).then(|| text.expand(&context))))
            .collect();
        for (name, value) in set {
            match value {
                Some(value) => exchange.request_mut().headers.set(name, value),
                None => drop(exchange.request_mut().headers.remove(name)),
            }
        }
    }
    exchange.matched_prefix = route.prefix().cloned();
    route.rewrite(exchange.request_mut(), matched);
    if forwarded_for {
        forwarded::append(exchange);
    }
}

/// The request came over a connection it must not come over.
fn is_misdirected(tls: &Tls, exchange: &Exchange) -> bool {
    match &exchange.client.tls {
        // The connection is older than the wish for certificates.
        None => tls.asks_clients,
        Some(session) => {
            (tls.asks_clients && session.peer_certificates.is_empty())
                || tls.is_misdirected(session.server_name.as_deref(), exchange.request().host())
        }
    }
}

/// How to answer what could not be read.
fn refusal() -> Manner {
    Manner { head_request: false, client: Version::Http11, keep_alive: false, upgrade: false, tunnel: false }
}

/// CONNECT goes only where a filter makes tunnels of it. Elsewhere it is a method this server does not have, whatever the path
/// rules say of it; nothing of it reaches a backend, which might take it for the start of another protocol.
fn may_connect<'a>(
    local: &Local,
    head: &RequestHead,
    found: Result<(&'a Route, Matched), u16>,
) -> Result<(&'a Route, Matched), u16> {
    if !head.framing.is_empty() {
        // It has no content, so whoever sends some means the bytes for somebody else.
        local.limit("connect_content");
        return Err(400);
    }
    match found {
        Ok((route, matched)) if route.pipeline.current().is_some_and(|p| p.makes_tunnels()) => Ok((route, matched)),
        Ok(_) | Err(404) => Err(501),
        Err(status) => Err(status),
    }
}

/// Sends on what backends have said ahead of their answer. `arrival` is the body of a client that may wait for 100.
fn relay_interim(interim: &Interim, stream: &Transport, arrival: Option<&Rc<RefCell<Arrival>>>, wanted: bool) {
    while let Some(response) = interim.pop() {
        let wanted = wanted
            && match response.status {
                // The client's own expectation is answered when its body is first asked for, by whoever comes first.
                100 => arrival.is_some_and(|a| a.try_borrow_mut().is_ok_and(|mut a| a.take_continue())),
                101 => false,
                status => (102..200).contains(&status),
            };
        if wanted {
            response::send_interim(stream, &response);
        }
    }
}

/// Walks the pipeline, and relays interim answers to clients that can read them; false when the client left meanwhile.
async fn run(
    pipeline: &Pipeline,
    around: Option<&Around>,
    exchange: &mut Exchange,
    stream: &Transport,
    arrival: Option<&Rc<RefCell<Arrival>>>,
    interim_wanted: bool,
) -> bool {
    let interim = exchange.interim.clone();
    let mut walk = pin!(async {
        match around {
            None => drop(pipeline.run(exchange).await),
            Some(around) => pipeline.run_within(around, exchange).await,
        }
    });
    let mut watching = true;
    poll_fn(|cx| {
        let walked = walk.as_mut().poll(cx).is_ready();
        relay_interim(&interim, stream, arrival, interim_wanted);
        if walked {
            return Poll::Ready(true);
        }
        // While the body is arriving its reader sees the end of the stream itself.
        let reading = arrival.is_some_and(|a| a.try_borrow().is_ok_and(|a| !a.is_complete()));
        if watching && !reading && stream.poll_readable(cx).is_ready() {
            if is_closed(stream) {
                return Poll::Ready(false);
            }
            // The next request is waiting already: nothing more to see until this one is answered.
            watching = false;
        }
        Poll::Pending
    })
    .await
}

/// Sends the answer, writes the log line, counts.
#[allow(clippy::too_many_arguments)]
async fn finish(
    local: &Rc<Local>,
    stream: &Transport,
    deadline: &Deadline,
    exchange: &mut Exchange,
    mut manner: Manner,
    request_bytes: u64,
    routed: Option<&Arc<str>>,
    next: Next,
) -> Next {
    let backend = exchange.upgraded.take();
    let space = exchange.default_space();
    let mut body = std::mem::take(&mut space.response_body);
    let response = space.response.get_or_insert_with(|| Response::with_status(503));
    manner.upgrade = response.status == 101 && backend.is_some();
    manner.tunnel =
        space.request.method == Method::Connect && (200..300).contains(&response.status) && backend.is_some();
    if response.status < 200 && !manner.upgrade {
        // An interim answer that nothing follows would leave the client waiting.
        *response = Response::with_status(500);
        body = Body::Empty;
    }
    let framing = response::framing(response, &body, manner);
    if framing == Framing::UntilClose {
        manner.keep_alive = false;
    }
    let real_time = framing == Framing::Chunked && body.is_stream();
    let timeouts = local.timeouts();
    let mut pace = Pace::new(&timeouts, timeouts.send);
    let (mut sent, mut bytes) = response::send(stream, response, body, framing, manner, deadline, &mut pace).await;
    let broke_off = matches!(sent, Sent::Nothing { .. } | Sent::Cut);
    if let Sent::Nothing { status } = sent {
        *response = Response::with_status(status);
        let framing = response::framing(response, &Body::Empty, manner);
        (sent, bytes) = response::send(stream, response, Body::Empty, framing, manner, deadline, &mut pace).await;
    }
    if real_time {
        exchange.tags.note(|| "real time stream: true".to_owned());
    }
    if broke_off {
        exchange.tags.note(|| "backend broke off the body".to_owned());
    }
    match sent {
        Sent::Whole | Sent::Nothing { .. } | Sent::Cut => {}
        Sent::Stalled => {
            local.limit("response_stalled");
            exchange.tags.note(|| "client took no byte in time".to_owned());
        }
        Sent::Slow => {
            local.limit("response_rate");
            exchange.tags.note(|| "client took too few bytes".to_owned());
        }
        Sent::Gone => exchange.tags.note(|| "client left during the answer".to_owned()),
    }
    local.record(exchange, routed, request_bytes, bytes);
    match (sent, backend) {
        (Sent::Whole, Some(backend)) if manner.upgrade || manner.tunnel => Next::Tunnel(backend),
        (Sent::Whole, _) if manner.keep_alive => next,
        // Also where only the framing of the answer made it the last: the client may have asked on.
        (Sent::Whole, _) if matches!(next, Next::Linger | Next::Again) => Next::Linger,
        (Sent::Whole, _) => Next::Close,
        // The framing tells the client that something is missing; what it has got it may keep.
        (Sent::Cut, _) if framing != Framing::UntilClose => Next::Linger,
        _ => {
            stream.abort();
            Next::Close
        }
    }
}

/// Reads what is left of a body nobody wanted; false when it did not end well.
async fn drain(arrival: &Rc<RefCell<Arrival>>) -> bool {
    arrival.borrow_mut().discard();
    loop {
        match poll_fn(|cx| arrival.borrow_mut().poll_data(cx)).await {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Closes our side and reads on for a while: a reset would take the answer away from the client (RFC 9112 section 9.6).
async fn linger(stream: &Transport, deadline: &Deadline, most: Duration) {
    stream.shutdown_write();
    deadline.set(base_runtime::now() + most);
    let mut bytes_left = 16 * DRAIN_BYTES;
    while let Some(bytes) = receive(stream, deadline).await {
        bytes_left = bytes_left.saturating_sub(bytes.len() as u64);
        if bytes_left == 0 {
            break;
        }
    }
}

/// What DESIGN allows an idle connection is 600 bytes; these, with two counts, and the task's header are part of them.
const _: () = assert!(size_of::<Connection>() <= 80, "a connection has grown");
const _: () = assert!(size_of::<Visit>() <= 16, "the future of a connection's task has grown");
