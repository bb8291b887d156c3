//! OpenTelemetry's own format (<https://opentelemetry.io/docs/specs/otlp/>), as protobuf and as JSON: `ExportTraceServiceRequest` of
//! opentelemetry-proto 1.x.

use crate::id::{SpanId, TraceId};
use crate::json;
use crate::protobuf::{self, Field};
use crate::recording::{Attribute, Recording, Span, SpanKind, Value};
use crate::{Resource, w3c};

/// Where a collector takes spans over HTTP.
pub const TRACES_PATH: &str = "/v1/traces";

/// Where it takes them over gRPC.
pub const TRACES_METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// The spans as protobuf.
pub fn traces(resource: &Resource, batch: &[&Recording]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    protobuf::message(1, &mut out, |out| {
        protobuf::message(1, out, |out| {
            attribute(1, "service.name", &|out| protobuf::bytes(1, resource.service.as_bytes(), out), out);
            for (key, value) in &resource.attributes {
                attribute(1, key, &|out| protobuf::bytes(1, value.as_bytes(), out), out);
            }
        });
        protobuf::message(2, out, |out| {
            protobuf::message(1, out, |out| {
                protobuf::bytes(1, SCOPE.as_bytes(), out);
                protobuf::bytes(2, resource.version.as_bytes(), out);
            });
            for trace in batch {
                trace.spans().iter().for_each(|span| protobuf::message(2, out, |out| span_message(trace, span, out)));
            }
        });
    });
    out
}

fn span_message(trace: &Recording, span: &Span, out: &mut Vec<u8>) {
    protobuf::bytes(1, &trace.trace.0.to_be_bytes(), out);
    protobuf::bytes(2, &span.id.0.to_be_bytes(), out);
    protobuf::bytes(3, trace.state.as_deref().unwrap_or_default().as_bytes(), out);
    if let Some(parent) = span.parent {
        protobuf::bytes(4, &parent.0.to_be_bytes(), out);
    }
    protobuf::bytes(5, span.name.as_bytes(), out);
    protobuf::number(6, kind(span.kind), out);
    protobuf::fixed64(7, span.began, out);
    protobuf::fixed64(8, span.ended, out);
    attributes(9, &span.attributes, out);
    protobuf::number(10, span.dropped_attributes.into(), out);
    for event in &span.events {
        protobuf::message(11, out, |out| {
            protobuf::fixed64(1, event.at, out);
            protobuf::bytes(2, event.name.as_bytes(), out);
            attributes(3, &event.attributes, out);
            protobuf::number(4, event.dropped_attributes.into(), out);
        });
    }
    protobuf::number(12, span.dropped_events.into(), out);
    if span.failed {
        protobuf::message(15, out, |out| protobuf::number(3, STATUS_ERROR, out));
    }
    protobuf::fixed32(16, flags(trace).into(), out);
}

fn attributes(field: u32, all: &[Attribute], out: &mut Vec<u8>) {
    for (key, value) in all {
        let write: &dyn Fn(&mut Vec<u8>) = &|out| match value {
            Value::Number(number) => protobuf::always(3, *number as u64, out),
            Value::Flag(flag) => protobuf::always(2, u64::from(*flag), out),
            text => protobuf::present(1, text.text().unwrap_or_default().as_bytes(), out),
        };
        attribute(field, key, write, out);
    }
}

fn attribute(field: u32, key: &str, value: &dyn Fn(&mut Vec<u8>), out: &mut Vec<u8>) {
    protobuf::message(field, out, |out| {
        protobuf::bytes(1, key.as_bytes(), out);
        protobuf::message(2, out, value);
    });
}

/// The spans as JSON (section JSON Protobuf Encoding: names of traces and spans in hexadecimal, 64-bit numbers as texts).
pub fn traces_json(resource: &Resource, batch: &[&Recording]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2048);
    let o = &mut out;
    o.extend(b"{\"resourceSpans\":[{\"resource\":{\"attributes\":[");
    json_attribute("service.name", "stringValue", &|o| json::text(&resource.service, o), o);
    for (key, value) in &resource.attributes {
        json_attribute(key, "stringValue", &|o| json::text(value, o), o);
    }
    o.extend(b"]},\"scopeSpans\":[{\"scope\":{");
    json::key("name", o);
    json::text(SCOPE, o);
    json::key("version", o);
    json::text(&resource.version, o);
    o.extend(b"},\"spans\":[");
    for trace in batch {
        for span in trace.spans() {
            json::comma(o);
            json_span(trace, span, o);
        }
    }
    o.extend(b"]}]}]}");
    out
}

fn json_span(trace: &Recording, span: &Span, o: &mut Vec<u8>) {
    let number = |name: &str, value: u64, o: &mut Vec<u8>| {
        if value != 0 {
            json::key(name, o);
            json::number(value, o);
        }
    };
    let time = |name: &str, value: u64, o: &mut Vec<u8>| {
        json::key(name, o);
        json::text(&value.to_string(), o);
    };
    o.push(b'{');
    json_ids(trace.trace, span.id, o);
    if let Some(state) = &trace.state {
        json::key("traceState", o);
        json::text(state, o);
    }
    if let Some(parent) = span.parent {
        json::key("parentSpanId", o);
        json::text(&parent.to_string(), o);
    }
    json::key("name", o);
    json::text(&span.name, o);
    number("kind", kind(span.kind), o);
    time("startTimeUnixNano", span.began, o);
    time("endTimeUnixNano", span.ended, o);
    json_attributes(&span.attributes, o);
    number("droppedAttributesCount", span.dropped_attributes.into(), o);
    if !span.events.is_empty() {
        json::key("events", o);
        o.push(b'[');
        for event in &span.events {
            json::comma(o);
            o.push(b'{');
            time("timeUnixNano", event.at, o);
            json::key("name", o);
            json::text(event.name, o);
            json_attributes(&event.attributes, o);
            number("droppedAttributesCount", event.dropped_attributes.into(), o);
            o.push(b'}');
        }
        o.push(b']');
    }
    number("droppedEventsCount", span.dropped_events.into(), o);
    if span.failed {
        json::key("status", o);
        o.push(b'{');
        number("code", STATUS_ERROR, o);
        o.push(b'}');
    }
    number("flags", flags(trace).into(), o);
    o.push(b'}');
}

fn json_ids(trace: TraceId, span: SpanId, o: &mut Vec<u8>) {
    json::key("traceId", o);
    json::text(&trace.to_string(), o);
    json::key("spanId", o);
    json::text(&span.to_string(), o);
}

fn json_attributes(all: &[Attribute], o: &mut Vec<u8>) {
    json::key("attributes", o);
    o.push(b'[');
    for (key, value) in all {
        match value {
            Value::Number(number) => json_attribute(key, "intValue", &|o| json::text(&number.to_string(), o), o),
            Value::Flag(flag) => json_attribute(key, "boolValue", &|o| json::number(flag, o), o),
            text => json_attribute(key, "stringValue", &|o| json::text(text.text().unwrap_or_default(), o), o),
        }
    }
    o.push(b']');
}

fn json_attribute(key: &str, kind: &str, value: &dyn Fn(&mut Vec<u8>), o: &mut Vec<u8>) {
    json::comma(o);
    o.push(b'{');
    json::key("key", o);
    json::text(key, o);
    json::key("value", o);
    o.push(b'{');
    json::key(kind, o);
    value(o);
    o.extend(b"}}");
}

/// Where a collector takes lines of logs over HTTP.
pub const LOGS_PATH: &str = "/v1/logs";

/// Where it takes them over gRPC.
pub const LOGS_METHOD: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

/// A line of a log.
#[derive(Debug, Clone, Copy)]
pub struct Log<'a> {
    /// When it was taken, in nanoseconds since 1970.
    pub observed: u64,
    /// OpenTelemetry's `SeverityNumber`.
    pub severity: u8,
    /// What it is, as the attribute `weir.log`.
    pub kind: &'static str,
    pub text: &'a str,
}

/// Lines as protobuf (`ExportLogsServiceRequest`).
pub fn logs(resource: &Resource, lines: &[Log<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    protobuf::message(1, &mut out, |out| {
        protobuf::message(1, out, |out| {
            attribute(1, "service.name", &|out| protobuf::bytes(1, resource.service.as_bytes(), out), out);
            for (key, value) in &resource.attributes {
                attribute(1, key, &|out| protobuf::bytes(1, value.as_bytes(), out), out);
            }
        });
        protobuf::message(2, out, |out| {
            protobuf::message(1, out, |out| {
                protobuf::bytes(1, SCOPE.as_bytes(), out);
                protobuf::bytes(2, resource.version.as_bytes(), out);
            });
            for line in lines {
                protobuf::message(2, out, |out| {
                    protobuf::number(2, line.severity.into(), out);
                    protobuf::message(5, out, |out| protobuf::present(1, line.text.as_bytes(), out));
                    attribute(6, "weir.log", &|out| protobuf::bytes(1, line.kind.as_bytes(), out), out);
                    protobuf::fixed64(11, line.observed, out);
                });
            }
        });
    });
    out
}

/// Lines as JSON.
pub fn logs_json(resource: &Resource, lines: &[Log<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2048);
    let o = &mut out;
    o.extend(b"{\"resourceLogs\":[{\"resource\":{\"attributes\":[");
    json_attribute("service.name", "stringValue", &|o| json::text(&resource.service, o), o);
    for (key, value) in &resource.attributes {
        json_attribute(key, "stringValue", &|o| json::text(value, o), o);
    }
    o.extend(b"]},\"scopeLogs\":[{\"scope\":{");
    json::key("name", o);
    json::text(SCOPE, o);
    json::key("version", o);
    json::text(&resource.version, o);
    o.extend(b"},\"logRecords\":[");
    for line in lines {
        json::comma(o);
        o.push(b'{');
        json::key("observedTimeUnixNano", o);
        json::text(&line.observed.to_string(), o);
        json::key("severityNumber", o);
        json::number(line.severity, o);
        json::key("body", o);
        o.push(b'{');
        json::key("stringValue", o);
        json::text(line.text, o);
        o.push(b'}');
        json::key("attributes", o);
        o.push(b'[');
        json_attribute("weir.log", "stringValue", &|o| json::text(line.kind, o), o);
        o.extend(b"]}");
    }
    o.extend(b"]}]}]}");
    out
}

/// What a collector has refused of a batch it took, and why (`partial_success`); `None`: nothing.
pub fn refused(answer: &[u8]) -> Option<(u64, String)> {
    let (_, Field::Bytes(partial)) = protobuf::fields(answer).find(|(field, _)| *field == 1)? else { return None };
    let (mut count, mut why) = (0, String::new());
    for (field, value) in protobuf::fields(partial) {
        match (field, value) {
            (1, Field::Number(number)) => count = number,
            (2, Field::Bytes(text)) => why = String::from_utf8_lossy(text).into_owned(),
            _ => {}
        }
    }
    (count > 0).then_some((count, why))
}

fn kind(kind: SpanKind) -> u64 {
    match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
    }
}

/// Those of W3C, of which the lower 8 bits are flags of the trace.
fn flags(trace: &Recording) -> u8 {
    let random = if trace.random { w3c::RANDOM } else { 0 };
    random | if trace.sampled { w3c::SAMPLED } else { 0 }
}

/// Who writes the spans (`InstrumentationScope`).
const SCOPE: &str = "weir";

/// `STATUS_CODE_ERROR`.
const STATUS_ERROR: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::SpanLimits;
    use crate::recording::tests::recording;

    fn one() -> Recording {
        let (mut recording, now) = recording(SpanLimits::default());
        recording.state = Some("a=1".into());
        let request = recording.request();
        recording.set(request, "url.path", "/a\"b\n".to_owned());
        recording.set(request, "http.response.status_code", -503);
        recording.set(request, "weir.hedged", false);
        recording.fail(request, "503");
        recording.happened(request, "exception", now, [("exception.message", "x".into())]);
        recording.close(now + std::time::Duration::from_millis(3));
        recording
    }

    fn resource() -> Resource {
        let attributes = vec![("env".to_owned(), "test".to_owned())];
        Resource { service: "edge".to_owned(), attributes, version: "1".to_owned() }
    }

    /// The fields of a message by number, for those below to look into.
    fn get<'a>(message: &'a [u8], path: &[u32]) -> Field<'a> {
        let mut at = Field::Bytes(message);
        for wanted in path {
            let Field::Bytes(inner) = at else { panic!("{path:?}: no message") };
            at = protobuf::fields(inner).find(|(field, _)| field == wanted).unwrap_or_else(|| panic!("no {path:?}")).1;
        }
        at
    }

    /// Numbers and types of opentelemetry/proto/trace/v1/trace.proto.
    #[test]
    fn protobuf_has_the_published_numbers() {
        let (trace, resource) = (one(), resource());
        let bytes = traces(&resource, &[&trace]);
        assert_eq!(get(&bytes, &[1, 1, 1, 1]), Field::Bytes(b"service.name"));
        assert_eq!(get(&bytes, &[1, 1, 1, 2, 1]), Field::Bytes(b"edge"));
        assert_eq!(get(&bytes, &[1, 2, 1, 1]), Field::Bytes(b"weir"));
        let span = |path: &[u32]| get(&bytes, &[&[1, 2, 2], path].concat());
        assert_eq!(span(&[1]), Field::Bytes(&0xabc_u128.to_be_bytes()));
        assert_eq!(span(&[2]), Field::Bytes(&8u64.to_be_bytes()));
        assert_eq!(span(&[3]), Field::Bytes(b"a=1"));
        assert_eq!(span(&[4]), Field::Bytes(&7u64.to_be_bytes()));
        assert_eq!(span(&[5]), Field::Bytes(b"server"));
        assert_eq!(span(&[6]), Field::Number(2));
        assert_eq!(span(&[7]), Field::Number(1_700_000_000_000_000_000));
        assert_eq!(span(&[8]), Field::Number(1_700_000_000_003_000_000));
        assert_eq!(span(&[9, 1]), Field::Bytes(b"url.path"));
        assert_eq!(span(&[11, 2]), Field::Bytes(b"exception"));
        assert_eq!(span(&[15, 3]), Field::Number(2));
        assert_eq!(span(&[16]), Field::Number(1));
        let Field::Bytes(whole) = span(&[]) else { panic!("a message") };
        let numbers: Vec<Field<'_>> = protobuf::fields(whole)
            .filter(|(field, _)| *field == 9)
            .map(|(_, value)| if let Field::Bytes(bytes) = value { get(bytes, &[2]) } else { value })
            .collect();
        let number =
            |at: usize| if let Field::Bytes(bytes) = numbers[at] { protobuf::fields(bytes).next() } else { None };
        assert_eq!(number(1), Some((3, Field::Number(-503i64 as u64))));
        assert_eq!(number(2), Some((2, Field::Number(0))), "false is said");
    }

    #[test]
    fn json_is_as_published() {
        let (trace, resource) = (one(), resource());
        let json: serde_json::Value = serde_json::from_slice(&traces_json(&resource, &[&trace, &trace])).unwrap();
        let all = &json["resourceSpans"][0];
        assert_eq!(
            all["resource"]["attributes"][1],
            serde_json::json!({"key": "env", "value": {"stringValue": "test"}})
        );
        let spans = all["scopeSpans"][0]["spans"].as_array().unwrap();
        assert_eq!((spans.len(), &all["scopeSpans"][0]["scope"]["version"]), (2, &serde_json::json!("1")));
        assert_eq!(
            spans[0],
            serde_json::json!({
                "traceId": "00000000000000000000000000000abc",
                "spanId": "0000000000000008",
                "traceState": "a=1",
                "parentSpanId": "0000000000000007",
                "name": "server",
                "kind": 2,
                "startTimeUnixNano": "1700000000000000000",
                "endTimeUnixNano": "1700000000003000000",
                "attributes": [
                    {"key": "url.path", "value": {"stringValue": "/a\"b\n"}},
                    {"key": "http.response.status_code", "value": {"intValue": "-503"}},
                    {"key": "weir.hedged", "value": {"boolValue": false}},
                    {"key": "error.type", "value": {"stringValue": "503"}},
                ],
                "events": [{
                    "timeUnixNano": "1700000000000000000",
                    "name": "exception",
                    "attributes": [{"key": "exception.message", "value": {"stringValue": "x"}}],
                }],
                "status": {"code": 2},
                "flags": 1,
            })
        );
    }

    /// Numbers and types of opentelemetry/proto/logs/v1/logs.proto.
    #[test]
    fn lines_have_the_published_numbers() {
        let line = |text| Log { observed: 7, severity: 9, kind: "access", text };
        let all = [line("one"), line("two \"2\"")];
        let bytes = logs(&resource(), &all);
        let record = |path: &[u32]| get(&bytes, &[&[1, 2, 2], path].concat());
        assert_eq!(get(&bytes, &[1, 1, 1, 2, 1]), Field::Bytes(b"edge"));
        assert_eq!((record(&[2]), record(&[11])), (Field::Number(9), Field::Number(7)));
        assert_eq!((record(&[5, 1]), record(&[6, 1])), (Field::Bytes(b"one"), Field::Bytes(b"weir.log")));
        let json: serde_json::Value = serde_json::from_slice(&logs_json(&resource(), &all)).unwrap();
        let records = &json["resourceLogs"][0]["scopeLogs"][0]["logRecords"];
        assert_eq!(
            (&records[1]["body"]["stringValue"], &records[1]["severityNumber"]),
            (&"two \"2\"".into(), &9.into())
        );
        assert_eq!((&records[0]["observedTimeUnixNano"], records.as_array().unwrap().len()), (&"7".into(), 2));
    }

    #[test]
    fn what_a_collector_refuses_is_heard() {
        let mut answer = Vec::new();
        assert_eq!(refused(&answer), None);
        protobuf::message(1, &mut answer, |out| {
            protobuf::number(1, 5, out);
            protobuf::bytes(2, b"too old", out);
        });
        assert_eq!(refused(&answer), Some((5, "too old".to_owned())));
        assert_eq!(refused(b"\x0a\xff"), None);
    }
}
