//! Connections to backends between two requests, kept by each worker for itself.
//!
//! The newest is taken first, so that those beyond the need of the moment grow old together and are closed. A backend
//! that closes or speaks while idle is noticed before its connection is used again.

use crate::endpoint::Endpoint;
use base_tls::Transport;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

/// An idle connection is closed after this long, as Easegress does.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// How often idle connections are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

struct Idle {
    stream: Transport,
    since: Instant,
}

#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u32(&mut self, id: u32) {
        // Spread over the high bits too: the table looks at both ends.
        self.0 = u64::from(id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

type Pools = HashMap<u32, Vec<Idle>, BuildHasherDefault<IdHasher>>;

thread_local! {
    static POOLS: RefCell<Pools> = RefCell::default();
    static SWEEPING: Cell<bool> = const { Cell::new(false) };
}

/// A usable idle connection to `endpoint`, if this worker has one.
pub fn take(endpoint: &Endpoint) -> Option<Transport> {
    POOLS.with_borrow_mut(|pools| {
        let idle = pools.get_mut(&endpoint.id)?;
        while let Some(candidate) = idle.pop() {
            if !candidate.stream.is_closed_or_dirty() {
                return Some(candidate.stream);
            }
        }
        None
    })
}

/// Keeps a connection whose last response was read to its end. Beyond `most` per worker and endpoint it is closed.
pub fn put(endpoint_id: u32, stream: Transport, most: usize) {
    if stream.is_closed_or_dirty() {
        return;
    }
    POOLS.with_borrow_mut(|pools| {
        let idle = pools.entry(endpoint_id).or_default();
        if idle.len() < most {
            idle.push(Idle { stream, since: base_runtime::now() });
        }
    });
    if !SWEEPING.replace(true) {
        base_runtime::spawn(async {
            loop {
                base_runtime::time::sleep(SWEEP_INTERVAL).await;
                sweep(base_runtime::now());
            }
        })
        .detach();
    }
}

/// Idle connections of this worker.
pub fn idle_count() -> usize {
    POOLS.with_borrow(|pools| pools.values().map(Vec::len).sum())
}

fn sweep(now: Instant) {
    let mut closed = Vec::new();
    POOLS.with_borrow_mut(|pools| {
        pools.retain(|_, idle| {
            let (keep, drop): (Vec<Idle>, Vec<Idle>) = std::mem::take(idle)
                .into_iter()
                .partition(|i| now.saturating_duration_since(i.since) < IDLE_TIMEOUT && !i.stream.is_closed_or_dirty());
            *idle = keep;
            closed.extend(drop);
            !idle.is_empty()
        });
    });
}
