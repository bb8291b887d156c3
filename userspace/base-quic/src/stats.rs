//! What happens on QUIC's sockets, counted for the process. All of it but DATAGRAM frames is rare beside the datagrams themselves.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    /// Connections whose handshake began.
    Begun,
    /// Connections whose handshake was completed.
    Established,
    /// Connections whose clients sent early data that was taken.
    Early,
    /// Requests in it that were served before the handshake was over.
    EarlyServed,
    /// Requests in it that waited until it was.
    EarlyWaited,
    /// Clients that were asked to show their address first.
    Retries,
    /// First packets that were dropped, because there are too many handshakes, connections, or too little memory.
    Dropped,
    /// Datagrams passed to the worker whose connection they are for.
    Passed,
    /// The same, dropped because too many waited there.
    PassedLost,
    /// Datagrams sent on to the machine whose connection they are for.
    Elsewhere,
    /// The same, which could not be sent.
    ElsewhereLost,
    /// Connections that went on from another address.
    Migrated,
    /// DATAGRAM frames that came, of connections that clients made and that we made.
    DatagramsIn,
    /// DATAGRAM frames that were handed over to be sent.
    DatagramsOut,
}

impl Count {
    pub const ALL: [Count; 14] = [
        Count::Begun,
        Count::Established,
        Count::Early,
        Count::EarlyServed,
        Count::EarlyWaited,
        Count::Retries,
        Count::Dropped,
        Count::Passed,
        Count::PassedLost,
        Count::Elsewhere,
        Count::ElsewhereLost,
        Count::Migrated,
        Count::DatagramsIn,
        Count::DatagramsOut,
    ];
}

static COUNTS: [AtomicU64; Count::ALL.len()] = [const { AtomicU64::new(0) }; Count::ALL.len()];
static OPEN: AtomicU64 = AtomicU64::new(0);

/// Counts one more.
pub fn count(count: Count) {
    COUNTS[count as usize].fetch_add(1, Relaxed);
}

/// How often it happened.
pub fn total(count: Count) -> u64 {
    COUNTS[count as usize].load(Relaxed)
}

/// Connections there are.
pub fn open() -> u64 {
    OPEN.load(Relaxed)
}

pub(crate) fn opened() {
    OPEN.fetch_add(1, Relaxed);
}

pub(crate) fn closed() {
    OPEN.fetch_sub(1, Relaxed);
}
