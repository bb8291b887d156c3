//! Zipkin's JSON, version 2 (<https://zipkin.io/zipkin-api/>, `ListOfSpans`).

use crate::Resource;
use crate::json;
use crate::recording::{Recording, Span, SpanKind, Value, lost};
use std::net::{IpAddr, SocketAddr};

/// Where a Zipkin server takes spans.
pub const SPANS_PATH: &str = "/api/v2/spans";

/// The spans as a list.
pub fn spans(resource: &Resource, batch: &[&Recording]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2048);
    out.push(b'[');
    for trace in batch {
        for span in trace.spans() {
            json::comma(&mut out);
            write_span(resource, trace, span, &mut out);
        }
    }
    out.push(b']');
    out
}

fn write_span(resource: &Resource, trace: &Recording, span: &Span, o: &mut Vec<u8>) {
    o.push(b'{');
    json::key("traceId", o);
    json::text(&trace.trace.to_string(), o);
    json::key("id", o);
    json::text(&span.id.to_string(), o);
    if let Some(parent) = span.parent {
        json::key("parentId", o);
        json::text(&parent.to_string(), o);
    }
    json::key("name", o);
    json::text(&span.name, o);
    match span.kind {
        SpanKind::Internal => {}
        SpanKind::Server => member("kind", "SERVER", o),
        SpanKind::Client => member("kind", "CLIENT", o),
    }
    json::key("timestamp", o);
    json::number(span.began / 1000, o);
    json::key("duration", o);
    // 0 would be taken for unknown.
    json::number((span.ended.saturating_sub(span.began) / 1000).max(1), o);
    json::key("localEndpoint", o);
    o.push(b'{');
    member("serviceName", &resource.service, o);
    o.push(b'}');
    let address = match span.kind {
        SpanKind::Internal => None,
        SpanKind::Server => text_of(span, "client.address").map(str::to_owned),
        SpanKind::Client => text_of(span, "server.address").map(|address| match span.attribute("server.port") {
            Some(Value::Number(port)) if address.contains(':') => format!("[{address}]:{port}"),
            Some(Value::Number(port)) => format!("{address}:{port}"),
            _ => address.to_owned(),
        }),
    };
    if let Some((ip, port)) = address.as_deref().and_then(place) {
        json::key("remoteEndpoint", o);
        o.push(b'{');
        member(if ip.is_ipv4() { "ipv4" } else { "ipv6" }, &ip.to_string(), o);
        if let Some(port) = port {
            json::key("port", o);
            json::number(port, o);
        }
        o.push(b'}');
    }
    if !span.events.is_empty() {
        json::key("annotations", o);
        o.push(b'[');
        for event in &span.events {
            json::comma(o);
            o.push(b'{');
            json::key("timestamp", o);
            json::number(event.at / 1000, o);
            let said = event.attributes.iter().find_map(|(_, value)| value.text());
            member("value", &said.map_or(event.name.to_owned(), |said| format!("{}: {said}", event.name)), o);
            o.push(b'}');
        }
        o.push(b']');
    }
    json::key("tags", o);
    o.push(b'{');
    for (key, value) in &resource.attributes {
        member(key, value, o);
    }
    for (key, value) in &span.attributes {
        match value {
            Value::Number(number) => member(key, &number.to_string(), o),
            Value::Flag(flag) => member(key, if *flag { "true" } else { "false" }, o),
            text => member(key, text.text().unwrap_or_default(), o),
        }
    }
    if span.failed {
        member("error", text_of(span, "error.type").unwrap_or("true"), o);
    }
    lost(span.dropped_attributes, span.dropped_events).for_each(|(key, count)| member(key, &count.to_string(), o));
    o.extend(b"}}");
}

fn member(key: &str, value: &str, o: &mut Vec<u8>) {
    json::key(key, o);
    json::text(value, o);
}

fn text_of<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    span.attribute(key)?.text()
}

/// An address, with its port where there is one; Zipkin has no place for names.
fn place(text: &str) -> Option<(IpAddr, Option<u16>)> {
    match text.parse::<SocketAddr>() {
        Ok(at) => Some((at.ip(), Some(at.port()))),
        Err(_) => text.parse().ok().map(|ip| (ip, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::SpanLimits;
    use crate::recording::tests::recording;
    use serde_json::json;
    use std::time::Duration;

    #[test]
    fn a_list_of_spans() {
        let (mut trace, now) = recording(SpanLimits::default());
        let request = trace.request();
        trace.set(request, "client.address", "2001:db8::1");
        trace.set(request, "http.response.status_code", 503);
        let asked = trace.begin_beside(&"pool".into(), SpanKind::Client, now);
        trace.set(asked, "server.address", "10.0.0.1");
        trace.set(asked, "server.port", 8080);
        trace.fail(asked, "connect");
        trace.happened(asked, "exception", now, [("exception.message", "refused".into())]);
        trace.end(asked, now);
        trace.close(now + Duration::from_millis(2));
        let resource = Resource {
            service: "Edge".to_owned(),
            attributes: vec![("env".to_owned(), "t".to_owned())],
            version: String::new(),
        };
        let json: serde_json::Value = serde_json::from_slice(&spans(&resource, &[&trace])).unwrap();
        let id = trace.spans()[1].id.to_string();
        assert_eq!(
            json,
            json!([
                {
                    "traceId": "00000000000000000000000000000abc", "id": "0000000000000008", "parentId": "0000000000000007",
                    "name": "server", "kind": "SERVER", "timestamp": 1_700_000_000_000_000_u64, "duration": 2000,
                    "localEndpoint": {"serviceName": "Edge"}, "remoteEndpoint": {"ipv6": "2001:db8::1"},
                    "tags": {"env": "t", "client.address": "2001:db8::1", "http.response.status_code": "503"},
                },
                {
                    "traceId": "00000000000000000000000000000abc", "id": id, "parentId": "0000000000000008",
                    "name": "pool", "kind": "CLIENT", "timestamp": 1_700_000_000_000_000_u64, "duration": 1,
                    "localEndpoint": {"serviceName": "Edge"}, "remoteEndpoint": {"ipv4": "10.0.0.1", "port": 8080},
                    "annotations": [{"timestamp": 1_700_000_000_000_000_u64, "value": "exception: refused"}],
                    "tags": {
                        "env": "t", "server.address": "10.0.0.1", "server.port": "8080", "error.type": "connect", "error": "connect",
                    },
                },
            ])
        );
        assert_eq!(spans(&resource, &[]), b"[]");
    }
}
