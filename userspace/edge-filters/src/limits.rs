//! The limits of this process that count by key, on this machine or in the whole cluster.
//!
//! Filters find theirs here, whichever generation they are of; whoever carries messages to the owners of keys finds all of them.

use arc_swap::ArcSwap;
use base_model::Cidr;
use base_telemetry::registry::Encoder;
use edge_pipeline::exchange::want_local_addresses;
use edge_pipeline::{Exchange, PipelineName};
use proto_admission::limits::{Leases, Rate, WhenAlone};
use proto_http::Version;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Instant;

/// One limit.
pub struct Limit {
    pub pipeline: PipelineName,
    pub filter: String,
    /// Of the URL rule, in the order of the document.
    pub rule: usize,
    /// The same on all machines.
    pub of: u64,
    pub rate: Rate,
    /// The cluster's; else this machine's own.
    pub shared: bool,
    pub alone: WhenAlone,
    pub leases: Leases,
}

static EDGES: AtomicUsize = AtomicUsize::new(1);

/// How many edges the cluster has, as far as is known here; 1 or more.
pub fn edges() -> usize {
    EDGES.load(Ordering::Relaxed)
}

/// The cluster has so many.
pub fn set_edges(edges: usize) {
    EDGES.store(edges.max(1), Ordering::Relaxed);
}

/// Where all connections of a source come to the same machine of the cluster: a VirtualIP that hashes by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BySource {
    pub addresses: Vec<Cidr>,
    /// Longer prefixes, which are something else's.
    pub but_for: Vec<Cidr>,
    /// Empty: all.
    pub ports: Vec<RangeInclusive<u16>>,
    pub tcp: bool,
    pub udp: bool,
    /// Bits of an IPv6 address that choose the machine: clients that share no more of theirs may come to several.
    pub ipv6_bits: u8,
}

static BY_SOURCE: OnceLock<ArcSwap<Vec<BySource>>> = OnceLock::new();
static ALL_STEER: AtomicBool = AtomicBool::new(false);

fn by_source() -> &'static ArcSwap<Vec<BySource>> {
    BY_SOURCE.get_or_init(ArcSwap::default)
}

/// These are the places where a source has one machine.
pub fn set_by_source(places: Vec<BySource>) {
    if **by_source().load() != places {
        by_source().store(Arc::new(places));
    }
}

/// Whether every edge that clients may come to hands on what is another's. One that does not serves it itself.
pub fn set_all_steer(all: bool) {
    ALL_STEER.store(all, Ordering::Relaxed);
}

/// Whether all requests of this one's source, of which so many bits of an IPv6 address count, come to this machine. One that another
/// proxy speaks for came by that proxy's address.
pub(crate) fn is_here(exchange: &Exchange, ipv6_prefix_length: u8) -> bool {
    if !ALL_STEER.load(Ordering::Relaxed) {
        return false;
    }
    let places = by_source().load();
    if places.is_empty() {
        return false;
    }
    let client = &exchange.client;
    let (Some(source), Some(local)) = (client.real_ip, client.local) else {
        // Known from the next request on.
        want_local_addresses();
        return false;
    };
    let (address, port) = (local.ip().to_canonical(), local.port());
    let is_udp = exchange.default_space_ref().request.version == Version::Http3;
    source.to_canonical() == client.peer.ip().to_canonical()
        && places.iter().any(|place| {
            (if is_udp { place.udp } else { place.tcp })
                && place.addresses.iter().any(|prefix| prefix.contains(address))
                && !place.but_for.iter().any(|prefix| prefix.contains(address))
                && (place.ports.is_empty() || place.ports.iter().any(|ports| ports.contains(&port)))
                && (address.is_ipv4() || place.ipv6_bits <= ipv6_prefix_length)
        })
}

/// The limits that some filter has.
pub fn limits() -> Vec<Arc<Limit>> {
    lock().iter().filter_map(Weak::upgrade).collect()
}

/// Milliseconds by a clock that nobody sets: a limit neither stops nor opens when the machine's time is corrected. On a worker as of this
/// turn of its loop.
pub fn now_ms() -> u64 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    let passed = base_runtime::now().saturating_duration_since(*BEGAN.get_or_init(Instant::now));
    1 + passed.as_secs() * 1000 + u64::from(passed.subsec_millis())
}

/// A filter has it from now on.
pub(crate) fn add(limit: &Arc<Limit>) {
    let mut limits = lock();
    limits.retain(|limit| limit.strong_count() > 0);
    limits.push(Arc::downgrade(limit));
}

/// Adds the figures of all limits.
pub fn encode(encoder: &mut Encoder) {
    for limit in limits() {
        let rule = limit.rule.to_string();
        let own = [("pipeline", &**limit.pipeline.text()), ("filter", limit.filter.as_str()), ("rule", &*rule)];
        let figures = &limit.leases.figures;
        for (name, help, count) in [
            ("weir_rate_limit_passed_total", "Requests that a limit by key let pass.", &figures.passed),
            ("weir_rate_limit_refused_total", "Requests that a limit by key refused.", &figures.refused),
            (
                "weir_rate_limit_alone_total",
                "Requests that were decided by the last share, because the owner of their key was not heard.",
                &figures.alone,
            ),
            (
                "weir_rate_limit_here_total",
                "Requests of a limit of the cluster that were decided here alone and exactly, because a VirtualIP brings all of their \
                 source to this machine.",
                &figures.here,
            ),
            ("weir_rate_limit_advanced_total", "Requests that passed before there was a lease.", &figures.advanced),
            (
                "weir_rate_limit_keys_evicted_total",
                "Keys that were forgotten within 10 s of their last request because of keysMax.",
                &figures.evicted,
            ),
        ] {
            encoder.counter(name, help, &own, count.load(Ordering::Relaxed) as f64);
        }
        encoder.gauge("weir_rate_limit_keys", "Keys a limit knows on this machine.", &own, limit.leases.len() as f64);
    }
}

fn lock() -> MutexGuard<'static, Vec<Weak<Limit>>> {
    static LIMITS: OnceLock<Mutex<Vec<Weak<Limit>>>> = OnceLock::new();
    LIMITS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}
