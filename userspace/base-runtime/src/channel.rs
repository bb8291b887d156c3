//! Passing values: to a worker from anywhere, and between the tasks of one.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use crate::executor::poll_share;

/// A bounded queue into a worker. Both ends are made anywhere; the receiver is awaited on one worker.
pub fn mailbox<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Mailbox {
        capacity: capacity.max(1),
        state: Mutex::new(MailboxState {
            queue: VecDeque::new(),
            receiver: None,
            senders: 1,
            open: true,
            blocked: VecDeque::new(),
        }),
    });
    (Sender { shared: shared.clone() }, Receiver { shared })
}

struct Mailbox<T> {
    capacity: usize,
    state: Mutex<MailboxState<T>>,
}

struct MailboxState<T> {
    queue: VecDeque<T>,
    receiver: Option<Waker>,
    senders: usize,
    open: bool,
    /// Senders waiting for room.
    blocked: VecDeque<Waker>,
}

impl<T> Mailbox<T> {
    fn lock(&self) -> MutexGuard<'_, MailboxState<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending end, for any thread.
pub struct Sender<T> {
    shared: Arc<Mailbox<T>>,
}

/// Why a value was not taken; it is handed back.
#[derive(Debug, PartialEq, Eq)]
pub enum TrySendError<T> {
    Full(T),
    Closed(T),
}

impl<T> fmt::Display for TrySendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TrySendError::Full(_) => "the mailbox is full",
            TrySendError::Closed(_) => "the mailbox has no receiver any more",
        })
    }
}

impl<T: fmt::Debug> std::error::Error for TrySendError<T> {}

impl<T> Sender<T> {
    /// Queues `value` and wakes the worker if it sleeps.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        let mut state = self.shared.lock();
        if !state.open {
            return Err(TrySendError::Closed(value));
        }
        if state.queue.len() >= self.shared.capacity {
            return Err(TrySendError::Full(value));
        }
        state.queue.push_back(value);
        let receiver = state.receiver.take();
        drop(state);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        Ok(())
    }

    /// Waits for room. The value comes back when the receiver is gone.
    pub async fn send(&self, value: T) -> Result<(), T> {
        let mut value = Some(value);
        poll_fn(|cx| {
            let Some(sent) = value.take() else { return Poll::Ready(Ok(())) };
            match self.try_send(sent) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(TrySendError::Closed(back)) => Poll::Ready(Err(back)),
                Err(TrySendError::Full(back)) => {
                    let mut state = self.shared.lock();
                    if state.queue.len() < self.shared.capacity || !state.open {
                        // Room appeared between the two locks.
                        cx.waker().wake_by_ref();
                    } else if !state.blocked.iter().any(|known| known.will_wake(cx.waker())) {
                        state.blocked.push_back(cx.waker().clone());
                    }
                    value = Some(back);
                    Poll::Pending
                }
            }
        })
        .await
    }

    pub fn is_closed(&self) -> bool {
        !self.shared.lock().open
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.shared.lock().senders += 1;
        Sender { shared: self.shared.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.senders -= 1;
        let receiver = if state.senders == 0 { state.receiver.take() } else { None };
        drop(state);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }
}

/// The receiving end.
pub struct Receiver<T> {
    shared: Arc<Mailbox<T>>,
}

impl<T> Receiver<T> {
    /// The next value; `None` once every sender is gone and the queue is empty.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.shared.lock();
        if !state.queue.is_empty() {
            ready!(poll_share(cx));
        }
        if let Some(value) = state.queue.pop_front() {
            wake_blocked(state);
            return Poll::Ready(Some(value));
        }
        if state.senders == 0 {
            return Poll::Ready(None);
        }
        if !state.receiver.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            state.receiver = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// A value that is already there.
    pub fn try_recv(&mut self) -> Option<T> {
        let mut state = self.shared.lock();
        let value = state.queue.pop_front();
        wake_blocked(state);
        value
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.open = false;
        let (queue, blocked) = (std::mem::take(&mut state.queue), std::mem::take(&mut state.blocked));
        drop(state);
        drop(queue);
        for waker in blocked {
            waker.wake();
        }
    }
}

/// Wakes every sender that waits for room: one of them may have been dropped since, and waking only that one would lose the room.
fn wake_blocked<T>(mut state: MutexGuard<'_, MailboxState<T>>) {
    if !state.blocked.is_empty() {
        let blocked = std::mem::take(&mut state.blocked);
        drop(state);
        for waker in blocked {
            waker.wake();
        }
    }
}

/// The other end was dropped without sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canceled;

impl fmt::Display for Canceled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the other end went away without an answer")
    }
}

impl std::error::Error for Canceled {}

/// One value from any thread to any task.
pub fn oneshot<T: Send>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let shared =
        Arc::new(Mutex::new(OneshotState { value: None, receiver: None, sender_gone: false, receiver_gone: false }));
    (OneshotSender { shared: shared.clone() }, OneshotReceiver { shared })
}

struct OneshotState<T> {
    value: Option<T>,
    receiver: Option<Waker>,
    sender_gone: bool,
    receiver_gone: bool,
}

pub struct OneshotSender<T> {
    shared: Arc<Mutex<OneshotState<T>>>,
}

impl<T> OneshotSender<T> {
    /// Hands the value over; it comes back when nobody waits for it.
    pub fn send(self, value: T) -> Result<(), T> {
        let mut state = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if state.receiver_gone {
            return Err(value);
        }
        state.value = Some(value);
        // The drop that follows wakes the receiver.
        Ok(())
    }

    pub fn is_closed(&self) -> bool {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).receiver_gone
    }
}

impl<T> Drop for OneshotSender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        state.sender_gone = true;
        let receiver = state.receiver.take();
        drop(state);
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }
}

/// Awaited for the value.
pub struct OneshotReceiver<T> {
    shared: Arc<Mutex<OneshotState<T>>>,
}

impl<T> OneshotReceiver<T> {
    /// Blocks the calling thread, which must not be a worker, until the value is there.
    pub fn wait(mut self) -> Result<T, Canceled> {
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut cx = Context::from_waker(&waker);
        loop {
            match std::pin::Pin::new(&mut self).poll(&mut cx) {
                Poll::Ready(result) => return result,
                Poll::Pending => std::thread::park(),
            }
        }
    }
}

impl<T> Future for OneshotReceiver<T> {
    type Output = Result<T, Canceled>;

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = state.value.take() {
            return Poll::Ready(Ok(value));
        }
        if state.sender_gone {
            return Poll::Ready(Err(Canceled));
        }
        state.receiver = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<T> Drop for OneshotReceiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        state.receiver_gone = true;
        let value = state.value.take();
        drop(state);
        drop(value);
    }
}

/// One value between two tasks of the same worker, without atomics.
pub fn local_oneshot<T>() -> (LocalOneshotSender<T>, LocalOneshotReceiver<T>) {
    let shared =
        Rc::new(RefCell::new(OneshotState { value: None, receiver: None, sender_gone: false, receiver_gone: false }));
    (LocalOneshotSender { shared: shared.clone() }, LocalOneshotReceiver { shared })
}

pub struct LocalOneshotSender<T> {
    shared: Rc<RefCell<OneshotState<T>>>,
}

impl<T> LocalOneshotSender<T> {
    /// Hands the value over; it comes back when nobody waits for it.
    pub fn send(self, value: T) -> Result<(), T> {
        let mut state = self.shared.borrow_mut();
        if state.receiver_gone {
            return Err(value);
        }
        state.value = Some(value);
        Ok(())
    }

    pub fn is_closed(&self) -> bool {
        self.shared.borrow().receiver_gone
    }
}

impl<T> Drop for LocalOneshotSender<T> {
    fn drop(&mut self) {
        let receiver = {
            let mut state = self.shared.borrow_mut();
            state.sender_gone = true;
            state.receiver.take()
        };
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }
}

/// Awaited for the value.
pub struct LocalOneshotReceiver<T> {
    shared: Rc<RefCell<OneshotState<T>>>,
}

impl<T> Future for LocalOneshotReceiver<T> {
    type Output = Result<T, Canceled>;

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.borrow_mut();
        if let Some(value) = state.value.take() {
            return Poll::Ready(Ok(value));
        }
        if state.sender_gone {
            return Poll::Ready(Err(Canceled));
        }
        state.receiver = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl<T> Drop for LocalOneshotReceiver<T> {
    fn drop(&mut self) {
        let value = {
            let mut state = self.shared.borrow_mut();
            state.receiver_gone = true;
            state.value.take()
        };
        drop(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mailbox_is_bounded_and_closes_both_ways() {
        let (sender, mut receiver) = mailbox(2);
        assert_eq!(sender.try_send(1), Ok(()));
        assert_eq!(sender.clone().try_send(2), Ok(()));
        assert_eq!(sender.try_send(3), Err(TrySendError::Full(3)));
        assert_eq!(receiver.try_recv(), Some(1));
        assert_eq!(sender.try_send(3), Ok(()));
        drop(receiver);
        assert_eq!(sender.try_send(4), Err(TrySendError::Closed(4)));
    }

    #[test]
    fn oneshot_crosses_threads() {
        let (sender, receiver) = oneshot();
        let thread = std::thread::spawn(move || receiver.wait());
        sender.send(7).expect("the receiver waits");
        assert_eq!(thread.join().expect("no panic"), Ok(7));
        let (sender, receiver) = oneshot::<u8>();
        drop(sender);
        assert_eq!(receiver.wait(), Err(Canceled));
    }
}
