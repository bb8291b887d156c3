//! An HTTPServer whose clients come through proxies that say who they are.

#[macro_use]
mod support;

use base_runtime::IoMode;
use proto_proxy::{tlv, v1, v2};
use std::time::Duration;
use support::{Backend, House, eventually, proxy_to, short_timeouts};

on_both_drivers![
    the_client_is_whom_the_header_names,
    trusted_proxies_must_say_and_nobody_else_may,
    what_follows_a_header_is_read_as_ever,
    servers_are_told_and_connections_are_of_one_client,
];

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const RULES: &str = "rules: [{paths: [{pathPrefix: /, backend: app, setHeaders: {X-Client: '$remote_addr'}}]}]";

fn line(client: &str) -> Vec<u8> {
    let mut line = Vec::new();
    v1::write(Some((client.parse().unwrap(), "198.51.100.1:80".parse().unwrap())), &mut line);
    line
}

fn block(client: &str) -> Vec<u8> {
    let to = "198.51.100.1:80".parse().unwrap();
    v2::Writer::proxy(proto_proxy::Transport::Stream, client.parse().unwrap(), to)
        .with(tlv::UNIQUE_ID, b"id")
        .finish_checked()
}

fn the_client_is_whom_the_header_names(io: IoMode) {
    let backend = Backend::answering(OK);
    let lines = format!(
        "proxyProtocol: accept\nxForwardedFor: true\nipFilter: {{blockIPs: [192.0.2.66]}}\ntrustedProxies: [127.0.0.1, 192.0.2.10]\n{RULES}"
    );
    let house = House::new(io, &lines, &proxy_to(backend.port));
    let ask = |header: &[u8], fields: &str| {
        let mut client = house.connect();
        client.send(&[header, format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()].concat());
        let status = client.answer().status();
        let seen = backend.seen().pop();
        let field = |name: &str| seen.as_ref().and_then(|s| s.field(name)).unwrap_or_default().to_owned();
        (status, field("x-client"), field("x-forwarded-for"))
    };
    let told = |status, client: &str, list: &str| (status, client.to_owned(), list.to_owned());
    assert_eq!(ask(&line("192.0.2.1:5000"), ""), told(200, "192.0.2.1", "192.0.2.1"));
    assert_eq!(ask(&block("[2001:db8::1]:5000"), ""), told(200, "2001:db8::1", "2001:db8::1"));
    // What it names is trusted for itself, not for the one who spoke for it.
    assert_eq!(ask(&line("192.0.2.1:1"), "X-Forwarded-For: 6.6.6.6\r\n"), told(200, "192.0.2.1", "6.6.6.6,192.0.2.1"));
    let behind = ask(&line("192.0.2.10:1"), "X-Forwarded-For: 6.6.6.6\r\n");
    assert_eq!(behind, told(200, "6.6.6.6", "6.6.6.6,192.0.2.10"));
    assert_eq!(ask(&v2::Writer::local().finish(), "").1, "127.0.0.1", "the proxy's own connection");
    let before = backend.seen().len();
    assert_eq!(ask(&line("192.0.2.66:1"), "").0, 403);
    assert_eq!(backend.seen().len(), before);
}

fn trusted_proxies_must_say_and_nobody_else_may(io: IoMode) {
    let backend = Backend::answering(OK);
    let accept = |trusted: &str| format!("proxyProtocol: accept\ntrustedProxies: [{trusted}]\n{RULES}");
    let house = House::with_timeouts(io, &accept("127.0.0.1"), &proxy_to(backend.port), short_timeouts());
    for (bytes, bound) in [
        (GET.as_bytes().to_vec(), "proxy_missing"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n".to_vec(), "proxy_malformed"),
        ([&line("192.0.2.1:1")[..10], &[b'x'; 200]].concat(), "proxy_malformed"),
    ] {
        let before = house.limit(bound);
        let mut client = house.connect();
        client.send(&bytes);
        assert!(client.ends(), "{bound}");
        eventually(bound, || house.limit(bound) == before + 1);
    }
    house.server(&accept("192.0.2.1"));
    assert_eq!(house.ask(GET).status(), 200, "who says nothing is who it is");
    assert_eq!(backend.seen().pop().unwrap().field("x-client"), Some("127.0.0.1"));
    for header in [line("192.0.2.9:1"), block("192.0.2.9:1")] {
        let mut client = house.connect();
        client.send(&header[..5]);
        std::thread::sleep(Duration::from_millis(20));
        client.send(&[&header[5..], GET.as_bytes()].concat());
        assert!(client.ends());
    }
    eventually("both are counted", || house.limit("proxy_untrusted") == 2);
    assert_eq!(backend.seen().len(), 1);
    // Without it a header is what any other bytes are.
    house.server(RULES);
    let mut client = house.connect();
    client.send(&[&line("192.0.2.1:1")[..], GET.as_bytes()].concat());
    assert_eq!(client.answer().status(), 400);
}

fn what_follows_a_header_is_read_as_ever(io: IoMode) {
    let backend = Backend::answering(OK);
    let accept = format!("proxyProtocol: accept\ntrustedProxies: [127.0.0.1]\nh2c: true\n{RULES}");
    let house = House::new(io, &accept, &proxy_to(backend.port));
    let mut client = house.connect();
    let header = block("192.0.2.1:1");
    for byte in &header {
        client.send(&[*byte]);
    }
    for n in 0..3 {
        client.send(GET.as_bytes());
        assert_eq!(client.answer().status(), 200, "{n}");
    }
    // A second header is no header.
    client.send(&header);
    assert!(client.head().is_none_or(|head| head.starts_with("HTTP/1.1 400")));
    assert_eq!(backend.seen().len(), 3);
}

/// Servers that say of each connection how it began, and of each request on it which one it was.
fn introduced_server() -> Backend {
    Backend::new(|mut wire, _| {
        while wire.read.len() < 16 {
            if !wire.more() {
                return;
            }
        }
        let (header, length) = loop {
            match proto_proxy::read(&wire.read) {
                Ok(Some((header, length))) => break (header.addresses, length),
                Ok(None) => assert!(wire.more()),
                Err(error) => panic!("{error}"),
            }
        };
        wire.read.drain(..length);
        let client = header.client().map_or_else(|| "nobody".to_owned(), |client| client.to_string());
        let to = match header {
            proto_proxy::Addresses::Inet { destination, .. } => destination.to_string(),
            _ => String::new(),
        };
        for nth in 1.. {
            if wire.message().is_none() {
                return;
            }
            let body = format!("{client} {to} {nth}");
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        }
    })
}

fn servers_are_told_and_connections_are_of_one_client(io: IoMode) {
    let backend = introduced_server();
    for version in ["v1", "v2"] {
        let pool = format!("{{proxyProtocol: {version}, servers: [{{url: 'http://127.0.0.1:{}'}}]}}", backend.port);
        let pipeline = format!("filters: [{{name: p, kind: Proxy, pools: [{pool}]}}]");
        let house = House::new(io, "", &pipeline);
        let before = backend.connections();
        let (mut one, mut two) = (house.connect(), house.connect());
        for nth in 1..=3 {
            for client in [&mut one, &mut two] {
                client.send(GET.as_bytes());
                let (from, to) = (client.stream.local_addr().unwrap(), client.peer());
                assert_eq!(client.answer().text(), format!("{from} {to} {nth}"), "{version}");
            }
        }
        assert_eq!(backend.connections() - before, 2, "one of each");
        // A new client never finds what another one has left.
        drop((one, two));
        let mut three = house.connect();
        three.send(GET.as_bytes());
        assert!(three.answer().text().ends_with(" 1"));
    }
    // Whom a trusted proxy names, however it says so.
    let pool = format!("{{proxyProtocol: v2, servers: [{{url: 'http://127.0.0.1:{}'}}]}}", backend.port);
    let pipeline = format!("filters: [{{name: p, kind: Proxy, pools: [{pool}]}}]");
    let house = House::new(io, &format!("trustedProxies: [127.0.0.1]\n{RULES}"), &pipeline);
    let named = house.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n").text();
    assert!(named.starts_with("192.0.2.7:0 127.0.0.1:"), "{named}");
    let nobody = house.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: unknown\r\n\r\n").text();
    assert!(nobody.starts_with("nobody "), "{nobody}");
    house.server(&format!("proxyProtocol: accept\ntrustedProxies: [127.0.0.1]\n{RULES}"));
    let mut client = house.connect();
    client.send(&[&line("192.0.2.1:5000")[..], GET.as_bytes()].concat());
    let text = client.answer().text();
    assert!(text.starts_with("192.0.2.1:5000 127.0.0.1:"), "{text}");
}
