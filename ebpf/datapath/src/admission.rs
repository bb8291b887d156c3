//! Who is let in at all, before anything behind the addresses is read, and how fast connections may begin. Where a packet comes into the
//! cluster this is decided, and nowhere again.

use abi::access::{self, ASK, DENY};
use abi::limit::Rate;
use abi::{AccessKey, Address, Reason, SourceKey};

use crate::tables::{Bucket, Tables};

/// Whether the lists deny the address; of a packet that came through a tunnel, never.
#[inline(always)]
pub fn is_denied(tables: &impl Tables, source: &Address, hops: u8) -> bool {
    if hops != 0 {
        return false;
    }
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

/// Takes one out of a bucket, if there is one. Other CPUs do so at the same time: what one of them sees too much of may be refused, and
/// never is more given out than there is.
#[inline(always)]
pub fn take(bucket: &impl Bucket, now: u64, rate: Rate) -> bool {
    let seen = bucket.load();
    if seen < now && bucket.replace(seen, now.wrapping_add(rate.each_ns)) {
        // It has been full for a while; who comes second finds it begun.
        return true;
    }
    let full_at = bucket.add(rate.each_ns).wrapping_add(rate.each_ns);
    let latest = now.wrapping_add(rate.burst_ns);
    if full_at <= latest {
        return true;
    }
    // Where it was filled by a slower rate, or is another's whose number this virtual IP has now, it is empty, and no more. Only while
    // nobody has touched it since: two who both gave back, one by setting it and one by counting, would give back what a third took.
    let before = full_at.wrapping_sub(rate.each_ns);
    bucket.replace(full_at, if before > latest { latest } else { before });
    false
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU64;

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
        let taken: usize = std::thread::scope(|threads| {
            let take_all = || (0..20_000).filter(|_| take(&bucket, 1_000 * SECOND, rate)).count();
            let all: Vec<_> = (0..4).map(|_| threads.spawn(take_all)).collect();
            all.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!((1..=5_000).contains(&taken), "{taken}");
    }
}
