//! The client's side of one exchange, whatever protocol carries it: a request that was read, and the way back for its answer.
//!
//! [`request`](crate::request) drives one from the routed request to the last byte of its answer and knows no protocol. HTTP/1 is
//! [`H1Stream`](crate::h1_stream::H1Stream); a stream of HTTP/2 or HTTP/3 is another. Generic code takes it by type, so that the one
//! protocol that serves a connection at a time costs no indirection.

use base_runtime::net::Pipe;
use base_tls::Session;
use edge_pipeline::{Body, BodyError, Piece};
use proto_http::Response;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

/// See the module doc. The calls come in this order: the body is taken once; interim answers are sent; then the head, pieces of the
/// body and its end, or a reset at any time instead.
pub trait ClientStream {
    fn peer(&self) -> SocketAddr;

    /// The address of ours that the client has come to, where that is known.
    fn local(&self) -> Option<SocketAddr> {
        None
    }

    /// What was agreed with the client; `None` where nothing is encrypted.
    fn session(&self) -> Option<Rc<Session>>;

    /// The request has come before its client has shown to be there: somebody else may send it once more (RFC 8470).
    fn is_early(&self) -> bool {
        false
    }

    /// Ready once that is over.
    fn poll_shaken(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// The client offers to go on in another protocol.
    fn offers_upgrade(&self) -> bool;

    /// The status that an answer with this one, which opens no tunnel, has to have for this client.
    fn sayable(&self, status: u16) -> u16 {
        status
    }

    /// The request's body, which fails once it is longer than `limit`.
    fn take_body(&mut self, limit: Option<u64>) -> Body;

    /// Why the request's body could not be read to its end, when it could not.
    fn body_failure(&self) -> Option<BodyFailure>;

    /// Bytes of the request as it came: its head, and what was read of its body.
    fn request_bytes(&self) -> u64;

    /// Ready once the client is known to have gone. Whoever reads the request's body sees that for himself: meanwhile it is not.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Sends an answer that precedes the answer (RFC 9110 section 15.2), when the client knows such, and takes what it is sent.
    fn send_interim(&mut self, response: &Response);

    /// Bytes of a body may be sent without being seen, by [`ClientStream::poll_send_pipe`].
    fn takes_pipes(&self) -> bool;

    /// Sends the answer's head, with the first piece of its body where that is there already.
    fn send_head(&mut self, head: &AnswerHead<'_>, first: Option<Piece>);

    /// Ready when there is room for another piece, or the client can take no more.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Queues a piece of the body that is in memory.
    fn send_data(&mut self, piece: Piece);

    /// Sends what is in the pipe. Ready when it is all sent; nothing else is sent before.
    fn poll_send_pipe(&mut self, pipe: &mut Pipe, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ends an answer that has a body, with its trailer fields.
    fn send_end(&mut self, trailers: Option<&proto_http::Headers>);

    /// Ready when so much of the answer has gone out that the stream may be left to itself.
    fn poll_settled(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Bytes handed over for sending so far, framing included.
    fn bytes_said(&self) -> u64;

    /// Bytes the client is known to have taken so far.
    fn bytes_taken(&self) -> u64;

    /// What the connection has sent in all, and whose turn it is; of no interest where it has one answer at a time.
    fn turn(&self) -> Turn {
        Turn::default()
    }

    /// Ends the exchange before its end, so that the client sees it.
    fn reset(&mut self, why: Reset);
}

/// A connection that carries many streams, whatever protocol it speaks.
pub trait Carrier {
    fn peer(&self) -> SocketAddr;

    /// As [`ClientStream::local`].
    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// What was agreed with the client; `None` where nothing is encrypted.
    fn session(&self) -> Option<Rc<Session>>;

    /// As [`ClientStream::is_early`], of all that come now.
    fn is_early(&self) -> bool {
        false
    }

    /// Ready once that is over.
    fn poll_shaken(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Bytes the client is known to have taken, or the network on its behalf, of all streams.
    fn bytes_sent(&self) -> u64;
}

/// The head of an answer, and what comes behind it.
#[derive(Debug, Clone, Copy)]
pub struct AnswerHead<'a> {
    pub response: &'a Response,
    /// Bytes of the body, or of the body that the answer would have had to another method; `None` when only its end will tell.
    pub length: Option<u64>,
    /// Trailer fields may come after the body.
    pub trailers: bool,
    pub follows: Follows,
    /// The connection ends with it, where it is this answer's alone.
    pub leaves: bool,
}

/// What comes behind the head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follows {
    /// No body, because of the status or the request's method.
    Nothing,
    /// A body. An end is sent after it unless its length is known to be 0.
    Body,
    /// Bytes both ways: after 101, or after a CONNECT that was let through.
    Duplex,
}

/// How an answer shares its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Turn {
    /// Bytes the client is known to have taken of all answers.
    pub sent: u64,
    /// Answers that share the connection.
    pub answers: u64,
    /// Bytes each of them sends at most before the others have their turn.
    pub share: u64,
}

/// Why an exchange is broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// Its answer cannot be had to the end.
    AnswerBroken,
    /// The client takes nothing, or too little of it.
    ClientSlow,
    /// The client went away.
    ClientGone,
}

/// What went wrong with a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyFailure {
    pub error: BodyError,
    /// The bound that was reached, for the figures.
    pub limit: Option<&'static str>,
}
