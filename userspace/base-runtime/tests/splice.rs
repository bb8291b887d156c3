//! Moving bytes from one connection to another inside the kernel, on both drivers.

#[macro_use]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::cell::Cell;
use std::io::{Read, Write};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base_runtime::net::{ReceivedPiece, TcpStream, UnixListener};
use base_runtime::time::{sleep, timeout};
use base_runtime::{Buf, IoMode, Worker, spawn};
use support::*;

on_both_drivers!(
    every_byte_in_its_place,
    unix_sockets,
    a_slow_reader_slows_the_source_down,
    a_source_that_ends_in_the_middle,
    a_source_that_is_reset_in_the_middle,
    a_target_that_is_reset_in_the_middle,
    given_up_in_the_middle,
    both_ways_at_once,
    buffers_again_afterwards,
    what_comes_after_the_last_byte_is_noticed,
    pipes_have_a_bound,
);

/// Both ends are threads, so that the kernel's buffers are all there is between them and the worker.
fn every_byte_in_its_place(io: IoMode) {
    // Default buffers; small ones at the target, and at the source.
    for (small_source, small_target) in [(false, false), (false, true), (true, false), (true, true)] {
        let total = if small_source || small_target { 4 << 20 } else { 24 << 20 };
        let runtime = start(io);
        let (from, to) = (Peer::listen(), Peer::listen());
        let (writer, reader) = (from.writes(pattern(total), small_source), to.reads());
        let (a, b) = (from.address, to.address);
        run_on(&runtime, 0, move || async move {
            let (source, target) = connect_both(a, b).await;
            if small_target {
                small_buffers(&target);
            }
            // What was received into buffers before comes first, and so does what was queued.
            source.readable().await;
            target.send(Buf::copy_from(b"head"));
            let moved = relay(&source, &target, total as u64).await.expect("both are well");
            assert_eq!(moved, total as u64);
            assert_eq!(target.bytes_sent(), 4 + moved);
            target.shutdown_write();
            assert!(source.end_splice() || source.recv().await.expect("no error").is_none());
        });
        writer.join().expect("no panic").expect("it could write");
        let received = reader.join().expect("no panic").expect("an orderly end");
        assert_eq!(&received[..4], b"head");
        assert!(received[4..] == pattern(total), "{} bytes arrived changed", received.len());
        let stats = runtime.workers()[0].stats();
        // What was in buffers when it began is little.
        assert!(stats.bytes_spliced > total as u64 / 2, "{stats:?}");
        assert_eq!((stats.bytes_in, stats.bytes_out), (total as u64, 4 + total as u64));
        assert!(stats.bytes_spliced <= stats.bytes_out && stats.pipes_refused == 0);
        end(runtime);
    }
}

fn unix_sockets(io: IoMode) {
    let runtime = start(io);
    let path = std::env::temp_dir().join(format!("weir-splice-{}-{io}", std::process::id()));
    let listening = path.clone();
    run_on(&runtime, 0, move || async move {
        let listener = UnixListener::bind(&listening, 4).expect("binds");
        let writer = TcpStream::connect_unix(&listening).await.expect("connects");
        let source = listener.accept().await.expect("accepts");
        let reader = TcpStream::connect_unix(&listening).await.expect("connects");
        let target = listener.accept().await.expect("accepts");
        spawn(async move {
            send_all(&writer, &pattern(3 << 20)).await.expect("sends");
            writer.shutdown_write();
        });
        spawn(async move {
            relay(&source, &target, u64::MAX).await.expect("both are well");
            target.shutdown_write();
        });
        assert!(recv_all(&reader).await.expect("receives") == pattern(3 << 20));
    });
    let _ = std::fs::remove_file(path);
    assert!(runtime.workers()[0].stats().bytes_spliced > 1 << 20);
    end(runtime);
}

fn a_slow_reader_slows_the_source_down(io: IoMode) {
    let total = 48 << 20;
    let runtime = start(io);
    let (from, to) = (Peer::listen(), Peer::listen());
    let writer = from.writes(pattern(total), false);
    let (go, may_go) = mpsc::channel::<()>();
    let reader = to.plays(move |mut stream| {
        may_go.recv().expect("somebody says go");
        let mut all = Vec::new();
        let mut piece = vec![0; 100_000];
        loop {
            match stream.read(&mut piece)? {
                0 => return Ok(all),
                n => all.extend_from_slice(&piece[..n]),
            }
            if all.len() < 2 << 20 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let (a, b) = (from.address, to.address);
    run_on(&runtime, 0, move || async move {
        let (source, target) = connect_both(a, b).await;
        let (from, into) = (source.clone(), target.clone());
        let relaying = Rc::new(Cell::new(true));
        let flag = relaying.clone();
        spawn(async move {
            relay(&from, &into, u64::MAX).await.expect("both are well");
            into.shutdown_write();
            flag.set(false);
        });
        // It comes to a stand.
        let mut moved = 0;
        while std::mem::replace(&mut moved, target.bytes_sent()) != target.bytes_sent() || moved == 0 {
            sleep(Duration::from_millis(50)).await;
        }
        assert!(relaying.get() && moved < total as u64 / 2, "{moved} bytes went to one who reads none");
        go.send(()).expect("the reader waits");
        while relaying.get() {
            sleep(Duration::from_millis(5)).await;
        }
    });
    writer.join().expect("no panic").expect("it could write");
    assert!(reader.join().expect("no panic").expect("an orderly end") == pattern(total));
    assert!(runtime.workers()[0].stats().short_sends > 0, "the target was never full");
    end(runtime);
}

fn a_source_that_ends_in_the_middle(io: IoMode) {
    let runtime = start(io);
    let (from, to) = (Peer::listen(), Peer::listen());
    let (writer, reader) = (from.writes(pattern(3 << 20), false), to.reads());
    let (a, b) = (from.address, to.address);
    run_on(&runtime, 0, move || async move {
        let (source, target) = connect_both(a, b).await;
        let moved = relay(&source, &target, 8 << 20).await.expect("an end is no error");
        assert_eq!(moved, 3 << 20);
        assert!(source.recv().await.expect("an end stays an end").is_none());
        assert!(!source.end_splice());
    });
    writer.join().expect("no panic").expect("it could write");
    assert!(reader.join().expect("no panic").expect("an orderly end") == pattern(3 << 20));
    end(runtime);
}

fn a_source_that_is_reset_in_the_middle(io: IoMode) {
    let runtime = start(io);
    let (from, to) = (Peer::listen(), Peer::listen());
    let writer = from.plays(|mut stream| {
        stream.write_all(&pattern(2 << 20))?;
        // Unread bytes turn the close into a reset.
        stream.peek(&mut [0]).map(|_| Vec::new())
    });
    let reader = to.reads();
    let (a, b) = (from.address, to.address);
    run_on(&runtime, 0, move || async move {
        let (source, target) = connect_both(a, b).await;
        let mut moved = 0;
        while moved < 1 << 20 {
            moved += relay_one(&source, &target, u64::MAX).await.expect("well so far").expect("not the end");
        }
        source.send(Buf::copy_from(b"unread"));
        let error = relay(&source, &target, u64::MAX).await.expect_err("a reset is an error");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert!(source.recv().await.is_err(), "an error stays an error");
        assert!(!source.end_splice());
    });
    writer.join().expect("no panic").expect("it could write");
    let received = reader.join().expect("no panic").expect("an orderly end");
    assert!(received == pattern(2 << 20)[..received.len()], "what arrived is a prefix");
    end(runtime);
}

fn a_target_that_is_reset_in_the_middle(io: IoMode) {
    let runtime = start(io);
    let (from, to) = (Peer::listen(), Peer::listen());
    let writer = from.writes(pattern(64 << 20), false);
    let reader = to.plays(|mut stream| {
        // Closing with bytes unread is a reset.
        stream.read_exact(&mut vec![0; 100_000]).map(|()| Vec::new())
    });
    let (a, b) = (from.address, to.address);
    run_on(&runtime, 0, move || async move {
        let (source, target) = connect_both(a, b).await;
        let error = relay(&source, &target, u64::MAX).await.expect_err("nobody reads");
        assert!(
            matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe),
            "{error}"
        );
        assert!(target.flush().await.is_err(), "an error stays an error");
        // The source is as well as before, and goes on the ordinary way.
        assert!(source.end_splice() || source.recv().await.expect("no error").is_some());
    });
    assert!(writer.join().expect("no panic").is_err(), "the source was closed before all was read");
    reader.join().expect("no panic").expect("it could read");
    end(runtime);
}

/// Tasks that are dropped while they wait for the source, for the target, or with bytes in the pipe.
fn given_up_in_the_middle(io: IoMode) {
    let runtime = start(io);
    let stop = Arc::new(AtomicBool::new(false));
    let (from, to) = (Peer::listen(), Peer::listen());
    let done = stop.clone();
    let writer = from.many(8, move |nth, mut stream| {
        let _ = stream.write_all(&pattern((1 << 20) * nth));
        while !done.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let done = stop.clone();
    let reader = to.many(8, move |_, _stream| {
        while !done.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let (a, b) = (from.address, to.address);
    let worker = runtime.workers()[0].clone();
    run_on(&runtime, 0, move || async move {
        for nth in 0..8 {
            let (source, target) = connect_both(a, b).await;
            let task = spawn(async move {
                let _ = relay(&source, &target, u64::MAX).await;
                unreachable!("neither side ends");
            });
            sleep(Duration::from_millis(5 + 5 * nth)).await;
            task.abort();
        }
        all_closed(&worker).await;
    });
    stop.store(true, Ordering::SeqCst);
    writer.join().expect("no panic");
    reader.join().expect("no panic");
    end(runtime);
}

/// Two pairs, and on each both directions: each socket is a source and a target.
fn both_ways_at_once(io: IoMode) {
    let runtime = start(io);
    let (left, right) = (Peer::listen(), Peer::listen());
    let play = |nth: usize, mut stream: std::net::TcpStream| {
        let mut reading = stream.try_clone().expect("a descriptor");
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            reading.read_to_end(&mut all).map(|_| all)
        });
        stream.write_all(&pattern((4 << 20) + nth)).expect("it could write");
        stream.shutdown(std::net::Shutdown::Write).expect("it is open");
        let received = reader.join().expect("no panic").expect("an orderly end");
        assert!(received == pattern((4 << 20) + nth), "{} bytes arrived changed", received.len());
    };
    let (a, b) = (left.address, right.address);
    let (lefts, rights) = (left.many(2, play), right.many(2, play));
    run_on(&runtime, 0, move || async move {
        let left = Rc::new(Cell::new(4));
        for _ in 0..2 {
            let (one, other) = connect_both(a, b).await;
            for (from, to) in [(one.clone(), other.clone()), (other, one)] {
                let left = left.clone();
                spawn(async move {
                    relay(&from, &to, u64::MAX).await.expect("both are well");
                    to.shutdown_write();
                    left.set(left.get() - 1);
                });
            }
        }
        while left.get() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    });
    lefts.join().expect("no panic");
    rights.join().expect("no panic");
    assert!(runtime.workers()[0].stats().bytes_spliced > 8 << 20);
    end(runtime);
}

/// On both sides: what was made ready for splicing receives and sends as before, also when it has to wait.
fn buffers_again_afterwards(io: IoMode) {
    let runtime = start(io);
    run_on(&runtime, 0, || async {
        let ((far, source), (target, near)) = (pair().await, pair().await);
        let sent = pattern(2 << 20);
        for round in 0..3 {
            let (writer, bytes) = (far.clone(), sent.clone());
            spawn(async move { send_all(&writer, &bytes).await.expect("sends") });
            let (reader, expected) = (near.clone(), sent.len());
            let (done, all) = base_runtime::channel::oneshot();
            spawn(async move {
                let _ = done.send(recv_exactly(&reader, expected).await.expect("receives"));
            });
            assert_eq!(relay(&source, &target, sent.len() as u64).await.expect("both are well"), sent.len() as u64);
            assert!(all.await.expect("sent") == sent, "round {round}");
            assert!(source.end_splice(), "nothing else was sent");
            // Each of the four directions of the two sockets, with full buffers on the way.
            for (from, to) in [(&far, &source), (&source, &far), (&near, &target), (&target, &near)] {
                let (writer, bytes) = (from.clone(), sent.clone());
                // Receiving begins before there is anything, and sending before anybody reads.
                assert!(timeout(Duration::from_millis(2), to.readable()).await.is_err());
                spawn(async move { send_all(&writer, &bytes).await.expect("sends") });
                sleep(Duration::from_millis(10)).await;
                assert!(recv_exactly(to, sent.len()).await.expect("receives") == sent, "round {round}");
            }
        }
    });
    end(runtime);
}

fn what_comes_after_the_last_byte_is_noticed(io: IoMode) {
    let runtime = start(io);
    run_on(&runtime, 0, || async {
        for ending in ["nothing", "bytes", "end", "later bytes", "later end"] {
            let ((far, source), (target, near)) = (pair().await, pair().await);
            let reading = spawn(async move { drop(recv_all(&near).await) });
            let writer = far.clone();
            spawn(async move {
                send_all(&writer, &pattern(1 << 20)).await.expect("sends");
                match ending {
                    "bytes" => writer.send(Buf::copy_from(b"more")),
                    "end" => writer.shutdown_write(),
                    _ => {}
                }
            });
            sleep(Duration::from_millis(20)).await;
            relay(&source, &target, 1 << 20).await.expect("both are well");
            sleep(Duration::from_millis(20)).await;
            let clean = source.end_splice();
            assert_eq!(clean, !matches!(ending, "bytes" | "end"), "{ending}");
            // As in a pool, where nobody waits for anything.
            match ending {
                "later bytes" => far.send(Buf::copy_from(b"more")),
                "later end" => far.shutdown_write(),
                _ => {}
            }
            let started = Instant::now();
            while ending != "nothing" && !source.is_closed_or_dirty() {
                assert!(started.elapsed() < Duration::from_secs(60), "{ending} was not noticed");
                sleep(Duration::from_millis(1)).await;
            }
            assert!(ending != "nothing" || !source.is_closed_or_dirty());
            reading.abort();
        }
    });
    end(runtime);
}

/// Peers that read nothing hold pipes; those who come later go the ordinary way.
fn pipes_have_a_bound(io: IoMode) {
    let runtime = start(io);
    let worker = runtime.workers()[0].clone();
    run_on(&runtime, 0, move || async move {
        let mut held = Vec::new();
        loop {
            let (far, source) = pair().await;
            far.send(Buf::copy_from(&pattern(20_000)));
            // The first may come in a buffer.
            far.flush().await.expect("sent");
            match source.recv_piece(1 << 20).await.expect("well").expect("not the end") {
                ReceivedPiece::Pipe(pipe) => held.push((pipe, source, far)),
                ReceivedPiece::Buf(buf) => {
                    assert!(buf[..] == pattern(20_000)[..buf.len()]);
                    break;
                }
            }
            assert!(held.len() < 1000, "no bound");
        }
        assert!(held.len() >= 16, "{} pipes", held.len());
        held.clear();
        let (far, source) = pair().await;
        far.send(Buf::copy_from(b"pipes are back"));
        assert!(matches!(source.recv_piece(1 << 20).await, Ok(Some(ReceivedPiece::Pipe(pipe))) if pipe.len() == 14));
        all_but(&worker, 2).await;
    });
    end(runtime);
}

/// Relays one piece; its bytes, or `None` at the end.
async fn relay_one(from: &TcpStream, to: &TcpStream, most: u64) -> std::io::Result<Option<u64>> {
    match from.recv_piece(most).await? {
        None => Ok(None),
        Some(ReceivedPiece::Pipe(pipe)) => {
            let n = pipe.len() as u64;
            assert!(n > 0 && n <= most);
            to.send_pipe(pipe).await?;
            Ok(Some(n))
        }
        Some(ReceivedPiece::Buf(buf)) => {
            let n = buf.len() as u64;
            to.send(buf);
            to.send_ready(64 * 1024).await?;
            Ok(Some(n))
        }
    }
}

/// Relays so many bytes, or to the end.
async fn relay(from: &TcpStream, to: &TcpStream, total: u64) -> std::io::Result<u64> {
    let mut moved = 0;
    while moved < total {
        let Some(n) = relay_one(from, to, total - moved).await? else { break };
        moved += n;
    }
    Ok(moved)
}

async fn connect_both(a: std::net::SocketAddr, b: std::net::SocketAddr) -> (TcpStream, TcpStream) {
    (TcpStream::connect(a).await.expect("connects"), TcpStream::connect(b).await.expect("connects"))
}

async fn all_closed(worker: &Worker) {
    all_but(worker, 0).await;
}

async fn all_but(worker: &Worker, left: u64) {
    let started = Instant::now();
    while worker.stats().connections_open > left {
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", worker.stats());
        sleep(Duration::from_millis(2)).await;
    }
}

/// Nothing is left behind.
fn end(runtime: base_runtime::Runtime) {
    let worker = runtime.workers()[0].clone();
    runtime.shutdown();
    let stats = worker.stats();
    assert_eq!((stats.panics, stats.tasks, stats.connections_open, stats.buffers_in_use), (0, 0, 0, 0), "{stats:?}");
}

/// The other end of a connection, on threads of its own.
struct Peer {
    listener: std::net::TcpListener,
    address: std::net::SocketAddr,
}

type Played = JoinHandle<std::io::Result<Vec<u8>>>;

impl Peer {
    fn listen() -> Peer {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("bound");
        Peer { listener, address }
    }

    fn plays(&self, play: impl FnOnce(std::net::TcpStream) -> std::io::Result<Vec<u8>> + Send + 'static) -> Played {
        let listener = self.listener.try_clone().expect("a descriptor");
        std::thread::spawn(move || play(listener.accept()?.0))
    }

    fn many(
        &self,
        count: usize,
        play: impl Fn(usize, std::net::TcpStream) + Send + Sync + Clone + 'static,
    ) -> JoinHandle<()> {
        let listener = self.listener.try_clone().expect("a descriptor");
        std::thread::spawn(move || {
            let threads: Vec<_> = (0..count)
                .map(|nth| {
                    let (stream, _) = listener.accept().expect("accepts");
                    let play = play.clone();
                    std::thread::spawn(move || play(nth, stream))
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        })
    }

    /// Writes and finishes; `small`: in small pieces, with pauses.
    fn writes(&self, bytes: Vec<u8>, small: bool) -> Played {
        self.plays(move |mut stream| {
            stream.set_nodelay(true)?;
            for (nth, piece) in bytes.chunks(if small { 7_001 } else { 1 << 20 }).enumerate() {
                stream.write_all(piece)?;
                if small && nth % 16 == 0 {
                    std::thread::sleep(Duration::from_micros(300));
                }
            }
            stream.shutdown(std::net::Shutdown::Write).map(|()| Vec::new())
        })
    }

    fn reads(&self) -> Played {
        self.plays(|mut stream| {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).map(|_| all)
        })
    }
}
