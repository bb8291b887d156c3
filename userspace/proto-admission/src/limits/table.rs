//! The keys an edge has met, and its leases of tokens.

use super::owned::held;
use super::{Gcra, Grant, Rate, Report};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What an edge does about a key whose owner it hears nothing from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WhenAlone {
    /// Goes on with its last share of the rate.
    #[default]
    Share,
    /// Lets everything through.
    Open,
    /// Lets nothing through.
    Closed,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decided {
    pub passes: bool,
    /// Tokens left, as far as is known here.
    pub left: u32,
    /// Milliseconds until there is one again.
    pub again_ms: u64,
}

/// Counts; each only grows.
#[derive(Debug, Default)]
pub struct LeaseFigures {
    pub passed: AtomicU64,
    pub refused: AtomicU64,
    /// Passed or refused by the last share, because nothing was heard from the owner.
    pub alone: AtomicU64,
    /// Tokens used before they were leased.
    pub advanced: AtomicU64,
    /// Passed or refused here alone because all requests of the key come to this machine.
    pub here: AtomicU64,
    /// Keys that were forgotten for others although they were in use.
    pub evicted: AtomicU64,
}

/// The leases of one limit; all workers share them.
pub struct Leases {
    shards: Vec<Mutex<Shard>>,
    keys_max: usize,
    /// Of which the next reports speak first: with more news than fit into one message, all shards have their turn.
    first: AtomicUsize,
    pub figures: LeaseFigures,
}

#[derive(Default)]
struct Shard {
    places: HashMap<u64, u32, foldhash::fast::RandomState>,
    keys: Vec<Key>,
    /// Where the next one to be forgotten is looked for.
    hand: usize,
    /// Places of keys there is something to say of: of which tokens are asked for or given back, and of which it is only told what has
    /// passed here. Each is in each at most once.
    asking: Vec<u32>,
    telling: Vec<u32>,
}

#[derive(Default)]
struct Key {
    key: u64,
    used_ms: u64,
    /// Its own, when nobody else is to be asked; also the first tokens of a key.
    own: Gcra,
    leased: u32,
    leased_until_ms: u64,
    /// May be used without a lease until the next grant.
    spare: u32,
    advanced: u32,
    asked: u32,
    heard_ms: u64,
    /// The owner was told of it then, and has not answered since; 0: it has.
    told_ms: u64,
    /// In thousandths; 0 before anything was heard.
    share: u16,
    left: i32,
    /// Its place is in the list of that name.
    asking: bool,
    telling: bool,
}

impl Leases {
    pub fn new(keys_max: usize) -> Leases {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Leases { shards, keys_max: keys_max.max(SHARDS), first: AtomicUsize::new(0), figures: LeaseFigures::default() }
    }

    /// Keys that are known.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).keys.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Decides here alone.
    pub fn take_local(&self, key: u64, rate: Rate, now_ms: u64) -> Decided {
        let mut shard = self.shard(key);
        let known = shard.known(key, now_ms, self.keys_max / SHARDS, &self.figures);
        let taken = known.own.take(rate, now_ms * 1_000_000);
        let left = known.own.left(rate, now_ms * 1_000_000);
        drop(shard);
        self.decided(taken.is_ok(), left, taken.err().unwrap_or(0))
    }

    /// Decides here alone a request that comes by a road on which all of the key's come to this machine: exactly, and without asking
    /// anybody. The owner is told of what passes: on other roads to the limit, which lead to other machines, there is so much less. Where
    /// several roads like this one lead to several machines, each of which passes all that may, the owner's bucket is soon far below zero:
    /// nothing passes then until what was passed too much has been paid back.
    pub fn take_here(&self, key: u64, rate: Rate, now_ms: u64) -> Decided {
        self.figures.here.fetch_add(1, Ordering::Relaxed);
        let mut guard = self.shard(key);
        let shard = &mut *guard;
        let known = shard.known(key, now_ms, self.keys_max / SHARDS, &self.figures);
        let too_much = known.passed_too_much(rate, now_ms);
        let taken = match too_much {
            0 => known.own.take(rate, now_ms * 1_000_000),
            tokens => Err(rate.interval_ns().saturating_mul(tokens)),
        };
        let left = if too_much > 0 { 0 } else { known.own.left(rate, now_ms * 1_000_000) };
        if taken.is_ok() {
            known.advanced = known.advanced.saturating_add(1);
            if !known.asking && !std::mem::replace(&mut known.telling, true) {
                let place = shard.places[&key];
                shard.telling.push(place);
            }
        }
        drop(guard);
        self.decided(taken.is_ok(), left, taken.err().unwrap_or(0))
    }

    /// Decides by a lease of the cluster's tokens. `edges` are those that share the limit.
    pub fn take(&self, key: u64, rate: Rate, edges: usize, alone: WhenAlone, now_ms: u64) -> Decided {
        let mut guard = self.shard(key);
        let shard = &mut *guard;
        let known = shard.known(key, now_ms, self.keys_max / SHARDS, &self.figures);
        known.asked = known.asked.saturating_add(1);
        let news = !std::mem::replace(&mut known.asking, true);
        let mut again_ns = rate.interval_ns().saturating_mul(1 + u64::from(known.left.min(0).unsigned_abs()));
        let (mut left, before) = (known.left, known.advanced);
        let passes = if known.leased > 0 && now_ms < known.leased_until_ms {
            known.leased -= 1;
            true
        } else if known.told_ms > 0 && now_ms.saturating_sub(known.told_ms) >= ALONE_MS {
            self.figures.alone.fetch_add(1, Ordering::Relaxed);
            match alone {
                WhenAlone::Open => true,
                WhenAlone::Closed => false,
                WhenAlone::Share => known.take_share(rate, edges, now_ms, &mut again_ns),
            }
        } else if known.heard_ms == 0 {
            known.take_share(rate, edges, now_ms, &mut again_ns)
        } else if now_ms.saturating_sub(known.heard_ms) < ALONE_MS {
            let spare = known.spare > 0;
            known.spare -= u32::from(spare);
            known.advanced += u32::from(spare);
            spare
        } else {
            // It was not asked for in a while: what the owner had left then, and what has come since.
            let come = now_ms.saturating_sub(known.heard_ms).saturating_mul(1_000_000) / rate.interval_ns();
            let full = i64::from(held(rate).burst);
            let there = i64::from(known.left).saturating_add_unsigned(come).min(full);
            again_ns = rate.interval_ns().saturating_mul(1 + there.min(0).unsigned_abs());
            let passes = there > 0;
            if passes {
                if there == full {
                    // What comes into a full bucket is lost: as if it had been heard of so long ago that it is full just now.
                    let since = (ALONE_MS * 1_000_000 / rate.interval_ns()) as i64;
                    known.left = (full - since).clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
                    known.heard_ms = now_ms - ALONE_MS;
                }
                known.left = known.left.saturating_sub(1);
                known.advanced += 1;
            }
            left = (there - i64::from(passes)).clamp(0, i64::from(i32::MAX)) as i32;
            passes
        };
        self.figures.advanced.fetch_add(u64::from(known.advanced - before), Ordering::Relaxed);
        let left = known.leased.saturating_add(left.max(0) as u32).min(held(rate).burst);
        if news {
            let place = shard.places[&key];
            shard.asking.push(place);
        }
        drop(guard);
        self.decided(passes, left, again_ns)
    }

    /// What there is to say, at most `most` of it; the rest comes next time. Keys that wait for tokens go before those of which the owner is
    /// only told, and an eighth is for these all the same: neither crowds the others out, however many there are.
    pub fn reports(&self, most: usize, now_ms: u64) -> Vec<Report> {
        let mut reports = Vec::new();
        let first = self.first.fetch_add(1, Ordering::Relaxed);
        self.tell(most / 8, first, &mut reports);
        self.ask(most, first, now_ms, &mut reports);
        self.tell(most, first, &mut reports);
        reports
    }

    /// Of keys that are decided here alone; until there are `most` reports.
    fn tell(&self, most: usize, first: usize, reports: &mut Vec<Report>) {
        for step in 0..SHARDS {
            let mut guard = lock(&self.shards[(first.wrapping_add(step)) % SHARDS]);
            let shard = &mut *guard;
            let some = shard.telling.len().min(most.saturating_sub(reports.len()));
            for place in shard.telling.drain(..some) {
                let Some(known) = shard.keys.get_mut(place as usize) else { continue };
                known.telling = false;
                // One that asks as well says it then.
                let advanced = if known.asking { 0 } else { std::mem::take(&mut known.advanced) };
                if advanced > 0 {
                    reports.push(Report { key: known.key, advanced, returned: 0, wanted: 0 });
                }
            }
        }
    }

    fn ask(&self, most: usize, first: usize, now_ms: u64, reports: &mut Vec<Report>) {
        for step in 0..SHARDS {
            let mut guard = lock(&self.shards[(first.wrapping_add(step)) % SHARDS]);
            let shard = &mut *guard;
            let some = shard.asking.len().min(most - reports.len());
            let rest = shard.asking.split_off(some);
            let places = std::mem::replace(&mut shard.asking, rest);
            for place in places {
                let Some(known) = shard.keys.get_mut(place as usize) else { continue };
                let expired = now_ms >= known.leased_until_ms;
                let returned = if expired { std::mem::take(&mut known.leased) } else { 0 };
                // A little more than was asked for last time, so that growing demand finds tokens.
                let like =
                    if known.asked == 0 { 0 } else { known.asked.saturating_add(known.asked / 4).saturating_add(1) };
                let wanted = like.saturating_sub(known.leased);
                let advanced = std::mem::take(&mut known.advanced);
                known.asked = 0;
                // What is leased has to be given back, if nobody uses it.
                known.asking = known.leased > 0;
                if known.asking {
                    shard.asking.push(place);
                }
                if advanced + returned + wanted > 0 {
                    if known.told_ms == 0 {
                        known.told_ms = now_ms.max(1);
                    }
                    reports.push(Report { key: known.key, advanced, returned, wanted });
                }
            }
            if reports.len() >= most {
                break;
            }
        }
    }

    /// The owner's answers.
    pub fn granted(&self, grants: &[Grant], edges: usize, now_ms: u64) {
        for grant in grants {
            let mut guard = self.shard(grant.key);
            let shard = &mut *guard;
            let Some(place) = shard.places.get(&grant.key).copied() else { continue };
            let known = &mut shard.keys[place as usize];
            known.leased = known.leased.saturating_add(grant.tokens);
            known.leased_until_ms = now_ms + LEASE_MS;
            known.heard_ms = now_ms.max(1);
            known.told_ms = 0;
            known.share = grant.share.max(1);
            known.left = grant.left;
            let part = u64::from(grant.left.max(0) as u32) * u64::from(grant.share) / 1000;
            known.spare = u32::try_from(if edges <= 1 { part } else { part / 2 }).unwrap_or(u32::MAX);
            if known.leased > 0 && !std::mem::replace(&mut known.asking, true) {
                shard.asking.push(place);
            }
        }
    }

    /// The owner was not reached: what was used before it was leased is said again. Tokens that were given back are lost.
    pub fn not_told(&self, reports: &[Report]) {
        for report in reports.iter().filter(|report| report.advanced > 0) {
            let mut guard = self.shard(report.key);
            let shard = &mut *guard;
            let Some(place) = shard.places.get(&report.key).copied() else { continue };
            let known = &mut shard.keys[place as usize];
            known.advanced = known.advanced.saturating_add(report.advanced);
            if !known.asking && !std::mem::replace(&mut known.telling, true) {
                shard.telling.push(place);
            }
        }
    }

    fn decided(&self, passes: bool, left: u32, again_ns: u64) -> Decided {
        let count = if passes { &self.figures.passed } else { &self.figures.refused };
        count.fetch_add(1, Ordering::Relaxed);
        Decided { passes, left, again_ms: if passes { 0 } else { again_ns.div_ceil(1_000_000).max(1) } }
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, Shard> {
        lock(&self.shards[(super::mixed(key) >> 58) as usize % SHARDS])
    }
}

impl Key {
    /// Tokens by which the owner's bucket is further below zero than a word that was late makes it, as it was when something was heard of
    /// it and with what has come since.
    fn passed_too_much(&self, rate: Rate, now_ms: u64) -> u64 {
        let come = |ms: u64| ms.saturating_mul(1_000_000) / rate.interval_ns();
        let since = come(now_ms.saturating_sub(self.heard_ms));
        u64::from(self.left.min(0).unsigned_abs()).saturating_sub(since).saturating_sub(1 + come(LATE_MS))
    }

    /// Takes a token of this edge's own part of the rate.
    fn take_share(&mut self, rate: Rate, edges: usize, now_ms: u64, again_ns: &mut u64) -> bool {
        let share = match self.share {
            0 => 1000 / edges.clamp(1, 1000) as u64,
            share => u64::from(share),
        };
        let burst = (u64::from(rate.burst) * share / 1000).max(1);
        let own = Rate::new(rate.interval_ns().saturating_mul(1000) / share.max(1), burst as u32);
        let taken = self.own.take(own, now_ms * 1_000_000);
        *again_ns = taken.err().unwrap_or(0);
        self.advanced += u32::from(taken.is_ok());
        taken.is_ok()
    }
}

impl Shard {
    fn known(&mut self, key: u64, now_ms: u64, most: usize, figures: &LeaseFigures) -> &mut Key {
        let place = match self.places.get(&key) {
            Some(place) => *place as usize,
            None => {
                let fresh = Key { key, ..Key::default() };
                let place = if self.keys.len() < most.max(1) {
                    self.keys.push(fresh);
                    self.keys.len() - 1
                } else {
                    let place = self.least_used();
                    let old = &self.keys[place];
                    if now_ms.saturating_sub(old.used_ms) < IDLE_MS {
                        figures.evicted.fetch_add(1, Ordering::Relaxed);
                    }
                    self.places.remove(&old.key);
                    // What is still to be said is said of its place: by the one that takes it.
                    let (asking, telling) = (old.asking, old.telling);
                    self.keys[place] = Key { asking, telling, ..fresh };
                    place
                };
                self.places.insert(key, place as u32);
                place
            }
        };
        let known = &mut self.keys[place];
        known.used_ms = now_ms;
        known
    }

    /// Of the next few, the one that was used longest ago.
    fn least_used(&mut self) -> usize {
        let all = self.keys.len();
        let some = (0..LOOKED_AT.min(all)).map(|step| (self.hand + step) % all);
        let place = some.min_by_key(|place| self.keys[*place].used_ms).unwrap_or(0);
        self.hand = (self.hand + LOOKED_AT) % all.max(1);
        place
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const SHARDS: usize = 16;
/// Tokens that are not used within this are given back.
const LEASE_MS: u64 = 250;
/// Without a word from the owner for so long, an edge is alone.
const ALONE_MS: u64 = 600;
/// What is told of a key so much later than it passed leaves the owner's bucket below zero, though nothing passed too much.
const LATE_MS: u64 = 2_000;
/// A key that was not used for so long is not missed.
const IDLE_MS: u64 = 10_000;
const LOOKED_AT: usize = 8;
