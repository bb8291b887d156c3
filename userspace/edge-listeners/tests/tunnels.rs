//! What passes beside requests and answers: interim answers, and what a connection carries once it speaks another protocol.

#[macro_use]
mod support;

use base_runtime::IoMode;
use base_runtime::net::TcpStream;
use base_tls::Transport;
use edge_listeners::Timeouts;
use edge_pipeline::{Body, Exchange, Filter, FilterKind, SUCCESS, Step};
use proto_http::Response;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{Backend, House, eventually, proxy_to, short_timeouts};

on_both_drivers![
    interim_answers_precede_the_answer,
    an_expectation_is_answered_once,
    connect_is_not_implemented_where_nobody_makes_tunnels,
    connect_holds_what_follows_until_it_is_let_through,
    a_refused_connect_ends_the_connection,
    two_upgrade_lines_smuggle_nothing,
    a_101_for_another_protocol_opens_no_tunnel,
    a_426_names_what_will_do,
    blanks_in_answers_are_mended,
    names_with_underscores_are_left_out,
    trailers_do_not_say_what_filters_have_said,
    a_rewrite_that_makes_dots_is_refused,
    a_tunnel_is_under_way_until_it_ends,
    a_silent_tunnel_ends,
    a_busy_tunnel_outlives_its_idle_time,
    a_stopped_server_ends_silent_tunnels,
    a_broken_tunnel_is_broken_on_both_sides,
    a_tunnel_keeps_no_more_than_its_bounds,
    bulk_passes_a_tunnel_inside_the_kernel_and_small_talk_does_not,
];

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const ANY: &str = "rules: [{paths: [{backend: app}]}]";

/// Says 100, 102, 103 with a field, and 101, which is none; waits, says 103 again, and answers what it read.
struct Hint;

impl Filter for Hint {
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        let interim = exchange.interim.clone();
        let hint = || {
            let mut hint = Response::with_status(103);
            hint.headers.set("Link", "</style.css>");
            hint
        };
        interim.push(Response::with_status(100));
        interim.push(Response::with_status(101));
        interim.push(Response::with_status(102));
        interim.push(hint());
        Step::wait(async move {
            base_runtime::time::sleep(Duration::from_millis(20)).await;
            interim.push(hint());
            let read = exchange.space().request_body.collect(1 << 20).await.cloned().unwrap_or_default();
            exchange.respond(Response::with_status(200), Body::shared(read));
            SUCCESS
        })
    }
}

/// Makes a tunnel to the port the authority names, unless that is nobody's.
struct Dial;

impl Filter for Dial {
    fn handle<'a>(&'a self, exchange: &'a mut Exchange) -> Step<'a> {
        Step::wait(async move {
            let port = exchange.request().authority.rsplit(':').next().and_then(|p| p.parse().ok()).unwrap_or(0);
            match TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port).into()).await {
                Ok(stream) => {
                    exchange.upgraded = Some(Box::new(Transport::from(stream)));
                    exchange.respond(Response::with_status(200), Body::Empty);
                }
                Err(_) => exchange.respond(Response::with_status(502), Body::Empty),
            }
            SUCCESS
        })
    }

    fn makes_tunnels(&self) -> bool {
        true
    }
}

fn kind(name: &str) -> Option<&'static FilterKind> {
    const fn made_by(kind: &'static str, build: edge_pipeline::filter::Build) -> FilterKind {
        let (schema, check): (fn() -> _, edge_pipeline::filter::Check) = (|| serde_json::Value::Null, |_, _, _| {});
        FilterKind { kind, results: &[], doc: "", schema, check, build }
    }
    static HINT: FilterKind = made_by("Hint", |_, _| Ok(Arc::new(Hint)));
    static DIAL: FilterKind = made_by("Dial", |_, _| Ok(Arc::new(Dial)));
    match name {
        "Hint" => Some(&HINT),
        "Dial" => Some(&DIAL),
        _ => edge_filters::kind(name),
    }
}

fn house(io: IoMode, filter: &str) -> House {
    let pipeline = format!("filters: [{{name: f, kind: {filter}}}]");
    House::with_kinds(io, ANY, &pipeline, short_timeouts(), kind)
}

/// The field lines of a request as the backend got them, with an offer of `lines`.
fn offered(io: IoMode, lines: &str) -> String {
    let (seen, got) = std::sync::mpsc::channel();
    let seen = std::sync::Mutex::new(seen);
    let backend = Backend::new(move |mut wire, _| {
        let _ = seen.lock().unwrap().send(wire.head().unwrap_or_default());
        wire.send(OK.as_bytes());
    });
    let house = House::proxy(io, &backend);
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n{lines}\r\n");
    assert_eq!(house.ask(&request).status(), 200);
    got.recv().unwrap()
}

fn two_upgrade_lines_smuggle_nothing(io: IoMode) {
    let h2c = "Upgrade: h2c\r\nUpgrade: websocket\r\nHTTP2-Settings: AAMAAABk\r\n";
    for lines in [h2c, "Upgrade: websocket\r\nUpgrade: h2c\r\n", "Upgrade: websocket, h2c\r\n"] {
        let head = offered(io, lines).to_ascii_lowercase();
        assert!(!head.contains("upgrade") && !head.contains("h2c") && !head.contains("settings"), "{head}");
    }
    let head = offered(io, "Upgrade: foo/2, WebSocket\r\nUpgrade: bar\r\n");
    assert!(head.contains("Upgrade: websocket\r\n") && !head.contains("foo") && !head.contains("bar"), "{head}");
}

fn a_101_for_another_protocol_opens_no_tunnel(io: IoMode) {
    for named in ["Upgrade: h2c\r\n", "Upgrade: websocket\r\nUpgrade: h2c\r\n", ""] {
        let backend = Backend::new(move |mut wire, _| {
            wire.head();
            wire.send(format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n{named}\r\n").as_bytes());
            wire.rest();
        });
        let house = House::proxy(io, &backend);
        assert_eq!(house.ask(UPGRADE).status(), 503, "{named}");
    }
}

fn a_426_names_what_will_do(io: IoMode) {
    let answer =
        "HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n";
    let house = House::proxy(io, &Backend::answering(answer));
    let answer = house.ask(GET);
    assert_eq!((answer.status(), answer.field("upgrade")), (426, Some("websocket")));
    assert!(answer.field("connection").is_some_and(|c| c.contains("upgrade")));
}

fn blanks_in_answers_are_mended(io: IoMode) {
    let answer = "HTTP/1.1 103 Early Hints\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nX-A : 1\r\n\
                  Transfer-Encoding\t: chunked\r\n\r\n2 \r\nok\r\n0 \r\n\r\n";
    let house = House::proxy(io, &Backend::answering(answer));
    let mut client = house.connect();
    client.send(GET.as_bytes());
    assert_eq!(client.head().unwrap(), "HTTP/1.1 103 Early Hints\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status(), answer.field("x-a"), answer.text().as_str()), (200, Some("1"), "ok"));
    eventually("both are counted", || house.limit("mended") == 2);
}

fn names_with_underscores_are_left_out(io: IoMode) {
    let backend = Backend::recording(|_| OK.as_bytes().to_vec());
    let request = "GET / HTTP/1.1\r\nHost: a\r\nX_User: forged\r\nX.User: forged\r\n\r\n";
    for (option, status, left) in [("drop", 200, false), ("allow", 200, true), ("refuse", 400, false)] {
        let house = House::proxy(io, &backend);
        house.server(&format!("underscoresInHeaders: {option}\n{ANY}"));
        assert_eq!(house.ask(request).status(), status, "{option}");
        if status == 200 {
            assert_eq!(backend.seen().last().unwrap().field("x_user").is_some(), left, "{option}");
        }
        assert_eq!(house.limit("underscores_dropped"), u64::from(option == "drop"), "{option}");
        // Who sets a field is the one who says it.
        let paths = "rules: [{paths: [{backend: app, setHeaders: {X-User: real}}]}]";
        house.server(&format!("underscoresInHeaders: allow\n{paths}"));
        assert_eq!(house.ask(request).status(), 200);
        let seen = backend.seen();
        let seen = seen.last().unwrap();
        assert_eq!((seen.field("x-user"), seen.field("x_user"), seen.field("x.user")), (Some("real"), None, None));
    }
}

/// Some backends take trailers for fields of the head.
fn trailers_do_not_say_what_filters_have_said(io: IoMode) {
    const TRAILERS: &str =
        "X-User: forged\r\nX_User: forged\r\nx.user: forged\r\nX-Gone: back\r\nX_Checked: other\r\nX-Sum: 1\r\n";
    let request = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nX-Gone: 1\r\nX-Checked: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{TRAILERS}\r\n"
    );
    let answer = "HTTP/1.1 200 OK\r\nX-Own: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\
                  X-Internal: leak\r\nX_Mine: forged\r\nX-Own: 2\r\n\r\n";
    let backend = Backend::recording(move |_| answer.as_bytes().to_vec());
    let proxy =
        format!("{{name: p, kind: Proxy, pools: [{{servers: [{{url: 'http://127.0.0.1:{}'}}]}}]}}", backend.port);
    let after = "{name: a, kind: ResponseAdaptor, header: {del: [X-Internal], set: {X-Mine: own}}}";
    let gather = "{name: g, kind: RequestAdaptor, template: 'header: {set: {X-Length: \"{{len .req.Body}}\"}}'}";
    for filters in [format!("[{proxy}, {after}]"), format!("[{gather}, {proxy}, {after}]")] {
        let house = House::new(io, "", &format!("filters: {filters}"));
        house.server(
            "underscoresInHeaders: allow\nrules: [{paths: [{backend: app, setHeaders: {X-User: real, X-Gone: ''}}]}]",
        );
        let answer = house.ask(&request);
        assert_eq!(
            (answer.status(), answer.text().as_str(), answer.field("x-mine")),
            (200, "ok", Some("own")),
            "{filters}"
        );
        assert_eq!(answer.trailers, "X-Own: 2\n", "a backend's own are its own: {filters}");
        let seen = backend.seen();
        let seen = seen.last().unwrap();
        assert_eq!((seen.field("x-user"), seen.field("x-gone")), (Some("real"), None));
        assert_eq!(seen.trailers, "X-Sum: 1\n", "{filters}");
        eventually("both are counted", || house.limit("trailers_dropped") == 2);
    }
}

fn a_rewrite_that_makes_dots_is_refused(io: IoMode) {
    let backend = Backend::recording(|_| OK.as_bytes().to_vec());
    let house = House::proxy(io, &backend);
    house.server("rules: [{paths: [{pathPrefix: /static, rewriteTarget: /files/, backend: app}]}]");
    let ask = |path: &str| house.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).status();
    for (n, path) in ["/static../secret", "/static./x", "/static..%2Fsecret", "/static..;a/secret"].iter().enumerate() {
        assert_eq!(ask(path), 400, "{path}");
        assert_eq!(house.limit("rewritten_path"), n as u64 + 1, "{path}");
    }
    assert_eq!(backend.connections(), 0, "no backend hears of them");
    assert_eq!(ask("/static..x/y"), 200);
    assert_eq!(backend.seen().last().unwrap().target(), "/files/..x/y");
    assert_eq!(house.limit("rewritten_path"), 4);
}

const HINTED: &str = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n";

fn interim_answers_precede_the_answer(io: IoMode) {
    let house = house(io, "Hint");
    let mut client = house.connect();
    for _ in 0..2 {
        client.send(GET.as_bytes());
        assert_eq!(client.head().unwrap(), "HTTP/1.1 102 Processing\r\n\r\n", "100 and 101 were nobody's wish");
        assert_eq!(client.head().unwrap(), HINTED);
        assert_eq!(client.head().unwrap(), HINTED);
        assert_eq!(client.answer().status(), 200);
    }
    assert_eq!(house.count(200), 2, "interim answers are no answers");
    // HTTP/1.0 knows none.
    assert_eq!(house.ask("GET / HTTP/1.0\r\nHost: a\r\n\r\n").status(), 200);
}

fn an_expectation_is_answered_once(io: IoMode) {
    let house = house(io, "Hint");
    let mut client = house.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.head().unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(client.head().unwrap(), "HTTP/1.1 102 Processing\r\n\r\n");
    client.send(b"hello");
    assert_eq!(client.head().unwrap(), HINTED);
    assert_eq!(client.head().unwrap(), HINTED);
    assert_eq!(client.answer().text(), "hello", "no second 100 came");
    // A client that did not ask gets none, and one that had sent its body does not need it.
    for expect in ["", "Expect: 100-continue\r\n"] {
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{expect}Content-Length: 5\r\n\r\nhello").as_bytes());
        assert!(client.head().unwrap().starts_with("HTTP/1.1 102 "), "{expect}");
        client.head();
        client.head();
        assert_eq!(client.answer().text(), "hello");
    }
}

fn connect_is_not_implemented_where_nobody_makes_tunnels(io: IoMode) {
    let backend = Backend::answering("HTTP/1.1 200 OK\r\n\r\n");
    for (rules, status) in [
        (ANY, 501),
        // It has no path.
        ("rules: [{paths: [{pathPrefix: /, backend: app}]}]", 404),
        ("rules: [{paths: [{path: /, backend: app}]}]", 404),
    ] {
        let house = House::with_timeouts(io, rules, &proxy_to(backend.port), short_timeouts());
        let mut client = house.connect();
        // What follows is no request.
        client.send(format!("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n{GET}").as_bytes());
        let answer = client.answer();
        assert_eq!((answer.status(), answer.field("connection")), (status, Some("close")), "{rules}");
        assert!(client.ends());
        assert_eq!(house.count(200), 0);
    }
    assert_eq!(backend.connections(), 0, "no backend hears of it");
    let house = House::new(io, "rules: [{paths: [{methods: [GET], backend: app}]}]", &proxy_to(backend.port));
    assert_eq!(house.ask("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n").status(), 405);
}

fn connect_holds_what_follows_until_it_is_let_through(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        let hello = wire.exactly(5).unwrap();
        wire.send(&hello);
        let rest = wire.rest();
        wire.send(&rest);
    });
    let house = house(io, "Dial");
    let mut client = house.connect();
    client.send(format!("CONNECT a:{0} HTTP/1.1\r\nHost: a:{0}\r\n\r\nhello", backend.port).as_bytes());
    let head = client.head().unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && !head.to_lowercase().contains("content-length"), "{head}");
    assert_eq!(client.exactly(5).unwrap(), b"hello");
    client.send(b" world");
    client.finish_sending();
    assert_eq!(client.rest(), b" world", "each direction ends by itself");
    eventually("the tunnel is gone", || house.traffic.connections() == 0);
}

fn a_refused_connect_ends_the_connection(io: IoMode) {
    let house = house(io, "Dial");
    let mut client = house.connect();
    client.send(format!("CONNECT a:{0} HTTP/1.1\r\nHost: a:{0}\r\n\r\n{GET}", support::free_port()).as_bytes());
    assert_eq!(client.answer().status(), 502);
    assert!(client.ends(), "what followed was meant for the tunnel");
    // Content is not a thing CONNECT has.
    let backend = Backend::answering(OK);
    for framing in ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
        let request = format!("CONNECT a:{0} HTTP/1.1\r\nHost: a:{0}\r\n{framing}", backend.port);
        assert_eq!(house.ask(&request).status(), 400, "{framing}");
    }
    assert_eq!((backend.connections(), house.limit("connect_content")), (0, 2));
}

/// Switches to a protocol in which every byte comes back.
fn echoing() -> Backend {
    Backend::new(|mut wire, _| {
        wire.head();
        wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        while wire.more() {
            let echo = std::mem::take(&mut wire.read);
            wire.send(&echo);
        }
    })
}

fn tunnel_timeouts(tunnel: u64, drain: u64) -> Timeouts {
    let ms = Duration::from_millis;
    Timeouts { tunnel: ms(tunnel), tunnel_drain: ms(drain), ..Timeouts::default() }
}

/// Its client may have one request under way.
fn a_tunnel_is_under_way_until_it_ends(io: IoMode) {
    let backend = echoing();
    let policy = "{name: one, key: {from: address}, maxConcurrent: 1, limitForPeriod: 0}";
    let limiter = format!(
        "{{name: r, kind: RateLimiter, policies: [{policy}], defaultPolicyRef: one, urls: [{{url: {{prefix: /}}}}]}}"
    );
    let pipeline = proxy_to(backend.port).replace("filters: [", &format!("filters: [{limiter}, "));
    let house = House::new(io, "", &pipeline);
    let mut first = house.connect();
    first.send(UPGRADE.as_bytes());
    assert!(first.head().unwrap().starts_with("HTTP/1.1 101 "));
    first.send(b"x");
    assert_eq!(first.exactly(1).unwrap(), b"x", "they are joined");
    for _ in 0..3 {
        assert_eq!(house.ask(UPGRADE).status(), 429);
    }
    drop(first);
    eventually("its place is free", || {
        let mut next = house.connect();
        next.send(UPGRADE.as_bytes());
        next.head().unwrap().starts_with("HTTP/1.1 101 ")
    });
}

fn a_silent_tunnel_ends(io: IoMode) {
    let backend = echoing();
    let house = House::with_timeouts(io, "", &proxy_to(backend.port), tunnel_timeouts(300, 300));
    let mut client = house.connect();
    client.send(UPGRADE.as_bytes());
    assert!(client.head().unwrap().starts_with("HTTP/1.1 101 "));
    let began = Instant::now();
    assert!(client.ends());
    assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
    eventually("it is gone", || house.traffic.connections() == 0);
    assert_eq!(house.limit("tunnel_idle"), 1);
}

fn a_busy_tunnel_outlives_its_idle_time(io: IoMode) {
    let backend = echoing();
    let house = House::with_timeouts(io, "", &proxy_to(backend.port), tunnel_timeouts(1500, 1500));
    let mut client = house.connect();
    client.send(UPGRADE.as_bytes());
    client.head().unwrap();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(3500) {
        client.send(b"ping");
        assert_eq!(client.exactly(4).unwrap(), b"ping");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(house.limit("tunnel_idle"), 0);
}

fn a_stopped_server_ends_silent_tunnels(io: IoMode) {
    let backend = echoing();
    let house = House::with_timeouts(io, "", &proxy_to(backend.port), tunnel_timeouts(600_000, 1000));
    let (mut silent, mut busy) = (house.connect(), house.connect());
    for client in [&mut silent, &mut busy] {
        client.send(UPGRADE.as_bytes());
        client.head().unwrap();
        client.send(b"x");
        assert_eq!(client.exactly(1).unwrap(), b"x");
    }
    let server = house.traffic.servers()[0].1.clone();
    house.traffic.remove_server("web");
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2500) || !silent.is_closed() {
        busy.send(b"ping");
        assert_eq!(busy.exactly(4).unwrap(), b"ping", "one at work goes on");
        std::thread::sleep(Duration::from_millis(50));
    }
    eventually("nothing is left", || server.connections() == 0);
    assert!(busy.ends());
}

fn a_broken_tunnel_is_broken_on_both_sides(io: IoMode) {
    let backend = Backend::new(|mut wire, nth| {
        wire.head();
        wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        if nth == 0 {
            // Unread bytes make it a reset.
            wire.reset();
        } else {
            assert!(!wire.more(), "the client's reset arrives");
        }
    });
    let house = House::proxy(io, &backend);
    let mut client = house.connect();
    client.send(UPGRADE.as_bytes());
    client.head().unwrap();
    client.send(b"unread");
    assert!(client.ends());
    let mut client = house.connect();
    client.send(UPGRADE.as_bytes());
    client.head().unwrap();
    drop(client);
    eventually("nothing is left", || house.traffic.connections() == 0);
}

/// The backend talks and the client does not listen: what waits in between is bounded.
fn bulk_passes_a_tunnel_inside_the_kernel_and_small_talk_does_not(io: IoMode) {
    const LONG: usize = 16 << 20;
    let backend = Backend::new(move |mut wire, _| {
        wire.head();
        wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        let body = wire.exactly(LONG).expect("all of it");
        wire.send(&body);
        while let Some(message) = wire.exactly(5) {
            wire.send(&message);
        }
    });
    let house = House::proxy(io, &backend);
    let spliced = || house.runtime.workers()[0].stats().bytes_spliced;
    let mut client = house.connect();
    client.send(UPGRADE.as_bytes());
    client.head().unwrap();
    let sent: Vec<u8> = (0..LONG).map(|n| (n / 251) as u8).collect();
    client.send(&sent);
    assert!(client.exactly(LONG).expect("all of it") == sent, "the bytes are not what was sent");
    let bulk = spliced();
    assert!(bulk > LONG as u64, "{bulk} bytes were spliced");
    let mut talk = |messages: usize| {
        for n in 0..messages {
            let message = format!("{n:05}");
            client.send(message.as_bytes());
            assert_eq!(client.exactly(5).as_deref(), Some(message.as_bytes()));
        }
    };
    talk(32);
    let before = spliced();
    talk(50);
    assert_eq!(spliced(), before, "small pieces are received into buffers");
}

fn a_tunnel_keeps_no_more_than_its_bounds(io: IoMode) {
    let written = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = written.clone();
    let backend = Backend::new(move |mut wire, _| {
        wire.head();
        wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        while wire.send(&[7; 64 << 10]) {
            count.fetch_add(64 << 10, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let house = House::proxy(io, &backend);
    let mut client = house.connect();
    client.send(UPGRADE.as_bytes());
    client.head().unwrap();
    // Until it stands still.
    let amount = || written.load(std::sync::atomic::Ordering::Relaxed);
    let mut before = usize::MAX;
    eventually("the backend waits", || {
        std::thread::sleep(Duration::from_millis(200));
        std::mem::replace(&mut before, amount()) == amount()
    });
    // Sixteen megabytes find room in the kernel's buffers; a few buffers of ours come to it.
    let buffers = house.runtime.workers()[0].stats().buffers_in_use;
    assert!(amount() < 24 << 20 && buffers < 600, "{} bytes, {buffers} buffers", amount());
}
