//! TLS connections that change their worker between, and within, records.

#[macro_use]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use std::time::Duration;

use base_runtime::time::{sleep, timeout};
use base_runtime::{Buf, Config, IoMode, Runtime, Worker, spawn};
use base_tls::{ParkedTransport, Transport};
use support::random::{PrintOnPanic, Random, seeds};
use support::*;

on_both_drivers!(
    an_echo_walks_over_the_workers,
    half_a_record_and_what_is_behind_it_come_along,
    another_handle_keeps_it_where_it_is,
);

/// What is parked may go to another thread.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<ParkedTransport>();
};

async fn park(stream: Transport) -> ParkedTransport {
    timeout(Duration::from_secs(60), stream.park()).await.expect("in time").expect("nothing is against it")
}

fn an_echo_walks_over_the_workers(io: IoMode) {
    for seed in seeds(4) {
        let guard = PrintOnPanic(format!("the walk that failed: WEIR_SIM_SEED={seed} on {io}"));
        let start = |workers| Runtime::start(Config { workers: Some(workers), ..config(io) }).expect("it works here");
        let (here, there) = (start(1), start(2));
        let workers: Vec<Worker> = there.workers().to_vec();
        run_on(&here, 0, move || async move {
            let authority = Authority::new("test");
            let server = server(vec![authority.sign(&["localhost"]).read()]);
            let (client, server) = tls_pair(&client(&authority), &server).await;
            small_buffers(server.socket());
            let walk = Walk { workers: workers.clone(), random: Random(seed), hops: 0 };
            spawn(echo(server, walk));
            let sent = pattern(1_500_000 + seed as usize * 1001);
            let writer = (client.clone(), sent.clone(), Random(seed ^ 7));
            spawn(async move {
                let (stream, bytes, mut random) = writer;
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let n = rest.len().min(1 + random.below(*random.clone().pick(&[50, 3_000, 31_000])) as usize);
                    stream.send(Buf::copy_from(&rest[..n]));
                    rest = &rest[n..];
                    stream.send_ready(100_000).await.expect("sends");
                    if random.below(30) == 0 {
                        sleep(Duration::from_micros(random.below(500))).await;
                    }
                }
                stream.shutdown_write();
            });
            let back = recv_all(&client).await.expect("receives");
            assert!(back == sent, "{} bytes came back changed ({} bytes)", sent.len(), back.len());
        });
        let parked: u64 = here.workers().iter().chain(there.workers()).map(|worker| worker.stats().parked).sum();
        assert!(parked > 10, "{parked} hops are hardly a walk");
        drop(guard);
    }
}

struct Walk {
    workers: Vec<Worker>,
    random: Random,
    hops: usize,
}

/// Sends back what comes, and goes to another worker now and then.
async fn echo(stream: Transport, mut walk: Walk) {
    loop {
        match stream.recv().await.expect("no error") {
            Some(mut buf) => {
                if buf.len() > 1 && walk.random.below(3) == 0 {
                    let tail = buf.split_off(buf.len() / 2);
                    stream.unread(tail);
                }
                stream.send(buf);
            }
            None => {
                stream.shutdown_write();
                return;
            }
        }
        if walk.random.below(3) == 0 {
            stream.send_ready(150_000).await.expect("sends");
        }
        if walk.random.below(4) == 0 && walk.hops < 100 {
            walk.hops += 1;
            let parked = park(stream).await;
            let next = walk.random.clone().pick(&walk.workers).clone();
            walk.random.next();
            next.spawn(move || async move { echo_on(parked, walk) });
            return;
        }
    }
}

fn echo_on(parked: ParkedTransport, walk: Walk) {
    spawn(echo(parked.unpark().expect("joins"), walk));
}

fn half_a_record_and_what_is_behind_it_come_along(io: IoMode) {
    run(io, || async {
        let authority = Authority::new("test");
        let server = server(vec![authority.sign(&["localhost"]).read()]);
        let client = client(&authority);
        // The record's beginning is kept in memory of its own size, or in a buffer.
        for record in [300, 9_000, 16_000] {
            let (client, server, relay) = relayed_pair(&client, &server).await;
            server.send(Buf::copy_from(b"before"));
            client.send(Buf::copy_from(&pattern(record)));
            client.send(Buf::copy_from(b"after"));
            relay.send_half(record).await;
            // What is there of the record has been taken in, and is no data yet.
            let waits = timeout(Duration::from_millis(20), server.readable()).await;
            assert!(waits.is_err(), "half a record is no data");
            let session = server.session().expect("TLS").cipher;
            let parked = park(server).await;
            relay.send_rest().await;
            let server = parked.unpark().expect("joins");
            assert_eq!(server.session().expect("TLS").cipher, session);
            assert!(recv_exactly(&server, record).await.expect("no error") == pattern(record));
            assert_eq!(recv_exactly(&server, 5).await.expect("no error"), b"after");
            assert_eq!(server.bytes_said(), 6);
        }
    });
}

/// A client and a server with somebody between them who holds back what the client says.
async fn relayed_pair(client: &base_tls::ClientTls, server: &base_tls::ServerTls) -> (Transport, Transport, Relay) {
    let ((a, to_a), (to_b, b)) = (pair().await, pair().await);
    let (sender, receiver) = base_runtime::channel::local_oneshot();
    let accepting = server.clone();
    spawn(async move {
        let _ = sender.send(accepting.accept(b, LIMIT).await.expect("accepts"));
    });
    let (from, to) = (to_b.clone(), to_a.clone());
    spawn(async move {
        while let Ok(Some(buf)) = from.recv().await {
            to.send(buf);
        }
    });
    let (from, to) = (to_a.clone(), to_b.clone());
    let shaking = spawn(async move {
        while let Ok(Some(buf)) = from.recv().await {
            to.send(buf);
        }
    });
    let client = client.connect(a, "localhost", LIMIT).await.expect("connects");
    let server = receiver.await.expect("accepted");
    // The last words of the handshake have passed.
    sleep(Duration::from_millis(5)).await;
    shaking.abort();
    (client, server, Relay { from: to_a, to: to_b })
}

struct Relay {
    from: base_runtime::net::TcpStream,
    to: base_runtime::net::TcpStream,
}

impl Relay {
    async fn send_half(&self, bytes: usize) {
        let mut passed = 0;
        while passed < bytes / 2 {
            let mut buf = self.from.recv().await.expect("no error").expect("not the end");
            let wanted = (bytes / 2 - passed).min(buf.len());
            let tail = buf.split_off(wanted);
            self.from.unread(tail);
            passed += wanted;
            self.to.send(buf);
        }
        self.to.flush().await.expect("sends");
    }

    async fn send_rest(&self) {
        sleep(Duration::from_millis(2)).await;
        while let Some(buf) = self.from.try_recv() {
            self.to.send(buf);
        }
        self.to.flush().await.expect("sends");
    }
}

fn another_handle_keeps_it_where_it_is(io: IoMode) {
    run(io, || async {
        let authority = Authority::new("test");
        let server = server(vec![authority.sign(&["localhost"]).read()]);
        let (client, server) = tls_pair(&client(&authority), &server).await;
        let second = server.clone();
        let refused = server.park().await.expect_err("two handles");
        assert!(refused.to_string().contains("other handles"), "{refused}");
        drop(second);
        let below = refused.stream.socket().clone();
        let refused = refused.stream.park().await.expect_err("a handle of the socket");
        drop(below);
        let parked = park(refused.stream).await;
        // Nothing was said meanwhile that would end it.
        client.send(Buf::copy_from(b"still there?"));
        let server = parked.unpark().expect("joins");
        assert_eq!(recv_exactly(&server, 12).await.expect("no error"), b"still there?");
        // And the last handle still says how it ends.
        drop(server);
        assert_eq!(recv_all(&client).await.expect("close_notify"), b"");
    });
}
