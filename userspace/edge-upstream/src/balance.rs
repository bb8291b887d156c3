//! Which server of a pool gets a request.

use crate::endpoint::Server;
use crate::health::{Era, Heard};
use crate::outlier::{Change, Outliers};
use crate::probe;
use crate::random;
use base_model::OutlierDetectionSpec;
use base_telemetry::Limit;
use edge_pipeline::Client;
use proto_http::Request;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How a pool chooses (`loadBalance.policy`).
#[derive(Debug)]
pub enum Policy {
    /// Each in turn, whatever its weight.
    RoundRobin(Turns),
    Random,
    /// Random in proportion to the weights.
    WeightedRandom,
    /// By the client's own address; clients of whom nobody knows it share one server.
    IpHash,
    /// By the first value of a request header; requests without it share one server.
    HeaderHash(String),
}

impl Policy {
    /// Unknown names mean round robin, as in Easegress. `servers` and `workers` say how many there are.
    pub fn parse(name: &str, header_hash_key: &str, servers: usize, workers: usize) -> Policy {
        match name {
            "random" => Policy::Random,
            "weightedRandom" => Policy::WeightedRandom,
            "ipHash" => Policy::IpHash,
            "headerHash" => Policy::HeaderHash(header_hash_key.to_owned()),
            "cookieHash" => Policy::HeaderHash("Cookie".to_owned()),
            _ => Policy::RoundRobin(Turns::new(servers, workers)),
        }
    }
}

/// Whose turn it is, for each worker: a counter of all workers would be fought for with every request. The turn of a worker is exact;
/// they begin spread over the servers, so that few requests on many workers are spread as well.
#[derive(Debug)]
pub struct Turns(Box<[Turn]>);

/// A cache line of its own; written by one worker alone.
#[derive(Debug)]
#[repr(align(128))]
struct Turn(AtomicUsize);

impl Turns {
    fn new(servers: usize, workers: usize) -> Turns {
        let workers = workers.max(1);
        Turns((0..workers).map(|worker| Turn(AtomicUsize::new(worker * servers.max(workers) / workers))).collect())
    }

    #[inline]
    fn next(&self, worker: usize) -> usize {
        let turn = &self.0[worker % self.0.len()].0;
        let now = turn.load(Ordering::Relaxed);
        turn.store(now.wrapping_add(1), Ordering::Relaxed);
        now
    }
}

/// What a request is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Place of the server in [`Balancer::servers`].
    pub index: usize,
    /// It is out, and used because too few are in.
    pub panicked: bool,
    /// What its report is told by.
    pub era: Era,
    hash: Option<u32>,
}

/// The servers of a pool and the way to choose among them.
#[derive(Debug)]
pub struct Balancer {
    servers: Vec<Arc<Server>>,
    policy: Policy,
    weight_sum: u64,
    outliers: Outliers,
    /// Counts probes of its servers that found no room.
    crowded: Limit,
}

impl Balancer {
    /// `outliers` is what the document says of ejection. `crowded` counts what [`probe`] has no room for.
    pub fn new(
        servers: Vec<Arc<Server>>,
        policy: Policy,
        outliers: Option<&OutlierDetectionSpec>,
        crowded: Limit,
    ) -> Balancer {
        let weight_sum = servers.iter().map(|s| u64::from(s.weight)).sum();
        let outliers = Outliers::new(outliers, servers.iter().map(|s| s.health.clone()).collect());
        Balancer { servers, policy, weight_sum, outliers, crowded }
    }

    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    /// A server for a request on this worker; `None` when the pool is empty. One that is left out gets nothing but a try now and then, unless too few are left.
    #[inline]
    pub fn choose(&self, request: &Request, client: &Client, worker: usize) -> Option<Choice> {
        let (index, hash) = self.pick(request, client, worker)?;
        if self.outliers.is_out(index) {
            return Some(self.instead_of(index, hash));
        }
        Some(self.chosen(index, hash))
    }

    #[inline]
    fn chosen(&self, index: usize, hash: Option<u32>) -> Choice {
        Choice { index, panicked: false, era: self.outliers.era(index), hash }
    }

    /// The server to go on with when those of `tried` could not be reached: one that is well rather than one that failed somebody
    /// last, and one that is out when no other is left.
    #[cold]
    pub fn another(&self, first: Choice, tried: &[usize]) -> Option<Choice> {
        let rank = |i: usize| match self.outliers.is_out(i) {
            false if self.outliers.is_well(i) => 0,
            false => 1,
            true => 2,
        };
        let within: Vec<usize> = (0..self.servers.len()).filter(|i| !tried.contains(i) && self.takes(*i)).collect();
        let best = within.iter().map(|i| rank(*i)).min()?;
        let index = self.spread(within.into_iter().filter(|i| rank(*i) == best).collect(), first.hash)?;
        Some(Choice { panicked: best == 2, ..self.chosen(index, first.hash) })
    }

    /// Takes note of what became of a request to the server with this index that was chosen in this era. One that is put out is probed
    /// from this worker.
    #[inline]
    pub fn report(&self, index: usize, heard: Heard, era: Era) -> Option<Change> {
        let change = self.outliers.report(index, heard, era, base_runtime::now())?;
        if change != Change::Readmitted {
            probe::begin(&self.servers[index], &self.crowded);
        }
        Some(change)
    }

    /// The policy's choice, and the hash it was made by, if it was.
    #[inline]
    fn pick(&self, request: &Request, client: &Client, worker: usize) -> Option<(usize, Option<u32>)> {
        let count = self.servers.len();
        let hashed = |bytes: &[u8]| {
            let hash = fnv1_32(bytes);
            Some((hash as usize % count, Some(hash)))
        };
        if count == 0 {
            return None;
        }
        let index = match &self.policy {
            Policy::RoundRobin(turns) => turns.next(worker) % count,
            Policy::WeightedRandom if self.weight_sum > 0 => self.by_weight(random::below(self.weight_sum))?,
            Policy::Random | Policy::WeightedRandom => random::below(count as u64) as usize,
            Policy::IpHash => return hashed(client.real_ip_text().as_bytes()),
            Policy::HeaderHash(name) => return hashed(request.headers.value(name).unwrap_or_default()),
        };
        Some((index, None))
    }

    /// What one that is out would have got is spread over all that are in, by the same hash to the same one.
    #[cold]
    fn instead_of(&self, index: usize, hash: Option<u32>) -> Choice {
        // Its worker may have ended.
        probe::begin(&self.servers[index], &self.crowded);
        if let Some(era) = self.outliers.admits_trial(index, base_runtime::now()) {
            return Choice { index, panicked: false, era, hash };
        }
        if self.outliers.panics() {
            return Choice { panicked: true, ..self.chosen(index, hash) };
        }
        let within = (0..self.servers.len()).filter(|i| !self.outliers.is_out(*i) && self.takes(*i)).collect();
        let instead = self.spread(within, hash);
        Choice { panicked: instead.is_none(), ..self.chosen(instead.unwrap_or(index), hash) }
    }

    /// One of these, in proportion to their weights where the policy goes by them, by the hash where it goes by one.
    fn spread(&self, within: Vec<usize>, hash: Option<u32>) -> Option<usize> {
        let share = |i: usize| if self.is_weighted() { u64::from(self.servers[i].weight) } else { 1 };
        let total: u64 = within.iter().map(|i| share(*i)).sum();
        let mut point = match hash {
            _ if total == 0 => return None,
            // Other bits than those that chose the first one.
            Some(hash) => u64::from(hash.wrapping_mul(0x9E37_79B1) >> 8) % total,
            None => random::below(total),
        };
        within.into_iter().find(|i| {
            let hit = point < share(*i);
            point = point.saturating_sub(share(*i));
            hit
        })
    }

    fn is_weighted(&self) -> bool {
        matches!(self.policy, Policy::WeightedRandom) && self.weight_sum > 0
    }

    /// Whether the policy gives this server anything at all.
    fn takes(&self, index: usize) -> bool {
        !self.is_weighted() || self.servers[index].weight > 0
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
        let crowded = base_telemetry::LimitHits::new(1).register("upstream_probes");
        Balancer::new(servers, Policy::parse(policy, "X-U", weights.len(), 1), None, crowded)
    }

    fn tally(b: &Balancer, n: usize) -> Vec<usize> {
        let mut counts = vec![0; b.servers().len()];
        for i in 0..n {
            let mut request = Request::default();
            request.headers.add("X-U", format!("user-{i}"));
            let client =
                Client { real_ip: Some([10, 1, (i / 250) as u8, (i % 250) as u8].into()), ..Client::default() };
            counts[b.choose(&request, &client, 0).unwrap().index] += 1;
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
    fn workers_take_turns_of_their_own_and_begin_at_different_servers() {
        for (servers, workers, wanted) in
            [(3, 2, vec![0, 1]), (8, 4, vec![0, 2, 4, 6]), (2, 4, vec![0, 1, 0, 1]), (1, 1, vec![0])]
        {
            let turns = Turns::new(servers, workers);
            let first: Vec<usize> = (0..workers).map(|worker| turns.next(worker) % servers).collect();
            assert_eq!(first, wanted, "{servers} servers, {workers} workers");
        }
        let turns = Turns::new(3, 2);
        let of_both: Vec<usize> = [0, 1, 0, 0, 1].iter().map(|worker| turns.next(*worker) % 3).collect();
        assert_eq!(of_both, [0, 1, 1, 2, 2], "nobody disturbs another's turn");
    }

    #[test]
    fn weights_are_honoured() {
        let counts = tally(&balancer("weightedRandom", &[1, 3, 0]), 8000);
        assert!((1700..2300).contains(&counts[0]) && counts[2] == 0, "{counts:?}");
    }

    #[test]
    fn an_empty_pool_has_nobody() {
        assert!(balancer("random", &[]).choose(&Request::default(), &Client::default(), 0).is_none());
    }

    #[test]
    fn fnv1_vectors() {
        assert_eq!(fnv1_32(b""), 0x811c_9dc5);
        assert_eq!(fnv1_32(b"a"), 0x050c_5d7e);
        assert_eq!(fnv1_32(b"foobar"), 0x31f0_b262);
    }
}
