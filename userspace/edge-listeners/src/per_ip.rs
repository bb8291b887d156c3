//! How many connections or sessions each client address has, over all workers.

use base_runtime::memory::{Booking, Kind};
use base_runtime::net::site_of;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Locks that addresses are spread over, so that workers seldom meet.
const SHARDS: usize = 64;

/// What an address takes in the table, for the memory ledger, in bytes.
const ENTRY_BYTES: usize = 48;

/// See the module doc. An address without any takes no room.
#[derive(Debug)]
pub struct PerIp {
    shards: [Mutex<HashMap<IpAddr, u32>>; SHARDS],
    spread: RandomState,
}

/// One of an address's, until it is dropped.
#[derive(Debug)]
pub struct IpSeat {
    table: Arc<PerIp>,
    ip: IpAddr,
    _booking: Booking,
}

impl PerIp {
    pub fn new() -> Arc<PerIp> {
        Arc::new(PerIp { shards: std::array::from_fn(|_| Mutex::default()), spread: RandomState::new() })
    }

    /// One more of this address, where it has fewer than `most`.
    pub fn take(self: &Arc<Self>, ip: IpAddr, most: u32) -> Option<IpSeat> {
        let ip = site_of(ip);
        let mut shard = self.shard(ip);
        let count = shard.entry(ip).or_default();
        if *count >= most {
            if *count == 0 {
                shard.remove(&ip);
            }
            return None;
        }
        *count += 1;
        drop(shard);
        Some(IpSeat { table: self.clone(), ip, _booking: Booking::new(Kind::Other, ENTRY_BYTES) })
    }

    fn shard(&self, ip: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        let at = self.spread.hash_one(ip) as usize % SHARDS;
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for IpSeat {
    fn drop(&mut self) {
        let mut shard = self.table.shard(self.ip);
        if let Some(count) = shard.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                shard.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_as_many_as_they_may() {
        let (table, ip) = (PerIp::new(), |text: &str| text.parse::<IpAddr>().unwrap());
        let first = table.take(ip("192.0.2.1"), 2).unwrap();
        let second = table.take(ip("::ffff:192.0.2.1"), 2).unwrap();
        assert!(table.take(ip("192.0.2.1"), 2).is_none());
        assert!(table.take(ip("192.0.2.2"), 2).is_some());
        drop(first);
        assert!(table.take(ip("192.0.2.1"), 2).is_some());
        let of_v6 = table.take(ip("2001:db8::1"), 1).unwrap();
        assert!(table.take(ip("2001:db8::2"), 1).is_none() && table.take(ip("2001:db8:0:1::"), 1).is_some());
        drop((second, of_v6));
        let left: usize = table.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert_eq!(left, 0, "who has none takes no room");
    }
}
