//! Tells systemd that this process makes progress, for as long as every part of it does.
//!
//! Each worker is given a task and has to carry it out; the agent has to come round; and this runs on the threads of the control half. A
//! part that hangs is not told of, and systemd, which hears nothing for `WatchdogSec`, starts the process again. What is known to be down
//! and tries again by itself (a full disk, a lost majority) is no reason to: a restart would not help, and cost connections.

use crate::health::Health;
use base_runtime::Worker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    use std::time::{Duration, Instant};

    fn until(done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            assert!(start.elapsed() < Duration::from_secs(10), "not within 10 s");
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
}
