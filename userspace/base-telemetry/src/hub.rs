//! [`Telemetry`]: one per machine, shared by edge, control and kernel. It finds or makes the statistics of each object, closes their
//! rounds and feeds them to the registry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::cache::CacheStats;
use crate::families;
use crate::limits::LimitHits;
use crate::locked;
use crate::proxy::{self, PoolNames, PoolStats};
use crate::registry::{Encoder, Names, Registry};
use crate::relay::{RelayKind, RelayStats};
use crate::server::ServerStats;

/// Servers, and pools, that are shown; what further ones record is lost, and counted as `metric_objects`.
const OBJECTS_MAX: usize = 65_536;

/// Labels Easegress puts on everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub cluster_name: String,
    /// `primary` or `secondary`.
    pub cluster_role: String,
    /// `--name`.
    pub instance_name: String,
}

/// The statistics of a machine.
pub struct Telemetry {
    identity: Identity,
    workers: usize,
    limits: LimitHits,
    registry: Registry,
    servers: Mutex<BTreeMap<String, Arc<ServerStats>>>,
    pools: Mutex<BTreeMap<String, Arc<PoolStats>>>,
    relays: Mutex<BTreeMap<String, Arc<RelayStats>>>,
    caches: Mutex<BTreeMap<String, Arc<CacheStats>>>,
}

impl Telemetry {
    pub fn new(identity: Identity, workers: usize) -> Arc<Self> {
        Arc::new(Self {
            identity,
            workers,
            limits: LimitHits::new(workers),
            registry: Registry::default(),
            servers: Mutex::default(),
            pools: Mutex::default(),
            relays: Mutex::default(),
            caches: Mutex::default(),
        })
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Worker threads of this machine.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Counters of reached bounds; register yours when you are built.
    pub fn limits(&self) -> &LimitHits {
        &self.limits
    }

    /// Takes further collectors.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The statistics of an HTTPServer, made at first sight and kept until [`Self::remove_server`].
    pub fn server(&self, name: &str) -> Arc<ServerStats> {
        let mut servers = locked(&self.servers);
        if let Some(known) = servers.get(name) {
            return Arc::clone(known);
        }
        let made = ServerStats::with_limits(name, self.workers, &self.limits);
        if servers.len() < OBJECTS_MAX {
            servers.insert(name.to_owned(), Arc::clone(&made));
        } else {
            self.limits.register("metric_objects").add(1);
        }
        made
    }

    pub fn remove_server(&self, name: &str) {
        locked(&self.servers).remove(name);
        locked(&self.relays).remove(name);
    }

    /// The statistics of a TCPProxy or UDPProxy, made at first sight and kept until [`Self::remove_server`].
    pub fn relay(&self, name: &str, kind: RelayKind) -> Arc<RelayStats> {
        let mut relays = locked(&self.relays);
        if let Some(known) = relays.get(name).filter(|known| known.kind() == kind) {
            return Arc::clone(known);
        }
        let made = RelayStats::new(name, kind, self.workers);
        if relays.len() < OBJECTS_MAX {
            relays.insert(name.to_owned(), Arc::clone(&made));
        } else {
            self.limits.register("metric_objects").add(1);
        }
        made
    }

    /// The statistics of a pool, found by `names.pool`; other labels are taken over.
    pub fn pool(&self, names: PoolNames) -> Arc<PoolStats> {
        let mut pools = locked(&self.pools);
        if let Some(known) = pools.get(&names.pool) {
            known.rename(names);
            return Arc::clone(known);
        }
        let key = names.pool.clone();
        let made = PoolStats::with_limits(names, self.workers, &self.limits);
        if pools.len() < OBJECTS_MAX {
            pools.insert(key, Arc::clone(&made));
        } else {
            self.limits.register("metric_objects").add(1);
        }
        made
    }

    /// Forgets the pools and caches of a document, which are called `DOCUMENT/…`.
    pub fn remove_pools_of(&self, document: &str) {
        let is_of_it = |pool: &str| pool.strip_prefix(document).is_some_and(|rest| rest.starts_with('/'));
        locked(&self.pools).retain(|pool, _| !is_of_it(pool));
        locked(&self.caches).retain(|cache, _| !is_of_it(cache));
    }

    /// The statistics of a cache, made at first sight and kept until [`Self::remove_pools_of`] its document. `reasons` are those for
    /// which it does not keep an answer.
    pub fn cache(&self, name: &str, reasons: &'static [&'static str]) -> Arc<CacheStats> {
        let mut caches = locked(&self.caches);
        if let Some(known) = caches.get(name) {
            return Arc::clone(known);
        }
        let made = CacheStats::new(name, reasons, self.workers);
        if caches.len() < OBJECTS_MAX {
            caches.insert(name.to_owned(), Arc::clone(&made));
        } else {
            self.limits.register("metric_objects").add(1);
        }
        made
    }

    pub fn remove_pool(&self, pool: &str) {
        locked(&self.pools).remove(pool);
    }

    /// Closes the round of every server and pool. Call every [`crate::ewma::TICK`] from one thread that is no worker.
    pub fn tick(&self, now: Instant) {
        self.servers().iter().for_each(|server| server.tick(now));
        self.pools().iter().for_each(|pool| pool.tick(now));
    }

    /// The answer to `GET /metrics`.
    pub fn render(&self, names: Names) -> String {
        let mut encoder = Encoder::new(names);
        self.servers().iter().for_each(|server| server.encode(&mut encoder, names, &self.identity));
        let relays: Vec<Arc<RelayStats>> = locked(&self.relays).values().cloned().collect();
        relays.iter().for_each(|relay| relay.encode(&mut encoder));
        proxy::encode(&self.pools(), &mut encoder, names, &self.identity);
        let caches: Vec<Arc<CacheStats>> = locked(&self.caches).values().cloned().collect();
        caches.iter().for_each(|cache| cache.encode(&mut encoder));
        self.limits.encode(&mut encoder);
        families::process(&mut encoder);
        self.registry.collect(&mut encoder);
        encoder.finish()
    }

    pub fn servers(&self) -> Vec<Arc<ServerStats>> {
        locked(&self.servers).values().cloned().collect()
    }

    pub fn pools(&self) -> Vec<Arc<PoolStats>> {
        locked(&self.pools).values().cloned().collect()
    }
}
