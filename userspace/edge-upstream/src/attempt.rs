//! One try at one server: send the request, read the head of the answer, hand the body on.

use crate::endpoint::Server;
use crate::pool;
use base_runtime::Buf;
use base_runtime::net::TcpStream;
use base_tls::Transport;
use edge_pipeline::body::unframe;
use edge_pipeline::{Body, BodyError, BodyStream};
use proto_http::h1::{self, BodyDecoder, Framing, RequestOptions};
use proto_http::{Headers, Limits, Method, Request, Response};
use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

/// Longest time a connect may take, as Easegress's dialer.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Request body bytes that may wait for a backend that reads slowly.
const SEND_HIGH_WATER: usize = 64 * 1024;

/// What an attempt needs to know.
pub struct Attempt<'a> {
    pub server: &'a Server,
    pub request: &'a Request,
    /// Authority for the Host field.
    pub host: &'a str,
    /// Relay an `Upgrade` the client asked for.
    pub upgrade: bool,
    /// Idle connections kept per worker and server.
    pub max_idle: usize,
    pub limits: &'a Limits,
}

/// What a backend answered. `body` holds the connection until it is read to its end, then gives it back to the pool.
#[derive(Debug)]
pub struct Answer {
    pub response: Response,
    pub body: Body,
    /// Status 101: the connection now speaks something else.
    pub upgraded: Option<Transport>,
    /// The request went over a connection that had served before.
    pub reused: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum AttemptError {
    /// The server's name has no address (yet).
    Unresolved,
    Connect(io::Error),
    /// The connection failed or ended. `before_answer`: not a byte of an answer had come.
    Broken {
        error: io::Error,
        reused: bool,
        before_answer: bool,
    },
    /// What came is not HTTP/1.1 as we accept it.
    Malformed(h1::ResponseError),
    /// The client's body could not be read to its end.
    RequestBody(BodyError),
}

impl fmt::Display for AttemptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttemptError::Unresolved => f.write_str("the server's name has no address"),
            AttemptError::Connect(error) => write!(f, "cannot connect: {error}"),
            AttemptError::Broken { error, .. } => write!(f, "connection broke: {error}"),
            AttemptError::Malformed(error) => write!(f, "malformed answer: {error}"),
            AttemptError::RequestBody(error) => write!(f, "request body: {error}"),
        }
    }
}

impl Attempt<'_> {
    /// Sends the request and reads the answer's head. A kept connection that turns out to be stale is replaced by a new
    /// one when repeating is safe: nothing of an answer came, the method is idempotent, and the body can be sent again.
    pub async fn run(&self, body: &mut Body) -> Result<Answer, AttemptError> {
        if let Some(stream) = pool::take(&self.server.endpoint) {
            let repeatable = self.request.method.is_idempotent() && !body.is_stream();
            match self.over(stream, true, body).await {
                Err(AttemptError::Broken { before_answer: true, .. }) if repeatable => {}
                done => return done,
            }
        }
        let address = self.server.endpoint.address().ok_or(AttemptError::Unresolved)?;
        let stream = match base_runtime::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(connected) => connected.map_err(AttemptError::Connect)?,
            Err(_) => return Err(AttemptError::Connect(io::ErrorKind::TimedOut.into())),
        };
        self.over(stream.into(), false, body).await
    }

    async fn over(&self, stream: Transport, reused: bool, body: &mut Body) -> Result<Answer, AttemptError> {
        let framing = match body.length() {
            Some(0) if matches!(body, Body::Stream(_)) => Framing::Length(0),
            // A method that usually carries a body says that it has none; others stay without framing.
            Some(0) if matches!(self.request.method, Method::Post | Method::Put | Method::Patch) => Framing::Length(0),
            Some(0) => Framing::Empty,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        self.send_head(&stream, framing, body.in_memory().unwrap_or_default());
        let broken = |error, before_answer| AttemptError::Broken { error, reused, before_answer };
        let mut sending = match body {
            Body::Stream(_) => match std::mem::take(body) {
                Body::Stream(source) => Some(Upload { source, chunked: framing == Framing::Chunked }),
                _ => None,
            },
            _ => None,
        };
        let mut interim = h1::Interim::default();
        let mut response = Response::default();
        let mut partial: Vec<u8> = Vec::new();
        let mut answered = false;
        loop {
            // The body goes out while the answer is waited for: a backend may answer before it has read everything.
            let received = poll_fn(|cx| {
                if let Some(upload) = &mut sending {
                    match upload.poll(&stream, cx) {
                        Poll::Ready(Ok(())) => sending = None,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => {}
                    }
                }
                stream.poll_recv(cx).map(|r| r.map_err(|error| broken(error, !answered)))
            })
            .await?;
            let Some(mut buffer) = received else {
                return Err(broken(io::ErrorKind::UnexpectedEof.into(), !answered));
            };
            answered = true;
            // Most heads arrive whole; one that does not is gathered in memory of its own size.
            let gathered;
            let bytes: &[u8] = if partial.is_empty() {
                &buffer
            } else {
                partial.extend_from_slice(&buffer);
                gathered = std::mem::take(&mut partial);
                &gathered
            };
            let mut parsed_to = 0;
            let head = loop {
                let found = h1::parse_response(&bytes[parsed_to..], self.limits, &self.request.method, &mut response)
                    .map_err(AttemptError::Malformed)?;
                match found {
                    Some(head) if head.interim => {
                        parsed_to += head.consumed;
                        interim.count(self.limits).map_err(AttemptError::Malformed)?;
                    }
                    Some(head) => break Some((head, parsed_to)),
                    None => break None,
                }
            };
            let Some((head, before)) = head else {
                partial = bytes[parsed_to..].to_vec();
                continue;
            };
            let rest = bytes.len() - before - head.consumed;
            if rest <= buffer.len() {
                buffer.advance(buffer.len() - rest);
            } else {
                // Unreachable in practice: the head was incomplete before this buffer, so its end lies in it.
                return Err(broken(io::ErrorKind::InvalidData.into(), false));
            }
            // Only a client that offered it, and has said all it had to say in HTTP, goes on in another protocol.
            if head.switching && !(self.upgrade && response.status == 101 && sending.is_none()) {
                let text = "it switched protocols unasked";
                return Err(broken(io::Error::new(io::ErrorKind::InvalidData, text), false));
            }
            let upgraded = head.switching.then(|| {
                if !buffer.is_empty() {
                    stream.unread(std::mem::replace(&mut buffer, Buf::alloc()));
                }
                stream.clone()
            });
            if upgraded.is_some() {
                return Ok(Answer { response, body: Body::Empty, upgraded, reused });
            }
            let keep = head.keep_alive.then_some(self.max_idle);
            let connection = Connection { stream, endpoint: self.server.endpoint.id, keep, upload: sending };
            let body = match head.framing {
                Framing::Empty | Framing::Length(0) => {
                    connection.release(buffer.is_empty());
                    Body::Empty
                }
                Framing::Length(length) if length == buffer.len() as u64 => {
                    connection.release(true);
                    Body::Buffer(buffer)
                }
                framing => Body::Stream(Box::new(Download {
                    connection: Some(connection),
                    decoder: BodyDecoder::new(framing, self.limits),
                    pending: (!buffer.is_empty()).then_some(buffer),
                })),
            };
            return Ok(Answer { response, body, upgraded: None, reused });
        }
    }

    /// Puts the head, and as much of a body in memory as fits, into one buffer.
    fn send_head(&self, stream: &Transport, framing: Framing, body: &[u8]) {
        thread_local! {
            static HEAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        HEAD.with_borrow_mut(|head| {
            head.clear();
            let options = RequestOptions { framing, host: self.host, upgrade: self.upgrade, expect_continue: false };
            h1::write_request_head(head, self.request, &options);
            send_bytes(stream, &[head, body]);
        });
    }
}

/// Copies pieces into buffers and sends them.
pub fn send_bytes(stream: &Transport, pieces: &[&[u8]]) {
    let mut buffer = Buf::alloc();
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let taken = buffer.append(rest);
            rest = &rest[taken..];
            if rest.is_empty() {
                break;
            }
            stream.send(std::mem::replace(&mut buffer, Buf::alloc()));
        }
    }
    if !buffer.is_empty() {
        stream.send(buffer);
    }
}

/// Frames a piece of a chunked body and sends it; the frame goes into the buffer's own room when it has any.
pub fn send_chunk(stream: &Transport, mut piece: Buf) {
    let prefix = h1::chunk_prefix(piece.len());
    if !piece.prepend(prefix.as_ref()) {
        send_bytes(stream, &[prefix.as_ref()]);
    }
    let whole = piece.tailroom() >= h1::CHUNK_END.len();
    if whole {
        piece.append(h1::CHUNK_END);
    }
    stream.send(piece);
    if !whole {
        send_bytes(stream, &[h1::CHUNK_END]);
    }
}

/// The end of a chunked body, with its trailers.
pub fn send_last_chunk(stream: &Transport, trailers: Option<&Headers>) {
    match trailers.filter(|t| !t.is_empty()) {
        None => send_bytes(stream, &[h1::LAST_CHUNK]),
        Some(trailers) => {
            let mut end = Vec::new();
            h1::write_trailers(&mut end, trailers);
            send_bytes(stream, &[&end]);
        }
    }
}

/// A request body on its way to the backend.
struct Upload {
    source: Box<dyn BodyStream>,
    chunked: bool,
}

impl Upload {
    /// Ready when the body is sent to its end.
    fn poll(&mut self, stream: &Transport, cx: &mut Context<'_>) -> Poll<Result<(), AttemptError>> {
        loop {
            // A backend that closed its reading side may still answer; what it has to say comes from the read.
            match stream.poll_send_ready(cx, SEND_HIGH_WATER) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) | Poll::Pending => return Poll::Pending,
            }
            match self.source.poll_data(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(AttemptError::RequestBody(error))),
                Poll::Ready(Ok(Some(piece))) if self.chunked => send_chunk(stream, piece),
                Poll::Ready(Ok(Some(piece))) => stream.send(piece),
                Poll::Ready(Ok(None)) => {
                    if self.chunked {
                        send_last_chunk(stream, self.source.trailers().as_ref());
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

/// A connection that is busy with an answer. Dropped before the end, it is closed.
struct Connection {
    stream: Transport,
    endpoint: u32,
    /// `Some(most idle)` when it may serve again.
    keep: Option<usize>,
    /// The rest of the request's body: a backend may answer before it has read everything, and read on.
    upload: Option<Upload>,
}

impl Connection {
    /// The answer is complete. A backend that sent more than it (not `clean`), or has not had the whole request, is not
    /// used again.
    fn release(self, clean: bool) {
        // A body in memory may still be on its way, to a backend that answered without reading it.
        let taken = self.upload.is_none() && self.stream.send_queue_len() <= SEND_HIGH_WATER;
        if let Some(most) = self.keep.filter(|_| clean && taken) {
            pool::put(self.endpoint, self.stream, most);
        }
    }
}

/// An answer's body as it arrives.
struct Download {
    connection: Option<Connection>,
    decoder: BodyDecoder,
    pending: Option<Buf>,
}

impl BodyStream for Download {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Buf>, BodyError>> {
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(Ok(None)) };
            if let Some(upload) = &mut connection.upload {
                match upload.poll(&connection.stream, cx) {
                    Poll::Ready(Ok(())) => connection.upload = None,
                    Poll::Ready(Err(_)) => {
                        self.connection = None;
                        return Poll::Ready(Err(BodyError::Incomplete));
                    }
                    Poll::Pending => {}
                }
            }
            let mut buffer = match self.pending.take() {
                Some(buffer) => buffer,
                None => match connection.stream.poll_recv(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(Some(buffer))) => buffer,
                    Poll::Ready(ended) => {
                        let complete = ended.is_ok() && self.decoder.finish_at_eof().is_ok();
                        self.connection = None;
                        return Poll::Ready(if complete { Ok(None) } else { Err(BodyError::Incomplete) });
                    }
                },
            };
            let Ok(rest) = unframe(&mut self.decoder, &mut buffer) else {
                self.connection = None;
                return Poll::Ready(Err(BodyError::Malformed));
            };
            if self.decoder.is_done()
                && let Some(connection) = self.connection.take()
            {
                connection.release(rest.is_none());
            }
            if !buffer.is_empty() {
                return Poll::Ready(Ok(Some(buffer)));
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        self.decoder.remaining()
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.decoder.trailers()
    }
}
