//! Datagrams of HTTP beside the streams of HTTP/3 and on those of every version (RFC 9297), on both drivers: tunnels for UDP (RFC 9298)
//! through a Proxy, whatever its backend speaks, and what breaks the rules.

#[macro_use]
mod support;
#[path = "support/h3.rs"]
mod h3_client;

use base_quic::proto::congestion::CubicConfig;
use base_quic::proto::{Dir, EndpointConfig, StreamId, TransportConfig};
use base_runtime::IoMode;
use base_runtime::net::udp::{Transmit, UdpSocket};
use h3_client::{Certificate, Client, certificate, config, data, get, head};
use proto_h3::capsule;
use std::net::SocketAddr;
use std::sync::Arc;
use support::{Backend, House, eventually, proxy_to};

on_both_drivers![
    datagrams_become_capsules_and_capsules_datagrams,
    who_takes_none_beside_the_stream_gets_them_on_it,
    datagrams_go_on_beside_streams_to_a_backend,
    tunnels_of_http1_go_on_as_datagrams,
    datagrams_that_overtake_their_request_are_kept_for_it,
    as_many_wait_as_may,
    what_is_too_long_for_a_packet_is_dropped,
    what_the_way_has_become_too_narrow_for_is_counted,
    a_flood_of_datagrams_leaves_others_their_turns,
    streams_go_on_where_little_passes_beside_a_flood,
    what_is_said_long_after_a_flood_comes_at_once,
    a_datagram_of_no_request_is_dropped_and_nothing_else,
    what_comes_while_nobody_looks_is_lost_and_counted,
    what_waits_does_not_follow_the_end_of_its_stream,
    what_a_datagram_may_not_be_for,
    streams_that_end_within_a_capsule_are_reset,
    who_says_so_has_a_transport_for_them,
    other_protocols_are_not_relayed,
];

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: connect-udp\r\nCapsule-Protocol: ?1\r\n\r\n";
/// A capsule that nobody knows.
const UNKNOWN: u64 = 0x1f_0000;

fn capsule_of(kind: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    capsule::begin(kind, content.len() as u64, &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

fn datagram(content: &[u8]) -> Vec<u8> {
    capsule_of(capsule::DATAGRAM, content)
}

/// A backend of HTTP/1.1 that opens every tunnel for UDP and says everything back, capsules as they came.
fn echo() -> Backend {
    Backend::new(|mut wire, _| {
        let head = wire.head().unwrap_or_default().to_lowercase();
        if !head.contains("upgrade: connect-udp") {
            wire.send(OK.as_bytes());
            return;
        }
        assert!(head.starts_with("get /udp http/1.1") && head.contains("capsule-protocol: ?1"), "{head}");
        wire.send(SWITCHED);
        loop {
            let echo = std::mem::take(&mut wire.read);
            wire.send(&echo);
            if !wire.more() {
                break;
            }
        }
    })
}

fn house(io: IoMode, backend: &Backend) -> (House, Certificate) {
    let certificate = certificate(&["a.test", "127.0.0.1"]);
    (House::new(io, &format!("http3: true\n{}", certificate.lines), &proxy_to(backend.port)), certificate)
}

/// A pipeline that speaks HTTP/3 to another house.
fn over_http3(port: u16, certificate: &Certificate) -> String {
    let root = serde_json::Value::from(certificate.pem.clone());
    format!(
        "filters: [{{name: p, kind: Proxy, mtls: {{rootCertBase64: {root}}}, pools: [{{http3: true, servers: [{{url: \
         'https://127.0.0.1:{port}'}}]}}]}}]"
    )
}

/// The head of an extended CONNECT for UDP.
fn opening() -> Vec<u8> {
    let path = get("/udp");
    head(&[&[(":method", "CONNECT"), (":protocol", "connect-udp")], &path[1..], &[("capsule-protocol", "?1")]].concat())
}

/// A tunnel that was opened.
fn open(client: &mut Client) -> StreamId {
    let id = client.open(Dir::Bi);
    client.send(id, &opening(), false);
    assert!(client.drive(|client| client.so_far(id).status() != 0), "{:?} {:?}", client.so_far(id), client.lost);
    let answer = client.so_far(id);
    assert_eq!((answer.status(), answer.field("capsule-protocol")), (200, Some("?1")));
    assert_eq!((answer.field("upgrade"), answer.field("connection")), (None, None));
    id
}

/// Sends it until it comes back, as a datagram: each may be lost.
fn comes_back(client: &mut Client, id: StreamId, content: &[u8]) {
    for _ in 0..20 {
        client.send_datagram(id.index(), content);
        let back = |client: &mut Client| client.datagrams_of(id).iter().any(|came| came == content);
        if client.drive_for(std::time::Duration::from_secs(2), back) {
            return;
        }
    }
    panic!("{content:?} does not come back: {:?} {:?}", client.lost, client.so_far(id));
}

fn datagrams_become_capsules_and_capsules_datagrams(io: IoMode) {
    let backend = echo();
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect_for_datagrams(house.port, &certificate);
    assert!(client.drive(|client| client.control().len() > 3));
    let settings = proto_h3::settings::decode(&client.control()[3..]).unwrap();
    assert!(settings.connect_protocol && settings.datagrams, "{settings:?}");
    let id = open(&mut client);
    for content in [&b"\0hello"[..], b"", &[7; 1100]] {
        comes_back(&mut client, id, content);
    }
    // What is said on the stream is for the backend to read, and comes back the other way; what nobody knows stays on it.
    let unknown = capsule_of(UNKNOWN, &[3; 5000]);
    client.send(id, &data(&[datagram(b"\0on the stream"), unknown.clone(), datagram(b"\0more")].concat()), false);
    assert!(client.drive(|client| client.so_far(id).body == unknown), "{:?}", client.so_far(id).body.len());
    assert!(client.drive(|client| {
        let came = client.datagrams_of(id);
        [&b"\0on the stream"[..], b"\0more"].iter().all(|content| came.iter().any(|came| came == content))
    }));
    // Another tunnel has its own.
    let other = open(&mut client);
    comes_back(&mut client, other, b"\0other");
    assert!(!client.datagrams_of(id).iter().any(|came| came == b"\0other"));
    client.send(id, b"", true);
    let answer = client.answer(id);
    assert!(answer.reset.is_none() && answer.body == unknown);
    comes_back(&mut client, other, b"\0still there");
    assert_eq!((house.limit("h3_datagrams"), house.limit("h3_message")), (0, 0));
    // Of one that has ended nothing is wanted.
    client.send_datagram(id.index(), b"\0late");
    comes_back(&mut client, other, b"\0and still");
    use base_quic::stats::{Count, total};
    assert!(total(Count::DatagramsIn) >= 8 && total(Count::DatagramsOut) >= 8);
}

fn who_takes_none_beside_the_stream_gets_them_on_it(io: IoMode) {
    let backend = echo();
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect(house.port, &certificate);
    let id = open(&mut client);
    let said = [datagram(b"\0one"), capsule_of(UNKNOWN, b"x"), datagram(b"\0two")].concat();
    // In pieces that end anywhere.
    said.chunks(3).for_each(|piece| client.send(id, &data(piece), false));
    assert!(client.drive(|client| client.so_far(id).body == said), "{:?}", client.so_far(id));
    assert!(client.datagrams.is_empty());
}

/// As datagrams, too, where the backend takes them.
fn datagrams_go_on_beside_streams_to_a_backend(io: IoMode) {
    let backend = echo();
    let (back, certificate) = house(io, &backend);
    let front = House::new(io, &format!("http3: true\n{}", certificate.lines), &over_http3(back.port, &certificate));
    let mut client = Client::connect_for_datagrams(front.port, &certificate);
    let id = open(&mut client);
    comes_back(&mut client, id, b"\0hello");
    comes_back(&mut client, id, &[5; 900]);
    // A stream would have carried what fits into no packet.
    let unknown = capsule_of(UNKNOWN, &[1; 100]);
    client.send(id, &data(&[datagram(&[6; 3000]), unknown.clone()].concat()), false);
    assert!(client.drive(|client| client.so_far(id).body == unknown), "{:?}", client.so_far(id));
    client.send(id, b"", true);
    assert!(client.answer(id).reset.is_none());
    // A request of the same connection behind has none.
    assert_eq!(client.get("/").status(), 200);
    assert_eq!((front.limit("upstream_h3_faults"), front.limit("upstream_h3_datagrams")), (0, 1));
}

/// A client of HTTP/1.1 has capsules, and its backend datagrams.
fn tunnels_of_http1_go_on_as_datagrams(io: IoMode) {
    let backend = echo();
    let (back, certificate) = house(io, &backend);
    let front = House::new(io, "", &over_http3(back.port, &certificate));
    let mut client = front.connect();
    client.send(
        b"GET /udp HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: connect-udp\r\nCapsule-Protocol: ?1\r\n\r\n",
    );
    let head = client.head().unwrap_or_default();
    assert!(head.starts_with("HTTP/1.1 101") && head.to_lowercase().contains("upgrade: connect-udp"), "{head}");
    // Each may be lost, and so is said more than once.
    let said = datagram(b"\0over HTTP/1.1");
    client.send(&datagram(&[6; 3000]));
    assert!((0..5).all(|_| client.send(&said)));
    assert_eq!(client.exactly(said.len()), Some(said));
    assert_eq!(front.limit("upstream_h3_datagrams"), 1, "a stream would have carried what fits into no packet");
}

fn datagrams_that_overtake_their_request_are_kept_for_it(io: IoMode) {
    let backend = echo();
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect_for_datagrams(house.port, &certificate);
    assert!(client.drive(|client| !client.control().is_empty()));
    let id = client.open(Dir::Bi);
    // More than are kept: the first ones make room.
    (0..20u8).for_each(|n| client.send_datagram(id.index(), &[n]));
    client.send(id, &opening(), false);
    let last = |client: &mut Client| client.datagrams_of(id).iter().any(|came| came == &[19]);
    assert!(client.drive(last), "{:?}", client.datagrams);
    assert_eq!(client.datagrams_of(id), (4..20u8).map(|n| vec![n]).collect::<Vec<_>>());
    eventually("those that made room are counted", || house.limit("h3_datagrams") == 4);
}

/// A backend that takes nothing stops nobody else, and what waits for it has a bound.
fn as_many_wait_as_may(io: IoMode) {
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let told = std::sync::Mutex::new(told);
    let backend = Backend::new(move |mut wire, _| {
        if wire.head().is_some_and(|head| head.contains("/udp")) {
            // The tunnel is opened when enough has come.
            let _ = told.lock().unwrap().recv();
            wire.send(SWITCHED);
            while wire.more() {
                let echo = std::mem::take(&mut wire.read);
                wire.send(&echo);
            }
        } else {
            wire.send(OK.as_bytes());
        }
    });
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect_for_datagrams(house.port, &certificate);
    let id = client.open(Dir::Bi);
    client.send(id, &opening(), false);
    eventually("it has come", || backend.connections() == 1);
    // Three times what may wait for one stream.
    for n in 0..200u8 {
        client.send_datagram(id.index(), &[&[n][..], &[0; 999]].concat());
        client.drive_for(std::time::Duration::from_millis(2), |_| false);
    }
    assert_eq!(client.get("/").status(), 200);
    eventually("the rest is dropped", || house.limit("h3_datagrams") > 100);
    let dropped = house.limit("h3_datagrams");
    tell.send(()).unwrap();
    comes_back(&mut client, id, b"\0room again");
    let came = client.datagrams_of(id).len();
    // As many as may wait for a stream, and the one behind them.
    assert!((10..70).contains(&came), "{came} came, {dropped} were dropped");
}

fn what_is_too_long_for_a_packet_is_dropped(io: IoMode) {
    let backend = echo();
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect_for_datagrams(house.port, &certificate);
    let id = open(&mut client);
    let said = [datagram(&[1; 3000]), datagram(&[2; 70_000]), datagram(b"\0short")].concat();
    client.send(id, &data(&said), false);
    assert!(client.drive(|client| client.datagrams_of(id).iter().any(|came| came == b"\0short")), "{:?}", client.lost);
    assert_eq!(client.so_far(id).body, b"", "none of them is left on the stream");
    eventually("both are counted", || house.limit("h3_datagrams") == 2);
}

/// Packets as long as they were no longer arrive; what waits for one of them is lost once that is known.
fn what_the_way_has_become_too_narrow_for_is_counted(io: IoMode) {
    // Losses that QUIC believes to be by chance, and datagrams that come at last.
    const CHANCE: usize = 3;
    const FLOOD: usize = 40;
    let (tell, told) = std::sync::mpsc::channel::<usize>();
    let told = std::sync::Mutex::new(told);
    let small = capsule_of(UNKNOWN, b"arrives");
    let beside = small.clone();
    let backend = Backend::new(move |mut wire, _| {
        if !wire.head().is_some_and(|head| head.starts_with("GET /udp")) {
            wire.send(OK.as_bytes());
            return;
        }
        wire.send(SWITCHED);
        for datagrams in told.lock().unwrap().iter() {
            wire.send(&[datagram(&[7; 1300]).repeat(datagrams), beside.clone()].concat());
        }
    });
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect_for_datagrams(house.port, &certificate);
    let id = open(&mut client);
    assert!(client.drive(|client| client.heard.contains(&1452)), "QUIC finds out how long packets may be");
    // It has heard that as well.
    assert_eq!(client.get("/wait").status(), 200);
    (client.longest, client.heard) = (1250, Vec::new());
    for n in 1..=CHANCE {
        tell.send(1).unwrap();
        assert!(client.drive(|client| client.so_far(id).body == small.repeat(n)), "{n}: {:?}", client.lost);
    }
    tell.send(FLOOD).unwrap();
    let lost = |client: &Client| client.heard.iter().filter(|length| **length > client.longest).count();
    let all = |client: &mut Client| lost(client) + house.limit("h3_datagrams") as usize == CHANCE + FLOOD;
    assert!(client.drive(all), "{} are lost, {} are counted", lost(&client), house.limit("h3_datagrams"));
    assert!(client.datagrams_of(id).is_empty() && house.limit("h3_datagrams") > 0);
}

/// QUIC sends datagrams before anything of a stream; other requests of a connection that many clients share are served all the same, and
/// so are other tunnels.
fn a_flood_of_datagrams_leaves_others_their_turns(io: IoMode) {
    let backend = echo();
    let (back, certificate) = house(io, &backend);
    let plain = House::new(io, "", &over_http3(back.port, &certificate));
    let mut flooding = plain.connect();
    flooding.send(
        b"GET /udp HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: connect-udp\r\nCapsule-Protocol: ?1\r\n\r\n",
    );
    assert!(flooding.head().unwrap_or_default().starts_with("HTTP/1.1 101"));
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let over = is_over.clone();
    let mut stream = flooding.stream.try_clone().unwrap();
    let many = datagram(&[9; 1100]).repeat(50);
    let flood = std::thread::spawn(move || {
        while !over.load(std::sync::atomic::Ordering::Relaxed) && std::io::Write::write_all(&mut stream, &many).is_ok()
        {
        }
    });
    eventually("there are too many", || plain.limit("upstream_h3_datagrams") > 100);
    for _ in 0..5 {
        assert_eq!(plain.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").status(), 200);
    }
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    let _ = flooding.stream.shutdown(std::net::Shutdown::Both);
    flood.join().unwrap();
}

/// As long as a datagram may be that leaves no room for anything of a stream in a packet of 1,200 bytes.
const FILLS: usize = 1150;

/// A backend that says datagrams without end over the tunnel it opens, and sends everybody else more than a few packets carry.
fn flooding() -> Backend {
    Backend::new(|mut wire, _| {
        if !wire.head().is_some_and(|head| head.starts_with("GET /udp")) {
            let body = "b".repeat(150_000);
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 150000\r\n\r\n{body}").as_bytes());
            return;
        }
        wire.send(SWITCHED);
        let many = datagram(&[9; FILLS]).repeat(20);
        while wire.send(&many) {}
    })
}

/// A client to which packets are 1,200 bytes long.
fn narrow(house: &House, certificate: &Certificate) -> Client {
    let (peer, mut narrow) = (SocketAddr::from(([127, 0, 0, 1], house.port)), EndpointConfig::default());
    narrow.max_udp_payload_size(1200).unwrap();
    let config = config(&certificate.der, b"h3");
    Client::begin_as(h3_client::bound_socket(), peer, "a.test", config, narrow).settled_in_for_datagrams()
}

/// Whoever loses much lets two packets pass at a time: less than the datagrams that QUIC gets in one turn.
fn streams_go_on_where_little_passes_beside_a_flood(io: IoMode) {
    let backend = flooding();
    let (house, certificate) = house(io, &backend);
    let mut client = narrow(&house, &certificate);
    let id = open(&mut client);
    client.loses = 4;
    assert!(client.drive(|client| client.datagrams.len() > 100), "{:?}", client.lost);
    let before = client.datagrams.len();
    let answer = client.get("/");
    assert_eq!((answer.status(), answer.body.len()), (200, 150_000), "{:?}", client.lost);
    // An answer of 125 packets at the least.
    let came = client.datagrams.len();
    assert!(came - before < 3 * 125, "{} datagrams passed meanwhile", came - before);
    assert!(client.drive(|client| client.datagrams.len() > came), "nor do they keep those from their turn");
    assert!(house.limit("h3_datagrams") > 0);
    client.reset(id, 0x100);
}

/// By whoever speaks first: its client, which says nothing meanwhile, owes no acknowledgement that would let it go.
fn what_is_said_long_after_a_flood_comes_at_once(io: IoMode) {
    let (tell, told) = std::sync::mpsc::channel::<u8>();
    let told = std::sync::Mutex::new(told);
    let backend = Backend::new(move |mut wire, _| {
        let _ = wire.head();
        wire.send(SWITCHED);
        for round in told.lock().unwrap().iter() {
            let flood = if round % 2 == 0 { datagram(&[0; FILLS]).repeat(40) } else { datagram(&[round; 10]) };
            wire.send(&flood);
        }
    });
    let (house, certificate) = house(io, &backend);
    let mut client = narrow(&house, &certificate);
    let id = open(&mut client);
    let mut at_once = 0;
    client.loses = 4;
    for round in (1..10u8).step_by(2) {
        tell.send(round - 1).unwrap();
        let mut came = usize::MAX;
        while std::mem::replace(&mut came, client.datagrams.len()) != client.datagrams.len() || came == 0 {
            client.drive_for(std::time::Duration::from_millis(200), |_| false);
        }
        // This one is not lost.
        client.loses = 0;
        tell.send(round).unwrap();
        let (said, before) = (vec![round; 10], client.sent.len());
        assert!(client.drive(|client| client.datagrams_of(id).contains(&said)), "{round}: {:?}", client.lost);
        at_once += u32::from(client.sent.len() == before);
        client.loses = 4;
    }
    drop(tell);
    assert!(at_once > 2, "{at_once} of 5 came before the client had said anything");
}

/// Of a backend, whose connection carries requests of others: RFC 9297 section 2.1.
fn a_datagram_of_no_request_is_dropped_and_nothing_else(io: IoMode) {
    let certificate = certificate(&["127.0.0.1"]);
    let socket = h3_client::bound_socket();
    let port = socket.local_addr().unwrap().port();
    let front = House::new(io, "", &over_http3(port, &certificate));
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let backend = std::thread::spawn(move || {
        let mut backend = Client::accept(socket, &certificate).settled_in_for_datagrams();
        for number in 0..3 {
            let id = StreamId::new(base_quic::proto::Side::Client, Dir::Bi, number);
            assert!(backend.drive(|backend| backend.ended.contains_key(&id)), "{number}: {:?}", backend.lost);
            backend.send_datagram(200 + number, b"\0whose?");
            backend.send(id, &[head(&[(":status", "200")]), data(b"ok")].concat(), true);
        }
        backend.drive(|_| told.try_recv().is_ok());
    });
    for _ in 0..3 {
        assert_eq!(front.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").status(), 200);
    }
    eventually("they are counted", || front.limit("upstream_h3_datagrams") == 3);
    assert_eq!(front.limit("upstream_h3_faults"), 0);
    tell.send(()).unwrap();
    backend.join().unwrap();
}

/// QUIC has room for so many, and drops the oldest of more.
fn what_comes_while_nobody_looks_is_lost_and_counted(io: IoMode) {
    const ALL: u64 = 100;
    let backend = echo();
    let (house, certificate) = house(io, &backend);
    // All of them may go out before anything is acknowledged.
    let (mut config, mut way) = (config(&certificate.der, b"h3"), CubicConfig::default());
    let mut transport = TransportConfig::default();
    transport.congestion_controller_factory(Arc::new(way.initial_window(1 << 20).clone()));
    config.transport_config(Arc::new(transport));
    let mut client = Client::begin_for_datagrams(house.port, config);
    let tunnels = [open(&mut client), open(&mut client)];
    for n in 0..ALL / 2 {
        for id in tunnels {
            let datagram = proto_h3::datagram::encode(id.index(), &[&[n as u8][..], &[0; 1099]].concat());
            client.connection.datagrams().send(datagram.into(), true).unwrap();
        }
    }
    let (mut packets, mut buffer) = (Vec::<Vec<u8>>::new(), Vec::new());
    let end = std::time::Instant::now() + support::PATIENCE;
    while client.connection.stats().frame_tx.datagram < ALL && std::time::Instant::now() < end {
        // As far as the pacer lets them go, which is few at a time where a busy machine made the way look long.
        if client.connection.poll_transmit(std::time::Instant::now(), 1, &mut buffer).is_some() {
            packets.push(std::mem::take(&mut buffer));
        }
    }
    // Many packets at once, as clients send them whose kernel splits them.
    let alike = packets.chunk_by(|one, next| one.len() == next.len()).flat_map(|alike| alike.chunks(40));
    let bursts: Vec<_> = alike.map(|alike| (alike.concat(), (alike.len() > 1).then_some(alike[0].len()))).collect();
    let (socket, peer) = (client.socket.try_clone().unwrap(), client.peer);
    let elsewhere = House::new(io, "", &proxy_to(backend.port));
    let (sent, all_sent) = std::sync::mpsc::channel();
    // Whoever would take them does nothing until all are there.
    let (waits, is_waiting) = std::sync::mpsc::channel();
    let (begun, begins) = std::sync::mpsc::channel();
    house.runtime.workers()[0].spawn(move || async move {
        waits.send(()).unwrap();
        begun.send(all_sent.recv()).unwrap();
    });
    is_waiting.recv().unwrap();
    elsewhere.runtime.workers()[0].spawn(move || async move {
        let socket = UdpSocket::from_std(socket).unwrap();
        for (contents, segment_size) in &bursts {
            socket.try_send(&Transmit { segment_size: *segment_size, ..Transmit::new(peer, contents) }).unwrap();
        }
        sent.send(bursts.len()).unwrap();
    });
    assert!(begins.recv().unwrap().unwrap() < 20, "they came one by one");
    let all = |client: &mut Client| client.datagrams.len() as u64 + house.limit("h3_datagrams") == ALL;
    assert!(client.drive(all), "{} came back, {} are counted", client.datagrams.len(), house.limit("h3_datagrams"));
    assert!(house.limit("h3_datagrams") > 0, "more came at once than there is room for");
}

/// RFC 9297 section 2.1.
fn what_waits_does_not_follow_the_end_of_its_stream(io: IoMode) {
    let backend = Backend::new(|mut wire, _| {
        let _ = wire.head();
        wire.send(&[SWITCHED, &datagram(&[5; 1000]).repeat(50)].concat());
    });
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect_for_datagrams(house.port, &certificate);
    client.at_a_time = 1;
    let id = open(&mut client);
    assert!(client.drive(|client| client.ended.contains_key(&id)), "{:?}", client.lost);
    let came = client.datagrams_of(id).len();
    let all = |client: &mut Client| client.datagrams_of(id).len() as u64 + house.limit("h3_datagrams") == 50;
    assert!(client.drive(all), "the others are counted");
    // What QUIC had got by then goes in the packet of the end and in those right behind it.
    let followed = client.datagrams_of(id).len() - came;
    assert!(followed <= 8, "{followed} follow");
}

/// RFC 9297 section 2.1.
fn what_a_datagram_may_not_be_for(io: IoMode) {
    let backend = Backend::recording(|_| OK.into());
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect_for_datagrams(house.port, &certificate);
    // A request that has none is ended, and no other.
    let id = client.open(Dir::Bi);
    client.send(id, &head(&h3_client::post("/")), false);
    client.send_datagram(id.index(), b"x");
    assert!(client.drive(|client| client.ended.contains_key(&id)), "{:?}", client.lost);
    assert_eq!(client.so_far(id).reset, Some(0x33));
    assert_eq!(house.limit("h3_datagram"), 1);
    assert_eq!(client.get("/").status(), 200);
    // Without the number of a request there is, or could be, it ends the connection.
    for (datagram, code, limit) in [
        (vec![0x40], 0x33, "h3_datagram"),
        (vec![0xff; 8], 0x33, "h3_datagram"),
        (proto_h3::datagram::encode(200, b"x"), 0x108, "h3_id"),
    ] {
        let counted = house.limit(limit);
        let mut client = Client::connect_for_datagrams(house.port, &certificate);
        assert!(client.drive(|client| !client.control().is_empty()));
        client.connection.datagrams().send(datagram.clone().into(), true).unwrap();
        assert_eq!(client.closed(), Some(code), "{datagram:?}");
        assert_eq!(house.limit(limit), counted + 1);
    }
}

/// RFC 9297 section 3.3.
fn streams_that_end_within_a_capsule_are_reset(io: IoMode) {
    let breaking = Backend::new(|mut wire, _| {
        let _ = wire.head();
        wire.send(SWITCHED);
        wire.send(&[0, 5, 1]);
    });
    let (house, certificate) = house(io, &breaking);
    let mut client = Client::connect_for_datagrams(house.port, &certificate);
    let id = client.open(Dir::Bi);
    client.send(id, &opening(), false);
    let answer = client.answer(id);
    assert_eq!(answer.reset, Some(0x10e), "{answer:?} {:?}", client.lost);
    eventually("it is counted", || house.limit("h3_message") == 1);
    let backend = echo();
    house.pipeline("app", &proxy_to(backend.port));
    let id = open(&mut client);
    client.send(id, &data(&datagram(b"\0whole")[..4]), true);
    let answer = client.answer(id);
    assert_eq!(answer.reset, Some(0x10e), "{answer:?} {:?}", client.lost);
    eventually("it is counted", || house.limit("h3_message") == 2);
}

/// RFC 9297 section 2.1.1.
fn who_says_so_has_a_transport_for_them(io: IoMode) {
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend);
    let mut without = config(&certificate.der, b"h3");
    let mut transport = TransportConfig::default();
    transport.datagram_receive_buffer_size(None);
    without.transport_config(Arc::new(transport));
    let mut client = Client::begin(house.port, "a.test", without);
    assert!(client.drive(|client| client.connected), "{:?}", client.lost);
    let control = client.open(Dir::Uni);
    client.send(control, &[0, 4, 2, 0x33, 1], false);
    assert_eq!(client.closed(), Some(0x109), "{:?}", client.lost);
    assert_eq!(house.limit("h3_settings"), 1);
}

/// Whose streams or datagrams could not be relayed, or that nobody knows.
fn other_protocols_are_not_relayed(io: IoMode) {
    let backend = Backend::answering(OK);
    let (house, certificate) = house(io, &backend);
    let mut client = Client::connect_for_datagrams(house.port, &certificate);
    for protocol in ["webtransport", "h2c", "connect-tcp"] {
        let fields = [&[(":method", "CONNECT"), (":protocol", protocol)], &get("/")[1..]].concat();
        let id = client.request(&fields, b"");
        // Sent in the hope that it would be let through: the answer says why it was not.
        client.send_datagram(id.index(), b"\0early");
        assert_eq!(client.answer(id).status(), 501, "{protocol}");
    }
    eventually("they are counted", || house.limit("protocol") == 3);
    // Who knows the protocol, and not what it is asked for, answers as HTTP does.
    let id = client.open(Dir::Bi);
    client.send(id, &opening(), false);
    let answer = client.answer(id);
    assert_eq!((answer.status(), answer.ended), (502, true), "{answer:?}");
}
