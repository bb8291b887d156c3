//! What has brought servers of HTTP/3 and QUIC down: each is found out, counted, and costs its neighbours nothing.

#[macro_use]
mod support;
#[path = "support/h3.rs"]
mod h3_client;

use base_quic::proto::Dir;
use base_quic::stats::{Count, total};
use base_runtime::IoMode;
use edge_listeners::Timeouts;
use h3_client::{Certificate, Client, any_frame, bound_socket, certificate, config, data, get, head, post};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use support::{Backend, House, eventually, proxy_to, short_timeouts};

on_both_drivers![
    requests_given_up_at_once,
    requests_reset_before_their_heads,
    bodies_reset_behind_their_heads,
    floods_of_frames_that_lead_nowhere,
    floods_of_streams_nobody_knows,
    heads_that_unfold,
    heads_that_are_announced_too_large,
    heads_that_weigh_together,
    a_client_that_reads_nothing,
    bodies_that_nobody_reads,
    handshakes_that_are_not_finished,
    handshakes_of_one_address_that_are_not_finished,
    datagrams_that_are_no_quic,
];

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const EXCESSIVE_LOAD: u64 = 0x107;

/// What is booked is booked for the process: who looks at that has it alone.
static PROCESS: RwLock<()> = RwLock::new(());

fn alone() -> RwLockWriteGuard<'static, ()> {
    PROCESS.write().unwrap_or_else(PoisonError::into_inner)
}

fn beside() -> RwLockReadGuard<'static, ()> {
    PROCESS.read().unwrap_or_else(PoisonError::into_inner)
}

fn house(io: IoMode, backend: &Backend, timeouts: Timeouts) -> (House, Certificate) {
    let certificate = certificate(&["a.test"]);
    let lines = format!("http3: true\nclientMaxBodySize: -1\n{}", certificate.lines);
    (House::with_timeouts(io, &lines, &proxy_to(backend.port), timeouts), certificate)
}

/// Somebody else.
fn neighbour_is_served(house: &House, certificate: &Certificate) {
    let mut client = Client::connect(house.port, certificate);
    assert_eq!(client.get("/").text(), "ok", "{:?}", client.lost);
}

/// Rapid Reset (CVE-2023-44487), as HTTP/3 has it: the answer is declined as soon as the request was sent.
fn requests_given_up_at_once(io: IoMode) {
    let _beside = beside();
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend, Timeouts::default());
    let mut client = Client::connect(house.port, &certificate);
    let mut sent = 0;
    while sent < 5_000 && client.lost.is_none() {
        let Some(id) = client.connection.streams().open(Dir::Bi) else {
            client.drive_for(Duration::from_millis(5), |client| client.lost.is_some());
            continue;
        };
        client.send(id, &head(&get("/")), true);
        client.stop(id, 0x10c);
        client.transmit();
        sent += 1;
    }
    assert_eq!(client.closed(), Some(EXCESSIVE_LOAD), "{:?} after {sent}", client.lost);
    assert!(sent < 2_000, "{sent}");
    assert_eq!(house.limit("h3_resets"), 1);
    neighbour_is_served(&house, &certificate);
    eventually("none is left", || house.traffic.connections() == 0);
}

fn requests_reset_before_their_heads(io: IoMode) {
    let _beside = beside();
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend, Timeouts::default());
    let mut client = Client::connect(house.port, &certificate);
    let mut sent = 0;
    while sent < 5_000 && client.lost.is_none() {
        let Some(id) = client.connection.streams().open(Dir::Bi) else {
            client.drive_for(Duration::from_millis(5), |client| client.lost.is_some());
            continue;
        };
        client.send(id, &head(&get("/"))[..6], false);
        client.reset(id, 0x10c);
        client.transmit();
        sent += 1;
    }
    assert_eq!(client.closed(), Some(EXCESSIVE_LOAD), "{:?} after {sent}", client.lost);
    assert_eq!((house.limit("h3_resets"), backend.connections()), (1, 0));
    neighbour_is_served(&house, &certificate);
}

/// Nothing is declined: the request alone is reset, once its head has set the backend to work.
fn bodies_reset_behind_their_heads(io: IoMode) {
    let _beside = beside();
    let backend = Backend::new(|mut wire, _| while wire.more() {});
    let (house, certificate) = house(io, &backend, Timeouts::default());
    let mut client = Client::connect(house.port, &certificate);
    let mut sent = 0;
    while sent < 5_000 && client.lost.is_none() {
        let Some(id) = client.connection.streams().open(Dir::Bi) else {
            client.drive_for(Duration::from_millis(5), |client| client.lost.is_some());
            continue;
        };
        client.send(id, &[head(&post("/")), data(b"x")].concat(), false);
        client.drive_for(Duration::from_millis(1), |client| client.lost.is_some());
        client.reset(id, 0x10c);
        client.transmit();
        sent += 1;
    }
    assert_eq!(client.closed(), Some(EXCESSIVE_LOAD), "{:?} after {sent}", client.lost);
    assert_eq!(house.limit("h3_resets"), 1);
}

fn floods_of_frames_that_lead_nowhere(io: IoMode) {
    let _beside = beside();
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend, Timeouts::default());
    let settings = [0, 4, 0];
    let floods: [(Dir, Vec<u8>, Vec<u8>); 4] = [
        (Dir::Bi, vec![], any_frame(0x21, b"grease")),
        (Dir::Bi, head(&post("/")), data(b"")),
        (Dir::Bi, head(&post("/")), any_frame(0x21, b"")),
        (Dir::Uni, settings.to_vec(), any_frame(13, b"\x07")),
    ];
    for (n, (dir, before, each)) in floods.into_iter().enumerate() {
        let had = house.limit("h3_idle_frames");
        let mut client = Client::begin(house.port, "a.test", config(&certificate.der, b"h3"));
        assert!(client.drive(|client| client.connected));
        let id = client.open(dir);
        client.send(id, &[before, each.repeat(5_000)].concat(), false);
        assert_eq!(client.closed(), Some(EXCESSIVE_LOAD), "{n}: {:?}", client.lost);
        eventually("counted", || house.limit("h3_idle_frames") == had + 1);
    }
    // Among data they are what they are: a few frames.
    let mut client = Client::connect(house.port, &certificate);
    let id = client.open(Dir::Bi);
    let piece = [data(&[7; 600]), any_frame(0x21, b"grease")].concat();
    client.send(id, &[head(&post("/")), piece.repeat(3_000)].concat(), true);
    assert_eq!(client.answer(id).status(), 200, "{:?}", client.lost);
    neighbour_is_served(&house, &certificate);
}

fn floods_of_streams_nobody_knows(io: IoMode) {
    let _beside = beside();
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend, Timeouts::default());
    let mut client = Client::connect(house.port, &certificate);
    let mut sent = 0;
    while sent < 10_000 && client.lost.is_none() {
        let Some(id) = client.connection.streams().open(Dir::Uni) else {
            client.drive_for(Duration::from_millis(5), |client| client.lost.is_some());
            continue;
        };
        client.send(id, &[0x21, 1, 2, 3], true);
        sent += 1;
    }
    assert_eq!(client.closed(), Some(EXCESSIVE_LOAD), "{:?} after {sent}", client.lost);
    neighbour_is_served(&house, &certificate);
}

/// A few bytes that stand for many: numbers of the table, over and over.
fn heads_that_unfold(io: IoMode) {
    let _alone = alone();
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend, Timeouts::default());
    let mut client = Client::connect(house.port, &certificate);
    let before = base_runtime::memory::booked();
    for _ in 0..50 {
        let id = client.open(Dir::Bi);
        // Number 85 is the longest field there is.
        client.send(id, &any_frame(1, &[&[0, 0][..], &[0xff, 22].repeat(30_000)].concat()), true);
        assert_eq!(client.answer(id).status(), 431, "{:?}", client.lost);
    }
    assert_eq!(house.limit("too_many_fields"), 50);
    assert!(base_runtime::memory::booked() < before + (8 << 20));
    neighbour_is_served(&house, &certificate);
}

fn heads_that_are_announced_too_large(io: IoMode) {
    let _alone = alone();
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend, Timeouts::default());
    let mut client = Client::connect(house.port, &certificate);
    for length in [100_000u64, 1 << 30, (1 << 62) - 1] {
        let id = client.open(Dir::Bi);
        let mut announced = Vec::new();
        proto_h3::frame::begin(1, length, &mut announced);
        client.send(id, &[announced, vec![0; 5_000]].concat(), false);
        // Answered before it has come, and the rest is not wanted.
        assert_eq!(client.answer(id).status(), 431, "{length} {:?}", client.lost);
        assert!(client.drive(|client| client.stopped.contains_key(&id)));
    }
    assert_eq!(house.limit("head_too_large"), 3);
    // One that is announced and does not come holds nothing of its length.
    let before = base_runtime::memory::booked();
    for _ in 0..100 {
        let id = client.open(Dir::Bi);
        let mut announced = Vec::new();
        proto_h3::frame::begin(1, 60_000, &mut announced);
        client.send(id, &[announced, vec![0; 1]].concat(), false);
    }
    client.drive_for(Duration::from_millis(200), |_| false);
    assert!(base_runtime::memory::booked() < before + (1 << 20), "{}", base_runtime::memory::booked() - before);
    neighbour_is_served(&house, &certificate);
}

/// Each head is within its bound, all together are not.
fn heads_that_weigh_together(io: IoMode) {
    let _beside = beside();
    let backend = Backend::new(|mut wire, _| while wire.more() {});
    let (house, certificate) = house(io, &backend, Timeouts::default());
    let mut client = Client::connect(house.port, &certificate);
    let value = "v".repeat(30_000);
    let fields = [&get("/")[..], &[("x-one", &value), ("x-two", &value)]].concat();
    let requests: Vec<_> = (0..60).map(|_| client.request(&fields, b"")).collect();
    let refused =
        |client: &Client| requests.iter().filter(|id| client.ended.get(id).copied().flatten() == Some(0x10b)).count();
    assert!(client.drive(|client| refused(client) >= 20), "{} {:?}", refused(&client), client.lost);
    assert!(house.limit("h3_heads") >= 20);
    let other = Backend::answering(OK);
    house.pipeline("app", &proxy_to(other.port));
    neighbour_is_served(&house, &certificate);
}

fn a_client_that_reads_nothing(io: IoMode) {
    let _alone = alone();
    let backend = Backend::new(|mut wire, _| {
        while wire.message().is_some() {
            wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n");
            while wire.send(&[0; 10_000]) {}
        }
    });
    let (house, certificate) = house(io, &backend, short_timeouts());
    let mut client = Client::connect(house.port, &certificate);
    let before = base_runtime::memory::booked();
    for _ in 0..40 {
        let id = client.request(&get("/"), b"");
        client.unread.insert(id);
    }
    let mut most = 0;
    let end = Instant::now() + Duration::from_millis(400);
    while Instant::now() < end {
        client.drive_for(Duration::from_millis(20), |_| false);
        most = most.max(base_runtime::memory::booked().saturating_sub(before));
    }
    // Two gigabytes are asked for. What is held is a window for all of them, and for each what its backend's connection queues.
    assert!(most < 64 << 20, "{most} bytes for answers that nobody reads");
    // Each is found out.
    eventually("they are given up", || {
        client.drive_for(Duration::from_millis(20), |_| false);
        house.limit("response_stalled") + house.limit("response_rate") >= 40
    });
    let other = Backend::answering(OK);
    house.pipeline("app", &proxy_to(other.port));
    neighbour_is_served(&house, &certificate);
}

fn bodies_that_nobody_reads(io: IoMode) {
    let _alone = alone();
    let backend = Backend::new(|mut wire, _| {
        wire.head();
        std::thread::sleep(Duration::from_secs(3));
    });
    let (house, certificate) = house(io, &backend, Timeouts::default());
    let mut client = Client::connect(house.port, &certificate);
    let before = base_runtime::memory::booked();
    let ids: Vec<_> = (0..100).map(|_| client.open(Dir::Bi)).collect();
    for id in &ids {
        client.send(*id, &[head(&post("/")), data(&vec![7; 3_000_000])].concat(), false);
    }
    let mut most = 0;
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        client.drive_for(Duration::from_millis(20), |_| false);
        most = most.max(base_runtime::memory::booked().saturating_sub(before));
    }
    // What windows let in, and what is on its way to backends: not 300 MB.
    assert!(most < 48 << 20, "{most} bytes of bodies that nobody reads");
    let other = Backend::answering(OK);
    house.pipeline("app", &proxy_to(other.port));
    neighbour_is_served(&house, &certificate);
}

/// First packets from many addresses that nobody follows up, as somebody sends who writes others' addresses on them.
fn handshakes_that_are_not_finished(io: IoMode) {
    let _alone = alone();
    let backend = Backend::answering(OK);
    let timeouts = Timeouts { handshake: Duration::from_secs(5), ..Timeouts::default() };
    let (house, certificate) = house(io, &backend, timeouts);
    let (retries, before) = (total(Count::Retries), base_runtime::memory::booked());
    let socket = bound_socket();
    for n in 0..600 {
        let mut client = Client::begin(house.port, "a.test", config(&certificate.der, b"h3"));
        client.socket = socket.try_clone().unwrap();
        client.silent = true;
        client.transmit();
        if n % 50 == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    eventually("clients have to show their address", || total(Count::Retries) > retries + 100);
    assert!(base_runtime::memory::booked() < before + (64 << 20));
    // An honest one does, and is served.
    neighbour_is_served(&house, &certificate);
    eventually("they are over in time", || house.limit("handshake_timeout") >= 60);
    eventually("none is left", || house.traffic.connections() == 0);
}

/// They show their address, all the same one, and leave it at that: other addresses find room.
fn handshakes_of_one_address_that_are_not_finished(io: IoMode) {
    let _beside = beside();
    let backend = Backend::answering(OK);
    let timeouts = Timeouts { handshake: Duration::from_secs(600), ..Timeouts::default() };
    let (house, certificate) = house(io, &backend, timeouts);
    for _ in 0..4_000 {
        Client::begin_and_leave(house.port, &certificate);
        if house.limit("quic_handshakes") >= 50 {
            break;
        }
    }
    assert!(house.limit("quic_handshakes") >= 50);
    // Of several, one comes to each worker.
    for _ in 0..6 {
        let mut client = Client::begin(house.port, "a.test", config(&certificate.der, b"h3"));
        client.socket = std::net::UdpSocket::bind("127.0.0.2:0").unwrap();
        client.socket.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
        assert!(client.drive(|client| client.connected), "{:?}", client.lost);
        client.settle_in();
        assert_eq!(client.get("/").text(), "ok", "{:?}", client.lost);
    }
}

fn datagrams_that_are_no_quic(io: IoMode) {
    let _beside = beside();
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend, Timeouts::default());
    let mut client = Client::connect(house.port, &certificate);
    let socket = bound_socket();
    let peer = ("127.0.0.1", house.port);
    let mut random = 12345u64;
    for n in 0..3_000usize {
        let bytes: Vec<u8> = (0..n % 1400)
            .map(|_| {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (random >> 33) as u8
            })
            .collect();
        let _ = socket.send_to(&bytes, peer);
    }
    // Once it is served, so is all that came before.
    assert_eq!(client.get("/").text(), "ok", "{:?}", client.lost);
    // A version nobody speaks: told which are spoken, but only whom it costs as much as us. An answer begins with the sender's id, so that
    // the first one of the two says to which it is; those to the noise before may still come.
    let version = |id: u8, length: usize| {
        [&[0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8][..], &[1; 8], &[8], &[id; 8], &vec![0; length]].concat()
    };
    let (short, long) = (2, 3);
    for datagram in [version(short, 100), version(long, 1300)] {
        socket.send_to(&datagram, peer).unwrap();
    }
    socket.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let mut answer = [0; 1500];
    let n = loop {
        let (n, _) = socket.recv_from(&mut answer).expect("an answer");
        assert!(answer[5..14] != [[8].as_slice(), &[short; 8]].concat(), "a short one was answered");
        if answer[5..14] == [[8].as_slice(), &[long; 8]].concat() {
            break n;
        }
    };
    assert!(n < 100 && answer[1..5] == [0; 4] && answer[..n].ends_with(&[0, 0, 0, 1]), "{:?}", &answer[..n]);
    assert_eq!(client.get("/").text(), "ok", "{:?}", client.lost);
    neighbour_is_served(&house, &certificate);
}
