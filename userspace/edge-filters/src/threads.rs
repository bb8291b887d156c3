//! Threads beside the workers, for what would hold one up.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Something to be done there.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Starts `count` threads that do what comes, each of them one job after the other, for as long as anybody may send one. They are called
/// `weir-` and `name`, and a number. A job that panics takes no thread along.
pub(crate) fn start(name: &'static str, count: usize, jobs: Receiver<Job>) {
    let jobs = Arc::new(Mutex::new(jobs));
    for n in 0..count {
        let jobs = jobs.clone();
        let started = thread::Builder::new().name(format!("weir-{name}-{n}")).spawn(move || work(name, &jobs));
        if let Err(error) = started {
            tracing::error!(%error, threads = name, "no thread for what holds workers up");
        }
    }
}

fn work(name: &str, jobs: &Mutex<Receiver<Job>>) {
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
            tracing::error!(
                threads = name,
                "what ran beside the workers panicked; whoever waits for it is told that it failed"
            );
        }
    }
}
