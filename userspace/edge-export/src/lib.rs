//! What leaves the machine beside its traffic: spans of requests, for whoever collects them.
//!
//! Workers hand over what they have ([`tracer`]) and never wait: the queue is bounded, and what finds it full is dropped and counted
//! ([`stats`]). A thread for each collector gathers, encodes and sends, with pauses between tries ([`exporter`]); the bytes go over
//! connections of the workers like a filter's own calls ([`post`]).
#![forbid(unsafe_code)]

pub mod tracer;

pub mod exporter;
pub mod post;
pub mod stats;

pub use exporter::shutdown;
pub use stats::encode;
pub use tracer::Tracer;
