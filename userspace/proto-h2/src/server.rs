//! Answering over HTTP/2: what a server asks of whatever machine keeps the connection.
//!
//! [`Engine`], [`Stream`] and [`Body`] are the seam: they speak of bytes, messages of [`proto_http`] and the time to come back, and of
//! nothing of the `h2` crate. [`accept`] gives the machine made of it.

use crate::data::Data;
use crate::fields::{self, ResponseOptions};
use crate::settings::ServerSettings;
use crate::transport::{H2Link, Io};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use proto_http::h1::Fault;
use proto_http::multiplexed::{self, MultiplexedHead, Pseudo};
use proto_http::{Headers, Limits, Request, Response, Version};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// One connection. Somebody polls it for as long as it lives; streams are served by whoever likes, and wake it.
pub trait Engine: 'static {
    type Stream: Stream;

    /// The next request; `None` when the connection has come to its end. Everything that is received and sent moves in here.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Self::Stream, Ended>>>;

    /// No more requests are taken; those under way, and those their client sent before it could know, end first.
    fn go_away(&mut self);

    /// So many bytes of all requests' bodies may have come and not be taken.
    fn set_window(&mut self, bytes: u32);

    /// Ends it once what was said is sent.
    fn end(&mut self, why: Reason);

    /// Asks the client to say that it is there (PING); whatever it says shows that it is.
    fn ask(&mut self);
}

/// One exchange. Dropped before its answer has ended it is reset; dropped before its request has, the client is told to stop.
pub trait Stream: 'static {
    type Body: Body;

    /// Bytes of the head's names and values, and how many fields it has. What came as a number of a table counts as what it stands for.
    fn head_size(&self) -> (usize, usize);

    /// Reads the head of the request by the rules of [`multiplexed`]. `into` is cleared and filled.
    ///
    /// One thing cannot be seen here: `#` and what follows it in `:path`, which HTTP/1 answers with 400. The crate cuts it off when it
    /// reads the pseudo-field, so the request is for what stood before it, for us and for the backend alike.
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
}

/// The bytes of a request after its head. The client may send more of them as they are taken.
pub trait Body: 'static {
    /// The name to count bodies by that are not as long as was announced.
    const LENGTH: &'static str;

    /// The next bytes; `None` after the last.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyBroken>>;

    /// Trailer fields that are kept, and how many were left out because of `_`, by the rules of [`multiplexed`]; once the end was seen.
    fn trailers(&mut self, limits: &Limits) -> Result<Option<(Headers, u32)>, Fault>;

    /// Nothing more will come.
    fn is_complete(&self) -> bool;

    /// Bytes that have come and were not taken.
    fn unread(&mut self) -> usize;
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
}

impl From<Reason> for h2::Reason {
    fn from(reason: Reason) -> h2::Reason {
        match reason {
            Reason::NoError => h2::Reason::NO_ERROR,
            Reason::Internal => h2::Reason::INTERNAL_ERROR,
            Reason::Cancel => h2::Reason::CANCEL,
            Reason::Refused => h2::Reason::REFUSED_STREAM,
            Reason::Calm => h2::Reason::ENHANCE_YOUR_CALM,
        }
    }
}

/// How a connection ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The transport broke, or the client closed it.
    Broken,
    /// The client ended it, saying that something was wrong.
    ByClient,
    /// It broke the protocol or a bound of the machine; the name to count it by.
    Fault(&'static str),
}

/// The names of [`Ended::Fault`].
pub const FAULTS: [&str; 5] = ["h2_protocol", "h2_calm", "h2_flow_control", "h2_frame_size", "h2_compression"];

impl From<&h2::Error> for Ended {
    fn from(error: &h2::Error) -> Ended {
        match error.reason() {
            Some(_) if error.is_remote() => Ended::ByClient,
            Some(h2::Reason::ENHANCE_YOUR_CALM) => Ended::Fault("h2_calm"),
            Some(h2::Reason::FLOW_CONTROL_ERROR) => Ended::Fault("h2_flow_control"),
            Some(h2::Reason::FRAME_SIZE_ERROR) => Ended::Fault("h2_frame_size"),
            Some(h2::Reason::COMPRESSION_ERROR) => Ended::Fault("h2_compression"),
            Some(_) => Ended::Fault("h2_protocol"),
            None => Ended::Broken,
        }
    }
}

/// The client has given the stream up, or the connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// Why a body could not be had to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyBroken {
    /// It is longer or shorter than was announced.
    Length,
    /// The client gave it up, or the connection ended.
    Gone,
}

/// Begins HTTP/2 on a connection whose client means to speak it: our settings are queued, its preface is awaited.
pub async fn accept(link: &Rc<H2Link>, settings: &ServerSettings) -> Result<Machine, Ended> {
    let mut connection = settings.builder().handshake(link.io()).await.map_err(|error| Ended::from(&error))?;
    let pings = connection.ping_pong();
    Ok(Machine { connection, pings })
}

/// The crate's machine.
pub struct Machine {
    connection: h2::server::Connection<Io, Data>,
    pings: Option<h2::PingPong>,
}

impl Engine for Machine {
    type Stream = MachineStream;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<MachineStream, Ended>>> {
        if let Some(pings) = &mut self.pings {
            // Takes the answer in, so that another one can be asked for.
            let _ = pings.poll_pong(cx);
        }
        Poll::Ready(match ready!(self.connection.poll_accept(cx)) {
            None => None,
            Some(Err(error)) => Some(Err(Ended::from(&error))),
            Some(Ok((request, respond))) => Some(Ok(MachineStream { request: Some(request), respond, sending: None })),
        })
    }

    fn go_away(&mut self) {
        self.connection.graceful_shutdown();
    }

    fn set_window(&mut self, bytes: u32) {
        self.connection.set_target_window_size(bytes);
    }

    fn end(&mut self, why: Reason) {
        self.connection.abrupt_shutdown(why.into());
    }

    fn ask(&mut self) {
        if let Some(pings) = &mut self.pings {
            // Refused while an answer is waited for.
            let _ = pings.send_ping(h2::Ping::opaque());
        }
    }
}

/// A stream of [`Machine`].
pub struct MachineStream {
    /// Until its body was taken.
    request: Option<http::Request<RecvStream>>,
    respond: SendResponse<Data>,
    /// Once the head of the answer was sent.
    sending: Option<SendStream<Data>>,
}

impl Stream for MachineStream {
    type Body = MachineBody;

    fn head_size(&self) -> (usize, usize) {
        let Some(request) = &self.request else { return (0, 0) };
        let (uri, fields) = (request.uri(), request.headers());
        let target = uri.path_and_query().map_or(0, |path| path.as_str().len());
        let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
        let lines: usize = fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        (target + authority + lines, fields.len())
    }

    fn read_head(&mut self, limits: &Limits, into: &mut Request) -> Result<MultiplexedHead, Fault> {
        let Some(request) = &self.request else { return Err(Fault::Truncated) };
        let uri = request.uri();
        let pseudo = Pseudo {
            method: request.method().as_str().as_bytes(),
            // Of a request with `Host` alone the crate keeps none, having checked that there was one.
            scheme: uri.scheme_str().map(str::as_bytes),
            authority: uri.authority().map(|authority| authority.as_str().as_bytes()),
            path: uri.path_and_query().map(|path| path.as_str().as_bytes()),
            protocol: request.extensions().get::<h2::ext::Protocol>().map(AsRef::as_ref),
        };
        let fields = request.headers().iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
        multiplexed::read_request(Version::Http2, &pseudo, fields, limits, into)
    }

    fn take_body(&mut self) -> Option<MachineBody> {
        let body = self.request.take()?.into_body();
        (!body.is_end_stream()).then_some(MachineBody { body, ended: false, trailers: None })
    }

    fn send_interim(&mut self, response: &Response) {
        let options = ResponseOptions { length: None, date: "" };
        if let Some(head) = fields::write_response(response, &options) {
            let _ = self.respond.send_informational(head);
        }
    }

    fn send_head(&mut self, response: &Response, options: &ResponseOptions<'_>, ends: bool) -> Result<(), Gone> {
        let head = fields::write_response(response, options).ok_or(Gone)?;
        self.sending = Some(self.respond.send_response(head, ends).map_err(|_| Gone)?);
        Ok(())
    }

    fn send_data(&mut self, data: Data, ends: bool) -> Result<(), Gone> {
        self.sending.as_mut().ok_or(Gone)?.send_data(data, ends).map_err(|_| Gone)
    }

    fn send_end(&mut self, trailers: Option<&Headers>) -> Result<(), Gone> {
        let sending = self.sending.as_mut().ok_or(Gone)?;
        match trailers.and_then(fields::write_trailers) {
            Some(trailers) => sending.send_trailers(trailers).map_err(|_| Gone),
            None => sending.send_data(Bytes::new().into(), true).map_err(|_| Gone),
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sending {
            Some(sending) => sending.poll_reset(cx).map(|_| ()),
            None => self.respond.poll_reset(cx).map(|_| ()),
        }
    }

    fn reset(&mut self, why: Reason) {
        match &mut self.sending {
            Some(sending) => sending.send_reset(why.into()),
            None => self.respond.send_reset(why.into()),
        }
    }
}

/// A body of [`Machine`].
pub struct MachineBody {
    body: RecvStream,
    /// The last bytes were seen.
    ended: bool,
    trailers: Option<HeaderMap>,
}

impl Body for MachineBody {
    const LENGTH: &'static str = "h2_length";

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyBroken>> {
        while !self.ended {
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => {
                    let _ = self.body.flow_control().release_capacity(bytes.len());
                    return Poll::Ready(Ok(Some(bytes)));
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(&error))),
                None => {
                    self.trailers = ready!(self.body.poll_trailers(cx)).map_err(|error| broken(&error))?;
                    self.ended = true;
                }
            }
        }
        Poll::Ready(Ok(None))
    }

    fn trailers(&mut self, limits: &Limits) -> Result<Option<(Headers, u32)>, Fault> {
        let Some(trailers) = self.trailers.take() else { return Ok(None) };
        let fields = trailers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
        multiplexed::read_trailers(fields, limits).map(Some)
    }

    fn is_complete(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn unread(&mut self) -> usize {
        self.body.flow_control().used_capacity()
    }
}

fn broken(error: &h2::Error) -> BodyBroken {
    // The one thing the crate resets a stream for whose head it has given away.
    if error.is_reset() && error.is_library() && error.reason() == Some(h2::Reason::PROTOCOL_ERROR) {
        BodyBroken::Length
    } else {
        BodyBroken::Gone
    }
}
