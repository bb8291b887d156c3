//! An exchange over a stream of HTTP/2 that shares its connection with others.
//!
//! Both directions wait for their readers: of a request's body at most [`SEND_HIGH_WATER`] bytes lie here beyond what the backend's
//! windows allow, and an answer's window opens as its bytes are taken. A stream that is given up is reset once nobody has to do with it.

use crate::attempt::{Answer, Attempt, AttemptError, Counters, Stage};
use crate::h2_tunnel::{H2Tunnel, kept};
use crate::lease::Exchanger;
use crate::loss::Loss;
use crate::sessions::Stream;
use crate::upload::{Beside, Upload, WaitsFor};
use base_runtime::time::Deadline;
use base_telemetry::proxy::{ServerRecorder, UpstreamError};
use edge_pipeline::{Body, BodyError, BodyStream, Duplex, Piece, Sight};
use proto_h2::client::{Exchange, Lost, RequestOptions, Requests, Unanswered, Unsent};
use proto_h2::frame::Code;
use proto_h2::{Data, Progress};
use proto_http::h1::InterimCount;
use proto_http::multiplexed::Unread;
use proto_http::{Headers, Limits, Method, Response, Version};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Request body bytes of one stream that may wait for windows, or for their turn on the connection.
const SEND_HIGH_WATER: u64 = 32 * 1024;

/// How long a stream waits for its turn to begin before it is asked whether the backend takes any at all.
const OPENED_WITHIN: Duration = Duration::from_secs(1);

impl Exchanger for Stream {
    async fn exchange(self, attempt: &Attempt<'_>, body: &mut Body, keep_body: bool) -> Result<Answer, AttemptError> {
        // A backend may say of any request that it has done nothing with it: what is in memory stays there until it answers.
        let kept = if keep_body || !body.is_stream() { body.again() } else { None };
        let is_kept = kept.is_some();
        let outgoing = kept.unwrap_or_else(|| std::mem::take(body));
        // What opens a tunnel leaves the way open for what is said over it.
        let extended = attempt.extended();
        let ends =
            extended.is_none() && !outgoing.is_stream() && outgoing.length() == Some(0) && !outgoing.has_trailers();
        let exchange = match self.requests().ask(attempt.request, &options(attempt, &outgoing), ends) {
            Ok(exchange) => exchange,
            Err(Unsent::Unsayable) => return Err(AttemptError::Unsayable),
            Err(Unsent::Gone) => {
                // It was closed in the meantime, or can count no more streams.
                self.close_session();
                return Err(unsent(self.requests(), outgoing, is_kept, body));
            }
        };
        let unopened = Deadline::at(base_runtime::now() + OPENED_WITHIN);
        let place = Rc::new(Place { exchange, lease: self });
        let mut upload = (extended.is_none() && !ends).then(|| H2Upload {
            body: outgoing,
            place: place.clone(),
            progress: Rc::default(),
            ended: false,
        });
        let mut interim = InterimCount::default();
        let mut cut = None;
        let answered = poll_fn(|cx| {
            // The body goes out while the answer is waited for: a backend may answer before it has read everything.
            if let Some(sent) = &mut upload {
                match sent.poll(cx) {
                    Poll::Ready(Ok(())) => upload = None,
                    Poll::Ready(Err(error)) => {
                        (upload, cut) = (None, Some(error));
                        if !error.spares_the_answer() {
                            return Poll::Ready(Err(AttemptError::RequestBody(error)));
                        }
                    }
                    Poll::Pending => {}
                }
            }
            loop {
                let polled = place.exchange.poll_head(attempt.limits, cx);
                place.lease.book();
                match (polled, cut) {
                    (Poll::Ready(Ok((response, length))), _) => {
                        if response.status >= 200 {
                            return Poll::Ready(Ok((response, length)));
                        }
                        attempt.hand_on(response, &mut interim)?;
                    }
                    // The backend will wait for the rest for ever; what it has said already is the answer.
                    (_, Some(error)) => return Poll::Ready(Err(AttemptError::RequestBody(error))),
                    (Poll::Pending, None) => return place.poll_begun(&unopened, is_kept, cx),
                    (Poll::Ready(Err(error)), None) => {
                        return Poll::Ready(Err(place.failed(error, is_kept, attempt.counters, extended.is_some())));
                    }
                }
            }
        });
        let (response, length) = answered.await?;
        if !keep_body {
            drop(std::mem::take(body));
        }
        if let Some(extended) = extended {
            if (200..300).contains(&response.status) {
                let response = extended.switched(response);
                let upgraded: Box<dyn Duplex> = Box::new(H2Tunnel::new(place, attempt.counters.clone()));
                return Ok(Answer { response, body: Body::Empty, upgraded: Some(upgraded) });
            }
            // It answers as it would any request, and nothing is said over what was not opened.
            let _ = place.exchange.send_end(None);
        }
        let beside = Beside::begin(upload, cut.is_some(), response.status, attempt.counters);
        if place.exchange.is_whole() {
            beside.end(|| ());
            return Ok(Answer { response, body: Body::Empty, upgraded: None });
        }
        let is_empty = matches!(response.status, 204 | 304);
        let download = Download {
            place,
            has_ended: false,
            beside: Some(beside),
            left: if attempt.request.method == Method::Head || is_empty { Some(0) } else { length },
            trailers: None,
            limits: attempt.limits.clone(),
            recorder: attempt.recorder.clone(),
            counters: attempt.counters.clone(),
        };
        Ok(Answer { response, body: Body::Stream(Box::new(download)), upgraded: None })
    }
}

/// A request under way, and its place on the connection until nothing is left of it.
pub(crate) struct Place {
    // Given up before its place is free.
    pub(crate) exchange: Exchange,
    pub(crate) lease: Stream,
}

impl Place {
    /// Looks, while there is no answer, whether the request has gone out at all.
    fn poll_begun<T>(&self, unopened: &Deadline, is_kept: bool, cx: &mut Context<'_>) -> Poll<Result<T, AttemptError>> {
        while unopened.poll_expired(cx).is_ready() {
            if self.exchange.is_begun() {
                unopened.clear();
                break;
            }
            if self.lease.is_shut_out() {
                let error = io::Error::other("it takes no more requests on this connection");
                return Poll::Ready(Err(not_begun(error, is_kept)));
            }
            unopened.set_after(OPENED_WITHIN);
        }
        Poll::Pending
    }

    /// Why no answer came. What the backend says it has done nothing with may go elsewhere (RFC 9113 section 8.7): streams after the last
    /// one of a GOAWAY, and those it refused; and what has not gone out.
    fn failed(&self, why: Unanswered, is_kept: bool, counters: &Counters, extended: bool) -> AttemptError {
        let lost = match why {
            Unanswered::Lost(lost) => lost,
            Unanswered::Unread(unread) => {
                counters.faults.hit(base_runtime::worker_index());
                return match unread {
                    Unread::Malformed => AttemptError::Faulty(Code::PROTOCOL),
                    Unread::Fault(fault) => AttemptError::Malformed(fault.into()),
                };
            }
        };
        // A reset is of one stream, everything else of the connection; and one that ends in good order says nothing of its server.
        let (untouched, loss) = match lost {
            Lost::Fault(code) => {
                counters.faults.hit(base_runtime::worker_index());
                return AttemptError::Faulty(code);
            }
            Lost::Reset(Code::HTTP_1_1) => {
                match extended {
                    true => self.lease.wants_websockets_over_http1(),
                    false => self.lease.wants_http1(),
                }
                (true, None)
            }
            Lost::Reset(Code::REFUSED) => {
                counters.refused.hit(base_runtime::worker_index());
                (true, None)
            }
            Lost::Reset(_) => (false, None),
            Lost::LeftOut(code) => {
                let loss = self.lease.session.loss.clone();
                if code == Code::NO_ERROR {
                    loss.is_ours();
                }
                (true, Some(loss))
            }
            // What has not gone out has reached nobody, whatever became of the connection.
            Lost::Gone => (!self.exchange.is_begun(), Some(self.lease.session.loss.clone())),
        };
        let stage = if untouched && is_kept { Stage::Untouched } else { Stage::Sent };
        let failure = self.lease.requests().failure().filter(|_| matches!(lost, Lost::Gone));
        let error = failure.unwrap_or_else(|| io::Error::other(lost.to_string()));
        AttemptError::Broken { error, stage, loss }
    }
}

/// What was said on a stream to its end and waits for the backend's window goes out, as long as that takes something now and then.
pub(crate) fn run_on(place: Rc<Place>, progress: Rc<Progress>, counters: &Arc<Counters>) {
    let rest = H2Upload { body: Body::Empty, place, progress, ended: true };
    Beside::begin(Some(rest), false, 200, counters).end(|| ());
}

impl Attempt<'_> {
    /// An interim answer goes its way.
    fn hand_on(&self, mut response: Response, interim: &mut InterimCount) -> Result<(), AttemptError> {
        interim.count(self.limits).map_err(AttemptError::Malformed)?;
        // As over HTTP/1.1: a 100 is never asked of the backend, and clients of HTTP/1.0 know no interim answers.
        let wanted = response.status != 100 && self.request.version != Version::Http10;
        if let Some(to) = self.interim.filter(|_| wanted) {
            response.remove_hop_by_hop();
            to.push(response);
        }
        Ok(())
    }
}

/// How the request goes out.
fn options<'a>(attempt: &Attempt<'a>, body: &Body) -> RequestOptions<'a> {
    let length = match body.length() {
        // A method that usually carries a body says that it has none.
        _ if attempt.extended().is_some() => None,
        Some(0)
            if !body.is_stream() && !matches!(attempt.request.method, Method::Post | Method::Put | Method::Patch) =>
        {
            None
        }
        length => length,
    };
    RequestOptions {
        scheme: if attempt.server.identity.is_some() { "https" } else { "http" },
        authority: attempt.host,
        prefix: &attempt.server.prefix,
        length,
        protocol: attempt.extended().map(|extended| extended.protocol().name()),
    }
}

/// Nothing of the request went out, and nothing is wrong with the server.
fn not_begun(error: io::Error, is_kept: bool) -> AttemptError {
    let stage = if is_kept { Stage::Untouched } else { Stage::Sent };
    let loss = Loss::default();
    loss.is_ours();
    AttemptError::Broken { error, stage, loss: Some(loss) }
}

/// The request is where it was.
fn unsent(requests: &Requests, outgoing: Body, is_kept: bool, body: &mut Body) -> AttemptError {
    if !is_kept {
        *body = outgoing;
    }
    not_begun(requests.failure().unwrap_or_else(|| io::ErrorKind::NotConnected.into()), true)
}

/// A request body on its way to the backend.
struct H2Upload {
    body: Body,
    place: Rc<Place>,
    progress: Rc<Progress>,
    /// All of it has been given to the connection.
    ended: bool,
}

impl Upload for H2Upload {
    /// What the backend has to say to a body of which it wants no more comes from the answer.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let exchange = &self.place.exchange;
        loop {
            if exchange.poll_gone(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            // What still waits when nobody has to do with the stream any more does not go out.
            ready!(self.progress.poll_waiting(if self.ended { 0 } else { SEND_HIGH_WATER }, cx));
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            let sent = match ready!(self.body.poll_piece(cx, Sight::Seen)) {
                Err(error) => return Poll::Ready(Err(error)),
                Ok(Some(piece)) => {
                    let last = !self.body.is_stream() && self.body.length() == Some(0) && !self.body.has_trailers();
                    let data = match piece {
                        Piece::Buf(buffer) => kept(buffer, &self.progress),
                        Piece::Bytes(bytes) => Data::from(bytes),
                        Piece::Pipe(_) => unreachable!("bytes that are to be seen are in memory"),
                    };
                    let sent = exchange.send_data(data.counted(&self.progress), last);
                    if sent.is_ok() && !last {
                        continue;
                    }
                    sent
                }
                Ok(None) => exchange.send_end(self.body.trailers().as_ref()),
            };
            // A stream that has ended meanwhile takes nothing; the answer tells.
            if sent.is_err() {
                return Poll::Ready(Ok(()));
            }
            self.ended = true;
        }
    }

    fn waits_for(&mut self, _: &mut Context<'_>) -> WaitsFor {
        let taken = self.progress.written();
        if self.progress.handed() == taken { WaitsFor::Client } else { WaitsFor::Backend { taken } }
    }
}

/// An answer's body as it arrives. Dropped before its end, the stream is reset.
struct Download {
    place: Rc<Place>,
    /// Nothing more comes.
    has_ended: bool,
    /// The rest of the request's body, until the answer has ended.
    beside: Option<Beside>,
    /// Bytes to come, when the backend said how many.
    left: Option<u64>,
    trailers: Option<Headers>,
    limits: Limits,
    recorder: ServerRecorder,
    counters: Arc<Counters>,
}

impl Download {
    fn fail(&mut self, error: BodyError, counted_as: UpstreamError) -> Poll<Result<Option<Piece>, BodyError>> {
        self.recorder.error(counted_as);
        self.give_up(error)
    }

    /// What came breaks the rules, or a bound.
    fn blame(&mut self) -> Poll<Result<Option<Piece>, BodyError>> {
        self.counters.faults.hit(base_runtime::worker_index());
        self.fail(BodyError::Malformed { status: 502 }, UpstreamError::Protocol)
    }

    fn give_up(&mut self, error: BodyError) -> Poll<Result<Option<Piece>, BodyError>> {
        self.has_ended = true;
        self.beside = None;
        self.place.exchange.discard();
        Poll::Ready(Err(error))
    }

    fn end(&mut self) {
        self.has_ended = true;
        if let Some(beside) = self.beside.take() {
            beside.end(|| ());
        }
    }
}

impl BodyStream for Download {
    fn poll_piece(&mut self, cx: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        if let Some(Err(error)) = self.beside.as_mut().map(|beside| beside.poll(cx)) {
            return self.give_up(error);
        }
        if self.has_ended {
            return Poll::Ready(Ok(None));
        }
        match self.place.exchange.poll_data(cx) {
            Poll::Ready(Ok(Some(bytes))) => {
                self.place.lease.book();
                self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
                Poll::Ready(Ok(Some(Piece::Bytes(bytes))))
            }
            Poll::Ready(Ok(None)) => match self.place.exchange.trailers(&self.limits) {
                Ok(trailers) => {
                    self.trailers = trailers;
                    self.end();
                    Poll::Ready(Ok(None))
                }
                Err(_) => self.blame(),
            },
            // A backend that has answered in full may say so to stop the rest of a request (RFC 9113 section 8.1). Without the end of the
            // stream only a length that was announced shows that it has: some reset streams so whose answers broke off.
            Poll::Ready(Err(Lost::Reset(Code::NO_ERROR))) if self.left == Some(0) => {
                self.end();
                Poll::Ready(Ok(None))
            }
            Poll::Ready(Err(Lost::Fault(_))) => self.blame(),
            Poll::Ready(Err(_)) => self.fail(BodyError::Incomplete, UpstreamError::Closed),
            Poll::Pending if self.beside.as_ref().is_some_and(Beside::is_cut) => self.give_up(BodyError::Incomplete),
            Poll::Pending => Poll::Pending,
        }
    }

    fn remaining(&self) -> Option<u64> {
        self.left
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.trailers.take()
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // The rest of the request may still have to do with the stream.
        self.place.exchange.discard();
        self.place.lease.book();
    }
}
