//! Traces: who asked whom, and how long each step took.
//!
//! No sockets, no clock, no randomness: a request's context is read from header fields and written into them ([`propagation`], with
//! [`w3c`] and [`b3`]), a decision is made by what is known ([`sampling`]), steps are written down with the times they are told
//! ([`recording`]), and what was written down is turned into the bytes of a collector's format ([`otlp`], [`zipkin`], [`jaeger`]).
#![forbid(unsafe_code)]

pub mod propagation;

pub mod b3;
pub mod w3c;

pub mod recording;
pub mod sampling;

pub mod jaeger;
pub mod otlp;
pub mod zipkin;

pub mod id;
mod json;
mod protobuf;
mod thrift;

pub use id::{SpanId, TraceId};
pub use propagation::{Formats, Incoming, Outgoing, extract, inject};
pub use recording::{Beginning, Begun, Recording, Reserved, Span, SpanKind, SpanLimits, Value};
pub use sampling::Sampler;

/// What every span of an exporter carries: OpenTelemetry's resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resource {
    /// `service.name`.
    pub service: String,
    /// Further attributes.
    pub attributes: Vec<(String, String)>,
    /// Version of what writes the spans.
    pub version: String,
}
