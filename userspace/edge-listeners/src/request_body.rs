//! A request body as it comes from the client.

use crate::pace::Pace;
use base_runtime::Buf;
use base_runtime::time::Deadline;
use base_tls::Transport;
use edge_pipeline::wire::{send_bytes, unframe};
use edge_pipeline::{BodyError, BodyStream, Piece, Sight};
use proto_http::Headers;
use proto_http::h1::{BodyDecoder, Fault};
use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What is left of a body, shared by the stream that filters read and the connection that must know where the next
/// request begins.
pub struct Arrival {
    stream: Transport,
    decoder: BodyDecoder,
    pending: Option<Buf>,
    /// The client waits for 100 before it sends.
    expects_continue: bool,
    deadline: Deadline,
    pace: Pace,
    /// The deadline runs since then.
    waiting: Option<Instant>,
    /// Bytes that may still come; beyond it the body is too large.
    allowance: Option<u64>,
    /// Body bytes read so far.
    pub bytes: u64,
    failed: Option<BodyError>,
    /// What was wrong with the framing, when that is why it failed.
    fault: Option<Fault>,
    /// Whoever waits for it to be read by somebody else.
    watcher: Option<Waker>,
}

impl Arrival {
    /// `pending` are bytes that came with the head; `limit` bounds the body, `None` = no bound.
    pub fn new(
        stream: Transport,
        decoder: BodyDecoder,
        pending: Option<Buf>,
        expects_continue: bool,
        limit: Option<u64>,
        mut pace: Pace,
    ) -> Rc<RefCell<Arrival>> {
        pace.add(pending.as_ref().map_or(0, |p| p.len() as u64), Duration::ZERO);
        Rc::new(RefCell::new(Arrival {
            stream,
            decoder,
            pending,
            expects_continue,
            deadline: Deadline::default(),
            pace,
            waiting: None,
            allowance: limit,
            bytes: 0,
            failed: None,
            fault: None,
            watcher: None,
        }))
    }

    /// The body was read to its end, and what follows belongs to the next request.
    pub fn is_complete(&self) -> bool {
        self.decoder.is_done() && self.failed.is_none()
    }

    /// Trailers that were left out because of `_` in their names.
    pub fn dropped(&self) -> u32 {
        self.decoder.dropped()
    }

    /// The client still waits for a 100 it never got.
    pub fn awaits_continue(&self) -> bool {
        self.expects_continue
    }

    /// The backend wants the body: whether the client is still to be told so. It is told once.
    pub fn take_continue(&mut self) -> bool {
        self.pending.is_none() && std::mem::take(&mut self.expects_continue)
    }

    pub fn remaining(&self) -> Option<u64> {
        self.decoder.remaining()
    }

    /// When it timed out: it came too slowly, rather than not at all.
    pub fn is_too_slow(&self) -> bool {
        self.pace.is_rate()
    }

    /// Why it could not be read to its end.
    pub fn failed(&self) -> Option<BodyError> {
        self.failed
    }

    /// What the client got wrong, when it broke the framing.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// The answer has begun: a client that still waits for 100 gets none any more.
    pub fn answer_begins(&mut self) {
        self.expects_continue = false;
    }

    /// From now on it is to come at this pace.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
        if self.waiting.is_some() {
            self.waiting = Some(base_runtime::now());
            self.deadline.set_after(self.pace.patience());
        }
    }

    /// Ready once nobody else reads it any more, to its end or not.
    pub fn poll_left(this: &Rc<RefCell<Arrival>>, cx: &mut Context<'_>) -> Poll<()> {
        let mut arrival = this.borrow_mut();
        if Rc::strong_count(this) == 1 || arrival.decoder.is_done() || arrival.failed.is_some() {
            return Poll::Ready(());
        }
        arrival.watcher = Some(cx.waker().clone());
        Poll::Pending
    }

    /// What is left is read only to be thrown away, at this pace: no limit of size holds for it.
    pub fn discard(&mut self, pace: Pace) {
        self.allowance = None;
        self.set_pace(pace);
    }

    fn tell_watcher(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            watcher.wake();
        }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Result<Option<Buf>, BodyError>> {
        self.failed = Some(error);
        self.tell_watcher();
        Poll::Ready(Err(error))
    }

    /// The next piece of the body.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Buf>, BodyError>> {
        if let Some(error) = self.failed {
            return Poll::Ready(Err(error));
        }
        if self.decoder.is_done() {
            return Poll::Ready(Ok(None));
        }
        if std::mem::take(&mut self.expects_continue) && self.pending.is_none() {
            send_bytes(&self.stream, &[CONTINUE]);
        }
        loop {
            let mut buffer = match self.pending.take() {
                Some(buffer) => buffer,
                None => match self.receive(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(buffer)) => buffer,
                    Poll::Ready(Err(error)) => return self.fail(error),
                },
            };
            let rest = match unframe(&mut self.decoder, &mut buffer) {
                Ok(rest) => rest,
                Err(error) => {
                    self.fault = Some(error.kind);
                    return self.fail(BodyError::Malformed { status: error.kind.status() });
                }
            };
            if let Some(next_request) = rest {
                self.stream.unread(next_request);
            }
            if self.decoder.is_done() {
                self.tell_watcher();
            }
            if buffer.is_empty() {
                if self.decoder.is_done() {
                    return Poll::Ready(Ok(None));
                }
                continue;
            }
            let length = buffer.len() as u64;
            self.bytes += length;
            if let Some(allowance) = &mut self.allowance {
                if *allowance < length {
                    return self.fail(BodyError::TooLarge);
                }
                *allowance -= length;
            }
            return Poll::Ready(Ok(Some(buffer)));
        }
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Buf, BodyError>> {
        match self.stream.poll_recv(cx) {
            Poll::Ready(Ok(Some(buffer))) => {
                let waited = self.waiting.take().map_or(Duration::ZERO, |since| {
                    self.deadline.clear();
                    base_runtime::now().saturating_duration_since(since)
                });
                self.pace.add(buffer.len() as u64, waited);
                Poll::Ready(Ok(buffer))
            }
            Poll::Ready(_) => Poll::Ready(Err(BodyError::Incomplete)),
            Poll::Pending => {
                if self.waiting.is_none() {
                    self.waiting = Some(base_runtime::now());
                    self.deadline.set_after(self.pace.patience());
                }
                match self.deadline.poll_expired(cx) {
                    Poll::Ready(()) => Poll::Ready(Err(BodyError::TimedOut)),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }
}

/// The filters' end of a body.
pub struct RequestBody(pub Rc<RefCell<Arrival>>);

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.0.borrow_mut().tell_watcher();
    }
}

impl BodyStream for RequestBody {
    fn poll_piece(&mut self, cx: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        self.0.borrow_mut().poll_data(cx).map_ok(|piece| piece.map(Piece::Buf))
    }

    fn remaining(&self) -> Option<u64> {
        self.0.borrow().remaining()
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.0.borrow_mut().decoder.trailers()
    }
}
