//! Checks against servers of all kinds, and what is due when on a clock of its own.

use super::schedule::Queue;
use super::*;
use base_runtime::{Config, IoMode, Runtime};
use base_telemetry::Identity;
use base_testing::free_port;
use bytes::Bytes;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize};

/// Workers for all tests: they end with the process.
fn telemetry() -> &'static Telemetry {
    static HOUSE: OnceLock<(Runtime, Arc<Telemetry>)> = OnceLock::new();
    let house = HOUSE.get_or_init(|| {
        let config = Config { io: IoMode::Epoll, workers: Some(2), name: "checks".to_owned(), ..Config::default() };
        (Runtime::start(config).expect("epoll works everywhere"), Telemetry::new(Identity::default(), 2))
    });
    &house.1
}

fn spec(text: &str) -> HealthCheckSpec {
    let document = base_model::yaml::parse_document(text).expect("good YAML");
    let spec: HealthCheckSpec = base_model::decode(&document, "").expect("a good document").value;
    let mut findings = base_model::Findings::default();
    let usual = if spec.type_ == Some(ProbeType::Udp) { ProbeType::Udp } else { ProbeType::Http };
    spec.validate(usual, "", &mut findings);
    assert!(findings.problems.is_empty() && findings.warnings.is_empty(), "{text}: {findings:?}");
    spec
}

fn check(url: &str, text: &str) -> Arc<Check> {
    let server = Server::new(url, 0, false, None).expect("a good URL");
    Check::shared(&server, &spec(text), ProbeType::Http, telemetry()).expect("a good check")
}

fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What the first probe says: nothing, or what is wrong.
fn verdict(check: &Check) -> String {
    let checkup = check.checkup();
    until("a probe ends", || checkup.passed.load(Relaxed) + checkup.failed.load(Relaxed) > 0);
    match checkup.passed.load(Relaxed) {
        0 => {
            assert!(!check.is_well());
            let shown = checkup.json();
            shown["lastError"].as_str().unwrap_or_default().to_owned()
        }
        _ => String::new(),
    }
}

/// A server of HTTP/1.1 that answers so; the requests it got.
fn serve(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("bound").port();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let (answer, record) = (Arc::new(answer), seen.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (answer, record) = (answer.clone(), record.clone());
            std::thread::spawn(move || {
                if let Some(request) = read_request(&stream) {
                    let text = answer(&request);
                    record.lock().unwrap().push(request);
                    let _ = (&stream).write_all(text.as_bytes());
                }
            });
        }
    });
    (port, seen)
}

fn read_request(mut stream: &TcpStream) -> Option<String> {
    let (mut read, mut piece) = (String::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut piece).ok().filter(|n| *n > 0)?;
        read.push_str(&String::from_utf8_lossy(&piece[..n]));
        let Some((head, body)) = read.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse::<usize>().ok());
        if body.len() >= length.unwrap_or(0) {
            return Some(read);
        }
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn what_is_asked_and_what_counts_as_well() {
    let (port, seen) = serve(|request| {
        let (status, headers, body) = match request.split(' ').nth(1).unwrap_or_default() {
            "/500" => ("500", "", ""),
            "/404" => ("404", "", ""),
            "/301" => ("301", "Location: /elsewhere\r\n", ""),
            "/deep?all=1" => ("200", "X-State: ready 7\r\nX-State: other\r\n", "all parts are up\nversion 12"),
            "/" if request.starts_with("GET / HTTP/1.1\r\n") => ("204", "", ""),
            _ => ("403", "", ""),
        };
        match request {
            r if r.starts_with("POST /post") && r.ends_with("\r\n\r\nping") => answer("200", "", "pong"),
            // user:secret
            r if r.contains("Authorization: Basic dXNlcjpzZWNyZXQ=\r\n") => answer("200", "", "in"),
            r if r.contains("Host: named.test\r\n") && r.contains("X-Probe: a b\r\n") => answer("200", "", "named"),
            _ => answer(status, headers, body),
        }
    });
    let url = format!("http://127.0.0.1:{port}");
    let deep = "uri: '/deep?all=1'";
    for (text, wanted) in [
        ("{}".to_owned(), ""),
        ("{uri: /500}".to_owned(), "status 500"),
        ("{path: /404}".to_owned(), "status 404"),
        ("{uri: /301}".to_owned(), ""),
        ("{uri: /301, match: {statusCodes: [[200, 299]]}}".to_owned(), "status 301"),
        ("{uri: /500, match: {statusCodes: [[200, 299], [500, 500]]}}".to_owned(), ""),
        ("{uri: post, method: POST, body: ping}".to_owned(), ""),
        ("{uri: /post, method: POST, body: pang}".to_owned(), "status 403"),
        ("{uri: /auth, username: user, password: secret}".to_owned(), ""),
        ("{uri: /auth, username: user, password: other}".to_owned(), "status 403"),
        ("{uri: /named, headers: {Host: named.test, X-Probe: a b}}".to_owned(), ""),
        ("{uri: /named, headers: {X-Probe: a b}}".to_owned(), "status 403"),
        (format!("{{{deep}, match: {{headers: [{{name: x-state, value: other}}]}}}}"), ""),
        (
            format!("{{{deep}, match: {{headers: [{{name: X-State, value: ready, type: exact}}]}}}}"),
            "the header X-State is not as it should be",
        ),
        (format!("{{{deep}, match: {{headers: [{{name: X-State, value: '^ready \\d$', type: regexp}}]}}}}"), ""),
        (format!("{{{deep}, match: {{body: {{value: parts are up}}}}}}"), ""),
        (format!("{{{deep}, match: {{body: {{value: down, type: contains}}}}}}"), "the body is not as it should be"),
        (format!("{{{deep}, match: {{body: {{value: 'version \\d+$', type: regexp}}}}}}"), ""),
    ] {
        assert_eq!(verdict(&check(&url, &text)), wanted, "{text}");
    }
    assert_eq!(verdict(&check("http://127.0.0.1:1/deep", &format!("{{port: {port}}}"))), "status 403");
    let asked = seen.lock().unwrap();
    assert!(asked.last().unwrap().starts_with("GET /deep HTTP/1.1\r\n"), "the server's own path: {asked:?}");
    assert!(asked.iter().all(|request| request.contains("User-Agent: weir-health-check\r\n")), "{asked:?}");
}

#[test]
fn who_does_not_answer_is_unwell() {
    let refused = free_port();
    let said = verdict(&check(&format!("http://127.0.0.1:{refused}"), "{}"));
    assert!(said.starts_with("cannot connect: "), "{said}");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    assert_eq!(verdict(&check(&url, "{timeout: 30ms}")), "no answer in 30ms");
    let (port, _) = serve(|_| "SSH-2.0-OpenSSH_9\r\n\r\n".to_owned());
    let said = verdict(&check(&format!("http://127.0.0.1:{port}"), "{}"));
    assert!(said.starts_with("malformed answer"), "{said}");
}

#[test]
fn a_websocket_is_opened() {
    let (port, seen) = serve(|request| match request.starts_with("GET /ws HTTP/1.1\r\n") {
        true => "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Room: a\r\n\r\n".to_owned(),
        false => answer("200", "", ""),
    });
    let url = format!("http://127.0.0.1:{port}");
    assert_eq!(verdict(&check(&url, "{type: websocket, uri: /ws}")), "");
    assert_eq!(verdict(&check(&url, "{type: websocket, uri: /no}")), "status 200");
    let room = "{type: websocket, uri: /ws, match: {headers: [{name: X-Room, value: b}]}}";
    assert_eq!(verdict(&check(&url, room)), "the header X-Room is not as it should be");
    let asked = seen.lock().unwrap()[0].clone();
    for field in
        ["Connection: Upgrade\r\n", "Upgrade: websocket\r\n", "Sec-WebSocket-Version: 13\r\n", "Sec-WebSocket-Key: "]
    {
        assert!(asked.to_lowercase().contains(&field.to_lowercase()), "{asked}");
    }
}

#[test]
fn what_is_said_over_tcp_and_in_datagrams() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut asked = [0; 4];
                let pong = stream.read_exact(&mut asked).is_ok() && asked == *b"PING";
                let _ = stream.write_all(b"+PO");
                std::thread::sleep(Duration::from_millis(5));
                let _ = stream.write_all(if pong { b"NG\r\n" } else { b"OR\r\n" });
            });
        }
    });
    assert_eq!(verdict(&check(&url, "{type: tcp}")), "", "a connect is enough");
    assert_eq!(verdict(&check(&url, "{type: tcp, send: PING, expect: PONG}")), "");
    let said = verdict(&check(&url, "{type: tcp, send: PANG, expect: PONG}"));
    assert_eq!(said, "it closed before what was expected had come");

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let there = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            if n > 0 {
                let _ = socket.send_to(&[b"re: ", &buffer[..n]].concat(), from);
            }
        }
    });
    let udp = |place: &str, text: &str| {
        let server = Server::new(&format!("http://{place}"), 0, false, None).unwrap().over_datagrams();
        Check::shared(&server, &spec(text), ProbeType::Udp, telemetry()).unwrap()
    };
    let there = there.to_string();
    assert_eq!(verdict(&udp(&there, "{type: udp}")), "");
    assert_eq!(verdict(&udp(&there, "{type: udp, send: a}")), "");
    assert_eq!(verdict(&udp(&there, "{type: udp, send: abc, expect: 're: abc'}")), "");
    assert_eq!(verdict(&udp(&there, "{type: udp, send: abc, expect: x, timeout: 50ms}")), "no answer in 50ms");
    let gone = format!("127.0.0.1:{}", free_port());
    assert_eq!(verdict(&udp(&gone, "{type: udp}")), "nobody takes datagrams");
    let said = verdict(&udp(&gone, "{type: udp, send: a}"));
    assert!(said.starts_with("datagrams are refused: "), "{said}");
}

/// A server of grpc.health.v1 that knows `up`, `down`, and itself as a whole.
fn serve_grpc() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("bound").port();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        tokio::spawn(call(request, respond));
                    }
                });
            }
        });
    });
    port
}

async fn call(request: http::Request<h2::RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let (head, mut body) = request.into_parts();
    let mut message = Vec::new();
    while let Some(Ok(piece)) = body.data().await {
        message.extend_from_slice(&piece);
    }
    let asked = String::from_utf8_lossy(message.get(7..).unwrap_or_default()).into_owned();
    let answer = http::Response::builder().header("content-type", "application/grpc");
    let known = head.uri.path() == GRPC_CHECK_PATH && head.headers.get("te").is_some_and(|te| te == "trailers");
    let (status, code) = match asked.as_str() {
        _ if !known => (None, "12"),
        "" | "up" => (Some(1), "0"),
        "down" => (Some(2), "0"),
        _ => (None, "5"),
    };
    let Some(status) = status else {
        let answer = answer.header("grpc-status", code).body(()).unwrap();
        let _ = respond.send_response(answer, true);
        return;
    };
    let Ok(mut stream) = respond.send_response(answer.body(()).unwrap(), false) else { return };
    let _ = stream.send_data(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]), false);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", code.parse().unwrap());
    let _ = stream.send_trailers(trailers);
}

const GRPC_CHECK_PATH: &str = "/grpc.health.v1.Health/Check";

#[test]
fn grpc_must_say_serving() {
    let url = format!("http://127.0.0.1:{}", serve_grpc());
    for (text, wanted) in [
        ("{type: grpc}", ""),
        ("{type: grpc, service: up}", ""),
        ("{type: grpc, service: down}", "it says NOT_SERVING"),
        ("{type: grpc, service: other}", "it does not know the service"),
    ] {
        assert_eq!(verdict(&check(&url, text)), wanted, "{text}");
    }
    let (port, _) = serve(|_| answer("200", "", ""));
    let said = verdict(&check(&format!("http://127.0.0.1:{port}"), "{type: grpc, timeout: 300ms}"));
    assert!(!said.is_empty(), "HTTP/1.1 is no gRPC");
}

#[test]
fn it_falls_after_so_many_failures_and_rises_after_so_many_passes() {
    let up = Arc::new(AtomicBool::new(true));
    let (shown, count) = (up.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = count.clone();
    let (port, _) = serve(move |_| {
        counted.fetch_add(1, Relaxed);
        answer(if shown.load(Relaxed) { "200" } else { "503" }, "", "")
    });
    let check = check(&format!("http://127.0.0.1:{port}"), "{interval: 5ms, fails: 3, passes: 2}");
    let passed = |n: u64| until("it passes", || check.checkup().passed.load(Relaxed) >= n);
    passed(3);
    assert!(check.is_well());
    let before = health::changes();
    up.store(false, Relaxed);
    until("it falls", || !check.is_well());
    assert!(check.checkup().failed.load(Relaxed) >= 3);
    assert!(health::changes() > before, "whoever chooses looks again");
    up.store(true, Relaxed);
    until("it rises", || check.is_well());
    assert_eq!(check.checkup().falls.load(Relaxed), 1);
    let asked = Arc::downgrade(&check);
    drop(check);
    until("nobody asks any more", || asked.strong_count() == 0);
    let last = count.load(Relaxed);
    std::thread::sleep(Duration::from_millis(50));
    assert!(count.load(Relaxed) <= last + 1);
}

#[test]
fn who_asks_the_same_shares_the_check_and_who_asks_otherwise_inherits() {
    let (port, seen) = serve(|_| answer("503", "", ""));
    let url = format!("http://127.0.0.1:{port}");
    let text = "{interval: 1h, uri: /a}";
    let first = check(&url, text);
    assert_eq!(verdict(&first), "status 503");
    let more: Vec<Arc<Check>> = (0..100).map(|_| check(&url, text)).collect();
    assert!(more.iter().all(|other| Arc::ptr_eq(other, &first)));
    let weighted = Server::new(&url, 7, true, None).unwrap();
    let same = Check::shared(&weighted, &spec(text), ProbeType::Http, telemetry()).unwrap();
    assert!(Arc::ptr_eq(&same, &first), "of another pool");
    let other = check(&url, "{interval: 2h, uri: /a}");
    assert!(!Arc::ptr_eq(&other, &first) && !other.is_well(), "unwell until it passes");
    assert!(check(&url, "{type: tcp}").is_well(), "another matter");
    until("both were asked", || seen.lock().unwrap().len() >= 2);
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(seen.lock().unwrap().len(), 2, "one probe each");
}

/// A server that keeps its connections, and answers in two pieces. The connections it got, and the requests.
fn serve_on(answer: impl Fn(&str) -> [String; 2] + Send + Sync + 'static) -> (u16, Arc<[AtomicUsize; 2]>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("bound").port();
    let (seen, answer) = (Arc::<[AtomicUsize; 2]>::default(), Arc::new(answer));
    let counted = seen.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (answer, counted) = (answer.clone(), counted.clone());
            counted[0].fetch_add(1, Relaxed);
            std::thread::spawn(move || {
                while let Some(request) = read_request(&stream) {
                    counted[1].fetch_add(1, Relaxed);
                    for piece in answer(request.split(' ').nth(1).unwrap_or_default()) {
                        let _ = (&stream).write_all(piece.as_bytes());
                        std::thread::sleep(Duration::from_millis(2));
                    }
                }
            });
        }
    });
    (port, seen)
}

#[test]
fn a_server_that_is_well_is_asked_over_few_connections_where_it_may_be() {
    let in_two = |status: u16| [format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\n"), "ok".to_owned()];
    let well = Arc::new(AtomicBool::new(true));
    let shown = well.clone();
    let (port, seen) = serve_on(move |_| in_two(if shown.load(Relaxed) { 200 } else { 503 }));
    let (url, count) = (format!("http://127.0.0.1:{port}"), |n: usize| seen[n].load(Relaxed));
    let asked = |n: usize| {
        let before = count(1);
        until("it is asked", || count(1) >= before + n);
    };
    let one = check(&url, "{interval: 5ms, reuseConnection: true}");
    asked(50);
    // Probes go on while it is counted, and each is counted behind the connection it goes over.
    let (fewest, connections, most) = (count(1), count(0), count(1));
    assert!(connections >= fewest.div_ceil(10), "each tenth connects: {connections} of {fewest}");
    // Where the rest of an answer is late the next probe connects; were it never read, each would.
    assert!(connections <= most / 2, "and few others, as the rest of each answer is read: {connections} of {most}");
    // Another question goes over the same one where nobody asks on it at that time.
    // Both may ask at the same time again and again: then one of them connects.
    let are_few = |connections: usize, questions: usize| connections <= questions * 3 / 4;
    let other = check(&url, "{interval: 5ms, reuseConnection: true, uri: /b, match: {body: {value: ok}}}");
    let (before, questions) = (count(0), count(1));
    asked(40);
    assert!(are_few(count(0) - before, count(1) - questions));
    drop(other);
    // One that is not well is connected to anew: what a connection of before says is not what others meet.
    well.store(false, Relaxed);
    until("it falls", || !one.is_well());
    let (before, questions) = (count(0), count(1));
    asked(8);
    let (questions, connections) = (count(1) - questions, count(0) - before);
    assert!(connections + 2 >= questions, "each of {questions} has a connection of its own: {connections}");
    well.store(true, Relaxed);
    until("it rises", || one.is_well());
    let (before, questions) = (count(0), count(1));
    asked(40);
    assert!(are_few(count(0) - before, count(1) - questions));
    drop(one);
    let (before, _each) = (count(0), check(&url, "{interval: 5ms, uri: /c}"));
    asked(8);
    // The last one of the check before may have been under way.
    assert!(count(0) >= before + 7, "where the document does not say so");
}

#[test]
fn after_one_failure_a_server_is_connected_to_anew() {
    // Its first connection says one day that it is not well, and goes on saying so.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().flatten().enumerate() {
            std::thread::spawn(move || {
                let mut asked = 0;
                while read_request(&stream).is_some() {
                    asked += 1;
                    let status = if n == 0 && asked > 2 { "503" } else { "200" };
                    let _ = (&stream).write_all(answer(status, "", "ok").as_bytes());
                }
            });
        }
    });
    let check = check(&format!("http://127.0.0.1:{port}"), "{interval: 5ms, fails: 3, reuseConnection: true}");
    let checkup = check.checkup();
    until("it passes again", || checkup.failed.load(Relaxed) > 0 && checkup.passed.load(Relaxed) >= 4);
    assert_eq!((checkup.failed.load(Relaxed), checkup.falls.load(Relaxed)), (1, 0), "the next one asked another");
}

#[test]
fn a_server_that_nobody_can_connect_to_falls_whatever_its_open_connection_says() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("somebody connects");
        drop(listener);
        while read_request(&stream).is_some() {
            let _ = (&stream).write_all(answer("200", "", "ok").as_bytes());
        }
    });
    let check = check(&format!("http://127.0.0.1:{port}"), "{interval: 5ms, reuseConnection: true}");
    until("it falls", || !check.is_well());
    assert_eq!(check.checkup().passed.load(Relaxed), 10);
}

/// Requests and probes alike: who holds its only connection keeps everybody else waiting.
#[test]
fn a_server_of_one_connection_at_a_time_is_not_held() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            while read_request(&stream).is_some() {
                let _ = (&stream).write_all(answer("200", "", "ok").as_bytes());
            }
        }
    });
    let check = check(&format!("http://{address}"), "{interval: 1h}");
    assert_eq!(verdict(&check), "");
    let mut client = TcpStream::connect(address).expect("it listens");
    client.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("it is there");
    assert!(client.read(&mut [0; 64]).expect("an answer comes though the probe was there before") > 0);
}

#[test]
fn nobody_waits_for_the_rest_of_an_answer_that_is_no_use() {
    // The rest never comes.
    let (port, seen) = serve_on(|path| {
        let head = match path {
            "/failed" => "HTTP/1.1 503 X\r\nContent-Length: 2\r\n\r\n",
            "/large" => "HTTP/1.1 200 X\r\nContent-Length: 1000000000\r\n\r\n",
            _ => "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n",
        };
        [head.to_owned(), String::new()]
    });
    for (path, reuse) in [("/failed", true), ("/large", true), ("/unknown", true), ("/closed", false)] {
        let text = format!("{{interval: 5ms, timeout: 10m, uri: {path}, reuseConnection: {reuse}}}");
        let (before, _check) = (seen[1].load(Relaxed), check(&format!("http://127.0.0.1:{port}"), &text));
        until(path, || seen[1].load(Relaxed) >= before + 4);
    }
}

#[test]
fn a_server_that_closes_is_connected_to_anew_and_stays_well() {
    let (port, seen) = serve(|_| answer("200", "", ""));
    let check = check(&format!("http://127.0.0.1:{port}"), "{interval: 5ms, reuseConnection: true}");
    until("it is asked", || seen.lock().unwrap().len() >= 8);
    assert_eq!((check.checkup().falls.load(Relaxed), check.checkup().failed.load(Relaxed)), (0, 0));
}

#[test]
fn what_is_due_within_a_hundredth_of_an_interval_is_asked_together() {
    let (second, now) = (Duration::from_secs(1), Instant::now());
    let at = |millis: u64| together(now + Duration::from_millis(millis), second);
    let turns: std::collections::BTreeSet<Instant> = (0..1000).map(at).collect();
    assert!((100..=101).contains(&turns.len()), "{}", turns.len());
    for millis in 0..1000 {
        let (due, asked) = (now + Duration::from_millis(millis), at(millis));
        assert!(asked >= due && asked < due + second / 100, "not before its time, and hardly after");
    }
    assert_eq!(together(now, Duration::from_nanos(1)), now);
}

/// A day of a thousand checks on a clock of its own: each is asked as often as its interval says, none is lost, and what is kept is one
/// entry each.
#[test]
fn a_day_of_a_thousand_checks() {
    let start = Instant::now();
    let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
    let mut queue: Queue<usize> = Queue::default();
    let intervals: Vec<f64> = (0..1000).map(|n| [1.0, 5.0, 10.0, 60.0][n % 4]).collect();
    for n in 0..1000 {
        queue.add(n, at(n as f64 / 50_000.0), n as u64);
    }
    let (mut asked, mut last, mut seed) = (vec![0u32; 1000], start, 1u64);
    let end = at(3600.0);
    let mut standings: Vec<Standing> = (0..1000).map(|_| Standing::new(true, 3, 2)).collect();
    let mut well = vec![true; 1000];
    while let Some(now) = queue.next().filter(|now| *now < end) {
        assert!(now >= last, "time does not go back");
        last = now;
        assert!(queue.take(now - Duration::from_nanos(1)).is_none(), "nothing is asked before its time");
        while let Some(n) = queue.take(now) {
            asked[n] += 1;
            // Servers are down for the second quarter of the hour.
            let passes = !(900.0..1800.0).contains(&now.duration_since(start).as_secs_f64());
            if let Some(changed) = standings[n].note(passes) {
                well[n] = changed;
                let since = now.duration_since(start).as_secs_f64();
                let (edge, times) = if changed { (1800.0, 2.0) } else { (900.0, 3.0) };
                assert!(since - edge <= intervals[n] * 1.1 * times, "{n} after {} s", since - edge);
            }
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let jitter = 0.9 + 0.2 * (seed >> 11) as f64 / (1u64 << 53) as f64;
            queue.add(n, now + Duration::from_secs_f64(intervals[n] * jitter), n as u64);
        }
    }
    assert!(well.iter().all(|well| *well));
    for (n, times) in asked.iter().enumerate() {
        let wanted = 3600.0 / intervals[n];
        assert!((f64::from(*times) - wanted).abs() <= wanted * 0.05 + 3.0, "{n}: {times} of {wanted}");
    }
}

#[test]
fn intervals_vary_by_a_tenth() {
    let second = Duration::from_secs(1);
    let all: Vec<Duration> = (0..1000).map(|_| varied(second)).collect();
    assert!(all.iter().all(|pause| (second * 9 / 10..=second * 11 / 10).contains(pause)));
    let (least, most) = (all.iter().min().unwrap(), all.iter().max().unwrap());
    assert!(*most - *least > Duration::from_millis(150), "{least:?} {most:?}");
    assert_eq!(varied(Duration::from_nanos(1)), Duration::from_nanos(1));
}
