//! The ways to choose a server (`loadBalance.policy`).

use crate::balance::hash::{fnv1_32, spread64};
use crate::balance::load::Load;
use crate::balance::table::Table;
use crate::endpoint::Server;
use crate::sticky::cookies;
use base_model::LoadBalanceSpec;
use edge_pipeline::Client;
use proto_http::Request;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How a pool chooses.
#[derive(Debug)]
pub enum Policy {
    /// Each in turn, whatever its weight.
    RoundRobin(Turns),
    Random,
    /// Random in proportion to the weights.
    WeightedRandom,
    /// The one of two that has fewer requests under way, for its weight.
    LeastRequest,
    /// The one of two that would answer sooner.
    PeakEwma,
    /// By the client's own address; clients of whom nobody knows it share one server.
    IpHash,
    /// By the first value of a request header; requests without it share one server.
    HeaderHash(String),
    /// By a table that a change of the servers changes little.
    Table(Box<ByTable>),
}

/// Maglev's table, and what is looked up in it.
#[derive(Debug)]
pub struct ByTable {
    pub table: Table,
    key: Hashed,
    /// How much more than its share of what is under way a server may have, in per cent of the share; 0: any.
    balance_factor: u64,
}

/// What is hashed.
#[derive(Debug)]
enum Hashed {
    Address,
    Header(String),
    Cookie(String),
}

impl Policy {
    /// Unknown names mean round robin, as in Easegress. `workers` says how many there are.
    pub fn new(spec: &LoadBalanceSpec, servers: &[Arc<Server>], workers: usize) -> Policy {
        match spec.policy.as_str() {
            "random" => Policy::Random,
            "weightedRandom" => Policy::WeightedRandom,
            "leastRequest" => Policy::LeastRequest,
            "peakEWMA" => Policy::PeakEwma,
            "ipHash" => Policy::IpHash,
            "headerHash" => Policy::HeaderHash(spec.header_hash_key.clone()),
            "cookieHash" => Policy::HeaderHash("Cookie".to_owned()),
            "maglev" => {
                let names: Vec<(&str, u32)> = servers.iter().map(|s| (s.url.as_str(), s.weight)).collect();
                let key = match (spec.header_hash_key.as_str(), spec.cookie_hash_key.as_str()) {
                    ("", "") => Hashed::Address,
                    ("", cookie) => Hashed::Cookie(cookie.to_owned()),
                    (header, _) => Hashed::Header(header.to_owned()),
                };
                let balance_factor = spec.hash_balance_factor.into();
                match Table::maglev(&names) {
                    Some(table) => Policy::Table(Box::new(ByTable { table, key, balance_factor })),
                    None => Policy::Random,
                }
            }
            _ => Policy::RoundRobin(Turns::new(servers.len(), workers)),
        }
    }

    /// Whether it needs to know what servers have under way.
    pub fn counts(&self) -> bool {
        match self {
            Policy::LeastRequest | Policy::PeakEwma => true,
            Policy::Table(by) => by.balance_factor > 0,
            _ => false,
        }
    }

    /// Whether the servers' weights are their shares.
    pub fn goes_by_weights(&self) -> bool {
        matches!(self, Policy::WeightedRandom | Policy::LeastRequest | Policy::PeakEwma | Policy::Table(_))
    }

    /// What it would choose by.
    pub fn hash(&self, request: &Request, client: &Client) -> Option<u64> {
        match self {
            Policy::IpHash => Some(fnv1_32(client.real_ip_text().as_bytes()).into()),
            Policy::HeaderHash(name) => Some(fnv1_32(request.headers.value(name).unwrap_or_default()).into()),
            Policy::Table(by) => Some(by.hash(request, client)),
            _ => None,
        }
    }
}

impl ByTable {
    pub fn hash(&self, request: &Request, client: &Client) -> u64 {
        match &self.key {
            Hashed::Address => spread64(0, client.real_ip_text().as_bytes()),
            Hashed::Header(name) => spread64(0, request.headers.value(name).unwrap_or_default()),
            Hashed::Cookie(name) => spread64(0, cookies(request, name).next().unwrap_or_default()),
        }
    }

    /// Most requests a server has under way before others help it out (Mirrokni et al., "Consistent hashing with bounded loads").
    pub fn most_each(&self, loads: &[Arc<Load>]) -> Option<u32> {
        if self.balance_factor == 0 || loads.is_empty() {
            return None;
        }
        let whole: u64 = loads.iter().map(|load| u64::from(load.under_way())).sum::<u64>() + 1;
        Some((whole * self.balance_factor).div_ceil(loads.len() as u64 * 100) as u32)
    }
}

/// Whose turn it is, for each worker: a counter of all workers would be fought for with every request. The turn of a worker is exact;
/// they begin spread over the servers, so that few requests on many workers are spread as well.
#[derive(Debug)]
pub struct Turns(
    /// Empty where there is nobody to choose among: of ten thousand pools most have one server.
    Box<[Turn]>,
);

/// A cache line of its own; written by one worker alone.
#[derive(Debug)]
#[repr(align(128))]
struct Turn(AtomicUsize);

impl Turns {
    pub(super) fn new(servers: usize, workers: usize) -> Turns {
        let workers = if servers < 2 { 0 } else { workers.max(1) };
        Turns((0..workers).map(|worker| Turn(AtomicUsize::new(worker * servers.max(workers) / workers))).collect())
    }

    #[inline]
    pub(super) fn next(&self, worker: usize) -> usize {
        if self.0.is_empty() {
            return 0;
        }
        let turn = &self.0[worker % self.0.len()].0;
        let now = turn.load(Ordering::Relaxed);
        turn.store(now.wrapping_add(1), Ordering::Relaxed);
        now
    }
}
