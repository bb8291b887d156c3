//! A request's body as it comes from the client, whatever protocol carries it.
//!
//! What holds of every body is here: its limit, its pace, the `100 Continue` its client may wait for, who reads it, and what becomes of
//! a rest that nobody wants. A protocol adds a [`BodySource`], which knows where the bytes come from and where they end: one is
//! [`H1Body`](crate::h1_body::H1Body), one [`StreamBody`](crate::h2_body::StreamBody), for whatever machine has streams.

use crate::Timeouts;
use crate::client_stream::BodyFailure;
use crate::pace::Pace;
use base_runtime::time::Deadline;
use edge_pipeline::{BodyError, BodyStream, Piece, Sight};
use proto_http::Headers;
use proto_http::h1::Fault;
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

/// Where the bytes of a body come from.
pub trait BodySource: 'static {
    /// The next bytes, never none of them; `None` after the last. Whatever came is told to the clock, framing too.
    fn poll_next(&mut self, clock: &mut BodyClock, cx: &mut Context<'_>) -> Poll<Result<Option<Piece>, BodyBroken>>;

    /// Nothing more comes, which may be known before the end is asked for.
    fn is_done(&self) -> bool;

    /// Bytes still to come when `read` were read; `None` when only the end will tell.
    fn remaining(&self, read: u64) -> Option<u64>;

    /// Once it is done.
    fn trailers(&mut self) -> Option<Headers>;

    fn send_continue(&mut self);

    /// Since when the client could have sent what has been waited for since `since`.
    fn could_send_since(&self, since: Instant) -> Instant {
        since
    }
}

/// Why a source has no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyBroken {
    /// The client broke the rules of the body, or of its trailers. The name of what it broke, for the figures.
    Malformed { status: u16, limit: &'static str },
    /// The client gave it up, or the connection ended.
    Gone,
}

impl From<Fault> for BodyBroken {
    fn from(fault: Fault) -> BodyBroken {
        BodyBroken::Malformed { status: fault.status(), limit: fault.name() }
    }
}

/// How long the client is waited for.
pub struct BodyClock {
    deadline: Deadline,
    pace: Pace,
    /// The deadline runs since then.
    waiting: Option<Instant>,
}

impl BodyClock {
    fn new(pace: Pace) -> BodyClock {
        BodyClock { deadline: Deadline::default(), pace, waiting: None }
    }

    fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
        if self.waiting.is_some() {
            self.waiting = Some(base_runtime::now());
            self.deadline.set_after(self.pace.patience());
        }
    }

    /// So many bytes came. `could_send_since`: as of the source.
    pub fn came(&mut self, bytes: u64, could_send_since: impl FnOnce(Instant) -> Instant) {
        let waited = self.waiting.take().map_or(Duration::ZERO, |since| {
            self.deadline.clear();
            base_runtime::now().saturating_duration_since(could_send_since(since))
        });
        self.pace.add(bytes, waited);
    }

    fn poll_expired(&mut self, could_send_since: impl Fn(Instant) -> Instant, cx: &mut Context<'_>) -> Poll<()> {
        let mut since = *self.waiting.get_or_insert_with(|| {
            self.deadline.set_after(self.pace.patience());
            base_runtime::now()
        });
        loop {
            ready!(self.deadline.poll_expired(cx));
            let could = could_send_since(since);
            if could <= since {
                return Poll::Ready(());
            }
            since = could;
            self.waiting = Some(could);
            self.deadline.set(could + self.pace.patience());
        }
    }
}

/// What is asked of a body.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The client waits for 100 before it sends.
    pub expects_continue: bool,
    /// Bytes it may have; `None` = any number.
    pub limit: Option<u64>,
    pub pace: Pace,
}

/// How much of what nobody wants is read all the same, after the answer.
#[derive(Debug, Clone, Copy)]
pub struct Rest {
    pub bytes: u64,
    /// From the end of the answer on; `None` = for as long as the body's pace allows.
    pub within: Option<Duration>,
}

/// How what is left of a body was settled after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It was read to its end.
    Complete,
    /// It had failed before, and the client knows.
    Failed,
    /// Whoever read it took nothing for too long.
    Stalled,
    /// There is more of it than is thrown away, or it takes longer to come, if it does.
    TooMuch,
    /// It failed while it was thrown away.
    Broken,
}

/// What is left of a body, shared by the stream that filters read and the exchange that must know what became of it.
pub struct Arrival<S: BodySource> {
    source: S,
    clock: BodyClock,
    expects_continue: bool,
    /// The answer began while the client waited for 100: it is not known to send the body at all.
    unsent: bool,
    /// Bytes that may still come; beyond it the body is too large.
    allowance: Option<u64>,
    /// Body bytes read so far.
    bytes: u64,
    ended: bool,
    failed: Option<BodyFailure>,
    /// Whoever waits for it to be read by somebody else.
    watcher: Option<Waker>,
}

impl<S: BodySource> Arrival<S> {
    pub fn new(source: S, terms: Terms) -> Rc<RefCell<Arrival<S>>> {
        Rc::new(RefCell::new(Arrival {
            source,
            clock: BodyClock::new(terms.pace),
            expects_continue: terms.expects_continue,
            unsent: false,
            allowance: terms.limit,
            bytes: 0,
            ended: false,
            failed: None,
            watcher: None,
        }))
    }

    /// Body bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// It was read to its end.
    pub fn is_complete(&self) -> bool {
        self.is_over() && self.failed.is_none()
    }

    /// Nothing more comes of it.
    fn is_over(&self) -> bool {
        self.ended || self.source.is_done()
    }

    /// Why it could not be read to its end.
    pub fn failure(&self) -> Option<BodyFailure> {
        self.failed
    }

    /// The backend wants the body: whether the client is still to be told so. It is told once.
    pub fn take_continue(&mut self) -> bool {
        std::mem::take(&mut self.expects_continue)
    }

    /// When the answer began the client still waited for a 100 it did not get: it is not known to send the body at all.
    pub fn is_unsent(&self) -> bool {
        self.unsent
    }

    pub fn remaining(&self) -> Option<u64> {
        match self.ended {
            true => Some(0),
            false => self.source.remaining(self.bytes),
        }
    }

    /// Somebody else reads it, and has not come to its end.
    pub fn is_read(this: &Rc<RefCell<Self>>) -> bool {
        Rc::strong_count(this) > 1 && !this.borrow().is_complete()
    }

    /// The answer begins. Where somebody reads the body meanwhile both directions run, and as in a tunnel none of them has to say
    /// something all the time; says whether that is so.
    pub fn answer_begins(this: &Rc<RefCell<Self>>, timeouts: &Timeouts) -> bool {
        let read = Arrival::is_read(this);
        let mut arrival = this.borrow_mut();
        arrival.unsent = arrival.take_continue();
        if read {
            let silence = Timeouts { rate: 0, ..*timeouts };
            arrival.clock.set_pace(Pace::new(&silence, timeouts.tunnel.max(timeouts.body)));
        }
        read
    }

    /// Sees it to its end once the answer has ended: somebody may read on, and of what nobody wants this much is thrown away.
    pub async fn settle(this: &Rc<RefCell<Self>>, timeouts: &Timeouts, rest: Rest) -> Settled {
        let pace = Pace::new(timeouts, timeouts.body);
        if Arrival::is_read(this) {
            this.borrow_mut().clock.set_pace(pace);
            if !Arrival::left_in_time(this, 2 * timeouts.body).await {
                return Settled::Stalled;
            }
        }
        let most = {
            let mut arrival = this.borrow_mut();
            if arrival.failed.is_some() {
                return Settled::Failed;
            }
            if arrival.is_complete() {
                return Settled::Complete;
            }
            if arrival.unsent || arrival.remaining().is_some_and(|left| left > rest.bytes) {
                return Settled::TooMuch;
            }
            // No limit of size holds for what is thrown away, but this.
            arrival.allowance = None;
            arrival.clock.set_pace(pace);
            arrival.bytes + rest.bytes
        };
        let deadline = Deadline::new();
        if let Some(within) = rest.within {
            deadline.set_after(within);
        }
        loop {
            let piece = poll_fn(|cx| match this.borrow_mut().poll_next(cx) {
                Poll::Ready(piece) => Poll::Ready(Some(piece)),
                Poll::Pending if rest.within.is_some() => deadline.poll_expired(cx).map(|()| None),
                Poll::Pending => Poll::Pending,
            });
            match piece.await {
                Some(Ok(Some(_))) if this.borrow().bytes <= most => {}
                Some(Ok(Some(_))) | None => return Settled::TooMuch,
                Some(Ok(None)) => return Settled::Complete,
                Some(Err(_)) => return Settled::Broken,
            }
        }
    }

    /// Waits until nobody else reads it any more. False when for this long nothing of it was read: a backend that has answered takes
    /// nothing, and nobody would hear that the client has left. A client that sends nothing fails the body before that.
    async fn left_in_time(this: &Rc<RefCell<Self>>, silence: Duration) -> bool {
        let deadline = Deadline::new();
        let mut had = this.borrow().bytes;
        loop {
            deadline.set_after(silence);
            let left = poll_fn(|cx| match Arrival::poll_left(this, cx) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending => deadline.poll_expired(cx).map(|()| false),
            });
            if left.await {
                return true;
            }
            let has = this.borrow().bytes;
            if std::mem::replace(&mut had, has) == has {
                return false;
            }
        }
    }

    /// Ready once nobody else reads it any more, to its end or not.
    fn poll_left(this: &Rc<RefCell<Self>>, cx: &mut Context<'_>) -> Poll<()> {
        let mut arrival = this.borrow_mut();
        if Rc::strong_count(this) == 1 || arrival.is_over() || arrival.failed.is_some() {
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

    /// `limit`: the bound that was reached, for the figures.
    fn fail(&mut self, error: BodyError, limit: Option<&'static str>) -> Poll<Result<Option<Piece>, BodyError>> {
        self.failed = Some(BodyFailure { error, limit });
        self.tell_watcher();
        Poll::Ready(Err(error))
    }

    /// The next bytes of the body.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Piece>, BodyError>> {
        if let Some(failure) = self.failed {
            return Poll::Ready(Err(failure.error));
        }
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        if self.take_continue() {
            self.source.send_continue();
        }
        let came = self.source.poll_next(&mut self.clock, cx);
        if self.source.is_done() {
            self.tell_watcher();
        }
        match came {
            Poll::Ready(Ok(Some(piece))) => {
                let length = piece.len() as u64;
                self.bytes += length;
                if let Some(allowance) = &mut self.allowance {
                    if *allowance < length {
                        return self.fail(BodyError::TooLarge, Some("request_body_bytes"));
                    }
                    *allowance -= length;
                }
                Poll::Ready(Ok(Some(piece)))
            }
            Poll::Ready(Ok(None)) => {
                self.ended = true;
                self.tell_watcher();
                Poll::Ready(Ok(None))
            }
            Poll::Ready(Err(BodyBroken::Gone)) => self.fail(BodyError::Incomplete, None),
            Poll::Ready(Err(BodyBroken::Malformed { status, limit })) => {
                self.fail(BodyError::Malformed { status }, Some(limit))
            }
            Poll::Pending => {
                ready!(self.clock.poll_expired(|since| self.source.could_send_since(since), cx));
                // It came too slowly, rather than not at all.
                let limit = if self.clock.pace.is_rate() { "body_rate" } else { "body_timeout" };
                self.fail(BodyError::TimedOut, Some(limit))
            }
        }
    }
}

/// The filters' end of a body.
pub struct RequestBody<S: BodySource>(pub Rc<RefCell<Arrival<S>>>);

impl<S: BodySource> Drop for RequestBody<S> {
    fn drop(&mut self) {
        self.0.borrow_mut().tell_watcher();
    }
}

impl<S: BodySource> BodyStream for RequestBody<S> {
    fn poll_piece(&mut self, cx: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        self.0.borrow_mut().poll_next(cx)
    }

    fn remaining(&self) -> Option<u64> {
        self.0.borrow().remaining()
    }

    fn allowed(&self) -> Option<u64> {
        self.0.borrow().allowance
    }

    fn trailers(&mut self) -> Option<Headers> {
        self.0.borrow_mut().source.trailers()
    }
}
