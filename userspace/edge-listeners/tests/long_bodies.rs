//! Long answers between plain connections, which the kernel moves by itself, on both drivers.

#[macro_use]
mod support;

use base_runtime::IoMode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use support::{Backend, House, eventually, proxy_to, short_timeouts};

on_both_drivers![
    arrive_byte_for_byte_and_both_connections_go_on,
    that_are_looked_at_or_framed_anew_arrive_as_well,
    that_break_off_cut_the_client_off,
    that_pause_too_long_cut_the_client_off,
    that_are_longer_than_announced_end_the_backend_connection,
    go_to_slow_clients_and_not_to_those_who_read_nothing,
    are_given_up_when_the_client_leaves,
];

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const SIZE: usize = 20 << 20;

fn arrive_byte_for_byte_and_both_connections_go_on(io: IoMode) {
    let backend = Backend::recording(|message| match message.target() {
        "/short" => answer(&pattern(1000), 1000),
        _ => answer(&pattern(SIZE), SIZE),
    });
    let house = House::proxy(io, &backend);
    let mut client = house.connect();
    for _ in 0..3 {
        client.send(GET.as_bytes());
        assert!(client.answer().body == pattern(SIZE), "the body is not what was sent");
        client.send(b"GET /short HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(client.answer().body == pattern(1000));
    }
    assert_eq!(backend.connections(), 1, "one connection served all");
    assert!(spliced(&house) > 2 * SIZE as u64, "{} bytes were spliced", spliced(&house));
    assert_eq!(house.runtime.workers()[0].stats().pipes_refused, 0);
    // Requests that wait on the way are no hindrance, nor is one that says it is the last.
    client.send(format!("{GET}{GET}GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes());
    for _ in 0..3 {
        assert!(client.answer().body == pattern(SIZE), "the body is not what was sent");
    }
    assert!(client.ends());
    assert_eq!(house.count(200), 9);
    let text = house.telemetry.render(base_telemetry::Names::default());
    let sums = text.lines().filter(|line| line.starts_with("weir_response_bytes_total"));
    let counted = sums.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as usize;
    assert!((6 * SIZE + 3000..6 * SIZE + 6000).contains(&counted), "{counted} bytes are counted");
}

fn that_are_looked_at_or_framed_anew_arrive_as_well(io: IoMode) {
    // As much as a filter reads.
    const PACKED: usize = 2 << 20;
    let backend = Backend::recording(|message| match message.target() {
        "/chunked" => {
            let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for piece in pattern(SIZE).chunks(1 << 20) {
                bytes.extend(format!("{:x}\r\n", piece.len()).as_bytes());
                bytes.extend(piece);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
            bytes
        }
        _ => answer(&pattern(PACKED), PACKED),
    });
    let house = House::proxy(io, &backend);
    let mut client = house.connect();
    client.send(b"GET /chunked HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.answer().body == pattern(SIZE), "the body is not what was sent");
    let pipeline = proxy_to(backend.port).replace("}]}]}]", "}]}]}, {name: a, kind: ResponseAdaptor, compress: gzip}]");
    house.pipeline("app", &pipeline);
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
    let answer = client.answer();
    assert_eq!(answer.field("content-encoding"), Some("gzip"));
    assert!(answer.body.starts_with(&[0x1f, 0x8b]) && answer.body.len() != PACKED);
    assert_eq!(spliced(&house), 0);
}

fn that_break_off_cut_the_client_off(io: IoMode) {
    for reset in [false, true] {
        let backend = Backend::new(move |mut wire, _| {
            match reset {
                // Closing with the request unread is a reset.
                true => drop(wire.stream.peek(&mut [0])),
                false => drop(wire.head()),
            }
            wire.send(&answer(&pattern(SIZE / 2), SIZE));
        });
        let house = House::proxy(io, &backend);
        for n in 1..3 {
            let mut client = house.connect();
            client.send(GET.as_bytes());
            assert!(client.head().is_some_and(|head| head.starts_with("HTTP/1.1 200")));
            let rest = client.rest();
            assert!(rest.len() <= SIZE / 2 && rest == pattern(SIZE)[..rest.len()], "{} bytes came", rest.len());
            assert_eq!(backend.connections(), n, "the connection is not used again");
        }
        eventually("nothing stays behind", || house.traffic.connections() == 0);
    }
}

fn that_pause_too_long_cut_the_client_off(io: IoMode) {
    // Made beforehand: the backend has 3 s, and making it takes long where the machine is busy.
    let half = answer(&pattern(SIZE / 2), SIZE);
    let backend = Backend::new(move |mut wire, _| {
        wire.head();
        wire.send(&half);
        wire.rest();
    });
    let pipeline = proxy_to(backend.port).replace("pools: [{", "pools: [{timeout: 3s, ");
    let house = House::new(io, "", &pipeline.replace("Size: -1", "Size: 30000000"));
    let mut client = house.connect();
    let began = Instant::now();
    client.send(GET.as_bytes());
    assert!(client.head().is_some_and(|head| head.starts_with("HTTP/1.1 200")));
    let rest = client.rest();
    assert!(rest.len() <= SIZE / 2 && rest == pattern(SIZE)[..rest.len()], "{} bytes came", rest.len());
    assert!(began.elapsed() >= Duration::from_millis(2500), "{:?}", began.elapsed());
    eventually("nothing stays behind", || house.traffic.connections() == 0);
}

fn that_are_longer_than_announced_end_the_backend_connection(io: IoMode) {
    let backend = Backend::recording(|_| answer(&pattern(SIZE + 10), SIZE));
    let house = House::proxy(io, &backend);
    let mut client = house.connect();
    for n in 1..4 {
        client.send(GET.as_bytes());
        assert!(client.answer().body == pattern(SIZE), "the body is not what was announced");
        assert_eq!(backend.connections(), n);
        // What is too much may come late.
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn go_to_slow_clients_and_not_to_those_who_read_nothing(io: IoMode) {
    let backend = Backend::recording(|_| answer(&pattern(SIZE), SIZE));
    let house = House::with_timeouts(io, "", &proxy_to(backend.port), short_timeouts());
    let mut slow = house.connect();
    slow.send(GET.as_bytes());
    let mut still = house.connect();
    still.send(GET.as_bytes());
    let began = Instant::now();
    assert!(slow.head().is_some_and(|head| head.starts_with("HTTP/1.1 200")));
    let mut body = std::mem::take(&mut slow.read);
    while body.len() < SIZE {
        assert!(slow.more(), "{} bytes came", body.len());
        body.append(&mut slow.read);
        // Twice as long as a client may be still.
        if began.elapsed() < 2 * short_timeouts().send {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(body == pattern(SIZE), "the body is not what was sent");
    eventually("who reads nothing is cut off", || house.limit("response_stalled") == 1);
    let rest = still.rest();
    assert!(rest.len() < SIZE, "{} bytes came", rest.len());
    eventually("nothing stays behind of it", || house.traffic.connections() == 1);
    assert_eq!((backend.connections(), house.limit("response_rate")), (2, 0));
    assert!(spliced(&house) > SIZE as u64 / 2);
}

fn are_given_up_when_the_client_leaves(io: IoMode) {
    let closed = Arc::new(AtomicUsize::new(0));
    let count = closed.clone();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = std::sync::Mutex::new(may_go);
    // It pauses in the middle, or is held up by the client.
    let backend = Backend::new(move |mut wire, nth| {
        wire.head();
        wire.send(&answer(&pattern(SIZE / 2), SIZE));
        if nth == 1 {
            may_go.lock().unwrap().recv().unwrap();
            wire.send(&pattern(SIZE)[SIZE / 2..]);
        }
        wire.rest();
        count.fetch_add(1, Ordering::SeqCst);
    });
    let house = House::proxy(io, &backend);
    let mut client = house.connect();
    client.send(GET.as_bytes());
    client.head();
    client.exactly(SIZE / 2).expect("so much is there");
    drop(client);
    eventually("the backend's pause ends with its client", || closed.load(Ordering::SeqCst) == 1);
    let mut client = house.connect();
    client.send(GET.as_bytes());
    client.head();
    client.exactly(SIZE / 4).expect("so much is there");
    client.reset();
    go.send(()).unwrap();
    eventually("the backend is not held up by one who has gone", || closed.load(Ordering::SeqCst) == 2);
    eventually("nothing stays behind", || house.traffic.connections() == 0);
}

fn spliced(house: &House) -> u64 {
    house.runtime.workers()[0].stats().bytes_spliced
}

/// An answer that announces so many bytes.
fn answer(body: &[u8], announced: usize) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\n\r\n").into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// Bytes that differ with their position.
fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}
