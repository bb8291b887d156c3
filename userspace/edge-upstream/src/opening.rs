//! A connect under way, and who waits for it: many requests come while the connection they will share is made.

use crate::connect::ConnectError;
use crate::loss::Loss;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Requests that wait for one connect. Further ones begin another: this many are sent before a backend has said how many it takes.
const WAITING_MOST: usize = 100;

/// What came of a connect, for one of those who wait for it.
pub(crate) enum Outcome<L> {
    /// The lease for whoever comes first; others look for room.
    Made(Option<L>),
    Failed(ConnectError),
}

/// See the module doc. `L` is what the connect makes for its first request.
pub(crate) struct Opening<L> {
    outcome: RefCell<Option<Outcome<L>>>,
    /// By their numbers.
    waiting: RefCell<Vec<Option<Waker>>>,
    /// What they tell of it when it fails.
    pub(crate) loss: Loss,
    /// Its group counts it among the connects under way.
    pub(crate) is_counted: Rc<Cell<bool>>,
}

impl<L> Default for Opening<L> {
    fn default() -> Opening<L> {
        Opening {
            outcome: RefCell::default(),
            waiting: RefCell::default(),
            loss: Loss::default(),
            is_counted: Rc::default(),
        }
    }
}

impl<L> Opening<L> {
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.borrow().len() < WAITING_MOST
    }

    pub(crate) fn tell(&self, made: Result<L, ConnectError>) {
        *self.outcome.borrow_mut() = Some(match made {
            Ok(lease) => Outcome::Made(Some(lease)),
            Err(error) => Outcome::Failed(error),
        });
    }

    /// It is over, whatever came of it: who waits is woken.
    pub(crate) fn end(&self) {
        self.outcome.borrow_mut().get_or_insert_with(|| Outcome::Failed(ConnectError::Unresolved));
        self.waiting.take().into_iter().flatten().for_each(Waker::wake);
    }
}

/// One who waits for a connect.
pub(crate) struct Waiting<L> {
    opening: Rc<Opening<L>>,
    number: usize,
}

impl<L> Waiting<L> {
    pub(crate) fn new(opening: Rc<Opening<L>>) -> Waiting<L> {
        let mut waiting = opening.waiting.borrow_mut();
        waiting.push(None);
        let number = waiting.len() - 1;
        drop(waiting);
        Waiting { opening, number }
    }
}

impl<L> Future for Waiting<L> {
    type Output = Outcome<L>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome<L>> {
        match &mut *self.opening.outcome.borrow_mut() {
            Some(Outcome::Made(lease)) => Poll::Ready(Outcome::Made(lease.take())),
            Some(Outcome::Failed(error)) => {
                let error = ConnectError::Shared(Box::new(error.again()), self.opening.loss.clone());
                Poll::Ready(Outcome::Failed(error))
            }
            None => {
                if let Some(place) = self.opening.waiting.borrow_mut().get_mut(self.number) {
                    *place = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}
