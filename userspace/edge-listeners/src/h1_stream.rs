//! One exchange over HTTP/1.1: how its body is framed and its answer written, and what may come after it.

use crate::client_stream::{AnswerHead, BodyFailure, ClientStream, Follows, Reset};
use crate::clock;
use crate::h1_body::H1Body;
use crate::h1_connection::{ClientConnection, DRAIN_BYTES, PROMISED_DRAIN_BYTES};
use crate::http_server::Local;
use crate::pace::Pace;
use crate::request_body::{Arrival, RequestBody, Rest, Settled, Terms};
use base_runtime::Buf;
use base_runtime::net::{Pipe, StreamState};
use base_runtime::time::Deadline;
use base_tls::{Session, Transport};
use edge_pipeline::wire::{send_bytes, send_head, send_last_chunk, send_piece};
use edge_pipeline::{Body, Piece};
use proto_http::date::ImfDate;
use proto_http::h1::{self, BodyDecoder, Framing, RequestHead, ResponseOptions};
use proto_http::{Headers, Known, Method, Protocol, Request, Response, Version};
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// An answer of this size finds room in the kernel: nobody waits for it before the connection is closed.
const SMALL: usize = 32 * 1024;

/// Bytes of an answer that may wait for a client that reads slowly.
const SEND_HIGH_WATER: usize = 128 * 1024;

/// How long a client may be gone unnoticed while its body waits for a backend. Asking costs a system call.
const HANG_UP_INTERVAL: Duration = Duration::from_secs(1);

/// Name of the count of requests that lost fields, or trailers, because of `_` in their names.
pub const UNDERSCORES_DROPPED: &str = "underscores_dropped";

/// What follows an exchange on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Again,
    Close,
    /// The client may not have seen the answer yet, and be sending: close so that it still does.
    Linger,
}

/// See the module doc.
pub struct H1Stream<'a> {
    local: &'a Rc<Local>,
    connection: &'a ClientConnection,
    /// `None` until a head was read: then nothing can follow the answer.
    head: Option<RequestHead>,
    /// What came with the head.
    rest: Option<Buf>,
    method: Asked,
    version: Version,
    /// The body, when it was not all there with its head.
    arrival: Option<Rc<RefCell<Arrival<H1Body>>>>,
    /// Bytes of the body, when it was.
    body_bytes: u64,
    answer: Framing,
    keep_alive: bool,
    /// Bytes of the answer that may still wait when the connection goes on.
    leave: Option<usize>,
    next: Next,
    /// When to ask again whether the client is still there, and whether that is set.
    watch: Deadline,
    watches: bool,
}

/// The methods that matter to framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Head,
    Connect,
    Other,
}

impl<'a> H1Stream<'a> {
    /// An exchange whose request has not been read, and may never be.
    pub fn new(local: &'a Rc<Local>, connection: &'a ClientConnection) -> H1Stream<'a> {
        H1Stream {
            local,
            connection,
            head: None,
            rest: None,
            method: Asked::Other,
            version: Version::Http11,
            arrival: None,
            body_bytes: 0,
            answer: Framing::Empty,
            keep_alive: false,
            leave: None,
            next: Next::Linger,
            watch: Deadline::new(),
            watches: false,
        }
    }

    /// The head was read. `rest` came with it.
    pub fn begin(&mut self, head: RequestHead, rest: Buf, request: &Request) {
        self.head = Some(head);
        self.rest = Some(rest);
        self.version = request.version;
        self.method = match request.method {
            Method::Head => Asked::Head,
            Method::Connect => Asked::Connect,
            _ => Asked::Other,
        };
    }

    /// A CONNECT has no content: whoever sends some means the bytes for somebody else.
    pub fn is_connect_with_content(&self) -> bool {
        self.method == Asked::Connect && self.head.as_ref().is_some_and(|head| !head.framing.is_empty())
    }

    /// Sees the request's body to its end after the answer's: a backend may read on, and what nobody wanted is thrown away. The
    /// client was told that the connection stays, so only a rest that is longer than it could be known to be ends it. Says what
    /// follows then.
    pub async fn settle_body(&mut self) -> Next {
        let Some(arrival) = self.arrival.take() else { return self.next };
        if self.next != Next::Again {
            return self.next;
        }
        let rest = Rest { bytes: PROMISED_DRAIN_BYTES, within: None };
        let settled = Arrival::settle(&arrival, &self.local.timeouts(), rest).await;
        match settled {
            Settled::Complete => Next::Again,
            Settled::Failed => Next::Linger,
            Settled::Stalled => {
                self.local.limit("upload_stalled");
                self.transport().abort();
                Next::Close
            }
            Settled::TooMuch => {
                self.local.limit("drain_bytes");
                Next::Linger
            }
            Settled::Broken => {
                if let Some(limit) = arrival.borrow().failure().and_then(|failure| failure.limit) {
                    self.local.limit(limit);
                }
                Next::Close
            }
        }
    }

    /// Whoever reads the body sees its end, or the client's, once everything before it is read: never, while a backend takes none
    /// of it. So the kernel is asked from time to time.
    fn poll_hung_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if !std::mem::replace(&mut self.watches, true) {
                self.watch.set_after(HANG_UP_INTERVAL);
            }
            ready!(self.watch.poll_expired(cx));
            self.watches = false;
            if self.transport().socket().has_hung_up() {
                return Poll::Ready(());
            }
        }
    }

    fn transport(&self) -> &'a Transport {
        &self.connection.stream
    }

    /// What may follow the answer whose head is sent now.
    fn decide(&mut self, status: u16, leaves: bool) {
        let Some(head) = &self.head else { return };
        let drainable = self.arrival.as_ref().is_none_or(|arrival| {
            let read = Arrival::answer_begins(arrival, &self.local.timeouts());
            let arrival = arrival.borrow();
            // A backend that has accepted the body reads it to its end; one that refuses it need not.
            let accepted = read && (200..300).contains(&status);
            arrival.is_complete() || (!arrival.is_unsent() && (accepted || is_short(&arrival)))
        });
        // What follows a CONNECT belongs to the tunnel, and when there is none it is no request (RFC 9110 section 9.3.6).
        let connect = self.method == Asked::Connect;
        let encrypted = matches!(self.transport(), Transport::Tls(_));
        self.keep_alive = head.keep_alive
            && !connect
            && !leaves
            && drainable
            && !self.local.is_stopping()
            && self.local.keeps_alive(encrypted)
            && self.answer != Framing::UntilClose
            // On a connection that stays, clients take it for the end of an idle one and repeat what they sent, a POST too: it is
            // for the request alone where the connection ends with it (RFC 9110 section 15.5.9).
            && status != 408;
        self.next = match self.keep_alive {
            true => Next::Again,
            // The client may have sent its next request already; only one that announced to close has not.
            false if !drainable || head.keep_alive || connect => Next::Linger,
            false => Next::Close,
        };
    }

    fn framing(&self, head: &AnswerHead<'_>) -> Framing {
        let status = head.response.status;
        match head.length {
            _ if status < 200 || status == 204 || status == 304 || head.follows == Follows::Duplex => Framing::Empty,
            // The answer to HEAD announces what the backend announced, although no body follows.
            Some(0) if self.method == Asked::Head => announced(head.response),
            Some(_) if head.trailers && self.version != Version::Http10 => Framing::Chunked,
            Some(length) => Framing::Length(length),
            None if self.version == Version::Http10 => Framing::UntilClose,
            None => Framing::Chunked,
        }
    }

    /// What the client offers to go on in.
    fn offered(&self) -> Option<Protocol> {
        self.head.as_ref().and_then(|head| head.upgrade)
    }

    fn with_head(&self, response: &Response, framing: Framing, follows: Follows, use_it: impl FnOnce(&[u8])) {
        thread_local! {
            static HEAD: RefCell<(Vec<u8>, ImfDate)> = RefCell::new((Vec::new(), ImfDate::new(0)));
        }
        HEAD.with_borrow_mut(|(head, date)| {
            head.clear();
            let options = ResponseOptions {
                framing,
                keep_alive: self.keep_alive,
                client: self.version,
                date: date.refresh(clock::seconds()),
                upgrade: self.offered().filter(|_| follows == Follows::Duplex && response.status == 101),
                head_request: self.method == Asked::Head,
                tunnel: follows == Follows::Duplex && response.status != 101,
            };
            h1::write_response_head(head, response, &options);
            use_it(head);
        });
    }
}

impl ClientStream for H1Stream<'_> {
    fn peer(&self) -> SocketAddr {
        self.connection.peer()
    }

    fn local(&self) -> Option<SocketAddr> {
        self.transport().local_addr().ok()
    }

    fn session(&self) -> Option<Rc<Session>> {
        match self.transport() {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => Some(stream.shared_session()),
        }
    }

    fn offers_upgrade(&self) -> bool {
        self.offered().is_some()
    }

    fn take_body(&mut self, limit: Option<u64>) -> Body {
        let (Some(head), Some(mut rest)) = (&self.head, self.rest.take()) else { return Body::Empty };
        let whole = match head.framing {
            Framing::Empty => Some(0),
            Framing::Length(length) if length <= rest.len() as u64 => Some(length as usize),
            _ => None,
        };
        if let Some(length) = whole {
            self.body_bytes = length as u64;
            if rest.len() > length {
                let next =
                    if length == 0 { std::mem::replace(&mut rest, Buf::alloc()) } else { rest.split_off(length) };
                self.transport().unread(next);
            }
            return if length == 0 { Body::Empty } else { Body::Buffer(rest) };
        }
        let decoder = BodyDecoder::new(head.framing, &self.local.live().limits);
        let pending = (!rest.is_empty()).then_some(rest);
        let timeouts = self.local.timeouts();
        let terms = Terms {
            // Who has begun to send does not wait.
            expects_continue: head.expect_continue && pending.is_none(),
            limit,
            pace: Pace::new(&timeouts, timeouts.body),
        };
        let source = H1Body::new(self.transport().clone(), decoder, pending, self.local.clone());
        let arrival = Arrival::new(source, terms);
        self.arrival = Some(arrival.clone());
        Body::Stream(Box::new(RequestBody(arrival)))
    }

    fn body_failure(&self) -> Option<BodyFailure> {
        self.arrival.as_ref()?.borrow().failure()
    }

    fn request_bytes(&self) -> u64 {
        let body = self.arrival.as_ref().map_or(self.body_bytes, |arrival| arrival.borrow().bytes());
        self.head.as_ref().map_or(0, |head| head.consumed as u64) + body
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.arrival.as_ref().is_some_and(Arrival::is_read) {
            return self.poll_hung_up(cx);
        }
        // Where the next request is waiting already, there is nothing more to see until this one is answered.
        if self.transport().poll_readable(cx).is_ready() && is_closed(self.transport()) {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn send_interim(&mut self, response: &Response) {
        let wanted = self.version == Version::Http11
            && match response.status {
                // The client's own expectation is answered when its body is first asked for, by whoever comes first.
                100 => self.arrival.as_ref().is_some_and(|arrival| arrival.borrow_mut().take_continue()),
                status => (102..200).contains(&status),
            };
        if wanted && self.transport().send_queue_len() <= SEND_HIGH_WATER {
            let keep_alive = std::mem::replace(&mut self.keep_alive, true);
            let send = |head: &[u8]| send_bytes(self.transport(), &[head]);
            self.with_head(response, Framing::Empty, Follows::Nothing, send);
            self.keep_alive = keep_alive;
        }
    }

    fn takes_pipes(&self) -> bool {
        self.answer != Framing::Chunked && matches!(self.transport(), Transport::Plain(_))
    }

    fn send_head(&mut self, head: &AnswerHead<'_>, first: Option<Piece>) {
        self.answer = self.framing(head);
        self.decide(head.response.status, head.leaves);
        let chunked = self.answer == Framing::Chunked && head.follows == Follows::Body;
        let transport = self.transport();
        let send = |head: &[u8]| send_head(transport, head, first, chunked);
        self.with_head(head.response, self.answer, head.follows, send);
        if head.follows == Follows::Duplex {
            self.keep_alive = true;
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport().poll_send_ready(cx, SEND_HIGH_WATER)
    }

    fn send_data(&mut self, piece: Piece) {
        send_piece(self.transport(), piece, self.answer == Framing::Chunked);
    }

    fn poll_send_pipe(&mut self, pipe: &mut Pipe, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport().socket().poll_send_pipe(pipe, cx)
    }

    fn send_end(&mut self, trailers: Option<&Headers>) {
        if self.answer == Framing::Chunked {
            send_last_chunk(self.transport(), trailers);
        }
    }

    /// The next request may be read: a client that asks on without reading its answers must not fill our memory. Before the
    /// connection is closed everything must be with the kernel, which no longer waits for it afterwards.
    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let transport = self.transport();
        let keep = self.keep_alive || transport.send_queue_len() <= SMALL;
        let most = *self.leave.get_or_insert(if keep { SEND_HIGH_WATER } else { 0 });
        transport.poll_send_ready(cx, most)
    }

    fn bytes_said(&self) -> u64 {
        self.transport().bytes_said()
    }

    fn bytes_taken(&self) -> u64 {
        let transport = self.transport();
        transport.bytes_sent().saturating_sub(transport.socket().unacknowledged() as u64)
    }

    fn reset(&mut self, why: Reset) {
        // The framing tells the client that something is missing; what it has got it may keep.
        if why == Reset::AnswerBroken && self.answer != Framing::UntilClose {
            self.next = Next::Linger;
        } else {
            self.transport().abort();
            self.next = Next::Close;
        }
    }
}

/// So little is left of it that reading it costs less than another connection.
fn is_short(arrival: &Arrival<H1Body>) -> bool {
    arrival.failure().is_none() && arrival.remaining().is_some_and(|left| left <= DRAIN_BYTES)
}

/// The peer has gone: nothing it sent is left to read and nothing will come.
pub fn is_closed(stream: &Transport) -> bool {
    matches!(stream.peek_state(), StreamState::Eof | StreamState::Error(_))
}

fn announced(response: &Response) -> Framing {
    let length = response.headers.known(Known::ContentLength).and_then(|v| std::str::from_utf8(v).ok()?.parse().ok());
    length.map_or(Framing::Empty, Framing::Length)
}
