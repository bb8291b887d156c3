//! Seeded worlds of UDP flows against a model, over real sockets. A failure prints its seed; see `simulation.rs`.
//!
//! Two runtimes with rings, pools, queues and kernel buffers drawn small: clients on one, servers on the other, one socket per worker
//! and address. Every datagram says which flow it belongs to, where it stands in it, how long it is and how it was marked; the rest of
//! its bytes follow from that. The model: what arrives is whole and right; it arrives in the order it was sent, per flow; it comes from
//! the socket that the flow has; and what does not arrive was dropped by the kernel for want of room in the socket, to the number.

#[macro_use]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use base_runtime::net::udp::{Ecn, Received, SEGMENTS_MAX, Transmit};
use base_runtime::net::{UdpOptions, UdpSocket};
use base_runtime::time::{sleep, timeout};
use base_runtime::{Config, IoMode, Runtime, WorkerStats, spawn, yield_now};
use support::random::{PrintOnPanic, Random, seeds};
use support::*;

on_both_drivers!(flows_follow_their_model);

fn flows_follow_their_model(io: IoMode) {
    for seed in seeds(4) {
        let guard = PrintOnPanic(format!("the world that failed: WEIR_SIM_SEED={seed} on {io}"));
        world(io, seed);
        drop(guard);
    }
}

fn world(io: IoMode, seed: u64) {
    let mut random = Random(seed);
    let mut drawn = |workers: usize| Config {
        workers: Some(workers),
        ring_entries: *random.pick(&[8, 16, 1024]),
        task_budget: *random.pick(&[1, 7, 256]),
        coalesce: Duration::from_micros(*random.pick(&[0, 200])),
        datagram_ring_entries: *random.pick(&[8, 16, 64]),
        datagram_queue_max: *random.pick(&[1, 2, 8, 64]),
        datagram_buffers_max: *random.pick(&[12, 40, 1024]),
        datagram_buffers_kept: *random.pick(&[0, 4, 64]),
        ..config(io)
    };
    let (clients, servers) = (Runtime::start(drawn(1)), Runtime::start(drawn(1 + (seed % 2) as usize)));
    let (clients, servers) = (clients.expect("the driver works here"), servers.expect("the driver works here"));

    let options = UdpOptions {
        reuse_port: true,
        join: random.below(2) == 0,
        receive_buffer: *random.pick(&[None, Some(2_000_000), Some(20_000)]),
        ..UdpOptions::default()
    };
    let joined = options.join;
    let mut targets: Vec<SocketAddr> = Vec::new();
    for ip in ["127.0.0.1", "[::]", "[::1]"] {
        let first = options.bind(format!("{ip}:0").parse().expect("an address")).expect("a port is free");
        let bound = first.local_addr().expect("bound");
        let to = if ip == "[::]" { "127.0.0.9".parse().expect("an address") } else { bound.ip() };
        targets.push(SocketAddr::new(to, bound.port()));
        let more = (1..servers.workers().len()).map(|_| options.bind(bound).expect("shared"));
        for (worker, socket) in servers.workers().iter().zip(std::iter::once(first).chain(more)) {
            let pace = random.next();
            worker.spawn(move || serve(socket, Random(pace)));
        }
    }

    let world_seed = random.next();
    let flow_targets = targets.clone();
    let sent = run_on(&clients, 0, move || async move {
        let (left, sent) = (Rc::new(Cell::new(FLOWS)), Rc::new(Cell::new(0)));
        let mut fate = Random(world_seed);
        for id in 0..FLOWS {
            let (to, seed) = (*fate.pick(&flow_targets), fate.next());
            let (left, sent) = (left.clone(), sent.clone());
            spawn(async move {
                let of_flow = client(id, to, Random(seed)).await;
                sent.set(sent.get() + of_flow);
                left.set(left.get() - 1);
            });
        }
        while left.get() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        sent.get()
    });
    let sums =
        |runtime: &Runtime, of: fn(&WorkerStats) -> u64| runtime.workers().iter().map(|w| of(&w.stats())).sum::<u64>();
    // What is lost is told by what comes after it, so a little more is sent, from ever new ports so that it reaches every worker's socket, until
    // the books agree.
    let (mut extra, started) = (0, Instant::now());
    loop {
        let arrived = sums(&servers, |stats| stats.datagrams_in);
        let overflowed = sums(&servers, |stats| stats.datagrams_overflowed);
        let books = format!("{arrived} arrived, {overflowed} overflowed, {} sent", sent + extra);
        assert!(arrived + overflowed <= sent + extra, "{books}");
        // What was joined and is dropped, the kernel counts as one.
        if arrived + overflowed * if joined { SEGMENTS_MAX as u64 } else { 1 } >= sent + extra {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{books}");
        for to in &targets {
            let ip = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
            let socket = std::net::UdpSocket::bind(ip).expect("a port is free");
            socket.send_to(&[], to).expect("the kernel takes it");
            extra += 1;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let workers: Vec<_> = clients.workers().iter().chain(servers.workers()).cloned().collect();
    clients.shutdown();
    servers.shutdown();
    for worker in workers {
        let stats = worker.stats();
        let left = (stats.panics, stats.tasks, stats.datagram_sockets_open, stats.datagram_buffers_in_use);
        assert_eq!(left, (0, 0, 0, 0), "{stats:?}");
        assert_eq!((stats.datagrams_truncated, stats.datagrams_unsent), (0, 0));
    }
}

const FLOWS: u32 = 40;
/// For what hangs, not for what is slow on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);
const HEAD: usize = 16;
const MARKS: [Ecn; 4] = [Ecn::NotCapable, Ecn::Capable1, Ecn::Capable0, Ecn::Congested];

/// A datagram of a flow: who, which, how long, and bytes that follow from it.
fn datagram(flow: u32, number: u32, ecn: Ecn, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&flow.to_be_bytes());
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&(length as u32).to_be_bytes());
    bytes.extend_from_slice(&u32::from(ecn.bits()).to_be_bytes());
    bytes.extend((HEAD..length).map(|at| (at as u32 ^ flow.wrapping_mul(31) ^ number.wrapping_mul(131)) as u8));
    bytes
}

/// Holds a datagram to what it says of itself, and says which it is. One of no bytes says nothing.
fn check(bytes: &[u8], ecn: Option<Ecn>) -> Option<(u32, u32)> {
    if bytes.is_empty() {
        return None;
    }
    let field = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let (flow, number, mark) = (field(0), field(4), Ecn::from_bits(field(12) as u8));
    assert_eq!(field(8) as usize, bytes.len(), "the length of {number} of flow {flow}");
    assert!(bytes == datagram(flow, number, mark, bytes.len()), "bytes of {number} of flow {flow} changed");
    if let Some(ecn) = ecn {
        assert_eq!(ecn, mark, "the mark of {number} of flow {flow}");
    }
    Some((flow, number))
}

/// Checks what comes and sends part of it back, the parts of what came joined as one again.
async fn serve(socket: std::net::UdpSocket, mut pace: Random) {
    let socket = UdpSocket::from_std(socket).expect("joins");
    let flows: RefCell<HashMap<u32, (SocketAddr, u32)>> = RefCell::default();
    let mut held: Vec<Received> = Vec::new();
    loop {
        let received = socket.recv().await.expect("no error on a socket that is not connected");
        let meta = *received.meta();
        for segment in received.segments() {
            let Some((flow, number)) = check(segment, Some(meta.ecn)) else { continue };
            let mut flows = flows.borrow_mut();
            let known = flows.entry(flow).or_insert((meta.source, number));
            assert_eq!(known.0, meta.source, "flow {flow} comes from another socket");
            assert!(known.1 <= number, "{number} of flow {flow} came again or late");
            known.1 = number + 1;
        }
        let joined = received.len() > meta.segment_size;
        let back = Transmit {
            segment_size: joined.then_some(meta.segment_size),
            source: meta.destination,
            ecn: meta.ecn,
            ..Transmit::new(meta.source, &received)
        };
        // One that is longer than a call takes cannot go back as one.
        if pace.below(3) == 0 && received.len() <= 60_000 {
            match pace.below(2) {
                0 => socket.send(&back).expect("loopback has room"),
                _ => socket.try_send(&back).expect("loopback has room"),
            }
        }
        match pace.below(60) {
            0 => sleep(Duration::from_micros(pace.below(3000))).await,
            1..=4 => yield_now().await,
            _ => {}
        }
        // Some are kept for a while.
        if pace.below(4) == 0 {
            held.push(received);
        }
        if held.len() > 3 {
            held.clear();
        }
    }
}

/// Sends a flow, checks what comes back, and says how many datagrams it has sent.
async fn client(id: u32, to: SocketAddr, mut random: Random) -> u64 {
    let options = UdpOptions { join: random.below(2) == 0, ..UdpOptions::default() };
    let connected = random.below(2) == 0;
    let socket = match connected {
        true => UdpSocket::connect(to, &options),
        false => {
            let ip = *random.pick(if to.is_ipv4() { &["127.0.0.1:0", "[::]:0"] } else { &["[::1]:0", "[::]:0"] });
            UdpSocket::bind(ip.parse().expect("an address"), &options)
        }
    };
    let socket = socket.expect("a port is free");
    let watch = socket.clone();
    let seen = Rc::new(Cell::new(0));
    let counted = seen.clone();
    let receiver = spawn(async move {
        let mut next = 0;
        loop {
            let received = watch.recv().await.expect("the server is there");
            assert_eq!(received.meta().source, to, "an answer from elsewhere");
            for segment in received.segments() {
                counted.set(counted.get() + 1);
                let Some((flow, number)) = check(segment, Some(received.meta().ecn)) else { continue };
                assert_eq!(flow, id, "an answer to another flow");
                assert!(number >= next, "the answer to {number} came again or late");
                next = number + 1;
            }
        }
    });
    let (mut number, mut sent) = (0, 0);
    for _ in 0..10 + random.below(60) {
        let ecn = *random.pick(&MARKS);
        let (contents, segment_size) = match random.below(8) {
            0 => (Vec::new(), None),
            1 => (datagram(id, number, ecn, *random.pick(&[65_507, 60_001, 8_192, 8_193])), None),
            2..=3 => {
                let (size, count) = (HEAD + random.below(1400) as usize, 2 + random.below(44) as usize);
                let last = HEAD + random.below((size - HEAD) as u64 + 1) as usize;
                let mut all = Vec::new();
                for n in 0..count {
                    let length = if n + 1 == count { last } else { size };
                    all.extend(datagram(id, number + n as u32, ecn, length));
                }
                (all, Some(size))
            }
            _ => (datagram(id, number, ecn, HEAD + random.below(3000) as usize), None),
        };
        let count = segment_size.map_or(1, |size| contents.len().div_ceil(size).max(1));
        if !contents.is_empty() {
            number += count as u32;
        }
        sent += count as u64;
        let destination = (!connected).then_some(to);
        let transmit = Transmit { destination, segment_size, ecn, ..Transmit::connected(&contents) };
        match random.below(2) {
            0 => socket.send(&transmit).expect("loopback has room"),
            _ => socket.try_send(&transmit).expect("loopback has room"),
        }
        match random.below(6) {
            0 => sleep(Duration::from_micros(random.below(2000))).await,
            1 => yield_now().await,
            _ => {}
        }
    }
    socket.flush().await.expect("no error");
    // Answers may come for a while; some leave without them.
    if random.below(3) > 0 {
        let _ = timeout(Duration::from_millis(random.below(20)), std::future::pending::<()>()).await;
    }
    assert!(seen.get() <= sent, "{} answers to {sent}", seen.get());
    receiver.abort();
    sent
}
