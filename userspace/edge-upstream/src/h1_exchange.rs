//! An exchange over a connection of HTTP/1.1: send the request, read the head of the answer, hand the body on.

use crate::attempt::{Answer, Attempt, AttemptError, Stage};
use crate::lease::Exchanger;
use crate::pool::{self, Link};
use crate::upload::{Beside, Upload, WaitsFor};
use base_runtime::{Buf, net};
use base_telemetry::Limit;
use base_telemetry::proxy::UpstreamError;
use base_tls::Transport;
use edge_pipeline::exchange::fresh_response;
use edge_pipeline::wire::{send_head, send_last_chunk, send_piece, unframe};
use edge_pipeline::{Body, BodyError, BodyStream, Piece, Sight};
use proto_http::h1::{self, BodyDecoder, Fault, Framing, RequestOptions, ResponseHead};
use proto_http::{Headers, Method, Response, Version};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, Waker};

/// Request body bytes that may wait for a backend that reads slowly.
const SEND_HIGH_WATER: usize = 64 * 1024;

/// A rest of a body at least this long is left in the kernel, in bytes. CPU of the whole gateway per MB, in µs, received into
/// buffers and left in the kernel: bodies of 256 KiB 320–430 and 250–275, of 128 KiB (with half of this) 760 and 720. Below that
/// ending one kind of receiving and beginning it again costs what the copies did.
const SPLICED_LEAST: u64 = 128 * 1024;

impl Exchanger for Box<Link> {
    async fn exchange(self, attempt: &Attempt<'_>, body: &mut Body, keep_body: bool) -> Result<Answer, AttemptError> {
        let link = self;
        let stream = &link.stream;
        let framing = match body.length() {
            _ if body.has_trailers() => Framing::Chunked,
            Some(0) if matches!(body, Body::Stream(_)) => Framing::Length(0),
            // A method that usually carries a body says that it has none; others stay without framing.
            Some(0) if matches!(attempt.request.method, Method::Post | Method::Put | Method::Patch) => {
                Framing::Length(0)
            }
            Some(0) => Framing::Empty,
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        let kept = if keep_body { body.again() } else { None };
        // What has nothing to lose is as it was, too.
        let is_kept = kept.is_some() || matches!(body, Body::Empty);
        let mut outgoing = kept.unwrap_or_else(|| std::mem::take(body));
        let sent_before = stream.bytes_sent();
        // Broken before anything of an answer came.
        let unanswered = |error| {
            let mut nobody = Context::from_waker(Waker::noop());
            let refused = matches!(stream.poll_send_ready(&mut nobody, usize::MAX), Poll::Ready(Err(_)));
            let refused = refused && stream.bytes_sent() == sent_before;
            let stage = if refused && is_kept { Stage::Untouched } else { Stage::Sent };
            AttemptError::Broken { error, stage, loss: None }
        };
        let begun = poll_fn(|cx| Poll::Ready(attempt.begin_upload(stream, std::mem::take(&mut outgoing), framing, cx)));
        let mut sending = begun.await?;
        let mut interim = h1::InterimCount::default();
        let mut partial: Vec<u8> = Vec::new();
        let mut answered = false;
        let mut unsent = None;
        loop {
            let broken = |error| match answered {
                false => unanswered(error),
                true => AttemptError::Broken { error, stage: Stage::Answered, loss: None },
            };
            // The body goes out while the answer is waited for: a backend may answer before it has read everything.
            let received = poll_fn(|cx| {
                if let Some(upload) = &mut sending {
                    match upload.poll(cx) {
                        Poll::Ready(Ok(())) => sending = None,
                        Poll::Ready(Err(error)) => {
                            (sending, unsent) = (None, Some(error));
                            if !error.spares_the_answer() {
                                return Poll::Ready(Err(AttemptError::RequestBody(error)));
                            }
                        }
                        Poll::Pending => {}
                    }
                }
                match (stream.poll_recv(cx), unsent) {
                    (Poll::Ready(Ok(Some(buffer))), _) => Poll::Ready(Ok(Some(buffer))),
                    // The backend will wait for the rest for ever; what it has said already is the answer.
                    (_, Some(error)) => Poll::Ready(Err(AttemptError::RequestBody(error))),
                    (received, None) => received.map(|r| r.map_err(broken)),
                }
            })
            .await?;
            let Some(mut buffer) = received else { return Err(broken(io::ErrorKind::UnexpectedEof.into())) };
            answered = true;
            // Most heads arrive whole; one that does not is gathered in memory of its own size.
            if !partial.is_empty() {
                partial.extend_from_slice(&buffer);
                // No head ends without a line's end: one that comes byte by byte is not read from its start with each of them.
                if !buffer.contains(&b'\n') && partial.len() < attempt.limits.head_bytes {
                    continue;
                }
            }
            let bytes: &[u8] = if partial.is_empty() { &buffer } else { &partial };
            let mut response = fresh_response();
            let (read, head) = attempt.parse(bytes, &mut interim, &mut response)?;
            let Some(head) = head else {
                partial = bytes[read..].to_vec();
                continue;
            };
            // The head was incomplete before this buffer, so its end lies in it.
            let rest = (bytes.len() - read).min(buffer.len());
            buffer.advance(buffer.len() - rest);
            // Only a client that offered it, and has said all it had to say in HTTP, goes on in another protocol.
            if head.switching {
                let said = sending.is_none() && unsent.is_none();
                let offered = h1::offered_upgrade(&attempt.request.headers).filter(|_| attempt.upgrade && said);
                let accepted = h1::accepted_upgrade(&response.headers).filter(|_| response.status == 101);
                if offered.is_none() || accepted != offered {
                    return Err(AttemptError::Malformed(Fault::SwitchUnasked.into()));
                }
                if !buffer.is_empty() {
                    stream.unread(buffer);
                }
                return Ok(Answer { response, body: Body::Empty, upgraded: Some(Box::new(stream.clone())) });
            }
            let keep = head.keep_alive.then_some(attempt.max_idle);
            let beside = Beside::begin(sending, unsent.is_some(), response.status, attempt.counters);
            let connection = BusyConnection { link, keep, beside };
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
                    decoder: BodyDecoder::of_answer(framing, attempt.limits),
                    mended: (framing == Framing::Chunked).then(|| attempt.counters.mended.clone()),
                    pending: (!buffer.is_empty()).then_some(buffer),
                    splicing: false,
                })),
            };
            return Ok(Answer { response, body, upgraded: None });
        }
    }
}

impl Attempt<'_> {
    /// Reads heads until that of the final answer; interim ones go their way. Says how many bytes were read, and the head if it
    /// is there.
    fn parse(
        &self,
        bytes: &[u8],
        interim: &mut h1::InterimCount,
        response: &mut Response,
    ) -> Result<(usize, Option<ResponseHead>), AttemptError> {
        let mut read = 0;
        loop {
            let found = h1::parse_response(&bytes[read..], self.limits, &self.request.method, response);
            let Some(head) = found.map_err(AttemptError::Malformed)? else { return Ok((read, None)) };
            read += head.consumed;
            if head.mended {
                self.counters.mended.hit(base_runtime::worker_index());
            }
            if !head.interim {
                return Ok((read, Some(head)));
            }
            interim.count(self.limits).map_err(AttemptError::Malformed)?;
            // Whoever expects a 100 gets it from us when its body is first read: it is never asked of the backend. And clients of
            // HTTP/1.0 know no interim answers (RFC 9110 section 15.2).
            if let Some(to) = self.interim.filter(|_| response.status != 100 && self.request.version != Version::Http10)
            {
                response.remove_hop_by_hop();
                to.push(std::mem::take(response));
            }
        }
    }

    /// Sends the head, with the first piece of the body when that is there already. `None`: there is nothing more to send.
    fn begin_upload(
        &self,
        stream: &Transport,
        mut body: Body,
        framing: Framing,
        cx: &mut Context<'_>,
    ) -> Result<Option<H1Upload>, AttemptError> {
        let chunked = framing == Framing::Chunked;
        let (piece, more) = match body.poll_piece(cx, Sight::Seen) {
            Poll::Ready(Err(error)) => return Err(AttemptError::RequestBody(error)),
            Poll::Ready(Ok(None)) => (None, false),
            Poll::Ready(Ok(piece)) => (piece, body.is_stream() || body.length() != Some(0)),
            Poll::Pending => (None, true),
        };
        self.with_head(framing, |head| send_head(stream, head, piece, chunked));
        if !more && chunked {
            send_last_chunk(stream, body.trailers().as_ref());
        }
        Ok(more.then(|| H1Upload { stream: stream.clone(), body, chunked }))
    }

    fn with_head(&self, framing: Framing, use_it: impl FnOnce(&[u8])) {
        thread_local! {
            static HEAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        HEAD.with_borrow_mut(|head| {
            head.clear();
            let options = RequestOptions { framing, host: self.host, upgrade: self.upgrade, expect_continue: false };
            h1::write_request_head(head, self.request, &options);
            let prefix = &self.server.prefix;
            if !prefix.is_empty() && !self.request.path.is_asterisk() && self.request.method != Method::Connect {
                let at = self.request.method.as_str().len() + 1;
                head.splice(at..at, prefix.bytes());
            }
            use_it(head);
        });
    }
}

/// A request body on its way to the backend.
struct H1Upload {
    stream: Transport,
    body: Body,
    chunked: bool,
}

impl Upload for H1Upload {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        let stream = &self.stream;
        loop {
            // A backend that closed its reading side may still answer; what it has to say comes from the read.
            match stream.poll_send_ready(cx, SEND_HIGH_WATER) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) | Poll::Pending => return Poll::Pending,
            }
            match self.body.poll_piece(cx, Sight::Seen) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(Some(piece))) => send_piece(stream, piece, self.chunked),
                Poll::Ready(Ok(None)) => {
                    if self.chunked {
                        send_last_chunk(stream, self.body.trailers().as_ref());
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    fn waits_for(&mut self, cx: &mut Context<'_>) -> WaitsFor {
        match self.stream.poll_send_ready(cx, SEND_HIGH_WATER) {
            Poll::Ready(Ok(())) => WaitsFor::Client,
            Poll::Ready(Err(_)) => WaitsFor::Nobody,
            Poll::Pending => WaitsFor::Backend { taken: self.stream.bytes_sent() },
        }
    }
}

/// A connection that is busy with an answer. Dropped before the end, it is closed.
struct BusyConnection {
    link: Box<Link>,
    /// `Some(most idle)` when it may serve again.
    keep: Option<usize>,
    /// The rest of the request's body: a backend may answer before it has read everything, and read on.
    beside: Beside,
}

impl BusyConnection {
    /// The answer is complete. A backend that sent more than it (not `clean`), or has not had the whole request, is not
    /// used again.
    fn release(self, clean: bool) {
        // A connection in the pool receives, so that it is seen to end.
        let clean = clean && self.link.stream.socket().end_splice();
        let Some(most) = self.keep.filter(|_| clean) else { return };
        // A body in memory may still be on its way, to a backend that answered without reading it.
        if self.beside.is_done() && self.link.stream.send_queue_len() > SEND_HIGH_WATER {
            return;
        }
        self.beside.end(move || pool::put(self.link, most));
    }
}

/// An answer's body as it arrives.
struct Download {
    connection: Option<BusyConnection>,
    decoder: BodyDecoder,
    /// Counts a body in which blanks were left out; only chunks have any.
    mended: Option<Limit>,
    pending: Option<Buf>,
    /// Some of it was left in the kernel; the rest is, too.
    splicing: bool,
}

impl Download {
    /// Gives the connection up and counts why.
    fn fail(&mut self, error: BodyError, counted_as: UpstreamError) -> BodyError {
        if let Some(connection) = self.connection.take() {
            connection.link.recorder.error(counted_as);
        }
        error
    }
}

impl BodyStream for Download {
    fn poll_piece(&mut self, cx: &mut Context<'_>, sight: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(Ok(None)) };
            if let Err(error) = connection.beside.poll(cx) {
                self.connection = None;
                return Poll::Ready(Err(error));
            }
            let mut buffer = match self.pending.take() {
                Some(buffer) => buffer,
                None => match poll_stream(&connection.link.stream, &self.decoder, sight, &mut self.splicing, cx) {
                    Poll::Pending if connection.beside.is_cut() => {
                        self.connection = None;
                        return Poll::Ready(Err(BodyError::Incomplete));
                    }
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(Some(net::ReceivedPiece::Buf(buffer)))) => buffer,
                    Poll::Ready(Ok(Some(net::ReceivedPiece::Pipe(pipe)))) => {
                        self.decoder.pass(pipe.len() as u64);
                        if self.decoder.is_done()
                            && let Some(connection) = self.connection.take()
                        {
                            connection.release(true);
                        }
                        return Poll::Ready(Ok(Some(Piece::Pipe(pipe))));
                    }
                    Poll::Ready(ended) => {
                        let complete = ended.is_ok() && self.decoder.finish_at_eof().is_ok();
                        if complete {
                            self.connection = None;
                            return Poll::Ready(Ok(None));
                        }
                        return Poll::Ready(Err(self.fail(BodyError::Incomplete, UpstreamError::Closed)));
                    }
                },
            };
            let Ok(rest) = unframe(&mut self.decoder, &mut buffer) else {
                return Poll::Ready(Err(self.fail(BodyError::Malformed { status: 502 }, UpstreamError::Protocol)));
            };
            if self.decoder.is_done()
                && let Some(connection) = self.connection.take()
            {
                connection.release(rest.is_none());
                if let Some(mended) = self.mended.take().filter(|_| self.decoder.mended() > 0) {
                    mended.hit(base_runtime::worker_index());
                }
            }
            if !buffer.is_empty() {
                return Poll::Ready(Ok(Some(Piece::Buf(buffer))));
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

/// What comes next from the backend. `splicing` is turned on where the rest is long enough to be left in the kernel.
fn poll_stream(
    stream: &Transport,
    decoder: &BodyDecoder,
    sight: Sight,
    splicing: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Option<net::ReceivedPiece>>> {
    if sight == Sight::Unseen
        && let (Transport::Plain(stream), Some(left)) = (stream, decoder.remaining())
        && (*splicing || left >= SPLICED_LEAST)
    {
        *splicing = true;
        return stream.poll_recv_piece(left, cx);
    }
    stream.poll_recv(cx).map_ok(|buffer| buffer.map(net::ReceivedPiece::Buf))
}
