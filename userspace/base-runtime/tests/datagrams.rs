//! UDP sockets, on both drivers.

#[macro_use]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use base_runtime::net::udp::{Ecn, Received, SEGMENTS_MAX, Transmit};
use base_runtime::net::{UdpOptions, UdpSocket};
use base_runtime::time::{sleep, timeout};
use base_runtime::{Config, IoMode, Runtime, current_worker, spawn};
use support::*;

on_both_drivers!(
    an_echo_of_every_length,
    many_clients_on_one_socket_are_told_apart,
    what_is_sent_joined_arrives_in_its_parts,
    what_the_kernel_joins_comes_apart_at_its_boundaries,
    congestion_marks_go_both_ways,
    the_address_a_datagram_came_to_is_the_one_it_is_answered_from,
    ipv6_and_both_families_on_one_socket,
    a_refusal_is_told_once_and_the_socket_goes_on,
    a_refusal_seen_by_a_send_does_not_cost_the_datagram,
    longer_than_the_buffers_is_cut_and_counted,
    what_the_kernel_does_not_split_goes_in_pieces,
    a_flood_is_dropped_by_the_kernel_and_counted,
    what_waits_stays_in_order_while_receiving_is_paused,
    sends_beyond_the_bound_are_dropped_and_counted,
    what_cannot_be_sent_is_refused_in_words,
    sockets_of_one_address_share_its_flows,
    closing_in_the_middle_gives_everything_back,
);

fn any_port(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), 0)
}

fn bind(ip: &str) -> UdpSocket {
    UdpSocket::bind(any_port(ip), &UdpOptions::default()).expect("a port is free")
}

fn one_by_one() -> UdpOptions {
    UdpOptions { join: false, ..UdpOptions::default() }
}

async fn recv(socket: &UdpSocket) -> Received {
    timeout(Duration::from_secs(60), socket.recv()).await.expect("a datagram comes").expect("no error")
}

fn stats() -> base_runtime::WorkerStats {
    current_worker().expect("on a worker").stats()
}

fn an_echo_of_every_length(io: IoMode) {
    run(io, || async {
        let (server, client) = (bind("127.0.0.1"), bind("127.0.0.1"));
        let address = server.local_addr().expect("bound");
        for length in [0, 1, 7, 1200, 1472, 9000, 8192, 8193, 65_507] {
            let sent = pattern(length);
            client.send(&Transmit::new(address, &sent)).expect("room");
            let asked = recv(&server).await;
            assert_eq!((&asked[..], asked.meta().source), (&sent[..], client.local_addr().expect("bound")));
            assert!(!asked.meta().truncated);
            assert_eq!(asked.segments().collect::<Vec<_>>(), [&sent[..]], "one datagram is one segment");
            server.try_send(&Transmit::new(asked.meta().source, &asked)).expect("room");
            assert_eq!(recv(&client).await[..], sent[..]);
        }
        let stats = stats();
        assert_eq!((stats.datagrams_in, stats.datagrams_out, stats.datagrams_unsent), (18, 18, 0));
    });
}

fn many_clients_on_one_socket_are_told_apart(io: IoMode) {
    run(io, || async {
        let server = bind("127.0.0.1");
        let address = server.local_addr().expect("bound");
        let clients: Vec<UdpSocket> =
            (0..40).map(|_| UdpSocket::connect(address, &one_by_one()).expect("connects")).collect();
        for round in 0..5u8 {
            for (i, client) in clients.iter().enumerate() {
                client.send(&Transmit::connected(&[round, i as u8])).expect("room");
            }
            for _ in &clients {
                let asked = recv(&server).await;
                server.send(&Transmit::new(asked.meta().source, &asked)).expect("room");
            }
            for (i, client) in clients.iter().enumerate() {
                let answer = recv(client).await;
                assert_eq!((&answer[..], answer.meta().source), (&[round, i as u8][..], address));
            }
        }
    });
}

fn what_is_sent_joined_arrives_in_its_parts(io: IoMode) {
    run(io, || async {
        let server = UdpSocket::bind(any_port("127.0.0.1"), &one_by_one()).expect("a port is free");
        let client = bind("127.0.0.1");
        let address = server.local_addr().expect("bound");
        for (length, segment) in [
            (1200, 1200),
            (1201, 1200),
            (2399, 1200),
            (2400, 1200),
            (64 * 1000, 1000),
            (64, 1),
            (65_507, 1452),
            (5, 1200),
        ] {
            for queued in [false, true] {
                let sent = pattern(length);
                let transmit = Transmit { segment_size: Some(segment), ..Transmit::new(address, &sent) };
                if queued { client.send(&transmit) } else { client.try_send(&transmit) }.expect("room");
                for part in sent.chunks(segment) {
                    let received = recv(&server).await;
                    assert_eq!(received.len(), part.len(), "{length} in parts of {segment}");
                    assert_eq!(received[..], *part);
                }
            }
        }
        assert!(server.try_recv().is_none());
    });
}

fn what_the_kernel_joins_comes_apart_at_its_boundaries(io: IoMode) {
    run(io, || async {
        let (server, client) = (bind("127.0.0.1"), bind("127.0.0.1"));
        let address = server.local_addr().expect("bound");
        for (length, segment) in
            [(2400, 1200), (2401, 1200), (3599, 1200), (64 * 100, 100), (64 * 1000, 1000), (65_507, 1452)]
        {
            let sent = pattern(length);
            client.try_send(&Transmit { segment_size: Some(segment), ..Transmit::new(address, &sent) }).expect("room");
            let mut parts: Vec<Vec<u8>> = Vec::new();
            let mut calls = 0;
            while parts.len() < length.div_ceil(segment) {
                let received = recv(&server).await;
                calls += 1;
                parts.extend(received.segments().map(<[u8]>::to_vec));
            }
            assert_eq!(parts, sent.chunks(segment).map(<[u8]>::to_vec).collect::<Vec<_>>());
            // Over loopback what was sent joined stays so, as long as it fits the device with its headers.
            assert!(calls == 1 || length == 65_507, "{calls} for {length} in parts of {segment}");
        }
        assert_eq!(stats().datagrams_in, stats().datagrams_out);
    });
}

fn congestion_marks_go_both_ways(io: IoMode) {
    run(io, || async {
        for ip in ["127.0.0.1", "::1"] {
            let (server, client) = (bind(ip), bind(ip));
            let address = server.local_addr().expect("bound");
            for ecn in [Ecn::Capable0, Ecn::Capable1, Ecn::Congested, Ecn::NotCapable] {
                client.send(&Transmit { ecn, ..Transmit::new(address, b"marked") }).expect("room");
                assert_eq!(recv(&server).await.meta().ecn, ecn, "{ip}");
            }
        }
        let both = UdpSocket::bind(any_port("::"), &UdpOptions::default()).expect("a port is free");
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, both.local_addr().expect("bound").port()));
        let client = bind("127.0.0.1");
        client.send(&Transmit { ecn: Ecn::Capable0, ..Transmit::new(to, b"to both") }).expect("room");
        let asked = recv(&both).await;
        assert_eq!(asked.meta().ecn, Ecn::Capable0);
        both.send(&Transmit { ecn: Ecn::Congested, ..Transmit::new(asked.meta().source, b"back") }).expect("room");
        assert_eq!(recv(&client).await.meta().ecn, Ecn::Congested);
    });
}

fn the_address_a_datagram_came_to_is_the_one_it_is_answered_from(io: IoMode) {
    run(io, || async {
        for (server, ips) in [("0.0.0.0", ["127.0.0.5", "127.0.0.77"]), ("::", ["127.0.0.6", "::1"])] {
            let server = bind(server);
            let port = server.local_addr().expect("bound").port();
            for ip in ips {
                let to = SocketAddr::new(ip.parse().expect("an address"), port);
                // A connected client hears only the address it asked.
                let client = UdpSocket::connect(to, &UdpOptions::default()).expect("connects");
                client.send(&Transmit::connected(b"to whom?")).expect("room");
                let asked = recv(&server).await;
                assert_eq!(asked.meta().destination, Some(to.ip()));
                assert_eq!(asked.meta().interface, 1, "the loopback device is the first");
                let source = asked.meta().destination;
                let answer = Transmit { source, interface: 1, ..Transmit::new(asked.meta().source, b"to you") };
                server.send(&answer).expect("room");
                let answer = recv(&client).await;
                assert_eq!((&answer[..], answer.meta().source), (&b"to you"[..], to));
            }
        }
        let silent = UdpOptions { packet_info: false, ..UdpOptions::default() };
        let server = UdpSocket::bind(any_port("127.0.0.1"), &silent).expect("a port is free");
        bind("127.0.0.1").send(&Transmit::new(server.local_addr().expect("bound"), b"x")).expect("room");
        assert_eq!(recv(&server).await.meta().destination, None);
    });
}

fn ipv6_and_both_families_on_one_socket(io: IoMode) {
    run(io, || async {
        let both = bind("::");
        let port = both.local_addr().expect("bound").port();
        for ip in ["127.0.0.1", "::1"] {
            let client = bind(ip);
            client.send(&Transmit::new(SocketAddr::new(ip.parse().expect("an address"), port), b"hi")).expect("room");
            let asked = recv(&both).await;
            assert_eq!(asked.meta().source, client.local_addr().expect("bound"), "IPv4 stays IPv4");
            both.send(&Transmit::new(asked.meta().source, b"hi")).expect("room");
            assert_eq!(recv(&client).await.meta().source.ip(), ip.parse::<IpAddr>().expect("an address"));
        }
        let alone = UdpOptions { v6_only: true, ..UdpOptions::default() };
        let v6 = alone.bind(any_port("::")).expect("a port is free");
        let port = v6.local_addr().expect("bound").port();
        let v4 = UdpOptions::default().bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        v4.expect("IPv4's port of that number is another");
        let connected = UdpSocket::connect(any_port("::1"), &UdpOptions::default());
        drop(connected.expect("UDP connects to any port"));
    });
}

fn a_refusal_is_told_once_and_the_socket_goes_on(io: IoMode) {
    run(io, || async {
        let gone = bind("127.0.0.1");
        let address = gone.local_addr().expect("bound");
        let client = UdpSocket::connect(address, &UdpOptions::default()).expect("connects");
        drop(gone);
        // On the ring the descriptor is closed with the next turn.
        sleep(Duration::from_millis(5)).await;
        for _ in 0..3 {
            client.send(&Transmit::connected(b"anybody?")).expect("room");
            let refused = timeout(Duration::from_secs(60), client.recv()).await.expect("it is told");
            assert_eq!(refused.expect_err("nobody listens").kind(), io::ErrorKind::ConnectionRefused);
            let quiet = timeout(Duration::from_millis(5), client.recv()).await;
            assert!(quiet.is_err(), "once");
        }
        let back = UdpSocket::bind(address, &UdpOptions::default()).expect("the port is free again");
        client.send(&Transmit::connected(b"anybody?")).expect("room");
        let asked = recv(&back).await;
        back.send(&Transmit::new(asked.meta().source, b"yes")).expect("room");
        assert_eq!(recv(&client).await[..], *b"yes");
        assert_eq!(stats().datagrams_unsent, 0);
    });
}

fn a_refusal_seen_by_a_send_does_not_cost_the_datagram(io: IoMode) {
    run(io, || async {
        let gone = bind("127.0.0.1");
        let address = gone.local_addr().expect("bound");
        let client = UdpSocket::connect(address, &UdpOptions::default()).expect("connects");
        drop(gone);
        sleep(Duration::from_millis(5)).await;
        // Nobody receives, so the answer waits in the kernel for the next call, which is a send.
        client.try_send(&Transmit::connected(b"lost")).expect("the kernel takes it");
        let back = UdpSocket::bind(address, &UdpOptions::default()).expect("the port is free again");
        client.try_send(&Transmit::connected(b"not lost")).expect("the error is the other one's");
        assert_eq!(recv(&back).await[..], *b"not lost");
        let refused = timeout(Duration::from_secs(60), client.recv()).await.expect("it is told");
        assert_eq!(refused.expect_err("nobody listened").kind(), io::ErrorKind::ConnectionRefused);
    });
}

fn longer_than_the_buffers_is_cut_and_counted(io: IoMode) {
    let runtime = Runtime::start(Config { datagram_bytes_max: 2000, ..config(io) }).expect("the driver works here");
    run_on(&runtime, 0, || async {
        let (server, client) = (bind("127.0.0.1"), bind("127.0.0.1"));
        let address = server.local_addr().expect("bound");
        let sent = pattern(60_000);
        client.try_send(&Transmit::new(address, &sent)).expect("room");
        let received = recv(&server).await;
        assert!(received.meta().truncated && received.len() >= 2000 && received.len() < 2100, "{received:?}");
        assert_eq!(received[..], sent[..received.len()]);
        // What would be joined beyond the buffer is not joined.
        client.try_send(&Transmit { segment_size: Some(1500), ..Transmit::new(address, &sent) }).expect("room");
        for part in sent.chunks(1500) {
            let received = recv(&server).await;
            assert!(!received.meta().truncated && received[..] == *part);
        }
        assert_eq!(stats().datagrams_truncated, 1);
    });
}

/// The kernel splits nothing into parts that are longer than the way carries. They take a block of the queue where they fit into one.
fn what_the_kernel_does_not_split_goes_in_pieces(io: IoMode) {
    const INSIDE: &str = "IN_A_NARROW_NETWORK";
    if std::env::var_os(INSIDE).is_none() {
        let run = |script: &str| {
            let mut command = std::process::Command::new("unshare");
            command.args(["-n", "sh", "-c", script]).arg(std::env::current_exe().expect("this program"));
            command.arg(std::thread::current().name().expect("the test's name")).env(INSIDE, "1").output()
        };
        let narrow = "ip link set lo mtu 1280 up";
        if !run(narrow).is_ok_and(|done| done.status.success()) {
            println!("skipped: `unshare -n` and `ip link` are not allowed here; run it as root");
            return;
        }
        let done = run(&format!("{narrow} && exec \"$0\" --exact \"$1\" --nocapture")).expect("it runs");
        let text = String::from_utf8_lossy(&done.stdout);
        println!("{text}{}", String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success() && text.contains("1 passed"), "it failed in its network");
        return;
    }
    for datagram_bytes_max in [2000, 65_535] {
        let runtime = Runtime::start(Config { datagram_bytes_max, ..config(io) }).expect("the driver works here");
        run_on(&runtime, 0, || async {
            let (server, client) = (bind("127.0.0.1"), bind("127.0.0.1"));
            let address = server.local_addr().expect("bound");
            let sent = pattern(60_000);
            client.try_send(&Transmit { segment_size: Some(1500), ..Transmit::new(address, &sent) }).expect("room");
            for part in sent.chunks(1500) {
                assert_eq!(recv(&server).await[..], *part);
            }
            assert_eq!(stats().datagrams_unsent, 0);
        });
    }
}

fn a_flood_is_dropped_by_the_kernel_and_counted(io: IoMode) {
    run(io, || async {
        let small = UdpOptions { receive_buffer: Some(8192), ..one_by_one() };
        let (server, client) =
            (UdpSocket::bind(any_port("127.0.0.1"), &small).expect("a port is free"), bind("127.0.0.1"));
        let address = server.local_addr().expect("bound");
        for n in 0..1000u32 {
            client.try_send(&Transmit::new(address, &n.to_be_bytes())).expect("room");
        }
        let mut got = Vec::new();
        while let Ok(received) = timeout(Duration::from_millis(100), server.recv()).await {
            got.push(u32::from_be_bytes(received.expect("no error")[..].try_into().expect("four bytes")));
        }
        assert!(got.is_sorted() && got.len() < 1000 && !got.is_empty(), "{}", got.len());
        // The next one to arrive tells what was lost before it.
        client.try_send(&Transmit::new(address, b"last")).expect("room");
        assert_eq!(recv(&server).await[..], *b"last");
        assert_eq!(stats().datagrams_overflowed, 1000 - got.len() as u64);
    });
}

fn what_waits_stays_in_order_while_receiving_is_paused(io: IoMode) {
    let few = Config { datagram_queue_max: 3, datagram_buffers_max: 12, datagram_ring_entries: 8, ..config(io) };
    let runtime = Runtime::start(few).expect("the driver works here");
    run_on(&runtime, 0, || async {
        let (server, client) =
            (UdpSocket::bind(any_port("127.0.0.1"), &one_by_one()).expect("a port is free"), bind("127.0.0.1"));
        let address = server.local_addr().expect("bound");
        let mut held = Vec::new();
        let mut next = 0u32;
        for round in 0..20u32 {
            for n in 0..30u32 {
                client.try_send(&Transmit::new(address, &(round * 30 + n).to_be_bytes())).expect("room");
            }
            for _ in 0..30 {
                let received = recv(&server).await;
                assert_eq!(received[..], next.to_be_bytes());
                next += 1;
                // Some are kept for a while, so that the pool runs out.
                held.push(received);
                if held.len() > 3 + round as usize % 8 {
                    held.clear();
                }
            }
        }
        let stats = stats();
        assert!(stats.recv_paused > 0 && stats.datagrams_overflowed == 0, "{stats:?}");
    });
}

/// A pair of sockets of which this side is full after a few datagrams: loopback never makes a sender wait.
fn full_after_a_few() -> (UdpSocket, std::os::unix::net::UnixDatagram) {
    let (mine, theirs) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
    theirs.set_read_timeout(Some(Duration::from_secs(60))).expect("a time-out");
    // SAFETY: the descriptor was just given up.
    let mine = std::net::UdpSocket::from(unsafe { OwnedFd::from_raw_fd(mine.into_raw_fd()) });
    (UdpSocket::from_std(mine).expect("joins"), theirs)
}

fn sends_beyond_the_bound_are_dropped_and_counted(io: IoMode) {
    run(io, || async {
        let (socket, peer) = full_after_a_few();
        let mut accepted = Vec::new();
        let mut refused = 0;
        for n in 0..3000u32 {
            let mut bytes = vec![0; 900];
            bytes[..4].copy_from_slice(&n.to_be_bytes());
            match socket.send(&Transmit::connected(&bytes)) {
                Ok(()) => accepted.push(n),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    refused += 1;
                }
            }
        }
        assert!(refused > 2000 && accepted.len() > 60, "{refused} of 3,000");
        assert_eq!(stats().datagrams_unsent, refused);
        assert_eq!(socket.try_send(&Transmit::connected(b"x")).expect_err("no room").kind(), io::ErrorKind::WouldBlock);
        let ready = timeout(Duration::from_millis(5), socket.flush()).await;
        assert!(ready.is_err(), "nobody reads");
        // As the peer reads, the rest goes out, in order.
        let count = accepted.len();
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 1000];
            (0..count)
                .map(|_| {
                    let n = peer.recv(&mut bytes).expect("a datagram comes");
                    assert_eq!(n, 900);
                    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
                })
                .collect::<Vec<_>>()
        });
        timeout(Duration::from_secs(60), socket.flush()).await.expect("in time").expect("no error");
        assert_eq!(reader.join().expect("no panic"), accepted);
        assert_eq!(stats().datagrams_out, accepted.len() as u64);
        drop(socket);
        sleep(Duration::from_millis(5)).await;
    });
}

fn what_cannot_be_sent_is_refused_in_words(io: IoMode) {
    run(io, || async {
        let socket = bind("127.0.0.1");
        let to = socket.local_addr().expect("bound");
        let bytes = vec![0; 65_508];
        for transmit in [
            Transmit::new(to, &bytes),
            Transmit { segment_size: Some(0), ..Transmit::new(to, b"x") },
            Transmit { segment_size: Some(1), ..Transmit::new(to, &bytes[..SEGMENTS_MAX + 1]) },
        ] {
            let error = socket.try_send(&transmit).expect_err("refused");
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains("to send"), "{error}");
            assert_eq!(socket.send(&transmit).expect_err("refused").kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(stats().datagrams_unsent, 0);
        // What only the kernel can know is told afterwards, and does not hold up what stands behind it.
        let client = bind("127.0.0.1");
        client.send(&Transmit::connected(b"to nobody")).expect("room");
        client.send(&Transmit::new(to, b"to somebody")).expect("room");
        let error = client.flush().await.expect_err("it has no destination");
        assert_eq!(error.raw_os_error(), Some(libc::EDESTADDRREQ));
        client.flush().await.expect("told once");
        assert_eq!(recv(&socket).await[..], *b"to somebody");
        assert_eq!(stats().datagrams_unsent, 1);
    });
}

fn sockets_of_one_address_share_its_flows(io: IoMode) {
    let runtime = Runtime::start(Config { workers: Some(2), ..config(io) }).expect("the driver works here");
    let shared = UdpOptions { reuse_port: true, ..one_by_one() };
    let first = shared.bind(any_port("127.0.0.1")).expect("a port is free");
    let address = first.local_addr().expect("bound");
    let second = shared.bind(address).expect("the port is shared");
    for (worker, socket) in runtime.workers().iter().zip([first, second]) {
        worker.spawn(move || async move {
            let socket = UdpSocket::from_std(socket).expect("joins");
            loop {
                let asked = socket.recv().await.expect("no error");
                let index = [base_runtime::worker_index() as u8];
                socket.send(&Transmit::new(asked.meta().source, &index)).expect("room");
            }
        });
    }
    run_on(&runtime, 0, move || async move {
        let mut seen = [0; 2];
        for _ in 0..64 {
            let client = UdpSocket::connect(address, &UdpOptions::default()).expect("connects");
            let mut of_flow = Vec::new();
            for _ in 0..3 {
                client.send(&Transmit::connected(b"who?")).expect("room");
                of_flow.push(recv(&client).await[0]);
            }
            assert!(of_flow.iter().all(|worker| *worker == of_flow[0]), "a flow stays where it is");
            seen[usize::from(of_flow[0])] += 1;
        }
        assert!(seen.iter().all(|&n| n > 0), "{seen:?}");
    });
}

fn closing_in_the_middle_gives_everything_back(io: IoMode) {
    let runtime = start(io);
    let worker = runtime.workers()[0].clone();
    run_on(&runtime, 0, || async {
        for round in 0..30 {
            let server = bind("127.0.0.1");
            let address = server.local_addr().expect("bound");
            let copy = server.clone();
            let task = spawn(async move {
                loop {
                    drop(copy.recv().await);
                }
            });
            let client = bind("127.0.0.1");
            for _ in 0..50 {
                client.send(&Transmit::new(address, &pattern(3000))).expect("room");
            }
            if round % 3 > 0 {
                sleep(Duration::from_micros(200 * (round % 3))).await;
            }
            task.abort();
            drop(server);
            for _ in 0..50 {
                client.send(&Transmit::new(address, &pattern(3000))).expect("room");
            }
            drop(client);
        }
        let mut patience = 0;
        while stats().datagram_buffers_in_use > stats().datagram_buffers_ready {
            sleep(Duration::from_millis(2)).await;
            patience += 1;
            assert!(patience < 5000, "{:?}", stats());
        }
        assert_eq!(stats().datagram_sockets_open, 0);
    });
    // Also those that are open when the worker stops.
    run_on(&runtime, 0, || async {
        let (server, client) = (bind("127.0.0.1"), bind("127.0.0.1"));
        let address = server.local_addr().expect("bound");
        spawn(async move {
            loop {
                let received = server.recv().await.expect("no error");
                sleep(Duration::from_millis(1)).await;
                drop(received);
            }
        });
        for _ in 0..20 {
            client.try_send(&Transmit::new(address, b"x")).expect("room");
        }
        sleep(Duration::from_millis(5)).await;
    });
    runtime.shutdown();
    let stats = worker.stats();
    assert_eq!((stats.datagram_sockets_open, stats.datagram_buffers_in_use, stats.panics), (0, 0, 0), "{stats:?}");
}
