//! The Proxy against real sockets.

mod support;

use edge_pipeline::BodyError;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use support::*;

#[test]
fn interim_answers_are_handed_on() {
    let backend = Backend::answering(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </s.css>\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\n\
         HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    let house = House::new(1, &to(backend.port));
    let said = house.ask(get("/"));
    assert_eq!((said.status, said.body.as_deref()), (200, Ok(&b"ok"[..])));
    assert_eq!(said.interim, [(103, "{\"Link\": \"</s.css>\"}".to_owned()), (102, "{}".to_owned())]);
    let said = house.ask(Ask { old: true, ..get("/") });
    assert_eq!((said.status, said.interim.len()), (200, 0), "HTTP/1.0 knows none");
    assert_eq!(backend.connections(), 1);

    let hints = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(9) + OK;
    let endless = Backend::answering(hints.leak());
    let house = House::new(1, &to(endless.port));
    assert_eq!((house.ask(get("/")).status, house.errors("protocol")), (503, 1), "more than eight");
}

#[test]
fn bodies_go_out_as_they_came() {
    let backend = Backend::answering(OK);
    let body: Vec<u8> = (0..30_000).map(|i| i as u8).collect();
    let house = House::new(1, &to(backend.port));
    for (size, headers) in [(1, 0), (4096, 0), (30_000, 0), (4096, 40)] {
        // With forty fields the head is longer than the room in front of the body.
        let long = ("X-Long", "0123456789012345678901234567890123456789");
        let ask = Ask { headers: vec![long; headers], ..post(&body[..size]) };
        let said = house.ask(ask);
        assert_eq!((said.status, said.body_kept), (200, false), "{size}");
        let (head, got) = backend.seen().pop().unwrap();
        assert!(
            head.contains(&format!("Content-Length: {size}\r\n")) && head.starts_with("POST / HTTP/1.1\r\n"),
            "{head}"
        );
        assert!(got == body[..size], "{size} bytes with {headers} fields");
    }
    assert_eq!(backend.connections(), 1);
    let said = house.ask(Ask { method: "PUT", ..post(&body[..100]) });
    assert_eq!((said.status, said.body_kept), (200, true), "a kept connection may be stale, and PUT may be sent again");
    let kept = House::made(1, &to(backend.port), false);
    assert!(kept.ask(post(&body)).body_kept, "a filter that follows may want it");
    assert!(backend.seen().pop().unwrap().1 == body);

    let pieces = vec![body[..10].to_vec(), body[10..4000].to_vec()];
    let said = house.ask(Ask { method: "POST", target: "/s", pieces, ..Ask::default() });
    assert_eq!(said.status, 200);
    let (head, got) = backend.seen().pop().unwrap();
    assert!(head.contains("Transfer-Encoding: chunked\r\n"), "{head}");
    let wanted = [b"a\r\n", &body[..10], b"\r\nf96\r\n", &body[10..4000], b"\r\n0\r\n\r\n"].concat();
    assert!(got == wanted);
}

#[test]
fn a_prefix_goes_before_the_path() {
    let backend = Backend::answering(OK);
    let house = House::new(1, &format!("pools: [{{servers: [{{url: 'http://127.0.0.1:{}/中/'}}]}}]", backend.port));
    assert_eq!(house.ask(get("/a%20b")).status, 200);
    assert!(backend.seen()[0].0.starts_with("GET /%E4%B8%AD/a%20b HTTP/1.1\r\n"), "{:?}", backend.seen());
}

/// Answers with the number of the request it is; its path says with which status, fields and length.
fn counting_backend() -> (Backend, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let backend = Backend::new(move |mut wire, _| {
        while let Some((head, _)) = wire.request() {
            let nth = counter.fetch_add(1, Ordering::SeqCst) + 1;
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let (status, fields, body) = match path.trim_start_matches('/').split('.').next().unwrap_or_default() {
                "no-store" => ("200 OK", "Cache-Control: no-store\r\n", nth.to_string()),
                "cookie" => ("200 OK", "Set-Cookie: a=b\r\n", nth.to_string()),
                "vary" => ("200 OK", "Vary: X-Kind\r\n", nth.to_string()),
                "large" => ("200 OK", "", "x".repeat(200)),
                "gone" => ("410 Gone", "", nth.to_string()),
                "failed" => ("500 Failed", "", nth.to_string()),
                _ => ("200 OK", "X-Kept: 1\r\n", nth.to_string()),
            };
            let length = body.len();
            if path.ends_with(".chunked") {
                wire.send(format!("HTTP/1.1 {status}\r\n{fields}Transfer-Encoding: chunked\r\n\r\n"));
                wire.send(format!("{length:x}\r\n{body}\r\n0\r\n\r\n"));
            } else if path.ends_with(".cut") {
                wire.send(format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", length + 1));
                return;
            } else {
                let body = if head.starts_with("HEAD ") { "" } else { &body };
                wire.send(format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\n\r\n{body}"));
            }
        }
    });
    (backend, count)
}

#[test]
fn answers_are_given_again_from_memory() {
    let (backend, count) = counting_backend();
    let spec = |cache: &str| {
        format!("pools: [{{servers: [{{url: 'http://127.0.0.1:{}'}}], memoryCache: {{{cache}}}}}]", backend.port)
    };
    let house = House::new(2, &spec("expiration: 1h, maxEntryBytes: 100, codes: [200, 500], methods: [GET, HEAD]"));
    // How many of two requests have come to the backend; the second on another worker.
    let reach = |first: Ask, second: Ask| {
        let before = count.load(Ordering::SeqCst);
        let one = house.ask(first);
        let two = house.begin(1, second).recv().expect("the request ends");
        let reached = count.load(Ordering::SeqCst) - before;
        let hits = [&one, &two].iter().filter(|said| said.notes.contains("memory cache")).count();
        assert_eq!(reached + hits, 2, "{one:?} {two:?}");
        if (reached, hits) == (1, 1) && one.body == two.body {
            assert_eq!((one.status, one.outcome), (two.status, two.outcome));
        }
        reached
    };
    let with = |target, field| Ask { headers: vec![field], ..get(target) };
    assert_eq!(reach(get("/a"), get("/a")), 1);
    assert_eq!(reach(get("/a"), get("/b")), 1, "/a is there, /b is another");
    assert_eq!(reach(get("/c.chunked"), get("/c.chunked")), 1);
    assert_eq!(reach(get("/failed"), get("/failed")), 1, "a status that is listed, and the same outcome");
    assert_eq!(reach(Ask { method: "HEAD", ..get("/a") }, Ask { method: "HEAD", ..get("/a") }), 1);
    for never in ["/no-store", "/cookie", "/large", "/large.chunked", "/gone"] {
        assert_eq!(reach(get(never), get(never)), 2, "{never}");
    }
    assert_eq!(reach(post(b"x"), post(b"x")), 2);
    assert_eq!(
        reach(with("/a", ("Cache-Control", "no-cache")), get("/a")),
        1,
        "it passes by, and leaves what there is"
    );
    assert_eq!(reach(with("/d", ("Cache-Control", "no-store")), get("/d")), 2);
    assert_eq!(reach(with("/e", ("Authorization", "x")), with("/e", ("Authorization", "y"))), 2);
    assert_eq!(reach(with("/f", ("X-Forwarded-Host", "evil.test")), get("/f")), 2);
    assert_eq!(reach(with("/g", ("X-HTTP-Method-Override", "PUT")), get("/g")), 2);
    assert_eq!(reach(with("/vary", ("X-Kind", "1")), with("/vary", ("X-Kind", "2"))), 2);
    assert_eq!(reach(with("/vary", ("X-Kind", "1")), with("/vary", ("X-Kind", "2"))), 0);
    let said = house.ask(get("/h.cut"));
    assert_eq!(said.body, Err(BodyError::Incomplete), "what broke off is not kept");
    assert_eq!(reach(get("/h.cut"), get("/h.cut")), 2);
    let said = house.ask(get("/a"));
    assert!(said.headers.contains("X-Kept") && said.headers.contains("\"Age\": \"0\""), "{}", said.headers);
    assert!(house.metric("weir_cache_requests_total", "result=\"hit\"") > 8);
    assert_eq!(house.metric("weir_cache_not_stored_total", "reason=\"set_cookie\""), 2);
    assert!(base_runtime::memory::snapshot().of(base_runtime::memory::Kind::Caches) > 0, "entries are booked");

    let house = House::new(1, &spec("expiration: 1ms, maxEntryBytes: 100, codes: [200], methods: [GET]"));
    let before = count.load(Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(house.ask(get("/a")).status, 200);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(count.load(Ordering::SeqCst) - before, 2, "its time is over");
}

/// A connect on this machine that is not answered within this is not answered at all: its listener's queue is full.
const UNANSWERED: Duration = Duration::from_secs(1);

#[test]
fn connecting_has_a_deadline_of_its_own() {
    // A listener whose queue is full: further connects are not answered.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let full: Vec<_> = std::iter::from_fn(|| std::net::TcpStream::connect_timeout(&address, UNANSWERED).ok()).collect();
    let spec = |more: &str| format!("pools: [{{servers: [{{url: 'http://{address}'}}], {more}}}]");
    let house = House::new(1, &spec("connectTimeout: 150ms"));
    let said = house.ask(get("/"));
    assert_eq!((said.status, said.outcome), (503, "serverError"), "{said:?} after {} connections", full.len());
    assert!(said.notes.contains("cannot connect in time"), "{}", said.notes);
    assert!(said.took >= Duration::from_millis(140), "{:?}", said.took);
    assert_eq!(house.errors("connect_timeout"), 1);
    let house = House::new(1, &spec("timeout: 150ms"));
    let said = house.ask(get("/"));
    assert_eq!((said.status, said.outcome, house.errors("connect_timeout")), (408, "timeout", 1));
    drop(full);
}

#[test]
fn a_time_out_covers_the_body() {
    let backend = Backend::new(|mut wire, _| {
        while let Some((head, _)) = wire.request() {
            let framing = if head.contains("/chunked") {
                "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"
            } else {
                "Content-Length: 4\r\n\r\nok"
            };
            wire.send(format!("HTTP/1.1 200 OK\r\n{framing}"));
        }
    });
    let pool = format!("pools: [{{servers: [{{url: 'http://127.0.0.1:{}'}}], timeout: 150ms}}]", backend.port);
    for (most, connections) in [("", 2), ("serverMaxBodySize: -1\n", 4)] {
        let house = House::new(1, &format!("{most}{pool}"));
        for target in ["/chunked", "/length"] {
            let said = house.ask(get(target));
            assert_eq!((said.status, said.body), (200, Err(BodyError::TimedOut)), "the head was on its way already");
        }
        assert_eq!((house.errors("timeout"), backend.connections()), (2, connections), "{most}");
    }
}

#[test]
fn an_answer_of_unknown_length_is_counted_and_breaks_off() {
    let backend = Backend::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let sized = Backend::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
    for (limit, chunked, length) in
        [(5, Ok(&b"hello"[..]), (200, Ok(&b"hello"[..]))), (4, Err(BodyError::TooLarge), (500, Ok(&b""[..])))]
    {
        let house = House::new(1, &format!("serverMaxBodySize: {limit}\n{}", to(backend.port)));
        let said = house.ask(get("/"));
        assert_eq!((said.status, said.body.as_deref().map_err(|error| *error)), (200, chunked), "{limit}");
        let counted = |house: &House| house.metric("weir_limit_hits_total", "response_body_bytes");
        assert_eq!(counted(&house), u64::from(limit == 4));
        let house = House::new(1, &format!("serverMaxBodySize: {limit}\n{}", to(sized.port)));
        let said = house.ask(get("/"));
        assert_eq!((said.status, said.body.as_deref().map_err(|error| *error)), length, "{limit}");
        assert_eq!(counted(&house), u64::from(limit == 4));
    }
}

/// What a backend may do to an answer, and what becomes of it: status, body, which error is counted, and whether the connection
/// serves again.
#[test]
fn broken_answers_end_as_they_should() {
    type Case = (&'static str, &'static str, u16, Result<&'static [u8], BodyError>, &'static str);
    let cases: &[Case] = &[
        ("nothing", "", 503, Ok(b""), "closed"),
        ("half a head", "HTTP/1.1 200 OK\r\nConte", 503, Ok(b""), "closed"),
        ("a short body", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", 200, Err(BodyError::Incomplete), "closed"),
        (
            "a cut chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nok",
            200,
            Err(BodyError::Incomplete),
            "closed",
        ),
        ("garbage", "SSH-2.0-OpenSSH_9\r\n\r\n", 503, Ok(b""), "protocol"),
        (
            "both framings",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
            503,
            Ok(b""),
            "protocol",
        ),
        (
            "a bad chunk",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n",
            200,
            Err(BodyError::Malformed { status: 502 }),
            "protocol",
        ),
        ("an unasked switch", "HTTP/1.1 101 Switching Protocols\r\n\r\n", 503, Ok(b""), "protocol"),
    ];
    for (what, answer, status, body, error) in cases {
        let backend = Backend::new(move |mut wire, nth| {
            while wire.request().is_some() {
                if nth > 0 {
                    wire.send(OK);
                } else {
                    wire.send(answer);
                    return;
                }
            }
        });
        let house = House::new(1, &to(backend.port));
        let said = house.ask(get("/"));
        assert_eq!((said.status, said.body.as_deref()), (*status, body.as_deref()), "{what}: {}", said.notes);
        assert_eq!(house.errors(error), 1, "{what}");
        assert_eq!((house.ask(get("/")).status, backend.connections()), (200, 2), "{what}: not used again");
    }
}

#[test]
fn more_than_was_asked_for_is_never_taken_for_an_answer() {
    let backend = Backend::new(|mut wire, nth| {
        while wire.request().is_some() {
            let stray = if nth == 0 { "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray" } else { "" };
            wire.send(format!("{OK}{stray}"));
        }
    });
    let house = House::new(1, &to(backend.port));
    for _ in 0..3 {
        assert_eq!(house.ask(get("/")).body.as_deref(), Ok(&b"ok"[..]));
    }
    assert_eq!(backend.connections(), 2);
}

#[test]
fn an_answer_before_the_body_ends_stands_and_the_connection_does_not() {
    for closes in [true, false] {
        let backend = Backend::new(move |mut wire, _| {
            if wire.head().is_some() {
                wire.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig");
                if !closes {
                    wire.drain();
                }
            }
        });
        let house = House::new(1, &to(backend.port));
        let ask =
            Ask { method: "POST", target: "/", pieces: vec![vec![7; 16 * 1024]], endless: true, ..Ask::default() };
        for _ in 0..2 {
            let said = house.ask(ask.clone());
            assert_eq!((said.status, said.body.as_deref()), (413, Ok(&b"big"[..])), "{}", said.notes);
        }
        assert_eq!(backend.connections(), 2);
    }
}

#[test]
fn servers_that_refuse_are_left_out() {
    let backend = Backend::answering(OK);
    let dead = dead_port();
    let house = House::new(
        1,
        &format!(
            "pools: [{{servers: [{{url: 'http://127.0.0.1:{dead}'}}, {{url: 'http://127.0.0.1:{}'}}]}}]",
            backend.port
        ),
    );
    let statuses: Vec<u16> = (0..40).map(|_| house.ask(get("/")).status).collect();
    assert!(statuses.iter().all(|s| *s == 200), "{statuses:?}");
    assert_eq!(house.metric("weir_upstream_failovers_total", &format!("{dead}")), 5);
    let label = format!("127.0.0.1:{dead}");
    assert_eq!(house.metric("weir_upstream_ejections_total", &label), 1);
    assert_eq!((house.metric("weir_upstream_ejected", &label), house.errors("connect")), (1, 5));
    // The last one is never left out.
    let alone = House::new(1, &to(dead));
    assert!((0..20).all(|_| alone.ask(get("/")).status == 503));
    assert_eq!((alone.errors("connect"), alone.metric("weir_upstream_ejections_total", "")), (20, 0));
    assert_eq!(alone.metric("weir_upstream_panics_total", ""), 20, "another pool has it left out");
}

#[test]
fn servers_that_answer_with_errors_are_left_out_where_asked_for() {
    let good = Backend::answering(OK);
    let bad = Backend::answering("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
    let servers =
        format!("servers: [{{url: 'http://127.0.0.1:{}'}}, {{url: 'http://127.0.0.1:{}'}}]", bad.port, good.port);
    let count = |more: &str| {
        let house = House::new(1, &format!("pools: [{{{servers}{more}}}]"));
        (0..20).filter(|_| house.ask(get("/")).status == 500).count()
    };
    assert_eq!(count(""), 10);
    assert_eq!(count(", outlierDetection: {consecutiveErrors: 3}"), 3);
    // That a request goes round is not the server's doing, and whoever says so of his own has nobody left out.
    let round = Backend::answering("HTTP/1.1 508 Loop Detected\r\nContent-Length: 0\r\n\r\n");
    let house = House::new(
        1,
        &format!(
            "pools: [{{servers: [{{url: 'http://127.0.0.1:{}'}}, {{url: 'http://127.0.0.1:{}'}}], outlierDetection: {{consecutiveErrors: 1}}}}]",
            round.port, good.port
        ),
    );
    assert_eq!((0..20).filter(|_| house.ask(get("/")).status == 508).count(), 10);
    // When its time is over a single request tries it, and finds it as it was.
    let house = House::new(
        1,
        &format!("pools: [{{{servers}, outlierDetection: {{consecutiveErrors: 1, baseEjectionTime: 4s}}}}]"),
    );
    assert_eq!([500, 200, 200, 200].map(|_| house.ask(get("/")).status), [500, 200, 200, 200]);
    house.await_metric("weir_upstream_probes_total", 1);
    // The probe is counted as it begins; a moment later it has connected.
    let mut statuses = Vec::new();
    while !statuses.contains(&500) {
        statuses.push(house.ask(get("/")).status);
        assert!(statuses.len() < 100_000, "it is never tried");
    }
    statuses.extend((0..6).map(|_| house.ask(get("/")).status));
    assert_eq!(statuses.iter().filter(|s| **s == 500).count(), 1, "out for 8 s more");
    assert_eq!(house.metric("weir_upstream_ejections_total", ""), 1, "it was out all the time");
}

/// Two servers that go and come back in turn, as a deployment does it: whatever a client asks for is served by the other one.
#[test]
fn a_rolling_restart_is_seen_by_nobody() {
    let (mut a, mut b) = (Restartable::start(), Restartable::start());
    let pool = format!("servers: [{{url: 'http://127.0.0.1:{}'}}, {{url: 'http://127.0.0.1:{}'}}]", a.port, b.port);
    let house = House::new(1, &format!("pools: [{{{pool}}}]"));
    let all_go_well = |when: &str| {
        for nth in 0..12 {
            let streamed =
                Ask { method: "POST", target: "/", pieces: vec![vec![7; 100], vec![8; 100]], ..Ask::default() };
            for (what, ask) in [("GET", get("/")), ("POST", post(b"body")), ("a POST that streams", streamed)] {
                let said = house.ask(ask);
                assert_eq!(said.status, 200, "{what} {nth}, {when}: {}", said.notes);
            }
        }
    };
    all_go_well("both are up");
    a.stop();
    all_go_well("the first is down");
    a.restart();
    house.await_metric("weir_upstream_readmissions_total", 1);
    b.stop();
    all_go_well("the first is back, the second is down");
    b.restart();
    house.await_metric("weir_upstream_readmissions_total", 2);
    // Faster than anybody looks: one comes back as the other goes.
    for _ in 0..3 {
        a.stop();
        all_go_well("the first is down again");
        a.restart();
        b.stop();
        all_go_well("the second goes as the first comes");
        b.restart();
    }
    assert!(
        house.metric("weir_upstream_failovers_total", "") > 0 && house.metric("weir_upstream_panics_total", "") > 0
    );
}

#[test]
fn a_connect_that_nobody_answers_goes_elsewhere() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let full: Vec<_> = std::iter::from_fn(|| std::net::TcpStream::connect_timeout(&address, UNANSWERED).ok()).collect();
    let good = Backend::answering(OK);
    let servers = format!("servers: [{{url: 'http://{address}'}}, {{url: 'http://127.0.0.1:{}'}}]", good.port);
    let house = House::new(1, &format!("pools: [{{{servers}, connectTimeout: 150ms}}]"));
    for _ in 0..2 {
        let said = house.ask(post(b"once"));
        assert_eq!(said.status, 200, "{}", said.notes);
    }
    assert_eq!((house.errors("connect_timeout"), house.metric("weir_upstream_failovers_total", "")), (1, 1));
    drop(full);
}

/// A connection that breaks before an answer may have done what was asked: only what may be done twice goes elsewhere, and once.
#[test]
fn what_may_have_been_done_is_not_done_elsewhere() {
    let breaking = || Backend::new(|mut wire, _| drop(wire.request()));
    let (one, two, good) = (breaking(), breaking(), Backend::answering(OK));
    let pool = |ports: &[u16]| {
        let servers: Vec<String> = ports.iter().map(|port| format!("{{url: 'http://127.0.0.1:{port}'}}")).collect();
        format!("pools: [{{servers: [{}]}}]", servers.join(", "))
    };
    let house = House::new(1, &pool(&[one.port, good.port]));
    assert!((0..6).all(|_| house.ask(Ask { method: "PUT", ..post(b"again") }).status == 200));
    assert!(good.seen().iter().all(|(_, body)| body == b"again"), "whole");
    let statuses: Vec<u16> = (0..6).map(|_| house.ask(post(b"once")).status).collect();
    assert_eq!(statuses.iter().filter(|s| **s == 503).count(), 3, "{statuses:?}");
    let house = House::new(1, &pool(&[two.port, one.port]));
    let before = one.connections() + two.connections();
    assert_eq!(house.ask(get("/poison")).status, 503);
    assert_eq!(one.connections() + two.connections() - before, 2, "what ends servers does not end all of them");
}

/// A backend ends a kept connection in the moment a request comes that must not be sent twice: it is seen before anything is sent.
#[test]
fn a_kept_connection_that_has_just_ended_costs_no_post() {
    let (end, ends) = mpsc::channel::<()>();
    let (ended, has_ended) = mpsc::channel();
    let ends = std::sync::Mutex::new(ends);
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let record = seen.clone();
    let backend = Backend::new(move |mut wire, _| {
        if let Some(request) = wire.request() {
            record.lock().unwrap().push(request);
            wire.send(OK);
            let _ = ends.lock().unwrap().recv();
            drop(wire);
            let _ = ended.send(());
        }
    });
    let house = House::new(1, &to(backend.port));
    assert_eq!(house.ask(get("/")).status, 200);
    let has_ended = Arc::new(std::sync::Mutex::new(has_ended));
    let streamed =
        Ask { method: "POST", target: "/", pieces: vec![b"one".to_vec(), b"two".to_vec()], ..Ask::default() };
    for ask in [post(b"once"), streamed, Ask { method: "PATCH", ..post(b"once") }, get("/")] {
        let (method, end, has_ended) = (ask.method, end.clone(), has_ended.clone());
        let before = move || {
            end.send(()).unwrap();
            has_ended.lock().unwrap().recv().unwrap();
        };
        let said = house.ask_after(before, ask);
        assert_eq!(said.status, 200, "{method}: {}", said.notes);
    }
    assert_eq!((backend.connections(), seen.lock().unwrap().len()), (5, 5), "each was sent once");
    assert_eq!(house.errors("closed"), 0);
}

/// A kept connection that breaks may have brought the request to its server: it is sent once more, wherever that is, and no third
/// time.
#[test]
fn a_request_is_sent_twice_at_most_when_connections_break() {
    let sent = Arc::new(AtomicUsize::new(0));
    let poisoned = || {
        let sent = sent.clone();
        Backend::new(move |mut wire, _| {
            while let Some((head, _)) = wire.request() {
                if head.contains("/poison") {
                    sent.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                wire.send(OK);
            }
        })
    };
    let backends = [poisoned(), poisoned(), poisoned()];
    let servers: Vec<String> =
        backends.iter().map(|backend| format!("{{url: 'http://127.0.0.1:{}'}}", backend.port)).collect();
    let house = House::new(1, &format!("pools: [{{servers: [{}]}}]", servers.join(", ")));
    assert!((0..6).all(|_| house.ask(get("/")).status == 200), "each server has a kept connection");
    assert_eq!(house.connections_made(), 3);
    assert_eq!(house.ask(get("/poison")).status, 503);
    assert_eq!(sent.load(Ordering::SeqCst), 2);
    // Only kept connections were stale: what is fresh serves.
    assert_eq!(house.ask(get("/")).status, 200);
}

#[test]
fn each_mirror_gets_a_copy() {
    let backend = Backend::answering(OK);
    let mirrors: Vec<Backend> = (0..3).map(|_| Backend::answering(OK)).collect();
    let copied = |backend: &Backend, filter: &str| {
        format!("{{servers: [{{url: 'http://127.0.0.1:{}'}}], filter: {{{filter}}}}}", backend.port)
    };
    let (all, none) = ("policy: random, permil: 1000", "headers: {X-Nobody: {exact: sends it}}");
    let further = format!("mirrorPools: [{}, {}]", copied(&mirrors[1], all), copied(&mirrors[2], none));
    let first = copied(&mirrors[0], all);
    let house = House::new(1, &format!("{}\nmirrorPool: {first}\n{further}", to(backend.port)));
    assert_eq!(house.ask(post(b"order")).status, 200);
    for (mirror, name) in mirrors.iter().zip(["mirror", "mirror#1"]) {
        assert_eq!(mirror.await_seen(1)[0].1, b"order", "{name}");
    }
    assert_eq!(mirrors[2].connections(), 0, "its filter takes none");
    assert_eq!((backend.seen().len(), house.connections_made()), (1, 3));
}

/// A mirror that takes nothing holds no more of what its users were answered than it may.
#[test]
fn copies_on_their_way_hold_a_bounded_number_of_bytes() {
    let backend = Backend::answering(OK);
    let (_end, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let deaf = Backend::new(move |_wire, _| {
        let _ = wait.lock().unwrap().recv();
    });
    let house = House::new(
        1,
        &format!(
            "{}\nmirrorPool: {{servers: [{{url: 'http://127.0.0.1:{}'}}], filter: {{policy: random, permil: 1000}}}}",
            to(backend.port),
            deaf.port
        ),
    );
    // Eight times eight MiB fill it to the brim; their heads do not fit.
    let body = vec![b'm'; 8 << 20];
    (0..10).for_each(|_| assert_eq!(house.ask(Ask { whole: Some(body.clone()), ..post(b"") }).status, 200));
    assert_eq!(house.metric("weir_limit_hits_total", "mirror_bytes"), 3);
    assert_eq!(house.ask(post(b"small")).status, 200);
    assert_eq!(house.metric("weir_limit_hits_total", "mirror_bytes"), 3, "there is room for less");
    assert_eq!(house.metric("weir_limit_hits_total", "mirror_in_flight"), 0);
    assert!(base_runtime::memory::snapshot().of(base_runtime::memory::Kind::Heads) > 0, "heads are booked");
}

#[test]
fn what_one_pool_learns_of_a_server_every_pool_knows() {
    let good = Backend::answering(OK);
    let dead = dead_port();
    let both = format!("servers: [{{url: 'http://127.0.0.1:{dead}'}}, {{url: 'http://127.0.0.1:{}'}}]", good.port);
    let copying = House::new(
        1,
        &format!(
            "pools: [{{servers: [{{url: 'http://127.0.0.1:{}'}}]}}]\nmirrorPool: {{{both}, filter: {{policy: random, permil: 1000}}}}",
            good.port
        ),
    );
    let other = House::new(1, &format!("pools: [{{{both}}}]"));
    (0..20).for_each(|_| assert_eq!(copying.ask(get("/")).status, 200));
    copying.await_metric("weir_upstream_ejections_total", 1);
    let label = format!("127.0.0.1:{dead}");
    assert_eq!(other.metric("weir_upstream_ejected", &label), 1, "copies tell of it, too");
    assert!((0..10).all(|_| other.ask(get("/")).status == 200));
    assert_eq!((other.errors("connect"), other.metric("weir_upstream_ejections_total", "")), (0, 0));
}

#[test]
fn unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let seen: Seen = Arc::default();
    let record = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let record = record.clone();
            std::thread::spawn(move || serve(Wire::new(stream), OK, &record));
        }
    });
    let path = path.display();
    for (url, target) in [(format!("unix://{path}"), "/x"), (format!("http://unix:{path}:/api"), "/api/x")] {
        let house = House::new(1, &format!("pools: [{{servers: [{{url: '{url}'}}]}}]"));
        for _ in 0..2 {
            let said = house.ask(get("/x"));
            assert_eq!((said.status, said.body.as_deref()), (200, Ok(&b"ok"[..])), "{url}: {}", said.notes);
        }
        let (head, _) = seen.lock().unwrap().pop().unwrap();
        assert!(head.starts_with(&format!("GET {target} HTTP/1.1\r\nHost: client.test\r\n")), "{head}");
        assert_eq!(house.connections_made(), 1, "{url}");
    }
    let house = House::new(1, &format!("pools: [{{servers: [{{url: 'unix://{path}.gone'}}]}}]"));
    assert_eq!((house.ask(get("/")).status, house.errors("connect")), (503, 1));
}

/// Two workers and few connections: each opens what it needs once, and no more.
#[test]
fn each_worker_keeps_its_own_connections() {
    let backend = Backend::answering(OK);
    let house = House::new(2, &to(backend.port));
    for _ in 0..100 {
        let both: Vec<mpsc::Receiver<Said>> = (0..2).map(|worker| house.begin(worker, get("/"))).collect();
        both.into_iter().for_each(|r| assert_eq!(r.recv().unwrap().status, 200));
    }
    assert_eq!((backend.connections(), house.connections_made()), (2, 2));
    assert_eq!(house.metric("weir_upstream_connections_reused_total", ""), 198);
    assert_eq!(house.metric("weir_upstream_idle_connections", ""), 2);
    for most in ["maxIdleConnsPerHost", "maxIdleConns"] {
        let few = House::new(1, &format!("{most}: 1\n{}", to(backend.port)));
        let many: Vec<_> = (0..4).map(|_| few.begin(0, get("/"))).collect();
        many.into_iter().for_each(|r| assert_eq!(r.recv().unwrap().status, 200));
        assert_eq!(few.metric("weir_upstream_idle_connections", ""), 1);
        assert_eq!(few.metric("weir_upstream_connections{", ""), 1);
    }
}

mod tls {
    use super::*;
    use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
    use std::sync::atomic::{AtomicUsize, Ordering};

    struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        fn new() -> Authority {
            let mut params = CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        /// Chain and key as PEM. A name with a scheme is a URI.
        fn issue(&self, names: &[&str]) -> (rcgen::Certificate, KeyPair) {
            let (uris, names): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.contains("://"));
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
            let uris = uris.into_iter().map(|uri| rcgen::SanType::URI(uri.try_into().unwrap()));
            params.subject_alt_names.extend(uris);
            (params.signed_by(&key, &self.0).unwrap(), key)
        }

        fn pem(&self) -> String {
            self.0.pem()
        }
    }

    /// Answers over TLS; counts the sessions that were taken up again. With `clients` it asks for a certificate of theirs.
    fn backend(authority: &Authority, names: &[&str], clients: Option<&Authority>) -> (Backend, Arc<AtomicUsize>) {
        backend_saying(OK, authority, names, clients)
    }

    fn backend_saying(
        answer: &'static str,
        authority: &Authority,
        names: &[&str],
        clients: Option<&Authority>,
    ) -> (Backend, Arc<AtomicUsize>) {
        let (certificate, key) = authority.issue(names);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.0.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
                builder.with_client_cert_verifier(verifier)
            }
        };
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = Arc::new(builder.with_single_cert(vec![certificate.der().clone()], key).unwrap());
        let resumed = Arc::new(AtomicUsize::new(0));
        let count = resumed.clone();
        let accept = move |mut stream: std::net::TcpStream| {
            let mut connection = ServerConnection::new(config.clone()).ok()?;
            while connection.is_handshaking() {
                if connection.complete_io(&mut stream).is_err() {
                    let _ = stream.flush();
                    return None;
                }
            }
            if connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
                count.fetch_add(1, Ordering::SeqCst);
            }
            Some(Wire::new(StreamOwned::new(connection, stream)))
        };
        (Backend::over(accept, |wire, _| serve(wire, answer, &Default::default())), resumed)
    }

    fn indented(pem: &str) -> String {
        pem.lines().map(|line| format!("    {line}\n")).collect()
    }

    fn spec(url: &str, mtls: &str) -> String {
        format!("pools: [{{servers: [{{url: '{url}'}}], connectTimeout: 5s}}]\n{mtls}")
    }

    fn trusting(authority: &Authority) -> String {
        format!("mtls:\n  rootCertBase64: |\n{}", indented(&authority.pem()))
    }

    #[test]
    fn servers_are_believed_only_with_a_certificate_for_their_name() {
        let (authority, other) = (Authority::new(), Authority::new());
        let (good, _) = backend(&authority, &["127.0.0.1", "localhost"], None);
        let (misnamed, _) = backend(&authority, &["other.test"], None);
        let (identified, _) = backend(&authority, &["127.0.0.1", "spiffe://test/orders"], None);
        let with = |more: &str| format!("{}  {more}\n", trusting(&authority));
        let others = |more: &str| format!("{}  {more}\n", trusting(&other));
        let at = |port: u16| format!("https://127.0.0.1:{port}");
        let named = format!("https://localhost:{}", good.port);
        let cases = [
            (at(good.port), trusting(&authority), None),
            (named, trusting(&authority), None),
            (at(good.port), trusting(&other), Some("UnknownIssuer")),
            (at(misnamed.port), trusting(&authority), Some("not valid for")),
            (at(misnamed.port), "mtls: {insecureSkipVerify: true}".to_owned(), None),
            (at(misnamed.port), with("serverName: other.test"), None),
            (at(misnamed.port), with("serverName: another.test"), Some("not valid for")),
            (at(misnamed.port), with("subjectAltNames: [another.test, other.test]"), None),
            (at(misnamed.port), with("serverName: another.test\n  subjectAltNames: [other.test]"), None),
            // The name that is asked for is none that is wanted.
            (at(good.port), with("subjectAltNames: [other.test]"), Some("not valid for")),
            (at(identified.port), with("subjectAltNames: [other.test, 'spiffe://test/orders']"), None),
            (at(identified.port), with("subjectAltNames: ['spiffe://test/users']"), Some("not valid for")),
            (at(identified.port), others("subjectAltNames: ['spiffe://test/orders']"), Some("UnknownIssuer")),
        ];
        for (url, mtls, why_not) in cases {
            let house = House::new(1, &spec(&url, &mtls));
            for _ in 0..2 {
                let said = house.ask(get("/"));
                let wanted = if why_not.is_none() { 200 } else { 503 };
                assert_eq!(said.status, wanted, "{url} {mtls}: {}", said.notes);
                assert!(why_not.is_none() || said.notes.contains("TLS handshake"), "{}", said.notes);
            }
            match why_not {
                None => assert_eq!((house.connections_made(), house.errors("tls")), (1, 0)),
                Some(_) => assert_eq!(house.errors("tls"), 2),
            }
        }
    }

    #[test]
    fn our_certificate_is_shown_and_no_identity_uses_the_connections_of_another() {
        let (authority, clients) = (Authority::new(), Authority::new());
        let (server, _) = backend(&authority, &["127.0.0.1"], Some(&clients));
        let url = format!("https://127.0.0.1:{}", server.port);
        let (certificate, key) = clients.issue(&["us.test"]);
        let ours = format!(
            "{}  certBase64: |\n{}  keyBase64: |\n{}",
            trusting(&authority),
            indented(&certificate.pem()),
            indented(&key.serialize_pem())
        );
        let known = House::new(1, &spec(&url, &ours));
        assert_eq!(known.ask(get("/")).status, 200);
        assert_eq!(known.ask(get("/")).status, 200);
        assert_eq!(known.connections_made(), 1);
        let unknown = House::new(1, &spec(&url, &trusting(&authority)));
        assert_eq!(unknown.ask(get("/")).status, 503);
        // Two pools of one worker that list the same place: what one has opened under its name is not the other's to use.
        let both = format!("https://127.0.0.1:{}", backend(&authority, &["127.0.0.1"], None).0.port);
        let skip = base_model::MtlsSpec { insecure_skip_verify: true, ..Default::default() };
        let trust = base_model::MtlsSpec { root_cert_base64: authority.pem(), ..Default::default() };
        let server = |mtls| {
            let identity = edge_upstream::Identity::shared(Some(mtls)).unwrap();
            edge_upstream::Server::new(&both, 1, false, Some(&identity)).unwrap()
        };
        let (first, second, third) = (server(&skip), server(&trust), server(&skip));
        assert_ne!(first.connections(), second.connections());
        assert_eq!(first.connections(), third.connections());
    }

    #[test]
    fn sessions_are_taken_up_again() {
        let authority = Authority::new();
        let closing = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        let (server, resumed) = backend_saying(closing, &authority, &["127.0.0.1"], None);
        let house = House::new(1, &spec(&format!("https://127.0.0.1:{}", server.port), &trusting(&authority)));
        assert!((0..3).all(|_| house.ask(get("/")).status == 200));
        assert_eq!((house.connections_made(), resumed.load(Ordering::SeqCst)), (3, 2));
    }

    #[test]
    fn a_handshake_that_never_comes_to_its_end_is_part_of_connecting() {
        let silent = Backend::new(|mut wire, _| wire.drain());
        let mtls = "mtls: {insecureSkipVerify: true}";
        let pool = format!(
            "pools: [{{servers: [{{url: 'https://127.0.0.1:{}'}}], connectTimeout: 150ms}}]\n{mtls}",
            silent.port
        );
        let house = House::new(1, &pool);
        let said = house.ask(get("/"));
        assert_eq!((said.status, house.errors("tls")), (503, 1), "{}", said.notes);
        assert!(said.notes.contains("took too long"), "{}", said.notes);
    }

    #[test]
    fn bad_certificates_are_named() {
        let telemetry = base_telemetry::Telemetry::new(Default::default(), 1);
        let (a, b) = (Authority::new().issue(&["a.test"]), Authority::new().issue(&["b.test"]));
        let pair = |certificate: &str, key: &str| {
            format!(
                "mtls:\n  insecureSkipVerify: true\n  certBase64: |\n{}  keyBase64: |\n{}",
                indented(certificate),
                indented(key)
            )
        };
        for (mtls, field) in [
            (pair("nonsense", &a.1.serialize_pem()), "mtls.certBase64"),
            (pair(&a.0.pem(), &b.1.serialize_pem()), "mtls.keyBase64"),
            ("mtls: {rootCertBase64: bm9uc2Vuc2U=}".to_owned(), "mtls.rootCertBase64"),
        ] {
            let refused = build(&spec("https://127.0.0.1:1", &mtls), &telemetry).err().unwrap_or_default();
            assert!(refused.contains(field), "{refused}");
            let fields = base_model::yaml::parse_document(&spec("https://127.0.0.1:1", &mtls)).unwrap();
            let decoded = base_model::decode::<base_model::ProxySpec>(&fields, "").unwrap().value;
            let mut findings = base_model::Findings::default();
            decoded.check_certificates(
                "filters[0]",
                std::time::SystemTime::now(),
                &mut Default::default(),
                &mut findings,
            );
            assert_eq!(findings.problems.len(), 1, "{mtls}");
            assert_eq!(findings.problems[0].path, format!("filters[0].{field}"));
        }
    }
}
