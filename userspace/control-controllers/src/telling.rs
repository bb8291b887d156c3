//! Says to the API server what a [`Teller`](crate::tell::Teller) hands over: several things at a time, and of one object one after the other.
//!
//! Ten thousand objects that are told one by one are told for most of a minute; all at once would be more than the API server lets one
//! client do. So there are a few lanes, over connections that they share, and what is of one object is always in the same one.
//!
//! An API server that has too much to do says so (429, or 5xx with `Retry-After`): all lanes wait for as long as it asks for, or longer
//! each time where it asks for nothing, and so they do where nobody answers. Meanwhile what was to be told is kept; what has been tried in
//! vain for long is handed back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control_kubernetes::{Api, ApiError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::pause::{Pause, random};
use crate::tell::{Tell, sum};

/// What became of one thing.
#[derive(Debug)]
pub enum Went {
    Told,
    /// It is tried again, and this is why it could not be told now.
    PutOff(String),
    /// It is not tried again, and why, where that is not because somebody else has written to the object.
    Untold(Tell, Option<ApiError>),
}

/// Where things wait that are to be told.
pub struct Lanes(Vec<mpsc::Sender<Tell>>);

impl Lanes {
    /// With what does the telling, for as long as it is not dropped; `went` hears what became of each thing.
    pub fn new<F, U>(api: Api, went: F) -> (Lanes, impl Future<Output = ()> + Send)
    where
        F: Fn(Went) -> U + Clone + Send + Sync + 'static,
        U: Future<Output = ()> + Send + 'static,
    {
        let (queues, heads): (Vec<_>, Vec<_>) = (0..LANES).map(|_| mpsc::channel::<Tell>(QUEUE / LANES)).unzip();
        let telling = async move {
            let pace = Arc::new(Pace::new());
            // Ends all of them when this is dropped.
            let mut lanes = JoinSet::new();
            for tells in heads {
                let (api, pace, went) = (api.clone(), pace.clone(), went.clone());
                lanes.spawn(async move { lane(&api, tells, &pace, went).await });
            }
            while lanes.join_next().await.is_some() {}
            std::future::pending::<()>().await;
        };
        (Lanes(queues), telling)
    }

    /// Says whether there was room for it.
    pub fn offer(&self, tell: Tell) -> bool {
        let (kind, key) = tell.of();
        let lane = sum((kind, key)) % LANES as u64;
        self.0[lane as usize].try_send(tell).is_ok()
    }
}

async fn lane<U: Future<Output = ()>>(
    api: &Api,
    mut tells: mpsc::Receiver<Tell>,
    pace: &Pace,
    went: impl Fn(Went) -> U,
) {
    while let Some(tell) = tells.recv().await {
        let mut tries = 0;
        loop {
            pace.turn().await;
            let began = Instant::now();
            tries += 1;
            let Err(error) = send(api, &tell).await else {
                pace.goes();
                went(Went::Told).await;
                break;
            };
            let (kind, key) = tell.of();
            let why = ApiError { told: format!("{kind} {key} could not be told how it is: {error}"), ..error };
            if why.is_passing() && tries < TRIES {
                pace.waits(began, why.retry_after);
                went(Went::PutOff(why.told)).await;
                continue;
            }
            let why = (!why.is_conflict()).then_some(why);
            went(Went::Untold(tell, why)).await;
            break;
        }
    }
}

async fn send(api: &Api, tell: &Tell) -> Result<(), ApiError> {
    let sent = match tell {
        Tell::Status { kind, key, version, status } => api.patch_status(*kind, key, version, status).await,
        Tell::Event { key, event, .. } => {
            let namespace = if key.namespace.is_empty() { "default" } else { &key.namespace };
            api.create(&format!("/api/v1/namespaces/{namespace}/events"), event).await
        }
    };
    match sent {
        // It has gone meanwhile.
        Err(error) if error.is_not_found() => Ok(()),
        sent => sent,
    }
}

/// When the API server may be asked next, by any of the lanes.
struct Pace(Mutex<Pacing>);

struct Pacing {
    not_before: Instant,
    /// When it was put off last.
    since: Instant,
    pause: Pause,
}

impl Pace {
    fn new() -> Pace {
        Pace(Mutex::new(Pacing::new(Instant::now())))
    }

    async fn turn(&self) {
        loop {
            let not_before = self.lock().not_before;
            if not_before <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(not_before).await;
        }
    }

    fn goes(&self) {
        self.lock().pause.reset();
    }

    fn waits(&self, began: Instant, asked: Option<Duration>) {
        self.lock().waits(began, Instant::now(), asked);
    }

    fn lock(&self) -> MutexGuard<'_, Pacing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pacing {
    fn new(now: Instant) -> Pacing {
        Pacing { not_before: now, since: now, pause: Pause::new(PAUSE_FIRST, PAUSE) }
    }

    /// A request that was begun then was not answered as it should be. Those that were underway when the first of them was put off tell
    /// nothing new: the pause grows once for all of them.
    fn waits(&mut self, began: Instant, now: Instant, asked: Option<Duration>) {
        let pause = match asked {
            // Not all clients come back at the same moment.
            Some(asked) => asked + Duration::from_millis(random() % SPREAD_MS),
            None if began < self.since => return,
            None => self.pause.take(),
        };
        self.not_before = self.not_before.max(now + pause);
        self.since = now;
    }
}

/// Requests that are underway at once. Kubernetes's own controllers have up to a few dozen; an API server that lets each client do little
/// (API Priority and Fairness) has a seat for these.
const LANES: usize = 8;
/// Ten thousand objects may have something to be told at once.
const QUEUE: usize = 32_768;
/// After so many the next thing has its turn, and this one is handed back.
const TRIES: u32 = 8;
/// Pauses where the API server asks for none.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_secs(30);
const SPREAD_MS: u64 = 250;

#[cfg(test)]
mod tests;
