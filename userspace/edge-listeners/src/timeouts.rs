//! How long a client may take over each part of its conversation.

use std::time::Duration;

/// Every bound is a time without progress, but for the head, which must be whole in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first byte of a request head to its last, and from a fresh connection to its first byte. Default 30 s.
    /// Beyond it 408; protects connections from slow heads.
    pub head: Duration,
    /// Without a byte of a body the client owes. Default 60 s. Beyond it 408.
    pub body: Duration,
    /// Without the client taking a byte of its answer. Default 60 s. Beyond it the connection is cut off.
    pub send: Duration,
    /// A closing connection is kept so that the client can read its last answer. Default 2 s.
    pub linger: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let seconds = Duration::from_secs;
        Timeouts { head: seconds(30), body: seconds(60), send: seconds(60), linger: seconds(2) }
    }
}
