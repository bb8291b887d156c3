//! Sleeping, time-outs, and deadlines that are cheap to move.

mod wheel;

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::context;
use wheel::NO_KEY;
pub(crate) use wheel::{Action, Timers};

/// Completes `duration` after [`crate::now`], never early, and a few milliseconds late at worst on an unloaded worker.
pub async fn sleep(duration: Duration) {
    sleep_until(far_add(crate::now(), duration)).await
}

/// Completes once `at` has passed.
pub async fn sleep_until(at: Instant) {
    let deadline = Deadline::at(at);
    poll_fn(|cx| deadline.poll_expired(cx)).await
}

/// Milliseconds this worker has run, as of this turn of its loop: half as large as an `Instant`, and cheaper to ask for. Panics
/// outside a worker.
#[inline]
pub fn elapsed_ms() -> u64 {
    context::with(|cx| cx.timers.elapsed_ms())
}

/// Runs `future` for at most `duration`; then it is dropped with this future.
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout { future, deadline: Deadline::at(far_add(crate::now(), duration)) }
}

/// The time was up before the future was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time-out passed first")
    }
}

impl std::error::Error for Elapsed {}

impl From<Elapsed> for std::io::Error {
    fn from(elapsed: Elapsed) -> Self {
        std::io::Error::new(std::io::ErrorKind::TimedOut, elapsed)
    }
}

/// See [`timeout`].
pub struct Timeout<F> {
    future: F,
    deadline: Deadline,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: `future` is pinned with `self` and never moved out; `deadline` is not pinned structurally.
        let (future, deadline) = unsafe {
            let this = self.get_unchecked_mut();
            (Pin::new_unchecked(&mut this.future), &this.deadline)
        };
        match future.poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => deadline.poll_expired(cx).map(|()| Err(Elapsed)),
        }
    }
}

/// A deadline that is moved with nearly every event, as a connection's idle time-out is: moving it later, or clearing it, is a
/// store; its entry in the wheel fires at the old time, sees the later deadline and re-inserts itself without waking anybody.
pub struct Deadline {
    key: Cell<u32>,
    /// The entry belongs to the wheel of this thread.
    not_send: PhantomData<*const ()>,
}

impl Deadline {
    /// A deadline that never passes until it is set. Costs nothing until then.
    pub const fn new() -> Deadline {
        Deadline { key: Cell::new(NO_KEY), not_send: PhantomData }
    }

    pub fn at(at: Instant) -> Deadline {
        let deadline = Deadline::new();
        deadline.set(at);
        deadline
    }

    #[inline]
    pub fn set(&self, at: Instant) {
        context::with(|cx| cx.timers.set(self.made(cx), at));
    }

    /// As `set(now() + after)` or a millisecond later; cheaper.
    #[inline]
    pub fn set_after(&self, after: Duration) {
        context::with(|cx| cx.timers.set_after(self.made(cx), after));
    }

    #[inline]
    fn made(&self, cx: &context::Context) -> u32 {
        if self.key.get() == NO_KEY {
            self.key.set(cx.timers.create(Action::Wake));
        }
        self.key.get()
    }

    #[inline]
    pub fn clear(&self) {
        if self.key.get() != NO_KEY {
            context::with(|cx| cx.timers.clear(self.key.get()));
        }
    }

    /// Ready once the deadline has passed; it stays so until it is set anew or cleared.
    #[inline]
    pub fn poll_expired(&self, task: &mut Context<'_>) -> Poll<()> {
        if self.key.get() == NO_KEY {
            // Nothing to wait for. Whoever sets it polls it again, so the task needs no waking.
            return Poll::Pending;
        }
        context::with(|cx| cx.timers.poll_expired(self.key.get(), &cx.shared, task))
    }

    /// Waits until the deadline has passed. While it waits, the deadline may be moved.
    pub async fn expired(&self) {
        poll_fn(|cx| self.poll_expired(cx)).await
    }
}

impl Default for Deadline {
    fn default() -> Deadline {
        Deadline::new()
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if self.key.get() != NO_KEY {
            context::try_with(|cx| cx.timers.remove(self.key.get()));
        }
    }
}

/// A century when the sum does not fit.
pub(crate) fn far_add(now: Instant, duration: Duration) -> Instant {
    now.checked_add(duration).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86_400))
}
