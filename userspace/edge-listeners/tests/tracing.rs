//! Traces through a house of one: contexts that come and go, spans that reach a collector, and collectors that do not take them.

#[macro_use]
mod support;

use base_runtime::IoMode;
use base_telemetry::Names;
use base_telemetry::registry::Encoder;
use flate2::read::GzDecoder;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Read;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use support::{Backend, House, Message, eventually, proxy_to};

/// Where nobody listens, and no other test ever does: a port that was free may be anybody's a moment later.
const NOBODY: u16 = 1;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const TRACE: &str = "12345678901234567890123456789012";
const CALLER: &str = "00f067aa0ba902b7";

/// Exporters count for the whole process: tests that look at the counts take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(line: &str) -> f64 {
    let mut encoder = Encoder::new(Names::Own);
    edge_export::encode(&mut encoder);
    let text = encoder.finish();
    let found = text.lines().find_map(|known| known.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or_default()
}

/// A collector that says it took everything.
fn collector() -> Backend {
    Backend::recording(|_| b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_vec())
}

fn zipkin(port: u16, more: &str) -> String {
    format!(
        "tracing: {{serviceName: edge, batchLimits: {{batchTimeout: 50}}, exporter: {{zipkin: {{endpoint: 'http://127.0.0.1:{port}'}}}}{more}}}"
    )
}

/// The spans of Zipkin's format that have come so far.
fn spans(collector: &Backend) -> Vec<Value> {
    let posts = collector.seen().into_iter().flat_map(|post| {
        assert_eq!((post.target(), post.field("content-type")), ("/api/v2/spans", Some("application/json")));
        serde_json::from_slice::<Vec<Value>>(&post.body).expect("a list")
    });
    posts.collect()
}

fn wait_for_spans(collector: &Backend, least: usize) -> Vec<Value> {
    eventually("spans", || spans(collector).len() >= least);
    spans(collector)
}

fn named<'a>(spans: &'a [Value], name: &str) -> &'a Value {
    spans.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("no span {name}: {spans:#?}"))
}

fn get(fields: &str) -> String {
    format!("GET /a?token=secret&x=1 HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n")
}

/// What a backend was sent.
fn sent(house: &House, backend: &Backend, fields: &str) -> Message {
    let before = backend.seen().len();
    assert_eq!(house.ask(&get(fields)).status(), 200);
    let seen = backend.seen();
    assert_eq!(seen.len(), before + 1);
    seen[before].clone()
}

/// The behaviours that the suite of w3c/trace-context asks a service for.
#[test]
fn contexts_of_w3c_come_and_go() {
    let (backend, none) = (Backend::answering(OK), NOBODY);
    let house = House::new(IoMode::Epoll, &zipkin(none, ", sampleRate: 0"), &proxy_to(backend.port));
    let parent = |fields: &str| {
        let message = sent(&house, &backend, fields);
        let lines = message.head.to_ascii_lowercase().matches("\r\ntraceparent:").count();
        assert_eq!(lines, 1, "{fields}");
        let value = message.field("traceparent").unwrap().to_owned();
        let parts: Vec<&str> = value.split('-').collect();
        assert!(
            matches!(parts[..], ["00", trace, span, "00" | "01"] if trace.len() == 32 && span.len() == 16),
            "{value}"
        );
        assert_ne!(parts[2], CALLER, "a span of its own");
        (parts[1].to_owned(), parts[3].to_owned(), message.field("tracestate").map(str::to_owned))
    };
    let good = format!("traceparent: 00-{TRACE}-{CALLER}-01\r\n");
    assert_eq!(parent(&good), (TRACE.to_owned(), "01".to_owned(), None));
    let not_sampled = format!("TRACEPARENT:\t00-{TRACE}-{CALLER}-00 \r\n");
    assert_eq!(parent(&not_sampled), (TRACE.to_owned(), "00".to_owned(), None));
    let later = format!("traceparent: cc-{TRACE}-{CALLER}-01-what-the-future-will-be-like\r\n");
    assert_eq!(parent(&later).0, TRACE);
    for void in [
        String::new(),
        format!("{good}{good}"),
        format!("trace-parent: 00-{TRACE}-{CALLER}-01\r\n"),
        format!("traceparent: 00-{TRACE}-{CALLER}-01.\r\n"),
        format!("traceparent: ff-{TRACE}-{CALLER}-01\r\n"),
        format!("traceparent: 00-{TRACE}-0000000000000000-01\r\n"),
        format!("traceparent: 00-{TRACE}-{CALLER}-1\r\n"),
        format!("tracestate: foo=1\r\ntraceparent: 00-{TRACE}-{CALLER}-.0\r\n"),
        "tracestate: foo=1,bar=2\r\n".to_owned(),
    ] {
        let (trace, sampled, state) = parent(&void);
        assert!(trace != TRACE && trace != "0".repeat(32), "{void}");
        assert_eq!((sampled.as_str(), state), ("00", None), "{void}");
    }
    let state = |lines: &str| parent(&format!("{good}{lines}")).2;
    assert_eq!(state("tracestate: foo=1,bar=2\r\n").as_deref(), Some("foo=1,bar=2"));
    let several = "tracestate: foo=1 \t, \tbar=2\r\ntracestate:\r\nTraceState: rojo=1,congo=2\r\n";
    assert_eq!(state(several).as_deref(), Some("foo=1,bar=2,rojo=1,congo=2"));
    let members = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
    assert_eq!(state(&format!("tracestate: {}\r\n", members(32))), Some(members(32)));
    for void in [members(33), "foo=1,foo=2".into(), "FOO=1".into(), "foo@=1,bar=2".into(), "foo=bar=baz".into()] {
        assert_eq!(state(&format!("tracestate: {void}\r\n")), None, "{void}");
    }
}

#[test]
fn contexts_of_b3_are_read_and_written_and_others_that_came_are_kept_right() {
    let (backend, none) = (Backend::answering(OK), NOBODY);
    let pipeline = proxy_to(backend.port);
    let house = House::new(IoMode::Epoll, &zipkin(none, ", headerFormat: b3"), &pipeline);
    let message = sent(&house, &backend, &format!("b3: {TRACE}-{CALLER}-0-{CALLER}\r\n"));
    let single = message.field("b3").unwrap();
    assert!(single.starts_with(TRACE) && single.ends_with("-0") && !single.contains(CALLER), "{single}");
    assert_eq!(message.field("traceparent"), None);
    // A caller that denies sampling and names no trace.
    let message = sent(&house, &backend, "b3: 0\r\n");
    assert!(message.field("b3").unwrap().ends_with("-0"), "{}", message.head);
    let long =
        format!("X-B3-TraceId: {TRACE}\r\nX-B3-SpanId: {CALLER}\r\nX-B3-ParentSpanId: {CALLER}\r\nX-B3-Sampled: 1\r\n");
    let message = sent(&house, &backend, &long);
    let (single, span) = (message.field("b3").unwrap(), message.field("x-b3-spanid").unwrap());
    assert_eq!(single, format!("{TRACE}-{span}-1"), "both forms name the same span");
    assert_eq!((message.field("x-b3-traceid"), message.field("x-b3-sampled")), (Some(TRACE), Some("1")));
    assert_eq!(message.field("x-b3-parentspanid"), None);
    let both = format!("traceparent: 00-{TRACE}-{CALLER}-00\r\n");
    let message = sent(&house, &backend, &both);
    let span = message.field("b3").unwrap().split('-').nth(1).unwrap().to_owned();
    assert_eq!(message.field("traceparent"), Some(format!("00-{TRACE}-{span}-00").as_str()));

    house.server(&zipkin(none, ", headerFormat: b3-multi"));
    let message = sent(&house, &backend, "");
    assert!(message.field("x-b3-traceid").is_some_and(|trace| trace.len() == 32), "{}", message.head);
    assert_eq!((message.field("x-b3-sampled"), message.field("b3")), (Some("1"), None));
    // Easegress's old way to name a Zipkin server says B3 in one field.
    house.server(&format!("tracing: {{serviceName: s, zipkin: {{serverURL: 'http://127.0.0.1:{none}', sampleRate: 1, disableReport: true}}}}"));
    assert!(sent(&house, &backend, "").field("b3").unwrap().ends_with("-1"));
    // Without tracing nothing is touched.
    house.server("");
    let message = sent(&house, &backend, &both);
    assert_eq!(message.field("traceparent"), Some(format!("00-{TRACE}-{CALLER}-00").as_str()));
}

#[test]
fn spans_tell_of_the_server_its_stations_and_each_try() {
    let _turn = alone();
    let collector = collector();
    let (backend, nobody) = (Backend::answering(OK), NOBODY);
    let pipeline = format!(
        "filters: [{{name: adapt, kind: RequestAdaptor, header: {{set: {{X-A: b}}}}}}, {{name: p, kind: Proxy, pools: [{{spanName: shop, \
         servers: [{{url: 'http://127.0.0.1:{nobody}'}}, {{url: 'http://127.0.0.1:{}'}}]}}]}}]",
        backend.port
    );
    let more = ", attributes: {env: test}, spanLimits: {attributeValueLengthLimit: 40}";
    let house = House::new(IoMode::Epoll, &zipkin(collector.port, more), &pipeline);
    // The pool begins with one of them; after two requests both have been asked.
    for _ in 0..2 {
        let fields = format!(
            "traceparent: 00-{TRACE}-{CALLER}-01\r\nUser-Agent: {}\r\nCF-Ray: ray-1\r\nX-TS-Sec: 1700000000\r\nX-TS-Msec: 5\r\n",
            "u".repeat(50)
        );
        sent(&house, &backend, &fields);
    }
    // Server, way through the network in front, pipeline, two stations, and a try each; one of them went to nobody first.
    let all = wait_for_spans(&collector, 13);
    assert_eq!(all.len(), 13, "{all:#?}");
    assert!(all.iter().all(|span| span["traceId"] == TRACE && span["tags"]["env"] == "test"), "{all:#?}");
    let failed = all.iter().find(|span| span["tags"]["error"] == "connect").expect("a try at nobody");
    assert_eq!((&failed["name"], &failed["kind"]), (&"shop".into(), &"CLIENT".into()));
    assert_eq!(failed["remoteEndpoint"]["port"], nobody);
    assert!(failed["annotations"][0]["value"].as_str().unwrap().contains("cannot connect"), "{failed}");
    // That request, from its last try up to the caller.
    let id = |span: &Value| span["id"].as_str().unwrap().to_owned();
    let by_id: BTreeMap<String, &Value> = all.iter().map(|span| (id(span), span)).collect();
    assert_eq!(by_id.len(), 13, "each has a name of its own");
    let up = |span: &Value| by_id[span["parentId"].as_str().unwrap()];
    let proxy = up(failed);
    let good = all.iter().find(|span| span["parentId"] == proxy["id"] && span["id"] != failed["id"]).unwrap();
    assert_eq!(
        (&good["tags"]["http.response.status_code"], &good["tags"]["http.request.resend_count"]),
        (&"200".into(), &"1".into())
    );
    let (pipeline, server) = (up(proxy), up(up(proxy)));
    assert_eq!((&proxy["name"], &pipeline["name"], &server["name"]), (&"p".into(), &"app".into(), &"web".into()));
    assert!(all.iter().any(|span| span["name"] == "adapt" && span["parentId"] == pipeline["id"]));
    assert_eq!((&server["kind"], &server["localEndpoint"]["serviceName"]), (&"SERVER".into(), &"edge".into()));
    let network = up(server);
    assert_eq!((&network["name"], &network["timestamp"]), (&"cloudflare".into(), &1_700_000_000_005_000_u64.into()));
    assert_eq!(network["parentId"], CALLER);
    let tags = &server["tags"];
    for (tag, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("url.path", "/a"),
        ("url.scheme", "http"),
        ("server.address", "shop.test"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("weir.pipeline", "app"),
        ("cf.ray", "ray-1"),
        ("service.instance.id", "test"),
    ] {
        assert_eq!(tags[tag], value, "{tag}: {tags}");
    }
    let size = |tag: &str| tags[tag].as_str().and_then(|bytes| bytes.parse::<usize>().ok());
    assert!(size("http.request.size") > Some(100) && size("http.response.size") > Some(OK.len() / 2), "{tags}");
    let query = tags["url.query"].as_str().unwrap();
    assert!(query.ends_with("x=1") && !query.contains("secret"), "{query}");
    assert_eq!(tags["user_agent.original"], "u".repeat(40), "cut as spanLimits says");
    // The backend was told of the try that reached it.
    let told: Vec<String> = backend.seen().iter().map(|m| m.field("traceparent").unwrap().to_owned()).collect();
    assert!(told.contains(&format!("00-{TRACE}-{}-01", id(good))), "{told:?}");
    // Times are within each other.
    let times = |span: &Value| {
        (span["timestamp"].as_u64().unwrap(), span["timestamp"].as_u64().unwrap() + span["duration"].as_u64().unwrap())
    };
    for (inner, outer) in [(failed, proxy), (good, proxy), (proxy, pipeline), (pipeline, server)] {
        let ((from, to), (begins, ends)) = (times(inner), times(outer));
        // Durations are at least a microsecond, and each is cut to one.
        assert!(begins <= from && to <= ends + 2, "{inner} within {outer}");
    }
}

#[test]
fn branches_of_a_flow_have_spans_also_those_that_nobody_waits_for() {
    let _turn = alone();
    let collector = collector();
    let backend = Backend::answering(OK);
    let silent = Backend::new(|mut wire, _| while wire.more() {});
    let proxy = |name: &str, port: u16| {
        format!(
            "{{name: {name}, kind: Proxy, pools: [{{spanName: 'to {name}', servers: [{{url: 'http://127.0.0.1:{port}'}}]}}]}}"
        )
    };
    let pipeline = format!(
        "{{flow: [{{alias: both, parallel: {{mustSucceed: 1, timeout: 500ms, branches: [{{namespace: a, flow: [{{filter: asked}}, \
         {{filter: quick}}]}}, {{namespace: b, flow: [{{filter: asked}}, {{filter: silent}}]}}]}}}}, {{filter: page}}], filters: \
         [{{name: asked, kind: RequestBuilder, sourceNamespace: DEFAULT}}, {}, {}, {{name: page, kind: ResponseBuilder, template: 'statusCode: 200'}}]}}",
        proxy("quick", backend.port),
        proxy("silent", silent.port)
    );
    let house = House::new(IoMode::Epoll, &zipkin(collector.port, ""), &pipeline);
    assert_eq!(house.ask(&get("")).status(), 200);
    let all = wait_for_spans(&collector, 12);
    assert_eq!(all.len(), 12, "{all:#?}");
    let up =
        |span: &Value| all.iter().find(|above| above["id"] == span["parentId"]).expect("it is within another").clone();
    for (name, namespace) in [("quick", "a"), ("silent", "b")] {
        let tried = named(&all, &format!("to {name}"));
        let (filter, branch) = (up(tried), up(&up(tried)));
        assert_eq!(
            (&tried["kind"], &filter["name"], &branch["name"]),
            (&"CLIENT".into(), &name.into(), &namespace.into())
        );
        assert_eq!((&up(&branch)["name"], &up(&up(&branch))["name"]), (&"both".into(), &"app".into()));
        assert_eq!(all.iter().filter(|span| span["name"] == "asked" && span["parentId"] == branch["id"]).count(), 1);
    }
    let told = backend.seen()[0].field("traceparent").unwrap().to_owned();
    assert!(told.contains(named(&all, "to quick")["id"].as_str().unwrap()), "{told}");
    assert_eq!(named(&all, "b")["tags"]["weir.filter.result"], "timeout");
    assert_eq!(named(&all, "to silent")["tags"]["error"], "canceled");
}

#[test]
fn a_span_keeps_its_bounds() {
    let _turn = alone();
    let (collector, nobody) = (collector(), NOBODY);
    let limits = |limits: &str| zipkin(collector.port, &format!(", spanLimits: {{{limits}}}"));
    let house = House::new(IoMode::Epoll, &limits("attributeCountLimit: 3, eventCountLimit: 0"), &proxy_to(nobody));
    let tried = |least: usize| {
        assert_eq!(house.ask(&get("")).status(), 503);
        let all = wait_for_spans(&collector, least);
        assert_eq!(all.len(), least);
        all[least - 4..].iter().find(|span| span["kind"] == "CLIENT").unwrap().clone()
    };
    let first = tried(4);
    let tags = first["tags"].as_object().unwrap();
    let (left_out, kept): (Vec<&String>, Vec<&String>) = tags
        .keys()
        .filter(|key| !["service.instance.id", "error"].contains(&key.as_str()))
        .partition(|key| key.starts_with("otel.dropped_"));
    assert_eq!((kept.len(), &first["annotations"]), (3, &Value::Null), "{tags:?}");
    assert_eq!(left_out, ["otel.dropped_attributes_count", "otel.dropped_events_count"]);
    house.server(&limits("eventCountLimit: 1, attributePerEventCountLimit: 0"));
    assert_eq!(tried(8)["annotations"][0]["value"], "exception");
}

#[test]
fn callers_shares_and_rules_decide_what_is_exported() {
    let _turn = alone();
    let collector = collector();
    let backend = Backend::recording(|message| {
        let status = message.target().strip_prefix("/").and_then(|path| path[..3].parse().ok()).unwrap_or(200u16);
        format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").into_bytes()
    });
    let house = House::new(IoMode::Epoll, &zipkin(collector.port, ", sampleRate: 0"), &proxy_to(backend.port));
    let ask = |path: &str, sampled: &str| {
        let parent =
            if sampled.is_empty() { String::new() } else { format!("traceparent: 00-{TRACE}-{CALLER}-{sampled}\r\n") };
        house.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n{parent}\r\n")).status()
    };
    let exported = || {
        let mut all: Vec<String> =
            spans(&collector).iter().filter_map(|span| Some(span["tags"]["url.path"].as_str()?.to_owned())).collect();
        all.sort_unstable();
        all
    };
    for (path, sampled) in [("/200-follow", "01"), ("/200-not", "00"), ("/200-nobody", ""), ("/503-not", "")] {
        ask(path, sampled);
    }
    house.server(&zipkin(collector.port, ", sampleRate: 1, sampling: {parent: ignore}"));
    ask("/200-ignored", "00");
    house.server(&zipkin(collector.port, ", sampleRate: 0, sampling: {errors: true}"));
    assert_eq!((ask("/503-error", ""), ask("/404-fine", ""), ask("/500-not-sampled", "00")), (503, 404, 500));
    // Those who are asked are not told to record what may be thrown away.
    assert!(backend.seen().last().unwrap().field("traceparent").unwrap().ends_with("-00"));
    house.server(&zipkin(collector.port, ", sampleRate: 0, sampling: {slowerThan: 1ns}"));
    ask("/200-slow", "");
    house.server(&zipkin(collector.port, ", sampleRate: 0, sampling: {slowerThan: 1h}"));
    ask("/200-fast", "");
    let wanted = ["/200-follow", "/200-ignored", "/200-slow", "/500-not-sampled", "/503-error"];
    eventually("spans of those that are sampled", || exported().len() >= wanted.len());
    assert_eq!(exported(), wanted);
    let failed = spans(&collector).into_iter().find(|span| span["tags"]["url.path"] == "/503-error").unwrap();
    assert_eq!(failed["tags"]["error"], "503");
}

#[test]
fn a_collector_of_opentelemetry_gets_protobuf_or_json_packed_or_plain() {
    let _turn = alone();
    let collector = Backend::answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let backend = Backend::answering(OK);
    let otlp = |more: &str| {
        let port = collector.port;
        format!(
            "tracing: {{serviceName: edge, tags: {{env: t}}, batchLimits: {{batchTimeout: 20}}, exporter: {{otlp: {{protocol: http, endpoint: '127.0.0.1:{port}', insecure: true, headers: {{X-Key: k1}}{more}}}}}}}"
        )
    };
    let house = House::new(IoMode::Epoll, &otlp(""), &proxy_to(backend.port));
    let ask = |server: &str| {
        house.server(server);
        let before = collector.seen().len();
        sent(&house, &backend, "");
        eventually("an export", || collector.seen().len() > before);
        let post = collector.seen()[before].clone();
        assert_eq!((post.target(), post.field("x-key")), ("/v1/traces", Some("k1")));
        post
    };
    let plain = ask(&otlp(""));
    assert_eq!((plain.field("content-type"), plain.field("content-encoding")), (Some("application/x-protobuf"), None));
    let holds = |body: &[u8], text: &str| body.windows(text.len()).any(|window| window == text.as_bytes());
    for text in ["service.name", "edge", "env", "web", "app", "proxy#p#main", "http.response.status_code"] {
        assert!(holds(&plain.body, text), "{text}");
    }
    let packed = ask(&otlp(", compression: gzip"));
    assert_eq!(packed.field("content-encoding"), Some("gzip"));
    let mut unpacked = Vec::new();
    GzDecoder::new(&packed.body[..]).read_to_end(&mut unpacked).unwrap();
    assert!(holds(&unpacked, "proxy#p#main"));
    let json = ask(&otlp(", encoding: json"));
    assert_eq!(json.field("content-type"), Some("application/json"));
    let json: Value = serde_json::from_slice(&json.body).unwrap();
    let spans = json["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    assert_eq!(spans.iter().map(|span| span["kind"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 1, 1, 3]);
    assert_eq!(json["resourceSpans"][0]["resource"]["attributes"][1]["key"], "env");
}

#[test]
fn agents_and_collectors_of_jaeger_get_thrift() {
    let _turn = alone();
    let (backend, collector) = (Backend::answering(OK), collector());
    let agent = UdpSocket::bind("127.0.0.1:0").unwrap();
    agent.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let jaeger = |jaeger: &str| {
        format!("tracing: {{serviceName: edge, batchLimits: {{batchTimeout: 50}}, exporter: {{jaeger: {{{jaeger}}}}}}}")
    };
    let place = agent.local_addr().unwrap();
    let document = jaeger(&format!("mode: agent, endpoint: '{place}'"));
    let house = House::new(IoMode::Epoll, &document, &proxy_to(backend.port));
    assert_eq!(house.ask(&get("")).status(), 200);
    let mut packet = [0; 65_536];
    let length = agent.recv(&mut packet).unwrap();
    // A message of the compact encoding, one way; then text among the rest. What it says is read in proto-trace.
    assert!(packet[..length].starts_with(b"\x82\x81\x00\x09emitBatch"));
    let holds = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(holds(&packet[..length], "edge") && holds(&packet[..length], "span.kind"));

    let url = format!("http://127.0.0.1:{}/api/traces?format=jaeger.thrift", collector.port);
    house.server(&jaeger(&format!("mode: collector, endpoint: '{url}', username: u, password: p")));
    assert_eq!(house.ask(&get("")).status(), 200);
    eventually("a batch", || !collector.seen().is_empty());
    let post = &collector.seen()[0];
    assert_eq!(post.target(), "/api/traces?format=jaeger.thrift");
    assert_eq!(post.field("content-type"), Some("application/x-thrift"));
    assert_eq!(post.field("authorization"), Some("Basic dTpw"));
    assert!(post.body.starts_with(b"\x0c\x00\x01\x0b\x00\x01\x00\x00\x00\x04edge") && holds(&post.body, "span.kind"));

    // An agent that is gone is tried again, and what waits comes when it is back.
    drop(agent);
    let before = count("weir_trace_export_retries_total{exporter=\"jaeger\"}");
    house.server(&document);
    eventually("it is tried again", || {
        assert_eq!(house.ask(&get("")).status(), 200);
        count("weir_trace_export_retries_total{exporter=\"jaeger\"}") > before
    });
    let agent = UdpSocket::bind(place).unwrap();
    agent.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert!(agent.recv(&mut packet).unwrap() > 100);
}

#[test]
fn collectors_that_refuse_hang_or_fail_cost_no_request_anything_and_are_tried_again() {
    let _turn = alone();
    let dropped =
        |reason: &str| count(&format!("weir_trace_spans_dropped_total{{exporter=\"zipkin\",reason=\"{reason}\"}}"));
    let backend = Backend::answering(OK);
    let well = Arc::new(AtomicBool::new(false));
    let is_well = well.clone();
    let collector = Backend::recording(move |_| {
        let status = if is_well.load(Ordering::SeqCst) { "202 Accepted" } else { "500 Down" };
        format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes()
    });
    let limits = "batchLimits: {batchTimeout: 10, maxQueueSize: 40, maxExportBatchSize: 8, exportTimeout: 60000}";
    let server = |port: u16| {
        format!(
            "tracing: {{serviceName: edge, {limits}, exporter: {{zipkin: {{endpoint: 'http://127.0.0.1:{port}/api/v2/spans'}}}}}}"
        )
    };
    // One that takes connections and never answers.
    let silent = Backend::new(|mut wire, _| while wire.more() {});
    let house = House::new(IoMode::Epoll, &server(silent.port), &proxy_to(backend.port));
    let before = dropped("queue_full");
    for _ in 0..50 {
        sent(&house, &backend, "");
    }
    // Four spans each: a batch on its way, ten requests in the queue, and the rest is nobody's.
    eventually("spans are dropped", || dropped("queue_full") >= before + 50.0 * 4.0 - 8.0 - 8.0 - 40.0 - 8.0);
    // One that is down, and comes back: what was waiting arrives.
    house.server(&server(collector.port));
    sent(&house, &backend, "");
    eventually("a try", || !collector.seen().is_empty());
    well.store(true, Ordering::SeqCst);
    let exported = count("weir_trace_spans_exported_total{exporter=\"zipkin\"}");
    eventually("it arrives", || count("weir_trace_spans_exported_total{exporter=\"zipkin\"}") >= exported + 4.0);
    let posts = collector.seen();
    assert!(posts.len() >= 2 && posts[0].body == posts[1].body, "the same batch is tried again");
    // One that refuses is not asked twice.
    let refusing = Backend::answering("HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n");
    house.server(&server(refusing.port));
    let before = dropped("refused");
    sent(&house, &backend, "");
    eventually("the spans are refused", || dropped("refused") >= before + 4.0);
    sent(&house, &backend, "");
    eventually("those, too", || dropped("refused") >= before + 8.0);
    assert_eq!(refusing.seen().len(), 2);
    // What nobody listens to any more costs nothing.
    house.server(&server(NOBODY));
    (0..20).for_each(|_| drop(sent(&house, &backend, "")));
    assert_eq!(named(&spans(&collector), "web")["kind"], "SERVER");
}
