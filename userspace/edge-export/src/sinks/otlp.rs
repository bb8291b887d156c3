//! An OpenTelemetry collector: a log record for each line.

use super::{Sent, Sink, word};
use crate::exporter::{Collector, Outcome};
use crate::frame::{Kind, Line};
use crate::post::Make;
use base_model::OtlpSpec;
use proto_trace::Resource;
use proto_trace::otlp::{self, Log};
use std::time::Instant;

pub struct OtlpSink {
    collector: Collector,
    resource: Resource,
}

impl OtlpSink {
    pub fn new(spec: &OtlpSpec, machine: &str, post: &Make<'_>) -> Result<OtlpSink, String> {
        let collector = Collector::of_otlp(spec, otlp::LOGS_PATH, otlp::LOGS_METHOD, post)?.patient();
        let attributes = vec![("service.instance.id".to_owned(), machine.to_owned())];
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(OtlpSink { collector, resource: Resource { service: "weir".to_owned(), attributes, version } })
    }
}

impl Sink for OtlpSink {
    fn send(&mut self, lines: &[Line], until: &dyn Fn() -> Option<Instant>) -> Sent {
        let texts: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(&line.text)).collect();
        let logs: Vec<Log<'_>> = lines
            .iter()
            .zip(&texts)
            .map(|(line, text)| Log {
                observed: line.at,
                // OpenTelemetry counts upwards: 9 is info, 13 a warning, 17 an error.
                severity: match line.kind {
                    Kind::Access | Kind::Info => 9,
                    Kind::Warning => 13,
                    Kind::Error => 17,
                },
                kind: word(line.kind),
                text,
            })
            .collect();
        let json = self.collector.is_json();
        let plain = if json { otlp::logs_json(&self.resource, &logs) } else { otlp::logs(&self.resource, &logs) };
        match self.collector.send(&self.collector.wrap(plain), lines.len() as u64, until) {
            Outcome::Taken => Sent::Taken,
            // Of a batch that was taken in part, nobody says which part.
            Outcome::Refused(count, why) if count < lines.len() as u64 => {
                tracing::warn!(count, why, "a collector refused some lines of a batch");
                Sent::Taken
            }
            Outcome::Refused(_, why) => Sent::Refused(why),
            Outcome::TooLarge(why) => Sent::Smaller(why),
            Outcome::Later(after, why) => Sent::Later(after, why),
        }
    }

    fn shown(&self) -> &str {
        self.collector.shown()
    }
}
