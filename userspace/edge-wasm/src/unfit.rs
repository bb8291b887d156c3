//! What is known of a filter's program before requests get to it: that it has started once, or that it does not.
//!
//! A program that loops in its beginning takes a second of somebody's time whenever it is started. That time is never a worker's twice:
//! once it has failed it is tried again by the thread that loads programs, after pauses that double.

use crate::code::Program;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Pauses between two tries to start what did not start: the first, and how often it doubles.
const PAUSE: Duration = Duration::from_secs(1);
const DOUBLINGS: u32 = 9;

/// See the module doc.
#[derive(Default)]
pub struct Unfit(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// It has started.
    fit: Option<Weak<Program>>,
    unfit: Option<Failed>,
}

struct Failed {
    /// Held, so that no other is taken for it.
    program: Arc<Program>,
    why: String,
    tries: u32,
    again: Instant,
}

impl Unfit {
    /// Why this program is not to be started for a request.
    pub fn of(&self, program: &Arc<Program>) -> Option<String> {
        let known = self.lock();
        known.unfit.as_ref().filter(|failed| Arc::ptr_eq(&failed.program, program)).map(|failed| failed.why.clone())
    }

    /// Why this program is not to be started by anybody yet.
    pub fn lately(&self, program: &Arc<Program>) -> Option<String> {
        let known = self.lock();
        let failed = known.unfit.as_ref().filter(|failed| Arc::ptr_eq(&failed.program, program));
        failed.filter(|failed| Instant::now() < failed.again).map(|failed| failed.why.clone())
    }

    /// It has started, and started whenever that was tried since.
    pub fn is_fit(&self, program: &Arc<Program>) -> bool {
        self.lock().fit.as_ref().is_some_and(|fit| fit.as_ptr() == Arc::as_ptr(program))
    }

    pub fn started(&self, program: &Arc<Program>) {
        let mut known = self.lock();
        known.fit = Some(Arc::downgrade(program));
        known.unfit.take_if(|failed| Arc::ptr_eq(&failed.program, program));
    }

    pub fn failed(&self, program: &Arc<Program>, why: &str) {
        let mut known = self.lock();
        known.fit.take_if(|fit| fit.as_ptr() == Arc::as_ptr(program));
        let before = known.unfit.take().filter(|failed| Arc::ptr_eq(&failed.program, program));
        let tries = before.map_or(0, |failed| failed.tries + 1);
        let again = Instant::now() + PAUSE * (1 << tries.min(DOUBLINGS));
        known.unfit = Some(Failed { program: program.clone(), why: why.to_owned(), tries, again });
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
