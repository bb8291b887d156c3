//! What a server's `tracing` says, ready to be asked with every request.

use crate::exporter::{Exporter, Recipe, Target};
use base_model::{ParentSampling, SpanLimitsSpec, TracingSpec, ZipkinSpec};
use base_runtime::Worker;
use base_telemetry::Telemetry;
use proto_trace::{Formats, Recording, Resource, Sampler, SpanLimits};
use std::sync::Arc;

/// See the module doc.
pub struct Tracer {
    pub sampler: Sampler,
    /// The form contexts are written in; where a request has several, the one that counts.
    pub format: Formats,
    pub limits: SpanLimits,
    exporters: Vec<Arc<Exporter>>,
}

impl Tracer {
    /// `machine` is this member's name. The error says what is wrong with the document or with this machine.
    pub fn new(
        spec: &TracingSpec,
        machine: &str,
        telemetry: &Arc<Telemetry>,
        workers: &[Worker],
    ) -> Result<Tracer, String> {
        let exporters = targets(spec).into_iter().map(|target| {
            let (limits, resource) = (spec.batch_limits.unwrap_or_default(), resource(spec, machine));
            Exporter::of(Recipe { target, limits, resource }, telemetry, workers)
        });
        let exporters = exporters.collect::<Result<_, _>>().map_err(|why| format!("tracing: {why}"))?;
        let sampling = spec.sampling.unwrap_or_default();
        let follows = sampling.parent == ParentSampling::Follow;
        let slow = sampling.slower_than.map(Into::into);
        Ok(Tracer {
            sampler: Sampler::new(spec.rate(), follows, sampling.errors, slow),
            format: format(spec),
            limits: limits(&spec.span_limits.unwrap_or_default()),
            exporters,
        })
    }

    /// Hands over the spans of a request that is over. Never waits.
    pub fn offer(&self, trace: Arc<Recording>) {
        self.exporters.iter().for_each(|exporter| exporter.offer(trace.clone()));
    }
}

fn targets(spec: &TracingSpec) -> Vec<Target> {
    let mut targets = Vec::new();
    match (&spec.exporter, &spec.zipkin) {
        (Some(given), _) => {
            targets.extend(given.zipkin.iter().map(|zipkin| Target::Zipkin(zipkin.clone())));
            targets.extend(given.jaeger.iter().map(|jaeger| Target::Jaeger(jaeger.clone())));
            targets.extend(given.otlp.iter().map(|otlp| Target::Otlp(otlp.clone())));
        }
        (None, Some(old)) if !old.disable_report => {
            targets.push(Target::Zipkin(ZipkinSpec { endpoint: old.server_url.clone(), mtls: None }));
        }
        (None, _) => {}
    }
    targets
}

fn format(spec: &TracingSpec) -> Formats {
    match spec.header_format.as_str() {
        _ if spec.exporter.is_none() && spec.zipkin.is_some() => Formats::B3,
        "b3" => Formats::B3,
        "b3-multi" => Formats::B3_LONG,
        _ => Formats::W3C,
    }
}

fn resource(spec: &TracingSpec, machine: &str) -> Resource {
    const INSTANCE: &str = "service.instance.id";
    let given = if spec.attributes.is_empty() { &spec.tags } else { &spec.attributes };
    let mut attributes: Vec<(String, String)> = given.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    if !given.contains_key(INSTANCE) {
        attributes.push((INSTANCE.to_owned(), machine.to_owned()));
    }
    Resource { service: spec.service_name.clone(), attributes, version: env!("CARGO_PKG_VERSION").to_owned() }
}

/// A negative bound is none.
fn limits(spec: &SpanLimitsSpec) -> SpanLimits {
    let bound = |value: i64| usize::try_from(value).unwrap_or(usize::MAX);
    SpanLimits {
        attributes: bound(spec.attribute_count_limit),
        value_chars: bound(spec.attribute_value_length_limit),
        events: bound(spec.event_count_limit),
        event_attributes: bound(spec.attribute_per_event_count_limit),
    }
}
