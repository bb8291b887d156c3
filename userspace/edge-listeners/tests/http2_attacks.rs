//! What has brought HTTP/2 servers down, frame by frame: each is found out, counted, and costs its neighbours nothing.

#[macro_use]
mod support;
#[path = "support/h2.rs"]
mod h2_client;

use base_runtime::IoMode;
use edge_listeners::Timeouts;
use h2_client::{Raw, ask, block, frame, get, get_block, run};
use std::time::Duration;
use support::{Backend, House, eventually, proxy_to, short_timeouts};

on_both_drivers![
    floods_of_cheap_frames,
    requests_reset_at_once,
    requests_that_make_the_server_reset_them,
    heads_without_end,
    heads_that_unfold,
    many_small_pieces,
    lengths_that_do_not_match,
    windows_that_stay_closed,
    bytes_that_nobody_reads,
    a_client_that_reads_nothing,
    an_end_that_cannot_be_written,
    heads_that_weigh_together,
    more_requests_than_allowed,
];

const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn house(io: IoMode, backend: &Backend) -> House {
    House::new(io, "h2c: true", &proxy_to(backend.port))
}

/// Somebody else, on a connection made before.
/// Whom a busy machine lets speak too late is turned away, as it should be, and comes again.
fn neighbour_is_served(house: &House) {
    let over_http2 = || {
        run(async {
            let io = tokio::net::TcpStream::connect(("127.0.0.1", house.port)).await.ok()?;
            let (requests, connection) = h2::client::handshake(io).await.ok()?;
            tokio::task::spawn_local(connection);
            ask(&requests, get("/"), b"").await.ok()
        })
    };
    eventually("a neighbour is served over HTTP/2", || over_http2().is_some_and(|answer| answer.text() == "ok"));
    eventually("a neighbour is served over HTTP/1.1", || {
        let mut wire = house.connect();
        wire.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n") && wire.message().is_some_and(|answer| answer.text() == "ok")
    });
}

/// A backend that answers `/wait` once what comes with it is gone.
fn waiting_backend() -> (std::sync::mpsc::Sender<()>, Backend) {
    let (release, released) = std::sync::mpsc::channel();
    let released = std::sync::Mutex::new(released);
    let backend = Backend::new(move |mut wire, _| {
        while let Some(message) = wire.message() {
            if message.target() == "/wait" {
                let _ = released.lock().unwrap().recv();
            }
            wire.send(OK.as_bytes());
        }
    });
    (release, backend)
}

fn post_block() -> Vec<u8> {
    block(&[(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")])
}

fn floods_of_cheap_frames(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = house(io, &backend);
    let get = get_block("/");
    let floods: [(&str, Vec<u8>, Vec<u8>); 7] = [
        ("h2_pings", vec![], frame(PING, 0, 0, &[0; 8])),
        ("h2_settings", vec![], frame(SETTINGS, 0, 0, &[])),
        ("h2_priorities", vec![], frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1])),
        ("h2_priorities", vec![], frame(16, 0, 0, &[0, 0, 0, 3, b'u'])),
        ("h2_unknown_frames", vec![], frame(77, 0, 0, b"grease")),
        ("h2_window_updates", vec![], frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("h2_empty_data", frame(HEADERS, END_HEADERS, 1, &post_block()), frame(0, 0, 1, &[])),
    ];
    for (name, before, each) in floods {
        let had = house.limit(name);
        let mut raw = Raw::new(house.port);
        raw.send(&before);
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &get));
        raw.send(&each.repeat(6_000));
        assert_eq!(raw.code(0), Some(ENHANCE_YOUR_CALM), "{name}");
        eventually(name, || house.limit(name) == had + 1);
    }
    neighbour_is_served(&house);
    eventually("none of them is left", || house.traffic.connections() == 0);
}

/// Rapid Reset (CVE-2023-44487).
fn requests_reset_at_once(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = house(io, &backend);
    let mut raw = Raw::new(house.port);
    let flood: Vec<u8> = (0..1_000u32)
        .flat_map(|n| {
            let stream = 2 * n + 1;
            let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &get_block("/"));
            [head, frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
        })
        .collect();
    raw.send(&flood);
    assert_eq!(raw.code(0), Some(ENHANCE_YOUR_CALM));
    // Either the machine minds those it never gave away, or the watch minds all of them.
    eventually("counted", || house.limit("h2_calm") + house.limit("h2_resets") == 1);
    // One after another, each given to a backend before it is reset, they are found out as well.
    let mut raw = Raw::new(house.port);
    let mut stream = 1;
    while stream < 2_000 {
        let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &get_block("/"));
        if !raw.send(&head) {
            break;
        }
        std::thread::sleep(Duration::from_micros(300));
        raw.send(&frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        stream += 2;
    }
    eventually("counted", || house.limit("h2_calm") + house.limit("h2_resets") == 2);
    assert!(backend.seen().len() < 1_200, "{} reached the backend", backend.seen().len());
    neighbour_is_served(&house);
}

/// MadeYouReset (CVE-2025-8671): frames that are wrong make the server reset a stream that its client never reset.
fn requests_that_make_the_server_reset_them(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = house(io, &backend);
    let mut raw = Raw::new(house.port);
    for n in 0..1_000u32 {
        let stream = 2 * n + 1;
        let head = frame(HEADERS, END_HEADERS, stream, &post_block());
        let wrong = frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 0]);
        if !raw.send(&[head, wrong].concat()) {
            break;
        }
    }
    assert!(raw.code(0).is_some_and(|code| code != 0));
    let counted = || house.limit("h2_calm") + house.limit("h2_protocol") + house.limit("h2_streams");
    eventually("counted", || counted() >= 1);
    neighbour_is_served(&house);
}

/// CONTINUATION flood (CVE-2024-27316 and its kin), with and without content.
fn heads_without_end(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = house(io, &backend);
    for piece in [&b""[..], &block(&[("x-a", "b")]), &block(&[("x-long", &"x".repeat(10_000))])] {
        let mut raw = Raw::new(house.port);
        raw.send(&frame(HEADERS, 0, 1, &get_block("/")));
        for _ in 0..2_000 {
            if !raw.send(&frame(CONTINUATION, 0, 1, piece)) {
                break;
            }
        }
        assert!(raw.code(0).is_some_and(|code| code == ENHANCE_YOUR_CALM));
    }
    eventually("counted", || house.limit("h2_calm") + house.limit("h2_continuations") == 3);
    neighbour_is_served(&house);
}

/// HPACK bombs: a byte on the wire is kilobytes of fields, or a field of its own.
fn heads_that_unfold(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = house(io, &backend);
    // One entry of the table, named over and over.
    let mut bomb = get_block("/");
    bomb.extend([0x40, 3]);
    bomb.extend(b"x-a");
    bomb.extend([127, 128 + 73, 29]);
    bomb.extend([b'x'; 3_912]);
    bomb.extend([0x80 | 62; 8_000]);
    let mut raw = Raw::new(house.port);
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb));
    assert_eq!(raw.code(0), Some(ENHANCE_YOUR_CALM));
    eventually("counted", || house.limit("h2_calm") == 1);
    // More than is kept, and not so much that it is not read: answered, counted, and the connection stays.
    let mut large = bomb[..bomb.len() - 8_000].to_vec();
    large.extend([0x80 | 62; 20]);
    let mut raw = Raw::new(house.port);
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &large));
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &get_block("/")));
    for stream in [1, 3] {
        assert!(raw.until(HEADERS).is_some_and(|frame| frame.stream == stream));
    }
    assert_eq!(house.limit("head_too_large"), 1);
    // Crumbs of a cookie, and fields of hardly any size: a few thousand of each.
    for field in [("cookie", "a"), ("x", "")] {
        let mut head = get_block("/");
        head.extend(block(&[field]).repeat(1_200));
        let mut raw = Raw::new(house.port);
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &head));
        // Answered with 431, and the connection stays.
        assert!(raw.until(HEADERS).is_some_and(|frame| frame.stream == 1));
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &get_block("/")));
        assert!(raw.until(HEADERS).is_some_and(|frame| frame.stream == 3));
    }
    assert_eq!((backend.seen().len(), house.limit("too_many_fields")), (3, 2));
    neighbour_is_served(&house);
}

fn many_small_pieces(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = House::new(io, "h2c: true", &proxy_to(backend.port));
    let mut raw = Raw::new(house.port);
    raw.send(&frame(HEADERS, END_HEADERS, 1, &post_block()));
    for _ in 0..200 {
        raw.send(&frame(0, 0, 1, b"x").repeat(100));
    }
    raw.send(&frame(0, END_STREAM, 1, b"x"));
    // A slow sender of many frames is no attacker as long as what it sends is taken.
    let answer = raw.until(HEADERS);
    assert!(answer.is_some() || house.limit("h2_calm") == 1);
    if answer.is_some() {
        eventually("all came", || backend.seen().first().is_some_and(|seen| seen.body.len() == 20_001));
    }
    neighbour_is_served(&house);
}

fn lengths_that_do_not_match(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        while let Some(message) = wire.message() {
            assert_eq!(message.body.len(), 5, "nothing was framed otherwise than announced");
            wire.send(OK.as_bytes());
        }
    });
    let house = house(io, &backend);
    let head = |length| {
        block(&[
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "a.test"),
            (":path", "/"),
            ("content-length", length),
        ])
    };
    // Shorter, longer, and none at all where some was announced.
    let mut raw = Raw::new(house.port);
    for (n, (announced, pieces)) in
        [("5", &[&b"1234"[..]][..]), ("5", &[b"123456"]), ("5", &[b"123", b"456"]), ("5", &[b""])].iter().enumerate()
    {
        let stream = 2 * n as u32 + 1;
        raw.send(&frame(HEADERS, END_HEADERS, stream, &head(announced)));
        for (at, piece) in pieces.iter().enumerate() {
            raw.send(&frame(0, u8::from(at + 1 == pieces.len()), stream, piece));
        }
        assert_eq!(raw.code(stream), Some(1), "{pieces:?}");
    }
    raw.send(&frame(HEADERS, END_HEADERS, 21, &head("5")));
    raw.send(&frame(0, END_STREAM, 21, b"12345"));
    assert!(raw.until(HEADERS).is_some());
    eventually("it is counted", || house.count(200) == 1);
}

/// What is sent on a stream that was reset lies nowhere: it keeps no time from running, and no memory.
fn bytes_that_nobody_reads(io: IoMode) {
    let (release, backend) = waiting_backend();
    let timeouts = Timeouts { rate: 0, ..short_timeouts() };
    let house = House::with_timeouts(io, "h2c: true", &proxy_to(backend.port), timeouts);
    let mut raw = Raw::new(house.port);
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &get_block("/wait")));
    let announced = [post_block(), block(&[("content-length", "1")])].concat();
    raw.send(&frame(HEADERS, END_HEADERS, 3, &announced));
    raw.send(&frame(0, 0, 3, b"longer"));
    assert_eq!(raw.code(3), Some(1));
    for _ in 0..600 {
        assert!(raw.send(&frame(0, 0, 3, &[7; 16_384])));
    }
    raw.send(&frame(HEADERS, END_HEADERS, 5, &post_block()));
    raw.send(&frame(0, 0, 5, b"slow"));
    eventually("a slow upload ends in its time", || house.limit("body_timeout") == 1);
    drop(release);
    neighbour_is_served(&house);
}

/// Streams whose windows never open hold a bounded part of their answers, for a bounded time.
fn windows_that_stay_closed(io: IoMode) {
    let backend = Backend::recording(|message| match message.target() {
        "/large" => [&b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n"[..], &[7; 300_000]].concat(),
        _ => OK.as_bytes().to_vec(),
    });
    let timeouts = Timeouts { rate: 0, ..short_timeouts() };
    let house = House::with_timeouts(io, "h2c: true", &proxy_to(backend.port), timeouts);
    let mut raw = Raw::with_settings(house.port, &[(4, 0)]);
    for n in 0..100u32 {
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &get_block("/large")));
    }
    // Of each: a piece, another held until it has gone, and what its backend's socket has received, which is up to eight on the ring.
    let held = || {
        let stats = house.runtime.workers()[0].stats();
        stats.buffers_in_use - stats.buffers_ready
    };
    std::thread::sleep(Duration::from_millis(300));
    assert!(held() < 100 * 12, "{} buffers", held());
    neighbour_is_served(&house);
    eventually("each is cut off", || house.limit("response_stalled") == 100);
    neighbour_is_served(&house);
}

/// Windows as wide as they can be, and nothing read: the connection itself is what does not move.
fn a_client_that_reads_nothing(io: IoMode) {
    let backend = Backend::recording(|message| match message.target() {
        "/large" => [&b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n"[..], &vec![7; 3_000_000]].concat(),
        _ => OK.as_bytes().to_vec(),
    });
    let timeouts = Timeouts { rate: 0, ..short_timeouts() };
    let house = House::with_timeouts(io, "h2c: true", &proxy_to(backend.port), timeouts);
    let mut raw = Raw::with_settings(house.port, &[(4, 0x7fff_ffff)]);
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0, 0]));
    for n in 0..50u32 {
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &get_block("/large")));
    }
    eventually("it is cut off", || house.limit("response_stalled") > 0 && house.traffic.connections() == 0);
    neighbour_is_served(&house);
    eventually("nothing is kept", || {
        let stats = house.runtime.workers()[0].stats();
        stats.buffers_in_use - stats.buffers_ready < 8
    });
}

/// A connection that is to end, and whose client reads nothing: it is waited for, and not asked for in every turn.
fn an_end_that_cannot_be_written(io: IoMode) {
    let backend = Backend::recording(|message| match message.target() {
        "/large" => [&b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n"[..], &vec![7; 3_000_000]].concat(),
        _ => OK.as_bytes().to_vec(),
    });
    let long = Duration::from_secs(30);
    let timeouts = Timeouts { rate: 0, send: long, linger: long, ..short_timeouts() };
    let house = House::with_timeouts(io, "h2c: true", &proxy_to(backend.port), timeouts);
    let mut raw = Raw::with_settings(house.port, &[(4, 0x7fff_ffff)]);
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0, 0]));
    for n in 0..20u32 {
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &get_block("/large")));
    }
    let stats = || house.runtime.workers()[0].stats();
    let mut sent = 0;
    eventually("nothing moves any more", || {
        std::thread::sleep(Duration::from_millis(100));
        let had = std::mem::replace(&mut sent, stats().bytes_out);
        sent > 1_000_000 && sent == had
    });
    raw.send(&frame(HEADERS, 0, 101, &get_block("/")));
    eventually("it is to end", || house.limit("head_timeout") == 1);
    let had = stats().turns;
    std::thread::sleep(Duration::from_millis(300));
    let turns = stats().turns - had;
    assert!(turns < 1_000, "{turns} turns");
    assert_eq!(house.traffic.connections(), 1, "it waits for its end to be written");
}

/// An HPACK bomb of many requests, each with a head that is just allowed and a few bytes on the wire.
fn heads_that_weigh_together(io: IoMode) {
    let (release, backend) = waiting_backend();
    let house = house(io, &backend);
    let mut raw = Raw::new(house.port);
    let mut first = get_block("/wait");
    first.extend([0x40, 3]);
    first.extend(b"x-a");
    first.extend([127, 128 + 73, 29]);
    first.extend([b'x'; 3_912]);
    raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &first));
    let mut next = get_block("/wait");
    next.extend([0x80 | 62; 15]);
    for n in 1..100u32 {
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &next));
    }
    // Each is 60 KiB with its overhead, and together they have room for 34. What was refused may be asked again.
    eventually("those beyond are refused", || (60..70).contains(&house.limit("h2_heads")));
    assert_eq!(raw.code(199), Some(7));
    neighbour_is_served(&house);
    drop(release);
    eventually("the others are answered", || house.count(200) >= 30);
    eventually("and there is room again", || {
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 201, &next)) && raw.until(HEADERS).is_some()
    });
}

fn more_requests_than_allowed(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        while let Some(message) = wire.message() {
            match message.target() {
                "/wait" => drop(wire.exactly(1)),
                _ => drop(wire.send(OK.as_bytes())),
            }
        }
    });
    let house = house(io, &backend);
    let mut raw = Raw::new(house.port);
    for n in 0..129u32 {
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &get_block("/wait")));
    }
    // REFUSED_STREAM: it may be asked again.
    assert_eq!(raw.code(257), Some(7));
    neighbour_is_served(&house);
}
