//! The Proxy in front of backends that speak HTTP/2: the `h2` crate's server, and bytes written by hand.

#[path = "support/h2_link.rs"]
mod h2_link;
mod support;

use base_runtime::net::{ListenOptions, TcpListener};
use base_runtime::{Buf, Config, IoMode, Runtime};
use bytes::Bytes;
use edge_pipeline::BodyError;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use h2_link::H2Link;
use proto_h2::{Data, Progress, ServerSettings};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io::Read;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};
use support::*;

type Request = http::Request<RecvStream>;
type Respond = SendResponse<Data>;

/// A backend of the `h2` crate, on a worker of its own.
struct Http2 {
    port: u16,
    connections: Arc<AtomicUsize>,
    _runtime: Runtime,
}

impl Http2 {
    /// Each request is answered by `answer`, which is also told the number of its connection.
    fn new<F, Fut>(answer: F) -> Http2
    where
        F: Fn(Request, Respond, usize) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        Http2::with(ServerSettings::default(), usize::MAX, answer)
    }

    /// Ends each connection (GOAWAY) after so many requests.
    fn with<F, Fut>(settings: ServerSettings, most: usize, answer: F) -> Http2
    where
        F: Fn(Request, Respond, usize) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let config = Config { io: IoMode::Auto, workers: Some(1), name: "backend".to_owned(), ..Config::default() };
        let runtime = Runtime::start(config).expect("a driver works here");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let (sender, receiver) = mpsc::channel();
        runtime.workers()[0].spawn(move || async move {
            let listener = TcpListener::bind(([127, 0, 0, 1], 0).into(), ListenOptions::default()).expect("a port");
            sender.send(listener.local_addr().port()).expect("waited for");
            while let Ok((stream, _)) = listener.accept().await {
                let (nth, settings, answer) = (count.fetch_add(1, SeqCst), settings.clone(), answer.clone());
                base_runtime::spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    builder.max_concurrent_streams(settings.streams_most).initial_window_size(settings.stream_window);
                    if settings.connect_protocol {
                        builder.enable_connect_protocol();
                    }
                    let Ok(mut connection) = builder.handshake::<_, Data>(H2Link::new(stream.into())).await else {
                        return;
                    };
                    let mut seen = 0;
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        base_runtime::spawn(answer(request, respond, nth)).detach();
                        seen += 1;
                        if seen == most {
                            connection.graceful_shutdown();
                        }
                    }
                })
                .detach();
            }
        });
        Http2 { port: receiver.recv().expect("it listens"), connections, _runtime: runtime }
    }

    fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }

    fn pool(&self) -> String {
        format!("pools: [{{http2: true, servers: [{{url: 'http://127.0.0.1:{}'}}]}}]", self.port)
    }
}

async fn say(mut respond: Respond, status: u16, body: &'static str) {
    let head = http::Response::builder().status(status).body(()).unwrap();
    if let Ok(mut sending) = respond.send_response(head, body.is_empty()) {
        let _ = sending.send_data(Bytes::from_static(body.as_bytes()).into(), true);
    }
}

async fn read(mut body: RecvStream) -> (Vec<u8>, Option<http::HeaderMap>) {
    let mut bytes = Vec::new();
    while let Some(Ok(piece)) = body.data().await {
        let _ = body.flow_control().release_capacity(piece.len());
        bytes.extend_from_slice(&piece);
    }
    (bytes, body.trailers().await.ok().flatten())
}

/// Ready when this many tasks of the worker wait here.
#[derive(Default)]
struct Gathering {
    here: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
}

impl Gathering {
    async fn of(&self, most: usize) {
        self.here.set(self.here.get() + 1);
        poll_fn(|cx| {
            if self.here.get() >= most {
                self.waiting.take().into_iter().for_each(Waker::wake);
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

thread_local! {
    static GATHERING: Rc<Gathering> = Rc::default();
}

/// A hundred requests at a time, of a worker that had no connection, share one; none is answered before all are there.
#[test]
fn requests_share_a_connection() {
    let backend = Http2::new(|_, respond, _| async {
        GATHERING.with(Rc::clone).of(100).await;
        say(respond, 200, "ok").await;
    });
    let house = House::new(1, &backend.pool());
    let asked: Vec<_> = (0..100).map(|_| house.begin(0, get("/"))).collect();
    for said in asked {
        let said = said.recv().unwrap();
        assert_eq!((said.status, said.body.as_deref()), (200, Ok(&b"ok"[..])), "{}", said.notes);
    }
    assert_eq!((backend.connections(), house.connections_made()), (1, 1));
    assert_eq!(house.metric("weir_upstream_idle_connections", ""), 1);
    assert_eq!(house.ask(get("/")).status, 200);
    assert_eq!((backend.connections(), house.metric("weir_upstream_connections_reused_total", "")), (1, 1));
}

/// A backend that takes few requests at a time gets more connections, not a queue.
#[test]
fn a_bound_on_streams_makes_more_connections() {
    let settings = ServerSettings { streams_most: 4, ..ServerSettings::default() };
    let backend = Http2::with(settings, usize::MAX, |request: Request, respond, _| async move {
        if request.uri().path() == "/" {
            GATHERING.with(Rc::clone).of(12).await;
        }
        say(respond, 200, "ok").await;
    });
    let house = House::new(1, &backend.pool());
    // Its settings have come with the answer to the first.
    assert_eq!(house.ask(get("/settings")).status, 200);
    let asked: Vec<_> = (0..12).map(|_| house.begin(0, get("/"))).collect();
    assert!(asked.into_iter().all(|said| said.recv().unwrap().status == 200));
    assert_eq!(backend.connections(), 3);
}

#[test]
fn messages_pass_whole() {
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = heads.clone();
    let backend = Http2::new(move |request: Request, mut respond: Respond, _| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            let fields: Vec<String> =
                head.headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
            seen.lock().unwrap().push((format!("{} {}", head.method, head.uri), fields));
            let hints = http::Response::builder().status(103).header("link", "</s.css>").body(()).unwrap();
            respond.send_informational(hints).unwrap();
            let (bytes, trailers) = read(body).await;
            let mut answer = http::Response::builder().status(201).header("x-of", "backend");
            if head.method == "HEAD" {
                answer = answer.header("content-length", "77");
                respond.send_response(answer.body(()).unwrap(), true).unwrap();
                return;
            }
            let mut sending = respond.send_response(answer.body(()).unwrap(), false).unwrap();
            sending.send_data(Bytes::from(bytes).into(), false).unwrap();
            let mut end = http::HeaderMap::new();
            end.insert("x-sum", http::HeaderValue::from_static(if trailers.is_some() { "with" } else { "without" }));
            sending.send_trailers(end).unwrap();
        }
    });
    let url = format!("http://127.0.0.1:{}/in/", backend.port);
    let house = House::new(1, &format!("pools: [{{servers: [{{url: '{url}', http2: true}}]}}]"));
    let headers = vec![
        ("X-Case", "Kept"),
        ("Connection", "close"),
        ("Keep-Alive", "timeout=5"),
        ("Transfer-Encoding", "chunked"),
        ("TE", "gzip"),
        ("Upgrade", "websocket"),
        ("Cookie", "a=1"),
        ("Expect", "100-continue"),
    ];
    for ask in [
        Ask { headers: headers.clone(), target: "/a%20b", ..post(b"body") },
        Ask { method: "POST", target: "/s", pieces: (b'a'..b'k').map(|b| vec![b; 9_000]).collect(), ..Ask::default() },
        Ask { method: "PUT", target: "/none", ..Ask::default() },
    ] {
        let whole = ask.buffer.clone().unwrap_or_else(|| ask.pieces.concat());
        let said = house.ask(ask);
        assert_eq!(said.status, 201, "{}", said.notes);
        assert_eq!(said.interim, [(103, "{\"link\": \"</s.css>\"}".to_owned())]);
        assert!(said.body.unwrap() == whole);
        assert!(said.headers.contains("\"x-of\": \"backend\""), "{}", said.headers);
        assert_eq!(said.trailers, "{\"x-sum\": \"without\"}");
    }
    let said = house.ask(Ask { method: "HEAD", target: "/", ..Ask::default() });
    assert_eq!((said.status, said.body.unwrap().len()), (201, 0));
    assert!(said.headers.contains("\"content-length\": \"77\""), "{}", said.headers);
    let seen = heads.lock().unwrap();
    assert_eq!(seen[0].0, "POST http://client.test/in/a%20b");
    let mut fields = seen[0].1.clone();
    fields.sort();
    assert_eq!(fields, ["content-length: 4", "cookie: a=1", "te: trailers", "x-case: Kept"]);
    assert_eq!(seen[1].1, ["te: trailers"], "nobody knows how long it will be");
    assert!(
        seen[2].1.contains(&"content-length: 0".to_owned()) && !seen[3].1.iter().any(|f| f.starts_with("content-l"))
    );
    assert_eq!(house.connections_made(), 1);
}

/// The opening of a WebSocket, as a client of HTTP/1.1 says it; and what proves that its key was read.
fn websocket(target: &'static str) -> Ask {
    let headers = vec![
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ];
    Ask { upgrade: true, headers, ..get(target) }
}
const ACCEPTED: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A backend that offers it gets WebSockets over streams of one connection, as RFC 8441 has them.
#[test]
fn websockets_are_streams_where_that_is_offered() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heads = seen.clone();
    let backend = Http2::new(move |request: Request, mut respond: Respond, _| {
        let heads = heads.clone();
        async move {
            let mut fields: Vec<_> = request.headers().keys().map(|name| name.as_str().to_owned()).collect();
            fields.sort();
            let protocol = request.extensions().get::<h2::ext::Protocol>().map(|p| p.as_str().to_owned());
            heads.lock().unwrap().push((request.method().to_string(), protocol, request.uri().to_string(), fields));
            match request.uri().path() {
                "/refused" => return say(respond, 403, "no").await,
                "/http1" => return respond.send_reset(Reason::HTTP_1_1_REQUIRED),
                _ => {}
            }
            let head = http::Response::builder().status(200).header("sec-websocket-protocol", "chat").body(()).unwrap();
            let _open = respond.send_response(head, false).unwrap();
            let _ = read(request.into_body()).await;
        }
    });
    let house = House::new(1, &backend.pool());
    for _ in 0..3 {
        let said = house.ask(websocket("/ws"));
        assert_eq!((said.status, said.outcome), (101, ""), "{}", said.notes);
        for field in [ACCEPTED, "\"sec-websocket-protocol\": \"chat\"", "\"Upgrade\": \"websocket\""] {
            assert!(said.headers.contains(field), "{field}: {}", said.headers);
        }
    }
    // What it answers instead is the answer, and others go over the same connection.
    let said = house.ask(websocket("/refused"));
    assert_eq!((said.status, said.body.as_deref()), (403, Ok(&b"no"[..])), "{}", said.notes);
    assert_eq!(house.ask(get("/refused")).status, 403);
    assert_eq!(backend.connections(), 1);
    let fields = ["sec-websocket-version", "te"].map(str::to_owned).to_vec();
    let asked = ("CONNECT".to_owned(), Some("websocket".to_owned()), "http://client.test/ws".to_owned(), fields);
    assert_eq!(seen.lock().unwrap()[..3], [asked.clone(), asked.clone(), asked]);
    // One that wants it over HTTP/1.1 after all gets that, and messages as before. It speaks none here.
    assert_eq!(house.ask(websocket("/http1")).status, 503);
    assert_eq!(house.ask(get("/refused")).status, 403);
    let over_streams = seen.lock().unwrap().len();
    assert_eq!(house.ask(websocket("/ws")).status, 503);
    assert_eq!(seen.lock().unwrap().len(), over_streams);
    let said = house.ask(get("/refused"));
    assert_eq!(said.status, 403, "{}", said.notes);
}

/// One that does not offer it is asked over HTTP/1.1 on the same port, and for the next one at once.
#[test]
fn websockets_go_over_http1_where_streams_are_not_offered() {
    let kinds = Arc::new(Mutex::new(Vec::new()));
    let seen = kinds.clone();
    let backend = Backend::new(move |mut wire, _| {
        let mut first = [0; 3];
        if wire.stream.read_exact(&mut first).is_err() {
            return;
        }
        let is_http2 = &first == b"PRI";
        seen.lock().unwrap().push(if is_http2 { "HTTP/2" } else { "HTTP/1.1" });
        if is_http2 {
            // SETTINGS of nothing, and that theirs were read.
            wire.send([0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0]);
            return wire.drain();
        }
        let head = wire.head().unwrap();
        assert!(
            head.contains("Upgrade: websocket\r\n") && head.contains("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
            "{head}"
        );
        wire.send(format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPTED}\r\n\r\n"
        ));
        wire.drain();
    });
    let house =
        House::new(1, &format!("pools: [{{http2: true, servers: [{{url: 'http://127.0.0.1:{}'}}]}}]", backend.port));
    for _ in 0..3 {
        let said = house.ask(websocket("/ws"));
        assert_eq!(said.status, 101, "{}", said.notes);
        assert!(said.headers.contains(ACCEPTED), "{}", said.headers);
    }
    assert_eq!(*kinds.lock().unwrap(), ["HTTP/2", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1"]);
}

/// WebSockets stay, and where a backend takes one request at a time each has a connection for itself: messages find room beside them.
/// Further ones are refused, and not asked for over HTTP/1.1, which such a backend may not speak.
#[test]
fn websockets_leave_room_for_messages() {
    let (streams, http1) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (streams.clone(), http1.clone());
    let backend = Backend::new(move |mut wire, _| {
        let mut preface = [0; 24];
        if wire.stream.read_exact(&mut preface[..3]).is_err() {
            return;
        }
        if &preface[..3] != b"PRI" {
            wire.head();
            wire.send(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPTED}\r\n\r\n"
            ));
            counts.1.fetch_add(1, SeqCst);
            return wire.drain();
        }
        // WebSockets are taken (RFC 8441 section 3).
        let settings =
            [&3u16.to_be_bytes()[..], &1u32.to_be_bytes(), &8u16.to_be_bytes(), &1u32.to_be_bytes()].concat();
        wire.send(frame(SETTINGS, 0, 0, &settings));
        let mut frames = Frames::of(wire);
        frames.read = preface[..3].to_vec();
        while let Some(stream) = frames.request() {
            // A message begins with GET, which is one byte (RFC 7541 appendix A).
            let is_message = frames.payload().first() == Some(&0x82);
            if !is_message {
                counts.0.fetch_add(1, SeqCst);
            }
            frames.wire.send(frame(HEADERS, if is_message { 5 } else { 4 }, stream, &[STATUS_200]));
        }
    });
    let house = House::new(1, &h2c(backend.port));
    let _open: Vec<_> = (0..260).map(|_| house.begin_and_stop(0, websocket("/ws"))).collect();
    let end = Instant::now() + Duration::from_secs(60);
    let refused = || house.metric("weir_limit_hits_total", "upstream_connections");
    while streams.load(SeqCst) != 128 || refused() < 132 {
        assert!(Instant::now() < end, "over streams: {streams:?}, refused: {}", refused());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((streams.load(SeqCst), http1.load(SeqCst)), (128, 0));
    let said = house.ask(get("/"));
    assert_eq!(said.status, 200, "{}", said.notes);
}

/// What a backend has done nothing with is sent again, whatever it asks for; what it may have done is not.
#[test]
fn only_what_was_not_done_is_done_again() {
    let done = Arc::new(AtomicUsize::new(0));
    let count = done.clone();
    let first = Arc::new(AtomicUsize::new(0));
    let backend = Http2::new(move |request: Request, mut respond: Respond, _| {
        let (count, first) = (count.clone(), first.clone());
        async move {
            let reset = match request.uri().path() {
                "/refused" if first.fetch_add(1, SeqCst) == 0 => Some(Reason::REFUSED_STREAM),
                "/always" => Some(Reason::REFUSED_STREAM),
                "/broken" => Some(Reason::INTERNAL_ERROR),
                _ => None,
            };
            match reset {
                Some(reason) => {
                    if reason == Reason::INTERNAL_ERROR {
                        count.fetch_add(1, SeqCst);
                    }
                    respond.send_reset(reason);
                }
                None => {
                    read(request.into_body()).await;
                    count.fetch_add(1, SeqCst);
                    say(respond, 200, "ok").await;
                }
            }
        }
    });
    let house = House::new(1, &backend.pool());
    let post_to = |target| Ask { target, ..post(b"once") };
    assert_eq!(house.ask(get("/")).status, 200);
    let said = house.ask(post_to("/refused"));
    assert_eq!((said.status, done.load(SeqCst)), (200, 2), "{}", said.notes);
    let said = house.ask(post_to("/always"));
    assert_eq!((said.status, done.load(SeqCst)), (503, 2), "{}", said.notes);
    assert_eq!(house.ask(post_to("/broken")).status, 503);
    assert_eq!(done.load(SeqCst), 3, "it may have been done: once");
    assert_eq!(house.ask(get("/broken")).status, 503);
    assert_eq!(done.load(SeqCst), 5, "what may be done twice is tried twice");
    let streamed = Ask { method: "POST", target: "/always", pieces: vec![b"x".to_vec()], ..Ask::default() };
    assert_eq!(house.ask(streamed).status, 503);
    assert!(house.metric("weir_limit_hits_total", "upstream_h2_refused") >= 3);
    assert_eq!((backend.connections(), house.ask(get("/")).status), (1, 200), "a reset is of one request");
}

/// A backend that ends its connections now and then loses no request, POSTs among them.
#[test]
fn a_connection_that_is_ended_in_good_order_costs_nothing() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let backend = Http2::with(ServerSettings::default(), 10, move |request: Request, respond, _| {
        let count = count.clone();
        async move {
            read(request.into_body()).await;
            count.fetch_add(1, SeqCst);
            say(respond, 200, "ok").await;
        }
    });
    let house = House::new(1, &backend.pool());
    for round in 0..20 {
        let asked: Vec<_> = (0..8).map(|_| house.begin(0, post(b"once"))).collect();
        for said in asked {
            let said = said.recv().unwrap();
            assert_eq!(said.status, 200, "{round}: {}", said.notes);
        }
    }
    assert_eq!(seen.load(SeqCst), 160, "none was done twice");
    assert!(backend.connections() >= 10 && backend.connections() <= 40, "{}", backend.connections());
}

/// A client that goes gives its stream up, and nothing else.
#[test]
fn neither_direction_gathers_what_its_reader_does_not_take() {
    let (told, hears) = mpsc::channel();
    let told = Mutex::new(told);
    let told = Arc::new(told);
    let backend = Http2::new(move |request: Request, mut respond: Respond, _| {
        let told = told.clone();
        async move {
            match request.uri().path() {
                // Nobody reads the body.
                "/up" => {
                    let _unread = request.into_body();
                    std::future::pending::<()>().await;
                }
                // More than anybody takes.
                "/down" => {
                    let mut sending = respond.send_response(http::Response::new(()), false).unwrap();
                    let progress = Rc::<Progress>::default();
                    for _ in 0..10_000 {
                        let mut full = std::pin::pin!(poll_fn(|cx| progress.poll_waiting(64 * 1024, cx)));
                        let waited = base_runtime::time::timeout(Duration::from_millis(500), &mut full).await;
                        if waited.is_err() {
                            let _ = told.lock().unwrap().send(progress.written());
                            break;
                        }
                        let piece = Data::from(Bytes::from(vec![b'd'; 16 * 1024])).counted(&progress);
                        if sending.send_data(piece, false).is_err() {
                            break;
                        }
                    }
                    std::future::pending::<()>().await;
                }
                _ => say(respond, 200, "ok").await,
            }
        }
    });
    let house = House::new(1, &backend.pool());
    assert_eq!(house.ask(get("/")).status, 200);
    let taken = Arc::new(AtomicUsize::new(0));
    let endless =
        Ask { method: "POST", target: "/up", pieces: vec![vec![b'u'; 10_000]], endless: true, ..Ask::default() };
    let _uploading = house.begin_counting(0, endless, taken.clone());
    let _stuck = house.begin_and_stop(0, get("/down"));
    let written = hears.recv_timeout(Duration::from_secs(60)).expect("the window closes");
    assert!(written <= 512 * 1024, "{written} bytes for a client that reads none");
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let before = taken.load(SeqCst);
        std::thread::sleep(Duration::from_millis(200));
        if before > 0 && taken.load(SeqCst) == before {
            break;
        }
        assert!(Instant::now() < end);
    }
    let bytes = taken.load(SeqCst) * 10_000;
    assert!(bytes <= 512 * 1024, "{bytes} bytes taken from a client for a backend that reads none");
    assert_eq!((house.ask(get("/")).status, backend.connections()), (200, 1), "the others go on beside them");
}

/// An answer may come before the request has ended, and its body beside the rest of it.
#[test]
fn both_directions_run_at_once() {
    let backend = Http2::new(|request: Request, mut respond: Respond, _| async move {
        let mut body = request.into_body();
        let mut sending = respond.send_response(http::Response::new(()), false).unwrap();
        let progress = Rc::<Progress>::default();
        while let Some(Ok(piece)) = body.data().await {
            let _ = body.flow_control().release_capacity(piece.len());
            poll_fn(|cx| progress.poll_waiting(16 * 1024, cx)).await;
            sending.send_data(Data::from(piece).counted(&progress), false).unwrap();
        }
        let _ = sending.send_data(Bytes::new().into(), true);
    });
    let house = House::new(1, &format!("serverMaxBodySize: -1\n{}", backend.pool()));
    let pieces: Vec<Vec<u8>> = (0..200).map(|i| vec![i as u8; 10_000]).collect();
    let said = house.ask(Ask { method: "POST", target: "/", pieces: pieces.clone(), ..Ask::default() });
    assert_eq!(said.status, 200, "{}", said.notes);
    assert!(said.body.unwrap() == pieces.concat());
}

/// Frames written by hand.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const DATA: u8 = 0;

/// A backend that says these frames when the first request of a connection has come, and then reads on.
fn saying(frames: Vec<u8>) -> Backend {
    Backend::new(move |mut wire, _| {
        wire.send(frame(SETTINGS, 0, 0, &[]));
        let mut read = Vec::new();
        let mut piece = [0; 4096];
        while !has_head(&read) {
            match wire.stream.read(&mut piece) {
                Ok(0) | Err(_) => return,
                Ok(n) => read.extend_from_slice(&piece[..n]),
            }
        }
        wire.send(&frames);
        wire.drain();
    })
}

/// The client's preface and frames, and among them the whole head of a request.
fn has_head(read: &[u8]) -> bool {
    let mut at = 24;
    while let Some(frame) = read.get(at..at + 9) {
        let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
        at += 9 + length;
        if frame[3] == HEADERS && frame[4] & 4 != 0 && read.len() >= at {
            return true;
        }
    }
    false
}

fn h2c(port: u16) -> String {
    format!("pools: [{{http2: true, servers: [{{url: 'http://127.0.0.1:{port}'}}]}}]")
}

/// HPACK: a literal without indexing, name and value as they are.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        let length = text.len();
        if length < 127 {
            field.push(length as u8);
        } else {
            field.push(127);
            let mut rest = length - 127;
            while rest >= 128 {
                field.push((rest % 128 + 128) as u8);
                rest /= 128;
            }
            field.push(rest as u8);
        }
        field.extend_from_slice(text.as_bytes());
    }
    field
}

/// `:status: 200` of the static table.
const STATUS_200: u8 = 0x88;

#[test]
fn answers_that_break_rules_or_bounds_are_none() {
    let head = |fields: &[u8]| frame(HEADERS, 4, 1, &[&[STATUS_200], fields].concat());
    let many: Vec<u8> = (0..200).flat_map(|_| literal("a", "b")).collect();
    let cases = [
        ("a field of the hop", head(&literal("transfer-encoding", "chunked"))),
        ("more fields than HTTP/1.1 may have", head(&many)),
        ("a longer line than HTTP/1.1 may have", {
            // In two frames, since it does not fit in one.
            let block = [&[STATUS_200][..], &literal("long", &"v".repeat(33_000))].concat();
            let (first, rest) = block.split_at(16_000);
            let (second, third) = rest.split_at(16_000);
            [frame(HEADERS, 0, 1, first), frame(9, 0, 1, second), frame(9, 4, 1, third)].concat()
        }),
        ("data before a head", frame(DATA, 0, 1, b"early")),
        ("a status of 101", frame(HEADERS, 4, 1, &literal(":status", "101"))),
        ("a name in upper case", head(&literal("X-Upper", "1"))),
        ("what is no frame", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec()),
    ];
    for (what, frames) in cases {
        let backend = saying(frames);
        let house = House::new(1, &h2c(backend.port));
        let said = house.ask(post(b"x"));
        assert_eq!((said.status, said.outcome), (503, "serverError"), "{what}: {said:?}");
    }
    // As long as announced, or no answer: what came before is on its way already.
    for (length, flags, status) in [("5", 1, Err(())), ("3", 1, Err(())), ("4", 1, Ok(()))] {
        let backend = saying([head(&literal("content-length", length)), frame(DATA, flags, 1, b"four")].concat());
        let said = House::new(1, &h2c(backend.port)).ask(get("/"));
        assert_eq!(said.body.is_ok(), status.is_ok(), "{length}: {said:?}");
    }
}

/// A backend that sends what costs it nothing and leads nowhere loses its connection, and is counted.
#[test]
fn floods_of_frames_have_a_bound() {
    let head = frame(HEADERS, 4, 1, &[STATUS_200]);
    let floods = [
        ("pings", frame(6, 0, 0, &[0; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
        ("empty data", frame(DATA, 0, 1, &[])),
        ("windows", frame(8, 0, 1, &1u32.to_be_bytes())),
        ("priorities", frame(2, 0, 3, &[0, 0, 0, 0, 1])),
        ("unknown frames", frame(99, 0, 0, &[])),
        ("interim answers", frame(HEADERS, 4, 1, &literal(":status", "102"))),
    ];
    for (what, flood) in floods {
        let first = if what == "interim answers" { Vec::new() } else { head.clone() };
        let backend = saying([first, flood.repeat(5_000)].concat());
        let good = Backend::answering(OK);
        let house = House::new(1, &h2c(backend.port));
        let beside = House::new(1, &to(good.port));
        let said = house.ask(get("/"));
        assert!(said.status == 503 || said.body.is_err(), "{what}: {said:?}");
        assert_eq!(beside.ask(get("/")).status, 200);
        if what != "interim answers" {
            house.await_metric("weir_limit_hits_total{limit=\"upstream_h2_faults\"}", 1);
        }
    }
}

#[test]
fn an_answer_that_breaks_off_is_seen_to() {
    let head = frame(HEADERS, 4, 1, &[STATUS_200]);
    let reset = frame(3, 0, 1, &2u32.to_be_bytes());
    let backend = saying([head.clone(), frame(DATA, 0, 1, b"half"), reset].concat());
    let house = House::new(1, &h2c(backend.port));
    let said = house.ask(get("/"));
    assert!(said.status == 503 || said.body == Err(BodyError::Incomplete), "{said:?}");
    // In full, and then no more of the request, please (RFC 9113 section 8.1).
    let reset = frame(3, 0, 1, &0u32.to_be_bytes());
    // Whether all of it came nobody knows who was told neither how long it is nor where it ends.
    let backend = saying([head.clone(), frame(DATA, 0, 1, b"half"), reset.clone()].concat());
    let said = House::new(1, &h2c(backend.port)).ask(get("/"));
    assert!(said.status == 503 || said.body == Err(BodyError::Incomplete), "{said:?}");
    let long = frame(HEADERS, 4, 1, &[&[STATUS_200][..], &literal("content-length", "4")].concat());
    let backend = saying([long, frame(DATA, 0, 1, b"full"), reset.clone()].concat());
    let said = House::new(1, &h2c(backend.port)).ask(get("/"));
    assert_eq!((said.status, said.body.as_deref()), (200, Ok(&b"full"[..])), "{}", said.notes);
    let backend = saying([head, frame(DATA, 1, 1, b"whole"), reset].concat());
    let house = House::new(1, &h2c(backend.port));
    let endless = Ask { method: "POST", target: "/", pieces: vec![vec![0; 1000]], endless: true, ..Ask::default() };
    let said = house.ask(endless);
    assert_eq!((said.status, said.body.as_deref()), (200, Ok(&b"whole"[..])), "{}", said.notes);
}

/// Streams after the last one that a GOAWAY names were not looked at.
#[test]
fn what_a_goaway_leaves_out_goes_elsewhere() {
    let go_away = frame(7, 0, 0, &[0u32.to_be_bytes(), 11u32.to_be_bytes()].concat());
    let backend = saying(go_away);
    let good = Http2::new(|_, respond, _| say(respond, 200, "good"));
    let servers = format!("[{{url: 'http://127.0.0.1:{}'}}, {{url: 'http://127.0.0.1:{}'}}]", backend.port, good.port);
    let house = House::new(1, &format!("pools: [{{http2: true, servers: {servers}}}]"));
    for _ in 0..4 {
        let said = house.ask(post(b"once"));
        assert_eq!(said.status, 200, "{}", said.notes);
    }
}

/// The client's frames as they come, its preface left out: kind, flags, stream.
struct Frames {
    wire: Wire,
    read: Vec<u8>,
    at: usize,
    /// Where the frame began that came last.
    last: usize,
}

impl Frames {
    fn of(wire: Wire) -> Frames {
        Frames { wire, read: Vec::new(), at: 24, last: 24 }
    }

    /// `None` once the client has closed.
    fn next(&mut self) -> Option<(u8, u8, u32)> {
        let mut piece = [0; 4096];
        loop {
            if let Some(&[a, b, c, kind, flags, s, t, u, v]) = self.read.get(self.at..self.at + 9) {
                let end = self.at + 9 + u32::from_be_bytes([0, a, b, c]) as usize;
                if self.read.len() >= end {
                    self.last = std::mem::replace(&mut self.at, end);
                    return Some((kind, flags, u32::from_be_bytes([s, t, u, v])));
                }
            }
            match self.wire.stream.read(&mut piece) {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.read.extend_from_slice(&piece[..n]),
            }
        }
    }

    /// Of the frame that came last.
    fn payload(&self) -> &[u8] {
        &self.read[self.last + 9..self.at]
    }

    /// The stream of the next request.
    fn request(&mut self) -> Option<u32> {
        loop {
            let (kind, _, stream) = self.next()?;
            if kind == HEADERS {
                return Some(stream);
            }
        }
    }

    /// Answers whatever comes.
    fn serve(&mut self) {
        while let Some(stream) = self.request() {
            self.wire.send(frame(HEADERS, 5, stream, &[STATUS_200]));
        }
    }
}

/// SETTINGS_MAX_CONCURRENT_STREAMS.
fn takes(streams: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&3u16.to_be_bytes()[..], &streams.to_be_bytes()].concat())
}

/// What a backend gets wrong it is told, of the stream alone where that is enough, and each is counted.
#[test]
fn a_backend_that_breaks_the_rules_is_told_which() {
    const RESET: u8 = 3;
    const GO_AWAY: u8 = 7;
    let head = |fields: &[u8]| frame(HEADERS, 4, 1, &[&[STATUS_200], fields].concat());
    // One field of the table, named over and over.
    let entry = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &[b'v'; 4_000]].concat();
    let bomb = |times: usize| head(&[&entry[..], &vec![0x80 | 62; times]].concat());
    let cases = [
        ("a push", frame(5, 4, 1, &[0, 0, 0, 2, 0x82]), GO_AWAY, 1),
        ("an answer that nobody asked for", frame(HEADERS, 5, 9, &[STATUS_200]), GO_AWAY, 1),
        ("data of no request", frame(DATA, 0, 9, b"x"), GO_AWAY, 1),
        ("no field block", frame(HEADERS, 4, 1, &[0x80]), GO_AWAY, 9),
        ("a frame of another size", frame(6, 0, 0, &[0; 7]), GO_AWAY, 6),
        ("a window that is too large", frame(8, 0, 0, &0x7fff_ffff_u32.to_be_bytes()), GO_AWAY, 3),
        ("a head that never ends", [frame(HEADERS, 0, 1, &[]), frame(9, 0, 1, &[]).repeat(1000)].concat(), GO_AWAY, 11),
        ("a bomb", bomb(2_000), GO_AWAY, 11),
        ("a large head", bomb(30), RESET, 11),
        ("pings", frame(6, 0, 0, &[0; 8]).repeat(1000), GO_AWAY, 11),
        ("data beyond the window", [head(&[]), frame(DATA, 0, 1, &[0; 16_384]).repeat(9)].concat(), RESET, 3),
        ("data before a head", frame(DATA, 0, 1, b"early"), RESET, 1),
        ("a name in upper case", head(&literal("X-Upper", "1")), RESET, 1),
    ];
    for (what, frames, kind, code) in cases {
        let (told, hears) = mpsc::channel();
        let told = Mutex::new(told);
        let backend = Backend::new(move |mut wire, _| {
            wire.send(takes(100));
            let mut seen = Frames::of(wire);
            if seen.request().is_none() {
                return;
            }
            seen.wire.send(&frames);
            while let Some((kind, ..)) = seen.next() {
                if matches!(kind, RESET | GO_AWAY) {
                    let code = seen.payload()[if kind == GO_AWAY { 4 } else { 0 }..][..4].try_into().unwrap();
                    let _ = told.lock().unwrap().send((kind, u32::from_be_bytes(code)));
                    break;
                }
            }
            seen.wire.drain();
        });
        let house = House::new(1, &h2c(backend.port));
        // Whoever has begun to read an answer reads no more of it.
        let _asked = if what == "data beyond the window" {
            house.begin_and_stop(0, get("/"))
        } else {
            house.begin(0, post(b"x"))
        };
        let heard = hears.recv_timeout(Duration::from_secs(60)).expect("it is told");
        assert_eq!(heard, (kind, code), "{what}");
        if what != "data beyond the window" {
            house.await_metric("weir_limit_hits_total{limit=\"upstream_h2_faults\"}", 1);
        }
    }
}

/// A backend may take no more requests on a connection that it leaves open: they go over another one, whether that is known when they
/// are sent or comes to be known when they have been.
#[test]
fn a_connection_that_takes_no_more_is_left_alone() {
    for known in [true, false] {
        let (now, lowers) = mpsc::channel::<()>();
        let (done, lowered) = mpsc::channel();
        let signals = Mutex::new((lowers, done));
        let backend = Backend::new(move |mut wire, nth| {
            wire.send(takes(100));
            let mut frames = Frames::of(wire);
            if nth > 0 {
                return frames.serve();
            }
            let Some(stream) = frames.request() else { return };
            frames.wire.send(frame(HEADERS, 5, stream, &[STATUS_200]));
            let signals = signals.lock().unwrap();
            signals.0.recv().unwrap();
            frames.wire.send(takes(0));
            if known {
                // The first settings were acknowledged before the request.
                let mut acks = std::iter::from_fn(|| frames.next()).filter(|f| (f.0, f.1) == (SETTINGS, 1));
                assert!(acks.next().is_some());
            }
            signals.1.send(()).unwrap();
            while let Some((kind, ..)) = frames.next() {
                assert!(kind != HEADERS, "a request that may not be");
            }
        });
        let house = House::new(1, &h2c(backend.port));
        assert_eq!(house.ask(get("/")).status, 200);
        let lower = move || {
            now.send(()).unwrap();
            lowered.recv().unwrap();
        };
        let said = match known {
            true => {
                lower();
                house.ask(post(b"once"))
            }
            false => house.ask_after(lower, post(b"once")),
        };
        assert_eq!(said.status, 200, "{known}: {}", said.notes);
        assert_eq!(backend.connections.load(SeqCst), 2, "{known}");
        assert_eq!(house.ask(get("/")).status, 200);
        assert_eq!(backend.connections.load(SeqCst), 2, "{known}");
    }
}

/// A request that waited for its turn when its connection broke is with no backend: it goes elsewhere, whatever it asks for.
#[test]
fn what_never_went_out_goes_elsewhere() {
    let (now, closes) = mpsc::channel::<()>();
    let (done, closed) = mpsc::channel();
    let (told, hears) = mpsc::channel();
    let signals = Mutex::new((closes, done, told));
    let backend = Backend::new(move |mut wire, nth| {
        wire.send(takes(100));
        let mut frames = Frames::of(wire);
        if nth > 0 {
            return frames.serve();
        }
        // Another one is under way, so that the connection is not looked at before it is used again.
        let Some(stream) = frames.request() else { return };
        frames.wire.send(frame(HEADERS, 4, stream, &[STATUS_200]));
        let signals = signals.lock().unwrap();
        signals.2.send(()).unwrap();
        signals.0.recv().unwrap();
        frames.wire.send(takes(1));
        drop(frames);
        signals.1.send(()).unwrap();
    });
    let house = House::new(1, &h2c(backend.port));
    let _under_way = house.begin(0, get("/"));
    hears.recv_timeout(Duration::from_secs(60)).expect("a request");
    let close = move || {
        now.send(()).unwrap();
        closed.recv().unwrap();
    };
    let said = house.ask_after(close, post(b"once"));
    assert_eq!(said.status, 200, "{}", said.notes);
    assert_eq!(backend.connections.load(SeqCst), 2);
}

/// An answer may be complete while the rest of its request waits for a window: who accepts it gets the rest, and else the stream ends.
#[test]
fn the_rest_of_a_request_has_an_end_of_its_own() {
    const RESET: u8 = 3;
    for (status, rest) in [("200", (DATA, 1, vec![b'x'; 15])), ("401", (RESET, 0, vec![0, 0, 0, 8]))] {
        let (told, hears) = mpsc::channel();
        let (go, goes) = mpsc::channel::<()>();
        let told = Mutex::new((told, goes));
        let backend = Backend::new(move |mut wire, _| {
            wire.send(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 10]));
            let mut frames = Frames::of(wire);
            // The settings were read before the request goes out.
            let Some(first) = frames.request() else { return };
            frames.wire.send(frame(HEADERS, 5, first, &[STATUS_200]));
            let Some(stream) = frames.request() else { return };
            assert_eq!(frames.next().map(|f| f.0), Some(DATA));
            frames.wire.send(frame(HEADERS, 5, stream, &literal(":status", status)));
            let told = told.lock().unwrap();
            told.1.recv().unwrap();
            if status == "200" {
                frames.wire.send(frame(8, 0, stream, &100u32.to_be_bytes()));
            }
            while let Some((kind, flags, on)) = frames.next() {
                if on == stream {
                    let _ = told.0.send((kind, flags, frames.payload().to_vec()));
                    break;
                }
            }
            frames.wire.drain();
        });
        let house = House::new(1, &h2c(backend.port));
        assert_eq!(house.ask(get("/")).status, 200);
        let said = house.ask(post(&[b'x'; 25]));
        assert_eq!((said.status.to_string().as_str(), said.body.as_deref()), (status, Ok(&b""[..])), "{}", said.notes);
        go.send(()).unwrap();
        assert_eq!(hears.recv_timeout(Duration::from_secs(60)), Ok(rest), "{status}");
    }
}

/// What was read is in nobody's books, though nothing more comes on its connection.
#[test]
fn what_was_read_is_not_booked() {
    let head = frame(HEADERS, 4, 1, &[STATUS_200]);
    let pieces: Vec<u8> = (0..7).flat_map(|n| frame(DATA, u8::from(n == 6), 1, &[b'x'; 16_000])).collect();
    let backend = saying([head, pieces].concat());
    // A number that no worker of another test has.
    let worker = 7;
    let house = House::new(worker + 1, &h2c(backend.port));
    let said = house.begin(worker, get("/")).recv().unwrap();
    assert_eq!((said.status, said.body.map(|body| body.len())), (200, Ok(112_000)), "{}", said.notes);
    let booked = || {
        let workers = base_runtime::memory::snapshot().workers;
        let here = workers.iter().filter(|books| books.worker == worker);
        here.map(|books| books.of(base_runtime::memory::Kind::Bodies)).sum::<u64>()
    };
    let end = Instant::now() + Duration::from_secs(60);
    while booked() > 0 {
        assert!(Instant::now() < end, "{} bytes are booked", booked());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_backend_that_takes_no_request_at_all_is_not_waited_for() {
    // One that says so late, on a busy machine, is sent requests meanwhile, as servers have to take them before they say how many: it
    // refuses those.
    let backend = Backend::new(|mut wire, _| {
        wire.send(takes(0));
        let mut frames = Frames::of(wire);
        while let Some(stream) = frames.request() {
            frames.wire.send(frame(3, 0, stream, &7u32.to_be_bytes()));
        }
    });
    let house = House::new(1, &h2c(backend.port).replace("pools: [{", "pools: [{connectTimeout: 300ms, "));
    let asked: Vec<_> = (0..20).map(|_| house.begin(0, get("/"))).collect();
    for said in asked {
        let said = said.recv_timeout(Duration::from_secs(60)).expect("an answer");
        assert_eq!((said.status, said.outcome), (503, "serverError"), "{}", said.notes);
    }
    assert!(backend.connections.load(SeqCst) <= 2, "they waited for the same one");
    // One that takes them after a moment is waited for.
    let backend = Backend::new(|mut wire, _| {
        wire.send(takes(0));
        std::thread::sleep(Duration::from_millis(200));
        wire.send(takes(1));
        Frames::of(wire).serve();
    });
    assert_eq!(House::new(1, &h2c(backend.port)).ask(post(b"x")).status, 200);
    assert_eq!(backend.connections.load(SeqCst), 1);
}

/// A server that loses a connection with many requests has failed once, and not at all where we ended it.
#[test]
fn a_connection_is_lost_once() {
    const TOGETHER: usize = 10;
    type Finish = fn(&mut Frames);
    let closing = |_: &mut Frames| {};
    let flooding = |frames: &mut Frames| {
        frames.wire.send(frame(6, 0, 0, &[0; 8]).repeat(1000));
        frames.wire.drain();
    };
    let ends: [(&str, Finish, usize); 2] = [("closes", closing, 4), ("floods", flooding, 20)];
    for (what, end, rounds) in ends {
        let backend = Backend::new(move |mut wire, _| {
            wire.send(takes(100));
            let mut frames = Frames::of(wire);
            for _ in 0..TOGETHER {
                if frames.request().is_none() {
                    return;
                }
            }
            end(&mut frames);
        });
        let good = Http2::new(|_, respond, _| say(respond, 200, "good"));
        let servers =
            format!("[{{url: 'http://127.0.0.1:{}'}}, {{url: 'http://127.0.0.1:{}'}}]", backend.port, good.port);
        let detection = "outlierDetection: {consecutiveErrors: 5}";
        let house = House::new(1, &format!("pools: [{{http2: true, {detection}, servers: {servers}}}]"));
        let ejections = || house.metric("weir_upstream_ejections_total", "");
        let round = |ask: fn() -> Ask| {
            let asked: Vec<_> = (0..TOGETHER * 2).map(|_| house.begin(0, ask())).collect();
            asked.into_iter().filter(|said| said.recv().unwrap().status == 200).count()
        };
        for nth in 0..rounds {
            assert_eq!(round(|| post(b"once")), TOGETHER, "{what}: the others are lost");
            assert_eq!(ejections(), 0, "{what} {nth}");
        }
        assert_eq!(house.errors("closed") as usize, rounds * TOGETHER, "{what}: each is counted");
        if what == "closes" {
            round(|| post(b"once"));
            assert_eq!(ejections(), 1, "five connections in a row");
        }
    }
}

/// One that ends each connection before it has taken any request gets no more of them than one that cannot be connected to.
#[test]
fn a_server_that_ends_new_connections_is_left_out() {
    let backend = Backend::new(|wire, _| drop(wire));
    let good = Http2::new(|_, respond, _| say(respond, 200, "good"));
    let servers = format!("[{{url: 'http://127.0.0.1:{}'}}, {{url: 'http://127.0.0.1:{}'}}]", backend.port, good.port);
    let house = House::new(1, &format!("pools: [{{http2: true, servers: {servers}}}]"));
    for nth in 0..40 {
        let said = house.ask(post(b"once"));
        assert_eq!(said.status, 200, "{nth}: nothing of it went out, so it goes to the other: {}", said.notes);
    }
    assert_eq!(house.metric("weir_upstream_ejections_total", ""), 1);
    assert_eq!(house.errors("connect"), 5);
    // A probe connects, and is no better served: nothing changes.
    let end = Instant::now() + Duration::from_secs(60);
    while backend.connections() < 7 {
        assert!(Instant::now() < end, "it is probed no more: {}", backend.connections());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(house.ask(post(b"once")).status, 200);
    assert_eq!((house.metric("weir_upstream_ejections_total", ""), house.errors("connect")), (1, 5));
}

mod negotiated {
    use super::*;
    use base_tls::{Certificate, ClientAuth, ServerTls, ServerTlsSettings, TicketKeys};
    use std::time::SystemTime;

    /// A backend with TLS that agrees to these protocols, and answers with the one it speaks.
    fn backend(alpn: &[&str]) -> (u16, Arc<AtomicUsize>, Runtime) {
        asking(alpn, |_| ClientAuth::None)
    }

    /// The same, which asks for certificates of authorities that are told from its own.
    fn asking(alpn: &[&str], asks: fn(&[u8]) -> ClientAuth) -> (u16, Arc<AtomicUsize>, Runtime) {
        let key = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate =
            Certificate::read(&key.cert.pem(), &key.signing_key.serialize_pem(), SystemTime::now()).unwrap();
        let alpn = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let settings = ServerTlsSettings { certificates: vec![certificate], client_auth: asks(key.cert.der()), alpn };
        let tls = ServerTls::new(settings, TicketKeys::generate()).unwrap();
        let config = Config { io: IoMode::Auto, workers: Some(1), name: "backend".to_owned(), ..Config::default() };
        let runtime = Runtime::start(config).expect("a driver works here");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let (sender, receiver) = mpsc::channel();
        runtime.workers()[0].spawn(move || async move {
            let listener = TcpListener::bind(([127, 0, 0, 1], 0).into(), ListenOptions::default()).expect("a port");
            sender.send(listener.local_addr().port()).expect("waited for");
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, SeqCst);
                let tls = tls.clone();
                base_runtime::spawn(async move {
                    let Ok(stream) = tls.accept(stream, Duration::from_secs(10)).await else { return };
                    if stream.session().and_then(|s| s.alpn.as_deref()) == Some(b"h2") {
                        let builder = h2::server::Builder::new();
                        let Ok(mut connection) = builder.handshake::<_, Data>(H2Link::new(stream)).await else {
                            return;
                        };
                        while let Some(Ok((request, respond))) = connection.accept().await {
                            assert_eq!(request.uri().scheme_str(), Some("https"));
                            base_runtime::spawn(say(respond, 200, "two")).detach();
                        }
                        return;
                    }
                    while let Ok(Some(request)) = stream.recv().await {
                        let answer: &[u8] = match request.windows(9).any(|w| w.eq_ignore_ascii_case(b"websocket")) {
                            true => {
                                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
                            }
                            false => b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none",
                        };
                        stream.send(Buf::copy_from(answer));
                    }
                })
                .detach();
            }
        });
        (receiver.recv().expect("it listens"), connections, runtime)
    }

    fn house(port: u16, more: &str) -> House {
        let pools = format!("pools: [{{servers: [{{url: 'https://127.0.0.1:{port}'}}]{more}}}]");
        House::new(1, &format!("{pools}\nmtls: {{insecureSkipVerify: true}}"))
    }

    #[test]
    fn a_server_with_tls_says_what_it_speaks() {
        for (alpn, more, wanted) in [
            (&["h2", "http/1.1"][..], "", "two"),
            (&["http/1.1"], "", "one"),
            (&[], "", "one"),
            (&["h2", "http/1.1"], ", http2: false", "one"),
            (&["http/1.1"], ", http2: true", "one"),
        ] {
            let (port, connections, _runtime) = backend(alpn);
            let house = house(port, more);
            for _ in 0..3 {
                let said = house.ask(get("/"));
                assert_eq!(
                    (said.status, said.body.as_deref()),
                    (200, Ok(wanted.as_bytes())),
                    "{alpn:?}{more}: {}",
                    said.notes
                );
            }
            assert_eq!(connections.load(SeqCst), 1, "{alpn:?}{more}");
            // Nobody knows what it speaks: one asks, and the others wait for that rather than connecting all at once.
            let (port, connections, _runtime) = backend(alpn);
            let fresh = super::negotiated::house(port, more);
            let asked: Vec<_> = (0..20).map(|_| fresh.begin(0, get("/"))).collect();
            assert!(asked.into_iter().all(|said| said.recv().unwrap().status == 200));
            assert_eq!(connections.load(SeqCst) == 1, wanted == "two", "{alpn:?}{more}: {connections:?}");
        }
    }

    /// It shows after the handshake, as far as the client can see, that its certificate was wanted (RFC 8446 section 4.4.2).
    #[test]
    fn a_server_that_wants_a_certificate_says_so_in_either_version() {
        for alpn in [&["h2"][..], &["http/1.1"]] {
            let (port, _connections, _runtime) = asking(alpn, |der| ClientAuth::Required(vec![der.to_vec().into()]));
            let house = house(port, "");
            let said = house.ask(get("/"));
            assert!(said.status == 503 && said.notes.contains("certificate_required"), "{alpn:?}: {}", said.notes);
        }
    }

    #[test]
    fn what_becomes_a_tunnel_has_a_connection_to_itself() {
        let (port, connections, _runtime) = backend(&["h2", "http/1.1"]);
        let house = house(port, "");
        assert_eq!(house.ask(get("/")).body.unwrap(), b"two");
        let headers = vec![("Connection", "upgrade"), ("Upgrade", "websocket")];
        let said = house.ask(Ask { headers, upgrade: true, ..get("/") });
        assert_eq!((said.status, connections.load(SeqCst)), (101, 2), "{}", said.notes);
        assert_eq!(house.ask(get("/")).body.unwrap(), b"two");
        assert_eq!(connections.load(SeqCst), 2);
    }
}

/// Everything on its way at once, of two workers: few connections, and each answer belongs to its request.
#[test]
fn many_clients_share_few_connections() {
    let backend = Http2::new(|request: Request, mut respond: Respond, _| async move {
        let number = request.uri().path().to_owned();
        let (bytes, _) = read(request.into_body()).await;
        let mut sending = respond.send_response(http::Response::new(()), false).unwrap();
        let _ = sending.send_data(Bytes::from([number.as_bytes(), &bytes].concat()).into(), true);
    });
    let house = House::new(2, &backend.pool());
    const TARGETS: [&str; 4] = ["/0", "/1", "/2", "/3"];
    for _ in 0..5 {
        let asked: Vec<_> = (0..200)
            .map(|i| {
                let body = vec![b'a' + (i % 26) as u8; i * 100];
                let ask = if i == 0 {
                    Ask { method: "POST", target: TARGETS[0], ..Ask::default() }
                } else {
                    Ask { target: TARGETS[i % 4], ..post(&body[..body.len().min(15_000)]) }
                };
                (i, body, house.begin(i % 2, ask))
            })
            .collect();
        for (i, body, said) in asked {
            let said = said.recv().unwrap();
            let wanted = [TARGETS[i % 4].as_bytes(), &body[..body.len().min(15_000)]].concat();
            assert_eq!(said.status, 200, "{}", said.notes);
            assert!(said.body.unwrap() == wanted, "{i}");
        }
    }
    assert_eq!((backend.connections(), house.connections_made()), (2, 2), "one of each worker");
}
