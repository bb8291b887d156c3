//! Which server of a pool gets a request.

use crate::check::Check;
use crate::endpoint::Server;
use crate::health::{self, Era, Heard};
use crate::outlier::{Change, Outliers, Reach};
use crate::probe;
use crate::random;
use base_model::OutlierDetectionSpec;
use base_telemetry::Limit;
use edge_pipeline::Client;
use proto_http::Request;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

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
    /// It is left out or found unwell, and used because too few others are fit.
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
    /// What is asked of each server; empty where nothing is asked of any.
    checks: Vec<Vec<Arc<Check>>>,
    /// The [`changes`](health::changes) that were seen last, doubled, and one more where a server got no requests then.
    thinned: AtomicU64,
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
        let (checks, thinned) = (Vec::new(), AtomicU64::new(u64::MAX));
        Balancer { servers, policy, weight_sum, outliers, checks, thinned, crowded }
    }

    /// Servers get requests only while these find them well: for each server its checks.
    #[must_use]
    pub fn checked(mut self, checks: Vec<Vec<Arc<Check>>>) -> Balancer {
        self.checks = if checks.iter().all(Vec::is_empty) { Vec::new() } else { checks };
        self
    }

    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    /// A server for a request on this worker; `None` when there is none. One that is left out gets nothing but a try now and then, unless
    /// too few are left; one that its health checks find unwell gets nothing at all.
    #[inline]
    pub fn choose(&self, request: &Request, client: &Client, worker: usize) -> Option<Choice> {
        if self.is_thinned() {
            return self.choose_of_some(request, client, worker);
        }
        let (index, hash) = self.pick(request, client, worker)?;
        Some(self.chosen(index, hash))
    }

    #[inline]
    fn chosen(&self, index: usize, hash: Option<u32>) -> Choice {
        Choice { index, panicked: false, era: self.outliers.era(index), hash }
    }

    /// Whether some server is out or unwell.
    #[inline]
    fn is_thinned(&self) -> bool {
        let (seen, now) = (self.thinned.load(Ordering::Relaxed), health::changes());
        if seen >> 1 == now { seen & 1 == 1 } else { self.look(now) }
    }

    #[cold]
    fn look(&self, now: u64) -> bool {
        // What changes meanwhile counts anew, so that it is seen next time.
        let thinned = (0..self.servers.len()).any(|i| !self.is_in(i));
        self.thinned.store(now << 1 | u64::from(thinned), Ordering::Relaxed);
        thinned
    }

    /// Neither left out nor unwell.
    fn is_in(&self, index: usize) -> bool {
        !self.outliers.is_out(index) && self.is_well(index)
    }

    /// As far as its health checks show.
    fn is_well(&self, index: usize) -> bool {
        self.checks.get(index).is_none_or(|checks| checks.iter().all(|check| check.is_well()))
    }

    fn reach(&self) -> Reach {
        self.outliers.reach(|i| self.is_well(i))
    }

    /// The server to go on with when those of `tried` could not be reached: one that is well rather than one that failed somebody
    /// last, and one that is out when no other is left.
    #[cold]
    pub fn another(&self, first: Choice, tried: &[usize]) -> Option<Choice> {
        let rank = |i: usize| match self.outliers.is_out(i) {
            _ if !self.is_well(i) => 3,
            false if self.outliers.is_well(i) => 0,
            false => 1,
            true => 2,
        };
        let worst = if self.reach() == Reach::All { 3 } else { 2 };
        let is_free = |i: &usize| !tried.contains(i) && self.takes(*i) && rank(*i) <= worst;
        let within: Vec<usize> = (0..self.servers.len()).filter(is_free).collect();
        let best = within.iter().map(|i| rank(*i)).min()?;
        let index = self.spread(within.into_iter().filter(|i| rank(*i) == best).collect(), first.hash)?;
        Some(Choice { panicked: best >= 2, ..self.chosen(index, first.hash) })
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

    /// The choice where some server is out or unwell. What such a one would have got is spread over all others; by the same hash to the
    /// same one, and where they take turns, they take turns without it.
    #[cold]
    fn choose_of_some(&self, request: &Request, client: &Client, worker: usize) -> Option<Choice> {
        let turn = match &self.policy {
            Policy::RoundRobin(turns) => Some(turns.next(worker)),
            _ => None,
        };
        let (index, hash) = match turn {
            Some(turn) => (turn % self.servers.len(), None),
            None => self.pick(request, client, worker)?,
        };
        if self.outliers.is_out(index) {
            // Its worker may have ended.
            probe::begin(&self.servers[index], &self.crowded);
            if self.is_well(index)
                && let Some(era) = self.outliers.admits_trial(index, base_runtime::now())
            {
                return Some(Choice { index, panicked: false, era, hash });
            }
        }
        let reach = self.reach();
        let is_there = |i: usize| match reach {
            Reach::All => true,
            Reach::Well => self.is_well(i),
            Reach::In => self.is_in(i),
        };
        let panicked = |i: usize| !self.is_in(i);
        if turn.is_none() && is_there(index) {
            return Some(Choice { panicked: panicked(index), ..self.chosen(index, hash) });
        }
        let within: Vec<usize> = (0..self.servers.len()).filter(|i| is_there(*i) && self.takes(*i)).collect();
        let instead = match turn {
            Some(turn) => within.get(turn.checked_rem(within.len())?).copied(),
            None => self.spread(within, hash),
        };
        // Those that are left may have no weight.
        let instead = instead.or_else(|| (0..self.servers.len()).find(|i| self.is_well(*i) && self.takes(*i)))?;
        Some(Choice { panicked: panicked(instead), ..self.chosen(instead, hash) })
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
