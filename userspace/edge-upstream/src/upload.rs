//! A request's body that is not sent when its answer begins: it goes on beside the answer, over whatever protocol.

use crate::attempt::Counters;
use crate::pool::IDLE_TIMEOUT;
use base_runtime::Task;
use base_runtime::time::Deadline;
use edge_pipeline::BodyError;
use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How long a backend that has answered may take nothing of a body before it does not get the rest: as long as a connection may idle.
/// Counted as `upstream_stalled`.
const STALLED_MOST: Duration = IDLE_TIMEOUT;

/// Sends the body of one request.
pub(crate) trait Upload: 'static {
    /// Ready when the body is sent to its end, or the backend wants no more of it.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>>;

    /// What a body that is pending waits for.
    fn waits_for(&mut self, cx: &mut Context<'_>) -> WaitsFor;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// More of the body; the time of a client is measured by whoever reads from it.
    Client,
    /// The backend, which has taken so many bytes since its connection began.
    Backend { taken: u64 },
    /// Nobody: the connection can send no more.
    Nobody,
}

/// What is left of a request while its answer arrives.
pub(crate) struct Beside {
    upload: Option<Uploading>,
    /// The answer is a 2xx: the backend wants the rest of the body, also when its answer is complete before.
    accepted: bool,
    /// The client did not send its body to the end. What the backend has said without it passes, and nothing more is waited for.
    cut: bool,
}

impl Beside {
    /// The answer with this `status` has begun; `upload` is what has not sent all, `cut` says that it never will.
    pub(crate) fn begin<U: Upload>(upload: Option<U>, cut: bool, status: u16, counters: &Arc<Counters>) -> Beside {
        let upload = upload.map(|upload| Uploading::begin(upload, counters.clone(), STALLED_MOST));
        Beside { upload, accepted: (200..300).contains(&status), cut }
    }

    /// Looks how the request fares. An error ends the answer, too.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        let Some(upload) = &self.upload else { return Ok(()) };
        let Poll::Ready(ended) = upload.poll_ended(cx) else { return Ok(()) };
        self.upload = None;
        match ended {
            Ok(()) => Ok(()),
            Err(error) if error.spares_the_answer() => {
                self.cut = true;
                Ok(())
            }
            // What forbids the request forbids its answer; else the backend simply did not get all of it.
            Err(error @ BodyError::Refused { .. }) => Err(error),
            Err(_) => Err(BodyError::Incomplete),
        }
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }

    /// Nothing of the body is left to be sent.
    pub(crate) fn is_done(&self) -> bool {
        !self.cut && self.upload.as_ref().is_none_or(Uploading::is_done)
    }

    /// The answer is complete. What happens once the request is, too: `then` is called at the body's end, now or later, and dropped
    /// where the body does not come to it.
    pub(crate) fn end(self, then: impl FnOnce() + 'static) {
        if self.is_done() {
            then();
        } else if let Some(upload) = self.upload.filter(|_| self.accepted) {
            upload.run_on(then);
        }
    }
}

/// An upload that runs as a task of its own: neither it nor the answer waits for the other, whichever of the two peers reads slowly
/// or not at all. Dropped, it is given up, unless it [runs on](Uploading::run_on).
struct Uploading {
    task: Task,
    ending: Rc<Ending>,
}

impl Uploading {
    fn begin(mut upload: impl Upload, counters: Arc<Counters>, stalled_most: Duration) -> Uploading {
        let ending = Rc::new(Ending::default());
        let told = ending.clone();
        let task = base_runtime::spawn(async move {
            let mut stall = Stall { most: stalled_most, deadline: Deadline::default(), taken: None };
            let ended = poll_fn(|cx| match upload.poll(cx) {
                // Nobody else would notice that the backend has gone, or reads no more.
                Poll::Pending if told.runs_on(cx) => {
                    let waits_for = upload.waits_for(cx);
                    stall.poll(waits_for, &counters, cx)
                }
                polled => polled,
            });
            let ended = ended.await;
            drop(upload);
            told.tell(ended);
        });
        Uploading { task, ending }
    }

    fn is_done(&self) -> bool {
        self.ending.ended.get() == Some(Ok(()))
    }

    fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        match self.ending.ended.get() {
            Some(ended) => Poll::Ready(ended),
            None => {
                self.ending.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }

    /// Nobody reads the answer any more: the body goes on to its end.
    fn run_on(self, then: impl FnOnce() + 'static) {
        if self.ending.ended.get().is_none() {
            self.ending.then.set(Some(Box::new(then)));
            if let Some(uploader) = self.ending.uploader.take() {
                uploader.wake();
            }
        }
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        if !self.ending.is_alone() {
            self.task.abort();
        }
    }
}

/// How an upload ended, between its task and whoever reads the answer.
#[derive(Default)]
struct Ending {
    ended: Cell<Option<Result<(), BodyError>>>,
    waker: Cell<Option<Waker>>,
    /// Of the upload's task.
    uploader: Cell<Option<Waker>>,
    /// What is done at the end, once only the upload is left of the exchange.
    then: Cell<Option<Box<dyn FnOnce()>>>,
}

impl Ending {
    /// Only the upload is left of the exchange.
    fn is_alone(&self) -> bool {
        let then = self.then.take();
        let alone = then.is_some();
        self.then.set(then);
        alone
    }

    /// [`is_alone`](Self::is_alone) for the upload's task, which is woken when that comes to be.
    fn runs_on(&self, cx: &mut Context<'_>) -> bool {
        let alone = self.is_alone();
        if !alone {
            self.uploader.set(Some(cx.waker().clone()));
        }
        alone
    }

    fn tell(&self, ended: Result<(), BodyError>) {
        self.ended.set(Some(ended));
        if let Some(then) = self.then.take().filter(|_| ended.is_ok()) {
            then();
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Watches an upload whose answer is complete.
struct Stall {
    most: Duration,
    deadline: Deadline,
    /// Bytes the backend had taken when the deadline was set.
    taken: Option<u64>,
}

impl Stall {
    /// Ready when it cannot go on, or has not for the time it may.
    fn poll(&mut self, waits_for: WaitsFor, counters: &Counters, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        match waits_for {
            WaitsFor::Nobody => return Poll::Ready(Err(BodyError::Incomplete)),
            WaitsFor::Client => {
                self.taken = None;
                self.deadline.clear();
            }
            WaitsFor::Backend { taken } => {
                if self.taken.replace(taken) != Some(taken) {
                    self.deadline.set_after(self.most);
                }
            }
        }
        self.deadline.poll_expired(cx).map(|()| {
            counters.stalled.hit(base_runtime::worker_index());
            Err(BodyError::TimedOut)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_runtime::{Config, IoMode, Runtime};
    use base_telemetry::LimitHits;
    use std::cell::RefCell;
    use std::collections::VecDeque;
    use std::sync::mpsc;

    const MOST: Duration = Duration::from_millis(20);

    /// A body that is told what it waits for, one step after another; after the last it is sent.
    struct Told {
        steps: Rc<RefCell<VecDeque<WaitsFor>>>,
        between: Deadline,
    }

    impl Upload for Told {
        fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
            if self.between.poll_expired(cx).is_ready() {
                self.steps.borrow_mut().pop_front();
                self.between.set_after(MOST / 2);
                let _ = self.between.poll_expired(cx);
            }
            if self.steps.borrow().is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
        }

        fn waits_for(&mut self, _: &mut Context<'_>) -> WaitsFor {
            self.steps.borrow()[0]
        }
    }

    /// Whether the connection may go on once the answer and the body have ended, how many steps of the body are left, and how often a
    /// backend was found to stall.
    fn ends(steps: &[WaitsFor], accepted: bool) -> (bool, usize, u64) {
        let config = Config { io: IoMode::Epoll, workers: Some(1), name: "upload".to_owned(), ..Config::default() };
        let runtime = Runtime::start(config).expect("epoll works everywhere");
        let (sender, receiver) = mpsc::channel();
        let steps: VecDeque<WaitsFor> = steps.iter().copied().collect();
        runtime.workers()[0].spawn(move || async move {
            let counters = Counters::new(&LimitHits::new(1));
            let steps = Rc::new(RefCell::new(steps));
            let between = Deadline::default();
            between.set_after(MOST / 2);
            let upload = Uploading::begin(Told { steps: steps.clone(), between }, counters.clone(), MOST);
            let ending = upload.ending.clone();
            let beside = Beside { upload: Some(upload), accepted, cut: false };
            // Dropped or called: either way it is over.
            let over = Rc::new(Cell::new(None));
            let called = Over(over.clone());
            beside.end(move || called.0.set(Some(true)));
            while over.get().is_none() {
                base_runtime::time::sleep(Duration::from_millis(1)).await;
            }
            drop(ending);
            let left = steps.borrow().len();
            let _ = sender.send((over.get() == Some(true), left, counters.stalled.total()));
        });
        receiver.recv().expect("it ends")
    }

    struct Over(Rc<Cell<Option<bool>>>);

    impl Drop for Over {
        fn drop(&mut self) {
            if self.0.get().is_none() {
                self.0.set(Some(false));
            }
        }
    }

    #[test]
    fn a_backend_that_reads_on_gets_the_rest_and_one_that_stalls_does_not() {
        let taken = |taken| WaitsFor::Backend { taken };
        assert_eq!(ends(&[taken(0), taken(1), taken(2), taken(3)], true), (true, 0, 0));
        // The client takes its time: that is not the backend's.
        assert_eq!(ends(&[WaitsFor::Client; 5], true), (true, 0, 0));
        let (called, left, stalled) = ends(&[taken(7); 400], true);
        assert!(!called && left > 0 && stalled == 1, "{called} {left} {stalled}");
        let (called, left, stalled) = ends(&[WaitsFor::Client, WaitsFor::Nobody, taken(0)], true);
        assert_eq!((called, left, stalled), (false, 2, 0));
        // An answer that is no 2xx ends the rest of its request.
        assert_eq!(ends(&[taken(0); 400], false), (false, 400, 0));
    }
}
