//! What becomes of bodies on their way through filters: refused in the middle, gathered, followed by trailers.

#[macro_use]
mod support;

use base_runtime::IoMode;
use edge_listeners::Timeouts;
use edge_pipeline::{Body, BodyError, BodyStream, Exchange, Filter, FilterKind, Piece, SUCCESS, Sight, Step};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::time::Duration;
use support::{Backend, House, eventually, proxy_to};

on_both_drivers![
    a_body_refused_in_the_middle_is_answered_with_the_verdict,
    trailers_outlive_a_filter_that_gathers,
    an_answer_of_unknown_length_is_sent_as_it_comes,
    an_answer_beyond_its_limit_breaks_off,
    a_packed_answer_is_sent_as_it_comes,
    a_slow_upload_makes_no_slow_server,
    a_client_that_falls_silent_says_nothing_of_a_server,
];

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ANY: &str = "rules: [{paths: [{backend: app}]}]";

/// Lets a request's body pass up to the byte `!`.
struct Guard;

struct Guarded(Body);

impl BodyStream for Guarded {
    fn poll_piece(&mut self, cx: &mut Context<'_>, _: Sight) -> Poll<Result<Option<Piece>, BodyError>> {
        self.0.poll_piece(cx, Sight::Seen).map(|piece| match piece {
            Ok(Some(piece)) if piece.seen().contains(&b'!') => Err(BodyError::Refused { status: 403 }),
            piece => piece,
        })
    }

    fn remaining(&self) -> Option<u64> {
        self.0.length()
    }
}

impl Filter for Guard {
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let body = std::mem::take(&mut exchange.space().request_body);
        exchange.space().request_body = Body::Stream(Box::new(Guarded(body)));
        Step::Done(SUCCESS)
    }
}

/// Reads the whole answer before it goes on.
struct Gather;

impl Filter for Gather {
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        Step::wait(async {
            let _ = exchange.space().response_body.collect(1 << 20).await;
            SUCCESS
        })
    }
}

fn kind(name: &str) -> Option<&'static FilterKind> {
    const fn made_by(kind: &'static str, build: edge_pipeline::filter::Build) -> FilterKind {
        let (schema, check): (fn() -> _, edge_pipeline::filter::Check) = (|| serde_json::Value::Null, |_, _, _| {});
        FilterKind { kind, results: &[], doc: "", schema, check, build }
    }
    static GUARD: FilterKind = made_by("Guard", |_, _| Ok(Arc::new(Guard)));
    static GATHER: FilterKind = made_by("Gather", |_, _| Ok(Arc::new(Gather)));
    match name {
        "Guard" => Some(&GUARD),
        "Gather" => Some(&GATHER),
        _ => edge_filters::kind(name),
    }
}

/// A filter before the proxy, and one behind it.
fn house(io: IoMode, before: &str, after: &str, port: u16) -> House {
    let filter = |name: &str| if name.is_empty() { String::new() } else { format!("{{name: x, kind: {name}}}, ") };
    let pipeline = proxy_to(port).replace("[{name: p", &format!("[{}{{name: p", filter(before)));
    let pipeline = match after {
        "" => pipeline,
        after => pipeline[..pipeline.len() - 1].to_owned() + format!(", {{name: y, kind: {after}}}]").as_str(),
    };
    House::with_kinds(io, ANY, &pipeline, Timeouts::default(), kind)
}

fn a_body_refused_in_the_middle_is_answered_with_the_verdict(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = house(io, "Guard", "", backend.port);
    let mut client = house.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.answer().status(), 200);
    // At once, and after some of it has gone to the backend.
    assert_eq!(house.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell!").status(), 403);
    let mut client = house.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    support::eventually("the backend is asked", || backend.connections() == 2);
    client.send(b"1\r\n!\r\n");
    assert_eq!(client.answer().status(), 403);
    assert_eq!(house.count(403), 2);
}

fn trailers_outlive_a_filter_that_gathers(io: IoMode) {
    let backend = Backend::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\nContent-Length: 9\r\n\r\n",
    );
    for after in ["", "Gather"] {
        let house = house(io, "", after, backend.port);
        let answer = house.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((answer.text().as_str(), answer.trailers.as_str()), ("ok", "X-Sum: 7\n"), "{after}");
        let old = house.ask("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
        assert!(old.field("transfer-encoding").is_none(), "HTTP/1.0 knows no chunks");
    }
}

/// The pool's limits are the default's.
fn limited(port: u16, more: &str) -> String {
    proxy_to(port).replace("serverMaxBodySize: -1, ", more)
}

fn an_answer_of_unknown_length_is_sent_as_it_comes(io: IoMode) {
    let (go_on, may_go_on) = mpsc::channel();
    let may_go_on = Mutex::new(may_go_on);
    let backend = Backend::new(move |mut wire, _| {
        wire.head();
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        let _ = may_go_on.lock().unwrap().recv();
        wire.send(b"4\r\nlast\r\n0\r\nX-Sum: 9\r\n\r\n");
    });
    let house = House::new(io, "", &limited(backend.port, ""));
    let mut client = house.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.head().unwrap();
    assert!(head.contains("Transfer-Encoding: chunked") && !head.contains("Content-Length"), "{head}");
    assert_eq!(client.exactly(10).unwrap(), b"5\r\nfirst\r\n", "it is there before the rest exists");
    go_on.send(()).unwrap();
    assert_eq!(client.exactly(9).unwrap(), b"4\r\nlast\r\n");
    assert_eq!(client.head().unwrap(), "0\r\nX-Sum: 9\r\n\r\n");
    assert_eq!(house.limit("response_body_bytes"), 0);
}

fn an_answer_beyond_its_limit_breaks_off(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        wire.head();
        wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = [b"4000\r\n", &[b'x'; 0x4000][..], b"\r\n"].concat();
        for _ in 0..300 {
            if !wire.send(&chunk) {
                return;
            }
        }
        wire.send(b"0\r\n\r\n");
    });
    for (version, most) in [("1.1", 4 << 20), ("1.0", 4 << 20), ("1.1", 40_000)] {
        let more = if most == 4 << 20 { String::new() } else { format!("serverMaxBodySize: {most}, ") };
        let house = House::new(io, "", &limited(backend.port, &more));
        let mut client = house.connect();
        client.send(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n").as_bytes());
        assert!(client.head().unwrap().starts_with("HTTP/1.1 200 "));
        let got = client.rest();
        assert!(got.len() <= most + 10_000, "{version}: {} bytes came", got.len());
        assert!(!got.ends_with(b"0\r\n\r\n"), "{version}: it looks whole");
        assert_eq!(house.limit("response_body_bytes"), 1, "{version}");
    }
    // Nothing of it was sent, or it says beforehand how long it is: then the answer can still say so.
    for answer in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nlonger\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nlonger",
    ] {
        let backend = Backend::answering(answer);
        let house = House::new(io, "", &limited(backend.port, "serverMaxBodySize: 5, "));
        assert_eq!(house.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 500);
        assert_eq!(house.limit("response_body_bytes"), 1);
    }
}

fn a_packed_answer_is_sent_as_it_comes(io: IoMode) {
    let (go_on, may_go_on) = mpsc::channel();
    let may_go_on = Mutex::new(may_go_on);
    let backend = Backend::new(move |mut wire, _| {
        while wire.head().is_some() {
            wire.send(b"HTTP/1.1 200 OK\r\nETag: \"v\"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
            let _ = may_go_on.lock().unwrap().recv();
            wire.send(b"4\r\nlast\r\n0\r\nX-Sum: 9\r\n\r\n");
        }
    });
    let packs = format!("{}, {{name: z, kind: ResponseAdaptor, compress: gzip}}]", {
        let proxy = limited(backend.port, "");
        proxy[..proxy.len() - 1].to_owned()
    });
    let house = House::new(io, "", &packs);
    let mut client = house.connect();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
    let mut answer = support::Message { head: client.head().unwrap(), ..Default::default() };
    assert_eq!((answer.field("content-encoding"), answer.field("etag")), (Some("gzip"), Some("W/\"v\"")));
    assert_eq!((answer.field("vary"), answer.field("content-length")), (Some("Accept-Encoding"), None));
    // Something of it is there although the rest does not exist yet.
    let mut plain = Vec::new();
    while plain != b"first" {
        let size = usize::from_str_radix(&client.line().unwrap(), 16).unwrap();
        answer.body.extend_from_slice(&client.exactly(size + 2).unwrap()[..size]);
        plain.clear();
        let _ = std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&answer.body[..]), &mut plain);
    }
    go_on.send(()).unwrap();
    loop {
        let size = usize::from_str_radix(&client.line().unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        answer.body.extend_from_slice(&client.exactly(size + 2).unwrap()[..size]);
    }
    assert_eq!(client.head().unwrap(), "X-Sum: 9\r\n\r\n");
    plain.clear();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&answer.body[..]), &mut plain).unwrap();
    assert_eq!(plain, b"firstlast");
    go_on.send(()).unwrap();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip;q=0\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.text().as_str(), answer.field("content-encoding")), ("firstlast", None));
    assert_eq!((answer.field("vary"), answer.field("etag")), (Some("Accept-Encoding"), Some("\"v\"")));
}

/// A pool and a filter, both with adaptive concurrency, before a server; `pool` are further fields of the pool.
fn measured(io: IoMode, port: u16, pool: &str, timeouts: Timeouts) -> House {
    let filters = proxy_to(port)
        .replace("filters: [", "filters: [{name: shed, kind: AdaptiveConcurrency}, ")
        .replace("pools: [{", &format!("pools: [{{adaptiveConcurrency: {{}}, {pool}"));
    House::with_timeouts(io, ANY, &filters, timeouts)
}

/// What the pool and the filter say a request takes, once both know.
fn unloaded(house: &House) -> Option<[f64; 2]> {
    fn look(value: &serde_json::Value, found: &mut Vec<f64>) {
        match value {
            serde_json::Value::Object(fields) => {
                found.extend(fields.get("unloadedMs").and_then(serde_json::Value::as_f64));
                fields.values().for_each(|value| look(value, found));
            }
            serde_json::Value::Array(all) => all.iter().for_each(|value| look(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    house.traffic.status().values().for_each(|value| look(value, &mut found));
    found.try_into().ok()
}

/// Many clients at a time that say half of what they announced; what they said the rest of, if `rest`, is answered with `status`.
fn half_said(house: &House, rest: bool, status: u16) {
    let half = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2000\r\n\r\n";
    let mut clients: Vec<_> = (0..16).map(|_| house.connect()).collect();
    for client in &mut clients {
        client.send(&[&half[..], &[b'x'; 1000]].concat());
    }
    if rest {
        std::thread::sleep(STALL);
    }
    for client in &mut clients {
        if rest {
            client.send(&[b'x'; 1000]);
        }
        assert_eq!(client.answer().status(), status);
    }
}

const STALL: Duration = Duration::from_secs(1);

/// What an upload over a slow link takes is its client's time, for a pool and for the filter.
fn a_slow_upload_makes_no_slow_server(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = measured(io, backend.port, "", Timeouts::default());
    eventually("both know what a request takes", || {
        half_said(&house, true, 200);
        unloaded(&house).is_some()
    });
    let taken = unloaded(&house).unwrap();
    assert!(taken.iter().all(|ms| *ms < STALL.as_millis() as f64 / 2.0), "{taken:?} ms of the server");
}

/// While a client is waited for, neither that the server has not answered, nor that Weir answers in its place, is a time that the server took.
fn a_client_that_falls_silent_says_nothing_of_a_server(io: IoMode) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for (pool, timeouts) in [("timeout: 300ms, ", Timeouts::default()), ("", support::short_timeouts())] {
        let backend = Backend::recording(|_| {
            std::thread::sleep(Duration::from_millis(20));
            OK.as_bytes().to_vec()
        });
        let house = measured(io, backend.port, pool, timeouts);
        eventually("both know what a request takes", || {
            house.ask("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
            unloaded(&house).is_some()
        });
        before.push(unloaded(&house));
        for _ in 0..5 {
            half_said(&house, false, 408);
        }
        after.push(unloaded(&house));
    }
    assert_eq!(after, before);
}
