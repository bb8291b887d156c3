//! Threads beside the workers that wait for disks: one writes, for all stores, so that what came first is written first; a few read.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

/// Threads that read: a disk answers several faster than one after the other.
const READERS: usize = 4;

/// Does something to a disk once what was given before is done.
pub(super) fn write(job: impl FnOnce() + Send + 'static) {
    static QUEUE: OnceLock<Sender<Job>> = OnceLock::new();
    // The threads live as long as the process.
    let _ = QUEUE.get_or_init(|| start("cache-writes", 1)).send(Box::new(job));
}

/// Reads something, soon.
pub(super) fn read(job: impl FnOnce() + Send + 'static) {
    static QUEUE: OnceLock<Sender<Job>> = OnceLock::new();
    let _ = QUEUE.get_or_init(|| start("cache-reads", READERS)).send(Box::new(job));
}

/// Waits until all is written that was to be.
#[cfg(test)]
pub(super) fn settle() {
    let (sender, receiver) = channel();
    write(move || sender.send(()).unwrap());
    receiver.recv().unwrap();
}

fn start(name: &'static str, count: usize) -> Sender<Job> {
    let (sender, receiver) = channel();
    let jobs = Arc::new(Mutex::new(receiver));
    for n in 0..count {
        let jobs = jobs.clone();
        let started = thread::Builder::new().name(format!("weir-{name}-{n}")).spawn(move || work(&jobs));
        if let Err(error) = started {
            tracing::error!(%error, threads = name, "no thread for the disks of caches");
        }
    }
    sender
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
            tracing::error!("what ran for the disk of a cache panicked; whoever waits for it asks the origin");
        }
    }
}
