//! What became of spans, by what they are exported with.

use base_telemetry::Encoder;
use std::sync::atomic::{AtomicU64, Ordering};

/// What spans are exported with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    OtlpHttp,
    OtlpGrpc,
    Zipkin,
    Jaeger,
}

/// Why spans did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// As many were waiting as may.
    QueueFull,
    /// The collector would not have them.
    Refused,
    /// It could not be reached for too long.
    Failed,
    /// They were sent in packets, and nobody listened there: heard too late to send them again.
    Unheard,
}

const KINDS: [(Kind, &str); 4] =
    [(Kind::OtlpHttp, "otlp_http"), (Kind::OtlpGrpc, "otlp_grpc"), (Kind::Zipkin, "zipkin"), (Kind::Jaeger, "jaeger")];
const LOST: [(Lost, &str); 4] =
    [(Lost::QueueFull, "queue_full"), (Lost::Refused, "refused"), (Lost::Failed, "failed"), (Lost::Unheard, "unheard")];

#[derive(Debug)]
struct Counts {
    exporters: AtomicU64,
    exported: AtomicU64,
    waiting: AtomicU64,
    retries: AtomicU64,
    lost: [AtomicU64; LOST.len()],
}

static COUNTS: [Counts; KINDS.len()] = [const {
    Counts {
        exporters: AtomicU64::new(0),
        exported: AtomicU64::new(0),
        waiting: AtomicU64::new(0),
        retries: AtomicU64::new(0),
        lost: [const { AtomicU64::new(0) }; LOST.len()],
    }
}; KINDS.len()];

impl Kind {
    fn counts(self) -> &'static Counts {
        &COUNTS[self as usize]
    }

    pub fn name(self) -> &'static str {
        KINDS[self as usize].1
    }

    pub(crate) fn exists(self) {
        self.counts().exporters.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn exported(self, spans: u64) {
        self.counts().exported.fetch_add(spans, Ordering::Relaxed);
    }

    pub(crate) fn lost(self, why: Lost, spans: u64) {
        self.counts().lost[why as usize].fetch_add(spans, Ordering::Relaxed);
    }

    pub(crate) fn retried(self) {
        self.counts().retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn waits(self, spans: usize) {
        self.counts().waiting.fetch_add(spans as u64, Ordering::Relaxed);
    }

    pub(crate) fn waited(self, spans: usize) {
        self.counts().waiting.fetch_sub(spans as u64, Ordering::Relaxed);
    }
}

/// `weir_trace_*`, of the kinds of exporters there have been.
pub fn encode(encoder: &mut Encoder) {
    let get = |number: &AtomicU64| number.load(Ordering::Relaxed) as f64;
    for (kind, name) in KINDS {
        let counts = kind.counts();
        if counts.exporters.load(Ordering::Relaxed) == 0 {
            continue;
        }
        let labels = [("exporter", name)];
        let help = "Spans that collectors have taken, and that were sent to agents, who never say whether they have them, by exporter.";
        encoder.counter("weir_trace_spans_exported_total", help, &labels, get(&counts.exported));
        let help = "Spans that wait to be exported, by exporter.";
        encoder.gauge("weir_trace_queue_spans", help, &labels, get(&counts.waiting));
        let help =
            "Exports that were tried again, because the collector could not be reached or had no room, by exporter.";
        encoder.counter("weir_trace_export_retries_total", help, &labels, get(&counts.retries));
        for (lost, reason) in LOST {
            let help =
                "Spans that did not arrive, by exporter and reason; unheard: sent in packets to where nobody listened.";
            let labels = [("exporter", name), ("reason", reason)];
            encoder.counter("weir_trace_spans_dropped_total", help, &labels, get(&counts.lost[lost as usize]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base_telemetry::Names;

    #[test]
    fn places_are_those_of_the_kinds() {
        for (at, (kind, name)) in KINDS.into_iter().enumerate() {
            assert_eq!((kind as usize, kind.name()), (at, name));
        }
        LOST.into_iter().enumerate().for_each(|(at, (lost, _))| assert_eq!(lost as usize, at));
        Kind::Zipkin.exists();
        Kind::Zipkin.lost(Lost::Refused, 3);
        let mut encoder = Encoder::new(Names::Own);
        encode(&mut encoder);
        let text = encoder.finish();
        assert!(text.contains("weir_trace_spans_dropped_total{exporter=\"zipkin\",reason=\"refused\"} 3"), "{text}");
        assert!(!text.contains("otlp_grpc"), "{text}");
    }
}
