//! Answering over HTTP/2: what a server asks of whatever machine keeps the connection.
//!
//! [`Engine`], [`Stream`] and [`Body`] are the seam: they speak of bytes, messages of [`proto_http`] and the time to come back. [`accept`]
//! gives our own machine.

use crate::data::Data;
use crate::frame::Code;
use crate::settings::ServerSettings;
use crate::streams::Lost;
use base_tls::Transport;
use bytes::Bytes;
use proto_http::h1::Fault;
use proto_http::multiplexed::MultiplexedHead;
use proto_http::{Headers, Limits, Request, Response};
use std::task::{Context, Poll};

pub use crate::connection::{Ended, Gone};
pub use crate::hpack::encoder::ResponseOptions;
pub use crate::machine::Machine;

/// One connection. Somebody polls it for as long as it lives; streams are served by whoever likes, and wake it.
pub trait Engine: 'static {
    type Stream: Stream;

    /// The next request; `None` when the connection has come to its end. Everything that is received and sent moves in here.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Self::Stream, Ended>>>;

    /// No more requests are taken; those under way, and those their client sent before it could know, end first. Called again once
    /// a client that says nothing has had its time to know.
    fn go_away(&mut self);

    /// So many bytes of all requests' bodies may have come and not be taken.
    fn set_window(&mut self, bytes: u32);

    /// Ends it once what was said is sent.
    fn end(&mut self, why: Reason);

    /// Asks the client to say that it is there (PING); whatever it says shows that it is.
    fn ask(&mut self);

    /// The machine reads as long as there is something to read, and frames are as small as nine bytes: so many bytes it may take until
    /// this is called again, then others have their turn.
    fn begin_turn(&mut self, bytes: usize);

    /// Bytes that came.
    fn bytes_in(&self) -> u64;

    /// Bytes that wait for the kernel to take them.
    fn waiting(&self) -> usize;

    /// Bytes of bodies that came, or were announced, and lie there until somebody reads them.
    fn unread(&self) -> u32;

    /// Bytes of memory beside that of bodies and of requests that were handed out: heads and trailers that nobody has read, and what has
    /// come of a head or a frame that is not whole.
    fn held(&self) -> usize;

    /// The head that has begun to come and is not whole, by its number.
    fn head_coming(&self) -> Option<u64>;
}

/// One exchange. Dropped before its answer has ended it is reset; dropped before its request has, the client is told to stop.
pub trait Stream: 'static {
    type Body: Body;

    /// Bytes of the head's names and values, and how many fields it has. What came as a number of a table counts as what it stands for.
    fn head_size(&self) -> (usize, usize);

    /// Reads the head of the request by the rules of [`proto_http::multiplexed`]. `into` is cleared and filled. It is read once.
    fn read_head(&mut self, limits: &Limits, into: &mut Request) -> Result<MultiplexedHead, Fault>;

    /// What comes after the head; `None` when nothing does, or it was taken.
    fn take_body(&mut self) -> Option<Self::Body>;

    fn send_interim(&mut self, response: &Response);

    /// `ends`: nothing follows.
    fn send_head(&mut self, response: &Response, options: &ResponseOptions<'_>, ends: bool) -> Result<(), Gone>;

    /// The machine keeps what windows do not allow yet, whatever its size.
    fn send_data(&mut self, data: Data, ends: bool) -> Result<(), Gone>;

    /// Ends the answer, with the trailers that may be sent.
    fn send_end(&mut self, trailers: Option<&Headers>) -> Result<(), Gone>;

    /// Ready once the client has given it up, or the connection has ended.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    fn reset(&mut self, why: Reason);

    /// The client takes datagrams of this exchange beside its stream at this moment (RFC 9297 section 2.1). HTTP/2 has none.
    fn takes_datagrams(&self) -> bool {
        false
    }

    /// The next one that came so.
    fn poll_datagram(&mut self, _: &mut Context<'_>) -> Poll<Bytes> {
        Poll::Pending
    }

    /// Sends one, or drops it and counts that.
    fn send_datagram(&mut self, _: &[u8]) {}

    /// So many were dropped before they came here.
    fn count_dropped(&mut self, _: u32) {}
}

/// The bytes of a request after its head. The client may send more of them as they are taken.
pub trait Body: 'static {
    /// The name to count bodies by that are not as long as was announced.
    const LENGTH: &'static str;

    /// The next bytes; `None` after the last.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyBroken>>;

    /// Trailer fields that are kept, and how many were left out because of `_`, by the rules of [`proto_http::multiplexed`]; once the end
    /// was seen.
    fn trailers(&mut self, limits: &Limits) -> Result<Option<(Headers, u32)>, Fault>;

    /// Nothing more will come.
    fn is_complete(&self) -> bool;
}

/// Why a stream or a connection is ended (RFC 9113 section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nothing is wrong.
    NoError,
    /// It cannot be brought to its end.
    Internal,
    /// It is not wanted any more.
    Cancel,
    /// Nothing was done with it: it may be sent again.
    Refused,
    /// The peer does too much of what leads nowhere.
    Calm,
    /// What it says has not the form it must have.
    Malformed,
}

impl From<Reason> for Code {
    fn from(reason: Reason) -> Code {
        match reason {
            Reason::NoError => Code::NO_ERROR,
            Reason::Internal => Code::INTERNAL,
            Reason::Cancel => Code::CANCEL,
            Reason::Refused => Code::REFUSED,
            Reason::Calm => Code::CALM,
            Reason::Malformed => Code::PROTOCOL,
        }
    }
}

/// The names of [`Ended::Fault`].
pub const FAULTS: [&str; 6] =
    ["h2_protocol", "h2_calm", "h2_flow_control", "h2_frame_size", "h2_compression", "grpc_pings"];

/// Why a body could not be had to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyBroken {
    /// It is longer or shorter than was announced.
    Length,
    /// The client gave it up, or the connection ended.
    Gone,
}

impl From<Lost> for BodyBroken {
    fn from(lost: Lost) -> BodyBroken {
        if lost == Lost::Fault(Code::PROTOCOL) { BodyBroken::Length } else { BodyBroken::Gone }
    }
}

/// Begins HTTP/2 on a connection whose client means to speak it: our settings are queued, its preface is awaited.
pub fn accept(transport: Transport, settings: &ServerSettings) -> Machine {
    Machine::new(transport, settings)
}
