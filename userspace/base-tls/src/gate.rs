//! Handshakes take their turns: one step of one handshake per turn of the worker's loop, in the order they came, so that a flood of
//! handshakes leaves the established connections every other part of the turn.
//!
//! A turn is told by [`base_runtime::now`], which the worker's loop reads once in each.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// Handshakes that may wait for their first step on each worker. Default 1,024; a waiting one holds its ClientHello.
static WAITING_MAX: AtomicUsize = AtomicUsize::new(1024);

/// Sets how many handshakes may wait on each worker before further ones are refused with
/// [`Overloaded`](crate::HandshakeError::Overloaded). Default 1,024.
pub fn set_handshakes_waiting_max(max: usize) {
    WAITING_MAX.store(max, Ordering::Relaxed);
}

#[derive(Default)]
struct Gate {
    /// The turn in which a step was last let through.
    turn: Cell<Option<Instant>>,
    /// Who waits, first come first; numbers ascend.
    line: RefCell<VecDeque<(u64, Option<Waker>)>>,
    next: Cell<u64>,
}

thread_local! {
    static GATE: Gate = Gate::default();
}

/// Whether a new handshake would be refused.
pub(crate) fn is_full() -> bool {
    GATE.with(|gate| gate.line.borrow().len() >= WAITING_MAX.load(Ordering::Relaxed))
}

/// Waits until it is this handshake's turn.
pub(crate) async fn pass() {
    let mut place = Place(None);
    poll_fn(|task| GATE.with(|gate| place.poll(gate, task))).await;
}

/// A place in the line, given up on drop.
struct Place(Option<u64>);

impl Place {
    fn poll(&mut self, gate: &Gate, task: &mut Context<'_>) -> Poll<()> {
        let now = base_runtime::now();
        let mut line = gate.line.borrow_mut();
        let number = match self.0 {
            None if line.is_empty() && gate.turn.get() != Some(now) => {
                gate.turn.set(Some(now));
                return Poll::Ready(());
            }
            None => {
                let number = gate.next.get();
                gate.next.set(number + 1);
                line.push_back((number, None));
                *self.0.insert(number)
            }
            Some(number) => number,
        };
        match line.front() {
            Some((first, _)) if *first == number => {
                if gate.turn.get() == Some(now) {
                    // First in line: looks again whenever the loop comes by, until the next turn.
                    task.waker().wake_by_ref();
                    return Poll::Pending;
                }
                gate.turn.set(Some(now));
                line.pop_front();
                self.0 = None;
                wake_first(&mut line);
                Poll::Ready(())
            }
            _ => {
                if let Ok(index) = line.binary_search_by_key(&number, |(number, _)| *number) {
                    line[index].1 = Some(task.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(number) = self.0 else { return };
        // The thread may be ending, and its gate with it.
        let _ = GATE.try_with(|gate| {
            let mut line = gate.line.borrow_mut();
            if let Ok(index) = line.binary_search_by_key(&number, |(number, _)| *number) {
                line.remove(index);
                if index == 0 {
                    wake_first(&mut line);
                }
            }
        });
    }
}

fn wake_first(line: &mut VecDeque<(u64, Option<Waker>)>) {
    if let Some(waker) = line.front_mut().and_then(|(_, waker)| waker.take()) {
        waker.wake();
    }
}
