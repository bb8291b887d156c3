//! What one client may cost everybody: rates, and what happens where there is no more room.

#[macro_use]
mod support;

use base_runtime::IoMode;
use edge_listeners::Timeouts;
use edge_pipeline::{Exchange, Filter, FilterKind, Step};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{Backend, House, Wire, eventually, proxy_to};

on_both_drivers![
    a_body_that_trickles_is_408,
    a_body_may_be_as_slow_as_its_backend,
    a_reader_that_trickles_is_cut_off,
    who_was_fast_may_pause,
    a_connection_may_idle_for_ever,
    a_request_that_panics_leaves_its_place,
    a_worker_that_is_late_serves_what_it_is_given,
    a_hand_over_that_is_dropped_leaves_its_place,
    a_pipelining_client_has_a_share_of_each_turn,
    a_neighbour_waits_no_more_turns_beside_pipelining_clients,
];

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const MOCK: &str = "filters: [{name: m, kind: Mock, rules: [{code: 200, body: mocked}]}]";

/// At least 10 kB/s, after 300 ms.
fn rated() -> Timeouts {
    let (body, send) = (Duration::from_secs(5), Duration::from_secs(5));
    Timeouts { rate: 10_000, grace: Duration::from_millis(300), body, send, ..Timeouts::default() }
}

/// Sends a byte every 20 ms, as long as somebody takes it.
fn trickle(wire: &Wire) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let (mut stream, stopped) = (wire.stream.try_clone().unwrap(), stop.clone());
    std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) && std::io::Write::write_all(&mut stream, b"1").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    stop
}

fn a_body_that_trickles_is_408(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = House::with_timeouts(io, "", &proxy_to(backend.port), rated());
    for head in ["Content-Length: 100000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n186A0\r\n"] {
        let mut client = house.connect();
        let began = Instant::now();
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{head}").as_bytes());
        let stop = trickle(&client);
        assert_eq!(client.answer().status(), 408, "{head}");
        assert!(began.elapsed() >= Duration::from_millis(250), "{:?}", began.elapsed());
        stop.store(true, Ordering::Relaxed);
    }
    assert_eq!((house.limit("body_rate"), house.limit("body_timeout")), (2, 0));
    // An honest client beside them.
    assert_eq!(house.ask(GET).status(), 200);
}

/// The client is kept waiting, and so is not counted as slow.
fn a_body_may_be_as_slow_as_its_backend(io: IoMode) {
    const SIZE: usize = 24 << 20;
    // On a busy machine the client may have no CPU for a while, and is slow then.
    let timeouts = Timeouts { grace: Duration::from_secs(2), ..rated() };
    let backend = Backend::new(|mut wire, _| {
        wire.head();
        std::thread::sleep(Duration::from_secs(4));
        wire.exactly(SIZE);
        wire.send(OK.as_bytes());
    });
    let house = House::with_timeouts(io, "clientMaxBodySize: -1", &proxy_to(backend.port), timeouts);
    let (mut client, body) = (house.connect(), vec![b'x'; SIZE]);
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes());
    client.send(&body);
    assert_eq!(client.answer().status(), 200);
    assert_eq!(house.limit("body_rate"), 0);
}

fn a_reader_that_trickles_is_cut_off(io: IoMode) {
    const SIZE: usize = 64 << 20;
    let backend = Backend::new(|mut wire, _| {
        wire.head();
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").as_bytes());
        while wire.send(&[b'x'; 64 << 10]) {}
    });
    // Kernels move windows by tens of kilobytes: the rate is one that is above what the client reads for sure.
    let timeouts = Timeouts { rate: 30_000_000, ..rated() };
    let house = House::with_timeouts(io, "", &proxy_to(backend.port), timeouts);
    let mut client = house.connect();
    client.send(GET.as_bytes());
    let began = Instant::now();
    while house.limit("response_rate") + house.limit("response_stalled") == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "still served");
        let _ = client.exactly(64 << 10);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(house.limit("response_rate"), 1, "it read, but too little");
    assert!(client.rest().len() < SIZE);
    eventually("it is gone", || house.traffic.connections() == 0);
}

fn who_was_fast_may_pause(io: IoMode) {
    let backend = Backend::answering(OK);
    let house = House::with_timeouts(io, "", &proxy_to(backend.port), rated());
    let mut client = house.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    client.send(&[b'x'; 99_999]);
    std::thread::sleep(Duration::from_millis(900));
    client.send(b"x");
    assert_eq!(client.answer().status(), 200);
    // Slow, and fast enough.
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n");
    for _ in 0..40 {
        client.send(&[b'x'; 1000]);
        std::thread::sleep(Duration::from_millis(25));
    }
    assert_eq!(client.answer().status(), 200);
}

fn a_connection_may_idle_for_ever(io: IoMode) {
    let house = House::new(io, "keepAliveTimeout: 0s", MOCK);
    let mut client = house.connect();
    for _ in 0..2 {
        client.send(GET.as_bytes());
        assert_eq!(client.answer().text(), "mocked");
        std::thread::sleep(Duration::from_millis(100));
    }
}

struct Fall;

impl Filter for Fall {
    fn handle<'a>(&'a self, _: &'a mut Exchange) -> Step<'a> {
        panic!("this filter does nothing else")
    }
}

fn a_request_that_panics_leaves_its_place(io: IoMode) {
    static FALL: FilterKind = FilterKind {
        kind: "Fall",
        results: &[],
        doc: "",
        schema: || serde_json::Value::Null,
        check: |_, _, _| {},
        build: |_, _| Ok(Arc::new(Fall)),
    };
    let kind = |name: &str| (name == "Fall").then_some(&FALL);
    let document = "maxConnections: 1\nrules: [{paths: [{backend: app}]}]";
    let house = House::with_kinds(io, document, "filters: [{name: f, kind: Fall}]", Timeouts::default(), kind);
    // The second would wait for ever if the first were still counted.
    for _ in 0..2 {
        let mut client = house.connect();
        client.send(GET.as_bytes());
        assert!(client.ends(), "there is nobody to answer");
    }
    eventually("nobody is counted", || house.traffic.connections() == 0);
}

/// Requests that a client may send without waiting for an answer, all of them in one buffer.
const PIPELINED: usize = 500;

fn a_pipelining_client_has_a_share_of_each_turn(io: IoMode) {
    let house = House::new(io, "", MOCK);
    assert_eq!(house.ask(GET).status(), 200);
    let stats = || house.runtime.workers()[0].stats();
    let before = stats();
    let mut client = house.connect();
    client.send(GET.repeat(PIPELINED).as_bytes());
    for _ in 0..PIPELINED {
        assert_eq!(client.answer().status(), 200);
    }
    let (turns, polls) = (stats().turns - before.turns, stats().polls - before.polls);
    let least = PIPELINED as u64 / u64::from(base_runtime::SHARE);
    assert!(turns >= least && polls >= least, "{PIPELINED} requests were served in {turns} turns and {polls} polls");
}

/// Turns of the worker until a neighbour has its answer, the median of many requests.
fn turns_of_a_neighbour(house: &House) -> u64 {
    let mut client = house.connect();
    let mut waited: Vec<u64> = (0..100)
        .map(|_| {
            let before = house.runtime.workers()[0].stats().turns;
            client.send(GET.as_bytes());
            assert_eq!(client.answer().status(), 200);
            house.runtime.workers()[0].stats().turns - before
        })
        .collect();
    waited.sort_unstable();
    waited[waited.len() / 2]
}

/// What the neighbour waits for is turns, and how long those are: between two of them each client is served its share at most.
fn a_neighbour_waits_no_more_turns_beside_pipelining_clients(io: IoMode) {
    const CLIENTS: usize = 16;
    let served_in_a_turn = |requests: usize| {
        let house = House::new(io, "", MOCK);
        let stop = Arc::new(AtomicBool::new(false));
        let crowd: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (mut client, stop) = (house.connect(), stop.clone());
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        client.send(GET.repeat(requests).as_bytes());
                        (0..requests).for_each(|_| assert_eq!(client.answer().status(), 200));
                    }
                })
            })
            .collect();
        eventually("the crowd is there", || house.count(200) > 10 * CLIENTS as u64);
        let (served, polls) = (house.count(200), house.runtime.workers()[0].stats().polls);
        let waited = turns_of_a_neighbour(&house);
        let (served, polls) = (house.count(200) - served, house.runtime.workers()[0].stats().polls - polls);
        stop.store(true, Ordering::Relaxed);
        crowd.into_iter().for_each(|client| client.join().expect("it was served to the end"));
        (waited, served as f64 / polls.max(1) as f64)
    };
    let (alone, _) = served_in_a_turn(1);
    let (beside, per_poll) = served_in_a_turn(PIPELINED);
    assert!(beside <= 3 * alone + 3, "{beside} turns beside pipelining clients, {alone} beside others");
    assert!(per_poll <= f64::from(base_runtime::SHARE), "{per_poll} requests in a poll");
}

/// What another worker accepts for it may come before it has had time to accept anything itself.
fn a_worker_that_is_late_serves_what_it_is_given(io: IoMode) {
    let house = House::with_workers(2, io, "", MOCK, Timeouts::default(), edge_filters::kind);
    let (release, held) = std::sync::mpsc::channel::<()>();
    house.runtime.workers()[1].spawn(move || {
        let _ = held.recv();
        std::future::ready(())
    });
    // A server of its own, whose sockets the second worker has not seen yet.
    let port = support::free_port();
    let text = format!("address: 127.0.0.1\nport: {port}\nrules: [{{paths: [{{pathPrefix: /, backend: app}}]}}]");
    house.traffic.apply_server("second", &spec!(&text)).expect("a good server");
    let mut clients: Vec<Wire> =
        (0..40).map(|_| Wire::new(std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens"))).collect();
    eventually("the first worker has given some away", || house.runtime.workers()[0].stats().handed_over > 0);
    release.send(()).expect("the second worker waits");
    for client in &mut clients {
        client.send(GET.as_bytes());
        assert_eq!(client.answer().status(), 200);
    }
}

/// The second worker stops before it has looked at what the first has given it.
fn a_hand_over_that_is_dropped_leaves_its_place(io: IoMode) {
    let House { traffic, port, runtime, .. } =
        House::with_workers(2, io, "", MOCK, Timeouts::default(), edge_filters::kind);
    let (_, server) = traffic.servers().remove(0);
    let (release, held) = std::sync::mpsc::channel::<()>();
    runtime.workers()[1].spawn(move || {
        let _ = held.recv();
        std::future::ready(())
    });
    let _clients: Vec<_> =
        (0..40).map(|_| std::net::TcpStream::connect(("127.0.0.1", port)).expect("it listens")).collect();
    eventually("the first worker has given some away", || runtime.workers()[0].stats().handed_over > 0);
    assert!(server.connections() > 0);
    let releasing = std::thread::spawn(move || {
        // The worker is told to stop meanwhile; were it not, it would serve what it got, and count as well.
        std::thread::sleep(Duration::from_millis(300));
        drop(release);
    });
    runtime.shutdown();
    releasing.join().expect("no panic");
    assert_eq!(server.connections(), 0);
}
