//! What a TCP stream promises, on both drivers.

#[macro_use]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use base_runtime::channel::oneshot;
use base_runtime::net::{ListenOptions, StreamState, TcpListener, TcpStream};
use base_runtime::time::{sleep, timeout};
use base_runtime::{Buf, IoMode, spawn, yield_now};
use support::*;

on_both_drivers!(
    echo_of_every_size,
    who_looks_whether_a_port_is_free_lets_nobody_in,
    many_small_sends_stay_in_order,
    half_close_lets_the_answer_through,
    reset_is_an_error_not_an_end,
    slow_reader_bounds_what_is_queued,
    slow_peer_bounds_what_is_unsent,
    small_sends_to_a_full_socket_share_buffers,
    unawaited_sends_survive_a_full_socket,
    unawaited_sends_go_out_while_the_worker_sleeps,
    dropping_while_receiving_closes,
    dropping_with_sends_queued_finishes_them,
    the_last_bytes_carry_the_fin,
    linger_limit_cuts_a_peer_that_never_reads,
    connect_refused_and_cancelled,
    thousand_connections,
    readable_watches_without_taking,
    idle_connection_shows_end_and_stray_bytes,
    unread_bytes_come_first,
    aborted_stream_reports_it,
    accept_on_another_worker_is_refused,
    connection_moves_to_another_worker,
    connection_is_handed_over,
    listener_dropped_elsewhere_stops_listening,
    starved_of_buffers_then_fed,
    more_sockets_ready_than_receive_buffers,
    small_pieces_that_wait_share_a_buffer,
    what_waits_for_a_worker_is_seen,
);

fn echo_of_every_size(io: IoMode) {
    run(io, || async {
        let listener = listen();
        let address = listener.local_addr();
        spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                spawn(async move {
                    while let Ok(Some(buf)) = stream.recv().await {
                        stream.send(buf);
                        if stream.send_ready(128 * 1024).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        for size in [1, 2, 1023, 1024, 1025, 31_744, 31_745, 65_536, 1 << 20, 10 << 20] {
            let stream = TcpStream::connect(address).await.expect("connects");
            let sent = pattern(size);
            let writer = (stream.clone(), sent.clone());
            spawn(async move {
                send_all(&writer.0, &writer.1).await.expect("sends");
                writer.0.shutdown_write();
            });
            let back = recv_all(&stream).await.expect("receives");
            assert!(back == sent, "{size} bytes came back changed ({} bytes)", back.len());
        }
    });
}

fn many_small_sends_stay_in_order(io: IoMode) {
    run(io, || async {
        let (client, server) = pair().await;
        let sent = pattern(100_000);
        for piece in sent.chunks(37) {
            client.send(Buf::copy_from(piece));
        }
        assert_eq!(client.send_queue_len(), sent.len());
        client.shutdown_write();
        assert!(recv_all(&server).await.expect("receives") == sent);
        client.flush().await.expect("all was sent");
        assert_eq!((client.send_queue_len(), client.bytes_sent()), (0, sent.len() as u64));
    });
}

fn half_close_lets_the_answer_through(io: IoMode) {
    run(io, || async {
        let (client, server) = pair().await;
        client.send(Buf::copy_from(b"question"));
        client.shutdown_write();
        assert_eq!(recv_all(&server).await.expect("receives"), b"question");
        assert_eq!(server.peek_state(), StreamState::Eof);
        server.send(Buf::copy_from(b"answer"));
        drop(server);
        assert_eq!(recv_all(&client).await.expect("receives"), b"answer");
        assert!(client.recv().await.expect("an end stays an end").is_none());
    });
}

fn reset_is_an_error_not_an_end(io: IoMode) {
    run(io, || async {
        let (client, server) = pair().await;
        server.send(Buf::copy_from(b"before"));
        assert_eq!(&client.recv().await.expect("receives").expect("not the end")[..], b"before");
        server.abort();
        let error = client.recv().await.expect_err("a reset is an error");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        client.send(Buf::copy_from(b"into the void"));
        let error = timeout(Duration::from_secs(60), client.flush()).await.expect("not stuck").expect_err("broken");
        assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
    });
}

/// The receiver takes nothing: its queue stops growing, and goes on when drained.
fn slow_reader_bounds_what_is_queued(io: IoMode) {
    let mut config = config(io);
    config.recv_ring_entries = 16;
    let bound = (usize::from(config.recv_ring_entries) + config.recv_queue_max) * 32 * 1024;
    let runtime = base_runtime::Runtime::start(config).expect("the driver works here");
    run_on(&runtime, 0, move || async move {
        let (client, server) = pair().await;
        let total = 32 << 20;
        let writer = client.clone();
        spawn(async move {
            send_all(&writer, &pattern(total)).await.expect("sends");
            writer.shutdown_write();
        });
        let (mut peak, mut received) = (0, Vec::new());
        // Poll once, so that receiving is armed, then look away.
        server.readable().await;
        for _ in 0..20 {
            sleep(Duration::from_millis(5)).await;
            peak = peak.max(server.recv_queue_len());
        }
        // The bound is 4 buffers; the first multishot receive may fill as many more as stand ready before the cancel takes effect.
        assert!(peak <= bound, "{peak} bytes are queued");
        let settled = server.recv_queue_len();
        sleep(Duration::from_millis(20)).await;
        assert_eq!(server.recv_queue_len(), settled, "the queue grows while nobody reads");
        while let Some(buf) = server.recv().await.expect("receives") {
            received.extend_from_slice(&buf);
            // A reader that stays slow sees no second burst: the first was taken, and the bound holds.
            if received.len() < 4 << 20 {
                sleep(Duration::from_millis(1)).await;
                let queued = server.recv_queue_len();
                assert!(received.len() < settled || queued <= 5 * 32 * 1024, "{queued} bytes are queued");
            }
        }
        assert!(received == pattern(total), "{} bytes arrived changed", received.len());
    });
    assert!(runtime.workers()[0].stats().recv_paused > 0);
}

fn slow_peer_bounds_what_is_unsent(io: IoMode) {
    let runtime = start(io);
    let (reader, sent) = run_on(&runtime, 0, || async {
        let std_listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let stream = TcpStream::connect(std_listener.local_addr().expect("bound")).await.expect("connects");
        let (mut peer, _) = std_listener.accept().expect("accepts");
        // Fill the kernel's buffers until the stream says wait.
        let high_water = 64 * 1024;
        let mut sent = 0usize;
        while timeout(Duration::from_millis(50), stream.send_ready(high_water)).await.is_ok() {
            let mut buf = Buf::alloc();
            buf.append(&[7; 16 * 1024]);
            sent += buf.len();
            stream.send(buf);
            assert!(stream.send_queue_len() <= high_water + 16 * 1024);
            assert!(sent < 1 << 30, "the kernel took a gigabyte");
        }
        assert!(stream.send_queue_len() > high_water);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).map(|_| all.len())
        });
        stream.flush().await.expect("the peer reads now");
        assert_eq!(stream.bytes_sent(), sent as u64);
        (reader, sent)
    });
    assert_eq!(reader.join().expect("no panic").expect("reads"), sent);
}

/// As the answers to many small requests whose client reads none.
fn small_sends_to_a_full_socket_share_buffers(io: IoMode) {
    let runtime = start(io);
    let (reader, expected) = run_on(&runtime, 0, || async {
        let std_listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let stream = TcpStream::connect(std_listener.local_addr().expect("bound")).await.expect("connects");
        let (mut peer, _) = std_listener.accept().expect("accepts");
        let mut expected = Vec::new();
        let mut send = |size: usize| {
            let piece = vec![(expected.len() / 100) as u8; size];
            let mut buf = Buf::alloc();
            buf.append(&piece);
            expected.extend(piece);
            stream.send(buf);
        };
        while timeout(Duration::from_millis(50), stream.send_ready(64 * 1024)).await.is_ok() {
            send(16 * 1024);
        }
        for size in 0..1000 {
            send(1 + size % 200);
        }
        let queued = stream.send_queue_len();
        assert!(stream.memory() < 4 * queued, "{} bytes are held for {queued}", stream.memory());
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).map(|_| all)
        });
        stream.flush().await.expect("the peer reads now");
        (reader, expected)
    });
    assert!(reader.join().expect("no panic").expect("reads") == expected, "every byte in its place");
}

/// Sends nobody waits for find the socket full: the rest follows when there is room, in order.
fn unawaited_sends_survive_a_full_socket(io: IoMode) {
    let runtime = start(io);
    run_on(&runtime, 0, || async {
        let (client, server) = pair().await;
        small_buffers(&client);
        let sent = pattern(2 << 20);
        for piece in sent.chunks(50_000) {
            for part in piece.chunks(20_000) {
                client.send(Buf::copy_from(part));
            }
            yield_now().await;
            yield_now().await;
        }
        assert!(client.send_queue_len() > 0);
        // Receiving starts only now.
        let received = recv_exactly(&server, sent.len()).await.expect("receives");
        assert!(received == sent);
        client.flush().await.expect("sent");
        assert_eq!(client.bytes_sent(), sent.len() as u64);
    });
    assert!(runtime.workers()[0].stats().short_sends > 0, "the kernel took a send in part");
}

/// Nothing but the peer's answer wakes the worker, and the peer answers only once it has everything.
fn unawaited_sends_go_out_while_the_worker_sleeps(io: IoMode) {
    run(io, || async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        small_buffers(&stream);
        let (mut peer, _) = listener.accept().expect("accepts");
        peer.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit");
        let (expect, expected) = std::sync::mpsc::channel::<usize>();
        let reader = std::thread::spawn(move || {
            for size in expected {
                let mut all = vec![0; size];
                if let Err(error) = peer.read_exact(&mut all) {
                    return Err(format!("{size} bytes: {error}"));
                }
                peer.write_all(&[0]).expect("answers");
            }
            Ok(())
        });
        let answered = || async { matches!(stream.recv().await, Ok(Some(_))) };
        // More buffers than one system call takes.
        for _ in 0..100 {
            stream.send(Buf::copy_from(b"x"));
        }
        expect.send(100).expect("the peer is there");
        assert!(answered().await, "{:?}", reader.join());
        for _ in 0..3 {
            let mut sent = 0;
            loop {
                stream.send(Buf::copy_from(&[0; 30_000]));
                sent += 30_000;
                if timeout(Duration::from_millis(50), stream.send_ready(0)).await.is_err() {
                    break;
                }
            }
            // The socket is full. One send follows it when there is room, and another is queued as soon as that has begun.
            stream.send(Buf::copy_from(b"behind"));
            expect.send(sent + 10).expect("the peer is there");
            stream.send_ready(6).await.expect("sends");
            stream.send(Buf::copy_from(b"last"));
            if !answered().await {
                break;
            }
        }
        drop(expect);
        reader.join().expect("no panic").expect("everything arrives");
    });
}

fn dropping_while_receiving_closes(io: IoMode) {
    let runtime = start(io);
    run_on(&runtime, 0, || async {
        let (client, server) = pair().await;
        let task = spawn(async move {
            let _ = server.recv().await;
            unreachable!("the peer sends nothing");
        });
        sleep(Duration::from_millis(5)).await;
        task.abort();
        assert!(task.is_finished());
        assert!(client.recv().await.expect("an orderly end").is_none());
    });
    let stats = runtime.workers()[0].stats();
    assert!(stats.cancelled >= 1);
    assert_eq!(stats.connections_open, 0);
}

fn dropping_with_sends_queued_finishes_them(io: IoMode) {
    run(io, || async {
        let (client, server) = pair().await;
        let sent = pattern(8 << 20);
        for piece in sent.chunks(30_000) {
            server.send(Buf::copy_from(piece));
        }
        drop(server);
        assert!(recv_all(&client).await.expect("an orderly end") == sent);
    });
}

fn the_last_bytes_carry_the_fin(io: IoMode) {
    for drops in [true, false] {
        let runtime = start(io);
        let address = run_on(&runtime, 0, move || async move {
            let listener = listen();
            let address = listener.local_addr();
            spawn(async move {
                let (stream, _) = listener.accept().await.expect("accepts");
                while let Ok(Some(buf)) = stream.recv().await {
                    stream.send(buf);
                    if drops {
                        return;
                    }
                    stream.shutdown_write();
                }
            });
            address
        });
        let mut client = std::net::TcpStream::connect(address).expect("connects");
        let before = segments_in(&client);
        client.write_all(b"last words").expect("sends");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("receives");
        // The first is the acknowledgement a new connection gets at once.
        assert_eq!(answer, "last words");
        let came = segments_in(&client) - before;
        assert!(came <= 2, "dropped: {drops}: {came} segments");
    }
}

/// Segments of a connection that came in, `tcpi_segs_in` of TCP_INFO (Linux 4.2).
fn segments_in(stream: &std::net::TcpStream) -> u32 {
    const OFFSET: usize = 140;
    let mut info = [0u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into the buffer.
    let result = unsafe {
        let fd = std::os::fd::AsRawFd::as_raw_fd(stream);
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut length)
    };
    assert!(result == 0 && length as usize >= OFFSET + 4, "TCP_INFO of {length} bytes");
    u32::from_ne_bytes(info[OFFSET..OFFSET + 4].try_into().expect("four bytes"))
}

fn linger_limit_cuts_a_peer_that_never_reads(io: IoMode) {
    let mut config = config(io);
    config.linger = Duration::from_millis(50);
    let runtime = base_runtime::Runtime::start(config).expect("the driver works here");
    let mut peer = run_on(&runtime, 0, || async {
        let std_listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let stream = TcpStream::connect(std_listener.local_addr().expect("bound")).await.expect("connects");
        for _ in 0..1000 {
            stream.send(Buf::copy_from(&[1; 30_000]));
        }
        std_listener.accept().expect("accepts").0
    });
    // The worker stays free to close while the peer looks: what was sent before is there, and then the reset.
    let stats = || runtime.workers()[0].stats();
    let since = Instant::now();
    while (stats().linger_expired, stats().connections_open) != (1, 0) {
        assert!(since.elapsed() < Duration::from_secs(60), "the connection is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
    let error = std::io::copy(&mut peer, &mut std::io::sink()).expect_err("cut off");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    runtime.shutdown();
}

fn connect_refused_and_cancelled(io: IoMode) {
    let runtime = start(io);
    run_on(&runtime, 0, || async {
        let free = listen().local_addr();
        let error = TcpStream::connect(free).await.expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);

        // A full backlog leaves the handshake unanswered, so the attempt hangs until it is given up.
        let options = ListenOptions { backlog: 0, ..ListenOptions::default() };
        let full = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), options).expect("a port is free");
        let _fills = std::net::TcpStream::connect(full.local_addr()).expect("the first fits");
        let started = Instant::now();
        let hung = TcpStream::connect_within(full.local_addr(), Duration::from_millis(30)).await;
        assert_eq!(hung.expect_err("unanswered").kind(), ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(60), "the kernel's own patience is minutes");
        sleep(Duration::from_millis(5)).await;
    });
    assert_eq!(runtime.workers()[0].stats().connections_open, 0);
}

fn thousand_connections(io: IoMode) {
    let runtime = start(io);
    run_on(&runtime, 0, || async {
        let listener = listen();
        let address = listener.local_addr();
        let server = spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                assert_eq!(stream.peer_addr().ok(), Some(peer));
                spawn(async move {
                    while let Ok(Some(buf)) = stream.recv().await {
                        stream.send(buf);
                    }
                });
            }
        });
        let done = Rc::new(Cell::new(0));
        let streams = Rc::new(RefCell::new(Vec::new()));
        for i in 0..1000u32 {
            let (done, streams) = (done.clone(), streams.clone());
            spawn(async move {
                let stream = TcpStream::connect(address).await.expect("connects");
                for round in 0..3u32 {
                    let sent = [i.to_be_bytes(), round.to_be_bytes()].concat();
                    stream.send(Buf::copy_from(&sent));
                    assert_eq!(recv_exactly(&stream, 8).await.expect("an echo"), sent);
                }
                streams.borrow_mut().push(stream);
                done.set(done.get() + 1);
            });
        }
        while done.get() < 1000 {
            sleep(Duration::from_millis(2)).await;
        }
        streams.borrow_mut().clear();
        while base_runtime::current_worker().expect("on a worker").stats().connections_open > 0 {
            sleep(Duration::from_millis(5)).await;
        }
        server.abort();
    });
    let stats = runtime.workers()[0].stats();
    assert_eq!((stats.connections_open, stats.accepted, stats.connected), (0, 1000, 1000));
    assert_eq!((stats.bytes_in, stats.bytes_out), (48_000, 48_000));
}

fn readable_watches_without_taking(io: IoMode) {
    run(io, || async {
        let (client, server) = pair().await;
        assert!(timeout(Duration::from_millis(10), server.readable()).await.is_err());
        client.send(Buf::copy_from(b"x"));
        server.readable().await;
        server.readable().await;
        assert_eq!(server.peek_state(), StreamState::Data);
        assert_eq!(server.recv_queue_len(), 1);
        assert_eq!(&server.recv().await.expect("receives").expect("not the end")[..], b"x");
        drop(client);
        server.readable().await;
        assert_eq!(server.peek_state(), StreamState::Eof);
    });
}

fn idle_connection_shows_end_and_stray_bytes(io: IoMode) {
    run(io, || async {
        let (closed, closer) = pair().await;
        let (dirty, stray) = pair().await;
        for stream in [&closed, &dirty] {
            assert!(timeout(Duration::from_millis(5), stream.readable()).await.is_err());
            assert!(!stream.is_closed_or_dirty());
        }
        drop(closer);
        stray.send(Buf::copy_from(b"408"));
        sleep(Duration::from_millis(20)).await;
        assert!(closed.is_closed_or_dirty());
        assert!(dirty.is_closed_or_dirty());
    });
}

fn unread_bytes_come_first(io: IoMode) {
    run(io, || async {
        let (client, server) = pair().await;
        client.send(Buf::copy_from(b"head and body"));
        let mut buf = server.recv().await.expect("receives").expect("not the end");
        let body = buf.split_off(9);
        server.unread(body);
        server.unread(buf);
        assert_eq!(recv_exactly(&server, 13).await.expect("both"), b"head and body");
    });
}

fn aborted_stream_reports_it(io: IoMode) {
    run(io, || async {
        let (client, server) = pair().await;
        let reader = client.clone();
        let seen = Rc::new(Cell::new(None));
        let saw = seen.clone();
        spawn(async move { saw.set(Some(reader.recv().await.expect_err("aborted").kind())) });
        sleep(Duration::from_millis(5)).await;
        for _ in 0..200 {
            client.send(Buf::copy_from(&[0; 30_000]));
        }
        client.abort();
        assert_eq!(client.flush().await.expect_err("aborted").kind(), ErrorKind::ConnectionAborted);
        sleep(Duration::from_millis(5)).await;
        assert_eq!(seen.get(), Some(ErrorKind::ConnectionAborted));
        client.send(Buf::copy_from(b"ignored"));
        assert_eq!(client.send_queue_len(), 0);
        assert_eq!(recv_all(&server).await.expect_err("cut off").kind(), ErrorKind::ConnectionReset);
    });
}

fn two_workers(io: IoMode) -> base_runtime::Runtime {
    let mut config = config(io);
    config.workers = Some(2);
    base_runtime::Runtime::start(config).expect("the driver works here")
}

/// Whoever was let in would be reset.
fn who_looks_whether_a_port_is_free_lets_nobody_in(io: IoMode) {
    run(io, || async {
        // Connections come from 127.0.0.1, so that none of them meets itself.
        let address = SocketAddr::from(([127, 0, 0, 2], listen().local_addr().port()));
        let looks = std::thread::spawn(move || {
            for _ in 0..2000 {
                TcpListener::is_free(address).expect("nobody listens");
            }
        });
        while !looks.is_finished() {
            let refused = std::net::TcpStream::connect(address).expect_err("nobody listens");
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        }
        looks.join().expect("no panic");
        let options = ListenOptions { reuse_port: true, ..ListenOptions::default() };
        let _listens = TcpListener::bind(address, options).expect("it is free");
        let taken = TcpListener::is_free(address).expect_err("somebody listens, and would share");
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    });
}

fn accept_on_another_worker_is_refused(io: IoMode) {
    let runtime = two_workers(io);
    let listener = std::sync::Arc::new(listen());
    let first = listener.clone();
    let refused =
        run_on(&runtime, 0, move || async move { timeout(Duration::from_millis(10), first.accept()).await.is_err() });
    assert!(refused, "nobody connects");
    let error =
        run_on(&runtime, 1, move || async move { listener.accept().await.expect_err("active elsewhere").to_string() });
    assert!(error.contains("worker 0"), "{error}");
}

fn connection_moves_to_another_worker(io: IoMode) {
    let runtime = two_workers(io);
    let listener = listen();
    let address = listener.local_addr();
    let client = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(address).expect("connects");
        stream.write_all(b"whom do I talk to?").expect("writes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("reads");
        answer
    });
    let moved = run_on(&runtime, 0, move || async move {
        let (stream, _) = listener.accept().await.expect("accepts");
        stream.into_std().expect("untouched")
    });
    run_on(&runtime, 1, move || async move {
        let stream = TcpStream::from_std(moved).expect("adopted");
        let _question = recv_exactly(&stream, 18).await.expect("the question");
        stream.send(Buf::copy_from(format!("worker {}", base_runtime::worker_index()).as_bytes()));
    });
    assert_eq!(client.join().expect("no panic"), "worker 1");
}

fn connection_is_handed_over(io: IoMode) {
    let runtime = two_workers(io);
    let second = runtime.workers()[1].clone();
    let listener = listen();
    let address = listener.local_addr();
    let clients: Vec<_> = (0..20)
        .map(|i| {
            std::thread::spawn(move || {
                let mut stream = std::net::TcpStream::connect(address).expect("connects");
                stream.write_all(&[i]).expect("writes");
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).expect("reads");
                answer
            })
        })
        .collect();
    let first = runtime.workers()[0].clone();
    run_on(&runtime, 0, move || async move {
        for _ in 0..20 {
            let (stream, _) = listener.accept().await.expect("accepts");
            let handed = stream.hand_over(&second, |stream| async move {
                let question = recv_exactly(&stream, 1).await.expect("the question");
                stream.send(Buf::copy_from(&[question[0], base_runtime::worker_index() as u8]));
            });
            assert!(handed.is_ok(), "untouched");
        }
        assert_eq!((first.stats().connections_open, first.stats().handed_over), (0, 20));
        // One that is in use stays where it is.
        let (client, server) = pair().await;
        client.send(Buf::copy_from(b"x"));
        server.readable().await;
        let (server, _) = server.hand_over(&second, |_| async {}).expect_err("received on");
        assert_eq!(recv_exactly(&server, 1).await.expect("still here"), b"x");
        client.flush().await.expect("sent");
        assert!(client.hand_over(&second, |_| async {}).is_err(), "sent on");
    });
    for (i, client) in clients.into_iter().enumerate() {
        assert_eq!(client.join().expect("no panic"), [i as u8, 1]);
    }
    let (stopped, second) = (two_workers(io), runtime.workers()[1].clone());
    runtime.shutdown();
    run_on(&stopped, 0, move || async move {
        let (client, server) = pair().await;
        assert!(server.hand_over(&second, |_| async { unreachable!("it has stopped") }).is_ok());
        assert_eq!(recv_all(&client).await.expect("an orderly end"), b"");
    });
}

fn listener_dropped_elsewhere_stops_listening(io: IoMode) {
    let runtime = start(io);
    let listener = std::sync::Arc::new(listen());
    let address = listener.local_addr();
    let on_worker = listener.clone();
    run_on(&runtime, 0, move || async move {
        assert!(timeout(Duration::from_millis(10), on_worker.accept()).await.is_err());
    });
    drop(listener);
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::net::TcpStream::connect(address).is_ok() {
        assert!(Instant::now() < deadline, "still listening");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// With the pool's ceiling reached nothing is received, nothing spins, and it goes on when buffers come back.
fn starved_of_buffers_then_fed(io: IoMode) {
    let mut config = config(io);
    (config.buffers_max, config.recv_ring_entries) = (24, 8);
    let runtime = base_runtime::Runtime::start(config).expect("the driver works here");
    let worker = runtime.workers()[0].clone();
    run_on(&runtime, 0, move || async move {
        let (client, server) = pair().await;
        let mut hoard = Vec::new();
        while let Some(buf) = Buf::try_alloc() {
            hoard.push(buf);
            assert!(hoard.len() <= 24);
        }
        let sent = pattern(1 << 20);
        let writer = (client.clone(), sent.clone());
        spawn(async move {
            // `alloc` gives buffers beyond the ceiling.
            send_all(&writer.0, &writer.1).await.expect("sends");
            writer.0.shutdown_write();
        });
        // Taken and kept, these use up what stands in the receive ring.
        let mut received = Vec::new();
        while let Ok(got) = timeout(Duration::from_millis(20), server.recv()).await {
            received.push(got.expect("receives").expect("not the end"));
        }
        let turns = worker.stats().turns;
        sleep(Duration::from_millis(50)).await;
        let turns = worker.stats().turns - turns;
        assert!(turns < 100, "{turns} turns while there was nothing to do");
        hoard.clear();
        let mut all = received.iter().flat_map(|buf| buf.iter().copied()).collect::<Vec<u8>>();
        received.clear();
        all.extend(recv_all(&server).await.expect("receives"));
        assert!(all == sent, "{} bytes arrived changed", all.len());
        assert!(worker.stats().buffers_exhausted > 0);
    });
    assert!(runtime.workers()[0].stats().enobufs > 0);
    runtime.shutdown();
}

fn more_sockets_ready_than_receive_buffers(io: IoMode) {
    let mut config = config(io);
    config.recv_ring_entries = 8;
    let runtime = base_runtime::Runtime::start(config).expect("the driver works here");
    run_on(&runtime, 0, || async {
        let mut pairs = Vec::new();
        for _ in 0..100 {
            pairs.push(pair().await);
        }
        for (_, server) in &pairs {
            assert!(timeout(Duration::from_millis(1), server.readable()).await.is_err());
        }
        for round in 0..5u8 {
            for (client, _) in &pairs {
                client.send(Buf::copy_from(&[round; 1000]));
            }
            for (_, server) in &pairs {
                assert_eq!(recv_exactly(server, 1000).await.expect("receives"), [round; 1000]);
            }
        }
    });
    if io == IoMode::Uring {
        assert!(runtime.workers()[0].stats().enobufs > 0);
    }
}

/// However long the worker was away: what came meanwhile waits with the kernel, and how much of its room that takes is told once.
/// Each piece is received into a buffer of 32 KiB; those that a peer says while the task is busy are one buffer, not one for each.
fn small_pieces_that_wait_share_a_buffer(io: IoMode) {
    const PIECES: usize = 200;
    let runtime = start(io);
    let (listens, address) = oneshot();
    let (go, goes) = oneshot();
    let (reads, read) = oneshot();
    runtime.workers()[0].spawn(move || async move {
        let listener = listen();
        let _ = listens.send(listener.local_addr());
        let (stream, _) = listener.accept().await.expect("accepts");
        recv_exactly(&stream, 1).await.expect("receives");
        let _ = goes.await;
        let _ = reads.send(recv_exactly(&stream, PIECES).await.expect("receives"));
    });
    let mut peer = std::net::TcpStream::connect(address.wait().expect("it listens")).expect("connects");
    peer.set_nodelay(true).expect("a socket");
    let stats = || runtime.workers()[0].stats();
    let all = pattern(PIECES);
    for (n, byte) in [0].iter().chain(&all).enumerate() {
        peer.write_all(&[*byte]).expect("sends");
        let since = Instant::now();
        while stats().bytes_in <= n as u64 {
            assert!(since.elapsed() < Duration::from_secs(60), "{n} bytes were received: {:?}", stats());
            std::thread::yield_now();
        }
    }
    let held = stats().buffers_in_use - stats().buffers_ready;
    // One may be on its way to the ring.
    assert!(held <= 2, "{held} buffers for {PIECES} bytes");
    go.send(()).expect("it waits");
    assert_eq!(read.wait().expect("it reads"), all);
    runtime.shutdown();
}

fn what_waits_for_a_worker_is_seen(io: IoMode) {
    let mut config = config(io);
    config.ring_entries = 16;
    let runtime = base_runtime::Runtime::start(config).expect("the driver works here");
    let worker = runtime.workers()[0].clone();
    run_on(&runtime, 0, move || async move {
        let mut pairs = Vec::new();
        for _ in 0..100 {
            pairs.push(pair().await);
        }
        sleep(Duration::from_millis(20)).await;
        worker.take_fullest_ring();
        // One after another takes no room to speak of.
        pairs[0].0.send(Buf::copy_from(&[7]));
        sleep(Duration::from_millis(20)).await;
        let alone = worker.take_fullest_ring();
        for (client, _) in &pairs[1..] {
            client.send(Buf::copy_from(&[7]));
        }
        for (_, server) in &pairs {
            assert_eq!(recv_exactly(server, 1).await.expect("receives"), [7]);
        }
        let crowd = worker.take_fullest_ring();
        assert!(alone < 0.2 && crowd > 0.2 && crowd <= 1.0, "{alone} and {crowd}");
        assert_eq!(worker.take_fullest_ring(), 0.0, "it was told");
    });
    runtime.shutdown();
}
