//! An exchange over a stream of HTTP/2 that shares its connection with others.
//!
//! Both directions wait for their readers: of a request's body at most [`SEND_HIGH_WATER`] bytes lie here beyond what the backend's
//! windows allow, and an answer's window opens as its bytes are taken. What comes of a stream that was given up is the crate's to tell
//! the backend.

use crate::attempt::{Answer, Attempt, AttemptError, Counters, Stage};
use crate::h2_tunnel::{H2Tunnel, kept};
use crate::lease::Exchanger;
use crate::loss::Loss;
use crate::sessions::Stream;
use crate::upload::{Beside, Upload, WaitsFor};
use crate::websocket;
use base_runtime::time::Deadline;
use base_telemetry::proxy::{ServerRecorder, UpstreamError};
use bytes::Bytes;
use edge_pipeline::{Body, BodyError, BodyStream, Duplex, Piece, Sight};
use proto_h2::fields::{self, RequestOptions};
use proto_h2::{Data, Progress, h2};
use proto_http::h1::{Fault, InterimCount};
use proto_http::{Headers, Limits, Method, Version};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
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
        // The opening of a WebSocket leaves the way open for what is said over it.
        let key = attempt.websocket_key();
        let ends = key.is_none() && !outgoing.is_stream() && outgoing.length() == Some(0) && !outgoing.has_trailers();
        let head = head(attempt, &outgoing)?;
        let Some(mut requests) = self.requests() else {
            return Err(unsent(outgoing, is_kept, body, io::ErrorKind::NotConnected.into()));
        };
        let (mut response, sending) = match requests.send_request(head, ends) {
            Ok(begun) => begun,
            Err(error) => {
                // It was closed in the meantime, or can count no more streams; or it is the request that it will not have.
                self.close_session();
                if !error.is_io() && !error.is_go_away() && error.reason().is_none() {
                    return Err(AttemptError::Unsayable);
                }
                return Err(unsent(outgoing, is_kept, body, into_io(error)));
            }
        };
        drop(requests);
        self.asked();
        let number = response.stream_id().as_u32();
        let unopened = Deadline::at(base_runtime::now() + OPENED_WITHIN);
        let lease = Rc::new(self);
        let (mut upload, tunnel) = match key {
            Some(key) => (None, Some((key, sending))),
            None => {
                let upload = || H2Upload { body: outgoing, sending, progress: Rc::default(), _lease: lease.clone() };
                ((!ends).then(upload), None)
            }
        };
        let mut interim = InterimCount::default();
        let mut cut = None;
        let head = poll_fn(|cx| {
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
            while let Poll::Ready(Some(Ok(head))) = response.poll_informational(cx) {
                attempt.hand_on(&head, &mut interim)?;
            }
            match (Pin::new(&mut response).poll(cx), cut) {
                (Poll::Ready(Ok(head)), _) => Poll::Ready(Ok(head)),
                // The backend will wait for the rest for ever; what it has said already is the answer.
                (_, Some(error)) => Poll::Ready(Err(AttemptError::RequestBody(error))),
                (Poll::Pending, None) => {
                    while unopened.poll_expired(cx).is_ready() {
                        if lease.is_opened(number) {
                            unopened.clear();
                            break;
                        }
                        if lease.is_shut_out() {
                            let error = io::Error::other("it takes no more requests on this connection");
                            return Poll::Ready(Err(not_begun(error, is_kept)));
                        }
                        unopened.set_after(OPENED_WITHIN);
                    }
                    Poll::Pending
                }
                (Poll::Ready(Err(error)), None) => {
                    Poll::Ready(Err(failed(error, is_kept, &lease, attempt.counters, key.is_some())))
                }
            }
        });
        let (head, incoming) = head.await?.into_parts();
        if !keep_body {
            drop(std::mem::take(body));
        }
        let response = fields::read_response(&http::Response::from_parts(head, ()));
        within(&response.headers, attempt.limits)?;
        if let Some((key, mut sending)) = tunnel {
            if (200..300).contains(&response.status) {
                let response = websocket::switched(response, key);
                let upgraded: Box<dyn Duplex> = Box::new(H2Tunnel::new(incoming, sending, lease));
                return Ok(Answer { response, body: Body::Empty, upgraded: Some(upgraded) });
            }
            // It answers as it would any request, and nothing is said over what was not opened.
            let _ = sending.send_data(Bytes::new().into(), true);
        }
        let beside = Beside::begin(upload, cut.is_some(), response.status, attempt.counters);
        if incoming.is_end_stream() {
            beside.end(|| ());
            return Ok(Answer { response, body: Body::Empty, upgraded: None });
        }
        let announced = response.headers.known(proto_http::Known::ContentLength);
        let left = announced.and_then(|length| std::str::from_utf8(length).ok()?.parse().ok());
        let download = Download {
            incoming: Some(incoming),
            lease,
            beside: Some(beside),
            left: if attempt.request.method == Method::Head { Some(0) } else { left },
            pending: Bytes::new(),
            trailers: None,
            trailers_most: (attempt.limits.trailers, attempt.limits.trailer_bytes),
            recorder: attempt.recorder.clone(),
        };
        Ok(Answer { response, body: Body::Stream(Box::new(download)), upgraded: None })
    }
}

impl Attempt<'_> {
    /// An interim answer goes its way.
    fn hand_on(&self, head: &http::Response<()>, interim: &mut InterimCount) -> Result<(), AttemptError> {
        if head.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            return Err(AttemptError::Malformed(Fault::SwitchUnasked.into()));
        }
        interim.count(self.limits).map_err(AttemptError::Malformed)?;
        // As over HTTP/1.1: a 100 is never asked of the backend, and clients of HTTP/1.0 know no interim answers.
        let wanted = head.status() != http::StatusCode::CONTINUE && self.request.version != Version::Http10;
        if let Some(to) = self.interim.filter(|_| wanted) {
            let mut response = fields::read_response(head);
            within(&response.headers, self.limits)?;
            response.remove_hop_by_hop();
            to.push(response);
        }
        Ok(())
    }
}

/// What goes out first.
fn head(attempt: &Attempt<'_>, body: &Body) -> Result<http::Request<()>, AttemptError> {
    let request = attempt.request;
    let length = match body.length() {
        // A method that usually carries a body says that it has none.
        _ if attempt.websocket_key().is_some() => None,
        Some(0) if !body.is_stream() && !matches!(request.method, Method::Post | Method::Put | Method::Patch) => None,
        length => length,
    };
    let options = RequestOptions {
        scheme: if attempt.server.identity.is_some() { "https" } else { "http" },
        authority: attempt.host,
        length,
        protocol: attempt.websocket_key().map(|_| "websocket"),
        expect_continue: false,
    };
    // What follows a CONNECT is no message.
    let sayable = request.method != Method::Connect;
    let mut head = fields::write_request(request, &options).filter(|_| sayable).ok_or(AttemptError::Unsayable)?;
    let prefix = &attempt.server.prefix;
    if !prefix.is_empty() && !request.path.is_asterisk() {
        let mut parts = head.uri().clone().into_parts();
        let target = parts.path_and_query.as_ref().map_or("/", |target| target.as_str());
        parts.path_and_query = Some(format!("{prefix}{target}").parse().map_err(|_| AttemptError::Unsayable)?);
        *head.uri_mut() = http::Uri::from_parts(parts).map_err(|_| AttemptError::Unsayable)?;
    }
    Ok(head)
}

/// What HTTP/1.1 would refuse, too.
fn within(headers: &Headers, limits: &Limits) -> Result<(), AttemptError> {
    let fault = |fault: Fault| Err(AttemptError::Malformed(fault.into()));
    if headers.len() > limits.fields {
        return fault(Fault::TooManyFields);
    }
    let mut whole = 0;
    for (name, value, _) in headers.iter() {
        let line = name.len() + value.len() + 4;
        if line > limits.field_bytes {
            return fault(Fault::FieldTooLarge);
        }
        whole += line;
    }
    if whole > limits.head_bytes { fault(Fault::HeadTooLarge) } else { Ok(()) }
}

/// Nothing of the request went out, and nothing is wrong with the server.
fn not_begun(error: io::Error, is_kept: bool) -> AttemptError {
    let stage = if is_kept { Stage::Untouched } else { Stage::Sent };
    let loss = Loss::default();
    loss.is_ours();
    AttemptError::Broken { error, stage, loss: Some(loss) }
}

/// The request is where it was.
fn unsent(outgoing: Body, is_kept: bool, body: &mut Body, error: io::Error) -> AttemptError {
    if !is_kept {
        *body = outgoing;
    }
    not_begun(error, true)
}

/// Why no answer came. What the backend says it has done nothing with may go elsewhere (RFC 9113 section 8.7): streams after the last
/// one of a GOAWAY, and those it refused.
fn failed(error: h2::Error, is_kept: bool, lease: &Stream, counters: &Counters, opens_websocket: bool) -> AttemptError {
    if error.is_library() && error.is_reset() {
        counters.faults.hit(base_runtime::worker_index());
        return AttemptError::Faulty(error);
    }
    let reset = error.reason().filter(|_| error.is_remote() && error.is_reset());
    let wants_http1 = reset == Some(h2::Reason::HTTP_1_1_REQUIRED);
    match wants_http1 {
        true if opens_websocket => lease.wants_websockets_over_http1(),
        true => lease.wants_http1(),
        false => {}
    }
    let refused = wants_http1 || reset == Some(h2::Reason::REFUSED_STREAM) || error.is_remote() && error.is_go_away();
    if reset == Some(h2::Reason::REFUSED_STREAM) {
        counters.refused.hit(base_runtime::worker_index());
    }
    let stage = if refused && is_kept { Stage::Untouched } else { Stage::Sent };
    // A reset is of one stream, everything else of the connection; and one that ends in good order says nothing of its server.
    let loss = (!error.is_reset()).then(|| lease.session.loss.clone());
    if let Some(loss) = &loss
        && error.is_remote()
        && error.reason() == Some(h2::Reason::NO_ERROR)
    {
        loss.is_ours();
    }
    AttemptError::Broken { error: into_io(error), stage, loss }
}

fn into_io(error: h2::Error) -> io::Error {
    if error.is_io() { error.into_io().unwrap_or_else(|| io::ErrorKind::Other.into()) } else { io::Error::other(error) }
}

/// A request body on its way to the backend.
struct H2Upload {
    body: Body,
    sending: h2::SendStream<Data>,
    progress: Rc<Progress>,
    /// The place on the connection, until nothing is left of the exchange.
    _lease: Rc<Stream>,
}

impl Upload for H2Upload {
    /// What the backend has to say to a body of which it wants no more comes from the answer.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        loop {
            if self.sending.poll_reset(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.progress.poll_waiting(SEND_HIGH_WATER, cx));
            let sent = match ready!(self.body.poll_piece(cx, Sight::Seen)) {
                Err(error) => return Poll::Ready(Err(error)),
                Ok(Some(piece)) => {
                    let last = !self.body.is_stream() && self.body.length() == Some(0) && !self.body.has_trailers();
                    let data = match piece {
                        Piece::Buf(buffer) => kept(buffer, &self.progress),
                        Piece::Bytes(bytes) => Data::from(bytes),
                        Piece::Pipe(_) => unreachable!("bytes that are to be seen are in memory"),
                    };
                    let sent = self.sending.send_data(data.counted(&self.progress), last);
                    if sent.is_ok() && !last {
                        continue;
                    }
                    sent
                }
                Ok(None) => match self.body.trailers().and_then(|trailers| fields::write_trailers(&trailers)) {
                    Some(trailers) => self.sending.send_trailers(trailers),
                    None => self.sending.send_data(Bytes::new().into(), true),
                },
            };
            // A stream that has ended meanwhile takes nothing; the answer tells.
            drop(sent);
            return Poll::Ready(Ok(()));
        }
    }

    fn waits_for(&mut self, _: &mut Context<'_>) -> WaitsFor {
        let taken = self.progress.written();
        if self.progress.handed() == taken { WaitsFor::Client } else { WaitsFor::Backend { taken } }
    }
}

/// An answer's body as it arrives. Dropped before its end, the stream is reset.
struct Download {
    /// `None` once it has ended.
    incoming: Option<h2::RecvStream>,
    /// The place on the connection, until nothing is left of the exchange.
    lease: Rc<Stream>,
    /// The rest of the request's body, until the answer has ended.
    beside: Option<Beside>,
    /// Bytes to come, when the backend said how many.
    left: Option<u64>,
    /// Received, and longer than a piece may be.
    pending: Bytes,
    trailers: Option<Headers>,
    /// Fields and bytes.
    trailers_most: (usize, usize),
    recorder: ServerRecorder,
}

impl Download {
    fn fail(&mut self, error: BodyError, counted_as: UpstreamError) -> Poll<Result<Option<Piece>, BodyError>> {
        self.incoming = None;
        self.beside = None;
        self.recorder.error(counted_as);
        Poll::Ready(Err(error))
    }

    fn end(&mut self) {
        self.incoming = None;
        if let Some(beside) = self.beside.take() {
            beside.end(|| ());
        }
    }

    fn hand_out(&mut self) -> Option<Piece> {
        if self.pending.is_empty() {
            return None;
        }
        let piece = self.pending.split_to(self.pending.len().min(Piece::MOST));
        if let Some(incoming) = &mut self.incoming {
            // Fails only for more than was received.
            let _ = incoming.flow_control().release_capacity(piece.len());
            self.lease.took(piece.len());
        }
        Some(Piece::Bytes(piece))
    }
}

impl BodyStream for Download {
    fn poll_piece(&mut self, cx: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        if let Some(Err(error)) = self.beside.as_mut().map(|beside| beside.poll(cx)) {
            (self.incoming, self.beside) = (None, None);
            return Poll::Ready(Err(error));
        }
        loop {
            if let Some(piece) = self.hand_out() {
                return Poll::Ready(Ok(Some(piece)));
            }
            let Some(incoming) = &mut self.incoming else { return Poll::Ready(Ok(None)) };
            let received = match incoming.poll_data(cx) {
                Poll::Pending if self.beside.as_ref().is_some_and(Beside::is_cut) => {
                    self.incoming = None;
                    return Poll::Ready(Err(BodyError::Incomplete));
                }
                received => ready!(received),
            };
            match received {
                Some(Ok(bytes)) => {
                    self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
                    self.pending = bytes;
                }
                // A backend that has answered in full may say so to stop the rest of a request (RFC 9113 section 8.1).
                Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) && self.left.unwrap_or(0) == 0 => {
                    self.end();
                }
                Some(Err(error)) if error.is_library() => {
                    return self.fail(BodyError::Malformed { status: 502 }, UpstreamError::Protocol);
                }
                Some(Err(_)) => return self.fail(BodyError::Incomplete, UpstreamError::Closed),
                None => {
                    let trailers = match ready!(incoming.poll_trailers(cx)) {
                        Ok(trailers) => trailers.map(|fields| fields::read_trailers(&fields)),
                        Err(error) if error.reason() == Some(h2::Reason::NO_ERROR) => None,
                        Err(_) => return self.fail(BodyError::Incomplete, UpstreamError::Closed),
                    };
                    let (fields_most, bytes_most) = self.trailers_most;
                    let bytes =
                        |t: &Headers| t.iter().map(|(name, value, _)| name.len() + value.len() + 4).sum::<usize>();
                    if trailers.as_ref().is_some_and(|t| t.len() > fields_most || bytes(t) > bytes_most) {
                        return self.fail(BodyError::Malformed { status: 502 }, UpstreamError::Protocol);
                    }
                    self.trailers = trailers;
                    self.end();
                }
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

impl Drop for Download {
    fn drop(&mut self) {
        if let Some(incoming) = &mut self.incoming {
            self.lease.took(incoming.flow_control().used_capacity());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto_http::Response;

    #[test]
    fn an_answer_keeps_the_bounds_of_http1() {
        let limits = Limits { fields: 4, field_bytes: 300, head_bytes: 600, ..Limits::default() };
        let fault = |lines: &[(&str, usize)]| {
            let mut response = Response::default();
            lines.iter().for_each(|(name, length)| response.headers.add(name, "v".repeat(*length)));
            match within(&response.headers, &limits) {
                Ok(()) => None,
                Err(AttemptError::Malformed(error)) => Some(error.kind),
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(fault(&[("a", 1); 4]), None);
        assert_eq!(fault(&[("a", 1); 5]), Some(Fault::TooManyFields));
        assert_eq!(fault(&[("a", 296)]), Some(Fault::FieldTooLarge));
        assert_eq!(fault(&[("a", 200); 3]), Some(Fault::HeadTooLarge));
    }
}
