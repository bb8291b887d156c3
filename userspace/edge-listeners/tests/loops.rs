//! Servers that have each other as backends: a request goes round between them so many times, and no more, in any version of HTTP.

#[macro_use]
mod support;
#[path = "support/h2.rs"]
mod h2_client;
#[path = "support/h3.rs"]
mod h3_client;

use base_runtime::IoMode;
use h3_client::certificate;
use support::{Backend, House, eventually, free_port, proxy_to};

on_both_drivers![
    what_goes_round_over_http1_ends,
    what_goes_round_over_http2_ends,
    what_goes_round_over_http3_ends,
    what_asks_because_of_a_request_goes_round_with_it,
    questions_about_tokens_do_not_go_round,
    calls_of_grpc_go_round_as_often_as_their_server_says,
    only_what_comes_back_is_counted,
];

const ASKS: &str = "GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n";
const OPENS: &str = "GET /a HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The usual bound, and the request that a client has sent.
const PASSES: u64 = 8 + 1;

fn what_goes_round_over_http1_ends(io: IoMode) {
    let house = House::new(io, "", &proxy_to(free_port()));
    house.pipeline("app", &proxy_to(house.port));
    goes_round(&house, PASSES);
    // As few times as the document says, whatever else a request says of itself.
    house.server("maxHops: 1\nrules: [{paths: [{pathPrefix: /, backend: app, setHeaders: {CDN-Loop: ''}}]}]");
    let before = house.count(508);
    let answer = house.ask("GET /a HTTP/1.1\r\nHost: a.test\r\nCDN-Loop: other; v=1, another\r\n\r\n");
    assert_eq!(answer.status(), 508, "taking the field out of what came does not take out what is passed on");
    eventually("all are counted", || house.count(508) >= before + 2);
}

fn what_goes_round_over_http2_ends(io: IoMode) {
    let house = House::new(io, "h2c: true", &proxy_to(free_port()));
    house.pipeline("app", &proxy_to(house.port).replace("pools: [{", "pools: [{http2: true, "));
    goes_round(&house, PASSES);
}

fn what_goes_round_over_http3_ends(io: IoMode) {
    let certificate = certificate(&["127.0.0.1"]);
    let back = House::new(io, "", &proxy_to(free_port()));
    back.server(&format!("http3: true\nhttp3Only: true\n{}", certificate.lines));
    let root = serde_json::Value::from(certificate.pem.clone());
    let round = format!(
        "filters: [{{name: p, kind: Proxy, mtls: {{rootCertBase64: {root}}}, pools: [{{http3: true, servers: [{{url: \
         'https://127.0.0.1:{}'}}]}}]}}]",
        back.port
    );
    back.pipeline("app", &round);
    let front = House::new(io, "", &round);
    for asks in [ASKS, OPENS] {
        let before = back.limit("http_loop");
        assert_eq!(front.ask(asks).status(), 508, "{asks}");
        eventually("it is counted once", || back.limit("http_loop") == before + 1);
    }
    eventually("all are counted", || back.count(508) == 2 * PASSES);
}

/// One request of a client is so many, the last of which is refused.
fn goes_round(house: &House, passes: u64) {
    for (nth, asks) in [ASKS, OPENS].into_iter().enumerate() {
        let answer = house.ask(asks);
        assert_eq!(answer.status(), 508, "{answer:?}");
        eventually("it is counted once", || house.limit("http_loop") == nth as u64 + 1);
        eventually("all are counted", || house.count(508) == (passes + 1) * (nth as u64 + 1));
    }
}

fn what_asks_because_of_a_request_goes_round_with_it(io: IoMode) {
    let port = free_port();
    for filter in [
        format!("kind: ForwardAuth, url: 'http://127.0.0.1:{port}/', requestHeaders: [Cookie]"),
        format!("kind: RemoteFilter, url: 'http://127.0.0.1:{port}/'"),
        "kind: RequestBuilder, template: '{method: GET, url: /made}'".to_owned(),
    ] {
        let filters = proxy_to(port).replace("filters: [", &format!("filters: [{{name: asks, {filter}}}, "));
        let house = House::at(port, 1, io, "maxHops: 3", &filters, Default::default(), edge_filters::kind);
        let answer = house.ask(ASKS);
        assert!(answer.status() >= 400, "{filter}: {answer:?}");
        eventually("the last one was refused", || house.limit("http_loop") == 1 && house.count(508) >= 1);
    }
}

/// They are no request's alone, and carry no mark: whoever is asked finds no token in them, and asks nobody.
fn questions_about_tokens_do_not_go_round(io: IoMode) {
    let port = free_port();
    let asks = format!("kind: Validator, oauth2: {{tokenIntrospect: {{endPoint: 'http://127.0.0.1:{port}/'}}}}");
    let filters = proxy_to(port).replace("filters: [", &format!("filters: [{{name: asks, {asks}}}, "));
    let house = House::at(port, 1, io, "", &filters, Default::default(), edge_filters::kind);
    let answer = house.ask("GET /a HTTP/1.1\r\nHost: a.test\r\nAuthorization: Bearer t\r\n\r\n");
    assert_eq!(answer.status(), 500, "{answer:?}");
    eventually("the question was answered once", || house.count(401) == 1 && house.count(500) == 1);
    assert_eq!(house.limit("http_loop"), 0);
}

fn calls_of_grpc_go_round_as_often_as_their_server_says(io: IoMode) {
    let house = House::new(io, "", &proxy_to(free_port()));
    let port = free_port();
    house.pipeline("app", &proxy_to(port).replace("pools: [{", "pools: [{http2: true, "));
    let rules = "rules: [{methods: [{methodPrefix: /, backend: app}]}]";
    for (hops, passes) in [("", PASSES), ("maxHops: 2,", 3)] {
        let text = format!("{{address: 127.0.0.1, port: {port}, {hops} {rules}}}");
        let spec: base_model::GrpcServerSpec = spec!(&text);
        house.traffic.apply_listener("g", &base_model::Spec::GrpcServer(Box::new(spec))).expect("a good server");
        let before = house.limit("http_loop");
        let served = || house.telemetry.render(base_telemetry::Names::default());
        let calls = |text: &str| {
            let name = "weir_requests_by_protocol_total{server=\"g\",protocol=\"HTTP/2\"}";
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        let were = calls(&served());
        let mut raw = h2_client::Raw::new(port);
        raw.send(&h2_client::frame(1, 4 | 1, 1, &h2_client::get_block("/s.S/M")));
        eventually("it is counted once", || house.limit("http_loop") == before + 1);
        eventually("all were served", || calls(&served()) == were + passes + 1);
    }
}

fn only_what_comes_back_is_counted(io: IoMode) {
    let backend = Backend::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let house = House::new(io, "", &proxy_to(backend.port));
    assert_eq!(house.ask(ASKS).status(), 200);
    let mark = backend.seen()[0].field("cdn-loop").map(str::to_owned).expect("what is passed on is marked");
    assert!(mark.starts_with("weir-"), "{mark}");
    // Of others there may be any number, and of ours so many.
    let asks = |line: &str| format!("GET / HTTP/1.1\r\nHost: a\r\nCDN-Loop: {line}\r\n\r\n");
    let times = |name: &str, times| vec![name; times].join(", ");
    assert_eq!(house.ask(&asks(&times("weir-of-others", 40))).status(), 200);
    assert_eq!(house.ask(&asks(&times(&mark, 8))).status(), 200);
    assert_eq!(house.ask(&asks(&times(&mark, 9))).status(), 508);
    assert_eq!(house.limit("http_loop"), 1);
    // What others have said stays.
    let lines = backend.seen().pop().unwrap().head.lines().filter(|line| line.starts_with("CDN-Loop: ")).count();
    assert_eq!(lines, 2);
    // Where nobody looks, nothing is said.
    house.server("maxHops: 0");
    assert_eq!(house.ask(ASKS).status(), 200);
    assert_eq!(backend.seen().pop().unwrap().field("cdn-loop"), None);
    assert_eq!(house.ask(&asks(&times(&mark, 9))).status(), 200);
}
