//! One try at one server: over a lease, kept or new, the request goes out and an answer comes back.

use crate::connect::ConnectError;
use crate::endpoint::{Protocols, Server};
use crate::extended::Extended;
use crate::groups::CONNECTIONS_MOST;
use crate::h3_sessions;
use crate::lease::{self, Exchanger, Lease, Need};
use crate::loss::Loss;
use crate::pool;
use base_runtime::Boxed;
use base_telemetry::Limit;
use base_telemetry::proxy::{ServerRecorder, UpstreamError};
use edge_pipeline::{Body, BodyError, Duplex, Interim};
use proto_h2::frame::Code as H2Code;
use proto_h3::Code;
use proto_http::h1;
use proto_http::{Limits, Method, Request, Response};
use std::cell::Cell;
use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// What an attempt needs to know.
pub struct Attempt<'a> {
    pub server: &'a Server,
    pub request: &'a Request,
    /// Authority for the Host field.
    pub host: &'a str,
    /// What the server is told of the client at the beginning of a connection, see [`Server::introduction`].
    pub introduction: &'a [u8],
    /// Relay an offer of the client to go on in another protocol, as far as the request still makes one.
    pub upgrade: bool,
    /// Idle connections kept per worker and server.
    pub max_idle: usize,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// Set while there is no connection yet, for whoever ends the attempt before its end.
    pub connecting: &'a Cell<bool>,
    /// Set once the request was sent again because a connection broke that may have carried it to its server. From then on it goes
    /// over fresh connections and is not repeated: no server gets it for the sake of a connection more than twice.
    pub repeated: &'a Cell<bool>,
    /// A body in memory is left as it is, for another try or another filter; else it goes out in its own buffer.
    pub keep_body: bool,
    /// Where interim answers go; `None` drops them.
    pub interim: Option<&'a Interim>,
    pub recorder: &'a ServerRecorder,
    pub limits: &'a Limits,
    pub counters: &'a Arc<Counters>,
}

/// New leases of one attempt on which nothing may be done of the request.
const UNTOUCHED_MOST: u32 = 2;

/// What is counted of backends that are out of the ordinary.
#[derive(Debug)]
pub struct Counters {
    /// Answers in which blanks were left out.
    pub mended: Limit,
    /// Connects that were not made, see [`CONNECTIONS_MOST`](crate::groups::CONNECTIONS_MOST).
    pub connections: Limit,
    /// Connections of HTTP/2 and HTTP/3 whose backend did not say that it is there.
    pub silent: Limit,
    /// Connections and streams of HTTP/2 that ended because their backend broke the protocol or one of our bounds.
    pub faults: Limit,
    /// Streams of HTTP/2 a backend refused, having done nothing with them.
    pub refused: Limit,
    /// As `faults`, of HTTP/3.
    pub faults_h3: Limit,
    /// As `refused`, of HTTP/3.
    pub refused_h3: Limit,
    /// Datagrams of tunnels over HTTP/3 that found no room, or fitted into no packet, either way.
    pub datagrams: Limit,
    /// Uploads that were given up because the backend, having answered, read no more.
    pub stalled: Limit,
}

impl Counters {
    pub fn new(limits: &base_telemetry::LimitHits) -> Arc<Counters> {
        Arc::new(Counters {
            mended: limits.register("mended"),
            connections: limits.register("upstream_connections"),
            silent: limits.register("upstream_silent"),
            faults: limits.register("upstream_h2_faults"),
            refused: limits.register("upstream_h2_refused"),
            faults_h3: limits.register("upstream_h3_faults"),
            refused_h3: limits.register("upstream_h3_refused"),
            datagrams: limits.register("upstream_h3_datagrams"),
            stalled: limits.register("upstream_stalled"),
        })
    }
}

/// What a backend answered. `body` holds the lease until it is read to its end, then gives it back.
#[derive(Debug)]
pub struct Answer {
    pub response: Response,
    pub body: Body,
    /// Status 101: the connection now speaks something else.
    pub upgraded: Option<Box<dyn Duplex>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum AttemptError {
    /// There is no connection: nothing was sent.
    Connect(ConnectError),
    /// The connection failed or ended.
    Broken {
        error: io::Error,
        stage: Stage,
        /// Where others heard of it, too.
        loss: Option<Loss>,
    },
    /// What came is no answer as we accept it.
    Malformed(h1::ResponseError),
    /// What came over HTTP/2 breaks its rules, or a bound of ours.
    Faulty(H2Code),
    /// The same over HTTP/3.
    FaultyH3(Code),
    /// What the request has become cannot be said in HTTP/2 or HTTP/3; nothing was sent.
    Unsayable,
    /// The client's body could not be read to its end.
    RequestBody(BodyError),
}

/// How far a request had come when its connection failed: what may be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The backend has done nothing of it, and its body is as it was: it may go elsewhere, whatever it asks for (RFC 9110 section
    /// 9.2.2).
    Untouched,
    /// As before, and the backend will have it over HTTP/1.1 (RFC 9114 section 8.1).
    OverHttp1,
    /// It may have been done. Not a byte of an answer had come.
    Sent,
    Answered,
}

impl AttemptError {
    /// Whether the backend may have done what it was asked.
    pub fn may_be_done(&self) -> bool {
        !matches!(
            self,
            AttemptError::Connect(_)
                | AttemptError::Unsayable
                | AttemptError::Broken { stage: Stage::Untouched | Stage::OverHttp1, .. }
        )
    }

    /// Whether it tells something of the server that nobody has told so far. Whoever asks tells.
    pub fn is_news(&self) -> bool {
        match self {
            AttemptError::Connect(error) => error.is_news(),
            AttemptError::Broken { loss, .. } => loss.as_ref().is_none_or(Loss::is_news),
            _ => true,
        }
    }

    /// The failure as the figures tell it; what the client did wrong is not the server's, nor is a bound of ours.
    pub fn counted_as(&self) -> Option<UpstreamError> {
        if let AttemptError::Connect(error) = self {
            return match error.cause() {
                ConnectError::Full => None,
                ConnectError::Tls(_) => Some(UpstreamError::Tls),
                ConnectError::Tcp(error) if error.kind() == io::ErrorKind::TimedOut => {
                    Some(UpstreamError::ConnectTimeout)
                }
                _ => Some(UpstreamError::Connect),
            };
        }
        Some(match self {
            AttemptError::Broken { .. } => UpstreamError::Closed,
            AttemptError::Malformed(_) | AttemptError::Faulty(_) | AttemptError::FaultyH3(_) => UpstreamError::Protocol,
            AttemptError::RequestBody(_) | AttemptError::Unsayable | AttemptError::Connect(_) => return None,
        })
    }
}

impl fmt::Display for AttemptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttemptError::Connect(error) => match error.cause() {
                ConnectError::Unresolved => f.write_str("the server's name has no address"),
                ConnectError::Tcp(error) if error.kind() == io::ErrorKind::TimedOut => {
                    f.write_str("cannot connect in time")
                }
                ConnectError::Tcp(error) => write!(f, "cannot connect: {error}"),
                ConnectError::Tls(error) => error.fmt(f),
                ConnectError::Full | ConnectError::Shared(..) => {
                    write!(f, "this worker has {CONNECTIONS_MOST} connections to it, and each is full")
                }
            },
            AttemptError::Broken { error, .. } => write!(f, "connection broke: {error}"),
            AttemptError::Malformed(error) => write!(f, "malformed answer: {error}"),
            AttemptError::Faulty(code) => write!(f, "malformed answer: {}", code.text()),
            AttemptError::FaultyH3(code) => write!(f, "malformed answer: {}", code.text()),
            AttemptError::Unsayable => {
                f.write_str("the request cannot be said in HTTP/2 or HTTP/3: its authority or target is none there")
            }
            AttemptError::RequestBody(error) => write!(f, "request body: {error}"),
        }
    }
}

impl Attempt<'_> {
    /// Sends the request and reads the answer's head. A kept connection that turns out to be stale is replaced by a new
    /// one when repeating is safe: nothing of an answer came, the method is idempotent, and the body can be sent again; or
    /// nothing of the request went out. Before anything else is sent over a kept connection the kernel is asked whether its
    /// backend has closed it in the meantime.
    pub async fn run(&self, body: &mut Body) -> Result<Answer, AttemptError> {
        let repeatable = self.request.method.is_idempotent() && !body.is_stream();
        let mut need = self.need();
        // What it wants over HTTP/1.1 lately, by what is remembered or by what it says of this one.
        let mut remembered =
            need == Need::Message && self.server.protocols == Protocols::Http3 && h3_sessions::wants_http1(self.server);
        let mut fell_back = false;
        if remembered {
            need = Need::Http1;
        }
        let mut looks = !self.repeated.get();
        let mut left = UNTOUCHED_MOST;
        loop {
            let kept = std::mem::take(&mut looks)
                .then(|| pool::take(self.server, need, !repeatable, self.introduction))
                .flatten();
            let is_kept = kept.is_some();
            let lease = match kept {
                Some(lease) => lease,
                None => {
                    left -= 1;
                    match self.open(need).await {
                        Ok(lease) => lease,
                        // It may have given that up by now.
                        Err(_) if std::mem::take(&mut remembered) => {
                            h3_sessions::forget_http1(self.server);
                            (need, left) = (Need::Message, UNTOUCHED_MOST);
                            looks = !self.repeated.get();
                            continue;
                        }
                        Err(error) => return Err(AttemptError::Connect(error)),
                    }
                }
            };
            let keep_body = self.keep_body || is_kept && repeatable;
            // Each stays in its place: awaited where it is made, it would be copied first, and with it the room of the largest.
            let exchanged = match lease {
                Lease::Connection(link) => pin!(link.exchange(self, body, keep_body)).await,
                Lease::Stream(stream) => pin!(stream.exchange(self, body, keep_body)).await,
                Lease::H3(stream) => pin!(stream.exchange(self, body, keep_body)).await,
            };
            match exchanged {
                // A connection that many share may have come to its end in the meantime.
                Err(AttemptError::Broken { stage: Stage::Untouched, .. }) if left > 0 => {}
                // Once: over HTTP/1.1 nobody asks for that.
                Err(AttemptError::Broken { stage: Stage::OverHttp1, .. }) if need != Need::Http1 => {
                    fell_back = need == Need::Message;
                    need = Need::Http1;
                    looks = !self.repeated.get();
                    left = UNTOUCHED_MOST;
                }
                Err(AttemptError::Broken { stage: Stage::Sent, .. }) if is_kept && repeatable => {
                    self.repeated.set(true);
                }
                done => {
                    if fell_back && done.is_ok() {
                        h3_sessions::fell_back(self.server);
                    }
                    return done;
                }
            }
        }
    }

    async fn open(&self, need: Need) -> Result<Lease, ConnectError> {
        self.connecting.set(true);
        // Connecting is rare and takes room, which the future of every request would have.
        let opening =
            lease::open(self.server, need, self.connect_timeout, self.recorder, self.counters, self.introduction);
        let opened = Boxed::new(opening).await;
        self.connecting.set(false);
        opened
    }

    fn need(&self) -> Need {
        match &self.request.method {
            // A tunnel has a connection to itself.
            Method::Connect => Need::Http1,
            _ if !self.upgrade || h1::offered_upgrade(&self.request.headers).is_none() => Need::Message,
            _ if self.extended().is_some() => Need::Extended,
            _ => Need::Http1,
        }
    }

    /// What it asks to go on in, where that can be said as an extended CONNECT, too.
    pub(crate) fn extended(&self) -> Option<Extended<'_>> {
        Extended::of(self.request).filter(|_| self.upgrade)
    }
}
