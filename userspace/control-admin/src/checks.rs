//! Reading and checking documents, kept from the threads that answer: ten megabytes of YAML take a processor for seconds, and
//! whoever only asks for the health of this machine must not wait for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use axum::http::StatusCode;
use tokio::sync::Semaphore;

use crate::body::Error;

/// A few at a time run on threads of their own, the others wait for their turn.
pub struct Checks {
    turns: Arc<Semaphore>,
    /// Running and waiting.
    all: Arc<AtomicUsize>,
    /// Counts what is refused.
    refused: Box<dyn Fn() + Send + Sync>,
}

/// Requests that run or wait at the same time; each holds its body, at most [`BODY_BYTES_MAX`](crate::BODY_BYTES_MAX) bytes.
/// Beyond it a request is answered with 503, and counted as `document_checks`.
const CHECKS_MAX: usize = 64;

impl Checks {
    /// `at_once`: how many may run at the same time, at least 1. `refused` is called for each that may not even wait.
    pub fn new(at_once: usize, refused: impl Fn() + Send + Sync + 'static) -> Checks {
        Checks { turns: Arc::new(Semaphore::new(at_once.max(1))), all: Arc::default(), refused: Box::new(refused) }
    }

    /// Runs `work` when it is its turn. A caller that gives up before that leaves the queue; work that has begun keeps its place to
    /// its end, so that giving up and asking again gets nobody more than their share.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let place = Place(self.all.clone());
        if place.0.fetch_add(1, Relaxed) >= CHECKS_MAX {
            (self.refused)();
            let message = format!("{CHECKS_MAX} changes are being checked already; try again when they are done");
            return Err(Error::new(StatusCode::SERVICE_UNAVAILABLE, message));
        }
        let turn = self.turns.clone().acquire_owned().await;
        let done = tokio::task::spawn_blocking(move || {
            let _held = (place, turn);
            work()
        });
        done.await.unwrap_or_else(|failed| {
            tracing::error!(%failed, "a check of documents broke off");
            Err(Error::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the check of this request broke off; the log says where",
            ))
        })
    }
}

struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::mpsc;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    #[test]
    fn one_at_a_time_and_no_more_than_may_wait() {
        runtime().block_on(async {
            let counted = Arc::new(AtomicUsize::new(0));
            let counter = counted.clone();
            let checks = Arc::new(Checks::new(1, move || {
                counter.fetch_add(1, Relaxed);
            }));
            let (go, gate) = mpsc::channel::<()>();
            let gate = Arc::new(Mutex::new(gate));
            let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..CHECKS_MAX {
                let (checks, gate, running, most) = (checks.clone(), gate.clone(), running.clone(), most.clone());
                tasks.spawn(async move {
                    let work = move || {
                        most.fetch_max(running.fetch_add(1, Relaxed) + 1, Relaxed);
                        gate.lock().unwrap().recv().unwrap();
                        running.fetch_sub(1, Relaxed);
                        Ok(())
                    };
                    checks.run(work).await
                });
            }
            while checks.all.load(Relaxed) < CHECKS_MAX {
                tokio::task::yield_now().await;
            }
            let refused = checks.run(|| Ok(())).await.unwrap_err();
            assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(counted.load(Relaxed), 1);
            for _ in 0..CHECKS_MAX {
                go.send(()).unwrap();
            }
            assert!(tasks.join_all().await.iter().all(Result::is_ok));
            assert_eq!(most.load(Relaxed), 1);
            checks.run(|| Ok(())).await.expect("places are given back");
        });
    }

    #[test]
    fn a_panic_is_an_answer_and_gives_the_place_back() {
        runtime().block_on(async {
            let checks = Checks::new(1, || {});
            for _ in 0..CHECKS_MAX + 1 {
                let broken = checks.run::<()>(|| panic!("on purpose")).await.unwrap_err();
                assert_eq!(broken.status, StatusCode::INTERNAL_SERVER_ERROR);
            }
        });
    }
}
