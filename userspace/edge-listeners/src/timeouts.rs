//! How long a client may take over each part of its conversation, where the HTTPServer does not say otherwise.

use std::time::Duration;

/// Every bound is a time without progress, but for the head and the handshake, which must be whole in time. What progress is,
/// `rate` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From an accepted connection to the end of its TLS handshake. Default 10 s. Beyond it the connection is closed and counted
    /// as `handshake_timeout`; a handshake holds more memory than a request does.
    pub handshake: Duration,
    /// From the first byte of a request head to its last, and from a fresh connection to its first byte. Default 30 s.
    /// Beyond it 408; protects connections from slow heads.
    pub head: Duration,
    /// From an accepted connection on: so long it is not closed to make room where memory runs out, though nothing has come. Its first
    /// request may be on its way, which is answered, or refused in words. Default 1 s.
    pub arriving: Duration,
    /// Without a byte of a body the client owes. Default 60 s. Beyond it 408.
    pub body: Duration,
    /// Without the client taking a byte of its answer. Default 60 s. Beyond it the connection is cut off.
    pub send: Duration,
    /// Lowest rate of bodies in either direction, in bytes per second, as long as the client is what is waited for; 0 takes any.
    /// Default 240, as slow as the slowest modem and too fast to hold thousands of requests from one. Beyond it 408 for a request
    /// (counted as `body_rate`); an answer is cut off (`response_rate`). See [`Pace`](crate::pace::Pace).
    pub rate: u32,
    /// A message's first wait may be this long before its rate counts. Default 10 s; what came faster than `rate` buys longer
    /// pauses, up to `body` and `send`.
    pub grace: Duration,
    /// Without a byte in either direction of a tunnel (WebSocket, CONNECT). Default 10 min, longer than the usual pings apart.
    /// Beyond it both sides are told that nothing more comes (`tunnel_idle`).
    pub tunnel: Duration,
    /// As `tunnel`, once the server stops: a tunnel at work goes on, a silent one ends. Default 5 s.
    pub tunnel_drain: Duration,
    /// A closing connection is kept so that the client can read its last answer. Default 2 s.
    pub linger: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let seconds = Duration::from_secs;
        Timeouts {
            handshake: seconds(10),
            head: seconds(30),
            arriving: seconds(1),
            body: seconds(60),
            send: seconds(60),
            rate: 240,
            grace: seconds(10),
            tunnel: seconds(600),
            tunnel_drain: seconds(5),
            linger: seconds(2),
        }
    }
}
