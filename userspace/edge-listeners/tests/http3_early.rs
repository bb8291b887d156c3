//! Early data of HTTP/3 (0-RTT, RFC 8470), on both drivers: what is served before a client has shown to be there, what waits, and what
//! becomes of what is sent once more.
//!
//! A client that does not read can end no handshake: what is seen of its requests meanwhile was served from early data.

#[macro_use]
mod support;
#[path = "support/h3.rs"]
mod h3_client;

use base_model::{Access, AccessListSpec, GlobalFilterSpec};
use base_quic::proto::{ClientConfig, Dir};
use base_runtime::IoMode;
use edge_listeners::access_lists::Listed;
use h3_client::{Certificate, Client, bound_socket, certificate, config, get, post};
use support::{Backend, House, eventually, proxy_to};

on_both_drivers![
    safe_requests_are_served_at_once,
    others_wait_until_the_handshake_is_over,
    what_is_sent_once_more_is_not_served,
    backends_may_refuse,
    none_is_taken_unless_the_document_says_so,
];

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn house(io: IoMode, backend: &Backend) -> (House, Certificate) {
    let certificate = certificate(&["a.test"]);
    let lines = format!("http3: true\nearlyData: true\n{}", certificate.lines);
    (House::new(io, &lines, &proxy_to(backend.port)), certificate)
}

/// One that has been there: what it connects with again. A ticket comes behind the handshake, and is for one connection.
fn known(house: &House, certificate: &Certificate) -> ClientConfig {
    let config = config(&certificate.der, b"h3");
    let mut client = Client::begin(house.port, "a.test", config.clone());
    assert!(client.drive(|client| client.connected), "{:?}", client.lost);
    client.settle_in();
    assert_eq!(client.get("/first").status(), 200);
    config
}

/// One that comes back and sends this in early data, with what else it says first, and reads nothing.
fn early(house: &House, config: &ClientConfig, fields: &[(&str, &str)]) -> (Client, base_quic::proto::StreamId) {
    let mut client = Client::begin(house.port, "a.test", config.clone());
    assert!(client.connection.has_0rtt(), "it has a ticket, and the server takes early data");
    client.settle_in();
    let id = client.request(fields, b"");
    (client, id)
}

fn safe_requests_are_served_at_once(io: IoMode) {
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend);
    let config = known(&house, &certificate);
    assert_eq!(backend.seen()[0].field("early-data"), None, "a first handshake has none");
    // Once for each ticket: the connection that used one brings the next.
    for nth in 1..4 {
        let (mut client, id) = early(&house, &config, &get("/early"));
        eventually("it is served before its client has heard anything", || backend.seen().len() == nth * 2);
        let seen = backend.seen().pop().unwrap();
        assert_eq!((seen.target(), seen.field("early-data")), ("/early", Some("1")));
        assert_eq!(seen.field("host"), Some("a.test"));
        let answer = client.answer(id);
        assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"), "{answer:?} {:?}", client.lost);
        assert!(client.drive(|client| client.connected) && client.connection.accepted_0rtt());
        // The handshake is over: what comes now is nobody else's.
        assert_eq!(client.get("/later").status(), 200);
        assert_eq!(backend.seen().pop().unwrap().field("early-data"), None);
    }
    eventually("all have been counted", || house.count(200) == 7);
}

fn others_wait_until_the_handshake_is_over(io: IoMode) {
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend);
    let counts = "filters: [{name: limit, kind: RateLimiter, policies: [{name: p, limitForPeriod: 100}], \
        defaultPolicyRef: p, urls: [{url: {prefix: /}}]}, ";
    let counting = proxy_to(backend.port).replace("filters: [", counts);
    let addresses = "rules: [{paths: [{pathPrefix: /, backend: app, ipFilter: {blockIPs: [192.0.2.1]}}]}]";
    let (plain, lines) =
        (proxy_to(backend.port), format!("http3: true\nearlyData: true\nmaxHops: 8\n{}", certificate.lines));
    let denied = AccessListSpec { deny: vec!["192.0.2.0/24".parse().unwrap()], ..AccessListSpec::default() };
    let listed = |denied: Option<&AccessListSpec>| Listed { access: Access::new(denied), ..Listed::default() };
    let before: GlobalFilterSpec = spec!(&format!("beforePipeline: {{{}]}}", counts.trim_end_matches(", ")));
    house.traffic.apply_global_filter("around", &before).unwrap();
    let overrides = [&get("/waits")[..], &[("x-http-method-override", "DELETE")]].concat();
    for (what, pipeline, rules, fields) in [
        ("a method that is not safe", &plain, "", &post("/waits")[..]),
        ("a filter that counts", &counting, "", &get("/waits")[..]),
        ("a rule that goes by addresses", &plain, addresses, &get("/waits")[..]),
        ("an address that others say", &plain, "trustedProxies: [192.0.2.1]", &get("/waits")[..]),
        ("an AccessList", &plain, "", &get("/waits")[..]),
        ("a GlobalFilter that counts", &plain, "globalFilter: around", &get("/waits")[..]),
        ("another method than it says", &plain, "", &overrides[..]),
        (
            "a tunnel",
            &plain,
            "",
            &[&[(":method", "CONNECT"), (":protocol", "websocket")], &get("/waits")[1..]].concat(),
        ),
    ] {
        house.pipeline("app", &plain);
        house.server(&lines);
        let config = known(&house, &certificate);
        house.pipeline("app", pipeline);
        house.server(&format!("{lines}{rules}"));
        house.traffic.set_access_lists(listed((what == "an AccessList").then_some(&denied)));
        let (waited, seen) = (base_quic::stats::total(base_quic::stats::Count::EarlyWaited), backend.seen().len());
        let (mut client, id) = early(&house, &config, fields);
        eventually(what, || base_quic::stats::total(base_quic::stats::Count::EarlyWaited) > waited);
        assert_eq!(backend.seen().len(), seen, "{what}: nothing of it goes on");
        let answer = client.answer(id);
        assert!([200, 502].contains(&answer.status()), "{what}: {answer:?} {:?}", client.lost);
        let seen = backend.seen().pop().unwrap();
        assert_eq!((seen.target(), seen.field("early-data")), ("/waits", None), "{what}");
    }
    house.pipeline("app", &plain);
    house.server(&lines);
    // One with a body comes whole.
    let config = known(&house, &certificate);
    let mut client = Client::begin(house.port, "a.test", config);
    client.settle_in();
    let id = client.request(&post("/waits"), b"all of it");
    let answer = client.answer(id);
    assert!(client.connection.has_0rtt() && answer.status() == 200, "{answer:?}");
    assert_eq!(backend.seen().pop().unwrap().text(), "all of it");
    drop(client);
    // One that never ends its handshake leaves nothing behind.
    let config = known(&house, &certificate);
    let (waited, count) = (base_quic::stats::total(base_quic::stats::Count::EarlyWaited), backend.seen().len());
    let (client, _) = early(&house, &config, &post("/given-up"));
    eventually("it waits", || base_quic::stats::total(base_quic::stats::Count::EarlyWaited) > waited);
    house.server(&certificate.lines);
    drop(client);
    eventually("it is gone", || house.traffic.connections() == 0);
    assert_eq!(backend.seen().len(), count);
}

fn what_is_sent_once_more_is_not_served(io: IoMode) {
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend);
    let config = known(&house, &certificate);
    let (mut client, id) = early(&house, &config, &get("/once"));
    let flight = client.sent.clone();
    assert_eq!(client.answer(id).status(), 200);
    drop(client);
    eventually("its connection is gone", || house.traffic.connections() == 0);
    let once = backend.seen().len();
    // Whoever has seen it sends the same from elsewhere, to a server that does not know the connection any more.
    let thief = bound_socket();
    thief.set_read_timeout(Some(support::PATIENCE)).unwrap();
    for datagram in &flight {
        thief.send_to(datagram, ("127.0.0.1", house.port)).unwrap();
    }
    let mut answer = [0; 2048];
    assert!(thief.recv(&mut answer).is_ok(), "it is answered with a handshake that nobody can end");
    // Whatever its second bit says (RFC 9287).
    assert_eq!(answer[0] & 0xb0, 0x80, "a first packet (RFC 9000 section 17.2.2)");
    // Who comes behind it and is served through a handshake of its own is seen first: all that was sent before has been read by then.
    let mut behind = Client::connect(house.port, &certificate);
    for nth in 1..4 {
        assert_eq!(behind.get("/behind").status(), 200);
        let seen = backend.seen();
        assert!(seen.len() == once + nth && seen[once..].iter().all(|seen| seen.target() == "/behind"), "{seen:?}");
    }
}

fn backends_may_refuse(io: IoMode) {
    let backend = Backend::recording(|message| match message.field("early-data") {
        Some("1") => b"HTTP/1.1 425 Too Early\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => OK.as_bytes().to_vec(),
    });
    let (house, certificate) = house(io, &backend);
    let config = known(&house, &certificate);
    let (mut client, id) = early(&house, &config, &get("/"));
    eventually("it is asked", || backend.seen().len() == 2);
    assert_eq!(client.answer(id).status(), 425);
    assert!(client.drive(|client| client.connected));
    assert_eq!(client.get("/").status(), 200);
}

fn none_is_taken_unless_the_document_says_so(io: IoMode) {
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend);
    let taken = known(&house, &certificate);
    house.server(&format!("http3: true\n{}", certificate.lines));
    let not_offered = known(&house, &certificate);
    let client = Client::begin(house.port, "a.test", not_offered);
    assert!(!client.connection.has_0rtt(), "a ticket of now is not for early data");
    drop(client);
    // One of before is not believed; what was sent early is sent again.
    let (mut client, id) = early(&house, &taken, &get("/again"));
    assert!(client.drive(|client| client.connected) && !client.connection.accepted_0rtt());
    assert_eq!(client.so_far(id).status(), 0);
    let control = client.open(Dir::Uni);
    client.send(control, &[0, 4, 0], false);
    assert_eq!(client.get("/again").status(), 200);
    assert_eq!(backend.seen().pop().unwrap().field("early-data"), None);
}
