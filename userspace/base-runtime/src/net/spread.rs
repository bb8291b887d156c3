//! An even spread of connections over the workers.
//!
//! With SO_REUSEPORT the kernel chooses a worker by a hash of the addresses. That is even only in the long run: of 64 connections
//! over two workers one has, on average, 13 % more than its share, and often a quarter more. A [`Spread`] counts the open connections
//! of each worker and lets a worker that is ahead hand what it has just accepted to the one with the fewest. Connections that come and
//! go at once are left where they are: handing over would cost them more than an unevenness that is over in a moment.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::TcpStream;
use crate::runtime::{Worker, worker_index};

/// What the workers that serve one address have open. Shared by all of them.
pub struct Spread {
    workers: Box<[Worker]>,
    slots: Box<[Slot]>,
    origin: Instant,
}

/// Of one worker; on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Slot {
    open: AtomicU32,
    /// When the window began, in ms since the spread was made, and what was accepted in it. Written by its worker only.
    window_ms: AtomicU64,
    accepted: AtomicU32,
}

/// A connection's place in the count; dropping it, anywhere, gives the place up.
pub struct Seat {
    spread: Arc<Spread>,
    slot: usize,
}

impl Spread {
    /// `workers` in the order of their indices, as [`crate::Runtime::workers`] has them.
    pub fn new(workers: &[Worker]) -> Arc<Spread> {
        let slots = workers.iter().map(|_| Slot::default()).collect();
        Arc::new(Spread { workers: workers.into(), slots, origin: Instant::now() })
    }

    /// Runs `serve` with a connection just accepted and its seat as a task: here, or on the worker with the fewest connections if
    /// this one is ahead of it. Nothing may have been received or sent on the connection.
    pub fn serve<F, Fut>(self: &Arc<Self>, stream: TcpStream, serve: F)
    where
        F: FnOnce(TcpStream, Seat) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let own = worker_index();
        let chosen = self.choose(own, crate::now());
        let seat = self.seat(chosen);
        if chosen == own {
            crate::spawn(serve(stream, seat)).detach();
        } else if let Err((stream, serve)) = stream.hand_over(&self.workers[chosen], move |stream| serve(stream, seat))
        {
            crate::spawn(serve(stream)).detach();
        }
    }

    /// Open connections by worker.
    pub fn open(&self) -> Vec<u32> {
        self.slots.iter().map(|slot| slot.open.load(Relaxed)).collect()
    }

    fn seat(self: &Arc<Self>, slot: usize) -> Seat {
        self.slots[slot].open.fetch_add(1, Relaxed);
        Seat { spread: self.clone(), slot }
    }

    /// Which worker the connection that `own` has accepted goes to.
    fn choose(&self, own: usize, now: Instant) -> usize {
        if self.slots.len() < 2 || own >= self.slots.len() {
            return own.min(self.slots.len() - 1);
        }
        let mine = self.slots[own].open.load(Relaxed);
        if self.slots[own].turns_over(mine, now - self.origin) {
            return own;
        }
        // With many workers a few others are as good as all, and reading a line of each costs.
        let looked_at = self.slots.len().min(LOOKED_AT);
        let first = own + 1 + mine as usize % self.slots.len();
        let (mut least, mut least_open, mut sum) = (own, mine, u64::from(mine));
        for slot in (first..first + looked_at).map(|slot| slot % self.slots.len()).filter(|&slot| slot != own) {
            let open = self.slots[slot].open.load(Relaxed);
            sum += u64::from(open);
            if open < least_open {
                (least, least_open) = (slot, open);
            }
        }
        let allowed_ahead = 1 + sum as u32 / looked_at as u32 / AHEAD_SHARE;
        if mine >= least_open + allowed_ahead { least } else { own }
    }
}

impl Slot {
    /// Counts a connection; true when so many were accepted of late that most of them must have ended again.
    fn turns_over(&self, open: u32, now: Duration) -> bool {
        let now_ms = now.as_millis() as u64;
        let mut accepted = self.accepted.load(Relaxed) + 1;
        if now_ms - self.window_ms.load(Relaxed).min(now_ms) >= WINDOW_MS {
            self.window_ms.store(now_ms, Relaxed);
            accepted = accepted / 2 + 1;
        }
        self.accepted.store(accepted, Relaxed);
        accepted > 2 * open + 16
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.spread.slots[self.slot].open.fetch_sub(1, Relaxed);
    }
}

impl fmt::Debug for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spread").field("open", &self.open()).finish()
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seat(worker {})", self.slot)
    }
}

/// A worker may be ahead of another by one connection and this part of the mean.
const AHEAD_SHARE: u32 = 16;
const LOOKED_AT: usize = 16;
const WINDOW_MS: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(open: &[u32], own: usize) -> usize {
        let slots: Box<[Slot]> = open.iter().map(|&n| Slot { open: n.into(), ..Slot::default() }).collect();
        Spread { workers: Box::new([]), slots, origin: Instant::now() }.choose(own, Instant::now())
    }

    #[test]
    fn the_one_ahead_gives_to_the_one_with_the_fewest() {
        assert_eq!(check(&[0, 0], 0), 0);
        assert_eq!(check(&[1, 0], 0), 1);
        assert_eq!(check(&[0, 5], 0), 0);
        assert_eq!(check(&[33, 32], 0), 0, "within a sixteenth of the mean");
        assert_eq!(check(&[35, 32], 0), 1);
        assert_eq!(check(&[40, 32, 3, 38], 0), 2);
        assert_eq!(check(&[7], 0), 0);
        let many: Vec<u32> = (0..100).map(|i| if i == 40 { 90 } else { i }).collect();
        assert!(many[check(&many, 40)] < 90);
    }

    #[test]
    fn connections_that_end_at_once_stay() {
        let slots: Box<[Slot]> = [2, 0].into_iter().map(|n: u32| Slot { open: n.into(), ..Slot::default() }).collect();
        let spread = Spread { workers: Box::new([]), slots, origin: Instant::now() };
        let choices: Vec<usize> = (0..40).map(|_| spread.choose(0, spread.origin)).collect();
        assert_eq!(choices[..20], [1; 20]);
        assert_eq!(choices[20..], [0; 20]);
        let later = spread.origin + Duration::from_secs(1);
        let choices: Vec<usize> = (0..3).map(|i| spread.choose(0, later + Duration::from_millis(100) * i)).collect();
        assert_eq!(choices.last(), Some(&1), "and once it is calm, spreading goes on: {choices:?}");
    }
}
