//! Tells systemd, and the kernel's programs, that this process makes progress, for as long as every part of it does.
//!
//! Each worker is given a task and has to carry it out; the agent has to come round; and this runs on the threads of the control half. A
//! part that hangs is not told of, and systemd, which hears nothing for `WatchdogSec`, starts the process again. What is known to be down
//! and tries again by itself (a full disk, a lost majority) is no reason to: a restart would not help, and cost connections.

use crate::health::Health;
use base_runtime::Worker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Runs for as long as the process does; returns at once where nobody watches.
pub async fn feed(workers: Vec<Worker>, health: Arc<Health>) {
    let Some(within) = sd_notify::watchdog_enabled() else { return };
    tracing::info!(within = %base_text::duration(within), "systemd watches over this process");
    let pulse = Pulse::new(workers);
    let mut told = false;
    loop {
        pulse.ask();
        tokio::time::sleep(within / 4).await;
        let silent = pulse.silent();
        let stuck = health.agent_stuck();
        if silent.is_empty() && !stuck {
            told = false;
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        } else if !told {
            told = true;
            let workers = silent.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
            tracing::error!(
                workers,
                agent = stuck,
                "no progress here: systemd is not told that all is well, and will start weir again"
            );
        }
    }
}

/// Whether new connections are in good hands here; for the lease in the kernel, and so sooner done with waiting than systemd is: others
/// take what is new meanwhile, and nothing is ended.
pub struct Vigil {
    pulse: Pulse,
    health: Arc<Health>,
    /// All workers had answered.
    answered: Instant,
    worker_hangs: Duration,
}

impl Vigil {
    pub fn new(workers: Vec<Worker>, health: Arc<Health>) -> Vigil {
        Vigil { pulse: Pulse::new(workers), health, answered: Instant::now(), worker_hangs: WORKER_HANGS }
    }

    /// Meant to be called several times a second.
    pub fn lives(&mut self) -> bool {
        if self.pulse.silent().is_empty() {
            self.answered = Instant::now();
        }
        self.pulse.ask();
        self.answered.elapsed() < self.worker_hangs && self.health.agent_silent() < AGENT_HANGS
    }
}

/// A worker that has carried out nothing for so long hangs. On a machine that is short of CPU tens of milliseconds are usual.
const WORKER_HANGS: Duration = Duration::from_secs(1);

/// An agent that has not come round for so long hangs. A change of ten thousand objects takes a second or two, and
/// one that panicked waits for 15 before it tries again.
const AGENT_HANGS: Duration = Duration::from_secs(20);

/// Asks every worker whether it still turns.
struct Pulse {
    /// Beside each worker, whether it has still to answer.
    workers: Vec<(Worker, Arc<AtomicBool>)>,
}

impl Pulse {
    fn new(workers: Vec<Worker>) -> Pulse {
        Pulse { workers: workers.into_iter().map(|worker| (worker, Arc::default())).collect() }
    }

    fn ask(&self) {
        for (worker, awaited) in &self.workers {
            // One that has not answered yet is not asked again: what waits for it stays small.
            if !awaited.swap(true, Ordering::Relaxed) {
                let awaited = awaited.clone();
                worker.spawn(move || async move { awaited.store(false, Ordering::Relaxed) });
            }
        }
    }

    fn silent(&self) -> Vec<usize> {
        let silent = |(_, awaited): &&(Worker, Arc<AtomicBool>)| awaited.load(Ordering::Relaxed);
        self.workers.iter().filter(silent).map(|(worker, _)| worker.index()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < Duration::from_secs(60), "not within a minute");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_worker_that_hangs_is_silent_until_it_turns_again() {
        let config = base_runtime::Config { workers: Some(2), io: base_runtime::IoMode::Epoll, ..Default::default() };
        let runtime = base_runtime::Runtime::start(config).unwrap();
        let pulse = Pulse::new(runtime.workers().to_vec());
        pulse.ask();
        until(|| pulse.silent().is_empty());
        let (let_go, wait) = std::sync::mpsc::channel::<()>();
        let hung = runtime.workers()[0].index();
        runtime.workers()[0].spawn(move || async move {
            let _ = wait.recv();
        });
        for _ in 0..3 {
            pulse.ask();
            until(|| pulse.silent() == [hung]);
        }
        drop(let_go);
        until(|| pulse.silent().is_empty());
    }

    #[test]
    fn nothing_new_is_taken_while_a_worker_hangs() {
        let config = base_runtime::Config { workers: Some(2), io: base_runtime::IoMode::Epoll, ..Default::default() };
        let runtime = base_runtime::Runtime::start(config).unwrap();
        let mut vigil = Vigil::new(runtime.workers().to_vec(), Arc::new(Health::new(true)));
        vigil.worker_hangs = Duration::from_millis(200);
        let mut becomes = |lives: bool| {
            let start = Instant::now();
            while vigil.lives() != lives {
                assert!(start.elapsed() < Duration::from_secs(60), "not within a minute");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        becomes(true);
        let (let_go, wait) = std::sync::mpsc::channel::<()>();
        runtime.workers()[1].spawn(move || async move {
            let _ = wait.recv();
        });
        becomes(false);
        drop(let_go);
        becomes(true);
    }
}
