//! Which server of a pool gets a request.

use crate::endpoint::Server;
use crate::outlier::{Change, Heard, Outliers};
use crate::random;
use base_model::OutlierDetectionSpec;
use edge_pipeline::Client;
use proto_http::Request;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// How a pool chooses (`loadBalance.policy`).
#[derive(Debug)]
pub enum Policy {
    /// Each in turn, whatever its weight. The counter is shared by all workers, so the turn is exact.
    RoundRobin(AtomicUsize),
    Random,
    /// Random in proportion to the weights.
    WeightedRandom,
    /// By the client's own address; clients of whom nobody knows it share one server.
    IpHash,
    /// By the first value of a request header; requests without it share one server.
    HeaderHash(String),
}

impl Policy {
    /// Unknown names mean round robin, as in Easegress.
    pub fn parse(name: &str, header_hash_key: &str) -> Policy {
        match name {
            "random" => Policy::Random,
            "weightedRandom" => Policy::WeightedRandom,
            "ipHash" => Policy::IpHash,
            "headerHash" => Policy::HeaderHash(header_hash_key.to_owned()),
            "cookieHash" => Policy::HeaderHash("Cookie".to_owned()),
            _ => Policy::RoundRobin(AtomicUsize::new(0)),
        }
    }
}

/// The servers of a pool and the way to choose among them.
#[derive(Debug)]
pub struct Balancer {
    servers: Vec<Arc<Server>>,
    policy: Policy,
    weight_sum: u64,
    outliers: Outliers,
}

impl Balancer {
    /// `outliers` is what the document says of ejection; what is known of servers that `previous` had too stays known.
    pub fn new(
        servers: Vec<Arc<Server>>,
        policy: Policy,
        outliers: Option<&OutlierDetectionSpec>,
        previous: Option<&Balancer>,
    ) -> Balancer {
        let weight_sum = servers.iter().map(|s| u64::from(s.weight)).sum();
        let before = |index: usize| previous?.servers.iter().position(|s| s.url == servers[index].url);
        let outliers = Outliers::new(outliers, servers.len(), previous.map(|p| &p.outliers), before);
        Balancer { servers, policy, weight_sum, outliers }
    }

    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    /// Index of a server; `None` when the pool is empty. One that is left out gets nothing but a try now and then; when all are
    /// out, all are in.
    #[inline]
    pub fn choose(&self, request: &Request, client: &Client) -> Option<usize> {
        let (index, hash) = self.pick(request, client)?;
        let now = base_runtime::now();
        if self.outliers.admits(index, now) { Some(index) } else { Some(self.instead_of(index, hash, now)) }
    }

    /// Takes note of what became of a request to the server with this index.
    #[inline]
    pub fn report(&self, index: usize, heard: Heard) -> Option<Change> {
        self.outliers.report(index, heard, base_runtime::now())
    }

    pub fn is_ejected(&self, index: usize) -> bool {
        self.outliers.is_ejected(index)
    }

    /// The policy's choice, and the hash it was made by, if it was.
    #[inline]
    fn pick(&self, request: &Request, client: &Client) -> Option<(usize, Option<u32>)> {
        let count = self.servers.len();
        let hashed = |bytes: &[u8]| {
            let hash = fnv1_32(bytes);
            Some((hash as usize % count, Some(hash)))
        };
        if count == 0 {
            return None;
        }
        let index = match &self.policy {
            Policy::RoundRobin(turn) => turn.fetch_add(1, Ordering::Relaxed) % count,
            Policy::WeightedRandom if self.weight_sum > 0 => self.by_weight(random::below(self.weight_sum))?,
            Policy::Random | Policy::WeightedRandom => random::below(count as u64) as usize,
            Policy::IpHash => return hashed(client.real_ip_text().as_bytes()),
            Policy::HeaderHash(name) => return hashed(request.headers.value(name).unwrap_or_default()),
        };
        Some((index, None))
    }

    /// Another server: what one that is out would have got is spread over all that are in, by the same hash to the same one.
    #[cold]
    fn instead_of(&self, index: usize, hash: Option<u32>, now: Instant) -> usize {
        let weighted = matches!(self.policy, Policy::WeightedRandom) && self.weight_sum > 0;
        let takes = |i: usize| !self.outliers.is_ejected(i) && (!weighted || self.servers[i].weight > 0);
        let within: Vec<usize> = (0..self.servers.len()).filter(|i| takes(*i)).collect();
        let share = |i: usize| if weighted { u64::from(self.servers[i].weight) } else { 1 };
        let total: u64 = within.iter().map(|i| share(*i)).sum();
        if total == 0 {
            return index;
        }
        let mut point = match hash {
            // Other bits than those that chose the first one.
            Some(hash) => u64::from(hash.wrapping_mul(0x9E37_79B1) >> 8) % total,
            None => random::below(total),
        };
        for i in within {
            if point < share(i) && self.outliers.admits(i, now) {
                return i;
            }
            point = point.saturating_sub(share(i));
        }
        index
    }

    fn by_weight(&self, mut point: u64) -> Option<usize> {
        self.servers.iter().position(|s| {
            let hit = point < u64::from(s.weight);
            point = point.wrapping_sub(u64::from(s.weight));
            hit
        })
    }
}

/// FNV-1 with 32 bits, the hash of Easegress's `ipHash` and `headerHash`.
pub fn fnv1_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash: u32, byte| hash.wrapping_mul(0x0100_0193) ^ u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balancer(policy: &str, weights: &[u32]) -> Balancer {
        let servers = weights
            .iter()
            .enumerate()
            .map(|(i, w)| Arc::new(Server::new(&format!("http://10.0.0.{i}"), *w, false, None).unwrap()))
            .collect();
        Balancer::new(servers, Policy::parse(policy, "X-U"), None, None)
    }

    fn tally(b: &Balancer, n: usize) -> Vec<usize> {
        let mut counts = vec![0; b.servers().len()];
        for i in 0..n {
            let mut request = Request::default();
            request.headers.add("X-U", format!("user-{i}"));
            let client =
                Client { real_ip: Some([10, 1, (i / 250) as u8, (i % 250) as u8].into()), ..Client::default() };
            counts[b.choose(&request, &client).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn round_robin_is_exact_and_hashes_spread() {
        assert_eq!(tally(&balancer("roundRobin", &[0, 0, 0]), 30), [10, 10, 10]);
        assert_eq!(tally(&balancer("nonsense", &[0, 0]), 10), [5, 5]);
        for policy in ["random", "ipHash", "headerHash"] {
            let counts = tally(&balancer(policy, &[0, 0, 0]), 3000);
            assert!(counts.iter().all(|&c| c > 600), "{policy}: {counts:?}");
        }
    }

    #[test]
    fn weights_are_honoured() {
        let counts = tally(&balancer("weightedRandom", &[1, 3, 0]), 8000);
        assert!((1700..2300).contains(&counts[0]) && counts[2] == 0, "{counts:?}");
    }

    #[test]
    fn an_empty_pool_has_nobody() {
        assert!(balancer("random", &[]).choose(&Request::default(), &Client::default()).is_none());
    }

    #[test]
    fn fnv1_vectors() {
        assert_eq!(fnv1_32(b""), 0x811c_9dc5);
        assert_eq!(fnv1_32(b"a"), 0x050c_5d7e);
        assert_eq!(fnv1_32(b"foobar"), 0x31f0_b262);
    }
}
