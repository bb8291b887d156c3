//! Every bound of the engine: what it protects and what is answered beyond it.

/// Bounds on one message. The same set serves both directions; an answer from a backend that breaks one becomes a 502.
///
/// Time is not bounded here: the engine has no clock, whoever feeds it keeps the deadlines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest head (start line and fields), in bytes. Default 64 KiB, 1 KiB–1 MiB. Beyond it 431.
    /// Protects memory: one receive buffer of this size per connection with a head in flight.
    pub head_bytes: usize,
    /// Longest method, in bytes. Default 32, 3–255. Beyond it 501, as RFC 9112 section 3 asks. Protects counters and logs.
    pub method_bytes: usize,
    /// Longest request target, in bytes. Default 8 KiB, 256 B–64 KiB. Beyond it 414.
    /// Protects the router: paths are matched, logged and copied.
    pub target_bytes: usize,
    /// Most field lines of a head. Default 128, 8–1024. Beyond it 431.
    /// Protects CPU: looking a field up is linear in their number.
    pub fields: usize,
    /// Longest field line (name and value), in bytes. Default 32 KiB, 256 B–`head_bytes`. Beyond it 431.
    /// Protects backends, whose own bound is often 8 or 16 KiB.
    pub field_bytes: usize,
    /// Longest extension of one chunk, in bytes. Default 1 KiB, 0–16 KiB. Beyond it 400. Extensions are dropped, never relayed.
    pub chunk_extension_bytes: usize,
    /// Extension bytes a body may carry in excess of its data, in bytes. Default 16 KiB, 0–1 MiB. Beyond it 400.
    /// Protects CPU and bandwidth from one-byte chunks with long extensions, and lets signed uploads of any length pass.
    pub chunk_extension_excess: usize,
    /// Largest trailer section, in bytes. Default 8 KiB, 0–64 KiB. Beyond it 431. Memory: one per chunked body that has trailers.
    pub trailer_bytes: usize,
    /// Most trailer fields. Default 32, 0–1024. Beyond it 431.
    pub trailers: usize,
    /// Most interim (1xx) answers before the final one. Default 8, 0–64. Beyond it the backend is at fault: 502.
    /// Protects the client's connection from a backend that never comes to the point.
    pub interim_responses: usize,
    /// What becomes of request fields with `_` in their names. Default: left out and counted.
    pub underscores: Underscores,
}

/// What becomes of request fields, trailers included, with `_` in their names, which CGI and its heirs cannot tell from `-`. Those that
/// become a field of framing, routing or forwarding are refused in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Underscores {
    /// They are left out.
    #[default]
    Drop,
    /// They pass like any other.
    Allow,
    /// The request is refused.
    Refuse,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_bytes: 64 << 10,
            method_bytes: 32,
            target_bytes: 8 << 10,
            fields: 128,
            field_bytes: 32 << 10,
            chunk_extension_bytes: 1 << 10,
            chunk_extension_excess: 16 << 10,
            trailer_bytes: 8 << 10,
            trailers: 32,
            interim_responses: 8,
            underscores: Underscores::Drop,
        }
    }
}
