//! When memory, or descriptors, run out. Both belong to the whole process, so these tests take turns.

#[path = "support/h2.rs"]
mod h2_client;
#[path = "support/h3.rs"]
mod h3_client;
mod support;

use base_runtime::IoMode;
use base_runtime::memory::{self, Booking, Kind};
use edge_listeners::Timeouts;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use support::{Backend, House, Wire, eventually, proxy_to};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const MOCK: &str = "filters: [{name: m, kind: Mock, rules: [{code: 200, body: mocked}]}]";

fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn on_both(test: fn(IoMode)) {
    let _turn = turn();
    test(IoMode::Uring);
    test(IoMode::Epoll);
    memory::set_ceiling(None);
}

/// Fills the ledger to its ceiling for as long as it is kept.
fn no_memory() -> Booking {
    memory::set_ceiling(Some(1 << 30));
    let all = Booking::new(Kind::Other, 1 << 30);
    assert!(memory::is_over());
    all
}

#[test]
fn requests_are_refused_politely() {
    on_both(|io| {
        let house = House::new(io, "", MOCK);
        let mut kept = house.connect();
        kept.send(GET.as_bytes());
        assert_eq!(kept.answer().status(), 200);
        let all = no_memory();
        // On a kept connection and on a new one, whole or only begun.
        let mut fresh = house.connect();
        let mut begun = house.connect();
        begun.send(b"POST / HT");
        for (client, sent) in [(&mut kept, GET), (&mut fresh, GET), (&mut begun, "")] {
            client.send(sent.as_bytes());
            let answer = client.answer();
            assert_eq!(answer.status(), 503);
            assert_eq!((answer.field("retry-after"), answer.field("connection")), (Some("1"), Some("close")));
            assert!(client.ends());
        }
        assert_eq!((house.limit("memory"), house.count(503)), (3, 3));
        drop(all);
        assert_eq!(house.ask(GET).status(), 200, "there is room again");
    });
}

#[test]
fn datagrams_of_tunnels_are_booked() {
    on_both(datagrams_that_have_come_in_part);
}

/// Of those that may be as long as one of UDP.
fn datagrams_that_have_come_in_part(io: IoMode) {
    const PART: usize = 60_000;
    let part = || {
        let mut bytes = Vec::new();
        proto_h3::capsule::begin(proto_h3::capsule::DATAGRAM, PART as u64 + 1, &mut bytes);
        bytes.resize(bytes.len() + PART, 0);
        bytes
    };
    let booked = || memory::snapshot().of(Kind::Bodies);
    let opening = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: connect-udp\r\nCapsule-Protocol: ?1\r\n\r\n"
        )
    };
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let forward = House::new(io, "", "filters: [{name: out, kind: SimpleHTTPProxy, connectUdp: true}]");
    let before = booked();
    let mut client = forward.connect();
    let port = socket.local_addr().unwrap().port();
    client.send(opening(&format!("/.well-known/masque/udp/127.0.0.1/{port}/")).as_bytes());
    assert!(client.head().unwrap().starts_with("HTTP/1.1 101 "));
    client.send(&part());
    eventually("what a tunnel of UDP keeps is booked", || booked() >= before + PART as u64);
    drop(client);
    eventually("and nothing of it when it is over", || booked() <= before);

    // On its way to a backend over HTTP/3, and from one to a client.
    let backend = Backend::new(move |mut wire, _| {
        let _ = wire.head();
        wire.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: connect-udp\r\n\r\n");
        let says = wire.more() && wire.read.starts_with(b"\x07");
        if says {
            wire.send(&part());
        }
        while wire.more() {}
    });
    let certificate = h3_client::certificate(&["127.0.0.1"]);
    let back = House::new(io, &format!("http3: true\n{}", certificate.lines), &proxy_to(backend.port));
    let root = serde_json::Value::from(certificate.pem.clone());
    let pool = format!("{{http3: true, servers: [{{url: 'https://127.0.0.1:{}'}}]}}", back.port);
    let to_back = format!("filters: [{{name: p, kind: Proxy, mtls: {{rootCertBase64: {root}}}, pools: [{pool}]}}]");
    let front = House::new(io, "", &to_back);
    for said in [part(), b"\x07\0".to_vec()] {
        let before = booked();
        let mut client = front.connect();
        client.send(opening("/udp").as_bytes());
        assert!(client.head().unwrap().starts_with("HTTP/1.1 101 "));
        client.send(&said);
        eventually("it is booked", || booked() >= before + PART as u64);
        drop(client);
        eventually("and given back", || booked() <= before);
    }
}

#[test]
fn what_streams_goes_on() {
    on_both(|io| {
        let backend = Backend::new(|mut wire, _| {
            wire.head();
            wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            while let Some(word) = wire.exactly(4) {
                wire.send(b"4\r\n");
                wire.send(&word);
                wire.send(b"\r\n");
            }
            wire.send(b"0\r\n\r\n");
        });
        let house = House::new(io, "clientMaxBodySize: -1", &proxy_to(backend.port));
        let mut client = house.connect();
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n1234");
        assert!(client.head().unwrap().starts_with("HTTP/1.1 200 "));
        assert_eq!(client.exactly(9).unwrap(), b"4\r\n1234\r\n");
        let _all = no_memory();
        assert_eq!(house.ask(GET).status(), 503);
        for _ in 0..9 {
            client.send(b"5678");
            assert_eq!(client.exactly(9).unwrap(), b"4\r\n5678\r\n");
        }
    });
}

#[test]
fn those_who_idle_longest_make_room() {
    on_both(|io| {
        let timeouts = Timeouts { arriving: Duration::ZERO, ..Timeouts::default() };
        let house = House::with_timeouts(io, "", MOCK, timeouts);
        let old: Vec<Wire> = (0..20)
            .map(|_| {
                let mut client = house.connect();
                client.send(GET.as_bytes());
                client.answer();
                client
            })
            .collect();
        std::thread::sleep(Duration::from_millis(30));
        let mut young: Vec<Wire> = (0..10).map(|_| house.connect()).collect();
        eventually("all are in", || house.traffic.connections() == 30);
        let all = no_memory();
        // One more is let in, and sixteen go.
        let mut asking = house.connect();
        asking.send(GET.as_bytes());
        assert_eq!(asking.answer().status(), 503);
        let mut old = old;
        eventually("some have gone", || old.iter_mut().map(|c| c.is_closed()).filter(|closed| *closed).count() >= 16);
        assert!(young.iter_mut().all(|c| !c.is_closed()), "the youngest stay");
        assert!(house.limit("memory_idle") >= 16);
        assert_eq!(house.limit("first_byte_timeout"), 0);
        drop(all);
        young[0].send(GET.as_bytes());
        assert_eq!(young[0].answer().status(), 200);
    });
}

/// Its first request may be on its way, and nobody would say to it why it is closed.
#[test]
fn who_has_just_come_does_not_make_room() {
    on_both(|io| {
        let timeouts = Timeouts { arriving: Duration::from_secs(600), ..Timeouts::default() };
        let house = House::with_timeouts(io, "", MOCK, timeouts);
        let all = no_memory();
        let mut arriving = house.connect();
        eventually("it is in", || house.traffic.connections() == 1);
        let ask = || {
            let mut other = house.connect();
            other.send(GET.as_bytes());
            assert_eq!(other.answer().status(), 503);
        };
        ask();
        // Room is made from time to time.
        std::thread::sleep(Duration::from_millis(30));
        ask();
        arriving.send(GET.as_bytes());
        let answer = arriving.answer();
        assert!(answer.status() == 503 && answer.field("retry-after").is_some(), "{}", answer.head);
        drop(all);
    });
}

/// The pipeline, with a filter behind it that reads the whole answer.
fn looked_at(pipeline: &str) -> String {
    let looks = "{name: looks, kind: ResponseAdaptor, template: 'header: {set: {X-Length: \"{{len .resp.Body}}\"}}'}";
    format!("{}, {looks}]", &pipeline[..pipeline.len() - 1])
}

/// What nobody takes of an HTTP/2 connection is not in the books for as long as it lives: padding, and bodies of refused requests.
#[test]
fn what_nobody_takes_leaves_the_books() {
    use h2_client::{Raw, block, frame};
    on_both(|io| {
        let house = House::new(io, "h2c: true", MOCK);
        let mut raw = Raw::new(house.port);
        let post = |more: &[(&str, &str)]| {
            let head = [(":method", "POST"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")];
            block(&[&head[..], more].concat())
        };
        let other = || memory::snapshot().of(Kind::Other);
        raw.send(&frame(1, 4, 1, &post(&[])));
        raw.send(&frame(0, 1, 1, b"x"));
        assert!(raw.until(1).is_some());
        let mut idle = 0;
        eventually("it is idle", || std::mem::replace(&mut idle, other()) == other() && idle > 0);
        let mut padded = vec![255, b'x'];
        padded.resize(257, 0);
        for n in 1..100u32 {
            raw.send(&frame(1, 4, 2 * n + 1, &post(&[])));
            raw.send(&frame(0, 1 | 8, 2 * n + 1, &padded));
            assert!(raw.until(1).is_some());
        }
        for n in 100..103u32 {
            raw.send(&frame(1, 4, 2 * n + 1, &post(&[("expect", "a reply")])));
            raw.send(&frame(0, 0, 2 * n + 1, &[7; 16_000]));
            raw.send(&frame(0, 1, 2 * n + 1, &[7; 16_000]));
            assert!(raw.until(1).is_some());
        }
        eventually("nothing more is booked than before", || other() <= idle);
    });
}

/// The head of a request over HTTP/2 is booked until its exchange has ended, at what it stands for.
#[test]
fn heads_of_streams_are_in_the_books() {
    use h2_client::{Raw, block, frame};
    on_both(|io| {
        let backend = Backend::new(|mut wire, _| {
            wire.message();
            wire.exactly(1);
        });
        let house = House::with_timeouts(io, "h2c: true", &proxy_to(backend.port), Timeouts::default());
        let mut raw = Raw::new(house.port);
        let long = "x".repeat(10_000);
        let head = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/"), ("x-a", &long)];
        for n in 0..5u32 {
            raw.send(&frame(1, 5, 2 * n + 1, &block(&head)));
        }
        eventually("the heads are booked", || (50_000..60_000).contains(&memory::snapshot().of(Kind::Heads)));
        drop(raw);
        eventually("and no longer", || memory::snapshot().of(Kind::Heads) == 0);
    });
}

#[test]
fn heads_and_bodies_are_in_the_books() {
    on_both(|io| {
        let house = House::with_timeouts(io, "", &proxy_to(1), Timeouts::default());
        let mut client = house.connect();
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(20_000)).as_bytes());
        eventually("the head is booked", || (20_000..100_000).contains(&memory::snapshot().of(Kind::Heads)));
        drop(client);
        eventually("and no longer", || memory::snapshot().of(Kind::Heads) == 0);
        // A filter that looks into an answer gathers it.
        let backend = Backend::new(|mut wire, _| {
            wire.head();
            wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40000\r\n");
            wire.send(&[b'x'; 0x40000]);
            wire.head();
            wire.send(b"\r\n0\r\n\r\n");
        });
        house.pipeline("app", &looked_at(&proxy_to(backend.port)));
        let mut client = house.connect();
        client.send(GET.as_bytes());
        eventually("the body is booked", || memory::snapshot().of(Kind::Bodies) >= 0x40000);
        drop(client);
        eventually("and no longer", || memory::snapshot().of(Kind::Bodies) == 0);
    });
}

/// Bodies that are in memory whole, for clients and backends that read nothing: what waits in send buffers is bounded, whatever the
/// bodies' length.
#[test]
fn bodies_in_memory_are_sent_in_windows() {
    const CLIENTS: usize = 8;
    const MOST: u64 = (CLIENTS * 512 * 1024) as u64;
    on_both(|io| {
        let body = "x".repeat(8 << 20);
        let mock = format!("filters: [{{name: m, kind: Mock, rules: [{{code: 200, body: {body}}}]}}]");
        let house = House::with_timeouts(io, "", &mock, Timeouts::default());
        let mut clients: Vec<Wire> = (0..CLIENTS).map(|_| house.connect()).collect();
        for client in &mut clients {
            client.send(GET.as_bytes());
            assert!(client.head().unwrap().starts_with("HTTP/1.1 200 "));
        }
        let held = memory::booked();
        assert!(held < MOST, "{held} bytes are held for {CLIENTS} answers of 8 MiB");
        for client in &mut clients {
            assert_eq!(client.exactly(body.len()).unwrap().len(), body.len());
        }
        drop(clients);

        // Bombs, on their way to a backend that reads heads only.
        let bomb = packed(15 << 20);
        assert!(bomb.len() < 20_000);
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = std::sync::Mutex::new(released);
        let backend = Backend::new(move |mut wire, _| {
            let head = wire.head().unwrap();
            assert!(head.contains(&format!("Content-Length: {}\r\n", 15 << 20)), "{head}");
            let _ = released.lock().unwrap().recv();
            if wire.exactly(15 << 20).is_some() {
                wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        });
        let unpacks = "[{name: u, kind: RequestAdaptor, decompress: gzip}, ";
        house.pipeline("app", &proxy_to(backend.port).replacen('[', unpacks, 1));
        let mut clients: Vec<Wire> = (0..CLIENTS).map(|_| house.connect()).collect();
        let head =
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", bomb.len());
        for client in &mut clients {
            client.send(head.as_bytes());
            client.send(&bomb);
        }
        eventually("all are with the backend", || backend.connections() == CLIENTS);
        let held = memory::booked();
        assert!(held < MOST, "{held} bytes are held for {CLIENTS} bombs");
        for _ in &clients {
            release.send(()).unwrap();
        }
        for client in &mut clients {
            assert_eq!(client.answer().status(), 200);
        }
    });
}

/// So many zero bytes as gzip.
fn packed(bytes: usize) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(9));
    encoder.write_all(&vec![0; bytes]).unwrap();
    encoder.finish().unwrap()
}

/// A flood of connections takes every descriptor: those who are in are served, the others wait, and as they leave all come in.
#[test]
fn descriptors_that_run_out_are_waited_for() {
    on_both(|io| {
        let house = House::new(io, "maxConnections: 1", MOCK);
        // More than are taken in ahead of their turn.
        let mut clients: Vec<Wire> = (0..600).map(|_| house.connect()).collect();
        eventually("one is in", || house.traffic.connections() == 1);
        let before = getrlimit(Resource::Nofile);
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        let highest = open.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u64>().ok()).max().unwrap();
        setrlimit(Resource::Nofile, Rlimit { current: Some(highest + 21), maximum: before.maximum }).unwrap();
        house.server("maxConnections: 1000");
        let emfile = || house.runtime.workers()[0].stats().emfile;
        eventually("the descriptors are used up, and that is counted", || emfile() > 0);
        let inside = house.traffic.connections();
        assert!((10..600).contains(&inside), "{inside}");
        clients[0].send(GET.as_bytes());
        assert_eq!(clients[0].answer().status(), 200, "who is in is served");
        for mut client in clients.drain(..) {
            client.send(GET.as_bytes());
            assert_eq!(client.answer().status(), 200, "who leaves lets another in");
        }
        setrlimit(Resource::Nofile, before).unwrap();
    });
}
