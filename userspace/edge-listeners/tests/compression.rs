//! `compression` of a Proxy between real sockets, on both drivers: whose answers are packed, and that packing holds nothing back and
//! nothing up.

#[macro_use]
mod support;

use base_runtime::IoMode;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use support::{Backend, House, Message, Wire, eventually, proxy_to};

on_both_drivers![
    answers_are_packed_where_it_is_allowed_and_gains_something,
    events_are_not_held_back,
    what_came_before_a_break_is_handed_on,
    a_slow_reader_slows_the_backend_down,
];

fn answers_are_packed_where_it_is_allowed_and_gains_something(io: IoMode) {
    // The request says what it wants: status, length of the body (`chunked` for one of unknown length), and a field.
    let backend = Backend::recording(|message| {
        let wish = |name: &str| message.field(name).unwrap_or_default().to_owned();
        let (length, field) = (wish("x-length"), wish("x-field"));
        let head = format!("HTTP/1.1 {} x\r\nETag: \"v\"\r\n{field}\r\n", wish("x-status"));
        if length == "chunked" {
            return format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\naaaaa\r\n0\r\n\r\n").into_bytes();
        }
        let length = length.parse().unwrap();
        let sent =
            if message.head.starts_with("HEAD") || ["204", "304"].contains(&&*wish("x-status")) { 0 } else { length };
        format!("{head}Content-Length: {length}\r\n\r\n{}", "a".repeat(sent)).into_bytes()
    });
    let with =
        |compression: &str| proxy_to(backend.port).replace("pools:", &format!("compression: {compression}, pools:"));
    let house = House::new(io, "", &with("{minLength: 100}"));
    let (text, gzip) = ("Content-Type: text/plain", "gzip");
    for (status, length, field, accept, packed, varies) in [
        (200, "100", text, gzip, true, true),
        (200, "100", text, "br;q=1, gzip;q=0.5", true, true),
        (200, "200000", text, "*", true, true),
        (404, "100", "Content-Type: application/problem+json", gzip, true, true),
        (503, "100", "Content-Type: image/svg+xml", gzip, true, true),
        (200, "100", "X-Type: none", gzip, true, true),
        (200, "chunked", text, gzip, true, true),
        (200, "chunked", "Content-Type: Text/Event-Stream;charset=utf-8", gzip, true, true),
        (200, "100", text, "identity", false, true),
        (200, "100", text, "gzip;q=0, *", false, true),
        (200, "100", text, "gzip;q=0.4, identity;q=0.5", false, true),
        (200, "100", text, "", false, true),
        (200, "99", text, gzip, false, false),
        (200, "0", text, gzip, false, false),
        (200, "100", "Content-Type: IMAGE/png", gzip, false, false),
        (200, "100", "Content-Type: application/zip; a=b", gzip, false, false),
        (200, "chunked", "Content-Type: application/grpc+proto", gzip, false, false),
        (200, "100", "Content-Encoding: br", gzip, false, false),
        (200, "100", "Cache-Control: max-age=1, no-transform", gzip, false, false),
        (206, "100", "Content-Range: bytes 0-99/200", gzip, false, false),
        (204, "0", text, gzip, false, false),
        (304, "100", text, gzip, false, false),
    ] {
        let ask = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {accept}\r\nX-Status: {status}\r\nX-Length: {length}\r\nX-Field: {field}\r\n\r\n"
        );
        let mut client = house.connect();
        client.send(ask.as_bytes());
        let answer = if status == 304 { client.bare_answer() } else { client.answer() };
        assert_eq!(answer.status(), status, "{ask}");
        assert_eq!(answer.field("content-encoding") == Some("gzip"), packed, "{ask}{}", answer.head);
        assert_eq!(answer.field("vary"), varies.then_some("Accept-Encoding"), "{ask}");
        assert_eq!(answer.field("etag"), Some(if packed { "W/\"v\"" } else { "\"v\"" }), "{ask}");
        if ![204, 304].contains(&status) {
            let plain = if packed { unpacked(&answer.body) } else { answer.text() };
            let length = length.parse().unwrap_or(5);
            assert!(plain == "a".repeat(length), "{ask}: {} bytes", plain.len());
        }
    }
    // What GET would give has another length than the backend says.
    let head = |length| {
        let mut client = house.connect();
        let ask = "HEAD / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nX-Status: 200\r\nX-Field: A: b\r\n";
        client.send(format!("{ask}X-Length: {length}\r\n\r\n").as_bytes());
        client.bare_answer()
    };
    let (long, short) = (head(100), head(99));
    assert_eq!((long.field("content-length"), long.field("vary")), (None, Some("Accept-Encoding")));
    assert_eq!((short.field("content-length"), short.field("vary")), (Some("99"), None));
    let one =
        "GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nX-Status: 200\r\nX-Length: 1\r\nX-Field: A: b\r\n\r\n";
    house.pipeline("app", &with("{}"));
    assert_eq!(house.ask(one).field("content-encoding"), Some("gzip"), "no length is too short");
    house.pipeline("app", &proxy_to(backend.port));
    assert_eq!(house.ask(one).field("content-encoding"), None, "nobody asked for it");
}

fn events_are_not_held_back(io: IoMode) {
    let (go_on, may_go_on) = mpsc::channel();
    let may_go_on = Mutex::new(may_go_on);
    let backend = Backend::new(move |mut wire, _| {
        wire.head();
        wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for n in 0..4 {
            wire.send(format!("9\r\ndata: {n}\n\n\r\n").as_bytes());
            let _ = may_go_on.lock().unwrap().recv();
        }
        wire.send(b"0\r\n\r\n");
    });
    let house = House::new(io, "", &packing(backend.port));
    let mut client = house.connect();
    client.send(GET.as_bytes());
    let mut answer = Message { head: client.head().unwrap(), ..Message::default() };
    assert_eq!(answer.field("content-encoding"), Some("gzip"));
    for n in 1..5 {
        // The next one does not exist before this one has come.
        while unpacked(&answer.body).matches("data:").count() < n {
            assert!(chunk(&mut client, &mut answer.body), "the answer ended before event {n}");
        }
        go_on.send(()).unwrap();
    }
    while chunk(&mut client, &mut answer.body) {}
    assert_eq!(unpacked(&answer.body), "data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\n");
}

fn what_came_before_a_break_is_handed_on(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        wire.head();
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
    });
    let house = House::new(io, "", &packing(backend.port));
    let mut client = house.connect();
    client.send(GET.as_bytes());
    let mut answer = Message { head: client.head().unwrap(), ..Message::default() };
    assert_eq!(answer.field("content-encoding"), Some("gzip"));
    while unpacked(&answer.body) != "first" {
        assert!(chunk(&mut client, &mut answer.body), "{:?} came", unpacked(&answer.body));
    }
    assert!(!client.rest().ends_with(b"0\r\n\r\n"), "a body that is cut short must not end well");

    // Its bound counts what the backend sent, not what is left of it.
    let backend = Backend::recording(|_| {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n";
        format!("{head}{}\r\n0\r\n\r\n", "a".repeat(1 << 20)).into_bytes()
    });
    let house = House::new(io, "", &packing(backend.port).replace("Size: -1", "Size: 500000"));
    let mut client = house.connect();
    client.send(GET.as_bytes());
    assert!(!client.rest().ends_with(b"0\r\n\r\n"));
    assert_eq!(house.limit("response_body_bytes"), 1);
}

fn a_slow_reader_slows_the_backend_down(io: IoMode) {
    const SIZE: usize = 96 << 20;
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    let backend = Backend::new(move |mut wire, _| {
        wire.head();
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes());
        // Noise: packed it is as long as before.
        let mut noise = 1_u64;
        for _ in 0..SIZE / (64 << 10) {
            let piece: Vec<u8> = std::iter::repeat_with(|| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                noise.to_le_bytes()
            })
            .take(8 << 10)
            .flatten()
            .collect();
            if !wire.send(&piece) {
                break;
            }
            count.fetch_add(piece.len(), Ordering::Relaxed);
        }
    });
    let house = House::new(io, "", &packing(backend.port));
    let mut client = house.connect();
    client.send(GET.as_bytes());
    let mut before = usize::MAX;
    eventually("the backend is held up", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = written.load(Ordering::Relaxed);
        std::mem::replace(&mut before, now) == now && now > 0
    });
    assert!(before < SIZE / 2, "{before} bytes were taken for a client that reads nothing");
    assert!(client.head().is_some_and(|head| head.contains("Content-Encoding: gzip\r\n")));
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n";

fn packing(port: u16) -> String {
    proxy_to(port).replace("pools:", "compression: {}, pools:")
}

/// Takes a chunk; false at the end, however it came.
fn chunk(client: &mut Wire, body: &mut Vec<u8>) -> bool {
    let size = client.line().and_then(|line| usize::from_str_radix(&line, 16).ok()).filter(|size| *size > 0);
    let Some(data) = size.and_then(|size| client.exactly(size + 2)) else { return false };
    body.extend_from_slice(&data[..data.len() - 2]);
    true
}

/// What can be read of it so far.
fn unpacked(packed: &[u8]) -> String {
    let mut plain = Vec::new();
    let _ = flate2::read::GzDecoder::new(packed).read_to_end(&mut plain);
    String::from_utf8(plain).expect("text")
}
