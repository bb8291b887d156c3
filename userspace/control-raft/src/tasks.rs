//! What a member runs, and what becomes of the member when a part of that ends.

use std::sync::{Arc, Mutex};

use tokio::task::JoinSet;

use crate::control::lock;
use crate::health::Health;

pub(crate) struct Tasks {
    running: Mutex<JoinSet<()>>,
    health: Arc<Health>,
}

/// Tells of a task that ended although it was to run as long as the member, by a panic say.
struct Lasting {
    what: &'static str,
    health: Arc<Health>,
    /// It may end by itself, when what it was for is done.
    may_end: bool,
}

impl Tasks {
    pub fn new(health: Arc<Health>) -> Tasks {
        Tasks { running: Mutex::new(JoinSet::new()), health }
    }

    /// For a task that has an end; only a panic in it is this member's.
    pub fn spawn(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_guarded(what, true, task);
    }

    /// For a task that this member cannot do without.
    pub fn spawn_lasting(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_guarded(what, false, task);
    }

    /// All that run, to be ended.
    pub fn take(&self) -> JoinSet<()> {
        std::mem::take(&mut *lock(&self.running))
    }

    fn spawn_guarded(&self, what: &'static str, may_end: bool, task: impl Future<Output = ()> + Send + 'static) {
        let lasting = Lasting { what, health: self.health.clone(), may_end };
        lock(&self.running).spawn(async move {
            let _lasting = lasting;
            task.await;
        });
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        let panicked = std::thread::panicking();
        if panicked || !self.may_end {
            self.health.fail(format!("{} has {}", self.what, if panicked { "panicked" } else { "ended" }));
        }
    }
}
