//! Who is let in at all, before anything behind the addresses is read, and how fast connections may begin. Where a packet comes into the
//! cluster this is decided, and nowhere again.

use abi::access::{self, ASK, BANS, DENY, LISTED};
use abi::limit::Rate;
use abi::{AccessKey, Address, Reason, SourceKey};

use crate::tables::{Bucket, Tables};

/// Why nothing is taken from the address, if so. `listed`: see [`Tables::access_listed`]. Of a packet that came through a tunnel the lists
/// are not asked, which another machine has asked already.
#[inline(always)]
pub fn kept_out(tables: &impl Tables, source: &Address, hops: u8, listed: u32) -> Option<Reason> {
    if listed & LISTED != 0 && hops == 0 && is_denied(tables, source) {
        return Some(Reason::AccessDenied);
    }
    if listed & BANS != 0 && is_banned(tables, source) {
        return Some(Reason::Banned);
    }
    None
}

#[inline(always)]
fn is_denied(tables: &impl Tables, source: &Address) -> bool {
    let state = if source.is_v4() {
        let (word, shift) = access::place_v4(source.v4_raw());
        let state = (tables.access_word(word) >> shift) as u32 & ASK;
        if state == ASK { tables.access_block(source.v4_raw()) } else { state }
    } else {
        let (word, shift) = access::place_v6(source.0[0]);
        if (tables.access_word(word) >> shift) & 1 == 0 {
            return false;
        }
        tables.access_prefix(&AccessKey::whole(source))
    };
    state == DENY
}

/// Whether nothing is to be looked into further to know that nobody keeps it out. False may be said of any.
#[inline(always)]
pub fn is_let_in_at_once(tables: &impl Tables, source: &Address) -> bool {
    let (word, shift) = if source.is_v4() { access::place_v4(source.v4_raw()) } else { access::place_v6(source.0[0]) };
    let (ban_word, ban_shift) = access::place_ban(&access::banned(source));
    // Of IPv6 one bit: whether there is anything to ask. Of IPv4 the lower of two is set where all is denied, and where parts differ. All of
    // them are zero where there are no lists, or no bans.
    ((tables.access_word(word) >> shift) | (tables.access_word(ban_word) >> ban_shift)) & 1 == 0
}

const _: () = assert!(DENY & 1 == 1 && ASK & 1 == 1 && (access::OPEN | access::ALLOW) & 1 == 0);

/// Whether the source is banned now; of a packet that came through a tunnel as of any other: the machine that serves a source is the one
/// that has refused it, and the one before it may not have heard of it.
#[inline(always)]
pub fn is_banned(tables: &impl Tables, source: &Address) -> bool {
    let until = tables.banned_until(&access::banned(source));
    until != 0 && tables.now_ns() < until
}

/// Why a connection from there may not begin now, by element `index` of LIMITS; counts it otherwise.
#[inline(always)]
pub fn limited(tables: &impl Tables, index: u32, vip: u32, source: &Address) -> Option<Reason> {
    let limit = tables.limit(index)?;
    let now = tables.now_ns();
    if limit.source.each_ns != 0 {
        let key = SourceKey { address: limit.source_of(source), vip };
        if !tables.source_bucket(&key).is_some_and(|bucket| take(&bucket, now, limit.source)) {
            return Some(Reason::SourceLimited);
        }
    }
    if limit.all.each_ns != 0 && !tables.vip_bucket(vip).is_some_and(|bucket| take(&bucket, now, limit.all)) {
        return Some(Reason::VipLimited);
    }
    None
}

/// Whether connections of the VIP begin faster than it takes without SYN cookies; counts the one that asks if not. Its bucket lies behind
/// those of limits.
#[inline(always)]
pub fn is_flooded(tables: &impl Tables, index: u32, bucket: u32, opens: bool) -> bool {
    let Some(limit) = tables.limit(index) else { return false };
    let Some(bucket) = tables.vip_bucket(bucket) else { return false };
    let now = tables.now_ns();
    let rate = limit.cookies;
    if opens {
        return rate.each_ns != 0 && !take(&bucket, now, rate);
    }
    // Nothing is taken: it is looked whether there is less than half.
    bucket.load() > now.wrapping_add(rate.burst_ns / 2)
}

/// Takes one out of a bucket, if there is one. Other CPUs do so at the same time, so a refusal writes nothing: what it took and gave back
/// would be missing to who asks meanwhile, and under a flood somebody always does.
#[inline(always)]
pub fn take(bucket: &impl Bucket, now: u64, rate: Rate) -> bool {
    let latest = now.wrapping_add(rate.burst_ns);
    let mut tries = 0;
    while tries < TRIES {
        let seen = bucket.load();
        let full_at = (if seen < now { now } else { seen }).wrapping_add(rate.each_ns);
        if full_at > latest {
            if seen > latest.wrapping_add(STRANGE_NS) {
                // Filled by a slower rate, or another's whose number this virtual IP has now: it is empty, and no more.
                bucket.replace(seen, latest);
            }
            return false;
        }
        if bucket.replace(seen, full_at) {
            return true;
        }
        tries += 1;
    }
    // So many others took one meanwhile.
    false
}

/// How often it is looked again when another CPU was first.
const TRIES: u32 = 4;

/// A bucket of this rate is never so much emptier than empty: CPUs read their clocks at moments that lie less far apart.
const STRANGE_NS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn as_many_as_a_bucket_holds_at_once_and_then_as_fast_as_it_fills() {
        let bucket = AtomicU64::new(0);
        let rate = Rate::new(10, 25);
        let start = 1_000 * SECOND;
        let taken = |at: u64| (0..1_000).filter(|_| take(&bucket, at, rate)).count();
        assert_eq!(taken(start), 25);
        assert_eq!(taken(start + SECOND / 20), 0, "half of one");
        assert_eq!(taken(start + SECOND / 10), 1);
        assert_eq!(taken(start + SECOND + SECOND / 10), 10);
        assert_eq!(taken(start + 100 * SECOND), 25, "it never holds more");
    }

    #[test]
    fn another_rate_holds_at_once() {
        let (slow, fast) = (Rate::new(1, 1_000_000), Rate::new(10, 5));
        let bucket = AtomicU64::new(0);
        let start = 5_000_000 * SECOND;
        (0..1_000_000).for_each(|_| assert!(take(&bucket, start, slow)));
        assert!(!take(&bucket, start, fast), "it is empty");
        let taken = |at: u64| (0..100).filter(|_| take(&bucket, at, fast)).count();
        assert_eq!(taken(start + SECOND / 10), 1);
        assert_eq!(taken(start + 10 * SECOND), 5);
    }

    #[test]
    fn many_at_the_same_time_get_no_more_than_there_is() {
        let bucket = AtomicU64::new(0);
        let rate = Rate::new(1_000, 5_000);
        let taken = by_many(20_000, |_| take(&bucket, 1_000 * SECOND, rate));
        assert!((4_900..=5_000).contains(&taken), "{taken}");
    }

    #[test]
    fn many_that_are_refused_at_the_same_time_take_nothing_from_those_that_are_let_in() {
        // A million a second, all of them together, where a thousand are let in: two seconds of it.
        let (bucket, clock) = (AtomicU64::new(0), AtomicU64::new(1_000 * SECOND));
        let rate = Rate::new(1_000, 100);
        let taken = by_many(500_000, |_| take(&bucket, clock.fetch_add(1_000, Ordering::Relaxed), rate));
        assert!((2_000..=2_100).contains(&taken), "{taken}");
    }

    /// How often four threads, each so many times, were told yes.
    fn by_many(times: usize, ask: impl Fn(usize) -> bool + Sync) -> usize {
        std::thread::scope(|threads| {
            let all: Vec<_> = (0..4).map(|_| threads.spawn(|| (0..times).filter(|n| ask(*n)).count())).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).sum()
        })
    }
}
