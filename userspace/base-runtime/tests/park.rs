//! Connections that change their worker in the middle of what they do, on both drivers and between them.

#[macro_use]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use base_runtime::channel::{OneshotReceiver, OneshotSender, oneshot};
use base_runtime::net::park::{Direction, Parked};
use base_runtime::net::{TcpListener, TcpStream};
use base_runtime::time::{sleep, timeout};
use base_runtime::{Buf, Config, IoMode, Runtime, Worker, current_worker, spawn, yield_now};
use support::random::{PrintOnPanic, Random, seeds};
use support::*;

on_both_drivers!(
    what_was_received_and_what_is_queued_comes_along,
    a_full_socket_is_parked_with_the_rest_of_its_sends,
    half_closed_in_either_direction_it_stays_half_closed,
    a_reset_comes_along_or_is_met_again,
    what_cannot_be_parked_comes_back,
    parking_given_up_in_the_middle_sends_what_is_queued,
    the_pieces_make_a_connection_again,
    a_stopped_worker_closes_what_it_is_given,
    walks_lose_and_repeat_nothing,
);

fn walks_lose_and_repeat_nothing(io: IoMode) {
    walks(&[io, io], 3);
}

#[test]
fn walks_between_the_drivers_lose_and_repeat_nothing() {
    walks(&[IoMode::Uring, IoMode::Epoll], 3);
}

fn stats() -> base_runtime::WorkerStats {
    current_worker().expect("on a worker").stats()
}

async fn park(stream: TcpStream) -> Parked {
    timeout(Duration::from_secs(60), stream.park()).await.expect("in time").expect("nothing is against it")
}

/// Waits until so many bytes are queued to be read.
async fn until_received(stream: &TcpStream, bytes: usize) {
    stream.readable().await;
    while stream.recv_queue_len() < bytes {
        sleep(Duration::from_millis(1)).await;
    }
}

fn what_was_received_and_what_is_queued_comes_along(io: IoMode) {
    run(io, || async {
        let (client, server) = pair().await;
        client.send(Buf::copy_from(b"first"));
        until_received(&server, 5).await;
        server.send(Buf::copy_from(b"answer"));
        let open = stats().connections_open;
        let parked = park(server).await;
        assert_eq!(stats().connections_open, open - 1);
        assert_eq!((&parked.parts().received[..], &parked.parts().unsent[..]), (&b"first"[..], &b"answer"[..]));
        // While nobody has it, the peer goes on.
        client.send(Buf::copy_from(b" second"));
        client.flush().await.expect("sends");
        let server = parked.unpark().expect("joins");
        assert_eq!(server.try_recv().expect("it came along")[..], *b"first");
        assert_eq!(server.recv().await.expect("no error").expect("not the end")[..], *b" second");
        assert_eq!(recv_exactly(&client, 6).await.expect("it was sent"), b"answer");
        server.flush().await.expect("sends");
        assert_eq!(server.bytes_sent(), 6);
        // Again and again, idle or not.
        let mut server = server;
        for _ in 0..20 {
            server = park(server).await.unpark().expect("joins");
            client.send(Buf::copy_from(b"x"));
            assert_eq!(server.recv().await.expect("no error").expect("not the end")[..], *b"x");
        }
        assert_eq!((stats().parked, stats().connections_open), (21, open));
    });
}

fn a_full_socket_is_parked_with_the_rest_of_its_sends(io: IoMode) {
    run(io, || async {
        let (client, server) = pair().await;
        small_buffers(&server);
        let sent = pattern(3_000_000);
        sent.chunks(30_000).for_each(|bytes| server.send(Buf::copy_from(bytes)));
        // The kernel takes a part; the send for the rest waits in it.
        sleep(Duration::from_millis(5)).await;
        let parked = park(server).await;
        let (taken, left) = (parked.parts().bytes_sent as usize, parked.parts().unsent.len());
        assert_eq!(taken + left, sent.len());
        assert!(taken > 0 && left > 0, "{taken} and {left}");
        let reader = spawn_reader(client);
        let server = parked.unpark().expect("joins");
        server.flush().await.expect("sends");
        server.shutdown_write();
        assert_eq!(server.bytes_sent() as usize, sent.len());
        assert!(reader.await.expect("it ends") == sent, "other bytes than were sent");
    });
}

fn spawn_reader(stream: TcpStream) -> OneshotReceiver<Vec<u8>> {
    let (sender, receiver) = oneshot();
    spawn(async move {
        let _ = sender.send(recv_all(&stream).await.expect("no error"));
    });
    receiver
}

fn half_closed_in_either_direction_it_stays_half_closed(io: IoMode) {
    run(io, || async {
        // The peer has finished, seen before it is parked or not.
        for seen in [true, false] {
            let (client, server) = pair().await;
            client.send(Buf::copy_from(b"all"));
            client.shutdown_write();
            client.flush().await.expect("sends");
            if seen {
                until_received(&server, 3).await;
                sleep(Duration::from_millis(3)).await;
            }
            let parked = park(server).await;
            if seen {
                assert_eq!(parked.parts().receiving, Direction::Ended);
            }
            let server = parked.unpark().expect("joins");
            assert_eq!(recv_all(&server).await.expect("no error"), b"all");
            server.send(Buf::copy_from(b"back"));
            server.shutdown_write();
            assert_eq!(recv_all(&client).await.expect("no error"), b"back");
        }
        // This side has finished, with bytes that wait for room or without.
        for queued in [0, 5, 2_000_000] {
            let (client, server) = pair().await;
            small_buffers(&server);
            let sent = pattern(queued);
            sent.chunks(30_000).for_each(|bytes| server.send(Buf::copy_from(bytes)));
            server.shutdown_write();
            let parked = park(server).await;
            assert_eq!(parked.parts().sending, Direction::Ended);
            let reader = spawn_reader(client.clone());
            let server = parked.unpark().expect("joins");
            assert!(reader.await.expect("it ends") == sent);
            server.send(Buf::copy_from(b"too late"));
            assert_eq!(server.send_queue_len(), 0, "nothing is sent after the end");
            client.send(Buf::copy_from(b"but heard"));
            client.shutdown_write();
            assert_eq!(recv_all(&server).await.expect("no error"), b"but heard");
        }
    });
}

fn a_reset_comes_along_or_is_met_again(io: IoMode) {
    run(io, || async {
        for seen in [true, false] {
            let (client, server) = pair().await;
            if seen {
                let peer = server.clone();
                spawn(async move { peer.readable().await }).detach();
                yield_now().await;
                client.abort();
                while server.peek_state() == base_runtime::net::StreamState::Open {
                    sleep(Duration::from_millis(1)).await;
                }
                yield_now().await;
            } else {
                client.abort();
            }
            let parked = park(server).await;
            if seen {
                assert_eq!(parked.parts().receiving, Direction::Broken(libc::ECONNRESET));
            }
            let server = parked.unpark().expect("joins");
            let error = timeout(Duration::from_secs(60), server.recv()).await.expect("in time").expect_err("a reset");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    });
}

fn what_cannot_be_parked_comes_back(io: IoMode) {
    run(io, || async {
        let (client, server) = pair().await;
        let second = server.clone();
        let refused = server.park().await.expect_err("two handles");
        assert!(refused.to_string().contains("other handles"), "{refused}");
        drop(second);
        let server = park(refused.stream).await.unpark().expect("joins");
        server.send(Buf::copy_from(b"still here"));
        assert_eq!(recv_exactly(&client, 10).await.expect("it was sent"), b"still here");
        server.abort();
        assert!(server.park().await.expect_err("closed").to_string().contains("closed"));
    });
}

fn parking_given_up_in_the_middle_sends_what_is_queued(io: IoMode) {
    run(io, move || async move {
        for polls in [0, 1] {
            let (client, server) = pair().await;
            small_buffers(&server);
            let sent = pattern(600_000);
            sent.chunks(30_000).for_each(|bytes| server.send(Buf::copy_from(bytes)));
            sleep(Duration::from_millis(2)).await;
            let mut parking = Box::pin(server.park());
            if polls > 0 {
                std::future::poll_fn(|task| {
                    // On epoll it is done at once, and dropping what was parked closes it.
                    let _ = parking.as_mut().poll(task);
                    std::task::Poll::Ready(())
                })
                .await;
            }
            let done_at_once = polls > 0 && io == IoMode::Epoll;
            drop(parking);
            let received = recv_all(&client).await.unwrap_or_default();
            assert!(received == sent || (done_at_once && sent.starts_with(&received)), "{} bytes", received.len());
        }
        while stats().connections_open > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    });
}

fn the_pieces_make_a_connection_again(io: IoMode) {
    run(io, || async {
        let (client, server) = pair().await;
        client.send(Buf::copy_from(b"hello"));
        until_received(&server, 5).await;
        let mut parts = park(server).await.into_parts();
        // As after a way through another process: another number, the same connection.
        parts.fd = parts.fd.try_clone().expect("a descriptor is free");
        let server = Parked::from_parts(parts).unpark().expect("joins");
        assert_eq!(recv_exactly(&server, 5).await.expect("it came along"), b"hello");
        server.send(Buf::copy_from(b"hello yourself"));
        assert_eq!(recv_exactly(&client, 14).await.expect("it was sent"), b"hello yourself");
    });
}

fn a_stopped_worker_closes_what_it_is_given(io: IoMode) {
    let (here, other) = (start(io), start(io));
    let stopped = other.workers()[0].clone();
    other.shutdown();
    run_on(&here, 0, move || async move {
        let (client, server) = pair().await;
        client.send(Buf::copy_from(b"hello"));
        until_received(&server, 5).await;
        park(server).await.hand_over(&stopped, |_| async { panic!("nobody is there to serve") });
        let end = timeout(Duration::from_secs(60), client.recv()).await.expect("in time");
        assert!(matches!(end, Ok(None) | Err(_)), "closed");
    });
}

/// Both ends of connections walk over the workers of several runtimes while they exchange bytes.
fn walks(drivers: &[IoMode], rounds: u64) {
    for seed in seeds(rounds) {
        let guard = PrintOnPanic(format!("the walks that failed: WEIR_SIM_SEED={seed} over {drivers:?}"));
        let mut random = Random(seed);
        let runtimes: Vec<Runtime> = drivers
            .iter()
            .map(|&io| {
                let drawn = Config {
                    workers: Some(1 + random.below(2) as usize),
                    ring_entries: *random.pick(&[8, 16, 1024]),
                    recv_ring_entries: *random.pick(&[8, 64]),
                    recv_queue_max: *random.pick(&[1, 2, 4]),
                    task_budget: *random.pick(&[1, 256]),
                    ..config(io)
                };
                Runtime::start(drawn).expect("the driver works here")
            })
            .collect();
        let workers: Vec<Worker> = runtimes.iter().flat_map(|runtime| runtime.workers().iter().cloned()).collect();
        let ends: Vec<_> = (0..WALKS)
            .flat_map(|_| {
                let listener = listen();
                let address = listener.local_addr();
                let (a, b) = (random.next(), random.next());
                let way = |mine, theirs, random: &mut Random| {
                    let (done, ended) = oneshot();
                    let walk = Walk {
                        mine: Part::draw(mine),
                        theirs: Part::draw(theirs),
                        workers: workers.clone(),
                        pace: Random(random.next()),
                        said: 0,
                        heard: 0,
                        ended: false,
                        hops: 0,
                        done,
                    };
                    (walk, ended)
                };
                let ((there, there_ended), (here, here_ended)) = (way(a, b, &mut random), way(b, a, &mut random));
                let [first, second] = [random.pick(&workers).clone(), random.pick(&workers).clone()];
                first.spawn(move || accept(listener, there));
                second.spawn(move || connect(address, here));
                [there_ended, here_ended]
            })
            .collect();
        let hops: usize = ends.into_iter().map(|end| end.wait().expect("the walk neither panicked nor was lost")).sum();
        assert!(hops > 2 * WALKS, "{hops} hops are hardly a walk");
        let open = || workers.iter().map(|worker| worker.stats().connections_open).sum::<u64>();
        let started = Instant::now();
        while open() > 0 {
            assert!(started.elapsed() < PATIENCE, "{} left open", open());
            std::thread::sleep(Duration::from_millis(2));
        }
        assert!(workers.iter().map(|worker| worker.stats().parked).sum::<u64>() as usize >= hops);
        runtimes.into_iter().for_each(Runtime::shutdown);
        for worker in workers {
            let stats = worker.stats();
            assert_eq!((stats.panics, stats.tasks, stats.buffers_in_use), (0, 0, 0), "{stats:?}");
        }
        drop(guard);
    }
}

const WALKS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(40);

/// What one end says.
#[derive(Clone, Copy)]
struct Part {
    seed: u64,
    total: usize,
    /// Bytes it lets wait before it goes on.
    high_water: usize,
    small_buffers: bool,
}

impl Part {
    fn draw(seed: u64) -> Part {
        let mut random = Random(seed);
        let total = *random.pick(&[0, 1, 5_000, 300_000, 2_000_000]);
        let total = random.below(total + 1) as usize;
        Part { seed, total, high_water: *random.pick(&[0, 40_000, 300_000]), small_buffers: random.below(2) == 0 }
    }

    fn byte(&self, at: usize) -> u8 {
        ((at as u64 ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
    }
}

/// One end on its way.
struct Walk {
    mine: Part,
    theirs: Part,
    workers: Vec<Worker>,
    pace: Random,
    said: usize,
    heard: usize,
    ended: bool,
    hops: usize,
    done: OneshotSender<usize>,
}

async fn accept(listener: TcpListener, walk: Walk) {
    let (stream, _) = listener.accept().await.expect("accepts");
    begin(stream, walk).await;
}

async fn connect(address: SocketAddr, walk: Walk) {
    begin(TcpStream::connect(address).await.expect("connects"), walk).await;
}

async fn begin(stream: TcpStream, walk: Walk) {
    if walk.mine.small_buffers {
        small_buffers(&stream);
    }
    go_on(stream, walk).await;
}

async fn go_on(stream: TcpStream, mut walk: Walk) {
    let mut their_end = false;
    let descriptor = stream.as_raw_fd();
    loop {
        if walk.said < walk.mine.total && stream.send_queue_len() <= walk.mine.high_water {
            let n = (walk.mine.total - walk.said).min(1 + walk.pace.below(31_000) as usize);
            let bytes: Vec<u8> = (walk.said..walk.said + n).map(|at| walk.mine.byte(at)).collect();
            stream.send(Buf::copy_from(&bytes));
            walk.said += n;
        }
        if walk.said == walk.mine.total && !walk.ended {
            walk.ended = true;
            stream.shutdown_write();
        }
        let patience = Duration::from_micros(if walk.ended { 2000 } else { walk.pace.below(200) });
        // The end is there again at once, and would leave no turn to anybody.
        let next = async {
            if their_end {
                sleep(PATIENCE).await;
            }
            stream.recv().await
        };
        match timeout(patience, next).await {
            Ok(Ok(Some(buf))) => {
                let right = buf.iter().enumerate().all(|(i, byte)| *byte == walk.theirs.byte(walk.heard + i));
                assert!(right, "bytes from {} of {} changed, after {} hops", walk.heard, walk.theirs.total, walk.hops);
                walk.heard += buf.len();
                assert!(walk.heard <= walk.theirs.total, "more than was sent");
            }
            Ok(Ok(None)) => {
                assert_eq!(walk.heard, walk.theirs.total, "the end came early, after {} hops", walk.hops);
                their_end = true;
            }
            Ok(Err(error)) => panic!("{error} after {} and {} bytes and {} hops", walk.said, walk.heard, walk.hops),
            Err(_) => {}
        }
        if their_end && walk.ended && stream.send_queue_len() == 0 {
            assert_eq!(stream.bytes_sent() as usize, walk.mine.total);
            let _ = walk.done.send(walk.hops);
            return;
        }
        if walk.pace.below(if walk.hops < 3 { 2 } else { 12 }) == 0 && walk.hops < 60 {
            let parked = park(stream).await;
            assert_eq!(parked.parts().fd.as_raw_fd(), descriptor);
            walk.hops += 1;
            if walk.pace.below(4) == 0 {
                sleep(Duration::from_micros(walk.pace.below(3000))).await;
            }
            let next = walk.pace.clone().pick(&walk.workers).clone();
            walk.pace.next();
            parked.hand_over(&next, move |stream| go_on(stream, walk));
            return;
        }
    }
}
