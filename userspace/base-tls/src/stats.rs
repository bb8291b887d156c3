//! What happened in handshakes and with keys, counted per thread and summed when somebody asks.

use std::array;
use std::cell::OnceCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::connection::Event;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    /// Handshakes with certificates shown, as a server.
    AcceptedFull,
    /// Sessions taken up again, as a server.
    AcceptedResumed,
    /// Handshakes with certificates shown, as a client.
    ConnectedFull,
    /// Sessions taken up again, as a client.
    ConnectedResumed,
    /// The connection broke or ended before the handshake was over.
    FailedIo,
    /// The limit passed first.
    FailedTimeout,
    /// The worker had too many handshakes waiting.
    FailedOverload,
    /// The peer sent more handshake bytes than allowed.
    FailedTooLong,
    /// No protocol version, cipher suite, group or ALPN protocol in common.
    FailedNothingShared,
    /// The peer's certificate was missing or not accepted.
    FailedCertificate,
    /// The peer refused us with an alert.
    FailedAlert,
    /// The peer did not speak TLS, or not as it should.
    FailedProtocol,
    /// Keys replaced because the peer replaced its own.
    KeyUpdatesReceived,
    /// Keys of ours replaced.
    KeyUpdatesSent,
    /// Renegotiations refused (TLS 1.2).
    RenegotiationsRefused,
    /// Connections closed because the peer sent one message after another without data.
    ProtocolAbuse,
    /// Sessions that could have begun with early data, forgotten because there were too many.
    EarlySessionsForgotten,
    /// Servers that had asked for a certificate and said nothing of it for as long as they were waited for.
    VerdictUnheard,
}

impl Count {
    pub const ALL: [Count; 18] = [
        Count::AcceptedFull,
        Count::AcceptedResumed,
        Count::ConnectedFull,
        Count::ConnectedResumed,
        Count::FailedIo,
        Count::FailedTimeout,
        Count::FailedOverload,
        Count::FailedTooLong,
        Count::FailedNothingShared,
        Count::FailedCertificate,
        Count::FailedAlert,
        Count::FailedProtocol,
        Count::KeyUpdatesReceived,
        Count::KeyUpdatesSent,
        Count::RenegotiationsRefused,
        Count::ProtocolAbuse,
        Count::EarlySessionsForgotten,
        Count::VerdictUnheard,
    ];

    /// A name for a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Count::AcceptedFull => "accepted_full",
            Count::AcceptedResumed => "accepted_resumed",
            Count::ConnectedFull => "connected_full",
            Count::ConnectedResumed => "connected_resumed",
            Count::FailedIo => "failed_io",
            Count::FailedTimeout => "failed_timeout",
            Count::FailedOverload => "failed_overload",
            Count::FailedTooLong => "failed_too_long",
            Count::FailedNothingShared => "failed_nothing_shared",
            Count::FailedCertificate => "failed_certificate",
            Count::FailedAlert => "failed_alert",
            Count::FailedProtocol => "failed_protocol",
            Count::KeyUpdatesReceived => "key_updates_received",
            Count::KeyUpdatesSent => "key_updates_sent",
            Count::RenegotiationsRefused => "renegotiations_refused",
            Count::ProtocolAbuse => "protocol_abuse",
            Count::EarlySessionsForgotten => "early_sessions_forgotten",
            Count::VerdictUnheard => "verdict_unheard",
        }
    }
}

struct Block([AtomicU64; Count::ALL.len()]);

/// The blocks of all threads that ever counted: those of threads that ended keep their sums.
static BLOCKS: Mutex<Vec<Arc<Block>>> = Mutex::new(Vec::new());

thread_local! {
    static BLOCK: OnceCell<Arc<Block>> = const { OnceCell::new() };
}

/// Counts one on this thread.
pub(crate) fn count(what: Count) {
    BLOCK.with(|block| {
        let block = block.get_or_init(|| {
            let block = Arc::new(Block(array::from_fn(|_| AtomicU64::new(0))));
            BLOCKS.lock().unwrap_or_else(PoisonError::into_inner).push(block.clone());
            block
        });
        block.0[what as usize].fetch_add(1, Ordering::Relaxed);
    });
}

pub(crate) fn count_event(event: Event) {
    count(match event {
        Event::KeyUpdateReceived => Count::KeyUpdatesReceived,
        Event::KeyUpdateSent => Count::KeyUpdatesSent,
        Event::RenegotiationRefused => Count::RenegotiationsRefused,
        Event::Abuse => Count::ProtocolAbuse,
    });
}

/// The process's sums, in the order of [`Count::ALL`].
pub fn totals() -> Vec<(Count, u64)> {
    let blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    let sum = |what: Count| blocks.iter().map(|block| block.0[what as usize].load(Ordering::Relaxed)).sum();
    Count::ALL.into_iter().map(|what| (what, sum(what))).collect()
}

/// The process's sum of one.
pub fn total(what: Count) -> u64 {
    let blocks = BLOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    blocks.iter().map(|block| block.0[what as usize].load(Ordering::Relaxed)).sum()
}
