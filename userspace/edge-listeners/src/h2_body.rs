//! A request body as it comes over a stream of HTTP/2.

use crate::h1_stream::UNDERSCORES_DROPPED;
use crate::h2_connection::Streams;
use crate::http_server::Local;
use crate::pace::Pace;
use base_runtime::time::Deadline;
use bytes::Bytes;
use edge_pipeline::{BodyError, BodyStream, Piece, Sight};
use proto_h2::server::{Body, BodyBroken, Stream};
use proto_http::h1::Fault;
use proto_http::{Headers, Response};
use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// What is left of a body, shared by the stream that filters read and the exchange that must know what became of it.
pub struct Arrival<S: Stream> {
    body: S::Body,
    /// The way back, for `100 Continue`.
    stream: Rc<RefCell<S>>,
    /// Of its connection.
    streams: Rc<Streams>,
    local: Rc<Local>,
    /// The client waits for 100 before it sends.
    expects_continue: bool,
    deadline: Deadline,
    pace: Pace,
    /// The deadline runs since then.
    waiting: Option<Instant>,
    /// Bytes that may still come; beyond it the body is too large.
    allowance: Option<u64>,
    /// Bytes that were announced.
    length: Option<u64>,
    /// Body bytes read so far.
    pub bytes: u64,
    ended: bool,
    failed: Option<BodyError>,
    /// What its trailers broke.
    fault: Option<Fault>,
    trailers: Option<Headers>,
    /// Whoever waits for it to be read by somebody else.
    watcher: Option<Waker>,
}

/// What a request says of its body, and what is asked of it.
pub struct Terms {
    pub length: Option<u64>,
    pub expects_continue: bool,
    /// Bytes it may have; `None` = any number.
    pub limit: Option<u64>,
    pub pace: Pace,
    /// Says what trailers may be.
    pub local: Rc<Local>,
}

impl<S: Stream> Arrival<S> {
    pub fn new(body: S::Body, stream: &Rc<RefCell<S>>, streams: &Rc<Streams>, terms: Terms) -> Rc<RefCell<Arrival<S>>> {
        Rc::new(RefCell::new(Arrival {
            body,
            stream: stream.clone(),
            streams: streams.clone(),
            local: terms.local,
            expects_continue: terms.expects_continue,
            deadline: Deadline::default(),
            pace: terms.pace,
            waiting: None,
            allowance: terms.limit,
            length: terms.length,
            bytes: 0,
            ended: false,
            failed: None,
            fault: None,
            trailers: None,
            watcher: None,
        }))
    }

    /// The backend wants the body: whether the client is still to be told so. It is told once.
    pub fn take_continue(&mut self) -> bool {
        std::mem::take(&mut self.expects_continue)
    }

    /// It was read to its end.
    pub fn is_complete(&self) -> bool {
        self.ended && self.failed.is_none()
    }

    /// When it timed out: it came too slowly, rather than not at all.
    pub fn is_too_slow(&self) -> bool {
        self.pace.is_rate()
    }

    /// Why it could not be read to its end.
    pub fn failed(&self) -> Option<BodyError> {
        self.failed
    }

    /// What its trailers broke, when they did.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
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
    pub fn poll_left(this: &Rc<RefCell<Arrival<S>>>, cx: &mut Context<'_>) -> Poll<()> {
        let mut arrival = this.borrow_mut();
        if Rc::strong_count(this) == 1 || arrival.ended || arrival.failed.is_some() {
            return Poll::Ready(());
        }
        arrival.watcher = Some(cx.waker().clone());
        Poll::Pending
    }

    fn tell_watcher(&mut self) {
        if let Some(watcher) = self.watcher.take() {
            watcher.wake();
        }
    }

    fn fail(&mut self, error: BodyError) -> Poll<Result<Option<Bytes>, BodyError>> {
        self.failed = Some(error);
        self.tell_watcher();
        Poll::Ready(Err(error))
    }

    /// The next bytes of the body.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BodyError>> {
        if let Some(error) = self.failed {
            return Poll::Ready(Err(error));
        }
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        if self.take_continue() {
            self.stream.borrow_mut().send_interim(&Response::with_status(100));
        }
        match self.body.poll_data(cx) {
            Poll::Ready(Ok(Some(bytes))) => {
                let waited = self.waiting.take().map_or(Duration::ZERO, |since| {
                    self.deadline.clear();
                    base_runtime::now().saturating_duration_since(self.streams.could_send_since(since))
                });
                let length = bytes.len() as u64;
                self.pace.add(length, waited);
                self.bytes += length;
                self.streams.took(length);
                if let Some(allowance) = &mut self.allowance {
                    if *allowance < length {
                        return self.fail(BodyError::TooLarge);
                    }
                    *allowance -= length;
                }
                Poll::Ready(Ok(Some(bytes)))
            }
            Poll::Ready(Ok(None)) => {
                match self.body.trailers(&self.local.live().limits) {
                    Ok(None) => {}
                    Ok(Some((trailers, dropped))) => {
                        if dropped > 0 {
                            self.local.limit(UNDERSCORES_DROPPED);
                        }
                        self.trailers = Some(trailers);
                    }
                    Err(fault) => {
                        self.fault = Some(fault);
                        return self.fail(BodyError::Malformed { status: fault.status() });
                    }
                }
                self.ended = true;
                self.tell_watcher();
                Poll::Ready(Ok(None))
            }
            Poll::Ready(Err(BodyBroken::Length)) => self.fail(BodyError::Malformed { status: 400 }),
            Poll::Ready(Err(BodyBroken::Gone)) => self.fail(BodyError::Incomplete),
            Poll::Pending => {
                if self.waiting.is_none() {
                    self.waiting = Some(base_runtime::now());
                    self.deadline.set_after(self.pace.patience());
                }
                while self.deadline.poll_expired(cx).is_ready() {
                    let could = self.waiting.map(|since| (since, self.streams.could_send_since(since)));
                    match could {
                        Some((since, could)) if could > since => {
                            self.waiting = Some(could);
                            self.deadline.set(could + self.pace.patience());
                        }
                        _ => return self.fail(BodyError::TimedOut),
                    }
                }
                Poll::Pending
            }
        }
    }
}

impl<S: Stream> Drop for Arrival<S> {
    fn drop(&mut self) {
        // What nobody reads any more the machine throws away.
        self.streams.took(self.body.unread() as u64);
    }
}

/// The filters' end of a body.
pub struct RequestBody<S: Stream>(pub Rc<RefCell<Arrival<S>>>);

impl<S: Stream> Drop for RequestBody<S> {
    fn drop(&mut self) {
        self.0.borrow_mut().tell_watcher();
    }
}

impl<S: Stream> BodyStream for RequestBody<S> {
    fn poll_piece(&mut self, cx: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        self.0.borrow_mut().poll_data(cx).map_ok(|bytes| bytes.map(Piece::Bytes))
    }

    fn remaining(&self) -> Option<u64> {
        let arrival = self.0.borrow();
        match arrival.ended {
            true => Some(0),
            false => arrival.length.map(|length| length.saturating_sub(arrival.bytes)),
        }
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.0.borrow_mut().trailers.take()
    }
}
