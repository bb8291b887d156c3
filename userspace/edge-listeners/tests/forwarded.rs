//! Who is behind a proxy, and what the next one is told of it.

#[macro_use]
mod support;

use base_runtime::IoMode;
use support::{Backend, House, proxy_to};

on_both_drivers![the_last_hop_is_the_peer, hops_as_producers_write_them, an_unknown_client_is_nobody];

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A client that names its own address in its list must not be spared the end of it.
fn the_last_hop_is_the_peer(io: IoMode) {
    let backend = Backend::answering(OK);
    let set = "setHeaders: {X-Added: '$proxy_add_x_forwarded_for'}";
    let server = |more: &str, set: &str| {
        format!("xForwardedFor: true\n{more}\nrules: [{{paths: [{{pathPrefix: /, backend: app, {set}}}]}}]")
    };
    let house = House::new(io, &server("", set), &proxy_to(backend.port));
    let list = |fields: &str| {
        let fields: String = fields.split('|').map(|value| format!("X-Forwarded-For: {value}\r\n")).collect();
        assert_eq!(house.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).status(), 200);
        let seen = backend.seen().pop().unwrap();
        assert_eq!(seen.head.to_lowercase().matches("\r\nx-forwarded-for:").count(), 1, "{}", seen.head);
        (seen.field("x-forwarded-for").unwrap().to_owned(), seen.field("x-added").unwrap().to_owned())
    };
    for trusted in ["", "trustedProxies: [127.0.0.0/8]"] {
        house.server(&server(trusted, set));
        for (sent, expected) in [
            ("127.0.0.1, 6.6.6.6", "127.0.0.1, 6.6.6.6,127.0.0.1"),
            ("127.0.0.1", "127.0.0.1,127.0.0.1"),
            ("9.9.9.9", "9.9.9.9,127.0.0.1"),
            ("127.0.0.1|6.6.6.6", "127.0.0.1,6.6.6.6,127.0.0.1"),
            ("6.6.6.6||7.7.7.7, ", "6.6.6.6,7.7.7.7,127.0.0.1"),
            ("", "127.0.0.1"),
            (", ,", "127.0.0.1"),
        ] {
            let (list, added) = list(sent);
            assert_eq!(list, expected, "{sent} {trusted}");
            assert_eq!(added.replace(", ", ","), expected.replace(", ", ","), "{sent} {trusted}");
        }
    }
    // Who asks for it twice gets it once.
    house.server(&server("", "setHeaders: {x-forwarded-for: '$proxy_add_x_forwarded_for'}"));
    assert_eq!(house.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n").status(), 200);
    assert_eq!(backend.seen().pop().unwrap().field("x-forwarded-for"), Some("9.9.9.9, 127.0.0.1"));
}

fn hops_as_producers_write_them(io: IoMode) {
    let backend = Backend::answering(OK);
    let rules = "trustedProxies: [127.0.0.1, 10.0.0.0/8, '2001:db8:ffff::/48']\n\
        rules: [{paths: [{pathPrefix: /, backend: app, setHeaders: {X-Client: '$remote_addr', X-Scheme: '$scheme'}}]}]";
    let house = House::new(io, rules, &proxy_to(backend.port));
    let client = |fields: &str| {
        assert_eq!(house.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).status(), 200);
        backend.seen().pop().unwrap().field("x-client").unwrap_or_default().to_owned()
    };
    for (sent, expected) in [
        ("203.0.113.7:5555", "203.0.113.7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("[::ffff:203.0.113.7]:80, 10.1.1.1:80", "203.0.113.7"),
        ("\"[2001:db8::7]:4711\"", "2001:db8::7"),
        ("6.6.6.6, 203.0.113.7, [2001:db8:ffff::1]:1", "203.0.113.7"),
        ("203.0.113.7, , 10.0.0.1 ,", "203.0.113.7"),
        ("203.0.113.7, 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2", "203.0.113.7"),
        ("10.0.0.1, 10.0.0.2", "10.0.0.1"),
        ("unknown", "unknown"),
        ("203.0.113.7, _hidden", "unknown"),
        ("203.0.113.7, junk, 10.0.0.1", "unknown"),
        ("203.0.113.7, \u{fc}", "unknown"),
        ("203.0.113.7:port", "unknown"),
        ("203.0.113.7:70000", "unknown"),
        ("[203.0.113.7]", "unknown"),
        ("[2001:db8::7", "unknown"),
        ("\"203.0.113.7", "unknown"),
        ("", "127.0.0.1"),
    ] {
        assert_eq!(client(&format!("X-Forwarded-For: {sent}\r\n")), expected, "{sent}");
    }
    assert!(house.limit("client_unknown") > 0);
    // What else such a peer says, where it says nothing of hops.
    assert_eq!(client(""), "127.0.0.1");
    assert_eq!(client("X-Real-IP: 203.0.113.8\r\n"), "203.0.113.8");
    assert_eq!(client("X-Real-IP: 6.6.6.6\r\nX-Forwarded-For: 203.0.113.7\r\n"), "203.0.113.7");
    assert_eq!(client("X-Real-IP: junk\r\n"), "unknown");
    for (said, expected) in [("https", "https"), ("HTTPS", "https"), ("http", "http"), ("gopher", "http")] {
        client(&format!("X-Forwarded-Proto: {said}\r\n"));
        assert_eq!(backend.seen().pop().unwrap().field("x-scheme"), Some(expected));
    }
    // From anybody else none of it is believed.
    house.server(&rules.replace("127.0.0.1, 10", "10"));
    assert_eq!(
        client("X-Forwarded-For: 203.0.113.7\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n"),
        "127.0.0.1"
    );
    assert_eq!(backend.seen().pop().unwrap().field("x-scheme"), Some("http"));
}

/// A hop that says nothing must open no door, and close none of those that stand open for everybody.
fn an_unknown_client_is_nobody(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = House::new(io, "", &proxy_to(backend.port));
    for (filter, unknown, known) in [
        ("{allowIPs: [127.0.0.0/8]}", 403, 403),
        ("{allowIPs: [0.0.0.0/0, '::/0']}", 403, 200),
        ("{blockIPs: [203.0.113.0/24]}", 403, 403),
        ("{blockIPs: [198.51.100.0/24]}", 403, 200),
        ("{blockByDefault: true}", 403, 403),
        ("{blockByDefault: false}", 200, 200),
    ] {
        house.server(&format!("trustedProxies: [127.0.0.1]\nipFilter: {filter}"));
        let ask =
            |hop: &str| house.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {hop}\r\n\r\n")).status();
        assert_eq!((ask("unknown"), ask("203.0.113.7:5555")), (unknown, known), "{filter}");
    }
}
