//! HTTP/3 without sockets: bytes of QUIC streams in, messages and what to do about them out.
//!
//! Nothing is buffered but the head that is being read, and that within its bound: DATA passes as it comes, frames nobody knows are
//! skipped as they come, whatever length they announce. Field sections are read with QPACK's static table alone: our side offers no
//! dynamic table, so no stream ever waits for another (RFC 9204 section 2.1.2).
//!
//! Reading order: [`varint`], [`code`] (why a stream or a connection ends), [`frame`] (frames as they come), [`request`] (one request
//! stream), [`control`] (the streams of one direction), [`settings`], [`qpack`], [`message`] (heads translated), [`datagram`] (what goes
//! beside streams), [`capsule`] (the same on them).
#![forbid(unsafe_code)]

pub mod capsule;
pub mod code;
pub mod control;
pub mod datagram;
pub mod frame;
pub mod message;
pub mod qpack;
pub mod request;
pub mod settings;
pub mod varint;

pub use code::{Code, Fault};
