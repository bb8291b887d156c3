use super::*;
use base_model::PipelineSpec;
use base_telemetry::registry::Names;
use base_telemetry::{Identity, Telemetry};
use edge_pipeline::{Pipeline, PipelineName};
use proto_http::{Headers, Path, Response};

/// A pipeline of the filter and a shop behind it, and what it counts.
struct Made {
    pipeline: Arc<Pipeline>,
    telemetry: Arc<Telemetry>,
}

fn made(code: &str, fields: Value) -> Made {
    let telemetry = Telemetry::new(Identity::default(), 1);
    Made { pipeline: build(code, fields, None, &telemetry), telemetry }
}

fn build(code: &str, fields: Value, previous: Option<&Pipeline>, telemetry: &Arc<Telemetry>) -> Arc<Pipeline> {
    use base64::Engine;
    super::super::install();
    let module = wat::parse_str(code).unwrap();
    let mut filter = json!({
        "name": "f", "kind": "ProxyWasm", "timeout": "5s",
        "code": base64::engine::general_purpose::STANDARD.encode(module),
    });
    filter.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let document =
        json!({"filters": [filter, {"name": "m", "kind": "Mock", "rules": [{"code": 200, "body": "shop"}]}]});
    let spec = base_model::decode::<PipelineSpec>(&document, "").unwrap().value;
    let built = Pipeline::build(&PipelineName::of_object("p"), &spec, &edge_filters::kind, previous, telemetry);
    let pipeline = Arc::new(built.unwrap_or_else(|problems| panic!("{}", base_model::problem::render(&problems))));
    host(&pipeline).source.tried(Duration::from_secs(60));
    pipeline
}

fn host(pipeline: &Pipeline) -> Arc<Host> {
    pipeline.filter("f", "ProxyWasm").unwrap().downcast::<ProxyWasm>().unwrap().host.clone()
}

const GUEST: &str = include_str!("guest.wat");

/// What became of a request: status, body, `x-out` of the request and `x-back` of the answer.
#[derive(Debug, PartialEq)]
struct Seen {
    status: u16,
    body: String,
    out: String,
    back: String,
    target: String,
    sent: String,
}

/// Runs requests with these orders and bodies one after the other.
fn asked(pipeline: &Arc<Pipeline>, orders: &[(&str, &str)]) -> Vec<Seen> {
    let orders: Vec<(String, String)> = orders.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
    let pipeline = pipeline.clone();
    on_worker(move || async move {
        let mut all = Vec::new();
        for (order, body) in orders {
            let mut exchange = request(&order, &body);
            pipeline.run(&mut exchange).await;
            all.push(seen(&exchange));
        }
        all
    })
}

fn request(order: &str, body: &str) -> Exchange {
    let mut exchange = Exchange::default();
    let space = exchange.space();
    space.has_request = true;
    space.request.method = Method::Post;
    space.request.path = Path::parse(b"/old").unwrap();
    space.request.authority = "h.test".to_owned();
    space.request.headers.add("X-Run", order);
    space.request_body = Body::full(body);
    exchange
}

fn seen(exchange: &Exchange) -> Seen {
    let space = exchange.space_ref();
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let all = |headers: &Headers, name: &str| {
        headers.values(name).map(|value| text(Some(value))).collect::<Vec<_>>().join(",")
    };
    Seen {
        status: space.response.as_ref().map_or(0, |response| response.status),
        body: text(space.response_body.in_memory()),
        out: all(&space.request.headers, "X-Out"),
        back: space.response.as_ref().map(|response| all(&response.headers, "X-Back")).unwrap_or_default(),
        target: space.request.target(),
        sent: text(space.request_body.in_memory()),
    }
}

fn on_worker<T: Send + 'static, F: Future<Output = T> + 'static>(work: impl FnOnce() -> F + Send + 'static) -> T {
    let config = base_runtime::Config { workers: Some(1), ..base_runtime::Config::default() };
    let runtime = base_runtime::Runtime::start(config).unwrap();
    let (sender, done) = std::sync::mpsc::channel();
    runtime.workers()[0].spawn(move || async move {
        let _ = sender.send(work().await);
    });
    done.recv().expect("the task did not panic")
}

#[test]
fn a_filter_sees_a_request_twice_and_changes_it() {
    let made = made(GUEST, json!({}));
    let orders = [("add", "text"), ("e", ""), ("b", "text"), ("r", ""), ("none", ""), ("q", ""), ("u", ""), ("h", "")];
    let all = asked(&made.pipeline, &orders);
    let host = host(&made.pipeline);
    let told = lock(&host.last).clone();
    assert_eq!(
        (all[0].out.as_str(), all[0].back.as_str(), all[0].body.as_str()),
        ("add", "seen", "shopseen"),
        "{told:?}"
    );
    assert_eq!((all[0].status, all[0].sent.as_str()), (200, "seentext"));
    assert_eq!((all[1].target.as_str(), all[1].out.as_str()), ("/new?b=1", "POST"));
    assert_eq!((all[2].status, all[2].sent.as_str()), (200, "seentext"), "it paused until the body was there");
    assert_eq!(
        (all[3].status, all[3].body.as_str(), all[3].back.as_str()),
        (403, "no entryseen", "seen"),
        "no shop was asked"
    );
    assert_eq!((all[4].status, all[4].out.as_str()), (200, ""));
    assert_eq!((all[5].out.as_str(), all[6].out.as_str(), all[7].out.as_str()), ("no entry", "<", "2"));
    assert_eq!(made.pipeline.status()["filters"]["f"]["numOfWasmError"], 0);
    let text = made.telemetry.registry().render(Names::Own);
    // The last request's end is told with the next callback, or at once: all eight are over.
    assert_eq!(
        host.common.metric(host.common.define(crate::proxy_common::Kind::Counter, b"counter").unwrap()),
        Some(8008)
    );
    assert!(text.contains("weir_proxy_wasm_counter_total"), "{text}");
    assert_eq!(host.starts.load(Relaxed), 1, "the one that was started first is the worker's");
}

#[test]
fn shared_data_has_versions_and_outlives_documents() {
    let made = made(GUEST, json!({}));
    assert_eq!(
        asked(&made.pipeline, &[("d", ""), ("d", "")]).iter().map(|s| s.out.as_str()).collect::<Vec<_>>(),
        ["08", "08"]
    );
    let other = build(GUEST, json!({"memoryLimitMiB": 32}), Some(&made.pipeline), &made.telemetry);
    assert_eq!(host(&other).common.value(b"x-run").map(|(_, version)| version), Some(2));
}

#[test]
fn trailers_are_shown() {
    let made = made(GUEST, json!({}));
    let host = host(&made.pipeline);
    let trailer = on_worker(move || async move {
        let mut exchange = request("none", "");
        let visit = host.on_its_way(&mut exchange).await.unwrap();
        let mut body = Body::Stream(Box::new(Trailing(1)));
        body.collect(100).await.unwrap();
        exchange.respond(Response::with_status(200), body);
        host.back(visit, &mut exchange).await;
        exchange.space().response_body.trailers().unwrap().text("X-Trailer").map(str::to_owned)
    });
    assert_eq!(trailer.as_deref(), Some("seen"));
}

struct Trailing(usize);

impl edge_pipeline::BodyStream for Trailing {
    fn poll_piece(
        &mut self,
        _: &mut std::task::Context<'_>,
        _: edge_pipeline::Sight,
    ) -> std::task::Poll<Result<Option<edge_pipeline::Piece>, BodyError>> {
        let piece = (self.0 > 0).then(|| edge_pipeline::Piece::Bytes(bytes::Bytes::from_static(b"x")));
        self.0 = self.0.saturating_sub(1);
        std::task::Poll::Ready(Ok(piece))
    }

    fn remaining(&self) -> Option<u64> {
        None
    }

    fn trailers(&mut self) -> Option<Headers> {
        let mut trailers = Headers::new();
        trailers.add("X-Trailer", "old");
        Some(trailers)
    }
}

#[test]
fn a_call_that_fails_is_told_and_a_tick_lets_requests_go_on() {
    let fields = json!({"upstreams": {"auth": "http://127.0.0.1:1"}, "configuration": "tick"});
    let made = made(GUEST, fields);
    let all = asked(&made.pipeline, &[("c", ""), ("w", ""), ("c", "")]);
    assert_eq!(all.iter().map(|seen| seen.status).collect::<Vec<_>>(), [502, 200, 502]);
}

#[test]
fn a_program_is_told_which_of_its_filters_it_is() {
    let made = made(GUEST, json!({"rootId": "second", "vmConfiguration": {"a": 1}}));
    assert_eq!(asked(&made.pipeline, &[("i", "")])[0].out, "second,{\"a\":1}");
}

/// One call is on its way, to somebody who takes his time: another one fails at once, and the first goes on.
#[test]
fn so_many_calls_are_made_at_a_time() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let made = made(GUEST, json!({"upstreams": {"auth": url}, "maxCalls": 1, "pauseTimeout": "120s"}));
    let config = base_runtime::Config { workers: Some(1), ..base_runtime::Config::default() };
    let runtime = base_runtime::Runtime::start(config).unwrap();
    let ask = || {
        let (sender, seen_it) = std::sync::mpsc::channel();
        let pipeline = made.pipeline.clone();
        runtime.workers()[0].spawn(move || async move {
            let mut exchange = request("c", "");
            pipeline.run(&mut exchange).await;
            let _ = sender.send(seen(&exchange));
        });
        seen_it
    };
    let first = ask();
    let (mut stream, _) = listener.accept().unwrap();
    assert_eq!(ask().recv().unwrap().status, 502);
    std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes").unwrap();
    assert_eq!(first.recv().unwrap().out, "200,yes");
}

#[test]
fn a_pause_lasts_so_long_and_no_longer() {
    let made = made(GUEST, json!({"configuration": "tick", "pauseTimeout": "70ms"}));
    assert_eq!(asked(&made.pipeline, &[("p", "")])[0].status, 503);
    let told = lock(&host(&made.pipeline).last).clone().unwrap();
    assert!(told.contains("70ms (pauseTimeout)"), "{told}");
}

/// A client leaves while the program computes for its request. Another request is under way in the same VM.
#[test]
fn whoever_leaves_takes_nobody_else_s_request_along() {
    let made = made(GUEST, json!({"timeout": "60s"}));
    let host = host(&made.pipeline);
    let starts = host.clone();
    let (failed, back) = on_worker(move || async move {
        let mut staying = request("none", "");
        let visit = host.on_its_way(&mut staying).await.unwrap();
        let mut leaving = request("k", "");
        {
            let mut leaves = std::pin::pin!(host.on_its_way(&mut leaving));
            let pending = std::future::poll_fn(|cx| Poll::Ready(leaves.as_mut().poll(cx).is_pending())).await;
            assert!(pending, "it computes for longer than a turn");
        }
        staying.respond(Response::with_status(200), Body::full("x"));
        (host.back(visit, &mut staying).await, seen(&staying).back)
    });
    assert_eq!((failed, back.as_str()), (false, "seen"), "{:?}", lock(&starts.last));
    assert_eq!(starts.starts.load(Relaxed), 1, "no VM was lost");
}

#[test]
fn hostile_programs_are_ended_and_counted() {
    let limits = |made: &Made| {
        ["wasm_time", "wasm_memory", "wasm_fuel"].map(|name| made.telemetry.limits().register(name).total())
    };
    for (order, wanted) in
        [("l", [1, 0, 0]), ("g", [0, 1, 0]), ("t", [0; 3]), ("o", [0; 3]), ("m", [0; 3]), ("p", [0; 3])]
    {
        let timeout = if order == "l" { "20ms" } else { "5s" };
        let closed = made(GUEST, json!({"timeout": timeout, "memoryLimitMiB": 4}));
        let all = asked(&closed.pipeline, &[(order, ""), ("a", "")]);
        assert_eq!(all.iter().map(|seen| seen.status).collect::<Vec<_>>(), [503, 200], "{order}");
        assert_eq!(limits(&closed), wanted, "{order}");
        assert_eq!(closed.pipeline.status()["filters"]["f"]["numOfWasmError"], 1);
        let open = made(GUEST, json!({"timeout": timeout, "memoryLimitMiB": 4, "failOpen": true}));
        // With a body to come the program may well pause at the head.
        let body = if order == "p" { "" } else { "text" };
        let all = asked(&open.pipeline, &[(order, body)]);
        assert_eq!((all[0].status, all[0].body.as_str(), all[0].sent.as_str()), (200, "shop", body), "{order}");
        assert_eq!((all[0].out.as_str(), all[0].back.as_str()), ("", ""), "as it came: {order}");
    }
    let fuel = made(GUEST, json!({"fuel": 100_000}));
    let all = asked(&fuel.pipeline, &[("l", ""), ("a", "")]);
    assert_eq!((all[0].status, all[1].status, limits(&fuel)), (503, 200, [0, 0, 1]));
}

/// A program that does something where the request's field `x-run` says so.
fn doing(what: &str, alloc: &str) -> String {
    format!(
        r#"(module
          (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
          (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
          (import "env" "proxy_get_header_map_pairs" (func $pairs (param i32 i32 i32) (result i32)))
          (import "env" "proxy_set_header_map_pairs" (func $set_pairs (param i32 i32 i32) (result i32)))
          (import "env" "proxy_replace_header_map_value" (func $set (param i32 i32 i32 i32 i32) (result i32)))
          (import "env" "proxy_send_local_response" (func $local (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
          (import "env" "proxy_get_buffer_bytes" (func $buffer (param i32 i32 i32 i32 i32) (result i32)))
          (import "env" "proxy_set_buffer_bytes" (func $set_buffer (param i32 i32 i32 i32 i32) (result i32)))
          (import "env" "proxy_set_property" (func $property (param i32 i32 i32 i32) (result i32)))
          (import "env" "proxy_http_call" (func $call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
          (import "env" "proxy_set_effective_context" (func $effective (param i32) (result i32)))
          (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
          (import "env" "proxy_set_shared_data" (func $share (param i32 i32 i32 i32 i32) (result i32)))
          (import "env" "proxy_register_shared_queue" (func $queue (param i32 i32 i32) (result i32)))
          (import "env" "proxy_enqueue_shared_queue" (func $push (param i32 i32 i32) (result i32)))
          (import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
          (import "env" "proxy_record_metric" (func $record (param i32 i64) (result i32)))
          (import "env" "proxy_set_tick_period_milliseconds" (func $period (param i32) (result i32)))
          (import "env" "proxy_call_foreign_function" (func $foreign (param i32 i32 i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 4)
          (table $table 1 funcref)
          (global $n (mut i32) (i32.const 0))
          (data (i32.const 16) "x-run")
          (func (export "proxy_abi_version_0_2_1"))
          (func (export "proxy_on_memory_allocate") (param i32) (result i32) {alloc})
          (func (export "proxy_on_context_create") (param i32 i32))
          (func $deep (param i64) (result i64) (i64.add (local.get 0) (call $deep (i64.add (local.get 0) (i64.const 1)))))
          (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
            (drop (call $get (i32.const 0) (i32.const 16) (i32.const 5) (i32.const 1000) (i32.const 1004)))
            (if (i32.eq (i32.load8_u (i32.load (i32.const 1000))) (i32.const 120)) (then {what}))
            (i32.const 0)))"#
    )
}

/// What a program says to us that cannot be: it is ended where it names memory that it has not, and told so otherwise. What it does
/// without an end finds a bound.
#[test]
fn hostile_calls_are_refused_or_end_the_program() {
    let loops = |what: &str, times: u32| {
        format!(
            "(loop $on (i32.store (i32.const 2000) (global.get $n)) {what} (global.set $n (i32.add (global.get $n) (i32.const 1)))
               (br_if $on (i32.lt_u (global.get $n) (i32.const {times}))))"
        )
    };
    let unless = |call: &str, status: u32| format!("(if (i32.ne {call} (i32.const {status})) (then (unreachable)))");
    let place = "(i32.const 4096)";
    for (what, alloc, status, told) in [
        ("(drop (call $deep (i64.const 1)))".to_owned(), place, 503, "call stack exhausted"),
        (
            "(drop (call $get (i32.const 0) (i32.const -16) (i32.const 32) (i32.const 1000) (i32.const 1004)))".into(),
            place,
            503,
            "leads out",
        ),
        (
            "(drop (call $get (i32.const 0) (i32.const 16) (i32.const -1) (i32.const 1000) (i32.const 1004)))".into(),
            place,
            503,
            "leads out",
        ),
        (
            "(drop (call $get (i32.const 0) (i32.const 16) (i32.const 5) (i32.const -2) (i32.const 1004)))".into(),
            place,
            503,
            "leads out",
        ),
        ("(drop (call $set_pairs (i32.const 0) (i32.const 0) (i32.const -1)))".into(), place, 503, "leads out"),
        (
            "(drop (call $set_buffer (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const -1)))".into(),
            place,
            503,
            "leads out",
        ),
        (
            "(drop (call $share (i32.const 16) (i32.const -1) (i32.const 0) (i32.const 0) (i32.const 0)))".into(),
            place,
            503,
            "leads out",
        ),
        // Memory that it gives us and has not.
        (
            "(global.set $n (i32.const 1)) (drop (call $pairs (i32.const 0) (i32.const 1000) (i32.const 1004)))".into(),
            "(select (i32.const -4) (i32.const 4096) (global.get $n))",
            503,
            "leads out",
        ),
        // It asks for more from where it gives memory.
        (
            "(global.set $n (i32.const 1)) (drop (call $pairs (i32.const 0) (i32.const 1000) (i32.const 1004)))".into(),
            "(if (global.get $n) (then (drop (call $pairs (i32.const 0) (i32.const 1000) (i32.const 1004))))) (i32.const 4096)",
            503,
            "within that",
        ),
        (unless("(call $pairs (i32.const 99) (i32.const 1000) (i32.const 1004))", 2), place, 200, ""),
        (
            unless("(call $buffer (i32.const 99) (i32.const 0) (i32.const -1) (i32.const 1000) (i32.const 1004))", 1),
            place,
            200,
            "",
        ),
        (
            unless("(call $set (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 16) (i32.const 5))", 2),
            place,
            200,
            "",
        ),
        (
            unless(
                "(call $local (i32.const 99) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))",
                2,
            ),
            place,
            200,
            "",
        ),
        (unless("(call $push (i32.const 99) (i32.const 0) (i32.const 1))", 1), place, 200, ""),
        (unless("(call $record (i32.const 99) (i64.const 1))", 1), place, 200, ""),
        (unless("(call $define (i32.const 99) (i32.const 16) (i32.const 5) (i32.const 1000))", 2), place, 200, ""),
        (
            unless(
                "(call $foreign (i32.const 16) (i32.const 5) (i32.const 0) (i32.const 0) (i32.const 1000) (i32.const 1004))",
                12,
            ),
            place,
            200,
            "",
        ),
        (unless("(table.grow $table (ref.null func) (i32.const 100000))", u32::MAX), place, 200, ""),
        // Another context than there is.
        ("(drop (call $effective (i32.const -7))) (drop (call $continue (i32.const 0)))".into(), place, 200, ""),
        ("(drop (call $period (i32.const -1)))".into(), place, 200, ""),
        (loops("(drop (call $log (i32.const 2) (i32.const 16) (i32.const 5)))", 100_000), place, 200, ""),
        (
            loops("(drop (call $property (i32.const 2000) (i32.const 4) (i32.const 0) (i32.const 60000)))", 10_000),
            place,
            200,
            "",
        ),
        (loops("(drop (call $queue (i32.const 2000) (i32.const 4) (i32.const 1000)))", 10_000), place, 200, ""),
        (
            loops("(drop (call $define (i32.const 0) (i32.const 16) (i32.const 5) (i32.const 1000)))", 10_000),
            place,
            200,
            "",
        ),
        (
            loops(
                "(drop (call $share (i32.const 2000) (i32.const 4) (i32.const 0) (i32.const 60000) (i32.const 0)))",
                10_000,
            ),
            place,
            200,
            "",
        ),
        (
            loops("(drop (call $effective (global.get $n))) (drop (call $continue (i32.const 0)))", 100_000),
            place,
            200,
            "",
        ),
        (
            loops(
                "(drop (call $set (i32.const 0) (i32.const 16) (i32.const 5) (i32.const 65536) (i32.const 1)))",
                1_000_000,
            ),
            place,
            503,
            "1048576 bytes",
        ),
    ] {
        let made = made(&doing(&what, alloc), json!({"timeout": "20s", "memoryLimitMiB": 4}));
        let all = asked(&made.pipeline, &[("y", ""), ("x", ""), ("y", "")]);
        let status_of = made.pipeline.status()["filters"]["f"].clone();
        assert_eq!(all.iter().map(|seen| seen.status).collect::<Vec<_>>(), [200, status, 200], "{what}: {status_of}");
        let last = status_of["lastError"].as_str().unwrap_or_default();
        assert!(last.contains(told) && last.is_empty() == told.is_empty(), "{what}: {last}");
        assert_eq!(status_of["numOfWasmError"], u64::from(status == 503), "{what}");
    }
}

#[test]
fn one_that_does_not_start_costs_no_request_anything() {
    let says_no = GUEST.replace(
        "(func (export \"proxy_on_vm_start\") (param i32 i32) (result i32) (i32.const 1))",
        "(func (export \"proxy_on_vm_start\") (param i32 i32) (result i32) (i32.const 0))",
    );
    let loops = GUEST.replace(
        "(param i32 i32) (result i32) (i32.const 1))",
        "(param i32 i32) (result i32) (loop $on (br $on)) (i32.const 1))",
    );
    for (code, told) in [(says_no, "proxy_on_vm_start says"), (loops, "not done within")] {
        assert_ne!(code, GUEST);
        let made = made(&code, json!({"timeout": "100ms"}));
        let all = asked(&made.pipeline, &[("a", ""); 5]);
        assert!(all.iter().all(|seen| seen.status == 503));
        let host = host(&made.pipeline);
        assert_eq!(host.starts.load(Relaxed), 1);
        assert!(host.health().unwrap().contains(told), "{:?}", host.health());
    }
    let other = made("(module (memory (export \"memory\") 1))", json!({}));
    assert!(host(&other.pipeline).health().unwrap().contains("proxy_abi_version"));
}

/// A new program takes the place of the old one while requests are between their two sides.
#[test]
fn requests_under_way_end_with_the_program_they_began_with() {
    let made = made(GUEST, json!({}));
    let newer = GUEST.replace("\"seen\"", "\"news\"");
    let other = build(&newer, json!({}), Some(&made.pipeline), &made.telemetry);
    let (old, new) = (host(&made.pipeline), host(&other));
    let told = on_worker(move || async move {
        let mut told = Vec::new();
        let mut first = request("none", "");
        let begun = old.on_its_way(&mut first).await.unwrap();
        let mut second = request("none", "");
        let after = new.on_its_way(&mut second).await.unwrap();
        for (host, visit, exchange) in [(&old, begun, &mut first), (&new, after, &mut second)] {
            exchange.respond(Response::with_status(200), Body::full("x"));
            assert!(!host.back(visit, exchange).await);
            told.push(seen(exchange).back);
        }
        told
    });
    assert_eq!(told, ["seen", "news"]);
}

/// It hears of requests only, and ends with the second one.
const HEADS_ONLY: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 1024))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (if (i32.gt_u (local.get 0) (i32.const 2)) (then unreachable))
    (i32.const 0)))"#;

/// It costs an answer nothing that a program hears nothing of answers, and a program that has ended meanwhile cannot spoil one.
#[test]
fn what_a_program_has_no_callback_for_needs_no_vm() {
    let made = made(HEADS_ONLY, json!({}));
    let host = host(&made.pipeline);
    let told = on_worker(move || async move {
        let mut first = request("", "");
        let Ok(visit) = host.on_its_way(&mut first).await else { panic!("it goes on") };
        let second = host.on_its_way(&mut request("", "")).await.err();
        first.respond(Response::with_status(200), Body::Empty);
        (second, host.back(visit, &mut first).await, seen(&first).status)
    });
    assert_eq!(told, (Some(WASM_ERROR), false, 200));
}
