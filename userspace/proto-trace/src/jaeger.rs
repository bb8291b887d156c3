//! Jaeger's own format, up to its version 1: `Batch` of jaeger-idl's `thrift/jaeger.thrift`, posted to a collector in Thrift's binary
//! encoding, or sent to an agent in packets, as `Agent.emitBatch` of `thrift/agent.thrift` in the compact one. Attributes are mapped as
//! OpenTelemetry says (<https://opentelemetry.io/docs/specs/otel/trace/sdk_exporters/jaeger/>).

use crate::Resource;
use crate::recording::{Attribute, Recording, Span, SpanKind, Value, lost};
use crate::thrift::{Encoding, Writer};

/// The spans as a collector takes them.
pub fn batch(resource: &Resource, traces: &[&Recording]) -> Vec<u8> {
    let spans: Vec<(&Recording, &Span)> = spans(traces).collect();
    let mut writer = Writer::new(Encoding::Binary);
    writer.element(|writer| write_batch(resource, &spans, writer));
    writer.out
}

/// The spans as an agent takes them, in packets of so many bytes at most, and how many fit in none.
pub fn packets(resource: &Resource, traces: &[&Recording], bytes_most: usize) -> (Vec<Vec<u8>>, u64) {
    let (mut packets, mut too_long) = (Vec::new(), 0);
    let mut rest = spans(traces).peekable();
    let around = packet(resource, &[]).len() + LIST_MORE;
    while rest.peek().is_some() {
        let (mut taken, mut bytes) = (Vec::new(), around);
        while let Some(&(trace, span)) = rest.peek() {
            let mut alone = Writer::new(Encoding::Compact);
            write_span(trace, span, &mut alone);
            match alone.out.len() {
                long if around + long > bytes_most => too_long += 1,
                some if bytes + some > bytes_most => break,
                some => {
                    bytes += some;
                    taken.push((trace, span));
                }
            }
            rest.next();
        }
        if !taken.is_empty() {
            packets.push(packet(resource, &taken));
        }
    }
    (packets, too_long)
}

/// Each span, with the trace it is of.
fn spans<'a>(traces: &[&'a Recording]) -> impl Iterator<Item = (&'a Recording, &'a Span)> {
    traces.iter().flat_map(|trace| trace.spans().iter().map(move |span| (*trace, span)))
}

/// Bytes that the length of a list takes beyond that of an empty one.
const LIST_MORE: usize = 5;

fn packet(resource: &Resource, spans: &[(&Recording, &Span)]) -> Vec<u8> {
    let mut writer = Writer::new(Encoding::Compact);
    writer.call("emitBatch");
    writer.element(|arguments| {
        arguments.struct_field(1, |batch| write_batch(resource, spans, batch));
    });
    writer.out
}

fn write_batch(resource: &Resource, spans: &[(&Recording, &Span)], to: &mut Writer) {
    to.struct_field(1, |process| {
        process.text_field(1, &resource.service);
        process.list_field(2, resource.attributes.len());
        resource.attributes.iter().for_each(|(key, value)| tag(key, Tag::Text(value), process));
    });
    to.list_field(2, spans.len());
    spans.iter().for_each(|(trace, span)| write_span(trace, span, to));
}

fn write_span(trace: &Recording, span: &Span, to: &mut Writer) {
    to.element(|to| {
        to.i64_field(1, trace.trace.0 as i64);
        to.i64_field(2, (trace.trace.0 >> 64) as i64);
        to.i64_field(3, span.id.0 as i64);
        to.i64_field(4, span.parent.map_or(0, |parent| parent.0 as i64));
        to.text_field(5, &span.name);
        to.i32_field(7, SAMPLED);
        to.i64_field(8, micros(span.began));
        to.i64_field(9, micros(span.ended.saturating_sub(span.began)));
        let kind = match span.kind {
            SpanKind::Internal => "internal",
            SpanKind::Server => "server",
            SpanKind::Client => "client",
        };
        let left_out = lost(span.dropped_attributes, span.dropped_events);
        to.list_field(10, span.attributes.len() + 1 + if span.failed { 2 } else { 0 } + left_out.clone().count());
        tag("span.kind", Tag::Text(kind), to);
        span.attributes.iter().for_each(|attribute| attribute_tag(attribute, to));
        if span.failed {
            tag("error", Tag::Flag(true), to);
            tag("otel.status_code", Tag::Text("ERROR"), to);
        }
        left_out.for_each(|(key, count)| tag(key, Tag::Number(count), to));
        to.list_field(11, span.events.len());
        for event in &span.events {
            to.element(|log| {
                log.i64_field(1, micros(event.at));
                let left_out = lost(event.dropped_attributes, 0);
                log.list_field(2, event.attributes.len() + 1 + left_out.clone().count());
                tag("event", Tag::Text(event.name), log);
                event.attributes.iter().for_each(|attribute| attribute_tag(attribute, log));
                left_out.for_each(|(key, count)| tag(key, Tag::Number(count), log));
            });
        }
    });
}

fn attribute_tag((key, value): &Attribute, to: &mut Writer) {
    let value = match value {
        Value::Number(number) => Tag::Number(*number),
        Value::Flag(flag) => Tag::Flag(*flag),
        text => Tag::Text(text.text().unwrap_or_default()),
    };
    tag(key, value, to);
}

enum Tag<'a> {
    Text(&'a str),
    Flag(bool),
    Number(i64),
}

/// `Tag`: its key, of what type it is (`TagType`), and the field of that type.
fn tag(key: &str, value: Tag<'_>, to: &mut Writer) {
    to.element(|to| {
        to.text_field(1, key);
        match value {
            Tag::Text(text) => {
                to.i32_field(2, 0);
                to.text_field(3, text);
            }
            Tag::Flag(flag) => {
                to.i32_field(2, 2);
                to.bool_field(5, flag);
            }
            Tag::Number(number) => {
                to.i32_field(2, 3);
                to.i64_field(6, number);
            }
        }
    });
}

/// The first bit of a span's flags.
const SAMPLED: i32 = 1;

fn micros(nanos: u64) -> i64 {
    (nanos / 1000) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::SpanLimits;
    use crate::recording::tests::recording;
    use serde_json::{Map, Value as Json, json};
    use std::time::Duration;
    use thrift::protocol::{TBinaryInputProtocol, TCompactInputProtocol, TInputProtocol, TMessageType, TType};

    /// A value as Thrift's own library reads it: structs by the numbers of their fields.
    fn read(from: &mut dyn TInputProtocol, kind: TType) -> Json {
        match kind {
            TType::Bool => from.read_bool().unwrap().into(),
            TType::I32 => from.read_i32().unwrap().into(),
            TType::I64 => from.read_i64().unwrap().into(),
            TType::String => from.read_string().unwrap().into(),
            TType::List => {
                let list = from.read_list_begin().unwrap();
                let elements = (0..list.size).map(|_| read(from, list.element_type)).collect::<Vec<_>>();
                from.read_list_end().unwrap();
                elements.into()
            }
            TType::Struct => {
                let mut fields = Map::new();
                from.read_struct_begin().unwrap();
                loop {
                    let field = from.read_field_begin().unwrap();
                    if field.field_type == TType::Stop {
                        break;
                    }
                    fields.insert(field.id.unwrap().to_string(), read(from, field.field_type));
                    from.read_field_end().unwrap();
                }
                from.read_struct_end().unwrap();
                fields.into()
            }
            other => panic!("a {other}"),
        }
    }

    fn read_packet(packet: &[u8]) -> Json {
        let mut from = TCompactInputProtocol::new(packet);
        let message = from.read_message_begin().unwrap();
        assert_eq!((&*message.name, message.message_type), ("emitBatch", TMessageType::OneWay));
        read(&mut from, TType::Struct)["1"].take()
    }

    fn resource() -> Resource {
        let attributes = vec![("env".to_owned(), "t".to_owned())];
        Resource { service: "Edge".to_owned(), attributes, version: String::new() }
    }

    #[test]
    fn a_batch_is_read_by_thrift_in_both_encodings() {
        let (mut trace, now) = recording(SpanLimits::default());
        let request = trace.request();
        trace.set(request, "http.response.status_code", 503);
        let asked = trace.begin_beside(&"pool".into(), SpanKind::Client, now);
        trace.set(asked, "resent", true);
        trace.fail(asked, "connect");
        trace.happened(asked, "exception", now, [("exception.message", "refused".into())]);
        trace.end(asked, now);
        trace.close(now + Duration::from_millis(2));
        let text = |key: &str, text: &str| json!({"1": key, "2": 0, "3": text});
        let expected = json!({
            "1": {"1": "Edge", "2": [text("env", "t")]},
            "2": [
                {
                    "1": 0xabc, "2": 0, "3": 8, "4": 7, "5": "server", "7": 1, "8": 1_700_000_000_000_000_i64, "9": 2000,
                    "10": [text("span.kind", "server"), {"1": "http.response.status_code", "2": 3, "6": 503}],
                    "11": [],
                },
                {
                    "1": 0xabc, "2": 0, "3": trace.spans()[1].id.0 as i64, "4": 8, "5": "pool", "7": 1,
                    "8": 1_700_000_000_000_000_i64, "9": 0,
                    "10": [
                        text("span.kind", "client"), {"1": "resent", "2": 2, "5": true}, text("error.type", "connect"),
                        {"1": "error", "2": 2, "5": true}, text("otel.status_code", "ERROR"),
                    ],
                    "11": [{
                        "1": 1_700_000_000_000_000_i64,
                        "2": [text("event", "exception"), text("exception.message", "refused")],
                    }],
                },
            ],
        });
        let binary = batch(&resource(), &[&trace]);
        assert_eq!(read(&mut TBinaryInputProtocol::new(&binary[..], true), TType::Struct), expected);
        let (packets, too_long) = packets(&resource(), &[&trace], 65_000);
        assert_eq!((packets.len(), too_long), (1, 0));
        assert_eq!(read_packet(&packets[0]), expected);
    }

    #[test]
    fn what_bounds_have_cost_is_said() {
        let bounds = SpanLimits { attributes: 1, events: 1, event_attributes: 1, ..SpanLimits::default() };
        let (mut trace, now) = recording(bounds);
        let request = trace.request();
        ["a", "b", "c"].into_iter().for_each(|key| trace.set(request, key, 1));
        (0..3).for_each(|_| trace.happened(request, "e", now, [("x", 1.into()), ("y", 2.into())]));
        trace.close(now);
        let number = |key: &str, number: i64| json!({"1": key, "2": 3, "6": number});
        let (packets, _) = packets(&resource(), &[&trace], 65_000);
        let span = &read_packet(&packets[0])["2"][0];
        assert_eq!(span["10"][2], number("otel.dropped_attributes_count", 2));
        assert_eq!(span["10"][3], number("otel.dropped_events_count", 2));
        assert_eq!(span["11"][0]["2"][2], number("otel.dropped_attributes_count", 1));
        let json: Json = serde_json::from_slice(&crate::zipkin::spans(&resource(), &[&trace])).unwrap();
        let tags = &json[0]["tags"];
        assert_eq!(
            (&tags["otel.dropped_attributes_count"], &tags["otel.dropped_events_count"]),
            (&json!("2"), &json!("2"))
        );
    }

    #[test]
    fn packets_are_as_long_as_they_may_be_and_no_longer() {
        let traces: Vec<Recording> = (0..40)
            .map(|at| {
                let (mut trace, now) = recording(SpanLimits::default());
                let request = trace.request();
                trace.set(request, "text", if at == 7 { "x".repeat(3000) } else { format!("{at:0>100}") });
                trace.close(now);
                trace
            })
            .collect();
        let traces: Vec<&Recording> = traces.iter().collect();
        let (packets, too_long) = packets(&resource(), &traces, 2000);
        assert_eq!(too_long, 1);
        assert!(packets.iter().all(|packet| packet.len() <= 2000), "none is longer");
        let shortest = packets[..packets.len() - 1].iter().map(Vec::len).min().unwrap();
        assert!(shortest > 1700, "full, but for the last: {shortest}");
        let spans: usize = packets.iter().map(|packet| read_packet(packet)["2"].as_array().unwrap().len()).sum();
        assert_eq!(spans, 39);
    }
}
