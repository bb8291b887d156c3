//! An exchange over a stream of HTTP/3 that shares its connection with others.
//!
//! Both directions wait for their readers: the next piece of a request's body is asked for when QUIC has taken the one before, and an
//! answer's window opens as its bytes are taken. A request that its backend says it has done nothing with (GOAWAY,
//! `H3_REQUEST_REJECTED`) may go elsewhere, whatever it asks for (RFC 9114 section 4.1.1); one that it cannot serve over HTTP/3
//! (`H3_VERSION_FALLBACK`) goes over HTTP/1.1 to its port on TCP.

use crate::attempt::{Answer, Attempt, AttemptError, Counters, Stage};
use crate::h3_stream::{H3Stream, Next, Stream, Why};
use crate::h3_tunnel::H3Tunnel;
use crate::lease::Exchanger;
use crate::loss::Loss;
use crate::upload::{Beside, Upload, WaitsFor};
use base_telemetry::proxy::{ServerRecorder, UpstreamError};
use edge_pipeline::{Body, BodyError, BodyStream, Capsules, Duplex, Piece, Sight};
use proto_h2::Data;
use proto_h3::Code;
use proto_h3::message::{self, RequestOptions, Unread};
use proto_h3::qpack::{self, Bounds, Section};
use proto_h3::request::Event;
use proto_http::h1::{Fault, InterimCount};
use proto_http::{Headers, Limits, Method, Response, Version};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

impl Exchanger for H3Stream {
    async fn exchange(self, attempt: &Attempt<'_>, body: &mut Body, keep_body: bool) -> Result<Answer, AttemptError> {
        // A backend may say of any request that it has done nothing with it: what is in memory stays there until it answers.
        let kept = if keep_body || !body.is_stream() { body.again() } else { None };
        let is_kept = kept.is_some();
        let head = head(attempt, kept.as_ref().unwrap_or(body))?;
        if self.stream().session().is_lost() {
            return Err(unsent());
        }
        let outgoing = kept.unwrap_or_else(|| std::mem::take(body));
        // What opens a tunnel leaves the way open for what is said over it.
        let extended = attempt.extended();
        let has_capsules = extended.is_some_and(|extended| extended.protocol().has_capsules());
        if !has_capsules {
            self.stream().decide_datagrams(false);
        }
        let no_body = !outgoing.is_stream() && outgoing.length() == Some(0) && !outgoing.has_trailers();
        let ends = extended.is_none() && no_body;
        self.stream().say(head);
        if ends {
            self.stream().say_end();
        }
        let place = Rc::new(self);
        let mut upload = (!ends && extended.is_none()).then(|| H3Upload {
            body: outgoing,
            place: place.clone(),
            handed: 0,
            ended: false,
        });
        let mut interim = InterimCount::default();
        let mut cut = None;
        let stream = place.stream().clone();
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
                match (stream.poll_next(cx), cut) {
                    (Next::Event(Event::Head(block)), _) => {
                        let (response, length) = attempt.read(&stream, &block)?;
                        if response.status >= 200 {
                            return Poll::Ready(Ok((response, length)));
                        }
                        stream.expect_head();
                        attempt.pass_on(response, &mut interim)?;
                    }
                    (Next::Event(Event::HeadTooLarge), _) => {
                        stream.abort(Code::ExcessiveLoad, Why::Fault(Code::ExcessiveLoad));
                        return Poll::Ready(Err(AttemptError::Malformed(Fault::HeadTooLarge.into())));
                    }
                    // Nothing else comes before a head.
                    (Next::Event(_), _) => return Poll::Ready(Err(AttemptError::FaultyH3(Code::FrameUnexpected))),
                    (Next::End, _) => return Poll::Ready(Err(AttemptError::FaultyH3(Code::RequestIncomplete))),
                    // The backend will wait for the rest for ever; what it has said already is the answer.
                    (_, Some(error)) => return Poll::Ready(Err(AttemptError::RequestBody(error))),
                    (Next::Blocked, None) => return Poll::Pending,
                    (Next::Broken(why), None) => {
                        return Poll::Ready(Err(failed(why, is_kept, &stream, attempt.counters, extended.is_some())));
                    }
                }
            }
        });
        let (response, length) = answered.await?;
        stream.session().answered();
        if !keep_body {
            drop(std::mem::take(body));
        }
        if let Some(extended) = extended {
            if (200..300).contains(&response.status) {
                let tunnel = H3Tunnel::new(place);
                let upgraded: Box<dyn Duplex> = match has_capsules {
                    true => {
                        stream.decide_datagrams(true);
                        Box::new(Capsules::new(tunnel))
                    }
                    false => Box::new(tunnel),
                };
                let response = extended.switched(response);
                return Ok(Answer { response, body: Body::Empty, upgraded: Some(upgraded) });
            }
            // It answers as it would any request, and nothing is said over what was not opened.
            stream.say_end();
        }
        let beside = Beside::begin(upload, cut.is_some(), response.status, attempt.counters);
        let is_bodyless = attempt.request.method == Method::Head || matches!(response.status, 204 | 304);
        let left = if is_bodyless { Some(0) } else { length };
        if left.unwrap_or(0) == 0 && stream.has_ended() {
            beside.end(|| ());
            return Ok(Answer { response, body: Body::Empty, upgraded: None });
        }
        let download = Download {
            place: Some(place),
            beside: Some(beside),
            left,
            trailers: None,
            limits: attempt.limits.clone(),
            recorder: attempt.recorder.clone(),
        };
        Ok(Answer { response, body: Body::Stream(Box::new(download)), upgraded: None })
    }
}

impl Attempt<'_> {
    /// Reads a head; says also how long the body was announced to be.
    fn read(&self, stream: &Stream, block: &[u8]) -> Result<(Response, Option<u64>), AttemptError> {
        let mut section = Section::default();
        let bounds = head_bounds(self.limits);
        let read = match qpack::decode(block, &bounds, &mut section) {
            Ok(()) => message::read_response(&section, self.limits),
            Err(qpack::Unread::TooLarge) => Err(Unread::Fault(Fault::HeadTooLarge)),
            Err(qpack::Unread::TooMany) => Err(Unread::Fault(Fault::TooManyFields)),
            Err(qpack::Unread::Broken) => {
                stream.session().fail(Code::QpackDecompression);
                return Err(AttemptError::FaultyH3(Code::QpackDecompression));
            }
        };
        read.map_err(|unread| {
            self.counters.faults_h3.hit(base_runtime::worker_index());
            stream.abort(Code::Message, Why::Fault(Code::Message));
            match unread {
                Unread::Malformed => AttemptError::FaultyH3(Code::Message),
                Unread::Fault(fault) => AttemptError::Malformed(fault.into()),
            }
        })
    }

    /// An interim answer goes its way, as over HTTP/2.
    fn pass_on(&self, mut response: Response, interim: &mut InterimCount) -> Result<(), AttemptError> {
        interim.count(self.limits).map_err(AttemptError::Malformed)?;
        // A 100 is never asked of the backend, and clients of HTTP/1.0 know no interim answers.
        if let Some(to) = self.interim.filter(|_| response.status != 100 && self.request.version != Version::Http10) {
            response.remove_hop_by_hop();
            to.push(response);
        }
        Ok(())
    }
}

/// The pseudo-field beside the fields that HTTP/1.1 would have.
fn head_bounds(limits: &Limits) -> Bounds {
    Bounds { bytes: limits.head_bytes + ":status200".len(), fields: limits.fields + 1 }
}

/// What goes out first.
fn head(attempt: &Attempt<'_>, body: &Body) -> Result<Vec<u8>, AttemptError> {
    let request = attempt.request;
    let protocol = attempt.extended().map(|extended| extended.protocol().name());
    let length = match body.length() {
        _ if protocol.is_some() => None,
        // A method that usually carries a body says that it has none.
        Some(0) if !body.is_stream() && !matches!(request.method, Method::Post | Method::Put | Method::Patch) => None,
        length => length,
    };
    let options = RequestOptions { authority: attempt.host, prefix: &attempt.server.prefix, length, protocol };
    let mut bytes = Vec::with_capacity(512);
    if message::write_request(request, &options, &mut bytes) { Ok(bytes) } else { Err(AttemptError::Unsayable) }
}

/// The connection ended before anything of the request was said. The body is where it was, and nothing is wrong with the server.
fn unsent() -> AttemptError {
    let loss = Loss::default();
    loss.is_ours();
    AttemptError::Broken { error: io::ErrorKind::NotConnected.into(), stage: Stage::Untouched, loss: Some(loss) }
}

/// Why no answer came.
fn failed(why: Why, is_kept: bool, stream: &Stream, counters: &Counters, extended: bool) -> AttemptError {
    let broken = |text: String, refused: bool, loss| {
        let stage = if refused && is_kept { Stage::Untouched } else { Stage::Sent };
        AttemptError::Broken { error: io::Error::other(text), stage, loss }
    };
    match why {
        Why::Fault(code) => AttemptError::FaultyH3(code),
        Why::Lost => broken("the connection ended".to_owned(), false, Some(stream.session().loss.clone())),
        // A connection that takes no more says nothing of its server.
        Why::Refused => {
            let loss = Loss::default();
            loss.is_ours();
            broken("the backend takes no more requests on this connection".to_owned(), true, Some(loss))
        }
        Why::Reset(code) => {
            let refused = code == u64::from(Code::RequestRejected.value());
            if refused {
                counters.refused_h3.hit(base_runtime::worker_index());
            }
            let known = Code::ALL.iter().find(|known| u64::from(known.value()) == code).map(|known| known.text());
            let text = known.map_or_else(|| format!("{code:#x}"), str::to_owned);
            let error = broken(format!("the backend reset the stream with {text}"), refused, None);
            match error {
                AttemptError::Broken { error, loss, .. }
                    if is_kept && code == u64::from(Code::VersionFallback.value()) =>
                {
                    if extended {
                        stream.session().wants_websockets_over_http1();
                    }
                    AttemptError::Broken { error, stage: Stage::OverHttp1, loss }
                }
                other => other,
            }
        }
    }
}

/// A request body on its way to the backend.
struct H3Upload {
    body: Body,
    /// The place on the connection, until nothing is left of the exchange.
    place: Rc<H3Stream>,
    /// Bytes of the body that were handed over.
    handed: u64,
    /// Its end was handed over, which may not have been taken.
    ended: bool,
}

impl Upload for H3Upload {
    /// What the backend has to say to a body of which it wants no more comes from the answer.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let stream = self.place.stream();
        loop {
            ready!(stream.poll_drained(cx));
            if self.ended || stream.is_shut() {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.body.poll_piece(cx, Sight::Seen)) {
                Err(error) => return Poll::Ready(Err(error)),
                Ok(Some(piece)) => {
                    self.handed += piece.len() as u64;
                    stream.say_data(match piece {
                        Piece::Buf(buffer) => Data::from(buffer),
                        Piece::Bytes(bytes) => Data::from(bytes),
                        Piece::Pipe(_) => unreachable!("bytes that are to be seen are in memory"),
                    });
                }
                Ok(None) => {
                    if let Some(trailers) = self.body.trailers() {
                        let mut bytes = Vec::new();
                        if message::write_trailers(&trailers, &mut bytes) {
                            stream.say(bytes);
                        }
                    }
                    stream.say_end();
                    self.ended = true;
                }
            }
        }
    }

    fn waits_for(&mut self, _: &mut Context<'_>) -> WaitsFor {
        let stream = self.place.stream();
        match stream.is_drained() {
            true => WaitsFor::Client,
            false if stream.is_shut() => WaitsFor::Nobody,
            false => WaitsFor::Backend { taken: stream.written() },
        }
    }
}

/// An answer's body as it arrives. Dropped before its end, the stream is reset.
struct Download {
    /// `None` once it has ended. The place on the connection, until nothing is left of the exchange.
    place: Option<Rc<H3Stream>>,
    /// The rest of the request's body, until the answer has ended.
    beside: Option<Beside>,
    /// Bytes to come, when the backend said how many.
    left: Option<u64>,
    trailers: Option<Headers>,
    limits: Limits,
    recorder: ServerRecorder,
}

impl Download {
    fn fail(&mut self, error: BodyError, counted_as: UpstreamError) -> Poll<Result<Option<Piece>, BodyError>> {
        self.place = None;
        self.beside = None;
        self.recorder.error(counted_as);
        Poll::Ready(Err(error))
    }

    /// It breaks what was announced, or a bound.
    fn malformed(&mut self, code: Code) -> Poll<Result<Option<Piece>, BodyError>> {
        if let Some(place) = &self.place {
            place.stream().abort(code, Why::Fault(code));
        }
        self.fail(BodyError::Malformed { status: 502 }, UpstreamError::Protocol)
    }

    fn end(&mut self) {
        self.place = None;
        if let Some(beside) = self.beside.take() {
            beside.end(|| ());
        }
    }

    fn read_trailers(&mut self, block: &[u8], place: &H3Stream) -> Result<(), Code> {
        let mut section = Section::default();
        let bounds = Bounds { bytes: self.limits.trailer_bytes, fields: self.limits.trailers };
        match qpack::decode(block, &bounds, &mut section) {
            Ok(()) => {}
            Err(qpack::Unread::TooLarge | qpack::Unread::TooMany) => return Err(Code::ExcessiveLoad),
            Err(qpack::Unread::Broken) => {
                place.stream().session().fail(Code::QpackDecompression);
                return Err(Code::QpackDecompression);
            }
        }
        self.trailers = Some(message::read_answer_trailers(&section, &self.limits).map_err(|_| Code::Message)?);
        Ok(())
    }
}

impl BodyStream for Download {
    fn poll_piece(&mut self, cx: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        if let Some(Err(error)) = self.beside.as_mut().map(|beside| beside.poll(cx)) {
            (self.place, self.beside) = (None, None);
            return Poll::Ready(Err(error));
        }
        loop {
            let Some(place) = self.place.clone() else { return Poll::Ready(Ok(None)) };
            match place.stream().poll_next(cx) {
                Next::Event(Event::Data(bytes)) => {
                    match self.left.map(|left| left.checked_sub(bytes.len() as u64)) {
                        Some(None) => return self.malformed(Code::Message),
                        Some(left) => self.left = left,
                        None => {}
                    }
                    return Poll::Ready(Ok(Some(Piece::Bytes(bytes))));
                }
                Next::Event(Event::Trailers(block)) => {
                    if let Err(code) = self.read_trailers(&block, &place) {
                        return self.malformed(code);
                    }
                }
                Next::Event(Event::TrailersTooLarge) => return self.malformed(Code::ExcessiveLoad),
                // There is one head, which was read.
                Next::Event(Event::Head(_) | Event::HeadTooLarge) => return self.malformed(Code::FrameUnexpected),
                Next::End if self.left.unwrap_or(0) > 0 => return self.malformed(Code::Message),
                Next::End => self.end(),
                // A backend that has answered in full may say so to stop the rest of a request (RFC 9114 section 4.1).
                Next::Broken(Why::Reset(code)) if code == u64::from(Code::NoError.value()) && self.left == Some(0) => {
                    self.end();
                }
                Next::Broken(Why::Fault(_)) => {
                    return self.fail(BodyError::Malformed { status: 502 }, UpstreamError::Protocol);
                }
                Next::Broken(_) => return self.fail(BodyError::Incomplete, UpstreamError::Closed),
                Next::Blocked if self.beside.as_ref().is_some_and(Beside::is_cut) => {
                    self.place = None;
                    return Poll::Ready(Err(BodyError::Incomplete));
                }
                Next::Blocked => return Poll::Pending,
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        self.left
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.trailers.take()
    }
}
