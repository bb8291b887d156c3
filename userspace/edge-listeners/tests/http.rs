//! HTTP/1.1 between real sockets, on both drivers: what a client may do, what a backend may do, and what comes of it.

#[macro_use]
mod support;

use base_runtime::IoMode;
use edge_listeners::Timeouts;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::{Backend, House, Wire, eventually, free_port, proxy_to, short_timeouts};

on_both_drivers![
    keeps_alive_and_answers_pipelined_requests_in_order,
    relays_bodies_by_length_and_chunked_with_trailers,
    a_slow_reader_slows_the_backend_down,
    a_client_that_reads_nothing_is_cut_off,
    asks_for_an_expected_body_when_it_is_wanted,
    answers_without_a_body_have_none,
    interim_answers_reach_the_client,
    switches_protocols_both_ways,
    an_unasked_switch_is_refused,
    an_early_answer_arrives,
    a_backend_may_answer_while_it_reads,
    bodies_beyond_their_limit_are_413,
    time_outs,
    time_outs_of_the_document,
    an_answer_of_408_ends_the_connection,
    a_client_that_leaves_takes_its_backend_connection_along,
    a_stale_connection_is_replaced_where_that_is_safe,
    broken_backends,
    no_more_connections_than_allowed,
    other_rules_fail_no_request,
    rules_that_a_controller_makes_come_change_and_go_one_by_one,
    a_removed_server_finishes_what_it_began,
    a_removed_server_answers_by_what_went_with_it,
    a_port_in_use_is_tried_again,
    another_port,
    old_clients,
    captures_reach_the_backend,
    a_host_that_set_headers_gives_reaches_the_backend,
    a_client_may_finish_sending_with_its_request,
    large_heads_and_heads_byte_by_byte,
    an_empty_chunked_answer_keeps_its_trailers,
    a_connection_with_an_unread_request_serves_no_other,
];

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const MOCK: &str = "filters: [{name: m, kind: Mock, rules: [{code: 200, body: mocked}]}]";

fn keeps_alive_and_answers_pipelined_requests_in_order(io: IoMode) {
    let backend = Backend::recording(|m| {
        let body = m.target();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    });
    let house = House::proxy(io, &backend);
    let mut client = house.connect();
    for n in 0..3 {
        client.send(format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        assert_eq!(client.answer().text(), format!("/{n}"));
    }
    // Bodies between heads, all in one packet, and a head cut in two.
    let mut packet = String::new();
    for n in 0..50 {
        packet += &match n % 3 {
            0 => format!("GET /p{n} HTTP/1.1\r\nHost: a\r\n\r\n"),
            1 => format!("POST /p{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"),
            _ => format!("POST /p{n} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        };
    }
    let (first, second) = packet.split_at(packet.len() - 20);
    client.send(first.as_bytes());
    std::thread::sleep(Duration::from_millis(30));
    client.send(second.as_bytes());
    for n in 0..50 {
        assert_eq!(client.answer().text(), format!("/p{n}"));
    }
    assert_eq!(backend.connections(), 1, "one connection served all");
    client.send(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(client.answer().field("connection"), Some("close"));
    assert!(client.ends());
}

fn relays_bodies_by_length_and_chunked_with_trailers(io: IoMode) {
    let backend = Backend::recording(|m| {
        let mut answer = match m.target() {
            "/chunked" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
            _ => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", m.body.len()).into_bytes(),
        };
        if m.target() == "/chunked" {
            for piece in m.body.chunks(10_007) {
                answer.extend(format!("{:x};ext=1\r\n", piece.len()).into_bytes());
                answer.extend(piece);
                answer.extend(b"\r\n");
            }
            answer.extend(b"0\r\nX-Sum: 7\r\n\r\n");
        } else {
            answer.extend(&m.body);
        }
        answer
    });
    let house = House::proxy(io, &backend);
    let mut client = house.connect();
    for size in [1, 100, 20_000, 33_000, 300_000] {
        let body: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        for chunked in [false, true] {
            for target in ["/length", "/chunked"] {
                let mut request = format!("POST {target} HTTP/1.1\r\nHost: a\r\n").into_bytes();
                if chunked {
                    request.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                    for piece in body.chunks(7_001) {
                        request.extend(format!("{:X}\r\n", piece.len()).into_bytes());
                        request.extend(piece);
                        request.extend(b"\r\n");
                    }
                    request.extend(b"0\r\nX-Check: 1\r\nContent-Length: 3\r\n\r\n");
                } else {
                    request.extend(format!("Content-Length: {size}\r\n\r\n").into_bytes());
                    request.extend(&body);
                }
                client.send(&request);
                let answer = client.answer();
                let what = format!("{size} {chunked} {target}");
                assert_eq!(answer.status(), 200, "{what}");
                assert!(answer.body == body, "{what}: {} bytes came back", answer.body.len());
                let seen = backend.seen().pop().unwrap();
                assert!(seen.body == body, "{what}: the backend has {} bytes", seen.body.len());
                assert_eq!(seen.trailers, if chunked { "X-Check: 1\n" } else { "" }, "{what}");
                assert_eq!(answer.trailers, if target == "/chunked" { "X-Sum: 7\n" } else { "" }, "{what}");
                assert_eq!(seen.field("content-length").is_some(), !chunked, "{what}");
            }
        }
    }
}

fn a_slow_reader_slows_the_backend_down(io: IoMode) {
    const SIZE: usize = 96 << 20;
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let backend = Backend::new(move |mut wire, _| {
        wire.head();
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes());
        let piece = vec![b'x'; 64 << 10];
        for _ in 0..SIZE / piece.len() {
            if !wire.send(&piece) {
                break;
            }
            count.fetch_add(piece.len(), Ordering::Relaxed);
        }
    });
    let house = House::proxy(io, &backend);
    let mut client = house.connect();
    client.send(GET.as_bytes());
    let mut before = usize::MAX;
    eventually("the backend is held up", || {
        std::thread::sleep(Duration::from_millis(150));
        let now = written.load(Ordering::Relaxed);
        std::mem::replace(&mut before, now) == now && now > 0
    });
    assert!(before < SIZE / 2, "{before} bytes were taken for a client that reads nothing");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 200"));
    let mut left = SIZE;
    while left > 0 {
        left -= client.read.len();
        client.read.clear();
        assert!(left == 0 || client.more(), "{left} bytes are missing");
    }
    // The other way: a backend that reads nothing slows the client down.
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    let backend = Backend::new(move |mut wire, _| {
        wire.head();
        let _ = held.lock().unwrap().recv();
        let mut left = SIZE;
        while left > 0 {
            left -= wire.read.len().min(left);
            wire.read.clear();
            if left > 0 && !wire.more() {
                return;
            }
        }
        wire.send(OK.as_bytes());
    });
    house.pipeline("app", &proxy_to(backend.port));
    house.server("clientMaxBodySize: -1");
    let mut client = house.connect();
    client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes());
    let body = vec![b'x'; SIZE];
    let mut early = 0;
    // Until there has been no room for a while.
    client.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while let Some(rest @ [_, ..]) = body.get(early..)
        && let Ok(taken) = client.stream.write(&rest[..rest.len().min(64 << 10)])
    {
        early += taken;
    }
    assert!(early < SIZE / 2, "{early} bytes were taken for a backend that reads nothing");
    release.send(()).unwrap();
    client.stream.set_write_timeout(Some(support::PATIENCE)).unwrap();
    assert!(client.send(&body[early..]));
    assert_eq!(client.answer().status(), 200);
}

fn a_client_that_reads_nothing_is_cut_off(io: IoMode) {
    let body = "x".repeat(200_000);
    let pipeline = format!("filters: [{{name: m, kind: Mock, rules: [{{code: 200, body: {body}}}]}}]");
    let house = House::with_timeouts(io, "", &pipeline, short_timeouts());
    // A flood of small requests, each with a large answer.
    let mut client = house.connect();
    client.stream.set_nonblocking(true).unwrap();
    let flood = GET.repeat(1000);
    let mut at = 0;
    eventually("the connection is cut off", || {
        match client.stream.write(&flood.as_bytes()[at..]) {
            Ok(n) => at = (at + n) % flood.len(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return true,
        }
        house.limit("response_stalled") > 0
    });
    eventually("nothing stays behind", || house.traffic.connections() == 0);
    assert!(house.count(200) < 500, "{} answers were made for nobody", house.count(200));
    // A client that reads slowly, but reads, gets everything.
    let mut client = house.connect();
    client.send(format!("{GET}GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes());
    std::thread::sleep(Duration::from_millis(200));
    for _ in 0..2 {
        assert_eq!(client.answer().body.len(), 200_000);
    }
    assert!(client.ends());
}

fn asks_for_an_expected_body_when_it_is_wanted(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = House::proxy(io, &backend);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let mut client = house.connect();
    client.send(head.as_bytes());
    assert_eq!(client.head().unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send(b"hello");
    assert_eq!(client.answer().text(), "ok");
    assert_eq!(backend.seen()[0].text(), "hello");
    assert_eq!(backend.seen()[0].field("expect"), None);
    // One that does not wait gets no 100.
    client.send(format!("{head}hello").as_bytes());
    assert_eq!(client.answer().status(), 200);
    // Nobody wants the body: no 100, and the connection ends, as nobody knows whether the body still comes.
    house.pipeline("app", MOCK);
    client.send(head.as_bytes());
    let answer = client.answer();
    assert_eq!((answer.status(), answer.field("connection")), (200, Some("close")));
    assert!(client.ends());
}

fn answers_without_a_body_have_none(io: IoMode) {
    let backend = Backend::recording(|m| {
        match m.target() {
            "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 10\r\n\r\n",
            "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
        }
        .into()
    });
    let house = House::proxy(io, &backend);
    let mut client = house.connect();
    client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.bare_answer().field("content-length"), Some("1234"));
    client.send(b"HEAD /chunked HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.bare_answer().status(), 200);
    client.send(b"GET /204 HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.bare_answer();
    assert_eq!((answer.status(), answer.field("content-length")), (204, None));
    client.send(b"GET /304 HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = client.bare_answer();
    assert_eq!((answer.status(), answer.field("etag")), (304, Some("\"x\"")));
    client.send(b"HEAD /204 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.bare_answer().status(), 204);
    assert!(client.read.is_empty());
    assert_eq!(backend.connections(), 1);
    house.pipeline("app", MOCK);
    client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.bare_answer().field("content-length"), Some("6"));
    assert_eq!(client.answer().text(), "mocked");
}

fn interim_answers_reach_the_client(io: IoMode) {
    let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    let backend = Backend::new(move |mut wire, _| {
        while wire.message().is_some() {
            wire.send(early.as_bytes());
            std::thread::sleep(Duration::from_millis(20));
            // The final head in two pieces.
            wire.send(&OK.as_bytes()[..9]);
            std::thread::sleep(Duration::from_millis(20));
            wire.send(&OK.as_bytes()[9..]);
        }
    });
    let house = House::proxy(io, &backend);
    let mut client = house.connect();
    for _ in 0..3 {
        client.send(GET.as_bytes());
        let hints = client.head().unwrap_or_default();
        // The 100 was asked for by nobody.
        assert_eq!(hints, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
        assert_eq!(client.answer().text(), "ok");
    }
    assert_eq!(backend.connections(), 1);
    let endless = Backend::recording(move |_| early.repeat(20).into());
    house.pipeline("app", &proxy_to(endless.port));
    let mut client = house.connect();
    client.send(GET.as_bytes());
    let heads: Vec<String> = std::iter::from_fn(|| client.head()).take(5).collect();
    assert!(heads[..4].iter().all(|head| head.starts_with("HTTP/1.1 103 ")), "{heads:?}");
    assert!(heads[4].starts_with("HTTP/1.1 503 "), "eight are enough: {heads:?}");
}

const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

fn switches_protocols_both_ways(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        let head = wire.head().unwrap().to_ascii_lowercase();
        assert!(head.contains("connection: upgrade") && head.contains("upgrade: websocket"), "{head}");
        // The first words of the other protocol come in the packet of the head.
        wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nwelcome");
        let mut total = 0;
        while wire.more() {
            total += wire.read.len();
            let echo = std::mem::take(&mut wire.read);
            wire.send(&echo);
        }
        wire.send(format!("bye {total}").as_bytes());
    });
    let house = House::proxy(io, &backend);
    let mut client = house.connect();
    // The client is eager as well.
    client.send(format!("{UPGRADE}early").as_bytes());
    let head = client.head().unwrap();
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("Upgrade: websocket"), "{head}");
    assert_eq!(client.exactly(12).unwrap(), b"welcomeearly");
    let long = vec![7; 300_000];
    let mut writer = client.stream.try_clone().unwrap();
    let sent = long.clone();
    let thread = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    assert!(client.exactly(long.len()).unwrap() == long);
    thread.join().unwrap();
    // One direction ends, the other goes on.
    client.finish_sending();
    assert_eq!(client.rest(), b"bye 300005");
    eventually("the tunnel is gone", || house.traffic.connections() == 0);
    assert_eq!(house.count(101), 1);
}

fn an_unasked_switch_is_refused(io: IoMode) {
    let backend = Backend::answering("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    let house = House::proxy(io, &backend);
    assert_eq!(house.ask(GET).status(), 503);
    let post = "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(house.ask(post).status(), 503);
    // A backend that declines an offer is an ordinary one.
    let backend = Backend::answering(OK);
    house.pipeline("app", &proxy_to(backend.port));
    assert_eq!(house.ask(UPGRADE).text(), "ok");
}

fn an_early_answer_arrives(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        wire.head();
        wire.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nConnection: close\r\n\r\nstop");
        wire.finish_sending();
        std::thread::sleep(Duration::from_millis(300));
    });
    let house = House::new(io, "clientMaxBodySize: -1", &proxy_to(backend.port));
    let mut client = house.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
    for _ in 0..10 {
        client.send(&[b'x'; 1000]);
    }
    let answer = client.answer();
    assert_eq!((answer.status(), answer.text().as_str()), (403, "stop"));
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(client.ends());
    // A short rest is read, and the connection lives on.
    house.pipeline("app", MOCK);
    let mut client = house.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n");
    assert_eq!(client.answer().text(), "mocked");
    client.send(&[b'x'; 2000]);
    client.send(GET.as_bytes());
    assert_eq!(client.answer().text(), "mocked");
}

fn a_backend_may_answer_while_it_reads(io: IoMode) {
    // Answers line by line, before the body has ended.
    let backend = Backend::new(|mut wire, _| {
        wire.head();
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        loop {
            let Some(size) = wire.line() else { return };
            let size = usize::from_str_radix(&size, 16).unwrap();
            let Some(data) = wire.exactly(size + 2) else { return };
            wire.send(format!("{size:x}\r\n").as_bytes());
            wire.send(&data);
            if size == 0 {
                break;
            }
        }
    });
    let house = House::new(io, "clientMaxBodySize: -1", &proxy_to(backend.port));
    let mut client = house.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert!(client.head().unwrap().starts_with("HTTP/1.1 200"));
    for n in 0..20 {
        let word = format!("word {n:02}");
        client.send(format!("{:x}\r\n{word}\r\n", word.len()).as_bytes());
        assert_eq!(client.line().unwrap(), "7");
        assert_eq!(client.line().unwrap(), word);
    }
    client.send(b"0\r\n\r\n");
    assert_eq!(client.line().unwrap(), "0");
}

fn bodies_beyond_their_limit_are_413(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = House::new(io, "clientMaxBodySize: 1000", &proxy_to(backend.port));
    for request in [
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n{}", "x".repeat(1001)),
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n".to_owned(),
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n{}\r\n0\r\n\r\n",
            "x".repeat(1001)
        ),
        format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{}",
            "64\r\n{}\r\n".replace("{}", &"x".repeat(100)).repeat(11)
        ),
    ] {
        assert_eq!(house.ask(&request).status(), 413, "{request}");
    }
    assert_eq!(house.limit("request_body_bytes"), 5);
    assert_eq!(backend.seen().len(), 0, "none was read to its end");
    let fits = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n{}\r\n0\r\n\r\n",
        "x".repeat(1000)
    );
    assert_eq!(house.ask(&fits).status(), 200);
    // The rest of a body that is too large is read when it is short.
    let mut client = house.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1500\r\n\r\n");
    assert_eq!(client.answer().status(), 413);
    client.send(&[b'x'; 1500]);
    client.send(GET.as_bytes());
    assert_eq!(client.answer().status(), 200);
    // A pipeline that is not there is said first.
    house.server("clientMaxBodySize: 1000\nrules: [{paths: [{pathPrefix: /, backend: none}]}]");
    eventually("the route leads nowhere", || house.ask(GET).status() == 503);
    let large = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n{}", "x".repeat(1001));
    assert_eq!(house.ask(&large).status(), 503);
}

fn time_outs(io: IoMode) {
    let backend = Backend::answering(OK);
    let timeouts = Timeouts { body: Duration::from_millis(1500), ..short_timeouts() };
    let house = House::with_timeouts(io, "keepAliveTimeout: 300ms", &proxy_to(backend.port), timeouts);
    let began = Instant::now();
    // Each on its own connection, side by side.
    let (mut silent, mut idle, mut head, mut body, mut steady) =
        (house.connect(), house.connect(), house.connect(), house.connect(), house.connect());
    idle.send(GET.as_bytes());
    head.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ");
    body.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345");
    steady.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n");
    assert_eq!(idle.answer().status(), 200);
    let feeder = std::thread::spawn(move || {
        for _ in 0..8 {
            std::thread::sleep(Duration::from_millis(250));
            steady.send(b"x");
            head.send(b"x");
        }
        (head, steady)
    });
    assert!(idle.ends(), "nothing is said to an idle client");
    assert!(began.elapsed() >= Duration::from_millis(280), "{:?}", began.elapsed());
    assert!(silent.ends());
    assert_eq!(body.answer().status(), 408);
    assert!(body.ends());
    let (mut head, mut steady) = feeder.join().unwrap();
    assert_eq!(head.answer().status(), 408, "each byte does not buy more time");
    assert_eq!(steady.answer().status(), 200, "progress is enough for a body");
    for (name, times) in [("head_timeout", 1), ("first_byte_timeout", 1), ("body_timeout", 1)] {
        assert_eq!(house.limit(name), times, "{name}");
    }
}

/// On a connection that stays open a 408 invites the client to send its request again, a POST too.
fn an_answer_of_408_ends_the_connection(io: IoMode) {
    let late = Backend::new(|mut wire, _| while wire.message().is_some() {});
    let relaying = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 2\r\n\r\nno";
    let relayed = Backend::recording(|_| relaying.as_bytes().to_vec());
    let proxy = |port: u16| {
        format!(
            "filters: [{{name: p, kind: Proxy, pools: [{{servers: [{{url: 'http://127.0.0.1:{port}'}}], timeout: 200ms}}]}}]"
        )
    };
    let mock = "filters: [{name: m, kind: Mock, rules: [{code: 408}]}]".to_owned();
    for pipeline in [proxy(late.port), proxy(relayed.port), mock] {
        let house = House::new(io, "", &pipeline);
        let mut client = house.connect();
        client.send(b"POST /pay HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok");
        let answer = client.answer();
        assert_eq!((answer.status(), answer.field("connection")), (408, Some("close")), "{pipeline}");
        assert!(client.ends(), "{pipeline}");
    }
}

fn time_outs_of_the_document(io: IoMode) {
    let backend = Backend::answering(OK);
    // Those of the process are short, and a keep-alive of nothing would end at once.
    let server = "keepAliveTimeout: 0s\nheadTimeout: 20s\nbodyTimeout: 20s";
    let house = House::with_timeouts(io, server, &proxy_to(backend.port), short_timeouts());
    let (mut idle, mut head, mut body) = (house.connect(), house.connect(), house.connect());
    idle.send(GET.as_bytes());
    assert_eq!(idle.answer().status(), 200);
    head.send(b"GET / HTTP/1.1\r\nHost: a\r\n");
    body.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab");
    std::thread::sleep(2 * short_timeouts().body);
    idle.send(GET.as_bytes());
    head.send(b"\r\n");
    body.send(b"cd");
    for client in [&mut idle, &mut head, &mut body] {
        assert_eq!(client.answer().status(), 200);
    }
}

fn a_client_that_leaves_takes_its_backend_connection_along(io: IoMode) {
    let closed = Arc::new(AtomicUsize::new(0));
    let (count, begun) = (closed.clone(), Arc::new(AtomicUsize::new(0)));
    let begin = begun.clone();
    let backend = Backend::new(move |mut wire, _| {
        let head = wire.head().unwrap();
        begin.fetch_add(1, Ordering::SeqCst);
        if head.starts_with("GET /stream") {
            wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
        }
        wire.rest();
        count.fetch_add(1, Ordering::SeqCst);
    });
    let house = House::proxy(io, &backend);
    let cases = [
        GET,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123",
        "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    for (n, request) in cases.iter().enumerate() {
        let mut client = house.connect();
        client.send(request.as_bytes());
        eventually("the backend has the request", || begun.load(Ordering::SeqCst) == n + 1);
        if request.starts_with("GET /stream") {
            client.head().unwrap();
        }
        drop(client);
        eventually(request, || closed.load(Ordering::SeqCst) == n + 1);
    }
    eventually("all are counted", || house.count(499) == 3 && house.count(200) == 1);
    assert_eq!(house.traffic.connections(), 0);
}

fn a_stale_connection_is_replaced_where_that_is_safe(io: IoMode) {
    // Every connection serves one request and resets upon the second.
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let backend = Backend::new(move |mut wire, _| {
        if wire.message().is_some() {
            wire.send(OK.as_bytes());
            wire.stream.peek(&mut [0]).ok();
            count.fetch_add(1, Ordering::SeqCst);
            wire.reset();
        }
    });
    let house = House::proxy(io, &backend);
    let mut client = house.connect();
    for _ in 0..3 {
        client.send(GET.as_bytes());
        assert_eq!(client.answer().status(), 200);
    }
    assert_eq!(backend.connections(), 3, "the second and third went over a new connection");
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(client.answer().status(), 503);
    assert_eq!(backend.connections(), 3, "a POST is not repeated");
    // A connection that was closed while idle is noticed before it is used.
    let backend = Backend::new(|mut wire, _| {
        if wire.message().is_some() {
            wire.send(OK.as_bytes());
        }
    });
    house.pipeline("app", &proxy_to(backend.port));
    for n in 1..4 {
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
        assert_eq!(client.answer().status(), 200);
        assert_eq!(backend.connections(), n);
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn broken_backends(io: IoMode) {
    let house = House::new(io, "", MOCK);
    for (what, bytes, status) in [
        ("closes", "", 503),
        ("garbage", "SSH-2.0-OpenSSH_9.6\r\n", 503),
        ("half a head", "HTTP/1.1 200 OK\r\nConte", 503),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy", 503),
        ("no body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", 0),
        ("half a body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", 0),
        ("half a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123", 0),
        ("half of the chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", 0),
        ("bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n123", 503),
        ("more than announced", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n", 200),
    ] {
        let backend = Backend::new(move |mut wire, _| {
            wire.message();
            wire.send(bytes.as_bytes());
        });
        house.pipeline("app", &proxy_to(backend.port));
        for n in 1..3 {
            let mut client = house.connect();
            client.send(GET.as_bytes());
            match status {
                // The head may be on its way already: then the client sees that the rest is missing.
                0 => match client.head() {
                    None => {}
                    Some(head) if head.starts_with("HTTP/1.1 503") => {}
                    Some(head) => {
                        assert!(head.starts_with("HTTP/1.1 200"), "{what}: {head}");
                        let rest = client.rest();
                        assert!(rest.len() < 10 && !rest.ends_with(b"0\r\n\r\n"), "{what}: {rest:?}");
                    }
                },
                status => assert_eq!(client.answer().status(), status, "{what}"),
            }
            assert_eq!(backend.connections(), n, "{what}: the connection is not used again");
        }
    }
    // Nobody listens.
    house.pipeline("app", &proxy_to(free_port()));
    assert_eq!(house.ask(GET).status(), 503);
    // An answer until close is whole, and chunked for the client.
    let backend = Backend::new(move |mut wire, _| {
        wire.message();
        wire.send(b"HTTP/1.0 200 OK\r\n\r\nall of it");
    });
    house.pipeline("app", &proxy_to(backend.port));
    let mut client = house.connect();
    for _ in 0..2 {
        client.send(GET.as_bytes());
        assert_eq!(client.answer().text(), "all of it");
    }
}

fn no_more_connections_than_allowed(io: IoMode) {
    let house = House::new(io, "maxConnections: 2", MOCK);
    let mut clients: Vec<Wire> = (0..5).map(|_| house.connect()).collect();
    for client in &mut clients {
        client.send(GET.as_bytes());
    }
    assert_eq!(clients[0].answer().status(), 200);
    assert_eq!(clients[1].answer().status(), 200);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(house.traffic.connections(), 2);
    assert_eq!(house.count(200), 2, "the others wait");
    // As soon as one leaves, the next is served; a higher limit lets all in.
    drop(clients.remove(0));
    assert_eq!(clients[1].answer().status(), 200);
    house.server("maxConnections: 100");
    assert_eq!(clients[2].answer().status(), 200);
    assert_eq!(clients[3].answer().status(), 200);
    assert!(house.limit("max_connections") > 0);
}

fn other_rules_fail_no_request(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = House::proxy(io, &backend);
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (mut client, stop, asked) = (house.connect(), stop.clone(), asked.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    client.send(GET.as_bytes());
                    assert_eq!(client.answer().status(), 200);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for n in 0..40 {
        house.server(&format!(
            "rules: [{{paths: [{{path: /other{n}, backend: app}}, {{pathPrefix: /, backend: app}}]}}]"
        ));
        house.pipeline("app", if n % 2 == 0 { MOCK } else { Box::leak(proxy_to(backend.port).into_boxed_str()) });
        std::thread::sleep(Duration::from_millis(5));
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    assert!(asked.load(Ordering::Relaxed) > 100);
    assert_eq!(house.traffic.servers()[0].1.state().0, "running");
}

fn rules_that_a_controller_makes_come_change_and_go_one_by_one(io: IoMode) {
    let house = House::new(io, "rules: [{host: own.test, paths: [{pathPrefix: /, backend: app}]}]", MOCK);
    let says = |text: &str| format!("filters: [{{name: m, kind: Mock, rules: [{{code: 200, body: {text}}}]}}]");
    for name in ["one", "two"] {
        house.traffic.apply_pipeline(name, &spec!(&says(name))).unwrap();
    }
    let rule = |host: &str, backend: &str| {
        let paths = serde_json::json!([{"pathPrefix": "/", "backend": backend}]);
        Some(base_model::Kept::of(&if host.is_empty() {
            serde_json::json!({"paths": paths})
        } else {
            serde_json::json!({"host": host, "paths": paths})
        }))
    };
    let apply = |server: &str, changes: &[(&str, Option<base_model::Kept>)]| {
        let changes: Vec<_> = changes.iter().map(|(key, rule)| ((*key).to_owned(), rule.clone())).collect();
        let results = house.traffic.apply_rules(server, &changes);
        results.into_iter().filter_map(|(_, done)| done.err()).collect::<Vec<String>>()
    };
    // One connection, so that none is closed by a change.
    let mut client = house.connect();
    let mut asks = |host: &str| {
        client.send(format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        let answer = client.answer();
        if answer.status() == 200 { answer.text() } else { answer.status().to_string() }
    };
    assert_eq!((asks("own.test"), asks("a.test")), ("mocked".to_owned(), "404".to_owned()));
    let first = [("00000 a.test", rule("a.test", "one")), ("65535 ", rule("", "two"))];
    assert_eq!(apply("web", &first), [""; 0]);
    assert_eq!((asks("own.test"), asks("a.test"), asks("b.test")), ("mocked".into(), "one".into(), "two".into()));
    assert_eq!(apply("web", &[("00000 a.test", rule("a.test", "two"))]), [""; 0]);
    assert_eq!((asks("a.test"), asks("b.test")), ("two".into(), "two".into()));
    // One that cannot be used leaves what was there, and what comes with it is in force.
    let refused = apply("web", &[("00000 a.test", rule("a.test*x", "one")), ("00000 b.test", rule("b.test", "one"))]);
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!((asks("a.test"), asks("b.test")), ("two".into(), "one".into()));
    // Another document keeps them; a document that is not there yet begins with them.
    house.server("rules: []");
    assert_eq!((asks("own.test"), asks("b.test")), ("two".into(), "one".into()));
    assert_eq!(apply("web", &[("00000 b.test", None), ("65535 ", None)]), [""; 0]);
    assert_eq!((asks("a.test"), asks("b.test")), ("two".into(), "404".into()));
    assert_eq!(apply("later", &[("65535 ", rule("", "one"))]), [""; 0]);
    let port = free_port();
    let text = format!("address: 127.0.0.1\nport: {port}\nrules: []\n");
    house.traffic.apply_server("later", &spec!(&text)).unwrap();
    let mut later = Wire::new(std::net::TcpStream::connect(("127.0.0.1", port)).unwrap());
    later.send(GET.as_bytes());
    assert_eq!(later.answer().text(), "one");
}

fn a_removed_server_finishes_what_it_began(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        wire.message();
        std::thread::sleep(Duration::from_millis(400));
        wire.send(OK.as_bytes());
        wire.rest();
    });
    let house = House::proxy(io, &backend);
    let (mut idle, mut active) = (house.connect(), house.connect());
    active.send(GET.as_bytes());
    eventually("both are connected and the backend is at work", || {
        house.traffic.connections() == 2 && backend.connections() == 1
    });
    let server = house.traffic.servers()[0].1.clone();
    house.traffic.remove_server("web");
    assert!(idle.ends());
    let answer = active.answer();
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("ok", Some("close")));
    assert!(active.ends());
    eventually("nothing is left", || server.connections() == 0);
    assert!(std::net::TcpStream::connect(("127.0.0.1", house.port)).is_err());
}

/// A controller, or whoever applies a folder, takes a server and its pipelines away in one change.
fn a_removed_server_answers_by_what_went_with_it(io: IoMode) {
    let house = House::new(io, "globalFilter: around", MOCK);
    let around = "afterPipeline: {filters: [{name: a, kind: ResponseAdaptor, header: {set: {X-Around: here}}}]}\nfallthrough: {pipeline: true}";
    house.traffic.apply_global_filter("around", &spec!(around)).unwrap();
    // One has begun to ask, one has asked before and goes on within the time that idle connections have.
    let (mut begun, mut idle) = (house.connect(), house.connect());
    begun.send(b"GET / HTTP/1.1\r\n");
    idle.send(GET.as_bytes());
    assert_eq!(idle.answer().text(), "mocked");
    eventually("both are connected", || house.traffic.connections() == 2);
    house.traffic.release(Duration::ZERO, support::PATIENCE);
    house.traffic.remove_server("web");
    house.traffic.remove_pipeline("app");
    house.traffic.remove_global_filter("around");
    begun.send(b"Host: a\r\n\r\n");
    idle.send(GET.as_bytes());
    for client in [&mut begun, &mut idle] {
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text().as_str(), answer.field("x-around")), (200, "mocked", Some("here")));
    }
}

fn a_port_in_use_is_tried_again(io: IoMode) {
    let house = House::new(io, "", MOCK);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let house = House { port, ..house };
    house.server("");
    let (state, reason) = house.traffic.servers()[0].1.state();
    let reason = reason.unwrap_or_default();
    assert!(state == "failed" && reason.contains(&format!("127.0.0.1:{port}")), "{state} {reason}");
    house.traffic.retry();
    assert_eq!(house.state(), "failed");
    drop(taken);
    house.traffic.retry();
    assert_eq!(house.state(), "running");
    assert_eq!(house.ask(GET).text(), "mocked");
}

fn another_port(io: IoMode) {
    let house = House::new(io, "", MOCK);
    let mut kept = house.connect();
    kept.send(GET.as_bytes());
    assert_eq!(kept.answer().status(), 200);
    let house = House { port: free_port(), ..house };
    house.server("");
    assert_eq!(house.ask(GET).text(), "mocked");
    assert!(kept.ends());
    // The same port on every address: the old socket is in the way until it is closed.
    house.traffic.apply_pipeline("app", &spec(MOCK)).unwrap();
    house.everywhere();
    assert_eq!(house.state(), "running");
    assert_eq!(house.ask(GET).text(), "mocked");
}

fn old_clients(io: IoMode) {
    let backend = Backend::recording(|m| match m.target() {
        "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n".into(),
        _ => OK.into(),
    });
    let house = House::proxy(io, &backend);
    let mut client = house.connect();
    client.send(b"GET /chunked HTTP/1.0\r\n\r\n");
    let answer = String::from_utf8(client.rest()).unwrap();
    assert!(answer.ends_with("\r\n\r\nabcde") && !answer.to_lowercase().contains("chunked"), "{answer}");
    let mut client = house.connect();
    for _ in 0..2 {
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(client.answer().field("connection"), Some("keep-alive"));
    }
    client.send(b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().text(), "ok");
    assert!(client.ends());
    assert!(backend.seen().iter().all(|m| m.head.contains(" HTTP/1.1\r\n")));
}

fn captures_reach_the_backend(io: IoMode) {
    let backend = Backend::answering(OK);
    let rules = "routerKind: RadixTree\nxForwardedFor: true\nrules: [{paths: [{path: '/u/{id:[0-9]+}/{rest}', backend: app, \
        rewriteTarget: '/{rest}/{id}', setHeaders: {X-Id: 'id=$id;$request_method;${arg_q:none}', X-Gone: ''}}]}]";
    let house = House::new(io, rules, &proxy_to(backend.port));
    assert_eq!(
        house.ask("GET /u/42/x%20y?q=7 HTTP/1.1\r\nHost: a\r\nX-Gone: 1\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n").status(),
        200
    );
    let seen = &backend.seen()[0];
    assert_eq!(seen.target(), "/x%20y/42?q=7");
    assert_eq!((seen.field("x-id"), seen.field("x-gone")), (Some("id=42;GET;7"), None));
    assert_eq!(seen.field("x-forwarded-for"), Some("9.9.9.9,127.0.0.1"));
    assert_eq!(house.ask("GET /u/me/x HTTP/1.1\r\nHost: a\r\n\r\n").status(), 404);
}

fn a_host_that_set_headers_gives_reaches_the_backend(io: IoMode) {
    let backend = Backend::answering(OK);
    let rules = "rules: [{paths: [{pathPrefix: /, backend: app, setHeaders: {host: '$arg_h'}}]}]";
    let house = House::new(io, rules, &proxy_to(backend.port));
    for query in ["h=b.test:81", "h=a%20b", ""] {
        assert_eq!(house.ask(&format!("GET /?{query} HTTP/1.1\r\nHost: a.test\r\n\r\n")).status(), 200, "{query}");
    }
    let hosts: Vec<_> = backend.seen().iter().map(|m| m.field("host").unwrap_or_default().to_owned()).collect();
    // What is no host changes nothing, and is counted.
    assert_eq!(hosts, ["b.test:81", "a.test", "a.test"]);
    assert_eq!(house.limit("set_host"), 2);
}

/// What a filter answers at once is still sent to a client that has closed its half.
fn a_client_may_finish_sending_with_its_request(io: IoMode) {
    let house = House::new(io, "", MOCK);
    let mut client = house.connect();
    client.send(GET.repeat(3).as_bytes());
    client.finish_sending();
    for _ in 0..3 {
        assert_eq!(client.answer().text(), "mocked");
    }
    assert!(client.ends());
}

fn large_heads_and_heads_byte_by_byte(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = House::proxy(io, &backend);
    let line = format!("X-Long: {}\r\n", "v".repeat(20_000));
    let mut client = house.connect();
    client.send(format!("GET /long HTTP/1.1\r\nHost: a\r\n{}\r\n", line.repeat(3)).as_bytes());
    assert_eq!(client.answer().status(), 200);
    assert!(backend.seen()[0].head.len() > 60_000);
    for byte in
        "POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n".bytes()
    {
        client.send(&[byte]);
        std::thread::sleep(Duration::from_micros(300));
    }
    assert_eq!(client.answer().status(), 200);
    let seen = backend.seen().pop().unwrap();
    assert_eq!((seen.text().as_str(), seen.trailers.as_str()), ("abc", "X-T: 1\n"));
    // Too large, with and without an end of line in sight.
    for request in [
        format!("GET / HTTP/1.1\r\nHost: a\r\n{}", line.repeat(4)),
        format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "v".repeat(70_000)),
    ] {
        assert_eq!(house.ask(&request).status(), 431);
    }
}

fn an_empty_chunked_answer_keeps_its_trailers(io: IoMode) {
    let backend = Backend::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 0\r\n\r\n");
    let house = House::proxy(io, &backend);
    let mut client = house.connect();
    for _ in 0..2 {
        client.send(GET.as_bytes());
        let answer = client.answer();
        assert_eq!((answer.body.len(), answer.trailers.as_str()), (0, "X-Sum: 0\n"));
    }
}

/// A filter has the whole body in memory; the backend answers after the head, promises to go on, and never reads.
fn a_connection_with_an_unread_request_serves_no_other(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        wire.head();
        wire.send(OK.as_bytes());
        std::thread::sleep(Duration::from_secs(3));
    });
    let adapt = "{name: r, kind: RequestAdaptor, body: BIG}";
    let proxy = proxy_to(backend.port).replace("filters: [", "").trim_end_matches(']').to_owned();
    let big = "x".repeat(9 << 20);
    let house = House::new(io, "", &format!("filters: [{}, {proxy}]", adapt.replace("BIG", &big)));
    for n in 1..3 {
        assert_eq!(house.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx").status(), 200);
        assert_eq!(backend.connections(), n);
    }
}

fn spec(text: &str) -> base_model::PipelineSpec {
    base_model::decode(&base_model::yaml::parse_document(text).unwrap(), "").unwrap().value
}

#[test]
fn time_outs_have_defaults() {
    assert_eq!(Timeouts::default().head, Duration::from_secs(30));
}
