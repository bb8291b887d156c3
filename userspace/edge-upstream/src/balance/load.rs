//! What servers have to do for a pool: requests under way, how long they take, and how many there may be at a time.
//!
//! All workers share the counts of a server, which cost a request two additions to a line that others write as well; pools that need
//! them not do without. They outlive changes of the document.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How fast what was is forgotten: after this time it counts for a third.
const DECAY: Duration = Duration::from_secs(10);

/// A request that failed counts as one that took as long as this at least: a server that fails fast must not look fast.
const FAILURE_LEAST: Duration = Duration::from_secs(1);

/// What a server is thought to take of which nothing is known but that it has not answered yet.
const UNKNOWN: Duration = Duration::from_secs(1);

/// One server's. Alone in its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Load {
    under_way: AtomicU32,
    /// Requests at a time; 0: any number.
    most: AtomicU32,
    time: PeakEwma,
}

impl Load {
    pub fn under_way(&self) -> u32 {
        self.under_way.load(Relaxed)
    }

    pub fn set_most(&self, most: u32) {
        self.most.store(most, Relaxed);
    }

    /// Whether it has as many requests as it may have.
    #[inline]
    pub fn is_full(&self) -> bool {
        let most = self.most.load(Relaxed);
        most > 0 && self.under_way() >= most
    }

    /// A place among its requests; `None` when it has as many as it may have.
    #[inline]
    pub fn enter(self: &Arc<Self>, waiting: Option<&Arc<Waiting>>) -> Option<Place> {
        match self.most.load(Relaxed) {
            0 => drop(self.under_way.fetch_add(1, SeqCst)),
            most => {
                let more = |n: u32| (n < most).then_some(n + 1);
                self.under_way.fetch_update(SeqCst, Relaxed, more).ok()?;
            }
        }
        Some(Place { load: self.clone(), waiting: waiting.cloned() })
    }

    /// A request has been answered, or not, after this time.
    pub fn took(&self, took: Duration, failed: bool, now: Instant) {
        self.time.note(if failed { took.max(FAILURE_LEAST) } else { took }, now);
    }

    /// What the next request would wait for: what requests take here at worst, for each under way and one more. A weight divides what is
    /// under way.
    pub fn cost(&self, weight: f64, now: Instant) -> f64 {
        let under_way = f64::from(self.under_way());
        let time = match self.time.at(now) {
            0.0 if under_way > 0.0 => UNKNOWN.as_secs_f64(),
            time => time,
        };
        time * (under_way / weight + 1.0)
    }
}

/// A request under way at a server, until it is dropped.
#[derive(Debug)]
pub struct Place {
    load: Arc<Load>,
    waiting: Option<Arc<Waiting>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.load.under_way.fetch_sub(1, SeqCst);
        if let Some(waiting) = &self.waiting {
            waiting.tell();
        }
    }
}

/// How long requests take, of which a slow one counts at once and is forgotten slowly (peak-EWMA, as Finagle and linkerd have it).
///
/// Two words that are written one after the other: who reads between them is wrong by one request.
#[derive(Debug, Default)]
struct PeakEwma {
    /// Seconds, the bits of an `f64`.
    cost: AtomicU64,
    /// Nanoseconds since the process began to count.
    stamp: AtomicU64,
}

impl PeakEwma {
    fn note(&self, took: Duration, now: Instant) {
        let (stamp, took) = (stamp_of(now), took.as_secs_f64());
        let (known, before) = (f64::from_bits(self.cost.load(Relaxed)), self.stamp.load(Relaxed));
        let weight = decay(stamp.saturating_sub(before));
        let cost = if took > known { took } else { known * weight + took * (1.0 - weight) };
        self.cost.store(cost.to_bits(), Relaxed);
        self.stamp.store(stamp, Relaxed);
    }

    /// In seconds. It falls while nothing is heard, so that a server that was slow is tried again.
    fn at(&self, now: Instant) -> f64 {
        let age = stamp_of(now).saturating_sub(self.stamp.load(Relaxed));
        f64::from_bits(self.cost.load(Relaxed)) * decay(age)
    }
}

fn decay(nanos: u64) -> f64 {
    (-(nanos as f64) / DECAY.as_nanos() as f64).exp()
}

/// Nanoseconds since some instant of this process, which is before all others.
fn stamp_of(now: Instant) -> u64 {
    static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let began = *BEGAN.get_or_init(|| now.checked_sub(Duration::from_secs(3600)).unwrap_or(now));
    now.saturating_duration_since(began).as_nanos() as u64 + 1
}

/// Requests that wait for a server of a pool to have room, first come, first served; of all workers.
#[derive(Debug)]
pub struct Waiting {
    most: AtomicUsize,
    /// In `queue`, for those who need not look.
    count: AtomicUsize,
    queue: Mutex<VecDeque<Arc<Waiter>>>,
}

/// One that waits.
#[derive(Debug, Default)]
struct Waiter {
    /// It has been taken out of the queue, to try.
    told: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Waiting {
    pub fn new(most: usize) -> Arc<Waiting> {
        Arc::new(Waiting { most: AtomicUsize::new(most), count: AtomicUsize::new(0), queue: Mutex::default() })
    }

    pub fn set_most(&self, most: usize) {
        self.most.store(most, Relaxed);
    }

    /// Whether somebody waits, who comes before all others.
    #[inline]
    pub fn is_any(&self) -> bool {
        self.count.load(SeqCst) > 0
    }

    /// A place at the end of the queue; `None` when it is full.
    pub fn join(self: &Arc<Self>) -> Option<Turn> {
        let waiter = Arc::<Waiter>::default();
        let mut queue = self.queue();
        if queue.len() >= self.most.load(Relaxed) {
            return None;
        }
        queue.push_back(waiter.clone());
        self.count.store(queue.len(), SeqCst);
        Some(Turn { waiting: self.clone(), waiter })
    }

    /// Some server may have room: the first in the queue tries.
    pub fn tell(&self) {
        if !self.is_any() {
            return;
        }
        let mut queue = self.queue();
        let first = queue.pop_front();
        self.count.store(queue.len(), SeqCst);
        drop(queue);
        if let Some(waiter) = first {
            waiter.told.store(true, SeqCst);
            if let Some(waker) = lock(&waiter.waker).take() {
                waker.wake();
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Arc<Waiter>>> {
        lock(&self.queue)
    }
}

/// A place in the queue, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    waiting: Arc<Waiting>,
    waiter: Arc<Waiter>,
}

impl Turn {
    /// Ready when it is its turn to try.
    pub fn poll_told(&self, cx: &Context<'_>) -> Poll<()> {
        *lock(&self.waiter.waker) = Some(cx.waker().clone());
        if self.waiter.told.load(SeqCst) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether it is the one that is told next.
    pub fn is_first(&self) -> bool {
        self.waiting.queue().front().is_some_and(|first| Arc::ptr_eq(first, &self.waiter))
    }

    /// There was no room after all: it is the first in the queue again.
    pub fn again(&self) {
        self.waiter.told.store(false, SeqCst);
        let mut queue = self.waiting.queue();
        queue.push_front(self.waiter.clone());
        self.waiting.count.store(queue.len(), SeqCst);
    }

    /// It has found a server: nobody else need try in its place.
    pub fn served(self) {
        self.waiter.told.store(false, SeqCst);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut queue = self.waiting.queue();
        queue.retain(|waiter| !Arc::ptr_eq(waiter, &self.waiter));
        self.waiting.count.store(queue.len(), SeqCst);
        drop(queue);
        // It was told and has not tried: the next one does.
        if self.waiter.told.load(SeqCst) {
            self.waiting.tell();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_request_counts_at_once_and_is_forgotten_slowly() {
        let (load, start) = (Load::default(), Instant::now());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let millis = |now| (load.cost(1.0, now) * 1e3).round() as u64;
        load.took(Duration::from_millis(10), false, at(0));
        assert_eq!(millis(at(0)), 10);
        load.took(Duration::from_millis(500), false, at(1));
        assert_eq!(millis(at(1)), 500, "a peak");
        load.took(Duration::from_millis(10), false, at(2));
        assert!((440..470).contains(&millis(at(2))), "{}", millis(at(2)));
        for second in 3..60 {
            load.took(Duration::from_millis(10), false, at(second));
        }
        assert!((8..14).contains(&millis(at(59))), "{}", millis(at(59)));
        assert!(millis(at(120)) < 1, "who was slow is tried again");
        load.took(Duration::from_millis(1), true, at(121));
        assert_eq!(millis(at(121)), 1000, "to fail fast is not to be fast");
    }

    #[test]
    fn what_is_under_way_costs_and_weights_divide_it() {
        let (load, now) = (Arc::new(Load::default()), Instant::now());
        assert_eq!(load.cost(1.0, now), 0.0, "nothing is known: it is tried");
        let first = load.enter(None).unwrap();
        assert_eq!(load.cost(1.0, now), 2.0, "it has not answered yet");
        load.took(Duration::from_millis(100), false, now);
        assert_eq!((load.cost(1.0, now) * 1e3).round(), 200.0);
        assert_eq!((load.cost(4.0, now) * 1e3).round(), 125.0);
        drop(first);
        assert_eq!((load.cost(1.0, now) * 1e3).round(), 100.0);
    }

    #[test]
    fn no_more_places_than_there_may_be() {
        let load = Arc::new(Load::default());
        load.set_most(2);
        let (a, b) = (load.enter(None).unwrap(), load.enter(None).unwrap());
        assert!(load.is_full() && load.enter(None).is_none());
        drop(a);
        assert!(!load.is_full());
        let c = load.enter(None).unwrap();
        load.set_most(1);
        drop((b, c));
        assert_eq!(load.under_way(), 0);
    }

    fn is_told(turn: &Turn) -> bool {
        turn.poll_told(&Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn who_came_first_is_served_first_and_the_queue_has_an_end() {
        let (load, waiting) = (Arc::new(Load::default()), Waiting::new(3));
        load.set_most(1);
        let place = load.enter(Some(&waiting)).unwrap();
        let turns: Vec<Turn> = (0..3).map(|_| waiting.join().unwrap()).collect();
        assert!(waiting.join().is_none(), "full");
        drop(place);
        assert_eq!(turns.iter().map(is_told).collect::<Vec<_>>(), [true, false, false]);
        let mut turns = turns.into_iter();
        let (first, second, third) = (turns.next().unwrap(), turns.next().unwrap(), turns.next().unwrap());
        // Somebody was faster.
        let thief = load.enter(Some(&waiting)).unwrap();
        assert!(load.enter(Some(&waiting)).is_none());
        first.again();
        drop(thief);
        assert!(is_told(&first) && !is_told(&second));
        let place = load.enter(Some(&waiting)).unwrap();
        first.served();
        assert!(!is_told(&second), "it was for the first");
        drop(place);
        assert!(is_told(&second));
        // Its client has gone: the next one is told.
        drop(second);
        assert!(is_told(&third) && !waiting.is_any());
        drop(third);
        assert!(!waiting.is_any());
    }
}
