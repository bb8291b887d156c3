//! One exchange over a stream, of HTTP/2 or of whatever machine has the same seam.
//!
//! Pieces of the answer are handed to the machine as they come, a bounded number of bytes ahead of what windows have let through;
//! how far they got decides whether there is room for more, and whether the client is slow.

use crate::client_stream::{AnswerHead, BodyFailure, Carrier, ClientStream, Follows, Reset, Turn};
use crate::clock;
use crate::h1_connection::DRAIN_BYTES;
use crate::h1_stream::UNDERSCORES_DROPPED;
use crate::h2_body::StreamBody;
use crate::h2_connection::{STREAM_HIGH_WATER, Streams};
use crate::http_server::Local;
use crate::pace::Pace;
use crate::request_body::{Arrival, RequestBody, Rest, Settled, Terms};
use base_runtime::Buf;
use base_runtime::net::Pipe;
use base_tls::Session;
use bytes::Bytes;
use edge_pipeline::body::booked;
use edge_pipeline::{Body, Capsules, Datagrams, Duplex, Piece};
use proto_h2::server::{self, Body as _, Reason, ResponseOptions};
use proto_h2::{Data, Progress};
use proto_http::date::ImfDate;
use proto_http::h1::Fault;
use proto_http::multiplexed::MultiplexedHead;
use proto_http::{Headers, Known, Method, Protocol, Request, Response};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

/// A piece of this size, in bytes, is copied rather than kept in a buffer of its own while others wait before it.
const SMALL: usize = 4 * 1024;

/// A tunnel is as urgent as anything.
const TUNNEL_URGENCY: u8 = 3;

/// See the module doc.
pub struct H2Stream<'a, S: server::Stream> {
    local: &'a Rc<Local>,
    connection: &'a dyn Carrier,
    streams: &'a Rc<Streams>,
    stream: Rc<RefCell<S>>,
    head: MultiplexedHead,
    asked: Asked,
    arrival: Option<Rc<RefCell<Arrival<StreamBody<S>>>>>,
    progress: Rc<Progress>,
    /// Bytes of the heads sent.
    heads: u64,
    /// The last piece of an answer whose length was announced: it ends the stream, or trailers do.
    held: Option<Piece>,
    /// Bytes of the answer still to come, when they were announced.
    left: Option<u64>,
    /// The answer's end was sent.
    ended: bool,
    /// Sending has failed.
    gone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Head,
    Connect,
    /// An extended CONNECT, which filters see as the GET of HTTP/1.
    Extended(Protocol),
    Other,
}

impl<'a, S: server::Stream> H2Stream<'a, S> {
    /// An exchange whose request has not been looked at, and may never be.
    pub fn new(
        local: &'a Rc<Local>,
        connection: &'a dyn Carrier,
        streams: &'a Rc<Streams>,
        stream: S,
    ) -> H2Stream<'a, S> {
        H2Stream {
            local,
            connection,
            streams,
            stream: Rc::new(RefCell::new(stream)),
            head: MultiplexedHead::default(),
            asked: Asked::Other,
            arrival: None,
            progress: Rc::default(),
            heads: 0,
            held: None,
            left: None,
            ended: false,
            gone: false,
        }
    }

    /// Reads the head of the request. An error is to be counted and answered.
    pub fn read_head(&mut self, into: &mut Request) -> Result<(), Fault> {
        let limits = &self.local.live().limits;
        self.head = self.stream.borrow_mut().read_head(limits, into)?;
        self.progress = Rc::new(Progress::new(self.streams.waiting(self.urgency())));
        if self.head.dropped > 0 {
            self.local.limit(UNDERSCORES_DROPPED);
        }
        self.asked = match (self.head.protocol, &into.method) {
            (Some(protocol), _) => Asked::Extended(protocol),
            (None, Method::Head) => Asked::Head,
            (None, Method::Connect) => Asked::Connect,
            (None, _) => Asked::Other,
        };
        if self.head.protocol == Some(Protocol::WebSocket) {
            into.headers.set("Sec-WebSocket-Key", websocket_key());
        }
        Ok(())
    }

    /// Sees the request's body to its end after the answer's: a backend may read on, and of what nobody wanted a little is read, too,
    /// so that a client that has nearly sent it all ends well, and one whose body is not what it announced is told so (RFC 9113
    /// section 8.1.1). Whoever has more to send is told to stop when the stream is dropped (section 8.1).
    pub async fn settle_body(&mut self) {
        let Some(arrival) = self.arrival.take() else { return };
        let timeouts = self.local.timeouts();
        let rest = Rest { bytes: DRAIN_BYTES, within: Some(timeouts.linger) };
        let settled = Arrival::settle(&arrival, &timeouts, rest).await;
        match settled {
            Settled::Stalled => {
                self.local.limit("upload_stalled");
                self.stream.borrow_mut().reset(Reason::Cancel);
            }
            Settled::Broken => {
                if let Some(limit) = arrival.borrow().failure().and_then(|failure| failure.limit) {
                    self.local.limit(limit);
                }
            }
            Settled::Complete | Settled::Failed | Settled::TooMuch => {}
        }
    }

    /// What the stream became once both sides have left HTTP.
    pub fn into_duplex(self) -> Box<dyn Duplex> {
        // Neither side of a tunnel announces what it has to say.
        let body = self.stream.borrow_mut().take_body();
        let duplex = H2Duplex {
            body: RefCell::new(body),
            stream: self.stream,
            streams: self.streams.clone(),
            progress: self.progress,
            gone: Cell::new(self.gone),
        };
        match self.asked {
            Asked::Extended(protocol) if protocol.has_capsules() => Box::new(Capsules::new(duplex)),
            _ => Box::new(duplex),
        }
    }

    fn urgency(&self) -> u8 {
        self.head.urgency.unwrap_or(3)
    }

    fn hand_over(&mut self, piece: Piece, ends: bool) {
        let data = match piece {
            Piece::Buf(buffer) if is_behind(&self.progress, self.streams) && buffer.len() <= SMALL => {
                Data::from(booked(buffer.to_vec()))
            }
            Piece::Buf(buffer) => Data::from(buffer),
            Piece::Bytes(bytes) => Data::from(bytes),
            Piece::Pipe(_) => unreachable!("pipes are not asked for"),
        };
        let data = data.counted(&self.progress);
        self.gone |= self.stream.borrow_mut().send_data(data, ends).is_err();
        self.ended |= ends;
    }

    /// Sends what was held back: more than its length was announced.
    fn let_go(&mut self) {
        if let Some(piece) = self.held.take() {
            self.hand_over(piece, false);
        }
    }

    /// The stream was reset, or its connection ended: reads no more of a body that would be lost.
    fn check_gone(&mut self, cx: &mut Context<'_>) -> bool {
        self.gone |= !self.ended && self.stream.borrow_mut().poll_gone(cx).is_ready();
        self.gone
    }
}

impl<S: server::Stream> ClientStream for H2Stream<'_, S> {
    fn peer(&self) -> SocketAddr {
        self.connection.peer()
    }

    fn local(&self) -> Option<SocketAddr> {
        self.connection.local_addr()
    }

    fn session(&self) -> Option<Rc<Session>> {
        self.connection.session()
    }

    fn is_early(&self) -> bool {
        self.connection.is_early()
    }

    fn poll_shaken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.connection.poll_shaken(cx)
    }

    fn offers_upgrade(&self) -> bool {
        matches!(self.asked, Asked::Extended(_))
    }

    fn sayable(&self, status: u16) -> u16 {
        match status {
            // Any 2xx would tell the client that its tunnel is open (RFC 8441 section 5).
            200..300 if matches!(self.asked, Asked::Extended(_)) => 502,
            status => status,
        }
    }

    fn take_body(&mut self, limit: Option<u64>) -> Body {
        // What follows a CONNECT belongs to the tunnel.
        if matches!(self.asked, Asked::Connect | Asked::Extended(_)) {
            return Body::Empty;
        }
        let Some(body) = self.stream.borrow_mut().take_body() else { return Body::Empty };
        let timeouts = self.local.timeouts();
        let terms =
            Terms { expects_continue: self.head.expect_continue, limit, pace: Pace::new(&timeouts, timeouts.body) };
        let (stream, streams, local) = (self.stream.clone(), self.streams.clone(), self.local.clone());
        let arrival = Arrival::new(StreamBody::new(body, self.head.length, stream, streams, local), terms);
        self.arrival = Some(arrival.clone());
        Body::Stream(Box::new(RequestBody(arrival)))
    }

    fn body_failure(&self) -> Option<BodyFailure> {
        self.arrival.as_ref()?.borrow().failure()
    }

    fn request_bytes(&self) -> u64 {
        self.head.bytes + self.arrival.as_ref().map_or(0, |arrival| arrival.borrow().bytes())
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Nothing more comes at the moment, although the body's end is due.
        self.let_go();
        if self.check_gone(cx) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn send_interim(&mut self, response: &Response) {
        let wanted = match response.status {
            // The client's own expectation is answered when its body is first asked for, by whoever comes first.
            100 => self.arrival.as_ref().is_some_and(|arrival| arrival.borrow_mut().take_continue()),
            status => (102..200).contains(&status),
        };
        if wanted {
            self.stream.borrow_mut().send_interim(response);
        }
    }

    fn takes_pipes(&self) -> bool {
        false
    }

    fn send_head(&mut self, head: &AnswerHead<'_>, first: Option<Piece>) {
        if let Some(arrival) = &self.arrival {
            Arrival::answer_begins(arrival, &self.local.timeouts());
        }
        let duplex = head.follows == Follows::Duplex;
        let switched;
        let response = match head.response.status {
            101 if duplex => {
                switched = opened(head.response);
                &switched
            }
            _ => head.response,
        };
        let length = match head.length {
            _ if duplex => None,
            // The answer to HEAD announces what the backend announced, although no body follows.
            Some(0) if self.asked == Asked::Head => announced(response),
            length => length.filter(|_| response.status != 304),
        };
        let empty = head.follows == Follows::Body && head.length == Some(0) && !head.trailers && first.is_none();
        let ends = head.follows == Follows::Nothing || empty;
        self.heads += weight(response);
        let sent =
            with_date(|date| self.stream.borrow_mut().send_head(response, &ResponseOptions { length, date }, ends));
        self.gone |= sent.is_err();
        self.ended |= ends;
        self.left = head.length.filter(|_| head.follows == Follows::Body);
        if let Some(piece) = first {
            self.send_data(piece);
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gone {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        match self.progress.poll_waiting(self.streams.room(self.urgency()), cx) {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending if self.check_gone(cx) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn send_data(&mut self, piece: Piece) {
        self.let_go();
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(piece.len() as u64);
            if *left == 0 {
                self.held = Some(piece);
                return;
            }
        }
        self.hand_over(piece, false);
    }

    fn poll_send_pipe(&mut self, _: &mut Pipe, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        unreachable!("pipes are not asked for")
    }

    fn send_end(&mut self, trailers: Option<&Headers>) {
        if self.ended {
            return;
        }
        let trailers = trailers.filter(|trailers| !trailers.is_empty());
        match (self.held.take(), trailers) {
            (Some(piece), None) => return self.hand_over(piece, true),
            (Some(piece), Some(_)) => self.hand_over(piece, false),
            (None, _) => {}
        }
        self.gone |= self.stream.borrow_mut().send_end(trailers).is_err();
        self.ended = true;
    }

    /// All of it has gone to the connection, whose driver sees that the client takes it.
    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.gone {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.progress.poll_waiting(0, cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        // The end was said already, but a reset takes what waits before it.
        match self.stream.borrow_mut().poll_gone(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn bytes_said(&self) -> u64 {
        self.heads + self.progress.handed() + self.held.as_ref().map_or(0, |piece| piece.len() as u64)
    }

    fn bytes_taken(&self) -> u64 {
        self.heads + self.progress.written()
    }

    fn turn(&self) -> Turn {
        let sent = self.connection.bytes_sent();
        Turn { sent, answers: u64::from(self.streams.open()), share: STREAM_HIGH_WATER }
    }

    fn reset(&mut self, why: Reset) {
        self.stream.borrow_mut().reset(match why {
            Reset::AnswerBroken => Reason::Internal,
            Reset::ClientSlow | Reset::ClientGone => Reason::Cancel,
        });
    }
}

/// Both directions of a stream after CONNECT.
pub struct H2Duplex<S: server::Stream> {
    body: RefCell<Option<S::Body>>,
    stream: Rc<RefCell<S>>,
    streams: Rc<Streams>,
    progress: Rc<Progress>,
    gone: Cell<bool>,
}

impl<S: server::Stream> fmt::Debug for H2Duplex<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "H2Duplex({} bytes sent)", self.progress.written())
    }
}

impl<S: server::Stream> Duplex for H2Duplex<S> {
    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Buf>>> {
        let mut body = self.body.borrow_mut();
        let Some(body) = &mut *body else { return Poll::Ready(Ok(None)) };
        body.poll_data(cx)
            .map_ok(|bytes| bytes.map(|bytes| Buf::copy_from(&bytes)))
            .map_err(|_| io::ErrorKind::ConnectionReset.into())
    }

    fn poll_send_ready(&self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<()>> {
        // Waited for even when there is room: a client that has said all it had to say is read no more, and one that gives the tunnel up
        // after that shows here alone.
        if self.gone.get() || self.stream.borrow_mut().poll_gone(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        self.progress.poll_waiting((most as u64).min(self.streams.room(TUNNEL_URGENCY)), cx).map(Ok)
    }

    fn send(&self, bytes: Buf) {
        let data = match is_behind(&self.progress, &self.streams) && bytes.len() <= SMALL {
            true => Data::from(booked(bytes.to_vec())),
            false => Data::from(bytes),
        };
        if self.stream.borrow_mut().send_data(data.counted(&self.progress), false).is_err() {
            self.gone.set(true);
        }
    }

    fn shutdown(&self) {
        if self.stream.borrow_mut().send_end(None).is_err() {
            self.gone.set(true);
        }
    }

    fn abort(&self) {
        self.stream.borrow_mut().reset(Reason::Cancel);
    }
}

impl<S: server::Stream> Datagrams for H2Duplex<S> {
    fn poll_datagram(&self, cx: &mut Context<'_>) -> Poll<Bytes> {
        self.stream.borrow_mut().poll_datagram(cx)
    }

    fn takes_datagrams(&self) -> bool {
        self.stream.borrow().takes_datagrams()
    }

    fn send_datagram(&self, content: &[u8]) {
        self.stream.borrow_mut().send_datagram(content);
    }

    fn count_dropped(&self, datagrams: u32) {
        self.stream.borrow_mut().count_dropped(datagrams);
    }

    fn break_off(&self) {
        self.stream.borrow_mut().reset(Reason::Malformed);
        self.gone.set(true);
    }
}

/// Bytes of this stream, or many of its connection, wait.
fn is_behind(progress: &Progress, streams: &Streams) -> bool {
    progress.handed() > progress.written() || streams.is_crowded()
}

/// What a backend's 101 is to the client: its tunnel is open (RFC 8441 section 5.1), and nothing of how HTTP/1 says so.
fn opened(response: &Response) -> Response {
    let mut opened = response.clone();
    opened.status = 200;
    opened.headers.remove("Sec-WebSocket-Accept");
    opened
}

/// What HTTP/1 asks of whoever opens a WebSocket, and HTTP/2 does not. It proves nothing here: the backend's answer to it is its own.
fn websocket_key() -> String {
    use base64::Engine as _;
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new();
    let bytes: Vec<u8> = (0..2u8).flat_map(|part| random.hash_one(part).to_be_bytes()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn announced(response: &Response) -> Option<u64> {
    response.headers.known(Known::ContentLength).and_then(|v| std::str::from_utf8(v).ok()?.parse().ok())
}

/// Bytes of a head as HTTP/1 would write it.
fn weight(response: &Response) -> u64 {
    response.headers.iter().map(|(name, value, _)| (name.len() + value.len() + 4) as u64).sum::<u64>() + 17
}

fn with_date<T>(use_it: impl FnOnce(&str) -> T) -> T {
    thread_local! {
        static DATE: RefCell<ImfDate> = RefCell::new(ImfDate::new(0));
    }
    DATE.with_borrow_mut(|date| use_it(date.refresh(clock::seconds())))
}
