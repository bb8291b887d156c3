//! Which check is due when: one queue, and one thread that hands what is due to the workers.

use super::{Check, launch};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

/// A check and when it is due.
#[derive(Debug)]
pub(super) struct Due<T> {
    at: Instant,
    number: u64,
    check: T,
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl<T> Eq for Due<T> {}

impl<T> Ord for Due<T> {
    /// What is due first is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Pure: times in, what is due out.
#[derive(Debug)]
pub(super) struct Queue<T>(BinaryHeap<Due<T>>);

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue(BinaryHeap::new())
    }
}

impl<T> Queue<T> {
    /// True: nothing is due before it.
    pub fn add(&mut self, check: T, at: Instant, number: u64) -> bool {
        let first = self.next().is_none_or(|next| at < next);
        self.0.push(Due { at, number, check });
        first
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Instant> {
        self.0.peek().map(|due| due.at)
    }

    /// What is due by now, the longest overdue first.
    pub fn take(&mut self, now: Instant) -> Option<T> {
        if self.next()? > now {
            return None;
        }
        self.0.pop().map(|due| due.check)
    }
}

/// Has a check run at this time.
pub(super) fn add(check: Weak<Check>, at: Instant, number: u64) {
    if check.strong_count() == 0 {
        return;
    }
    let agenda = agenda();
    if agenda.queue().add(check, at, number) {
        agenda.sooner.notify_one();
    }
}

#[derive(Default)]
struct Agenda {
    queue: Mutex<Queue<Weak<Check>>>,
    sooner: Condvar,
}

impl Agenda {
    fn queue(&self) -> MutexGuard<'_, Queue<Weak<Check>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut queue = self.queue();
        loop {
            let now = Instant::now();
            if let Some(check) = queue.take(now) {
                drop(queue);
                // Nobody names its server any more: nobody needs to know.
                if let Some(check) = check.upgrade() {
                    launch(check);
                }
                queue = self.queue();
                continue;
            }
            queue = match queue.next() {
                None => self.sooner.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let pause = at.saturating_duration_since(now);
                    self.sooner.wait_timeout(queue, pause).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

fn agenda() -> &'static Agenda {
    static AGENDA: OnceLock<Agenda> = OnceLock::new();
    static THREAD: OnceLock<()> = OnceLock::new();
    let agenda = AGENDA.get_or_init(Agenda::default);
    THREAD.get_or_init(|| {
        let started = std::thread::Builder::new().name("weir-checks".to_owned()).spawn(|| agenda.run());
        if let Err(error) = started {
            tracing::error!(%error, "no thread for health checks; servers are not probed and count as well");
        }
    });
    agenda
}
