//! Computations that are too long for a worker, on threads of their own.
//!
//! Slow hashes of passwords, above all. There are few threads, so that a flood of guesses takes a part of the machine and not the whole,
//! and a bounded queue, so that it takes little memory; what finds no place is refused, and whoever asks counts that.

use crate::threads::{self, Job};
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread;

/// Computations that wait for a thread.
const WAITING_MAX: usize = 256;

/// The most threads there are, however many CPUs.
const THREADS_MAX: usize = 4;

/// As many are waiting as there may be; what was to be computed is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy;

/// Runs `job` soon, elsewhere.
pub(crate) fn run(job: impl FnOnce() + Send + 'static) -> Result<(), Busy> {
    match queue().try_send(Box::new(job)) {
        Ok(()) => Ok(()),
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => Err(Busy),
    }
}

fn queue() -> &'static SyncSender<Job> {
    static QUEUE: OnceLock<SyncSender<Job>> = OnceLock::new();
    QUEUE.get_or_init(|| {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        threads::start("heavy", (cpus / 4).clamp(1, THREADS_MAX), receiver);
        sender
    })
}
