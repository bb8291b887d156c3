//! The memory ledger. Its ceiling is the process's, so these are a test program of their own and take turns.

#[macro_use]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base_runtime::memory::{self, Booking, Kind, WorkerMemory};
use base_runtime::net::udp::Transmit;
use base_runtime::net::{ReceivedPiece, UdpOptions, UdpSocket};
use base_runtime::time::sleep;
use base_runtime::{Buf, Config, IoMode, Runtime, spawn, yield_now};
use support::*;

on_both_drivers!(
    buffers_tasks_and_connections_are_booked_and_struck,
    bookings_follow_what_they_stand_for,
    ceiling_is_over_at_95_and_fine_below_85_percent,
    one_turn_cannot_outgrow_the_ceiling_unseen,
    a_connection_knows_its_memory,
    free_buffers_are_given_back_when_idle,
    bytes_in_pipes_are_booked,
    datagrams_and_their_sockets_are_booked_and_struck,
    a_stopped_worker_leaves_nothing_behind,
);

fn buffers_tasks_and_connections_are_booked_and_struck(io: IoMode) {
    let _turn = turn();
    run(io, || async {
        let before = mine();
        let bufs: Vec<Buf> = (0..10).map(|_| Buf::alloc()).collect();
        assert_eq!(mine().of(Kind::Buffers) - before.of(Kind::Buffers), 10 * Buf::CAPACITY as u64);
        drop(bufs);
        assert_eq!(mine(), WorkerMemory { peak: mine().peak, reserve: mine().reserve, ..before });

        let big = [0u8; 5000];
        let task = spawn(async move {
            std::future::pending::<()>().await;
            std::hint::black_box(big);
        });
        assert!((5000..5600).contains(&(mine().of(Kind::Tasks) - before.of(Kind::Tasks))));
        task.abort();
        assert_eq!(mine().of(Kind::Tasks), before.of(Kind::Tasks));

        let (client, server) = pair().await;
        let two = mine().of(Kind::Connections) - before.of(Kind::Connections);
        // The ring may not have closed the listener yet.
        assert!((400..800).contains(&two), "{two} bytes for two connections");
        drop((client, server));
        let started = Instant::now();
        while mine().of(Kind::Connections) != before.of(Kind::Connections) {
            assert!(started.elapsed() < Duration::from_secs(60));
            sleep(Duration::from_millis(1)).await;
        }
    });
}

fn bookings_follow_what_they_stand_for(io: IoMode) {
    let _turn = turn();
    run(io, || async {
        let heads = || mine().of(Kind::Heads);
        let booking = Booking::new(Kind::Heads, 100);
        let other = Booking::new(Kind::Tls, 7);
        assert_eq!((heads(), mine().of(Kind::Tls)), (100, 7));
        booking.grow(50);
        booking.shrink(20);
        assert_eq!((booking.bytes(), heads()), (130, 130));
        booking.set(10);
        assert_eq!(heads(), 10);
        // Nothing is taken off twice.
        booking.shrink(100);
        assert_eq!(heads(), 0);
        drop((booking, other));
        assert_eq!((heads(), mine().of(Kind::Tls)), (0, 0));
    });
    // Outside a worker it is the process that has it.
    let booking = Booking::new(Kind::Other, 1000);
    let snapshot = memory::snapshot();
    assert_eq!((snapshot.elsewhere[Kind::Other as usize], snapshot.booked), (1000, 1000));
    drop(booking);
    assert_eq!(memory::snapshot().of(Kind::Other), 0);
}

fn ceiling_is_over_at_95_and_fine_below_85_percent(io: IoMode) {
    let _turn = turn();
    run(io, || async {
        let times = memory::snapshot().over_total;
        assert!(!memory::is_over());
        memory::set_ceiling(Some(100 << 20));
        let booking = Booking::new(Kind::Bodies, 94 << 20);
        settle().await;
        assert!(!memory::is_over());
        booking.set(97 << 20);
        assert!(memory::is_over(), "a large step is told at once");
        booking.set(87 << 20);
        settle().await;
        assert!(memory::is_over(), "between the marks it stays as it was");
        booking.set(84 << 20);
        settle().await;
        assert!(!memory::is_over());
        assert_eq!(memory::snapshot().over_total - times, 1);
        assert!(memory::snapshot().peak >= 97 << 20);

        memory::set_ceiling(Some(50 << 20));
        assert!(memory::is_over(), "a lower ceiling takes effect at once");
        memory::set_ceiling(None);
        assert!(!memory::is_over());
    });
}

fn one_turn_cannot_outgrow_the_ceiling_unseen(io: IoMode) {
    let _turn = turn();
    run(io, || async {
        memory::set_ceiling(Some(8 << 20));
        // Without a pause, so within one poll: each small, together too much.
        let mut bufs = Vec::new();
        while !memory::is_over() {
            assert!(bufs.len() < (9 << 20) / Buf::CAPACITY, "{} buffers and nobody noticed", bufs.len());
            bufs.push(Buf::alloc());
        }
        drop(bufs);
        settle().await;
        assert!(!memory::is_over());
    });
}

fn a_connection_knows_its_memory(io: IoMode) {
    let _turn = turn();
    run(io, || async {
        let (client, server) = pair().await;
        let fixed = server.memory();
        assert!(fixed < 400, "{fixed}");
        client.send(Buf::copy_from(b"hello"));
        assert_eq!(client.memory() - fixed, Buf::CAPACITY);
        server.readable().await;
        assert_eq!(server.memory() - fixed, Buf::CAPACITY);
        drop(server.try_recv());
        client.flush().await.expect("sends");
        assert_eq!((server.memory(), client.memory()), (fixed, fixed));
    });
}

fn free_buffers_are_given_back_when_idle(io: IoMode) {
    let _turn = turn();
    let config = Config { buffers_kept: 64, recv_ring_entries: 8, ..config(io) };
    let runtime = Runtime::start(config).expect("the driver works here");
    let worker = runtime.workers()[0].clone();
    run_on(&runtime, 0, || async {
        drop((0..200).map(|_| Buf::alloc()).collect::<Vec<_>>());
    });
    let idle = || worker.stats().buffers_total - worker.stats().buffers_in_use;
    assert!(idle() <= 64, "{} kept of 64 allowed", idle());
    let started = Instant::now();
    while idle() > 16 {
        // Nothing else wakes this worker.
        assert!(started.elapsed() < Duration::from_secs(60), "{} still kept", idle());
        std::thread::sleep(Duration::from_millis(50));
    }
    let turns = worker.stats().turns;
    std::thread::sleep(Duration::from_millis(1500));
    assert!(worker.stats().turns - turns <= 1, "and then it sleeps for good");
    runtime.shutdown();
}

fn bytes_in_pipes_are_booked(io: IoMode) {
    let _turn = turn();
    run(io, || async {
        let ((far, source), (target, near)) = (pair().await, pair().await);
        let before = mine().of(Kind::Bodies);
        far.send(Buf::copy_from(&[7; 20_000]));
        far.flush().await.expect("sent");
        let piece = source.recv_piece(1 << 20).await.expect("well").expect("not the end");
        let ReceivedPiece::Pipe(pipe) = piece else { panic!("nothing had been received before: {piece:?}") };
        assert_eq!((pipe.len(), mine().of(Kind::Bodies) - before), (20_000, 20_000));
        target.send_pipe(pipe).await.expect("sent");
        assert_eq!(mine().of(Kind::Bodies), before);
        assert_eq!(recv_exactly(&near, 20_000).await.expect("received"), [7; 20_000]);
        // None is filled when memory is short: the bytes come in buffers, which know how to wait.
        memory::set_ceiling(Some(1));
        settle().await;
        assert!(memory::is_over());
        far.send(Buf::copy_from(b"more"));
        assert!(matches!(source.recv_piece(1 << 20).await, Ok(Some(ReceivedPiece::Buf(buf))) if &buf[..] == b"more"));
    });
}

fn datagrams_and_their_sockets_are_booked_and_struck(io: IoMode) {
    let _turn = turn();
    run(io, || async {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let one_by_one = UdpOptions { join: false, ..UdpOptions::default() };
        let before = mine().of(Kind::Datagrams);
        let server = UdpSocket::bind(address, &one_by_one).expect("a port is free");
        let client = UdpSocket::bind(address, &one_by_one).expect("a port is free");
        let sockets = mine().of(Kind::Datagrams) - before;
        assert!((300..2000).contains(&sockets), "{sockets} bytes for two sockets");
        let to = server.local_addr().expect("bound");
        for _ in 0..10 {
            client.try_send(&Transmit::new(to, b"x")).expect("room");
        }
        let mut held = Vec::new();
        for _ in 0..10 {
            held.push(server.recv().await.expect("a datagram"));
        }
        let received = mine().of(Kind::Datagrams) - before - sockets;
        let one = 65_535 + 256;
        assert!((10 * one..10 * one + 10_000).contains(&received), "{received} bytes for ten at full size");
        drop(held);
        // What waits to be sent is in one buffer, however much it is.
        for _ in 0..10 {
            client.send(&Transmit::new(to, b"x")).expect("room");
        }
        let waiting = mine().of(Kind::Datagrams) - before - sockets;
        assert!((one..one + 10_000).contains(&waiting), "{waiting} bytes for ten that wait");
        drop((server, client));
        let started = Instant::now();
        while mine().of(Kind::Datagrams) != before {
            assert!(started.elapsed() < Duration::from_secs(60), "{} bytes left", mine().of(Kind::Datagrams) - before);
            sleep(Duration::from_millis(1)).await;
        }
    });
}

fn a_stopped_worker_leaves_nothing_behind(io: IoMode) {
    let _turn = turn();
    let before = memory::booked();
    let runtime = start(io);
    run_on(&runtime, 0, || async {
        let booking = Booking::new(Kind::Bodies, 100 << 20);
        let bufs: Vec<Buf> = (0..30).map(|_| Buf::alloc()).collect();
        spawn(async move {
            std::future::pending::<()>().await;
            drop((booking, bufs));
        });
        settle().await;
    });
    assert!(memory::booked() - before > 100 << 20);
    assert_eq!(memory::snapshot().workers.len(), 1);
    runtime.shutdown();
    assert_eq!((memory::booked(), memory::snapshot().workers.len()), (before, 0));
}

/// The books of the worker this runs on; tests take turns, so there is one.
fn mine() -> WorkerMemory {
    memory::snapshot().workers[0]
}

/// Lets the worker tell what it has booked, to the byte: it sleeps.
async fn settle() {
    sleep(Duration::from_millis(5)).await;
    yield_now().await;
}

/// Nobody else books, and afterwards no ceiling is left.
fn turn() -> Turn {
    static TURN: Mutex<()> = Mutex::new(());
    Turn(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

struct Turn(#[expect(dead_code, reason = "held until dropped")] MutexGuard<'static, ()>);

impl Drop for Turn {
    fn drop(&mut self) {
        memory::set_ceiling(None);
    }
}
