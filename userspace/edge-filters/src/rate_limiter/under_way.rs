//! Requests of each key that are under way at the same time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use edge_pipeline::{Body, Hold};
use proto_http::Response;

/// Counts of keys that have requests under way; the others are not kept, so that there are never more than requests.
#[derive(Debug)]
pub(super) struct UnderWay {
    most: u32,
    counts: [Mutex<HashMap<u64, u32>>; SHARDS],
}

const SHARDS: usize = 16;

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    of: Arc<UnderWay>,
    key: u64,
}

impl UnderWay {
    pub(super) fn new(most: u32) -> UnderWay {
        UnderWay { most, counts: Default::default() }
    }

    fn counts(&self, key: u64) -> std::sync::MutexGuard<'_, HashMap<u64, u32>> {
        // Keys of addresses are those addresses: what they have in common is at their beginning.
        let shard = (key ^ (key >> 32)) as usize % SHARDS;
        self.counts[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more; `None` where the key has as many as it may.
    pub(super) fn take(self: &Arc<Self>, key: u64) -> Option<Place> {
        let mut counts = self.counts(key);
        let count = counts.entry(key).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Place { of: self.clone(), key })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.of.counts(self.key);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

impl Hold for Place {
    fn answered(&mut self, _response: Option<&mut Response>, _body: &mut Body) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_nothing_under_way_is_forgotten() {
        let under_way = Arc::new(UnderWay::new(2));
        let kept = || -> usize { under_way.counts.iter().map(|counts| counts.lock().unwrap().len()).sum() };
        let places: Vec<Place> = (0..100).filter_map(|key| under_way.take(key)).collect();
        assert_eq!((places.len(), kept()), (100, 100));
        let second = under_way.take(7).unwrap();
        assert!(under_way.take(7).is_none() && under_way.take(8).is_some());
        drop(places);
        assert_eq!(kept(), 1);
        assert!(under_way.take(7).is_some());
        drop(second);
        assert_eq!(kept(), 0);
    }
}
