//! A seeded storm: clients and servers that send, answer, stall, half-close, reset and vanish at random over real loopback sockets.
//! Every connection checks the bytes it gets; at the end nothing may be left. A failure prints its seed:
//! `WEIR_SIM_SEED=<seed> cargo test -p base-runtime --test stress` runs that storm alone, `WEIR_SIM_ROUNDS` sets how many.

#[macro_use]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use base_runtime::net::{TcpListener, TcpStream};
use base_runtime::time::{sleep, timeout};
use base_runtime::{Buf, Config, IoMode, Runtime, current_worker, spawn, yield_now};
use support::random::{PrintOnPanic, Random, seeds};
use support::*;

on_both_drivers!(storms);

fn storms(io: IoMode) {
    for seed in seeds(8) {
        let guard = PrintOnPanic(format!("the storm that failed: WEIR_SIM_SEED={seed} on {io}"));
        storm(io, seed);
        drop(guard);
    }
}

fn storm(io: IoMode, seed: u64) {
    let mut random = Random(seed);
    // Small rings and pools, so that their ends are reached.
    let config = Config {
        recv_ring_entries: *random.pick(&[8, 16, 128]),
        ring_entries: *random.pick(&[8, 16, 1024]),
        // Both ends hold buffers of the same worker here, so a low ceiling would be a deadlock of the test, not a shortage.
        buffers_max: 8192,
        recv_queue_max: *random.pick(&[1, 4]),
        task_budget: *random.pick(&[1, 7, 256]),
        coalesce: Duration::from_micros(*random.pick(&[0, 200, 5000])),
        linger: Duration::from_millis(200),
        ..config(io)
    };
    let runtime = Runtime::start(config).expect("the driver works here");
    run_on(&runtime, 0, move || async move {
        let listener = listen();
        let address = listener.local_addr();
        let accepting = spawn(serve(listener, random.next()));
        let left = Rc::new(Cell::new(120));
        let mut fate = Random(random.next());
        for _ in 0..left.get() {
            let (left, mut random) = (left.clone(), Random(fate.next()));
            let spent = spawn(async move {
                let _on_drop = OnDrop(Some(move || left.set(left.get() - 1)));
                client(address, &mut random).await;
            });
            if fate.below(12) == 0 {
                spawn(async move {
                    sleep(Duration::from_millis(1 + seed % 5)).await;
                    spent.abort();
                });
            }
        }
        while left.get() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        accepting.abort();
        let started = Instant::now();
        let worker = current_worker().expect("on a worker");
        while worker.stats().connections_open > 0 {
            assert!(started.elapsed() < Duration::from_secs(60), "{:?}", worker.stats());
            sleep(Duration::from_millis(2)).await;
        }
    });
    let worker = runtime.workers()[0].clone();
    runtime.shutdown();
    let stats = worker.stats();
    assert_eq!((stats.panics, stats.tasks, stats.connections_open, stats.buffers_in_use), (0, 0, 0, 0), "{stats:?}");
}

/// Answers each byte with itself, xored; now and then behaves badly.
async fn serve(listener: TcpListener, seed: u64) {
    let mut random = Random(seed);
    loop {
        let (stream, _) = listener.accept().await.expect("accepts");
        let mut random = Random(random.next());
        spawn(async move {
            let manners = random.below(10);
            if random.below(2) == 0 {
                small_buffers(&stream);
            }
            while let Ok(Some(mut buf)) = stream.recv().await {
                match manners {
                    0 if random.below(4) == 0 => return stream.abort(),
                    1 if random.below(4) == 0 => return,
                    2 => sleep(Duration::from_micros(random.below(3000))).await,
                    3 => drop(timeout(Duration::from_millis(1), stream.readable()).await),
                    _ => {}
                }
                buf.iter_mut().for_each(|byte| *byte ^= 0x5a);
                if random.below(8) == 0 && buf.len() > 1 {
                    let tail = buf.split_off(buf.len() / 2);
                    stream.send(buf);
                    stream.send(tail);
                } else {
                    stream.send(buf);
                }
                if stream.send_ready(64 * 1024).await.is_err() {
                    return;
                }
            }
            // A client that half-closed gets the rest; sometimes the end is announced, sometimes just dropped.
            if random.below(2) == 0 {
                stream.shutdown_write();
                let _ = timeout(Duration::from_millis(50), stream.flush()).await;
            }
        });
    }
}

async fn client(address: SocketAddr, random: &mut Random) {
    sleep(Duration::from_micros(random.below(20_000))).await;
    let Ok(Ok(stream)) = timeout(Duration::from_millis(1 + random.below(500)), TcpStream::connect(address)).await
    else {
        return;
    };
    if random.below(2) == 0 {
        small_buffers(&stream);
    }
    let total = match random.below(8) {
        0 => 0,
        1..=5 => random.below(5_000) as usize,
        6 => random.below(200_000) as usize,
        _ => random.below(1_000_000) as usize,
    };
    let sent = pattern(total);
    let expected: Vec<u8> = sent.iter().map(|byte| byte ^ 0x5a).collect();
    let (writer, bytes, mut pace) = (stream.clone(), sent, Random(random.next()));
    let half_closes = random.below(3) > 0;
    let writing = spawn(async move {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let n = rest.len().min(1 + pace.below(40_000) as usize).min(Buf::CAPACITY - Buf::HEADROOM);
            writer.send(Buf::copy_from(&rest[..n]));
            rest = &rest[n..];
            if writer.send_ready(100_000).await.is_err() {
                return;
            }
            if pace.below(20) == 0 {
                yield_now().await;
            }
        }
        if half_closes {
            writer.shutdown_write();
        }
    });
    // Writing on without reading would fill both directions and stand still for good.
    let _stop_writing = OnDrop(Some(move || writing.abort()));
    let stop_after = if random.below(5) == 0 { random.below(1 + total as u64) as usize } else { usize::MAX };
    let mut received = 0;
    while received < total.min(stop_after) {
        match timeout(Duration::from_secs(40), stream.recv()).await.expect("a stalled connection") {
            Ok(Some(buf)) => {
                assert!(received + buf.len() <= total, "{} bytes more than {total}", received + buf.len() - total);
                assert!(
                    buf[..] == expected[received..received + buf.len()],
                    "bytes from {received} of {total} changed"
                );
                received += buf.len();
                match random.below(30) {
                    0 => sleep(Duration::from_micros(random.below(2000))).await,
                    1 => stream.unread(Buf::alloc()),
                    _ => {}
                }
            }
            // Badly mannered servers end early.
            Ok(None) | Err(_) => break,
        }
    }
    assert!(received <= total);
    match random.below(4) {
        0 => stream.abort(),
        2 if half_closes && received == total => {
            let end = timeout(Duration::from_secs(40), stream.recv()).await.expect("a stalled end");
            assert!(!matches!(end, Ok(Some(_))), "bytes beyond the last");
        }
        _ => {}
    }
}

struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|f| f());
    }
}
