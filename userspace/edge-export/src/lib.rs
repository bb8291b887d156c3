//! What leaves the machine beside its traffic: spans of requests, and lines of the logs, for whoever collects them.
//!
//! Spans: workers hand over what they have ([`tracer`]) and never wait: the queue is bounded, and what finds it full is dropped and counted
//! ([`stats`]). A thread for each collector gathers, encodes and sends, with pauses between tries ([`exporter`]; [`agent`] where packets
//! are all there is, by [`packets`]).
//!
//! Lines: each LogSink ([`sink`]) writes what workers have logged to the disk (a spool of [`frame`]s) and sends from there, so that
//! nothing is lost while it is away; [`sinks`] has one file for each way. What sinks that are gone have left is removed some day
//! ([`edge_spool::leavings`]).
//!
//! Bytes for services go over connections of the workers like a filter's own calls ([`post`]).
#![forbid(unsafe_code)]

pub mod tracer;

mod agent;
pub mod exporter;
mod packets;
pub mod stats;

pub mod sink;

pub mod frame;
pub mod sinks;

pub mod post;

pub use sink::{LogSink, event, set_directory};
pub use tracer::Tracer;

use base_telemetry::Encoder;

/// `weir_trace_*` and `weir_log_sink_*`.
pub fn encode(encoder: &mut Encoder) {
    stats::encode(encoder);
    sink::encode(encoder);
}

/// Ends all exporters of spans: what waits is sent, within bounds. Sinks of logs are ended by whoever made them.
pub fn shutdown() {
    exporter::shutdown();
}
