//! HTTP/3 on both drivers: requests and answers of every shape, what ends them, and what happens to connections meanwhile.

#[macro_use]
mod support;
#[path = "support/h3.rs"]
mod h3_client;

use base_model::Protocol;
use base_quic::proto::Dir;
use base_runtime::IoMode;
use base_runtime::net::inherited::{self, SocketKind};
use base_tls::TicketKey;
use edge_listeners::Timeouts;
use h3_client::{Certificate, Client, any_frame, bound_socket, certificate, config, data, get, head, post};
use std::net::UdpSocket;
use std::time::Duration;
use support::{Backend, House, eventually, proxy_to, short_timeouts};

on_both_drivers![
    requests_are_served,
    many_at_once,
    bodies_pass_both_ways,
    trailers_and_interim_answers_pass,
    tcp_tells_of_it,
    connections_survive_other_certificates,
    a_client_whose_address_changes_keeps_its_connection,
    who_a_client_is_its_handshake_has_shown,
    an_answer_on_its_way_is_not_cut_by_a_stop,
    every_worker_finds_its_connections,
    a_server_that_stops_says_so_and_ends_what_has_begun,
    requests_for_somebody_else_are_misdirected,
    heads_that_break_the_rules,
    bodies_that_are_not_as_long_as_announced,
    what_breaks_the_protocol_ends_the_connection,
    answers_that_are_given_up,
    websockets_pass,
    websockets_go_on_over_streams_to_a_backend,
    a_port_in_use_is_told_and_tried_again,
    it_is_turned_on_and_off,
    a_port_is_taken_over_while_old_connections_live,
    old_connections_live_on_when_those_that_took_over_have_stopped,
    old_connections_live_on_when_keys_have_changed,
    one_connection_outlives_many_that_took_over,
    a_client_that_moves_is_heard_by_a_server_that_stops,
    who_takes_the_place_of_a_process_passes_on_what_is_for_its_connections,
    a_process_of_fewer_workers_hears_all_that_comes,
    handshakes_under_way_end_well_where_another_process_takes_over,
    idle_connections_end,
    only_http3_is_agreed_on,
];

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const MESSAGE_ERROR: u64 = 0x10e;

fn house_with(io: IoMode, backend: &Backend, lines: &str) -> (House, Certificate) {
    let certificate = certificate(&["a.test", "b.test"]);
    let lines = format!("http3: true\n{}{lines}", certificate.lines);
    (House::new(io, &lines, &proxy_to(backend.port)), certificate)
}

fn house(io: IoMode, backend: &Backend) -> (House, Certificate) {
    house_with(io, backend, "clientMaxBodySize: -1")
}

/// Answers with what it was sent.
fn echo() -> Backend {
    Backend::recording(|message| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nX-Target: {}\r\nContent-Length: {}\r\n\r\n",
            message.target(),
            message.body.len()
        );
        [head.as_bytes(), &message.body].concat()
    })
}

fn requests_are_served(io: IoMode) {
    let backend = echo();
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect(house.port, &certificate);
    let answer = client.get("/a%20b?c=d");
    assert_eq!(
        (answer.status(), answer.field("x-target"), answer.ended),
        (200, Some("/a%20b?c=d"), true),
        "{answer:?}"
    );
    assert!(answer.field("date").is_some());
    let id = client.request(&post("/"), b"hello");
    let answer = client.answer(id);
    assert_eq!((answer.status(), answer.text().as_str(), answer.field("content-length")), (200, "hello", Some("5")));
    let id = client.request(&[&[(":method", "HEAD")], &get("/")[1..]].concat(), b"");
    let answer = client.answer(id);
    assert_eq!((answer.status(), answer.body.len(), answer.ended), (200, 0, true));
    let seen = &backend.seen()[0];
    assert_eq!((seen.field("host"), seen.target()), (Some("a.test"), "/a%20b?c=d"));
    let counted = "weir_requests_by_protocol_total{server=\"web\",protocol=\"HTTP/3\"} 3";
    eventually(counted, || house.telemetry.render(base_telemetry::Names::default()).contains(counted));
    assert_eq!(house.traffic.connections(), 1);
    // Cookies that came as crumbs are one field.
    let id = client.request(&[&get("/")[..], &[("cookie", "a=1"), ("cookie", "b=2")]].concat(), b"");
    assert_eq!(client.answer(id).status(), 200);
    assert_eq!(backend.seen()[3].field("cookie"), Some("a=1; b=2"));
}

fn many_at_once(io: IoMode) {
    let backend = echo();
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect(house.port, &certificate);
    let requests: Vec<_> =
        (0..300).map(|n| (n, client.request(&post(&format!("/{n}")), &vec![n as u8; n * 7]))).collect();
    for (n, id) in requests {
        let answer = client.answer(id);
        assert_eq!((answer.status(), answer.body.len()), (200, n * 7), "{n}: {answer:?}");
        assert_eq!(answer.field("x-target"), Some(format!("/{n}").as_str()));
    }
    eventually("counted", || house.count(200) == 300);
}

fn bodies_pass_both_ways(io: IoMode) {
    let backend = echo();
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect(house.port, &certificate);
    let body: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let id = client.request(&post("/"), &body);
    let answer = client.answer(id);
    assert!(answer.status() == 200 && answer.body == body, "{} of {}", answer.body.len(), body.len());
    // In small pieces, with frames between that nobody knows, and without a length.
    let id = client.open(Dir::Bi);
    client.send(id, &head(&post("/")), false);
    for piece in body[..20_000].chunks(777) {
        client.send(id, &[any_frame(0x21, b"grease"), data(piece)].concat(), false);
    }
    client.send(id, b"", true);
    let answer = client.answer(id);
    assert!(answer.status() == 200 && answer.body == body[..20_000], "{answer:?}");
    // A limit of the document.
    let id = client.request(&[&post("/")[..], &[("content-length", "9")]].concat(), b"123456789");
    assert_eq!(client.answer(id).text(), "123456789");
    let lines = format!("http3: true\n{}clientMaxBodySize: 100", certificate.lines);
    house.server(&lines);
    let id = client.request(&post("/"), &[0; 101]);
    assert_eq!(client.answer(id).status(), 413);
}

fn trailers_and_interim_answers_pass(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        while let Some(message) = wire.message() {
            let _ = message;
            wire.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
            wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n");
        }
    });
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect(house.port, &certificate);
    let id = client.open(Dir::Bi);
    client.send(id, &[head(&post("/")), data(b"body"), head(&[("x-trailer", "t")])].concat(), true);
    let answer = client.answer(id);
    assert_eq!((answer.status(), answer.text().as_str()), (200, "hi"));
    assert_eq!(answer.heads.len(), 3, "{answer:?}");
    assert_eq!(answer.heads[0], [(":status".to_owned(), "103".to_owned()), ("link".to_owned(), "</a>".to_owned())]);
    assert_eq!(answer.heads[2], [("x-sum".to_owned(), "7".to_owned())]);
    drop(house);
}

fn tcp_tells_of_it(io: IoMode) {
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect(house.port, &certificate);
    assert_eq!(client.get("/").field("alt-svc"), None, "who speaks it need not be told");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.der.clone()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let ask = || {
        use std::io::{Read, Write};
        let name = rustls::pki_types::ServerName::try_from("a.test").unwrap();
        let side = rustls::ClientConnection::new(std::sync::Arc::new(tls.clone()), name).unwrap();
        let socket = std::net::TcpStream::connect(("127.0.0.1", house.port)).unwrap();
        let mut stream = rustls::StreamOwned::new(side, socket);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text.to_lowercase()
    };
    let expected = format!("alt-svc: h3=\":{}\"; ma=86400\r\n", house.port);
    let said = ask();
    assert!(said.contains(&expected), "{said}");
    house.server(&certificate.lines);
    let said = ask();
    assert!(said.starts_with("http/1.1 200") && !said.contains("alt-svc"), "{said}");
}

fn connections_survive_other_certificates(io: IoMode) {
    let backend = Backend::answering(OK);
    let (house, first) = house(io, &backend);
    let mut client = Client::connect(house.port, &first);
    assert_eq!(client.get("/").status(), 200);
    let second = certificate(&["a.test"]);
    house.server(&format!("http3: true\n{}", second.lines));
    assert_eq!(client.get("/").status(), 200, "{:?}", client.lost);
    let mut other = Client::connect(house.port, &second);
    assert_eq!(other.get("/").status(), 200);
    let mut old = Client::begin(house.port, "a.test", config(&first.der, b"h3"));
    assert!(!old.drive(|client| client.connected || client.lost.is_some()) || old.lost.is_some());
}

fn a_client_whose_address_changes_keeps_its_connection(io: IoMode) {
    let backend = echo();
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect(house.port, &certificate);
    assert_eq!(client.get("/").status(), 200);
    let before = base_quic::stats::total(base_quic::stats::Count::Migrated);
    // A request begun before, its body sent from elsewhere.
    let id = client.open(Dir::Bi);
    client.send(id, &[head(&post("/")), data(b"one ")].concat(), false);
    client.drive_for(Duration::from_millis(50), |_| false);
    client.socket = bound_socket();
    client.send(id, &data(b"two"), true);
    let answer = client.answer(id);
    assert_eq!((answer.status(), answer.text().as_str()), (200, "one two"), "{:?}", client.lost);
    assert_eq!(client.get("/").status(), 200);
    assert!(base_quic::stats::total(base_quic::stats::Count::Migrated) > before);
    assert_eq!(house.traffic.connections(), 1);
}

/// A datagram's source can be forged; one that comes from an address that is let in makes nobody else of its sender.
fn who_a_client_is_its_handshake_has_shown(io: IoMode) {
    let backend = Backend::answering(OK);
    let certificate = certificate(&["a.test"]);
    let filter = "ipFilter: {blockByDefault: true, allowIPs: [127.0.0.9]}";
    let house = House::new(io, &format!("http3: true\n{filter}\n{}", certificate.lines), &proxy_to(backend.port));
    let mut client = Client::connect(house.port, &certificate);
    assert_eq!(client.get("/").status(), 403);
    let elsewhere = UdpSocket::bind("127.0.0.9:0").unwrap();
    elsewhere.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    client.socket = elsewhere;
    assert_eq!((client.get("/").status(), backend.connections()), (403, 0), "{:?}", client.lost);
}

/// What QUIC holds until the client has room for it is sent, whatever the server does meanwhile.
fn an_answer_on_its_way_is_not_cut_by_a_stop(io: IoMode) {
    let body = "x".repeat(400_000);
    let backend = Backend::answering(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).leak());
    let certificate = certificate(&["a.test"]);
    let lines = format!("http3: true\n{}", certificate.lines);
    let timeouts = Timeouts { linger: Duration::from_millis(200), ..Timeouts::default() };
    let house = House::with_timeouts(io, &lines, &proxy_to(backend.port), timeouts);
    let mut client = Client::connect(house.port, &certificate);
    let id = client.request(&get("/"), b"");
    // Nothing is acknowledged: most of it waits in QUIC.
    client.silent = true;
    eventually("it is handed over", || {
        client.drive_for(Duration::from_millis(5), |_| false);
        house.count(200) == 1
    });
    house.traffic.remove_server("web");
    client.drive_for(Duration::from_secs(1), |client| client.lost.is_some());
    client.silent = false;
    let answer = client.answer(id);
    assert_eq!((answer.ended, answer.body.len()), (true, body.len()), "{:?}", client.lost);
    assert_eq!(client.closed(), Some(0x100), "{:?}", client.lost);
}

/// Sockets of several addresses reach several workers; whichever a datagram comes to, it gets to its connection.
fn every_worker_finds_its_connections(io: IoMode) {
    let backend = echo();
    let certificate = certificate(&["a.test"]);
    let lines = format!("http3: true\n{}", certificate.lines);
    let house = House::with_workers(2, io, &lines, &proxy_to(backend.port), Timeouts::default(), edge_filters::kind);
    let before = base_quic::stats::total(base_quic::stats::Count::Passed);
    let mut client = Client::connect(house.port, &certificate);
    for n in 0..16 {
        client.socket = bound_socket();
        let answer = client.get(&format!("/{n}"));
        assert_eq!(answer.status(), 200, "{n}: {:?}", client.lost);
    }
    assert!(
        base_quic::stats::total(base_quic::stats::Count::Passed) > before,
        "sixteen addresses all came to one worker"
    );
}

fn a_server_that_stops_says_so_and_ends_what_has_begun(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        while wire.message().is_some() {
            std::thread::sleep(Duration::from_millis(500));
            wire.send(OK.as_bytes());
        }
    });
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect(house.port, &certificate);
    let id = client.request(&get("/"), b"");
    client.drive_for(Duration::from_millis(100), |_| false);
    house.traffic.remove_server("web");
    let answer = client.answer(id);
    assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"), "{:?}", client.lost);
    assert_eq!(client.closed(), Some(0x100), "{:?}", client.lost);
    // Type 0, SETTINGS, then GOAWAY with the largest number there is.
    assert!(
        client
            .control()
            .ends_with(&[&[7, 8][..], &(0xc000_0000_0000_0000 | ((1u64 << 62) - 4)).to_be_bytes()].concat())
    );
    // The port is free again.
    eventually("it is free", || UdpSocket::bind(("127.0.0.1", house.port)).is_ok());
}

fn requests_for_somebody_else_are_misdirected(io: IoMode) {
    let backend = Backend::answering(OK);
    let (one, two) = (certificate(&["a.test"]), certificate(&["b.test"]));
    let named = |certificate: &Certificate, n: usize| {
        let text = certificate.lines.clone();
        let of = |key: &str| text.lines().find_map(|l| l.strip_prefix(key).map(str::to_owned)).unwrap();
        (format!("c{n}: {}", of("certBase64: ")), format!("c{n}: {}", of("keyBase64: ")))
    };
    let ((c1, k1), (c2, k2)) = (named(&one, 1), named(&two, 2));
    let lines = format!("http3: true\nhttps: true\ncerts: {{{c1}, {c2}}}\nkeys: {{{k1}, {k2}}}\n");
    let house = House::new(io, &lines, &proxy_to(backend.port));
    let mut client = Client::connect(house.port, &one);
    assert_eq!(client.get("/").status(), 200);
    let id = client.request(&[&get("/")[..2], &[(":authority", "b.test"), (":path", "/")]].concat(), b"");
    assert_eq!(client.answer(id).status(), 421);
    let mut client = Client::begin(house.port, "b.test", config(&two.der, b"h3"));
    assert!(client.drive(|client| client.connected), "the name selects the certificate: {:?}", client.lost);
    assert_eq!(house.limit("misdirected"), 1);
}

fn heads_that_break_the_rules(io: IoMode) {
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect(house.port, &certificate);
    let malformed: [&[(&str, &str)]; 5] = [
        &get("/")[1..],
        &[get("/")[0], get("/")[0], get("/")[1], get("/")[3]],
        &[&get("/")[..], &[(":path", "/")]].concat(),
        &[&[("x-one", "1")], &get("/")[..]].concat(),
        &[&get("/")[..3], &[(":path", "")]].concat(),
    ];
    for fields in malformed {
        let id = client.request(fields, b"");
        let answer = client.answer(id);
        assert_eq!((answer.reset, answer.status()), (Some(MESSAGE_ERROR), 0), "{fields:?} {:?}", client.lost);
    }
    assert_eq!(house.limit("h3_message"), 5);
    let answered: [(&[(&str, &str)], u16); 6] = [
        (&[("connection", "close")], 400),
        (&[("te", "gzip")], 400),
        (&[("host", "other.test")], 400),
        (&[("x-long", &"x".repeat(40_000))], 431),
        (&[("x", "1"); 200], 431),
        (&[("te", "trailers")], 200),
    ];
    for (fields, status) in answered {
        let id = client.request(&[&get("/")[..], fields].concat(), b"");
        assert_eq!(client.answer(id).status(), status, "{:?} {:?}", fields[0].0, client.lost);
    }
    let id = client.request(&[&get("/")[..3], &[(":path", "/../x")]].concat(), b"");
    assert_eq!(client.answer(id).status(), 400);
    assert_eq!(backend.seen().len(), 1);
}

/// HAProxy's CVE-2026-33555: every way a body can end is held against its length.
fn bodies_that_are_not_as_long_as_announced(io: IoMode) {
    let backend = echo();
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect(house.port, &certificate);
    let announced = head(&[&post("/")[..], &[("content-length", "5")]].concat());
    let ends: [&[Vec<u8>]; 6] = [
        &[],
        &[data(b"1234")],
        &[data(b"123456")],
        &[data(b"12345"), data(b"6")],
        &[data(b"1234"), head(&[("x-trailer", "1")])],
        &[data(b"")],
    ];
    for (n, end) in ends.iter().enumerate() {
        let id = client.open(Dir::Bi);
        client.send(id, &[announced.clone(), end.concat()].concat(), true);
        let answer = client.answer(id);
        assert!(answer.status() == 400 || answer.reset.is_some(), "{n}: {answer:?}");
    }
    let id = client.open(Dir::Bi);
    client.send(id, &[announced, data(b"123"), data(b""), data(b"45")].concat(), true);
    assert_eq!(client.answer(id).text(), "12345");
    assert!(backend.seen().iter().all(|message| message.body == b"12345"), "a backend got a short body");
    drop(house);
}

fn what_breaks_the_protocol_ends_the_connection(io: IoMode) {
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend);
    type Case<'a> = (&'a str, Dir, Vec<u8>, bool, u64);
    let settings = |rest: &[u8]| [&[0, 4, 0][..], rest].concat();
    let cases: [Case<'_>; 14] = [
        ("h3_frame_unexpected", Dir::Bi, data(b"early"), false, 0x105),
        ("h3_frame_unexpected", Dir::Bi, any_frame(4, b""), false, 0x105),
        ("h3_frame_unexpected", Dir::Bi, any_frame(6, b"12345678"), false, 0x105),
        ("h3_frame", Dir::Bi, head(&get("/"))[..10].to_vec(), true, 0x106),
        ("h3_qpack", Dir::Bi, any_frame(1, b"\0\0\x80"), false, 0x200),
        ("h3_qpack", Dir::Bi, any_frame(1, b"\x02\0\x80"), false, 0x200),
        ("h3_missing_settings", Dir::Uni, [&[0][..], &any_frame(7, b"\0")].concat(), false, 0x10a),
        ("h3_settings", Dir::Uni, [&[0][..], &any_frame(4, b"\x02\0")].concat(), false, 0x109),
        ("h3_frame_unexpected", Dir::Uni, settings(&any_frame(4, b"")), false, 0x105),
        ("h3_closed_critical_stream", Dir::Uni, settings(b""), true, 0x104),
        ("h3_stream_creation", Dir::Uni, vec![1], false, 0x103),
        ("h3_qpack_encoder", Dir::Uni, vec![2, 0x3f, 0x01], false, 0x201),
        ("h3_qpack_decoder", Dir::Uni, vec![3, 0x80], false, 0x202),
        ("h3_id", Dir::Uni, settings(&[any_frame(13, b"\x05"), any_frame(13, b"\x04")].concat()), false, 0x108),
    ];
    for (name, dir, bytes, ends, code) in cases {
        let had = house.limit(name);
        let mut client = Client::begin(house.port, "a.test", config(&certificate.der, b"h3"));
        assert!(client.drive(|client| client.connected));
        let id = client.open(dir);
        client.send(id, &bytes, ends);
        assert_eq!(client.closed(), Some(code), "{name}: {:?}", client.lost);
        eventually(name, || house.limit(name) == had + 1);
    }
    // A second of a kind that there is one of; one that nobody knows is no reason.
    let mut client = Client::connect(house.port, &certificate);
    let id = client.open(Dir::Uni);
    client.send(id, &[0x21, 1, 2, 3], false);
    assert_eq!(client.get("/").status(), 200);
    assert!(client.drive(|client| client.stopped.contains_key(&id)));
    client.settle_in();
    assert_eq!(client.closed(), Some(0x103), "{:?}", client.lost);
    // A request without a head ends its stream alone.
    let mut client = Client::connect(house.port, &certificate);
    let id = client.open(Dir::Bi);
    client.send(id, &any_frame(0x21, b"x"), true);
    assert_eq!(client.answer(id).reset, Some(0x10d));
    assert_eq!(client.get("/").status(), 200);
}

fn answers_that_are_given_up(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        while wire.message().is_some() {
            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
            while wire.send(&[0; 10_000]) {}
        }
    });
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect(house.port, &certificate);
    let id = client.request(&get("/"), b"");
    assert!(client.drive(|client| client.so_far(id).body.len() > 100_000));
    client.stop(id, 0x10c);
    eventually("counted", || {
        client.drive_for(Duration::from_millis(5), |_| false);
        house.count(200) == 1
    });
    // One that nobody reads holds no other up, and no more than its window.
    let slow = client.request(&get("/"), b"");
    client.unread.insert(slow);
    client.drive_for(Duration::from_millis(300), |_| false);
    assert!(backend.connections() >= 2);
    let small = Backend::answering(OK);
    house.pipeline("app", &proxy_to(small.port));
    assert_eq!(client.get("/").status(), 200);
    // The backend breaks off: the stream says so.
    let broken = Backend::new(|mut wire, _| {
        wire.message();
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok");
    });
    house.pipeline("app", &proxy_to(broken.port));
    let answer = client.get("/");
    assert_eq!(answer.reset, Some(0x102), "{answer:?}");
}

/// RFC 9220.
fn websockets_pass(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        let head = wire.head().unwrap_or_default().to_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("sec-websocket-key: "), "{head}");
        wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello");
        while wire.more() {
            let echo = std::mem::take(&mut wire.read);
            wire.send(&echo);
        }
        wire.send(b"bye");
    });
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect(house.port, &certificate);
    // The server says that it takes them.
    assert!(client.drive(|client| client.control().windows(2).any(|pair| pair == [8, 1])));
    let id = client.open(Dir::Bi);
    let fields =
        [&[(":method", "CONNECT"), (":protocol", "websocket")], &get("/chat")[1..], &[("sec-websocket-version", "13")]];
    client.send(id, &head(&fields.concat()), false);
    assert!(client.drive(|client| client.so_far(id).text() == "hello"), "{:?}", client.so_far(id));
    assert_eq!(client.so_far(id).status(), 200);
    client.send(id, &data(&[7; 50_000]), false);
    assert!(client.drive(|client| client.so_far(id).body.len() == 50_005));
    client.send(id, b"", true);
    let answer = client.answer(id);
    assert!(answer.text().ends_with("bye") && answer.reset.is_none());
    drop(house);
}

/// A backend that is spoken to over QUIC alone gets WebSockets as streams of its connections, whatever their clients speak.
fn websockets_go_on_over_streams_to_a_backend(io: IoMode) {
    let echo = Backend::new(|mut wire, _| {
        let head = wire.head().unwrap_or_default().to_lowercase();
        if !head.contains("upgrade: websocket") {
            wire.send(OK.as_bytes());
            return;
        }
        if head.contains("/closed") {
            wire.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
            return;
        }
        wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello");
        while wire.more() {
            let said = std::mem::take(&mut wire.read);
            wire.send(&said);
        }
        wire.send(b"bye");
    });
    let certificate = certificate(&["127.0.0.1"]);
    let back = House::new(io, "", &proxy_to(echo.port));
    // Without TCP nothing goes another way.
    back.server(&format!("http3: true\nhttp3Only: true\n{}", certificate.lines));
    let root = serde_json::Value::from(certificate.pem.clone());
    let over = format!(
        "filters: [{{name: p, kind: Proxy, mtls: {{rootCertBase64: {root}}}, pools: [{{http3: true, servers: [{{url: \
         'https://127.0.0.1:{}'}}]}}]}}]",
        back.port
    );
    let front = House::new(io, "", &over);
    let asks = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    let open = || {
        let mut client = front.connect();
        client.send(asks("/chat").as_bytes());
        let head = client.head().unwrap_or_default();
        assert!(head.starts_with("HTTP/1.1 101") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        assert_eq!(client.exactly(5).as_deref(), Some(&b"hello"[..]));
        client
    };
    let mut clients: Vec<_> = (0..3).map(|_| open()).collect();
    // Longer than every window, both ways at once.
    let long: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
    for client in &mut clients {
        let mut sending = client.stream.try_clone().unwrap();
        let said = long.clone();
        let sent = std::thread::spawn(move || std::io::Write::write_all(&mut sending, &said).is_ok());
        assert!(client.exactly(long.len()).is_some_and(|came| came == long));
        assert!(sent.join().unwrap());
    }
    // Its client has said all; the other direction goes on to its own end.
    let mut first = clients.remove(0);
    first.finish_sending();
    assert_eq!(first.rest(), b"bye");
    // A client that goes takes its stream with it, and no other.
    drop(clients.remove(0));
    let mut last = clients.remove(0);
    assert!(last.send(b"again") && last.exactly(5).as_deref() == Some(&b"again"[..]));
    eventually("the others are gone", || back.traffic.connections() == 1);
    let connections = base_quic::stats::open();
    assert!(connections >= 1);
    // What is refused is answered, and messages use what is there.
    assert_eq!(front.ask(&asks("/closed")).status(), 403);
    assert_eq!(front.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").status(), 200);
    assert!(last.send(b"more!") && last.exactly(5).as_deref() == Some(&b"more!"[..]));
    drop(last);
}

fn a_port_in_use_is_told_and_tried_again(io: IoMode) {
    let backend = Backend::answering(OK);
    let certificate = certificate(&["a.test"]);
    let house = House::new(io, "", &proxy_to(backend.port));
    let other = UdpSocket::bind(("127.0.0.1", house.port)).unwrap();
    house.server(&format!("http3: true\n{}", certificate.lines));
    let server = house.traffic.servers()[0].1.clone();
    let (state, reason) = server.state();
    let reason = reason.unwrap_or_default();
    assert!(
        state == "failed" && reason.contains("http3") && reason.contains(&house.port.to_string()),
        "{state} {reason}"
    );
    // TCP serves meanwhile, and promises nothing.
    assert!(house.connect().send(b"x"));
    house.traffic.retry();
    assert_eq!(server.state().0, "failed");
    drop(other);
    house.traffic.retry();
    assert_eq!(server.state(), ("running", None));
    assert_eq!(Client::connect(house.port, &certificate).get("/").status(), 200);
}

fn it_is_turned_on_and_off(io: IoMode) {
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect(house.port, &certificate);
    assert_eq!(client.get("/").status(), 200);
    house.server(&certificate.lines);
    assert_eq!(client.closed(), Some(0x100), "{:?}", client.lost);
    eventually("it is free", || UdpSocket::bind(("127.0.0.1", house.port)).is_ok());
    // Alone, without TCP.
    house.server(&format!("http3: true\nhttp3Only: true\n{}", certificate.lines));
    eventually("it listens", || {
        house.traffic.retry();
        house.state() == "running"
    });
    assert_eq!(Client::connect(house.port, &certificate).get("/").status(), 200);
    eventually("TCP is closed", || std::net::TcpStream::connect(("127.0.0.1", house.port)).is_err());
    house.server(&format!("http3: true\n{}", certificate.lines));
    assert_eq!(house.state(), "running");
    assert!(std::net::TcpStream::connect(("127.0.0.1", house.port)).is_ok());
}

fn a_port_is_taken_over_while_old_connections_live(io: IoMode) {
    take_over(io, |_| {}, true);
}

fn old_connections_live_on_when_those_that_took_over_have_stopped(io: IoMode) {
    take_over(io, |_| {}, false);
}

fn old_connections_live_on_when_keys_have_changed(io: IoMode) {
    take_over(io, |house| house.traffic.tickets().install(vec![TicketKey::generate()], 0), true);
}

/// More often than there are epochs to tell them apart: those that have no connections are gone, and what comes is passed on once.
fn one_connection_outlives_many_that_took_over(io: IoMode) {
    let backend = echo();
    let (house, certificate, lines) = house_of_two(io, &backend);
    let mut client = Client::connect(house.port, &certificate);
    let id = client.open(Dir::Bi);
    client.send(id, &[head(&post("/")), data(b"begun ")].concat(), false);
    for _ in 0..40 {
        house.server(&certificate.lines);
        house.server(&lines);
        assert_eq!(house.state(), "running");
        client.drive_for(Duration::from_millis(5), |_| false);
    }
    assert_eq!(Client::connect(house.port, &certificate).get("/new").status(), 200);
    client.send(id, &data(b"and ended"), true);
    let answer = client.answer(id);
    assert_eq!((answer.status(), answer.text().as_str()), (200, "begun and ended"), "{:?}", client.lost);
}

/// HTTP/3 is turned off and on again, twice, with requests under way on connections of each time: all of them end well, whether it is
/// on or off by then, and new connections are taken at once. Two workers pass on what comes to the wrong one.
fn take_over(io: IoMode, meanwhile: fn(&House), ends_on: bool) {
    let backend = echo();
    let (house, certificate, lines) = house_of_two(io, &backend);
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut begun: Vec<_> = (0..4).map(|_| Client::connect(house.port, &certificate)).collect();
        for client in &mut begun {
            let id = client.open(Dir::Bi);
            client.send(id, &[head(&post("/")), data(b"begun ")].concat(), false);
            clients.push((std::mem::replace(client, Client::connect(house.port, &certificate)), id));
        }
        // Those without a request are told to go.
        house.server(&certificate.lines);
        assert!(begun.iter_mut().all(|client| client.closed() == Some(0x100)));
        meanwhile(&house);
        house.server(&lines);
        assert_eq!(house.state(), "running");
        assert_eq!(Client::connect(house.port, &certificate).get("/new").status(), 200);
    }
    if !ends_on {
        house.server(&certificate.lines);
        house.everywhere();
    }
    for (client, id) in &mut clients {
        client.send(*id, &data(b"and ended"), true);
        let answer = client.answer(*id);
        assert_eq!((answer.status(), answer.text().as_str()), (200, "begun and ended"), "{:?}", client.lost);
        assert_eq!(client.closed(), Some(0x100), "{:?}", client.lost);
    }
    house.server(&certificate.lines);
    eventually("it is free", || UdpSocket::bind(("127.0.0.1", house.port)).is_ok());
}

/// The kernel shares out what comes among the sockets of all workers, those included that have no connection left.
fn a_client_that_moves_is_heard_by_a_server_that_stops(io: IoMode) {
    let backend = echo();
    let (house, certificate, _) = house_of_two(io, &backend);
    let mut client = Client::connect(house.port, &certificate);
    let id = client.open(Dir::Bi);
    client.send(id, &[head(&post("/")), data(b"0")].concat(), false);
    let mut idle = Client::connect(house.port, &certificate);
    house.server(&certificate.lines);
    assert_eq!(idle.closed(), Some(0x100));
    client.drive_for(Duration::from_millis(100), |_| false);
    for moved in 1..10 {
        client.socket = bound_socket();
        let heard = client.connection.stats().udp_rx.datagrams;
        client.send(id, &data(&[b'0' + moved]), moved == 9);
        assert!(client.drive(|client| client.connection.stats().udp_rx.datagrams > heard), "moved {moved} times");
        client.drive_for(Duration::from_millis(20), |_| false);
    }
    let answer = client.answer(id);
    assert_eq!((answer.status(), answer.text().as_str()), (200, "0123456789"), "{:?}", client.lost);
    assert_eq!(client.closed(), Some(0x100), "{:?}", client.lost);
    eventually("it is free", || UdpSocket::bind(("127.0.0.1", house.port)).is_ok());
}

/// As one process hands its sockets to another; here both are houses of one. The new one has other keys.
fn who_takes_the_place_of_a_process_passes_on_what_is_for_its_connections(io: IoMode) {
    succeed(io, [2, 2]);
}

/// The kernel shares out what comes among all the sockets for as long as the old one has them.
fn a_process_of_fewer_workers_hears_all_that_comes(io: IoMode) {
    succeed(io, [1, 3]);
}

/// The client's second flight is for the process that answered its first, and what follows it is that it is to go.
fn handshakes_under_way_end_well_where_another_process_takes_over(io: IoMode) {
    let backend = echo();
    let (house, certificate, lines) = house_of_two(io, &backend);
    let mut clients: Vec<_> =
        (0..8).map(|_| Client::begin(house.port, "a.test", config(&certificate.der, b"h3"))).collect();
    for client in &mut clients {
        client.transmit();
        eventually("it is answered", || client.socket.peek_from(&mut [0; 2048]).is_ok());
    }
    let next = next_house(io, &house, 2, &lines, &backend);
    for client in &mut clients {
        assert!(client.drive(|client| client.connected), "{:?}", client.lost);
        assert_eq!(client.closed(), Some(0x100), "{:?}", client.lost);
    }
    eventually("none is left", || house.traffic.connections() == 0);
    assert_eq!(Client::connect(next.port, &certificate).get("/new").status(), 200);
}

/// Houses of so many workers take each other's place, after one of two.
fn succeed(io: IoMode, workers: [usize; 2]) {
    let backend = echo();
    let (mut house, certificate, lines) = house_of_two(io, &backend);
    let (mut clients, mut houses) = (Vec::new(), Vec::new());
    for workers in workers {
        for _ in 0..4 {
            let mut client = Client::connect(house.port, &certificate);
            let id = client.open(Dir::Bi);
            client.send(id, &[head(&post("/")), data(b"begun ")].concat(), false);
            clients.push((client, id));
        }
        let next = next_house(io, &house, workers, &lines, &backend);
        houses.push(std::mem::replace(&mut house, next));
        for _ in 0..8 {
            assert_eq!(Client::connect(house.port, &certificate).get("/new").status(), 200);
        }
    }
    for (client, id) in &mut clients {
        // Whichever worker of the last one hears of it.
        client.socket = bound_socket();
        client.send(*id, &data(b"and ended"), true);
        let answer = client.answer(*id);
        assert_eq!((answer.status(), answer.text().as_str()), (200, "begun and ended"), "{:?}", client.lost);
        assert_eq!(client.closed(), Some(0x100), "{:?}", client.lost);
    }
    houses.iter().for_each(|house| eventually("none is left", || house.traffic.connections() == 0));
    assert_eq!(Client::connect(house.port, &certificate).get("/new").status(), 200);
}

/// Takes the place of a house, whose connections come to their end.
fn next_house(io: IoMode, house: &House, workers: usize, lines: &str, backend: &Backend) -> House {
    let server = house.traffic.servers()[0].1.clone();
    for sockets in server.sockets() {
        let kind = if sockets.protocol == Protocol::Udp { SocketKind::Datagram } else { SocketKind::Stream };
        let copies = sockets.descriptors.iter().map(|socket| inherited::duplicate(*socket).unwrap());
        copies.for_each(|socket| inherited::keep(kind, socket).unwrap());
    }
    inherited::keep_passes(server.passes().unwrap().expect("it has HTTP/3"));
    house.traffic.let_go();
    house.traffic.release(Duration::from_secs(5), Duration::from_millis(100));
    House::at(house.port, workers, io, lines, &proxy_to(backend.port), slow_bodies(), edge_filters::kind)
}

fn slow_bodies() -> Timeouts {
    Timeouts { body: Duration::from_secs(600), rate: 0, linger: Duration::from_millis(100), ..Timeouts::default() }
}

/// Of two workers, where bodies may take their time; with the lines that turn HTTP/3 on.
fn house_of_two(io: IoMode, backend: &Backend) -> (House, Certificate, String) {
    let certificate = certificate(&["a.test"]);
    let lines = format!("http3: true\n{}", certificate.lines);
    let house = House::with_workers(2, io, &lines, &proxy_to(backend.port), slow_bodies(), edge_filters::kind);
    (house, certificate, lines)
}

fn idle_connections_end(io: IoMode) {
    let backend = Backend::answering(OK);
    let certificate = certificate(&["a.test"]);
    let lines = format!("http3: true\nkeepAliveTimeout: 300ms\n{}", certificate.lines);
    let house = House::with_timeouts(io, &lines, &proxy_to(backend.port), short_timeouts());
    let mut client = Client::connect(house.port, &certificate);
    assert_eq!(client.get("/").status(), 200);
    assert_eq!(client.closed(), Some(0x100), "{:?}", client.lost);
    // One that never asks, and a head that does not come to its end.
    let mut client = Client::connect(house.port, &certificate);
    assert_eq!(client.closed(), Some(0x100));
    assert_eq!(house.limit("first_byte_timeout"), 1);
    let mut client = Client::connect(house.port, &certificate);
    let id = client.open(Dir::Bi);
    client.send(id, &head(&get("/"))[..10], false);
    let answer = client.answer(id);
    assert_eq!(answer.reset, Some(0x10d), "{:?}", client.lost);
    assert_eq!(house.limit("head_timeout"), 1);
    eventually("none is left", || house.traffic.connections() == 0);
}

fn only_http3_is_agreed_on(io: IoMode) {
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend);
    let mut client = Client::begin(house.port, "a.test", config(&certificate.der, b"hq-interop"));
    client.drive(|client| client.lost.is_some());
    assert!(client.lost.as_ref().is_some_and(|lost| lost.to_string().contains("120")), "{:?}", client.lost);
    eventually("counted", || house.limit("handshake_failed") == 1);
}
