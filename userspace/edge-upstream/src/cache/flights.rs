//! Equal misses wait for the first of them, so that an answer that everybody wants is fetched once.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Parts of the table, each behind a lock of its own.
const SHARDS: usize = 16;

/// Keys of a part whose answers are known not to be kept; beyond them all of the part are forgotten.
const PASSED_MOST: usize = 1024;

/// How long nobody waits for an answer that is not kept, from the last that was not.
const PASS_FOR: Duration = Duration::from_secs(10);

/// How a fetch ended for those who wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// What it brought is kept.
    Kept,
    /// It is not: each has to ask for itself.
    NotKept,
    /// The origin failed: what is stale may stand in.
    Failed,
    /// Who fetched it has left: another one may.
    Abandoned,
}

/// The fetches under way of a cache.
pub struct Flights {
    shards: [Mutex<HashMap<u64, Place>>; SHARDS],
    /// Most who wait for one fetch.
    waiting_most: usize,
}

enum Place {
    Flying(Arc<Flying>),
    /// Until then nobody waits.
    Passed(Instant),
}

#[derive(Default)]
struct Flying {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    end: Option<End>,
    wakers: HashMap<u64, Waker>,
    waiting: usize,
    /// Somebody has waited as long as they could: nobody else does for this one.
    slow: bool,
}

/// What a miss is to do.
pub enum Joined {
    /// Fetch it, and say how that ended.
    Lead(Lead),
    /// Wait for who does.
    Wait(Waiting),
    /// Fetch it alone: such answers are not kept, or the one under way takes too long.
    Pass,
    /// Fetch it alone: as many as may be wait already.
    Full,
}

impl Flights {
    pub fn new(waiting_most: usize) -> Arc<Flights> {
        Arc::new(Flights { shards: std::array::from_fn(|_| Mutex::default()), waiting_most })
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, HashMap<u64, Place>> {
        self.shards[hash as usize % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes part in the fetch of a key by its hash. Keys of the same hash share a fetch; who finds nothing of its own then asks.
    pub fn join(self: &Arc<Self>, hash: u64, now: Instant) -> Joined {
        let mut places = self.shard(hash);
        match places.get(&hash) {
            Some(Place::Passed(until)) if now < *until => return Joined::Pass,
            Some(Place::Flying(flying)) => {
                let mut state = flying.lock();
                if state.slow {
                    return Joined::Pass;
                }
                if state.waiting >= self.waiting_most {
                    return Joined::Full;
                }
                state.waiting += 1;
                return Joined::Wait(Waiting::new(flying.clone()));
            }
            _ => {}
        }
        let flying = Arc::new(Flying::default());
        places.insert(hash, Place::Flying(flying.clone()));
        drop(places);
        Joined::Lead(Lead { flights: self.clone(), hash, flying, ended: false })
    }

    /// The fetch of the key takes too long, or its client reads too slowly: until it ends, each fetches alone.
    pub fn tire_of(&self, hash: u64) {
        if let Some(Place::Flying(flying)) = self.shard(hash).get(&hash) {
            flying.lock().slow = true;
        }
    }

    /// What is fetched for the key is kept, after all.
    pub fn forget(&self, hash: u64) {
        let mut places = self.shard(hash);
        if matches!(places.get(&hash), Some(Place::Passed(_))) {
            places.remove(&hash);
        }
    }
}

impl Flying {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by who fetches. Dropped without a word, it has left.
pub struct Lead {
    flights: Arc<Flights>,
    hash: u64,
    flying: Arc<Flying>,
    ended: bool,
}

impl Lead {
    /// Tells those who wait. With `remember`, nobody waits for this key for a while.
    pub fn end(mut self, end: End, remember: bool) {
        self.tell(end, remember);
    }

    fn tell(&mut self, end: End, remember: bool) {
        self.ended = true;
        let mut places = self.flights.shard(self.hash);
        places.remove(&self.hash);
        if remember {
            if places.len() >= PASSED_MOST {
                places.retain(|_, place| matches!(place, Place::Flying(_)));
            }
            places.insert(self.hash, Place::Passed(base_runtime::now() + PASS_FOR));
        }
        drop(places);
        let mut state = self.flying.lock();
        state.end = Some(end);
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_values().for_each(Waker::wake);
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if !self.ended {
            self.tell(End::Abandoned, false);
        }
    }
}

/// Waits for the end of a fetch.
pub struct Waiting {
    flying: Arc<Flying>,
    id: u64,
}

impl Waiting {
    fn new(flying: Arc<Flying>) -> Waiting {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Waiting { flying, id: IDS.fetch_add(1, Relaxed) }
    }
}

impl Future for Waiting {
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let mut state = self.flying.lock();
        match state.end {
            Some(end) => Poll::Ready(end),
            None => {
                state.wakers.insert(self.id, cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.flying.lock();
        state.waiting -= 1;
        state.wakers.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lead(flights: &Arc<Flights>) -> Lead {
        match flights.join(7, Instant::now()) {
            Joined::Lead(lead) => lead,
            _ => panic!("nobody leads"),
        }
    }

    fn wait(flights: &Arc<Flights>) -> Waiting {
        match flights.join(7, Instant::now()) {
            Joined::Wait(waiting) => waiting,
            _ => panic!("somebody leads"),
        }
    }

    fn poll(waiting: &mut Waiting) -> Poll<End> {
        Pin::new(waiting).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn one_fetches_and_the_others_hear_of_it() {
        let flights = Flights::new(2);
        let first = lead(&flights);
        let (mut one, two) = (wait(&flights), wait(&flights));
        assert!(matches!(flights.join(7, Instant::now()), Joined::Full));
        assert!(matches!(flights.join(8, Instant::now()), Joined::Lead(_)), "another key");
        assert_eq!(poll(&mut one), Poll::Pending);
        drop(two);
        let mut three = wait(&flights);
        first.end(End::Kept, false);
        assert_eq!((poll(&mut one), poll(&mut three)), (Poll::Ready(End::Kept), Poll::Ready(End::Kept)));
        // Who fetches leaves: another one may.
        let second = lead(&flights);
        let mut waiting = wait(&flights);
        drop(second);
        assert_eq!(poll(&mut waiting), Poll::Ready(End::Abandoned));
        drop(lead(&flights));
    }

    #[test]
    fn nobody_waits_for_one_that_others_have_tired_of() {
        let flights = Flights::new(2);
        let first = lead(&flights);
        let waiting = wait(&flights);
        flights.tire_of(7);
        drop(waiting);
        assert!(matches!(flights.join(7, Instant::now()), Joined::Pass));
        first.end(End::NotKept, false);
        let _next = lead(&flights);
        wait(&flights);
    }

    #[test]
    fn nobody_waits_for_what_is_not_kept() {
        let flights = Flights::new(2);
        lead(&flights).end(End::NotKept, true);
        assert!(matches!(flights.join(7, Instant::now()), Joined::Pass));
        assert!(matches!(flights.join(7, Instant::now() + PASS_FOR * 2), Joined::Lead(_)));
        lead(&flights).end(End::NotKept, true);
        flights.forget(7);
        drop(lead(&flights));
        // However many there are, they are bounded.
        for hash in 0..100_000u64 {
            match flights.join(hash * SHARDS as u64, Instant::now()) {
                Joined::Lead(lead) => lead.end(End::NotKept, true),
                _ => panic!("{hash}"),
            }
        }
        assert!(flights.shards[0].lock().unwrap().len() <= PASSED_MOST);
    }
}
