//! Seeded worlds of HTTP/2 and HTTP/3 through whole servers, over networks that lose, repeat, reorder, delay and cut.
//! A failure prints its seed: `WEIR_SIM_SEED=<seed> cargo test -p edge-listeners --test simulation` runs that world alone,
//! `WEIR_SIM_ROUNDS` sets how many.
//!
//! Clients speak HTTP/2 or HTTP/3 to one server, which asks another over HTTP/1.1, HTTP/2 or HTTP/3, which asks a backend. Rings, turns
//! and buffers are drawn small; bytes of TCP come in pieces of any size, datagrams may be lost, come twice or late, or from another
//! address; both servers are taken away and put back while requests are under way. The model: every request is answered as its backend
//! meant it, byte for byte, or says that nothing was done of it, and only where a server was taken away; nothing is done twice that must
//! not be; nobody is blamed for what the network did; and in the end nothing is left.

#[macro_use]
mod support;
#[path = "support/h2.rs"]
mod h2_client;
#[path = "support/h3.rs"]
mod h3_client;
#[path = "../../base-runtime/tests/support/random.rs"]
mod random;

use base_runtime::{Config, IoMode};
use bytes::Bytes;
use edge_listeners::Timeouts;
use h3_client::{Certificate, Client, certificate, config};
use random::{PrintOnPanic, Random, seeds};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use support::{Backend, House, Message, eventually, free_port, proxy_to};

on_both_drivers!(requests_follow_their_model);

fn requests_follow_their_model(io: IoMode) {
    for seed in seeds(6) {
        let guard = PrintOnPanic(format!("the world that failed: WEIR_SIM_SEED={seed} on {io}"));
        world(io, seed);
        drop(guard);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
    Http3,
}

const CLIENTS: u64 = 3;
/// Rounds of a client, each of up to four requests at a time.
const ROUNDS: u64 = 8;
/// For what hangs, not for what is slow on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn world(io: IoMode, seed: u64) {
    let mut random = Random(seed);
    // Two drivers and six worlds have each pair once.
    let before = if seed.is_multiple_of(2) { Speaks::Http2 } else { Speaks::Http3 };
    let behind = [Speaks::Http1, Speaks::Http2, Speaks::Http3][(seed / 2 % 3) as usize];
    let certificate = certificate(&["127.0.0.1", "a.test"]);
    let backend = Backend::recording(answer_of);
    let back = (behind != Speaks::Http1).then(|| {
        let lines = lines_of(behind, &certificate);
        built(io, &mut random, &lines, &proxy_to(backend.port))
    });
    let way = Network::new(random.next(), behind, back.as_ref().map_or(backend.port, |back| back.port));
    let front = built(io, &mut random, &lines_of(before, &certificate), &pool(behind, way.port, &certificate));
    let network = Network::new(random.next(), before, front.port);

    let tally = Arc::new(Tally::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|nth| {
            let (mut random, port, tally) = (Random(random.next()), network.port, tally.clone());
            let trusted = certificate.der.clone();
            thread::spawn(move || {
                let mut plan = Vec::new();
                for round in 0..ROUNDS {
                    let many = 1 + random.below(4);
                    plan.push((0..many).map(|at| Ask::draw(&mut random, nth << 32 | round << 16 | at)).collect());
                }
                match before {
                    Speaks::Http3 => over_http3(port, &trusted, &plan, &tally),
                    _ => over_http2(port, &plan, &tally),
                }
            })
        })
        .collect();
    // Meanwhile the servers are taken away and put back.
    for house in [Some((&front, before)), back.as_ref().map(|back| (back, behind))].into_iter().flatten() {
        thread::sleep(Duration::from_millis(random.below(200)));
        house.0.traffic.remove_server("web");
        thread::sleep(Duration::from_millis(random.below(20)));
        let (house, lines) = (house.0, lines_of(house.1, &certificate));
        eventually("it can listen again", || {
            house.server(&lines);
            let running = house.state() == "running";
            if !running {
                house.traffic.retry();
            }
            running
        });
    }
    let failed: Vec<_> = clients.into_iter().filter_map(|client| client.join().err()).collect();
    assert!(failed.is_empty(), "{} clients have failed", failed.len());

    // Nothing was done twice but what its client has asked for twice, or may be done so.
    let mut done: HashMap<String, u64> = HashMap::new();
    backend.seen().iter().filter(|seen| seen.head.starts_with("POST")).for_each(|seen| {
        *done.entry(seen.target().to_owned()).or_default() += 1;
    });
    for (target, times) in &done {
        let asked = tally.asked(target);
        assert!(*times <= asked, "{target} was done {times} times, and asked for {asked} times");
    }
    assert!(tally.answered.load(Ordering::SeqCst) >= CLIENTS * ROUNDS, "hardly a world worth the name");
    network.calm();
    way.calm();
    let houses = [Some(&front), back.as_ref()];
    for house in houses.into_iter().flatten() {
        for fault in [
            "h2_protocol",
            "h2_calm",
            "h2_flow_control",
            "h2_frame_size",
            "h2_compression",
            "upstream_h2_faults",
            "upstream_h3_faults",
        ] {
            assert_eq!(house.limit(fault), 0, "{fault}");
        }
        for worker in house.runtime.workers() {
            assert_eq!(worker.stats().panics, 0);
        }
    }
    eventually("no client is left", || front.traffic.connections() == 0);
}

/// Its ring, its turns and its buffers are as drawn.
fn built(io: IoMode, random: &mut Random, lines: &str, pipeline: &str) -> House {
    let config = Config {
        io,
        workers: Some(1 + random.below(2) as usize),
        name: "world".to_owned(),
        ring_entries: *random.pick(&[8, 64, 1024]),
        recv_queue_max: *random.pick(&[1, 2, 4]),
        task_budget: *random.pick(&[1, 7, 256]),
        coalesce: Duration::from_micros(*random.pick(&[0, 200])),
        datagram_queue_max: *random.pick(&[8, 64]),
        ..Config::default()
    };
    House::built(free_port(), config, lines, pipeline, Timeouts::default(), edge_filters::kind)
}

fn lines_of(speaks: Speaks, certificate: &Certificate) -> String {
    match speaks {
        Speaks::Http3 => format!("http3: true\nhttp3Only: true\n{}", certificate.lines),
        _ => "h2c: true".to_owned(),
    }
}

fn pool(speaks: Speaks, port: u16, certificate: &Certificate) -> String {
    let root = serde_json::Value::from(certificate.pem.clone());
    let (scheme, more, mtls) = match speaks {
        Speaks::Http1 => ("http", "", String::new()),
        Speaks::Http2 => ("http", "http2: true, ", String::new()),
        Speaks::Http3 => ("https", "http3: true, ", format!("mtls: {{rootCertBase64: {root}}}, ")),
    };
    format!(
        "filters: [{{name: p, kind: Proxy, {mtls}serverMaxBodySize: -1, pools: [{{{more}servers: [{{url: '{scheme}://127.0.0.1:{port}'}}]}}]}}]"
    )
}

/// A request: what it asks for follows from its number.
#[derive(Debug, Clone)]
struct Ask {
    target: String,
    body: Vec<u8>,
    wanted: Vec<u8>,
}

impl Ask {
    fn draw(random: &mut Random, number: u64) -> Ask {
        let mut length = |most: u64| match random.below(4) {
            0 => 0,
            1 => random.below(100),
            2 => random.below(20_000),
            _ => random.below(most),
        };
        let (said, wanted) = (length(150_000), length(400_000));
        let target = format!("/n/{wanted}/{number}");
        let body = if number.is_multiple_of(3) { Vec::new() } else { pattern(said, number ^ 1) };
        Ask { target, body, wanted: pattern(wanted, number) }
    }

    fn is_post(&self) -> bool {
        !self.body.is_empty()
    }

    /// What came instead of what was asked for, if anything.
    fn judge(&self, status: u16, sum: Option<&str>, body: &[u8]) {
        assert_eq!(status, 200, "{}", self.target);
        assert_eq!(sum, Some(sum_of(&self.body).to_string().as_str()), "{}: what its backend has got", self.target);
        assert!(body == self.wanted, "{}: {} bytes, {} wanted", self.target, body.len(), self.wanted.len());
    }
}

fn pattern(length: u64, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = Vec::with_capacity(length as usize + 8);
    while (bytes.len() as u64) < length {
        bytes.extend(random.next().to_le_bytes());
    }
    bytes.truncate(length as usize);
    bytes
}

fn sum_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)))
}

fn answer_of(asked: &Message) -> Vec<u8> {
    let mut parts = asked.target().split('/').skip(2).map(|part| part.parse::<u64>().unwrap_or_default());
    let (length, number) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let (body, sum) = (pattern(length, number), sum_of(&asked.body));
    if number.is_multiple_of(2) {
        let head = format!("HTTP/1.1 200 OK\r\nX-Sum: {sum}\r\nContent-Length: {length}\r\n\r\n");
        return [head.as_bytes(), &body].concat();
    }
    let mut bytes = format!("HTTP/1.1 200 OK\r\nX-Sum: {sum}\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    for piece in body.chunks(1 + (number % 5_000) as usize * 10) {
        bytes.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

/// What clients have asked for.
#[derive(Default)]
struct Tally {
    asked: std::sync::Mutex<HashMap<String, u64>>,
    answered: AtomicU64,
}

impl Tally {
    fn ask(&self, target: &str) {
        *self.asked.lock().unwrap().entry(target.to_owned()).or_default() += 1;
    }

    fn asked(&self, target: &str) -> u64 {
        self.asked.lock().unwrap().get(target).copied().unwrap_or_default()
    }

    fn answered(&self) {
        self.answered.fetch_add(1, Ordering::SeqCst);
    }
}

/// Nobody may be there for a moment, and no server behind.
const TRIES: usize = 400;
const PAUSE: Duration = Duration::from_millis(10);

fn over_http2(port: u16, plan: &[Vec<Ask>], tally: &Arc<Tally>) {
    h2_client::run(async {
        let mut connection: Option<h2_client::Requests> = None;
        for asks in plan {
            let mut left: Vec<Ask> = asks.clone();
            for tries in 0.. {
                assert!(tries < TRIES, "{} are not answered", left.len());
                let requests = match connection.take() {
                    Some(requests) => requests,
                    None => match begin_http2(port).await {
                        Some(requests) => requests,
                        None => {
                            tokio::time::sleep(PAUSE).await;
                            continue;
                        }
                    },
                };
                let again: Rc<RefCell<Vec<Ask>>> = Rc::default();
                let asked = left.drain(..).map(|ask| {
                    let (requests, again, tally) = (requests.clone(), again.clone(), tally.clone());
                    tokio::task::spawn_local(async move {
                        if !one_over_http2(&requests, &ask, &tally).await {
                            again.borrow_mut().push(ask);
                        }
                    })
                });
                for asked in asked.collect::<Vec<_>>() {
                    asked.await.expect("it follows the model");
                }
                left = again.take();
                if left.is_empty() {
                    connection = Some(requests);
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    });
}

async fn begin_http2(port: u16) -> Option<h2_client::Requests> {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let (requests, connection) = h2::client::Builder::new().handshake::<_, Bytes>(stream).await.ok()?;
    tokio::task::spawn_local(connection);
    requests.ready().await.ok()
}

/// False: nothing was done of it.
async fn one_over_http2(requests: &h2_client::Requests, ask: &Ask, tally: &Tally) -> bool {
    let method = if ask.is_post() { "POST" } else { "GET" };
    let uri = format!("http://a.test{}", ask.target);
    let request = http::Request::builder().method(method).uri(uri).body(()).expect("a request");
    tally.ask(&ask.target);
    match h2_client::ask(requests, request, &ask.body).await {
        // No server was there behind.
        Ok(answer) if answer.status == 503 => false,
        Ok(answer) => {
            ask.judge(answer.status, answer.field("x-sum"), &answer.body);
            tally.answered();
            true
        }
        Err(error) => {
            let undone = error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM) || error.is_io();
            assert!(undone, "{}: {error}", ask.target);
            false
        }
    }
}

fn over_http3(port: u16, trusted: &rustls::pki_types::CertificateDer<'static>, plan: &[Vec<Ask>], tally: &Tally) {
    let mut connection: Option<Client> = None;
    for asks in plan {
        let mut left: Vec<Ask> = asks.clone();
        for tries in 0.. {
            assert!(tries < TRIES, "{} are not answered", left.len());
            let mut client = match connection.take() {
                Some(client) => client,
                None => {
                    let mut client = Client::begin(port, "a.test", config(trusted, b"h3"));
                    if !client.drive_for(PATIENCE, |client| client.connected || client.lost.is_some())
                        || client.lost.is_some()
                    {
                        thread::sleep(PAUSE);
                        continue;
                    }
                    client.settle_in();
                    client
                }
            };
            let begun: Vec<_> = left
                .drain(..)
                .map(|ask| {
                    tally.ask(&ask.target);
                    let method = if ask.is_post() { "POST" } else { "GET" };
                    let fields =
                        [(":method", method), (":scheme", "https"), (":authority", "a.test"), (":path", &ask.target)];
                    let id = (client.lost.is_none()).then(|| client.request(&fields, &ask.body));
                    (ask, id)
                })
                .collect();
            for (ask, id) in begun {
                let Some(id) = id else {
                    left.push(ask);
                    continue;
                };
                let over = |client: &mut Client| client.ended.contains_key(&id) || client.lost.is_some();
                assert!(client.drive_for(PATIENCE, over), "{} has no answer and no end", ask.target);
                let answer = client.so_far(id);
                match (answer.status(), answer.ended, answer.reset) {
                    (503, true, None) => left.push(ask),
                    (status, true, None) => {
                        ask.judge(status, answer.field("x-sum"), &answer.body);
                        tally.answered();
                    }
                    // H3_REQUEST_REJECTED, or the connection has ended before it was heard of.
                    (0, true, Some(0x10b)) | (0, false, None) => left.push(ask),
                    _ => panic!(
                        "{}: {} bytes, reset {:?}, lost {:?}",
                        ask.target,
                        answer.body.len(),
                        answer.reset,
                        client.lost
                    ),
                }
            }
            if left.is_empty() {
                connection = Some(client);
                break;
            }
            drop(client);
            thread::sleep(PAUSE);
        }
    }
}

/// A way to a port over which things happen.
struct Network {
    port: u16,
    calm: Arc<AtomicBool>,
}

impl Network {
    fn new(seed: u64, speaks: Speaks, to: u16) -> Network {
        let calm = Arc::new(AtomicBool::new(false));
        let is_calm = calm.clone();
        let to = SocketAddr::from(([127, 0, 0, 1], to));
        let port = match speaks {
            Speaks::Http3 => {
                let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
                let port = socket.local_addr().expect("bound").port();
                thread::spawn(move || datagrams(&socket, to, Random(seed), &is_calm));
                port
            }
            _ => {
                let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
                let port = listener.local_addr().expect("bound").port();
                thread::spawn(move || {
                    let mut random = Random(seed);
                    for stream in listener.incoming().flatten() {
                        let Ok(other) = TcpStream::connect(to) else { continue };
                        for (from, into) in [(&stream, &other), (&other, &stream)] {
                            let ends = (from.try_clone().expect("a copy"), into.try_clone().expect("a copy"));
                            let random = Random(random.next());
                            thread::spawn(move || pieces(ends.0, ends.1, random));
                        }
                    }
                });
                port
            }
        };
        Network { port, calm }
    }

    /// Nothing is lost from now on.
    fn calm(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }
}

/// Passes bytes on in pieces of any size, now and then late.
fn pieces(mut from: TcpStream, mut into: TcpStream, mut random: Random) {
    let _ = into.set_nodelay(true);
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let most = *random.pick(&[1, 9, 100, 1_000, 64 * 1024]);
        let Ok(length @ 1..) = from.read(&mut bytes[..most]) else { break };
        let mut rest = &bytes[..length];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(1 + random.below(rest.len() as u64) as usize);
            rest = after;
            if random.below(40) == 0 {
                thread::sleep(Duration::from_micros(random.below(2_000)));
            }
            if into.write_all(piece).is_err() {
                let _ = from.shutdown(Shutdown::Both);
                return;
            }
        }
    }
    let _ = into.shutdown(Shutdown::Write);
}

/// When a datagram goes on, its number, whose it is, whether it is the client's, and its bytes.
type Late = (Instant, u64, SocketAddr, bool, Vec<u8>);

/// Passes datagrams on, most of them, some late and some twice; each client seems to have another address after a while.
fn datagrams(socket: &UdpSocket, to: SocketAddr, mut random: Random, calm: &AtomicBool) {
    socket.set_nonblocking(true).expect("it can be");
    let fresh = || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        socket.set_nonblocking(true).expect("it can be");
        socket
    };
    // A client's, and the one it had before, over which answers may be on their way.
    let mut ways: HashMap<SocketAddr, (UdpSocket, Option<UdpSocket>, u64)> = HashMap::new();
    let mut late: BinaryHeap<Reverse<Late>> = BinaryHeap::new();
    let (mut bytes, mut count) = ([0; 2048], 0);
    loop {
        let mut came = Vec::new();
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            came.push((from, true, bytes[..length].to_vec()));
        }
        for (client, (own, before, _)) in &ways {
            for way in [Some(own), before.as_ref()].into_iter().flatten() {
                while let Ok((length, _)) = way.recv_from(&mut bytes) {
                    came.push((*client, false, bytes[..length].to_vec()));
                }
            }
        }
        let quiet = came.is_empty();
        for (client, out, datagram) in came {
            let is_calm = calm.load(Ordering::SeqCst);
            let copies = match random.below(100) {
                0..3 if !is_calm => 0,
                3..5 if !is_calm => 2,
                _ => 1,
            };
            for _ in 0..copies {
                count += 1;
                let wait = if random.below(10) == 0 && !is_calm { random.below(4_000) } else { 0 };
                let due = Instant::now() + Duration::from_micros(wait);
                late.push(Reverse((due, count, client, out, datagram.clone())));
            }
        }
        let now = Instant::now();
        while let Some(Reverse((due, ..))) = late.peek() {
            if *due > now {
                break;
            }
            let Some(Reverse((_, _, client, out, datagram))) = late.pop() else { break };
            let (own, before, passed) = ways.entry(client).or_insert_with(|| (fresh(), None, 0));
            match out {
                true => {
                    *passed += 1;
                    if *passed % 300 == 299 {
                        *before = Some(std::mem::replace(own, fresh()));
                    }
                    let _ = own.send_to(&datagram, to);
                }
                false => drop(socket.send_to(&datagram, client)),
            }
        }
        if quiet {
            thread::sleep(Duration::from_micros(300));
        }
    }
}
