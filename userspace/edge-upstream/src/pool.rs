//! Connections to backends between two requests, kept by each worker for itself.
//!
//! The newest is taken first, so that those beyond the need of the moment grow old together and are closed. A backend
//! that closes or speaks while idle is noticed before its connection is used again, and so is a name that has moved on to
//! other addresses.
//!
//! Workers do not take connections from each other. A connection belongs to its worker's ring, with a receive under way; to hand
//! it over would cost its cancellation, two wake-ups and a second registration, more than a connect on a local network, and
//! would be saved only once: what a worker lacks it opens and keeps. The price is one idle connection per worker and server
//! more than the load needs.

use crate::endpoint::{Protocols, Server};
use crate::groups;
use crate::h3_sessions;
use crate::lease::{Lease, Need};
use crate::sessions;
use base_runtime::net::StreamState;
use base_telemetry::proxy::ServerRecorder;
use base_tls::Transport;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

/// An idle connection is closed after this long, as Easegress does.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// How often idle connections are looked through.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// A connection to a backend, with what it is counted by from its first to its last moment.
#[derive(Debug)]
pub struct Link {
    pub stream: Transport,
    /// That of the pool it was made for, which may not be the one it serves now.
    pub recorder: ServerRecorder,
    connections: u64,
    /// What was said of a client before everything else: it serves that client's connection alone. Empty: it serves anybody.
    introduction: Box<[u8]>,
    /// That of the endpoint's addresses when its own was last known to be one of them.
    generation: u32,
    since: Option<Instant>,
}

impl Link {
    /// A fresh connection to the server of these connections (see [`Server::connections`]), which had its addresses in `generation`.
    pub fn new(stream: Transport, connections: u64, generation: u32, recorder: &ServerRecorder) -> Box<Link> {
        recorder.connection_created();
        let (recorder, introduction) = (recorder.clone(), Box::default());
        Box::new(Link { stream, recorder, connections, introduction, generation, since: None })
    }

    /// It began with this.
    #[must_use]
    pub fn introduced(mut self: Box<Self>, introduction: &[u8]) -> Box<Link> {
        self.introduction = introduction.into();
        self
    }

    /// Whether the server still lives where this connection leads.
    fn leads_to(&mut self, server: &Server) -> bool {
        let now = server.endpoint.generation();
        if self.generation == now {
            return true;
        }
        self.generation = now;
        self.stream.peer_addr().is_ok_and(|peer| server.endpoint.has(peer))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.recorder.connection_closed(self.since.is_some());
    }
}

/// Of numbers that are spread already.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, id: u64) {
        // Spread over the high bits too: the table looks at both ends.
        self.0 = (id ^ id >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

type Pools = HashMap<u64, Vec<Box<Link>>, BuildHasherDefault<IdHasher>>;

thread_local! {
    static POOLS: RefCell<Pools> = RefCell::default();
    static SWEEPING: Cell<bool> = const { Cell::new(false) };
}

/// A lease of what this worker keeps for `server`, if it has any. `need`: what for. `once`: for what must not be sent twice; the
/// kernel is asked whether the backend has closed it just now. `introduction`: one that began with this and nothing else.
pub fn take(server: &Server, need: Need, once: bool, introduction: &[u8]) -> Option<Lease> {
    if server.shares(need) {
        let lease = match server.protocols {
            Protocols::Http3 => h3_sessions::take(server, need, once).map(Lease::H3),
            _ => sessions::take(server, need, once).map(Lease::Stream),
        };
        if lease.is_some() {
            return lease;
        }
        if matches!(server.protocols, Protocols::Http2 | Protocols::Http3) && need != Need::Extended {
            return None;
        }
    }
    POOLS.with_borrow_mut(|pools| {
        let idle = pools.get_mut(&server.connections())?;
        while let Some(at) = idle.iter().rposition(|link| *link.introduction == *introduction) {
            let mut candidate = idle.remove(at);
            let stream = &candidate.stream;
            let usable = if once { stream.socket().is_idle_by_now() } else { true } && !stream.is_closed_or_dirty();
            if usable && candidate.leads_to(server) {
                candidate.since = None;
                candidate.recorder.connection_reused();
                return Some(Lease::Connection(candidate));
            }
        }
        None
    })
}

/// Keeps a connection whose last response was read to its end. Beyond `most` per worker and server it is closed.
pub fn put(mut link: Box<Link>, most: usize) {
    if link.stream.peek_state() != StreamState::Open {
        return;
    }
    POOLS.with_borrow_mut(|pools| {
        let idle = pools.entry(link.connections).or_default();
        // Those of clients that have gone wait for nobody: the oldest makes room.
        if !link.introduction.is_empty() && idle.len() >= most && !idle.is_empty() {
            idle.remove(0);
        }
        if idle.len() < most {
            link.since = Some(base_runtime::now());
            link.recorder.connection_parked();
            idle.push(link);
        }
    });
    keep_sweeping();
}

/// Closes what this worker keeps for `server`.
pub(crate) fn forget(server: &Server) {
    let kept = POOLS.with_borrow_mut(|pools| pools.remove(&server.connections()));
    drop(kept);
}

/// Looks through what is idle from now on, if nobody does so far.
pub(crate) fn keep_sweeping() {
    if !SWEEPING.replace(true) {
        base_runtime::spawn(async {
            loop {
                base_runtime::time::sleep(SWEEP_INTERVAL).await;
                sweep(base_runtime::now());
                groups::sweep::<sessions::Session>(base_runtime::now());
                groups::sweep::<h3_sessions::Session>(base_runtime::now());
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
            closed.extend(idle.extract_if(.., |link| {
                let old = link.since.is_some_and(|since| now.saturating_duration_since(since) >= IDLE_TIMEOUT);
                old || link.stream.is_closed_or_dirty()
            }));
            !idle.is_empty()
        });
    });
}
