//! Reading from disks, on threads of its own: a worker that waited for one would let thousands of requests wait.
//!
//! Two kinds of work: looks, of which so many may wait ([`look`]), and reads of what is open already ([`read`]), of which there is one for
//! each open file, so that whoever bounds those bounds these.

use crate::threads::{self, Job};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// Looks that wait for a thread, or have one.
const LOOKS_MAX: usize = 4096;

/// Threads there are: a disk answers several faster than one after the other, and one that hangs shall not hold all.
const THREADS_MIN: usize = 4;
const THREADS_MAX: usize = 16;

static LOOKS: AtomicUsize = AtomicUsize::new(0);

/// As many looks are waiting as may; nothing is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Busy;

/// Looks for something, soon.
pub(crate) fn look(job: impl FnOnce() + Send + 'static) -> Result<(), Busy> {
    struct Place;

    impl Drop for Place {
        fn drop(&mut self) {
            LOOKS.fetch_sub(1, Ordering::Relaxed);
        }
    }

    let waiting = LOOKS.fetch_add(1, Ordering::Relaxed);
    let place = Place;
    if waiting >= LOOKS_MAX {
        return Err(Busy);
    }
    read(move || {
        let _place = place;
        job();
    });
    Ok(())
}

/// Reads a piece of what is open, soon. The caller has one on its way at a time.
pub(crate) fn read(job: impl FnOnce() + Send + 'static) {
    // The threads live as long as the process.
    let _ = queue().send(Box::new(job));
}

fn queue() -> &'static Sender<Job> {
    static QUEUE: OnceLock<Sender<Job>> = OnceLock::new();
    QUEUE.get_or_init(|| {
        let (sender, receiver) = channel();
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        threads::start("disk", cpus.clamp(THREADS_MIN, THREADS_MAX), receiver);
        sender
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_panics_takes_no_thread_and_no_place_along() {
        for _ in 0..THREADS_MAX * 2 {
            look(|| panic!("on purpose")).unwrap();
        }
        let (done, waits) = channel();
        look(move || done.send(()).unwrap()).unwrap();
        waits.recv().unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while LOOKS.load(Ordering::Relaxed) > 0 {
            assert!(std::time::Instant::now() < until, "places are given back");
            thread::yield_now();
        }
    }
}
