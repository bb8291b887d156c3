//! Tables that lead a hash to a server: Maglev's, and partitions of a ring with a bound on what each server gets.
//!
//! Both are made of the servers' names and weights alone, so that every worker, generation and machine leads a client to the same server,
//! and a change of the servers moves few clients. Maglev (Eisenbud et al., NSDI 2016, section 3.4) is the more even; the ring moves
//! fewer. A server that takes nothing at the moment is passed over, by each hash for another one.

use crate::balance::hash::{spread64, stirred};

/// Sizes of Maglev's tables, primes as its permutations need; a server has a hundred places at least, so that shares are even to a per cent
/// or so. Another size leads everybody elsewhere, so that there are only two: 128 KiB, and 1.25 MiB for more than 655 servers.
const MAGLEV_SIZES: [usize; 2] = [65_537, 655_373];

/// Partitions of the ring, the same number however many servers there are, since another one leads everybody elsewhere. 32 KiB.
const PARTITIONS: usize = 16_384;

/// Places on the ring per server, and how much more than its share a server may get, in per cent: those of Easegress's library.
const REPLICAS: usize = 50;
const BOUND_PERCENT: usize = 125;

/// Places that are looked at, by hash and then in order, for a server that takes requests; beyond it any such one will do.
const STEPS: usize = 64;

/// See the module doc.
#[derive(Debug)]
pub struct Table {
    /// Servers by hash.
    places: Box<[u16]>,
}

impl Table {
    /// Names with their weights; one whose weight is 0 gets nothing, unless all are 0 and alike. `None` without servers, or with more
    /// than a table can name.
    pub fn maglev(servers: &[(&str, u32)]) -> Option<Table> {
        let shares = shares(servers)?;
        let wanted = servers.len() * 100;
        let size = MAGLEV_SIZES.iter().copied().find(|size| *size >= wanted).unwrap_or(MAGLEV_SIZES[1]);
        let heaviest = f64::from(*shares.iter().max()?);
        // Each server goes through all places in an order of its own and takes the first that is free, when it is its turn.
        let order: Vec<(usize, usize)> = servers
            .iter()
            .map(|(name, _)| {
                let (offset, skip) = (spread64(1, name.as_bytes()), spread64(2, name.as_bytes()));
                ((offset % size as u64) as usize, (skip % (size as u64 - 1) + 1) as usize)
            })
            .collect();
        let mut next: Vec<usize> = vec![0; servers.len()];
        let mut credit = vec![0.0; servers.len()];
        let mut places = vec![NOBODY; size];
        let mut free = size;
        'filling: loop {
            for server in 0..servers.len() {
                credit[server] += f64::from(shares[server]) / heaviest;
                if credit[server] < 1.0 {
                    continue;
                }
                credit[server] -= 1.0;
                let (offset, skip) = order[server];
                let place = loop {
                    let place = (offset + next[server] * skip) % size;
                    next[server] += 1;
                    if places[place] == NOBODY {
                        break place;
                    }
                };
                places[place] = server as u16;
                free -= 1;
                if free == 0 {
                    break 'filling;
                }
            }
        }
        Some(Table { places: places.into() })
    }

    /// Partitions that are led to servers by a ring: each to the first server behind it that has not got [`BOUND_PERCENT`] of its share.
    pub fn ring(servers: &[(&str, u32)]) -> Option<Table> {
        let shares = shares(servers)?;
        let count = PARTITIONS;
        let whole: u64 = shares.iter().map(|share| u64::from(*share)).sum();
        let most: Vec<usize> = shares
            .iter()
            .map(|share| (count * BOUND_PERCENT * *share as usize).div_ceil(whole as usize * 100))
            .collect();
        let mut ring: Vec<(u64, u16)> = Vec::with_capacity(servers.len() * REPLICAS);
        for (server, (name, _)) in servers.iter().enumerate() {
            let seed = spread64(3, name.as_bytes());
            ring.extend((0..REPLICAS as u64).map(|replica| (stirred(seed ^ stirred(replica + 1)), server as u16)));
        }
        ring.sort_unstable();
        let mut got = vec![0; servers.len()];
        let place = |partition: usize| {
            let hash = stirred(partition as u64 + 1);
            let start = ring.partition_point(|(at, _)| *at < hash);
            let behind = ring[start..].iter().chain(&ring[..start]);
            let server =
                behind.map(|(_, server)| *server).find(|server| got[usize::from(*server)] < most[usize::from(*server)]);
            let server = server.unwrap_or(0);
            got[usize::from(server)] += 1;
            server
        };
        Some(Table { places: (0..count).map(place).collect() })
    }

    /// The server for this hash, of those that are there.
    #[inline]
    pub fn find(&self, hash: u64, is_there: impl Fn(usize) -> bool) -> Option<usize> {
        let first = self.at(hash);
        if is_there(first) {
            return Some(first);
        }
        self.beyond(hash, is_there)
    }

    #[cold]
    fn beyond(&self, hash: u64, is_there: impl Fn(usize) -> bool) -> Option<usize> {
        // Each hash goes on by steps of its own, so that what one server cannot take is spread over all others.
        let by_hash = (1..=STEPS as u64).map(|step| self.at(stirred(hash.wrapping_add(step))));
        let in_order = self.places.iter().map(|server| usize::from(*server));
        by_hash.chain(in_order).find(|server| is_there(*server))
    }

    #[inline]
    fn at(&self, hash: u64) -> usize {
        usize::from(self.places[(hash % self.places.len() as u64) as usize])
    }

    #[cfg(test)]
    fn shares(&self, servers: usize) -> Vec<usize> {
        let mut shares = vec![0; servers];
        self.places.iter().for_each(|server| shares[usize::from(*server)] += 1);
        shares
    }
}

/// A place that nobody has yet.
const NOBODY: u16 = u16::MAX;

/// Weights, or one each where there are none.
fn shares(servers: &[(&str, u32)]) -> Option<Vec<u32>> {
    if servers.is_empty() || servers.len() >= usize::from(NOBODY) {
        return None;
    }
    let weighted = servers.iter().any(|(_, weight)| *weight > 0);
    Some(servers.iter().map(|(_, weight)| if weighted { *weight } else { 1 }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("http://10.0.{}.{}:8080", n / 250, n % 250)).collect()
    }

    fn alike(names: &[String]) -> Vec<(&str, u32)> {
        names.iter().map(|name| (name.as_str(), 0)).collect()
    }

    /// Of so many users, the share that other servers serve than before, where the old one is still there.
    fn moved(before: (&Table, &[String]), after: (&Table, &[String])) -> f64 {
        let users = 20_000;
        let moved = (0..users).filter(|user| {
            let hash = spread64(0, format!("user-{user}").as_bytes());
            let old = &before.1[before.0.find(hash, |_| true).unwrap()];
            let new = &after.1[after.0.find(hash, |_| true).unwrap()];
            old != new && after.1.contains(old)
        });
        moved.count() as f64 / f64::from(users)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

        /// However many servers there are, each has its share.
        #[test]
        fn shares_are_even(count in 1usize..120) {
            let names = names(count);
            let table = Table::maglev(&alike(&names)).unwrap();
            let mean = table.places.len() as f64 / count as f64;
            for share in table.shares(count) {
                prop_assert!((share as f64 - mean).abs() <= mean * 0.05 + 1.0, "{share} of {mean}");
            }
            let table = Table::ring(&alike(&names)).unwrap();
            let mean = table.places.len() as f64 / count as f64;
            for share in table.shares(count) {
                prop_assert!(share as f64 <= (mean * 1.25).ceil(), "{share} of {mean}");
            }
        }

        /// Weights are shares, to a twentieth of the mean one.
        #[test]
        fn shares_go_by_weights(weights in prop::collection::vec(0u32..100, 1..30)) {
            prop_assume!(weights.iter().any(|w| *w > 0));
            let names = names(weights.len());
            let servers: Vec<(&str, u32)> = names.iter().map(String::as_str).zip(weights.iter().copied()).collect();
            let whole: u32 = weights.iter().sum();
            let table = Table::maglev(&servers).unwrap();
            let (size, mean) = (table.places.len() as f64, table.places.len() as f64 / weights.len() as f64);
            for (share, weight) in table.shares(weights.len()).into_iter().zip(&weights) {
                let wanted = size * f64::from(*weight) / f64::from(whole);
                prop_assert!((share as f64 - wanted).abs() <= mean * 0.05 + 1.0, "{share} of {wanted}");
            }
        }

        /// A server that goes moves its own users and few others, and so does one that comes.
        #[test]
        fn a_change_moves_few(count in 3usize..60, which in 0usize..60) {
            let before = names(count);
            let mut after = before.clone();
            after.remove(which % count);
            for (what, make, most) in [
                ("maglev", Table::maglev as fn(&[(&str, u32)]) -> Option<Table>, 0.12),
                ("ring", Table::ring, 0.25),
            ] {
                let (old, new) = (make(&alike(&before)).unwrap(), make(&alike(&after)).unwrap());
                let gone = moved((&old, &before), (&new, &after));
                let come = moved((&new, &after), (&old, &before));
                let own = 1.0 / count as f64;
                prop_assert!(gone <= most, "{what}: {gone} moved though their servers stay, of {count}");
                prop_assert!(come <= most + own * 1.3, "{what}: {come} moved when one came, of {count}");
            }
        }

        /// The order in which a document lists them says nothing, up to what collides.
        #[test]
        fn who_takes_nothing_is_passed_over(count in 2usize..40, gone in prop::collection::vec(any::<bool>(), 40)) {
            let names = names(count);
            let is_there = |server: usize| !gone[server];
            for table in [Table::maglev(&alike(&names)).unwrap(), Table::ring(&alike(&names)).unwrap()] {
                for user in 0..500u64 {
                    let hash = stirred(user + 1);
                    let all = table.find(hash, |_| true).unwrap();
                    let found = table.find(hash, is_there);
                    prop_assert_eq!(found.is_none(), gone[..count].iter().all(|gone| *gone));
                    if let Some(found) = found {
                        prop_assert!(is_there(found));
                        prop_assert!(found == all || gone[all], "nobody moves whose server is there");
                        prop_assert_eq!(table.find(hash, is_there), Some(found), "to the same one each time");
                    }
                }
            }
        }
    }

    #[test]
    fn what_one_server_cannot_take_is_spread_over_the_others() {
        let names = names(5);
        for table in [Table::maglev(&alike(&names)).unwrap(), Table::ring(&alike(&names)).unwrap()] {
            let mut got = [0usize; 5];
            let users =
                (0..50_000u64).map(|user| stirred(user + 1)).filter(|hash| table.find(*hash, |_| true) == Some(2));
            users.for_each(|hash| got[table.find(hash, |server| server != 2).unwrap()] += 1);
            let mean = got.iter().sum::<usize>() / 4;
            let even = got.iter().enumerate().all(|(n, got)| n == 2 || (mean * 6 / 10..mean * 14 / 10).contains(got));
            assert!(even && got[2] == 0, "{got:?}");
        }
    }

    #[test]
    fn nobody_and_too_many() {
        assert!(Table::maglev(&[]).is_none() && Table::ring(&[]).is_none());
        assert_eq!(Table::maglev(&[("a", 0)]).unwrap().find(7, |_| true), Some(0));
        assert_eq!(Table::ring(&[("a", 3)]).unwrap().find(7, |_| false), None);
    }
}
