//! HTTP/2 in front of HTTP/1 backends, on both drivers: what should work, spoken to by the h2 crate's client.

#[macro_use]
mod support;
#[path = "support/h2.rs"]
mod h2_client;

use base_runtime::IoMode;
use bytes::Bytes;
use edge_listeners::Timeouts;
use h2_client::{Raw, ask, ask_with, block, connect, frame, get, run};
use http::{HeaderMap, Request};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use support::{Backend, House, eventually, proxy_to, short_timeouts};

on_both_drivers![
    a_request_reads_as_the_backend_would_have_got_it,
    bodies_and_trailers_pass_both_ways,
    many_streams_share_a_connection,
    answers_without_a_body,
    interim_answers,
    a_websocket_is_joined,
    a_tunnel_that_its_client_gives_up_ends,
    a_websocket_is_under_way_until_it_ends,
    a_stream_that_nobody_speaks_on_holds_no_place,
    uploads_nobody_reads_stop_no_other,
    a_rest_that_nobody_wants_is_read_as_far_as_that_is_worth_it,
    trailers_are_bounded_and_judged,
    an_answer_waits_for_its_client,
    a_cancelled_request_ends_at_the_backend,
    a_server_that_stops_says_so,
    an_idle_connection_is_told_to_go,
    a_client_that_does_not_answer_is_told_to_go,
    connections_of_grpc_grow_old,
    clients_of_grpc_are_asked_whether_they_are_there,
    clients_of_grpc_may_ask_as_often_as_the_document_says,
    faults_are_answered_and_counted,
    time_outs_hold_for_each_stream,
    both_versions_share_a_port,
    both_directions_run_at_once_end_to_end,
];

type Fields<'a> = &'a [(&'a str, &'a str)];

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn house(io: IoMode, backend: &Backend) -> House {
    House::new(io, "h2c: true\nclientMaxBodySize: -1", &proxy_to(backend.port))
}

/// Lets the client go on meanwhile.
async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn a_request_reads_as_the_backend_would_have_got_it(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = house(io, &backend);
    run(async {
        let (requests, _driver) = connect(house.port).await;
        let request = Request::get("http://a.test:81/%61/../b?q=%2f&r")
            .header("cookie", "a=1")
            .header("x-one", "1")
            .header("cookie", "b=2")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let answer = ask(&requests, request, b"").await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
        assert_eq!(answer.field("content-length"), Some("2"));
        assert!(answer.field("date").is_some() && answer.field("connection").is_none());
    });
    let seen = &backend.seen()[0];
    assert_eq!(seen.target(), "/b?q=%2f&r");
    assert_eq!(
        (seen.field("host"), seen.field("cookie"), seen.field("x-one")),
        (Some("a.test:81"), Some("a=1; b=2"), Some("1"))
    );
    assert_eq!((seen.field("te"), seen.field("transfer-encoding"), seen.field("content-length")), (None, None, None));
    eventually("it is counted", || house.count(200) == 1);
}

fn bodies_and_trailers_pass_both_ways(io: IoMode) {
    let backend = Backend::recording(|message| {
        let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n".to_vec();
        for piece in message.body.chunks(7_000) {
            answer.extend(format!("{:x}\r\n", piece.len()).bytes());
            answer.extend_from_slice(piece);
            answer.extend(b"\r\n");
        }
        answer.extend(b"0\r\nx-sum: 7\r\ncontent-length: 1\r\n\r\n");
        answer
    });
    let house = house(io, &backend);
    run(async {
        let (requests, _driver) = connect(house.port).await;
        for size in [1, 70_000, 2_000_000] {
            let body: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-check", "yes".parse().unwrap());
            trailers.insert("authorization", "no".parse().unwrap());
            let request = Request::post("http://a.test/up").body(()).unwrap();
            let answer = ask_with(&requests, request, &body, Some(trailers)).await.unwrap();
            assert!(answer.status == 200 && answer.body == body, "{size}: {}", answer.body.len());
            let trailers = answer.trailers.unwrap();
            assert_eq!((trailers.len(), &trailers["x-sum"]), (1, &"7".parse::<http::HeaderValue>().unwrap()));
        }
    });
    let seen = backend.seen();
    assert_eq!(seen[0].trailers.to_lowercase(), "x-check: yes\n");
    assert_eq!(seen[2].body.len(), 2_000_000);
}

fn many_streams_share_a_connection(io: IoMode) {
    let backend = Backend::recording(|message| {
        let body = message.target().repeat(1_000);
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    });
    let house = house(io, &backend);
    run(async {
        let (requests, _driver) = connect(house.port).await;
        // With its answer comes how many may be asked at once.
        ask(&requests, get("/first"), b"").await.unwrap();
        let asking: Vec<_> = (0..300)
            .map(|n| {
                let requests = requests.clone();
                tokio::task::spawn_local(async move {
                    let target = format!("/{n:03}");
                    let answer = ask(&requests, get(&target), b"").await.unwrap();
                    assert_eq!((answer.status, answer.text()), (200, target.repeat(1_000)));
                })
            })
            .collect();
        for one in asking {
            one.await.unwrap();
        }
        assert_eq!(house.traffic.connections(), 1);
    });
    eventually("each is counted", || house.count(200) == 301);
}

fn answers_without_a_body(io: IoMode) {
    let backend = Backend::recording(|message| {
        match message.target() {
            "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 9\r\n\r\n",
            "/0" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        }
        .as_bytes()
        .to_vec()
    });
    let house = house(io, &backend);
    run(async {
        let (requests, _driver) = connect(house.port).await;
        for (method, target, status, length) in [
            ("GET", "/204", 204, None),
            ("GET", "/304", 304, None),
            ("GET", "/0", 200, Some("0")),
            ("HEAD", "/9", 200, Some("9")),
        ] {
            let request = Request::builder().method(method).uri(format!("http://a.test{target}")).body(()).unwrap();
            let answer = ask(&requests, request, b"").await.unwrap();
            assert_eq!(
                (answer.status, answer.field("content-length"), answer.body.len()),
                (status, length, 0),
                "{target}"
            );
        }
    });
}

fn interim_answers(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        while let Some(head) = wire.head() {
            wire.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
            let length = head.to_lowercase().split("content-length: ").nth(1).map_or(0, |l| l[..1].parse().unwrap());
            let body = wire.exactly(length).unwrap();
            wire.send(
                format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", String::from_utf8(body).unwrap())
                    .as_bytes(),
            );
        }
    });
    let house = house(io, &backend);
    run(async {
        let (requests, _driver) = connect(house.port).await;
        let mut requests = requests.ready().await.unwrap();
        let request = Request::post("http://a.test/")
            .header("expect", "100-continue")
            .header("content-length", "5")
            .body(())
            .unwrap();
        let (mut response, mut sending) = requests.send_request(request, false).unwrap();
        let mut early = Vec::new();
        while !early.contains(&100) {
            let interim = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
            early.push(interim.status().as_u16());
        }
        sending.send_data(Bytes::from_static(b"hello"), true).unwrap();
        if !early.contains(&103) {
            let interim = std::future::poll_fn(|cx| response.poll_informational(cx)).await.unwrap().unwrap();
            assert_eq!((interim.status().as_u16(), interim.headers()["link"].to_str().unwrap()), (103, "</a.css>"));
        }
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "hello");
    });
}

/// Its client had said all it had to say, and its backend says nothing: the reset alone tells.
fn a_tunnel_that_its_client_gives_up_ends(io: IoMode) {
    let (say, said) = mpsc::channel();
    let backend = Backend::new(move |mut wire, _| {
        wire.head().unwrap();
        wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n");
        assert_eq!(wire.exactly(1), None);
        say.send("the client's end").unwrap();
        eventually("the tunnel's end", || wire.is_broken());
        say.send("the tunnel's end").unwrap();
    });
    let house = House::new(io, "h2c: true", &proxy_to(backend.port));
    let mut raw = Raw::new(house.port);
    let opening = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "a.test"),
        (":path", "/"),
        ("sec-websocket-version", "13"),
    ];
    raw.send(&frame(1, 4, 1, &h2_client::block(&opening)));
    assert!(raw.until(1).is_some());
    raw.send(&frame(0, 1, 1, b""));
    eventually("the end of what the client says", || said.try_recv() == Ok("the client's end"));
    raw.send(&frame(3, 0, 1, &[0, 0, 0, 8]));
    eventually("the end of the tunnel", || said.try_recv() == Ok("the tunnel's end"));
}

fn a_websocket_is_joined(io: IoMode) {
    let (heads, seen) = mpsc::channel();
    let backend = Backend::new(move |mut wire, _| {
        let head = wire.head().unwrap();
        let switch = !head.contains("/plain");
        heads.send(head).unwrap();
        if !switch {
            wire.send(OK.as_bytes());
            return;
        }
        wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\n");
        while let Some(bytes) = wire.exactly(1) {
            wire.send(&bytes);
        }
        wire.finish_sending();
    });
    // There is one place among the requests under way, which a tunnel does not keep.
    let one = "initialLimit: 1, minLimit: 1, maxLimit: 1, maxQueue: 8, maxWait: 10s";
    let filters = proxy_to(backend.port)
        .replace("filters: [", &format!("filters: [{{name: shed, kind: AdaptiveConcurrency, {one}}}, "))
        .replace("pools: [{", &format!("pools: [{{adaptiveConcurrency: {{{one}}}, "));
    let house = House::new(io, "h2c: true\nclientMaxBodySize: -1", &filters);
    let open = |target: &str| {
        let mut request = Request::builder()
            .method("CONNECT")
            .uri(format!("http://a.test{target}"))
            .header("sec-websocket-version", "13")
            .body(())
            .unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        request
    };
    run(async {
        let (requests, _driver) = connect(house.port).await;
        // The server's settings say that it may be asked.
        ask(&requests, get("/plain"), b"").await.unwrap();
        seen.recv().unwrap();
        let mut requests = requests.ready().await.unwrap();
        assert!(requests.is_extended_connect_protocol_enabled());
        let (response, mut sending) = requests.send_request(open("/chat?room=1"), false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
        assert!(response.headers().get("sec-websocket-accept").is_none());
        let mut body = response.into_body();
        sending.send_data(Bytes::from_static(b"hello"), false).unwrap();
        let mut came = Vec::new();
        while came.len() < 5 {
            came.extend_from_slice(&body.data().await.unwrap().unwrap());
        }
        assert_eq!(came, b"hello");
        assert_eq!(ask(&requests, get("/plain"), b"").await.unwrap().status, 200, "while the tunnel is open");
        sending.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none_or(|last| last.unwrap().is_empty()) && body.is_end_stream());
        let head = seen.recv().unwrap();
        assert!(head.starts_with("GET /chat?room=1 HTTP/1.1\r\n"), "{head}");
        let fields = head.to_lowercase();
        assert!(fields.contains("\r\nupgrade: websocket\r\n") && fields.contains("\r\nsec-websocket-key: "), "{head}");
        assert!(
            fields.contains("\r\nsec-websocket-version: 13\r\n") && fields.contains("\r\nhost: a.test\r\n"),
            "{head}"
        );
        // One that does not switch must not look as if it had.
        let (response, _sending) = requests.send_request(open("/plain"), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 502);
    });
    eventually("it is counted as what it was answered with", || house.count(502) == 1);
}

/// Its client may have one request under way.
fn a_websocket_is_under_way_until_it_ends(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        let switch = wire.head().unwrap().contains("/chat");
        if !switch {
            wire.send(OK.as_bytes());
            return;
        }
        wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n");
        while let Some(bytes) = wire.exactly(1) {
            wire.send(&bytes);
        }
        wire.finish_sending();
    });
    let policy = "{name: one, key: {from: address}, maxConcurrent: 1, limitForPeriod: 0}";
    let limiter = format!(
        "{{name: r, kind: RateLimiter, policies: [{policy}], defaultPolicyRef: one, urls: [{{url: {{prefix: /}}}}]}}"
    );
    let pipeline = proxy_to(backend.port).replace("filters: [", &format!("filters: [{limiter}, "));
    let house = House::new(io, "h2c: true", &pipeline);
    run(async {
        let (requests, _driver) = connect(house.port).await;
        assert_eq!(ask(&requests, get("/plain"), b"").await.unwrap().status, 200);
        let mut open = Request::builder().method("CONNECT").uri("http://a.test/chat");
        open = open.header("sec-websocket-version", "13");
        let mut open = open.body(()).unwrap();
        open.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let mut requests = requests.ready().await.unwrap();
        let (response, mut sending) = requests.send_request(open, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        let mut body = response.into_body();
        sending.send_data(Bytes::from_static(b"x"), false).unwrap();
        assert_eq!(body.data().await.unwrap().unwrap(), "x", "they are joined");
        assert_eq!(ask(&requests, get("/plain"), b"").await.unwrap().status, 429);
        sending.send_data(Bytes::new(), true).unwrap();
        while body.data().await.is_some() {}
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while ask(&requests, get("/plain"), b"").await.unwrap().status != 200 {
            assert!(std::time::Instant::now() < end, "its place is not free");
        }
    });
}

/// There is one place among the requests under way. A call whose client has more to say, and whose server says nothing yet, has nothing
/// to do with it, before and behind any filter.
fn a_stream_that_nobody_speaks_on_holds_no_place(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        while let Some(head) = wire.head() {
            if head.contains(" /shop.Cart/Watch ") {
                while !wire.is_closed() {
                    std::thread::sleep(Duration::from_millis(20));
                }
                return;
            }
            wire.send(OK.as_bytes());
        }
    });
    // Shorter than a client may take for its body.
    let one = "initialLimit: 1, minLimit: 1, maxLimit: 1, maxQueue: 8, maxWait: 5s";
    let filters = proxy_to(backend.port)
        .replace("filters: [", &format!("filters: [{{name: shed, kind: AdaptiveConcurrency, {one}}}, "))
        .replace("pools: [{", &format!("pools: [{{adaptiveConcurrency: {{{one}}}, "));
    let house = House::new(io, "h2c: true", &filters);
    run(async {
        let (requests, _driver) = connect(house.port).await;
        let mut requests = requests.ready().await.unwrap();
        let call = Request::post("http://a.test/shop.Cart/Watch").header("content-type", "application/grpc");
        let (answer, sending) = requests.send_request(call.body(()).unwrap(), false).unwrap();
        assert_eq!(ask(&requests, get("/plain"), b"").await.unwrap().status, 200, "while the call is open");
        drop((answer, sending));
    });
}

/// More of them than the connection's window has room for at first.
fn uploads_nobody_reads_stop_no_other(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        loop {
            let Some(head) = wire.head() else { return };
            if head.contains(" /stuck ") {
                // Until the other end gives up.
                while !wire.is_closed() {
                    std::thread::sleep(Duration::from_millis(20));
                }
                return;
            }
            wire.exactly(1_000_000);
            wire.send(OK.as_bytes());
        }
    });
    let house = house(io, &backend);
    let post = |target: &str, length: usize| {
        Request::post(format!("http://a.test{target}")).header("content-length", length).body(()).unwrap()
    };
    run(async {
        let (requests, _driver) = connect(house.port).await;
        let stuck = vec![7; 9_000_000];
        for _ in 0..8 {
            let (requests, request, body) = (requests.clone(), post("/stuck", stuck.len()), stuck.clone());
            tokio::task::spawn_local(async move { drop(ask(&requests, request, &body).await) });
        }
        // Until what lies between here and the backend is full.
        let (mut had, mut still) = (0, 0);
        while still < 10 || had < 1_000_000 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let has = house.runtime.workers()[0].stats().bytes_in;
            still = if has == had { still + 1 } else { 0 };
            had = has;
        }
        assert!(had < 60_000_000, "they are stuck: {had}");
        let answer = ask(&requests, post("/up", 1_000_000), &vec![7; 1_000_000]).await.unwrap();
        assert_eq!(answer.status, 200);
    });
    assert_eq!(house.limit("body_timeout"), 0);
}

/// As those of chunked bodies over HTTP/1.
/// The whole answer is there before anything of the body is sent.
fn a_rest_that_nobody_wants_is_read_as_far_as_that_is_worth_it(io: IoMode) {
    const ENDS: u8 = 1;
    let answers = "filters: [{name: m, kind: Mock, rules: [{code: 200, body: done}]}]";
    let house = House::with_timeouts(io, "h2c: true", answers, short_timeouts());
    let post = |announced: &[(&str, &str)]| {
        let fields = [(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")];
        frame(1, 4, 1, &block(&[&fields[..], announced].concat()))
    };
    let answered = |announced: &[(&str, &str)]| {
        let mut raw = Raw::new(house.port);
        raw.send(&post(announced));
        while raw.frame().is_some_and(|frame| frame.stream != 1 || frame.flags & ENDS == 0) {}
        raw
    };
    let length = |length: &'static str| [("content-length", length)];
    // What is not as announced is an error, also behind the answer (RFC 9113 section 8.1.1).
    for (announced, sent, flags) in [("1", "test", 0), ("1", "test", ENDS), ("5", "test", ENDS), ("3", "", ENDS)] {
        let mut raw = answered(&length(announced));
        raw.send(&frame(0, flags, 1, sent.as_bytes()));
        assert_eq!(raw.code(1), Some(1), "{announced}: {sent}");
    }
    eventually("each is counted", || house.limit("h2_length") == 4);
    // What is ends the stream well: nothing is said of it before the next thing that is.
    for announced in [&length("4")[..], &[]] {
        let mut raw = answered(announced);
        raw.send(&[frame(0, ENDS, 1, b"test"), frame(6, 0, 0, b"whatever")].concat());
        while let frame = raw.frame().unwrap()
            && frame.kind != 6
        {
            assert_ne!(frame.kind, 3, "{announced:?}");
        }
    }
    // Who has more to send than is worth it is told to stop (section 8.1), and so is who sends nothing, or may not mean to.
    assert_eq!(answered(&length("1000000")).code(1), Some(0));
    assert_eq!(answered(&[("content-length", "4"), ("expect", "100-continue")]).code(1), Some(0));
    assert_eq!(answered(&[]).code(1), Some(0));
    let mut raw = answered(&[]);
    // Five frames find room in the window; when it is opened again they were read, and the next one is too much.
    for _ in 0..5 {
        raw.send(&frame(0, 0, 1, &[0; 13_000]));
    }
    while let frame = raw.frame().unwrap()
        && (frame.kind, frame.stream) != (8, 1)
    {}
    raw.send(&frame(0, 0, 1, &[0; 13_000]));
    assert_eq!(raw.code(1), Some(0));
    eventually("each is answered", || house.count(200) == 10);
}

fn trailers_are_bounded_and_judged(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = house(io, &backend);
    run(async {
        let (requests, _driver) = connect(house.port).await;
        let trailers = |names: &[String]| {
            let mut trailers = HeaderMap::new();
            for name in names {
                trailers.insert(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), "1".parse().unwrap());
            }
            Some(trailers)
        };
        let post = || Request::post("http://a.test/").body(()).unwrap();
        let names = ["x-sum", "a_b", "x_forwarded_for"].map(str::to_owned);
        assert_eq!(ask_with(&requests, post(), b"body", trailers(&names)).await.unwrap().status, 200);
        let many: Vec<String> = (0..33).map(|n| format!("x-{n}")).collect();
        assert_eq!(ask_with(&requests, post(), b"body", trailers(&many)).await.unwrap().status, 431);
    });
    assert_eq!(backend.seen()[0].trailers.to_lowercase(), "x-sum: 1\n");
    assert_eq!((house.limit("underscores_dropped"), house.limit("too_many_trailers")), (1, 1));
}

/// A client that opens no window holds up what is sent to it, and with it the backend, and nobody else.
fn an_answer_waits_for_its_client(io: IoMode) {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let backend = Backend::new(move |mut wire, _| {
        while let Some(message) = wire.message() {
            if message.target() == "/small" {
                wire.send(OK.as_bytes());
                continue;
            }
            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
            while wire.send(&[7; 10_000]) {
                count.fetch_add(10_000, Ordering::SeqCst);
            }
        }
    });
    let house = house(io, &backend);
    run(async {
        let (requests, _driver) = connect(house.port).await;
        let (response, _sending) = requests.clone().send_request(get("/large"), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut last = usize::MAX;
        while last != sent.load(Ordering::SeqCst) {
            last = sent.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        // What two kernels, a window and our own queues hold.
        assert!(last < 16_000_000, "{last} bytes were taken from the backend");
        let mut came = 0;
        while came < 60_000 {
            came += body.data().await.unwrap().unwrap().len();
        }
        assert_eq!(ask(&requests, get("/small"), b"").await.unwrap().text(), "ok");
    });
    eventually("the backend is let go", || house.count(499) + house.count(200) >= 2);
}

fn a_cancelled_request_ends_at_the_backend(io: IoMode) {
    let (gone, seen) = mpsc::channel();
    let backend = Backend::new(move |mut wire, _| {
        if wire.message().is_some() {
            gone.send(wire.ends()).unwrap();
        }
    });
    let house = house(io, &backend);
    run(async {
        let (requests, _driver) = connect(house.port).await;
        let (response, mut sending) = requests.clone().send_request(get("/"), true).unwrap();
        until(|| backend.connections() == 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        sending.send_reset(h2::Reason::CANCEL);
        assert!(response.await.is_err());
        let ended = tokio::task::spawn_blocking(move || seen.recv_timeout(Duration::from_secs(60))).await.unwrap();
        assert_eq!(ended, Ok(true));
    });
    eventually("it is recorded", || house.count(499) == 1);
}

fn a_server_that_stops_says_so(io: IoMode) {
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let backend = Backend::new(move |mut wire, _| {
        while wire.message().is_some() {
            wait.lock().unwrap().recv().unwrap();
            wire.send(OK.as_bytes());
        }
    });
    let house = house(io, &backend);
    run(async {
        let (requests, driver) = connect(house.port).await;
        let (idle, idle_driver) = connect(house.port).await;
        let (response, _sending) = requests.clone().send_request(get("/"), true).unwrap();
        until(|| backend.connections() == 1).await;
        house.traffic.stop();
        tokio::time::sleep(Duration::from_millis(300)).await;
        go.send(()).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.into_body().data().await.unwrap().unwrap(), "ok");
        drop((requests, idle));
        assert!(driver.await.unwrap().is_ok() && idle_driver.await.unwrap().is_ok());
    });
    eventually("no connection is left", || house.traffic.connections() == 0);
}

fn an_idle_connection_is_told_to_go(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = House::new(io, "h2c: true\nkeepAliveTimeout: 200ms", &proxy_to(backend.port));
    run(async {
        let (requests, driver) = connect(house.port).await;
        assert_eq!(ask(&requests, get("/"), b"").await.unwrap().status, 200);
        assert!(driver.await.unwrap().is_ok());
        assert!(ask(&requests, get("/"), b"").await.is_err());
    });
    // Without keep-alive the first request is the last.
    house.server("h2c: true\nkeepAlive: false");
    run(async {
        let (requests, driver) = connect(house.port).await;
        assert_eq!(ask(&requests, get("/"), b"").await.unwrap().status, 200);
        assert!(driver.await.unwrap().is_ok());
    });
    assert_eq!(house.limit("first_byte_timeout"), 0);
}

/// It always has a request open, and does not say that it knows: what it asks for after its time is not looked at.
fn a_client_that_does_not_answer_is_told_to_go(io: IoMode) {
    let backend = Backend::new(|mut wire, _| while wire.message().is_some() {});
    let house = House::with_timeouts(io, "h2c: true\nkeepAlive: false", &proxy_to(backend.port), short_timeouts());
    let mut raw = Raw::new(house.port);
    raw.send(&frame(1, 5, 1, &h2_client::get_block("/")));
    assert_eq!(raw.until(7).unwrap().payload[..4], [0x7f, 255, 255, 255]);
    raw.send(&frame(1, 5, 3, &h2_client::get_block("/")));
    assert_eq!(raw.until(7).unwrap().payload[..4], [0, 0, 0, 3]);
    raw.send(&[frame(1, 5, 5, &h2_client::get_block("/")), frame(6, 0, 0, b"12345678")].concat());
    assert!(raw.until(6).is_some());
    eventually("the first two are asked for", || backend.connections() == 2);
}

/// A GRPCServer beside the house's own server, with these fields.
fn grpc_server(house: &House, fields: &str) -> u16 {
    let port = support::free_port();
    let rules = "rules: [{methods: [{methodPrefix: /, backend: app}]}]";
    let spec: base_model::GrpcServerSpec = spec!(&format!("{{address: 127.0.0.1, port: {port}, {fields}, {rules}}}"));
    house.traffic.apply_listener("g", &base_model::Spec::GrpcServer(Box::new(spec))).expect("a good server");
    port
}

/// An old connection is told to go, its calls go on, and those that go on for too long are cut off.
fn connections_of_grpc_grow_old(io: IoMode) {
    // It never answers.
    let backend = Backend::new(|mut wire, _| while wire.message().is_some() {});
    let house = house(io, &backend);
    let call = frame(1, 4 | 1, 1, &h2_client::get_block("/s.S/M"));
    let mut raw = Raw::new(grpc_server(&house, "maxConnectionAge: 200ms, maxConnectionAgeGrace: 300ms"));
    assert!(raw.send(&call));
    assert!(raw.until(7).is_some(), "GOAWAY");
    eventually("it is cut off", || raw.frame().is_none());
    // Without a call it ends by itself; with one, and no grace, it goes on.
    let port = grpc_server(&house, "maxConnectionAge: 200ms");
    let (mut idle, mut busy) = (Raw::new(port), Raw::new(port));
    assert!(busy.send(&call));
    assert!(idle.until(7).is_some() && busy.until(7).is_some(), "GOAWAY");
    eventually("it ends", || idle.frame().is_none());
    // A PING is answered still.
    assert!(busy.send(&frame(6, 0, 0, b"12345678")));
    assert!(busy.until(6).is_some());
}

/// A client that says nothing is asked, and cut off when it does not answer.
fn clients_of_grpc_are_asked_whether_they_are_there(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = house(io, &backend);
    let mut raw = Raw::new(grpc_server(&house, "keepaliveTime: 100ms, keepaliveTimeout: 100ms"));
    assert!(raw.until(6).is_some(), "PING");
    eventually("it is cut off", || raw.frame().is_none());
    assert_eq!(house.limit("grpc_keepalive"), 1);
    // Who answers stays, however often.
    let mut raw = Raw::new(grpc_server(&house, "keepaliveTime: 20ms, keepaliveTimeout: 60s"));
    for _ in 0..10 {
        let asked = raw.until(6).expect("PING");
        assert!(raw.send(&frame(6, 1, 0, &asked.payload)));
    }
    assert_eq!(house.limit("grpc_keepalive"), 1);
}

/// A client that asks more often than it may is sent away, and told so in a word it knows; others ask as they like.
fn clients_of_grpc_may_ask_as_often_as_the_document_says(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = house(io, &backend);
    let ask = frame(6, 0, 0, b"12345678");
    let port = grpc_server(&house, "minTimeClientSendPing: 1h, permitClintSendPingWithoutStream: true");
    let mut raw = Raw::new(port);
    for _ in 0..3 {
        assert!(raw.send(&ask) && raw.until(6).is_some(), "PING");
    }
    assert!(raw.send(&ask));
    let away = raw.until(7).expect("GOAWAY");
    assert_eq!((&away.payload[4..8], &away.payload[8..]), (&[0, 0, 0, 11][..], &b"too_many_pings"[..]));
    eventually("it is closed", || raw.frame().is_none());
    assert_eq!(house.limit("grpc_pings"), 1);
    let mut other = Raw::new(grpc_server(&house, "keepaliveTime: 1h"));
    for _ in 0..20 {
        assert!(other.send(&ask) && other.until(6).is_some(), "PING");
    }
}

fn faults_are_answered_and_counted(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = House::new(io, "h2c: true\nclientMaxBodySize: 1000", &proxy_to(backend.port));
    run(async {
        let (requests, _driver) = connect(house.port).await;
        let many: Vec<(String, &str)> = (0..130).map(|n| (format!("x-{n}"), "1")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let long = "x".repeat(40_000);
        let checks: [(&str, Fields<'_>, u16, &str); 8] = [
            ("/", &[("host", "b.test")], 400, "authority_differs"),
            ("/", &[("content_length", "1")], 400, "name_lookalike"),
            ("/", &[("expect", "tea")], 417, "expectation"),
            ("/../../x", &[], 400, "target_above_root"),
            ("/%00", &[], 400, "target_nul"),
            ("/", &many, 431, "too_many_fields"),
            ("/", &[("x-long", &long)], 431, "field_too_large"),
            ("/", &[("x_dropped", "1")], 200, "underscores_dropped"),
        ];
        for (target, fields, status, limit) in checks {
            let mut request = get(target);
            for (name, value) in fields {
                request
                    .headers_mut()
                    .append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            }
            let answer = ask(&requests, request, b"").await.unwrap();
            assert_eq!((answer.status, house.limit(limit)), (status, 1), "{limit}");
        }
        let large = Request::post("http://a.test/").header("content-length", "1001").body(()).unwrap();
        assert_eq!(ask(&requests, large, &[7; 1001]).await.unwrap().status, 413);
        let larger = Request::post("http://a.test/").body(()).unwrap();
        assert_eq!(ask(&requests, larger, &[7; 300_000]).await.unwrap().status, 413);
        let connect = Request::builder().method("CONNECT").uri("db.test:5432").body(()).unwrap();
        assert_eq!(ask(&requests, connect, b"").await.unwrap().status, 404);
        // All that on one connection, which still serves.
        assert_eq!(ask(&requests, get("/"), b"").await.unwrap().status, 200);
    });
    assert_eq!((house.limit("request_body_bytes"), backend.seen().len()), (2, 2));
    // What no client of the crate says: a fragment, as over HTTP/1, and a path that is no target at all.
    let mut raw = Raw::new(house.port);
    for (n, target) in ["/a#b", "/a?b#c", "#", "a"].iter().enumerate() {
        raw.send(&frame(1, 5, 2 * n as u32 + 1, &h2_client::get_block(target)));
        let head = raw.until(1).unwrap();
        assert_eq!(head.payload[0], 0x80 | 12, ":status 400 for {target}");
    }
    assert_eq!(backend.seen().len(), 2);
}

fn time_outs_hold_for_each_stream(io: IoMode) {
    let backend = Backend::answering(OK);
    let timeouts = Timeouts { rate: 0, ..short_timeouts() };
    let house = House::with_timeouts(io, "h2c: true", &proxy_to(backend.port), timeouts);
    run(async {
        let (requests, _driver) = connect(house.port).await;
        let request = Request::post("http://a.test/").header("content-length", "5").body(()).unwrap();
        let (response, _sending) = requests.clone().send_request(request, false).unwrap();
        assert_eq!(response.await.unwrap().status(), 408);
        assert_eq!(house.limit("body_timeout"), 1);
        assert_eq!(ask(&requests, get("/"), b"").await.unwrap().status, 200);
    });
    // A head that never ends, on a connection that may wait for longer. From a busy machine not even its beginning comes in time.
    eventually("the head's time is over", || {
        let mut raw = h2_client::Raw::new(house.port);
        raw.send(&h2_client::frame(1, 1, 1, &h2_client::get_block("/")));
        raw.code(1) == Some(11)
    });
    assert_eq!(house.limit("head_timeout"), 1);
    let mut silent = h2_client::Raw::new(house.port);
    assert_eq!(silent.code(0), Some(0));
    assert!(house.limit("first_byte_timeout") >= 1);
}

fn both_versions_share_a_port(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = house(io, &backend);
    assert_eq!(house.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
    // Their first letters are the same.
    let mut client = house.connect();
    for piece in ["P", "R", "OPFIND / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        client.send(piece.as_bytes());
        std::thread::sleep(Duration::from_millis(30));
    }
    assert_eq!(client.answer().status(), 200);
    // It is the beginning of a connection, or nothing.
    client.send(h2_client::PREFACE);
    assert_eq!(client.answer().status(), 505);
    let mut slow = std::net::TcpStream::connect(("127.0.0.1", house.port)).unwrap();
    for byte in h2_client::PREFACE {
        std::io::Write::write_all(&mut slow, &[*byte]).unwrap();
    }
    std::io::Write::write_all(&mut slow, &h2_client::frame(4, 0, 0, &[])).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut raw = h2_client::Raw { stream: slow };
    assert_eq!(raw.frame().map(|frame| frame.kind), Some(4));
    house.server("h2c: false");
    let mut client = house.connect();
    client.send(h2_client::PREFACE);
    assert_eq!((client.answer().status(), house.limit("http2_preface")), (505, 2));
}

/// As gRPC has it: HTTP/2 on both sides, pieces answered one by one, status in the trailers.
fn both_directions_run_at_once_end_to_end(io: IoMode) {
    let (sender, port) = mpsc::channel();
    std::thread::spawn(move || {
        run(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            sender.send(listener.local_addr().unwrap().port()).unwrap();
            let (socket, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(socket).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert_eq!(
                    (request.uri().path(), &request.headers()["te"]),
                    ("/chat", &"trailers".parse::<http::HeaderValue>().unwrap())
                );
                tokio::task::spawn_local(async move {
                    let mut body = request.into_body();
                    let mut answer = respond.send_response(http::Response::new(()), false).unwrap();
                    while let Some(Ok(bytes)) = body.data().await {
                        body.flow_control().release_capacity(bytes.len()).unwrap();
                        answer.send_data(bytes, false).unwrap();
                    }
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    answer.send_trailers(trailers).unwrap();
                });
            }
        });
    });
    let port = port.recv().unwrap();
    let pool = format!(
        "filters: [{{name: p, kind: Proxy, serverMaxBodySize: -1, pools: [{{http2: true, servers: [{{url: 'http://127.0.0.1:{port}'}}]}}]}}]"
    );
    let house = House::new(io, "h2c: true\nclientMaxBodySize: -1", &pool);
    run(async {
        let (requests, _driver) = connect(house.port).await;
        let request = Request::post("http://a.test/chat").header("te", "trailers").body(()).unwrap();
        let (response, mut sending) = requests.clone().send_request(request, false).unwrap();
        sending.send_data(Bytes::from_static(b"0"), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        for n in 0..50 {
            let bytes = body.data().await.unwrap().unwrap();
            assert_eq!(bytes, n.to_string());
            body.flow_control().release_capacity(bytes.len()).unwrap();
            sending.send_data((n + 1).to_string().into(), n == 49).unwrap();
        }
        assert_eq!(body.data().await.unwrap().unwrap(), "50");
        assert!(body.data().await.is_none());
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    });
    eventually("it is counted", || house.count(200) == 1);
}
