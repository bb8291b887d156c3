//! Asking a server over HTTP/2.
//!
//! [`begin`] gives two ends of one connection: its [`Driver`], which somebody polls for as long as it lives, and [`Requests`], which
//! sends them and may be shared. What comes of a request is its [`Exchange`]; dropped before both of its directions have ended, it is
//! cancelled.

use crate::connection::{Client, Connection};
use crate::data::Data;
use crate::frame::Code;
use crate::hpack::encoder;
use crate::machine::{Shell, unit, with_block};
use crate::settings::ClientSettings;
use base_tls::Transport;
use bytes::Bytes;
use proto_http::multiplexed::{self, Unread};
use proto_http::{Headers, Limits, Method, Request, Response, Version};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

pub use crate::connection::{Asks, EXCESS_MOST, Ended, Gone, Key, Lost};
pub use crate::hpack::encoder::RequestOptions;

/// Begins HTTP/2 on a connection whose server agreed to it (ALPN), or is known to speak it. Our preface and settings are queued; the
/// server's come while the connection is driven.
pub fn begin(transport: Transport, settings: &ClientSettings) -> (Requests, Driver) {
    let core = Connection::<Client>::new(settings, base_runtime::now(), unit(&transport));
    let shell = Shell::new(transport, core);
    (Requests(shell.clone()), Driver(shell))
}

/// The connection itself. Once it is dropped its requests come to an end.
pub struct Driver(Rc<Shell<Client>>);

impl Driver {
    /// Moves everything that can be moved, as far as the turn allows. Ready when the connection has ended.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        match ready!(self.0.poll(cx, |_| None::<Infallible>)) {
            None => Poll::Ready(Ok(())),
            Some(Err(ended)) => Poll::Ready(Err(ended)),
            Some(Ok(never)) => match never {},
        }
    }

    /// The machine reads as long as there is something to read, and frames are as small as nine bytes: so many bytes it may take until
    /// this is called again, then others have their turn.
    pub fn begin_turn(&mut self, bytes: usize) {
        self.0.begin_turn(bytes);
    }

    /// Asks the server to say that it is there (PING); whatever it says shows that it is.
    pub fn ask(&mut self) {
        self.0.with(Connection::ask);
    }

    /// Frames that came beyond their allowances, and faults of streams beyond theirs. Beyond [`EXCESS_MOST`] the connection ends.
    pub fn excess(&self) -> u32 {
        self.0.look(Connection::excess)
    }

    /// Bytes that came.
    pub fn bytes_in(&self) -> u64 {
        self.0.bytes_in()
    }

    /// Frames sent that are a reason to hear something.
    pub fn wants(&self) -> u64 {
        self.0.look(Connection::wants)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.with(Connection::handle_end);
    }
}

/// Sends requests; whoever has it asks over the same connection.
#[derive(Clone)]
pub struct Requests(Rc<Shell<Client>>);

impl Requests {
    /// Begins a request; its head goes out when the connection is driven next, and its number is up. `ends`: nothing follows.
    pub fn ask(&self, request: &Request, options: &RequestOptions<'_>, ends: bool) -> Result<Exchange, Unsent> {
        let asks = match (&request.method, options.protocol) {
            (_, Some(_)) => Asks::Tunnel,
            (Method::Head, None) => Asks::Head,
            _ => Asks::Message,
        };
        let opened = with_block(
            |block| encoder::request(request, options, block),
            |block| self.0.with(|core| core.open(block, ends, asks)),
        );
        let key = opened.ok_or(Unsent::Unsayable)?.map_err(|Gone| Unsent::Gone)?;
        Ok(Exchange { shell: self.0.clone(), key })
    }

    /// What the connection runs over.
    pub fn transport(&self) -> &Transport {
        &self.0.transport
    }

    /// What the transport failed with, where it did.
    pub fn failure(&self) -> Option<io::Error> {
        self.0.failure()
    }

    /// Whether requests may be begun.
    pub fn is_open(&self) -> bool {
        self.0.look(Connection::is_open)
    }

    /// It has ended, and not in good order: neither side has said that it takes no more, or the server that something is wrong.
    pub fn is_lost(&self) -> bool {
        self.0.look(Connection::is_lost)
    }

    /// The server has said what it takes.
    pub fn has_settings(&self) -> bool {
        self.0.look(Connection::has_settings)
    }

    /// Requests that may be under way at a time, as far as the server has said so: none is a number, too.
    pub fn streams_most(&self) -> usize {
        self.0.look(Connection::streams_most)
    }

    /// Requests that are under way, or wait for their turn.
    pub fn streams(&self) -> usize {
        self.0.look(Connection::streams)
    }

    /// Whether the server has said that extended CONNECT may be asked for (RFC 8441).
    pub fn takes_connect(&self) -> bool {
        self.0.look(Connection::takes_connect)
    }

    /// Bytes of memory that what has come takes until it is read.
    pub fn held(&self) -> usize {
        self.0.look(|core| core.unread() as usize + core.held())
    }

    /// No more requests are begun. Once the last one has ended the connection does.
    pub fn leave(&self) {
        self.0.with(Connection::leave);
    }
}

/// Why a request was not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsent {
    /// It cannot be said in HTTP/2, see [`encoder::request`].
    Unsayable,
    /// The connection takes no more.
    Gone,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    Lost(Lost),
    /// What came is no answer, or one that HTTP/1 would refuse, too; the stream was reset.
    Unread(Unread),
}

/// One request and its answer. See the module doc.
pub struct Exchange {
    shell: Rc<Shell<Client>>,
    key: Key,
}

impl Exchange {
    /// The next head: interim answers (1xx), and then the one that a body follows. Says also how long that was announced to be.
    pub fn poll_head(
        &self,
        limits: &Limits,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(Response, Option<u64>), Unanswered>> {
        let polled = self.shell.with(|core| core.poll_head(self.key, cx));
        let fields = ready!(polled).map_err(Unanswered::Lost)?;
        let read = multiplexed::read_response(Version::Http2, &fields.section, limits);
        crate::connection::give_back(fields.section);
        Poll::Ready(read.map_err(|unread| {
            self.shell.with(|core| core.refuse(self.key));
            Unanswered::Unread(unread)
        }))
    }

    /// The next bytes of the body; `None` after the last. The server may send more of them as they are taken.
    pub fn poll_data(&self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Lost>> {
        self.shell.with(|core| core.poll_data(self.key, cx))
    }

    /// Trailers, without those that may not come after a body; once its end was seen.
    pub fn trailers(&self, limits: &Limits) -> Result<Option<Headers>, Unread> {
        let taken = self.shell.with(|core| core.take_trailers(self.key));
        let Some(section) = taken.transpose().map_err(Unread::Fault)? else { return Ok(None) };
        multiplexed::read_answer_trailers(&section, limits).map(Some)
    }

    /// Nothing more comes that was not read.
    pub fn is_whole(&self) -> bool {
        self.shell.look(|core| core.is_body_over(self.key))
    }

    /// Whether the head of the request has gone out.
    pub fn is_begun(&self) -> bool {
        self.shell.look(|core| core.is_begun(self.key))
    }

    /// The machine keeps what windows do not allow yet, whatever its size. `ends`: nothing follows.
    pub fn send_data(&self, data: Data, ends: bool) -> Result<(), Gone> {
        self.shell.with(|core| core.send_data(self.key, data, ends))
    }

    /// Ends the request, with the trailers that may be sent.
    pub fn send_end(&self, trailers: Option<&Headers>) -> Result<(), Gone> {
        let sent = trailers.and_then(|trailers| {
            with_block(
                |block| encoder::trailers(trailers, block),
                |block| self.shell.with(|core| core.send_fields(self.key, block, true)),
            )
        });
        sent.unwrap_or_else(|| self.shell.with(|core| core.send_end(self.key)))
    }

    /// Ready once the server wants no more of the request, or the connection has ended.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.shell.with(|core| core.poll_gone(self.key, cx))
    }

    /// Nobody reads the answer any more.
    pub fn discard(&self) {
        self.shell.with(|core| core.discard(self.key));
    }

    /// Ends both directions.
    pub fn cancel(&self) {
        self.shell.with(|core| core.reset(self.key, Code::CANCEL));
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exchange({})", self.key.id)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.shell.with(|core| core.let_go(self.key));
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Fault(code) => write!(f, "the backend broke the rules: {}", code.text()),
            Lost::Reset(code) => write!(f, "the backend reset the stream: {}", code.text()),
            Lost::LeftOut(code) => write!(f, "the backend leaves, and has not looked at the request: {}", code.text()),
            Lost::Gone => f.write_str("the connection ended"),
        }
    }
}
